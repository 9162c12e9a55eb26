//! Alerts in virtual time: an appliance that is as a row says, and a smart host that takes or refuses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mail_parser::MessageParser;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::config::Snapshot;
use crate::model::alert_cause::AlertCause;
use crate::model::spec::SettingsSpec;
use crate::net::clock::ManualClock;
use crate::store::Health;

const NOW: i64 = 1_795_000_000_000;
const MINUTE: Duration = Duration::from_secs(60);
const GIB: u64 = 1 << 30;

fn settings(alerts: Value) -> SettingsSpec {
    let mut all = json!({"recipients": ["ops@us.example"], "smartHost": {"host": "127.0.0.1", "tls": "none"}});
    all.as_object_mut().unwrap().extend(alerts.as_object().unwrap().clone());
    serde_json::from_value(json!({"alerts": all})).unwrap()
}

/// What `settings.alerts` makes, with recipient and smart host unless they are given.
pub(super) fn way(alerts: Value) -> AlertMail {
    let spec = settings(alerts).alerts;
    let host = spec.smart_host.clone().unwrap();
    AlertMail { from: spec.from.clone(), host, password: None, tls: Ok(Arc::default()), spec }
}

fn healthy() -> Observed {
    Observed {
        now: Timestamp::from_millis(NOW),
        not_listening: Vec::new(),
        store: Health {
            writable: Ok(()),
            ready: true,
            quarantined: 0,
            journal_bytes: 0,
            alive_bytes: 0,
            free_bytes: 100 * GIB,
            reserve_bytes: GIB,
        },
        overloaded: None,
        waiting: Some(Vec::new()),
        attempts: BTreeMap::new(),
        arrived: 0,
        certificates: Vec::new(),
        certificate_faults: Vec::new(),
        rejected: None,
        draining: false,
    }
}

/// What a look finds changed.
type Changes = fn(&mut Observed);

struct World {
    seen: Mutex<Observed>,
    each_look: Mutex<Changes>,
    clock: Arc<ManualClock>,
}

#[async_trait]
impl Observe for Arc<World> {
    async fn observe(&self) -> Observed {
        let mut seen = self.seen.lock().unwrap();
        (self.each_look.lock().unwrap())(&mut seen);
        seen.now = Timestamp::from_millis(self.clock.unix_millis());
        seen.clone()
    }
}

/// Takes messages, or not.
#[derive(Default)]
struct Host {
    refuses: Mutex<Vec<&'static str>>,
    /// Recipient, `X-Bridgehead-Alert`, subject without our name, when.
    taken: Mutex<Vec<(String, String, String)>>,
    tries: Mutex<Vec<Instant>>,
}

#[async_trait]
impl Deliver for Arc<Host> {
    async fn deliver(&self, _: &AlertMail, letter: &Letter, recipient: &str) -> Result<(), String> {
        self.tries.lock().unwrap().push(tokio::time::Instant::now().into_std());
        if self.refuses.lock().unwrap().iter().any(|begin| recipient.starts_with(begin)) {
            return Err("550 5.1.1 unknown".to_owned());
        }
        let message = MessageParser::default().parse(&letter.content).unwrap();
        let cause = message.header_raw("X-Bridgehead-Alert").unwrap_or_default().trim().to_owned();
        let subject = message.subject().unwrap().split_once("localhost: ").unwrap().1.to_owned();
        assert_eq!(message.header_raw("Auto-Submitted").unwrap().trim(), "auto-generated");
        self.taken.lock().unwrap().push((recipient.to_owned(), cause, subject));
        Ok(())
    }
}

struct Bench {
    world: Arc<World>,
    host: Arc<Host>,
    alerts: Arc<Alerts>,
    _running: JoinHandle<()>,
    _stop: watch::Sender<Option<Reply>>,
}

impl Bench {
    fn new(alerts: Value) -> Self {
        let clock = Arc::new(ManualClock::new(NOW));
        let (world, host) = (
            Arc::new(World {
                seen: Mutex::new(healthy()),
                each_look: Mutex::new(|seen| seen.arrived += 1),
                clock: clock.clone(),
            }),
            Arc::<Host>::default(),
        );
        let snapshot = Snapshot {
            settings: Arc::new(settings(alerts.clone())),
            alerts: Some(Arc::new(way(alerts))),
            ..Snapshot::default()
        };
        let metrics = Metrics::new(&mut Registry::default());
        let alerts = Alerts::new(Live::new(snapshot), clock, metrics, Box::new(world.clone()), Box::new(host.clone()));
        let stop = watch::Sender::new(None);
        let running = tokio::spawn(alerts.clone().run(stop.subscribe()));
        Bench { world, host, alerts, _running: running, _stop: stop }
    }

    fn change(&self, change: impl FnOnce(&mut Observed)) {
        change(&mut self.world.seen.lock().unwrap());
    }

    /// The messages that come in this time.
    async fn during(&self, time: Duration) -> Vec<(String, String, String)> {
        tokio::time::sleep(time).await;
        std::mem::take(&mut *self.host.taken.lock().unwrap())
    }

    async fn subjects(&self, time: Duration) -> Vec<String> {
        self.during(time).await.into_iter().map(|(_, _, subject)| subject).collect()
    }
}

/// How each cause comes about; the second function is called at each look while it lasts.
fn causes() -> Vec<(AlertCause, Changes, Changes)> {
    let nothing: Changes = |_| {};
    vec![
        (AlertCause::BridgeheadNotListening, |seen| seen.not_listening = vec!["default".to_owned()], nothing),
        (
            AlertCause::BridgeheadStoreCannotWrite,
            |seen| seen.store.writable = Err("the store is fenced after a failed write: EIO".to_owned()),
            nothing,
        ),
        (AlertCause::BridgeheadStoreDamaged, |seen| seen.store.quarantined = 2, nothing),
        (
            AlertCause::BridgeheadDiskFull,
            |seen| (seen.store.free_bytes, seen.store.writable) = (GIB - 1, Err("no space".to_owned())),
            nothing,
        ),
        (AlertCause::BridgeheadDiskNearlyFull, |seen| seen.store.free_bytes = 4 * GIB - 1, nothing),
        (AlertCause::BridgeheadOverloaded, |seen| seen.overloaded = Some("2 are queued".to_owned()), nothing),
        (
            AlertCause::BridgeheadOldestMessage,
            |seen| seen.waiting = Some(vec![waiting(seen.now - Duration::from_secs(4 * 3_600 + 1))]),
            nothing,
        ),
        (AlertCause::BridgeheadDeferralRatio, nothing, |seen| {
            let (deferred, all) = seen.attempts.entry(("dns", "internet".to_owned())).or_default();
            (*deferred, *all) = (*deferred + 6, *all + 10);
        }),
        (
            AlertCause::BridgeheadNothingDelivered,
            |seen| seen.waiting = Some(vec![waiting(seen.now)]),
            |seen| {
                let now = seen.now;
                seen.waiting.as_mut().unwrap()[0].oldest = Some(now);
            },
        ),
        (
            AlertCause::BridgeheadCertificateExpires,
            |seen| seen.certificates = vec![("mail".to_owned(), seen.now + Duration::from_secs(13 * 86_400))],
            nothing,
        ),
        (
            AlertCause::BridgeheadCertificateFault,
            |seen| seen.certificate_faults = vec![("mail".to_owned(), "no pair".to_owned())],
            nothing,
        ),
        (AlertCause::BridgeheadConfigurationRejected, |seen| seen.rejected = Some("a.yaml:3:1".to_owned()), nothing),
        (AlertCause::BridgeheadDraining, |seen| seen.draining = true, nothing),
    ]
}

fn waiting(oldest: Timestamp) -> Waiting {
    Waiting { kind: "dns", connector: "internet".to_owned(), messages: 3, oldest: Some(oldest) }
}

#[tokio::test(start_paused = true)]
async fn each_cause_is_told_once_when_it_begins_and_once_when_it_is_over() {
    assert_eq!(causes().len(), AlertCause::ALL.len());
    for ((cause, begins, lasts), expected) in causes().into_iter().zip(AlertCause::ALL) {
        assert_eq!(cause, expected, "every cause has a row");
        let bench = Bench::new(json!({}));
        assert_eq!(bench.during(90 * MINUTE).await, [], "{cause}: all is well");
        bench.change(begins);
        *bench.world.each_look.lock().unwrap() = lasts;
        if cause != AlertCause::BridgeheadNothingDelivered {
            // mail goes on arriving
            bench.change(|seen| seen.arrived += 1_000);
        }
        let short = cause.holds().saturating_sub(MINUTE);
        assert_eq!(bench.during(short).await, [], "{cause}: not for long enough");
        assert_eq!(bench.alerts.list(), [], "{cause}");
        let told = bench.during(40 * MINUTE).await;
        let names: Vec<&str> = told.iter().map(|(_, name, _)| name.as_str()).collect();
        assert_eq!(names, [cause.name()], "{told:?}");
        assert!(!told[0].2.contains("Over: ") && !told[0].2.contains("Still: "), "{told:?}");
        assert_eq!(bench.alerts.list().len(), 1, "{cause}");
        // it is well again
        bench.change(|seen| *seen = Observed { arrived: seen.arrived, attempts: seen.attempts.clone(), ..healthy() });
        *bench.world.each_look.lock().unwrap() = |seen| seen.arrived += 1;
        let over = bench.during(60 * MINUTE).await;
        assert_eq!(over.len(), 1, "{cause}: {over:?}");
        assert!(over[0].1 == cause.name() && over[0].2.starts_with("Over: "), "{over:?}");
        assert_eq!(bench.during(600 * MINUTE).await, [], "{cause}: that was all");
        assert_eq!(bench.alerts.list(), [], "{cause}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_lasts_is_said_again_and_what_comes_and_goes_is_one_alert() {
    let bench = Bench::new(json!({"repeatEvery": "1h"}));
    bench.change(|seen| seen.draining = true);
    // an hour until it is told, and then hourly
    assert_eq!(bench.during(59 * MINUTE).await, []);
    assert_eq!(bench.subjects(181 * MINUTE).await.len(), 3);
    bench.change(|seen| seen.draining = false);
    assert_eq!(bench.subjects(30 * MINUTE).await.len(), 1);

    for round in 0..12 {
        bench.change(|seen| seen.store.free_bytes = 0);
        let begun = bench.subjects(2 * MINUTE).await;
        assert_eq!(begun.len(), usize::from(round == 0), "{begun:?}");
        bench.change(|seen| seen.store.free_bytes = 100 * GIB);
        assert_eq!(bench.during(2 * MINUTE).await, [], "{round}");
    }
    assert_eq!(bench.subjects(10 * MINUTE).await, ["Over: The disk is full: 0B are free, 1GiB are kept free"]);
}

#[tokio::test(start_paused = true)]
async fn in_an_hour_there_are_only_so_many_messages_and_the_last_tells_the_rest() {
    let bench = Bench::new(json!({"maxPerHour": 3, "tellAfter": "0s", "without": ["BridgeheadDraining"]}));
    bench.change(|seen| {
        seen.draining = true;
        seen.certificates = (0..500).map(|n| (format!("c{n}"), Timestamp::EPOCH)).collect();
        seen.store.free_bytes = 0;
    });
    let told = bench.subjects(50 * MINUTE).await;
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].starts_with("The disk is full"), "the worst first: {told:?}");
    // no more than are kept
    assert_eq!(told[2], format!("{} alerts", standing::MOST - 2));
    assert_eq!(bench.alerts.list().len(), standing::MOST);
    assert_eq!(bench.during(60 * MINUTE).await, [], "each was told");
    bench.change(|seen| *seen = healthy());
    let over = bench.subjects(300 * MINUTE).await;
    assert_eq!(over.len(), 3, "{over:?}");
    assert_eq!(bench.alerts.list(), []);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_told_is_tried_later_and_later_and_told_when_it_can() {
    let bench = Bench::new(json!({"tellAfter": "0s"}));
    bench.host.refuses.lock().unwrap().push("ops@");
    bench.change(|seen| seen.draining = true);
    assert_eq!(bench.during(120 * MINUTE).await, []);
    let tries = std::mem::take(&mut *bench.host.tries.lock().unwrap());
    let waits: Vec<u64> = tries.windows(2).map(|two| two[1].duration_since(two[0]).as_secs()).collect();
    assert!(
        waits.is_sorted() && waits[0] <= 40 && waits.last().is_some_and(|last| (900..=910).contains(last)),
        "{waits:?}"
    );
    let listed = bench.alerts.list();
    assert_eq!(listed[0].last_error.as_deref(), Some("ops@us.example: 550 5.1.1 unknown"));
    assert_eq!(listed[0].last_sent, None);
    // by then it is over: one message says both
    bench.change(|seen| seen.draining = false);
    bench.during(10 * MINUTE).await;
    bench.host.refuses.lock().unwrap().clear();
    assert_eq!(bench.subjects(60 * MINUTE).await, ["Over: The appliance drains: it takes no new mail"]);
}

#[tokio::test(start_paused = true)]
async fn one_recipient_who_is_refused_keeps_it_from_nobody() {
    let bench = Bench::new(json!({"recipients": ["gone@us.example", "ops@us.example"], "tellAfter": "0s"}));
    bench.host.refuses.lock().unwrap().push("gone@");
    bench.change(|seen| seen.draining = true);
    let told = bench.during(60 * MINUTE).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, "ops@us.example");
    assert_eq!(bench.alerts.list()[0].last_error.as_deref(), Some("gone@us.example: 550 5.1.1 unknown"));
    let test = bench.alerts.test().await.unwrap();
    assert_eq!(test.iter().map(|one| one.result.is_ok()).collect::<Vec<_>>(), [false, true]);
    assert_eq!(bench.subjects(Duration::ZERO).await, ["A test"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_looked_at_neither_begins_nor_ends() {
    let bench = Bench::new(json!({"tellAfter": "0s"}));
    bench.change(|seen| seen.waiting = Some(vec![waiting(Timestamp::EPOCH)]));
    assert_eq!(bench.subjects(MINUTE).await.len(), 1, "who has looked for a minute knows of no half hour");
    bench.change(|seen| seen.waiting = None);
    assert_eq!(bench.during(60 * MINUTE).await, []);
    assert_eq!(bench.alerts.list().len(), 1);
}
