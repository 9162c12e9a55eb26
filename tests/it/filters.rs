//! Filters over REST and SMTP: whose mail is not taken, binding by binding, and what becomes of it; with a DNS list.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::appliance::{Appliance, Smtp, eventually};
use super::name_server::{Dns, Says};

const MESSAGE: &[u8] = b"Subject: x\r\n\r\ntext\r\n";

/// `local.example` is local and has the mailbox `ada`; mail is tried again every second.
fn appliance() -> Appliance {
    let appliance = Appliance::start();
    let address = json!({ "template": "%m@local.example", "primary": true });
    appliance.put("recipient-policies/default", json!({ "addresses": [address] }));
    appliance.put("recipients/ada", json!({}));
    appliance
}

/// Two bindings, of which the first has filters.
fn bind(appliance: &Appliance, filters: &[&str]) {
    let bindings = json!([
        { "address": "127.0.0.1", "port": 0, "filters": filters }, { "address": "127.0.0.2", "port": 0 }
    ]);
    appliance.patch("virtual-servers/default", json!({ "bindings": bindings }));
}

fn other_binding(appliance: &Appliance) -> SocketAddr {
    appliance.wait_for_line("the second binding", |line| {
        let address: SocketAddr = line["address"].as_str()?.parse().ok()?;
        (line["message"] == "listening" && address.ip() == Ipv4Addr::new(127, 0, 0, 2)).then_some(address)
    })
}

fn refusal(appliance: &Appliance, rule: &str) -> Value {
    appliance.wait_for_line(rule, |line| {
        (line["message"] == "refused" && line["rule"] == rule).then(|| line["detail"].clone())
    })
}

fn dead_letters(appliance: &Appliance) -> Vec<Value> {
    appliance.get("/api/v1/messages?queue=deadLetter")["items"].as_array().unwrap().clone()
}

fn filtered(appliance: &Appliance, action: &str) -> u64 {
    let metrics = appliance.rest("GET", "/metrics", None).body;
    let row = format!("bridgehead_filtered_total{{action=\"{action}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&row)).map_or(0, |count| count.parse().unwrap())
}

#[test]
fn a_filter_acts_on_the_bindings_that_name_it() {
    let appliance = appliance();
    let unknown = json!({ "spec": { "bindings": [{ "address": "127.0.0.1", "port": 0, "filters": ["senders"] }] } });
    let answer = appliance.rest("PUT", "/api/v1/virtual-servers/default", Some(&unknown));
    assert_eq!(answer.status, 422, "{answer:?}");
    let error = &answer.json()["errors"][0];
    assert_eq!((&error["pointer"], &error["code"]), (&json!("/spec/bindings/0/filters/0"), &json!("unknownReference")));

    appliance.put("filters/senders", json!({ "kind": "sender", "deny": ["*@spam.example"], "blankSender": true }));
    bind(&appliance, &["senders"]);
    let mut filtering = Smtp::open(appliance.smtp());
    filtering.expect("MAIL FROM:<a@spam.example>", "550 5.7.1 Sender refused");
    filtering.expect("MAIL FROM:<>", "550 5.7.1");
    assert_eq!(refusal(&appliance, "senderFilter"), "filter senders: deny *@spam.example");
    filtering.mail("a@ham.example", &["ada@local.example"], MESSAGE);
    let mut open = Smtp::open(other_binding(&appliance));
    open.mail("a@spam.example", &["ada@local.example"], MESSAGE);
    eventually("both messages", || (appliance.mailbox("ada").len() == 2).then_some(()));

    let answer = appliance.rest("DELETE", "/api/v1/filters/senders", None);
    assert_eq!(answer.status, 409, "{answer:?}");
    let error = &answer.json()["errors"][0];
    assert_eq!(error["object"], "virtual-servers/default");
    assert_eq!(error["pointer"], "/spec/bindings/0/filters/0");

    // a change acts on a session that is open
    appliance.patch("filters/senders", json!({ "action": "drop" }));
    filtering.expect("MAIL FROM:<a@spam.example>", "554 5.7.1");
    assert!(filtering.closed());
    assert_eq!((filtered(&appliance, "reject"), filtered(&appliance, "drop")), (2, 1));
    bind(&appliance, &[]);
    assert_eq!(appliance.rest("DELETE", "/api/v1/filters/senders", None).status, 204);
    Smtp::open(appliance.smtp()).mail("a@spam.example", &["ada@local.example"], MESSAGE);
}

#[test]
fn what_is_archived_is_seen_and_can_be_let_go_and_what_is_accepted_silently_is_gone() {
    let appliance = appliance();
    appliance.put("filters/f", json!({ "kind": "sender", "deny": ["*@spam.example"], "action": "archive" }));
    appliance
        .put("filters/unknown", json!({ "kind": "recipient", "notInDirectory": true, "action": "acceptSilently" }));
    bind(&appliance, &["f", "unknown"]);
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.mail("a@spam.example", &["ada@local.example"], MESSAGE);
    let letters = dead_letters(&appliance);
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = &letters[0];
    assert_eq!((&letter["state"], &letter["sender"]), (&json!("deadLetter"), &json!("a@spam.example")));
    let why = letter["recipients"][0]["lastFailure"].to_string();
    assert!(why.contains("archived by filter f: deny *@spam.example"), "{why}");
    let path = format!("/api/v1/messages/{}", letter["id"].as_str().unwrap());
    let events = eventually("the events", || {
        let events = appliance.get(&format!("{path}/events")).to_string();
        events.contains("deadLettered").then_some(events)
    });
    assert!(events.contains("received"), "{events}");

    smtp.mail("a@ham.example", &["nobody@local.example"], MESSAGE);
    smtp.mail("a@ham.example", &["nobody@local.example", "ada@local.example"], MESSAGE);
    let detail = appliance.wait_for_line("accepted silently", |line| {
        (line["message"] == "filtered" && line["action"] == "acceptSilently").then(|| line["detail"].clone())
    });
    assert_eq!(detail, "filter unknown: notInDirectory nobody@local.example");
    appliance.first_mail("ada");
    assert_eq!((appliance.waiting(), dead_letters(&appliance).len(), appliance.mailbox("ada").len()), (0, 1, 1));
    assert_eq!((filtered(&appliance, "archive"), filtered(&appliance, "acceptSilently")), (1, 2));

    // an operator lets go what was archived by mistake
    let answer = appliance.rest("POST", &format!("{path}/retry"), None);
    assert!(answer.status < 300, "{answer:?}");
    eventually("the archived message", || (appliance.mailbox("ada").len() == 2).then_some(()));
    eventually("no dead letter", || dead_letters(&appliance).is_empty().then_some(()));
}

#[test]
fn a_client_on_a_dns_list_is_told_so_at_rcpt() {
    let appliance = appliance();
    let dns = Dns::start(&[
        ("1.0.0.127.bl.example", Says::Address([127, 0, 0, 2])),
        ("1.0.0.127.lame.example", Says::ServFail),
    ]);
    let list = json!([
        { "zone": "lame.example" },
        { "zone": "bl.example", "codes": ["127.0.0.2"], "reply": "%0 is on %2 (rule %1)" }
    ]);
    let exceptions = ["postmaster@local.example"];
    appliance.put("filters/lists", json!({ "kind": "connection", "dnsbl": list, "exceptions": exceptions }));
    appliance.patch("virtual-servers/default", json!({ "dnsServers": [dns.address.to_string()] }));
    bind(&appliance, &["lists"]);
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<a@b.example>", "250");
    assert_eq!(dns.asked("1.0.0.127.bl.example"), 0, "not before there is a recipient");
    smtp.expect("RCPT TO:<postmaster@local.example>", "250");
    assert_eq!(dns.asked("1.0.0.127.bl.example"), 0, "not for an exception");
    smtp.expect("RCPT TO:<ada@local.example>", "550 5.7.1 127.0.0.1 is on bl.example (rule lists)");
    smtp.expect("RSET", "250");
    smtp.expect("MAIL FROM:<a@b.example>", "250");
    smtp.expect("RCPT TO:<ada@local.example>", "550 5.7.1");
    assert_eq!(dns.asked("1.0.0.127.bl.example"), 1);
    assert_eq!(refusal(&appliance, "connectionFilter"), "filter lists: dnsbl bl.example says 127.0.0.2");

    // a list that gives no answer lists nobody; other codes do not count; who may relay is not asked about
    let only = |zone: Value| appliance.put("filters/lists", json!({ "kind": "connection", "dnsbl": [zone] }));
    for zone in [json!({ "zone": "lame.example" }), json!({ "zone": "bl.example", "codes": ["0.0.0.1"] })] {
        only(zone);
        Smtp::open(appliance.smtp()).mail("a@b.example", &["ada@local.example"], MESSAGE);
    }
    only(json!({ "zone": "bl.example" }));
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<a@b.example>", "250");
    smtp.expect("RCPT TO:<ada@local.example>", "550 5.7.1 127.0.0.1 is listed by bl.example");
    smtp.expect("RSET", "250");
    appliance.patch("virtual-servers/default", json!({ "relay": { "allow": ["127.0.0.1"] } }));
    smtp.mail("a@b.example", &["ada@local.example"], MESSAGE);
}
