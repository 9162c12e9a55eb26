//! A list of who, made for look-ups: the longest matching prefix decides, and deny wins a tie.
//!
//! A client may match by network and by its verified reverse name (`*.name`). Among names the longest decides as well;
//! between a network and a name neither is the longer one, so that is a tie, which deny wins. Only 0/0 is shorter than
//! every name.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::host::HostName;
use crate::model::pattern::ClientPattern;

/// Who a client is: its address and, when it was looked up and verified (the name has the address), its reverse name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer<'a> {
    /// The address.
    pub address: IpAddr,
    /// The verified name.
    pub name: Option<&'a HostName>,
}

/// A client whose name was not looked up.
impl From<IpAddr> for Peer<'_> {
    fn from(address: IpAddr) -> Self {
        Peer { address, name: None }
    }
}

/// `allow` and `deny` as one table. A look-up costs one hash per prefix length that occurs, however long the lists are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientList {
    verdicts: HashMap<IpNet, bool>,
    /// By the name behind `*.`.
    names: HashMap<String, bool>,
    /// Prefix lengths that occur, longest first.
    lengths_v4: Vec<u8>,
    lengths_v6: Vec<u8>,
    allows_some: bool,
}

impl ClientList {
    /// The table of these lists.
    pub fn new(allow: &[ClientPattern], deny: &[ClientPattern]) -> Self {
        let mut list = ClientList { allows_some: !allow.is_empty(), ..ClientList::default() };
        for (patterns, verdict) in [(allow, true), (deny, false)] {
            for pattern in patterns {
                let net = match pattern {
                    ClientPattern::Network(net) => *net,
                    ClientPattern::Named(name) => {
                        list.names.insert(name.as_str().to_owned(), verdict);
                        continue;
                    }
                };
                list.verdicts.insert(net, verdict);
                let lengths = if net.addr().is_ipv4() { &mut list.lengths_v4 } else { &mut list.lengths_v6 };
                lengths.push(net.prefix_len());
            }
        }
        for lengths in [&mut list.lengths_v4, &mut list.lengths_v6] {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
        }
        list
    }

    /// Whether reverse names matter: when not, nobody needs to look them up.
    pub fn asks_for_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// What the list says of the client; `None` when it says nothing. An IPv4 address in IPv6 clothes is the IPv4 address.
    pub fn verdict<'a>(&self, client: impl Into<Peer<'a>>) -> Option<bool> {
        let peer = client.into();
        let named = peer.name.and_then(|name| self.by_name(name.as_str()));
        match (self.by_address(peer.address), named) {
            (Some((0, _)), Some(named)) => Some(named),
            (Some((_, by_address)), named) => Some(by_address && named.unwrap_or(true)),
            (None, named) => named,
        }
    }

    /// The verdict of the longest prefix, and its length.
    fn by_address(&self, client: IpAddr) -> Option<(u8, bool)> {
        let client = client.to_canonical();
        let lengths = if client.is_ipv4() { &self.lengths_v4 } else { &self.lengths_v6 };
        lengths.iter().find_map(|length| {
            let net = IpNet::new(client, *length).ok()?.trunc();
            Some((*length, *self.verdicts.get(&net)?))
        })
    }

    /// The verdict of the longest name that this one lies below.
    fn by_name(&self, name: &str) -> Option<bool> {
        let mut parents = std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, parent)| parent));
        parents.next();
        parents.find_map(|parent| self.names.get(parent).copied())
    }

    /// For lists where an empty `allow` means nobody.
    pub fn allows<'a>(&self, client: impl Into<Peer<'a>>) -> bool {
        self.verdict(client) == Some(true)
    }

    /// For lists where an empty `allow` means everybody who is not denied.
    pub fn allows_or_open<'a>(&self, client: impl Into<Peer<'a>>) -> bool {
        self.verdict(client).unwrap_or(!self.allows_some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patterns(texts: &[&str]) -> Vec<ClientPattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn longest_prefix_decides_and_deny_wins_ties() {
        let list = ClientList::new(
            &patterns(&["10.0.0.0/8", "10.1.1.1", "2001:db8::/32", "192.0.2.1"]),
            &patterns(&["10.1.0.0/16", "192.0.2.1"]),
        );
        for (client, allowed) in [
            ("10.2.0.1", true),
            ("10.1.0.1", false),
            ("10.1.1.1", true),
            ("::ffff:10.1.1.1", true),
            ("192.0.2.1", false),
            ("2001:db8::7", true),
            ("2001:db9::7", false),
            ("::", false),
        ] {
            assert_eq!(list.allows(client.parse::<IpAddr>().unwrap()), allowed, "{client}");
        }
    }

    #[test]
    fn an_empty_list() {
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let empty = ClientList::default();
        assert!(!empty.allows(client));
        assert!(empty.allows_or_open(client));
        assert!(!ClientList::new(&patterns(&["10.0.0.0/8"]), &[]).allows_or_open(client));
        assert!(ClientList::new(&[], &patterns(&["10.0.0.0/8"])).allows_or_open(client));
        assert!(ClientList::new(&patterns(&["0.0.0.0/0"]), &[]).allows(client));
    }

    #[test]
    fn names_and_networks() {
        let list = ClientList::new(
            &patterns(&["*.example.com", "10.0.0.0/8", "*.vip.guests.example.com"]),
            &patterns(&["*.guests.example.com", "10.66.0.0/16", "0.0.0.0/0"]),
        );
        assert!(list.asks_for_names() && !ClientList::new(&patterns(&["10.0.0.0/8"]), &[]).asks_for_names());
        for (address, name, verdict) in [
            ("192.0.2.1", Some("a.example.com"), true),
            ("192.0.2.1", Some("example.com"), false),
            ("192.0.2.1", Some("a.badexample.com"), false),
            ("192.0.2.1", None, false),
            ("10.1.1.1", None, true),
            ("10.1.1.1", Some("a.guests.example.com"), false),
            ("10.1.1.1", Some("a.vip.guests.example.com"), true),
            ("10.66.1.1", Some("a.example.com"), false),
            ("2001:db8::1", Some("a.b.example.com"), true),
            ("2001:db8::1", Some("a.guests.example.com"), false),
        ] {
            let name: Option<HostName> = name.map(|name| name.parse().unwrap());
            let peer = Peer { address: address.parse().unwrap(), name: name.as_ref() };
            assert_eq!(list.allows(peer), verdict, "{address} {name:?}");
        }
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_linear_search(
            nets in proptest::collection::vec((any::<u32>(), 0_u8..=32, any::<bool>()), 0..20),
            client in any::<u32>(),
        ) {
            let client: IpAddr = std::net::Ipv4Addr::from(client & 0xff).into();
            let nets: Vec<(ClientPattern, bool)> = nets.into_iter().map(|(bits, length, allow)| {
                let net = IpNet::new(std::net::Ipv4Addr::from(bits & 0xff).into(), length).unwrap().trunc();
                (net.to_string().parse().unwrap(), allow)
            }).collect();
            let of = |allow| nets.iter().filter(|net| net.1 == allow).map(|net| net.0.clone()).collect::<Vec<_>>();
            let list = ClientList::new(&of(true), &of(false));
            let expected = nets.iter().filter(|(pattern, _)| pattern.net().unwrap().contains(&client))
                .max_by_key(|(pattern, allow)| (pattern.net().unwrap().prefix_len(), !allow)).map(|(_, allow)| *allow);
            prop_assert_eq!(list.verdict(client), expected);
        }
    }
}
