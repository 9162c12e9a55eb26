//! What happens to content on its way out, seen by a next hop: other senders, and what a next hop does not carry.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::appliance::{Appliance, Sink, Smtp, Taken, eventually};

/// `local.example` is local and has the mailboxes `ada` and `bob`; loopback may relay; all other mail goes to the sink.
fn appliance_before(sink: &Sink) -> Appliance {
    let appliance = Appliance::start();
    let address = json!({ "template": "%m@local.example", "primary": true });
    appliance.put("recipient-policies/default", json!({ "addresses": [address] }));
    for name in ["ada", "bob"] {
        appliance.put(&format!("recipients/{name}"), json!({}));
    }
    appliance.put("connectors/default", json!({ "addressSpaces": [{ "pattern": "*" }], "route": sink.route() }));
    appliance.patch("virtual-servers/default", json!({ "relay": { "allow": ["127.0.0.0/8"] } }));
    appliance
}

fn text(content: &[u8]) -> String {
    String::from_utf8(content.to_vec()).unwrap()
}

fn with<'a>(taken: &'a [Taken], subject: &str) -> &'a Taken {
    let line = format!("\r\nSubject: {subject}\r\n");
    taken.iter().find(|taken| text(&taken.content).contains(&line)).unwrap_or_else(|| panic!("{subject} in {taken:?}"))
}

#[test]
fn a_masqueraded_sender_is_told_outside_only_and_still_gets_the_reports() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    appliance.patch("virtual-servers/default", json!({ "outbound": { "masqueradeDomain": "public.example" } }));
    let mut smtp = Smtp::open(appliance.smtp());
    let content = "From: \"Lovelace, Ada\" <ada@local.example>,\r\n Guest <g@guest.example>\r\nReply-To: ada@local.example\r\n\
                   Subject: masquerade\r\n\r\nFrom: ada@local.example\r\n";
    smtp.mail("ada@local.example", &["u@far.example", "no@far.example", "bob@local.example"], content.as_bytes());
    smtp.mail("g@guest.example", &["u@far.example"], b"From: g@guest.example\r\nSubject: guest\r\n\r\nx\r\n");

    let taken = sink.wait(2);
    let masqueraded = with(&taken, "masquerade");
    assert_eq!(masqueraded.from, "<ada@public.example> BODY=8BITMIME");
    let outside = content.replacen("ada@local.example", "ada@public.example", 1);
    assert!(text(&masqueraded.content).ends_with(&outside), "{}", text(&masqueraded.content));
    assert_eq!(with(&taken, "guest").from, "<g@guest.example> BODY=8BITMIME");
    let inside = text(&appliance.first_mail("bob"));
    assert!(inside.starts_with("Return-Path: <ada@local.example>\r\n") && inside.ends_with(content), "{inside}");
    let report = text(&appliance.first_mail("ada"));
    assert!(report.contains("Final-Recipient: rfc822; no@far.example"), "{report}");
    assert!(report.contains("\nTo: <ada@local.example>"), "{report}");
}

#[test]
fn a_rewritten_sender_is_one_mailbox_and_replies_come_back() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    let rewrite = json!({ "from": "*@local.example", "to": "relay@m365.example" });
    let spec = json!({ "addressSpaces": [{ "pattern": "*" }], "route": sink.route(), "rewriteSender": rewrite });
    appliance.put("connectors/default", spec);
    appliance.patch("virtual-servers/default", json!({ "outbound": { "masqueradeDomain": "public.example" } }));
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.mail(
        "ada@local.example",
        &["u@far.example", "no@far.example"],
        b"From: Ada <ada@local.example>\r\nSubject: one\r\n\r\nx\r\n",
    );
    smtp.mail(
        "",
        &["u@far.example"],
        b"From: bob@local.example\r\nReply-To: r@x.example\r\nSubject: null\r\n\r\nx\r\n",
    );
    let taken = sink.wait(2);
    let one = with(&taken, "one");
    assert_eq!(one.from, "<relay@m365.example> BODY=8BITMIME");
    let lines = "\r\nFrom: Ada <relay@m365.example>\r\nSubject: one\r\nReply-To: Ada <ada@local.example>\r\n\r\nx\r\n";
    assert!(text(&one.content).ends_with(lines), "{}", text(&one.content));
    let null = with(&taken, "null");
    assert_eq!(null.from, "<> BODY=8BITMIME");
    let lines = "\r\nFrom: relay@m365.example\r\nReply-To: r@x.example\r\nSubject: null\r\n\r\nx\r\n";
    assert!(text(&null.content).ends_with(lines), "{}", text(&null.content));
    assert!(text(&appliance.first_mail("ada")).contains("Final-Recipient: rfc822; no@far.example"));

    for (field, value) in [("to", "re\u{fc}@x.example"), ("to", "relay"), ("from", "example.com")] {
        let mut rewrite = json!({ "from": "*", "to": "a@b.example" });
        rewrite[field] = json!(value);
        let spec = json!({ "addressSpaces": [{ "pattern": "*" }], "route": sink.route(), "rewriteSender": rewrite });
        let answer = appliance.rest("PUT", "/api/v1/connectors/default", Some(&json!({ "spec": spec })));
        assert_eq!(answer.status, 422, "{field}: {value}");
        let errors = answer.json()["errors"].to_string();
        assert!(errors.contains(&format!("/spec/rewriteSender/{field}")), "{errors}");
    }
}

#[test]
fn a_next_hop_without_8bitmime_gets_7_bit_mail_or_none() {
    let sink = Sink::offering(&["PIPELINING", "SIZE"]);
    let appliance = appliance_before(&sink);
    let mut smtp = Smtp::open(appliance.smtp());
    let mime = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n";
    // in a session with each other, declared or not
    smtp.mail("ada@local.example", &["u@far.example"], format!("Subject: ascii\r\n{mime}\r\nu\r\n").as_bytes());
    smtp.mail(
        "ada@local.example",
        &["u@far.example"],
        format!("Subject: utf8\r\n{mime}\r\n\u{fc} \r\n.\r\n").as_bytes(),
    );
    smtp.expect("MAIL FROM:<ada@local.example>", "250");
    smtp.expect("RCPT TO:<u@far.example>", "250");
    smtp.expect("DATA", "354");
    smtp.send("Subject: undeclared\r\n\r\n\u{fc}\r\n.\r\n".as_bytes());
    smtp.expect_reply("250");
    smtp.mail("ada@local.example", &["u@far.example"], "Subject: h\u{f6}rbar\r\n\r\nx\r\n".as_bytes());
    let taken = sink.wait(3);
    let ascii = with(&taken, "ascii");
    assert!(text(&ascii.content).ends_with(&format!("\r\nSubject: ascii\r\n{mime}\r\nu\r\n")));
    assert_eq!(ascii.from, format!("<ada@local.example> SIZE={}", ascii.content.len()));
    let utf8 = with(&taken, "utf8");
    assert_eq!(utf8.from, "<ada@local.example>", "neither BODY nor a size that is not true");
    let quoted = mime.replace("8bit", "quoted-printable");
    let lines = format!("\r\nSubject: utf8\r\n{quoted}\r\n=C3=BC=20\r\n.\r\n");
    assert!(text(&utf8.content).ends_with(&lines), "{}", text(&utf8.content));
    assert!(text(&with(&taken, "undeclared").content).ends_with("\r\n\r\n=C3=BC\r\n"));
    let report = String::from_utf8_lossy(&appliance.first_mail("ada")).into_owned();
    assert!(report.contains("Status: 5.6.3") && report.contains("The next hop takes only 7-bit mail"), "{report}");
    eventually("empty queues", || (appliance.waiting() == 0).then_some(()));
    assert_eq!((sink.taken().len(), appliance.mailbox("ada").len()), (3, 1));
}

#[test]
fn what_is_binary_becomes_base64_where_there_is_no_binarymime() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    let mut smtp = Smtp::open(appliance.smtp());
    let content = b"Subject: binary\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\n\0\n\xff\r\n.\r\n";
    smtp.expect("MAIL FROM:<ada@local.example> BODY=BINARYMIME", "250");
    smtp.expect("RCPT TO:<u@far.example>", "250");
    smtp.send(&[format!("BDAT {} LAST\r\n", content.len()).as_bytes(), content].concat());
    smtp.expect_reply("250");
    let taken = sink.wait(1);
    let content = text(&taken[0].content);
    assert!(content.ends_with("\r\nContent-Transfer-Encoding: base64\r\n\r\nAAr/DQouDQo=\r\n"), "{content}");
    assert_eq!(taken[0].from, "<ada@local.example> BODY=8BITMIME");
}

#[test]
fn a_message_that_does_not_need_smtputf8_goes_without() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    let mut smtp = Smtp::open(appliance.smtp());
    for (subject, to) in
        [("plain", "u@far.example"), ("n\u{f6}tig", "u@far.example"), ("address", "\u{fc}@far.example")]
    {
        smtp.expect("MAIL FROM:<ada@local.example> SMTPUTF8", "250");
        smtp.expect(&format!("RCPT TO:<{to}>"), "250");
        smtp.expect("DATA", "354");
        smtp.send(format!("Subject: {subject}\r\n\r\n\u{fc}\r\n.\r\n").as_bytes());
        smtp.expect_reply("250");
    }
    let reports = eventually("two reports", || Some(appliance.mailbox("ada")).filter(|mail| mail.len() == 2));
    for report in reports {
        assert!(String::from_utf8_lossy(&report).contains("Status: 5.6.7"), "{}", String::from_utf8_lossy(&report));
    }
    let taken = sink.wait(1);
    assert_eq!(with(&taken, "plain").from, "<ada@local.example>");
    assert_eq!(taken.len(), 1);
}
