//! *Where is my mail*: what keeps it is said, whoever or whatever it is, and nothing is lost among many.

use super::*;
use crate::model::event_kind::EventKind;
use crate::queue::history::{EventFilter, GroupBy, History};
use crate::queue::track::Detail;
use crate::queue::whereabouts::{Inquiry, RecipientWhereabouts, WhereState, Whereabouts};
use crate::store::TrackingStore as _;

impl Fixture {
    async fn where_is(&self, inquiry: Inquiry) -> Whereabouts {
        self.queue.whereabouts(&Inquiry { limit: 10, ..inquiry }).await.unwrap()
    }

    /// Where the only recipient of a message is.
    async fn whereabouts(&self, id: MessageId) -> RecipientWhereabouts {
        let answer = self.where_is(Inquiry { message: Some(id), ..Inquiry::default() }).await;
        answer.items[0].recipients[0].clone()
    }

    /// A message to `u0@far.example` and so on, as it comes; it is not in the queue.
    async fn tracked(&self, recipients: usize) -> Message {
        let id = self.send("s@src.example", "u@far.example", None).await;
        let mut message = Message::clone(&*self.store.message(id).await.unwrap().unwrap());
        (message.id, message.message_id_header) = (MessageId::generate(), Some("1@src.example".to_owned()));
        let one = message.recipients.pop().unwrap();
        let to = |n| Recipient { forward_path: format!("u{n}@far.example").parse().unwrap(), ..one.clone() };
        message.recipients = (0..recipients).map(to).collect();
        self.queue.track_received(&message);
        message
    }

    fn refused(&self, message: Option<MessageId>, recipient: &str) {
        self.queue.track_rejected(Rejection {
            message,
            sender: Some("s@src.example".to_owned()),
            recipients: vec![recipient.to_owned()],
            client: [192, 0, 2, 7].into(),
            account: None,
            session: "1",
            virtual_server: "default",
            reply: &crate::smtp::reply::Reply::new(550, EnhancedStatus::permanent(1, 1), "No such user"),
            rule: "recipient",
            reason: "",
        });
    }
}

fn to(recipient: &str) -> Inquiry {
    Inquiry { recipient: Some(recipient.parse().unwrap()), ..Inquiry::default() }
}

fn at(after: Duration) -> Timestamp {
    Timestamp::from_millis(START) + after
}

#[tokio::test(start_paused = true)]
async fn held_mail_is_told_with_who_why_and_until_when() {
    let f = Fixture::new(NextHop::Takes).await;
    let selector = serde_json::from_value(json!({"connector": "default"})).unwrap();
    let end = at(5 * HOUR);
    let hold = f.operator().hold(selector, "a flood".into(), Some(end), "ada".into()).await.unwrap().0;
    let id = f.send("s@src.example", "u@dst.example", None).await;
    f.pass(HOUR).await;
    let it = f.whereabouts(id).await;
    assert_eq!((it.state, it.queue.as_deref(), it.next_attempt), (WhereState::Held, Some("held"), Some(end)), "{it:?}");
    assert_eq!(it.words, format!("Held by ada: a flood. It waits until the hold ends, at {end} at the latest."));
    // who is held and frozen is frozen: that holds longer
    f.queue.freeze(id, "ada").await.unwrap();
    assert_eq!(f.whereabouts(id).await.state, WhereState::Frozen);
    f.queue.thaw(id, "ada").await.unwrap();
    f.operator().end_hold(hold.id, "ada".into()).await.unwrap();
    f.pass(HOUR).await;
    assert!(f.store.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_keeps_a_whole_queue_is_said_of_each_of_its_messages() {
    let f = Fixture::new(NextHop::Dead).await;
    let id = f.send("s@src.example", "u@dst.example", None).await;
    f.pass(Duration::from_secs(5)).await;
    let queue: QueueName = "dns:default:dst.example".parse().unwrap();
    let next = f.queue.queue(&queue).await.unwrap().next_retry;
    assert!(next > Some(at(Duration::from_secs(30))));
    let it = f.whereabouts(id).await;
    assert_eq!(
        (it.state, it.next_attempt, it.status.as_deref()),
        (WhereState::Retrying, next, Some("4.4.1")),
        "{it:?}"
    );
    assert!(
        it.words.starts_with("The next hop failed: no connection") && it.words.contains(&next.unwrap().to_string())
    );
    // who comes later waits for the same
    let later = f.send("s@src.example", "v@dst.example", None).await;
    f.pass(Duration::from_secs(5)).await;
    let it = f.whereabouts(later).await;
    assert_eq!((it.state, it.next_attempt), (WhereState::Retrying, next), "{it:?}");
    f.queue.freeze_queue(&queue).await.unwrap();
    let it = f.whereabouts(id).await;
    assert_eq!((it.state, it.next_attempt), (WhereState::Frozen, None), "{it:?}");
    assert!(it.words.starts_with("An operator has frozen dns:default:dst.example"), "{it:?}");
    f.queue.thaw_queue(&queue).await.unwrap();
    let connector = "default".parse().unwrap();
    f.operator().suspend(&connector, "ada".into()).await.unwrap();
    let it = f.whereabouts(id).await;
    assert_eq!((it.state, it.next_attempt), (WhereState::Suspended, None), "{it:?}");
    assert!(it.words.contains("ada suspended the connector default at "), "{it:?}");
    f.operator().resume(&connector).await.unwrap();
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.pass(HOUR).await;
    assert_eq!(f.whereabouts(id).await.state, WhereState::Relayed);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_time_is_told_until_when() {
    let f = Fixture::new(NextHop::Takes).await;
    let parameters = MailParameters { hold: Some(Hold::For(7_200)), ..MailParameters::default() };
    let id = f.send_with("s@src.example", "u@dst.example", None, parameters).await;
    let it = f.whereabouts(id).await;
    let until = at(2 * HOUR);
    assert_eq!((it.state, it.next_attempt), (WhereState::Scheduled, Some(until)), "{it:?}");
    assert_eq!(it.words, format!("Waits in dns:default:dst.example until {until}, as its sender wants."));
    let night = json!({
        "addressSpaces": [{"pattern": "night.example"}], "route": {"smartHosts": [{"host": "hub.example"}]},
        "schedule": {"windows": [{"from": "22:00", "to": "23:00"}]}
    });
    f.put(Collection::Connectors, "night", night).await;
    let id = f.send("s@src.example", "u@night.example", None).await;
    f.pass(Duration::from_secs(1)).await;
    let it = f.whereabouts(id).await;
    let opens = it.next_attempt.unwrap();
    assert_eq!(it.state, WhereState::Scheduled, "{it:?}");
    assert!(opens > f.queue.now() && opens < f.queue.now() + 24 * HOUR, "{it:?}");
    assert_eq!(it.words, format!("Waits in smarthost:night until the schedule of its connector opens at {opens}."));
    // nobody carries it
    let elsewhere = json!({"addressSpaces": [{"pattern": "elsewhere.example"}], "route": {"dns": {}}});
    f.put(Collection::Connectors, "default", elsewhere).await;
    let id = f.send("s@src.example", "u@nobody.example", None).await;
    f.pass(Duration::from_secs(1)).await;
    let it = f.whereabouts(id).await;
    assert_eq!((it.state, it.queue.as_deref()), (WhereState::Retrying, Some("unrouted")), "{it:?}");
    assert!(it.words.starts_with("Attempt 1 failed: no connector carries mail for this recipient"), "{it:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_queue_tells_the_last_error_of_its_first_message() {
    let f = Fixture::new(NextHop::Defers).await;
    f.send("s@src.example", "u@dst.example", None).await;
    f.pass(Duration::from_secs(5)).await;
    let again = f.again();
    let queue = again.queue(&"dns:default:dst.example".parse().unwrap()).await.unwrap();
    assert_eq!(queue.last_error.map(|failure| failure.diagnostic), Some("words of the next hop".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn each_of_many_recipients_is_found_and_counted() {
    let f = Fixture::new(NextHop::Dead).await;
    let message = f.tracked(700).await;
    for n in [0, 49, 50, 699] {
        let recipient = format!("u{n}@far.example");
        let answer = f.where_is(to(&recipient)).await;
        let found: Vec<_> = answer.items.iter().map(|it| (it.message, it.recipients[0].recipient.clone())).collect();
        assert_eq!(found, [(message.id, recipient.clone())]);
        assert_eq!(answer.items[0].recipients.len(), 1, "only who is asked for");
        let filter = EventFilter { recipient: recipient.parse().ok(), ..EventFilter::default() };
        let page = f.queue.find_events(&filter, false, None, 10).await.unwrap();
        assert_eq!(page.items.iter().map(|event| &event["event"]).collect::<Vec<_>>(), ["received", "routed"]);
    }
    for event in [EventKind::Received, EventKind::Routed] {
        let filter = EventFilter { events: vec![event], ..EventFilter::default() };
        let counts = f.queue.count_events(&filter, GroupBy::RecipientDomain, None).await.unwrap();
        assert_eq!(counts.groups["far.example"], 700);
    }
    // one message, however many events it has come with
    let f = Fixture::new(NextHop::Dead).await;
    for _ in 0..3 {
        f.tracked(2_000).await;
    }
    let inquiry = Inquiry { message_id: Some("1@src.example".to_owned()), ..Inquiry::default() };
    assert_eq!(f.where_is(inquiry).await.items.len(), 3);
    assert_eq!(f.queue.with_message_id("1@src.example", 2).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn all_events_of_a_message_count_and_what_is_not_told_is_said() {
    let f = Fixture::new(NextHop::Dead).await;
    let message = f.tracked(700).await;
    for event in [EventKind::Deferred, EventKind::Relayed] {
        for recipient in &message.recipients {
            f.queue.track(event, &message, Some(recipient.forward_path.to_string()), Detail::default());
        }
    }
    let inquiry = Inquiry { message: Some(message.id), ..Inquiry::default() };
    let answer = f.where_is(inquiry).await;
    let relayed = answer.items[0].recipients.iter().filter(|it| it.state == WhereState::Relayed).count();
    assert_eq!((relayed, answer.items[0].recipients.len(), answer.complete), (700, 700, true));
    // page by page: 14 times 50 recipients came and were routed
    let first = f.queue.events(message.id, None, 1_000).await.unwrap();
    let second = f.queue.events(message.id, first.next, 1_000).await.unwrap();
    assert_eq!((first.items.len(), second.items.len(), second.next), (1_000, 428, None));
    assert_eq!(second.items[427]["recipients"], json!(["u699@far.example"]));
    // more than an answer has
    let message = f.tracked(1_200).await;
    let answer = f.where_is(Inquiry { message: Some(message.id), ..Inquiry::default() }).await;
    assert_eq!((answer.items[0].recipients.len(), answer.complete), (1_000, false));
    let answer = f.where_is(Inquiry { message: Some(message.id), ..to("u1199@far.example") }).await;
    assert_eq!((answer.items[0].recipients.len(), answer.complete), (1, true));
}

#[tokio::test(start_paused = true)]
async fn refusals_do_not_push_mail_out_of_the_answer() {
    let f = Fixture::new(NextHop::Takes).await;
    let id = f.send("s@src.example", "u@dst.example", None).await;
    f.pass(Duration::from_secs(1)).await;
    (0..25).for_each(|_| f.refused(None, "u@dst.example"));
    let answer = f.where_is(to("u@dst.example")).await;
    assert_eq!(answer.items.iter().map(|it| it.message).collect::<Vec<_>>(), [id]);
    assert_eq!((answer.rejected.len(), answer.complete), (10, false));
    // and the other way round
    for _ in 0..25 {
        f.send("s@src.example", "v@dst.example", None).await;
    }
    f.refused(None, "v@dst.example");
    f.pass(Duration::from_secs(1)).await;
    let answer = f.where_is(to("v@dst.example")).await;
    assert_eq!((answer.items.len(), answer.rejected.len(), answer.complete), (10, 1, false));
    // who was refused is no recipient of what was taken for others
    f.refused(Some(id), "x@dst.example");
    let answer = f.where_is(Inquiry { message: Some(id), ..Inquiry::default() }).await;
    let recipients: Vec<_> = answer.items[0].recipients.iter().map(|it| it.recipient.as_str()).collect();
    assert_eq!((recipients, answer.rejected.len()), (vec!["u@dst.example"], 1));
}

#[tokio::test(start_paused = true)]
async fn all_that_is_given_must_hold_also_beside_a_message() {
    let f = Fixture::new(NextHop::Takes).await;
    // one that has gone, and one of which message tracking knows nothing yet
    let gone = f.tracked(2).await;
    f.pass(Duration::from_secs(1)).await;
    *f.next_hop.lock().unwrap() = NextHop::Dead;
    let waits = f.send("s@src.example", "u1@far.example", None).await;
    f.pass(Duration::from_secs(1)).await;
    assert!(!f.store.has_events(waits).await.unwrap());
    for id in [gone.id, waits] {
        let with = |with: fn(&mut Inquiry)| {
            let mut inquiry = Inquiry { message: Some(id), ..Inquiry::default() };
            with(&mut inquiry);
            inquiry
        };
        for (inquiry, count) in [
            (with(|_| ()), 1),
            (with(|it| it.sender = "s@src.example".parse().ok()), 1),
            (with(|it| it.sender = "other@src.example".parse().ok()), 0),
            (with(|it| it.recipient = "*@far.example".parse().ok()), 1),
            (with(|it| it.recipient = "other@far.example".parse().ok()), 0),
            (with(|it| it.message_id = Some("other@src.example".to_owned())), 0),
            (with(|it| it.until = Some(at(Duration::ZERO))), 0),
            (with(|it| it.since = Some(at(Duration::ZERO))), 1),
        ] {
            assert_eq!(f.where_is(inquiry.clone()).await.items.len(), count, "{inquiry:?}");
        }
    }
    let named =
        |name: &str| Inquiry { message_id: Some(name.to_owned()), message: Some(gone.id), ..Inquiry::default() };
    assert_eq!(f.where_is(named("1@src.example")).await.items.len(), 1);
}
