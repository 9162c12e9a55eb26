//! `bridgehead check`: what an appliance would say to a document, without one; and `bridgehead schema`.
//!
//! Files and directories together are one document, as in the watched directory. It is applied to an empty appliance in
//! memory: read, compiled, addresses given; no port is bound, nothing is written. Each thing that is wrong is a line
//! `file:line:column: pointer: what`, for people, editors and pipelines; with any, the exit code is 1.
//!
//! Secrets that are not where the document says (a variable, a file) are warnings: they may be there where the appliance
//! runs. `--strict` makes them errors.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use futures_util::FutureExt;

use crate::config::apply::{Applied, ApplyError, ApplyOptions};
use crate::config::directory::{self, DirectoryError, MOST_FILES};
use crate::config::document::{Document, DocumentError, MAX_TEXT, Text};
use crate::config::{Actor, ChangeError, Configuration, OpenOptions, document_schema};
use crate::model::host::HostName;
use crate::model::time::Timestamp;
use crate::store::scratch::Scratch;

/// What to check.
#[derive(Debug, Clone, clap::Args)]
pub struct Check {
    /// Files (*.json is JSON, everything else YAML) and directories of them: together one document.
    #[arg(required = true, value_name = "FILE|DIR")]
    pub paths: Vec<PathBuf>,
    /// A secret that cannot be read here is an error, not a warning.
    #[arg(long)]
    pub strict: bool,
    /// Where the appliance runs these directories are one, so a file name that is in two of them is an error: there one of the
    /// two files would hide the other.
    #[arg(long)]
    pub one_directory: bool,
    /// Where `{"file": …}` in the document may point.
    #[arg(long, env = "BRIDGEHEAD_SECRETS_DIR", default_value = "/etc/bridgehead/secrets", value_name = "DIR")]
    pub secrets_dir: PathBuf,
    /// The name of the host that the appliance will run on.
    #[arg(long, default_value = "localhost.localdomain", value_name = "NAME")]
    pub host_name: String,
}

/// Checks; says what is wrong on stdout and what is worth a warning on stderr.
///
/// # Errors
/// When the check cannot be made.
pub fn check(check: &Check) -> anyhow::Result<ExitCode> {
    let texts = match texts(&check.paths, check.one_directory) {
        Ok(texts) => texts,
        Err(error) => return say(&[error.to_string()]),
    };
    if check.one_directory {
        let mut wrong = hidden(&texts);
        if texts.len() > MOST_FILES {
            wrong.push(format!("there are more than {MOST_FILES} files in all"));
        }
        if !wrong.is_empty() {
            return say(&wrong);
        }
    }
    let document = match Document::read(texts) {
        Ok(document) => document,
        Err(DocumentError::Invalid(found)) => return say(&found),
        Err(error) => return say(&[error.to_string()]),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    match runtime.block_on(applied(check, &document).boxed_local())? {
        Ok(applied) => {
            for warning in &applied.warnings {
                eprintln!("warning: {}: {}", warning.object, warning.detail);
            }
            for lacking in document.placed(applied.tolerated) {
                eprintln!("warning: {lacking}");
            }
            println!("{} objects are good", document.len());
            Ok(ExitCode::SUCCESS)
        }
        Err(ApplyError::Invalid(found)) => say(&found),
        Err(ApplyError::Change(error)) => say(&[error.to_string()]),
    }
}

/// Prints the JSON schema of a document.
///
/// # Errors
/// When stdout is closed.
pub fn print_schema() -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    out.write_all(document_schema::text().as_bytes()).context("the schema could not be printed")?;
    Ok(ExitCode::SUCCESS)
}

fn texts(paths: &[PathBuf], one_directory: bool) -> Result<Vec<Text>, DirectoryError> {
    let (mut texts, mut room) = (Vec::new(), MAX_TEXT);
    let mut empty = None;
    for path in paths {
        if path.is_dir() {
            let found = match directory::texts(path, room) {
                Err(error @ DirectoryError::Empty(_)) if one_directory => {
                    empty = Some(error);
                    continue;
                }
                found => found?,
            };
            for text in found {
                let file = text.file.map(|name| path.join(name).display().to_string());
                room -= text.text.len();
                texts.push(Text { file, ..text });
            }
        } else {
            let text = directory::text(path, &path.display().to_string(), room)?;
            room -= text.text.len();
            texts.push(text);
        }
    }
    match empty {
        Some(error) if texts.is_empty() => Err(error),
        _ => Ok(texts),
    }
}

/// What to say of files that have the name of one before them.
fn hidden(texts: &[Text]) -> Vec<String> {
    let mut names = BTreeMap::new();
    let files = texts.iter().filter_map(|text| text.file.as_deref());
    let twice = files.filter_map(|file| {
        let other = names.insert(Path::new(file).file_name()?, file)?;
        Some(format!("{file}: {other} has the same name, and one would hide the other: give it another"))
    });
    twice.collect()
}

/// What becomes of it on an empty appliance.
async fn applied(check: &Check, document: &Document) -> anyhow::Result<Result<Applied, ApplyError>> {
    let host_name: HostName = check.host_name.parse().context("--host-name")?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp::from_millis(i64::try_from(now.as_millis()).unwrap_or_default());
    let options =
        OpenOptions { host_name, secrets_dir: check.secrets_dir.clone(), files: true, now: Arc::new(move || now) };
    let configuration = Configuration::open(Arc::new(Scratch::default()), options).await?;
    configuration.first_start_for_files().await?;
    let options = ApplyOptions { dry_run: true, lenient: !check.strict, ..ApplyOptions::new("file") };
    match configuration.apply(document, &options, &Actor::default()).await {
        Err(ApplyError::Change(ChangeError::Store(error) | ChangeError::NoSpace(error))) => Err(error.into()),
        told => Ok(told),
    }
}

fn say<T: std::fmt::Display>(found: &[T]) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for line in found {
        writeln!(out, "{line}").context("what is wrong could not be printed")?;
    }
    Ok(ExitCode::FAILURE)
}
