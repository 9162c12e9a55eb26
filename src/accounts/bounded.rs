//! A map that forgets: bounded in number and in time, every operation in constant time.
//!
//! Entries live in two generations. When the young one is half of the bound, or as old as the lifetime, it becomes the old
//! one, and the old one is dropped whole. An entry that is looked up or changed moves to the young generation.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A map of at most so many entries, each of which lives for one to two lifetimes after its last use.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
    lifetime: Duration,
    turned: Option<Instant>,
}

impl<K: Hash + Eq, V> Bounded<K, V> {
    pub(super) fn new(most: usize, lifetime: Duration) -> Self {
        Bounded { young: HashMap::new(), old: HashMap::new(), half: (most / 2).max(1), lifetime, turned: None }
    }

    /// The entry, if it is remembered.
    pub(super) fn get(&mut self, key: &K, now: Instant) -> Option<&mut V> {
        self.turn(now);
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.young.insert(key, value);
        }
        self.young.get_mut(key)
    }

    /// Remembers an entry.
    pub(super) fn insert(&mut self, key: K, value: V, now: Instant) {
        self.turn(now);
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    /// Forgets an entry.
    pub(super) fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    fn turn(&mut self, now: Instant) {
        let turned = *self.turned.get_or_insert(now);
        let age = now.saturating_duration_since(turned);
        if age >= self.lifetime || self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
            self.turned = Some(now);
        }
        // nothing was asked for two lifetimes
        if age >= self.lifetime * 2 {
            self.old.clear();
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_what_is_old_or_too_much() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut map = Bounded::new(100, Duration::from_secs(60));
        for n in 0..10_000 {
            map.insert(n, (), start);
            assert!(map.len() <= 101, "{}", map.len());
        }
        assert!(map.get(&9_999, start).is_some() && map.get(&0, start).is_none());

        let mut map = Bounded::new(100, Duration::from_secs(60));
        map.insert("a", 1, start);
        map.insert("b", 2, start);
        assert_eq!(map.get(&"a", at(70)), Some(&mut 1), "it is used");
        assert_eq!(map.get(&"a", at(131)), Some(&mut 1));
        assert_eq!(map.get(&"b", at(132)), None, "it is not");
        assert_eq!(map.get(&"a", at(400)), None);
        map.insert("c", 3, at(400));
        map.remove(&"c");
        assert_eq!(map.get(&"c", at(400)), None);
    }
}
