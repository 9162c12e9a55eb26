//! Mail that is fetched over the connection of who fetches it (ATRN, RFC 2645), and the other way round: a connection that somebody
//! else has turned towards us.
//!
//! [`Queue::fetch`] says whether an account may, and takes the queues in hand; `inbound` turns the connection round and gives it to
//! [`Queue::carry_turned`]. Two grants must agree: a connector names the account, and the account has authenticated. While a queue
//! is being fetched, nobody else carries it. Whatever way that ends, dropping the [`Fetch`] holds the queue again, and what was
//! not answered for waits there by the outcome rules of any session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::link::Hand;
use super::{Queue, settings};
use crate::model::host::domain_key;
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::net::connect::Stream;
use crate::smtp::address::Domain;
use crate::smtp::reply::Reply;

/// Most queues that are fetched over one connection; what is left is fetched over the next.
const MOST: usize = 1_000;

/// A queue that is being fetched.
pub struct Fetch {
    queue: Arc<Queue>,
    hand: Hand,
}

/// Nothing is fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFetched {
    /// No connector names the account.
    #[error("no connector names the account in remoteTriggered")]
    Nobody,
    /// None of the connectors that name the account has an address space for this domain.
    #[error("no connector that names the account in remoteTriggered carries mail for {0}")]
    NotYours(Domain),
    /// Nothing waits.
    #[error("no mail waits")]
    Nothing,
    /// All of it is being fetched already, or must not go now: it is frozen, or the schedule of its connector is closed.
    #[error("its mail is being fetched already, or is frozen, or the schedule of its connector is closed")]
    NotNow,
}

/// A connection that was turned round: we are the client now.
pub struct Turned {
    /// The connection; its other end is about to greet us.
    pub stream: Box<dyn Stream>,
    /// Who is there, for logs and reports.
    pub peer: String,
    /// The virtual server that accepted the connection, whose name and limits hold.
    pub server: Name,
    /// What is fetched.
    pub fetches: Vec<Fetch>,
    /// Holds a reply when the session is to end.
    pub stop: watch::Receiver<Option<Reply>>,
}

/// Serves a connection that we have made and turned round: we are the server now. `inbound` implements it, `boot` wires it.
#[async_trait]
pub trait Receives: Send + Sync {
    /// Takes mail until the connection ends. Whoever is there is a client like any other. How many messages were taken.
    ///
    /// # Errors
    /// In words, when the virtual server takes no session now.
    async fn receive(&self, reversed: Reversed) -> Result<u64, String>;
}

/// A connection that we have made and turned round.
pub struct Reversed {
    /// The connection; its other end waits for our greeting.
    pub stream: Box<dyn Stream>,
    /// It is encrypted.
    pub is_encrypted: bool,
    /// The other end.
    pub peer: SocketAddr,
    /// The virtual server that takes the mail.
    pub server: Name,
}

/// What came of asking for mail that waits elsewhere (`requestDequeue`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requested {
    /// When.
    pub at: Timestamp,
    /// What the other side said, or why nothing came of it.
    pub result: Result<String, String>,
}

impl Queue {
    /// What came of it the last time that this connector asked for mail.
    pub fn last_requested(&self, connector: &Name) -> Option<Requested> {
        self.requested().get(connector).cloned()
    }

    /// Notes what came of it.
    pub fn note_requested(&self, connector: &Name, result: Result<String, String>) {
        let at = self.now();
        let snapshot = self.live.current();
        let mut requested = self.requested();
        requested.retain(|name, _| snapshot.routes.connector(name).is_some());
        requested.insert(connector.clone(), Requested { at, result });
    }

    /// How long to wait after this many failures in a row to ask for mail: as with mail of the connector's own.
    pub fn request_again_after(&self, connector: &Name, failures: u32) -> Duration {
        let snapshot = self.live.current();
        let server = snapshot.default_virtual_server.clone();
        let queue = QueueName::SmartHost(connector.clone());
        // all of them shall not ask at the same moment
        let seed = settings::seed_of(&queue);
        let after = |server| settings::terms(&snapshot, &server, &queue).retry_after(failures, seed);
        server.map_or(Duration::from_secs(60), after)
    }

    /// Takes the queues in hand that this account may fetch and has asked for; without domains all of them.
    ///
    /// # Errors
    /// When it may not, or there is nothing to fetch.
    pub fn fetch(self: &Arc<Self>, account: &Name, domains: &[Domain]) -> Result<Vec<Fetch>, NotFetched> {
        let snapshot = self.live.current();
        let granting: Vec<_> =
            snapshot.routes.connectors().filter(|connector| connector.is_fetched_by(account)).collect();
        if granting.is_empty() {
            return Err(NotFetched::Nobody);
        }
        if let Some(other) = domains.iter().find(|domain| !granting.iter().any(|by| by.covers(domain, false))) {
            return Err(NotFetched::NotYours(other.clone()));
        }
        let asked = |own: &Domain| domains.is_empty() || domains.iter().any(|one| domain_key(one) == domain_key(own));
        let is_granted = |queue: &QueueName| match queue {
            QueueName::Dns(name, own) => asked(own) && granting.iter().any(|connector| connector.name == *name),
            _ => false,
        };
        let waiting = self.store.queues().into_iter().filter(|count| count.messages > 0 && is_granted(&count.queue));
        let waiting: Vec<QueueName> = waiting.map(|count| count.queue).take(MOST).collect();
        if waiting.is_empty() {
            return Err(NotFetched::Nothing);
        }
        let now = self.now();
        let is_open = |queue: &&QueueName| {
            settings::connector(&snapshot, queue).is_some_and(|connector| connector.opens(now) <= now)
        };
        let fetches: Vec<Fetch> = waiting.iter().filter(is_open).filter_map(|queue| self.take_in_hand(queue)).collect();
        if fetches.is_empty() { Err(NotFetched::NotNow) } else { Ok(fetches) }
    }

    fn take_in_hand(self: &Arc<Self>, queue: &QueueName) -> Option<Fetch> {
        let link = self.link(queue);
        if !link.turn() {
            return None;
        }
        self.agenda.worker_came();
        Some(Fetch { queue: self.clone(), hand: Hand::new(link, self.agenda.clone()) })
    }

    /// Carries what is fetched over the connection of who fetches it. Returns when that is over.
    pub async fn carry_turned(&self, turned: Turned) {
        // before there is one, nothing listens
        if let Some(workforce) = self.workforce.get() {
            workforce.carry_turned(turned).await;
        }
    }
}

impl Fetch {
    /// For taking its messages.
    pub fn hand(&self) -> &Hand {
        &self.hand
    }

    /// Gets what is due out of the store. False when nothing is.
    pub async fn fill(&self) -> bool {
        let (queue, name) = (self.queue.clone(), self.hand.link().name.clone());
        // in a task of its own: what it has leased must not be lost when whoever waits here is cut off
        let _ = tokio::spawn(async move { queue.look(&name).await }).await;
        self.hand.link().has_ready()
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let ready = self.hand.link().turned_back();
        self.queue.release(ready);
    }
}
