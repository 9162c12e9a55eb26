//! Whether one address hides many clients: a proxy or NAT in front of a virtual server that does not say who they are.
//!
//! A relay rule that trusts such an address trusts everybody behind it, perhaps the whole Internet: the trap of a load
//! balancer without PROXY protocol. It shows in that nearly all connections come from one address, while the clients call
//! themselves by many names. Counts only; a suspicion is told, nothing is refused for it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::name::Name;

/// Connections before anything is concluded.
const LEAST: u32 = 50;
/// Names that clients behind the address have given.
const NAMES: usize = 5;
/// One connection in so many may come from elsewhere: probes of an orchestrator, say.
const OTHERS: u32 = 20;
/// Connections at which counting begins anew, so that what has changed shows.
const MOST: u32 = 10_000;

/// What is seen of the clients of each virtual server.
#[derive(Debug, Default)]
pub struct Masks(Mutex<HashMap<Name, Seen>>);

#[derive(Debug)]
struct Seen {
    address: IpAddr,
    connections: u32,
    others: u32,
    names: BTreeSet<String>,
    told: bool,
}

impl Seen {
    fn of(address: IpAddr) -> Self {
        Seen { address, connections: 0, others: 0, names: BTreeSet::new(), told: false }
    }

    fn hides_many(&self) -> bool {
        self.connections >= LEAST && self.names.len() >= NAMES && self.others <= self.connections / OTHERS
    }
}

impl Masks {
    fn seen(&self) -> MutexGuard<'_, HashMap<Name, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client has said its name. True once, when it shows that its address hides many.
    pub fn note(&self, server: &Name, client: IpAddr, helo: &str) -> bool {
        let mut all = self.seen();
        let seen = all.entry(server.clone()).or_insert_with(|| Seen::of(client));
        if seen.address != client {
            seen.others += 1;
            if seen.others <= (seen.connections / OTHERS).max(LEAST) && seen.connections + seen.others < MOST {
                return false;
            }
            *seen = Seen::of(client);
        }
        if seen.connections >= MOST {
            *seen = Seen { told: seen.told, ..Seen::of(client) };
        }
        seen.connections += 1;
        if seen.names.len() < NAMES {
            seen.names.insert(helo.chars().take(255).collect::<String>().to_ascii_lowercase());
        }
        let news = seen.hides_many() && !seen.told;
        seen.told |= news;
        news
    }

    /// The address that hides the clients of this server, if one does.
    pub fn of(&self, server: &Name) -> Option<IpAddr> {
        self.seen().get(server).filter(|seen| seen.told || seen.hides_many()).map(|seen| seen.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Name {
        "default".parse().unwrap()
    }

    #[test]
    fn one_address_with_many_names_is_told_once() {
        let masks = Masks::default();
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let told: Vec<u32> =
            (0..200).filter(|n| masks.note(&server(), proxy, &format!("host{}.example", n % 7))).collect();
        assert_eq!(told, [LEAST - 1]);
        assert_eq!(masks.of(&server()), Some(proxy));
        assert_eq!(masks.of(&"other".parse().unwrap()), None);
    }

    #[test]
    fn one_host_or_many_addresses_are_no_mask() {
        let masks = Masks::default();
        let host: IpAddr = "10.0.0.1".parse().unwrap();
        assert!((0..1_000).all(|_| !masks.note(&server(), host, "app.example")));
        let masks = Masks::default();
        for n in 0..20_000_u32 {
            let client = IpAddr::V4((n % 50).into());
            assert!(!masks.note(&server(), client, &format!("host{}.example", n % 50)));
        }
        assert_eq!(masks.of(&server()), None);
    }
}
