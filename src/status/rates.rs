//! How often each client connects: a bucket of connections per client that fills again with time.
//!
//! The table is bounded: clients whose bucket is full again are forgotten, and when even that leaves no room, those that
//! came first are. A client that is forgotten has a full bucket, no more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::model::name::Name;
use crate::model::rate::Rate;

/// Most clients that are remembered.
const MOST: usize = 50_000;

/// Buckets by server and client. IPv6 clients count by their /64, as one of them owns it all.
#[derive(Debug, Default)]
pub(super) struct Rates(HashMap<(Name, IpAddr), Bucket>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
    rate: Rate,
}

impl Bucket {
    fn left(&self, now: Instant) -> f64 {
        let most = f64::from(self.rate.count());
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + passed * most / self.rate.per().std().as_secs_f64()).min(most)
    }
}

impl Rates {
    /// One more connection: true when the rate allows it.
    pub(super) fn take(&mut self, key: &(Name, IpAddr), rate: Rate, now: Instant) -> bool {
        let key = (key.0.clone(), network(key.1));
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            self.forget(now);
        }
        let bucket = self.0.entry(key).or_insert(Bucket { left: f64::from(rate.count()), at: now, rate });
        bucket.rate = rate;
        let left = bucket.left(now);
        (bucket.left, bucket.at) = (if left >= 1.0 { left - 1.0 } else { left }, now);
        left >= 1.0
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, bucket| bucket.left(now) < f64::from(bucket.rate.count()));
        if self.0.len() >= MOST {
            let mut times: Vec<Instant> = self.0.values().map(|bucket| bucket.at).collect();
            let (_, middle, _) = times.select_nth_unstable(MOST / 2);
            let middle = *middle;
            self.0.retain(|_, bucket| bucket.at > middle);
        }
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_is_emptied_and_fills_again() {
        let mut rates = Rates::default();
        let (rate, now) = ("2/10s".parse().unwrap(), Instant::now());
        let key = |client: &str| ("default".parse().unwrap(), client.parse().unwrap());
        assert!(rates.take(&key("192.0.2.1"), rate, now) && rates.take(&key("192.0.2.1"), rate, now));
        assert!(!rates.take(&key("192.0.2.1"), rate, now));
        assert!(rates.take(&key("192.0.2.2"), rate, now), "each client has its own");
        assert!(!rates.take(&key("192.0.2.1"), rate, now + Duration::from_secs(4)));
        assert!(rates.take(&key("192.0.2.1"), rate, now + Duration::from_secs(6)));
        assert!(rates.take(&key("2001:db8::1"), rate, now) && rates.take(&key("2001:db8::2"), rate, now));
        assert!(!rates.take(&key("2001:db8::3"), rate, now), "one /64");
    }

    #[test]
    fn the_table_is_bounded() {
        let mut rates = Rates::default();
        let (rate, now) = ("2/10s".parse().unwrap(), Instant::now());
        for n in 0..2 * u32::try_from(MOST).unwrap() {
            let key = ("default".parse().unwrap(), IpAddr::V4(Ipv4Addr::from(n)));
            assert!(rates.take(&key, rate, now + Duration::from_micros(n.into())));
        }
        assert!(rates.0.len() <= MOST);
    }
}
