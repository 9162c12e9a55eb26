//! Spans of events, and a collector that takes, refuses, or says nothing, in virtual time.

use std::sync::Mutex;

use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::config::Snapshot;
use crate::model::mail::MessageId;
use crate::model::ratio::Ratio;
use crate::net::clock::ManualClock;
use crate::store::TrackingStore;
use crate::store::memory::MemoryStore;

const NOW: i64 = 1_795_000_000_000;
const ID: &str = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11";
const TRACE: &str = "019a5b2e8c1f7c3a9d540b6f1f4c2d11";
const ROOT: &str = "9d540b6f1f4c2d11";

/// What the collector does.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    Takes,
    Refuses,
    /// And the time for the answer passes.
    Silent,
}

struct Fake {
    does: Mutex<Does>,
    bodies: Mutex<Vec<Value>>,
    requests: Mutex<u32>,
}

#[async_trait]
impl Collector for Arc<Fake> {
    async fn post(&self, export: &TraceExport, body: Bytes) -> Result<(), NotTaken> {
        *self.requests.lock().unwrap() += 1;
        let does = *self.does.lock().unwrap();
        match does {
            Does::Takes => {
                self.bodies.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                Ok(())
            }
            Does::Refuses => Err(NotTaken { words: "400".to_owned(), permanent: true }),
            Does::Silent => {
                tokio::time::sleep(export.timeout).await;
                Err(NotTaken { words: "it did not answer in time".to_owned(), permanent: false })
            }
        }
    }
}

struct Bench {
    store: MemoryStore,
    fake: Arc<Fake>,
    metrics: Metrics,
    clock: Arc<ManualClock>,
    _running: JoinHandle<()>,
    _stop: watch::Sender<Option<Reply>>,
}

impl Bench {
    async fn new(redact: bool, ratio: Ratio) -> Self {
        let (store, clock) = (MemoryStore::default(), Arc::new(ManualClock::new(NOW)));
        let fake =
            Arc::new(Fake { does: Mutex::new(Does::Takes), bodies: Mutex::default(), requests: Mutex::default() });
        let export = TraceExport {
            url: "http://c.example/v1/traces".parse().unwrap(),
            headers: Vec::new(),
            ratio,
            timeout: Duration::from_secs(10),
        };
        let snapshot = Snapshot { tracing: Some(Arc::new(export)), ..Snapshot::default() };
        let metrics = Metrics::new(&mut Registry::default());
        let traces = Traces {
            begin: *store.tail().borrow(),
            store: Arc::new(store.clone()),
            live: Live::new(snapshot),
            clock: clock.clone(),
            metrics: metrics.clone(),
            redact,
            collector: Box::new(fake.clone()),
        };
        let stop = watch::Sender::new(None);
        let running = tokio::spawn(traces.run(stop.subscribe()));
        // it begins with what happens from now on
        tokio::time::sleep(Duration::from_secs(1)).await;
        Bench { store, fake, metrics, clock, _running: running, _stop: stop }
    }

    fn happens(&self, mut event: Value) {
        let at = Timestamp::from_millis(self.clock.unix_millis()).to_string();
        event.as_object_mut().unwrap().entry("at").or_insert(json!(at));
        event.as_object_mut().unwrap().entry("message").or_insert(json!(ID));
        self.store.append(serde_json::to_vec(&event).unwrap());
    }

    /// The spans that come in this time.
    async fn during(&self, time: Duration) -> Vec<Value> {
        tokio::time::sleep(time).await;
        let bodies = std::mem::take(&mut *self.fake.bodies.lock().unwrap());
        let of = |body: &Value| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
        bodies.iter().flat_map(of).collect()
    }
}

fn value<'a>(span: &'a Value, key: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    found.map_or(&Value::Null, |attribute| attribute["value"].as_object().unwrap().values().next().unwrap())
}

fn received() -> Value {
    json!({
        "event": "received", "at": "2026-11-24T10:15:02.500Z", "recipients": ["u@d.example", "v@d.example"],
        "sender": "a@b.example", "messageId": "1@b.example", "size": 700, "protocol": "rest", "client": "192.0.2.7",
        "virtualServer": "default", "tls": "TLSv1.3", "durationMs": 40, "syncMs": 1.25, "requestId": "r-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    })
}

#[tokio::test(start_paused = true)]
async fn a_message_is_one_trace_from_its_reception_to_its_end() {
    let bench = Bench::new(false, Ratio::ALL).await;
    bench.happens(received());
    bench.happens(json!({"event": "routed", "queue": "dns:default:d.example", "recipients": ["u@d.example"]}));
    let deferred = |who: &str| {
        json!({
            "event": "deferred", "at": "2026-11-24T10:15:03.000Z", "recipients": [who], "durationMs": 200,
            "connector": "default", "nextHop": "mx.d.example (192.0.2.25:25)", "tls": "TLSv1.2", "attempts": 1,
            "failure": {"scope": "recipient", "status": "4.2.0", "diagnostic": "450 4.2.0 later", "remoteCode": 450,
                        "remoteMta": "mx.d.example"}
        })
    };
    bench.happens(deferred("u@d.example"));
    // of another message, in between
    bench.happens(json!({"event": "frozen", "message": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d12", "by": "ops"}));
    bench.happens(deferred("v@d.example"));
    let mut again = deferred("u@d.example");
    again["at"] = json!("2026-11-24T10:15:04.000Z");
    bench.happens(again);
    let spans = bench.during(Duration::from_secs(3)).await;
    let names: Vec<&str> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["store", "receive", "deliver", "frozen", "deliver"], "{spans:?}");
    let (sync, root, attempt) = (&spans[0], &spans[1], &spans[2]);
    assert_eq!((root["traceId"].as_str(), root["spanId"].as_str()), (Some(TRACE), Some(ROOT)));
    assert!(root.get("parentSpanId").is_none());
    // 10:15:02.460 to 10:15:02.500
    assert_eq!(root["startTimeUnixNano"], "1795515302460000000");
    assert_eq!(sync["startTimeUnixNano"], "1795515302498750000");
    assert_eq!(sync["endTimeUnixNano"], "1795515302500000000");
    let link = &root["links"][0];
    assert_eq!(
        (&link["traceId"], &link["spanId"]),
        (&json!("0af7651916cd43dd8448eb211c80319c"), &json!("b7ad6b7169203331"))
    );
    assert_eq!(root["events"][0]["name"], "routed", "{root}");
    assert_eq!(value(root, "bridgehead.request.id"), "r-1");
    assert_eq!(value(root, "bridgehead.sender"), "a@b.example");
    assert_eq!(value(root, "tls.protocol.version"), "1.3");
    for span in [sync, attempt] {
        assert_eq!((span["traceId"].as_str(), span["parentSpanId"].as_str()), (Some(TRACE), Some(ROOT)));
    }
    assert_eq!((&attempt["kind"], &attempt["status"]["code"]), (&json!(3), &json!(2)), "{attempt}");
    assert_eq!(attempt["events"].as_array().unwrap().len(), 2, "one of each recipient: {attempt}");
    assert_eq!(value(&attempt["events"][0], "smtp.response.code"), "450");
    assert_eq!(value(attempt, "server.address"), "mx.d.example");
    assert_eq!(value(attempt, "server.port"), "25");
    assert_eq!(attempt["startTimeUnixNano"], "1795515302800000000");

    // the last attempt: nothing waits any more
    bench.happens(json!({
        "event": "relayed", "recipients": ["u@d.example"], "durationMs": 3, "nextHop": "mx.d.example (192.0.2.25:25)",
        "reply": "250 2.0.0 Ok"
    }));
    let spans = bench.during(Duration::from_secs(3)).await;
    assert_eq!((spans.len(), &spans[0]["traceId"]), (1, &json!(TRACE)), "{spans:?}");
    assert_eq!(spans[0]["events"][1]["name"], "end", "{spans:?}");
    assert_eq!(spans[0]["status"], json!({}));
    assert_eq!((bench.metrics.trace_spans.get(), bench.metrics.trace_spans_dropped.get()), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn redaction_leaves_domains_and_a_part_is_traced_whole() {
    let bench = Bench::new(true, Ratio::ALL).await;
    bench.happens(received());
    bench.happens(json!({"event": "failed", "recipients": ["u@d.example"], "durationMs": 3, "failure": {
        "scope": "recipient", "status": "5.1.1", "diagnostic": "550 5.1.1 <u@d.example>: unknown", "remoteCode": 550,
        "remoteMta": null}}));
    let spans = Value::from(bench.during(Duration::from_secs(3)).await).to_string();
    assert!(spans.contains("***@d.example") && !spans.contains("u@d.example"), "{spans}");
    assert!(!spans.contains("a@b.example"), "{spans}");

    let bench = Bench::new(false, serde_json::from_str("0.25").unwrap()).await;
    for _ in 0..400 {
        let id = MessageId::generate().to_string();
        bench.happens(json!({"event": "frozen", "message": id}));
        bench.happens(json!({"event": "thawed", "message": id}));
    }
    let spans = bench.during(Duration::from_secs(3)).await;
    assert!((100..=300).contains(&spans.len()) && spans.len() % 2 == 0, "{}", spans.len());
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_never_answers_costs_a_bounded_memory_and_what_it_lacks_is_counted() {
    let bench = Bench::new(false, Ratio::ALL).await;
    *bench.fake.does.lock().unwrap() = Does::Silent;
    let dropped = || bench.metrics.trace_spans_dropped.get();
    for minute in 0..10 {
        (0..300).for_each(|_| bench.happens(json!({"event": "frozen"})));
        bench.during(Duration::from_secs(60)).await;
        assert_eq!(bench.metrics.trace_spans.get(), 0, "{minute}");
    }
    // what is older than two minutes is given up, at once when it is that old
    assert!((2_000..=2_900).contains(&dropped()), "{}", dropped());
    // requests grow rare
    let requests = *bench.fake.requests.lock().unwrap();
    assert!((15..=40).contains(&requests), "{requests}");
    *bench.fake.does.lock().unwrap() = Does::Takes;
    let spans = bench.during(Duration::from_secs(60)).await;
    assert!((100..=1_000).contains(&spans.len()), "{}", spans.len());
    bench.happens(json!({"event": "frozen"}));
    assert_eq!(bench.during(Duration::from_secs(3)).await.len(), 1, "it goes on as if nothing had been");
    assert_eq!(bench.metrics.trace_spans.get() + dropped(), 3_001, "each is sent or counted");
}

#[tokio::test(start_paused = true)]
async fn what_the_collector_does_not_want_is_dropped_at_once() {
    let bench = Bench::new(false, Ratio::ALL).await;
    *bench.fake.does.lock().unwrap() = Does::Refuses;
    (0..1_000).for_each(|_| bench.happens(json!({"event": "frozen"})));
    // nobody's events, and what is none
    bench.store.append(b"{".to_vec());
    bench.store.append(b"{\"event\":\"later\"}".to_vec());
    bench.during(Duration::from_secs(3)).await;
    assert_eq!((bench.metrics.trace_spans_dropped.get(), *bench.fake.requests.lock().unwrap()), (1_000, 2));
}

#[tokio::test(start_paused = true)]
async fn a_reception_for_many_is_one_span() {
    let bench = Bench::new(false, Ratio::ALL).await;
    bench.happens(received());
    let mut more = received();
    (more["part"], more["recipients"]) = (json!(2), json!(["w@d.example"]));
    bench.happens(more);
    let spans = bench.during(Duration::from_secs(30)).await;
    assert_eq!(spans.iter().map(|span| &span["name"]).collect::<Vec<_>>(), ["store", "receive"], "{spans:#?}");
    assert_eq!(value(&spans[1], "bridgehead.recipients.count"), "3");
}
