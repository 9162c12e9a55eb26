//! `backup`: a copy of the running appliance, as one file.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, post, web};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::audit::audited;
use super::errors::CopyErrors;
use super::problem::{Problem, ProblemKind};
use super::query::{NoParams, Params};
use super::queues::store_problem;
use super::resources::actor;
use super::server::State;
use crate::smtp::reply::Reply;
use crate::store::archive::MEDIA_TYPE;
use crate::store::{BackupError, StoreError};

/// Back up the appliance
///
/// A copy of the running appliance as one tar archive: the journal with all that was acknowledged before this call, large content, the
/// configuration with accounts, keys and secrets, request keys, message tracking, and what mailbox stores have taken in. Mail is taken and
/// delivered meanwhile as ever. `bridgehead restore` makes a data directory of it, and `bridgehead backup` is the same call with the checks: the
/// archive has a checksum of every file, and its last entry, `end.json`, tells that it was not cut. Keep it like the data directory itself: it
/// holds mail and secrets in plain text. Files outside of the data directory (`secrets`, TLS certificates of the API) are not in it,
/// nor is `first-key`. One backup at a time: another is 409. A client that takes nothing for a minute is cut.
/// Scope: `secrets:read` and `messages:content`.
#[utoipa::path(
    tag = "appliance",
    operation_id = "backUp",
    responses(
        (status = 200, description = "The archive.", body = String, content_type = "application/x-tar", example = example),
        CopyErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("secrets:read messages:content")))
)]
#[post("/backup")]
pub async fn back_up(
    request: HttpRequest,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let backup = state.handles.backup.clone();
    let begin = async { backup.backup().await.map_err(problem) };
    let copying = audited(&request, &state, "appliance", "backup", Value::Null, begin).await?;
    let manifest = copying.manifest;
    tracing::info!(key = actor(&request).key, group = manifest.group, bytes = manifest.bytes, "a backup begins");
    // a process that stops does not wait for it; without its end nobody takes it for whole
    let pieces = stream::unfold(Some((copying.chunks, state.handles.draining.clone())), |under_way| async {
        let (mut chunks, mut draining) = under_way?;
        tokio::select! {
            () = stops(&mut draining) => Some((Err(StoreError::Closed), None)),
            piece = chunks.recv() => {
                let piece = piece?;
                let next = piece.is_ok().then_some((chunks, draining));
                Some((piece, next))
            }
        }
    });
    let name = format!("bridgehead-{}.tar", manifest.taken_at.to_string().replace([':', '.'], "-"));
    Ok(HttpResponse::Ok()
        .content_type(MEDIA_TYPE)
        .insert_header((header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")))
        .streaming::<_, StoreError>(Box::pin(pieces)))
}

/// Waits until the process is told to stop.
async fn stops(draining: &mut watch::Receiver<Option<Reply>>) {
    if draining.wait_for(Option::is_some).await.is_err() {
        // nobody can tell any more
        std::future::pending().await
    }
}

fn problem(error: BackupError) -> Problem {
    match error {
        BackupError::Running => Problem::new(ProblemKind::Conflict, error.to_string()),
        BackupError::Store(error) => store_problem(&error),
    }
}

fn example() -> Value {
    json!("(a tar archive)")
}
