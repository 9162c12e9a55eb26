//! Listeners follow the configuration: after each change what is wanted is opened, what is not is closed.
//!
//! Sessions outlive their listener: closing a binding ends no session. Connections over a limit, and to a server that an
//! operator has paused, get 421 at once, without a task. A server that an operator has stopped has no listeners. Out of file descriptors, accepting pauses.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::connection::{self, Arrival};
use super::protocol_log::ProtocolLogs;
use crate::accounts::Authenticator;
use crate::config::{Live, Preflight, Snapshot, Violation, ViolationCode, VirtualServer};
use crate::intake::Intake;
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::model::spec::virtual_server::{Binding, ProxyProtocol};
use crate::model::time::Timestamp;
use crate::net::resolver::Resolvers;
use crate::observe::metrics::ByName;
use crate::status::{Drain, Limits, Listeners, Listening, Masks, Opening, Running, Sessions, TooMany};

/// Connections that wait in the kernel.
const BACKLOG: i32 = 1024;
/// How long until a binding that could not be opened is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How long accepting pauses when the process has no file descriptor left.
const PAUSE: Duration = Duration::from_millis(200);

/// A binding: the server and the address as configured.
type Key = (Name, SocketAddr);

/// The listeners of a process.
pub struct Inbound {
    /// Takes the mail.
    pub intake: Intake,
    /// The configuration.
    pub live: Live,
    /// Whether one address hides many clients.
    pub masks: Arc<Masks>,
    /// Checks logins.
    pub authenticator: Arc<Authenticator>,
    /// Looks up the names of clients.
    pub resolvers: Arc<Resolvers>,
    /// What is open, for everybody to see.
    pub listeners: Arc<Listeners>,
    /// Sessions now.
    pub sessions: Arc<Sessions>,
    /// What an operator has paused or stopped.
    pub running: Arc<Running>,
    /// Writes down what is said.
    pub protocol_logs: Arc<ProtocolLogs>,
    /// Ends everything.
    pub drain: Arc<Drain>,
}

struct OpenBinding {
    bound: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Inbound {
    /// Opens and closes listeners until the process drains; then closes all.
    pub async fn run(self: Arc<Self>) {
        let mut changes = self.live.subscribe();
        let mut halts = self.running.subscribe();
        let mut drain = self.drain.watch();
        let mut open: HashMap<Key, OpenBinding> = HashMap::new();
        loop {
            changes.mark_unchanged();
            halts.mark_unchanged();
            let snapshot = self.live.current();
            self.running.retain(|name| snapshot.virtual_servers.contains_key(name)).await;
            let all_open = self.reconcile(&snapshot, &mut open).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                changed = halts.changed() => if changed.is_err() { break },
                _ = drain.wait_for(Option::is_some) => break,
                () = tokio::time::sleep(TRY_AGAIN), if !all_open => {}
            }
        }
        for (_, binding) in open {
            close(binding).await;
        }
    }

    /// True when everything that is wanted is open.
    async fn reconcile(self: &Arc<Self>, snapshot: &Snapshot, open: &mut HashMap<Key, OpenBinding>) -> bool {
        let wanted: HashSet<Key> = wanted(snapshot).filter(|(server, _)| self.running.listens(server)).collect();
        let unwanted: Vec<Key> = open.keys().filter(|key| !wanted.contains(*key)).cloned().collect();
        for key in unwanted {
            if let Some(binding) = open.remove(&key) {
                tracing::info!(listener = "smtp", virtualServer = %key.0, address = %binding.bound, "closed");
                close(binding).await;
                self.listeners.set(&key.0, Vec::new());
            }
        }
        let mut all_open = true;
        let listens = |server: &&Arc<VirtualServer>| server.spec.enabled && self.running.listens(&server.name);
        for server in snapshot.virtual_servers.values().filter(listens) {
            let mut states = Vec::new();
            for (binding, address) in server.spec.bindings.iter().map(|binding| (binding, address_of(binding))) {
                let key = (server.name.clone(), address);
                if let Some(why) = server.cannot_serve(binding) {
                    // what was open with the TLS of before is closed: it could not be served
                    if let Some(binding) = open.remove(&key) {
                        close(binding).await;
                    }
                    states.push(Listening { configured: address, bound: Err(why.to_owned()) });
                    continue;
                }
                let bound = match open.get(&key) {
                    Some(binding) => Ok(binding.bound),
                    None => self.open(server, address).map(|binding| {
                        let bound = binding.bound;
                        open.insert(key, binding);
                        bound
                    }),
                };
                all_open &= bound.is_ok();
                states.push(Listening { configured: address, bound });
            }
            self.listeners.set(&server.name, states);
        }
        all_open
    }

    fn open(self: &Arc<Self>, server: &VirtualServer, address: SocketAddr) -> Result<OpenBinding, String> {
        let opened = bind(address).and_then(|socket| TcpListener::from_std(socket.into()));
        match opened.and_then(|listener| Ok((listener.local_addr()?, listener))) {
            Ok((bound, listener)) => {
                tracing::info!(listener = "smtp", virtualServer = %server.name, address = %bound, "listening");
                let key = (server.name.clone(), address);
                let accepting = tokio::spawn(self.clone().accept(key, listener));
                Ok(OpenBinding { bound, accepting })
            }
            Err(error) => {
                tracing::error!(virtualServer = %server.name, address = %address, error = %error, "cannot listen");
                Err(format!("cannot listen on {address}: {error}"))
            }
        }
    }

    async fn accept(self: Arc<Self>, key: Key, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.take(&key, stream, peer),
                Err(error) => {
                    tracing::warn!(virtualServer = %key.0, error = %error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Takes one connection, or turns it away.
    fn take(self: &Arc<Self>, (name, address): &Key, stream: TcpStream, peer: SocketAddr) {
        let snapshot = self.live.current();
        let Some(server) = snapshot.virtual_servers.get(name) else { return };
        let Some(binding) = server.spec.bindings.iter().find(|binding| address_of(binding) == *address) else { return };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let trusts = |proxy: &ProxyProtocol| proxy.trusted.iter().any(|net| net.0.contains(&peer.ip()));
        if binding.proxy_protocol.as_ref().is_some_and(|proxy| !trusts(proxy)) {
            tracing::info!(virtualServer = %name, peer.addr = %peer, rule = "proxyProtocol", "refused: no trusted proxy");
            self.intake.metrics.refused(name.as_str());
            return;
        }
        if !self.running.takes_sessions(name) || self.drain.is_closed() {
            self.intake.metrics.refused(name.as_str());
            let _ = stream.try_write(b"421 4.3.2 Service is paused, try again later\r\n");
            return;
        }
        let opening = Opening {
            server: name.clone(),
            binding: stream.local_addr().unwrap_or(*address),
            peer,
            proxied: binding.proxy_protocol.is_some(),
            since: Timestamp::from_millis(self.intake.clock.unix_millis()),
        };
        match self.sessions.admit(opening, &limits(server)) {
            Ok(guard) => {
                let label = ByName { name: name.as_str().to_owned() };
                self.intake.metrics.connections.get_or_create(&label).inc();
                let arrival = Arrival { server: server.clone(), binding: binding.clone(), stream, peer, guard };
                // the guard is what counts and awaits it
                drop(tokio::spawn(connection::serve(self.clone(), arrival)));
            }
            Err(limit) => {
                self.intake.metrics.refused(name.as_str());
                // what the kernel does not take at once is not worth a wait
                let _ = stream.try_write(turned_away(limit).as_bytes());
            }
        }
    }
}

/// What a client is told that comes over a limit.
pub(super) fn turned_away(limit: TooMany) -> &'static str {
    match limit {
        TooMany::InAll => "421 4.3.2 Too many connections, try again later\r\n",
        TooMany::FromClient => "421 4.7.0 Too many connections from your address, try again later\r\n",
        TooMany::TooFast => "421 4.7.0 You connect too often, try again later\r\n",
    }
}

/// The limits on connections of a server.
pub(super) fn limits(server: &VirtualServer) -> Limits {
    let connections = &server.spec.connections;
    Limits {
        max: connections.max,
        max_per_client: connections.max_per_client,
        rate_per_client: connections.rate_per_client,
    }
}

async fn close(binding: OpenBinding) {
    binding.accepting.abort();
    let _ = binding.accepting.await;
}

fn wanted(snapshot: &Snapshot) -> impl Iterator<Item = Key> {
    snapshot
        .virtual_servers
        .values()
        .filter(|server| server.spec.enabled)
        .flat_map(|server| addresses(server).map(|address| (server.name.clone(), address)))
}

fn addresses(server: &VirtualServer) -> impl Iterator<Item = SocketAddr> {
    server.spec.bindings.iter().map(address_of)
}

fn address_of(binding: &Binding) -> SocketAddr {
    SocketAddr::new(binding.address.0, binding.port)
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // 0.0.0.0 and [::] are two bindings
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Refuses a configuration whose new bindings cannot be opened, before it is in force.
pub struct BindCheck;

#[async_trait]
impl Preflight for BindCheck {
    async fn check(&self, current: &Snapshot, candidate: &Snapshot) -> Vec<Violation> {
        let ours: HashSet<SocketAddr> = wanted(current).map(|(_, address)| address).collect();
        let mut violations = Vec::new();
        for server in candidate.virtual_servers.values().filter(|server| server.spec.enabled) {
            for (index, address) in addresses(server).enumerate().filter(|(_, address)| !ours.contains(address)) {
                if let Err(error) = bind(address) {
                    violations.push(Violation::at(
                        Collection::VirtualServers,
                        &server.name,
                        format!("/spec/bindings/{index}"),
                        ViolationCode::CannotBind,
                        format!("{address} cannot be opened: {error}"),
                    ));
                }
            }
        }
        violations
    }
}
