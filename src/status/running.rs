//! What an operator has paused or stopped: running state, which is not configuration.
//!
//! A **paused** virtual server takes no new sessions (421 at once); those that are open end their own way. A **stopped**
//! one has no listeners, and its sessions are asked to end. Either way its queues go on. Stored as a control, so it
//! holds over a restart; forgotten when the server is removed from the configuration.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::model::name::Name;
use crate::model::time::Timestamp;
use crate::store::{ControlStore, StoreError};

/// Prefix of the control keys.
const KEY: &str = "server-halted/";

/// What an operator did to a virtual server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Halt {
    /// No new sessions.
    Paused,
    /// No listeners, no sessions.
    Stopped,
}

impl Halt {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Halt::Paused => "paused",
            Halt::Stopped => "stopped",
        }
    }
}

/// That, by whom and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Halted {
    /// What.
    pub halt: Halt,
    /// The name of the API key.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// The virtual servers that an operator has paused or stopped.
pub struct Running {
    store: Arc<dyn ControlStore>,
    halted: Mutex<BTreeMap<Name, Halted>>,
    changes: watch::Sender<()>,
}

impl Running {
    /// As it was when the last process ended.
    pub fn new(store: Arc<dyn ControlStore>) -> Self {
        let stored = store.all(KEY).into_iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(KEY)?.parse().ok()?;
            let halted = serde_json::from_slice(&value);
            if halted.is_err() {
                tracing::error!(virtualServer = %name, "what an operator did to it cannot be read; it runs");
            }
            Some((name, halted.ok()?))
        });
        let halted = Mutex::new(stored.collect());
        Running { store, halted, changes: watch::Sender::new(()) }
    }

    fn halted(&self) -> MutexGuard<'_, BTreeMap<Name, Halted>> {
        self.halted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was done to a server; `None`: nothing, it runs as it is configured.
    pub fn of(&self, server: &Name) -> Option<Halted> {
        self.halted().get(server).cloned()
    }

    /// True when a server may take new sessions.
    pub fn takes_sessions(&self, server: &Name) -> bool {
        !self.halted().contains_key(server)
    }

    /// True when a server may listen.
    pub fn listens(&self, server: &Name) -> bool {
        self.halted().get(server).is_none_or(|halted| halted.halt != Halt::Stopped)
    }

    /// Word of changes; only a hint.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Halts a server, or lets it run. In force and durable when it returns.
    ///
    /// # Errors
    /// When it could not be stored: then nothing has changed.
    pub async fn set(&self, server: &Name, halted: Option<Halted>) -> Result<(), StoreError> {
        let value = halted.as_ref().map(serde_json::to_vec).transpose();
        let value = value.map_err(|error| StoreError::Io(error.to_string()))?;
        self.store.set(&format!("{KEY}{server}"), value).await?;
        match halted {
            Some(halted) => self.halted().insert(server.clone(), halted),
            None => self.halted().remove(server),
        };
        self.changes.send_replace(());
        Ok(())
    }

    /// Forgets what was done to servers that do not exist any more, so that a new one of the same name runs; one that is
    /// made anew before anybody asked stays as it was.
    pub async fn retain(&self, exists: impl Fn(&Name) -> bool) {
        let gone: Vec<Name> = self.halted().keys().filter(|name| !exists(name)).cloned().collect();
        for name in gone {
            match self.set(&name, None).await {
                Ok(()) => tracing::info!(virtualServer = %name, "it is gone; what an operator did to it is forgotten"),
                Err(error) => {
                    tracing::error!(virtualServer = %name, error = %error, "it is gone, but remembered as halted");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn what_an_operator_did_holds_over_a_restart_and_ends_with_the_server() {
        let store = MemoryStore::default();
        let running = Running::new(Arc::new(store.clone()));
        let (a, b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
        let halted = |halt| Some(Halted { halt, by: "me".into(), at: Timestamp::EPOCH });
        let changes = running.subscribe();
        running.set(&a, halted(Halt::Paused)).await.unwrap();
        running.set(&b, halted(Halt::Stopped)).await.unwrap();
        assert!(changes.has_changed().unwrap());
        for running in [running, Running::new(Arc::new(store.clone()))] {
            assert!(!running.takes_sessions(&a) && running.listens(&a));
            assert!(!running.takes_sessions(&b) && !running.listens(&b));
            assert_eq!(running.of(&b), halted(Halt::Stopped));
        }
        let running = Running::new(Arc::new(store.clone()));
        running.set(&a, None).await.unwrap();
        assert!(running.takes_sessions(&a));
        running.retain(|name| *name == a).await;
        assert!(Running::new(Arc::new(store)).listens(&b), "another server of that name would run");
    }
}
