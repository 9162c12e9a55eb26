//! Mail over REST through the real binary: what is sent arrives and can be followed, what is refused is told with its place, and
//! a message of a batch is known again by its key, also after a kill. What is composed is read by a foreign parser in
//! `tests/peers/test_submission.py`.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::appliance::{Appliance, KEY, Sink, eventually};

/// `local.example` is local and has the mailbox `ada`; all other mail goes to the sink.
fn appliance_before(sink: &Sink) -> Appliance {
    let appliance = Appliance::start();
    let address = json!({ "template": "%m@local.example", "primary": true });
    appliance.put("recipient-policies/default", json!({ "addresses": [address] }));
    appliance.put("recipients/ada", json!({}));
    let everything = json!([{ "pattern": "*", "cost": 1 }]);
    appliance.put("connectors/default", json!({ "addressSpaces": everything, "route": sink.route() }));
    appliance
}

fn send(appliance: &Appliance, path: &str, message: &Value) -> (u16, Value) {
    let answer = appliance.rest("POST", path, Some(message));
    (answer.status, answer.json())
}

#[test]
fn what_is_sent_by_rest_arrives_and_can_be_followed() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    let message = json!({
        "from": {"address": "orders@local.example", "name": "Bücher"}, "to": ["ada@local.example"], "bcc": ["bob@far.example"],
        "subject": "Grüße", "text": ".\nx\n", "headers": {"X-Order": "1"}
    });
    let (status, answer) = send(&appliance, "/api/v1/messages", &message);
    assert_eq!(status, 202, "{answer}");
    let recipients = json!([
        {"address": "ada@local.example", "queue": "local:default"},
        {"address": "bob@far.example", "queue": "smarthost:default"}
    ]);
    assert_eq!(answer["recipients"], recipients);
    let mail = String::from_utf8(appliance.first_mail("ada")).unwrap();
    assert!(mail.contains("with HTTP\r\n") && mail.contains("X-Order: 1\r\n") && !mail.contains("bob@"), "{mail}");
    assert!(mail.contains(&format!("Message-ID: <{}>\r\n", answer["messageId"].as_str().unwrap())), "{mail}");
    let events = answer["links"]["events"].as_str().unwrap();
    eventually("it is relayed", || {
        let events = appliance.get(events);
        events["items"].as_array().unwrap().iter().any(|event| event["event"] == "relayed").then_some(())
    });
}

#[test]
fn nothing_is_sent_when_something_is_wrong_and_all_of_it_is_told() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    let good = json!({"from": "a@local.example", "to": ["ada@local.example"]});
    let with = |field: &str, value: Value| {
        let mut message = good.clone();
        message[field] = value;
        message
    };
    for (message, pointer, code) in [
        (with("to", json!(["ada@local.example", "nobody@local.example"])), "/to/1", "refused"),
        (with("to", json!([])), "/to", "required"),
        (with("to", json!(["a\r\nb@local.example"])), "/to/0", "controlCharacter"),
        (with("subject", json!("a\nBcc: x@y")), "/subject", "controlCharacter"),
        (with("headers", json!({"X": "a\u{0}"})), "/headers/X", "controlCharacter"),
        (with("headers", json!({"Received": "x"})), "/headers/Received", "conflict"),
        (
            with("attachments", json!([{"fileName": "a\r", "content": ""}])),
            "/attachments/0/fileName",
            "controlCharacter",
        ),
        (with("attachments", json!([{"content": "?"}])), "/attachments/0/content", "invalidValue"),
        (with("sendAt", json!("2999-01-01T00:00:00Z")), "/sendAt", "outOfRange"),
        (with("priority", json!(-10)), "/priority", "outOfRange"),
        (with("virtualServer", json!("none")), "/virtualServer", "unknownReference"),
        (with("form", json!("x")), "/form", "unknownField"),
    ] {
        let (status, problem) = send(&appliance, "/api/v1/messages", &message);
        assert_eq!(status, 422, "{message}: {problem}");
        let found = |error: &Value| error["pointer"] == pointer && error["code"] == code;
        assert!(problem["errors"].as_array().unwrap().iter().any(found), "{message}: {problem}");
    }
    let many = with("to", json!(vec!["x"; 20_000]));
    assert_eq!(send(&appliance, "/api/v1/messages", &many).0, 422);
    assert_eq!(appliance.mailbox("ada").len(), 0);
    let (status, answer) = send(
        &appliance,
        "/api/v1/messages?partial=true",
        &with("to", json!(["ada@local.example", "nobody@local.example"])),
    );
    assert_eq!((status, &answer["refused"][0]["rule"]), (202, &json!("unknownRecipient")), "{answer}");
    appliance.first_mail("ada");
}

#[test]
fn a_batch_is_repeated_without_harm_also_after_a_kill() {
    let sink = Sink::up();
    let mut appliance = appliance_before(&sink);
    let item = |n: usize| {
        let message = json!({"from": "a@local.example", "to": ["ada@local.example"], "text": n.to_string()});
        json!({"message": message, "idempotencyKey": format!("key {n}")})
    };
    let batch = json!({"messages": (0..40).map(item).collect::<Vec<_>>()});
    let ids = |answer: &Value| -> Vec<String> {
        let items = answer["items"].as_array().unwrap();
        items.iter().map(|item| item["message"]["id"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let (status, first) = send(&appliance, "/api/v1/messages/batch", &batch);
    assert_eq!((status, &first["accepted"]), (200, &json!(40)), "{first}");
    eventually("all is delivered", || (appliance.mailbox("ada").len() == 40).then_some(()));
    for _ in 0..2 {
        appliance.kill();
        appliance.start_again();
        let (_, again) = send(&appliance, "/api/v1/messages/batch", &batch);
        assert_eq!(ids(&again), ids(&first));
        assert!(again["items"].as_array().unwrap().iter().all(|item| item["replayed"] == true), "{again}");
    }
    let mut other = item(3);
    other["message"]["text"] = json!("other");
    let (_, conflict) = send(&appliance, "/api/v1/messages/batch", &json!({"messages": [other]}));
    assert_eq!(conflict["items"][0]["status"], 409, "{conflict}");
    assert_eq!(appliance.mailbox("ada").len(), 40, "nothing was delivered twice");
}

/// The text of a new API key that may send as anybody of `local.example`, and nothing else.
fn key(appliance: &Appliance, name: &str) -> String {
    let spec = json!({"scopes": ["messages:send"], "sendAs": ["*@local.example"], "quotas": {"messages": "9/1d"}});
    let made = appliance.rest("PUT", &format!("/api/v1/api-keys/{name}"), Some(&json!({ "spec": spec })));
    made.json()["key"].as_str().unwrap().to_owned()
}

#[test]
fn nobody_is_named_as_sender_whom_the_key_may_not_send_as() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    let key = key(&appliance, "shop");
    for (sender, status) in [
        ("boss@local.example", 202),
        ("The Boss <boss@local.example>", 202),
        ("ceo@bank.test", 422),
        ("The Boss\t<ceo@bank.test>", 422),
        ("boss@local.example, ceo@bank.test", 422),
        ("=?utf-8?q?Boss?= <ceo@bank.test>", 422),
        ("nobody", 422),
        ("", 422),
    ] {
        let message = json!({"from": "a@local.example", "to": ["ada@local.example"], "headers": {"sender": sender}});
        let answer = appliance.rest_as(&key, "POST", "/api/v1/messages", Some(&message));
        assert_eq!(answer.status, status, "{sender}: {answer:?}");
        if status == 422 {
            assert_eq!(answer.json()["errors"][0]["pointer"], "/headers/sender", "{answer:?}");
        }
        let text = format!("From: a@local.example\r\nSender: {sender}\r\nTo: ada@local.example\r\n\r\nx\r\n");
        let raw = appliance.raw_as(&key, "POST", "/api/v1/messages", "message/rfc822", &text);
        if sender.contains('@') {
            assert!(raw.0.starts_with(&format!("HTTP/1.1 {status}")), "{sender}: {raw:?}");
        }
    }
    let text = "From: a@local.example\r\nfrom: ceo@bank.test\r\nTo: ada@local.example\r\n\r\nx\r\n";
    let (head, body) = appliance.raw("POST", "/api/v1/messages", "message/rfc822", text);
    assert!(head.starts_with("HTTP/1.1 422") && body.contains("more than one From"), "{head} {body}");
}

#[test]
fn who_may_only_send_follows_and_takes_back_what_he_has_sent() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    let (shop, other) = (key(&appliance, "shop"), key(&appliance, "other"));
    let message = json!({"from": "a@local.example", "to": ["ada@local.example"], "sendAt": later(&appliance)});
    let sent = appliance.rest_as(&shop, "POST", "/api/v1/messages", Some(&message)).json();
    let link = |name: &str| sent["links"][name].as_str().unwrap().to_owned();
    let status = |key: &str, method: &str, path: &str| appliance.rest_as(key, method, path, None).status;
    for path in [link("message"), link("events")] {
        assert_eq!((status(&shop, "GET", &path), status(&other, "GET", &path)), (200, 403), "{path}");
    }
    assert_eq!(status(&shop, "POST", &format!("{}/freeze", link("message"))), 403);
    assert_eq!(status(&shop, "GET", &format!("{}/content", link("message"))), 403);
    assert_eq!(status(&shop, "GET", "/api/v1/messages"), 403);
    assert_eq!(status(&shop, "GET", "/api/v1/messages/019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"), 403);
    assert_eq!(status(&other, "DELETE", &link("message")), 403);
    assert_eq!(status(&shop, "DELETE", &link("message")), 204);
    // what has left the queue is its own all the same
    assert_eq!((status(&shop, "GET", &link("message")), status(&other, "GET", &link("message"))), (404, 403));
    assert_eq!((status(&shop, "GET", &link("events")), status(&other, "GET", &link("events"))), (200, 403));
    let owners = json!({"from": "a@local.example", "to": ["b@far.example"], "sendAt": later(&appliance)});
    let owners = send(&appliance, "/api/v1/messages", &owners).1;
    assert_eq!(status(&shop, "DELETE", owners["links"]["message"].as_str().unwrap()), 403);
}

/// A day from now, by the clock of the appliance.
fn later(appliance: &Appliance) -> String {
    let (_, sent) = send(appliance, "/api/v1/messages", &json!({"from": "a@local.example", "to": ["x@far.example"]}));
    let now: bridgehead::model::time::Timestamp = sent["receivedAt"].as_str().unwrap().parse().unwrap();
    (now + std::time::Duration::from_secs(86_400)).to_string()
}

#[test]
fn what_is_wrong_and_when_to_come_again_is_said_so_that_it_helps() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    let key = key(&appliance, "shop");
    let good = json!({"from": "a@local.example", "to": ["ada@local.example"]});
    let with = |field: &str, value: Value| {
        let mut message = good.clone();
        message[field] = value;
        message
    };
    let (_, problem) = send(&appliance, "/api/v1/messages", &with("sendAt", json!("tomorrow")));
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("RFC 3339"), "{problem}");
    let (_, problem) = send(&appliance, "/api/v1/messages", &json!({"to": ["ada@local.example"]}));
    assert_eq!(
        (&problem["errors"][0]["pointer"], &problem["errors"][0]["code"]),
        (&json!("/from"), &json!("required"))
    );
    let image = |id: &str| json!({"contentId": id, "contentType": "image/png", "content": "AAAA"});
    let html = |ids: [&str; 2]| {
        let mut message = with("html", json!("<img src=\"cid:c\">"));
        message["attachments"] = json!(ids.map(image));
        message
    };
    assert_eq!(send(&appliance, "/api/v1/messages", &html(["<c>", "d"])).0, 202);
    let mail = String::from_utf8(appliance.first_mail("ada")).unwrap();
    assert!(mail.contains("Content-ID: <c>\r\n"), "{mail}");
    let (status, problem) = send(&appliance, "/api/v1/messages", &html(["c", "<c>"]));
    assert_eq!((status, &problem["errors"][0]["code"]), (422, &json!("duplicate")), "{problem}");
    // the same request, whatever the order of its parameters
    let text = "From: a@local.example\r\n\r\nx\r\n";
    let keyed = format!("{KEY}\r\nIdempotency-Key: order-1");
    let raw = |query: &str| {
        let path = format!("/api/v1/messages?{query}");
        appliance.raw_as(&keyed, "POST", &path, "message/rfc822", text).0.to_lowercase()
    };
    assert!(raw("to=ada@local.example&from=a@local.example").starts_with("http/1.1 202"));
    let again = raw("from=a@local.example&to=ada@local.example");
    assert!(again.starts_with("http/1.1 202") && again.contains("idempotency-replayed: true"), "{again}");
    assert!(raw("from=a@local.example&to=bob@far.example").starts_with("http/1.1 409"));
    let batch = json!({"messages": vec![json!({"message": good}); 10]});
    let batch = appliance.rest_as(&key, "POST", "/api/v1/messages/batch", Some(&batch)).json();
    let over = batch["items"].as_array().unwrap().iter().find(|item| item["status"] == 429).unwrap();
    // nine a day
    assert!(over["retryAfter"].as_str().unwrap().starts_with("1d"), "{over}");
    assert!(batch["items"][0].get("retryAfter").is_none(), "{batch}");
}
