//! API keys: 256 random bits, shown once, of which only the SHA-256 is kept.
//!
//! **Writing.** A `hash` or a `value` becomes a [`KeyMaterial`] ([`Vault::keep_key`]), which is then the secret that the record
//! keeps; a key that takes the place of another may let that one hold for a while. **Using.** Keys in the environment and in
//! files are read when the configuration is compiled ([`Vault::key_material`]), and again when a file changes; one that cannot
//! be read is not valid, and its condition says so.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::object::{Record, Spec};
use super::violation::{Violation, ViolationCode};
use super::{Kept, Vault};
use crate::accounts::{KeyMaterial, PreviousKey};
use crate::model::key_digest::{KeyDigest, LONGEST_KEY, SHORTEST_KEY};
use crate::model::secret::{Fingerprint, Secret, SecretText};
use crate::model::spec::api_key::ApiKeySecret;

/// What every key begins with, so that people and secret scanners know one when they see it.
const PREFIX: &str = "bh_";

/// A key in clear: `bh_` and 43 characters of base64url. It exists between its making and its showing.
pub struct ApiKey(String);

/// The system gives no randomness.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes: {0}")]
pub struct NoRandomness(String);

impl ApiKey {
    /// A new key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| NoRandomness(error.to_string()))?;
        Ok(ApiKey(format!("{PREFIX}{}", base64url(&bytes))))
    }

    /// What is kept of it.
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }

    /// What is kept of it, as configuration has it.
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(&self.0)
    }
}

/// The key itself: for the terminal or the file that shows it.
impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Never the key: a debug print lands in logs.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// The SHA-256 of a key. Keys are 256 random bits, so nothing slower is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a key's text.
    pub fn of(key: &str) -> Self {
        KeyHash(Sha256::digest(key.as_bytes()).into())
    }

    /// Whether this is the key; takes the same time whatever is presented.
    pub fn matches(&self, presented: &str) -> bool {
        self.0.ct_eq(&KeyHash::of(presented).0).into()
    }

    /// As it is stored.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From what is stored; `None` when that is no hash.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(KeyHash)
    }
}

impl Vault {
    /// Puts what can check an API key in the place of one that was given, and looks whether one outside can be read.
    pub(super) fn keep_key(&self, spec: &mut Spec, before: Option<&Record>) -> Result<(), Vec<Violation>> {
        let Spec::ApiKey(key) = spec else { return Ok(()) };
        let Some(secret) = &mut Arc::make_mut(key).key else { return Ok(()) };
        let refuse =
            |field: &str, code, detail: String| Err(vec![Violation::new(format!("/spec/key/{field}"), code, detail)]);
        let (digest, previous_until) = match &*secret {
            ApiKeySecret::Hash { hash, previous_until } => (*hash, *previous_until),
            ApiKeySecret::Secret(Secret::Given(text)) => match long_enough(text.reveal()) {
                Ok(()) => (KeyDigest::of(text.reveal()), None),
                Err(detail) => return refuse("value", ViolationCode::OutOfRange, detail),
            },
            ApiKeySecret::Secret(outside @ (Secret::Env(_) | Secret::File(_))) => {
                let field = if matches!(outside, Secret::Env(_)) { "env" } else { "file" };
                return match self.secret(outside, &Kept::default()) {
                    Err(error) => refuse(field, ViolationCode::SecretUnreadable, error.to_string()),
                    Ok(text) => {
                        long_enough(text.reveal()).or_else(|detail| refuse(field, ViolationCode::OutOfRange, detail))
                    }
                };
            }
            ApiKeySecret::Secret(Secret::Kept(_)) => return Ok(()),
        };
        let known = before.and_then(|record| self.known_key(record));
        let kept = match known {
            Some((fingerprint, material)) if material.digest == digest => Secret::Kept(fingerprint),
            known => {
                let before = known.map(|(_, material)| material.digest);
                let previous = previous_until.zip(before).map(|(until, digest)| PreviousKey { digest, until });
                let material = KeyMaterial { digest, previous };
                let text = serde_json::to_string(&material).expect("a digest and a time are JSON");
                Secret::Given(SecretText::new(text))
            }
        };
        *secret = ApiKeySecret::Secret(kept);
        Ok(())
    }

    /// What an API key is checked against.
    ///
    /// # Errors
    /// Why it cannot be had now, in words that hold nothing of it.
    pub(super) fn key_material(&self, secret: &ApiKeySecret, kept: &Kept) -> Result<KeyMaterial, String> {
        let secret = match secret {
            ApiKeySecret::Hash { hash, .. } => return Ok(KeyMaterial::new(*hash)),
            ApiKeySecret::Secret(secret) => secret,
        };
        let text = self.secret(secret, kept).map_err(|error| error.to_string())?;
        match secret {
            Secret::Kept(_) => {
                serde_json::from_str(text.reveal()).map_err(|_| "what is stored of it is damaged".to_owned())
            }
            _ => long_enough(text.reveal()).map(|()| KeyMaterial::new(KeyDigest::of(text.reveal()))),
        }
    }

    /// The key that an object has in the store.
    fn known_key(&self, record: &Record) -> Option<(Fingerprint, KeyMaterial)> {
        let secret: Secret = serde_json::from_value(record.spec.get("key")?.clone()).ok()?;
        let Secret::Kept(fingerprint) = &secret else { return None };
        let text = self.secret(&secret, &record.secrets).ok()?;
        Some((fingerprint.clone(), serde_json::from_str(text.reveal()).ok()?))
    }
}

/// Only its digest is kept, so it must not be short enough to be guessed.
fn long_enough(key: &str) -> Result<(), String> {
    match key.len() {
        SHORTEST_KEY..=LONGEST_KEY => Ok(()),
        _ => Err(format!("a key has {SHORTEST_KEY} to {LONGEST_KEY} characters")),
    }
}

/// RFC 4648, section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for character in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * character) & 63) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_look_as_promised_and_are_recognised() {
        let (key, other) = (ApiKey::generate().unwrap(), ApiKey::generate().unwrap());
        let text = key.to_string();
        assert_eq!(text.len(), 3 + 43);
        assert!(text.strip_prefix("bh_").unwrap().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
        assert!(key.hash().matches(&text));
        assert!(!key.hash().matches(&other.to_string()));
        assert!(!key.hash().matches(""));
        assert!(!format!("{key:?}").contains(&text));
    }

    #[test]
    fn base64url_as_in_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg")] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }
}
