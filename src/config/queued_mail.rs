//! What a change does to mail that waits. The queue knows; this is what it is asked, and what it answers.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Snapshot;

/// Looks at the mail that waits before a change: `queue` implements it, `boot` registers it.
#[async_trait]
pub trait QueuedMail: Send + Sync {
    /// How many messages would go another way.
    async fn moves(&self, candidate: &Snapshot) -> QueuedMailEffects;
}

/// What a change does to the mail that waits; only in the answer to a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "examined": 1200, "complete": true, "moved": 37,
    "moves": [{"from": "dns:default:example.com", "to": "smarthost:hub", "messages": 37}]
}))]
pub struct QueuedMailEffects {
    /// Messages that were looked at: all that wait, or the 50,000 oldest.
    pub examined: u64,
    /// Whether these were all.
    pub complete: bool,
    /// How many of them would wait in another queue.
    pub moved: u64,
    /// From where to where; the first 100 pairs of queues.
    pub moves: Vec<MailMove>,
}

/// Messages that would go from one queue to another; to `unrouted` when no connector is left for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MailMove {
    /// The queue in which they wait.
    pub from: String,
    /// The queue in which they would.
    pub to: String,
    /// How many.
    pub messages: u64,
}
