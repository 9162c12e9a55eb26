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
use self::fold::{Event, Fold};
use super::Queue;
use super::history::{EventFilter, value};
use super::operate::{ActionError, AddressFilter, MessageFilter};
use super::operations::matches;
use crate::model::event_kind::EventKind;
use crate::model::mail::{Message, MessageId};
use crate::model::time::Timestamp;
use crate::store::StoreError;
use crate::store::history::{EventView, Key, Position, Seek, Wanted};

/// Messages that an answer has at most, with those that belong to them.
const MAX_MESSAGES: usize = 50;
/// Octets that looking for the messages may read, and that looking for refusals may.
const OCTETS: u64 = 64 << 20;
/// Events of one message that are read at once.
const PAGE: usize = 1_000;
/// Events of one message that are read at most.
const MAX_EVENTS: usize = 50_000;
/// Messages that one names as belonging to it, of which no more are followed.
const MAX_RELATED: usize = 1_000;
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
    /// At most so many messages, and as many refusals, the latest first.
    pub limit: usize,
}

/// What is told of a message.
struct Told {
    message: MessageWhereabouts,
    /// Those that belong to it.
    related: Vec<(MessageId, Relation)>,
    /// All of its events were read, and all recipients that are asked for are told.
    is_all: bool,
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
                let Some(found) = self.whereabouts_of(id, relation, only).await? else { continue };
                let Told { message, related, is_all } = found;
                answer.items.push(message);
                complete &= is_all;
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
        let named = match &inquiry.message_id {
            Some(message_id) => Some(self.with_message_id(message_id, 100).await?),
            None => None,
        };
        // each kind has its limit: many refusals do not keep mail out of the answer, nor the other way round
        let mut seen = HashSet::new();
        let is_new = move |event: &EventView| !is_rejected(event) && event.message.is_some_and(|id| seen.insert(id));
        let (messages, all_messages) = self.latest(inquiry, named.as_deref(), None, is_new).await?;
        let refusal = Some(EventKind::Rejected);
        let (refusals, all_refusals) = self.latest(inquiry, named.as_deref(), refusal, |_| true).await?;
        let mut ids: Vec<MessageId> = messages.iter().filter_map(|(_, event)| EventView::of(event)?.message).collect();
        if let Some(id) = inquiry.message
            && ids.is_empty()
            && let Some(queued) = self.store.message(id).await?
            && self.is_meant_in_queue(inquiry, &queued)
        {
            // its events are lost, it is not
            ids.push(id);
        }
        let rejected = refusals.iter().filter_map(|(position, event)| value(*position, event)).collect();
        Ok((ids, rejected, all_messages && all_refusals))
    }

    /// The latest events that an inquiry means and that are wanted, of one kind or of any, up to its limit; and whether that is all.
    async fn latest(
        &self,
        inquiry: &Inquiry,
        named: Option<&[MessageId]>,
        kind: Option<EventKind>,
        mut is_wanted: impl FnMut(&EventView) -> bool + Send + 'static,
    ) -> Result<(Vec<(Position, Vec<u8>)>, bool), StoreError> {
        if named.is_some_and(<[MessageId]>::is_empty) {
            return Ok((Vec::new(), true));
        }
        let filter = EventFilter {
            message: inquiry.message,
            sender: inquiry.sender.clone(),
            recipient: inquiry.recipient.clone(),
            events: kind.into_iter().collect(),
            ..EventFilter::default()
        };
        let mut keys = filter.keys();
        keys.extend(named.map(|ids| ids.iter().copied().map(Key::message).collect()));
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
        let named = named.map(<[MessageId]>::to_vec);
        let wanted: Wanted = Box::new(move |event, _| {
            let is_named = named.as_ref().is_none_or(|ids| event.message.is_some_and(|id| ids.contains(&id)));
            is_named && filter.matches(event) && is_wanted(event)
        });
        let mut found = self.store.search_events(seek, wanted).await?;
        let is_all = found.next.is_none() && found.events.len() <= inquiry.limit;
        found.events.truncate(inquiry.limit);
        Ok((found.events, is_all))
    }

    /// Whether all that is given holds for a message in the queue.
    fn is_meant_in_queue(&self, inquiry: &Inquiry, message: &Message) -> bool {
        let filter = MessageFilter {
            message_id: inquiry.message_id.clone(),
            sender: inquiry.sender.clone(),
            recipient: inquiry.recipient.clone(),
            since: inquiry.since,
            until: inquiry.until,
            ..MessageFilter::default()
        };
        matches(&filter, message, &self.live.current(), self.now())
    }

    /// One message, and those that belong to it. `None` when nothing is known of it.
    async fn whereabouts_of(
        &self,
        id: MessageId,
        relation: Option<Relation>,
        only: Option<&AddressFilter>,
    ) -> Result<Option<Told>, StoreError> {
        // the queue first: what leaves it now is in the events
        let queued = self.store.message(id).await?;
        let mut related = Vec::new();
        let mut message = MessageWhereabouts {
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
        let mut fold = Fold::new(only.cloned());
        let (mut read, mut next) = (0, None);
        loop {
            let page = self.store.events(id, next, PAGE).await?;
            read += page.events.len();
            for event in page.events.iter().filter_map(|(_, event)| serde_json::from_slice::<Event>(event).ok()) {
                fold.take(&mut message, &event);
                related.extend(event.relation(id).filter(|_| related.len() < MAX_RELATED));
            }
            next = page.next;
            if next.is_none() || read >= MAX_EVENTS {
                break;
            }
        }
        if queued.is_none() && read == 0 {
            return Ok(None);
        }
        related.extend(self.naming(id).await?);
        if let Some(queued) = queued {
            let waits = self.waits_of(&queued);
            fold.overlay(&mut message, &queued, waits);
        }
        let is_all = fold.finish(&mut message) && next.is_none();
        Ok(Some(Told { message, related, is_all }))
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
        // one with many recipients names it in several events
        let mut seen = HashSet::new();
        let wanted: Wanted = Box::new(move |event, _| event.related == Some(id) && seen.insert(event.message));
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
