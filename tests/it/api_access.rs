//! Who may what: every role and every scope against every operation, keys from their making to their end, and limits to
//! some objects.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use bridgehead::model::access::{Role, Scope, Scopes};
use bridgehead::model::key_digest::KeyDigest;
use serde_json::{Value, json};

use super::api_house::{Answer, House};

impl House {
    /// Makes an API key, which must succeed.
    async fn key(&self, name: &str, spec: Value) -> String {
        let answer = self.put(&format!("/api/v1/api-keys/{name}"), &json!({"spec": spec})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["key"].as_str().unwrap().to_owned()
    }

    /// A request with this key.
    async fn with(&self, key: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let (key, body) = (format!("Bearer {key}"), body.map(|body| body.to_string()).unwrap_or_default());
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        self.send(method, path, &[("Authorization", &key), ("Content-Type", media)], body.as_bytes()).await
    }
}

/// Method, path with the examples of its parameters, and scopes of all operations that need a key.
fn operations() -> Vec<(String, String, Scopes)> {
    let document = serde_json::to_value(bridgehead::api::openapi()).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "patch", "post", "delete"] {
            let Some(operation) = item.get(method) else { continue };
            if !path.starts_with("/api/v1") && path != "/metrics" {
                continue;
            }
            let words = operation["x-scope"].as_str().unwrap();
            let scopes = words.split(' ').filter(|word| *word != "none").map(|word| word.parse::<Scope>().unwrap());
            all.push((method.to_uppercase(), super::api::example_path(path, operation), scopes.collect()));
        }
    }
    all
}

async fn reaches_what_it_has(house: &House, who: &str, key: &str, has: Scopes) {
    for (method, path, needs) in operations() {
        // whoever may shall not end what the others still need
        if path == "/api/v1/api-keys/monitoring" && method == "DELETE" && has == Scopes::all() {
            continue;
        }
        let answer = house.with(key, &method, &path, None).await;
        let missing: Vec<Scope> = needs.iter().filter(|scope| !has.has(*scope)).collect();
        match missing.first() {
            None => assert_ne!(answer.status, 403, "{who}: {method} {path}: {answer:?}"),
            Some(scope) => {
                let problem = answer.is_problem(403, "forbidden");
                assert!(
                    problem["detail"].as_str().unwrap().contains(scope.word()),
                    "{who}: {method} {path}: {problem}"
                );
            }
        }
    }
}

#[tokio::test]
async fn every_role_and_every_scope_reaches_exactly_its_operations() {
    let house = House::open().await;
    house.queue.add("a@example.net", "b@example.com", "dns:default:example.com");
    assert!(operations().len() > 80, "the operations were not found");
    for role in Role::ALL {
        let key = house.key(&format!("role-{}", role.word()), json!({"role": role})).await;
        reaches_what_it_has(&house, role.word(), &key, role.scopes()).await;
    }
    for scope in Scope::ALL {
        let key = house.key(&scope.word().replace(':', "-"), json!({"scopes": [scope]})).await;
        reaches_what_it_has(&house, scope.word(), &key, [scope].into_iter().collect()).await;
    }
}

#[tokio::test]
async fn probes_tell_reasons_only_to_who_may_know() {
    let house = House::open().await;
    let (sees, sends) = (json!({"role": "viewer"}), json!({"scopes": ["messages:send"]}));
    let (sees, sends) = (house.key("sees", sees).await, house.key("sends", sends).await);
    assert!(house.with(&sees, "GET", "/readyz", None).await.json()["checks"].is_array());
    let answer = house.with(&sends, "GET", "/readyz", None).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"status": "passed"})));
}

#[tokio::test]
async fn a_key_is_shown_once_and_kept_as_its_digest() {
    let house = House::open().await;
    let path = "/api/v1/api-keys/deploy";
    let spec = json!({"role": "operator", "sendAs": ["*@example.com"], "quotas": {"messages": "10/1h"}});
    let dry = house.put(&format!("{path}?dryRun=true"), &json!({"spec": spec})).await;
    assert_eq!(dry.status, 201, "{dry:?}");
    assert!(dry.json().get("key").is_none(), "what is not kept is not shown: {dry:?}");
    let key = house.key("deploy", spec.clone()).await;
    assert!(key.starts_with("bh_") && key.len() == 46, "{key}");
    let read = house.call("GET", path).await;
    let listed = house.call("GET", "/api/v1/api-keys").await;
    let log = house.call("GET", "/api/v1/audit-log").await;
    for answer in [&read, &listed, &log] {
        let digest = KeyDigest::of(&key).to_string();
        assert!(!answer.body.contains(&key) && !answer.body.contains(&digest[7..]), "{answer:?}");
    }
    assert_eq!(read.json()["spec"]["key"]["set"], true);
    assert!(read.json()["status"].get("lastUsedAt").is_none(), "{read:?}");
    let me = house.with(&key, "GET", "/api/v1/whoami", None).await.json();
    assert_eq!(
        (&me["name"], &me["role"], &me["sendAs"]),
        (&json!("deploy"), &json!("operator"), &json!(["*@example.com"]))
    );
    assert_eq!(me["scopes"].as_array().unwrap().len(), 6);
    assert!(house.call("GET", path).await.json()["status"]["lastUsedAt"].is_string());

    // the same again, without a word of the key
    let same = house.put(path, &json!({"spec": spec})).await;
    assert_eq!((same.status, same.header("bridgehead-change")), (200, "unchanged"), "{same:?}");
    assert!(same.json().get("key").is_none());
    let less = house.put(path, &json!({"spec": {"role": "viewer"}})).await;
    assert_eq!(less.status, 200, "{less:?}");
    house.with(&key, "POST", "/api/v1/queues/unrouted/freeze", None).await.is_problem(403, "forbidden");
    assert_eq!(house.with(&key, "GET", "/api/v1/queues", None).await.status, 200, "at once");
    let as_read = house.call("GET", path).await.json();
    let same = house.put(path, &json!({"labels": as_read["labels"], "spec": as_read["spec"]})).await;
    assert_eq!(same.header("bridgehead-change"), "unchanged", "{same:?}");

    assert_eq!(house.call("DELETE", path).await.status, 204);
    house.with(&key, "GET", "/api/v1/queues", None).await.is_problem(401, "unauthorized");
    let made = house.key("deploy", json!({"role": "viewer"})).await;
    assert_ne!(made, key);
    assert!(house.call("GET", path).await.json()["status"].get("lastUsedAt").is_none(), "it begins anew");
}

#[tokio::test]
async fn a_key_is_rotated_and_the_old_one_may_hold_for_a_while() {
    let house = House::open().await;
    let first = house.key("app", json!({"role": "viewer"})).await;
    let rotate = "/api/v1/api-keys/app/rotate";
    let rotated = house.post(rotate, &json!({"overlap": "1h"})).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let second = rotated.json()["key"].as_str().unwrap().to_owned();
    assert!(rotated.json()["status"]["previousValidUntil"].is_string(), "{rotated:?}");
    for key in [&first, &second] {
        assert_eq!(house.with(key, "GET", "/api/v1/whoami", None).await.json()["name"], "app");
    }
    let third = house.post(rotate, &json!({})).await.json();
    assert!(third["status"].get("previousValidUntil").is_none(), "{third}");
    let third = third["key"].as_str().unwrap().to_owned();
    for (key, valid) in [(&first, false), (&second, false), (&third, true)] {
        assert_eq!(house.with(key, "GET", "/api/v1/whoami", None).await.status == 200, valid);
    }
    let late = house.post(rotate, &json!({"overlap": "91d"})).await;
    late.is_problem(422, "invalid");
    house.post(rotate, &json!({"until": "1d"})).await.is_problem(422, "invalid");
    house.post("/api/v1/api-keys/nobody/rotate", &json!({})).await.is_problem(404, "notFound");
}

#[tokio::test]
async fn keys_live_in_git_and_in_files() {
    let house = House::open().await;
    let mine = "a-key-that-was-made-somewhere-else";
    let put = |name: &str, key: Value| {
        let (path, body) = (format!("/api/v1/api-keys/{name}"), json!({"spec": {"role": "viewer", "key": key}}));
        let house = &house;
        async move { house.put(&path, &body).await }
    };
    let hashed = put("git", json!({"hash": KeyDigest::of(mine)})).await;
    assert_eq!(hashed.status, 201, "{hashed:?}");
    assert!(hashed.json().get("key").is_none(), "it is known already");
    assert_eq!(house.with(mine, "GET", "/api/v1/whoami", None).await.json()["name"], "git");
    let again = put("git", json!({"hash": KeyDigest::of(mine)})).await;
    assert_eq!(again.header("bridgehead-change"), "unchanged", "{again:?}");
    assert_eq!(put("twice", json!({"hash": KeyDigest::of(mine)})).await.errors(), only("/spec/key", "duplicate"));

    let file = house.secrets.path().join("monitoring");
    std::fs::write(&file, "the-key-of-the-monitoring-system-1\n").unwrap();
    assert_eq!(put("file", json!({"file": "monitoring"})).await.status, 201);
    assert_eq!(
        house.with("the-key-of-the-monitoring-system-1", "GET", "/api/v1/whoami", None).await.json()["name"],
        "file"
    );
    std::fs::write(&file, "the-key-of-the-monitoring-system-2\n").unwrap();
    house.configuration.refresh().await.unwrap();
    house
        .with("the-key-of-the-monitoring-system-1", "GET", "/api/v1/whoami", None)
        .await
        .is_problem(401, "unauthorized");
    assert_eq!(house.with("the-key-of-the-monitoring-system-2", "GET", "/api/v1/whoami", None).await.status, 200);
    house.post("/api/v1/api-keys/file/rotate", &json!({})).await.is_problem(409, "conflict");
    std::fs::remove_file(&file).unwrap();
    house.configuration.refresh().await.unwrap();
    house
        .with("the-key-of-the-monitoring-system-2", "GET", "/api/v1/whoami", None)
        .await
        .is_problem(401, "unauthorized");
    let status = house.call("GET", "/api/v1/api-keys/file").await.json()["status"].clone();
    assert_eq!((&status["state"], &status["conditions"][0]["reason"]), (&json!("disabled"), &json!("keyUnreadable")));

    for (name, spec, pointer, code) in [
        ("bad", json!({"role": "viewer", "key": {"value": "short"}}), "/spec/key/value", "outOfRange"),
        ("bad", json!({"role": "viewer", "key": {"file": "nothing"}}), "/spec/key/file", "secretUnreadable"),
        ("bad", json!({"role": "viewer", "key": {"hash": "sha256:00"}}), "/spec/key/hash", "invalidValue"),
        ("bad", json!({"key": {"value": "x".repeat(40)}}), "/spec/role", "required"),
        ("bad", json!({"role": "viewer", "scopes": ["queue:read"]}), "/spec/scopes", "conflict"),
        ("bad", json!({"role": "king"}), "/spec/role", "invalidValue"),
        ("bad", json!({"scopes": []}), "/spec/scopes", "outOfRange"),
        ("bad", json!({"scopes": ["queue:fly"]}), "/spec/scopes/0", "invalidValue"),
        ("bad", json!({"role": "viewer", "allowFrom": ["10.0.0.1/8"]}), "/spec/allowFrom/0", "invalidValue"),
        ("bad", json!({"role": "viewer", "objects": "a in"}), "/spec/objects", "invalidValue"),
        ("bad", json!({"role": "viewer", "expiresAt": "tomorrow"}), "/spec/expiresAt", "invalidValue"),
        ("bootstrap", json!({"role": "viewer"}), "/name", "invalidName"),
        ("admin.sock", json!({"role": "viewer"}), "/name", "invalidName"),
    ] {
        let answer = house.put(&format!("/api/v1/api-keys/{name}"), &json!({"spec": spec})).await;
        answer.is_problem(422, "invalid");
        assert_eq!(answer.errors(), only(pointer, code), "{spec}: {answer:?}");
    }
}

fn only(pointer: &str, code: &str) -> BTreeSet<(String, String)> {
    [(pointer.to_owned(), code.to_owned())].into()
}

#[tokio::test]
async fn a_key_holds_for_its_time_and_from_its_networks() {
    let house = House::open().await;
    let cases = [
        ("ended", json!({"role": "viewer", "expiresAt": "2020-01-01T00:00:00Z"}), Some("expired")),
        ("lasts", json!({"role": "viewer", "expiresAt": "2090-01-01T00:00:00Z"}), None),
        ("there", json!({"role": "viewer", "allowFrom": ["192.0.2.0/24"]}), Some("from this address")),
        ("here", json!({"role": "viewer", "allowFrom": ["192.0.2.0/24", "127.0.0.1"]}), None),
    ];
    for (name, spec, refused) in cases {
        let key = house.key(name, spec).await;
        let answer = house.with(&key, "GET", "/api/v1/whoami", None).await;
        match refused {
            None => assert_eq!(answer.status, 200, "{name}: {answer:?}"),
            Some(why) => {
                let problem = answer.is_problem(401, "unauthorized");
                assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
            }
        }
    }
    let status = house.call("GET", "/api/v1/api-keys/ended").await.json()["status"].clone();
    assert_eq!((&status["state"], &status["conditions"][0]["type"]), (&json!("disabled"), &json!("Expired")));
}

#[tokio::test]
async fn nobody_gives_or_takes_a_key_that_has_more_than_he() {
    let house = House::open().await;
    let keeper = house.key("keeper", json!({"scopes": ["keys:write", "config:read"]})).await;
    house.key("boss", json!({"role": "owner"})).await;
    let put = |name: &'static str, spec: Value| {
        let (house, keeper) = (&house, &keeper);
        async move { house.with(keeper, "PUT", &format!("/api/v1/api-keys/{name}"), Some(json!({"spec": spec}))).await }
    };
    assert_eq!(put("less", json!({"scopes": ["config:read"]})).await.status, 201);
    for spec in [json!({"role": "owner"}), json!({"role": "viewer"}), json!({"scopes": ["queue:read"]})] {
        put("more", spec).await.is_problem(403, "forbidden");
        assert_eq!(house.call("GET", "/api/v1/api-keys/more").await.status, 404);
    }
    // a key that has more is not his to rotate: he would be its holder then
    let rotate = house.with(&keeper, "POST", "/api/v1/api-keys/boss/rotate", Some(json!({}))).await;
    let problem = rotate.is_problem(403, "forbidden");
    assert!(problem["detail"].as_str().unwrap().contains("api-keys/boss"), "{problem}");
    let hash = json!({"spec": {"key": {"hash": KeyDigest::of("one that he knows, long enough for a key")}}});
    house.with(&keeper, "PATCH", "/api/v1/api-keys/boss", Some(hash)).await.is_problem(403, "forbidden");
    put("boss", json!({"scopes": ["config:read"]})).await.is_problem(403, "forbidden");
    house.with(&keeper, "DELETE", "/api/v1/api-keys/boss", None).await.is_problem(403, "forbidden");
    assert_eq!(house.call("GET", "/api/v1/api-keys/boss").await.json()["generation"], 1);
    // nor his own to widen
    let wider = json!({"spec": {"scopes": ["keys:write", "config:read", "secrets:read"]}});
    house.with(&keeper, "PATCH", "/api/v1/api-keys/keeper", Some(wider)).await.is_problem(403, "forbidden");
    // an administrator changes everything but keys
    let administrator = house.key("administrator", json!({"role": "administrator"})).await;
    let body = Some(json!({"spec": {"role": "viewer"}}));
    house.with(&administrator, "PUT", "/api/v1/api-keys/x", body).await.is_problem(403, "forbidden");
}

#[tokio::test]
async fn a_document_and_going_back_give_no_more_than_the_key_has() {
    let house = House::open().await;
    let administrator = house.key("administrator", json!({"role": "administrator"})).await;
    let hash = KeyDigest::of("a key that somebody made himself, long enough");
    let document = json!({"apiVersion": "v1", "apiKeys": {"mine": {"role": "owner", "key": {"hash": hash}}}});
    for path in ["/api/v1/config/apply?owner=x", "/api/v1/config/apply?owner=x&dryRun=true"] {
        house.with(&administrator, "POST", path, Some(document.clone())).await.is_problem(403, "forbidden");
        assert_eq!(house.call("GET", "/api/v1/api-keys/mine").await.status, 404);
    }
    let plain = json!({"apiVersion": "v1", "accounts": {}});
    let answer = house.with(&administrator, "POST", "/api/v1/config/apply?owner=x", Some(plain)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // an owner may, and what he takes away nobody else brings back
    let owner = house.key("boss", json!({"role": "owner"})).await;
    let answer = house.with(&owner, "POST", "/api/v1/config/apply?owner=x", Some(document)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let with = house.call("GET", "/api/v1/config/revisions").await.json()["items"][0]["revision"].clone();
    assert_eq!(house.call("DELETE", "/api/v1/api-keys/mine?takeOver=true").await.status, 204);
    let back = format!("/api/v1/config/revisions/{with}/rollback");
    house.with(&administrator, "POST", &back, Some(json!({}))).await.is_problem(403, "forbidden");
    assert_eq!(house.call("GET", "/api/v1/api-keys/mine").await.status, 404);
    let answer = house.with(&owner, "POST", &back, None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(house.call("GET", "/api/v1/api-keys/mine").await.status, 200);
    // secrets are for owners
    let all = "/api/v1/config?secrets=include";
    house.with(&administrator, "GET", all, None).await.is_problem(403, "forbidden");
    assert_eq!(house.with(&administrator, "GET", "/api/v1/config", None).await.status, 200);
    assert_eq!(house.with(&owner, "GET", all, None).await.status, 200);
}

#[tokio::test]
async fn a_key_may_be_limited_to_some_objects() {
    let house = House::open().await;
    let connector = |team: &str, domain: &str| json!({"labels": {"team": team}, "spec": {"addressSpaces": [{"pattern": domain, "cost": 1}], "route": {"dns": {}}}});
    for (name, team) in [("ours", "mail"), ("theirs", "web")] {
        let answer =
            house.put(&format!("/api/v1/connectors/{name}"), &connector(team, &format!("{name}.example"))).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let key = house.key("team", json!({"role": "administrator", "objects": "team=mail"})).await;
    let call = |method: &'static str, path: &'static str, body: Option<Value>| {
        let (house, key) = (&house, &key);
        async move { house.with(key, method, path, body).await }
    };
    let listed = call("GET", "/api/v1/connectors", None).await.json();
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|item| &item["name"]).collect();
    assert_eq!(names, ["ours"], "{listed}");
    assert_eq!(call("GET", "/api/v1/connectors/ours", None).await.status, 200);
    call("GET", "/api/v1/connectors/theirs", None).await.is_problem(404, "notFound");
    call("GET", "/api/v1/settings", None).await.is_problem(404, "notFound");

    let patch = json!({"spec": {"enabled": false}});
    assert_eq!(call("PATCH", "/api/v1/connectors/ours", Some(patch.clone())).await.status, 200);
    call("PATCH", "/api/v1/connectors/theirs", Some(patch.clone())).await.is_problem(403, "forbidden");
    call("PATCH", "/api/v1/settings", Some(json!({"spec": {"organization": "x"}}))).await.is_problem(403, "forbidden");
    call("PUT", "/api/v1/connectors/theirs", Some(connector("mail", "x.example"))).await.is_problem(403, "forbidden");
    call("DELETE", "/api/v1/connectors/theirs", None).await.is_problem(403, "forbidden");
    // neither out of its reach nor beyond it
    let away = json!({"labels": {"team": "web"}});
    call("PATCH", "/api/v1/connectors/ours", Some(away)).await.is_problem(403, "forbidden");
    call("PUT", "/api/v1/connectors/new", Some(connector("web", "new.example"))).await.is_problem(403, "forbidden");
    assert_eq!(call("PUT", "/api/v1/connectors/new", Some(connector("mail", "new.example"))).await.status, 201);
    assert_eq!(call("DELETE", "/api/v1/connectors/new", None).await.status, 204);

    house.queue.add("a@example.net", "b@ours.example", "dns:ours:ours.example");
    house.queue.add("a@example.net", "b@theirs.example", "dns:theirs:theirs.example");
    let message = house.queue.add("a@example.net", "b@ours.example", "dns:ours:ours.example");
    assert_eq!(call("POST", "/api/v1/queues/dns:ours:ours.example/freeze", None).await.status, 200);
    assert_eq!(call("GET", "/api/v1/messages", None).await.status, 200, "what waits is seen by all who may see queues");
    for path in [
        "/api/v1/queues/dns:theirs:theirs.example/freeze",
        "/api/v1/queues/dns:nothing:theirs.example/freeze",
        "/api/v1/queues/unrouted/retry",
        "/api/v1/queues/local:default/retry",
        "/api/v1/queues/nonsense/retry",
        "/api/v1/virtual-servers/default/stop",
        "/api/v1/bulk-actions",
        "/api/v1/explain",
        "/api/v1/recipients/import",
        "/api/v1/recipient-policies/preview",
        "/api/v1/connectors/theirs/test",
    ] {
        call("POST", path, Some(json!({}))).await.is_problem(403, "forbidden");
    }
    for (method, path) in
        [("GET", "/api/v1/audit-log"), ("GET", "/api/v1/domains"), ("DELETE", "/api/v1/sessions?client=192.0.2.1")]
    {
        call(method, path, None).await.is_problem(403, "forbidden");
    }
    let path = format!("/api/v1/messages/{message}");
    house.with(&key, "DELETE", &path, None).await.is_problem(403, "forbidden");
    assert_eq!(call("GET", "/api/v1/whoami", None).await.json()["objects"], "team in (mail)");
    assert_ne!(call("POST", "/api/v1/connectors/ours/test", Some(json!({}))).await.status, 403);
}

#[tokio::test]
async fn every_deed_is_written_down_and_found_again() {
    let house = House::open().await;
    let key = house.key("ada", json!({"role": "administrator"})).await;
    let id = house.queue.add("a@example.net", "b@example.com", "dns:default:example.com");
    let leased = house.queue.add("a@example.net", "c@example.com", "dns:default:example.com");
    house.queue.leased.lock().unwrap().insert(leased);
    let body = json!({"spec": {"password": {"value": "correct horse battery"}}});
    let revision = |house: &House| house.configuration.live().current().revision;
    let before = revision(&house);
    for (method, path, body, status) in [
        ("POST", format!("/api/v1/messages/{id}/freeze"), None, 200),
        ("POST", format!("/api/v1/messages/{leased}/freeze"), None, 409),
        ("POST", "/api/v1/queues/dns:default:example.com/freeze".to_owned(), None, 200),
        ("POST", "/api/v1/virtual-servers/default/pause".to_owned(), None, 200),
        ("DELETE", format!("/api/v1/messages/{id}?ndr=true"), None, 204),
        ("PUT", "/api/v1/accounts/eve".to_owned(), Some(body), 201),
        ("DELETE", "/api/v1/accounts/eve".to_owned(), None, 204),
    ] {
        let answer = house.with(&key, method, &path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
    assert_eq!(revision(&house), before + 2, "only changes of the configuration make revisions");
    // what nobody could have done is not written down
    assert_eq!(house.with(&key, "POST", "/api/v1/messages/nonsense/freeze", None).await.status, 404);

    let log = house.call("GET", "/api/v1/audit-log?actor=ada").await.json();
    let items = log["items"].as_array().unwrap();
    let told: BTreeSet<(String, String)> = items
        .iter()
        .map(|item| (item["action"].as_str().unwrap().to_owned(), item["object"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [
        ("freeze", format!("messages/{id}")),
        ("freeze", format!("messages/{leased}")),
        ("freeze", "queues/dns:default:example.com".to_owned()),
        ("pause", "virtual-servers/default".to_owned()),
        ("delete", format!("messages/{id}")),
        ("created", "accounts/eve".to_owned()),
        ("deleted", "accounts/eve".to_owned()),
    ];
    assert_eq!(told, expected.map(|(action, object)| (action.to_owned(), object)).into());
    let find = |action: &str, object: &str| {
        items.iter().find(|item| item["action"] == action && item["object"] == object).unwrap().clone()
    };
    assert_eq!(find("freeze", &format!("messages/{id}"))["outcome"], "done");
    let failed = find("freeze", &format!("messages/{leased}"))["outcome"].as_str().unwrap().to_owned();
    assert!(failed.starts_with("failed: "), "{failed}");
    assert_eq!(find("delete", &format!("messages/{id}"))["detail"], json!({"ndr": true}));
    assert_eq!(find("pause", "virtual-servers/default")["detail"], json!({"before": "running", "after": "paused"}));
    let created = find("created", "accounts/eve");
    assert_eq!(created["after"]["spec"]["password"]["set"], true, "{created}");
    assert_eq!(created["actor"]["client"], "127.0.0.1");
    assert!(created["actor"]["requestId"].is_string() && created.get("before").is_none());
    let all = house.call("GET", "/api/v1/audit-log").await.body;
    assert!(!all.contains("correct horse") && !all.contains("argon2"), "{all}");
    assert!(all.contains("\"key\":\"bootstrap\"") || all.contains("\"key\": \"bootstrap\""), "the key of ada: {all}");

    let one = house.call("GET", "/api/v1/audit-log?actor=ada&limit=3").await.json();
    let cursor = one["nextCursor"].as_str().unwrap();
    let two = house.call("GET", &format!("/api/v1/audit-log?actor=ada&limit=100&cursor={cursor}")).await.json();
    assert_eq!(one["items"].as_array().unwrap().len() + two["items"].as_array().unwrap().len(), 7);
    for (query, count) in [
        ("object=accounts/eve", 2),
        ("object=accounts/", 2),
        ("object=messages/&action=freeze", 2),
        ("since=2090-01-01T00:00:00Z", 0),
        ("until=2020-01-01T00:00:00Z", 0),
        ("actor=nobody", 0),
    ] {
        let found = house.call("GET", &format!("/api/v1/audit-log?{query}")).await.json();
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{query}: {found}");
    }
    for query in ["since=yesterday", "cursor=00", "who=ada"] {
        house.call("GET", &format!("/api/v1/audit-log?{query}")).await.is_problem(400, "badParameter");
    }
    let ndjson = format!("Bearer {}", super::api_house::KEY);
    let headers = [("Authorization", ndjson.as_str()), ("Accept", "application/x-ndjson"), ("Connection", "close")];
    let export = house.send("GET", "/api/v1/audit-log?actor=ada&limit=1", &headers, b"").await;
    assert_eq!(export.header("content-type"), "application/x-ndjson");
    let lines = export.body.lines().filter(|line| line.starts_with('{')).count();
    assert_eq!(lines, 7, "{export:?}");
}
