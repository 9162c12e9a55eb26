//! Contexts: the appliances that a person works with, by name, each with its URL and key, and which of them is meant when
//! nothing is said. One JSON file, mode 0600, as it holds keys: `$BRIDGEHEAD_CONTEXTS`, else
//! `$XDG_CONFIG_HOME/bridgehead/contexts.json`, else `~/.config/bridgehead/contexts.json`.
//!
//! It is written to a new file and renamed: a killed command leaves the old one. A file that cannot be read is an error that
//! names it, and is never written over.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::output::{Table, print};

/// The file's content.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Contexts {
    /// The one that is meant when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// All of them.
    #[serde(default)]
    pub contexts: BTreeMap<String, Target>,
}

/// An appliance, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// `http://host:port` or `https://…`.
    pub url: String,
    /// The API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A file that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Certificates (PEM) that are trusted beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// `bridgehead context …`
#[derive(Debug, Args)]
pub struct ContextArgs {
    #[command(subcommand)]
    what: ContextCommand,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    /// List the contexts.
    List,
    /// Make a context, or change it; the first one becomes the current one.
    Set {
        /// Its name.
        name: String,
        /// Where the API is.
        #[arg(long)]
        url: String,
        /// The API key. A command line can be seen by others on the machine: rather `--key-file`, or `-` to be asked on stdin.
        #[arg(long, conflicts_with = "key_file")]
        key: Option<String>,
        /// A file that holds the key; it is read each time.
        #[arg(long)]
        key_file: Option<PathBuf>,
        /// Certificates (PEM) that are trusted beside the system's.
        #[arg(long)]
        ca: Option<PathBuf>,
    },
    /// Say which context is meant from now on.
    Use {
        /// Its name.
        name: String,
    },
    /// Forget a context.
    Delete {
        /// Its name.
        name: String,
    },
}

/// Does it.
///
/// # Errors
/// When the file cannot be read or written, or there is no such context.
pub fn run(args: ContextArgs) -> anyhow::Result<()> {
    let path = path()?;
    let mut all = Contexts::read(&path)?;
    match args.what {
        ContextCommand::List => {
            let mut table = Table::new(&["CURRENT", "NAME", "URL", "KEY"]);
            for (name, target) in &all.contexts {
                let mark = if all.current.as_deref() == Some(name) { "*" } else { "" };
                let key = match (&target.key, &target.key_file) {
                    (Some(_), _) => "kept here".to_owned(),
                    (None, Some(file)) => file.display().to_string(),
                    (None, None) => "none".to_owned(),
                };
                table.row(vec![mark.to_owned(), name.clone(), target.url.clone(), key]);
            }
            return print(&table.to_string());
        }
        ContextCommand::Set { name, url, key, key_file, ca } => {
            reqwest::Url::parse(&url).with_context(|| format!("{url:?} is no URL"))?;
            let key = match key.as_deref() {
                Some("-") => Some(io::read_to_string(io::stdin()).context("the key cannot be read")?.trim().to_owned()),
                _ => key,
            };
            let absolute = |file: PathBuf| std::path::absolute(&file).unwrap_or(file);
            let target = Target { url, key, key_file: key_file.map(absolute), ca: ca.map(absolute) };
            all.contexts.insert(name.clone(), target);
            all.current.get_or_insert(name);
        }
        ContextCommand::Use { name } => {
            if !all.contexts.contains_key(&name) {
                bail!("there is no context {name}; `bridgehead context list` shows them");
            }
            all.current = Some(name);
        }
        ContextCommand::Delete { name } => {
            if all.contexts.remove(&name).is_none() {
                bail!("there is no context {name}");
            }
            all.current = all.current.filter(|current| *current != name);
        }
    }
    all.write(&path)
}

/// Where the file is.
///
/// # Errors
/// When there is no home directory.
pub fn path() -> anyhow::Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("BRIDGEHEAD_CONTEXTS")
        .or_else(|| from("XDG_CONFIG_HOME").map(|dir| dir.join("bridgehead/contexts.json")))
        .or_else(|| from("HOME").map(|home| home.join(".config/bridgehead/contexts.json")))
        .context("there is no HOME to keep contexts in; set BRIDGEHEAD_CONTEXTS")
}

impl Contexts {
    /// Reads the file; without one there are none.
    ///
    /// # Errors
    /// When it is there and cannot be understood.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{} holds no contexts", path.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Contexts::default()),
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let cannot = || format!("{} cannot be written", path.display());
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(cannot)?;
        let fresh = path.with_extension(format!("json.{}", std::process::id()));
        let text = serde_json::to_vec_pretty(self).context("contexts are plain JSON")?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
        file.and_then(|mut file| file.write_all(&text).and_then(|()| file.write_all(b"\n"))).with_context(cannot)?;
        fs::rename(&fresh, path).with_context(cannot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_only_its_owner_can() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/contexts.json");
        assert_eq!(Contexts::read(&path).unwrap(), Contexts::default());
        let target = Target { url: "http://x".into(), key: Some("bh_1".into()), key_file: None, ca: None };
        let all = Contexts { current: Some("a".into()), contexts: [("a".to_owned(), target)].into() };
        all.write(&path).unwrap();
        assert_eq!(Contexts::read(&path).unwrap(), all);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "{\"what\": 1}").unwrap();
        assert!(Contexts::read(&path).unwrap_err().to_string().contains("holds no contexts"));
    }
}
