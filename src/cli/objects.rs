//! `get`, `describe`, `delete`: what every kind of thing has in common.

use anyhow::bail;
use reqwest::Method;
use serde_json::Value;

use super::client::{Body, Client, Which, segment};
use super::kinds::{Kind, is_bad};
use super::output::{Form, Table, ago, cell, print, print_value, say, yaml};

/// `bridgehead get KIND [NAME…]`
#[derive(Debug, clap::Args)]
pub struct Get {
    /// The kind: connectors, queues, messages, …, also in the singular or short.
    #[arg(value_parser = Kind::parse)]
    kind: &'static Kind,
    /// Only these.
    names: Vec<String>,
    /// Only objects whose labels fit, such as `team=mail,stage!=test`.
    #[arg(short = 'l', long = "selector")]
    selector: Option<String>,
    /// A filter of the listing, as in the API: `--filter recipient=*@example.com`, `--filter olderThan=1h`. Repeatable.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    filter: Vec<(String, String)>,
    /// At most so many; 0 for all.
    #[arg(long, default_value_t = 500)]
    limit: usize,
    /// In which form.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    which: Which,
}

/// `bridgehead describe KIND NAME`
#[derive(Debug, clap::Args)]
pub struct Describe {
    /// The kind.
    #[arg(value_parser = Kind::parse)]
    kind: &'static Kind,
    /// Its name or id.
    name: String,
    #[command(flatten)]
    which: Which,
}

/// `bridgehead delete KIND NAME…`
#[derive(Debug, clap::Args)]
pub struct Delete {
    /// The kind.
    #[arg(value_parser = Kind::parse)]
    kind: &'static Kind,
    /// Their names or ids.
    #[arg(required = true)]
    names: Vec<String>,
    /// Only say what it would do.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    which: Which,
}

/// Parses `name=value`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has the form NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Get {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses, or cannot be reached.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        let kind = self.kind;
        if !self.names.is_empty() {
            if self.selector.is_some() || !self.filter.is_empty() {
                bail!("names, or a selector and filters, not both");
            }
            let mut items = Vec::new();
            for name in &self.names {
                items.push(client.get(&format!("{}/{}", kind.url(), segment(name)), &[]).await?);
            }
            return match (self.output, items.as_slice()) {
                (Form::Json | Form::Yaml, [one]) => print_value(one, self.output),
                _ => show(kind, items, false, self.output),
            };
        }
        let selector = self.selector.iter().map(|selector| ("labelSelector", selector.clone()));
        let filters = self.filter.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let query: Vec<_> = selector.chain(filters).collect();
        let most = if self.limit == 0 { usize::MAX } else { self.limit };
        let found = client.list(&kind.url(), &query, most).await?;
        show(kind, found.items, found.more, self.output)
    }
}

/// Shows items of a kind.
pub fn show(kind: &Kind, items: Vec<Value>, more: bool, form: Form) -> anyhow::Result<()> {
    match form {
        Form::Json | Form::Yaml => print_value(&serde_json::json!({"items": items}), form)?,
        Form::Name => {
            print(&items.iter().map(|item| format!("{}/{}\n", kind.path, cell(item, kind.name))).collect::<String>())?;
        }
        Form::Table => {
            let mut table = Table::new(&kind.heads());
            items.iter().for_each(|item| table.row(kind.row(item)));
            match table.is_empty() {
                true => say(&format!("no {}", kind.path)),
                false => print(&table.to_string())?,
            }
        }
    }
    if more {
        say(&format!("there are more than these {}; --limit 0 shows all", items.len()));
    }
    Ok(())
}

impl Describe {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses, or cannot be reached.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        let kind = self.kind;
        let path = format!("{}/{}", kind.url(), segment(&self.name));
        let mut item = client.get(&path, &[]).await?;
        let conditions = item.pointer_mut("/status/conditions").map(Value::take);
        print(&yaml(&item)?)?;
        if let Some(Value::Array(conditions)) =
            conditions.filter(|all| all.as_array().is_some_and(|all| !all.is_empty()))
        {
            let mut table = Table::new(&["CONDITION", "STATUS", "SINCE", "", "REASON", "MESSAGE"]);
            for condition in &conditions {
                let since = cell(condition, "/lastTransitionTime");
                let since = if since.is_empty() { since } else { ago(&since) };
                let mark = if is_bad(condition) { "!" } else { "" };
                let [of, status, reason, message] =
                    ["/type", "/status", "/reason", "/message"].map(|at| cell(condition, at));
                table.row(vec![of, status, since, mark.to_owned(), reason, message]);
            }
            print(&format!("\n{table}"))?;
        }
        match kind.path {
            "connectors" => {
                self.also(&client, "queues", ("connector", &self.name), |queue| cell(queue, "/connector") == self.name)
                    .await
            }
            "queues" => self.also(&client, "messages", ("queue", &self.name), |_| true).await,
            "messages" => {
                let events = client.get(&format!("{path}/events"), &[]).await?;
                let mut table = Table::new(&["TIME", "EVENT", "QUEUE", "NEXT HOP", "REPLY"]);
                for event in events.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default() {
                    let reply = [cell(event, "/reply"), cell(event, "/failure/diagnostic")]
                        .into_iter()
                        .find(|text| !text.is_empty());
                    let [at, of, queue, hop] = ["/at", "/event", "/queue", "/nextHop"].map(|at| cell(event, at));
                    table.row(vec![at, of, queue, hop, reply.unwrap_or_default()]);
                }
                print(&format!("\n{table}"))
            }
            _ => Ok(()),
        }
    }

    /// The first of another kind that belong to it.
    async fn also(
        &self,
        client: &Client,
        of: &str,
        filter: (&str, &str),
        fits: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<()> {
        let Some(kind) = Kind::find(of) else { return Ok(()) };
        // queues have no filters: there are few of them
        let query = if of == "queues" { vec![] } else { vec![(filter.0, filter.1.to_owned())] };
        let mut found = client.list(&kind.url(), &query, if of == "queues" { 1_000 } else { 10 }).await?;
        found.items.retain(|item| fits(item));
        if found.items.is_empty() {
            return Ok(());
        }
        print("\n")?;
        show(kind, found.items, false, Form::Table)
    }
}

impl Delete {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses, or cannot be reached: then those before it are gone.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        if self.dry_run && !self.kind.is_configuration() {
            bail!("{} have no dry run", self.kind.path);
        }
        for name in &self.names {
            let query = if self.dry_run { vec![("dryRun", "true".to_owned())] } else { vec![] };
            let path = format!("{}/{}", self.kind.url(), segment(name));
            let answer = client.json(Method::DELETE, &path, &query, Body::None).await?;
            let how = if self.dry_run { "would be deleted" } else { "deleted" };
            print(&format!("{}/{name} {how}\n", self.kind.path))?;
            if self.dry_run && !answer.is_null() {
                print(&yaml(&answer)?)?;
            }
        }
        Ok(())
    }
}
