//! Everything that is counted, in the OpenMetrics text format.
//!
//! Counters are raised where things happen ([`Metrics`](crate::observe::metrics::Metrics)); what follows from the state of
//! the moment (queues, disk, certificates) is read when somebody asks, from counters and snapshots, never by a scan.
//! Labels are names of configured objects, kinds and states: a flood of strange domains adds no series.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::overload::resident_bytes;
use crate::api;
use crate::config::{Configuration, Live};
use crate::model::time::Timestamp;
use crate::net::clock::Clock;
use crate::queue::operate::{Operate, QueueView};
use crate::queue::totals::{Sort, totals};
use crate::status::{Drain, Listeners, Overload, Running, Sessions};
use crate::store::Store;

/// Renders all metrics.
pub(super) struct Exposition {
    pub(super) registry: Registry,
    pub(super) operate: Arc<dyn Operate>,
    pub(super) store: Arc<dyn Store>,
    pub(super) live: Live,
    pub(super) configuration: Arc<Configuration>,
    pub(super) listeners: Arc<Listeners>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) running: Arc<Running>,
    pub(super) drain: Arc<Drain>,
    pub(super) overload: Arc<Overload>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) started: Instant,
}

#[async_trait]
impl api::Exposition for Exposition {
    async fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        let mut out = Gauges(text.strip_suffix("# EOF\n").unwrap_or(&text).to_owned());
        match self.operate.queues().await {
            Ok(queues) => self.of_queues(&queues, &mut out),
            Err(error) => tracing::error!(%error, "queues cannot be counted"),
        }
        self.of_store(&mut out);
        self.of_configuration(&mut out);
        self.of_process(&mut out);
        out.0.push_str("# EOF\n");
        out.0
    }
}

/// What a family of gauges is called, and what it is for.
struct Family {
    name: &'static str,
    help: &'static str,
}

impl Exposition {
    fn of_queues(&self, queues: &[QueueView], out: &mut Gauges) {
        let sums = totals(queues);
        let now = Timestamp::from_millis(self.clock.unix_millis());
        let messages = Family { name: "queue_messages", help: "Messages that wait, by kind, connector and state" };
        let bytes = Family { name: "queue_bytes", help: "Their content" };
        let count = Family { name: "queues", help: "Queues that hold something or are frozen" };
        let oldest =
            Family { name: "queue_oldest_age_seconds", help: "How long ago the oldest that waits was received" };
        for family in [messages, bytes, count, oldest] {
            out.family(family.name, family.help);
            for (Sort { kind, connector, state }, sum) in &sums {
                let labels = [("kind", *kind), ("connector", connector.as_str()), ("state", state.as_str())];
                let value = match family.name {
                    "queue_messages" => sum.messages as f64,
                    "queue_bytes" => sum.bytes as f64,
                    "queues" => sum.queues as f64,
                    _ => sum.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64()),
                };
                out.row(family.name, &labels, value);
            }
        }
    }

    fn of_store(&self, out: &mut Gauges) {
        let health = self.store.health();
        let flag = |on: bool| if on { 1.0 } else { 0.0 };
        out.one("store_writable", "1 when new mail can be taken", flag(health.writable.is_ok()));
        out.one("store_ready", "1 when the database has caught up", flag(health.ready));
        out.one("store_quarantined", "Damaged records that were set aside", health.quarantined as f64);
        out.one("store_journal_bytes", "Journal on disk", health.journal_bytes as f64);
        out.one("store_alive_bytes", "Content of what is queued", health.alive_bytes as f64);
        out.one("store_free_bytes", "Free space on the data directory", health.free_bytes as f64);
        out.one("store_reserve_bytes", "Free space that new mail must leave", health.reserve_bytes as f64);
        let history = self.store.history();
        for (name, help, value) in [
            ("tracking_dropped", "Events that message tracking could not keep", history.dropped),
            ("tracking_damaged", "Lines of message tracking that cannot be read", history.damaged),
            ("tracking_files", "Files of message tracking", history.files),
            ("tracking_bytes", "Their octets", history.bytes),
        ] {
            out.one(name, help, value as f64);
        }
    }

    fn of_configuration(&self, out: &mut Gauges) {
        let snapshot = self.live.current();
        out.one("config_revision", "The revision in force", snapshot.revision as f64);
        if let Some(files) = self.configuration.files() {
            let accepted = if files.accepted == Some(true) { 1.0 } else { 0.0 };
            out.one("config_accepted", "1 when what the watched directory says is in force", accepted);
        }
        out.family("certificate_not_after_seconds", "When a certificate expires, in Unix time");
        for (name, certificate) in &snapshot.certificates {
            if let Some(identity) = &certificate.identity {
                let at = identity.facts().not_after.millis() as f64 / 1000.0;
                out.row("certificate_not_after_seconds", &[("certificate", name.as_str())], at);
            }
        }
        out.family("certificate_fault", "1 when what the certificate says now is not in force");
        for (name, certificate) in &snapshot.certificates {
            let fault = if certificate.fault.is_some() { 1.0 } else { 0.0 };
            out.row("certificate_fault", &[("certificate", name.as_str())], fault);
        }
        out.family("smtp_listening", "1 when every binding of a virtual server that shall listen is open");
        for (name, whole) in self.listeners.whole(&snapshot, &self.running) {
            out.row("smtp_listening", &[("name", name.as_str())], if whole { 1.0 } else { 0.0 });
        }
    }

    fn of_process(&self, out: &mut Gauges) {
        out.family("build_info", "1; the version is the label");
        out.row("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        out.one("uptime_seconds", "How long the process has been running", self.started.elapsed().as_secs_f64());
        out.one("sessions_open", "SMTP sessions that are open now", self.sessions.count() as f64);
        let draining = self.drain.is_on() || self.drain.is_closed();
        out.one("draining", "1 when no new mail is taken", if draining { 1.0 } else { 0.0 });
        let overloaded = if self.overload.now().is_some() { 1.0 } else { 0.0 };
        out.one("overloaded", "1 when new mail is refused because there is too much", overloaded);
        if let Some(bytes) = resident_bytes() {
            out.one("process_resident_memory_bytes", "Memory that the process has", bytes as f64);
        }
    }
}

/// Gauges as text.
struct Gauges(String);

impl Gauges {
    fn family(&mut self, name: &str, help: &str) {
        let _ = write!(self.0, "# HELP bridgehead_{name} {help}.\n# TYPE bridgehead_{name} gauge\n");
    }

    fn row(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        // names of objects hold nothing that would have to be escaped
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "bridgehead_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help);
        self.row(name, &[], value);
    }
}
