//! When each API key was last used.
//!
//! Known to the moment while the process runs, and written down at most every [`WRITTEN_EVERY`] for a key: what a crash costs is
//! that much, and a key that is used a thousand times a second costs no more writes than one that is used twice an hour. It is
//! stored as a control; of keys that are no more it is forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::accounts::ApiKeys;
use crate::model::name::Name;
use crate::model::time::Timestamp;
use crate::store::ControlStore;

/// Prefix of the control keys.
const KEY: &str = "key-used/";
/// Shortest time between two writes about a key.
const WRITTEN_EVERY: Duration = Duration::from_secs(300);

/// When keys were used. One entry for each key that exists and was ever used.
pub struct KeyUse {
    store: Arc<dyn ControlStore>,
    used: Mutex<HashMap<Name, Used>>,
}

#[derive(Debug, Clone, Copy)]
struct Used {
    last: Timestamp,
    written: Option<Timestamp>,
}

impl KeyUse {
    /// As it was written down last.
    pub fn new(store: Arc<dyn ControlStore>) -> Self {
        let stored = store.all(KEY).into_iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(KEY)?.parse().ok()?;
            let last = Timestamp::from_millis(i64::from_be_bytes(value.try_into().ok()?));
            Some((name, Used { last, written: Some(last) }))
        });
        KeyUse { used: Mutex::new(stored.collect()), store }
    }

    /// A key was used; `keys` are those that there are. Never waits. Must be called inside a tokio runtime.
    pub fn note(&self, name: &Name, keys: &ApiKeys, now: Timestamp) {
        let gone = {
            let mut used = self.used();
            let known = used.entry(name.clone()).or_insert(Used { last: now, written: None });
            known.last = known.last.max(now);
            let fresh = known.written.is_some_and(|written| now < written + WRITTEN_EVERY && written <= now);
            if fresh {
                return;
            }
            known.written = Some(now);
            let gone: Vec<Name> = used.keys().filter(|name| keys.get(name).is_none()).cloned().collect();
            used.retain(|name, _| !gone.contains(name));
            gone
        };
        let (store, key) = (self.store.clone(), format!("{KEY}{name}"));
        // at most one for each key in five minutes; what it does is bounded, and what it costs to lose is told above
        drop(tokio::spawn(async move {
            let gone = gone.into_iter().map(|name| (format!("{KEY}{name}"), None));
            let value = Some(now.millis().to_be_bytes().to_vec());
            for (key, value) in std::iter::once((key, value)).chain(gone) {
                if let Err(error) = store.set(&key, value).await {
                    tracing::warn!(%error, "when a key was used could not be written down");
                }
            }
        }));
    }

    /// When a key was last used; `None`: never, as far as is known.
    pub fn last(&self, name: &Name) -> Option<Timestamp> {
        self.used().get(name).map(|used| used.last)
    }

    /// A key of this name begins anew.
    pub fn forget(&self, name: &Name) {
        self.used().remove(name);
    }

    fn used(&self) -> MutexGuard<'_, HashMap<Name, Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{ApiKey, KeyMaterial};
    use crate::model::access::Grant;
    use crate::model::key_digest::KeyDigest;
    use crate::store::memory::MemoryStore;

    fn keys(names: &[&str]) -> ApiKeys {
        let key = |name: &&str| {
            let material = Ok(KeyMaterial::new(KeyDigest::of(name)));
            Arc::new(ApiKey { name: name.parse().unwrap(), generation: 1, grant: Grant::default(), material })
        };
        ApiKeys::build(names.iter().map(key))
    }

    async fn settled() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_last_use_is_exact_and_seldom_written() {
        let store = Arc::new(MemoryStore::default());
        let uses = KeyUse::new(store.clone());
        let (a, b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
        let at = Timestamp::from_millis;
        for millis in 0..100_000 {
            uses.note(&a, &keys(&["a", "b"]), at(millis));
        }
        uses.note(&b, &keys(&["a", "b"]), at(7));
        settled().await;
        assert_eq!((uses.last(&a), uses.last(&b)), (Some(at(99_999)), Some(at(7))));
        let again = KeyUse::new(store.clone());
        assert_eq!((again.last(&a), again.last(&b)), (Some(at(0)), Some(at(7))), "written once");
        uses.note(&a, &keys(&["a"]), at(300_000));
        settled().await;
        let again = KeyUse::new(store.clone());
        assert_eq!((again.last(&a), again.last(&b)), (Some(at(300_000)), None), "what is gone is forgotten");
    }
}
