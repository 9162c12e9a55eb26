//! How a large directory does: run by hand, with figures on stdout.
//!
//! `BRIDGEHEAD_SCALE=1000000 cargo test --release --test it scale -- --ignored --nocapture`

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

/// Microseconds a look-up takes, over addresses that lie apart.
fn look_up(recipients: &StoredRecipients, count: usize) -> f64 {
    let started = Instant::now();
    const LOOKS: usize = 20_000;
    for n in 0..LOOKS {
        let n = (n * 7_919) % count;
        let key = format!("u{n:07}@example.com");
        assert!(recipients.by_address(&key).unwrap().is_some(), "{key}");
    }
    started.elapsed().as_secs_f64() * 1e6 / LOOKS as f64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; prints figures"]
async fn a_million_recipients() {
    let count: usize = std::env::var("BRIDGEHEAD_SCALE").map_or(100_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir_in(std::env::temp_dir()).unwrap();
    let open = || {
        let (store, report) = Embedded::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap();
        assert_eq!(report.rebuilt, None, "the database need not be made anew");
        Arc::new(store)
    };
    let options = || OpenOptions {
        host_name: "relay.example.com".parse().unwrap(),
        now: Arc::new(|| Timestamp::EPOCH),
        secrets_dir: std::path::PathBuf::from("/nowhere"),
    };
    let store = open();
    let config = Configuration::open(store.clone(), options()).await.unwrap();
    config.first_start(&FirstStart { smtp_listen: "127.0.0.1:2525".parse().unwrap() }).await.unwrap();
    let recipients = StoredRecipients(store.clone());
    println!("start: {:?} MB", memory());

    let (mut done, started) = (0, Instant::now());
    let mut import = config.import(Actor::default(), false);
    while done < count {
        let batch = (done..(done + 1_000).min(count)).map(|n| (n as u64, Ok(line(n)))).collect();
        import.batch(batch).await.unwrap();
        done = (done + 1_000).min(count);
        if [1_000, 10_000, 100_000, 300_000, count].contains(&done) {
            let rate = done as f64 / started.elapsed().as_secs_f64();
            println!("{done}: {rate:.0}/s, look-up {:.1} µs, memory {:?} MB", look_up(&recipients, done), memory());
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
        println!("look-up right after: {:.1} µs", look_up(&recipients, count));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("look-up later: {:.1} µs, memory {:?} MB", look_up(&recipients, count), memory());
    let revision = store.revision();
    store.close();
    let bytes = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().len() >> 20;
    println!("on disk: database {} MB, configuration {} MB", bytes("db/db"), bytes("config/checkpoint"));
    drop((config, recipients, store));
    let started = Instant::now();
    let store = open();
    println!("opened again in {:.1} s, memory {:?} MB", started.elapsed().as_secs_f64(), memory());
    assert_eq!(store.revision(), revision);
    let recipients = StoredRecipients(store.clone());
    println!("look-up {:.1} µs", look_up(&recipients, count));
    assert!(recipients.by_address(&format!("given7.surname{}@example.com", 7)).unwrap().is_some());
    store.close();
}
