//! What is kept of a password: an Argon2id hash, and SCRAM keys where the password itself was once seen.

use std::fmt;
use std::num::NonZeroU32;

use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc;
use argon2::{Argon2, ParamsBuilder};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::model::password_hash::PasswordHash;
use crate::smtp::sasl::scram::{self, ScramKeys};
use crate::smtp::sasl::{NotPrepared, prepare};

/// Longest password, in octets.
pub const MAX_PASSWORD: usize = 1_024;

/// What a password is checked against. From a hash alone there are no SCRAM keys: such an account logs in by PLAIN and
/// LOGIN only, and SCRAM refuses it as it refuses a wrong password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Verifier {
    hash: PasswordHash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scram: Option<StoredScramKeys>,
}

/// Why a password cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// It is empty or too long.
    #[error("a password has 1 to {MAX_PASSWORD} octets")]
    Length,
    /// It holds what SASLprep forbids.
    #[error(transparent)]
    NotPrepared(#[from] NotPrepared),
    /// The system failed.
    #[error("the password could not be hashed: {0}")]
    System(String),
}

impl Verifier {
    /// Derives everything from a password. Takes a CPU for about 0.2 s: never on a thread that others wait for.
    ///
    /// # Errors
    /// When the password can be none.
    pub fn derive(password: &str) -> Result<Self, PasswordError> {
        Self::derive_salted(password, random_salt()?)
    }

    /// The same, with this salt for the SCRAM keys, which a client sees.
    ///
    /// # Errors
    /// When the password can be none.
    pub fn derive_salted(password: &str, scram_salt: [u8; scram::SALT]) -> Result<Self, PasswordError> {
        let password = Self::checked(password)?;
        let hash = hash(&password, &random_salt()?).map_err(PasswordError::System)?;
        let iterations = NonZeroU32::new(scram::ITERATIONS).ok_or(PasswordError::Length)?;
        let keys = ScramKeys::derive(&password, &scram_salt, iterations);
        Ok(Verifier { hash, scram: Some(StoredScramKeys(keys)) })
    }

    /// From a hash that was made elsewhere.
    pub fn from_hash(hash: PasswordHash) -> Self {
        Verifier { hash, scram: None }
    }

    /// What speaks against a password, before anything is derived from it; gives the prepared one.
    ///
    /// # Errors
    /// When the password can be none.
    pub fn checked(password: &str) -> Result<Zeroizing<String>, PasswordError> {
        if password.is_empty() || password.len() > MAX_PASSWORD {
            return Err(PasswordError::Length);
        }
        Ok(Zeroizing::new(prepare(password)?))
    }

    /// Whether this prepared password is the one. Takes memory and a CPU: see [`super::hashing`].
    pub fn verify(&self, password: &str) -> bool {
        phc::PasswordHash::new(self.hash.as_str())
            .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
    }

    /// The Argon2 hash.
    pub fn hash(&self) -> &PasswordHash {
        &self.hash
    }

    /// The SCRAM keys, where there are some.
    pub fn scram(&self) -> Option<&ScramKeys> {
        self.scram.as_ref().map(|stored| &stored.0)
    }
}

/// Never what it holds: a debug print lands in logs.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(…)")
    }
}

fn random_salt() -> Result<[u8; scram::SALT], PasswordError> {
    let mut salt = [0; scram::SALT];
    getrandom::fill(&mut salt).map_err(|error| PasswordError::System(error.to_string()))?;
    Ok(salt)
}

/// Argon2id with the parameters that OWASP advises at least: 19 MiB, 2 passes, 1 lane.
fn hash(password: &str, salt: &[u8]) -> Result<PasswordHash, String> {
    let params =
        ParamsBuilder::new().m_cost(19 << 10).t_cost(2).p_cost(1).build().map_err(|error| error.to_string())?;
    let argon2 = Argon2::from(params);
    let hash: phc::PasswordHash = argon2::PasswordHasher::hash_password_with_salt(&argon2, password.as_bytes(), salt)
        .map_err(|error| error.to_string())?;
    hash.to_string().parse().map_err(|error: crate::model::password_hash::NotAPasswordHash| error.to_string())
}

/// SCRAM keys as they are stored.
#[derive(Clone, PartialEq, Eq)]
struct StoredScramKeys(ScramKeys);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Form {
    salt: String,
    iterations: u32,
    stored_key: String,
    server_key: String,
}

impl Serialize for StoredScramKeys {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let ScramKeys { salt, iterations, stored_key, server_key } = &self.0;
        let form = Form {
            salt: STANDARD.encode(salt),
            iterations: *iterations,
            stored_key: STANDARD.encode(stored_key),
            server_key: STANDARD.encode(server_key),
        };
        form.serialize(s)
    }
}

impl<'de> Deserialize<'de> for StoredScramKeys {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let form = Form::deserialize(d)?;
        let octets = |text: &str| STANDARD.decode(text).map_err(serde::de::Error::custom);
        let key = |text: &str| -> Result<[u8; 32], D::Error> {
            octets(text)?.try_into().map_err(|_| serde::de::Error::custom("a SCRAM key has 32 octets"))
        };
        Ok(StoredScramKeys(ScramKeys {
            salt: octets(&form.salt)?,
            iterations: form.iterations,
            stored_key: key(&form.stored_key)?,
            server_key: key(&form.server_key)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_recognised_and_not_kept() {
        let verifier = Verifier::derive("correct horse\u{a0}battery").unwrap();
        assert!(verifier.verify("correct horse battery"), "prepared");
        assert!(!verifier.verify("correct horse battery "));
        let keys = verifier.scram().unwrap();
        let again = ScramKeys::derive("correct horse battery", &keys.salt, NonZeroU32::new(scram::ITERATIONS).unwrap());
        assert_eq!(keys, &again);

        let stored = serde_json::to_string(&verifier).unwrap();
        assert!(stored.contains("$argon2id$v=19$m=19456,t=2,p=1$") && !stored.contains("horse"), "{stored}");
        assert_eq!(serde_json::from_str::<Verifier>(&stored).unwrap(), verifier);
        assert!(!format!("{verifier:?}").contains("argon2"));

        let hashed = Verifier::from_hash(verifier.hash().clone());
        assert!(hashed.verify("correct horse battery") && hashed.scram().is_none());
    }

    #[test]
    fn what_can_be_no_password_is_refused() {
        assert_eq!(Verifier::derive(""), Err(PasswordError::Length));
        assert_eq!(Verifier::derive(&"x".repeat(MAX_PASSWORD + 1)), Err(PasswordError::Length));
        assert_eq!(Verifier::derive("a\0b"), Err(PasswordError::NotPrepared(NotPrepared)));
    }
}
