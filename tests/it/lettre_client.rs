//! lettre as a client: in clear, behind STARTTLS, in TLS from the beginning; every mechanism that it has; UTF-8.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{CertificateStore, Tls, TlsParameters};
use lettre::{Message, SmtpTransport, Transport};
use serde_json::json;

use super::appliance::{Appliance, Sink};

const HOST: &str = "mx.local.example";

fn message(subject: &str, from: &str, to: &str) -> Message {
    let (from, to): (Mailbox, Mailbox) = (from.parse().unwrap(), to.parse().unwrap());
    Message::builder().from(from).to(to).subject(subject).body("Grüße\r\n.\r\nzwei\r\n".to_owned()).unwrap()
}

#[test]
fn lettre_delivers_however_it_is_set_up() {
    let sink = Sink::up();
    let appliance = Appliance::start();
    appliance.put("connectors/default", json!({ "addressSpaces": [{ "pattern": "*" }], "route": sink.route() }));
    let identity = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    let (chain, key) = (identity.cert.pem(), identity.signing_key.serialize_pem());
    appliance.put("certificates/mx", json!({ "chain": { "value": chain }, "privateKey": { "value": key } }));
    appliance.put("accounts/ada", json!({ "password": { "value": "p ä" }, "sendAs": ["*"] }));
    let server = |tls: &str| {
        json!({
            "bindings": [{ "address": "127.0.0.1", "port": 0, "tls": tls }],
            "fqdn": HOST,
            "certificates": if tls == "none" { json!([]) } else { json!(["mx"]) },
            "authentication": { "mechanisms": ["plain", "login"], "requireTls": tls != "none", "required": true }
        })
    };
    let mut sent = 0;
    for tls in ["none", "starttls", "implicit"] {
        let name = format!("for-lettre-{tls}");
        appliance.put(&format!("virtual-servers/{name}"), server(tls));
        for mechanism in [Mechanism::Plain, Mechanism::Login] {
            let parameters = TlsParameters::builder(HOST.to_owned())
                .certificate_store(CertificateStore::None)
                .dangerous_accept_invalid_certs(true)
                .build()
                .unwrap();
            let transport = SmtpTransport::builder_dangerous("127.0.0.1")
                .port(appliance.smtp_of(&name).port())
                .tls(match tls {
                    "none" => Tls::None,
                    "starttls" => Tls::Required(parameters),
                    _ => Tls::Wrapper(parameters),
                })
                .authentication(vec![mechanism])
                .credentials(Credentials::new("ada".to_owned(), "p ä".to_owned()))
                .timeout(Some(Duration::from_secs(30)))
                .build();
            let subject = format!("{tls} {mechanism:?}");
            let reply = transport.send(&message(&subject, "ada@local.example", "Bøb <bob@far.example>")).unwrap();
            assert!(reply.is_positive(), "{reply:?}");
            sent += 1;
        }
    }
    let taken = sink.wait(sent);
    for message in &taken {
        let content = String::from_utf8(message.content.clone()).unwrap();
        let word = if content.contains("Subject: none") { " with ESMTPA" } else { " with ESMTPSA" };
        assert!(content.contains(word), "{content}");
        assert!(message.to[0].contains("<bob@far.example>"), "{:?}", message.to);
    }
}
