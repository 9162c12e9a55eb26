//! A list of who, made for look-ups: the longest matching prefix decides, and deny wins a tie.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::pattern::ClientPattern;

/// `allow` and `deny` as one table. A look-up costs one hash per prefix length that occurs, however long the lists are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientList {
    verdicts: HashMap<IpNet, bool>,
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
                let net = pattern.net();
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

    /// What the list says of the address; `None` when it says nothing. An IPv4 address in IPv6 clothes is the IPv4 address.
    pub fn verdict(&self, client: IpAddr) -> Option<bool> {
        let client = client.to_canonical();
        let lengths = if client.is_ipv4() { &self.lengths_v4 } else { &self.lengths_v6 };
        lengths.iter().find_map(|length| {
            let net = IpNet::new(client, *length).ok()?.trunc();
            self.verdicts.get(&net).copied()
        })
    }

    /// For lists where an empty `allow` means nobody.
    pub fn allows(&self, client: IpAddr) -> bool {
        self.verdict(client) == Some(true)
    }

    /// For lists where an empty `allow` means everybody who is not denied.
    pub fn allows_or_open(&self, client: IpAddr) -> bool {
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
            assert_eq!(list.allows(client.parse().unwrap()), allowed, "{client}");
        }
    }

    #[test]
    fn an_empty_list() {
        let client = "192.0.2.1".parse().unwrap();
        let empty = ClientList::default();
        assert!(!empty.allows(client));
        assert!(empty.allows_or_open(client));
        assert!(!ClientList::new(&patterns(&["10.0.0.0/8"]), &[]).allows_or_open(client));
        assert!(ClientList::new(&[], &patterns(&["10.0.0.0/8"])).allows_or_open(client));
        assert!(ClientList::new(&patterns(&["0.0.0.0/0"]), &[]).allows(client));
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
            let of = |allow| nets.iter().filter(|net| net.1 == allow).map(|net| net.0).collect::<Vec<_>>();
            let list = ClientList::new(&of(true), &of(false));
            let expected = nets.iter().filter(|(pattern, _)| pattern.net().contains(&client))
                .max_by_key(|(pattern, allow)| (pattern.net().prefix_len(), !allow)).map(|(_, allow)| *allow);
            prop_assert_eq!(list.verdict(client), expected);
        }
    }
}
