//! From events of message tracking to spans.
//!
//! | span | from | to |
//! |---|---|---|
//! | `receive` (the root) | the first RCPT, or the submission | durable |
//! | `store` | the final dot | durable |
//! | `distribute` | a group, contact or forward is looked at | those who get it are recorded |
//! | `deliver` | an attempt begins | its outcome is recorded |
//! | any other event, by its name | when it happened | then |
//!
//! Recipients that one attempt was for are one span, with a mark each. Its id is made from where its first event stands, so that what is
//! sent twice is the same span. Attributes have the names of OpenTelemetry where it has one. What lies on both sides of a piece of history
//! may be two spans.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use crate::model::event_kind::EventKind;
use crate::model::failure::Failure;
use crate::model::mail::MessageId;
use crate::model::ratio::Ratio;
use crate::model::time::Timestamp;
use crate::model::trace_parent::TraceParent;
use crate::store::history::Position;

/// Events of one attempt, a recipient each, follow each other within this time; another attempt is a second later at the earliest.
const AT_ONCE: Duration = Duration::from_millis(200);
/// Most marks of a span.
const MOST_MARKS: usize = 100;

/// What a span is to others, with its number in OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Attribute {
    Text(String),
    Number(i64),
    Flag(bool),
    Texts(Vec<String>),
}

/// Something that happened in a span.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mark {
    pub(super) at: Timestamp,
    pub(super) name: &'static str,
    pub(super) attributes: Vec<(&'static str, Attribute)>,
}

/// Another span that this one has to do with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Link {
    pub(super) trace: u128,
    pub(super) span: u64,
    pub(super) relation: &'static str,
}

/// A span.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    pub(super) trace: u128,
    pub(super) id: u64,
    pub(super) parent: Option<u64>,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) start: Timestamp,
    /// The start lies so much before.
    pub(super) start_nanos: u64,
    pub(super) end: Timestamp,
    pub(super) attributes: Vec<(&'static str, Attribute)>,
    pub(super) marks: Vec<Mark>,
    pub(super) links: Vec<Link>,
    pub(super) error: Option<String>,
}

impl Span {
    /// When it ended.
    pub(super) fn end(&self) -> Timestamp {
        self.end
    }

    /// Whether it is of this message.
    pub(super) fn is_of(&self, message: MessageId) -> bool {
        self.trace == message.0.as_u128()
    }

    /// Nothing of the message waits any more.
    pub(super) fn mark_end(&mut self) {
        self.marks.push(Mark { at: self.end, name: "end", attributes: Vec::new() });
    }

    fn mark(&mut self, at: Timestamp, name: &'static str, attributes: Vec<(&'static str, Attribute)>) {
        if self.marks.len() < MOST_MARKS {
            self.marks.push(Mark { at, name, attributes });
        }
    }
}

/// What is read of an event.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    message: Option<MessageId>,
    at: Timestamp,
    event: EventKind,
    #[serde(default)]
    recipients: Vec<String>,
    /// Recipients that events of earlier versions counted and did not name.
    #[serde(default)]
    more_recipients: usize,
    /// Which of several events with all recipients together, from 2 on.
    #[serde(default)]
    part: usize,
    sender: Option<String>,
    message_id: Option<String>,
    size: Option<i64>,
    protocol: Option<String>,
    client: Option<String>,
    session: Option<String>,
    account: Option<String>,
    api_key: Option<String>,
    virtual_server: Option<String>,
    connector: Option<String>,
    queue: Option<String>,
    next_hop: Option<String>,
    tls: Option<String>,
    #[serde(default)]
    tls_verified: bool,
    reply: Option<String>,
    failure: Option<Failure>,
    attempts: Option<i64>,
    related: Option<MessageId>,
    by: Option<String>,
    duration_ms: Option<u64>,
    sync_ms: Option<f64>,
    request_id: Option<String>,
    traceparent: Option<String>,
}

/// A span that may go on with the next event of its message.
#[derive(Debug, PartialEq)]
enum Open {
    Root,
    /// By next hop, connector and time taken.
    Attempt(Option<String>, Option<String>, u64),
}

/// Spans in the making.
pub(super) struct Spans {
    ratio: Ratio,
    spans: Vec<Span>,
    /// Of each message that was met, which of the spans is open.
    open: std::collections::HashMap<MessageId, (Open, usize)>,
    ended: BTreeSet<MessageId>,
}

impl Spans {
    /// Of the messages that are in this part of all.
    pub(super) fn new(ratio: Ratio) -> Self {
        Spans { ratio, spans: Vec::new(), open: Default::default(), ended: BTreeSet::new() }
    }

    /// The spans, and the messages of which nothing may wait any more.
    pub(super) fn finish(self) -> (Vec<Span>, Vec<MessageId>) {
        (self.spans, self.ended.into_iter().collect())
    }

    /// The next event.
    pub(super) fn take(&mut self, position: Position, event: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Event>(event) else { return };
        // what was refused never was a message
        let Some(message) = event.message.filter(|_| event.event != EventKind::Rejected) else { return };
        // the low bits of a UUID v7: those above them count up within a millisecond
        if !self.ratio.takes(message.spread() as u32) {
            return;
        }
        if is_last(event.event) {
            self.ended.insert(message);
        }
        let now = Now { message, position, event: &event };
        match (event.event, event.duration_ms) {
            (EventKind::Received, _) if now.event.part > 1 => self.received_for_more(&now),
            (EventKind::Received, _) => self.received(&now),
            (EventKind::Resolved | EventKind::Routed | EventKind::Held, _) if self.is_open(message, &Open::Root) => {
                self.go_on(&now);
            }
            (_, Some(millis)) => {
                let this = Open::Attempt(event.next_hop.clone(), event.connector.clone(), millis);
                // the next attempt may look the same, but is not at once
                if self.is_open(message, &this) && self.is_at_once(message, event.at) {
                    self.go_on(&now);
                } else {
                    let span = now.attempt(millis);
                    self.begin(message, this, span);
                    self.go_on(&now);
                }
            }
            _ => self.spans.push(now.moment()),
        }
    }

    fn received(&mut self, now: &Now<'_>) {
        let root = now.root();
        if let Some(sync) = now.event.sync_ms {
            self.spans.push(now.sync(sync));
        }
        self.begin(now.message, Open::Root, root);
    }

    /// A reception with more recipients than one event names: they are counted where it has begun.
    fn received_for_more(&mut self, now: &Now<'_>) {
        let Some((Open::Root, index)) = self.open.get(&now.message) else { return };
        let Some(root) = self.spans.get_mut(*index) else { return };
        for (name, value) in &mut root.attributes {
            if let ("bridgehead.recipients.count", Attribute::Number(count)) = (&**name, value) {
                *count += i64::try_from(now.event.recipients.len()).unwrap_or_default();
            }
        }
    }

    fn begin(&mut self, message: MessageId, open: Open, span: Span) {
        self.open.insert(message, (open, self.spans.len()));
        self.spans.push(span);
    }

    fn is_open(&self, message: MessageId, open: &Open) -> bool {
        self.open.get(&message).is_some_and(|(known, _)| known == open)
    }

    /// Whether the open span of the message has ended only just now.
    fn is_at_once(&self, message: MessageId, at: Timestamp) -> bool {
        let open = self.open.get(&message).and_then(|(_, index)| self.spans.get(*index));
        open.is_some_and(|span| at.since(span.end) <= AT_ONCE)
    }

    /// The event belongs to the open span of its message.
    fn go_on(&mut self, now: &Now<'_>) {
        let Some((_, index)) = self.open.get(&now.message) else { return };
        let Some(span) = self.spans.get_mut(*index) else { return };
        let Event { event, at, .. } = now.event;
        span.end = span.end.max(*at);
        if let Some(why) = now.error() {
            span.error.get_or_insert(why);
        }
        span.mark(*at, event.word(), now.of_recipients());
    }
}

/// After such an event a recipient waits no more.
fn is_last(event: EventKind) -> bool {
    use EventKind::{Delivered, Expanded, Expired, Failed, Relayed, Removed, Resubmitted};
    matches!(event, Delivered | Relayed | Expanded | Failed | Expired | Removed | Resubmitted)
}

/// The event that is looked at.
struct Now<'a> {
    message: MessageId,
    position: Position,
    event: &'a Event,
}

impl Now<'_> {
    fn span(&self, name: impl Into<String>, kind: Kind, lasted: u64) -> Span {
        let event = self.event;
        Span {
            trace: self.message.0.as_u128(),
            id: self.id(""),
            parent: Some(root_id(self.message)),
            name: name.into(),
            kind,
            start: event.at,
            start_nanos: lasted,
            end: event.at,
            attributes: Vec::new(),
            marks: Vec::new(),
            links: Vec::new(),
            error: None,
        }
    }

    /// An id that this event always gets.
    fn id(&self, what: &str) -> u64 {
        let hash = blake3::hash(format!("{}/{}/{what}", self.message, self.position).as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_be_bytes(first).max(1)
    }

    fn root(&self) -> Span {
        let event = self.event;
        let has_client = event.client.is_some();
        let lasted = event.duration_ms.unwrap_or_default().saturating_mul(1_000_000);
        let mut span = self.span("receive", if has_client { Kind::Server } else { Kind::Internal }, lasted);
        (span.id, span.parent) = (root_id(self.message), None);
        span.attributes = present([
            ("messaging.operation.type", text("receive")),
            ("messaging.message.id", event.message_id.as_deref().and_then(text)),
            ("messaging.message.body.size", event.size.map(Attribute::Number)),
            ("network.protocol.name", event.protocol.as_deref().and_then(text)),
            ("client.address", event.client.as_deref().and_then(text)),
            ("enduser.id", event.account.as_deref().and_then(text)),
            ("bridgehead.api_key", event.api_key.as_deref().and_then(text)),
            ("bridgehead.session.id", event.session.as_deref().and_then(text)),
            ("bridgehead.request.id", event.request_id.as_deref().and_then(text)),
            ("bridgehead.sender", event.sender.as_deref().and_then(text)),
        ]);
        span.attributes.extend(self.of_message());
        span.attributes.extend(self.of_tls());
        span.attributes.extend(self.of_recipients());
        if let Some(parent) = event.traceparent.as_deref().and_then(|text| text.parse::<TraceParent>().ok()) {
            span.links.push(Link { trace: parent.trace, span: parent.span, relation: "submitted-by" });
        }
        span.links.extend(self.related("caused-by"));
        span
    }

    fn sync(&self, millis: f64) -> Span {
        // never negative, and so small that nothing is lost
        let lasted = (millis.max(0.0) * 1_000_000.0) as u64;
        let mut span = self.span("store", Kind::Internal, lasted);
        span.id = self.id("store");
        span.attributes = self.of_message();
        span
    }

    fn attempt(&self, millis: u64) -> Span {
        let event = self.event;
        let lasted = millis.saturating_mul(1_000_000);
        let mut span = match event.event {
            EventKind::Expanded => self.span("distribute", Kind::Internal, lasted),
            _ => self.span("deliver", if event.next_hop.is_some() { Kind::Client } else { Kind::Internal }, lasted),
        };
        span.attributes = present([
            ("messaging.operation.type", text(if event.event == EventKind::Expanded { "process" } else { "send" })),
            ("bridgehead.connector", event.connector.as_deref().and_then(text)),
            ("bridgehead.next_hop", event.next_hop.as_deref().and_then(text)),
        ]);
        span.attributes.extend(self.of_message());
        span.attributes.extend(event.next_hop.as_deref().map(of_host).unwrap_or_default());
        span.attributes.extend(self.of_tls());
        span.links.extend(self.related("continued-by"));
        span
    }

    /// An event that takes no time.
    fn moment(&self) -> Span {
        let event = self.event;
        let mut span = self.span(event.event.word(), Kind::Internal, 0);
        span.attributes = self.of_message();
        span.attributes.extend(present([("bridgehead.by", event.by.as_deref().and_then(text))]));
        span.attributes.extend(self.of_recipients());
        span.links.extend(self.related("related"));
        span.error = self.error();
        span
    }

    fn of_message(&self) -> Vec<(&'static str, Attribute)> {
        present([
            ("messaging.system", text("smtp")),
            ("bridgehead.message.id", text(&self.message.to_string())),
            ("bridgehead.virtual_server", self.event.virtual_server.as_deref().and_then(text)),
        ])
    }

    fn of_tls(&self) -> Vec<(&'static str, Attribute)> {
        let Some(version) = &self.event.tls else { return Vec::new() };
        present([
            ("tls.protocol.name", text("tls")),
            ("tls.protocol.version", text(version.trim_start_matches("TLSv"))),
            ("bridgehead.tls.verified", Some(Attribute::Flag(self.event.tls_verified))),
        ])
    }

    /// For whom, and what came of it.
    fn of_recipients(&self) -> Vec<(&'static str, Attribute)> {
        let event = self.event;
        let count = event.recipients.len() + event.more_recipients;
        let failure = event.failure.as_ref();
        let code = failure.and_then(|failure| failure.remote_code).map(i64::from);
        let code = code.or_else(|| event.reply.as_deref()?.get(..3)?.parse().ok());
        present([
            ("bridgehead.recipients", Some(Attribute::Texts(event.recipients.clone())).filter(|_| count > 0)),
            ("bridgehead.recipients.count", i64::try_from(count).ok().map(Attribute::Number).filter(|_| count > 0)),
            ("bridgehead.queue", event.queue.as_deref().and_then(text)),
            ("smtp.response.code", code.map(Attribute::Number)),
            ("smtp.response.status", failure.and_then(|failure| text(&failure.status.to_string()))),
            ("smtp.response.text", event.reply.as_deref().and_then(text)),
            ("error.message", failure.and_then(|failure| text(&failure.to_string()))),
            ("bridgehead.attempts", event.attempts.map(Attribute::Number)),
        ])
    }

    fn error(&self) -> Option<String> {
        use EventKind::{DeadLettered, Deferred, Expired, Failed};
        let wrong = matches!(self.event.event, Deferred | Failed | Expired | DeadLettered);
        let why = self.event.failure.as_ref().map(ToString::to_string);
        wrong.then(|| why.unwrap_or_else(|| self.event.event.word().to_owned()))
    }

    fn related(&self, relation: &'static str) -> Option<Link> {
        let related = self.event.related?;
        Some(Link { trace: related.0.as_u128(), span: root_id(related), relation })
    }
}

/// The id of the root span of a message; never 0, by the variant of a UUID.
fn root_id(message: MessageId) -> u64 {
    message.spread().max(1)
}

/// A next hop as tracking writes it: `mx.example.com (192.0.2.25:25)`.
fn of_host(next_hop: &str) -> Vec<(&'static str, Attribute)> {
    let (name, address) = match next_hop.split_once(" (") {
        Some((name, address)) => (name, address.strip_suffix(')')),
        None => (next_hop, None),
    };
    let address = address.and_then(|address| address.parse::<std::net::SocketAddr>().ok());
    present([
        ("server.address", text(name)),
        ("server.port", address.map(|address| Attribute::Number(address.port().into()))),
        ("network.peer.address", address.and_then(|address| text(&address.ip().to_string()))),
    ])
}

fn text(text: &str) -> Option<Attribute> {
    (!text.is_empty()).then(|| Attribute::Text(text.to_owned()))
}

fn present<const N: usize>(all: [(&'static str, Option<Attribute>); N]) -> Vec<(&'static str, Attribute)> {
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
