//! `event-sinks/{name}/deliveries|replay`: how it went to tell a sink, and telling it again.

use actix_web::{HttpRequest, HttpResponse, get, post, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::audit::audited;
use super::body;
use super::errors::{QuestionErrors, ReadErrors};
use super::problem::Problem;
use super::query::{NoParams, Params};
use super::queues::store_problem;
use super::resources::not_found;
use super::server::State;
use super::shapes::{Condition, ConditionStatus, ConditionType, ObjectState, ObjectStatus};
use crate::config::Object;
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::model::time::Timestamp;
use crate::sinks::Delivery;
use crate::store::history::Position;

/// The last requests to a sink.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryList {
    /// The latest first; at most 200, of this process.
    items: Vec<Delivery>,
}

/// List deliveries to an event sink
///
/// The last 200 requests that were made to it since the appliance was started: which events, whether they were taken, and if not,
/// why. Scope: `tracking:read`.
#[utoipa::path(
    tag = "event-sinks",
    operation_id = "listEventSinkDeliveries",
    params(("name" = String, Path, description = "The sink's name.", example = "app")),
    responses(
        (status = 200, description = "The requests.", body = DeliveryList, example = deliveries_example),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("tracking:read")))
)]
#[get("/event-sinks/{name}/deliveries")]
pub async fn list_deliveries(
    name: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let name = existing(&name, &state)?;
    let items = state.handles.sinks.as_ref().map(|sinks| sinks.deliveries(&name)).unwrap_or_default();
    Ok(HttpResponse::Ok().json(DeliveryList { items }))
}

/// From when on events are told again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = request_example)]
pub struct ReplayRequest {
    /// Events at or after this time.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

/// Where a replay begins.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = replay_example)]
pub struct Replay {
    /// The id of the first event that is told again; where the next one will stand, when there is none.
    #[schema(value_type = String)]
    from: Position,
}

/// Replay events to a sink
///
/// Tells it again what happened from a time on, as far as message tracking keeps it, and goes on from there, in order. What it
/// has not taken yet comes too. The ids of events are the same as before. Scope: `queue:write`.
#[utoipa::path(
    tag = "event-sinks",
    operation_id = "replayEventSink",
    params(("name" = String, Path, description = "The sink's name.", example = "app")),
    request_body(content = ReplayRequest, content_type = "application/json", description = "From when on.", example = request_example),
    responses(
        (status = 202, description = "It has begun.", body = Replay, example = replay_example),
        QuestionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/event-sinks/{name}/replay")]
pub async fn replay(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let name = existing(&name, &state)?;
    let body = body::json(&request, payload, &["application/json"]).await?;
    let asked: ReplayRequest = body::typed(&body)?;
    let id = format!("{}/{name}", Collection::EventSinks.path());
    let deed = async {
        let from = match &state.handles.sinks {
            Some(sinks) => sinks.replay(&name, asked.since).await.map_err(|error| store_problem(&error))?,
            None => None,
        };
        from.ok_or_else(|| not_found(Collection::EventSinks, name.as_str()))
    };
    let from = audited(&request, &state, &id, "replay", body, deed).await?;
    Ok(HttpResponse::Accepted().json(Replay { from }))
}

fn existing(name: &str, state: &State) -> Result<Name, Problem> {
    let found = state.handles.configuration.get(Collection::EventSinks, name).map_err(|error| store_problem(&error))?;
    found.map(|object| object.name).ok_or_else(|| not_found(Collection::EventSinks, name))
}

/// The status of a sink: whether it takes what it is told.
pub(super) fn status(object: &Object, state: &State) -> ObjectStatus {
    let enabled = object.spec["enabled"] != Value::Bool(false);
    let known = state.handles.sinks.as_ref().and_then(|sinks| sinks.status(&object.name));
    let condition = known.map(|known| {
        let (status, reason, mut message) = match (&known.failed, known.taken) {
            (Some((_, why)), _) => {
                let next =
                    known.next_attempt.map_or_else(String::new, |at| format!("; the next request is made at {at}"));
                (ConditionStatus::False, "notTaken", format!("{why}{next}"))
            }
            (None, Some(_)) if known.is_up_to_date => (ConditionStatus::True, "upToDate", String::new()),
            (None, Some(_)) => (ConditionStatus::True, "catchingUp", String::new()),
            (None, None) => (ConditionStatus::Unknown, "nothingToTellYet", String::new()),
        };
        if known.lost {
            let gap = "events were lost to it: message tracking no longer kept them";
            message = if message.is_empty() { gap.to_owned() } else { format!("{message}; {gap}") };
        }
        Condition {
            kind: ConditionType::Reachable,
            status,
            reason: reason.to_owned(),
            message,
            last_transition_time: known.failed.map(|(at, _)| at).or(known.taken),
            observed_generation: Some(object.generation),
        }
    });
    ObjectStatus {
        state: if enabled { ObjectState::Active } else { ObjectState::Disabled },
        conditions: condition.into_iter().collect(),
    }
}

fn deliveries_example() -> Value {
    json!({"items": [{
        "delivery": "7-10412_7-14508", "at": "2026-11-24T10:15:02.480Z", "attempt": 1, "events": 12, "first": "7-10412",
        "last": "7-14508", "taken": false, "httpStatus": 500, "error": "https://app.example.com answered 500",
        "durationMs": 31
    }]})
}

fn request_example() -> Value {
    json!({"since": "2026-11-24T00:00:00Z"})
}

fn replay_example() -> Value {
    json!({"from": "7-10412"})
}
