//! Who is meant and what happens to whom, through the real binary: groups, contacts, forwards, catch-all and plus addresses,
//! restrictions, shared domains; and what the API says when the directory would contradict itself.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::appliance::{Appliance, Sink, Smtp, eventually};

/// `local.example` is ours alone, `shared.example` is shared; loopback may relay; all other mail goes to the sink.
fn appliance_before(sink: &Sink) -> Appliance {
    let appliance = Appliance::start();
    appliance.put(
        "recipient-policies/default",
        json!({ "addresses": [
            { "template": "%m@local.example", "primary": true },
            { "template": "%m@shared.example", "authoritative": false },
        ] }),
    );
    let everything = json!([{ "pattern": "*", "cost": 1 }]);
    appliance.put("connectors/default", json!({ "addressSpaces": everything, "route": sink.route() }));
    appliance
        .patch("virtual-servers/default", json!({ "fqdn": "mx.local.example", "relay": { "allow": ["127.0.0.0/8"] } }));
    for name in ["ada", "bob", "boss"] {
        appliance.put(&format!("recipients/{name}"), json!({}));
    }
    appliance
}

fn message(subject: &str) -> Vec<u8> {
    format!("From: <a@b.example>\r\nSubject: {subject}\r\n\r\ntext\r\n").into_bytes()
}

fn text(mail: &[u8]) -> String {
    String::from_utf8(mail.to_vec()).unwrap()
}

#[track_caller]
fn quiet(appliance: &Appliance) {
    eventually("empty queues", || (appliance.waiting() == 0).then_some(()));
}

#[test]
fn a_group_goes_to_mailboxes_and_outside_and_its_owner_hears_the_rest() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    appliance.put("recipients/pal", json!({ "type": "contact", "forwardTo": ["pal@far.example"] }));
    appliance.put("recipients/inner", json!({ "type": "group", "members": ["ada", "pal", "nobody@far.example"] }));
    let list = json!({ "type": "group", "owner": "boss", "members": ["inner", "ada", "bob", "x@far.example"] });
    appliance.put("recipients/list", list);
    let mut smtp = Smtp::open(appliance.smtp());
    let content = message("to the list");
    smtp.mail("sender@far.example", &["list@local.example", "ada@local.example", "list@shared.example"], &content);

    let bob = text(&appliance.first_mail("bob"));
    assert!(bob.starts_with("Return-Path: <boss@local.example>\r\nDelivered-To: bob@local.example\r\n"), "{bob}");
    assert!(bob.ends_with(&text(&content)), "{bob}");
    let ada = text(&appliance.first_mail("ada"));
    assert!(ada.starts_with("Return-Path: <sender@far.example>\r\n"), "she was named herself: {ada}");
    let taken = sink.wait(1);
    assert_eq!(
        taken[0].to.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        ["<pal@far.example>", "<x@far.example>"].into()
    );
    assert!(taken[0].from.starts_with("<boss@local.example>"), "{}", taken[0].from);
    let report = text(&appliance.first_mail("boss"));
    assert!(report.contains("nobody@far.example") && report.contains("Action: failed"), "{report}");
    quiet(&appliance);
    assert_eq!((appliance.mailbox("ada").len(), appliance.mailbox("bob").len()), (1, 1), "each once");
    assert_eq!((sink.taken().len(), appliance.mailbox("boss").len()), (1, 1));
}

#[test]
fn forwards_go_on_with_a_copy_or_without_and_circles_come_back() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    appliance.put("recipients/here", json!({ "forwardTo": ["here@far.example"], "deliverAndForward": true }));
    appliance.put("recipients/gone", json!({ "forwardTo": ["gone@far.example"] }));
    appliance.put("recipients/round", json!({ "forwardTo": ["here"] }));
    appliance.put("recipients/trip", json!({ "forwardTo": ["round"] }));
    appliance.put("recipients/round", json!({ "forwardTo": ["trip"] }));
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.mail("ada@local.example", &["here@local.example", "gone@local.example", "trip@local.example"], &message("on"));
    let taken = sink.wait(1);
    assert_eq!(
        taken[0].to.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        ["<gone@far.example>", "<here@far.example>"].into()
    );
    assert!(taken[0].from.starts_with("<ada@local.example>"), "{}", taken[0].from);
    assert!(text(&appliance.first_mail("here")).contains("Delivered-To: here@local.example"));
    let report = text(&appliance.first_mail("ada"));
    assert!(report.contains("trip@local.example") && report.contains("Status: 5.4.6"), "{report}");
    quiet(&appliance);
    assert!(appliance.mailbox("gone").is_empty());
    assert_eq!((appliance.mailbox("here").len(), appliance.mailbox("ada").len(), sink.taken().len()), (1, 1, 1));
}

#[test]
fn catch_all_plus_abuse_and_postmaster() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    appliance.put("recipients/rest", json!({ "addresses": ["*@shared.example"] }));
    appliance.patch("settings", json!({ "abuse": "boss@local.example", "postmaster": "boss@local.example" }));
    let found = appliance.get("/api/v1/recipients?address=*%40shared.example");
    assert_eq!(found["items"][0]["name"], "rest");
    let mut smtp = Smtp::open(appliance.smtp());
    for (to, mailbox, count) in [
        ("ada+lists@local.example", "ada", 1),
        ("ada+lists@shared.example", "ada", 2),
        ("anybody@shared.example", "rest", 1),
        ("abuse@local.example", "boss", 1),
        ("Abuse@shared.example", "boss", 2),
        ("Postmaster@local.example", "boss", 3),
    ] {
        smtp.mail("s@far.example", &[to], &message(to));
        eventually(&format!("{to} in {mailbox}"), || (appliance.mailbox(mailbox).len() == count).then_some(()));
    }
    smtp.expect("MAIL FROM:<s@far.example>", "250");
    smtp.expect("RCPT TO:<Postmaster>", "250");
    smtp.expect("RCPT TO:<anybody@local.example>", "550 5.1.1");
    smtp.expect("RCPT TO:<anybody+tag@local.example>", "550 5.1.1");
    smtp.expect("RSET", "250");
    appliance.patch("settings", json!({ "plusAddressing": false }));
    smtp.expect("MAIL FROM:<s@far.example>", "250");
    smtp.expect("RCPT TO:<ada+lists@local.example>", "550 5.1.1");
    assert!(sink.taken().is_empty());
}

#[test]
fn restrictions_answer_at_rcpt_and_at_the_end() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    appliance.put("recipients/staff", json!({ "type": "group", "members": ["ada", "boss"], "acceptFrom": ["staff"] }));
    appliance.put("recipients/small", json!({ "maxReceiveSize": 1000 }));
    appliance.put(
        "recipients/shy",
        json!({ "acceptFrom": ["ada", "*@friends.example"], "rejectFrom": ["x@friends.example"] }),
    );
    let mut smtp = Smtp::open(appliance.smtp());
    for (from, to, reply) in [
        ("s@far.example", "staff", "550 5.7.1"),
        ("", "staff", "550 5.7.1"),
        ("ada@local.example", "staff", "250"),
        ("s@far.example", "shy", "550 5.7.1"),
        ("ada+tag@local.example", "shy", "250"),
        ("y@friends.example", "shy", "250"),
        ("x@friends.example", "shy", "550 5.7.1"),
        ("", "shy", "250"),
    ] {
        smtp.expect(&format!("MAIL FROM:<{from}>"), "250");
        smtp.expect(&format!("RCPT TO:<{to}@local.example>"), reply);
        smtp.expect("RSET", "250");
    }
    smtp.expect("MAIL FROM:<boss@local.example> SIZE=1001", "250");
    smtp.expect("RCPT TO:<small@local.example>", "552 5.2.3");
    smtp.expect("RSET", "250");
    // the size that was not declared: nobody takes it
    let large = [message("large"), vec![b'x'; 990], b"\r\n".to_vec()].concat();
    smtp.expect("MAIL FROM:<boss@local.example>", "250");
    smtp.expect("RCPT TO:<small@local.example>", "250");
    smtp.expect("DATA", "354");
    smtp.send(&large);
    smtp.expect(".", "552 5.2.3");
    // one takes it, one does not: a report
    smtp.mail("boss@local.example", &["small@local.example", "bob@local.example"], &large);
    let report = text(&appliance.first_mail("boss"));
    assert!(report.contains("small@local.example") && report.contains("Status: 5.2.3"), "{report}");
    appliance.first_mail("bob");
    quiet(&appliance);
    // what we add to it is not held against it
    let fits = [message("fits"), vec![b'x'; 1000 - 2 - message("fits").len()], b"\r\n".to_vec()].concat();
    assert_eq!(fits.len(), 1000);
    smtp.mail("boss@local.example", &["small@local.example"], &fits);
    appliance.first_mail("small");
    assert_eq!(appliance.mailbox("small").len(), 1);
}

#[test]
fn whom_nobody_knows_in_a_shared_domain_goes_on() {
    let (sink, old) = (Sink::up(), Sink::up());
    let appliance = appliance_before(&sink);
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.mail("s@far.example", &["eve@shared.example", "bob@shared.example"], &message("by connector"));
    assert_eq!(sink.wait(1)[0].to, ["<eve@shared.example>"]);
    appliance.first_mail("bob");
    let host = &old.route()["smartHosts"][0];
    let to = format!("{}:{}", host["host"].as_str().unwrap(), host["port"]);
    appliance.patch("virtual-servers/default", json!({ "messages": { "forwardUnresolvedTo": to } }));
    smtp.mail("s@far.example", &["eve@shared.example", "x@far.example"], &message("forwarded"));
    assert_eq!(old.wait(1)[0].to, ["<eve@shared.example>"]);
    assert_eq!(sink.wait(2)[1].to, ["<x@far.example>"]);
    smtp.expect("MAIL FROM:<s@far.example>", "250");
    smtp.expect("RCPT TO:<eve@local.example>", "550 5.1.1");
}

#[test]
fn mail_that_waits_to_be_distributed_survives_kill_9_and_reaches_each_once() {
    let sink = Sink::up();
    let mut appliance = appliance_before(&sink);
    appliance.put("recipients/all", json!({ "type": "group", "members": ["ada", "bob", "x@far.example"] }));
    let freeze = appliance.rest("POST", "/api/v1/queues/directory/freeze", None);
    assert!(freeze.status < 300, "{freeze:?}");
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.mail("s@far.example", &["all@local.example"], &message("kept"));
    let queue = appliance.get("/api/v1/queues/directory");
    assert_eq!(
        (&queue["kind"], &queue["messages"], &queue["state"]),
        (&json!("directory"), &json!(1), &json!("frozen"))
    );
    appliance.kill();
    appliance.start_again();
    assert!(sink.taken().is_empty() && appliance.mailbox("ada").is_empty());
    let thaw = appliance.rest("POST", "/api/v1/queues/directory/thaw", None);
    assert!(thaw.status < 300, "{thaw:?}");
    sink.wait(1);
    appliance.first_mail("ada");
    appliance.first_mail("bob");
    quiet(&appliance);
    assert_eq!((sink.taken().len(), appliance.mailbox("ada").len(), appliance.mailbox("bob").len()), (1, 1, 1));
}

#[test]
fn the_api_refuses_what_leads_nowhere_and_names_who_refers() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    let put = |name: &str, spec: Value| {
        appliance.rest("PUT", &format!("/api/v1/recipients/{name}"), Some(&json!({ "spec": spec })))
    };
    let refused = put("staff", json!({ "type": "group", "members": ["ada", "gone"], "owner": "gone@local.example" }));
    assert_eq!(refused.status, 422, "{refused:?}");
    let errors = refused.json()["errors"].clone();
    let pointers: BTreeSet<&str> = errors.as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/spec/members/1", "/spec/owner"].into());
    appliance.put("recipients/staff", json!({ "type": "group", "members": ["ada"], "owner": "boss" }));
    let kept = appliance.rest("DELETE", "/api/v1/recipients/boss", None);
    assert_eq!(kept.status, 409, "{kept:?}");
    assert!(kept.body.contains("recipients/staff") && kept.body.contains("/spec/owner"), "{kept:?}");
    let group = appliance.get("/api/v1/recipients/staff");
    assert_eq!(group["spec"]["members"], json!(["ada"]));
    assert_eq!(appliance.rest("DELETE", "/api/v1/recipients/staff", None).status, 204);
    assert_eq!(appliance.rest("DELETE", "/api/v1/recipients/boss", None).status, 204);
}
