//! One worker's life: it takes the first message, opens a session for it, carries what comes, and begins again.
//!
//! It ends when the queue has nothing for it, or rests. A next hop that cannot be reached, or that ends a session
//! without having answered for a single message, puts the whole queue to rest. When DNS says that there is no next hop
//! and never will be, the messages fail one by one, each with its own report.
//!
//! A message that a host has put off is carried to the next host of the same try ([`crate::queue::next_hosts`]). What that one
//! fails in is no failure of the queue: the first host may do well for all others.

use std::sync::Arc;
use std::time::Duration;

use super::Outbound;
use super::counted;
use super::hosts::{self, NextHop, hosts_of};
use super::session::{self, Purpose, label};
use crate::config::{Snapshot, VirtualServer};
use crate::model::failure::{Failure, Scope};
use crate::model::mail::{Protocol, Waits};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::net::client_driver::{Connection, Ended};
use crate::net::connect::Stream;
use crate::queue::carrier::{Carrier, IDLE, Left, Session, Taken};
use crate::queue::next_hosts::{HostKey, Turn};
use crate::queue::outgoing::SenderRules;
use crate::queue::{Attempt, AttemptResult, Hand, HopTls, PassedOn, Take};
use crate::routing::Connector;
use crate::smtp::reply::EnhancedStatus;
use crate::store::Leased;

/// Works until the queue has nothing more for this hand.
pub(super) async fn work(outbound: Arc<Outbound>, hand: Hand) {
    let mut held: Option<Leased> = None;
    let mut seed = 0;
    loop {
        let first = match held.take() {
            Some(first) => first,
            None => match outbound.queue.take(&hand, |_| true) {
                Take::Message(first) => first,
                Take::Nothing => return,
                Take::NotBefore(until) => return outbound.queue.rest_until(&hand, until),
            },
        };
        seed = first.message.id.spread() ^ (seed << 1);
        held = match round(&outbound, &hand, first, seed).await {
            Round::Again(held) => held,
            Round::Over(held) => {
                if let Some(leased) = held {
                    outbound.queue.give_back(leased);
                }
                return;
            }
        };
    }
}

/// What came of one session.
enum Round {
    /// There may be more to do; a message may be in hand.
    Again(Option<Leased>),
    /// The queue rests.
    Over(Option<Leased>),
}

/// One session: find the next hop, open, carry.
async fn round(outbound: &Outbound, hand: &Hand, first: Leased, seed: u64) -> Round {
    let snapshot = outbound.queue.snapshot();
    let queue = &hand.link().name;
    let connector = queue.connector().and_then(|name| snapshot.routes.connector(name)).cloned();
    let Some(connector) = connector else {
        // it is gone: the scheduler assigns its mail anew
        outbound.queue.give_back(first);
        return Round::Again(None);
    };
    let Some(server) = sender(&snapshot, &connector, &first) else {
        let words = "there is no virtual server that could send";
        let failure = Failure::new(Scope::Host, EnhancedStatus::transient(3, 5), words);
        outbound.queue.next_hop_failed(hand, &first.message.origin.virtual_server, failure);
        return Round::Over(Some(first));
    };
    let limits = [
        (format!("server {}", server.name), server.spec.outbound.max_connections as usize),
        (
            format!("connector {}", connector.name),
            connector.spec.limits.max_connections.map_or(usize::MAX, |limit| limit as usize),
        ),
    ];
    let slot = outbound.slots.take(&limits).await;
    let asks = asks_of(&connector, &first);
    let hops = match hosts::find(outbound.look_up(), &snapshot, &server, &asks, queue, seed).await {
        Ok(hops) => hops,
        Err(failure) if failure.is_permanent() => {
            return Round::Again(fail_all(outbound, hand, &snapshot, &connector, &server, first, failure).await);
        }
        Err(failure) => {
            counted::no_hosts(&outbound.tls_reports, &asks, queue, &failure);
            outbound.queue.next_hop_failed(hand, &server.name, failure);
            return Round::Over(Some(first));
        }
    };
    let result = carry(outbound, hand, &server, &connector, &hops, first).await;
    drop(slot);
    result
}

/// None of the hosts that are left for the first message can be had. When it had asked none before, that is the next hop's
/// failure, and the queue rests; else only this message's, which waits until the next round.
async fn none_left(
    outbound: &Outbound,
    hand: &Hand,
    server: &VirtualServer,
    asked: &[HostKey],
    first: Option<Leased>,
    failure: Failure,
) -> Round {
    match first {
        Some(first) if !asked.is_empty() => {
            hand.link().end_round(first.message.id);
            settle_all(outbound, hand, first, &failure).await;
            Round::Again(None)
        }
        first => {
            outbound.queue.next_hop_failed(hand, &server.name, failure);
            Round::Over(first)
        }
    }
}

/// A failure of all recipients of a message that are due here, or, if it is permanent, that wait here. What a host has said of
/// a recipient in this round says more than one that cannot be had.
async fn settle_all(outbound: &Outbound, hand: &Hand, leased: Leased, failure: &Failure) {
    let now = outbound.now();
    let concerned = |waits: &Waits| waits.queue == hand.link().name && (failure.is_permanent() || waits.due <= now);
    let results = (0u32..)
        .zip(&leased.message.recipients)
        .filter(|(_, recipient)| recipient.waits.as_ref().is_some_and(concerned))
        .map(|(index, recipient)| {
            let said = recipient.last_failure.as_ref().filter(|_| !failure.is_permanent());
            (index, AttemptResult::Failed(said.unwrap_or(failure).clone()))
        })
        .collect();
    let attempt = Attempt { leased, results, next_hop: None, tls: None, duration: Duration::ZERO };
    outbound.queue.settle(attempt).await;
}

/// Sessions with one host after the other, until one of them answers for a message.
async fn carry(
    outbound: &Outbound,
    hand: &Hand,
    server: &Arc<VirtualServer>,
    connector: &Arc<Connector>,
    hops: &[NextHop],
    first: Leased,
) -> Round {
    let asked = hand.link().asked(first.message.id, outbound.now());
    let left: Vec<NextHop> = hops.iter().filter(|hop| !asked.contains(&hop.host())).cloned().collect();
    // alone: no other mail goes over a session that is held to less
    let is_report = is_report(&first);
    let (asks, purpose) = (asks_of(connector, &first), if is_report { Purpose::Report } else { Purpose::Mail });
    let mut first = Some(first);
    let mut rest = left.as_slice();
    loop {
        let (connection, at) = match open(outbound, server, &asks, &hand.link().name, rest, purpose).await {
            Ok(opened) => opened,
            Err(failure) => return none_left(outbound, hand, server, &asked, first, failure).await,
        };
        let hop = label(&rest[at]);
        let turn = Turn::new(&hosts_of(hops), &asked, &rest[at].host());
        rest = &rest[at + 1..];
        outbound.metrics.outbound_connections.inc();
        outbound.queue.session_opened(hand);
        let spec = &connector.spec;
        let budget = spec.limits.messages_per_connection.unwrap_or(server.spec.outbound.messages_per_connection);
        // without bridgeheads each message goes out by the server that took it
        let taken_by = first.as_ref().map(|leased| leased.message.origin.virtual_server.clone());
        let only_from = taken_by.filter(|_| spec.bridgeheads.is_empty());
        // when either changes, the session takes no more messages
        let holds = |now: &Snapshot| {
            // not by generation: that begins again with an object that was deleted and put back
            now.routes.connector(&connector.name).is_some_and(|now| Arc::ptr_eq(now, connector))
                && now.virtual_servers.get(&server.name).is_some_and(|now| Arc::ptr_eq(now, server))
                && outbound.queue.carries_now(hand.link())
        };
        let peer = connection.extensions();
        let session = Session {
            holds: &holds,
            only_from,
            next_hop: hop.clone(),
            tls: connection.agreed().map(|tls| HopTls { version: tls.version, verified: tls.verified }),
            turn,
            taken: Taken::Relayed(PassedOn { dsn: peer.dsn, deliver_by: peer.deliver_by.is_some() }),
            senders: SenderRules {
                rewrite: spec.rewrite_sender.clone(),
                masquerade: server.spec.outbound.masquerade_domain.clone(),
            },
            peer: peer.clone(),
            max_recipients: peer.max_recipients.map_or(usize::MAX, |max| max as usize),
            postmaster: None,
            budget: [peer.max_transactions, hand.link().messages_in_a_session(), is_report.then_some(1)]
                .into_iter()
                .flatten()
                .fold(budget, u32::min),
            // what comes later has to be asked for again
            idle: if connector.is_remote_triggered() { Duration::ZERO } else { IDLE },
        };
        let mut carrier = Carrier::new(&outbound.queue, &*outbound.clock, hand, session, first.take());
        let ended = connection.run(&mut carrier, &*outbound.clock).await;
        let left = carrier.leave();
        outbound.queue.session_closed(hand, left.answered);
        match (ended, left) {
            // the message that it broke on goes to the next host by itself
            (Ended::Broken { .. }, Left { first: None, answered: false, passed_on: true, .. }) => {
                return Round::Again(None);
            }
            (Ended::Broken { .. }, Left { first: untouched, answered: false, host_failure, .. }) => {
                let failure = host_failure.unwrap_or_else(|| {
                    Failure::new(Scope::Host, EnhancedStatus::transient(4, 2), "the session was cut").by(&hop)
                });
                first = untouched;
                if rest.is_empty() || first.is_none() {
                    return none_left(outbound, hand, server, &asked, first, failure).await;
                }
                tracing::info!(connector = %connector.name, next_hop = %hop, failure = %failure, "the next host is tried");
            }
            (_, left) => return Round::Again(left.first),
        }
    }
}

/// Whether the message is a TLS report. It goes out whatever is wrong with the TLS of who gets it (RFC 8460, 3).
fn is_report(leased: &Leased) -> bool {
    leased.message.origin.protocol == Protocol::TlsReport
}

/// The connector as the message is carried: what an owner of hosts asks is not asked of a report, which may be about just that.
/// What our own settings demand is.
fn asks_of(connector: &Arc<Connector>, first: &Leased) -> Arc<Connector> {
    if !is_report(first) {
        return connector.clone();
    }
    let mut lenient = Connector::clone(connector);
    (lenient.spec.security.honour_dane, lenient.spec.security.honour_mta_sts) = (false, false);
    Arc::new(lenient)
}

/// The server under whose name and limits the session runs: the connector's bridgehead, else the one that took the message, else
/// the default one.
fn sender(snapshot: &Snapshot, connector: &Connector, first: &Leased) -> Option<Arc<VirtualServer>> {
    sender_for(snapshot, connector, &first.message.origin.virtual_server, first.message.id.spread())
}

/// The same for any message that this server took; `spread` picks among bridgeheads.
pub(super) fn sender_for(
    snapshot: &Snapshot,
    connector: &Connector,
    took: &Name,
    spread: u64,
) -> Option<Arc<VirtualServer>> {
    let there: Vec<_> =
        connector.spec.bridgeheads.iter().filter_map(|name| snapshot.virtual_servers.get(name)).collect();
    let turn = spread % there.len().max(1) as u64;
    let bridgehead = there.get(usize::try_from(turn).unwrap_or_default()).copied();
    bridgehead.or_else(|| snapshot.delivery_server(took)).cloned()
}

/// A session with the first host that gives one, and which one that is.
async fn open(
    outbound: &Outbound,
    server: &VirtualServer,
    connector: &Connector,
    queue: &QueueName,
    hops: &[NextHop],
    purpose: Purpose<'_>,
) -> Result<(Connection<Box<dyn Stream>>, usize), Failure> {
    let mut credentials = session::credentials(outbound, connector).await?;
    let mut last = None;
    let mut before = 0;
    // only addresses of one host race: the order of hosts is the route's
    for host in hops.chunk_by(|one, next| one.host() == next.host()) {
        match session::open(outbound, server, connector, queue, host, &mut credentials, purpose).await {
            Ok((connection, at)) => return Ok((connection, before + at)),
            Err(failure) => {
                tracing::info!(connector = %connector.name, next_hop = %host[0].name, failure = %failure, "no host");
                last = Some(failure);
            }
        }
        before += host.len();
    }
    Err(last.unwrap_or_else(|| Failure::new(Scope::Host, EnhancedStatus::transient(4, 4), "no host to try")))
}

/// DNS says that nothing will ever take this mail. It is the DNS of one server: a message that another one would send
/// comes back.
async fn fail_all(
    outbound: &Outbound,
    hand: &Hand,
    snapshot: &Snapshot,
    connector: &Connector,
    server: &VirtualServer,
    first: Leased,
    failure: Failure,
) -> Option<Leased> {
    let mut next = Some(first);
    while let Some(leased) = next {
        if sender(snapshot, connector, &leased).is_none_or(|sender| sender.name != server.name) {
            return Some(leased);
        }
        settle_all(outbound, hand, leased, &failure).await;
        next = hand.try_take();
    }
    None
}
