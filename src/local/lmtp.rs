//! LMTP stores: one session with the server carries one message after the other (RFC 2033).
//!
//! The client core speaks it, the [`Carrier`] hands it messages; here is only how to get a connection: by TCP to each address
//! of the host in turn, or by a unix socket. A server that cannot be reached, or that ends a session without having answered
//! for a single message, puts the queue of the store to rest. Each recipient has the outcome that the server gave for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;

use super::{Local, Round, label};
use crate::config::{MailboxStore, Snapshot};
use crate::model::failure::{Failure, NameFault, Scope};
use crate::model::host::Host;
use crate::model::spec::mailbox_store::{LmtpServer, LmtpStore};
use crate::net::client_driver::{Connection, Ended};
use crate::net::connect::{Stream, Target};
use crate::queue::Hand;
use crate::queue::carrier::{Carrier, IDLE, Left, Session, Taken};
use crate::queue::next_hosts::Turn;
use crate::queue::outgoing::SenderRules;
use crate::smtp::client::{Hello, Settings, Timeouts};
use crate::smtp::reply::EnhancedStatus;
use crate::store::Leased;

/// Longest wait for a connection, and for the name of a host.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Most addresses that one try goes through.
const MOST: usize = 5;

/// One session: open, carry.
pub(super) async fn session(
    local: &Local,
    hand: &Hand,
    snapshot: &Snapshot,
    store: &Arc<MailboxStore>,
    spec: &LmtpStore,
    first: Leased,
) -> Round {
    let took = first.message.origin.virtual_server.clone();
    let server = snapshot.delivery_server(&took);
    let settings = Settings {
        hello: Hello::Lhlo,
        timeouts: Timeouts::default().at_most(spec.timeout.std()),
        ..Settings::new(server.map_or("localhost", |server| server.fqdn.as_str()))
    };
    let connection = match open(local, store, spec, &settings).await {
        Ok(connection) => connection,
        Err(failure) => {
            local.queue.next_hop_failed(hand, &took, failure);
            return Round::Over(Some(first));
        }
    };
    local.queue.session_opened(hand);
    // when the store changes, the session takes no more messages
    let holds = |now: &Snapshot| now.stores.get(&store.name).is_some_and(|now| Arc::ptr_eq(now, store));
    let session = Session {
        holds: &holds,
        only_from: None,
        next_hop: label(store),
        tls: None,
        turn: Turn::of_all(),
        taken: Taken::Delivered,
        peer: connection.extensions().clone(),
        senders: SenderRules::default(),
        max_recipients: connection.extensions().max_recipients.map_or(usize::MAX, |max| max as usize),
        // to a server for many domains, the bare word says nothing
        postmaster: snapshot.postmaster.clone(),
        budget: spec.messages_per_connection,
        idle: IDLE,
    };
    let mut carrier = Carrier::new(&local.queue, &*local.clock, hand, session, Some(first));
    let ended = connection.run(&mut carrier, &*local.clock).await;
    let left = carrier.leave();
    local.queue.session_closed(hand, left.answered);
    match (ended, left) {
        (Ended::Broken { .. }, Left { first, answered: false, host_failure, .. }) => {
            let failure = host_failure.unwrap_or_else(|| {
                Failure::new(Scope::Host, EnhancedStatus::transient(4, 2), "the session was cut").by(&label(store))
            });
            local.queue.next_hop_failed(hand, &took, failure);
            Round::Over(first)
        }
        (_, left) => Round::Again(left.first),
    }
}

/// A session with the first address that gives one.
async fn open(
    local: &Local,
    store: &MailboxStore,
    spec: &LmtpStore,
    settings: &Settings,
) -> Result<Connection<Box<dyn Stream>>, Failure> {
    let label = label(store);
    let limit = CONNECT_LIMIT.min(spec.timeout.std());
    let addresses = match &spec.server {
        LmtpServer::Unix(socket) => {
            let connecting = tokio::time::timeout(limit, UnixStream::connect(socket.path())).await;
            let stream = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let stream: Box<dyn Stream> = Box::new(stream.map_err(|error| Failure::of_connect(&error, &label))?);
            return greet(local, stream, settings, &label).await;
        }
        LmtpServer::Tcp { host: Host::Address(address), port } => vec![SocketAddr::new(*address, *port)],
        LmtpServer::Tcp { host: Host::Name(name), port } => look_up(name.as_str(), *port, limit).await?,
    };
    let mut last = None;
    for address in addresses {
        let target = Target { address, source: None, timeout: limit };
        let opened = match local.connect.connect(&target).await {
            Ok(connected) => greet(local, connected.stream, settings, &label).await,
            Err(error) => Err(Failure::of_connect(&error, &label)),
        };
        match opened {
            Ok(connection) => return Ok(connection),
            Err(failure) => {
                tracing::info!(store = %store.name, address = %address, failure = %failure, "no session");
                last = Some(failure);
            }
        }
    }
    Err(last.unwrap_or_else(|| Failure::new(Scope::Host, EnhancedStatus::transient(4, 4), "the host has no address")))
}

async fn greet(
    local: &Local,
    stream: Box<dyn Stream>,
    settings: &Settings,
    label: &str,
) -> Result<Connection<Box<dyn Stream>>, Failure> {
    let opened = Connection::open(stream, settings.clone(), None, &*local.clock).await;
    opened.map_err(|error| Failure::of_open(&error, label, label))
}

/// By the system, which knows the names of this machine and its neighbours. An operator wrote the name: one that does not exist is a
/// mistake to mend, no reason to bounce.
async fn look_up(name: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, Failure> {
    let fault = |why: String| Failure::of_name(&NameFault::TryLater(why), name);
    let found = tokio::time::timeout(limit, tokio::net::lookup_host((name, port))).await;
    let found = found.map_err(|_| fault("no answer in time".to_owned()))?;
    Ok(found.map_err(|error| fault(error.to_string()))?.take(MOST).collect())
}
