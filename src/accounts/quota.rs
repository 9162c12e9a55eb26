//! How much was sent: a [`Window`] for each limit of an account, an API key or a sender's domain.
//!
//! What is counted for a message is a [`Charge`], which gives back what it counted unless the message was taken.
//!
//! In memory, and written to the store within a second ([`Quotas::save`]); so a restart goes on where the process stood at
//! most a second before its end. Who sends nothing for as long as his limit is long is forgotten; and there are
//! never more than [`MOST`] entries: beyond, those that have used up least are forgotten.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::window::Window;
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
/// From so many entries on, those of whom nothing is used up are looked for and dropped.
const SWEEP_FROM: usize = 1_024;
/// Most entries that are written at once.
const MOST_WRITTEN: usize = 5_000;
/// Rows read back at once.
const PAGE: usize = 10_000;
/// What is counted for a message within so long of each other counts as of one moment, the earlier, when it is given back.
const TOGETHER: Duration = Duration::from_secs(1);
const PREFIX: &str = "quota/";

/// What was used up of all quotas. One per process.
#[derive(Debug, Default)]
pub struct Quotas {
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    by_subject: HashMap<(Subject, What), Vec<Window>>,
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

/// How it is written down.
#[derive(Serialize, Deserialize)]
struct Written {
    subject: Subject,
    what: What,
    at: Timestamp,
    limits: Vec<WrittenWindow>,
}

#[derive(Serialize, Deserialize)]
struct WrittenWindow {
    limit: Rate,
    /// What was used up in each part of its time, the latest first.
    used: Vec<u32>,
    /// How long before `at` the latest part began.
    age: Duration,
}

/// What one message has counted so far. Dropped, it gives that back, unless [`Charge::keep`] was called.
#[derive(Debug)]
pub struct Charge {
    quotas: Arc<Quotas>,
    /// Empty for nearly everybody.
    counted: Vec<ChargedFor>,
}

/// What was counted for somebody at a time.
#[derive(Debug)]
struct ChargedFor {
    subject: Subject,
    what: What,
    at: Instant,
    n: u32,
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

impl Charge {
    /// Nothing is counted yet.
    pub fn new(quotas: Arc<Quotas>) -> Self {
        Charge { quotas, counted: Vec::new() }
    }

    /// Counts one for all of these. A refusal is to be told with 4xx.
    ///
    /// # Errors
    /// When one of them has sent as many as it may; nothing is counted then for any of them.
    pub fn add(&mut self, what: What, whose: &[Limited<'_>], now: Instant) -> Result<(), OverQuota> {
        let mut whose = whose.iter().filter(|limited| limited.rates(what).is_some()).peekable();
        if whose.peek().is_none() {
            return Ok(());
        }
        self.quotas.take(what, whose.clone(), now)?;
        for limited in whose {
            let is_same = |before: &&mut ChargedFor| before.subject == limited.subject && before.what == what;
            match self.counted.iter_mut().rfind(is_same) {
                Some(before) if now.saturating_duration_since(before.at) < TOGETHER => before.n += 1,
                _ => self.counted.push(ChargedFor { subject: limited.subject.clone(), what, at: now, n: 1 }),
            }
        }
        Ok(())
    }

    /// The message was taken: it counts.
    pub fn keep(mut self) {
        self.counted.clear();
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.counted.is_empty() {
            self.quotas.give_back(std::mem::take(&mut self.counted));
        }
    }
}

impl Quotas {
    fn take<'a>(
        &self,
        what: What,
        whose: impl Iterator<Item = &'a Limited<'a>> + Clone,
        now: Instant,
    ) -> Result<(), OverQuota> {
        let mut counted = self.lock();
        for limited in whose.clone() {
            let Some(rates) = limited.rates(what) else { continue };
            counted.make_room(now);
            let own = counted.by_subject.entry((limited.subject.clone(), what)).or_default();
            // another limit begins anew
            own.retain(|window| rates.iter().any(|rate| rate == window.rate()));
            for rate in rates.iter() {
                match own.iter_mut().find(|window| window.rate() == rate) {
                    Some(window) => *window = window.at(now),
                    None => own.push(Window::new(rate, now)),
                }
            }
            if let Some(over) = own.iter().filter_map(|window| over(window, &limited.subject, now)).max_by_key(longest)
            {
                return Err(over);
            }
        }
        for limited in whose {
            let key = (limited.subject.clone(), what);
            if let Some(own) = counted.by_subject.get_mut(&key) {
                own.iter_mut().for_each(Window::take);
                counted.unsaved.insert(key);
            }
        }
        Ok(())
    }

    fn give_back(&self, of: Vec<ChargedFor>) {
        let mut counted = self.lock();
        for ChargedFor { subject, what, at, n } in of {
            let key = (subject, what);
            if let Some(own) = counted.by_subject.get_mut(&key) {
                own.iter_mut().for_each(|window| window.give_back(n, at));
                counted.unsaved.insert(key);
            }
        }
    }

    /// What is used up now, if anything is: the next message would be refused. Counts nothing.
    pub fn is_used_up(&self, whose: &[Limited<'_>], now: Instant) -> Option<OverQuota> {
        let counted = self.lock();
        whose.iter().flat_map(|limited| [(limited, What::Messages), (limited, What::Recipients)]).find_map(
            |(limited, what)| {
                let rates = limited.rates(what)?;
                let own = counted.by_subject.get(&(limited.subject.clone(), what))?;
                let holding = own.iter().filter(|window| rates.iter().any(|rate| rate == window.rate()));
                holding.filter_map(|window| over(&window.at(now), &limited.subject, now)).max_by_key(longest)
            },
        )
    }

    /// What is used up of which limits, in order. Limits of which nothing is are not listed.
    pub fn usage(&self, now: Instant) -> Vec<Usage> {
        let counted = self.lock();
        let all = counted.by_subject.iter().flat_map(|((subject, what), own)| {
            let own = own.iter().map(|window| window.at(now)).filter(|window| window.used() > 0);
            own.map(move |window| Usage {
                subject: subject.clone(),
                what: *what,
                limit: window.rate(),
                left: window.left(),
                retry_after: window.room_after(now),
                full_after: window.empty_after(now),
            })
        });
        let mut all: Vec<Usage> = all.collect();
        drop(counted);
        let order = |usage: &Usage| (usage.subject.clone(), usage.what, usage.limit.per());
        all.sort_by_cached_key(order);
        all
    }

    /// Forgets what somebody has used up; `false` when that was nothing.
    pub fn reset(&self, kind: &str, name: &str) -> bool {
        let mut counted = self.lock();
        let is_his = |key: &&(Subject, What)| key.0.kind() == kind && key.0.is_named(name);
        let his: Vec<_> = counted.by_subject.keys().filter(is_his).cloned().collect();
        for key in &his {
            counted.by_subject.remove(key);
        }
        let any = !his.is_empty();
        counted.unsaved.extend(his);
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
        let mut counted = self.lock();
        for (key, value) in rows {
            let Ok(written) = serde_json::from_slice::<Written>(&value) else {
                tracing::warn!(key, "what was written down of a quota cannot be read; it begins anew");
                continue;
            };
            let passed = wall.since(written.at);
            let window =
                |one: WrittenWindow| Window::restored(one.limit, &one.used, passed.saturating_add(one.age), now);
            let own: Vec<Window> = written.limits.into_iter().map(window).collect();
            let key = (written.subject, written.what);
            if own.iter().all(|window| window.used() == 0) {
                counted.unsaved.insert(key);
            } else {
                counted.by_subject.insert(key, own);
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
            let mut counted = self.lock();
            let changed: Vec<_> = counted.unsaved.iter().take(MOST_WRITTEN).cloned().collect();
            for key in &changed {
                counted.unsaved.remove(key);
            }
            let writes: Vec<_> = changed.iter().map(|key| (note_key(key), counted.written(key, now, wall))).collect();
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

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever has no room in a window.
fn over(window: &Window, subject: &Subject, now: Instant) -> Option<OverQuota> {
    let retry_after = window.room_after(now)?;
    Some(OverQuota { subject: subject.clone(), limit: window.rate(), retry_after })
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

impl Counted {
    fn written(&self, key: &(Subject, What), now: Instant, wall: Timestamp) -> Option<Vec<u8>> {
        let own = self.by_subject.get(key)?.iter().map(|window| window.at(now));
        let limits = own.map(|window| WrittenWindow {
            limit: window.rate(),
            used: window.parts().to_vec(),
            age: window.age(now),
        });
        serde_json::to_vec(&Written { subject: key.0.clone(), what: key.1, at: wall, limits: limits.collect() }).ok()
    }

    /// Forgets of whom nothing is used up, and what has used up least when there are still too many.
    fn make_room(&mut self, now: Instant) {
        if self.by_subject.len() < self.sweep_at.clamp(SWEEP_FROM, MOST) {
            return;
        }
        let used = |own: &[Window]| own.iter().map(|window| window.at(now).share()).fold(0.0, f64::max);
        let mut most_forgotten = 0.0;
        let unused = self.by_subject.values().filter(|own| used(own) <= 0.0).count();
        if self.by_subject.len() - unused >= MOST {
            let mut shares: Vec<f64> = self.by_subject.values().map(|own| used(own)).collect();
            let middle = shares.len() / 2;
            most_forgotten = *shares.select_nth_unstable_by(middle, f64::total_cmp).1;
        }
        let unsaved = &mut self.unsaved;
        self.by_subject.retain(|key, own| {
            let kept = used(own) > most_forgotten;
            if !kept {
                unsaved.insert(key.clone());
            }
            kept
        });
        self.sweep_at = self.by_subject.len() * 2;
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

    /// One that counts.
    fn count(quotas: &Arc<Quotas>, what: What, whose: &[Limited<'_>], now: Instant) -> Result<(), OverQuota> {
        let mut charge = Charge::new(quotas.clone());
        charge.add(what, whose, now).map(|()| charge.keep())
    }

    #[test]
    fn a_quota_is_used_up_and_comes_back() {
        let (counted, start) = (Arc::<Quotas>::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let limits = quotas("3/1m", "");
        let message = |limits: &AccountQuotas, now| count(&counted, What::Messages, &[ada(limits)], now);
        for _ in 0..3 {
            assert_eq!(message(&limits, start), Ok(()));
        }
        let subject = ada(&limits).subject;
        // a minute, and the part of it in which it was used up
        let over = OverQuota { subject, limit: "3/1m".parse().unwrap(), retry_after: Duration::from_millis(62_500) };
        assert_eq!(message(&limits, start), Err(over.clone()));
        assert_eq!(counted.is_used_up(&[ada(&limits)], start), Some(over));
        assert_eq!(count(&counted, What::Recipients, &[ada(&limits)], start), Ok(()), "there is no such limit");
        assert_eq!(count(&counted, What::Messages, &[domain("x", &limits)], start), Ok(()));
        assert!(message(&limits, at(60)).is_err());
        for _ in 0..3 {
            assert_eq!(message(&limits, at(63)), Ok(()), "never more than the limit");
        }
        assert!(message(&limits, at(63)).is_err());
        assert_eq!(message(&quotas("4/1m", ""), at(63)), Ok(()), "a new limit begins anew");
        assert!(counted.reset("account", "ada") && !counted.reset("account", "ada"));
        assert_eq!(counted.usage(at(63)).len(), 0, "nothing of the domain's is used up any more");
    }

    #[test]
    fn what_is_refused_after_all_counts_for_nobody() {
        let (counted, now) = (Arc::<Quotas>::default(), Instant::now());
        let (own, of_domain) = (quotas("2/1h", "3/1h"), quotas("9/1d", ""));
        let both = [ada(&own), domain("d.test", &of_domain)];
        let left = || counted.usage(now).iter().map(|usage| usage.left).collect::<Vec<_>>();
        let mut refused = Charge::new(counted.clone());
        refused.add(What::Messages, &both, now).unwrap();
        for _ in 0..3 {
            refused.add(What::Recipients, &both, now).unwrap();
        }
        assert!(refused.add(What::Recipients, &both, now).is_err());
        assert_eq!(left(), [1, 0, 8]);
        let mut taken = Charge::new(counted.clone());
        taken.add(What::Messages, &both, now).unwrap();
        taken.keep();
        drop(refused);
        assert_eq!(left(), [1, 8], "only what was taken");
    }

    #[test]
    fn all_limits_of_all_concerned_hold_together() {
        let (counted, now) = (Arc::<Quotas>::default(), Instant::now());
        let (own, of_domain) = (quotas("2/1m, 3/1h", ""), quotas("1000/1h", ""));
        let both = [domain("d.test", &of_domain), ada(&own)];
        let take = |now| count(&counted, What::Messages, &both, now);
        assert!(take(now).is_ok() && take(now).is_ok() && take(now).is_err());
        let later = now + Duration::from_secs(120);
        assert!(take(later).is_ok());
        assert_eq!(take(later).unwrap_err().limit.to_string(), "3/1h");
        let usage = counted.usage(later);
        let left: Vec<_> = usage.iter().map(|usage| (usage.limit.to_string(), usage.left)).collect();
        let expected = [("2/1m", 1), ("3/1h", 0), ("1000/1h", 997)].map(|(limit, left)| (limit.to_owned(), left));
        assert_eq!(left, expected, "a refused message counts for nobody");
    }

    #[tokio::test]
    async fn a_restart_forgets_nothing_that_was_saved() {
        let (store, start) = (MemoryStore::default(), Instant::now());
        let wall = |seconds: i64| Timestamp::from_millis(1_795_000_000_000 + seconds * 1_000);
        let limits = quotas("2/1h", "5/1d");
        let counted = Arc::<Quotas>::default();
        counted.restore(&store, start, wall(0)).unwrap();
        for _ in 0..2 {
            count(&counted, What::Messages, &[ada(&limits)], start).unwrap();
        }
        counted.save(&store, start, wall(0)).await.unwrap();
        let again = |passed: i64| {
            let again = Arc::<Quotas>::default();
            again.restore(&store, start, wall(passed)).unwrap();
            count(&again, What::Messages, &[ada(&limits)], start)
        };
        assert!(again(1).is_err() && again(-3_600).is_err(), "also with a clock that was set back");
        assert!(again(3_590).is_err() && again(3_750).is_ok() && again(86_400).is_ok());
        counted.reset("account", "ada");
        counted.save(&store, start, wall(0)).await.unwrap();
        assert!(again(1).is_ok() && store.notes("", None, 10).unwrap().is_empty());
    }

    #[test]
    fn who_sends_no_more_is_forgotten_and_nobody_can_fill_the_memory() {
        let (counted, start) = (Arc::<Quotas>::default(), Instant::now());
        let brief = quotas("10/1s", "");
        for n in 0..10_000_u64 {
            let now = start + Duration::from_secs(n);
            count(&counted, What::Messages, &[domain(&format!("d{n}.test"), &brief)], now).unwrap();
        }
        assert!(counted.lock().by_subject.len() <= SWEEP_FROM);
        let long = quotas("10/1d", "");
        for _ in 0..9 {
            count(&counted, What::Messages, &[ada(&long)], start).unwrap();
        }
        for n in 0..(MOST + 10) {
            count(&counted, What::Messages, &[domain(&format!("e{n}.test"), &long)], start).unwrap();
        }
        assert!(counted.lock().by_subject.len() <= MOST);
        assert_eq!(counted.usage(start)[0].left, 1, "who has used up much is remembered");
    }
}
