//! What happened to messages: JSON lines in `tracking/`, written by a thread of their own.
//!
//! A line is `{"id":"<message id>","event":<the event>}`. Files are called `events-<UTC date>-<number>.jsonl`,
//! begin anew at 64 MiB, and the oldest go when all together are more than their bound. They are synced at
//! intervals: a crash may lose the last moments.
//!
//! The latest events are in memory as well, up to [`RECENT_BYTES`]. What is no longer there is searched for in the files,
//! newest first, in at most [`SEARCH_BYTES`].

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::model::mail::MessageId;
use crate::store::StoreError;

/// Octets of a file.
const FILE_BYTES: u64 = 64 << 20;
/// Octets of events in memory.
const RECENT_BYTES: usize = 8 << 20;
/// Octets of files that one question may search.
const SEARCH_BYTES: u64 = 512 << 20;
/// Events that one question may return.
const MAX_EVENTS: usize = 1_000;
/// Longest event.
const MAX_EVENT: usize = 8 << 10;
/// Events on their way to the writer.
const CHANNEL: usize = 16_384;
/// The writer gathers for this long.
const GATHER: Duration = Duration::from_millis(50);
/// Time between syncs.
const SYNC_EVERY: Duration = Duration::from_secs(5);

const HEAD: &[u8] = b"{\"id\":\"";
const MIDDLE: &[u8] = b"\",\"event\":";

/// The tracking log.
pub struct Tracking {
    dir: PathBuf,
    sender: mpsc::SyncSender<Item>,
    recent: Mutex<Recent>,
    dropped: Arc<AtomicU64>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Milliseconds since 1970: what was made later was never in an earlier process.
    started: i64,
}

enum Item {
    Event(MessageId, Arc<[u8]>),
    /// Answered when everything before is in the file.
    Barrier(mpsc::SyncSender<()>),
    End,
}

#[derive(Default)]
struct Recent {
    order: VecDeque<MessageId>,
    by_id: HashMap<MessageId, OfOne>,
    bytes: usize,
}

#[derive(Default)]
struct OfOne {
    events: VecDeque<Arc<[u8]>>,
    /// Older ones are in the files only.
    incomplete: bool,
}

impl Tracking {
    /// Opens the directory and starts the writer. `limit`: octets that all files together may have.
    pub fn open(data: &Path, limit: u64) -> io::Result<Tracking> {
        let dir = data.join("tracking");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let (sender, receiver) = mpsc::sync_channel(CHANNEL);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer = Writer { dir: dir.clone(), limit, file: None, size: 0, buffer: Vec::new(), unsynced: None };
        let count = dropped.clone();
        let run = move || writer.run(&receiver, &count);
        let writer = std::thread::Builder::new().name("tracking".into()).spawn(run)?;
        Ok(Tracking {
            dir,
            sender,
            recent: Mutex::default(),
            dropped,
            writer: Mutex::new(Some(writer)),
            started: jiff::Timestamp::now().as_millisecond(),
        })
    }

    /// Appends an event, or drops and counts it.
    pub fn append(&self, id: MessageId, event: Vec<u8>) {
        if event.len() > MAX_EVENT || memchr::memchr2(b'\n', b'\r', &event).is_some() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let event: Arc<[u8]> = event.into();
        // under the lock, so that both have the same order
        let mut recent = self.recent.lock().expect("no panic under this lock");
        match self.sender.try_send(Item::Event(id, event.clone())) {
            Ok(()) => recent.push(id, event),
            Err(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Events that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The events of one message, if memory is sure to have all of them.
    pub fn recent(&self, id: MessageId) -> Option<Vec<Vec<u8>>> {
        let recent = self.recent.lock().expect("no panic under this lock");
        let of_one = recent.by_id.get(&id)?;
        let made = id.0.get_timestamp().map(|made| made.to_unix().0 as i64 * 1_000)?;
        (!of_one.incomplete && made > self.started)
            .then(|| of_one.events.iter().take(MAX_EVENTS).map(|event| event.to_vec()).collect())
    }

    /// The events of one message in the files. Blocks.
    pub fn search(&self, id: MessageId) -> Result<Vec<Vec<u8>>, StoreError> {
        let (done, wait) = mpsc::sync_channel(1);
        if self.sender.send(Item::Barrier(done)).is_ok() {
            // the writer ends only when it is closed, after writing everything
            let _ = wait.recv_timeout(Duration::from_secs(5));
        }
        search_files(&self.dir, id).map_err(|error| StoreError::Io(format!("searching tracking/: {error}")))
    }

    /// Writes everything down and ends the writer.
    pub fn close(&self) {
        // an error says that it has ended already
        let _ = self.sender.send(Item::End);
        if let Some(writer) = self.writer.lock().expect("no panic under this lock").take() {
            let _ = writer.join();
        }
    }
}

impl Recent {
    fn push(&mut self, id: MessageId, event: Arc<[u8]>) {
        self.bytes += event.len() + 100;
        self.order.push_back(id);
        self.by_id.entry(id).or_default().events.push_back(event);
        while self.bytes > RECENT_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(of_one) = self.by_id.get_mut(&oldest) {
                of_one.incomplete = true;
                if let Some(event) = of_one.events.pop_front() {
                    self.bytes -= event.len() + 100;
                }
                if of_one.events.is_empty() {
                    self.by_id.remove(&oldest);
                }
            }
        }
    }
}

struct Writer {
    dir: PathBuf,
    limit: u64,
    file: Option<fs::File>,
    size: u64,
    buffer: Vec<u8>,
    unsynced: Option<Instant>,
}

impl Writer {
    fn run(&mut self, items: &mpsc::Receiver<Item>, dropped: &AtomicU64) {
        let mut end = false;
        while !end {
            let first = match self.unsynced {
                None => items.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(since) => items.recv_timeout(SYNC_EVERY.saturating_sub(since.elapsed())),
            };
            match first {
                Ok(item) => {
                    let calm = matches!(item, Item::Event(..));
                    end |= self.take(item);
                    if calm {
                        std::thread::sleep(GATHER);
                    }
                    while let Ok(item) = items.try_recv() {
                        end |= self.take(item);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => end = true,
            }
            self.write(dropped);
            if self.unsynced.is_some_and(|since| end || since.elapsed() >= SYNC_EVERY) {
                self.unsynced = None;
                if let Some(Err(error)) = self.file.as_ref().map(fs::File::sync_data) {
                    tracing::warn!(error = %error, "tracking could not be synced");
                    self.file = None;
                }
            }
        }
    }

    fn take(&mut self, item: Item) -> bool {
        match item {
            Item::Event(id, event) => {
                self.buffer.extend_from_slice(HEAD);
                // writing to memory does not fail
                let _ = write!(self.buffer, "{id}");
                self.buffer.extend_from_slice(MIDDLE);
                self.buffer.extend_from_slice(&event);
                self.buffer.extend_from_slice(b"}\n");
                if self.buffer.len() > 1 << 20 {
                    self.write(&AtomicU64::new(0));
                }
                false
            }
            Item::Barrier(done) => {
                self.write(&AtomicU64::new(0));
                // who asked may have given up
                let _ = done.send(());
                false
            }
            Item::End => true,
        }
    }

    fn write(&mut self, dropped: &AtomicU64) {
        if self.buffer.is_empty() {
            return;
        }
        let buffer = std::mem::take(&mut self.buffer);
        let written = self.open().and_then(|mut file| file.write_all(&buffer));
        self.buffer = buffer;
        match written {
            Ok(()) => {
                self.size += self.buffer.len() as u64;
                self.unsynced.get_or_insert_with(Instant::now);
            }
            Err(error) => {
                tracing::warn!(error = %error, "tracking events could not be written");
                dropped.fetch_add(memchr::memchr_iter(b'\n', &self.buffer).count() as u64, Ordering::Relaxed);
                self.file = None;
            }
        }
        self.buffer.clear();
    }

    fn open(&mut self) -> io::Result<&fs::File> {
        if self.size >= FILE_BYTES
            && let Some(full) = self.file.take()
        {
            full.sync_data()?;
        }
        if self.file.is_none() {
            let names = files(&self.dir)?;
            self.remove_oldest(&names);
            let number = names.iter().filter_map(|name| number_of(name)).max().unwrap_or(0) + 1;
            let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
            let path = self.dir.join(format!("events-{date}-{number:08}.jsonl"));
            self.file = Some(fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?);
            self.size = 0;
        }
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove_oldest(&self, names: &[String]) {
        let size = |name: &String| fs::metadata(self.dir.join(name)).map_or(0, |meta| meta.len());
        let mut total: u64 = names.iter().map(size).sum::<u64>() + FILE_BYTES;
        for name in names {
            if total <= self.limit {
                break;
            }
            total -= size(name);
            if let Err(error) = fs::remove_file(self.dir.join(name)) {
                tracing::warn!(error = %error, "an old tracking file could not be removed");
            }
        }
    }
}

/// The names of the files, oldest first.
fn files(dir: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> =
        fs::read_dir(dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| number_of(name).is_some());
    names.sort_by_key(|name| number_of(name));
    Ok(names)
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("events-")?.strip_suffix(".jsonl")?.rsplit('-').next()?.parse().ok()
}

fn search_files(dir: &Path, id: MessageId) -> io::Result<Vec<Vec<u8>>> {
    let needle = [HEAD, id.to_string().as_bytes(), MIDDLE].concat();
    let finder = memchr::memmem::Finder::new(&needle);
    let mut searched = 0;
    let mut found: Vec<Vec<Vec<u8>>> = Vec::new();
    for name in files(dir)?.iter().rev() {
        if searched >= SEARCH_BYTES || found.iter().map(Vec::len).sum::<usize>() >= MAX_EVENTS {
            break;
        }
        // one that was removed meanwhile has nothing to say
        let Ok(bytes) = fs::read(dir.join(name)) else { continue };
        searched += bytes.len() as u64;
        let mut here = Vec::new();
        for at in finder.find_iter(&bytes) {
            let line = &bytes[at + needle.len()..];
            let at_start = at == 0 || bytes[at - 1] == b'\n';
            if let Some(end) = memchr::memchr(b'\n', line)
                && at_start
                && line[..end].last() == Some(&b'}')
            {
                here.push(line[..end - 1].to_vec());
            }
        }
        found.push(here);
    }
    let mut events: Vec<Vec<u8>> = found.into_iter().rev().flatten().collect();
    events.truncate(MAX_EVENTS);
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_in_memory_and_in_files() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (MessageId::generate(), MessageId::generate());
        {
            let tracking = Tracking::open(dir.path(), 1 << 30).unwrap();
            tracking.append(a, b"{\"n\":1}".to_vec());
            tracking.append(b, b"{\"n\":2}".to_vec());
            tracking.append(a, b"{\"n\":3}".to_vec());
            tracking.append(a, b"{\n}".to_vec());
            assert_eq!(tracking.dropped(), 1, "a line end would make two lines of it");
            assert_eq!(tracking.search(a).unwrap(), [b"{\"n\":1}".to_vec(), b"{\"n\":3}".to_vec()]);
            tracking.close();
        }
        let tracking = Tracking::open(dir.path(), 1 << 30).unwrap();
        tracking.append(a, b"{\"n\":4}".to_vec());
        assert_eq!(tracking.recent(a), None, "memory does not have what an earlier process wrote");
        assert_eq!(tracking.search(a).unwrap().len(), 3);
        assert_eq!(tracking.search(b).unwrap().len(), 1);
        tracking.close();
    }

    #[test]
    fn memory_is_bounded_and_knows_what_it_forgot() {
        let mut recent = Recent::default();
        let first = MessageId::generate();
        recent.push(first, vec![b'x'; 4_000].into());
        for _ in 0..4_000 {
            recent.push(MessageId::generate(), vec![b'x'; 4_000].into());
        }
        assert!(recent.bytes <= RECENT_BYTES);
        assert!(!recent.by_id.contains_key(&first));
        assert_eq!(recent.order.len(), recent.by_id.len());
    }
}
