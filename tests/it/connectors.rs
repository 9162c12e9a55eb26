//! Connectors over REST: the test of one, and what its conditions say of real mail.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::appliance::{Answer, Appliance, Sink, Smtp, eventually};

fn test(appliance: &Appliance, connector: &str, body: Value) -> Answer {
    appliance.rest("POST", &format!("/api/v1/connectors/{connector}/test"), Some(&body))
}

/// What was said, each line with who said it.
fn dialogue(host: &Value) -> Vec<String> {
    let lines = host["dialogue"].as_array().unwrap().iter();
    lines.map(|line| format!("{}: {}", line["from"].as_str().unwrap(), line["text"].as_str().unwrap())).collect()
}

fn to(port: u16, more: Value) -> Value {
    let mut spec = json!({
        "addressSpaces": [{"pattern": "dst.example"}], "route": {"smartHosts": [{"host": "127.0.0.1", "port": port}]}
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[test]
fn a_test_goes_as_far_as_mail_would_and_sends_none() {
    let (appliance, sink) = (Appliance::start(), Sink::up());
    let mut route = json!({"addressSpaces": [{"pattern": "dst.example"}], "route": sink.route()});
    route["route"]["smartHosts"].as_array_mut().unwrap().push(json!({"host": "127.0.0.1", "port": 9, "priority": 1}));
    appliance.put("connectors/hub", route);
    let answer = test(&appliance, "hub", json!({}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    assert_eq!((&answer["ok"], &answer["virtualServer"]), (&json!(true), &json!("default")));
    let hosts = answer["hosts"].as_array().unwrap();
    assert_eq!((&hosts[0]["ok"], &hosts[1]["ok"]), (&json!(true), &json!(false)));
    assert_eq!(hosts[0]["wanted"], json!({"tls": "opportunistic", "source": "builtIn"}));
    assert!(hosts[0]["tls"].is_null(), "the sink speaks in clear");
    let said = dialogue(&hosts[0]);
    assert!(said[0].starts_with("server: 220"), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("client: EHLO ")), "{said:?}");
    assert!(said.iter().any(|line| line == "client: QUIT"), "{said:?}");
    assert!(!said.iter().any(|line| line.contains("MAIL")), "{said:?}");
    assert!(hosts[1]["failure"]["detail"].as_str().unwrap().contains("no connection"), "{:#}", hosts[1]);
    assert!(sink.taken().is_empty());
}

#[test]
fn a_test_encrypts_and_logs_in_and_shows_no_password() {
    let (appliance, hub) = (Appliance::start(), Appliance::start());
    let identity = rcgen::generate_simple_self_signed(vec!["hub.example".to_owned()]).unwrap();
    hub.put(
        "certificates/hub",
        json!({"chain": {"value": identity.cert.pem()}, "privateKey": {"value": identity.signing_key.serialize_pem()}}),
    );
    hub.put("accounts/branch", json!({"password": {"value": "correct horse battery"}}));
    hub.patch(
        "virtual-servers/default",
        json!({
            "fqdn": "hub.example", "certificates": ["hub"], "authentication": {"mechanisms": ["plain"]},
            "bindings": [{"address": "127.0.0.1", "port": 0, "tls": "starttls"}]
        }),
    );
    let login = |password: &str| {
        json!({
            "security": {"tls": "verified", "serverName": "hub.example", "ca": {"value": identity.cert.pem()}},
            "authentication": {"mechanism": "plain", "username": "branch", "password": {"value": password}}
        })
    };
    appliance.put("connectors/hub", to(hub.smtp().port(), login("correct horse battery")));
    let answer = test(&appliance, "hub", json!({}));
    let host = answer.json()["hosts"][0].clone();
    assert_eq!(host["ok"], true, "{host:#}");
    assert_eq!(host["wanted"], json!({"tls": "verified", "source": "connector", "verifies": "hub.example"}));
    assert_eq!((&host["tls"]["verified"], &host["tls"]["version"]), (&json!(true), &json!("TLSv1.3")));
    assert_eq!(host["tls"]["chain"][0]["names"], json!(["hub.example"]));
    assert!(host["extensions"].as_array().unwrap().contains(&json!("AUTH PLAIN")), "{host:#}");
    let said = dialogue(&host);
    assert!(
        said.contains(&"client: ***".to_owned()) && said.contains(&"client: (TLSv1.3 begins)".to_owned()),
        "{said:?}"
    );
    // AUTH PLAIN of branch and the password
    assert!(!answer.body.contains("YnJhbmNo") && !answer.body.contains("correct horse"), "{}", answer.body);
    appliance.put("connectors/hub", to(hub.smtp().port(), login("wrong")));
    let host = test(&appliance, "hub", json!({})).json()["hosts"][0].clone();
    assert_eq!(host["ok"], false);
    assert!(host["failure"]["status"].as_str().unwrap().starts_with("4.7"), "{host:#}");
}

#[test]
fn a_test_that_makes_no_sense_is_refused() {
    let appliance = Appliance::start();
    appliance.put("connectors/hub", to(9, json!({})));
    appliance.put("connectors/off", to(9, json!({"enabled": false})));
    for (connector, body, status) in [
        ("default", json!({}), 422),
        ("default", json!({"domain": "a b"}), 422),
        ("hub", json!({"domain": "dst.example"}), 422),
        ("hub", json!({"more": 1}), 422),
        ("off", json!({}), 409),
        ("none", json!({}), 404),
    ] {
        assert_eq!(test(&appliance, connector, body.clone()).status, status, "{connector} {body}");
    }
}

#[test]
fn the_condition_follows_real_mail() {
    let (appliance, mut sink) = (Appliance::start(), Sink::down());
    appliance.patch("virtual-servers/default", json!({"relay": {"allow": ["127.0.0.0/8"]}}));
    appliance.put("connectors/hub", json!({"addressSpaces": [{"pattern": "dst.example"}], "route": sink.route()}));
    let condition = || {
        let conditions = appliance.get("/api/v1/connectors/hub")["status"]["conditions"].clone();
        conditions.as_array().unwrap().iter().find(|condition| condition["type"] == "Reachable").cloned()
    };
    assert_eq!(condition(), None, "nothing is known before mail has gone");
    Smtp::open(appliance.smtp()).mail("a@src.example", &["u@dst.example"], b"Subject: x\r\n\r\ntext\r\n");
    let down = eventually("it is not reachable", || condition().filter(|condition| condition["status"] == "false"));
    assert!(down["message"].as_str().unwrap().contains("no connection"), "{down:#}");
    assert!(down["lastTransitionTime"].is_string());
    sink.open();
    let retried = appliance.rest("POST", "/api/v1/queues/smarthost:hub/retry", None);
    assert_eq!(retried.status, 200);
    eventually("it is reachable", || condition().filter(|condition| condition["status"] == "true"));
    sink.wait(1);
}

#[test]
fn an_open_session_is_not_that_of_a_connector_that_was_put_back_with_another_host() {
    let (appliance, old, new) = (Appliance::start(), Sink::up(), Sink::up());
    appliance.patch("virtual-servers/default", json!({"relay": {"allow": ["127.0.0.0/8"]}}));
    let put = |sink: &Sink| {
        appliance.put("connectors/hub", json!({"addressSpaces": [{"pattern": "dst.example"}], "route": sink.route()}));
        assert_eq!(appliance.get("/api/v1/connectors/hub")["generation"], 1);
    };
    put(&old);
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.mail("a@src.example", &["u@dst.example"], b"Subject: one\r\n\r\ntext\r\n");
    old.wait(1);
    // the session stays open for some seconds, for the next message
    assert_eq!(appliance.rest("DELETE", "/api/v1/connectors/hub", None).status, 204);
    put(&new);
    smtp.mail("a@src.example", &["v@dst.example"], b"Subject: two\r\n\r\ntext\r\n");
    new.wait(1);
    assert_eq!(old.taken().len(), 1);
}
