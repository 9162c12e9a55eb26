//! The whole store on the real disk.

mod copies;

use super::disk::RealDisk;
use super::*;
use crate::store::contract;

struct OnDisk(tempfile::TempDir);

impl contract::Engine for OnDisk {
    type Store = Embedded;

    fn open(&self) -> Embedded {
        open(self.0.path()).0
    }
}

fn open(path: &Path) -> (Embedded, OpenReport) {
    let options = Options { tracking_bytes: 256 << 20, ..Options::new(path.join("data")) };
    Embedded::open(options, Arc::new(RealDisk)).unwrap()
}

#[test]
fn the_contract_is_kept() {
    contract::suite(|| OnDisk(tempfile::tempdir().unwrap()));
}

fn options(path: &Path) -> Options {
    Options { segment_size: 256 << 10, ..Options::new(path.join("data")) }
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, report) = open(dir.path());
    assert!(report.created);
    let second = Embedded::open(Options::new(dir.path().join("data")), Arc::new(RealDisk)).err().unwrap();
    assert!(second.to_string().contains("in use by another process"), "{second}");
    drop(store);
    let (_, report) = open(dir.path());
    assert!(!report.created);
}

#[test]
fn a_newer_store_is_refused_with_words() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let path = dir.path().join("data/store");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    let sum = *blake3::hash(&bytes[..28]).as_bytes();
    bytes[28..].copy_from_slice(&sum);
    fs::write(&path, bytes).unwrap();
    let refused = Embedded::open(Options::new(dir.path().join("data")), Arc::new(RealDisk)).err().unwrap();
    assert!(refused.to_string().contains("newer version"), "{refused}");
}

#[test]
fn a_journal_of_a_newer_format_is_refused_with_words() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    contract::run(async { contract::put(&store, b"x", 1, &["a"]).await });
    drop(store);
    let journal = dir.path().join("data/journal");
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "seg");
    let segment = fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path()).find(is_segment).unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let at = super::journal::segment::SEGMENT_HEADER as usize - 32;
    bytes[8] = 99;
    let sum = *blake3::hash(&bytes[..at]).as_bytes();
    bytes[at..at + 32].copy_from_slice(&sum);
    fs::write(&segment, bytes).unwrap();
    let refused = Embedded::open(Options::new(dir.path().join("data")), Arc::new(RealDisk)).err().unwrap();
    assert!(refused.to_string().contains("has format 99; this program reads formats up to 3"), "{refused}");
}

#[test]
fn files_are_ours_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let place = |path: &str| dir.path().join("data").join(path);
    let mode = |path: &str| fs::metadata(place(path)).unwrap().permissions().mode() & 0o777;
    for path in ["", "config", "db", "journal", "large", "requests", "tracking"] {
        assert_eq!(mode(path), 0o700, "{path}");
    }
    drop(store);
    fs::set_permissions(place("db"), fs::Permissions::from_mode(0o755)).unwrap();
    let _store = open(dir.path());
    assert_eq!(mode("db"), 0o750, "a group may have been given the volume, others have no business there");
    for path in ["config/checkpoint", "config/log", "store"] {
        assert_eq!(mode(path), 0o600, "{path}");
    }
}

/// Mail in every state, spread over many segments; then the database is lost.
#[test]
fn a_lost_database_is_rebuilt_with_the_same_queue() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Embedded::open(options(dir.path()), Arc::new(RealDisk)).unwrap();
    contract::run(async {
        let writes = vec![("object/a".to_owned(), Some(vec![1; 5_000]))];
        ConfigStore::commit(&store, 0, writes).await.unwrap();
        store.set("control", Some(b"1".to_vec())).await.unwrap();
        for n in 0..300i64 {
            let leased = contract::put(&store, &vec![n as u8; 5_000], n, &["a", "b"]).await;
            match n % 3 {
                0 => store.release(leased.leases),
                1 => {
                    let change = contract::delivered(&leased.message, &[0]);
                    store.record(leased.leases, change, vec![], false).await.unwrap();
                }
                _ => {
                    let change = contract::delivered(&leased.message, &[0, 1]);
                    store.record(leased.leases, change, vec![], false).await.unwrap();
                }
            }
        }
    });
    let look = |store: &Embedded| {
        contract::run(async {
            let page = store.page(None, None, 1_000).await.unwrap();
            let last = page.last().unwrap().0.id;
            assert_eq!(contract::read(store, last).await.len(), 5_000);
            (page, store.queues(), store.get("object/a").unwrap(), store.all(""))
        })
    };
    let before = look(&store);
    assert_eq!(before.0.len(), 200);
    drop(store);
    for loss in ["nothing", "directory", "tail", "old"] {
        let db = dir.path().join("data/db");
        match loss {
            "directory" => fs::remove_dir_all(&db).unwrap(),
            "tail" => {
                let file = fs::OpenOptions::new().write(true).open(db.join("db")).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }
            "old" => fs::write(db.join("conf"), b"segment_size: 1").unwrap(),
            _ => fs::write(db.join("snap.0000000000000001.generating"), b"x").unwrap(),
        }
        let (store, report) = Embedded::open(options(dir.path()), Arc::new(RealDisk)).unwrap();
        if loss == "old" {
            assert!(report.rebuilt.is_some(), "said so");
        }
        assert!(report.damaged.is_empty());
        assert_eq!(look(&store), before, "after losing {loss}");
    }
}

#[test]
fn large_content_streams_both_ways() {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: usize = 1_600; // 100 MiB
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    contract::run(async {
        let mut draft = store.begin().unwrap();
        for n in 0..CHUNKS {
            draft.append(bytes::Bytes::from(vec![n as u8; CHUNK])).await.unwrap();
            assert!(store.intake.memory.load(Ordering::Relaxed) <= 1 << 20, "memory stays bounded");
        }
        let message = contract::message(draft.id(), draft.size(), 1, &["a"]);
        let leased = draft.commit(message).await.unwrap();
        assert!(leased.content.is_none());
        let mut reader = store.content(leased.message.id).await.unwrap();
        let mut count = 0;
        while let Some(chunk) = reader.next().await.unwrap() {
            assert!(chunk.iter().all(|byte| *byte == count as u8) && chunk.len() == CHUNK);
            count += 1;
        }
        assert_eq!(count, CHUNKS);
        // its end frees the space
        let change = contract::delivered(&leased.message, &[0]);
        store.record(leased.leases, change, vec![], true).await.unwrap();
        let path = large_path(&dir.path().join("data/large"), leased.message.id);
        for _ in 0..100 {
            if !path.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!path.exists());
        assert_eq!(store.health().alive_bytes, 0);
    });
}

#[test]
fn much_content_at_once_stays_out_of_memory() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { content_memory: 100_000, ..Options::new(dir.path().join("data")) };
    let (store, _) = Embedded::open(options, Arc::new(RealDisk)).unwrap();
    contract::run(async {
        let mut leased = Vec::new();
        for n in 0..20u8 {
            leased.push(contract::put(&store, &vec![n; 10_000], i64::from(n), &["a"]).await);
        }
        assert!(leased.iter().any(|leased| leased.content.is_none()));
        for (n, leased) in leased.iter().enumerate() {
            assert_eq!(contract::read(&store, leased.message.id).await, vec![n as u8; 10_000]);
        }
        drop(leased);
        assert_eq!(store.intake.memory.load(Ordering::Relaxed), 0);
    });
}

/// After a long day the journal is as small as what lives.
#[test]
fn space_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Embedded::open(options(dir.path()), Arc::new(RealDisk)).unwrap();
    contract::run(async {
        let stays = contract::put(&store, &[7; 9_000], 0, &["z"]).await;
        store.release(stays.leases);
        for n in 0..2_000 {
            let leased = contract::put(&store, &[1; 9_000], n, &["a"]).await;
            let change = contract::delivered(&leased.message, &[0]);
            store.record(leased.leases, change, vec![], false).await.unwrap();
        }
        for _ in 0..100 {
            if store.health().journal_bytes <= 6 * (256 << 10) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let health = store.health();
        assert!(health.journal_bytes <= 6 * (256 << 10), "{health:?}");
        assert_eq!(contract::read(&store, stays.message.id).await, vec![7; 9_000]);
    });
}

/// Not a test: `cargo test --release --lib store::embedded::tests::measure -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measure() {
    for (producers, fill_ahead) in [(1usize, 0), (1, 1 << 20), (10, 0), (10, 1 << 20), (100, 0), (100, 1 << 20)] {
        let dir = tempfile::tempdir_in(".").unwrap();
        let options = Options { fill_ahead, ..Options::new(dir.path().join("data")) };
        let (store, _) = Embedded::open(options, Arc::new(RealDisk)).unwrap();
        let store = Arc::new(store);
        let each = if producers == 1 { 3_000 } else { 60_000 / producers };
        let begin = std::time::Instant::now();
        contract::run(async {
            let mut tasks = Vec::new();
            for _ in 0..producers {
                let store = store.clone();
                tasks.push(tokio::spawn(async move {
                    let content = bytes::Bytes::from(vec![b'x'; 10_240]);
                    for n in 0..each {
                        let mut draft = store.begin().unwrap();
                        draft.append(content.clone()).await.unwrap();
                        let message = contract::message(draft.id(), draft.size(), n as i64, &["a"]);
                        let leased = draft.commit(message).await.unwrap();
                        if n % 2 == 0 {
                            let change = contract::delivered(&leased.message, &[0]);
                            store.record(leased.leases, change, vec![], false).await.unwrap();
                        } else {
                            store.release(leased.leases);
                        }
                    }
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
        });
        let taken = begin.elapsed();
        let total = (each * producers) as f64;
        println!(
            "{producers} producers, {fill_ahead} ahead: {:.0} durable commits a second",
            total / taken.as_secs_f64()
        );
        for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let Some((name, rest)) = stat.split_once(") ") else { continue };
            let fields: Vec<&str> = rest.split(' ').collect();
            let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
            if ticks > 2.0 {
                println!("  {} {:.1} µs of CPU a message", name.split_once('(').unwrap().1, ticks * 10_000.0 / total);
            }
        }
        println!("  {:?}", store.health());
        let drained = std::time::Instant::now();
        let count = contract::run(async {
            let mut count = 0;
            loop {
                let leased = store.lease(&contract::queue("a"), contract::at(1 << 40), 500).await.unwrap();
                if leased.is_empty() {
                    break count;
                }
                for leased in leased {
                    contract::read(&*store, leased.message.id).await;
                    let change = contract::delivered(&leased.message, &[0]);
                    store.record(leased.leases, change, vec![], false).await.unwrap();
                    count += 1;
                }
            }
        });
        println!("  drained {:.0} a second, one by one", f64::from(count) / drained.elapsed().as_secs_f64());
        store.close();
    }
}

/// sled has only a part of a large change when the process ends: the next one fills it anew.
#[test]
fn a_large_change_that_the_database_has_not_taken_in_is_there_after_a_start() {
    const MANY: usize = 60_000;
    let dir = tempfile::tempdir().unwrap();
    let key = |n: usize| format!("large/{n:06}");
    let store = Arc::new(open(dir.path()).0);
    contract::run(async {
        let writes = (0..10).map(|n| (key(n * 1_000), Some(vec![1; 100]))).collect();
        ConfigStore::commit(&*store, 0, writes).await.unwrap();
        let mut draft = store.clone().draft();
        for n in 0..MANY {
            draft.write(&key(n), (n != 5_000).then(|| vec![2; 200])).unwrap();
        }
        assert_eq!(draft.commit(1).await.unwrap(), 2);
        let after = vec![(key(3_000), Some(vec![3]))];
        assert_eq!(ConfigStore::commit(&*store, 2, after).await.unwrap(), 3);
    });
    store.close();
    drop(store);
    let store = open(dir.path()).0;
    assert_eq!(store.revision(), 3);
    assert_eq!((store.get(&key(3_000)).unwrap(), store.get(&key(5_000)).unwrap()), (Some(vec![3]), None));
    let (mut after, mut count) = (None, 0);
    while let Some((last, _)) = store.scan("large/", after.as_deref(), 10_000).unwrap().last().cloned() {
        count += store.scan("large/", after.as_deref(), 10_000).unwrap().len();
        after = Some(last);
    }
    assert_eq!(count, MANY - 1);
    store.close();
}

/// Mail with keys comes and goes until its segments are gone; then the process is killed, and then the database is lost.
#[test]
fn the_keys_of_requests_outlive_mail_segments_and_database() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Embedded::open(options(dir.path()), Arc::new(RealDisk)).unwrap();
    let key = |n: u32| std::array::from_fn(|index| n.to_le_bytes()[index % 4]);
    let now = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());
    let mut ids = Vec::new();
    contract::run(async {
        for n in 0..400u32 {
            let mut draft = store.begin().unwrap();
            draft.append(bytes::Bytes::from(vec![0; 5_000])).await.unwrap();
            let mut message = contract::message(draft.id(), draft.size(), 0, &["a"]);
            message.received_at = now;
            message.idempotency = Some(crate::model::mail::Idempotency { key: key(n), request: [1; 32] });
            let leased = draft.commit(message).await.unwrap();
            ids.push(leased.message.id);
            let change = contract::delivered(&leased.message, &[0]);
            store.record(leased.leases, change, vec![], false).await.unwrap();
        }
    });
    let look = |store: &Embedded, when: &str| {
        for (n, id) in ids.iter().enumerate() {
            match contract::run(store.known(&key(n as u32))).unwrap() {
                Known::Seen(seen) => assert_eq!((seen.id, seen.at), (*id, now), "{when}: {n}"),
                other => panic!("{when}: {n} is {other:?}"),
            }
        }
    };
    look(&store, "while it runs");
    // what a killed process leaves: the files as they are at this moment
    let killed = tempfile::tempdir().unwrap();
    copy(&dir.path().join("data"), &killed.path().join("data"));
    let (again, _) = Embedded::open(options(killed.path()), Arc::new(RealDisk)).unwrap();
    look(&again, "after a kill");
    drop(again);
    drop(store);
    fs::remove_dir_all(dir.path().join("data/db")).unwrap();
    let segments = fs::read_dir(dir.path().join("data/journal")).unwrap().count();
    assert!(segments < 8, "{segments} segments: what is looked for here is gone from the journal");
    let (again, _) = Embedded::open(options(dir.path()), Arc::new(RealDisk)).unwrap();
    look(&again, "after the database was lost");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target)),
        }
    }
}
