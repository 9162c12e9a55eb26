//! Mailbox stores: where local mail ends.
//!
//! * `maildir`, `quota`: a Maildir per recipient, and how full it may be.
//! * `drop_directory`: a file per message, as the Drop directory of the Windows SMTP service had.
//! * `lmtp`: a server that takes mail by LMTP; one session carries many messages.
//! * `webhook`, `parsed`: a URL that messages are posted to, as they are or taken apart, signed.
//!
//! A delivery to a file counts when it is synced, file and directory; one to a server when that has said so. A store that
//! does not exist, cannot be reached or cannot be written as a whole puts its queue to rest, and the mail in it waits by the
//! times of `delivery.local`, until it expires with a report. What a store says about one recipient holds for that one.

mod content;
mod drop_directory;
mod files;
mod lmtp;
mod maildir;
mod parsed;
mod quota;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::MailboxStore;
use crate::model::failure::{Failure, Scope};
use crate::model::queue_name::QueueName;
use crate::model::spec::MailboxStoreSpec;
use crate::net::clock::Clock;
use crate::net::connect::Connect;
use crate::net::http::Http;
use crate::queue::{Attempt, AttemptResult, Hand, Queue};
use crate::smtp::reply::EnhancedStatus;
use crate::store::Leased;

/// How long a worker waits for the next message.
const IDLE: Duration = Duration::from_secs(5);

/// The mailbox stores of a process.
pub struct Local {
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    connect: Arc<dyn Connect>,
    http: Http,
    data_dir: PathBuf,
    /// Octets of content, in KiB, that are taken apart at a time.
    parsing: tokio::sync::Semaphore,
}

/// What a worker does next.
enum Round {
    /// There may be more to do; a message may be in hand.
    Again(Option<Leased>),
    /// The queue rests.
    Over(Option<Leased>),
}

impl Local {
    /// Stores lie below `mail/` and `drop/` in `data_dir`; those elsewhere are reached by `connect` and `http`.
    pub fn new(
        queue: Arc<Queue>,
        clock: Arc<dyn Clock>,
        connect: Arc<dyn Connect>,
        http: Http,
        data_dir: PathBuf,
    ) -> Arc<Self> {
        let parsing = tokio::sync::Semaphore::new(parsed::BUDGET_KIB as usize);
        Arc::new(Local { queue, clock, connect, http, data_dir, parsing })
    }

    /// Starts a worker on a local queue; the queue counts it by its hand.
    pub fn employ(self: &Arc<Self>, hand: Hand) {
        drop(tokio::spawn(self.clone().work(hand)));
    }

    async fn work(self: Arc<Self>, hand: Hand) {
        let QueueName::Local(name) = hand.link().name.clone() else { return };
        let mut held = None;
        loop {
            let Some(leased) = held.take().or_else(|| hand.try_take()) else {
                if hand.wait(IDLE).await {
                    continue;
                }
                return;
            };
            let snapshot = self.queue.snapshot();
            let round = match snapshot.stores.get(&name) {
                Some(store) => match &store.spec {
                    MailboxStoreSpec::Lmtp(spec) => lmtp::session(&self, &hand, &snapshot, store, spec, leased).await,
                    _ => self.one(&hand, store, leased).await,
                },
                None => {
                    let words = format!("the mailbox store {name} does not exist");
                    let failure = Failure::new(Scope::Host, EnhancedStatus::transient(3, 5), words);
                    self.queue.next_hop_failed(&hand, &leased.message.origin.virtual_server, failure);
                    Round::Over(Some(leased))
                }
            };
            match round {
                Round::Again(leased) => held = leased,
                Round::Over(leased) => {
                    if let Some(leased) = leased {
                        self.queue.give_back(leased);
                    }
                    return;
                }
            }
        }
    }

    /// Delivers one message to a store that takes them one by one.
    async fn one(&self, hand: &Hand, store: &MailboxStore, leased: Leased) -> Round {
        let attempt = self.deliver(store, leased, &hand.link().name).await;
        let broken = attempt.results.iter().find_map(|(_, result)| match result {
            AttemptResult::Failed(failure) if failure.scope == Scope::Host => Some(failure.clone()),
            _ => None,
        });
        let server = attempt.leased.message.origin.virtual_server.clone();
        self.queue.session_opened(hand);
        // what was delivered is recorded, also when the store failed in the middle
        self.queue.settle(attempt).await;
        self.queue.session_closed(hand, broken.is_none());
        match broken {
            Some(failure) => {
                self.queue.next_hop_failed(hand, &server, failure);
                Round::Over(None)
            }
            None => Round::Again(None),
        }
    }

    /// Delivers one message to each of its recipients in this store.
    async fn deliver(&self, store: &MailboxStore, leased: Leased, queue: &QueueName) -> Attempt {
        let since: Instant = self.clock.now();
        for lease in &leased.leases {
            self.queue.store().attempt(lease);
        }
        let here: Vec<u32> = (0u32..)
            .zip(&leased.message.recipients)
            .filter(|(_, recipient)| recipient.waits.as_ref().is_some_and(|waits| waits.queue == *queue))
            .map(|(index, _)| index)
            .collect();
        let directory = store.directory().map(|directory| directory.below(&self.data_dir)).unwrap_or_default();
        let delivered = match &store.spec {
            MailboxStoreSpec::Maildir(spec) => maildir::deliver(self, spec, &directory, &leased, &here).await,
            MailboxStoreSpec::Drop(_) => drop_directory::deliver(self, &directory, &leased, &here).await,
            MailboxStoreSpec::Webhook(spec) => webhook::deliver(self, store, spec, &leased, &here).await,
            // it takes sessions, not messages
            MailboxStoreSpec::Lmtp(_) => Vec::new(),
        };
        let result = |done: Result<(), Failure>| done.map_or_else(AttemptResult::Failed, |()| AttemptResult::Delivered);
        let results = here.into_iter().zip(delivered).map(|(index, done)| (index, result(done))).collect();
        let duration = self.clock.now().saturating_duration_since(since);
        Attempt { leased, results, next_hop: Some(label(store)), tls: None, duration }
    }
}

/// A store in logs and reports.
fn label(store: &MailboxStore) -> String {
    format!("mailbox store {}", store.name)
}
