//! API keys: what they give, whether they can be read, keys that clash.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Findings, Objects};
use crate::accounts::{ApiKey, ApiKeys};
use crate::config::snapshot::Snapshot;
use crate::config::violation::ViolationCode;
use crate::config::{Kept, Vault};
use crate::model::key_digest::KeyDigest;
use crate::model::name::Name;
use crate::model::secret::Secret;
use crate::model::spec::Collection;
use crate::model::spec::api_key::ApiKeySecret;

/// Names that the audit log has for who has no object here.
const RESERVED: [&str; 4] = ["admin.sock", "bootstrap", "first-key", "system"];

/// The table of all keys; the previous one when nothing changed.
pub(super) fn api_keys(objects: &Objects, previous: &Snapshot, vault: &Vault, found: &mut Findings) -> Arc<ApiKeys> {
    let mut keys = Vec::new();
    let mut seen: HashMap<KeyDigest, &Name> = HashMap::new();
    let nothing = Kept::default();
    for (name, (generation, spec)) in &objects.api_keys {
        let of = (Collection::ApiKeys, name);
        if RESERVED.contains(&name.as_str()) {
            let detail = format!("{name} is what the audit log calls a caller without such an object");
            found.wrong(of, "/name", ViolationCode::InvalidName, detail);
        }
        match (&spec.role, &spec.scopes) {
            (None, None) => found.wrong(of, "/spec/role", ViolationCode::Required, "role or scopes is needed"),
            (Some(_), Some(_)) => {
                let detail = "either role or scopes says what a key may do, not both";
                found.wrong(of, "/spec/scopes", ViolationCode::Conflict, detail);
            }
            _ => {}
        }
        let Some(secret) = &spec.key else {
            let detail = "a key is needed: hash, env or file; only PUT of a single object makes one";
            found.wrong(of, "/spec/key", ViolationCode::Required, detail);
            continue;
        };
        let kept = objects.secrets(Collection::ApiKeys, name).unwrap_or(&nothing);
        let mut material = vault.key_material(secret, kept);
        if let Ok(known) = &material {
            match seen.get(&known.digest) {
                Some(other) if matches!(secret, ApiKeySecret::Secret(Secret::Env(_) | Secret::File(_))) => {
                    material = Err(format!("it is the key of {other} already"));
                }
                Some(other) => {
                    let detail = format!("API key {other} has the same key");
                    found.wrong(of, "/spec/key", ViolationCode::Duplicate, detail);
                }
                None => drop(seen.insert(known.digest, name)),
            }
        }
        let known = previous.api_keys.get(name);
        if let Err(why) = &material
            && known.is_none_or(|known| known.material.as_ref() != Err(why))
        {
            tracing::error!(apiKey = %name, why, "the key cannot be read; it is not valid");
        }
        let key = ApiKey { name: name.clone(), generation: *generation, grant: spec.grant(), material };
        keys.push(known.filter(|known| ***known == key).cloned().unwrap_or_else(|| Arc::new(key)));
    }
    let table = ApiKeys::build(keys);
    if table == *previous.api_keys { previous.api_keys.clone() } else { Arc::new(table) }
}
