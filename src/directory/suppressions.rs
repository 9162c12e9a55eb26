//! The suppression list: recipients that must not be written to.
//!
//! Entries are notes of the store under `suppression/<key>`, where the key of a pattern is
//! [`MailboxPattern::key`]; so a look-up is a few reads by key however many there are, and none at all while the list is
//! empty. What was added or removed is durable when that is answered; what permanent failures add
//! ([`Suppressions::notice`]) is written within a second, and a crash before that forgets it.
//!
//! An entry that has expired counts for nothing from that moment on, and is removed within an hour.
//!
//! **What happens on failure.** A list that cannot be read is an error: mail waits (451, or deferred) rather than going to
//! somebody who must not get any.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::mailbox_pattern::{MailboxPattern, covering_keys};
use crate::model::time::Timestamp;
use crate::smtp::address::Mailbox;
use crate::store::{NoteStore, StoreError};

/// Most entries.
pub const MOST: u64 = 2_000_000;
/// Longest reason, in octets.
pub const MAX_REASON: usize = 500;
/// Most entries that wait to be written.
const MOST_NOTICED: usize = 10_000;
const PREFIX: &str = "suppression/";
/// Rows read, or removed, at once.
const PAGE: usize = 1_000;

/// Why somebody is on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SuppressionSource)]
pub enum Source {
    /// Somebody put it there.
    Manual,
    /// Its server said for good that it does not exist or takes no mail. Does not count for local mailboxes.
    PermanentFailure,
}

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suppression {
    /// Who.
    pub address: MailboxPattern,
    /// Why, in words; for people, and for the notification that a sender gets.
    pub reason: Option<String>,
    /// Who says so.
    pub source: Source,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Since when.
    pub created_at: Timestamp,
    /// The key of who put it there.
    pub by: Option<String>,
}

impl Suppression {
    /// Whether it holds at a time.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| end > now)
    }

    /// The same entry, whoever made it and whenever.
    fn says_the_same(&self, other: &Suppression) -> bool {
        (&self.address, &self.reason, self.source, self.expires_at)
            == (&other.address, &other.reason, other.source, other.expires_at)
    }
}

/// What became of entries that were put on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Put {
    /// New ones.
    pub created: u64,
    /// Ones that were there and say something else now.
    pub updated: u64,
    /// Ones that were there.
    pub unchanged: u64,
}

/// Why an entry was not put on the list.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// There are too many.
    #[error("the suppression list is full: it has {MOST} entries")]
    Full,
    /// The store did not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The list. One per process.
pub struct Suppressions {
    store: Arc<dyn NoteStore>,
    /// Something may be on it.
    any: AtomicBool,
    /// Held while it is changed: how many there are, once that is known.
    count: tokio::sync::Mutex<Option<u64>>,
    noticed: Mutex<Vec<Suppression>>,
    dropped: AtomicBool,
    added: tokio::sync::Notify,
}

impl Suppressions {
    /// The list in this store.
    pub fn new(store: Arc<dyn NoteStore>) -> Self {
        // when it cannot be read now, each look-up will find that out
        let any = store.notes(PREFIX, None, 1).map_or(true, |found| !found.is_empty());
        Suppressions {
            store,
            any: AtomicBool::new(any),
            count: tokio::sync::Mutex::default(),
            noticed: Mutex::default(),
            dropped: AtomicBool::new(false),
            added: tokio::sync::Notify::new(),
        }
    }

    /// Whether nobody is on it: then nothing has to be looked up.
    pub fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// The entry that covers a mailbox, the most specific one. For a local one only what somebody put there counts.
    ///
    /// # Errors
    /// When the list cannot be read now.
    pub fn find(&self, mailbox: &Mailbox, is_local: bool, now: Timestamp) -> Result<Option<Suppression>, StoreError> {
        if self.is_empty() {
            return Ok(None);
        }
        for key in covering_keys(mailbox) {
            if let Some(found) = self.get(&key)?
                && found.holds(now)
                && !(is_local && found.source == Source::PermanentFailure)
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The entry of exactly this pattern, also an expired one that is not removed yet.
    ///
    /// # Errors
    /// When the list cannot be read now.
    pub fn get(&self, key: &str) -> Result<Option<Suppression>, StoreError> {
        self.store.note(&format!("{PREFIX}{key}"))?.map(|value| read(key, &value)).transpose()
    }

    /// Up to `limit` entries (at most 10,000) behind this key, in order, each with its key; also expired ones. May block for the disk.
    ///
    /// # Errors
    /// When the list cannot be read now.
    pub fn page(&self, after: Option<&str>, limit: usize) -> Result<Vec<(String, Suppression)>, StoreError> {
        let after = after.map(|after| format!("{PREFIX}{after}"));
        let rows = self.store.notes(PREFIX, after.as_deref(), limit)?.into_iter();
        rows.map(|(key, value)| {
            let key = key.strip_prefix(PREFIX).unwrap_or_default().to_owned();
            read(&key, &value).map(|found| (key, found))
        })
        .collect()
    }

    /// Puts entries on the list (at most 10,000), over those of the same address: all of them or none. Durable when it returns.
    /// An entry of a permanent failure does not replace what somebody put there.
    ///
    /// # Errors
    /// When the list would have too many, or the store does not keep them.
    pub async fn put(&self, entries: Vec<Suppression>, now: Timestamp) -> Result<Put, PutError> {
        let mut count = self.count.lock().await;
        let known = match *count {
            Some(known) => known,
            None => self.counted().await?,
        };
        let mut put = Put::default();
        let mut writes = std::collections::BTreeMap::new();
        for entry in entries {
            let key = entry.address.key();
            let before = match writes.get(&key) {
                Some(earlier) => Some(Suppression::clone(earlier)),
                None => self.get(&key)?,
            };
            match before {
                None => put.created += 1,
                Some(before) if before.says_the_same(&entry) => {
                    put.unchanged += 1;
                    continue;
                }
                Some(before)
                    if entry.source == Source::PermanentFailure
                        && before.source == Source::Manual
                        && before.holds(now) =>
                {
                    put.unchanged += 1;
                    continue;
                }
                Some(_) => put.updated += 1,
            }
            writes.insert(key, entry);
        }
        if known + put.created > MOST {
            return Err(PutError::Full);
        }
        *count = Some(known);
        if !writes.is_empty() {
            // before they are there: a look-up too many does no harm
            self.any.store(true, Ordering::Release);
            let writes = writes.iter().map(|(key, entry)| Ok((format!("{PREFIX}{key}"), Some(written(entry)?))));
            self.store.write_notes(writes.collect::<Result<_, StoreError>>()?).await?;
            *count = Some(known + put.created);
            self.added.notify_one();
        }
        Ok(put)
    }

    /// Waits until something was put on the list since the last time.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    /// Takes the entry of exactly this pattern off the list; `false` when there was none. Durable when it returns.
    ///
    /// # Errors
    /// When the store does not.
    pub async fn remove(&self, key: &str) -> Result<bool, StoreError> {
        let mut count = self.count.lock().await;
        if self.get(key)?.is_none() {
            return Ok(false);
        }
        self.store.write_notes(vec![(format!("{PREFIX}{key}"), None)]).await?;
        *count = count.map(|count| count.saturating_sub(1));
        Ok(true)
    }

    /// Notes one for whom mail has failed for good; [`Suppressions::write_noticed`] puts it on the list. Never waits: when too
    /// many wait already it is passed over, and its next failure notes it again.
    pub fn notice(&self, entry: Suppression) {
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        if noticed.len() < MOST_NOTICED {
            noticed.push(entry);
        } else if !self.dropped.swap(true, Ordering::Relaxed) {
            tracing::warn!("more failures than can be put on the suppression list; the rest is passed over");
        }
    }

    /// Writes what was noticed. To be called each second, and at the end. How many are new.
    ///
    /// # Errors
    /// When the store does not: they are kept and written the next time.
    pub async fn write_noticed(&self, now: Timestamp) -> Result<u64, PutError> {
        let noticed = std::mem::take(&mut *self.noticed.lock().unwrap_or_else(PoisonError::into_inner));
        self.dropped.store(false, Ordering::Relaxed);
        if noticed.is_empty() {
            return Ok(0);
        }
        match self.put(noticed.clone(), now).await {
            Ok(put) => Ok(put.created),
            Err(PutError::Full) => Err(PutError::Full),
            Err(error) => {
                noticed.into_iter().for_each(|entry| self.notice(entry));
                Err(error)
            }
        }
    }

    /// Removes what has expired: a walk over the whole list in small steps. To be called now and then.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn remove_expired(&self, now: Timestamp) -> Result<u64, StoreError> {
        let (mut after, mut removed): (Option<String>, u64) = (None, 0);
        loop {
            // nobody puts one there anew meanwhile
            let mut count = self.count.lock().await;
            let page = self.page(after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(removed) };
            after = Some(last.clone());
            let ended = page.iter().filter(|(_, entry)| !entry.holds(now));
            let writes: Vec<_> = ended.map(|(key, _)| (format!("{PREFIX}{key}"), None)).collect();
            if !writes.is_empty() {
                let ended = writes.len() as u64;
                self.store.write_notes(writes).await?;
                *count = count.map(|count| count.saturating_sub(ended));
                removed += ended;
            }
            drop(count);
            tokio::task::yield_now().await;
        }
    }

    /// How many there are, by counting them: only before the first change.
    async fn counted(&self) -> Result<u64, StoreError> {
        let store = self.store.clone();
        let counting = move || {
            let (mut after, mut count): (Option<String>, u64) = (None, 0);
            loop {
                let page = store.notes(PREFIX, after.as_deref(), 10_000)?;
                let Some((last, _)) = page.last() else { return Ok(count) };
                after = Some(last.clone());
                count += page.len() as u64;
            }
        };
        tokio::task::spawn_blocking(counting).await.map_err(|error| StoreError::Io(error.to_string()))?
    }
}

fn read(key: &str, value: &[u8]) -> Result<Suppression, StoreError> {
    serde_json::from_slice(value).map_err(|error| StoreError::Damaged(format!("suppression of {key}: {error}")))
}

fn written(entry: &Suppression) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(entry).map_err(|error| StoreError::Io(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn entry(address: &str, source: Source) -> Suppression {
        let address = address.parse().unwrap();
        Suppression { address, reason: None, source, expires_at: None, created_at: at(0), by: None }
    }

    #[tokio::test]
    async fn the_most_specific_entry_that_holds_is_found() {
        let store = MemoryStore::default();
        let list = Suppressions::new(Arc::new(store.clone()));
        let find = |list: &Suppressions, address: &str, local, seconds| {
            let found = list.find(&address.parse().unwrap(), local, at(seconds)).unwrap();
            found.map(|found| found.address.to_string())
        };
        assert!(list.is_empty() && find(&list, "ada@a.example", false, 1).is_none());
        let ending = Suppression { expires_at: Some(at(10)), ..entry("Ada@a.example", Source::Manual) };
        let entries = vec![ending, entry("*@a.example", Source::PermanentFailure), entry("*@*.b.test", Source::Manual)];
        let put = list.put(entries.clone(), at(1)).await.unwrap();
        assert_eq!(put, Put { created: 3, updated: 0, unchanged: 0 });
        assert_eq!(list.put(entries, at(1)).await.unwrap(), Put { created: 0, updated: 0, unchanged: 3 });
        // over a restart
        let list = Suppressions::new(Arc::new(store));
        assert_eq!(find(&list, "ADA@A.example", false, 9).as_deref(), Some("Ada@a.example"));
        assert_eq!(find(&list, "ada@a.example", false, 10).as_deref(), Some("*@a.example"), "the other has expired");
        assert_eq!(find(&list, "ada@a.example", true, 9).as_deref(), Some("Ada@a.example"));
        assert_eq!(find(&list, "bob@a.example", true, 9), None, "a failure is none of a local mailbox");
        assert_eq!(find(&list, "x@y.z.b.test", false, 9).as_deref(), Some("*@*.b.test"));
        assert_eq!(find(&list, "x@b.test", false, 9), None);
        assert_eq!(list.remove_expired(at(10)).await.unwrap(), 1);
        assert_eq!(list.page(None, 10).unwrap().len(), 2);
        assert!(list.remove("*@a.example").await.unwrap() && !list.remove("*@a.example").await.unwrap());
        assert_eq!(find(&list, "ada@a.example", false, 9), None);
    }

    #[tokio::test]
    async fn what_failed_is_added_and_never_replaces_what_somebody_put_there() {
        let list = Suppressions::new(Arc::new(MemoryStore::default()));
        let manual = Suppression { reason: Some("asked us".into()), ..entry("a@x.test", Source::Manual) };
        list.put(vec![manual.clone()], at(1)).await.unwrap();
        for address in ["a@x.test", "b@x.test", "b@x.test"] {
            list.notice(entry(address, Source::PermanentFailure));
        }
        assert_eq!(list.write_noticed(at(2)).await.unwrap(), 1);
        assert_eq!(list.get("a@x.test").unwrap(), Some(manual));
        assert_eq!(list.get("b@x.test").unwrap(), Some(entry("b@x.test", Source::PermanentFailure)));
        assert_eq!(list.write_noticed(at(2)).await.unwrap(), 0);
        for n in 0..MOST_NOTICED + 5 {
            list.notice(entry(&format!("u{n}@y.test"), Source::PermanentFailure));
        }
        assert_eq!(list.write_noticed(at(2)).await.unwrap(), MOST_NOTICED as u64, "bounded");
    }
}
