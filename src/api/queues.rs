//! `queues`: what waits, for which next hop, and what an operator does about it.

use actix_web::{HttpRequest, HttpResponse, get, post, web};
use serde_json::Value;

use super::audit::audited;
use super::errors::{ActionErrors, ListErrors, ReadErrors};
use super::mail::{self, Queue, QueueList};
use super::problem::{Problem, ProblemKind};
use super::query::{NoParams, Paging, Params};
use super::resources::actor;
use super::server::State;
use crate::model::queue_name::QueueName;
use crate::queue::operate::ActionError;

/// List queues
///
/// Every queue that holds something or is frozen, by id: one per next hop, and the system queues `local:…`, `unrouted`
/// and `deadLetter`. Scope: `queue:read`.
#[utoipa::path(
    tag = "queues",
    operation_id = "listQueues",
    params(Paging),
    responses(
        (status = 200, description = "A page of queues.", body = QueueList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/queues")]
pub async fn list_queues(page: Params<Paging>, state: web::Data<State>) -> Result<HttpResponse, Problem> {
    let paging = page.0;
    // one more tells that there are more
    let found = state.handles.operate.queues_behind(paging.after.as_deref(), paging.limit + 1).await;
    let mut items = found.map_err(problem)?;
    let more = items.len() > paging.limit;
    items.truncate(paging.limit);
    let last = items.last().map(|queue| queue.id.to_string());
    let next_cursor = last.filter(|_| more).map(|last| paging.cursor(&last));
    Ok(HttpResponse::Ok().json(QueueList { items: items.into_iter().map(Queue::from).collect(), next_cursor }))
}

/// Get a queue
///
/// What one queue holds and does. Scope: `queue:read`.
#[utoipa::path(
    tag = "queues",
    operation_id = "getQueue",
    params(("id" = String, Path, description = "The queue's id.", example = "dns:default:example.com")),
    responses(
        (status = 200, description = "The queue.", body = Queue, example = mail::queue_example),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/queues/{id}")]
pub async fn get_queue(
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    show(&queue_name(&id)?, &state).await
}

/// Freeze a queue
///
/// No attempt is made from the queue until it is thawed; attempts that have begun end, and the queue still accepts mail.
/// Survives a restart. `held` and `deadLetter` cannot be frozen, as nothing is tried there: 409. Scope: `queue:write`.
#[utoipa::path(
    tag = "queues",
    operation_id = "freezeQueue",
    params(("id" = String, Path, description = "The queue's id.", example = "dns:default:example.com")),
    responses(
        (status = 200, description = "The queue as it is now.", body = Queue, example = mail::queue_example),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/queues/{id}/freeze")]
pub async fn freeze_queue(
    request: HttpRequest,
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let queue = queue_name(&id)?;
    let deed = async { state.handles.operate.freeze_queue(&queue).await.map_err(problem) };
    audited(&request, &state, &format!("queues/{queue}"), "freeze", Value::Null, deed).await?;
    show(&queue, &state).await
}

/// Thaw a queue
///
/// Ends a freeze: what is due is tried at once. Scope: `queue:write`.
#[utoipa::path(
    tag = "queues",
    operation_id = "thawQueue",
    params(("id" = String, Path, description = "The queue's id.", example = "dns:default:example.com")),
    responses(
        (status = 200, description = "The queue as it is now.", body = Queue, example = mail::queue_example),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/queues/{id}/thaw")]
pub async fn thaw_queue(
    request: HttpRequest,
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let queue = queue_name(&id)?;
    let deed = async { state.handles.operate.thaw_queue(&queue).await.map_err(problem) };
    audited(&request, &state, &format!("queues/{queue}"), "thaw", Value::Null, deed).await?;
    show(&queue, &state).await
}

/// Retry a queue
///
/// Everything in the queue is due now, whatever its retry time was; messages with `sendAt` wait for their time all the same, and dead
/// letters are sent on their way again. A frozen queue stays frozen. Scope: `queue:write`.
#[utoipa::path(
    tag = "queues",
    operation_id = "retryQueue",
    params(("id" = String, Path, description = "The queue's id.", example = "dns:default:example.com")),
    responses(
        (status = 200, description = "The queue as it is now.", body = Queue, example = mail::queue_example),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/queues/{id}/retry")]
pub async fn retry_queue(
    request: HttpRequest,
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let queue = queue_name(&id)?;
    let deed = async { state.handles.operate.retry_queue(&queue, &actor(&request).key).await.map_err(problem) };
    audited(&request, &state, &format!("queues/{queue}"), "retry", Value::Null, deed).await?;
    show(&queue, &state).await
}

async fn show(queue: &QueueName, state: &State) -> Result<HttpResponse, Problem> {
    let view = match state.handles.operate.queue(queue).await {
        Ok(view) => view,
        Err(ActionError::NotFound) => {
            return Err(Problem::new(ProblemKind::NotFound, format!("there is nothing in a queue {queue}")));
        }
        Err(error) => return Err(problem(error)),
    };
    Ok(HttpResponse::Ok().json(Queue::from(view)))
}

fn queue_name(id: &str) -> Result<QueueName, Problem> {
    id.parse().map_err(|error| Problem::new(ProblemKind::NotFound, format!("{id:?} is {error}")))
}

/// What an action's failure is to the caller.
pub(super) fn problem(error: ActionError) -> Problem {
    match error {
        ActionError::NotFound => Problem::new(ProblemKind::NotFound, error.to_string()),
        ActionError::Leased | ActionError::NeverTried => Problem::new(ProblemKind::Conflict, error.to_string()),
        ActionError::Store(error) => store_problem(&error),
    }
}

/// What a failure of the store is to the caller.
pub(super) fn store_problem(error: &crate::store::StoreError) -> Problem {
    use crate::store::StoreError;
    match error {
        StoreError::NoSpace { .. } => {
            Problem::new(ProblemKind::InsufficientStorage, "free space on the data directory is below the reserve")
        }
        StoreError::Fenced(_) => {
            super::problem::failed(error);
            Problem::new(ProblemKind::Unavailable, "the store heals itself after a failed write; come again")
        }
        StoreError::Closed => Problem::new(ProblemKind::Unavailable, "the appliance is shutting down"),
        StoreError::Exists => Problem::new(ProblemKind::Conflict, error.to_string()),
        StoreError::NotFound => Problem::new(ProblemKind::NotFound, error.to_string()),
        StoreError::Leased => Problem::new(ProblemKind::Conflict, "the message is being delivered right now"),
        StoreError::Conflict { .. } => {
            Problem::new(ProblemKind::Conflict, "the configuration was changed at the same time; come again")
        }
        StoreError::Damaged(_) | StoreError::Io(_) => Problem::internal(error),
    }
}

fn list_example() -> serde_json::Value {
    serde_json::json!({"items": [mail::queue_example()]})
}
