//! Which addresses to try for the next hop of a queue, in order (RFC 5321, 5.1).
//!
//! DNS that gives no answer defers, DNS that says no ends: the difference is made here and named by
//! [`NameFault`]. At most five addresses are tried. Mail by MX is never sent to a listener of our own, and nothing
//! to addresses that are [off limits](is_off_limits), whatever a name says.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use crate::config::{Snapshot, VirtualServer};
use crate::model::failure::{Failure, NameFault, OFF_LIMITS};
use crate::model::host::{Host, domain_key};
use crate::model::http_url::is_off_limits;
use crate::model::queue_name::QueueName;
use crate::model::spec::connector::{DnsRoute, RouteSpec};
use crate::net::mta_sts::{Found, Policies, Policy};
use crate::net::resolver::{ResolveError, Resolver, Resolvers, Vouched};
use crate::queue::next_hosts::HostKey;
use crate::routing::Connector;
use crate::routing::asked::{Asked, Sts};
use crate::routing::mx::{Exchanges, exchanges};
use crate::routing::next_hop;
use crate::routing::security::{self, Wanted};
use crate::smtp::address::Domain;
use crate::status::Listeners;

use super::tlsa::{Names, ask};

/// Most addresses that one try goes through.
const MOST: usize = 5;

/// An address to try, and the name it goes by in logs and reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// The host's name, or its address where it has none.
    pub name: String,
    /// The address.
    pub address: SocketAddr,
    /// What its owner asks.
    pub asked: Asked,
}

/// What hosts are looked up with.
#[derive(Clone, Copy)]
pub struct LookUp<'a> {
    /// DNS.
    pub resolvers: &'a Resolvers,
    /// The policies of MTA-STS.
    pub policies: &'a Policies,
    /// Which addresses are our own.
    pub listeners: &'a Listeners,
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
    with: LookUp<'_>,
    snapshot: &Snapshot,
    server: &VirtualServer,
    connector: &Connector,
    queue: &QueueName,
    seed: u64,
) -> Result<Vec<NextHop>, Failure> {
    let resolvers = with.resolvers;
    let wanted = security::wanted(&connector.spec, &server.spec.outbound, snapshot.tls_floor(connector, queue));
    match (&connector.spec.route, queue) {
        (RouteSpec::SmartHosts(hosts), _) => {
            let hosts = next_hop::order(hosts, seed);
            let found = look_up(resolvers, server, &hosts, Names::own(wanted.dane)).await;
            let (first, _) =
                hosts.first().map_or(("the connector".to_owned(), 0), |(host, port)| (host.to_string(), *port));
            // an operator wrote these names: one that does not exist is a mistake to mend, no reason to bounce
            found.map_err(|fault| Failure::of_name(&NameFault::TryLater(words(&fault)), &first))
        }
        (RouteSpec::Dns(DnsRoute { then }), QueueName::Dns(_, domain)) => {
            let direct = by_mx(with, snapshot, server, domain, wanted, seed).await;
            let found = match (direct, then) {
                (direct, None) => direct,
                // these are final whoever is asked
                (Err(fault @ (NameFault::NullMx | NameFault::Loop)), _) => Err(fault),
                (direct, Some(then)) => {
                    let last =
                        look_up(resolvers, server, &[(then.host.clone(), then.port)], Names::own(wanted.dane)).await;
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
    with: LookUp<'_>,
    snapshot: &Snapshot,
    server: &VirtualServer,
    domain: &Domain,
    wanted: Wanted,
    seed: u64,
) -> Result<Vec<NextHop>, NameFault> {
    let resolver = of_server(with.resolvers, server)?;
    let records = match domain {
        Domain::Literal(_) => Vouched::insecure(Vec::new()),
        Domain::Name(name) => {
            let found = if wanted.dane {
                resolver.vouched_mx(name).await
            } else {
                resolver.mx(name).await.map(Vouched::insecure)
            };
            match found {
                Ok(found) => found,
                // the domain itself is the host: its name needs nobody who vouches for it, and its address is looked at next
                Err(ResolveError::NoRecords) => Vouched { value: Vec::new(), secure: wanted.dane },
                Err(error) => return Err(fault(error)),
            }
        }
    };
    let named_securely = records.secure;
    let records: Vec<_> = records.value.into_iter().map(|mx| (mx.preference, mx.exchange)).collect();
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
    let ascii = domain_key(domain);
    let names = Names { dane: wanted.dane && named_securely, domain: domain.name().map(|_| &*ascii) };
    let mut found = look_up(with.resolvers, server, &hosts, names).await?;
    found.iter_mut().for_each(|hop| hop.asked.named_securely = named_securely);
    if wanted.sts && domain.name().is_some() {
        keep(&with.policies.of(&ascii, &*resolver).await, &mut found);
    }
    // what stands behind ourselves in the order would only send it back to us
    if let Some(at) = found.iter().position(|hop| is_own_listener(with.listeners, hop.address)) {
        found.truncate(at);
    }
    if found.is_empty() { Err(NameFault::Loop) } else { Ok(found) }
}

/// Notes what a policy of MTA-STS says of hosts.
fn keep(of_domain: &Found, hops: &mut [NextHop]) {
    for hop in hops {
        let says = |policy: &Arc<Policy>| Sts { mode: policy.mode, names_host: policy.names(&hop.name) };
        hop.asked.sts = of_domain.policy.as_ref().map(says);
        hop.asked.sts_policy = of_domain.policy.clone();
        hop.asked.sts_fault = of_domain.fault.clone();
    }
}

/// Addresses of hosts, in their order; hosts without an address are passed over while others have one.
async fn look_up(
    resolvers: &Resolvers,
    server: &VirtualServer,
    hosts: &[(Host, u16)],
    names: Names<'_>,
) -> Result<Vec<NextHop>, NameFault> {
    let mut found = Vec::new();
    let mut worst: Option<NameFault> = None;
    for (host, port) in hosts {
        let hop = |name: &str, ip, asked: &Asked| NextHop {
            name: name.to_owned(),
            address: SocketAddr::new(ip, *port),
            asked: asked.clone(),
        };
        match host {
            Host::Address(ip) if is_off_limits(*ip) => worst = worst.or(Some(NameFault::OffLimits)),
            Host::Address(ip) => found.push(hop(&ip.to_string(), *ip, &Asked::default())),
            Host::Name(name) => match ask(&*of_server(resolvers, server)?, name.as_str(), *port, names).await {
                Ok((addresses, asked)) => {
                    let allowed: Vec<IpAddr> = addresses.into_iter().filter(|ip| !is_off_limits(*ip)).collect();
                    if allowed.is_empty() {
                        worst = worst.or(Some(NameFault::OffLimits));
                    }
                    found.extend(by_turns(allowed).into_iter().map(|ip| hop(name.as_str(), ip, &asked)));
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
