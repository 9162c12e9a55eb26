//! Records in the store: their keys, their form, and how all of them are read when the process starts.

use super::compile::Objects;
use super::object::{Record, Spec};
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::store::{ConfigStore, StoreError};

/// Rows that one scan of the store gives.
pub(super) const SCAN: usize = 1_000;

pub(super) fn object_key(collection: Collection, name: &str) -> String {
    format!("object/{}/{name}", collection.path())
}

pub(super) fn audit_key(revision: u64) -> String {
    format!("audit/{revision:020}")
}

pub(super) fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records have text keys and finite numbers only")
}

pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<Record, StoreError> {
    let damaged = |detail: String| StoreError::Damaged(format!("{key}: {detail}"));
    let record: Record = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if record.v == 1 { Ok(record) } else { Err(damaged(format!("version {} is unknown", record.v))) }
}

pub(super) fn read_record(
    store: &dyn ConfigStore,
    collection: Collection,
    name: &Name,
) -> Result<Option<Record>, StoreError> {
    let key = object_key(collection, name.as_str());
    store.get(&key)?.map(|bytes| decode(&key, &bytes)).transpose()
}

/// All objects but recipients, as they are stored.
pub(super) fn load(store: &dyn ConfigStore) -> Result<Objects, StoreError> {
    let mut objects = Objects::default();
    for collection in Collection::ALL.into_iter().filter(|collection| *collection != Collection::Recipients) {
        let prefix = object_key(collection, "");
        let mut after: Option<String> = None;
        loop {
            let rows = store.scan(&prefix, after.as_deref(), SCAN)?;
            for (key, bytes) in &rows {
                let record = decode(key, bytes)?;
                let damaged = |detail: String| StoreError::Damaged(format!("{key}: {detail}"));
                let name = key[prefix.len()..].parse().map_err(|_| damaged("the key holds no name".to_owned()))?;
                let spec = Spec::parse(collection, &record.spec).map_err(|violation| damaged(violation.to_string()))?;
                objects.insert(name, record.generation, &record.labels, spec, record.secrets);
            }
            match rows.last() {
                Some((key, _)) if rows.len() == SCAN => after = Some(key.clone()),
                _ => break,
            }
        }
    }
    Ok(objects)
}
