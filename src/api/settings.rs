//! `settings`: the one object that concerns the whole appliance.

use actix_web::{HttpRequest, HttpResponse, get, patch, put, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::errors::{PatchErrors, PutErrors, ReadErrors};
use super::etag::{CreateCondition, MatchCondition, ReadCondition};
use super::problem::Problem;
use super::query::{NoParams, Params};
use super::resources::{self, Resource, Told, WriteParams};
use super::server::State;
use super::shapes::{MergePatch, ObjectStatus};
use super::status;
use crate::config::{Effects, Object, Warning};
use crate::model::labels::Labels;
use crate::model::spec::{Collection, SETTINGS, SettingsSpec};

/// The settings of the appliance.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = example)]
pub struct Settings {
    /// Always `settings`.
    name: String,
    /// Labels, for people and tools.
    labels: Labels,
    /// Who owns it: `api`, `file`, `system`, or the name that an apply gave.
    owner: String,
    /// Counts the changes of labels and spec; also the entity tag.
    generation: u64,
    /// What shall hold. Every field that has a default is shown with it.
    #[schema(value_type = SettingsSpec)]
    spec: Value,
    /// How it is now.
    status: ObjectStatus,
    /// Only in the answer to a write: what is allowed but may not be meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<Warning>,
    /// Only in the answer to a write that changes addresses of recipients: how many, and in a dry run which.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    effects: Option<Effects>,
}

/// What to write to the settings. Absent fields take their defaults.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = input_example)]
#[allow(dead_code, reason = "only described; config reads the JSON, to report everything that is wrong")]
pub struct SettingsInput {
    /// Labels, for people and tools.
    #[serde(default)]
    labels: Labels,
    /// What shall hold.
    spec: SettingsSpec,
}

impl Resource for Settings {
    const COLLECTION: Collection = Collection::Settings;

    fn show(object: Object, told: Told, state: &State) -> Self {
        let status = status::settings(&object, state);
        Settings {
            name: object.name.to_string(),
            labels: object.labels,
            owner: object.owner,
            generation: object.generation,
            spec: object.spec,
            status,
            warnings: told.warnings,
            effects: told.effects,
        }
    }
}

/// Get the settings
///
/// What concerns the whole appliance. The entity tag is the generation. Scope: `config:read`.
#[utoipa::path(
    tag = "settings",
    operation_id = "getSettings",
    params(ReadCondition),
    responses(
        (status = 200, description = "The settings.", body = Settings,
            headers(("ETag" = String, description = "The generation in quotes.")), example = example),
        (status = 304, description = "They still have this generation."),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:read")))
)]
#[get("/settings")]
pub async fn get_settings(
    request: HttpRequest,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    resources::get::<Settings>(&request, SETTINGS, &state).await
}

/// Replace the settings
///
/// Absent fields take their defaults. Equal content changes nothing. All violations are reported at once, and then
/// nothing is changed. Scope: `config:write`.
#[utoipa::path(
    tag = "settings",
    operation_id = "putSettings",
    params(
        WriteParams,
        MatchCondition,
        CreateCondition,
    ),
    request_body(content = SettingsInput, content_type = "application/json", description = "What shall hold.", example = input_example),
    responses(
        (status = 200, description = "They were replaced, or were equal already; the header tells which.", body = Settings,
            headers(
                ("ETag" = String, description = "The generation in quotes."),
                ("Bridgehead-Change" = String, description = "`updated` or `unchanged`."),
            ), example = example),
        (status = 201, description = "They were created.", body = Settings,
            headers(("ETag" = String, description = "The generation in quotes.")), example = example),
        PutErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:write")))
)]
#[put("/settings")]
pub async fn put_settings(
    request: HttpRequest,
    payload: web::Payload,
    params: Params<WriteParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    resources::put::<Settings>(&request, payload, SETTINGS, params.0, &state).await
}

/// Change the settings
///
/// Merges the body into labels and spec (JSON merge patch, RFC 7396): what is absent stays, null puts a field back to
/// its default, lists are replaced whole. Scope: `config:write`.
#[utoipa::path(
    tag = "settings",
    operation_id = "patchSettings",
    params(
        WriteParams,
        MatchCondition,
    ),
    request_body(content = MergePatch, content_type = "application/merge-patch+json", description = "What shall change.", example = patch_example),
    responses(
        (status = 200, description = "The settings as they are now.", body = Settings,
            headers(
                ("ETag" = String, description = "The generation in quotes."),
                ("Bridgehead-Change" = String, description = "`updated` or `unchanged`."),
            ), example = example),
        PatchErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:write")))
)]
#[patch("/settings")]
pub async fn patch_settings(
    request: HttpRequest,
    payload: web::Payload,
    params: Params<WriteParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    resources::patch::<Settings>(&request, payload, SETTINGS, params.0, &state).await
}

fn example() -> Value {
    json!({
        "name": "settings", "labels": {}, "owner": "system", "generation": 7,
        "spec": {"organization": "Example Ltd", "retention": {"deadLetter": "14d"}},
        "status": {"state": "active", "conditions": []}
    })
}

fn input_example() -> Value {
    json!({"spec": {"organization": "Example Ltd", "retention": {"deadLetter": "30d"}}})
}

fn patch_example() -> Value {
    json!({"spec": {"organization": null}})
}
