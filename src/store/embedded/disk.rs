//! What journal and configuration log need of a disk, as traits, so that tests can cut its power.
//!
//! * A write may be short and is durable only after [`File::sync_data`].
//! * A name (created, renamed, removed) is durable only after [`Disk::sync_dir`] of its directory.
//! * After a failed `sync_data` nothing is known about what was written since the last good one: callers
//!   never sync the same file again and hope.
//!
//! [`RealDisk`] is the operating system. The simulated disk of the tests is `sim`.

use std::fmt;
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file.
pub trait File: Send + Sync + fmt::Debug {
    /// Writes the parts one behind the other at an offset, as far as it goes: the number of bytes written may be
    /// short.
    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Reads at an offset; 0 at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// fdatasync.
    fn sync_data(&self) -> io::Result<()>;
    /// Its length.
    fn len(&self) -> io::Result<u64>;
    /// True when nothing was ever written.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
}

/// A directory tree.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a new file for reading and writing (mode 0600); an old one of that name is emptied.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Renames a file, over another if there is one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names of the files in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes a directory (mode 0700) unless it is there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes free for us where the directory lies.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;
}

/// The operating system's files.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match parts {
            [one] => self.0.write_at(one, offset),
            _ => Ok(rustix::io::pwritev(&self.0, parts, offset)?),
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(fs::OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Parts of one `write_at`: Linux takes 1,024.
const MAX_PARTS: usize = 1_000;

/// Writes all of it. What lies at the offset after an error is unknown.
pub fn write_all(file: &dyn File, mut offset: u64, parts: &[&[u8]]) -> io::Result<()> {
    let mut at = 0; // the part that is next
    let mut skip = 0; // what of it is written already
    let mut slices = Vec::with_capacity(parts.len().min(MAX_PARTS));
    while at < parts.len() {
        slices.clear();
        slices.push(IoSlice::new(&parts[at][skip..]));
        slices.extend(parts[at + 1..].iter().take(MAX_PARTS - 1).map(|part| IoSlice::new(part)));
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut written = match file.write_at(offset, &slices) {
            Ok(0) if offered > 0 => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        offset += written as u64;
        while at < parts.len() && written >= parts[at].len() - skip {
            written -= parts[at].len() - skip;
            at += 1;
            skip = 0;
        }
        skip += written;
    }
    Ok(())
}

/// Reads `len` bytes, fewer where the file ends.
pub fn read_up_to(file: &dyn File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(offset + filled as u64, &mut buf[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buf.truncate(filled);
    Ok(buf)
}

/// A file that appears under its name whole or not at all: temporary name, sync, rename, sync of the directory.
pub fn write_whole(disk: &dyn Disk, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let tmp = with_suffix(path, ".tmp");
    let file = disk.create(&tmp)?;
    write_all(&*file, 0, parts)?;
    file.sync_data()?;
    disk.rename(&tmp, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// The path with something appended to its last name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_all_sizes_are_written_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = RealDisk.create(&path).unwrap();
        let parts: Vec<Vec<u8>> = (0..2_500u32).map(|n| vec![n as u8; (n % 7) as usize]).collect();
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        write_all(&*file, 3, &slices).unwrap();
        assert_eq!(fs::read(&path).unwrap()[3..], parts.concat());
        assert_eq!(read_up_to(&*file, 3, 10_000_000).unwrap(), parts.concat());
    }
}
