//! Logins that were verified lately, so that a client which logs in for every message does not cost an Argon2 each.
//!
//! What is remembered is a keyed hash of name, password and the hash that it was checked against, under a key that
//! lives only in this process. A changed password therefore has nothing remembered, and the table is of no use to
//! whoever reads it.

use std::time::{Duration, Instant};

use super::bounded::Bounded;
use super::verifier::Verifier;
use crate::smtp::sasl::scram::hmac;

/// How long a verified login holds.
const HOLDS: Duration = Duration::from_secs(300);
/// Most that are remembered.
const MOST: usize = 10_000;

#[derive(Debug)]
pub(super) struct VerifiedLogins {
    until: Bounded<[u8; 32], Instant>,
}

/// A login, unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag([u8; 32]);

impl Tag {
    pub(super) fn new(key: &[u8; 32], username: &str, password: &str, verifier: &Verifier) -> Self {
        let length = |text: &str| text.len().to_be_bytes();
        let hash = verifier.hash().as_str();
        Tag(hmac(
            key,
            &[
                b"verified login",
                &length(hash),
                hash.as_bytes(),
                &length(username),
                username.as_bytes(),
                password.as_bytes(),
            ],
        ))
    }
}

impl VerifiedLogins {
    pub(super) fn new() -> Self {
        VerifiedLogins { until: Bounded::new(MOST, HOLDS) }
    }

    pub(super) fn holds(&mut self, tag: Tag, now: Instant) -> bool {
        self.until.get(&tag.0, now).is_some_and(|until| *until > now)
    }

    pub(super) fn remember(&mut self, tag: Tag, now: Instant) {
        self.until.insert(tag.0, now + HOLDS, now);
    }
}
