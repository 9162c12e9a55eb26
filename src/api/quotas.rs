//! `quotas`: what accounts, API keys and sender domains have used up of how much they may send.

use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, delete, get, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use super::audit::audited;
use super::codes::RequestCode;
use super::errors::{ActionErrors, ListErrors};
use super::problem::{Problem, ProblemKind};
use super::query::{self, FromQuery, NoParams, Paging, Params, Query};
use super::server::State;
use crate::accounts::{Subject, Usage, What};
use crate::model::duration::Duration;
use crate::model::rate::Rate;

const KINDS: [&str; 3] = ["account", "apiKey", "senderDomain"];

/// What is used up of one limit.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = example)]
pub struct QuotaUsage {
    /// Whose it is.
    #[serde(rename = "type")]
    kind: QuotaSubject,
    /// The name of the account or API key, or the domain.
    name: String,
    /// What is counted.
    counts: What,
    /// The limit, as it was when it was counted last.
    limit: Rate,
    /// So many are used up.
    used: u32,
    /// So many more may go now.
    left: u32,
    /// When there is room for one more; absent while there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after: Option<Duration>,
    /// When nothing of it is used up any more, if nothing more is sent.
    full_after: Duration,
}

/// Who is limited.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum QuotaSubject {
    /// An account.
    Account,
    /// An API key.
    ApiKey,
    /// The domain of reverse-paths.
    SenderDomain,
}

/// A page of what is used up.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaList {
    /// The limits of this page: accounts, then API keys, then domains.
    items: Vec<QuotaUsage>,
    /// Give it as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    next_cursor: Option<String>,
}

/// Which limits to list.
#[derive(Debug)]
pub struct QuotaParams {
    paging: Paging,
    kind: Option<String>,
    name: Option<String>,
    used_up: bool,
}

impl IntoParams for QuotaParams {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let kinds = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(KINDS));
        let mut parameters = Paging::into_params(parameter_in);
        parameters.extend([
            query::parameter("type", kinds, "Only those of accounts, API keys or domains.", json!("account")),
            query::text("name", "Only those of this account, API key or domain.", "ada"),
            query::flag("usedUp", "Only those with room for none any more.", false),
        ]);
        parameters
    }
}

impl FromQuery for QuotaParams {
    fn from_query(query: &mut Query) -> Self {
        let kind = query.get::<String>("type");
        if kind.as_ref().is_some_and(|kind| !KINDS.contains(&kind.as_str())) {
            query.refuse("type", RequestCode::InvalidParameter, format!("one of {} is needed", KINDS.join(", ")));
        }
        let used_up = query.get("usedUp").unwrap_or(false);
        QuotaParams { kind, name: query.get("name"), used_up, paging: Paging::from_query(query) }
    }
}

/// List quotas
///
/// What is used up of the quotas of accounts, API keys and sender domains. Limits of which nothing is used up are not
/// listed. The counters survive a restart; after a crash or a power cut they may lag a second. Scope: `queue:read`.
#[utoipa::path(
    tag = "quotas",
    operation_id = "listQuotas",
    params(QuotaParams),
    responses(
        (status = 200, description = "A page of what is used up.", body = QuotaList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/quotas")]
pub async fn list_quotas(params: Params<QuotaParams>, state: web::Data<State>) -> HttpResponse {
    let QuotaParams { paging, kind, name, used_up } = params.0;
    let wanted = |usage: &Usage| {
        kind.as_ref().is_none_or(|kind| usage.subject.kind() == kind)
            && name.as_ref().is_none_or(|name| usage.subject.is_named(name))
            && (!used_up || usage.retry_after.is_some())
            && paging.after.as_ref().is_none_or(|after| key(usage) > *after)
    };
    let mut all = state.handles.quotas.usage(Instant::now());
    all.sort_by_cached_key(key);
    let mut rest = all.into_iter().filter(wanted).peekable();
    let page: Vec<Usage> = rest.by_ref().take(paging.limit).collect();
    let next_cursor = page.last().filter(|_| rest.peek().is_some()).map(|last| paging.cursor(&key(last)));
    HttpResponse::Ok().json(QuotaList { items: page.into_iter().map(QuotaUsage::from).collect(), next_cursor })
}

/// Reset quotas
///
/// Forgets what an account, an API key or a domain has used up: it begins anew. Scope: `queue:write`.
#[utoipa::path(
    tag = "quotas",
    operation_id = "resetQuotas",
    params(
        ("type" = String, Path, description = "`account`, `apiKey` or `senderDomain`.", example = "account"),
        ("name" = String, Path, description = "The name of the account or API key, or the domain.", example = "ada"),
    ),
    responses(
        (status = 204, description = "Nothing is used up any more."),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[delete("/quotas/{type}/{name}")]
pub async fn reset_quotas(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let (kind, name) = path.into_inner();
    let deed = async {
        match state.handles.quotas.reset(&kind, &name) {
            true => Ok(()),
            false => {
                let detail = format!("nothing is used up of a quota of {kind} {name:?}");
                Err(Problem::new(ProblemKind::NotFound, detail))
            }
        }
    };
    audited(&request, &state, &format!("quotas/{kind}/{name}"), "reset", Value::Null, deed).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// What orders the listing, and what a cursor holds.
fn key(usage: &Usage) -> String {
    let kind = KINDS.iter().position(|kind| *kind == usage.subject.kind()).unwrap_or_default();
    let recipients = usage.what == What::Recipients;
    format!("{kind} {} {recipients} {:020}", usage.subject.name(), usage.limit.per().millis())
}

impl From<Usage> for QuotaUsage {
    fn from(usage: Usage) -> Self {
        // whole seconds, and not one too early
        let seconds = |time: std::time::Duration| Duration::from_secs(time.as_secs_f64().ceil() as u64);
        QuotaUsage {
            kind: match usage.subject {
                Subject::Account(_) => QuotaSubject::Account,
                Subject::ApiKey(_) => QuotaSubject::ApiKey,
                Subject::SenderDomain(_) => QuotaSubject::SenderDomain,
            },
            name: usage.subject.name().to_owned(),
            counts: usage.what,
            limit: usage.limit,
            used: usage.limit.count().saturating_sub(usage.left),
            left: usage.left,
            retry_after: usage.retry_after.map(seconds),
            full_after: seconds(usage.full_after),
        }
    }
}

fn example() -> Value {
    json!({
        "type": "account", "name": "ada", "counts": "messages", "limit": "100/1h", "used": 100, "left": 0,
        "retryAfter": "36s", "fullAfter": "1h"
    })
}

fn list_example() -> Value {
    json!({"items": [example()]})
}
