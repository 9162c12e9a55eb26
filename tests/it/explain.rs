//! `explain` against what happens: whatever it says of a client, a sender and a recipient, RCPT of the same appliance says too,
//! and what was taken waits where it said.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::appliance::{Appliance, Smtp, eventually};

/// Addresses of this machine; 127.0.0.2 may relay, 127.0.0.9 may not connect.
const CLIENTS: [[u8; 4]; 3] = [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 9]];
const SENDERS: [&str; 5] =
    ["<>", "ada@ours.example", "someone@elsewhere.example", "spam@bad.example", "staff@ours.example"];
const RECIPIENTS: [&str; 13] = [
    "ada@ours.example",
    "nobody@ours.example",
    "ADA+tag@ours.example",
    "postmaster@ours.example",
    "team@ours.example",
    "picky@ours.example",
    "who@shared.example",
    "ada@shared.example",
    "x@partner.example",
    "x@deep.partner.example",
    "x@opened.example",
    "u%partner.example@shared.example",
    "x@far.example",
];

fn appliance() -> Appliance {
    let appliance = Appliance::start();
    appliance.put(
        "recipient-policies/default",
        json!({"addresses": [
            {"template": "%m@ours.example", "primary": true},
            {"template": "%m@shared.example", "authoritative": false}
        ]}),
    );
    appliance.put("recipients/ada", json!({"surname": "Lovelace"}));
    appliance.put("recipients/staff", json!({}));
    appliance.put("recipients/team", json!({"type": "group", "members": ["ada", "x@partner.example"]}));
    appliance.put("recipients/picky", json!({"acceptFrom": ["ada"], "maxReceiveSize": 100}));
    appliance.put("settings", json!({"plusAddressing": true}));
    let dead = json!({"smartHosts": [{"host": "127.0.0.1", "port": 9}]});
    let connector = |spaces: Value, more: Value| {
        let mut spec = json!({"addressSpaces": spaces, "route": dead});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    appliance.put("connectors/default", connector(json!([{"pattern": "far.example", "cost": 5}]), json!({})));
    appliance.put(
        "connectors/system",
        connector(json!([{"pattern": "partner.example"}]), json!({"restrictions": {"nonSystem": false}})),
    );
    appliance.put(
        "connectors/partner",
        connector(json!([{"pattern": "*.partner.example"}, {"pattern": "partner.example", "cost": 9}]), json!({})),
    );
    appliance.put("connectors/opened", connector(json!([{"pattern": "opened.example"}]), json!({"allowRelay": true})));
    appliance.put("filters/bad", json!({"kind": "sender", "deny": ["*@bad.example"], "action": "reject"}));
    appliance.patch(
        "virtual-servers/default",
        json!({
            "bindings": [{"address": "127.0.0.1", "port": 0, "filters": ["bad"]}],
            "relay": {"allow": ["127.0.0.2"]},
            "connectionControl": {"deny": ["127.0.0.9"]},
            // nothing may be delivered before it was looked at
            "delivery": {"retryIntervals": ["1h"]}
        }),
    );
    appliance
}

/// What `explain` says; the only item.
fn explain(appliance: &Appliance, question: &Value) -> Value {
    let answer = appliance.rest("POST", "/api/v1/explain", Some(question));
    assert_eq!(answer.status, 200, "{question}: {}", answer.body);
    answer.json()["items"][0].clone()
}

fn words(client: [u8; 4]) -> String {
    client.map(|octet| octet.to_string()).join(".")
}

/// What RCPT says, or the command before it that was refused.
fn at_the_door(appliance: &Appliance, client: [u8; 4], sender: &str, recipient: &str) -> String {
    let mut smtp = Smtp::connect_from(client, appliance.smtp());
    let reverse = if sender == "<>" { String::new() } else { sender.to_owned() };
    for line in [None, Some("EHLO client.example".to_owned()), Some(format!("MAIL FROM:<{reverse}>"))] {
        if let Some(line) = line {
            smtp.send(format!("{line}\r\n").as_bytes());
        }
        let reply = smtp.reply().unwrap();
        if !reply[0].starts_with('2') {
            return reply[0].clone();
        }
    }
    smtp.send(format!("RCPT TO:<{recipient}>\r\n").as_bytes());
    smtp.reply().unwrap()[0].clone()
}

#[test]
fn what_explain_says_is_what_rcpt_says() {
    let appliance = appliance();
    let mut refused = 0;
    let mut taken = 0;
    for client in CLIENTS {
        for sender in SENDERS {
            for recipient in RECIPIENTS {
                let question = json!({"client": words(client), "sender": sender, "recipient": recipient});
                let told = explain(&appliance, &question);
                let real = at_the_door(&appliance, client, sender, recipient);
                let says = told["reply"].as_str().unwrap_or("250 2.1.5");
                assert!(real.starts_with(&says[..says.len().min(9)]), "{question}\nexplain: {told:#}\nRCPT: {real}");
                assert_eq!(told["accepted"].as_bool().unwrap(), real.starts_with("250"), "{question}");
                if told["accepted"] == true { taken += 1 } else { refused += 1 }
            }
        }
    }
    assert!(taken > 40 && refused > 60, "{taken} taken, {refused} refused: the table has lost its sense");
}

#[test]
fn mail_waits_where_explain_said_and_a_message_is_explained_too() {
    let appliance = appliance();
    let mut smtp = Smtp::connect_from([127, 0, 0, 2], appliance.smtp()).greeted();
    for (sender, recipient) in [
        ("someone@elsewhere.example", "x@partner.example"),
        ("someone@elsewhere.example", "x@far.example"),
        ("<>", "x@partner.example"),
    ] {
        let question = json!({"client": "127.0.0.2", "sender": sender, "recipient": recipient, "size": 100});
        let told = explain(&appliance, &question);
        let queue = told["queue"].as_str().unwrap().to_owned();
        assert_eq!(
            told["nextHops"],
            json!([
                {"name": "127.0.0.1", "address": "127.0.0.1:9", "tls": {"tls": "opportunistic", "source": "builtIn"}}
            ]),
            "{told:#}"
        );
        smtp.mail(sender.trim_matches(['<', '>']), &[recipient], b"Subject: x\r\n\r\ntext\r\n");
        let waits = eventually("the message waits there", || {
            let list = appliance.get(&format!("/api/v1/messages?queue={queue}"));
            list["items"].as_array().unwrap().iter().find(|m| m["recipients"][0]["address"] == recipient).cloned()
        });
        let again = explain(&appliance, &json!({"messageId": waits["id"]}));
        assert_eq!((again["queue"].as_str(), again["recipient"].as_str()), (Some(queue.as_str()), Some(recipient)));
    }
    // what an operator has stopped is said, of mail that waits and of mail that might come
    let coming = json!({"client": "127.0.0.2", "sender": "a@b.example", "recipient": "x@far.example"});
    let id = appliance.get("/api/v1/messages?recipient=x@far.example")["items"][0]["id"].clone();
    let queue = explain(&appliance, &coming)["queue"].as_str().unwrap().to_owned();
    for path in [format!("queues/{queue}/freeze"), "connectors/default/suspend".to_owned()] {
        assert!(appliance.rest("POST", &format!("/api/v1/{path}"), None).status < 300, "{path}");
    }
    for question in [coming, json!({"messageId": id})] {
        let told = explain(&appliance, &question);
        let waits = told["decisions"].as_array().unwrap().iter().filter(|d| d["outcome"] == "waits");
        let waits: Vec<_> = waits.map(|d| format!("{} {}", d["rule"], d["object"]).replace('"', "")).collect();
        assert_eq!(waits, [format!("frozen queues/{queue}"), "suspended connectors/default".to_owned()], "{told:#}");
    }
    // the connector that carries system messages only is named, and why it does not count
    let told =
        explain(&appliance, &json!({"client": "127.0.0.2", "sender": "a@b.example", "recipient": "x@partner.example"}));
    let passed_over: Vec<&Value> =
        told["decisions"].as_array().unwrap().iter().filter(|d| d["outcome"] == "passedOver").collect();
    assert_eq!(passed_over[0]["object"], "connectors/system");
    assert_eq!(passed_over[0]["rule"], "restrictions.nonSystem");
    let sources: Vec<_> = told["effective"].as_array().unwrap().iter().map(|e| e["source"].clone()).collect();
    assert!(sources.contains(&json!("virtual-servers/default")), "{sources:?}");
}

#[test]
fn a_question_that_makes_no_sense_is_told_what_is_wrong() {
    let appliance = Appliance::start();
    for (question, pointer) in [
        (json!({}), "/recipient"),
        (json!({"recipient": "nobody"}), "/recipient"),
        (json!({"recipient": "a@b.example", "sender": "a@@"}), "/sender"),
        (json!({"recipient": "a@b.example", "virtualServer": "none"}), "/virtualServer"),
        (json!({"recipient": "a@b.example", "account": "none"}), "/account"),
        (json!({"recipient": "a@b.example", "priority": 10}), "/priority"),
    ] {
        let answer = appliance.rest("POST", "/api/v1/explain", Some(&question));
        assert_eq!(answer.status, 422, "{question}");
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{question}");
    }
    let gone = json!({"messageId": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"});
    assert_eq!(appliance.rest("POST", "/api/v1/explain", Some(&gone)).status, 404);
}
