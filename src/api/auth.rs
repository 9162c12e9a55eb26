//! Who may call: `Authorization: Bearer <key>` on everything under `/api/v1`.
//!
//! The check sits on the route scope and not on the text of the path, so that no spelling of a path gets around it.
//! Keys are compared in constant time. A client that shows wrong keys is slowed: after [`FREE_FAILURES`] within
//! [`WINDOW`] it is answered 429 for the rest of the window, whatever it shows. A missing key is no guess and does not
//! count. The table of clients is bounded; IPv6 clients count by /64.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header;
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, web};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::problem::{Problem, ProblemKind};
use super::server::State;
use crate::config::Configuration;

/// Wrong keys that a client may show within [`WINDOW`].
pub const FREE_FAILURES: u32 = 10;
/// How long they are remembered.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Clients that are remembered at a time.
const MAX_CLIENTS: usize = 10_000;

/// Says whose key it is.
pub trait Keys: Send + Sync {
    /// The holder of a key, or nobody. Takes the same time for every wrong key.
    fn verify(&self, key: &str) -> Option<Principal>;
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name of the key, for the audit log.
    pub name: String,
}

/// The owner key that the process was given (`BRIDGEHEAD_ADMIN_KEY`).
pub struct AdminKey([u8; 32]);

impl AdminKey {
    /// Keeps only the hash.
    pub fn new(key: &str) -> Self {
        AdminKey(Sha256::digest(key.as_bytes()).into())
    }
}

impl Keys for AdminKey {
    fn verify(&self, key: &str) -> Option<Principal> {
        let shown: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        bool::from(self.0.ct_eq(&shown)).then(|| Principal { name: "bootstrap".to_owned() })
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

impl Keys for FirstKey {
    fn verify(&self, key: &str) -> Option<Principal> {
        let valid = self.0.verify_first_key(key).unwrap_or_else(|error| {
            tracing::error!(%error, "a key cannot be verified");
            false
        });
        valid.then(|| Principal { name: "first-key".to_owned() })
    }
}

/// Several sources of keys. All of them are asked.
impl Keys for Vec<Box<dyn Keys>> {
    fn verify(&self, key: &str) -> Option<Principal> {
        self.iter().fold(None, |found, keys| {
            let this = keys.verify(key);
            found.or(this)
        })
    }
}

/// The layer around `/api/v1`: no valid key, no further.
pub(super) async fn require_key<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    match principal(request.request()) {
        Ok(Some(principal)) => {
            request.extensions_mut().insert(principal);
            Ok(next.call(request).await?.map_into_boxed_body())
        }
        Ok(None) => Ok(request.into_response(unauthorized("this needs a key").response())),
        Err(problem) => Ok(request.into_response(problem.response())),
    }
}

/// Who calls; `None` without a key, a problem with a wrong one.
pub(super) fn principal(request: &HttpRequest) -> Result<Option<Principal>, Problem> {
    let Some(state) = request.app_data::<web::Data<State>>() else {
        return Err(Problem::internal(&"the server was put together without its state"));
    };
    let mut given = request.headers().get_all(header::AUTHORIZATION);
    let Some(value) = given.next() else { return Ok(None) };
    let client = request.peer_addr().map(|address| address.ip());
    state.failures.check(client)?;
    let key = value.to_str().ok().filter(|_| given.next().is_none()).and_then(bearer);
    match key.and_then(|key| state.handles.keys.verify(key)) {
        Some(principal) => Ok(Some(principal)),
        None => {
            state.failures.count(client);
            Err(unauthorized("the key is not valid"))
        }
    }
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
        let Some(client) = client else { return Ok(()) };
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
        let Some(client) = client else { return };
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

fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_whatever_source_has_it() {
        let keys: Vec<Box<dyn Keys>> = vec![Box::new(AdminKey::new("one")), Box::new(AdminKey::new("two"))];
        assert!(keys.verify("one").is_some() && keys.verify("two").is_some());
        assert!(keys.verify("").is_none() && keys.verify("One").is_none());
    }

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
