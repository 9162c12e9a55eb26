//! What came of TLS, counted and reported (RFC 8460): REST alone, and the real binary with a next hop, over a restart.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::time::Duration;

use bridgehead::tlsrpt::counts::{Failed, Policy, PolicyType, ResultType, Seen};
use serde_json::{Value, json};

use super::api_house::House;
use super::appliance::{Appliance, Smtp, eventually};
use super::name_server::{Dns, Says};
use super::scripted_hop::Hop;

fn seen(domain: &str) -> Seen {
    let failed = Failed {
        result: ResultType::CertificateHostMismatch,
        reason: Some("<img src=x>".to_owned()),
        sending: "192.0.2.1".parse().ok(),
        host: "mx.d.example".to_owned(),
        receiving: "2001:db8::2".parse().ok(),
    };
    let policy = Policy { kind: PolicyType::Tlsa, lines: vec!["3 1 1 ab".to_owned()], hosts: Vec::new() };
    Seen { domain: domain.to_owned(), policy, failed: Some(failed) }
}

#[tokio::test]
async fn what_was_counted_is_listed_filtered_and_sent_when_somebody_asks() {
    let house = House::open().await;
    for domain in ["d.example", "d.example", "xn--bcher-kva.example"] {
        house.tls_reports.count(seen(domain));
    }
    let list = house.call("GET", "/api/v1/tls-reports").await.json();
    let expected = json!({
        "domain": "d.example", "day": "2026-11-18", "successes": 0, "failures": 2,
        "policies": [{
            "type": "tlsa", "lines": ["3 1 1 ab"], "successes": 0, "failures": 2,
            "details": [{
                "result": "certificateHostMismatch", "sessions": 2, "reason": "<img src=x>",
                "sendingAddress": "192.0.2.1", "host": "mx.d.example", "receivingAddress": "2001:db8::2"
            }]
        }]
    });
    assert_eq!(list["items"][0], expected);
    for (query, items) in [
        ("domain=D.example", 1),
        ("domain=b%C3%BCcher.example", 1),
        ("domain=other.example", 0),
        ("day=2026-11-18", 2),
        ("day=2026-11-19", 0),
    ] {
        let list = house.call("GET", &format!("/api/v1/tls-reports?{query}")).await.json();
        assert_eq!(list["items"].as_array().unwrap().len(), items, "{query}");
    }
    let page = house.call("GET", "/api/v1/tls-reports?limit=1").await.json();
    let cursor = page["nextCursor"].as_str().unwrap();
    let page = house.call("GET", &format!("/api/v1/tls-reports?limit=1&cursor={cursor}")).await.json();
    assert_eq!((&page["items"][0]["domain"], &page["nextCursor"]), (&json!("xn--bcher-kva.example"), &Value::Null));
    for query in ["day=today", "day=2026-02-30", "domain=a..b", "domein=x", "cursor=00"] {
        house.call("GET", &format!("/api/v1/tls-reports?{query}")).await.is_problem(400, "badParameter");
    }

    house.call("POST", "/api/v1/tls-reports/d.example/send").await.is_problem(404, "notFound");
    house.clock.advance(Duration::from_secs(86_400));
    let answer = house.call("POST", "/api/v1/tls-reports/D.Example/send").await;
    assert_eq!((answer.status, answer.json()), (202, json!({"sending": 1})));
    let list = house.call("GET", "/api/v1/tls-reports?domain=d.example").await.json();
    assert_eq!(list["items"][0]["report"]["state"], "waiting");
    house.call("POST", "/api/v1/tls-reports/d.example/send?now=true").await.is_problem(400, "badParameter");
    house.call("POST", "/api/v1/tls-reports/nobody.example/send").await.is_problem(404, "notFound");
    house.call("POST", "/api/v1/tls-reports/%2e%2e%2fx/send").await.is_problem(404, "notFound");
}

/// The file of today becomes one of yesterday: a day has passed.
fn a_day_passes(appliance: &Appliance) {
    let directory = appliance.data().join("tls-reports");
    let today = fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
    let day: jiff::civil::Date = today.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    fs::rename(&today, directory.join(format!("{}.json", day.yesterday().unwrap()))).unwrap();
}

#[test]
fn what_a_hop_does_is_counted_kept_and_reported_by_mail() {
    let hop = Hop::at("127.0.0.1:0", |_, _, line| {
        line.starts_with("EHLO").then_some("250-hop.example\r\n250-DSN\r\n250 8BITMIME")
    });
    let dns = Dns::start(&[
        ("d.test", Says::Address([127, 0, 0, 1])),
        ("_smtp._tls.d.test", Says::Text("v=TLSRPTv1; rua=mailto:reports@r.test")),
        ("r.test", Says::Address([127, 0, 0, 1])),
    ]);
    let mut appliance = Appliance::start();
    let outbound = json!({"port": hop.address.port()});
    let server =
        json!({"relay": {"allow": ["127.0.0.0/8"]}, "dnsServers": [dns.address.to_string()], "outbound": outbound});
    appliance.patch("virtual-servers/default", server);
    Smtp::open(appliance.smtp()).mail("a@b.example", &["u@d.test"], b"Subject: x\r\n\r\ntext\r\n");
    eventually("the mail", || (hop.seen().taken.len() == 1).then_some(()));
    let listed = |appliance: &Appliance, domain: &str| {
        appliance.get(&format!("/api/v1/tls-reports?domain={domain}"))["items"].as_array().unwrap().clone()
    };
    let counted = eventually("what was counted", || listed(&appliance, "d.test").pop());
    assert_eq!(
        counted["policies"],
        json!([{
            "type": "noPolicyFound", "lines": [], "successes": 0, "failures": 1,
            "details": [{
                "result": "starttlsNotSupported", "sessions": 1, "sendingAddress": "127.0.0.1", "host": "d.test",
                "receivingAddress": "127.0.0.1"
            }]
        }])
    );

    appliance.stop();
    a_day_passes(&appliance);
    appliance.start_again();
    let answer = appliance.rest("POST", "/api/v1/tls-reports/d.test/send", None);
    assert_eq!(answer.status, 202, "{answer:?}");
    let report = eventually("the report", || {
        let report = listed(&appliance, "d.test").pop()?["report"].clone();
        (report["state"] == "sent").then_some(report)
    });
    assert_eq!(report["destinations"][0]["uri"], "mailto:reports@r.test");
    let seen = eventually("its mail", || Some(hop.seen()).filter(|seen| seen.taken.len() == 2));
    assert_eq!(seen.count("RCPT TO:<reports@r.test> NOTIFY=NEVER"), 1, "{:?}", seen.lines);
    assert_eq!(seen.count("MAIL FROM:<postmaster@"), 1, "{:?}", seen.lines);
    let message = appliance.get("/api/v1/messages");
    assert_eq!(message["items"].as_array().unwrap().len(), 0, "{message}");
    assert!(listed(&appliance, "r.test").is_empty(), "sessions that carry reports are not counted");
}
