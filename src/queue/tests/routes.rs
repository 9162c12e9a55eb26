//! Connectors that are closed, down, or changed while mail waits; and the smart host of a virtual server.

use super::*;
use crate::config::QueuedMail as _;

const MINUTE: Duration = Duration::from_secs(60);

fn hub(pattern: &str, more: &Value) -> Value {
    let mut spec = json!({"addressSpaces": [{"pattern": pattern}], "route": {"smartHosts": [{"host": "127.0.0.1"}]}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

impl Fixture {
    async fn state(&self, queue: &str) -> QueueState {
        self.queue.queue(&queue.parse().unwrap()).await.unwrap().state
    }

    async fn delete(&self, collection: Collection, name: &str) {
        let actor = Actor { key: "test".into(), ..Actor::default() };
        self.configuration.delete(collection, name, &Precondition::default(), &actor, false).await.unwrap();
    }
}

/// The virtual time begins on a Wednesday at 11:06:40 UTC.
#[tokio::test(start_paused = true)]
async fn mail_waits_for_its_schedule_and_large_mail_for_its_own() {
    let f = Fixture::new(NextHop::Takes).await;
    let schedules = json!({
        "schedule": {"windows": [{"from": "12:00", "to": "13:00"}]},
        "oversize": {"largerThan": "1KiB", "schedule": {"windows": [{"from": "22:00", "to": "06:00"}]}},
    });
    f.put(Collection::Connectors, "hub", hub("dst.example", &schedules)).await;
    f.send("s@src.example", "u@dst.example", None).await;
    let large = f.send_sized("s@src.example", "v@dst.example", 2_000).await;
    f.pass(MINUTE).await;
    assert!(f.attempts_of("u@dst.example").is_empty());
    assert_eq!(f.state("smarthost:hub").await, QueueState::Scheduled);
    let view = f.queue.queue(&"smarthost:hub".parse().unwrap()).await.unwrap();
    assert_eq!(view.next_retry.unwrap().to_string(), "2026-11-18T12:00:00.000Z");
    f.pass(HOUR).await;
    about(&f.attempts_of("u@dst.example"), &[53 * 60 + 20]);
    assert!(f.attempts_of("v@dst.example").is_empty(), "it is large");
    assert!(f.events(large).await.contains(&"scheduled".to_owned()), "{:?}", f.events(large).await);
    f.pass(10 * HOUR).await;
    about(&f.attempts_of("v@dst.example"), &[10 * 3600 + 53 * 60 + 20]);
    assert!(f.store.messages().is_empty());
    // 22:07: only large mail goes
    f.send("s@src.example", "w@dst.example", None).await;
    f.send_sized("s@src.example", "x@dst.example", 2_000).await;
    f.pass(MINUTE).await;
    assert_eq!((f.attempts_of("w@dst.example").len(), f.attempts_of("x@dst.example").len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_operator_sends_whatever_the_schedule_says_and_a_new_schedule_holds_at_once() {
    let f = Fixture::new(NextHop::Takes).await;
    let night = json!({"schedule": {"windows": [{"from": "22:00", "to": "06:00"}]}});
    f.put(Collection::Connectors, "hub", hub("dst.example", &night)).await;
    f.send("s@src.example", "u@dst.example", None).await;
    f.pass(MINUTE).await;
    assert_eq!(f.attempts_of("u@dst.example").len(), 0);
    f.queue.retry_queue(&"smarthost:hub".parse().unwrap(), "test").await.unwrap();
    f.pass(Duration::from_secs(1)).await;
    assert_eq!(f.attempts_of("u@dst.example").len(), 1);
    // what comes later waits again
    f.send("s@src.example", "v@dst.example", None).await;
    f.pass(MINUTE).await;
    assert_eq!(f.attempts_of("v@dst.example").len(), 0);
    f.put(Collection::Connectors, "hub", hub("dst.example", &json!({}))).await;
    f.pass(Duration::from_secs(15)).await;
    assert_eq!(f.attempts_of("v@dst.example").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_forces_is_tried_once_when_it_fails() {
    let f = Fixture::new(NextHop::Dead).await;
    let night = json!({"schedule": {"windows": [{"from": "22:00", "to": "06:00"}]}});
    f.put(Collection::Connectors, "hub", hub("dst.example", &night)).await;
    f.send("s@src.example", "u@dst.example", None).await;
    f.pass(MINUTE).await;
    f.queue.retry_queue(&"smarthost:hub".parse().unwrap(), "test").await.unwrap();
    f.pass(5 * HOUR).await;
    assert_eq!(f.attempts_of("u@dst.example").len(), 1);
    assert_eq!(f.state("smarthost:hub").await, QueueState::Scheduled);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_closes_ends_the_flow() {
    let f = Fixture::new(NextHop::Dead).await;
    let morning = json!({"schedule": {"windows": [{"from": "11:00", "to": "12:00"}]}, "retryIntervals": ["10m"]});
    f.put(Collection::Connectors, "hub", hub("dst.example", &morning)).await;
    f.send("s@src.example", "u@dst.example", None).await;
    f.pass(2 * HOUR).await;
    let tried = f.attempts_of("u@dst.example");
    assert!(!tried.is_empty() && tried.iter().all(|time| *time < 54 * MINUTE), "{tried:?}");
    assert_eq!(f.state("smarthost:hub").await, QueueState::Scheduled);
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.pass(22 * HOUR).await;
    assert!(f.store.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn mail_takes_the_dearer_connector_while_the_cheap_one_is_down() {
    let f = Fixture::new(NextHop::Takes).await;
    f.dead.lock().unwrap().insert("smarthost:cheap".into());
    let dear = json!({"addressSpaces": [{"pattern": "dst.example", "cost": 9}]});
    f.put(Collection::Connectors, "cheap", hub("dst.example", &json!({}))).await;
    f.put(Collection::Connectors, "dear", hub("dst.example", &dear)).await;
    for n in 0..3 {
        f.send("s@src.example", &format!("u{n}@dst.example"), None).await;
    }
    f.pass(Duration::from_secs(2)).await;
    assert!(f.store.messages().is_empty(), "{:?}", f.queued());
    assert!(f.queue.down().contains("cheap"));
    // when it is time to try it again, it is preferred again
    f.dead.lock().unwrap().clear();
    f.pass(2 * MINUTE).await;
    f.send("s@src.example", "v@dst.example", None).await;
    f.pass(Duration::from_secs(1)).await;
    assert!(f.queue.down().is_empty());
    assert!(f.store.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_was_down_is_tried_at_once_when_it_is_changed() {
    let f = Fixture::new(NextHop::Takes).await;
    f.dead.lock().unwrap().insert("smarthost:cheap".into());
    let dear = json!({"addressSpaces": [{"pattern": "dst.example", "cost": 9}]});
    f.put(Collection::Connectors, "cheap", hub("dst.example", &json!({}))).await;
    f.put(Collection::Connectors, "dear", hub("dst.example", &dear)).await;
    f.send("s@src.example", "u@dst.example", None).await;
    // it rests for a minute
    f.pass(Duration::from_secs(2)).await;
    assert!(f.queue.down().contains("cheap"));
    f.dead.lock().unwrap().clear();
    // another one says nothing about it
    f.put(Collection::Connectors, "other", hub("other.example", &json!({}))).await;
    f.pass(Duration::from_secs(15)).await;
    assert!(f.queue.down().contains("cheap"));
    f.put(Collection::Connectors, "cheap", hub("dst.example", &json!({"limits": {"maxConnections": 5}}))).await;
    f.pass(Duration::from_secs(15)).await;
    assert!(f.queue.down().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_less_specific_way_is_taken_only_by_a_connector_that_says_so() {
    for (fallback, goes) in [("wait", false), ("lessSpecific", true)] {
        let f = Fixture::new(NextHop::Takes).await;
        f.dead.lock().unwrap().insert("smarthost:hub".into());
        f.put(Collection::Connectors, "hub", hub("dst.example", &json!({"fallback": fallback}))).await;
        f.send("s@src.example", "u@dst.example", None).await;
        f.pass(Duration::from_secs(2)).await;
        assert_eq!(f.store.messages().is_empty(), goes, "{fallback}: {:?}", f.queued());
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_moves_when_the_configuration_changes_and_a_dry_run_has_said_so() {
    let f = Fixture::new(NextHop::Dead).await;
    for n in 0..5 {
        f.send("s@src.example", &format!("u{n}@dst.example"), None).await;
    }
    f.send("s@src.example", "u@other.example", None).await;
    f.pass(20 * MINUTE).await;
    let wanted = hub("dst.example", &json!({}));
    let actor = Actor { key: "test".into(), ..Actor::default() };
    f.configuration.tell_of_mail(f.queue.clone());
    let body = json!({"spec": wanted});
    let told = f.configuration.put(Collection::Connectors, "hub", &body, &Precondition::default(), &actor, true).await;
    let told = told.unwrap().effects.queued_mail.unwrap();
    assert_eq!((told.examined, told.complete, told.moved), (6, true, 5));
    assert_eq!((told.moves[0].from.as_str(), told.moves[0].to.as_str()), ("dns:default:dst.example", "smarthost:hub"));
    f.dead.lock().unwrap().insert("smarthost:hub".into());
    f.put(Collection::Connectors, "hub", wanted).await;
    // though nothing of it is due for minutes
    f.pass(Duration::from_secs(15)).await;
    let mut queued = f.queued();
    queued.sort();
    assert_eq!(queued, [("dns:default:other.example".to_owned(), 1), ("smarthost:hub".to_owned(), 5)]);
    // and nothing is left for it when both are gone
    let candidate = f.queue.snapshot();
    assert_eq!(f.queue.moves(&candidate).await.moved, 0);
}

#[tokio::test(start_paused = true)]
async fn the_smart_host_of_the_virtual_server_takes_what_no_connector_carries() {
    let f = Fixture::new(NextHop::Takes).await;
    f.delete(Collection::Connectors, "default").await;
    f.dead.lock().unwrap().insert("smarthost:smarthost.default".into());
    f.send("s@src.example", "u@dst.example", None).await;
    f.pass(Duration::from_secs(2)).await;
    assert_eq!(f.queued(), [("unrouted".to_owned(), 1)]);
    let server = json!({"bindings": [], "outbound": {"smartHost": "relay.example:2525"}});
    f.put(Collection::VirtualServers, "default", server).await;
    f.pass(Duration::from_secs(15)).await;
    assert_eq!(f.queued(), [("smarthost:smarthost.default".to_owned(), 1)]);
    // directly first: a queue for each domain
    let server = json!({
        "bindings": [], "outbound": {"smartHost": "relay.example:2525", "directBeforeSmartHost": true}
    });
    f.put(Collection::VirtualServers, "default", server).await;
    f.pass(Duration::from_secs(15)).await;
    assert!(f.store.messages().is_empty(), "{:?}", f.queued());
}
