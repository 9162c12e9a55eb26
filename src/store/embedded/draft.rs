//! A change of the configuration while it is being made: in memory as long as it is small, else in a file of its own.
//!
//! A change of recipient policies may touch a million recipients. Its draft then lies in a database that is made for it
//! under `drafts/` and thrown away with it; nothing there is ever believed after a start. What is kept is written by
//! [`Config::commit`] (a small change: one record of the log) or [`Config::commit_large`] (a large one: a new checkpoint
//! that holds it all, in force by the rename). So memory is bounded, and a crash leaves the whole change or nothing of it.
//!
//! Keys are as in the log: with `c` in front.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::blocking;
use super::config::Config;
use super::config_log::Write;
use super::database::store_error;
use super::threads::Bell;
use crate::store::overlay::{self, newest};
use crate::store::{ConfigDraft, StoreError};

/// Octets of keys and values that a draft holds in memory; also the largest record of the log.
const IN_MEMORY: usize = 4 << 20;
/// Memory for the pages of a draft on disk.
const CACHE: u64 = 32 << 20;
/// Entries of one scan.
const MOST_SCANNED: usize = 10_000;
/// Keys in one batch.
const BATCH: usize = 800;

/// A draft over the live configuration.
pub struct Draft {
    config: Arc<Config>,
    bell: Arc<Bell>,
    small: BTreeMap<String, Option<Vec<u8>>>,
    bytes: usize,
    large: Option<Large>,
}

impl Draft {
    /// An empty one.
    pub fn new(config: Arc<Config>, bell: Arc<Bell>) -> Self {
        Draft { config, bell, small: BTreeMap::new(), bytes: 0, large: None }
    }

    fn spill(&mut self) -> Result<(), StoreError> {
        let large = match self.large.take() {
            Some(large) => large,
            None => Large::create(self.config.next_draft())?,
        };
        large.put(std::mem::take(&mut self.small))?;
        self.bytes = 0;
        self.large = Some(large);
        Ok(())
    }

    fn commit_now(mut self, expected: u64) -> Result<u64, StoreError> {
        if self.large.is_some() {
            self.spill()?;
        }
        match self.large.take() {
            None => self.config.commit(expected, self.small.into_iter().collect()),
            Some(large) => self.config.commit_large(expected, large),
        }
    }
}

#[async_trait]
impl ConfigDraft for Draft {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let own = format!("c{key}");
        if let Some(value) = self.small.get(&own) {
            return Ok(value.clone());
        }
        match self.large.as_ref().map(|large| large.get(&own)).transpose()?.flatten() {
            Some(value) => Ok(value),
            None => self.config.get(key),
        }
    }

    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let behind = after.filter(|after| *after >= prefix);
        let from = format!("c{}", behind.unwrap_or(prefix));
        let bound = if behind.is_some() { Bound::Excluded(from.as_str()) } else { Bound::Included(from.as_str()) };
        let small = self.small.range::<str, _>((bound, Bound::Unbounded));
        let small = small.map(|(key, value)| Ok((key.clone(), value.clone())));
        let large = self.large.iter().flat_map(|large| large.writes(&from, behind.is_some()));
        let own = newest(small, large).map(|write| write.map(|(key, value)| (key[1..].to_owned(), value)));
        let own = own.take_while(|write| write.as_ref().map_or(true, |(key, _)| key.starts_with(prefix)));
        overlay::scan(own, after, limit.min(MOST_SCANNED), |after, limit| self.config.scan(prefix, after, limit))
    }

    fn write(&mut self, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        // what an entry costs besides its text
        const ENTRY: usize = 64;
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len) + ENTRY;
        self.small.insert(format!("c{key}"), value);
        if self.bytes > IN_MEMORY { self.spill() } else { Ok(()) }
    }

    async fn commit(self: Box<Self>, expected: u64) -> Result<u64, StoreError> {
        let bell = self.bell.clone();
        let committed = blocking(move || self.commit_now(expected)).await?;
        bell.ring();
        committed
    }
}

/// The writes of a large change, in order of the keys, on disk. Removed when it is dropped.
pub struct Large {
    db: sled::Db,
}

impl Large {
    fn create(path: PathBuf) -> Result<Self, StoreError> {
        let db = sled::Config::new()
            .path(path)
            .temporary(true)
            .cache_capacity(CACHE)
            .flush_every_ms(None)
            .open()
            .map_err(store_error)?;
        Ok(Large { db })
    }

    /// Adds writes, or replaces earlier ones.
    pub fn put(&self, writes: impl IntoIterator<Item = Write>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        let mut keys = 0;
        for (key, value) in writes {
            let stored = value.map_or_else(|| vec![0], |value| [&[1], value.as_slice()].concat());
            batch.insert(key.as_bytes(), stored);
            keys += 1;
            if keys == BATCH {
                self.db.apply_batch(std::mem::take(&mut batch)).map_err(store_error)?;
                keys = 0;
            }
        }
        self.db.apply_batch(batch).map_err(store_error)
    }

    /// What it says of a key: nothing, that it is removed, or its value.
    pub fn get(&self, key: &str) -> Result<Option<Option<Vec<u8>>>, StoreError> {
        Ok(self.db.get(key).map_err(store_error)?.map(|stored| value(&stored)))
    }

    /// Its writes from a key on (behind it when `behind`), in order.
    pub fn writes(&self, from: &str, behind: bool) -> impl Iterator<Item = Result<Write, StoreError>> + use<> {
        let from = from.as_bytes().to_vec();
        let from = if behind { Bound::Excluded(from) } else { Bound::Included(from) };
        self.db.range::<Vec<u8>, _>((from, Bound::Unbounded)).map(|found| {
            let (key, stored) = found.map_err(store_error)?;
            Ok((String::from_utf8_lossy(&key).into_owned(), value(&stored)))
        })
    }
}

fn value(stored: &[u8]) -> Option<Vec<u8>> {
    match stored.split_first() {
        Some((1, value)) => Some(value.to_vec()),
        _ => None,
    }
}
