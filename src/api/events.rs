//! `GET /events`: what happens to mail, as it happens (server-sent events).
//!
//! A stream is a position in message tracking and nothing else: events are read from its files as fast as the client takes them,
//! so a slow one costs no memory and loses nothing until its place is no longer kept; then it gets an event `gap`. The id of an
//! event is its position, which survives a restart. At most [`MAX_STREAMS`] streams at a time; all end when the process stops.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, get, web};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use super::codes::RequestCode;
use super::errors::ListErrors;
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{self, FromQuery, Params, Query};
use super::server::State;
use super::tracking::{account, api_key, event_filter};
use crate::queue::history::{EventFilter, History, with_id};
use crate::smtp::reply::Reply;
use crate::store::history::{EventView, Position};

/// Streams at a time.
const MAX_STREAMS: usize = 64;
/// Silence after which a comment is sent.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Octets of history that are read at once.
const OCTETS: usize = 128 << 10;
/// How long a stream waits when the history cannot be read.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// Which events to stream. All that is given must hold.
#[derive(Debug)]
pub struct StreamParams {
    filter: EventFilter,
    after: Option<Position>,
}

impl IntoParams for StreamParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![
            query::text("event", "What happened: one word, or several with commas.", "failed,expired"),
            query::text("message", "The message's id.", "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"),
            query::sender(),
            query::recipient("A recipient that the event names"),
            query::text("connector", "The connector.", "default"),
            query::text("virtualServer", "The virtual server that took the mail.", "internet"),
            account(),
            api_key(),
            query::text("lastEventId", "The same as the header `Last-Event-ID`, which goes before it.", "7-10412"),
        ]
    }
}

impl FromQuery for StreamParams {
    fn from_query(query: &mut Query) -> Self {
        StreamParams { filter: event_filter(query), after: query.get("lastEventId") }
    }
}

/// How many streams there are, and what ends them.
#[derive(Default)]
pub(super) struct Streams {
    open: Arc<AtomicUsize>,
}

/// One of them.
struct Slot(Arc<AtomicUsize>);

impl Streams {
    fn open(&self) -> Option<Slot> {
        let more = |open| (open < MAX_STREAMS).then_some(open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Slot(self.open.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn streams() -> &'static Streams {
    static STREAMS: OnceLock<Streams> = OnceLock::new();
    STREAMS.get_or_init(Streams::default)
}

/// Stream events
///
/// What happens to mail, as server-sent events: `event` is the word, `data` the event as in `GET /tracking`, `id` where it
/// stands. Begins with what happens from now on; with `Last-Event-ID` behind that event, also after a restart of the appliance.
/// What is no longer kept is told by one event `gap`. A comment comes every 15 seconds. A client that reads slowly gets everything
/// later. At most 64 streams at a time (503 beyond). Scope: `tracking:read`.
#[utoipa::path(
    tag = "tracking",
    operation_id = "streamEvents",
    params(
        StreamParams,
        ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that was seen.", example = "7-10412"),
    ),
    responses(
        (status = 200, description = "The stream.", body = String, content_type = "text/event-stream", example = stream_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("tracking:read")))
)]
#[get("/events")]
pub async fn stream_events(
    request: HttpRequest,
    params: Params<StreamParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let StreamParams { filter, after } = params.0;
    let after = match request.headers().get("Last-Event-ID").map(|value| value.to_str().unwrap_or("?").parse()) {
        None => after,
        Some(Ok(position)) => Some(position),
        Some(Err(error)) => {
            let error: crate::store::history::NotAPosition = error;
            let detail = error.to_string();
            let error =
                FieldError::parameter("Last-Event-ID".to_owned(), RequestCode::InvalidParameter, detail.clone());
            return Err(Problem::new(ProblemKind::BadParameter, detail).with_errors(vec![error]));
        }
    };
    let slot = streams().open().ok_or_else(|| {
        let detail = format!("{MAX_STREAMS} clients read events already");
        Problem::new(ProblemKind::Unavailable, detail).with_header(header::RETRY_AFTER, "30".to_owned())
    })?;
    let history = state.handles.history.clone();
    let tail = history.tail();
    let from = after.unwrap_or_else(|| *tail.borrow());
    let reader = Reader {
        history,
        tail,
        stop: state.handles.draining.clone(),
        filter,
        from,
        seen: after,
        begun: false,
        _slot: slot,
    };
    let stream = futures_util::stream::unfold(reader, |mut reader| async {
        let piece = reader.next().await?;
        Some((Ok::<Bytes, std::io::Error>(piece), reader))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(Box::pin(stream)))
}

/// One client's stream.
struct Reader {
    history: Arc<dyn History>,
    tail: watch::Receiver<Position>,
    stop: watch::Receiver<Option<Reply>>,
    filter: EventFilter,
    from: Position,
    /// The event that the client has seen already.
    seen: Option<Position>,
    begun: bool,
    _slot: Slot,
}

impl Reader {
    /// The next piece of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.begun, true) {
            // the head of the answer goes out with it
            return Some(Bytes::from_static(b": events\nretry: 3000\n\n"));
        }
        let silent_until = tokio::time::Instant::now() + HEARTBEAT;
        loop {
            if self.stop.borrow().is_some() {
                return None;
            }
            self.tail.borrow_and_update();
            let piece = match self.history.read_events(self.from, OCTETS).await {
                Ok(chunk) => {
                    let (moved, piece) = (chunk.next != self.from, self.written(&chunk.events, chunk.gap));
                    self.from = chunk.next;
                    match piece.is_empty() && moved {
                        // nothing of it was meant for this client
                        true if tokio::time::Instant::now() < silent_until => continue,
                        _ => piece,
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %error, "events cannot be read");
                    tokio::time::sleep(READ_AGAIN).await;
                    Vec::new()
                }
            };
            if !piece.is_empty() {
                return Some(piece.into());
            }
            tokio::select! {
                () = tokio::time::sleep_until(silent_until) => return Some(Bytes::from_static(b":\n\n")),
                changed = self.stop.changed() => changed.ok()?,
                changed = self.tail.changed() => changed.ok()?,
            }
        }
    }

    fn written(&self, events: &[(Position, Vec<u8>)], gap: bool) -> Vec<u8> {
        let mut out = Vec::new();
        if gap {
            out.extend_from_slice(
                b"event: gap\ndata: {\"detail\":\"events before the next one are no longer kept\"}\n\n",
            );
        }
        for (position, event) in events.iter().filter(|(position, _)| Some(*position) != self.seen) {
            let Some(view) = EventView::of(event).filter(|view| self.filter.matches(view)) else { continue };
            out.extend_from_slice(format!("id: {position}\nevent: {}\ndata: ", view.event).as_bytes());
            out.extend_from_slice(&with_id(*position, event));
            out.extend_from_slice(b"\n\n");
        }
        out
    }
}

fn stream_example() -> Value {
    json!(
        "id: 7-10412\nevent: relayed\ndata: {\"id\":\"7-10412\",\"event\":\"relayed\",\"at\":\"2026-11-24T10:15:02.480Z\"}\n\n"
    )
}
