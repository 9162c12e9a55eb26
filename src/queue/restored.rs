//! A store that was restored from a copy: what is queued in it may have been delivered since the copy was taken, so it is
//! frozen before the first attempt, until a person has looked at it.
//!
//! It happens once for each name of a copy, before [`Queue::run`]: the name is kept beside the mail when all of it is
//! frozen, so a crash in the middle does it again, and a later start with the same name leaves alone what came since. Dead letters
//! stay as they are: nothing is tried with them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::operate::{ActionError, MessageState, Operate as _};
use super::{Operator, Queue};
use crate::store::StoreError;

/// Control key that keeps which copy was frozen last.
const KEY: &str = "restored-from";
/// Longest name of a copy.
const LONGEST_NAME: usize = 253;
/// Messages that are looked at in one step, and frozen at a time: each is synced, and they share the syncs.
const STEP: usize = 1_000;
const AT_A_TIME: usize = 64;
/// How often the store is asked whether its listings are complete.
const LOOK: Duration = Duration::from_millis(50);

impl Queue {
    /// Freezes what is queued, if this copy has not been frozen before; durable when it returns. Gives how many messages.
    ///
    /// # Errors
    /// When the store does not do it: then the appliance must not start, as it would deliver.
    pub async fn hold_restored(self: &Arc<Self>, copy: &str) -> Result<u64, StoreError> {
        let copy: String = copy.chars().take(LONGEST_NAME).collect();
        if self.store.all(KEY).iter().any(|(key, value)| key == KEY && value == copy.as_bytes()) {
            return Ok(0);
        }
        let held = self.hold_queued().await?;
        self.store.set(KEY, Some(copy.into_bytes())).await?;
        Ok(held)
    }

    /// Freezes what is queued; durable when it returns. Gives how many messages. For a copy that says itself that it is one
    /// (`bridgehead restore`).
    ///
    /// # Errors
    /// See [`Queue::hold_restored`].
    pub async fn hold_queued(self: &Arc<Self>) -> Result<u64, StoreError> {
        while !self.store.health().ready {
            tokio::time::sleep(LOOK).await;
        }
        let operator = Operator(self.clone());
        let (mut held, mut after) = (0, None);
        loop {
            let rows = self.store.page(None, after, STEP).await?;
            let waits = |state| state == MessageState::Queued;
            let ids =
                rows.iter().filter(|(_, message)| waits(MessageState::of(message))).map(|(_, message)| message.id);
            let mut freezing = stream::iter(ids.collect::<Vec<_>>())
                .map(|id| {
                    let operator = operator.clone();
                    async move { operator.freeze(id, "restoredFrom").await }
                })
                .buffer_unordered(AT_A_TIME);
            while let Some(frozen) = freezing.next().await {
                match frozen {
                    Ok(()) => held += 1,
                    Err(ActionError::NotFound | ActionError::NeverTried) => {}
                    Err(ActionError::Leased) => return Err(StoreError::Leased),
                    Err(ActionError::Store(error)) => return Err(error),
                }
            }
            if rows.len() < STEP {
                break;
            }
            after = rows.last().map(|(key, _)| *key);
        }
        Ok(held)
    }
}
