//! Remote domains: the floor under the TLS of sessions that carry mail for a domain.

use super::Connector;
use crate::model::pattern::AddressPattern;
use crate::model::queue_name::QueueName;
use crate::model::spec::RemoteDomainSpec;
use crate::model::spec::connector::security::TlsLevel;
use crate::smtp::address::Domain;

/// All remote domains, the most specific first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoteDomains(Vec<(AddressPattern, Option<TlsLevel>)>);

impl RemoteDomains {
    /// Of these, in any order.
    pub fn new<'a>(specs: impl Iterator<Item = &'a RemoteDomainSpec>) -> Self {
        let mut all: Vec<_> = specs.map(|spec| (spec.pattern.clone(), spec.tls)).collect();
        all.sort_by_key(|(pattern, _)| std::cmp::Reverse(specificity(pattern)));
        RemoteDomains(all)
    }

    /// The floor for a queue of this connector.
    pub fn floor(&self, connector: &Connector, queue: &QueueName) -> Option<TlsLevel> {
        match queue {
            QueueName::Dns(_, domain) => self.of(domain),
            _ => self.under(connector),
        }
    }

    fn of(&self, domain: &Domain) -> Option<TlsLevel> {
        self.0.iter().find(|(pattern, _)| pattern.matches(domain)).and_then(|(_, tls)| *tls)
    }

    /// The highest that any mail of the connector may need: sessions with smart hosts carry mail for many domains. What the router
    /// is not asked for (a smart host of a virtual server) may be for any.
    fn under(&self, connector: &Connector) -> Option<TlsLevel> {
        let spaces = &connector.spec.address_spaces;
        let may_be_ours =
            |pattern: &AddressPattern| spaces.is_empty() || spaces.iter().any(|space| meet(&space.pattern, pattern));
        self.0.iter().filter(|(pattern, _)| may_be_ours(pattern)).filter_map(|(_, tls)| *tls).max()
    }
}

fn specificity(pattern: &AddressPattern) -> (u8, usize) {
    match pattern {
        AddressPattern::Any => (0, 0),
        AddressPattern::Below(parent) => (1, parent.to_string().len()),
        AddressPattern::Exact(_) => (2, 0),
    }
}

/// Whether there can be a domain that both cover.
fn meet(one: &AddressPattern, other: &AddressPattern) -> bool {
    use AddressPattern::{Any, Below, Exact};
    let inside = |inner: &Domain, outer: &Domain| inner == outer || Below(outer.clone()).matches(inner);
    match (one, other) {
        (Any, _) | (_, Any) => true,
        (Exact(one), Exact(other)) => one == other,
        (Exact(domain), below @ Below(_)) | (below @ Below(_), Exact(domain)) => below.matches(domain),
        (Below(one), Below(other)) => inside(one, other) || inside(other, one),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::routing::access::Access;

    fn remote(all: &[(&str, Option<&str>)]) -> RemoteDomains {
        let spec = |(pattern, tls): &(&str, Option<&str>)| {
            let mut spec = json!({ "pattern": pattern });
            if let Some(tls) = tls {
                spec["tls"] = json!(tls);
            }
            serde_json::from_value::<RemoteDomainSpec>(spec).unwrap()
        };
        let specs: Vec<_> = all.iter().map(spec).collect();
        RemoteDomains::new(specs.iter())
    }

    fn connector(spaces: &[&str]) -> Connector {
        let spaces: Vec<_> = spaces.iter().map(|pattern| json!({"pattern": pattern, "cost": 1})).collect();
        let spec = json!({"addressSpaces": spaces, "route": {"smartHosts": [{"host": "a.example"}]}});
        let spec = serde_json::from_value(spec).unwrap();
        Connector { name: "hub".parse().unwrap(), generation: 1, spec, access: Access::default() }
    }

    #[test]
    fn the_most_specific_one_holds() {
        let all = remote(&[
            ("*", Some("required")),
            ("*.example", Some("verified")),
            ("*.d.example", Some("dane")),
            ("in-clear.example", None),
        ]);
        let hub = connector(&["*"]);
        for (domain, floor) in [
            ("elsewhere.test", Some(TlsLevel::Required)),
            ("a.example", Some(TlsLevel::Verified)),
            ("d.example", Some(TlsLevel::Verified)),
            ("a.d.example", Some(TlsLevel::Dane)),
            ("in-clear.example", None),
        ] {
            let queue = QueueName::Dns(hub.name.clone(), domain.parse().unwrap());
            assert_eq!(all.floor(&hub, &queue), floor, "{domain}");
        }
    }

    #[test]
    fn a_smart_host_has_the_highest_that_its_mail_may_need() {
        let all = remote(&[("bank.example", Some("verified")), ("*.gov.example", Some("required"))]);
        for (spaces, floor) in [
            (&["*"][..], Some(TlsLevel::Verified)),
            (&["*.example"], Some(TlsLevel::Verified)),
            (&["*.a.gov.example"], Some(TlsLevel::Required)),
            (&["a.gov.example", "other.test"], Some(TlsLevel::Required)),
            (&["gov.example"], None),
            (&["other.test", "*.bank.example"], None),
            (&[], Some(TlsLevel::Verified)),
        ] {
            let hub = connector(spaces);
            assert_eq!(all.floor(&hub, &QueueName::SmartHost(hub.name.clone())), floor, "{spaces:?}");
        }
    }
}
