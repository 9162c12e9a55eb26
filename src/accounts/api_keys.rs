//! API keys: a table from what can check a key to what it gives.
//!
//! Of a key only its SHA-256 is known. A key that was rotated has a second one, which holds until its time is over. Who
//! shows a key is looked up by the digest of what he shows: that takes as long for a wrong key as for a right one, and
//! nothing can be learnt from how far a digest agrees, as nobody can choose it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::access::Grant;
use crate::model::key_digest::KeyDigest;
use crate::model::name::Name;
use crate::model::time::Timestamp;

/// What a key is checked against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyMaterial {
    /// The digest of the key.
    pub digest: KeyDigest,
    /// The digest of the key that it replaced, while that is valid too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousKey>,
}

/// A key that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreviousKey {
    /// Its digest.
    pub digest: KeyDigest,
    /// Until when it is valid.
    pub until: Timestamp,
}

impl KeyMaterial {
    /// Of a key that replaces none.
    pub fn new(digest: KeyDigest) -> Self {
        KeyMaterial { digest, previous: None }
    }
}

/// An API key, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The name of the object.
    pub name: Name,
    /// Rises by one with each change of it.
    pub generation: u64,
    /// What it gives.
    pub grant: Grant,
    /// What it is checked against; or why that cannot be had, and then the key is not valid.
    pub material: Result<KeyMaterial, String>,
}

/// All API keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiKeys {
    by_name: BTreeMap<Name, Arc<ApiKey>>,
    /// With the end of those that were replaced.
    by_digest: HashMap<KeyDigest, (Arc<ApiKey>, Option<Timestamp>)>,
}

impl ApiKeys {
    /// The table of these keys. Of two with the same digest the first one counts: a compiler refuses the second before.
    pub fn build(keys: impl IntoIterator<Item = Arc<ApiKey>>) -> Self {
        let mut table = ApiKeys::default();
        let mut replaced = Vec::new();
        for key in keys {
            if let Ok(material) = &key.material {
                table.by_digest.entry(material.digest).or_insert_with(|| (key.clone(), None));
                replaced.extend(material.previous.clone().map(|previous| (previous, key.clone())));
            }
            table.by_name.insert(key.name.clone(), key);
        }
        for (PreviousKey { digest, until }, key) in replaced {
            table.by_digest.entry(digest).or_insert((key, Some(until)));
        }
        table
    }

    /// Whose key this is, unless it was replaced and its time is over. Whether the grant holds now and here is the
    /// caller's to ask.
    pub fn find(&self, key: &str, now: Timestamp) -> Option<&Arc<ApiKey>> {
        let (found, until) = self.by_digest.get(&KeyDigest::of(key))?;
        until.is_none_or(|until| now < until).then_some(found)
    }

    /// The key of this name.
    pub fn get(&self, name: &Name) -> Option<&Arc<ApiKey>> {
        self.by_name.get(name)
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.by_name.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access::Role;

    #[test]
    fn a_key_that_was_replaced_ends() {
        let until = Timestamp::from_millis(10);
        let previous = Some(PreviousKey { digest: KeyDigest::of("old"), until });
        let key = |name: &str, material| {
            Arc::new(ApiKey { name: name.parse().unwrap(), generation: 1, grant: Grant::of(Role::Viewer), material })
        };
        let table = ApiKeys::build([
            key("a", Ok(KeyMaterial { digest: KeyDigest::of("new"), previous })),
            key("b", Err("gone".to_owned())),
            key("c", Ok(KeyMaterial::new(KeyDigest::of("other")))),
        ]);
        let name = |shown: &str, now| {
            table.find(shown, Timestamp::from_millis(now)).map(|key| key.name.to_string()).unwrap_or_default()
        };
        assert_eq!([name("new", 0), name("old", 9), name("old", 10), name("other", 99)], ["a", "a", "", "c"]);
        assert_eq!([name("", 0), name("NEW", 0), name(&KeyDigest::of("new").to_string(), 0)], ["", "", ""]);
        assert_eq!(table.names().count(), 3);
    }
}
