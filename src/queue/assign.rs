//! Which queue a recipient waits in: the directory says who is meant, routing says which connector carries it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::Snapshot;
use crate::directory::{Envelope, LookupFailed, Recipients, Resolution, Restriction, is_among, resolve, resolve_taken};
use crate::model::mail::{Message, Recipient};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::recipient_ref::SenderPattern;
use crate::routing::{CannotTell, Connector, Considered, Route, RouteRequest, Senders};
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
    /// Its priority (RFC 6710).
    pub priority: i8,
    /// The virtual server that took it.
    pub virtual_server: &'a Name,
    /// Decides among connectors of equal cost and stays the same for a message, so that routing it again gives the same
    /// answer while the configuration is the same.
    pub spread: u64,
    /// The connectors that are down ([`Queue::down`](super::Queue::down)).
    pub down: &'a BTreeSet<Name>,
}

impl<'a> Sending<'a> {
    /// Of a message that was taken.
    pub fn of(message: &'a Message, down: &'a BTreeSet<Name>) -> Self {
        Sending {
            sender: &message.reverse_path,
            size: message.size,
            priority: message.priority(),
            down,
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
    place(snapshot, recipients, resolve(&snapshot.domains, recipients, &envelope), sending)
}

/// Assigns a recipient of a message that was taken.
pub fn assign_again(
    snapshot: &Snapshot,
    recipients: &dyn Recipients,
    message: &Message,
    recipient: &Recipient,
    down: &BTreeSet<Name>,
) -> Assignment {
    let known = recipient.directory_name.as_ref();
    let resolution = resolve_taken(&snapshot.domains, recipients, &recipient.forward_path, known);
    // an operator's choice asks nothing else
    if let (Resolution::Remote(mailbox), Some(connector)) = (&resolution, pinned(snapshot, message)) {
        return Assignment::Queue(connector.queue(mailbox.domain()), None);
    }
    place(snapshot, recipients, resolution, Sending::of(message, down))
}

/// The connector that an operator has chosen for the mail of a message that goes elsewhere: neither address spaces nor
/// restrictions are asked, nor whether it is down. One that is gone or switched off does not count, as long as it is so: the
/// message is routed as usual.
pub fn pinned<'a>(snapshot: &'a Snapshot, message: &Message) -> Option<&'a Arc<Connector>> {
    snapshot.routes.connector(message.connector.as_ref()?)
}

/// Assigns a forward-path that nobody asked for at RCPT: a sender who is told something, a member of a group.
pub(super) fn assign_own(
    snapshot: &Snapshot,
    recipients: &dyn Recipients,
    path: &ForwardPath,
    known: Option<&Name>,
    sending: Sending<'_>,
) -> Assignment {
    place(snapshot, recipients, resolve_taken(&snapshot.domains, recipients, path, known), sending)
}

fn place(snapshot: &Snapshot, recipients: &dyn Recipients, resolution: Resolution, sending: Sending<'_>) -> Assignment {
    match resolution {
        Resolution::Mailbox { recipient, store } => Assignment::Queue(QueueName::Local(store), Some(recipient)),
        // not by name: who it is is asked once more when it is distributed
        Resolution::Others { .. } => Assignment::Queue(QueueName::Directory, None),
        Resolution::Refused { restriction, .. } => Assignment::Refused(restriction),
        Resolution::Unknown => Assignment::Unknown,
        Resolution::TryLater => Assignment::TryLater,
        Resolution::Remote(mailbox) => match way(snapshot, recipients, &mailbox, sending) {
            Way::Unresolved(queue) | Way::SmartHost(queue) => Assignment::Queue(queue, None),
            Way::Routed(Route::Connector { queue, .. }) => Assignment::Queue(queue, None),
            Way::Routed(Route::NoRoute) => Assignment::Queue(QueueName::Unrouted, None),
            Way::Routed(Route::TryLater) => Assignment::TryLater,
        },
    }
}

/// Which way mail for somebody elsewhere goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// In a shared domain, and with nobody in the directory: to the server that may know who has the others
    /// (`messages.forwardUnresolvedTo`).
    Unresolved(QueueName),
    /// What the connectors say.
    Routed(Route),
    /// No connector carries it, and the virtual server has a smart host for that (`outbound.smartHost`).
    SmartHost(QueueName),
}

/// See [`Way`].
pub fn way(snapshot: &Snapshot, recipients: &dyn Recipients, mailbox: &Mailbox, sending: Sending<'_>) -> Way {
    if snapshot.domains.find(mailbox.domain()).is_some()
        && let Some(queue) = snapshot.unresolved_queue(sending.virtual_server)
    {
        return Way::Unresolved(queue);
    }
    let senders = Known { snapshot, recipients };
    match snapshot.routes.route(request(mailbox, sending, &senders), sending.spread) {
        Route::NoRoute => match snapshot.smart_host_queue(sending.virtual_server, mailbox.domain()) {
            // a domain of ours that nobody shares is no matter for a smart host: it would only send it back
            Some(queue) if snapshot.domains.find(mailbox.domain()).is_none() => Way::SmartHost(queue),
            _ => Way::Routed(Route::NoRoute),
        },
        route => Way::Routed(route),
    }
}

/// What the router thinks of each connector that has an address space for the domain: it is asked the same.
pub fn considered(
    snapshot: &Snapshot,
    recipients: &dyn Recipients,
    mailbox: &Mailbox,
    sending: Sending<'_>,
) -> Vec<Considered> {
    let senders = Known { snapshot, recipients };
    snapshot.routes.explain(request(mailbox, sending, &senders), sending.spread).1
}

fn request<'a>(mailbox: &'a Mailbox, sending: Sending<'a>, senders: &'a dyn Senders) -> RouteRequest<'a> {
    let Sending { sender, size, priority, down, .. } = sending;
    RouteRequest { domain: mailbox.domain(), sender, size, priority, senders, down }
}

/// The directory, asked by the router.
struct Known<'a> {
    snapshot: &'a Snapshot,
    recipients: &'a dyn Recipients,
}

impl Senders for Known<'_> {
    fn is_among(&self, patterns: &[SenderPattern], sender: &Mailbox) -> Result<bool, CannotTell> {
        is_among(&self.snapshot.domains, self.recipients, patterns, sender).map_err(|LookupFailed(_)| CannotTell)
    }
}
