//! An issuer of tokens: what its tokens must say, and whom they name, with which role.

use std::collections::BTreeMap;

use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};

use crate::model::access::Role;
use crate::model::name::Name;
use crate::model::web::ServiceUrl;

/// Seconds that clocks may differ.
const LEEWAY: u64 = 60;
/// The claims that hold a username when the configuration names none, the first that is there.
const USERNAME_CLAIMS: [&str; 3] = ["email", "preferred_username", "sub"];

/// An identity provider, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityProvider {
    /// The name of the object.
    pub name: Name,
    /// Rises by one with each change of it.
    pub generation: u64,
    /// What its tokens have as `iss`.
    pub issuer: String,
    /// What its tokens have in `aud`.
    pub audience: String,
    /// Where its keys are, or where it is said where they are.
    pub keys: KeysAt,
    /// The claim that holds the username.
    pub username_claim: Option<String>,
    /// Whether accounts may log in with its tokens.
    pub for_smtp: bool,
    /// Whether, and with which role, its tokens may be shown to the REST API.
    pub roles: Option<RolesIn>,
}

/// Where the role of a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolesIn {
    /// The claim.
    pub claim: String,
    /// What its values stand for; `None`: for themselves.
    pub values: Option<BTreeMap<String, Role>>,
}

/// Values of a claim that are looked at.
const MOST_VALUES: usize = 1_000;

impl RolesIn {
    /// The highest role that the claims of a valid token name.
    pub(super) fn role(&self, claims: &Map<String, Value>) -> Option<Role> {
        let nested = || {
            let (first, rest) = self.claim.split_once('.')?;
            rest.split('.').try_fold(claims.get(first)?, |at, part| at.get(part))
        };
        let value = claims.get(&self.claim).or_else(nested)?;
        let texts: Vec<&str> = match value {
            // some write a list as words, as `scope` has them
            Value::String(text) if !self.knows(text) => text.split(' ').take(MOST_VALUES).collect(),
            Value::String(text) => vec![text],
            Value::Array(values) => values.iter().take(MOST_VALUES).filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        texts.into_iter().filter_map(|text| self.of(text)).max()
    }

    fn knows(&self, text: &str) -> bool {
        self.of(text).is_some()
    }

    fn of(&self, text: &str) -> Option<Role> {
        match &self.values {
            Some(values) => values.get(text).copied(),
            None => text.parse().ok(),
        }
    }
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysAt {
    /// Here.
    Uri(ServiceUrl),
    /// What this document says (OpenID Connect Discovery, 4).
    Discovery(ServiceUrl),
}

impl KeysAt {
    /// Where an issuer's discovery document is; `None` when the issuer is no URL that may be asked.
    pub fn of_issuer(issuer: &str) -> Option<Self> {
        let url = format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer));
        url.parse().ok().map(KeysAt::Discovery)
    }
}

impl IdentityProvider {
    /// What a token of it must fulfil.
    pub(super) fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation
    }

    /// The username in the claims of a valid token.
    pub(super) fn username(&self, claims: &Map<String, Value>) -> Option<String> {
        let unverified = claims.get("email_verified").is_some_and(|verified| verified != true && verified != "true");
        let claim = |claim: &str| {
            let text = claims.get(claim).and_then(Value::as_str).filter(|text| !text.is_empty());
            text.filter(|_| claim != "email" || !unverified)
        };
        let username = match &self.username_claim {
            Some(name) => claim(name),
            None => USERNAME_CLAIMS.into_iter().find_map(claim),
        };
        username.map(str::to_owned)
    }
}

/// Only signatures by private keys: what the issuer publishes must not suffice to make a token.
pub(super) fn is_allowed(algorithm: Algorithm) -> bool {
    use Algorithm::*;
    matches!(algorithm, RS256 | RS384 | RS512 | PS256 | PS384 | PS512 | ES256 | ES384 | EdDSA)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_highest_role_of_a_claim_counts() {
        let role = |claim: &str, values: Option<&[(&str, Role)]>, claims: Value| {
            let values = values.map(|all| all.iter().map(|(text, role)| ((*text).to_owned(), *role)).collect());
            let Value::Object(claims) = claims else { return None };
            RolesIn { claim: claim.to_owned(), values }.role(&claims)
        };
        assert_eq!(role("roles", None, json!({"roles": ["viewer", "owner", "x"]})), Some(Role::Owner));
        assert_eq!(role("roles", None, json!({"roles": "operator"})), Some(Role::Operator));
        assert_eq!(role("scope", None, json!({"scope": "openid operator"})), Some(Role::Operator));
        let mapped: &[(&str, Role)] = &[("Mail Admins", Role::Administrator), ("staff", Role::Viewer)];
        assert_eq!(
            role("groups", Some(mapped), json!({"groups": ["staff", "Mail Admins"]})),
            Some(Role::Administrator)
        );
        assert_eq!(role("groups", Some(mapped), json!({"groups": "Mail Admins"})), Some(Role::Administrator));
        assert_eq!(role("groups", Some(mapped), json!({"groups": ["owner"]})), None, "only what is mapped");
        let nested = json!({"realm_access": {"roles": ["viewer"]}});
        assert_eq!(role("realm_access.roles", None, nested), Some(Role::Viewer));
        let named = json!({"https://a.example/roles": ["viewer"], "https://a": {"example/roles": ["owner"]}});
        assert_eq!(role("https://a.example/roles", None, named), Some(Role::Viewer), "the claim itself comes first");
        for none in [
            json!({}),
            json!({"roles": []}),
            json!({"roles": {"owner": true}}),
            json!({"roles": true}),
            json!({"roles": null}),
        ] {
            assert_eq!(role("roles", None, none.clone()), None, "{none}");
        }
    }
}
