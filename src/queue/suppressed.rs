//! Mail for recipients on the suppression list: what waits fails with a report when it comes up, also members of groups and
//! targets of forwards, and notifications. And how a permanent failure puts somebody on it.
//!
//! Asked of everything that goes to a link, from memory or from the store, so that nobody is written to after he was put on the
//! list, but by a session that has begun. A list that cannot be read defers.

use std::sync::Arc;

use super::conclusion::{Conclusion, defer};
use super::outcome::AttemptResult;
use super::scheduler::waiting_here;
use super::{Queue, is_ours};
use crate::directory::suppressions::{Source, Suppression, Suppressions};
use crate::model::failure::{Failure, Scope};
use crate::model::mail::{Message, Recipient};
use crate::model::mailbox_pattern::MailboxPattern;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::smtp::address::ForwardPath;
use crate::smtp::reply::{EnhancedStatus, StatusClass};
use crate::store::{Leased, StoreError};

impl Queue {
    /// The suppression list.
    pub fn suppressions(&self) -> &Arc<Suppressions> {
        &self.suppressions
    }

    /// Gives back what is ready in the windows of link queues for somebody who is on the list now.
    pub fn take_back_suppressed(&self) {
        let links: Vec<_> = self.links().values().cloned().collect();
        for link in links {
            let back = link.take_back(|leased| self.is_suppressed(&link.name, &leased.message));
            if !back.is_empty() {
                self.release(back);
                self.agenda.look_at_once(&link.name);
            }
        }
    }

    /// Whether anybody who waits in this queue may not be written to.
    pub(super) fn is_suppressed(&self, queue: &QueueName, message: &Message) -> bool {
        !self.suppressions.is_empty() && !self.suppressed(queue, message, self.now()).is_empty()
    }

    /// What becomes of those who wait in this queue and may not be written to.
    pub(super) fn suppressed(&self, queue: &QueueName, message: &Message, now: Timestamp) -> Vec<(u32, Conclusion)> {
        if self.suppressions.is_empty() {
            return Vec::new();
        }
        let judged = waiting_here(message, queue).filter_map(|index| {
            let recipient = message.recipients.get(index as usize)?;
            let conclusion = match self.suppression_of(queue, recipient, now) {
                Ok(None) => return None,
                Ok(Some(found)) => Conclusion::Failed(failure(&found)),
                // what was put off for this already comes up at its time
                Err(_) if recipient.waits.as_ref().is_some_and(|waits| waits.due > now) => return None,
                Err(error) => {
                    super::log_store_error("the suppression list cannot be read; mail waits", &error);
                    let words = "the suppression list cannot be read now";
                    let failure = Failure::new(Scope::Recipient, EnhancedStatus::transient(3, 0), words);
                    defer(&self.live.current(), message, recipient, failure, now)
                }
            };
            Some((index, conclusion))
        });
        judged.collect()
    }

    fn suppression_of(
        &self,
        queue: &QueueName,
        recipient: &Recipient,
        now: Timestamp,
    ) -> Result<Option<Suppression>, StoreError> {
        // it fails already, for a reason of its own
        if *queue == QueueName::Directory && recipient.last_failure.as_ref().is_some_and(Failure::is_permanent) {
            return Ok(None);
        }
        match &recipient.forward_path {
            ForwardPath::Mailbox(mailbox) => self.suppressions.find(mailbox, is_ours(queue), now),
            ForwardPath::Postmaster => Ok(None),
        }
    }

    /// Those of an attempt who do not exist, for the list, when the operator wants that.
    pub(super) fn unknown_elsewhere(&self, leased: &Leased, results: &[(u32, AttemptResult)]) -> Vec<Suppression> {
        let settings = &self.live.current().settings.suppression;
        let here = leased.leases.iter().any(|lease| is_ours(&lease.queue));
        if !settings.on_permanent_failure || here {
            return Vec::new();
        }
        let now = self.now();
        let unknown = results.iter().filter_map(|(index, result)| match result {
            AttemptResult::Failed(failure) if says_unknown(failure) => {
                let recipient = leased.message.recipients.get(*index as usize)?;
                let ForwardPath::Mailbox(mailbox) = &recipient.forward_path else { return None };
                Some(Suppression {
                    address: MailboxPattern::Mailbox(mailbox.clone()),
                    reason: Some(reason(failure)),
                    source: Source::PermanentFailure,
                    expires_at: settings.expires_after.map(|after| now + after.std()),
                    created_at: now,
                    by: None,
                })
            }
            _ => None,
        });
        unknown.collect()
    }
}

/// The statuses that mean that nobody will ever get mail under this address (RFC 3463, RFC 7505).
fn says_unknown(failure: &Failure) -> bool {
    let EnhancedStatus { class, subject, detail } = failure.status;
    class == StatusClass::Permanent && matches!((subject, detail), (1, 1 | 2 | 6 | 10) | (2, 1))
}

fn reason(failure: &Failure) -> String {
    let mut words = failure.to_string();
    let most = (0..=crate::directory::suppressions::MAX_REASON).rev().find(|at| words.is_char_boundary(*at));
    words.truncate(most.unwrap_or_default());
    words
}

fn failure(found: &Suppression) -> Failure {
    let reason = found.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    let words = format!("the recipient is on the suppression list of this server{reason}");
    Failure::new(Scope::Recipient, EnhancedStatus::permanent(7, 1), words)
}
