//! What happened to messages: JSON lines in `tracking/`, written by a thread of their own.
//!
//! A line is an event, an object whose first field is the message if it has one. Files are called
//! `events-<UTC date>-<number>.jsonl`; a new one begins at 16 MiB, after a day, at every start and after every error, so a
//! place in a file never means two events. They are synced at intervals: a power cut may lose the last five seconds, the end of
//! the process the last moment.
//!
//! * [`writer`]: takes events from a bounded channel and never makes anybody wait; what it cannot follow is dropped and counted.
//! * [`index`]: a file that is full gets an index beside it, off the path: by message, Message-ID, sender, recipient, domain,
//!   event, connector. What cannot be read is passed over and counted. An index that is missing or damaged is made anew.
//! * [`search`]: by index and by reading, never more than it is allowed to.
//! * Here: which files there are, and which of them go, by age and by size.

mod index;
mod search;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, mpsc};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use tokio::sync::watch;

use self::index::Index;
use self::writer::{Item, Writer};
use crate::model::mail::MessageId;
use crate::model::time::Timestamp;
use crate::store::history::{Chunk, Found, HistoryHealth, Key, Position, Seek, Wanted};

/// Octets of a file.
const FILE_BYTES: u64 = 16 << 20;
/// Octets of what an index points at.
const BLOCK: u64 = 64 << 10;
/// Longest event.
const MAX_EVENT: usize = 8 << 10;
/// Longest line: an event with its line end.
const MAX_LINE: u64 = MAX_EVENT as u64 + 1;
/// Octets that may be read for a page of the events of one message.
const MESSAGE_OCTETS: u64 = 256 << 20;
/// Events on their way to the writer.
const CHANNEL: usize = 16_384;
/// How often old files are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// The longest that a file is written to.
const DAY: Duration = Duration::from_secs(86_400);
/// The longest wait for the writer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The tracking log.
pub struct Tracking {
    catalogue: Arc<Catalogue>,
    sender: mpsc::SyncSender<Item>,
    writing: Thread,
    tail: watch::Receiver<Position>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    keeper: Mutex<Option<mpsc::SyncSender<()>>>,
}

impl Tracking {
    /// Opens the directory and starts the threads. `bytes`: octets that all files together may have, until
    /// [`Tracking::set_retention`] says otherwise.
    pub fn open(data: &Path, bytes: u64) -> io::Result<Tracking> {
        let dir = data.join("tracking");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let catalogue = Arc::new(Catalogue::read(dir, bytes)?);
        let (sender, receiver) = mpsc::sync_channel(CHANNEL);
        let (nudge, nudged) = mpsc::sync_channel(4);
        let mut writer = Writer::begin(catalogue.clone(), nudge.clone())?;
        let tail = writer.tail();
        let spawn = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let writing = spawn("tracking").spawn(move || writer.run(&receiver))?;
        let (keeping, rolls) = (catalogue.clone(), sender.clone());
        let keeping = spawn("tracking-index").spawn(move || keep(&keeping, &nudged, &rolls))?;
        Ok(Tracking {
            catalogue,
            sender,
            writing: writing.thread().clone(),
            tail,
            threads: Mutex::new(vec![writing, keeping]),
            keeper: Mutex::new(Some(nudge)),
        })
    }

    /// Appends an event, or drops and counts it. Never waits.
    pub fn append(&self, event: Vec<u8>) {
        let is_a_line = event.len() <= MAX_EVENT && memchr::memchr2(b'\n', b'\r', &event).is_none();
        if !is_a_line || self.sender.try_send(Item::Event(event)).is_err() {
            self.catalogue.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How long events are kept, and how many octets of them.
    pub fn set_retention(&self, keep: Duration, bytes: u64) {
        let limits = Limits { keep, bytes };
        let before = std::mem::replace(&mut *self.catalogue.limits(), limits);
        if before != limits
            && let Some(keeper) = &*self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
        {
            // full: it is about to look anyway
            let _ = keeper.try_send(());
        }
    }

    /// Where the next event will stand, and word of every change of that.
    pub fn tail(&self) -> watch::Receiver<Position> {
        self.tail.clone()
    }

    /// How it is.
    pub fn health(&self) -> HistoryHealth {
        let files = self.catalogue.files.read().unwrap_or_else(PoisonError::into_inner);
        HistoryHealth {
            dropped: self.catalogue.dropped.load(Ordering::Relaxed),
            damaged: files.values().filter_map(|file| file.index.get()).map(|index| index.damaged).sum(),
            files: files.len() as u64,
            bytes: files.values().map(|file| file.all_bytes()).sum(),
        }
    }

    /// Searches, with everything that was appended before. Blocks.
    pub fn search(&self, seek: &Seek, wanted: Wanted) -> io::Result<Found> {
        self.settle();
        search::search(&self.catalogue, seek, None, wanted)
    }

    /// At most so many events of one message behind `after`, oldest first. Blocks.
    pub fn events(&self, id: MessageId, after: Option<Position>, limit: usize) -> io::Result<Found> {
        self.settle();
        let keys = vec![vec![Key::message(id)]];
        let seek = Seek { keys, after, limit, octets: MESSAGE_OCTETS, ..Seek::default() };
        let needle = format!("\"{id}\"");
        let wanted: Wanted = Box::new(move |event, _| event.message == Some(id));
        search::search(&self.catalogue, &seek, Some(needle.as_bytes()), wanted)
    }

    /// The next events behind a position, of at most so many octets. Blocks, but does not wait for events.
    pub fn read(&self, from: Position, octets: usize) -> io::Result<Chunk> {
        let tail = *self.tail.borrow();
        let mut chunk = Chunk { next: from, ..Chunk::default() };
        if from.file > tail.file {
            // of another store, or of one that was put back
            return Ok(Chunk { next: tail, gap: true, ..chunk });
        }
        while let Some(file) = self.catalogue.at_or_behind(chunk.next.file) {
            if file.number != chunk.next.file {
                chunk.gap |= chunk.next.file != 0 && self.catalogue.first() == Some(file.number);
                chunk.next = Position { file: file.number, offset: 0 };
            }
            let size = file.size.load(Ordering::Acquire);
            if chunk.next.offset < size {
                self.read_in(&file, size, octets, &mut chunk)?;
                return Ok(chunk);
            }
            if file.number >= tail.file {
                break;
            }
            // all of it was read; the next one
            match self.catalogue.at_or_behind(file.number + 1) {
                Some(next) => chunk.next = Position { file: next.number, offset: 0 },
                None => break,
            }
        }
        Ok(chunk)
    }

    fn read_in(&self, file: &File, size: u64, octets: usize, chunk: &mut Chunk) -> io::Result<()> {
        let offset = chunk.next.offset;
        // one octet before tells whether a line begins here
        let from = offset.saturating_sub(1);
        let most = (octets.max(MAX_LINE as usize) as u64 + 1).min(size - from);
        let bytes = match file.read(from, most) {
            Ok(bytes) => bytes,
            // it was removed a moment ago
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                chunk.gap = true;
                chunk.next = Position { file: file.number + 1, offset: 0 };
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut at = from;
        let mut end = None;
        for (index, line) in lines(&bytes).enumerate() {
            let begins = at;
            at += line.len() as u64;
            let whole = line.ends_with(b"\n");
            if !whole {
                break;
            }
            end = Some(at);
            // the rest of a line that began before
            if index == 0 && offset > 0 {
                continue;
            }
            if let Some(event) = event_in(line) {
                chunk.events.push((Position { file: file.number, offset: begins }, event.to_vec()));
            }
        }
        chunk.next.offset = match end {
            Some(end) => end,
            // no line end as far as a line may go: damage; go on behind it
            None => from + bytes.len() as u64,
        };
        Ok(())
    }

    /// The files with everything that was appended before, and their lengths now. Blocks.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.settle();
        let length = |file: Arc<File>| (file.path.clone(), file.size.load(Ordering::Acquire));
        self.catalogue.all().into_iter().map(length).filter(|(_, len)| *len > 0).collect()
    }

    /// Returns when everything that was appended before is in the files.
    fn settle(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        if self.sender.send(Item::Barrier(done)).is_ok() {
            self.writing.unpark();
            // the writer ends only when it is closed, after writing everything
            let _ = wait.recv_timeout(PATIENCE);
        }
    }

    /// Writes everything down and ends the threads.
    pub fn close(&self) {
        // an error says that it has ended already
        let _ = self.sender.send(Item::End);
        self.writing.unpark();
        drop(self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take());
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
    }
}

/// What is wrong with a tracking file.
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// Where.
    pub offset: u64,
    /// In words.
    pub what: String,
    /// It mends itself at the next start, or the process was killed in the middle of a line.
    pub is_harmless: bool,
}

/// Looks at all files of a store that is not open.
pub fn inspect(data: &Path) -> io::Result<Vec<Unreadable>> {
    let dir = data.join("tracking");
    let mut names: Vec<String> = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect(),
    };
    names.retain(|name| number_of(name).is_some());
    names.sort_by_key(|name| number_of(name));
    let mut found = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let size = fs::metadata(dir.join(name))?.len();
        let file = File::new(&dir, name, 0, size);
        let (mut at, mut first, mut wrong, mut torn) = (0, None, 0u64, false);
        let bytes = file.read(0, size)?;
        for line in lines(&bytes) {
            if index::whole_event(line).is_none() {
                (first, wrong) = (first.or(Some(at)), wrong + 1);
                torn = !line.ends_with(b"\n");
            }
            at += line.len() as u64;
        }
        if let Some(offset) = first {
            let is_harmless = wrong == 1 && torn && index + 1 == names.len();
            let what = format!("{wrong} lines are no events; they are passed over");
            found.push(Unreadable { path: file.path.clone(), offset, what, is_harmless });
        }
        let path = file.index_path();
        if path.exists() && Index::load(path.clone(), size)?.is_none() {
            let what = "the index does not fit its file; it is made anew".to_owned();
            found.push(Unreadable { path, offset: 0, what, is_harmless: true });
        }
    }
    Ok(found)
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    keep: Duration,
    bytes: u64,
}

/// Which files there are.
struct Catalogue {
    dir: PathBuf,
    files: RwLock<BTreeMap<u64, Arc<File>>>,
    limits: Mutex<Limits>,
    dropped: AtomicU64,
}

/// One file.
struct File {
    number: u64,
    path: PathBuf,
    /// Octets that are whole and may be read.
    size: AtomicU64,
    /// When its first event came, in milliseconds; 0: none did yet.
    began: AtomicI64,
    /// There when it is full.
    index: OnceLock<Index>,
}

impl File {
    fn new(dir: &Path, name: &str, number: u64, size: u64) -> File {
        File {
            number,
            path: dir.join(name),
            size: AtomicU64::new(size),
            began: AtomicI64::new(0),
            index: OnceLock::new(),
        }
    }

    fn index_path(&self) -> PathBuf {
        self.path.with_extension("idx")
    }

    fn all_bytes(&self) -> u64 {
        self.size.load(Ordering::Relaxed) + self.index.get().map_or(0, Index::bytes)
    }

    /// Octets of it; fewer when it ends.
    fn read(&self, from: u64, most: u64) -> io::Result<Vec<u8>> {
        let file = fs::File::open(&self.path)?;
        let mut bytes = vec![0; usize::try_from(most).unwrap_or(usize::MAX)];
        let mut have = 0;
        while have < bytes.len() {
            match file.read_at(&mut bytes[have..], from + have as u64) {
                Ok(0) => break,
                Ok(more) => have += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(have);
        Ok(bytes)
    }
}

impl Catalogue {
    fn read(dir: PathBuf, bytes: u64) -> io::Result<Catalogue> {
        let names: Vec<String> =
            fs::read_dir(&dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        let numbered = |name: &String| Some((number_of(name)?, name.clone()));
        let all: BTreeMap<u64, String> = names.iter().filter_map(numbered).collect();
        let last = all.last_key_value().map(|(number, _)| *number);
        let mut files = BTreeMap::new();
        for (number, name) in &all {
            let path = dir.join(name);
            let size = fs::metadata(&path)?.len();
            // the last one keeps its number from being used again
            if size == 0 && Some(*number) != last {
                fs::remove_file(&path)?;
                continue;
            }
            files.insert(*number, Arc::new(File::new(&dir, name, *number, size)));
        }
        for name in names.iter().filter(|name| name.ends_with(".idx") || name.ends_with(".new")) {
            let path = dir.join(name);
            let is_needed = name.ends_with(".idx") && path.with_extension("jsonl").exists();
            if !is_needed {
                fs::remove_file(path)?;
            }
        }
        let limits = Mutex::new(Limits { keep: Duration::MAX, bytes });
        Ok(Catalogue { dir, files: RwLock::new(files), limits, dropped: AtomicU64::new(0) })
    }

    fn limits(&self) -> std::sync::MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<File>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn first(&self) -> Option<u64> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).keys().next().copied()
    }

    fn at_or_behind(&self, number: u64) -> Option<Arc<File>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.range(number..).next().map(|(_, file)| file.clone())
    }

    /// Makes the next file.
    fn begin_file(&self) -> io::Result<(fs::File, Arc<File>)> {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let number = files.last_key_value().map_or(0, |(number, _)| *number) + 1;
        let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
        let name = format!("events-{date}-{number:08}.jsonl");
        let path = self.dir.join(&name);
        let open = fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        let file = Arc::new(File::new(&self.dir, &name, number, 0));
        files.insert(number, file.clone());
        Ok((open, file))
    }

    /// Indexes what is full and has no index.
    fn index_what_is_full(&self) {
        let all = self.all();
        let Some((_, full)) = all.split_last() else { return };
        for file in full.iter().filter(|file| file.index.get().is_none()) {
            match Index::of(file) {
                Ok(index) => {
                    if index.damaged > 0 {
                        tracing::warn!(file = %file.path.display(), lines = index.damaged, "tracking events cannot be read");
                    }
                    // nobody else sets it
                    let _ = file.index.set(index);
                }
                Err(error) => {
                    tracing::warn!(file = %file.path.display(), error = %error, "a tracking file could not be indexed");
                }
            }
        }
    }

    /// Removes what is too old or too much. What is written to stays.
    fn sweep(&self, now: Timestamp) {
        let limits = *self.limits();
        let all = self.all();
        let Some((active, full)) = all.split_last() else { return };
        let to_come = FILE_BYTES.saturating_sub(active.size.load(Ordering::Relaxed));
        let mut total = all.iter().map(|file| file.all_bytes()).sum::<u64>() + to_come;
        for file in full {
            let is_old = match file.index.get() {
                Some(index) => index.events == 0 || now.since(index.most) > limits.keep,
                None => file.size.load(Ordering::Relaxed) == 0,
            };
            if !is_old && total <= limits.bytes {
                continue;
            }
            total -= file.all_bytes();
            self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&file.number);
            for path in [file.path.clone(), file.index_path()] {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(file = %path.display(), error = %error, "an old tracking file could not be removed");
                    }
                    _ => {}
                }
            }
        }
    }

    /// Whether the file that is written to has been so for long enough.
    fn active_is_old(&self, now: Timestamp) -> bool {
        let Some(active) = self.all().pop() else { return false };
        let began = active.began.load(Ordering::Relaxed);
        let longest = (self.limits().keep / 8).clamp(Duration::from_secs(60), DAY);
        began != 0 && now.since(Timestamp::from_millis(began)) > longest
    }
}

/// Indexes and removes, until nobody can nudge any more.
fn keep(catalogue: &Catalogue, nudged: &mpsc::Receiver<()>, rolls: &mpsc::SyncSender<Item>) {
    loop {
        catalogue.index_what_is_full();
        let now = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());
        catalogue.sweep(now);
        if catalogue.active_is_old(now) {
            // when the channel is full, the next time will do
            let _ = rolls.try_send(Item::Roll);
        }
        match nudged.recv_timeout(SWEEP_EVERY) {
            Ok(()) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The lines of some octets, with their ends; the last may have none.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|octet| *octet == b'\n')
}

/// The event in a line, if it can be one. What an earlier version wrote stands in an envelope.
fn event_in(line: &[u8]) -> Option<&[u8]> {
    const ENVELOPE: &[u8] = b"{\"id\":\"";
    const MIDDLE: &[u8] = b"\",\"event\":";
    let event = line.strip_suffix(b"\n").unwrap_or(line);
    let event = match event.strip_prefix(ENVELOPE).and_then(|rest| rest.get(36..)?.strip_prefix(MIDDLE)) {
        Some(inner) => inner.strip_suffix(b"}")?,
        None => event,
    };
    (event.first() == Some(&b'{') && event.last() == Some(&b'}')).then_some(event)
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("events-")?.strip_suffix(".jsonl")?.rsplit('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests;
