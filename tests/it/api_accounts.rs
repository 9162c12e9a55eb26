//! Accounts and identity providers over REST: passwords that are never shown, usernames that clash, what refers to what.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::api_house::{Answer, House};

const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$YnJpZGdlaGVhZC1zYWx0$Tpx9zVXcLAUBBW0cqHyYWiRTDMREDdmC0rqZvsHGfyY";

fn only(pointer: &str, code: &str) -> BTreeSet<(String, String)> {
    [(pointer.to_owned(), code.to_owned())].into()
}

async fn as_it_was_read(house: &House, path: &str) -> Answer {
    let object = house.call("GET", path).await.json();
    house.put(path, &json!({"labels": object["labels"], "spec": object["spec"]})).await
}

#[tokio::test]
async fn a_password_is_kept_and_never_shown() {
    let house = House::open().await;
    let path = "/api/v1/accounts/ada";
    let put = |password: Value| json!({"spec": {"username": "ada@example.com", "password": password}});
    let dry = format!("{path}?dryRun=true");
    let created = house.put(&dry, &put(json!({"value": "hunter2hunter2"}))).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert!(!created.body.contains("hunter2"));
    let created = house.put(path, &put(json!({"value": "hunter2hunter2"}))).await;
    assert_eq!(created.status, 201, "{created:?}");
    let read = house.call("GET", path).await;
    for answer in [&created, &read] {
        assert!(!answer.body.contains("hunter2") && !answer.body.contains("argon2"), "{answer:?}");
        let password = &answer.json()["spec"]["password"];
        assert_eq!(password["set"], true);
        assert_eq!(password.as_object().unwrap().len(), 2, "{password}");
    }
    let spec = read.json()["spec"].clone();
    assert_eq!((&spec["mayRelay"], &spec["quotas"], spec.get("sendAs")), (&json!(true), &json!({}), None));
    let fingerprint = spec["password"]["fingerprint"].clone();

    let same = as_it_was_read(&house, path).await;
    assert_eq!((same.status, same.header("bridgehead-change")), (200, "unchanged"), "{same:?}");
    let same = house.put(path, &put(json!({"value": "hunter2hunter2"}))).await;
    assert_eq!((same.status, same.header("bridgehead-change")), (200, "unchanged"), "the same password: {same:?}");
    let kept = house.patch(path, &json!({"spec": {"mayRelay": false}})).await.json();
    assert_eq!(kept["spec"]["password"]["fingerprint"], fingerprint);
    let other = house.patch(path, &json!({"spec": {"password": {"value": "another password"}}})).await;
    assert_eq!(other.status, 200, "{other:?}");
    assert_ne!(other.json()["spec"]["password"]["fingerprint"], fingerprint);
    let stale = house.put(path, &put(json!({"set": true, "fingerprint": fingerprint}))).await;
    stale.is_problem(422, "invalid");
    assert_eq!(stale.errors(), only("/spec/password/fingerprint", "secretUnknown"));

    let hashed = house.put(path, &put(json!({"hash": HASH}))).await;
    assert_eq!(hashed.status, 200, "{hashed:?}");
    assert!(!hashed.body.contains("argon2"));
    assert_eq!(as_it_was_read(&house, path).await.header("bridgehead-change"), "unchanged");
    let again = house.put(path, &put(json!({"hash": HASH}))).await;
    assert_eq!(again.header("bridgehead-change"), "unchanged", "so that it can live in Git");
    let gone = house.patch(path, &json!({"spec": {"password": null}})).await.json();
    assert_eq!(gone["spec"].get("password"), None);
}

#[tokio::test]
async fn what_is_wrong_with_an_account_is_told_with_pointers() {
    let house = House::open().await;
    let wrong = async |spec: Value| {
        let answer = house.put("/api/v1/accounts/ada", &json!({"spec": spec})).await;
        answer.is_problem(422, "invalid");
        assert!(!answer.body.contains("s3cret"), "{answer:?}");
        answer.errors()
    };
    let password = |password: Value| json!({"password": password});
    assert_eq!(wrong(json!({"username": "a\nb"})).await, only("/spec/username", "invalidValue"));
    assert_eq!(wrong(json!({"username": ""})).await, only("/spec/username", "invalidValue"));
    assert_eq!(wrong(json!({"sendAs": ["ada"]})).await, only("/spec/sendAs/0", "invalidValue"));
    assert_eq!(wrong(json!({"quotas": {"messages": "10"}})).await, only("/spec/quotas/messages", "invalidValue"));
    assert_eq!(wrong(password(json!({"value": "s3cret\u{0}"}))).await, only("/spec/password/value", "invalidValue"));
    assert_eq!(wrong(password(json!({"hash": "s3cret"}))).await, only("/spec/password/hash", "invalidValue"));
    assert_eq!(
        wrong(password(json!({"hash": HASH.replace("m=19456", "m=4194304")}))).await,
        only("/spec/password/hash", "invalidValue"),
        "it would take 4 GiB to check"
    );
    assert_eq!(wrong(password(json!({"value": "s3cret", "file": "a"}))).await, only("/spec/password", "invalidValue"));
    assert_eq!(wrong(password(json!({"value": "s3cret", "hash": HASH}))).await, only("/spec/password", "invalidValue"));
    assert_eq!(wrong(password(json!({"file": "accounts/ada"}))).await, only("/spec/password/file", "secretUnreadable"));
    assert_eq!(
        wrong(password(json!({"env": "BRIDGEHEAD_SECRET_NOWHERE"}))).await,
        only("/spec/password/env", "secretUnreadable")
    );
    house.call("GET", "/api/v1/accounts/ada").await.is_problem(404, "notFound");
}

#[tokio::test]
async fn no_two_accounts_have_one_username() {
    let house = House::open().await;
    let put =
        async |name: &str, spec: Value| house.put(&format!("/api/v1/accounts/{name}"), &json!({"spec": spec})).await;
    assert_eq!(put("ada", json!({})).await.status, 201);
    let taken = put("other", json!({"username": "ADA"})).await;
    taken.is_problem(422, "invalid");
    assert_eq!(taken.errors(), only("/spec/username", "duplicate"));
    assert_eq!(put("other", json!({"username": "ada@example.com"})).await.status, 201);
    let long = "a".repeat(128);
    assert_eq!(put(&long, json!({})).await.status, 201);
    put(&format!("{long}a"), json!({})).await.is_problem(422, "invalid");
}

#[tokio::test]
async fn an_identity_provider_that_a_virtual_server_names_stays() {
    let house = House::open().await;
    let path = "/api/v1/identity-providers/login";
    let server = "/api/v1/virtual-servers/default";
    let use_it = json!({"spec": {"authentication": {
        "mechanisms": ["oauthbearer"], "identityProviders": ["login"], "requireTls": false
    }}});
    let dangling = house.patch(server, &use_it).await;
    dangling.is_problem(422, "invalid");
    assert_eq!(dangling.errors(), only("/spec/authentication/identityProviders/0", "unknownReference"));

    let no_keys = house.put(path, &json!({"spec": {"issuer": "urn:example", "audience": "smtp"}})).await;
    no_keys.is_problem(422, "invalid");
    assert_eq!(no_keys.errors(), only("/spec/jwksUri", "required"));
    for uri in ["http://login.example.com/keys", "https://169.254.169.254/keys"] {
        let spec = json!({"issuer": "https://login.example.com/", "audience": "smtp", "jwksUri": uri});
        let answer = house.put(path, &json!({"spec": spec})).await;
        answer.is_problem(422, "invalid");
        assert_eq!(answer.errors(), only("/spec/jwksUri", "invalidValue"));
    }
    let made = house.put(path, &json!({"spec": {"issuer": "https://login.example.com/", "audience": "smtp"}})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let condition = &made.json()["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("Reachable"), &json!("unknown")));

    assert_eq!(house.patch(server, &use_it).await.status, 200);
    let needed = house.call("DELETE", path).await;
    needed.is_problem(409, "conflict");
    assert!(needed.body.contains("virtual-servers/default"), "{needed:?}");
    let without = json!({"spec": {"authentication": null}});
    assert_eq!(house.patch(server, &without).await.status, 200);
    assert_eq!(house.call("DELETE", path).await.status, 204);
}
