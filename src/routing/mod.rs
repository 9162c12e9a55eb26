//! Which connector carries mail for a domain ([`Table::route`]), and which hosts that means ([`next_hop`], [`mx`]).
//!
//! Order of the router, as in Exchange 2000: connectors whose restrictions exclude the message are absent; the most specific
//! address space (`domain`, then the longest `*.domain`, then `*`); the lowest cost; equal costs share the load. Never
//! downwards to a less specific space because a connector cannot deliver now: then mail waits.
//!
//! Pure: the table is built from connectors, answers come from the table and the arguments alone. One hash look-up per
//! label of the domain, so that 100,000 address spaces cost what ten do.

pub mod access;
pub mod mx;
pub mod next_hop;
pub mod security;

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::host::domain_key;
use crate::model::name::Name;
use crate::model::pattern::AddressPattern;
use crate::model::queue_name::QueueName;
use crate::model::spec::connector::{ConnectorSpec, RouteSpec};
use crate::smtp::address::{Domain, ReversePath};

use access::Access;

/// A connector that carries mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connector {
    /// Its name.
    pub name: Name,
    /// Rises by one with each change of it.
    pub generation: u64,
    /// Its settings.
    pub spec: ConnectorSpec,
    /// What it encrypts and logs in with.
    pub access: Access,
}

impl Connector {
    /// Where mail for the domain waits for this connector.
    pub fn queue(&self, domain: &Domain) -> QueueName {
        match &self.spec.route {
            RouteSpec::SmartHosts(_) => QueueName::SmartHost(self.name.clone()),
            RouteSpec::Dns(_) => QueueName::Dns(self.name.clone(), canonical(domain)),
        }
    }

    /// Whether its restrictions let the message pass.
    pub fn carries(&self, request: &RouteRequest<'_>) -> bool {
        let restrictions = &self.spec.restrictions;
        let of_its_kind = match request.sender {
            ReversePath::Null => restrictions.system,
            ReversePath::Mailbox(_) => restrictions.non_system,
        };
        of_its_kind && restrictions.max_size.is_none_or(|max| request.size <= max.bytes())
    }

    /// Whether every client of the virtual server may relay through it.
    pub fn opens_relay_for(&self, virtual_server: &Name) -> bool {
        self.spec.allow_relay && self.spec.relay_via.as_ref().is_none_or(|via| via.contains(virtual_server))
    }
}

/// Both spellings of an internationalized domain wait in one queue.
fn canonical(domain: &Domain) -> Domain {
    match domain {
        Domain::Name(_) => Domain::Name(domain_key(domain).into_owned()),
        Domain::Literal(_) => domain.clone(),
    }
}

/// A message on its way to one domain.
#[derive(Debug, Clone, Copy)]
pub struct RouteRequest<'a> {
    /// The domain of the recipient.
    pub domain: &'a Domain,
    /// The reverse-path; the null one makes it a system message.
    pub sender: &'a ReversePath,
    /// Octets of content.
    pub size: u64,
}

/// What the router says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// This connector carries it.
    Connector {
        /// The connector.
        connector: Arc<Connector>,
        /// Where the message waits for it.
        queue: QueueName,
    },
    /// No connector may carry it.
    NoRoute,
    /// It cannot be told now. Not the same as [`Route::NoRoute`].
    TryLater,
}

/// The address spaces of all connectors that are enabled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    connectors: HashMap<Name, Arc<Connector>>,
    exact: HashMap<String, Vec<Entry>>,
    below: HashMap<String, Vec<Entry>>,
    any: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    cost: u8,
    connector: Arc<Connector>,
}

impl Table {
    /// The table of these connectors; those that are not enabled are left out.
    pub fn build(connectors: impl IntoIterator<Item = Arc<Connector>>) -> Self {
        let mut table = Table::default();
        for connector in connectors {
            if !connector.spec.enabled {
                continue;
            }
            for space in &connector.spec.address_spaces {
                let entry = Entry { cost: space.cost, connector: connector.clone() };
                match &space.pattern {
                    AddressPattern::Exact(domain) => table.exact.entry(domain_key(domain).into_owned()).or_default(),
                    AddressPattern::Below(domain) => table.below.entry(domain_key(domain).into_owned()).or_default(),
                    AddressPattern::Any => &mut table.any,
                }
                .push(entry);
            }
            table.connectors.insert(connector.name.clone(), connector);
        }
        for entries in table.exact.values_mut().chain(table.below.values_mut()).chain([&mut table.any]) {
            entries.sort_by(|a, b| (a.cost, &a.connector.name).cmp(&(b.cost, &b.connector.name)));
        }
        table
    }

    /// The connector for a message. `spread` picks among equal ones: give every message another number, and one message
    /// always the same.
    pub fn route(&self, request: RouteRequest<'_>, spread: u64) -> Route {
        let key = domain_key(request.domain);
        for entries in self.levels(request.domain, &key) {
            let mut carrying = entries.iter().filter(|entry| entry.connector.carries(&request));
            let Some(first) = carrying.next() else { continue };
            let equal: Vec<&Entry> =
                std::iter::once(first).chain(carrying.take_while(|entry| entry.cost == first.cost)).collect();
            let index = scramble(spread) % equal.len() as u64;
            let connector = equal[usize::try_from(index).unwrap_or_default()].connector.clone();
            return Route::Connector { queue: connector.queue(request.domain), connector };
        }
        Route::NoRoute
    }

    /// Whether a connector opens relaying to the domain for every client of the virtual server (`allowRelay`): one of those
    /// with the most specific address space for it.
    pub fn allows_relay(&self, domain: &Domain, virtual_server: &Name) -> bool {
        let key = domain_key(domain);
        let mut levels = self.levels(domain, &key);
        levels.next().is_some_and(|entries| entries.iter().any(|entry| entry.connector.opens_relay_for(virtual_server)))
    }

    /// The enabled connector of this name.
    pub fn connector(&self, name: &Name) -> Option<&Arc<Connector>> {
        self.connectors.get(name)
    }

    /// All enabled connectors, in no order.
    pub fn connectors(&self) -> impl Iterator<Item = &Arc<Connector>> {
        self.connectors.values()
    }

    /// The address spaces that cover the domain, most specific first; none of them is empty.
    fn levels<'a>(&'a self, domain: &Domain, key: &'a str) -> impl Iterator<Item = &'a [Entry]> {
        let name = domain.name().map(|_| key);
        let exact = name.and_then(|key| self.exact.get(key));
        let parents = std::iter::successors(name, |rest| rest.split_once('.').map(|(_, parent)| parent)).skip(1);
        let below = parents.filter_map(|parent| self.below.get(parent));
        let any = Some(&self.any).filter(|any| !any.is_empty());
        exact.into_iter().chain(below).chain(any).map(Vec::as_slice)
    }
}

/// Numbers that lie close together become numbers that do not (the finalizer of splitmix64).
pub(crate) fn scramble(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
