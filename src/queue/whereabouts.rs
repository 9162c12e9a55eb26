//! *Where is my mail?* One question, answered per message and recipient, in words and in data.
//!
//! The queue says what waits now, message tracking what has happened; both are asked, the queue first, so that what leaves it
//! meanwhile is found in tracking. What belongs together is followed, a bounded way: an expansion to those who got the mail, a
//! failure to its notification, and back.

mod answer;
mod fold;
mod waiting;

use std::collections::{HashSet, VecDeque};

use serde_json::Value;

pub use self::answer::{MessageWhereabouts, RecipientWhereabouts, Relation, RelationKind, WhereState, Whereabouts};
use self::fold::{Fold, Told};
use super::Queue;
use super::history::{EventFilter, value};
use super::operate::{ActionError, AddressFilter};
use crate::model::event_kind::EventKind;
use crate::model::mail::MessageId;
use crate::model::time::Timestamp;
use crate::store::StoreError;
use crate::store::history::{EventView, Key, Seek, Wanted};

/// Messages that an answer has at most, with those that belong to them.
const MAX_MESSAGES: usize = 50;
/// Octets that looking for the messages may read.
const OCTETS: u64 = 64 << 20;
/// Octets that looking for what belongs to one may read.
const RELATED_OCTETS: u64 = 8 << 20;

/// Whose mail is looked for: something must be given besides the times.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inquiry {
    /// The message.
    pub message: Option<MessageId>,
    /// Its Message-ID, without angle brackets.
    pub message_id: Option<String>,
    /// Its sender.
    pub sender: Option<AddressFilter>,
    /// A recipient; then only such recipients are told of.
    pub recipient: Option<AddressFilter>,
    /// Something happened to it at or after.
    pub since: Option<Timestamp>,
    /// Something happened to it before.
    pub until: Option<Timestamp>,
    /// At most so many messages and refusals, the latest first.
    pub limit: usize,
}

impl Queue {
    /// Answers an inquiry.
    pub(super) async fn inquire(&self, inquiry: &Inquiry) -> Result<Whereabouts, ActionError> {
        let (found, rejected, mut complete) = self.messages_meant(inquiry).await?;
        let mut answer = Whereabouts { rejected, ..Whereabouts::default() };
        let mut seen: HashSet<MessageId> = found.iter().copied().collect();
        for id in found {
            let mut next = VecDeque::from([(id, None)]);
            while let Some((id, relation)) = next.pop_front() {
                if answer.items.len() >= MAX_MESSAGES {
                    complete = false;
                    break;
                }
                // a notification concerns all recipients, and an expansion other ones
                let only = inquiry.recipient.as_ref().filter(|_| relation.is_none());
                let Some((message, related)) = self.whereabouts_of(id, relation, only).await? else { continue };
                answer.items.push(message);
                for (id, relation) in related {
                    if seen.insert(id) {
                        next.push_back((id, Some(relation)));
                    }
                }
            }
        }
        answer.complete = complete;
        Ok(answer)
    }

    /// The messages that are asked for, refused transactions, and whether that is all.
    async fn messages_meant(&self, inquiry: &Inquiry) -> Result<(Vec<MessageId>, Vec<Value>, bool), StoreError> {
        if let Some(id) = inquiry.message {
            let there = self.store.message(id).await?.is_some() || !self.store.events(id).await?.is_empty();
            return Ok((there.then_some(id).into_iter().collect(), Vec::new(), true));
        }
        let named = match &inquiry.message_id {
            Some(message_id) => Some(self.with_message_id(message_id, 100).await?),
            None => None,
        };
        if named.as_ref().is_some_and(Vec::is_empty) {
            return Ok((Vec::new(), Vec::new(), true));
        }
        let filter = EventFilter {
            sender: inquiry.sender.clone(),
            recipient: inquiry.recipient.clone(),
            ..EventFilter::default()
        };
        let mut keys = filter.keys();
        keys.extend(named.as_ref().map(|ids| ids.iter().copied().map(Key::message).collect()));
        let seek = Seek {
            keys,
            since: inquiry.since,
            until: inquiry.until,
            newest_first: true,
            // one more tells that there are more
            limit: inquiry.limit + 1,
            octets: OCTETS,
            ..Seek::default()
        };
        let mut seen = HashSet::new();
        let wanted: Wanted = Box::new(move |event, _| {
            let is_named = named.as_ref().is_none_or(|ids| event.message.is_some_and(|id| ids.contains(&id)));
            let is_meant = is_named && filter.matches(event);
            is_meant && (is_rejected(event) || event.message.is_some_and(|id| seen.insert(id)))
        });
        let mut found = self.store.search_events(seek, wanted).await?;
        let complete = found.next.is_none() && found.events.len() <= inquiry.limit;
        found.events.truncate(inquiry.limit);
        let (mut ids, mut rejected) = (Vec::new(), Vec::new());
        for (position, event) in &found.events {
            match EventView::of(event) {
                Some(view) if is_rejected(&view) => rejected.extend(value(*position, event)),
                Some(view) => ids.extend(view.message),
                None => {}
            }
        }
        Ok((ids, rejected, complete))
    }

    /// One message, and those that belong to it. `None` when nothing is known of it.
    async fn whereabouts_of(
        &self,
        id: MessageId,
        relation: Option<Relation>,
        only: Option<&AddressFilter>,
    ) -> Result<Option<(MessageWhereabouts, Vec<(MessageId, Relation)>)>, StoreError> {
        // the queue first: what leaves it now is in the events
        let queued = self.store.message(id).await?;
        let events = self.store.events(id).await?;
        if queued.is_none() && events.is_empty() {
            return Ok(None);
        }
        let mut related = Vec::new();
        let mut whereabouts = MessageWhereabouts {
            message: id,
            relation,
            message_id: None,
            subject: None,
            sender: None,
            received_at: None,
            virtual_server: None,
            client: None,
            size: None,
            in_queue: queued.is_some(),
            recipients: Vec::new(),
            notifications: Vec::new(),
        };
        let mut fold = Fold::default();
        for event in events.iter().filter_map(|event| serde_json::from_slice::<Told>(event).ok()) {
            fold.take(&mut whereabouts, &event);
            let kind = match event.event {
                Some(EventKind::Received) => RelationKind::SourceOf,
                Some(EventKind::Expanded) => RelationKind::ExpansionOf,
                Some(EventKind::Dsn) => RelationKind::NotificationOf,
                _ => continue,
            };
            related.extend(event.related.map(|other| (other, Relation { kind, of: id })));
        }
        related.extend(self.naming(id).await?);
        if let Some(message) = queued {
            let waits = self.waits_of(&message);
            fold.overlay(&mut whereabouts, &message, waits);
        }
        fold.finish(&mut whereabouts, only);
        Ok(Some((whereabouts, related)))
    }

    /// Messages whose events name this one as the other side.
    async fn naming(&self, id: MessageId) -> Result<Vec<(MessageId, Relation)>, StoreError> {
        let seek = Seek {
            keys: vec![vec![Key::related(id)]],
            newest_first: true,
            limit: MAX_MESSAGES,
            octets: RELATED_OCTETS,
            ..Seek::default()
        };
        let wanted: Wanted = Box::new(move |event, _| event.related == Some(id));
        let found = self.store.search_events(seek, wanted).await?;
        let relation = |event: &[u8]| {
            let event = EventView::of(event)?;
            let kind = match event.event.as_str() {
                "received" => RelationKind::ExpansionOf,
                "expanded" => RelationKind::SourceOf,
                "dsn" => RelationKind::SubjectOf,
                _ => return None,
            };
            Some((event.message?, Relation { kind, of: id }))
        };
        Ok(found.events.iter().filter_map(|(_, event)| relation(event)).collect())
    }
}

fn is_rejected(event: &EventView) -> bool {
    event.event == EventKind::Rejected.word()
}
