//! How much an account has sent: a bucket per account and limit that fills up again with time.
//!
//! In memory: a restart forgets it, in favour of the account. An account that sends nothing for as long as its bucket
//! takes to fill up is forgotten; so there are never more entries than accounts that are limited.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Account;
use crate::model::name::Name;
use crate::model::rate::Rate;

/// From so many entries on, full buckets are looked for and dropped.
const SWEEP_FROM: usize = 1_024;

/// What accounts have used up.
#[derive(Debug, Default)]
pub struct Quotas {
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    by_account: HashMap<(Name, What), Bucket>,
    sweep_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Messages,
    Recipients,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
}

/// An account has sent as much as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the quota {limit} is used up")]
pub struct OverQuota {
    /// The limit.
    pub limit: Rate,
    /// When there is room for one more.
    pub retry_after: Duration,
}

impl Quotas {
    /// Counts one message: at MAIL, which is then to be refused with 4xx if this is an error.
    ///
    /// # Errors
    /// When the account has sent as many as it may; nothing is counted then.
    pub fn message(&self, account: &Account, now: Instant) -> Result<(), OverQuota> {
        self.take(account, What::Messages, account.quotas.messages, now)
    }

    /// Counts one recipient: at RCPT, which is then to be refused with 452 if this is an error.
    ///
    /// # Errors
    /// When the account has sent to as many as it may; nothing is counted then.
    pub fn recipient(&self, account: &Account, now: Instant) -> Result<(), OverQuota> {
        self.take(account, What::Recipients, account.quotas.recipients, now)
    }

    /// What is used up now, if anything is: the next message would be refused. Counts nothing.
    pub fn is_used_up(&self, account: &Account, now: Instant) -> Option<OverQuota> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = [(What::Messages, account.quotas.messages), (What::Recipients, account.quotas.recipients)];
        limits.into_iter().find_map(|(what, limit)| {
            let bucket = buckets.by_account.get(&(account.name.clone(), what))?.refilled(now);
            let spent = limit == Some(bucket.rate) && bucket.left < 1.0;
            let retry_after = bucket.per_one().mul_f64((1.0 - bucket.left).max(0.0));
            spent.then_some(OverQuota { limit: bucket.rate, retry_after })
        })
    }

    fn take(&self, account: &Account, what: What, limit: Option<Rate>, now: Instant) -> Result<(), OverQuota> {
        let Some(rate) = limit else { return Ok(()) };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.by_account.len() >= buckets.sweep_at.max(SWEEP_FROM) {
            buckets.by_account.retain(|_, bucket| !bucket.refilled(now).is_full());
            buckets.sweep_at = buckets.by_account.len() * 2;
        }
        let fresh = Bucket { rate, left: f64::from(rate.count()), at: now };
        let bucket = buckets.by_account.entry((account.name.clone(), what)).or_insert(fresh);
        // another limit begins anew
        *bucket = if bucket.rate == rate { bucket.refilled(now) } else { fresh };
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            Ok(())
        } else {
            let retry_after = bucket.per_one().mul_f64(1.0 - bucket.left);
            Err(OverQuota { limit: rate, retry_after })
        }
    }
}

impl Bucket {
    fn refilled(self, now: Instant) -> Self {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() / self.per_one().as_secs_f64();
        Bucket { left: (self.left + gained).min(f64::from(self.rate.count())), at: now, ..self }
    }

    fn is_full(self) -> bool {
        self.left >= f64::from(self.rate.count())
    }

    /// In how long there is room for one more.
    fn per_one(self) -> Duration {
        Duration::from(self.rate.per()) / self.rate.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::tests::account;

    #[test]
    fn a_quota_is_used_up_and_fills_again() {
        let (quotas, start) = (Quotas::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ada = account("ada", None);
        ada.quotas.messages = Some("3/1m".parse().unwrap());
        let limit = "3/1m".parse().unwrap();
        for _ in 0..3 {
            assert_eq!(quotas.message(&ada, start), Ok(()));
        }
        let over = OverQuota { limit, retry_after: Duration::from_secs(20) };
        assert_eq!(quotas.message(&ada, start), Err(over));
        assert_eq!(quotas.recipient(&ada, start), Ok(()), "there is no such limit");
        assert_eq!(quotas.message(&account("bob", None), start), Ok(()));
        assert_eq!(quotas.message(&ada, at(20)), Ok(()));
        assert!(quotas.message(&ada, at(20)).is_err());
        for _ in 0..3 {
            assert_eq!(quotas.message(&ada, at(3_600)), Ok(()), "never more than the limit");
        }
        assert!(quotas.message(&ada, at(3_600)).is_err());
        ada.quotas.messages = Some("4/1m".parse().unwrap());
        assert_eq!(quotas.message(&ada, at(3_600)), Ok(()), "a new limit begins anew");
    }

    #[test]
    fn who_sends_no_more_is_forgotten() {
        let (quotas, start) = (Quotas::default(), Instant::now());
        for n in 0..10_000_u64 {
            let mut account = account(&format!("user{n}"), None);
            account.quotas.recipients = Some("10/1s".parse().unwrap());
            quotas.recipient(&account, start + Duration::from_secs(n)).unwrap();
        }
        assert!(quotas.buckets.lock().unwrap().by_account.len() <= SWEEP_FROM);
    }
}
