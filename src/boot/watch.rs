//! Files that the configuration is made of (keys, certificates) are looked at every second; what changed is in force at
//! once, without a restart.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Configuration;
use crate::config::directory::Watcher;
use crate::status::Drain;

/// How often. A look costs one `stat` a file.
const EVERY: Duration = Duration::from_secs(1);

/// Looks until the process drains.
pub(super) async fn files(configuration: Arc<Configuration>, drain: Arc<Drain>) {
    let mut stop = drain.watch();
    loop {
        tokio::select! {
            _ = stop.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = configuration.refresh().await {
            tracing::error!(%error, "a changed file could not be taken into the configuration");
        }
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
