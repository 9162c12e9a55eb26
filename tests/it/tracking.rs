//! Message tracking through the real binary: *where is my mail*, search, summary, the stream of events, and event sinks.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bridgehead::model::time::Timestamp;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::appliance::{Appliance, KEY, PATIENCE, Sink, Smtp, eventually};

const SECRET: &str = "a secret of the sink";

/// `local.example` is local and has the mailbox `ada` and the group `team`; all other mail goes to the sink, and is tried again
/// every minute.
fn appliance_before(sink: &Sink) -> Appliance {
    let appliance = Appliance::start();
    let address = json!({ "template": "%m@local.example", "primary": true });
    appliance.put("recipient-policies/default", json!({ "addresses": [address] }));
    appliance.put("recipients/ada", json!({}));
    appliance.put("recipients/team", json!({ "type": "group", "members": ["ada"] }));
    let everything = json!([{ "pattern": "*", "cost": 1 }]);
    appliance.put("connectors/hub", json!({ "addressSpaces": everything, "route": sink.route() }));
    let removed = appliance.rest("DELETE", "/api/v1/connectors/default", None);
    assert!(removed.status < 300, "{removed:?}");
    appliance.patch(
        "virtual-servers/default",
        json!({ "relay": { "allow": ["127.0.0.0/8"] }, "delivery": { "glitchRetry": { "after": "60s", "times": 100 } } }),
    );
    appliance
}

fn send(appliance: &Appliance, to: &[&str], id: &str) {
    let content = format!("From: <a@b.example>\r\nMessage-ID: <{id}@b.example>\r\nSubject: about {id}\r\n\r\ntext\r\n");
    Smtp::open(appliance.smtp()).mail("a@b.example", to, content.as_bytes());
}

fn where_is(appliance: &Appliance, question: &str) -> Value {
    appliance.get(&format!("/api/v1/tracking/whereabouts?{question}"))
}

/// The state of the only recipient of the only message that is asked for, once it is this.
#[track_caller]
fn becomes(appliance: &Appliance, question: &str, state: &str) -> Value {
    eventually(&format!("{question} is {state}"), || {
        let answer = where_is(appliance, question);
        let it = answer["items"][0]["recipients"][0].clone();
        (it["state"] == state).then_some(it)
    })
}

fn words(it: &Value) -> String {
    it["words"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn one_call_says_where_mail_is_in_every_state() {
    let mut sink = Sink::down();
    let mut appliance = appliance_before(&sink);
    // it cannot be reached: it waits, and says why
    send(&appliance, &["u@far.example"], "m1");
    let it = eventually("a reason", || {
        let answer = where_is(&appliance, "recipient=u@far.example");
        let it = answer["items"][0]["recipients"][0].clone();
        (it["state"] == "queued" || it["state"] == "retrying").then_some(it)
    });
    assert_eq!(it["queue"], "smarthost:hub", "{it}");
    assert_eq!(it["connector"], "hub");
    let answer = where_is(&appliance, "messageId=%3Cm1@b.example%3E");
    let message = answer["items"][0]["message"].as_str().unwrap().to_owned();
    assert_eq!(answer["items"][0]["messageId"], "m1@b.example");
    assert_eq!(answer["items"][0]["sender"], "a@b.example");
    assert_eq!((&answer["items"][0]["inQueue"], &answer["complete"]), (&json!(true), &json!(true)));
    // an operator stops it, and lets it go on
    let act = |what: &str| appliance.rest("POST", &format!("/api/v1/messages/{message}/{what}"), None).status;
    assert_eq!(eventually("frozen", || Some(act("freeze")).filter(|status| *status == 200)), 200);
    let it = becomes(&appliance, &format!("message={message}"), "frozen");
    assert!(words(&it).contains("Frozen by an operator"), "{it}");
    assert_eq!(act("thaw"), 200);
    sink.open();
    assert!(appliance.rest("POST", "/api/v1/queues/smarthost:hub/retry", None).status < 300);
    let it = becomes(&appliance, "recipient=U@FAR.example&sender=a@b.example", "relayed");
    assert_eq!(it["reply"], "250 2.0.0 taken");
    assert!(words(&it).starts_with("Taken by 127.0.0.1 (127.0.0.1:"), "{it}");
    // a mailbox here
    send(&appliance, &["ada@local.example"], "m2");
    let it = becomes(&appliance, "recipient=ada@local.example", "delivered");
    assert!(words(&it).contains("mailbox store default"), "{it}");
    // refused there, and a notification that can be followed
    send(&appliance, &["nobody@far.example"], "m3");
    let it = becomes(&appliance, "recipient=nobody@far.example", "failed");
    assert_eq!(it["status"], "5.1.1");
    assert!(words(&it).contains("There is nobody of that name"), "{it}");
    let answer = eventually("the notification", || {
        let answer = where_is(&appliance, "recipient=nobody@far.example");
        (answer["items"].as_array().unwrap().len() == 2).then_some(answer)
    });
    let [failed, report] = answer["items"].as_array().unwrap().as_slice() else { panic!("{answer}") };
    assert_eq!(report["relation"], json!({ "kind": "notificationOf", "of": failed["message"] }));
    assert_eq!(report["sender"], "<>");
    assert_eq!(report["recipients"][0]["recipient"], "a@b.example");
    assert_eq!(failed["notifications"], json!([report["message"]]));
    // a group becomes its members
    send(&appliance, &["team@local.example"], "m4");
    let answer = eventually("the expansion", || {
        let answer = where_is(&appliance, "recipient=team@local.example");
        let there = answer["items"][1]["recipients"][0]["state"] == "delivered";
        there.then_some(answer)
    });
    let [group, further] = answer["items"].as_array().unwrap().as_slice() else { panic!("{answer}") };
    assert_eq!(group["recipients"][0]["state"], "expanded");
    assert_eq!(group["recipients"][0]["expandedInto"], further["message"]);
    assert_eq!(further["relation"]["kind"], "expansionOf");
    assert_eq!(further["recipients"][0]["recipient"], "ada@local.example");
    // and from the other end
    let back = where_is(&appliance, &format!("message={}", further["message"].as_str().unwrap()));
    assert_eq!(back["items"][1]["message"], group["message"]);
    assert_eq!(back["items"][1]["relation"]["kind"], "sourceOf");
    // refused at the door
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<a@b.example>", "250");
    smtp.expect("RCPT TO:<stranger@local.example>", "550");
    let answer = where_is(&appliance, "recipient=stranger@local.example");
    assert_eq!(answer["items"], json!([]));
    let rejected = &answer["rejected"][0];
    assert_eq!((&rejected["event"], &rejected["client"]), (&json!("rejected"), &json!("127.0.0.1")), "{answer}");
    assert!(rejected["reply"].as_str().unwrap().starts_with("550 5.1.1"), "{rejected}");
    assert!(rejected["session"].is_string() && rejected["rule"].is_string(), "{rejected}");
    // nobody knows it
    assert_eq!(where_is(&appliance, "recipient=x@nowhere.example")["items"], json!([]));
    assert_eq!(appliance.rest("GET", "/api/v1/tracking/whereabouts", None).status, 400);
    // all of it holds over a restart
    appliance.stop();
    appliance.start_again();
    let it = becomes(&appliance, "messageId=m1@b.example", "relayed");
    assert_eq!(it["reply"], "250 2.0.0 taken");
}

#[test]
fn events_are_complete_searched_and_counted() {
    let sink = Sink::up();
    let appliance = appliance_before(&sink);
    for n in 0..5 {
        send(&appliance, &[&format!("r{n}@d{}.example", n % 2), "ada@local.example"], &format!("s{n}"));
    }
    sink.wait(5);
    let all = |query: &str| -> Vec<Value> {
        let answer = appliance.get(&format!("/api/v1/tracking?{query}"));
        answer["items"].as_array().unwrap().clone()
    };
    eventually("all events", || (all("event=relayed,delivered").len() == 10).then_some(()));
    let mut of_one = all("messageId=s3@b.example&order=oldest");
    of_one.sort_by_key(|event| event["event"].as_str().unwrap() == "relayed");
    let kinds: Vec<&str> = of_one.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds[0], "received");
    for kind in ["routed", "resolved", "delivered", "relayed"] {
        assert_eq!(kinds.iter().filter(|it| **it == kind).count(), 1, "{kind} in {kinds:?}");
    }
    let find = |kind: &str| of_one.iter().find(|event| event["event"] == kind).unwrap();
    let received = find("received");
    assert_eq!((&received["protocol"], &received["client"]), (&json!("esmtp"), &json!("127.0.0.1")));
    assert!(received["session"].is_string() && received["size"].as_u64().unwrap() > 50, "{received}");
    assert_eq!(received["messageId"], "s3@b.example");
    assert!(received["subject"].is_null(), "off by default");
    let routed = find("routed");
    assert_eq!((&routed["connector"], &routed["queue"]), (&json!("hub"), &json!("smarthost:hub")));
    assert_eq!(find("resolved")["resolvedTo"], json!(["ada"]));
    let relayed = find("relayed");
    assert_eq!((&relayed["connector"], &relayed["reply"]), (&json!("hub"), &json!("250 2.0.0 taken")));
    assert!(relayed["durationMs"].is_u64() && relayed["nextHop"].is_string(), "{relayed}");
    for event in &of_one {
        assert_eq!((&event["sender"], &event["virtualServer"]), (&json!("a@b.example"), &json!("default")), "{event}");
    }
    // by whatever it names
    assert_eq!(all("recipient=*@d1.example&event=relayed").len(), 2);
    assert_eq!(all("connector=hub&event=relayed&sender=*@b.example").len(), 5);
    assert_eq!(all("virtualServer=other").len(), 0);
    assert_eq!(all("until=2020-01-01T00:00:00Z").len(), 0);
    // page by page, the latest first
    let whole = all("limit=1000");
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = appliance.get(&format!("/api/v1/tracking?limit=7{cursor}"));
        paged.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, whole);
    // the order is that in which they were written down; who happened at the same time may be a moment the other way round
    let at = |event: &Value| event["at"].as_str().unwrap().parse::<Timestamp>().unwrap().millis();
    let behind = whole.windows(2).find(|two| at(&two[0]) + 1_000 < at(&two[1]));
    assert!(behind.is_none(), "{behind:?}");
    // of one message
    let id = of_one[0]["message"].as_str().unwrap();
    let of_message = |query: &str| appliance.get(&format!("/api/v1/messages/{id}/events{query}"));
    let whole = of_message("");
    assert_eq!((whole["items"].as_array().unwrap().len(), &whole["nextCursor"]), (of_one.len(), &Value::Null));
    let mut paged = Vec::new();
    let mut page = of_message("?limit=2");
    while let Some(next) = page["nextCursor"].as_str() {
        paged.extend(page["items"].as_array().unwrap().clone());
        page = of_message(&format!("?limit=2&cursor={next}"));
    }
    paged.extend(page["items"].as_array().unwrap().clone());
    assert_eq!(json!(paged), whole["items"]);
    // counted
    let counts = appliance.get("/api/v1/tracking/summary?groupBy=recipientDomain&event=relayed");
    assert_eq!(counts["groups"], json!([{ "value": "d0.example", "count": 3 }, { "value": "d1.example", "count": 2 }]));
    assert_eq!(counts["complete"], true);
    let counts = appliance.get("/api/v1/tracking/summary?groupBy=connector&event=relayed,delivered");
    assert_eq!(counts["groups"], json!([{ "value": "hub", "count": 5 }]));
    assert_eq!(counts["without"], 5, "a mailbox store is no connector");
    let counts = appliance.get("/api/v1/tracking/summary?groupBy=hour&event=received");
    assert_eq!(
        counts["groups"].as_array().unwrap().iter().map(|group| group["count"].as_u64().unwrap()).sum::<u64>(),
        5
    );
    // where the subject is kept, it is found
    appliance.patch("settings", json!({ "subjectLogging": true }));
    send(&appliance, &["r@d0.example"], "kept");
    eventually("the subject", || (all("subject=ABOUT%20kept").len() == 1).then_some(()));
    for wrong in ["event=sent", "order=up", "groupBy=day", "subject=x&event=failed", "limit=0", "recipient=x", "what=1"]
    {
        assert_eq!(appliance.rest("GET", &format!("/api/v1/tracking?{wrong}"), None).status, 400, "{wrong}");
    }
}

/// A client of `GET /events`.
struct Stream {
    input: BufReader<TcpStream>,
    last: String,
}

impl Stream {
    fn open(appliance: &Appliance, query: &str, last: Option<&str>) -> Stream {
        let api = appliance.api();
        let mut stream = TcpStream::connect(api).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let head =
            format!("GET /api/v1/events{query} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {KEY}\r\n{last}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut input = BufReader::new(stream);
        let mut line = String::new();
        input.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        let mut stream = Stream { input, last: String::new() };
        // the head, and the comment that says that it has begun
        while stream.line() != ": events" {}
        stream
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.input.read_line(&mut line).unwrap() > 0, "the stream has ended");
        line.trim_end().to_owned()
    }

    /// The next event.
    fn next(&mut self) -> (String, Value) {
        let mut kind = String::new();
        loop {
            let line = self.line();
            if let Some(id) = line.strip_prefix("id: ") {
                self.last = id.to_owned();
            } else if let Some(word) = line.strip_prefix("event: ") {
                kind = word.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (kind, serde_json::from_str(data).unwrap());
            }
        }
    }
}

#[test]
fn a_stream_of_events_goes_on_where_it_was_also_over_a_restart() {
    let sink = Sink::up();
    let mut appliance = appliance_before(&sink);
    let mut stream = Stream::open(&appliance, "?event=relayed,failed", None);
    send(&appliance, &["one@far.example"], "e1");
    let (kind, event) = stream.next();
    assert_eq!((kind.as_str(), &event["recipients"]), ("relayed", &json!(["one@far.example"])));
    assert_eq!(event["id"], stream.last.as_str());
    let first = stream.last.clone();
    send(&appliance, &["two@far.example"], "e2");
    assert_eq!(stream.next().1["recipients"], json!(["two@far.example"]));
    let second = stream.last.clone();
    // one that stays open does not keep the process from ending
    let begun = Instant::now();
    appliance.stop();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let mut rest = String::new();
    let _ = stream.input.read_to_string(&mut rest);
    appliance.start_again();
    send(&appliance, &["nobody@far.example"], "e3");
    let mut again = Stream::open(&appliance, "?event=relayed,failed", Some(&first));
    assert_eq!(again.next().1["recipients"], json!(["two@far.example"]), "what it missed, and not what it has seen");
    assert_eq!(again.next().1["recipients"], json!(["nobody@far.example"]));
    let mut by_query = Stream::open(&appliance, &format!("?event=failed,relayed&lastEventId={second}"), None);
    assert_eq!(by_query.next().1["recipients"], json!(["nobody@far.example"]));
    // one that was removed, or of another appliance
    let mut lost = Stream::open(&appliance, "", Some("999999-0"));
    assert_eq!(lost.next().0, "gap");
    assert_eq!(appliance.rest("GET", "/api/v1/events?lastEventId=x", None).status, 400);
    // more than there may be
    let more: Vec<_> = (0..61).map(|_| Stream::open(&appliance, "", None)).collect();
    assert_eq!(appliance.rest("GET", "/api/v1/events", None).status, 503);
    drop(more);
    eventually("room", || {
        let mut stream = TcpStream::connect(appliance.api()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let head = format!("GET /api/v1/events HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {KEY}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        // a closed stream is noticed at its next heartbeat
        line.contains("200").then_some(())
    });
}

/// As a receiver checks it.
fn is_signed(head: &str, body: &[u8]) -> bool {
    let field = head.lines().find_map(|line| line.strip_prefix("bridgehead-signature: ")).unwrap_or_default();
    let Some((time, hex)) = field.trim().strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")) else {
        return false;
    };
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(body);
    let expected: String = mac.finalize().into_bytes().iter().map(|octet| format!("{octet:02x}")).collect();
    expected == hex
}

/// An application that is told of events: each answer in turn, then 204.
struct App {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl App {
    fn start(answers: &'static [&'static str]) -> App {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let ledger = requests.clone();
        thread::spawn(move || {
            let mut answers = answers.iter();
            for stream in listener.incoming().map_while(Result::ok) {
                let answer = answers.next().copied().unwrap_or("204 No Content");
                let ledger = ledger.clone();
                // each connection once: it says so
                thread::spawn(move || {
                    let mut input = BufReader::new(&stream);
                    let (mut head, mut length) = (String::new(), 0);
                    loop {
                        let mut line = String::new();
                        if input.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                            break;
                        }
                        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                            length = value.trim().parse().unwrap();
                        }
                        head.push_str(&line.to_lowercase());
                    }
                    let mut body = vec![0; length];
                    if input.read_exact(&mut body).is_err() {
                        return;
                    }
                    assert!(is_signed(&head, &body), "{head}");
                    ledger.lock().unwrap().push((head, serde_json::from_slice(&body).unwrap()));
                    if answer == "hang" {
                        thread::sleep(Duration::from_secs(20));
                        return;
                    }
                    let _ = (&stream).write_all(
                        format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes(),
                    );
                });
            }
        });
        App { address, requests }
    }

    fn sink(&self) -> Value {
        json!({ "url": format!("http://{}/events", self.address), "secret": { "value": SECRET }, "timeout": "1s" })
    }

    /// Recipients of all events that came, in order.
    fn told(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let events = requests.iter().flat_map(|(_, body)| body["events"].as_array().unwrap().clone());
        events.map(|event| event["recipients"][0].as_str().unwrap_or_default().to_owned()).collect()
    }
}

#[test]
fn a_sink_is_told_in_order_at_least_once_and_a_dead_one_does_not_slow_mail() {
    let sink = Sink::up();
    let mut appliance = appliance_before(&sink);
    let app = App::start(&["500 Internal Server Error", "hang", "302 Found"]);
    let mut spec = app.sink();
    spec["events"] = json!(["relayed"]);
    spec["maxBatch"] = json!(2);
    send(&appliance, &["before@far.example"], "before");
    sink.wait(1);
    // the next hop knows of it a moment before message tracking does
    eventually("it is tracked", || {
        let known = appliance.get("/api/v1/tracking?event=relayed&recipient=before@far.example");
        (!known["items"].as_array().unwrap().is_empty()).then_some(())
    });
    appliance.put("event-sinks/app", spec);
    let begun = Instant::now();
    for n in 0..5 {
        send(&appliance, &[&format!("r{n}@far.example")], &format!("k{n}"));
    }
    sink.wait(6);
    assert!(begun.elapsed() < Duration::from_secs(10), "mail went on while the sink did not answer");
    let status = eventually("a bad condition", || {
        let status = appliance.get("/api/v1/event-sinks/app")["status"]["conditions"][0].clone();
        (status["status"] == "false").then_some(status)
    });
    assert_eq!((&status["type"], &status["reason"]), (&json!("Reachable"), &json!("notTaken")));
    let in_order = |told: &[String]| {
        let mut last: Vec<&String> = told.iter().collect();
        last.dedup();
        last.len() >= 5 && told.last().is_some_and(|last| last == "r4@far.example")
    };
    eventually("all events", || in_order(&app.told()).then_some(()));
    let requests = app.requests.lock().unwrap().clone();
    let deliveries: Vec<&Value> = requests.iter().map(|(_, body)| &body["delivery"]).collect();
    assert!(deliveries[..4].iter().all(|delivery| *delivery == deliveries[0]), "the same batch again: {deliveries:?}");
    assert!(requests.iter().all(|(head, body)| {
        head.contains("bridgehead-signature: t=") && head.contains(&body["delivery"].as_str().unwrap().to_lowercase())
    }));
    assert!(requests.iter().all(|(_, body)| body["events"].as_array().unwrap().len() <= 2));
    assert!(!app.told().contains(&"before@far.example".to_owned()), "only what happened since it was made");
    let log = appliance.get("/api/v1/event-sinks/app/deliveries")["items"].clone();
    let log = log.as_array().unwrap();
    assert_eq!(log.last().unwrap()["httpStatus"], 500, "{log:?}");
    assert!(log.iter().any(|it| it["error"].as_str().is_some_and(|why| why.contains("in time"))), "{log:?}");
    assert_eq!(log[0]["taken"], true);
    // over a restart it goes on where it was
    let before = app.told().len();
    appliance.stop();
    appliance.start_again();
    send(&appliance, &["after@far.example"], "after");
    eventually("the next event", || (app.told().last()? == "after@far.example").then_some(()));
    assert_eq!(app.told().len(), before + 1, "nothing is told twice after a good end");
    // everything again, with the same ids
    let answer =
        appliance.rest("POST", "/api/v1/event-sinks/app/replay", Some(&json!({ "since": "2026-01-01T00:00:00Z" })));
    assert_eq!(answer.status, 202, "{answer:?}");
    eventually("all of it again", || {
        let told = app.told();
        (told.len() >= before + 1 + 7 && told.last()? == "after@far.example").then_some(())
    });
    assert!(app.told().contains(&"before@far.example".to_owned()));
    let missing =
        appliance.rest("POST", "/api/v1/event-sinks/nobody/replay", Some(&json!({ "since": "2026-01-01T00:00:00Z" })));
    assert_eq!(missing.status, 404);
    // whoever writes it never sees the secret
    assert!(!appliance.get("/api/v1/event-sinks/app").to_string().contains(SECRET));
    let off_limits = json!({ "spec": { "url": "http://169.254.169.254/", "secret": { "value": "x" } } });
    assert_eq!(appliance.rest("PUT", "/api/v1/event-sinks/bad", Some(&off_limits)).status, 422);
}
