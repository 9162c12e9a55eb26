//! Bearer tokens (JWT, RFC 7519) checked against the keys of their issuer.
//!
//! Keys are fetched when a token first needs them, and kept. They are fetched again each hour, and when a token names a
//! key that is not there, but at most once in [`APART`]; while that fails, the last ones hold. One fetch at a time for
//! an issuer. Requests go to the configured URL only: no redirects, no proxies, at most 1 MiB, at most 10 s.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Header};
use serde_json::{Map, Value};

use super::provider::{IdentityProvider, KeysAt, is_allowed};
use crate::model::name::Name;
use crate::model::web::ServiceUrl;
use crate::net::clock::Clock;

/// How long keys hold before they are fetched again.
const FRESH: Duration = Duration::from_secs(3_600);
/// Shortest time between two fetches.
const APART: Duration = Duration::from_secs(30);
/// Longest time of a request.
const TIME: Duration = Duration::from_secs(10);
/// Largest answer.
const LARGEST: usize = 1 << 20;
/// Most keys of an issuer that are tried for a token that names none.
const MOST_KEYS: usize = 20;

/// Issuers whose keys are remembered; those that are configured no more go when there are as many.
const MOST_ISSUERS: usize = 1_000;

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is none, or of a kind that is never taken.
    #[error("the token is no signed JWT of a kind that is taken: {0}")]
    Malformed(String),
    /// No identity provider of the virtual server issues such tokens.
    #[error("the virtual server has no identity provider with the issuer of the token")]
    UnknownIssuer,
    /// The issuer has no such key.
    #[error("identity provider {0} has no key that fits the token")]
    UnknownKey(Name),
    /// The signature is wrong, or a claim: expired, not yet valid, another audience.
    #[error("identity provider {0}: the token is not valid: {1}")]
    Invalid(Name, String),
    /// It names no role, so it is none for the REST API.
    #[error("identity provider {0}: the token of {1:?} names no role in the claim {2:?}")]
    NoRole(Name, String, String),
    /// It says nothing about who it is.
    #[error("identity provider {0}: the token has no username claim")]
    NoUsername(Name),
    /// The issuer's keys could not be had. Temporary.
    #[error("identity provider {0}: the keys could not be fetched: {1}")]
    Unreachable(Name, String),
}

/// How the last fetch of an issuer's keys went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysStatus {
    /// How many usable keys there are, or why they could not be fetched.
    pub result: Result<usize, String>,
    /// When that was: milliseconds since 1970.
    pub at: i64,
    /// The generation of the identity provider that was asked for.
    pub generation: u64,
}

/// A token that is valid.
#[derive(Debug)]
pub(super) struct Valid {
    /// Who issued it.
    pub(super) provider: Arc<IdentityProvider>,
    /// Whom it vouches for.
    pub(super) username: String,
    /// All that it says.
    pub(super) claims: Map<String, Value>,
}

#[derive(Debug)]
pub(super) struct Tokens {
    clock: Arc<dyn Clock>,
    client: OnceLock<Result<reqwest::Client, String>>,
    issuers: Mutex<HashMap<Name, Arc<Issuer>>>,
}

/// What is known of an issuer.
#[derive(Debug)]
struct Issuer {
    provider: Arc<IdentityProvider>,
    keys: tokio::sync::Mutex<Keys>,
    status: Mutex<Option<KeysStatus>>,
}

#[derive(Debug, Default)]
struct Keys {
    set: Option<Arc<JwkSet>>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
}

impl Tokens {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Tokens { clock, client: OnceLock::new(), issuers: Mutex::default() }
    }

    /// The username that the token vouches for.
    pub(super) async fn verify(&self, token: &str, providers: &[Arc<IdentityProvider>]) -> Result<String, TokenError> {
        self.claims(token, providers).await.map(|valid| valid.username)
    }

    /// What a valid token says.
    pub(super) async fn claims(&self, token: &str, providers: &[Arc<IdentityProvider>]) -> Result<Valid, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| TokenError::Malformed(error.to_string()))?;
        if !is_allowed(header.alg) {
            return Err(TokenError::Malformed(format!("{:?} is not taken", header.alg)));
        }
        // extensions that must be understood (RFC 7515, 4.1.11): there is none that we understand
        if let Some(critical) = &header.crit {
            return Err(TokenError::Malformed(format!("its extensions {critical:?} are not known")));
        }
        // only to find the issuer; the signature is checked below
        let claims: Map<String, Value> = jsonwebtoken::dangerous::insecure_decode_claims(token)
            .map_err(|error| TokenError::Malformed(error.to_string()))?;
        let issuer = claims.get("iss").and_then(Value::as_str);
        let mut refusal = TokenError::UnknownIssuer;
        // several may have one issuer, for several audiences
        for provider in providers.iter().filter(|provider| issuer == Some(&provider.issuer)) {
            match self.verify_by(provider, token, &header).await {
                Ok(valid) => return Ok(valid),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    async fn verify_by(
        &self,
        provider: &Arc<IdentityProvider>,
        token: &str,
        header: &Header,
    ) -> Result<Valid, TokenError> {
        let mut refusal = TokenError::UnknownKey(provider.name.clone());
        for key in self.keys(provider, header).await? {
            let validation = provider.validation(header.alg);
            match jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation) {
                Ok(valid) => {
                    let username = provider.username(&valid.claims);
                    let username = username.ok_or_else(|| TokenError::NoUsername(provider.name.clone()))?;
                    return Ok(Valid { provider: provider.clone(), username, claims: valid.claims });
                }
                Err(error) => refusal = TokenError::Invalid(provider.name.clone(), error.to_string()),
            }
        }
        Err(refusal)
    }

    /// How the last fetch went; `None` when there was none yet.
    pub(super) fn status(&self, provider: &Name) -> Option<KeysStatus> {
        let issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        issuers.get(provider)?.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn issuer(&self, provider: &Arc<IdentityProvider>) -> Arc<Issuer> {
        let fresh = || {
            Arc::new(Issuer {
                provider: provider.clone(),
                keys: tokio::sync::Mutex::default(),
                status: Mutex::default(),
            })
        };
        let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        if issuers.len() >= MOST_ISSUERS && !issuers.contains_key(&provider.name) {
            issuers.clear();
        }
        let issuer = issuers.entry(provider.name.clone()).or_insert_with(fresh);
        // it was changed: what is known is of another
        if issuer.provider != *provider {
            *issuer = fresh();
        }
        issuer.clone()
    }

    /// The keys that may have signed a token with this header.
    async fn keys(&self, provider: &Arc<IdentityProvider>, header: &Header) -> Result<Vec<DecodingKey>, TokenError> {
        let issuer = self.issuer(provider);
        let mut keys = issuer.keys.lock().await;
        let now = self.clock.now();
        let since = |then: Option<Instant>| then.map(|then| now.saturating_duration_since(then));
        let fresh = since(keys.fetched).is_some_and(|age| age < FRESH);
        let found = keys.set.as_ref().map(|set| candidates(set, header)).unwrap_or_default();
        let may_fetch = since(keys.tried).is_none_or(|age| age >= APART);
        if (fresh && !found.is_empty()) || !may_fetch {
            return match &keys.set {
                Some(_) => Ok(found),
                None => Err(TokenError::Unreachable(provider.name.clone(), "they were asked for just now".to_owned())),
            };
        }
        keys.tried = Some(now);
        let fetched = self.fetch(provider).await;
        let status = KeysStatus {
            result: fetched.as_ref().map(|set| set.keys.len()).map_err(Clone::clone),
            at: self.clock.unix_millis(),
            generation: provider.generation,
        };
        *issuer.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        match fetched {
            Ok(set) => {
                let found = candidates(&set, header);
                keys.set = Some(Arc::new(set));
                keys.fetched = Some(now);
                Ok(found)
            }
            Err(error) => {
                tracing::warn!(identityProvider = %provider.name, error, "the keys could not be fetched");
                match &keys.set {
                    Some(_) if !found.is_empty() => Ok(found),
                    _ => Err(TokenError::Unreachable(provider.name.clone(), error)),
                }
            }
        }
    }

    async fn fetch(&self, provider: &IdentityProvider) -> Result<JwkSet, String> {
        let uri = match &provider.keys {
            KeysAt::Uri(uri) => uri.clone(),
            KeysAt::Discovery(document) => {
                let document: Value = self.get(document).await?;
                if document["issuer"].as_str() != Some(&provider.issuer) {
                    return Err("the discovery document is of another issuer".to_owned());
                }
                let uri = document["jwks_uri"].as_str().unwrap_or_default();
                uri.parse::<ServiceUrl>().map_err(|error| format!("the discovery document's jwks_uri: {error}"))?
            }
        };
        // one by one: a key of a kind that we do not know must not take the others with it
        let answer: Value = self.get(&uri).await?;
        let keys = answer["keys"].as_array().ok_or("the answer is no JWK set")?;
        let keys = keys.iter().filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok());
        Ok(JwkSet { keys: keys.filter(may_sign).collect() })
    }

    async fn get(&self, uri: &ServiceUrl) -> Result<Value, String> {
        let client = self.client.get_or_init(client).as_ref().map_err(Clone::clone)?;
        let exchange = async {
            let request = client.get(uri.url().clone()).header("Accept", "application/json");
            let mut response = request.send().await.map_err(|error| describe(&error))?;
            if !response.status().is_success() {
                return Err(format!("the answer to {uri} is {}", response.status()));
            }
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| describe(&error))? {
                if body.len() + chunk.len() > LARGEST {
                    return Err(format!("the answer to {uri} is larger than 1 MiB"));
                }
                body.extend_from_slice(&chunk);
            }
            serde_json::from_slice(&body).map_err(|error| format!("the answer to {uri} is no JSON: {error}"))
        };
        match tokio::time::timeout(TIME, exchange).await {
            Ok(result) => result,
            Err(_) => Err(format!("{uri} did not answer in {} s", TIME.as_secs())),
        }
    }
}

fn client() -> Result<reqwest::Client, String> {
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
    builder.timeout(TIME).build().map_err(|error| describe(&error))
}

/// The error with its causes: reqwest's own text ends where it begins to be of use.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Keys for signatures, and public ones only.
fn may_sign(key: &Jwk) -> bool {
    let symmetric = matches!(key.algorithm, AlgorithmParameters::OctetKey(_) | AlgorithmParameters::Other(_));
    let signs = key.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
    !symmetric && signs
}

fn candidates(set: &JwkSet, header: &Header) -> Vec<DecodingKey> {
    let named = |key: &&Jwk| header.kid.is_none() || key.common.key_id == header.kid;
    let fits = |key: &&Jwk| fits(key, header.alg);
    set.keys
        .iter()
        .filter(named)
        .filter(fits)
        .take(MOST_KEYS)
        .filter_map(|key| DecodingKey::from_jwk(key).ok())
        .collect()
}

/// Whether a key is of the kind that the algorithm takes, and not meant for another algorithm.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let meant = key.common.key_algorithm.is_none_or(|meant| meant == KeyAlgorithm::from(algorithm));
    let kind = match (&key.algorithm, algorithm.family()) {
        (AlgorithmParameters::RSA(_), AlgorithmFamily::Rsa)
        | (AlgorithmParameters::OctetKeyPair(_), AlgorithmFamily::Ed) => true,
        (AlgorithmParameters::EllipticCurve(parameters), AlgorithmFamily::Ec) => match algorithm {
            Algorithm::ES256 => parameters.curve == EllipticCurve::P256,
            _ => parameters.curve == EllipticCurve::P384,
        },
        _ => false,
    };
    kind && meant
}
