//! `POST /messages` and `POST /messages/batch`: mail from programs.
//!
//! The shapes are in [`super::letter`]; the way a message goes is `intake::submit`'s: the rules, queues and durability of SMTP.
//! 202 means what 250 means there: synced. A request with an `Idempotency-Key` is answered again, for 24 hours, with what the
//! first one has brought.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, post, web};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Required, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::auth::{self, Principal};
use super::body;
use super::codes::RequestCode;
use super::errors::SubmitErrors;
use super::large_body::{Chunks, announced, too_large};
use super::letter::{self, Envelope, Judged, MessageSubmission, NotifyOn, ReturnedPart, SubmittedDsn, Wrong, bounded};
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{self, FromQuery, NoParams, Params, Query};
use super::queues::store_problem;
use super::server::{RequestId, State};
use crate::config::{ViolationCode, VirtualServer};
use crate::intake::compose::compose;
use crate::intake::raw::{Head, RawError, Read, Reader};
use crate::intake::submit::{Claim, Claimed, NotTaken, Submission, Submitting, Taken};
use crate::intake::{Refusal, Requested, Submitter};
use crate::model::mail::Idempotency;
use crate::model::name::Name;
use crate::model::spec::account::AccountQuotas;
use crate::model::trace_parent::TraceParent;
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::parameters::{Body, RcptParameters};
use crate::store::Seen;

const JSON: &str = "application/json";
const RFC822: &str = "message/rfc822";
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest key.
const MAX_KEY: usize = 255;
/// Most messages of a batch, and how many of them are under way at a time.
const MAX_BATCH: usize = 500;
const AT_A_TIME: usize = 16;
/// What a body in JSON may have beside the base64 of a message.
const BESIDE: u64 = 1 << 20;
/// From so many octets on, work on a body is not done on the thread of the API.
const HEAVY: usize = 128 << 10;
/// Content goes into the store in chunks of this size.
const CHUNK: usize = 64 << 10;

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
    id: String,
    /// Its Message-ID, without angle brackets.
    message_id: String,
    /// When it was received.
    #[schema(format = DateTime)]
    received_at: String,
    /// Octets of content, with our trace field.
    size: u64,
    /// It waits till then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, format = DateTime)]
    hold_until: Option<String>,
    /// The recipients that were taken. Addresses of one mailbox are one recipient.
    recipients: Vec<AcceptedRecipient>,
    /// With `partial`: those that were refused. A repeated answer has them no more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    refused: Vec<RefusedRecipient>,
    /// Where to look for it.
    links: SubmittedLinks,
}

/// A recipient that was taken.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedRecipient {
    /// The forward-path.
    address: String,
    /// The queue that it waited in first.
    queue: String,
}

/// A recipient that was refused.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedRecipient {
    /// The forward-path.
    address: String,
    /// The rule that refused it.
    rule: String,
    /// What a client would have been told by SMTP.
    reply: String,
}

/// Where to look for a message.
#[derive(Debug, Serialize, ToSchema)]
pub struct SubmittedLinks {
    /// The message, while it is here.
    message: String,
    /// What happened to it.
    events: String,
}

/// Messages to send, each for itself.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = batch_example)]
pub struct MessageBatch {
    /// The messages.
    #[serde(deserialize_with = "bounded::<_, _, MAX_BATCH>")]
    #[schema(min_items = 1, max_items = 500)]
    messages: Vec<BatchedMessage>,
}

/// One message of a batch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchedMessage {
    /// The message.
    message: MessageSubmission,
    /// What the header `Idempotency-Key` is to a single message.
    #[serde(default)]
    #[schema(max_length = 255)]
    idempotency_key: Option<String>,
    /// It is to be taken for some recipients when it cannot be for all.
    #[serde(default)]
    #[schema(default = false)]
    partial: bool,
}

/// What came of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchResult {
    /// So many messages were taken.
    accepted: usize,
    /// So many were not.
    refused: usize,
    /// For each message what came of it, in order.
    items: Vec<BatchItem>,
}

/// What came of one message of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchItem {
    /// The status that it would have had by itself: 202 when it was taken.
    #[schema(minimum = 200, maximum = 599)]
    status: u16,
    /// The message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    message: Option<SubmittedMessage>,
    /// True: it was taken before, by a request with the same key.
    replayed: bool,
    /// Why it was not taken; pointers begin at the item.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    problem: Option<Problem>,
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
    partial: bool,
    from: Option<ReversePath>,
    to: Option<String>,
    virtual_server: Option<String>,
    send_at: Option<String>,
    priority: Option<i64>,
    dsn: SubmittedDsn,
    /// What only `message/rfc822` takes, of what is given.
    raw: Vec<&'static str>,
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

/// Send a message
///
/// In JSON, of which a message is made; or as `message/rfc822`, which goes as it is. It passes the rules and takes the ways of
/// mail by SMTP; an API key that may send may send to any domain. **202 means that the message is durable**: from then on it is
/// delivered, or its sender is told, or it is in the dead-letter queue. When a recipient is refused, nothing is sent and the answer
/// says why, for each (422); with `partial=true` it is sent to the others. A message has at most
/// `messages.maxSize` of its virtual server (413). Scope: `messages:send`.
#[utoipa::path(
    tag = "messages",
    operation_id = "sendMessage",
    params(SubmitParams, IdempotencyKey, TraceContext),
    request_body(
        description = "The message.",
        content(
            (MessageSubmission = "application/json", example = letter::example),
            (RawMessage = "message/rfc822", example = raw_example),
        ),
    ),
    responses(
        (status = 202, description = "It is durable, and on its way.", body = SubmittedMessage,
            headers(
                ("Location" = String, description = "The message."),
                ("Idempotency-Replayed" = String, description = "`true`: an earlier request with the same key has brought it.")
            ),
            example = submitted_example),
        SubmitErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("messages:send")))
)]
#[post("/messages")]
pub async fn send_message(
    request: HttpRequest,
    payload: web::Payload,
    params: Params<SubmitParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    body::require_type(&request, &[JSON, RFC822])?;
    let key = key_of(&request)?;
    let caller = Caller::of(&request);
    let type_of = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let answer = if type_of.trim_start().to_ascii_lowercase().starts_with(RFC822) {
        raw(&request, payload, params.0, &state, &caller, key.as_deref()).await?
    } else {
        if !params.0.raw.is_empty() {
            let wrong = params.0.raw.iter().map(|name| {
                let detail = "it goes with message/rfc822; in JSON it is a member of the body";
                FieldError::parameter(*name, RequestCode::InvalidParameter, detail)
            });
            let detail = format!("wrong parameters: {}", params.0.raw.join(", "));
            return Err(Problem::new(ProblemKind::BadParameter, detail).with_errors(wrong.collect()));
        }
        let held = state.bodies.read(&request, payload, json_limit(&state)).await?;
        let (octets, _room) = (held.octets, held.room);
        let asked: MessageSubmission = apart(octets.len(), move || parse(&octets)).await??;
        one(&state, &caller, asked, params.0.partial, key.as_deref(), "").await?
    };
    let location = answer.submitted.links.message.clone();
    let mut response = HttpResponse::Accepted();
    response.insert_header((header::LOCATION, location));
    if answer.replayed {
        response.insert_header((REPLAYED, "true"));
    }
    Ok(response.json(answer.submitted))
}

/// Send up to 500 messages
///
/// Each for itself: what comes of one is nothing to the others, and the answer says for each what came of it, with the status that
/// it would have had by itself. A message may have an `idempotencyKey`, which is the same as the header of a single one (give
/// each one of its own, and the whole batch can be repeated). Only a body that has not this shape is refused as a whole.
/// Scope: `messages:send`.
#[utoipa::path(
    tag = "messages",
    operation_id = "sendMessages",
    params(TraceContext),
    request_body(content = MessageBatch, content_type = "application/json", description = "The messages.", example = batch_example),
    responses(
        (status = 200, description = "What came of each.", body = BatchResult, example = batch_result_example),
        SubmitErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("messages:send")))
)]
#[post("/messages/batch")]
pub async fn send_messages(
    request: HttpRequest,
    payload: web::Payload,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    body::require_type(&request, &[JSON])?;
    if request.headers().contains_key(KEY) {
        let detail = "a batch has no key; each of its messages can have an idempotencyKey";
        return Err(bad_key(detail));
    }
    let caller = Caller::of(&request);
    let held = state.bodies.read(&request, payload, json_limit(&state)).await?;
    let (octets, _room) = (held.octets, held.room);
    let batch: MessageBatch = apart(octets.len(), move || parse(&octets)).await??;
    if batch.messages.is_empty() {
        let wrong = FieldError::at("/messages", ViolationCode::Required, "at least one message is needed");
        return Err(Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(vec![wrong]));
    }
    let each = batch.messages.into_iter().map(|BatchedMessage { message, idempotency_key, partial }| {
        let (state, caller) = (&state, &caller);
        async move {
            if let Some(wrong) = idempotency_key.as_deref().filter(|key| !is_key(key)) {
                let detail = format!("1 to {MAX_KEY} printable ASCII characters, not {} octets of others", wrong.len());
                let wrong = FieldError::at("/idempotencyKey", ViolationCode::InvalidValue, detail);
                return Err(Problem::new(ProblemKind::Invalid, "the message is not valid").with_errors(vec![wrong]));
            }
            one(state, caller, message, partial, idempotency_key.as_deref(), "/message").await
        }
    });
    let results: Vec<Result<Answer, Problem>> = futures_util::stream::iter(each).buffered(AT_A_TIME).collect().await;
    let accepted = results.iter().filter(|result| result.is_ok()).count();
    let items: Vec<BatchItem> = results.into_iter().map(BatchItem::from).collect();
    Ok(HttpResponse::Ok().json(BatchResult { accepted, refused: items.len() - accepted, items }))
}

/// Who submits.
struct Caller {
    by: Arc<Submitter>,
    client: IpAddr,
    encrypted: bool,
    requested: Requested,
}

impl Caller {
    fn of(request: &HttpRequest) -> Self {
        let by = auth::caller(request).as_ref().map(submitter);
        Caller {
            by: Arc::new(by.unwrap_or(Submitter {
                api_key: String::new(),
                send_as: Some(Vec::new()),
                quotas: AccountQuotas::default(),
            })),
            // by the socket on this machine there is no address
            client: request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip().to_canonical()),
            encrypted: request.app_config().secure(),
            requested: Requested {
                id: request.extensions().get::<RequestId>().map(|id| id.0.clone()),
                trace: trace_of(request),
            },
        }
    }

    /// What a request of this caller is known by.
    fn known_by(&self, key: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.by.api_key.as_bytes());
        hash.update([0]);
        hash.update(key.as_bytes());
        hash.finalize().into()
    }
}

/// Where the request is in a trace. One that cannot be read counts as not given (W3C Trace Context, 3.2.2.5), as do several.
fn trace_of(request: &HttpRequest) -> Option<TraceParent> {
    let mut given = request.headers().get_all(TRACEPARENT);
    let one = given.next().filter(|_| given.next().is_none())?;
    one.to_str().ok()?.trim().parse().ok()
}

/// What the holder of a key may send. The one place where a key's sender rules come in.
fn submitter(principal: &Principal) -> Submitter {
    Submitter { api_key: principal.name.clone(), send_as: principal.send_as.clone(), quotas: principal.quotas.clone() }
}

/// What came of a message that was taken.
struct Answer {
    submitted: SubmittedMessage,
    replayed: bool,
}

/// Takes one message in JSON. `prefix`: where it stands in the body.
async fn one(
    state: &State,
    caller: &Caller,
    asked: MessageSubmission,
    partial: bool,
    key: Option<&str>,
    prefix: &'static str,
) -> Result<Answer, Problem> {
    let submit = &state.handles.submit;
    let claim = match key {
        None => None,
        Some(key) => {
            let request = request_hash(&asked, partial);
            let idempotency = Idempotency { key: caller.known_by(key), request };
            match claimed(state, idempotency).await? {
                Ok(claim) => Some((claim, idempotency)),
                Err(seen) => return replay(seen, &request),
            }
        }
    };
    let server = server(state, asked.virtual_server.as_deref(), |detail| {
        FieldError::at(format!("{prefix}/virtualServer"), ViolationCode::UnknownReference, detail)
    })?;
    let now = submit.now();
    let judging = server.clone();
    let judged = apart(asked.weight(), move || {
        let mut wrong = Wrong::new(prefix);
        asked.judge(&judging, now, &mut wrong).ok_or(wrong.errors)
    });
    let Judged { letter, message_id, envelope } = judged.await?.map_err(|wrong| {
        let count = wrong.len();
        let detail = format!("{count} {} wrong; nothing was sent", if count == 1 { "thing is" } else { "things are" });
        Problem::new(ProblemKind::Invalid, detail).with_errors(wrong)
    })?;
    let places = Places { recipients: envelope.places.clone(), sender: format!("{prefix}/from") };
    let paths: Vec<String> = envelope.recipients.iter().map(|(path, _)| path.to_string()).collect();
    let mut under_way = begin(state, caller, &server, envelope, partial, &places).await?;
    let message_id = message_id.unwrap_or_else(|| format!("{}@{}", under_way.id(), server.fqdn.as_str()));
    let composing = message_id.clone();
    let content = apart(letter.weight(), move || compose(letter, &composing, now)).await?;
    let mut content = content.map_err(|error| Problem::internal(&error))?;
    while !content.is_empty() {
        let chunk = content.split_to(content.len().min(CHUNK));
        under_way.content(chunk).await.map_err(|error| problem(error, &places))?;
    }
    let refused = refused(&*under_way, &paths);
    let taken = under_way.commit(Body::SevenBit, claim).await.map_err(|error| problem(error, &places))?;
    Ok(Answer { submitted: SubmittedMessage::new(taken, refused), replayed: false })
}

/// Takes a message as it comes.
async fn raw(
    request: &HttpRequest,
    payload: web::Payload,
    params: SubmitParams,
    state: &State,
    caller: &Caller,
    key: Option<&str>,
) -> Result<Answer, Problem> {
    let server = server(state, params.virtual_server.as_deref(), |detail| {
        FieldError::parameter("virtualServer", ViolationCode::UnknownReference, detail)
    });
    // what was taken once is told again, whatever has become of the server
    let most = server.as_ref().map_or(u64::MAX, |server| server.spec.messages.max_size.bytes());
    if announced(request).is_some_and(|size| size > most) {
        return Err(too_large(most));
    }
    let claim = match key {
        None => None,
        Some(key) => Some((claimed_raw(state, caller.known_by(key)).await?, caller.known_by(key))),
    };
    let mut hash = Sha256::new();
    hash.update(RFC822);
    hash.update(request.query_string().as_bytes());
    hash.update([0]);
    let mut chunks = Chunks::new(payload, announced(request).unwrap_or(most.min(1 << 30)));
    let claim = match claim {
        Some((Claimed::Seen(seen), _)) => {
            let mut left = seen_limit(most);
            while let Some(chunk) = chunks.next().await? {
                left = left.checked_sub(chunk.len() as u64).ok_or_else(|| too_large(most))?;
                hash.update(&chunk);
            }
            return replay(seen, &hash.finalize().into());
        }
        Some((Claimed::First(claim), key)) => Some((claim, key)),
        None => None,
    };
    let server = server?;
    let mut reader = Reader::default();
    let mut way: Option<Way> = None;
    while let Some(chunk) = chunks.next().await? {
        hash.update(&chunk);
        let read = reader.feed(&chunk).map_err(|error| raw_problem(&error))?;
        pass(&mut way, read, &params, state, caller, &server).await?;
    }
    let read = reader.finish().map_err(|error| raw_problem(&error))?;
    pass(&mut way, read, &params, state, caller, &server).await?;
    let Some(Way { under_way, places, paths }) = way else { return Err(raw_problem(&RawError::NoFrom)) };
    let refused = refused(&*under_way, &paths);
    let request = hash.finalize().into();
    let claim = claim.map(|(claim, key)| (claim, Idempotency { key, request }));
    let taken = under_way.commit(reader.body(), claim).await.map_err(|error| problem(error, &places))?;
    Ok(Answer { submitted: SubmittedMessage::new(taken, refused), replayed: false })
}

/// A message whose envelope was taken.
struct Way {
    under_way: Box<dyn Submitting>,
    places: Places,
    paths: Vec<String>,
}

/// Passes on what was read: with the head the message begins.
async fn pass(
    way: &mut Option<Way>,
    read: Vec<Read>,
    params: &SubmitParams,
    state: &State,
    caller: &Caller,
    server: &Arc<VirtualServer>,
) -> Result<(), Problem> {
    for piece in read {
        let text = match piece {
            Read::Text(text) => text,
            Read::Head(head) => {
                let now = state.handles.submit.now();
                let envelope = envelope(&head, params, server, now)?;
                let places = Places { recipients: envelope.places.clone(), sender: String::new() };
                let paths = envelope.recipients.iter().map(|(path, _)| path.to_string()).collect();
                let under_way = begin(state, caller, server, envelope, params.partial, &places).await?;
                let text = head.complete(under_way.id(), server.fqdn.as_str(), now);
                *way = Some(Way { under_way, places, paths });
                text
            }
        };
        if let Some(Way { under_way, places, .. }) = way.as_mut() {
            under_way.content(text).await.map_err(|error| problem(error, places))?;
        }
    }
    Ok(())
}

/// The envelope of a message that comes as it is: of the parameters, else of its header.
fn envelope(
    head: &Head,
    params: &SubmitParams,
    server: &VirtualServer,
    now: crate::model::time::Timestamp,
) -> Result<Envelope, Problem> {
    let mut wrong = Vec::new();
    let parameters = letter::parameters(
        params.send_at.as_deref(),
        params.priority,
        Some(&params.dsn),
        now,
        &mut |place, code, detail| {
            let name = place.rsplit('/').next().unwrap_or_default();
            wrong.push(FieldError::parameter(name, code, detail));
        },
    );
    let parameters_of = RcptParameters { notify: letter::notify(Some(&params.dsn)), orcpt: None };
    let sender = head.sender.as_ref().or(head.from.first()).cloned().map(ReversePath::Mailbox);
    let mut envelope = Envelope {
        reverse_path: params.from.clone().or(sender),
        authors: head.from.clone(),
        parameters,
        ..Envelope::default()
    };
    let most = server.spec.messages.max_recipients as usize;
    match &params.to {
        None => {
            for mailbox in head.recipients.iter().take(most + 1) {
                envelope.recipients.push((ForwardPath::Mailbox(mailbox.clone()), parameters_of.clone()));
                envelope.places.push(String::new());
            }
        }
        Some(list) => {
            for one in list.split(',').take(most + 1) {
                match one.trim().parse::<ForwardPath>() {
                    Ok(path) => envelope.recipients.push((path, parameters_of.clone())),
                    Err(error) if wrong.len() < 100 => {
                        let detail = format!("{}: {error}", one.escape_debug().take(300).collect::<String>());
                        wrong.push(FieldError::parameter("to", RequestCode::InvalidParameter, detail));
                    }
                    Err(_) => {}
                }
                envelope.places.push("to".to_owned());
            }
        }
    }
    if envelope.recipients.is_empty() && wrong.is_empty() {
        wrong.push(FieldError::parameter("to", ViolationCode::Required, "at least one recipient is needed"));
    }
    if envelope.places.len() > most {
        let detail = format!("a message has at most {most} recipients here; send the others in another message");
        wrong.push(FieldError::parameter("to", ViolationCode::OutOfRange, detail));
    }
    envelope.complete();
    if wrong.is_empty() {
        return Ok(envelope);
    }
    Err(Problem::new(ProblemKind::Invalid, "the message is not valid; nothing was sent").with_errors(wrong))
}

/// Where in the request what stands.
struct Places {
    recipients: Vec<String>,
    sender: String,
}

async fn begin(
    state: &State,
    caller: &Caller,
    server: &Arc<VirtualServer>,
    envelope: Envelope,
    partial: bool,
    places: &Places,
) -> Result<Box<dyn Submitting>, Problem> {
    let Envelope { reverse_path, authors, parameters, recipients, .. } = envelope;
    let submission = Submission {
        server: server.clone(),
        client: caller.client,
        encrypted: caller.encrypted,
        request: caller.requested.clone(),
        by: caller.by.clone(),
        reverse_path: reverse_path.unwrap_or(ReversePath::Null),
        authors,
        parameters,
        recipients,
        partial,
    };
    state.handles.submit.begin(submission).await.map_err(|error| problem(error, places))
}

fn refused(under_way: &dyn Submitting, paths: &[String]) -> Vec<RefusedRecipient> {
    let refused = under_way.refused().iter().filter_map(|(place, refusal)| {
        let address = paths.get(*place)?.clone();
        Some(RefusedRecipient { address, rule: refusal.rule.to_owned(), reply: refusal.reply.to_string() })
    });
    refused.collect()
}

/// The virtual server that is asked for.
fn server(
    state: &State,
    wanted: Option<&str>,
    unknown: impl Fn(String) -> FieldError,
) -> Result<Arc<VirtualServer>, Problem> {
    let none = |name: &str| {
        let wrong = unknown(format!("there is no virtual server {name:?}"));
        Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(vec![wrong])
    };
    let name = wanted.map(|name| name.parse::<Name>().map_err(|_| none(name))).transpose()?;
    state.handles.submit.server(name.as_ref()).map_err(|error| match error {
        NotTaken::UnknownServer => none(wanted.unwrap_or("")),
        error => problem(error, &Places { recipients: Vec::new(), sender: String::new() }),
    })
}

/// Reserves the key of a request, or says what it has brought.
async fn claimed(state: &State, idempotency: Idempotency) -> Result<Result<Claim, Seen>, Problem> {
    Ok(match claimed_raw(state, idempotency.key).await? {
        Claimed::First(claim) => Ok(claim),
        Claimed::Seen(seen) => Err(seen),
    })
}

async fn claimed_raw(state: &State, key: [u8; 32]) -> Result<Claimed, Problem> {
    let nowhere = Places { recipients: Vec::new(), sender: String::new() };
    state.handles.submit.claim(key).await.map_err(|error| problem(error, &nowhere))
}

/// The answer to a request that was answered before.
fn replay(seen: Seen, request: &[u8; 32]) -> Result<Answer, Problem> {
    if seen.request != *request {
        let detail = "this key has brought another message in the last 24 hours; a new message needs a new key";
        let wrong = FieldError::parameter("Idempotency-Key", RequestCode::IdempotencyConflict, detail);
        return Err(Problem::new(ProblemKind::Conflict, detail).with_errors(vec![wrong]));
    }
    let taken = Taken { id: seen.id, at: seen.at, receipt: seen.receipt };
    Ok(Answer { submitted: SubmittedMessage::new(taken, Vec::new()), replayed: true })
}

/// SHA-256 of what is asked for: the same whatever the order of members and the white space between them.
fn request_hash(asked: &MessageSubmission, partial: bool) -> [u8; 32] {
    struct Into<'a>(&'a mut Sha256);

    impl std::io::Write for Into<'_> {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.update(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let mut hash = Sha256::new();
    hash.update(JSON);
    hash.update([u8::from(partial)]);
    // a hash takes whatever comes
    let _ = serde_json::to_writer(Into(&mut hash), asked);
    hash.finalize().into()
}

/// How long what is read for a repeated request may be.
fn seen_limit(most: u64) -> u64 {
    most.min(1 << 30)
}

/// The largest body in JSON: the base64 of the largest message that any virtual server takes, and something beside.
fn json_limit(state: &State) -> usize {
    let snapshot = state.handles.configuration.live().current();
    let largest = snapshot.virtual_servers.values().map(|server| server.spec.messages.max_size.bytes()).max();
    usize::try_from(largest.unwrap_or_default() / 3 * 4 + BESIDE).unwrap_or(usize::MAX)
}

/// The body, read straight into its type.
fn parse<T: serde::de::DeserializeOwned>(octets: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(octets);
    let read = serde_path_to_error::deserialize::<_, T>(&mut json);
    let read = match read {
        Ok(value) => json.end().map(|()| value).map_err(|error| (String::new(), error)),
        Err(error) => Err((body::pointer(error.path()), error.into_inner())),
    };
    read.map_err(|(pointer, error)| {
        let words = error.to_string();
        let place = format!("line {}, column {}", error.line(), error.column());
        if words.starts_with("duplicate field") {
            let wrong = FieldError::at(pointer, RequestCode::RepeatedField, words);
            return Problem::new(ProblemKind::Malformed, format!("the body is not valid JSON at {place}"))
                .with_errors(vec![wrong]);
        }
        if !error.is_data() {
            let wrong = FieldError::at("", RequestCode::Malformed, words);
            return Problem::new(ProblemKind::Malformed, format!("the body is not valid JSON at {place}"))
                .with_errors(vec![wrong]);
        }
        let code = match words.split(' ').next() {
            Some("unknown") if words.starts_with("unknown field") => ViolationCode::UnknownField,
            Some("missing") => ViolationCode::Required,
            _ => ViolationCode::InvalidValue,
        };
        let wrong = FieldError::at(pointer, code, words);
        Problem::new(ProblemKind::Invalid, "the request is not valid; nothing was sent").with_errors(vec![wrong])
    })
}

/// Does heavy work where it holds nobody up.
async fn apart<T: Send + 'static>(size: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    if size < HEAVY {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem::internal(&error))
}

/// The key of a request.
fn key_of(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let mut given = request.headers().get_all(KEY);
    let Some(key) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(bad_key("it is given more than once"));
    }
    let key = key.to_str().ok().filter(|key| is_key(key));
    key.map(|key| Some(key.to_owned())).ok_or_else(|| bad_key("1 to 255 printable ASCII characters"))
}

fn is_key(key: &str) -> bool {
    (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|octet| (b' '..=b'~').contains(&octet))
}

fn bad_key(detail: &str) -> Problem {
    let wrong = FieldError::parameter("Idempotency-Key", RequestCode::InvalidParameter, detail);
    Problem::new(ProblemKind::BadParameter, "wrong parameters: Idempotency-Key").with_errors(vec![wrong])
}

fn raw_problem(error: &RawError) -> Problem {
    let code = match error {
        RawError::Nul => RequestCode::ControlCharacter.into(),
        RawError::NoFrom => ViolationCode::Required.into(),
        RawError::HeaderTooLong | RawError::LongLine => ViolationCode::OutOfRange.into(),
        RawError::NoField(_) | RawError::Address { .. } => super::codes::ErrorCode::from(ViolationCode::InvalidValue),
    };
    let wrong = FieldError::at("", code, error.to_string());
    Problem::new(ProblemKind::Invalid, "the message is not valid; nothing was sent").with_errors(vec![wrong])
}

/// What it means to the caller that a message is not taken.
fn problem(error: NotTaken, places: &Places) -> Problem {
    match error {
        NotTaken::UnknownServer => Problem::new(ProblemKind::Invalid, error.to_string()),
        NotTaken::NotNow(why) => Problem::new(ProblemKind::Unavailable, why).with_header(header::RETRY_AFTER, "30"),
        NotTaken::TooLarge(most) => {
            Problem::new(ProblemKind::TooLarge, format!("a message has at most {most} bytes on this virtual server"))
        }
        NotTaken::TooManyKeys => {
            Problem::new(ProblemKind::Unavailable, error.to_string()).with_header(header::RETRY_AFTER, "3600")
        }
        NotTaken::Busy => {
            let wrong = FieldError::parameter("Idempotency-Key", RequestCode::IdempotencyConflict, error.to_string());
            let problem = Problem::new(ProblemKind::Conflict, error.to_string()).with_errors(vec![wrong]);
            problem.with_header(header::RETRY_AFTER, "5")
        }
        NotTaken::Store(error) => store_problem(&error),
        NotTaken::Refused(refusal) => refusal_problem(vec![(places.sender.clone(), refusal)]),
        NotTaken::Recipients(refused) => {
            let place = |place: usize| places.recipients.get(place).cloned().unwrap_or_default();
            refusal_problem(refused.into_iter().map(|(n, refusal)| (place(n), refusal)).collect())
        }
    }
}

/// Refusals of the rules: for now when each is, else for good.
fn refusal_problem(refused: Vec<(String, Refusal)>) -> Problem {
    let for_now = refused.iter().all(|(_, refusal)| refusal.reply.code < 500);
    let kind = match refused.first() {
        Some((_, first)) if for_now && first.rule == "quotas" => ProblemKind::TooManyRequests,
        Some((_, first)) if for_now && first.rule == "reserve" && first.reply.code == 452 => {
            ProblemKind::InsufficientStorage
        }
        Some(_) if for_now => ProblemKind::Unavailable,
        _ => ProblemKind::Invalid,
    };
    let count = refused.len();
    let known = refused.iter().filter_map(|(_, refusal)| refusal.retry_after).max();
    let detail = match (&refused.as_slice(), kind) {
        ([(_, one)], _) => format!("{}; nothing was sent", one.reply),
        (_, _) => format!("{count} recipients are refused; nothing was sent"),
    };
    let wrong = refused.into_iter().take(1_000).map(|(place, refusal)| {
        let Refusal { reply, rule, .. } = refusal;
        let detail = format!("{reply} ({rule})");
        match place.as_str() {
            "to" => FieldError::parameter(place, RequestCode::Refused, detail),
            _ => FieldError::at(place, RequestCode::Refused, detail),
        }
    });
    let problem = Problem::new(kind, detail).with_errors(wrong.collect());
    match known.filter(|_| for_now) {
        // whole seconds, and not one too early
        Some(wait) => problem.with_header(header::RETRY_AFTER, (wait.as_secs() + 1).to_string()),
        None => problem,
    }
}

impl SubmittedMessage {
    fn new(taken: Taken, refused: Vec<RefusedRecipient>) -> Self {
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

impl From<Result<Answer, Problem>> for BatchItem {
    fn from(result: Result<Answer, Problem>) -> Self {
        match result {
            Ok(Answer { submitted, replayed }) => {
                BatchItem { status: StatusCode::ACCEPTED.as_u16(), message: Some(submitted), replayed, problem: None }
            }
            Err(problem) => {
                BatchItem { status: problem.status(), message: None, replayed: false, problem: Some(problem) }
            }
        }
    }
}

fn raw_example() -> Value {
    json!("From: ada@example.com\r\nTo: bob@example.net\r\nSubject: Hello\r\n\r\nHello, Bob.\r\n")
}

fn submitted_example() -> Value {
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

fn batch_example() -> Value {
    let message = |to: &str| json!({"from": "orders@example.com", "to": [to], "subject": "Hello", "text": "Hello."});
    json!({"messages": [
        {"message": message("bob@example.net"), "idempotencyKey": "hello-1"},
        {"message": message("nobody@example.com"), "idempotencyKey": "hello-2"}
    ]})
}

fn batch_result_example() -> Value {
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
