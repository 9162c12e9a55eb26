//! Event sinks: what happens to mail is told to URLs, in order, at least once.
//!
//! Each sink has a task of its own and a *cursor*: the position in message tracking up to which everything was taken. Events are
//! read from the files of message tracking, so nothing is kept for a sink in memory, and a sink that is slow, or dead for days,
//! costs a few octets; mail never waits for one. The cursor is stored after a batch was taken, at most once a second: what a
//! crash loses of it is told twice.
//!
//! A batch that is not taken is tried again, later and later ([`FIRST_WAIT`] to [`LONGEST_WAIT`]), until it is taken or message
//! tracking no longer keeps its events; then the next one says so (`gap`). The last [`LOG`] requests of each sink are remembered
//! until the process ends.
//!
//! * [`task`]: the life of one sink. [`post`]: one request.

mod post;
mod task;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use utoipa::ToSchema;

use crate::config::{EventSink, Live};
use crate::model::name::Name;
use crate::model::time::Timestamp;
use crate::net::clock::Clock;
use crate::net::http::Http;
use crate::smtp::reply::Reply;
use crate::store::history::{Position, Seek};
use crate::store::{Store, StoreError};

/// The first wait after a request that was not taken; each one after it is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between requests.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Requests that are remembered of each sink.
pub const LOG: usize = 200;
/// How long a sink that is configured may take to begin.
const BEGIN_WITHIN: Duration = Duration::from_secs(5);
/// Prefix of the control keys.
const KEY: &str = "event-sink/";
/// Octets that finding the begin of a replay may read.
const SEEK_OCTETS: u64 = 256 << 20;

/// The event sinks of a process.
pub struct EventSinks {
    store: Arc<dyn Store>,
    live: Live,
    clock: Arc<dyn Clock>,
    http: Http,
    sinks: Mutex<BTreeMap<Name, Arc<Sink>>>,
}

/// One sink, as its task and whoever asks see it.
struct Sink {
    name: Name,
    config: watch::Sender<Arc<EventSink>>,
    state: Mutex<State>,
    /// The cursor was moved by a person.
    moved: Notify,
}

#[derive(Default)]
struct State {
    cursor: Position,
    /// Rises when a person moves the cursor: what is under way then does not move it back.
    moves: u64,
    log: VecDeque<Delivery>,
    /// Requests in a row that were not taken.
    failures: u32,
    taken: Option<Timestamp>,
    failed: Option<(Timestamp, String)>,
    next_attempt: Option<Timestamp>,
    lost: bool,
}

impl Sink {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request to a sink.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// What is in `Bridgehead-Delivery`; the same when a batch is tried again.
    pub delivery: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Which try of this batch it was, from 1 on.
    pub attempt: u32,
    /// How many events were in it.
    pub events: usize,
    /// The id of the first of them.
    #[schema(value_type = String)]
    pub first: Position,
    /// The id of the last of them.
    #[schema(value_type = String)]
    pub last: Position,
    /// Whether it was taken.
    pub taken: bool,
    /// The status of the answer, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub http_status: Option<u16>,
    /// Why it was not taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<String>,
    /// How long it took.
    pub duration_ms: u64,
}

/// How a sink is.
#[derive(Debug, Clone)]
pub struct SinkStatus {
    /// When a request was last taken.
    pub taken: Option<Timestamp>,
    /// When and why the last request was not taken, if that was the last one.
    pub failed: Option<(Timestamp, String)>,
    /// When the next request is made, if the last one was not taken.
    pub next_attempt: Option<Timestamp>,
    /// Everything that happened so far was taken.
    pub is_up_to_date: bool,
    /// Events were lost to it, as message tracking no longer kept them.
    pub lost: bool,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    cursor: Position,
}

impl EventSinks {
    /// None runs before [`EventSinks::run`].
    pub fn new(store: Arc<dyn Store>, live: Live, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(EventSinks { store, live, clock, http: Http::default(), sinks: Mutex::default() })
    }

    /// Keeps a task for each sink that is configured, until the process stops.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<Option<Reply>>) {
        let mut changes = self.live.subscribe();
        let mut tasks: BTreeMap<Name, JoinHandle<()>> = BTreeMap::new();
        self.forget_strangers().await;
        loop {
            self.reconcile(&mut tasks, &stop).await;
            tokio::select! {
                _ = stop.wait_for(Option::is_some) => break,
                changed = changes.changed() => if changed.is_err() { break },
            }
        }
        for (_, task) in tasks {
            // it ends by itself: it watches the same stop
            let _ = task.await;
        }
    }

    /// How a sink is; `None` while nothing is known of it.
    pub fn status(&self, name: &Name) -> Option<SinkStatus> {
        let sink = self.sinks().get(name).cloned()?;
        let tail = *self.store.tail().borrow();
        let state = sink.state();
        Some(SinkStatus {
            taken: state.taken,
            failed: state.failed.clone(),
            next_attempt: state.next_attempt,
            is_up_to_date: state.cursor >= tail && state.failed.is_none(),
            lost: state.lost,
        })
    }

    /// The last requests to a sink, the latest first.
    pub fn deliveries(&self, name: &Name) -> Vec<Delivery> {
        let sink = self.sinks().get(name).cloned();
        sink.map(|sink| sink.state().log.iter().rev().cloned().collect()).unwrap_or_default()
    }

    /// Tells a sink again what happened from a time on. Durable when it returns; the position is where it begins. `None`: there is
    /// no such sink.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn replay(&self, name: &Name, since: Timestamp) -> Result<Option<Position>, StoreError> {
        let Some(sink) = self.begun(name).await else { return Ok(None) };
        let from = self.first_since(since).await?;
        {
            let mut state = sink.state();
            state.cursor = from;
            state.moves += 1;
            state.failures = 0;
            state.next_attempt = None;
        }
        self.keep(&sink.name, from).await?;
        sink.moved.notify_one();
        tracing::info!(event_sink = %name, since = %since, from = %from, "events are told again");
        Ok(Some(from))
    }

    /// One that is configured, which may have been a moment ago.
    async fn begun(&self, name: &Name) -> Option<Arc<Sink>> {
        let deadline = self.clock.now() + BEGIN_WITHIN;
        loop {
            let sink = self.sinks().get(name).cloned();
            let is_late = self.clock.now() >= deadline || !self.live.current().event_sinks.contains_key(name);
            if sink.is_some() || is_late {
                return sink;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The first event at or after a time.
    async fn first_since(&self, since: Timestamp) -> Result<Position, StoreError> {
        let mut seek = Seek { since: Some(since), limit: 1, octets: SEEK_OCTETS, ..Seek::default() };
        loop {
            let found = self.store.search_events(seek.clone(), Box::new(|_, _| true)).await?;
            match (found.events.first(), found.next) {
                (Some((position, _)), _) => return Ok(*position),
                (None, Some(next)) => seek.after = Some(next),
                (None, None) => return Ok(*self.store.tail().borrow()),
            }
        }
    }

    fn sinks(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Sink>>> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }

    /// Starts and ends tasks until there is one for each sink.
    async fn reconcile(
        self: &Arc<Self>,
        tasks: &mut BTreeMap<Name, JoinHandle<()>>,
        stop: &watch::Receiver<Option<Reply>>,
    ) {
        let snapshot = self.live.current();
        let gone: Vec<Name> = tasks.keys().filter(|name| !snapshot.event_sinks.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(task) = tasks.remove(&name) {
                task.abort();
                // ended before its cursor is forgotten
                let _ = task.await;
            }
            self.sinks().remove(&name);
            self.forget(&name).await;
        }
        for (name, config) in &snapshot.event_sinks {
            let known = self.sinks().get(name).cloned();
            match known {
                Some(sink) => {
                    sink.config.send_if_modified(|now| {
                        let changed = !Arc::ptr_eq(now, config);
                        now.clone_from(config);
                        changed
                    });
                }
                None => {
                    let sink = self.begin(name, config).await;
                    self.sinks().insert(name.clone(), sink.clone());
                    tasks.insert(name.clone(), tokio::spawn(task::run(self.clone(), sink, stop.clone())));
                }
            }
        }
    }

    /// A sink goes on where it was; a new one begins now.
    async fn begin(&self, name: &Name, config: &Arc<EventSink>) -> Arc<Sink> {
        let key = format!("{KEY}{name}");
        let stored = self.store.all(&key).into_iter().find(|(found, _)| *found == key);
        let stored = stored.and_then(|(_, value)| serde_json::from_slice::<Stored>(&value).ok());
        let cursor = match stored {
            Some(stored) => stored.cursor,
            None => {
                let tail = *self.store.tail().borrow();
                if let Err(error) = self.keep(name, tail).await {
                    tracing::warn!(event_sink = %name, error = %error, "its cursor could not be stored");
                }
                tail
            }
        };
        Arc::new(Sink {
            name: name.clone(),
            config: watch::Sender::new(config.clone()),
            state: Mutex::new(State { cursor, ..State::default() }),
            moved: Notify::new(),
        })
    }

    async fn keep(&self, name: &Name, cursor: Position) -> Result<(), StoreError> {
        let value = serde_json::to_vec(&Stored { cursor }).map_err(|error| StoreError::Io(error.to_string()))?;
        self.store.set(&format!("{KEY}{name}"), Some(value)).await
    }

    async fn forget(&self, name: &Name) {
        if let Err(error) = self.store.set(&format!("{KEY}{name}"), None).await {
            tracing::warn!(event_sink = %name, error = %error, "the cursor of a sink that is gone could not be removed");
        }
    }

    /// Cursors of sinks that went while nobody looked.
    async fn forget_strangers(&self) {
        let snapshot = self.live.current();
        for (key, _) in self.store.all(KEY) {
            let name = key.strip_prefix(KEY).and_then(|name| name.parse::<Name>().ok());
            if let Some(name) = name.filter(|name| !snapshot.event_sinks.contains_key(name)) {
                self.forget(&name).await;
            }
        }
    }
}
