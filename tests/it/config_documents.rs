//! The whole configuration as one document: over REST, from a watched directory, by `bridgehead check`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::api_house::{Answer, House, KEY};
use super::appliance::{Appliance, Smtp, eventually};

const YAML: &str = "application/yaml";
const APPLY: &str = "/api/v1/config/apply";

async fn apply(house: &House, query: &str, document: &str) -> Answer {
    house.write("POST", &format!("{APPLY}{query}"), YAML, &[], document.as_bytes()).await
}

fn connector(name: &str, cost: u8) -> String {
    format!(
        "  {name}:\n    addressSpaces:\n    - pattern: '*.{name}.example'\n      cost: {cost}\n    route: {{dns: {{}}}}\n"
    )
}

#[tokio::test]
async fn a_document_is_applied_exported_and_gone_back_from() {
    let house = House::open().await;
    let text = format!("connectors:\n{}{}", connector("a", 1), connector("b", 2));
    let dry = apply(&house, "?dryRun=true&owner=gitops", &text).await;
    assert_eq!(dry.status, 200, "{dry:?}");
    assert_eq!((&dry.json()["created"], &dry.json()["dryRun"]), (&json!(2), &json!(true)));
    house.call("GET", "/api/v1/connectors/a").await.is_problem(404, "notFound");
    let applied = apply(&house, "?owner=gitops", &text).await.json();
    assert_eq!(applied["created"], 2, "{applied}");
    let first = applied["revision"].as_u64().unwrap();
    assert_eq!(house.call("GET", "/api/v1/connectors/a").await.json()["owner"], "gitops");
    let again = apply(&house, "?owner=gitops", &text).await.json();
    assert_eq!((&again["unchanged"], &again["revision"]), (&json!(2), &json!(first)));

    let pruned = apply(&house, "?owner=gitops&prune=true", &format!("connectors:\n{}", connector("a", 9))).await.json();
    assert_eq!((&pruned["updated"], &pruned["deleted"]), (&json!(1), &json!(1)), "{pruned}");
    let diff = &pruned["objects"][0]["diff"];
    assert_eq!(*diff, json!([{"pointer": "/spec/addressSpaces/0/cost", "before": 1, "after": 9}]));
    let stale = apply(&house, &format!("?owner=gitops&ifRevision={first}"), &text).await;
    stale.is_problem(412, "preconditionFailed");

    let refused = apply(&house, "?owner=other", &text).await;
    refused.is_problem(409, "conflict");
    assert_eq!(refused.json()["errors"][0]["object"], "connectors/a", "{refused:?}");
    assert_eq!(refused.json()["errors"][0]["code"], "ownedByOther");
    let put = house
        .put("/api/v1/connectors/a", &json!({"spec": {"addressSpaces": [{"pattern": "*"}], "route": {"dns": {}}}}))
        .await;
    put.is_problem(409, "conflict");
    let gone = house.call("DELETE", "/api/v1/connectors/a?takeOver=true&dryRun=true").await;
    assert_eq!(gone.status, 200, "{gone:?}");

    let json = house.call("GET", "/api/v1/config").await;
    assert_eq!(json.header("content-type"), "application/json");
    assert_eq!(json.json()["connectors"]["a"]["addressSpaces"][0]["cost"], 9, "{json:?}");
    let key = format!("Bearer {KEY}");
    let yaml =
        house.send("GET", "/api/v1/config?secrets=include", &[("Authorization", &key), ("Accept", YAML)], b"").await;
    assert_eq!(yaml.header("content-type"), YAML, "{yaml:?}");
    let elsewhere = House::open().await;
    assert_eq!(apply(&elsewhere, "", &yaml.body).await.status, 200);
    let there = elsewhere
        .send("GET", "/api/v1/config?secrets=include", &[("Authorization", &key), ("Accept", YAML)], b"")
        .await;
    assert_eq!(there.body, yaml.body);

    let list = house.call("GET", "/api/v1/config/revisions?limit=2").await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "{list}");
    assert_eq!(list["items"][0]["kind"], "apply");
    let next = format!("/api/v1/config/revisions?limit=2&cursor={}", list["nextCursor"].as_str().unwrap());
    let next = house.call("GET", &next).await.json();
    assert_eq!(next["items"].as_array().unwrap().len(), 1, "only the first start is left");
    let last = list["items"][0]["revision"].as_u64().unwrap();
    let one = house.call("GET", &format!("/api/v1/config/revisions/{last}")).await.json();
    assert_eq!(one["changes"]["changed"], 2, "{one}");
    let diff = house.call("GET", &format!("/api/v1/config/revisions/{first}/diff/{last}")).await.json();
    assert_eq!(diff["changed"], 2, "{diff}");
    let back =
        house.write("POST", &format!("/api/v1/config/revisions/{first}/rollback"), "application/json", &[], b"").await;
    assert_eq!((back.status, &back.json()["created"]), (200, &json!(1)), "{back:?}");
    assert_eq!(house.call("GET", "/api/v1/connectors/b").await.status, 200);
    house.call("GET", "/api/v1/config/revisions/99999").await.is_problem(404, "notFound");
    house.call("GET", "/api/v1/config/revisions/x").await.is_problem(404, "notFound");
}

#[tokio::test]
async fn whatever_is_wrong_with_a_document_is_told_with_its_line() {
    let house = House::open().await;
    let text =
        format!("# two things\nconnectors:\n{}filters:\n  f:\n    kind: sender\n    reply: x\n", connector("a", 200));
    let answer = apply(&house, "", &text).await;
    answer.is_problem(422, "invalid");
    let errors = answer.json()["errors"].clone();
    let place = |error: &Value| {
        (error["pointer"].as_str().unwrap().to_owned(), error["line"].as_u64(), error["column"].as_u64())
    };
    let mut places: Vec<_> = errors.as_array().unwrap().iter().map(place).collect();
    places.sort();
    assert_eq!(
        places,
        [
            ("/connectors/a/addressSpaces/0/cost".to_owned(), Some(6), Some(7)),
            ("/filters/f/reply".to_owned(), Some(11), Some(5)),
        ]
    );
    for (query, media, body, status) in [
        ("", YAML, "connectors: {}\nconnectors: {}\n", 400),
        ("", YAML, "connectors: [\n", 400),
        ("", "application/json", "{\"connectors\": {}, \"connectors\": {}}", 400),
        ("", "application/json", "connectors: {}", 400),
        ("", "text/plain", "connectors: {}", 415),
        ("?owner=file", YAML, "settings: {}", 400),
        ("?owner=No", YAML, "settings: {}", 400),
        ("?prun=true", YAML, "settings: {}", 400),
        ("", YAML, "", 422),
    ] {
        let answer = house.write("POST", &format!("{APPLY}{query}"), media, &[], body.as_bytes()).await;
        assert_eq!(answer.status, status, "{query} {body}: {answer:?}");
    }
    let zipped = house.write("POST", APPLY, YAML, &[("Content-Encoding", "gzip")], b"\x1f\x8b").await;
    zipped.is_problem(415, "unsupportedMediaType");
    let large = house.write("POST", APPLY, YAML, &[], "#".repeat((32 << 20) + 1).as_bytes()).await;
    large.is_problem(413, "tooLarge");
}

/// The schema is checked in; `BRIDGEHEAD_BLESS=1 cargo test config_schema` writes it anew.
#[test]
fn the_checked_in_config_schema_is_the_one_that_is_made() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/config.schema.json");
    let made = bridgehead::config::document_schema::text();
    if std::env::var_os("BRIDGEHEAD_BLESS").is_some() {
        fs::write(&file, &made).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == made, "bridgehead schema > openapi/config.schema.json");
}

const SERVER: &str = "virtualServers:\n  front:\n    bindings: [{address: 127.0.0.1, port: 0}]\n";

#[test]
fn a_watched_directory_is_the_configuration() {
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| fs::write(files.path().join(name), text).unwrap();
    file("broken.yaml", "virtualServers:\n  front:\n    bindings: [{address: 127.0.0.1, prt: 0}]\n");
    let appliance = Appliance::start_watching(files.path());
    // until there is a first good set: REST, no SMTP, not ready, and all of them say why
    let ready = appliance.rest("GET", "/readyz", None);
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.body.contains("broken.yaml:3:"), "{ready:?}");
    assert_eq!(appliance.get("/api/v1/virtual-servers")["items"], json!([]));
    let condition = |appliance: &Appliance| appliance.get("/api/v1/settings")["status"]["conditions"][0].clone();
    assert_eq!(condition(&appliance)["status"], "false", "{}", condition(&appliance));
    assert_eq!(condition(&appliance)["type"], "ConfigAccepted");
    let metric = |appliance: &Appliance| {
        let all = appliance.rest("GET", "/metrics", None).body;
        all.lines().find(|line| line.starts_with("bridgehead_config_accepted ")).map(str::to_owned).unwrap_or_default()
    };
    assert_eq!(metric(&appliance), "bridgehead_config_accepted 0");

    fs::remove_file(files.path().join("broken.yaml")).unwrap();
    file("servers.yaml", SERVER);
    file(
        "connectors.json",
        "{\"connectors\": {\"out\": {\"addressSpaces\": [{\"pattern\": \"*\"}], \"route\": {\"dns\": {}}}}}",
    );
    file(".hidden.yaml", "nonsense: [");
    fs::create_dir(files.path().join("below.yaml")).unwrap();
    Smtp::open(appliance.smtp_of("front"));
    assert_eq!(appliance.rest("GET", "/readyz", None).status, 200);
    assert_eq!(metric(&appliance), "bridgehead_config_accepted 1");
    assert_eq!(appliance.get("/api/v1/connectors/out")["owner"], "file");
    for (method, path, body) in [
        ("PATCH", "/api/v1/connectors/out?takeOver=true", Some(json!({"spec": {"enabled": false}}))),
        ("DELETE", "/api/v1/connectors/out?takeOver=true", None),
    ] {
        let answer = appliance.rest(method, path, body.as_ref());
        assert_eq!((answer.status, &answer.json()["errors"][0]["code"]), (409, &json!("ownedByFile")), "{answer:?}");
    }

    // what is broken changes nothing, what is left out goes, what is empty is an error
    file("servers.yaml", "virtualServers: [");
    eventually("the broken file is told", || (condition(&appliance)["status"] == "false").then_some(()));
    assert_eq!(appliance.rest("GET", "/readyz", None).status, 200, "the last good set is in force");
    Smtp::open(appliance.smtp_of("front"));
    fs::remove_file(files.path().join("servers.yaml")).unwrap();
    fs::remove_file(files.path().join("connectors.json")).unwrap();
    eventually("the empty directory is told", || {
        condition(&appliance)["message"].as_str().unwrap().contains("never applied").then_some(())
    });
    assert_eq!(appliance.rest("GET", "/api/v1/connectors/out", None).status, 200);
    file("servers.yaml", SERVER);
    eventually("the connector is gone", || {
        (appliance.rest("GET", "/api/v1/connectors/out", None).status == 404).then_some(())
    });
    assert_eq!(condition(&appliance)["status"], "true");
}

/// An appliance that ran without files gets some.
#[test]
fn files_replace_what_the_first_start_made() {
    // an address that no other test listens at
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let address = format!("127.77.{high}.{low}");
    let mut appliance = Appliance::start_with(&[("BRIDGEHEAD_SMTP_LISTEN", &format!("{address}:2599"))]);
    let names = |appliance: &Appliance, collection: &str| -> Vec<String> {
        let items = appliance.get(&format!("/api/v1/{collection}"))["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    appliance.stop();
    let files = tempfile::tempdir().unwrap();
    let file = |text: &str| fs::write(files.path().join("all.yaml"), text).unwrap();
    let server = |name: &str, address: &str, more: &str| {
        format!("virtualServers:\n  {name}: {{bindings: [{{address: {address}, port: 2599}}]{more}}}\n")
    };
    let connectors = |text: &str| format!("connectors:\n{text}");
    let all = |name: &str, more: &str| {
        format!("  {name}: {{addressSpaces: [{{pattern: '*'}}], route: {{smartHosts: [{{host: 192.0.2.1}}]}}{more}}}\n")
    };
    // what does not serve all that they do leaves them alone
    let some = [
        all("night", ", schedule: {windows: [{from: '22:00', to: '23:00'}]}"),
        all("small", ", restrictions: {maxSize: 1MiB}"),
        all("off", ", enabled: false"),
        "  spare: {addressSpaces: [{pattern: '*', cost: 9}], route: {dns: {}}}\n".to_owned(),
        "  partner: {addressSpaces: [{pattern: partner.example}], route: {dns: {}}}\n".to_owned(),
    ];
    let boxes = |default: bool| format!("mailboxStores:\n  boxes: {{type: maildir, default: {default}}}\n");
    file(&(server("other", "127.0.0.1", "") + &connectors(&some.concat()) + &boxes(false)));
    appliance.watch(files.path());
    appliance.start_again();
    Smtp::open(appliance.smtp_of("other"));
    assert_eq!(names(&appliance, "connectors"), ["default", "night", "off", "partner", "small", "spare"]);
    assert_eq!(names(&appliance, "virtual-servers"), ["default", "other"]);
    assert_eq!(names(&appliance, "mailbox-stores"), ["boxes", "default"]);

    // what an operator has changed is his, and what something of his names stays too
    let labels = json!({"labels": {"of": "ada"}});
    assert_eq!(appliance.rest("PATCH", "/api/v1/connectors/default", Some(&labels)).status, 200);
    appliance.put(
        "connectors/mine",
        json!({"addressSpaces": [{"pattern": "mine.example"}], "route": {"dns": {}}, "bridgeheads": ["default"]}),
    );
    let taken = server("internal", &address, "") + &connectors(&all("every", "")) + &boxes(true);
    file(&taken);
    let condition = |appliance: &Appliance| appliance.get("/api/v1/settings")["status"]["conditions"][0].clone();
    eventually("it is told that the port is taken", || {
        condition(&appliance)["message"].as_str().unwrap().contains("listens on 127.77").then_some(())
    });
    assert_eq!(names(&appliance, "virtual-servers"), ["default", "other"]);
    assert_eq!(appliance.rest("DELETE", "/api/v1/connectors/mine", None).status, 204);

    // the rest goes
    file(&format!("{taken}# again\n"));
    eventually("the new server listens", || (names(&appliance, "virtual-servers") == ["internal"]).then_some(()));
    assert_eq!(names(&appliance, "connectors"), ["default", "every"]);
    assert_eq!(names(&appliance, "mailbox-stores"), ["boxes"]);
    let settings = appliance.get("/api/v1/settings");
    assert_eq!((&settings["owner"], &settings["spec"]["defaultVirtualServer"]), (&json!("system"), &json!(null)));
    assert_eq!(appliance.smtp_of("internal").to_string(), format!("{address}:2599"));
    Smtp::open(appliance.smtp_of("internal"));
}

/// The connector of the first start goes where another carries all mail; a store that somebody names does not.
#[test]
fn a_connector_for_everything_replaces_the_one_of_the_first_start() {
    let files = tempfile::tempdir().unwrap();
    let mut appliance = Appliance::start();
    appliance.stop();
    let text = "connectors:\n  every: {addressSpaces: [{pattern: '*'}], route: {dns: {}}}\n";
    let file = |text: &str| fs::write(files.path().join("all.yaml"), text).unwrap();
    file(text);
    appliance.watch(files.path());
    appliance.start_again();
    eventually("the connector is there", || {
        (appliance.rest("GET", "/api/v1/connectors/every", None).status == 200).then_some(())
    });
    assert_eq!(appliance.rest("GET", "/api/v1/connectors/default", None).status, 404);
    assert_eq!(appliance.rest("GET", "/api/v1/virtual-servers/default", None).status, 200);

    // a store that a recipient names stays, and what is wrong is told of the files
    appliance.put("recipients/ada", json!({"mailboxStore": "default"}));
    file(&format!("{text}mailboxStores:\n  boxes: {{type: maildir, default: true}}\n"));
    eventually("it is told that there is a default store", || {
        let settings = appliance.get("/api/v1/settings");
        let told = settings["status"]["conditions"][0]["message"].as_str().unwrap().to_owned();
        told.contains("is the default already").then_some(())
    });
    assert_eq!(appliance.rest("GET", "/api/v1/mailbox-stores/default", None).status, 200);
}

/// As Kubernetes mounts a ConfigMap: links through `..data`, which is swapped.
#[test]
fn a_config_map_is_swapped_as_a_whole() {
    let files = tempfile::tempdir().unwrap();
    let set = |version: &str, text: &str| {
        let directory = files.path().join(format!("..{version}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("all.yaml"), text).unwrap();
        let fresh = files.path().join("..data_tmp");
        symlink(format!("..{version}"), &fresh).unwrap();
        fs::rename(&fresh, files.path().join("..data")).unwrap();
    };
    set("one", &format!("{SERVER}connectors:\n{}", connector("a", 1)));
    symlink("..data/all.yaml", files.path().join("all.yaml")).unwrap();
    let mut appliance = Appliance::start_watching(files.path());
    assert_eq!(appliance.get("/api/v1/connectors/a")["spec"]["addressSpaces"][0]["cost"], 1);
    set("two", &format!("{SERVER}connectors:\n{}", connector("a", 2)));
    eventually("the new set is in force", || {
        (appliance.get("/api/v1/connectors/a")["spec"]["addressSpaces"][0]["cost"] == 2).then_some(())
    });
    // a start with a broken directory goes on with the last good set
    appliance.stop();
    set("three", "connectors: [");
    appliance.start_again();
    Smtp::open(appliance.smtp_of("front"));
    assert_eq!(appliance.get("/api/v1/connectors/a")["spec"]["addressSpaces"][0]["cost"], 2);
    assert_eq!(appliance.get("/api/v1/settings")["status"]["conditions"][0]["status"], "false");
}

#[test]
fn check_needs_no_appliance() {
    let files = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bridgehead"));
        command.env_remove("BRIDGEHEAD_SECRETS_DIR").arg("check").args(arguments).current_dir(files.path());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let write = |name: &str, text: &str| fs::write(files.path().join(name), text).unwrap();
    fs::create_dir(files.path().join("set")).unwrap();
    write("set/a.yaml", SERVER);
    write("set/b.yaml", "accounts:\n  ada:\n    password: {env: BRIDGEHEAD_SECRET_NOWHERE}\n");
    let (code, out, err) = check(&["set"]);
    assert_eq!((code, out.as_str()), (0, "2 objects are good\n"), "{err}");
    assert!(err.contains("set/b.yaml:3:16: /accounts/ada/password/env: "), "{err}");
    fs::create_dir(files.path().join("more")).unwrap();
    write("more/b.yaml", "accounts:\n  bob:\n    password: {env: BRIDGEHEAD_SECRET_NOWHERE}\n");
    assert_eq!(check(&["set", "more"]).1, "3 objects are good\n");
    let (code, out, _) = check(&["--one-directory", "set", "more"]);
    assert_eq!(code, 1);
    assert!(out.starts_with("more/b.yaml: set/b.yaml has the same name"), "{out}");
    // of several that are one, some may be empty
    fs::create_dir(files.path().join("none")).unwrap();
    assert_eq!(check(&["--one-directory", "set", "none"]).1, "2 objects are good\n");
    assert_eq!((check(&["set", "none"]).0, check(&["--one-directory", "none"]).0), (1, 1));
    let (code, out, _) = check(&["--strict", "set"]);
    assert_eq!(code, 1);
    assert!(out.starts_with("set/b.yaml:3:"), "{out}");
    write(
        "wrong.yaml",
        "connectors:\n  a:\n    route: {dns: {}}\n    addressSpaces: [{pattern: '*'}]\n    bridgeheads: [nowhere]\n",
    );
    let (code, out, _) = check(&["set", "wrong.yaml"]);
    assert_eq!(code, 1);
    assert!(out.starts_with("wrong.yaml:5:19: /connectors/a/bridgeheads/0: "), "{out}");
    write("broken.yaml", "connectors: [\n");
    let (code, out, _) = check(&["broken.yaml"]);
    assert_eq!(code, 1);
    assert!(out.starts_with("broken.yaml:"), "{out}");
    assert_eq!(check(&["nothing-there"]).0, 1);
    let schema = Command::new(env!("CARGO_BIN_EXE_bridgehead")).arg("schema").output().unwrap();
    assert_eq!(String::from_utf8(schema.stdout).unwrap(), bridgehead::config::document_schema::text());
}
