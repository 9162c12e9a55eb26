//! What the appliance knows of itself at a moment, and which causes of alerts it makes.
//!
//! Read from counters and snapshots, as metrics are, so that a look costs little. [`Window::judge`] is the chart's alert rules in
//! Rust; what they ask of the last half hour it remembers, a sample a minute.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::config::{Configuration, Live};
use crate::model::alert_cause::AlertCause;
use crate::model::duration::Duration as Shown;
use crate::model::size::Size;
use crate::model::spec::watching::AlertSettings;
use crate::model::time::Timestamp;
use crate::net::clock::Clock;
use crate::observe::metrics::Metrics;
use crate::queue::operate::Operate;
use crate::queue::totals::totals;
use crate::status::{Drain, Listeners, Overload, Running};
use crate::store::{Health, Store};

/// How long listing the queues may take.
const QUEUES_LIMIT: Duration = Duration::from_secs(5);
/// What rates are counted over.
const OVER: Duration = Duration::from_secs(1_800);
/// How often a sample is remembered.
const SAMPLE_EVERY: Duration = Duration::from_secs(60);
/// Attempts in that time without which no part of them says anything.
const ENOUGH: u64 = 20;
/// Most characters of a text that somebody else has written a part of.
const MOST_TEXT: usize = 500;
/// Kinds of queues that attempts are counted of.
const KINDS: [&str; 2] = ["smartHost", "dns"];
/// The same of those without a connector.
const OWN_KINDS: [&str; 2] = ["local", "directory"];

/// Looks at the appliance. [`Appliance`] does.
#[async_trait]
pub trait Observe: Send + Sync {
    /// How it is now.
    async fn observe(&self) -> Observed;
}

/// How the appliance is.
#[derive(Debug, Clone)]
pub struct Observed {
    /// When it was looked at.
    pub now: Timestamp,
    /// Virtual servers that shall listen and do not, on all their bindings.
    pub not_listening: Vec<String>,
    /// The store.
    pub store: Health,
    /// Why new mail is refused, if there is too much.
    pub overloaded: Option<String>,
    /// What waits and should be on its way; `None` when it could not be listed.
    pub waiting: Option<Vec<Waiting>>,
    /// Attempts so far by kind and connector: those that were put off, and all.
    pub attempts: BTreeMap<(&'static str, String), (u64, u64)>,
    /// Recipients that were delivered or relayed so far.
    pub arrived: u64,
    /// Certificates that are in force, and when they end.
    pub certificates: Vec<(String, Timestamp)>,
    /// Certificates whose settings are not in force, and why.
    pub certificate_faults: Vec<(String, String)>,
    /// Why what the watched directory says is not in force.
    pub rejected: Option<String>,
    /// No new mail is taken, because somebody wants it so.
    pub draining: bool,
}

/// Mail that waits, of one kind of queue and connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The kind.
    pub kind: &'static str,
    /// The connector; empty where there is none.
    pub connector: String,
    /// Messages.
    pub messages: u64,
    /// When the oldest was received.
    pub oldest: Option<Timestamp>,
}

/// The parts of the appliance that are looked at.
pub struct Appliance {
    /// The queue.
    pub operate: Arc<dyn Operate>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The configuration in force.
    pub live: Live,
    /// Where it comes from.
    pub configuration: Arc<Configuration>,
    /// What listens.
    pub listeners: Arc<Listeners>,
    /// What an operator has stopped.
    pub running: Arc<Running>,
    /// Whether mail is taken.
    pub drain: Arc<Drain>,
    /// Whether there is too much.
    pub overload: Arc<Overload>,
    /// What was counted.
    pub metrics: Metrics,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl Observe for Appliance {
    async fn observe(&self) -> Observed {
        let snapshot = self.live.current();
        let queues = tokio::time::timeout(QUEUES_LIMIT, self.operate.queues()).await;
        let waiting = queues.ok().and_then(Result::ok).map(|queues| {
            let mut all: Vec<Waiting> = Vec::new();
            for (sort, total) in totals(&queues).into_iter().filter(|(sort, _)| sort.is_on_its_way()) {
                match all.iter_mut().find(|one| one.kind == sort.kind && one.connector == sort.connector) {
                    Some(one) => {
                        one.messages += total.messages;
                        one.oldest = [one.oldest, total.oldest].into_iter().flatten().min();
                    }
                    None => all.push(Waiting {
                        kind: sort.kind,
                        connector: sort.connector,
                        messages: total.messages,
                        oldest: total.oldest,
                    }),
                }
            }
            all
        });
        let connectors = snapshot.routes.connectors();
        let by_connector = connectors.flat_map(|connector| KINDS.map(|kind| (kind, connector.name.to_string())));
        let own = OWN_KINDS.map(|kind| (kind, String::new()));
        let attempts = by_connector.chain(own).map(|(kind, connector)| {
            let counted = self.metrics.attempts_of(kind, &connector);
            ((kind, connector), counted)
        });
        let certificates = || snapshot.certificates.values();
        let files = self.configuration.files();
        Observed {
            now: Timestamp::from_millis(self.clock.unix_millis()),
            not_listening: self
                .listeners
                .whole(&snapshot, &self.running)
                .into_iter()
                .filter(|(_, whole)| !whole)
                .map(|(name, _)| name.to_string())
                .collect(),
            store: self.store.health(),
            overloaded: self.overload.now().map(|why| why.to_string()),
            waiting,
            attempts: attempts.filter(|(_, (_, all))| *all > 0).collect(),
            arrived: self.metrics.arrived(),
            certificates: certificates()
                .filter_map(|one| Some((one.name.to_string(), one.identity.as_ref()?.facts().not_after)))
                .collect(),
            certificate_faults: certificates()
                .filter_map(|one| Some((one.name.to_string(), one.fault.as_ref()?.message.clone())))
                .collect(),
            rejected: files.filter(|files| files.accepted != Some(true)).map(|files| files.message),
            draining: self.drain.is_on() || self.drain.is_closed(),
        }
    }
}

/// A cause that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) cause: AlertCause,
    /// The object that it is about; empty: the appliance.
    pub(super) subject: String,
    /// What is wrong.
    pub(super) text: String,
}

/// What came of a look.
#[derive(Debug, Clone, Default)]
pub(super) struct Judged {
    pub(super) found: Vec<Found>,
    /// Causes of which nobody knows now.
    pub(super) unknown: Vec<AlertCause>,
}

impl Judged {
    fn add(&mut self, cause: AlertCause, subject: impl Into<String>, text: impl Into<String>) {
        let text: String = text.into();
        let text = text.chars().take(MOST_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.found.push(Found { cause, subject: subject.into(), text });
    }
}

/// What was counted at a moment.
#[derive(Debug, Clone)]
struct Sample {
    at: Instant,
    attempts: BTreeMap<(&'static str, String), (u64, u64)>,
    arrived: u64,
}

/// The last half hour.
#[derive(Debug, Default)]
pub(super) struct Window {
    samples: VecDeque<Sample>,
}

impl Window {
    /// Which causes are there, and remembers what was counted.
    pub(super) fn judge(&mut self, seen: &Observed, terms: &AlertSettings, now: Instant) -> Judged {
        // the latest that is half an hour old, or the first there is
        while self.samples.get(1).is_some_and(|next| now.saturating_duration_since(next.at) >= OVER) {
            self.samples.pop_front();
        }
        let mut judged = Judged::default();
        of_the_house(seen, &mut judged);
        of_the_store(seen, &mut judged);
        of_certificates(seen, terms, &mut judged);
        self.of_attempts(seen, &mut judged);
        match &seen.waiting {
            Some(waiting) => self.of_mail(seen, waiting, terms, now, &mut judged),
            None => {
                judged.unknown = vec![AlertCause::BridgeheadOldestMessage, AlertCause::BridgeheadNothingDelivered];
            }
        }
        if self.samples.back().is_none_or(|last| now.saturating_duration_since(last.at) >= SAMPLE_EVERY) {
            self.samples.push_back(Sample { at: now, attempts: seen.attempts.clone(), arrived: seen.arrived });
        }
        judged
    }

    fn of_attempts(&self, seen: &Observed, judged: &mut Judged) {
        let Some(before) = self.samples.front() else { return };
        for ((kind, connector), (deferred, all)) in &seen.attempts {
            let (deferred_then, all_then) =
                before.attempts.get(&(*kind, connector.clone())).copied().unwrap_or_default();
            let (deferred, all) = (deferred.saturating_sub(deferred_then), all.saturating_sub(all_then));
            if all > ENOUGH && deferred * 2 > all {
                let percent = deferred * 100 / all;
                let text = format!("{percent} % of {all} attempts are put off: {}", of(kind, connector));
                judged.add(AlertCause::BridgeheadDeferralRatio, subject(kind, connector), text);
            }
        }
    }

    fn of_mail(&self, seen: &Observed, waiting: &[Waiting], terms: &AlertSettings, now: Instant, judged: &mut Judged) {
        for Waiting { kind, connector, oldest, .. } in waiting {
            let age = oldest.map(|oldest| seen.now.since(oldest)).unwrap_or_default();
            if age > terms.oldest_message.std() {
                // minutes: a text that changes with each look is not read
                let age = Shown::from_secs(age.as_secs() / 60 * 60);
                let text = format!("Mail waits for {age}: {}", of(kind, connector));
                judged.add(AlertCause::BridgeheadOldestMessage, subject(kind, connector), text);
            }
        }
        let messages: u64 = waiting.iter().map(|one| one.messages).sum();
        let half_an_hour_ago = self.samples.front().filter(|sample| now.saturating_duration_since(sample.at) >= OVER);
        if messages > 0 && half_an_hour_ago.is_some_and(|then| then.arrived == seen.arrived) {
            let text = format!("Nothing is delivered, and {messages} messages wait");
            judged.add(AlertCause::BridgeheadNothingDelivered, "", text);
        }
    }
}

fn of_the_house(seen: &Observed, judged: &mut Judged) {
    for name in &seen.not_listening {
        let text = format!("The SMTP virtual server {name} does not listen on all its bindings");
        judged.add(AlertCause::BridgeheadNotListening, name, text);
    }
    if let Some(why) = &seen.overloaded {
        judged.add(AlertCause::BridgeheadOverloaded, "", format!("New mail is refused: {why}"));
    }
    if let Some(why) = &seen.rejected {
        let text = format!("The documents in the watched directory are not in force: {why}");
        judged.add(AlertCause::BridgeheadConfigurationRejected, "", text);
    }
    if seen.draining {
        judged.add(AlertCause::BridgeheadDraining, "", "The appliance drains: it takes no new mail");
    }
}

fn of_the_store(seen: &Observed, judged: &mut Judged) {
    let Health { free_bytes: free, reserve_bytes: reserve, quarantined, .. } = seen.store;
    // whole MiB: a text that changes with each look is not read
    let room = Size::from_bytes(free >> 20 << 20);
    if free < reserve {
        let text = format!("The disk is full: {room} are free, {} are kept free", Size::from_bytes(reserve));
        judged.add(AlertCause::BridgeheadDiskFull, "", text);
    } else if free < reserve.saturating_mul(4) {
        judged.add(AlertCause::BridgeheadDiskNearlyFull, "", format!("The disk fills: {room} are free"));
    }
    // a full disk has an alert of its own
    if let Err(why) = &seen.store.writable
        && free >= reserve
    {
        judged.add(AlertCause::BridgeheadStoreCannotWrite, "", format!("The store cannot be written: {why}"));
    }
    if quarantined > 0 {
        let text = format!("{quarantined} damaged records were found in the store");
        judged.add(AlertCause::BridgeheadStoreDamaged, "", text);
    }
}

fn of_certificates(seen: &Observed, terms: &AlertSettings, judged: &mut Judged) {
    let soon = seen.now + terms.certificate_expires.std();
    for (name, not_after) in seen.certificates.iter().filter(|(_, not_after)| *not_after < soon) {
        let word = if *not_after < seen.now { "expired" } else { "expires" };
        let text = format!("The certificate {name} {word} at {not_after}");
        judged.add(AlertCause::BridgeheadCertificateExpires, name, text);
    }
    for (name, why) in &seen.certificate_faults {
        let text = format!("What the certificate {name} says now is not in force: {why}");
        judged.add(AlertCause::BridgeheadCertificateFault, name, text);
    }
}

/// A connector, or a kind of queue that has none, in words.
fn of(kind: &str, connector: &str) -> String {
    if connector.is_empty() { format!("queues of kind {kind}") } else { format!("connector {connector} ({kind})") }
}

/// The same as what an alert is about.
fn subject(kind: &str, connector: &str) -> String {
    if connector.is_empty() { kind.to_owned() } else { format!("{kind}:{connector}") }
}
