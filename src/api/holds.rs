//! `holds`: mail that is kept back until an operator lets it go.

use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::audit::audited;
use super::body;
use super::bulk::{BulkPreview, preview_example};
use super::errors::{ActionErrors, BulkErrors, ListErrors, ReadErrors};
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{NoParams, Params};
use super::queues::store_problem;
use super::resources::{DryRun, actor};
use super::server::State;
use crate::config::ViolationCode;
use crate::model::spec::Collection;
use crate::model::time::Timestamp;
use crate::queue::holds::{self, HoldError, HoldSelector, LONGEST_API_KEY};
use crate::queue::operate::AddressFilter;

/// The longest reason.
const LONGEST_REASON: usize = 200;

/// Mail to hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = request_example)]
pub struct HoldRequest {
    /// Which mail: all that is given must hold, and something must be given.
    selector: HoldSelector,
    /// Why, for people.
    #[serde(default)]
    #[schema(max_length = 200)]
    reason: String,
    /// When it ends by itself. Default: never.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    expires_at: Option<Timestamp>,
}

/// Mail that is held.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = hold_example)]
pub struct Hold {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// Which mail.
    selector: HoldSelector,
    /// Why, for people.
    reason: String,
    /// Who wanted it: the name of the API key.
    by: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    made_at: Timestamp,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    expires_at: Option<Timestamp>,
    /// Only in the answer to the one who makes it: the operation that moves the mail that waits already.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid", nullable = false)]
    operation: Option<Uuid>,
}

/// All holds.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldList {
    /// The oldest first; at most 200.
    items: Vec<Hold>,
}

/// What the end of a hold does.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"operation": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"}))]
pub struct EndedHold {
    /// The operation that lets go what nothing else holds; absent when nothing was held.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid", nullable = false)]
    operation: Option<Uuid>,
}

/// List holds
///
/// The mail that is kept back, by whom and why. How much it is, the queue `held` tells. Scope: `queue:read`.
#[utoipa::path(
    tag = "queues",
    operation_id = "listHolds",
    responses(
        (status = 200, description = "The holds.", body = HoldList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/holds")]
pub async fn list_holds(_: Params<NoParams>, state: web::Data<State>) -> Result<HttpResponse, Problem> {
    let items = state.handles.steer.holds().into_iter().map(|hold| Hold::new(hold, None)).collect();
    Ok(HttpResponse::Ok().json(HoldList { items }))
}

/// Get a hold
///
/// Which mail is kept back, by whom and why. Scope: `queue:read`.
#[utoipa::path(
    tag = "queues",
    operation_id = "getHold",
    params(("id" = String, Path, description = "The hold's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11")),
    responses(
        (status = 200, description = "The hold.", body = Hold, example = hold_example),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/holds/{id}")]
pub async fn get_hold(
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let wanted = hold_id(&id)?;
    let found = state.handles.steer.holds().into_iter().find(|hold| hold.id == wanted);
    let hold = found.ok_or_else(|| problem(HoldError::NotFound))?;
    Ok(HttpResponse::Ok().json(Hold::new(hold, None)))
}

/// Hold mail
///
/// From the answer on, nothing that the selector means is sent or delivered any more, but what was being delivered already. What waits is moved to
/// the queue `held` by the operation that the answer names; new mail is accepted as usual, and goes there. `{"outbound": true}` holds all mail for
/// recipients elsewhere. Held mail does not expire, and no sender is told of a delay; whether a message is frozen is another matter. Dead
/// letters are not held. There can be 200 holds; each survives a restart. With `dryRun=true` nothing is held, and the answer is how many of the messages
/// that wait now it would hold, those that are held already not counted. A connector, account or virtual server that does not
/// exist is 422. Scope: `queue:write`.
#[utoipa::path(
    tag = "queues",
    operation_id = "createHold",
    params(DryRun),
    request_body(content = HoldRequest, content_type = "application/json", description = "Which mail, and why.", example = request_example),
    responses(
        (status = 200, description = "With `dryRun`: what would be held.", body = BulkPreview, example = preview_example),
        (status = 201, description = "It is held.", body = Hold, example = made_example),
        BulkErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/holds")]
pub async fn create_hold(
    request: HttpRequest,
    payload: web::Payload,
    params: Params<DryRun>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let body = body::json(&request, payload, &["application/json"]).await?;
    let HoldRequest { selector, reason, expires_at } = body::typed(&body)?;
    if reason.chars().count() > LONGEST_REASON || reason.chars().any(char::is_control) {
        let detail = format!("a reason has at most {LONGEST_REASON} characters, and no control characters");
        return Err(invalid("/reason", detail));
    }
    if selector.api_key.as_ref().is_some_and(|key| key.chars().count() > LONGEST_API_KEY) {
        return Err(invalid("/selector/apiKey", format!("the name of a key has at most {LONGEST_API_KEY} characters")));
    }
    let wrong = misdirected(&selector, &state)?;
    if !wrong.is_empty() {
        return Err(Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(wrong));
    }
    if params.0.0 {
        let preview = state.handles.steer.preview_hold(&selector).await.map_err(problem)?;
        return Ok(HttpResponse::Ok().json(BulkPreview::from(preview)));
    }
    let by = actor(&request).key;
    let deed = async { state.handles.steer.hold(selector, reason, expires_at, by).await.map_err(problem) };
    let (hold, operation) = audited(&request, &state, "holds", "hold", body.clone(), deed).await?;
    Ok(HttpResponse::Created().json(Hold::new(hold, operation)))
}

/// End a hold
///
/// What no other hold means is routed anew and goes on, by the operation that the answer names. What has become too old meanwhile does not expire
/// at once: its time counts from then on. Scope: `queue:write`.
#[utoipa::path(
    tag = "queues",
    operation_id = "deleteHold",
    params(("id" = String, Path, description = "The hold's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11")),
    responses(
        (status = 200, description = "It has ended.", body = EndedHold, example = json!({"operation": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"})),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[delete("/holds/{id}")]
pub async fn delete_hold(
    request: HttpRequest,
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let id = hold_id(&id)?;
    let deed = async { state.handles.steer.end_hold(id, actor(&request).key).await.map_err(problem) };
    let operation = audited(&request, &state, &format!("holds/{id}"), "endHold", Value::Null, deed).await?;
    Ok(HttpResponse::Ok().json(EndedHold { operation }))
}

/// What a selector names that nobody is or has: such a hold would hold nothing, and nobody would notice.
fn misdirected(selector: &HoldSelector, state: &State) -> Result<Vec<FieldError>, Problem> {
    let mut wrong = Vec::new();
    if let Some(words) = selector.recipient.as_ref().and_then(AddressFilter::no_recipient) {
        wrong.push(FieldError::at("/selector/recipient", ViolationCode::InvalidValue, words));
    }
    if selector.api_key.as_deref() == Some("") {
        wrong.push(FieldError::at(
            "/selector/apiKey",
            ViolationCode::InvalidValue,
            "it is empty, and means no message",
        ));
    }
    let named = [
        ("connector", Collection::Connectors, &selector.connector),
        ("account", Collection::Accounts, &selector.account),
        ("virtualServer", Collection::VirtualServers, &selector.virtual_server),
    ];
    for (field, collection, name) in named {
        let Some(name) = name else { continue };
        let found = state.handles.configuration.get(collection, name.as_str());
        if found.map_err(|error| store_problem(&error))?.is_none() {
            let detail = format!("there is no {}/{name}", collection.path());
            wrong.push(FieldError::at(format!("/selector/{field}"), ViolationCode::UnknownReference, detail));
        }
    }
    Ok(wrong)
}

fn hold_id(id: &str) -> Result<Uuid, Problem> {
    id.parse().map_err(|_| Problem::new(ProblemKind::NotFound, format!("{id:?} is no id of a hold (a UUID)")))
}

fn invalid(pointer: &str, detail: String) -> Problem {
    let wrong = FieldError::at(pointer, ViolationCode::InvalidValue, detail);
    Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(vec![wrong])
}

fn problem(error: HoldError) -> Problem {
    match error {
        HoldError::EmptySelector | HoldError::TooLong => Problem::new(ProblemKind::BadParameter, error.to_string()),
        HoldError::Expired => invalid("/expiresAt", error.to_string()),
        HoldError::TooMany => Problem::new(ProblemKind::Conflict, error.to_string()),
        HoldError::NotFound => Problem::new(ProblemKind::NotFound, error.to_string()),
        HoldError::Store(error) => store_problem(&error),
    }
}

impl Hold {
    fn new(hold: holds::Hold, operation: Option<Uuid>) -> Self {
        let holds::Hold { id, selector, reason, expires_at, by, made_at } = hold;
        Hold { id, selector, reason, by, made_at, expires_at, operation }
    }
}

fn request_example() -> Value {
    json!({"selector": {"sender": "*@example.net"}, "reason": "a spammer has the password; ticket 4711", "expiresAt": "2026-12-01T08:00:00.000Z"})
}

fn hold_example() -> Value {
    json!({
        "id": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11", "selector": {"sender": "*@example.net"},
        "reason": "a spammer has the password; ticket 4711", "by": "bootstrap", "madeAt": "2026-11-29T10:15:02.113Z",
        "expiresAt": "2026-12-01T08:00:00.000Z"
    })
}

fn made_example() -> Value {
    let mut made = hold_example();
    made["operation"] = json!("019a5b2e-9d02-7a11-8c3e-2f60b1a4d5e6");
    made
}

fn list_example() -> Value {
    json!({"items": [hold_example()]})
}
