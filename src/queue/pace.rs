//! Limits of rate: how many messages a connector (`limits.rate`) and one next hop (`limits.ratePerHost`) are given in a time.
//!
//! In no span of that time do more go out than the limit says: a tenth of it may go at once, the rest follows evenly. A queue
//! whose turn has not come rests until it has, and its mail stays in its window; other queues go on. Queues that share a limit
//! get turns, so that a large one does not starve the others.
//!
//! All of it is in memory: after a restart the limits begin anew.

use std::collections::HashMap;

use super::next_hosts::HostKey;
use super::{Hand, Queue, settings};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::rate::Rate;
use crate::model::time::Timestamp;
use crate::store::Leased;

/// The furthest turn that a queue is given, beyond the next one that is free.
const FURTHEST: std::time::Duration = std::time::Duration::from_secs(60);
/// So many turns are remembered before those that are over are forgotten.
const MANY: usize = 10_000;

/// What has been let through at a rate (the generic cell rate algorithm).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    /// When it is full again, in microseconds since 1970.
    full_at: i64,
}

impl Bucket {
    /// How many may go at once, and how far apart the rest is, in microseconds. In any span of `rate.per()` that makes
    /// `rate.count()`.
    fn shape(rate: Rate) -> (i64, i64) {
        let count = i64::from(rate.count());
        let at_once = (count / 10).max(1);
        let per = i64::try_from(rate.per().std().as_micros()).unwrap_or(i64::MAX);
        let rest = count - at_once + 1;
        (at_once, per.saturating_add(rest - 1) / rest)
    }

    /// When it is full again; a clock that was set back keeps nothing closed for longer than an empty one needs.
    fn full_at(self, rate: Rate, now: Timestamp) -> i64 {
        let (at_once, apart) = Bucket::shape(rate);
        let now = micros(now);
        self.full_at.clamp(now, now.saturating_add(at_once.saturating_mul(apart)))
    }

    /// When the next one may go; `None`: now.
    pub fn opens(self, rate: Rate, now: Timestamp) -> Option<Timestamp> {
        let (at_once, apart) = Bucket::shape(rate);
        let opens = self.full_at(rate, now).saturating_sub((at_once - 1).saturating_mul(apart));
        (opens > micros(now)).then(|| Timestamp::from_millis(opens.saturating_add(999) / 1_000))
    }

    /// One more has gone.
    pub fn take(&mut self, rate: Rate, now: Timestamp) {
        self.full_at = self.full_at(rate, now).saturating_add(Bucket::shape(rate).1);
    }

    /// Until when it has to be remembered.
    pub fn remembered_until(self) -> Timestamp {
        Timestamp::from_millis(self.full_at / 1_000 + 1)
    }
}

fn micros(time: Timestamp) -> i64 {
    time.millis().saturating_mul(1_000)
}

/// The limit of a connector, and whose turn is when.
#[derive(Debug, Default)]
pub(super) struct Shared {
    bucket: Bucket,
    turns: HashMap<QueueName, Timestamp>,
    /// The last turn that was given.
    last: Option<Timestamp>,
}

impl Shared {
    /// When this queue may go on; `None`: now.
    fn turn(&mut self, queue: &QueueName, rate: Rate, now: Timestamp) -> Option<Timestamp> {
        let free = self.bucket.opens(rate, now)?;
        if let Some(turn) = self.turns.get(queue).filter(|turn| **turn > now) {
            return Some(*turn);
        }
        if self.turns.len() >= MANY {
            self.turns.retain(|_, turn| *turn > now);
        }
        let apart = std::time::Duration::from_micros(Bucket::shape(rate).1.unsigned_abs());
        // behind those that wait already
        let turn = match self.last.filter(|last| *last >= now) {
            Some(last) => free.max(last + apart).min(free + FURTHEST),
            None => free,
        };
        self.last = Some(turn);
        if self.turns.len() < MANY {
            self.turns.insert(queue.clone(), turn);
        }
        Some(turn)
    }

    fn take(&mut self, queue: &QueueName, rate: Rate, now: Timestamp) {
        self.bucket.take(rate, now);
        self.turns.remove(queue);
    }
}

/// The limits of all connectors that have any.
pub(super) type Paces = HashMap<Name, Shared>;

/// What there is for a worker.
#[derive(Debug)]
pub enum Take {
    /// A message.
    Message(Leased),
    /// None that is ready and fits.
    Nothing,
    /// Limits of rate let none go before this time.
    NotBefore(Timestamp),
}

impl Queue {
    /// The next message that is ready and fits, if limits of rate let one go now.
    pub fn take(&self, hand: &Hand, fits: impl Fn(&[HostKey]) -> bool) -> Take {
        let link = hand.link();
        let snapshot = self.live.current();
        let of = settings::connector(&snapshot, &link.name).map(|connector| (&connector.name, &connector.spec.limits));
        let (connector, rate, per_host) = match of {
            Some((name, limits)) if limits.rate.is_some() || limits.rate_per_host.is_some() => {
                (name, limits.rate, limits.rate_per_host)
            }
            _ => return hand.try_take_if(fits).map_or(Take::Nothing, Take::Message),
        };
        if !hand.has_ready() {
            return Take::Nothing;
        }
        let now = self.now();
        let mut paces = self.paces();
        if paces.len() > snapshot.routes.connectors().count() {
            paces.retain(|name, _| snapshot.routes.connector(name).is_some());
        }
        let shared = paces.entry(connector.clone()).or_default();
        let own = per_host.and_then(|rate| link.opens(rate, now));
        let all = rate.and_then(|rate| shared.turn(&link.name, rate, now));
        if let Some(until) = own.max(all) {
            return Take::NotBefore(until);
        }
        let Some(leased) = hand.try_take_if(fits) else { return Take::Nothing };
        if let Some(rate) = rate {
            shared.take(&link.name, rate, now);
        }
        if let Some(rate) = per_host {
            link.count(rate, now);
        }
        Take::Message(leased)
    }

    /// Lets a queue rest until limits of rate let its mail go on.
    pub fn rest_until(&self, hand: &Hand, until: Timestamp) {
        hand.link().pause(until);
        self.agenda.look(&hand.link().name, until);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn in_no_span_more_go_than_the_limit_says_and_in_the_long_run_no_fewer() {
        for text in ["1/1s", "3/10s", "10/1s", "100/1m", "600/1m", "20000/1s", "1/1d"] {
            let rate: Rate = text.parse().unwrap();
            let (mut bucket, mut gone) = (Bucket::default(), Vec::new());
            let mut now = Timestamp::from_millis(1_795_000_000_123);
            let per = rate.per().std();
            let end = now + per * 4;
            while now < end && gone.len() < 100_000 {
                match bucket.opens(rate, now) {
                    Some(opens) => now = opens,
                    None => {
                        bucket.take(rate, now);
                        gone.push(now);
                    }
                }
            }
            let count = rate.count() as usize;
            for (first, more) in gone.iter().zip(gone.iter().skip(count)) {
                assert!(more.since(*first) >= per, "{text}: {} too many in {per:?}", count + 1);
            }
            assert!(gone.len() >= (count * 4).min(100_000) * 9 / 10, "{text}: {}", gone.len());
        }
    }

    #[test]
    fn a_clock_that_was_set_back_closes_nothing_for_long() {
        let rate: Rate = "60/1m".parse().unwrap();
        let mut bucket = Bucket::default();
        let now = Timestamp::from_millis(1_795_000_000_000);
        (0..6).for_each(|_| bucket.take(rate, now));
        let opens = bucket.opens(rate, now - Duration::from_secs(3_600)).unwrap();
        assert!(opens.since(now - Duration::from_secs(3_600)) < Duration::from_secs(3), "{opens}");
    }

    #[test]
    fn queues_that_share_a_limit_take_turns() {
        let rate: Rate = "60/1m".parse().unwrap();
        let mut shared = Shared::default();
        let mut now = Timestamp::from_millis(1_795_000_000_000);
        let queues: Vec<QueueName> = (0..4).map(|n| format!("dns:default:d{n}.example").parse().unwrap()).collect();
        let mut next: Vec<Timestamp> = vec![now; 4];
        let mut gone = [0; 4];
        while gone.iter().sum::<u32>() < 80 {
            let (at, due) = next.iter().copied().enumerate().min_by_key(|(_, due)| *due).unwrap();
            now = now.max(due);
            match shared.turn(&queues[at], rate, now) {
                Some(turn) => {
                    assert!(turn > now, "no spinning");
                    next[at] = turn;
                }
                None => {
                    shared.take(&queues[at], rate, now);
                    gone[at] += 1;
                }
            }
        }
        assert!(gone.iter().all(|gone| (16..=27).contains(gone)), "{gone:?}");
    }
}
