//! Which queue a recipient waits in: the directory says who is meant, routing says which connector carries it.

use crate::config::Snapshot;
use crate::directory::{Envelope, Recipients, Resolution, Restriction, resolve, resolve_taken};
use crate::model::mail::{Message, Recipient};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::routing::{Route, RouteRequest};
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};

/// Where a recipient belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignment {
    /// It waits in this queue; a local one has a name in the directory.
    Queue(QueueName, Option<Name>),
    /// It is there, and may not be written to.
    Refused(Restriction),
    /// Its domain is ours alone, and there is no such recipient.
    Unknown,
    /// The directory cannot tell now.
    TryLater,
}

impl Assignment {
    /// True when it lives elsewhere: taking mail for it is relaying.
    pub fn is_remote(&self) -> bool {
        matches!(self, Assignment::Queue(queue, _) if !is_ours(queue))
    }
}

/// Whether a queue holds mail for recipients of the directory.
pub fn is_ours(queue: &QueueName) -> bool {
    matches!(queue, QueueName::Local(_) | QueueName::Directory)
}

/// Who asks: what of a message decides, besides the recipient.
#[derive(Debug, Clone, Copy)]
pub struct Sending<'a> {
    /// The reverse-path.
    pub sender: &'a ReversePath,
    /// Octets of content, as far as they are known.
    pub size: u64,
    /// The virtual server that took it.
    pub virtual_server: &'a Name,
    /// Decides among connectors of equal cost and stays the same for a message, so that routing it again gives the same
    /// answer while the configuration is the same.
    pub spread: u64,
}

impl<'a> Sending<'a> {
    /// Of a message that was taken.
    pub fn of(message: &'a Message) -> Self {
        Sending {
            sender: &message.reverse_path,
            size: message.size,
            virtual_server: &message.origin.virtual_server,
            spread: message.id.spread(),
        }
    }
}

/// Assigns one recipient of a message that is being handed in: its restrictions hold.
pub fn assign(
    snapshot: &Snapshot,
    recipients: &dyn Recipients,
    path: &ForwardPath,
    sending: Sending<'_>,
) -> Assignment {
    let envelope = Envelope { path, sender: sending.sender, size: sending.size };
    place(snapshot, resolve(&snapshot.domains, recipients, &envelope), sending)
}

/// Assigns a recipient of a message that was taken.
pub fn assign_again(
    snapshot: &Snapshot,
    recipients: &dyn Recipients,
    message: &Message,
    recipient: &Recipient,
) -> Assignment {
    let (path, known) = (&recipient.forward_path, recipient.directory_name.as_ref());
    place(snapshot, resolve_taken(&snapshot.domains, recipients, path, known), Sending::of(message))
}

/// Assigns a forward-path that nobody asked for at RCPT: a sender who is told something, a member of a group.
pub(super) fn assign_own(
    snapshot: &Snapshot,
    recipients: &dyn Recipients,
    path: &ForwardPath,
    known: Option<&Name>,
    sending: Sending<'_>,
) -> Assignment {
    place(snapshot, resolve_taken(&snapshot.domains, recipients, path, known), sending)
}

fn place(snapshot: &Snapshot, resolution: Resolution, sending: Sending<'_>) -> Assignment {
    match resolution {
        Resolution::Mailbox { recipient, store } => Assignment::Queue(QueueName::Local(store), Some(recipient)),
        // not by name: who it is is asked once more when it is distributed
        Resolution::Others { .. } => Assignment::Queue(QueueName::Directory, None),
        Resolution::Refused { restriction, .. } => Assignment::Refused(restriction),
        Resolution::Unknown => Assignment::Unknown,
        Resolution::TryLater => Assignment::TryLater,
        Resolution::Remote(mailbox) => Assignment::Queue(route(snapshot, &mailbox, sending), None),
    }
}

fn route(snapshot: &Snapshot, mailbox: &Mailbox, sending: Sending<'_>) -> QueueName {
    // in a shared domain, and with nobody in the directory: the server may know who has the others
    if snapshot.domains.find(mailbox.domain()).is_some()
        && let Some(queue) = snapshot.unresolved_queue(sending.virtual_server)
    {
        return queue;
    }
    let request = RouteRequest { domain: mailbox.domain(), sender: sending.sender, size: sending.size };
    match snapshot.routes.route(request, sending.spread) {
        Route::Connector { queue, .. } => queue,
        Route::NoRoute | Route::TryLater => QueueName::Unrouted,
    }
}
