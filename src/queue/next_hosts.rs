//! Which hosts of a next hop have put a message off, so that the others are asked before it waits (RFC 5321, 5.1).
//!
//! A *round* asks each host once, in the order of the route. It begins with a message that comes due, and ends when a host
//! takes or refuses the message for good, or none is left: only then the message is deferred by the intervals, and only then
//! that counts as an attempt. A host that says *later* is not asked again before, so greylisting is no reason to hammer.
//!
//! The memory is bounded. What it has no room for, and what a restart forgets, begins its round anew.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::mail::MessageId;
use crate::model::time::Timestamp;

/// Most messages of one queue that are in the middle of a round.
const MOST_MESSAGES: usize = 10_000;
/// Most hosts that are remembered for one message: no connector has more.
const MOST_HOSTS: usize = 100;
/// A round that nobody went on with for so long is over: its queue rested meanwhile.
const HOLDS: Duration = Duration::from_secs(600);

/// A host of a next hop: what is asked once in a round, at whichever of its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostKey {
    /// Its name, or its address where it has none.
    pub name: String,
    /// The TCP port.
    pub port: u16,
}

/// The rounds of the messages of one queue.
#[derive(Debug, Default)]
pub(super) struct Rounds(HashMap<MessageId, Round>);

#[derive(Debug)]
struct Round {
    asked: Vec<HostKey>,
    at: Timestamp,
}

impl Rounds {
    /// Until when they have to be remembered.
    pub fn remembered_until(&self) -> Option<Timestamp> {
        self.0.values().map(|round| round.at + HOLDS).max()
    }

    /// The hosts that have put the message off in this round.
    pub fn asked(&self, id: MessageId) -> &[HostKey] {
        self.0.get(&id).map_or(&[], |round| &round.asked)
    }

    /// These hosts are not asked again in this round. False when there is no room to remember that.
    pub fn pass_on(&mut self, id: MessageId, hosts: &[HostKey], now: Timestamp) -> bool {
        if self.0.len() >= MOST_MESSAGES && !self.0.contains_key(&id) {
            self.forget_old(now);
            if self.0.len() >= MOST_MESSAGES {
                return false;
            }
        }
        let round = self.0.entry(id).or_insert(Round { asked: Vec::new(), at: now });
        round.at = now;
        for host in hosts {
            if !round.asked.contains(host) {
                round.asked.push(host.clone());
            }
        }
        round.asked.len() <= MOST_HOSTS
    }

    /// The round of a message is over.
    pub fn end(&mut self, id: MessageId) {
        self.0.remove(&id);
    }

    /// Ends the rounds that nobody went on with.
    pub fn forget_old(&mut self, now: Timestamp) {
        self.0.retain(|_, round| now < round.at + HOLDS);
    }
}

/// Where one session stands in the order of a route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Turn {
    host: Option<HostKey>,
    /// Passed over, because the message that the session was opened for had asked them.
    skipped: Vec<HostKey>,
    /// All that stand before it: passed over, or found dead just now.
    before: Vec<HostKey>,
    after: Vec<HostKey>,
}

impl Turn {
    /// The turn of the only host that there is.
    pub fn of_all() -> Self {
        Turn::default()
    }

    /// The turn of `host` in this order, for a message that had asked some.
    pub fn new(order: &[HostKey], asked: &[HostKey], host: &HostKey) -> Self {
        let mut turn = Turn { host: Some(host.clone()), ..Turn::default() };
        let at = order.iter().position(|other| other == host).unwrap_or(order.len());
        turn.before = order[..at].to_vec();
        turn.skipped = turn.before.iter().filter(|other| asked.contains(other)).cloned().collect();
        turn.after = order.iter().skip(at + 1).filter(|other| *other != host).cloned().collect();
        turn
    }

    /// Whether a message that had asked these may go over the session: never twice to one host, and not past one that it has
    /// not asked.
    pub fn fits(&self, asked: &[HostKey]) -> bool {
        self.host.as_ref().is_none_or(|host| !asked.contains(host))
            && self.skipped.iter().all(|skipped| asked.contains(skipped))
    }

    /// Whether there is one more to ask.
    pub(super) fn has_another(&self, asked: &[HostKey]) -> bool {
        self.after.iter().any(|host| !asked.contains(host))
    }

    /// Those that have had their turn with it.
    pub(super) fn had(&self) -> Vec<HostKey> {
        self.before.iter().chain(&self.host).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &str) -> Vec<HostKey> {
        names.chars().map(|name| HostKey { name: name.to_string(), port: 25 }).collect()
    }

    #[test]
    fn every_host_has_one_turn_in_the_order_of_the_route() {
        // order, asked before, whose turn; whom else the session carries: asked before, fits, another is left
        for (order, asked, turn, messages) in [
            ("abc", "", "a", vec![("", true, true), ("a", false, true), ("bc", true, false)]),
            ("abc", "a", "b", vec![("a", true, true), ("", false, true), ("ab", false, true), ("ac", true, false)]),
            // a is dead, nobody has asked it: all may go to b, and c is the last
            ("abc", "", "b", vec![("", true, true), ("c", true, false)]),
            ("abc", "ab", "c", vec![("ab", true, false), ("a", false, false)]),
            ("a", "", "a", vec![("", true, false)]),
        ] {
            let host = &hosts(turn)[0];
            let turn = Turn::new(&hosts(order), &hosts(asked), host);
            for (asked, fits, another) in messages {
                let asked = hosts(asked);
                assert_eq!((turn.fits(&asked), turn.has_another(&asked)), (fits, another), "{turn:?} {asked:?}");
            }
        }
        assert_eq!(Turn::new(&hosts("abc"), &[], &hosts("b")[0]).had(), hosts("ab"), "the dead one is not tried again");
        assert!(Turn::of_all().fits(&hosts("a")) && !Turn::of_all().has_another(&[]));
    }

    #[test]
    fn the_memory_is_bounded_and_forgets() {
        let at = |seconds: u64| Timestamp::EPOCH + Duration::from_secs(seconds);
        let mut rounds = Rounds::default();
        let first = MessageId::generate();
        assert!(rounds.pass_on(first, &hosts("a"), at(0)) && rounds.pass_on(first, &hosts("ab"), at(0)));
        assert_eq!(rounds.asked(first), hosts("ab"));
        for _ in 1..MOST_MESSAGES {
            assert!(rounds.pass_on(MessageId::generate(), &hosts("a"), at(500)));
        }
        assert!(!rounds.pass_on(MessageId::generate(), &hosts("a"), at(599)));
        assert!(rounds.pass_on(first, &hosts("c"), at(599)), "who is known goes on");
        assert!(rounds.pass_on(MessageId::generate(), &hosts("a"), at(1_100)), "old ones make room");
        rounds.end(first);
        assert!(rounds.asked(first).is_empty());
    }
}
