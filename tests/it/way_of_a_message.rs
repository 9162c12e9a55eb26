//! The way of a message through the real binary, from end to end: in by SMTP, out to a next hop or into a Maildir; what is
//! refused on the way in, what comes back when a next hop refuses; and what is left of it when the process ends.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::json;

use super::appliance::{Appliance, Sink, Smtp, eventually};

/// `local.example` is local and has the mailbox `ada`; loopback may relay; all other mail goes to the sink, and is tried
/// again every second.
fn appliance_before(sink: &Sink) -> Appliance {
    let appliance = Appliance::start();
    let address = json!({ "template": "%m@local.example", "primary": true });
    appliance.put("recipient-policies/default", json!({ "addresses": [address] }));
    appliance.put("recipients/ada", json!({}));
    let everything = json!([{ "pattern": "*", "cost": 1 }]);
    appliance.put("connectors/default", json!({ "addressSpaces": everything, "route": sink.route() }));
    appliance.patch(
        "virtual-servers/default",
        json!({
            "fqdn": "mx.local.example",
            "relay": { "allow": ["127.0.0.0/8"] },
            "delivery": { "glitchRetry": { "after": "1s", "times": 100 } },
        }),
    );
    appliance
}

/// A message that is told from others by its subject.
fn message(subject: &str) -> Vec<u8> {
    format!("From: <a@b.example>\r\nSubject: {subject}\r\n\r\ntext of {subject}\r\n").into_bytes()
}

fn subject_of(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content).into_owned();
    text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap_or_default().to_owned()
}

/// What stands behind the trace field that the appliance puts first (RFC 5321, 4.4), however it is folded.
#[track_caller]
fn behind_received(content: &[u8]) -> &[u8] {
    assert!(content.starts_with(b"Received: "), "{}", String::from_utf8_lossy(content));
    let mut at = 0;
    loop {
        at += content[at..].windows(2).position(|two| two == b"\r\n").expect("lines") + 2;
        if !matches!(content.get(at), Some(b' ' | b'\t')) {
            return &content[at..];
        }
    }
}

#[test]
fn what_comes_in_by_smtp_leaves_octet_by_octet() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    let mut large = b"Subject: large\r\n\r\n".to_vec();
    for number in 0..20_000u32 {
        // every line begins with so many dots, and its length differs
        large.extend(std::iter::repeat_n(b'.', number as usize % 4));
        large.extend(std::iter::repeat_n(0x80 | number.to_le_bytes()[0], number as usize % 61));
        large.extend_from_slice(b"\r\n");
    }
    let contents = [
        b"Subject: dots\r\n\r\n.\r\n..\r\n...\r\n.x\r\n. \r\nx.\r\n\r\n.\r\n".to_vec(),
        b"Subject: 8-bit\r\n\r\n\xff\xfe\x80 \xc3\xbc\xc3\xb6 \0 \x7f\r\n".to_vec(),
        b"Subject: empty lines at the end\r\n\r\ntext\r\n\r\n\r\n".to_vec(),
        b".\r\n".to_vec(),
        b"no header at all\r\n".to_vec(),
        b"\r\n".to_vec(),
        Vec::new(),
        [b"Subject: a long line\r\n\r\n".to_vec(), vec![b'x'; 998], b"\r\n".to_vec()].concat(),
        large,
    ];
    let mut smtp = Smtp::open(appliance.smtp());
    for content in &contents {
        smtp.mail("a@b.example", &["u@far.example"], content);
    }
    let taken = sink.wait(contents.len());
    let arrived: BTreeSet<&[u8]> = taken.iter().map(|taken| behind_received(&taken.content)).collect();
    for content in &contents {
        let begin = String::from_utf8_lossy(&content[..content.len().min(60)]).into_owned();
        assert!(arrived.contains(content.as_slice()), "not as it was sent: {begin:?}");
    }
    assert_eq!(taken.len(), contents.len(), "exactly once");
    for taken in &taken {
        assert!(taken.from.starts_with("<a@b.example>"), "{}", taken.from);
        assert_eq!(taken.to, ["<u@far.example>"]);
        let received = &taken.content[..taken.content.len() - behind_received(&taken.content).len()];
        let received = String::from_utf8(received.to_vec()).unwrap();
        for part in ["from client.example ([127.0.0.1])", "by mx.local.example", "with ESMTP", "for <u@far.example>;"] {
            assert!(received.contains(part), "{part} is not in {received}");
        }
    }
    smtp.expect("QUIT", "221");
    assert!(smtp.closed());
    eventually("empty queues", || (appliance.waiting() == 0).then_some(()));
}

#[test]
fn local_mail_ends_in_the_maildir_and_each_recipient_gets_it_once() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    appliance.put("recipients/bob", json!({ "addresses": ["robert@local.example"] }));
    let content = b"Subject: local\r\n\r\n.dot\r\n\xff 8-bit\r\n";
    let mut smtp = Smtp::open(appliance.smtp());
    let to = ["ada@local.example", "robert@local.example", "ada@local.example", "u@far.example", "w@far.example"];
    smtp.mail("a@b.example", &to, content);
    for (mailbox, address) in [("ada", "ada@local.example"), ("bob", "robert@local.example")] {
        let mail = appliance.first_mail(mailbox);
        let lines = format!("Return-Path: <a@b.example>\r\nDelivered-To: {address}\r\n");
        assert!(mail.starts_with(lines.as_bytes()), "{}", String::from_utf8_lossy(&mail));
        assert_eq!(behind_received(&mail[lines.len()..]), content, "{mailbox}");
    }
    let taken = sink.wait(1);
    assert_eq!(taken[0].to.iter().collect::<BTreeSet<_>>().len(), 2, "both in one transaction: {:?}", taken[0].to);
    eventually("empty queues", || (appliance.waiting() == 0).then_some(()));
    assert_eq!((sink.taken().len(), appliance.mailbox("bob").len()), (1, 1));
    assert_eq!(appliance.mailbox("ada").len(), 1, "named twice, delivered once");
}

#[test]
fn a_recipient_that_the_next_hop_refuses_comes_back_as_a_report() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<ada@local.example> ENVID=QQ314159", "250");
    smtp.expect("RCPT TO:<nobody@far.example> ORCPT=rfc822;first@far.example", "250");
    smtp.expect("RCPT TO:<yes@far.example>", "250");
    smtp.expect("DATA", "354");
    smtp.send(&message("refused"));
    smtp.expect(".", "250");
    assert_eq!(sink.wait(1)[0].to, ["<yes@far.example>"], "the other one has its mail");

    let report = String::from_utf8(appliance.first_mail("ada")).unwrap();
    assert!(report.starts_with("Return-Path: <>\r\nDelivered-To: ada@local.example\r\n"), "{report}");
    let unfolded = report.replace("\r\n ", " ").replace("\r\n\t", " ");
    let (header, body) = unfolded.split_once("\r\n\r\n").unwrap();
    let kind = header.lines().find_map(|line| line.strip_prefix("Content-Type: ")).unwrap();
    assert!(kind.starts_with("multipart/report;") && kind.contains("report-type=delivery-status"), "{kind}");
    assert!(header.contains("\nTo: <ada@local.example>") && header.contains("\nAuto-Submitted: auto-"), "{header}");
    let boundary = kind.split("boundary=").nth(1).unwrap().trim_matches('"');
    let parts: Vec<&str> = body.split(&format!("--{boundary}")).collect();
    assert_eq!(parts.len(), 5, "a preamble, three parts, and the end: {report}");
    assert!(parts[1].contains("Content-Type: text/plain") && parts[1].contains("<nobody@far.example>"), "{}", parts[1]);
    for field in [
        "Content-Type: message/delivery-status",
        "Reporting-MTA: dns; mx.local.example",
        "Original-Envelope-Id: QQ314159",
        "Original-Recipient: rfc822; first@far.example",
        "Final-Recipient: rfc822; nobody@far.example",
        "Action: failed",
        "Status: 5.1.1",
        "Diagnostic-Code: smtp; 550 5.1.1 There is nobody of that name",
        "Remote-MTA: dns; ",
    ] {
        assert!(parts[2].contains(&format!("\r\n{field}")), "{field} is not in {}", parts[2]);
    }
    assert!(!parts[2].contains("yes@far.example"), "{}", parts[2]);
    assert!(parts[3].contains("Subject: refused"), "{}", parts[3]);
    eventually("empty queues", || (appliance.waiting() == 0).then_some(()));
    assert_eq!((appliance.mailbox("ada").len(), sink.taken().len()), (1, 1), "one report, and none about a report");

    // nobody can be told about mail with the null reverse-path: it is kept to be seen, and no report is sent
    smtp.expect("MAIL FROM:<>", "250");
    smtp.expect("RCPT TO:<nobody@far.example>", "250");
    smtp.expect("DATA", "354");
    smtp.send(&message("dead letter"));
    smtp.expect(".", "250");
    let dead = eventually("a dead letter", || {
        let letters = appliance.get("/api/v1/messages?queue=deadLetter");
        letters["items"].as_array().unwrap().first().cloned()
    });
    assert!(dead.to_string().contains("nobody@far.example"), "{dead}");
    assert_eq!((appliance.waiting(), appliance.mailbox("ada").len(), sink.taken().len()), (0, 1, 1));
}

#[test]
fn relaying_and_unknown_recipients_are_refused_at_rcpt() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    appliance.patch("virtual-servers/default", json!({ "relay": { "allow": [] } }));
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<ada@local.example>", "250");
    smtp.expect("RCPT TO:<u@far.example>", "550 5.7.1");
    smtp.expect("RCPT TO:<u%far.example@local.example>", "550 5.7.1");
    smtp.expect("RCPT TO:<nobody@local.example>", "550 5.1.1");
    smtp.expect("DATA", "554 5.5.1");

    // what is allowed now acts without a restart, and never inside a transaction
    appliance.patch("virtual-servers/default", json!({ "relay": { "allow": ["127.0.0.1"] } }));
    appliance.put("recipients/nobody", json!({}));
    smtp.expect("RCPT TO:<u@far.example>", "550 5.7.1");
    smtp.expect("RSET", "250");
    smtp.mail("ada@local.example", &["u@far.example", "nobody@local.example"], &message("allowed"));
    assert_eq!(sink.wait(1)[0].to, ["<u@far.example>"]);
    assert_eq!(subject_of(&appliance.first_mail("nobody")), "allowed");

    appliance.patch("virtual-servers/default", json!({ "relay": { "allow": ["192.0.2.0/24"] } }));
    smtp.expect("MAIL FROM:<ada@local.example>", "250");
    smtp.expect("RCPT TO:<u@far.example>", "550 5.7.1");
    assert_eq!(sink.taken().len(), 1);
}

/// Mail for a next hop that is down.
fn queue_some(appliance: &Appliance, subjects: &[&str]) {
    let mut smtp = Smtp::open(appliance.smtp());
    for subject in subjects {
        smtp.mail("a@b.example", &["u@far.example"], &message(subject));
    }
}

/// These and no others arrive, each once.
#[track_caller]
fn arrive_once(appliance: &Appliance, sink: &Sink, subjects: &[&str]) {
    sink.wait(subjects.len());
    eventually("empty queues", || (appliance.waiting() == 0).then_some(()));
    let mut arrived: Vec<String> = sink.taken().iter().map(|taken| subject_of(&taken.content)).collect();
    arrived.sort();
    assert_eq!(arrived, subjects);
}

#[test]
fn the_queue_survives_kill_9() {
    let mut sink = Sink::down();
    let mut appliance = appliance_before(&sink);
    let subjects = ["one", "three", "two"];
    queue_some(&appliance, &subjects);
    // a message without its end is none, and nothing of it is there afterwards
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<a@b.example>", "250");
    smtp.expect("RCPT TO:<u@far.example>", "250");
    smtp.expect("DATA", "354");
    smtp.send(&message("half"));
    appliance.kill();
    assert!(smtp.closed());
    appliance.start_again();
    assert_eq!(appliance.waiting(), 3);
    sink.open();
    arrive_once(&appliance, &sink, &subjects);
}

#[test]
fn the_queue_is_rebuilt_when_its_database_is_gone() {
    let mut sink = Sink::down();
    let mut appliance = appliance_before(&sink);
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.mail("a@b.example", &["ada@local.example"], &message("delivered before"));
    appliance.first_mail("ada");
    queue_some(&appliance, &["one", "two"]);
    appliance.stop();
    fs::remove_dir_all(appliance.data().join("db")).unwrap();
    appliance.start_again();
    appliance.wait_for_line("the database was rebuilt", |line| {
        line["message"].as_str()?.contains("rebuilt from the journal").then_some(())
    });
    assert_eq!(appliance.waiting(), 2, "what was delivered is not queued again");
    sink.open();
    arrive_once(&appliance, &sink, &["one", "two"]);
    assert_eq!(appliance.mailbox("ada").len(), 1);
}

#[test]
fn a_second_process_on_the_directory_is_refused_in_words() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    let (status, said) = appliance.run_a_second();
    assert!(!status.success(), "{status}");
    let path = appliance.data().display().to_string();
    let in_words = said.contains("another process") || said.contains("in use") || said.contains("already");
    assert!(said.contains(&path) && in_words, "{said}");
    assert!(!said.contains("listening"), "{said}");
    queue_some(&appliance, &["the first goes on"]);
    arrive_once(&appliance, &sink, &["the first goes on"]);
}

#[test]
fn sigterm_ends_sessions_with_421_and_the_process_with_0() {
    let mut sink = Sink::down();
    let mut appliance = appliance_before(&sink);
    queue_some(&appliance, &["queued"]);
    let mut idle = Smtp::open(appliance.smtp());
    let mut in_content = Smtp::open(appliance.smtp());
    in_content.expect("MAIL FROM:<a@b.example>", "250");
    in_content.expect("RCPT TO:<u@far.example>", "250");
    in_content.expect("DATA", "354");
    in_content.send(&message("half"));
    appliance.terminate();
    idle.expect_reply("421 4.3.2");
    assert!(idle.closed());
    in_content.expect_reply("421 4.3.2");
    assert!(in_content.closed());
    // the grace time is 8 s, and nobody here needs it
    let status = appliance.ended_within(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{status}");
    appliance.start_again();
    sink.open();
    arrive_once(&appliance, &sink, &["queued"]);
}
