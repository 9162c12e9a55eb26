//! What is known in memory about mail: everything the database has not taken yet, and every lease.
//!
//! An [`Entry`] is here while the database does not have it as it is, or while it is leased; then it alone is
//! right and the database's row is passed over. All reads merge both. Locks are taken in this order: the
//! database's (`Engine::rows_lock`), then this state's.
//!
//! A change is **applied** here (and seen by all) either after its group was synced, or, for plain outcomes, at
//! once; in that case `unwritten` counts until the journal has it. The database takes an entry only when all of it
//! is written and synced, so that it never knows more than the journal.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::journal::Location;
use super::rows::{Batch, Row, RowChange, Totals};
use crate::model::mail::{Change, MessageId};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::store::{Lease, PageKey, StoreError};

/// A message that memory knows better than the database, or that is leased.
#[derive(Debug)]
pub struct Entry {
    /// As it is now; `None` when it is gone.
    pub row: Option<Row>,
    /// As the database has it.
    base: Option<Row>,
    /// The last group that changed it.
    group: u64,
    /// Changes that the journal has not written yet.
    unwritten: u32,
    /// The database does not have it as it is.
    dirty: bool,
    /// Who has it.
    leases: Vec<Held>,
    /// Counted as alive in its segment: it is not, once its end was written.
    placed: Option<Row>,
}

/// A lease that is out.
#[derive(Debug)]
struct Held {
    queue: QueueName,
    epoch: u64,
    /// An attempt was begun: should the process end now, it may have been a delivery.
    attempted: bool,
}

/// Per queue, what of it is in memory.
#[derive(Debug, Default)]
struct Queue {
    /// Due and free to be leased.
    due: BTreeSet<(Timestamp, MessageId)>,
    received: BTreeSet<PageKey>,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct State {
    entries: HashMap<MessageId, Entry>,
    queues: HashMap<QueueName, Queue>,
    received: BTreeSet<PageKey>,
    /// Counters of all mail, in memory or not.
    pub totals: Totals,
    /// Where the search for due mail in the database may begin: everything before is leased.
    hints: HashMap<QueueName, (Timestamp, MessageId)>,
    /// How often something may have become free before a hint.
    pub freed: u64,
    /// What the database has to take: group, id, octets in the journal.
    dirty: VecDeque<(u64, MessageId, u32)>,
    /// Octets of the journal that the database lags behind.
    pub lag: u64,
    /// The last group that is synced and applied.
    pub durable: u64,
    /// The last group in which something of a segment died.
    pub died: BTreeMap<u64, u64>,
    /// Files in `large/` whose message is gone since a group.
    pub large_trash: VecDeque<(u64, MessageId)>,
    next_epoch: u64,
    leased: usize,
}

/// What memory knows about an id.
#[derive(Debug, Clone)]
pub enum Known {
    /// It is here.
    Here(Row),
    /// It is gone, or was never accepted.
    Gone,
    /// Ask the database.
    Unknown,
}

impl State {
    /// Starts from what the database says.
    pub fn new(totals: Totals, durable: u64) -> State {
        State { totals, durable, next_epoch: 1, ..State::default() }
    }

    /// What memory knows about an id.
    pub fn known(&self, id: MessageId) -> Known {
        match self.entries.get(&id) {
            Some(Entry { row: Some(row), .. }) => Known::Here(row.clone()),
            Some(_) => Known::Gone,
            None => Known::Unknown,
        }
    }

    /// True when memory is right about this id and the database may not be.
    pub fn holds(&self, id: MessageId) -> bool {
        self.entries.contains_key(&id)
    }

    /// Entries in memory.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Puts a new message, or a copy that was moved to another place, into the state.
    /// `base` is what the database has of the id when memory does not know it.
    pub fn accept(&mut self, row: Row, base: Option<Row>, group: u64) {
        let id = row.message.id;
        let len = row.location.len;
        self.load(id, base);
        self.replace(id, Some(row));
        self.wrote(id, group, len);
    }

    /// Moves a living message to another place.
    pub fn relocate(&mut self, id: MessageId, base: Option<Row>, location: Location, group: u64) {
        self.load(id, base);
        let row = self.entries.get(&id).and_then(|entry| entry.row.clone());
        if let Some(row) = row {
            self.replace(id, Some(Row { location, ..row }));
        }
        // (gone meanwhile: the copy is followed by its end, which is not written yet)
        self.wrote(id, group, location.len);
    }

    /// Applies a change. `group` is `None` while it is not written. The caller has [loaded](Self::load) it.
    pub fn change(&mut self, id: MessageId, change: &Change, suspects: u8, group: Option<u64>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let changed = entry.row.as_ref().map(|row| {
            let mut message = (*row.message).clone();
            message.apply(change);
            Row { message: Arc::new(message), location: row.location, suspects }
        });
        self.replace(id, changed.filter(|row| !row.message.is_done()));
        match group {
            Some(group) => self.wrote(id, group, 256),
            None => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.unwritten += 1;
                    entry.dirty = true;
                }
            }
        }
    }

    /// The journal has written a change that was applied before.
    pub fn written(&mut self, id: MessageId, group: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.unwritten = entry.unwritten.saturating_sub(1);
        }
        self.wrote(id, group, 256);
    }

    /// The journal has written once more what is known.
    pub fn wrote_again(&mut self, id: MessageId, group: u64) {
        self.wrote(id, group, 256);
    }

    /// The id is not here, whatever was known.
    pub fn void(&mut self, id: MessageId, base: Option<Row>, group: u64) {
        self.load(id, base);
        self.replace(id, None);
        self.wrote(id, group, 64);
    }

    /// True while a file in `large/` of a message of this id that is gone has yet to go.
    pub fn is_clearing(&self, id: MessageId) -> bool {
        let large = |row: &Option<Row>| row.as_ref().is_some_and(|row| row.location.large);
        let dying = |entry: &Entry| entry.row.is_none() && (large(&entry.base) || large(&entry.placed));
        self.entries.get(&id).is_some_and(dying) || self.large_trash.iter().any(|(_, trash)| *trash == id)
    }

    /// Takes what the database has into memory, unless memory knows better.
    pub fn load(&mut self, id: MessageId, base: Option<Row>) {
        if self.entries.contains_key(&id) {
            return;
        }
        let entry = Entry {
            row: base.clone(),
            placed: base.clone(),
            base,
            group: 0,
            unwritten: 0,
            dirty: false,
            leases: Vec::new(),
        };
        self.entries.insert(id, entry);
        self.index(id);
    }

    /// Leases a message in these queues; it is in memory.
    pub fn lease(&mut self, id: MessageId, queues: impl IntoIterator<Item = QueueName>) -> Vec<Lease> {
        self.unindex(id);
        let mut leases = Vec::new();
        if let Some(entry) = self.entries.get_mut(&id) {
            for queue in queues {
                let epoch = self.next_epoch;
                self.next_epoch += 1;
                self.leased += 1;
                entry.leases.push(Held { queue: queue.clone(), epoch, attempted: false });
                leases.push(Lease { id, queue, epoch });
            }
        }
        self.index(id);
        leases
    }

    /// True when the lease is in force.
    pub fn is_held(&self, lease: &Lease) -> bool {
        self.entries
            .get(&lease.id)
            .is_some_and(|entry| entry.leases.iter().any(|held| held.epoch == lease.epoch && held.queue == lease.queue))
    }

    /// An attempt begins under this lease; false when it is not in force, or one had begun before.
    pub fn attempt(&mut self, lease: &Lease) -> bool {
        let entry = self.entries.get_mut(&lease.id);
        let held = entry.and_then(|entry| entry.leases.iter_mut().find(|held| held.epoch == lease.epoch));
        held.is_some_and(|held| !std::mem::replace(&mut held.attempted, true))
    }

    /// True when somebody works on the message, in this queue or in any.
    pub fn is_leased(&self, id: MessageId, queue: Option<&QueueName>) -> bool {
        self.entries
            .get(&id)
            .is_some_and(|entry| entry.leases.iter().any(|held| queue.is_none_or(|queue| *queue == held.queue)))
    }

    /// Ends leases; true when an attempt had been begun under one of them.
    pub fn end(&mut self, leases: &[Lease]) -> bool {
        let mut attempted = false;
        for lease in leases {
            self.unindex(lease.id);
            if let Some(entry) = self.entries.get_mut(&lease.id) {
                let before = entry.leases.len();
                attempted |= entry.leases.iter().any(|held| held.epoch == lease.epoch && held.attempted);
                entry.leases.retain(|held| held.epoch != lease.epoch);
                self.leased -= before - entry.leases.len();
            }
            self.index(lease.id);
            self.forget_clean(lease.id);
        }
        attempted
    }

    /// Every lease under which an attempt was begun.
    pub fn leases(&self) -> Vec<(MessageId, QueueName)> {
        let mut all = Vec::with_capacity(self.leased);
        for (id, entry) in &self.entries {
            all.extend(entry.leases.iter().filter(|held| held.attempted).map(|held| (*id, held.queue.clone())));
        }
        all
    }

    /// Due keys of a queue in memory, behind `after`, not later than `until`.
    pub fn due(
        &self,
        queue: &QueueName,
        until: Timestamp,
        limit: usize,
    ) -> impl Iterator<Item = (Timestamp, MessageId)> + '_ {
        let due = self.queues.get(queue).into_iter().flat_map(|queue| queue.due.iter().copied());
        due.take_while(move |(due, _)| *due <= until).take(limit)
    }

    /// Keys in order of reception in memory.
    pub fn page(&self, queue: Option<&QueueName>, after: Option<PageKey>, limit: usize) -> Vec<PageKey> {
        use std::ops::Bound;
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let set = match queue {
            None => Some(&self.received),
            Some(queue) => self.queues.get(queue).map(|queue| &queue.received),
        };
        set.map(|set| set.range(from).take(limit).copied().collect()).unwrap_or_default()
    }

    /// See `hints`.
    pub fn hint(&self, queue: &QueueName) -> Option<(Timestamp, MessageId)> {
        self.hints.get(queue).copied()
    }

    /// Everything of this queue in the database up to the key is held by memory.
    pub fn set_hint(&mut self, queue: &QueueName, key: (Timestamp, MessageId)) {
        if self.hints.len() > 10_000 {
            self.hints.clear();
        }
        self.hints.insert(queue.clone(), key);
    }

    /// Changes that the database has to take.
    pub fn backlog(&self) -> usize {
        self.dirty.len()
    }

    /// What the database takes next, at most about so many keys, from groups up to `upto`. `None` when there is nothing.
    pub fn collect(&mut self, upto: u64, limit: usize, position: u64) -> Option<(Batch, Vec<(MessageId, u64)>)> {
        let upto = upto.min(self.durable);
        let mut batch = Batch::default();
        let mut taken = Vec::new();
        let mut seen = HashSet::new();
        let mut keys = 0;
        while let Some(&(group, id, len)) = self.dirty.front() {
            if group > upto || keys >= limit {
                break;
            }
            match self.entries.get(&id) {
                Some(entry) if entry.dirty && !seen.contains(&id) => {
                    if entry.unwritten > 0 || entry.group > self.durable {
                        break;
                    }
                    if entry.row.is_some() || entry.base.is_some() {
                        seen.insert(id);
                        taken.push((id, entry.group));
                        let recipients = |row: &Option<Row>| row.as_ref().map_or(0, |row| row.message.recipients.len());
                        keys += 4 + 2 * recipients(&entry.row).max(recipients(&entry.base));
                        batch.rows.push(RowChange { id, before: entry.base.clone(), after: entry.row.clone() });
                    } else {
                        // it came and went before the database looked: no keys
                        self.finish_one(id, group, None);
                    }
                }
                _ => {}
            }
            self.lag -= u64::from(len);
            self.dirty.pop_front();
        }
        batch.position = match self.dirty.front() {
            Some((group, _, _)) => (group - 1).min(upto),
            None => upto,
        }
        .max(position);
        (!batch.rows.is_empty() || batch.position > position).then_some((batch, taken))
    }

    /// The database has taken a batch.
    pub fn finish(&mut self, batch: Batch, taken: Vec<(MessageId, u64)>) {
        self.freed += 1;
        for (change, (id, group)) in batch.rows.into_iter().zip(taken) {
            if let Some(after) = &change.after {
                for (queue, due) in after.due() {
                    if self.hints.get(&queue).is_some_and(|hint| *hint >= (due, id)) {
                        self.hints.remove(&queue);
                    }
                }
            }
            self.finish_one(id, group, change.after);
        }
    }

    /// The database failed to take a batch: it will be offered again.
    pub fn retake(&mut self, taken: &[(MessageId, u64)]) {
        for (id, group) in taken.iter().rev() {
            self.dirty.push_front((*group, *id, 0));
        }
    }

    fn finish_one(&mut self, id: MessageId, group: u64, base: Option<Row>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.base = base;
        if entry.group <= group && entry.unwritten == 0 {
            entry.dirty = false;
        }
        self.forget_clean(id);
    }

    /// What the database has as it is needs no place in memory.
    fn forget_clean(&mut self, id: MessageId) {
        let Some(entry) = self.entries.get(&id) else { return };
        if entry.dirty || entry.unwritten > 0 || !entry.leases.is_empty() {
            return;
        }
        self.unindex(id);
        self.freed += 1;
        if let Some(entry) = self.entries.remove(&id)
            && let Some(row) = entry.row
        {
            for (queue, due) in row.due() {
                // it may lie before the hint, and is free now
                if self.hints.get(&queue).is_some_and(|hint| *hint >= (due, id)) {
                    self.hints.remove(&queue);
                }
            }
        }
    }

    /// The journal has written something about it: the database must take it, and its place may be dead.
    fn wrote(&mut self, id: MessageId, group: u64, len: u32) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.group = entry.group.max(group);
        entry.dirty = true;
        self.dirty.push_back((group, id, len));
        self.lag += u64::from(len);
        let place = |row: &Option<Row>| row.as_ref().map(|row| row.location);
        if place(&entry.placed) != place(&entry.row) && (entry.row.is_some() || entry.unwritten == 0) {
            if let Some(old) = entry.placed.take() {
                self.totals.count_place(&old, false);
                let died = self.died.entry(old.location.segment).or_default();
                *died = (*died).max(group);
                if old.location.large && entry.row.is_none() {
                    self.large_trash.push_back((group, id));
                }
            }
            if let Some(new) = &entry.row {
                self.totals.count_place(new, true);
            }
            entry.placed.clone_from(&entry.row);
        }
    }

    /// Sets what a message is now, with indexes and counters of queues.
    fn replace(&mut self, id: MessageId, row: Option<Row>) {
        self.unindex(id);
        if let Some(entry) = self.entries.get_mut(&id) {
            let old = std::mem::replace(&mut entry.row, row);
            let old_queues = old.as_ref().map(|row| row.message.waiting()).unwrap_or_default();
            let new_queues = entry.row.as_ref().map(|row| row.message.waiting()).unwrap_or_default();
            let size = entry.row.as_ref().or(old.as_ref()).map_or(0, |row| row.message.size);
            for (queue, _) in &old_queues {
                if !new_queues.iter().any(|(new, _)| new == queue) {
                    self.totals.count_queue(queue.clone(), false, size);
                }
            }
            for (queue, _) in new_queues {
                if !old_queues.iter().any(|(old, _)| *old == queue) {
                    self.totals.count_queue(queue, true, size);
                }
            }
        }
        self.index(id);
    }

    fn index(&mut self, id: MessageId) {
        let Some(entry) = self.entries.get(&id) else { return };
        let Some(row) = &entry.row else { return };
        let key = PageKey { received_at: row.message.received_at, id };
        for (queue, due) in row.message.waiting() {
            let free = !row.message.frozen && !entry.leases.iter().any(|held| held.queue == queue);
            let queue = self.queues.entry(queue).or_default();
            queue.received.insert(key);
            if free {
                queue.due.insert((due, id));
            }
        }
        self.received.insert(key);
    }

    fn unindex(&mut self, id: MessageId) {
        let Some(row) = self.entries.get(&id).and_then(|entry| entry.row.as_ref()) else { return };
        let key = PageKey { received_at: row.message.received_at, id };
        for (name, due) in row.message.waiting() {
            if let Some(queue) = self.queues.get_mut(&name) {
                queue.received.remove(&key);
                queue.due.remove(&(due, id));
                if queue.received.is_empty() {
                    self.queues.remove(&name);
                }
            }
        }
        self.received.remove(&key);
    }

    /// Checks that all leases are in force and about one message.
    pub fn check(&self, leases: &[Lease]) -> Result<MessageId, StoreError> {
        let id = leases.first().map(|lease| lease.id).ok_or(StoreError::Leased)?;
        if leases.iter().all(|lease| lease.id == id && self.is_held(lease)) { Ok(id) } else { Err(StoreError::Leased) }
    }
}
