//! What the house keeps, as traits that a transactional database could give as well.
//!
//! * [`Spool`]: content and envelope of a new message become durable together, or not at all.
//! * [`QueueStore`]: messages in the queue, leased to workers, changed by outcomes.
//! * [`ConfigStore`]: an ordered map of text keys with a revision; a commit compares and sets it, however large.
//! * [`ControlStore`]: freezes and other running state that survives a restart.
//! * [`NoteStore`]: many small values that are no configuration, such as the suppression list.
//! * [`TrackingStore`]: what happened to each message.
//! * [`Backup`]: a copy of all of it while it works, as an [`archive`].
//!
//! `250`, `202` and the answer to whatever a person asked for mean: **synced**. Plain delivery
//! outcomes may lag by 20 ms; what they can lose is the knowledge of a delivery, which costs a duplicate,
//! never a message.
//!
//! No iterator lives across an await, every listing is bounded by its caller, and a notice of a change
//! is only a hint. Journal, group and position are words of `embedded` alone.

#[cfg(test)]
pub mod memory;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::model::mail::{Change, Message, MessageId, Recipient};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use archive::Manifest;
use history::{Chunk, Found, HistoryHealth, Position, Seek, Wanted};

pub mod archive;
pub mod data_dir;
pub mod embedded;
pub mod history;
mod overlay;
pub mod scratch;

#[cfg(test)]
pub(crate) mod contract;

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Free space is below the reserve. Outcomes are still recorded; new mail is not taken.
    #[error("free space on the data directory is below the reserve: {free} bytes free, {reserve} reserved")]
    NoSpace {
        /// Bytes free for us.
        free: u64,
        /// Bytes that new mail must leave.
        reserve: u64,
    },
    /// Writing failed and the store does not trust its files until it has healed itself.
    #[error("the store is fenced after a failed write: {0}")]
    Fenced(String),
    /// The compare-and-set failed: somebody else committed first.
    #[error("revision {found} is in force, not {expected}")]
    Conflict {
        /// What the caller had seen.
        expected: u64,
        /// What is in force.
        found: u64,
    },
    /// A lease is not held (any more), or somebody else holds it.
    #[error("the message is leased to a worker")]
    Leased,
    /// There is no such message.
    #[error("no such message")]
    NotFound,
    /// A message of this id is here, or was until a moment ago.
    #[error("a message of this id is here already")]
    Exists,
    /// A record does not match its checksum; it is quarantined and reported.
    #[error("damaged record: {0}")]
    Damaged(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
    /// Anything else.
    #[error("{0}")]
    Io(String),
}

/// Takes new mail.
#[async_trait]
pub trait Spool: Send + Sync {
    /// Whether new mail can be taken now: asked at MAIL, before any content.
    fn has_room(&self) -> Result<(), StoreError>;

    /// Starts a message and makes its id. Dropped without commit, nothing remains.
    fn begin(&self) -> Result<Box<dyn Draft>, StoreError>;

    /// Starts a message that brings its id along. Nobody else may be bringing the same one.
    ///
    /// # Errors
    /// `Exists` when a message of this id is here, or what is left of one that was here is not cleared away yet.
    fn begin_with(&self, id: MessageId) -> Result<Box<dyn Draft>, StoreError>;

    /// Whether a request with this key ([`Idempotency::key`](crate::model::mail::Idempotency)) has brought a message in
    /// the last 24 hours: as exact as the message itself, also when it is long gone.
    async fn known(&self, key: &[u8; 32]) -> Result<Known, StoreError>;
}

/// What is known of the key of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    New,
    /// Nothing, and no further one can be remembered now.
    Full,
    /// It has brought a message.
    Seen(Seen),
}

/// A request that has brought a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// SHA-256 of what was asked for.
    pub request: [u8; 32],
    /// The message.
    pub id: MessageId,
    /// When it was received.
    pub at: Timestamp,
    /// What was answered.
    pub receipt: Receipt,
}

/// What the sender of a message is told when it is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The Message-ID field without angle brackets.
    pub message_id: Option<String>,
    /// Octets of content.
    pub size: u64,
    /// Until when it is held, if it is.
    pub held_until: Option<Timestamp>,
    /// The recipients that were taken, and the queue of each.
    pub recipients: Vec<(String, String)>,
}

impl Receipt {
    /// Of a message as it was taken.
    pub fn of(message: &Message) -> Receipt {
        let queue = |recipient: &Recipient| recipient.waits.as_ref().map(|waits| waits.queue.to_string());
        let told = |recipient: &Recipient| (recipient.forward_path.to_string(), queue(recipient).unwrap_or_default());
        let released = message.released_at();
        Receipt {
            message_id: message.message_id_header.clone(),
            size: message.size,
            held_until: (released > message.received_at).then_some(released),
            recipients: message.recipients.iter().map(told).collect(),
        }
    }
}

/// A message on its way in.
#[async_trait]
pub trait Draft: Send {
    /// Its id.
    fn id(&self) -> MessageId;

    /// Appends content. Large content goes to disk as it comes; memory stays bounded.
    async fn append(&mut self, content: Bytes) -> Result<(), StoreError>;

    /// Octets appended so far.
    fn size(&self) -> u64;

    /// Makes the message durable. Returns only when it is; all its waiting queues are then leased to
    /// the caller (the hand-off from memory), who passes the leases on or releases them.
    /// `message.id` must be the draft's, `message.size` its size.
    async fn commit(self: Box<Self>, message: Message) -> Result<Leased, StoreError>;
}

/// The right to act on the recipients of one message that wait in one queue, until it is released,
/// recorded, or the process ends. Not `Clone`: it is consumed by what ends it.
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    /// The message.
    pub id: MessageId,
    /// The queue.
    pub queue: QueueName,
    /// Fences a worker that comes too late.
    pub epoch: u64,
}

/// A message in a worker's hands.
#[derive(Debug)]
pub struct Leased {
    /// As it is now.
    pub message: Arc<Message>,
    /// One lease per queue that was asked for.
    pub leases: Vec<Lease>,
    /// Its content, if it is still in memory; else read it by [`QueueStore::content`].
    pub content: Option<Bytes>,
}

/// Mail that an outcome causes: a notification, a redirect. It becomes durable with its cause.
#[derive(Debug, Clone)]
pub struct Caused {
    /// The message, with an id of its own.
    pub message: Message,
    /// Its content.
    pub content: Content,
}

/// The content of mail that an outcome causes.
#[derive(Debug, Clone)]
pub enum Content {
    /// These octets.
    Bytes(Bytes),
    /// The same as that of a message that is here; copied chunk by chunk.
    CopyOf(MessageId),
}

/// Reads the content of a message, chunk by chunk (at most 64 KiB each).
#[async_trait]
pub trait ContentReader: Send {
    /// The next chunk; `None` at the end. The checksum was verified before the first chunk.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError>;
}

/// What one queue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueCount {
    /// The queue.
    pub queue: QueueName,
    /// Messages with recipients that wait there.
    pub messages: u64,
    /// Their octets.
    pub bytes: u64,
}

/// Where a listing goes on: behind the last row it gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageKey {
    /// When that message was received.
    pub received_at: Timestamp,
    /// Its id.
    pub id: MessageId,
}

/// The mail that is here.
#[async_trait]
pub trait QueueStore: Send + Sync {
    /// Leases up to `limit` messages (at most 1,000) that wait in `queue`, are due by `now`, are not frozen and not leased;
    /// earliest due first.
    async fn lease(&self, queue: &QueueName, now: Timestamp, limit: usize) -> Result<Vec<Leased>, StoreError>;

    /// Leases one message in all queues it waits in, frozen or not: for what a person asks for.
    ///
    /// # Errors
    /// `Leased` when a worker has it in any queue, `NotFound`.
    async fn lease_message(&self, id: MessageId) -> Result<Leased, StoreError>;

    /// An attempt begins: written down (not synced), so that a crash in the middle of it is known as a possible duplicate.
    fn attempt(&self, lease: &Lease);

    /// Gives leases back unchanged.
    fn release(&self, leases: Vec<Lease>);

    /// The earliest time at which an unleased, unfrozen message of the queue is due.
    async fn next_due(&self, queue: &QueueName) -> Result<Option<Timestamp>, StoreError>;

    /// Stores what became of a leased message, and the mail that this causes, in one atomic step, and ends the
    /// leases, also when it fails. With `synced`, or when it causes mail, returns when it is durable; else as soon as it is in order
    /// behind what came before. The caused mail comes back leased, like from [`Draft::commit`].
    async fn record(
        &self,
        leases: Vec<Lease>,
        change: Change,
        caused: Vec<Caused>,
        synced: bool,
    ) -> Result<Vec<Leased>, StoreError>;

    /// Replaces the envelope of a message whose leases are all the caller's, and ends them. Its content, its size and its id stay.
    /// Durable when it returns, with the message leased in the queues in which it waits now; when it fails, nothing has changed
    /// but that the leases are over.
    ///
    /// # Errors
    /// `Leased` when somebody else works on it, `Damaged` when its content cannot be read.
    async fn amend(&self, leases: Vec<Lease>, message: Message) -> Result<Leased, StoreError>;

    /// One message, as it is now.
    async fn message(&self, id: MessageId) -> Result<Option<Arc<Message>>, StoreError>;

    /// Content of a message that is here.
    async fn content(&self, id: MessageId) -> Result<Box<dyn ContentReader>, StoreError>;

    /// Up to `rows` messages (at most 1,000) behind `after`, in order of reception: of one queue, or of all.
    async fn page(
        &self,
        queue: Option<&QueueName>,
        after: Option<PageKey>,
        rows: usize,
    ) -> Result<Vec<(PageKey, Arc<Message>)>, StoreError>;

    /// Every queue that holds something. From counters, never a scan.
    fn queues(&self) -> Vec<QueueCount>;
}

/// Configuration as an ordered map of text keys (`object/connectors/default`, `address/user@example.com`, `revision/7`).
#[async_trait]
pub trait ConfigStore: Send + Sync {
    /// The revision in force; 0 on an empty store.
    fn revision(&self) -> u64;

    /// One value. Reads the cache or the disk, never waits for a writer.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Up to `limit` entries (at most 10,000) whose key begins with `prefix` and is greater than `after`, in order.
    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError>;

    /// Writes all of it or nothing; durable when it returns. The new revision is `expected + 1`.
    ///
    /// # Errors
    /// `Conflict` when `expected` is not in force.
    async fn commit(&self, expected: u64, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<u64, StoreError>;

    /// Writes what is no configuration, only kept with it (what an operator did): all of it or nothing, durable when it
    /// returns, without a new revision and whatever revision is in force. Its keys are in no change.
    async fn annotate(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError>;

    /// Starts a change that is made step by step and may be larger than memory. Dropped without commit, nothing remains.
    fn draft(self: Arc<Self>) -> Box<dyn ConfigDraft>;
}

/// A change of the configuration while it is being made.
#[async_trait]
pub trait ConfigDraft: Send {
    /// One value, as it will be after the change.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Up to `limit` entries (at most 10,000) whose key begins with `prefix` and is greater than `after`, in order, as they
    /// will be after the change. May block for the disk.
    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError>;

    /// Sets or removes a value. Of several writes to a key the last one counts. May block for the disk.
    fn write(&mut self, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError>;

    /// Writes all of it or nothing; durable when it returns. The new revision is `expected + 1`.
    ///
    /// # Errors
    /// `Conflict` when `expected` is not in force.
    async fn commit(self: Box<Self>, expected: u64) -> Result<u64, StoreError>;
}

/// A draft that is all in memory: for engines that live there themselves.
pub struct InMemoryDraft {
    store: Arc<dyn ConfigStore>,
    writes: BTreeMap<String, Option<Vec<u8>>>,
}

impl InMemoryDraft {
    /// An empty one over this store.
    pub fn new(store: Arc<dyn ConfigStore>) -> Self {
        InMemoryDraft { store, writes: BTreeMap::new() }
    }
}

#[async_trait]
impl ConfigDraft for InMemoryDraft {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.writes.get(key).cloned().map_or_else(|| self.store.get(key), Ok)
    }

    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        use std::ops::Bound;
        let from = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let own = self.writes.range::<str, _>((from, Bound::Unbounded));
        let own =
            own.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, value)| Ok((key.clone(), value.clone())));
        overlay::scan(own, after, limit, |after, limit| self.store.scan(prefix, after, limit))
    }

    fn write(&mut self, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.writes.insert(key.to_owned(), value);
        Ok(())
    }

    async fn commit(self: Box<Self>, expected: u64) -> Result<u64, StoreError> {
        self.store.commit(expected, self.writes.into_iter().collect()).await
    }
}

/// Running state that survives a restart: small values under text keys (`queue-frozen/<queue>`).
#[async_trait]
pub trait ControlStore: Send + Sync {
    /// Sets or removes a value (at most 1 KiB); durable when it returns.
    async fn set(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError>;

    /// Everything whose key begins with `prefix`; for a bounded number of controls.
    fn all(&self, prefix: &str) -> Vec<(String, Vec<u8>)>;
}

/// Many small values under text keys beside the configuration, without a revision: the suppression list, what quotas have
/// counted, what was imported. Served from the database; memory does not grow with them.
#[async_trait]
pub trait NoteStore: Send + Sync {
    /// One note. Reads the cache or the disk, never waits for a writer.
    fn note(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Up to `limit` notes (at most 10,000) whose key begins with `prefix` and is greater than `after`, in order. May block
    /// for the disk.
    fn notes(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError>;

    /// Sets or removes notes (at most 10,000, each at most 4 KiB): all of them or none; durable when it returns.
    async fn write_notes(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError>;
}

/// What happened to messages: one compact record per event, in order. May lose the last moments in a crash.
#[async_trait]
pub trait TrackingStore: Send + Sync {
    /// Appends an event: a JSON object without line ends (at most 8 KiB) with the fields of [`history::EventView`]. Never
    /// waits: when the writer cannot follow, the event is dropped and counted.
    fn append(&self, event: Vec<u8>);

    /// At most so many events of one message, oldest first, behind `after`. Searches a bounded amount of history: an answer may be
    /// short, and then says where to go on.
    async fn events(&self, id: MessageId, after: Option<Position>, limit: usize) -> Result<Found, StoreError>;

    /// Whether there is an event of this message.
    async fn has_events(&self, id: MessageId) -> Result<bool, StoreError> {
        Ok(!self.events(id, None, 1).await?.events.is_empty())
    }

    /// Events that are looked for, with everything that was appended before. What a search may cost it says itself.
    async fn search_events(&self, seek: Seek, wanted: Wanted) -> Result<Found, StoreError>;

    /// The events from a position on, as they were written; at most so many octets (but one event at least), and none when
    /// there is nothing yet.
    async fn read_events(&self, from: Position, octets: usize) -> Result<Chunk, StoreError>;

    /// Where the next event will stand, and word of every change of that. An event appears there some 50 ms after it was
    /// appended.
    fn tail(&self) -> watch::Receiver<Position>;

    /// How long events are kept, and how many octets of them.
    fn keep_events(&self, keep: std::time::Duration, octets: u64);

    /// How the history is.
    fn history(&self) -> HistoryHealth;
}

/// Copies the store while it works.
#[async_trait]
pub trait Backup: Send + Sync {
    /// Begins a copy of everything that was acknowledged before this was called. It is pinned when this returns, and for as
    /// long as its reader keeps up.
    async fn backup(&self) -> Result<Copying, BackupError>;
}

/// A copy on its way.
#[derive(Debug)]
pub struct Copying {
    /// What it begins with.
    pub manifest: Manifest,
    /// The archive, piece by piece; an error ends it.
    pub chunks: mpsc::Receiver<Result<Bytes, StoreError>>,
}

/// Why no copy begins.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// One is being taken.
    #[error("a backup is being taken already; there can be one at a time")]
    Running,
    /// The store does not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What every engine asks of notes before it writes them.
fn check_notes(writes: &[(String, Option<Vec<u8>>)]) -> Result<(), StoreError> {
    let too_long = |(key, value): &&(String, Option<Vec<u8>>)| {
        key.len() > 1_024 || value.as_ref().is_some_and(|value| value.len() > 4_096)
    };
    match writes.iter().find(too_long) {
        _ if writes.len() > 10_000 => Err(StoreError::Io("more than 10,000 notes at once".to_owned())),
        Some((key, _)) => Err(StoreError::Io(format!("the note {key} is longer than 4 KiB"))),
        None => Ok(()),
    }
}

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// New mail can be taken; the reason when not.
    pub writable: Result<(), String>,
    /// Listings and counters are complete (the database has caught up after a start).
    pub ready: bool,
    /// Damaged records that were quarantined since the store was made.
    pub quarantined: u64,
    /// Bytes of journal on disk.
    pub journal_bytes: u64,
    /// Bytes of alive content.
    pub alive_bytes: u64,
    /// Bytes that are free for us on the disk.
    pub free_bytes: u64,
    /// Bytes that new mail must leave.
    pub reserve_bytes: u64,
}

/// The whole store of a process.
pub trait Store: Spool + QueueStore + ConfigStore + ControlStore + NoteStore + TrackingStore {
    /// How it is.
    fn health(&self) -> Health;

    /// Writes down what is on its way and stops the writers. Blocks; called once, at the end.
    fn close(&self);
}
