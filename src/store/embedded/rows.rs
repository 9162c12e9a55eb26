//! What the database holds about mail, as a trait, so that the journal's tests run without sled.
//!
//! A [`Row`] is a message as far as the database has taken the journal in, and a [`Batch`] is an atomic step:
//! rows before and after, counters, and the position up to which the journal is now contained.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::journal::Location;
use crate::model::mail::{Message, MessageId};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::store::{PageKey, StoreError};

/// A message and where its content lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The message.
    pub message: Arc<Message>,
    /// Its accepted record.
    pub location: Location,
    /// Starts of the process that found it leased without outcome.
    pub suspects: u8,
}

impl Row {
    /// Where and when it is due, unless it is frozen.
    pub fn due(&self) -> Vec<(QueueName, Timestamp)> {
        if self.message.frozen { Vec::new() } else { self.message.waiting() }
    }
}

/// Messages and octets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Messages.
    pub messages: u64,
    /// Octets.
    pub bytes: u64,
}

impl Count {
    /// Counts something in or out.
    pub fn change(&mut self, plus: bool, bytes: u64) {
        if plus {
            self.messages += 1;
            self.bytes += bytes;
        } else {
            self.messages = self.messages.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }
}

/// What the database says about the whole; true at its position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Per queue.
    pub queues: HashMap<QueueName, Count>,
    /// Alive records per segment.
    pub segments: HashMap<u64, Count>,
    /// Alive files in `large/`.
    pub large: Count,
}

impl Totals {
    /// Counts a row in or out; calls `changed` for each queue.
    pub fn count(&mut self, row: &Row, plus: bool, changed: &mut dyn FnMut(&QueueName)) {
        for (queue, _) in row.message.waiting() {
            changed(&queue);
            self.count_queue(queue, plus, row.message.size);
        }
        self.count_place(row, plus);
    }

    /// Counts a message in a queue.
    pub fn count_queue(&mut self, queue: QueueName, plus: bool, bytes: u64) {
        match self.queues.get_mut(&queue) {
            Some(count) => {
                count.change(plus, bytes);
                if count.messages == 0 {
                    self.queues.remove(&queue);
                }
            }
            None if plus => {
                self.queues.insert(queue, Count { messages: 1, bytes });
            }
            None => {}
        }
    }

    /// Counts where a row lies.
    pub fn count_place(&mut self, row: &Row, plus: bool) {
        let segment = self.segments.entry(row.location.segment).or_default();
        segment.change(plus, u64::from(row.location.len));
        if segment.messages == 0 {
            self.segments.remove(&row.location.segment);
        }
        if row.location.large {
            self.large.change(plus, row.message.size);
        }
    }
}

/// What changes about one message.
#[derive(Debug, Clone)]
pub struct RowChange {
    /// The message.
    pub id: MessageId,
    /// What the database has now.
    pub before: Option<Row>,
    /// What it is to have.
    pub after: Option<Row>,
}

/// An atomic step.
#[derive(Debug, Default)]
pub struct Batch {
    /// Rows.
    pub rows: Vec<RowChange>,
    /// The last group of the journal that is contained now.
    pub position: u64,
}

/// The database of mail. Reads may come from any thread, `apply` and `flush` from one.
pub trait Rows: Send + Sync {
    /// The last group that is contained.
    fn position(&self) -> u64;
    /// One message.
    fn get(&self, id: MessageId) -> Result<Option<Row>, StoreError>;
    /// Up to `limit` due keys of a queue behind `after` and not later than `until`.
    fn due(
        &self,
        queue: &QueueName,
        after: Option<(Timestamp, MessageId)>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, MessageId)>, StoreError>;
    /// Up to `limit` keys in order of reception behind `after`.
    fn page(&self, queue: Option<&QueueName>, after: Option<PageKey>, limit: usize)
    -> Result<Vec<PageKey>, StoreError>;
    /// Counters.
    fn totals(&self) -> Result<Totals, StoreError>;
    /// Takes a step in.
    fn apply(&self, batch: &Batch) -> Result<(), StoreError>;
    /// Makes all steps durable.
    fn flush(&self) -> Result<(), StoreError>;
}

/// All of it in memory, some 1 KiB a message: for a store that is only examined, and for tests.
pub mod memory {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, MutexGuard};

    use super::*;

    #[derive(Debug, Default, Clone)]
    struct Tables {
        rows: BTreeMap<MessageId, Row>,
        totals: Totals,
        position: u64,
    }

    /// See the [module](self).
    #[derive(Debug, Default)]
    pub struct MemoryRows {
        now: Mutex<Tables>,
        flushed: Mutex<Tables>,
    }

    impl MemoryRows {
        /// What is left after a power cut.
        #[cfg(test)]
        pub fn after_power_cut(&self) -> MemoryRows {
            let flushed = lock(&self.flushed).clone();
            MemoryRows { now: Mutex::new(flushed.clone()), flushed: Mutex::new(flushed) }
        }
    }

    impl Rows for MemoryRows {
        fn position(&self) -> u64 {
            lock(&self.now).position
        }

        fn get(&self, id: MessageId) -> Result<Option<Row>, StoreError> {
            Ok(lock(&self.now).rows.get(&id).cloned())
        }

        fn due(
            &self,
            queue: &QueueName,
            after: Option<(Timestamp, MessageId)>,
            until: Timestamp,
            limit: usize,
        ) -> Result<Vec<(Timestamp, MessageId)>, StoreError> {
            let tables = lock(&self.now);
            let mut keys: Vec<_> = tables
                .rows
                .iter()
                .flat_map(|(id, row)| row.due().into_iter().map(|(queue, due)| (queue, due, *id)))
                .filter(|(in_queue, due, id)| {
                    in_queue == queue && *due <= until && after.is_none_or(|after| (*due, *id) > after)
                })
                .map(|(_, due, id)| (due, id))
                .collect();
            keys.sort();
            keys.truncate(limit);
            Ok(keys)
        }

        fn page(
            &self,
            queue: Option<&QueueName>,
            after: Option<PageKey>,
            limit: usize,
        ) -> Result<Vec<PageKey>, StoreError> {
            let tables = lock(&self.now);
            let mut keys: Vec<_> = tables
                .rows
                .values()
                .filter(|row| {
                    queue.is_none_or(|queue| row.message.waiting().iter().any(|(in_queue, _)| in_queue == queue))
                })
                .map(|row| PageKey { received_at: row.message.received_at, id: row.message.id })
                .filter(|key| after.is_none_or(|after| *key > after))
                .collect();
            keys.sort();
            keys.truncate(limit);
            Ok(keys)
        }

        fn totals(&self) -> Result<Totals, StoreError> {
            Ok(lock(&self.now).totals.clone())
        }

        fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
            let mut tables = lock(&self.now);
            for change in &batch.rows {
                let before = match &change.after {
                    Some(after) => tables.rows.insert(change.id, after.clone()),
                    None => tables.rows.remove(&change.id),
                };
                debug_assert_eq!(before, change.before, "the engine knows what the database has");
                if let Some(before) = &before {
                    tables.totals.count(before, false, &mut |_| {});
                }
                if let Some(after) = &change.after {
                    tables.totals.count(after, true, &mut |_| {});
                }
            }
            debug_assert!(batch.position >= tables.position);
            tables.position = batch.position;
            Ok(())
        }

        fn flush(&self) -> Result<(), StoreError> {
            *lock(&self.flushed) = lock(&self.now).clone();
            Ok(())
        }
    }
    fn lock(tables: &Mutex<Tables>) -> MutexGuard<'_, Tables> {
        tables.lock().expect("no panic under this lock")
    }
}
