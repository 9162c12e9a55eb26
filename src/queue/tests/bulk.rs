//! Actions on many messages.

use super::*;
use crate::queue::bulk::{Bulk, BulkAction, BulkError, Operation, OperationState, Order};

impl Fixture {
    pub(super) fn operator(&self) -> Operator {
        Operator(self.queue.clone())
    }

    async fn begin(&self, action: BulkAction, selector: Value) -> Operation {
        let selector = serde_json::from_value(selector).unwrap();
        self.operator().begin(Order { action, ndr: true, connector: None }, selector, "test".into()).await.unwrap()
    }

    /// Waits until it is over.
    pub(super) async fn ended(&self, operation: &Operation) -> Operation {
        for _ in 0..1_000 {
            let known = self.operator().operations().into_iter().find(|known| known.id == operation.id).unwrap();
            if known.state != OperationState::Running {
                return known;
            }
            self.pass(Duration::from_millis(50)).await;
        }
        panic!("it does not end");
    }
}

fn delete() -> Order {
    Order { action: BulkAction::Delete, ndr: false, connector: None }
}

/// `n` messages that wait for a dead host, all received now.
pub(super) async fn backlog(f: &Fixture, n: usize) {
    for index in 0..n {
        let to = if index % 3 == 0 { "dst.example" } else { "other.example" };
        f.send(&f.anna(), &format!("u{index}@{to}"), None).await;
    }
    f.pass(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_selector_means_is_done_and_nothing_else() {
    let f = Fixture::new(NextHop::Dead).await;
    backlog(&f, 1_500).await;
    let selector = json!({"recipient": "*@dst.example"});
    let preview =
        f.operator().preview(BulkAction::Delete, &serde_json::from_value(selector.clone()).unwrap()).await.unwrap();
    assert_eq!((preview.count, preview.complete, preview.sample.len()), (500, true, 10));
    let begun = f.begin(BulkAction::Delete, selector).await;
    // what comes later is not meant
    f.pass(Duration::from_millis(2)).await;
    f.send(&f.anna(), "late@dst.example", None).await;
    let ended = f.ended(&begun).await;
    assert_eq!((ended.total, ended.done, ended.skipped, ended.failed), (Some(500), 500, 0, 0));
    assert_eq!(ended.state, OperationState::Done);
    f.pass(Duration::from_secs(20)).await;
    let mut queued = f.queued();
    queued.sort();
    assert_eq!(queued, [("dns:default:dst.example".to_owned(), 1), ("dns:default:other.example".to_owned(), 1_000)]);
    // a report for each
    assert_eq!(f.attempts_of(&f.anna()).len(), 500);
}

#[tokio::test(start_paused = true)]
async fn all_actions_do_what_they_say() {
    let f = Fixture::new(NextHop::Dead).await;
    backlog(&f, 30).await;
    let everything = json!({"sender": f.anna()});
    f.ended(&f.begin(BulkAction::Freeze, everything.clone()).await).await;
    assert!(f.store.messages().iter().all(|message| message.frozen));
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.pass(Duration::from_secs(600)).await;
    assert_eq!(f.store.messages().len(), 30);
    f.ended(&f.begin(BulkAction::Thaw, json!({"state": "frozen", "recipient": "*@dst.example"})).await).await;
    f.pass(Duration::from_secs(3_600)).await;
    assert_eq!(f.store.messages().len(), 20);
    f.ended(&f.begin(BulkAction::Thaw, everything.clone()).await).await;
    f.ended(&f.begin(BulkAction::Retry, everything).await).await;
    f.pass(Duration::from_secs(5)).await;
    assert!(f.store.messages().is_empty(), "{:?}", f.queued());
}

#[tokio::test(start_paused = true)]
async fn rerouted_mail_goes_where_it_belongs_now() {
    let f = Fixture::new(NextHop::Defers).await;
    backlog(&f, 9).await;
    let hub = json!({"addressSpaces": [{"pattern": "*"}], "route": {"smartHosts": [{"host": "127.0.0.1"}]}});
    f.put(Collection::Connectors, "default", hub).await;
    f.ended(&f.begin(BulkAction::Reroute, json!({"connector": "default"})).await).await;
    assert_eq!(f.queued(), [("smarthost:default".to_owned(), 9)]);
}

#[tokio::test(start_paused = true)]
async fn an_operation_goes_on_after_a_restart_from_where_it_was() {
    let f = Fixture::new(NextHop::Dead).await;
    backlog(&f, 1_200).await;
    let selector: MessageFilter = serde_json::from_value(json!({"sender": f.anna()})).unwrap();
    // as a process leaves it that was killed behind its first note
    let begun = f.begin(BulkAction::Freeze, json!({"sender": f.anna()})).await;
    let half = f.operator().operations().into_iter().find(|known| known.id == begun.id).unwrap();
    f.ended(&begun).await;
    assert_eq!(half.selector.until, selector.fixed(half.started_at).unwrap().until);
    for message in f.store.messages() {
        f.queue.thaw(message.id, "ada").await.unwrap();
    }
    let record = serde_json::to_vec(&half).unwrap();
    crate::store::ControlStore::set(&f.store, &format!("operation/{}", begun.id.simple()), Some(record)).await.unwrap();
    f.queue.resume_operations();
    let ended = f.ended(&begun).await;
    assert_eq!((ended.total, ended.done), (Some(1_200), 1_200));
    assert!(f.store.messages().iter().all(|message| message.frozen));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_not_everything_and_a_cancelled_one_stops() {
    let f = Fixture::new(NextHop::Dead).await;
    backlog(&f, 1_200).await;
    let empty = f.operator().begin(delete(), MessageFilter::default(), "test".into()).await;
    assert!(matches!(empty, Err(BulkError::EmptySelector)));
    assert!(matches!(
        f.operator().preview(BulkAction::Delete, &MessageFilter::default()).await,
        Err(BulkError::EmptySelector)
    ));
    let long = serde_json::from_value(json!({"messageId": "x".repeat(1_000)})).unwrap();
    let long = f.operator().begin(delete(), long, "test".into()).await;
    assert!(matches!(long, Err(BulkError::TooLong)));
    let begun = f.begin(BulkAction::Delete, json!({"sender": f.anna()})).await;
    let cancelled = f.operator().cancel(begun.id).await.unwrap();
    assert_eq!(cancelled.state, OperationState::Cancelled);
    f.pass(Duration::from_secs(10)).await;
    assert!(f.store.messages().len() > 600, "it was cancelled before it was half done");
    assert!(matches!(f.operator().cancel(uuid::Uuid::now_v7()).await, Err(BulkError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn those_are_deleted_who_are_meant_and_the_others_get_their_mail() {
    let f = Fixture::new(NextHop::Dead).await;
    let id = f.send_to(&f.anna(), &["x@one.example", "y@two.example", "z@one.example"].map(str::to_owned), None).await;
    f.pass(Duration::from_secs(10)).await;
    // all that is said of recipients must hold of the same one
    let nobody = json!({"recipient": "x@one.example", "queue": "dns:default:two.example"});
    assert_eq!(f.ended(&f.begin(BulkAction::Delete, nobody).await).await.total, Some(0));
    let begun = f.begin(BulkAction::Delete, json!({"recipient": "*@one.example"})).await;
    let ended = f.ended(&begun).await;
    assert_eq!((ended.total, ended.done, ended.skipped), (Some(1), 1, 0));
    let message = f.store.messages().remove(0);
    let waits: Vec<_> = message.recipients.iter().map(|recipient| recipient.waits.is_some()).collect();
    assert_eq!((message.id, waits), (id, vec![false, true, false]));
    // who is gone already is nothing to delete
    let again = f.ended(&f.begin(BulkAction::Delete, json!({"recipient": "*@one.example"})).await).await;
    assert_eq!((again.total, again.done), (Some(0), 0));
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.attempts.lock().unwrap().clear();
    f.pass(HOUR).await;
    assert_eq!(
        (f.attempts_of("y@two.example").len(), f.attempts.lock().unwrap().len()),
        (1, 1),
        "nobody else is written to"
    );
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_time_goes_on_waiting_whatever_is_done_with_many() {
    let f = Fixture::new(NextHop::Takes).await;
    let parameters = MailParameters { hold: Some(Hold::For(7_200)), ..MailParameters::default() };
    let id = f.send_with(&f.anna(), "u@dst.example", None, parameters).await;
    f.pass(Duration::from_secs(60)).await;
    let queue: QueueName = "dns:default:dst.example".parse().unwrap();
    f.queue.retry_queue(&queue, "ada").await.unwrap();
    let retried = f.ended(&f.begin(BulkAction::Retry, json!({"sender": f.anna()})).await).await;
    assert_eq!((retried.total, retried.done), (Some(0), 0));
    let rerouted = f.ended(&f.begin(BulkAction::Reroute, json!({"sender": f.anna()})).await).await;
    assert_eq!((rerouted.total, rerouted.done), (Some(1), 1));
    f.queue.freeze(id, "ada").await.unwrap();
    f.queue.thaw(id, "ada").await.unwrap();
    f.pass(HOUR).await;
    assert!(f.attempts.lock().unwrap().is_empty(), "nothing before its time");
    f.pass(HOUR).await;
    about(&f.attempts_of("u@dst.example"), &[7_200]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_retried_or_rerouted_has_its_time_before_it() {
    let f = Fixture::new(NextHop::Defers).await;
    for to in ["u0", "u1", "u2"] {
        f.send("<>", &format!("{to}@dst.example"), None).await;
    }
    f.pass(50 * HOUR).await;
    assert_eq!(f.queued(), [("deadLetter".to_owned(), 3)], "expired after two days");
    f.attempts.lock().unwrap().clear();
    for (n, action) in [BulkAction::Retry, BulkAction::Reroute, BulkAction::Resubmit].into_iter().enumerate() {
        let begun = f.begin(action, json!({"queue": "deadLetter", "recipient": format!("u{n}@dst.example")})).await;
        assert_eq!(f.ended(&begun).await.done, 1, "{action:?}");
    }
    f.pass(HOUR).await;
    assert_eq!(f.queued(), [("dns:default:dst.example".to_owned(), 3)], "they are tried for two days");
    for to in ["u0", "u1", "u2"] {
        assert!(f.attempts_of(&format!("{to}@dst.example")).len() > 1);
    }
}

#[tokio::test(start_paused = true)]
async fn mail_that_has_moved_on_since_it_was_read_is_not_meant_any_more() {
    let f = Fixture::new(NextHop::Dead).await;
    let id = f.send(&f.anna(), "u@dst.example", None).await;
    f.pass(Duration::from_secs(10)).await;
    let operation = f.begin(BulkAction::Delete, json!({"state": "frozen"})).await;
    assert_eq!(f.ended(&operation).await.total, Some(0));
    // what it does with one that was frozen when its step was read, and is not when its turn comes
    assert!(matches!(f.queue.act(&operation, id).await, Err(operate::ActionError::NotFound)));
    assert_eq!(f.store.messages().len(), 1);
    f.queue.freeze(id, "ada").await.unwrap();
    f.queue.act(&operation, id).await.unwrap();
    assert!(f.store.messages().iter().all(|message| message.id != id), "only the report is there");
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_tried_there_is_nothing_to_freeze() {
    let f = Fixture::new(NextHop::Refuses).await;
    f.send("<>", "u@dst.example", None).await;
    f.pass(HOUR).await;
    let view = f.queue.queue(&QueueName::DeadLetter).await.unwrap();
    assert_eq!((view.state, view.next_retry), (operate::QueueState::Held, None));
    for queue in [QueueName::DeadLetter, QueueName::Held] {
        assert!(matches!(f.queue.freeze_queue(&queue).await, Err(operate::ActionError::NeverTried)));
    }
}
