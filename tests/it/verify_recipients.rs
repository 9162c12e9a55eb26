//! Gateways that ask before they take mail whether its recipient exists.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::appliance::{Appliance, Smtp};
use super::scripted_hop::{Hop, Script};

/// Mail for `gate.example`, which is not local, goes to the hop; everybody may send it.
fn gateway(hop: &Hop, verify: &str) -> Appliance {
    let appliance = Appliance::start();
    let route = json!({ "smartHosts": [{ "host": hop.address.ip(), "port": hop.address.port() }] });
    let spec = json!({
        "addressSpaces": [{ "pattern": "gate.example" }], "route": route, "allowRelay": true, "verifyRecipients": verify,
    });
    appliance.put("connectors/gate", spec);
    appliance
}

fn rcpt(smtp: &mut Smtp, to: &str, reply: &str) {
    smtp.expect(&format!("RCPT TO:<{to}>"), reply);
}

fn answers(_: usize, _: usize, line: &str) -> Option<&'static str> {
    match line {
        _ if line.starts_with("RCPT TO:<no@") => Some("550 5.1.1 nobody of that name"),
        _ if line.starts_with("RCPT TO:<full@") => Some("552 5.2.2 full"),
        _ if line.starts_with("RCPT TO:<later@") => Some("450 4.2.0 greylisted"),
        _ => None,
    }
}

fn answers_pipelined(number: usize, taken: usize, line: &str) -> Option<&'static str> {
    match line {
        _ if line.starts_with("EHLO") => Some("250-hop.example\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES"),
        _ => answers(number, taken, line),
    }
}

#[test]
fn the_next_hop_is_asked_once_and_gets_no_content_by_it() {
    for script in [answers as Script, answers_pipelined] {
        let hop = Hop::up(script);
        let appliance = gateway(&hop, "callout");
        let mut smtp = Smtp::open(appliance.smtp());
        smtp.expect("MAIL FROM:<s@src.example>", "250");
        for (to, reply) in [("yes", "250"), ("no", "550 5.1.1"), ("full", "250"), ("later", "250")] {
            rcpt(&mut smtp, &format!("{to}@gate.example"), reply);
        }
        let asked = hop.seen();
        assert_eq!((asked.count("DATA"), asked.count("RCPT"), asked.count("MAIL FROM:<>")), (0, 4, 4), "{asked:?}");
        assert_eq!(asked.count("QUIT"), 4, "it takes its leave");
        smtp.expect("RSET", "250");
        smtp.expect("MAIL FROM:<t@src.example>", "250");
        rcpt(&mut smtp, "No@gate.example", "550 5.1.1");
        rcpt(&mut smtp, "yes@gate.example", "250");
        assert_eq!(hop.seen().count("RCPT"), 4, "it is remembered");
        let question = json!({
            "virtualServer": "default", "client": "192.0.2.1", "sender": "s@src.example", "recipient": "no@gate.example",
        });
        let told = appliance.rest("POST", "/api/v1/explain", Some(&question)).json();
        assert!(told.to_string().contains("verifyRecipients"), "{told}");
        assert!(told.to_string().contains("550 5.1.1 nobody of that name"), "{told}");
    }
}

#[test]
fn a_next_hop_that_is_down_refuses_nobody() {
    let script: Script = |_, _, line| line.is_empty().then_some("421 4.3.2 not now");
    let hop = Hop::up(script);
    let appliance = gateway(&hop, "callout");
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<s@src.example>", "250");
    rcpt(&mut smtp, "u@gate.example", "250");
}

#[test]
fn only_the_directory_counts_in_a_shared_domain() {
    let hop = Hop::up(answers);
    let appliance = gateway(&hop, "directory");
    let template = |template: &str, more: Value| {
        let mut address = json!({ "template": template });
        address.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        address
    };
    let own = template("%m@local.example", json!({ "primary": true }));
    let shared = template("%m@gate.example", json!({ "authoritative": false }));
    appliance.put("recipient-policies/default", json!({ "addresses": [own, shared] }));
    appliance.put("recipients/ada", json!({ "type": "contact", "forwardTo": ["ada@exchange.example"] }));
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<s@src.example>", "250");
    rcpt(&mut smtp, "ada@gate.example", "250");
    rcpt(&mut smtp, "nobody@gate.example", "550 5.1.1");
    assert!(hop.seen().clients.is_empty(), "the next hop is not asked");
}
