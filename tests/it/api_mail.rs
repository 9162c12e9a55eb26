//! Queues and messages over REST.

use serde_json::json;

use super::api_house::House;

const NOBODY: &str = "/api/v1/messages/00000000-0000-7000-8000-000000000000";

#[tokio::test]
async fn queues_are_listed_frozen_thawed_and_retried() {
    let house = House::open().await;
    assert_eq!(house.call("GET", "/api/v1/queues").await.json(), json!({"items": []}));
    house.queue.add("a@example.net", "b@example.com", "dns:default:example.com");
    house.queue.add("a@example.net", "c@example.com", "dns:default:example.com");
    house.queue.add("<>", "b@example.org", "unrouted");
    let list = house.call("GET", "/api/v1/queues").await.json();
    assert_eq!(list["items"][0]["id"], "dns:default:example.com");
    assert_eq!(list["items"][0]["kind"], "dns");
    assert_eq!(list["items"][0]["connector"], "default");
    assert_eq!(list["items"][0]["messages"], 2);
    assert_eq!(list["items"][1]["kind"], "unrouted");
    let page = house.call("GET", "/api/v1/queues?limit=1").await.json();
    let cursor = page["nextCursor"].as_str().unwrap();
    let next = house.call("GET", &format!("/api/v1/queues?limit=1&cursor={cursor}")).await.json();
    assert_eq!((&next["items"][0]["id"], &next["nextCursor"]), (&json!("unrouted"), &json!(null)));

    for id in ["dns:default:example.com", "dns%3Adefault%3Aexample.com", "dns%3adefault:example.com"] {
        assert_eq!(house.call("GET", &format!("/api/v1/queues/{id}")).await.json()["state"], "retry");
        assert_eq!(house.call("POST", &format!("/api/v1/queues/{id}/freeze")).await.json()["state"], "frozen");
        assert_eq!(house.call("POST", &format!("/api/v1/queues/{id}/thaw")).await.json()["state"], "retry");
        assert_eq!(house.call("POST", &format!("/api/v1/queues/{id}/retry")).await.status, 200);
    }
    assert_eq!(house.queue.retried.lock().unwrap().len(), 3);
    for id in ["nothing", "dns:default", "smarthost:UPPER", "local:empty", "dns:a:b:c"] {
        house.call("GET", &format!("/api/v1/queues/{id}")).await.is_problem(404, "notFound");
        house.call("POST", &format!("/api/v1/queues/{id}/retry")).await.is_problem(404, "notFound");
    }
}

#[tokio::test]
async fn messages_are_shown_with_the_state_of_each_recipient() {
    let house = House::open().await;
    let id = house.queue.add("a@example.net", "b@example.com", "dns:default:example.com");
    let message = house.call("GET", &format!("/api/v1/messages/{id}")).await.json();
    assert_eq!(
        message,
        json!({
            "id": id.to_string(), "state": "queued", "receivedAt": "2026-11-18T11:06:40.000Z", "size": 0,
            "origin": {"protocol": "esmtp", "virtualServer": "default", "client": "192.0.2.7", "helo": "<img src=x>"},
            "sender": "a@example.net", "messageId": "1@example.net", "priority": 0, "requireTls": false,
            "recipients": [{
                "address": "b@example.com", "status": "pending", "queue": "dns:default:example.com",
                "nextAttempt": "2026-11-18T11:06:40.000Z", "attempts": 1,
                "lastFailure": {
                    "scope": "host", "status": "4.4.1", "permanent": false, "diagnostic": "connection refused",
                    "remoteMta": "mx.example.com"
                }
            }]
        })
    );
    let bounce = house.queue.add("<>", "b@example.com", "deadLetter");
    let message = house.call("GET", &format!("/api/v1/messages/{bounce}")).await.json();
    assert_eq!((&message["sender"], &message["state"]), (&json!(""), &json!("deadLetter")));
    let events = house.call("GET", &format!("/api/v1/messages/{id}/events")).await.json();
    assert_eq!(events["items"][0]["event"], "received");
}

#[tokio::test]
async fn messages_are_filtered_and_listed_in_pages() {
    let house = House::open().await;
    for n in 0..5 {
        let sender = if n == 3 { "<>".to_owned() } else { format!("s{n}@example.net") };
        house.queue.add(&sender, "b@example.com", if n == 4 { "deadLetter" } else { "unrouted" });
    }
    let count = async |query: &str| {
        let answer = house.call("GET", &format!("/api/v1/messages?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        answer.json()["items"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 5);
    assert_eq!(count("state=deadLetter").await, 1);
    assert_eq!(count("queue=unrouted").await, 4);
    assert_eq!(count("sender=%3C%3E").await, 1);
    assert_eq!(count("sender=*@example.net").await, 4);
    assert_eq!(count("sender=S1%40EXAMPLE.net").await, 1);
    assert_eq!(count("largerThan=2KiB").await, 2);
    assert_eq!(count("olderThan=1h&since=2026-01-01T00:00:00Z&connector=default&messageId=%3C1%40x%3E").await, 5);

    let (mut seen, mut next) = (0, String::new());
    loop {
        let page = house.call("GET", &format!("/api/v1/messages?queue=unrouted&limit=3{next}")).await.json();
        seen += page["items"].as_array().unwrap().len();
        assert_eq!(page["scanned"], 5);
        match page["nextCursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, 4);
    house.call("GET", &format!("/api/v1/messages?limit=3{next}")).await.is_problem(400, "badParameter");
}

#[tokio::test]
async fn messages_are_frozen_thawed_retried_and_deleted() {
    let house = House::open().await;
    let id = house.queue.add("a@example.net", "b@example.com", "unrouted");
    let path = format!("/api/v1/messages/{id}");
    assert_eq!(house.call("POST", &format!("{path}/freeze")).await.json()["state"], "frozen");
    assert_eq!(house.call("POST", &format!("{path}/thaw")).await.json()["state"], "queued");
    assert_eq!(house.call("POST", &format!("{path}/retry")).await.json()["id"], id.to_string());

    house.queue.leased.lock().unwrap().insert(id);
    for (method, action) in [("POST", "/freeze"), ("POST", "/thaw"), ("POST", "/retry"), ("DELETE", "")] {
        house.call(method, &format!("{path}{action}")).await.is_problem(409, "conflict");
    }
    house.queue.leased.lock().unwrap().clear();
    house.call("DELETE", &format!("{path}?ndr=maybe")).await.is_problem(400, "badParameter");
    assert_eq!(house.call("DELETE", &format!("{path}?ndr=true")).await.status, 204);
    house.call("DELETE", &path).await.is_problem(404, "notFound");
    let other = house.queue.add("a@example.net", "b@example.com", "unrouted");
    assert_eq!(house.call("DELETE", &format!("/api/v1/messages/{other}")).await.status, 204);
    assert_eq!(*house.queue.deleted.lock().unwrap(), [(id, true), (other, false)]);

    for (method, path) in [
        ("GET", NOBODY.to_owned()),
        ("POST", format!("{NOBODY}/freeze")),
        ("DELETE", NOBODY.to_owned()),
        ("GET", format!("{NOBODY}/events")),
        ("GET", "/api/v1/messages/x".to_owned()),
    ] {
        house.call(method, &path).await.is_problem(404, "notFound");
    }
}
