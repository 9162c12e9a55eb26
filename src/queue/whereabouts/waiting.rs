//! Why mail waits, and until when: what the queue says now of each recipient that waits in it.
//!
//! What keeps a whole queue (a freeze, a suspension, a next hop that failed) is in no message and in no event: it is asked here,
//! once for each queue of a message.

use std::collections::HashMap;

use super::answer::WhereState;
use crate::config::Snapshot;
use crate::model::failure::Failure;
use crate::model::mail::{Message, Recipient, Waits};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::queue::Queue;
use crate::queue::hours::Closed;
use crate::queue::link::LinkView;
use crate::queue::suspension::Suspended;

/// Why a recipient waits.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) state: WhereState,
    /// In a sentence or two.
    pub(super) words: String,
    /// When it goes on, as far as that is known.
    pub(super) next_attempt: Option<Timestamp>,
    /// What went wrong last.
    pub(super) failure: Option<Failure>,
}

/// What is done with a queue.
struct Standing {
    is_frozen: bool,
    suspended: Option<Suspended>,
    closed: Option<Closed>,
    link: LinkView,
}

impl Queue {
    /// Why each recipient of a message waits, by index; `None`: it does not wait.
    pub(super) fn waits_of(&self, message: &Message) -> Vec<Option<Wait>> {
        let now = self.now();
        let snapshot = self.live.current();
        let mut standings = HashMap::new();
        let mut all = Vec::with_capacity(message.recipients.len());
        for recipient in &message.recipients {
            all.push(recipient.waits.as_ref().map(|waits| {
                let queue = &waits.queue;
                let standing = standings.entry(queue).or_insert_with(|| self.standing(message, queue, now));
                self.wait(&snapshot, message, recipient, waits, standing, now)
            }));
        }
        all
    }

    fn standing(&self, message: &Message, queue: &QueueName, now: Timestamp) -> Standing {
        Standing {
            is_frozen: self.is_frozen(queue),
            suspended: queue.connector().and_then(|connector| self.suspended(connector)),
            closed: self.closed(queue, message.size, now),
            link: self.links().get(queue).map(|link| link.view(now)).unwrap_or_default(),
        }
    }

    fn wait(
        &self,
        snapshot: &Snapshot,
        message: &Message,
        recipient: &Recipient,
        waits: &Waits,
        standing: &Standing,
        now: Timestamp,
    ) -> Wait {
        let Waits { queue, due } = waits;
        let own = recipient.last_failure.as_ref();
        let last = own.map_or_else(String::new, |failure| format!(" The last attempt failed: {failure}."));
        let wait = |state, next_attempt, words| Wait { state, words, next_attempt, failure: own.cloned() };
        if *queue == QueueName::DeadLetter {
            let why = own.map_or_else(|| "the reason is not known".to_owned(), ToString::to_string);
            let words = format!("Could not be delivered: {why}. It is kept in the dead-letter queue until {due}.");
            return wait(WhereState::DeadLetter, Some(*due), words);
        }
        if message.frozen {
            let words = format!("Frozen by an operator in {queue}: no attempt is made until it is thawed.{last}");
            return wait(WhereState::Frozen, None, words);
        }
        if *queue == QueueName::Held {
            let (home, _) = self.belongs_to(snapshot, message, recipient);
            let Some(hold) = self.held_by(message, recipient, &home) else {
                let words = format!("Was held by an operator; no hold means it any more, and it goes on now.{last}");
                return wait(WhereState::Held, None, words);
            };
            let until = hold.expires_at.map_or_else(String::new, |end| format!(", at {end} at the latest"));
            let words = format!("Held by {}: {}. It waits until the hold ends{until}.{last}", hold.by, hold.reason);
            return wait(WhereState::Held, hold.expires_at, words);
        }
        if standing.is_frozen {
            let words = format!("An operator has frozen {queue}: no attempt is made until it is thawed.{last}");
            return wait(WhereState::Frozen, None, words);
        }
        if let Some((suspended, connector)) = standing.suspended.as_ref().zip(queue.connector()) {
            let Suspended { by, at } = suspended;
            let words = format!(
                "Waits in {queue}: {by} suspended the connector {connector} at {at}, and no attempt is made until it is \
                 resumed.{last}"
            );
            return wait(WhereState::Suspended, None, words);
        }
        if message.released_at() > now {
            let until = message.released_at();
            return wait(
                WhereState::Scheduled,
                Some(until),
                format!("Waits in {queue} until {until}, as its sender wants."),
            );
        }
        match standing.closed {
            Some(Closed::Until(opens)) => {
                let words = format!("Waits in {queue} until the schedule of its connector opens at {opens}.{last}");
                return wait(WhereState::Scheduled, Some(opens), words);
            }
            Some(Closed::UntilAskedFor) => {
                let words = format!("Waits in {queue} until whoever it is for asks for it (ETRN or ATRN).{last}");
                return wait(WhereState::Scheduled, None, words);
            }
            None => {}
        }
        let next = |due: Timestamp| match due > now {
            true => format!("the next attempt is due at {due}"),
            false => "an attempt is due now".to_owned(),
        };
        if let Some(until) = standing.link.resting_until {
            let due = until.max(*due);
            let failure = standing.link.last_failure.as_ref().or(own);
            let why = failure.map_or_else(|| "the reason is not known".to_owned(), ToString::to_string);
            let who = if matches!(queue, QueueName::Local(_)) { "The mailbox store" } else { "The next hop" };
            let words = format!("{who} failed: {why}. It waits in {queue}; {}.", next(due));
            return Wait { state: WhereState::Retrying, words, next_attempt: Some(due), failure: failure.cloned() };
        }
        if let Some(failure) = own {
            let attempt = match recipient.attempts {
                0 => "An attempt".to_owned(),
                attempts => format!("Attempt {attempts}"),
            };
            let words = format!("{attempt} failed: {failure}. It waits in {queue}; {}.", next(*due));
            return wait(WhereState::Retrying, Some(*due), words);
        }
        if let Some(until) = standing.link.paced_until {
            let words = format!("Waits in {queue}: a limit of rate lets nothing go before {until}.");
            return wait(WhereState::Queued, Some(until.max(*due)), words);
        }
        wait(WhereState::Queued, Some(*due), format!("Waits in {queue}; {}.", next(*due)))
    }
}
