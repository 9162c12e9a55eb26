//! How many sessions may be open at once: per virtual server (`outbound.maxConnections`) and per connector
//! (`limits.maxConnections`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Counts sessions by the name of what limits them.
#[derive(Debug, Default)]
pub struct Slots {
    used: Mutex<HashMap<String, usize>>,
    freed: Notify,
}

impl Slots {
    fn used(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every one of the limits has room, then takes a place in each.
    pub async fn take(&self, limits: &[(String, usize)]) -> Slot<'_> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(slot) = self.try_take(limits) {
                return slot;
            }
            freed.await;
        }
    }

    fn try_take(&self, limits: &[(String, usize)]) -> Option<Slot<'_>> {
        let mut used = self.used();
        if limits.iter().any(|(name, most)| used.get(name).copied().unwrap_or(0) >= *most) {
            return None;
        }
        for (name, _) in limits {
            *used.entry(name.clone()).or_default() += 1;
        }
        Some(Slot { slots: self, names: limits.iter().map(|(name, _)| name.clone()).collect() })
    }
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub struct Slot<'a> {
    slots: &'a Slots,
    names: Vec<String>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut used = self.slots.used();
        for name in &self.names {
            if let Some(count) = used.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    used.remove(name);
                }
            }
        }
        drop(used);
        self.slots.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_takes_more_than_there_is() {
        let slots = Slots::default();
        let limits = [("server".to_owned(), 2), ("connector".to_owned(), 1)];
        let first = slots.take(&limits).await;
        assert!(slots.try_take(&limits).is_none());
        assert!(slots.try_take(&limits[..1]).is_some());
        drop(first);
        assert!(slots.try_take(&limits).is_some());
        assert!(slots.used().is_empty());
    }
}
