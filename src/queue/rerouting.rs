//! Mail that belongs elsewhere now: the configuration has changed, or a connector is down and there is another way.
//!
//! Mail that comes due is assigned anew in any case; this walk is for what would wait: it looks at all messages, or at those of
//! one queue, in bounded steps, and moves those that the same functions would put elsewhere. The look before a change
//! ([`config::QueuedMail`]) counts with them too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;

use super::conclusion::Conclusion;
use super::outcome::Facts;
use super::{Assignment, Queue, assign_again, log_store_error};
use crate::config::{self, MailMove, QueuedMailEffects, Snapshot};
use crate::model::mail::{Message, RecipientStatus};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::store::PageKey;

/// Most messages that are looked at in one step.
const ROWS: usize = 500;
/// Most messages that are counted before a change.
const MOST_COUNTED: u64 = 50_000;
/// Most moves that are told.
const MOST_MOVES: usize = 100;
/// The pause between two steps.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// The walk. Part of the scheduler.
pub(super) struct Rerouting {
    known: Arc<Snapshot>,
    /// What is walked over: one queue, or all.
    over: Option<Option<QueueName>>,
    cursor: Option<PageKey>,
    next: Option<Timestamp>,
}

impl Rerouting {
    pub(super) fn new(queue: &Queue) -> Self {
        Rerouting { known: queue.live.current(), over: None, cursor: None, next: None }
    }

    /// When the next step is.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.next
    }

    pub(super) async fn step(&mut self, queue: &Arc<Queue>) {
        let now = queue.now();
        let current = queue.live.current();
        if routes_differ(&self.known, &current) {
            // every queue may rest for a schedule, or a connector, that is no more
            queue.store.queues().iter().for_each(|count| queue.agenda.look_at_once(&count.queue));
            queue.try_changed_connectors(&self.known, &current);
            queue.forget_gone_connectors();
            queue.forget_gone_suspensions().await;
            queue.look_for_another_way(None);
        }
        self.known = current;
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        if self.over.is_none() {
            self.over = queue.wanting().pop_first();
            self.cursor = None;
        }
        let Some(over) = &self.over else {
            self.next = None;
            return;
        };
        self.next = Some(now + PAUSE);
        // listings are complete only when the database has caught up
        if !queue.store.health().ready {
            self.next = Some(now + std::time::Duration::from_secs(1));
            return;
        }
        let page = match queue.store.page(over.as_ref(), self.cursor, ROWS).await {
            Ok(page) => page,
            Err(error) => {
                log_store_error("mail that may have to go another way could not be looked at", &error);
                self.next = Some(now + std::time::Duration::from_secs(10));
                return;
            }
        };
        let ended = page.len() < ROWS;
        self.cursor = page.last().map(|(key, _)| *key);
        let down = queue.down();
        for (_, message) in page {
            let waits = message.released_at() > now;
            if to_move(queue, &self.known, &message, &down, waits).is_empty() {
                continue;
            }
            // one that a worker has comes up again by its outcome
            let Ok(leased) = queue.lease_for_operator(message.id).await else { continue };
            let moved = to_move(queue, &self.known, &leased.message, &down, waits);
            if moved.is_empty() {
                queue.give_back(leased);
            } else if let Err(error) = queue.conclude_let_go(leased, moved, Facts::default()).await {
                log_store_error("a change of the queue could not be recorded", &error);
            }
        }
        if ended {
            self.over = None;
        }
    }
}

/// Whether mail may have to go elsewhere.
fn routes_differ(a: &Snapshot, b: &Snapshot) -> bool {
    !Arc::ptr_eq(&a.routes, &b.routes)
        || !Arc::ptr_eq(&a.domains, &b.domains)
        || a.default_virtual_server != b.default_virtual_server
        || a.stores.keys().ne(b.stores.keys())
}

/// A recipient that waits in one queue and belongs into another.
struct Misplaced {
    index: u32,
    from: QueueName,
    to: QueueName,
    directory_name: Option<Name>,
}

/// The recipients that wait in a queue in which these functions would not put them, and where they would: also nowhere
/// (`unrouted`). A frozen message stays where it is.
fn misplaced(queue: &Queue, snapshot: &Snapshot, message: &Message, down: &BTreeSet<Name>) -> Vec<Misplaced> {
    if message.frozen {
        return Vec::new();
    }
    (0u32..)
        .zip(&message.recipients)
        .filter_map(|(index, recipient)| {
            let waits = recipient.waits.as_ref().filter(|_| recipient.status == RecipientStatus::Pending)?;
            if matches!(waits.queue, QueueName::Directory | QueueName::Held | QueueName::DeadLetter) {
                return None;
            }
            match assign_again(snapshot, &*queue.recipients, message, recipient, down) {
                Assignment::Queue(to, directory_name) if to != waits.queue => {
                    Some(Misplaced { index, from: waits.queue.clone(), to, directory_name })
                }
                _ => None,
            }
        })
        .collect()
}

/// Those that are moved at once: what has nowhere to go stays where it is, until it comes due. Holds move also what is frozen, or
/// waits for a time.
fn to_move(
    queue: &Queue,
    snapshot: &Snapshot,
    message: &Message,
    down: &BTreeSet<Name>,
    waits: bool,
) -> Vec<(u32, Conclusion)> {
    let mut moves = queue.moves_by_holds(snapshot, message);
    if waits {
        return moves;
    }
    let misplaced = misplaced(queue, snapshot, message, down).into_iter();
    let somewhere: Vec<_> = misplaced
        .filter(|known| known.to != QueueName::Unrouted && !moves.iter().any(|(index, _)| *index == known.index))
        .map(|known| (known.index, Conclusion::Moved(known.to, known.directory_name)))
        .collect();
    moves.extend(somewhere);
    moves
}

impl Queue {
    /// Sees to it, after a start, that all is held that should be, and nothing else.
    pub(super) fn go_on_holding(&self) {
        if !self.holds.is_empty() {
            self.look_for_another_way(None);
        } else if self.store.queues().iter().any(|count| count.queue == QueueName::Held) {
            self.look_for_another_way(Some(QueueName::Held));
        }
    }

    /// Has all mail looked at, or that of one queue, for another way.
    pub(super) fn look_for_another_way(&self, over: Option<QueueName>) {
        let mut wanting = self.wanting();
        // all of it is more than one queue
        if over.is_none() {
            wanting.clear();
        }
        if !wanting.contains(&None) {
            wanting.insert(over);
        }
        drop(wanting);
        self.agenda.nudge();
    }
}

#[async_trait]
impl config::QueuedMail for Queue {
    async fn moves(&self, candidate: &Snapshot) -> QueuedMailEffects {
        let mut effects = QueuedMailEffects { complete: true, ..QueuedMailEffects::default() };
        let current = self.live.current();
        let mut moves: BTreeMap<(QueueName, QueueName), u64> = BTreeMap::new();
        let down = self.down();
        let mut cursor = None;
        loop {
            let Ok(page) = self.store.page(None, cursor, ROWS).await else {
                effects.complete = false;
                break;
            };
            let ended = page.len() < ROWS;
            cursor = page.last().map(|(key, _)| *key);
            for (_, message) in page {
                effects.examined += 1;
                // what would move without the change is no effect of it
                let before = misplaced(self, &current, &message, &down);
                let is_new = |known: &Misplaced| !before.iter().any(|b| (b.index, &b.to) == (known.index, &known.to));
                let after = misplaced(self, candidate, &message, &down).into_iter().filter(is_new);
                let mut pairs: Vec<_> = after.map(|known| (known.from, known.to)).collect();
                pairs.sort();
                pairs.dedup();
                effects.moved += u64::from(!pairs.is_empty());
                for pair in pairs {
                    *moves.entry(pair).or_default() += 1;
                }
            }
            if ended {
                break;
            }
            if effects.examined >= MOST_COUNTED {
                effects.complete = false;
                break;
            }
        }
        effects.moves = moves
            .into_iter()
            .take(MOST_MOVES)
            .map(|((from, to), messages)| MailMove { from: from.to_string(), to: to.to_string(), messages })
            .collect();
        effects
    }
}
