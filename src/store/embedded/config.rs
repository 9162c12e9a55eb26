//! Configuration and controls as one asks for them: the log is the truth, sled serves the reads.
//!
//! A commit is appended to the log and synced, then published: it lies in `fresh`, which every read looks at
//! first, until the database thread has put it into sled. Keys in the log and in sled begin with `c` for
//! configuration, `k` for controls and `n` for notes. Controls are few and stay in memory as well.
//!
//! A large change ([`Config::commit_large`]) is a new checkpoint, then an overlay: its draft on disk lies over sled, and
//! under `fresh`, until the database thread has moved it there, slice by slice. What is published meanwhile goes into both,
//! so the overlay always has the newest of its keys. The position stays where it was until all is moved: a crash before
//! that fills sled anew from the checkpoint.
//!
//! In the tree `config`: key → 0 and the value, or 1 and a number of chunks (u32) under `x` length key chunk;
//! `p` → number of the log's record that was taken in last.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::config_log::{ConfigLog, ConfigLogError, ConfigPoint, LargeChange, Write};
use super::database::{CHUNK, store_error};
use super::draft::Large;
use crate::store::StoreError;

/// Keys and octets of a batch.
const BATCH_KEYS: usize = 800;
const BATCH_BYTES: usize = 1 << 20;
/// Keys of a large change that are moved at once; between two slices mail has its turn.
const SLICE: usize = 8_000;
/// Published entries that sled may lack before further commits wait.
const MOST_FRESH: usize = 50_000;
/// Tens of milliseconds that a commit waits for the database: a minute.
const MOST_WAITS: usize = 6_000;

/// A published value with the number of its record in the log.
type Fresh = (u64, Option<Vec<u8>>);

/// The live configuration.
pub struct Config {
    log: Mutex<ConfigLog>,
    tree: sled::Tree,
    revision: AtomicU64,
    /// Published, and not in sled yet; with the number of the log's record.
    fresh: Mutex<BTreeMap<String, Fresh>>,
    controls: Mutex<BTreeMap<String, Vec<u8>>>,
    /// A large change that sled is still taking in.
    overlay: RwLock<Option<Arc<Overlay>>>,
    /// Where drafts lie, and how many there were.
    drafts: PathBuf,
    drafted: AtomicU64,
}

struct Overlay {
    writes: Large,
    /// The last key that was moved. Only the database thread moves.
    moved: Mutex<String>,
    /// The newest record of the log that sled has, besides what is still to be moved.
    reached: AtomicU64,
}

impl Config {
    /// Over an opened log; sled is brought up to date, or filled anew when it does not fit. What an earlier process left in
    /// `drafts` is removed.
    pub fn open(log: ConfigLog, tree: sled::Tree, drafts: &Path) -> Result<Config, StoreError> {
        if let Err(error) = std::fs::remove_dir_all(drafts)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(StoreError::Io(format!("removing {}: {error}", drafts.display())));
        }
        let position = tree.get(b"p").map_err(store_error)?;
        let position = position.and_then(|value| Some(u64::from_be_bytes(value.as_ref().try_into().ok()?)));
        let mut config = Config {
            revision: AtomicU64::new(log.revision()),
            tree,
            fresh: Mutex::default(),
            controls: Mutex::default(),
            overlay: RwLock::default(),
            drafts: drafts.to_owned(),
            drafted: AtomicU64::new(0),
            log: Mutex::new(log),
        };
        {
            let log = lock(&config.log);
            let fits = position.is_some_and(|at| at >= log.checkpoint_sequence() && at <= log.sequence());
            let mut behind = position.unwrap_or(0);
            if !fits {
                config.refill(&log)?;
                behind = log.checkpoint_sequence();
            }
            let mut applied = Ok(());
            log.read_log(behind, &mut |sequence, _, writes| {
                if applied.is_ok() {
                    applied = config.apply(Some(sequence), &writes);
                }
            })
            .map_err(log_error)?;
            applied?;
        }
        let mut controls = BTreeMap::new();
        for found in config.tree.scan_prefix(b"k") {
            let (key, value) = found.map_err(store_error)?;
            let text = String::from_utf8_lossy(&key[1..]).into_owned();
            controls.insert(text, config.value(&key, &value)?);
        }
        config.controls = Mutex::new(controls);
        Ok(config)
    }

    /// The revision in force.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// One value of the configuration.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.value_at(format!("c{key}"))
    }

    /// One note.
    pub fn note(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.value_at(format!("n{key}"))
    }

    /// Sets or removes notes, all of them or none. Blocks for a sync, and longer while the database is far behind.
    pub fn write_notes(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        self.wait(|| lock(&self.fresh).len() < MOST_FRESH)?;
        let writes: Vec<Write> = writes.into_iter().map(|(key, value)| (format!("n{key}"), value)).collect();
        let mut log = lock(&self.log);
        let sequence = log.append(self.revision(), &writes).map_err(log_error)?;
        lock(&self.fresh).extend(writes.into_iter().map(|(key, value)| (key, (sequence, value))));
        Ok(())
    }

    /// A value by its key as it is in the log.
    fn value_at(&self, key: String) -> Result<Option<Vec<u8>>, StoreError> {
        // before sled: what leaves here is there already
        if let Some((_, value)) = lock(&self.fresh).get(&key) {
            return Ok(value.clone());
        }
        if let Some(overlay) = self.overlay()
            && let Some(value) = overlay.writes.get(&key)?
        {
            return Ok(value);
        }
        // a value of several chunks may be replaced while it is read; then it does not fit together
        for _ in 0..100 {
            let Some(found) = self.tree.get(&key).map_err(store_error)? else { return Ok(None) };
            if let Some((0, value)) = found.split_first() {
                return Ok(Some(value.to_vec()));
            }
            match self.value(key.as_bytes(), &found) {
                Ok(value) if self.tree.get(&key).map_err(store_error)?.as_ref() == Some(&found) => {
                    return Ok(Some(value));
                }
                _ => {
                    if let Some((_, value)) = lock(&self.fresh).get(&key) {
                        return Ok(value.clone());
                    }
                }
            }
        }
        Err(StoreError::Damaged(format!("configuration key {key}")))
    }

    /// Up to `limit` entries of the configuration with a prefix behind a key.
    pub fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.scan_at(format!("c{prefix}"), after.map(|after| format!("c{after}")), limit)
    }

    /// The same of notes.
    pub fn notes(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.scan_at(format!("n{prefix}"), after.map(|after| format!("n{after}")), limit)
    }

    fn scan_at(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix.clone()),
        };
        // before sled, see `get`
        let fresh: BTreeMap<String, Option<Vec<u8>>> = lock(&self.fresh)
            .range::<String, _>((from.clone(), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&prefix))
            .map(|(key, (_, value))| (key.clone(), value.clone()))
            .collect();
        let mut fresh = fresh.into_iter().peekable();
        let overlay = self.overlay();
        let (start, behind) = match &from {
            Bound::Excluded(start) => (start.as_str(), true),
            Bound::Included(start) => (start.as_str(), false),
            Bound::Unbounded => ("", false),
        };
        let mut large = overlay
            .iter()
            .flat_map(|overlay| overlay.writes.writes(start, behind))
            .take_while(|write| write.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)));
        let mut next_large = large.next().transpose()?;
        let bytes = |bound: &Bound<String>| bound.clone().map(String::into_bytes);
        let mut stored = self
            .tree
            .range::<Vec<u8>, _>((bytes(&from), Bound::Unbounded))
            .take_while(|entry| entry.as_ref().map_or(true, |(key, _)| key.starts_with(prefix.as_bytes())));
        let mut next = stored.next().transpose().map_err(store_error)?;
        let mut found = Vec::new();
        // of one key the first of these counts: fresh, overlay, sled
        while found.len() < limit {
            let text = next.as_ref().map(|(key, _)| String::from_utf8_lossy(key).into_owned());
            let heads = [
                fresh.peek().map(|(key, _)| key.as_str()),
                next_large.as_ref().map(|(key, _)| key.as_str()),
                text.as_deref(),
            ];
            let Some(key) = heads.into_iter().flatten().min().map(str::to_owned) else { break };
            let mut value = None;
            if text.as_ref() == Some(&key) {
                value = next.take().map(|(_, stored)| match stored.first() {
                    Some(0) => Ok(Some(stored[1..].to_vec())),
                    // chunks: may just be replaced
                    _ => self.value_at(key.clone()),
                });
                next = stored.next().transpose().map_err(store_error)?;
            }
            if let Some((_, newer)) = next_large.take_if(|(large, _)| *large == key) {
                value = Some(Ok(newer));
                next_large = large.next().transpose()?;
            }
            if let Some((_, newer)) = fresh.next_if(|(fresh, _)| *fresh == key) {
                value = Some(Ok(newer));
            }
            if let Some(value) = value.transpose()?.flatten() {
                found.push((key[1..].to_owned(), value));
            }
        }
        Ok(found)
    }

    /// Compares, appends, publishes. Blocks for a sync, and longer while the database is far behind. Keys are as in the log.
    pub fn commit(&self, expected: u64, writes: Vec<Write>) -> Result<u64, StoreError> {
        self.wait(|| lock(&self.fresh).len() < MOST_FRESH)?;
        let mut log = lock(&self.log);
        let found = self.revision();
        if found != expected {
            return Err(StoreError::Conflict { expected, found });
        }
        let sequence = log.append(expected + 1, &writes).map_err(log_error)?;
        let mut fresh = lock(&self.fresh);
        fresh.extend(writes.into_iter().map(|(key, value)| (key, (sequence, value))));
        self.revision.store(expected + 1, Ordering::Release);
        Ok(expected + 1)
    }

    /// The same without a new revision. Keys are as in the log.
    pub fn annotate(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        self.wait(|| lock(&self.fresh).len() < MOST_FRESH)?;
        let mut log = lock(&self.log);
        let sequence = log.append(self.revision(), &writes).map_err(log_error)?;
        let mut fresh = lock(&self.fresh);
        fresh.extend(writes.into_iter().map(|(key, value)| (key, (sequence, value))));
        Ok(())
    }

    /// The same for a change of any size. Blocks for as long as a new checkpoint takes to write.
    pub fn commit_large(&self, expected: u64, writes: Large) -> Result<u64, StoreError> {
        // one overlay at a time
        self.wait(|| self.overlay().is_none())?;
        let mut log = lock(&self.log);
        let found = self.revision();
        if found != expected {
            return Err(StoreError::Conflict { expected, found });
        }
        let revision = expected + 1;
        let mut source =
            writes.writes("", false).map(|write| write.map_err(|error| ConfigLogError::Source(error.to_string())));
        let sequence = log.append_large(LargeChange { revision, writes: &mut source }).map_err(log_error)?;
        let overlay = Overlay { writes, moved: Mutex::default(), reached: AtomicU64::new(sequence) };
        let mut fresh = lock(&self.fresh);
        // what waits there is older
        let mut read = Ok(());
        fresh.retain(|key, _| match overlay.writes.get(key) {
            Ok(newer) => newer.is_none(),
            Err(error) => {
                read = Err(error);
                false
            }
        });
        *self.overlay.write().expect("no panic under this lock") = Some(Arc::new(overlay));
        self.revision.store(revision, Ordering::Release);
        read.map(|()| revision)
    }

    /// The files as they are now, for a copy. Waits for a change that is being written.
    pub fn point(&self) -> Result<ConfigPoint, StoreError> {
        lock(&self.log).point().map_err(log_error)
    }

    /// A place for a draft.
    pub fn next_draft(&self) -> PathBuf {
        self.drafts.join(self.drafted.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn overlay(&self) -> Option<Arc<Overlay>> {
        self.overlay.read().expect("no panic under this lock").clone()
    }

    /// Waits for the database thread; it follows within seconds unless it fails.
    fn wait(&self, ready: impl Fn() -> bool) -> Result<(), StoreError> {
        for _ in 0..MOST_WAITS {
            if ready() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err(StoreError::Io("the database has not taken in earlier changes; its errors are in the log".to_owned()))
    }

    /// Sets a control. Blocks for a sync.
    pub fn set(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        if value.as_ref().is_some_and(|value| value.len() > 1_024) {
            return Err(StoreError::Io("a control is longer than 1 KiB".to_owned()));
        }
        let mut log = lock(&self.log);
        let writes = vec![(format!("k{key}"), value.clone())];
        let sequence = log.append(self.revision(), &writes).map_err(log_error)?;
        lock(&self.fresh).extend(writes.into_iter().map(|(key, value)| (key, (sequence, value))));
        let mut controls = lock(&self.controls);
        match value {
            Some(value) => controls.insert(key.to_owned(), value),
            None => controls.remove(key),
        };
        Ok(())
    }

    /// All controls with a prefix.
    pub fn all(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let controls = lock(&self.controls);
        let from = controls.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let found = from.take_while(|(key, _)| key.starts_with(prefix));
        found.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Puts what is published into sled, and a slice of a large change; only the database thread calls this. True when
    /// there was something.
    pub fn take(&self) -> Result<bool, StoreError> {
        let (last, writes, overlay) = {
            // together: what is published behind an overlay is not taken without it
            let fresh = lock(&self.fresh);
            let last = fresh.values().map(|(sequence, _)| *sequence).max();
            let writes: Vec<Write> = fresh.iter().map(|(key, (_, value))| (key.clone(), value.clone())).collect();
            (last, writes, self.overlay())
        };
        if let Some(sequence) = last {
            if let Some(overlay) = &overlay {
                overlay.writes.put(writes.iter().cloned())?;
                self.apply(None, &writes)?;
                overlay.reached.fetch_max(sequence, Ordering::AcqRel);
            } else {
                self.apply(Some(sequence), &writes)?;
            }
            lock(&self.fresh).retain(|_, (published, _)| *published > sequence);
        }
        if let Some(overlay) = &overlay {
            self.move_slice(overlay)?;
        }
        Ok(last.is_some() || overlay.is_some())
    }

    /// True when something is published that sled does not have.
    pub fn has_fresh(&self) -> bool {
        !lock(&self.fresh).is_empty()
    }

    /// True while a large change is being moved into sled.
    pub fn is_moving(&self) -> bool {
        self.overlay().is_some()
    }

    fn move_slice(&self, overlay: &Overlay) -> Result<(), StoreError> {
        let mut moved = lock(&overlay.moved);
        let slice = overlay.writes.writes(&moved, true).take(SLICE).collect::<Result<Vec<Write>, StoreError>>()?;
        if let Some((last, _)) = slice.last() {
            self.apply(None, &slice)?;
            moved.clone_from(last);
            return Ok(());
        }
        self.tree.insert(b"p", &overlay.reached.load(Ordering::Acquire).to_be_bytes()).map_err(store_error)?;
        *self.overlay.write().expect("no panic under this lock") = None;
        Ok(())
    }

    fn refill(&self, log: &ConfigLog) -> Result<(), StoreError> {
        self.tree.clear().map_err(store_error)?;
        let mut batch = sled::Batch::default();
        let (mut keys, mut bytes) = (0, 0);
        log.read_checkpoint(&mut |key, value| {
            self.put(&mut batch, &key, Some(&value), &mut keys, &mut bytes, true).map_err(as_damage)
        })
        .map_err(log_error)?;
        batch.insert(b"p", &log.checkpoint_sequence().to_be_bytes());
        self.tree.apply_batch(batch).map_err(store_error)?;
        Ok(())
    }

    /// Puts changes into sled. The position moves with the last batch, if it is to move; a crash before it repeats them.
    fn apply(&self, sequence: Option<u64>, writes: &[Write]) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        let (mut keys, mut bytes) = (0, 0);
        for (key, value) in writes {
            self.put(&mut batch, key, value.as_deref(), &mut keys, &mut bytes, false)?;
        }
        if let Some(sequence) = sequence {
            batch.insert(b"p", &sequence.to_be_bytes());
        }
        self.tree.apply_batch(batch).map_err(store_error)?;
        Ok(())
    }

    fn put(
        &self,
        batch: &mut sled::Batch,
        key: &str,
        value: Option<&[u8]>,
        keys: &mut usize,
        bytes: &mut usize,
        new: bool,
    ) -> Result<(), StoreError> {
        let old = if new { None } else { self.tree.get(key).map_err(store_error)? };
        let old_chunks = old.as_deref().map_or(0, chunk_count);
        let mut new_chunks = 0;
        let mut room = |batch: &mut sled::Batch, len: usize| {
            *keys += 1;
            *bytes += len + key.len();
            if *keys > BATCH_KEYS || *bytes > BATCH_BYTES {
                (*keys, *bytes) = (0, 0);
                return self.tree.apply_batch(std::mem::take(batch)).map_err(store_error);
            }
            Ok(())
        };
        match value {
            None => batch.remove(key),
            Some(value) if value.len() <= CHUNK => batch.insert(key, [&[0], value].concat()),
            Some(value) => {
                for chunk in value.chunks(CHUNK) {
                    batch.insert(chunk_key(key.as_bytes(), new_chunks), chunk);
                    new_chunks += 1;
                    room(batch, chunk.len())?;
                }
                // with the value's hash, so that a reader sees when chunks are not its own
                let sum = blake3::hash(value);
                batch.insert(key, [&[1], &new_chunks.to_be_bytes()[..], sum.as_bytes()].concat());
            }
        }
        room(batch, value.map_or(0, |value| value.len().min(CHUNK)))?;
        for chunk in new_chunks..old_chunks {
            batch.remove(chunk_key(key.as_bytes(), chunk));
            room(batch, 0)?;
        }
        Ok(())
    }

    fn value(&self, key: &[u8], found: &[u8]) -> Result<Vec<u8>, StoreError> {
        if found.first() == Some(&0) {
            return Ok(found[1..].to_vec());
        }
        let damaged = || StoreError::Damaged(format!("configuration key {}", String::from_utf8_lossy(key)));
        let mut value = Vec::new();
        for chunk in 0..chunk_count(found) {
            value.extend_from_slice(&self.tree.get(chunk_key(key, chunk)).map_err(store_error)?.ok_or_else(damaged)?);
        }
        if found.get(5..37) == Some(blake3::hash(&value).as_bytes()) { Ok(value) } else { Err(damaged()) }
    }
}

fn chunk_count(found: &[u8]) -> u32 {
    match found {
        [1, a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]),
        _ => 0,
    }
}

fn chunk_key(key: &[u8], chunk: u32) -> Vec<u8> {
    [b"x", &(key.len() as u32).to_be_bytes()[..], key, &chunk.to_be_bytes()].concat()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic under this lock")
}

fn log_error(error: ConfigLogError) -> StoreError {
    match error {
        ConfigLogError::Damaged { .. } => StoreError::Damaged(error.to_string()),
        _ => StoreError::Io(error.to_string()),
    }
}

fn as_damage(error: StoreError) -> ConfigLogError {
    ConfigLogError::Io { doing: "filling", path: "db".into(), source: std::io::Error::other(error.to_string()) }
}
