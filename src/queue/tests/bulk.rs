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
    let preview = f.operator().preview(&serde_json::from_value(selector.clone()).unwrap()).await.unwrap();
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
    assert!(matches!(f.operator().preview(&MessageFilter::default()).await, Err(BulkError::EmptySelector)));
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
