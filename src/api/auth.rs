//! Who may call: `Authorization: Bearer <key>` on everything under `/api/v1`.
//!
//! The check sits on the route scope and not on the text of the path, so that no spelling of a path gets around it. It finds
//! out who calls ([`super::keys`]), and whether he may ([`super::access`]); then the handler runs, and finds the [`Principal`]
//! in the request. Where an operation on a message names a scope for that (`x-own-scope`), a key with it reaches the messages that it
//! has submitted itself.
//!
//! A client that shows wrong keys is slowed: after [`FREE_FAILURES`] within [`WINDOW`] it is answered 429 for the rest of the
//! window. A key of [`UNGUESSABLE`] characters is looked at all the same, so that nobody locks out those who come by the same
//! proxy or load balancer. A missing key is no guess and does not count. The table of clients is bounded; IPv6 clients
//! count by /64, and all who come by the socket of this machine are one.
//!
//! Who comes by that socket (`admin.sock`) and shows no key is the owner `admin.sock`: the mode of the file says who can.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{StatusCode, header};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, ResponseError, web};

use super::keys::KeyFault;
use super::problem::{Problem, ProblemKind};
use super::server::{State, nothing_fits};
use super::{access, client};
use crate::model::access::{Grant, Scope};
use crate::model::name::Name;

/// Wrong keys that a client may show within [`WINDOW`].
pub const FREE_FAILURES: u32 = 10;
/// From this length on keys cannot be guessed: ours have 46 characters, of which 43 are random.
const UNGUESSABLE: usize = 32;
/// How long they are remembered.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Clients that are remembered at a time.
const MAX_CLIENTS: usize = 10_000;

/// Who calls, and what he may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name of the key, or the username of a token, for the audit log.
    pub name: String,
    /// Who issued the token, if it was one.
    pub provider: Option<Name>,
    /// What he may.
    pub grant: Arc<Grant>,
}

impl Deref for Principal {
    type Target = Grant;

    fn deref(&self) -> &Grant {
        &self.grant
    }
}

/// Marks connections by the socket of this machine, whose file only its owner can open.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalOwner;

/// The layer around `/api/v1`: no valid key, no further; no scope, no further.
pub(super) async fn require_key<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let principal = match principal(request.request()).await {
        Ok(Some(principal)) => principal,
        Ok(None) => return Ok(request.into_response(unauthorized("this needs a key").response())),
        Err(problem) => return Ok(request.into_response(problem.response())),
    };
    request.extensions_mut().insert(principal.clone());
    match may(request.request(), &principal) {
        Ok(()) => Ok(next.call(request).await?.map_into_boxed_body()),
        Err(_) if is_own(request.request(), &principal).await => Ok(next.call(request).await?.map_into_boxed_body()),
        Err(problem) => Ok(request.into_response(problem.response())),
    }
}

/// Whether it is about a message that this very key has submitted, and the operation lets who sends do that. Where it cannot be
/// known, it is not. A token has no name of its own among keys, so nothing is a token's own.
async fn is_own(request: &HttpRequest, principal: &Principal) -> bool {
    let Ok(state) = state(request) else { return false };
    let path = request.match_info().as_str();
    let scope = state.operations.own(request.method().as_str(), path);
    if !scope.is_some_and(|scope| principal.may(scope)) || principal.provider.is_some() {
        return false;
    }
    let id = path.strip_prefix("/api/v1/messages/").and_then(|rest| rest.split('/').next());
    let Some(id) = id.and_then(|id| id.parse().ok()) else { return false };
    let operate = &state.handles.operate;
    match operate.message(id).await {
        Ok(message) => message.origin.api_key.as_ref() == Some(&principal.name),
        // what has left the queue is known by its first event
        Err(_) => operate.events(id, None, 1).await.is_ok_and(|events| {
            events.items.iter().any(|event| event["event"] == "received" && event["apiKey"] == principal.name.as_str())
        }),
    }
}

fn may(request: &HttpRequest, principal: &Principal) -> Result<(), Problem> {
    let state = state(request)?;
    // as the router sees it, not as it was spelt
    let (method, path) = (request.method().as_str(), request.match_info().as_str());
    match state.operations.needs(method, path) {
        Some(needs) => access::check(needs, method, path, principal, &state.handles.configuration),
        None => Err(nothing_fits(request, state)),
    }
}

/// Who calls; `None` without a key, a problem with a wrong one.
pub(super) async fn principal(request: &HttpRequest) -> Result<Option<Principal>, Problem> {
    let state = state(request)?;
    let mut given = request.headers().get_all(header::AUTHORIZATION);
    let Some(value) = given.next() else {
        return Ok(request.conn_data::<LocalOwner>().map(|_| Principal::owner("admin.sock")));
    };
    let client = client::of(request);
    let key = value.to_str().ok().filter(|_| given.next().is_none()).and_then(bearer);
    if key.is_none_or(|key| key.len() < UNGUESSABLE) {
        state.failures.check(client)?;
    }
    let verified = match key {
        Some(key) => state.handles.keys.verify(key, client).await,
        None => Ok(None),
    };
    let why = match verified {
        Ok(Some(principal)) => return Ok(Some(principal)),
        Ok(None) => "the key is not valid".to_owned(),
        Err(KeyFault::Refused(why)) => why,
        Err(KeyFault::Unavailable(why)) => return Err(Problem::new(ProblemKind::Unavailable, why)),
    };
    state.failures.check(client)?;
    state.failures.count(client);
    Err(unauthorized(&why))
}

/// Whether the caller has a scope, of operations that also answer without; a problem with a wrong key. Who cannot be known now
/// is answered as one without a key.
pub(super) async fn has(request: &HttpRequest, scope: Scope) -> Result<bool, Problem> {
    match principal(request).await {
        Ok(principal) => Ok(principal.is_some_and(|principal| principal.may(scope))),
        Err(problem) if problem.status_code() == StatusCode::SERVICE_UNAVAILABLE => Ok(false),
        Err(problem) => Err(problem),
    }
}

/// Who made this request, as the layer found out.
pub(super) fn caller(request: &HttpRequest) -> Option<Principal> {
    request.extensions().get::<Principal>().cloned()
}

fn state(request: &HttpRequest) -> Result<&web::Data<State>, Problem> {
    let state = request.app_data::<web::Data<State>>();
    state.ok_or_else(|| Problem::internal(&"the server was put together without its state"))
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

pub(super) fn unauthorized(detail: &str) -> Problem {
    let how = format!("{detail}; send the header Authorization: Bearer <key>");
    Problem::new(ProblemKind::Unauthorized, how)
        .with_header(header::WWW_AUTHENTICATE, "Bearer realm=\"bridgehead\", charset=\"UTF-8\"")
}

/// Counts wrong keys per client.
#[derive(Default)]
pub(super) struct Failures(Mutex<HashMap<IpAddr, Count>>);

struct Count {
    failures: u32,
    since: Instant,
}

impl Failures {
    /// 429 when the client has used up its failures.
    fn check(&self, client: Option<IpAddr>) -> Result<(), Problem> {
        let clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = clients.get(&network(client)) else { return Ok(()) };
        let left = WINDOW.saturating_sub(count.since.elapsed());
        if count.failures < FREE_FAILURES || left.is_zero() {
            return Ok(());
        }
        let seconds = left.as_secs() + 1;
        let detail = format!("too many wrong keys from this address; come again in {seconds} seconds");
        Err(Problem::new(ProblemKind::TooManyRequests, detail).with_header(header::RETRY_AFTER, seconds.to_string()))
    }

    fn count(&self, client: Option<IpAddr>) {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS {
            clients.retain(|_, count| count.since.elapsed() < WINDOW);
        }
        if clients.len() >= MAX_CLIENTS {
            // More clients guess at a time than we remember: forget the one that began first.
            let oldest = clients.iter().min_by_key(|(_, count)| count.since).map(|(client, _)| *client);
            oldest.and_then(|client| clients.remove(&client));
        }
        let fresh = Count { failures: 0, since: Instant::now() };
        let count = clients.entry(network(client)).or_insert(fresh);
        if count.since.elapsed() >= WINDOW {
            *count = Count { failures: 0, since: Instant::now() };
        }
        count.failures += 1;
    }
}

/// What is counted as one client. Who has no address comes by the socket.
fn network(client: Option<IpAddr>) -> IpAddr {
    match client.unwrap_or(Ipv4Addr::UNSPECIFIED.into()).to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_is_slowed_by_client_and_the_table_is_bounded() {
        let failures = Failures::default();
        let client = Some("2001:db8::1".parse().unwrap());
        for _ in 0..FREE_FAILURES {
            assert!(failures.check(client).is_ok());
            failures.count(client);
        }
        assert!(failures.check(client).is_err());
        assert!(failures.check(Some("2001:db8::ffff".parse().unwrap())).is_err(), "the same /64");
        assert!(failures.check(Some("2001:db8:0:1::1".parse().unwrap())).is_ok());
        assert!(failures.check(None).is_ok());
        for _ in 0..FREE_FAILURES {
            failures.count(None);
        }
        assert!(failures.check(None).is_err(), "by the socket too");
        for n in 0..MAX_CLIENTS as u32 + 10 {
            failures.count(Some(IpAddr::V4(n.into())));
        }
        assert!(failures.0.lock().unwrap().len() <= MAX_CLIENTS);
    }

    #[test]
    fn the_scheme_has_no_case() {
        assert_eq!(bearer("bearer  k"), Some("k"));
        assert_eq!(bearer("Basic k"), None);
        assert_eq!(bearer("k"), None);
    }
}
