//! `api-keys`: who may call, and for what. Like all collections ([`super::resources`]), but that a key can be made.
//!
//! A PUT that gives no key makes one where there is no such object; the answer shows it, once. Of a key that is there it keeps
//! the key. A rotation makes a new one in its place, and lets the old one hold for a while. That nobody gives a key more than
//! he has is judged by `config::authority`.

use actix_web::{HttpRequest, HttpResponse, delete, get, patch, post, put, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::body;
use super::errors::{DeleteErrors, ListErrors, PatchErrors, PutErrors, ReadErrors};
use super::etag::{CreateCondition, MatchCondition, ReadCondition};
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{NoParams, Params};
use super::queues::store_problem;
use super::resources::{self, ListParams, Resource, Told, WriteParams};
use super::server::State;
use super::shapes::{Condition, ConditionStatus, ConditionType, MergePatch, ObjectState};
use crate::config::keys::ApiKey as NewKey;
use crate::config::{ChangeKind, Object, ViolationCode, Warning};
use crate::model::duration::Duration;
use crate::model::labels::Labels;
use crate::model::spec::{ApiKeySpec, Collection};
use crate::model::time::Timestamp;

/// Longest time that a key that was replaced may hold.
const LONGEST_OVERLAP: std::time::Duration = std::time::Duration::from_secs(90 * 86_400);

/// What is stored about an API key, and how it is now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = example)]
pub struct ApiKey {
    /// Its name, which never changes.
    name: String,
    /// Labels, for people and tools.
    labels: Labels,
    /// Who owns it: `api`, `file`, `system`, or the name that an apply gave.
    owner: String,
    /// Counts the changes of labels and spec; also the entity tag.
    generation: u64,
    /// What it may do. Every field that has a default is shown with it.
    #[schema(value_type = ApiKeySpec)]
    spec: Value,
    /// How it is now. Does not count as a change.
    status: ApiKeyStatus,
    /// Only in the answer to a write that made a key, and never again: the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    key: Option<String>,
    /// Only in the answer to a write: what is allowed but may not be meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<Warning>,
}

/// How an API key is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"state": "active", "lastUsedAt": "2026-11-24T10:15:02.113Z", "conditions": []}))]
pub struct ApiKeyStatus {
    /// `disabled` when it is not valid; the conditions say why.
    state: ObjectState,
    /// When it was last used; absent when never. After a crash it may lag by five minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false, nullable = false, format = DateTime)]
    last_used_at: Option<Timestamp>,
    /// Until when the key is valid too that this one replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false, nullable = false, format = DateTime)]
    previous_valid_until: Option<Timestamp>,
    /// What is to be known about it: `Expired`, or `ConfigAccepted` when the key cannot be read.
    conditions: Vec<Condition>,
}

/// A page of API keys.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "the shape that resources::Page has, with its name in OpenAPI")]
pub struct ApiKeyList {
    /// The objects of this page, by name.
    items: Vec<ApiKey>,
    /// Give it as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    next_cursor: Option<String>,
}

/// What to write to an API key. Absent fields take their defaults.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = input_example)]
#[allow(dead_code, reason = "only described; config reads the JSON, to report everything that is wrong")]
pub struct ApiKeyInput {
    /// Labels, for people and tools.
    #[serde(default)]
    labels: Labels,
    /// What it may do.
    spec: ApiKeySpec,
}

/// How to rotate a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"overlap": "1d"}))]
pub struct Rotation {
    /// How long the key that is replaced is valid too; at most 90d. Default: no longer.
    #[serde(default)]
    #[schema(required = false, nullable = false)]
    overlap: Option<Duration>,
}

impl Resource for ApiKey {
    const COLLECTION: Collection = Collection::ApiKeys;

    fn show(object: Object, told: Told, state: &State) -> Self {
        let status = status(&object, state);
        ApiKey {
            name: object.name.to_string(),
            labels: object.labels,
            owner: object.owner,
            generation: object.generation,
            spec: object.spec,
            status,
            key: told.made,
            warnings: told.warnings,
        }
    }
}

fn status(object: &Object, state: &State) -> ApiKeyStatus {
    let configuration = &state.handles.configuration;
    let (snapshot, now) = (configuration.live().current(), configuration.now());
    let known = snapshot.api_keys.get(&object.name).filter(|known| known.generation == object.generation);
    let condition = |kind, status, reason: &str, message: String| Condition {
        kind,
        status,
        reason: reason.to_owned(),
        message,
        last_transition_time: None,
        observed_generation: Some(object.generation),
    };
    let mut conditions = Vec::new();
    let end = object.spec["expiresAt"].as_str().and_then(|end| end.parse::<Timestamp>().ok());
    if let Some(end) = end.filter(|end| *end <= now) {
        let message = format!("it was valid until {end}");
        conditions.push(condition(ConditionType::Expired, ConditionStatus::True, "expired", message));
    }
    if let Some(Err(why)) = known.map(|known| &known.material) {
        let kind = ConditionType::ConfigAccepted;
        conditions.push(condition(kind, ConditionStatus::False, "keyUnreadable", why.clone()));
    }
    let previous = known.and_then(|known| known.material.as_ref().ok()?.previous.as_ref());
    ApiKeyStatus {
        state: if conditions.is_empty() { ObjectState::Active } else { ObjectState::Disabled },
        last_used_at: state.handles.key_use.last(&object.name),
        previous_valid_until: previous.map(|previous| previous.until).filter(|until| now < *until),
        conditions,
    }
}

/// List API keys
///
/// Who may call, with what each may do and when it was last used. Never the keys. Scope: `config:read`.
#[utoipa::path(
    tag = "api-keys",
    operation_id = "listApiKeys",
    params(ListParams),
    responses(
        (status = 200, description = "A page, by name.", body = ApiKeyList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:read")))
)]
#[get("/api-keys")]
pub async fn list_api_keys(
    request: HttpRequest,
    params: Params<ListParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    resources::list::<ApiKey>(&request, params.0, &state).await
}

/// Get an API key
///
/// What it may do and how it is. Never the key. The entity tag is the generation. Scope: `config:read`.
#[utoipa::path(
    tag = "api-keys",
    operation_id = "getApiKey",
    params(("name" = String, Path, description = "The object's name.", example = "monitoring"), ReadCondition),
    responses(
        (status = 200, description = "The object.", body = ApiKey,
            headers(("ETag" = String, description = "The generation in quotes.")), example = example),
        (status = 304, description = "It still has this generation."),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:read")))
)]
#[get("/api-keys/{name}")]
pub async fn get_api_key(
    request: HttpRequest,
    name: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    resources::get::<ApiKey>(&request, &name, &state).await
}

/// Create or replace an API key
///
/// Without `spec.key` a new object gets a key, which the answer shows in `key`, once; one that is there keeps the key it has. Nobody can
/// give a key more than he has himself, nor change one that has more: that is 403. Replaces labels and spec as a whole.
/// Scope: `keys:write`.
#[utoipa::path(
    tag = "api-keys",
    operation_id = "putApiKey",
    params(
        ("name" = String, Path, description = "The object's name.", example = "monitoring"),
        WriteParams,
        MatchCondition,
        CreateCondition,
    ),
    request_body(content = ApiKeyInput, content_type = "application/json", description = "What it may do.", example = input_example),
    responses(
        (status = 200, description = "It was replaced, or was equal already; the header tells which.", body = ApiKey,
            headers(
                ("ETag" = String, description = "The generation in quotes."),
                ("Bridgehead-Change" = String, description = "`updated` or `unchanged`."),
            ), example = example),
        (status = 201, description = "It was created, with this key.", body = ApiKey,
            headers(
                ("ETag" = String, description = "The generation in quotes."),
                ("Location" = String, description = "Where it is."),
                ("Bridgehead-Change" = String, description = "`created`."),
            ), example = made_example),
        PutErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("keys:write")))
)]
#[put("/api-keys/{name}")]
pub async fn put_api_key(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    params: Params<WriteParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let mut body = body::json(&request, payload, &["application/json"]).await?;
    let found = state.handles.configuration.get(Collection::ApiKeys, &name).map_err(|error| store_problem(&error))?;
    let mut made = None;
    if let Some(spec) = body.get_mut("spec").and_then(Value::as_object_mut).filter(|spec| !spec.contains_key("key")) {
        let key = match &found {
            Some(object) => object.spec["key"].clone(),
            None => {
                let key = NewKey::generate().map_err(|error| Problem::internal(&error))?;
                let digest = json!({"hash": key.digest()});
                made = Some(key);
                digest
            }
        };
        spec.insert("key".to_owned(), key);
    }
    let outcome = resources::put_value::<ApiKey>(&request, &body, &name, &params.0, &state).await?;
    if outcome.change == ChangeKind::Created && !params.0.dry_run {
        state.handles.key_use.forget(&outcome.object.name);
    }
    // of a dry run no key is kept, so none is shown
    let made = made.filter(|_| !params.0.dry_run).map(|key| key.to_string());
    Ok(resources::written::<ApiKey>(outcome, &params.0, made, &state))
}

/// Change an API key
///
/// Merges the body into labels and spec (JSON merge patch, RFC 7396): what is absent stays, null puts a field back to its default,
/// lists are replaced whole. Scope: `keys:write`.
#[utoipa::path(
    tag = "api-keys",
    operation_id = "patchApiKey",
    params(
        ("name" = String, Path, description = "The object's name.", example = "monitoring"),
        WriteParams,
        MatchCondition,
    ),
    request_body(content = MergePatch, content_type = "application/merge-patch+json", description = "What shall change.", example = patch_example),
    responses(
        (status = 200, description = "The object as it is now.", body = ApiKey,
            headers(
                ("ETag" = String, description = "The generation in quotes."),
                ("Bridgehead-Change" = String, description = "`updated` or `unchanged`."),
            ), example = example),
        PatchErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("keys:write")))
)]
#[patch("/api-keys/{name}")]
pub async fn patch_api_key(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    params: Params<WriteParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    resources::patch::<ApiKey>(&request, payload, &name, params.0, &state).await
}

/// Delete an API key
///
/// It is not valid from then on. Scope: `keys:write`.
#[utoipa::path(
    tag = "api-keys",
    operation_id = "deleteApiKey",
    params(
        ("name" = String, Path, description = "The object's name.", example = "monitoring"),
        WriteParams,
        MatchCondition,
    ),
    responses(
        (status = 200, description = "With `dryRun`: what would be deleted.", body = ApiKey, example = example),
        (status = 204, description = "It is gone."),
        DeleteErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("keys:write")))
)]
#[delete("/api-keys/{name}")]
pub async fn delete_api_key(
    request: HttpRequest,
    name: web::Path<String>,
    params: Params<WriteParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    resources::delete::<ApiKey>(&request, &name, params.0, &state).await
}

/// Rotate an API key
///
/// Makes a new key in the place of the old one; the answer shows it in `key`, once. With `overlap` the old one is valid for so
/// long too. A key that lies in a file or in the environment is rotated there: 409. Scope: `keys:write`.
#[utoipa::path(
    tag = "api-keys",
    operation_id = "rotateApiKey",
    params(
        ("name" = String, Path, description = "The object's name.", example = "monitoring"),
        MatchCondition,
    ),
    request_body(content = Rotation, content_type = "application/json", description = "How.", example = json!({"overlap": "1d"})),
    responses(
        (status = 200, description = "It has this key now.", body = ApiKey,
            headers(
                ("ETag" = String, description = "The generation in quotes."),
                ("Bridgehead-Change" = String, description = "`updated`."),
            ), example = made_example),
        PatchErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("keys:write")))
)]
#[post("/api-keys/{name}/rotate")]
pub async fn rotate_api_key(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let body = body::json(&request, payload, &["application/json"]).await?;
    let Rotation { overlap } = body::typed(&body)?;
    let overlap = overlap.map_or(std::time::Duration::ZERO, std::time::Duration::from);
    if overlap > LONGEST_OVERLAP {
        let wrong = FieldError::at("/overlap", ViolationCode::OutOfRange, "at most 90d");
        return Err(Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(vec![wrong]));
    }
    let configuration = &state.handles.configuration;
    let found = configuration.get(Collection::ApiKeys, &name).map_err(|error| store_problem(&error))?;
    let object = found.ok_or_else(|| resources::not_found(Collection::ApiKeys, &name))?;
    if ["file", "env"].iter().any(|place| object.spec["key"].get(*place).is_some()) {
        let detail = "the key lies outside of the store: replace it there";
        return Err(Problem::new(ProblemKind::Conflict, detail));
    }
    let key = NewKey::generate().map_err(|error| Problem::internal(&error))?;
    let mut hash = json!({"hash": key.digest()});
    if !overlap.is_zero() {
        hash["previousUntil"] = json!(configuration.now() + overlap);
    }
    let params = WriteParams { dry_run: false, take_over: false };
    let patch = json!({"spec": {"key": hash}});
    let outcome = resources::patch_value::<ApiKey>(&request, &patch, &name, &params, &state).await?;
    Ok(resources::written::<ApiKey>(outcome, &params, Some(key.to_string()), &state))
}

fn example() -> Value {
    json!({
        "name": "monitoring", "labels": {"team": "mail"}, "owner": "api", "generation": 7,
        "spec": {
            "role": "viewer", "allowFrom": ["10.0.0.0/8"], "expiresAt": "2027-06-30T00:00:00.000Z", "quotas": {},
            "key": {"set": true, "fingerprint": "JXWuZVqcZzCqW0E0Rl3Rmg"}
        },
        "status": {"state": "active", "lastUsedAt": "2026-11-24T10:15:02.113Z", "conditions": []}
    })
}

fn made_example() -> Value {
    let mut made = example();
    made["key"] = json!("bh_Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE");
    made
}

fn list_example() -> Value {
    json!({"items": [example()]})
}

fn input_example() -> Value {
    json!({"labels": {"team": "mail"}, "spec": {"role": "viewer", "allowFrom": ["10.0.0.0/8"]}})
}

fn patch_example() -> Value {
    json!({"spec": {"expiresAt": "2027-06-30T00:00:00Z"}})
}
