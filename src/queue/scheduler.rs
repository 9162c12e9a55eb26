//! Looks at queues when their time comes: leases what is due, assigns it anew, offers it to the link.
//!
//! Configuration may have changed since a message was assigned, so everything that comes from the store is assigned
//! again (a pure function over the snapshot); what belongs elsewhere is moved. Age is looked at apart from attempts, so that mail
//! behind a dead host is reported and expires in time: a cursor walks the oldest messages in bounded steps.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::conclusion::Conclusion;
use super::outcome::{Facts, Persistence};
use super::rerouting::Rerouting;
use super::{Assignment, Queue, assign_again, log_store_error, settings};
use crate::config::Snapshot;
use crate::model::failure::{Failure, Scope};
use crate::model::mail::{Message, Recipient, RecipientStatus};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::smtp::address::ForwardPath;
use crate::smtp::parameters::ByMode;
use crate::smtp::reply::EnhancedStatus;
use crate::store::{Leased, PageKey, StoreError};

/// Most messages leased in one look at a queue.
const BATCH: usize = 500;
/// Most messages whose age is looked at in one step.
const AGE_ROWS: usize = 500;
/// How long until a message that a worker had at its deadline is looked at again.
const LEASED_AGAIN: Duration = Duration::from_secs(5);
/// Longest sleep: a clock that was set is noticed after this.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// Runs until the queue stops.
pub(super) async fn run(queue: &Arc<Queue>) {
    for count in queue.store.queues() {
        queue.agenda.look_at_once(&count.queue);
    }
    let mut aging = Aging { cursor: None, next: queue.now(), began: queue.now() };
    let mut walk = Walk::default();
    queue.resume_operations();
    queue.go_on_holding();
    let mut rerouting = Rerouting::new(queue);
    let mut changes = queue.live.subscribe();
    while !queue.stopping.load(Ordering::Acquire) {
        let now = queue.now();
        let (due, next) = queue.agenda.due(now, 64);
        for name in &due {
            queue.look(name).await;
        }
        queue.meet_deadlines().await;
        queue.expire_holds().await;
        queue.move_set_aside().await;
        walk.step(queue).await;
        rerouting.step(queue).await;
        aging.step(queue).await;
        if !due.is_empty() {
            tokio::task::yield_now().await;
            continue;
        }
        let times = [next, queue.deadlines.next(), walk.next(), rerouting.next(), queue.holds.next_expiry()];
        let until = times.into_iter().flatten().fold(aging.next, Timestamp::min);
        let sleep = until.since(queue.now()).clamp(Duration::from_millis(1), LONGEST_SLEEP);
        tokio::select! {
            () = queue.agenda.changed() => {}
            () = queue.suppressions.added() => queue.take_back_suppressed(),
            _ = changes.changed() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

impl Queue {
    /// One look at one queue.
    pub(super) async fn look(&self, name: &QueueName) {
        // no time lets it go
        if *name == QueueName::Held {
            return;
        }
        let link = self.link(name);
        let now = self.now();
        if link.is_frozen() {
            return;
        }
        if self.keep_hours(&link, now).is_some() {
            return;
        }
        self.note_health(&link);
        if let Some(until) = link.resting_until(now) {
            self.agenda.look(name, until);
            return;
        }
        if link.wants_worker(now, self.max_workers(name)) {
            self.employ(&link);
        }
        let room = link.room(now).min(BATCH);
        if room == 0 {
            link.set_more(true);
            return;
        }
        let batch = match self.store.lease(name, now, room).await {
            Ok(batch) => batch,
            Err(error) => {
                log_store_error("due mail could not be read", &error);
                self.agenda.look(name, now + Duration::from_secs(10));
                return;
            }
        };
        let full = batch.len() == room;
        for leased in batch {
            self.dispatch(name, leased).await;
        }
        if full {
            self.agenda.look_at_once(name);
            return;
        }
        link.set_more(false);
        link.drained();
        match self.store.next_due(name).await {
            Ok(Some(due)) => self.agenda.look(name, due.max(now + Duration::from_millis(20))),
            Ok(None) => {
                let mut links = self.links();
                if link.is_idle(now) && Arc::strong_count(&link) == 2 {
                    links.remove(name);
                } else if let Some(until) = link.remembers(now) {
                    self.agenda.look(name, until);
                }
            }
            Err(error) => {
                log_store_error("the next due time could not be read", &error);
                self.agenda.look(name, now + Duration::from_secs(10));
            }
        }
    }

    /// What a due message does: purge, move, wait, or go to its link.
    async fn dispatch(&self, name: &QueueName, leased: Leased) {
        if *name == QueueName::DeadLetter {
            let ended = due_here(&leased.message, name, self.now());
            let all = ended.map(|index| (index, Conclusion::Removed { report: false })).collect();
            return self.conclude_logged(leased, all).await;
        }
        let conclusions = self.assign_again(name, &leased.message);
        if conclusions.is_empty() {
            let link = self.link(name);
            match self.put_off(&link, &leased.message, self.now()) {
                Some(until) => self.wait_until(name, leased, until).await,
                None => self.offer(&link, leased),
            }
        } else {
            self.conclude_logged(leased, conclusions).await;
        }
    }

    /// What changes when the recipients that wait here are assigned anew; nothing, as a rule.
    fn assign_again(&self, name: &QueueName, message: &Message) -> Vec<(u32, Conclusion)> {
        let snapshot = self.live.current();
        let now = self.now();
        let suppressed = self.suppressed(name, message, now);
        if !suppressed.is_empty() {
            return suppressed;
        }
        let terms = settings::terms(&snapshot, &message.origin.virtual_server, name);
        let expires = settings::ends(&snapshot, message, name).expires;
        // what is to be returned at a time is not tried behind it
        if message.deliver_by().is_some_and(|(deadline, mode)| mode == ByMode::Return && deadline <= now) {
            return due_here(message, name, now).map(|index| (index, Conclusion::Expired(None))).collect();
        }
        let down = self.down();
        let mut conclusions = Vec::new();
        for index in due_here(message, name, now) {
            let Some(recipient) = message.recipients.get(index as usize) else { continue };
            if self.holds.hold(message, recipient, name) {
                conclusions.push((index, Conclusion::Held(recipient.directory_name.clone())));
                continue;
            }
            // who is meant is asked where it is distributed
            if *name == QueueName::Directory {
                continue;
            }
            match assign_again(&snapshot, &*self.recipients, message, recipient, &down) {
                // nobody in the directory, nobody to ask: no time will mend that
                Assignment::Queue(QueueName::Unrouted, _) if is_local(&snapshot, recipient) => {
                    conclusions.push((index, Conclusion::Failed(nobody_shares(recipient))));
                }
                Assignment::Queue(queue, directory_name) if queue != *name => {
                    conclusions.push((index, Conclusion::Moved(queue, directory_name)));
                }
                Assignment::Queue(queue, _) if queue != QueueName::Unrouted => {}
                // these wait: somebody may bring the connector or the mailbox back
                nowhere => {
                    let failure = nowhere_to_go(&nowhere);
                    let attempts = recipient.attempts.saturating_add(1);
                    let until = now + terms.retry_after(attempts, message.id.spread());
                    conclusions.push((
                        index,
                        if now >= expires {
                            Conclusion::Expired(Some(failure))
                        } else {
                            Conclusion::Deferred { failure, attempts, until: until.min(expires) }
                        },
                    ));
                }
            }
        }
        conclusions
    }

    /// Looks at the messages whose time to deliver has come.
    async fn meet_deadlines(&self) {
        let now = self.now();
        for id in self.deadlines.due(now, BATCH) {
            match self.lease_for_operator(id).await {
                Ok(leased) => self.conclude_aged(leased).await,
                // it is being tried: the outcome will see the time
                Err(StoreError::Leased) => drop(self.deadlines.put(now + LEASED_AGAIN, id)),
                Err(StoreError::NotFound) => {}
                Err(error) => {
                    log_store_error("mail whose time to deliver has come could not be looked at", &error);
                    self.deadlines.put(now + Duration::from_secs(10), id);
                }
            }
        }
    }

    /// What age does to a message that was leased for it.
    async fn conclude_aged(&self, leased: Leased) {
        let conclusions = aged(&self.live.current(), &leased.message, self.now());
        if conclusions.is_empty() {
            self.give_back(leased);
        } else {
            self.conclude_logged(leased, conclusions).await;
        }
    }

    pub(super) async fn conclude_logged(&self, leased: Leased, conclusions: Vec<(u32, Conclusion)>) {
        let once = Persistence::Once { synced: false };
        if let Err(error) = self.conclude(leased, conclusions, Facts::default(), once).await {
            log_store_error("a change of the queue could not be recorded", &error);
        }
    }
}

/// Why a recipient has no queue to go to now.
pub(super) fn nowhere_to_go(assignment: &Assignment) -> Failure {
    let (status, words) = match assignment {
        Assignment::Queue(..) => (EnhancedStatus::transient(4, 4), "no connector carries mail for this recipient"),
        Assignment::Refused(_) | Assignment::Unknown => {
            (EnhancedStatus::transient(1, 1), "the recipient is no longer in the directory")
        }
        Assignment::TryLater => (EnhancedStatus::transient(3, 0), "the directory cannot be read now"),
    };
    Failure::new(Scope::Recipient, status, words)
}

/// Whether the recipient's domain is local.
fn is_local(snapshot: &Snapshot, recipient: &Recipient) -> bool {
    let mailbox = match &recipient.forward_path {
        ForwardPath::Mailbox(mailbox) => mailbox,
        ForwardPath::Postmaster => return false,
    };
    snapshot.domains.find(mailbox.domain()).is_some()
}

/// A recipient of a shared domain whom nobody knows (RFC 3463, 3.5: unable to route).
fn nobody_shares(recipient: &Recipient) -> Failure {
    let words = format!(
        "{} is not in the directory, and no connector leads to the system that its domain is shared with",
        recipient.forward_path
    );
    Failure::new(Scope::Recipient, EnhancedStatus::permanent(4, 4), words)
}

/// Indexes of the recipients that wait in this queue and are due.
fn due_here(message: &Message, queue: &QueueName, now: Timestamp) -> impl Iterator<Item = u32> {
    waiting_here(message, queue).filter(move |index| {
        let waits = message.recipients.get(*index as usize).and_then(|recipient| recipient.waits.as_ref());
        waits.is_some_and(|waits| waits.due <= now)
    })
}

/// Indexes of the recipients that wait in this queue.
pub(super) fn waiting_here(message: &Message, queue: &QueueName) -> impl Iterator<Item = u32> {
    (0u32..)
        .zip(&message.recipients)
        .filter(move |(_, recipient)| recipient.waits.as_ref().is_some_and(|waits| waits.queue == *queue))
        .map(|(index, _)| index)
}

/// The walk over all messages for times to deliver that are not known.
#[derive(Default)]
struct Walk {
    under_way: bool,
    cursor: Option<PageKey>,
    next: Option<Timestamp>,
}

impl Walk {
    /// When the next step is.
    fn next(&self) -> Option<Timestamp> {
        self.next
    }

    async fn step(&mut self, queue: &Arc<Queue>) {
        let now = queue.now();
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        // listings are complete only when the database has caught up
        let begins = || queue.store.health().ready && queue.deadlines.take_walk();
        if !(self.under_way || begins()) {
            self.next = Some(now + Duration::from_secs(1));
            return;
        }
        let page = match queue.store.page(None, self.cursor, AGE_ROWS).await {
            Ok(page) => page,
            Err(error) => {
                log_store_error("mail with a time to deliver could not be looked for", &error);
                self.under_way = true;
                self.next = Some(now + Duration::from_secs(10));
                return;
            }
        };
        for (_, message) in &page {
            queue.deadlines.note(message);
        }
        self.under_way = page.len() == AGE_ROWS;
        self.cursor = page.last().map(|(key, _)| *key).filter(|_| self.under_way);
        self.next = Some(now + Duration::from_millis(20));
    }
}

/// The walk over the oldest messages.
struct Aging {
    cursor: Option<PageKey>,
    next: Timestamp,
    /// When this walk began.
    began: Timestamp,
}

impl Aging {
    async fn step(&mut self, queue: &Arc<Queue>) {
        let now = queue.now();
        if now < self.next {
            return;
        }
        let snapshot = queue.live.current();
        let young = settings::first_age(&snapshot);
        let page = match queue.store.page(None, self.cursor, AGE_ROWS).await {
            Ok(page) => page,
            Err(error) => {
                log_store_error("old mail could not be looked at", &error);
                self.next = now + Duration::from_secs(10);
                return;
            }
        };
        let full = page.len() == AGE_ROWS;
        if self.cursor.is_none() {
            self.began = now;
        }
        self.cursor = page.last().map(|(key, _)| *key);
        for (key, message) in page {
            if now.since(key.received_at) < young {
                self.rest(now, young);
                return;
            }
            if aged(&snapshot, &message, now).is_empty() {
                continue;
            }
            // one that a worker has gets its due by the outcome
            if let Ok(leased) = queue.lease_for_operator(message.id).await {
                // it may have moved on since the page was read
                queue.conclude_aged(leased).await;
            }
        }
        if full {
            self.next = now;
        } else {
            self.rest(now, young);
        }
    }

    fn rest(&mut self, now: Timestamp, young: Duration) {
        self.cursor = None;
        // a long walk earns a long rest
        let rest = (young / 10).clamp(Duration::from_millis(200), Duration::from_secs(60));
        self.next = now + rest.max(now.since(self.began) * 10);
    }
}

/// What age alone does to a message. A frozen one does not age, nor who is held.
pub(super) fn aged(snapshot: &Snapshot, message: &Message, now: Timestamp) -> Vec<(u32, Conclusion)> {
    if message.frozen {
        return Vec::new();
    }
    let pending = |status| matches!(status, RecipientStatus::Pending);
    (0u32..)
        .zip(&message.recipients)
        .filter(|(_, recipient)| pending(recipient.status))
        .filter(|(_, recipient)| recipient.waits.as_ref().is_some_and(|waits| waits.queue != QueueName::Held))
        .filter_map(|(index, recipient)| {
            let ends = settings::ends(snapshot, message, &recipient.waits.as_ref()?.queue);
            if now >= ends.expires {
                Some((index, Conclusion::Expired(None)))
            } else if now >= ends.late && !recipient.delay_notified && message.reverse_path.mailbox().is_some() {
                Some((index, Conclusion::Delayed))
            } else {
                None
            }
        })
        .collect()
}
