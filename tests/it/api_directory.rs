//! Recipient policies over REST: what a change does to recipients, previews, imports, filters, domains.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::api_house::{Answer, House};

const DEFAULT: &str = "/api/v1/recipient-policies/default";

fn policy(template: &str) -> Value {
    json!({"spec": {"addresses": [{"template": template, "primary": true}]}})
}

async fn post(house: &House, path: &str, body: &Value) -> Answer {
    house.write("POST", path, "application/json", &[], body.to_string().as_bytes()).await
}

async fn import(house: &House, query: &str, lines: &[Value]) -> Answer {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    house
        .write("POST", &format!("/api/v1/recipients/import{query}"), "application/x-ndjson", &[], text.as_bytes())
        .await
}

async fn addresses(house: &House, name: &str) -> Vec<String> {
    let object = house.call("GET", &format!("/api/v1/recipients/{name}")).await.json();
    let text = |a: &Value| format!("{}{}", a["address"].as_str().unwrap(), if a["primary"] == true { "!" } else { "" });
    object["status"]["addresses"].as_array().unwrap().iter().map(text).collect()
}

fn person(n: usize) -> Value {
    json!({"name": format!("p{n:04}"), "spec": {"givenName": "John", "surname": format!("Smith{}", n % 3)}})
}

#[tokio::test]
async fn a_dry_run_lists_who_would_get_other_addresses_and_the_write_counts_them() {
    let house = House::open().await;
    house.put(DEFAULT, &policy("@example.com")).await;
    let created = house.put("/api/v1/recipients/ada", &json!({"spec": {"surname": "Lovelace"}})).await.json();
    assert_eq!(created["effects"]["recipients"], json!({"changed": 1, "newPrimary": 1}), "{created}");
    let lines: Vec<Value> = (0..120).map(person).collect();
    assert_eq!(import(&house, "", &lines).await.json()["created"], 120);

    let wanted = policy("%s@example.com");
    let dry = house.put(&format!("{DEFAULT}?dryRun=true"), &wanted).await;
    let effects = dry.json()["effects"]["recipients"].clone();
    assert_eq!((&effects["changed"], &effects["newPrimary"]), (&json!(121), &json!(121)), "{dry:?}");
    assert_eq!(effects["items"].as_array().unwrap().len(), 100);
    assert_eq!(
        effects["items"][0],
        json!({
            "name": "ada",
            "before": [{"address": "ada@example.com", "primary": true}],
            "after": [{"address": "Lovelace@example.com", "primary": true}, {"address": "ada@example.com", "primary": false}]
        })
    );
    assert_eq!(addresses(&house, "ada").await, ["ada@example.com!"], "a dry run changes nothing");

    let written = house.put(DEFAULT, &wanted).await.json();
    assert_eq!(written["effects"]["recipients"], json!({"changed": 121, "newPrimary": 121}));
    assert_eq!(addresses(&house, "ada").await, ["Lovelace@example.com!", "ada@example.com"]);
    assert_eq!(addresses(&house, "p0003").await, ["Smith02@example.com!", "p0003@example.com"]);
    assert!(house.call("GET", DEFAULT).await.json().get("effects").is_none());

    // a domain more makes no difference to anybody, and nothing is told of it
    let more = json!({"spec": {"priority": 1, "filter": {"any": []}, "addresses": [{"template": "@example.net", "primary": true}]}});
    let answer = house.put("/api/v1/recipient-policies/parked", &more).await;
    assert_eq!((answer.status, answer.json().get("effects")), (201, None));
    // and back again: everybody has both names already
    let back = house.put(&format!("{DEFAULT}?dryRun=true"), &policy("@example.com")).await.json();
    assert_eq!(back["effects"]["recipients"]["newPrimary"], 121);
    let gone = house.call("DELETE", "/api/v1/recipients/ada?dryRun=true").await.json();
    assert_eq!(gone["effects"]["recipients"]["items"][0]["after"], json!([]));
}

#[tokio::test]
async fn a_policy_that_goes_leaves_its_recipients_to_the_next_one() {
    let house = House::open().await;
    house.put(DEFAULT, &policy("@example.com")).await;
    let sales = json!({"spec": {
        "priority": 1,
        "filter": {"all": [
            {"attribute": "type", "operator": "in", "values": ["mailbox"]},
            {"attribute": "attributes.department", "operator": "glob", "values": ["sales*"]},
            {"not": {"attribute": "attributes.room", "operator": "exists"}}
        ]},
        "addresses": [{"template": "%g@sales.example.com", "primary": true}, {"template": "%m@example.com"}]
    }});
    assert_eq!(house.put("/api/v1/recipient-policies/sales", &sales).await.status, 201);
    let ada = |extra: Value| json!({"spec": {"givenName": "Ada", "attributes": extra}});
    house.put("/api/v1/recipients/ada", &ada(json!({"department": "Sales North"}))).await;
    assert_eq!(addresses(&house, "ada").await, ["Ada@sales.example.com!", "ada@example.com"]);
    house.put("/api/v1/recipients/ada", &ada(json!({"department": "Sales North", "room": "7"}))).await;
    assert_eq!(addresses(&house, "ada").await, ["ada@example.com!", "Ada@sales.example.com"]);
    house.put("/api/v1/recipients/ada", &ada(json!({"department": "Sales North"}))).await;
    // the domain goes with the policy, and so do the addresses in it
    let gone = house.call("DELETE", "/api/v1/recipient-policies/sales?dryRun=true").await.json();
    assert_eq!(gone["effects"]["recipients"]["newPrimary"], 1, "{gone}");
    assert_eq!(house.call("DELETE", "/api/v1/recipient-policies/sales").await.status, 204);
    assert_eq!(addresses(&house, "ada").await, ["ada@example.com!"]);
    house.call("GET", "/api/v1/domains/sales.example.com").await.is_problem(404, "notFound");
    // whoever gives itself an address there keeps the policy
    house.put("/api/v1/recipient-policies/sales", &sales).await;
    house.put("/api/v1/recipients/eve", &json!({"spec": {"addresses": ["eve@sales.example.com"]}})).await;
    let refused = house.call("DELETE", "/api/v1/recipient-policies/sales").await.is_problem(409, "conflict");
    assert_eq!(refused["errors"][0]["object"], "recipients/eve");
}

#[tokio::test]
async fn bad_templates_and_filters_are_refused_with_their_places() {
    let house = House::open().await;
    let body = json!({"spec": {
        "priority": 1,
        "filter": {"any": [
            {"attribute": "shoeSize", "operator": "exists"},
            {"attribute": "surname", "operator": "like", "values": ["x"]},
            {"attribute": "attributes.a b", "operator": "exists"}
        ]},
        "addresses": [
            {"template": "%x@example.com", "primary": true}, {"template": "%ra(@example.com"}, {"template": "@[192.0.2.1]"}
        ]
    }});
    let answer = house.put("/api/v1/recipient-policies/bad", &body).await;
    answer.is_problem(422, "invalid");
    for pointer in [
        "/spec/filter/any/0/attribute",
        "/spec/filter/any/1/operator",
        "/spec/filter/any/2/attribute",
        "/spec/addresses/0/template",
        "/spec/addresses/1/template",
        "/spec/addresses/2/template",
    ] {
        assert!(answer.errors().contains(&(pointer.to_owned(), "invalidValue".to_owned())), "{pointer}: {answer:?}");
    }
    let mut filter = json!({"attribute": "alias", "operator": "exists"});
    for _ in 0..10 {
        filter = json!({"not": filter});
    }
    let deep = json!({"spec": {"priority": 1, "filter": filter, "addresses": [{"template": "@example.com", "primary": true}]}});
    let answer = house.put("/api/v1/recipient-policies/deep", &deep).await;
    assert!(answer.errors().contains(&("/spec/filter".to_owned(), "outOfRange".to_owned())), "{answer:?}");
}

#[tokio::test]
async fn a_preview_shows_addresses_and_changes_nothing() {
    let house = House::open().await;
    house.put(DEFAULT, &policy("@example.com")).await;
    house.put("/api/v1/recipients/ada", &json!({"spec": {"givenName": "Ada"}})).await;
    let path = "/api/v1/recipient-policies/preview";
    let staff = json!({"name": "staff", "spec": {
        "priority": 1,
        "filter": {"attribute": "surname", "operator": "exists"},
        "addresses": [{"template": "%g.%s@staff.example.com", "primary": true}]
    }});
    let asked = json!({"policy": staff, "recipients": [
        {"name": "ada"},
        {"name": "ada", "spec": {"givenName": "Ada", "surname": "Lovelace"}},
        {"name": "new", "spec": {"alias": "ada"}},
        {"name": "thief", "spec": {"addresses": ["ada@example.com"]}}
    ]});
    let answer = post(&house, path, &asked).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let items = answer.json()["items"].clone();
    let primary = |n: usize| items[n]["after"][0]["address"].clone();
    assert_eq!((&items[0]["policy"], primary(0)), (&json!("default"), json!("ada@example.com")), "{items}");
    assert_eq!((&items[1]["policy"], primary(1)), (&json!("staff"), json!("Ada.Lovelace@staff.example.com")));
    assert_eq!(items[1]["before"], json!([{"address": "ada@example.com", "primary": true}]));
    assert_eq!(items[1]["after"][1]["address"], "ada@example.com", "it would be kept as a secondary one");
    assert_eq!((primary(2), &items[2]["before"]), (json!("ada2@example.com"), &json!([])));
    assert_eq!(items[3]["errors"][0]["code"], "addressTaken", "{items}");
    house.call("GET", "/api/v1/recipient-policies/staff").await.is_problem(404, "notFound");

    let wrong = json!({"policy": {"name": "Staff", "spec": {"addresses": []}}, "recipients": [
        {"name": "nobody"}, {"name": "x", "spec": {"alias": 7}}
    ]});
    let answer = post(&house, path, &wrong).await;
    answer.is_problem(422, "invalid");
    for pointer in ["/policy/name", "/recipients/0/name", "/recipients/1/spec/alias"] {
        assert!(answer.errors().iter().any(|(at, _)| at == pointer), "{pointer}: {answer:?}");
    }
    let contradiction = json!({"policy": {"name": "x", "spec": {"priority": 1, "addresses": [
        {"template": "@example.com", "primary": true, "authoritative": false}
    ]}}, "recipients": [{"name": "ada"}]});
    let answer = post(&house, path, &contradiction).await;
    assert!(
        answer.errors().iter().any(|(at, code)| at == "/policy/spec/addresses/0/authoritative" && code == "conflict"),
        "{answer:?}"
    );
    for bad in [json!({}), json!({"recipients": []}), json!({"recipients": [{"nam": "x"}]}), json!([])] {
        post(&house, path, &bad).await.is_problem(422, "invalid");
    }
}

#[tokio::test]
async fn an_import_takes_what_is_good_and_tells_what_is_not() {
    let house = House::open().await;
    house.put(DEFAULT, &policy("%g.%s@example.com")).await;
    let lines = [
        json!({"name": "a", "labels": {"team": "x"}, "spec": {"givenName": "A", "surname": "Smith"}}),
        json!({"name": "b", "spec": {"givenName": "A", "surname": "Smith"}}),
        json!({"name": "c", "spec": {"addresses": ["a.smith@example.com", "c@far.example"]}}),
        json!({"name": "Upper", "spec": {}}),
        json!({"name": "d", "spec": {"colour": "red"}, "generation": 3}),
        json!({"spec": {}}),
        json!([1]),
    ];
    for dry in [true, false] {
        let answer = import(&house, if dry { "?dryRun=true" } else { "" }, &lines).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let result = answer.json();
        let counts = ["created", "updated", "unchanged", "failed"].map(|count| result[count].as_u64().unwrap());
        assert_eq!(counts, [2, 0, 0, 5], "{result}");
        let errors = result["errors"].as_array().unwrap();
        let told =
            |n: usize| (errors[n]["line"].as_u64().unwrap(), errors[n]["errors"][0]["pointer"].as_str().unwrap());
        assert_eq!(
            (told(0), told(1), told(3), told(4)),
            ((3, "/spec/addresses/0"), (4, "/name"), (6, "/name"), (7, ""))
        );
        assert_eq!((&errors[0]["name"], errors[0]["errors"].as_array().unwrap().len()), (&json!("c"), 2));
        assert_eq!(errors[2]["errors"].as_array().unwrap().len(), 2, "{}", errors[2]);
        assert_eq!(house.call("GET", "/api/v1/recipients/a").await.status, if dry { 404 } else { 200 });
    }
    assert_eq!(addresses(&house, "b").await, ["A.Smith2@example.com!"]);
    let again = import(&house, "", &lines[..2]).await.json();
    assert_eq!((&again["unchanged"], &again["created"]), (&json!(2), &json!(0)), "{again}");
    let mut other = lines[0].clone();
    other["spec"]["surname"] = json!("Miller");
    assert_eq!(import(&house, "", &[other]).await.json()["updated"], 1);
    assert_eq!(addresses(&house, "a").await, ["A.Miller@example.com!", "A.Smith@example.com"]);

    // by hand: no line end at the end, empty lines, a line that is no JSON, a repeated field
    let text = "\n{\"name\": \"e\", \"spec\": {}}\r\n{\"name\": \n\n{\"name\":\"f\",\"name\":\"g\",\"spec\":{}}\n{\"name\": \"h\", \"spec\": {}}";
    let path = "/api/v1/recipients/import";
    let answer = house.write("POST", path, "application/x-ndjson", &[], text.as_bytes()).await.json();
    assert_eq!((&answer["created"], &answer["failed"]), (&json!(2), &json!(2)), "{answer}");
    assert_eq!((&answer["errors"][0]["line"], &answer["errors"][1]["line"]), (&json!(3), &json!(5)));
    let refused = house.write("POST", path, "application/json", &[], b"{}").await;
    refused.is_problem(415, "unsupportedMediaType");
    let long = vec![b'x'; (4 << 20) + 100];
    house.write("POST", path, "application/x-ndjson", &[], &long).await.is_problem(413, "tooLarge");
    assert_eq!(import(&house, "", &[]).await.json()["created"], 0);
}

#[tokio::test]
async fn an_import_of_many_batches_is_seen_whole_by_its_dry_run() {
    let house = House::open().await;
    house.put(DEFAULT, &policy("%s@example.com")).await;
    let mut lines: Vec<Value> = (0..2_500).map(person).collect();
    // the first and the last want one address for themselves
    lines[0]["spec"]["addresses"] = json!(["only@example.com"]);
    lines[2_499]["spec"]["addresses"] = json!(["only@example.com"]);
    let dry = import(&house, "?dryRun=true", &lines).await.json();
    assert_eq!((&dry["created"], &dry["failed"]), (&json!(2_499), &json!(1)), "{dry}");
    let written = import(&house, "", &lines).await.json();
    assert_eq!(written, dry);
    let found = house.call("GET", "/api/v1/recipients?address=smith1@example.com").await.json();
    assert_eq!(found["items"][0]["name"], "p0001");
    let again = import(&house, "", &lines).await.json();
    assert_eq!((&again["unchanged"], &again["failed"]), (&json!(2_499), &json!(1)));
}

#[tokio::test]
async fn domains_tell_what_they_are_and_why() {
    let house = House::open().await;
    house.put(DEFAULT, &policy("@example.com")).await;
    let shared = json!({"spec": {"priority": 1, "addresses": [
        {"template": "@example.com", "primary": true}, {"template": "@shared.example", "authoritative": false}
    ]}});
    house.put("/api/v1/recipient-policies/staff", &shared).await;
    let relay = json!({"spec": {
        "addressSpaces": [{"pattern": "*.partner.example"}, {"pattern": "shared.example"}],
        "route": {"smartHosts": [{"host": "mx.partner.example"}]}, "allowRelay": true
    }});
    assert_eq!(house.put("/api/v1/connectors/partner", &relay).await.status, 201);
    let all = house.call("GET", "/api/v1/domains").await.json()["items"].clone();
    assert_eq!(
        all,
        json!([
            {"name": "*.partner.example", "type": "relay", "default": false, "definedBy": ["connectors/partner"]},
            {"name": "example.com", "type": "authoritative", "default": true,
             "definedBy": ["recipient-policies/default", "recipient-policies/staff"]},
            {"name": "shared.example", "type": "shared", "default": false, "definedBy": ["recipient-policies/staff"]}
        ])
    );
    let clash = json!({"spec": {"priority": 2, "addresses": [{"template": "@shared.example", "primary": true}]}});
    let refused = house.put("/api/v1/recipient-policies/clash", &clash).await;
    refused.is_problem(422, "invalid");
    assert!(
        refused.errors().contains(&("/spec/addresses/0/authoritative".to_owned(), "conflict".to_owned())),
        "{refused:?}"
    );
    for method in ["PUT", "POST", "DELETE", "PATCH"] {
        let refused = house.call(method, "/api/v1/domains/example.com").await.is_problem(405, "methodNotAllowed");
        assert!(refused["detail"].as_str().unwrap().contains("recipient policy"), "{refused}");
    }
}
