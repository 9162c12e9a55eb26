//! A worker's hold on a link queue: what it takes from it, and waits for.

use std::sync::Arc;
use std::time::Duration;

use super::{Link, WINDOW};
use crate::queue::agenda::Agenda;
use crate::queue::next_hosts::HostKey;
use crate::store::Leased;

/// A worker's hold on a link queue; dropping it says that the worker is gone.
#[derive(Debug)]
pub struct Hand {
    link: Arc<Link>,
    agenda: Arc<Agenda>,
}

impl Hand {
    /// For a worker that was counted by [`Offer::WorkerWanted`] or [`Link::wants_worker`].
    pub(in crate::queue) fn new(link: Arc<Link>, agenda: Arc<Agenda>) -> Self {
        Hand { link, agenda }
    }

    /// The queue.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The next message, if one is ready.
    pub fn try_take(&self) -> Option<Leased> {
        self.try_take_if(|_| true)
    }

    /// The next message that is ready and fits, by the hosts that have put it off.
    pub fn try_take_if(&self, fits: impl Fn(&[HostKey]) -> bool) -> Option<Leased> {
        let mut inner = self.link.inner();
        if inner.frozen || inner.stopping || inner.rest.is_some_and(|rest| rest.why.is_meant()) {
            return None;
        }
        // the next hop wants fewer: this one goes
        if inner.workers > inner.most_workers() {
            return None;
        }
        let at = inner.ready.iter().position(|leased| fits(inner.rounds.asked(leased.message.id)));
        let taken = at.and_then(|at| inner.ready.remove(at));
        let low = inner.more && inner.ready.len() < WINDOW / 2;
        if low {
            inner.more = false;
        }
        // what stays ready while nobody waits for it may want one more worker
        let left = inner.ready.len();
        let stays = left > 0 && left.is_multiple_of(16) && inner.idle == 0 && inner.workers == 1 && inner.proven;
        drop(inner);
        if low || stays {
            self.agenda.look_at_once(&self.link.name);
        }
        taken
    }

    /// True while messages are ready, whether they fit or not.
    pub(in crate::queue) fn has_ready(&self) -> bool {
        !self.link.inner().ready.is_empty()
    }

    /// Waits for a message, at most `wait`. False when none came or the queue rests: the worker may go.
    pub async fn wait(&self, wait: Duration) -> bool {
        let arrived = self.link.arrived.notified();
        tokio::pin!(arrived);
        arrived.as_mut().enable();
        {
            let mut inner = self.link.inner();
            if inner.frozen || inner.stopping || inner.rest.is_some() {
                return false;
            }
            if !inner.ready.is_empty() {
                return true;
            }
            inner.idle += 1;
        }
        let idle = Idle(&self.link);
        let _ = tokio::time::timeout(wait, arrived).await;
        drop(idle);
        let inner = self.link.inner();
        !inner.ready.is_empty() && !inner.stopping && !inner.frozen && inner.rest.is_none()
    }
}

/// Counts a waiting worker, also when its wait is cancelled.
struct Idle<'a>(&'a Link);

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.inner().idle -= 1;
    }
}

/// A message may have come in while this worker was on its way out: the scheduler looks again.
impl Drop for Hand {
    fn drop(&mut self) {
        let mut inner = self.link.inner();
        inner.workers -= 1;
        // also when it was the last one: the scheduler forgets a link that nobody needs
        let look = !inner.ready.is_empty() || inner.workers == 0;
        drop(inner);
        if look {
            self.agenda.look_at_once(&self.link.name);
        }
        self.agenda.worker_left();
    }
}
