//! `apply`, `diff`, `config`: the whole configuration as one document.
//!
//! One file goes to the appliance as it is, so that its errors name the lines. Several files, or a directory, are one set: they
//! are read here, and an object in two of them is refused, as the watched directory refuses it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use reqwest::Method;
use serde_json::{Map, Value};

use super::client::{Body, Client, Refusal, Which};
use super::output::{Form, Table, ago, cell, plain, print, print_octets, print_value, say};

/// Files of a document.
#[derive(Debug, clap::Args)]
pub struct Files {
    /// A file, a directory of files, or `-` for stdin. Repeatable: all together are one document.
    #[arg(short, long = "file", required = true, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Delete what the same owner applied before and this leaves out.
    #[arg(long)]
    prune: bool,
    /// Whose the objects are.
    #[arg(long)]
    owner: Option<String>,
    /// Also write what belongs to another owner.
    #[arg(long)]
    take_over: bool,
    /// Only when this revision is in force.
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// In which form to tell what happened.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    which: Which,
}

/// `bridgehead apply -f FILE…`
#[derive(Debug, clap::Args)]
pub struct Apply {
    #[command(flatten)]
    files: Files,
    /// Only say what it would do.
    #[arg(long)]
    dry_run: bool,
}

/// `bridgehead diff -f FILE…`
#[derive(Debug, clap::Args)]
pub struct Diff {
    #[command(flatten)]
    files: Files,
}

/// `bridgehead config …`
#[derive(Debug, clap::Args)]
pub struct Config {
    #[command(subcommand)]
    what: ConfigCommand,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Print the whole configuration as a document that can be applied again.
    Export {
        /// With the values of secrets; needs the scope `secrets:read`.
        #[arg(long)]
        secrets: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// List revisions, newest first.
    Revisions {
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// In which form.
        #[arg(short, long, value_enum, default_value_t)]
        output: Form,
    },
    /// Show what is different between two revisions, or what one changed.
    Diff {
        /// The one.
        from: u64,
        /// The other; without it: what `from` changed.
        to: Option<u64>,
    },
    /// Go back to what was in force at a revision, in a new revision.
    Rollback {
        /// The revision.
        revision: u64,
        /// Only say what it would do.
        #[arg(long)]
        dry_run: bool,
    },
}

impl Apply {
    /// Does it.
    ///
    /// # Errors
    /// When a file cannot be read, or the appliance refuses: then nothing has changed.
    pub async fn run(self) -> anyhow::Result<()> {
        let answer = self.files.send(self.dry_run).await?;
        match self.files.output {
            Form::Json | Form::Yaml => print_value(&answer, self.files.output),
            Form::Name | Form::Table => print(&words(&answer, false)),
        }
    }
}

impl Diff {
    /// Does it: exit status 0 when nothing is different, 1 when something is.
    ///
    /// # Errors
    /// When a file cannot be read, or the appliance refuses (the caller exits with 2).
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let answer = self.files.send(true).await?;
        match self.files.output {
            Form::Json | Form::Yaml => print_value(&answer, self.files.output)?,
            Form::Name | Form::Table => print(&words(&answer, true))?,
        }
        let count = |what: &str| answer.get(what).and_then(Value::as_u64).unwrap_or_default();
        let same = count("created") + count("updated") + count("deleted") == 0;
        Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

impl Config {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses, or cannot be reached.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = Client::of(&self.which)?;
        match self.what {
            ConfigCommand::Export { secrets, json } => {
                let accept = if json { "application/json" } else { "application/yaml" };
                let query = if secrets { vec![("secrets", "include".to_owned())] } else { vec![] };
                let mut answer = client.ask_as(Method::GET, "/api/v1/config", &query, Body::None, accept).await?;
                while let Some(chunk) = answer.chunk().await.context("the answer was cut")? {
                    print_octets(&chunk)?;
                }
                Ok(())
            }
            ConfigCommand::Revisions { limit, output } => {
                let found = client.list("/api/v1/config/revisions", &[], limit.max(1)).await?;
                if matches!(output, Form::Json | Form::Yaml) {
                    return print_value(&serde_json::json!({"items": found.items}), output);
                }
                let mut table =
                    Table::new(&["REVISION", "WHEN", "BY", "FROM", "KIND", "CREATED", "UPDATED", "DELETED", "OBJECTS"]);
                for revision in &found.items {
                    let mut row =
                        ["/revision", "/at", "/by", "/client", "/kind", "/created", "/updated", "/deleted", "/objects"]
                            .map(|at| cell(revision, at))
                            .to_vec();
                    row[1] = ago(&row[1]);
                    table.row(row);
                }
                print(&table.to_string())
            }
            ConfigCommand::Diff { from, to } => {
                let path = match to {
                    Some(to) => format!("/api/v1/config/revisions/{from}/diff/{to}"),
                    None => format!("/api/v1/config/revisions/{from}"),
                };
                let answer = client.get(&path, &[]).await?;
                let changes = answer.get("changes").unwrap_or(&answer);
                print(&words(changes, true))
            }
            ConfigCommand::Rollback { revision, dry_run } => {
                let query = if dry_run { vec![("dryRun", "true".to_owned())] } else { vec![] };
                let path = format!("/api/v1/config/revisions/{revision}/rollback");
                let answer = client.json(Method::POST, &path, &query, Body::None).await?;
                print(&words(&answer, true))
            }
        }
    }
}

impl Files {
    async fn send(&self, dry_run: bool) -> anyhow::Result<Value> {
        let client = Client::of(&self.which)?;
        let (of, text, file) = self.read()?;
        let mut query = Vec::new();
        let mut flag = |name, on: bool| query.extend(on.then(|| (name, "true".to_owned())));
        flag("dryRun", dry_run);
        flag("prune", self.prune);
        flag("takeOver", self.take_over);
        query.extend(self.owner.clone().map(|owner| ("owner", owner)));
        query.extend(self.if_revision.map(|revision| ("ifRevision", revision.to_string())));
        let answer = client.json(Method::POST, "/api/v1/config/apply", &query, Body::Typed(of, text.into())).await;
        answer.map_err(|error| match error.downcast::<Refusal>() {
            Ok(refusal) => anyhow::Error::new(Refusal { file, ..refusal }),
            Err(error) => error,
        })
    }

    /// The document, its type, and the one file that it is from.
    fn read(&self) -> anyhow::Result<(&'static str, String, Option<String>)> {
        let mut files = Vec::new();
        for path in &self.file {
            match path.is_dir() {
                true => files.extend(of_directory(path)?),
                false => files.push(path.clone()),
            }
        }
        if let [one] = files.as_slice() {
            let (text, name) = read(one)?;
            let of =
                if one.extension().is_some_and(|end| end == "json") { "application/json" } else { "application/yaml" };
            return Ok((of, text, Some(name)));
        }
        let mut whole = Map::new();
        let mut home: BTreeMap<String, String> = BTreeMap::new();
        for path in &files {
            let (text, name) = read(path)?;
            let part: Value = serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
            let Value::Object(part) = part else { bail!("{name}: a document is a mapping of collections") };
            for (collection, objects) in part {
                match (whole.entry(&collection).or_insert(Value::Object(Map::new())), objects) {
                    (Value::Object(there), Value::Object(objects)) => {
                        for (object, spec) in objects {
                            let key = format!("{collection}/{object}");
                            if let Some(first) = home.insert(key.clone(), name.clone()) {
                                bail!("{key} is in {first} and in {name}");
                            }
                            there.insert(object, spec);
                        }
                    }
                    (there, other) => *there = other,
                }
            }
        }
        Ok(("application/json", Value::Object(whole).to_string(), None))
    }
}

/// The files of a directory that make a document, in order of their names.
fn of_directory(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot = || format!("{} cannot be read", path.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let fits = path.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known));
        if fits && !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("{} has no *.yaml, *.yml or *.json", path.display());
    }
    Ok(files)
}

fn read(path: &Path) -> anyhow::Result<(String, String)> {
    if path.as_os_str() == "-" {
        return Ok((io::read_to_string(io::stdin()).context("stdin cannot be read")?, "stdin".to_owned()));
    }
    let name = path.display().to_string();
    Ok((fs::read_to_string(path).with_context(|| format!("{name} cannot be read"))?, name))
}

/// What an apply did, or would do, for people; `deep` with every value.
fn words(answer: &Value, deep: bool) -> String {
    let mut out = String::new();
    let dry = answer.get("dryRun").and_then(Value::as_bool) == Some(true);
    for object in answer.get("objects").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default() {
        let (name, change) = (cell(object, "/object"), cell(object, "/change"));
        if change == "unchanged" && (deep || dry) {
            continue;
        }
        let would = if dry && change != "unchanged" { "would be " } else { "" };
        out.push_str(&plain(&format!("{name} {would}{change}")));
        out.push('\n');
        let differences = object.get("diff").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for difference in differences.iter().filter(|_| deep) {
            let pointer = plain(&cell(difference, "/pointer"));
            for (mark, which) in [("-", "before"), ("+", "after")] {
                if let Some(value) = difference.get(which).filter(|value| !value.is_null()) {
                    out.push_str(&format!("  {mark} {pointer}: {}\n", plain(&value.to_string())));
                }
            }
        }
    }
    for warning in answer.get("warnings").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default() {
        say(&format!(
            "warning: {} {}: {}",
            cell(warning, "/object"),
            cell(warning, "/pointer"),
            cell(warning, "/detail")
        ));
    }
    let counts = ["created", "updated", "unchanged", "deleted"].map(|word| (word, cell(answer, &format!("/{word}"))));
    if counts.iter().any(|(_, count)| !count.is_empty()) {
        let counts: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
        let revision = cell(answer, "/revision");
        let how = if dry { "dry run, nothing was changed" } else { "in force" };
        say(&format!("{}; revision {revision}, {how}", counts.join(", ")));
    }
    if let Some(moved) = answer.pointer("/effects/queuedMail/moved").and_then(Value::as_u64).filter(|moved| *moved > 0)
    {
        say(&format!("{moved} messages that wait {} to other queues", if dry { "would move" } else { "move" }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(file: Vec<PathBuf>) -> Files {
        let which = Which::default();
        Files { file, prune: false, owner: None, take_over: false, if_revision: None, output: Form::Table, which }
    }

    #[test]
    fn files_of_a_directory_are_one_document_and_an_object_is_in_one_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("a.yaml", "apiVersion: v1\nconnectors:\n  a:\n    enabled: true\n");
        write("b.json", r#"{"connectors": {"b": {}}, "settings": {"organization": "x"}}"#);
        write(".hidden.yaml", "no: [");
        write("c.txt", "no");
        let (of, text, file) = files(vec![dir.path().to_owned()]).read().unwrap();
        let whole: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((of, file), ("application/json", None));
        assert_eq!(
            whole,
            serde_json::json!({"apiVersion": "v1", "connectors": {"a": {"enabled": true}, "b": {}}, "settings": {"organization": "x"}})
        );
        write("d.yml", "connectors: {a: {}}\n");
        let refused = files(vec![dir.path().to_owned()]).read().unwrap_err().to_string();
        assert!(refused.starts_with("connectors/a is in ") && refused.contains("d.yml"), "{refused}");
    }

    #[test]
    fn one_file_goes_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.yaml");
        fs::write(&path, "connectors: {}\n").unwrap();
        let (of, text, file) = files(vec![path.clone()]).read().unwrap();
        assert_eq!(
            (of, text.as_str(), file),
            ("application/yaml", "connectors: {}\n", Some(path.display().to_string()))
        );
    }
}
