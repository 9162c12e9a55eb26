//! `token`, `whoami`, `drain`: what concerns the appliance itself.

use std::time::Duration;

use anyhow::bail;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Body, Client, Which, segment};
use super::objects::pair;
use super::output::{Form, Progress, cell, plain, print, print_value, say};

/// `bridgehead token`
#[derive(Debug, clap::Args)]
pub struct Token {
    /// What it is called; a key of this name is replaced.
    #[arg(long)]
    name: Option<String>,
    /// What it may: viewer, operator, administrator, owner.
    #[arg(long, default_value = "owner")]
    role: String,
    /// How long it is valid, such as 12h; `never`.
    #[arg(long, default_value = "12h")]
    expires: String,
    #[command(flatten)]
    which: Which,
}

/// `bridgehead whoami`
#[derive(Debug, clap::Args)]
pub struct Whoami {
    /// In which form.
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Form,
    #[command(flatten)]
    which: Which,
}

/// `bridgehead drain`
#[derive(Debug, clap::Args)]
pub struct Drain {
    /// Take mail again.
    #[arg(long, conflicts_with = "wait")]
    end: bool,
    /// Wait until the queues are empty, at most so long, such as 30s.
    #[arg(long, value_name = "TIME")]
    wait: Option<crate::model::duration::Duration>,
    #[command(flatten)]
    which: Which,
}

/// `bridgehead where`
#[derive(Debug, clap::Args)]
pub struct Where {
    /// What is known of the mail: sender=…, recipient=…, messageId=…, since=…. Repeatable.
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = pair)]
    known: Vec<(String, String)>,
    /// In which form.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    which: Which,
}

impl Where {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses, or cannot be reached.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        let query: Vec<_> = self.known.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let answer = client.get("/api/v1/tracking/whereabouts", &query).await?;
        if matches!(self.output, Form::Json | Form::Yaml) {
            return print_value(&answer, self.output);
        }
        let items = answer.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() {
            say("nothing is known of such mail");
        }
        for item in items {
            let (id, sender) = (cell(item, "/message"), cell(item, "/sender"));
            print(&format!("{}\n", plain(&format!("{id} from <{sender}>"))))?;
            for recipient in item.get("recipients").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default() {
                let (address, words) = (cell(recipient, "/recipient"), cell(recipient, "/words"));
                print(&format!("{}\n", plain(&format!("  {address}: {words}"))))?;
            }
        }
        Ok(())
    }
}

impl Token {
    /// Makes a key and prints it, and nothing else.
    ///
    /// # Errors
    /// When the appliance refuses, or cannot be reached.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        let now = jiff::Timestamp::now();
        let name = self.name.unwrap_or_else(|| format!("token-{}", now.as_second()));
        let mut spec = Map::new();
        spec.insert("role".to_owned(), json!(self.role));
        if self.expires != "never" {
            let lasts: crate::model::duration::Duration = match self.expires.parse() {
                Ok(lasts) => lasts,
                Err(_) => bail!("--expires {:?} is no time such as 12h, nor never", self.expires),
            };
            spec.insert("expiresAt".to_owned(), json!((now + lasts.std()).to_string()));
        }
        let path = format!("/api/v1/api-keys/{}", segment(&name));
        let answer = client.json(Method::PUT, &path, &[], Body::Json(json!({"spec": spec}))).await?;
        let mut key = cell(&answer, "/key");
        if key.is_empty() {
            // one of this name was there, and has kept its key
            let rotated = client.json(Method::POST, &format!("{path}/rotate"), &[], Body::Json(json!({}))).await?;
            key = cell(&rotated, "/key");
        }
        if key.is_empty() {
            bail!("the appliance made the key {name} and did not show it");
        }
        say(&format!("the key {name}, role {}, is shown only this once", self.role));
        print(&format!("{key}\n"))
    }
}

impl Whoami {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses, or cannot be reached.
    pub async fn run(self) -> anyhow::Result<()> {
        let answer = Client::of(&self.which)?.get("/api/v1/whoami", &[]).await?;
        print_value(&answer, self.output)
    }
}

impl Drain {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses, or mail still waits when the time is over.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        if self.end {
            client.json(Method::DELETE, "/api/v1/drain", &[], Body::None).await?;
            return print("mail is taken again\n");
        }
        client.json(Method::POST, "/api/v1/drain", &[], Body::None).await?;
        let Some(wait) = self.wait else { return print("no new mail is taken; what is queued goes on\n") };
        let until = tokio::time::Instant::now() + wait.std();
        let mut progress = Progress::new();
        let mut most = 0;
        loop {
            let state = client.get("/api/v1/drain", &[]).await?;
            let left = state.get("messages").and_then(Value::as_u64).unwrap_or_default();
            let sessions = state.get("sessions").and_then(Value::as_u64).unwrap_or_default();
            most = most.max(left);
            if left == 0 && sessions == 0 {
                return print("drained: nothing waits\n");
            }
            if tokio::time::Instant::now() >= until {
                bail!("{left} messages still wait; they stay queued");
            }
            progress.show(most - left, most, "drained");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
