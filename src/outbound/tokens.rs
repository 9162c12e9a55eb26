//! The tokens that connectors log in with: asked for when a session needs one, kept in memory, renewed before they expire.
//!
//! One token for a connector and its settings; when these change, it is forgotten. One request at a time for a connector: who comes
//! meanwhile waits, and shares what comes of it. After four fifths of its life a token is renewed by whoever needs it next; all others
//! go on with the old one while it is good, and so does mail when that fails; another try is made after [`APART`].
//!
//! A token that a smart host refuses is given up and another is asked for, once: not again before [`APART`] is over, so that a smart
//! host that lets nobody in does not make us ask at the pace of its refusals. A refresh token that the endpoint gives in the place
//! of ours is used from then on; when that is refused, the configured one is tried again.
//!
//! Faults of the endpoint are told ([`TokenFault`]), not remembered: whoever tries again asks again. Nothing here shows a token.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::model::name::Name;
use crate::model::secret::SecretText;
use crate::model::time::Timestamp;
use crate::model::token_fault::TokenFault;
use crate::net::clock::Clock;
use crate::net::oauth::{Issued, TokenEndpoint, TokenRequest};
use crate::routing::access::TokenLogin;
use crate::smtp::sasl::client::Credentials;

/// Shortest time between two renewals that something other than the end of a token asks for.
const APART: Duration = Duration::from_secs(30);
/// Connectors whose tokens are remembered; those that are configured no more go when there are as many.
const MOST: usize = 10_000;

/// How a connector stands with its tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenStatus {
    /// Until when the last token is good.
    pub expires: Option<Timestamp>,
    /// Why the last request gave none, and when that was; `None`: it did.
    pub fault: Option<(TokenFault, Timestamp)>,
    /// What the last smart host said of it that was shown one.
    pub login: Option<Result<(), String>>,
}

/// Tokens of all connectors.
pub(super) struct Tokens {
    clock: Arc<dyn Clock>,
    endpoint: Arc<dyn TokenEndpoint>,
    sources: Mutex<HashMap<Name, Arc<Source>>>,
}

/// Where the tokens of one connector come from.
struct Source {
    request: Arc<TokenRequest>,
    token: Mutex<Option<Held>>,
    /// Locked while the endpoint is asked.
    state: tokio::sync::Mutex<State>,
    /// Requests that have ended.
    ended: AtomicU64,
    status: Mutex<TokenStatus>,
}

#[derive(Default)]
struct State {
    /// A refresh token that was given in the place of the configured one.
    rotated: Option<SecretText>,
    /// What came of the last request, if it failed.
    fault: Option<TokenFault>,
    /// When a renewal failed while the token was still good.
    failed: Option<Instant>,
    /// When a token was renewed because it was refused.
    refused: Option<Instant>,
}

#[derive(Clone)]
struct Held {
    token: SecretText,
    renew: Instant,
    expires: Instant,
}

impl Tokens {
    pub(super) fn new(clock: Arc<dyn Clock>, endpoint: Arc<dyn TokenEndpoint>) -> Self {
        Tokens { clock, endpoint, sources: Mutex::default() }
    }

    /// What the connector logs in with now.
    ///
    /// # Errors
    /// See [`TokenFault`].
    pub(super) async fn get(&self, connector: &Name, login: &TokenLogin) -> Result<Credentials, TokenFault> {
        let source = self.source(connector, &login.request);
        let ended = source.ended.load(Ordering::Acquire);
        let mut state = match (source.state.try_lock(), self.good(&source)) {
            (Ok(state), _) => state,
            (Err(_), Some(held)) => return login.with(&held.token),
            (Err(_), None) => source.state.lock().await,
        };
        let (now, good) = (self.clock.now(), self.good(&source));
        if let Some(held) = &good {
            let tried = state.failed.is_some_and(|at| now.saturating_duration_since(at) < APART);
            if now < held.renew || tried {
                return login.with(&held.token);
            }
        }
        match (self.ask(connector, &source, &mut state, ended).await, good) {
            (Ok(token), _) => login.with(&token),
            (Err(_), Some(held)) => {
                state.failed = Some(now);
                login.with(&held.token)
            }
            (Err(fault), None) => Err(fault),
        }
    }

    /// What the connector logs in with when a smart host has refused this, in these words; `None`: that has just been tried.
    ///
    /// # Errors
    /// See [`TokenFault`].
    pub(super) async fn instead_of(
        &self,
        connector: &Name,
        login: &TokenLogin,
        refused: &Credentials,
    ) -> Result<Option<Credentials>, TokenFault> {
        let source = self.source(connector, &login.request);
        let ended = source.ended.load(Ordering::Acquire);
        let mut state = source.state.lock().await;
        let now = self.clock.now();
        if let Some(held) = self.good(&source) {
            let other = login.with(&held.token)?;
            if other != *refused {
                return Ok(Some(other));
            }
        }
        if state.refused.is_some_and(|at| now.saturating_duration_since(at) < APART) {
            return Ok(None);
        }
        state.refused = Some(now);
        *source.token() = None;
        source.note(|status| status.expires = None);
        let token = self.ask(connector, &source, &mut state, ended).await?;
        login.with(&token).map(Some)
    }

    /// Takes note of what a smart host said of a token.
    pub(super) fn answered(&self, connector: &Name, login: &TokenLogin, answer: Result<(), String>) {
        if let Some(source) = self.known(connector, &login.request) {
            source.note(|status| status.login = Some(answer));
        }
    }

    /// How a connector with these settings stands; `None` while no session has needed a token.
    pub(super) fn status(&self, connector: &Name, request: &TokenRequest) -> Option<TokenStatus> {
        let source = self.known(connector, request)?;
        Some(source.status.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// The token in hand, as long as it is good.
    fn good(&self, source: &Source) -> Option<Held> {
        source.token().clone().filter(|held| self.clock.now() < held.expires)
    }

    /// Nothing when its settings are others by now.
    fn known(&self, connector: &Name, request: &TokenRequest) -> Option<Arc<Source>> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.get(connector).filter(|source| *source.request == *request).cloned()
    }

    fn source(&self, connector: &Name, request: &Arc<TokenRequest>) -> Arc<Source> {
        let fresh = || {
            Arc::new(Source {
                request: request.clone(),
                token: Mutex::default(),
                state: tokio::sync::Mutex::default(),
                ended: AtomicU64::new(0),
                status: Mutex::default(),
            })
        };
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= MOST && !sources.contains_key(connector) {
            sources.clear();
        }
        let source = sources.entry(connector.clone()).or_insert_with(fresh);
        // its settings are others: what is known is of another login
        if source.request != *request {
            *source = fresh();
        }
        source.clone()
    }

    /// Asks, or shares what came of a request that ended since `ended` was read.
    async fn ask(
        &self,
        connector: &Name,
        source: &Source,
        state: &mut State,
        ended: u64,
    ) -> Result<SecretText, TokenFault> {
        if let Some(fault) = state.fault.as_ref().filter(|_| source.ended.load(Ordering::Acquire) != ended) {
            return Err(fault.clone());
        }
        let asked = self.endpoint.ask(&source.request, state.rotated.as_ref()).await;
        source.ended.fetch_add(1, Ordering::AcqRel);
        state.fault = asked.as_ref().err().cloned();
        let (now, wall) = (self.clock.now(), self.clock.unix_millis());
        match asked {
            Ok(Issued { token, life, refresh_token }) => {
                let held = Held { token: token.clone(), renew: now + life * 4 / 5, expires: now + life };
                *source.token() = Some(held);
                state.failed = None;
                state.rotated = refresh_token.or_else(|| state.rotated.take());
                let millis = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
                let expires = Timestamp::from_millis(wall.saturating_add(millis));
                source.note(|status| (status.expires, status.fault) = (Some(expires), None));
                tracing::info!(%connector, endpoint = source.request.origin(), %expires, "a token was issued");
                Ok(token)
            }
            Err(fault) => {
                if fault.is_refusal() {
                    state.rotated = None;
                }
                tracing::warn!(%connector, error = %fault, "no token was issued");
                source.note(|status| status.fault = Some((fault.clone(), Timestamp::from_millis(wall))));
                Err(fault)
            }
        }
    }
}

impl Source {
    fn token(&self) -> MutexGuard<'_, Option<Held>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, change: impl FnOnce(&mut TokenStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl TokenLogin {
    fn with(&self, token: &SecretText) -> Result<Credentials, TokenFault> {
        let credentials = Credentials::new(self.mechanism, &self.username, token.reveal());
        // the endpoint's answer was looked at: a token that is none does not come this far
        credentials.map_err(|error| TokenFault::Answer(self.request.origin(), error.to_string()))
    }
}

#[cfg(test)]
mod tests;
