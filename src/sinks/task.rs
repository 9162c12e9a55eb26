//! The life of one sink: wait for events, post a batch, remember how far it is, wait longer when it was not taken.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::post::{self, Answered};
use super::{Delivery, EventSinks, FIRST_WAIT, LOG, LONGEST_WAIT, Sink};
use crate::config::EventSink;
use crate::smtp::reply::Reply;
use crate::store::StoreError;
use crate::store::history::{EventView, Position};

/// Octets of events that are read at once, and that a batch has at most.
const OCTETS: usize = 256 << 10;
/// How long it waits when the history cannot be read.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// The shortest time between two writes of the cursor.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// What a sink is told next.
#[derive(Default)]
struct Batch {
    events: Vec<(Position, Vec<u8>)>,
    /// Where the next batch begins.
    next: Position,
    gap: bool,
}

/// Until the process stops; ended from outside when the sink is gone.
pub(super) async fn run(sinks: Arc<EventSinks>, sink: Arc<Sink>, mut stop: watch::Receiver<Option<Reply>>) {
    let mut cursor = Cursor { written: sink.state().cursor, at: Instant::now() };
    tokio::select! {
        _ = stop.wait_for(Option::is_some) => {}
        () = tell(&sinks, &sink, &mut cursor) => {}
    }
    cursor.write(&sinks, &sink).await;
}

/// How far the cursor is written.
struct Cursor {
    written: Position,
    at: Instant,
}

impl Cursor {
    async fn write(&mut self, sinks: &EventSinks, sink: &Sink) {
        let cursor = sink.state().cursor;
        if cursor == self.written {
            return;
        }
        match sinks.keep(&sink.name, cursor).await {
            Ok(()) => (self.written, self.at) = (cursor, Instant::now()),
            Err(error) => tracing::warn!(event_sink = %sink.name, error = %error, "its cursor could not be stored"),
        }
    }
}

async fn tell(sinks: &EventSinks, sink: &Sink, cursor: &mut Cursor) {
    let mut config = sink.config.subscribe();
    let mut tail = sinks.store.tail();
    let mut gap = false;
    let mut attempt = 0;
    // a batch that is tried again is the same batch
    let mut pending: Option<(u64, Arc<EventSink>, Batch)> = None;
    loop {
        let current = config.borrow_and_update().clone();
        tail.borrow_and_update();
        let (from, moves) = {
            let state = sink.state();
            (state.cursor, state.moves)
        };
        let same = |(then, config, _): &(u64, Arc<EventSink>, Batch)| *then == moves && Arc::ptr_eq(config, &current);
        let batch = match pending.take().filter(same) {
            Some((_, _, batch)) => Ok(batch),
            None if current.spec.enabled => next_batch(sinks, &current, from).await,
            None => Ok(Batch::default()),
        };
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                tracing::warn!(event_sink = %sink.name, error = %error, "message tracking cannot be read");
                tokio::time::sleep(READ_AGAIN).await;
                continue;
            }
        };
        gap |= batch.gap;
        if batch.gap {
            sink.state().lost = true;
        }
        if batch.events.is_empty() {
            if current.spec.enabled && batch.next != from {
                // nothing of it is for this sink
                advance(sink, moves, batch.next);
                if cursor.at.elapsed() >= KEEP_EVERY * 10 {
                    cursor.write(sinks, sink).await;
                }
                continue;
            }
            cursor.write(sinks, sink).await;
            tokio::select! {
                _ = tail.changed() => {}
                _ = config.changed() => {}
                () = sink.moved.notified() => attempt = 0,
            }
            continue;
        }
        attempt += 1;
        let begun = Instant::now();
        let answered = post::batch(sinks, &current, &batch.events, gap).await;
        let taken = answered.result.is_ok();
        note(sinks, sink, &batch, answered, attempt, begun.elapsed());
        if taken {
            (gap, attempt) = (false, 0);
            advance(sink, moves, batch.next);
            if cursor.at.elapsed() >= KEEP_EVERY {
                cursor.write(sinks, sink).await;
            }
            continue;
        }
        let wait = FIRST_WAIT.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST_WAIT);
        sink.state().next_attempt = Some(sinks.now() + wait);
        pending = Some((moves, current, batch));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // whoever changes the URL wants to see it work
            _ = config.changed() => attempt = 0,
            () = sink.moved.notified() => attempt = 0,
        }
    }
}

/// The cursor goes on, unless a person has moved it meanwhile.
fn advance(sink: &Sink, moves: u64, next: Position) {
    let mut state = sink.state();
    if state.moves == moves {
        state.cursor = next;
    }
}

/// The next events that the sink wants to hear of: a batch that is not full does not wait to be. The same events from the same
/// position, whenever it is asked.
async fn next_batch(sinks: &EventSinks, config: &EventSink, from: Position) -> Result<Batch, StoreError> {
    let chunk = sinks.store.read_events(from, OCTETS).await?;
    let mut batch = Batch { events: Vec::new(), next: chunk.next, gap: chunk.gap };
    let most = config.spec.max_batch.max(1) as usize;
    for (position, event) in chunk.events {
        if batch.events.len() >= most {
            batch.next = position;
            break;
        }
        if EventView::of(&event).is_some_and(|view| is_wanted(config, &view)) {
            batch.events.push((position, event));
        }
    }
    Ok(batch)
}

fn is_wanted(config: &EventSink, event: &EventView) -> bool {
    let spec = &config.spec;
    let named = |wanted: &[crate::model::name::Name], name: &Option<String>| {
        wanted.is_empty() || name.as_ref().is_some_and(|name| wanted.iter().any(|wanted| wanted.as_str() == name))
    };
    (spec.events.is_empty() || spec.events.iter().any(|kind| kind.word() == event.event))
        && named(&spec.virtual_servers, &event.virtual_server)
        && named(&spec.connectors, &event.connector)
}

fn note(sinks: &EventSinks, sink: &Sink, batch: &Batch, answered: Answered, attempt: u32, took: Duration) {
    let now = sinks.now();
    let at = |event: Option<&(Position, Vec<u8>)>| event.map(|(position, _)| *position).unwrap_or_default();
    let error = answered.result.err();
    match &error {
        None => tracing::debug!(event_sink = %sink.name, events = batch.events.len(), "events were taken"),
        Some(error) => {
            tracing::warn!(event_sink = %sink.name, events = batch.events.len(), attempt, error, "events were not taken")
        }
    }
    let mut state = sink.state();
    match &error {
        None => (state.taken, state.failed, state.failures, state.next_attempt) = (Some(now), None, 0, None),
        Some(error) => {
            state.failed = Some((now, error.clone()));
            state.failures = state.failures.saturating_add(1);
        }
    }
    if state.log.len() >= LOG {
        state.log.pop_front();
    }
    state.log.push_back(Delivery {
        delivery: answered.delivery,
        at: now,
        attempt,
        events: batch.events.len(),
        first: at(batch.events.first()),
        last: at(batch.events.last()),
        taken: error.is_none(),
        http_status: answered.http_status,
        error,
        duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    });
}
