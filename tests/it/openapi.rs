//! The OpenAPI document: checked in as it is made, complete, and true.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

const METHODS: [&str; 5] = ["get", "put", "patch", "post", "delete"];

fn document() -> Value {
    serde_json::to_value(bridgehead::api::openapi()).expect("a document")
}

/// Path, method and operation of all operations.
fn operations(document: &Value) -> Vec<(String, &'static str, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let mut all = Vec::new();
    for (path, item) in paths {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                all.push((path.clone(), method, operation));
            }
        }
    }
    all
}

/// What a reference leads to.
pub fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).expect(reference),
        None => value,
    }
}

/// Where a value does not have the shape that a schema of the document gives it.
pub fn mismatches(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut root = schema.clone();
    root["components"] = document["components"].clone();
    let validator = jsonschema::draft202012::new(&root).expect("a schema");
    validator.iter_errors(value).map(|error| format!("{} at {}", error, error.instance_path())).collect()
}

#[test]
fn every_example_has_the_shape_that_it_is_an_example_of() {
    let document = document();
    let connector = serde_json::json!({"$ref": "#/components/schemas/ConnectorInput"});
    let nonsense = serde_json::json!({"spec": {"addressSpaces": [{"pattern": "*", "cost": 101}], "rout": {}}});
    assert_eq!(mismatches(&document, &connector, &nonsense).len(), 3, "the check can fail");
    let mut wrong = Vec::new();
    let mut check = |place: String, schema: &Value, example: &Value| {
        wrong.extend(mismatches(&document, schema, example).into_iter().map(|error| format!("{place}: {error}")));
    };
    for (path, method, operation) in operations(&document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            check(format!("{method} {path} {}", parameter["name"]), &parameter["schema"], &parameter["example"]);
        }
        for content in operation["requestBody"]["content"].as_object().into_iter().flat_map(|content| content.values())
        {
            check(format!("{method} {path} body"), &content["schema"], &content["example"]);
        }
        for (status, response) in operation["responses"].as_object().expect("responses") {
            let content = resolve(&document, response)["content"].as_object();
            for content in content.into_iter().flat_map(|content| content.values()) {
                check(format!("{method} {path} {status}"), &content["schema"], &content["example"]);
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
        let examples = schema["examples"].as_array().into_iter().flatten().chain(schema.get("example"));
        examples.for_each(|example| check(name.clone(), schema, example));
    }
    assert!(wrong.is_empty(), "{} examples are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// `BRIDGEHEAD_BLESS=1 cargo test openapi` writes the file anew.
#[test]
fn the_checked_in_document_is_the_one_that_is_made() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/bridgehead.json");
    let made = bridgehead::api::openapi_json();
    if std::env::var_os("BRIDGEHEAD_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        std::fs::write(&file, &made).expect("written");
    }
    let checked_in = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = made.lines().zip(checked_in.lines()).position(|(made, there)| made != there);
    assert!(
        made == checked_in,
        "openapi/bridgehead.json differs from line {:?} on; run it again with BRIDGEHEAD_BLESS=1",
        differs.map(|line| line + 1)
    );
}

#[test]
fn every_operation_is_described_in_full() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut wrong = Vec::new();
    let mut ids = BTreeSet::new();
    let tags: BTreeSet<_> =
        document["tags"].as_array().into_iter().flatten().map(|tag| tag["name"].to_string()).collect();
    for (path, method, operation) in operations(&document) {
        let mut need = |holds: bool, what: &str| {
            if !holds {
                wrong.push(format!("{method} {path}: {what}"));
            }
        };
        need(ids.insert(operation["operationId"].to_string()), "an operationId of its own");
        let text = |field: &str| operation[field].as_str().unwrap_or_default().to_owned();
        need(text("summary").len() > 3 && !text("summary").ends_with('.'), "a summary");
        need(text("description").contains("Scope: "), "a description that names the scope");
        // an operation that names none is refused to everybody; one that names another than it describes misleads
        let scopes: Vec<&str> = operation["x-scope"].as_str().unwrap_or_default().split(' ').collect();
        let known = |scope: &&str| *scope == "none" || scope.parse::<bridgehead::model::access::Scope>().is_ok();
        need(scopes.iter().all(known), "x-scope with scopes that there are");
        let named = |scope: &&str| text("description").contains(&format!("`{scope}`")) || *scope == "none";
        need(scopes.iter().all(named), "a description that names the scopes of x-scope");
        need(operation["security"].is_array(), "security");
        let tag = operation["tags"].as_array().filter(|list| list.len() == 1);
        need(tag.is_some_and(|list| tags.contains(&list[0].to_string())), "one known tag");
        let named: BTreeSet<_> =
            operation["parameters"].as_array().into_iter().flatten().map(|p| p["name"].to_string()).collect();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = &parameter["name"];
            need(
                parameter["description"].as_str().is_some_and(|text| text.len() > 3),
                &format!("a description of {name}"),
            );
            need(
                !parameter["example"].is_null() && !parameter["schema"].is_null(),
                &format!("an example and schema of {name}"),
            );
        }
        for part in path.split('/').filter(|part| part.starts_with('{')) {
            let name = part.trim_matches(['{', '}']);
            need(named.contains(&format!("{name:?}")), &format!("the parameter {name}"));
        }
        if let Some(body) = operation.get("requestBody") {
            for (media, content) in body["content"].as_object().expect("content") {
                need(!content["example"].is_null(), &format!("an example of the {media} body"));
                need(content["schema"]["$ref"].is_string(), "a named type of the body");
            }
        }
        let has_body = operation.get("requestBody").is_some();
        need(has_body || !["put", "patch"].contains(&method), "a body with PUT and PATCH");
        need(!has_body || !["get", "delete"].contains(&method), "no body with GET and DELETE");
        let responses = operation["responses"].as_object().expect("responses");
        need(responses.keys().any(|status| status.starts_with('2') || status.starts_with('3')), "a success");
        need(responses.contains_key("400") && responses.contains_key("500"), "400 and 500");
        if path.starts_with("/api/v1") {
            need(
                ["401", "403", "429", "503"].iter().all(|status| responses.contains_key(*status)),
                "401, 403, 429 and 503",
            );
            need(
                responses.contains_key("404")
                    == (method != "put"
                        && (path.contains('{') || path.ends_with("/settings") || path.ends_with("/explain"))),
                "404 exactly where something can be missing",
            );
        }
        for (status, response) in responses {
            let response = resolve(&document, response);
            need(
                response["description"].as_str().is_some_and(|text| text.len() > 3),
                &format!("a description of {status}"),
            );
            for (media, content) in response["content"].as_object().into_iter().flatten() {
                need(!content["example"].is_null(), &format!("an example of {status}"));
                let problem = status.starts_with('4') || status.starts_with('5');
                let probe = status == "503" && path.ends_with('z');
                need(!problem || probe || media == "application/problem+json", &format!("{status} as a problem"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} gaps:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used_and_described() {
    let document = document();
    let mut references = BTreeSet::new();
    collect(&document, &mut references);
    for reference in &references {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
    }
    let mut wrong = Vec::new();
    for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
        if !references.contains(&format!("#/components/schemas/{name}")) {
            wrong.push(format!("{name} is not used"));
        }
        if !schema["description"].is_string() {
            wrong.push(format!("{name} has no description"));
        }
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            let described = |one: &Value| one["description"].is_string() || one["$ref"].is_string();
            // one that may be null has its words beside the other alternative
            let mut alternatives = property["oneOf"].as_array().into_iter().flatten();
            if !described(property) && !alternatives.any(described) {
                wrong.push(format!("{name}.{field} has no description"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn collect(value: &Value, references: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            references.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| collect(value, references));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

/// Routes are registered by `.service(…)` of utoipa-actix-web only, which takes nothing without an operation. The health
/// listener's are the exception: the same paths are operations of the API listener.
#[test]
fn no_route_is_registered_past_the_document() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    for entry in std::fs::read_dir(directory).expect("sources") {
        let path = entry.expect("an entry").path();
        let Ok(source) = std::fs::read_to_string(&path) else { continue };
        for way in [".route(", "web::resource(", "web::scope(", ".external_resource(", "Resource::new("] {
            let found = source.matches(way).count();
            let known = match (path.file_name().and_then(|name| name.to_str()), way) {
                (Some("health.rs"), ".route(") => 4,
                // what is served below it is what is described
                (Some("routes.rs"), "web::scope(") => 1,
                _ => 0,
            };
            assert_eq!(found, known, "{way} in {}", path.display());
        }
    }
}
