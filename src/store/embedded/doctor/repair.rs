//! What can be repaired without losing anything.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use super::{Diagnosis, within};
use crate::store::data_dir::ASIDE;
use crate::store::embedded::config_log::ConfigLog;
use crate::store::embedded::database::Database;
use crate::store::embedded::disk::{Disk, RealDisk};
use crate::store::embedded::{OpenError, Options, lock, open_mail, read_identity};

/// Repairs what a diagnosis found; says what was done, in words.
///
/// # Errors
/// When a process has the store open, or the disk fails in the middle; what was done so far stays done.
pub fn repair(data: &Path, diagnosis: &Diagnosis) -> Result<Vec<String>, OpenError> {
    let _lock = lock(data)?;
    let cures = &diagnosis.cures;
    let mut done = Vec::new();
    for (path, mode) in &cures.modes {
        let io_error = |source| OpenError::Io { path: path.clone(), source };
        // never through a link
        if fs::symlink_metadata(path).map_err(io_error)?.is_symlink() {
            continue;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(*mode)).map_err(io_error)?;
        done.push(format!("{}: mode {mode:04o}", within(data, path)));
    }
    for path in &cures.aside {
        let to = set_aside(data, path).map_err(|source| OpenError::Io { path: path.clone(), source })?;
        done.push(format!("{}: moved to {to}", within(data, path)));
    }
    if cures.database {
        Database::discard(data).map_err(|source| OpenError::Io { path: data.join("db"), source })?;
        done.push("db: moved to db.aside; it is made anew".to_owned());
    }
    if cures.journal || !cures.unreadable.is_empty() {
        mail(data, diagnosis, &mut done)?;
    }
    Ok(done)
}

/// Moves a file below `aside/`, under its own path.
fn set_aside(data: &Path, path: &Path) -> std::io::Result<String> {
    let now = jiff::Timestamp::now().as_millisecond();
    let name = within(data, path).replace('/', "-");
    let dir = data.join(ASIDE);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let to = dir.join(format!("{now}-{name}"));
    fs::rename(path, &to)?;
    RealDisk.sync_dir(&dir)?;
    RealDisk.sync_dir(path.parent().unwrap_or(data))?;
    Ok(within(data, &to))
}

/// Recovery, as a start does it, and what it would find out only when the mail is wanted.
fn mail(data: &Path, diagnosis: &Diagnosis, done: &mut Vec<String>) -> Result<(), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let words = |error: &dyn std::fmt::Display| OpenError::Journal(error.to_string());
    let Some(store_id) = read_identity(&*disk, data)? else { return Ok(()) };
    let options = Options::new(data);
    let bytes = ConfigLog::open(disk.clone(), &data.join("config"), store_id).map_or(0, |log| log.bytes());
    let stalled: Arc<dyn Fn() + Send + Sync> = Arc::new(|| std::process::abort());
    let mut rebuilt = None;
    let (mut engine, report, _database) = open_mail(&options, &disk, store_id, bytes, &stalled, &mut rebuilt)?;
    if let Some(why) = rebuilt {
        done.push(format!("db: made anew: {why}"));
    }
    for file in &report.replay.lost_segments {
        done.push(format!("journal/{file}: set aside as quarantine-{file}"));
    }
    if !report.replay.damaged.is_empty() {
        done.push(format!("journal: {} damaged records are passed over", report.replay.damaged.len()));
    }
    for id in &diagnosis.cures.unreadable {
        if engine.give_up_content(*id).map_err(|error| words(&error))? {
            done.push(format!("message {id}: its envelope is a dead letter now, frozen and without content"));
        }
    }
    let follow = |shared: &crate::store::embedded::engine::Shared| {
        while shared.take(u64::MAX, true)? {}
        shared.flush()
    };
    follow(&engine.shared).map_err(|error| words(&error))?;
    while engine.reclaim() {}
    engine.close();
    follow(&engine.shared).map_err(|error| words(&error))
}
