//! Limits of rate, in virtual time.

use super::*;

fn connector(pattern: &str, limits: Value) -> Value {
    json!({"addressSpaces": [{"pattern": pattern}], "route": {"dns": {}}, "limits": limits})
}

fn seconds(attempts: &[Duration]) -> Vec<u64> {
    attempts.iter().map(Duration::as_secs).collect()
}

#[tokio::test(start_paused = true)]
async fn a_connector_sends_no_more_than_its_rate_and_others_go_on() {
    let f = Fixture::new(NextHop::Takes).await;
    f.put(Collection::Connectors, "slow", connector("slow.example", json!({"rate": "10/1m"}))).await;
    for _ in 0..25 {
        f.send("s@src.example", "u@slow.example", None).await;
        f.send("s@src.example", "u@dst.example", None).await;
    }
    f.pass(Duration::from_secs(1)).await;
    assert_eq!(f.attempts_of("u@dst.example").len(), 25, "others do not wait");
    assert_eq!(f.attempts_of("u@slow.example").len(), 1);
    let name: QueueName = "dns:slow:slow.example".parse().unwrap();
    assert_eq!(f.queue.queue(&name).await.unwrap().state, QueueState::Ready, "it has not failed");
    f.pass(Duration::from_secs(200)).await;
    let gone = f.attempts_of("u@slow.example");
    assert_eq!(gone.len(), 25);
    for (first, eleventh) in gone.iter().zip(&gone[10..]) {
        assert!(*eleventh - *first >= Duration::from_secs(60), "{:?}", seconds(&gone));
    }
    assert!(gone[24] <= Duration::from_secs(150), "no slower than it must: {:?}", seconds(&gone));
    assert!(f.store.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_next_hop_has_its_rate_and_all_share_that_of_the_connector() {
    let f = Fixture::new(NextHop::Takes).await;
    let limits = json!({"rate": "60/1m", "ratePerHost": "6/1m"});
    f.put(Collection::Connectors, "slow", connector("*.slow.example", limits)).await;
    for _ in 0..7 {
        for host in ["a", "b", "c"] {
            f.send("s@src.example", &format!("u@{host}.slow.example"), None).await;
        }
    }
    f.pass(Duration::from_secs(120)).await;
    for host in ["a", "b", "c"] {
        let gone = f.attempts_of(&format!("u@{host}.slow.example"));
        assert_eq!(gone.len(), 7, "{host}");
        assert!(gone[6] - gone[0] >= Duration::from_secs(60), "{host}: {:?}", seconds(&gone));
        assert!(gone[6] <= Duration::from_secs(75), "{host}: {:?}", seconds(&gone));
    }
    let all = f.attempts.lock().unwrap().len();
    assert_eq!(all, 21);
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_remembered_while_there_is_nothing_to_send_and_gone_with_the_setting() {
    let f = Fixture::new(NextHop::Takes).await;
    f.put(Collection::Connectors, "slow", connector("slow.example", json!({"ratePerHost": "1/1h"}))).await;
    f.send("s@src.example", "u@slow.example", None).await;
    f.pass(Duration::from_secs(600)).await;
    f.send("s@src.example", "u@slow.example", None).await;
    f.pass(Duration::from_secs(600)).await;
    assert_eq!(f.attempts_of("u@slow.example").len(), 1, "an hour for each");
    f.pass(HOUR).await;
    assert_eq!(seconds(&f.attempts_of("u@slow.example")), [0, 3_600]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_another_host_is_asked_for_is_due_at_once_and_has_one_attempt_in_a_round() {
    let f = Fixture::new(NextHop::AsksNext).await;
    let id = f.send("s@src.example", "u@dst.example", None).await;
    f.pass(Duration::from_secs(5)).await;
    let attempts = f.attempts_of("u@dst.example");
    assert_eq!(attempts.len(), 3, "three hosts, each once: {attempts:?}");
    let message = f.store.messages().into_iter().find(|message| message.id == id).unwrap();
    assert_eq!(message.recipients[0].attempts, 1);
    f.pass(Duration::from_secs(70)).await;
    assert_eq!(f.attempts_of("u@dst.example").len(), 6, "the next round");
    let message = f.store.messages().into_iter().find(|message| message.id == id).unwrap();
    assert_eq!(message.recipients[0].attempts, 2);
}
