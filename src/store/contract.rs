//! What every engine must do, written against the traits. An engine calls [`suite`] with a way to open its store.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use super::history::Key;
use super::*;
use crate::model::mail::{
    Change, Message, MessageId, Origin, Protocol, Recipient, RecipientState, RecipientStatus, Waits,
};

/// Opens the same store again and again; the one before is dropped.
pub trait Engine {
    type Store: Store;
    fn open(&self) -> Self::Store;
}

/// Runs everything, each on an engine of its own.
pub fn suite<E: Engine>(engine: impl Fn() -> E) {
    committed_mail_is_here_and_comes_back(&engine());
    a_dropped_draft_leaves_nothing(&engine());
    leases_fence(&engine());
    outcomes_and_what_they_cause(&engine());
    an_envelope_is_replaced_and_the_content_stays(&engine());
    an_id_can_be_brought_along_once(&engine());
    caused_mail_can_have_the_content_of_its_cause(&engine());
    the_earliest_due_comes_first(&engine());
    frozen_mail_is_not_leased(&engine());
    pages_are_in_order_and_complete(&engine());
    configuration_compares_and_sets(&engine());
    a_draft_is_committed_whole_however_large(&engine());
    controls_survive(&engine());
    notes_survive_and_are_no_configuration(&engine());
    events_are_found(&engine());
}

pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

pub fn queue(name: &str) -> QueueName {
    QueueName::SmartHost(name.parse().unwrap())
}

/// A message with one recipient per queue, due and received at that time.
pub fn message(id: MessageId, size: u64, millis: i64, queues: &[&str]) -> Message {
    let recipient = |name: &&str| Recipient {
        forward_path: format!("{name}@example.com").parse().unwrap(),
        parameters: Default::default(),
        directory_name: None,
        status: RecipientStatus::Pending,
        waits: Some(Waits { queue: queue(name), due: at(millis) }),
        attempts: 0,
        delay_notified: false,
        last_failure: None,
    };
    Message {
        id,
        received_at: at(millis),
        origin: Origin {
            protocol: Protocol::Esmtp,
            virtual_server: "default".parse().unwrap(),
            client: Some([192, 0, 2, 1].into()),
            helo: Some("client.example.com".to_owned()),
            account: None,
            api_key: None,
        },
        reverse_path: "sender@example.com".parse().unwrap(),
        parameters: Default::default(),
        size,
        message_id_header: Some("1@example.com".to_owned()),
        subject: None,
        frozen: false,
        connector: None,
        idempotency: None,
        recipients: queues.iter().map(recipient).collect(),
    }
}

/// Every recipient of these is done.
pub fn delivered(message: &Message, recipients: &[u32]) -> Change {
    let state = |n: &u32| {
        let state = message.recipients[*n as usize].state();
        (*n, RecipientState { status: RecipientStatus::Relayed, waits: None, ..state })
    };
    Change { recipients: recipients.iter().map(state).collect(), frozen: None, connector: None }
}

pub fn deferred(message: &Message, recipient: u32, due: Timestamp) -> Change {
    let mut state = message.recipients[recipient as usize].state();
    state.attempts += 1;
    state.waits.as_mut().unwrap().due = due;
    Change { recipients: vec![(recipient, state)], frozen: None, connector: None }
}

pub async fn put(store: &impl Store, content: &[u8], millis: i64, queues: &[&str]) -> Leased {
    let mut draft = store.begin().unwrap();
    for piece in content.chunks(3_000) {
        draft.append(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    let message = message(draft.id(), draft.size(), millis, queues);
    draft.commit(message).await.unwrap()
}

pub async fn read(store: &impl Store, id: MessageId) -> Vec<u8> {
    let mut reader = store.content(id).await.unwrap();
    let mut content = Vec::new();
    while let Some(chunk) = reader.next().await.unwrap() {
        assert!(chunk.len() <= 64 << 10);
        content.extend_from_slice(&chunk);
    }
    content
}

fn an_envelope_is_replaced_and_the_content_stays(engine: &impl Engine) {
    let large: Vec<u8> = (0..700_000u32).map(|n| (n.wrapping_mul(n) >> 5) as u8).collect();
    let store = engine.open();
    let ids = run(async {
        let mut ids = Vec::new();
        for content in [b"a small one".as_slice(), &large] {
            let leased = put(&store, content, 0, &["a", "b"]).await;
            let id = leased.message.id;
            let mut message = Message::clone(&leased.message);
            message.parameters.hold = Some(crate::smtp::parameters::Hold::Until(1_800_000_000));
            for recipient in &mut message.recipients {
                recipient.waits = Some(Waits { queue: queue("c"), due: at(5) });
            }
            let amended = store.amend(leased.leases, message.clone()).await.unwrap();
            assert_eq!((&*amended.message, amended.leases.len()), (&message, 1));
            assert!(matches!(store.lease_message(id).await, Err(StoreError::Leased)));
            store.release(amended.leases);
            assert_eq!(store.lease(&queue("a"), at(100), 10).await.unwrap().len(), 0);
            // a lease that is over amends nothing
            let old = store.lease_message(id).await.unwrap();
            let again = old.leases.iter().map(|l| Lease { id, queue: l.queue.clone(), epoch: l.epoch }).collect();
            store.release(old.leases);
            assert!(matches!(store.amend(again, message.clone()).await, Err(StoreError::Leased)));
            assert_eq!(read(&store, id).await, content);
            ids.push((id, message, content.to_vec()));
        }
        let counts = store.queues();
        assert_eq!((counts.len(), counts[0].messages), (1, 2), "{counts:?}");
        ids
    });
    store.close();
    drop(store);
    let store = engine.open();
    run(async {
        for (id, message, content) in ids {
            let found = store.message(id).await.unwrap().expect("it is still here");
            assert_eq!(*found, message);
            assert_eq!(read(&store, id).await, content);
        }
    });
    store.close();
}

fn an_id_can_be_brought_along_once(engine: &impl Engine) {
    let store = engine.open();
    run(async {
        let id = MessageId::generate();
        let content = vec![b'x'; 700_000];
        let bring = async || {
            let mut draft = store.begin_with(id)?;
            draft.append(Bytes::from(content.clone())).await?;
            let message = message(draft.id(), draft.size(), 0, &["a"]);
            draft.commit(message).await
        };
        let first = bring().await.unwrap();
        assert!(matches!(bring().await, Err(StoreError::Exists)));
        let gone = delivered(&first.message, &[0]);
        store.record(first.leases, gone, Vec::new(), true).await.unwrap();
        // when what is left of the first one has been cleared away; never into its place before
        let mut again = bring().await;
        for _ in 0..400 {
            if again.is_ok() {
                break;
            }
            assert!(matches!(again, Err(StoreError::Exists)));
            tokio::time::sleep(Duration::from_millis(50)).await;
            again = bring().await;
        }
        assert_eq!(again.unwrap().message.id, id);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(read(&store, id).await, content);
    });
    store.close();
}

fn committed_mail_is_here_and_comes_back(engine: &impl Engine) {
    let content: Vec<u8> = (0..700_000u32).map(|n| (n.wrapping_mul(n) >> 5) as u8).collect();
    let store = engine.open();
    let (small, large, empty) = run(async {
        let small = put(&store, b"Subject: small\r\n\r\n", 1, &["a", "b"]).await;
        assert_eq!(small.leases.len(), 2);
        assert_eq!(small.content.as_deref(), Some(&b"Subject: small\r\n\r\n"[..]));
        let large = put(&store, &content, 2, &["a"]).await;
        let empty = put(&store, b"", 3, &["b"]).await;
        for (leased, expected) in [(&small, &b"Subject: small\r\n\r\n"[..]), (&large, &content), (&empty, b"")] {
            assert_eq!(read(&store, leased.message.id).await, expected);
            assert_eq!(store.message(leased.message.id).await.unwrap().as_ref(), Some(&leased.message));
        }
        let counts = store.queues();
        assert_eq!(counts.len(), 2);
        assert_eq!((counts[0].messages, counts[0].bytes), (2, 18 + 700_000));
        assert!(store.message(MessageId::generate()).await.unwrap().is_none());
        assert!(matches!(store.content(MessageId::generate()).await.err(), Some(StoreError::NotFound)));
        (small.message, large.message, empty.message)
    });
    store.close();
    drop(store);
    let store = engine.open();
    run(async {
        for (message, expected) in [(&small, &b"Subject: small\r\n\r\n"[..]), (&large, &content), (&empty, b"")] {
            assert_eq!(store.message(message.id).await.unwrap().as_ref(), Some(message));
            assert_eq!(read(&store, message.id).await, expected);
        }
        assert_eq!(store.queues()[0].bytes, 18 + 700_000);
        assert_eq!(store.lease(&queue("a"), at(100), 10).await.unwrap().len(), 2);
        assert!(matches!(store.health().writable, Ok(())));
    });
}

fn a_dropped_draft_leaves_nothing(engine: &impl Engine) {
    let store = engine.open();
    run(async {
        let mut draft = store.begin().unwrap();
        draft.append(Bytes::from(vec![1; 2 << 20])).await.unwrap();
        let id = draft.id();
        drop(draft);
        assert!(store.message(id).await.unwrap().is_none());
        let mut draft = store.begin().unwrap();
        draft.append(Bytes::from_static(b"x")).await.unwrap();
        let wrong = message(draft.id(), 2, 1, &["a"]);
        assert!(draft.commit(wrong).await.is_err(), "the envelope tells another size");
        assert!(store.queues().is_empty());
        assert!(store.page(None, None, 10).await.unwrap().is_empty());
    });
}

fn leases_fence(engine: &impl Engine) {
    let store = engine.open();
    run(async {
        let leased = put(&store, b"x", 1, &["a", "b"]).await;
        let id = leased.message.id;
        assert!(store.lease(&queue("a"), at(9), 10).await.unwrap().is_empty(), "the committer has it");
        assert!(matches!(store.lease_message(id).await, Err(StoreError::Leased)));
        let mut leases = leased.leases;
        let b = leases.pop().unwrap();
        store.release(leases);
        let mut again = store.lease(&queue("a"), at(9), 10).await.unwrap();
        assert_eq!(again.len(), 1);
        assert!(store.lease(&queue("a"), at(9), 10).await.unwrap().is_empty());
        let mine = again.pop().unwrap().leases;
        let stale = vec![Lease { id, queue: queue("a"), epoch: mine[0].epoch + 100 }];
        let change = delivered(&leased.message, &[0]);
        let late = store.record(stale, change.clone(), vec![], false).await;
        assert!(matches!(late, Err(StoreError::Leased)), "a lease that is not in force changes nothing");
        store.record(mine, change, vec![], false).await.unwrap();
        assert_eq!(store.message(id).await.unwrap().unwrap().recipients[0].waits, None, "seen at once");
        store.record(vec![b], delivered(&leased.message, &[1]), vec![], true).await.unwrap();
        assert!(store.message(id).await.unwrap().is_none(), "all done, gone");
        assert!(store.queues().is_empty());
        assert!(matches!(store.lease_message(id).await, Err(StoreError::NotFound)));
    });
}

fn outcomes_and_what_they_cause(engine: &impl Engine) {
    let store = engine.open();
    let (first, dsn) = run(async {
        let leased = put(&store, b"x", 1, &["a", "b"]).await;
        let id = MessageId::generate();
        let caused =
            Caused { message: message(id, 5, 2, &["c"]), content: Content::Bytes(Bytes::from_static(b"bound")) };
        let change = delivered(&leased.message, &[0]);
        let caused = store.record(leased.leases, change, vec![caused], false).await.unwrap();
        assert_eq!(caused.len(), 1);
        assert_eq!(caused[0].leases, [Lease { id, queue: queue("c"), epoch: caused[0].leases[0].epoch }]);
        assert_eq!(read(&store, id).await, b"bound");
        (leased.message.id, id)
    });
    store.close();
    drop(store);
    let store = engine.open();
    run(async {
        assert_eq!(read(&store, dsn).await, b"bound");
        let first = store.message(first).await.unwrap().unwrap();
        assert_eq!((first.recipients[0].waits.is_some(), first.recipients[1].waits.is_some()), (false, true));
    });
}

fn caused_mail_can_have_the_content_of_its_cause(engine: &impl Engine) {
    let store = engine.open();
    let large = vec![b'x'; 700 << 10];
    let copies = run(async {
        let mut copies = Vec::new();
        for content in [b"small".as_slice(), &large] {
            let leased = put(&store, content, 1, &["a"]).await;
            let ids = [MessageId::generate(), MessageId::generate()];
            let copy = |id| Caused {
                message: message(id, content.len() as u64, 2, &["c"]),
                content: Content::CopyOf(leased.message.id),
            };
            // the cause is done with this and goes
            let change = delivered(&leased.message, &[0]);
            store.record(leased.leases, change, ids.map(copy).to_vec(), true).await.unwrap();
            assert!(store.message(leased.message.id).await.unwrap().is_none());
            copies.extend(ids.map(|id| (id, content.to_vec())));
        }
        let leased = put(&store, b"x", 1, &["a"]).await;
        let nothing = Caused {
            message: message(MessageId::generate(), 1, 2, &["c"]),
            content: Content::CopyOf(MessageId::generate()),
        };
        let change = delivered(&leased.message, &[0]);
        let refused = store.record(leased.leases, change, vec![nothing], true).await;
        assert!(matches!(refused, Err(StoreError::NotFound)), "all or nothing");
        assert!(store.lease_message(leased.message.id).await.is_ok(), "and the lease has ended");
        copies
    });
    store.close();
    drop(store);
    let store = engine.open();
    run(async {
        for (id, content) in copies {
            assert_eq!(read(&store, id).await, content);
        }
    });
}

fn the_earliest_due_comes_first(engine: &impl Engine) {
    let store = engine.open();
    run(async {
        for n in [5, 3, 9, 1, 7] {
            let leased = put(&store, b"x", n, &["a"]).await;
            store.release(leased.leases);
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        for n in [4, 2] {
            let leased = put(&store, b"x", n, &["a"]).await;
            store.release(leased.leases);
        }
        assert_eq!(store.next_due(&queue("a")).await.unwrap(), Some(at(1)));
        assert_eq!(store.next_due(&queue("b")).await.unwrap(), None);
        let first = store.lease(&queue("a"), at(6), 3).await.unwrap();
        assert_eq!(first.iter().map(|leased| leased.message.received_at).collect::<Vec<_>>(), [at(1), at(2), at(3)]);
        assert_eq!(store.next_due(&queue("a")).await.unwrap(), Some(at(4)));
        let rest = store.lease(&queue("a"), at(6), 10).await.unwrap();
        assert_eq!(rest.iter().map(|leased| leased.message.received_at).collect::<Vec<_>>(), [at(4), at(5)]);
        // what comes back is found again, before what is due later
        let mut first = first.into_iter();
        let one = first.next().unwrap();
        store.release(one.leases);
        assert_eq!(store.next_due(&queue("a")).await.unwrap(), Some(at(1)));
        let two = first.next().unwrap();
        store.record(two.leases, deferred(&two.message, 0, at(50)), vec![], false).await.unwrap();
        let again = store.lease(&queue("a"), at(100), 10).await.unwrap();
        let times: Vec<_> = again.iter().map(|leased| leased.message.received_at).collect();
        assert_eq!(times, [at(1), at(7), at(9), at(2)], "by due time");
        assert_eq!(again[3].message.recipients[0].attempts, 1);
    });
}

fn frozen_mail_is_not_leased(engine: &impl Engine) {
    let store = engine.open();
    let id = run(async {
        let leased = put(&store, b"x", 1, &["a"]).await;
        let id = leased.message.id;
        let freeze = Change { recipients: vec![], frozen: Some(true), connector: None };
        store.record(leased.leases, freeze, vec![], true).await.unwrap();
        assert!(store.lease(&queue("a"), at(9), 10).await.unwrap().is_empty());
        assert_eq!(store.next_due(&queue("a")).await.unwrap(), None);
        assert_eq!(store.queues()[0].messages, 1);
        id
    });
    store.close();
    drop(store);
    let store = engine.open();
    run(async {
        assert!(store.message(id).await.unwrap().unwrap().frozen);
        assert!(store.lease(&queue("a"), at(9), 10).await.unwrap().is_empty());
        let leased = store.lease_message(id).await.unwrap();
        let thaw = Change { recipients: vec![], frozen: Some(false), connector: None };
        store.record(leased.leases, thaw, vec![], true).await.unwrap();
        assert_eq!(store.lease(&queue("a"), at(9), 10).await.unwrap().len(), 1);
    });
}

fn pages_are_in_order_and_complete(engine: &impl Engine) {
    let store = engine.open();
    run(async {
        let mut ids = Vec::new();
        for n in 0..60 {
            let leased = put(&store, b"x", 1_000 - n, if n % 3 == 0 { &["a"] } else { &["b"] }).await;
            ids.push(leased.message.id);
            store.release(leased.leases);
            if n == 30 {
                // some are in the database by then, some are not
                tokio::time::sleep(Duration::from_millis(600)).await;
            }
        }
        ids.reverse();
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = store.page(None, after, 7).await.unwrap();
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            seen.extend(page.into_iter().map(|(key, _)| key.id));
        }
        assert_eq!(seen, ids);
        let of_a = store.page(Some(&queue("a")), None, 1_000).await.unwrap();
        assert_eq!(of_a.len(), 20);
        assert!(of_a.windows(2).all(|two| two[0].0 < two[1].0));
    });
}

fn configuration_compares_and_sets(engine: &impl Engine) {
    let store = engine.open();
    let big = vec![7; 300_000];
    run(async {
        assert_eq!(store.revision(), 0);
        let writes = vec![
            ("object/a".to_owned(), Some(b"1".to_vec())),
            ("object/b".to_owned(), Some(big.clone())),
            ("other".to_owned(), Some(vec![])),
        ];
        assert_eq!(ConfigStore::commit(&store, 0, writes).await.unwrap(), 1);
        assert_eq!(store.get("object/b").unwrap().as_ref(), Some(&big));
        let late = ConfigStore::commit(&store, 0, vec![("object/a".to_owned(), None)]).await;
        assert!(matches!(late, Err(StoreError::Conflict { expected: 0, found: 1 })));
        assert_eq!(store.get("object/a").unwrap(), Some(b"1".to_vec()));
        let keys = |found: Vec<(String, Vec<u8>)>| found.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(store.scan("object/", None, 10).unwrap()), ["object/a", "object/b"]);
        assert_eq!(keys(store.scan("object/", Some("object/a"), 10).unwrap()), ["object/b"]);
        let many = (0..3_000).map(|n| (format!("many/{n:05}"), Some(vec![1; n % 2_500]))).collect();
        assert_eq!(ConfigStore::commit(&store, 1, many).await.unwrap(), 2);
        tokio::time::sleep(Duration::from_millis(400)).await;
        let change = vec![("object/a".to_owned(), None), ("object/ab".to_owned(), Some(vec![2]))];
        assert_eq!(ConfigStore::commit(&store, 2, change).await.unwrap(), 3);
        assert_eq!(keys(store.scan("object/", None, 10).unwrap()), ["object/ab", "object/b"]);
        assert_eq!(keys(store.scan("many/", Some("many/02998"), 10).unwrap()), ["many/02999"]);
        for n in 0..3 {
            store
                .annotate(vec![(format!("note/{n}"), Some(vec![n])), ("other".to_owned(), Some(vec![n]))])
                .await
                .unwrap();
        }
        store.annotate(vec![("note/1".to_owned(), None), ("other".to_owned(), Some(vec![]))]).await.unwrap();
        assert_eq!(store.revision(), 3, "a note is no change");
        assert_eq!(keys(store.scan("note/", None, 10).unwrap()), ["note/0", "note/2"]);
    });
    store.close();
    drop(store);
    let store = engine.open();
    assert_eq!(store.revision(), 3);
    assert_eq!(store.get("object/a").unwrap(), None);
    assert_eq!(store.get("object/b").unwrap(), Some(big));
    assert_eq!(store.get("other").unwrap(), Some(vec![]));
    assert_eq!(store.get("note/2").unwrap(), Some(vec![2]));
    assert_eq!(store.get("note/1").unwrap(), None);
    let many = store.scan("many/", None, 10_000).unwrap();
    assert_eq!(many.len(), 3_000);
    assert!(
        many.iter().enumerate().all(|(n, (key, value))| *key == format!("many/{n:05}") && value.len() == n % 2_500)
    );
}

/// A draft of 40 MB: more than the embedded store holds in memory.
fn a_draft_is_committed_whole_however_large(engine: &impl Engine) {
    const MANY: usize = 40_000;
    let store = Arc::new(engine.open());
    let key = |n: usize| format!("large/{n:06}");
    let value = |n: usize, of: u8| Some(vec![of; 500 + n % 1_000]);
    let is = |store: &dyn ConfigStore, n: usize, of: u8| store.get(&key(n)).unwrap() == value(n, of);
    run(async {
        let small = (0..100).map(|n| (key(n * 3), value(n * 3, 1))).collect();
        assert_eq!(ConfigStore::commit(&*store, 0, small).await.unwrap(), 1);
        let make = || {
            let mut draft = store.clone().draft();
            for n in 0..MANY {
                draft.write(&key(n), value(n, 2)).unwrap();
            }
            draft.write(&key(6), None).unwrap();
            draft.write(&key(7), value(7, 3)).unwrap();
            assert_eq!(draft.get(&key(6)).unwrap(), None);
            assert_eq!(draft.get(&key(7)).unwrap(), value(7, 3));
            assert_eq!(draft.get(&key(MANY - 1)).unwrap(), value(MANY - 1, 2));
            assert_eq!(draft.get("other").unwrap(), None);
            let scanned = |after: usize, rows: usize| {
                let rows = draft.scan("large/", Some(&key(after)), rows).unwrap();
                rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
            };
            assert_eq!(scanned(4, 3), [key(5), key(7), key(8)]);
            assert_eq!(scanned(MANY - 2, 3), [key(MANY - 1)]);
            assert_eq!(draft.scan("large/", None, 10_000).unwrap()[9_999], (key(10_000), value(10_000, 2).unwrap()));
            assert_eq!(draft.scan("larger", None, 1).unwrap(), []);
            draft
        };
        let mut draft = store.clone().draft();
        draft.write(&key(3), None).unwrap();
        draft.write(&key(4), value(4, 5)).unwrap();
        let scanned = draft.scan("large/", None, 3).unwrap();
        assert_eq!(
            scanned,
            [(key(0), value(0, 1).unwrap()), (key(4), value(4, 5).unwrap()), (key(6), value(6, 1).unwrap())]
        );
        drop(draft);
        drop(make());
        assert!(is(&*store, 6, 1) && store.get(&key(7)).unwrap().is_none(), "a dropped draft leaves nothing");
        assert!(matches!(make().commit(0).await, Err(StoreError::Conflict { expected: 0, found: 1 })));
        assert_eq!(make().commit(1).await.unwrap(), 2);
        // at once, and while the store is busy with it
        let mut revision = 2;
        for round in 0..20 {
            assert!(store.get(&key(6)).unwrap().is_none() && is(&*store, 7, 3) && is(&*store, MANY - 1, 2));
            let rows = store.scan("large/", Some(&key(4)), 3).unwrap();
            assert_eq!(rows.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), [key(5), key(7), key(8)]);
            let changed = vec![(key(30_000 + round), value(1, 4)), (key(10), value(2, round as u8)), (key(11), None)];
            revision = ConfigStore::commit(&*store, revision, changed).await.unwrap();
            assert_eq!(store.get(&key(10)).unwrap(), value(2, round as u8));
            assert_eq!(store.scan("large/", Some(&key(9)), 2).unwrap()[1].0, key(12));
            assert_eq!(store.get(&key(30_000 + round)).unwrap(), value(1, 4));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let check = |store: &dyn ConfigStore| {
        assert_eq!(store.revision(), 22);
        let (mut after, mut count) = (None, 0);
        loop {
            let rows = store.scan("large/", after.as_deref(), 10_000).unwrap();
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            for (found, stored) in &rows {
                let n: usize = found["large/".len()..].parse().unwrap();
                let wanted = match n {
                    7 => value(n, 3),
                    10 => value(2, 19),
                    30_000..=30_019 => value(1, 4),
                    _ => value(n, 2),
                };
                assert_eq!(Some(stored), wanted.as_ref(), "{found}");
            }
            count += rows.len();
        }
        assert_eq!(count, MANY - 2);
    };
    check(&*store);
    store.close();
    drop(store);
    check(&engine.open());
}

fn notes_survive_and_are_no_configuration(engine: &impl Engine) {
    let store = engine.open();
    let keys = |found: Vec<(String, Vec<u8>)>| found.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    run(async {
        let many = (0..9_000).map(|n| (format!("many/{n:05}"), Some(vec![n as u8; n % 90]))).collect();
        store.write_notes(many).await.unwrap();
        store.write_notes(vec![("one".to_owned(), Some(vec![1])), ("two".to_owned(), Some(vec![2]))]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
        let writes = vec![("one".to_owned(), None), ("many/00003".to_owned(), None), ("two".to_owned(), Some(vec![3]))];
        store.write_notes(writes).await.unwrap();
        assert_eq!((store.revision(), store.get("two").unwrap(), store.all("two")), (0, None, Vec::new()));
        let refused = store.write_notes(vec![("a".to_owned(), Some(vec![])), ("b".to_owned(), Some(vec![0; 4_097]))]);
        assert!(refused.await.is_err() && store.note("a").unwrap().is_none(), "all or nothing");
    });
    store.close();
    drop(store);
    let store = engine.open();
    assert_eq!((store.note("one").unwrap(), store.note("two").unwrap()), (None, Some(vec![3])));
    assert_eq!(store.notes("many/", None, 10_000).unwrap().len(), 8_999);
    assert_eq!(keys(store.notes("many/", Some("many/00002"), 2).unwrap()), ["many/00004", "many/00005"]);
    assert_eq!(keys(store.notes("t", None, 10).unwrap()), ["two"]);
}

fn controls_survive(engine: &impl Engine) {
    let store = engine.open();
    run(async {
        store.set("queue-frozen/a", Some(b"x".to_vec())).await.unwrap();
        store.set("queue-frozen/b", Some(b"y".to_vec())).await.unwrap();
        store.set("queue-frozen/a", None).await.unwrap();
        assert!(store.set("z", Some(vec![0; 2_000])).await.is_err());
        assert_eq!(store.revision(), 0, "controls are no configuration");
    });
    store.close();
    drop(store);
    let store = engine.open();
    assert_eq!(store.all("queue-frozen/"), [("queue-frozen/b".to_owned(), b"y".to_vec())]);
    assert!(store.all("other").is_empty());
}

fn events_are_found(engine: &impl Engine) {
    let id = MessageId::generate();
    let store = engine.open();
    let event =
        |n: u32, id: MessageId| format!("{{\"message\":\"{id}\",\"event\":\"received\",\"n\":{n}}}").into_bytes();
    TrackingStore::append(&store, event(1, id));
    TrackingStore::append(&store, event(1, MessageId::generate()));
    store.close();
    drop(store);
    let store = engine.open();
    TrackingStore::append(&store, event(2, id));
    let events = |after, limit| -> (Vec<Vec<u8>>, Option<Position>) {
        let found = run(store.events(id, after, limit)).unwrap();
        (found.events.into_iter().map(|(_, event)| event).collect(), found.next)
    };
    assert_eq!(events(None, 3), (vec![event(1, id), event(2, id)], None));
    let (first, next) = events(None, 1);
    assert_eq!(first, [event(1, id)]);
    assert_eq!(events(next, 3), (vec![event(2, id)], None), "a page goes on behind the one before");
    assert!(next.is_some() && run(store.has_events(id)).unwrap());
    assert!(!run(store.has_events(MessageId::generate())).unwrap());
    let seek =
        Seek { keys: vec![vec![Key::message(id)]], newest_first: true, limit: 1, octets: 1 << 20, ..Seek::default() };
    let mine = || -> Wanted { Box::new(move |view, _| view.message == Some(id)) };
    let found = run(store.search_events(seek.clone(), mine())).unwrap();
    assert_eq!(found.events.len(), 1);
    assert_eq!(found.events[0].1, event(2, id));
    let found = run(store.search_events(Seek { after: found.next, ..seek }, mine())).unwrap();
    assert_eq!(found.events[0].1, event(1, id), "the cursor leads on");
    let position = found.events[0].0;
    let chunk = run(store.read_events(position, 1 << 20)).unwrap();
    assert_eq!(chunk.events[0], (position, event(1, id)), "a position is where an event stands");
    assert!(chunk.events.len() >= 2, "and what is behind it");
}
