//! What is concluded about a recipient: what the result of an attempt means, or what an operator wants, and the state after it.
//!
//! One place says what a conclusion does to a recipient ([`Conclusion::apply`]), what its event is called and whether the sender is
//! told. Recording it is [`outcome`](super::outcome)'s.

use std::sync::Arc;

use super::distribution::Expansion;
use super::outcome::{AttemptResult, PassedOn};
use super::settings;
use crate::config::Snapshot;
use crate::model::event_kind::EventKind;
use crate::model::failure::{Failure, Scope};
use crate::model::mail::{Message, Recipient, RecipientState, RecipientStatus, Waits};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::smtp::reply::EnhancedStatus;

/// What is concluded about one recipient.
#[derive(Debug, Clone)]
pub(super) enum Conclusion {
    Delivered,
    Relayed {
        reply: String,
        passed_on: PassedOn,
    },
    /// Others get it, whom it stands for.
    Expanded {
        kind: Expansion,
    },
    Failed(Failure),
    Expired(Option<Failure>),
    Deferred {
        failure: Failure,
        attempts: u32,
        until: Timestamp,
    },
    /// Still waiting; only the sender is told so.
    Delayed,
    /// Waits in another queue now.
    Moved(QueueName, Option<Name>),
    /// An operator, or the end of a retention, removed it; with a report or without.
    Removed {
        report: bool,
    },
    /// An operator holds it; it keeps its time.
    Held(Option<Name>),
    /// Nobody holds it any more; it keeps its time.
    LetGo(QueueName, Option<Name>),
    /// A dead letter is to be delivered again, as if it had just come.
    Resubmitted(QueueName, Option<Name>),
    /// A message with other recipients goes out in its place.
    Replaced,
    /// An operator wants it tried now.
    Retried,
    /// It waits for its connector's schedule.
    PutOff {
        until: Timestamp,
    },
}

/// What one result means for one recipient, by the delivery settings of the message's virtual server.
pub(super) fn conclude_result(
    snapshot: &Arc<Snapshot>,
    message: &Message,
    recipient: &Recipient,
    result: AttemptResult,
    now: Timestamp,
) -> Conclusion {
    let failure = match result {
        AttemptResult::Delivered => return Conclusion::Delivered,
        AttemptResult::Relayed { reply, passed_on } => return Conclusion::Relayed { reply, passed_on },
        AttemptResult::Failed(failure) | AttemptResult::NextHost(failure) => failure,
    };
    if failure.is_permanent() {
        return Conclusion::Failed(failure);
    }
    defer(snapshot, message, recipient, failure, now)
}

/// What a transient failure means: another attempt, or the end of them.
pub(super) fn defer(
    snapshot: &Snapshot,
    message: &Message,
    recipient: &Recipient,
    failure: Failure,
    now: Timestamp,
) -> Conclusion {
    let queue = recipient.waits.as_ref().map_or(&QueueName::Unrouted, |waits| &waits.queue);
    let terms = settings::terms(snapshot, &message.origin.virtual_server, queue);
    let expires = settings::ends(snapshot, message, queue).expires;
    if now >= expires {
        return Conclusion::Expired(Some(failure));
    }
    let attempts = recipient.attempts.saturating_add(1);
    let wait = terms.retry_after(attempts, message.id.spread());
    // not behind its end: it shall expire in time, with a last attempt
    Conclusion::Deferred { failure, attempts, until: (now + wait).min(expires) }
}

impl Conclusion {
    /// The recipient after it, of a message that goes out at `released_at` at the earliest. Notified delays and dead letters are added by the caller, who knows the reports.
    pub(super) fn apply(&self, recipient: &mut Recipient, now: Timestamp, released_at: Timestamp) {
        let state = match self {
            Conclusion::Delivered => done(recipient, RecipientStatus::Delivered, None),
            Conclusion::Relayed { .. } => done(recipient, RecipientStatus::Relayed, None),
            Conclusion::Expanded { kind: Expansion::List } => done(recipient, RecipientStatus::Delivered, None),
            Conclusion::Expanded { .. } => done(recipient, RecipientStatus::Expanded, None),
            Conclusion::Failed(failure) => done(recipient, RecipientStatus::Failed, Some(failure.clone())),
            Conclusion::Expired(failure) => {
                let last = failure.clone().or_else(|| recipient.last_failure.clone());
                done(recipient, RecipientStatus::Expired, last)
            }
            Conclusion::Removed { .. } | Conclusion::Replaced => match recipient.status {
                // a dead letter keeps what became of it
                RecipientStatus::Failed | RecipientStatus::Expired => {
                    done(recipient, recipient.status, recipient.last_failure.clone())
                }
                _ => done(recipient, RecipientStatus::Failed, Some(removed())),
            },
            Conclusion::Deferred { failure, attempts, until } => RecipientState {
                waits: recipient.waits.clone().map(|waits| Waits { due: *until, ..waits }),
                attempts: *attempts,
                last_failure: Some(failure.clone()),
                ..recipient.state()
            },
            Conclusion::Delayed => recipient.state(),
            Conclusion::Moved(queue, directory_name) => RecipientState {
                // out of the dead-letter queue it is to be delivered again
                status: RecipientStatus::Pending,
                waits: Some(Waits { queue: queue.clone(), due: now.max(released_at) }),
                directory_name: directory_name.clone(),
                ..recipient.state()
            },
            Conclusion::Held(directory_name) => {
                RecipientState { directory_name: directory_name.clone(), ..moved(recipient, &QueueName::Held, now) }
            }
            Conclusion::LetGo(queue, directory_name) => {
                RecipientState { directory_name: directory_name.clone(), ..moved(recipient, queue, now) }
            }
            Conclusion::Resubmitted(queue, directory_name) => RecipientState {
                status: RecipientStatus::Pending,
                waits: Some(Waits { queue: queue.clone(), due: now }),
                directory_name: directory_name.clone(),
                attempts: 0,
                delay_notified: false,
                last_failure: None,
            },
            Conclusion::Retried => put_off(recipient, now),
            Conclusion::PutOff { until } => put_off(recipient, *until),
        };
        recipient.replace_state(state);
    }

    /// Ends the recipient without delivery, and the sender should know.
    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Conclusion::Failed(_) | Conclusion::Expired(_) | Conclusion::Removed { report: true })
    }

    /// What came of an attempt by the queue in which the recipient was.
    pub(super) fn is_of_attempt(&self) -> bool {
        !matches!(self, Conclusion::Moved(..) | Conclusion::Removed { .. } | Conclusion::Delayed)
    }

    pub(super) fn event(&self) -> (EventKind, &'static str) {
        match self {
            Conclusion::Delivered => (EventKind::Delivered, "delivered"),
            Conclusion::Relayed { .. } => (EventKind::Relayed, "relayed"),
            Conclusion::Expanded { .. } => (EventKind::Expanded, "expanded"),
            Conclusion::Failed(_) => (EventKind::Failed, "failed"),
            Conclusion::Expired(_) => (EventKind::Expired, "expired"),
            Conclusion::Deferred { .. } | Conclusion::Delayed => (EventKind::Deferred, "deferred"),
            Conclusion::PutOff { .. } => (EventKind::Scheduled, "scheduled"),
            Conclusion::Moved(..) => (EventKind::Rerouted, "rerouted"),
            Conclusion::Held(_) => (EventKind::Held, "held"),
            Conclusion::LetGo(..) => (EventKind::Released, "released"),
            Conclusion::Resubmitted(..) | Conclusion::Replaced => (EventKind::Resubmitted, "resubmitted"),
            Conclusion::Removed { .. } => (EventKind::Removed, "removed"),
            Conclusion::Retried => (EventKind::Retried, "retried"),
        }
    }

    pub(super) fn reply(&self) -> Option<&str> {
        match self {
            Conclusion::Relayed { reply, .. } => Some(reply),
            _ => None,
        }
    }

    pub(super) fn tells_failure(&self) -> bool {
        matches!(self, Conclusion::Failed(_) | Conclusion::Expired(_) | Conclusion::Deferred { .. })
    }
}

/// RFC 5321, 4.5.3.1.10: 452 to RCPT, in old servers 552.
pub(super) fn is_too_many_recipients(failure: &Failure) -> bool {
    let says_so = (failure.status.subject, failure.status.detail) == (5, 3);
    failure.scope == Scope::Recipient && matches!((failure.remote_code, says_so), (Some(452), _) | (Some(552), true))
}

fn done(recipient: &Recipient, status: RecipientStatus, last_failure: Option<Failure>) -> RecipientState {
    RecipientState { status, waits: None, last_failure, ..recipient.state() }
}

fn put_off(recipient: &Recipient, until: Timestamp) -> RecipientState {
    RecipientState { waits: recipient.waits.clone().map(|waits| Waits { due: until, ..waits }), ..recipient.state() }
}

/// In another queue at the same time. Out of the dead-letter queue it is due now: there, its time is when its retention ends.
fn moved(recipient: &Recipient, queue: &QueueName, now: Timestamp) -> RecipientState {
    let due = match &recipient.waits {
        Some(waits) if waits.queue != QueueName::DeadLetter => waits.due,
        _ => now,
    };
    RecipientState {
        status: RecipientStatus::Pending,
        waits: Some(Waits { queue: queue.clone(), due }),
        ..recipient.state()
    }
}

fn removed() -> Failure {
    Failure::new(Scope::Message, EnhancedStatus::permanent(7, 0), "removed from the queue by an administrator")
}
