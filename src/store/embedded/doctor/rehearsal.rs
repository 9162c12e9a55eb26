//! A disk on which recovery can be rehearsed: it reads what is there, and what it writes, renames or removes stays in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::store::embedded::disk::{Disk, File, RealDisk};

/// The disk.
#[derive(Debug, Default)]
pub struct Rehearsal {
    /// What is different from the disk; `None`: gone.
    names: Mutex<BTreeMap<PathBuf, Option<Arc<dyn File>>>>,
}

impl Rehearsal {
    /// Files that are on the disk and would be gone or renamed.
    pub fn gone(&self) -> Vec<PathBuf> {
        self.names()
            .iter()
            .filter(|(path, file)| file.is_none() && path.exists())
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Whether this file would be replaced or made.
    pub fn is_written(&self, path: &Path) -> bool {
        self.names().get(path).is_some_and(Option::is_some)
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Option<Arc<dyn File>>>> {
        self.names.lock().expect("no panic under this lock")
    }
}

impl Disk for Rehearsal {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file: Arc<dyn File> = Arc::new(InMemory::default());
        self.names().insert(path.to_owned(), Some(file.clone()));
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        match self.names().get(path) {
            Some(Some(file)) => Ok(file.clone()),
            Some(None) => Err(io::ErrorKind::NotFound.into()),
            None => Ok(Arc::new(Untouched(fs::File::open(path)?))),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let file = self.open(from)?;
        let mut names = self.names();
        names.insert(from.to_owned(), None);
        names.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.open(path)?;
        self.names().insert(path.to_owned(), None);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut listed = match RealDisk.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        for (path, file) in self.names().iter().filter(|(path, _)| path.parent() == Some(dir)) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            listed.retain(|known| known != name);
            if file.is_some() {
                listed.push(name.to_owned());
            }
        }
        Ok(listed)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.free_space(dir)
    }
}

/// A file on the disk, to read only.
#[derive(Debug)]
struct Untouched(fs::File);

impl File for Untouched {
    fn write_at(&self, _: u64, _: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// A file that is never on the disk.
#[derive(Debug, Default)]
struct InMemory(Mutex<Vec<u8>>);

impl InMemory {
    fn octets(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl File for InMemory {
    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut octets = self.octets();
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let end = octets.len().max(from + len);
        octets.resize(end, 0);
        let mut at = from;
        for part in parts {
            octets[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Ok(len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let octets = self.octets();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(octets.len());
        let len = buf.len().min(octets.len() - from);
        buf[..len].copy_from_slice(&octets[from..from + len]);
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.octets().len() as u64)
    }
}
