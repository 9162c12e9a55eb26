//! `/livez`, `/readyz`, `/startupz` and `/metrics`: on the API listener and, plainer, on the health listener.
//!
//! The probes need no key and then tell nothing but yes or no. With a key the API listener adds the checks behind the
//! answer. The health listener knows no keys: its metrics are open to whoever reaches it, so it belongs on a network
//! that only the platform reaches.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, get, web};
use async_trait::async_trait;
use serde::Serialize;
use utoipa::ToSchema;

use super::access;
use super::auth;
use super::errors::{MetricsErrors, ProbeErrors};
use super::problem::{Problem, ProblemKind};
use super::query::{NoParams, Params};
use super::server::State;
use crate::model::access::Scope;

/// Answers the probes.
pub trait Health: Send + Sync {
    /// The checks behind a probe; it passes when all of them do. Never waits.
    fn checks(&self, probe: Probe) -> Vec<Check>;
}

/// Tells everything that is counted.
#[async_trait]
pub trait Exposition: Send + Sync {
    /// In the OpenMetrics text format, with `# EOF`. Bounded by what is configured.
    async fn text(&self) -> String;
}

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Probe {
    /// Whether the process is worth keeping.
    Live,
    /// Whether it should get work.
    Ready,
    /// Whether it has started.
    Startup,
}

/// One check behind a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What is checked.
    #[schema(example = "store")]
    pub name: String,
    /// Whether it is well.
    pub passed: bool,
    /// Why not, or what else there is to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    pub detail: String,
}

/// The answer of a probe.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeResult {
    /// Whether the probe passes.
    status: ProbeStatus,
    /// The checks behind it; only with a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    checks: Option<Vec<Check>>,
}

/// Whether a probe passes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProbeStatus {
    /// It passes; the HTTP status is 200.
    Passed,
    /// It does not; the HTTP status is 503.
    Failed,
}

/// Liveness
///
/// Whether the process works at all. A platform restarts it when this fails. With a key the answer lists the checks
/// behind it. Scope: none; `config:read` for the checks.
#[utoipa::path(
    tag = "health",
    operation_id = "getLiveness",
    responses(
        (status = 200, description = "The process works.", body = ProbeResult, example = json!({"status": "passed"})),
        (status = 503, description = "It does not.", body = ProbeResult, example = json!({"status": "failed"})),
        ProbeErrors,
    ),
    security((), ("key" = [])),
    extensions(("x-scope" = json!("none")))
)]
#[get("/livez")]
pub async fn livez(
    request: HttpRequest,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    answer(&state, Probe::Live, auth::has(&request, Scope::ConfigRead).await?)
}

/// Readiness
///
/// Whether the appliance takes mail and requests: the store takes new mail, a configuration is in force, its bindings
/// are open. With a key the answer lists the checks behind it. Scope: none; `config:read` for the checks.
#[utoipa::path(
    tag = "health",
    operation_id = "getReadiness",
    responses(
        (status = 200, description = "It is ready.", body = ProbeResult, example = json!({"status": "passed"})),
        (status = 503, description = "It is not.", body = ProbeResult, example = json!({
            "status": "failed",
            "checks": [{"name": "store", "passed": false, "detail": "free space on the data directory is below the reserve"}]
        })),
        ProbeErrors,
    ),
    security((), ("key" = [])),
    extensions(("x-scope" = json!("none")))
)]
#[get("/readyz")]
pub async fn readyz(
    request: HttpRequest,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    answer(&state, Probe::Ready, auth::has(&request, Scope::ConfigRead).await?)
}

/// Start
///
/// Whether the appliance has started: the store is open and has caught up with its journal. With a key the answer lists
/// the checks behind it. Scope: none; `config:read` for the checks.
#[utoipa::path(
    tag = "health",
    operation_id = "getStartup",
    responses(
        (status = 200, description = "It has started.", body = ProbeResult, example = json!({"status": "passed"})),
        (status = 503, description = "It has not yet.", body = ProbeResult, example = json!({"status": "failed"})),
        ProbeErrors,
    ),
    security((), ("key" = [])),
    extensions(("x-scope" = json!("none")))
)]
#[get("/startupz")]
pub async fn startupz(
    request: HttpRequest,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    answer(&state, Probe::Startup, auth::has(&request, Scope::ConfigRead).await?)
}

/// Metrics
///
/// Everything that is counted, in the OpenMetrics text format that Prometheus reads. On the health listener it needs no
/// key. Scope: `metrics:read`.
#[utoipa::path(
    tag = "health",
    operation_id = "getMetrics",
    responses(
        (status = 200, description = "The metrics.", body = String,
            content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8",
            example = "# TYPE bridgehead_messages_accepted counter\nbridgehead_messages_accepted_total 42\n# EOF\n"),
        MetricsErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("metrics:read")))
)]
#[get("/metrics")]
pub async fn metrics(
    request: HttpRequest,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    match auth::principal(&request).await? {
        Some(principal) => {
            access::require(&principal, Scope::MetricsRead)?;
            Ok(metrics_text(&state).await)
        }
        None => Err(auth::unauthorized("metrics need a key here, and none on the health listener")),
    }
}

fn answer(state: &State, probe: Probe, reasons: bool) -> Result<HttpResponse, Problem> {
    let checks = state.handles.health.checks(probe);
    let passed = checks.iter().all(|check| check.passed);
    let mut answer = if passed { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    let status = if passed { ProbeStatus::Passed } else { ProbeStatus::Failed };
    answer.insert_header((header::CACHE_CONTROL, "no-store"));
    Ok(answer.json(ProbeResult { status, checks: reasons.then_some(checks) }))
}

async fn metrics_text(state: &State) -> HttpResponse {
    let mut answer = HttpResponse::Ok();
    answer.insert_header((header::CACHE_CONTROL, "no-store"));
    answer
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(state.handles.metrics.text().await)
}

/// The routes of the health listener: the same paths, without keys and without reasons.
pub(super) fn plain(config: &mut web::ServiceConfig) {
    let probe =
        |probe: Probe| web::get().to(move |state: web::Data<State>| async move { answer(&state, probe, false) });
    config
        .route("/livez", probe(Probe::Live))
        .route("/readyz", probe(Probe::Ready))
        .route("/startupz", probe(Probe::Startup))
        .route("/metrics", web::get().to(|state: web::Data<State>| async move { metrics_text(&state).await }));
}

/// Answers what no route of the health listener answers.
pub(super) async fn nothing_here(request: HttpRequest) -> HttpResponse {
    if ["/livez", "/readyz", "/startupz", "/metrics"].contains(&request.path()) {
        let problem = Problem::new(ProblemKind::MethodNotAllowed, "probes and metrics are only read");
        return problem.with_header(header::ALLOW, "GET, HEAD").response();
    }
    Problem::new(ProblemKind::NotFound, "here are /livez, /readyz, /startupz and /metrics").response()
}
