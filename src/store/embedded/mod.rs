//! The embedded store: a journal that is the truth about mail, a log that is the truth about configuration, and
//! sled for everything one asks.
//!
//! # Files
//!
//! ```text
//! data/
//!   store        format version and id of the store; written last when a store is made
//!   lock         held by the running process
//!   journal/     <number>.seg: append-only segments of records (journal::record, journal::segment);
//!                spare-*: empty ones for reuse; quarantine-*: damaged ones, for a person to look at
//!   large/       content above 256 KiB, one file per message, called by its id
//!   config/      checkpoint and log of configuration, controls and notes (config_log)
//!   drafts/      large changes of configuration while they are made (draft); never believed after a start
//!   db/          sled: the trees `mail` (database) and `config` (config); a view of the above, rebuilt when in doubt
//!   tracking/    events as JSON lines (tracking)
//!   requests/    the keys of requests that brought mail in the last 24 hours (requests)
//! ```
//!
//! # How a change becomes visible
//!
//! The **journal thread** makes one group of all commits that wait: one write, one fdatasync. Only then is a
//! message part of [`state`](state::State), seen by readers, and its `250` said. Plain outcomes are seen at once and synced
//! within 10 ms. The **database thread** takes what is synced into sled, at leisure: what came and went in the
//! meantime leaves no trace there. Every read merges memory and sled; memory wins.
//!
//! A change of configuration is appended to its log, synced, then published in memory, then taken into sled. One too large
//! for memory becomes a new checkpoint, synced and renamed, then lies over sled as an overlay until that has taken it in.
//!
//! # What a crash leaves
//!
//! Journal and configuration log are read back: a torn tail was never acknowledged; damage is reported and stepped
//! over in the journal, and an error in the configuration. sled is believed only if it belongs to this store and its
//! position lies within the journal, else it is set aside (`db.aside`) and rebuilt. Attempts without an outcome are
//! possible duplicates and are reported. Files in `large/` without a message are removed.
//!
//! # When writing fails
//!
//! The segment is abandoned, callers get `Fenced`, and a new segment is tried every second until it works. See `engine`.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::watch;

use self::config::Config;
use self::config_log::{ConfigLog, ConfigLogError};
use self::content::{Intake, SpoolDraft};
use self::database::{Database, Stalled};
use self::disk::{Disk, write_whole};
use self::engine::{Engine, EngineOptions, Shared};
use self::journal::JournalOptions;
use self::startup::{MailReport, StartError};
use self::threads::Bell;
use self::tracking::Tracking;
use super::data_dir::RESTORING;
use super::history::{Chunk, Found, HistoryHealth, Position, Seek, Wanted};
use super::{
    Backup, BackupError, Caused, ConfigDraft, ConfigStore, Content, ContentReader, ControlStore, Copying, Draft,
    Health, Known, Lease, Leased, NoteStore, PageKey, QueueCount, QueueStore, Spool, Store, StoreError, TrackingStore,
};
use crate::model::mail::{Change, Message, MessageId};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::observe::metrics;

pub mod disk;

pub use doctor::{Diagnosis, Finding, Severity, examine, repair};
pub use restore::{RestoreError, Restored, is_held, restore, to_be_held};

mod backup;
mod config;
mod config_log;
mod content;
mod database;
mod doctor;
mod draft;
mod engine;
mod inbox;
mod journal;
mod mail;
mod reclaim;
mod requests;
mod restore;
mod rows;
mod startup;
mod state;
mod threads;
mod tracking;

#[cfg(test)]
mod power;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

/// See [`Options::database_cache`].
const MOST_FOR_DIRECTORY: u64 = 64 << 20;
const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"BRHSTORE";

/// How the store is set up. `Options::new` has good values for everything.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory; made if it is not there.
    pub data_dir: PathBuf,
    /// Bytes of free space that new mail must leave.
    pub reserve: u64,
    /// Bytes of a journal segment.
    pub segment_size: u64,
    /// Bytes of zeros written ahead in a segment that grows.
    pub fill_ahead: u64,
    /// Content above this lies in a file of its own.
    pub large_above: usize,
    /// Bytes that all content in memory may have together.
    pub content_memory: usize,
    /// Bytes of sled's cache, for mail and a small directory. A large one adds to it when the store is opened: an eighth of
    /// its size, 64 MiB at most, which holds the addresses of a million recipients.
    pub database_cache: u64,
    /// Bytes that tracking files may have together.
    pub tracking_bytes: u64,
    /// How long a message that is frozen at start (see [`OpenReport::frozen`]) stays in the dead-letter queue.
    pub dead_letter_retention: Duration,
    /// How long each sync of the journal took.
    pub sync_seconds: Histogram,
}

impl Options {
    /// Usual values for a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Options {
        Options {
            data_dir: data_dir.into(),
            reserve: 256 << 20,
            segment_size: 64 << 20,
            fill_ahead: 1 << 20,
            large_above: 256 << 10,
            content_memory: 64 << 20,
            database_cache: 32 << 20,
            tracking_bytes: 1 << 30,
            dead_letter_retention: Duration::from_secs(14 * 24 * 3_600),
            sync_seconds: metrics::sync_seconds(),
        }
    }

    fn of_journal(&self) -> JournalOptions {
        JournalOptions { segment_size: self.segment_size, spares: 2, fill_ahead: self.fill_ahead }
    }

    fn of_engine(&self) -> EngineOptions {
        EngineOptions {
            dead_letter_retention: self.dead_letter_retention,
            slack_segments: 3,
            sync_seconds: self.sync_seconds.clone(),
        }
    }
}

/// What opening found; everything in it is worth a line in the log.
#[derive(Debug, Clone, Default)]
pub struct OpenReport {
    /// The store was made just now.
    pub created: bool,
    /// The database was rebuilt from journal and configuration log, and why.
    pub rebuilt: Option<String>,
    /// Damaged records, in words.
    pub damaged: Vec<String>,
    /// Ends of segments that a crash tore (nothing in them was acknowledged), in words.
    pub torn: Vec<String>,
    /// Messages that were with a worker when the process ended: they may be delivered twice.
    pub possible_duplicates: Vec<MessageId>,
    /// Those of them for which that was the third start: frozen now, in the dead-letter queue.
    pub frozen: Vec<MessageId>,
    /// Files in `large/` that belonged to no message and were removed.
    pub orphans: usize,
}

/// Why the store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A newer version of this program wrote it.
    #[error("{} was written by a newer version of this program (format {found}; this one reads up to {FORMAT})", .path.display())]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The directory has files of a store, but not the file that says which.
    #[error("{} is damaged: {what}", .path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The disk said no.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Mail cannot be read.
    #[error("the journal: {0}")]
    Journal(String),
    /// sled cannot be used, not even a new one.
    #[error("the database: {0}")]
    Database(String),
}

/// Why the configuration cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl From<ConfigLogError> for OpenError {
    fn from(error: ConfigLogError) -> Self {
        OpenError::Config(ConfigError(error.to_string()))
    }
}

/// The embedded store.
pub struct Embedded {
    shared: Arc<Shared>,
    config: Arc<Config>,
    tracking: Arc<Tracking>,
    disk: Arc<dyn Disk>,
    options: Options,
    intake: Intake,
    bell: Arc<Bell>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Free space, and when it was looked at (milliseconds).
    free: AtomicU64,
    free_at: AtomicU64,
    born: std::time::Instant,
    closed: AtomicBool,
    store_id: [u8; 16],
    /// A backup runs.
    backing_up: Arc<AtomicBool>,
    _lock: fs::File,
}

impl Embedded {
    /// Opens the store, or makes one where there is none. Blocks.
    ///
    /// # Errors
    /// Another process has it, a newer version wrote it, the configuration is damaged, or the disk fails. Damaged
    /// mail is no error; see [`OpenReport`].
    pub fn open(options: Options, disk: Arc<dyn Disk>) -> Result<(Embedded, OpenReport), OpenError> {
        Embedded::open_with(options, disk, Box::new(|| std::process::abort()))
    }

    /// The same with another end for a process whose database hangs.
    pub fn open_with(
        options: Options,
        disk: Arc<dyn Disk>,
        stalled: Stalled,
    ) -> Result<(Embedded, OpenReport), OpenError> {
        let data = options.data_dir.clone();
        let at_data = |source| OpenError::Io { path: data.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&data).map_err(at_data)?;
        let lock = lock(&data)?;
        if restore::is_unfinished(&data) {
            let what = "a restore was not finished; empty the directory and restore again".to_owned();
            return Err(OpenError::Damaged { path: data.join(RESTORING), what });
        }
        let mut report = OpenReport::default();
        let store_id = identify(&disk, &data, &mut report)?;
        let config_log = ConfigLog::open(disk.clone(), &data.join("config"), store_id)?;
        let stalled: Arc<dyn Fn() + Send + Sync> = stalled.into();
        let config_bytes = config_log.bytes();
        let (engine, mail, database) =
            open_mail(&options, &disk, store_id, config_bytes, &stalled, &mut report.rebuilt)?;
        if report.created {
            // a new store has no database yet, and nothing to rebuild
            report.rebuilt = None;
        }
        let tree = database.tree("config").map_err(|error| OpenError::Database(error.to_string()))?;
        let config = Config::open(config_log, tree, &data.join("drafts"))
            .map_err(|error| OpenError::Database(error.to_string()))?;
        let config = Arc::new(config);
        let tracking = Tracking::open(&data, options.tracking_bytes)
            .map_err(|source| OpenError::Io { path: data.join("tracking"), source })?;
        fill(&mut report, mail);
        let shared = engine.shared.clone();
        let bell = Arc::new(Bell::default());
        let give_up = {
            let (disk, data, reserve) = (disk.clone(), data.clone(), options.reserve);
            move || {
                // on a full disk a new start would not do better
                if disk.free_space(&data).is_ok_and(|free| free >= reserve) {
                    stalled();
                }
            }
        };
        let threads = threads::spawn(engine, &config, &bell, Box::new(give_up)).map_err(at_data)?;
        let intake = Intake {
            shared: shared.clone(),
            disk: disk.clone(),
            large: data.join("large"),
            large_above: options.large_above,
            memory: Arc::new(AtomicUsize::new(0)),
            memory_limit: options.content_memory,
        };
        let store = Embedded {
            shared,
            config,
            tracking: Arc::new(tracking),
            disk,
            options,
            intake,
            bell,
            threads: Mutex::new(threads),
            free: AtomicU64::new(u64::MAX),
            free_at: AtomicU64::new(0),
            born: std::time::Instant::now(),
            closed: AtomicBool::new(false),
            store_id,
            backing_up: Arc::default(),
            _lock: lock,
        };
        Ok((store, report))
    }

    /// Free space, looked at at most ten times a second.
    fn free_space(&self) -> u64 {
        let now = self.born.elapsed().as_millis() as u64 + 1_000;
        let at = self.free_at.load(Ordering::Relaxed);
        if now.saturating_sub(at) >= 100
            && self.free_at.compare_exchange(at, now, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            && let Ok(free) = self.disk.free_space(&self.options.data_dir)
        {
            self.free.store(free, Ordering::Release);
        }
        self.free.load(Ordering::Acquire)
    }
}

#[async_trait]
impl Spool for Embedded {
    fn has_room(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        if let Some(why) = self.shared.fence.lock().expect("no panic under this lock").clone() {
            return Err(StoreError::Fenced(why));
        }
        if threads::is_behind(&self.shared) {
            return Err(StoreError::Fenced("the database cannot follow".to_owned()));
        }
        let (free, reserve) = (self.free_space(), self.options.reserve);
        if free < reserve { Err(StoreError::NoSpace { free, reserve }) } else { Ok(()) }
    }

    fn begin(&self) -> Result<Box<dyn Draft>, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        Ok(Box::new(SpoolDraft::new(self.intake.clone())))
    }

    async fn known(&self, key: &[u8; 32]) -> Result<Known, StoreError> {
        let (shared, key) = (self.shared.clone(), *key);
        blocking(move || shared.requests.known(&key)).await?
    }

    fn begin_with(&self, id: MessageId) -> Result<Box<dyn Draft>, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        if self.shared.row(id)?.is_some() || self.shared.state().is_clearing(id) {
            return Err(StoreError::Exists);
        }
        Ok(Box::new(SpoolDraft::with_id(self.intake.clone(), id)))
    }
}

#[async_trait]
impl QueueStore for Embedded {
    async fn lease(&self, queue: &QueueName, now: Timestamp, limit: usize) -> Result<Vec<Leased>, StoreError> {
        if !self.shared.state().totals.queues.contains_key(queue) {
            return Ok(Vec::new());
        }
        let (shared, queue) = (self.shared.clone(), queue.clone());
        blocking(move || mail::lease(&shared, &queue, now, limit)).await?
    }

    async fn lease_message(&self, id: MessageId) -> Result<Leased, StoreError> {
        let shared = self.shared.clone();
        blocking(move || mail::lease_message(&shared, id)).await?
    }

    fn attempt(&self, lease: &Lease) {
        mail::attempt(&self.shared, lease);
    }

    fn release(&self, leases: Vec<Lease>) {
        mail::release(&self.shared, &leases);
    }

    async fn next_due(&self, queue: &QueueName) -> Result<Option<Timestamp>, StoreError> {
        if !self.shared.state().totals.queues.contains_key(queue) {
            return Ok(None);
        }
        let (shared, queue) = (self.shared.clone(), queue.clone());
        blocking(move || mail::next_due(&shared, &queue)).await?
    }

    async fn record(
        &self,
        leases: Vec<Lease>,
        change: Change,
        caused: Vec<Caused>,
        synced: bool,
    ) -> Result<Vec<Leased>, StoreError> {
        if !synced && caused.is_empty() {
            return mail::record_plain(&self.shared, leases, change).await.map(|()| Vec::new());
        }
        let mut change = mail::recorded(&self.shared, leases, change)?;
        let mut mails = Vec::with_capacity(caused.len());
        let prepared = async {
            for Caused { message, content } in caused {
                let mut draft = SpoolDraft::with_id(self.intake.clone(), message.id);
                match content {
                    Content::Bytes(content) => draft.append(content).await?,
                    Content::CopyOf(id) => {
                        let mut reader = self.content(id).await?;
                        while let Some(chunk) = reader.next().await? {
                            draft.append(chunk).await?;
                        }
                    }
                }
                mails.push(draft.finish(message).await?);
            }
            Ok(())
        };
        let prepared = prepared.await;
        let large: Vec<MessageId> = mails.iter().filter(|mail| mail.large).map(|mail| mail.message.id).collect();
        if let Err(error) = prepared {
            mail::release(&self.shared, &change.leases);
            for id in large {
                content::remove_unused(&self.intake, id).await;
            }
            return Err(error);
        }
        mail::unite(&mut change, &mut mails);
        let recorded = content::commit(&self.shared, Some(change), mails).await;
        if recorded.is_err() {
            for id in large {
                content::remove_unused(&self.intake, id).await;
            }
        }
        recorded
    }

    async fn amend(&self, leases: Vec<Lease>, message: Message) -> Result<Leased, StoreError> {
        let mut change = mail::recorded(&self.shared, leases, Change::default())?;
        let shared = self.shared.clone();
        let mail = match blocking(move || mail::amended(&shared, message)).await {
            Ok(Ok(mail)) => mail,
            Ok(Err(error)) | Err(error) => {
                mail::release(&self.shared, &change.leases);
                return Err(error);
            }
        };
        let mut mails = vec![mail];
        mail::unite(&mut change, &mut mails);
        content::commit(&self.shared, Some(change), mails).await?.pop().ok_or(StoreError::Closed)
    }

    async fn message(&self, id: MessageId) -> Result<Option<Arc<Message>>, StoreError> {
        Ok(self.shared.row(id)?.map(|row| row.message))
    }

    async fn content(&self, id: MessageId) -> Result<Box<dyn ContentReader>, StoreError> {
        let (shared, disk, large) = (self.shared.clone(), self.disk.clone(), self.intake.large.clone());
        blocking(move || content::open(&shared, &*disk, &large, id)).await?
    }

    async fn page(
        &self,
        queue: Option<&QueueName>,
        after: Option<PageKey>,
        rows: usize,
    ) -> Result<Vec<(PageKey, Arc<Message>)>, StoreError> {
        let (shared, queue) = (self.shared.clone(), queue.cloned());
        blocking(move || mail::page(&shared, queue.as_ref(), after, rows)).await?
    }

    fn queues(&self) -> Vec<QueueCount> {
        let state = self.shared.state();
        let mut queues: Vec<QueueCount> = state
            .totals
            .queues
            .iter()
            .map(|(queue, count)| QueueCount { queue: queue.clone(), messages: count.messages, bytes: count.bytes })
            .collect();
        drop(state);
        queues.sort_by(|a, b| a.queue.cmp(&b.queue));
        queues
    }
}

#[async_trait]
impl ConfigStore for Embedded {
    fn revision(&self) -> u64 {
        self.config.revision()
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.config.get(key)
    }

    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.config.scan(prefix, after, limit.min(10_000))
    }

    async fn commit(&self, expected: u64, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<u64, StoreError> {
        let config = self.config.clone();
        let writes = writes.into_iter().map(|(key, value)| (format!("c{key}"), value)).collect();
        let revision = blocking(move || config.commit(expected, writes)).await??;
        self.bell.ring();
        Ok(revision)
    }

    async fn annotate(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        let config = self.config.clone();
        let writes = writes.into_iter().map(|(key, value)| (format!("c{key}"), value)).collect();
        blocking(move || config.annotate(writes)).await??;
        self.bell.ring();
        Ok(())
    }

    fn draft(self: Arc<Self>) -> Box<dyn ConfigDraft> {
        Box::new(draft::Draft::new(self.config.clone(), self.bell.clone()))
    }
}

#[async_trait]
impl ControlStore for Embedded {
    async fn set(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        let (config, key) = (self.config.clone(), key.to_owned());
        blocking(move || config.set(&key, value)).await??;
        self.bell.ring();
        Ok(())
    }

    fn all(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        self.config.all(prefix)
    }
}

#[async_trait]
impl NoteStore for Embedded {
    fn note(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.config.note(key)
    }

    fn notes(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.config.notes(prefix, after, limit.min(10_000))
    }

    async fn write_notes(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        super::check_notes(&writes)?;
        let config = self.config.clone();
        blocking(move || config.write_notes(writes)).await??;
        self.bell.ring();
        Ok(())
    }
}

#[async_trait]
impl TrackingStore for Embedded {
    fn append(&self, event: Vec<u8>) {
        self.tracking.append(event);
    }

    async fn events(&self, id: MessageId, after: Option<Position>, limit: usize) -> Result<Found, StoreError> {
        let tracking = self.tracking.clone();
        blocking(move || tracking.events(id, after, limit)).await?.map_err(unreadable_history)
    }

    async fn search_events(&self, seek: Seek, wanted: Wanted) -> Result<Found, StoreError> {
        let tracking = self.tracking.clone();
        blocking(move || tracking.search(&seek, wanted)).await?.map_err(unreadable_history)
    }

    async fn read_events(&self, from: Position, octets: usize) -> Result<Chunk, StoreError> {
        let tracking = self.tracking.clone();
        blocking(move || tracking.read(from, octets)).await?.map_err(unreadable_history)
    }

    fn tail(&self) -> watch::Receiver<Position> {
        self.tracking.tail()
    }

    fn keep_events(&self, keep: Duration, octets: u64) {
        self.tracking.set_retention(keep, octets);
    }

    fn history(&self) -> HistoryHealth {
        self.tracking.health()
    }
}

fn unreadable_history(error: io::Error) -> StoreError {
    StoreError::Io(format!("reading tracking/: {error}"))
}

#[async_trait]
impl Backup for Embedded {
    async fn backup(&self) -> Result<Copying, BackupError> {
        backup::begin(self).await
    }
}

impl Store for Embedded {
    fn health(&self) -> Health {
        let state = self.shared.state();
        let alive: u64 = state.totals.segments.values().map(|count| count.bytes).sum();
        let alive_bytes = alive + state.totals.large.bytes;
        drop(state);
        Health {
            writable: self.has_room().map_err(|error| error.to_string()),
            ready: self.shared.ready.load(Ordering::Acquire),
            quarantined: self.shared.quarantined.load(Ordering::Relaxed),
            journal_bytes: self.shared.journal_bytes.load(Ordering::Relaxed),
            alive_bytes,
            free_bytes: self.free_space(),
            reserve_bytes: self.options.reserve,
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.shared.inbox.close();
        let threads: Vec<_> = self.threads.lock().expect("no panic under this lock").drain(..).collect();
        // the journal thread first; it tells the database thread when nothing more will come
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the store ended in a panic");
            }
        }
        self.tracking.close();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens the database and the journal over it; a database that does not fit is set aside, rebuilt, and said so.
fn open_mail(
    options: &Options,
    disk: &Arc<dyn Disk>,
    store_id: [u8; 16],
    config_bytes: u64,
    stalled: &Arc<dyn Fn() + Send + Sync>,
    rebuilt: &mut Option<String>,
) -> Result<(Engine, MailReport, Arc<Database>), OpenError> {
    let data = &options.data_dir;
    let at_data = |source| OpenError::Io { path: data.clone(), source };
    let mut attempts = 0;
    loop {
        let end = stalled.clone();
        let cache = options.database_cache + (config_bytes / 8).min(MOST_FOR_DIRECTORY);
        let opened = Database::open(data, store_id, cache, config_bytes, Box::new(move || end()));
        let opened = opened.map_err(|error| OpenError::Database(error.to_string()))?;
        if opened.rebuilt.is_some() {
            *rebuilt = opened.rebuilt;
        }
        let database = Arc::new(opened.database);
        let (journal, engine) = (options.of_journal(), options.of_engine());
        let why = match startup::start(disk.clone(), data, store_id, journal, engine, database.clone()) {
            Ok((engine, mail)) => return Ok((engine, mail, database)),
            Err(StartError::Rebuild(why)) if attempts == 0 => why,
            Err(error @ StartError::Rows(_)) if attempts == 0 => error.to_string(),
            Err(error) => return Err(OpenError::Journal(error.to_string())),
        };
        drop(database);
        *rebuilt = Some(why);
        Database::discard(data).map_err(at_data)?;
        attempts += 1;
    }
}

/// Runs something that waits for the disk where waiting does no harm.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::Io(error.to_string()))
}

fn large_path(large: &Path, id: MessageId) -> PathBuf {
    large.join(id.to_string())
}

fn lock(data: &Path) -> Result<fs::File, OpenError> {
    let path = data.join("lock");
    let opened = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(|source| OpenError::Io { path: path.clone(), source })?;
    lock_file(file, &path, data)
}

fn lock_file(file: fs::File, path: &Path, data: &Path) -> Result<fs::File, OpenError> {
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse(data.to_owned())),
        Err(error) => Err(OpenError::Io { path: path.to_owned(), source: error.into() }),
    }
}

/// The id of the store that lies here; `None` where there is none yet.
fn read_identity(disk: &dyn Disk, data: &Path) -> Result<Option<[u8; 16]>, OpenError> {
    let path = data.join("store");
    let io_error = |source| OpenError::Io { path: path.clone(), source };
    let damaged = |what: &str| OpenError::Damaged { path: path.clone(), what: what.to_owned() };
    match disk.open(&path) {
        Ok(file) => {
            let bytes = disk::read_up_to(&*file, 0, 60).map_err(io_error)?;
            if bytes.len() != 60 || &bytes[..8] != MAGIC {
                return Err(damaged("it is cut or not ours"));
            }
            if blake3::hash(&bytes[..28]).as_bytes()[..] != bytes[28..] {
                return Err(damaged("it does not fit its checksum"));
            }
            let found = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
            if found > FORMAT {
                return Err(OpenError::Newer { path, found });
            }
            let mut id = [0; 16];
            id.copy_from_slice(&bytes[12..28]);
            Ok(Some(id))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // a journal without the file that names its store is no new store
            let segments = disk.list(&data.join("journal")).unwrap_or_default();
            if segments.iter().any(|name| name.ends_with(".seg")) {
                return Err(damaged("it is missing, but there is mail"));
            }
            Ok(None)
        }
        Err(error) => Err(io_error(error)),
    }
}

/// The store's id; an empty directory becomes a store.
fn identify(disk: &Arc<dyn Disk>, data: &Path, report: &mut OpenReport) -> Result<[u8; 16], OpenError> {
    if let Some(id) = read_identity(&**disk, data)? {
        return Ok(id);
    }
    let path = data.join("store");
    let io_error = |source| OpenError::Io { path: path.clone(), source };
    let id = *uuid::Uuid::new_v4().as_bytes();
    disk.create_dir(&data.join("journal")).map_err(io_error)?;
    disk.create_dir(&data.join("large")).map_err(io_error)?;
    ConfigLog::create(disk.clone(), &data.join("config"), id)?;
    disk.sync_dir(data).map_err(io_error)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&id);
    let sum = blake3::hash(&bytes);
    write_whole(&**disk, &path, &[&bytes, sum.as_bytes()]).map_err(io_error)?;
    report.created = true;
    Ok(id)
}

fn fill(report: &mut OpenReport, mail: MailReport) {
    for (segment, offset, id) in &mail.replay.damaged {
        let whose = id.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
        report.damaged.push(format!("segment {segment}, offset {offset}, message {whose}"));
    }
    for name in &mail.replay.lost_segments {
        report.damaged.push(format!("segment file {name}: its header is damaged or foreign; set aside"));
    }
    for (segment, offset) in &mail.replay.torn {
        report.torn.push(format!("segment {segment} ends at offset {offset}"));
    }
    report.possible_duplicates = mail.possible_duplicates;
    report.frozen = mail.frozen;
    report.orphans = mail.orphans;
}
