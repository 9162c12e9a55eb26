//! `POST /messages` and `POST /messages/batch`: mail from programs.
//!
//! The shapes are in [`shapes`] and [`super::letter`], how a request becomes mail is in [`taking`]; the way a message goes is
//! `intake::submit`'s: the rules, queues and durability of SMTP. 202 means what 250 means there: synced. A request with an
//! `Idempotency-Key` is answered again, for 24 hours, with what the first one has brought.

mod shapes;
mod taking;

use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpRequest, HttpResponse, post, web};
use futures_util::StreamExt;

pub use self::shapes::RawMessage;
use self::shapes::{
    BatchItem, BatchResult, BatchedMessage, IdempotencyKey, MessageBatch, SubmitParams, SubmittedMessage, TraceContext,
    batch_example, batch_result_example, raw_example, submitted_example,
};
use self::taking::{Answer, Caller, apart, bad_key, is_key, json_limit, key_of, one, parse, raw};
use super::body;
use super::codes::RequestCode;
use super::errors::SubmitErrors;
use super::letter::{self, MessageSubmission};
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{NoParams, Params};
use super::server::State;
use crate::config::ViolationCode;

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
