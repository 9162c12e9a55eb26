//! Time behind a trait, so that a test can run two days of retries in a millisecond.
//!
//! `now` is monotonic and follows tokio's clock: under `tokio::time::pause` it stands still and moves with
//! `tokio::time::advance`, together with every timer. `unix_millis` is the wall clock, which may jump.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Monotonic time.
    fn now(&self) -> Instant;
    /// Wall clock: milliseconds since 1970-01-01T00:00:00Z.
    fn unix_millis(&self) -> i64;
}

/// The clocks of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn unix_millis(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        }
    }
}

/// A clock for tests: the wall clock starts where it is told and moves with tokio's (paused) time, with
/// [`ManualClock::advance`] and, alone, with [`ManualClock::jump`].
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    unix_millis: i64,
    advanced_micros: AtomicU64,
    skew_millis: AtomicI64,
}

impl ManualClock {
    /// A clock that shows this wall time now.
    pub fn new(unix_millis: i64) -> Self {
        ManualClock {
            start: tokio::time::Instant::now().into_std(),
            unix_millis,
            advanced_micros: AtomicU64::new(0),
            skew_millis: AtomicI64::new(0),
        }
    }

    /// Moves both clocks forward. Timers of tokio do not fire by this: use `tokio::time::advance` for those.
    pub fn advance(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.advanced_micros.fetch_add(micros, Ordering::SeqCst);
    }

    /// Sets the wall clock off by so many milliseconds, forward or back; `now` does not move.
    pub fn jump(&self, millis: i64) {
        self.skew_millis.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        let advanced = Duration::from_micros(self.advanced_micros.load(Ordering::SeqCst));
        tokio::time::Instant::now().into_std() + advanced
    }

    fn unix_millis(&self) -> i64 {
        let elapsed = i64::try_from((self.now() - self.start).as_millis()).unwrap_or(i64::MAX);
        self.unix_millis.saturating_add(elapsed).saturating_add(self.skew_millis.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_manual_clock_follows_paused_time_and_jumps() {
        let clock = ManualClock::new(1_000);
        let start = clock.now();
        tokio::time::advance(Duration::from_secs(2)).await;
        clock.advance(Duration::from_secs(3));
        assert_eq!(clock.now() - start, Duration::from_secs(5));
        assert_eq!(clock.unix_millis(), 6_000);
        clock.jump(-10_000);
        assert_eq!(clock.unix_millis(), -4_000);
        assert_eq!(clock.now() - start, Duration::from_secs(5));
    }
}
