//! `queue`, `message`, `operation`: mail that waits, seen and steered.
//!
//! What concerns one message names its id. What concerns many names a selector (`--filter`, as in listings), is counted first,
//! and goes on only after a yes, or `--yes`; it is an operation of the appliance, which goes on when this command is
//! interrupted.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Body, Client, Which, segment};
use super::kinds::Kind;
use super::objects::{pair, show};
use super::output::{Form, Progress, cell, octets, print, print_octets, print_value, say};

/// How often an operation is asked after.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// `bridgehead queue …`
#[derive(Debug, clap::Args)]
pub struct Queue {
    #[command(subcommand)]
    what: QueueCommand,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Subcommand)]
enum QueueCommand {
    /// List queues.
    List {
        /// In which form.
        #[arg(short, long, value_enum, default_value_t)]
        output: Form,
    },
    /// Stop attempts from a queue; it still accepts mail.
    Freeze {
        /// Ids, such as smarthost:hub.
        #[arg(required = true)]
        id: Vec<String>,
    },
    /// End a freeze.
    Thaw {
        /// Ids.
        #[arg(required = true)]
        id: Vec<String>,
    },
    /// Try what waits in a queue now.
    Retry {
        /// Ids.
        #[arg(required = true)]
        id: Vec<String>,
    },
    /// Write the mail that waits to a file, with its envelopes and ids, to be brought in elsewhere or later.
    Export {
        /// Only messages that fit. Repeatable.
        #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
        filter: Vec<(String, String)>,
        /// Where to; `-` for stdout.
        #[arg(short = 'w', long, default_value = "-")]
        to: PathBuf,
    },
    /// Bring in mail that was exported. What is here already is passed over.
    Import {
        /// The file.
        file: PathBuf,
        /// Only say what is in it.
        #[arg(long)]
        dry_run: bool,
        /// Freeze what comes in.
        #[arg(long)]
        held: bool,
    },
}

/// `bridgehead message …`
#[derive(Debug, clap::Args)]
pub struct Message {
    #[command(subcommand)]
    what: MessageCommand,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Subcommand)]
enum MessageCommand {
    /// List messages.
    List {
        /// A filter, such as recipient=*@example.com, queue=smarthost:hub, olderThan=1h. Repeatable.
        #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
        filter: Vec<(String, String)>,
        /// At most so many; 0 for all.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// In which form.
        #[arg(short, long, value_enum, default_value_t)]
        output: Form,
    },
    /// Print the content of a message as it came.
    Content {
        /// Its id.
        id: String,
    },
    /// Stop attempts.
    Freeze(Which_),
    /// End a freeze.
    Thaw(Which_),
    /// Try now.
    Retry(Which_),
    /// Route again, or by the connector that is named.
    Reroute {
        #[command(flatten)]
        those: Which_,
        /// The connector.
        #[arg(long)]
        connector: Option<String>,
    },
    /// Send dead letters again.
    Resubmit {
        #[command(flatten)]
        those: Which_,
        /// To others than before. Repeatable; for one message.
        #[arg(long)]
        recipient: Vec<String>,
    },
    /// Remove.
    Delete {
        #[command(flatten)]
        those: Which_,
        /// Tell the senders.
        #[arg(long)]
        ndr: bool,
    },
}

/// Which messages: one, or all that fit.
#[derive(Debug, clap::Args)]
pub struct Which_ {
    /// The id of one message.
    #[arg(required_unless_present = "filter", conflicts_with = "filter")]
    id: Option<String>,
    /// All that fit, such as queue=deadLetter or sender=*@example.com. Repeatable.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    filter: Vec<(String, String)>,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Only count.
    #[arg(long, requires = "filter")]
    dry_run: bool,
}

/// `bridgehead operation …`
#[derive(Debug, clap::Args)]
pub struct Operation {
    #[command(subcommand)]
    what: OperationCommand,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Subcommand)]
enum OperationCommand {
    /// List operations, newest first.
    List {
        /// In which form.
        #[arg(short, long, value_enum, default_value_t)]
        output: Form,
    },
    /// Wait until an operation has ended.
    Wait {
        /// Its id.
        id: String,
    },
    /// Stop an operation; what it has done stays done.
    Cancel {
        /// Its id.
        id: String,
    },
}

impl Queue {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses, or cannot be reached.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        let (word, ids) = match self.what {
            QueueCommand::List { output } => return list(&client, "queues", &[], 0, output).await,
            QueueCommand::Freeze { id } => ("freeze", id),
            QueueCommand::Thaw { id } => ("thaw", id),
            QueueCommand::Retry { id } => ("retry", id),
            QueueCommand::Export { filter, to } => return export(&client, &filter, &to).await,
            QueueCommand::Import { file, dry_run, held } => return import(&client, &file, dry_run, held).await,
        };
        for id in ids {
            let queue =
                client.json(Method::POST, &format!("/api/v1/queues/{}/{word}", segment(&id)), &[], Body::None).await?;
            print(&format!("queues/{id} is {}\n", cell(&queue, "/state")))?;
        }
        Ok(())
    }
}

impl Message {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses, or cannot be reached.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        match self.what {
            MessageCommand::List { filter, limit, output } => list(&client, "messages", &filter, limit, output).await,
            MessageCommand::Content { id } => {
                let path = format!("/api/v1/messages/{}/content", segment(&id));
                let mut answer = client.ask_as(Method::GET, &path, &[], Body::None, "message/rfc822").await?;
                while let Some(chunk) = answer.chunk().await.context("the content was cut")? {
                    print_octets(&chunk)?;
                }
                Ok(())
            }
            MessageCommand::Freeze(those) => those.act(&client, "freeze", Map::new()).await,
            MessageCommand::Thaw(those) => those.act(&client, "thaw", Map::new()).await,
            MessageCommand::Retry(those) => those.act(&client, "retry", Map::new()).await,
            MessageCommand::Reroute { those, connector } => {
                let parameters = connector.map(|connector| ("connector".to_owned(), Value::String(connector)));
                those.act(&client, "reroute", parameters.into_iter().collect()).await
            }
            MessageCommand::Resubmit { those, recipient } => {
                let to = Some(recipient).filter(|to| !to.is_empty()).map(|to| ("recipients".to_owned(), json!(to)));
                those.act(&client, "resubmit", to.into_iter().collect()).await
            }
            MessageCommand::Delete { those, ndr } => {
                those.act(&client, "delete", [("ndr".to_owned(), Value::Bool(ndr))].into_iter().collect()).await
            }
        }
    }
}

impl Which_ {
    async fn act(self, client: &Client, action: &str, parameters: Map<String, Value>) -> anyhow::Result<()> {
        let Some(id) = &self.id else { return self.act_on_many(client, action, parameters).await };
        let path = format!("/api/v1/messages/{}", segment(id));
        if action == "delete" {
            let ndr = parameters.get("ndr").map(Value::to_string).unwrap_or_default();
            client.json(Method::DELETE, &path, &[("ndr", ndr)], Body::None).await?;
            return print(&format!("messages/{id} deleted\n"));
        }
        let body = if parameters.is_empty() { Body::None } else { Body::Json(Value::Object(parameters)) };
        let message = client.json(Method::POST, &format!("{path}/{action}"), &[], body).await?;
        let (id, state) = (cell(&message, "/id"), cell(&message, "/state"));
        print(&format!("messages/{id} is {state}\n"))
    }

    async fn act_on_many(&self, client: &Client, action: &str, parameters: Map<String, Value>) -> anyhow::Result<()> {
        let selector: Map<String, Value> =
            self.filter.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let mut request = json!({"action": action, "selector": selector});
        if !parameters.is_empty() {
            request["parameters"] = Value::Object(parameters);
        }
        let dry = [("dryRun", "true".to_owned())];
        let preview = client.json(Method::POST, "/api/v1/bulk-actions", &dry, Body::Json(request.clone())).await?;
        let count = preview.get("count").or_else(|| preview.get("total")).and_then(Value::as_u64).unwrap_or_default();
        if self.dry_run {
            return print_value(&preview, Form::Yaml);
        }
        if count == 0 {
            say("no message fits");
            return Ok(());
        }
        if !self.yes && !agreed(&format!("{action} {count} messages?"))? {
            bail!("nothing was done");
        }
        let operation = client.json(Method::POST, "/api/v1/bulk-actions", &[], Body::Json(request)).await?;
        wait(client, &cell(&operation, "/id")).await
    }
}

impl Operation {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses, or cannot be reached.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        match self.what {
            OperationCommand::List { output } => list(&client, "operations", &[], 100, output).await,
            OperationCommand::Wait { id } => wait(&client, &id).await,
            OperationCommand::Cancel { id } => {
                let path = format!("/api/v1/operations/{}/cancel", segment(&id));
                let operation = client.json(Method::POST, &path, &[], Body::None).await?;
                print(&format!("operations/{id} is {}\n", cell(&operation, "/state")))
            }
        }
    }
}

/// Follows an operation to its end.
pub async fn wait(client: &Client, id: &str) -> anyhow::Result<()> {
    let mut progress = Progress::new();
    loop {
        let operation = client.get(&format!("/api/v1/operations/{}", segment(id)), &[]).await?;
        let number = |what: &str| operation.get(what).and_then(Value::as_u64).unwrap_or_default();
        let state = cell(&operation, "/state");
        if matches!(state.as_str(), "running" | "pending" | "cancelling") {
            progress.show(number("done") + number("skipped") + number("failed"), number("total"), &state);
            tokio::time::sleep(ASK_EVERY).await;
            continue;
        }
        drop(progress);
        let counts = ["done", "skipped", "failed"].map(|what| format!("{} {what}", number(what))).join(", ");
        print(&format!("operations/{id} {state}: {counts}\n"))?;
        let errors = operation.get("errors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        errors.iter().for_each(|error| say(&format!("  {}: {}", cell(error, "/message"), cell(error, "/detail"))));
        if number("failed") > 0 {
            bail!("{} failed", number("failed"));
        }
        return Ok(());
    }
}

async fn list(client: &Client, of: &str, filter: &[(String, String)], limit: usize, form: Form) -> anyhow::Result<()> {
    let kind = Kind::find(of).context("it is in the table of kinds")?;
    let query: Vec<_> = filter.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let found = client.list(&kind.url(), &query, if limit == 0 { usize::MAX } else { limit }).await?;
    show(kind, found.items, found.more, form)
}

async fn export(client: &Client, filter: &[(String, String)], to: &PathBuf) -> anyhow::Result<()> {
    let query: Vec<_> = filter.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let mut answer = client.ask_as(Method::GET, "/api/v1/queue-export", &query, Body::None, "*/*").await?;
    let mut progress = Progress::new();
    let stdout = to.as_os_str() == "-";
    let fresh = to.with_extension("partial");
    let mut file = match stdout {
        true => None,
        false => Some(std::fs::File::create(&fresh).with_context(|| format!("{} cannot be written", fresh.display()))?),
    };
    let mut size = 0u64;
    while let Some(chunk) = answer.chunk().await.context("the export was cut; it is not whole")? {
        size += chunk.len() as u64;
        match &mut file {
            None => print_octets(&chunk)?,
            Some(file) => file.write_all(&chunk).with_context(|| format!("{} cannot be written", fresh.display()))?,
        }
        progress.show(size, size, &octets(size));
    }
    if let Some(file) = file {
        file.sync_all().with_context(|| format!("{} cannot be written", fresh.display()))?;
        std::fs::rename(&fresh, to).with_context(|| format!("{} cannot be written", to.display()))?;
    }
    drop(progress);
    say(&format!("{} written", octets(size)));
    Ok(())
}

async fn import(client: &Client, path: &PathBuf, dry_run: bool, held: bool) -> anyhow::Result<()> {
    let file = tokio::fs::File::open(path).await.with_context(|| format!("{} cannot be read", path.display()))?;
    let mut query = Vec::new();
    query.extend(dry_run.then(|| ("dryRun", "true".to_owned())));
    query.extend(held.then(|| ("held", "true".to_owned())));
    let body = Body::Typed("application/octet-stream", streamed(file));
    let answer = client.json(Method::POST, "/api/v1/queue-import", &query, body).await?;
    print_value(&answer, Form::Yaml)
}

/// A file as the body of a request, piece by piece.
pub fn streamed(file: tokio::fs::File) -> reqwest::Body {
    use tokio::io::AsyncReadExt as _;
    reqwest::Body::wrap_stream(futures_util::stream::try_unfold(file, |mut file| async move {
        let mut piece = vec![0; 64 << 10];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        Ok::<_, io::Error>((read > 0).then_some((piece, file)))
    }))
}

/// Asks a person. Without a terminal the answer is no.
fn agreed(question: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("{question} Say --yes where nobody can be asked");
    }
    eprint!("{question} [y/N] ");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("the terminal cannot be read")?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
