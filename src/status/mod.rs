//! How the house is at this moment: which listeners are open, whether it is on its way out.
//!
//! Running state, not configuration: nothing here is stored.

mod rates;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use rates::Rates;

use crate::model::name::Name;
use crate::model::rate::Rate;
use crate::smtp::reply::{EnhancedStatus, Reply};

/// One binding of a virtual server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// As it is configured.
    pub configured: SocketAddr,
    /// The address that is open, with the real port; or why it is not open.
    pub bound: Result<SocketAddr, String>,
}

/// Listeners of all virtual servers.
#[derive(Debug, Default)]
pub struct Listeners {
    servers: Mutex<BTreeMap<Name, Vec<Listening>>>,
}

impl Listeners {
    fn servers(&self) -> MutexGuard<'_, BTreeMap<Name, Vec<Listening>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what is known of one server; an empty list forgets it.
    pub fn set(&self, server: &Name, bindings: Vec<Listening>) {
        if bindings.is_empty() {
            self.servers().remove(server);
        } else {
            self.servers().insert(server.clone(), bindings);
        }
    }

    /// The bindings of one server.
    pub fn of(&self, server: &str) -> Vec<Listening> {
        self.servers().get(server).cloned().unwrap_or_default()
    }

    /// All servers.
    pub fn all(&self) -> Vec<(Name, Vec<Listening>)> {
        self.servers().iter().map(|(name, bindings)| (name.clone(), bindings.clone())).collect()
    }
}

/// The switch that ends sessions: once thrown, they get 421 as soon as they have nothing complete at hand.
#[derive(Debug)]
pub struct Drain {
    stop: watch::Sender<Option<Reply>>,
}

impl Default for Drain {
    fn default() -> Self {
        Drain { stop: watch::Sender::new(None) }
    }
}

impl Drain {
    /// For a session to watch.
    pub fn watch(&self) -> watch::Receiver<Option<Reply>> {
        self.stop.subscribe()
    }

    /// Ends all sessions.
    pub fn begin(&self) {
        let reply = Reply::new(421, EnhancedStatus::transient(3, 2), "Service is shutting down, try again later");
        self.stop.send_replace(Some(reply));
    }

    /// True when it was thrown.
    pub fn is_on(&self) -> bool {
        self.stop.borrow().is_some()
    }
}

/// Sessions that are open now, by virtual server and client: where connection limits are decided.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<Open>,
    closed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_server: HashMap<Name, u32>,
    by_client: HashMap<(Name, IpAddr), u32>,
    rates: Rates,
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// The server has as many sessions as it may.
    InAll,
    /// This client has as many as one client may.
    FromClient,
    /// This client has opened as many as one may in a time.
    TooFast,
}

/// Limits on the connections of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At a time, in all.
    pub max: u32,
    /// At a time, from one client.
    pub max_per_client: Option<u32>,
    /// In a time, from one client.
    pub rate_per_client: Option<Rate>,
}

impl Sessions {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a session in, if the limits allow it; it is counted out when the guard is dropped. `client` is `None` while
    /// a proxy has not said yet who it is ([`SessionGuard::speaks_for`]).
    ///
    /// # Errors
    /// Which limit was reached.
    pub fn admit(
        self: &Arc<Self>,
        server: &Name,
        client: Option<IpAddr>,
        limits: &Limits,
    ) -> Result<SessionGuard, TooMany> {
        let mut open = self.open();
        if open.by_server.get(server).copied().unwrap_or(0) >= limits.max {
            return Err(TooMany::InAll);
        }
        if let Some(client) = client {
            open.count_client(server, client, limits)?;
        }
        open.all += 1;
        *open.by_server.entry(server.clone()).or_default() += 1;
        Ok(SessionGuard { sessions: self.clone(), server: server.clone(), client })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open().all
    }

    /// Returns when none is left.
    pub async fn all_gone(&self) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.open().all == 0 {
                return;
            }
            closed.await;
        }
    }
}

impl Open {
    fn count_client(&mut self, server: &Name, client: IpAddr, limits: &Limits) -> Result<(), TooMany> {
        let key = (server.clone(), client);
        if limits.max_per_client.is_some_and(|max| self.by_client.get(&key).copied().unwrap_or(0) >= max) {
            return Err(TooMany::FromClient);
        }
        if limits.rate_per_client.is_some_and(|rate| !self.rates.take(&key, rate, Instant::now())) {
            return Err(TooMany::TooFast);
        }
        *self.by_client.entry(key).or_default() += 1;
        Ok(())
    }
}

/// Counts one session, as long as it lives.
#[derive(Debug)]
pub struct SessionGuard {
    sessions: Arc<Sessions>,
    server: Name,
    client: Option<IpAddr>,
}

impl SessionGuard {
    /// A proxy has said for whom it speaks: the limits of that client hold from now on.
    ///
    /// # Errors
    /// Which limit was reached; the session is not counted as that client's then.
    pub fn speaks_for(&mut self, client: IpAddr, limits: &Limits) -> Result<(), TooMany> {
        if self.client.is_none() {
            self.sessions.open().count_client(&self.server, client, limits)?;
            self.client = Some(client);
        }
        Ok(())
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let mut open = self.sessions.open();
        open.all -= 1;
        count_down(&mut open.by_server, &self.server);
        if let Some(client) = self.client {
            count_down(&mut open.by_client, &(self.server.clone(), client));
        }
        let last = open.all == 0;
        drop(open);
        if last {
            self.sessions.closed.notify_waiters();
        }
    }
}

fn count_down<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn limits_count_what_is_open() {
        let sessions = Arc::new(Sessions::default());
        let server: Name = "default".parse().unwrap();
        let (a, b) = (Some("192.0.2.1".parse().unwrap()), Some("192.0.2.2".parse().unwrap()));
        let limits = Limits { max: 2, max_per_client: Some(1), rate_per_client: None };
        let first = sessions.admit(&server, a, &limits).unwrap();
        assert_eq!(sessions.admit(&server, a, &limits).unwrap_err(), TooMany::FromClient);
        let mut second = sessions.admit(&server, None, &limits).unwrap();
        assert_eq!(sessions.admit(&server, b, &limits).unwrap_err(), TooMany::InAll);
        assert_eq!(second.speaks_for(a.unwrap(), &limits).unwrap_err(), TooMany::FromClient);
        second.speaks_for(b.unwrap(), &limits).unwrap();
        drop(first);
        assert!(sessions.admit(&server, a, &limits).is_ok());
        assert_eq!(sessions.admit(&server, b, &limits).unwrap_err(), TooMany::FromClient);
        drop(second);
        sessions.all_gone().await;
        assert!(sessions.open().by_client.is_empty(), "nothing is remembered of who has gone");
    }
}
