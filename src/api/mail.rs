//! Mail as REST shows it: queues, messages and their recipients. Shapes of the API, apart from what is stored, so that
//! the store may change without the API.

use serde::Serialize;
use serde_json::json;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, KnownFormat, Type};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

use crate::model::failure::Failure;
use crate::model::mail::{Message, Protocol, Recipient, RecipientStatus};
use crate::queue::operate;
use crate::smtp::parameters::ByMode;

/// A queue: what waits for one next hop, or one of the system queues.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = super::mail::queue_example)]
pub struct Queue {
    /// Its id: `smarthost:<connector>`, `dns:<connector>:<domain>`, `local:<mailbox store>`, `directory`,
    /// `unrouted`, `held` or `deadLetter`.
    id: String,
    /// What it is for.
    kind: QueueKind,
    /// What it does now.
    state: QueueState,
    /// The connector that carries it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    connector: Option<String>,
    /// Where its mail goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    next_hop: Option<String>,
    /// Messages with recipients that wait here.
    messages: u64,
    /// Their octets.
    bytes: u64,
    /// When the oldest of them was received.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, format = DateTime)]
    oldest: Option<String>,
    /// When the next attempt is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, format = DateTime)]
    next_retry: Option<String>,
    /// The last failure that concerned the whole queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    last_error: Option<DeliveryFailure>,
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum QueueKind {
    /// The smart hosts of a connector.
    SmartHost,
    /// One domain, by DNS.
    Dns,
    /// A mailbox store.
    Local,
    /// Mail for groups, contacts and forwards, until it is known who gets it.
    Directory,
    /// Mail that no connector carries now; it is routed again later.
    Unrouted,
    /// Mail that an operator holds (`/holds`).
    Held,
    /// Mail for which nothing more can be done, kept until its retention ends.
    DeadLetter,
}

/// What a queue does now.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum QueueState {
    /// Attempts are being made.
    Active,
    /// Something is due; an attempt begins as soon as there is room.
    Ready,
    /// It waits for the time of the next attempt.
    Retry,
    /// It waits until the schedule of its connector opens.
    Scheduled,
    /// It waits until somebody asks for it by ETRN or ATRN (`remoteTriggered` of its connector).
    Remote,
    /// Frozen by an operator: it accepts mail, and makes no attempt.
    Frozen,
    /// Its connector is suspended by an operator: the same.
    Suspended,
    /// It waits until the holds that mean it end.
    Held,
}

/// All queues.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueList {
    /// The queues of this page, by id.
    pub(super) items: Vec<Queue>,
    /// Give it as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub(super) next_cursor: Option<String>,
}

/// A message in the queue.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Message, example = super::mail::message_example)]
pub struct MessageResource {
    /// Its id.
    #[schema(format = "uuid")]
    id: String,
    /// Whether it waits for delivery, is frozen, or is a dead letter.
    state: MessageState,
    /// When its last octet had arrived.
    #[schema(format = DateTime)]
    received_at: String,
    /// Who brought it, and how.
    origin: MessageOrigin,
    /// The reverse-path (the envelope's sender); empty for the null reverse-path of notifications.
    sender: String,
    /// Octets of content.
    size: u64,
    /// The Message-ID field without angle brackets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    message_id: Option<String>,
    /// The Subject field, where `settings.subjectLogging` was on when it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    subject: Option<String>,
    /// The connector that an operator has chosen for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    connector: Option<String>,
    /// Its priority, -9 to 9 (MT-PRIORITY); 0 when nobody said.
    #[schema(minimum = -9, maximum = 9)]
    priority: i8,
    /// It waits until then, as the sender asked (FUTURERELEASE), or has been let go then, after a hold or out of the dead-letter
    /// queue: retries and expiry count from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, format = DateTime)]
    hold_until: Option<String>,
    /// When it should have been delivered, as the sender asked (DELIVERBY).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    deliver_by: Option<DeliverBy>,
    /// It goes only over verified TLS, to servers that promise the same (REQUIRETLS).
    require_tls: bool,
    /// The recipients (of the envelope), in the order in which they were given.
    recipients: Vec<MessageRecipient>,
}

/// When a message should have been delivered.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliverBy {
    /// The time.
    #[schema(format = DateTime)]
    time: String,
    /// What happens then.
    mode: DeliverByMode,
}

/// What happens to a message that was not delivered in time.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum DeliverByMode {
    /// It is returned.
    Return,
    /// The sender is told, and it is tried further.
    Notify,
}

/// The state of a whole message.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum MessageState {
    /// A recipient waits for an attempt.
    Queued,
    /// Frozen by an operator: no attempt is made.
    Frozen,
    /// All that waits is held by an operator (`/holds`).
    Held,
    /// All that waits, waits in the dead-letter queue.
    DeadLetter,
}

/// How a message came in.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageOrigin {
    /// By which door.
    protocol: OriginProtocol,
    /// The virtual server that took it; of notifications, the one that sends them.
    virtual_server: String,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    client: Option<String>,
    /// The name that the client gave itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    helo: Option<String>,
    /// The account that authenticated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    account: Option<String>,
    /// The API key by which it was submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    api_key: Option<String>,
}

/// The door that a message came in by.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum OriginProtocol {
    /// SMTP after HELO.
    Smtp,
    /// SMTP after EHLO.
    Esmtp,
    /// LMTP.
    Lmtp,
    /// A notification that the appliance wrote itself.
    Dsn,
    /// `POST /messages`.
    Rest,
    /// A file in a pickup directory.
    Pickup,
    /// Brought in from elsewhere.
    Import,
    /// A TLS report that the appliance wrote itself.
    TlsReport,
}

/// A recipient of a message, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageRecipient {
    /// The forward-path.
    address: String,
    /// What became of it.
    status: DeliveryStatus,
    /// The queue that it waits in; absent when it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    queue: Option<String>,
    /// No attempt is made before (what else it waits for `GET /tracking/whereabouts` says); in the dead-letter queue, when it is removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, format = DateTime)]
    next_attempt: Option<String>,
    /// Attempts that failed.
    attempts: u32,
    /// The last failure, also of an attempt that will be repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    last_failure: Option<DeliveryFailure>,
}

/// What became of a recipient.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum DeliveryStatus {
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

/// A failed attempt.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryFailure {
    /// Whom it concerns, and so what waits.
    scope: FailureScope,
    /// The enhanced status code (RFC 3463).
    #[schema(example = "4.4.1")]
    status: String,
    /// True when trying again makes no sense.
    permanent: bool,
    /// The remote server's words, or ours.
    diagnostic: String,
    /// The reply code, when the words are a remote server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, minimum = 200, maximum = 599)]
    remote_code: Option<u16>,
    /// The next hop that said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    remote_mta: Option<String>,
}

/// Whom a failure concerns.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum FailureScope {
    /// One connection; another one may do.
    Session,
    /// The next hop: everything for it waits.
    Host,
    /// This message, for all recipients of the attempt.
    Message,
    /// One recipient.
    Recipient,
}

/// A page of messages.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageList {
    /// The messages of this page, in the order that was asked for.
    pub(super) items: Vec<MessageResource>,
    /// Give it as `cursor` to get the next page; absent on the last one. A short, even an empty, page can have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub(super) next_cursor: Option<String>,
    /// How many messages were looked at for this page; a call looks at no more than 20,000, and for no longer than some 40 ms.
    pub(super) scanned: u64,
}

/// What happened to a message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageEventList {
    /// The events of this page, oldest first.
    pub(super) items: Vec<MessageEvent>,
    /// Give it as `cursor` to get the next page; absent on the last one. A short, even an empty, page can have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub(super) next_cursor: Option<String>,
}

/// One event in the life of a message, as message tracking has it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct MessageEvent(pub(super) serde_json::Value);

impl PartialSchema for MessageEvent {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let recipients = ArrayBuilder::new().items(text()).description(Some("The recipients that it concerns."));
        let part = "Of several events `received`, `resolved`, `routed`, `held` or `rejected` with all recipients together, which one \
                    this is, from 2 on: one names at most 50.";
        let part = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(2)).description(Some(part));
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some("One event in the life of a message. What there is besides depends on the event."))
            .property("id", text().description(Some("Its place in message tracking; only in answers of `/tracking`.")))
            .property("message", text().description(Some("The message's id; absent when none was taken.")))
            .property("sender", text().description(Some("The reverse-path.")))
            .property("recipients", recipients)
            .property("part", part)
            .property("virtualServer", text().description(Some("The virtual server that took the message.")))
            .property("connector", text().description(Some("The connector that carries it.")))
            .property("queue", text().description(Some("The queue that it waits in.")))
            .property("nextHop", text().description(Some("The host that it was tried at.")))
            .property("reply", text().description(Some("What that host said.")))
            .property(
                "at",
                text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).description(Some("When.")),
            )
            .property("event", text().description(Some("What happened. v1 may add words.")))
            .required("at")
            .required("event")
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .examples([json!({
                "at": "2026-11-24T10:15:02.480Z", "event": "deferred", "message": "019c3a51-7b3e-7d11-9c7e-2f60b1a4d5e6",
                "recipients": ["ada@example.com"], "queue": "dns:default:example.com",
                "failure": {"scope": "recipient", "status": "4.2.0", "diagnostic": "450 4.2.0 greylisted",
                    "remoteCode": 450, "remoteMta": "mx.example.com (192.0.2.25:25)"},
                "nextAttempt": "2026-11-24T10:16:02.480Z", "durationMs": 120
            })])
            .into()
    }
}

impl ToSchema for MessageEvent {}

impl From<operate::QueueView> for Queue {
    fn from(view: operate::QueueView) -> Self {
        Queue {
            id: view.id.to_string(),
            kind: match view.kind {
                operate::QueueKind::SmartHost => QueueKind::SmartHost,
                operate::QueueKind::Dns => QueueKind::Dns,
                operate::QueueKind::Local => QueueKind::Local,
                operate::QueueKind::Directory => QueueKind::Directory,
                operate::QueueKind::Unrouted => QueueKind::Unrouted,
                operate::QueueKind::Held => QueueKind::Held,
                operate::QueueKind::DeadLetter => QueueKind::DeadLetter,
            },
            state: match view.state {
                operate::QueueState::Active => QueueState::Active,
                operate::QueueState::Ready => QueueState::Ready,
                operate::QueueState::Retry => QueueState::Retry,
                operate::QueueState::Scheduled => QueueState::Scheduled,
                operate::QueueState::Remote => QueueState::Remote,
                operate::QueueState::Frozen => QueueState::Frozen,
                operate::QueueState::Suspended => QueueState::Suspended,
                operate::QueueState::Held => QueueState::Held,
            },
            connector: view.connector.map(|name| name.to_string()),
            next_hop: view.next_hop,
            messages: view.messages,
            bytes: view.bytes,
            oldest: view.oldest.map(|time| time.to_string()),
            next_retry: view.next_retry.map(|time| time.to_string()),
            last_error: view.last_error.as_ref().map(DeliveryFailure::from),
        }
    }
}

impl From<&Message> for MessageResource {
    fn from(message: &Message) -> Self {
        MessageResource {
            id: message.id.to_string(),
            state: match operate::MessageState::of(message) {
                operate::MessageState::Queued => MessageState::Queued,
                operate::MessageState::Frozen => MessageState::Frozen,
                operate::MessageState::Held => MessageState::Held,
                operate::MessageState::DeadLetter => MessageState::DeadLetter,
            },
            received_at: message.received_at.to_string(),
            origin: MessageOrigin {
                protocol: match message.origin.protocol {
                    Protocol::Smtp => OriginProtocol::Smtp,
                    Protocol::Esmtp => OriginProtocol::Esmtp,
                    Protocol::Lmtp => OriginProtocol::Lmtp,
                    Protocol::Dsn => OriginProtocol::Dsn,
                    Protocol::Rest => OriginProtocol::Rest,
                    Protocol::Pickup => OriginProtocol::Pickup,
                    Protocol::Import => OriginProtocol::Import,
                    Protocol::TlsReport => OriginProtocol::TlsReport,
                },
                virtual_server: message.origin.virtual_server.to_string(),
                client: message.origin.client.map(|address| address.to_string()),
                helo: message.origin.helo.clone(),
                account: message.origin.account.as_ref().map(ToString::to_string),
                api_key: message.origin.api_key.clone(),
            },
            sender: message.reverse_path.mailbox().map(ToString::to_string).unwrap_or_default(),
            size: message.size,
            message_id: message.message_id_header.clone(),
            subject: message.subject.clone(),
            connector: message.connector.as_ref().map(ToString::to_string),
            priority: message.priority(),
            hold_until: message.parameters.hold.map(|_| message.released_at().to_string()),
            deliver_by: message.deliver_by().map(|(time, mode)| DeliverBy {
                time: time.to_string(),
                mode: match mode {
                    ByMode::Return => DeliverByMode::Return,
                    ByMode::Notify => DeliverByMode::Notify,
                },
            }),
            require_tls: message.parameters.require_tls,
            recipients: message.recipients.iter().map(|recipient| MessageRecipient::of(message, recipient)).collect(),
        }
    }
}

impl MessageRecipient {
    fn of(message: &Message, recipient: &Recipient) -> Self {
        MessageRecipient {
            address: recipient.forward_path.to_string(),
            status: match recipient.status {
                RecipientStatus::Pending => DeliveryStatus::Pending,
                RecipientStatus::Delivered => DeliveryStatus::Delivered,
                RecipientStatus::Relayed => DeliveryStatus::Relayed,
                RecipientStatus::Expanded => DeliveryStatus::Expanded,
                RecipientStatus::Failed => DeliveryStatus::Failed,
                RecipientStatus::Expired => DeliveryStatus::Expired,
            },
            queue: recipient.waits.as_ref().map(|waits| waits.queue.to_string()),
            // a priority is kept as a due time in the past
            next_attempt: recipient.waits.as_ref().map(|waits| waits.due.max(message.received_at).to_string()),
            attempts: recipient.attempts,
            last_failure: recipient.last_failure.as_ref().map(DeliveryFailure::from),
        }
    }
}

impl From<&Failure> for DeliveryFailure {
    fn from(failure: &Failure) -> Self {
        use crate::model::failure::Scope;
        DeliveryFailure {
            scope: match failure.scope {
                Scope::Session => FailureScope::Session,
                Scope::Host => FailureScope::Host,
                Scope::Message => FailureScope::Message,
                Scope::Recipient => FailureScope::Recipient,
            },
            status: failure.status.to_string(),
            permanent: failure.is_permanent(),
            diagnostic: failure.diagnostic.clone(),
            remote_code: failure.remote_code,
            remote_mta: failure.remote_mta.clone(),
        }
    }
}

/// An example of a queue.
pub(super) fn queue_example() -> serde_json::Value {
    json!({
        "id": "dns:default:example.com", "kind": "dns", "state": "retry", "connector": "default",
        "nextHop": "example.com", "messages": 3, "bytes": 18_422, "oldest": "2026-11-24T10:15:02.113Z",
        "nextRetry": "2026-11-24T10:30:02.480Z", "lastError": failure_example()
    })
}

/// An example of a message.
pub(super) fn message_example() -> serde_json::Value {
    json!({
        "id": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11", "state": "queued", "receivedAt": "2026-11-24T10:15:02.113Z",
        "origin": {"protocol": "esmtp", "virtualServer": "default", "client": "10.1.2.3", "helo": "app-7.local"},
        "sender": "orders@example.net", "size": 6_140, "messageId": "20261124101502.7@example.net", "priority": 0, "requireTls": false,
        "recipients": [{
            "address": "ada@example.com", "status": "pending", "queue": "dns:default:example.com",
            "nextAttempt": "2026-11-24T10:30:02.480Z", "attempts": 1, "lastFailure": failure_example()
        }]
    })
}

fn failure_example() -> serde_json::Value {
    json!({
        "scope": "host", "status": "4.4.1", "permanent": false, "diagnostic": "connection refused",
        "remoteMta": "mx1.example.com"
    })
}
