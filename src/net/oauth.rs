//! Asks a token endpoint for a token to log in with (OAuth 2, RFC 6749, 4.4 and 6).
//!
//! A request goes to the configured URL and nowhere else ([`super::http`]): no redirect, no proxy, no address that is off limits; TLS is
//! checked. It takes at most [`TIME`], and [`LARGEST`] octets of an answer are read. An answer that is none is a [`TokenFault`], whose
//! words are the endpoint's where it speaks OAuth (`error`, `error_description`), cleaned and bounded, and left out where they hold
//! a secret; of a page of HTML nothing is shown.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use serde_json::Value;
use url::form_urlencoded::Serializer;
use zeroize::Zeroizing;

use super::http::{Http, causes};
use crate::model::secret::SecretText;
use crate::model::spec::connector::oauth2::{ClientId, Scope};
use crate::model::token_fault::TokenFault;
use crate::model::web::ServiceUrl;
use crate::smtp::sasl::client::MAX_TOKEN;
use crate::smtp::sasl::oauth::is_token;

/// Longest time of a request.
pub const TIME: Duration = Duration::from_secs(10);
/// Largest answer, in octets.
const LARGEST: usize = 64 << 10;
/// Most characters of the endpoint's words.
const MOST_WORDS: usize = 300;
/// How long a token lives whose endpoint does not say so.
const LIFE: Duration = Duration::from_secs(300);
/// Longest life that is believed.
const LONGEST_LIFE: Duration = Duration::from_secs(86_400);

/// Everything that it takes to get a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// The endpoint.
    pub url: ServiceUrl,
    /// Who we are to it.
    pub client_id: ClientId,
    /// By what right.
    pub grant: Grant,
    /// What for.
    pub scopes: Vec<Scope>,
}

/// By what right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// As this client (RFC 6749, 4.4).
    ClientCredentials {
        /// Its secret.
        client_secret: SecretText,
    },
    /// For somebody who has consented (RFC 6749, 6).
    RefreshToken {
        /// The refresh token.
        refresh_token: SecretText,
        /// The client's secret, where the endpoint wants one.
        client_secret: Option<SecretText>,
    },
}

/// A token that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The token.
    pub token: SecretText,
    /// How long it is good for.
    pub life: Duration,
    /// The refresh token to use from now on, where the endpoint gave another one.
    pub refresh_token: Option<SecretText>,
}

/// Gives tokens.
#[async_trait]
pub trait TokenEndpoint: Send + Sync {
    /// Asks for one, with this refresh token instead of the request's where there is one.
    ///
    /// # Errors
    /// See [`TokenFault`].
    async fn ask(&self, request: &TokenRequest, rotated: Option<&SecretText>) -> Result<Issued, TokenFault>;
}

#[async_trait]
impl TokenEndpoint for Http {
    async fn ask(&self, request: &TokenRequest, rotated: Option<&SecretText>) -> Result<Issued, TokenFault> {
        let exchange = exchange(self, request, rotated);
        let silent = || TokenFault::Silent(request.origin(), TIME.as_secs());
        tokio::time::timeout(TIME, exchange).await.unwrap_or_else(|_| Err(silent()))
    }
}

async fn exchange(http: &Http, request: &TokenRequest, rotated: Option<&SecretText>) -> Result<Issued, TokenFault> {
    let unreachable = |error: &reqwest::Error| TokenFault::Unreachable(request.origin(), clean(&causes(error)));
    let client = http.client().await.map_err(|error| unreachable(&error))?;
    let asked = client
        .post(request.url.url().clone())
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(request.body(rotated).to_string());
    let mut answer = asked.send().await.map_err(|error| unreachable(&error))?;
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (kind, location) = (header(CONTENT_TYPE), header(LOCATION));
    let status = answer.status();
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(&error))? {
        if body.len() + chunk.len() > LARGEST {
            let words = format!("{status}, with more than {} KiB", LARGEST >> 10);
            return Err(TokenFault::Answer(request.origin(), words));
        }
        body.extend_from_slice(&chunk);
    }
    let answer = Answer { status: status.as_u16(), kind, location, body: &body };
    answer.read(&request.origin(), |words| request.clean(words, rotated))
}

impl TokenRequest {
    /// Scheme, host and port: what may stand in logs and reports.
    pub fn origin(&self) -> String {
        self.url.url().origin().ascii_serialization()
    }

    /// RFC 6749, 4.4.2 and 6; the client's credentials as 2.3.1 allows them in the body, which Microsoft and Google document.
    fn body(&self, rotated: Option<&SecretText>) -> Zeroizing<String> {
        let mut form = Serializer::new(String::new());
        match &self.grant {
            Grant::ClientCredentials { .. } => form.append_pair("grant_type", "client_credentials"),
            Grant::RefreshToken { refresh_token, .. } => form
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", rotated.unwrap_or(refresh_token).reveal()),
        };
        form.append_pair("client_id", &self.client_id.to_string());
        if let Some(secret) = self.grant.client_secret() {
            form.append_pair("client_secret", secret.reveal());
        }
        if !self.scopes.is_empty() {
            let scopes: Vec<String> = self.scopes.iter().map(ToString::to_string).collect();
            form.append_pair("scope", &scopes.join(" "));
        }
        Zeroizing::new(form.finish())
    }

    /// Words of the endpoint in one line, bounded; it may say back what it was shown, and that is not told.
    fn clean(&self, words: &str, rotated: Option<&SecretText>) -> String {
        let refresh = match &self.grant {
            Grant::RefreshToken { refresh_token, .. } => Some(refresh_token),
            Grant::ClientCredentials { .. } => None,
        };
        let shown = [self.grant.client_secret(), refresh, rotated].into_iter().flatten();
        let said = shown.map(SecretText::reveal).any(|secret| {
            let in_form = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect::<String>();
            let forms = [secret.to_owned(), in_form, STANDARD.encode(secret)].map(Zeroizing::new);
            forms.iter().any(|form| !form.is_empty() && words.contains(&**form))
        });
        if said { UNSHOWN.to_owned() } else { clean(words) }
    }
}

const UNSHOWN: &str = "(words that hold a secret)";

impl Grant {
    fn client_secret(&self) -> Option<&SecretText> {
        match self {
            Grant::ClientCredentials { client_secret } => Some(client_secret),
            Grant::RefreshToken { client_secret, .. } => client_secret.as_ref(),
        }
    }
}

/// What the endpoint said.
struct Answer<'a> {
    status: u16,
    kind: Option<String>,
    location: Option<String>,
    body: &'a [u8],
}

impl Answer<'_> {
    /// The token in it (RFC 6749, 5.1), or why there is none (5.2).
    fn read(&self, origin: &str, clean: impl Fn(&str) -> String) -> Result<Issued, TokenFault> {
        let status = self.status;
        let answer = |words: String| Err(TokenFault::Answer(origin.to_owned(), words));
        if (300..400).contains(&status) {
            let to = self.location.as_deref().and_then(|to| url::Url::parse(to).ok());
            let to = to.map_or_else(String::new, |to| format!(" to {}", to.origin().ascii_serialization()));
            return answer(format!("{status}, a redirect{to}, and none is followed"));
        }
        let told: Value = match serde_json::from_slice(self.body) {
            Ok(Value::Object(told)) => Value::Object(told),
            _ => {
                let kind = self.kind.as_deref().map_or_else(|| "of no declared type".to_owned(), &clean);
                return answer(format!("{status} with what is no JSON object ({kind})"));
            }
        };
        if let Some(error) = told["error"].as_str() {
            let more = told["error_description"].as_str().map_or_else(String::new, |more| format!(": {more}"));
            let words = clean(&format!("{error}{more}"));
            // 5.2: 400, or 401; whatever comes with another one is the endpoint's own trouble
            let ours = (400..500).contains(&status) && status != 408 && status != 429;
            let in_trouble = matches!(error, "temporarily_unavailable" | "server_error" | "slow_down");
            return Err(if ours && !in_trouble {
                TokenFault::Refused(origin.to_owned(), words)
            } else {
                TokenFault::Answer(origin.to_owned(), format!("{status} {words}"))
            });
        }
        if !(200..300).contains(&status) {
            return answer(format!("{status} without an error of OAuth"));
        }
        // 7.1: a token of a type that is not understood must not be used
        if told["token_type"].as_str().is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return answer(format!("{status} with a token that is no bearer token"));
        }
        let token = told["access_token"].as_str().unwrap_or_default();
        if token.len() > MAX_TOKEN || !is_token(token) {
            return answer(format!("{status} without a token that can be used"));
        }
        // some write the number as a text
        let seconds = told["expires_in"].as_f64().or_else(|| told["expires_in"].as_str()?.trim().parse().ok());
        let life = seconds.map_or(LIFE, |seconds| {
            Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(LONGEST_LIFE).min(LONGEST_LIFE)
        });
        let refresh = told["refresh_token"].as_str().filter(|refresh| !refresh.is_empty());
        Ok(Issued { token: SecretText::new(token), life, refresh_token: refresh.map(SecretText::new) })
    }
}

/// Words of others, in one line, bounded.
fn clean(words: &str) -> String {
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_WORDS).collect();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "https://login.example";

    fn read(status: u16, kind: &str, body: &str) -> Result<Issued, String> {
        let location = Some("https://elsewhere.example/token?secret=x".to_owned());
        let answer = Answer { status, kind: Some(kind.to_owned()), location, body: body.as_bytes() };
        answer.read(ORIGIN, clean).map_err(|fault| format!("{}: {fault}", fault.reason()))
    }

    #[test]
    fn tokens() {
        for (body, life, refresh) in [
            (r#"{"access_token":"a.b-c","token_type":"Bearer","expires_in":3599}"#, 3_599, None),
            (r#"{"access_token":"a.b-c","token_type":"bearer","expires_in":"3599"}"#, 3_599, None),
            (r#"{"access_token":"a.b-c"}"#, 300, None),
            (r#"{"access_token":"a.b-c","expires_in":-1}"#, 0, None),
            (r#"{"access_token":"a.b-c","expires_in":1e300}"#, 86_400, None),
            (r#"{"access_token":"a.b-c","expires_in":60,"refresh_token":"next"}"#, 60, Some("next")),
            (r#"{"access_token":"a.b-c","expires_in":60,"refresh_token":""}"#, 60, None),
        ] {
            let issued = read(200, "application/json", body).unwrap();
            assert_eq!((issued.token.reveal(), issued.life.as_secs()), ("a.b-c", life), "{body}");
            assert_eq!(issued.refresh_token.as_ref().map(SecretText::reveal), refresh);
        }
    }

    #[test]
    fn what_is_no_token() {
        let json = "application/json";
        for (status, kind, body, words) in [
            (
                302,
                "text/html",
                "",
                "endpointAnswer: the token endpoint https://login.example answered 302, a redirect to https://elsewhere.example, and",
            ),
            (200, "text/html", "<html>sign in</html>", "answered 200 with what is no JSON object (text/html)"),
            (200, json, "[]", "no JSON object"),
            (200, json, "", "no JSON object"),
            (200, json, "{}", "without a token that can be used"),
            (200, json, r#"{"access_token":"a b"}"#, "without a token that can be used"),
            (200, json, r#"{"access_token":7}"#, "without a token that can be used"),
            (200, json, r#"{"access_token":"a","token_type":"mac"}"#, "no bearer token"),
            (500, "text/html", "<html>", "endpointAnswer: the token endpoint https://login.example answered 500"),
            (500, json, "{}", "500 without an error of OAuth"),
            (
                503,
                json,
                r#"{"error":"temporarily_unavailable"}"#,
                "endpointAnswer: the token endpoint https://login.example answered 503 temporarily",
            ),
            (429, json, r#"{"error":"too many"}"#, "endpointAnswer"),
            (400, json, r#"{"error":"temporarily_unavailable"}"#, "endpointAnswer"),
            (
                400,
                json,
                r#"{"error":"invalid_grant","error_description":"AADSTS70000:\r\nit is \u001b[31mexpired"}"#,
                "endpointRefused: the token endpoint https://login.example refused: invalid_grant: AADSTS70000: it is [31mexpired",
            ),
            (401, json, r#"{"error":"invalid_client"}"#, "endpointRefused"),
        ] {
            let fault = read(status, kind, body).unwrap_err();
            assert!(fault.contains(words), "{body}: {fault}");
            assert!(!fault.contains("sign in") && !fault.contains("secret=x"), "{fault}");
        }
        let large = format!(r#"{{"error":"x","error_description":"{}"}}"#, "y".repeat(10_000));
        assert!(read(400, json, &large).unwrap_err().len() < 500);
        let long = format!(r#"{{"access_token":"{}"}}"#, "y".repeat(MAX_TOKEN + 1));
        assert!(read(200, json, &long).is_err());
    }

    fn request(grant: Grant) -> TokenRequest {
        TokenRequest {
            url: "https://login.example/token".parse().unwrap(),
            client_id: "an app".parse().unwrap(),
            grant,
            scopes: vec!["https://a.example/.default".parse().unwrap(), "b".parse().unwrap()],
        }
    }

    #[test]
    fn requests() {
        let text = SecretText::new;
        let application = request(Grant::ClientCredentials { client_secret: text("a&b=ü") });
        assert_eq!(
            *application.body(None),
            "grant_type=client_credentials&client_id=an+app&client_secret=a%26b%3D%C3%BC&\
             scope=https%3A%2F%2Fa.example%2F.default+b"
        );
        let mut somebody = request(Grant::RefreshToken { refresh_token: text("first"), client_secret: None });
        somebody.scopes.clear();
        assert_eq!(*somebody.body(None), "grant_type=refresh_token&refresh_token=first&client_id=an+app");
        let rotated = somebody.body(Some(&text("second")));
        assert_eq!(*rotated, "grant_type=refresh_token&refresh_token=second&client_id=an+app");
        assert!(!format!("{application:?} {somebody:?}").contains("first"));
    }

    #[test]
    fn what_an_endpoint_says_back_is_not_told() {
        let text = SecretText::new;
        let grant = Grant::RefreshToken { refresh_token: text("1//re fresh"), client_secret: Some(text("s3cr3t&")) };
        let (request, rotated) = (request(grant), text("rotated"));
        for said in
            ["bad s3cr3t&", "bad s3cr3t%26", "c3Vy", "1//re fresh", "1%2F%2Fre+fresh", "x rotated y", "czNjcjN0Jg=="]
        {
            let shown = request.clean(said, Some(&rotated));
            assert_eq!(shown, if said == "c3Vy" { said } else { UNSHOWN });
        }
        // nor the beginning of it
        let long = "r".repeat(2_000);
        let grant = Grant::RefreshToken { refresh_token: text(&long), client_secret: None };
        let request = TokenRequest { grant, ..request };
        let body = format!(r#"{{"error":"invalid_grant","error_description":"no {long}"}}"#);
        let answer = Answer { status: 400, kind: None, location: None, body: body.as_bytes() };
        let fault = answer.read(ORIGIN, |words| request.clean(words, None)).unwrap_err().to_string();
        assert!(fault.ends_with(UNSHOWN) && !fault.contains("rrrr"), "{fault}");
    }
}
