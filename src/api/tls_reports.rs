//! `tls-reports`: what came of TLS with the hosts of other domains, day by day, and the reports that they get about it (RFC 8460).

use actix_web::{HttpResponse, get, post, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::errors::{ListErrors, ReadErrors};
use super::problem::{Problem, ProblemKind};
use super::query::{self, FromQuery, NoParams, Paging, Params, Query};
use super::server::State;
use crate::model::host::domain_key;
use crate::smtp::address::Domain;
use crate::tlsrpt::Listed;
use crate::tlsrpt::counts::{DayNumber, Failed, OfPolicy, PolicyType, ResultType};
use crate::tlsrpt::state::{Addressed, Report, ReportState};

/// What came of TLS with the hosts of one domain on one day.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = example)]
pub struct TlsReport {
    /// The domain that mail was for.
    domain: String,
    /// The day, in UTC.
    #[schema(format = Date)]
    day: String,
    /// Sessions in which all was as the domain asks.
    successes: u64,
    /// Sessions in which it was not, and sessions that there were none for that.
    failures: u64,
    /// The same by policy.
    policies: Vec<TlsPolicy>,
    /// How far the report to the domain is; absent while the day lasts, and where there is nothing to tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    report: Option<TlsReportSending>,
}

/// Sessions that were held to one policy.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsPolicy {
    /// Whose policy it is.
    #[serde(rename = "type")]
    kind: PolicyType,
    /// Its text: the lines of an MTA-STS policy, or TLSA records.
    lines: Vec<String>,
    /// Sessions in which it held.
    successes: u64,
    /// Sessions in which it did not, and sessions that there were none for that.
    failures: u64,
    /// The latter by what failed, at most 64 kinds of a day.
    details: Vec<TlsFailure>,
}

/// Sessions that failed in the same way.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsFailure {
    /// What failed, as RFC 8460, 4.3 tells apart.
    result: ResultType,
    /// So many sessions.
    sessions: u64,
    /// In words, where they say more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    reason: Option<String>,
    /// Our address; absent when there was no connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    sending_address: Option<String>,
    /// The host by name; absent when it could not be learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    host: Option<String>,
    /// The host's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    receiving_address: Option<String>,
}

/// How far the report about a day is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsReportSending {
    /// The id that the report bears.
    #[schema(format = "uuid")]
    id: String,
    /// How far it is.
    state: ReportState,
    /// When it is sent, or tried again: without `settings.tlsReporting.enabled` only when somebody asks for it. Absent once it
    /// waits no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, format = DateTime)]
    next_attempt: Option<String>,
    /// Tries so far.
    attempts: u32,
    /// Where it goes, once that was looked up.
    destinations: Vec<TlsReportDestination>,
    /// Why it is not further.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    reason: Option<String>,
}

/// A destination of a report.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsReportDestination {
    /// As the domain names it in DNS: `mailto:` or `https:`.
    uri: String,
    /// What came of it. A message counts as sent when it is in the queue.
    state: ReportState,
    /// Since when that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, format = DateTime)]
    at: Option<String>,
    /// What the last try failed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    reason: Option<String>,
}

/// A page of what came of TLS.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsReportList {
    /// Domains and days of this page, the latest day first, then by domain.
    items: Vec<TlsReport>,
    /// Give it as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    next_cursor: Option<String>,
}

/// How many reports are sent.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"sending": 1}))]
pub struct SendingTlsReports {
    /// So many, one a day.
    sending: usize,
}

impl From<Listed> for TlsReport {
    fn from(listed: Listed) -> Self {
        let policies = &listed.counted.policies;
        TlsReport {
            domain: listed.domain,
            day: listed.day.to_string(),
            successes: policies.iter().map(|of| of.successes).sum(),
            failures: policies.iter().map(|of| of.failures).sum(),
            report: listed.counted.report.map(TlsReportSending::from),
            policies: listed.counted.policies.into_iter().map(TlsPolicy::from).collect(),
        }
    }
}

impl From<OfPolicy> for TlsPolicy {
    fn from(of: OfPolicy) -> Self {
        let detail = |(failed, sessions): (Failed, u64)| TlsFailure {
            result: failed.result,
            sessions,
            reason: failed.reason,
            sending_address: failed.sending.map(|address| address.to_string()),
            host: Some(failed.host).filter(|host| !host.is_empty()),
            receiving_address: failed.receiving.map(|address| address.to_string()),
        };
        TlsPolicy {
            kind: of.policy.kind,
            lines: of.policy.lines,
            successes: of.successes,
            failures: of.failures,
            details: of.details.into_iter().map(detail).collect(),
        }
    }
}

impl From<Report> for TlsReportSending {
    fn from(report: Report) -> Self {
        let destination = |one: Addressed| TlsReportDestination {
            uri: one.uri,
            state: one.state,
            at: one.at.map(|time| time.to_string()),
            reason: one.problem,
        };
        TlsReportSending {
            id: report.id.to_string(),
            state: report.state,
            next_attempt: (report.state == ReportState::Waiting).then(|| report.due.to_string()),
            attempts: report.tries,
            destinations: report.destinations.into_iter().map(destination).collect(),
            reason: report.problem,
        }
    }
}

/// Which of it to list.
#[derive(Debug)]
pub struct TlsReportParams {
    paging: Paging,
    after: Option<(DayNumber, String)>,
    domain: Option<Domain>,
    day: Option<DayNumber>,
}

impl IntoParams for TlsReportParams {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = Paging::into_params(parameter_in);
        parameters.push(query::text("domain", "Only this domain.", "example.com"));
        parameters.push(query::text("day", "Only this day, in UTC.", "2026-11-29"));
        parameters
    }
}

impl FromQuery for TlsReportParams {
    fn from_query(query: &mut Query) -> Self {
        let (domain, day) = (query.get("domain"), query.get("day"));
        let paging = Paging::from_query(query);
        let after = paging.after.as_deref().and_then(|key| {
            let (day, domain) = key.split_once('/')?;
            Some((day.parse().ok()?, domain.to_owned()))
        });
        TlsReportParams { paging, after, domain, day }
    }
}

/// List what came of TLS
///
/// What came of TLS with the hosts of other domains, by day and domain, for the last eight days: sessions with hosts that DNS
/// names (not smart hosts), by the policy that they were held to, and what failed. The same is what a domain that
/// asks for it is told in a report (TLSRPT, RFC 8460). Scope: `queue:read`.
#[utoipa::path(
    tag = "tls-reports",
    operation_id = "listTlsReports",
    params(TlsReportParams),
    responses(
        (status = 200, description = "A page of it.", body = TlsReportList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/tls-reports")]
pub async fn list_tls_reports(
    params: Params<TlsReportParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let TlsReportParams { paging, after, domain, day } = params.0;
    let domain = domain.as_ref().map(key);
    let after = after.as_ref().map(|(day, domain)| (*day, domain.as_str()));
    let mut listed = state.handles.tls_reports.list(after, domain.as_deref(), day, paging.limit + 1);
    let more = listed.len() > paging.limit;
    listed.truncate(paging.limit);
    let last = listed.last().filter(|_| more);
    let next_cursor = last.map(|last| paging.cursor(&format!("{}/{}", last.day, last.domain)));
    Ok(HttpResponse::Ok().json(TlsReportList { items: listed.into_iter().map(TlsReport::from).collect(), next_cursor }))
}

/// Send TLS reports
///
/// Sends the reports about a domain of all days that are over and still known, now and once more, also where
/// `settings.tlsReporting.enabled` is false. What comes of it is in the listing. Scope: `queue:write`.
#[utoipa::path(
    tag = "tls-reports",
    operation_id = "sendTlsReports",
    params(("domain" = String, Path, description = "The domain.", example = "example.com")),
    responses(
        (status = 202, description = "They are being sent.", body = SendingTlsReports, example = json!({"sending": 1})),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/tls-reports/{domain}/send")]
pub async fn send_tls_reports(
    domain: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let sending = domain.parse().ok().map_or(0, |domain| state.handles.tls_reports.ask_for(&key(&domain)));
    if sending == 0 {
        let detail = format!("there is nothing to report about {:?} of a day that is over", domain.as_str());
        return Err(Problem::new(ProblemKind::NotFound, detail));
    }
    Ok(HttpResponse::Accepted().json(SendingTlsReports { sending }))
}

/// As domains are counted.
fn key(domain: &Domain) -> String {
    domain_key(domain).to_lowercase()
}

fn example() -> Value {
    json!({
        "domain": "example.com", "day": "2026-11-29", "successes": 41, "failures": 1,
        "policies": [{
            "type": "sts",
            "lines": ["version: STSv1", "mode: testing", "mx: mx1.example.com", "max_age: 604800"],
            "successes": 41, "failures": 1,
            "details": [{
                "result": "certificateExpired", "sessions": 1,
                "reason": "invalid peer certificate: certificate expired",
                "sendingAddress": "192.0.2.1", "host": "mx1.example.com", "receivingAddress": "198.51.100.7"
            }]
        }],
        "report": {
            "id": "7f0c8a34-9a3e-4b0e-8a55-3f6f2f1f0b6d", "state": "sent", "attempts": 1,
            "destinations": [
                {"uri": "mailto:tls-reports@example.com", "state": "sent", "at": "2026-11-30T02:11:07.000Z"}
            ]
        }
    })
}

fn list_example() -> Value {
    json!({"items": [example()]})
}
