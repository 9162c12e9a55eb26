//! Virtual servers over REST and SMTP: who a client is (by its proxy, its name, its certificate, its login), what follows
//! from that, what a binding offers, and that a change of it all acts at once.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::appliance::{Appliance, PATIENCE, Sink, Smtp, eventually, tls_client};
use super::name_server::{Dns, Says};

const MESSAGE: &[u8] = b"Subject: x\r\n\r\ntext\r\n";
const SERVER: &str = "virtual-servers/default";
const HOST: &str = "mx.local.example";
/// Another address of this machine: not trusted, may not relay.
const STRANGER: [u8; 4] = [127, 0, 0, 2];

/// `local.example` is local and has the mailbox `ada`; all other mail goes to the sink; nobody may relay.
fn appliance(sink: &Sink) -> Appliance {
    let appliance = Appliance::start();
    let address = json!({ "template": "%m@local.example", "primary": true });
    appliance.put("recipient-policies/default", json!({ "addresses": [address] }));
    appliance.put("recipients/ada", json!({}));
    let everything = json!([{ "pattern": "*", "cost": 1 }]);
    appliance.put("connectors/default", json!({ "addressSpaces": everything, "route": sink.route() }));
    let again = json!({ "glitchRetry": { "after": "1s", "times": 100 } });
    appliance.patch(SERVER, json!({ "fqdn": HOST, "delivery": again }));
    appliance
}

/// Gives the server its one binding, at the port that it has, and more.
fn bind(appliance: &Appliance, binding: Value, more: Value) {
    let mut whole = json!({ "address": "127.0.0.1", "port": 0 });
    whole.as_object_mut().unwrap().extend(binding.as_object().unwrap().clone());
    let mut spec = json!({ "bindings": [whole] });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    appliance.patch(SERVER, spec);
}

/// Makes or replaces the certificate `mx`; the certificate as DER.
fn certificate(appliance: &Appliance) -> Vec<u8> {
    let identity = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    let spec = json!({
        "chain": { "value": identity.cert.pem() }, "privateKey": { "value": identity.signing_key.serialize_pem() }
    });
    appliance.put("certificates/mx", spec);
    identity.cert.der().to_vec()
}

/// A client behind STARTTLS.
#[track_caller]
fn over_tls(appliance: &Appliance) -> Smtp {
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("STARTTLS", "220 2.0.0");
    assert!(smtp.start_tls(HOST));
    smtp.expect("EHLO client.example", "250");
    smtp
}

/// Says for whom mail is, and no more; the reply must begin so.
#[track_caller]
fn rcpt(smtp: &mut Smtp, to: &str, reply: &str) {
    smtp.expect("RSET", "250");
    smtp.expect("MAIL FROM:<ada@local.example>", "250 2.1.0");
    smtp.expect(&format!("RCPT TO:<{to}>"), reply);
}

fn sessions(appliance: &Appliance, query: &str) -> Vec<Value> {
    appliance.get(&format!("/api/v1/sessions?{query}"))["items"].as_array().unwrap().clone()
}

/// The first trace field, unfolded.
fn received(content: &[u8]) -> String {
    let text = String::from_utf8(content.to_vec()).unwrap().replace("\r\n\t", " ");
    text.lines().find(|line| line.starts_with("Received: ")).unwrap().to_owned()
}

#[track_caller]
fn has(text: &str, part: &str) {
    assert!(text.contains(part), "{part} was expected: {text}");
}

fn plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{password}")))
}

/// A header of version 2 for TCP over IPv4 (command 1: for a client; 0: LOCAL).
fn second_version(command: u8, client: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11, 0, 12]);
    header.extend(client);
    header.extend([127, 0, 0, 1, 0x1f, 0x90, 0, 25]);
    header
}

fn behind_proxy(appliance: &Appliance, header: &[u8]) -> Smtp {
    let mut smtp = Smtp::connect(appliance.smtp());
    smtp.send(header);
    smtp
}

#[test]
fn who_a_trusted_proxy_speaks_for_is_the_client() {
    let sink = Sink::up();
    let appliance = appliance(&sink);
    bind(
        &appliance,
        json!({ "proxyProtocol": { "trusted": ["127.0.0.1"] } }),
        json!({
            "relay": { "allow": ["192.0.2.1", "192.0.2.3", "2001:db8::/32"] }, "connections": { "maxPerClient": 1 }
        }),
    );
    let clients: [(&str, &[u8], &str); 3] = [
        ("192.0.2.1", b"PROXY TCP4 192.0.2.1 127.0.0.1 8080 25\r\n", "([192.0.2.1])"),
        ("2001:db8::1", b"PROXY TCP6 2001:db8::1 ::1 8080 25\r\n", "([IPv6:2001:db8::1])"),
        ("192.0.2.3", &second_version(1, [192, 0, 2, 3]), "([192.0.2.3])"),
    ];
    let mut open = Vec::new();
    for (number, (client, header, traced)) in clients.iter().enumerate() {
        let mut smtp = behind_proxy(&appliance, header).greeted();
        let seen = sessions(&appliance, &format!("client={client}"));
        assert_eq!(seen.len(), 1, "{client}: {seen:?}");
        assert_eq!((&seen[0]["client"], &seen[0]["clientPort"]), (&json!(client), &json!(8080)));
        // the limit is the client's, not the proxy's
        let mut further = behind_proxy(&appliance, header);
        further.expect_reply("421 4.7.0");
        assert!(further.closed());
        smtp.mail("ada@local.example", &["u@far.example"], MESSAGE);
        has(&received(&sink.wait(number + 1)[number].content), traced);
        open.push(smtp);
    }
    eventually("those alone", || (sessions(&appliance, "").len() == 3).then_some(()));
    let strangers: [&[u8]; 2] = [b"PROXY TCP4 192.0.2.2 127.0.0.1 1 25\r\n", &second_version(1, [192, 0, 2, 4])];
    for header in strangers {
        let mut smtp = behind_proxy(&appliance, header).greeted();
        rcpt(&mut smtp, "u@far.example", "550 5.7.1");
    }
    // a proxy that looks whether we live is a client itself, and may not more than one
    drop(open);
    let mut check = behind_proxy(&appliance, &second_version(0, [192, 0, 2, 1])).greeted();
    rcpt(&mut check, "u@far.example", "550 5.7.1");
    assert_eq!(sessions(&appliance, "client=127.0.0.1").len(), 1);
}

#[test]
fn who_is_no_trusted_proxy_is_not_spoken_to() {
    let appliance = appliance(&Sink::down());
    bind(&appliance, json!({ "proxyProtocol": { "trusted": ["127.0.0.1"] } }), json!({}));
    // what takes longest first
    let mut silent = Smtp::connect(appliance.smtp());
    let mut slow = behind_proxy(&appliance, b"PROXY TCP4 192.0.2.1");
    let header = b"PROXY TCP4 192.0.2.1 127.0.0.1 8080 25\r\n";
    for front in [&b""[..], header] {
        let mut untrusted = Smtp::connect_from(STRANGER, appliance.smtp());
        untrusted.send(front);
        assert!(untrusted.closed());
    }
    for wrong in [&b"EHLO client.example\r\n"[..], b"PROXY TCP4 x y 1 2\r\n", &[0x16, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0]]
    {
        assert!(behind_proxy(&appliance, wrong).closed(), "{wrong:?}");
    }
    let mut cut = behind_proxy(&appliance, &header[..20]);
    cut.end();
    assert!(cut.closed());
    // others are served meanwhile, and not before their header is whole
    let mut halves = behind_proxy(&appliance, &header[..20]);
    assert_eq!(halves.reply_within(Duration::from_millis(50)), None);
    halves.send(&header[20..]);
    halves.greeted();
    assert!(silent.closed());
    assert!(slow.closed());
}

#[test]
fn tls_from_the_first_octet_begins_behind_the_header_of_a_proxy() {
    let appliance = appliance(&Sink::down());
    let shown = certificate(&appliance);
    bind(
        &appliance,
        json!({ "tls": "implicit", "proxyProtocol": { "trusted": ["127.0.0.1"] } }),
        json!({ "certificates": ["mx"] }),
    );
    let headers: [&[u8]; 2] = [b"PROXY TCP4 192.0.2.1 127.0.0.1 1 25\r\n", &second_version(1, [192, 0, 2, 1])];
    for (number, header) in headers.into_iter().enumerate() {
        let mut smtp = Smtp::connect(appliance.smtp());
        assert!(smtp.start_tls_as(HOST, tls_client(None), header));
        assert_eq!(smtp.peer_certificate(), shown);
        let mut smtp = smtp.greeted();
        smtp.mail("a@b.example", &["ada@local.example"], MESSAGE);
        let mail = eventually("the mail", || appliance.mailbox("ada").into_iter().nth(number));
        has(&received(&mail), "([192.0.2.1]) by mx.local.example (Bridgehead) with ESMTPS (TLSv1.3 ");
    }
}

#[test]
fn a_client_that_connects_too_often_or_sends_too_much_is_told_to_come_again() {
    let appliance = appliance(&Sink::down());
    appliance.patch(
        SERVER,
        json!({
            "connections": { "ratePerClient": "2/1h" }, "messages": { "maxSize": 65536, "maxSessionSize": 65536 }
        }),
    );
    let mut first = Smtp::open(appliance.smtp());
    Smtp::open(appliance.smtp());
    let mut third = Smtp::connect(appliance.smtp());
    third.expect_reply("421 4.7.0");
    assert!(third.closed());
    Smtp::connect_from(STRANGER, appliance.smtp()).greeted();

    let half = [b"Subject: half\r\n\r\n".to_vec(), b"0123456789012345678901234567890\r\n".repeat(1200)].concat();
    for _ in 0..2 {
        first.mail("a@b.example", &["ada@local.example"], &half);
    }
    first.expect("MAIL FROM:<a@b.example>", "421 4");
    assert!(first.closed());
    eventually("both messages", || (appliance.mailbox("ada").len() == 2).then_some(()));
}

#[test]
fn tls_from_the_first_octet_carries_mail() {
    let appliance = appliance(&Sink::down());
    let shown = certificate(&appliance);
    bind(&appliance, json!({ "tls": "implicit" }), json!({ "certificates": ["mx"], "tls": { "required": true } }));
    let mut smtp = Smtp::connect(appliance.smtp());
    assert!(smtp.start_tls(HOST));
    assert_eq!(smtp.peer_certificate(), shown);
    let mut smtp = smtp.greeted();
    smtp.expect("STARTTLS", "50");
    smtp.mail("a@b.example", &["ada@local.example"], MESSAGE);
    has(&received(&appliance.first_mail("ada")), "by mx.local.example (Bridgehead) with ESMTPS (TLSv1.3 ");
    let seen = sessions(&appliance, "");
    assert_eq!((&seen[0]["tls"]["version"], &seen[0]["tls"]["serverName"]), (&json!("TLSv1.3"), &json!(HOST)));
    // what is no handshake gets no SMTP
    let mut clear = Smtp::connect(appliance.smtp());
    clear.send(b"EHLO client.example\r\n");
    assert!(clear.reply_within(PATIENCE).is_none());
}

#[test]
fn a_server_that_needs_client_certificates_takes_only_those_of_its_issuer() {
    let appliance = appliance(&Sink::down());
    certificate(&appliance);
    let (issuer, other) = (issuer("ours"), issuer("theirs"));
    let tls = json!({ "clientCertificates": "require", "clientCa": { "value": issuer.pem() } });
    bind(&appliance, json!({ "tls": "implicit" }), json!({ "certificates": ["mx"], "tls": tls }));
    for stranger in [None, Some(issued(&other))] {
        let mut smtp = Smtp::connect(appliance.smtp());
        // with TLS 1.3 the client learns of it only behind its own part of the handshake
        let _ = smtp.start_tls_as(HOST, tls_client(stranger), b"");
        assert_eq!(smtp.reply(), None);
    }
    let own = issued(&issuer);
    let fingerprint: String = Sha256::digest(&own.0).iter().map(|octet| format!("{octet:02x}")).collect();
    let mut smtp = Smtp::connect(appliance.smtp());
    assert!(smtp.start_tls_as(HOST, tls_client(Some(own)), b""));
    let mut smtp = smtp.greeted();
    smtp.mail("a@b.example", &["ada@local.example"], MESSAGE);
    let shown = sessions(&appliance, "")[0]["tls"]["clientCertificate"].as_str().unwrap().to_owned();
    assert_eq!(shown.replace(':', "").to_lowercase(), fingerprint);
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn issuer(name: &str) -> Issuer {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A client certificate and its key.
fn issued(issuer: &Issuer) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, issuer).unwrap();
    (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

/// STARTTLS and logins; `ada` may relay, `clerk` may not.
fn submission(sink: &Sink) -> Appliance {
    let appliance = appliance(sink);
    certificate(&appliance);
    let password = json!({ "value": "secret" });
    appliance.put("accounts/ada", json!({ "password": password, "sendAs": ["ada@local.example"] }));
    appliance.put("accounts/clerk", json!({ "password": password, "mayRelay": false }));
    let auth = json!({ "mechanisms": ["plain", "scramSha256"] });
    bind(&appliance, json!({ "tls": "starttls" }), json!({ "certificates": ["mx"], "authentication": auth }));
    appliance
}

#[test]
fn who_has_logged_in_relays_when_server_and_account_let_it() {
    let mut sink = Sink::down();
    let appliance = submission(&sink);
    let mut nobody = over_tls(&appliance);
    rcpt(&mut nobody, "u@far.example", "550 5.7.1");
    let mut clerk = over_tls(&appliance);
    clerk.expect(&plain("clerk", "secret"), "235 2.7.0");
    rcpt(&mut clerk, "u@far.example", "550 5.7.1");
    rcpt(&mut clerk, "ada@local.example", "250 2.1.5");

    let mut ada = Smtp::open(appliance.smtp());
    ada.expect(&plain("ada", "secret"), "538 5.7.11");
    let mut ada = over_tls(&appliance);
    ada.expect(&plain("ada", "wrong"), "535 5.7.8");
    rcpt(&mut ada, "u@far.example", "550 5.7.1");
    ada.expect("RSET", "250");
    ada.expect(&plain("ada", "secret"), "235 2.7.0");
    assert_eq!(sessions(&appliance, "account=ada").len(), 1);
    ada.mail("ada@local.example", &["u@far.example"], MESSAGE);
    let messages = eventually("the message", || {
        let messages = appliance.get("/api/v1/messages?recipient=u@far.example")["items"].as_array().unwrap().clone();
        (!messages.is_empty()).then_some(messages)
    });
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(messages[0]["origin"]["account"], "ada");
    sink.open();
    has(&received(&sink.wait(1)[0].content), "with ESMTPSA (TLSv1.3 ");

    for sender in ["eve@local.example", "ada@far.example"] {
        ada.expect(&format!("MAIL FROM:<{sender}>"), "550 5.7.1");
    }
    ada.expect("MAIL FROM:<>", "250 2.1.0");
    // clerk: any address of a local domain, by default
    clerk.expect("RSET", "250");
    clerk.expect("MAIL FROM:<a@far.example>", "550 5.7.1");
    clerk.expect("MAIL FROM:<eve@local.example>", "250 2.1.0");

    appliance.patch(SERVER, json!({ "relay": { "authenticated": false } }));
    rcpt(&mut ada, "u@far.example", "550 5.7.1");
    appliance.patch(SERVER, json!({ "relay": { "authenticated": true } }));
    rcpt(&mut ada, "u@far.example", "250 2.1.5");
}

#[test]
fn an_account_that_has_sent_its_quota_is_told_to_come_again() {
    let appliance = submission(&Sink::down());
    appliance.patch("accounts/ada", json!({ "quotas": { "messages": "1/1d", "recipients": "3/1d" } }));
    let mut smtp = over_tls(&appliance);
    smtp.expect(&plain("ada", "secret"), "235 2.7.0");
    smtp.expect("MAIL FROM:<ada@local.example>", "250 2.1.0");
    for _ in 0..3 {
        // refused ones and the same one again are not counted
        smtp.expect("RCPT TO:<nobody@local.example>", "550 5.1.1");
        smtp.expect("RCPT TO:<ada@local.example>", "250 2.1.5");
    }
    smtp.expect("RCPT TO:<u@far.example>", "250 2.1.5");
    smtp.expect("RCPT TO:<v@far.example>", "250 2.1.5");
    smtp.expect("RCPT TO:<w@far.example>", "452 4.7.1");
    smtp.expect("RSET", "250");
    // what was not sent to its end is not counted either
    smtp.mail("ada@local.example", &["ada@local.example", "u@far.example", "v@far.example"], MESSAGE);
    smtp.expect("MAIL FROM:<ada@local.example>", "452 4.7.1");
    // it is the account's, not the connection's; others have their own
    let mut again = over_tls(&appliance);
    again.expect(&plain("ada", "secret"), "235 2.7.0");
    again.expect("MAIL FROM:<ada@local.example>", "452 4.7.1");
    let mut clerk = over_tls(&appliance);
    clerk.expect(&plain("clerk", "secret"), "235 2.7.0");
    clerk.expect("MAIL FROM:<ada@local.example>", "250 2.1.0");
}

#[test]
fn a_password_is_proved_without_being_shown() {
    let appliance = submission(&Sink::down());
    // in clear, where PLAIN is not offered
    let mut smtp = Smtp::open(appliance.smtp());
    assert_eq!(scram(&mut smtp, "ada", "wrong"), Err("535 5.7.8".to_owned()));
    assert_eq!(scram(&mut smtp, "ada", "secret"), Ok(()));
    rcpt(&mut smtp, "u@far.example", "250 2.1.5");
    assert_eq!(sessions(&appliance, "account=ada").len(), 1);
}

/// A client of SCRAM-SHA-256 (RFC 5802, 3) that checks the server too. An error is the refusal's codes.
#[track_caller]
fn scram(smtp: &mut Smtp, user: &str, password: &str) -> Result<(), String> {
    use aws_lc_rs::{hmac, pbkdf2};
    let mac = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec();
    let decoded = |reply: &str| {
        String::from_utf8(STANDARD.decode(reply.strip_prefix("334 ").unwrap_or_default()).unwrap()).unwrap()
    };
    let field =
        |message: &str, name: &str| message.split(',').find_map(|field| field.strip_prefix(name)).unwrap().to_owned();

    let first = format!("n={user},r=c0ffee");
    let server_first = smtp.expect(&format!("AUTH SCRAM-SHA-256 {}", STANDARD.encode(format!("n,,{first}"))), "334 ");
    let server_first = decoded(&server_first);
    let nonce = field(&server_first, "r=");
    assert!(nonce.starts_with("c0ffee") && nonce.len() > 16, "{nonce}");
    let (salt, iterations) = (STANDARD.decode(field(&server_first, "s=")).unwrap(), field(&server_first, "i="));
    let mut salted = [0; 32];
    let iterations = iterations.parse().unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    let last = format!("c=biws,r={nonce}");
    let signed = format!("{first},{server_first},{last}");
    let client_key = mac(&salted, b"Client Key");
    let signature = mac(&Sha256::digest(&client_key), signed.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
    let last = STANDARD.encode(format!("{last},p={}", STANDARD.encode(proof)));
    smtp.send(format!("{last}\r\n").as_bytes());
    let reply = smtp.reply().unwrap().pop().unwrap();
    if !reply.starts_with("334 ") {
        return Err(reply.chars().take("535 5.7.8".len()).collect());
    }
    let server_signature = STANDARD.decode(field(&decoded(&reply), "v=")).unwrap();
    assert_eq!(server_signature, mac(&mac(&salted, b"Server Key"), signed.as_bytes()));
    smtp.expect("", "235 2.7.0");
    Ok(())
}

#[test]
fn addresses_without_a_domain_are_completed_for_those_who_are_trusted() {
    let appliance = submission(&Sink::down());
    appliance.patch(SERVER, json!({ "relay": { "allow": ["127.0.0.1"] } }));
    let mut trusted = Smtp::open(appliance.smtp());
    trusted.expect("MAIL FROM:<eve>", "250 2.1.0");
    trusted.expect("RCPT TO:<ada>", "250 2.1.5");
    trusted.expect("RCPT TO:<nobody>", "550 5.1.1");
    trusted.expect("DATA", "354");
    trusted.send(MESSAGE);
    trusted.expect(".", "250 2.0.0");
    let mail = String::from_utf8(appliance.first_mail("ada")).unwrap();
    has(&mail, "Return-Path: <eve@local.example>\r\nDelivered-To: ada@local.example\r\n");
    // by its address it is trusted behind STARTTLS too
    let mut encrypted = over_tls(&appliance);
    encrypted.expect("MAIL FROM:<eve>", "250 2.1.0");

    let mut stranger = Smtp::connect_from(STRANGER, appliance.smtp()).greeted();
    stranger.expect("MAIL FROM:<eve>", "501 5.1.7");
    stranger.expect("MAIL FROM:<eve@b.example>", "250");
    stranger.expect("RCPT TO:<ada>", "501 5.1.3");
    stranger.expect("RCPT TO:<postmaster>", "250");
    stranger.expect("RSET", "250");
    stranger.expect("STARTTLS", "220");
    assert!(stranger.start_tls(HOST));
    stranger.expect("EHLO client.example", "250");
    stranger.expect("MAIL FROM:<eve>", "501 5.1.7");
    stranger.expect(&plain("clerk", "secret"), "235");
    stranger.expect("MAIL FROM:<eve>", "250 2.1.0");
    stranger.expect("RCPT TO:<ada>", "250 2.1.5");
}

#[test]
fn a_staging_system_reaches_nobody_but_those_allowed() {
    let sink = Sink::up();
    let appliance = appliance(&sink);
    let staging = json!({ "redirectTo": "nobody@staging.example", "allow": ["*@test.example", "ada@local.example"] });
    appliance.patch(SERVER, json!({ "relay": { "allow": ["127.0.0.1"] }, "staging": staging }));
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.mail("ada@local.example", &["u@test.example"], MESSAGE);
    assert_eq!(sink.wait(1)[0].to, ["<u@test.example>"]);
    // the sink refuses whose name begins so: the notification tells both
    smtp.mail("ada@local.example", &["real@people.example"], MESSAGE);
    let notification = String::from_utf8(appliance.first_mail("ada")).unwrap();
    has(&notification, "Final-Recipient: rfc822; nobody@staging.example");
    has(&notification, "Original-Recipient: rfc822; real@people.example");

    appliance.patch(SERVER, json!({ "staging": { "redirectTo": "box@staging.example" } }));
    smtp.mail("ada@local.example", &["real@people.example", "other@people.example"], MESSAGE);
    assert_eq!(sink.wait(2)[1].to, ["<box@staging.example>"], "one of all");
    appliance.patch(SERVER, json!({ "staging": { "redirectTo": null } }));
    rcpt(&mut smtp, "real@people.example", "550 5.7.1");
    rcpt(&mut smtp, "u@test.example", "250 2.1.5");
    rcpt(&mut smtp, "ada@local.example", "250 2.1.5");
    appliance.patch(SERVER, json!({ "staging": null }));
    smtp.expect("RSET", "250");
    smtp.mail("ada@local.example", &["real@people.example"], MESSAGE);
    assert_eq!(sink.wait(3)[2].to, ["<real@people.example>"]);
    assert_eq!(sink.taken().len(), 3);
}

#[test]
fn mail_that_waits_for_a_domain_is_tried_when_a_trusted_client_asks() {
    let mut sink = Sink::down();
    let appliance = appliance(&sink);
    let spaces = json!([{ "pattern": "far.example", "cost": 1 }]);
    appliance.put("connectors/far", json!({ "addressSpaces": spaces, "route": sink.route() }));
    appliance.patch(
        SERVER,
        json!({
            "relay": { "allow": ["127.0.0.1"] }, "delivery": { "glitchRetry": { "after": "1h", "times": 3 } }
        }),
    );
    let mut stranger = Smtp::connect_from(STRANGER, appliance.smtp()).greeted();
    stranger.expect("ETRN far.example", "459 4.7.1");
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("ETRN far.example", "251");
    smtp.mail("ada@local.example", &["u@far.example"], MESSAGE);
    eventually("the first attempt", || {
        let queue = appliance.rest("GET", "/api/v1/queues/smarthost:far", None);
        (queue.status == 200 && queue.json()["lastError"].is_object()).then_some(())
    });
    smtp.expect("ETRN near.example", "251");
    smtp.expect("ETRN #far", "458");
    stranger.expect("ETRN far.example", "459 4.7.1");
    sink.open();
    assert_eq!(sink.taken().len(), 0);
    smtp.expect("ETRN far.example", "253 2.0.0 1 pending");
    assert_eq!(sink.wait(1)[0].to, ["<u@far.example>"]);
    eventually("nothing waits", || (appliance.waiting() == 0).then_some(()));
    smtp.expect("ETRN far.example", "251");
}

#[test]
fn a_reverse_name_counts_when_it_has_the_address() {
    let sink = Sink::up();
    let appliance = appliance(&sink);
    let dns = Dns::start(&[
        ("7.2.0.192.in-addr.arpa", Says::Name("mail.friend.example")),
        ("8.2.0.192.in-addr.arpa", Says::Name("mail.friend.example")),
        ("9.2.0.192.in-addr.arpa", Says::ServFail),
        ("mail.friend.example", Says::Address([192, 0, 2, 7])),
    ]);
    bind(
        &appliance,
        json!({ "proxyProtocol": { "trusted": ["127.0.0.1"] } }),
        json!({
            "reverseDns": true, "dnsServers": [dns.address.to_string()], "relay": { "allow": ["*.friend.example"] }
        }),
    );
    let from = |last: u8| behind_proxy(&appliance, &second_version(1, [192, 0, 2, last])).greeted();
    let mut friend = from(7);
    friend.mail("ada@local.example", &["u@far.example"], MESSAGE);
    has(&received(&sink.wait(1)[0].content), "(mail.friend.example [192.0.2.7])");
    // a name that does not have the address, no answer, no name
    for (number, last) in [8, 9, 10].into_iter().enumerate() {
        let mut stranger = from(last);
        rcpt(&mut stranger, "u@far.example", "550 5.7.1");
        stranger.expect("RSET", "250");
        stranger.mail("ada@local.example", &["ada@local.example"], MESSAGE);
        let mail = eventually("the mail", || appliance.mailbox("ada").into_iter().nth(number));
        has(&received(&mail), &format!("from client.example ([192.0.2.{last}])"));
    }
    // nobody wants to know it, nobody asks
    appliance.patch(SERVER, json!({ "reverseDns": false, "relay": { "allow": [] } }));
    let asked = dns.asked("7.2.0.192.in-addr.arpa");
    assert!(asked > 0);
    let mut friend = from(7);
    rcpt(&mut friend, "u@far.example", "550 5.7.1");
    assert_eq!(dns.asked("7.2.0.192.in-addr.arpa"), asked);
}

#[test]
fn what_a_binding_offers_changes_with_the_next_connection() {
    let appliance = appliance(&Sink::down());
    let first = certificate(&appliance);
    let offers = |smtp: &mut Smtp| {
        smtp.send(b"EHLO client.example\r\n");
        smtp.reply().unwrap().iter().any(|line| line.ends_with("STARTTLS"))
    };
    let address = appliance.smtp();
    let mut clear = Smtp::open(address);
    assert!(!offers(&mut clear));
    bind(&appliance, json!({ "tls": "starttls" }), json!({ "certificates": ["mx"] }));
    assert!(!offers(&mut clear), "a session keeps what it began with");
    assert!(offers(&mut Smtp::open(address)), "at the same port");
    let mut old = over_tls(&appliance);
    assert_eq!(old.peer_certificate(), first);
    old.expect("MAIL FROM:<a@b.example>", "250");
    let waiting = Smtp::open(address);

    let second = certificate(&appliance);
    assert!(first != second);
    assert!(over_tls(&appliance).peer_certificate() == second, "the next handshake shows the new one");
    old.expect("RCPT TO:<ada@local.example>", "250");
    old.expect("DATA", "354");
    old.send(MESSAGE);
    old.expect(".", "250 2.0.0");
    let mut smtp = waiting;
    smtp.expect("STARTTLS", "220");
    assert!(smtp.start_tls(HOST), "a session that was open in clear");

    bind(&appliance, json!({ "tls": "implicit" }), json!({}));
    let mut implicit = Smtp::connect(address);
    assert!(implicit.start_tls(HOST));
    implicit.greeted();
    bind(&appliance, json!({ "tls": "none" }), json!({}));
    assert!(!offers(&mut Smtp::open(address)));
    old.expect("NOOP", "250");
    clear.mail("a@b.example", &["ada@local.example"], MESSAGE);
    eventually("both messages", || (appliance.mailbox("ada").len() == 2).then_some(()));
}

#[test]
fn lmtp_answers_for_each_recipient_and_says_so_in_the_trace() {
    let appliance = appliance(&Sink::down());
    appliance.put("recipients/bob", json!({}));
    bind(&appliance, json!({ "protocol": "lmtp" }), json!({}));
    let mut lmtp = Smtp::connect(appliance.smtp());
    lmtp.expect_reply("220");
    lmtp.expect("EHLO client.example", "502");
    lmtp.expect("LHLO client.example", "250");
    lmtp.expect("MAIL FROM:<a@b.example>", "250 2.1.0");
    lmtp.expect("RCPT TO:<ada@local.example>", "250 2.1.5");
    lmtp.expect("RCPT TO:<nobody@local.example>", "550 5.1.1");
    lmtp.expect("RCPT TO:<bob@local.example>", "250 2.1.5");
    lmtp.expect("RCPT TO:<u@far.example>", "550 5.7.1");
    lmtp.expect("DATA", "354");
    lmtp.send(MESSAGE);
    lmtp.send(b".\r\nNOOP\r\n");
    lmtp.expect_reply("250 2.0.0 Ok: queued as");
    lmtp.expect_reply("250 2.0.0 Ok: queued as");
    let after = lmtp.expect_reply("250 2.0.0");
    assert!(!after.contains("queued"), "two recipients, two replies: {after}");
    for name in ["ada", "bob"] {
        has(&received(&appliance.first_mail(name)), "by mx.local.example (Bridgehead) with LMTP id ");
    }
}

#[test]
fn who_takes_too_long_within_a_command_or_a_message_is_cut() {
    let appliance = appliance(&Sink::down());
    appliance.patch(SERVER, json!({ "connections": { "commandTimeout": "1s", "dataTimeout": "1s" } }));
    let mut smtp = Smtp::open(appliance.smtp());
    let mut silent = Smtp::open(appliance.smtp());
    silent.expect("MAIL FROM:<a@b.example>", "250");
    silent.expect("RCPT TO:<ada@local.example>", "250");
    silent.expect("DATA", "354");
    silent.send(MESSAGE);
    // single octets do not keep a command open
    let deadline = Instant::now() + PATIENCE;
    let reply = loop {
        smtp.send(b"N");
        if let Some(reply) = smtp.reply_within(Duration::from_millis(100)) {
            break reply;
        }
        assert!(Instant::now() < deadline, "it is not cut");
    };
    assert!(reply[0].starts_with("421 4.4.2"), "{reply:?}");
    assert!(smtp.closed());
    silent.expect_reply("421 4.4.2");
    assert!(silent.closed());
    assert_eq!((appliance.waiting(), appliance.mailbox("ada").len()), (0, 0));
}

/// A load balancer that hides its clients, and a relay rule that trusts it.
#[test]
fn an_address_that_may_relay_and_hides_many_clients_is_told() {
    let sink = Sink::up();
    let appliance = appliance(&sink);
    let conditions = || appliance.get(&format!("/api/v1/{SERVER}"))["status"]["conditions"].to_string();
    let crowd = || {
        for n in 0..60 {
            let mut smtp = Smtp::connect(appliance.smtp());
            smtp.expect_reply("220");
            smtp.expect(&format!("EHLO host{}.example", n % 6), "250");
            smtp.expect("QUIT", "221");
        }
    };
    crowd();
    assert!(!conditions().contains("oneAddressForAll"), "who may not relay hides nobody: {}", conditions());
    appliance.patch(SERVER, json!({ "relay": { "allow": ["127.0.0.0/8"] } }));
    crowd();
    assert!(conditions().contains("oneAddressForAll"), "{}", conditions());
    appliance.patch(SERVER, json!({ "relay": { "allow": [] } }));
    assert!(!conditions().contains("oneAddressForAll"), "{}", conditions());
}
