//! Actions on many messages over REST, with the real binary: also over a kill.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::appliance::{Appliance, Smtp, eventually};

fn bulk(appliance: &Appliance, query: &str, body: &Value) -> (u16, Value) {
    let answer = appliance.rest("POST", &format!("/api/v1/bulk-actions{query}"), Some(body));
    (answer.status, answer.json())
}

/// An appliance with so many messages for a dead host.
fn appliance(count: usize) -> Appliance {
    let appliance = Appliance::start();
    appliance.patch("virtual-servers/default", json!({"relay": {"allow": ["127.0.0.0/8"]}}));
    let dead = json!({"smartHosts": [{"host": "127.0.0.1", "port": 9}]});
    appliance.put("connectors/default", json!({"addressSpaces": [{"pattern": "*"}], "route": dead}));
    let mut smtp = Smtp::open(appliance.smtp());
    for n in 0..count {
        smtp.mail("a@src.example", &[&format!("u{n}@dst.example")], b"Subject: x\r\n\r\ntext\r\n");
    }
    appliance
}

fn ended(appliance: &Appliance, id: &Value) -> Value {
    eventually("the operation ends", || {
        let known = appliance.get(&format!("/api/v1/operations/{}", id.as_str().unwrap()));
        (known["state"] != "running").then_some(known)
    })
}

#[test]
fn an_action_is_seen_before_followed_and_remembered() {
    let mut appliance = appliance(40);
    let selector = json!({"sender": "*@src.example", "queue": "smarthost:default"});
    let delete = json!({"action": "delete", "selector": selector});
    let (status, preview) = bulk(&appliance, "?dryRun=true", &delete);
    assert_eq!((status, &preview["count"], &preview["complete"]), (200, &json!(40), &json!(true)));
    let (status, begun) = bulk(&appliance, "", &json!({"action": "freeze", "selector": selector}));
    assert_eq!((status, &begun["by"]), (202, &json!("bootstrap")), "{begun}");
    assert_eq!(ended(&appliance, &begun["id"])["done"], 40);
    assert_eq!(appliance.get("/api/v1/messages?state=frozen&limit=100")["items"].as_array().unwrap().len(), 40);
    appliance.kill();
    appliance.start_again();
    assert_eq!(appliance.get("/api/v1/operations")["items"][0]["id"], begun["id"]);
    let (_, begun) = bulk(&appliance, "", &delete);
    let deleted = ended(&appliance, &begun["id"]);
    assert_eq!((&deleted["total"], &deleted["done"]), (&json!(40), &json!(40)));
    assert_eq!(appliance.waiting(), 0);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let appliance = Appliance::start();
    for (body, status) in [
        (json!({"action": "delete", "selector": {}}), 400),
        (json!({"action": "explode", "selector": {"sender": "<>"}}), 422),
        (json!({"action": "delete", "selector": {"sender": "a@@"}}), 422),
        (json!({"action": "delete", "selector": {"sendr": "<>"}}), 422),
        (json!({"action": "delete"}), 422),
    ] {
        for query in ["", "?dryRun=true"] {
            assert_eq!(bulk(&appliance, query, &body).0, status, "{body}");
        }
    }
    let (_, problem) = bulk(&appliance, "", &json!({"selector": {"sender": "<>"}}));
    assert_eq!(
        (&problem["errors"][0]["pointer"], &problem["errors"][0]["code"]),
        (&json!("/action"), &json!("required"))
    );
    let nothing =
        json!({"action": "delete", "selector": {"subject": "", "messageId": "<>", "nextHop": "", "recipient": "<>"}});
    let (status, problem) = bulk(&appliance, "?dryRun=true", &nothing);
    let wrong: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
    let fields = ["/selector/nextHop", "/selector/messageId", "/selector/subject", "/selector/recipient"];
    assert_eq!((status, json!(wrong)), (422, json!(fields)), "{problem}");
    for name in ["subject", "messageId", "nextHop", "apiKey"] {
        assert_eq!(appliance.rest("GET", &format!("/api/v1/messages?{name}="), None).status, 400, "{name}");
    }
    for path in ["messages", "tracking", "tracking/whereabouts", "queue-export"] {
        assert_eq!(appliance.rest("GET", &format!("/api/v1/{path}?recipient=%3C%3E"), None).status, 400, "{path}");
    }
    let body = json!({"action": "delete", "selector": {"sender": "<>"}});
    assert_eq!(bulk(&appliance, "?takeOver=true", &body).0, 400, "nothing here has an owner");
    let long = json!({"action": "delete", "selector": {"messageId": "x".repeat(1_000)}});
    assert_eq!(bulk(&appliance, "", &long).0, 400);
    let none = "/api/v1/operations/019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11";
    assert_eq!(appliance.rest("GET", none, None).status, 404);
    assert_eq!(appliance.rest("POST", &format!("{none}/cancel"), None).status, 404);
}
