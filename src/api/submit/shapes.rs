//! What a request to send mail is made of, and its answer. A message in JSON is in [`letter`](crate::api::letter).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Required, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::{MAX_BATCH, MAX_KEY};
use crate::api::codes::RequestCode;
use crate::api::letter::{MessageSubmission, NotifyOn, ReturnedPart, SubmittedDsn, bounded};
use crate::api::problem::Problem;
use crate::api::query::{self, FromQuery, Query};
use crate::intake::submit::Taken;
use crate::model::duration::Duration;
use crate::smtp::address::ReversePath;

/// `message/rfc822`: a message as RFC 5322 and MIME write it.
pub struct RawMessage;

impl PartialSchema for RawMessage {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
            .content_media_type("message/rfc822")
            .description(Some(
                "A message as RFC 5322 and MIME write it, octet for octet. When it is sent, lines may end in CRLF or LF, \
                 Bcc fields are taken out, Date and Message-ID are added where they are missing; nothing else is changed.",
            ))
            .into()
    }
}

impl ToSchema for RawMessage {}

/// A message that was taken.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = submitted_example)]
pub struct SubmittedMessage {
    /// Its id.
    #[schema(format = "uuid")]
    pub(super) id: String,
    /// Its Message-ID, without angle brackets.
    pub(super) message_id: String,
    /// When it was received.
    #[schema(format = DateTime)]
    pub(super) received_at: String,
    /// Octets of content, with our trace field.
    pub(super) size: u64,
    /// It waits till then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, format = DateTime)]
    pub(super) hold_until: Option<String>,
    /// The recipients that were taken. Addresses of one mailbox are one recipient.
    pub(super) recipients: Vec<AcceptedRecipient>,
    /// With `partial`: those that were refused. A repeated answer has them no more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(super) refused: Vec<RefusedRecipient>,
    /// Where to look for it.
    pub(super) links: SubmittedLinks,
}

/// A recipient that was taken.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedRecipient {
    /// The forward-path.
    pub(super) address: String,
    /// The queue that it waited in first.
    pub(super) queue: String,
}

/// A recipient that was refused.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedRecipient {
    /// The forward-path.
    pub(super) address: String,
    /// The rule that refused it.
    pub(super) rule: String,
    /// What a client would have been told by SMTP.
    pub(super) reply: String,
}

/// Where to look for a message.
#[derive(Debug, Serialize, ToSchema)]
pub struct SubmittedLinks {
    /// The message, while it is here.
    pub(super) message: String,
    /// What happened to it.
    pub(super) events: String,
}

/// Messages to send, each for itself.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = batch_example)]
pub struct MessageBatch {
    /// The messages.
    #[serde(deserialize_with = "bounded::<_, _, MAX_BATCH>")]
    #[schema(min_items = 1, max_items = 500)]
    pub(super) messages: Vec<BatchedMessage>,
}

/// One message of a batch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchedMessage {
    /// The message.
    pub(super) message: MessageSubmission,
    /// What the header `Idempotency-Key` is to a single message.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub(super) idempotency_key: Option<String>,
    /// It is to be taken for some recipients when it cannot be for all.
    #[serde(default)]
    #[schema(default = false)]
    pub(super) partial: bool,
}

/// What came of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchResult {
    /// So many messages were taken.
    pub(super) accepted: usize,
    /// So many were not.
    pub(super) refused: usize,
    /// For each message what came of it, in order.
    pub(super) items: Vec<BatchItem>,
}

/// What came of one message of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchItem {
    /// The status that it would have had by itself: 202 when it was taken.
    #[schema(minimum = 200, maximum = 599)]
    pub(super) status: u16,
    /// The message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub(super) message: Option<SubmittedMessage>,
    /// True: it was taken before, by a request with the same key.
    pub(super) replayed: bool,
    /// When it is worth to come again with it: what `Retry-After` would have said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub(super) retry_after: Option<Duration>,
    /// Why it was not taken; pointers begin at the item.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub(super) problem: Option<Problem>,
}

/// `Idempotency-Key`, as OpenAPI describes it.
pub(super) struct IdempotencyKey;

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(MAX_KEY));
        let about = "A text of your own (a UUID, the number of an order) that makes it safe to repeat the request: for 24 \
                     hours the same key is the same message, also over a crash. With another request it is 409.";
        vec![
            ParameterBuilder::new()
                .name("Idempotency-Key")
                .parameter_in(ParameterIn::Header)
                .required(Required::False)
                .schema(Some(text))
                .description(Some(about))
                .example(Some(json!("order-4711")))
                .build(),
        ]
    }
}

/// `traceparent`, as OpenAPI describes it.
pub(super) struct TraceContext;

impl IntoParams for TraceContext {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let text = ObjectBuilder::new().schema_type(Type::String).max_length(Some(255));
        let about = "Where the request is in a trace of yours (W3C Trace Context): the trace of the message links to it \
                     (`settings.tracing`), and its event `received` has it. One that cannot be read counts as not given.";
        vec![
            ParameterBuilder::new()
                .name("traceparent")
                .parameter_in(ParameterIn::Header)
                .required(Required::False)
                .schema(Some(text))
                .description(Some(about))
                .example(Some(json!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")))
                .build(),
        ]
    }
}

/// How a message is to be taken; with `message/rfc822` also its envelope.
#[derive(Debug)]
pub struct SubmitParams {
    pub(super) partial: bool,
    pub(super) from: Option<ReversePath>,
    pub(super) to: Option<String>,
    pub(super) virtual_server: Option<String>,
    pub(super) send_at: Option<String>,
    pub(super) priority: Option<i64>,
    pub(super) dsn: SubmittedDsn,
    /// What only `message/rfc822` takes, of what is given.
    pub(super) raw: Vec<&'static str>,
}

/// Parameters that in JSON are members of the body.
const RAW_ONLY: [&str; 8] = ["from", "to", "virtualServer", "sendAt", "priority", "notify", "ret", "envelopeId"];

impl IntoParams for SubmitParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let raw = |what: &str| format!("With `message/rfc822`: {what}");
        let priority = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(-9)).maximum(Some(9));
        vec![
            query::flag("partial", "Take it for some recipients when it cannot be taken for all.", false),
            query::text(
                "from",
                &raw("the envelope's sender, or `<>`. Default: the address of Sender, else of From."),
                "bounces@example.com",
            ),
            query::text(
                "to",
                &raw("the envelope's recipients, with commas between them. Default: those of To, Cc and Bcc."),
                "bob@example.net,ada@example.org",
            ),
            query::text(
                "virtualServer",
                &raw("the virtual server that takes it. Default: `settings.defaultVirtualServer`."),
                "default",
            ),
            query::text(
                "sendAt",
                &raw("when it is to be sent (RFC 3339), at most 45 days from now."),
                "2026-12-01T08:00:00Z",
            ),
            query::parameter("priority", priority, &raw("from -9 to 9 (MT-PRIORITY)."), json!(0)),
            query::text(
                "notify",
                &raw("`never`, or `success`, `failure` and `delay` with commas between them."),
                "success,failure",
            ),
            query::parameter(
                "ret",
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["full", "headers"])),
                &raw("how much of it comes back with a failure."),
                json!("headers"),
            ),
            query::text("envelopeId", &raw("comes back in notifications; printable ASCII."), "order-4711"),
        ]
    }
}

impl FromQuery for SubmitParams {
    fn from_query(query: &mut Query) -> Self {
        let raw = RAW_ONLY.into_iter().filter(|name| query.get::<String>(name).is_some()).collect();
        let notify = query.get::<String>("notify").map(|words| {
            let mut on = Vec::new();
            for word in words.split(',').filter(|word| *word != "never") {
                match word {
                    "success" => on.push(NotifyOn::Success),
                    "failure" => on.push(NotifyOn::Failure),
                    "delay" => on.push(NotifyOn::Delay),
                    _ => query.refuse("notify", RequestCode::InvalidParameter, "never, success, failure or delay"),
                }
            }
            on
        });
        let ret = query.get::<String>("ret").and_then(|word| match word.as_str() {
            "full" => Some(ReturnedPart::Full),
            "headers" => Some(ReturnedPart::Headers),
            _ => {
                query.refuse("ret", RequestCode::InvalidParameter, "full or headers");
                None
            }
        });
        SubmitParams {
            partial: query.get("partial").unwrap_or(false),
            from: query.get("from"),
            to: query.get("to"),
            virtual_server: query.get("virtualServer"),
            send_at: query.get("sendAt"),
            priority: query.get("priority"),
            dsn: SubmittedDsn::new(notify, ret, query.get("envelopeId")),
            raw,
        }
    }
}

impl SubmittedMessage {
    pub(super) fn new(taken: Taken, refused: Vec<RefusedRecipient>) -> Self {
        let Taken { id, at, receipt } = taken;
        let recipients = receipt.recipients.into_iter();
        SubmittedMessage {
            id: id.to_string(),
            message_id: receipt.message_id.unwrap_or_default(),
            received_at: at.to_string(),
            size: receipt.size,
            hold_until: receipt.held_until.map(|until| until.to_string()),
            recipients: recipients.map(|(address, queue)| AcceptedRecipient { address, queue }).collect(),
            refused,
            links: SubmittedLinks {
                message: format!("/api/v1/messages/{id}"),
                events: format!("/api/v1/messages/{id}/events"),
            },
        }
    }
}

pub(super) fn raw_example() -> Value {
    json!("From: ada@example.com\r\nTo: bob@example.net\r\nSubject: Hello\r\n\r\nHello, Bob.\r\n")
}

pub(super) fn submitted_example() -> Value {
    json!({
        "id": "019c3a51-7b3e-7d11-9c7e-2f60b1a4d5e6",
        "messageId": "019c3a51-7b3e-7d11-9c7e-2f60b1a4d5e6@mail.example.com",
        "receivedAt": "2026-11-29T10:15:02.113Z", "size": 1712,
        "recipients": [{"address": "bob@example.net", "queue": "dns:default:example.net"}],
        "links": {
            "message": "/api/v1/messages/019c3a51-7b3e-7d11-9c7e-2f60b1a4d5e6",
            "events": "/api/v1/messages/019c3a51-7b3e-7d11-9c7e-2f60b1a4d5e6/events"
        }
    })
}

pub(super) fn batch_example() -> Value {
    let message = |to: &str| json!({"from": "orders@example.com", "to": [to], "subject": "Hello", "text": "Hello."});
    json!({"messages": [
        {"message": message("bob@example.net"), "idempotencyKey": "hello-1"},
        {"message": message("nobody@example.com"), "idempotencyKey": "hello-2"}
    ]})
}

pub(super) fn batch_result_example() -> Value {
    let detail = "550 5.1.1 No such recipient here";
    json!({"accepted": 1, "refused": 1, "items": [
        {"status": 202, "replayed": false, "message": submitted_example()},
        {"status": 422, "replayed": false, "problem": {
            "type": "urn:bridgehead:problem:invalid",
            "title": "The request is understood, but what it asks for is not valid",
            "status": 422, "detail": format!("{detail}; nothing was sent"),
            "errors": [{"pointer": "/message/to/0", "code": "refused", "detail": format!("{detail} (unknownRecipient)")}]
        }}
    ]})
}
