//! Sessions with next hops: encrypted, checked and logged in, or not at all. What each `security.tls` makes of each kind of peer,
//! over real sockets.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::appliance::{Appliance, PATIENCE, Smtp, eventually};

const MESSAGE: &[u8] = b"Subject: x\r\n\r\ntext\r\n";
const PASSWORD: &str = "Tr0ub4dor,=&3";

/// What a peer makes of STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// Does not offer it.
    InClear,
    /// Has a certificate of our issuer for its address.
    Good,
    /// Has one of our issuer for another host.
    WrongName,
    /// Has one of its own.
    SelfSigned,
    /// Says 220, then what is no TLS.
    NoTls,
    /// Says 220 and closes.
    Closes,
    /// Says 454.
    Refuses,
    /// Says more behind its 220, in one segment.
    Injects,
    /// Begins with TLS, and has a good certificate.
    Implicit,
}

const PEERS: [Peer; 9] = [
    Peer::InClear,
    Peer::Good,
    Peer::WrongName,
    Peer::SelfSigned,
    Peer::NoTls,
    Peer::Closes,
    Peer::Refuses,
    Peer::Injects,
    Peer::Implicit,
];

/// Who issues certificates, and their PEM.
struct Issuer(CertifiedIssuer<'static, KeyPair>);

impl Issuer {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Issuer(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn config(&self, peer: Peer) -> Arc<ServerConfig> {
        let name = if peer == Peer::WrongName { "other.example" } else { "127.0.0.1" };
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = match peer {
            Peer::SelfSigned => params.self_signed(&key).unwrap(),
            _ => params.signed_by(&key, &self.0).unwrap(),
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap())
    }
}

/// A next hop that keeps what it was told, and by which way.
struct Hop {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default, Clone)]
struct Seen {
    connections: usize,
    /// Lines in clear.
    clear: Vec<String>,
    /// Lines in TLS.
    secret: Vec<String>,
}

impl Seen {
    fn taken(lines: &[String]) -> usize {
        lines.iter().filter(|line| *line == ".").count()
    }
}

/// How a peer answers AUTH.
type Auth = Option<fn(&str) -> &'static str>;

impl Hop {
    fn up(peer: Peer, issuer: &Issuer, auth: Auth) -> Hop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (ledger, config) = (seen.clone(), issuer.config(peer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, config) = (ledger.clone(), config.clone());
                seen.lock().unwrap().connections += 1;
                thread::spawn(move || connection(peer, stream, &seen, config, auth));
            }
        });
        Hop { address, seen }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    fn route(&self, tls: &str) -> Value {
        json!({"smartHosts": [{"host": self.address.ip(), "port": self.address.port(), "tls": tls}]})
    }
}

fn connection(peer: Peer, mut stream: TcpStream, seen: &Mutex<Seen>, config: Arc<ServerConfig>, auth: Auth) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let secure = |stream| StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    if peer == Peer::Implicit {
        let _ = talk(peer, &mut secure(stream), seen, true, true, auth);
        return;
    }
    if !matches!(talk(peer, &mut stream, seen, true, false, auth), Ok(true)) {
        return;
    }
    match peer {
        Peer::Closes => {}
        Peer::NoTls => {
            let _ = stream.write_all(b"250 what is TLS?\r\n");
            let _ = stream.read(&mut [0; 1024]);
        }
        _ => {
            let _ = talk(peer, &mut secure(stream), seen, false, true, auth);
        }
    }
}

/// Answers commands; true when TLS is to begin.
fn talk<S: Read + Write>(
    peer: Peer,
    stream: &mut S,
    seen: &Mutex<Seen>,
    greet: bool,
    encrypted: bool,
    auth: Auth,
) -> io::Result<bool> {
    if greet {
        stream.write_all(b"220 hop.example\r\n")?;
    }
    let mut in_content = false;
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut octet = [0];
            if stream.read(&mut octet)? == 0 {
                return Ok(false);
            }
            line.push(octet[0]);
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let mut told = seen.lock().unwrap();
        if encrypted { &mut told.secret } else { &mut told.clear }.push(line.clone());
        drop(told);
        if in_content && line != "." {
            continue;
        }
        let verb = line.split(' ').next().unwrap_or_default();
        let reply = match verb {
            "EHLO" => {
                let starttls = if encrypted || peer == Peer::InClear { "" } else { "250-STARTTLS\r\n" };
                let offered = if auth.is_some() { "250-AUTH PLAIN LOGIN\r\n" } else { "" };
                format!("250-hop.example\r\n{starttls}{offered}250 8BITMIME")
            }
            "STARTTLS" if peer == Peer::Refuses => "454 not now".to_owned(),
            "STARTTLS" if peer == Peer::Injects => {
                stream.write_all(b"220 go\r\n250 AUTH PLAIN\r\n")?;
                return Ok(true);
            }
            "STARTTLS" => {
                stream.write_all(b"220 go\r\n")?;
                return Ok(true);
            }
            "AUTH" => auth.map_or("503", |auth| auth(&line)).to_owned(),
            "DATA" => {
                in_content = true;
                "354 go".to_owned()
            }
            "." => {
                in_content = false;
                "250 2.0.0 taken".to_owned()
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n")?;
                return Ok(false);
            }
            _ => "250 ok".to_owned(),
        };
        stream.write_all(format!("{reply}\r\n").as_bytes())?;
    }
}

fn relay() -> Appliance {
    let appliance = Appliance::start();
    appliance.patch("virtual-servers/default", json!({"relay": {"allow": ["127.0.0.0/8"]}}));
    appliance
}

fn connect(appliance: &Appliance, name: &str, route: &Value, more: Value) {
    let mut spec = json!({"addressSpaces": [{"pattern": format!("{name}.test"), "cost": 1}], "route": route});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    appliance.put(&format!("connectors/{name}"), spec);
}

/// Why the mail of a connector waits, once it does.
fn why_it_waits(appliance: &Appliance, name: &str) -> String {
    eventually(&format!("{name} waits"), || {
        let queue = appliance.rest("GET", &format!("/api/v1/queues/smarthost:{name}"), None);
        let error = (queue.status == 200).then(|| queue.json()["lastError"].clone())?;
        (!error.is_null()).then(|| error.to_string())
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// In TLS.
    Secret,
    /// In clear, over so many connections.
    Clear(usize),
    /// It waits, with this in its words.
    Not(&'static str),
}

fn expected(tls: &str, peer: Peer) -> Option<Comes> {
    use Comes::{Clear, Not, Secret};
    Some(match (tls, peer) {
        ("none", Peer::Implicit) => return None,
        ("none", _) => Clear(1),
        (_, Peer::Good | Peer::Implicit) if tls != "system" => Secret,
        ("verified", Peer::WrongName | Peer::SelfSigned) => Not("4.7.5"),
        ("system", Peer::Good | Peer::Implicit) => Not("4.7.5"),
        ("system", _) => return None,
        (_, Peer::WrongName | Peer::SelfSigned) => Secret,
        (_, Peer::Injects) => Not("4.5.0"),
        ("opportunistic", Peer::InClear | Peer::Refuses) => Clear(1),
        ("opportunistic", _) => Clear(2),
        (_, Peer::InClear) => Not("4.7.4"),
        (_, Peer::Refuses) => Not("454 not now"),
        (_, Peer::NoTls | Peer::Closes) => Not("4.7.5"),
        other => panic!("{other:?}"),
    })
}

#[test]
fn what_each_level_makes_of_each_peer() {
    let appliance = relay();
    let issuer = Issuer::new();
    let mut rows = Vec::new();
    for tls in ["none", "opportunistic", "required", "verified", "system"] {
        for peer in PEERS {
            let Some(comes) = expected(tls, peer) else { continue };
            let hop = Hop::up(peer, &issuer, None);
            let name = format!("{tls}-{peer:?}").to_lowercase();
            let security = match tls {
                "verified" => json!({"tls": "verified", "ca": {"value": issuer.pem()}}),
                "system" => json!({"tls": "verified"}),
                tls => json!({ "tls": tls }),
            };
            let begins = if peer == Peer::Implicit { "implicit" } else { "starttls" };
            connect(&appliance, &name, &hop.route(begins), json!({ "security": security }));
            rows.push((name, hop, comes));
        }
    }
    let mut smtp = Smtp::open(appliance.smtp());
    for (name, ..) in &rows {
        smtp.mail("a@b.example", &[&format!("u@{name}.test")], MESSAGE);
    }
    for (name, hop, comes) in &rows {
        let expected = match comes {
            Comes::Secret => (0, 1),
            Comes::Clear(_) => (1, 0),
            Comes::Not(words) => {
                let why = why_it_waits(&appliance, name);
                assert!(why.contains(words), "{name}: {why}");
                (0, 0)
            }
        };
        let count = |seen: &Seen| (Seen::taken(&seen.clear), Seen::taken(&seen.secret));
        eventually(&format!("{name}: {comes:?}"), || (count(&hop.seen()) == expected).then_some(()));
        let seen = hop.seen();
        if name.ends_with("injects") && !name.starts_with("none") {
            assert!(seen.secret.is_empty(), "{name}: no handshake behind injected text: {seen:?}");
        }
        if let Comes::Clear(connections) = comes {
            assert_eq!(seen.connections, *connections, "{name}");
        } else {
            let leaked = seen.clear.iter().any(|line| line.starts_with("MAIL") || line.starts_with("AUTH"));
            assert!(!leaked, "{name}: {seen:?}");
        }
    }
}

fn login(mechanism: &str, password: &str) -> Value {
    json!({"mechanism": mechanism, "username": "ada@b.example", "password": {"value": password}})
}

#[test]
fn a_login_that_is_refused_lets_mail_wait_and_shows_no_password() {
    let appliance = relay();
    let issuer = Issuer::new();
    let rows = [
        ("refused", Some((|_| "535 5.7.8 no") as fn(&str) -> &'static str), "plain", "4.7.8"),
        ("back", Some(|_: &str| "535 5.7.8 you said Tr0ub4dor,=&3"), "plain", "4.7.8"),
        ("later", Some(|_: &str| "454 4.7.0 later"), "login", "4.7.0"),
        ("missing", Some(|_: &str| "235 in"), "scramSha256", "4.7.4"),
        ("none", None, "plain", "4.7.4"),
    ];
    let mut hops = Vec::new();
    let mut smtp = Smtp::open(appliance.smtp());
    for (name, auth, mechanism, _) in rows {
        let hop = Hop::up(Peer::Good, &issuer, auth);
        let more = json!({"security": {"tls": "required"}, "authentication": login(mechanism, PASSWORD)});
        connect(&appliance, name, &hop.route("starttls"), more);
        smtp.mail("a@b.example", &[&format!("u@{name}.test")], MESSAGE);
        hops.push(hop);
    }
    for ((name, _, mechanism, status), hop) in rows.into_iter().zip(&hops) {
        let why = why_it_waits(&appliance, name);
        let keyword = if mechanism == "scramSha256" { "SCRAM-SHA-256".to_owned() } else { mechanism.to_uppercase() };
        for words in [&format!("connector {name} cannot log in by {keyword}"), status] {
            assert!(why.contains(words), "{name}: {why}");
        }
        let seen = hop.seen();
        assert!(!seen.secret.iter().chain(&seen.clear).any(|line| line.starts_with("MAIL")), "{name}: {seen:?}");
        let id = appliance.get(&format!("/api/v1/messages?recipient=u@{name}.test"))["items"][0]["id"].clone();
        let id = id.as_str().unwrap();
        let shown = [
            why,
            appliance.get(&format!("/api/v1/messages/{id}")).to_string(),
            appliance.get(&format!("/api/v1/messages/{id}/events")).to_string(),
            appliance.get(&format!("/api/v1/connectors/{name}")).to_string(),
        ];
        for secret in [PASSWORD, &STANDARD.encode(PASSWORD), &STANDARD.encode(format!("\0ada@b.example\0{PASSWORD}"))] {
            assert!(!shown.iter().any(|text| text.contains(secret)), "{name}: {shown:?}");
            // what says that there is none must be able to find one
            let sent =
                seen.secret.iter().any(|line| line.contains(&STANDARD.encode(format!("\0ada@b.example\0{PASSWORD}"))));
            assert_eq!(sent, mechanism == "plain" && name != "none", "{name}: {seen:?}");
        }
    }
}

/// From one appliance to another: STARTTLS and implicit TLS, by every mechanism, with a certificate of our own.
#[test]
fn one_appliance_logs_in_to_another() {
    let far = Appliance::start();
    let identity = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let pair = |identity: &rcgen::CertifiedKey<KeyPair>| {
        json!({
            "chain": {"value": identity.cert.pem()}, "privateKey": {"value": identity.signing_key.serialize_pem()}
        })
    };
    far.put("certificates/mx", pair(&identity));
    far.put("recipient-policies/default", json!({"addresses": [{"template": "%m@local.example", "primary": true}]}));
    far.put("recipients/ada", json!({}));
    far.put(
        "accounts/near",
        json!({"username": "near@local.example", "password": {"value": PASSWORD}, "sendAs": ["*"]}),
    );
    let issuer = Issuer::new();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["near.example".to_owned()]).unwrap().signed_by(&key, &issuer.0).unwrap();

    let near = relay();
    let own = json!({"chain": {"value": own.pem()}, "privateKey": {"value": key.serialize_pem()}});
    near.put("certificates/own", own);
    let mut count = 0;
    for (tls, mechanism) in
        [("starttls", "plain"), ("starttls", "login"), ("implicit", "scramSha256"), ("starttls", "scramSha256")]
    {
        let server = format!("{tls}-{mechanism}").to_lowercase();
        let binding = json!({"address": "127.0.0.1", "port": 0, "tls": tls});
        far.put(
            &format!("virtual-servers/{server}"),
            json!({
                "bindings": [binding], "fqdn": "far.example", "certificates": ["mx"],
                "tls": {"required": true, "clientCertificates": "require", "clientCa": {"value": issuer.pem()}},
                "authentication": {"mechanisms": [mechanism], "required": true},
            }),
        );
        let port = far.smtp_of(&server).port();
        let more = json!({
            "security": {"tls": "verified", "ca": {"value": identity.cert.pem()}, "clientCertificate": "own"},
            "authentication": {"mechanism": mechanism, "username": "near@local.example", "password": {"value": PASSWORD}},
            "addressSpaces": [{"pattern": "local.example", "cost": 1}],
        });
        let route = json!({"smartHosts": [{"host": "127.0.0.1", "port": port, "tls": tls}]});
        connect(&near, "far", &route, more);
        count += 1;
        Smtp::open(near.smtp()).mail("ada@local.example", &["ada@local.example"], MESSAGE);
        let mails =
            eventually(&format!("mail by {server}"), || Some(far.mailbox("ada")).filter(|mails| mails.len() == count));
        let all: Vec<String> = mails.iter().map(|mail| String::from_utf8_lossy(mail).into_owned()).collect();
        assert!(all.iter().all(|mail| mail.contains("with ESMTPSA (TLSv1.3")), "{all:?}");
    }
    // the certificate is in use
    assert_eq!(near.rest("DELETE", "/api/v1/certificates/own", None).status, 409);
    // a password that is read back is kept, and never shown
    let shown = near.get("/api/v1/connectors/far");
    assert_eq!(shown["spec"]["authentication"]["password"]["set"], true);
    assert!(!shown.to_string().contains(PASSWORD));
    near.put("connectors/far", shown["spec"].clone());
    Smtp::open(near.smtp()).mail("ada@local.example", &["ada@local.example"], MESSAGE);
    eventually("mail with the password that was kept", || (far.mailbox("ada").len() == count + 1).then_some(()));
    // the server's certificate is another now
    near.patch(
        "connectors/far",
        json!({"security": {"ca": {"value": issuer.pem()}}, "limits": {"messagesPerConnection": 1}}),
    );
    Smtp::open(near.smtp()).mail("ada@local.example", &["ada@local.example"], MESSAGE);
    let why = why_it_waits(&near, "far");
    assert!(why.contains("4.7.5") && why.contains("invalid peer certificate"), "{why}");
    // files are watched: what was wrong in one is mended without a change, and what breaks leaves the old
    let secrets = near.data().join("secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    std::fs::write(secrets.join("ca.pem"), issuer.pem()).unwrap();
    std::fs::write(secrets.join("password"), format!("{PASSWORD}\n")).unwrap();
    near.patch(
        "connectors/far",
        json!({
            "security": {"ca": {"file": "ca.pem"}}, "authentication": {"password": {"file": "password"}}
        }),
    );
    std::fs::write(secrets.join("ca.pem"), identity.cert.pem()).unwrap();
    eventually("the mail that waited", || {
        near.rest("POST", "/api/v1/queues/smarthost:far/retry", None);
        (far.mailbox("ada").len() == count + 2).then_some(())
    });
    std::fs::remove_file(secrets.join("password")).unwrap();
    let accepted = || near.get("/api/v1/connectors/far")["status"]["conditions"].clone();
    let told = eventually("the condition", || {
        let conditions = accepted();
        conditions.as_array().unwrap().iter().find(|condition| condition["type"] == "ConfigAccepted").cloned()
    });
    assert_eq!((&told["status"], &told["reason"]), (&json!("false"), &json!("unreadable")), "{told}");
    Smtp::open(near.smtp()).mail("ada@local.example", &["ada@local.example"], MESSAGE);
    eventually("mail with the password that was", || (far.mailbox("ada").len() == count + 3).then_some(()));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let appliance = relay();
    let issuer = Issuer::new();
    let smart = |host: &str, tls: &str| json!({"smartHosts": [{"host": host, "tls": tls}]});
    let (far, near) = (smart("smtp.example.net", "starttls"), smart("127.0.0.1", "starttls"));
    let dns = json!({"dns": {}});
    let plain = login("plain", PASSWORD);
    let ca = json!({"value": issuer.pem()});
    for (route, security, authentication, wrong) in [
        (&far, json!({"tls": "strict"}), json!({}), "/spec/security/tls"),
        (&smart("192.0.2.1", "starttls"), json!({"tls": "dane"}), json!({}), "/spec/route/smartHosts/0/host"),
        (&far, json!({"tls": "dane"}), json!({}), ""),
        (&far, json!({"honourAll": true}), json!({}), "/spec/security/honourAll"),
        (&far, json!({"tls": "required", "ca": ca}), json!({}), "/spec/security/ca"),
        (&far, json!({"ca": ca}), json!({}), "/spec/security/ca"),
        (&far, json!({"tls": "required", "serverName": "a.example"}), json!({}), "/spec/security/serverName"),
        (&far, json!({"tls": "verified", "ca": {"value": "no PEM"}}), json!({}), "/spec/security/ca"),
        (&far, json!({"tls": "verified", "ca": {"file": "missing"}}), json!({}), "/spec/security/ca"),
        (&far, json!({"clientCertificate": "nobody"}), json!({}), "/spec/security/clientCertificate"),
        (&smart("a.example", "implicit"), json!({"tls": "none"}), json!({}), "/spec/route/smartHosts/0/tls"),
        (&far, json!({}), json!({"mechanism": "digestMd5"}), "/spec/authentication/mechanism"),
        (&far, json!({}), json!({"mechanism": "plain", "username": "a"}), "/spec/authentication/password"),
        (&far, json!({}), json!({"mechanism": "plain", "password": {"value": "x"}}), "/spec/authentication/username"),
        (&far, json!({}), json!({"username": "a"}), "/spec/authentication/username"),
        (&far, json!({"tls": "none"}), plain.clone(), "/spec/authentication"),
        (&far, json!({}), login("plain", "a\u{0}b"), "/spec/authentication/password"),
        (&dns, json!({"tls": "verified"}), plain.clone(), "/spec/authentication"),
        (&near, json!({"tls": "none"}), plain.clone(), ""),
        (&far, json!({"tls": "verified"}), plain.clone(), ""),
        (&far, json!({"tls": "required"}), login("scramSha256", PASSWORD), ""),
    ] {
        let spec = json!({
            "addressSpaces": [{"pattern": "a.test", "cost": 1}], "route": route,
            "security": security, "authentication": authentication
        });
        let answer = appliance.rest("PUT", "/api/v1/connectors/a?dryRun=true", Some(&json!({ "spec": spec })));
        if wrong.is_empty() {
            assert!((200..202).contains(&answer.status), "{spec}: {answer:?}");
            assert_eq!(answer.json().get("warnings").cloned().unwrap_or(json!([])), json!([]), "{spec}");
        } else {
            assert_eq!(answer.status, 422, "{spec}: {answer:?}");
            assert_eq!(answer.json()["errors"][0]["pointer"], wrong, "{spec}: {answer:?}");
        }
        assert!(!answer.body.contains(PASSWORD), "{answer:?}");
    }
    // a password in TLS that nobody checks is worth a word, and what a virtual server says counts too
    let spec = json!({
        "addressSpaces": [{"pattern": "a.test", "cost": 1}], "route": far, "authentication": plain
    });
    let answer = appliance.rest("PUT", "/api/v1/connectors/a", Some(&json!({ "spec": spec })));
    assert!(answer.body.contains("passwordToUnverified"), "{answer:?}");
    let none = json!({"spec": {"outbound": {"security": {"tls": "none"}}}});
    let answer = appliance.rest("PATCH", "/api/v1/virtual-servers/default", Some(&none));
    assert_eq!(answer.status, 422, "{answer:?}");
    let verified = json!({"outbound": {"security": {"tls": "verified"}}});
    appliance.patch("virtual-servers/default", verified);
}
