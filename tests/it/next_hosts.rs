//! Several hosts of one next hop: who is asked when, and what one that puts mail off means for the others.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::appliance::{Appliance, Smtp, eventually};
use super::name_server::{Dns, Says};
use super::scripted_hop::{Hop, Script};

const MESSAGE: &[u8] = b"Subject: x\r\n\r\ntext\r\n";

/// All mail goes to these smart hosts, the first one first.
fn appliance_before(hosts: &[&Hop], more: &Value) -> Appliance {
    let appliance = Appliance::start();
    let hosts: Vec<Value> = (0..)
        .zip(hosts)
        .map(|(priority, hop)| json!({ "host": hop.address.ip(), "port": hop.address.port(), "priority": priority }))
        .collect();
    let mut spec = json!({ "addressSpaces": [{ "pattern": "*" }], "route": { "smartHosts": hosts } });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    appliance.put("connectors/default", spec);
    let slow = json!({ "glitchRetry": { "times": 0 }, "retryIntervals": ["1h"] });
    appliance.patch("virtual-servers/default", json!({ "relay": { "allow": ["127.0.0.0/8"] }, "delivery": slow }));
    appliance
}

fn takes(_: usize, _: usize, _: &str) -> Option<&'static str> {
    None
}

fn refused_at(line: &str, what: &str, reply: &'static str) -> Option<&'static str> {
    (line.starts_with(what)).then_some(reply)
}

#[test]
fn the_next_host_gets_what_one_puts_off_at_any_point_and_each_is_asked_once() {
    let scripts: [(&str, Script); 8] = [
        ("MAIL", |_, _, line| refused_at(line, "MAIL", "451 4.3.0 later")),
        ("RCPT", |_, _, line| refused_at(line, "RCPT", "450 4.2.0 greylisted")),
        ("RCPT 452", |_, _, line| refused_at(line, "RCPT", "452 4.2.2 full")),
        ("DATA", |_, _, line| refused_at(line, "DATA", "451 4.3.0 later")),
        ("the dot", |_, _, line| refused_at(line, ".", "451 4.3.0 later")),
        ("421 at RCPT", |_, _, line| refused_at(line, "RCPT", "421 4.3.2 going down")),
        ("421 at the dot", |_, _, line| refused_at(line, ".", "421 4.3.2 going down")),
        ("garbage", |_, _, line| refused_at(line, "DATA", "what?")),
    ];
    for (name, script) in scripts {
        let (first, second, third) = (Hop::up(script), Hop::up(script), Hop::up(takes));
        let appliance = appliance_before(&[&first, &second, &third], &json!({}));
        Smtp::open(appliance.smtp()).mail("s@far.example", &["u@far.example"], MESSAGE);
        eventually(name, || (appliance.waiting() == 0).then_some(()));
        let seen = [first.seen().count("MAIL"), second.seen().count("MAIL"), third.seen().taken.len()];
        assert_eq!(seen, [1, 1, 1], "{name}");
    }
}

#[test]
fn a_permanent_reply_is_final_and_a_message_that_all_put_off_waits() {
    let never: Script = |_, _, line| match line {
        _ if line.starts_with("RCPT TO:<never@") => Some("550 5.1.1 nobody"),
        _ if line.starts_with("RCPT TO:<later@") => Some("450 4.2.0 later"),
        _ => None,
    };
    let (first, second) = (Hop::up(never), Hop::up(never));
    let appliance = appliance_before(&[&first, &second], &json!({}));
    let to = ["never@far.example", "later@far.example", "now@far.example"];
    Smtp::open(appliance.smtp()).mail("", &to, MESSAGE);
    let asked = |hop: &Hop, who: &str| hop.seen().count(&format!("RCPT TO:<{who}@"));
    eventually("the second host was asked", || (asked(&second, "later") == 1).then_some(()));
    let attempts = || appliance.get("/api/v1/messages")["items"].to_string();
    eventually("it waits", || attempts().contains(r#""attempts":1"#).then_some(()));
    // a mail later both have been asked no more often
    Smtp::open(appliance.smtp()).mail("", &["now@far.example"], MESSAGE);
    eventually("another goes on", || (first.seen().taken.len() == 2).then_some(()));
    thread::sleep(Duration::from_millis(500));
    for who in ["later", "never"] {
        assert_eq!(asked(&first, who), 1, "{who}");
    }
    assert_eq!((asked(&second, "later"), asked(&second, "never"), asked(&second, "now")), (1, 0, 0));
    assert_eq!(second.seen().taken.len(), 0, "what the first takes is not given to the second");
}

#[test]
fn a_dead_second_host_stops_only_the_message_that_needs_it() {
    let picky: Script = |_, _, line| refused_at(line, "RCPT TO:<later@", "450 4.2.0 later");
    let (first, dead) = (Hop::up(picky), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = dead.local_addr().unwrap();
    drop(dead);
    let appliance = appliance_before(&[&first], &json!({}));
    let hosts = json!([
        { "host": first.address.ip(), "port": first.address.port() },
        { "host": address.ip(), "port": address.port(), "priority": 1 },
    ]);
    appliance
        .put("connectors/default", json!({ "addressSpaces": [{ "pattern": "*" }], "route": { "smartHosts": hosts } }));
    Smtp::open(appliance.smtp()).mail("", &["later@far.example"], MESSAGE);
    let told = || appliance.get("/api/v1/messages")["items"].to_string();
    let told = eventually("it waits", || Some(told()).filter(|items| items.contains(r#""attempts":1"#)));
    assert!(told.contains("450 4.2.0 later"), "what a server said counts more than one that is away: {told}");
    Smtp::open(appliance.smtp()).mail("", &["now@far.example"], MESSAGE);
    eventually("others go on", || (first.seen().taken.len() == 1).then_some(()));
}

#[test]
fn a_session_has_no_more_messages_than_the_next_hop_took_before() {
    // it closes each session with 421 after three messages
    let three: Script = |_, taken, line| (taken >= 3 && line.starts_with("MAIL")).then_some("421 4.7.0 enough for now");
    let hop = Hop::up(three);
    let appliance = appliance_before(&[&hop], &json!({ "limits": { "maxConnections": 1 } }));
    let mut smtp = Smtp::open(appliance.smtp());
    for _ in 0..30 {
        smtp.mail("", &["u@far.example"], MESSAGE);
    }
    eventually("all of it", || (hop.seen().taken.len() == 30).then_some(()));
    let refused = hop.seen().count("MAIL") - 30;
    assert!(refused <= 3, "{refused} sessions ran into the limit");
}

#[test]
fn mail_leaves_from_the_source_addresses_by_turns_and_never_from_another() {
    let once: Script = |_, taken, line| (taken > 0 && line.starts_with("MAIL")).then_some("421 4.7.0 one is enough");
    let hop = Hop::up(once);
    let sources = json!({ "sourceAddresses": ["127.0.0.3", "127.0.0.4"] });
    let appliance = appliance_before(&[&hop], &json!({}));
    appliance.patch("virtual-servers/default", json!({ "outbound": sources }));
    let send = |count: usize| {
        let mut smtp = Smtp::open(appliance.smtp());
        for _ in 0..count {
            let before = hop.seen().taken.len();
            smtp.mail("", &["u@far.example"], MESSAGE);
            eventually("it went", || (hop.seen().taken.len() > before).then_some(()));
        }
    };
    send(6);
    let clients = hop.seen().clients;
    for source in ["127.0.0.3", "127.0.0.4"] {
        assert!(clients.contains(&source.parse().unwrap()), "{clients:?}");
    }
    assert!(clients.iter().all(|client| ["127.0.0.3", "127.0.0.4"].contains(&client.to_string().as_str())));

    // those of the connector go first; one that this machine does not have is passed over
    let spec = |sources: Value| {
        let route = json!({ "smartHosts": [{ "host": hop.address.ip(), "port": hop.address.port() }] });
        json!({ "addressSpaces": [{ "pattern": "*" }], "route": route, "sourceAddresses": sources })
    };
    appliance.put("connectors/default", spec(json!(["192.0.2.77", "127.0.0.5"])));
    let before = hop.seen().clients.len();
    send(3);
    let clients = hop.seen().clients.split_off(before);
    assert!(clients.iter().all(|client| client.to_string() == "127.0.0.5"), "{clients:?}");

    // and with none that can be used, mail waits and says why
    for (name, sources, words) in
        [("gone", json!(["192.0.2.77"]), "192.0.2.77"), ("six", json!(["::1"]), "no source address of the family")]
    {
        let mut spec = spec(sources);
        spec["addressSpaces"][0]["pattern"] = json!(format!("{name}.example"));
        appliance.put(&format!("connectors/{name}"), spec);
        Smtp::open(appliance.smtp()).mail("", &[&format!("u@{name}.example")], MESSAGE);
        eventually(words, || appliance.get("/api/v1/queues").to_string().contains(words).then_some(()));
    }
    for (sources, code) in [(json!(["0.0.0.0"]), "outOfRange"), (json!(["::1", "::1"]), "duplicate")] {
        let answer = appliance.rest("PUT", "/api/v1/connectors/hub", Some(&json!({ "spec": spec(sources) })));
        assert_eq!(answer.status, 422);
        let errors = answer.json()["errors"].to_string();
        assert!(errors.contains(code) && errors.contains("/spec/sourceAddresses/"), "{errors}");
    }
}

#[test]
fn a_name_that_leads_to_a_metadata_address_is_not_connected_to() {
    let names =
        [("metadata.example", Says::Address([169, 254, 169, 254])), ("far.example", Says::Address([127, 0, 0, 1]))];
    let (dns, hop) = (Dns::start(&names), Hop::up(takes));
    let appliance = Appliance::start();
    let outbound = json!({ "port": hop.address.port() });
    let relay = json!({ "allow": ["127.0.0.0/8"] });
    let spec = json!({ "relay": relay, "outbound": outbound, "dnsServers": [dns.address.to_string()] });
    appliance.patch("virtual-servers/default", spec);
    let policy = json!({ "template": "%m@local.example", "primary": true });
    appliance.put("recipient-policies/default", json!({ "addresses": [policy] }));
    appliance.put("recipients/ada", json!({}));
    let to = ["u@metadata.example", "u@[169.254.169.254]", "u@far.example"];
    Smtp::open(appliance.smtp()).mail("ada@local.example", &to, MESSAGE);
    eventually("the others get it", || (hop.seen().taken.len() == 1).then_some(()));
    let reports = eventually("both reports", || Some(appliance.mailbox("ada")).filter(|mail| mail.len() == 2));
    for report in reports {
        let report = String::from_utf8(report).unwrap();
        assert!(report.contains("Status: 5.4.4\r\n") && report.contains("metadata service"), "{report}");
    }
    // a smart host is an operator's to mend
    let route = json!({ "smartHosts": [{ "host": "metadata.example" }] });
    appliance.put("connectors/default", json!({ "addressSpaces": [{ "pattern": "*" }], "route": route }));
    Smtp::open(appliance.smtp()).mail("ada@local.example", &["u@far.example"], MESSAGE);
    eventually("it waits", || appliance.get("/api/v1/queues").to_string().contains("metadata service").then_some(()));
}
