//! Certificates and secrets over REST: what is shown, what never is, what is refused, and files that change.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::api_house::{Answer, House, pair};
use super::appliance::{Appliance, eventually};

const PATH: &str = "/api/v1/certificates/mail";

fn condition(object: &Value) -> (String, String) {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    let valid = conditions.iter().find(|condition| condition["type"] == "CertificateValid").unwrap();
    (valid["status"].as_str().unwrap().to_owned(), valid["reason"].as_str().unwrap().to_owned())
}

/// Exactly these are wrong.
#[track_caller]
fn tells(answer: &Answer, expected: &[(&str, &str)]) {
    answer.is_problem(422, "invalid");
    let expected = expected.iter().map(|(pointer, code)| ((*pointer).to_owned(), (*code).to_owned())).collect();
    assert_eq!(answer.errors(), expected, "{answer:?}");
}

#[tokio::test]
async fn a_key_is_kept_by_its_fingerprint_and_never_shown() {
    let house = House::open().await;
    let (chain, key) = pair("mail.example.com");
    let body = json!({"spec": {"chain": {"value": chain}, "privateKey": {"value": key}}});
    let dry = house.put(&format!("{PATH}?dryRun=true"), &body).await;
    assert_eq!(dry.status, 201, "{dry:?}");
    let made = house.put(PATH, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let read = house.call("GET", PATH).await.json();
    assert_eq!(read["spec"]["chain"]["value"], chain.as_str());
    assert_eq!(read["spec"]["privateKey"]["set"], true);
    assert_eq!(read["spec"]["privateKey"].as_object().unwrap().len(), 2);
    assert_eq!(read["status"]["names"], json!(["mail.example.com"]));
    assert_eq!(read["status"]["notAfter"], "2090-01-01T00:00:00.000Z");
    assert_eq!(condition(&read), ("true".to_owned(), "valid".to_owned()));
    // what is read can be written back, whole or by a patch of something else
    let again = house.put(PATH, &json!({"spec": read["spec"]})).await;
    assert_eq!((again.status, again.header("bridgehead-change")), (200, "unchanged"), "{again:?}");
    let labelled = house.patch(PATH, &json!({"labels": {"stage": "production"}})).await;
    assert_eq!(labelled.json()["spec"], read["spec"]);
    // the same key has the same fingerprint, another one another
    let same = house.put(PATH, &json!({"labels": {"stage": "production"}, "spec": body["spec"]})).await;
    assert_eq!(same.header("bridgehead-change"), "unchanged");
    let (other_chain, other_key) = pair("other.example.com");
    let other = json!({"spec": {"chain": {"value": other_chain}, "privateKey": {"value": other_key}}});
    let changed = house.put(PATH, &other).await;
    assert_ne!(changed.json()["spec"]["privateKey"]["fingerprint"], read["spec"]["privateKey"]["fingerprint"]);
    // a patch takes another way without naming the one before
    let by_file = json!({"spec": {"chain": {"file": "smtp/tls.crt"}, "privateKey": {"file": "smtp/tls.key"}}});
    let patched = house.patch(&format!("{PATH}?dryRun=true"), &by_file).await;
    assert_eq!((patched.status, &patched.json()["spec"]["chain"]), (200, &by_file["spec"]["chain"]), "{patched:?}");
    // a fingerprint that the object does not have (any more) is refused
    let old = house.put(PATH, &json!({"spec": read["spec"]})).await;
    old.is_problem(422, "invalid");
    tells(&old, &[("/spec/privateKey/fingerprint", "secretUnknown")]);
    let elsewhere = house.put("/api/v1/certificates/other", &json!({"spec": changed.json()["spec"]})).await;
    tells(&elsewhere, &[("/spec/privateKey/fingerprint", "secretUnknown")]);
    let listed = house.call("GET", "/api/v1/certificates").await;
    for key in [&key, &other_key] {
        let secret = key.lines().nth(1).unwrap();
        for answer in [&dry, &made, &again, &labelled, &same, &changed, &patched, &old, &elsewhere, &listed] {
            assert!(!answer.body.contains(secret), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_pair_that_is_none_is_refused_with_what_is_wrong() {
    let house = House::open().await;
    let (chain, key) = pair("mail.example.com");
    let (_, other) = pair("other.example.com");
    let good = |chain: Value, key: Value| json!({"spec": {"chain": chain, "privateKey": key}});
    let value = |text: &str| json!({"value": text});
    for (body, pointer, code) in [
        (good(value("x"), value(&key)), "/spec/chain", "invalidCertificate"),
        (good(value(&chain), value("x")), "/spec/privateKey", "invalidCertificate"),
        (good(value(&chain), value(&other)), "/spec/privateKey", "invalidCertificate"),
        (good(value(""), value(&key)), "/spec/chain/value", "outOfRange"),
        (good(json!({}), value(&key)), "/spec/chain", "invalidValue"),
        (good(value(&chain), json!({"value": key, "file": "a"})), "/spec/privateKey", "invalidValue"),
        (good(json!({"file": "missing"}), value(&key)), "/spec/chain", "secretUnreadable"),
        (good(json!({"file": "../x"}), value(&key)), "/spec/chain/file", "invalidValue"),
        (good(json!({"file": "/etc/passwd"}), value(&key)), "/spec/chain", "secretUnreadable"),
        (good(json!({"env": "HOME"}), value(&key)), "/spec/chain/env", "invalidValue"),
        (good(value(&chain), json!({"env": "BRIDGEHEAD_SECRET_UNSET"})), "/spec/privateKey", "secretUnreadable"),
        (good(value(&chain), json!({"vault": "x"})), "/spec/privateKey/vault", "unknownField"),
    ] {
        for path in [PATH.to_owned(), format!("{PATH}?dryRun=true")] {
            let answer = house.put(&path, &body).await;
            answer.is_problem(422, "invalid");
            tells(&answer, &[(pointer, code)]);
        }
    }
    house.call("GET", PATH).await.is_problem(404, "notFound");
}

#[tokio::test]
async fn a_file_that_breaks_leaves_the_old_pair_until_a_good_one_comes() {
    let house = House::open().await;
    let body = json!({"spec": {"chain": {"file": "smtp/tls.crt"}, "privateKey": {"file": "smtp/tls.key"}}});
    assert_eq!(house.put(PATH, &body).await.status, 201);
    let server = json!({"spec": {
        "fqdn": "mail.example.com", "certificates": ["mail"],
        "bindings": [{"address": "127.0.0.1", "port": 0, "tls": "starttls"}],
    }});
    let made = house.put("/api/v1/virtual-servers/tls", &server).await;
    assert_eq!((made.status, made.json().get("warnings")), (201, None), "{made:?}");
    let in_force = || {
        let server = house.configuration.live().current().virtual_servers["tls"].clone();
        let facts = server.tls.as_ref().unwrap().identities().next().unwrap().facts().fingerprint.clone();
        (facts, server.tls_fault.is_some())
    };
    let first = in_force();
    let read = house.call("GET", PATH).await.json();
    assert_eq!(read["spec"]["privateKey"]["set"], true);
    assert_eq!(read["spec"]["privateKey"]["file"], "smtp/tls.key");
    assert_eq!(read["status"]["fingerprint"], first.0.as_str());
    let unchanged = house.put(PATH, &json!({"spec": read["spec"]})).await;
    assert_eq!(unchanged.header("bridgehead-change"), "unchanged", "{unchanged:?}");

    // half-replaced: a new chain, the old key
    let (chain, key) = pair("mail.example.com");
    let write = |name: &str, text: &str| {
        // as tools do it: a new file in the place of the old one
        let new = house.secrets.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, house.secrets.path().join(name)).unwrap();
    };
    write("smtp/tls.crt", &chain);
    house.configuration.refresh().await.unwrap();
    assert_eq!(in_force(), first);
    let broken = house.call("GET", PATH).await.json();
    assert_eq!(condition(&broken), ("false".to_owned(), "invalid".to_owned()));
    assert_eq!(broken["status"]["fingerprint"], first.0.as_str());
    assert_eq!(broken["generation"], 1);
    let server = house.call("GET", "/api/v1/virtual-servers/tls").await.json();
    assert_eq!(condition(&server), ("false".to_owned(), "invalid".to_owned()));
    // other changes go on meanwhile
    assert_eq!(house.patch("/api/v1/virtual-servers/tls", &json!({"labels": {"a": "b"}})).await.status, 200);
    assert_eq!(in_force(), first);

    // the key follows: healed, and new
    write("smtp/tls.key", &key);
    house.configuration.refresh().await.unwrap();
    let second = in_force();
    assert_ne!(second.0, first.0);
    let healed = house.call("GET", PATH).await.json();
    assert_eq!(condition(&healed), ("true".to_owned(), "valid".to_owned()));
    assert_ne!(healed["spec"]["privateKey"]["fingerprint"], read["spec"]["privateKey"]["fingerprint"]);

    // gone: the same as broken
    std::fs::remove_file(house.secrets.path().join("smtp/tls.key")).unwrap();
    house.configuration.refresh().await.unwrap();
    assert_eq!(in_force(), second);
    let gone = house.call("GET", PATH).await.json();
    assert_eq!(condition(&gone), ("false".to_owned(), "unreadable".to_owned()));
    assert_eq!(gone["spec"]["privateKey"], json!({"set": false, "file": "smtp/tls.key"}));
}

#[tokio::test]
async fn what_a_virtual_server_cannot_serve_is_refused_all_at_once() {
    let house = House::open().await;
    let spec = json!({
        "bindings": [
            {"address": "127.0.0.1", "port": 0, "tls": "implicit"},
            {"address": "127.0.0.1", "port": 0},
        ],
        "tls": {"required": true, "clientCertificates": "require"},
        "authentication": {"mechanisms": ["plain", "xoauth2", "plain"]},
        "errors": {"softLimit": 10, "hardLimit": 5},
        "messages": {"maxSize": "10MiB", "maxSessionSize": "1MiB"},
        "staging": {},
    });
    let answer = house.put("/api/v1/virtual-servers/x", &json!({"spec": spec})).await;
    answer.is_problem(422, "invalid");
    let expected = [
        ("/spec/authentication/identityProviders", "required"),
        ("/spec/authentication/mechanisms/2", "duplicate"),
        ("/spec/bindings/0/tls", "conflict"),
        ("/spec/bindings/1/tls", "conflict"),
        ("/spec/errors/hardLimit", "outOfRange"),
        ("/spec/messages/maxSessionSize", "outOfRange"),
        ("/spec/staging", "required"),
        ("/spec/tls/clientCa", "required"),
    ];
    tells(&answer, &expected);
    let clear = json!({
        "bindings": [{"address": "127.0.0.1", "port": 0}],
        "certificates": ["nobody"],
        "authentication": {"mechanisms": ["plain", "scramSha256", "scramSha256Plus"]},
    });
    let answer = house.put("/api/v1/virtual-servers/x", &json!({"spec": clear})).await;
    let expected = [
        ("/spec/authentication/mechanisms/0", "conflict"),
        ("/spec/authentication/mechanisms/2", "conflict"),
        ("/spec/certificates/0", "unknownReference"),
    ];
    tells(&answer, &expected);
    let said = json!({
        "bindings": [{"address": "127.0.0.1", "port": 0}],
        "authentication": {"mechanisms": ["plain"], "requireTls": false},
        "relay": {"authenticated": true},
    });
    assert_eq!(house.put("/api/v1/virtual-servers/x", &json!({"spec": said})).await.status, 201);
    let nobody = house.patch("/api/v1/virtual-servers/x", &json!({"spec": {"authentication": null}})).await;
    tells(&nobody, &[("/spec/relay/authenticated", "conflict")]);
}

#[tokio::test]
async fn what_may_not_be_meant_is_warned_about() {
    let house = House::open().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["other.example.com".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let chain = params.self_signed(&key).unwrap().pem();
    let body = json!({"spec": {"chain": {"value": chain}, "privateKey": {"value": key.serialize_pem()}}});
    let made = house.put(PATH, &body).await;
    assert_eq!((made.status, &made.json()["warnings"][0]["code"]), (201, &json!("certificateExpires")), "{made:?}");
    assert_eq!(condition(&made.json()), ("false".to_owned(), "expired".to_owned()));
    let spec = json!({
        "fqdn": "mail.example.com", "certificates": ["mail"],
        "bindings": [{
            "address": "0.0.0.0", "port": 0, "tls": "starttls", "bareLineEnds": "normalise",
            "proxyProtocol": {"trusted": ["0.0.0.0/0"]},
        }],
    });
    let made = house.put("/api/v1/virtual-servers/tls", &json!({"spec": spec})).await.json();
    let codes: Vec<_> = made["warnings"].as_array().unwrap().iter().map(|warning| warning["code"].clone()).collect();
    assert_eq!(codes, ["trustsEverybody", "normalisesForEverybody", "nameNotCovered"]);
    assert_eq!(condition(&made), ("false".to_owned(), "expired".to_owned()));
    let answer = house.call("DELETE", PATH).await;
    answer.is_problem(409, "conflict");
}

#[test]
fn the_appliance_watches_its_files_and_starts_with_broken_ones() {
    let mut appliance = Appliance::start();
    let secrets = appliance.data().join("secrets");
    std::fs::create_dir(&secrets).unwrap();
    let write = |(chain, key): (String, String)| {
        std::fs::write(secrets.join("tls.crt"), chain).unwrap();
        std::fs::write(secrets.join("tls.key"), key).unwrap();
    };
    write(pair("mail.example.com"));
    let spec = json!({"chain": {"file": "tls.crt"}, "privateKey": {"file": "tls.key"}});
    appliance.put("certificates/mail", spec);
    let read = |appliance: &Appliance| {
        let object = appliance.get(PATH);
        (object["status"]["fingerprint"].clone(), condition(&object).0)
    };
    let first = read(&appliance);
    assert_eq!(first.1, "true");
    write(pair("mail.example.com"));
    let second = eventually("the new pair", || {
        let now = read(&appliance);
        (now.1 == "true" && now.0 != first.0).then_some(now.0)
    });
    std::fs::write(secrets.join("tls.key"), "broken").unwrap();
    eventually("the break is seen", || (read(&appliance) == (second.clone(), "false".to_owned())).then_some(()));
    appliance.stop();
    appliance.start_again();
    assert_eq!(read(&appliance), (Value::Null, "false".to_owned()));
    write(pair("mail.example.com"));
    eventually("it is healed", || (read(&appliance).1 == "true").then_some(()));
}
