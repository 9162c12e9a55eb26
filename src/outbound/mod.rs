//! Sockets out: workers that carry the mail of one link queue to its next hop.
//!
//! `worker` is one worker's life: find hosts, open a session, carry messages over it as long as there are any, again.
//! `hosts` says which addresses to try, `session` opens one with each, encrypted and logged in. `sources` says from which of our addresses, `callout` asks them for recipients. `slots` bounds sessions over all queues. [`crate::queue::carrier`] hands messages to
//! the session one by one and turns results into outcomes.

mod callout;
mod hosts;
mod probe;
mod session;
mod slots;
mod sources;
mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::model::time::Timestamp;
use crate::net::clock::Clock;
use crate::net::connect::Connect;
use crate::net::resolver::Resolvers;
use crate::observe::metrics::Metrics;
use crate::queue::{Hand, Queue};
use crate::status::Listeners;

use slots::Slots;

/// Everything a worker needs.
pub struct Outbound {
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    connect: Arc<dyn Connect>,
    resolvers: Arc<Resolvers>,
    listeners: Arc<Listeners>,
    metrics: Metrics,
    slots: Slots,
    /// Counts sessions, so that source addresses are used by turns.
    sessions: AtomicUsize,
    /// What next hops have said of recipients.
    callouts: callout::Answers,
}

impl Outbound {
    /// For a queue; `listeners` tells which addresses are our own.
    pub fn new(
        queue: Arc<Queue>,
        clock: Arc<dyn Clock>,
        connect: Arc<dyn Connect>,
        resolvers: Arc<Resolvers>,
        listeners: Arc<Listeners>,
        metrics: Metrics,
    ) -> Arc<Self> {
        Arc::new(Outbound {
            queue,
            clock,
            connect,
            resolvers,
            listeners,
            metrics,
            slots: Slots::default(),
            sessions: AtomicUsize::new(0),
            callouts: callout::Answers::default(),
        })
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }

    /// Starts a worker; the queue counts it by its hand and awaits it at the end.
    pub fn employ(self: &Arc<Self>, hand: Hand) {
        drop(tokio::spawn(worker::work(self.clone(), hand)));
    }
}
