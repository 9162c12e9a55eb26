//! What is known of the operations: what the OpenAPI document ([`crate::config::openapi`]) says of them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::access::Operations;
use crate::config::openapi;

/// The methods of OpenAPI, as it writes them and as HTTP does.
const METHODS: [(&str, &str); 8] = [
    ("get", "GET"),
    ("head", "HEAD"),
    ("put", "PUT"),
    ("patch", "PATCH"),
    ("post", "POST"),
    ("delete", "DELETE"),
    ("options", "OPTIONS"),
    ("trace", "TRACE"),
];

/// What is looked up in the document for every request.
pub(super) struct Described {
    /// What each operation needs.
    pub operations: Operations,
    /// The methods of each path, for 405 and its `Allow`.
    pub methods: BTreeMap<String, Vec<&'static str>>,
}

impl Described {
    pub(super) fn read() -> Self {
        openapi::read(|document| Described { operations: Operations::of(document), methods: methods(document) })
    }
}

/// Every operation: its path, its method as HTTP writes it, what the document says of it.
pub(super) fn operations(document: &Value) -> impl Iterator<Item = (&str, &'static str, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        METHODS.into_iter().filter_map(move |(word, method)| Some((path.as_str(), method, item.get(word)?)))
    })
}

fn methods(document: &Value) -> BTreeMap<String, Vec<&'static str>> {
    let mut methods: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    for (path, method, _) in operations(document) {
        let of_path = methods.entry(path.to_owned()).or_default();
        of_path.push(method);
        // whoever answers GET answers HEAD
        if method == "GET" {
            of_path.push("HEAD");
        }
    }
    methods
}
