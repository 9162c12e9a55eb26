//! From the MX records of a domain to the hosts that are tried, in order (RFC 5321, 5.1; null MX: RFC 7505).
//!
//! Pure: the caller brings the answer of the resolver. An answer that could not be had (SERVFAIL, time-out) never comes
//! here: it defers.

use std::net::IpAddr;

use crate::model::host::{Host, HostName};
use crate::smtp::address::Domain;

use super::scramble;

/// A host that takes mail for a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Lower is tried first.
    pub preference: u16,
    /// The host; its addresses are looked up next.
    pub host: Host,
}

/// What the MX records of a domain mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchanges {
    /// Try these, in this order.
    Hosts(Vec<Exchange>),
    /// The domain takes no mail (null MX): permanent, 5.1.10.
    NullMx,
    /// The best host is ourselves: delivering would loop. Permanent, 5.4.6.
    Loop,
    /// There are records, but none that names a host (an IP address, `localhost`): permanent, 5.4.4.
    Unusable,
}

/// Most hosts that are tried for one domain.
const MOST: usize = 20;

/// The hosts for a domain. `records` is the answer (preference, exchange; empty when the domain exists without MX, and then the
/// domain itself is the host), `ours` tells our own names, `seed` orders equal preferences.
pub fn exchanges(domain: &Domain, records: &[(u16, String)], ours: impl Fn(&str) -> bool, seed: u64) -> Exchanges {
    let name = match domain {
        Domain::Literal(address) => {
            return Exchanges::Hosts(vec![Exchange { preference: 0, host: Host::Address(*address) }]);
        }
        Domain::Name(name) => name,
    };
    let implicit = [(0, name.clone())];
    let records = if records.is_empty() { &implicit } else { records };
    if records.iter().all(|(_, exchange)| exchange.trim_end_matches('.').is_empty()) {
        return Exchanges::NullMx;
    }
    let mut hosts: Vec<(u16, HostName)> =
        records.iter().filter_map(|(preference, exchange)| usable(exchange).map(|host| (*preference, host))).collect();
    if hosts.is_empty() {
        return Exchanges::Unusable;
    }
    // never to ourselves, nor to what is no better than ourselves: it would send the mail back
    if let Some(own) = hosts.iter().filter(|(_, host)| ours(host.as_str())).map(|(preference, _)| *preference).min() {
        hosts.retain(|(preference, _)| *preference < own);
    }
    if hosts.is_empty() {
        return Exchanges::Loop;
    }
    hosts.sort_by_cached_key(|(preference, host)| (*preference, shuffled(host, seed)));
    let mut seen = std::collections::HashSet::new();
    hosts.retain(|(_, host)| seen.insert(host.clone()));
    hosts.truncate(MOST);
    Exchanges::Hosts(
        hosts.into_iter().map(|(preference, host)| Exchange { preference, host: Host::Name(host) }).collect(),
    )
}

/// A name that an MX may have (RFC 5321, 2.3.5): no address, and not the machine itself.
fn usable(exchange: &str) -> Option<HostName> {
    let name = exchange.strip_suffix('.').unwrap_or(exchange);
    let local = name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
    if name.parse::<IpAddr>().is_ok() || local { None } else { name.parse().ok() }
}

fn shuffled(host: &HostName, seed: u64) -> u64 {
    host.as_str().bytes().fold(scramble(seed), |state, byte| scramble(state ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(answer: &[(u16, &str)], seed: u64) -> Vec<String> {
        let records: Vec<_> = answer.iter().map(|(preference, host)| (*preference, (*host).to_owned())).collect();
        match exchanges(&"example.com".parse().unwrap(), &records, |name| name == "us.example.net", seed) {
            Exchanges::Hosts(hosts) => hosts.into_iter().map(|exchange| exchange.host.to_string()).collect(),
            other => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn the_rules_of_rfc_5321() {
        assert_eq!(names(&[], 0), ["example.com"]);
        assert_eq!(names(&[(20, "b.example."), (10, "A.example.")], 0), ["a.example", "b.example"]);
        assert_eq!(names(&[(0, ".")], 0), ["NullMx"]);
        assert_eq!(names(&[(0, "."), (10, "a.example.")], 0), ["a.example"]);
        assert_eq!(names(&[(10, "192.0.2.1"), (20, "localhost.")], 0), ["Unusable"]);
        assert_eq!(names(&[(10, "us.example.net."), (10, "b.example"), (20, "c.example")], 0), ["Loop"]);
        assert_eq!(names(&[(5, "a.example"), (10, "US.example.net"), (20, "c.example")], 0), ["a.example"]);
        assert_eq!(names(&[(5, "a.example"), (10, "a.example")], 0), ["a.example"]);
    }

    #[test]
    fn equal_preferences_share() {
        let first = |seed| names(&[(10, "a.example"), (10, "b.example")], seed)[0].clone();
        let a = (0..1_000).filter(|seed| first(*seed) == "a.example").count();
        assert!((400..600).contains(&a), "{a}");
    }

    #[test]
    fn a_literal_needs_no_dns() {
        let answer = exchanges(&"[192.0.2.1]".parse().unwrap(), &[], |_| false, 0);
        assert!(matches!(answer, Exchanges::Hosts(hosts) if hosts[0].host.to_string() == "192.0.2.1"));
    }
}
