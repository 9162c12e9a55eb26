//! Passwords of accounts: what can check one takes its place before anything is stored.
//!
//! **Writing.** A `value` or a `hash` becomes a [`Verifier`] ([`Vault::keep_password`]), which is then the secret that the
//! record keeps, so its fingerprint says nothing about the password but through Argon2. Writing the password that an
//! account has changes nothing. **Using.** Of passwords in the environment and in files the verifier is derived when they
//! are read ([`Vault::verifier`]) and lives in memory, once for each text. Deriving takes a CPU for a while, so
//! [`Vault::derive_all`] does it on a thread of its own before the compiler asks.
//!
//! A password that cannot be read is refused when it is written; when it goes away later, the account has no password
//! until it is back, and its condition says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::compile::Objects;
use super::object::{Record, Spec};
use super::secrets::{Kept, Vault};
use super::violation::{Violation, ViolationCode};
use crate::accounts::{Verifier, stable_salt, username_key};
use crate::model::secret::{Fingerprint, Secret, SecretText};
use crate::model::spec::account::AccountPassword;

/// Verifiers of passwords that lie outside of the store.
#[derive(Default)]
pub(super) struct Derived(Mutex<HashMap<(String, Fingerprint), Arc<Verifier>>>);

impl Vault {
    /// Puts what can check a password in the place of one that was given, and looks whether one outside can be read.
    pub(super) async fn keep_password(&self, spec: &mut Spec, before: Option<&Record>) -> Result<(), Vec<Violation>> {
        let Spec::Account(account) = spec else { return Ok(()) };
        let Some(password) = &mut Arc::make_mut(account).password else { return Ok(()) };
        let refuse = |field: &str, code, detail: String| {
            Err(vec![Violation::new(format!("/spec/password/{field}"), code, detail)])
        };
        let kept = match password {
            AccountPassword::Hash(hash) => stored(&Verifier::from_hash(hash.clone())),
            AccountPassword::Secret(Secret::Given(text)) => {
                if let Err(error) = Verifier::checked(text.reveal()) {
                    return refuse("value", ViolationCode::InvalidValue, error.to_string());
                }
                let known = before.and_then(|record| self.known(record));
                let text = text.clone();
                let work = tokio::task::spawn_blocking(move || kept_or_derived(&text, known));
                match work.await.map_err(|error| error.to_string()).and_then(|derived| derived) {
                    Ok(secret) => secret,
                    Err(error) => return refuse("value", ViolationCode::InvalidValue, error),
                }
            }
            AccountPassword::Secret(outside @ (Secret::Env(_) | Secret::File(_))) => {
                let field = if matches!(outside, Secret::Env(_)) { "env" } else { "file" };
                return match self.secret(outside, &Kept::default()) {
                    Err(error) => refuse(field, ViolationCode::SecretUnreadable, error.to_string()),
                    Ok(text) => match Verifier::checked(text.reveal()) {
                        Err(error) => refuse(field, ViolationCode::InvalidValue, error.to_string()),
                        Ok(_) => Ok(()),
                    },
                };
            }
            AccountPassword::Secret(Secret::Kept(_)) => return Ok(()),
        };
        *password = AccountPassword::Secret(kept);
        Ok(())
    }

    /// The password that an account has in the store.
    fn known(&self, record: &Record) -> Option<(Fingerprint, Verifier)> {
        let secret: Secret = serde_json::from_value(record.spec.get("password")?.clone()).ok()?;
        let Secret::Kept(fingerprint) = &secret else { return None };
        let text = self.secret(&secret, &record.secrets).ok()?;
        Some((fingerprint.clone(), serde_json::from_str(text.reveal()).ok()?))
    }

    /// What the password of an account is checked against. Takes a CPU for a while when the password lies outside and
    /// was not seen before.
    ///
    /// # Errors
    /// Why it cannot be had now, in words that hold nothing of it.
    pub(super) fn verifier(&self, username: &str, secret: &Secret, kept: &Kept) -> Result<Arc<Verifier>, String> {
        let text = self.secret(secret, kept).map_err(|error| error.to_string())?;
        if let Secret::Kept(_) = secret {
            return serde_json::from_str(text.reveal())
                .map(Arc::new)
                .map_err(|_| "what is stored of it is damaged".to_owned());
        }
        let key = (username_key(username), self.fingerprint(&text));
        let known = |key| self.derived.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        if let Some(verifier) = known(&key) {
            return Ok(verifier);
        }
        let salt = stable_salt(&self.login_key(), username);
        let verifier = Arc::new(Verifier::derive_salted(text.reveal(), salt).map_err(|error| error.to_string())?);
        self.derived.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, verifier.clone());
        Ok(verifier)
    }

    /// Derives what the compiler will ask for, on a thread of its own, and forgets what it will not.
    pub(super) async fn derive_all(self: &Arc<Self>, objects: &Objects) {
        let outside = objects.outside_passwords();
        if outside.is_empty() {
            return;
        }
        let vault = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let mut used = HashMap::new();
            for (username, secret) in outside {
                let Ok(verifier) = vault.verifier(&username, &secret, &Kept::default()) else { continue };
                let Ok(text) = vault.secret(&secret, &Kept::default()) else { continue };
                used.insert((username_key(&username), vault.fingerprint(&text)), verifier);
            }
            *vault.derived.0.lock().unwrap_or_else(PoisonError::into_inner) = used;
        });
        // a panic in there is told by the compiler, which then derives itself
        let _ = work.await;
    }
}

fn kept_or_derived(text: &SecretText, known: Option<(Fingerprint, Verifier)>) -> Result<Secret, String> {
    let prepared = Verifier::checked(text.reveal()).map_err(|error| error.to_string())?;
    if let Some((fingerprint, verifier)) = known
        && verifier.scram().is_some()
        && verifier.verify(&prepared)
    {
        return Ok(Secret::Kept(fingerprint));
    }
    Verifier::derive(text.reveal()).map(|verifier| stored(&verifier)).map_err(|error| error.to_string())
}

/// The secret that the store keeps instead of a password.
fn stored(verifier: &Verifier) -> Secret {
    let text = serde_json::to_string(verifier).expect("a verifier has text keys only");
    Secret::Given(SecretText::new(text))
}
