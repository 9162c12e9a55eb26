//! Listings of a long queue on the real store: how many rows a call looks at, and, by hand, how long it takes.
//!
//! `BRIDGEHEAD_SCALE=1000000 cargo test --test it long_queue::a_page -- --ignored --nocapture`

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bridgehead::config::{Configuration, FirstStart, OpenOptions, StoredRecipients};
use bridgehead::model::mail::{Message, MessageId, Origin, Protocol, Recipient, RecipientStatus, Waits};
use bridgehead::model::time::Timestamp;
use bridgehead::net::clock::{Clock, SystemClock};
use bridgehead::observe::metrics::Metrics;
use bridgehead::queue::operate::{MessageFilter, Operate};
use bridgehead::queue::sorting::{Place, Sort};
use bridgehead::queue::{Operator, Queue, Steer};
use bridgehead::store::embedded::disk::RealDisk;
use bridgehead::store::embedded::{Embedded, Options};
use bridgehead::store::{QueueStore, Spool, Store};
use bytes::Bytes;
use serde_json::{Value, json};

const START: i64 = 1_795_000_000_000;
/// Commits at a time: they share the journal's groups.
const AT_ONCE: usize = 256;

struct House {
    _dir: tempfile::TempDir,
    store: Arc<Embedded>,
    operator: Operator,
}

fn message(id: MessageId, size: u64, n: usize, count: usize) -> Message {
    let last = n + 1 == count;
    let queue = if n.is_multiple_of(1_000) { "smarthost:rare" } else { "dns:default:dst.example" };
    Message {
        id,
        received_at: Timestamp::from_millis(START + n as i64),
        origin: Origin {
            protocol: Protocol::Esmtp,
            virtual_server: "default".parse().unwrap(),
            client: Some([192, 0, 2, 1].into()),
            helo: None,
            account: None,
            api_key: None,
        },
        reverse_path: if last { "last@src.example" } else { "a@src.example" }.parse().unwrap(),
        parameters: Default::default(),
        size,
        message_id_header: Some(format!("{n}@src.example")),
        subject: None,
        frozen: false,
        connector: None,
        idempotency: None,
        recipients: vec![Recipient {
            forward_path: format!("u{n}@dst.example").parse().unwrap(),
            parameters: Default::default(),
            directory_name: None,
            status: RecipientStatus::Pending,
            waits: Some(Waits {
                queue: queue.parse().unwrap(),
                due: Timestamp::from_millis(START + 86_400_000 + n as i64),
            }),
            attempts: 1,
            delay_notified: false,
            last_failure: None,
        }],
    }
}

/// A clock on which each look takes so long, and nothing else any time.
#[derive(Debug)]
struct Looks {
    start: Instant,
    step: Duration,
    looks: AtomicU32,
}

impl Looks {
    fn taking(step: Duration) -> Arc<Self> {
        Arc::new(Looks { start: Instant::now(), step, looks: AtomicU32::new(0) })
    }
}

impl Clock for Looks {
    fn now(&self) -> Instant {
        self.start + self.step * self.looks.fetch_add(1, Ordering::Relaxed)
    }

    fn unix_millis(&self) -> i64 {
        START
    }
}

/// A store with so many messages, each a millisecond behind the one before.
async fn house(count: usize, clock: Arc<dyn Clock>) -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap().0);
    let open = OpenOptions {
        host_name: "relay.example.com".parse().unwrap(),
        now: Arc::new(|| Timestamp::EPOCH),
        secrets_dir: std::path::PathBuf::from("/nowhere"),
        files: false,
    };
    let configuration = Configuration::open(store.clone(), open).await.unwrap();
    configuration.first_start(&FirstStart { smtp_listen: "127.0.0.1:2525".parse().unwrap() }).await.unwrap();
    let workers = (0..AT_ONCE).map(|first| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in (first..count).step_by(AT_ONCE) {
                let mut draft = store.begin().unwrap();
                draft.append(Bytes::from(vec![b'x'; 20 + n % 7])).await.unwrap();
                let message = message(draft.id(), draft.size(), n, count);
                let leased = draft.commit(message).await.unwrap();
                store.release(leased.leases);
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    let mut registry = prometheus_client::registry::Registry::default();
    let queue = Queue::new(
        store.clone(),
        configuration.live().clone(),
        Arc::new(StoredRecipients(store.clone())),
        clock,
        Metrics::new(&mut registry),
    );
    House { _dir: dir, store, operator: Operator(queue) }
}

fn filter(filter: Value) -> MessageFilter {
    serde_json::from_value(filter).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_looks_at_a_bounded_number_of_rows_and_goes_on_behind_them() {
    const COUNT: usize = 40_500;
    let house = house(COUNT, Looks::taking(Duration::ZERO)).await;
    let look = async |wanted: &MessageFilter, after| {
        let page = house.operator.messages(wanted, after, 10).await.unwrap();
        (page.items.len(), page.scanned, page.next)
    };
    let rare = filter(json!({"sender": "last@src.example"}));
    let (found, scanned, next) = look(&rare, None).await;
    assert_eq!((found, scanned), (0, 20_000));
    let (found, scanned, next) = look(&rare, next).await;
    assert_eq!((found, scanned), (0, 20_000));
    let (found, scanned, next) = look(&rare, next).await;
    assert_eq!((found, scanned, next), (1, 500, None));
    // a time, or a queue, leads
    let late = Timestamp::from_millis(START + COUNT as i64 - 3).to_string();
    assert_eq!(look(&filter(json!({"sender": "last@src.example", "since": late})), None).await, (1, 3, None));
    let early = Timestamp::from_millis(START + 4).to_string();
    assert_eq!(look(&filter(json!({"sender": "a@src.example", "until": early})), None).await, (4, 4, None));
    let (found, scanned, next) = look(&filter(json!({"queue": "smarthost:rare"})), None).await;
    assert_eq!((found, scanned, next.is_some()), (10, 10, true));
    // the order is that of a window, and no message is left out or told twice
    let sorted =
        async |place| house.operator.sorted(&MessageFilter::default(), Sort::Size, place, 1_000).await.unwrap();
    let first = sorted(Place::default()).await;
    assert_eq!((first.scanned, first.items.len()), (20_000, 1_000));
    assert!(first.items.is_sorted_by(|a, b| a.size >= b.size));
    let (mut seen, mut place) = (std::collections::HashSet::new(), first.next);
    seen.extend(first.items.iter().map(|message| message.id));
    // two windows of twenty pages each would take long: some pages in the first, then the second and the third
    for _ in 0..2 {
        let page = sorted(place.unwrap()).await;
        assert!(page.scanned <= 20_000);
        assert!(page.items.iter().all(|message| seen.insert(message.id)));
        place = page.next;
    }
    let window = house.operator.messages(&rare, None, 10).await.unwrap().next;
    let second = sorted(Place { window, within: None }).await;
    assert!(second.scanned == 20_000 && second.items.iter().all(|message| seen.insert(message.id)));
    house.store.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_takes_long_ends_with_what_it_has_and_the_next_goes_on() {
    const COUNT: usize = 4_500;
    let house = house(COUNT, Looks::taking(Duration::from_millis(15))).await;
    let (mut seen, mut after) = (std::collections::HashSet::new(), None);
    let mut looked_at = Vec::new();
    let last = filter(json!({"sender": "last@src.example"}));
    loop {
        let page = house.operator.messages(&last, after, 10).await.unwrap();
        looked_at.push(page.scanned);
        seen.extend(page.items.iter().map(|message| message.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((looked_at, seen.len()), (vec![3_000, 1_500], 1));
    // windows that end where their first page ended, whatever the next one takes
    let (mut seen, mut place, mut pages) = (std::collections::HashSet::new(), Some(Place::default()), 0);
    while let Some(from) = place {
        let page = house.operator.sorted(&MessageFilter::default(), Sort::Size, from, 700).await.unwrap();
        assert!(page.items.is_sorted_by(|a, b| a.size >= b.size) && page.scanned <= 3_000);
        assert!(page.items.iter().all(|message| seen.insert(message.id)));
        pages += 1;
        place = page.next;
    }
    assert_eq!((seen.len(), pages), (COUNT, 8));
    house.store.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_has_no_time_at_all_comes_forward_all_the_same() {
    let house = house(1_500, Looks::taking(Duration::from_millis(100))).await;
    let (mut seen, mut after) = (0, None);
    for _ in 0..2 {
        let page = house.operator.messages(&MessageFilter::default(), after, 1_000).await.unwrap();
        seen += page.items.len();
        after = page.next;
    }
    assert_eq!((seen, after), (1_500, None));
    let first = house.operator.sorted(&MessageFilter::default(), Sort::Size, Place::default(), 1_000).await.unwrap();
    assert_eq!((first.items.len(), first.next.is_some()), (1_000, true));
    house.store.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; prints figures"]
async fn a_page_of_a_million() {
    let count: usize = std::env::var("BRIDGEHEAD_SCALE").map_or(100_000, |text| text.parse().unwrap());
    let started = Instant::now();
    let house = house(count, Arc::new(SystemClock)).await;
    println!("{count} messages in {:.1} s", started.elapsed().as_secs_f64());
    // until the database has taken all of it in
    tokio::time::sleep(Duration::from_secs(20)).await;
    let late = Timestamp::from_millis(START + count as i64 - 500).to_string();
    for wanted in [
        json!({}),
        json!({"queue": "smarthost:rare"}),
        json!({"nextHop": "dst.example"}),
        json!({"since": late}),
        json!({"status": "pending", "sender": "*@src.example"}),
        json!({"sender": "last@src.example"}),
        json!({"queue": "smarthost:rare", "sender": "nobody@src.example"}),
    ] {
        let wanted = filter(wanted);
        let mut times = Vec::new();
        let mut scanned = 0;
        for _ in 0..9 {
            let started = Instant::now();
            scanned = house.operator.messages(&wanted, None, 100).await.unwrap().scanned;
            times.push(started.elapsed());
        }
        times.sort();
        println!(
            "{}: {scanned} rows, median {:?}, worst {:?}",
            serde_json::to_string(&wanted).unwrap(),
            times[4],
            times[8]
        );
    }
    for sort in [Sort::Size, Sort::NextRetry] {
        let started = Instant::now();
        let page = house.operator.sorted(&MessageFilter::default(), sort, Place::default(), 100).await.unwrap();
        println!("{sort:?}: {} rows, {:?}", page.scanned, started.elapsed());
    }
    house.store.close();
}
