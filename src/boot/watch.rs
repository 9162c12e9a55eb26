//! Files that the configuration is made of (keys, certificates) are looked at every second; what changed is in force at
//! once, without a restart. Now and then the audit log is rid of what is too old.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Configuration;
use crate::status::Drain;

/// How often. A look costs one `stat` a file.
const EVERY: Duration = Duration::from_secs(1);
/// Looks after which the audit log is rid of what is too old: an hour.
const PRUNED_AFTER: u32 = 3_600;

/// Looks until the process drains.
pub(super) async fn files(configuration: Arc<Configuration>, drain: Arc<Drain>) {
    let mut stop = drain.watch();
    let mut looks = 0;
    loop {
        tokio::select! {
            _ = stop.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = configuration.refresh().await {
            tracing::error!(%error, "a changed file could not be taken into the configuration");
        }
        if looks % PRUNED_AFTER == 0
            && let Err(error) = configuration.prune_audit().await
        {
            tracing::error!(%error, "old entries of the audit log could not be removed");
        }
        looks = looks.wrapping_add(1);
    }
}
