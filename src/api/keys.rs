//! Where keys come from: the owner key that the process was given, the one of the first start, API keys of the configuration,
//! and tokens of identity providers.
//!
//! All sources are asked in order, and the first that knows what was shown says who it is. Everything is compared by digest,
//! in a time that tells nothing.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::auth::Principal;
use crate::accounts::{ApiKey, Authenticator, IdentityProvider, TokenError};
use crate::config::{Configuration, Live};
use crate::model::access::{Grant, Role};
use crate::status::KeyUse;

/// Longest text that is looked at as a key or token, in octets.
const LONGEST: usize = 16 << 10;

/// Says whose key it is.
#[async_trait]
pub trait Keys: Send + Sync {
    /// The holder of a key, or nobody. Takes the same time for every wrong key. `client` is where it comes from; `None`: by
    /// the socket of this machine.
    ///
    /// # Errors
    /// When what was shown is known and yet cannot be taken.
    async fn verify(&self, shown: &str, client: Option<IpAddr>) -> Result<Option<Principal>, KeyFault>;
}

/// Why a key that is known is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Not now, or not here, or not for this. Its holder may know why.
    #[error("{0}")]
    Refused(String),
    /// Nobody can tell at the moment.
    #[error("{0}")]
    Unavailable(String),
}

/// The owner key that the process was given (`BRIDGEHEAD_ADMIN_KEY`).
pub struct AdminKey([u8; 32]);

impl AdminKey {
    /// Keeps only the hash.
    pub fn new(key: &str) -> Self {
        AdminKey(Sha256::digest(key.as_bytes()).into())
    }

    /// Whether this is the key; takes the same time whatever is shown.
    pub fn is(&self, shown: &str) -> bool {
        let shown: [u8; 32] = Sha256::digest(shown.as_bytes()).into();
        self.0.ct_eq(&shown).into()
    }
}

#[async_trait]
impl Keys for AdminKey {
    async fn verify(&self, shown: &str, _: Option<IpAddr>) -> Result<Option<Principal>, KeyFault> {
        Ok(self.is(shown).then(|| Principal::owner("bootstrap")))
    }
}

/// The owner key that the first start made.
pub struct FirstKey(Arc<Configuration>);

impl FirstKey {
    /// The one of this configuration's store.
    pub fn new(configuration: Arc<Configuration>) -> Self {
        FirstKey(configuration)
    }
}

#[async_trait]
impl Keys for FirstKey {
    async fn verify(&self, shown: &str, _: Option<IpAddr>) -> Result<Option<Principal>, KeyFault> {
        let valid = self.0.verify_first_key(shown).map_err(|error| {
            tracing::error!(%error, "a key cannot be verified");
            KeyFault::Unavailable("keys cannot be read now; the log has the reason".to_owned())
        })?;
        Ok(valid.then(|| Principal::owner("first-key")))
    }
}

/// The API keys of the configuration.
pub struct ApiKeySource {
    configuration: Arc<Configuration>,
    uses: Arc<KeyUse>,
}

impl ApiKeySource {
    /// Those in force; notes in `uses` when they are used.
    pub fn new(configuration: Arc<Configuration>, uses: Arc<KeyUse>) -> Self {
        ApiKeySource { configuration, uses }
    }
}

#[async_trait]
impl Keys for ApiKeySource {
    async fn verify(&self, shown: &str, client: Option<IpAddr>) -> Result<Option<Principal>, KeyFault> {
        let (snapshot, now) = (self.configuration.live().current(), self.configuration.now());
        let Some(key) = snapshot.api_keys.find(shown, now) else { return Ok(None) };
        let ApiKey { name, grant, .. } = &**key;
        let refused = |why: &str| {
            tracing::warn!(apiKey = %name, client = client.map(tracing::field::display), why, "an API key was refused");
            Err(KeyFault::Refused(why.to_owned()))
        };
        if grant.has_expired(now) {
            return refused("the key has expired");
        }
        if !grant.is_allowed_from(client) {
            return refused("the key may not be used from this address");
        }
        self.uses.note(name, &snapshot.api_keys, now);
        Ok(Some(Principal { name: name.to_string(), provider: None, grant: Arc::new(grant.clone()) }))
    }
}

/// Tokens of the identity providers that are for the REST API.
pub struct BearerTokens {
    authenticator: Arc<Authenticator>,
    live: Live,
}

impl BearerTokens {
    /// Of those in force.
    pub fn new(authenticator: Arc<Authenticator>, live: Live) -> Self {
        BearerTokens { authenticator, live }
    }
}

#[async_trait]
impl Keys for BearerTokens {
    async fn verify(&self, shown: &str, client: Option<IpAddr>) -> Result<Option<Principal>, KeyFault> {
        // three parts of base64url, the first of which is a JSON object
        if !shown.starts_with("eyJ") || shown.matches('.').count() != 2 {
            return Ok(None);
        }
        let snapshot = self.live.current();
        let providers: Vec<Arc<IdentityProvider>> =
            snapshot.identity_providers.values().filter(|provider| provider.roles.is_some()).cloned().collect();
        match self.authenticator.bearer(shown, &providers).await {
            Ok(bearer) => Ok(Some(Principal {
                name: bearer.username,
                provider: Some(bearer.provider),
                grant: Arc::new(Grant::of(bearer.role)),
            })),
            Err(error) => {
                tracing::info!(%error, client = client.map(tracing::field::display), "a token was refused");
                Err(match error {
                    TokenError::Unreachable(..) => {
                        KeyFault::Unavailable("the keys of the token's issuer cannot be had now; come again".to_owned())
                    }
                    TokenError::NoRole(..) => KeyFault::Refused("the token names no role".to_owned()),
                    _ => KeyFault::Refused("the token is not valid".to_owned()),
                })
            }
        }
    }
}

/// Several sources of keys. All of them are asked.
#[async_trait]
impl Keys for Vec<Box<dyn Keys>> {
    async fn verify(&self, shown: &str, client: Option<IpAddr>) -> Result<Option<Principal>, KeyFault> {
        if shown.len() > LONGEST {
            return Ok(None);
        }
        let mut found = Ok(None);
        for keys in self {
            let this = keys.verify(shown, client).await;
            if !matches!(found, Ok(Some(_))) && !matches!(this, Ok(None)) {
                found = this;
            }
        }
        found
    }
}

impl Principal {
    /// An owner, by this name.
    pub fn owner(name: &str) -> Self {
        Principal { name: name.to_owned(), provider: None, grant: Arc::new(Grant::of(Role::Owner)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_found_whatever_source_has_it() {
        let keys: Vec<Box<dyn Keys>> = vec![Box::new(AdminKey::new("one")), Box::new(AdminKey::new("two"))];
        for (shown, found) in [("one", true), ("two", true), ("", false), ("One", false)] {
            assert_eq!(keys.verify(shown, None).await.unwrap().is_some(), found, "{shown}");
        }
    }
}
