//! `virtual-servers/{name}/pause|resume|stop|start`: running state, which is not configuration.

use actix_web::{HttpRequest, HttpResponse, post, web};
use serde_json::{Value, json};

use super::audit::audited;
use super::errors::ActionErrors;
use super::kinds::virtual_servers::VirtualServer;
use super::problem::{Problem, ProblemKind};
use super::query::{NoParams, Params};
use super::queues::store_problem;
use super::resources::{actor, not_found, shown};
use super::server::State;
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::model::time::Timestamp;
use crate::status::{Halt, Halted, SessionFilter};

/// What an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Pause,
    Resume,
    Stop,
    Start,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::Stop => "stop",
            Verb::Start => "start",
        }
    }

    /// What it makes of what holds now: a halt, or none.
    ///
    /// # Errors
    /// A stopped server can be neither paused nor resumed.
    fn from(self, now: Option<Halt>) -> Result<Option<Halt>, &'static str> {
        match (self, now) {
            (Verb::Pause | Verb::Resume, Some(Halt::Stopped)) => Err("it is stopped; start it first"),
            (Verb::Pause, _) => Ok(Some(Halt::Paused)),
            (Verb::Stop, _) => Ok(Some(Halt::Stopped)),
            (Verb::Resume | Verb::Start, _) => Ok(None),
        }
    }
}

/// Pause a virtual server
///
/// It takes no new sessions: a client that connects gets 421 at once. Open sessions end their own way, and its queues go
/// on. This is running state, not configuration: it acts on
/// anybody's object, holds over a restart, and shows as the condition `Overridden`. Scope: `queue:write`.
#[utoipa::path(
    tag = "virtual-servers",
    operation_id = "pauseVirtualServer",
    params(("name" = String, Path, description = "The virtual server's name.", example = "default")),
    responses(
        (status = 200, description = "The virtual server as it is now.", body = VirtualServer, example = example),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/virtual-servers/{name}/pause")]
pub async fn pause(
    request: HttpRequest,
    name: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    act(&request, &name, Verb::Pause, &state).await
}

/// Resume a virtual server
///
/// Ends a pause. This is running state, not configuration: it acts on
/// anybody's object, holds over a restart, and shows as the condition `Overridden`. Scope: `queue:write`.
#[utoipa::path(
    tag = "virtual-servers",
    operation_id = "resumeVirtualServer",
    params(("name" = String, Path, description = "The virtual server's name.", example = "default")),
    responses(
        (status = 200, description = "The virtual server as it is now.", body = VirtualServer, example = example),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/virtual-servers/{name}/resume")]
pub async fn resume(
    request: HttpRequest,
    name: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    act(&request, &name, Verb::Resume, &state).await
}

/// Stop a virtual server
///
/// Its listeners are closed and its sessions are asked to end (421 4.3.2); its queues go on. This is running state, not configuration: it acts on
/// anybody's object, holds over a restart, and shows as the condition `Overridden`. Scope: `queue:write`.
#[utoipa::path(
    tag = "virtual-servers",
    operation_id = "stopVirtualServer",
    params(("name" = String, Path, description = "The virtual server's name.", example = "default")),
    responses(
        (status = 200, description = "The virtual server as it is now.", body = VirtualServer, example = example),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/virtual-servers/{name}/stop")]
pub async fn stop(
    request: HttpRequest,
    name: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    act(&request, &name, Verb::Stop, &state).await
}

/// Start a virtual server
///
/// Ends a stop: it listens again, if it is enabled. This is running state, not configuration: it acts on
/// anybody's object, holds over a restart, and shows as the condition `Overridden`. Scope: `queue:write`.
#[utoipa::path(
    tag = "virtual-servers",
    operation_id = "startVirtualServer",
    params(("name" = String, Path, description = "The virtual server's name.", example = "default")),
    responses(
        (status = 200, description = "The virtual server as it is now.", body = VirtualServer, example = example),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/virtual-servers/{name}/start")]
pub async fn start(
    request: HttpRequest,
    name: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    act(&request, &name, Verb::Start, &state).await
}

/// Writes it down, puts it into force, and shows the server.
async fn act(request: &HttpRequest, name: &str, verb: Verb, state: &State) -> Result<HttpResponse, Problem> {
    let configuration = &state.handles.configuration;
    let found = configuration.get(Collection::VirtualServers, name).map_err(|error| store_problem(&error))?;
    let object = found.ok_or_else(|| not_found(Collection::VirtualServers, name))?;
    let server: Name = object.name.clone();
    let running = &state.handles.running;
    let now = running.of(&server).map(|halted| halted.halt);
    let then = verb.from(now).map_err(|why| Problem::new(ProblemKind::Conflict, format!("{name:?}: {why}")))?;
    if then != now {
        let by = actor(request).key;
        let id = format!("{}/{server}", Collection::VirtualServers.path());
        let word = |halt: Option<Halt>| halt.map_or("running", Halt::word);
        let detail = json!({"before": word(now), "after": word(then)});
        let at = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());
        let halted = then.map(|halt| Halted { halt, by: by.clone(), at });
        let deed = async { running.set(&server, halted).await.map_err(|error| store_problem(&error)) };
        audited(request, state, &id, verb.word(), detail, deed).await?;
        tracing::info!(virtualServer = %server, action = verb.word(), key = by, "an operator acted");
    }
    // also once more when it was stopped before: a session may have been taken in at that moment
    if then == Some(Halt::Stopped) {
        let filter = SessionFilter { virtual_server: Some(server.clone()), ..SessionFilter::default() };
        state.handles.sessions.end_all(&filter);
    }
    Ok(shown::<VirtualServer>(object, state))
}

fn example() -> Value {
    json!({
        "name": "default", "labels": {}, "owner": "system", "generation": 1,
        "spec": {"bindings": [{"address": "0.0.0.0", "port": 2525}]},
        "status": {
            "state": "paused",
            "listeners": [{"address": "0.0.0.0", "port": 2525}],
            "conditions": [{
                "type": "Overridden", "status": "true", "reason": "paused", "message": "paused by the key \"bootstrap\"",
                "lastTransitionTime": "2026-11-24T10:15:02.113Z", "observedGeneration": 1
            }]
        }
    })
}
