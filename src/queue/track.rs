//! Message tracking: what happened to each message, as one JSON object per event, beside the log line for people.
//!
//! Written without waiting; the store bounds and drops. The subject is never tracked (as in Exchange, where it is off).

use serde::Serialize;

use crate::model::failure::Failure;
use crate::model::mail::MessageId;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::observe::EventKind;
use crate::store::TrackingStore;

/// Most recipients that one event names; more are counted.
const MAX_NAMED: usize = 50;

/// One event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<'a> {
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: EventKind,
    /// Which message.
    pub message: MessageId,
    /// The recipients that it concerns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// How many recipients more than are named.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_recipients: usize,
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
    /// Octets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<std::net::IpAddr>,
    /// The virtual server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_server: Option<&'a str>,
    /// The queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<&'a QueueName>,
    /// The host that took or refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<&'a str>,
    /// Its reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<&'a str>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<&'a Failure>,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    /// The notification that was queued about it, the message that a notification is about, or the
    /// other side of an expansion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub related: Option<MessageId>,
    /// How long the attempt took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Writes one event.
pub fn track(
    store: &dyn TrackingStore,
    at: Timestamp,
    event: EventKind,
    message: MessageId,
    recipients: impl ExactSizeIterator<Item = String>,
    detail: Detail<'_>,
) {
    let more_recipients = recipients.len().saturating_sub(MAX_NAMED);
    let recipients = recipients.take(MAX_NAMED).collect();
    let record = Event { at, event, message, recipients, more_recipients, detail };
    if let Ok(json) = serde_json::to_vec(&record) {
        store.append(message, json);
    }
}
