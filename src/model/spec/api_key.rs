//! `api-keys`: who may call the REST API, and for what.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::account::{AccountQuotas, SenderPattern};
use crate::model::access::{Grant, Role, Scope};
use crate::model::key_digest::KeyDigest;
use crate::model::labels::LabelSelector;
use crate::model::pattern::Network;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;

/// A key for the REST API: `role` or `scopes` say what it may do, the rest limits it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"role": "operator", "allowFrom": ["10.0.0.0/8"], "expiresAt": "2027-06-30T00:00:00.000Z"}))]
pub struct ApiKeySpec {
    /// What it may do, as a role. Either this or `scopes` is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub role: Option<Role>,
    /// What it may do, one by one. Either this or `role` is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 32, nullable = false)]
    pub scopes: Option<Vec<Scope>>,
    /// With which objects: it sees and writes only objects of the configuration whose labels match, before a change and
    /// after it, and acts only on queues of connectors and mailbox stores, and on virtual servers, that match. Actions on
    /// single messages and sessions, and what concerns the configuration as a whole, it may not use. Default: no limit.
    #[serde(skip_serializing_if = "LabelSelector::is_empty")]
    pub objects: LabelSelector,
    /// Until when it is valid. Default: until it is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub expires_at: Option<Timestamp>,
    /// The networks that it may come from. Default: any.
    #[schema(max_items = 100)]
    pub allow_from: Vec<Network>,
    /// What mail that it submits may be from. Default: any address in a local domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 1000, nullable = false)]
    pub send_as: Option<Vec<SenderPattern>>,
    /// How much mail it may submit.
    pub quotas: AccountQuotas,
    /// The key itself. Absent in REST, a new object gets a key that is shown once in the answer, and one that is there keeps
    /// its own; a document has to say where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key: Option<ApiKeySecret>,
}

impl ApiKeySpec {
    /// What it gives.
    pub fn grant(&self) -> Grant {
        let scopes = self.scopes.iter().flatten().copied();
        Grant {
            role: self.role,
            scopes: scopes.chain(self.role.iter().flat_map(|role| role.scopes().iter())).collect(),
            objects: self.objects.clone(),
            allow_from: self.allow_from.clone(),
            expires_at: self.expires_at,
            send_as: self.send_as.clone(),
            quotas: self.quotas.clone(),
        }
    }
}

/// The key in a spec: a secret, or the digest of one. What is kept of either is a secret again, which holds what the
/// key is checked against and never the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiKeySecret {
    /// The digest of a key that was made elsewhere.
    Hash {
        /// The digest.
        hash: KeyDigest,
        /// When it takes the place of another key: until when that one is valid too.
        previous_until: Option<Timestamp>,
    },
    /// A secret.
    Secret(Secret),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Hashed {
    hash: KeyDigest,
    #[serde(default)]
    previous_until: Option<Timestamp>,
}

impl Serialize for ApiKeySecret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            // never the digest: a spec that was taken over has a secret in its place
            ApiKeySecret::Hash { .. } => serde_json::json!({"set": true}).serialize(s),
            ApiKeySecret::Secret(secret) => secret.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for ApiKeySecret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let form = serde_json::Value::deserialize(d)?;
        let parsed = if form.get("hash").is_some() {
            let ways = ["value", "env", "file"];
            if ways.iter().any(|way| form.get(*way).is_some()) {
                return Err(serde::de::Error::custom("exactly one of value, env, file and hash is needed"));
            }
            serde_json::from_value(form)
                .map(|Hashed { hash, previous_until }| ApiKeySecret::Hash { hash, previous_until })
        } else {
            serde_json::from_value(form).map(ApiKeySecret::Secret)
        };
        parsed.map_err(serde::de::Error::custom)
    }
}

impl PartialSchema for ApiKeySecret {
    fn schema() -> RefOr<Schema> {
        let RefOr::T(Schema::Object(mut schema)) = Secret::schema() else { return Secret::schema() };
        schema.description = Some(
            "A key: its SHA-256 as `hash`, so that it can live in Git; `value`, of which only the SHA-256 is kept; or `env` or \
             `file` that hold the key, of at least 32 characters. It reads as `set` and `fingerprint`, with `env` or `file` as \
             given; to keep a key, write the fingerprint that was read."
                .to_owned(),
        );
        schema.properties.insert("hash".to_owned(), utoipa::openapi::Ref::from_schema_name(KeyDigest::name()).into());
        let until = utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::DateTime)))
            .description(Some("With `hash`: until when the key that it replaces is valid too. Default: no longer."))
            .write_only(true);
        schema.properties.insert("previousUntil".to_owned(), until.into());
        schema.examples = vec![serde_json::json!({"file": "keys/monitoring"})];
        Schema::Object(schema).into()
    }
}

impl ToSchema for ApiKeySecret {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("ApiKeySecret")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((KeyDigest::name().into_owned(), KeyDigest::schema()));
        Secret::schemas(schemas);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_digest_is_read_and_never_written() {
        let spec: ApiKeySpec = serde_json::from_value(json!({
            "role": "viewer", "key": {"hash": KeyDigest::of("x"), "previousUntil": "2026-11-29T00:00:00Z"}
        }))
        .unwrap();
        assert_eq!(serde_json::to_value(&spec).unwrap()["key"], json!({"set": true}));
        let both = json!({"key": {"hash": KeyDigest::of("x"), "file": "a"}});
        assert!(serde_json::from_value::<ApiKeySpec>(both).is_err());
        assert!(serde_json::from_value::<ApiKeySpec>(json!({"key": {"hash": "sha256:00"}})).is_err());
        assert_eq!(spec.grant().scopes, Role::Viewer.scopes());
    }
}
