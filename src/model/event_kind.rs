//! What happens to mail, in one word each: the events of message tracking, of `GET /events` and of event sinks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What happened. v1 may add words. The names that Exchange 2000 and its successors have for it stand in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum EventKind {
    /// Taken, and durable (1019 SMTP submit message to AQ; RECEIVE, SUBMIT).
    Received,
    /// Not taken: a sender, a recipient or the message was refused (FAIL at reception).
    Rejected,
    /// The directory says whom a recipient means: a mailbox store gets it, or it stands for others (1023, 1024 categorized;
    /// RESOLVE).
    Resolved,
    /// A recipient was given to the queue of a connector, or to `unrouted` (1033 routed and queued for remote delivery;
    /// ROUTE, TRANSFER).
    Routed,
    /// A recipient was assigned to another queue (REROUTE).
    Rerouted,
    /// It waits until its connector's schedule opens (DEFER).
    Scheduled,
    /// An attempt did not succeed and will be repeated (1032, DEFER).
    Deferred,
    /// A group, a contact or a forward became those who get the mail (1029, EXPAND, REDIRECT).
    Expanded,
    /// In a mailbox store (1028 local delivery; DELIVER).
    Delivered,
    /// Taken by the next hop (1031 outbound transfer; SEND).
    Relayed,
    /// Will not be delivered (1030 NDR; FAIL).
    Failed,
    /// Was not delivered in time (1030 NDR; FAIL).
    Expired,
    /// A notification was queued (1030, DSN).
    Dsn,
    /// In the dead-letter queue (BADMAIL).
    DeadLettered,
    /// An operator stopped it (freeze message; SUSPEND).
    Frozen,
    /// An operator let it go on (unfreeze message; RESUME).
    Thawed,
    /// A recipient is held: an operator keeps such mail back.
    Held,
    /// The hold is over, or means it no more: the recipient goes on.
    Released,
    /// A dead letter was sent on its way again, or a message with other recipients in its place.
    Resubmitted,
    /// An operator asked for an attempt now (force connection; RETRY).
    Retried,
    /// An operator removed it, or its retention ended (delete message; ADMIN DELETE).
    Removed,
}

impl EventKind {
    /// All of them.
    pub const ALL: [EventKind; 21] = [
        EventKind::Received,
        EventKind::Rejected,
        EventKind::Resolved,
        EventKind::Routed,
        EventKind::Rerouted,
        EventKind::Scheduled,
        EventKind::Deferred,
        EventKind::Expanded,
        EventKind::Delivered,
        EventKind::Relayed,
        EventKind::Failed,
        EventKind::Expired,
        EventKind::Dsn,
        EventKind::DeadLettered,
        EventKind::Frozen,
        EventKind::Thawed,
        EventKind::Held,
        EventKind::Released,
        EventKind::Resubmitted,
        EventKind::Retried,
        EventKind::Removed,
    ];

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            EventKind::Received => "received",
            EventKind::Rejected => "rejected",
            EventKind::Resolved => "resolved",
            EventKind::Routed => "routed",
            EventKind::Rerouted => "rerouted",
            EventKind::Scheduled => "scheduled",
            EventKind::Deferred => "deferred",
            EventKind::Expanded => "expanded",
            EventKind::Delivered => "delivered",
            EventKind::Relayed => "relayed",
            EventKind::Failed => "failed",
            EventKind::Expired => "expired",
            EventKind::Dsn => "dsn",
            EventKind::DeadLettered => "deadLettered",
            EventKind::Frozen => "frozen",
            EventKind::Thawed => "thawed",
            EventKind::Held => "held",
            EventKind::Released => "released",
            EventKind::Resubmitted => "resubmitted",
            EventKind::Retried => "retried",
            EventKind::Removed => "removed",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The text names no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no event; there are {}", EventKind::ALL.map(EventKind::word).join(", "))]
pub struct NotAnEvent {
    given: String,
}

impl FromStr for EventKind {
    type Err = NotAnEvent;

    fn from_str(text: &str) -> Result<Self, NotAnEvent> {
        let known = EventKind::ALL.into_iter().find(|kind| kind.word() == text);
        known.ok_or_else(|| NotAnEvent { given: text.chars().take(40).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_json() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
            assert_eq!(kind.word().parse(), Ok(kind));
        }
        assert!("Received".parse::<EventKind>().is_err());
    }
}
