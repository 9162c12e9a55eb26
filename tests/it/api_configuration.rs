//! Configuration over REST: entity tags, dry runs, merge patches, violations, listings, what refers to what.

use serde_json::{Value, json};

use super::api_house::{Answer, House, KEY};

fn partner() -> Value {
    json!({"spec": {"addressSpaces": [{"pattern": "*.example.org", "cost": 10}], "route": {"smartHosts": [{"host": "smtp.example.org"}]}}})
}

#[tokio::test]
async fn an_object_is_created_read_replaced_changed_and_deleted() {
    let house = House::open().await;
    let path = "/api/v1/connectors/partner";
    house.call("GET", path).await.is_problem(404, "notFound");

    let created = house.put(path, &partner()).await;
    assert_eq!((created.status, created.header("bridgehead-change")), (201, "created"), "{created:?}");
    assert_eq!(created.header("location"), path);
    let tag = created.header("etag").to_owned();
    assert_eq!(tag, format!("\"{}\"", created.json()["generation"]));

    let read = house.call("GET", path).await;
    assert_eq!((read.status, read.header("etag")), (200, tag.as_str()));
    let object = read.json();
    assert_eq!(object["name"], "partner");
    assert_eq!(object["owner"], "api");
    assert_eq!(object["labels"], json!({}));
    assert_eq!(object["spec"]["enabled"], true, "defaults are shown: {object}");
    assert_eq!(object["spec"]["route"]["smartHosts"][0]["port"], 25);
    assert_eq!(object["status"], json!({"state": "active", "conditions": []}));

    let same = house.put(path, &partner()).await;
    assert_eq!((same.status, same.header("bridgehead-change"), same.header("etag")), (200, "unchanged", tag.as_str()));

    let patched = house.patch(path, &json!({"labels": {"team": "mail"}, "spec": {"enabled": false}})).await;
    assert_eq!((patched.status, patched.header("bridgehead-change")), (200, "updated"), "{patched:?}");
    assert_ne!(patched.header("etag"), tag);
    let object = patched.json();
    assert_eq!((&object["labels"]["team"], &object["spec"]["enabled"]), (&json!("mail"), &json!(false)));
    assert_eq!(object["spec"]["addressSpaces"][0]["cost"], 10, "what is absent stays");
    assert_eq!(object["status"]["state"], "disabled");

    let patched = house
        .patch(
            path,
            &json!({"labels": {"team": null}, "spec": {"enabled": null, "addressSpaces": [{"pattern": "a.example"}]}}),
        )
        .await;
    let object = patched.json();
    assert_eq!((&object["labels"], &object["spec"]["enabled"]), (&json!({}), &json!(true)), "null resets");
    assert_eq!(
        object["spec"]["addressSpaces"],
        json!([{"pattern": "a.example", "cost": 1}]),
        "lists are replaced whole"
    );

    let gone = house.call("DELETE", path).await;
    assert_eq!((gone.status, gone.body.as_str()), (204, ""));
    house.call("GET", path).await.is_problem(404, "notFound");
    house.call("DELETE", path).await.is_problem(404, "notFound");
    house.patch(path, &json!({})).await.is_problem(404, "notFound");
}

#[tokio::test]
async fn what_is_read_can_be_written_back() {
    let house = House::open().await;
    for path in [
        "/api/v1/virtual-servers/default",
        "/api/v1/recipient-policies/default",
        "/api/v1/mailbox-stores/default",
        "/api/v1/connectors/default",
        "/api/v1/settings",
    ] {
        let object = house.call("GET", path).await.json();
        let answer = house.put(path, &json!({"labels": object["labels"], "spec": object["spec"]})).await;
        assert_eq!((answer.status, answer.header("bridgehead-change")), (200, "unchanged"), "{path}: {answer:?}");
        let answer = house.put(path, &object).await;
        answer.is_problem(422, "invalid");
        assert!(answer.errors().contains(&("/generation".to_owned(), "readOnlyField".to_owned())), "{answer:?}");
    }
}

#[tokio::test]
async fn the_examples_of_the_document_are_valid() {
    let house = House::open().await;
    let document = serde_json::to_value(bridgehead::api::openapi()).unwrap();
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, media) in [("put", "application/json"), ("patch", "application/merge-patch+json")] {
            let Some(operation) = item.get(method) else { continue };
            let example = &operation["requestBody"]["content"][media]["example"];
            let name = operation["parameters"][0]["example"].as_str().unwrap_or_default();
            let path = path.replace("{name}", name);
            let answer = house.write(&method.to_uppercase(), &path, media, &[], example.to_string().as_bytes()).await;
            assert!(answer.status < 300, "{method} {path}: {answer:?}");
            tried += 1;
        }
    }
    assert_eq!(tried, 26);
}

#[tokio::test]
async fn preconditions_guard_against_writing_over_somebody_else() {
    let house = House::open().await;
    let path = "/api/v1/connectors/partner";
    let with = async |method: &str, header: (&str, &str)| -> Answer {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        house.write(method, path, media, &[header], partner().to_string().as_bytes()).await
    };
    with("PUT", ("If-Match", "*")).await.is_problem(412, "preconditionFailed");
    assert_eq!(with("PUT", ("If-None-Match", "*")).await.status, 201);
    let refused = with("PUT", ("If-None-Match", "*")).await;
    refused.is_problem(412, "preconditionFailed");
    let tag = house.call("GET", path).await.header("etag").to_owned();
    assert_eq!(refused.header("etag"), tag, "the refusal says what is there");

    let stale = "\"999999\"";
    for method in ["PUT", "PATCH", "DELETE"] {
        with(method, ("If-Match", stale)).await.is_problem(412, "preconditionFailed");
        with(method, ("If-Match", "\"abc\"")).await.is_problem(412, "preconditionFailed");
        with(method, ("If-Match", "7")).await.is_problem(400, "badParameter");
        with(method, ("If-None-Match", "\"7\"")).await.is_problem(400, "badParameter");
    }
    for good in [tag.clone(), "*".into(), format!("{stale}, {tag}"), format!("W/{tag}")] {
        assert_eq!(with("PUT", ("If-Match", &good)).await.status, 200, "{good}");
    }
    let key = format!("Bearer {KEY}");
    for (value, status) in [(tag.as_str(), 304), ("*", 304), (stale, 200), ("\"x\"", 200)] {
        let answer = house.send("GET", path, &[("Authorization", &key), ("If-None-Match", value)], b"").await;
        assert_eq!((answer.status, answer.header("etag")), (status, tag.as_str()), "{value}");
        assert_eq!(answer.body.is_empty(), status == 304);
    }
    assert_eq!(with("DELETE", ("If-Match", &tag)).await.status, 204);
}

#[tokio::test]
async fn a_dry_run_checks_everything_and_changes_nothing() {
    let house = House::open().await;
    let path = "/api/v1/connectors/partner";
    let dry = format!("{path}?dryRun=true");
    let answer = house.put(&dry, &partner()).await;
    assert_eq!((answer.status, answer.header("bridgehead-change")), (201, "created"), "{answer:?}");
    assert_eq!(answer.json()["spec"]["enabled"], true);
    house.call("GET", path).await.is_problem(404, "notFound");
    house.put(&dry, &json!({"spec": {}})).await.is_problem(422, "invalid");

    house.put(path, &partner()).await;
    let before = house.call("GET", path).await;
    assert_eq!(house.patch(&dry, &json!({"spec": {"enabled": false}})).await.json()["spec"]["enabled"], false);
    let answer = house.call("DELETE", &dry).await;
    assert_eq!((answer.status, answer.header("bridgehead-change")), (200, "deleted"), "{answer:?}");
    assert_eq!(answer.json()["name"], "partner");
    let after = house.call("GET", path).await;
    assert_eq!((before.body, before.headers["etag"].clone()), (after.body, after.headers["etag"].clone()));
    assert_eq!(house.put(&format!("{path}?dryRun=false"), &partner()).await.status, 200);
}

#[tokio::test]
async fn all_violations_are_reported_at_once_with_their_places() {
    let house = House::open().await;
    let body = json!({
        "labels": {"team!": "x"},
        "colour": "red",
        "spec": {
            "enabled": "yes",
            "addressSpaces": [{"pattern": "*.*", "cost": 0}, {"pattern": "a.example", "weight": 1}],
            "route": {"smartHosts": [{"port": 99999}]},
            "rout": {}
        }
    });
    let answer = house.put("/api/v1/connectors/bad", &body).await;
    let problem = answer.is_problem(422, "invalid");
    let errors = answer.errors();
    for (pointer, code) in [
        ("/colour", "unknownField"),
        ("/spec/enabled", "wrongType"),
        ("/spec/addressSpaces/0/pattern", "invalidValue"),
        ("/spec/addressSpaces/0/cost", "outOfRange"),
        ("/spec/addressSpaces/1/weight", "unknownField"),
        ("/spec/route/smartHosts/0/host", "required"),
        ("/spec/route/smartHosts/0/port", "outOfRange"),
        ("/spec/rout", "unknownField"),
    ] {
        assert!(errors.contains(&(pointer.to_owned(), code.to_owned())), "{pointer} {code} is missing in {problem:#}");
    }
    assert!(
        errors.iter().any(|(pointer, code)| pointer.starts_with("/labels") && code == "invalidLabel"),
        "{problem:#}"
    );
    house.call("GET", "/api/v1/connectors/bad").await.is_problem(404, "notFound");

    let document = serde_json::to_value(bridgehead::api::openapi()).unwrap();
    let codes = document["components"]["schemas"]["ErrorCode"]["enum"].as_array().unwrap();
    for (_, code) in errors {
        assert!(codes.contains(&json!(code)), "{code} is not in the list");
    }
    for name in ["Upper", "-x", "a%20b", &"x".repeat(64)] {
        let answer = house.put(&format!("/api/v1/connectors/{name}"), &partner()).await;
        answer.is_problem(422, "invalid");
        assert!(answer.errors().iter().any(|(_, code)| code == "invalidName"), "{answer:?}");
    }
}

#[tokio::test]
async fn what_others_need_cannot_be_deleted_and_the_refusal_names_them() {
    let house = House::open().await;
    house.put("/api/v1/mailbox-stores/archive", &json!({"spec": {"type": "maildir"}})).await;
    let ada = json!({"spec": {"givenName": "Ada", "mailboxStore": "archive"}});
    assert_eq!(house.put("/api/v1/recipients/ada", &ada).await.status, 201);
    for path in ["/api/v1/mailbox-stores/archive", "/api/v1/mailbox-stores/archive?dryRun=true"] {
        let problem = house.call("DELETE", path).await.is_problem(409, "conflict");
        assert_eq!(problem["errors"][0]["object"], "recipients/ada", "{problem}");
        assert_eq!(problem["errors"][0]["pointer"], "/spec/mailboxStore");
        assert_eq!(problem["errors"][0]["code"], "referenced");
    }
    house.call("DELETE", "/api/v1/recipient-policies/default").await.is_problem(409, "conflict");
    assert_eq!(house.call("DELETE", "/api/v1/recipients/ada").await.status, 204);
    assert_eq!(house.call("DELETE", "/api/v1/mailbox-stores/archive").await.status, 204);
}

#[tokio::test]
async fn listings_come_in_pages_and_a_cursor_holds_for_its_filter() {
    let house = House::open().await;
    for n in 0..5 {
        let label = if n % 2 == 0 { "even" } else { "odd" };
        let body = json!({"labels": {"is": label}, "spec": {"type": "maildir"}});
        assert_eq!(house.put(&format!("/api/v1/mailbox-stores/s{n}"), &body).await.status, 201);
    }
    let path = "/api/v1/mailbox-stores?limit=2";
    let (mut names, mut next) = (Vec::new(), String::new());
    loop {
        let page = house.call("GET", &format!("{path}{next}")).await.json();
        let items = page["items"].as_array().unwrap();
        assert!((1..=2).contains(&items.len()), "{page}");
        names.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        match page["nextCursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(names, ["default", "s0", "s1", "s2", "s3", "s4"]);
    let even = "/api/v1/mailbox-stores?limit=2&labelSelector=is%3Deven";
    let page = house.call("GET", even).await.json();
    let cursor = page["nextCursor"].as_str().unwrap();
    assert_eq!(house.call("GET", &format!("{even}&cursor={cursor}")).await.json()["items"][0]["name"], "s4");
    for other in [
        format!("/api/v1/mailbox-stores?limit=2&cursor={cursor}"),
        format!("/api/v1/mailbox-stores?labelSelector=is%3Dodd&cursor={cursor}"),
        format!("{even}&cursor={}", &cursor[2..]),
        format!("{even}&cursor={}00", cursor),
    ] {
        let answer = house.call("GET", &other).await;
        answer.is_problem(400, "badParameter");
        assert_eq!(answer.errors().first().unwrap().1, "invalidCursor");
    }
}

#[tokio::test]
async fn recipients_show_their_addresses_and_are_found_by_them() {
    let house = House::open().await;
    let policy = json!({"spec": {"addresses": [{"template": "%g.%s@example.com", "primary": true}, {"template": "%m@example.com"}]}});
    assert_eq!(house.put("/api/v1/recipient-policies/default", &policy).await.status, 200);
    let ada = json!({"spec": {"givenName": "Ada", "surname": "Lovelace"}});
    let answer = house.put("/api/v1/recipients/ada", &ada).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let addresses = answer.json()["status"]["addresses"].clone();
    assert!(
        addresses
            .as_array()
            .unwrap()
            .iter()
            .any(|a| a["primary"] == true
                && a["address"].as_str().unwrap().eq_ignore_ascii_case("ada.lovelace@example.com")),
        "{addresses}"
    );
    for (query, found) in [
        ("address=ADA%40example.com", 1),
        ("address=ada.lovelace@example.com", 1),
        ("address=nobody@example.com", 0),
        ("address=ada@example.com&labelSelector=team", 0),
    ] {
        let page = house.call("GET", &format!("/api/v1/recipients?{query}")).await.json();
        assert_eq!(page["items"].as_array().unwrap().len(), found, "{query}: {page}");
    }
}

#[tokio::test]
async fn domains_follow_from_policies() {
    let house = House::open().await;
    let policy = json!({"spec": {"priority": 1, "addresses": [{"template": "%m@sales.example.com", "primary": true, "authoritative": false}]}});
    assert_eq!(house.put("/api/v1/recipient-policies/sales", &policy).await.status, 201);
    let domain = house.call("GET", "/api/v1/domains/Sales.example.COM").await.json();
    assert_eq!(domain["type"], "shared");
    assert_eq!(domain["definedBy"], json!(["recipient-policies/sales"]));
    let page = house.call("GET", "/api/v1/domains?limit=1").await.json();
    let next = house
        .call("GET", &format!("/api/v1/domains?limit=1&cursor={}", page["nextCursor"].as_str().unwrap()))
        .await
        .json();
    assert_eq!((page["items"].as_array().unwrap().len(), next["items"].as_array().unwrap().len()), (1, 1));
    assert!(next["nextCursor"].is_null() && page["items"] != next["items"], "{page} {next}");
    house.call("GET", "/api/v1/domains/example.net").await.is_problem(404, "notFound");
}

#[tokio::test]
async fn virtual_servers_say_where_they_listen_and_when_they_are_open_relays() {
    let house = House::open().await;
    let status = house.call("GET", "/api/v1/virtual-servers/default").await.json()["status"].clone();
    assert_eq!(status["state"], "running");
    assert_eq!(status["listeners"], json!([{"address": "127.0.0.1", "port": 40025}]));
    assert_eq!(status["conditions"][0]["type"], "Listening");
    assert_eq!(status["conditions"][0]["status"], "true");
    assert_eq!(status["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00.000Z");

    let open = json!({"spec": {"bindings": [], "relay": {"allow": ["0.0.0.0/0"], "acknowledgeOpenRelay": true}}});
    let answer = house.put("/api/v1/virtual-servers/open", &open).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let object = answer.json();
    assert_eq!(object["status"]["state"], "starting");
    assert_eq!(object["status"]["conditions"][0]["type"], "OpenRelay");
    assert_eq!(object["warnings"][0]["code"], "openRelay", "{object}");
    assert!(house.call("GET", "/api/v1/virtual-servers/open").await.json().get("warnings").is_none());
    let off = house.patch("/api/v1/virtual-servers/open", &json!({"spec": {"enabled": false}})).await.json();
    assert_eq!(off["status"], json!({"state": "stopped", "listeners": [], "conditions": []}));
}

#[tokio::test]
async fn settings_are_one_object() {
    let house = House::open().await;
    let before = house.call("GET", "/api/v1/settings").await;
    let patched = house
        .patch(
            "/api/v1/settings",
            &json!({"spec": {"organization": "Example Ltd", "retention": {"deadLetter": "30d"}}}),
        )
        .await;
    assert_eq!(patched.json()["spec"]["organization"], "Example Ltd", "{patched:?}");
    assert_eq!(patched.json()["spec"]["retention"]["deadLetter"], "30d");
    assert_ne!(patched.header("etag"), before.header("etag"));
    let answer = house
        .patch("/api/v1/settings", &json!({"spec": {"retention": {"deadLetter": 5}, "postmaster": "nobody"}}))
        .await;
    answer.is_problem(422, "invalid");
    assert_eq!(answer.errors().len(), 2, "{answer:?}");
    let replaced = house.put("/api/v1/settings", &json!({"spec": {}})).await;
    assert_eq!(replaced.json()["spec"].get("organization"), None);
    house.call("GET", "/api/v1/settings/settings").await.is_problem(404, "notFound");
}
