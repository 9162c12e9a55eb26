//! The log of configuration and controls: `config/checkpoint` and `config/log`.
//!
//! A change is one checksummed record, appended and synced before anybody sees it. When the log outgrows what it
//! describes, checkpoint and log are written anew (temporary name, sync, rename, sync of the directory); reading
//! skips what the checkpoint has already, so a crash between the two renames does no harm.
//!
//! A torn last record was never acknowledged and is dropped. Anything else that cannot be read is an **error with
//! words**: a broken configuration is reported and never replaced by an empty one. After a failed write the log
//! is never written again; the next change begins by writing both files anew from what is good.
//!
//! A change too large for a record ([`ConfigLog::append_large`]) is taken into a new checkpoint at once: before the rename
//! nothing of it is there, after it all of it. When it cannot be told whether the rename will last, nothing more is
//! written until the process has started anew and read what is there.
//!
//! Memory is bounded: rewriting merges the sorted checkpoint with the log's changes, block by block.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, File, read_up_to, with_suffix, write_all, write_whole};

/// The log is rewritten at a quarter of the checkpoint's size, within these bounds: a rewrite reads it into memory,
const REWRITE_AT: std::ops::RangeInclusive<u64> = 16 << 20..=32 << 20;
/// or at twice the checkpoint's, but not below this.
const REWRITE_FLOOR: u64 = 256 << 10;
const FORMAT: u32 = 1;
const CHECKPOINT: &[u8; 8] = b"BRHCFGC\n";
const LOG: &[u8; 8] = b"BRHCFGL\n";
/// magic, format, store id, sequence, revision, key, checksum
const HEADER: usize = 8 + 4 + 16 + 8 + 8 + 32 + 32;
/// length, sequence, checksum
const RECORD: usize = 4 + 8 + 32;
const BLOCK: usize = 64 << 10;
/// In place of a length: the end of a checkpoint.
const END: u32 = u32::MAX;

/// Why the configuration cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigLogError {
    /// The disk said no.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is broken.
    #[error("the configuration in {path} is damaged: {what}; restore the file from a backup")]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Whether a large change is in force will be known when the files are read again.
    #[error("{path} may or may not hold the last change; the next start of the process will tell")]
    InDoubt {
        /// Where.
        path: PathBuf,
    },
    /// The change itself could not be read.
    #[error("the change cannot be read: {0}")]
    Source(String),
    /// It comes from a newer version of this program.
    #[error("{path} has format {found}; this program reads formats up to {FORMAT}")]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// A key with its new value; `None` removes it.
pub type Write = (String, Option<Vec<u8>>);

/// The log, in the hands of its only writer.
#[derive(Debug)]
pub struct ConfigLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store_id: [u8; 16],
    /// `None` after a failed write.
    log: Option<Arc<dyn File>>,
    key: [u8; 32],
    /// Where the log's good records end.
    end: u64,
    checkpoint_bytes: u64,
    sequence: u64,
    checkpoint_sequence: u64,
    revision: u64,
    /// A checkpoint with a large change is in place, but it could not be made sure that it stays.
    in_doubt: bool,
}

/// A change that is larger than a record of the log shall be.
pub struct LargeChange<'a> {
    /// The revision that it makes.
    pub revision: u64,
    /// Its writes, in order of the keys, each key once.
    pub writes: &'a mut dyn Iterator<Item = Result<Write, ConfigLogError>>,
}

/// The files at one moment: name, open file, octets that count. Whatever is written later is behind those, or in other files.
#[derive(Debug)]
pub struct ConfigPoint {
    /// The revision in force.
    pub revision: u64,
    /// Checkpoint and log.
    pub files: [(&'static str, Arc<dyn File>, u64); 2],
}

struct Header {
    sequence: u64,
    revision: u64,
    key: [u8; 32],
}

impl ConfigLog {
    /// Makes an empty one. Only for a new store.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, store_id: [u8; 16]) -> Result<(), ConfigLogError> {
        let mut log = ConfigLog::blank(disk, dir, store_id);
        log.disk.create_dir(dir).map_err(log.io("making", dir))?;
        log.write_checkpoint(&mut std::iter::empty())?;
        log.new_log()
    }

    /// Opens it; all of it is verified.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, store_id: [u8; 16]) -> Result<ConfigLog, ConfigLogError> {
        let mut log = ConfigLog::blank(disk, dir, store_id);
        let path = log.checkpoint_path();
        let (file, checkpoint) = log.header(&path, CHECKPOINT)?;
        log.checkpoint_bytes = file.len().map_err(log.io("reading", &path))?;
        (log.sequence, log.revision) = (checkpoint.sequence, checkpoint.revision);
        log.checkpoint_sequence = checkpoint.sequence;
        log.read_checkpoint(&mut |_, _| Ok(()))?;
        let (file, header) = log.header(&log.log_path(), LOG)?;
        log.key = header.key;
        log.log = Some(file);
        let (mut sequence, mut revision) = (log.sequence, log.revision);
        let torn = log.scan(u64::MAX, &mut |record, rev, _| {
            if record > sequence {
                (sequence, revision) = (record, rev);
            }
        })?;
        (log.sequence, log.revision) = (sequence, revision);
        log.end = torn.end;
        if torn.torn || header.sequence < checkpoint.sequence {
            // nothing may be appended behind garbage, nor behind a log that an earlier checkpoint belongs to
            log.rewrite(None)?;
        }
        Ok(log)
    }

    /// The revision in force.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The number of the last record.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The number of the last record that the checkpoint has taken in.
    pub fn checkpoint_sequence(&self) -> u64 {
        self.checkpoint_sequence
    }

    /// The files as they are now.
    pub fn point(&self) -> Result<ConfigPoint, ConfigLogError> {
        if self.in_doubt {
            return Err(self.doubt());
        }
        let open = |path: &Path| self.disk.open(path).map_err(self.io("opening", path));
        let checkpoint = open(&self.checkpoint_path())?;
        let checkpoint_bytes = checkpoint.len().map_err(self.io("reading", &self.checkpoint_path()))?;
        let log = open(&self.log_path())?;
        // after a failed rewrite the log may be a new one already, which is shorter than the old
        let log_bytes = log.len().map_err(self.io("reading", &self.log_path()))?.min(self.end);
        let files = [("checkpoint", checkpoint, checkpoint_bytes), ("log", log, log_bytes)];
        Ok(ConfigPoint { revision: self.revision, files })
    }

    /// Octets of both files.
    pub fn bytes(&self) -> u64 {
        self.checkpoint_bytes + self.end
    }

    /// Appends a change; durable when it returns. Gives its number.
    pub fn append(&mut self, revision: u64, writes: &[Write]) -> Result<u64, ConfigLogError> {
        if self.in_doubt {
            return Err(self.doubt());
        }
        let at = (self.checkpoint_bytes / 4).clamp(*REWRITE_AT.start(), *REWRITE_AT.end());
        if self.log.is_none() || self.end > at || self.end > (2 * self.checkpoint_bytes).max(REWRITE_FLOOR) {
            self.rewrite(None)?;
        }
        let path = self.log_path();
        let raw: Vec<(&str, Option<Raw>)> =
            writes.iter().map(|(key, value)| (key.as_str(), value.as_deref().map(Raw))).collect();
        let payload = postcard::to_stdvec(&(revision, raw)).expect("our own values can be written in memory");
        let sequence = self.sequence + 1;
        let head = record_head(&self.key, self.end, sequence, &payload);
        let Some(file) = self.log.take() else {
            return Err(ConfigLogError::Damaged { path, what: "there is no log to write to".to_owned() });
        };
        // until both have succeeded there is no log
        write_all(&*file, self.end, &[&head, &payload]).map_err(self.io("writing", &path))?;
        file.sync_data().map_err(self.io("syncing", &path))?;
        self.log = Some(file);
        self.end += (head.len() + payload.len()) as u64;
        self.sequence = sequence;
        self.revision = revision;
        Ok(sequence)
    }

    /// Makes a change of any size: a new checkpoint holds it with all that was before, and is in force by its rename.
    /// Durable when it returns. Memory is bounded as in a rewrite. Gives its number.
    pub fn append_large(&mut self, change: LargeChange<'_>) -> Result<u64, ConfigLogError> {
        if self.in_doubt {
            return Err(self.doubt());
        }
        let before = self.sequence;
        match self.rewrite(Some(change)) {
            // the next change tries again to begin a new log
            Err(_) if self.sequence > before => Ok(self.sequence),
            result => result.map(|()| self.sequence),
        }
    }

    fn doubt(&self) -> ConfigLogError {
        ConfigLogError::InDoubt { path: self.checkpoint_path() }
    }

    /// Gives every key and value of the checkpoint, in order.
    pub fn read_checkpoint(
        &self,
        visit: &mut dyn FnMut(String, Vec<u8>) -> Result<(), ConfigLogError>,
    ) -> Result<(), ConfigLogError> {
        let mut blocks = self.blocks()?;
        while let Some(entries) = blocks.next()? {
            for (key, value) in entries {
                visit(key, value)?;
            }
        }
        Ok(())
    }

    /// Gives the changes in the log behind a number, in order.
    pub fn read_log(&self, behind: u64, visit: &mut dyn FnMut(u64, u64, Vec<Write>)) -> Result<(), ConfigLogError> {
        let behind = behind.max(self.checkpoint_sequence);
        self.scan(self.end, &mut |sequence, revision, writes| {
            if sequence > behind {
                visit(sequence, revision, writes);
            }
        })?;
        Ok(())
    }

    /// Writes checkpoint and log anew, with a large change taken in.
    fn rewrite(&mut self, change: Option<LargeChange<'_>>) -> Result<(), ConfigLogError> {
        let mut changes: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        if self.log.is_none() {
            let (file, header) = self.header(&self.log_path(), LOG)?;
            if header.key != self.key {
                // an earlier attempt got as far as the new log: it is empty, and its checkpoint is complete
                self.key = header.key;
                self.end = HEADER as u64;
                self.checkpoint_sequence = self.header(&self.checkpoint_path(), CHECKPOINT)?.1.sequence;
            }
            self.log = Some(file);
        }
        let read = self.read_log(0, &mut |_, _, writes| changes.extend(writes));
        // the file is not to be trusted with more, whatever happens below
        self.log = None;
        read?;
        let (revision, large) = change.map(|change| (change.revision, change.writes)).unzip();
        let head = match revision {
            Some(revision) => (self.sequence + 1, revision),
            None => (self.sequence, self.revision),
        };
        let mut merged = Merged {
            stored: self.blocks()?,
            block: VecDeque::new(),
            changes: changes.into_iter().peekable(),
            large,
            next_large: None,
            failed: None,
        };
        let path = self.checkpoint_path();
        let tmp = with_suffix(&path, ".tmp");
        let written = self.checkpoint_file(&tmp, head, &mut merged);
        if let Some(error) = merged.failed {
            return Err(error);
        }
        let bytes = written?;
        self.disk.rename(&tmp, &path).map_err(self.io("renaming", &path))?;
        if let Err(error) = self.disk.sync_dir(&self.dir) {
            self.in_doubt = revision.is_some();
            return Err(self.io("syncing", &self.dir)(error));
        }
        self.checkpoint_bytes = bytes;
        (self.sequence, self.revision) = head;
        self.checkpoint_sequence = self.sequence;
        self.new_log()
    }

    fn write_checkpoint(&mut self, entries: &mut dyn Iterator<Item = (String, Vec<u8>)>) -> Result<(), ConfigLogError> {
        let path = self.checkpoint_path();
        let tmp = with_suffix(&path, ".tmp");
        self.checkpoint_bytes = self.checkpoint_file(&tmp, (self.sequence, self.revision), entries)?;
        self.disk.rename(&tmp, &path).map_err(self.io("renaming", &path))?;
        self.disk.sync_dir(&self.dir).map_err(self.io("syncing", &self.dir))
    }

    /// Writes a whole checkpoint and syncs it.
    fn checkpoint_file(
        &self,
        path: &Path,
        (sequence, revision): (u64, u64),
        entries: &mut dyn Iterator<Item = (String, Vec<u8>)>,
    ) -> Result<u64, ConfigLogError> {
        let key = new_key().map_err(self.io("making a key for", path))?;
        let file = self.disk.create(path).map_err(self.io("making", path))?;
        let header = self.header_bytes(CHECKPOINT, &Header { sequence, revision, key });
        let mut offset = 0;
        let mut write = |bytes: &[&[u8]]| {
            write_all(&*file, offset, bytes).map_err(self.io("writing", path))?;
            offset += bytes.iter().map(|part| part.len() as u64).sum::<u64>();
            Ok::<u64, ConfigLogError>(offset)
        };
        let mut at = write(&[&header])?;
        let mut block: Vec<(String, Vec<u8>)> = Vec::new();
        let mut block_len = 0;
        let mut count = 0u64;
        loop {
            let entry = entries.next();
            let last = entry.is_none();
            if let Some((key, value)) = entry {
                block_len += key.len() + value.len();
                count += 1;
                block.push((key, value));
            }
            if block_len >= BLOCK || (last && !block.is_empty()) {
                let raw: Vec<(&str, Raw)> = block.iter().map(|(key, value)| (key.as_str(), Raw(value))).collect();
                let payload = postcard::to_stdvec(&raw).expect("our own values can be written in memory");
                at = write(&[&record_head(&key, at, 0, &payload), &payload])?;
                block.clear();
                block_len = 0;
            }
            if last {
                break;
            }
        }
        let payload = count.to_le_bytes();
        let mut end = record_head(&key, at, 1, &payload);
        end[..4].copy_from_slice(&END.to_le_bytes());
        let bytes = write(&[&end, &payload])?;
        file.sync_data().map_err(self.io("syncing", path))?;
        Ok(bytes)
    }

    fn new_log(&mut self) -> Result<(), ConfigLogError> {
        let path = self.log_path();
        let key = new_key().map_err(self.io("making a key for", &path))?;
        let header = self.header_bytes(LOG, &Header { sequence: self.sequence, revision: self.revision, key });
        write_whole(&*self.disk, &path, &[&header]).map_err(self.io("writing", &path))?;
        self.log = Some(self.disk.open(&path).map_err(self.io("opening", &path))?);
        self.key = key;
        self.end = HEADER as u64;
        Ok(())
    }

    fn blank(disk: Arc<dyn Disk>, dir: &Path, store_id: [u8; 16]) -> ConfigLog {
        ConfigLog {
            disk,
            dir: dir.to_owned(),
            store_id,
            log: None,
            key: [0; 32],
            end: HEADER as u64,
            checkpoint_bytes: 0,
            sequence: 0,
            checkpoint_sequence: 0,
            revision: 0,
            in_doubt: false,
        }
    }

    fn checkpoint_path(&self) -> PathBuf {
        self.dir.join("checkpoint")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn io(&self, doing: &'static str, path: &Path) -> impl Fn(io::Error) -> ConfigLogError + use<> {
        let path = path.to_owned();
        move |source| ConfigLogError::Io { doing, path: path.clone(), source }
    }

    fn header_bytes(&self, magic: &[u8; 8], header: &Header) -> Vec<u8> {
        let mut bytes = magic.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.store_id);
        bytes.extend_from_slice(&header.sequence.to_le_bytes());
        bytes.extend_from_slice(&header.revision.to_le_bytes());
        bytes.extend_from_slice(&header.key);
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        bytes
    }

    fn header(&self, path: &Path, magic: &[u8; 8]) -> Result<(Arc<dyn File>, Header), ConfigLogError> {
        let damaged = |what: &str| ConfigLogError::Damaged { path: path.to_owned(), what: what.to_owned() };
        let file = self.disk.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged("the file is missing"),
            _ => self.io("opening", path)(error),
        })?;
        let bytes = read_up_to(&*file, 0, HEADER).map_err(self.io("reading", path))?;
        if bytes.len() < HEADER || &bytes[..8] != magic {
            return Err(damaged("its header is cut or not ours"));
        }
        if blake3::hash(&bytes[..HEADER - 32]).as_bytes()[..] != bytes[HEADER - 32..] {
            return Err(damaged("its header does not fit its checksum"));
        }
        let format = u32_at(&bytes, 8);
        if format > FORMAT {
            return Err(ConfigLogError::Newer { path: path.to_owned(), found: format });
        }
        if bytes[12..28] != self.store_id {
            return Err(damaged("it belongs to another store"));
        }
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[44..76]);
        Ok((file, Header { sequence: u64_at(&bytes, 28), revision: u64_at(&bytes, 36), key }))
    }

    fn blocks(&self) -> Result<Blocks, ConfigLogError> {
        let path = self.checkpoint_path();
        let (file, header) = self.header(&path, CHECKPOINT)?;
        Ok(Blocks { file, path, key: header.key, at: HEADER as u64, count: 0, done: false })
    }

    /// Reads the log up to an end; tells where the good records end and whether torn bytes follow.
    fn scan(&self, end: u64, visit: &mut dyn FnMut(u64, u64, Vec<Write>)) -> Result<Torn, ConfigLogError> {
        let path = self.log_path();
        let Some(file) = &self.log else { return Ok(Torn { end: self.end, torn: false }) };
        let len = file.len().map_err(self.io("reading", &path))?.min(end);
        let bytes = read_up_to(&**file, 0, len as usize).map_err(self.io("reading", &path))?;
        let damaged = |what: String| ConfigLogError::Damaged { path: path.clone(), what };
        let mut at = HEADER;
        let mut last = None;
        while at < bytes.len() {
            let Some((sequence, payload)) = record_at(&self.key, &bytes, at) else { break };
            if last.is_some_and(|last| sequence != last + 1) {
                return Err(damaged(format!("record {sequence} is out of order")));
            }
            last = Some(sequence);
            let (revision, writes): (u64, Vec<(String, Option<Bytes>)>) =
                postcard::from_bytes(payload).map_err(|error| damaged(format!("record {sequence}: {error}")))?;
            visit(sequence, revision, writes.into_iter().map(|(key, value)| (key, value.map(Vec::from))).collect());
            at += RECORD + payload.len();
        }
        // a record behind the unreadable bytes has a number that may follow: hashes are made for few places only
        let next = last.unwrap_or(self.checkpoint_sequence) + 1;
        let may_follow =
            |at: usize| bytes.len() - at >= RECORD && (next..next + 1_000_000).contains(&u64_at(&bytes, at + 4));
        let good_behind =
            || (at + 1..bytes.len()).any(|at| may_follow(at) && record_at(&self.key, &bytes, at).is_some());
        if at < bytes.len() && (end != u64::MAX || good_behind()) {
            return Err(damaged(format!("unreadable at offset {at}, with good records behind it")));
        }
        Ok(Torn { end: at as u64, torn: at < bytes.len() })
    }
}

/// Checkpoint, log and a large change as one stream in order of the keys; of one key the last of these counts.
struct Merged<'a> {
    stored: Blocks,
    block: VecDeque<(String, Vec<u8>)>,
    changes: std::iter::Peekable<std::collections::btree_map::IntoIter<String, Option<Vec<u8>>>>,
    large: Option<&'a mut dyn Iterator<Item = Result<Write, ConfigLogError>>>,
    next_large: Option<Write>,
    /// Why it ended early.
    failed: Option<ConfigLogError>,
}

impl Iterator for Merged<'_> {
    type Item = (String, Vec<u8>);

    fn next(&mut self) -> Option<(String, Vec<u8>)> {
        if self.failed.is_some() {
            return None;
        }
        loop {
            if let Err(error) = self.read_ahead() {
                self.failed = Some(error);
                return None;
            }
            let heads = [
                self.block.front().map(|(key, _)| key),
                self.changes.peek().map(|(key, _)| key),
                self.next_large.as_ref().map(|(key, _)| key),
            ];
            let key = heads.into_iter().flatten().min()?.clone();
            let mut value = None;
            if self.block.front().is_some_and(|(stored, _)| *stored == key) {
                value = self.block.pop_front().map(|(_, stored)| stored);
            }
            if let Some((_, changed)) = self.changes.next_if(|(changed, _)| *changed == key) {
                value = changed;
            }
            if let Some((_, changed)) = self.next_large.take_if(|(changed, _)| *changed == key) {
                value = changed;
            }
            if let Some(value) = value {
                return Some((key, value));
            }
        }
    }
}

impl Merged<'_> {
    fn read_ahead(&mut self) -> Result<(), ConfigLogError> {
        if self.block.is_empty() {
            self.block.extend(self.stored.next()?.unwrap_or_default());
        }
        if self.next_large.is_none() {
            self.next_large = self.large.as_mut().and_then(|large| large.next()).transpose()?;
        }
        Ok(())
    }
}

/// Octets as octets: serde would take them one by one.
struct Raw<'a>(&'a [u8]);

impl serde::Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(self.0)
    }
}

struct Torn {
    end: u64,
    torn: bool,
}

/// Entries of a checkpoint, in order.
type Block = Vec<(String, Vec<u8>)>;

struct Blocks {
    file: Arc<dyn File>,
    path: PathBuf,
    key: [u8; 32],
    at: u64,
    count: u64,
    done: bool,
}

impl Blocks {
    fn next(&mut self) -> Result<Option<Block>, ConfigLogError> {
        if self.done {
            return Ok(None);
        }
        let damaged = |what: &str| {
            let what = format!("{what} at offset {}", self.at);
            ConfigLogError::Damaged { path: self.path.clone(), what }
        };
        let read = |at: u64, len: usize| {
            let path = self.path.clone();
            read_up_to(&*self.file, at, len).map_err(|source| ConfigLogError::Io { doing: "reading", path, source })
        };
        let head = read(self.at, RECORD)?;
        if head.len() < RECORD {
            return Err(damaged("cut off"));
        }
        let end = u32_at(&head, 0) == END;
        let len = if end { 8 } else { u32_at(&head, 0) as usize };
        let payload = read(self.at + RECORD as u64, len)?;
        if payload.len() < len {
            return Err(damaged("cut off"));
        }
        let mut whole = record_head(&self.key, self.at, u64::from(end), &payload);
        if end {
            whole[..4].copy_from_slice(&END.to_le_bytes());
        }
        if whole != head {
            return Err(damaged("the checksum is wrong"));
        }
        if end {
            if u64_at(&payload, 0) != self.count {
                return Err(damaged("entries are missing"));
            }
            self.done = true;
            return Ok(None);
        }
        let entries: Vec<(String, Bytes)> = postcard::from_bytes(&payload).map_err(|_| damaged("not readable"))?;
        self.count += entries.len() as u64;
        self.at += (RECORD + len) as u64;
        Ok(Some(entries.into_iter().map(|(key, value)| (key, Vec::from(value))).collect()))
    }
}

fn record_head(key: &[u8; 32], offset: u64, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut head = (payload.len() as u32).to_le_bytes().to_vec();
    head.extend_from_slice(&sequence.to_le_bytes());
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&offset.to_le_bytes());
    hasher.update(&head);
    hasher.update(payload);
    head.extend_from_slice(hasher.finalize().as_bytes());
    head
}

fn record_at<'a>(key: &[u8; 32], bytes: &'a [u8], at: usize) -> Option<(u64, &'a [u8])> {
    let head = bytes.get(at..at + RECORD)?;
    let sequence = u64_at(head, 4);
    let payload = bytes.get(at + RECORD..(at + RECORD).checked_add(u32_at(head, 0) as usize)?)?;
    (record_head(key, at as u64, sequence, payload) == head).then_some((sequence, payload))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn new_key() -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::super::sim::{Fault, Rng, SimDisk};
    use super::*;

    const STORE: [u8; 16] = [3; 16];

    fn dir() -> &'static Path {
        Path::new("/data/config")
    }

    fn made(seed: u64) -> SimDisk {
        let disk = SimDisk::new(seed);
        ConfigLog::create(Arc::new(disk.clone()), dir(), STORE).unwrap();
        disk
    }

    fn open(disk: &SimDisk) -> Result<ConfigLog, ConfigLogError> {
        ConfigLog::open(Arc::new(disk.clone()), dir(), STORE)
    }

    fn content(log: &ConfigLog) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        log.read_checkpoint(&mut |key, value| {
            all.insert(key, value);
            Ok(())
        })
        .unwrap();
        log.read_log(0, &mut |_, _, writes| {
            for (key, value) in writes {
                match value {
                    Some(value) => all.insert(key, value),
                    None => all.remove(&key),
                };
            }
        })
        .unwrap();
        all
    }

    fn append_large(log: &mut ConfigLog, revision: u64, writes: &[Write]) -> Result<u64, ConfigLogError> {
        let sorted: BTreeMap<_, _> = writes.iter().cloned().collect();
        log.append_large(LargeChange { revision, writes: &mut sorted.into_iter().map(Ok) })
    }

    fn changes(rng: &mut Rng) -> Vec<Write> {
        let value = |rng: &mut Rng| {
            let len = if rng.chance(10) { 40_000 } else { rng.below(300) };
            rng.chance(75).then(|| vec![rng.next() as u8; len as usize])
        };
        (0..1 + rng.below(4)).map(|_| (format!("c{}", rng.below(30)), value(rng))).collect()
    }

    fn applied(before: &BTreeMap<String, Vec<u8>>, writes: &[Write]) -> BTreeMap<String, Vec<u8>> {
        let mut after = before.clone();
        for (key, value) in writes {
            match value {
                Some(value) => after.insert(key.clone(), value.clone()),
                None => after.remove(key),
            };
        }
        after
    }

    /// Power cuts and faults at any call; files are rewritten many times on the way.
    #[test]
    fn an_acknowledged_change_of_configuration_survives() {
        let (mut cuts, mut rewrites, mut larges) = (0, 0, 0);
        for seed in 0..50 {
            let mut disk = made(seed);
            let mut rng = Rng::new(seed + 77);
            let (mut sure, mut revision) = (BTreeMap::new(), 0);
            for _ in 0..12 {
                let mut log = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                disk.cut_at(rng.below(120));
                let mut maybe = vec![(revision, sure.clone())];
                while !disk.is_off() {
                    if rng.chance(10) {
                        let fault = [Fault::Eio, Fault::Enospc, Fault::Short][rng.below(3) as usize];
                        disk.fail_at(rng.below(5), fault);
                    }
                    let writes = changes(&mut rng);
                    let after = applied(&sure, &writes);
                    let checkpoint = log.checkpoint_sequence();
                    let large = rng.chance(15);
                    let appended = if large {
                        append_large(&mut log, revision + 1, &writes)
                    } else {
                        log.append(revision + 1, &writes)
                    };
                    match appended {
                        Ok(_) => {
                            larges += u32::from(large);
                            (sure, revision) = (after, revision + 1);
                            maybe.clear();
                        }
                        Err(_) => maybe.push((revision + 1, after)),
                    }
                    rewrites += u32::from(log.checkpoint_sequence() > checkpoint);
                }
                maybe.push((revision, sure.clone()));
                disk = disk.after_power_cut();
                let log = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                let found = (log.revision(), content(&log));
                assert!(maybe.contains(&found), "seed {seed}: revision {} of {revision}", found.0);
                (revision, sure) = found;
                cuts += 1;
            }
        }
        assert!(cuts >= 600 && rewrites > 100 && larges > 100, "{cuts} {rewrites} {larges}");
    }

    #[test]
    fn a_large_change_is_in_force_as_a_whole_or_not_at_all() {
        let disk = made(5);
        let mut log = open(&disk).unwrap();
        let put = |n: u32, text: &str| (format!("c{n:04}"), Some(text.as_bytes().to_vec()));
        log.append(1, &[put(1, "a"), put(2, "b"), put(3, "c")]).unwrap();
        let mut writes = vec![put(0, "new"), ("c0002".into(), None), put(3, "other")];
        writes.extend((10..2_000).map(|n| put(n, &"x".repeat(100))));
        append_large(&mut log, 2, &writes).unwrap();
        log.append(3, &[put(1, "last")]).unwrap();
        let all = content(&log);
        assert_eq!(all.len(), 3 + 1_990);
        assert_eq!(
            (all["c0000"].as_slice(), all["c0001"].as_slice(), all["c0003"].as_slice()),
            (&b"new"[..], &b"last"[..], &b"other"[..])
        );
        let bytes = log.bytes();
        let disk = disk.after_power_cut();
        let mut log = open(&disk).unwrap();
        assert_eq!((log.revision(), log.sequence(), content(&log)), (3, 3, all.clone()));
        assert!(log.bytes() == bytes && bytes > 200_000, "when it is written anew depends on its size: {bytes}");

        // a source that fails changes nothing
        let broken = Err(ConfigLogError::Source("gone".into()));
        let mut source = [Ok(put(5, "half")), broken].into_iter();
        assert!(log.append_large(LargeChange { revision: 4, writes: &mut source }).is_err());
        assert_eq!((log.revision(), content(&open(&disk).unwrap())), (3, all.clone()));
        log.append(4, &[put(6, "goes on")]).unwrap();
        assert_eq!(content(&open(&disk.after_power_cut()).unwrap()).len(), all.len() + 1);
    }

    /// A broken configuration is reported and never replaced by an empty one.
    #[test]
    fn damage_is_an_error_with_words() {
        let disk = made(1);
        let mut log = open(&disk).unwrap();
        for n in 0..5 {
            log.append(n + 1, &[(format!("c{n}"), Some(vec![n as u8; 100]))]).unwrap();
        }
        log.rewrite(None).unwrap();
        for n in 5..10 {
            log.append(n + 1, &[(format!("c{n}"), Some(vec![n as u8; 100]))]).unwrap();
        }
        let whole = |name: &str| disk.content(&dir().join(name)).unwrap();
        for name in ["checkpoint", "log"] {
            let len = whole(name).len();
            // the last record of the log cannot be told from a torn one
            let until = if name == "log" { len - 160 } else { len };
            for at in (0..until).step_by(7) {
                let broken = disk.after_kill();
                broken.damage(&dir().join(name), |bytes| bytes[at] ^= 4);
                let error = open(&broken).err().unwrap_or_else(|| panic!("{name} at {at}"));
                assert!(matches!(error, ConfigLogError::Damaged { .. } | ConfigLogError::Newer { .. }), "{error}");
            }
            let broken = disk.after_kill();
            broken.remove(&dir().join(name)).unwrap();
            assert!(open(&broken).err().unwrap().to_string().contains("missing"));
        }
        let torn = disk.after_kill();
        torn.damage(&dir().join("log"), |bytes| bytes.truncate(bytes.len() - 3));
        let log = open(&torn).unwrap();
        assert_eq!((log.revision(), content(&log).len()), (9, 9), "a torn last record was never acknowledged");
    }
}
