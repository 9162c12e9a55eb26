//! `bulk-actions` and `operations`: one action on many messages, and how far it has come.

use actix_web::{HttpRequest, HttpResponse, get, post, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::audit::audited;
use super::body;
use super::errors::{ActionErrors, BulkErrors, ListErrors, ReadErrors};
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{NoParams, Params};
use super::queues::store_problem;
use super::resources::{DryRun, actor};
use super::server::State;
use crate::config::ViolationCode;
use crate::model::name::Name;
use crate::model::time::Timestamp;
use crate::queue::bulk::{self, BulkAction, BulkError, OperationState};
use crate::queue::operate::MessageFilter;

/// One action, and the messages it is for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = request_example)]
pub struct BulkRequest {
    /// What is done with each.
    action: RequestedAction,
    /// Which messages: all that is given must hold, and something must be given. Meant are those that are there when the
    /// operation begins.
    selector: MessageFilter,
    /// More about the action.
    #[serde(default)]
    parameters: BulkParameters,
}

/// What can be done with many messages.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum RequestedAction {
    /// No attempt is made until it is thawed.
    Freeze,
    /// A freeze ends.
    Thaw,
    /// It is due now.
    Retry,
    /// It is routed anew, and due now; dead letters too. `parameters.connector` chooses who carries it.
    Reroute,
    /// Its dead letters are sent on their way again, as if they had just come.
    Resubmit,
    /// It is removed; `parameters.ndr` says whether its sender is told.
    Delete,
}

impl From<RequestedAction> for BulkAction {
    fn from(action: RequestedAction) -> Self {
        match action {
            RequestedAction::Freeze => BulkAction::Freeze,
            RequestedAction::Thaw => BulkAction::Thaw,
            RequestedAction::Retry => BulkAction::Retry,
            RequestedAction::Reroute => BulkAction::Reroute,
            RequestedAction::Resubmit => BulkAction::Resubmit,
            RequestedAction::Delete => BulkAction::Delete,
        }
    }
}

/// More about an action.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BulkParameters {
    /// With `delete`: whether senders get a non-delivery report.
    #[schema(default = false)]
    ndr: bool,
    /// With `reroute`: the connector that carries the messages from now on, for all recipients that are not local, whatever its
    /// address spaces and restrictions say. Default: nobody has chosen any more.
    #[schema(nullable = false)]
    connector: Option<Name>,
}

/// What an action would be done with.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"count": 1204, "complete": true, "sample": ["019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"]}))]
pub struct BulkPreview {
    /// So many messages.
    count: u64,
    /// Whether all that wait were looked at; at most 50,000 are.
    complete: bool,
    /// The first ten of them.
    #[schema(value_type = Vec<String>)]
    sample: Vec<String>,
}

/// An action on many messages, and how far it has come.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = operation_example)]
pub struct Operation {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// What is done.
    action: BulkAction,
    /// Whether senders are told, with `delete`.
    ndr: bool,
    /// With `reroute`: the connector that is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    connector: Option<Name>,
    /// With which messages; the times in it are those of its beginning.
    selector: MessageFilter,
    /// Who wanted it.
    by: String,
    /// How it is.
    state: OperationState,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    ended_at: Option<Timestamp>,
    /// How many messages were meant at the beginning; absent while they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    total: Option<u64>,
    /// Messages that are done.
    done: u64,
    /// Messages that were being delivered right then, had left meanwhile, or were not meant any more.
    skipped: u64,
    /// Messages with which it went wrong.
    failed: u64,
    /// What went wrong, the first two.
    errors: Vec<String>,
}

/// All operations that are remembered.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationList {
    /// The latest first; at most 100.
    items: Vec<Operation>,
}

/// Act on many messages
///
/// Freezes, thaws, retries, reroutes, resubmits or deletes all messages that the selector means. `delete`, `retry` and `resubmit` act on
/// those recipients of a message for whom all holds that the selector says of recipients (`recipient`, `queue`, `connector`, `nextHop`,
/// `status`), and leave the others alone; `freeze`, `thaw` and `reroute` are for whole messages.
///
/// It goes on in the background, also over a restart: the answer is an operation to follow. With `dryRun=true` the answer is how many
/// are meant, with a sample. Only what was received before the operation began is meant; each message is looked at again when its turn
/// comes. Messages that are being delivered right then, or are not meant any more, are skipped and counted; `retry` leaves those with
/// `sendAt` waiting for their time. An empty selector is 400, and so is one that is too long to be remembered (about 300 characters).
/// Scope: `queue:write`.
#[utoipa::path(
    tag = "messages",
    operation_id = "bulkAction",
    params(DryRun),
    request_body(content = BulkRequest, content_type = "application/json", description = "What, and with which messages.", example = request_example),
    responses(
        (status = 200, description = "With `dryRun`: what would be meant.", body = BulkPreview, example = preview_example),
        (status = 202, description = "It has begun.", body = Operation, example = operation_example),
        BulkErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/bulk-actions")]
pub async fn bulk_action(
    request: HttpRequest,
    payload: web::Payload,
    params: Params<DryRun>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let body = body::json(&request, payload, &["application/json"]).await?;
    let asked: BulkRequest = body::typed(&body)?;
    let bulk = &state.handles.bulk;
    let action = BulkAction::from(asked.action);
    let parameters = asked.parameters;
    let misplaced = [
        ("/parameters/ndr", parameters.ndr && action != BulkAction::Delete, "only `delete` has a report"),
        (
            "/parameters/connector",
            parameters.connector.is_some() && action != BulkAction::Reroute,
            "only `reroute` has a connector",
        ),
    ];
    let wrong = misplaced.into_iter().filter(|(_, wrong, _)| *wrong);
    let wrong: Vec<_> =
        wrong.map(|(pointer, _, words)| FieldError::at(pointer, ViolationCode::InvalidValue, words)).collect();
    if !wrong.is_empty() {
        return Err(Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(wrong));
    }
    let selector = asked.selector.checked().map_err(|wrong| {
        let at = |(name, words)| FieldError::at(format!("/selector/{name}"), ViolationCode::InvalidValue, words);
        Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(wrong.into_iter().map(at).collect())
    })?;
    if let Some(name) = &parameters.connector
        && state.handles.configuration.live().current().routes.connector(name).is_none()
    {
        return Err(unknown_connector("/parameters/connector", name.as_str()));
    }
    if params.0.0 {
        let preview = bulk.preview(action, &selector).await.map_err(problem)?;
        return Ok(HttpResponse::Ok().json(BulkPreview::from(preview)));
    }
    let by = actor(&request).key;
    let word = serde_json::to_value(action).ok().and_then(|word| word.as_str().map(str::to_owned));
    let word = word.unwrap_or_else(|| "bulk".to_owned());
    let order = bulk::Order { action, ndr: parameters.ndr, connector: parameters.connector };
    let deed = async { bulk.begin(order, selector, by).await.map_err(problem) };
    let begun = audited(&request, &state, "messages", &word, body.clone(), deed).await?;
    Ok(HttpResponse::Accepted().json(Operation::from(begun)))
}

/// List operations
///
/// Those that run, and the latest that have ended. Scope: `queue:read`.
#[utoipa::path(
    tag = "messages",
    operation_id = "listOperations",
    responses(
        (status = 200, description = "The operations.", body = OperationList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/operations")]
pub async fn list_operations(_: Params<NoParams>, state: web::Data<State>) -> Result<HttpResponse, Problem> {
    let items = state.handles.bulk.operations().into_iter().map(Operation::from).collect();
    Ok(HttpResponse::Ok().json(OperationList { items }))
}

/// Get an operation
///
/// How far it has come. Scope: `queue:read`.
#[utoipa::path(
    tag = "messages",
    operation_id = "getOperation",
    params(("id" = String, Path, description = "The operation's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11")),
    responses(
        (status = 200, description = "The operation.", body = Operation, example = operation_example),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/operations/{id}")]
pub async fn get_operation(
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let wanted = operation_id(&id)?;
    let known = state.handles.bulk.operations().into_iter().find(|known| known.id == wanted);
    let known = known.ok_or_else(|| problem(BulkError::NotFound))?;
    Ok(HttpResponse::Ok().json(Operation::from(known)))
}

/// Cancel an operation
///
/// It stops within a few hundred messages; what was done stays done. One that has ended stays as it is. Scope: `queue:write`.
#[utoipa::path(
    tag = "messages",
    operation_id = "cancelOperation",
    params(("id" = String, Path, description = "The operation's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11")),
    responses(
        (status = 200, description = "The operation as it is now.", body = Operation, example = operation_example),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/operations/{id}/cancel")]
pub async fn cancel_operation(
    request: HttpRequest,
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let id = operation_id(&id)?;
    let deed = async { state.handles.bulk.cancel(id).await.map_err(problem) };
    let cancelled = audited(&request, &state, &format!("operations/{id}"), "cancel", Value::Null, deed).await?;
    Ok(HttpResponse::Ok().json(Operation::from(cancelled)))
}

fn operation_id(id: &str) -> Result<Uuid, Problem> {
    id.parse().map_err(|_| Problem::new(ProblemKind::NotFound, format!("{id:?} is no id of an operation (a UUID)")))
}

fn problem(error: BulkError) -> Problem {
    match error {
        BulkError::EmptySelector | BulkError::TooLong => Problem::new(ProblemKind::BadParameter, error.to_string()),
        BulkError::TooMany => Problem::new(ProblemKind::Conflict, error.to_string()),
        BulkError::UnknownConnector => unknown_connector("/parameters/connector", ""),
        BulkError::NotFound => Problem::new(ProblemKind::NotFound, error.to_string()),
        BulkError::Store(error) => store_problem(&error),
    }
}

/// 422 for a connector that nobody knows.
pub(super) fn unknown_connector(pointer: &str, name: &str) -> Problem {
    let detail = format!("there is no connector {name:?}, or it is switched off");
    let wrong = FieldError::at(pointer, ViolationCode::UnknownReference, detail);
    Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(vec![wrong])
}

impl From<bulk::Preview> for BulkPreview {
    fn from(preview: bulk::Preview) -> Self {
        let bulk::Preview { count, complete, sample } = preview;
        BulkPreview { count, complete, sample: sample.iter().map(ToString::to_string).collect() }
    }
}

impl From<bulk::Operation> for Operation {
    fn from(known: bulk::Operation) -> Self {
        Operation {
            id: known.id,
            action: known.action,
            ndr: known.ndr,
            connector: known.connector,
            selector: known.selector,
            by: known.by,
            state: known.state,
            started_at: known.started_at,
            ended_at: known.ended_at,
            total: known.total,
            done: known.done,
            skipped: known.skipped,
            failed: known.failed,
            errors: known.errors,
        }
    }
}

fn request_example() -> Value {
    json!({"action": "delete", "selector": {"queue": "dns:default:example.com", "olderThan": "1d"}, "parameters": {"ndr": true}})
}

pub(super) fn preview_example() -> Value {
    json!({"count": 1204, "complete": true, "sample": ["019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"]})
}

fn operation_example() -> Value {
    json!({
        "id": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11", "action": "delete", "ndr": true,
        "selector": {"queue": "dns:default:example.com", "until": "2026-11-28T10:15:02.113Z"}, "by": "bootstrap",
        "state": "running", "startedAt": "2026-11-29T10:15:02.113Z", "total": 1204, "done": 500, "skipped": 2,
        "failed": 0, "errors": []
    })
}

fn list_example() -> Value {
    json!({"items": [operation_example()]})
}
