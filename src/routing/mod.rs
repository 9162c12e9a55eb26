//! Which connector carries mail for a domain ([`Table::route`]), and which hosts that means ([`next_hop`], [`mx`]).
//!
//! Order of the router, as in Exchange 2000: connectors whose restrictions exclude the message are absent; the most specific
//! address space (`domain`, then the longest `*.domain`, then `*`); among its connectors those that are not down; the lowest
//! cost; equal costs share the load. When all of them are down, mail waits for the cheapest: never downwards to a less
//! specific space, unless that one's `fallback` says so.
//!
//! A connector is down while none of its smart hosts can be reached. One that routes by DNS never is: that a domain's hosts
//! cannot be reached says nothing about other domains.
//!
//! Pure: the table is built from connectors, answers come from the table and the arguments alone. One hash look-up per
//! label of the domain, so that 100,000 address spaces cost what ten do.

pub mod access;
pub mod asked;
pub mod callout;
pub mod mx;
pub mod next_hop;
pub mod probe;
mod remote_domains;
pub mod security;

pub use remote_domains::RemoteDomains;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::model::host::domain_key;
use crate::model::name::Name;
use crate::model::pattern::AddressPattern;
use crate::model::queue_name::QueueName;
use crate::model::recipient_ref::SenderPattern;
use crate::model::schedule::Schedule;
use crate::model::spec::connector::{ConnectorSpec, Fallback, PriorityClass, RouteSpec};
use crate::model::time::Timestamp;
use crate::smtp::address::{Domain, Mailbox, ReversePath};

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
            // each domain is asked for by itself
            RouteSpec::SmartHosts(_) if !self.is_remote_triggered() => QueueName::SmartHost(self.name.clone()),
            _ => QueueName::Dns(self.name.clone(), canonical(domain)),
        }
    }

    /// Whether its mail waits until somebody asks for it.
    pub fn is_remote_triggered(&self) -> bool {
        self.spec.remote_triggered.is_some()
    }

    /// Whether this account may ask for the mail that waits for it.
    pub fn is_fetched_by(&self, account: &Name) -> bool {
        self.spec.remote_triggered.as_ref().is_some_and(|remote| remote.accounts.contains(account))
    }

    /// Whether one of its address spaces covers the domain; with `below`, or a domain below it.
    pub fn covers(&self, domain: &Domain, below: bool) -> bool {
        let all_below = AddressPattern::Below(domain.clone());
        self.spec.address_spaces.iter().any(|space| match &space.pattern {
            AddressPattern::Exact(own) | AddressPattern::Below(own) if below && all_below.matches(own) => true,
            AddressPattern::Below(own) if below && domain_key(own) == domain_key(domain) => true,
            pattern => pattern.matches(domain),
        })
    }

    /// What of its restrictions keeps the message away; `None`: nothing.
    ///
    /// # Errors
    /// When it cannot be told now who the sender is.
    pub fn excludes(&self, request: &RouteRequest<'_>) -> Result<Option<Exclusion>, CannotTell> {
        let restrictions = &self.spec.restrictions;
        if restrictions.max_size.is_some_and(|max| request.size > max.bytes()) {
            return Ok(Some(Exclusion::Size));
        }
        let class = PriorityClass::of(request.priority);
        if restrictions.priorities.as_ref().is_some_and(|classes| !classes.contains(&class)) {
            return Ok(Some(Exclusion::Priority));
        }
        let sender = match request.sender {
            ReversePath::Null => return Ok((!restrictions.system).then_some(Exclusion::System)),
            ReversePath::Mailbox(_) if !restrictions.non_system => return Ok(Some(Exclusion::NonSystem)),
            ReversePath::Mailbox(sender) => sender,
        };
        let among = |patterns: &[SenderPattern]| match patterns {
            [] => Ok(false),
            patterns => request.senders.is_among(patterns, sender),
        };
        let refused = among(&restrictions.reject_from)?
            || !restrictions.accept_from.is_empty() && !among(&restrictions.accept_from)?;
        Ok(refused.then_some(Exclusion::Sender))
    }

    /// When it carries a message of this size; `None`: at all times.
    pub fn schedule_for(&self, size: u64) -> Option<&Schedule> {
        match &self.spec.oversize {
            Some(oversize) if size > oversize.larger_than.bytes() => Some(&oversize.schedule),
            _ => self.spec.schedule.as_ref(),
        }
    }

    /// When it carries a message of this size next: now, when it does now.
    pub fn opens_for(&self, size: u64, now: Timestamp) -> Timestamp {
        // one that never opens does not exist: that was a violation
        self.schedule_for(size).map_or(now, |schedule| schedule.opens(now).unwrap_or(Timestamp::from_millis(i64::MAX)))
    }

    /// When it carries anything at all next: now, when it does now.
    pub fn opens(&self, now: Timestamp) -> Timestamp {
        let large = self.spec.oversize.as_ref().and_then(|oversize| oversize.schedule.opens(now));
        large.into_iter().fold(self.opens_for(0, now), Timestamp::min)
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
#[derive(Clone, Copy)]
pub struct RouteRequest<'a> {
    /// The domain of the recipient.
    pub domain: &'a Domain,
    /// The reverse-path; the null one makes it a system message.
    pub sender: &'a ReversePath,
    /// Octets of content.
    pub size: u64,
    /// Its priority (RFC 6710).
    pub priority: i8,
    /// Says who a sender is.
    pub senders: &'a dyn Senders,
    /// The connectors that are down.
    pub down: &'a BTreeSet<Name>,
}

/// Says who a sender is: the directory, which this module does not know.
pub trait Senders: Sync {
    /// Whether the sender is one of these.
    ///
    /// # Errors
    /// When it cannot be told now.
    fn is_among(&self, patterns: &[SenderPattern], sender: &Mailbox) -> Result<bool, CannotTell>;
}

/// It cannot be told now; later it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be told now")]
pub struct CannotTell;

/// What keeps a message away from a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    /// `restrictions.maxSize`
    Size,
    /// `restrictions.priorities`
    Priority,
    /// `restrictions.system` is false, and the message has the null reverse-path.
    System,
    /// `restrictions.nonSystem` is false, and the message has a sender.
    NonSystem,
    /// `restrictions.acceptFrom` and `rejectFrom`
    Sender,
}

/// What the router thinks of a connector with an address space that covers the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It carries the message.
    Chosen,
    /// It counts as absent.
    Excluded(Exclusion),
    /// It is not known now whether it counts as absent.
    Unclear,
    /// None of its smart hosts can be reached, and another way is open.
    Down,
    /// Another one costs less.
    Costlier,
    /// Another one of the same cost carries this message; they share the load.
    Shares,
    /// Another one has a more specific address space.
    LessSpecific,
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
    /// Connectors whose mail has another way.
    others: HashSet<Name>,
}

/// A connector that was looked at for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    /// Its name.
    pub connector: Name,
    /// The address space that covers the domain.
    pub pattern: AddressPattern,
    /// What that costs.
    pub cost: u8,
    /// What was thought of it.
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    cost: u8,
    pattern: AddressPattern,
    connector: Arc<Connector>,
}

impl Entry {
    fn carries(&self, domain: &Domain) -> Route {
        Route::Connector { queue: self.connector.queue(domain), connector: self.connector.clone() }
    }
}

/// One of those of this cost.
fn pick<'a>(entries: &[&'a Entry], cost: u8, fits: impl Fn(&Entry) -> bool, spread: u64) -> &'a Entry {
    let equal: Vec<&'a Entry> = entries.iter().copied().filter(|entry| entry.cost == cost && fits(entry)).collect();
    let index = scramble(spread) % equal.len().max(1) as u64;
    equal[usize::try_from(index).unwrap_or_default()]
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
                let entry = Entry { cost: space.cost, pattern: space.pattern.clone(), connector: connector.clone() };
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
            let falls = |entry: &&Entry| entry.connector.spec.fallback == Fallback::LessSpecific;
            let alone = entries.len() == 1;
            let with_another_way = entries.iter().filter(|entry| !alone || falls(entry));
            table.others.extend(with_another_way.map(|entry| entry.connector.name.clone()));
        }
        table
    }

    /// The connector for a message. `spread` picks among equal ones: give every message another number, and one message
    /// always the same.
    pub fn route(&self, request: RouteRequest<'_>, spread: u64) -> Route {
        self.decide(request, spread, |_, _| {})
    }

    /// The same, and what was thought of every connector that has an address space for the domain, in the order in which
    /// they were looked at, each with that address space and its cost.
    pub fn explain(&self, request: RouteRequest<'_>, spread: u64) -> (Route, Vec<Considered>) {
        let mut considered = Vec::new();
        let note = |entry: &Entry, verdict| {
            let Entry { cost, pattern, connector } = entry.clone();
            considered.push(Considered { connector: connector.name.clone(), pattern, cost, verdict });
        };
        (self.decide(request, spread, note), considered)
    }

    fn decide(&self, request: RouteRequest<'_>, spread: u64, mut note: impl FnMut(&Entry, Verdict)) -> Route {
        let key = domain_key(request.domain);
        let mut levels = self.levels(request.domain, &key);
        // where it waits if nothing on the way down is open
        let mut waits_for: Option<&Entry> = None;
        for entries in levels.by_ref() {
            let mut carrying = Vec::new();
            for entry in entries {
                match entry.connector.excludes(&request) {
                    Ok(None) => carrying.push(entry),
                    Ok(Some(exclusion)) => note(entry, Verdict::Excluded(exclusion)),
                    Err(CannotTell) => {
                        note(entry, Verdict::Unclear);
                        return Route::TryLater;
                    }
                }
            }
            let Some(first) = carrying.first().copied() else { continue };
            let is_up = |entry: &&Entry| !request.down.contains(&entry.connector.name);
            let cost = match carrying.iter().copied().find(is_up) {
                Some(open) => open.cost,
                None if first.connector.spec.fallback == Fallback::LessSpecific => {
                    carrying.iter().for_each(|entry| note(entry, Verdict::Down));
                    waits_for = waits_for.or_else(|| Some(pick(&carrying, first.cost, |_| true, spread)));
                    continue;
                }
                None => match waits_for {
                    Some(_) => {
                        carrying.iter().for_each(|entry| note(entry, Verdict::Down));
                        break;
                    }
                    None => first.cost,
                },
            };
            let any_up = carrying.iter().any(is_up);
            let chosen = pick(&carrying, cost, |entry| !any_up || is_up(&entry), spread);
            for entry in carrying {
                note(
                    entry,
                    match () {
                        () if std::ptr::eq(entry, chosen) => Verdict::Chosen,
                        () if any_up && !is_up(&entry) => Verdict::Down,
                        () if entry.cost > cost => Verdict::Costlier,
                        () => Verdict::Shares,
                    },
                );
            }
            levels.flatten().for_each(|entry| note(entry, Verdict::LessSpecific));
            return chosen.carries(request.domain);
        }
        let Some(waits_for) = waits_for else { return Route::NoRoute };
        note(waits_for, Verdict::Chosen);
        waits_for.carries(request.domain)
    }

    /// Whether mail that waits for this connector has another way while it is down: to another connector with one of its
    /// address spaces, or downwards.
    pub fn has_another_way(&self, connector: &Name) -> bool {
        self.others.contains(connector)
    }

    /// Whether a connector opens relaying to the domain for every client of the virtual server (`allowRelay`): one of those
    /// with the most specific address space for it.
    pub fn allows_relay(&self, domain: &Domain, virtual_server: &Name) -> bool {
        let key = domain_key(domain);
        let mut levels = self.levels(domain, &key);
        levels.next().is_some_and(|entries| entries.iter().any(|entry| entry.connector.opens_relay_for(virtual_server)))
    }

    /// Whether mail for the domain waits until it is asked for: that of all connectors with the most specific address space for
    /// it.
    pub fn is_remote_triggered(&self, domain: &Domain) -> bool {
        let key = domain_key(domain);
        let mut levels = self.levels(domain, &key);
        levels.next().is_some_and(|entries| entries.iter().all(|entry| entry.connector.is_remote_triggered()))
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
