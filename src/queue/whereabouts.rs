//! *Where is my mail?* One question, answered per message and recipient, in words and in data.
//!
//! The queue says what waits now, message tracking what has happened; both are asked, the queue first, so that what leaves it
//! meanwhile is found in tracking. What belongs together is followed, a bounded way: an expansion to those who got the mail, a
//! failure to its notification, and back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Queue;
use super::history::{EventFilter, is, value};
use super::operate::{ActionError, AddressFilter};
use crate::model::event_kind::EventKind;
use crate::model::failure::Failure;
use crate::model::mail::{Message, MessageId, RecipientStatus};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::store::StoreError;
use crate::store::history::{EventView, Key, Seek, Wanted, folded};

/// Messages that an answer has at most, with those that belong to them.
const MAX_MESSAGES: usize = 50;
/// Recipients of a message that are told of.
const MAX_RECIPIENTS: usize = 1_000;
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

/// Where mail is.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Whereabouts {
    /// The messages that were found, the latest first, each followed by those that belong to it.
    pub items: Vec<MessageWhereabouts>,
    /// Attempts to hand in such mail that were refused, the latest first: the events `rejected`.
    #[schema(value_type = Vec<Object>)]
    pub rejected: Vec<Value>,
    /// False when there may be more: older ones, or more that belong to what was found. Narrow the question, or page through
    /// `GET /tracking`.
    pub complete: bool,
}

/// Where a message is.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageWhereabouts {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub message: MessageId,
    /// What it has to do with another one in this answer; absent for what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub relation: Option<Relation>,
    /// Its Message-ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub message_id: Option<String>,
    /// Its subject, where `settings.subjectLogging` keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub subject: Option<String>,
    /// Its sender; `<>` for a notification.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub sender: Option<String>,
    /// When it was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub received_at: Option<Timestamp>,
    /// By which virtual server.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub virtual_server: Option<String>,
    /// From which client.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub client: Option<IpAddr>,
    /// Its octets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub size: Option<u64>,
    /// Some of it waits here now.
    pub in_queue: bool,
    /// Each recipient, at most 1,000; of those that were asked for.
    pub recipients: Vec<RecipientWhereabouts>,
    /// Notifications that were sent about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    pub notifications: Vec<MessageId>,
}

/// What a message has to do with another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Relation {
    /// What.
    pub kind: RelationKind,
    /// With which message.
    #[schema(value_type = String, format = "uuid")]
    pub of: MessageId,
}

/// What a message has to do with another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum RelationKind {
    /// It goes to those for whom a recipient of the other one stood.
    ExpansionOf,
    /// It is the one of which the other one is an expansion.
    SourceOf,
    /// It is a notification about the other one.
    NotificationOf,
    /// It is what the other one, a notification, is about.
    SubjectOf,
}

/// Where a message is for one recipient.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecipientWhereabouts {
    /// The recipient.
    pub recipient: String,
    /// Where it is.
    pub state: WhereState,
    /// The same in words.
    pub words: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub at: Option<Timestamp>,
    /// The queue in which it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub queue: Option<String>,
    /// The connector that carries or carried it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub connector: Option<String>,
    /// Failed attempts so far.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    pub attempts: u32,
    /// When the next attempt is due; in the dead-letter queue, when its retention ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub next_attempt: Option<Timestamp>,
    /// The host that took or refused it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next_hop: Option<String>,
    /// What that host said when it took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reply: Option<String>,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub failure: Option<String>,
    /// The enhanced status code of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub status: Option<String>,
    /// The message in which it went on to others, when it was expanded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub expanded_into: Option<MessageId>,
}

/// Where a message is for a recipient. v1 may add words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum WhereState {
    /// It waits for an attempt.
    Queued,
    /// An attempt failed; another one will be made.
    Retrying,
    /// It waits until its connector's schedule opens, or it is asked for.
    Scheduled,
    /// An operator has stopped it.
    Frozen,
    /// An operator keeps such mail back.
    Held,
    /// Nothing more can be done, and it is kept for an operator to look at.
    DeadLetter,
    /// In a mailbox store here.
    Delivered,
    /// Taken by the next hop, which is responsible for it now.
    Relayed,
    /// It went on to those for whom the recipient stands.
    Expanded,
    /// It will not be delivered.
    Failed,
    /// It could not be delivered in time.
    Expired,
    /// An operator removed it, or its retention ended.
    Removed,
    /// It is not here any more, and what became of it is not known: the last moments before a crash are not tracked.
    Unknown,
}

impl WhereState {
    fn waits(self) -> bool {
        use WhereState::{DeadLetter, Frozen, Held, Queued, Retrying, Scheduled};
        matches!(self, Queued | Retrying | Scheduled | Frozen | Held | DeadLetter)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What is read of an event.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Told {
    at: Option<Timestamp>,
    event: Option<EventKind>,
    recipients: Vec<String>,
    sender: Option<String>,
    message_id: Option<String>,
    subject: Option<String>,
    size: Option<u64>,
    client: Option<IpAddr>,
    virtual_server: Option<String>,
    connector: Option<String>,
    queue: Option<String>,
    next_hop: Option<String>,
    reply: Option<String>,
    failure: Option<Failure>,
    attempts: Option<u32>,
    next_attempt: Option<Timestamp>,
    related: Option<MessageId>,
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
            fold.overlay(&mut whereabouts, &message);
        }
        fold.finish(&mut whereabouts, only, self.now());
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

/// What the events say, one after the other.
#[derive(Default)]
struct Fold {
    by_address: HashMap<String, usize>,
}

impl Fold {
    fn take(&mut self, message: &mut MessageWhereabouts, event: &Told) {
        let Some(kind) = event.event else { return };
        match kind {
            EventKind::Received => {
                message.message_id.clone_from(&event.message_id);
                message.subject.clone_from(&event.subject);
                message.received_at = event.at;
                message.client = event.client;
                message.size = event.size;
            }
            EventKind::Dsn => message.notifications.extend(event.related),
            _ => {}
        }
        message.sender = message.sender.take().or_else(|| event.sender.clone());
        message.virtual_server = message.virtual_server.take().or_else(|| event.virtual_server.clone());
        for address in &event.recipients {
            let Some(recipient) = self.recipient(message, address) else { continue };
            let before = recipient.state;
            recipient.state = match kind {
                EventKind::Received | EventKind::Resolved | EventKind::Routed => WhereState::Queued,
                EventKind::Released | EventKind::Resubmitted => WhereState::Queued,
                EventKind::Rerouted | EventKind::Retried => WhereState::Queued,
                EventKind::Held => WhereState::Held,
                EventKind::Scheduled => WhereState::Scheduled,
                // a notification of delay is no attempt
                EventKind::Deferred if event.failure.is_none() => before,
                EventKind::Deferred => WhereState::Retrying,
                EventKind::Expanded => WhereState::Expanded,
                EventKind::Delivered => WhereState::Delivered,
                EventKind::Relayed => WhereState::Relayed,
                EventKind::Failed => WhereState::Failed,
                EventKind::Expired => WhereState::Expired,
                EventKind::DeadLettered => WhereState::DeadLetter,
                EventKind::Removed => WhereState::Removed,
                EventKind::Rejected | EventKind::Dsn | EventKind::Frozen | EventKind::Thawed => before,
            };
            recipient.at = event.at.or(recipient.at);
            recipient.queue.clone_from(&event.queue);
            recipient.connector = event.connector.clone().or_else(|| recipient.connector.take());
            recipient.next_hop = event.next_hop.clone().or_else(|| recipient.next_hop.take());
            recipient.attempts = event.attempts.unwrap_or(recipient.attempts);
            recipient.next_attempt = event.next_attempt;
            recipient.reply.clone_from(&event.reply);
            if let Some(failure) = &event.failure {
                tell_failure(recipient, failure);
            }
            if kind == EventKind::Expanded {
                recipient.expanded_into = event.related;
            }
        }
    }

    fn recipient<'m>(
        &mut self,
        message: &'m mut MessageWhereabouts,
        address: &str,
    ) -> Option<&'m mut RecipientWhereabouts> {
        let all = &mut message.recipients;
        let key = folded(address);
        if !self.by_address.contains_key(&key) {
            if all.len() >= MAX_RECIPIENTS {
                return None;
            }
            self.by_address.insert(key.clone(), all.len());
            all.push(RecipientWhereabouts {
                recipient: address.to_owned(),
                state: WhereState::Queued,
                words: String::new(),
                at: None,
                queue: None,
                connector: None,
                attempts: 0,
                next_attempt: None,
                next_hop: None,
                reply: None,
                failure: None,
                status: None,
                expanded_into: None,
            });
        }
        self.by_address.get(&key).and_then(|index| all.get_mut(*index))
    }

    /// What the queue says of those who wait.
    fn overlay(&mut self, message: &mut MessageWhereabouts, queued: &Message) {
        message.message_id = message.message_id.take().or_else(|| queued.message_id_header.clone());
        message.subject = message.subject.take().or_else(|| queued.subject.clone());
        message.sender = message.sender.take().or_else(|| Some(queued.reverse_path.to_string()));
        message.received_at = Some(queued.received_at);
        message.client = queued.origin.client;
        message.size = Some(queued.size);
        message.virtual_server = Some(queued.origin.virtual_server.to_string());
        for of_queue in &queued.recipients {
            let known = self.by_address.contains_key(&folded(&of_queue.forward_path.to_string()));
            let Some(recipient) = self.recipient(message, &of_queue.forward_path.to_string()) else { continue };
            match &of_queue.waits {
                Some(waits) if recipient.state.waits() => {
                    recipient.queue = Some(waits.queue.to_string());
                    recipient.connector = waits.queue.connector().map(ToString::to_string);
                    recipient.next_attempt = Some(waits.due);
                    recipient.attempts = of_queue.attempts;
                    if let Some(failure) = &of_queue.last_failure {
                        tell_failure(recipient, failure);
                    }
                    recipient.state = match recipient.state {
                        _ if waits.queue == QueueName::DeadLetter => WhereState::DeadLetter,
                        _ if queued.frozen => WhereState::Frozen,
                        WhereState::Scheduled => WhereState::Scheduled,
                        _ if of_queue.last_failure.is_some() => WhereState::Retrying,
                        _ => WhereState::Queued,
                    };
                }
                // its end is not in the events
                None if !known || recipient.state.waits() => {
                    recipient.state = match of_queue.status {
                        RecipientStatus::Pending => WhereState::Unknown,
                        RecipientStatus::Delivered => WhereState::Delivered,
                        RecipientStatus::Relayed => WhereState::Relayed,
                        RecipientStatus::Expanded => WhereState::Expanded,
                        RecipientStatus::Failed => WhereState::Failed,
                        RecipientStatus::Expired => WhereState::Expired,
                    };
                }
                _ => {}
            }
        }
    }

    /// Those who were asked for, and the words.
    fn finish(&self, message: &mut MessageWhereabouts, only: Option<&AddressFilter>, now: Timestamp) {
        if let Some(only) = only {
            message.recipients.retain(|recipient| is(only, &recipient.recipient));
        }
        for recipient in &mut message.recipients {
            if !message.in_queue && recipient.state.waits() {
                recipient.state = WhereState::Unknown;
            }
            if !recipient.state.waits() {
                (recipient.queue, recipient.next_attempt) = (None, None);
            }
            recipient.words = words(recipient, now);
        }
    }
}

fn tell_failure(recipient: &mut RecipientWhereabouts, failure: &Failure) {
    recipient.failure = Some(failure.to_string());
    recipient.status = Some(failure.status.to_string());
    recipient.next_hop = failure.remote_mta.clone().or_else(|| recipient.next_hop.take());
}

/// A sentence or two for whoever asks.
fn words(it: &RecipientWhereabouts, now: Timestamp) -> String {
    let at = it.at.map_or_else(String::new, |at| format!(" at {at}"));
    let queue = it.queue.as_deref().unwrap_or("a queue");
    let why = it.failure.as_deref().unwrap_or("the reason is not known");
    let by = it.next_hop.as_deref().unwrap_or("the next hop");
    let next = match it.next_attempt {
        Some(due) if due > now => format!("the next attempt is due at {due}"),
        _ => "an attempt is due now".to_owned(),
    };
    match it.state {
        WhereState::Queued => format!("Waits in {queue}; {next}."),
        WhereState::Retrying => {
            let attempts = if it.attempts > 0 { format!("Attempt {} failed", it.attempts) } else { "An attempt failed".to_owned() };
            format!("{attempts}: {why}. It waits in {queue}; {next}.")
        }
        WhereState::Scheduled => format!("Waits in {queue} until the schedule of its connector opens; {next}."),
        WhereState::Held => "Held by an operator: it waits until the hold ends.".to_owned(),
        WhereState::Frozen => format!("Frozen by an operator in {queue}: no attempt is made until it is thawed."),
        WhereState::DeadLetter => {
            let until = it.next_attempt.map_or_else(String::new, |end| format!(" until {end}"));
            format!("Could not be delivered: {why}. It is kept in the dead-letter queue{until}.")
        }
        WhereState::Delivered => format!("Delivered to {by}{at}."),
        WhereState::Relayed => match &it.reply {
            Some(reply) => format!("Taken by {by}{at}, which answered: {reply}"),
            None => format!("Taken by {by}{at}."),
        },
        WhereState::Expanded => format!("Went on{at} to those for whom this address stands."),
        WhereState::Failed => format!("Failed{at}: {why}."),
        WhereState::Expired => format!("Could not be delivered in time and was given up{at}: {why}."),
        WhereState::Removed => format!("Removed{at} by an operator, or because its retention ended."),
        WhereState::Unknown => {
            "It is not in the queue any more, and what became of it is not recorded: the last moments before a crash are \
             not tracked."
                .to_owned()
        }
    }
}
