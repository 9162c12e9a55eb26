//! Where Argon2 is computed: on threads of its own, a few at a time, because each takes 19 MiB and a CPU.
//!
//! Who waits for too long, or finds too many waiting, is told to come again: a flood of logins must not become a flood
//! of memory, nor make everybody wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most computations at a time.
const MOST_AT_A_TIME: usize = 8;
/// Most that wait.
const MOST_WAITING: usize = 1_000;
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Hashing {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    computed: AtomicU64,
}

/// Too much is computed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy;

/// The right to compute once.
#[derive(Debug)]
pub(super) struct Permit(OwnedSemaphorePermit);

impl Hashing {
    pub(super) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Hashing {
            permits: Arc::new(Semaphore::new(processors.min(MOST_AT_A_TIME))),
            waiting: AtomicUsize::new(0),
            computed: AtomicU64::new(0),
        }
    }

    /// Waits for a turn.
    pub(super) async fn permit(&self) -> Result<Permit, Busy> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let already = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if already >= MOST_WAITING {
            return Err(Busy);
        }
        match tokio::time::timeout(LONGEST_WAIT, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Permit(permit)),
            _ => Err(Busy),
        }
    }

    /// Computes off the runtime's threads. The permit is held until the end, also when nobody waits for the result.
    pub(super) async fn compute(
        &self,
        permit: Permit,
        work: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<bool, Busy> {
        self.computed.fetch_add(1, Ordering::Relaxed);
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit.0);
            result
        });
        task.await.map_err(|_| Busy)
    }

    /// How many there were.
    pub(super) fn computed(&self) -> u64 {
        self.computed.load(Ordering::Relaxed)
    }
}
