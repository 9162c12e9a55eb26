//! The watched directory: a set of files that says what its objects are, applied whenever it changes.
//!
//! `*.yaml`, `*.yml` and `*.json`, not below it, hidden names left out; the files are one document. It is applied with prune
//! for the owner `file`, takes over what it names, and replaces what the first start made ([`super::first_start`]).
//! **A bad set leaves the last good one in force**: a directory that is empty or cannot be read, a file that is broken, a port
//! that cannot be bound. It is told ([`Configuration::files`]), logged once, and tried again when the files change, and every now
//! and then, as it may be the surroundings that were wrong.
//!
//! Kubernetes swaps the files of a ConfigMap all at once, by a link; everybody else may write them one after the other. So a
//! set is read when it looks the same before and after reading, and only one that has come to rest is taken.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::answer::Actor;
use super::apply::{ApplyError, ApplyOptions};
use super::configuration::{Configuration, blocking};
use super::document::{Document, DocumentError, Format, MAX_TEXT, Placed, Text};
use super::history::RevisionKind;
use super::recipient_set::FILE;
use crate::model::time::Timestamp;

/// Most files of a set, and most names in the directory that are looked at.
pub const MOST_FILES: usize = 1_000;
const MOST_NAMES: usize = 10_000;
/// Violations that are logged and told of one bad set.
const MOST_TOLD: usize = 20;

/// How the watched directory stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files {
    /// Whether what it says now is in force; `None` while it was not looked at.
    pub accepted: Option<bool>,
    /// Why not.
    pub message: String,
    /// Since when.
    pub since: Option<Timestamp>,
}

/// Why a directory makes no document.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be read.
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    Unreadable(PathBuf, String),
    /// There is no file in it.
    #[error("{}: there is no *.yaml, *.yml or *.json file in it; an empty directory is never applied", .0.display())]
    Empty(PathBuf),
    /// The files are no valid document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// It is being written.
    #[error("{}: the files change while they are read", .0.display())]
    Restless(PathBuf),
}

/// Looks at a directory again and again.
pub struct Watcher {
    configuration: Arc<Configuration>,
    directory: PathBuf,
    /// How it looked when it was looked at last, and when it was taken last.
    seen: Option<Look>,
    taken: Option<Look>,
    /// Looks since the set that is there was refused.
    refused: Option<u32>,
}

/// How the files of a directory look, without reading them.
type Look = Result<Vec<(String, u64, u64, u64, i64, i64, i64)>, String>;

/// After how many looks a refused set is tried again though nothing changed.
const TRY_AGAIN: u32 = 15;

impl Configuration {
    /// How the watched directory stands; `None` when none is watched.
    pub fn files(&self) -> Option<Files> {
        self.has_files().then(|| self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }
}

impl Watcher {
    /// Of this directory.
    pub fn new(configuration: Arc<Configuration>, directory: PathBuf) -> Self {
        Watcher { configuration, directory, seen: None, taken: None, refused: None }
    }

    /// Looks once, and applies what is there when it is another set than before and has come to rest. For a caller that does
    /// this every second or two.
    pub async fn look(&mut self) {
        let directory = self.directory.clone();
        let look = match blocking(move || look(&directory)).await {
            Ok(look) => look,
            Err(error) => Err(error.to_string()),
        };
        let rests = self.seen.is_none() || self.seen.as_ref() == Some(&look);
        self.seen = Some(look.clone());
        if !rests {
            return;
        }
        let again = self.refused.as_mut().is_some_and(|looks| {
            *looks += 1;
            looks.is_multiple_of(TRY_AGAIN)
        });
        if self.taken.as_ref() == Some(&look) && !again {
            return;
        }
        let directory = self.directory.clone();
        let read = blocking(move || read(&directory)).await.map_err(|error| error.to_string());
        let outcome = match read {
            Ok(Ok((document, read))) if Ok(&read) == look.as_ref() => self.apply(&document).await,
            // it is looked at again at once
            Ok(Ok(_)) | Ok(Err(DirectoryError::Restless(_))) => return,
            Ok(Err(error)) => Err(told(&error)),
            Err(error) => Err(error),
        };
        self.taken = Some(look);
        self.refused = outcome.is_err().then_some(0);
        self.tell(outcome);
    }

    async fn apply(&self, document: &Document) -> Result<(), String> {
        let options = ApplyOptions {
            prune: true,
            take_over: true,
            replace_first: true,
            kind: RevisionKind::Directory,
            ..ApplyOptions::new(FILE)
        };
        let actor = Actor { key: "config-dir".to_owned(), ..Actor::default() };
        match self.configuration.apply(document, &options, &actor).await {
            Ok(applied) => {
                let (created, updated, deleted) = (applied.created, applied.updated, applied.deleted);
                if created + updated + deleted > 0 {
                    tracing::info!(
                        revision = applied.revision,
                        created,
                        updated,
                        deleted,
                        "the watched directory is in force"
                    );
                }
                Ok(())
            }
            Err(ApplyError::Invalid(found)) => Err(list(&found)),
            Err(ApplyError::Change(error)) => Err(error.to_string()),
        }
    }

    fn tell(&self, outcome: Result<(), String>) {
        let mut files = self.configuration.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = files.clone();
        files.accepted = Some(outcome.is_ok());
        files.message = outcome.err().unwrap_or_default();
        if before.accepted != files.accepted {
            files.since = Some(self.configuration.now());
        }
        if !files.message.is_empty() && files.message != before.message {
            tracing::error!(directory = %self.directory.display(), error = files.message,
                "the watched directory cannot be used as it is now; what was in force stays");
        } else if before.accepted == Some(false) && files.accepted == Some(true) {
            tracing::info!(directory = %self.directory.display(), "the watched directory can be used again");
        }
    }
}

fn told(error: &DirectoryError) -> String {
    match error {
        DirectoryError::Document(DocumentError::Invalid(found)) => list(found),
        other => other.to_string(),
    }
}

fn list(found: &[Placed]) -> String {
    let mut lines: Vec<String> = found.iter().take(MOST_TOLD).map(ToString::to_string).collect();
    if found.len() > MOST_TOLD {
        lines.push(format!("and {} more", found.len() - MOST_TOLD));
    }
    lines.join("; ")
}

/// The document that the files of a directory are, and how they looked while they were read.
#[allow(clippy::type_complexity, reason = "the look is this file's own")]
fn read(directory: &Path) -> Result<(Document, Vec<(String, u64, u64, u64, i64, i64, i64)>), DirectoryError> {
    let unreadable = |detail: String| DirectoryError::Unreadable(directory.to_owned(), detail);
    let before = look(directory).map_err(unreadable)?;
    let texts = texts(directory, MAX_TEXT)?;
    let after = look(directory).map_err(unreadable)?;
    if before != after {
        return Err(DirectoryError::Restless(directory.to_owned()));
    }
    Ok((Document::read(texts)?, after))
}

/// The texts of a directory's files, by name; of at most `room` bytes in all.
///
/// # Errors
/// See [`DirectoryError`].
pub fn texts(directory: &Path, mut room: usize) -> Result<Vec<Text>, DirectoryError> {
    let unreadable = |detail: String| DirectoryError::Unreadable(directory.to_owned(), detail);
    let names = names(directory).map_err(unreadable)?;
    if names.is_empty() {
        return Err(DirectoryError::Empty(directory.to_owned()));
    }
    let mut texts = Vec::new();
    for name in names {
        let text = text(&directory.join(&name), &name, room)?;
        room -= text.text.len();
        texts.push(text);
    }
    Ok(texts)
}

/// The text of one file, of at most `room` bytes; `shown` is what it is called.
///
/// # Errors
/// See [`DirectoryError`].
pub fn text(path: &Path, shown: &str, room: usize) -> Result<Text, DirectoryError> {
    let unreadable = |detail: String| DirectoryError::Unreadable(path.to_owned(), detail);
    if !fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.is_file() {
        return Err(unreadable("it is no regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    let opened = fs::File::open(path).and_then(|file| file.take(room as u64 + 1).read_to_end(&mut bytes));
    opened.map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() > room {
        return Err(unreadable(format!("all files together have at most {MAX_TEXT} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
    let format = if path.extension().is_some_and(|end| end == "json") { Format::Json } else { Format::Yaml };
    Ok(Text { file: Some(shown.to_owned()), format, text })
}

/// Names of the files that count, in order.
fn names(directory: &Path) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let entries = fs::read_dir(directory).map_err(|error| error.to_string())?;
    for entry in entries.take(MOST_NAMES) {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        let Some(name) = name.to_str() else { continue };
        let counts = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end)) && !name.starts_with('.');
        // what a name like that leads to is looked at when it is read; a directory is none of ours
        if counts && !directory.join(name).is_dir() {
            names.push(name.to_owned());
        }
        if names.len() > MOST_FILES {
            return Err(format!("there are more than {MOST_FILES} files in it"));
        }
    }
    names.sort();
    Ok(names)
}

fn look(directory: &Path) -> Look {
    let one = |name: String| {
        // through links: a ConfigMap's files change by one
        let of = fs::metadata(directory.join(&name)).map_err(|error| format!("{name}: {error}"))?;
        let (device, inode, length) = (of.dev(), of.ino(), of.len());
        Ok((name, device, inode, length, of.mtime(), of.mtime_nsec(), of.ctime_nsec()))
    };
    names(directory)?.into_iter().map(one).collect()
}
