//! Sessions, and what an operator does to a virtual server: by REST alone, and in the real binary with real clients.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;

use bridgehead::model::time::Timestamp;
use bridgehead::status::{Limits, Opening, SessionState};
use serde_json::{Value, json};

use super::api_house::House;
use super::appliance::{Appliance, Smtp, eventually};

const OPEN: Limits = Limits { max: 10, max_per_client: None, rate_per_client: None };

fn opening(server: &str, client: &str) -> Opening {
    Opening {
        server: server.parse().unwrap(),
        binding: "127.0.0.1:2525".parse().unwrap(),
        peer: SocketAddr::new(client.parse().unwrap(), 4_000),
        proxied: false,
        since: Timestamp::from_millis(1_795_000_000_000),
    }
}

#[tokio::test]
async fn sessions_are_shown_filtered_and_listed_in_pages() {
    let house = House::open().await;
    let first = house.sessions.admit(opening("default", "192.0.2.7"), &OPEN).unwrap();
    let second = house.sessions.admit(opening("inside", "2001:db8::1"), &OPEN).unwrap();
    first.session().set_helo("<img src=x>");
    first.session().set_state(SessionState::Content);
    first.session().add_bytes(70_000);
    first.session().add_message();
    let list = house.call("GET", "/api/v1/sessions").await.json();
    assert_eq!(
        list["items"][0],
        json!({
            "id": first.session().id().to_string(), "virtualServer": "default", "binding": "127.0.0.1:2525",
            "client": "192.0.2.7", "clientPort": 4_000, "helo": "<img src=x>", "state": "content",
            "since": "2026-11-18T11:06:40.000Z", "messages": 1, "bytes": 70_000
        })
    );
    assert_eq!(list["items"][1]["id"], second.session().id().to_string());
    for (query, expected) in
        [("virtualServer=inside", 1), ("client=2001:DB8:0:0::1", 1), ("account=app", 0), ("client=192.0.2.8", 0)]
    {
        let list = house.call("GET", &format!("/api/v1/sessions?{query}")).await.json();
        assert_eq!(list["items"].as_array().unwrap().len(), expected, "{query}");
    }
    let page = house.call("GET", "/api/v1/sessions?limit=1").await.json();
    let cursor = page["nextCursor"].as_str().unwrap();
    let page = house.call("GET", &format!("/api/v1/sessions?limit=1&cursor={cursor}")).await.json();
    assert_eq!(page["items"][0]["virtualServer"], "inside");
    assert_eq!(page["nextCursor"], Value::Null);
    house.call("GET", "/api/v1/sessions?client=x").await.is_problem(400, "badParameter");
    house.call("GET", "/api/v1/sessions?helo=x").await.is_problem(400, "badParameter");
}

#[tokio::test]
async fn sessions_are_ended_by_id_or_by_a_selector_that_says_something() {
    let house = House::open().await;
    let guards: Vec<_> = ["default", "inside", "inside"]
        .into_iter()
        .map(|server| house.sessions.admit(opening(server, "192.0.2.7"), &OPEN).unwrap())
        .collect();
    let told = |n: usize| guards[n].session().stop().borrow().as_ref().map(|reply| reply.code);
    let path = format!("/api/v1/sessions/{}", guards[0].session().id());
    assert_eq!(house.call("DELETE", &path).await.status, 204);
    assert_eq!((told(0), told(1)), (Some(421), None));
    house.call("DELETE", "/api/v1/sessions").await.is_problem(400, "badParameter");
    assert_eq!((told(1), told(2)), (None, None), "nothing is ended by mistake");
    let answer = house.call("DELETE", "/api/v1/sessions?virtualServer=inside").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"ending": 2})));
    assert_eq!((told(1), told(2)), (Some(421), Some(421)));
    for id in ["nothing", "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"] {
        house.call("DELETE", &format!("/api/v1/sessions/{id}")).await.is_problem(404, "notFound");
    }
}

#[tokio::test]
async fn a_stopped_server_can_neither_be_paused_nor_resumed() {
    let house = House::open().await;
    for (verb, status) in [
        ("resume", 200),
        ("pause", 200),
        ("pause", 200),
        ("stop", 200),
        ("pause", 409),
        ("resume", 409),
        ("start", 200),
        ("pause", 200),
        ("resume", 200),
    ] {
        let answer = house.call("POST", &format!("/api/v1/virtual-servers/default/{verb}")).await;
        assert_eq!(answer.status, status, "{verb}: {answer:?}");
    }
    house.call("POST", "/api/v1/virtual-servers/nothing/pause").await.is_problem(404, "notFound");
}

/// An appliance with a second virtual server, `inside`.
fn appliance() -> Appliance {
    let appliance = Appliance::start();
    let spec = json!({ "bindings": [{ "address": "127.0.0.1", "port": 0 }], "fqdn": "inside.example" });
    appliance.put("virtual-servers/inside", spec);
    appliance.smtp_of("inside");
    appliance
}

fn sessions(appliance: &Appliance) -> Vec<Value> {
    appliance.get("/api/v1/sessions")["items"].as_array().unwrap().clone()
}

fn act(appliance: &Appliance, verb: &str) -> Value {
    let answer = appliance.rest("POST", &format!("/api/v1/virtual-servers/inside/{verb}"), None);
    assert_eq!(answer.status, 200, "{verb}: {answer:?}");
    answer.json()["status"].clone()
}

#[test]
fn a_client_is_seen_and_told_to_go() {
    let appliance = appliance();
    let mut client = Smtp::connect(appliance.smtp_of("inside"));
    client.expect_reply("220");
    client.expect("EHLO app.example", "250");
    let seen = sessions(&appliance);
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0]["virtualServer"], &seen[0]["helo"]), (&json!("inside"), &json!("app.example")));
    assert_eq!(seen[0]["state"], "idle");
    client.expect("MAIL FROM:<a@b.example>", "250");
    assert_eq!(sessions(&appliance)[0]["state"], "envelope");
    let path = format!("/api/v1/sessions/{}", seen[0]["id"].as_str().unwrap());
    assert_eq!(appliance.rest("DELETE", &path, None).status, 204);
    client.expect_reply("421 4.3.2");
    eventually("it is gone", || sessions(&appliance).is_empty().then_some(()));
}

#[test]
fn a_paused_server_takes_nobody_new_and_a_stopped_one_has_nobody() {
    let mut appliance = appliance();
    let address = appliance.smtp_of("inside");
    let mut old = Smtp::connect(address);
    old.expect_reply("220");
    let status = act(&appliance, "pause");
    assert_eq!(status["state"], "paused");
    let overridden = |status: &Value| {
        let conditions = status["conditions"].as_array().unwrap().clone();
        conditions.into_iter().find(|condition| condition["type"] == "Overridden")
    };
    assert_eq!(overridden(&status).unwrap()["reason"], "paused");
    Smtp::connect(address).expect_reply("421 4.3.2");
    old.expect("EHLO app.example", "250");
    Smtp::connect(appliance.smtp()).expect_reply("220");
    // over a restart, at another port
    appliance.stop();
    appliance.start_again();
    let address = appliance.smtp_of("inside");
    Smtp::connect(address).expect_reply("421 4.3.2");
    let status = act(&appliance, "resume");
    assert_eq!((&status["state"], overridden(&status)), (&json!("running"), None));
    let mut client = Smtp::connect(address);
    client.expect_reply("220");
    let status = act(&appliance, "stop");
    assert_eq!((&status["state"], &status["listeners"]), (&json!("stopped"), &json!([])));
    client.expect_reply("421 4.3.2");
    eventually("its port is closed", || std::net::TcpStream::connect(address).is_err().then_some(()));
    assert_eq!(appliance.rest("GET", "/readyz", None).status, 200, "that is as it shall be");
    appliance.stop();
    appliance.start_again();
    assert_eq!(appliance.get("/api/v1/virtual-servers/inside")["status"]["state"], "stopped");
    act(&appliance, "start");
    let address = appliance.smtp_of("inside");
    Smtp::connect(address).expect_reply("220");
    // a server of the same name that is made anew knows nothing of it
    act(&appliance, "stop");
    assert_eq!(appliance.rest("DELETE", "/api/v1/virtual-servers/inside", None).status, 204);
    appliance.wait_for_line("it is forgotten", |line| {
        line["message"].as_str().is_some_and(|words| words.ends_with("is forgotten")).then_some(())
    });
    let spec = json!({ "bindings": [{ "address": "127.0.0.1", "port": 0 }], "fqdn": "inside.example" });
    appliance.put("virtual-servers/inside", spec);
    eventually("it runs", || {
        let state = appliance.get("/api/v1/virtual-servers/inside")["status"]["state"].clone();
        (state == "running").then_some(())
    });
}

#[test]
fn the_protocol_log_has_each_command_and_nothing_that_a_client_made_up() {
    let mut appliance = appliance();
    let log = json!({ "format": "w3c", "fields": "full" });
    appliance.patch("virtual-servers/inside", json!({ "protocolLog": log }));
    let mut client = Smtp::connect(appliance.smtp_of("inside"));
    client.expect_reply("220");
    client.expect("EHLO app.example", "250");
    client.expect("MAIL FROM:<a+b@c.example> BODY=8BITMIME SIZE=5", "250");
    client.expect("RCPT TO:<u@elsewhere.example>", "550");
    client.expect("VRFY x\t#Fields: y", "501");
    client.expect("c2VjcmV0LXBhc3N3b3Jk", "500");
    client.expect("QUIT", "221");
    appliance.stop();
    let directory = appliance.data().join("protocol-logs/inside");
    let files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let text = std::fs::read_to_string(&files[0]).unwrap();
    let (head, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('#'));
    assert_eq!(head.len(), 4, "{text}");
    let names: Vec<&str> = head[3].strip_prefix("#Fields: ").unwrap().split(' ').collect();
    let field = |line: &str, name: &str| {
        let values: Vec<&str> = line.split(' ').collect();
        assert_eq!(values.len(), names.len(), "{line}");
        values[names.iter().position(|other| *other == name).unwrap()].to_owned()
    };
    let said: Vec<[String; 4]> = lines
        .iter()
        .map(|line| ["cs-method", "cs-uri-stem", "cs-uri-query", "sc-status"].map(|name| field(line, name)))
        .collect();
    let expected = [
        ["CONNECT", "-", "-", "220"],
        ["EHLO", "app.example", "-", "250"],
        ["MAIL", "FROM:<a%2Bb@c.example>", "BODY=8BITMIME+SIZE=5", "250"],
        ["RCPT", "TO:<u@elsewhere.example>", "-", "550"],
        ["VRFY", "x%09#Fields:", "y", "501"],
        ["-", "-", "-", "500"],
        ["QUIT", "-", "-", "221"],
    ];
    assert_eq!(said, expected.map(|row| row.map(str::to_owned)), "{text}");
    assert!(!text.contains("c2Vjc"), "what is no command may be a password");
    assert_eq!(field(lines[1], "cs-host"), "app.example");
    assert_eq!(field(lines[1], "cs-bytes"), "18");
    assert_eq!(field(lines[6], "sc-bytes"), "15", "221 2.0.0 Bye");
}
