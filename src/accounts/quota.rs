//! How much was sent: a bucket that fills up again with time for each limit of an account, an API key or a sender's domain.
//!
//! In memory, and written to the store within a second ([`Quotas::save`]); so a restart goes on where the process stood at
//! most a second before its end. Who sends nothing for as long as his bucket takes to fill up is forgotten; and there are
//! never more than [`MOST`] entries: beyond, those that have used up least are forgotten.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::host::domain_key;
use crate::model::name::Name;
use crate::model::rate::Rate;
use crate::model::rates::Rates;
use crate::model::spec::account::AccountQuotas;
use crate::model::time::Timestamp;
use crate::smtp::address::Domain;
use crate::store::{NoteStore, StoreError};

/// Most entries.
const MOST: usize = 100_000;
/// From so many entries on, full buckets are looked for and dropped.
const SWEEP_FROM: usize = 1_024;
/// Most entries that are written at once.
const MOST_WRITTEN: usize = 5_000;
/// Rows read back at once.
const PAGE: usize = 10_000;
const PREFIX: &str = "quota/";

/// What was used up of all quotas. One per process.
#[derive(Debug, Default)]
pub struct Quotas {
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    by_subject: HashMap<(Subject, What), Vec<Bucket>>,
    sweep_at: usize,
    /// What the store does not know yet.
    unsaved: HashSet<(Subject, What)>,
}

/// Whose quota it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// An account.
    Account(Name),
    /// An API key.
    ApiKey(String),
    /// The domain of reverse-paths, as its key.
    SenderDomain(String),
}

impl Subject {
    /// What kind of thing it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Subject::Account(_) => "account",
            Subject::ApiKey(_) => "apiKey",
            Subject::SenderDomain(_) => "senderDomain",
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Subject::Account(name) => name.as_str(),
            Subject::ApiKey(name) | Subject::SenderDomain(name) => name,
        }
    }

    /// Whether somebody who says this name means it: in whatever case, and a domain in either spelling.
    pub fn is_named(&self, name: &str) -> bool {
        let domain = || name.parse::<Domain>().is_ok_and(|domain| domain_key(&domain) == self.name());
        self.name().eq_ignore_ascii_case(name) || matches!(self, Subject::SenderDomain(_)) && domain()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Subject::Account(_) => "account",
            Subject::ApiKey(_) => "API key",
            Subject::SenderDomain(_) => "sender domain",
        };
        write!(f, "{kind} {}", self.name())
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = QuotaCounts)]
pub enum What {
    /// Messages.
    Messages,
    /// Recipients of all messages together.
    Recipients,
}

/// Somebody, and how much he may send.
#[derive(Debug, Clone)]
pub struct Limited<'a> {
    /// Who.
    pub subject: Subject,
    /// How much.
    pub quotas: &'a AccountQuotas,
}

impl Limited<'_> {
    fn rates(&self, what: What) -> Option<&Rates> {
        match what {
            What::Messages => self.quotas.messages.as_ref(),
            What::Recipients => self.quotas.recipients.as_ref(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
}

/// How a bucket is written down.
#[derive(Serialize, Deserialize)]
struct Written {
    subject: Subject,
    what: What,
    at: Timestamp,
    left: Vec<(Rate, f64)>,
}

/// Somebody has sent as much as he may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: the quota {limit} is used up")]
pub struct OverQuota {
    /// Who.
    pub subject: Subject,
    /// The limit.
    pub limit: Rate,
    /// When there is room for one more.
    pub retry_after: Duration,
}

/// What is used up of one limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// Whose it is.
    pub subject: Subject,
    /// What it counts.
    pub what: What,
    /// The limit.
    pub limit: Rate,
    /// So many more may go now.
    pub left: u32,
    /// When there is room for one more, if there is none.
    pub retry_after: Option<Duration>,
    /// When nothing of it is used up any more.
    pub full_after: Duration,
}

impl Quotas {
    /// Counts one message, or one recipient, for all of these. A refusal is to be told with 4xx.
    ///
    /// # Errors
    /// When one of them has sent as many as it may; nothing is counted then for any of them.
    pub fn take(&self, what: What, whose: &[Limited<'_>], now: Instant) -> Result<(), OverQuota> {
        let mut buckets = self.lock();
        for limited in whose {
            let Some(rates) = limited.rates(what) else { continue };
            buckets.make_room(now);
            let own = buckets.by_subject.entry((limited.subject.clone(), what)).or_default();
            // another limit begins anew
            own.retain(|bucket| rates.iter().any(|rate| rate == bucket.rate));
            for rate in rates.iter() {
                match own.iter_mut().find(|bucket| bucket.rate == rate) {
                    Some(bucket) => *bucket = bucket.refilled(now),
                    None => own.push(Bucket { rate, left: f64::from(rate.count()), at: now }),
                }
            }
            if let Some(over) = own.iter().filter_map(|bucket| bucket.over(&limited.subject)).max_by_key(longest) {
                return Err(over);
            }
        }
        for limited in whose.iter().filter(|limited| limited.rates(what).is_some()) {
            let key = (limited.subject.clone(), what);
            if let Some(own) = buckets.by_subject.get_mut(&key) {
                own.iter_mut().for_each(|bucket| bucket.left -= 1.0);
                buckets.unsaved.insert(key);
            }
        }
        Ok(())
    }

    /// What is used up now, if anything is: the next message would be refused. Counts nothing.
    pub fn is_used_up(&self, whose: &[Limited<'_>], now: Instant) -> Option<OverQuota> {
        let buckets = self.lock();
        whose.iter().flat_map(|limited| [(limited, What::Messages), (limited, What::Recipients)]).find_map(
            |(limited, what)| {
                let rates = limited.rates(what)?;
                let own = buckets.by_subject.get(&(limited.subject.clone(), what))?;
                let holding = own.iter().filter(|bucket| rates.iter().any(|rate| rate == bucket.rate));
                holding.filter_map(|bucket| bucket.refilled(now).over(&limited.subject)).max_by_key(longest)
            },
        )
    }

    /// What is used up of which limits, in order. Limits of which nothing is are not listed.
    pub fn usage(&self, now: Instant) -> Vec<Usage> {
        let buckets = self.lock();
        let all = buckets.by_subject.iter().flat_map(|((subject, what), own)| {
            let own = own.iter().map(|bucket| bucket.refilled(now)).filter(|bucket| !bucket.is_full());
            own.map(move |bucket| Usage {
                subject: subject.clone(),
                what: *what,
                limit: bucket.rate,
                left: bucket.left.max(0.0) as u32,
                retry_after: bucket.over(subject).map(|over| over.retry_after),
                full_after: bucket.per_one().mul_f64((f64::from(bucket.rate.count()) - bucket.left).max(0.0)),
            })
        });
        let mut all: Vec<Usage> = all.collect();
        drop(buckets);
        let order = |usage: &Usage| (usage.subject.clone(), usage.what, usage.limit.per());
        all.sort_by_cached_key(order);
        all
    }

    /// Forgets what somebody has used up; `false` when that was nothing.
    pub fn reset(&self, kind: &str, name: &str) -> bool {
        let mut buckets = self.lock();
        let is_his = |key: &&(Subject, What)| key.0.kind() == kind && key.0.is_named(name);
        let his: Vec<_> = buckets.by_subject.keys().filter(is_his).cloned().collect();
        for key in &his {
            buckets.by_subject.remove(key);
        }
        let any = !his.is_empty();
        buckets.unsaved.extend(his);
        any
    }

    /// Goes on where an earlier process stood. `wall` is the time of `now`.
    ///
    /// # Errors
    /// When the store cannot be read: then everybody begins anew.
    pub fn restore(&self, store: &dyn NoteStore, now: Instant, wall: Timestamp) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        while rows.len() < MOST {
            let page = store.notes(PREFIX, rows.last().map(|(key, _): &(String, _)| key.as_str()), PAGE)?;
            let last = page.len() < PAGE;
            rows.extend(page);
            if last {
                break;
            }
        }
        let mut buckets = self.lock();
        for (key, value) in rows {
            let Ok(written) = serde_json::from_slice::<Written>(&value) else {
                tracing::warn!(key, "what was written down of a quota cannot be read; it begins anew");
                continue;
            };
            let passed = wall.since(written.at);
            let bucket = |(rate, left): (Rate, f64)| Bucket { rate, left, at: now }.after(passed);
            let own: Vec<Bucket> = written.left.into_iter().map(bucket).collect();
            let key = (written.subject, written.what);
            if own.iter().all(|bucket| bucket.is_full()) {
                buckets.unsaved.insert(key);
            } else {
                buckets.by_subject.insert(key, own);
            }
        }
        Ok(())
    }

    /// Writes down what has changed since the last time. To be called each second, and at the end.
    ///
    /// # Errors
    /// When the store does not: it is written the next time.
    pub async fn save(&self, store: &dyn NoteStore, now: Instant, wall: Timestamp) -> Result<(), StoreError> {
        let (changed, writes) = {
            let mut buckets = self.lock();
            let changed: Vec<_> = buckets.unsaved.iter().take(MOST_WRITTEN).cloned().collect();
            for key in &changed {
                buckets.unsaved.remove(key);
            }
            let writes: Vec<_> = changed.iter().map(|key| (note_key(key), buckets.written(key, now, wall))).collect();
            (changed, writes)
        };
        if writes.is_empty() {
            return Ok(());
        }
        let saved = store.write_notes(writes).await;
        if saved.is_err() {
            self.lock().unsaved.extend(changed);
        }
        saved
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn longest(over: &OverQuota) -> Duration {
    over.retry_after
}

fn note_key((subject, what): &(Subject, What)) -> String {
    let what = match what {
        What::Messages => "messages",
        What::Recipients => "recipients",
    };
    format!("{PREFIX}{}/{what}/{}", subject.kind(), subject.name())
}

impl Buckets {
    fn written(&self, key: &(Subject, What), now: Instant, wall: Timestamp) -> Option<Vec<u8>> {
        let own = self.by_subject.get(key)?.iter().map(|bucket| bucket.refilled(now));
        let left = own.map(|bucket| (bucket.rate, bucket.left)).collect();
        serde_json::to_vec(&Written { subject: key.0.clone(), what: key.1, at: wall, left }).ok()
    }

    /// Forgets what is full again, and what has used up least when there are still too many.
    fn make_room(&mut self, now: Instant) {
        if self.by_subject.len() < self.sweep_at.clamp(SWEEP_FROM, MOST) {
            return;
        }
        let fill = |own: &[Bucket]| own.iter().map(|bucket| bucket.refilled(now).fill()).fold(1.0, f64::min);
        let mut least = 1.0;
        let full = self.by_subject.values().filter(|own| fill(own) >= 1.0).count();
        if self.by_subject.len() - full >= MOST {
            let mut fills: Vec<f64> = self.by_subject.values().map(|own| fill(own)).collect();
            let middle = fills.len() / 2;
            least = *fills.select_nth_unstable_by(middle, f64::total_cmp).1;
        }
        let unsaved = &mut self.unsaved;
        self.by_subject.retain(|key, own| {
            let kept = fill(own) < least;
            if !kept {
                unsaved.insert(key.clone());
            }
            kept
        });
        self.sweep_at = self.by_subject.len() * 2;
    }
}

impl Bucket {
    fn refilled(self, now: Instant) -> Self {
        Bucket { at: now, ..self.after(now.saturating_duration_since(self.at)) }
    }

    fn after(self, passed: Duration) -> Self {
        let gained = passed.as_secs_f64() / self.per_one().as_secs_f64();
        Bucket { left: (self.left + gained).min(f64::from(self.rate.count())), ..self }
    }

    fn over(&self, subject: &Subject) -> Option<OverQuota> {
        let retry_after = self.per_one().mul_f64((1.0 - self.left).max(0.0));
        (self.left < 1.0).then(|| OverQuota { subject: subject.clone(), limit: self.rate, retry_after })
    }

    fn fill(self) -> f64 {
        self.left / f64::from(self.rate.count())
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
    use crate::store::memory::MemoryStore;

    fn quotas(messages: &str, recipients: &str) -> AccountQuotas {
        let rates = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        AccountQuotas { messages: rates(messages), recipients: rates(recipients), recipients_per_message: None }
    }

    fn ada(quotas: &AccountQuotas) -> Limited<'_> {
        Limited { subject: Subject::Account("ada".parse().unwrap()), quotas }
    }

    fn domain<'a>(name: &str, quotas: &'a AccountQuotas) -> Limited<'a> {
        Limited { subject: Subject::SenderDomain(name.to_owned()), quotas }
    }

    #[test]
    fn a_quota_is_used_up_and_fills_again() {
        let (counted, start) = (Quotas::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let limits = quotas("3/1m", "");
        let message = |limits: &AccountQuotas, now| counted.take(What::Messages, &[ada(limits)], now);
        for _ in 0..3 {
            assert_eq!(message(&limits, start), Ok(()));
        }
        let subject = ada(&limits).subject;
        let over = OverQuota { subject, limit: "3/1m".parse().unwrap(), retry_after: Duration::from_secs(20) };
        assert_eq!(message(&limits, start), Err(over.clone()));
        assert_eq!(counted.is_used_up(&[ada(&limits)], start), Some(over));
        assert_eq!(counted.take(What::Recipients, &[ada(&limits)], start), Ok(()), "there is no such limit");
        assert_eq!(counted.take(What::Messages, &[domain("x", &limits)], start), Ok(()));
        assert_eq!(message(&limits, at(20)), Ok(()));
        assert!(message(&limits, at(20)).is_err());
        for _ in 0..3 {
            assert_eq!(message(&limits, at(3_600)), Ok(()), "never more than the limit");
        }
        assert!(message(&limits, at(3_600)).is_err());
        assert_eq!(message(&quotas("4/1m", ""), at(3_600)), Ok(()), "a new limit begins anew");
        assert!(counted.reset("account", "ada") && !counted.reset("account", "ada"));
        assert_eq!(counted.usage(at(3_600)).len(), 0, "the domain's is full again");
    }

    #[test]
    fn all_limits_of_all_concerned_hold_together() {
        let (counted, now) = (Quotas::default(), Instant::now());
        let (own, of_domain) = (quotas("2/1m, 3/1h", ""), quotas("1000/1h", ""));
        let both = [domain("d.test", &of_domain), ada(&own)];
        let take = |now| counted.take(What::Messages, &both, now);
        assert!(take(now).is_ok() && take(now).is_ok() && take(now).is_err());
        let later = now + Duration::from_secs(120);
        assert!(take(later).is_ok());
        assert_eq!(take(later).unwrap_err().limit.to_string(), "3/1h");
        let usage = counted.usage(later);
        let left: Vec<_> = usage.iter().map(|usage| (usage.limit.to_string(), usage.left)).collect();
        let expected = [("2/1m", 1), ("3/1h", 0), ("1000/1h", 999)].map(|(limit, left)| (limit.to_owned(), left));
        assert_eq!(left[..2], expected[..2]);
        // 3 messages, 33 that came back in the two minutes
        assert_eq!(left.get(2).map(|(_, left)| *left), Some(999), "a refused message counts for nobody");
    }

    #[tokio::test]
    async fn a_restart_forgets_nothing_that_was_saved() {
        let (store, start) = (MemoryStore::default(), Instant::now());
        let wall = |seconds: i64| Timestamp::from_millis(1_795_000_000_000 + seconds * 1_000);
        let limits = quotas("2/1h", "5/1d");
        let counted = Quotas::default();
        counted.restore(&store, start, wall(0)).unwrap();
        for _ in 0..2 {
            counted.take(What::Messages, &[ada(&limits)], start).unwrap();
        }
        counted.save(&store, start, wall(0)).await.unwrap();
        let again = |passed: i64| {
            let again = Quotas::default();
            again.restore(&store, start, wall(passed)).unwrap();
            again.take(What::Messages, &[ada(&limits)], start)
        };
        assert!(again(1).is_err() && again(-3_600).is_err(), "also with a clock that was set back");
        assert!(again(1_800).is_ok() && again(86_400).is_ok());
        counted.reset("account", "ada");
        counted.save(&store, start, wall(0)).await.unwrap();
        assert!(again(1).is_ok() && store.notes("", None, 10).unwrap().is_empty());
    }

    #[test]
    fn who_sends_no_more_is_forgotten_and_nobody_can_fill_the_memory() {
        let (counted, start) = (Quotas::default(), Instant::now());
        let brief = quotas("10/1s", "");
        for n in 0..10_000_u64 {
            let now = start + Duration::from_secs(n);
            counted.take(What::Messages, &[domain(&format!("d{n}.test"), &brief)], now).unwrap();
        }
        assert!(counted.lock().by_subject.len() <= SWEEP_FROM);
        let long = quotas("10/1d", "");
        for _ in 0..9 {
            counted.take(What::Messages, &[ada(&long)], start).unwrap();
        }
        for n in 0..(MOST + 10) {
            counted.take(What::Messages, &[domain(&format!("e{n}.test"), &long)], start).unwrap();
        }
        assert!(counted.lock().by_subject.len() <= MOST);
        assert_eq!(counted.usage(start)[0].left, 1, "who has used up much is remembered");
    }
}
