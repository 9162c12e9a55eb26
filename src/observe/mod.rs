//! What the house tells about itself: the names of message tracking events and of metrics.
//!
//! Names only, and counters that anybody may raise; where logs go is `boot`'s business. Labels are bounded: queues,
//! recipient domains and addresses are never labels.

pub mod metrics;

use serde::Serialize;

/// What happens to a message. The words are those of the REST API; Exchange's names stand behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EventKind {
    /// Taken, durable (RECEIVE).
    Received,
    /// A recipient was assigned to a queue again (REROUTE).
    Rerouted,
    /// It waits until its connector's schedule opens (DEFER).
    Scheduled,
    /// An attempt did not succeed and will be repeated (DEFER).
    Deferred,
    /// A group, a contact or a forward became those who get the mail (EXPAND).
    Expanded,
    /// In a mailbox store (DELIVER).
    Delivered,
    /// Taken by the next hop (SEND).
    Relayed,
    /// Will not be delivered (FAIL).
    Failed,
    /// Was not delivered in time (FAIL).
    Expired,
    /// A notification was queued (DSN).
    Dsn,
    /// In the dead-letter queue (BADMAIL).
    DeadLettered,
    /// An operator stopped it.
    Frozen,
    /// An operator let it go on.
    Thawed,
    /// A recipient is held: an operator keeps such mail back.
    Held,
    /// The hold is over, or means it no more: the recipient goes on.
    Released,
    /// A dead letter was sent on its way again, or a message with other recipients in its place.
    Resubmitted,
    /// An operator asked for an attempt now.
    Retried,
    /// An operator removed it, or its retention ended.
    Removed,
}
