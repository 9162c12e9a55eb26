//! From what the events say of a message, one after the other, and what the queue says of it now, to where it is.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::answer::{MessageWhereabouts, RecipientWhereabouts, Relation, RelationKind, WhereState};
use super::waiting::Wait;
use crate::model::event_kind::EventKind;
use crate::model::failure::Failure;
use crate::model::mail::{Message, MessageId, RecipientStatus};
use crate::model::time::Timestamp;
use crate::queue::history::is;
use crate::queue::operate::AddressFilter;
use crate::store::history::folded;

/// Recipients of a message that are told of.
const MAX_RECIPIENTS: usize = 1_000;

/// What is read of an event.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Event {
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

impl Event {
    /// What an event of this message says of another one.
    pub(super) fn relation(&self, of: MessageId) -> Option<(MessageId, Relation)> {
        let kind = match self.event? {
            EventKind::Received => RelationKind::SourceOf,
            EventKind::Expanded => RelationKind::ExpansionOf,
            EventKind::Dsn => RelationKind::NotificationOf,
            _ => return None,
        };
        Some((self.related?, Relation { kind, of }))
    }
}

/// What the events say, one after the other.
#[derive(Default)]
pub(super) struct Fold {
    /// Who is asked for; `None`: everybody.
    only: Option<AddressFilter>,
    by_address: HashMap<String, usize>,
    /// Not everybody who is asked for is told of: there are too many.
    is_cut: bool,
}

impl Fold {
    pub(super) fn new(only: Option<AddressFilter>) -> Self {
        Fold { only, ..Fold::default() }
    }

    pub(super) fn take(&mut self, message: &mut MessageWhereabouts, event: &Event) {
        // who was refused was never a recipient of it
        let Some(kind) = event.event.filter(|kind| *kind != EventKind::Rejected) else { return };
        match kind {
            EventKind::Received => {
                message.message_id.clone_from(&event.message_id);
                message.subject.clone_from(&event.subject);
                message.received_at = event.at;
                message.client = event.client;
                message.size = event.size;
            }
            EventKind::Dsn if message.notifications.len() < MAX_RECIPIENTS => {
                message.notifications.extend(event.related)
            }
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
        if self.only.as_ref().is_some_and(|only| !is(only, address)) {
            return None;
        }
        let all = &mut message.recipients;
        let key = folded(address);
        if !self.by_address.contains_key(&key) {
            if all.len() >= MAX_RECIPIENTS {
                self.is_cut = true;
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

    /// What the queue says of those who wait; `waits` has why, by index.
    pub(super) fn overlay(&mut self, message: &mut MessageWhereabouts, queued: &Message, waits: Vec<Option<Wait>>) {
        message.message_id = message.message_id.take().or_else(|| queued.message_id_header.clone());
        message.subject = message.subject.take().or_else(|| queued.subject.clone());
        message.sender = message.sender.take().or_else(|| Some(queued.reverse_path.to_string()));
        message.received_at = Some(queued.received_at);
        message.client = queued.origin.client;
        message.size = Some(queued.size);
        message.virtual_server = Some(queued.origin.virtual_server.to_string());
        for (of_queue, wait) in queued.recipients.iter().zip(waits) {
            let known = self.by_address.contains_key(&folded(&of_queue.forward_path.to_string()));
            let Some(recipient) = self.recipient(message, &of_queue.forward_path.to_string()) else { continue };
            match of_queue.waits.as_ref().zip(wait) {
                Some((waits, wait)) if recipient.state.waits() => {
                    recipient.queue = Some(waits.queue.to_string());
                    recipient.connector = waits.queue.connector().map(ToString::to_string);
                    recipient.next_attempt = wait.next_attempt;
                    recipient.attempts = of_queue.attempts;
                    if let Some(failure) = &wait.failure {
                        tell_failure(recipient, failure);
                    }
                    (recipient.state, recipient.words) = (wait.state, wait.words);
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

    /// What became of those who do not wait, in words. False when not everybody who is asked for is told of.
    pub(super) fn finish(&self, message: &mut MessageWhereabouts) -> bool {
        for recipient in &mut message.recipients {
            if !message.in_queue && recipient.state.waits() {
                recipient.state = WhereState::Unknown;
            }
            if !recipient.state.waits() {
                (recipient.queue, recipient.next_attempt) = (None, None);
            }
            if !recipient.state.waits() {
                recipient.words = end_in_words(recipient);
            }
        }
        !self.is_cut
    }
}

fn tell_failure(recipient: &mut RecipientWhereabouts, failure: &Failure) {
    recipient.failure = Some(failure.to_string());
    recipient.status = Some(failure.status.to_string());
    recipient.next_hop = failure.remote_mta.clone().or_else(|| recipient.next_hop.take());
}

/// What became of a recipient, in a sentence or two. Why one waits, the queue says.
fn end_in_words(it: &RecipientWhereabouts) -> String {
    let at = it.at.map_or_else(String::new, |at| format!(" at {at}"));
    let why = it.failure.as_deref().unwrap_or("the reason is not known");
    let by = it.next_hop.as_deref().unwrap_or("the next hop");
    match it.state {
        WhereState::Delivered => format!("Delivered to {by}{at}."),
        WhereState::Relayed => match &it.reply {
            Some(reply) => format!("Taken by {by}{at}, which answered: {reply}"),
            None => format!("Taken by {by}{at}."),
        },
        WhereState::Expanded => format!("Went on{at} to those for whom this address stands."),
        WhereState::Failed => format!("Failed{at}: {why}."),
        WhereState::Expired => format!("Could not be delivered in time and was given up{at}: {why}."),
        WhereState::Removed => format!("Removed{at} by an operator, or because its retention ended."),
        _ => "It is not in the queue any more, and what became of it is not recorded: the last moments before a crash are \
              not tracked."
            .to_owned(),
    }
}
