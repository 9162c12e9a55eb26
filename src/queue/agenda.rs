//! When to look at which queue again. One time per queue; the earliest wins.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;

/// The scheduler's list of what comes next.
#[derive(Debug, Default)]
pub struct Agenda {
    times: Mutex<Times>,
    changed: Notify,
    workers: AtomicUsize,
    left: Notify,
}

#[derive(Debug, Default)]
struct Times {
    by_queue: HashMap<QueueName, Timestamp>,
    by_time: BTreeSet<(Timestamp, QueueName)>,
}

impl Agenda {
    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a queue at `time`, or earlier if that was planned.
    pub fn look(&self, queue: &QueueName, time: Timestamp) {
        let mut times = self.times();
        match times.by_queue.get(queue) {
            Some(planned) if *planned <= time => return,
            Some(planned) => {
                let old = (*planned, queue.clone());
                times.by_time.remove(&old);
            }
            None => {}
        }
        times.by_queue.insert(queue.clone(), time);
        times.by_time.insert((time, queue.clone()));
        let first = times.by_time.first().is_some_and(|(t, q)| *t == time && q == queue);
        drop(times);
        if first {
            self.changed.notify_one();
        }
    }

    /// Looks at a queue as soon as possible.
    pub fn look_at_once(&self, queue: &QueueName) {
        self.look(queue, Timestamp::EPOCH);
    }

    /// The queues whose time has come, at most `limit`; and the time of the next one.
    pub fn due(&self, now: Timestamp, limit: usize) -> (Vec<QueueName>, Option<Timestamp>) {
        let mut times = self.times();
        let mut due = Vec::new();
        while due.len() < limit {
            match times.by_time.first() {
                Some((time, _)) if *time <= now => {
                    let (_, queue) = times.by_time.pop_first().expect("it was just there");
                    times.by_queue.remove(&queue);
                    due.push(queue);
                }
                _ => break,
            }
        }
        (due, times.by_time.first().map(|(time, _)| *time))
    }

    /// Returns when something earlier was planned (or may have been).
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Lets the scheduler look at its list again.
    pub fn nudge(&self) {
        self.changed.notify_one();
    }

    /// One more worker.
    pub fn worker_came(&self) {
        self.workers.fetch_add(1, Ordering::Relaxed);
    }

    /// One worker less.
    pub fn worker_left(&self) {
        if self.workers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.left.notify_waiters();
        }
    }

    /// Returns when no worker is left.
    pub async fn workers_gone(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.workers.load(Ordering::Acquire) == 0 {
                return;
            }
            left.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_time_of_a_queue_counts() {
        let agenda = Agenda::default();
        let at = Timestamp::from_millis;
        agenda.look(&QueueName::Unrouted, at(50));
        agenda.look(&QueueName::Unrouted, at(70));
        agenda.look(&QueueName::DeadLetter, at(60));
        agenda.look(&QueueName::DeadLetter, at(40));
        assert_eq!(agenda.due(at(39), 10), (vec![], Some(at(40))));
        assert_eq!(agenda.due(at(55), 1), (vec![QueueName::DeadLetter], Some(at(50))));
        assert_eq!(agenda.due(at(55), 9), (vec![QueueName::Unrouted], None));
    }
}
