//! Which requests have brought mail: what an `Idempotency-Key` is answered from.
//!
//! The journal is the truth while a message's first record lies in it: the key is part of that record, so acceptance and
//! key are one atomic step. But mail comes and goes in moments, its segment is reclaimed, and the key must be known for
//! [`REMEMBERED`] all the same. So the keys are written here as well, as lines of their own:
//!
//! ```text
//!   requests/<number>.log    magic and store id, then per line: length u32, sum (8), postcard of a `Line`
//! ```
//!
//! **Guarantee**: no group reaches the database, and so no segment that holds it is ever removed or skipped by replay,
//! before the keys in it are synced here ([`Requests::save`], called by `Shared::take`). What was not saved when the
//! process ended is read from the journal again. A message that is void (its group was never acknowledged) takes its key
//! with it.
//!
//! **Bounds**: [`MOST_KEYS`] keys and [`MOST_BYTES`] octets; when there is no room for another, the next request with a
//! key is refused ([`Known::Full`]): nothing is forgotten before its time. A file goes when all in it has passed.
//!
//! **Failure**: what cannot be written stays in memory, and the database waits, as it does for its own errors. A torn or
//! damaged line ends its file; what is behind it is lost only if the disk lost it, and that is logged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::disk::{Disk, File, read_up_to, write_all};
use crate::model::mail::{Idempotency, Message, MessageId};
use crate::model::time::Timestamp;
use crate::store::{Known, Receipt, Seen, StoreError};

/// How long a key is known.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// Most keys: as many as a table of 2^20 places holds, about 60 MB.
const MOST_KEYS: usize = 900_000;
/// Most octets of all files.
const MOST_BYTES: u64 = 1 << 30;
/// Octets of a file before the next is begun.
const FILE_BYTES: u64 = 16 << 20;
/// Time between the first and the last line of a file.
const FILE_SPAN: Duration = Duration::from_secs(60 * 60);
/// Longest line; longer ones are none. A receipt of 50,000 recipients is shorter.
const MOST_LINE: usize = 32 << 20;
const MAGIC: &[u8; 8] = b"BRHKEYS1";
const HEAD: u64 = 24;
const LINE_HEAD: usize = 12;

/// The table.
#[derive(Debug)]
pub struct Requests {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store_id: [u8; 16],
    inner: Mutex<Inner>,
    /// Held while files are written.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    by_key: HashMap<[u8; 16], Entry>,
    /// What is not in a file yet, in order.
    unwritten: Vec<Line>,
    files: BTreeMap<u32, Kept>,
    /// The file that grows.
    active: Option<u32>,
    next: u32,
}

/// A request that has brought a message. It is found by half of the SHA-256 of its key: enough to tell a billion apart.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id: MessageId,
    /// Seconds since 1970.
    at: i64,
    /// File and offset of the line; `None` while it is only in memory.
    place: Option<(u32, u32)>,
}

/// A file.
#[derive(Debug)]
struct Kept {
    file: Arc<dyn File>,
    len: u64,
    /// The times of its first and last line.
    first: Timestamp,
    last: Timestamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Line {
    /// A request has brought a message.
    Brought { idempotency: Idempotency, id: MessageId, at: Timestamp, receipt: Receipt },
    /// That message was never accepted.
    Void(MessageId),
}

impl Requests {
    /// Reads what is there.
    ///
    /// # Errors
    /// When the directory or a file cannot be read.
    pub fn open(disk: Arc<dyn Disk>, data: &Path, store_id: [u8; 16]) -> io::Result<Requests> {
        let dir = data.join("requests");
        disk.create_dir(&dir)?;
        disk.sync_dir(data)?;
        let requests = Requests { disk, dir, store_id, inner: Mutex::default(), writing: Mutex::default() };
        let mut names = requests.disk.list(&requests.dir)?;
        names.sort();
        for name in names {
            let Some(number) = name.strip_suffix(".log").and_then(|number| number.parse::<u32>().ok()) else {
                continue;
            };
            requests.inner().next = number + 1;
            requests.load(number)?;
        }
        requests.tidy()?;
        Ok(requests)
    }

    /// A message was accepted: its key is known from here on. To be called for each accepted record, also of a replay.
    pub fn note(&self, message: &Message) {
        let Some(idempotency) = message.idempotency else { return };
        if !is_fresh(message.received_at) {
            return;
        }
        let mut inner = self.inner();
        // a record that was copied forward, or that a replay reads again
        if inner.by_key.get(&half(&idempotency.key)).is_some_and(|entry| entry.id == message.id) {
            return;
        }
        inner.insert(&idempotency, message.id, message.received_at, None);
        let (id, at, receipt) = (message.id, message.received_at, Receipt::of(message));
        inner.unwritten.push(Line::Brought { idempotency, id, at, receipt });
    }

    /// These messages were never accepted: their keys are free.
    pub fn forget(&self, ids: &[MessageId]) {
        let ids: HashSet<MessageId> = ids.iter().copied().collect();
        let mut inner = self.inner();
        let before = inner.by_key.len();
        inner.by_key.retain(|_, entry| !ids.contains(&entry.id));
        if inner.by_key.len() < before {
            inner.unwritten.extend(ids.into_iter().map(Line::Void));
        }
    }

    /// What is known of a key. May read the disk.
    ///
    /// # Errors
    /// When the answer of a known request cannot be read.
    pub fn known(&self, key: &[u8; 32]) -> Result<Known, StoreError> {
        let inner = self.inner();
        let found = inner.by_key.get(&half(key)).copied();
        let Some(entry) = found.filter(|entry| is_fresh(Timestamp::from_millis(entry.at * 1_000))) else {
            let bytes: u64 = inner.files.values().map(|kept| kept.len).sum();
            let full = inner.by_key.len() >= MOST_KEYS || bytes >= MOST_BYTES;
            return Ok(if full { Known::Full } else { Known::New });
        };
        let line = match entry.place {
            None => inner.unwritten.iter().rev().find(|line| line.brought() == Some(entry.id)).cloned(),
            Some((number, offset)) => {
                let file = inner.files.get(&number).map(|kept| kept.file.clone());
                drop(inner);
                let read = |file: Arc<dyn File>| line_at(&*file, u64::from(offset));
                file.and_then(|file| read(file).ok().flatten()).map(|(line, _)| line)
            }
        };
        match line {
            Some(Line::Brought { idempotency, id, at, receipt }) => {
                Ok(Known::Seen(Seen { request: idempotency.request, id, at, receipt }))
            }
            _ => Err(StoreError::Damaged(format!("the request that brought message {} cannot be read", entry.id))),
        }
    }

    /// Writes and syncs what is only in memory, and removes files that have passed.
    ///
    /// # Errors
    /// When the disk fails: then it is all still in memory.
    pub fn save(&self) -> Result<(), StoreError> {
        if self.inner().unwritten.is_empty() {
            return Ok(());
        }
        let error = |error: io::Error| StoreError::Io(format!("writing requests/: {error}"));
        let _writing = self.writing.lock().expect("no panic under this lock");
        self.tidy().map_err(error)?;
        // what comes meanwhile goes to the end, so these stay the first
        let lines = self.inner().unwritten.clone();
        let saved = self.write(&lines);
        let mut inner = self.inner();
        match saved {
            Ok(places) => {
                inner.unwritten.drain(..lines.len());
                for (line, place) in lines.iter().zip(places) {
                    let key = match line {
                        Line::Brought { idempotency, .. } => half(&idempotency.key),
                        Line::Void(_) => continue,
                    };
                    if let Some(entry) = inner.by_key.get_mut(&key).filter(|entry| line.brought() == Some(entry.id)) {
                        entry.place = Some(place);
                    }
                }
                Ok(())
            }
            Err(failed) => {
                // after a failed sync nothing is known of that file: the next try begins another
                inner.active = None;
                Err(error(failed))
            }
        }
    }

    fn write(&self, lines: &[Line]) -> io::Result<Vec<(u32, u32)>> {
        let number = self.file_for(lines)?;
        let (file, from) = {
            let inner = self.inner();
            let kept = &inner.files[&number];
            (kept.file.clone(), kept.len)
        };
        let mut bytes = Vec::new();
        let mut places = Vec::with_capacity(lines.len());
        for line in lines {
            places.push((number, u32::try_from(from + bytes.len() as u64).map_err(|_| io::ErrorKind::FileTooLarge)?));
            let body = postcard::to_stdvec(line).map_err(io::Error::other)?;
            bytes.extend_from_slice(&u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes());
            bytes.extend_from_slice(&blake3::hash(&body).as_bytes()[..8]);
            bytes.extend_from_slice(&body);
        }
        write_all(&*file, from, &[&bytes])?;
        file.sync_data()?;
        let mut inner = self.inner();
        if let Some(kept) = inner.files.get_mut(&number) {
            kept.len = from + bytes.len() as u64;
            kept.last = lines.iter().filter_map(Line::at).fold(kept.last, Timestamp::max);
        }
        Ok(places)
    }

    /// The file that these lines go to; a new one when the last is old or large.
    fn file_for(&self, lines: &[Line]) -> io::Result<u32> {
        let mut inner = self.inner();
        let now = lines.iter().filter_map(Line::at).max().unwrap_or(Timestamp::EPOCH);
        if let Some(number) = inner.active
            && inner.files.get(&number).is_some_and(|kept| kept.len < FILE_BYTES && now.since(kept.first) < FILE_SPAN)
        {
            return Ok(number);
        }
        let number = inner.next;
        let path = self.path(number);
        let file = self.disk.create(&path)?;
        write_all(&*file, 0, &[MAGIC, &self.store_id])?;
        self.disk.sync_dir(&self.dir)?;
        inner.files.insert(number, Kept { file, len: HEAD, first: now, last: now });
        (inner.active, inner.next) = (Some(number), number + 1);
        Ok(number)
    }

    /// Removes files in which everything has passed, and what memory knows of them.
    fn tidy(&self) -> io::Result<()> {
        let mut inner = self.inner();
        let active = inner.active;
        let passed = inner.files.iter().filter(|(number, kept)| Some(**number) != active && !is_fresh(kept.last));
        let passed: Vec<u32> = passed.map(|(number, _)| *number).collect();
        if passed.is_empty() {
            return Ok(());
        }
        inner.by_key.retain(|_, entry| entry.place.is_none_or(|(number, _)| !passed.contains(&number)));
        for number in &passed {
            inner.files.remove(number);
        }
        drop(inner);
        for number in passed {
            self.disk.remove(&self.path(number))?;
        }
        self.disk.sync_dir(&self.dir)
    }

    fn load(&self, number: u32) -> io::Result<()> {
        let file = self.disk.open(&self.path(number))?;
        let len = file.len()?;
        let head = read_up_to(&*file, 0, HEAD as usize)?;
        let mut inner = self.inner();
        if !is_ours(&head, &self.store_id) {
            if len > HEAD {
                tracing::error!(file = %self.path(number).display(), "damaged or foreign; the keys in it are not known");
            }
            drop(inner);
            return self.disk.remove(&self.path(number));
        }
        let mut kept = Kept { file: file.clone(), len: HEAD, first: Timestamp::EPOCH, last: Timestamp::EPOCH };
        while let Some((line, line_len)) = line_at(&*file, kept.len)? {
            let Ok(offset) = u32::try_from(kept.len) else { break };
            match &line {
                Line::Brought { idempotency, id, at, .. } => {
                    if kept.first == Timestamp::EPOCH {
                        kept.first = *at;
                    }
                    kept.last = kept.last.max(*at);
                    if is_fresh(*at) {
                        inner.insert(idempotency, *id, *at, Some((number, offset)));
                    }
                }
                Line::Void(void) => inner.by_key.retain(|_, entry| entry.id != *void),
            }
            kept.len += line_len;
        }
        if kept.len < len {
            tracing::warn!(file = %self.path(number).display(), offset = kept.len, "ends in a torn line");
        }
        inner.files.insert(number, kept);
        Ok(())
    }

    /// The files as they are now, for a copy: number, file, length of what is synced.
    pub fn files(&self) -> Vec<(u32, Arc<dyn File>, u64)> {
        self.inner().files.iter().map(|(number, kept)| (*number, kept.file.clone(), kept.len)).collect()
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(file_name(number))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under this lock")
    }
}

impl Inner {
    fn insert(&mut self, idempotency: &Idempotency, id: MessageId, at: Timestamp, place: Option<(u32, u32)>) {
        let entry = Entry { id, at: at.millis().div_euclid(1_000), place };
        self.by_key.insert(half(&idempotency.key), entry);
    }
}

impl Line {
    fn brought(&self) -> Option<MessageId> {
        match self {
            Line::Brought { id, .. } => Some(*id),
            Line::Void(_) => None,
        }
    }

    fn at(&self) -> Option<Timestamp> {
        match self {
            Line::Brought { at, .. } => Some(*at),
            Line::Void(_) => None,
        }
    }
}

fn is_ours(head: &[u8], store_id: &[u8; 16]) -> bool {
    head.len() == HEAD as usize && &head[..8] == MAGIC && head[8..] == store_id[..]
}

/// Looks at all files of a store that is not open: names of those that are damaged, and where that begins.
pub fn inspect(disk: &dyn Disk, data: &Path, store_id: &[u8; 16]) -> io::Result<Vec<(String, u64)>> {
    let dir = data.join("requests");
    let mut found = Vec::new();
    for name in disk.list(&dir)?.into_iter().filter(|name| name.ends_with(".log")) {
        let file = disk.open(&dir.join(&name))?;
        if !is_ours(&read_up_to(&*file, 0, HEAD as usize)?, store_id) {
            found.push((name, 0));
            continue;
        }
        let mut at = HEAD;
        while let Some((_, len)) = line_at(&*file, at)? {
            at += len;
        }
        if at < file.len()? {
            found.push((name, at));
        }
    }
    found.sort();
    Ok(found)
}

/// The name of a file.
pub fn file_name(number: u32) -> String {
    format!("{number:010}.log")
}

fn line_at(file: &dyn File, offset: u64) -> io::Result<Option<(Line, u64)>> {
    let head = read_up_to(file, offset, LINE_HEAD)?;
    let Some((len, sum)) = head.split_first_chunk::<4>().filter(|(_, sum)| sum.len() == LINE_HEAD - 4) else {
        return Ok(None);
    };
    let len = u32::from_le_bytes(*len) as usize;
    if len > MOST_LINE {
        return Ok(None);
    }
    let body = read_up_to(file, offset + LINE_HEAD as u64, len)?;
    if body.len() < len || blake3::hash(&body).as_bytes()[..8] != *sum {
        return Ok(None);
    }
    Ok(postcard::from_bytes(&body).ok().map(|line| (line, (LINE_HEAD + len) as u64)))
}

fn half(hash: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|index| hash[index])
}

/// Whether what came then is still remembered.
fn is_fresh(at: Timestamp) -> bool {
    let now = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());
    now.since(at) < REMEMBERED
}

#[cfg(test)]
mod tests {
    use super::super::sim::SimDisk;
    use super::*;
    use crate::store::contract;

    const DATA: &str = "/data";

    fn disk() -> SimDisk {
        let disk = SimDisk::new(1);
        disk.create_dir(Path::new(DATA)).unwrap();
        disk
    }

    fn open(disk: &SimDisk) -> Requests {
        Requests::open(Arc::new(disk.clone()), Path::new(DATA), [7; 16]).unwrap()
    }

    fn message(key: u8, ago: Duration) -> Message {
        let now = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());
        let mut message = contract::message(MessageId::generate(), 10, 0, &["a", "b"]);
        message.received_at = now - ago;
        message.idempotency = Some(Idempotency { key: [key; 32], request: [key.wrapping_add(1); 32] });
        message
    }

    fn id(requests: &Requests, key: u8) -> Option<MessageId> {
        match requests.known(&[key; 32]).unwrap() {
            Known::Seen(seen) => {
                assert_eq!(seen.request, [key.wrapping_add(1); 32]);
                assert_eq!(seen.receipt.recipients[1], ("b@example.com".into(), "smarthost:b".into()));
                Some(seen.id)
            }
            Known::New | Known::Full => None,
        }
    }

    #[test]
    fn a_key_is_known_before_and_after_it_is_saved_and_after_a_start() {
        let disk = disk();
        let requests = open(&disk);
        let (one, two) = (message(1, Duration::ZERO), message(2, Duration::ZERO));
        requests.note(&one);
        assert_eq!(id(&requests, 1), Some(one.id), "from memory");
        requests.save().unwrap();
        requests.note(&two);
        requests.note(&one);
        assert_eq!((id(&requests, 1), id(&requests, 2), id(&requests, 3)), (Some(one.id), Some(two.id), None));
        requests.save().unwrap();
        let again = open(&disk);
        assert_eq!((id(&again, 1), id(&again, 2)), (Some(one.id), Some(two.id)));
    }

    #[test]
    fn void_messages_take_their_keys_with_them() {
        let disk = disk();
        let requests = open(&disk);
        let (one, two) = (message(1, Duration::ZERO), message(2, Duration::ZERO));
        requests.note(&one);
        requests.note(&two);
        requests.save().unwrap();
        requests.forget(&[one.id]);
        assert_eq!((id(&requests, 1), id(&requests, 2)), (None, Some(two.id)));
        requests.save().unwrap();
        let again = open(&disk);
        assert_eq!((id(&again, 1), id(&again, 2)), (None, Some(two.id)));
    }

    #[test]
    fn a_key_is_forgotten_after_a_day_and_its_file_is_removed() {
        let disk = disk();
        let requests = open(&disk);
        let old = message(1, REMEMBERED - Duration::from_millis(4_000));
        requests.note(&old);
        requests.save().unwrap();
        assert_eq!(id(&requests, 1), Some(old.id));
        requests.note(&message(2, REMEMBERED));
        assert_eq!(id(&requests, 2), None, "too old from the beginning");
        std::thread::sleep(Duration::from_millis(5_200));
        assert_eq!(id(&requests, 1), None);
        let again = open(&disk);
        assert_eq!(again.inner().files.len(), 0);
        assert_eq!(disk.list(Path::new("/data/requests")).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_torn_line_ends_its_file_and_nothing_else() {
        let disk = disk();
        let requests = open(&disk);
        let (one, two) = (message(1, Duration::ZERO), message(2, Duration::ZERO));
        requests.note(&one);
        requests.save().unwrap();
        requests.note(&two);
        requests.save().unwrap();
        let file = disk.open(Path::new("/data/requests/0000000000.log")).unwrap();
        write_all(&*file, file.len().unwrap() - 5, &[b"xxxxx"]).unwrap();
        let again = open(&disk);
        assert_eq!((id(&again, 1), id(&again, 2)), (Some(one.id), None));
        again.note(&two);
        again.save().unwrap();
        let again = open(&disk);
        assert_eq!((id(&again, 1), id(&again, 2)), (Some(one.id), Some(two.id)));
    }

    #[test]
    fn no_room_is_said_and_nothing_forgotten() {
        let requests = open(&disk());
        let one = message(1, Duration::ZERO);
        requests.note(&one);
        for n in 0..MOST_KEYS as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&(n + 1_000_000).to_le_bytes());
            requests.inner().insert(&Idempotency { key, request: key }, one.id, one.received_at, None);
        }
        assert_eq!(requests.known(&[9; 32]).unwrap(), Known::Full);
        assert_eq!(id(&requests, 1), Some(one.id));
    }
}
