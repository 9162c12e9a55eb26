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
    /// Puts what can check a password, or an API key, in the place of one that was given, and looks whether one outside can
    /// be read.
    pub(super) async fn keep_password(&self, spec: &mut Spec, before: Option<&Record>) -> Result<(), Vec<Violation>> {
        let Spec::Account(account) = spec else { return self.keep_key(spec, before) };
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::config::{Actor, Configuration, FirstStart, OpenOptions, Precondition};
    use crate::model::labels::LabelSelector;
    use crate::model::spec::Collection;
    use crate::model::time::Timestamp;
    use crate::store::memory::MemoryStore;

    async fn open(store: &Arc<MemoryStore>, directory: &Path) -> Arc<Configuration> {
        let options = OpenOptions {
            host_name: "relay.example.com".parse().unwrap(),
            secrets_dir: directory.to_owned(),
            files: false,
            now: Arc::new(|| Timestamp::from_millis(0)),
        };
        Configuration::open(store.clone(), options).await.unwrap()
    }

    fn verifier(config: &Configuration, username: &str) -> Result<Arc<Verifier>, String> {
        let snapshot = config.live().current();
        let account = snapshot.accounts.find(username, &LabelSelector::default()).unwrap();
        account.verifier.clone().map(Option::unwrap)
    }

    #[tokio::test]
    async fn a_password_in_a_file_is_followed() {
        let (store, directory) = (Arc::new(MemoryStore::default()), tempfile::tempdir().unwrap());
        let file = directory.path().join("ada");
        std::fs::write(&file, "first\n").unwrap();
        let config = open(&store, directory.path()).await;
        config.first_start(&FirstStart { smtp_listen: "127.0.0.1:2525".parse().unwrap() }).await.unwrap();
        for (name, password) in [("ada", json!({"file": "ada"})), ("bob", json!({"value": "bobs password"}))] {
            let body = json!({"spec": {"password": password}});
            let (any, actor) = (Precondition::default(), Actor::default());
            config.put(Collection::Accounts, name, &body, &any, &actor, false).await.unwrap();
        }
        let first = verifier(&config, "ada").unwrap();
        assert!(first.verify("first") && first.scram().is_some());
        let bob = config.live().current().accounts.find("bob", &LabelSelector::default()).unwrap().clone();

        config.refresh().await.unwrap();
        assert!(Arc::ptr_eq(&first, &verifier(&config, "ada").unwrap()), "nothing is derived anew");
        std::fs::write(&file, "second").unwrap();
        config.refresh().await.unwrap();
        let second = verifier(&config, "ada").unwrap();
        assert!(second.verify("second") && !second.verify("first"));
        let salts = [&first, &second].map(|verifier| verifier.scram().unwrap().salt.clone());
        assert_eq!(salts[0], salts[1], "the salt tells nothing");
        let still = config.live().current().accounts.find("bob", &LabelSelector::default()).unwrap().clone();
        assert!(Arc::ptr_eq(&bob, &still), "what did not change is the same");

        std::fs::remove_file(&file).unwrap();
        config.refresh().await.unwrap();
        assert!(verifier(&config, "ada").unwrap_err().contains("cannot be read"));
        // neither keeps that the appliance from starting
        let again = open(&store, directory.path()).await;
        assert!(verifier(&again, "ada").is_err());
        assert!(verifier(&again, "bob").unwrap().verify("bobs password"));
        std::fs::write(&file, "third").unwrap();
        again.refresh().await.unwrap();
        assert!(verifier(&again, "ada").unwrap().verify("third"), "back again");

        let stored = store.entries().into_values().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let stored: Vec<String> = stored.collect();
        assert!(stored.iter().any(|record| record.contains("argon2id")));
        for secret in ["bobs password", "second", "third"] {
            assert!(!stored.iter().any(|record| record.contains(secret)), "{secret} is stored");
        }
    }
}
