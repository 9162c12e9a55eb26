//! When a message with a time to deliver (BY, RFC 2852) is to be looked at, wherever it waits.
//!
//! Retries and the walk over old mail come too late for a deadline of minutes behind a dead host, so the earliest
//! deadlines are kept here. They are noted when mail is offered to its link queue. What is not known, after a start or
//! because there were too many, is found by a walk over all mail in bounded steps.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::mail::{Message, MessageId, RecipientStatus};
use crate::model::time::Timestamp;
use crate::smtp::parameters::ByMode;

/// Most deadlines that are kept: about 5 MiB.
const MOST: usize = 100_000;

/// The earliest deadlines.
#[derive(Debug)]
pub(super) struct Deadlines {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    by_time: BTreeSet<(Timestamp, MessageId)>,
    /// There may be others, behind those that are kept.
    others: bool,
}

impl Default for Deadlines {
    fn default() -> Self {
        // what waits in the store at the start is not known
        Deadlines { inner: Mutex::new(Inner { by_time: BTreeSet::new(), others: true }) }
    }
}

impl Deadlines {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the deadline of a message, if it has one that still means something. True when it is the earliest of all.
    pub(super) fn note(&self, message: &Message) -> bool {
        of(message).is_some_and(|deadline| self.put(deadline, message.id))
    }

    /// Looks at a message at this time, whatever its deadline is. True when that is the earliest of all.
    pub(super) fn put(&self, time: Timestamp, id: MessageId) -> bool {
        let mut inner = self.inner();
        inner.by_time.insert((time, id));
        if inner.by_time.len() > MOST {
            inner.by_time.pop_last();
            inner.others = true;
        }
        inner.by_time.first() == Some(&(time, id))
    }

    /// The messages whose time has come, at most `limit`.
    pub(super) fn due(&self, now: Timestamp, limit: usize) -> Vec<MessageId> {
        let mut inner = self.inner();
        let mut due = Vec::new();
        while due.len() < limit && inner.by_time.first().is_some_and(|(time, _)| *time <= now) {
            due.extend(inner.by_time.pop_first().map(|(_, id)| id));
        }
        due
    }

    /// The next time.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.inner().by_time.first().map(|(time, _)| *time)
    }

    /// True, once, when all mail should be walked over for deadlines that are not kept.
    pub(super) fn take_walk(&self) -> bool {
        let mut inner = self.inner();
        let walk = inner.others && inner.by_time.len() < MOST / 2;
        inner.others &= !walk;
        walk
    }
}

/// The deadline of a message that something is still to happen at.
fn of(message: &Message) -> Option<Timestamp> {
    let (deadline, mode) = message.deliver_by()?;
    let tells = deadline > message.released_at() && message.reverse_path.mailbox().is_some();
    let waiting = message.recipients.iter().filter(|r| r.waits.is_some() && r.status == RecipientStatus::Pending);
    let means_something = match mode {
        ByMode::Return => waiting.count() > 0,
        ByMode::Notify => tells && waiting.filter(|recipient| !recipient.delay_notified).count() > 0,
    };
    means_something.then_some(deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_are_kept_and_the_others_looked_for() {
        let deadlines = Deadlines::default();
        assert!(deadlines.take_walk() && !deadlines.take_walk(), "once after a start");
        let at = Timestamp::from_millis;
        for n in (0..MOST as i64 + 10).rev() {
            assert!(deadlines.put(at(n), MessageId::generate()), "the earliest so far");
        }
        assert!(!deadlines.take_walk(), "there is no room for them");
        assert_eq!(deadlines.next(), Some(at(0)));
        assert_eq!(deadlines.due(at(MOST as i64 * 2), usize::MAX).len(), MOST);
        assert!(deadlines.take_walk());
    }
}
