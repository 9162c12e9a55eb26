//! Looks at a store that no process has open, says what is wrong, and repairs what can be.
//!
//! There is no second reader: [`examine`] lets the start of the appliance happen on a disk that keeps every write to itself
//! ([`rehearsal`]), so what it finds is what the next start would find and do. Beyond that it reads what a start does not: the
//! content of every message ([`mail`]), modes and names of files ([`files`]), tracking, request keys, and a copy of sled.
//!
//! [`repair`] does only what is safe. What is in the way is set aside under `aside/`, never deleted; damaged mail is dealt with as
//! recovery does, on the real disk. A broken configuration, or a lost file of the store, cannot be made up: that needs a backup.
//!
//! Memory: the envelopes of the queue, some 1 KiB a message, and one segment at a time.

mod files;
mod mail;
mod rehearsal;
mod repair;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use self::rehearsal::Rehearsal;
use super::config_log::{ConfigLog, ConfigLogError};
use super::database::Database;
use super::disk::{Disk, RealDisk};
use super::{OpenError, Options, read_identity, requests, restore, tracking};
use crate::model::mail::MessageId;
use crate::store::data_dir::{RESTORED_FROM, RESTORING};

pub use repair::repair;

/// The largest database that is copied to be looked at.
const MOST_DATABASE: u64 = 2 << 30;

/// Findings that are kept; a disk that is broken all over has more.
const MOST_FINDINGS: usize = 10_000;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Something that was there is lost, or the appliance does not start.
    Error,
    /// Nothing is lost, but it should not be so.
    Warning,
    /// The next start sees to it, or it is only to be known.
    Notice,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file, in the data directory.
    pub file: String,
    /// Where in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// What an examination found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// Everything worth a line, the worst first.
    pub findings: Vec<Finding>,
    /// Further ones, which were only counted.
    pub more: u64,
    /// Messages in the queue.
    pub messages: u64,
    /// Records of messages whose content was read and fits.
    pub records: u64,
    /// What to repair.
    #[serde(skip)]
    cures: Cures,
}

/// What [`repair`] can do.
#[derive(Debug, Default)]
struct Cures {
    /// Modes to set.
    modes: Vec<(PathBuf, u32)>,
    /// Files to set aside.
    aside: BTreeSet<PathBuf>,
    /// Messages whose content cannot be read.
    unreadable: Vec<MessageId>,
    /// The journal is damaged; recovery steps over it.
    journal: bool,
    /// sled cannot be used.
    database: bool,
}

impl Diagnosis {
    /// Whether there is anything that should not be so.
    pub fn is_well(&self) -> bool {
        self.more == 0 && self.findings.iter().all(|finding| finding.severity == Severity::Notice)
    }

    fn find(&mut self, severity: Severity, file: &str, offset: Option<u64>, what: impl Into<String>, advice: &str) {
        if self.findings.len() >= MOST_FINDINGS {
            self.more += 1;
            return;
        }
        let (file, what, advice) = (file.to_owned(), what.into(), advice.to_owned());
        self.findings.push(Finding { severity, file, offset, what, advice });
    }
}

/// What is done about things.
const REPAIR: &str = "doctor --repair";
const BACKUP: &str = "restore a backup into an empty directory";

/// Examines a store; nothing is changed.
///
/// # Errors
/// When it cannot be looked at: a process has it open, there is no store, the disk fails.
pub fn examine(data: &Path) -> Result<Diagnosis, OpenError> {
    let at_data = |source| OpenError::Io { path: data.to_owned(), source };
    fs::read_dir(data).map_err(at_data)?;
    let _lock = lock(data)?;
    let mut diagnosis = Diagnosis::default();
    if restore::is_unfinished(data) {
        let advice = "empty the directory, then restore again";
        diagnosis.find(Severity::Error, RESTORING, None, "a restore was not finished; no process starts here", advice);
        return Ok(diagnosis);
    }
    let disk = Arc::new(Rehearsal::default());
    files::look(data, &mut diagnosis).map_err(at_data)?;
    let store_id = match read_identity(&*disk, data) {
        Ok(Some(id)) => id,
        Ok(None) => {
            let source = io::Error::new(io::ErrorKind::NotFound, "there is no store here");
            return Err(at_data(source));
        }
        Err(error @ (OpenError::Damaged { .. } | OpenError::Newer { .. })) => {
            diagnosis.find(Severity::Error, "store", None, error.to_string(), BACKUP);
            return Ok(sorted(diagnosis));
        }
        Err(error) => return Err(error),
    };
    if let Some(copy) = restore::to_be_held(data).map_err(at_data)? {
        let what = format!("restored from the {copy}; the first start freezes what is queued");
        diagnosis.find(Severity::Notice, RESTORED_FROM, None, what, "nothing");
    }
    let config = configuration(&disk, data, store_id, &mut diagnosis);
    let groups = mail::look(&disk, data, store_id, &mut diagnosis)?;
    // not on the rehearsed disk, where a start has dealt with them
    keys(&Rehearsal::default(), data, store_id, &mut diagnosis).map_err(at_data)?;
    history(data, &mut diagnosis).map_err(at_data)?;
    database(data, store_id, config, groups, &mut diagnosis);
    left_behind(&disk, data, &mut diagnosis);
    let (free, reserve) = (RealDisk.free_space(data).map_err(at_data)?, Options::new(data).reserve);
    if free < reserve {
        let what = format!("{free} octets are free on this disk; below {reserve} no mail is taken");
        diagnosis.find(Severity::Warning, ".", None, what, "make room, or give it a larger volume");
    }
    Ok(sorted(diagnosis))
}

fn sorted(mut diagnosis: Diagnosis) -> Diagnosis {
    diagnosis.findings.sort_by(|a, b| (a.severity, &a.file, a.offset).cmp(&(b.severity, &b.file, b.offset)));
    diagnosis
}

/// The lock, without making one: a store that never had a process has none, and the disk may be read-only.
fn lock(data: &Path) -> Result<Option<fs::File>, OpenError> {
    let path = data.join("lock");
    match fs::File::open(&path) {
        Ok(file) => super::lock_file(file, &path, data).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::Io { path, source }),
    }
}

/// A path as findings name it.
fn within(data: &Path, path: &Path) -> String {
    match path.strip_prefix(data).unwrap_or(path) {
        inner if inner.as_os_str().is_empty() => ".".to_owned(),
        inner => inner.display().to_string(),
    }
}

/// Reads all of the configuration; gives the first and last change that sled may be at.
fn configuration(
    disk: &Arc<Rehearsal>,
    data: &Path,
    store_id: [u8; 16],
    diagnosis: &mut Diagnosis,
) -> Option<std::ops::RangeInclusive<u64>> {
    match ConfigLog::open(disk.clone(), &data.join("config"), store_id) {
        Ok(log) => {
            if disk.is_written(&data.join("config/checkpoint")) {
                let what = "the last change was torn by a crash; it was never acknowledged";
                diagnosis.find(Severity::Notice, "config/log", None, what, "nothing: the next start drops it");
            }
            Some(log.checkpoint_sequence()..=log.sequence())
        }
        Err(error) => {
            let path = match &error {
                ConfigLogError::Io { path, .. }
                | ConfigLogError::Damaged { path, .. }
                | ConfigLogError::InDoubt { path }
                | ConfigLogError::Newer { path, .. } => within(data, path),
                ConfigLogError::Source(_) => "config".to_owned(),
            };
            let advice = match error {
                ConfigLogError::Newer { .. } => "run the newer version",
                _ => "restore this file, or all, from a backup; the appliance does not start without it",
            };
            diagnosis.find(Severity::Error, &path, None, error.to_string(), advice);
            None
        }
    }
}

/// The keys of requests.
fn keys(disk: &dyn Disk, data: &Path, store_id: [u8; 16], diagnosis: &mut Diagnosis) -> io::Result<()> {
    for (name, offset) in requests::inspect(disk, data, &store_id)? {
        let what = "cannot be read from here on: the end of a crash, or damage; request keys behind it are not known";
        let severity = if offset == 0 { Severity::Warning } else { Severity::Notice };
        let advice = "nothing: the next start passes it over; a request that is repeated within 24 hours may bring its mail twice";
        diagnosis.find(severity, &format!("requests/{name}"), Some(offset), what, advice);
    }
    Ok(())
}

/// Message tracking.
fn history(data: &Path, diagnosis: &mut Diagnosis) -> io::Result<()> {
    for found in tracking::inspect(data)? {
        let severity = if found.is_harmless { Severity::Notice } else { Severity::Warning };
        let advice = "nothing: mail is not concerned";
        diagnosis.find(severity, &within(data, &found.path), Some(found.offset), found.what, advice);
    }
    Ok(())
}

/// sled, in a copy: opening it would write.
fn database(
    data: &Path,
    store_id: [u8; 16],
    config: Option<std::ops::RangeInclusive<u64>>,
    groups: Option<std::ops::RangeInclusive<u64>>,
    diagnosis: &mut Diagnosis,
) {
    let dir = data.join("db");
    if !dir.exists() {
        let what = "is not there, as after a restore";
        diagnosis.find(
            Severity::Notice,
            "db",
            None,
            what,
            "nothing: the next start makes it from journal and configuration",
        );
        return;
    }
    let copied = files::Copied::of(&dir, MOST_DATABASE);
    let copied = match copied {
        Ok(copied) => copied,
        Err(error) => {
            let what = format!("was not looked at: it could not be copied to a temporary directory: {error}");
            diagnosis.find(Severity::Notice, "db", None, what, "nothing: a start rebuilds it when it does not fit");
            return;
        }
    };
    let wrong = match Database::examine(copied.path(), store_id) {
        Err(why) => Some(why),
        Ok((mail, of_config)) => {
            let outside = |range: &std::ops::RangeInclusive<u64>, at: u64| !range.contains(&at);
            if groups.as_ref().is_some_and(|groups| outside(groups, mail)) {
                Some(format!("it has taken in group {mail}, the journal has {groups:?}"))
            } else if config.zip(of_config).is_some_and(|(config, at)| outside(&config, at)) {
                let what = "has not followed the configuration; it is filled anew";
                diagnosis.find(Severity::Notice, "db", None, what, "nothing: the next start does it");
                None
            } else {
                None
            }
        }
    };
    if let Some(why) = wrong {
        diagnosis.cures.database = true;
        let advice = format!(
            "{REPAIR} sets it aside; the next start makes it anew from journal and configuration, and nothing is lost"
        );
        diagnosis.find(Severity::Warning, "db", None, format!("does not fit, or is damaged: {why}"), &advice);
    }
}

/// What the rehearsed start would have removed.
fn left_behind(disk: &Rehearsal, data: &Path, diagnosis: &mut Diagnosis) {
    for path in disk.gone() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let in_dir = |dir: &str| path.parent() == Some(&*data.join(dir));
        let what = match () {
            () if name.ends_with(".tmp") => "is a temporary file that a crash left",
            () if in_dir("large") => "belongs to no message",
            // spares, segments that were told of already, request keys that have passed
            () => continue,
        };
        diagnosis.cures.aside.insert(path.clone());
        let advice = format!("nothing: the next start removes it; {REPAIR} sets it aside");
        diagnosis.find(Severity::Notice, &within(data, &path), None, what, &advice);
    }
}
