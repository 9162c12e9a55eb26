//! Mail that waits until it is asked for, by ETRN and by ATRN (RFC 1985, RFC 2645).

#![allow(clippy::unwrap_used, reason = "tests")]

use base64::Engine as _;
use serde_json::{Value, json};

use super::appliance::{Appliance, Sink, Smtp, eventually};

const MESSAGE: &[u8] = b"Subject: hello\r\n\r\nbody\r\n";
const QUEUE: &str = "/api/v1/queues/dns:branch:branch.example";

fn branch(sink: &Sink, more: Value) -> Value {
    let mut spec = json!({
        "addressSpaces": [{"pattern": "branch.example"}, {"pattern": "*.branch.example"}],
        "route": sink.route(), "remoteTriggered": {"accounts": ["branch"]}
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// An appliance that keeps mail for branch.example, which `branch` may ask for, and has a second account; its smart host is `sink`.
fn centre(sink: &Sink) -> Appliance {
    let appliance = Appliance::start();
    appliance.put("accounts/branch", json!({"password": {"value": "correct horse battery"}, "mayRelay": false}));
    appliance.put("accounts/other", json!({"password": {"value": "correct horse battery"}}));
    let authentication = json!({"mechanisms": ["plain"], "requireTls": false});
    let delivery = json!({"glitchRetry": {"after": "1s", "times": 3}});
    let server = json!({"relay": {"allow": ["127.0.0.1"]}, "authentication": authentication, "delivery": delivery});
    appliance.patch("virtual-servers/default", server);
    appliance.put("connectors/branch", branch(sink, json!({})));
    appliance
}

/// From an address that nothing is known of.
fn log_in(appliance: &Appliance, account: &str) -> Smtp {
    let mut smtp = Smtp::connect_from([127, 0, 0, 5], appliance.smtp()).greeted();
    let initial = format!("\0{account}\0correct horse battery");
    let initial = base64::engine::general_purpose::STANDARD.encode(initial);
    smtp.expect(&format!("AUTH PLAIN {initial}"), "235");
    smtp
}

fn send(appliance: &Appliance, to: &[&str]) {
    Smtp::open(appliance.smtp()).mail("ada@local.example", to, MESSAGE);
}

/// Waits until the queue is as it should be.
#[track_caller]
fn is_held(appliance: &Appliance, messages: u64) {
    eventually("the mail is held", || {
        let queue = appliance.rest("GET", QUEUE, None);
        (queue.status == 200).then_some(())?;
        let queue = queue.json();
        (queue["state"] == "remote" && queue["messages"] == messages && queue["nextRetry"].is_null()).then_some(())
    });
}

#[test]
fn mail_is_held_until_its_account_asks_by_etrn() {
    let sink = Sink::up();
    let mut appliance = centre(&sink);
    send(&appliance, &["u@branch.example"]);
    is_held(&appliance, 1);
    // a client that may relay, another account, and nobody at all
    Smtp::open(appliance.smtp()).expect("ETRN branch.example", "459 4.7.1");
    log_in(&appliance, "other").expect("ETRN branch.example", "459 4.7.1");
    Smtp::connect_from([127, 0, 0, 5], appliance.smtp()).greeted().expect("ETRN branch.example", "459 4.7.1");
    let mut asking = log_in(&appliance, "branch");
    // what is not its own
    asking.expect("ETRN elsewhere.example", "459 4.7.1");
    asking.expect("ETRN a.branch.example", "251");
    is_held(&appliance, 1);
    assert!(sink.taken().is_empty());
    // also over a restart
    appliance.kill();
    appliance.start_again();
    is_held(&appliance, 1);
    let mut asking = log_in(&appliance, "branch");
    asking.expect("ETRN branch.example", "253 2.0.0 1 pending");
    assert_eq!(sink.wait(1)[0].to, ["<u@branch.example>"]);
    eventually("nothing waits", || (appliance.waiting() == 0).then_some(()));
    // what comes later waits again, when the session of before has ended
    eventually("it is held again", || {
        send(&appliance, &["v@branch.example"]);
        (appliance.get(QUEUE)["state"] == "remote").then_some(())
    });
    asking.expect("ETRN @branch.example", "253 2.0.0");
    eventually("nothing waits", || (appliance.waiting() == 0).then_some(()));
}

#[test]
fn mail_goes_over_the_connection_of_the_account_that_fetches_it() {
    let (never, sink) = (Sink::up(), Sink::up());
    let appliance = centre(&never);
    log_in(&appliance, "branch").expect("ATRN branch.example", "453 4.0.0");
    for n in 0..3 {
        send(&appliance, &[&format!("u{n}@branch.example"), &format!("no{n}@a.branch.example")]);
    }
    is_held(&appliance, 3);
    let mut stranger = Smtp::open(appliance.smtp());
    stranger.expect("ATRN branch.example", "530 5.7.0");
    let mut other = log_in(&appliance, "other");
    let greeting = other.expect("ATRN", "550 5.7.1");
    assert!(greeting.contains("your account"), "{greeting}");
    other.expect("ATRN branch.example", "550 5.7.1");
    let mut fetching = log_in(&appliance, "branch");
    let refused = fetching.expect("ATRN branch.example,elsewhere.example", "450 4.7.1");
    assert!(refused.contains("elsewhere.example"), "{refused}");
    is_held(&appliance, 3);
    // one domain alone
    fetching.expect("ATRN branch.example", "250 2.0.0");
    // nobody else gets it meanwhile
    log_in(&appliance, "branch").expect("ATRN branch.example", "450 4.3.2");
    fetching.serve_for(&sink);
    let mut to: Vec<String> = sink.taken().into_iter().flat_map(|taken| taken.to).collect();
    to.sort();
    assert_eq!(to, ["<u0@branch.example>", "<u1@branch.example>", "<u2@branch.example>"]);
    assert!(sink.taken()[0].content.ends_with(b"\r\n\r\nbody\r\n"));
    // all that is left: there the recipients are refused, and the sender is told
    let mut fetching = log_in(&appliance, "branch");
    fetching.expect("ATRN", "250 2.0.0");
    fetching.serve_for(&sink);
    assert_eq!(sink.taken().len(), 3);
    eventually("every sender was told", || {
        let waiting = appliance.get("/api/v1/queues")["items"].as_array().unwrap().clone();
        let held = waiting.iter().any(|queue| queue["connector"] == "branch" && queue["messages"] != 0);
        (!held).then_some(())
    });
    assert!(never.taken().is_empty(), "nothing went by the route of the connector");
}

#[test]
fn a_connection_that_breaks_while_mail_is_fetched_loses_none() {
    let (never, sink) = (Sink::up(), Sink::up());
    let appliance = centre(&never);
    send(&appliance, &["u0@branch.example"]);
    send(&appliance, &["u1@branch.example"]);
    is_held(&appliance, 2);
    // before a greeting, behind it, at MAIL, at RCPT, at DATA, and in the content or behind the dot, without a reply
    let replies = ["220 branch.example", "250 branch.example", "250 ok", "250 ok", "354 go ahead"];
    for depth in 0..=replies.len() {
        // what was deferred by the break before is not due at once: then there is only a QUIT
        eventually("it breaks where it should", || {
            let mut fetching = log_in(&appliance, "branch");
            fetching.send(b"ATRN branch.example\r\n");
            fetching.reply().unwrap()[0].starts_with("250").then_some(())?;
            let quits = replies[..depth].iter().any(|reply| {
                fetching.send(format!("{reply}\r\n").as_bytes());
                fetching.command() == "QUIT"
            });
            (!quits).then_some(())
        });
        eventually("it is given back", || {
            let mut again = log_in(&appliance, "branch");
            again.send(b"ATRN elsewhere.example\r\n");
            let queue = appliance.get(QUEUE);
            (queue["state"] == "remote" && queue["messages"] == 2).then_some(())
        });
    }
    eventually("both are fetched", || {
        let mut fetching = log_in(&appliance, "branch");
        fetching.send(b"ATRN\r\n");
        if fetching.reply().unwrap()[0].starts_with("250") {
            fetching.serve_for(&sink);
        }
        (sink.taken().len() == 2).then_some(())
    });
    assert!(never.taken().is_empty());
}

#[test]
fn commands_ahead_of_the_turn_end_the_connection() {
    let sink = Sink::up();
    let appliance = centre(&sink);
    send(&appliance, &["u@branch.example"]);
    is_held(&appliance, 1);
    let mut fetching = log_in(&appliance, "branch");
    fetching.send(b"ATRN branch.example\r\n220 branch.example\r\n");
    let reply = fetching.reply().unwrap();
    assert!(reply[0].starts_with("503"), "{reply:?}");
    assert!(fetching.closed());
    is_held(&appliance, 1);
}

#[test]
fn atrn_is_offered_where_it_can_be_used() {
    let sink = Sink::up();
    let appliance = centre(&sink);
    let offers = |appliance: &Appliance| {
        let mut smtp = Smtp::connect(appliance.smtp());
        smtp.reply();
        smtp.send(b"EHLO c.example\r\n");
        smtp.reply().unwrap().iter().any(|line| line.ends_with("ATRN"))
    };
    assert!(offers(&appliance));
    appliance.patch("virtual-servers/default", json!({"authentication": {"mechanisms": []}}));
    assert!(!offers(&appliance), "nobody can log in");
    appliance.patch("virtual-servers/default", json!({"authentication": {"mechanisms": ["plain"]}}));
    appliance.patch("virtual-servers/default", json!({"extensions": {"atrn": false}}));
    assert!(!offers(&appliance), "it is switched off");
    appliance.patch("virtual-servers/default", json!({"extensions": {"atrn": true}}));
    appliance.patch("connectors/branch", json!({"remoteTriggered": null}));
    assert!(!offers(&appliance), "no mail is held");
}

#[test]
fn accounts_that_are_named_must_exist_and_stay() {
    let appliance = centre(&Sink::up());
    let spec = json!({"spec": {"remoteTriggered": {"accounts": ["branch", "nobody"]}}});
    let refused = appliance.rest("PATCH", "/api/v1/connectors/branch", Some(&spec));
    assert_eq!(refused.status, 422, "{}", refused.body);
    let errors = refused.json()["errors"].clone();
    assert_eq!(errors[0]["pointer"], "/spec/remoteTriggered/accounts/1");
    assert_eq!((&errors[0]["code"], errors[1].is_null()), (&json!("unknownReference"), true));
    let refused = appliance.rest("DELETE", "/api/v1/accounts/branch", None);
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert!(refused.body.contains("connectors/branch"), "{}", refused.body);
    // mail that was held goes when it is not held any more
    send(&appliance, &["u@branch.example"]);
    is_held(&appliance, 1);
    appliance.patch("connectors/branch", json!({"remoteTriggered": null}));
    eventually("nothing waits", || (appliance.waiting() == 0).then_some(()));
    assert_eq!(appliance.rest("DELETE", "/api/v1/accounts/branch", None).status, 204);
}

/// A branch whose users live in branch.example; it knows the centre by what `more` says.
fn branch_office(request: Value, more: Value) -> Appliance {
    let appliance = Appliance::start();
    let address = json!({"template": "@branch.example", "primary": true});
    appliance.put("recipient-policies/default", json!({"addresses": [address]}));
    appliance.put("recipients/u", json!({}));
    let mut spec = json!({"addressSpaces": [{"pattern": "unused.example"}], "route": {"dns": {}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec["requestDequeue"] = request;
    appliance.put("connectors/centre", spec);
    appliance
}

fn condition(appliance: &Appliance) -> Value {
    let conditions = appliance.get("/api/v1/connectors/centre")["status"]["conditions"].clone();
    let conditions = conditions.as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == "DequeueRequested").cloned().unwrap_or_default()
}

fn login() -> Value {
    json!({"mechanism": "plain", "username": "branch", "password": {"value": "correct horse battery"}})
}

#[test]
fn a_branch_fetches_by_atrn_in_tls_and_trusts_the_centre_no_more_than_anybody() {
    let never = Sink::up();
    let centre = centre(&never);
    let identity = rcgen::generate_simple_self_signed(vec!["centre.example".to_owned()]).unwrap();
    centre.put(
        "certificates/centre",
        json!({"chain": {"value": identity.cert.pem()}, "privateKey": {"value": identity.signing_key.serialize_pem()}}),
    );
    centre.patch(
        "virtual-servers/default",
        json!({
            "certificates": ["centre"], "bindings": [{"address": "127.0.0.1", "port": 0, "tls": "starttls"}],
            "authentication": {"requireTls": true}
        }),
    );
    let spaces = json!([{"pattern": "branch.example"}, {"pattern": "elsewhere.example"}]);
    centre.patch("connectors/branch", json!({"addressSpaces": spaces}));
    let port = centre.smtp().port();
    let mut smtp = Smtp::open(centre.smtp());
    smtp.mail("ada@local.example", &["u@branch.example"], MESSAGE);
    smtp.mail("ada@local.example", &["v@elsewhere.example"], MESSAGE);
    is_held(&centre, 1);
    let security = json!({"tls": "verified", "serverName": "centre.example", "ca": {"value": identity.cert.pem()}});
    let request = json!({
        "method": "atrn", "host": "127.0.0.1", "port": port, "security": security, "authentication": login(),
        "every": "10s"
    });
    let branch = branch_office(request, json!({}));
    let mail = String::from_utf8(branch.first_mail("u")).unwrap();
    assert!(mail.contains("Subject: hello"), "{mail}");
    // it is no relay for the centre: the recipient is refused, and the sender is told by the centre
    eventually("nothing is held", || {
        let queues = centre.get("/api/v1/queues")["items"].as_array().unwrap().clone();
        let held = queues.iter().any(|queue| queue["connector"] == "branch" && queue["messages"] != 0);
        (!held).then_some(())
    });
    let asked = eventually("the result is shown", || Some(condition(&branch)).filter(|it| it["status"] == "true"));
    let message = asked["message"].as_str().unwrap();
    assert!(message.contains("250 2.0.0") && message.ends_with("messages taken: 1"), "{message}");
    assert!(never.taken().is_empty() && branch.waiting() == 0);
    // again, and there is nothing
    eventually("it has asked again", || condition(&branch)["message"].as_str()?.contains("453 4.0.0").then_some(()));
}

#[test]
fn a_branch_asks_by_etrn_when_it_sends_and_again_when_that_failed() {
    let (sink, mut down) = (Sink::up(), Sink::down());
    let centre = centre(&sink);
    // the way from the centre to the branch
    send(&centre, &["u@branch.example"]);
    is_held(&centre, 1);
    let mut request = json!({
        "method": "etrn", "host": "127.0.0.1", "port": centre.smtp().port(), "authentication": login(),
        "domains": ["branch.example"], "onSend": true
    });
    request["authentication"]["password"] = json!({"value": "wrong"});
    let more = json!({
        "addressSpaces": [{"pattern": "away.example"}], "route": down.route(), "retryIntervals": ["1s"]
    });
    let branch = branch_office(request.clone(), more);
    branch.patch(
        "virtual-servers/default",
        json!({
            "relay": {"allow": ["127.0.0.1"]}, "delivery": {"glitchRetry": {"after": "1s", "times": 100}}
        }),
    );
    let read = branch.get("/api/v1/connectors/centre")["spec"]["requestDequeue"].clone();
    assert_eq!(read["authentication"]["password"]["set"], true, "{read:#}");
    assert!(!read.to_string().contains("wrong"), "{read:#}");
    Smtp::open(branch.smtp()).mail("u@branch.example", &["x@away.example"], MESSAGE);
    eventually("the first attempt", || (branch.waiting() == 1).then_some(()));
    assert!(condition(&branch).is_null(), "it has sent nothing yet");
    down.open();
    down.wait(1);
    let refused = eventually("the login is refused", || Some(condition(&branch)).filter(|it| it["status"] == "false"));
    assert!(refused["message"].as_str().unwrap().contains("535"), "{refused:#}");
    assert!(sink.taken().is_empty());
    // it goes on asking by itself, when the centre knows the password
    centre.put("accounts/branch", json!({"password": {"value": "wrong"}}));
    assert_eq!(sink.wait(1)[0].to, ["<u@branch.example>"]);
    let asked = eventually("the result is shown", || Some(condition(&branch)).filter(|it| it["status"] == "true"));
    assert!(asked["message"].as_str().unwrap().starts_with("253"), "{asked:#}");
}

#[test]
fn requests_that_could_never_be_made_are_refused_all_at_once() {
    let branch = branch_office(
        json!({"method": "etrn", "host": "127.0.0.1", "domains": ["branch.example"], "every": "1m"}),
        json!({}),
    );
    for (request, wrong) in [
        (json!({"every": "9s"}), vec![("every", "outOfRange")]),
        (json!({"every": null}), vec![("every", "required")]),
        (json!({"domains": []}), vec![("domains", "required")]),
        (json!({"method": "atrn"}), vec![("authentication/mechanism", "required")]),
        (json!({"virtualServer": "nobody"}), vec![("virtualServer", "unknownReference")]),
        (
            json!({"security": {"clientCertificate": "none"}, "authentication": {"username": "u"}}),
            vec![("authentication/username", "conflict"), ("security/clientCertificate", "unknownReference")],
        ),
        (
            json!({"schedule": {"windows": [{"from": "06:00", "to": "06:00"}]}}),
            vec![("schedule/windows/0", "outOfRange")],
        ),
    ] {
        let spec = json!({"spec": {"requestDequeue": request}});
        let refused = branch.rest("PATCH", "/api/v1/connectors/centre", Some(&spec));
        assert_eq!(refused.status, 422, "{request}: {}", refused.body);
        let errors = refused.json()["errors"].as_array().unwrap().clone();
        let mut found: Vec<(String, String)> = errors
            .iter()
            .map(|error| (error["pointer"].as_str().unwrap().to_owned(), error["code"].as_str().unwrap().to_owned()))
            .collect();
        found.sort();
        let wrong: Vec<(String, String)> =
            wrong.iter().map(|(at, code)| (format!("/spec/requestDequeue/{at}"), (*code).to_owned())).collect();
        assert_eq!(found, wrong, "{request}");
    }
}
