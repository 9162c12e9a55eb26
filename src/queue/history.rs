//! Asking message tracking: events by what they name, counts of them, and a stream of them as they come.
//!
//! Every question is bounded: one call reads at most [`PAGE_OCTETS`] ([`SUMMARY_OCTETS`] to count), and then says where to go on.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use utoipa::ToSchema;

use super::Queue;
use super::operate::{ActionError, AddressFilter};
use super::whereabouts::{Inquiry, Whereabouts};
use crate::model::event_kind::EventKind;
use crate::model::host::{domain_key, is_below, mailbox_key, spellings};
use crate::model::mail::MessageId;
use crate::model::name::Name;
use crate::model::time::Timestamp;
use crate::smtp::address::{Domain, Mailbox};
use crate::store::StoreError;
use crate::store::history::{Chunk, EventView, Found, Key, Position, Seek, Wanted, domain_of};

/// Octets that one page may read.
const PAGE_OCTETS: u64 = 32 << 20;
/// Octets that one summary may read.
const SUMMARY_OCTETS: u64 = 128 << 20;
/// Groups of a summary.
pub const MAX_GROUPS: usize = 1_000;
/// Messages with one Message-ID that are looked for.
const MAX_SAME_ID: usize = 100;

/// Looks into the history of mail.
#[async_trait]
pub trait History: Send + Sync {
    /// Events that match. `after`: where the page before ended.
    async fn find_events(
        &self,
        filter: &EventFilter,
        newest_first: bool,
        after: Option<Position>,
        limit: usize,
    ) -> Result<EventPage, ActionError>;

    /// How many events match, by group, oldest first from `after` on.
    async fn count_events(
        &self,
        filter: &EventFilter,
        group_by: GroupBy,
        after: Option<Position>,
    ) -> Result<Counts, ActionError>;

    /// Where mail is: per message and recipient, in words and in data.
    async fn whereabouts(&self, inquiry: &Inquiry) -> Result<Whereabouts, ActionError>;

    /// The events from a position on, of about so many octets.
    async fn read_events(&self, from: Position, octets: usize) -> Result<Chunk, ActionError>;

    /// Where the next event will stand, and word of every change.
    fn tail(&self) -> watch::Receiver<Position>;
}

/// Which events: all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Of this message.
    pub message: Option<MessageId>,
    /// Of messages with this Message-ID, without angle brackets.
    pub message_id: Option<String>,
    /// With this reverse-path.
    pub sender: Option<AddressFilter>,
    /// That name this recipient.
    pub recipient: Option<AddressFilter>,
    /// With this text in the subject, in any case.
    pub subject: Option<String>,
    /// One of these; empty: any.
    pub events: Vec<EventKind>,
    /// Of this connector.
    pub connector: Option<Name>,
    /// Of mail that this virtual server took.
    pub virtual_server: Option<Name>,
    /// Of mail that this account handed in; only `received` and `rejected` say it.
    pub account: Option<Name>,
    /// Of mail that was submitted by this API key; only `received` says it.
    pub api_key: Option<String>,
    /// At or after.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

impl EventFilter {
    /// What an index finds such events by.
    pub fn keys(&self) -> Vec<Vec<Key>> {
        let sender = self.sender.as_ref().and_then(|filter| address_keys(filter, Key::sender, Key::sender_domain));
        let recipient =
            self.recipient.as_ref().and_then(|filter| address_keys(filter, Key::recipient, Key::recipient_domain));
        let one = |key: Option<Key>| key.map(|key| vec![key]);
        let mut keys: Vec<Vec<Key>> = [
            one(self.message.map(Key::message)),
            sender,
            recipient,
            one(self.connector.as_ref().map(|name| Key::connector(name.as_str()))),
            one(self.virtual_server.as_ref().map(|name| Key::virtual_server(name.as_str()))),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !self.events.is_empty() {
            keys.push(self.events.iter().map(|kind| Key::event(kind.word())).collect());
        }
        keys
    }

    /// Whether an event is meant, but for `message_id` and the times.
    pub fn matches(&self, event: &EventView) -> bool {
        self.message.is_none_or(|id| event.message == Some(id))
            && (self.events.is_empty() || self.events.iter().any(|kind| kind.word() == event.event))
            && self.sender.as_ref().is_none_or(|wanted| event.sender.as_deref().is_some_and(|it| is(wanted, it)))
            && self.recipient.as_ref().is_none_or(|wanted| event.recipients.iter().any(|it| is(wanted, it)))
            && self.connector.as_ref().is_none_or(|name| event.connector.as_deref() == Some(name.as_str()))
            && self.virtual_server.as_ref().is_none_or(|name| event.virtual_server.as_deref() == Some(name.as_str()))
            && self.account.as_ref().is_none_or(|name| event.account.as_deref() == Some(name.as_str()))
            && self.api_key.as_ref().is_none_or(|name| event.api_key.as_ref() == Some(name))
            && self.subject.as_ref().is_none_or(|wanted| {
                event.subject.as_ref().is_some_and(|subject| subject.to_lowercase().contains(&wanted.to_lowercase()))
            })
    }
}

/// The keys of which an event that a condition means has one: events have a domain as it was spelt. `None`: no index has it.
fn address_keys(filter: &AddressFilter, address: fn(&str) -> Key, domain: fn(&str) -> Key) -> Option<Vec<Key>> {
    match filter {
        AddressFilter::Null => Some(vec![address("<>")]),
        AddressFilter::Address(mailbox) => {
            let spelt = |domain| Mailbox::new(mailbox.local(), domain).ok();
            let spellings = spellings(mailbox.domain()).into_iter().filter_map(spelt);
            Some(spellings.map(|mailbox| address(&mailbox.to_string())).collect())
        }
        AddressFilter::Domain(wanted) => {
            Some(spellings(wanted).into_iter().map(|spelt| domain(&spelt.to_string())).collect())
        }
        AddressFilter::Below(_) => None,
    }
}

/// Whether an address, as events have it, is meant.
pub(super) fn is(wanted: &AddressFilter, address: &str) -> bool {
    let domain = |address| domain_of(address)?.parse::<Domain>().ok();
    match wanted {
        AddressFilter::Null => address == "<>",
        // what is quoted, or spelt with U-labels, has to be read
        AddressFilter::Address(mailbox) => match address.is_ascii() && !address.starts_with('"') {
            true => address.to_ascii_lowercase() == mailbox_key(mailbox),
            false => address.parse().is_ok_and(|other| mailbox_key(&other) == mailbox_key(mailbox)),
        },
        AddressFilter::Domain(wanted) => domain(address).is_some_and(|other| domain_key(&other) == domain_key(wanted)),
        AddressFilter::Below(parent) => domain(address).is_some_and(|other| is_below(&other, parent)),
    }
}

/// A page of events.
#[derive(Debug, Clone, Default)]
pub struct EventPage {
    /// The events; those of a search each with its `id`.
    pub items: Vec<Value>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Position>,
    /// Events that were looked at.
    pub scanned: u64,
}

/// What events are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum GroupBy {
    /// What happened.
    Event,
    /// The connector.
    Connector,
    /// The virtual server.
    VirtualServer,
    /// The domain of the sender.
    SenderDomain,
    /// The domain of each recipient.
    RecipientDomain,
    /// The hour, as the time at which it begins.
    Hour,
}

impl GroupBy {
    /// All of them, with their words.
    pub const ALL: [(&'static str, GroupBy); 6] = [
        ("event", GroupBy::Event),
        ("connector", GroupBy::Connector),
        ("virtualServer", GroupBy::VirtualServer),
        ("senderDomain", GroupBy::SenderDomain),
        ("recipientDomain", GroupBy::RecipientDomain),
        ("hour", GroupBy::Hour),
    ];

    fn groups_of(self, event: &EventView) -> Vec<String> {
        const HOUR: i64 = 3_600_000;
        let domain = |address: &String| domain_of(address).map(str::to_lowercase);
        match self {
            GroupBy::Event => vec![event.event.clone()],
            GroupBy::Connector => event.connector.iter().cloned().collect(),
            GroupBy::VirtualServer => event.virtual_server.iter().cloned().collect(),
            GroupBy::SenderDomain => event.sender.as_ref().and_then(domain).into_iter().collect(),
            GroupBy::RecipientDomain => event.recipients.iter().filter_map(domain).collect(),
            GroupBy::Hour => {
                let hour = |at: Timestamp| Timestamp::from_millis(at.millis().div_euclid(HOUR) * HOUR).to_string();
                event.at.map(hour).into_iter().collect()
            }
        }
    }
}

/// How many events there are of each group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// The groups.
    pub groups: BTreeMap<String, u64>,
    /// Events of groups beyond the first [`MAX_GROUPS`].
    pub other: u64,
    /// Events that have nothing to be grouped by.
    pub without: u64,
    /// Where to go on counting; `None` when all were counted.
    pub next: Option<Position>,
    /// Events that were looked at.
    pub scanned: u64,
}

impl Counts {
    fn add(&mut self, groups: Vec<String>) {
        if groups.is_empty() {
            self.without += 1;
        }
        for group in groups {
            let room = self.groups.len() < MAX_GROUPS;
            match self.groups.get_mut(&group) {
                Some(count) => *count += 1,
                None if room => drop(self.groups.insert(group, 1)),
                None => self.other += 1,
            }
        }
    }
}

/// An event as it is told: with its id in front.
pub fn with_id(position: Position, event: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.len() + 32);
    out.extend_from_slice(format!("{{\"id\":\"{position}\",").as_bytes());
    out.extend_from_slice(event.strip_prefix(b"{").unwrap_or(event));
    out
}

pub(super) fn value(position: Position, event: &[u8]) -> Option<Value> {
    serde_json::from_slice(&with_id(position, event)).ok()
}

#[async_trait]
impl History for Queue {
    async fn find_events(
        &self,
        filter: &EventFilter,
        newest_first: bool,
        after: Option<Position>,
        limit: usize,
    ) -> Result<EventPage, ActionError> {
        let Some((keys, meant)) = self.events_meant(filter).await? else { return Ok(EventPage::default()) };
        let seek = Seek { newest_first, after, limit, ..seek(filter, keys, PAGE_OCTETS) };
        let Found { events, next, scanned } = self.store.search_events(seek, meant).await?;
        let items = events.iter().filter_map(|(position, event)| value(*position, event)).collect();
        Ok(EventPage { items, next, scanned })
    }

    async fn count_events(
        &self,
        filter: &EventFilter,
        group_by: GroupBy,
        after: Option<Position>,
    ) -> Result<Counts, ActionError> {
        let Some((keys, mut meant)) = self.events_meant(filter).await? else { return Ok(Counts::default()) };
        let counts = Arc::new(Mutex::new(Counts::default()));
        let counting = counts.clone();
        let counted: Wanted = Box::new(move |event, raw| {
            if meant(event, raw) {
                counting.lock().unwrap_or_else(PoisonError::into_inner).add(group_by.groups_of(event));
            }
            false
        });
        let seek = Seek { after, limit: usize::MAX, ..seek(filter, keys, SUMMARY_OCTETS) };
        let Found { next, scanned, .. } = self.store.search_events(seek, counted).await?;
        let counts = std::mem::take(&mut *counts.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Counts { next, scanned, ..counts })
    }

    async fn whereabouts(&self, inquiry: &Inquiry) -> Result<Whereabouts, ActionError> {
        self.inquire(inquiry).await
    }

    async fn read_events(&self, from: Position, octets: usize) -> Result<Chunk, ActionError> {
        Ok(self.store.read_events(from, octets).await?)
    }

    fn tail(&self) -> watch::Receiver<Position> {
        self.store.tail()
    }
}

fn seek(filter: &EventFilter, keys: Vec<Vec<Key>>, octets: u64) -> Seek {
    Seek { keys, since: filter.since, until: filter.until, octets, ..Seek::default() }
}

impl Queue {
    /// Keys and a test for a filter; `None` when nothing can match. Only `received` has the Message-ID, so the messages are
    /// found first, and then their events.
    async fn events_meant(&self, filter: &EventFilter) -> Result<Option<(Vec<Vec<Key>>, Wanted)>, StoreError> {
        let mut keys = filter.keys();
        let filter = filter.clone();
        let Some(message_id) = &filter.message_id else {
            let meant: Wanted = Box::new(move |event, _| filter.matches(event));
            return Ok(Some((keys, meant)));
        };
        let ids = self.with_message_id(message_id, MAX_SAME_ID).await?;
        if ids.is_empty() {
            return Ok(None);
        }
        keys.push(ids.iter().copied().map(Key::message).collect());
        let of_these = move |event: &EventView| event.message.is_some_and(|id| ids.contains(&id));
        let meant: Wanted = Box::new(move |event, _| of_these(event) && filter.matches(event));
        Ok(Some((keys, meant)))
    }

    /// The latest messages with this Message-ID.
    pub(super) async fn with_message_id(&self, message_id: &str, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        let wanted = message_id.to_owned();
        let received = EventKind::Received.word();
        let seek = Seek {
            keys: vec![vec![Key::message_id(message_id)]],
            newest_first: true,
            limit,
            octets: PAGE_OCTETS,
            ..Seek::default()
        };
        // one with many recipients has several events
        let mut seen = HashSet::new();
        let meant: Wanted = Box::new(move |event, _| {
            let is_meant = event.event == received && event.message_id.as_deref() == Some(wanted.as_str());
            is_meant && event.message.is_some_and(|id| seen.insert(id))
        });
        let found = self.store.search_events(seek, meant).await?;
        Ok(found.events.iter().filter_map(|(_, event)| EventView::of(event)?.message).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_and_its_keys_say_the_same() {
        let event = br#"{"message":"019c3a51-7b3e-7d11-9c7e-2f60b1a4d5e6","at":"2026-11-24T10:15:02.480Z","event":"relayed","recipients":["Ada@Example.com"],"sender":"orders@example.net","virtualServer":"default","connector":"hub","subject":"Your Order"}"#;
        let view = EventView::of(event).unwrap();
        let mut have = Vec::new();
        view.keys(&mut have);
        let filter = |with: fn(&mut EventFilter)| {
            let mut filter = EventFilter::default();
            with(&mut filter);
            filter
        };
        for (filter, expected) in [
            (filter(|_| ()), true),
            (filter(|f| f.recipient = "ada@example.com".parse().ok()), true),
            (filter(|f| f.recipient = "*@EXAMPLE.com".parse().ok()), true),
            (filter(|f| f.recipient = "*@example.net".parse().ok()), false),
            (filter(|f| f.sender = "<>".parse().ok()), false),
            (filter(|f| f.sender = "Orders@example.net".parse().ok()), true),
            (filter(|f| f.events = vec![EventKind::Failed, EventKind::Relayed]), true),
            (filter(|f| f.events = vec![EventKind::Failed]), false),
            (filter(|f| f.connector = "hub".parse().ok()), true),
            (filter(|f| f.virtual_server = "other".parse().ok()), false),
        ] {
            assert_eq!(filter.matches(&view), expected, "{filter:?}");
            let found = filter.keys().iter().all(|one_of| one_of.iter().any(|key| have.contains(key)));
            assert_eq!(found, expected, "the index finds what the filter means: {filter:?}");
        }
        assert!(filter(|f| f.subject = Some("ORDER".to_owned())).matches(&view));
        let view = EventView { account: Some("app".to_owned()), api_key: Some("shop".to_owned()), ..view };
        assert!(filter(|f| f.account = "app".parse().ok()).matches(&view));
        assert!(!filter(|f| f.account = "other".parse().ok()).matches(&view));
        assert!(filter(|f| f.api_key = Some("shop".to_owned())).matches(&view));
        assert!(!filter(|f| f.api_key = Some("other".to_owned())).matches(&view));
    }

    #[test]
    fn a_domain_is_found_in_either_spelling_and_from_above() {
        for domain in ["bücher.example", "xn--bcher-kva.example", "BÜCHER.example"] {
            let event = format!("{{\"event\":\"relayed\",\"recipients\":[\"Ada@{domain}\"],\"sender\":\"<>\"}}");
            let view = EventView::of(event.as_bytes()).unwrap();
            let mut have = Vec::new();
            view.keys(&mut have);
            for (wanted, expected) in [
                ("*@bücher.example", true),
                ("*@xn--bcher-kva.example", true),
                ("ada@bücher.example", true),
                ("ada@XN--bcher-kva.example", true),
                ("bob@bücher.example", false),
                ("*@*.example", true),
                ("*@*.bücher.example", false),
            ] {
                let filter = EventFilter { recipient: wanted.parse().ok(), ..EventFilter::default() };
                assert!(filter.recipient.is_some(), "{wanted}");
                assert_eq!(filter.matches(&view), expected, "{wanted} in {domain}");
                let found = filter.keys().iter().all(|one_of| one_of.iter().any(|key| have.contains(key)));
                assert!(found || !expected, "the index finds what the filter means: {wanted} in {domain}");
            }
        }
    }

    #[test]
    fn groups_are_bounded() {
        let mut counts = Counts::default();
        for n in 0..2_000 {
            counts.add(vec![format!("d{n}.example")]);
        }
        counts.add(vec!["d1.example".to_owned()]);
        counts.add(Vec::new());
        assert_eq!((counts.groups.len(), counts.other, counts.without), (MAX_GROUPS, 1_000, 1));
        assert_eq!(counts.groups["d1.example"], 2);
    }

    #[test]
    fn an_id_goes_in_front() {
        let position = Position { file: 3, offset: 77 };
        assert_eq!(with_id(position, b"{\"event\":\"failed\"}"), b"{\"id\":\"3-77\",\"event\":\"failed\"}");
    }
}
