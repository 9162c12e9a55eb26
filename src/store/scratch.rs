//! A configuration that lives in memory and is thrown away: to see what a document would make of an empty appliance.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{ConfigDraft, ConfigStore, InMemoryDraft, StoreError};

/// An empty one. Nothing of it is ever written to a disk.
#[derive(Default)]
pub struct Scratch(Mutex<(u64, BTreeMap<String, Vec<u8>>)>);

impl Scratch {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<String, Vec<u8>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ConfigStore for Scratch {
    fn revision(&self) -> u64 {
        self.lock().0
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.lock().1.get(key).cloned())
    }

    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let held = self.lock();
        let from = after.filter(|after| *after >= prefix).unwrap_or(prefix);
        let rows = held.1.range(from.to_owned()..).filter(|(key, _)| Some(key.as_str()) != after);
        let rows = rows.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn commit(&self, expected: u64, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<u64, StoreError> {
        let mut held = self.lock();
        if held.0 != expected {
            return Err(StoreError::Conflict { expected, found: held.0 });
        }
        for (key, value) in writes {
            match value {
                Some(value) => drop(held.1.insert(key, value)),
                None => drop(held.1.remove(&key)),
            }
        }
        held.0 += 1;
        Ok(held.0)
    }

    async fn annotate(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        let mut held = self.lock();
        for (key, value) in writes {
            match value {
                Some(value) => drop(held.1.insert(key, value)),
                None => drop(held.1.remove(&key)),
            }
        }
        Ok(())
    }

    fn draft(self: Arc<Self>) -> Box<dyn ConfigDraft> {
        Box::new(InMemoryDraft::new(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_an_ordered_map_with_a_revision() {
        let store = Arc::new(Scratch::default());
        let put = |key: &str| (key.to_owned(), Some(key.as_bytes().to_vec()));
        assert_eq!(store.commit(0, vec![put("a/1"), put("a/2"), put("b/1")]).await.unwrap(), 1);
        assert!(matches!(store.commit(0, vec![]).await, Err(StoreError::Conflict { expected: 0, found: 1 })));
        let keys = |after, limit| {
            let rows = store.scan("a/", after, limit).unwrap();
            rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(keys(None, 10), ["a/1", "a/2"]);
        assert_eq!(keys(None, 1), ["a/1"]);
        assert_eq!(keys(Some("a/1"), 10), ["a/2"]);
        let mut draft = store.clone().draft();
        draft.write("a/1", None).unwrap();
        assert_eq!(draft.commit(1).await.unwrap(), 2);
        assert_eq!(store.get("a/1").unwrap(), None);
    }
}
