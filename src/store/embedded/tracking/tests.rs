//! The tracking log on the real disk.

use std::time::Instant;

use super::*;
use crate::store::history::EventView;

fn event(id: MessageId, at: i64, word: &str, sender: &str, recipient: &str) -> Vec<u8> {
    let at = Timestamp::from_millis(at);
    format!(
        "{{\"message\":\"{id}\",\"at\":\"{at}\",\"event\":\"{word}\",\"recipients\":[\"{recipient}\"],\"sender\":\"{sender}\"}}"
    )
    .into_bytes()
}

/// Not yet, for a long time: nothing is old for the thread that sweeps by the real clock.
const NOW: i64 = 4_102_444_800_000;

fn seek() -> Seek {
    Seek { limit: 10_000, octets: 1 << 40, ..Seek::default() }
}

/// Ends the file that is written to, and waits until it has its index.
fn roll(tracking: &Tracking) {
    let full = tracking.catalogue.all().pop().unwrap();
    tracking.settle();
    tracking.sender.send(Item::Roll).unwrap();
    tracking.settle();
    let begun = Instant::now();
    while full.index.get().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30), "no index came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All events of a message.
fn events_of(tracking: &Tracking, id: MessageId) -> Vec<Vec<u8>> {
    let found = tracking.events(id, None, usize::MAX).unwrap();
    assert_eq!(found.next, None);
    found.events.into_iter().map(|(_, event)| event).collect()
}

#[test]
fn events_are_found_over_restarts_and_damage_is_passed_over_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (MessageId::generate(), MessageId::generate());
    let one = event(a, NOW, "received", "s@x.example", "r@y.example");
    {
        let tracking = Tracking::open(dir.path(), 1 << 30).unwrap();
        tracking.append(one.clone());
        tracking.append(event(b, NOW, "received", "s@x.example", "q@y.example"));
        tracking.append(b"{\n}".to_vec());
        assert_eq!(tracking.health().dropped, 1, "a line end would make two lines of it");
        assert_eq!(events_of(&tracking, a), std::slice::from_ref(&one));
        tracking.close();
    }
    // what an earlier version wrote, a torn line, and octets that are no text
    let file = fs::read_dir(dir.path().join("tracking")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    bytes.extend_from_slice(b"{\"message\":\"torn\n\xff\xfe\x00\n");
    bytes.extend_from_slice(
        format!("{{\"id\":\"{a}\",\"event\":{{\"message\":\"{a}\",\"event\":\"relayed\"}}}}\n").as_bytes(),
    );
    bytes.extend_from_slice(b"{\"message\":\"half a li");
    fs::write(&file, bytes).unwrap();
    let tracking = Tracking::open(dir.path(), 1 << 30).unwrap();
    tracking.append(event(a, NOW, "failed", "s@x.example", "r@y.example"));
    let events = events_of(&tracking, a);
    assert_eq!(events.len(), 3, "{}", events.iter().map(|e| String::from_utf8_lossy(e)).collect::<String>());
    assert_eq!(events[0], one);
    roll(&tracking);
    assert_eq!(tracking.health().damaged, 3);
    assert_eq!(events_of(&tracking, a).len(), 3, "by the index too");
    let chunk = tracking.read(Position::START, 1 << 20).unwrap();
    assert!(!chunk.gap, "nothing was lost");
    tracking.close();
}

#[test]
fn a_search_is_the_same_with_an_index_and_without() {
    let dir = tempfile::tempdir().unwrap();
    let tracking = Tracking::open(dir.path(), 1 << 30).unwrap();
    let ids: Vec<MessageId> = (0..40).map(|_| MessageId::generate()).collect();
    for n in 0..4_000_i64 {
        let id = ids[n as usize % ids.len()];
        let word = if n % 1_000 == 7 { "failed" } else { "relayed" };
        let sender = format!("s{}@a{}.example", n % 10, n % 3);
        tracking.append(event(id, NOW + n, word, &sender, &format!("R{n}@Y.example")));
    }
    let ask = |seek: &Seek| -> Vec<(Position, Vec<u8>)> {
        let keys = seek.keys.clone();
        let wanted: Wanted = Box::new(move |view: &EventView, _| {
            let mut have = Vec::new();
            view.keys(&mut have);
            keys.iter().all(|one_of| one_of.iter().any(|key| have.contains(key)))
        });
        tracking.search(seek, wanted).unwrap().events
    };
    let questions = [
        (seek(), 4_000),
        (Seek { keys: vec![vec![Key::event("failed")]], ..seek() }, 4),
        (Seek { keys: vec![vec![Key::sender("S3@A1.example")]], ..seek() }, 133),
        (Seek { keys: vec![vec![Key::sender_domain("a2.example")], vec![Key::message(ids[5])]], ..seek() }, 34),
        (Seek { keys: vec![vec![Key::recipient("r7@y.example"), Key::recipient("r8@y.example")]], ..seek() }, 2),
        (Seek { keys: vec![vec![Key::recipient("nobody@y.example")]], ..seek() }, 0),
        (Seek { since: Some(Timestamp::from_millis(NOW + 3_990)), ..seek() }, 10),
        (Seek { until: Some(Timestamp::from_millis(NOW + 10)), ..seek() }, 10),
    ];
    let without: Vec<_> = questions.iter().map(|(seek, _)| ask(seek)).collect();
    roll(&tracking);
    for ((seek, count), without) in questions.iter().zip(without) {
        assert_eq!(without.len(), *count, "{seek:?}");
        assert_eq!(ask(seek), without, "{seek:?}");
        // the other way round, in pages of three, with next to nothing to read at a time
        let mut backwards = Vec::new();
        let mut page = Seek { newest_first: true, limit: 3, octets: 70 << 10, ..seek.clone() };
        loop {
            let keys = page.keys.clone();
            let wanted: Wanted = Box::new(move |view: &EventView, _| {
                let mut have = Vec::new();
                view.keys(&mut have);
                keys.iter().all(|one_of| one_of.iter().any(|key| have.contains(key)))
            });
            let found = tracking.search(&page, wanted).unwrap();
            assert!(found.events.len() <= 3);
            backwards.extend(found.events);
            page.after = found.next;
            if found.next.is_none() {
                break;
            }
        }
        backwards.reverse();
        assert_eq!(backwards, without, "{seek:?}");
    }
    tracking.close();
    // an index that was tampered with is made anew
    let index = fs::read_dir(dir.path().join("tracking")).unwrap().map(|e| e.unwrap().path());
    let index = index.filter(|path| path.extension().is_some_and(|it| it == "idx")).max().unwrap();
    let mut bytes = fs::read(&index).unwrap();
    bytes[100] ^= 1;
    fs::write(&index, &bytes).unwrap();
    let tracking = Tracking::open(dir.path(), 1 << 30).unwrap();
    assert_eq!(events_of(&tracking, ids[0]).len(), 100);
    tracking.close();
    assert_ne!(fs::read(&index).unwrap(), bytes);
}

#[test]
fn a_reader_goes_on_where_it_was_and_hears_of_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let id = MessageId::generate();
    let mut all = Vec::new();
    let read = |tracking: &Tracking, from: Position, octets: usize| {
        tracking.settle();
        let mut next = from;
        let mut got = Vec::new();
        loop {
            let chunk = tracking.read(next, octets).unwrap();
            assert!(!chunk.gap);
            if chunk.events.is_empty() && chunk.next == next {
                return (got, next);
            }
            got.extend(chunk.events);
            next = chunk.next;
        }
    };
    let tracking = Tracking::open(dir.path(), 1 << 30).unwrap();
    for n in 0..3_000 {
        let event = event(id, NOW + n, "relayed", "s@x.example", &format!("r{n}@y.example"));
        tracking.append(event.clone());
        all.push(event);
    }
    let (got, next) = read(&tracking, Position::START, 1_000);
    assert_eq!(got.iter().map(|(_, event)| event.clone()).collect::<Vec<_>>(), all);
    let middle = got[1_500].0;
    tracking.close();
    let tracking = Tracking::open(dir.path(), 1 << 30).unwrap();
    tracking.append(event(id, NOW, "failed", "s@x.example", "r@y.example"));
    let (got, _) = read(&tracking, next, 1 << 20);
    assert_eq!(got.len(), 1, "only what came since");
    let (got, _) = read(&tracking, middle, 1 << 20);
    assert_eq!((got.len(), &got[0].1), (1_501, &all[1_500]), "an id is where its event stands");
    // an id that somebody made up shows nothing but whole events
    let (got, _) = read(&tracking, Position { offset: middle.offset + 5, ..middle }, 1 << 20);
    assert_eq!(&got[0].1, &all[1_501]);
    assert!(tracking.read(Position { file: 99, offset: 0 }, 1).unwrap().gap, "of another store");
    // what was there is removed
    roll(&tracking);
    tracking.set_retention(Duration::from_secs(1), 1 << 30);
    tracking.catalogue.sweep(Timestamp::from_millis(NOW + 10_000));
    let chunk = tracking.read(middle, 1 << 20).unwrap();
    assert!(chunk.gap && chunk.events.is_empty(), "{chunk:?}");
    tracking.close();
}

#[test]
fn old_files_go_by_age_and_by_size_and_what_is_written_to_stays() {
    let dir = tempfile::tempdir().unwrap();
    let tracking = Tracking::open(dir.path(), 1 << 30).unwrap();
    let hour = 3_600_000;
    let mut ids = Vec::new();
    for n in 0..4 {
        let id = MessageId::generate();
        for k in 0..200 {
            tracking.append(event(id, NOW + n * hour + k, "relayed", "s@x.example", "r@y.example"));
        }
        ids.push(id);
        roll(&tracking);
    }
    let there =
        |tracking: &Tracking| -> Vec<bool> { ids.iter().map(|id| !events_of(tracking, *id).is_empty()).collect() };
    let now = Timestamp::from_millis(NOW + 3 * hour + 1_000);
    tracking.catalogue.sweep(now);
    assert_eq!(there(&tracking), [true; 4], "nothing is too old or too much");
    *tracking.catalogue.limits() = Limits { keep: Duration::from_secs(2 * 3_600 + 60), bytes: 1 << 30 };
    tracking.catalogue.sweep(now);
    assert_eq!(there(&tracking), [false, true, true, true]);
    let size = tracking.catalogue.all()[0].all_bytes();
    *tracking.catalogue.limits() = Limits { keep: Duration::MAX, bytes: FILE_BYTES + size + size / 2 };
    tracking.catalogue.sweep(now);
    assert_eq!(there(&tracking), [false, false, false, true], "the oldest go");
    let files = fs::read_dir(dir.path().join("tracking")).unwrap().count();
    assert_eq!(files, 3, "a file with its index, and the one that is written to");
    let tail = *tracking.tail().borrow();
    tracking.close();
    // numbers do not come again, also when everything has gone
    let tracking = Tracking::open(dir.path(), 1 << 30).unwrap();
    assert!(*tracking.tail().borrow() > tail);
    tracking.close();
}

/// `cargo test --release --lib -- --ignored --nocapture tracking::tests::cost` prints what an event costs whoever appends it, and
/// what a search among five million takes.
#[test]
#[ignore = "a measurement: five million events, 1.3 GB"]
fn cost() {
    let dir = tempfile::tempdir().unwrap();
    let tracking = Tracking::open(dir.path(), 8 << 30).unwrap();
    let count: u64 = std::env::var("EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000_000);
    let mut spent = Duration::ZERO;
    let mut wanted = MessageId::generate();
    for n in 0..count / 3 {
        let id = MessageId::generate();
        if n == count / 10 {
            wanted = id;
        }
        for word in ["received", "routed", "relayed"] {
            let begun = Instant::now();
            let at = Timestamp::from_millis(NOW + n as i64);
            tracking.append(
                format!(
                    "{{\"message\":\"{id}\",\"at\":\"{at}\",\"event\":\"{word}\",\"recipients\":[\"r{n}@d{}.example\"],\"sender\":\"s{}@x.example\",\"virtualServer\":\"default\",\"connector\":\"default\",\"nextHop\":\"mx.example.com (192.0.2.25:25)\",\"reply\":\"250 2.0.0 Ok: queued as 4F1B2C3D\"}}",
                    n % 5_000,
                    n % 50_000,
                )
                .into_bytes(),
            );
            spent += begun.elapsed();
        }
        if n % 4_000 == 0 {
            tracking.settle();
        }
    }
    println!("{:?} an event for whoever appends it, with making it", spent / u32::try_from(count).unwrap());
    let begun = Instant::now();
    roll(&tracking);
    println!("the last index came after {:?}; {:?}", begun.elapsed(), tracking.health());
    let timed = |what: &str, seek: &Seek| {
        let begun = Instant::now();
        let keys = seek.keys.clone();
        let wanted: Wanted = Box::new(move |view: &EventView, _| {
            let mut have = Vec::new();
            view.keys(&mut have);
            keys.iter().all(|one_of| one_of.iter().any(|key| have.contains(key)))
        });
        let found = tracking.search(seek, wanted).unwrap();
        println!("{what}: {} in {:?}, {} looked at", found.events.len(), begun.elapsed(), found.scanned);
    };
    let begun = Instant::now();
    println!("one message: {} in {:?}", events_of(&tracking, wanted).len(), begun.elapsed());
    let page = Seek { limit: 100, octets: 32 << 20, newest_first: true, ..Seek::default() };
    timed("a recipient", &Seek { keys: vec![vec![Key::recipient("r77777@d2777.example")]], ..page.clone() });
    timed("a sender", &Seek { keys: vec![vec![Key::sender("s4711@x.example")]], ..page.clone() });
    timed("a domain", &Seek { keys: vec![vec![Key::recipient_domain("d123.example")]], ..page.clone() });
    timed("nobody", &Seek { keys: vec![vec![Key::recipient("nobody@d1.example")]], ..page.clone() });
    timed("an event that never was", &Seek { keys: vec![vec![Key::event("failed")]], ..page.clone() });
    timed("the latest", &page);
    tracking.close();
}
