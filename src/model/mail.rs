//! Mail as the house knows it: a [`Message`] is an envelope, where it came from, and a state per recipient.
//!
//! One rule holds the queue together: **a recipient either waits in a queue or is done.** A message
//! lives as long as one of its recipients waits; when none does, it is gone from the queue and only
//! message tracking remembers it. A dead-lettered recipient waits too, in the dead-letter queue,
//! until its retention ends.
//!
//! Content is not here: it lies in the store and is read by message id.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::name::Name;
use super::queue_name::QueueName;
use super::time::Timestamp;
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::parameters::{ByMode, DeliverBy, Hold, MailParameters, RcptParameters};

/// The id of a message: a UUID v7. Nothing relies on the order of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub uuid::Uuid);

impl MessageId {
    /// A new id.
    pub fn generate() -> Self {
        MessageId(uuid::Uuid::now_v7())
    }
}

impl MessageId {
    /// A number that stays the same for this message and is spread evenly over all of them.
    pub fn spread(self) -> u64 {
        self.0.as_u64_pair().1
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(MessageId)
    }
}

/// A message in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// When the last octet of its content had arrived.
    pub received_at: Timestamp,
    /// Who brought it, and how.
    pub origin: Origin,
    /// The reverse-path.
    pub reverse_path: ReversePath,
    /// The parameters of MAIL.
    pub parameters: MailParameters,
    /// Octets of content, with the Received field that we add.
    pub size: u64,
    /// The Message-ID field without angle brackets, cut at 255 octets, if there is one.
    pub message_id_header: Option<String>,
    /// The Subject field, decoded and without control characters, cut at 255 octets; only where
    /// `settings.subjectLogging` was on when it came.
    pub subject: Option<String>,
    /// Frozen by an operator: no attempt is made until it is thawed.
    pub frozen: bool,
    /// The connector that an operator has chosen for recipients that are not local; routing asks nothing else while it is
    /// there.
    pub connector: Option<Name>,
    /// What the request that brought it is known by, if it had an `Idempotency-Key`.
    pub idempotency: Option<Idempotency>,
    /// The recipients. Their order never changes; the index is how a [`Change`] names one.
    pub recipients: Vec<Recipient>,
}

impl Message {
    /// The queues that recipients of this message wait in, each once, with the earliest due time there.
    pub fn waiting(&self) -> Vec<(QueueName, Timestamp)> {
        let mut queues: Vec<(QueueName, Timestamp)> = Vec::new();
        for waits in self.recipients.iter().filter_map(|recipient| recipient.waits.as_ref()) {
            match queues.iter_mut().find(|(queue, _)| *queue == waits.queue) {
                Some((_, due)) => *due = (*due).min(waits.due),
                None => queues.push((waits.queue.clone(), waits.due)),
            }
        }
        queues
    }

    /// From when on it may go out: when it was received, or at the end of its hold (RFC 4865). Retries, delay
    /// notification, expiry and the time to deliver count from here.
    pub fn released_at(&self) -> Timestamp {
        match self.parameters.hold {
            None => self.received_at,
            Some(Hold::For(seconds)) => self.received_at + Duration::from_secs(u64::from(seconds)),
            Some(Hold::Until(seconds)) => Timestamp::from_millis(seconds.saturating_mul(1000)).max(self.received_at),
        }
    }

    /// When it should have been delivered at the latest, and what happens then (RFC 2852).
    pub fn deliver_by(&self) -> Option<(Timestamp, ByMode)> {
        let by = self.parameters.deliver_by?;
        let from = self.released_at().millis();
        Some((Timestamp::from_millis(from.saturating_add(by.seconds.saturating_mul(1000))), by.mode))
    }

    /// Its priority: -9 to 9 (RFC 6710).
    pub fn priority(&self) -> i8 {
        self.parameters.priority.unwrap_or_default()
    }

    /// The due time of a recipient that is to be tried as soon as it can be: the end of the hold, or now. What has a
    /// priority above 0 gets a time in the past, a day for each step, so that a queue that is served by due time
    /// serves it first.
    pub fn due_at_once(&self, now: Timestamp) -> Timestamp {
        let released = self.released_at();
        if released > now {
            return released;
        }
        let steps = u64::from(self.priority().max(0).unsigned_abs());
        now - Duration::from_secs(steps * 24 * 60 * 60)
    }

    /// The parameters of MAIL as a next hop gets them: without the hold, which is over, and with what is left of the
    /// time to deliver.
    pub fn parameters_at(&self, now: Timestamp) -> MailParameters {
        let left = |deadline: Timestamp| deadline.millis().saturating_sub(now.millis()).div_euclid(1000);
        let by = self.parameters.deliver_by.zip(self.deliver_by());
        MailParameters {
            hold: None,
            deliver_by: by.map(|(by, (deadline, _))| DeliverBy { seconds: left(deadline), ..by }),
            ..self.parameters.clone()
        }
    }

    /// True when no recipient waits any more: the message leaves the queue.
    pub fn is_done(&self) -> bool {
        self.recipients.iter().all(|recipient| recipient.waits.is_none())
    }

    /// The message after a change. An index that does not exist is passed over.
    pub fn apply(&mut self, change: &Change) {
        for (index, state) in &change.recipients {
            if let Some(recipient) = self.recipients.get_mut(*index as usize) {
                recipient.replace_state(state.clone());
            }
        }
        if let Some(frozen) = change.frozen {
            self.frozen = frozen;
        }
        if let Some(connector) = &change.connector {
            self.connector.clone_from(connector);
        }
    }
}

/// How a message came into the house.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// By which door.
    pub protocol: Protocol,
    /// The virtual server that took it; for notifications of our own the one that sends them.
    pub virtual_server: Name,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The name it gave in HELO or EHLO, cleaned and cut.
    pub helo: Option<String>,
    /// The account that authenticated.
    pub account: Option<Name>,
    /// The API key by which it was submitted.
    pub api_key: Option<String>,
}

/// What a request that submits mail is known by: the same key again is the same request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Idempotency {
    /// SHA-256 of who asked and the key that he gave.
    pub key: [u8; 32],
    /// SHA-256 of what he asked for.
    pub request: [u8; 32],
}

/// The door a message came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// SMTP after HELO.
    Smtp,
    /// SMTP after EHLO.
    Esmtp,
    /// A notification that the appliance wrote itself.
    Dsn,
    /// LMTP.
    Lmtp,
    /// `POST /messages`.
    Rest,
    /// A file in a pickup directory.
    Pickup,
    /// Brought in from elsewhere: an export of this or another appliance, an old mailroot.
    Import,
    /// A TLS report that the appliance wrote itself (RFC 8460).
    TlsReport,
}

/// One recipient and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recipient {
    /// The forward-path as the client gave it.
    pub forward_path: ForwardPath,
    /// The parameters of RCPT.
    pub parameters: RcptParameters,
    /// The directory's name of a local recipient; `None` for one that lives elsewhere.
    pub directory_name: Option<Name>,
    /// What became of it.
    pub status: RecipientStatus,
    /// Where it waits; `None` when it is done.
    pub waits: Option<Waits>,
    /// Failed attempts that count towards the retry intervals.
    pub attempts: u32,
    /// A delay notification was sent.
    pub delay_notified: bool,
    /// The last failure, also of an attempt that will be repeated.
    pub last_failure: Option<Failure>,
}

impl Recipient {
    /// Puts a new state in place.
    pub fn replace_state(&mut self, state: RecipientState) {
        self.status = state.status;
        self.directory_name = state.directory_name;
        self.waits = state.waits;
        self.attempts = state.attempts;
        self.delay_notified = state.delay_notified;
        self.last_failure = state.last_failure;
    }

    /// The part that a [`Change`] replaces.
    pub fn state(&self) -> RecipientState {
        RecipientState {
            status: self.status,
            directory_name: self.directory_name.clone(),
            waits: self.waits.clone(),
            attempts: self.attempts,
            delay_notified: self.delay_notified,
            last_failure: self.last_failure.clone(),
        }
    }
}

/// What became of a recipient. Frozen is a flag of the message, a lease is no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecipientStatus {
    /// Not done yet.
    Pending,
    /// In its mailbox store.
    Delivered,
    /// Taken by the next hop.
    Relayed,
    /// Became other recipients (a group, a forward).
    Expanded,
    /// Will not be delivered.
    Failed,
    /// Was not delivered in time.
    Expired,
}

/// Where a recipient waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waits {
    /// In which queue.
    pub queue: QueueName,
    /// Not to be tried before; in the dead-letter queue, when its retention ends.
    pub due: Timestamp,
}

/// The whole new state of one recipient. States, never increments: applying one twice is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientState {
    /// See [`Recipient::status`].
    pub status: RecipientStatus,
    /// See [`Recipient::directory_name`].
    pub directory_name: Option<Name>,
    /// See [`Recipient::waits`].
    pub waits: Option<Waits>,
    /// See [`Recipient::attempts`].
    pub attempts: u32,
    /// See [`Recipient::delay_notified`].
    pub delay_notified: bool,
    /// See [`Recipient::last_failure`].
    pub last_failure: Option<Failure>,
}

/// What changes in a message: resulting states by recipient index.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Change {
    /// New states.
    pub recipients: Vec<(u32, RecipientState)>,
    /// Freeze or thaw.
    pub frozen: Option<bool>,
    /// The connector that an operator has chosen, or that he chooses none any more.
    pub connector: Option<Option<Name>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(parameters: MailParameters) -> Message {
        Message {
            id: MessageId::generate(),
            received_at: Timestamp::from_millis(1_000_000),
            origin: Origin {
                protocol: Protocol::Esmtp,
                virtual_server: "default".parse().unwrap(),
                client: None,
                helo: None,
                account: None,
                api_key: None,
            },
            reverse_path: ReversePath::Null,
            parameters,
            size: 1,
            message_id_header: None,
            subject: None,
            frozen: false,
            connector: None,
            idempotency: None,
            recipients: Vec::new(),
        }
    }

    #[test]
    fn times_count_from_the_release() {
        let by = Some(DeliverBy { seconds: 60, mode: ByMode::Return, trace: false });
        let at = Timestamp::from_millis;
        for (hold, released) in [
            (None, 1_000_000),
            (Some(Hold::For(100)), 1_100_000),
            (Some(Hold::Until(2_000)), 2_000_000),
            (Some(Hold::Until(1)), 1_000_000),
            (Some(Hold::Until(i64::MAX)), i64::MAX),
        ] {
            let held = message(MailParameters { hold, ..MailParameters::default() });
            assert_eq!(held.released_at(), at(released), "{hold:?}");
            assert_eq!(held.due_at_once(at(1_000_000)), at(released));
        }
        let held = message(MailParameters { hold: Some(Hold::For(100)), deliver_by: by, ..MailParameters::default() });
        assert_eq!(held.deliver_by(), Some((at(1_160_000), ByMode::Return)));
        let passed_on = held.parameters_at(at(1_130_500));
        assert_eq!((passed_on.hold, passed_on.deliver_by.unwrap().seconds), (None, 29));
        assert_eq!(held.parameters_at(at(1_160_001)).deliver_by.unwrap().seconds, -1);
    }

    #[test]
    fn a_higher_priority_is_due_earlier_and_none_is_due_later() {
        let due = |priority| {
            let message = message(MailParameters { priority, ..MailParameters::default() });
            message.due_at_once(Timestamp::from_millis(1_795_000_000_000))
        };
        assert!(due(Some(9)) < due(Some(1)) && due(Some(1)) < due(None));
        assert_eq!(due(Some(-9)), due(None));
    }
}
