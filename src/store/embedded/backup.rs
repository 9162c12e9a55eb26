//! A copy of the running store, as an archive that streams.
//!
//! What is copied is what a power cut at one moment would leave, plus what came to disk a moment later; starting on it is
//! nothing new. Neither taking mail nor delivering it waits for it.
//!
//! # The moment
//!
//! 1. Checkpoint and log of the configuration, with the length that the log has now.
//! 2. On the journal thread, between two groups ([`Engine::point`]): all segments with the length of what is synced in them, the
//!    files of request keys, and from here on no file in `large/` is removed.
//! 3. The tracking files.
//!
//! So the configuration, with all that is noted beside it (which old mail was imported already), is never later than the mail; a
//! request key is never there without its message; and both are exact: what is reclaimed meanwhile stays open. What lies beside the
//! store, mailboxes above all, is read after that moment: mail that was delivered in between is in the mailbox and still queued.
//!
//! # Bounds
//!
//! One backup at a time. A reader that takes nothing for [`STALLED`], or not all within [`MOST_TIME`], is cut, and so is a backup
//! during which free space falls below the reserve: what is pinned is let go of. An archive that was cut says so by its missing end.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::config_log::ConfigPoint;
use super::disk::{Disk, File};
use super::engine::{Engine, Shared};
use super::journal::segment::Segment;
use super::{Embedded, blocking, large_path};
use crate::model::mail::MessageId;
use crate::model::time::Timestamp;
use crate::store::archive::{FORMAT, Manifest, Writer, member};
use crate::store::data_dir::{self, Kind};
use crate::store::{BackupError, Copying, StoreError};

/// How long a reader may take nothing.
const STALLED: Duration = Duration::from_secs(60);
/// How long a backup may last.
const MOST_TIME: Duration = Duration::from_secs(12 * 3_600);
/// Octets of a piece, and pieces on their way.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;
/// Directories in directories, beside the store.
const DEEPEST: usize = 32;

/// The journal at one moment.
pub struct JournalPoint {
    /// The last synced group.
    pub group: u64,
    /// The segments, and how much of each counts.
    pub segments: Vec<(Arc<Segment>, u64)>,
    /// The files of request keys: number, file, length.
    pub requests: Vec<(u32, Arc<dyn File>, u64)>,
}

/// Who waits for the journal thread to tell its point.
pub type Asked = oneshot::Sender<Result<JournalPoint, StoreError>>;

impl Engine {
    /// The journal as it is now. Files in `large/` stay until [`Shared::pinned`] is cleared.
    pub fn point(&self) -> Result<JournalPoint, StoreError> {
        if let Some(why) = self.fence() {
            return Err(StoreError::Fenced(why));
        }
        let io_error = |error: io::Error| StoreError::Io(format!("reading the journal: {error}"));
        self.shared.pinned.store(true, Ordering::Release);
        Ok(JournalPoint {
            group: self.journal.synced(),
            segments: self.journal.synced_parts().map_err(io_error)?,
            requests: self.shared.requests.files(),
        })
    }

    /// Answers who waits for it.
    pub fn tell_point(&self) {
        let asked = self.shared.asked.lock().expect("no panic under this lock").take();
        if let Some(asked) = asked
            && asked.send(self.point()).is_err()
        {
            self.shared.pinned.store(false, Ordering::Release);
        }
    }
}

/// While it lives no other backup begins.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// While it lives no file in `large/` is removed.
struct Pinned(Arc<Shared>);

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.pinned.store(false, Ordering::Release);
        // what was kept may go now
        self.0.inbox.poke();
    }
}

/// Begins a copy.
pub async fn begin(store: &Embedded) -> Result<Copying, BackupError> {
    let (free, reserve) = (store.free_space(), store.options.reserve);
    if free < reserve {
        return Err(StoreError::NoSpace { free, reserve }.into());
    }
    if store.backing_up.swap(true, Ordering::AcqRel) {
        return Err(BackupError::Running);
    }
    let running = Running(store.backing_up.clone());
    let pinned = Pinned(store.shared.clone());
    // before the journal: see above
    let config = store.config.clone();
    let config = blocking(move || config.point()).await??;
    let (ask, told) = oneshot::channel();
    *store.shared.asked.lock().expect("no panic under this lock") = Some(ask);
    store.shared.inbox.poke();
    let journal = told.await.map_err(|_| StoreError::Closed)??;
    let tracking = store.tracking.clone();
    let tracking = blocking(move || tracking.files()).await?;
    let (disk, data) = (store.disk.clone(), store.options.data_dir.clone());
    let large = {
        let (disk, large) = (disk.clone(), data.join("large"));
        blocking(move || large_files(&*disk, &large)).await?
    };
    let large = large.map_err(|error| StoreError::Io(format!("reading large/: {error}")))?;
    let segments = journal.segments.iter().map(|(_, len)| len);
    let requests = journal.requests.iter().map(|(_, _, len)| len);
    let manifest = Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: uuid::Uuid::from_bytes(store.store_id).simple().to_string(),
        taken_at: Timestamp::from_millis(jiff::Timestamp::now().as_millisecond()),
        group: journal.group,
        revision: config.revision,
        files: (3 + journal.segments.len() + journal.requests.len() + large.len() + tracking.len()) as u64,
        bytes: segments.chain(requests).sum::<u64>()
            + config.files.iter().map(|(_, _, len)| len).sum::<u64>()
            + tracking.iter().map(|(_, len)| len).sum::<u64>()
            + large.iter().map(|(_, len)| len).sum::<u64>(),
    };
    let (pieces, chunks) = mpsc::channel(PIECES);
    let out = Pieces {
        gathered: BytesMut::with_capacity(PIECE),
        pieces: pieces.clone(),
        runtime: Handle::current(),
        stalled: STALLED,
        until: Instant::now() + MOST_TIME,
        data: data.clone(),
        disk: disk.clone(),
        reserve,
    };
    let copy = Copy { pinned, running, data, disk, config, journal, large, tracking };
    let begun = manifest.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = copy.write(out, &begun) {
            tracing::warn!(error = %error, "a backup was cut");
            // who is gone need not be told; who does not read finds the archive without its end
            let _ = pieces.try_send(Err(StoreError::Io(error.to_string())));
        }
    });
    Ok(Copying { manifest, chunks })
}

/// The files in `large/` with their sizes. Those of messages that are not in the journal yet do no harm.
fn large_files(disk: &dyn Disk, large: &Path) -> io::Result<Vec<(MessageId, u64)>> {
    let mut files = Vec::new();
    for name in disk.list(large)? {
        let Ok(id) = name.parse::<MessageId>() else { continue };
        match disk.open(&large_path(large, id)).and_then(|file| file.len()) {
            Ok(len) => files.push((id, len)),
            // of a message that was refused
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// What is to be copied.
struct Copy {
    pinned: Pinned,
    running: Running,
    data: PathBuf,
    disk: Arc<dyn Disk>,
    config: ConfigPoint,
    journal: JournalPoint,
    large: Vec<(MessageId, u64)>,
    tracking: Vec<(PathBuf, u64)>,
}

impl Copy {
    fn write(self, out: Pieces, manifest: &Manifest) -> io::Result<()> {
        let began = Instant::now();
        let mut archive = Writer::begin(out, manifest)?;
        self.store_file(&mut archive)?;
        for (name, file, len) in &self.config.files {
            copy(&mut archive, &format!("config/{name}"), &**file, *len)?;
        }
        for (number, file, len) in &self.journal.requests {
            copy(&mut archive, &format!("requests/{}", super::requests::file_name(*number)), &**file, *len)?;
        }
        for (segment, len) in &self.journal.segments {
            let name = super::journal::segment::file_name(segment.seq);
            copy(&mut archive, &format!("journal/{name}"), &*segment.file, *len)?;
        }
        let large = self.data.join("large");
        for (id, len) in &self.large {
            match self.disk.open(&large_path(&large, *id)) {
                Ok(file) => copy(&mut archive, &format!("large/{id}"), &*file, *len)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for (path, len) in &self.tracking {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            match self.disk.open(path) {
                Ok(file) => copy(&mut archive, &format!("tracking/{name}"), &*file, *len)?,
                // its retention has ended
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // nothing of the store is needed any more
        drop(self.pinned);
        for name in data_dir::all(Kind::Beside) {
            beside(&mut archive, &self.data.join(name), name, 0)?;
        }
        let end = archive.end()?;
        drop(self.running);
        let (files, bytes, left_out) = (end.files, end.bytes, end.left_out);
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(files, bytes, left_out, group = manifest.group, duration_ms, "a backup was taken");
        Ok(())
    }

    fn store_file(&self, archive: &mut Writer<Pieces>) -> io::Result<()> {
        let file = self.disk.open(&self.data.join("store"))?;
        let len = file.len()?;
        copy(archive, "store", &*file, len)
    }
}

fn copy(archive: &mut Writer<Pieces>, name: &str, file: &dyn File, len: u64) -> io::Result<()> {
    archive.file(name, len, &mut |at, piece| file.read_at(at, piece))
}

/// Copies the regular files of a directory tree that others may be changing.
fn beside(archive: &mut Writer<Pieces>, dir: &Path, name: &str, depth: usize) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name().to_str().map(|last| format!("{name}/{last}"));
        let Some(name) = name.filter(|name| member::is_harmless(name)) else {
            leave_out(archive, &path, "its name cannot be written down");
            continue;
        };
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < DEEPEST {
            beside(archive, &path, &name, depth + 1)?;
        } else if kind.is_file() {
            // never through a link that was put there a moment ago
            let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
            let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(&path);
            match opened.and_then(|file| Ok((file.metadata()?, file))) {
                Ok((meta, file)) if meta.is_file() => {
                    use std::os::unix::fs::FileExt;
                    archive.file(&name, meta.len(), &mut |at, piece| file.read_at(piece, at))?;
                }
                Ok(_) => leave_out(archive, &path, "it is no file"),
                // somebody read it and took it away
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => leave_out(archive, &path, &error.to_string()),
            }
        } else {
            leave_out(archive, &path, "it is neither a file nor a directory, or lies too deep");
        }
    }
    Ok(())
}

fn leave_out(archive: &mut Writer<Pieces>, path: &Path, why: &str) {
    archive.leave_out();
    tracing::warn!(file = %path.display(), why, "a file is not in the backup");
}

/// The stream, in pieces; waits for its reader, but not for ever.
struct Pieces {
    gathered: BytesMut,
    pieces: mpsc::Sender<Result<Bytes, StoreError>>,
    runtime: Handle,
    stalled: Duration,
    until: Instant,
    data: PathBuf,
    disk: Arc<dyn Disk>,
    reserve: u64,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = self.gathered.split().freeze();
        if piece.is_empty() {
            return Ok(());
        }
        let free = self.disk.free_space(&self.data)?;
        if free < self.reserve {
            return Err(io::Error::other(StoreError::NoSpace { free, reserve: self.reserve }));
        }
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it lasted longer than 12 hours"));
        }
        let (pieces, patience) = (self.pieces.clone(), self.stalled.min(left));
        let sent = self.runtime.block_on(async { tokio::time::timeout(patience, pieces.send(Ok(piece))).await });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "its reader went away")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "its reader took nothing for a minute")),
        }
    }
}

impl Write for Pieces {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let take = octets.len().min(PIECE - self.gathered.len().min(PIECE));
        self.gathered.extend_from_slice(&octets[..take]);
        if self.gathered.len() >= PIECE {
            self.send()?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::disk::RealDisk;

    fn pieces(runtime: &Handle, reserve: u64) -> (Pieces, mpsc::Receiver<Result<Bytes, StoreError>>) {
        let (pieces, chunks) = mpsc::channel(PIECES);
        let out = Pieces {
            gathered: BytesMut::new(),
            pieces,
            runtime: runtime.clone(),
            stalled: Duration::from_millis(50),
            until: Instant::now() + MOST_TIME,
            data: std::env::temp_dir(),
            disk: Arc::new(RealDisk),
            reserve,
        };
        (out, chunks)
    }

    #[test]
    fn a_reader_that_stalls_or_goes_away_is_cut_and_so_is_a_full_disk() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let much = vec![0; (PIECES + 2) * PIECE];
        let (mut out, chunks) = pieces(runtime.handle(), 0);
        assert_eq!(out.write_all(&much).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(chunks.len(), PIECES, "no more waits for it");
        let (mut out, chunks) = pieces(runtime.handle(), 0);
        drop(chunks);
        assert_eq!(out.write_all(&much).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let (mut out, _chunks) = pieces(runtime.handle(), u64::MAX);
        assert!(out.write_all(&much).unwrap_err().to_string().contains("below the reserve"));
        let (mut out, _chunks) = pieces(runtime.handle(), 0);
        out.until = Instant::now();
        assert!(out.write_all(&much).unwrap_err().to_string().contains("12 hours"));
    }
}
