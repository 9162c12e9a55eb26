//! What waits, added up: by kind, connector and state of the queue. There are as many rows as are configured, however many domains
//! there is mail for.

use std::collections::BTreeMap;

use super::operate::QueueView;
use crate::model::time::Timestamp;

/// What queues are added up by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sort {
    /// The kind, as the name of a queue begins.
    pub kind: &'static str,
    /// The connector; empty where there is none.
    pub connector: String,
    /// The state, in lower case.
    pub state: String,
}

impl Sort {
    /// Whether mail waits there that should be on its way: no dead letters, nothing that is frozen, and nothing that waits for its hour
    /// or for somebody to ask.
    pub fn is_on_its_way(&self) -> bool {
        self.kind != "deadLetter" && !["frozen", "scheduled", "remote"].contains(&self.state.as_str())
    }
}

/// What such queues have together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Total {
    /// Messages.
    pub messages: u64,
    /// Their octets.
    pub bytes: u64,
    /// Queues.
    pub queues: u64,
    /// When the oldest message was received.
    pub oldest: Option<Timestamp>,
}

/// Adds queues up.
pub fn totals(queues: &[QueueView]) -> BTreeMap<Sort, Total> {
    let mut totals: BTreeMap<Sort, Total> = BTreeMap::new();
    for queue in queues {
        let sort = Sort {
            kind: queue.id.kind(),
            connector: queue.connector.as_ref().map(ToString::to_string).unwrap_or_default(),
            state: format!("{:?}", queue.state).to_lowercase(),
        };
        let total = totals.entry(sort).or_default();
        total.messages += queue.messages;
        total.bytes += queue.bytes;
        total.queues += 1;
        total.oldest = [total.oldest, queue.oldest].into_iter().flatten().min();
    }
    totals
}
