//! Message tracking: what happened to each message, as one JSON object per event, beside the log line for people.
//!
//! Written without waiting; the store bounds and drops. The subject is tracked only where `settings.subjectLogging` keeps it (as
//! in Exchange, where it is off). Every event of a message names its sender, its virtual server and the recipients that it
//! concerns, so that each reads alone and can be searched for; what only the reception knows (Message-ID, client, session,
//! size, subject) stands in `received`. What concerns more recipients than one event names ([`MAX_NAMED`]) is as many events as it
//! takes, each with all of the rest and, from the second on, with its `part`.
//!
//! Refused transactions are tracked too, `rejected`, but no more than [`Allowance`] lets pass: whoever is refused by the
//! thousand must not push the history of real mail out of the files.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Duration;

use serde::Serialize;

use super::Queue;
use crate::model::event_kind::EventKind;
use crate::model::failure::Failure;
use crate::model::mail::{Message, MessageId, Protocol, Recipient};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::model::trace_parent::TraceParent;
use crate::smtp::reply::{EnhancedStatus, Reply};
use crate::store::TrackingStore;

/// Most recipients that one event names.
const MAX_NAMED: usize = 50;
/// Most octets of their addresses, so that an event is never too long for the store.
const MAX_NAMED_OCTETS: usize = 3_000;
/// Refusals that are tracked at once.
const REFUSALS_AT_ONCE: f64 = 1_000.0;
/// Refusals a second in the long run.
const REFUSALS_A_SECOND: f64 = 5.0;

/// One event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<'a> {
    /// Which message; a refused transaction may have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<MessageId>,
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: EventKind,
    /// The recipients that it concerns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// Which of several events with all recipients together this is, from 2 on.
    #[serde(skip_serializing_if = "is_the_first")]
    pub part: usize,
    /// Everything that not every event has.
    #[serde(flatten)]
    pub detail: Detail<'a>,
}

/// Fields that not every event has.
#[derive(Debug, Default, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Detail<'a> {
    /// The reverse-path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Message-ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<&'a str>,
    /// The Subject field, where it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a str>,
    /// Octets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// By which door it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// The session in which it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<&'a str>,
    /// The account that handed it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<&'a Name>,
    /// The API key that handed it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<&'a str>,
    /// The virtual server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_server: Option<&'a str>,
    /// The connector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connector: Option<&'a Name>,
    /// The queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<&'a QueueName>,
    /// The names in the directory of the recipients, one each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolved_to: Vec<&'a Name>,
    /// The host that took or refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<&'a str>,
    /// The version of TLS of the session in which it came or went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<&'a str>,
    /// The certificate of the next hop was found good.
    #[serde(skip_serializing_if = "is_false")]
    pub tls_verified: bool,
    /// What the next hop said; of a refused transaction what the client was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<&'a str>,
    /// The status in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<EnhancedStatus>,
    /// The rule that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    /// Why, in words for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<&'a Failure>,
    /// Failed attempts so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    /// The notification that was queued about it, the message that a notification is about, or the
    /// other side of an expansion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub related: Option<MessageId>,
    /// Who did it: an API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a str>,
    /// How long the attempt took; of a reception from the first recipient until it was durable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// How long it took of that to make it durable, to the microsecond.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_ms: Option<f64>,
    /// The request of REST that brought it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// Where that request was in a trace of its sender (W3C Trace Context).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Refusals before this one that were not tracked, because there were too many.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_tracked: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_the_first(part: &usize) -> bool {
    *part <= 1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(it: &bool) -> bool {
    !*it
}

/// Writes one event.
fn write(store: &dyn TrackingStore, event: &Event<'_>) {
    // most events fit without growing
    let mut json = Vec::with_capacity(384);
    if serde_json::to_writer(&mut json, event).is_ok() {
        store.append(json);
    }
}

/// The recipients of one event, and the names in the directory of those that have one.
#[derive(Debug, Default)]
struct Named<'a> {
    recipients: Vec<String>,
    names: Vec<&'a Name>,
}

/// Recipients by the events that name them: as few as it takes, and one when there are none.
fn named<'a>(all: impl Iterator<Item = (String, Option<&'a Name>)>) -> Vec<Named<'a>> {
    let mut done = Vec::new();
    let (mut now, mut octets) = (Named::default(), 0);
    for (address, name) in all {
        octets += address.len();
        if now.recipients.len() >= MAX_NAMED || (octets > MAX_NAMED_OCTETS && !now.recipients.is_empty()) {
            octets = address.len();
            done.push(std::mem::take(&mut now));
        }
        now.recipients.push(address);
        now.names.extend(name);
    }
    done.push(now);
    done
}

/// How a message came, as far as its record does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arrival<'a> {
    /// The session.
    pub session: Option<&'a str>,
    /// The version of TLS.
    pub tls: Option<&'a str>,
    /// How long it took from the first recipient until it was durable.
    pub took: Option<Duration>,
    /// How long of that it took to make it durable.
    pub synced: Option<Duration>,
    /// The request of REST that brought it.
    pub request_id: Option<&'a str>,
    /// Where that request was in a trace.
    pub trace: Option<TraceParent>,
}

/// A transaction that was refused, or a recipient of one.
#[derive(Debug)]
pub struct Rejection<'a> {
    /// The message that it would have been.
    pub message: Option<MessageId>,
    /// The reverse-path.
    pub sender: Option<String>,
    /// The recipients that were refused.
    pub recipients: Vec<String>,
    /// The client.
    pub client: IpAddr,
    /// The account that had logged in.
    pub account: Option<&'a Name>,
    /// The session.
    pub session: &'a str,
    /// The virtual server.
    pub virtual_server: &'a str,
    /// What the client was told.
    pub reply: &'a Reply,
    /// The rule that refused.
    pub rule: &'a str,
    /// What the operator is told.
    pub reason: &'a str,
}

/// How many refusals may be tracked now: a bucket that fills slowly.
#[derive(Debug)]
pub(super) struct Allowance {
    left: f64,
    at: Timestamp,
    passed_over: usize,
}

impl Default for Allowance {
    fn default() -> Self {
        Allowance { left: REFUSALS_AT_ONCE, at: Timestamp::EPOCH, passed_over: 0 }
    }
}

impl Allowance {
    /// Whether one may be tracked, and how many before it were not.
    fn take(&mut self, now: Timestamp) -> Option<usize> {
        let filled = now.since(self.at).as_secs_f64() * REFUSALS_A_SECOND;
        self.left = (self.left + filled).min(REFUSALS_AT_ONCE);
        self.at = now;
        if self.left < 1.0 {
            self.passed_over += 1;
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.passed_over))
    }
}

impl Queue {
    /// Writes an event of a message that concerns one recipient, or (`None`) the whole of it.
    pub(super) fn track(&self, event: EventKind, message: &Message, recipient: Option<String>, detail: Detail<'_>) {
        self.track_all(event, message, recipient.into_iter().map(|recipient| (recipient, None)), detail);
    }

    /// Writes what concerns several recipients, each with the name in the directory that is told.
    fn track_all<'a>(
        &self,
        event: EventKind,
        message: &'a Message,
        recipients: impl Iterator<Item = (String, Option<&'a Name>)>,
        detail: Detail<'a>,
    ) {
        let at = self.now();
        let detail = Detail {
            sender: Some(message.reverse_path.to_string()),
            virtual_server: Some(message.origin.virtual_server.as_str()),
            connector: detail.connector.or_else(|| detail.queue.and_then(QueueName::connector)),
            ..detail
        };
        for (part, Named { recipients, names }) in (1..).zip(named(recipients)) {
            let detail = Detail { resolved_to: names, ..detail.clone() };
            write(&*self.store, &Event { message: Some(message.id), at, event, recipients, part, detail });
        }
    }

    /// Writes the first events of a message: who brought it, for whom; where each recipient goes; and which go no further,
    /// because a filter archived them.
    pub fn track_received(&self, message: &Message) {
        self.track_first(message, Arrival::default(), None);
    }

    /// The same for one of which more is known.
    pub fn track_arrival(&self, message: &Message, arrival: Arrival<'_>) {
        self.track_first(message, arrival, None);
    }

    /// The same for one that goes on to others.
    pub(super) fn track_further(&self, of: MessageId, message: &Message) {
        self.track_first(message, Arrival::default(), Some(of));
    }

    /// Writes that something was refused, if there is room for it.
    pub fn track_rejected(&self, rejection: Rejection<'_>) {
        let now = self.now();
        let reply = rejection.reply.to_string();
        let reply: String = reply.chars().take(200).collect();
        let reason: String = rejection.reason.chars().take(300).collect();
        let detail = Detail {
            sender: rejection.sender,
            client: Some(rejection.client),
            account: rejection.account,
            session: Some(rejection.session),
            virtual_server: Some(rejection.virtual_server),
            reply: Some(reply.trim()),
            status: rejection.reply.status,
            rule: Some(rejection.rule),
            reason: Some(&reason).filter(|reason| !reason.is_empty()).map(String::as_str),
            ..Detail::default()
        };
        let all = named(rejection.recipients.into_iter().map(|recipient| (recipient, None)));
        for (part, Named { recipients, .. }) in (1..).zip(all) {
            let allowed = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).take(now);
            let Some(not_tracked) = allowed else { continue };
            let detail = Detail { not_tracked, ..detail.clone() };
            let (message, event) = (rejection.message, EventKind::Rejected);
            write(&*self.store, &Event { message, at: now, event, recipients, part, detail });
        }
    }

    fn track_first(&self, message: &Message, arrival: Arrival<'_>, related: Option<MessageId>) {
        let origin = &message.origin;
        let detail = Detail {
            message_id: message.message_id_header.as_deref(),
            subject: message.subject.as_deref(),
            size: Some(message.size),
            protocol: Some(origin.protocol),
            client: origin.client,
            session: arrival.session,
            tls: arrival.tls,
            account: origin.account.as_ref(),
            api_key: origin.api_key.as_deref(),
            duration_ms: arrival.took.map(millis),
            sync_ms: arrival.synced.map(|synced| synced.as_micros() as f64 / 1_000.0),
            request_id: arrival.request_id,
            traceparent: arrival.trace.map(|trace| trace.to_string()),
            related,
            next_attempt: message.parameters.hold.map(|_| message.released_at()),
            ..Detail::default()
        };
        let all = &message.recipients;
        self.track_all(EventKind::Received, message, all.iter().map(|one| (path(one), None)), detail);
        self.track_ways(message);
        let archived =
            |recipient: &&Recipient| recipient.waits.as_ref().is_some_and(|w| w.queue == QueueName::DeadLetter);
        for recipient in all.iter().filter(archived) {
            self.metrics.outcome("deadLettered", 1);
            let detail = Detail { failure: recipient.last_failure.as_ref(), ..Detail::default() };
            self.track(EventKind::DeadLettered, message, Some(path(recipient)), detail);
        }
    }

    /// For each queue who goes there.
    fn track_ways(&self, message: &Message) {
        for (queue, _) in message.waiting() {
            let here = |recipient: &&Recipient| recipient.waits.as_ref().is_some_and(|waits| waits.queue == queue);
            let event = match queue {
                QueueName::DeadLetter => continue,
                QueueName::Held => EventKind::Held,
                QueueName::Local(_) | QueueName::Directory => EventKind::Resolved,
                QueueName::SmartHost(_) | QueueName::Dns(..) | QueueName::Unrouted => EventKind::Routed,
            };
            let here = message.recipients.iter().filter(here);
            let here = here.map(|recipient| (path(recipient), recipient.directory_name.as_ref()));
            self.track_all(event, message, here, Detail { queue: Some(&queue), ..Detail::default() });
        }
    }
}

/// As events have a length of time.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn path(recipient: &Recipient) -> String {
    recipient.forward_path.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_tracked_within_bounds_and_the_rest_is_counted() {
        let mut allowance = Allowance::default();
        let start = Timestamp::from_millis(1_795_000_000_000);
        let passed = (0..1_500).filter(|_| allowance.take(start).is_some()).count();
        assert_eq!(passed, 1_000);
        assert_eq!(allowance.take(start + Duration::from_secs(1)), Some(500));
        let passed = (0..100).filter(|_| allowance.take(start + Duration::from_secs(2)).is_some()).count();
        assert!(passed <= 10, "{passed}");
    }

    #[test]
    fn many_recipients_are_named_in_several_events_and_no_event_is_too_long() {
        let sizes = |all: &[String]| -> Vec<usize> {
            let parts = named(all.iter().map(|address| (address.clone(), None)));
            assert_eq!(parts.iter().flat_map(|part| part.recipients.clone()).collect::<Vec<_>>(), all);
            parts.iter().map(|part| part.recipients.len()).collect()
        };
        let some = |count: usize| (0..count).map(|n| format!("u{n}@far.example")).collect::<Vec<_>>();
        assert_eq!(sizes(&[]), [0]);
        assert_eq!(sizes(&some(50)), [50]);
        assert_eq!(sizes(&some(120)), [50, 50, 20]);
        assert_eq!(sizes(&vec!["x".repeat(320); 20]), [9, 9, 2]);
        assert_eq!(sizes(&vec!["x".repeat(9_000); 2]), [1, 1]);
    }
}
