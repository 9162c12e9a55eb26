//! Holds, chosen connectors, suspended ones, dead letters, the queue as a file.

use super::bulk::backlog;
use super::*;
use crate::queue::bulk::{Bulk, BulkAction, BulkError, Order};
use crate::queue::holds::{Hold as MailHold, HoldError, HoldSelector};
use crate::queue::resubmit::ResubmitError;
use crate::queue::sorting::{Place, Sort};
use crate::queue::steer::RerouteError;
use crate::queue::transfer::Imported;
use crate::store::ControlStore;

fn selector(selector: Value) -> HoldSelector {
    serde_json::from_value(selector).unwrap()
}

fn filter(filter: Value) -> MessageFilter {
    serde_json::from_value(filter).unwrap()
}

impl Fixture {
    async fn hold(&self, held: Value) -> MailHold {
        self.operator().hold(selector(held), "a test".into(), None, "test".into()).await.unwrap().0
    }

    async fn let_go(&self, hold: &MailHold) {
        self.operator().end_hold(hold.id, "test".into()).await.unwrap();
    }

    fn smart_host(host: &str, pattern: &str) -> Value {
        json!({"addressSpaces": [{"pattern": pattern}], "route": {"smartHosts": [{"host": host}]}})
    }

    /// A second queue over the same store, as after a restart.
    pub(super) fn again(&self) -> Arc<Queue> {
        let mut registry = Registry::default();
        Queue::new(
            Arc::new(self.store.clone()),
            self.configuration.live().clone(),
            Arc::new(StoredRecipients(Arc::new(self.store.clone()))),
            self.clock.clone(),
            Metrics::new(&mut registry),
        )
    }

    async fn export(&self) -> Vec<u8> {
        let mut pieces = self.operator().export(MessageFilter::default());
        let mut all = Vec::new();
        while let Some(piece) = pieces.recv().await {
            all.extend_from_slice(&piece.unwrap());
        }
        all
    }

    async fn import(&self, file: &[u8], frozen: bool, dry_run: bool) -> Imported {
        let mut import = self.operator().import(frozen, dry_run).unwrap();
        let mut number = 0;
        for line in file.split(|octet| *octet == b'\n') {
            number += 1;
            import.line(number, line).await.unwrap();
        }
        import.ended(number)
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_and_what_comes_is_held_and_goes_when_it_is_let_go() {
    let f = Fixture::new(NextHop::Dead).await;
    backlog(&f, 600).await;
    let hold = f.hold(json!({"domain": "dst.example"})).await;
    f.pass(Duration::from_secs(5)).await;
    assert_eq!(f.queued(), [("dns:default:other.example".to_owned(), 400), ("held".to_owned(), 200)]);
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    let new = f.send(&f.anna(), "new@dst.example", None).await;
    f.pass(HOUR).await;
    assert_eq!(f.queued(), [("held".to_owned(), 201)]);
    assert!(f.attempts_of("new@dst.example").is_empty(), "it was held from the first moment");
    assert_eq!(f.events(new).await, ["held"]);
    let operations = f.operator().operations();
    assert_eq!((operations[0].action, operations[0].total, operations[0].done), (BulkAction::Hold, Some(200), 200));
    f.let_go(&hold).await;
    f.pass(HOUR).await;
    assert_eq!(f.queued(), []);
    assert_eq!(f.events(new).await, ["held", "released", "relayed"]);
}

#[tokio::test(start_paused = true)]
async fn all_outbound_mail_is_one_hold_and_local_mail_goes_on() {
    let f = Fixture::new(NextHop::Takes).await;
    let hold = f.hold(json!({"outbound": true})).await;
    f.send("a@src.example", &f.anna(), None).await;
    f.send(&f.anna(), "b@dst.example", None).await;
    f.pass(Duration::from_secs(60)).await;
    assert_eq!((f.attempts_of(&f.anna()).len(), f.queued()), (1, vec![("held".to_owned(), 1)]));
    // who is held and frozen stays frozen when he is let go
    let id = f.store.messages()[0].id;
    f.queue.freeze(id, "ada").await.unwrap();
    f.let_go(&hold).await;
    f.pass(HOUR).await;
    assert_eq!(f.queued(), [("dns:default:dst.example".to_owned(), 1)]);
    assert!(f.store.messages()[0].frozen);
    f.queue.thaw(id, "ada").await.unwrap();
    f.pass(HOUR).await;
    assert_eq!(f.queued(), []);
}

#[tokio::test(start_paused = true)]
async fn every_part_of_a_selector_counts() {
    let f = Fixture::new(NextHop::Dead).await;
    f.send(&f.anna(), "b@dst.example", None).await;
    let local = f.default_domain();
    for (held, means) in [
        (json!({"sender": f.anna()}), true),
        (json!({"sender": "<>"}), false),
        (json!({"recipient": "*@dst.example"}), true),
        (json!({"recipient": "c@dst.example"}), false),
        (json!({"domain": "*.example"}), true),
        (json!({"domain": "*.dst.example"}), false),
        (json!({"connector": "default"}), true),
        (json!({"connector": "other"}), false),
        (json!({"virtualServer": "default"}), true),
        (json!({"virtualServer": "other"}), false),
        (json!({"account": "app"}), false),
        (json!({"apiKey": "app"}), false),
        (json!({"largerThan": 5}), true),
        (json!({"largerThan": "1MiB"}), false),
        (json!({"outbound": true, "sender": f.anna()}), true),
        (json!({"outbound": false}), false),
        (json!({"outbound": true, "sender": format!("bob@{local}")}), false),
    ] {
        let hold = f.hold(held.clone()).await;
        f.pass(Duration::from_secs(2)).await;
        assert_eq!(f.queued()[0].0 == "held", means, "{held}: {:?}", f.queued());
        f.let_go(&hold).await;
        f.pass(Duration::from_secs(2)).await;
        assert_eq!(f.queued(), [("dns:default:dst.example".to_owned(), 1)], "{held}");
    }
}

#[tokio::test(start_paused = true)]
async fn holds_end_by_themselves_and_hold_over_a_restart() {
    let f = Fixture::new(NextHop::Takes).await;
    let end = Timestamp::from_millis(f.clock.unix_millis()) + HOUR;
    let held = selector(json!({"outbound": true}));
    let (hold, _) = f.operator().hold(held.clone(), String::new(), Some(end), "test".into()).await.unwrap();
    assert_eq!(f.again().all_holds(), std::slice::from_ref(&hold));
    f.send(&f.anna(), "b@dst.example", None).await;
    f.pass(HOUR - Duration::from_secs(5)).await;
    assert_eq!(f.queued(), [("held".to_owned(), 1)]);
    f.pass(Duration::from_secs(60)).await;
    assert_eq!((f.queued(), f.operator().holds()), (vec![], vec![]));
    assert_eq!(f.again().all_holds(), []);
    let over = f.operator().hold(held, String::new(), Some(end), "test".into()).await;
    assert!(matches!(over, Err(HoldError::Expired)));
}

#[tokio::test(start_paused = true)]
async fn a_start_holds_what_came_through_and_lets_go_what_nobody_holds() {
    let f = Fixture::new(NextHop::Dead).await;
    f.send(&f.anna(), "b@dst.example", None).await;
    f.pass(Duration::from_secs(1)).await;
    // as a crash leaves it that came before the mail was moved: only the record is there
    let hold = MailHold {
        id: uuid::Uuid::now_v7(),
        selector: selector(json!({"outbound": true})),
        reason: String::new(),
        expires_at: None,
        by: "test".into(),
        made_at: Timestamp::EPOCH,
    };
    let key = format!("hold/{}", hold.id.simple());
    f.store.set(&key, Some(serde_json::to_vec(&hold).unwrap())).await.unwrap();
    f.queue.stop().await;
    let scripted = || Scripted {
        queue: f.queue.clone(),
        clock: f.clock.clone(),
        next_hop: f.next_hop.clone(),
        dead: f.dead.clone(),
        attempts: f.attempts.clone(),
        reports: f.reports.clone(),
    };
    let queue = f.again();
    let running = tokio::spawn(queue.clone().run(Arc::new(Scripted { queue: queue.clone(), ..scripted() })));
    f.pass(Duration::from_secs(5)).await;
    assert_eq!(f.queued(), [("held".to_owned(), 1)]);
    queue.stop().await;
    running.await.unwrap();
    // and the other way
    f.store.set(&key, None).await.unwrap();
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    let queue = f.again();
    let running = tokio::spawn(queue.clone().run(Arc::new(Scripted { queue: queue.clone(), ..scripted() })));
    f.pass(HOUR).await;
    assert_eq!(f.queued(), []);
    queue.stop().await;
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn held_mail_does_not_age_and_has_its_time_anew_when_it_is_let_go() {
    let f = Fixture::new(NextHop::Dead).await;
    let id = f.send(&f.anna(), "b@dst.example", None).await;
    let hold = f.hold(json!({"outbound": true})).await;
    f.pass(HOUR * 24 * 5).await;
    assert_eq!((f.queued(), f.attempts_of(&f.anna()).len()), (vec![("held".to_owned(), 1)], 0), "no delay was told");
    f.let_go(&hold).await;
    f.pass(HOUR * 24).await;
    assert!(f.queued().contains(&("dns:default:dst.example".to_owned(), 1)), "{:?}", f.queued());
    assert_eq!(f.attempts_of(&f.anna()).len(), 1, "the delay is told after twelve hours");
    f.pass(HOUR * 26).await;
    assert!(f.store.messages().iter().all(|message| message.id != id), "two days are two days");
    assert_eq!(f.attempts_of(&f.anna()).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn mail_that_comes_while_a_hold_is_made_is_held_or_was_under_way() {
    for round in 0..12 {
        let f = Arc::new(Fixture::new(NextHop::Takes).await);
        let sending = {
            let f = f.clone();
            tokio::spawn(async move {
                for n in 0..40 {
                    f.send(&f.anna(), &format!("u{n}@dst.example"), None).await;
                    for _ in 0..(n + round) % 7 {
                        tokio::task::yield_now().await;
                    }
                }
            })
        };
        for _ in 0..round * 10 {
            tokio::task::yield_now().await;
        }
        f.hold(json!({"outbound": true})).await;
        // what a worker had by now may go; nothing else
        let begun = f.attempts.lock().unwrap().len();
        sending.await.unwrap();
        f.pass(HOUR).await;
        let held: u64 = f.queued().iter().filter(|(queue, _)| queue == "held").map(|(_, count)| count).sum();
        let gone = f.attempts.lock().unwrap().len() as u64;
        assert_eq!(held + gone, 40, "nothing is lost, in round {round}");
        assert_eq!(gone, begun as u64, "went, and had begun, in round {round}");
        assert_eq!(f.queued().len(), usize::from(held > 0), "{:?}", f.queued());
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_cannot_be_is_refused() {
    let f = Fixture::new(NextHop::Takes).await;
    let hold = |held: Value, reason: String| {
        let operator = f.operator();
        async move { operator.hold(selector(held), reason, None, "test".into()).await }
    };
    assert!(matches!(hold(json!({}), String::new()).await, Err(HoldError::EmptySelector)));
    assert!(matches!(hold(json!({"outbound": true}), "ü".repeat(600)).await, Err(HoldError::TooLong)));
    for _ in 0..crate::queue::holds::MOST_HOLDS {
        hold(json!({"sender": "x@y.example"}), String::new()).await.unwrap();
    }
    assert!(matches!(hold(json!({"outbound": true}), String::new()).await, Err(HoldError::TooMany)));
    let none = f.operator().end_hold(uuid::Uuid::now_v7(), "test".into()).await;
    assert!(matches!(none, Err(HoldError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn a_chosen_connector_carries_whatever_its_address_spaces_say() {
    let f = Fixture::new(NextHop::Dead).await;
    f.put(Collection::Connectors, "spare", Fixture::smart_host("127.0.0.9", "nobody.example")).await;
    f.dead.lock().unwrap().insert("dns:default:dst.example".to_owned());
    let id = f.send(&f.anna(), "b@dst.example", None).await;
    f.pass(Duration::from_secs(60)).await;
    let spare: Name = "spare".parse().unwrap();
    f.operator().reroute_by(id, Some(spare.clone()), "ada".to_owned()).await.unwrap();
    f.pass(Duration::from_secs(60)).await;
    assert_eq!(f.queued(), [("smarthost:spare".to_owned(), 1)]);
    assert_eq!(f.store.messages()[0].connector, Some(spare.clone()));
    // it stays so when it comes due, and when the configuration changes
    f.put(Collection::Connectors, "third", Fixture::smart_host("127.0.0.8", "*.example")).await;
    f.pass(HOUR * 5).await;
    assert_eq!(f.queued(), [("smarthost:spare".to_owned(), 1)]);
    // while it is switched off, the message is routed as usual
    let mut off = Fixture::smart_host("127.0.0.9", "nobody.example");
    off["enabled"] = json!(false);
    f.put(Collection::Connectors, "spare", off).await;
    f.pass(Duration::from_secs(60)).await;
    assert_eq!(f.queued(), [("smarthost:third".to_owned(), 1)]);
    let unknown = f.operator().reroute_by(id, Some(spare), "ada".to_owned()).await;
    assert!(matches!(unknown, Err(RerouteError::UnknownConnector(_))));
    f.put(Collection::Connectors, "spare", Fixture::smart_host("127.0.0.9", "nobody.example")).await;
    f.pass(Duration::from_secs(60)).await;
    assert_eq!(f.queued(), [("smarthost:spare".to_owned(), 1)]);
    // without one, nobody has chosen any more
    f.operator().reroute_by(id, None, "ada".to_owned()).await.unwrap();
    assert_eq!((f.queued(), f.store.messages()[0].connector.clone()), (vec![("smarthost:third".to_owned(), 1)], None));
}

#[tokio::test(start_paused = true)]
async fn many_are_rerouted_by_a_connector_and_local_recipients_stay() {
    let f = Fixture::new(NextHop::Dead).await;
    f.put(Collection::Connectors, "spare", Fixture::smart_host("127.0.0.9", "nobody.example")).await;
    backlog(&f, 30).await;
    let order = |connector: &str| Order {
        action: BulkAction::Reroute,
        ndr: false,
        connector: Some(connector.parse().unwrap()),
    };
    let by_next_hop = || filter(json!({"nextHop": "DST.example"}));
    let unknown = f.operator().begin(order("nobody"), by_next_hop(), "test".into()).await;
    assert!(matches!(unknown, Err(BulkError::UnknownConnector)));
    let begun = f.operator().begin(order("spare"), by_next_hop(), "test".into()).await.unwrap();
    assert_eq!(f.ended(&begun).await.done, 10);
    assert_eq!(f.queued(), [("smarthost:spare".to_owned(), 10), ("dns:default:other.example".to_owned(), 20)]);
    *f.next_hop.lock().unwrap() = NextHop::StoreGone;
    let local = f.send("a@src.example", &f.anna(), None).await;
    f.operator().reroute_by(local, Some("spare".parse().unwrap()), "ada".to_owned()).await.unwrap();
    f.pass(Duration::from_secs(1)).await;
    assert!(f.queued().contains(&("local:default".to_owned(), 1)), "{:?}", f.queued());
}

#[tokio::test(start_paused = true)]
async fn a_suspended_connector_sends_nothing_until_it_is_resumed() {
    let f = Fixture::new(NextHop::Takes).await;
    let name: Name = "default".parse().unwrap();
    f.operator().suspend(&name, "test".into()).await.unwrap();
    f.send(&f.anna(), "b@dst.example", None).await;
    f.send("a@src.example", &f.anna(), None).await;
    f.pass(HOUR).await;
    let queue: QueueName = "dns:default:dst.example".parse().unwrap();
    assert_eq!(f.queued(), [(queue.to_string(), 1)]);
    assert_eq!(f.queue.queue(&queue).await.unwrap().state, QueueState::Suspended);
    assert!(f.again().suspended(&name).is_some_and(|suspended| suspended.by == "test"));
    // a freeze is another thing: thawing does not resume, and resuming does not thaw
    f.queue.freeze_queue(&queue).await.unwrap();
    f.queue.thaw_queue(&queue).await.unwrap();
    f.queue.retry_queue(&queue, "test").await.unwrap();
    f.pass(HOUR).await;
    assert!(f.attempts_of("b@dst.example").is_empty());
    f.queue.freeze_queue(&queue).await.unwrap();
    f.operator().resume(&name).await.unwrap();
    f.pass(HOUR).await;
    assert!(f.attempts_of("b@dst.example").is_empty());
    f.queue.thaw_queue(&queue).await.unwrap();
    f.pass(HOUR).await;
    assert_eq!((f.queued(), f.again().suspended(&name)), (vec![], None));
    // one that is gone is not remembered
    f.operator().suspend(&name, "test".into()).await.unwrap();
    let mut off = json!({"addressSpaces": [{"pattern": "*"}], "route": {"dns": {}}});
    off["enabled"] = json!(false);
    f.put(Collection::Connectors, "default", off).await;
    f.pass(Duration::from_secs(60)).await;
    assert_eq!(f.queue.suspended(&name), None);
}

/// A dead letter: a notification that nobody takes.
async fn dead_letter(f: &Fixture) -> MessageId {
    *f.next_hop.lock().unwrap() = NextHop::Refuses;
    let id = f.send("<>", "b@dst.example", None).await;
    f.pass(Duration::from_secs(10)).await;
    assert_eq!(f.queued(), [("deadLetter".to_owned(), 1)]);
    id
}

#[tokio::test(start_paused = true)]
async fn dead_letters_go_on_their_way_again_as_if_they_had_just_come() {
    let f = Fixture::new(NextHop::Refuses).await;
    let id = dead_letter(&f).await;
    f.pass(HOUR * 24 * 7).await;
    *f.next_hop.lock().unwrap() = NextHop::Defers;
    f.queue.freeze(id, "ada").await.unwrap();
    assert_eq!(f.operator().resubmit_it(id).await, Ok(id));
    f.pass(HOUR * 40).await;
    let message = f.store.messages().into_iter().find(|message| message.id == id).unwrap();
    let recipient = &message.recipients[0];
    assert_eq!((recipient.status, message.frozen), (RecipientStatus::Pending, false));
    assert!(recipient.attempts > 5, "it does not expire for what was before");
    assert_eq!(f.events(id).await[..3], ["failed", "deadLettered", "frozen"]);
    assert!(f.events(id).await.contains(&"resubmitted".to_owned()));
    assert!(f.operator().resubmit_it(id).await.is_err(), "it is no dead letter");
    f.pass(HOUR * 10).await;
    assert_eq!(f.queued(), [("deadLetter".to_owned(), 1)], "then it does");
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    let order = Order { action: BulkAction::Resubmit, ndr: false, connector: None };
    f.send(&f.anna(), "c@dst.example", None).await;
    let begun = f.operator().begin(order, filter(json!({"state": "deadLetter"})), "test".into()).await.unwrap();
    let ended = f.ended(&begun).await;
    assert_eq!((ended.total, ended.done), (Some(1), 1));
    f.pass(HOUR).await;
    assert_eq!(f.queued(), []);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_goes_to_others_in_one_step() {
    let f = Fixture::new(NextHop::Refuses).await;
    let id = dead_letter(&f).await;
    *f.next_hop.lock().unwrap() = NextHop::Dead;
    let to = |text: &str| text.parse::<ForwardPath>().unwrap();
    let operator = f.operator();
    let nobody = to(&format!("nobody@{}", f.default_domain()));
    match Steer::resubmit(&operator, id, Some(vec![to("c@dst.example"), nobody]), "ada".to_owned()).await {
        Err(ResubmitError::Recipients(wrong)) => assert_eq!(wrong[0].0, 1),
        other => panic!("{other:?}"),
    }
    assert_eq!(f.queued(), [("deadLetter".to_owned(), 1)], "nothing has changed");
    let content = f.store.content_of(id);
    let all = vec![to("c@dst.example"), to(&f.anna()), to("c@dst.example")];
    let new = Steer::resubmit(&operator, id, Some(all), "ada".to_owned()).await.unwrap();
    assert_ne!(new, id);
    assert_eq!(f.store.content_of(new), content);
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.pass(HOUR).await;
    assert!(f.queued().is_empty() && !f.attempts_of("c@dst.example").is_empty());
    assert_eq!(f.attempts_of(&f.anna()).len(), 1);
    assert_eq!(f.events(id).await.last().unwrap(), "resubmitted");
}

trait ResubmitIt {
    async fn resubmit_it(&self, id: MessageId) -> Result<MessageId, String>;
}

impl ResubmitIt for Operator {
    async fn resubmit_it(&self, id: MessageId) -> Result<MessageId, String> {
        Steer::resubmit(self, id, None, "ada".to_owned()).await.map_err(|error| error.to_string())
    }
}

#[tokio::test(start_paused = true)]
async fn filters_find_by_next_hop_subject_and_status_and_sort() {
    let f = Fixture::new(NextHop::Defers).await;
    f.put(Collection::Connectors, "hub", Fixture::smart_host("192.0.2.1", "*.hub.example")).await;
    f.send(&f.anna(), "a@dst.example", None).await;
    f.pass(Duration::from_secs(5)).await;
    *f.next_hop.lock().unwrap() = NextHop::Dead;
    f.send_sized(&f.anna(), "b@x.hub.example", 9_000).await;
    f.send_sized(&f.anna(), "c@x.hub.example", 5_000).await;
    f.pass(Duration::from_secs(5)).await;
    let count = |wanted: Value| {
        let queue = f.queue.clone();
        async move { queue.messages(&filter(wanted), None, 100).await.unwrap().items.len() }
    };
    for (wanted, found) in [
        (json!({"nextHop": "dst.example"}), 1),
        (json!({"nextHop": "192.0.2.1"}), 2),
        (json!({"nextHop": "192.0.2.1:25"}), 2),
        (json!({"nextHop": "192.0.2.1:26"}), 0),
        (json!({"status": "deferred"}), 1),
        (json!({"status": "pending"}), 2),
        (json!({"status": "failed"}), 0),
        (json!({"subject": "hello"}), 0),
        (json!({"since": "2026-01-01T00:00:00Z"}), 3),
        (json!({"since": "2100-01-01T00:00:00Z"}), 0),
        (json!({"until": "2026-01-01T00:00:00Z"}), 0),
    ] {
        assert_eq!(count(wanted.clone()).await, found, "{wanted}");
    }
    let names = |page: &crate::queue::sorting::SortedPage| -> Vec<String> {
        page.items.iter().map(|message| message.recipients[0].forward_path.to_string()).collect()
    };
    let all = MessageFilter::default();
    let first = f.operator().sorted(&all, Sort::Size, Place::default(), 2).await.unwrap();
    assert_eq!(names(&first), ["b@x.hub.example", "c@x.hub.example"]);
    let second = f.operator().sorted(&all, Sort::Size, first.next.unwrap(), 2).await.unwrap();
    assert_eq!((names(&second), second.next), (vec!["a@dst.example".to_owned()], None));
    let next = f.operator().sorted(&all, Sort::NextRetry, Place::default(), 10).await.unwrap();
    assert_eq!(names(&next)[2], "a@dst.example", "it was put off");
}

#[tokio::test(start_paused = true)]
async fn a_queue_goes_into_a_file_and_back_with_its_ids() {
    let f = Fixture::new(NextHop::Dead).await;
    let dead = dead_letter(&f).await;
    *f.next_hop.lock().unwrap() = NextHop::Defers;
    let large = f.send_sized(&f.anna(), "b@dst.example", 200_000).await;
    f.pass(Duration::from_secs(200)).await;
    let file = f.export().await;
    let before: Vec<Message> = f.store.messages().iter().map(|message| Message::clone(message)).collect();
    let content = f.store.content_of(large);
    let same = f.import(&file, false, false).await;
    assert_eq!((same.imported, same.skipped, same.failed, same.complete), (0, 2, 0, true));

    let g = Fixture::new(NextHop::Dead).await;
    let dry = g.import(&file, false, true).await;
    assert_eq!((dry.imported, dry.errors.len(), g.store.messages().len()), (2, 0, 0));
    let done = g.import(&file, false, false).await;
    assert_eq!((done.imported, done.skipped, done.failed, done.complete), (2, 0, 0, true), "{:?}", done.errors);
    let after: Vec<Message> = g.store.messages().iter().map(|message| Message::clone(message)).collect();
    assert_eq!(after, before);
    assert_eq!(g.store.content_of(large), content);
    assert_eq!(g.import(&file, false, false).await.skipped, 2);
    *g.next_hop.lock().unwrap() = NextHop::Takes;
    g.pass(HOUR).await;
    assert_eq!(g.queued(), [("deadLetter".to_owned(), 1)]);
    assert!(g.store.messages()[0].id == dead);

    let h = Fixture::new(NextHop::Takes).await;
    assert_eq!(h.import(&file, true, false).await.imported, 2);
    h.pass(HOUR).await;
    assert!(h.store.messages().len() == 2 && h.store.messages().iter().all(|message| message.frozen));
    assert!(h.operator().import(false, false).is_ok());
    let first = h.operator().import(false, false).unwrap();
    assert!(h.operator().import(false, false).is_err(), "one at a time");
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn what_is_broken_in_a_file_is_named_and_the_rest_is_taken() {
    let f = Fixture::new(NextHop::Dead).await;
    for n in 0..4 {
        f.send(&f.anna(), &format!("u{n}@dst.example"), None).await;
    }
    let file = String::from_utf8(f.export().await).unwrap();
    let lines: Vec<&str> = file.lines().collect();
    assert_eq!(lines.len(), 14);
    let broken = |at: usize, from: &str, to: &str| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        assert!(lines[at].contains(from), "{}", lines[at]);
        lines[at] = lines[at].replace(from, to);
        lines.join("\n")
    };
    let ends: String = lines[3].split("blake3\":\"").nth(1).unwrap().chars().take(12).collect();
    for (what, file, imported) in [
        ("cannot be read", broken(1, "{\"message\"", "{\"message"), 3),
        ("unknown field", broken(1, "\"size\"", "\"sise\""), 3),
        ("base64", broken(2, "\"content\":\"", "\"content\":\"*"), 3),
        ("checksum", broken(3, &ends, "zzzz"), 3),
        ("size or id", broken(1, "\"size\":2", "\"size\":9"), 3),
        ("control characters", broken(1, "\"helo\":null", "\"helo\":\"a\\r\\nRCPT TO:<x@y>\""), 3),
        ("neither waits nor is done", broken(1, "\"pending\"", "\"relayed\""), 3),
        ("does not belong", lines[..1].iter().chain(&lines[2..]).copied().collect::<Vec<_>>().join("\n"), 3),
        ("has no end", lines[..3].iter().chain(&lines[4..]).copied().collect::<Vec<_>>().join("\n"), 3),
        ("not that of an exported queue", lines[1..].join("\n"), 4),
    ] {
        let g = Fixture::new(NextHop::Dead).await;
        let done = g.import(file.as_bytes(), false, false).await;
        assert_eq!((done.imported, g.store.messages().len() as u64), (imported, imported), "{what}: {done:?}");
        assert!(done.failed > 0 && done.errors.iter().any(|(_, _, words)| words.contains(what)), "{what}: {done:?}");
    }
    let g = Fixture::new(NextHop::Dead).await;
    let cut = g.import(lines[..7].join("\n").as_bytes(), false, false).await;
    assert_eq!((cut.imported, cut.complete), (2, false));
}

#[tokio::test(start_paused = true)]
async fn events_name_who_asked_and_only_for_what_somebody_asked() {
    let f = Fixture::new(NextHop::Defers).await;
    let id = f.send(&f.anna(), "b@dst.example", None).await;
    f.pass(Duration::from_secs(10)).await;
    f.queue.freeze(id, "fay").await.unwrap();
    f.queue.thaw(id, "tom").await.unwrap();
    f.queue.retry(id, "rita").await.unwrap();
    f.operator().reroute_by(id, None, "rob".to_owned()).await.unwrap();
    // it is not in the hands of a worker when the hold comes
    f.pass(Duration::from_secs(10)).await;
    let selector: HoldSelector = serde_json::from_value(json!({"recipient": "b@dst.example"})).unwrap();
    let (hold, moving) = f.operator().hold(selector, "why".to_owned(), None, "hal".to_owned()).await.unwrap();
    f.pass(Duration::from_secs(10)).await;
    assert!(moving.is_some());
    f.operator().end_hold(hold.id, "ren".to_owned()).await.unwrap();
    f.pass(Duration::from_secs(10)).await;
    f.queue.delete(id, false, "dee").await.unwrap();
    let word = |event: &Value, field: &str| event[field].as_str().unwrap_or("-").to_owned();
    // what comes while there is a hold is held by whoever made that
    let selector: HoldSelector = serde_json::from_value(json!({"recipient": "c@dst.example"})).unwrap();
    f.operator().hold(selector, "why".to_owned(), None, "hal".to_owned()).await.unwrap();
    let later = f.send(&f.anna(), "c@dst.example", None).await;
    f.pass(Duration::from_secs(10)).await;
    let events = Operate::events(&*f.queue, later, None, 1_000).await.unwrap().items;
    let held: Vec<_> = events.iter().filter(|event| event["event"] == "held").map(|event| word(event, "by")).collect();
    assert_eq!(held, ["hal"], "{events:#?}");
    let events = Operate::events(&*f.queue, id, None, 1_000).await.unwrap().items;
    let mut named: Vec<_> = events.iter().map(|event| (word(event, "event"), word(event, "by"))).collect();
    named.retain(|(_, by)| by != "-");
    let expected = [
        ("frozen", "fay"),
        ("thawed", "tom"),
        ("retried", "rita"),
        ("rerouted", "rob"),
        ("held", "hal"),
        ("released", "ren"),
        ("removed", "dee"),
    ];
    assert_eq!(named, expected.map(|(event, by)| (event.to_owned(), by.to_owned())), "{events:#?}");
    assert!(events.iter().any(|event| event["event"] == "deferred"), "{events:#?}");
}
