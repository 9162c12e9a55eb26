//! Guessing made slow: after a few failures each further attempt waits for its turn, twice as long each time.
//!
//! Failures are counted by the client's network (an IPv4 address; the /64 of an IPv6 address) and by the name that was
//! tried, whether it exists or not. Attempts that count for the same key take turns, so that many connections at once are
//! no faster than one; who would wait longer than [`MOST_WAIT`] is told to come again, and its credentials are not looked
//! at. Counts halve every [`HALVED`] and are forgotten in the end.
//!
//! A user who logged in from a network lately is counted alone there: neither a stranger who tries that name from
//! elsewhere nor a neighbour with a wrong password locks this user out. The tables are bounded.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::bounded::Bounded;

/// Longest wait for a turn.
pub(super) const MOST_WAIT: Duration = Duration::from_secs(10);
/// First wait; each further failure doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest time between two turns.
const MOST_APART: Duration = Duration::from_secs(60);
/// In this time a count of failures halves.
const HALVED: Duration = Duration::from_secs(300);
/// Failures without a wait: of a user, and of a network, where many users may be.
const FREE_FOR_USER: u32 = 5;
const FREE_FOR_NETWORK: u32 = 20;
/// Failures of others that an attempt which has its turn may be behind: those that were checked at the same time.
const SLACK: u32 = 8;
/// Most keys that are remembered, of each kind.
const MOST_KEYS: usize = 100_000;
/// How long a login makes a user known in a network.
const KNOWN: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug)]
pub(super) struct Throttle {
    counts: Bounded<Key, Count>,
    known: Bounded<(IpAddr, String), ()>,
}

/// Whom failures are counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Network(IpAddr),
    User(String),
    UserInNetwork(IpAddr, String),
}

#[derive(Debug, Clone, Copy)]
struct Count {
    failures: u32,
    halved: Instant,
    /// When the next attempt has its turn.
    free: Instant,
}

/// An attempt that may be made, after a wait.
#[derive(Debug)]
pub(super) struct Turn {
    keys: Vec<Key>,
    user: Option<(IpAddr, String)>,
    failures: u32,
    /// How long to wait first.
    pub(super) wait: Duration,
}

/// There were too many failures: the attempt is not to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

impl Throttle {
    pub(super) fn new() -> Self {
        Throttle { counts: Bounded::new(MOST_KEYS, HALVED * 6), known: Bounded::new(MOST_KEYS, KNOWN) }
    }

    /// Gives an attempt its turn. Without a user (a token, which cannot be guessed) only the network counts.
    pub(super) fn admit(&mut self, client: IpAddr, user: Option<&str>, now: Instant) -> Result<Turn, TooMany> {
        let network = network(client);
        let user = user.map(|user| (network, user.to_ascii_lowercase()));
        let keys = match &user {
            Some(known) if self.known.get(known, now).is_some() => {
                vec![Key::UserInNetwork(network, known.1.clone())]
            }
            Some((_, user)) => vec![Key::Network(network), Key::User(user.clone())],
            None => vec![Key::Network(network)],
        };
        let counts: Vec<Option<Count>> = keys.iter().map(|key| self.count(key, now)).collect();
        let start = counts.iter().flatten().fold(now, |start, count| start.max(count.free));
        let wait = start - now;
        if wait > MOST_WAIT {
            return Err(TooMany);
        }
        let mut failures = 0;
        for (key, count) in keys.iter().zip(counts) {
            let Some(count) = count else { continue };
            failures = failures.max(count.failures);
            self.counts.insert(key.clone(), Count { free: start + key.apart(count.failures), ..count }, now);
        }
        Ok(Turn { keys, user, failures, wait })
    }

    /// Whether an attempt that had its turn may still be made: others may have failed while it waited for a processor.
    pub(super) fn still(&mut self, turn: &Turn, now: Instant) -> Result<(), TooMany> {
        let late = |count: Count, key: &Key| {
            count.failures > turn.failures.saturating_add(SLACK) && !key.apart(count.failures).is_zero()
        };
        let late = turn.keys.iter().any(|key| self.count(key, now).is_some_and(|count| late(count, key)));
        if late { Err(TooMany) } else { Ok(()) }
    }

    /// The attempt failed.
    pub(super) fn failed(&mut self, turn: &Turn, now: Instant) {
        for key in &turn.keys {
            let count = self.count(key, now).unwrap_or(Count { failures: 0, halved: now, free: now });
            let failures = count.failures.saturating_add(1);
            let free = count.free.max(now + key.apart(failures));
            self.counts.insert(key.clone(), Count { failures, free, ..count }, now);
        }
    }

    /// The attempt succeeded.
    pub(super) fn succeeded(&mut self, turn: &Turn, now: Instant) {
        let Some((network, user)) = &turn.user else { return };
        self.counts.remove(&Key::User(user.clone()));
        self.counts.remove(&Key::UserInNetwork(*network, user.clone()));
        self.known.insert((*network, user.clone()), (), now);
    }

    /// What is counted for a key at this time.
    fn count(&mut self, key: &Key, now: Instant) -> Option<Count> {
        let count = self.counts.get(key, now)?;
        let halvings = now.saturating_duration_since(count.halved).as_secs() / HALVED.as_secs();
        let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
        count.failures = count.failures.checked_shr(halvings).unwrap_or(0);
        count.halved += HALVED.saturating_mul(halvings);
        Some(*count)
    }
}

impl Key {
    /// How far apart attempts are after so many failures.
    fn apart(&self, failures: u32) -> Duration {
        let free = match self {
            Key::Network(_) => FREE_FOR_NETWORK,
            Key::User(_) | Key::UserInNetwork(..) => FREE_FOR_USER,
        };
        match failures.checked_sub(free) {
            None | Some(0) => Duration::ZERO,
            Some(over) => FIRST_WAIT.saturating_mul(1 << (over - 1).min(16)).min(MOST_APART),
        }
    }
}

/// Whose failures are counted together: an IPv4 address, the /64 of an IPv6 address.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn each_failure_doubles_the_wait_until_credentials_are_not_looked_at() {
        let (mut throttle, start) = (Throttle::new(), Instant::now());
        let client = "192.0.2.1".parse().unwrap();
        let mut waits = Vec::new();
        let mut now = start;
        while let Ok(turn) = throttle.admit(client, Some("Ada"), now) {
            waits.push(turn.wait.as_millis());
            now += turn.wait;
            throttle.failed(&turn, now);
        }
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 500, 1_000, 2_000, 4_000, 8_000]);
        assert_eq!(throttle.admit(client, Some("ADA"), now).unwrap_err(), TooMany, "names differ in more than case");
        assert_eq!(
            throttle.admit(client, Some("bob"), now).unwrap().wait,
            Duration::ZERO,
            "the network has failures left"
        );
        let turn = throttle.admit(client, Some("ada"), at(now, 3_600_000)).unwrap();
        assert_eq!(turn.wait, Duration::ZERO, "it is forgotten");
    }

    #[test]
    fn many_connections_at_once_are_no_faster_than_one() {
        let (mut throttle, now) = (Throttle::new(), Instant::now());
        let client = |n: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, n, 0, 0, 0, n));
        for n in 0..6 {
            let turn = throttle.admit(client(n), Some("ada"), now).unwrap();
            throttle.failed(&turn, now);
        }
        let waits: Vec<_> = (10..100).filter_map(|n| throttle.admit(client(n), Some("ada"), now).ok()).collect();
        let waits: Vec<_> = waits.iter().map(|turn| turn.wait.as_millis()).collect();
        assert_eq!(waits.len(), 20, "turns, half a second apart, for ten seconds: {waits:?}");
        assert!(waits.is_sorted_by(|a, b| b - a == 500));
    }

    #[test]
    fn attempts_that_began_together_do_not_all_count_as_the_first() {
        let (mut throttle, now) = (Throttle::new(), Instant::now());
        let client = "192.0.2.1".parse().unwrap();
        let turns: Vec<_> = (0..1_000).map(|_| throttle.admit(client, Some("ada"), now).unwrap()).collect();
        let mut looked_at = 0;
        for turn in &turns {
            if throttle.still(turn, now).is_ok() {
                looked_at += 1;
                throttle.failed(turn, now);
            }
        }
        assert_eq!(looked_at, 9, "then the others are behind too many failures");
    }

    #[test]
    fn whoever_logged_in_here_lately_is_locked_out_by_nobody_else() {
        let (mut throttle, now) = (Throttle::new(), Instant::now());
        let (home, elsewhere) = ("2001:db8::1".parse().unwrap(), "198.51.100.7".parse().unwrap());
        let turn = throttle.admit(home, Some("ada"), now).unwrap();
        throttle.succeeded(&turn, now);
        for client in [home, elsewhere] {
            while let Ok(turn) = throttle.admit(client, Some(if client == home { "bob" } else { "ada" }), now) {
                throttle.failed(&turn, now);
            }
        }
        assert!(throttle.admit(elsewhere, Some("ada"), now).is_err());
        let neighbour = "2001:db8::ffff:2".parse().unwrap();
        assert_eq!(throttle.admit(neighbour, Some("ada"), now).unwrap().wait, Duration::ZERO, "in the same /64");
        while let Ok(turn) = throttle.admit(home, Some("ada"), now) {
            throttle.failed(&turn, now);
        }
        assert!(throttle.admit(home, Some("ada"), now).is_err(), "own failures count");
    }

    #[test]
    fn a_device_with_a_wrong_password_does_not_add_up_for_ever() {
        let (mut throttle, start) = (Throttle::new(), Instant::now());
        for minute in 0..10_000 {
            let now = at(start, minute * 60_000);
            let turn = throttle.admit("192.0.2.1".parse().unwrap(), Some(&format!("user{minute}")), now).unwrap();
            assert_eq!(turn.wait, Duration::ZERO, "{minute}");
            throttle.failed(&turn, now);
        }
    }
}
