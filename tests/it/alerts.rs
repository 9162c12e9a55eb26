//! Alerts over REST, and the real binary: mail to operators straight to a smart host, past the queue and a full disk.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::api_house::House;
use super::appliance::{Appliance, Smtp, eventually};
use super::scripted_hop::Hop;

const PASSWORD: &str = "Tr0ub4dor,=&3";

#[tokio::test]
async fn settings_of_alerts_are_judged_and_their_secrets_kept() {
    let house = House::open().await;
    assert_eq!(house.call("GET", "/api/v1/alerts").await.json(), json!({"told": false, "items": []}));
    house.call("POST", "/api/v1/alerts/test").await.is_problem(409, "conflict");
    let wrong = json!({
        "alerts": {
            "recipients": ["ops@us.example"], "repeatEvery": "1m", "oldestMessage": "1s",
            "smartHost": {"host": "smtp.example.net", "tls": "none", "username": "a", "password": {"value": PASSWORD}}
        },
        "tracing": {"headers": {"x-key": {"value": "k"}}, "timeout": "2m"}
    });
    let refused = house.put("/api/v1/settings", &json!({ "spec": wrong })).await;
    refused.is_problem(422, "invalid");
    let pointers: Vec<String> = refused.errors().into_iter().map(|(pointer, _)| pointer).collect();
    for pointer in ["alerts/repeatEvery", "alerts/oldestMessage", "alerts/smartHost/tls", "tracing/timeout"] {
        assert!(pointers.contains(&format!("/spec/{pointer}")), "{pointer}: {pointers:?}");
    }
    for (wrong, pointer) in [
        (json!({"alerts": {"recipients": ["ops@us.example"]}}), "/spec/alerts/smartHost"),
        (json!({"alerts": {"without": ["BridgeheadDown"]}}), "/spec/alerts/without/0"),
        (json!({"alerts": {"smartHost": {"host": "h.example", "username": "a"}}}), "/spec/alerts/smartHost/password"),
        (json!({"tracing": {"sampleRatio": 1.5}}), "/spec/tracing/sampleRatio"),
        (json!({"tracing": {"endpoint": "http://169.254.169.254/"}}), "/spec/tracing/endpoint"),
        (json!({"tracing": {"headers": {"content-length": {"value": "k"}}}}), "/spec/tracing/headers/content-length"),
    ] {
        let refused = house.put("/api/v1/settings", &json!({ "spec": wrong })).await;
        assert!(refused.errors().iter().any(|(at, _)| at == pointer), "{wrong}: {refused:?}");
    }
    let right = json!({
        "alerts": {
            "recipients": ["ops@us.example", "gone@us.example"],
            "smartHost": {"host": "smtp.example.net", "username": "a", "password": {"value": PASSWORD}}
        },
        "tracing": {
            "endpoint": "http://c.example:4318", "headers": {"X-Key": {"value": "key-of-the-collector"}},
            "sampleRatio": 0.25
        }
    });
    assert_eq!(house.put("/api/v1/settings", &json!({ "spec": right })).await.status, 200);
    let read = house.call("GET", "/api/v1/settings").await;
    assert!(!read.body.contains(PASSWORD) && !read.body.contains("key-of-the-collector"), "{read:?}");
    let spec = read.json()["spec"].clone();
    assert_eq!(spec["alerts"]["smartHost"]["password"]["set"], true, "{spec}");
    assert_eq!(spec["tracing"]["headers"]["x-key"]["set"], true, "{spec}");
    assert_eq!(spec["tracing"]["sampleRatio"], 0.25);
    // what is read can be written back
    let again = house.put("/api/v1/settings", &json!({ "spec": spec })).await;
    assert_eq!(again.header("bridgehead-change"), "unchanged", "{again:?}");
    assert_eq!(house.call("GET", "/api/v1/alerts").await.json()["told"], true);
    let test = house.call("POST", "/api/v1/alerts/test").await;
    assert_eq!(test.status, 200, "{test:?}");
    assert_eq!(
        test.json(),
        json!({"ok": false, "recipients": [
            {"address": "ops@us.example", "ok": true},
            {"address": "gone@us.example", "ok": false, "error": "550 5.1.1 unknown"}
        ]})
    );
    house.call("POST", "/api/v1/alerts/test?x=1").await.is_problem(400, "badParameter");
    let exported = house.call("GET", "/api/v1/config?secrets=include").await;
    assert!(exported.body.contains(PASSWORD) && exported.body.contains("key-of-the-collector"), "{exported:?}");
}

/// Where `far` takes mail of those who log in, for its mailbox `ada`.
fn far() -> (Appliance, String) {
    let far = Appliance::start();
    let identity = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let chain = identity.cert.pem();
    let pair = json!({"chain": {"value": chain}, "privateKey": {"value": identity.signing_key.serialize_pem()}});
    far.put("certificates/mx", pair);
    far.put("recipient-policies/default", json!({"addresses": [{"template": "%m@local.example", "primary": true}]}));
    far.put("recipients/ada", json!({}));
    far.put("accounts/near", json!({"password": {"value": PASSWORD}, "sendAs": ["*"]}));
    for tls in ["starttls", "implicit"] {
        let server = json!({
            "bindings": [{"address": "127.0.0.1", "port": 0, "tls": tls}], "certificates": ["mx"],
            "authentication": {"mechanisms": ["plain", "login"], "requireTls": true, "required": true}
        });
        far.put(&format!("virtual-servers/{tls}"), server);
    }
    (far, chain)
}

#[test]
fn alerts_reach_another_appliance_encrypted_and_logged_in() {
    let (far, chain) = far();
    let near = Appliance::start();
    let set = |tls: &str, password: &str, ca: &str| {
        let port = far.smtp_of(tls).port();
        let host = json!({
            "host": "127.0.0.1", "port": port, "tls": tls, "ca": {"value": ca}, "username": "near",
            "password": {"value": password}
        });
        let alerts = json!({
            "recipients": ["ada@local.example"], "from": "alerts@near.example", "smartHost": host, "tellAfter": "0s",
            "endAfter": "0s"
        });
        near.patch("settings", json!({ "alerts": alerts }));
    };
    let test = || {
        let answer = near.rest("POST", "/api/v1/alerts/test", None);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    for (count, tls) in [(1, "starttls"), (2, "implicit")] {
        set(tls, PASSWORD, &chain);
        let done = test();
        assert_eq!(done["ok"], true, "{tls}: {done}");
        eventually("the test", || (far.mailbox("ada").len() == count).then_some(()));
        set(tls, "another", &chain);
        assert!(test()["recipients"][0]["error"].to_string().contains("does not let us log in"), "{tls}");
        let stranger = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap().cert.pem();
        set(tls, PASSWORD, &stranger);
        assert!(test()["recipients"][0]["error"].to_string().contains("TLS: "), "{tls}");
    }
    let text = String::from_utf8(far.first_mail("ada")).unwrap();
    assert!(text.contains("with ESMTPSA") && text.contains("From: Bridgehead <alerts@near.example>"), "{text}");

    set("starttls", PASSWORD, &chain);
    near.rest("POST", "/api/v1/drain", None);
    let told = |word: &'static str| {
        eventually(word, || {
            let all = far.mailbox("ada").into_iter().map(|mail| String::from_utf8(mail).unwrap().replace("\r\n ", " "));
            all.into_iter().find(|mail| mail.contains("X-Bridgehead-Alert: BridgeheadDraining") && mail.contains(word))
        })
    };
    told("It has been so since");
    let listed = near.get("/api/v1/alerts")["items"][0].clone();
    assert_eq!((&listed["name"], &listed["severity"]), (&json!("BridgeheadDraining"), &json!("warning")), "{listed}");
    eventually("it is noted", || near.get("/api/v1/alerts")["items"][0]["lastSent"].is_string().then_some(()));
    near.rest("DELETE", "/api/v1/drain", None);
    told("Over: The appliance drains");
    assert_eq!(far.mailbox("ada").len(), 4, "two tests, and once each");
    eventually("nothing is wrong", || (near.get("/api/v1/alerts")["items"] == json!([])).then_some(()));
    let metrics = near.rest("GET", "/metrics", None).body;
    assert!(metrics.contains("bridgehead_alerts_total{result=\"sent\"} 4"), "{metrics}");
    assert!(metrics.contains("bridgehead_alerts_total{result=\"failed\"} 4"), "{metrics}");
}

#[test]
fn a_full_disk_is_told_past_the_queue() {
    let hop = Hop::up(|_, _, _| None);
    // more than any disk has
    let appliance = Appliance::start_with(&[("BRIDGEHEAD_RESERVE", "1000000000000000000")]);
    let host = json!({"host": "127.0.0.1", "port": hop.address.port(), "tls": "none"});
    let alerts = json!({"recipients": ["ops@us.example", "night@us.example"], "smartHost": host, "tellAfter": "0s"});
    appliance.patch("settings", json!({ "alerts": alerts }));
    let seen = eventually("the alert", || Some(hop.seen()).filter(|seen| seen.taken.len() == 2));
    assert_eq!(seen.count("RCPT TO:<ops@us.example>"), 1, "{:?}", seen.lines);
    let wrong: Vec<Value> = appliance.get("/api/v1/alerts")["items"].as_array().unwrap().clone();
    assert_eq!(wrong.len(), 1, "one alert for its cause: {wrong:?}");
    assert_eq!(wrong[0]["name"], "BridgeheadDiskFull");
    // mail has no room now, and there was none in the queue
    Smtp::open(appliance.smtp()).expect("MAIL FROM:<a@b.example>", "452 4.3.1");
    assert_eq!(appliance.get("/api/v1/messages")["items"], json!([]));
    let events = appliance.get("/api/v1/tracking");
    let of_alerts = events["items"].as_array().unwrap().iter().filter(|event| event["event"] != "rejected").count();
    assert_eq!(of_alerts, 0, "{events}");
}

/// What is wrong may be just the queue or the store: nothing of an alert may go that way.
#[test]
fn alerts_know_no_way_into_the_queue_or_the_store() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/alerts");
    let sources: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(sources.len() > 4, "the sources were not found");
    for path in sources {
        let source = std::fs::read_to_string(&path).unwrap();
        for way in ["crate::intake", "Spool", "Draft", "ConfigStore", "NoteStore", "ControlStore", "enqueue", ".set("] {
            assert!(!source.contains(way), "{way} in {}", path.display());
        }
    }
}
