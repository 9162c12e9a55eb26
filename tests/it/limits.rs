//! Whom nobody may write to, and how much anybody may send: over SMTP and REST, with the real binary, also over a kill.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::appliance::{Appliance, Sink, Smtp, eventually};

const MESSAGE: &[u8] = b"Subject: x\r\n\r\ntext\r\n";

/// A relay for everybody on this machine, with one local domain and everything else to the sink.
fn appliance(sink: &Sink) -> Appliance {
    let appliance = Appliance::start();
    appliance.patch("virtual-servers/default", json!({"relay": {"allow": ["127.0.0.0/8"]}}));
    let addresses = json!([{"template": "%m@local.example", "primary": true}]);
    appliance.patch("recipient-policies/default", json!({ "addresses": addresses }));
    appliance.put("recipients/ada", json!({"type": "mailbox"}));
    appliance.put("connectors/default", json!({"addressSpaces": [{"pattern": "*"}], "route": sink.route()}));
    appliance
}

fn suppress(appliance: &Appliance, body: &Value) -> u16 {
    appliance.rest("POST", "/api/v1/suppressions", Some(body)).status
}

fn listed(appliance: &Appliance, query: &str) -> Vec<String> {
    let list = appliance.get(&format!("/api/v1/suppressions{query}"));
    list["items"].as_array().unwrap().iter().map(|it| it["address"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn whoever_is_on_the_list_is_refused_until_he_is_taken_off() {
    let sink = Sink::down();
    let mut appliance = appliance(&sink);
    assert_eq!(suppress(&appliance, &json!({"address": "Bob@far.example", "reason": "asked us"})), 201);
    assert_eq!(suppress(&appliance, &json!({"address": "bob@far.example", "reason": "asked us twice"})), 200);
    assert_eq!(suppress(&appliance, &json!({"address": "*@gone.example"})), 201);
    assert_eq!(suppress(&appliance, &json!({"address": "ada@local.example", "source": "permanentFailure"})), 201);
    appliance.kill();
    appliance.start_again();
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<ada@local.example>", "250");
    let refused = smtp.expect("RCPT TO:<BOB@Far.example>", "550 5.7.1");
    assert!(!refused.contains("asked"), "the reason is the operator's: {refused}");
    smtp.expect("RCPT TO:<x@gone.example>", "550 5.7.1");
    smtp.expect("RCPT TO:<x@sub.gone.example>", "250");
    smtp.expect("RCPT TO:<carol@far.example>", "250");
    smtp.expect("RCPT TO:<ada@local.example>", "250");
    assert_eq!(suppress(&appliance, &json!({"address": "ada@local.example"})), 200);
    smtp.expect("RSET", "250");
    smtp.expect("MAIL FROM:<eve@far.example>", "250");
    smtp.expect("RCPT TO:<ada@local.example>", "550 5.7.1");
    assert_eq!(listed(&appliance, "?covers=x@gone.example"), ["*@gone.example"]);
    assert_eq!(listed(&appliance, "?source=permanentFailure"), [""; 0]);
    let gone = appliance.rest("DELETE", "/api/v1/suppressions/*@gone.example", None);
    assert_eq!(gone.status, 204, "{gone:?}");
    assert_eq!(appliance.rest("DELETE", "/api/v1/suppressions/*@gone.example", None).status, 404);
    smtp.expect("RCPT TO:<x@gone.example>", "250");
    for wrong in [
        json!({"address": "far.example"}),
        json!({"address": "a@b.example", "expiresAt": "2020-01-01T00:00:00Z"}),
        json!({"address": "a@b.example", "reason": "x".repeat(501)}),
        json!({"address": "a@b.example", "reasons": "x"}),
    ] {
        assert_eq!(suppress(&appliance, &wrong), 422, "{wrong}");
    }
}

#[test]
fn what_waits_already_and_what_a_group_leads_to_fails_with_a_report() {
    let mut sink = Sink::down();
    let appliance = appliance(&sink);
    let contact = json!({"type": "contact", "addresses": ["carol@local.example"], "forwardTo": ["carol@far.example"]});
    let group = json!({"type": "group", "addresses": ["team@local.example"], "members": ["bob@far.example", "dan@far.example"]});
    let put = |name: &str, spec: &Value| {
        appliance.rest("PUT", &format!("/api/v1/recipients/{name}"), Some(&json!({ "spec": spec })))
    };
    let _ = put("carol", &contact);
    let made = put("team", &group);
    assert_eq!(made.status, 201, "{made:?}");
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.mail("ada@local.example", &["bob@far.example"], MESSAGE);
    assert_eq!(suppress(&appliance, &json!({"address": "bob@far.example", "reason": "left the company"})), 201);
    // the next attempt comes when the host is tried again
    eventually("the queue is known", || {
        appliance.rest("POST", "/api/v1/queues/smarthost:default/retry", None).status.eq(&200).then_some(())
    });
    let report = appliance.first_mail("ada");
    let report = String::from_utf8_lossy(&report).into_owned();
    assert!(
        report.contains("suppression list") && report.contains("left the company") && report.contains("5.7.1"),
        "{report}"
    );
    smtp.mail("ada@local.example", &["team@local.example"], MESSAGE);
    let reports = eventually("the second report", || Some(appliance.mailbox("ada")).filter(|all| all.len() == 2));
    assert!(reports.iter().all(|report| String::from_utf8_lossy(report).contains("suppression list")));
    sink.open();
    assert_eq!(appliance.rest("POST", "/api/v1/queues/smarthost:default/retry", None).status, 200);
    let taken = sink.wait(1);
    assert!(taken.iter().all(|taken| !taken.to.iter().any(|to| to.contains("bob"))), "{taken:?}");
    eventually("all is done", || (appliance.waiting() == 0).then_some(()));
}

#[test]
fn a_permanent_failure_puts_somebody_on_the_list_when_that_is_switched_on() {
    let sink = Sink::up();
    let appliance = appliance(&sink);
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.mail("ada@local.example", &["no-one@far.example"], MESSAGE);
    appliance.first_mail("ada");
    thread::sleep(Duration::from_millis(1_500));
    assert!(listed(&appliance, "").is_empty(), "off by default");
    appliance.patch("settings", json!({"suppression": {"onPermanentFailure": true, "expiresAfter": "30d"}}));
    smtp.mail("ada@local.example", &["no-one@far.example", "yes@far.example"], MESSAGE);
    let entry = eventually("an entry", || {
        let list = appliance.get("/api/v1/suppressions?source=permanentFailure");
        list["items"].as_array().unwrap().first().cloned()
    });
    assert_eq!(entry["address"], "no-one@far.example");
    assert!(entry["expiresAt"].is_string() && entry["reason"].as_str().unwrap().contains("550"), "{entry}");
    smtp.expect("MAIL FROM:<ada@local.example>", "250");
    smtp.expect("RCPT TO:<no-one@far.example>", "550 5.7.1");
}

#[test]
fn the_list_goes_out_and_comes_back_in() {
    let appliance = appliance(&Sink::down());
    let lines: String = (0..2_500).map(|n| format!("{{\"address\": \"u{n}@x.example\"}}\n")).collect();
    let import = |text: &str| {
        let (head, body) = appliance.raw("POST", "/api/v1/suppressions/import", "application/x-ndjson", text);
        assert!(head.starts_with("HTTP/1.1 200"), "{head} {body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    let result = import(&format!("{lines}nonsense\n\n{{\"address\": \"x\"}}"));
    assert_eq!((&result["created"], &result["failed"]), (&json!(2_500), &json!(2)), "{result}");
    let at = |index: usize| result["errors"][index]["line"].as_u64().unwrap();
    assert_eq!((at(0), at(1)), (2_501, 2_503));
    let (_, exported) = appliance.raw("GET", "/api/v1/suppressions/export", "text/plain", "");
    // chunked: the lines are among the lengths
    let text: String = exported.split("\r\n").filter(|part| part.contains('{')).collect();
    assert_eq!(text.lines().count(), 2_500);
    let again = import(&text);
    assert_eq!((&again["unchanged"], &again["failed"]), (&json!(2_500), &json!(0)), "{again}");
    let mut seen = 0;
    let mut path = "/api/v1/suppressions?limit=1000".to_owned();
    loop {
        let page = appliance.get(&path);
        seen += page["items"].as_array().unwrap().len();
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("/api/v1/suppressions?limit=1000&cursor={cursor}");
    }
    assert_eq!(seen, 2_500);
}

#[test]
fn what_a_domain_has_sent_is_remembered_over_a_kill() {
    let mut appliance = appliance(&Sink::down());
    let quotas = json!({"messages": "3/1h, 100/1d", "recipients": "1000/1d", "recipientsPerMessage": 2});
    appliance.patch(
        "settings",
        json!({"senderQuotas": [{"domain": "*", "quotas": {}}, {"domain": "news.example", "quotas": quotas}]}),
    );
    let mut smtp = Smtp::open(appliance.smtp());
    for _ in 0..3 {
        smtp.mail("a@news.example", &["u@far.example"], MESSAGE);
    }
    let told = smtp.expect("MAIL FROM:<b@news.example>", "452 4.7.1");
    assert!(told.contains("come again in"), "{told}");
    smtp.expect("MAIL FROM:<a@other.example>", "250");
    smtp.expect("RSET", "250");
    // by REST it is the same, and the time is that of the quota: an hour, and the part of it in which they were sent
    let letter = json!({"from": "c@news.example", "to": ["u@far.example"], "subject": "s", "text": "t"});
    let answer = appliance.rest("POST", "/api/v1/messages", Some(&letter));
    assert_eq!((answer.status, &answer.json()["type"]), (429, &json!("urn:bridgehead:problem:tooManyRequests")));
    assert!((3_590..=3_751).contains(&answer.headers["retry-after"].parse::<u32>().unwrap()), "{answer:?}");
    let usage = appliance.get("/api/v1/quotas?usedUp=true");
    assert_eq!(
        (&usage["items"][0]["name"], &usage["items"][0]["limit"]),
        (&json!("news.example"), &json!("3/1h")),
        "{usage}"
    );
    assert_eq!(appliance.get("/api/v1/quotas?type=account")["items"], json!([]));
    // the promise is a second
    thread::sleep(Duration::from_millis(2_500));
    appliance.kill();
    appliance.start_again();
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<b@news.example>", "452 4.7.1");
    assert_eq!(appliance.rest("DELETE", "/api/v1/quotas/senderDomain/NEWS.example", None).status, 204);
    smtp.expect("MAIL FROM:<b@news.example>", "250");
    smtp.expect("RCPT TO:<u@far.example>", "250");
    smtp.expect("RCPT TO:<v@far.example>", "250");
    smtp.expect("RCPT TO:<w@far.example>", "452 4.5.3");
    // who repeats a request by REST would never get through
    let many =
        json!({"from": "c@news.example", "to": ["u@far.example", "v@far.example", "w@far.example"], "text": "t"});
    let answer = appliance.rest("POST", "/api/v1/messages", Some(&many));
    assert_eq!((answer.status, answer.headers.get("retry-after")), (422, None), "{answer:?}");
    assert_eq!(answer.json()["errors"][0]["pointer"], "/to/2", "{answer:?}");
}

#[test]
fn two_addresses_of_one_mailbox_count_once_and_what_a_filter_takes_silently_counts() {
    let appliance = appliance(&Sink::down());
    let addresses = json!([{"template": "%m@local.example", "primary": true}, {"template": "%m@also.example"}]);
    appliance.patch("recipient-policies/default", json!({ "addresses": addresses }));
    let quiet = json!({"kind": "sender", "deny": ["quiet@news.example"], "action": "acceptSilently"});
    appliance.put("filters/quiet", quiet);
    let bindings = json!([{"address": "127.0.0.1", "port": 0, "filters": ["quiet"]}]);
    // filters are not for those who may relay
    appliance.patch("virtual-servers/default", json!({ "bindings": bindings, "relay": {"allow": []} }));
    appliance.patch(
        "settings",
        json!({"senderQuotas": [
            {"domain": "one.example", "quotas": {"recipients": "1/1d"}}, {"domain": "news.example", "quotas": {"messages": "1/1d"}}
        ]}),
    );
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.mail("a@one.example", &["ada@local.example", "ada@also.example"], MESSAGE);
    smtp.expect("MAIL FROM:<a@one.example>", "250");
    smtp.expect("RCPT TO:<ada@local.example>", "452 4.7.1");
    smtp.expect("RSET", "250");
    smtp.mail("quiet@news.example", &["ada@local.example"], MESSAGE);
    appliance.wait_for_line("the filter", |line| (line["action"] == "acceptSilently").then_some(()));
    smtp.expect("MAIL FROM:<quiet@news.example>", "452 4.7.1");
}
