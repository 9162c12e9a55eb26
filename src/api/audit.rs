//! `audit-log`: who did what; and the one way in which handlers have their deeds written down ([`audited`]).

use std::future::Future;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, get, web};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::codes::RequestCode;
use super::errors::ListErrors;
use super::ndjson::{NDJSON, line, lines};
use super::problem::Problem;
use super::query::{self, FromQuery, Paging, Params, Query};
use super::queues::store_problem;
use super::resources::{actor, problem};
use super::server::State;
use crate::config::{AuditFilter, AuditPage, AuditPosition};
use crate::model::time::Timestamp;

/// Entries of an export that are read at a time.
const EXPORTED_AT_ONCE: usize = 500;

/// Something that somebody did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = entry_example)]
pub struct AuditEntry {
    /// Its id: `change-<revision>` of a change of the configuration, `action-<number>` of anything else.
    id: String,
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// Who.
    actor: AuditActor,
    /// What was done: `created`, `updated`, `deleted` or `imported` of configuration; else the word of the action, such as
    /// `freeze`, `pause` or `delete`.
    action: String,
    /// With what: `collection/name`, `queues/<id>`, `messages/<id>`; absent when it was several objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    object: Option<String>,
    /// The revision of the configuration that a change made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    revision: Option<u64>,
    /// What was before; absent when there was nothing. Secrets are shown by their fingerprints only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, value_type = Object)]
    before: Option<Value>,
    /// What was made of it; absent when there is nothing any more. Secrets are shown by their fingerprints only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, value_type = Object)]
    after: Option<Value>,
    /// The particulars of an action or of a change of several objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, value_type = Object)]
    detail: Option<Value>,
    /// `done`; `failed: …` of an action that was not possible. An entry is written before the deed: when the process was killed in
    /// between, it says `done` of what may not have been.
    outcome: String,
}

/// Who did it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditActor {
    /// The name of the key, or the username of a token; `system` for the appliance itself.
    key: String,
    /// Who issued the token; absent with a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    identity_provider: Option<String>,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    client: Option<String>,
    /// The id of the request, as the log has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    request_id: Option<String>,
}

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = list_example)]
pub struct AuditLog {
    /// The entries, the latest first. A page may be short, even empty, and still have a next one.
    items: Vec<AuditEntry>,
    /// Give it as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    next_cursor: Option<String>,
}

/// Which entries.
#[derive(Debug)]
pub struct AuditParams {
    filter: AuditFilter,
    from: Option<AuditPosition>,
    paging: Paging,
}

impl IntoParams for AuditParams {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let object = "Only about this object; with a slash at the end about all of a collection.";
        let action = "Only of this kind: `created`, `updated`, `deleted`, `freeze`, ….";
        let mut parameters = Paging::into_params(parameter_in);
        parameters.extend([
            query::text("since", "Not before this time.", "2026-11-24T00:00:00Z"),
            query::text("until", "Before this time.", "2026-11-25T00:00:00Z"),
            query::text("actor", "Only of this key.", "bootstrap"),
            query::text("object", object, "connectors/internet"),
            query::text("action", action, "updated"),
        ]);
        parameters
    }
}

impl FromQuery for AuditParams {
    fn from_query(query: &mut Query) -> Self {
        let filter = AuditFilter {
            since: query.get::<Timestamp>("since"),
            until: query.get::<Timestamp>("until"),
            actor: query.get("actor"),
            object: query.get("object"),
            action: query.get("action"),
        };
        let paging = Paging::from_query(query);
        let position = |key: &str| {
            let (change, action) = key.split_once('.')?;
            Some(AuditPosition { change: change.parse().ok()?, action: action.parse().ok()? })
        };
        let from = paging.after.as_deref().and_then(|key| {
            let position = position(key);
            if position.is_none() {
                query.refuse("cursor", RequestCode::InvalidCursor, "it is not a cursor of this listing");
            }
            position
        });
        AuditParams { filter, from, paging }
    }
}

lines!(AuditLines of AuditEntry, "Entries of the audit log, one JSON object a line, each an `AuditEntry`.");

/// Read the audit log
///
/// Each change of the configuration with what was before and after, and each action on mail, sessions and running state; the latest
/// first. With `Accept: application/x-ndjson` all of it that the filter picks, as one JSON object a line, whatever `limit` is.
/// Kept for `settings.retention.audit`. Scope: `audit:read`.
#[utoipa::path(
    tag = "audit-log",
    operation_id = "listAuditLog",
    params(AuditParams),
    responses(
        (status = 200, description = "A page, or all of it.", content(
            (AuditLog = "application/json", example = list_example),
            (AuditLines = "application/x-ndjson", example = lines_example),
        )),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("audit:read")))
)]
#[get("/audit-log")]
pub async fn list_audit_log(
    request: HttpRequest,
    params: Params<AuditParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let AuditParams { filter, from, paging } = params.0;
    let configuration = &state.handles.configuration;
    let from = match from {
        Some(from) => from,
        None => configuration.audit_end().map_err(|error| store_problem(&error))?,
    };
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.split(',').any(|range| range.split(';').next().unwrap_or_default().trim() == NDJSON) {
        return Ok(export(state.clone(), filter, from));
    }
    let AuditPage { entries, next } = page(&state, &filter, from, paging.limit).await?;
    let items = entries.into_iter().map(|(id, entry)| AuditEntry::of(id, entry)).collect();
    let next_cursor = next.map(|next| paging.cursor(&format!("{}.{}", next.change, next.action)));
    Ok(HttpResponse::Ok().json(AuditLog { items, next_cursor }))
}

async fn page(
    state: &web::Data<State>,
    filter: &AuditFilter,
    from: AuditPosition,
    limit: usize,
) -> Result<AuditPage, Problem> {
    let (configuration, filter) = (state.handles.configuration.clone(), filter.clone());
    let page = web::block(move || configuration.audit_page(&filter, from, limit)).await;
    page.map_err(|error| Problem::internal(&error))?.map_err(|error| store_problem(&error))
}

/// All of it, read while it is sent: memory holds a page.
fn export(state: web::Data<State>, filter: AuditFilter, from: AuditPosition) -> HttpResponse {
    let lines = stream::unfold(Some(from), move |at| {
        let (state, filter) = (state.clone(), filter.clone());
        async move {
            let from = at?;
            match page(&state, &filter, from, EXPORTED_AT_ONCE).await {
                Ok(AuditPage { entries, next }) => {
                    let line =
                        |(id, entry)| serde_json::to_string(&AuditEntry::of(id, entry)).unwrap_or_default() + "\n";
                    Some((Ok(Bytes::from(entries.into_iter().map(line).collect::<String>())), next))
                }
                // the answer has begun: cut off, so that nobody takes a part for the whole
                Err(problem) => Some((Err(std::io::Error::other(problem.to_string())), None)),
            }
        }
    });
    HttpResponse::Ok().content_type(NDJSON).streaming(lines)
}

impl AuditEntry {
    /// From what is stored.
    fn of(id: String, stored: Value) -> Self {
        let Value::Object(mut stored) = stored else { return AuditEntry::of(id, json!({})) };
        let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
        let mut take = |field: &str| stored.remove(field).filter(|value| !value.is_null());
        let actor = take("actor").unwrap_or_default();
        let of_actor = |field: &str| text(actor.get(field).cloned());
        let record = |value: Option<Value>| {
            let mut value = value?;
            value.as_object_mut().map(|record| record.remove("v"));
            Some(value)
        };
        take("v");
        let mut entry = AuditEntry {
            id,
            at: text(take("at")).unwrap_or_default(),
            actor: AuditActor {
                key: of_actor("key").unwrap_or_default(),
                identity_provider: of_actor("identityProvider"),
                client: of_actor("client"),
                request_id: of_actor("requestId"),
            },
            action: text(take("change").or_else(|| take("action"))).unwrap_or_default(),
            object: text(take("object")),
            revision: take("revision").and_then(|revision| revision.as_u64()),
            before: record(take("before")),
            after: record(take("after")),
            detail: take("detail"),
            outcome: text(take("outcome")).unwrap_or_else(|| "done".to_owned()),
        };
        if entry.detail.is_none() && !stored.is_empty() {
            entry.detail = Some(Value::Object(std::mem::take::<Map<_, _>>(&mut stored)));
        }
        entry
    }
}

/// Does something that an operator asked for: first writes down that he does it, durably, and afterwards if it was not possible.
pub(super) async fn audited<T>(
    request: &HttpRequest,
    state: &State,
    object: &str,
    action: &str,
    detail: Value,
    deed: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    let configuration = &state.handles.configuration;
    let entry = configuration.begin_action(object, action, detail, &actor(request)).await;
    let entry = entry.map_err(|error| problem(error, object))?;
    match deed.await {
        Ok(done) => Ok(done),
        Err(problem) => {
            configuration.action_failed(entry, problem.detail()).await;
            Err(problem)
        }
    }
}

fn entry_example() -> Value {
    json!({
        "id": "change-7", "at": "2026-11-24T10:15:02.113Z",
        "actor": {"key": "terraform", "client": "10.0.0.7", "requestId": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"},
        "action": "updated", "object": "connectors/partner", "revision": 7,
        "before": {"labels": {}, "owner": "api", "generation": 1, "spec": {"enabled": true}},
        "after": {"labels": {}, "owner": "api", "generation": 2, "spec": {"enabled": false}},
        "outcome": "done"
    })
}

fn lines_example() -> Value {
    line(&entry_example())
}

fn list_example() -> Value {
    json!({"items": [
        {
            "id": "action-12", "at": "2026-11-24T10:16:40.020Z", "actor": {"key": "ada", "client": "10.0.0.7"},
            "action": "freeze", "object": "queues/dns:default:example.com", "outcome": "done"
        },
        entry_example()
    ]})
}
