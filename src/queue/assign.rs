//! Which queue a recipient waits in: the directory says who is meant, routing says which connector carries it.

use crate::config::Snapshot;
use crate::directory::{self, Recipients, Resolution};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::routing::{Route, RouteRequest};
use crate::smtp::address::{ForwardPath, ReversePath};

/// Where a recipient belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignment {
    /// It waits in this queue; a local one has a name in the directory.
    Queue(QueueName, Option<Name>),
    /// Its domain is ours alone, and there is no such recipient.
    Unknown,
    /// The directory cannot tell now.
    TryLater,
}

impl Assignment {
    /// True when it lives elsewhere: taking mail for it is relaying.
    pub fn is_remote(&self) -> bool {
        matches!(self, Assignment::Queue(queue, _) if !matches!(queue, QueueName::Local(_)))
    }
}

/// Assigns one recipient. `spread` decides among connectors of equal cost and stays the same for a message, so that
/// routing it again gives the same answer while the configuration is the same.
pub fn assign(
    snapshot: &Snapshot,
    recipients: &dyn Recipients,
    path: &ForwardPath,
    sender: &ReversePath,
    size: u64,
    spread: u64,
) -> Assignment {
    match directory::resolve(&snapshot.domains, recipients, path) {
        Resolution::Mailbox { recipient, store } => Assignment::Queue(QueueName::Local(store), Some(recipient)),
        Resolution::Unknown => Assignment::Unknown,
        Resolution::TryLater => Assignment::TryLater,
        Resolution::Remote(mailbox) => {
            let request = RouteRequest { domain: mailbox.domain(), sender, size };
            match snapshot.routes.route(request, spread) {
                Route::Connector { queue, .. } => Assignment::Queue(queue, None),
                Route::NoRoute | Route::TryLater => Assignment::Queue(QueueName::Unrouted, None),
            }
        }
    }
}
