//! From which of our addresses a session is made: those of the connector, else those of the virtual server, by turns.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::VirtualServer;
use crate::net::race::Candidate;
use crate::routing::Connector;

/// The candidate for an address of a next hop; `None` when addresses to send from are given, but none of its family.
pub(super) fn candidate(
    connector: &Connector,
    server: &VirtualServer,
    address: SocketAddr,
    turn: usize,
) -> Option<Candidate> {
    let own = &connector.spec.source_addresses;
    let all = if own.is_empty() { &server.spec.outbound.source_addresses } else { own };
    let mut sources: Vec<IpAddr> =
        all.iter().map(|source| source.0).filter(|source| source.is_ipv4() == address.is_ipv4()).collect();
    if sources.is_empty() && !all.is_empty() {
        return None;
    }
    let first = turn % sources.len().max(1);
    sources.rotate_left(first);
    Some(Candidate { address, sources })
}

/// Whose turn it is in the next session.
pub(super) fn next_turn(sessions: &AtomicUsize) -> usize {
    sessions.fetch_add(1, Ordering::Relaxed)
}
