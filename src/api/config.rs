//! `config`: the whole configuration as one document: apply, export, revisions, going back.
//!
//! Nothing is decided here: `config` reads, plans and commits. A document is read on a thread of its own, as a large one
//! takes a CPU for a while.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, get, post, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::access;
use super::auth;
use super::body;
use super::codes::RequestCode;
use super::errors::{ApplyErrors, DeleteErrors, ExportErrors, ListErrors, RevisionErrors};
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{self, FromQuery, NoParams, Paging, Params, Query};
use super::resources::{actor, problem};
use super::server::State;
use crate::config::ViolationCode;
use crate::config::apply::{Applied, ApplyError, ApplyOptions};
use crate::config::document::{Document, DocumentError, Format, MAX_TEXT, Text};
use crate::config::export::{ExportError, Secrets};
use crate::config::history::{Head, RevisionKind};
use crate::config::revisions::{Changes, RevisionError};
use crate::model::access::Scope;
use crate::model::name::{MAX_NAME, Name};
use crate::model::spec::Collection;

const YAML: &str = "application/yaml";
const TYPES: [&str; 5] = ["application/json", YAML, "application/x-yaml", "text/yaml", "text/x-yaml"];
/// Owners that no apply can name.
const RESERVED: [&str; 2] = ["file", "system"];

/// A whole configuration; only described, `config` reads it.
pub enum ConfigDocument {}

impl PartialSchema for ConfigDocument {
    fn schema() -> RefOr<Schema> {
        let mut document = ObjectBuilder::new().schema_type(Type::Object).description(Some(
            "A whole configuration: collection → name → the fields of the object's `spec`, with `labels` among them; \
             `settings` are the fields themselves. `openapi/config.schema.json` (`bridgehead schema`) describes all of it.",
        ));
        let version = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["v1"]));
        document = document.property("apiVersion", version.description(Some("The version of this form.")));
        for collection in Collection::ALL {
            let about = match collection {
                Collection::Settings => "The settings.".to_owned(),
                _ => format!("Each {} by its name.", collection.noun()),
            };
            let shape = match collection {
                Collection::Settings => SchemaType::Type(Type::Object),
                // in YAML, a collection below which nothing stands
                _ => SchemaType::from_iter([Type::Object, Type::Null]),
            };
            let objects = ObjectBuilder::new()
                .schema_type(shape)
                .additional_properties(Some(AdditionalProperties::FreeForm(true)))
                .description(Some(about));
            document = document.property(collection.document(), objects);
        }
        document
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
            .examples([document_example()])
            .into()
    }
}

impl ToSchema for ConfigDocument {}

/// How to apply a document.
#[derive(Debug)]
pub struct ApplyParams(ApplyOptions);

impl IntoParams for ApplyParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let prune = "Delete what the same owner has and the document leaves out. The settings and the default recipient \
                     policy cannot go; they stay as they are and belong to nobody.";
        let owner = "Whose the objects are from now on. Default: `api`, like those that are written one by one. `file` and \
                     `system` are taken.";
        vec![
            query::flag(
                "dryRun",
                "Only say what the request would do: everything is checked, nothing is changed.",
                false,
            ),
            query::flag("prune", prune, false),
            query::text("owner", owner, "gitops"),
            query::flag("takeOver", "Also write objects of other owners; never those of a file.", false),
            if_revision(),
        ]
    }
}

impl FromQuery for ApplyParams {
    fn from_query(query: &mut Query) -> Self {
        let owner = query.get::<Name>("owner").map(|owner| owner.to_string()).unwrap_or_else(|| "api".to_owned());
        if owner.len() > MAX_NAME || RESERVED.contains(&owner.as_str()) {
            let detail = format!("an owner is a name of at most {MAX_NAME} characters, but not file or system");
            query.refuse("owner", ViolationCode::InvalidValue, detail);
        }
        let mut flag = |name| query.get(name).unwrap_or(false);
        let (dry_run, prune, take_over) = (flag("dryRun"), flag("prune"), flag("takeOver"));
        let if_revision = query.get("ifRevision");
        ApplyParams(ApplyOptions { dry_run, prune, take_over, if_revision, ..ApplyOptions::new(owner) })
    }
}

fn if_revision() -> Parameter {
    let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
    query::parameter("ifRevision", number, "Only when this revision is in force; else 412.", json!(42))
}

/// What to export.
#[derive(Debug)]
pub struct ExportParams {
    secrets: Secrets,
}

impl IntoParams for ExportParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let word = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(["reference", "include"]))
            .default(Some(json!("reference")));
        let about = "`reference`: secrets stand as a read shows them; applied to the same appliance they stay. `include`: by \
                     their value, passwords by their hash; that also needs the scope `secrets:read` and is audited.";
        vec![query::parameter("secrets", word, about, json!("reference"))]
    }
}

impl FromQuery for ExportParams {
    fn from_query(query: &mut Query) -> Self {
        let secrets = match query.get::<String>("secrets").as_deref() {
            None | Some("reference") => Secrets::Reference,
            Some("include") => Secrets::Include,
            Some(_) => {
                query.refuse("secrets", RequestCode::InvalidParameter, "it is reference or include");
                Secrets::Reference
            }
        };
        ExportParams { secrets }
    }
}

/// How to go back.
#[derive(Debug)]
pub struct RollbackParams {
    dry_run: bool,
    if_revision: Option<u64>,
}

impl IntoParams for RollbackParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let dry = "Only say what the request would do: everything is checked, nothing is changed.";
        vec![query::flag("dryRun", dry, false), if_revision()]
    }
}

impl FromQuery for RollbackParams {
    fn from_query(query: &mut Query) -> Self {
        RollbackParams { dry_run: query.get("dryRun").unwrap_or(false), if_revision: query.get("ifRevision") }
    }
}

/// A revision of the configuration, in short.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = revision_example)]
pub struct ConfigRevision {
    /// Its number.
    revision: u64,
    /// When it was made.
    #[schema(format = DateTime)]
    at: String,
    /// The key that it was made with; `system` and `config-dir` are the appliance itself.
    by: String,
    /// The address that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    client: Option<String>,
    /// The request that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    request_id: Option<String>,
    /// What made it.
    kind: RevisionKind,
    /// Objects that were new.
    created: u64,
    /// Objects that were others then.
    updated: u64,
    /// Objects that were gone.
    deleted: u64,
    /// The first of these objects.
    objects: Vec<String>,
    /// Whether what it changed was too large to be kept: there is no way back to what was before it.
    too_large: bool,
}

impl From<Head> for ConfigRevision {
    fn from(head: Head) -> Self {
        ConfigRevision {
            revision: head.revision,
            at: head.at.to_string(),
            by: head.actor.key,
            client: head.actor.client.map(|client| client.to_string()),
            request_id: head.actor.request_id,
            kind: head.kind,
            created: head.created,
            updated: head.updated,
            deleted: head.deleted,
            objects: head.objects,
            too_large: head.too_large,
        }
    }
}

/// A page of revisions.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigRevisionList {
    /// The revisions of this page, newest first.
    items: Vec<ConfigRevision>,
    /// Give it as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    next_cursor: Option<String>,
}

/// A revision and what it changed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigRevisionChanges {
    /// The revision.
    revision: ConfigRevision,
    /// What it changed.
    changes: Changes,
}

/// Apply a document
///
/// All of its objects in one revision, or none; in YAML or JSON. What it leaves out stays, unless `prune`. Order does not
/// matter, and objects may name each other. All violations are told at once, with pointers into the document and line and
/// column. Listeners are tried, certificates read, addresses of recipients given in the same step. An object that belongs to
/// another owner is 409, and all of them are named. At most 32 MiB. Scope: `config:write`.
#[utoipa::path(
    tag = "config",
    operation_id = "applyConfig",
    params(ApplyParams),
    request_body(
        description = "The document.",
        content((ConfigDocument = "application/json", example = document_example), (ConfigDocument = "application/yaml", example = document_example)),
    ),
    responses(
        (status = 200, description = "What became of each object; of a dry run, what would have.", body = Applied, example = applied_example),
        ApplyErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:write")))
)]
#[post("/config/apply")]
pub async fn apply_config(
    request: HttpRequest,
    payload: web::Payload,
    params: Params<ApplyParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    body::require_type(&request, &TYPES)?;
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let format = if given.contains("yaml") { Format::Yaml } else { Format::Json };
    let text = body::read_up_to(&request, payload, MAX_TEXT).await?;
    let text = String::from_utf8(text)
        .map_err(|error| Problem::new(ProblemKind::Malformed, format!("the document is not UTF-8: {error}")))?;
    let read = web::block(move || Document::read(vec![Text { file: None, format, text }])).await;
    let document = read.map_err(|error| Problem::internal(&error))?.map_err(unreadable)?;
    let applied = state.handles.configuration.apply(&document, &params.0.0, &actor(&request)).await;
    // a large document takes a while to be forgotten
    drop(web::block(move || drop(document)));
    Ok(HttpResponse::Ok().json(applied.map_err(|error| match error {
        ApplyError::Invalid(found) => invalid(found.into_iter().map(FieldError::from).collect()),
        ApplyError::Change(error) => problem(error, "config"),
    })?))
}

/// Export the configuration
///
/// The whole of it as one document that can be applied again: JSON, or YAML with `Accept: application/yaml`. The header
/// `Bridgehead-Revision` has the revision that it is. Defaults are left out where they are the same for everybody.
/// Scope: `config:read`; with `secrets=include` also `secrets:read`.
#[utoipa::path(
    tag = "config",
    operation_id = "exportConfig",
    params(ExportParams),
    responses(
        (status = 200, description = "The document.",
            headers(("Bridgehead-Revision" = String, description = "The revision that it is.")),
            content((ConfigDocument = "application/json", example = document_example), (ConfigDocument = "application/yaml", example = document_example))),
        ExportErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:read")), ("x-scope-when" = json!({"secrets=include": "secrets:read"})))
)]
#[get("/config")]
pub async fn export_config(
    request: HttpRequest,
    params: Params<ExportParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let format = match (accept.find("yaml"), accept.find("json")) {
        (Some(yaml), Some(json)) if json < yaml => Format::Json,
        (Some(_), _) => Format::Yaml,
        (None, _) => Format::Json,
    };
    if params.0.secrets == Secrets::Include {
        let caller = auth::caller(&request).ok_or_else(|| Problem::internal(&"nobody calls"))?;
        access::require(&caller, Scope::SecretsRead)?;
    }
    let export = state.handles.configuration.export(format, params.0.secrets, &actor(&request)).await;
    let export = export.map_err(|error| match error {
        ExportError::TooLarge => Problem::new(ProblemKind::Conflict, error.to_string()),
        ExportError::Change(error) => problem(error, "config"),
    })?;
    let mut answer = HttpResponse::Ok();
    answer.insert_header(("Bridgehead-Revision", export.revision.to_string()));
    let media_type = if format == Format::Yaml { YAML } else { "application/json" };
    Ok(answer.content_type(media_type).body(export.text))
}

/// List revisions
///
/// Who changed the configuration, when, from where, newest first; as many as `settings.retention.revisions` says.
/// Scope: `config:read`.
#[utoipa::path(
    tag = "config",
    operation_id = "listConfigRevisions",
    params(Paging),
    responses(
        (status = 200, description = "A page.", body = ConfigRevisionList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:read")))
)]
#[get("/config/revisions")]
pub async fn list_config_revisions(params: Params<Paging>, state: web::Data<State>) -> Result<HttpResponse, Problem> {
    let paging = params.0;
    let before = paging.after.as_deref().and_then(|key| key.parse().ok());
    let (heads, more) = state.handles.configuration.revisions(before, paging.limit).await;
    let next_cursor = heads.last().filter(|_| more).map(|last| paging.cursor(&last.revision.to_string()));
    let items = heads.into_iter().map(ConfigRevision::from).collect();
    Ok(HttpResponse::Ok().json(ConfigRevisionList { items, next_cursor }))
}

/// Get a revision
///
/// Who made it, and what it changed, value by value. Secrets show as fingerprints. Scope: `config:read`.
#[utoipa::path(
    tag = "config",
    operation_id = "getConfigRevision",
    params(("revision" = u64, Path, description = "Its number.", example = 42)),
    responses(
        (status = 200, description = "The revision.", body = ConfigRevisionChanges, example = changes_example),
        RevisionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:read")))
)]
#[get("/config/revisions/{revision}")]
pub async fn get_config_revision(
    revision: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let revision = number(&revision)?;
    let (head, changes) = state.handles.configuration.revision(revision).await.map_err(refused)?;
    Ok(HttpResponse::Ok().json(ConfigRevisionChanges { revision: head.into(), changes }))
}

/// Compare two revisions
///
/// What is different from the state at one revision to the state at another, value by value. Scope: `config:read`.
#[utoipa::path(
    tag = "config",
    operation_id = "compareConfigRevisions",
    params(
        ("from" = u64, Path, description = "The one.", example = 40),
        ("to" = u64, Path, description = "The other.", example = 42),
    ),
    responses(
        (status = 200, description = "The differences.", body = Changes, example = difference_example),
        RevisionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:read")))
)]
#[get("/config/revisions/{from}/diff/{to}")]
pub async fn compare_config_revisions(
    path: web::Path<(String, String)>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let (from, to) = (number(&path.0)?, number(&path.1)?);
    let changes = state.handles.configuration.difference(from, to).await.map_err(refused)?;
    Ok(HttpResponse::Ok().json(changes))
}

/// Go back to a revision
///
/// Makes every object what it was at that revision, with its owner and secrets, in a new revision; it passes all checks and can
/// be gone back from. What a file of the watched directory says is gone back from in the file: 409. Scope: `config:write`.
#[utoipa::path(
    tag = "config",
    operation_id = "rollbackConfig",
    params(("revision" = u64, Path, description = "Its number.", example = 40), RollbackParams),
    responses(
        (status = 200, description = "What became of each object; of a dry run, what would have.", body = Applied, example = applied_example),
        DeleteErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:write")))
)]
#[post("/config/revisions/{revision}/rollback")]
pub async fn rollback_config(
    request: HttpRequest,
    revision: web::Path<String>,
    params: Params<RollbackParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let revision = number(&revision)?;
    let RollbackParams { dry_run, if_revision } = params.0;
    let applied = state.handles.configuration.rollback(revision, dry_run, if_revision, &actor(&request)).await;
    Ok(HttpResponse::Ok().json(applied.map_err(refused)?))
}

fn number(text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| Problem::new(ProblemKind::NotFound, format!("{text:?} is no number of a revision")))
}

fn unreadable(error: DocumentError) -> Problem {
    match error {
        DocumentError::Invalid(found) => invalid(found.into_iter().map(FieldError::from).collect()),
        DocumentError::Unreadable { place, detail, repeated } => {
            let code = if repeated { RequestCode::RepeatedField } else { RequestCode::Malformed };
            let at = place.as_ref().map(|at| format!(" at line {}, column {}", at.line, at.column)).unwrap_or_default();
            let (line, column) = place.map_or((None, None), |at| (Some(at.line), Some(at.column)));
            let error = FieldError { line, column, ..FieldError::at("", code, detail) };
            Problem::new(ProblemKind::Malformed, format!("the document cannot be read{at}")).with_errors(vec![error])
        }
    }
}

fn invalid(errors: Vec<FieldError>) -> Problem {
    let count = errors.len();
    let detail = format!("{count} violation{}; nothing was changed", if count == 1 { "" } else { "s" });
    Problem::new(ProblemKind::Invalid, detail).with_errors(errors)
}

fn refused(error: RevisionError) -> Problem {
    match error {
        RevisionError::Unknown(_) => Problem::new(ProblemKind::NotFound, error.to_string()),
        RevisionError::OutOfReach(_) => Problem::new(ProblemKind::Conflict, error.to_string()),
        RevisionError::Change(error) => problem(error, "config"),
    }
}

fn document_example() -> Value {
    json!({
        "apiVersion": "v1",
        "connectors": {
            "partner": {
                "labels": {"team": "mail"},
                "addressSpaces": [{"pattern": "*.partner.example"}],
                "route": {"smartHosts": [{"host": "mx.partner.example"}]}
            }
        }
    })
}

fn applied_example() -> Value {
    json!({
        "revision": 42, "dryRun": false, "created": 0, "updated": 1, "unchanged": 0, "deleted": 0,
        "objects": [{
            "object": "connectors/partner", "change": "updated",
            "diff": [{"pointer": "/spec/enabled", "before": true, "after": false}]
        }],
        "truncated": false,
        "warnings": [],
        "effects": {
            "recipients": {"changed": 0, "newPrimary": 0},
            "listeners": [{"virtualServer": "internal", "address": "0.0.0.0", "port": 2526, "change": "opened"}],
            "certificates": [{"name": "mail", "names": ["mail.example.com"], "notAfter": "2027-01-30T08:00:00.000Z"}]
        }
    })
}

fn revision_example() -> Value {
    json!({
        "revision": 42, "at": "2026-11-29T10:15:02.113Z", "by": "bootstrap", "client": "192.0.2.7",
        "requestId": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11", "kind": "apply", "created": 0, "updated": 1, "deleted": 0,
        "objects": ["connectors/partner"], "tooLarge": false
    })
}

fn list_example() -> Value {
    json!({"items": [revision_example()]})
}

fn difference_example() -> Value {
    json!({
        "changed": 1, "truncated": false,
        "objects": [{
            "object": "connectors/partner", "change": "updated",
            "diff": [{"pointer": "/spec/enabled", "before": true, "after": false}]
        }]
    })
}

fn changes_example() -> Value {
    json!({"revision": revision_example(), "changes": difference_example()})
}
