//! *Where is my mail*: what keeps it is said, whoever or whatever it is, and nothing is lost among many.

use super::*;
use crate::queue::history::History;
use crate::queue::whereabouts::{Inquiry, RecipientWhereabouts, WhereState, Whereabouts};

impl Fixture {
    async fn where_is(&self, inquiry: Inquiry) -> Whereabouts {
        self.queue.whereabouts(&Inquiry { limit: 10, ..inquiry }).await.unwrap()
    }

    /// Where the only recipient of a message is.
    async fn whereabouts(&self, id: MessageId) -> RecipientWhereabouts {
        let answer = self.where_is(Inquiry { message: Some(id), ..Inquiry::default() }).await;
        answer.items[0].recipients[0].clone()
    }
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
    assert_eq!((it.state, it.next_attempt, it.status.as_deref()), (WhereState::Retrying, next, Some("4.4.1")), "{it:?}");
    assert!(it.words.starts_with("The next hop failed: no connection") && it.words.contains(&next.unwrap().to_string()));
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
    assert_eq!(it.words, "Waits in unrouted: no connector carries mail for this recipient now.", "{it:?}");
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
