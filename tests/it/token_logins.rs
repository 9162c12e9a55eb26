//! Connectors that log in with a token: a scripted token endpoint, a scripted smart host, and the real binary between them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::appliance::{Appliance, PATIENCE, Smtp, eventually, next_line};

const MESSAGE: &[u8] = b"Subject: x\r\n\r\ntext\r\n";
const CLIENT_SECRET: &str = "Cl1ent~S3cret&=";
const REFRESH_TOKEN: &str = "1//r3fresh-t0ken";
/// What every token begins with.
const TOKEN: &str = "eyJ0b2tlbg.";

/// What an endpoint answers to a request.
#[derive(Debug, Clone)]
enum Says {
    /// A status line, headers and a body.
    Http(u16, &'static str, String),
    /// Nothing, and it keeps the connection.
    Nothing,
    /// It closes the connection.
    Cut,
}

fn token(number: usize, seconds: u64) -> Says {
    let answer = json!({"token_type": "Bearer", "access_token": format!("{TOKEN}{number}"), "expires_in": seconds});
    Says::Http(200, "Content-Type: application/json", answer.to_string())
}

fn rotated(number: usize, refresh: &str) -> Says {
    let answer = json!({"access_token": format!("{TOKEN}{number}"), "expires_in": 1, "refresh_token": refresh});
    Says::Http(200, "Content-Type: application/json", answer.to_string())
}

/// A token endpoint, which keeps what it was sent.
struct Endpoint {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    /// What it says, request by request; the last one stays.
    says: VecDeque<Says>,
    heads: Vec<String>,
    bodies: Vec<String>,
}

impl Endpoint {
    fn up(says: impl IntoIterator<Item = Says>) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script { says: says.into_iter().collect(), ..Script::default() }));
        let its = script.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let script = its.clone();
                thread::spawn(move || answer(stream, &script));
            }
        });
        Endpoint { address, script }
    }

    fn url(&self) -> String {
        format!("http://{}/common/oauth2/v2.0/token", self.address)
    }

    fn now_says(&self, says: Says) {
        self.script.lock().unwrap().says = VecDeque::from([says]);
    }

    fn bodies(&self) -> Vec<String> {
        self.script.lock().unwrap().bodies.clone()
    }
}

fn answer(stream: TcpStream, script: &Mutex<Script>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut input = BufReader::new(&stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let mut line = String::new();
        if !matches!(input.read_line(&mut line), Ok(1..)) {
            return;
        }
        if let Some(octets) = line.to_lowercase().strip_prefix("content-length:") {
            length = octets.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).unwrap();
    let says = {
        let mut script = script.lock().unwrap();
        script.heads.push(head);
        script.bodies.push(String::from_utf8(body).unwrap());
        if script.says.len() > 1 { script.says.pop_front().unwrap() } else { script.says[0].clone() }
    };
    match says {
        Says::Http(status, headers, body) => {
            let length = body.len();
            let text = format!(
                "HTTP/1.1 {status} x\r\n{headers}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            let _ = (&stream).write_all(text.as_bytes());
        }
        Says::Nothing => thread::sleep(PATIENCE),
        Says::Cut => {}
    }
}

/// How a smart host refuses a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// With 535, at once, as Microsoft 365 does.
    AtOnce,
    /// With a reason in a challenge first, as Google does.
    Told,
}

/// A smart host that lets in whoever shows one of its tokens.
struct Host {
    address: SocketAddr,
    ledger: Arc<Mutex<Ledger>>,
}

#[derive(Debug, Default)]
struct Ledger {
    /// Tokens that are good, by their numbers.
    good: Vec<usize>,
    /// What was shown, decoded.
    shown: Vec<String>,
    /// What was said to a refusal's reason.
    replied: Vec<String>,
    taken: usize,
}

impl Host {
    fn up(refusal: Refusal, good: &[usize]) -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ledger = Arc::new(Mutex::new(Ledger { good: good.to_vec(), ..Ledger::default() }));
        let its = ledger.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let ledger = its.clone();
                thread::spawn(move || talk(&stream, &ledger, refusal));
            }
        });
        Host { address, ledger }
    }

    fn taken(&self) -> usize {
        self.ledger.lock().unwrap().taken
    }

    /// The numbers of the tokens that were shown.
    fn shown(&self) -> Vec<usize> {
        let number = |shown: &String| {
            let (_, token) = shown.split_once(TOKEN).unwrap();
            token.trim_end_matches('\x01').parse().unwrap()
        };
        self.ledger.lock().unwrap().shown.iter().map(number).collect()
    }
}

fn talk(stream: &TcpStream, ledger: &Mutex<Ledger>, refusal: Refusal) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut input = BufReader::new(stream);
    let say = |text: &str| {
        let mut stream = stream;
        let _ = stream.write_all(format!("{text}\r\n").as_bytes());
    };
    let mut line = || Some(String::from_utf8(next_line(&mut input).ok()??).unwrap());
    let mut inside = false;
    say("220 smart.example ESMTP");
    loop {
        let said = line()?;
        match said.split(' ').next().unwrap() {
            "EHLO" => say("250-smart.example\r\n250-AUTH XOAUTH2 OAUTHBEARER\r\n250 8BITMIME"),
            "AUTH" => {
                let message = match said.split(' ').nth(2) {
                    Some(message) => message.to_owned(),
                    None => {
                        say("334 ");
                        line()?
                    }
                };
                let shown = String::from_utf8(STANDARD.decode(message).unwrap()).unwrap();
                let good = {
                    let mut ledger = ledger.lock().unwrap();
                    ledger.shown.push(shown.clone());
                    ledger.good.iter().any(|number| shown.ends_with(&format!("{TOKEN}{number}\x01\x01")))
                };
                if good {
                    inside = true;
                    say("235 2.7.0 in");
                    continue;
                }
                if refusal == Refusal::Told {
                    say(&format!("334 {}", STANDARD.encode(json!({"status": "401", "schemes": "bearer"}).to_string())));
                    let reply = line()?;
                    ledger.lock().unwrap().replied.push(reply);
                }
                // what it was shown, it says back
                say(&format!("535 5.7.3 Authentication unsuccessful {shown}").replace('\x01', "^A"));
            }
            _ if !inside => say("530 5.7.57 Client not authenticated"),
            "DATA" => {
                say("354 go");
                while line()? != "." {}
                ledger.lock().unwrap().taken += 1;
                say("250 2.0.0 taken");
            }
            "QUIT" => {
                say("221 bye");
                return None;
            }
            _ => say("250 ok"),
        }
    }
}

fn relay() -> Appliance {
    let appliance = Appliance::start();
    appliance.patch("virtual-servers/default", json!({"relay": {"allow": ["127.0.0.0/8"]}}));
    appliance
}

fn application(endpoint: &Endpoint) -> Value {
    json!({
        "grant": "clientCredentials", "tokenUrl": endpoint.url(), "clientId": "an app", "clientSecret": {"value": CLIENT_SECRET},
        "scopes": ["https://outlook.office365.com/.default"],
    })
}

fn connect(appliance: &Appliance, name: &str, host: &Host, mechanism: &str, oauth2: Value) {
    let spec = json!({
        "addressSpaces": [{"pattern": format!("{name}.test"), "cost": 1}],
        "route": {"smartHosts": [{"host": host.address.ip(), "port": host.address.port()}]},
        "authentication": {"mechanism": mechanism, "username": "relay@b.example", "oauth2": oauth2},
        "limits": {"messagesPerConnection": 1},
    });
    appliance.put(&format!("connectors/{name}"), spec);
}

fn send(appliance: &Appliance, name: &str) {
    Smtp::open(appliance.smtp()).mail("a@b.example", &[&format!("u@{name}.test")], MESSAGE);
}

/// Why the mail of a connector waits, once it does for a reason with these words.
#[track_caller]
fn why_it_waits(appliance: &Appliance, name: &str, words: &str) -> String {
    let mut last = String::new();
    eventually(&format!("{name} waits because of {words:?}"), || {
        let queue = appliance.rest("GET", &format!("/api/v1/queues/smarthost:{name}"), None);
        last = (queue.status == 200).then(|| queue.json()["lastError"].to_string())?;
        last.contains(words).then(|| last.clone())
    })
}

fn retry(appliance: &Appliance, name: &str) {
    let answer = appliance.rest("POST", &format!("/api/v1/queues/smarthost:{name}/retry"), None);
    assert!((200..300).contains(&answer.status), "{answer:?}");
}

/// The condition `Authenticated`: status, reason, message.
fn authenticated(appliance: &Appliance, name: &str) -> (String, String, String) {
    let object = appliance.get(&format!("/api/v1/connectors/{name}"));
    let all = object["status"]["conditions"].as_array().unwrap();
    let condition = all.iter().find(|condition| condition["type"] == "Authenticated").expect("there is one");
    let text = |key: &str| condition[key].as_str().unwrap().to_owned();
    (text("status"), text("reason"), text("message"))
}

/// Nothing of what may not be seen, in any of its shapes.
fn assert_clean(text: &str) {
    for secret in [CLIENT_SECRET, "Cl1ent~S3cret", "Cl1ent%7ES3cret", REFRESH_TOKEN, "r3fresh-t0ken", TOKEN] {
        assert!(!text.contains(secret) && !text.contains(&STANDARD.encode(secret)), "{secret}: {text}");
    }
}

/// Everything that the appliance shows, and its whole log; it is stopped for that.
fn assert_nothing_is_shown(mut appliance: Appliance, connectors: &[&str]) {
    for name in connectors {
        for path in [
            format!("/api/v1/connectors/{name}"),
            format!("/api/v1/queues/smarthost:{name}"),
            format!("/api/v1/messages?recipient=u@{name}.test"),
        ] {
            assert_clean(&appliance.rest("GET", &path, None).body);
        }
    }
    for message in appliance.get("/api/v1/messages")["items"].as_array().unwrap() {
        let id = message["id"].as_str().unwrap();
        assert_clean(&appliance.get(&format!("/api/v1/messages/{id}/events")).to_string());
    }
    let mut issued = false;
    appliance.terminate();
    appliance.wait_for_line("it has stopped", |line| {
        assert_clean(&line.to_string());
        issued |= line["message"] == "a token was issued";
        (line["message"] == "stopped").then_some(())
    });
    assert!(issued, "the log was looked at");
    appliance.ended_within(PATIENCE);
}

#[test]
fn faults_of_the_endpoint_let_mail_wait_and_say_why() {
    let appliance = relay();
    let elsewhere = Endpoint::up([token(1, 3_600)]);
    let moved: &'static str = format!("Location: {}", elsewhere.url()).leak();
    let json_type = "Content-Type: application/json";
    let html = || "<html><body>Sign in to your account</body></html>".to_owned();
    let grant = r#"{"error":"invalid_grant","error_description":"AADSTS7000215: Invalid client\r\nsecret"}"#.to_owned();
    let echo = format!(r#"{{"error":"invalid_client","error_description":"{CLIENT_SECRET} is wrong"}}"#);
    let rows = [
        ("hangs", Says::Nothing, "4.7.0", "did not answer in 10 s", "endpointSilent"),
        (
            "redirects",
            Says::Http(307, moved, String::new()),
            "4.7.0",
            "a redirect to http://127.0.0.1",
            "endpointAnswer",
        ),
        (
            "html",
            Says::Http(200, "Content-Type: text/html", html()),
            "4.7.0",
            "no JSON object (text/html)",
            "endpointAnswer",
        ),
        (
            "grant",
            Says::Http(400, json_type, grant),
            "4.7.8",
            "invalid_grant: AADSTS7000215: Invalid client secret",
            "endpointRefused",
        ),
        ("echoes", Says::Http(401, json_type, echo), "4.7.8", "(words that hold a secret)", "endpointRefused"),
        ("broken", Says::Http(500, "Content-Type: text/html", html()), "4.7.0", "500", "endpointAnswer"),
        ("cuts", Says::Cut, "4.7.0", "cannot be reached", "endpointUnreachable"),
        ("huge", Says::Http(200, json_type, " ".repeat(1 << 20)), "4.7.0", "more than 64 KiB", "endpointAnswer"),
        ("empty", Says::Http(200, json_type, "{}".to_owned()), "4.7.0", "without a token", "endpointAnswer"),
    ];
    let mut up = Vec::new();
    for (name, says, ..) in &rows {
        let (endpoint, host) = (Endpoint::up([says.clone()]), Host::up(Refusal::AtOnce, &[1]));
        connect(&appliance, name, &host, "xoauth2", application(&endpoint));
        assert_eq!(authenticated(&appliance, name).1, "notAskedYet");
        send(&appliance, name);
        up.push((endpoint, host));
    }
    for ((name, _, status, words, reason), (endpoint, host)) in rows.iter().zip(&up) {
        let why = why_it_waits(&appliance, name, words);
        for words in [&format!("connector {name} has no token to log in with"), *status] {
            assert!(why.contains(words), "{name}: {why}");
        }
        let (is, because, message) = authenticated(&appliance, name);
        assert_eq!((is.as_str(), because.as_str()), ("false", *reason), "{name}: {message}");
        assert!(message.contains(words), "{name}: {message}");
        assert!(host.ledger.lock().unwrap().shown.is_empty() && host.taken() == 0, "{name}");
        assert_eq!(endpoint.bodies().len(), 1, "{name}: once for an attempt");
        if *name != "hangs" {
            let tested = appliance.rest("POST", &format!("/api/v1/connectors/{name}/test"), Some(&json!({})));
            assert!(tested.body.contains(words), "{name}: {tested:?}");
            assert_clean(&tested.body);
        }
        // mended, it goes
        endpoint.now_says(token(1, 3_600));
        retry(&appliance, name);
        eventually(&format!("{name} goes after all"), || (host.taken() == 1).then_some(()));
        let (is, because, message) = authenticated(&appliance, name);
        assert_eq!((is.as_str(), because.as_str()), ("true", "loggedIn"), "{name}: {message}");
        assert!(message.starts_with("the token is good until 20"), "{message}");
    }
    assert!(elsewhere.bodies().is_empty(), "a redirect was followed");
    assert_nothing_is_shown(appliance, &rows.map(|row| row.0));
}

#[test]
fn a_token_serves_all_sessions_and_a_refused_one_is_renewed_once() {
    let appliance = relay();
    for (name, refusal, mechanism) in [
        ("at-once", Refusal::AtOnce, "xoauth2"),
        ("told", Refusal::Told, "xoauth2"),
        ("standard", Refusal::Told, "oauthbearer"),
    ] {
        let endpoint = Endpoint::up((1..=9).map(|number| token(number, 3_600)));
        let host = Host::up(refusal, &[1]);
        connect(&appliance, name, &host, mechanism, application(&endpoint));
        for sent in 1..=3 {
            send(&appliance, name);
            eventually(&format!("{name}: mail {sent}"), || (host.taken() == sent).then_some(()));
        }
        assert_eq!((host.shown(), endpoint.bodies().len()), (vec![1, 1, 1], 1), "{name}");
        let shown = match mechanism {
            "xoauth2" => format!("user=relay@b.example\x01auth=Bearer {TOKEN}1\x01\x01"),
            _ => format!("n,a=relay@b.example,\x01auth=Bearer {TOKEN}1\x01\x01"),
        };
        assert_eq!(host.ledger.lock().unwrap().shown[0], shown);
        assert_eq!(
            endpoint.bodies()[0],
            "grant_type=client_credentials&client_id=an+app&client_secret=Cl1ent%7ES3cret%26%3D&\
             scope=https%3A%2F%2Foutlook.office365.com%2F.default"
        );
        let head = endpoint.script.lock().unwrap().heads[0].to_lowercase();
        assert!(head.starts_with("post /common/oauth2/v2.0/token http/1.1"), "{head}");
        assert!(head.contains("content-type: application/x-www-form-urlencoded"), "{head}");
        // it is taken back: another one is asked for, at once
        host.ledger.lock().unwrap().good = vec![2];
        send(&appliance, name);
        eventually(&format!("{name}: with another token"), || (host.taken() == 4).then_some(()));
        assert_eq!((host.shown(), endpoint.bodies().len()), (vec![1, 1, 1, 1, 2], 2), "{name}");
        // none will do: no more than one request for it
        host.ledger.lock().unwrap().good.clear();
        send(&appliance, name);
        let why = why_it_waits(&appliance, name, "the server refused");
        assert!(why.contains("4.7.3") && why.contains(&format!("connector {name} cannot log in by")), "{why}");
        assert!(why.contains("535 5.7.3") && !why.contains("relay@b.example"), "{why}");
        assert_eq!(why.contains("status 401"), refusal == Refusal::Told, "{why}");
        assert_eq!(endpoint.bodies().len(), 2, "{name}: a renewal was just made");
        let (is, because, message) = authenticated(&appliance, name);
        assert_eq!((is.as_str(), because.as_str()), ("false", "loginRefused"), "{message}");
        // a test shows what was said, but for that: this host says it back
        let tested = appliance.rest("POST", &format!("/api/v1/connectors/{name}/test"), Some(&json!({})));
        assert!(tested.body.contains("***"), "{tested:?}");
        assert_clean(&tested.body);
        assert!(!tested.body.contains("relay@b.example"), "{tested:?}");
        let replied = host.ledger.lock().unwrap().replied.clone();
        let empty = if mechanism == "xoauth2" { "" } else { "AQ==" };
        assert!(replied.iter().all(|reply| reply == empty), "{replied:?}");
        assert_eq!(replied.is_empty(), refusal == Refusal::AtOnce);
    }
    assert_nothing_is_shown(appliance, &["at-once", "told", "standard"]);
}

#[test]
fn a_refresh_token_rotates_and_secrets_in_files_are_watched() {
    let appliance = relay();
    let secrets = appliance.data().join("secrets");
    fs::create_dir_all(&secrets).unwrap();
    fs::write(secrets.join("refresh"), format!("{REFRESH_TOKEN}\n")).unwrap();
    let endpoint =
        Endpoint::up([rotated(1, "1//r3fresh-t0ken-two"), rotated(2, "1//r3fresh-t0ken-three"), token(3, 3_600)]);
    let host = Host::up(Refusal::Told, &[1, 2, 3]);
    let oauth2 = json!({
        "grant": "refreshToken", "tokenUrl": endpoint.url(), "clientId": "app", "refreshToken": {"file": "refresh"}
    });
    connect(&appliance, "mine", &host, "xoauth2", oauth2);
    for sent in 1..=2 {
        send(&appliance, "mine");
        eventually(&format!("mail {sent}"), || (host.taken() == sent).then_some(()));
        // it lives for a second
        eventually("it is over", || (authenticated(&appliance, "mine").1 == "tokenExpired").then_some(()));
    }
    assert_eq!(authenticated(&appliance, "mine").0, "unknown");
    let refresh = |body: &String| body.split('&').nth(1).unwrap().to_owned();
    let asked: Vec<String> = endpoint.bodies().iter().map(refresh).collect();
    let with = |token: &str| format!("refresh_token=1%2F%2Fr3fresh-t0ken{token}");
    assert_eq!(asked, [with(""), with("-two")]);
    assert_eq!(endpoint.bodies()[0], format!("grant_type=refresh_token&{}&client_id=app", with("")));
    // another file, another login: what was rotated goes
    fs::write(secrets.join("refresh"), format!("{REFRESH_TOKEN}-new\n")).unwrap();
    eventually("the file is read", || (authenticated(&appliance, "mine").1 == "notAskedYet").then_some(()));
    send(&appliance, "mine");
    eventually("mail 3", || (host.taken() == 3).then_some(()));
    assert_eq!(refresh(&endpoint.bodies()[2]), with("-new"));
    // what is read back is kept
    let shown = appliance.get("/api/v1/connectors/mine");
    appliance.put("connectors/mine", shown["spec"].clone());
    assert_eq!(shown["spec"]["authentication"]["oauth2"]["refreshToken"]["set"], true);
    assert_nothing_is_shown(appliance, &["mine"]);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let appliance = relay();
    let secret = json!({"value": CLIENT_SECRET});
    let oauth2 = |more: Value| {
        let mut all = json!({"grant": "clientCredentials", "tokenUrl": "https://login.example/token", "clientId": "app", "clientSecret": secret});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        json!({"mechanism": "xoauth2", "username": "a@b.example", "oauth2": all})
    };
    let with = |mut login: Value, key: &str, value: Value| {
        login[key] = value;
        login.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        login
    };
    for (authentication, wrong) in [
        (oauth2(json!({})), ""),
        (oauth2(json!({"grant": "refreshToken", "refreshToken": secret})), ""),
        (oauth2(json!({"grant": "refreshToken", "refreshToken": secret, "clientSecret": null})), ""),
        (oauth2(json!({"clientSecret": null})), "/oauth2/clientSecret"),
        (oauth2(json!({"refreshToken": secret})), "/oauth2/refreshToken"),
        (oauth2(json!({"grant": "refreshToken"})), "/oauth2/refreshToken"),
        (oauth2(json!({"grant": "password"})), "/oauth2/grant"),
        (oauth2(json!({"tokenUrl": "http://login.example/token"})), "/oauth2/tokenUrl"),
        (oauth2(json!({"tokenUrl": "https://169.254.169.254/token"})), "/oauth2/tokenUrl"),
        (oauth2(json!({"tokenUrl": "https://a:b@login.example/token"})), "/oauth2/tokenUrl"),
        (oauth2(json!({"scopes": ["a b"]})), "/oauth2/scopes/0"),
        (oauth2(json!({"clientId": ""})), "/oauth2/clientId"),
        (oauth2(json!({"tenant": "x"})), "/oauth2/tenant"),
        (with(oauth2(json!({})), "password", secret.clone()), "/password"),
        (with(oauth2(json!({})), "username", Value::Null), "/username"),
        (with(oauth2(json!({})), "oauth2", Value::Null), "/oauth2"),
        (with(with(oauth2(json!({})), "mechanism", json!("plain")), "password", secret.clone()), "/oauth2"),
        (with(with(oauth2(json!({})), "mechanism", json!("none")), "username", Value::Null), "/oauth2"),
        (oauth2(json!({"clientSecret": {"file": "missing"}})), "/oauth2/clientSecret"),
    ] {
        let spec = json!({
            "addressSpaces": [{"pattern": "a.test", "cost": 1}], "route": {"smartHosts": [{"host": "smtp.example.net"}]},
            "security": {"tls": "verified"}, "authentication": authentication,
        });
        let answer = appliance.rest("PUT", "/api/v1/connectors/a?dryRun=true", Some(&json!({ "spec": spec })));
        if wrong.is_empty() {
            assert!((200..202).contains(&answer.status), "{authentication}: {answer:?}");
        } else {
            assert_eq!(answer.status, 422, "{authentication}: {answer:?}");
            let pointer = answer.json()["errors"][0]["pointer"].clone();
            assert_eq!(pointer, format!("/spec/authentication{wrong}"), "{authentication}: {answer:?}");
        }
        assert_clean(&answer.body);
    }
}
