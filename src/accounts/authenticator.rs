//! The way of a login: from the AUTH command to an account, or to the reply that refuses it.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::hashing::Hashing;
use super::provider::IdentityProvider;
use super::throttle::{Throttle, TooMany, Turn};
use super::tokens::{KeysStatus, TokenError, Tokens};
use super::verified::{Tag, VerifiedLogins};
use super::{Account, Accounts, Verifier, username_key};
use crate::model::labels::LabelSelector;
use crate::model::name::Name;
use crate::net::clock::Clock;
use crate::smtp::address::Domain;
use crate::smtp::reply::{EnhancedStatus, Reply};
use crate::smtp::sasl::oauth::BearerError;
use crate::smtp::sasl::scram::{self, ChannelBindings, ScramKeys, hmac};
use crate::smtp::sasl::{Credentials, Exchange, Mechanism, SaslError, Step};

/// Octets of a nonce.
const NONCE: usize = 18;

/// Who may log in on one virtual server. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Realm {
    /// All accounts.
    pub accounts: Arc<Accounts>,
    /// Which of them.
    pub selector: LabelSelector,
    /// Whose tokens are taken.
    pub providers: Vec<Arc<IdentityProvider>>,
    /// Completes a username that has no domain, where there is no account of that bare name.
    pub default_domain: Option<Domain>,
}

impl Realm {
    /// The account that a client means by this name.
    pub fn find(&self, username: &str) -> Option<&Arc<Account>> {
        let completed = || {
            let domain = self.default_domain.as_ref().filter(|_| !username.contains('@'))?;
            self.accounts.find(&format!("{username}@{domain}"), &self.selector)
        };
        self.accounts.find(username, &self.selector).or_else(completed)
    }
}

/// What to answer to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// 334 and this, in base64.
    Challenge(Vec<u8>),
    /// The client is this account: 235.
    Accepted(Arc<Account>),
    /// It is not; counts as a failure of the session.
    Refused {
        /// The reply: 535, or 501 for what is malformed. The same for every reason that a guesser could learn from.
        reply: Reply,
        /// Why, for the log.
        reason: Refusal,
    },
    /// Nobody can tell now: 454. Counts as a failure only when the reason is too many of them.
    Unavailable {
        /// The reply.
        reply: Reply,
        /// Why, for the log.
        reason: Refusal,
    },
}

/// Why a client was not let in: for the log, never for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The client's message is not acceptable.
    #[error("{0}")]
    Message(SaslError),
    /// The virtual server has no such account.
    #[error("there is no account {0:?} for this virtual server")]
    UnknownUser(String),
    /// The password, or the proof of it, is wrong.
    #[error("the password of {0:?} is wrong")]
    WrongPassword(String),
    /// The account has no password, or SCRAM was used and there is only a hash of it.
    #[error("account {0:?} has no password that this mechanism can check")]
    NoPassword(String),
    /// The token is not taken.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// The token is of somebody else than the client says it is for.
    #[error("the token is of {token:?}, not of {claimed:?}")]
    OtherUser {
        /// Whom the client named.
        claimed: String,
        /// Whom the token names.
        token: String,
    },
    /// There were too many failures from this network or of this name.
    #[error("there were too many failed logins of {0:?} or from this network")]
    TooManyFailures(String),
    /// Too many logins are being checked.
    #[error("too many logins are being checked")]
    Busy,
    /// The system gives no randomness.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl Refusal {
    /// Whether another try with the same credentials may succeed.
    fn is_temporary(&self) -> bool {
        use Refusal::*;
        matches!(self, TooManyFailures(_) | Busy | NoRandomness | Token(TokenError::Unreachable(..)))
    }

    fn outcome(self) -> Outcome {
        let reason = self;
        if reason.is_temporary() {
            let reply =
                Reply::new(454, EnhancedStatus::transient(7, 0), "Temporary authentication failure, try again later");
            return Outcome::Unavailable { reply, reason };
        }
        let reply = match reason {
            Refusal::Message(SaslError::Malformed) => {
                Reply::new(501, EnhancedStatus::permanent(5, 2), "Cannot make sense of the authentication data")
            }
            _ => Reply::new(535, EnhancedStatus::permanent(7, 8), "Authentication credentials invalid"),
        };
        Outcome::Refused { reply, reason }
    }
}

/// Checks logins; one for the whole appliance.
pub struct Authenticator {
    clock: Arc<dyn Clock>,
    /// What salts of users that do not exist are made from.
    key: [u8; 32],
    /// What remembered logins are hashed with.
    process_key: [u8; 32],
    hashing: Hashing,
    pub(super) tokens: Tokens,
    throttle: Mutex<Throttle>,
    verified: Mutex<VerifiedLogins>,
}

/// Never the keys.
impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authenticator(…)")
    }
}

impl Authenticator {
    /// A new one that remembers nothing. `key` is 256 random bits that stay the same as long as the store does.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new(clock: Arc<dyn Clock>, key: [u8; 32]) -> Result<Arc<Self>, Refusal> {
        let mut process_key = [0; 32];
        getrandom::fill(&mut process_key).map_err(|_| Refusal::NoRandomness)?;
        Ok(Arc::new(Authenticator {
            tokens: Tokens::new(clock.clone()),
            clock,
            key,
            process_key,
            hashing: Hashing::new(),
            throttle: Mutex::new(Throttle::new()),
            verified: Mutex::new(VerifiedLogins::new()),
        }))
    }

    /// Begins a login: AUTH with its mechanism, and its initial response if it has one.
    pub async fn begin(
        self: &Arc<Self>,
        mechanism: Mechanism,
        client: IpAddr,
        realm: Realm,
        initial: Option<&[u8]>,
        bindings: ChannelBindings,
    ) -> (Session, Outcome) {
        let (exchange, step) = Exchange::start(mechanism, initial, bindings);
        let authenticator = self.clone();
        let mut session = Session { authenticator, realm, client, exchange, account: None, turn: None, reason: None };
        let outcome = session.drive(step).await;
        (session, outcome)
    }

    /// How the last fetch of an identity provider's keys went; `None` when no token has needed them yet.
    pub fn provider_status(&self, provider: &Name) -> Option<KeysStatus> {
        self.tokens.status(provider)
    }

    /// How many Argon2 hashes were computed.
    pub fn computed(&self) -> u64 {
        self.hashing.computed()
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verified(&self) -> MutexGuard<'_, VerifiedLogins> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of an attempt.
    async fn turn(&self, client: IpAddr, username: Option<&str>) -> Result<Turn, Refusal> {
        let turn = self.throttle().admit(client, username, self.clock.now());
        let turn = turn.map_err(|TooMany| Refusal::TooManyFailures(username.unwrap_or_default().to_owned()))?;
        if !turn.wait.is_zero() {
            tokio::time::sleep(turn.wait).await;
        }
        Ok(turn)
    }

    fn still(&self, turn: &Turn, username: &str) -> Result<(), Refusal> {
        let still = self.throttle().still(turn, self.clock.now());
        still.map_err(|TooMany| Refusal::TooManyFailures(username.to_owned()))
    }

    /// Whether the password is that of the account; `None` stands for an account that does not exist.
    async fn password(
        &self,
        client: IpAddr,
        realm: &Realm,
        username: &str,
        password: &str,
    ) -> Result<Arc<Account>, Refusal> {
        let account = realm.find(username).cloned();
        let real = account.as_ref().and_then(|account| account.verifier().cloned());
        // who does not exist costs what somebody costs who does, the same one each time
        let number = hmac(&self.key, &[b"stand-in", username_key(username).as_bytes()]);
        let number = u64::from_be_bytes(number[..8].try_into().unwrap_or_default());
        let Some(verifier) = real.clone().or_else(|| realm.accounts.any_verifier(number).cloned()) else {
            return Err(Refusal::UnknownUser(username.to_owned()));
        };
        let tag = Tag::new(&self.process_key, &username_key(username), password, &verifier);
        let known = || real.is_some() && self.verified().holds(tag, self.clock.now());
        if let Some(account) = account.as_ref().filter(|_| known()) {
            return Ok(account.clone());
        }
        let turn = self.turn(client, Some(username)).await?;
        let permit = self.hashing.permit().await.map_err(|_| Refusal::Busy)?;
        // the same login may have been verified, and others may have failed, while this one waited
        if let Some(account) = account.as_ref().filter(|_| known()) {
            return Ok(account.clone());
        }
        self.still(&turn, username)?;
        let password = zeroize::Zeroizing::new(password.to_owned());
        let right = self.hashing.compute(permit, move || verifier.verify(&password)).await;
        let right = right.map_err(|_| Refusal::Busy)? && real.is_some();
        let now = self.clock.now();
        match account.filter(|_| right) {
            Some(account) => {
                self.throttle().succeeded(&turn, now);
                self.verified().remember(tag, now);
                Ok(account)
            }
            None => {
                self.throttle().failed(&turn, now);
                Err(match (realm.find(username), real) {
                    (None, _) => Refusal::UnknownUser(username.to_owned()),
                    (Some(_), None) => Refusal::NoPassword(username.to_owned()),
                    (Some(_), Some(_)) => Refusal::WrongPassword(username.to_owned()),
                })
            }
        }
    }

    async fn token(
        &self,
        client: IpAddr,
        realm: &Realm,
        claimed: Option<&str>,
        token: &str,
    ) -> Result<Arc<Account>, Refusal> {
        // a token cannot be guessed: the throttle only keeps floods of bad ones from costing a signature check each
        let turn = self.turn(client, None).await?;
        let checked = self.tokens.verify(token, &realm.providers).await.map_err(Refusal::Token);
        let checked = checked.and_then(|username| {
            let account = realm.find(&username).ok_or_else(|| Refusal::UnknownUser(username.clone()))?;
            match claimed {
                Some(claimed) if realm.find(claimed).is_none_or(|other| !Arc::ptr_eq(other, account)) => {
                    Err(Refusal::OtherUser { claimed: claimed.to_owned(), token: username })
                }
                _ => Ok(account.clone()),
            }
        });
        let now = self.clock.now();
        match &checked {
            Ok(_) => self.throttle().succeeded(&turn, now),
            Err(refusal) if refusal.is_temporary() => {}
            Err(_) => self.throttle().failed(&turn, now),
        }
        checked
    }

    /// The SCRAM keys of a user; for one who has none, keys that nothing fits, with the same salt each time.
    fn scram_keys(&self, verifier: Option<&Verifier>, username: &str) -> ScramKeys {
        if let Some(keys) = verifier.and_then(Verifier::scram) {
            return keys.clone();
        }
        let username = username_key(username);
        let made_up = |purpose: &[u8]| hmac(&self.key, &[purpose, username.as_bytes()]);
        ScramKeys {
            salt: stable_salt(&self.key, &username).to_vec(),
            iterations: scram::ITERATIONS,
            stored_key: made_up(b"stored key "),
            server_key: made_up(b"server key "),
        }
    }
}

/// The salt of a user's SCRAM keys where none is stored: of one who does not exist, and of one whose password lies
/// outside of the store. Both look the same, and stay the same over a restart.
pub fn stable_salt(key: &[u8; 32], username: &str) -> [u8; scram::SALT] {
    let whole = hmac(key, &[b"salt ", username_key(username).as_bytes()]);
    std::array::from_fn(|index| whole[index])
}

/// A login that is going on.
#[derive(Debug)]
pub struct Session {
    authenticator: Arc<Authenticator>,
    realm: Realm,
    client: IpAddr,
    exchange: Exchange,
    /// Who it is, once that is known.
    account: Option<Arc<Account>>,
    /// SCRAM: the attempt that is to succeed or fail.
    turn: Option<(Turn, String)>,
    /// Why it will fail, while the client still has to read that.
    reason: Option<Refusal>,
}

impl Session {
    /// Takes the client's response to a challenge, decoded from base64.
    pub async fn respond(&mut self, response: &[u8]) -> Outcome {
        if let Some((turn, username)) = &self.turn
            && let Err(refusal) = self.authenticator.still(turn, username)
        {
            self.turn = None;
            return refusal.outcome();
        }
        let step = self.exchange.respond(response);
        self.drive(step).await
    }

    async fn drive(&mut self, mut step: Step) -> Outcome {
        loop {
            step = match step {
                Step::Challenge(challenge) => return Outcome::Challenge(challenge),
                Step::Verify(credentials) => match self.check(&credentials).await {
                    Ok(account) => {
                        self.account = Some(account);
                        self.exchange.verdict(Ok(()))
                    }
                    Err(refusal) if refusal.is_temporary() => return refusal.outcome(),
                    Err(refusal) => {
                        self.reason = Some(refusal);
                        self.exchange.verdict(Err(BearerError::InvalidToken))
                    }
                },
                Step::NeedScramKeys { username } => match self.scram_keys(username).await {
                    Ok((keys, nonce)) => self.exchange.scram_keys(keys, &nonce),
                    Err(refusal) => return refusal.outcome(),
                },
                Step::Done | Step::Proven { .. } => return self.accepted(),
                Step::Fail(error) => return self.failed(error),
            };
        }
    }

    async fn check(&self, credentials: &Credentials) -> Result<Arc<Account>, Refusal> {
        match credentials {
            Credentials::Password { username, password } => {
                self.authenticator.password(self.client, &self.realm, username, password).await
            }
            Credentials::Token { username, token } => {
                self.authenticator.token(self.client, &self.realm, username.as_deref(), token).await
            }
        }
    }

    async fn scram_keys(&mut self, username: String) -> Result<(ScramKeys, String), Refusal> {
        let turn = self.authenticator.turn(self.client, Some(&username)).await?;
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| Refusal::NoRandomness)?;
        let account = self.realm.find(&username).cloned();
        let verifier = account.as_ref().and_then(|account| account.verifier()).map(|verifier| &**verifier);
        let keys = self.authenticator.scram_keys(verifier, &username);
        self.reason = Some(match (&account, verifier.and_then(Verifier::scram)) {
            (None, _) => Refusal::UnknownUser(username.clone()),
            (Some(_), None) => Refusal::NoPassword(username.clone()),
            (Some(_), Some(_)) => Refusal::WrongPassword(username.clone()),
        });
        self.account = account;
        self.turn = Some((turn, username));
        Ok((keys, STANDARD_NO_PAD.encode(nonce)))
    }

    fn accepted(&mut self) -> Outcome {
        if let Some((turn, _)) = self.turn.take() {
            self.authenticator.throttle().succeeded(&turn, self.authenticator.clock.now());
        }
        match self.account.take() {
            Some(account) => Outcome::Accepted(account),
            None => Refusal::Message(SaslError::Refused).outcome(),
        }
    }

    fn failed(&mut self, error: SaslError) -> Outcome {
        self.account = None;
        if let Some((turn, _)) = self.turn.take() {
            self.authenticator.throttle().failed(&turn, self.authenticator.clock.now());
        }
        let reason = self.reason.take().filter(|_| error == SaslError::Refused);
        reason.unwrap_or(Refusal::Message(error)).outcome()
    }
}
