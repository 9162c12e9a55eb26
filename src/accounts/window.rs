//! A limit as it is meant: never more than so many in any time of that length.
//!
//! What was used up is counted in [`PARTS`] parts of the time, so what was sent counts for the time of the limit and up to one
//! part of it longer; a limit of `1000/1d` knows hours, not moments.

use std::time::{Duration, Instant};

use crate::model::rate::Rate;

/// Parts of a limit's time that are told apart.
const PARTS: u32 = 24;
/// One more: the first of them may have begun within the time.
const KEPT: usize = PARTS as usize + 1;

/// What is used up of one limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    rate: Rate,
    /// When the latest part began.
    since: Instant,
    /// The latest part first.
    used: [u32; KEPT],
}

impl Window {
    /// Nothing is used up.
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Window { rate, since: now, used: [0; KEPT] }
    }

    /// As [`parts`](Self::parts) told it, when its latest part began so long ago.
    pub(super) fn restored(rate: Rate, used: &[u32], age: Duration, now: Instant) -> Self {
        let mut restored = Window::new(rate, now);
        for (part, used) in restored.used.iter_mut().zip(used) {
            *part = *used;
        }
        let part = restored.part().as_nanos().max(1);
        restored.shift(age.as_nanos() / part);
        let within = Duration::from_nanos(u64::try_from(age.as_nanos() % part).unwrap_or_default());
        // on a machine that has just started there may be no such instant: then it counts that much longer
        restored.since = now.checked_sub(within).unwrap_or(now);
        restored
    }

    /// The limit.
    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// As it is now.
    pub(super) fn at(self, now: Instant) -> Self {
        let part = self.part();
        let parts = self.age(now).as_nanos() / part.as_nanos().max(1);
        let mut window = self;
        window.shift(parts);
        window.since = match u32::try_from(parts).ok().and_then(|parts| part.checked_mul(parts)) {
            Some(passed) => self.since + passed,
            None => now,
        };
        window
    }

    /// Uses one up.
    pub(super) fn take(&mut self) {
        self.used[0] = self.used[0].saturating_add(1);
    }

    /// Uses up so many less of what was used up then. What counts no more cannot be given back.
    pub(super) fn give_back(&mut self, n: u32, then: Instant) {
        let before = self.since.saturating_duration_since(then).as_nanos();
        let age = usize::try_from(before.div_ceil(self.part().as_nanos().max(1))).unwrap_or(KEPT);
        if let Some(used) = self.used.get_mut(age) {
            *used = used.saturating_sub(n);
        }
    }

    /// How long ago the latest part began.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// How many were used up, in each part of the time, the latest first.
    pub(super) fn parts(&self) -> &[u32] {
        &self.used
    }

    /// How many are used up.
    pub(super) fn used(&self) -> u32 {
        self.used.iter().fold(0, |sum, used| sum.saturating_add(*used))
    }

    /// How many more may go.
    pub(super) fn left(&self) -> u32 {
        self.rate.count().saturating_sub(self.used())
    }

    /// How much of the limit is used up, from 0 to 1.
    pub(super) fn share(&self) -> f64 {
        f64::from(self.used()) / f64::from(self.rate.count())
    }

    /// In how long there is room for one more, if there is none. Of a window [`at`](Self::at) this moment.
    pub(super) fn room_after(&self, now: Instant) -> Option<Duration> {
        let mut used = self.used();
        let mut parts = 0;
        // the oldest go first
        for part in self.used.iter().rev() {
            if used < self.rate.count() {
                break;
            }
            parts += 1;
            used = used.saturating_sub(*part);
        }
        (parts > 0).then(|| (self.part() * parts).saturating_sub(self.age(now)))
    }

    /// In how long nothing is used up any more, if nothing more is sent.
    pub(super) fn empty_after(&self, now: Instant) -> Duration {
        let newest = self.used.iter().position(|used| *used > 0).unwrap_or(KEPT);
        let whole = self.part() * u32::try_from(KEPT - newest).unwrap_or(PARTS);
        whole.saturating_sub(self.age(now))
    }

    fn part(&self) -> Duration {
        Duration::from(self.rate.per()) / PARTS
    }

    fn shift(&mut self, parts: u128) {
        let parts = usize::try_from(parts).unwrap_or(KEPT).min(KEPT);
        self.used.copy_within(..KEPT - parts, parts);
        self.used[..parts].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(rate: &str, now: Instant) -> Window {
        Window::new(rate.parse().unwrap(), now)
    }

    #[test]
    fn never_more_than_the_limit_in_any_time_of_its_length() {
        let start = Instant::now();
        // whoever tries all the time, at odd moments
        for step in [Duration::from_millis(7), Duration::from_millis(333), Duration::from_millis(1_999)] {
            let (mut window, mut taken) = (window("20/10s", start), Vec::new());
            for n in 0..100_000 / step.as_millis() as u32 {
                let now = start + step * n;
                window = window.at(now);
                if window.left() > 0 {
                    assert_eq!(window.room_after(now), None);
                    window.take();
                    taken.push(now);
                } else {
                    assert!(window.room_after(now).is_some_and(|after| after <= Duration::from_millis(10_500)));
                }
            }
            let most = taken.iter().map(|from| {
                let within = |at: &&Instant| **at >= *from && **at < *from + Duration::from_secs(10);
                taken.iter().filter(within).count()
            });
            let most = most.max().unwrap_or_default();
            let possible = (10_000 / step.as_millis() as usize + 1).min(20);
            assert!(most <= 20 && most + 1 >= possible, "{most} in ten seconds, a try each {step:?}");
        }
    }

    #[test]
    fn what_is_told_comes_true() {
        let start = Instant::now();
        let mut window = window("3/1m", start);
        for n in 0..3 {
            window = window.at(start + Duration::from_secs(10 * n));
            window.take();
        }
        let now = start + Duration::from_secs(20);
        let after = window.at(now).room_after(now).unwrap();
        assert!(after > Duration::from_secs(40) && after <= Duration::from_millis(45_000), "{after:?}");
        assert_eq!(window.at(now + after).left(), 1);
        let empty = window.at(now).empty_after(now);
        assert_eq!((window.at(now + empty).used(), window.at(now + empty - Duration::from_secs(3)).used()), (0, 1));
        assert_eq!(window.at(start + Duration::from_secs(u64::from(u32::MAX))).used(), 0);
    }

    #[test]
    fn what_was_written_down_goes_on() {
        let now = Instant::now();
        let mut window = window("5/1h", now);
        (0..5).for_each(|_| window.take());
        let restored = |passed| Window::restored(window.rate(), window.parts(), Duration::from_secs(passed), now);
        assert_eq!((restored(0).left(), restored(3_599).left(), restored(3_750).left()), (0, 0, 5));
        assert_eq!(Window::restored(window.rate(), &[9; 100], Duration::ZERO, now).left(), 0);
        // who starts again and again, and sends in between, waits no longer
        let (mut again, mut clock) = (window, now);
        for _ in 0..35 {
            clock += Duration::from_secs(100);
            let at = again.at(clock);
            let age = at.age(clock) + Duration::from_secs(10);
            clock += Duration::from_secs(10);
            again = Window::restored(at.rate(), at.parts(), age, clock);
        }
        assert_eq!(again.at(clock).left(), 5, "{again:?}");
        window.give_back(2, now);
        assert_eq!(window.left(), 2);
        window.give_back(9, now);
        assert_eq!((window.left(), window.share()), (5, 0.0));
    }

    #[test]
    fn only_what_still_counts_can_be_given_back() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut window = window("3/1s", start);
        window.take();
        window = window.at(at(500));
        window.take();
        window.take();
        window.give_back(1, at(0));
        assert_eq!((window.left(), window.at(at(1_100)).left()), (1, 1), "the one of the beginning");
        // it counts no more: whoever keeps a transaction open gains nothing by it
        let mut later = window.at(at(1_600));
        (0..3).for_each(|_| later.take());
        later.give_back(2, at(500));
        assert_eq!(later.left(), 0);
    }
}
