//! Whether the appliance has more than it can carry: too much mail queued, or too little memory left.
//!
//! Looked at once a second by `boot`, asked at every MAIL (one atomic read when all is well). New mail is refused for a while,
//! with a temporary reply; what is queued goes on, and so does REST, so that somebody can do something about it. It ends by
//! itself when a tenth below the limit is free again: not at the limit, where it would begin and end with every message.
//! A full disk is the store's own reason ([`StoreError::NoSpace`](crate::store::StoreError::NoSpace)).

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What is counted against its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Messages that wait.
    QueuedMessages,
    /// Their content.
    QueuedBytes,
    /// Memory of the process.
    Memory,
}

/// More than it can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overloaded {
    /// Of what.
    pub load: Load,
    /// How much there is.
    pub has: u64,
    /// How much there may be.
    pub limit: u64,
}

impl fmt::Display for Overloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Overloaded { has, limit, .. } = self;
        match self.load {
            Load::QueuedMessages => write!(f, "{has} messages are queued, {limit} are the limit"),
            Load::QueuedBytes => write!(f, "{has} octets are queued, {limit} are the limit"),
            Load::Memory => write!(f, "{has} octets of memory are used, {limit} are the limit"),
        }
    }
}

/// What there is of each load, and how much there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Of what.
    pub load: Load,
    /// How much there is.
    pub has: u64,
    /// How much there may be; `None`: as much as you like.
    pub limit: Option<u64>,
}

/// The state, as it was when somebody last looked.
#[derive(Debug, Default)]
pub struct Overload {
    on: AtomicBool,
    why: Mutex<Option<Overloaded>>,
}

impl Overload {
    /// Why new mail is refused; `None` when it is not.
    pub fn now(&self) -> Option<Overloaded> {
        if !self.on.load(Ordering::Acquire) {
            return None;
        }
        *self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in how much there is now; true when it has begun or ended by this.
    pub fn look(&self, measured: &[Measured]) -> bool {
        let mut why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *why;
        let over = |one: &Measured| {
            let limit = one.limit?;
            // what is over goes on being over until a tenth is free
            let was = before.is_some_and(|before| before.load == one.load);
            let bound = if was { limit - limit / 10 } else { limit };
            (one.has > bound || (was && one.has == bound && bound > 0)).then_some(Overloaded {
                load: one.load,
                has: one.has,
                limit,
            })
        };
        *why = measured.iter().find_map(over);
        self.on.store(why.is_some(), Ordering::Release);
        before.is_some() != why.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_above_the_limit_and_ends_a_tenth_below() {
        let overload = Overload::default();
        let queued = |has| [Measured { load: Load::QueuedMessages, has, limit: Some(100) }];
        assert!(!overload.look(&queued(100)) && overload.now().is_none());
        assert!(overload.look(&queued(101)));
        assert_eq!(overload.now().unwrap().to_string(), "101 messages are queued, 100 are the limit");
        for has in [100, 91, 90] {
            assert!(!overload.look(&queued(has)), "{has}");
            assert!(overload.now().is_some(), "{has}");
        }
        assert!(overload.look(&queued(89)) && overload.now().is_none());
        // another load has its own limit, and one without a limit is never over it
        let both = [
            Measured { load: Load::QueuedMessages, has: 1 << 40, limit: None },
            Measured { load: Load::Memory, has: 2, limit: Some(1) },
        ];
        assert!(overload.look(&both) && overload.now().unwrap().load == Load::Memory);
        // a limit that is taken away ends it
        assert!(overload.look(&[]) && overload.now().is_none());
    }
}
