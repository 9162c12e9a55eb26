//! `queue-export` and `queue-import`: the queue into a file and back.
//!
//! Both stream: memory is bounded by a line, whatever comes. What the lines are, [`crate::queue::transfer`] tells.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, get, post, web};
use bytes::{Buf, BytesMut};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::audit::audited;
use super::body::{self, BODY_TIMEOUT};
use super::errors::{BulkErrors, ListErrors};
use super::messages::MessageParams;
use super::ndjson::{self, NDJSON};
use super::problem::{Problem, ProblemKind};
use super::query::{self, FromQuery, Params, Query};
use super::queues::store_problem;
use super::resources::actor;
use super::server::State;
use crate::queue::transfer::{Import, Imported};
use crate::store::StoreError;

/// The longest line.
const MAX_LINE: usize = 4 << 20;

/// Which messages to export: the filters of the listing.
#[derive(Debug)]
pub struct ExportParams(MessageParams);

impl IntoParams for ExportParams {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let listing = MessageParams::into_params(parameter_in);
        listing.into_iter().filter(|one| !["limit", "cursor", "sort"].contains(&one.name.as_str())).collect()
    }
}

impl FromQuery for ExportParams {
    fn from_query(query: &mut Query) -> Self {
        ExportParams(MessageParams::from_query(query))
    }
}

/// A line of an exported queue.
pub enum QueueLine {}

impl PartialSchema for QueueLine {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Type};
        let words = "One line of an exported queue: its first line, the envelope of a message (`message`), a piece of its content \
                     (`content`, base64), the end of a message with its checksum (`end`), or the last line (`complete`).";
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some(words))
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .examples([line_example()])
            .into()
    }
}

impl ToSchema for QueueLine {}

ndjson::lines!(QueueLines of QueueLine, "An exported queue, one JSON object a line, each a `QueueLine`.");

/// How to bring a queue in.
#[derive(Debug)]
pub struct ImportParams {
    dry_run: bool,
    held: bool,
}

impl IntoParams for ImportParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![
            query::flag("dryRun", "Whether to look only: nothing is taken.", false),
            query::flag("held", "Whether every message arrives frozen: nothing is tried until it is thawed.", false),
        ]
    }
}

impl FromQuery for ImportParams {
    fn from_query(query: &mut Query) -> Self {
        ImportParams { dry_run: query.get("dryRun").unwrap_or(false), held: query.get("held").unwrap_or(false) }
    }
}

/// What came of an import.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = import_example)]
pub struct QueueImport {
    /// Messages that were taken, each durable; in a dry run, that would be.
    imported: u64,
    /// Messages that were here already, by their ids.
    skipped: u64,
    /// Messages that could not be taken, and lines that cannot be read.
    failed: u64,
    /// What was wrong with them; the first 100.
    errors: Vec<QueueImportError>,
    /// Whether the last line of the export was there; when not, the file was cut.
    complete: bool,
}

/// What is wrong in an exported queue.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueImportError {
    /// The line; the first is 1.
    line: u64,
    /// The message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, format = "uuid")]
    id: Option<String>,
    /// What is wrong.
    detail: String,
}

/// Export the queue
///
/// The messages that the filters mean, or all, with their ids, states and content, as lines of JSON: one file for `POST /queue-import`, here or on another
/// machine. What leaves the queue meanwhile may be in the file all the same: freeze first what must not be delivered twice. The last line,
/// `complete`, counts the messages; a file without it was cut. Scope: `messages:content`.
#[utoipa::path(
    tag = "queues",
    operation_id = "exportQueue",
    params(ExportParams),
    responses(
        (status = 200, description = "The messages.", body = QueueLines, content_type = "application/x-ndjson", example = lines_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("messages:content")))
)]
#[get("/queue-export")]
pub async fn export_queue(
    request: HttpRequest,
    params: Params<ExportParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let filter = params.0.0.into_filter();
    audited(&request, &state, "queues", "export", Value::Null, async { Ok(()) }).await?;
    tracing::info!(key = actor(&request).key, "the queue is exported");
    let pieces = state.handles.steer.export(filter);
    let pieces = stream::unfold(pieces, |mut pieces| async { Some((pieces.recv().await?, pieces)) });
    Ok(HttpResponse::Ok()
        .content_type(NDJSON)
        .insert_header((header::CONTENT_DISPOSITION, "attachment; filename=\"queue.ndjson\""))
        .streaming::<_, StoreError>(pieces))
}

/// Import a queue
///
/// Brings in what `GET /queue-export` gave (`application/x-ndjson`, as long as you like), with ids and states: attempts, failures, dead letters, frozen ones. What is here
/// already is skipped, so an import that was cut off is simply sent again. Recipients that wait are routed anew; what is too old gets its time anew. What is
/// wrong is named by its line; the others are taken. One import at a time: another is 409. Scope: `queue:write`.
#[utoipa::path(
    tag = "queues",
    operation_id = "importQueue",
    params(ImportParams),
    request_body(content = QueueLines, content_type = "application/x-ndjson", description = "What an export gave.", example = lines_example),
    responses(
        (status = 200, description = "What became of it; look at `failed` and `complete`.", body = QueueImport, example = import_example),
        BulkErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/queue-import")]
pub async fn import_queue(
    request: HttpRequest,
    payload: web::Payload,
    params: Params<ImportParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    body::require_type(&request, &[NDJSON])?;
    let ImportParams { dry_run, held } = params.0;
    if !dry_run {
        audited(&request, &state, "queues", "import", json!({"held": held}), async { Ok(()) }).await?;
    }
    let mut import = match state.handles.steer.import(held, dry_run) {
        Ok(import) => import,
        Err(busy) => return Err(Problem::new(ProblemKind::Conflict, busy.to_string())),
    };
    let mut lines = 0;
    let taken = take_all(&mut import, payload, &mut lines).await;
    let Imported { imported, skipped, failed, errors, complete } = import.ended(lines);
    tracing::info!(key = actor(&request).key, imported, skipped, failed, complete, dry_run, "a queue was imported");
    if let Err(stopped) = taken {
        let more = format!("; {imported} messages before are kept, and sending all of it again goes on from there");
        return Err(if imported > 0 && !dry_run { stopped.and(&more) } else { stopped });
    }
    let error = |(line, id, detail): (u64, Option<crate::model::mail::MessageId>, String)| QueueImportError {
        line,
        id: id.map(|id| id.to_string()),
        detail,
    };
    let errors = errors.into_iter().map(error).collect();
    Ok(HttpResponse::Ok().json(QueueImport { imported, skipped, failed, errors, complete }))
}

async fn take_all(import: &mut Import, mut payload: web::Payload, lines: &mut u64) -> Result<(), Problem> {
    let mut buffer = BytesMut::new();
    let (mut searched, mut too_long) = (0, false);
    loop {
        let next = tokio::time::timeout(BODY_TIMEOUT, payload.next()).await;
        let next = next.map_err(|_| {
            let words = format!("nothing came for {} seconds", BODY_TIMEOUT.as_secs());
            Problem::new(ProblemKind::RequestTimeout, words)
        })?;
        let Some(chunk) = next else { break };
        buffer.extend_from_slice(&chunk.map_err(|error| Problem::new(ProblemKind::Malformed, error.to_string()))?);
        while let Some(at) = memchr::memchr(b'\n', &buffer[searched..]) {
            let line = buffer.split_to(searched + at);
            buffer.advance(1);
            searched = 0;
            *lines += 1;
            if !std::mem::take(&mut too_long) {
                import.line(*lines, &line).await.map_err(|error| store_problem(&error))?;
            }
        }
        searched = buffer.len();
        if buffer.len() > MAX_LINE {
            if !too_long {
                import.give_up(*lines + 1, format!("the line is longer than {MAX_LINE} bytes"));
            }
            // what is left of it is passed over
            too_long = true;
            buffer.clear();
            searched = 0;
        }
    }
    if !buffer.is_empty() && !too_long {
        *lines += 1;
        import.line(*lines, &buffer).await.map_err(|error| store_problem(&error))?;
    }
    Ok(())
}

fn line_example() -> Value {
    json!({"end": {"id": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11", "size": 6_140, "blake3": "7ed38d9ec4e4f0a6ff1fbb52b5d8ad6cf6a0d8f1f1d3d2f3f4bd5dbd2b0b4f1e"}})
}

fn lines_example() -> Value {
    ndjson::line(&line_example())
}

fn import_example() -> Value {
    json!({
        "imported": 1203, "skipped": 0, "failed": 1, "complete": true,
        "errors": [{"line": 812, "id": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11", "detail": "the content does not fit its checksum"}]
    })
}
