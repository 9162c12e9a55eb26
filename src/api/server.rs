//! The HTTP server: routes, the layers around all of them, limits, start and stop.
//!
//! One worker thread serves the API, one the socket of this machine, and another the health listener, so that a probe is answered
//! while somebody reads a long listing. TLS is rustls with the process's own cryptography; its handshake has the time of a head. Heads must arrive within 10 seconds, bodies within 30 ([`super::body`]), idle connections are closed
//! after 30. Every answer carries `X-Request-Id`; every error is a problem, also the ones that actix makes.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServerHandle, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, Error, HttpMessage, HttpRequest, HttpResponse, HttpServer, web};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::access::Operations;
use super::auth::{Failures, LocalOwner, Principal};
use super::described::Described;
use super::health::{Exposition, Health};
use super::keys::Keys;
use super::large_body::Bodies;
use super::logins::Logins;
use super::problem::{PROBLEM_JSON, Problem, ProblemKind, REQUEST};
use super::shapes::VirtualServerStatus;
use super::{health, routes};
use crate::accounts::{KeysStatus, Quotas};
use crate::alerts::Alerts;
use crate::config::Configuration;
use crate::directory::suppressions::Suppressions;
use crate::intake::explain::Explain;
use crate::intake::submit::Submit;
use crate::mailroot::import::Importing;
use crate::model::name::Name;
use crate::model::pattern::Network;
use crate::queue::Steer;
use crate::queue::bulk::Bulk;
use crate::queue::history::History;
use crate::queue::operate::Operate;
use crate::routing::probe::Probe;
use crate::sinks::EventSinks;
use crate::smtp::reply::Reply;
use crate::status::{Drain, KeyUse, Running, Sessions};
use crate::store::Backup;
use crate::tlsrpt::TlsReports;

const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: usize = 1_024;
/// How long requests that have begun may take when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the API works with. All of it can be asked from any thread.
#[derive(Clone)]
pub struct Handles {
    /// The configuration.
    pub configuration: Arc<Configuration>,
    /// The queue.
    pub operate: Arc<dyn Operate>,
    /// Actions on many messages.
    pub bulk: Arc<dyn Bulk>,
    /// Holds, chosen connectors, dead letters, content, the queue as a file.
    pub steer: Arc<dyn Steer>,
    /// The probes.
    pub health: Arc<dyn Health>,
    /// All metrics in the OpenMetrics text format, with `# EOF`.
    pub metrics: Arc<dyn Exposition>,
    /// The keys that are valid.
    pub keys: Arc<dyn Keys>,
    /// When API keys were used.
    pub key_use: Arc<KeyUse>,
    /// What the listeners do.
    pub listeners: Arc<dyn Listeners>,
    /// Who is connected.
    pub sessions: Arc<Sessions>,
    /// What an operator has paused or stopped.
    pub running: Arc<Running>,
    /// Whether mail is taken at all.
    pub drain: Arc<Drain>,
    /// How it went to fetch the keys of identity providers.
    pub issuers: Arc<dyn Issuers>,
    /// How connectors stand with the tokens that they log in with.
    pub logins: Arc<dyn Logins>,
    /// Says what would become of a message.
    pub explain: Arc<dyn Explain>,
    /// Who must not be written to.
    pub suppressions: Arc<Suppressions>,
    /// Brings in old mailroots.
    pub imports: Arc<dyn Importing>,
    /// What is used up of quotas.
    pub quotas: Arc<Quotas>,
    /// Asks for next hops.
    pub probe: Arc<dyn Probe>,
    /// What is wrong, and who is told.
    pub alerts: Arc<Alerts>,
    /// What came of TLS with the hosts of other domains.
    pub tls_reports: Arc<TlsReports>,
    /// Takes mail.
    pub submit: Arc<dyn Submit>,
    /// Looks into message tracking.
    pub history: Arc<dyn History>,
    /// Who is told what happens; `None` where nobody is.
    pub sinks: Option<Arc<EventSinks>>,
    /// Copies the store.
    pub backup: Arc<dyn Backup>,
    /// Says that the process stops: streams end then.
    pub draining: watch::Receiver<Option<Reply>>,
}

/// Tells how it went to fetch the keys of identity providers. Closures do.
pub trait Issuers: Send + Sync {
    /// Of one; `None` while no token has needed its keys. Never waits.
    fn status(&self, identity_provider: &Name) -> Option<KeysStatus>;
}

impl<F: Fn(&Name) -> Option<KeysStatus> + Send + Sync> Issuers for F {
    fn status(&self, identity_provider: &Name) -> Option<KeysStatus> {
        self(identity_provider)
    }
}

/// Tells what the listeners do. Closures do.
pub trait Listeners: Send + Sync {
    /// What those of one virtual server do; `None` while nothing is known of it. Never waits.
    fn status(&self, virtual_server: &Name) -> Option<VirtualServerStatus>;
}

impl<F: Fn(&Name) -> Option<VirtualServerStatus> + Send + Sync> Listeners for F {
    fn status(&self, virtual_server: &Name) -> Option<VirtualServerStatus> {
        self(virtual_server)
    }
}

/// Where the API listens.
#[derive(Debug, Clone, Default)]
pub struct Listen {
    /// REST and documentation.
    pub api: Vec<SocketAddr>,
    /// Probes and metrics without keys; none by default.
    pub health: Vec<SocketAddr>,
    /// With TLS on the API's addresses; HTTP/2 and HTTP/1.1 are agreed there.
    pub tls: Option<rustls::ServerConfig>,
    /// Proxies in front of REST that are believed who the client is (`X-Forwarded-For`).
    pub proxies: Vec<Network>,
    /// A socket of this machine that only its owner can open: who comes by it is owner.
    pub socket: Option<Arc<UnixListener>>,
}

/// Why the API does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is in use, or may not be used.
    #[error("cannot listen on {address} for {what}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The REST API or the probes.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
    /// The socket of this machine cannot be served.
    #[error("the socket of this machine cannot be served: {0}")]
    Socket(io::Error),
}

/// The limits of a listener (a macro, as the types in `HttpServer` are private to actix).
macro_rules! limited {
    ($server:expr) => {
        $server
            .workers(1)
            .disable_signals()
            .max_connections(MAX_CONNECTIONS)
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(HEAD_TIMEOUT)
            .client_disconnect_timeout(CLOSE_TIMEOUT)
            .tls_handshake_timeout(HEAD_TIMEOUT)
            .shutdown_timeout(STOP_TIMEOUT.as_secs())
    };
}

/// The REST API.
pub struct Api;

impl Api {
    /// Binds the addresses and serves. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be bound; then nothing is served.
    pub fn start(handles: Handles, listen: &Listen) -> Result<Server, StartError> {
        let state = web::Data::new(State::new(handles, listen.proxies.clone()));
        let rest = state.clone();
        let rest = limited!(HttpServer::new(move || app(rest.clone())));
        let rest = listen.api.iter().try_fold(rest, |server, address| {
            let bound = match &listen.tls {
                Some(tls) => server.bind_rustls_0_23(address, tls.clone()),
                None => server.bind(address),
            };
            bound.map_err(|error| StartError::Bind { address: *address, what: "the REST API", error })
        })?;
        let local = listen.socket.as_ref().map(|socket| {
            let state = state.clone();
            let server = limited!(HttpServer::new(move || app(state.clone())));
            let server = server.on_connect(|_, connection| {
                connection.insert(LocalOwner);
            });
            server.listen_uds(socket.try_clone()?)
        });
        let local = local.transpose().map_err(StartError::Socket)?;
        let plain = limited!(HttpServer::new(move || health_app(state.clone())));
        let plain = listen.health.iter().try_fold(plain, |server, address| {
            server.bind(address).map_err(|error| StartError::Bind { address: *address, what: "the probes", error })
        })?;
        let (addresses, health_addresses) = (rest.addrs(), plain.addrs());
        let mut server = Server { addresses, health_addresses, running: Vec::new() };
        if !server.addresses.is_empty() {
            let rest = rest.run();
            server.running.push((rest.handle(), tokio::spawn(rest)));
        }
        if !server.health_addresses.is_empty() {
            let plain = plain.run();
            server.running.push((plain.handle(), tokio::spawn(plain)));
        }
        if let Some(local) = local {
            let local = local.run();
            server.running.push((local.handle(), tokio::spawn(local)));
        }
        Ok(server)
    }
}

/// A running API. Dropped without [`Server::stop`] it goes on until the runtime ends.
pub struct Server {
    addresses: Vec<SocketAddr>,
    health_addresses: Vec<SocketAddr>,
    running: Vec<(ServerHandle, JoinHandle<io::Result<()>>)>,
}

impl Server {
    /// Where REST is served; the ports that were chosen where 0 was asked for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the probes are served without keys.
    pub fn health_addresses(&self) -> &[SocketAddr] {
        &self.health_addresses
    }

    /// Takes no more requests, lets those that have begun end (10 seconds at most), and returns when all is closed.
    pub async fn stop(self) {
        for (handle, task) in self.running {
            handle.stop(true).await;
            match task.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the API did not end well"),
                Err(error) => tracing::error!(%error, "the API did not end well"),
            }
        }
    }
}

/// What every request can reach.
pub(super) struct State {
    pub(super) handles: Handles,
    /// Who is believed who the client is.
    pub(super) proxies: Vec<Network>,
    pub(super) failures: Failures,
    /// The memory of large bodies.
    pub(super) bodies: Bodies,
    /// What each operation needs.
    pub(super) operations: Operations,
    methods: BTreeMap<String, Vec<&'static str>>,
}

impl State {
    fn new(handles: Handles, proxies: Vec<Network>) -> Self {
        let Described { operations, methods } = Described::read();
        State { handles, proxies, failures: Failures::default(), bodies: Bodies::default(), operations, methods }
    }

    /// The methods of the route that a path belongs to.
    fn methods(&self, path: &str) -> Option<&[&'static str]> {
        let matches = |route: &str| {
            let (mut route, mut path) = (route.split('/'), path.split('/'));
            loop {
                match (route.next(), path.next()) {
                    (None, None) => return true,
                    (Some(expected), Some(given)) if expected == given => {}
                    (Some(expected), Some(given)) if expected.starts_with('{') && !given.is_empty() => {}
                    _ => return false,
                }
            }
        };
        self.methods.iter().find(|(route, _)| matches(route)).map(|(_, methods)| methods.as_slice())
    }
}

/// The id of a request.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// The application of the API listener.
fn app(
    state: web::Data<State>,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>,
> {
    App::new().app_data(state).configure(routes::served).default_service(web::to(nothing_here)).wrap(from_fn(around))
}

/// The application of the health listener.
fn health_app(
    state: web::Data<State>,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>,
> {
    App::new()
        .app_data(state)
        .configure(health::plain)
        .default_service(web::to(health::nothing_here))
        .wrap(from_fn(around))
}

/// Answers what no route answers: 405 when the path exists, else 404.
async fn nothing_here(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    nothing_fits(&request, &state).response()
}

/// That no operation fits the request.
pub(super) fn nothing_fits(request: &HttpRequest, state: &State) -> Problem {
    let path = request.path();
    let Some(methods) = state.methods(path) else {
        let detail = format!("no operation has the path {path:?}; /openapi.json lists them all");
        return Problem::new(ProblemKind::NotFound, detail);
    };
    let mut detail = format!("{} cannot be used here; {} can", request.method(), methods.join(", "));
    if path.starts_with("/api/v1/domains") {
        detail.push_str(". Domains follow from recipient policies: write a recipient policy to add or remove one");
    }
    Problem::new(ProblemKind::MethodNotAllowed, detail).with_header(header::ALLOW, methods.join(", "))
}

/// The outermost layer: request ids, HEAD, problems for everything that failed, headers that all answers have, a log line.
async fn around<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let id = request_id(&request);
    let method = request.method().clone();
    let path = request.path().to_owned();
    request.extensions_mut().insert(RequestId(id.clone()));
    if method == Method::HEAD {
        // Answered like GET; the connection leaves the body out.
        request.head_mut().method = Method::GET;
    }
    let mut response = REQUEST.scope(id.clone(), next.call(request)).await?.map_into_boxed_body();
    if response.status().is_client_error() || response.status().is_server_error() {
        response = as_problem(response, &id);
    }
    let key = response.request().extensions().get::<Principal>().map(|principal| principal.name.clone());
    let key = key.unwrap_or_default();
    let quiet = method == Method::GET || method == Method::HEAD;
    let status = response.status().as_u16();
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match quiet && status < 500 {
        true => {
            tracing::debug!(request.id = id, http.method = %method, http.path = path, http.status = status, key, duration_ms, "request")
        }
        false => {
            tracing::info!(request.id = id, http.method = %method, http.path = path, http.status = status, key, duration_ms, "request")
        }
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if !headers.contains_key(header::CACHE_CONTROL) {
        // Not even with an entity tag: that does not change with the status, so a browser would show an old one.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    Ok(response)
}

/// Puts the request id into a problem, and makes problems of actix's own refusals.
fn as_problem(response: ServiceResponse<BoxBody>, id: &str) -> ServiceResponse<BoxBody> {
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == PROBLEM_JSON);
    let is_probe = response.status() == StatusCode::SERVICE_UNAVAILABLE
        && response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json");
    if is_probe {
        return response;
    }
    let (request, response) = response.into_parts();
    let problem = response.extensions().get::<Problem>().filter(|_| is_problem).cloned();
    let mut problem = problem.unwrap_or_else(|| Problem::of_status(response.status()));
    problem.request_id = id.to_owned();
    ServiceResponse::new(request, problem.response())
}

/// The caller's own id, if it is a harmless one, else a new one.
fn request_id(request: &ServiceRequest) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let harmless = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    given.filter(harmless).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}
