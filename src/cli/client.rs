//! The client of the REST API that all commands share: where the appliance is, with which key, and what its answers mean.
//!
//! Which appliance: `--url` (with `--key` or `--key-file`), else `--context`, else the current context, else the socket
//! `admin.sock` in the data directory of an appliance on this machine, which needs no key. A problem that the appliance answers
//! becomes a [`Refusal`], which prints everything that is wrong, each with its place; what did not arrive says where to
//! look.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::contexts::{self, Contexts, Target};

/// How long an answer may take to begin. Streams are not bound by it.
const ANSWER: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(10);
/// The longest answer that is read whole.
const MOST: usize = 256 << 20;
/// The socket in a data directory.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// Which appliance is meant.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Which appliance")]
pub struct Which {
    /// Where its API is, such as http://127.0.0.1:8025.
    #[arg(long, env = "BRIDGEHEAD_URL", global = true)]
    pub url: Option<String>,
    /// The API key; rather in the environment or a file than on a command line that others can see.
    #[arg(long, env = "BRIDGEHEAD_KEY", hide_env_values = true, global = true)]
    pub key: Option<String>,
    /// A file that holds the API key.
    #[arg(long, env = "BRIDGEHEAD_KEY_FILE", global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Certificates (PEM) that are trusted beside the system's.
    #[arg(long, env = "BRIDGEHEAD_CA", global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A context of `bridgehead context`.
    #[arg(long, env = "BRIDGEHEAD_CONTEXT", global = true, conflicts_with = "url")]
    pub context: Option<String>,
    /// The data directory of an appliance on this machine, which is asked through its socket, without a key.
    // an id of its own: that of `serve`, which has a default, would come down to here
    #[arg(id = "beside", long = "data-dir", env = "BRIDGEHEAD_DATA_DIR", global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// A client of one appliance.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
    /// How a person calls it.
    place: String,
}

/// What is sent with a request.
pub enum Body {
    /// Nothing.
    None,
    /// JSON.
    Json(Value),
    /// Something else, with its type.
    Typed(&'static str, reqwest::Body),
}

/// What the appliance refused, in all its parts.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// In words.
    #[serde(default)]
    pub title: String,
    /// What is wrong with this request.
    #[serde(default)]
    pub detail: String,
    /// Names it in the appliance's log.
    #[serde(default)]
    pub request_id: String,
    /// Everything that is wrong.
    #[serde(default)]
    pub errors: Vec<Wrong>,
    /// The file that the request was read from.
    #[serde(skip)]
    pub file: Option<String>,
}

/// One thing that is wrong.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wrong {
    /// The object, when it is another one.
    pub object: Option<String>,
    /// Where in the body.
    pub pointer: Option<String>,
    /// The query parameter.
    pub parameter: Option<String>,
    /// The line in the document.
    pub line: Option<u64>,
    /// The column.
    pub column: Option<u64>,
    /// For programs.
    #[serde(default)]
    pub code: String,
    /// In words.
    #[serde(default)]
    pub detail: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = if self.detail.is_empty() { &self.title } else { &self.detail };
        write!(f, "{words}")?;
        for wrong in &self.errors {
            write!(f, "\n  {}", Placed(wrong, self.file.as_deref()))?;
        }
        if self.status >= 500 && !self.request_id.is_empty() {
            write!(f, "\n  its log has more under the request {}", self.request_id)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// A thing that is wrong, behind its file and line.
struct Placed<'a>(&'a Wrong, Option<&'a str>);

impl fmt::Display for Placed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Placed(wrong, file) = self;
        match (file, wrong.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}:{}: ", wrong.column.unwrap_or(1))?,
            (Some(file), None) => write!(f, "{file}: ")?,
            (None, Some(line)) => write!(f, "line {line}: ")?,
            (None, None) => {}
        }
        if let Some(object) = &wrong.object {
            write!(f, "{object} ")?;
        }
        if let Some(pointer) = wrong.pointer.as_deref().filter(|pointer| !pointer.is_empty()) {
            write!(f, "{pointer}: ")?;
        }
        if let Some(parameter) = &wrong.parameter {
            write!(f, "{parameter}: ")?;
        }
        write!(f, "{}", wrong.detail)?;
        if wrong.code.is_empty() { Ok(()) } else { write!(f, " ({})", wrong.code) }
    }
}

impl Client {
    /// The client of the appliance that is meant.
    ///
    /// # Errors
    /// When it cannot be told which that is, or its key or certificates cannot be read.
    pub fn of(which: &Which) -> anyhow::Result<Self> {
        if let Some(url) = &which.url {
            let target = Target {
                url: url.clone(),
                key: which.key.clone(),
                key_file: which.key_file.clone(),
                ca: which.ca.clone(),
            };
            return Client::to(target);
        }
        let all = match contexts::path() {
            Ok(path) => Contexts::read(&path)?,
            // who has no home, as in a container, has no contexts
            Err(_) if which.context.is_none() => Contexts::default(),
            Err(error) => return Err(error),
        };
        let named = which.context.as_ref().or(all.current.as_ref().filter(|_| which.data_dir.is_none()));
        if let Some(name) = named {
            let target = all.contexts.get(name);
            let mut target = target.cloned().with_context(|| format!("there is no context {name}"))?;
            if which.key.is_some() || which.key_file.is_some() {
                (target.key, target.key_file) = (which.key.clone(), which.key_file.clone());
            }
            return Client::to(target);
        }
        let dir = which.data_dir.clone().unwrap_or_else(|| PathBuf::from("./data"));
        Client::beside(&dir)
    }

    fn to(target: Target) -> anyhow::Result<Self> {
        let url = reqwest::Url::parse(&target.url).with_context(|| format!("{:?} is no URL", target.url))?;
        if !matches!(url.scheme(), "http" | "https") {
            bail!("{:?} is no URL of an API: it begins with http:// or https://", target.url);
        }
        let mut builder = reqwest::Client::builder();
        if let Some(file) = &target.ca {
            let pem = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem);
            let certificates = certificates.with_context(|| format!("{} holds no certificates", file.display()))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let key = match (target.key, target.key_file) {
            (Some(key), _) => Some(key),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(&file);
                Some(text.with_context(|| format!("the key in {} cannot be read", file.display()))?.trim().to_owned())
            }
            (None, None) => None,
        };
        Client::new(builder, target.url.trim_end_matches('/').to_owned(), key, target.url)
    }

    /// The client of the appliance whose data lie here.
    ///
    /// # Errors
    /// When none runs there.
    pub fn beside(data_dir: &Path) -> anyhow::Result<Self> {
        let socket = data_dir.join(ADMIN_SOCKET);
        if !socket.exists() {
            bail!(
                "which appliance? There is no {} here; name one with --url and --key, with `bridgehead context set`, or with \
                 --data-dir DIR the data directory of one that runs on this machine",
                socket.display()
            );
        }
        let place = socket.display().to_string();
        Client::new(reqwest::Client::builder().unix_socket(socket), "http://localhost".to_owned(), None, place)
    }

    fn new(builder: reqwest::ClientBuilder, base: String, key: Option<String>, place: String) -> anyhow::Result<Self> {
        let http = builder
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .user_agent(concat!("bridgehead/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("the client cannot be set up")?;
        Ok(Client { http, base, key, place })
    }

    /// Asks, and returns the answer when it is a good one; its body has not been read.
    ///
    /// # Errors
    /// A [`Refusal`], or that no answer came.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Body,
    ) -> anyhow::Result<reqwest::Response> {
        self.ask_as(method, path, query, body, "application/json").await
    }

    /// The same, for an answer of another type.
    ///
    /// # Errors
    /// See [`Client::ask`].
    pub async fn ask_as(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Body,
        accept: &str,
    ) -> anyhow::Result<reqwest::Response> {
        self.send(method, path, query, body, accept, None).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Body,
        accept: &str,
        header: Option<(&'static str, &str)>,
    ) -> anyhow::Result<reqwest::Response> {
        let url = reqwest::Url::parse_with_params(&format!("{}{path}", self.base), query.iter().map(|(k, v)| (k, v)));
        let url = url.with_context(|| format!("{path} makes no URL"))?;
        let mut request = self.http.request(method, url).header(ACCEPT, accept);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        request = match body {
            Body::None => request,
            Body::Json(value) => request.header(CONTENT_TYPE, "application/json").body(value.to_string()),
            Body::Typed(of, body) => request.header(CONTENT_TYPE, of).body(body),
        };
        let answer = tokio::time::timeout(ANSWER, request.send()).await;
        let answer = answer.with_context(|| format!("{} does not answer", self.place))?;
        let answer = answer.map_err(|error| {
            let why = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            anyhow::anyhow!(
                "{} cannot be reached: {}",
                self.place,
                why.last().map(ToString::to_string).unwrap_or_default()
            )
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(refusal(answer).await)
    }

    /// Asks for JSON.
    ///
    /// # Errors
    /// See [`Client::ask`].
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Body,
    ) -> anyhow::Result<Value> {
        let answer = self.ask(method, path, query, body).await?;
        let bytes = whole(answer).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).context("the answer is no JSON; is there a Bridgehead under this URL?")
    }

    /// Hands a message in. The key makes it safe to do it again.
    ///
    /// # Errors
    /// See [`Client::ask`].
    pub async fn submit(
        &self,
        path: &str,
        query: &[(&str, String)],
        body: Body,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<Value> {
        let header = idempotency_key.map(|key| ("idempotency-key", key));
        let answer = self.send(Method::POST, path, query, body, "application/json", header).await?;
        serde_json::from_slice(&whole(answer).await?).context("the answer is no JSON")
    }

    /// Opens a stream of events, behind the one that is named.
    ///
    /// # Errors
    /// See [`Client::ask`].
    pub async fn events(
        &self,
        path: &str,
        query: &[(&str, String)],
        after: Option<&str>,
    ) -> anyhow::Result<reqwest::Response> {
        let header = after.map(|id| ("last-event-id", id));
        self.send(Method::GET, path, query, Body::None, "text/event-stream", header).await
    }

    /// Gets JSON.
    ///
    /// # Errors
    /// See [`Client::ask`].
    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
        self.json(Method::GET, path, query, Body::None).await
    }

    /// Gets a listing, page by page, at most `most` items.
    ///
    /// # Errors
    /// See [`Client::ask`].
    pub async fn list(&self, path: &str, query: &[(&str, String)], most: usize) -> anyhow::Result<Listing> {
        let mut found = Listing { items: Vec::new(), more: false };
        let mut cursor: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.push(("limit", most.saturating_sub(found.items.len()).clamp(1, 1_000).to_string()));
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let mut page = self.get(path, &query).await?;
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                found.items.extend(items);
            }
            cursor = page.get("nextCursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() || found.items.len() >= most {
                found.more = cursor.is_some();
                return Ok(found);
            }
        }
    }
}

/// Items of a listing.
#[derive(Debug)]
pub struct Listing {
    /// Those that were asked for.
    pub items: Vec<Value>,
    /// There are more.
    pub more: bool,
}

/// The whole body of an answer, within reason.
async fn whole(mut answer: reqwest::Response) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.context("the answer was cut")? {
        if bytes.len() + chunk.len() > MOST {
            bail!("the answer is larger than {MOST} octets");
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn refusal(answer: reqwest::Response) -> anyhow::Error {
    let status = answer.status();
    let read = whole(answer).await.ok().and_then(|bytes| serde_json::from_slice::<Refusal>(&bytes).ok());
    let mut refusal = read.unwrap_or_else(|| Refusal {
        status: status.as_u16(),
        title: format!("the answer was {status}"),
        detail: String::new(),
        request_id: String::new(),
        errors: Vec::new(),
        file: None,
    });
    if status == StatusCode::UNAUTHORIZED {
        refusal.detail.push_str(". On the command line: --key-file FILE, BRIDGEHEAD_KEY, or a context");
    }
    anyhow::Error::new(refusal)
}

/// A part of a path, escaped.
pub fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'@' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    // a dot alone is a step in the path
    if out == "." || out == ".." { out.replace('.', "%2E") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_shows_everything_with_its_place() {
        let text = r#"{"type": "urn:bridgehead:problem:invalid", "status": 422, "title": "t", "detail": "2 violations; nothing was changed",
            "requestId": "r", "errors": [
              {"pointer": "/connectors/a/route", "line": 7, "column": 3, "code": "required", "detail": "missing"},
              {"object": "accounts/b", "pointer": "/spec/x", "code": "unknownField", "detail": "no such field"}]}"#;
        let mut refusal: Refusal = serde_json::from_str(text).unwrap();
        refusal.file = Some("relay.yaml".into());
        assert_eq!(
            refusal.to_string(),
            "2 violations; nothing was changed\n  relay.yaml:7:3: /connectors/a/route: missing (required)\n  \
             relay.yaml: accounts/b /spec/x: no such field (unknownField)"
        );
    }

    #[test]
    fn a_name_never_leaves_its_place_in_the_path() {
        assert_eq!(segment("dns:default:example.com"), "dns:default:example.com");
        assert_eq!(segment("a/../b?c#d e"), "a%2F..%2Fb%3Fc%23d%20e");
        assert_eq!(segment(".."), "%2E%2E");
    }
}
