//! Connectors that an operator has suspended: nothing is sent through them until they are resumed.
//!
//! Running state, not configuration: a control record, so it survives a restart. Their link queues take mail and make no attempt, as if each
//! of them were frozen; a freeze of a single queue is remembered beside it. A connector that is no more, or is switched off, is not
//! suspended any more when it comes back.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Queue;
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::store::StoreError;

/// Prefix of the control keys.
pub(super) const KEY: &str = "connector-suspended/";

/// That, by whom and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suspended {
    /// The name of the API key.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// The suspended connectors, from their records.
pub(super) fn restore(stored: Vec<(String, Vec<u8>)>) -> BTreeMap<Name, Suspended> {
    let read = |(key, value): (String, Vec<u8>)| {
        let name = key.strip_prefix(KEY)?.parse().ok()?;
        let suspended = serde_json::from_slice(&value);
        if suspended.is_err() {
            tracing::error!(connector = %name, "that it is suspended cannot be read; it sends");
        }
        Some((name, suspended.ok()?))
    };
    stored.into_iter().filter_map(read).collect()
}

impl Queue {
    fn all_suspended(&self) -> MutexGuard<'_, BTreeMap<Name, Suspended>> {
        self.suspended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a connector is suspended.
    pub fn suspended(&self, connector: &Name) -> Option<Suspended> {
        self.all_suspended().get(connector).cloned()
    }

    /// Whether an operator has frozen this queue.
    pub fn is_frozen(&self, queue: &QueueName) -> bool {
        self.frozen().contains(queue)
    }

    /// Whether nothing leaves this queue: it is frozen, or its connector is suspended.
    pub(super) fn stands_still(&self, queue: &QueueName) -> bool {
        self.is_frozen(queue) || self.is_suspended(queue)
    }

    /// Whether the connector of this queue is suspended.
    pub(super) fn is_suspended(&self, queue: &QueueName) -> bool {
        queue.connector().is_some_and(|connector| self.all_suspended().contains_key(connector))
    }

    /// Suspends a connector: attempts that have begun end. In force and durable when it returns.
    ///
    /// # Errors
    /// When it could not be stored: then nothing has changed.
    pub async fn suspend(&self, connector: &Name, by: String) -> Result<(), StoreError> {
        let suspended = Suspended { by: by.chars().take(63).collect(), at: self.now() };
        let record = serde_json::to_vec(&suspended).map_err(|error| StoreError::Io(error.to_string()))?;
        self.store.set(&format!("{KEY}{connector}"), Some(record)).await?;
        self.all_suspended().insert(connector.clone(), suspended);
        self.settle_links(connector);
        tracing::info!(connector = %connector, by, "connector suspended");
        Ok(())
    }

    /// Ends that: what is due is tried at once.
    ///
    /// # Errors
    /// When it could not be stored: then nothing has changed.
    pub async fn resume(&self, connector: &Name) -> Result<(), StoreError> {
        self.store.set(&format!("{KEY}{connector}"), None).await?;
        self.all_suspended().remove(connector);
        self.settle_links(connector);
        tracing::info!(connector = %connector, "connector resumed");
        Ok(())
    }

    /// Forgets those that are no more.
    pub(super) async fn forget_gone_suspensions(&self) {
        let snapshot = self.live.current();
        let is_there = |name: &&Name| snapshot.routes.connector(name).is_some();
        let gone: Vec<Name> = self.all_suspended().keys().filter(|name| !is_there(name)).cloned().collect();
        for name in gone {
            if let Err(error) = self.resume(&name).await {
                super::log_store_error("a connector that is gone is remembered as suspended", &error);
            }
        }
    }

    /// Lets the link queues of a connector stand still, or go on.
    fn settle_links(&self, connector: &Name) {
        // under the lock under which links are made: none is missed
        let links: Vec<_> = {
            let links = self.links();
            links.values().filter(|link| link.name.connector() == Some(connector)).cloned().collect()
        };
        for link in links {
            let ready = link.set_frozen(self.stands_still(&link.name));
            self.release(ready);
        }
        for count in self.store.queues().iter().filter(|count| count.queue.connector() == Some(connector)) {
            self.agenda.look_at_once(&count.queue);
        }
    }
}
