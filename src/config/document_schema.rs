//! The JSON schema of a whole document, for editors and pipelines: `openapi/config.schema.json`, `bridgehead schema`.
//!
//! It is made of the schemas by which REST checks single objects ([`super::schema`]), with the labels among the fields of the
//! spec. Formats that begin with `bridgehead-` tell what a text is; a validator that does not know them passes over them.

use serde_json::{Map, Value, json};

use super::schema;
use crate::model::name::{MAX_LONG_NAME, MAX_NAME};
use crate::model::spec::Collection;

const WITHIN: &str = "#/components/schemas/";
const DEFINITIONS: &str = "#/$defs/";

/// The schema, as it is checked in.
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(&document()).expect("schemas have text keys and finite numbers only");
    text.push('\n');
    text
}

/// The schema.
pub fn document() -> Value {
    let (mut properties, mut definitions) = (Map::new(), Map::new());
    let version = json!({"const": "v1", "description": "The version of this form."});
    properties.insert("apiVersion".to_owned(), version);
    for collection in Collection::ALL {
        let whole = schema::schema(collection);
        let labels = with_description(&whole["properties"]["labels"], "Labels, for people and tools.");
        let components = whole["components"]["schemas"].as_object().cloned().unwrap_or_default();
        let spec = whole["properties"]["spec"]["$ref"].as_str().unwrap_or_default();
        let spec = spec.trim_start_matches(WITHIN).to_owned();
        let object = labelled(&components[&spec], &labels, &components);
        let about = object["description"].clone();
        definitions.extend(components.into_iter().map(|(name, schema)| (name, moved(schema))));
        // the specs themselves stand nowhere in a document without their labels
        definitions.insert(spec.clone(), moved(object));
        let one = json!({"$ref": format!("{DEFINITIONS}{spec}")});
        let longest = if collection.longest_name() == MAX_LONG_NAME { MAX_LONG_NAME } else { MAX_NAME };
        let property = match collection {
            Collection::Settings => one,
            _ => json!({
                "type": ["object", "null"],
                "description": about,
                "propertyNames": {"pattern": "^[a-z0-9]([-a-z0-9._]*[a-z0-9])?$", "maxLength": longest},
                "additionalProperties": one,
            }),
        };
        properties.insert(collection.document().to_owned(), property);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Bridgehead configuration",
        "description": "A whole configuration of a Bridgehead appliance: collection, name, fields.",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "$defs": definitions,
    })
}

/// A spec with labels among its fields; one that is of several kinds, each kind of it.
fn labelled(spec: &Value, labels: &Value, components: &Map<String, Value>) -> Value {
    let mut spec = spec.clone();
    if let Some(kinds) = spec.get_mut("oneOf").and_then(Value::as_array_mut) {
        for kind in kinds {
            let named = kind["$ref"].as_str().and_then(|name| components.get(name.trim_start_matches(WITHIN)));
            if let Some(named) = named {
                *kind = labelled(named, labels, components);
            }
        }
        // it maps to the schemas without labels, and is OpenAPI's
        spec.as_object_mut().map(|spec| spec.remove("discriminator"));
    }
    if let Some(fields) = spec.get_mut("properties").and_then(Value::as_object_mut) {
        fields.insert("labels".to_owned(), labels.clone());
    }
    spec
}

fn with_description(schema: &Value, description: &str) -> Value {
    let mut schema = schema.clone();
    schema["description"] = json!(description);
    schema
}

/// References as they are in the document; what only OpenAPI knows is left out.
fn moved(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(key, _)| key != "discriminator").map(|(key, value)| match value {
                Value::String(text) if key == "$ref" => (key, Value::String(text.replace(WITHIN, DEFINITIONS))),
                // OpenAPI's single example
                value if key == "example" => ("examples".to_owned(), json!([value])),
                value => (key, moved(value)),
            });
            Value::Object(fields.collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(moved).collect()),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_held_against_it() {
        let schema = document();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let good = json!({
            "apiVersion": "v1",
            "settings": {"organization": "Example", "labels": {"a": "b"}},
            "connectors": {"hub": {
                "labels": {"a": "b"}, "addressSpaces": [{"pattern": "*"}], "route": {"dns": {}}
            }},
            "mailboxStores": {"default": {"type": "maildir", "default": true, "labels": {"a": "b"}}},
            "filters": {"f": {"kind": "recipient", "labels": {"a": "b"}}},
            "recipients": null
        });
        let wrong: Vec<_> = validator.iter_errors(&good).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        for bad in [
            json!({"conectors": {}}),
            json!({"apiVersion": "v2"}),
            json!({"connectors": {"Hub": {"addressSpaces": [{"pattern": "*"}], "route": {"dns": {}}}}}),
            json!({"connectors": {"hub": {"addressSpaces": [{"pattern": "*"}], "route": {"dns": {}}, "x": 1}}}),
            json!({"connectors": {"hub": {"route": {"dns": {}}}}}),
            json!({"mailboxStores": {"default": {"type": "maildir", "x": 1}}}),
            json!({"recipients": {"ada": {"labels": {"a": 1}}}}),
        ] {
            assert!(!validator.is_valid(&bad), "{bad}");
        }
    }
}
