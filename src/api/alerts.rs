//! `alerts`: what is wrong with the appliance, and whether operators can be told.

use actix_web::{HttpRequest, HttpResponse, get, post, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::errors::{AlertTestErrors, ListErrors};
use super::problem::{Problem, ProblemKind};
use super::query::{NoParams, Params};
use super::resources::actor;
use super::server::State;
use crate::alerts;
use crate::model::alert_cause::{AlertCause, AlertSeverity};

/// Something that is wrong with the appliance.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = example)]
pub struct Alert {
    /// The cause; the runbook in the README and the alert rules of the Helm chart have it under the same name.
    name: AlertCause,
    /// How bad it is.
    severity: AlertSeverity,
    /// The object that it is about: a virtual server, a certificate, or the kind of queues and their connector. Absent: the
    /// appliance.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    subject: String,
    /// What is wrong.
    text: String,
    /// Since when.
    #[schema(format = DateTime)]
    since: String,
    /// Since when it is over, as long as nobody has been told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, format = DateTime)]
    over: Option<String>,
    /// When operators were last told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, format = DateTime)]
    last_sent: Option<String>,
    /// Why they, or one of them, could not be told the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    last_error: Option<String>,
}

/// What is wrong now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertList {
    /// Whether operators are told (`settings.alerts`).
    told: bool,
    /// What is wrong, the worst first; at most 200.
    items: Vec<Alert>,
}

/// What came of a test.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = test_example)]
pub struct AlertTest {
    /// Whether every recipient's message was taken.
    ok: bool,
    /// For each recipient what came of his.
    recipients: Vec<AlertTestRecipient>,
}

/// What came of a test for one recipient.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertTestRecipient {
    /// The recipient.
    address: String,
    /// Whether the smart host took the message.
    ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    error: Option<String>,
}

impl From<alerts::Alert> for Alert {
    fn from(alert: alerts::Alert) -> Self {
        Alert {
            name: alert.cause,
            severity: alert.cause.severity(),
            subject: alert.subject,
            text: alert.text,
            since: alert.since.to_string(),
            over: alert.over.map(|time| time.to_string()),
            last_sent: alert.last_sent.map(|time| time.to_string()),
            last_error: alert.last_error,
        }
    }
}

/// List alerts
///
/// What is wrong with the appliance now, as it knows itself, and what operators were told of it (`settings.alerts`). The causes are
/// those of the alert rules in the Helm chart; it is looked every ten seconds. Scope: `config:read`.
#[utoipa::path(
    tag = "alerts",
    operation_id = "listAlerts",
    responses((status = 200, description = "What is wrong.", body = AlertList, example = list_example), ListErrors),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:read")))
)]
#[get("/alerts")]
pub async fn list_alerts(_: Params<NoParams>, state: web::Data<State>) -> HttpResponse {
    let alerts = &state.handles.alerts;
    let items = alerts.list().into_iter().map(Alert::from).collect();
    HttpResponse::Ok().json(AlertList { told: alerts.is_on(), items })
}

/// Test alerts
///
/// Sends every recipient of `settings.alerts` a message that says that it is a test, straight to the smart host, and answers with
/// what came of it: 45 seconds at most. Scope: `queue:write`.
#[utoipa::path(
    tag = "alerts",
    operation_id = "testAlerts",
    responses(
        (status = 200, description = "What came of it; look at `ok`.", body = AlertTest, example = test_example),
        AlertTestErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/alerts/test")]
pub async fn test_alerts(
    request: HttpRequest,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    tracing::info!(action = "testAlerts", key = actor(&request).key, "an operator acted");
    let handed = state.handles.alerts.test().await;
    let handed = handed.map_err(|why| Problem::new(ProblemKind::Conflict, why.to_string()))?;
    let recipients: Vec<AlertTestRecipient> = handed
        .into_iter()
        .map(|one| AlertTestRecipient { address: one.recipient, ok: one.result.is_ok(), error: one.result.err() })
        .collect();
    Ok(HttpResponse::Ok().json(AlertTest { ok: recipients.iter().all(|one| one.ok), recipients }))
}

fn example() -> Value {
    json!({
        "name": "BridgeheadDiskFull", "severity": "critical", "text": "The disk is full: 12MiB are free, 256MiB are kept free",
        "since": "2026-11-24T10:15:02.113Z", "lastSent": "2026-11-24T10:16:10.480Z"
    })
}

fn list_example() -> Value {
    json!({"told": true, "items": [example()]})
}

fn test_example() -> Value {
    json!({"ok": false, "recipients": [
        {"address": "ops@example.com", "ok": true},
        {"address": "night@example.com", "ok": false, "error": "smtp.example.net:587: permanent error (550): 5.1.1 unknown"}
    ]})
}
