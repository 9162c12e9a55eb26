//! Looks once a second at how much the appliance carries, and says in the log when it is too much, and when that is over.
//!
//! The limits are those of `settings.overload`. Memory has one by itself where the process has one: nine tenths of what its
//! control group may have (`memory.max`, or version 1's `memory.limit_in_bytes`), so that mail is refused for a while
//! before the kernel ends the process.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Live;
use crate::status::{Drain, Load, Measured, Overload};
use crate::store::Store;

const EVERY: Duration = Duration::from_secs(1);
/// Above this a number is no limit: version 1 writes a very large one.
const NO_LIMIT: u64 = 1 << 60;

/// Looks until the process drains.
pub(super) async fn watch(overload: Arc<Overload>, store: Arc<dyn Store>, live: Live, drain: Arc<Drain>) {
    let group = memory_limit();
    let mut stop = drain.watch();
    loop {
        let limits = &live.current().settings.overload;
        let (messages, bytes) = store
            .queues()
            .iter()
            .fold((0, 0), |(messages, bytes), queue| (messages + queue.messages, bytes + queue.bytes));
        let memory = limits.memory.map(|limit| limit.bytes()).or(group);
        let measured = [
            Measured { load: Load::QueuedMessages, has: messages, limit: limits.queued_messages },
            Measured { load: Load::QueuedBytes, has: bytes, limit: limits.queued_bytes.map(|limit| limit.bytes()) },
            Measured { load: Load::Memory, has: resident_bytes().unwrap_or_default(), limit: memory },
        ];
        if overload.look(&measured) {
            match overload.now() {
                Some(why) => {
                    tracing::warn!(reason = %why, "overloaded: new mail is refused for now, what is queued goes on")
                }
                None => tracing::info!("no longer overloaded: mail is taken again"),
            }
        }
        tokio::select! {
            _ = stop.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Memory that the process has; Linux tells.
pub(super) fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Nine tenths of what the control group may have, if it has a limit.
fn memory_limit() -> Option<u64> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = files.iter().filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    limits.filter(|limit| *limit < NO_LIMIT).min().map(|limit| limit - limit / 10)
}
