//! `send`, `tail`, `explain`: a message handed in, what happens as it happens, and what would happen.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Body, Client, Which};
use super::objects::pair;
use super::output::{Form, Table, cell, plain, print, print_value, say};

/// `bridgehead send`
#[derive(Debug, clap::Args)]
pub struct Send {
    /// Who it is from: an address, also with a name, such as "Ada <ada@example.com>".
    #[arg(long, required_unless_present = "raw")]
    from: Option<String>,
    /// Whom it is for. Repeatable.
    #[arg(long, required_unless_present = "raw")]
    to: Vec<String>,
    /// Who gets a copy. Repeatable.
    #[arg(long)]
    cc: Vec<String>,
    /// Who gets a copy that nobody sees. Repeatable.
    #[arg(long)]
    bcc: Vec<String>,
    /// What it is about.
    #[arg(short, long)]
    subject: Option<String>,
    /// Its text; without it, and without --html, stdin is read.
    #[arg(long)]
    text: Option<String>,
    /// A file that holds its HTML form.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A file to attach. Repeatable.
    #[arg(short, long, value_name = "FILE")]
    attach: Vec<PathBuf>,
    /// When to send it: a time such as 2027-01-30T08:00:00Z.
    #[arg(long, value_name = "TIME")]
    send_at: Option<String>,
    /// A header of its own, such as `--header X-Ticket=4711`. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    header: Vec<(String, String)>,
    /// A file that is a whole message (RFC 5322); `-` for stdin.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["subject", "text", "html", "attach", "header", "cc", "bcc"])]
    raw: Option<PathBuf>,
    /// Makes it safe to say the same again: only one message comes of it.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// In which form.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    which: Which,
}

/// `bridgehead tail`
#[derive(Debug, clap::Args)]
pub struct Tail {
    /// A filter, such as event=delivered or connector=hub. Repeatable.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    filter: Vec<(String, String)>,
    /// Go on behind this event.
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// As JSON lines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

/// `bridgehead explain`
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// A message that waits; else say what a new one would be like.
    message: Option<String>,
    /// Its reverse-path; empty for the null reverse-path.
    #[arg(long)]
    sender: Option<String>,
    /// Whom it is for.
    #[arg(long, conflicts_with = "message", required_unless_present = "message")]
    recipient: Option<String>,
    /// The client's address.
    #[arg(long)]
    client: Option<String>,
    /// The account that it has logged in as.
    #[arg(long)]
    account: Option<String>,
    /// The virtual server that it is connected to.
    #[arg(long)]
    virtual_server: Option<String>,
    /// How large it is, such as 3MiB.
    #[arg(long)]
    size: Option<String>,
    /// In which form.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    which: Which,
}

impl Send {
    /// Does it.
    ///
    /// # Errors
    /// When a file cannot be read, or the appliance refuses it.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        let mut query = Vec::new();
        let body = match &self.raw {
            Some(path) => {
                query.extend(self.from.clone().map(|from| ("from", from)));
                query.extend(self.to.iter().map(|to| ("to", to.clone())));
                Body::Typed("message/rfc822", whole(path)?.into())
            }
            None => Body::Json(self.composed()?),
        };
        let answer = client.submit("/api/v1/messages", &query, body, self.idempotency_key.as_deref()).await?;
        match self.output {
            Form::Json | Form::Yaml => print_value(&answer, self.output),
            Form::Name | Form::Table => print(&format!("messages/{} accepted\n", cell(&answer, "/id"))),
        }
    }

    fn composed(&self) -> anyhow::Result<Value> {
        let mut message = Map::new();
        let mut put = |name: &str, value: Value| drop(message.insert(name.to_owned(), value));
        if let Some(from) = &self.from {
            put("from", json!(from));
        }
        for (name, list) in [("to", &self.to), ("cc", &self.cc), ("bcc", &self.bcc)] {
            if !list.is_empty() {
                put(name, json!(list));
            }
        }
        if let Some(subject) = &self.subject {
            put("subject", json!(subject));
        }
        if let Some(at) = &self.send_at {
            put("sendAt", json!(at));
        }
        if let Some(file) = &self.html {
            let html = std::fs::read_to_string(file);
            put("html", json!(html.with_context(|| format!("{} cannot be read", file.display()))?));
        }
        match &self.text {
            Some(text) => put("text", json!(text)),
            None if self.html.is_none() => {
                if io::stdin().is_terminal() {
                    say("the text, up to Ctrl-D:");
                }
                put("text", json!(io::read_to_string(io::stdin()).context("stdin cannot be read")?));
            }
            None => {}
        }
        if !self.header.is_empty() {
            let headers: Map<String, Value> =
                self.header.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            put("headers", Value::Object(headers));
        }
        let mut attachments = Vec::new();
        for file in &self.attach {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
            let name = name.with_context(|| format!("{} is no file", file.display()))?;
            attachments.push(json!({"filename": name, "content": STANDARD.encode(whole(file)?)}));
        }
        if !attachments.is_empty() {
            put("attachments", Value::Array(attachments));
        }
        Ok(Value::Object(message))
    }
}

fn whole(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path.as_os_str() == "-" {
        let mut octets = Vec::new();
        io::Read::read_to_end(&mut io::stdin().lock(), &mut octets).context("stdin cannot be read")?;
        return Ok(octets);
    }
    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

impl Tail {
    /// Does it, until it is interrupted; a connection that is cut is made again behind the last event.
    ///
    /// # Errors
    /// When the appliance refuses.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        let filter: Vec<_> = self.filter.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let mut last = self.after.clone();
        let mut failures = 0u32;
        loop {
            match client.events("/api/v1/events", &filter, last.as_deref()).await {
                Ok(mut answer) => {
                    failures = 0;
                    let mut reader = EventReader::default();
                    while let Ok(Some(chunk)) = answer.chunk().await {
                        for event in reader.feed(&chunk)? {
                            last = event.id.clone().or(last);
                            print(&self.line(&event))?;
                        }
                    }
                }
                Err(error) if error.is::<super::client::Refusal>() => return Err(error),
                Err(error) if failures >= 10 => return Err(error),
                Err(error) => {
                    failures += 1;
                    say(&format!("{error:#}; trying again"));
                }
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }

    fn line(&self, event: &Event) -> String {
        let Ok(data) = serde_json::from_str::<Value>(&event.data) else {
            return format!("{}\n", plain(&event.data));
        };
        if self.json {
            return format!("{data}\n");
        }
        let [at, what, message, sender, hop, reply] =
            ["/at", "/event", "/message", "/sender", "/nextHop", "/reply"].map(|pointer| cell(&data, pointer));
        let to = cell(&data, "/recipients");
        let reply = if reply.is_empty() { cell(&data, "/failure/diagnostic") } else { reply };
        let arrow = if to.is_empty() { String::new() } else { format!(" → {to}") };
        let hop = if hop.is_empty() { String::new() } else { format!("  {hop}") };
        let reply = if reply.is_empty() { String::new() } else { format!("  {reply}") };
        let what = if what.is_empty() { event.name.clone() } else { what };
        format!("{}\n", plain(&format!("{at}  {what:<12}  {message}  {sender}{arrow}{hop}{reply}")))
    }
}

/// A server-sent event.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Event {
    id: Option<String>,
    name: String,
    data: String,
}

/// Reads a stream of server-sent events, however it is cut.
#[derive(Debug, Default)]
struct EventReader {
    line: Vec<u8>,
    event: Event,
}

/// No event is longer.
const MAX_EVENT: usize = 1 << 20;

impl EventReader {
    fn feed(&mut self, chunk: &[u8]) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        for &octet in chunk {
            if octet != b'\n' {
                self.line.push(octet);
                if self.line.len() + self.event.data.len() > MAX_EVENT {
                    bail!("an event is longer than {MAX_EVENT} octets");
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if line.is_empty() => {
                    let event = std::mem::take(&mut self.event);
                    events.extend(Some(event).filter(|event| !event.data.is_empty()));
                }
                "id" => self.event.id = Some(value.to_owned()),
                "event" => self.event.name = value.to_owned(),
                "data" => {
                    if !self.event.data.is_empty() {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                }
                // comments keep the connection open
                _ => {}
            }
        }
        Ok(events)
    }
}

impl Explain {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses, or cannot be reached.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        let mut question = Map::new();
        let fields = [
            ("messageId", &self.message),
            ("sender", &self.sender),
            ("recipient", &self.recipient),
            ("client", &self.client),
            ("account", &self.account),
            ("virtualServer", &self.virtual_server),
            ("size", &self.size),
        ];
        for (name, value) in fields {
            question.extend(value.clone().map(|value| (name.to_owned(), Value::String(value))));
        }
        let answer = client.json(Method::POST, "/api/v1/explain", &[], Body::Json(Value::Object(question))).await?;
        if matches!(self.output, Form::Json | Form::Yaml) {
            return print_value(&answer, self.output);
        }
        for recipient in answer.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default() {
            let verdict = match recipient.get("accepted").and_then(Value::as_bool) {
                Some(false) => format!("refused: {}", cell(recipient, "/reply")),
                _ => format!("goes to the queue {}", cell(recipient, "/queue")),
            };
            print(&format!("{} {}\n", plain(&cell(recipient, "/recipient")), plain(&verdict)))?;
            let mut table = Table::new(&["  STAGE", "RULE", "OUTCOME", "OBJECT", "DETAIL"]);
            for decision in recipient.get("decisions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
            {
                let mut row =
                    ["/stage", "/rule", "/outcome", "/object", "/detail"].map(|at| cell(decision, at)).to_vec();
                row[0].insert_str(0, "  ");
                table.row(row);
            }
            print(&format!("{table}\n"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_the_stream_is_cut() {
        let stream = b": hello\n\nid: 7\nevent: delivered\ndata: {\"a\":\ndata: 1}\n\nid: 8\r\ndata: x\r\n\r\n";
        for size in 1..stream.len() {
            let mut reader = EventReader::default();
            let events: Vec<Event> = stream.chunks(size).flat_map(|chunk| reader.feed(chunk).unwrap()).collect();
            assert_eq!(events.len(), 2, "{size}");
            assert_eq!(events[0], Event { id: Some("7".into()), name: "delivered".into(), data: "{\"a\":\n1}".into() });
            assert_eq!(events[1].id.as_deref(), Some("8"));
        }
        assert!(EventReader::default().feed(&vec![b'x'; MAX_EVENT + 1]).is_err());
    }
}
