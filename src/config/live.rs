//! The snapshot in force, and word of a new one.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{Snapshot, certificates};

/// What is in force. Cheap to clone; all clones show the same.
#[derive(Debug, Clone)]
pub struct Live(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    current: ArcSwap<Snapshot>,
    revision: watch::Sender<u64>,
}

impl Live {
    /// A handle that shows this snapshot first.
    pub fn new(snapshot: Snapshot) -> Self {
        let (revision, _) = watch::channel(snapshot.revision);
        Live(Arc::new(Inner { current: ArcSwap::from_pointee(snapshot), revision }))
    }

    /// The snapshot in force. Never waits; keep it for as long as one decision must hold together, and no longer.
    pub fn current(&self) -> Arc<Snapshot> {
        self.0.current.load_full()
    }

    /// Revisions as they are published. Only a hint: read [`Live::current`].
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// Puts a snapshot into force, then tells it. Also one of the same revision: when a file changed that it is made of.
    pub(super) fn publish(&self, snapshot: Snapshot) {
        let revision = snapshot.revision;
        certificates::tell(&self.current(), &snapshot);
        self.0.current.store(Arc::new(snapshot));
        self.0.revision.send_replace(revision);
    }

    /// A revision that changed nothing but recipients: readers need not wake up for it.
    pub(super) fn advance(&self, revision: u64) {
        self.0.current.store(Arc::new(Snapshot { revision, ..(*self.current()).clone() }));
    }
}
