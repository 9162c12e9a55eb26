//! From an archive to a data directory.
//!
//! Into an empty directory only. Files are gathered and synced below `restoring/`; only when the archive was read to its end, and
//! every checksum fitted, do they move up, `store` last. As long as `restoring/` is there no process starts on the directory
//! ([`is_unfinished`]), so half a restore is never taken for a store. When anything fails, what was gathered is removed again.
//!
//! Mail that was queued in the copy may have been delivered since: `restored-from` names the copy, and the first start freezes what
//! is queued before it removes that file.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::disk::{Disk, RealDisk, write_whole};
use crate::store::archive::{ArchiveError, End, Manifest, Reader, Take};
use crate::store::data_dir::{LOST_AND_FOUND, RESTORED_FROM, RESTORING};

/// Why nothing was restored. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something there.
    #[error("{} is not empty: it has {found:?}. A backup is restored into an empty directory", .dir.display())]
    NotEmpty {
        /// Where.
        dir: PathBuf,
        /// What is there.
        found: String,
    },
    /// It cannot have room.
    #[error("{} has {free} octets free, and the store in the backup has {needed}", .dir.display())]
    NoSpace {
        /// Where.
        dir: PathBuf,
        /// Octets.
        free: u64,
        /// Octets.
        needed: u64,
    },
    /// The archive is not believed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// It has no store in it.
    #[error("the backup holds no store: {0} is missing")]
    NoStore(&'static str),
    /// Another process has it, or the lock cannot be had.
    #[error(transparent)]
    Lock(#[from] super::OpenError),
    /// The disk said no.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// What the archive said of itself.
    pub manifest: Manifest,
    /// What was in it.
    pub end: End,
}

/// Restores an archive; with `hold`, the first start freezes what is queued. `progress` is told how many octets came.
///
/// # Errors
/// See [`RestoreError`]; the directory is as empty as it was.
pub fn restore(
    input: impl Read,
    dir: &Path,
    hold: bool,
    progress: &mut dyn FnMut(&Manifest, u64),
) -> Result<Restored, RestoreError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Io { path: path.clone(), source }
    };
    // before anything is made
    let reader = Reader::open(input)?;
    let manifest = reader.manifest().clone();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
    require_empty(dir)?;
    let _lock = super::lock(dir)?;
    // another restore may have been quicker
    require_empty(dir)?;
    let free = RealDisk.free_space(dir).map_err(at(dir))?;
    if free < manifest.bytes {
        return Err(RestoreError::NoSpace { dir: dir.to_owned(), free, needed: manifest.bytes });
    }
    let staging = dir.join(RESTORING);
    make_dir(&staging).and_then(|()| RealDisk.sync_dir(dir)).map_err(at(&staging))?;
    let gathered = gather(reader, &staging, &mut |octets| progress(&manifest, octets)).and_then(|end| {
        let missing =
            ["store", "config/checkpoint", "config/log"].into_iter().find(|name| !staging.join(name).exists());
        missing.map_or(Ok(end), |name| Err(RestoreError::NoStore(name)))
    });
    let end = match gathered {
        Ok(end) => end,
        Err(error) => {
            // what cannot be removed keeps a start from believing it
            if let Err(error) = fs::remove_dir_all(&staging) {
                tracing::error!(%error, path = %staging.display(), "what was gathered could not be removed");
            }
            return Err(error);
        }
    };
    if hold {
        let path = dir.join(RESTORED_FROM);
        write_whole(&RealDisk, &path, &[manifest.name().as_bytes()]).map_err(at(&path))?;
    }
    let mut names: Vec<_> = fs::read_dir(&staging)
        .and_then(|all| all.map(|entry| Ok(entry?.file_name())).collect())
        .map_err(at(&staging))?;
    names.sort_by_key(|name| name == "store");
    for name in names {
        fs::rename(staging.join(&name), dir.join(&name)).map_err(at(&staging))?;
    }
    RealDisk.sync_dir(dir).map_err(at(dir))?;
    fs::remove_dir(&staging).and_then(|()| RealDisk.sync_dir(dir)).map_err(at(&staging))?;
    Ok(Restored { manifest, end })
}

/// Whether half a restore lies there.
pub fn is_unfinished(data: &Path) -> bool {
    data.join(RESTORING).exists()
}

/// The copy whose mail is to be held before anything is sent, if this store was restored and has not been started since.
///
/// # Errors
/// When that cannot be told: then nothing may be sent.
pub fn to_be_held(data: &Path) -> io::Result<Option<String>> {
    match fs::File::open(data.join(RESTORED_FROM)) {
        Ok(file) => {
            let mut name = Vec::new();
            file.take(1_024).read_to_end(&mut name)?;
            Ok(Some(String::from_utf8_lossy(&name).into_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// That mail is held.
///
/// # Errors
/// When it cannot be kept that it is; the next start does it again.
pub fn is_held(data: &Path) -> io::Result<()> {
    fs::remove_file(data.join(RESTORED_FROM))?;
    RealDisk.sync_dir(data)
}

fn require_empty(dir: &Path) -> Result<(), RestoreError> {
    let io_error = |source| RestoreError::Io { path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(io_error)? {
        let name = entry.map_err(io_error)?.file_name();
        // a new volume has the one, an earlier attempt leaves the other
        if name != LOST_AND_FOUND && name != "lock" {
            return Err(RestoreError::NotEmpty { dir: dir.to_owned(), found: name.to_string_lossy().into_owned() });
        }
    }
    Ok(())
}

fn gather<R: Read>(reader: Reader<R>, staging: &Path, progress: &mut dyn FnMut(u64)) -> Result<End, RestoreError> {
    let mut keeper = Keeper { root: staging.to_owned(), open: None, dirs: Vec::new(), octets: 0, progress };
    let end = reader.read(&mut keeper)?;
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Io { path: path.clone(), source }
    };
    // the journal has its directory even when nothing is in it
    for name in ["journal", "large"] {
        keeper.dir(&staging.join(name)).map_err(io_error(staging))?;
    }
    for dir in keeper.dirs.iter().rev() {
        RealDisk.sync_dir(dir).map_err(io_error(dir))?;
    }
    RealDisk.sync_dir(staging).map_err(io_error(staging))?;
    Ok(end)
}

/// Writes files, each synced.
struct Keeper<'a> {
    root: PathBuf,
    open: Option<fs::File>,
    /// Those that were made, to be synced.
    dirs: Vec<PathBuf>,
    octets: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Keeper<'_> {
    fn dir(&mut self, path: &Path) -> io::Result<()> {
        if path == self.root || path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.dir(parent)?;
        }
        make_dir(path)?;
        self.dirs.push(path.to_owned());
        Ok(())
    }
}

impl Take for Keeper<'_> {
    fn begin(&mut self, name: &str, _: u64) -> io::Result<()> {
        let path = self.root.join(name);
        if let Some(parent) = path.parent() {
            self.dir(parent)?;
        }
        self.open = Some(fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?);
        Ok(())
    }

    fn octets(&mut self, octets: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.open {
            file.write_all(octets)?;
        }
        self.octets += octets.len() as u64;
        (self.progress)(self.octets);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        self.open.take().map_or(Ok(()), |file| file.sync_data())
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}
