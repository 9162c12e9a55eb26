//! What the directory can do besides being read and written: show addresses before they are given, and take in recipients
//! by the hundred thousand.
//!
//! An import streams: memory is bounded by a batch ([`crate::config::import`]), whatever comes. A line that is wrong is
//! told with its number; the others are taken all the same.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, post, web};
use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::body::{self, BODY_TIMEOUT};
use super::errors::ImportErrors;
use super::ndjson::{self, NDJSON};
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{NoParams, Params};
use super::resources::{WriteParams, actor, problem};
use super::server::State;
use crate::config::import::{BATCH_LINES, Import, Line};
use crate::config::preview::{MOST_PREVIEWED, PreviewRequest, Previewed};
use crate::config::{ChangeError, Violation, ViolationCode, strict};
use crate::model::labels::Labels;
use crate::model::spec::recipient::StampedAddress;
use crate::model::spec::{RecipientPolicySpec, RecipientSpec};

/// The longest line of an import, and the octets of lines in one batch.
const MAX_LINE: usize = 4 << 20;

/// Whose addresses to show, and under which policy.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = preview_request)]
pub struct AddressPreviewRequest {
    /// A policy as if it were stored under this name. Default: the policies in force.
    #[serde(default)]
    #[schema(nullable = false)]
    policy: Option<PolicyToPreview>,
    /// The recipients, each for itself.
    #[schema(min_items = 1, max_items = 1_000)]
    recipients: Vec<RecipientToPreview>,
}

/// A policy as if it were stored.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyToPreview {
    /// Its name; that of a stored policy puts this one in its place.
    name: String,
    /// What it shall be.
    #[schema(value_type = RecipientPolicySpec)]
    spec: Value,
}

/// A recipient whose addresses are asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecipientToPreview {
    /// Its name.
    name: String,
    /// What it would be; needed for one that is not stored. Default: what is stored.
    #[serde(default)]
    #[schema(value_type = Option<RecipientSpec>, nullable = false)]
    spec: Option<Value>,
}

/// The addresses that recipients would get.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressPreview {
    /// In the order of the request.
    items: Vec<PreviewedRecipient>,
}

/// The addresses that one recipient would get.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewedRecipient {
    /// The recipient.
    name: String,
    /// The policy that wins: of all that match the first by priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    policy: Option<String>,
    /// The addresses it has; empty when it is not stored.
    before: Vec<StampedAddress>,
    /// The addresses it would get, the primary one first.
    after: Vec<StampedAddress>,
    /// Why it cannot have its addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
}

/// Preview addresses
///
/// Which addresses recipients get: under the policies in force, or as if `policy` were already there; stored recipients, or
/// such as you describe. Nothing is changed. What a policy would do to *all* recipients its own dry run tells.
/// Scope: `config:read`.
#[utoipa::path(
    tag = "recipient-policies",
    operation_id = "previewAddresses",
    request_body(content = AddressPreviewRequest, content_type = "application/json", description = "Whose, under which policy.", example = preview_request),
    responses(
        (status = 200, description = "The addresses.", body = AddressPreview, example = preview_answer),
        ImportErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:read")))
)]
#[post("/recipient-policies/preview")]
pub async fn preview_addresses(
    request: HttpRequest,
    payload: web::Payload,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let body = body::json(&request, payload, &["application/json"]).await?;
    let asked: AddressPreviewRequest = body::typed(&body)?;
    if !(1..=MOST_PREVIEWED).contains(&asked.recipients.len()) {
        let detail = format!("1 to {MOST_PREVIEWED} recipients are needed");
        return Err(invalid(vec![FieldError::at("/recipients", ViolationCode::OutOfRange, detail)]));
    }
    let asked = PreviewRequest {
        policy: asked.policy.map(|policy| (policy.name, policy.spec)),
        recipients: asked.recipients.into_iter().map(|recipient| (recipient.name, recipient.spec)).collect(),
    };
    let previewed = state.handles.configuration.preview(&asked).await.map_err(|error| problem(error, "preview"))?;
    let item = |Previewed { name, policy, before, after, violations }: Previewed| PreviewedRecipient {
        name: name.to_string(),
        policy: policy.map(|policy| policy.to_string()),
        before,
        after,
        errors: violations.into_iter().map(FieldError::from).collect(),
    };
    Ok(HttpResponse::Ok().json(AddressPreview { items: previewed.into_iter().map(item).collect() }))
}

/// A line of an import: what `PUT` takes, with the name beside it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = import_line)]
#[allow(dead_code, reason = "only described; config reads the JSON, to report everything that is wrong")]
pub struct RecipientLine {
    /// The recipient's name.
    name: String,
    /// Labels, for people and tools.
    #[serde(default)]
    labels: Labels,
    /// What it shall be. Absent fields take their defaults.
    spec: RecipientSpec,
}

ndjson::lines!(RecipientLines of RecipientLine, "Recipients, one JSON object a line, each a `RecipientLine`.");

/// What became of an import.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportResult {
    /// Recipients that are new.
    created: u64,
    /// Recipients that were there and are another now.
    updated: u64,
    /// Recipients that were the same already.
    unchanged: u64,
    /// Lines that could not be taken.
    failed: u64,
    /// The first 100 of these lines.
    errors: Vec<LineErrors>,
}

/// What is wrong with a line.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LineErrors {
    /// Its number; the first line is 1.
    line: u64,
    /// The name in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    name: Option<String>,
    /// Everything that is wrong with it, with pointers from the root of the line.
    errors: Vec<FieldError>,
}

/// Import recipients
///
/// Creates or replaces recipients, one JSON object a line (`application/x-ndjson`), as many as you like: the body streams. Lines
/// are taken in batches of 1,000, each durable in one step; a line that is wrong is told with its number and does not hinder
/// the others. Recipients that are the same already stay as they are, so an import that was cut off is simply sent again. Who
/// is not in the body stays, too. Scope: `config:write`.
#[utoipa::path(
    tag = "recipients",
    operation_id = "importRecipients",
    params(WriteParams),
    request_body(content = RecipientLines, content_type = "application/x-ndjson", description = "One recipient a line.", example = import_lines),
    responses(
        (status = 200, description = "What became of the lines; look at `failed`.", body = ImportResult, example = import_answer),
        ImportErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:write")))
)]
#[post("/recipients/import")]
pub async fn import_recipients(
    request: HttpRequest,
    payload: web::Payload,
    params: Params<WriteParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    body::require_type(&request, &[NDJSON])?;
    let mut import = state.handles.configuration.import(actor(&request), params.0.mode());
    let mut lines = 0;
    let taken = take_all(&mut import, payload, &mut lines).await;
    let report = import.report();
    if let Err(stopped) = taken {
        let kept = report.created + report.updated;
        let more =
            format!("; {kept} recipients of the lines before are kept, and sending all of it again goes on from there");
        return Err(if kept > 0 && !params.0.dry_run { stopped.and(&more) } else { stopped });
    }
    let errors = report.errors.into_iter().map(|(line, name, violations)| LineErrors {
        line,
        name,
        errors: violations.into_iter().map(FieldError::from).collect(),
    });
    Ok(HttpResponse::Ok().json(ImportResult {
        created: report.created,
        updated: report.updated,
        unchanged: report.unchanged,
        failed: report.failed,
        errors: errors.collect(),
    }))
}

async fn take_all(import: &mut Import<'_>, mut payload: web::Payload, lines: &mut u64) -> Result<(), Problem> {
    let mut buffer = BytesMut::new();
    let mut batch = Batch::default();
    let mut searched = 0;
    loop {
        let chunk = tokio::time::timeout(BODY_TIMEOUT, payload.next()).await.map_err(|_| stalled())?;
        let end = chunk.is_none();
        if let Some(chunk) = chunk {
            let chunk = chunk.map_err(|error| Problem::new(ProblemKind::Malformed, error.to_string()))?;
            buffer.extend_from_slice(&chunk);
        }
        while let Some(at) = memchr::memchr(b'\n', &buffer[searched..]) {
            let line = buffer.split_to(searched + at);
            buffer.advance(1);
            searched = 0;
            batch.add(&line, lines);
            if batch.is_full() {
                batch.send(import).await?;
            }
        }
        searched = buffer.len();
        if buffer.len() > MAX_LINE {
            let detail = format!("line {} is longer than {MAX_LINE} bytes", *lines + 1);
            return Err(Problem::new(ProblemKind::TooLarge, detail));
        }
        if end {
            batch.add(&buffer, lines);
            return batch.send(import).await;
        }
    }
}

fn stalled() -> Problem {
    Problem::new(ProblemKind::RequestTimeout, format!("nothing came for {} seconds", Duration::as_secs(&BODY_TIMEOUT)))
}

#[derive(Default)]
struct Batch {
    lines: Vec<Line>,
    bytes: usize,
}

impl Batch {
    /// Empty lines are counted and passed over.
    fn add(&mut self, line: &[u8], number: &mut u64) {
        *number += 1;
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let parsed = strict::json(line).map_err(|error| {
            let detail = format!("the line is not valid JSON at column {}: {error}", error.column());
            Violation::new("", ViolationCode::InvalidValue, detail)
        });
        self.bytes += line.len();
        self.lines.push((*number, parsed));
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= BATCH_LINES || self.bytes >= MAX_LINE
    }

    async fn send(&mut self, import: &mut Import<'_>) -> Result<(), Problem> {
        self.bytes = 0;
        let lines = std::mem::take(&mut self.lines);
        if lines.is_empty() {
            return Ok(());
        }
        import.batch(lines).await.map_err(|error: ChangeError| problem(error, "import"))
    }
}

fn invalid(errors: Vec<FieldError>) -> Problem {
    Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(errors)
}

fn preview_request() -> Value {
    json!({
        "policy": {
            "name": "staff",
            "spec": {"priority": 10, "addresses": [{"template": "%g.%s@example.com", "primary": true}]}
        },
        "recipients": [{"name": "ada", "spec": {"givenName": "Ada", "surname": "Lovelace"}}]
    })
}

fn preview_answer() -> Value {
    json!({"items": [{
        "name": "ada", "policy": "staff", "before": [],
        "after": [{"address": "Ada.Lovelace@example.com", "primary": true}]
    }]})
}

fn import_line() -> Value {
    json!({"name": "ada", "spec": {"givenName": "Ada", "surname": "Lovelace", "attributes": {"department": "Research"}}})
}

fn import_lines() -> Value {
    ndjson::line(&import_line())
}

fn import_answer() -> Value {
    json!({
        "created": 998, "updated": 0, "unchanged": 1, "failed": 1,
        "errors": [{"line": 17, "name": "eve", "errors": [{
            "pointer": "/spec/addresses/0", "code": "addressTaken", "detail": "eve@example.com belongs to recipient eva"
        }]}]
    })
}
