//! `suppressions`: who must not be written to.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use super::audit::audited;
use super::body;
use super::codes::RequestCode;
use super::errors::{ActionErrors, BulkErrors, ImportErrors, ListErrors, ReadErrors};
use super::ndjson::{self, Line, Lines, NDJSON};
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{self, FromQuery, NoParams, Paging, Params, Query};
use super::queues::store_problem;
use super::resources::actor;
use super::server::State;
use crate::config::ViolationCode;
use crate::directory::suppressions::{self as list, MAX_REASON, Put, PutError, Source, Suppressions};
use crate::model::mailbox_pattern::{MailboxPattern, covering_keys};
use crate::model::time::Timestamp;
use crate::smtp::address::Mailbox;

/// Most entries looked at for a page.
const MAX_ROWS: usize = 50_000;
/// Rows read at once.
const PAGE: usize = 1_000;
/// Lines of an import that become durable together.
const BATCH: usize = 1_000;
const MAX_LINE: usize = 64 << 10;
/// Lines that are told when they are wrong.
const MOST_ERRORS: usize = 100;

/// Somebody who must not be written to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = example)]
pub struct Suppression {
    /// Who: an address, `*@domain`, or `*@*.domain` for all domains below one.
    address: MailboxPattern,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// Who says so.
    source: Source,
    /// When it ends; absent: when it is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    expires_at: Option<Timestamp>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// The key with which it was put there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by: Option<String>,
}

/// Somebody to put on the list.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = request_example)]
pub struct SuppressionRequest {
    /// Who: an address, `*@domain`, or `*@*.domain` for all domains below one.
    address: MailboxPattern,
    /// Why, for people; whoever writes to it is told.
    #[serde(default)]
    #[schema(max_length = 500, nullable = false)]
    reason: Option<String>,
    /// When it ends. Default: when it is deleted.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    expires_at: Option<Timestamp>,
    /// Who says so.
    #[serde(default = "manual")]
    #[schema(default = "manual")]
    source: Source,
}

fn manual() -> Source {
    Source::Manual
}

/// A page of the list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuppressionList {
    /// The entries of this page, by address.
    items: Vec<Suppression>,
    /// Give it as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    next_cursor: Option<String>,
}

/// What became of an import.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuppressionImport {
    /// Entries that are new.
    created: u64,
    /// Entries that were there and say something else now.
    updated: u64,
    /// Entries that were the same already.
    unchanged: u64,
    /// Lines that could not be taken.
    failed: u64,
    /// The first 100 of these lines.
    errors: Vec<SuppressionLineErrors>,
}

/// What is wrong with a line.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuppressionLineErrors {
    /// Its number; the first line is 1.
    line: u64,
    /// Everything that is wrong with it, with pointers from the root of the line.
    errors: Vec<FieldError>,
}

/// Which entries to list.
#[derive(Debug)]
pub struct SuppressionParams {
    paging: Paging,
    covers: Option<Mailbox>,
    source: Option<Source>,
}

impl IntoParams for SuppressionParams {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let source = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["manual", "permanentFailure"]));
        let mut parameters = Paging::into_params(parameter_in);
        parameters.extend([
            query::text(
                "covers",
                "Only entries that cover this address: its own, and those of domains.",
                "ada@example.com",
            ),
            query::parameter("source", source, "Only entries with this source.", json!("manual")),
        ]);
        parameters
    }
}

impl FromQuery for SuppressionParams {
    fn from_query(query: &mut Query) -> Self {
        let source = query.get::<String>("source").and_then(|word| match word.as_str() {
            "manual" => Some(Source::Manual),
            "permanentFailure" => Some(Source::PermanentFailure),
            _ => {
                query.refuse("source", RequestCode::InvalidParameter, "a source is manual or permanentFailure");
                None
            }
        });
        SuppressionParams { covers: query.get("covers"), source, paging: Paging::from_query(query) }
    }
}

/// List suppressions
///
/// Who must not be written to, by address. One call looks at no more than 50,000 entries and then gives a short page with
/// `nextCursor`. Scope: `queue:read`.
#[utoipa::path(
    tag = "suppressions",
    operation_id = "listSuppressions",
    params(SuppressionParams),
    responses(
        (status = 200, description = "A page of the list.", body = SuppressionList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/suppressions")]
pub async fn list_suppressions(
    params: Params<SuppressionParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let SuppressionParams { paging, covers, source } = params.0;
    let known = state.handles.suppressions.clone();
    let now = now();
    let wanted =
        move |entry: &list::Suppression| entry.holds(now) && source.is_none_or(|source| entry.source == source);
    let (limit, mut after) = (paging.limit, paging.after.clone());
    let found = blocking(move || {
        let mut items: Vec<(String, list::Suppression)> = Vec::new();
        if let Some(mailbox) = covers {
            let mut keys = covering_keys(&mailbox);
            keys.sort();
            for key in keys.into_iter().filter(|key| after.as_ref().is_none_or(|after| key > after)) {
                items.extend(known.get(&key)?.filter(|entry| wanted(entry)).map(|entry| (key, entry)));
            }
            let more = items.len() > limit;
            items.truncate(limit);
            let next = items.last().filter(|_| more).map(|(key, _)| key.clone());
            return Ok((items, next));
        }
        let mut scanned = 0;
        while scanned < MAX_ROWS {
            let page = known.page(after.as_deref(), PAGE)?;
            let ended = page.len() < PAGE;
            for (key, entry) in page {
                scanned += 1;
                if wanted(&entry) {
                    if items.len() == limit {
                        return Ok((items, after));
                    }
                    items.push((key.clone(), entry));
                }
                after = Some(key);
            }
            if ended {
                return Ok((items, None));
            }
        }
        Ok((items, after))
    });
    let (items, next) = found.await?;
    Ok(HttpResponse::Ok().json(SuppressionList {
        items: items.into_iter().map(|(_, entry)| Suppression::from(entry)).collect(),
        next_cursor: next.map(|key| paging.cursor(&key)),
    }))
}

/// Suppress an address
///
/// Nobody can send to it any more: submission is refused (550 5.7.1), and what waits for it already fails with a
/// notification to its sender. An entry that is there already is replaced. Scope: `queue:write`.
#[utoipa::path(
    tag = "suppressions",
    operation_id = "addSuppression",
    request_body(content = SuppressionRequest, content_type = "application/json", description = "Who, why, and for how long.", example = request_example),
    responses(
        (status = 200, description = "It was on the list already; as it is now.", body = Suppression, example = example),
        (status = 201, description = "It is on the list.", body = Suppression, example = example),
        BulkErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/suppressions")]
pub async fn add_suppression(
    request: HttpRequest,
    payload: web::Payload,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let body = body::json(&request, payload, &["application/json"]).await?;
    let asked: SuppressionRequest = body::typed(&body)?;
    let entry = entry(asked, &actor(&request).key, now())
        .map_err(|errors| Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(errors))?;
    let known = &state.handles.suppressions;
    let key = entry.address.key();
    let deed = async { known.put(vec![entry], now()).await.map_err(problem) };
    let put = audited(&request, &state, &format!("suppressions/{key}"), "suppress", Value::Null, deed).await?;
    let stored = known.get(&key).map_err(|error| store_problem(&error))?;
    let stored = stored.map(Suppression::from).ok_or_else(|| missing(&key))?;
    let mut answer = if put.created > 0 { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(answer.json(stored))
}

/// Get a suppression
///
/// The entry of exactly this address or pattern. Which entries cover an address tells the list with `covers`. Scope: `queue:read`.
#[utoipa::path(
    tag = "suppressions",
    operation_id = "getSuppression",
    params(("address" = String, Path, description = "The address or pattern.", example = "ada@example.com")),
    responses(
        (status = 200, description = "The entry.", body = Suppression, example = example),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/suppressions/{address}")]
pub async fn get_suppression(
    address: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let key = key_of(&address)?;
    let found = state.handles.suppressions.get(&key).map_err(|error| store_problem(&error))?;
    let found = found.filter(|entry| entry.holds(now())).ok_or_else(|| missing(&address))?;
    Ok(HttpResponse::Ok().json(Suppression::from(found)))
}

/// Delete a suppression
///
/// It may be written to again. Scope: `queue:write`.
#[utoipa::path(
    tag = "suppressions",
    operation_id = "deleteSuppression",
    params(("address" = String, Path, description = "The address or pattern.", example = "ada@example.com")),
    responses(
        (status = 204, description = "It is gone."),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[delete("/suppressions/{address}")]
pub async fn delete_suppression(
    request: HttpRequest,
    address: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let key = key_of(&address)?;
    let deed = async {
        let removed = state.handles.suppressions.remove(&key).await.map_err(|error| store_problem(&error))?;
        if removed { Ok(()) } else { Err(missing(&address)) }
    };
    audited(&request, &state, &format!("suppressions/{key}"), "unsuppress", Value::Null, deed).await?;
    Ok(HttpResponse::NoContent().finish())
}

ndjson::lines!(SuppressionLines of SuppressionRequest, "Suppressions, one JSON object a line, each a `SuppressionRequest`.");

/// Import suppressions
///
/// One JSON object a line (`application/x-ndjson`), as many as you like: the body streams. Lines are taken in batches of 1,000,
/// each durable in one step; a line that is wrong is told with its number and does not hinder the others. An import that was
/// cut off is simply sent again. What the export gives can be imported. Scope: `queue:write`.
#[utoipa::path(
    tag = "suppressions",
    operation_id = "importSuppressions",
    request_body(content = SuppressionLines, content_type = "application/x-ndjson", description = "One entry a line.", example = lines_example),
    responses(
        (status = 200, description = "What became of the lines; look at `failed`.", body = SuppressionImport, example = import_example),
        ImportErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/suppressions/import")]
pub async fn import_suppressions(
    request: HttpRequest,
    payload: web::Payload,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    body::require_type(&request, &[NDJSON])?;
    audited(&request, &state, "suppressions", "import", Value::Null, async { Ok(()) }).await?;
    let by = actor(&request).key;
    let mut lines = Lines::new(payload, MAX_LINE);
    let mut result = SuppressionImport::default();
    loop {
        let batch = lines.batch(BATCH).await?;
        if batch.is_empty() {
            return Ok(HttpResponse::Ok().json(result));
        }
        let mut entries = Vec::with_capacity(batch.len());
        for (number, line) in batch {
            match line_entry((number, line), &by) {
                Ok(entry) => entries.push(entry),
                Err(errors) => {
                    result.failed += 1;
                    if result.errors.len() < MOST_ERRORS {
                        result.errors.push(SuppressionLineErrors { line: number, errors });
                    }
                }
            }
        }
        let Put { created, updated, unchanged } =
            state.handles.suppressions.put(entries, now()).await.map_err(problem)?;
        result.created += created;
        result.updated += updated;
        result.unchanged += unchanged;
    }
}

/// Export suppressions
///
/// The whole list, one JSON object a line (`application/x-ndjson`), as the import takes it. Scope: `queue:read`.
#[utoipa::path(
    tag = "suppressions",
    operation_id = "exportSuppressions",
    responses(
        (status = 200, description = "One entry a line.", content_type = "application/x-ndjson", body = SuppressionLines, example = lines_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/suppressions/export")]
pub async fn export_suppressions(_: Params<NoParams>, state: web::Data<State>) -> HttpResponse {
    let known = state.handles.suppressions.clone();
    let pages = futures_util::stream::unfold(Some(None::<String>), move |after| {
        let known = known.clone();
        async move {
            let after = after?;
            match blocking(move || exported(&known, after.as_deref())).await {
                Ok((_, None)) => None,
                Ok((text, last)) => Some((Ok(Bytes::from(text)), Some(last))),
                // the client sees that the body breaks off
                Err(problem) => Some((Err(std::io::Error::other(problem.to_string())), None)),
            }
        }
    });
    HttpResponse::Ok().content_type(NDJSON).streaming(pages)
}

/// The lines of a page behind a key, and the last key of it.
fn exported(
    known: &Arc<Suppressions>,
    after: Option<&str>,
) -> Result<(String, Option<String>), crate::store::StoreError> {
    let page = known.page(after, PAGE)?;
    let now = now();
    let mut text = String::new();
    for (_, entry) in page.iter().filter(|(_, entry)| entry.holds(now)) {
        let mut line = json!({"address": entry.address, "source": entry.source});
        if let Some(reason) = &entry.reason {
            line["reason"] = json!(reason);
        }
        if let Some(end) = entry.expires_at {
            line["expiresAt"] = json!(end);
        }
        text.push_str(&format!("{line}\n"));
    }
    Ok((text, page.last().map(|(key, _)| key.clone())))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, crate::store::StoreError> + Send + 'static,
) -> Result<T, Problem> {
    let done = web::block(work).await.map_err(|error| Problem::internal(&error))?;
    done.map_err(|error| store_problem(&error))
}

fn line_entry((_, line): Line, by: &str) -> Result<list::Suppression, Vec<FieldError>> {
    let value = line.map_err(|detail| vec![FieldError::at("", RequestCode::Malformed, detail)])?;
    entry(body::fitting(&value)?, by, now())
}

fn entry(asked: SuppressionRequest, by: &str, now: Timestamp) -> Result<list::Suppression, Vec<FieldError>> {
    let SuppressionRequest { address, reason, expires_at, source } = asked;
    let mut errors = Vec::new();
    if reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON || reason.chars().any(char::is_control)) {
        let detail = format!("at most {MAX_REASON} bytes without control characters");
        errors.push(FieldError::at("/reason", ViolationCode::OutOfRange, detail));
    }
    if expires_at.is_some_and(|end| end <= now) {
        errors.push(FieldError::at("/expiresAt", ViolationCode::OutOfRange, "it is over already"));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(list::Suppression { address, reason, source, expires_at, created_at: now, by: Some(by.to_owned()) })
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn key_of(address: &str) -> Result<String, Problem> {
    let pattern: MailboxPattern =
        address.parse().map_err(|error| Problem::new(ProblemKind::NotFound, format!("{address:?}: {error}")))?;
    Ok(pattern.key())
}

fn missing(address: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("{address:?} is not on the suppression list"))
}

fn problem(error: PutError) -> Problem {
    match error {
        PutError::Full => Problem::new(ProblemKind::InsufficientStorage, error.to_string()),
        PutError::Store(error) => store_problem(&error),
    }
}

impl From<list::Suppression> for Suppression {
    fn from(entry: list::Suppression) -> Self {
        let list::Suppression { address, reason, source, expires_at, created_at, by } = entry;
        Suppression { address, reason, source, expires_at, created_at, by }
    }
}

fn lines_example() -> Value {
    ndjson::line(&request_example())
}

fn request_example() -> Value {
    json!({"address": "ada@example.com", "reason": "she asked us to", "expiresAt": "2027-06-30T00:00:00.000Z"})
}

fn example() -> Value {
    json!({
        "address": "ada@example.com", "reason": "she asked us to", "source": "manual",
        "expiresAt": "2027-06-30T00:00:00.000Z", "createdAt": "2026-11-29T10:15:02.113Z", "by": "bootstrap"
    })
}

fn list_example() -> Value {
    json!({"items": [example()]})
}

fn import_example() -> Value {
    json!({
        "created": 998, "updated": 0, "unchanged": 1, "failed": 1,
        "errors": [{"line": 17, "errors": [{
            "pointer": "/address", "code": "invalidValue", "detail": "mailboxes are given as an address"
        }]}]
    })
}
