//! How a large directory does: run by hand, with figures on stdout.
//!
//! `BRIDGEHEAD_SCALE=1000000 cargo test --release --test it scale::a_million -- --ignored --nocapture`
//!
//! Measured on 2 cores that others used too (load 4 to 9), 2026-11, recipients of 400 bytes with one address:
//!
//! | recipients | look-up by address, warm: median, p99 | resident memory | import |
//! |---|---|---|---|
//! | 1,000 | 0.2 µs, 0.4 µs | 78 MB | |
//! | 100,000 | 1.1 µs, 4.0 µs | 192 MB | 42,000/s |
//! | 1,000,000 | 3.9 µs, 35 µs (cache of an empty start) | 255 MB, 320 at most | 25,000/s |
//! | the same, started again | 1.7 µs, 5.6 µs (cache for its size) | 191 MB, 282 with a warm cache | |
//!
//! Stamping all of the million anew takes 30 to 70 s, as a dry run and as a commit, with 600 to 700 MB at most; a start 2.6 s;
//! on disk 407 MB of configuration and 1.0 to 1.3 GB of sled. A look-up is not flat, as one in sled is not: with all of a
//! million keys in its cache it takes 1.5 µs against 0.3 µs with a thousand, by three levels of nodes that lie apart. That
//! is 1 % of what a message may cost (190 µs); what is not in the cache costs 10 to 50 µs.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bridgehead::config::{Actor, Configuration, FirstStart, OpenOptions, Precondition, StoredRecipients};
use bridgehead::directory::Recipients;
use bridgehead::model::spec::Collection;
use bridgehead::model::time::Timestamp;
use bridgehead::store::embedded::disk::RealDisk;
use bridgehead::store::embedded::{Embedded, Options};
use bridgehead::store::{ConfigStore, Store};
use serde_json::{Value, json};

/// What is told to the process that starts again.
const DIR: &str = "BRIDGEHEAD_SCALE_DIR";
const COUNT: &str = "BRIDGEHEAD_SCALE";
const REVISION: &str = "BRIDGEHEAD_SCALE_REVISION";

/// As the appliance has it: its memory is what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Resident memory now, and at its highest, in MB.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |field: &str| {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
    };
    (of("VmRSS"), of("VmHWM"))
}

fn line(n: usize) -> Value {
    json!({"name": format!("u{n:07}"), "spec": {
        "givenName": format!("Given{}", n % 1_000), "surname": format!("Surname{n}"), "attributes": {"department": "Research"}
    }})
}

/// How long look-ups of recipients in any order take: the middle one and the slowest of a hundred, in microseconds.
fn look_up(recipients: &StoredRecipients, count: usize) -> String {
    const LOOKS: usize = 200_000;
    let mut times: Vec<u128> = Vec::with_capacity(LOOKS);
    let mut random: u64 = 1;
    for _ in 0..LOOKS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = format!("u{:07}@example.com", (random >> 33) as usize % count);
        let started = Instant::now();
        let found = recipients.by_address(&key).unwrap();
        times.push(started.elapsed().as_nanos());
        assert!(found.is_some(), "{key}");
    }
    times.sort_unstable();
    let micros = |nanos: u128| nanos as f64 / 1_000.0;
    format!("look-up {:.1} µs, p99 {:.1} µs", micros(times[LOOKS / 2]), micros(times[LOOKS * 99 / 100]))
}

/// Whether the process has used next to no processor time for a second.
fn is_quiet() -> bool {
    let used = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace().map(|field| field.parse().unwrap_or(0));
        // utime and stime, in hundredths
        fields.skip(11).take(2).sum::<u64>()
    };
    let before = used();
    std::thread::sleep(Duration::from_secs(1));
    used() - before < 5
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; prints figures"]
async fn a_million_recipients() {
    let count: usize = std::env::var(COUNT).map_or(100_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir_in(std::env::temp_dir()).unwrap();
    let options = || OpenOptions {
        host_name: "relay.example.com".parse().unwrap(),
        now: Arc::new(|| Timestamp::EPOCH),
        secrets_dir: std::path::PathBuf::from("/nowhere"),
        files: false,
    };
    let store = Arc::new(Embedded::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap().0);
    let config = Configuration::open(store.clone(), options()).await.unwrap();
    config.first_start(&FirstStart { smtp_listen: "127.0.0.1:2525".parse().unwrap() }).await.unwrap();
    let recipients = StoredRecipients(store.clone());
    println!("start: {:?} MB", memory());

    let (mut done, mut spent) = (0, Duration::ZERO);
    let mut import = config.import(Actor::default(), false);
    while done < count {
        let batch = (done..(done + 1_000).min(count)).map(|n| (n as u64, Ok(line(n)))).collect();
        let started = Instant::now();
        import.batch(batch).await.unwrap();
        spent += started.elapsed();
        done = (done + 1_000).min(count);
        if [1_000, 10_000, 100_000, 300_000, count].contains(&done) {
            let rate = done as f64 / spent.as_secs_f64();
            println!("{done}: {rate:.0}/s, memory {:?} MB; {}", memory(), look_up(&recipients, done));
        }
    }
    assert_eq!(import.report().created, count as u64);

    let policy = json!({"spec": {"addresses": [{"template": "%g.%s@example.com", "primary": true}]}});
    for dry_run in [true, false] {
        let started = Instant::now();
        let (precondition, actor) = (Precondition::default(), Actor::default());
        let collection = Collection::RecipientPolicies;
        let outcome = config.put(collection, "default", &policy, &precondition, &actor, dry_run).await.unwrap();
        assert_eq!(outcome.effects.recipients.changed, count as u64);
        println!("restamp (dry run: {dry_run}): {:.1} s, memory {:?} MB", started.elapsed().as_secs_f64(), memory());
        println!("right after: {}", look_up(&recipients, count));
    }
    // until the database has taken all of it in
    let settled = Instant::now();
    while !is_quiet() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("taken in {:.1} s later", settled.elapsed().as_secs_f64());
    for _ in 0..3 {
        println!("{}, memory {:?} MB", look_up(&recipients, count), memory());
    }
    let revision = store.revision();
    store.close();
    let bytes = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().len() >> 20;
    println!("on disk: database {} MB, configuration {} MB", bytes("db/db"), bytes("config/checkpoint"));
    drop((config, recipients, store));
    // in a process of its own: memory is what is measured
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["scale::a_start_with_many_recipients", "--exact", "--ignored", "--nocapture"]);
    again.env(DIR, dir.path()).env(COUNT, count.to_string()).env(REVISION, revision.to_string());
    assert!(again.status().unwrap().success());
}

#[test]
#[ignore = "called by the test above"]
fn a_start_with_many_recipients() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (count, started) = (number(COUNT) as usize, Instant::now());
    let (store, report) = Embedded::open(Options::new(dir), Arc::new(RealDisk)).unwrap();
    assert_eq!(report.rebuilt, None, "the database need not be made anew");
    println!("opened again in {:.1} s, memory {:?} MB", started.elapsed().as_secs_f64(), memory());
    assert_eq!(store.revision(), number(REVISION));
    let store = Arc::new(store);
    let recipients = StoredRecipients(store.clone());
    for _ in 0..4 {
        println!("{}, memory {:?} MB", look_up(&recipients, count), memory());
    }
    assert!(recipients.by_address("given7.surname7@example.com").unwrap().is_some(), "it was stamped");
    store.close();
}
