//! Files that the configuration is made of (keys, certificates) are looked at every second; what changed is in force at
//! once, without a restart. So is how long message tracking keeps events. Now and then the audit log is rid of what is too
//! old.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::directory::Watcher;
use crate::config::{Configuration, Live};
use crate::smtp::reply::Reply;
use crate::status::Drain;
use crate::store::Store;

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

/// Looks at the watched directory until the process drains.
pub(super) async fn directory(mut watcher: Watcher, drain: Arc<Drain>) {
    let mut stop = drain.watch();
    loop {
        tokio::select! {
            _ = stop.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        watcher.look().await;
    }
}

/// Tells the store how long message tracking keeps events, whenever that changes, until the process drains.
pub(super) async fn retention(live: Live, store: Arc<dyn Store>, mut stop: watch::Receiver<Option<Reply>>) {
    let mut changes = live.subscribe();
    loop {
        let retention = live.current().settings.retention.clone();
        store.keep_events(retention.tracking.std(), retention.tracking_size.bytes());
        tokio::select! {
            _ = stop.wait_for(Option::is_some) => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}
