//! `import`: what an old server left behind, brought in, or first only looked at.

use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Body, Client, Which, segment};
use super::output::{Form, Progress, cell, plain, print, print_value, say};

/// How often an import is asked after.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// `bridgehead import …`
#[derive(Debug, clap::Args)]
pub struct Import {
    #[command(subcommand)]
    what: ImportCommand,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Subcommand)]
enum ImportCommand {
    /// Bring in a Mailroot of the SMTP service of Windows or Exchange, copied below the appliance's import directory.
    Mailroot(Mailroot),
}

#[derive(Debug, clap::Args)]
struct Mailroot {
    /// Where it lies, below the import directory.
    path: String,
    /// Only this of its directories. Repeatable.
    #[arg(long, value_enum)]
    area: Vec<Area>,
    /// The recipients of a message in Queue that has none with it: take To, Cc and Bcc of its header.
    #[arg(long)]
    recipients_from_header: bool,
    /// The virtual server that takes the mail.
    #[arg(long, value_name = "NAME")]
    virtual_server: Option<String>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// In which form the report is shown.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// A directory of a mailroot.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Area {
    Pickup,
    Queue,
    Badmail,
    Drop,
}

impl Import {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses, or cannot be reached, or the import could not go on.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        let ImportCommand::Mailroot(mailroot) = self.what;
        mailroot.bring_in(&client).await
    }
}

impl Mailroot {
    fn request(&self) -> Value {
        let mut request = Map::from_iter([("path".to_owned(), json!(self.path))]);
        let areas: Vec<String> =
            self.area.iter().filter_map(|area| Some(area.to_possible_value()?.get_name().to_owned())).collect();
        if !areas.is_empty() {
            request.insert("areas".to_owned(), json!(areas));
        }
        if self.recipients_from_header {
            request.insert("queueEnvelope".to_owned(), json!("header"));
        }
        if let Some(name) = &self.virtual_server {
            request.insert("virtualServer".to_owned(), json!(name));
        }
        Value::Object(request)
    }

    async fn bring_in(self, client: &Client) -> anyhow::Result<()> {
        let query: Vec<_> = self.dry_run.then(|| ("dryRun", "true".to_owned())).into_iter().collect();
        let body = Body::Json(self.request());
        let mut import = client.json(Method::POST, "/api/v1/imports/mailroot", &query, body).await?;
        let path = format!("/api/v1/imports/mailroot/{}", segment(&cell(&import, "/id")));
        let mut progress = Progress::new();
        while cell(&import, "/state") == "running" {
            let so_far = ["imported", "skipped", "unreadableCount", "ignoredCount"].map(|what| number(&import, what));
            progress.show(so_far.iter().sum(), number(&import, "found"), "imported");
            tokio::time::sleep(ASK_EVERY).await;
            import = client.get(&path, &[]).await?;
        }
        drop(progress);
        match self.output {
            Form::Table | Form::Name => self.report(&import)?,
            form => print_value(&import, form)?,
        }
        match cell(&import, "/state").as_str() {
            "done" => Ok(()),
            "failed" => bail!("the import could not go on: {}", plain(&cell(&import, "/failure"))),
            _ => bail!("the import was interrupted; started again it goes on where it was"),
        }
    }

    fn report(&self, import: &Value) -> anyhow::Result<()> {
        let imported = if self.dry_run { "would be imported" } else { "imported" };
        print(&format!(
            "{} files: {} {imported}, {} imported before, {} unreadable, {} no messages; {} recipients refused\n",
            number(import, "found"),
            number(import, "imported"),
            number(import, "skipped"),
            number(import, "unreadableCount"),
            number(import, "ignoredCount"),
            number(import, "refusedCount"),
        ))?;
        let named = |what: &str| import.get(what).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for file in named("unreadable").iter().chain(named("refused")) {
            say(&plain(&format!("  {}: {}", cell(file, "/file"), cell(file, "/why"))));
        }
        Ok(())
    }
}

fn number(import: &Value, what: &str) -> u64 {
    import.get(what).and_then(Value::as_u64).unwrap_or_default()
}
