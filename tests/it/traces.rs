//! Traces of the real binary, with a collector over TCP: one of each message, also over a restart; and collectors that never answer, or
//! answer too much.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::appliance::{Appliance, Sink, Smtp, eventually};
use super::scripted_hop::Hop;

const MESSAGE: &[u8] = b"Subject: x\r\n\r\ntext\r\n";

/// What a collector says to a request.
#[derive(Clone, Copy)]
enum Says {
    Taken,
    Nothing,
    /// 200, and no end.
    Endless,
    Garbage,
}

struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Value>>>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    fn start(says: Says) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (spans, heads) = (Arc::<Mutex<Vec<Value>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let kept = (spans.clone(), heads.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (spans, heads) = kept.clone();
                thread::spawn(move || while serve(&stream, says, &spans, &heads).is_some() {});
            }
        });
        Collector { address, spans, heads }
    }

    fn settings(&self) -> Value {
        json!({"endpoint": format!("http://{}", self.address), "headers": {"x-key": {"env": "BRIDGEHEAD_SECRET_TEST"}},
               "timeout": "1s"})
    }

    /// The spans of a trace, when so many of them have this name.
    fn trace_with(&self, trace: &str, name: &str, count: usize) -> Vec<Value> {
        eventually(&format!("at least {count} spans {name}"), || {
            let all: Vec<Value> =
                self.spans.lock().unwrap().iter().filter(|span| span["traceId"] == trace).cloned().collect();
            (all.iter().filter(|span| span["name"] == name).count() >= count).then_some(all)
        })
    }
}

fn serve(stream: &TcpStream, says: Says, spans: &Mutex<Vec<Value>>, heads: &Mutex<Vec<String>>) -> Option<()> {
    let (mut input, mut head, mut length) = (BufReader::new(stream), String::new(), 0);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    let body: Value = serde_json::from_slice(&body).unwrap();
    heads.lock().unwrap().push(head);
    let found = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
    spans.lock().unwrap().extend(found);
    let mut output = stream;
    match says {
        Says::Taken => output.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").ok(),
        Says::Nothing => {
            let _ = input.read(&mut [0]);
            None
        }
        Says::Endless => {
            output.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
            while output.write_all(&[b'x'; 65_536]).is_ok() {}
            None
        }
        Says::Garbage => {
            let _ = output.write_all(b"\x00\xff 200 maybe\r\n\r\n");
            None
        }
    }
}

fn relay(appliance: &Appliance, route: Value) {
    let server = json!({
        "relay": {"allow": ["127.0.0.0/8"]}, "delivery": {"glitchRetry": {"after": "1s", "times": 3}}
    });
    appliance.patch("virtual-servers/default", server);
    appliance.put("connectors/default", json!({"addressSpaces": [{"pattern": "*"}], "route": route}));
}

/// What the hop of [`a_message_is_one_trace_over_a_restart`] does.
static OPEN: AtomicBool = AtomicBool::new(false);

#[test]
fn a_message_is_one_trace_over_a_restart() {
    let hop = Hop::up(|_, _, line| (line == "DATA" && !OPEN.load(Ordering::SeqCst)).then_some("451 4.3.0 later"));
    let collector = Collector::start(Says::Taken);
    let mut appliance = Appliance::start_with(&[("BRIDGEHEAD_LOG_REDACT", "addresses")]);
    relay(&appliance, json!({"smartHosts": [{"host": "127.0.0.1", "port": hop.address.port()}]}));
    appliance.patch("settings", json!({"tracing": collector.settings()}));
    let body = json!({"from": "app@us.example", "to": ["bob@far.example"], "subject": "x", "text": "y"}).to_string();
    let media = "application/json\r\nX-Request-Id: request-7\r\n\
                 traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (head, answer) = appliance.raw("POST", "/api/v1/messages", media, &body);
    assert!(head.starts_with("HTTP/1.1 202") && head.to_lowercase().contains("x-request-id: request-7"), "{head}");
    let id = serde_json::from_str::<Value>(&answer).unwrap()["id"].as_str().unwrap().to_owned();
    let trace = id.replace('-', "");

    let spans = collector.trace_with(&trace, "deliver", 1);
    let root = spans.iter().find(|span| span["name"] == "receive").unwrap();
    assert_eq!(root["links"][0]["traceId"], "0af7651916cd43dd8448eb211c80319c", "{root}");
    assert!(root.to_string().contains("request-7"), "{root}");
    assert!(spans.iter().any(|span| span["name"] == "store" && span["parentSpanId"] == root["spanId"]), "{spans:?}");
    let text = Value::from(spans.clone()).to_string();
    assert!(text.contains("***@far.example") && !text.contains("bob@"), "{text}");
    assert!(text.contains("451 4.3.0 later"), "{text}");
    let event = appliance.get(&format!("/api/v1/messages/{id}/events"))["items"][0].clone();
    assert_eq!((&event["event"], &event["requestId"]), (&json!("received"), &json!("request-7")), "{event}");
    assert!(event["traceparent"].is_string() && event["durationMs"].is_number() && event["syncMs"].is_number());

    appliance.stop();
    OPEN.store(true, Ordering::SeqCst);
    appliance.start_again();
    appliance.rest("POST", &format!("/api/v1/messages/{id}/retry"), None);
    eventually("its end", || {
        let spans = collector.spans.lock().unwrap().clone();
        let mut of_it = spans.iter().filter(|span| span["traceId"] == trace);
        of_it
            .any(|span| span["parentSpanId"] == root["spanId"] && span["events"].to_string().contains("\"end\""))
            .then_some(())
    });
    let heads = collector.heads.lock().unwrap().clone();
    assert!(
        heads.iter().all(|head| head.starts_with("POST /v1/traces ") && head.contains("a secret of the tests")),
        "{heads:?}"
    );
}

#[test]
fn no_collector_slows_mail() {
    for says in [Says::Nothing, Says::Endless, Says::Garbage] {
        let (sink, collector) = (Sink::up(), Collector::start(says));
        let appliance = Appliance::start();
        relay(&appliance, sink.route());
        appliance.patch("settings", json!({"tracing": collector.settings()}));
        let mut client = Smtp::open(appliance.smtp());
        (0..100).for_each(|n| client.mail("a@us.example", &[&format!("u{n}@far.example")], MESSAGE));
        eventually("a request", || (!collector.heads.lock().unwrap().is_empty()).then_some(()));
        (0..100).for_each(|n| client.mail("a@us.example", &[&format!("v{n}@far.example")], MESSAGE));
        sink.wait(200);
        if matches!(says, Says::Endless) {
            // it was taken; of what it says little is read
            eventually("it is counted", || {
                let metrics = appliance.rest("GET", "/metrics", None).body;
                metrics
                    .lines()
                    .any(|line| line.starts_with("bridgehead_trace_spans_total ") && !line.ends_with(" 0"))
                    .then_some(())
            });
        }
    }
}
