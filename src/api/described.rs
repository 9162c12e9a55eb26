//! What is known of the operations: the OpenAPI document as it is checked in, which the binary carries packed.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::Value;

use super::access::Operations;

/// The document, packed.
pub(super) static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi.json.gz"));

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
    /// Read in a thread of its own, which gives back the memory that the document takes until then.
    pub(super) fn read() -> Self {
        let read = std::thread::spawn(|| {
            let document = serde_json::from_str(&text()).expect("the document is JSON: a test reads it");
            Described { operations: Operations::of(&document), methods: methods(&document) }
        });
        read.join().expect("the document can be read: a test reads it")
    }
}

/// The document, for `/openapi.json` and `bridgehead openapi`.
pub fn text() -> String {
    unpacked(PACKED).ok().and_then(|text| String::from_utf8(text).ok()).expect("a test unpacks it")
}

/// What was packed by us.
pub(super) fn unpacked(packed: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut plain)?;
    Ok(plain)
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
