//! A connection that a client has turned round (ATRN, RFC 2645): we are the client now, and give it the mail that it fetches.
//!
//! The virtual server that accepted the connection sends: its name, its limits. One queue after the other goes over the same session,
//! which ends with QUIT when nothing of them is due any more. What is said on failure of any session holds here too, but nothing
//! rests: what was not taken waits until it is asked for again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Outbound;
use crate::config::{Snapshot, VirtualServer};
use crate::net::client_driver::{Connection, ContentUnavailable, Work};
use crate::queue::PassedOn;
use crate::queue::carrier::{Carrier, Session, Taken};
use crate::queue::next_hosts::Turn;
use crate::queue::outgoing::SenderRules;
use crate::queue::turn::{Fetch, Turned};
use crate::routing::Connector;
use crate::smtp::client::{RecipientResult, Settings, Timeouts, Transaction};
use crate::smtp::extension::PeerExtensions;

type Holds = Box<dyn Fn(&Snapshot) -> bool + Send + Sync>;

impl Outbound {
    /// Carries what is fetched; returns when the connection has ended.
    pub async fn carry_turned(&self, turned: Turned) {
        let Turned { stream, peer, server, fetches, stop } = turned;
        let snapshot = self.queue.snapshot();
        let Some(server) = snapshot.virtual_servers.get(&server) else { return };
        let settings = Settings {
            timeouts: Timeouts::default().at_most(server.spec.outbound.timeout.std()),
            ..Settings::new(server.fqdn.as_str())
        };
        let connection = match Connection::open(stream, settings, None, &*self.clock).await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::info!(virtualServer = %server.name, next_hop = %peer, %error, "who fetches mail gave no session");
                return;
            }
        };
        self.metrics.outbound_connections.inc();
        let offers = connection.extensions().clone();
        let fetched: Vec<(&Fetch, &Connector, Holds)> = fetches
            .iter()
            .filter_map(|fetch| {
                let link = fetch.hand().link();
                let connector = link.name.connector().and_then(|name| snapshot.routes.connector(name))?;
                let (of, of_server) = (connector.clone(), server.clone());
                let (link, queue, stop) = (link.clone(), self.queue.clone(), stop.clone());
                let holds = move |now: &Snapshot| {
                    now.routes.connector(&of.name).is_some_and(|now| Arc::ptr_eq(now, &of))
                        && now.virtual_servers.get(&of_server.name).is_some_and(|now| Arc::ptr_eq(now, &of_server))
                        && queue.carries_now(&link)
                        && stop.borrow().is_none()
                };
                Some((fetch, &**connector, Box::new(holds) as Holds))
            })
            .collect();
        let carriers = fetched
            .iter()
            .map(|(fetch, connector, holds)| {
                let session = session(connector, server, &offers, &peer, holds);
                (*fetch, Carrier::new(&self.queue, &*self.clock, fetch.hand(), session, None))
            })
            .collect();
        let left = offers.max_transactions.unwrap_or(u32::MAX);
        let mut line = Line { carriers, at: 0, filled: false, under_way: VecDeque::new(), left, carried: 0 };
        let ended = connection.run(&mut line, &*self.clock).await;
        tracing::info!(
            virtualServer = %server.name, next_hop = %peer, queues = fetches.len(), messages = line.carried, ?ended,
            "mail was fetched"
        );
        for (_, carrier) in line.carriers {
            if let Some(untouched) = carrier.leave().first {
                self.queue.give_back(untouched);
            }
        }
    }
}

fn session<'a>(
    connector: &Connector,
    server: &VirtualServer,
    offers: &PeerExtensions,
    peer: &str,
    holds: &'a (dyn Fn(&Snapshot) -> bool + Send + Sync),
) -> Session<'a> {
    let limits = &connector.spec.limits;
    Session {
        holds,
        only_from: None,
        next_hop: peer.to_owned(),
        tls: None,
        taken: Taken::Relayed(PassedOn { dsn: offers.dsn, deliver_by: offers.deliver_by.is_some() }),
        senders: SenderRules {
            rewrite: connector.spec.rewrite_sender.clone(),
            masquerade: server.spec.outbound.masquerade_domain.clone(),
        },
        peer: offers.clone(),
        max_recipients: offers.max_recipients.map_or(usize::MAX, |max| max as usize),
        postmaster: None,
        budget: limits.messages_per_connection.unwrap_or(server.spec.outbound.messages_per_connection),
        idle: Duration::ZERO,
        // there is nobody else to ask
        turn: Turn::of_all(),
    }
}

/// The queues, one behind the other.
struct Line<'a> {
    carriers: Vec<(&'a Fetch, Carrier<'a>)>,
    at: usize,
    /// What was due in the queue at `at` was got out of the store, and nothing of it was taken since.
    filled: bool,
    /// Whose the transactions without results are, oldest first.
    under_way: VecDeque<usize>,
    /// Transactions that the other end still takes.
    left: u32,
    carried: u64,
}

impl Work for Line<'_> {
    async fn next(&mut self, wait: bool) -> Option<Transaction> {
        while self.left > 0 {
            let (fetch, carrier) = self.carriers.get_mut(self.at)?;
            if let Some(transaction) = carrier.next(wait).await {
                self.filled = false;
                self.left -= 1;
                self.under_way.push_back(self.at);
                return Some(transaction);
            }
            // content that is not in memory yet has to be waited for
            if !wait {
                return None;
            }
            self.filled = !self.filled && fetch.fill().await;
            self.at += usize::from(!self.filled);
        }
        None
    }

    async fn content(&mut self) -> Result<Option<Bytes>, ContentUnavailable> {
        // a carrier hands out content of its last transaction alone, and that is the last of all
        match self.under_way.back().and_then(|at| self.carriers.get_mut(*at)) {
            Some((_, carrier)) => carrier.content().await,
            None => Err(ContentUnavailable),
        }
    }

    async fn finished(&mut self, results: Vec<RecipientResult>) {
        self.carried += u64::from(results.iter().any(|result| matches!(result, RecipientResult::Delivered(_))));
        let Some((_, carrier)) = self.under_way.pop_front().and_then(|at| self.carriers.get_mut(at)) else { return };
        carrier.finished(results).await;
    }
}
