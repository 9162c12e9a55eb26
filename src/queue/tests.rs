//! The queue in virtual time: a workforce that answers as the test says, a store in memory, days in milliseconds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::config::{Actor, Configuration, FirstStart, OpenOptions, Precondition, StoredRecipients};
use crate::model::failure::Scope;
use crate::model::mail::{MessageId, Origin, Protocol, Recipient, RecipientStatus, Waits};
use crate::model::spec::Collection;
use crate::net::clock::ManualClock;
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::parameters::{ByMode, DeliverBy, Hold, MailParameters, Notify, RcptParameters, Ret};
use crate::smtp::reply::EnhancedStatus;
use crate::store::Spool;
use crate::store::memory::MemoryStore;

const START: i64 = 1_795_000_000_000;
const HOUR: Duration = Duration::from_secs(3_600);

/// What the next hop does with everything.
#[derive(Clone, Copy, Debug, PartialEq)]
enum NextHop {
    Takes,
    /// And offers DELIVERBY.
    TakesInTime,
    Dead,
    /// It takes everything, but the mailbox store is gone.
    StoreGone,
    Defers,
    Refuses,
    /// It has three hosts, and each of them defers.
    AsksNext,
}

struct Fixture {
    store: MemoryStore,
    queue: Arc<Queue>,
    configuration: Arc<Configuration>,
    clock: Arc<ManualClock>,
    next_hop: Arc<Mutex<NextHop>>,
    /// Queues whose next hop is dead, whatever `next_hop` says.
    dead: Arc<Mutex<HashSet<String>>>,
    attempts: Arc<Mutex<Vec<(Timestamp, String)>>>,
    reports: Arc<Mutex<Vec<String>>>,
    _running: JoinHandle<()>,
}

struct Scripted {
    queue: Arc<Queue>,
    clock: Arc<ManualClock>,
    next_hop: Arc<Mutex<NextHop>>,
    dead: Arc<Mutex<HashSet<String>>>,
    attempts: Arc<Mutex<Vec<(Timestamp, String)>>>,
    reports: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Workforce for Scripted {
    async fn carry_turned(&self, turned: Turned) {
        drop(turned);
    }

    fn employ(&self, hand: Hand) {
        if hand.link().name == QueueName::Directory {
            drop(tokio::spawn(self.queue.clone().distribute(hand)));
            return;
        }
        let (queue, clock) = (self.queue.clone(), self.clock.clone());
        let (next_hop, dead, attempts) = (self.next_hop.clone(), self.dead.clone(), self.attempts.clone());
        let reports = self.reports.clone();
        tokio::spawn(async move {
            let name = hand.link().name.clone();
            loop {
                let leased = match queue.take(&hand, |_| true) {
                    Take::Message(leased) => leased,
                    Take::Nothing => return,
                    Take::NotBefore(until) => return queue.rest_until(&hand, until),
                };
                let now = Timestamp::from_millis(clock.unix_millis());
                let is_dead = dead.lock().unwrap().contains(&name.to_string());
                let does = if is_dead { NextHop::Dead } else { *next_hop.lock().unwrap() };
                let local = matches!(name, QueueName::Local(_));
                let results: Vec<(u32, AttemptResult)> = scheduler::waiting_here(&leased.message, &name)
                    .map(|index| (index, result(if local { NextHop::Takes } else { does }, local)))
                    .collect();
                for (index, _) in &results {
                    let to = leased.message.recipients[*index as usize].forward_path.to_string();
                    attempts.lock().unwrap().push((now, to));
                }
                if leased.message.origin.protocol == Protocol::Dsn {
                    let content = leased.content.clone().unwrap_or_default();
                    reports.lock().unwrap().push(String::from_utf8_lossy(&content).into_owned());
                }
                if does == if local { NextHop::StoreGone } else { NextHop::Dead } {
                    let failure = Failure::new(Scope::Host, EnhancedStatus::transient(4, 1), "no connection");
                    queue.next_hop_failed(&hand, &"default".parse().unwrap(), failure);
                    queue.give_back(leased);
                    return;
                }
                let hosts: Vec<_> =
                    ["a", "b", "c"].map(|name| next_hosts::HostKey { name: name.into(), port: 25 }).into();
                let (id, link) = (leased.message.id, hand.link());
                let results = match link.asked(id, now).len() {
                    asked if does == NextHop::AsksNext && asked < 2 => {
                        assert!(link.pass_on(id, &hosts[..=asked], now));
                        results.into_iter().map(|(index, result)| (index, next_host(result))).collect()
                    }
                    _ => {
                        link.end_round(id);
                        results
                    }
                };
                queue.session_opened(&hand);
                let duration = Duration::from_millis(5);
                queue.settle(Attempt { leased, results, next_hop: Some("mx".into()), tls: None, duration }).await;
                queue.session_closed(&hand, true);
            }
        });
    }
}

fn result(does: NextHop, local: bool) -> AttemptResult {
    let failure = |status| AttemptResult::Failed(Failure::new(Scope::Recipient, status, "words of the next hop"));
    match does {
        NextHop::TakesInTime => AttemptResult::Relayed {
            reply: "250 ok".into(),
            passed_on: PassedOn { deliver_by: true, ..PassedOn::default() },
        },
        NextHop::Takes if local => AttemptResult::Delivered,
        NextHop::Takes | NextHop::Dead | NextHop::StoreGone => {
            AttemptResult::Relayed { reply: "250 ok".into(), passed_on: PassedOn::default() }
        }
        NextHop::Defers | NextHop::AsksNext => failure(EnhancedStatus::transient(2, 0)),
        NextHop::Refuses => failure(EnhancedStatus::permanent(1, 1)),
    }
}

fn next_host(result: AttemptResult) -> AttemptResult {
    match result {
        AttemptResult::Failed(failure) => AttemptResult::NextHost(failure),
        other => other,
    }
}

impl Fixture {
    async fn new(next_hop: NextHop) -> Self {
        let store = MemoryStore::default();
        let clock = Arc::new(ManualClock::new(START));
        let wall = clock.clone();
        let options = OpenOptions {
            host_name: "mail.local.example".parse().unwrap(),
            secrets_dir: "/nonexistent".into(),
            files: false,
            now: Arc::new(move || Timestamp::from_millis(wall.unix_millis())),
        };
        let configuration = Configuration::open(Arc::new(store.clone()), options).await.unwrap();
        configuration.first_start(&FirstStart { smtp_listen: "127.0.0.1:0".parse().unwrap() }).await.unwrap();
        let mut registry = Registry::default();
        let queue = Queue::new(
            Arc::new(store.clone()),
            configuration.live().clone(),
            Arc::new(StoredRecipients(Arc::new(store.clone()))),
            clock.clone(),
            Metrics::new(&mut registry),
        );
        let next_hop = Arc::new(Mutex::new(next_hop));
        let dead = Arc::new(Mutex::new(HashSet::new()));
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let reports = Arc::new(Mutex::new(Vec::new()));
        let scripted = Scripted {
            queue: queue.clone(),
            clock: clock.clone(),
            next_hop: next_hop.clone(),
            dead: dead.clone(),
            attempts: attempts.clone(),
            reports: reports.clone(),
        };
        let running = tokio::spawn(queue.clone().run(Arc::new(scripted)));
        let fixture =
            Fixture { store, queue, configuration, clock, next_hop, dead, attempts, reports, _running: running };
        fixture.put(Collection::Recipients, "anna", json!({"type": "mailbox"})).await;
        fixture
    }

    async fn put(&self, collection: Collection, name: &str, spec: Value) {
        let actor = Actor { key: "test".into(), ..Actor::default() };
        let body = json!({"spec": spec});
        self.configuration.put(collection, name, &body, &Precondition::default(), &actor, false).await.unwrap();
    }

    fn default_domain(&self) -> String {
        self.configuration.live().current().domains.default_domain().unwrap().to_string()
    }

    /// A message to one recipient, as intake would hand it in.
    async fn send(&self, from: &str, to: &str, notify: Option<Notify>) -> MessageId {
        self.send_with(from, to, notify, MailParameters::default()).await
    }

    /// The same with parameters of MAIL.
    async fn send_with(&self, from: &str, to: &str, notify: Option<Notify>, parameters: MailParameters) -> MessageId {
        self.send_content(from, to, notify, parameters, Bytes::from_static(b"Subject: hello\r\n\r\nbody\r\n")).await
    }

    /// One of this many octets of body.
    async fn send_sized(&self, from: &str, to: &str, octets: usize) -> MessageId {
        let content = format!("Subject: large\r\n\r\n{}\r\n", "x".repeat(octets));
        self.send_content(from, to, None, MailParameters::default(), content.into()).await
    }

    async fn send_content(
        &self,
        from: &str,
        to: &str,
        notify: Option<Notify>,
        parameters: MailParameters,
        content: Bytes,
    ) -> MessageId {
        let mut draft = self.store.begin().unwrap();
        draft.append(content).await.unwrap();
        let path: ForwardPath = to.parse().unwrap();
        let sender: ReversePath = from.parse().unwrap();
        let snapshot = self.configuration.live().current();
        let recipients = StoredRecipients(Arc::new(self.store.clone()));
        let server = "default".parse().unwrap();
        let down = self.queue.down();
        let sending =
            Sending { sender: &sender, size: 10, priority: 0, virtual_server: &server, spread: 1, down: &down };
        let Assignment::Queue(queue, directory_name) = assign(&snapshot, &recipients, &path, sending) else {
            panic!("no queue for {to}");
        };
        let now = self.queue.now();
        let mut message = Message {
            id: draft.id(),
            received_at: now,
            origin: Origin {
                protocol: Protocol::Esmtp,
                virtual_server: "default".parse().unwrap(),
                client: None,
                helo: None,
                account: None,
                api_key: None,
            },
            reverse_path: sender,
            parameters,
            size: draft.size(),
            message_id_header: None,
            subject: None,
            frozen: false,
            connector: None,
            idempotency: None,
            recipients: vec![Recipient {
                forward_path: path,
                parameters: RcptParameters { notify, orcpt: None },
                directory_name,
                status: RecipientStatus::Pending,
                waits: Some(Waits { queue, due: now }),
                attempts: 0,
                delay_notified: false,
                last_failure: None,
            }],
        };
        let due = message.due_at_once(now);
        message.recipients[0].waits.as_mut().unwrap().due = due;
        let leased = draft.commit(message).await.unwrap();
        let id = leased.message.id;
        self.queue.enqueue(leased);
        id
    }

    fn anna(&self) -> String {
        format!("anna@{}", self.default_domain())
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn attempts_of(&self, to: &str) -> Vec<Duration> {
        let start = Timestamp::from_millis(START);
        let attempts = self.attempts.lock().unwrap();
        attempts.iter().filter(|(_, path)| path == to).map(|(time, _)| time.since(start)).collect()
    }

    async fn events(&self, id: MessageId) -> Vec<String> {
        let events = self.queue.events(id, None, 1_000).await.unwrap().items;
        events.iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
    }

    /// The notifications that have been written, as text.
    fn reports(&self) -> Vec<String> {
        self.reports.lock().unwrap().clone()
    }

    fn queued(&self) -> Vec<(String, u64)> {
        QueueStore::queues(&self.store).iter().map(|count| (count.queue.to_string(), count.messages)).collect()
    }
}

use crate::store::QueueStore;

mod bulk;
mod expansion;
mod pace;
mod reports;
mod routes;
mod steering;
mod whereabouts;

fn about(times: &[Duration], expected: &[u64]) {
    let seconds: Vec<u64> = times.iter().map(Duration::as_secs).collect();
    // each interval may be a tenth longer or shorter
    let close = seconds.len() >= expected.len()
        && seconds.iter().zip(expected).all(|(is, should)| is.abs_diff(*should) <= 30 + should / 10);
    assert!(close, "{seconds:?} should begin like {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn mail_goes_out_at_once_and_is_gone() {
    let f = Fixture::new(NextHop::Takes).await;
    let id = f.send("s@src.example", "u@dst.example", None).await;
    f.pass(Duration::from_secs(1)).await;
    assert_eq!(f.attempts_of("u@dst.example").len(), 1);
    assert!(f.store.messages().is_empty());
    assert_eq!(f.events(id).await, ["relayed"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_host_is_tried_by_the_intervals_and_mail_expires_with_a_report() {
    let f = Fixture::new(NextHop::Dead).await;
    let id = f.send(&f.anna(), "u@dst.example", None).await;
    f.pass(49 * HOUR).await;
    let minute = 60;
    // three glitch retries, then 15 min, 30 min, 1 h, and every 4 h
    let mut expected = vec![0, minute, 2 * minute, 3 * minute];
    for interval in [15, 30, 60, 240, 240] {
        expected.push(expected.last().unwrap() + interval * minute);
    }
    about(&f.attempts_of("u@dst.example"), &expected);
    assert!(f.store.messages().is_empty(), "{:?}", f.queued());
    let events = f.events(id).await;
    assert_eq!(events.iter().filter(|event| *event == "dsn").count(), 2, "a delay and a failure: {events:?}");
    assert_eq!(events.iter().filter(|event| *event == "expired").count(), 1);
    assert_eq!(f.attempts_of(&f.anna()).len(), 2, "both reports reached Anna");
}

#[tokio::test(start_paused = true)]
async fn local_mail_has_times_of_its_own_and_is_reported_when_its_store_stays_away() {
    let f = Fixture::new(NextHop::StoreGone).await;
    let local = json!({
        "glitchRetry": {"after": "10s", "times": 1}, "retryIntervals": ["20s"],
        "delayNotificationAfter": "1m", "expireAfter": "2m",
    });
    f.put(Collection::VirtualServers, "default", json!({"delivery": {"local": local}})).await;
    let id = f.send("s@src.example", &f.anna(), None).await;
    f.pass(Duration::from_secs(15)).await;
    let store = f.queue.queue(&"local:default".parse().unwrap()).await.unwrap();
    assert_eq!((store.state, store.messages), (QueueState::Retry, 1));
    assert!(store.last_error.is_some() && store.next_retry.is_some(), "{store:?}");
    f.pass(Duration::from_secs(120)).await;
    let tried: Vec<u64> = f.attempts_of(&f.anna()).iter().map(Duration::as_secs).collect();
    let waits: Vec<u64> = tried.iter().zip(&tried[1..]).map(|(one, next)| next - one).collect();
    assert!((9..=11).contains(&waits[0]) && waits[1..].iter().all(|wait| (17..=22).contains(wait)), "{tried:?}");
    assert!((6..=8).contains(&tried.len()), "{tried:?}");
    assert_eq!(f.events(id).await, ["deferred", "dsn", "expired", "dsn"]);
    assert_eq!(f.attempts_of("s@src.example").len(), 2, "the delay and the end were told");
    assert!(f.store.messages().is_empty(), "{:?}", f.queued());

    // mail that goes elsewhere keeps the others
    *f.next_hop.lock().unwrap() = NextHop::Dead;
    f.send("s@src.example", "u@dst.example", None).await;
    f.pass(HOUR).await;
    assert_eq!(f.store.messages().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deferred_recipient_waits_alone() {
    let f = Fixture::new(NextHop::Defers).await;
    f.send("s@src.example", "u@dst.example", None).await;
    f.pass(Duration::from_secs(5)).await;
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.send("s@src.example", "v@dst.example", None).await;
    f.pass(Duration::from_secs(5)).await;
    assert_eq!(f.attempts_of("v@dst.example").len(), 1, "the host lives, others go on");
    f.pass(Duration::from_secs(60)).await;
    assert_eq!(f.attempts_of("u@dst.example").len(), 2);
    assert!(f.store.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_recipient_is_reported_once_and_never_about_a_report() {
    let f = Fixture::new(NextHop::Refuses).await;
    let id = f.send(&f.anna(), "u@dst.example", None).await;
    f.pass(HOUR).await;
    assert!(f.store.messages().is_empty());
    assert_eq!(f.events(id).await, ["failed", "dsn"]);
    // a report that is refused itself: dead letter
    let id = f.send("<>", "u@dst.example", None).await;
    f.pass(HOUR).await;
    assert_eq!(f.events(id).await, ["failed", "deadLettered"]);
    assert_eq!(f.queued(), [("deadLetter".to_owned(), 1)]);
    // until its retention ends
    f.pass(15 * 24 * HOUR).await;
    assert!(f.store.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn notify_never_means_no_report_but_not_silence() {
    let f = Fixture::new(NextHop::Refuses).await;
    f.send(&f.anna(), "u@dst.example", Some(Notify::Never)).await;
    f.pass(HOUR).await;
    assert_eq!(f.queued(), [("deadLetter".to_owned(), 1)]);
    assert_eq!(f.attempts_of(&f.anna()).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn success_is_reported_when_asked_for() {
    let f = Fixture::new(NextHop::Takes).await;
    let success = Some(Notify::On { success: true, failure: false, delay: false });
    f.send(&f.anna(), "u@dst.example", success).await;
    f.pass(Duration::from_secs(5)).await;
    assert_eq!(f.attempts_of(&f.anna()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_queue_accepts_and_holds_and_a_thawed_one_goes_on() {
    let f = Fixture::new(NextHop::Takes).await;
    let name: QueueName = "dns:default:dst.example".parse().unwrap();
    f.queue.freeze_queue(&name).await.unwrap();
    f.send("s@src.example", "u@dst.example", None).await;
    f.pass(HOUR).await;
    assert!(f.attempts_of("u@dst.example").is_empty());
    assert_eq!(f.queue.queue(&name).await.unwrap().state, QueueState::Frozen);
    f.queue.thaw_queue(&name).await.unwrap();
    f.pass(Duration::from_secs(1)).await;
    assert_eq!(f.attempts_of("u@dst.example").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_message_does_not_move_and_does_not_expire() {
    let f = Fixture::new(NextHop::Dead).await;
    let id = f.send("s@src.example", "u@dst.example", None).await;
    f.pass(Duration::from_secs(10)).await;
    f.queue.freeze(id, "ada").await.unwrap();
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.pass(100 * HOUR).await;
    assert_eq!(f.store.messages().len(), 1);
    f.queue.thaw(id, "ada").await.unwrap();
    f.pass(5 * HOUR).await;
    assert!(f.store.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn retry_tries_a_resting_queue_now() {
    let f = Fixture::new(NextHop::Dead).await;
    f.send("s@src.example", "u@dst.example", None).await;
    f.pass(HOUR).await;
    let tried = f.attempts_of("u@dst.example").len();
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    let name: QueueName = "dns:default:dst.example".parse().unwrap();
    let view = f.queue.queue(&name).await.unwrap();
    assert_eq!(view.state, QueueState::Retry);
    assert!(view.next_retry.is_some() && view.last_error.is_some());
    f.queue.retry_queue(&name, "test").await.unwrap();
    f.pass(Duration::from_secs(1)).await;
    assert_eq!(f.attempts_of("u@dst.example").len(), tried + 1);
}

#[tokio::test(start_paused = true)]
async fn a_removed_message_is_gone_with_a_report_or_without() {
    let f = Fixture::new(NextHop::Dead).await;
    let with = f.send(&f.anna(), "u@dst.example", None).await;
    let without = f.send(&f.anna(), "v@dst.example", None).await;
    f.pass(Duration::from_secs(10)).await;
    f.queue.delete(with, true, "ada").await.unwrap();
    f.queue.delete(without, false, "ada").await.unwrap();
    f.pass(Duration::from_secs(10)).await;
    assert!(f.store.messages().is_empty());
    assert_eq!(f.attempts_of(&f.anna()).len(), 1);
    assert!(matches!(f.queue.delete(with, false, "ada").await, Err(ActionError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn mail_follows_a_changed_route_when_it_comes_due() {
    let f = Fixture::new(NextHop::Defers).await;
    f.send("s@src.example", "u@dst.example", None).await;
    f.pass(Duration::from_secs(10)).await;
    let hub = json!({"addressSpaces": [{"pattern": "dst.example"}], "route": {"smartHosts": [{"host": "127.0.0.1"}]}});
    f.put(Collection::Connectors, "hub", hub).await;
    f.pass(Duration::from_secs(80)).await;
    assert_eq!(f.queued(), [("smarthost:hub".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_backlog_beyond_the_window_is_delivered_whole() {
    let f = Fixture::new(NextHop::Dead).await;
    let n = link::WINDOW * 2 + 100;
    for index in 0..n {
        f.send("s@src.example", &format!("u{index}@dst.example"), None).await;
    }
    f.pass(Duration::from_secs(5)).await;
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.pass(Duration::from_secs(70)).await;
    assert!(f.store.messages().is_empty(), "{:?}", f.queued());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_back_holds_nothing_up_for_long() {
    let f = Fixture::new(NextHop::Takes).await;
    f.clock.jump(-3_600_000);
    f.send("s@src.example", "u@dst.example", None).await;
    f.pass(Duration::from_secs(1)).await;
    assert_eq!(f.attempts_of("u@dst.example").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_retried_goes_out_again_and_is_not_purged() {
    let f = Fixture::new(NextHop::Refuses).await;
    let id = f.send("<>", "u@dst.example", None).await;
    f.pass(HOUR).await;
    assert_eq!(f.queued(), [("deadLetter".to_owned(), 1)]);
    f.queue.retry_queue(&QueueName::DeadLetter, "test").await.unwrap();
    f.pass(HOUR).await;
    assert_eq!(f.queued(), [("deadLetter".to_owned(), 1)], "it was refused again");
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.queue.retry(id, "ada").await.unwrap();
    f.pass(Duration::from_secs(5)).await;
    assert!(f.store.messages().is_empty());
    assert_eq!(f.attempts_of("u@dst.example").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_removed_dead_letter_is_gone() {
    let f = Fixture::new(NextHop::Refuses).await;
    let id = f.send("<>", "u@dst.example", None).await;
    f.pass(HOUR).await;
    f.queue.delete(id, true, "ada").await.unwrap();
    assert!(f.store.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_recipient_that_left_the_directory_waits_and_expires_with_a_report() {
    let f = Fixture::new(NextHop::Defers).await;
    let id = f.send(&f.anna(), "u@dst.example", None).await;
    f.pass(Duration::from_secs(5)).await;
    // the domain becomes ours, and has no such recipient
    let addresses = json!({"addresses": [
        {"template": format!("@{}", f.default_domain()), "primary": true}, {"template": "@dst.example"}
    ]});
    f.put(Collection::RecipientPolicies, "default", addresses).await;
    f.pass(HOUR).await;
    assert_eq!(f.store.messages().len(), 1);
    assert_eq!(f.attempts_of("u@dst.example").len(), 1, "it is not sent elsewhere");
    f.pass(49 * HOUR).await;
    assert!(f.store.messages().is_empty());
    assert!(f.events(id).await.contains(&"expired".to_owned()));
    assert_eq!(f.attempts_of(&f.anna()).len(), 2, "delay and failure");
}

fn held(hold: Hold) -> MailParameters {
    MailParameters { hold: Some(hold), ..MailParameters::default() }
}

#[tokio::test(start_paused = true)]
async fn held_mail_goes_out_at_its_time() {
    let f = Fixture::new(NextHop::Takes).await;
    let id = f.send_with("s@src.example", "u@dst.example", None, held(Hold::For(2 * 3_600))).await;
    let until = START / 1_000 + 3 * 3_600;
    f.send_with("s@src.example", "v@dst.example", None, held(Hold::Until(until))).await;
    f.send_with("s@src.example", &f.anna(), None, held(Hold::For(7_200))).await;
    f.pass(HOUR).await;
    assert!(f.attempts.lock().unwrap().is_empty(), "nothing before its time");
    let name: QueueName = "dns:default:dst.example".parse().unwrap();
    let view = f.queue.queue(&name).await.unwrap();
    assert_eq!((view.messages, view.next_retry), (2, Some(Timestamp::from_millis(START + 7_200_000))));
    f.pass(HOUR + Duration::from_secs(1)).await;
    about(&f.attempts_of("u@dst.example"), &[7_200]);
    about(&f.attempts_of(&f.anna()), &[7_200]);
    f.pass(HOUR).await;
    about(&f.attempts_of("v@dst.example"), &[10_800]);
    assert!(f.store.messages().is_empty());
    assert_eq!(f.events(id).await, ["relayed"]);
}

#[tokio::test(start_paused = true)]
async fn held_mail_ages_from_its_release_on() {
    let f = Fixture::new(NextHop::Dead).await;
    let days = 24 * HOUR;
    f.send_with(&f.anna(), "u@dst.example", None, held(Hold::For(10 * 24 * 3_600))).await;
    f.pass(10 * days - Duration::from_secs(1)).await;
    assert!(f.attempts.lock().unwrap().is_empty() && f.reports().is_empty(), "no report while it is held");
    f.pass(11 * HOUR).await;
    assert!(f.reports().is_empty());
    f.pass(2 * HOUR).await;
    assert_eq!(f.reports().len(), 1, "a delay 12 hours after the release");
    f.pass(37 * HOUR).await;
    assert_eq!(f.reports().len(), 2, "a failure two days after it");
    assert!(f.reports()[1].contains("Future-Release-Request: for;864000\r\n"));
    assert!(f.store.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_person_may_release_held_mail_early() {
    let f = Fixture::new(NextHop::Takes).await;
    let id = f.send_with("s@src.example", "u@dst.example", None, held(Hold::For(7_200))).await;
    f.pass(Duration::from_secs(60)).await;
    f.queue.retry(id, "ada").await.unwrap();
    f.pass(Duration::from_secs(1)).await;
    about(&f.attempts_of("u@dst.example"), &[60]);
    assert!(f.store.messages().is_empty());
}

fn by(seconds: i64, mode: ByMode, trace: bool) -> MailParameters {
    MailParameters { deliver_by: Some(DeliverBy { seconds, mode, trace }), ..MailParameters::default() }
}

#[tokio::test(start_paused = true)]
async fn mail_that_must_be_delivered_in_time_is_returned_at_its_time() {
    for does in [NextHop::Dead, NextHop::Defers] {
        let f = Fixture::new(does).await;
        // others have put the queue to rest long before: nobody looks at it for hours
        f.send("s@src.example", "u@dst.example", None).await;
        f.pass(8 * HOUR).await;
        let id = f.send_with(&f.anna(), "v@dst.example", None, by(600, ByMode::Return, false)).await;
        f.pass(Duration::from_secs(590)).await;
        assert!(f.reports().is_empty(), "{does:?}");
        f.pass(Duration::from_secs(20)).await;
        assert_eq!(f.reports().len(), 1, "{does:?}");
        let report = &f.reports()[0];
        assert!(report.contains("Action: failed\r\n") && report.contains("Status: 5.4.7\r\n"), "{report}");
        assert!(report.contains("Deliver-By-Date: "), "{report}");
        assert!(f.events(id).await.contains(&"expired".to_owned()));
        let tried = f.attempts_of("v@dst.example").len();
        *f.next_hop.lock().unwrap() = NextHop::Takes;
        f.pass(5 * HOUR).await;
        assert_eq!(f.attempts_of("v@dst.example").len(), tried, "never after its time");
        assert!(f.store.messages().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_to_deliver_counts_from_the_release_and_holds_for_what_is_in_the_store() {
    let f = Fixture::new(NextHop::TakesInTime).await;
    let parameters = MailParameters { hold: Some(Hold::For(3_600)), ..by(600, ByMode::Return, false) };
    f.send_with(&f.anna(), "u@dst.example", None, parameters.clone()).await;
    f.pass(HOUR + Duration::from_secs(1)).await;
    about(&f.attempts_of("u@dst.example"), &[3_600]);
    assert!(f.reports().is_empty());
    // frozen mail keeps, and is returned as soon as it is thawed
    let id = f.send_with(&f.anna(), "v@dst.example", None, parameters).await;
    f.queue.freeze(id, "ada").await.unwrap();
    f.pass(5 * HOUR).await;
    assert!(f.reports().is_empty());
    f.queue.thaw(id, "ada").await.unwrap();
    f.pass(Duration::from_secs(1)).await;
    assert!(f.reports()[0].contains("Status: 5.4.7\r\n"));
    assert!(f.attempts_of("v@dst.example").is_empty() && f.store.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_asked_to_hear_at_a_time_hears_then_and_the_mail_goes_on() {
    let f = Fixture::new(NextHop::Dead).await;
    let only_success = Some(Notify::On { success: true, failure: false, delay: false });
    f.send_with(&f.anna(), "u@dst.example", only_success, by(600, ByMode::Notify, false)).await;
    f.send_with(&f.anna(), "v@dst.example", Some(Notify::Never), by(600, ByMode::Notify, false)).await;
    f.send_with(&f.anna(), "w@dst.example", None, by(-600, ByMode::Notify, false)).await;
    f.pass(Duration::from_secs(590)).await;
    assert!(f.reports().is_empty());
    f.pass(Duration::from_secs(20)).await;
    assert_eq!(f.reports().len(), 1, "one is told; one asked for silence; one was told before it came");
    assert!(f.reports()[0].contains("Action: delayed\r\n") && f.reports()[0].contains("u@dst.example"));
    f.pass(14 * HOUR).await;
    assert_eq!(f.reports().len(), 2, "the usual delay, for the one that came late");
    assert!(f.reports()[1].contains("w@dst.example"));
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.pass(5 * HOUR).await;
    assert_eq!(f.attempts_of("u@dst.example").last(), f.attempts_of("v@dst.example").last());
    assert!(f.store.messages().is_empty(), "late mail is delivered");
}

#[tokio::test(start_paused = true)]
async fn a_hop_that_does_not_watch_the_time_and_a_trace_are_reported() {
    let f = Fixture::new(NextHop::Takes).await;
    f.send_with(&f.anna(), "u@dst.example", None, by(600, ByMode::Notify, false)).await;
    f.send_with(&f.anna(), "v@dst.example", Some(Notify::Never), by(600, ByMode::Notify, true)).await;
    f.pass(Duration::from_secs(5)).await;
    assert_eq!(f.reports().len(), 1);
    assert!(f.reports()[0].contains("Action: relayed\r\n") && f.reports()[0].contains("u@dst.example"));
    *f.next_hop.lock().unwrap() = NextHop::TakesInTime;
    f.send_with(&f.anna(), "w@dst.example", None, by(600, ByMode::Notify, false)).await;
    f.pass(Duration::from_secs(5)).await;
    assert_eq!(f.reports().len(), 1, "the next hop watches on");
    f.send_with(&f.anna(), "w@dst.example", None, by(600, ByMode::Notify, true)).await;
    f.pass(Duration::from_secs(5)).await;
    assert_eq!(f.reports().len(), 2, "a trace tells each hop");
}

fn priority(priority: i8) -> MailParameters {
    MailParameters { priority: Some(priority), ..MailParameters::default() }
}

#[tokio::test(start_paused = true)]
async fn higher_priority_goes_first_from_the_window_and_from_the_store() {
    let f = Fixture::new(NextHop::Dead).await;
    let order = |f: &Fixture| -> Vec<String> {
        let attempts = f.attempts.lock().unwrap();
        attempts.iter().map(|(_, to)| to.split('@').next().unwrap().to_owned()).collect()
    };
    // the first has put the queue to rest: what comes waits in the store, in order of its due time
    f.send("s@src.example", "first@dst.example", None).await;
    f.pass(Duration::from_secs(1)).await;
    f.attempts.lock().unwrap().clear();
    for (to, level) in [("bulk", -4), ("plain", 0), ("urgent", 6), ("flash", 9), ("later", 0)] {
        f.send_with("s@src.example", &format!("{to}@dst.example"), None, priority(level)).await;
        f.pass(Duration::from_millis(10)).await;
    }
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.pass(Duration::from_secs(120)).await;
    assert_eq!(order(&f), ["flash", "urgent", "first", "plain", "later", "bulk"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_window_yields_to_a_higher_priority() {
    let f = Fixture::new(NextHop::Takes).await;
    let link = Arc::new(link::Link::new("dns:default:dst.example".parse().unwrap(), false));
    let now = f.queue.now();
    let leased = |level: i8| {
        let f = &f;
        async move {
            let mut draft = f.store.begin().unwrap();
            draft.append(Bytes::from_static(b"x")).await.unwrap();
            let id = draft.id();
            let message = Message {
                id,
                received_at: now,
                origin: Origin {
                    protocol: Protocol::Esmtp,
                    virtual_server: "default".parse().unwrap(),
                    client: None,
                    helo: None,
                    account: None,
                    api_key: None,
                },
                reverse_path: ReversePath::Null,
                parameters: priority(level),
                size: 1,
                message_id_header: None,
                subject: None,
                frozen: false,
                connector: None,
                idempotency: None,
                recipients: Vec::new(),
            };
            draft.commit(message).await.unwrap()
        }
    };
    for _ in 0..link::WINDOW {
        assert!(!matches!(link.offer(leased(0).await, now, 1), Offer::Refused(_)));
    }
    assert!(matches!(link.offer(leased(0).await, now, 1), Offer::Refused(_)), "full is full");
    let urgent = leased(5).await;
    let id = urgent.message.id;
    match link.offer(urgent, now, 1) {
        Offer::Refused(out) => assert_eq!(out.message.priority(), 0, "the last one gives way"),
        other => panic!("{other:?}"),
    }
    let hand = Hand::new(link.clone(), Arc::default());
    assert_eq!(hand.try_take().unwrap().message.id, id);
}

#[tokio::test(start_paused = true)]
async fn a_report_is_as_urgent_and_as_secret_as_what_it_is_about() {
    let f = Fixture::new(NextHop::Refuses).await;
    let parameters =
        MailParameters { priority: Some(4), require_tls: true, ret: Some(Ret::Full), ..MailParameters::default() };
    // the sender lives elsewhere and refuses too: the report becomes a dead letter, and can be looked at
    f.send_with("s@src.example", "u@dst.example", None, parameters).await;
    f.pass(Duration::from_secs(5)).await;
    let messages = f.store.messages();
    assert_eq!(messages.len(), 1);
    assert_eq!((messages[0].priority(), messages[0].parameters.require_tls), (4, true));
    let content = f.store.content_of(messages[0].id);
    let text = String::from_utf8_lossy(&content).into_owned();
    assert!(text.contains("text/rfc822-headers") && !text.contains("\r\nbody\r\n"), "only headers go back: {text}");
}

#[test]
fn workers_that_fail_together_count_once_and_one_session_too_many_is_no_rest() {
    let link = link::Link::new(QueueName::Unrouted, false);
    let at = Timestamp::from_millis;
    let failure = || Failure::new(Scope::Host, EnhancedStatus::transient(4, 1), "no connection");
    let until = |failures: u32| at(1_000 * i64::from(failures));
    assert_eq!(link.failed(failure(), at(0), until).1, at(1_000));
    assert_eq!(link.failed(failure(), at(1), until).1, at(1_000), "the same outage");
    assert_eq!(link.failed(failure(), at(1_500), until).1, at(2_000), "the next one");
    // a session that answered proves that the host works
    link.session_opened();
    link.session_closed(true);
    assert_eq!(link.resting_until(at(1_600)), None);
    // while one session goes on, a refused one is only one too many
    link.session_opened();
    let _ = link.failed(failure(), at(3_000), until);
    assert_eq!(link.resting_until(at(3_001)), None);
}
