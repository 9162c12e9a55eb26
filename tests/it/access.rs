//! Who may, on the real binary: the socket of the machine, TLS with reload, tokens of an issuer, and what an action's
//! audit entry costs.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use serde_json::{Value, json};

use bridgehead::model::key_digest::KeyDigest;

use super::api_house::pair;
use super::appliance::{Appliance, PATIENCE, eventually};

/// A request over any stream; status and body.
fn ask(mut stream: impl Read + Write, head: &str) -> std::io::Result<(u16, String)> {
    stream.write_all(format!("{head}\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    // some close without a word of TLS
    if let Err(error) = stream.read_to_end(&mut answer)
        && answer.is_empty()
    {
        return Err(error);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_default();
    Ok((status, answer.split_once("\r\n\r\n").unwrap_or_default().1.to_owned()))
}

fn by_socket(appliance: &Appliance, head: &str) -> (u16, String) {
    ask(UnixStream::connect(appliance.data().join("admin.sock")).unwrap(), head).unwrap()
}

#[test]
fn the_owner_of_the_machine_gets_in_by_its_socket_without_a_key() {
    let mut appliance = Appliance::start();
    let socket = appliance.data().join("admin.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let (status, body) = by_socket(&appliance, "GET /api/v1/whoami HTTP/1.1");
    let me: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &me["name"], &me["role"]), (200, &json!("admin.sock"), &json!("owner")));
    // a key says who it is, also here; and guessing is slowed here too, but not for who shows none
    let head = |key: &str| format!("GET /api/v1/whoami HTTP/1.1\r\nAuthorization: Bearer {key}");
    let (_, body) = by_socket(&appliance, &head(super::appliance::KEY));
    assert!(body.contains("\"bootstrap\""), "{body}");
    let guesses: Vec<u16> = (0..12).map(|n| by_socket(&appliance, &head(&format!("guess-{n}"))).0).collect();
    assert_eq!((guesses[0], guesses[11]), (401, 429));
    assert_eq!(by_socket(&appliance, "GET /api/v1/whoami HTTP/1.1").0, 200);
    assert_eq!(appliance.rest("GET", "/api/v1/whoami", None).status, 200, "others are not slowed by it");
    let (status, _) = by_socket(&appliance, "POST /api/v1/virtual-servers/default/pause HTTP/1.1");
    assert_eq!(status, 200);
    let log = appliance.get("/api/v1/audit-log?actor=admin.sock");
    assert_eq!(log["items"][0]["action"], "pause", "{log}");

    // what a dead process left is replaced
    appliance.kill();
    assert!(socket.exists() && UnixStream::connect(&socket).is_err());
    appliance.start_again();
    assert_eq!(by_socket(&appliance, "GET /api/v1/whoami HTTP/1.1").0, 200);
    appliance.stop();
    assert!(!socket.exists(), "a good end leaves none");
}

/// Talks TLS with whoever shows a certificate that this one vouches for.
fn by_tls(
    address: SocketAddr,
    ca: &str,
    alpn: &[&[u8]],
    head: &str,
) -> std::io::Result<(u16, String, Option<Vec<u8>>)> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from("api.example.com").unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp)?;
    }
    let agreed = connection.alpn_protocol().map(<[u8]>::to_vec);
    if agreed.as_deref() == Some(b"h2") {
        return Ok((0, String::new(), agreed));
    }
    let (status, body) = ask(Stream::new(&mut connection, &mut tcp), head)?;
    Ok((status, body, agreed))
}

#[test]
fn the_api_is_served_over_tls_and_a_broken_pair_leaves_the_old_one() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let files = tempfile::tempdir().unwrap();
    let (chain, key) = (files.path().join("tls.crt"), files.path().join("tls.key"));
    let put = |(certificate, private): &(String, String)| {
        fs::write(&key, private).unwrap();
        fs::write(&chain, certificate).unwrap();
    };
    let (first, second) = (pair("api.example.com"), pair("api.example.com"));
    put(&first);
    let variables =
        [("BRIDGEHEAD_API_TLS_CERT", chain.to_str().unwrap()), ("BRIDGEHEAD_API_TLS_KEY", key.to_str().unwrap())];
    let appliance = Appliance::start_with(&variables);
    let api = appliance.api();
    let head = format!("GET /api/v1/whoami HTTP/1.1\r\nAuthorization: Bearer {}", super::appliance::KEY);
    let (status, body, _) = by_tls(api, &first.0, &[], &head).unwrap();
    assert_eq!(status, 200, "{body}");
    assert_eq!(by_tls(api, &first.0, &[b"http/1.1"], &head).unwrap().2.as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(by_tls(api, &first.0, &[b"h2", b"http/1.1"], &head).unwrap().2.as_deref(), Some(&b"h2"[..]));
    assert!(by_tls(api, &second.0, &[], &head).is_err(), "not yet");
    // plain HTTP gets nothing that it understands
    let plain = ask(TcpStream::connect(api).unwrap(), &head);
    assert!(plain.is_err() || plain.is_ok_and(|(status, body)| status == 0 && !body.contains("bootstrap")));
    let guesses: Vec<u16> = (0..12)
        .map(|n| format!("GET /api/v1/whoami HTTP/1.1\r\nAuthorization: Bearer guess-{n}"))
        .map(|head| by_tls(api, &first.0, &[], &head).unwrap().0)
        .collect();
    assert_eq!((guesses[0], guesses[11]), (401, 429), "brute force is slowed");

    fs::write(&chain, "-----BEGIN nonsense").unwrap();
    appliance.wait_for_line("a broken pair is told", |line| {
        line["message"].as_str()?.contains("the one before stays").then_some(())
    });
    let valid = |appliance: &Appliance| {
        let (_, metrics) = by_socket(appliance, "GET /metrics HTTP/1.1");
        metrics.lines().find_map(|line| line.strip_prefix("bridgehead_api_certificate_valid ")).map(str::to_owned)
    };
    assert_eq!(valid(&appliance).as_deref(), Some("0"));
    assert!(by_tls(api, &first.0, &[], "GET /livez HTTP/1.1").is_ok(), "the old one is in force");
    put(&second);
    eventually("the new one is in force", || by_tls(api, &second.0, &[], "GET /livez HTTP/1.1").ok());
    assert_eq!(valid(&appliance).as_deref(), Some("1"));
}

/// An issuer's key, and a server that gives it out.
struct Issuer {
    uri: String,
    pair: rcgen::KeyPair,
}

impl Issuer {
    fn start() -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let issuer = Issuer { uri, pair: rcgen::KeyPair::generate().unwrap() };
        let point = issuer.pair.public_key_raw();
        let (x, y) = point[1..].split_at(32);
        let text = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
        let jwk = json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": "k", "x": text(x), "y": text(y)});
        let body = json!({"keys": [jwk]}).to_string();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut lines = BufReader::new(&stream).lines();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
                let _ = (&stream).write_all(answer.as_bytes());
            }
        });
        issuer
    }

    fn token(&self, claims: &[(&str, Value)]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut all =
            json!({"iss": self.uri, "aud": "bridgehead", "exp": now + 600, "sub": "42", "email": "ada@example.com"});
        for (name, value) in claims {
            all[*name] = value.clone();
        }
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = Some("k".to_owned());
        let key = jsonwebtoken::EncodingKey::from_ec_der(&self.pair.serialize_der());
        jsonwebtoken::encode(&header, &all, &key).unwrap()
    }
}

#[test]
fn people_come_with_tokens_of_their_identity_provider() {
    let appliance = Appliance::start();
    let (issuer, other) = (Issuer::start(), Issuer::start());
    let provider = |uses: Value| {
        json!({
            "issuer": issuer.uri, "audience": "bridgehead", "jwksUri": format!("{}/keys", issuer.uri),
            "use": uses, "roleClaim": "groups", "roles": {"mail-admins": "administrator", "staff": "viewer"}
        })
    };
    appliance.put("identity-providers/login", provider(json!(["api"])));
    let me = |token: &str| {
        let head = format!("GET /api/v1/whoami HTTP/1.1\r\nAuthorization: Bearer {token}");
        ask(TcpStream::connect(appliance.api()).unwrap(), &head).unwrap()
    };
    let (status, body) = me(&issuer.token(&[("groups", json!(["staff", "mail-admins"]))]));
    let said: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        (&said["name"], &said["role"], &said["identityProvider"]),
        (&json!("ada@example.com"), &json!("administrator"), &json!("login"))
    );
    let staff = issuer.token(&[("groups", json!("staff"))]);
    let pause = format!("POST /api/v1/virtual-servers/default/pause HTTP/1.1\r\nAuthorization: Bearer {staff}");
    assert_eq!(ask(TcpStream::connect(appliance.api()).unwrap(), &pause).unwrap().0, 403, "a viewer only sees");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let admins = ("groups", json!(["mail-admins"]));
    for (token, why) in [
        (issuer.token(&[]), "names no role"),
        (issuer.token(&[("groups", json!(["owner", "administrator"]))]), "names no role"),
        (issuer.token(&[admins.clone(), ("exp", json!(now - 120))]), "is not valid"),
        (issuer.token(&[admins.clone(), ("aud", json!("smtp"))]), "is not valid"),
        (issuer.token(&[admins.clone(), ("nbf", json!(now + 600))]), "is not valid"),
        (other.token(&[admins.clone(), ("iss", json!(issuer.uri))]), "is not valid"),
        (other.token(std::slice::from_ref(&admins)), "is not valid"),
    ] {
        let (status, body) = me(&token);
        assert_eq!(status, 401, "{why}: {body}");
        assert!(body.contains(why), "{why}: {body}");
    }
    // what was done by him is his
    let admin = issuer.token(&[admins]);
    let resume = format!("POST /api/v1/virtual-servers/default/pause HTTP/1.1\r\nAuthorization: Bearer {admin}");
    assert_eq!(ask(TcpStream::connect(appliance.api()).unwrap(), &resume).unwrap().0, 200);
    let log = appliance.get("/api/v1/audit-log?actor=ada@example.com");
    assert_eq!(log["items"][0]["actor"]["identityProvider"], "login", "{log}");

    // tokens for SMTP alone are none for REST
    let mut smtp_only = provider(json!(["smtp"]));
    smtp_only.as_object_mut().unwrap().retain(|field, _| !field.starts_with("role"));
    appliance.put("identity-providers/login", smtp_only);
    assert_eq!(me(&admin).0, 401);
    for (uses, pointer) in [(json!(["api"]), "roleClaim"), (json!([]), "use")] {
        let spec = json!({"spec": {"issuer": "https://a.example", "audience": "x", "use": uses}});
        let answer = appliance.rest("PUT", "/api/v1/identity-providers/x", Some(&spec));
        assert_eq!(answer.status, 422, "{answer:?}");
        assert!(answer.body.contains(&format!("/spec/{pointer}")), "{answer:?}");
    }
}

#[test]
fn an_action_is_durable_in_the_audit_log_and_quick() {
    let mut appliance = Appliance::start();
    const TIMES: u32 = 40;
    let mut times: Vec<Duration> = (0..TIMES)
        .map(|n| {
            let action = if n % 2 == 0 { "pause" } else { "resume" };
            let began = Instant::now();
            let answer = appliance.rest("POST", &format!("/api/v1/virtual-servers/default/{action}"), None);
            assert_eq!(answer.status, 200, "{answer:?}");
            began.elapsed()
        })
        .collect();
    times.sort();
    // for people to read; no test asserts wall time
    eprintln!("an action: median {:?}, most {:?}", times[20], times[39]);
    appliance.kill();
    appliance.start_again();
    let log = appliance.get("/api/v1/audit-log?object=virtual-servers/default&limit=1000");
    let actions = log["items"].as_array().unwrap().iter().filter(|item| item["action"] != "created").count();
    assert_eq!(actions, TIMES as usize);
    assert_eq!(log["items"][0]["action"], "resume");
}

#[test]
fn a_key_that_was_used_is_known_after_a_restart_and_an_old_one_ends() {
    let mut appliance = Appliance::start();
    let spec = json!({"spec": {"role": "viewer"}});
    let made = appliance.rest("PUT", "/api/v1/api-keys/watch", Some(&spec)).json();
    let first = made["key"].as_str().unwrap().to_owned();
    let who = |appliance: &Appliance, key: &str| {
        let head = format!("GET /api/v1/whoami HTTP/1.1\r\nAuthorization: Bearer {key}");
        ask(TcpStream::connect(appliance.api()).unwrap(), &head).unwrap().0
    };
    assert_eq!(who(&appliance, &first), 200);
    let rotated = appliance.rest("POST", "/api/v1/api-keys/watch/rotate", Some(&json!({"overlap": "2s"}))).json();
    let second = rotated["key"].as_str().unwrap().to_owned();
    assert_eq!((who(&appliance, &first), who(&appliance, &second)), (200, 200));
    eventually("the old key ends", || (who(&appliance, &first) == 401).then_some(()));
    assert_eq!(who(&appliance, &second), 200);
    let used = appliance.get("/api/v1/api-keys/watch")["status"]["lastUsedAt"].clone();
    assert!(used.is_string());
    appliance.kill();
    appliance.start_again();
    let status = appliance.get("/api/v1/api-keys/watch")["status"].clone();
    assert!(status["lastUsedAt"].is_string(), "{status}");
    assert_eq!((who(&appliance, &first), who(&appliance, &second)), (401, 200), "over a restart");
    let stored = fs::read_dir(appliance.data()).unwrap().flatten().filter(|entry| entry.path().is_file());
    for entry in stored {
        let bytes = fs::read(entry.path()).unwrap_or_default();
        let holds = |key: &str| memchr::memmem::find(&bytes, key.as_bytes()).is_some();
        assert!(!holds(&first) && !holds(&second), "{:?} holds a key", entry.path());
    }
}

#[test]
fn a_proxy_that_is_trusted_says_who_the_client_is() {
    let key = "a key of a test, long enough for a key";
    let trusting = Appliance::start_with(&[("BRIDGEHEAD_API_PROXIES", "198.51.100.0/24, 127.0.0.1,")]);
    for (appliance, trusted) in [(trusting, true), (Appliance::start(), false)] {
        let far = json!({"role": "owner", "allowFrom": ["192.0.2.0/24"], "key": {"hash": KeyDigest::of(key)}});
        appliance.put("api-keys/far", far);
        let status = |request: &str, forwarded: &str| {
            let stream = TcpStream::connect(appliance.api()).unwrap();
            let head = format!("{request} HTTP/1.1\r\nAuthorization: Bearer {key}\r\nX-Forwarded-For: {forwarded}");
            ask(stream, &head).unwrap().0
        };
        let known = if trusted { 200 } else { 401 };
        assert_eq!(status("GET /api/v1/whoami", "192.0.2.7"), known);
        assert_eq!(
            status("GET /api/v1/whoami", "203.0.113.9, 192.0.2.7"),
            known,
            "what stands before is the client's own word"
        );
        assert_eq!(status("GET /api/v1/whoami", "192.0.2.7, 203.0.113.9"), 401);
        status("POST /api/v1/virtual-servers/default/pause", "192.0.2.7");
        let log = appliance.get("/api/v1/audit-log?actor=far");
        assert_eq!(log["items"][0]["actor"]["client"].as_str(), trusted.then_some("192.0.2.7"), "{log}");
    }
}
