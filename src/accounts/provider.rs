//! An issuer of tokens: what its tokens must say, and whom they name.

use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};

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
