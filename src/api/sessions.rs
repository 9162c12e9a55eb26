//! `sessions`: who is connected by SMTP now, and ending that.

use std::net::IpAddr;

use actix_web::{HttpRequest, HttpResponse, delete, get, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::audit::audited;
use super::codes::RequestCode;
use super::errors::{ListErrors, ReadErrors};
use super::problem::{Problem, ProblemKind};
use super::query::{self, FromQuery, NoParams, Paging, Params, Query};
use super::server::State;
use crate::status::{self, SessionFilter, SessionId, SessionView};

/// A client that is connected by SMTP.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = session_example)]
pub struct Session {
    /// Its id.
    #[schema(format = "uuid")]
    id: String,
    /// The virtual server.
    virtual_server: String,
    /// The address and port that the client connected to.
    #[schema(example = "0.0.0.0:2525")]
    binding: String,
    /// The client's address.
    client: String,
    /// The client's port.
    client_port: u16,
    /// What the client calls itself (HELO, EHLO).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    helo: Option<String>,
    /// The account that it authenticated as.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    account: Option<String>,
    /// Its encryption; absent in clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    tls: Option<SessionTls>,
    /// How far it is.
    state: SessionState,
    /// When it was opened.
    #[schema(format = DateTime)]
    since: String,
    /// Messages taken from it.
    messages: u64,
    /// Octets of content received from it.
    bytes: u64,
}

/// How a session is encrypted.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionTls {
    /// The protocol version.
    #[schema(example = "TLSv1.3")]
    version: &'static str,
    /// The cipher suite.
    #[schema(example = "TLS13_AES_256_GCM_SHA384")]
    cipher: String,
    /// The host name that the client asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    server_name: Option<String>,
    /// SHA-256 of the client's certificate, which was verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    client_certificate: Option<String>,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum SessionState {
    /// The client has not said its name yet.
    Connected,
    /// Between messages.
    Idle,
    /// The client gives sender and recipients.
    Envelope,
    /// The client sends content.
    Content,
    /// The message is being written to disk.
    Committing,
}

/// A page of sessions.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionList {
    /// The sessions of this page, oldest first.
    items: Vec<Session>,
    /// Give it as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    next_cursor: Option<String>,
}

/// How many sessions were asked to end.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"ending": 3}))]
pub struct EndedSessions {
    /// So many. Each ends as soon as it has no complete message or command at hand.
    ending: usize,
}

impl From<SessionView> for Session {
    fn from(view: SessionView) -> Self {
        Session {
            id: view.id.to_string(),
            virtual_server: view.opening.server.to_string(),
            binding: view.opening.binding.to_string(),
            client: view.client.ip().to_string(),
            client_port: view.client.port(),
            helo: view.helo,
            account: view.account,
            tls: view.tls.map(|tls| SessionTls {
                version: tls.version,
                cipher: tls.cipher.clone(),
                server_name: tls.sni.clone(),
                client_certificate: tls.client.as_ref().map(|certificate| certificate.fingerprint.clone()),
            }),
            state: match view.state {
                status::SessionState::Connected => SessionState::Connected,
                status::SessionState::Idle => SessionState::Idle,
                status::SessionState::Envelope => SessionState::Envelope,
                status::SessionState::Content => SessionState::Content,
                status::SessionState::Committing => SessionState::Committing,
            },
            since: view.opening.since.to_string(),
            messages: view.messages,
            bytes: view.bytes,
        }
    }
}

/// Which sessions to list.
#[derive(Debug)]
pub struct SessionParams {
    paging: Paging,
    after: Option<SessionId>,
    filter: SessionFilter,
}

/// Which sessions to end: at least one of them is needed.
#[derive(Debug)]
pub struct EndParams(SessionFilter);

fn filter_params() -> Vec<Parameter> {
    vec![
        query::text("virtualServer", "Only sessions of this virtual server.", "default"),
        query::text("client", "Only sessions of this client address.", "192.0.2.7"),
        query::text("account", "Only sessions that authenticated as this account.", "app"),
    ]
}

fn filter_of(query: &mut Query) -> SessionFilter {
    SessionFilter {
        virtual_server: query.get("virtualServer"),
        client: query.get::<IpAddr>("client").map(|client| client.to_canonical()),
        account: query.get("account"),
    }
}

impl IntoParams for SessionParams {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = Paging::into_params(parameter_in);
        parameters.extend(filter_params());
        parameters
    }
}

impl FromQuery for SessionParams {
    fn from_query(query: &mut Query) -> Self {
        let filter = filter_of(query);
        let paging = Paging::from_query(query);
        let after = paging.after.as_deref().and_then(|id| id.parse().ok());
        SessionParams { paging, after, filter }
    }
}

impl IntoParams for EndParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        filter_params()
    }
}

impl FromQuery for EndParams {
    fn from_query(query: &mut Query) -> Self {
        if query.filter().is_empty() {
            let detail = "say which sessions are to end: at least one of virtualServer, client and account is needed";
            query.refuse("virtualServer", RequestCode::InvalidParameter, detail);
        }
        EndParams(filter_of(query))
    }
}

/// List sessions
///
/// Clients that are connected by SMTP now, oldest first. Scope: `queue:read`.
#[utoipa::path(
    tag = "sessions",
    operation_id = "listSessions",
    params(SessionParams),
    responses(
        (status = 200, description = "A page of sessions.", body = SessionList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/sessions")]
pub async fn list_sessions(params: Params<SessionParams>, state: web::Data<State>) -> Result<HttpResponse, Problem> {
    let SessionParams { paging, after, filter } = params.0;
    let (page, more) = state.handles.sessions.list(&filter, after, paging.limit);
    let next_cursor = page.last().filter(|_| more).map(|last| paging.cursor(&last.id.to_string()));
    let items = page.into_iter().map(Session::from).collect();
    Ok(HttpResponse::Ok().json(SessionList { items, next_cursor }))
}

/// End a session
///
/// The client gets 421 4.3.2 as soon as it has no complete message or command at hand; a message that is complete is
/// still taken. Scope: `queue:write`.
#[utoipa::path(
    tag = "sessions",
    operation_id = "endSession",
    params(("id" = String, Path, description = "The session's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11")),
    responses(
        (status = 204, description = "It was asked to end."),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[delete("/sessions/{id}")]
pub async fn end_session(
    request: HttpRequest,
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let missing =
        || Problem::new(ProblemKind::NotFound, format!("there is no session {:?}; it may have ended", id.as_str()));
    let session: SessionId = id.parse().map_err(|_| missing())?;
    let deed = async { state.handles.sessions.end(session).then_some(()).ok_or_else(missing) };
    audited(&request, &state, &format!("sessions/{session}"), "end", Value::Null, deed).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// End sessions
///
/// Ends all sessions of a virtual server, a client or an account, like one. New ones are taken: pause or stop the virtual
/// server to prevent that. Scope: `queue:write`.
#[utoipa::path(
    tag = "sessions",
    operation_id = "endSessions",
    params(EndParams),
    responses(
        (status = 200, description = "They were asked to end.", body = EndedSessions, example = ended_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[delete("/sessions")]
pub async fn end_sessions(
    request: HttpRequest,
    params: Params<EndParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let filter = params.0.0;
    let detail = json!({
        "virtualServer": filter.virtual_server, "client": filter.client, "account": filter.account
    });
    let deed = async { Ok(state.handles.sessions.end_all(&filter)) };
    let ending = audited(&request, &state, "sessions", "end", detail, deed).await?;
    Ok(HttpResponse::Ok().json(EndedSessions { ending }))
}

fn session_example() -> Value {
    json!({
        "id": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11", "virtualServer": "default", "binding": "0.0.0.0:2525",
        "client": "10.1.2.3", "clientPort": 40_112, "helo": "app-7.local", "account": "app",
        "tls": {"version": "TLSv1.3", "cipher": "TLS13_AES_256_GCM_SHA384"},
        "state": "idle", "since": "2026-11-24T10:15:02.113Z", "messages": 2, "bytes": 18_422
    })
}

fn list_example() -> Value {
    json!({"items": [session_example()]})
}

fn ended_example() -> Value {
    json!({"ending": 3})
}
