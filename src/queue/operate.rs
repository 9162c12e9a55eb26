//! Looking at the queue and acting on it by hand: what REST and the console see of [`queue`](super).
//!
//! Reading is bounded: a listing looks at a limited number of rows and then gives a short page. Acting on a
//! message needs its lease, so a message that is being delivered right now is [`ActionError::Leased`]. An action
//! is durable when it returns.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ConnectorHealth;
use super::history::EventPage;
use super::turn::Requested;
use crate::model::duration::Duration;
use crate::model::failure::Failure;
use crate::model::host::{domain_key, is_below, mailbox_key};
use crate::model::mail::{Message, MessageId, Recipient, RecipientStatus};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::size::Size;
use crate::model::text::text_value;
use crate::model::time::Timestamp;
use crate::smtp::address::{AddressError, Domain, Mailbox};
use crate::store::history::Position;
use crate::store::{PageKey, StoreError};

/// Looks at the queue and acts on it.
#[async_trait]
pub trait Operate: Send + Sync {
    /// Every queue that holds something or is frozen, by the text of its id.
    async fn queues(&self) -> Result<Vec<QueueView>, ActionError> {
        self.queues_behind(None, usize::MAX).await
    }

    /// At most so many of them, whose ids are behind this text. Costs by what it answers.
    async fn queues_behind(&self, after: Option<&str>, limit: usize) -> Result<Vec<QueueView>, ActionError>;

    /// One queue.
    async fn queue(&self, queue: &QueueName) -> Result<QueueView, ActionError>;

    /// What a connector has last seen of its next hops; `None`: nothing yet.
    fn connector_health(&self, _: &Name) -> Option<ConnectorHealth> {
        None
    }

    /// What came of it when the connector last asked for mail that waits elsewhere; `None`: it has not asked yet.
    fn last_requested(&self, _: &Name) -> Option<Requested> {
        None
    }

    /// No attempt is made from this queue until it is thawed; it still accepts.
    async fn freeze_queue(&self, queue: &QueueName) -> Result<(), ActionError>;

    /// Ends a freeze.
    async fn thaw_queue(&self, queue: &QueueName) -> Result<(), ActionError>;

    /// Everything in the queue is due now, whatever the schedule of its connector says, but what waits for its own time (`sendAt`).
    async fn retry_queue(&self, queue: &QueueName, by: &str) -> Result<(), ActionError>;

    /// Messages in order of reception, behind `after`. Looks at no more than 20,000 rows, and no longer than 40 ms, then gives a short page
    /// with `next`.
    async fn messages(
        &self,
        filter: &MessageFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Result<MessagePage, ActionError>;

    /// One message.
    async fn message(&self, id: MessageId) -> Result<Arc<Message>, ActionError>;

    /// At most so many events of a message, oldest first, behind `after`; also of one that is no longer here.
    async fn events(&self, id: MessageId, after: Option<Position>, limit: usize) -> Result<EventPage, ActionError>;

    /// No attempt is made for this message until it is thawed. `by`, here and below: who asked, as the events shall name them.
    async fn freeze(&self, id: MessageId, by: &str) -> Result<(), ActionError>;

    /// Ends a freeze.
    async fn thaw(&self, id: MessageId, by: &str) -> Result<(), ActionError>;

    /// The message is due now in all its queues.
    async fn retry(&self, id: MessageId, by: &str) -> Result<(), ActionError>;

    /// Removes a message; with `ndr` its sender gets a non-delivery report.
    async fn delete(&self, id: MessageId, ndr: bool, by: &str) -> Result<(), ActionError>;
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
    /// Mail waits here for an operator: there is nothing to freeze.
    #[error("no attempt is made from this queue anyway, so there is nothing to freeze")]
    NeverTried,
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
    /// An operator holds it.
    Held,
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
            QueueName::Held => QueueKind::Held,
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
    /// Waits until somebody asks for it.
    Remote,
    /// Frozen by an operator.
    Frozen,
    /// Its connector is suspended.
    Suspended,
    /// Is not tried: waits until the holds that mean it end, or, dead letters, until an operator wants them or their retention ends.
    Held,
}

/// Which messages: all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = MessageSelector, example = json!({"queue": "dns:default:example.com", "sender": "*@example.net", "olderThan": "2h"}))]
pub struct MessageFilter {
    /// The state of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub state: Option<MessageState>,
    /// A recipient waits in this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>)]
    pub queue: Option<QueueName>,
    /// A recipient waits in a queue of this connector.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub connector: Option<Name>,
    /// A recipient waits in a queue for this next hop: a domain, or a smart host with or without its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next_hop: Option<String>,
    /// The virtual server that took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub virtual_server: Option<Name>,
    /// The account that handed it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub account: Option<Name>,
    /// The API key by which it was submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub api_key: Option<String>,
    /// The reverse-path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub sender: Option<AddressFilter>,
    /// One of the recipients.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub recipient: Option<AddressFilter>,
    /// The Message-ID field, with or without angle brackets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub message_id: Option<String>,
    /// Its Subject contains this, in whatever case; only of messages that came while `settings.subjectLogging` was on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub subject: Option<String>,
    /// One of the recipients is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub status: Option<StatusFilter>,
    /// Received at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Received before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// Received longer ago than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub older_than: Option<Duration>,
    /// More octets than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub larger_than: Option<Size>,
}

impl MessageFilter {
    /// The same with a Message-ID as messages have it.
    ///
    /// # Errors
    /// What can mean no message, by the name of the field: an empty text, a null recipient.
    pub fn checked(mut self) -> Result<Self, Vec<(&'static str, &'static str)>> {
        self.message_id = self.message_id.map(|id| id.trim().trim_matches(['<', '>']).to_owned());
        let texts = [
            ("nextHop", &self.next_hop),
            ("apiKey", &self.api_key),
            ("messageId", &self.message_id),
            ("subject", &self.subject),
        ];
        let empty = texts.into_iter().filter(|(_, text)| text.as_deref() == Some(""));
        let mut wrong: Vec<_> = empty.map(|(name, _)| (name, "it is empty, and means no message")).collect();
        wrong.extend(self.recipient.as_ref().and_then(AddressFilter::no_recipient).map(|words| ("recipient", words)));
        if wrong.is_empty() { Ok(self) } else { Err(wrong) }
    }

    /// The same with the times that it means now, and nothing that is received from now on; `None` when it says nothing.
    pub fn fixed(mut self, now: Timestamp) -> Option<Self> {
        if self == MessageFilter::default() {
            return None;
        }
        let aged = self.older_than.take().map(|age| now - age.std());
        // the end is not included: what came in this very moment is meant
        let until = [self.until, aged, Some(now + std::time::Duration::from_millis(1))].into_iter().flatten().min();
        Some(MessageFilter { until, ..self })
    }
}

/// How one of the recipients is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SelectedStatus)]
pub enum StatusFilter {
    /// It waits, and no attempt for it has failed.
    Pending,
    /// It waits after an attempt that failed.
    Deferred,
    /// In its mailbox store.
    Delivered,
    /// Taken by the next hop.
    Relayed,
    /// Became other recipients.
    Expanded,
    /// Will not be delivered; also a dead letter.
    Failed,
    /// Was not delivered in time; also a dead letter.
    Expired,
}

impl StatusFilter {
    /// Every one with its word.
    pub const WORDS: [(&'static str, StatusFilter); 7] = [
        ("pending", StatusFilter::Pending),
        ("deferred", StatusFilter::Deferred),
        ("delivered", StatusFilter::Delivered),
        ("relayed", StatusFilter::Relayed),
        ("expanded", StatusFilter::Expanded),
        ("failed", StatusFilter::Failed),
        ("expired", StatusFilter::Expired),
    ];

    /// Whether a recipient is so.
    pub fn matches(self, recipient: &Recipient) -> bool {
        let failed_once = recipient.last_failure.is_some();
        match self {
            StatusFilter::Pending => recipient.status == RecipientStatus::Pending && !failed_once,
            StatusFilter::Deferred => recipient.status == RecipientStatus::Pending && failed_once,
            StatusFilter::Delivered => recipient.status == RecipientStatus::Delivered,
            StatusFilter::Relayed => recipient.status == RecipientStatus::Relayed,
            StatusFilter::Expanded => recipient.status == RecipientStatus::Expanded,
            StatusFilter::Failed => recipient.status == RecipientStatus::Failed,
            StatusFilter::Expired => recipient.status == RecipientStatus::Expired,
        }
    }
}

/// The state of a whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SelectedState)]
pub enum MessageState {
    /// A recipient waits for an attempt.
    Queued,
    /// Frozen by an operator.
    Frozen,
    /// All that waits is held by an operator.
    Held,
    /// All that waits, waits in the dead-letter queue.
    DeadLetter,
}

impl MessageState {
    /// The state of a message.
    pub fn of(message: &Message) -> Self {
        let waiting = message
            .recipients
            .iter()
            .filter(|recipient| recipient.status == RecipientStatus::Pending || recipient.waits.is_some())
            .filter_map(|recipient| recipient.waits.as_ref())
            .map(|waits| &waits.queue);
        let all_in = |queue| waiting.clone().next().is_some() && waiting.clone().all(|waits| *waits == queue);
        if message.frozen {
            MessageState::Frozen
        } else if all_in(QueueName::DeadLetter) {
            MessageState::DeadLetter
        } else if all_in(QueueName::Held) {
            MessageState::Held
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
    /// `*@*.example.com`: any address of a domain below this one.
    Below(Domain),
    /// `<>`: the null reverse-path.
    Null,
}

impl AddressFilter {
    /// Why it can mean no recipient, if it cannot.
    pub fn no_recipient(&self) -> Option<&'static str> {
        (*self == AddressFilter::Null).then_some("no recipient has the null path; `<>` is a sender")
    }

    /// Whether an address meets it, whatever the case of the letters and the spelling of the domain; `None` is the null
    /// reverse-path.
    pub fn matches(&self, mailbox: Option<&Mailbox>) -> bool {
        match (self, mailbox) {
            (AddressFilter::Null, mailbox) => mailbox.is_none(),
            (AddressFilter::Address(wanted), Some(mailbox)) => mailbox_key(wanted) == mailbox_key(mailbox),
            (AddressFilter::Domain(wanted), Some(mailbox)) => domain_key(wanted) == domain_key(mailbox.domain()),
            (AddressFilter::Below(parent), Some(mailbox)) => is_below(mailbox.domain(), parent),
            (_, None) => false,
        }
    }
}

impl fmt::Display for AddressFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressFilter::Address(mailbox) => mailbox.fmt(f),
            AddressFilter::Domain(domain) => write!(f, "*@{domain}"),
            AddressFilter::Below(domain) => write!(f, "*@*.{domain}"),
            AddressFilter::Null => f.write_str("<>"),
        }
    }
}

text_value!(
    AddressFilter,
    "AddressSelector",
    "bridgehead-address-selector",
    "An address, `*@domain`, `*@*.domain` for the domains below it, or `<>` for the null reverse-path.",
    ["*@example.net"]
);

impl FromStr for AddressFilter {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match (text.strip_prefix("*@*."), text.strip_prefix("*@")) {
            _ if text == "<>" => Ok(AddressFilter::Null),
            (Some(parent), _) => match parent.parse()? {
                parent @ Domain::Name(_) => Ok(AddressFilter::Below(parent)),
                Domain::Literal(_) => Err(AddressError::Domain),
            },
            (None, Some(domain)) => domain.parse().map(AddressFilter::Domain),
            (None, None) => text.parse().map(AddressFilter::Address),
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
