//! Which addresses to try for the next hop of a queue, in order (RFC 5321, 5.1).
//!
//! DNS that gives no answer defers, DNS that says no ends: the difference is made here and named by
//! [`NameFault`]. At most five addresses are tried. Mail by MX is never sent to a listener of our own, and nothing
//! to addresses that are [off limits](is_off_limits), whatever a name says.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use crate::config::{Snapshot, VirtualServer};
use crate::model::failure::{Failure, NameFault, OFF_LIMITS};
use crate::model::host::Host;
use crate::model::http_url::is_off_limits;
use crate::model::queue_name::QueueName;
use crate::model::spec::connector::{DnsRoute, RouteSpec};
use crate::net::resolver::{ResolveError, Resolver, Resolvers};
use crate::queue::next_hosts::HostKey;
use crate::routing::Connector;
use crate::routing::mx::{Exchanges, exchanges};
use crate::routing::next_hop;
use crate::smtp::address::Domain;
use crate::status::Listeners;

/// Most addresses that one try goes through.
const MOST: usize = 5;

/// An address to try, and the name it goes by in logs and reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// The host's name, or its address where it has none.
    pub name: String,
    /// The address.
    pub address: SocketAddr,
}

impl NextHop {
    /// The host that it is an address of.
    pub fn host(&self) -> HostKey {
        HostKey { name: self.name.clone(), port: self.address.port() }
    }
}

/// The hosts of these addresses, in their order.
pub fn hosts_of(hops: &[NextHop]) -> Vec<HostKey> {
    let mut hosts: Vec<HostKey> = hops.iter().map(NextHop::host).collect();
    hosts.dedup();
    hosts
}

fn of_server(resolvers: &Resolvers, server: &VirtualServer) -> Result<Arc<dyn Resolver>, NameFault> {
    resolvers.of(&server.name_servers()).map_err(|error| NameFault::TryLater(error.to_string()))
}

/// The addresses for a queue.
///
/// # Errors
/// A failure of the host: permanent when DNS says so, else transient.
pub async fn find(
    resolvers: &Resolvers,
    snapshot: &Snapshot,
    listeners: &Listeners,
    server: &VirtualServer,
    connector: &Connector,
    queue: &QueueName,
    seed: u64,
) -> Result<Vec<NextHop>, Failure> {
    match (&connector.spec.route, queue) {
        (RouteSpec::SmartHosts(hosts), _) => {
            let hosts = next_hop::order(hosts, seed);
            let found = look_up(resolvers, server, &hosts).await;
            let (first, _) =
                hosts.first().map_or(("the connector".to_owned(), 0), |(host, port)| (host.to_string(), *port));
            // an operator wrote these names: one that does not exist is a mistake to mend, no reason to bounce
            found.map_err(|fault| Failure::of_name(&NameFault::TryLater(words(&fault)), &first))
        }
        (RouteSpec::Dns(DnsRoute { then }), QueueName::Dns(_, domain)) => {
            let direct = by_mx(resolvers, snapshot, listeners, server, domain, seed).await;
            let found = match (direct, then) {
                (direct, None) => direct,
                // these are final whoever is asked
                (Err(fault @ (NameFault::NullMx | NameFault::Loop)), _) => Err(fault),
                (direct, Some(then)) => {
                    let last = look_up(resolvers, server, &[(then.host.clone(), then.port)]).await;
                    match (direct, last) {
                        (Ok(direct), last) => Ok(direct.into_iter().chain(last.unwrap_or_default()).collect()),
                        (Err(_), Ok(last)) => Ok(last),
                        (Err(_), Err(fault)) => Err(NameFault::TryLater(format!("{}: {}", then.host, words(&fault)))),
                    }
                }
            };
            found.map_err(|fault| Failure::of_name(&fault, &domain.to_string()))
        }
        (RouteSpec::Dns(_), _) => {
            Err(Failure::of_name(&NameFault::TryLater("the connector's route has changed".into()), &queue.to_string()))
        }
    }
}

async fn by_mx(
    resolvers: &Resolvers,
    snapshot: &Snapshot,
    listeners: &Listeners,
    server: &VirtualServer,
    domain: &Domain,
    seed: u64,
) -> Result<Vec<NextHop>, NameFault> {
    let records = match domain {
        Domain::Literal(_) => Vec::new(),
        Domain::Name(name) => match of_server(resolvers, server)?.mx(name).await {
            Ok(records) => records.into_iter().map(|mx| (mx.preference, mx.exchange)).collect(),
            Err(ResolveError::NoRecords) => Vec::new(),
            Err(error) => return Err(fault(error)),
        },
    };
    let ours =
        |name: &str| snapshot.virtual_servers.values().any(|server| server.fqdn.as_str().eq_ignore_ascii_case(name));
    let hosts = match exchanges(domain, &records, ours, seed) {
        Exchanges::Hosts(hosts) => hosts,
        Exchanges::NullMx => return Err(NameFault::NullMx),
        Exchanges::Loop => return Err(NameFault::Loop),
        Exchanges::Unusable => return Err(NameFault::NoAddress),
    };
    let port = server.spec.outbound.port;
    let hosts: Vec<(Host, u16)> = hosts.into_iter().map(|exchange| (exchange.host, port)).collect();
    let mut found = look_up(resolvers, server, &hosts).await?;
    // what stands behind ourselves in the order would only send it back to us
    if let Some(at) = found.iter().position(|hop| is_own_listener(listeners, hop.address)) {
        found.truncate(at);
    }
    if found.is_empty() { Err(NameFault::Loop) } else { Ok(found) }
}

/// Addresses of hosts, in their order; hosts without an address are passed over while others have one.
async fn look_up(
    resolvers: &Resolvers,
    server: &VirtualServer,
    hosts: &[(Host, u16)],
) -> Result<Vec<NextHop>, NameFault> {
    let mut found = Vec::new();
    let mut worst: Option<NameFault> = None;
    for (host, port) in hosts {
        match host {
            Host::Address(ip) if is_off_limits(*ip) => worst = worst.or(Some(NameFault::OffLimits)),
            Host::Address(ip) => found.push(NextHop { name: ip.to_string(), address: SocketAddr::new(*ip, *port) }),
            Host::Name(name) => match of_server(resolvers, server)?.addresses(name.as_str()).await {
                Ok(addresses) => {
                    let allowed: Vec<IpAddr> = addresses.into_iter().filter(|ip| !is_off_limits(*ip)).collect();
                    if allowed.is_empty() {
                        worst = worst.or(Some(NameFault::OffLimits));
                    }
                    found.extend(
                        by_turns(allowed)
                            .into_iter()
                            .map(|ip| NextHop { name: name.as_str().to_owned(), address: SocketAddr::new(ip, *port) }),
                    );
                }
                Err(error) => {
                    let fault = fault(error);
                    if worst.is_none() || matches!(fault, NameFault::TryLater(_)) {
                        worst = Some(fault);
                    }
                }
            },
        }
        if found.len() >= MOST {
            break;
        }
    }
    found.truncate(MOST);
    if found.is_empty() { Err(worst.unwrap_or(NameFault::NoAddress)) } else { Ok(found) }
}

/// IPv6 and IPv4 by turns, so that neither hides the other where only some are tried.
fn by_turns(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (six, four): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let longest = six.len().max(four.len());
    (0..longest).flat_map(|at| six.get(at).into_iter().chain(four.get(at)).copied().collect::<Vec<_>>()).collect()
}

fn fault(error: ResolveError) -> NameFault {
    match error {
        ResolveError::NoSuchDomain => NameFault::NoSuchDomain,
        ResolveError::NoRecords => NameFault::NoAddress,
        ResolveError::NullMx => NameFault::NullMx,
        ResolveError::TryLater(why) => NameFault::TryLater(why),
    }
}

fn words(fault: &NameFault) -> String {
    match fault {
        NameFault::NoSuchDomain => "the name does not exist".to_owned(),
        NameFault::TryLater(why) => why.clone(),
        NameFault::OffLimits => OFF_LIMITS.to_owned(),
        NameFault::NoAddress | NameFault::NullMx | NameFault::Loop => "the name has no address".to_owned(),
    }
}

/// True when a connection to this address would come in at one of our own listeners.
fn is_own_listener(listeners: &Listeners, address: SocketAddr) -> bool {
    listeners.all().iter().flat_map(|(_, bindings)| bindings).filter_map(|binding| binding.bound.as_ref().ok()).any(
        |bound| {
            bound.port() == address.port()
                && (bound.ip() == address.ip() || bound.ip().is_unspecified() && is_local(address.ip()))
        },
    )
}

/// An address that this machine has: the kernel lets it be bound.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Listening;

    #[test]
    fn our_own_listeners_are_known_also_behind_a_wildcard() {
        let listeners = Listeners::default();
        let bound: SocketAddr = "0.0.0.0:2525".parse().unwrap();
        listeners.set(&"default".parse().unwrap(), vec![Listening { configured: bound, bound: Ok(bound) }]);
        assert!(is_own_listener(&listeners, "127.0.0.1:2525".parse().unwrap()));
        assert!(!is_own_listener(&listeners, "127.0.0.1:25".parse().unwrap()));
        assert!(!is_own_listener(&listeners, "192.0.2.1:2525".parse().unwrap()));
    }
}
