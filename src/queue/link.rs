//! A link queue in memory: what is ready to go to one next hop, and how that next hop is doing.
//!
//! It holds a bounded window of leased messages, those of higher priority first (RFC 6710), else in the order in which they
//! came; a full window gives up its last message for one of a higher priority. The rest waits in the store. Workers take from it; the scheduler and
//! the hand-off from acceptance put into it. What does not fit, or comes while the queue rests (frozen, or its next hop
//! failed), is given back to whoever offered it, who releases the lease: the store keeps it.
//!
//! States, as an operator sees them: *frozen* (by command; still accepts), *remote* (its mail waits until somebody asks for it),
//! *scheduled* (its connector carries nothing at this time), *retry* (the next hop failed; everything waits until the next try), *active* (a worker is on it), *ready*.

mod hand;

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::next_hosts::{HostKey, Rounds};
use super::pace::Bucket;
use super::tolerance::Tolerance;
use crate::model::failure::Failure;
use crate::model::mail::MessageId;
use crate::model::queue_name::QueueName;
use crate::model::rate::Rate;
use crate::model::time::Timestamp;
use crate::store::Leased;

pub use hand::Hand;

/// Most messages that one link queue holds in memory.
pub const WINDOW: usize = 2_000;
/// When a next hop that refused one session too many is looked at again.
const ONE_TOO_MANY: Duration = Duration::from_secs(60);

/// A link queue.
#[derive(Debug)]
pub struct Link {
    /// Its name.
    pub name: QueueName,
    inner: Mutex<Inner>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    ready: VecDeque<Leased>,
    workers: usize,
    /// Workers that wait for a message with an open connection.
    idle: usize,
    frozen: bool,
    stopping: bool,
    rest: Option<Rest>,
    /// An operator wants it tried whatever the schedule says, until nothing is due any more or the next hop fails.
    forced: bool,
    /// Whoever may has asked for what waits here (ETRN), until nothing is due any more.
    triggered: bool,
    /// It is being fetched over a connection that was turned round (ATRN); nobody else carries it meanwhile.
    turned: bool,
    failures: u32,
    last_failure: Option<Failure>,
    /// A session was opened since the last failure: more than one worker may try.
    proven: bool,
    /// Sessions that are open with the next hop.
    sessions: usize,
    /// What the next hop has shown that it takes.
    tolerance: Tolerance,
    /// Its limit of rate.
    bucket: Bucket,
    /// Limits of rate let nothing go before this time. What is ready stays so.
    paused: Option<Timestamp>,
    /// Due mail was left in the store because the window was full.
    more: bool,
    /// Messages that some hosts of the next hop have put off, and others may take.
    rounds: Rounds,
}

/// Nothing is tried before this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rest {
    until: Timestamp,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The next hop failed.
    Failed,
    /// The connector's schedule.
    Closed,
    /// Nobody has asked for it yet (`remoteTriggered`).
    Held,
}

impl Why {
    /// It is no failure: trying at once does not end it.
    fn is_meant(self) -> bool {
        self != Why::Failed
    }
}

/// What an operator sees of a link queue.
#[derive(Debug, Clone, Default)]
pub struct LinkView {
    /// Frozen by command.
    pub frozen: bool,
    /// Workers on it.
    pub workers: usize,
    /// When the next hop is tried again, if it failed, or when its connector opens.
    pub resting_until: Option<Timestamp>,
    /// It is the schedule of its connector for which it rests.
    pub scheduled: bool,
    /// It rests until somebody asks for its mail.
    pub held: bool,
    /// Limits of rate let nothing go before this time.
    pub paced_until: Option<Timestamp>,
    /// The last failure.
    pub last_failure: Option<Failure>,
}

/// What came of an offer.
#[derive(Debug)]
pub enum Offer {
    /// Taken, and the workers that are there will do.
    Taken,
    /// Taken, and one more worker is wanted.
    WorkerWanted,
    /// Not taken: the window is full or the queue rests. It may be another one, which the offered one has pushed out.
    Refused(Leased),
}

impl Link {
    /// An empty link queue.
    pub fn new(name: QueueName, frozen: bool) -> Self {
        Link { name, inner: Mutex::new(Inner { frozen, ..Inner::default() }), arrived: Notify::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers a leased message. `max_workers` bounds how many workers are asked for.
    pub fn offer(&self, leased: Leased, now: Timestamp, max_workers: usize) -> Offer {
        let mut inner = self.inner();
        let full = inner.ready.len() >= WINDOW;
        let yields = inner.ready.back().is_some_and(|last| last.message.priority() < leased.message.priority());
        if inner.rests(now) || (full && !yields) {
            inner.more = true;
            return Offer::Refused(leased);
        }
        // the time to rest is over, or it would have been refused
        inner.rest = None;
        let out = if full { inner.ready.pop_back() } else { None };
        let at = inner.ready.partition_point(|other| other.message.priority() >= leased.message.priority());
        inner.ready.insert(at, leased);
        if let Some(out) = out {
            inner.more = true;
            return Offer::Refused(out);
        }
        if inner.idle > 0 {
            drop(inner);
            self.arrived.notify_one();
            return Offer::Taken;
        }
        if inner.workers < inner.workers_wanted().min(max_workers) {
            inner.workers += 1;
            return Offer::WorkerWanted;
        }
        Offer::Taken
    }

    /// Nobody has worked on it yet.
    pub fn is_new(&self) -> bool {
        let inner = self.inner();
        inner.workers == 0 && inner.ready.is_empty()
    }

    /// Room in the window; 0 while the queue rests.
    pub fn room(&self, now: Timestamp) -> usize {
        let inner = self.inner();
        if inner.rests(now) { 0 } else { WINDOW - inner.ready.len().min(WINDOW) }
    }

    /// Remembers whether the store holds more due mail than the window took.
    pub fn set_more(&self, more: bool) {
        self.inner().more = more;
    }

    /// When the next hop may be tried again, or given more, if the queue rests now.
    pub fn resting_until(&self, now: Timestamp) -> Option<Timestamp> {
        let inner = self.inner();
        inner.rest.map(|rest| rest.until).max(inner.paused).filter(|until| *until > now)
    }

    /// When the next hop is tried again, if it has failed.
    pub fn failed_until(&self, now: Timestamp) -> Option<Timestamp> {
        let rest = self.inner().rest;
        rest.filter(|rest| rest.why == Why::Failed && rest.until > now).map(|rest| rest.until)
    }

    /// The schedule of its connector is closed until then. Gives back what was ready. A failure stays remembered by its
    /// count alone.
    pub fn close(&self, until: Timestamp) -> Vec<Leased> {
        self.shut(Rest { until, why: Why::Closed })
    }

    /// Its mail waits until somebody asks for it. Gives back what was ready.
    pub fn hold(&self) -> Vec<Leased> {
        self.shut(Rest { until: Timestamp::from_millis(i64::MAX), why: Why::Held })
    }

    fn shut(&self, rest: Rest) -> Vec<Leased> {
        let mut inner = self.inner();
        inner.rest = Some(rest);
        let ready = inner.give_back();
        drop(inner);
        self.arrived.notify_waiters();
        ready
    }

    /// The schedule of its connector is open, and its mail need not be asked for, or was.
    pub fn open(&self) {
        let mut inner = self.inner();
        inner.rest = inner.rest.filter(|rest| !rest.why.is_meant());
    }

    /// Whoever may has asked for its mail: it is tried at once, and until nothing is due any more. A schedule still holds.
    pub fn trigger(&self) {
        let mut inner = self.inner();
        inner.triggered = true;
        inner.rest = inner.rest.filter(|rest| rest.why == Why::Closed);
    }

    /// Its mail goes over a connection that was turned round, and nowhere else, until [`Link::turned_back`]; counts a worker
    /// for that. False when it goes over another one already, or must not go.
    pub fn turn(&self) -> bool {
        let mut inner = self.inner();
        if inner.turned || inner.frozen || inner.stopping {
            return false;
        }
        inner.turned = true;
        inner.workers += 1;
        inner.rest = inner.rest.filter(|rest| rest.why == Why::Closed);
        true
    }

    /// The connection that was turned round has ended. Gives back what was ready.
    pub fn turned_back(&self) -> Vec<Leased> {
        let mut inner = self.inner();
        inner.turned = false;
        inner.give_back()
    }

    /// Somebody has asked for its mail, or an operator wants it tried.
    pub fn is_asked_for(&self) -> bool {
        let inner = self.inner();
        inner.forced || inner.triggered || inner.turned
    }

    /// Mail is ready.
    pub fn has_ready(&self) -> bool {
        !self.inner().ready.is_empty()
    }

    /// An operator wants it tried now, whatever failed and whatever the schedule says.
    pub fn force(&self) {
        let mut inner = self.inner();
        inner.forced = true;
        inner.rest = None;
    }

    /// True while an operator wants it tried whatever the schedule says.
    pub fn is_forced(&self) -> bool {
        self.inner().forced
    }

    /// Nothing is due any more: what an operator wanted, or was asked for, is done.
    pub fn drained(&self) {
        let mut inner = self.inner();
        let goes_on = !inner.ready.is_empty() || inner.workers > 0;
        inner.forced &= goes_on;
        inner.triggered &= goes_on;
    }

    /// Frozen by command.
    pub fn is_frozen(&self) -> bool {
        self.inner().frozen
    }

    /// A session with the next hop was opened.
    pub fn session_opened(&self) {
        let mut inner = self.inner();
        inner.proven = true;
        inner.sessions += 1;
    }

    /// A session has ended. Only one that answered for a message proves that the next hop works.
    pub fn session_closed(&self, answered: bool) {
        let mut inner = self.inner();
        inner.sessions = inner.sessions.saturating_sub(1);
        if answered {
            inner.failures = 0;
            inner.rest = inner.rest.filter(|rest| rest.why.is_meant());
        }
    }

    /// The next hop failed. Rests until `until(failures)`, where the first failure in a row is 1; gives back what was ready.
    /// Workers that fail together count once. While other sessions go on, it is only one session too many: no rest,
    /// but fewer sessions for a while.
    pub fn failed(
        &self,
        failure: Failure,
        now: Timestamp,
        until: impl FnOnce(u32) -> Timestamp,
    ) -> (Vec<Leased>, Timestamp) {
        let mut inner = self.inner();
        if let Some(rest) = inner.rest.filter(|rest| rest.until > now) {
            let until = rest.until;
            return (inner.give_back(), until);
        }
        if inner.sessions > 0 {
            let open = inner.sessions;
            inner.tolerance.refused_a_session(open, failure.remote_code == Some(421), now);
            inner.last_failure = Some(failure);
            return (Vec::new(), now + ONE_TOO_MANY);
        }
        inner.proven = false;
        // it was tried, which is what an operator wanted
        inner.forced = false;
        inner.failures = inner.failures.saturating_add(1);
        let until = until(inner.failures);
        inner.rest = Some(Rest { until, why: Why::Failed });
        inner.last_failure = Some(failure);
        let ready = inner.give_back();
        drop(inner);
        self.arrived.notify_waiters();
        (ready, until)
    }

    /// Remembers a failure of one message for the eyes of an operator.
    pub fn note_failure(&self, failure: &Failure) {
        self.inner().last_failure = Some(failure.clone());
    }

    /// Tries at once, whatever failed before. A schedule still holds, and what has to be asked for waits.
    pub fn wake(&self) {
        let mut inner = self.inner();
        inner.rest = inner.rest.filter(|rest| rest.why.is_meant());
    }

    /// Freezes or thaws; gives back what was ready when it freezes.
    pub fn set_frozen(&self, frozen: bool) -> Vec<Leased> {
        let mut inner = self.inner();
        inner.frozen = frozen;
        let ready = if frozen { inner.give_back() } else { Vec::new() };
        drop(inner);
        self.arrived.notify_waiters();
        ready
    }

    /// The process ends: workers get no more, what was ready is given back.
    pub fn stop(&self) -> Vec<Leased> {
        let mut inner = self.inner();
        inner.stopping = true;
        let ready = inner.give_back();
        drop(inner);
        self.arrived.notify_waiters();
        ready
    }

    /// Takes those out of the window that shall not go now.
    pub fn take_back(&self, not_now: impl Fn(&Leased) -> bool) -> Vec<Leased> {
        let mut inner = self.inner();
        let (back, ready) = inner.ready.drain(..).partition::<Vec<_>, _>(not_now);
        inner.ready = ready.into();
        inner.more |= !back.is_empty();
        back
    }

    /// Takes one message out of the window before a worker has it.
    pub fn withdraw(&self, id: MessageId) -> Option<Leased> {
        let mut inner = self.inner();
        let at = inner.ready.iter().position(|leased| leased.message.id == id)?;
        inner.ready.remove(at)
    }

    /// Whether mail is ready that the workers who are there will not do; counts one more worker if so.
    pub fn wants_worker(&self, now: Timestamp, max_workers: usize) -> bool {
        let mut inner = self.inner();
        let wanted = !inner.ready.is_empty()
            && !inner.rests(now)
            && inner.idle == 0
            && inner.workers < inner.workers_wanted().min(max_workers);
        if wanted {
            inner.workers += 1;
        }
        wanted
    }

    /// How it is.
    pub fn view(&self, now: Timestamp) -> LinkView {
        let inner = self.inner();
        LinkView {
            frozen: inner.frozen,
            workers: inner.workers - inner.idle,
            resting_until: inner.rest.filter(|rest| rest.until > now && rest.why != Why::Held).map(|rest| rest.until),
            held: inner.rest.is_some_and(|rest| rest.why == Why::Held),
            scheduled: inner.rest.is_some_and(|rest| rest.why == Why::Closed && rest.until > now),
            paced_until: inner.paused.filter(|until| *until > now),
            last_failure: inner.last_failure.clone(),
        }
    }

    /// Nothing ready, nobody on it, nothing remembered: it can be forgotten.
    pub fn is_idle(&self, now: Timestamp) -> bool {
        let mut inner = self.inner();
        inner.rounds.forget_old(now);
        inner.tolerance.forget_old(now);
        inner.ready.is_empty()
            && inner.workers == 0
            && !inner.rests(now)
            && !inner.more
            && inner.remembers(now).is_none()
    }

    /// Until when there is something about the next hop to remember.
    pub fn remembers(&self, now: Timestamp) -> Option<Timestamp> {
        self.inner().remembers(now)
    }

    /// The next hop answered for a message, and put some of it off or not.
    pub fn answered(&self, put_off: bool, now: Timestamp) {
        let mut inner = self.inner();
        let open = inner.sessions;
        inner.tolerance.answered(put_off, open, now);
    }

    /// A session has ended in which so many messages were answered for; the next hop ended it with 421, or not.
    pub fn ended_a_session(&self, answered: u64, with_421: bool, now: Timestamp) {
        self.inner().tolerance.ended_a_session(answered, with_421, now);
    }

    /// Most messages in one session, if the next hop has shown any.
    pub fn messages_in_a_session(&self) -> Option<u32> {
        self.inner().tolerance.messages()
    }

    /// When a limit of rate for this next hop lets one more message go; `None`: now.
    pub(super) fn opens(&self, rate: Rate, now: Timestamp) -> Option<Timestamp> {
        self.inner().bucket.opens(rate, now)
    }

    /// One more message has gone under that limit.
    pub(super) fn count(&self, rate: Rate, now: Timestamp) {
        self.inner().bucket.take(rate, now);
    }

    /// Limits of rate let nothing go before this time.
    pub(super) fn pause(&self, until: Timestamp) {
        self.inner().paused = Some(until);
    }

    /// The hosts that have put this message off in its round.
    pub fn asked(&self, id: MessageId, now: Timestamp) -> Vec<HostKey> {
        let mut inner = self.inner();
        inner.rounds.forget_old(now);
        inner.rounds.asked(id).to_vec()
    }

    /// The message goes to the next host; these are not asked again. False when that cannot be remembered.
    pub(super) fn pass_on(&self, id: MessageId, hosts: &[HostKey], now: Timestamp) -> bool {
        self.inner().rounds.pass_on(id, hosts, now)
    }

    /// No other host is asked for this message now.
    pub fn end_round(&self, id: MessageId) {
        self.inner().rounds.end(id);
    }
}

impl Inner {
    fn rests(&self, now: Timestamp) -> bool {
        let rests = |until: Timestamp| until > now;
        self.frozen
            || self.stopping
            || self.rest.is_some_and(|rest| rests(rest.until))
            || self.paused.is_some_and(rests)
    }

    fn remembers(&self, now: Timestamp) -> Option<Timestamp> {
        let bucket = Some(self.bucket.remembered_until());
        self.rounds.remembered_until().max(self.tolerance.remembered_until()).max(bucket).filter(|until| *until > now)
    }

    /// One worker until a session was opened, then a few at once, then one per sixteen messages that wait; no more than
    /// the next hop has shown that it takes.
    fn workers_wanted(&self) -> usize {
        if self.turned {
            return 0;
        }
        let wanted = if self.proven { self.ready.len().min(2) + self.ready.len() / 16 } else { 1 };
        wanted.min(self.most_workers())
    }

    fn most_workers(&self) -> usize {
        self.tolerance.sessions().map_or(usize::MAX, |most| most as usize)
    }

    fn give_back(&mut self) -> Vec<Leased> {
        if !self.ready.is_empty() {
            self.more = true;
        }
        self.ready.drain(..).collect()
    }
}
