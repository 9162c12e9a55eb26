//! Looking at the queue and acting on it by hand: what REST and the console see of [`queue`](super).
//!
//! Reading is bounded: a listing looks at a limited number of rows and then gives a short page. Acting on a
//! message needs its lease, so a message that is being delivered right now is [`ActionError::Leased`]. An action
//! is durable when it returns.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::ConnectorHealth;
use crate::model::failure::Failure;
use crate::model::mail::{Message, MessageId, RecipientStatus};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::smtp::address::{AddressError, Domain, Mailbox};
use crate::store::{PageKey, StoreError};

/// Looks at the queue and acts on it.
#[async_trait]
pub trait Operate: Send + Sync {
    /// Every queue that holds something or is frozen.
    async fn queues(&self) -> Result<Vec<QueueView>, ActionError>;

    /// One queue.
    async fn queue(&self, queue: &QueueName) -> Result<QueueView, ActionError>;

    /// What a connector has last seen of its next hops; `None`: nothing yet.
    fn connector_health(&self, _: &Name) -> Option<ConnectorHealth> {
        None
    }

    /// No attempt is made from this queue until it is thawed; it still accepts.
    async fn freeze_queue(&self, queue: &QueueName) -> Result<(), ActionError>;

    /// Ends a freeze.
    async fn thaw_queue(&self, queue: &QueueName) -> Result<(), ActionError>;

    /// Everything in the queue is due now, whatever the schedule of its connector says.
    async fn retry_queue(&self, queue: &QueueName) -> Result<(), ActionError>;

    /// Messages in order of reception, behind `after`. Looks at no more than 50,000 rows, then gives a short page
    /// with `next`.
    async fn messages(
        &self,
        filter: &MessageFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Result<MessagePage, ActionError>;

    /// One message.
    async fn message(&self, id: MessageId) -> Result<Arc<Message>, ActionError>;

    /// What happened to a message, oldest first; also of one that is no longer here.
    async fn events(&self, id: MessageId) -> Result<Vec<serde_json::Value>, ActionError>;

    /// No attempt is made for this message until it is thawed.
    async fn freeze(&self, id: MessageId) -> Result<(), ActionError>;

    /// Ends a freeze.
    async fn thaw(&self, id: MessageId) -> Result<(), ActionError>;

    /// The message is due now in all its queues.
    async fn retry(&self, id: MessageId) -> Result<(), ActionError>;

    /// Removes a message; with `ndr` its sender gets a non-delivery report.
    async fn delete(&self, id: MessageId, ndr: bool) -> Result<(), ActionError>;
}

/// Why a look or an action failed.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// There is no such message or queue.
    #[error("no such message or queue")]
    NotFound,
    /// The message is being delivered right now.
    #[error("the message is being delivered right now")]
    Leased,
    /// The store did not do it.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for ActionError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound => ActionError::NotFound,
            StoreError::Leased => ActionError::Leased,
            other => ActionError::Store(other),
        }
    }
}

/// A queue as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueView {
    /// Its name.
    pub id: QueueName,
    /// What it is for.
    pub kind: QueueKind,
    /// What it does now.
    pub state: QueueState,
    /// The connector that carries it.
    pub connector: Option<Name>,
    /// Where its mail goes, in words: the domain, the smart hosts, the mailbox store.
    pub next_hop: Option<String>,
    /// Messages with recipients that wait here.
    pub messages: u64,
    /// Their octets.
    pub bytes: u64,
    /// When the oldest of them was received.
    pub oldest: Option<Timestamp>,
    /// When the next attempt is due.
    pub next_retry: Option<Timestamp>,
    /// The last failure that concerned the whole queue.
    pub last_error: Option<Failure>,
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueKind {
    /// The smart hosts of a connector.
    SmartHost,
    /// One domain, by DNS.
    Dns,
    /// A mailbox store.
    Local,
    /// It is not known yet who gets it: groups, contacts, forwards.
    Directory,
    /// No connector carries it now.
    Unrouted,
    /// Nothing more can be done.
    DeadLetter,
}

impl QueueKind {
    /// The kind of a queue, which its name says.
    pub fn of(queue: &QueueName) -> Self {
        match queue {
            QueueName::SmartHost(_) => QueueKind::SmartHost,
            QueueName::Dns(..) => QueueKind::Dns,
            QueueName::Local(_) => QueueKind::Local,
            QueueName::Directory => QueueKind::Directory,
            QueueName::Unrouted => QueueKind::Unrouted,
            QueueName::DeadLetter => QueueKind::DeadLetter,
        }
    }
}

/// What a queue does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueState {
    /// Attempts are being made.
    Active,
    /// Something is due; an attempt begins as soon as there is room.
    Ready,
    /// Waits for the time of the next attempt.
    Retry,
    /// Waits until its connector's schedule opens.
    Scheduled,
    /// Frozen by an operator.
    Frozen,
}

/// Which messages to list: all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageFilter {
    /// The state of the message.
    pub state: Option<MessageState>,
    /// A recipient waits in this queue.
    pub queue: Option<QueueName>,
    /// A recipient waits in a queue of this connector.
    pub connector: Option<Name>,
    /// The virtual server that took it.
    pub virtual_server: Option<Name>,
    /// The reverse-path.
    pub sender: Option<AddressFilter>,
    /// One of the recipients.
    pub recipient: Option<AddressFilter>,
    /// The Message-ID field without angle brackets.
    pub message_id: Option<String>,
    /// Received at or after.
    pub since: Option<Timestamp>,
    /// Received before.
    pub until: Option<Timestamp>,
    /// Received longer ago than this.
    pub older_than: Option<Duration>,
    /// More octets than this.
    pub larger_than: Option<u64>,
}

/// The state of a whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageState {
    /// A recipient waits for an attempt.
    Queued,
    /// Frozen by an operator.
    Frozen,
    /// All that waits, waits in the dead-letter queue.
    DeadLetter,
}

impl MessageState {
    /// The state of a message.
    pub fn of(message: &Message) -> Self {
        let mut waiting = message
            .recipients
            .iter()
            .filter(|recipient| recipient.status == RecipientStatus::Pending || recipient.waits.is_some())
            .filter_map(|recipient| recipient.waits.as_ref())
            .peekable();
        if message.frozen {
            MessageState::Frozen
        } else if waiting.peek().is_some() && waiting.all(|waits| waits.queue == QueueName::DeadLetter) {
            MessageState::DeadLetter
        } else {
            MessageState::Queued
        }
    }
}

/// A condition on an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressFilter {
    /// `user@example.com`: this address.
    Address(Mailbox),
    /// `*@example.com`: any address of this domain.
    Domain(Domain),
    /// `<>`: the null reverse-path.
    Null,
}

impl AddressFilter {
    /// Whether an address meets it; `None` is the null reverse-path.
    pub fn matches(&self, mailbox: Option<&Mailbox>) -> bool {
        match (self, mailbox) {
            (AddressFilter::Null, mailbox) => mailbox.is_none(),
            (AddressFilter::Address(wanted), Some(mailbox)) => wanted.key() == mailbox.key(),
            (AddressFilter::Domain(wanted), Some(mailbox)) => wanted == mailbox.domain(),
            (_, None) => false,
        }
    }
}

impl FromStr for AddressFilter {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("*@") {
            _ if text == "<>" => Ok(AddressFilter::Null),
            Some(domain) => domain.parse().map(AddressFilter::Domain),
            None => text.parse().map(AddressFilter::Address),
        }
    }
}

/// A page of a listing of messages.
#[derive(Debug, Clone, Default)]
pub struct MessagePage {
    /// The messages.
    pub items: Vec<Arc<Message>>,
    /// Where the listing goes on; `None` at its end.
    pub next: Option<PageKey>,
    /// Rows looked at for this page.
    pub scanned: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_filters_take_an_address_a_domain_or_the_null_path() {
        let mailbox: Mailbox = "User@Example.com".parse().unwrap();
        for (filter, some, none) in [
            ("user@example.com", true, false),
            ("*@example.com", true, false),
            ("*@example.org", false, false),
            ("<>", false, true),
        ] {
            let filter: AddressFilter = filter.parse().unwrap();
            assert_eq!(filter.matches(Some(&mailbox)), some, "{filter:?}");
            assert_eq!(filter.matches(None), none, "{filter:?}");
        }
        assert!("nobody".parse::<AddressFilter>().is_err());
    }
}
