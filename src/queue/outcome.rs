//! What an attempt's results mean, and the one step that records it.
//!
//! Results become *conclusions*, one per recipient; conclusions become states, notifications and tracking events; states
//! and notifications are recorded together ([`QueueStore::record`](crate::store::QueueStore::record)). Nobody else
//! changes recipients.
//!
//! | result | conclusion |
//! |---|---|
//! | taken by store or next hop | done; a success report if it was asked for and nobody further on will send it |
//! | permanent failure | failed: non-delivery report, or dead letter where nobody can be told |
//! | put off by a host of several | deferred until now: the next host is asked |
//! | transient failure, too old | expired: the same |
//! | transient failure | deferred to the next retry interval; a delay report once |

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::conclusion::{Conclusion, conclude_result, is_too_many_recipients};
use super::scheduler::aged;
use super::{Queue, log_store_error, track};
use crate::model::event_kind::EventKind;
use crate::model::failure::Failure;
use crate::model::mail::{Change, Message, MessageId, Recipient, Waits};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::observe::metrics::ByAttempt;
use crate::smtp::parameters::Hold;
use crate::store::{Caused, Lease, Leased, StoreError};

/// How long until an outcome that could not be recorded is tried again.
const RECORD_AGAIN: Duration = Duration::from_millis(500);
/// When the queues of a message are looked at again after a record.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The same after a record that failed.
const LOOK_AFTER_ERROR: Duration = Duration::from_secs(10);

/// What of the sender's wishes a next hop was told, and will care for from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PassedOn {
    /// It offers DSN: it reports success itself.
    pub dsn: bool,
    /// It offers DELIVERBY: it watches the time itself.
    pub deliver_by: bool,
}

/// What became of one recipient in an attempt.
#[derive(Debug, Clone)]
pub enum AttemptResult {
    /// In its mailbox store.
    Delivered,
    /// Taken by the next hop with this reply.
    Relayed {
        /// The reply, for the operator.
        reply: String,
        /// What the next hop was told of the sender's wishes.
        passed_on: PassedOn,
    },
    /// Not.
    Failed(Failure),
    /// Not by this host, and another one of the next hop has not been asked yet: it is, at once.
    NextHost(Failure),
}

/// One attempt to deliver one message, done.
#[derive(Debug)]
pub struct Attempt {
    /// The message and the lease.
    pub leased: Leased,
    /// A result per recipient that was tried, by index.
    pub results: Vec<(u32, AttemptResult)>,
    /// The host that was spoken to.
    pub next_hop: Option<String>,
    /// How it was encrypted, if it was.
    pub tls: Option<HopTls>,
    /// How long it took.
    pub duration: Duration,
}

/// How a session with a next hop was encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HopTls {
    /// `TLSv1.3`, as RFC 8314, 4.3 writes it.
    pub version: &'static str,
    /// The certificate was found good for the name.
    pub verified: bool,
}

/// How hard a conclusion is tried to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    /// It is the outcome of an attempt: it is kept in hand until the store has it.
    UntilItIsThere,
    /// Once; whoever asked hears of an error. Synced when a person asked.
    Once { synced: bool },
}

/// Facts of an attempt, or of what an operator did, for logs and tracking.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts<'a> {
    pub next_hop: Option<&'a str>,
    pub tls: Option<HopTls>,
    pub duration: Option<Duration>,
    /// The first of the messages that go on to others.
    pub further: Option<MessageId>,
    /// Who asked for it.
    pub by: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// Of what somebody asked for.
    pub fn by(who: &'a str) -> Self {
        Facts { by: Some(who), ..Facts::default() }
    }
}

impl Queue {
    /// Records what became of an attempt.
    pub async fn settle(&self, attempt: Attempt) {
        let Attempt { leased, results, next_hop, tls, duration } = attempt;
        let now = self.now();
        let snapshot = self.live.current();
        let unknown = self.unknown_elsewhere(&leased, &results);
        let some_went = results.iter().any(|(_, result)| matches!(result, AttemptResult::Relayed { .. }));
        let conclusions = results
            .into_iter()
            .filter_map(|(index, result)| {
                let recipient = leased.message.recipients.get(index as usize)?;
                let conclusion = match result {
                    // one recipient more than the next hop takes at once: no failure, it goes with the next transaction
                    AttemptResult::Failed(failure) if some_went && is_too_many_recipients(&failure) => {
                        Conclusion::Deferred { failure, attempts: recipient.attempts, until: now }
                    }
                    // only when all hosts have been asked it counts as one attempt
                    AttemptResult::NextHost(failure) => {
                        Conclusion::Deferred { failure, attempts: recipient.attempts, until: now }
                    }
                    result => conclude_result(&snapshot, &leased.message, recipient, result, now),
                };
                Some((index, conclusion))
            })
            .collect();
        let facts = Facts { next_hop: next_hop.as_deref(), tls, duration: Some(duration), ..Facts::default() };
        if let Err(error) = self.conclude(leased, conclusions, facts, Persistence::UntilItIsThere).await {
            // the leases died with the record: the message is due again, and may arrive twice
            return log_store_error("an outcome could not be recorded; the message will be tried again", &error);
        }
        unknown.into_iter().for_each(|entry| self.suppressions.notice(entry));
    }

    /// Turns conclusions into states and reports, and records them in one step.
    pub(super) async fn conclude(
        &self,
        leased: Leased,
        conclusions: Vec<(u32, Conclusion)>,
        facts: Facts<'_>,
        persistence: Persistence,
    ) -> Result<(), StoreError> {
        self.conclude_with(leased, conclusions, Vec::new(), facts, persistence).await
    }

    /// The same with another choice of a connector.
    pub(super) async fn conclude_chosen(
        &self,
        leased: Leased,
        conclusions: Vec<(u32, Conclusion)>,
        connector: Option<Name>,
        facts: Facts<'_>,
        persistence: Persistence,
    ) -> Result<(), StoreError> {
        let change = Change { connector: Some(connector), ..Change::default() };
        self.conclude_all(leased, conclusions, change, Vec::new(), facts, persistence).await
    }

    /// The same with messages that go on to others in the same step.
    pub(super) async fn conclude_with(
        &self,
        leased: Leased,
        conclusions: Vec<(u32, Conclusion)>,
        further: Vec<Caused>,
        facts: Facts<'_>,
        persistence: Persistence,
    ) -> Result<(), StoreError> {
        self.conclude_all(leased, conclusions, Change::default(), further, facts, persistence).await
    }

    /// The same for mail that is let go: when it is older than its terms allow, its time counts from now on.
    pub(super) async fn conclude_let_go(
        &self,
        leased: Leased,
        conclusions: Vec<(u32, Conclusion)>,
        facts: Facts<'_>,
    ) -> Result<(), StoreError> {
        let now = self.now();
        let mut after = Message::clone(&leased.message);
        let released_at = after.released_at();
        for (index, conclusion) in &conclusions {
            if let Some(recipient) = after.recipients.get_mut(*index as usize) {
                conclusion.apply(recipient, now, released_at);
            }
        }
        let let_go = conclusions.iter().any(|(_, conclusion)| matches!(conclusion, Conclusion::LetGo(..)));
        if let_go && !aged(&self.live.current(), &after, now).is_empty() {
            return self.conclude_anew(leased, conclusions, facts).await;
        }
        self.conclude(leased, conclusions, facts, Persistence::Once { synced: false }).await
    }

    /// The same for mail whose time begins anew: retries, delay notification and expiry count from now on, as at the end of a
    /// hold (RFC 4865), and it is not frozen. Durable when it returns. Only for conclusions that end nothing, and of which nobody is told.
    pub(super) async fn conclude_anew(
        &self,
        leased: Leased,
        conclusions: Vec<(u32, Conclusion)>,
        facts: Facts<'_>,
    ) -> Result<(), StoreError> {
        let now = self.now();
        let Leased { message, leases, .. } = leased;
        let conclusions = self.with_holds(&message, conclusions);
        let mut after = Message::clone(&message);
        let released_at = after.released_at();
        for (index, conclusion) in &conclusions {
            if let Some(recipient) = after.recipients.get_mut(*index as usize) {
                conclusion.apply(recipient, now, released_at);
                recipient.delay_notified = false;
            }
        }
        after.parameters.hold = Some(Hold::Until(now.millis().div_euclid(1_000)));
        after.frozen = false;
        let queues: Vec<QueueName> = leases.iter().map(|lease| lease.queue.clone()).collect();
        match self.store.amend(leases, after).await {
            Ok(leased) => {
                self.tell(&message, &leased.message, &conclusions, facts, &[]);
                self.enqueue(leased);
                Ok(())
            }
            Err(error) => {
                queues.iter().for_each(|queue| self.agenda.look(queue, now + LOOK_AFTER_ERROR));
                Err(error)
            }
        }
    }

    async fn conclude_all(
        &self,
        leased: Leased,
        conclusions: Vec<(u32, Conclusion)>,
        mut change: Change,
        further: Vec<Caused>,
        facts: Facts<'_>,
        persistence: Persistence,
    ) -> Result<(), StoreError> {
        let now = self.now();
        let snapshot = self.live.current();
        let Leased { message, leases, content } = leased;
        let conclusions = self.with_holds(&message, conclusions);
        let mut after = Message::clone(&message);
        after.apply(&change);
        let released_at = after.released_at();
        let retention = now + snapshot.settings.retention.dead_letter.std();
        for (index, conclusion) in &conclusions {
            if let Some(recipient) = after.recipients.get_mut(*index as usize) {
                conclusion.apply(recipient, now, released_at);
            }
        }
        let reports = self.reports(&snapshot, &after, &conclusions, content.as_ref()).await;
        for (index, conclusion) in &conclusions {
            let Some(recipient) = after.recipients.get_mut(*index as usize) else { continue };
            // nobody is told: it must stay visible
            let removed = matches!(conclusion, Conclusion::Removed { .. } | Conclusion::Replaced);
            if reports.dead_letters.contains(index) && !removed {
                recipient.waits = Some(Waits { queue: QueueName::DeadLetter, due: retention });
            }
            if matches!(conclusion, Conclusion::Delayed) || reports.delayed.contains(index) {
                recipient.delay_notified = true;
            }
            change.recipients.push((*index, recipient.state()));
        }
        let caused_ids: Vec<_> = reports.caused.iter().map(|caused: &Caused| caused.message.id).collect();
        let facts = Facts { further: further.first().map(|caused| caused.message.id), ..facts };
        let caused = further.into_iter().chain(reports.caused).collect();
        let held: Vec<QueueName> = leases.iter().map(|lease| lease.queue.clone()).collect();
        let recorded = match persistence {
            Persistence::UntilItIsThere => self.record(leases, change, caused).await,
            Persistence::Once { synced } => self.store.record(leases, change, caused, synced).await,
        };
        // others may have changed the same message meanwhile: its queues are looked at again
        let again = match &recorded {
            Ok(_) if after.recipients.len() == 1 => None,
            Ok(_) => Some(now + LOOK_AGAIN),
            Err(_) => Some(now + LOOK_AFTER_ERROR),
        };
        if let Some(again) = again {
            held.iter().for_each(|queue| self.agenda.look(queue, again));
        }
        let caused = recorded?;
        self.count_attempt(&after, &conclusions, held.first(), facts.duration, now);
        self.tell(&message, &after, &conclusions, facts, &caused_ids);
        for leased in caused {
            if caused_ids.contains(&leased.message.id) {
                self.metrics.notifications.inc();
                self.track_received(&leased.message);
            } else {
                self.track_further(after.id, &leased.message);
            }
            self.enqueue(leased);
        }
        for (queue, due) in after.waiting() {
            self.agenda.look(&queue, due);
        }
        Ok(())
    }

    /// Records, and goes on trying while the store heals itself: what was delivered must not be delivered again.
    async fn record(
        &self,
        mut leases: Vec<Lease>,
        change: Change,
        caused: Vec<Caused>,
    ) -> Result<Vec<Leased>, StoreError> {
        let Some(id) = leases.first().map(|lease| lease.id) else { return Err(StoreError::Leased) };
        loop {
            let error = match self.store.record(leases, change.clone(), caused.clone(), false).await {
                Ok(caused) => return Ok(caused),
                Err(error) => error,
            };
            if matches!(error, StoreError::NotFound | StoreError::Closed) {
                return Err(error);
            }
            // the leases ended with the attempt to record: take them again before anybody else does
            leases = loop {
                match self.store.lease_message(id).await {
                    Ok(leased) => break leased.leases,
                    Err(StoreError::Leased) if !self.stopping.load(Ordering::Acquire) => {}
                    Err(error) => return Err(error),
                }
                tokio::time::sleep(RECORD_AGAIN).await;
            };
            log_store_error(
                "an outcome could not be recorded yet; it is kept and recorded as soon as possible",
                &error,
            );
            tokio::time::sleep(RECORD_AGAIN).await;
            if self.stopping.load(Ordering::Acquire) {
                self.store.release(leases);
                return Err(error);
            }
        }
    }

    /// Counts what came of an attempt from this queue. What an operator did, and mail that moves, is no attempt.
    fn count_attempt(
        &self,
        after: &Message,
        conclusions: &[(u32, Conclusion)],
        queue: Option<&QueueName>,
        duration: Option<Duration>,
        now: Timestamp,
    ) {
        let (Some(queue), Some(duration)) = (queue, duration) else { return };
        self.metrics.attempt_seconds.observe(duration.as_secs_f64());
        for (_, conclusion) in conclusions {
            let (event, outcome) = conclusion.event();
            let connector = queue.connector().map(ToString::to_string).unwrap_or_default();
            self.metrics.attempts.get_or_create(&ByAttempt { kind: queue.kind(), connector, outcome }).inc();
            if matches!(event, EventKind::Delivered | EventKind::Relayed) {
                self.metrics.delay_seconds.observe(now.since(after.released_at()).as_secs_f64());
            }
        }
    }

    /// Tracking, logs and counters: after the record, so that they only tell what holds.
    fn tell(
        &self,
        before: &Message,
        after: &Message,
        conclusions: &[(u32, Conclusion)],
        facts: Facts<'_>,
        caused: &[MessageId],
    ) {
        for (index, conclusion) in conclusions {
            let Some(recipient) = after.recipients.get(*index as usize) else { continue };
            let dead = recipient.waits.as_ref().is_some_and(|waits| waits.queue == QueueName::DeadLetter);
            let (event, word) = conclusion.event();
            if let Some(link) = recipient.waits.as_ref().and_then(|waits| self.links().get(&waits.queue).cloned())
                && let Some(failure) = &recipient.last_failure
            {
                link.note_failure(failure);
            }
            self.metrics.outcome(word, 1);
            let waited = before.recipients.get(*index as usize);
            let was_in = waited.and_then(|recipient| recipient.waits.as_ref());
            // mail that comes while there is a hold is held by whoever made that
            let is_held = facts.by.is_none() && matches!(conclusion, Conclusion::Held(_));
            let hold = waited.zip(was_in).filter(|_| is_held);
            let hold = hold.and_then(|(recipient, waits)| self.held_by(before, recipient, &waits.queue));
            let detail = track::Detail {
                queue: recipient.waits.as_ref().map(|waits| &waits.queue),
                connector: was_in.filter(|_| conclusion.is_of_attempt()).and_then(|waits| waits.queue.connector()),
                next_hop: facts.next_hop,
                tls: facts.tls.map(|tls| tls.version),
                tls_verified: facts.tls.is_some_and(|tls| tls.verified),
                attempts: Some(recipient.attempts).filter(|_| matches!(conclusion, Conclusion::Deferred { .. })),
                reply: conclusion.reply(),
                failure: recipient.last_failure.as_ref().filter(|_| conclusion.tells_failure()),
                next_attempt: recipient.waits.as_ref().filter(|_| !dead).map(|waits| waits.due),
                related: facts
                    .further
                    .filter(|_| matches!(conclusion, Conclusion::Expanded { .. } | Conclusion::Replaced)),
                by: facts.by.or(hold.as_ref().map(|hold| hold.by.as_str())),
                duration_ms: facts.duration.map(track::millis),
                ..track::Detail::default()
            };
            log(after, recipient, word, &detail);
            let to = recipient.forward_path.to_string();
            self.track(event, after, Some(to.clone()), detail.clone());
            if dead {
                self.metrics.outcome("deadLettered", 1);
                self.track(EventKind::DeadLettered, after, Some(to), track::Detail::default());
            }
        }
        for id in caused {
            let detail = track::Detail { related: Some(*id), ..track::Detail::default() };
            self.track(EventKind::Dsn, after, None, detail);
        }
    }
}

fn log(message: &Message, recipient: &Recipient, outcome: &str, detail: &track::Detail<'_>) {
    tracing::info!(
        message.id = %message.id,
        recipient = %recipient.forward_path,
        sender = %message.reverse_path,
        outcome,
        queue = detail.queue.map(tracing::field::display),
        next_hop = detail.next_hop,
        smtp.reply = detail.reply,
        failure = detail.failure.map(tracing::field::display),
        next_attempt = detail.next_attempt.map(tracing::field::display),
        duration_ms = detail.duration_ms,
        by = detail.by,
        "recipient"
    );
}
