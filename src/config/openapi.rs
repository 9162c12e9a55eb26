//! The OpenAPI document as it is checked in, which the binary carries packed: what REST says of itself, and the schemas by which
//! whatever changes the configuration is checked.
//!
//! What makes it out of the code is megabytes of program; that is for tests, which hold the two equal.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use serde_json::{Map, Value};

use crate::model::spec::Collection;

/// The document, packed.
pub static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi.json.gz"));

const WITHIN: &str = "#/components/schemas/";

/// The document, for `/openapi.json` and `bridgehead openapi`.
pub fn text() -> String {
    unpacked(PACKED).ok().and_then(|text| String::from_utf8(text).ok()).expect("a test unpacks it")
}

/// What was packed by us.
///
/// # Errors
/// When it was not.
pub fn unpacked(packed: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut plain)?;
    Ok(plain)
}

/// Takes out of the document what is wanted, in a thread of its own, which gives back the memory that the document takes until then.
pub fn read<T: Send + 'static>(take: impl FnOnce(&Value) -> T + Send + 'static) -> T {
    let read = std::thread::spawn(move || {
        let document = serde_json::from_str(&text()).expect("the document is JSON: a test reads it");
        take(&document)
    });
    read.join().expect("the document can be read: a test reads it")
}

/// What the spec of a collection is called in it.
pub(super) fn spec_name(collection: Collection) -> &'static str {
    match collection {
        Collection::VirtualServers => "VirtualServerSpec",
        Collection::RecipientPolicies => "RecipientPolicySpec",
        Collection::Recipients => "RecipientSpec",
        Collection::MailboxStores => "MailboxStoreSpec",
        Collection::Connectors => "ConnectorSpec",
        Collection::Certificates => "CertificateSpec",
        Collection::Accounts => "AccountSpec",
        Collection::IdentityProviders => "IdentityProviderSpec",
        Collection::Filters => "FilterSpec",
        Collection::RemoteDomains => "RemoteDomainSpec",
        Collection::ApiKeys => "ApiKeySpec",
        Collection::EventSinks => "EventSinkSpec",
        Collection::Settings => "SettingsSpec",
    }
}

/// The schema of the spec of a collection, and those that it refers to, by name.
pub(super) fn schemas(collection: Collection) -> Map<String, Value> {
    // as text, which is small; each is wanted once or never
    static SPECS: LazyLock<BTreeMap<Collection, String>> = LazyLock::new(|| {
        read(|document| {
            let all = &document["components"]["schemas"];
            let of = |collection| (collection, Value::Object(reached(all, spec_name(collection))).to_string());
            Collection::ALL.into_iter().map(of).collect()
        })
    });
    let text = SPECS.get(&collection).map(String::as_str).unwrap_or_default();
    serde_json::from_str(text).expect("it was JSON before")
}

/// What can be reached from a schema by references.
fn reached(all: &Value, name: &str) -> Map<String, Value> {
    let (mut open, mut seen, mut found) = (vec![name.to_owned()], BTreeSet::new(), Map::new());
    while let Some(name) = open.pop() {
        if let Some(schema) = all.get(&name).filter(|_| seen.insert(name.clone())) {
            references(schema, &mut open);
            found.insert(name, schema.clone());
        }
    }
    found
}

fn references(value: &Value, to: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let name = fields.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix(WITHIN));
            to.extend(name.map(str::to_owned));
            fields.values().for_each(|value| references(value, to));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, to)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use utoipa::ToSchema;

    use super::*;
    use crate::config::schema::without_null_defaults;
    use crate::model::spec::{
        AccountSpec, ApiKeySpec, CertificateSpec, ConnectorSpec, EventSinkSpec, FilterSpec, IdentityProviderSpec,
        MailboxStoreSpec, RecipientPolicySpec, RecipientSpec, RemoteDomainSpec, SettingsSpec, VirtualServerSpec,
    };

    fn derived<T: ToSchema>() -> (String, Map<String, Value>) {
        let mut found = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut found);
        let schemas = found.into_iter().map(|(name, mut schema)| {
            without_null_defaults(&mut schema);
            (name, serde_json::to_value(schema).unwrap())
        });
        (T::name().into_owned(), schemas.collect())
    }

    #[test]
    fn requests_are_checked_by_what_the_code_says_of_the_specs() {
        for collection in Collection::ALL {
            let (name, derived) = match collection {
                Collection::VirtualServers => derived::<VirtualServerSpec>(),
                Collection::RecipientPolicies => derived::<RecipientPolicySpec>(),
                Collection::Recipients => derived::<RecipientSpec>(),
                Collection::MailboxStores => derived::<MailboxStoreSpec>(),
                Collection::Connectors => derived::<ConnectorSpec>(),
                Collection::Certificates => derived::<CertificateSpec>(),
                Collection::Accounts => derived::<AccountSpec>(),
                Collection::IdentityProviders => derived::<IdentityProviderSpec>(),
                Collection::Filters => derived::<FilterSpec>(),
                Collection::RemoteDomains => derived::<RemoteDomainSpec>(),
                Collection::ApiKeys => derived::<ApiKeySpec>(),
                Collection::EventSinks => derived::<EventSinkSpec>(),
                Collection::Settings => derived::<SettingsSpec>(),
            };
            assert_eq!(spec_name(collection), name);
            let carried = schemas(collection);
            // what is derived may name more than can be reached
            assert!(carried.contains_key(&name));
            for (name, schema) in &carried {
                assert_eq!(
                    derived.get(name),
                    Some(schema),
                    "{name}: `BRIDGEHEAD_BLESS=1 cargo test --test it openapi` writes the document anew"
                );
            }
        }
    }
}
