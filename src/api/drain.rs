//! `drain`: no new mail is taken, and what is queued goes on, until there is nothing left or somebody takes it back.
//!
//! It is not kept: a restart takes mail again. What ends the process for good is SIGTERM.

use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::audit::audited;
use super::errors::ListErrors;
use super::problem::Problem;
use super::query::{NoParams, Params};
use super::queues::problem;
use super::resources::actor;
use super::server::State;
use crate::model::queue_name::QueueName;
use crate::status::SessionFilter;

/// Whether the appliance takes mail, and what is left.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = example)]
pub struct DrainState {
    /// Whether new mail is refused.
    draining: bool,
    /// Messages that wait for delivery, by queue; dead letters are not counted.
    messages: u64,
    /// SMTP sessions that are still open.
    sessions: u64,
}

/// Get the drain state
///
/// Whether new mail is refused, and how much is left to deliver. Scope: `queue:read`.
#[utoipa::path(
    tag = "appliance",
    operation_id = "getDrain",
    responses((status = 200, description = "The state.", body = DrainState, example = example), ListErrors),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/drain")]
pub async fn get_drain(_: Params<NoParams>, state: web::Data<State>) -> Result<HttpResponse, Problem> {
    show(&state).await
}

/// Drain the appliance
///
/// From now on every virtual server answers 421 to new sessions, open ones end as soon as they have no complete message at
/// hand, `POST /messages` is 503, files in pickup directories stay there, and `/readyz` says that it
/// is not ready, so that a load balancer sends mail elsewhere.
/// What is queued goes on being delivered. It holds until `DELETE /drain` or a restart. Scope: `queue:write`.
#[utoipa::path(
    tag = "appliance",
    operation_id = "beginDrain",
    responses((status = 200, description = "The state.", body = DrainState, example = example), ListErrors),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/drain")]
pub async fn begin_drain(
    request: HttpRequest,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let deed = async {
        state.handles.drain.close(true);
        Ok(state.handles.sessions.end_all(&SessionFilter::default()))
    };
    audited(&request, &state, "appliance", "drain", Value::Null, deed).await?;
    tracing::info!(action = "drain", key = actor(&request).key, "an operator acted");
    show(&state).await
}

/// End the drain
///
/// Mail is taken again. Scope: `queue:write`.
#[utoipa::path(
    tag = "appliance",
    operation_id = "endDrain",
    responses((status = 200, description = "The state.", body = DrainState, example = example), ListErrors),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[delete("/drain")]
pub async fn end_drain(
    request: HttpRequest,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let deed = async {
        state.handles.drain.close(false);
        Ok(())
    };
    audited(&request, &state, "appliance", "endDrain", Value::Null, deed).await?;
    tracing::info!(action = "endDrain", key = actor(&request).key, "an operator acted");
    show(&state).await
}

async fn show(state: &State) -> Result<HttpResponse, Problem> {
    let queues = state.handles.operate.queues().await.map_err(problem)?;
    let waiting = queues.iter().filter(|queue| queue.id != QueueName::DeadLetter);
    Ok(HttpResponse::Ok().json(DrainState {
        draining: state.handles.drain.is_closed(),
        messages: waiting.map(|queue| queue.messages).sum(),
        sessions: state.handles.sessions.count() as u64,
    }))
}

fn example() -> Value {
    json!({"draining": true, "messages": 12, "sessions": 0})
}
