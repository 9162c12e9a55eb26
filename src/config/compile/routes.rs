//! Connectors: what is wrong with them, and the table that mail is routed by.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::super::snapshot::{Snapshot, dequeue_connector, smart_host_connector, unresolved_connector};
use super::super::violation::{ViolationCode, WarningCode};
use super::{Findings, Objects, access, fetching, hosts};
use crate::config::Vault;
use crate::config::certificates::Certificate;
use crate::model::duration::Duration;
use crate::model::host::domain_key;
use crate::model::name::Name;
use crate::model::pattern::AddressPattern;
use crate::model::schedule::Schedule;
use crate::model::spec::connector::{DnsRoute, RouteSpec, SmartHost, SmartHostTls};
use crate::model::spec::{Collection, ConnectorSpec, VirtualServerSpec};
use crate::routing::{Connector, Table};

/// What is wrong with connectors, and what may not be meant.
pub(super) fn check(objects: &Objects, found: &mut Findings) {
    let mut shared: HashMap<(AddressPattern, u8), Vec<&Name>> = HashMap::new();
    for (name, (_, spec)) in &objects.connectors {
        let of = (Collection::Connectors, name);
        let mut own: HashMap<String, usize> = HashMap::new();
        for (index, space) in spec.address_spaces.iter().enumerate() {
            let pattern = canonical(&space.pattern);
            if let Some(first) = own.insert(pattern.to_string(), index) {
                let detail = format!("the pattern {} is there already, as /spec/addressSpaces/{first}", space.pattern);
                found.wrong(of, format!("/spec/addressSpaces/{index}/pattern"), ViolationCode::Duplicate, detail);
            } else if spec.enabled {
                shared.entry((pattern, space.cost)).or_default().push(name);
            }
        }
        for (index, server) in spec.bridgeheads.iter().enumerate() {
            if !objects.virtual_servers.contains_key(server) {
                found.missing(of, format!("/spec/bridgeheads/{index}"), Collection::VirtualServers, server);
            }
        }
        for (index, server) in spec.relay_via.iter().flatten().enumerate() {
            if !objects.virtual_servers.contains_key(server) {
                found.missing(of, format!("/spec/relayVia/{index}"), Collection::VirtualServers, server);
            }
        }
        for (index, interval) in spec.retry_intervals.iter().enumerate() {
            found.at_least(of, format!("/spec/retryIntervals/{index}"), *interval, Duration::from_secs(1));
        }
        hosts::check_sources(of, "/spec/sourceAddresses", &spec.source_addresses, found);
        access::check(objects, name, spec, found);
        fetching::check(objects, name, spec, found);
        for (at, schedule) in [
            ("/spec/schedule", spec.schedule.as_ref()),
            ("/spec/oversize/schedule", spec.oversize.as_ref().map(|oversize| &oversize.schedule)),
        ] {
            schedule.into_iter().for_each(|schedule| check_schedule(name, at, schedule, found));
        }
        if let RouteSpec::SmartHosts(hosts) = &spec.route {
            for (index, host) in hosts.iter().enumerate() {
                if let Some(fault) = hosts::fault(objects, &host.host, host.port) {
                    found.wrong(of, format!("/spec/route/smartHosts/{index}/host"), ViolationCode::Conflict, fault);
                }
            }
        }
        if spec.allow_relay && spec.address_spaces.iter().any(|space| space.pattern == AddressPattern::Any) {
            if spec.acknowledge_open_relay {
                found.warn(
                    of,
                    WarningCode::OpenRelay,
                    format!("everybody may relay to every domain through connector {name}"),
                );
            } else {
                let detail =
                    "the whole world could relay through this connector; acknowledgeOpenRelay says that this is meant";
                found.wrong(of, "/spec/allowRelay", ViolationCode::OpenRelay, detail);
            }
        }
    }
    // one warning for all the patterns that the same connectors share
    let mut groups: BTreeMap<Vec<&Name>, (usize, String)> = BTreeMap::new();
    for ((pattern, cost), names) in shared.into_iter().filter(|(_, names)| names.len() > 1) {
        let example = format!("{pattern} at cost {cost}");
        let (count, first) = groups.entry(names).or_insert_with(|| (0, example.clone()));
        *count += 1;
        *first = std::mem::take(first).min(example);
    }
    for (names, (count, example)) in groups {
        let list = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        for name in names {
            let detail = format!("connectors {list} share the load of {example}{more}");
            found.warn((Collection::Connectors, name), WarningCode::SharesAddressSpace, detail);
        }
    }
}

/// Both spellings of an internationalized domain are one pattern.
fn canonical(pattern: &AddressPattern) -> AddressPattern {
    let ascii = |domain| crate::smtp::address::Domain::Name(domain_key(domain).into_owned());
    match pattern {
        AddressPattern::Exact(domain) => AddressPattern::Exact(ascii(domain)),
        AddressPattern::Below(domain) => AddressPattern::Below(ascii(domain)),
        AddressPattern::Any => AddressPattern::Any,
    }
}

pub(super) fn check_schedule(name: &Name, at: &str, schedule: &Schedule, found: &mut Findings) {
    for (index, window) in schedule.windows.iter().enumerate().filter(|(_, window)| window.is_empty()) {
        let detail =
            format!("the window from {} to {} has no length; a whole day is 00:00 to 24:00", window.from, window.to);
        found.wrong((Collection::Connectors, name), format!("{at}/windows/{index}"), ViolationCode::OutOfRange, detail);
    }
}

/// The table of all connectors that are enabled; what did not change is taken over.
pub(super) fn build(
    objects: &Objects,
    certificates: &BTreeMap<Name, Arc<Certificate>>,
    previous: &Snapshot,
    vault: &Vault,
) -> Arc<Table> {
    let implied: Vec<(Name, (u64, Arc<ConnectorSpec>))> = objects
        .virtual_servers
        .iter()
        .flat_map(|(name, (generation, spec))| {
            implied(name, spec).map(|(name, spec)| (name, (*generation, Arc::new(spec))))
        })
        .collect();
    let implied = || implied.iter().map(|(name, of)| (name, name, of));
    let enabled = || objects.connectors.iter().filter(|(_, (_, spec))| spec.enabled);
    let asking: Vec<_> = enabled()
        .filter_map(|(name, (generation, spec))| {
            let asks = spec.request_dequeue.as_ref()?.as_connector();
            Some((dequeue_connector(name)?, name, (*generation, Arc::new(asks))))
        })
        .collect();
    let asking = || asking.iter().map(|(name, of, spec)| (name, *of, spec));
    // each with whose secrets it has
    let all = || enabled().map(|(name, of)| (name, name, of)).chain(asking()).chain(implied());
    let mut unchanged = true;
    let connectors: Vec<Arc<Connector>> = all()
        .map(|(name, holder, (generation, spec))| {
            let known = previous.routes.connector(name);
            let access = access::read(objects, holder, spec, certificates, known.map(|known| &**known), vault);
            let same =
                known.filter(|known| known.generation == *generation && known.access == access && known.spec == **spec);
            unchanged &= same.is_some();
            let fresh = || Connector { name: name.clone(), generation: *generation, spec: (**spec).clone(), access };
            same.cloned().unwrap_or_else(|| Arc::new(fresh()))
        })
        .collect();
    if unchanged && connectors.len() == previous.routes.connectors().count() {
        return previous.routes.clone();
    }
    Arc::new(Table::build(connectors))
}

/// What `forwardUnresolvedTo` and `smartHost` of a virtual server ask for: connectors without an address space.
fn implied(server: &Name, spec: &VirtualServerSpec) -> impl Iterator<Item = (Name, ConnectorSpec)> {
    let own = |spec| ConnectorSpec { bridgeheads: vec![server.clone()], ..spec };
    let unresolved = spec
        .messages
        .forward_unresolved_to
        .as_ref()
        .and_then(|to| Some((unresolved_connector(server)?, own(ConnectorSpec::to_host(&to.host, to.port)))));
    let smart_host = spec.outbound.smart_host.as_ref().and_then(|to| {
        let mut last = ConnectorSpec::to_host(&to.host, to.port);
        if spec.outbound.direct_before_smart_host {
            let then = SmartHost {
                host: to.host.clone(),
                port: to.port,
                tls: SmartHostTls::default(),
                priority: 0,
                weight: 1,
            };
            last.route = RouteSpec::Dns(DnsRoute { then: Some(then) });
        }
        Some((smart_host_connector(server)?, own(last)))
    });
    unresolved.into_iter().chain(smart_host)
}
