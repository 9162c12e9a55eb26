//! What an operator does with a message besides [`super::messages`]: send dead letters on their way again, take its content out. And
//! `connectors/{name}/suspend|resume`: running state, which is not configuration.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, get, post, web};
use futures_util::stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::audit::audited;
use super::body;
use super::bulk::unknown_connector;
use super::errors::{ActionErrors, ReadErrors, SteerErrors};
use super::kinds::connectors::Connector;
use super::mail::{self, MessageResource};
use super::messages::{message_id, named, show};
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{self, FromQuery, NoParams, Params, Query};
use super::resources::{actor, not_found, shown};
use super::server::State;
use super::submit::RawMessage;
use crate::config::ViolationCode;
use crate::model::mail::MessageId;
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::queue::operate::ActionError;
use crate::queue::resubmit::{MOST_RECIPIENTS, ResubmitError};
use crate::queue::steer::RerouteError;
use crate::smtp::address::{ForwardPath, Mailbox};
use crate::store::StoreError;

/// Who carries a message.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = reroute_example)]
pub struct RerouteRequest {
    /// This connector, for all recipients that are not local. Default: the one that routing finds.
    #[schema(nullable = false)]
    pub(super) connector: Option<Name>,
}

/// Where dead letters go.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = resubmit_example)]
pub struct ResubmitRequest {
    /// To these instead of those who are in the dead-letter queue.
    #[schema(value_type = Option<Vec<String>>, nullable = false, min_items = 1, max_items = 1_000)]
    recipients: Option<Vec<String>>,
}

/// The body, if there is one.
pub(super) async fn optional<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<Option<T>, Problem> {
    match body::json_if_any(request, payload, &["application/json"]).await? {
        Some(body) => body::typed(&body).map(Some),
        None => Ok(None),
    }
}

/// What it is to the caller that a message was not routed.
pub(super) fn rerouted(error: RerouteError, id: MessageId) -> Problem {
    match error {
        RerouteError::UnknownConnector(name) => unknown_connector("/connector", &name),
        RerouteError::Action(error) => named(error, id),
    }
}

/// Resubmit a message
///
/// Its dead letters go on their way again, as if they had just come: no attempt counts, and the time until they expire begins anew. With `recipients` a
/// new message with the same content goes to these, in the place of the dead letters; the answer is that message, with an id of its own. A message
/// without dead letters is 409. A message that is delivered at once is gone from here: then the answer is 202 without a body. Scope: `queue:write`.
#[utoipa::path(
    tag = "messages",
    operation_id = "resubmitMessage",
    params(("id" = String, Path, description = "The message's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11")),
    request_body(content = ResubmitRequest, content_type = "application/json", description = "To whom; may be left out.", example = resubmit_example),
    responses(
        (status = 200, description = "The message as it is now, or the new one.", body = MessageResource, example = mail::message_example),
        (status = 202, description = "It was due, and has left the queue already."),
        SteerErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/messages/{id}/resubmit")]
pub async fn resubmit_message(
    request: HttpRequest,
    payload: web::Payload,
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let id = message_id(&id)?;
    let asked: ResubmitRequest = optional(&request, payload).await?.unwrap_or_default();
    let to = asked.recipients.map(|given| recipients(&given)).transpose()?;
    let detail = to.as_ref().map_or(Value::Null, |to| json!({"recipients": to.len()}));
    let by = actor(&request).key;
    let deed = async { state.handles.steer.resubmit(id, to, by).await.map_err(|error| resubmitted(error, id)) };
    let sent = audited(&request, &state, &format!("messages/{id}"), "resubmit", detail, deed).await?;
    match state.handles.operate.message(sent).await {
        Err(ActionError::NotFound) => Ok(HttpResponse::Accepted().finish()),
        _ => show(sent, &state).await,
    }
}

fn recipients(given: &[String]) -> Result<Vec<ForwardPath>, Problem> {
    if !(1..=MOST_RECIPIENTS).contains(&given.len()) {
        let detail = format!("1 to {MOST_RECIPIENTS} recipients are needed");
        return Err(invalid(vec![FieldError::at("/recipients", ViolationCode::OutOfRange, detail)]));
    }
    let (mut read, mut wrong) = (Vec::with_capacity(given.len()), Vec::new());
    for (place, text) in given.iter().enumerate() {
        match text.parse::<Mailbox>() {
            Ok(mailbox) => read.push(ForwardPath::Mailbox(mailbox)),
            Err(error) => {
                let pointer = format!("/recipients/{place}");
                wrong.push(FieldError::at(pointer, ViolationCode::InvalidValue, error.to_string()));
            }
        }
    }
    if wrong.is_empty() { Ok(read) } else { Err(invalid(wrong)) }
}

fn resubmitted(error: ResubmitError, id: MessageId) -> Problem {
    match error {
        ResubmitError::NotDead | ResubmitError::Damaged(_) => Problem::new(ProblemKind::Conflict, error.to_string()),
        ResubmitError::Recipients(wrong) => {
            let at =
                |(place, words)| FieldError::at(format!("/recipients/{place}"), ViolationCode::UnknownReference, words);
            invalid(wrong.into_iter().map(at).collect())
        }
        ResubmitError::Action(error) => named(error, id),
    }
}

fn invalid(wrong: Vec<FieldError>) -> Problem {
    Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(wrong)
}

/// How to get content.
#[derive(Debug)]
pub struct ContentParams {
    download: bool,
}

impl IntoParams for ContentParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![query::flag("download", "Whether a browser keeps it as a file, `<id>.eml`.", false)]
    }
}

impl FromQuery for ContentParams {
    fn from_query(query: &mut Query) -> Self {
        ContentParams { download: query.get("download").unwrap_or(false) }
    }
}

/// Get the content of a message
///
/// What was handed in after DATA, with our Received field: header and body as they wait, streamed. It is checked against its checksum before the first
/// octet. Scope: `messages:content`.
#[utoipa::path(
    tag = "messages",
    operation_id = "getMessageContent",
    params(
        ("id" = String, Path, description = "The message's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"),
        ContentParams,
    ),
    responses(
        (status = 200, description = "The content.", body = RawMessage, content_type = "message/rfc822", example = content_example),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("messages:content")))
)]
#[get("/messages/{id}/content")]
pub async fn get_content(
    request: HttpRequest,
    id: web::Path<String>,
    params: Params<ContentParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let id = message_id(&id)?;
    let (message, reader) = state.handles.steer.content(id).await.map_err(|error| named(error, id))?;
    audited(&request, &state, &format!("messages/{id}"), "readContent", Value::Null, async { Ok(()) }).await?;
    tracing::info!(message.id = %id, key = actor(&request).key, "content was read");
    let mut answer = HttpResponse::Ok();
    answer.content_type("message/rfc822");
    // what somebody mailed must not become a page of ours
    answer.insert_header((header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"));
    let disposition = if params.0.download { "attachment" } else { "inline" };
    answer.insert_header((header::CONTENT_DISPOSITION, format!("{disposition}; filename=\"{id}.eml\"")));
    answer.no_chunking(message.size);
    let chunks = stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(answer.streaming::<_, StoreError>(chunks))
}

/// Suspend a connector
///
/// Nothing is sent through it until it is resumed: attempts that have begun end, and its queues still accept mail. Its mail takes no other way. This is
/// running state, not configuration: it acts on anybody's object, holds over a restart, and shows as the condition `Overridden`. It ends when the connector is
/// removed or switched off. Scope: `queue:write`.
#[utoipa::path(
    tag = "connectors",
    operation_id = "suspendConnector",
    params(("name" = String, Path, description = "The connector's name.", example = "default")),
    responses(
        (status = 200, description = "The connector as it is now.", body = Connector, example = connector_example),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/connectors/{name}/suspend")]
pub async fn suspend_connector(
    request: HttpRequest,
    name: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    act(&request, &name, true, &state).await
}

/// Resume a connector
///
/// Ends a suspension: what is due is tried at once. Scope: `queue:write`.
#[utoipa::path(
    tag = "connectors",
    operation_id = "resumeConnector",
    params(("name" = String, Path, description = "The connector's name.", example = "default")),
    responses(
        (status = 200, description = "The connector as it is now.", body = Connector, example = connector_example),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/connectors/{name}/resume")]
pub async fn resume_connector(
    request: HttpRequest,
    name: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    act(&request, &name, false, &state).await
}

async fn act(request: &HttpRequest, name: &str, suspend: bool, state: &State) -> Result<HttpResponse, Problem> {
    let configuration = &state.handles.configuration;
    let found =
        configuration.get(Collection::Connectors, name).map_err(|error| super::queues::store_problem(&error))?;
    let object = found.ok_or_else(|| not_found(Collection::Connectors, name))?;
    let connector = object.name.clone();
    let steer = &state.handles.steer;
    if suspend && object.spec["enabled"] == Value::Bool(false) {
        return Err(Problem::new(
            ProblemKind::Conflict,
            format!("{name:?} is switched off; nothing is sent through it"),
        ));
    }
    if suspend != steer.suspended(&connector).is_some() {
        let actor = actor(request);
        let id = format!("{}/{connector}", Collection::Connectors.path());
        let verb = if suspend { "suspend" } else { "resume" };
        let deed = async {
            let done = match suspend {
                true => steer.suspend(&connector, actor.key).await,
                false => steer.resume(&connector).await,
            };
            done.map_err(super::queues::problem)
        };
        audited(request, state, &id, verb, Value::Null, deed).await?;
    }
    Ok(shown::<Connector>(object, state))
}

pub(super) fn reroute_example() -> Value {
    json!({"connector": "spare"})
}

fn resubmit_example() -> Value {
    json!({"recipients": ["ada@example.com"]})
}

fn content_example() -> Value {
    json!("Received: from app-7.local …\r\nFrom: orders@example.net\r\nSubject: Your order\r\n\r\nThank you.\r\n")
}

fn connector_example() -> Value {
    json!({
        "name": "default", "labels": {}, "owner": "system", "generation": 1,
        "spec": {"addressSpaces": [{"pattern": "*", "cost": 1}], "route": {"dns": {}}},
        "status": {"state": "suspended", "conditions": [{
            "type": "Overridden", "status": "true", "reason": "suspended", "message": "suspended by the key \"bootstrap\"",
            "lastTransitionTime": "2026-11-29T10:15:02.113Z", "observedGeneration": 1
        }]}
    })
}
