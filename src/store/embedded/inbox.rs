//! What waits for the journal thread.
//!
//! Commits wake it at once; what waited by then becomes one group. Plain outcomes and leases wait for company, at
//! most [`LAG`]. Whoever brings a commit or an outcome holds one of [`PLACES`] while it is on its way, so the
//! queue is bounded.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::journal::record::Record;
use crate::model::mail::{Change, Message, MessageId};
use crate::store::{Lease, Leased, StoreError};

/// How long a plain outcome may wait for its sync.
pub const LAG: Duration = Duration::from_millis(10);
/// Jobs on their way.
pub const PLACES: usize = 8_192;

/// A message that is to be made durable.
#[derive(Debug)]
pub struct Mail {
    /// The envelope.
    pub message: Arc<Message>,
    /// Its record.
    pub record: Record,
    /// The content lies in `large/`.
    pub large: bool,
    /// The content to hand on from memory.
    pub content: Option<Bytes>,
    /// It is here already, and only its envelope is another: should writing fail, it stays as it was.
    pub amends: bool,
}

/// A change that is to be synced before it counts.
#[derive(Debug)]
pub struct Recorded {
    /// Its record.
    pub record: Record,
    /// The message.
    pub id: MessageId,
    /// What changes.
    pub change: Change,
    /// Leases that it ends.
    pub leases: Vec<Lease>,
}

/// Something for the journal.
#[derive(Debug)]
pub enum Job {
    /// Durable before it counts.
    Commit {
        /// A change, in front of the mail that it causes.
        change: Option<Box<Recorded>>,
        /// New mail.
        mails: Vec<Mail>,
        /// Where the caller waits.
        answer: oneshot::Sender<Result<Vec<Leased>, StoreError>>,
        /// Its place.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// Applied already, to be written down.
    Note {
        /// What to write.
        record: Record,
        /// The message whose change it is.
        id: Option<MessageId>,
        /// Its place; given back with the job.
        #[allow(dead_code)] // held, never looked at
        permit: Option<OwnedSemaphorePermit>,
    },
}

/// The queue.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    places: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: Vec<Job>,
    /// Something that does not wait for company.
    urgent: bool,
    /// When the oldest that does has come.
    since: Option<Instant>,
    /// The thread sleeps, and whether it will wake by itself for what waits.
    asleep: Option<bool>,
    closed: bool,
}

/// What [`Inbox::next`] came back with.
#[derive(Debug, Default)]
pub struct Next {
    /// What waited.
    pub jobs: Vec<Job>,
    /// Nothing more will come.
    pub closed: bool,
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox { waiting: Mutex::default(), wake: Condvar::new(), places: Arc::new(Semaphore::new(PLACES)) }
    }
}

impl Inbox {
    /// Waits for a place.
    pub async fn place(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        self.places.clone().acquire_owned().await.map_err(|_| StoreError::Closed)
    }

    /// Adds a job. Refused after the end.
    pub fn push(&self, job: Job) -> Result<(), StoreError> {
        let urgent = matches!(job, Job::Commit { .. });
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(StoreError::Closed);
        }
        waiting.jobs.push(job);
        waiting.urgent |= urgent;
        if !urgent && waiting.since.is_none() {
            waiting.since = Some(Instant::now());
        }
        let notify = waiting.asleep.is_some_and(|timed| urgent || !timed);
        if notify {
            waiting.asleep = None;
        }
        drop(waiting);
        if notify {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Wakes the thread for something that is no job.
    pub fn poke(&self) {
        let mut waiting = self.lock();
        waiting.urgent = true;
        waiting.asleep = None;
        drop(waiting);
        self.wake.notify_one();
    }

    /// No more jobs.
    pub fn close(&self) {
        self.lock().closed = true;
        self.poke();
    }

    /// Waits for jobs, at most until `until`.
    pub fn next(&self, until: Option<Instant>) -> Next {
        let mut waiting = self.lock();
        loop {
            let now = Instant::now();
            let due = waiting.since.map(|since| since + LAG);
            let wake_at = match (due, until) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            if waiting.urgent || waiting.closed || wake_at.is_some_and(|at| at <= now) {
                waiting.urgent = false;
                waiting.since = None;
                waiting.asleep = None;
                return Next { jobs: std::mem::take(&mut waiting.jobs), closed: waiting.closed };
            }
            waiting.asleep = Some(due.is_some());
            waiting = match wake_at {
                None => self.wake.wait(waiting).expect("no panic under this lock"),
                Some(at) => {
                    self.wake
                        .wait_timeout(waiting, at.saturating_duration_since(now))
                        .expect("no panic under this lock")
                        .0
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no panic under this lock")
    }
}
