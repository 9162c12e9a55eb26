//! Who may authenticate: accounts, what is kept of their passwords, tokens of identity providers, and the way of a login.
//!
//! [`Accounts`] is a table built from the configuration; a [`Realm`] is the part of it that one virtual server lets in.
//! [`Authenticator::begin`] starts a login for a realm and gives a [`Session`], which takes the client's messages and
//! says what to answer: it drives `smtp::sasl`, looks accounts up, and has passwords and tokens checked.
//!
//! ```text
//!  smtp::server ── Auth question ──▶ Session ── Step ──▶ smtp::sasl::Exchange (no IO)
//!                                      │ password            │ SCRAM keys            │ token
//!                                      ▼                     ▼                       ▼
//!                    verified logins ─▶ throttle ─▶ hashing  throttle                tokens (keys of the issuer)
//! ```
//!
//! What holds:
//! - **No password is kept**, only what can check one ([`Verifier`]).
//! - **Who does not exist fails as slowly as a wrong password.** One Argon2 is computed either way, with parameters that
//!   an account here has; SCRAM goes on with a salt that was made up, the same one each time.
//! - **Guessing gets slower** by network and by name, and is then refused unseen. A login that was verified in the last
//!   five minutes is recognised without an Argon2, and before the throttle.
//! - **Bounded**: computations at a time, waiters, remembered logins, remembered failures, keys of issuers.
//!
//! What fails on our side (too much to compute, an issuer that cannot be reached) is temporary: 454 4.7.0.

mod api_keys;
mod authenticator;
mod bearer;
mod bounded;
mod hashing;
mod provider;
mod quota;
mod throttle;
mod tokens;
mod verified;
mod verifier;
mod window;

use std::collections::HashMap;
use std::sync::Arc;

pub use api_keys::{ApiKey, ApiKeys, KeyMaterial, PreviousKey};
pub use authenticator::{Authenticator, Outcome, Realm, Refusal, Session, stable_salt};
pub use bearer::Bearer;
pub use provider::{IdentityProvider, KeysAt, RolesIn};
pub use quota::{Charge, Limited, OverQuota, Quotas, Subject, Usage, What};
pub use tokens::{KeysStatus, TokenError};
pub use verifier::{MAX_PASSWORD, PasswordError, Verifier};

use crate::model::labels::{LabelSelector, Labels};
use crate::model::name::Name;
use crate::model::spec::account::{AccountQuotas, SenderPattern};
use crate::smtp::address::{Domain, Mailbox, ReversePath};

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name of the object.
    pub name: Name,
    /// Rises by one with each change of it.
    pub generation: u64,
    /// What it logs in as, as it is configured.
    pub username: String,
    /// Its labels: a virtual server picks accounts by them.
    pub labels: Labels,
    /// What its password is checked against; without one it logs in by tokens only. Or why the password that it has
    /// cannot be read now.
    pub verifier: Result<Option<Arc<Verifier>>, String>,
    /// Whether it may send to domains that are not local.
    pub may_relay: bool,
    /// What it may send as, beside its own username; `None`: anything in a local domain.
    pub send_as: Option<Vec<SenderPattern>>,
    /// How much it may send.
    pub quotas: AccountQuotas,
}

impl Account {
    /// What its password is checked against, if it has one that can be read.
    pub fn verifier(&self) -> Option<&Arc<Verifier>> {
        self.verifier.as_ref().ok().and_then(Option::as_ref)
    }

    /// Whether it may send with this reverse-path. The null reverse-path, which every notification has, always; its own
    /// username, when that is an address; then what `sendAs` says, or without it any address in a local domain.
    pub fn may_send_as(&self, reverse_path: &ReversePath, is_local: impl Fn(&Domain) -> bool) -> bool {
        let ReversePath::Mailbox(sender) = reverse_path else { return true };
        let key = crate::model::host::mailbox_key(sender);
        let own = || self.username.parse::<Mailbox>().is_ok_and(|own| crate::model::host::mailbox_key(&own) == key);
        match &self.send_as {
            None => is_local(sender.domain()) || own(),
            Some(patterns) => patterns.iter().any(|pattern| pattern.matches(sender)) || own(),
        }
    }
}

/// All accounts, by username.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts {
    by_username: HashMap<String, Arc<Account>>,
    /// In the order of their names: what [`Accounts::any_verifier`] picks from.
    verifiers: Vec<Arc<Verifier>>,
}

/// Two accounts have the same username.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("account {first} has the username {username} already")]
pub struct UsernameTaken {
    /// The username.
    pub username: String,
    /// The account that has it.
    pub first: Name,
    /// The one that wants it too.
    pub second: Name,
}

impl Accounts {
    /// The table of these accounts.
    ///
    /// # Errors
    /// Every username that is taken.
    pub fn build(accounts: impl IntoIterator<Item = Arc<Account>>) -> Result<Self, Vec<UsernameTaken>> {
        let (mut table, mut taken) = (Accounts::default(), Vec::new());
        for account in accounts {
            table.verifiers.extend(account.verifier().cloned());
            let (username, second) = (account.username.clone(), account.name.clone());
            match table.by_username.entry(username_key(&username)) {
                std::collections::hash_map::Entry::Occupied(other) => {
                    taken.push(UsernameTaken { username, first: other.get().name.clone(), second });
                }
                std::collections::hash_map::Entry::Vacant(free) => drop(free.insert(account)),
            }
        }
        if taken.is_empty() { Ok(table) } else { Err(taken) }
    }

    /// The account with this username, if the selector picks it. Case of ASCII letters does not count.
    pub fn find(&self, username: &str, selector: &LabelSelector) -> Option<&Arc<Account>> {
        self.by_username.get(&username_key(username)).filter(|account| selector.matches(&account.labels))
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.by_username.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_username.len()
    }

    /// True without accounts.
    pub fn is_empty(&self) -> bool {
        self.by_username.is_empty()
    }

    /// The verifier of some account, the same one for the same number: so that who does not exist costs what somebody
    /// costs who does.
    fn any_verifier(&self, number: u64) -> Option<&Arc<Verifier>> {
        let count = u64::try_from(self.verifiers.len()).ok().filter(|count| *count > 0)?;
        self.verifiers.get(usize::try_from(number % count).ok()?)
    }
}

/// The form in which two spellings of a username are equal.
pub fn username_key(username: &str) -> String {
    username.to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
