//! A store in memory, for tests on higher floors: everything "synced" at once, nothing survives.
//!
//! It keeps the contract of the traits, so that two days of retries run in a millisecond of virtual time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use super::history::{Chunk, EventView, Found, HistoryHealth, Position, Seek, Wanted};
use super::{
    Caused, ConfigDraft, ConfigStore, Content, ContentReader, ControlStore, Draft, Health, InMemoryDraft, Known, Lease,
    Leased, NoteStore, PageKey, QueueCount, QueueStore, Receipt, Seen, Spool, Store, StoreError, TrackingStore,
};
use crate::model::mail::{Change, Idempotency, Message, MessageId};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;

/// The store. Cheap to clone; all clones are the same store.
#[derive(Default, Clone)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    messages: BTreeMap<MessageId, (Arc<Message>, Bytes)>,
    leases: HashMap<(MessageId, QueueName), u64>,
    epoch: u64,
    revision: u64,
    config: BTreeMap<String, Vec<u8>>,
    refusal: Option<StoreError>,
    controls: BTreeMap<String, Vec<u8>>,
    requests: HashMap<[u8; 32], Seen>,
    notes: BTreeMap<String, Vec<u8>>,
    events: Vec<Vec<u8>>,
    tail: watch::Sender<Position>,
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has all further commits of configuration fail with this error; `None` ends that.
    pub fn refuse(&self, error: Option<StoreError>) {
        self.lock().refusal = error;
    }

    fn write(&self, expected: u64, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<u64, StoreError> {
        let mut inner = self.lock();
        if let Some(error) = &inner.refusal {
            return Err(error.clone());
        }
        if inner.revision != expected {
            return Err(StoreError::Conflict { expected, found: inner.revision });
        }
        for (key, value) in writes {
            match value {
                Some(value) => drop(inner.config.insert(key, value)),
                None => drop(inner.config.remove(&key)),
            }
        }
        inner.revision += 1;
        Ok(inner.revision)
    }

    /// The whole configuration.
    pub fn entries(&self) -> BTreeMap<String, Vec<u8>> {
        self.lock().config.clone()
    }

    /// Every message.
    pub fn messages(&self) -> Vec<Arc<Message>> {
        self.lock().messages.values().map(|(message, _)| message.clone()).collect()
    }

    /// The content of a message.
    pub fn content_of(&self, id: MessageId) -> Bytes {
        self.lock().messages[&id].1.clone()
    }
}

impl Inner {
    fn lease(&mut self, id: MessageId, queues: Vec<QueueName>) -> Leased {
        let (message, content) = self.messages[&id].clone();
        let leases = queues
            .into_iter()
            .map(|queue| {
                self.epoch += 1;
                self.leases.insert((id, queue.clone()), self.epoch);
                Lease { id, queue, epoch: self.epoch }
            })
            .collect();
        Leased { message, leases, content: Some(content) }
    }

    fn insert(&mut self, message: Message, content: Bytes) -> Leased {
        let (id, queues) = (message.id, message.waiting().into_iter().map(|(queue, _)| queue).collect());
        if let Some(Idempotency { key, request }) = message.idempotency {
            let receipt = Receipt::of(&message);
            self.requests.insert(key, Seen { request, id, at: message.received_at, receipt });
        }
        self.messages.insert(id, (Arc::new(message), content));
        self.lease(id, queues)
    }

    fn is_leased(&self, id: MessageId, queue: &QueueName) -> bool {
        self.leases.contains_key(&(id, queue.clone()))
    }
}

struct MemoryDraft {
    id: MessageId,
    content: BytesMut,
    store: MemoryStore,
}

#[async_trait]
impl Draft for MemoryDraft {
    fn id(&self) -> MessageId {
        self.id
    }

    async fn append(&mut self, content: Bytes) -> Result<(), StoreError> {
        self.content.extend_from_slice(&content);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    async fn commit(self: Box<Self>, message: Message) -> Result<Leased, StoreError> {
        Ok(self.store.lock().insert(message, self.content.freeze()))
    }
}

#[async_trait]
impl Spool for MemoryStore {
    fn has_room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn begin(&self) -> Result<Box<dyn Draft>, StoreError> {
        Ok(Box::new(MemoryDraft { id: MessageId::generate(), content: BytesMut::new(), store: self.clone() }))
    }

    async fn known(&self, key: &[u8; 32]) -> Result<Known, StoreError> {
        Ok(self.lock().requests.get(key).cloned().map_or(Known::New, Known::Seen))
    }

    fn begin_with(&self, id: MessageId) -> Result<Box<dyn Draft>, StoreError> {
        if self.lock().messages.contains_key(&id) {
            return Err(StoreError::Exists);
        }
        Ok(Box::new(MemoryDraft { id, content: BytesMut::new(), store: self.clone() }))
    }
}

struct Whole(Option<Bytes>);

#[async_trait]
impl ContentReader for Whole {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.take())
    }
}

#[async_trait]
impl QueueStore for MemoryStore {
    async fn lease(&self, queue: &QueueName, now: Timestamp, limit: usize) -> Result<Vec<Leased>, StoreError> {
        let mut inner = self.lock();
        let mut due: Vec<(Timestamp, MessageId)> = inner
            .messages
            .values()
            .filter(|(message, _)| !message.frozen && !inner.is_leased(message.id, queue))
            .flat_map(|(message, _)| message.waiting().into_iter().map(|(queue, due)| (message.id, queue, due)))
            .filter(|(_, waits, due)| waits == queue && *due <= now)
            .map(|(id, _, due)| (due, id))
            .collect();
        due.sort();
        due.truncate(limit);
        Ok(due.into_iter().map(|(_, id)| inner.lease(id, vec![queue.clone()])).collect())
    }

    async fn lease_message(&self, id: MessageId) -> Result<Leased, StoreError> {
        let mut inner = self.lock();
        let (message, _) = inner.messages.get(&id).ok_or(StoreError::NotFound)?;
        let queues: Vec<QueueName> = message.waiting().into_iter().map(|(queue, _)| queue).collect();
        if queues.iter().any(|queue| inner.is_leased(id, queue)) {
            return Err(StoreError::Leased);
        }
        Ok(inner.lease(id, queues))
    }

    fn attempt(&self, _lease: &Lease) {}

    fn release(&self, leases: Vec<Lease>) {
        let mut inner = self.lock();
        for lease in leases {
            let key = (lease.id, lease.queue);
            if inner.leases.get(&key) == Some(&lease.epoch) {
                inner.leases.remove(&key);
            }
        }
    }

    async fn next_due(&self, queue: &QueueName) -> Result<Option<Timestamp>, StoreError> {
        let inner = self.lock();
        let waiting = inner
            .messages
            .values()
            .filter(|(message, _)| !message.frozen && !inner.is_leased(message.id, queue))
            .flat_map(|(message, _)| message.waiting());
        Ok(waiting.filter(|(waits, _)| waits == queue).map(|(_, due)| due).min())
    }

    async fn record(
        &self,
        leases: Vec<Lease>,
        change: Change,
        caused: Vec<Caused>,
        _synced: bool,
    ) -> Result<Vec<Leased>, StoreError> {
        let mut inner = self.lock();
        let id = leases.first().map(|lease| lease.id).ok_or(StoreError::Leased)?;
        for lease in leases {
            let key = (lease.id, lease.queue);
            if inner.leases.get(&key) != Some(&lease.epoch) {
                return Err(StoreError::Leased);
            }
            inner.leases.remove(&key);
        }
        let (message, content) = inner.messages.get(&id).cloned().ok_or(StoreError::NotFound)?;
        let contents: Vec<Bytes> = caused
            .iter()
            .map(|caused| match &caused.content {
                Content::Bytes(content) => Ok(content.clone()),
                Content::CopyOf(id) => inner.messages.get(id).map(|(_, it)| it.clone()).ok_or(StoreError::NotFound),
            })
            .collect::<Result<_, _>>()?;
        let mut message = Message::clone(&message);
        message.apply(&change);
        if message.is_done() {
            inner.messages.remove(&id);
        } else {
            inner.messages.insert(id, (Arc::new(message), content));
        }
        Ok(caused.into_iter().zip(contents).map(|(caused, content)| inner.insert(caused.message, content)).collect())
    }

    async fn amend(&self, leases: Vec<Lease>, message: Message) -> Result<Leased, StoreError> {
        let mut inner = self.lock();
        let id = message.id;
        for lease in leases {
            let key = (lease.id, lease.queue);
            if lease.id != id || inner.leases.get(&key) != Some(&lease.epoch) {
                return Err(StoreError::Leased);
            }
            inner.leases.remove(&key);
        }
        let (_, content) = inner.messages.get(&id).cloned().ok_or(StoreError::NotFound)?;
        Ok(inner.insert(message, content))
    }

    async fn message(&self, id: MessageId) -> Result<Option<Arc<Message>>, StoreError> {
        Ok(self.lock().messages.get(&id).map(|(message, _)| message.clone()))
    }

    async fn content(&self, id: MessageId) -> Result<Box<dyn ContentReader>, StoreError> {
        let content = self.lock().messages.get(&id).map(|(_, content)| content.clone());
        Ok(Box::new(Whole(Some(content.ok_or(StoreError::NotFound)?))))
    }

    async fn page(
        &self,
        queue: Option<&QueueName>,
        after: Option<PageKey>,
        rows: usize,
    ) -> Result<Vec<(PageKey, Arc<Message>)>, StoreError> {
        let inner = self.lock();
        let mut found: Vec<(PageKey, Arc<Message>)> = inner
            .messages
            .values()
            .filter(|(message, _)| queue.is_none_or(|queue| message.waiting().iter().any(|(waits, _)| waits == queue)))
            .map(|(message, _)| (PageKey { received_at: message.received_at, id: message.id }, message.clone()))
            .filter(|(key, _)| after.is_none_or(|after| *key > after))
            .collect();
        found.sort_by_key(|(key, _)| *key);
        found.truncate(rows);
        Ok(found)
    }

    fn queues(&self) -> Vec<QueueCount> {
        let inner = self.lock();
        let mut counts: BTreeMap<QueueName, (u64, u64)> = BTreeMap::new();
        for (message, _) in inner.messages.values() {
            for (queue, _) in message.waiting() {
                let count = counts.entry(queue).or_default();
                count.0 += 1;
                count.1 += message.size;
            }
        }
        counts.into_iter().map(|(queue, (messages, bytes))| QueueCount { queue, messages, bytes }).collect()
    }
}

#[async_trait]
impl ConfigStore for MemoryStore {
    fn revision(&self) -> u64 {
        self.lock().revision
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.lock().config.get(key).cloned())
    }

    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let inner = self.lock();
        let behind =
            inner.config.range(prefix.to_owned()..).filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        let rows = behind.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn commit(&self, expected: u64, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<u64, StoreError> {
        let committed = self.write(expected, writes)?;
        // durable, but the caller does not know yet
        tokio::task::yield_now().await;
        Ok(committed)
    }

    async fn annotate(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        let mut inner = self.lock();
        for (key, value) in writes {
            match value {
                Some(value) => drop(inner.config.insert(key, value)),
                None => drop(inner.config.remove(&key)),
            }
        }
        Ok(())
    }

    fn draft(self: Arc<Self>) -> Box<dyn ConfigDraft> {
        Box::new(InMemoryDraft::new(self))
    }
}

#[async_trait]
impl ControlStore for MemoryStore {
    async fn set(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        if value.as_ref().is_some_and(|value| value.len() > 1_024) {
            return Err(StoreError::Io("a control is longer than 1 KiB".to_owned()));
        }
        let mut inner = self.lock();
        match value {
            Some(value) => drop(inner.controls.insert(key.to_owned(), value)),
            None => drop(inner.controls.remove(key)),
        }
        Ok(())
    }

    fn all(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let inner = self.lock();
        let found = inner.controls.iter().filter(|(key, _)| key.starts_with(prefix));
        found.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// All in one file, an event an octet.
#[async_trait]
impl NoteStore for MemoryStore {
    fn note(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.lock().notes.get(key).cloned())
    }

    fn notes(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let inner = self.lock();
        let behind =
            inner.notes.range(prefix.to_owned()..).filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        let rows = behind.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn write_notes(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        super::check_notes(&writes)?;
        let mut inner = self.lock();
        for (key, value) in writes {
            match value {
                Some(value) => drop(inner.notes.insert(key, value)),
                None => drop(inner.notes.remove(&key)),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl TrackingStore for MemoryStore {
    fn append(&self, event: Vec<u8>) {
        let mut inner = self.lock();
        inner.events.push(event);
        let tail = Position { file: 1, offset: inner.events.len() as u64 };
        inner.tail.send_replace(tail);
    }

    async fn events(&self, id: MessageId, after: Option<Position>, limit: usize) -> Result<Found, StoreError> {
        let seek = Seek { after, limit, ..Seek::default() };
        self.search_events(seek, Box::new(move |event, _| event.message == Some(id))).await
    }

    async fn search_events(&self, seek: Seek, mut wanted: Wanted) -> Result<Found, StoreError> {
        let events = self.lock().events.clone();
        let mut all: Vec<(Position, Vec<u8>)> =
            (0..).zip(events).map(|(offset, event)| (Position { file: 1, offset }, event)).collect();
        if seek.newest_first {
            all.reverse();
        }
        let mut found = Found::default();
        for (position, event) in all {
            let behind =
                seek.after.is_none_or(|from| if seek.newest_first { position < from } else { position >= from });
            let Some(view) = EventView::of(&event).filter(|_| behind) else { continue };
            let mut keys = Vec::new();
            view.keys(&mut keys);
            let has_keys = seek.keys.iter().all(|one_of| one_of.iter().any(|key| keys.contains(key)));
            let since = seek.since.is_none_or(|since| view.at.is_some_and(|at| at >= since));
            let until = seek.until.is_none_or(|until| view.at.is_some_and(|at| at < until));
            if has_keys && since && until && wanted(&view, &event) {
                found.scanned += 1;
                found.events.push((position, event));
            }
            if found.events.len() >= seek.limit {
                let offset = if seek.newest_first { position.offset } else { position.offset + 1 };
                found.next = Some(Position { offset, ..position });
                break;
            }
        }
        Ok(found)
    }

    async fn read_events(&self, from: Position, _: usize) -> Result<Chunk, StoreError> {
        let inner = self.lock();
        let skip = usize::try_from(from.offset).unwrap_or_default();
        let events = (0..).zip(&inner.events).skip(skip);
        let events = events.map(|(offset, event)| (Position { file: 1, offset }, event.clone())).collect();
        Ok(Chunk { events, next: Position { file: 1, offset: inner.events.len() as u64 }, gap: false })
    }

    fn tail(&self) -> watch::Receiver<Position> {
        self.lock().tail.subscribe()
    }

    fn keep_events(&self, _: std::time::Duration, _: u64) {}

    fn history(&self) -> HistoryHealth {
        HistoryHealth { files: 1, ..HistoryHealth::default() }
    }
}

impl Store for MemoryStore {
    fn health(&self) -> Health {
        Health {
            writable: Ok(()),
            ready: true,
            quarantined: 0,
            journal_bytes: 0,
            alive_bytes: 0,
            free_bytes: u64::MAX,
            reserve_bytes: 0,
        }
    }

    fn close(&self) {}
}
