//! Traces by OpenTelemetry: one of each message, sent to a collector by OTLP (`settings.tracing`).
//!
//! Spans are made of the events of message tracking ([`span`]), read from its files as event sinks read them: nothing on the way of
//! mail knows of traces, and a message has the same trace before and after a restart. The id of the trace is the message's id;
//! what a request of REST says of a trace of its sender (`traceparent`) becomes a link to it.
//!
//! **Nothing waits for a collector.** Events wait in the files they are in anyway. In memory there is one piece of them
//! ([`OCTETS`]), and of that one request at a time. What the collector does not take is tried again, later and later
//! ([`FIRST_WAIT`] to [`LONGEST_WAIT`]), until it is older than [`LATE`]: then it is dropped and counted, as is everything behind
//! it that is as old, so that traces are of what happens now. Traces begin with what happens from the start of the process on, or from when
//! they are switched on.

mod otlp;
mod post;
mod span;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::config::Live;
use crate::config::watching::TraceExport;
use crate::model::mail::MessageId;
use crate::model::time::Timestamp;
use crate::net::clock::Clock;
use crate::observe::metrics::Metrics;
use crate::smtp::reply::Reply;
use crate::store::Store;
use crate::store::history::Position;
use otlp::Resource;
use span::{Span, Spans};

/// Octets of events that are read at once.
const OCTETS: usize = 256 << 10;
/// Most spans of a request.
const MOST_SPANS: usize = 512;
/// How long events are gathered: a message that is relayed at once is one request, not three.
const GATHER: Duration = Duration::from_secs(1);
/// What is older than this is not sent any more.
const LATE: Duration = Duration::from_secs(120);
/// The first wait after a request that was not taken; each one after it is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between requests.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long it waits when message tracking cannot be read.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// Why the collector has not taken spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotTaken {
    /// In words.
    pub words: String,
    /// Trying again makes no sense.
    pub permanent: bool,
}

/// Hands spans to a collector. [`crate::net::http::Http`] does.
#[async_trait]
pub trait Collector: Send + Sync {
    /// One request. Ends within [`TraceExport::timeout`].
    ///
    /// # Errors
    /// When it was not taken.
    async fn post(&self, export: &TraceExport, body: Bytes) -> Result<(), NotTaken>;
}

/// The traces of a process.
pub struct Traces {
    /// Where events are.
    pub store: Arc<dyn Store>,
    /// Where message tracking ended when the process began, before anything else happened to mail.
    pub begin: Position,
    /// Whether and where to.
    pub live: Live,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether local parts of addresses are left out, as in logs.
    pub redact: bool,
    /// Who takes them.
    pub collector: Box<dyn Collector>,
}

/// Why following ends.
struct Over;

impl Traces {
    /// Sends traces until the process stops.
    pub async fn run(self, mut stop: watch::Receiver<Option<Reply>>) {
        tokio::select! {
            _ = stop.wait_for(Option::is_some) => {}
            _ = self.follow() => {}
        }
    }

    async fn follow(&self) -> Result<(), Over> {
        let mut changes = self.live.subscribe();
        let mut tail = self.store.tail();
        let mut cursor = Some(self.begin);
        loop {
            changes.borrow_and_update();
            let Some(export) = self.live.current().tracing.clone() else {
                cursor = None;
                changes.changed().await.map_err(|_| Over)?;
                continue;
            };
            let end = *tail.borrow_and_update();
            let from = *cursor.get_or_insert(end);
            if from >= end {
                tokio::select! {
                    changed = tail.changed() => changed.map_err(|_| Over)?,
                    changed = changes.changed() => changed.map_err(|_| Over)?,
                }
                tokio::time::sleep(GATHER).await;
                continue;
            }
            let chunk = match self.store.read_events(from, OCTETS).await {
                Ok(chunk) => chunk,
                Err(error) => {
                    tracing::warn!(%error, "message tracking cannot be read; traces wait for it");
                    tokio::time::sleep(READ_AGAIN).await;
                    continue;
                }
            };
            // where nothing more can be read, what comes is waited for
            cursor = Some(if chunk.events.is_empty() { chunk.next.max(end) } else { chunk.next });
            let mut spans = Spans::new(export.ratio);
            chunk.events.iter().for_each(|(position, event)| spans.take(*position, event));
            let (mut spans, ended) = spans.finish();
            self.mark_ends(&mut spans, &ended).await;
            for batch in spans.chunks(MOST_SPANS) {
                self.send(&export, batch, &mut changes).await;
            }
        }
    }

    /// Says at the last span of a message that it was the last: nothing of it waits any more.
    async fn mark_ends(&self, spans: &mut [Span], ended: &[MessageId]) {
        for id in ended {
            if let Ok(None) = self.store.message(*id).await
                && let Some(last) = spans.iter_mut().filter(|span| span.is_of(*id)).max_by_key(|span| span.end())
            {
                last.mark_end();
            }
        }
    }

    /// Sends a batch, or drops it when it is too old.
    async fn send(&self, export: &Arc<TraceExport>, batch: &[Span], changes: &mut watch::Receiver<u64>) {
        let count = batch.len() as u64;
        let drop_it = |why: &str| {
            self.metrics.trace_spans_dropped.inc_by(count);
            tracing::debug!(spans = count, why, "spans were dropped");
        };
        let newest = batch.iter().map(Span::end).max().unwrap_or(Timestamp::EPOCH);
        let mut wait = FIRST_WAIT;
        let mut body = None;
        loop {
            if self.now().since(newest) > LATE {
                return drop_it("they are too old");
            }
            let body = body.get_or_insert_with(|| {
                let snapshot = self.live.current();
                let server = snapshot.default_virtual_server.as_ref();
                let server = server.and_then(|name| snapshot.virtual_servers.get(name));
                let resource = Resource { host: server.map(|server| server.fqdn.as_str()) };
                otlp::request(&resource, batch, self.redact)
            });
            match self.collector.post(export, body.clone()).await {
                Ok(()) => {
                    self.metrics.trace_spans.inc_by(count);
                    return;
                }
                Err(NotTaken { words, permanent }) => {
                    tracing::warn!(spans = count, permanent, why = words, "the collector has not taken spans");
                    if permanent {
                        return drop_it("the collector does not want them");
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(LONGEST_WAIT),
                // whoever changes the endpoint wants to see it work: what is for the old one goes
                changed = changes.changed() => {
                    let same = self.live.current().tracing.as_ref().is_some_and(|now| Arc::ptr_eq(now, export));
                    if changed.is_err() || !same {
                        return drop_it("the collector is another one now");
                    }
                }
            }
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }
}
