//! What `GET /api/v1/domains` says against what RCPT does, for an untrusted client of the real binary.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::appliance::{Appliance, Sink, Smtp};

/// Domains that some step makes ours or opens, those beside and below them, and one that nobody knows.
const ASKED: [&str; 12] = [
    "first.example",
    "below.first.example",
    "second.example",
    "shared.example",
    "xn--bcher-kva.example",
    "partner.example",
    "hub.partner.example",
    "deep.hub.partner.example",
    "open.example",
    "below.open.example",
    "closed.example",
    "elsewhere.example",
];

/// What `domains` has for a domain: its own entry, else that of the nearest pattern above it.
fn entry<'a>(domains: &'a [Value], asked: &str) -> Option<&'a Value> {
    let find = |name: &str| domains.iter().find(|domain| domain["name"] == name);
    let above = std::iter::successors(asked.split_once('.'), |(_, rest)| rest.split_once('.'));
    // a domain is listed as it is written in the policy
    let asked = if asked == "xn--bcher-kva.example" { "bücher.example" } else { asked };
    find(asked).or_else(|| above.into_iter().find_map(|(_, parent)| find(&format!("*.{parent}"))))
}

/// Holds every domain to what the list says of it. Gives the kinds that were seen, as `domain kind`.
fn agree(appliance: &Appliance, step: &str) -> Vec<String> {
    let domains = appliance.get("/api/v1/domains")["items"].as_array().unwrap().clone();
    let mut seen = Vec::new();
    for asked in ASKED {
        // a session each: who asks for many that are not there is made to wait
        let mut smtp = Smtp::open(appliance.smtp());
        let entry = entry(&domains, asked);
        let kind = entry.map_or("none", |entry| entry["type"].as_str().unwrap());
        for user in ["ada", "nobody"] {
            let found = appliance.get(&format!("/api/v1/recipients?address={user}%40{asked}"));
            let known = !found["items"].as_array().unwrap().is_empty();
            let reply = match (kind, known) {
                ("authoritative", false) => "550 5.1.1",
                ("none", false) => "550 5.7.1",
                ("authoritative" | "shared", true) | ("shared" | "relay", false) => "250 2.1.5",
                other => panic!("{step}: {user}@{asked} is {other:?}"),
            };
            smtp.expect("MAIL FROM:<s@far.example>", "250");
            println!("{step}: {user}@{asked} is {kind}, known: {known}");
            smtp.expect(&format!("RCPT TO:<{user}@{asked}>"), reply);
            smtp.expect("RSET", "250");
        }
        if kind != "none" {
            seen.push(format!("{asked} {kind}"));
        }
    }
    let default: Vec<&Value> = domains.iter().filter(|domain| domain["default"] == true).collect();
    assert_eq!(default.len(), 1, "{step}: one domain is the default one");
    assert_eq!(default[0]["type"], "authoritative");
    seen
}

/// The default domain is the one that an unqualified address of a trusted client is in.
fn default_is(appliance: &Appliance, domain: &str) {
    let listed = appliance.get(&format!("/api/v1/domains/{domain}"));
    assert_eq!((&listed["default"], &listed["type"]), (&json!(true), &json!("authoritative")));
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<s@far.example>", "250");
    smtp.expect("RCPT TO:<Postmaster>", "250");
    smtp.expect(&format!("RCPT TO:<postmaster@{domain}>"), "250");
}

fn defined_by(appliance: &Appliance, domain: &str) -> Value {
    appliance.get(&format!("/api/v1/domains/{domain}"))["definedBy"].clone()
}

#[test]
fn the_list_of_domains_says_what_rcpt_does() {
    let sink = Sink::up();
    let appliance = Appliance::start();
    let put = |object: &str, spec: Value| appliance.put(object, spec);
    let delete = |object: &str| {
        let answer = appliance.rest("DELETE", &format!("/api/v1/{object}"), None);
        assert!(answer.status < 300, "{object}: {}", answer.status);
    };
    put("recipient-policies/default", json!({"addresses": [{"template": "%m@first.example", "primary": true}]}));
    put("recipients/ada", json!({}));
    assert_eq!(agree(&appliance, "one policy"), ["first.example authoritative"]);
    default_is(&appliance, "first.example");

    // nobody matches it, and still its domains are ours
    let staff = json!({
        "priority": 1, "filter": {"attribute": "surname", "operator": "in", "values": ["Nobody"]},
        "addresses": [
            {"template": "%m@second.example", "primary": true}, {"template": "%m@shared.example", "authoritative": false},
            {"template": "%m@bücher.example"}
        ]
    });
    put("recipient-policies/staff", staff);
    let seen = agree(&appliance, "two policies");
    assert_eq!(
        seen,
        [
            "first.example authoritative",
            "second.example authoritative",
            "shared.example shared",
            "xn--bcher-kva.example authoritative"
        ]
    );

    let open = |patterns: &[&str], allow: bool| {
        let spaces: Vec<Value> = patterns.iter().map(|pattern| json!({"pattern": pattern})).collect();
        json!({"addressSpaces": spaces, "route": sink.route(), "allowRelay": allow})
    };
    put("connectors/partner", open(&["*.partner.example", "open.example", "shared.example"], true));
    put("connectors/closed", open(&["closed.example"], false));
    let seen = agree(&appliance, "connectors");
    let relays: Vec<_> = seen.iter().filter(|one| one.ends_with(" relay")).collect();
    assert_eq!(relays, ["hub.partner.example relay", "deep.hub.partner.example relay", "open.example relay"]);
    assert_eq!(defined_by(&appliance, "open.example"), json!(["connectors/partner"]));
    assert_eq!(defined_by(&appliance, "shared.example"), json!(["recipient-policies/staff"]), "it is ours, not opened");

    // what is ours alone is not opened by a connector that covers it
    put("connectors/partner", open(&["*.partner.example", "*.example"], true));
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<s@far.example>", "250");
    // the connector with the more specific address space decides
    smtp.expect("RCPT TO:<x@closed.example>", "550 5.7.1");
    delete("connectors/closed");
    smtp.expect("RCPT TO:<x@closed.example>", "550 5.7.1"); // inside a transaction nothing changes
    smtp.expect("RSET", "250");
    let seen = agree(&appliance, "a connector over all of it");
    assert!(
        seen.contains(&"first.example authoritative".to_owned())
            && seen.contains(&"elsewhere.example relay".to_owned())
    );
    put("connectors/partner", open(&["*.partner.example", "open.example"], true));

    // the members of the policy, and another primary domain
    put("recipients/ada", json!({"surname": "Nobody"}));
    agree(&appliance, "somebody matches");
    put(
        "recipient-policies/default",
        json!({"addresses": [{"template": "%m@second.example", "primary": true}, {"template": "%m@first.example"}]}),
    );
    agree(&appliance, "another default");
    default_is(&appliance, "second.example");
    assert_eq!(
        defined_by(&appliance, "second.example"),
        json!(["recipient-policies/default", "recipient-policies/staff"])
    );

    // what defines a domain takes it away again
    delete("recipient-policies/staff");
    appliance.patch("connectors/partner", json!({"enabled": false}));
    let seen = agree(&appliance, "taken away");
    assert_eq!(seen, ["first.example authoritative", "second.example authoritative"]);
    let gone = appliance.rest("GET", "/api/v1/domains/shared.example", None);
    assert_eq!(gone.status, 404);
    assert!(sink.taken().is_empty());
}
