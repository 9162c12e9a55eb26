//! Mailbox stores through the real binary: LMTP servers and webhooks by script, with every fault that hostile.md names for
//! next hops; a quota; a drop directory; and stores that are gone.
//!
//! Each case has a store and recipients of its own on one appliance, so that all retries pass at the same time.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::appliance::{Appliance, SECRET, Smtp, eventually, next_line};

/// `local.example` is local; `ada` has the Maildir of the default store; what waits is tried again every second.
fn appliance() -> Appliance {
    let appliance = Appliance::start();
    let address = json!({ "template": "%m@local.example", "primary": true });
    appliance.put("recipient-policies/default", json!({ "addresses": [address] }));
    appliance.put("recipients/ada", json!({}));
    let again = json!({ "glitchRetry": { "after": "1s", "times": 100 }, "expireAfter": "1h" });
    appliance.patch("virtual-servers/default", json!({ "delivery": { "local": again } }));
    appliance
}

/// A recipient whose mail goes to this store.
fn recipient(appliance: &Appliance, name: &str, store: &str) {
    appliance.put(&format!("recipients/{name}"), json!({ "mailboxStore": store }));
}

/// Mail from Ada.
fn send(appliance: &Appliance, to: &[&str], content: &[u8]) {
    let to: Vec<String> = to.iter().map(|name| format!("{name}@local.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    Smtp::open(appliance.smtp()).mail("ada@local.example", &to, content);
}

fn drained(appliance: &Appliance) {
    eventually("empty queues", || (appliance.waiting() == 0).then_some(()));
}

/// Status and words of the last failure of a store's queue.
fn last_error(appliance: &Appliance, store: &str) -> Option<String> {
    let queue = appliance.rest("GET", &format!("/api/v1/queues/local:{store}"), None);
    let error = (queue.status == 200).then(|| queue.json()["lastError"].clone()).filter(Value::is_object)?;
    Some(format!("{} {}", error["status"].as_str()?, error["diagnostic"].as_str()?))
}

/// What an LMTP server does, once, when it comes to a point.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Closes the connection.
    Cut,
    /// Says nothing more.
    Silence,
    /// Says this instead.
    Says(&'static str),
}

/// An LMTP server by script.
#[derive(Clone, Default)]
struct Lmtp {
    state: Arc<Mutex<LmtpState>>,
}

#[derive(Default)]
struct LmtpState {
    /// What is still to go wrong, and where.
    faults: Vec<(&'static str, Fault)>,
    /// How often each recipient had each message, by the recipient's path and the message's subject.
    delivered: BTreeMap<(String, String), usize>,
    connections: usize,
    wrong: Vec<String>,
}

impl Lmtp {
    fn tcp(faults: &[(&'static str, Fault)]) -> (Lmtp, SocketAddr) {
        let lmtp = Lmtp::default();
        lmtp.state.lock().unwrap().faults = faults.to_vec();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = lmtp.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (serving, output) = (serving.clone(), stream.try_clone().unwrap());
                thread::spawn(move || serving.serve(BufReader::new(stream), output));
            }
        });
        (lmtp, address)
    }

    fn unix(path: &std::path::Path) -> Lmtp {
        let lmtp = Lmtp::default();
        let listener = UnixListener::bind(path).unwrap();
        let serving = lmtp.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (serving, output) = (serving.clone(), stream.try_clone().unwrap());
                thread::spawn(move || serving.serve(BufReader::new(stream), output));
            }
        });
        lmtp
    }

    /// The fault that waits at this point, taken away.
    fn fault(&self, point: &str) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let at = state.faults.iter().position(|(where_, _)| *where_ == point)?;
        Some(state.faults.remove(at).1)
    }

    fn serve(&self, input: impl BufRead, output: impl Write) {
        self.state.lock().unwrap().connections += 1;
        if let Err(wrong) = self.dialog(input, output) {
            self.state.lock().unwrap().wrong.push(wrong);
        }
    }

    /// Ends when a fault ends it. An error is what a client must not do.
    fn dialog(&self, mut input: impl BufRead, mut output: impl Write) -> Result<(), String> {
        // `false`: the connection ends here
        let mut say = |point: &str, text: &str| match self.fault(point) {
            Some(Fault::Cut) => false,
            Some(Fault::Silence) => {
                thread::sleep(Duration::from_secs(4));
                false
            }
            Some(Fault::Says(other)) => output.write_all(other.as_bytes()).is_ok() && !other.starts_with("421"),
            None => output.write_all(format!("{text}\r\n").as_bytes()).is_ok(),
        };
        if !say("banner", "220 box.example LMTP") {
            return Ok(());
        }
        let mut to: Vec<String> = Vec::new();
        while let Some(line) = next_line(&mut input)? {
            let line = String::from_utf8(line).map_err(|line| format!("{line:?}"))?;
            let verb = line.split([' ', ':']).next().unwrap_or_default();
            let goes_on = match verb {
                "LHLO" => {
                    say("lhlo", "250-box.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-DSN\r\n250 SIZE 50000000")
                }
                "MAIL" if line.contains("RET=") || line.contains("ENVID=") => return Err(line),
                "MAIL" => {
                    to.clear();
                    say("mail", "250 2.1.0 ok")
                }
                "RCPT" => {
                    let path = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                    if line.contains("NOTIFY=") || line.contains("ORCPT=") {
                        return Err(line);
                    }
                    let before = self.state.lock().unwrap().faults.len();
                    let point = if path.starts_with("b-") { "rcpt-b" } else { "rcpt-a" };
                    let goes_on = say(point, "250 2.1.5 ok");
                    if before == self.state.lock().unwrap().faults.len() {
                        to.push(path);
                    }
                    goes_on
                }
                "DATA" if to.is_empty() => say("data", "503 5.5.1 no valid recipients"),
                "DATA" => say("data", "354 go ahead") && self.content(&mut input, &mut say, std::mem::take(&mut to))?,
                "RSET" => say("rset", "250 2.0.0 ok"),
                "QUIT" => {
                    say("quit", "221 2.0.0 bye");
                    return Ok(());
                }
                _ => return Err(format!("no command: {line}")),
            };
            if !goes_on {
                return Ok(());
            }
        }
        Ok(())
    }

    fn content(
        &self,
        input: &mut impl BufRead,
        say: &mut impl FnMut(&str, &str) -> bool,
        to: Vec<String>,
    ) -> Result<bool, String> {
        if self.fault("content").is_some() {
            return Ok(false);
        }
        let mut content = Vec::new();
        loop {
            let Some(line) = next_line(input)? else { return Ok(false) };
            if line == b"." {
                break;
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            content.extend_from_slice(b"\r\n");
        }
        let text = String::from_utf8_lossy(&content).into_owned();
        let subject = text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap_or_default().to_owned();
        for (index, path) in to.into_iter().enumerate() {
            // what is cut here was delivered all the same; what is refused was not
            let point = if index == 0 { "dot-a" } else { "dot-b" };
            let refuses = self
                .state
                .lock()
                .unwrap()
                .faults
                .iter()
                .any(|(at, fault)| *at == point && matches!(fault, Fault::Says(text) if !text.starts_with('2')));
            if !refuses {
                *self.state.lock().unwrap().delivered.entry((path, subject.clone())).or_default() += 1;
            }
            if !say(point, "250 2.0.0 in") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn delivered(&self, to: &str, subject: &str) -> usize {
        let state = self.state.lock().unwrap();
        assert!(state.wrong.is_empty(), "{:?}", state.wrong);
        state.delivered.get(&(format!("{to}@local.example"), subject.to_owned())).copied().unwrap_or_default()
    }
}

#[test]
fn every_fault_of_an_lmtp_server_has_the_right_outcome_for_each_recipient() {
    use Fault::{Cut, Says, Silence};
    // point, fault, how often recipients a and b have it in the end, who is reported to the sender
    let cases: [(&'static str, Fault, usize, usize, &[&str]); 31] = [
        ("banner", Cut, 1, 1, &[]),
        ("banner", Silence, 1, 1, &[]),
        ("banner", Says("554 5.3.2 not now\r\n"), 1, 1, &[]),
        ("banner", Says("HTTP/1.1 400 Bad Request\r\n"), 1, 1, &[]),
        ("lhlo", Cut, 1, 1, &[]),
        ("lhlo", Says("500 5.5.1 what?\r\n"), 1, 1, &[]),
        ("lhlo", Says("250-half\r\n251 other\r\n"), 1, 1, &[]),
        ("mail", Cut, 1, 1, &[]),
        ("mail", Says("421 4.3.2 going down\r\n"), 1, 1, &[]),
        ("mail", Says("451 4.3.0 later\r\n"), 1, 1, &[]),
        ("mail", Says("550 5.7.1 not from you\r\n"), 0, 0, &["a", "b"]),
        ("rcpt-a", Cut, 1, 1, &[]),
        ("rcpt-a", Silence, 1, 1, &[]),
        ("rcpt-a", Says("451 4.2.0 later\r\n"), 1, 1, &[]),
        ("rcpt-b", Says("452 4.2.2 full\r\n"), 1, 1, &[]),
        ("rcpt-b", Says("550 5.1.1 nobody\r\n"), 1, 0, &["b"]),
        ("rcpt-b", Says("\0\r\n"), 1, 1, &[]),
        ("data", Cut, 1, 1, &[]),
        ("data", Says("451 4.3.0 later\r\n"), 1, 1, &[]),
        ("data", Says("554 5.6.0 never\r\n"), 0, 0, &["a", "b"]),
        ("content", Cut, 1, 1, &[]),
        // behind the dot: what had no answer may be there twice, what had one never
        ("dot-a", Cut, 2, 1, &[]),
        ("dot-a", Silence, 2, 1, &[]),
        ("dot-b", Cut, 1, 2, &[]),
        ("dot-b", Says("nonsense\r\n"), 1, 1, &[]),
        ("dot-a", Says("452 4.2.2 full\r\n"), 1, 1, &[]),
        ("dot-b", Says("452 4.2.2 full\r\n"), 1, 1, &[]),
        ("dot-a", Says("552 5.2.2 too much\r\n"), 0, 1, &["a"]),
        ("dot-b", Says("421 4.3.2 going down\r\n"), 1, 1, &[]),
        ("quit", Cut, 1, 1, &[]),
        ("none", Cut, 1, 1, &[]),
    ];
    let appliance = appliance();
    let mut servers = Vec::new();
    for (index, (point, fault, ..)) in cases.iter().enumerate() {
        let (lmtp, address) = Lmtp::tcp(&[(point, *fault)]);
        let store = format!("s{index}");
        let spec = json!({ "type": "lmtp", "host": "127.0.0.1", "port": address.port(), "timeout": "2s", "maxConnections": 1 });
        appliance.put(&format!("mailbox-stores/{store}"), spec);
        recipient(&appliance, &format!("a-{index}"), &store);
        recipient(&appliance, &format!("b-{index}"), &store);
        servers.push(lmtp);
    }
    for index in 0..cases.len() {
        let content = format!("Subject: m{index}\r\n\r\n.dots\r\n..\r\n");
        send(&appliance, &[&format!("a-{index}"), &format!("b-{index}")], content.as_bytes());
    }
    drained(&appliance);
    let mut wrong = Vec::new();
    let reports = appliance.mailbox("ada");
    for (index, ((point, fault, a, b, failed), lmtp)) in cases.iter().zip(&servers).enumerate() {
        let had = ["a", "b"].map(|who| lmtp.delivered(&format!("{who}-{index}"), &format!("m{index}")));
        // cut before the answer: the one that was not reached yet may be missing from the first time
        if had != [*a, *b] {
            wrong.push(format!("{point} {fault:?}: {had:?} instead of {:?}", [a, b]));
        }
        let told: Vec<&str> = ["a", "b"]
            .into_iter()
            .filter(|who| {
                let field = format!("Final-Recipient: rfc822; {who}-{index}@local.example");
                reports.iter().any(|report| String::from_utf8_lossy(report).contains(&field))
            })
            .collect();
        if told != *failed {
            wrong.push(format!("{point} {fault:?}: told of {told:?} instead of {failed:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn mail_waits_for_a_socket_that_is_gone_and_then_shares_a_session() {
    let appliance = appliance();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("lmtp");
    appliance.put("mailbox-stores/box", json!({ "type": "lmtp", "socket": socket, "maxConnections": 1 }));
    recipient(&appliance, "eve", "box");
    for number in 0..30 {
        send(&appliance, &["eve"], format!("Subject: m{number}\r\n\r\nx\r\n").as_bytes());
    }
    let error = eventually("a reason", || last_error(&appliance, "box"));
    assert!(error.contains("no connection"), "{error}");
    let lmtp = Lmtp::unix(&socket);
    drained(&appliance);
    for number in 0..30 {
        assert_eq!(lmtp.delivered("eve", &format!("m{number}")), 1);
    }
    let connections = lmtp.state.lock().unwrap().connections;
    assert!(connections <= 5, "{connections} connections for 30 messages");
}

/// A request that came in.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    /// The signature is that of this time, of the last minute, over what is signed.
    #[track_caller]
    fn check(&self, signed: &[&[u8]]) {
        let header = &self.headers["bridgehead-signature"];
        let (time, digest) = header.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(time.parse().unwrap()) < 60, "{header}");
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(time.as_bytes());
        for part in signed {
            mac.update(b".");
            mac.update(part);
        }
        let expected: String = mac.finalize().into_bytes().iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(digest, expected);
    }
}

/// An application with a webhook: answers by script, then 204.
#[derive(Clone, Default)]
struct App {
    requests: Arc<Mutex<Vec<Request>>>,
}

impl App {
    fn start(answers: &[&'static str]) -> (App, SocketAddr) {
        let app = App::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answers = Arc::new(Mutex::new(answers.iter().rev().copied().collect::<Vec<_>>()));
        let serving = app.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (app, answers) = (serving.clone(), answers.clone());
                thread::spawn(move || {
                    let mut output = stream.try_clone().unwrap();
                    let mut input = BufReader::new(stream);
                    while let Some(request) = request(&mut input) {
                        app.requests.lock().unwrap().push(request);
                        let answer = answers.lock().unwrap().pop();
                        match answer {
                            Some("silence") => {
                                thread::sleep(Duration::from_secs(4));
                                return;
                            }
                            Some("cut") => return,
                            answer => {
                                let answer = answer.unwrap_or("204 No Content\r\n\r\n");
                                if output.write_all(format!("HTTP/1.1 {answer}").as_bytes()).is_err() {
                                    return;
                                }
                            }
                        }
                    }
                });
            }
        });
        (app, address)
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn request(input: &mut impl BufRead) -> Option<Request> {
    let first = String::from_utf8(next_line(input).unwrap()?).unwrap();
    let mut headers = BTreeMap::new();
    loop {
        let line = String::from_utf8(next_line(input).unwrap()?).unwrap();
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    input.read_exact(&mut body).ok()?;
    assert!(first.starts_with("POST "), "{first}");
    Some(Request { path: first.split(' ').nth(1)?.to_owned(), headers, body })
}

fn hook(appliance: &Appliance, name: &str, address: SocketAddr, format: &str) {
    let spec = json!({
        "type": "webhook", "url": format!("http://{address}/in?token=t"), "format": format, "timeout": "1s",
        "maxConnections": 1,
        "secret": if format == "raw" { json!({ "value": SECRET }) } else { json!({ "env": "BRIDGEHEAD_SECRET_TEST" }) },
    });
    appliance.put(&format!("mailbox-stores/{name}"), spec);
}

#[test]
fn a_webhook_gets_the_message_as_it_is_and_signed() {
    let appliance = appliance();
    let (app, address) = App::start(&[]);
    hook(&appliance, "app", address, "raw");
    recipient(&appliance, "one", "app");
    recipient(&appliance, "two", "app");
    let mut content = b"Subject: raw\r\n\r\n.dot\r\n\xff 8-bit\r\n".to_vec();
    send(&appliance, &["one", "two"], &content);
    drained(&appliance);
    let requests = app.requests();
    let [request] = requests.as_slice() else { panic!("one for both: {requests:?}") };
    assert_eq!((request.path.as_str(), request.headers["content-type"].as_str()), ("/in?token=t", "message/rfc822"));
    let envelope = &request.headers["bridgehead-envelope"];
    let to = ["one@local.example", "two@local.example"];
    assert_eq!(serde_json::from_str::<Value>(envelope).unwrap(), json!({ "from": "ada@local.example", "to": to }));
    assert!(request.body.starts_with(b"Received: ") && request.body.ends_with(&content));
    request.check(&[envelope.as_bytes(), &request.body]);

    // what is read has no secret in it, and can be written back
    let object = appliance.get("/api/v1/mailbox-stores/app");
    assert!(object["spec"]["secret"]["fingerprint"].is_string(), "{object}");
    assert!(!object.to_string().contains(SECRET), "{object}");
    appliance.put("mailbox-stores/app", object["spec"].clone());

    // large content comes from the spool
    for number in 0..200_000 {
        content.extend_from_slice(format!("line {number} of a large message, dots .\r\n").as_bytes());
    }
    send(&appliance, &["one"], &content);
    drained(&appliance);
    let request = app.requests().pop().unwrap();
    assert!(request.body.ends_with(&content));
    request.check(&[request.headers["bridgehead-envelope"].as_bytes(), &request.body]);
}

#[test]
fn many_recipients_come_in_requests_whose_headers_stay_small() {
    let appliance = appliance();
    let (app, address) = App::start(&[]);
    hook(&appliance, "app", address, "raw");
    let names: Vec<String> = (0..150).map(|number| format!("r{number}-{}", "x".repeat(50))).collect();
    names.iter().for_each(|name| recipient(&appliance, name, "app"));
    send(&appliance, &names.iter().map(String::as_str).collect::<Vec<_>>(), b"Subject: x\r\n\r\nx\r\n");
    drained(&appliance);
    let requests = app.requests();
    assert!(requests.len() > 1);
    let mut to = Vec::new();
    for request in &requests {
        let envelope = &request.headers["bridgehead-envelope"];
        assert!(envelope.len() < 4_500, "{} octets", envelope.len());
        request.check(&[envelope.as_bytes(), &request.body]);
        let envelope: Value = serde_json::from_str(envelope).unwrap();
        to.extend(envelope["to"].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()));
    }
    let expected: Vec<String> = names.iter().map(|name| format!("{name}@local.example")).collect();
    assert_eq!(to, expected, "each once");
    let deliveries: std::collections::BTreeSet<_> =
        requests.iter().map(|request| request.headers["bridgehead-delivery"].clone()).collect();
    assert_eq!(deliveries.len(), requests.len(), "each a delivery of its own");
}

#[test]
fn a_webhook_gets_the_message_taken_apart() {
    let appliance = appliance();
    let (app, address) = App::start(&[]);
    hook(&appliance, "app", address, "json");
    recipient(&appliance, "one", "app");
    let content = "From: Ada <ada@local.example>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nH\u{e4}\r\n\
         --b\r\nContent-Type: image/png\r\nContent-Disposition: attachment; filename=x.png\r\n\
         Content-Transfer-Encoding: base64\r\n\r\nAAEC\r\n--b--\r\n";
    send(&appliance, &["one"], content.as_bytes());
    drained(&appliance);
    let request = app.requests().pop().unwrap();
    request.check(&[&request.body]);
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!((&body["subject"], &body["text"]), (&json!("Grüße"), &json!("Hä")));
    assert_eq!(body["attachments"][0]["content"], "AAEC");
    assert_eq!(body["envelope"]["to"], json!(["one@local.example"]));
    assert_eq!(body["delivery"].as_str(), request.headers.get("bridgehead-delivery").map(String::as_str));
    assert_eq!(body["headers"][0]["name"], "Received");
}

#[test]
fn without_its_secret_a_webhook_sends_nothing_and_loses_nothing() {
    let appliance = appliance();
    let (app, address) = App::start(&[]);
    let url = format!("http://{address}/");
    let store = |secret: Value| json!({ "type": "webhook", "url": url, "secret": secret });
    appliance.put("mailbox-stores/app", store(json!({ "env": "BRIDGEHEAD_SECRET_MISSING" })));
    recipient(&appliance, "one", "app");
    send(&appliance, &["one"], b"Subject: x\r\n\r\nx\r\n");
    let error = eventually("a reason", || last_error(&appliance, "app"));
    assert!(error.contains("BRIDGEHEAD_SECRET_MISSING is not set"), "{error}");
    assert!(app.requests().is_empty());
    appliance.put("mailbox-stores/app", store(json!({ "value": SECRET })));
    drained(&appliance);
    assert_eq!(app.requests().len(), 1);
}

#[test]
fn what_a_webhook_answers_decides_and_no_redirect_is_followed() {
    let appliance = appliance();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let other = elsewhere.local_addr().unwrap();
    let redirect: &'static str =
        Box::leak(format!("302 Found\r\nLocation: http://{other}/\r\nContent-Length: 0\r\n\r\n").into_boxed_str());
    let refusal = "422 Unprocessable\r\nContent-Length: 19\r\n\r\nno such ticket\r\n\x1b[m";
    // answers, requests in the end, whether the sender is told
    let cases: [(&[&'static str], usize, bool); 9] = [
        (&["500 Oops\r\nContent-Length: 0\r\n\r\n"], 2, false),
        (&["503 Busy\r\nContent-Length: 0\r\n\r\n", "429 Slow\r\nContent-Length: 0\r\n\r\n"], 3, false),
        (&["408 Late\r\nContent-Length: 0\r\n\r\n"], 2, false),
        (&["silence"], 2, false),
        (&["cut"], 2, false),
        (&[redirect], 2, false),
        (&["nonsense\r\n\r\n"], 2, false),
        (&["200 OK\r\nContent-Length: 1000\r\n\r\ncut short"], 1, false),
        (Box::leak(vec![Box::leak(refusal.to_owned().into_boxed_str()) as &'static str].into_boxed_slice()), 1, true),
    ];
    let mut apps = Vec::new();
    for (index, (answers, ..)) in cases.iter().enumerate() {
        let (app, address) = App::start(answers);
        hook(&appliance, &format!("app{index}"), address, if index % 2 == 0 { "raw" } else { "json" });
        recipient(&appliance, &format!("r{index}"), &format!("app{index}"));
        apps.push(app);
        send(&appliance, &[&format!("r{index}")], b"Subject: x\r\n\r\nx\r\n");
    }
    drained(&appliance);
    let reports = appliance.mailbox("ada");
    for (index, ((answers, count, told), app)) in cases.iter().zip(&apps).enumerate() {
        let requests = app.requests();
        assert_eq!(requests.len(), *count, "{answers:?}");
        let same =
            |request: &Request| request.headers["bridgehead-delivery"] == requests[0].headers["bridgehead-delivery"];
        assert!(requests.iter().all(same), "the same delivery again");
        let field = format!("Final-Recipient: rfc822; r{index}@local.example");
        assert_eq!(reports.iter().any(|report| String::from_utf8_lossy(report).contains(&field)), *told, "{answers:?}");
    }
    let report = String::from_utf8(reports[0].clone()).unwrap();
    assert!(report.contains("422") && report.contains("no such ticket") && !report.contains('\x1b'), "{report}");
    assert!(elsewhere.accept().is_err(), "a redirect was followed");
}

#[test]
fn a_full_mailbox_waits_for_room_and_what_never_fits_comes_back() {
    let appliance = appliance();
    let quota = json!({ "size": "20KiB", "messages": 2 });
    appliance.put("mailbox-stores/small", json!({ "type": "maildir", "quota": quota }));
    recipient(&appliance, "eve", "small");
    let inbox = appliance.data().join("mail/small/eve");
    let files = || fs::read_dir(inbox.join("new")).map_or(0, Iterator::count);
    send(&appliance, &["eve"], b"Subject: 1\r\n\r\nx\r\n");
    send(&appliance, &["eve"], b"Subject: 2\r\n\r\nx\r\n");
    eventually("two messages", || (files() == 2).then_some(()));
    send(&appliance, &["eve"], b"Subject: 3\r\n\r\nx\r\n");
    let error = eventually("a reason", || last_error(&appliance, "small"));
    assert!(error.contains("full") && error.contains("4.2.2"), "{error}");
    send(
        &appliance,
        &["eve"],
        &[b"Subject: 4\r\n\r\n".as_slice(), &b"0123456789012345678901234567890123456789\r\n".repeat(600)].concat(),
    );
    let report = String::from_utf8(appliance.first_mail("ada")).unwrap();
    assert!(report.contains("Status: 5.2.3"), "{report}");
    assert_eq!(files(), 2);
    // somebody reads, removes, and says so, as Dovecot and Courier do
    let first = fs::read_dir(inbox.join("new")).unwrap().next().unwrap().unwrap().path();
    let size = fs::metadata(&first).unwrap().len();
    let name = first.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.ends_with(&format!(",S={size}")), "{name} has {size}");
    fs::remove_file(first).unwrap();
    let mut sizes = fs::OpenOptions::new().append(true).open(inbox.join("maildirsize")).unwrap();
    sizes.write_all(format!("-{size} -1\n").as_bytes()).unwrap();
    drained(&appliance);
    assert_eq!(files(), 2);
}

#[test]
fn a_drop_file_has_its_envelope_in_front_and_every_line_ends_right() {
    let appliance = appliance();
    appliance.put("mailbox-stores/drop", json!({ "type": "drop", "path": "in/tray" }));
    recipient(&appliance, "one", "drop");
    recipient(&appliance, "two", "drop");
    let content = b"Subject: dropped\r\n\r\n.dot\r\n";
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.mail("a@b.example", &["one@local.example", "two@local.example", "one@local.example"], content);
    smtp.mail("", &["two@local.example"], content);
    drained(&appliance);
    let tray = appliance.data().join("drop/in/tray");
    let files = fs::read_dir(&tray).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut texts: Vec<String> = files.map(|path| fs::read_to_string(path).unwrap()).collect();
    texts.sort();
    assert_eq!(texts.len(), 2);
    assert!(texts[0].starts_with("x-sender: <>\r\nx-receiver: two@local.example\r\nReceived: "), "{}", texts[0]);
    let envelope =
        "x-sender: a@b.example\r\nx-receiver: one@local.example\r\nx-receiver: two@local.example\r\nReceived: ";
    assert!(
        texts[1].starts_with(envelope) && texts[1].ends_with("\r\nSubject: dropped\r\n\r\n.dot\r\n"),
        "{}",
        texts[1]
    );
    assert_eq!(texts[1].matches('\n').count(), texts[1].matches("\r\n").count());
    assert_eq!(fs::read_dir(tray.join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_host_is_found_by_name_and_one_that_is_starting_is_tried_again() {
    let appliance = appliance();
    let (lmtp, address) = Lmtp::tcp(&[("banner", Fault::Says("421 4.3.2 starting\r\n"))]);
    let spec = json!({ "type": "lmtp", "host": "localhost", "port": address.port() });
    appliance.put("mailbox-stores/box", spec);
    recipient(&appliance, "eve", "box");
    send(&appliance, &["eve"], b"Subject: m\r\n\r\nx\r\n");
    drained(&appliance);
    assert_eq!(lmtp.delivered("eve", "m"), 1, "by name");

    // a server for many domains is told whose postmaster is meant
    appliance.put("mailbox-stores/default", json!({ "type": "maildir" }));
    let spec = json!({ "type": "lmtp", "host": "localhost", "port": address.port(), "default": true });
    appliance.put("mailbox-stores/box", spec);
    Smtp::open(appliance.smtp()).mail("a@b.example", &["postmaster"], b"Subject: p\r\n\r\nx\r\n");
    drained(&appliance);
    assert_eq!(lmtp.delivered("postmaster", "p"), 1);
}
