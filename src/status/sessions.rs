//! Sessions that are open now: where connection limits are decided, who is there, and how one is ended.
//!
//! A [`SessionGuard`] counts a session as long as it lives. Its connection writes down what becomes known of the client
//! and how far it has come: numbers by atomics, the rest under a lock of its own, so a listing never holds up mail.
//! Ending is asked, not done: a session gets 421 as soon as it has nothing complete at hand, as at the end of the
//! process. What asks for it while a session is being taken in is not missed: both happen under the same lock.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use super::rates::Rates;
use crate::model::name::Name;
use crate::model::rate::Rate;
use crate::model::time::Timestamp;
use crate::net::tls::Secured;
use crate::smtp::reply::{EnhancedStatus, Reply};

/// The id of a session: a UUID v7, so they list in the order in which they were opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(uuid::Uuid);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for SessionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(SessionId)
    }
}

/// What is known of a session when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The virtual server.
    pub server: Name,
    /// The address that the client connected to.
    pub binding: SocketAddr,
    /// Who connected: the client, or its proxy.
    pub peer: SocketAddr,
    /// A proxy is to say who the client is ([`SessionGuard::speaks_for`]).
    pub proxied: bool,
    /// When.
    pub since: Timestamp,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SessionState {
    /// The client has connected and was not greeted by name yet.
    Connected = 0,
    /// It may begin a message.
    Idle = 1,
    /// It gives an envelope.
    Envelope = 2,
    /// It sends content.
    Content = 3,
    /// Its message is being written to disk.
    Committing = 4,
}

impl SessionState {
    fn of(number: u8) -> Self {
        use SessionState::{Committing, Connected, Content, Envelope, Idle};
        [Connected, Idle, Envelope, Content, Committing]
            .into_iter()
            .find(|state| *state as u8 == number)
            .unwrap_or(Connected)
    }
}

/// A session that is open.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    opening: Opening,
    known: Mutex<Known>,
    state: AtomicU8,
    messages: AtomicU64,
    bytes: AtomicU64,
    stop: watch::Sender<Option<Reply>>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    helo: Option<String>,
    account: Option<String>,
    tls: Option<Arc<Secured>>,
    /// What a proxy said.
    client: Option<SocketAddr>,
}

/// A session as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// Its id.
    pub id: SessionId,
    /// See [`Opening`].
    pub opening: Opening,
    /// The client; behind a proxy, the one that it names.
    pub client: SocketAddr,
    /// What the client calls itself.
    pub helo: Option<String>,
    /// The account that it authenticated as.
    pub account: Option<String>,
    /// Its TLS; `None` in clear.
    pub tls: Option<Arc<Secured>>,
    /// How far it is.
    pub state: SessionState,
    /// Messages taken.
    pub messages: u64,
    /// Octets of content received.
    pub bytes: u64,
}

impl Session {
    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// What was known when it was opened.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// For the driver: when there is a reply, the session is to end with it.
    pub fn stop(&self) -> watch::Receiver<Option<Reply>> {
        self.stop.subscribe()
    }

    /// The client has said its name.
    pub fn set_helo(&self, name: &str) {
        self.known().helo = Some(name.to_owned());
    }

    /// The client has authenticated.
    pub fn set_account(&self, account: &str) {
        self.known().account = Some(account.to_owned());
    }

    /// The client; behind a proxy, the one that it names.
    pub fn client(&self) -> SocketAddr {
        self.known().client.unwrap_or(self.opening.peer)
    }

    /// TLS has begun: what was known of the client in clear is not true any more (RFC 3207, 4.2).
    pub fn set_tls(&self, secured: Arc<Secured>) {
        let mut known = self.known();
        *known = Known { tls: Some(secured), client: known.client, ..Known::default() };
        drop(known);
        self.set_state(SessionState::Connected);
    }

    /// It has come so far.
    pub fn set_state(&self, state: SessionState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// A message was taken.
    pub fn add_message(&self) {
        self.messages.fetch_add(1, Ordering::Relaxed);
    }

    /// So many octets of content have come.
    pub fn add_bytes(&self, octets: usize) {
        self.bytes.fetch_add(octets as u64, Ordering::Relaxed);
    }

    /// As an operator sees it.
    pub fn view(&self) -> SessionView {
        let Known { helo, account, tls, client } = self.known().clone();
        SessionView {
            id: self.id,
            opening: self.opening.clone(),
            client: client.unwrap_or(self.opening.peer),
            helo,
            account,
            tls,
            state: SessionState::of(self.state.load(Ordering::Relaxed)),
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meets(&self, filter: &SessionFilter) -> bool {
        let account = |wanted: &String| self.known().account.as_ref() == Some(wanted);
        filter.virtual_server.as_ref().is_none_or(|server| *server == self.opening.server)
            && filter.client.is_none_or(|client| client == self.client().ip())
            && filter.account.as_ref().is_none_or(account)
    }

    fn end(&self, reply: Reply) {
        self.stop.send_replace(Some(reply));
    }
}

/// Which sessions: all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionFilter {
    /// Of this virtual server.
    pub virtual_server: Option<Name>,
    /// Of this client.
    pub client: Option<IpAddr>,
    /// Authenticated as this account.
    pub account: Option<String>,
}

/// The sessions of a process.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<Open>,
    closed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    all: BTreeMap<SessionId, Arc<Session>>,
    by_server: HashMap<Name, u32>,
    by_client: HashMap<(Name, IpAddr), u32>,
    rates: Rates,
    /// The process ends: a session that is taken in now ends at once.
    draining: Option<Reply>,
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

    /// Counts a session in, if the limits allow it; it is counted out when the guard is dropped. Behind a proxy the limits
    /// of a client are asked when it is known who that is ([`SessionGuard::speaks_for`]).
    ///
    /// # Errors
    /// Which limit was reached.
    pub fn admit(self: &Arc<Self>, opening: Opening, limits: &Limits) -> Result<SessionGuard, TooMany> {
        let mut open = self.open();
        if open.by_server.get(&opening.server).copied().unwrap_or(0) >= limits.max {
            return Err(TooMany::InAll);
        }
        let counted = (!opening.proxied).then(|| opening.peer.ip());
        if let Some(client) = counted {
            open.count_client(&opening.server, client, limits)?;
        }
        *open.by_server.entry(opening.server.clone()).or_default() += 1;
        let session = Arc::new(Session {
            id: SessionId(uuid::Uuid::now_v7()),
            opening,
            known: Mutex::default(),
            state: AtomicU8::new(SessionState::Connected as u8),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stop: watch::Sender::new(open.draining.clone()),
        });
        open.all.insert(session.id, session.clone());
        Ok(SessionGuard { sessions: self.clone(), session, counted })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open().all.len()
    }

    /// At most `limit` sessions behind `after`, oldest first; and whether there are more.
    pub fn list(&self, filter: &SessionFilter, after: Option<SessionId>, limit: usize) -> (Vec<SessionView>, bool) {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let behind: Vec<Arc<Session>> = self.open().all.range(from).map(|(_, session)| session.clone()).collect();
        let mut met = behind.iter().filter(|session| session.meets(filter));
        let page = met.by_ref().take(limit).map(|session| session.view()).collect();
        (page, met.next().is_some())
    }

    /// Asks one session to end, with 421. False when it is not there.
    pub fn end(&self, id: SessionId) -> bool {
        let session = self.open().all.get(&id).cloned();
        session.map(|session| session.end(ended_by_operator())).is_some()
    }

    /// Asks all these sessions to end, with 421. How many.
    pub fn end_all(&self, filter: &SessionFilter) -> usize {
        let all: Vec<Arc<Session>> = self.open().all.values().cloned().collect();
        all.iter().filter(|session| session.meets(filter)).map(|session| session.end(ended_by_operator())).count()
    }

    /// Asks all sessions to end, and every one that is still taken in.
    pub fn drain(&self, reply: &Reply) {
        let mut open = self.open();
        open.draining = Some(reply.clone());
        open.all.values().for_each(|session| session.end(reply.clone()));
    }

    /// Returns when none is left.
    pub async fn all_gone(&self) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.open().all.is_empty() {
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

fn ended_by_operator() -> Reply {
    Reply::new(421, EnhancedStatus::transient(3, 2), "The session was ended, try again later")
}

/// Counts one session, as long as it lives.
#[derive(Debug)]
pub struct SessionGuard {
    sessions: Arc<Sessions>,
    session: Arc<Session>,
    /// The client that it counts for; `None` while a proxy has not said who that is.
    counted: Option<IpAddr>,
}

impl SessionGuard {
    /// A proxy has said for whom it speaks: the limits of that client hold from now on.
    ///
    /// # Errors
    /// Which limit was reached; the session is not counted as that client's then.
    pub fn speaks_for(&mut self, client: SocketAddr, limits: &Limits) -> Result<(), TooMany> {
        if self.counted.is_none() {
            self.sessions.open().count_client(&self.session.opening.server, client.ip(), limits)?;
            self.counted = Some(client.ip());
            self.session.known().client = Some(client);
        }
        Ok(())
    }

    /// The session, to write down what becomes known of it.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let mut open = self.sessions.open();
        open.all.remove(&self.session.id);
        let server = &self.session.opening.server;
        count_down(&mut open.by_server, server);
        if let Some(client) = self.counted {
            count_down(&mut open.by_client, &(server.clone(), client));
        }
        let last = open.all.is_empty();
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

    const OPEN: Limits = Limits { max: 9, max_per_client: None, rate_per_client: None };

    fn opening(server: &str, client: &str) -> Opening {
        Opening {
            server: server.parse().unwrap(),
            binding: "127.0.0.1:25".parse().unwrap(),
            peer: SocketAddr::new(client.parse().unwrap(), 4_000),
            proxied: false,
            since: Timestamp::EPOCH,
        }
    }

    #[tokio::test]
    async fn limits_count_what_is_open() {
        let sessions = Arc::new(Sessions::default());
        let (a, b) = (opening("default", "192.0.2.1"), opening("default", "192.0.2.2"));
        let limits = Limits { max: 2, max_per_client: Some(1), rate_per_client: None };
        let first = sessions.admit(a.clone(), &limits).unwrap();
        assert_eq!(sessions.admit(a.clone(), &limits).unwrap_err(), TooMany::FromClient);
        let proxied = Opening { proxied: true, ..opening("default", "192.0.2.99") };
        let mut second = sessions.admit(proxied, &limits).unwrap();
        assert_eq!(sessions.admit(b.clone(), &limits).unwrap_err(), TooMany::InAll);
        assert_eq!(second.speaks_for(a.peer, &limits).unwrap_err(), TooMany::FromClient);
        second.speaks_for(b.peer, &limits).unwrap();
        assert_eq!(second.session().client(), b.peer);
        drop(first);
        assert!(sessions.admit(a, &limits).is_ok());
        assert_eq!(sessions.admit(b, &limits).unwrap_err(), TooMany::FromClient);
        drop(second);
        sessions.all_gone().await;
        assert!(sessions.open().by_client.is_empty(), "nothing is remembered of who has gone");
    }

    #[test]
    fn sessions_are_listed_in_pages_and_by_what_is_known_of_them() {
        let sessions = Arc::new(Sessions::default());
        let guards: Vec<_> = ["192.0.2.1", "192.0.2.2", "192.0.2.1"]
            .into_iter()
            .enumerate()
            .map(|(n, client)| sessions.admit(opening(["a", "b", "b"][n], client), &OPEN).unwrap())
            .collect();
        let session = guards[2].session();
        session.set_helo("c.example");
        session.set_account("app");
        session.set_state(SessionState::Content);
        session.add_bytes(100);
        session.add_message();
        let (page, more) = sessions.list(&SessionFilter::default(), None, 2);
        assert_eq!((page.len(), more), (2, true));
        let (page, more) = sessions.list(&SessionFilter::default(), Some(page[1].id), 2);
        assert_eq!((page.len(), more), (1, false));
        let view = &page[0];
        assert_eq!((view.helo.as_deref(), view.account.as_deref()), (Some("c.example"), Some("app")));
        assert_eq!((view.state, view.bytes, view.messages), (SessionState::Content, 100, 1));
        let count = |filter: SessionFilter| sessions.list(&filter, None, 9).0.len();
        assert_eq!(count(SessionFilter { virtual_server: "b".parse().ok(), ..SessionFilter::default() }), 2);
        assert_eq!(count(SessionFilter { client: "192.0.2.1".parse().ok(), ..SessionFilter::default() }), 2);
        assert_eq!(count(SessionFilter { account: Some("app".into()), ..SessionFilter::default() }), 1);
        assert_eq!(count(SessionFilter { account: Some("other".into()), ..SessionFilter::default() }), 0);
        // behind STARTTLS the client is a stranger again
        session.set_tls(Arc::new(Secured {
            version: "TLSv1.3",
            cipher: "TLS13_AES_256_GCM_SHA384".into(),
            sni: None,
            client: None,
            end_point: Vec::new(),
            exporter: None,
        }));
        let view = session.view();
        assert_eq!((view.helo, view.account, view.state), (None, None, SessionState::Connected));
        assert_eq!(view.tls.unwrap().version, "TLSv1.3");
    }

    #[test]
    fn one_some_or_all_are_told_to_end_and_the_next_too_when_the_process_ends() {
        let sessions = Arc::new(Sessions::default());
        let a = sessions.admit(opening("a", "192.0.2.1"), &OPEN).unwrap();
        let b = sessions.admit(opening("b", "192.0.2.2"), &OPEN).unwrap();
        let told = |guard: &SessionGuard| guard.session().stop().borrow().clone().map(|reply| reply.code);
        assert_eq!((told(&a), told(&b)), (None, None));
        assert!(sessions.end(a.session().id()));
        assert_eq!((told(&a), told(&b)), (Some(421), None));
        let of_b = SessionFilter { virtual_server: "b".parse().ok(), ..SessionFilter::default() };
        assert_eq!(sessions.end_all(&of_b), 1);
        assert_eq!(told(&b), Some(421));
        let gone = b.session().id();
        drop(b);
        assert!(!sessions.end(gone));
        let c = sessions.admit(opening("a", "192.0.2.1"), &OPEN).unwrap();
        assert_eq!(told(&c), None);
        sessions.drain(&Reply::plain(421, "bye"));
        let d = sessions.admit(opening("a", "192.0.2.1"), &OPEN).unwrap();
        assert_eq!((told(&c), told(&d)), (Some(421), Some(421)));
    }
}
