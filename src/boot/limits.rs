//! Keeps what changes all the time and may lag a second: what quotas have counted, and whom permanent failures put on the
//! suppression list. Also takes off the list what has expired.

use std::sync::Arc;
use std::time::Duration;

use crate::accounts::Quotas;
use crate::model::time::Timestamp;
use crate::net::clock::Clock;
use crate::queue::Queue;
use crate::status::Drain;
use crate::store::Store;

/// How long it may lag.
const EVERY: Duration = Duration::from_secs(1);
/// How often the whole list is looked through.
const EXPIRY_EVERY: u32 = 3_600;

/// What is kept.
pub(super) struct Kept {
    pub(super) store: Arc<dyn Store>,
    pub(super) quotas: Arc<Quotas>,
    pub(super) queue: Arc<Queue>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Kept {
    /// Goes on where an earlier process stood.
    pub(super) fn restore(&self) {
        if let Err(error) = self.quotas.restore(&*self.store, self.clock.now(), self.now()) {
            tracing::error!(%error, "what quotas had counted cannot be read; they begin anew");
        }
    }

    /// Until the drain begins.
    pub(super) async fn run(self: Arc<Self>, drain: Arc<Drain>) {
        let mut draining = drain.watch();
        for round in 1u32.. {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                _ = draining.wait_for(Option::is_some) => return,
            }
            self.save().await;
            if round % EXPIRY_EVERY == 0 {
                match self.queue.suppressions().remove_expired(self.now()).await {
                    Ok(0) => {}
                    Ok(removed) => tracing::info!(removed, "expired entries were taken off the suppression list"),
                    Err(error) => tracing::error!(%error, "the suppression list could not be looked through"),
                }
            }
        }
    }

    /// Writes down what the store does not know yet.
    pub(super) async fn save(&self) {
        if let Err(error) = self.quotas.save(&*self.store, self.clock.now(), self.now()).await {
            tracing::error!(%error, "what quotas have counted could not be written down; it is tried again");
        }
        match self.queue.suppressions().write_noticed(self.now()).await {
            Ok(0) => {}
            Ok(added) => tracing::info!(added, "put on the suppression list after permanent failures"),
            Err(error) => tracing::error!(%error, "the suppression list could not be written"),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }
}
