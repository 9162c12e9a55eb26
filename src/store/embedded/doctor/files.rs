//! Names and modes of files, and copies of them.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Diagnosis, REPAIR, Severity, within};
use crate::store::data_dir::{self, Kind};

/// Group access and the bit that hands the group down: how Kubernetes gives a volume to a group (`fsGroup`).
const GROUP_VOLUME: u32 = 0o2070;
/// Directories in the database.
const DEEPEST: usize = 4;

/// Looks at what lies in the data directory.
pub(super) fn look(data: &Path, diagnosis: &mut Diagnosis) -> io::Result<()> {
    let mode = fs::metadata(data)?.permissions().mode();
    let (allowed, advice) = match mode & GROUP_VOLUME == GROUP_VOLUME {
        true => (0o770, format!("{REPAIR} takes it from others")),
        false => (0o700, format!("{REPAIR} makes it the owner's alone")),
    };
    let check = |path: &Path, diagnosis: &mut Diagnosis| -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o777 & !allowed != 0 && (meta.is_file() || meta.is_dir()) {
            let what = format!("can be opened by others than its owner (mode {mode:04o})");
            diagnosis.find(Severity::Warning, &within(data, path), None, what, &advice);
            diagnosis.cures.modes.push((path.to_owned(), mode & allowed));
        }
        Ok(())
    };
    check(data, diagnosis)?;
    for entry in fs::read_dir(data)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let name = name.to_string_lossy();
        if !data_dir::is_known(&name) && !name.ends_with(".tmp") {
            let advice = "look at it; it does no harm where it is, and no backup has it";
            diagnosis.find(Severity::Notice, &name, None, "is none of ours", advice);
        }
        if name.ends_with(".tmp") {
            stale(data, &path, diagnosis);
        }
        if !data_dir::all(Kind::Store).any(|known| known == name) {
            continue;
        }
        check(&path, diagnosis)?;
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                let inner = entry?.path();
                check(&inner, diagnosis)?;
                named(data, &name, &inner, diagnosis);
            }
        }
    }
    Ok(())
}

/// Whether the name is one that belongs there.
fn named(data: &Path, dir: &str, path: &Path, diagnosis: &mut Diagnosis) {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if dir == "journal" && name.starts_with("quarantine-") {
        let what = "was set aside because of damage in it";
        diagnosis.find(
            Severity::Notice,
            &within(data, path),
            None,
            what,
            "keep it as long as somebody may want to look at it",
        );
        return;
    }
    let numbered = |end: &str| name.strip_suffix(end).is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()));
    let ours = match dir {
        "journal" => numbered(".seg") || name.starts_with("spare-") || name == "new.tmp",
        "large" => name.parse::<crate::model::mail::MessageId>().is_ok() || name.ends_with(".tmp"),
        "config" => ["checkpoint", "log"].contains(&name),
        "requests" => numbered(".log"),
        "tracking" => name.starts_with("events-"),
        _ => true,
    };
    if !ours && name.ends_with(".tmp") {
        stale(data, path, diagnosis);
    } else if !ours {
        let advice = "look at it; it does no harm where it is, and no backup has it";
        diagnosis.find(Severity::Notice, &within(data, path), None, "is none of ours", advice);
    }
}

fn stale(data: &Path, path: &Path, diagnosis: &mut Diagnosis) {
    diagnosis.cures.aside.insert(path.to_owned());
    let advice = format!("nothing: it does no harm; {REPAIR} sets it aside");
    diagnosis.find(Severity::Notice, &within(data, path), None, "is a temporary file that a crash left", &advice);
}

/// A directory copied to where temporary files go; removed when it is dropped.
pub(super) struct Copied(PathBuf);

impl Copied {
    pub(super) fn of(dir: &Path, most: u64) -> io::Result<Copied> {
        let to = std::env::temp_dir().join(format!("bridgehead-doctor-{}", uuid::Uuid::new_v4()));
        fs::DirBuilder::new().mode(0o700).create(&to)?;
        let copied = Copied(to);
        let mut left = most;
        copy(dir, &copied.0, &mut left, DEEPEST)?;
        Ok(copied)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a temporary copy could not be removed");
        }
    }
}

fn copy(from: &Path, to: &Path, left: &mut u64, depth: usize) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() && depth > 0 {
            fs::DirBuilder::new().mode(0o700).create(&to)?;
            copy(&entry.path(), &to, left, depth - 1)?;
        } else if kind.is_file() {
            let size = entry.metadata()?.len();
            *left = left.checked_sub(size).ok_or_else(|| io::Error::other("it is larger than 2 GiB"))?;
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
