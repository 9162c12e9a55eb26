//! The queue: what is kept goes out, again and again if need be, until it is delivered, reported or given up.
//!
//! ```text
//!   intake ── enqueue ──▶ link (window in memory) ──▶ worker (outbound, local) ──▶ outcome ──▶ store
//!                │ full, frozen, resting                                              │
//!                ▼                                                                    ▼ a notification is
//!              store ◀───────────────── released, deferred ───────────────────────  enqueued like any mail
//!                └── scheduler (agenda: when to look at which queue) ──▶ assign again ──▶ link
//! ```
//!
//! * [`enqueue`](Queue::enqueue): mail that has just become durable goes to its link queues from memory.
//! * `link`: one queue per next hop, a bounded window of leased messages; the rest waits in the store.
//! * [`next_hosts`]: which hosts of the next hop have put a message off.
//! * [`carrier`]: hands the messages of a queue to one SMTP or LMTP session.
//! * [`outgoing`]: a message as it leaves: other senders, and content converted for who takes less.
//! * `agenda` and `scheduler`: retries, routing again, expiry, the end of the dead-letter retention.
//! * `deadlines`: mail that has to be delivered by a time (RFC 2852).
//! * `dequeue`: a client asks for what waits (ETRN). [`turn`]: it takes it over its own connection (ATRN).
//! * `pace`: limits of rate. `tolerance`: how much a next hop has shown that it takes.
//! * `hours`: the schedules of connectors, mail that is held. `health`: which of them are down. `rerouting`: mail that belongs elsewhere since
//!   something has changed.
//! * [`holds`]: mail that an operator keeps back. `suspension`: connectors that he has suspended. [`resubmit`]: dead letters on their
//!   way again. [`transfer`]: the whole queue into a file and back. [`steer`]: all of that for people.
//! * `assign`: which queue a recipient waits in: directory, then routing.
//! * `distribution`: mail for groups, contacts and forwards becomes mail for those who get it.
//! * `suppressed`: who must not be written to, and mail for him.
//! * `outcome`: what an attempt's results mean for each recipient, and the one step that records it.
//! * `operate`: what a person sees and does; `actions`: what that does to a message, and for whom of it; `bulk`: to many at once. `restored`: a copy's mail is frozen first.
//!
//! **What happens on failure.** After a crash every message is due as before. A failure of the host puts the link queue to rest, not its messages; a failure of a message defers
//! that message. An outcome that the store cannot record is kept in hand, with its lease, until it can: mail that was delivered
//! is not delivered again because a disk was full. Nothing leaves the queue but by a recorded outcome.

mod actions;
mod agenda;
mod assign;
pub mod bulk;
pub mod carrier;
mod conclusion;
mod deadlines;
mod dequeue;
mod distribution;
mod health;
pub mod history;
pub mod holds;
mod hours;
mod link;
pub mod next_hosts;
pub mod operate;
mod operations;
mod operator;
mod outcome;
pub mod outgoing;
mod pace;
mod report;
mod rerouting;
mod restored;
pub mod resubmit;
mod scheduler;
mod settings;
pub mod sorting;
pub mod steer;
mod suppressed;
mod suspension;
mod tolerance;
pub mod totals;
mod track;
pub mod transfer;
pub mod turn;
pub mod whereabouts;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;

use crate::config::{Live, Snapshot};
use crate::directory::Recipients;
use crate::directory::suppressions::Suppressions;
use crate::model::failure::Failure;
use crate::model::mail::{Message, Recipient};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::net::clock::Clock;
use crate::observe::metrics::Metrics;
use crate::store::{Lease, Leased, Store, StoreError};
use agenda::Agenda;
use deadlines::Deadlines;
use link::{Link, Offer};
use turn::{Requested, Turned};

pub use assign::{Assignment, Sending, Way, assign, assign_again, considered, is_ours, pinned, way};
pub use dequeue::Asker;
pub use distribution::restriction_failure;
pub use health::ConnectorHealth;
pub use link::Hand;
pub use operate::{
    ActionError, AddressFilter, MessageFilter, MessagePage, MessageState, Operate, QueueKind, QueueState, QueueView,
};
pub use operator::Operator;
pub use outcome::{Attempt, AttemptResult, HopTls, PassedOn};
pub use pace::Take;
pub use settings::{Effective, effective};
pub use steer::Steer;
pub use suspension::Suspended;
pub use track::{Arrival, Rejection};

/// Who does the work of a link queue: `outbound` and `local` implement it, `boot` wires them.
#[async_trait]
pub trait Workforce: Send + Sync {
    /// Puts one more worker on a queue: a task that takes from the hand until it is empty, then drops it.
    fn employ(&self, hand: Hand);

    /// Carries mail that is fetched (ATRN) over the connection of who fetches it, until nothing is left or the connection ends.
    async fn carry_turned(&self, turned: Turned);
}

/// Prefix of the control keys that keep a queue frozen over a restart.
const FROZEN_KEY: &str = "queue-frozen/";

/// The queue. One per process.
pub struct Queue {
    store: Arc<dyn Store>,
    live: Live,
    recipients: Arc<dyn Recipients>,
    suppressions: Arc<Suppressions>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    links: Mutex<HashMap<QueueName, Arc<Link>>>,
    frozen: Mutex<HashSet<QueueName>>,
    /// The connectors that an operator has suspended.
    suspended: Mutex<BTreeMap<Name, Suspended>>,
    /// What an operator holds.
    holds: holds::Holds,
    /// One at a time brings an exported queue in: ids are looked up before they are taken.
    importing: Arc<tokio::sync::Mutex<()>>,
    /// The connectors that are down: their smart hosts could not be reached, and are not tried again yet.
    down: ArcSwap<BTreeSet<Name>>,
    /// Queues, or (`None`) all of them, whose mail may belong elsewhere now.
    wanting: Mutex<BTreeSet<Option<QueueName>>>,
    /// Held while an operation's record is read and written.
    operating: tokio::sync::Mutex<()>,
    /// The limits of rate of connectors.
    paces: Mutex<pace::Paces>,
    health: Mutex<HashMap<Name, ConnectorHealth>>,
    requested: Mutex<HashMap<Name, Requested>>,
    agenda: Arc<Agenda>,
    deadlines: Deadlines,
    /// How many refusals may be tracked.
    refusals: Mutex<track::Allowance>,
    workforce: OnceLock<Arc<dyn Workforce>>,
    stopping: AtomicBool,
}

impl Queue {
    /// A queue over a store. Nothing moves before [`Queue::run`].
    pub fn new(
        store: Arc<dyn Store>,
        live: Live,
        recipients: Arc<dyn Recipients>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Arc<Self> {
        let frozen = store
            .all(FROZEN_KEY)
            .into_iter()
            .filter_map(|(key, _)| key.strip_prefix(FROZEN_KEY)?.parse().ok())
            .collect();
        let holds = holds::Holds::restore(store.all(holds::Holds::prefix()));
        let suspended = suspension::restore(store.all(suspension::KEY));
        let suppressions = Arc::new(Suppressions::new(store.clone()));
        Arc::new(Queue {
            suppressions,
            store,
            live,
            recipients,
            clock,
            metrics,
            links: Mutex::default(),
            frozen: Mutex::new(frozen),
            suspended: Mutex::new(suspended),
            holds,
            importing: Arc::default(),
            down: ArcSwap::default(),
            wanting: Mutex::default(),
            operating: tokio::sync::Mutex::default(),
            paces: Mutex::default(),
            health: Mutex::default(),
            requested: Mutex::default(),
            agenda: Arc::default(),
            deadlines: Deadlines::default(),
            refusals: Mutex::default(),
            workforce: OnceLock::new(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Runs until [`Queue::stop`]: looks at queues when their time comes.
    pub async fn run(self: Arc<Self>, workforce: Arc<dyn Workforce>) {
        // a second run would be a mistake of boot; the first workforce stays
        let _ = self.workforce.set(workforce);
        scheduler::run(&self).await;
    }

    /// No new work; what is ready goes back to the store. Returns when the last worker has recorded its outcome.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.agenda.nudge();
        let links: Vec<Arc<Link>> = self.links().values().cloned().collect();
        for link in links {
            self.release(link.stop());
        }
        self.agenda.workers_gone().await;
    }

    /// Takes mail that has just become durable, with its leases. What is held goes back to the store until its time.
    pub fn enqueue(&self, leased: Leased) {
        if self.holds_some_of(&leased.message) {
            return self.set_aside(leased);
        }
        let Leased { message, leases, content } = leased;
        let held = message.released_at() > self.now();
        for lease in leases {
            if held {
                self.note_deadline(&message);
                self.agenda.look(&lease.queue, message.released_at());
                self.store.release(vec![lease]);
                continue;
            }
            let link = self.link(&lease.queue);
            self.offer(&link, Leased { message: message.clone(), leases: vec![lease], content: content.clone() });
        }
    }

    /// A worker opened a session: more workers may try.
    pub fn session_opened(&self, hand: &Hand) {
        hand.link().session_opened();
        self.note_opened(hand.link());
        self.agenda.look_at_once(&hand.link().name);
    }

    /// A session has ended; whether the next hop answered for a message in it.
    pub fn session_closed(&self, hand: &Hand, answered: bool) {
        hand.link().session_closed(answered);
        self.note_health(hand.link());
    }

    /// The next hop of a queue failed: everything for it rests until the next retry interval of the server that sends has passed.
    pub fn next_hop_failed(&self, hand: &Hand, server: &Name, failure: Failure) {
        let link = hand.link();
        let now = self.now();
        tracing::warn!(queue = %link.name, failure = %failure, "next hop failed");
        let snapshot = self.live.current();
        let terms = settings::terms(&snapshot, server, &link.name);
        let seed = settings::seed_of(&link.name);
        let (ready, until) = link.failed(failure.clone(), now, |failures| now + terms.retry_after(failures, seed));
        self.release(ready);
        self.note_failed(link, &failure);
        self.agenda.look(&link.name, until);
    }

    /// Gives a message back untouched; its queues are looked at again in a moment.
    pub fn give_back(&self, leased: Leased) {
        let soon = self.now() + Duration::from_millis(100);
        let queues: Vec<QueueName> = leased.leases.iter().map(|lease| lease.queue.clone()).collect();
        self.release(vec![leased]);
        for queue in queues {
            self.agenda.look(&queue, soon);
        }
    }

    /// Where a recipient belongs as things are, and its name in the directory; `unrouted` when there is no way.
    fn belongs_to(&self, snapshot: &Snapshot, message: &Message, recipient: &Recipient) -> (QueueName, Option<Name>) {
        match assign_again(snapshot, &*self.recipients, message, recipient, &self.down()) {
            Assignment::Queue(queue, name) => (queue, name),
            Assignment::Refused(_) | Assignment::Unknown | Assignment::TryLater => {
                (QueueName::Unrouted, recipient.directory_name.clone())
            }
        }
    }

    /// The connectors that are down: none of their smart hosts could be reached, and it is not yet time to try again.
    pub fn down(&self) -> Arc<BTreeSet<Name>> {
        self.down.load_full()
    }

    /// The configuration in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.live.current()
    }

    /// The store, for reading content.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }

    fn links(&self) -> MutexGuard<'_, HashMap<QueueName, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn frozen(&self) -> MutexGuard<'_, HashSet<QueueName>> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paces(&self) -> MutexGuard<'_, pace::Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, HashMap<Name, ConnectorHealth>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requested(&self) -> MutexGuard<'_, HashMap<Name, Requested>> {
        self.requested.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanting(&self) -> MutexGuard<'_, BTreeSet<Option<QueueName>>> {
        self.wanting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self, queue: &QueueName) -> Arc<Link> {
        if let Some(link) = self.links().get(queue) {
            return link.clone();
        }
        let frozen = self.frozen().contains(queue);
        let mut links = self.links();
        // asked under this lock: a connector that is suspended now misses no link
        let stands_still = || frozen || self.is_suspended(queue);
        links.entry(queue.clone()).or_insert_with(|| Arc::new(Link::new(queue.clone(), stands_still()))).clone()
    }

    fn offer(&self, link: &Arc<Link>, leased: Leased) {
        let carried = !matches!(link.name, QueueName::Unrouted | QueueName::Held | QueueName::DeadLetter);
        if !carried || self.stopping.load(Ordering::Acquire) {
            return self.release_now(link, leased);
        }
        if self.is_suppressed(&link.name, &leased.message) {
            return self.release_now(link, leased);
        }
        self.note_deadline(&leased.message);
        let now = self.now();
        if self.put_off(link, &leased.message, now).is_some() {
            return self.release_now(link, leased);
        }
        if link.is_new() {
            self.keep_hours(link, now);
        }
        let most = self.max_workers(&link.name);
        match self.holds.unless_held(leased, &link.name, |leased| link.offer(leased, now, most)) {
            Ok(Offer::Taken) => {}
            Ok(Offer::WorkerWanted) => self.employ(link),
            Ok(Offer::Refused(leased)) => self.release_now(link, leased),
            Err(held) => self.set_aside(held),
        }
    }

    fn note_deadline(&self, message: &Message) {
        if self.deadlines.note(message) {
            self.agenda.nudge();
        }
    }

    fn release_now(&self, link: &Link, leased: Leased) {
        self.release(vec![leased]);
        self.agenda.look_at_once(&link.name);
    }

    fn release(&self, leased: Vec<Leased>) {
        let leases: Vec<Lease> = leased.into_iter().flat_map(|leased| leased.leases).collect();
        if !leases.is_empty() {
            self.store.release(leases);
        }
    }

    /// For a worker that the link has counted.
    fn employ(&self, link: &Arc<Link>) {
        self.agenda.worker_came();
        let hand = Hand::new(link.clone(), self.agenda.clone());
        match self.workforce.get() {
            Some(workforce) => workforce.employ(hand),
            None => drop(hand),
        }
    }

    fn max_workers(&self, queue: &QueueName) -> usize {
        settings::max_sessions(&self.live.current(), queue)
    }
}

fn log_store_error(what: &'static str, error: &StoreError) {
    tracing::error!(error = %error, "{what}");
}

#[cfg(test)]
mod tests;
