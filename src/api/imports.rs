//! `imports`: bringing in what an old server left behind.

use actix_web::{HttpRequest, HttpResponse, get, post, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::audit::audited;
use super::body;
use super::errors::{BulkErrors, ListErrors, ReadErrors};
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{NoParams, Params};
use super::queues::store_problem;
use super::resources::{DryRun, actor};
use super::server::State;
use crate::config::ViolationCode;
use crate::mailroot::import::{AREAS, Area, Import, ImportError, QueueEnvelope, Wanted};
use crate::model::name::Name;
use crate::model::path::RelativePath;

/// An old mailroot, and what of it to import.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = request_example)]
pub struct MailrootRequest {
    /// The mailroot, or the directory of a virtual server in it: a path below the import directory.
    path: RelativePath,
    /// Which of its directories. Default: all four.
    #[serde(default = "all_areas")]
    #[schema(min_items = 1, max_items = 4, default = json!(["pickup", "queue", "badmail", "drop"]))]
    areas: Vec<Area>,
    /// From where the envelope of a message in `Queue` is taken.
    #[serde(default)]
    #[schema(default = "lines")]
    queue_envelope: QueueEnvelope,
    /// The virtual server that takes the mail. Default: the default one.
    #[serde(default)]
    #[schema(nullable = false)]
    virtual_server: Option<Name>,
}

fn all_areas() -> Vec<Area> {
    AREAS.to_vec()
}

/// All imports that are remembered.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MailrootImportList {
    /// The latest first; at most 20.
    items: Vec<Import>,
}

/// Import a mailroot
///
/// Brings in what the SMTP service of Windows or Exchange left below `Mailroot`, copied below the import directory: `Pickup` and `Queue`
/// become mail, `Badmail` goes to the dead-letter queue, `Drop` to local mailboxes (to the dead-letter queue for all others).
/// Nothing there is changed, and what was imported once is skipped. What cannot be read is named with its reason. With `dryRun=true` the answer is what would
/// be done, and who would be refused; else the import goes on in the background, and is there to follow. Scope: `queue:write`.
#[utoipa::path(
    tag = "imports",
    operation_id = "importMailroot",
    params(DryRun),
    request_body(content = MailrootRequest, content_type = "application/json", description = "Which mailroot.", example = request_example),
    responses(
        (status = 200, description = "With `dryRun`: what would be done.", body = Import, example = dry_example),
        (status = 202, description = "It has begun.", body = Import, example = begun_example),
        BulkErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/imports/mailroot")]
pub async fn import_mailroot(
    request: HttpRequest,
    payload: web::Payload,
    params: Params<DryRun>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let body = body::json(&request, payload, &["application/json"]).await?;
    let asked: MailrootRequest = body::typed(&body)?;
    let MailrootRequest { path, areas, queue_envelope, virtual_server } = asked;
    if areas.is_empty() {
        return Err(invalid("/areas", ViolationCode::OutOfRange, "at least 1 entries are needed"));
    }
    let DryRun(dry_run) = params.0;
    let wanted = Wanted { path, areas, queue_envelope, virtual_server, dry_run, by: actor(&request).key };
    let deed = async { state.handles.imports.begin(wanted).await.map_err(problem) };
    let import = match dry_run {
        true => deed.await?,
        false => audited(&request, &state, "imports/mailroot", "import", body.clone(), deed).await?,
    };
    let mut answer = if dry_run { HttpResponse::Ok() } else { HttpResponse::Accepted() };
    Ok(answer.json(import))
}

/// List imports of mailroots
///
/// The one that runs, and the latest that have ended. Scope: `queue:read`.
#[utoipa::path(
    tag = "imports",
    operation_id = "listMailrootImports",
    responses(
        (status = 200, description = "The imports.", body = MailrootImportList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/imports/mailroot")]
pub async fn list_mailroot_imports(_: Params<NoParams>, state: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok().json(MailrootImportList { items: state.handles.imports.all() })
}

/// Get an import of a mailroot
///
/// How far it has come, and which files it could not read. After a restart only the first of these are known. Scope: `queue:read`.
#[utoipa::path(
    tag = "imports",
    operation_id = "getMailrootImport",
    params(("id" = String, Path, description = "The import's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11")),
    responses(
        (status = 200, description = "The import.", body = Import, example = dry_example),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/imports/mailroot/{id}")]
pub async fn get_mailroot_import(
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let missing = || Problem::new(ProblemKind::NotFound, format!("there is no import {:?}", id.as_str()));
    let wanted: Uuid = id.parse().map_err(|_| missing())?;
    let import = state.handles.imports.all().into_iter().find(|import| import.id == wanted).ok_or_else(missing)?;
    Ok(HttpResponse::Ok().json(import))
}

fn problem(error: ImportError) -> Problem {
    let words = error.to_string();
    match error {
        ImportError::NotThere { .. } => invalid("/path", ViolationCode::UnknownReference, &words),
        ImportError::NoServer(_) => invalid("/virtualServer", ViolationCode::UnknownReference, &words),
        ImportError::Running => Problem::new(ProblemKind::Conflict, words),
        ImportError::Store(error) => store_problem(&error),
    }
}

fn invalid(pointer: &str, code: ViolationCode, detail: &str) -> Problem {
    let error = FieldError::at(pointer, code, detail);
    Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(vec![error])
}

fn request_example() -> Value {
    json!({"path": "mailroot/vsi 1", "areas": ["pickup", "queue", "badmail"], "queueEnvelope": "lines"})
}

fn dry_example() -> Value {
    json!({
        "id": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11", "path": "mailroot/vsi 1", "dryRun": true, "by": "bootstrap",
        "state": "done", "startedAt": "2026-11-29T10:15:02.113Z", "endedAt": "2026-11-29T10:15:03.201Z",
        "found": 412, "imported": 408, "skipped": 1, "refusedCount": 1,
        "refused": [{"file": "Pickup/b.txt", "why": "gone@example.com: gone@example.com is not in the directory"}], "unreadableCount": 1,
        "unreadable": [{"file": "Queue/NTFS_1.EML", "why": "its envelope is not in the file"}],
        "ignoredCount": 2, "ignored": [{"file": "Queue/a.LTR", "why": "a transcript of a session, no message"}]
    })
}

fn begun_example() -> Value {
    json!({
        "id": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11", "path": "mailroot/vsi 1", "dryRun": false, "by": "bootstrap",
        "state": "running", "startedAt": "2026-11-29T10:15:02.113Z", "found": 0, "imported": 0, "skipped": 0,
        "refusedCount": 0, "refused": [], "unreadableCount": 0, "unreadable": [], "ignoredCount": 0, "ignored": []
    })
}

fn list_example() -> Value {
    json!({"items": [dry_example()]})
}
