//! The answer: where mail is, per message and recipient.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::model::mail::MessageId;
use crate::model::time::Timestamp;

/// Where mail is.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Whereabouts {
    /// The messages that were found, the latest first, each followed by those that belong to it.
    pub items: Vec<MessageWhereabouts>,
    /// Attempts to hand in such mail that were refused, the latest first: the events `rejected`.
    #[schema(value_type = Vec<Object>)]
    pub rejected: Vec<Value>,
    /// False when there may be more: older ones, more that belong to what was found, or a message with more recipients or more
    /// events (over 50,000) than are looked at. Narrow the question, or page through `GET /tracking`.
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
    /// When the next attempt is due, as far as that is known; in the dead-letter queue, when its retention ends; while it is held,
    /// when the hold ends by itself.
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
    /// An attempt failed, for this recipient or for the whole queue; another one will be made.
    Retrying,
    /// It waits until the time that its sender wants, until its connector's schedule opens, or until it is asked for.
    Scheduled,
    /// An operator has stopped it, or its queue.
    Frozen,
    /// An operator has suspended its connector.
    Suspended,
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
    pub(super) fn waits(self) -> bool {
        use WhereState::{DeadLetter, Frozen, Held, Queued, Retrying, Scheduled, Suspended};
        matches!(self, Queued | Retrying | Scheduled | Frozen | Suspended | Held | DeadLetter)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
