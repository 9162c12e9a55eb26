//! sled, and the thread that alone writes to it.
//!
//! Mail lies in one tree, so that rows, counters and position change in one batch:
//!
//! | key | value |
//! |---|---|
//! | `m` id | number of chunks (u16), first chunk of the row (postcard) |
//! | `m` id chunk (u16) | a further chunk |
//! | `d` queue 0 due id | – (messages that are not frozen) |
//! | `q` queue 0 received id | – |
//! | `r` received id | – |
//! | `n` queue | messages and octets waiting there |
//! | `s` segment | alive records of the journal's segment and their octets |
//! | `l` | alive files in `large/` and their octets |
//! | `p` | schema version, store id, last group taken in |
//!
//! Numbers are big-endian. What we know of sled 0.34 and live by (measured): `flush` is no fsync, so `db/db` is
//! synced through a handle of our own; only one thread writes and flushes, in batches below 1,000 keys and
//! 2 MiB; values stay below 1 KiB or so; a left-over `snap.*.generating` keeps it from opening and is removed.
//!
//! The database is a view of the journal. If it cannot be opened or does not fit, it is set aside and rebuilt.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, SystemTime};

use super::journal::Location;
use super::rows::{Batch, Count, Row, Rows, Totals};
use crate::model::mail::{Message, MessageId};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::store::{PageKey, StoreError};

/// Longest value.
pub const CHUNK: usize = 1_000;
/// Rises with the form of a row: a database of another schema is rebuilt from the journal, which reads old records.
const SCHEMA: u8 = 3;
/// A flush that takes longer never ends.
const STALLED: Duration = Duration::from_secs(60);
/// So close together two stalls are the database's fault.
const STALLS_TOGETHER: Duration = Duration::from_secs(600);
/// A file below this is never worth a rebuild.
const SMALL: u64 = 128 << 20;

/// What ends the process when the database hangs.
pub type Stalled = Box<dyn Fn() + Send + Sync>;

/// The open database.
pub struct Database {
    db: sled::Db,
    mail: sled::Tree,
    file: fs::File,
    store_id: [u8; 16],
    position: AtomicU64,
    totals: Mutex<Totals>,
    /// Tells the watchdog that a flush begins (`true`) or has ended.
    watchdog: mpsc::Sender<bool>,
}

/// An opened database and what had to be done to open it.
pub struct Opened {
    /// It.
    pub database: Database,
    /// Why the old one was set aside.
    pub rebuilt: Option<String>,
}

impl Database {
    /// Opens the database under `data/db`, with so many octets of configuration in it besides mail. One that cannot be used
    /// is set aside, and an empty one comes back.
    pub fn open(data: &Path, store_id: [u8; 16], cache: u64, config: u64, stalled: Stalled) -> io::Result<Opened> {
        let mut why = two_stalls(data);
        let dir = data.join("db");
        if why.is_none() && !dir.exists() {
            why = Some("it is not there".to_owned());
        }
        if why.is_none() && dir.exists() {
            remove_generating(&dir)?;
            match open_sled(&dir, cache).and_then(|db| Database::from_sled(db, &dir, store_id)) {
                Ok((db, mail, position, totals, file)) => match too_big(&file, &totals, config) {
                    None => {
                        let watchdog = watch(data.to_owned(), stalled);
                        let (position, totals) = (AtomicU64::new(position), Mutex::new(totals));
                        let database = Database { db, mail, file, store_id, position, totals, watchdog };
                        return Ok(Opened { database, rebuilt: None });
                    }
                    Some(words) => why = Some(words),
                },
                Err(words) => why = Some(words),
            }
        }
        if dir.exists() {
            set_aside(data, &dir)?;
        }
        let made = open_sled(&dir, cache).and_then(|db| Database::from_sled(db, &dir, store_id));
        let (db, mail, position, totals, file) = made.map_err(io::Error::other)?;
        let watchdog = watch(data.to_owned(), stalled);
        let (position, totals) = (AtomicU64::new(position), Mutex::new(totals));
        let database = Database { db, mail, file, store_id, position, totals, watchdog };
        Ok(Opened { database, rebuilt: why })
    }

    /// Sets a database aside that does not fit the journal; the next [`Database::open`] makes an empty one.
    pub fn discard(data: &Path) -> io::Result<()> {
        set_aside(data, &data.join("db"))
    }

    /// What a closed database says of itself: the last group of mail, and the last change of configuration, that it has. For a
    /// copy only, as opening writes.
    ///
    /// # Errors
    /// In words, when it cannot be used.
    pub fn examine(dir: &Path, store_id: [u8; 16]) -> Result<(u64, Option<u64>), String> {
        remove_generating(dir).map_err(|error| error.to_string())?;
        let (db, mail, position, _, _) = Database::from_sled(open_sled(dir, 16 << 20)?, dir, store_id)?;
        for row in mail.iter() {
            row.map_err(|error| error.to_string())?;
        }
        let config = db.open_tree("config").and_then(|tree| tree.get(b"p")).map_err(|error| error.to_string())?;
        let config = config.and_then(|value| Some(u64::from_be_bytes(value.as_ref().try_into().ok()?)));
        Ok((position, config))
    }

    /// A tree besides mail.
    pub fn tree(&self, name: &str) -> Result<sled::Tree, StoreError> {
        self.db.open_tree(name).map_err(store_error)
    }

    #[allow(clippy::type_complexity)] // taken apart at once by the only caller
    fn from_sled(
        db: sled::Db,
        dir: &Path,
        store_id: [u8; 16],
    ) -> Result<(sled::Db, sled::Tree, u64, Totals, fs::File), String> {
        let words = |error: sled::Error| error.to_string();
        let mail = db.open_tree("mail").map_err(words)?;
        let position = match mail.get(b"p").map_err(words)? {
            None if mail.is_empty() => 0,
            None => return Err("it has mail but no position".to_owned()),
            Some(value) if value.len() == 25 && value[0] == SCHEMA && value[1..17] == store_id => {
                u64::from_be_bytes(value[17..25].try_into().map_err(|_| "its position is cut".to_owned())?)
            }
            Some(value) if value.first() != Some(&SCHEMA) => return Err("it has another schema version".to_owned()),
            Some(_) => return Err("it belongs to another store".to_owned()),
        };
        let totals = read_totals(&mail).map_err(|error| error.to_string())?;
        let file = fs::File::open(dir.join("db")).map_err(|error| error.to_string())?;
        Ok((db, mail, position, totals, file))
    }
}

impl Rows for Database {
    fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    fn get(&self, id: MessageId) -> Result<Option<Row>, StoreError> {
        let key = row_key(id);
        let Some(first) = self.mail.get(&key).map_err(store_error)? else { return Ok(None) };
        let broken = || StoreError::Damaged(format!("the database's row of message {id}"));
        let chunks = u16::from_be_bytes(first.get(..2).and_then(|b| b.try_into().ok()).ok_or_else(broken)?);
        if chunks <= 1 {
            return decode_row(&first[2..]).map(Some).ok_or_else(broken);
        }
        let mut bytes = first[2..].to_vec();
        for chunk in 1..chunks {
            let next = self.mail.get(chunk_key(&key, chunk)).map_err(store_error)?.ok_or_else(broken)?;
            bytes.extend_from_slice(&next);
        }
        decode_row(&bytes).map(Some).ok_or_else(broken)
    }

    fn due(
        &self,
        queue: &QueueName,
        after: Option<(Timestamp, MessageId)>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, MessageId)>, StoreError> {
        let prefix = queue_prefix(b'd', queue);
        let keys = self.keys(&prefix, after, limit)?;
        Ok(keys.into_iter().take_while(|(due, _)| *due <= until).collect())
    }

    fn page(
        &self,
        queue: Option<&QueueName>,
        after: Option<PageKey>,
        limit: usize,
    ) -> Result<Vec<PageKey>, StoreError> {
        let prefix = queue.map_or_else(|| b"r".to_vec(), |queue| queue_prefix(b'q', queue));
        let keys = self.keys(&prefix, after.map(|after| (after.received_at, after.id)), limit)?;
        Ok(keys.into_iter().map(|(received_at, id)| PageKey { received_at, id }).collect())
    }

    fn totals(&self) -> Result<Totals, StoreError> {
        Ok(self.totals.lock().expect("no panic under this lock").clone())
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut sled = sled::Batch::default();
        let mut totals = self.totals.lock().expect("no panic under this lock").clone();
        let mut queues: Vec<QueueName> = Vec::new();
        let mut segments: Vec<u64> = Vec::new();
        let large = totals.large;
        for change in &batch.rows {
            let before = change.before.as_ref().map(keys_of).unwrap_or_default();
            let after = change.after.as_ref().map(keys_of).unwrap_or_default();
            for gone in before.iter().filter(|key| !after.contains(key)) {
                sled.remove(gone.as_slice());
            }
            for new in after.iter().filter(|key| !before.contains(key)) {
                sled.insert(new.as_slice(), &[]);
            }
            write_row(&mut sled, change.id, change.before.as_ref(), change.after.as_ref());
            for (row, plus) in [(&change.before, false), (&change.after, true)] {
                if let Some(row) = row {
                    segments.push(row.location.segment);
                    totals.count(row, plus, &mut |queue| {
                        if !queues.contains(queue) {
                            queues.push(queue.clone());
                        }
                    });
                }
            }
        }
        for queue in queues {
            let key = [b"n", queue.to_string().as_bytes()].concat();
            write_count(&mut sled, key, totals.queues.get(&queue));
        }
        segments.sort_unstable();
        segments.dedup();
        for segment in segments {
            let key = [b"s", &segment.to_be_bytes()[..]].concat();
            write_count(&mut sled, key, totals.segments.get(&segment));
        }
        if totals.large != large {
            write_count(&mut sled, b"l".to_vec(), Some(&totals.large));
        }
        let mut position = vec![SCHEMA];
        position.extend_from_slice(&self.store_id);
        position.extend_from_slice(&batch.position.to_be_bytes());
        sled.insert(b"p", position);
        self.mail.apply_batch(sled).map_err(store_error)?;
        *self.totals.lock().expect("no panic under this lock") = totals;
        self.position.store(batch.position, Ordering::Release);
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        // a watchdog that has gone away (a test) is no reason not to flush
        let _ = self.watchdog.send(true);
        let flushed = self.db.flush().map_err(store_error);
        let _ = self.watchdog.send(false);
        flushed?;
        rustix::fs::fdatasync(&self.file).map_err(|error| StoreError::Io(format!("syncing the database: {error}")))
    }
}

impl Database {
    fn keys(
        &self,
        prefix: &[u8],
        after: Option<(Timestamp, MessageId)>,
        limit: usize,
    ) -> Result<Vec<(Timestamp, MessageId)>, StoreError> {
        use std::ops::Bound;
        let from = match after {
            Some((time, id)) => Bound::Excluded(timed_key(prefix, time, id)),
            None => Bound::Included(prefix.to_vec()),
        };
        let mut keys = Vec::new();
        for key in self.mail.range::<Vec<u8>, _>((from, Bound::Unbounded)).keys().take(limit) {
            let key = key.map_err(store_error)?;
            let Some(rest) = key.strip_prefix(prefix) else { break };
            let Some(found) = read_timed(rest) else { break };
            keys.push(found);
        }
        Ok(keys)
    }
}

/// Others than the owner, and a group that was given the volume, have no business in a directory: sled makes it as the umask says, and
/// the data directory around it may have been there before us.
fn close_to_others(dir: &Path) -> io::Result<()> {
    match fs::metadata(dir) {
        Ok(there) if there.mode() & 0o007 != 0 => {
            fs::set_permissions(dir, fs::Permissions::from_mode(there.mode() & 0o7770))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
        }
        Err(error) => Err(error),
    }
}

fn open_sled(dir: &Path, cache: u64) -> Result<sled::Db, String> {
    close_to_others(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    // sled answers some damage with a panic
    let opened = std::panic::catch_unwind(|| {
        sled::Config::new()
            .path(dir)
            .cache_capacity(cache)
            .flush_every_ms(None)
            .open()
            .map_err(|error| error.to_string())
    });
    opened.unwrap_or_else(|_| Err("sled panicked while opening it".to_owned()))
}

fn remove_generating(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled never gives space back; a file far beyond what lives in it is worth a rebuild.
fn too_big(file: &fs::File, totals: &Totals, config: u64) -> Option<String> {
    let size = file.metadata().ok()?.len();
    let messages: u64 = totals.segments.values().map(|count| count.messages).sum();
    // configuration takes three times its size there (measured)
    let alive = messages * 1_024 + 2 * config;
    let words = || format!("it has {size} bytes for {messages} messages and {config} bytes of configuration");
    (size > SMALL + 3 * alive).then(words)
}

/// Renames the database away; only the latest one set aside is kept.
fn set_aside(data: &Path, dir: &Path) -> io::Result<()> {
    let aside = data.join("db.aside");
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    if dir.exists() {
        fs::rename(dir, &aside)?;
    }
    for mark in stall_marks(data) {
        fs::remove_file(mark)?;
    }
    Ok(())
}

fn stall_marks(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains("db-stalled-")).collect()
}

fn two_stalls(data: &Path) -> Option<String> {
    let recent = |path: &PathBuf| {
        let modified = fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        modified.elapsed().is_ok_and(|age| age < STALLS_TOGETHER)
    };
    let count = stall_marks(data).iter().filter(|path| recent(path)).count();
    (count >= 2).then(|| "it hung twice within ten minutes".to_owned())
}

/// Watches flushes; one that hangs ends the process, after a mark for the next start was synced.
fn watch(data: PathBuf, stalled: Stalled) -> mpsc::Sender<bool> {
    let (sender, receiver) = mpsc::channel();
    let run = move || {
        while let Ok(begins) = receiver.recv() {
            if begins && receiver.recv_timeout(STALLED) == Err(mpsc::RecvTimeoutError::Timeout) {
                mark_stall(&data);
                tracing::error!("the database has hung in a flush; ending the process");
                stalled();
            }
        }
    };
    let spawned = std::thread::Builder::new().name("db-watchdog".into()).spawn(run);
    if let Err(error) = spawned {
        tracing::warn!(error = %error, "the database runs without its watchdog");
    }
    sender
}

fn mark_stall(data: &Path) {
    let millis = jiff::Timestamp::now().as_millisecond();
    let path = data.join(format!("db-stalled-{millis}"));
    let marked = fs::File::create(&path).and_then(|file| file.sync_all());
    let marked = marked.and_then(|()| fs::File::open(data)?.sync_all());
    if let Err(error) = marked {
        tracing::error!(error = %error, "no mark could be left for the next start");
    }
}

fn read_totals(mail: &sled::Tree) -> Result<Totals, sled::Error> {
    let mut totals = Totals::default();
    let count = |value: &[u8]| postcard::from_bytes::<Count>(value).unwrap_or_default();
    for found in mail.scan_prefix(b"n") {
        let (key, value) = found?;
        if let Some(queue) = std::str::from_utf8(&key[1..]).ok().and_then(|name| name.parse().ok()) {
            totals.queues.insert(queue, count(&value));
        }
    }
    for found in mail.scan_prefix(b"s") {
        let (key, value) = found?;
        if let Ok(segment) = key[1..].try_into() {
            totals.segments.insert(u64::from_be_bytes(segment), count(&value));
        }
    }
    if let Some(value) = mail.get(b"l")? {
        totals.large = count(&value);
    }
    Ok(totals)
}

fn write_count(batch: &mut sled::Batch, key: Vec<u8>, count: Option<&Count>) {
    match count {
        Some(count) => batch.insert(key, postcard::to_stdvec(count).expect("numbers can be written")),
        None => batch.remove(key),
    }
}

fn write_row(batch: &mut sled::Batch, id: MessageId, before: Option<&Row>, after: Option<&Row>) {
    let key = row_key(id);
    let chunks_of = |bytes: &[u8]| bytes.len().div_ceil(CHUNK).max(1) as u16;
    let old_chunks = before.map_or(0, |row| chunks_of(&encode_row(row)));
    let bytes = after.map(encode_row);
    let new_chunks = bytes.as_deref().map_or(0, chunks_of);
    if let Some(bytes) = &bytes {
        let mut pieces = bytes.chunks(CHUNK);
        let mut first = new_chunks.to_be_bytes().to_vec();
        first.extend_from_slice(pieces.next().unwrap_or_default());
        batch.insert(key.as_slice(), first);
        for (n, piece) in pieces.enumerate() {
            batch.insert(chunk_key(&key, n as u16 + 1), piece);
        }
    } else {
        batch.remove(key.as_slice());
    }
    for chunk in new_chunks.max(1)..old_chunks {
        batch.remove(chunk_key(&key, chunk));
    }
}

fn encode_row(row: &Row) -> Vec<u8> {
    postcard::to_stdvec(&(&row.location, row.suspects, &*row.message)).expect("our own values can be written in memory")
}

fn decode_row(bytes: &[u8]) -> Option<Row> {
    let (location, suspects, message): (Location, u8, Message) = postcard::from_bytes(bytes).ok()?;
    Some(Row { message: std::sync::Arc::new(message), location, suspects })
}

fn row_key(id: MessageId) -> Vec<u8> {
    [b"m", &id.0.as_bytes()[..]].concat()
}

fn chunk_key(row: &[u8], chunk: u16) -> Vec<u8> {
    [row, &chunk.to_be_bytes()].concat()
}

/// The index keys of a row.
fn keys_of(row: &Row) -> Vec<Vec<u8>> {
    let (received, id) = (row.message.received_at, row.message.id);
    let mut keys = vec![timed_key(b"r", received, id)];
    for (queue, due) in row.message.waiting() {
        keys.push(timed_key(&queue_prefix(b'q', &queue), received, id));
        if !row.message.frozen {
            keys.push(timed_key(&queue_prefix(b'd', &queue), due, id));
        }
    }
    keys
}

fn queue_prefix(kind: u8, queue: &QueueName) -> Vec<u8> {
    use std::io::Write;
    let mut prefix = Vec::with_capacity(64);
    prefix.push(kind);
    // writing to memory does not fail
    let _ = write!(prefix, "{queue}");
    prefix.push(0);
    prefix
}

fn timed_key(prefix: &[u8], time: Timestamp, id: MessageId) -> Vec<u8> {
    // so that times before 1970 sort first
    let time = (time.millis() as u64) ^ (1 << 63);
    [prefix, &time.to_be_bytes(), &id.0.as_bytes()[..]].concat()
}

fn read_timed(rest: &[u8]) -> Option<(Timestamp, MessageId)> {
    let (time, id) = rest.split_at_checked(8)?;
    let time = u64::from_be_bytes(time.try_into().ok()?) ^ (1 << 63);
    Some((Timestamp::from_millis(time as i64), MessageId(uuid::Uuid::from_slice(id).ok()?)))
}

/// An error of sled as ours.
pub fn store_error(error: sled::Error) -> StoreError {
    StoreError::Io(format!("the database: {error}"))
}
