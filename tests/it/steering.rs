//! What operators do with a queue, over REST only, with the real binary.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::appliance::{Appliance, KEY, PATIENCE, Sink, Smtp, eventually};

const DEAD: &str = r#"{"smartHosts": [{"host": "127.0.0.1", "port": 9}]}"#;

/// An appliance whose mail for elsewhere goes to a dead host.
fn appliance() -> Appliance {
    let appliance = Appliance::start();
    appliance.patch("virtual-servers/default", json!({"relay": {"allow": ["127.0.0.0/8"]}}));
    let dead: Value = serde_json::from_str(DEAD).unwrap();
    appliance.put("connectors/default", json!({"addressSpaces": [{"pattern": "*"}], "route": dead}));
    appliance
}

fn send(appliance: &Appliance, from: &str, to: &str) {
    Smtp::open(appliance.smtp()).mail(from, &[to], b"Subject: x\r\n\r\ntext\r\n");
}

#[track_caller]
fn post(appliance: &Appliance, path: &str, body: Value, status: u16) -> Value {
    let answer = appliance.rest("POST", &format!("/api/v1/{path}"), Some(&body));
    assert_eq!(answer.status, status, "{path}: {answer:?}");
    answer.json()
}

fn ended(appliance: &Appliance, id: &Value) -> Value {
    eventually("the operation ends", || {
        let known = appliance.get(&format!("/api/v1/operations/{}", id.as_str().unwrap()));
        (known["state"] != "running").then_some(known)
    })
}

/// What waits in a queue, if there is anything.
fn in_queue(appliance: &Appliance, id: &str) -> u64 {
    let queues = appliance.get("/api/v1/queues");
    let found = queues["items"].as_array().unwrap().iter().find(|queue| queue["id"] == id).cloned();
    found.map_or(0, |queue| queue["messages"].as_u64().unwrap())
}

fn waits_for(appliance: &Appliance, id: &str, count: u64) {
    eventually(&format!("{count} in {id}"), || (in_queue(appliance, id) == count).then_some(()));
}

/// Head and body of an answer that may have no length.
fn raw(appliance: &Appliance, method: &str, path: &str, media: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(appliance.api()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let head = format!(
        "{method} /api/v1/{path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {media}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let mut rest = &answer[end + 4..];
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return (head, rest.to_vec());
    }
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n").expect("a size");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
        if size == 0 {
            return (head, body);
        }
    }
}

#[test]
fn the_next_hop_is_dead_and_its_mail_goes_by_the_spare_connector() {
    let mut appliance = appliance();
    let spare = Sink::up();
    appliance
        .put("connectors/spare", json!({"addressSpaces": [{"pattern": "nobody.example"}], "route": spare.route()}));
    for n in 0..30 {
        send(&appliance, "a@src.example", &format!("u{n}@dst.example"));
    }
    // which queue is in trouble, and why
    let queue = eventually("the failure is seen", || {
        let queues = appliance.get("/api/v1/queues");
        queues["items"].as_array().unwrap().iter().find(|queue| queue["state"] == "retry").cloned()
    });
    assert_eq!((&queue["id"], &queue["nextHop"]), (&json!("smarthost:default"), &json!("127.0.0.1:9")));
    let found = appliance.get("/api/v1/messages?nextHop=127.0.0.1&sort=size&limit=10");
    assert_eq!(found["items"].as_array().unwrap().len(), 10);
    let rest = appliance.get(&format!(
        "/api/v1/messages?nextHop=127.0.0.1&sort=size&limit=100&cursor={}",
        found["nextCursor"].as_str().unwrap()
    ));
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["nextCursor"]), (20, &Value::Null));
    let mut order =
        json!({"action": "reroute", "selector": {"nextHop": "127.0.0.1"}, "parameters": {"connector": "sprae"}});
    let wrong = post(&appliance, "bulk-actions", order.clone(), 422);
    assert_eq!(wrong["errors"][0]["pointer"], "/parameters/connector");
    order["parameters"]["connector"] = json!("spare");
    assert_eq!(post(&appliance, "bulk-actions?dryRun=true", order.clone(), 200)["count"], 30);
    let begun = post(&appliance, "bulk-actions", order, 202);
    let done = ended(&appliance, &begun["id"]);
    assert_eq!((&done["done"], &done["connector"]), (&json!(30), &json!("spare")));
    assert_eq!(spare.wait(30).len(), 30);
    // one by one, and over a kill
    let down = Sink::down();
    appliance.put("connectors/spare", json!({"addressSpaces": [{"pattern": "nobody.example"}], "route": down.route()}));
    send(&appliance, "a@src.example", "late@dst.example");
    let id = appliance.get("/api/v1/messages")["items"][0]["id"].as_str().unwrap().to_owned();
    let wrong = post(&appliance, &format!("messages/{id}/reroute"), json!({"connector": "nobody"}), 422);
    assert_eq!(wrong["errors"][0]["pointer"], "/connector");
    let moved = post(&appliance, &format!("messages/{id}/reroute"), json!({"connector": "spare"}), 200);
    assert_eq!((&moved["connector"], &moved["recipients"][0]["queue"]), (&json!("spare"), &json!("smarthost:spare")));
    let why = post(&appliance, "explain", json!({"messageId": id}), 200);
    assert!(why.to_string().contains("chosenByOperator"), "{why}");
    appliance.kill();
    appliance.start_again();
    waits_for(&appliance, "smarthost:spare", 1);
    let mut up = down;
    up.open();
    appliance.rest("POST", "/api/v1/queues/smarthost:spare/retry", None);
    assert_eq!(up.wait(1).len(), 1);
}

#[test]
fn a_spammers_account_is_held_looked_at_and_deleted_without_a_report() {
    let mut appliance = appliance();
    for n in 0..20 {
        send(&appliance, "spammer@src.example", &format!("v{n}@dst.example"));
    }
    send(&appliance, "ada@src.example", "friend@dst.example");
    let hold = json!({"selector": {"sender": "spammer@src.example"}, "reason": "ticket 4711"});
    let hold = post(&appliance, "holds", hold, 201);
    assert_eq!((&hold["by"], &hold["reason"]), (&json!("bootstrap"), &json!("ticket 4711")));
    assert_eq!(ended(&appliance, &hold["operation"])["state"], "done");
    waits_for(&appliance, "held", 20);
    // what still comes is taken, and held
    send(&appliance, "spammer@src.example", "late@dst.example");
    waits_for(&appliance, "held", 21);
    appliance.kill();
    appliance.start_again();
    send(&appliance, "spammer@src.example", "later@dst.example");
    waits_for(&appliance, "held", 22);
    let list = appliance.get("/api/v1/messages?state=held&limit=5");
    let id = list["items"][0]["id"].as_str().unwrap();
    assert!(post(&appliance, "explain", json!({"messageId": id}), 200).to_string().contains("ticket 4711"));
    let (head, content) = raw(&appliance, "GET", &format!("messages/{id}/content?download=true"), "text/plain", b"");
    assert!(head.contains(&format!("attachment; filename=\"{id}.eml\"")) && head.contains("message/rfc822"), "{head}");
    assert!(String::from_utf8_lossy(&content).ends_with("Subject: x\r\n\r\ntext\r\n"));
    let none = "messages/019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11/content";
    assert_eq!(appliance.rest("GET", &format!("/api/v1/{none}"), None).status, 404);
    let delete = json!({"action": "delete", "selector": {"state": "held", "sender": "spammer@src.example"}});
    let begun = post(&appliance, "bulk-actions", delete, 202);
    assert_eq!(ended(&appliance, &begun["id"])["done"], 22);
    assert_eq!(appliance.waiting(), 1, "the others' mail, and no report");
    let id = hold["id"].as_str().unwrap();
    let over = appliance.rest("DELETE", &format!("/api/v1/holds/{id}"), None);
    assert_eq!((over.status, over.json()), (200, json!({})), "nothing is held");
    assert_eq!(appliance.get("/api/v1/holds")["items"], json!([]));
    assert_eq!(appliance.rest("DELETE", &format!("/api/v1/holds/{id}"), None).status, 404);
}

#[test]
fn all_outbound_mail_is_held_and_goes_when_it_is_let_go() {
    let appliance = Appliance::start();
    appliance.patch("virtual-servers/default", json!({"relay": {"allow": ["127.0.0.0/8"]}}));
    let sink = Sink::up();
    appliance.put("connectors/default", json!({"addressSpaces": [{"pattern": "*"}], "route": sink.route()}));
    for selector in [json!({"apiKey": "k".repeat(129)}), json!({"apiKey": null})] {
        post(&appliance, "holds", json!({"selector": selector}), 422);
    }
    let hold = post(&appliance, "holds", json!({"selector": {"outbound": true}}), 201);
    for n in 0..10 {
        send(&appliance, "a@src.example", &format!("u{n}@dst.example"));
    }
    waits_for(&appliance, "held", 10);
    assert_eq!(sink.taken().len(), 0);
    let over = appliance.rest("DELETE", &format!("/api/v1/holds/{}", hold["id"].as_str().unwrap()), None);
    assert_eq!(ended(&appliance, &over.json()["operation"])["done"], 10);
    assert_eq!(sink.wait(10).len(), 10);
    for (body, status) in [
        (json!({"selector": {}}), 400),
        (json!({"selector": {"sendr": "<>"}}), 422),
        (json!({"selector": {"sender": "<>"}, "reason": "a\nb"}), 422),
        (json!({"selector": {"sender": "<>"}, "expiresAt": "2020-01-01T00:00:00Z"}), 422),
        (json!({"reason": "x"}), 422),
    ] {
        post(&appliance, "holds", body, status);
    }
}

#[test]
fn a_hold_is_tried_before_and_a_misspelt_one_is_refused() {
    let appliance = appliance();
    send(&appliance, "a@src.example", "u@dst.example");
    waits_for(&appliance, "smarthost:default", 1);
    for (selector, pointer, code) in [
        (json!({"connector": "nope"}), "/selector/connector", "unknownReference"),
        (json!({"account": "nope"}), "/selector/account", "unknownReference"),
        (json!({"virtualServer": "nope"}), "/selector/virtualServer", "unknownReference"),
        (json!({"recipient": "<>"}), "/selector/recipient", "invalidValue"),
        (json!({"apiKey": ""}), "/selector/apiKey", "invalidValue"),
    ] {
        let wrong = post(&appliance, "holds", json!({"selector": selector}), 422);
        assert_eq!((&wrong["errors"][0]["pointer"], &wrong["errors"][0]["code"]), (&json!(pointer), &json!(code)));
    }
    for (selector, count) in [
        (json!({"connector": "default", "virtualServer": "default", "outbound": true}), 1),
        (json!({"sender": "*@*.example"}), 1),
        (json!({"outbound": false}), 0),
    ] {
        let preview = post(&appliance, "holds?dryRun=true", json!({"selector": selector}), 200);
        assert_eq!((&preview["count"], &preview["complete"]), (&json!(count), &json!(true)), "{selector}: {preview}");
    }
    assert_eq!(appliance.get("/api/v1/holds")["items"], json!([]), "nothing was held");
    assert_eq!(in_queue(&appliance, "held"), 0);
}

#[test]
fn every_door_means_the_same_mail_by_the_same_words() {
    let appliance = appliance();
    let spec = json!({"scopes": ["messages:send"]});
    let key = appliance.rest("PUT", "/api/v1/api-keys/shop", Some(&json!({ "spec": spec }))).json();
    for (n, to) in ["u@bücher.example", "u@xn--bcher-kva.example", "u@deep.sub.example"].iter().enumerate() {
        let message = json!({"from": "a@bücher.example", "to": [to], "messageId": format!("{n}@src.example")});
        let sent = appliance.rest_as(key["key"].as_str().unwrap(), "POST", "/api/v1/messages", Some(&message));
        assert_eq!(sent.status, 202, "{sent:?}");
    }
    send(&appliance, "a@src.example", "v@dst.example");
    waits_for(&appliance, "smarthost:default", 4);
    for (field, value, count) in [
        ("recipient", "*@bücher.example", 2),
        ("recipient", "*@xn--bcher-kva.example", 2),
        ("recipient", "U@BÜCHER.example", 2),
        ("recipient", "u@xn--bcher-kva.example", 2),
        ("recipient", "*@*.sub.example", 1),
        ("recipient", "*@sub.example", 0),
        ("sender", "a@xn--bcher-kva.example", 3),
        ("apiKey", "shop", 3),
        ("messageId", "<1@src.example>", 1),
        ("messageId", "1@src.example", 1),
    ] {
        let encoded: String = value.bytes().map(|octet| format!("%{octet:02X}")).collect();
        let counted = |path: &str| appliance.get(path)["items"].as_array().unwrap().len();
        let listed = counted(&format!("/api/v1/messages?{field}={encoded}"));
        let (_, exported) = raw(&appliance, "GET", &format!("queue-export?{field}={encoded}"), "text/plain", b"");
        let exported = String::from_utf8_lossy(&exported).matches("\"message\":{").count();
        let tracked = eventually("events are written", || {
            let found = counted(&format!("/api/v1/tracking?event=received&{field}={encoded}"));
            (found == count || count == 0).then_some(found)
        });
        let mut found = vec![listed, exported, tracked];
        if field != "apiKey" {
            found.push(counted(&format!("/api/v1/tracking/whereabouts?{field}={encoded}")));
        }
        let selector = json!({ field: value });
        let bulk = json!({"action": "freeze", "selector": selector});
        found.push(post(&appliance, "bulk-actions?dryRun=true", bulk, 200)["count"].as_u64().unwrap() as usize);
        if field != "messageId" {
            let held = post(&appliance, "holds?dryRun=true", json!({ "selector": selector }), 200);
            found.push(held["count"].as_u64().unwrap() as usize);
        }
        assert!(found.iter().all(|found| *found == count), "{field}={value}: {found:?}");
    }
    post(&appliance, "holds", json!({"selector": {"recipient": "*@bücher.example"}}), 201);
    waits_for(&appliance, "held", 2);
}

#[test]
fn a_suspended_connector_shows_and_stays_so_over_a_kill() {
    let mut appliance = appliance();
    let sink = Sink::up();
    appliance.put("connectors/default", json!({"addressSpaces": [{"pattern": "*"}], "route": sink.route()}));
    let suspended = appliance.rest("POST", "/api/v1/connectors/default/suspend", None);
    assert_eq!((suspended.status, &suspended.json()["status"]["state"]), (200, &json!("suspended")));
    send(&appliance, "a@src.example", "u@dst.example");
    appliance.kill();
    appliance.start_again();
    let connector = appliance.get("/api/v1/connectors/default");
    assert_eq!(connector["status"]["conditions"][0]["type"], "Overridden", "{connector}");
    assert_eq!(appliance.get("/api/v1/queues/smarthost:default")["state"], "suspended");
    assert_eq!(sink.taken().len(), 0);
    let resumed = appliance.rest("POST", "/api/v1/connectors/default/resume", None);
    assert_eq!(resumed.json()["status"]["state"], "active");
    assert_eq!(sink.wait(1).len(), 1);
    assert_eq!(appliance.rest("POST", "/api/v1/connectors/nobody/suspend", None).status, 404);
}

#[test]
fn a_queue_moves_to_another_machine() {
    let from = appliance();
    for n in 0..25 {
        send(&from, "a@src.example", &format!("u{n}@dst.example"));
    }
    let big = [b"Subject: big\r\n\r\n".as_slice(), "0123456789abcdef\r\n".repeat(40_000).as_bytes()].concat();
    Smtp::open(from.smtp()).mail("a@src.example", &["big@dst.example"], &big);
    let (head, file) = raw(&from, "GET", "queue-export", "text/plain", b"");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/x-ndjson"), "{head}");
    let ids = |appliance: &Appliance| {
        let list = appliance.get("/api/v1/messages?limit=100");
        list["items"].as_array().unwrap().iter().map(|message| message["id"].clone()).collect::<Vec<_>>()
    };
    let to = appliance();
    let import = |query: &str, file: &[u8]| {
        let (head, body) = raw(&to, "POST", &format!("queue-import{query}"), "application/x-ndjson", file);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        serde_json::from_slice::<Value>(&body).unwrap()
    };
    let dry = import("?dryRun=true", &file);
    assert_eq!((&dry["imported"], ids(&to).len()), (&json!(26), 0), "{dry}");
    // a file that was cut: what came is kept, the rest comes with the next try
    let cut = import("?held=true", &file[..file.len() / 2]);
    assert_eq!(cut["complete"], false);
    let rest = import("?held=true", &file);
    assert_eq!(rest["imported"].as_u64().unwrap() + rest["skipped"].as_u64().unwrap(), 26);
    assert_eq!((&rest["failed"], &rest["complete"], &rest["skipped"]), (&json!(0), &json!(true), &cut["imported"]));
    assert_eq!(ids(&to), ids(&from));
    assert_eq!(to.get("/api/v1/messages?state=frozen&limit=100")["items"].as_array().unwrap().len(), 26);
    let sink = Sink::up();
    to.put("connectors/default", json!({"addressSpaces": [{"pattern": "*"}], "route": sink.route()}));
    post(&to, "bulk-actions", json!({"action": "thaw", "selector": {"state": "frozen"}}), 202);
    let taken = sink.wait(26);
    assert!(taken.iter().any(|taken| taken.content.ends_with(&big)), "the large one came whole");
    let (head, _) = raw(&to, "POST", "queue-import", "application/json", b"{}");
    assert!(head.starts_with("HTTP/1.1 415"), "{head}");
}

#[test]
fn dead_letters_are_sent_on_again_over_rest() {
    let mut appliance = appliance();
    // nobody can be told: the sender is the null path
    Smtp::open(appliance.smtp()).mail("", &["u@dst.example"], b"Subject: x\r\n\r\ntext\r\n");
    let id = appliance.get("/api/v1/messages")["items"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("messages/{id}/resubmit");
    assert_eq!(appliance.rest("POST", &format!("/api/v1/{path}"), None).status, 409, "it is no dead letter");
    post(&appliance, &path, json!({"recipients": []}), 422);
    let wrong = post(&appliance, &path, json!({"recipients": ["a@dst.example", "nonsense"]}), 422);
    assert_eq!(wrong["errors"][0]["pointer"], "/recipients/1");
    // expired at once
    let terms = json!({"delivery": {"expireAfter": "1s", "delayNotificationAfter": "1s"}});
    appliance.patch("virtual-servers/default", terms);
    // age is looked at when it starts
    appliance.kill();
    appliance.start_again();
    waits_for(&appliance, "deadLetter", 1);
    let terms = json!({"delivery": {"expireAfter": "2d", "delayNotificationAfter": "12h"}});
    appliance.patch("virtual-servers/default", terms);
    let again = appliance.rest("POST", &format!("/api/v1/{path}"), None);
    assert_eq!((again.status, &again.json()["recipients"][0]["status"]), (200, &json!("pending")));
    assert_eq!(in_queue(&appliance, "deadLetter"), 0);
}
