//! Counters of one appliance, in a registry of its own (many appliances run in one test).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The label of a virtual server or a connector: as many as are configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByName {
    /// Name of the object.
    pub name: String,
}

/// The label of an outcome: a fixed set of words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByOutcome {
    /// `delivered`, `relayed`, `deferred`, `failed`, `expired`, `deadLettered`; of DNS lists `listed`, `notListed`, `failed`.
    pub outcome: &'static str,
}

/// The label of what a filter did: a fixed set of words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByAction {
    /// `reject`, `drop`, `archive`, `acceptSilently`.
    pub action: &'static str,
}

/// The labels of an attempt: what came of it for a recipient, and by which connector or store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByAttempt {
    /// The kind of queue it was made from.
    pub kind: &'static str,
    /// The connector; empty for local mail.
    pub connector: String,
    /// See [`ByOutcome`].
    pub outcome: &'static str,
}

/// The label of what came of something: a fixed set of words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByResult {
    /// `sent`, `failed`.
    pub result: &'static str,
}

/// The labels of a command: its verb, and the first digit of the reply.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByCommand {
    /// The verb; `other` for what is none.
    pub verb: &'static str,
    /// `2xx`, `3xx`, `4xx`, `5xx`.
    pub reply: &'static str,
}

/// A histogram of how long the journal is synced.
pub fn sync_seconds() -> Histogram {
    Histogram::new([0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0])
}

/// What attempts, and recipients, come to.
const OUTCOMES: [&str; 6] = ["delivered", "relayed", "deferred", "failed", "expired", "deadLettered"];

/// All counters. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Connections that were taken, by virtual server.
    pub connections: Family<ByName, Counter>,
    /// Connections that were turned away ([`Metrics::refused`]), by virtual server.
    connections_refused: Family<ByName, Counter>,
    /// Sessions now, by virtual server.
    pub sessions: Family<ByName, Gauge>,
    /// Messages accepted, by virtual server.
    pub accepted: Family<ByName, Counter>,
    /// Octets accepted, by virtual server.
    pub accepted_bytes: Family<ByName, Counter>,
    /// Recipients refused for good ([`Metrics::recipient_refused`]), by virtual server.
    recipients_refused: Family<ByName, Counter>,
    /// What filters did with senders and recipients.
    pub filtered: Family<ByAction, Counter>,
    /// What DNS lists said of clients: `listed`, `notListed`, `failed`.
    pub dns_lists: Family<ByOutcome, Counter>,
    /// What became of recipients, attempt by attempt.
    pub outcomes: Family<ByOutcome, Counter>,
    /// Connections that were opened to next hops.
    pub outbound_connections: Counter,
    /// Notifications that were written.
    pub notifications: Counter,
    /// Lines that the protocol log could not take.
    pub protocol_log_dropped: Counter,
    /// What came of attempts, by connector.
    pub attempts: Family<ByAttempt, Counter>,
    /// From reception to delivery, by recipient.
    pub delay_seconds: Histogram,
    /// How long attempts took.
    pub attempt_seconds: Histogram,
    /// SMTP commands that were answered.
    pub commands: Family<ByCommand, Counter>,
    /// How long the journal was synced.
    pub sync_seconds: Histogram,
    /// Messages to operators about what is wrong, each to one recipient.
    pub alerts: Family<ByResult, Counter>,
    /// Spans that the collector of traces took.
    pub trace_spans: Counter,
    /// Spans that it did not take in time.
    pub trace_spans_dropped: Counter,
}

impl Metrics {
    /// New counters, registered in `registry` under `bridgehead_`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Metrics {
            connections: Family::default(),
            connections_refused: Family::default(),
            sessions: Family::default(),
            accepted: Family::default(),
            accepted_bytes: Family::default(),
            recipients_refused: Family::default(),
            filtered: Family::default(),
            dns_lists: Family::default(),
            outcomes: Family::default(),
            outbound_connections: Counter::default(),
            notifications: Counter::default(),
            protocol_log_dropped: Counter::default(),
            attempts: Family::default(),
            delay_seconds: Histogram::new([0.1, 1.0, 5.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0, 14_400.0, 86_400.0]),
            attempt_seconds: Histogram::new([0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0]),
            commands: Family::default(),
            sync_seconds: sync_seconds(),
            alerts: Family::default(),
            trace_spans: Counter::default(),
            trace_spans_dropped: Counter::default(),
        };
        // there from the start: of a counter that begins with its first event, no rate sees that event
        for outcome in OUTCOMES {
            drop(metrics.outcomes.get_or_create(&ByOutcome { outcome }));
        }
        for result in ["sent", "failed"] {
            drop(metrics.alerts.get_or_create(&ByResult { result }));
        }
        let r = registry.sub_registry_with_prefix("bridgehead");
        r.register("smtp_connections", "SMTP connections taken", metrics.connections.clone());
        r.register(
            "smtp_connections_refused",
            "SMTP connections that were turned away",
            metrics.connections_refused.clone(),
        );
        r.register("smtp_sessions", "SMTP sessions now", metrics.sessions.clone());
        r.register("messages_accepted", "Messages accepted (durable)", metrics.accepted.clone());
        r.register_with_unit("accepted", "Content accepted", Unit::Bytes, metrics.accepted_bytes.clone());
        r.register("recipients_refused", "Recipients refused for good at RCPT", metrics.recipients_refused.clone());
        r.register("filtered", "What filters did with senders and recipients", metrics.filtered.clone());
        r.register("dns_list_answers", "What DNS lists said of clients", metrics.dns_lists.clone());
        r.register("recipient_outcomes", "What became of recipients, by attempt", metrics.outcomes.clone());
        r.register("outbound_connections", "Connections opened to next hops", metrics.outbound_connections.clone());
        r.register("notifications", "Delivery status notifications queued", metrics.notifications.clone());
        let dropped = metrics.protocol_log_dropped.clone();
        r.register("delivery_attempts", "What came of attempts, by connector", metrics.attempts.clone());
        let (delay, attempt) = (metrics.delay_seconds.clone(), metrics.attempt_seconds.clone());
        r.register_with_unit("delivery_delay", "From reception to delivery, by recipient", Unit::Seconds, delay);
        r.register_with_unit("delivery_attempt", "How long attempts took", Unit::Seconds, attempt);
        r.register("smtp_commands", "SMTP commands that were answered", metrics.commands.clone());
        let sync = metrics.sync_seconds.clone();
        r.register_with_unit("store_sync", "How long the journal was synced", Unit::Seconds, sync);
        r.register("protocol_log_dropped", "Lines that the protocol log could not take", dropped);
        r.register("alerts", "Messages to operators about what is wrong, by recipient", metrics.alerts.clone());
        r.register("trace_spans", "Spans that the collector of traces took", metrics.trace_spans.clone());
        let dropped = metrics.trace_spans_dropped.clone();
        r.register("trace_spans_dropped", "Spans that the collector of traces did not take in time", dropped);
        metrics
    }

    /// Counts a sender or recipient that a filter matched.
    pub fn filtered(&self, action: &'static str) {
        self.filtered.get_or_create(&ByAction { action }).inc();
    }

    /// Counts a connection that a virtual server turned away before it could say anything: it is paused or draining, has too many,
    /// the client may not connect, or what speaks for it is no trusted proxy.
    pub fn refused(&self, server: &str) {
        self.connections_refused.get_or_create(&ByName { name: server.to_owned() }).inc();
    }

    /// Counts a recipient that a virtual server refused for good at RCPT; what is refused at another command is none.
    pub fn recipient_refused(&self, server: &str) {
        self.recipients_refused.get_or_create(&ByName { name: server.to_owned() }).inc();
    }

    /// Counts a command that was answered.
    pub fn command(&self, verb: &'static str, code: u16) {
        let reply = match code / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.commands.get_or_create(&ByCommand { verb, reply }).inc();
    }

    /// Counts the answer of a DNS list.
    pub fn dns_list(&self, outcome: &'static str) {
        self.dns_lists.get_or_create(&ByOutcome { outcome }).inc();
    }

    /// What came of attempts of this kind by this connector so far: those that were put off, and all.
    pub fn attempts_of(&self, kind: &'static str, connector: &str) -> (u64, u64) {
        let count = |outcome| {
            let label = ByAttempt { kind, connector: connector.to_owned(), outcome };
            self.attempts.get(&label).map_or(0, |counter| counter.get())
        };
        OUTCOMES.iter().fold((0, 0), |(deferred, all), outcome| {
            let these = count(outcome);
            (deferred + if *outcome == "deferred" { these } else { 0 }, all + these)
        })
    }

    /// Recipients that were delivered or relayed so far.
    pub fn arrived(&self) -> u64 {
        let count = |outcome| self.outcomes.get(&ByOutcome { outcome }).map_or(0, |counter| counter.get());
        count("delivered") + count("relayed")
    }

    /// Counts `n` recipients with an outcome.
    pub fn outcome(&self, outcome: &'static str, n: u64) {
        if n > 0 {
            self.outcomes.get_or_create(&ByOutcome { outcome }).inc_by(n);
        }
    }
}
