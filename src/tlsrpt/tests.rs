//! Counting over days and restarts, and sending by a clock that is moved: with the real store and queue, and with DNS and a
//! web server that say what a row wants.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::counts::{Failed, Policy, PolicyType, ResultType};
use super::kept::Files;
use super::state::ReportState;
use super::*;
use crate::config::{Actor, Configuration, FirstStart, OpenOptions, Precondition, StoredRecipients};
use crate::model::http_url::HttpUrl;
use crate::model::mail::{Message, Protocol};
use crate::model::spec::Collection;
use crate::net::clock::ManualClock;
use crate::net::post::{Post, PostFault};
use crate::net::resolver::{Mx, ResolveError, Resolver, Resolvers};
use crate::observe::metrics::Metrics;
use crate::queue::Queue;
use crate::smtp::parameters::Notify;
use crate::store::QueueStore;
use crate::store::memory::MemoryStore;

/// 2026-11-29T12:00:00Z
const NOON: i64 = 1_795_953_600_000;
const HOUR: Duration = Duration::from_secs(3_600);

/// TXT records by name; a name that it does not know does not exist.
#[derive(Debug, Default)]
struct Dns(Mutex<HashMap<String, Result<String, ResolveError>>>);

impl Dns {
    fn set(&self, domain: &str, answer: Result<&str, ResolveError>) {
        self.0.lock().unwrap().insert(format!("_smtp._tls.{domain}"), answer.map(str::to_owned));
    }
}

#[async_trait]
impl Resolver for Dns {
    async fn mx(&self, _: &str) -> Result<Vec<Mx>, ResolveError> {
        Err(ResolveError::NoRecords)
    }

    async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
        Err(ResolveError::NoRecords)
    }

    async fn names(&self, _: IpAddr) -> Result<Vec<String>, ResolveError> {
        Err(ResolveError::NoRecords)
    }

    async fn texts(&self, name: &str) -> Result<Vec<String>, ResolveError> {
        let known = self.0.lock().unwrap().get(name).cloned();
        known.unwrap_or(Err(ResolveError::NoSuchDomain)).map(|text| vec![text])
    }
}

/// A web server: it answers so, and keeps what it got.
#[derive(Default)]
struct Web {
    fails: Mutex<Option<PostFault>>,
    got: Mutex<Vec<Posted>>,
}

/// URL, media type, body; whether any address will do.
type Posted = (String, String, Bytes, bool);

#[async_trait]
impl Post for Web {
    async fn post(&self, url: &HttpUrl, media_type: &str, body: Bytes, any: bool) -> Result<(), PostFault> {
        self.got.lock().unwrap().push((url.to_string(), media_type.to_owned(), body, any));
        self.fails.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

struct Bench {
    clock: Arc<ManualClock>,
    directory: tempfile::TempDir,
    dns: Arc<Dns>,
    web: Arc<Web>,
    store: MemoryStore,
    configuration: Arc<Configuration>,
    sending: Sending,
}

impl Bench {
    async fn new(settings: Value) -> Self {
        let (clock, store) = (Arc::new(ManualClock::new(NOON)), MemoryStore::default());
        let directory = tempfile::tempdir().unwrap();
        let (dns, web) = (Arc::<Dns>::default(), Arc::<Web>::default());
        let wall = clock.clone();
        let options = OpenOptions {
            host_name: "mail.us.example".parse().unwrap(),
            secrets_dir: "/nonexistent".into(),
            files: false,
            now: Arc::new(move || Timestamp::from_millis(wall.unix_millis())),
        };
        let configuration = Configuration::open(Arc::new(store.clone()), options).await.unwrap();
        configuration.first_start(&FirstStart { smtp_listen: "127.0.0.1:0".parse().unwrap() }).await.unwrap();
        let recipients = Arc::new(StoredRecipients(Arc::new(store.clone())));
        let metrics = Metrics::new(&mut Registry::default());
        let live = configuration.live().clone();
        let queue = Queue::new(Arc::new(store.clone()), live, recipients.clone(), clock.clone(), metrics);
        let sending = Sending {
            reports: Arc::new(TlsReports::new(clock.clone(), Arc::new(Files::below(directory.path())))),
            queue,
            store: Arc::new(store.clone()),
            recipients,
            resolvers: Arc::new(Resolvers::with_system(dns.clone())),
            post: web.clone(),
            clock: clock.clone(),
        };
        let bench = Bench { clock, directory, dns, web, store, configuration, sending };
        bench.set(settings).await;
        bench
    }

    async fn set(&self, settings: Value) {
        let actor = Actor { key: "test".into(), ..Actor::default() };
        let body = json!({"spec": {"organization": "Us", "tlsReporting": settings}});
        let condition = Precondition::default();
        self.configuration.put(Collection::Settings, "settings", &body, &condition, &actor, false).await.unwrap();
    }

    fn count(&self, domain: &str) {
        let failed = Failed {
            result: ResultType::StarttlsNotSupported,
            reason: None,
            sending: "192.0.2.1".parse().ok(),
            host: "mx.d.example".to_owned(),
            receiving: None,
        };
        let policy = Policy::bare(PolicyType::NoPolicyFound);
        self.sending.reports.count(Seen { domain: domain.to_owned(), policy, failed: Some(failed) });
    }

    /// As the task does it, once an hour for so many hours.
    async fn hours(&self, hours: u32) {
        for _ in 0..hours {
            self.clock.advance(HOUR);
            self.sending.look().await;
        }
    }

    fn report(&self, domain: &str) -> Option<Report> {
        self.sending.reports.list(None, Some(domain), None, 10).pop().unwrap().counted.report
    }

    fn state(&self, domain: &str) -> Option<ReportState> {
        self.report(domain).map(|report| report.state)
    }

    async fn mail(&self) -> Vec<Arc<Message>> {
        self.store.page(None, None, 100).await.unwrap().into_iter().map(|(_, message)| message).collect()
    }

    /// Another process on the same directory.
    fn restart(&mut self) {
        self.sending.reports.write();
        let files = Arc::new(Files::below(self.directory.path()));
        self.sending.reports = Arc::new(TlsReports::new(self.clock.clone(), files));
    }
}

const BOTH: &str = "v=TLSRPTv1; rua=mailto:r@d.example,https://r.d.example/v1";

#[tokio::test]
async fn a_day_passes_and_its_report_goes_to_who_wants_it_once() {
    let mut bench = Bench::new(json!({"enabled": true, "contact": "tls@us.example"})).await;
    bench.dns.set("d.example", Ok(BOTH));
    ["d.example", "d.example", "silent.example"].iter().for_each(|domain| bench.count(domain));
    bench.hours(11).await;
    assert_eq!(bench.report("d.example"), None, "the day is not over");
    bench.restart();
    bench.clock.advance(HOUR);
    bench.sending.look().await;
    let report = bench.report("d.example").unwrap();
    let wait = report.due.since("2026-11-30T00:00:00Z".parse().unwrap());
    assert!(wait < HOUR * 4, "{wait:?}");
    bench.count("d.example");
    bench.restart();
    bench.hours(4).await;
    assert_eq!(bench.report("d.example").unwrap().id, report.id, "the same over a restart");
    assert_eq!(bench.state("d.example"), Some(ReportState::Sent));
    assert_eq!(bench.state("silent.example"), Some(ReportState::NotWanted));
    bench.restart();
    bench.hours(5).await;

    let got = bench.web.got.lock().unwrap().clone();
    let [(url, media_type, body, false)] = got.as_slice() else { panic!("{got:?}") };
    assert_eq!((url.as_str(), media_type.as_str()), ("https://r.d.example/v1", "application/tlsrpt+gzip"));
    let posted: Value = serde_json::from_reader(flate2::read::GzDecoder::new(&body[..])).unwrap();
    assert_eq!(posted["policies"][0]["summary"]["total-failure-session-count"], 2, "of its day alone");
    assert_eq!((&posted["organization-name"], &posted["contact-info"]), (&json!("Us"), &json!("tls@us.example")));

    let mail = bench.mail().await;
    let [message] = mail.as_slice() else { panic!("{mail:?}") };
    let recipient = &message.recipients[0];
    assert_eq!(recipient.forward_path.to_string(), "r@d.example");
    assert_eq!(recipient.parameters.notify, Some(Notify::Never), "nobody hears of its fate");
    assert_eq!(message.origin.protocol, Protocol::TlsReport);
    assert_eq!(message.message_id_header.as_ref(), Some(&posted["report-id"].as_str().unwrap().to_owned()));
    let waits = recipient.waits.as_ref().unwrap();
    assert_eq!(waits.queue.to_string(), "dns:default:d.example");
    assert!(waits.due < message.received_at, "it stands before other mail");
}

#[tokio::test]
async fn nothing_is_sent_that_nobody_enabled_but_what_somebody_asks_for() {
    let bench = Bench::new(json!({})).await;
    bench.dns.set("d.example", Ok("v=TLSRPTv1; rua=https://r.d.example/v1"));
    bench.count("d.example");
    assert_eq!(bench.sending.reports.ask_for("d.example"), 0, "the day is not over");
    bench.hours(20).await;
    assert_eq!((bench.state("d.example"), bench.web.got.lock().unwrap().len()), (Some(ReportState::Waiting), 0));
    assert_eq!(bench.sending.reports.ask_for("other.example"), 0);
    assert_eq!(bench.sending.reports.ask_for("d.example"), 1);
    bench.sending.look().await;
    assert_eq!((bench.state("d.example"), bench.web.got.lock().unwrap().len()), (Some(ReportState::Sent), 1));
    // that nobody asked for it in time ends it too
    bench.count("e.example");
    bench.hours(60).await;
    assert_eq!((bench.state("e.example"), bench.web.got.lock().unwrap().len()), (Some(ReportState::Failed), 1));
}

#[tokio::test]
async fn what_fails_is_tried_again_for_a_day_over_restarts_and_then_given_up() {
    let mut bench = Bench::new(json!({"enabled": true, "allowPrivateAddresses": true})).await;
    let fault = |permanent| Some(PostFault { words: "it answers 503".to_owned(), permanent });
    *bench.web.fails.lock().unwrap() = fault(false);
    bench.dns.set("d.example", Ok(BOTH));
    bench.dns.set("e.example", Err(ResolveError::TryLater("SERVFAIL".to_owned())));
    ["d.example", "e.example"].iter().for_each(|domain| bench.count(domain));
    bench.hours(20).await;
    assert_eq!(bench.state("d.example"), Some(ReportState::Waiting));
    for _ in 0..30 {
        bench.restart();
        bench.hours(1).await;
    }
    let report = bench.report("d.example").unwrap();
    let states: Vec<ReportState> = report.destinations.iter().map(|one| one.state).collect();
    assert_eq!(states, [ReportState::Sent, ReportState::Failed]);
    assert_eq!(bench.mail().await.len(), 1, "what was sent is not sent again");
    let posts = bench.web.got.lock().unwrap().len();
    assert!((8..=12).contains(&posts), "{posts}");
    assert!(bench.web.got.lock().unwrap().iter().all(|(.., any)| *any), "as the setting says");
    let e = bench.report("e.example").unwrap();
    assert_eq!((e.state, e.destinations.len()), (ReportState::Failed, 0));

    // what is refused for good is not tried again
    *bench.web.fails.lock().unwrap() = fault(true);
    bench.dns.set("f.example", Ok("v=TLSRPTv1; rua=https://r.f.example/"));
    bench.count("f.example");
    bench.hours(60).await;
    assert_eq!((bench.state("f.example"), bench.web.got.lock().unwrap().len()), (Some(ReportState::Failed), posts + 1));
}

#[tokio::test]
async fn days_and_jumping_clocks_fill_nothing() {
    let mut bench = Bench::new(json!({})).await;
    for day in 0..40 {
        bench.count("d.example");
        bench.clock.advance(HOUR * 24);
        bench.sending.look().await;
        let jump = 86_400_000 * if day % 2 == 0 { -3 } else { 3 };
        bench.clock.jump(jump);
        bench.count("d.example");
        bench.clock.jump(-jump);
    }
    let kept = |bench: &Bench| bench.sending.reports.list(None, None, None, 1_000).len();
    bench.sending.look().await;
    assert!(kept(&bench) <= MOST_DAYS * 2, "{}", kept(&bench));
    bench.restart();
    assert!(kept(&bench) <= MOST_DAYS, "{}", kept(&bench));
    bench.clock.jump(86_400_000 * 400);
    bench.sending.look().await;
    assert_eq!(kept(&bench), 0, "what is too old goes");
    bench.restart();
    assert_eq!(kept(&bench), 0, "from the disk, too");
}

#[tokio::test]
async fn pages_have_everything_once() {
    let bench = Bench::new(json!({})).await;
    for _ in 0..3 {
        ["a.example", "b.example", "c.example"].iter().for_each(|domain| bench.count(domain));
        bench.clock.advance(HOUR * 24);
    }
    let reports = &bench.sending.reports;
    let (mut seen, mut after): (Vec<String>, Option<(DayNumber, String)>) = (Vec::new(), None);
    loop {
        let from = after.as_ref().map(|(day, domain)| (*day, domain.as_str()));
        let page = reports.list(from, None, None, 2);
        let Some(last) = page.last() else { break };
        after = Some((last.day, last.domain.clone()));
        seen.extend(page.iter().map(|one| format!("{} {}", one.day, one.domain)));
    }
    let expected = ["2026-12-01", "2026-11-30", "2026-11-29"];
    let expected = expected.iter().flat_map(|day| ["a", "b", "c"].map(|name| format!("{day} {name}.example")));
    assert_eq!(seen, expected.collect::<Vec<_>>());
    assert_eq!(reports.list(None, Some("b.example"), None, 10).len(), 3);
    assert_eq!(reports.list(None, None, "2026-11-30".parse().ok(), 10).len(), 3);
}
