//! Backup, restore and doctor on the real disk.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::store::archive::{ArchiveError, Checked, Reader};

/// A store with mail in every state, large content, configuration, request keys, tracking and a mailbox.
struct World {
    dir: tempfile::TempDir,
    contents: BTreeMap<MessageId, Vec<u8>>,
}

impl World {
    fn options(&self) -> Options {
        Options { large_above: 20_000, ..options(self.dir.path()) }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn new() -> (World, Embedded) {
        let mut world = World { dir: tempfile::tempdir().unwrap(), contents: BTreeMap::new() };
        let (store, _) = Embedded::open(world.options(), Arc::new(RealDisk)).unwrap();
        let mailbox = world.data().join("mail/default/ada/new");
        fs::create_dir_all(&mailbox).unwrap();
        fs::write(mailbox.join("1.bridgehead,S=6"), b"letter").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", mailbox.join("link")).unwrap();
        contract::run(async {
            ConfigStore::commit(&store, 0, vec![("object/a".to_owned(), Some(vec![1; 5_000]))]).await.unwrap();
            store.set("control", Some(b"1".to_vec())).await.unwrap();
            TrackingStore::append(&store, br#"{"message":null,"event":"received"}"#.to_vec());
            for n in 0..120i64 {
                let content = vec![n as u8; if n % 20 == 0 { 50_000 } else { 5_000 }];
                let mut draft = store.begin().unwrap();
                draft.append(content.clone().into()).await.unwrap();
                let mut message = contract::message(draft.id(), draft.size(), n, &["a"]);
                if n == 0 {
                    // (remembered for a day only)
                    message.received_at = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());
                    message.idempotency = Some(crate::model::mail::Idempotency { key: [7; 32], request: [8; 32] });
                }
                let leased = draft.commit(message).await.unwrap();
                if n % 3 == 1 {
                    let change = contract::delivered(&leased.message, &[0]);
                    store.record(leased.leases, change, vec![], true).await.unwrap();
                } else {
                    world.contents.insert(leased.message.id, content);
                    store.release(leased.leases);
                }
            }
        });
        (world, store)
    }

    /// The archive of a store.
    fn archive(store: &Embedded) -> Vec<u8> {
        contract::run(async { drain(store.backup().await.unwrap()).await })
    }
}

async fn drain(mut copying: Copying) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = copying.chunks.recv().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    bytes
}

fn restored(archive: &[u8], dir: &Path) -> Result<Restored, RestoreError> {
    restore(archive, &dir.join("data"), true, &mut |_, _| {})
}

/// Everything that must be in a restored store is.
fn require(world: &World, dir: &Path) {
    let (store, report) = Embedded::open(Options { large_above: 20_000, ..options(dir) }, Arc::new(RealDisk)).unwrap();
    assert!(report.damaged.is_empty(), "{report:?}");
    assert!(!report.created);
    contract::run(async {
        for (id, content) in &world.contents {
            assert_eq!(&contract::read(&store, *id).await, content, "{id}");
        }
        assert_eq!(store.page(None, None, 1_000).await.unwrap().len(), world.contents.len(), "none that was done");
        assert_eq!(store.get("object/a").unwrap(), Some(vec![1; 5_000]));
        assert_eq!(store.all("control").len(), 1);
        assert!(matches!(Spool::known(&store, &[7; 32]).await.unwrap(), Known::Seen(_)));
        assert!(store.history().files >= 1);
    });
    assert_eq!(fs::read(dir.join("data/mail/default/ada/new/1.bridgehead,S=6")).unwrap(), b"letter");
    assert!(!dir.join("data/mail/default/ada/new/link").exists());
}

#[test]
fn a_restored_store_has_everything() {
    let (world, store) = World::new();
    let archive = World::archive(&store);
    let end = Reader::open(&archive[..]).unwrap().read(&mut Checked).unwrap();
    assert_eq!(end.left_out, 1, "the link");
    let to = tempfile::tempdir().unwrap();
    let restored = restored(&archive, to.path()).unwrap();
    assert!(to_be_held(&to.path().join("data")).unwrap().unwrap().starts_with("backup of "));
    assert_eq!(restored.manifest.revision, 1);
    let found = examine(&to.path().join("data")).unwrap();
    assert!(found.is_well(), "{found:?}");
    assert_eq!(found.messages, world.contents.len() as u64);
    for path in ["data", "data/journal", "data/config", "data/mail/default/ada"] {
        assert_eq!(fs::metadata(to.path().join(path)).unwrap().permissions().mode() & 0o777, 0o700, "{path}");
    }
    require(&world, to.path());
    // and so has a copy of a store that was closed and opened
    drop(store);
    let (store, _) = Embedded::open(world.options(), Arc::new(RealDisk)).unwrap();
    let archive = World::archive(&store);
    let to = tempfile::tempdir().unwrap();
    restore(&archive[..], &to.path().join("data"), false, &mut |_, _| {}).unwrap();
    assert!(to_be_held(&to.path().join("data")).unwrap().is_none(), "as was asked for");
    require(&world, to.path());
}

/// Mail comes, is delivered and its segments are reclaimed while backups are taken.
#[test]
fn a_backup_under_load_has_all_that_was_acknowledged_before() {
    let dir = tempfile::tempdir().unwrap();
    let small = |dir: &Path| Options { large_above: 20_000, segment_size: 64 << 10, ..options(dir) };
    let (store, _) = Embedded::open(small(dir.path()), Arc::new(RealDisk)).unwrap();
    let store = Arc::new(store);
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged: Arc<Mutex<BTreeMap<MessageId, u8>>> = Arc::default();
    contract::run(async {
        let load = |seed: u8| {
            let (store, stop, acknowledged) = (store.clone(), stop.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut n = 0u32;
                while !stop.load(Ordering::Acquire) {
                    n += 1;
                    let size = if n.is_multiple_of(5) { 40_000 } else { 3_000 };
                    let leased = contract::put(&*store, &vec![seed; size], i64::from(n), &["a"]).await;
                    let id = leased.message.id;
                    if n.is_multiple_of(7) {
                        acknowledged.lock().unwrap().insert(id, seed);
                        store.release(leased.leases);
                    } else {
                        let change = contract::delivered(&leased.message, &[0]);
                        store.record(leased.leases, change, vec![], n.is_multiple_of(2)).await.unwrap();
                    }
                }
            })
        };
        let loads: Vec<_> = (1..=4).map(load).collect();
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            let before = acknowledged.lock().unwrap().clone();
            let copying = store.backup().await.unwrap();
            // a slow reader, so that much is reclaimed meanwhile
            tokio::time::sleep(Duration::from_millis(300)).await;
            let archive = drain(copying).await;
            let to = tempfile::tempdir().unwrap();
            restored(&archive, to.path()).unwrap();
            let found = examine(&to.path().join("data")).unwrap();
            assert!(found.is_well(), "{found:?}");
            let (copy, report) = Embedded::open(small(to.path()), Arc::new(RealDisk)).unwrap();
            assert!(report.damaged.is_empty(), "{report:?}");
            for (id, seed) in &before {
                let content = contract::read(&copy, *id).await;
                assert!(content.iter().all(|octet| octet == seed), "{id}");
            }
            // none is half there either: what came later, and what was under way
            for (_, message) in copy.page(None, None, 1_000).await.unwrap() {
                assert_eq!(contract::read(&copy, message.id).await.len() as u64, message.size);
            }
        }
        stop.store(true, Ordering::Release);
        for load in loads {
            load.await.unwrap();
        }
    });
    assert!(acknowledged.lock().unwrap().len() > 20);
}

/// What ends while a backup runs is in it all the same: its large content stays until it was read.
#[test]
fn large_content_is_pinned_until_it_was_read_or_the_reader_has_gone() {
    let (world, store) = World::new();
    let large = || fs::read_dir(world.data().join("large")).unwrap().count();
    contract::run(async {
        // more than the pieces on their way hold
        for n in 0..8 {
            let leased = contract::put(&store, &[n; 400_000], i64::from(n), &["a"]).await;
            store.release(leased.leases);
        }
        let before = large();
        assert!(before >= 12);
        let copying = store.backup().await.unwrap();
        for (_, message) in store.page(None, None, 1_000).await.unwrap() {
            let leased = store.lease_message(message.id).await.unwrap();
            let change = contract::delivered(&leased.message, &[0]);
            store.record(leased.leases, change, vec![], true).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(large(), before, "pinned");
        assert!(matches!(store.backup().await, Err(BackupError::Running)), "one at a time");
        drop(copying);
        let gone = || async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            large() == 0
        };
        for _ in 0..100 {
            if gone().await {
                break;
            }
        }
        assert_eq!(large(), 0, "let go of");
        // and the next may begin
        drain(store.backup().await.unwrap()).await;
    });
}

#[test]
fn a_damaged_or_cut_archive_leaves_the_directory_empty() {
    let (_world, store) = World::new();
    let archive = World::archive(&store);
    let to = tempfile::tempdir().unwrap();
    let data = to.path().join("data");
    let is_empty = || {
        let names: Vec<_> = fs::read_dir(&data).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect();
        names.iter().all(|name| name == "lock")
    };
    for len in [0, 100, 5_000, archive.len() / 2, archive.len() - 1] {
        let refused = restored(&archive[..len], to.path()).unwrap_err();
        assert!(matches!(refused, RestoreError::Archive(ArchiveError::Cut { .. })), "{len}: {refused}");
        assert!(is_empty(), "{len}");
    }
    // a bit in a file of every kind
    let text = |at: usize| String::from_utf8_lossy(&archive[at..at + 100]).trim_end_matches('\0').to_owned();
    let mut kinds = std::collections::BTreeSet::new();
    for at in (0..archive.len()).step_by(512).filter(|at| archive[at + 257..].starts_with(b"ustar")) {
        let name = text(at);
        let kind = name.split('/').take(2).collect::<Vec<_>>().join("/");
        if !kinds.insert(kind) || archive[at + 512] == 0 {
            continue;
        }
        let mut flipped = archive.clone();
        flipped[at + 512] ^= 4;
        let refused = restored(&flipped, to.path()).unwrap_err();
        assert!(matches!(refused, RestoreError::Archive(ArchiveError::Damaged { .. })), "{name}: {refused}");
        assert!(is_empty(), "{name}");
    }
    for kind in
        ["data/store", "data/config", "data/journal", "data/large", "data/requests", "data/tracking", "data/mail"]
    {
        assert!(kinds.contains(kind), "{kind} is not in {kinds:?}");
    }
    restored(&archive, to.path()).unwrap();
    let refused = restored(&archive, to.path()).unwrap_err();
    assert!(refused.to_string().contains("is not empty"), "{refused}");
}

#[test]
fn half_a_restore_is_no_store() {
    let (_world, store) = World::new();
    let to = tempfile::tempdir().unwrap();
    restored(&World::archive(&store), to.path()).unwrap();
    let data = to.path().join("data");
    fs::create_dir(data.join("restoring")).unwrap();
    let refused = Embedded::open(options(to.path()), Arc::new(RealDisk)).err().unwrap();
    assert!(refused.to_string().contains("a restore was not finished"), "{refused}");
    assert_eq!(examine(&data).unwrap().findings[0].file, "restoring");
}

/// The octet of a file at a place (from its end when negative), changed.
fn flip(path: &Path, at: i64) {
    let mut bytes = fs::read(path).unwrap();
    let at = if at < 0 { bytes.len() - at.unsigned_abs() as usize } else { at as usize };
    bytes[at] ^= 0x20;
    fs::write(path, bytes).unwrap();
}

/// A new file, the owner's alone.
fn put(path: &Path) {
    fs::write(path, b"x").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn first(dir: &Path, end: &str) -> PathBuf {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.to_string_lossy().ends_with(end));
    all.sort();
    all.into_iter().next().unwrap()
}

/// A store that was closed properly, and what a doctor says to it after something was done to it.
fn diagnosed(harm: impl FnOnce(&Path, &World)) -> (World, Diagnosis) {
    let (world, store) = World::new();
    drop(store);
    let before = examine(&world.data()).unwrap();
    assert!(before.is_well(), "{before:?}");
    harm(&world.data(), &world);
    let diagnosis = examine(&world.data()).unwrap();
    (world, diagnosis)
}

#[track_caller]
fn requires(diagnosis: &Diagnosis, severity: Severity, file: &str, what: &str) {
    let found = diagnosis
        .findings
        .iter()
        .any(|finding| finding.severity == severity && finding.file.starts_with(file) && finding.what.contains(what));
    assert!(found, "{severity:?} {file} {what}: {diagnosis:#?}");
}

#[test]
fn damage_of_every_kind_is_named() {
    #[allow(clippy::type_complexity, reason = "a table of four columns")]
    let damage: &[(&str, Severity, &str, fn(&Path))] = &[
        ("store", Severity::Error, "checksum", |data| flip(&data.join("store"), 20)),
        ("config/checkpoint", Severity::Error, "checksum", |data| flip(&data.join("config/checkpoint"), 30)),
        ("config/log", Severity::Error, "unreadable at", |data| flip(&data.join("config/log"), 120)),
        ("config/log", Severity::Error, "missing", |data| fs::remove_file(data.join("config/log")).unwrap()),
        ("journal/0000000000000001.seg", Severity::Error, "header is damaged", |data| {
            flip(&first(&data.join("journal"), ".seg"), 60)
        }),
        (
            "journal/0000000000000001.seg",
            Severity::Error,
            "a record of message",
            // the head of the first record
            |data| flip(&first(&data.join("journal"), ".seg"), 4_096 + 20),
        ),
        ("large/", Severity::Error, "does not fit its checksum", |data| flip(&first(&data.join("large"), ""), 40_000)),
        ("large/", Severity::Error, "No such file", |data| fs::remove_file(first(&data.join("large"), "")).unwrap()),
        ("requests/", Severity::Warning, "cannot be read", |data| flip(&first(&data.join("requests"), ".log"), 3)),
        ("tracking/", Severity::Warning, "no events", |data| {
            let file = first(&data.join("tracking"), ".jsonl");
            fs::write(file, b"{\"event\": nonsense}\n{}\n").unwrap();
        }),
        ("db", Severity::Warning, "does not fit", |data| fs::write(data.join("db/conf"), b"segment_size: 1").unwrap()),
        ("journal/", Severity::Warning, "can be opened by others", |data| {
            let file = first(&data.join("journal"), ".seg");
            fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
        }),
        ("strange", Severity::Notice, "none of ours", |data| fs::write(data.join("strange"), b"x").unwrap()),
        ("large/x.tmp", Severity::Notice, "temporary", |data| put(&data.join("large/x.tmp"))),
        ("large/", Severity::Notice, "belongs to no message", |data| {
            put(&data.join("large").join(MessageId::generate().to_string()))
        }),
    ];
    for (file, severity, what, harm) in damage {
        let (_, diagnosis) = diagnosed(|data, _| harm(data));
        requires(&diagnosis, *severity, file, what);
        assert_eq!(diagnosis.is_well(), *severity == Severity::Notice, "{file} {what}");
    }
}

#[test]
fn a_segment_that_is_gone_from_the_middle_is_missed() {
    let (_, diagnosis) = diagnosed(|data, _| {
        let mut all: Vec<_> = fs::read_dir(data.join("journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.retain(|path| path.extension().is_some_and(|end| end == "seg"));
        all.sort();
        assert!(all.len() >= 3, "{all:?}");
        fs::remove_file(&all[1]).unwrap();
    });
    requires(&diagnosis, Severity::Error, "journal/", "are missing before it");
}

#[test]
fn nothing_is_changed_by_looking() {
    let (world, store) = World::new();
    // as a kill leaves it
    std::mem::forget(store);
    let kept = tempfile::tempdir().unwrap();
    let data = kept.path().join("data");
    let copied = std::process::Command::new("cp").arg("-a").arg(world.data()).arg(&data).status().unwrap();
    assert!(copied.success());
    fs::remove_file(data.join("lock")).unwrap();
    fs::write(data.join("large/x.tmp"), b"x").unwrap();
    flip(&first(&data.join("journal"), ".seg"), 4_096 + 20);
    let look = || {
        let mut all = BTreeMap::new();
        let mut dirs = vec![data.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                if meta.is_dir() {
                    dirs.push(path.clone());
                }
                let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                all.insert(path, (meta.permissions().mode(), meta.modified().unwrap(), blake3::hash(&content)));
            }
        }
        all
    };
    let before = look();
    let found = examine(&data).unwrap();
    assert!(!found.is_well());
    assert!(look() == before, "a file was touched");
}

#[test]
fn an_open_store_is_not_looked_at() {
    let (world, _store) = World::new();
    for refused in [examine(&world.data()).err(), repair(&world.data(), &Diagnosis::default()).err()] {
        assert!(matches!(refused, Some(OpenError::InUse(_))), "{refused:?}");
    }
    let nothing = tempfile::tempdir().unwrap();
    assert!(examine(nothing.path()).is_err());
    assert!(examine(&nothing.path().join("x")).is_err());
}

#[test]
fn what_can_be_repaired_is_and_nothing_is_deleted() {
    let mut damaged = None;
    let mut lost = None;
    let (world, diagnosis) = diagnosed(|data, world| {
        let file = first(&data.join("large"), "");
        lost = Some(file.file_name().unwrap().to_str().unwrap().parse::<MessageId>().unwrap());
        flip(&file, 40_000);
        // the content of a small message: where 5,000 octets of its number lie
        let segment = first(&data.join("journal"), ".seg");
        let bytes = fs::read(&segment).unwrap();
        let (id, content) = world.contents.iter().find(|(_, content)| content.len() == 5_000).unwrap();
        let at = bytes.windows(5_000).position(|window| window == &content[..]).unwrap();
        damaged = Some(*id);
        flip(&segment, at as i64 + 7);
        fs::write(data.join("large/x.tmp"), b"x").unwrap();
        fs::write(data.join("db/conf"), b"segment_size: 1").unwrap();
        fs::set_permissions(data.join("config/log"), fs::Permissions::from_mode(0o666)).unwrap();
    });
    let (damaged, lost) = (damaged.unwrap(), lost.unwrap());
    requires(&diagnosis, Severity::Error, "journal/", &damaged.to_string());
    requires(&diagnosis, Severity::Error, &format!("large/{lost}"), "checksum");
    let done = repair(&world.data(), &diagnosis).unwrap();
    assert!(done.len() >= 5, "{done:?}");
    let after = examine(&world.data()).unwrap();
    assert!(after.is_well(), "{done:?} {after:#?}");
    let aside = fs::read_dir(world.data().join("aside")).unwrap().count();
    assert_eq!(aside, 1, "the temporary file");
    assert!(world.data().join("db.aside").exists());
    let (store, report) = Embedded::open(world.options(), Arc::new(RealDisk)).unwrap();
    assert!(report.damaged.is_empty(), "{report:?}");
    contract::run(async {
        for (id, content) in &world.contents {
            let message = store.message(*id).await.unwrap().expect("its envelope at least");
            if [damaged, lost].contains(id) {
                assert!(message.frozen, "a dead letter");
                assert!(matches!(store.content(*id).await, Err(StoreError::Damaged(_))));
            } else {
                assert_eq!(&contract::read(&store, *id).await, content);
            }
        }
    });
}
