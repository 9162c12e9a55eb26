//! `POST /explain`: what would become of a message, or becomes of one that waits, and why.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, post, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::body;
use super::errors::QuestionErrors;
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{NoParams, Params};
use super::queues;
use super::server::State;
use crate::config::{Snapshot, ViolationCode};
use crate::intake::explain::{Decision, Explanation, Outcome, Question, Stage};
use crate::model::host::IpAddress;
use crate::model::mail::MessageId;
use crate::model::name::Name;
use crate::model::size::Size;
use crate::model::spec::connector::security::TlsLevel;
use crate::queue::effective;
use crate::routing::security::{Origin, Security};
use crate::smtp::address::{ForwardPath, ReversePath};

/// A message as it might come in, or the id of one that is here.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = request_example)]
pub struct ExplainRequest {
    /// A message that waits here; then nothing else is given.
    #[serde(default)]
    #[schema(nullable = false, value_type = Option<String>)]
    message_id: Option<String>,
    /// The virtual server that it comes to. Default: `settings.defaultVirtualServer`.
    #[serde(default)]
    #[schema(nullable = false)]
    virtual_server: Option<Name>,
    /// The port of the binding that it comes in by. Default: that of the first binding.
    #[serde(default)]
    #[schema(nullable = false)]
    port: Option<u16>,
    /// The client's address. Default: `127.0.0.1`.
    #[serde(default)]
    #[schema(nullable = false)]
    client: Option<IpAddress>,
    /// The account that the client has logged in as. Default: none.
    #[serde(default)]
    #[schema(nullable = false)]
    account: Option<Name>,
    /// Whether the connection is encrypted.
    #[serde(default)]
    #[schema(default = false)]
    encrypted: bool,
    /// The reverse-path; `<>` is the null one.
    #[serde(default)]
    #[schema(nullable = false)]
    sender: Option<String>,
    /// The recipient.
    #[serde(default)]
    #[schema(nullable = false)]
    recipient: Option<String>,
    /// The size of the message. Default: 0.
    #[serde(default)]
    #[schema(nullable = false)]
    size: Option<Size>,
    /// Its priority (RFC 6710).
    #[serde(default)]
    #[schema(default = 0, minimum = -9, maximum = 9)]
    priority: i8,
}

/// What becomes of a message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = answer_example)]
pub struct ExplainAnswer {
    /// The recipient that was asked for, or those of the message that wait.
    items: Vec<ExplainedRecipient>,
}

/// What becomes of one recipient.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedRecipient {
    /// The recipient.
    recipient: String,
    /// Whether a client may send to it; true for a message that is here.
    accepted: bool,
    /// The reply that refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reply: Option<String>,
    /// The queue in which it would wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    queue: Option<String>,
    /// The virtual server that would send.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    virtual_server: Option<String>,
    /// The hosts that would be tried, in their order.
    next_hops: Vec<ExplainedHop>,
    /// Every decision, in the order in which they are made.
    decisions: Vec<Decision>,
    /// The settings that hold for it there.
    effective: Vec<EffectiveSetting>,
}

/// A host that would be tried.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedHop {
    /// Its name, or its address where it has none.
    name: String,
    /// Address and port.
    address: String,
    /// Whether the session would be encrypted.
    tls: ExplainedTls,
}

/// Whether a session with a host is encrypted, and what is checked.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"tls": "verified", "source": "connector", "verifies": "smtp.example.net"}))]
pub struct ExplainedTls {
    /// The value of `security.tls` that is in force.
    tls: TlsLevel,
    /// Who says so: `smartHost`, `connector`, `virtualServer` or `builtIn`.
    #[schema(value_type = String)]
    source: Origin,
    /// The name that the certificate must be for, where it is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    verifies: Option<String>,
}

impl From<Security> for ExplainedTls {
    fn from(security: Security) -> Self {
        ExplainedTls { tls: security.tls, source: security.from, verifies: security.verifies }
    }
}

/// A setting that holds, and where it comes from.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveSetting {
    /// Its name.
    name: &'static str,
    /// What it is.
    value: String,
    /// The object that says so, as `collection/name`, or `builtIn`.
    source: String,
}

/// Explain a message
///
/// What would become of a message, and why: who may send it, who is meant, which connector carries it and which were
/// passed over, when, to which hosts, with which settings. The same functions decide as for real mail; nothing is sent, kept or
/// counted. With `messageId` it is told where each recipient that waits belongs now. DNS is asked. Scope: `config:read`.
#[utoipa::path(
    tag = "explain",
    operation_id = "explain",
    request_body(content = ExplainRequest, content_type = "application/json", description = "The message.", example = request_example),
    responses(
        (status = 200, description = "Every decision.", body = ExplainAnswer, example = answer_example),
        QuestionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:read")))
)]
#[post("/explain")]
pub async fn explain_message(
    request: HttpRequest,
    payload: web::Payload,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let body = body::json(&request, payload, &["application/json"]).await?;
    let asked: ExplainRequest = body::typed(&body)?;
    let snapshot = state.handles.configuration.live().current();
    let mut items = Vec::new();
    if let Some(id) = &asked.message_id {
        let not_known = || Problem::new(ProblemKind::NotFound, format!("there is no message \"{id}\""));
        let id: MessageId = id.parse().map_err(|_| not_known())?;
        let message = state.handles.operate.message(id).await.map_err(queues::problem)?;
        for recipient in message.recipients.iter().filter(|recipient| recipient.waits.is_some()) {
            let told = state.handles.explain.taken(&snapshot, &message, recipient);
            items.push(item(&state, &snapshot, recipient.forward_path.to_string(), told).await);
        }
    } else {
        let question = question(&snapshot, &asked)?;
        let recipient = question.recipient.to_string();
        let told = state.handles.explain.coming(&snapshot, question).await;
        items.push(item(&state, &snapshot, recipient, told).await);
    }
    Ok(HttpResponse::Ok().json(ExplainAnswer { items }))
}

/// The question in the request, or everything that is wrong with it.
fn question(snapshot: &Arc<Snapshot>, asked: &ExplainRequest) -> Result<Question, Problem> {
    let mut wrong = Vec::new();
    let mut at = |pointer: &str, code, detail: String| wrong.push(FieldError::at(pointer, code, detail));
    let server = asked.virtual_server.as_ref().or(snapshot.default_virtual_server.as_ref());
    let server = server.and_then(|name| snapshot.virtual_servers.get(name));
    if server.is_none() {
        at("/virtualServer", ViolationCode::UnknownReference, "there is no such virtual server".to_owned());
    }
    let account = asked.account.as_ref().map(|name| snapshot.accounts.iter().find(|account| account.name == *name));
    if account == Some(None) {
        at("/account", ViolationCode::UnknownReference, "there is no such account".to_owned());
    }
    let sender: Result<ReversePath, _> = asked.sender.as_deref().unwrap_or("<>").parse();
    if sender.is_err() {
        at("/sender", ViolationCode::InvalidValue, "an address, or <> for the null reverse-path".to_owned());
    }
    let recipient: Option<Result<ForwardPath, _>> = asked.recipient.as_deref().map(str::parse);
    match &recipient {
        Some(Ok(_)) => {}
        Some(Err(_)) => at("/recipient", ViolationCode::InvalidValue, "an address is needed".to_owned()),
        None => at("/recipient", ViolationCode::Required, "a recipient, or a messageId, is needed".to_owned()),
    }
    if !(-9..=9).contains(&asked.priority) {
        at("/priority", ViolationCode::OutOfRange, "from -9 to 9".to_owned());
    }
    match (server, sender, recipient) {
        (Some(server), Ok(sender), Some(Ok(recipient))) if wrong.is_empty() => Ok(Question {
            server: server.clone(),
            port: asked.port,
            client: asked.client.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |client| client.0),
            account: account.flatten().cloned(),
            encrypted: asked.encrypted,
            sender,
            recipient,
            size: asked.size.map_or(0, Size::bytes),
            priority: asked.priority,
        }),
        _ => Err(Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(wrong)),
    }
}

/// The decisions of the house, and what `outbound` says of the next hops.
async fn item(state: &State, snapshot: &Snapshot, recipient: String, told: Explanation) -> ExplainedRecipient {
    let Explanation { mut decisions, refused, destination } = told;
    let mut item = ExplainedRecipient {
        recipient,
        accepted: refused.is_none(),
        reply: refused,
        queue: destination.as_ref().map(|to| to.queue.to_string()),
        virtual_server: None,
        next_hops: Vec::new(),
        decisions: Vec::new(),
        effective: Vec::new(),
    };
    if let Some(to) = destination {
        let found = state.handles.probe.next_hops(&to.queue, &to.took).await;
        let sends = found.as_ref().map_or(&to.took, |found| &found.server);
        item.effective = effective(snapshot, sends, &to.queue)
            .into_iter()
            .map(|setting| EffectiveSetting { name: setting.name, value: setting.value, source: setting.source })
            .collect();
        item.virtual_server = Some(sends.to_string());
        let next_hop = |rule, outcome, detail| Decision {
            stage: Stage::NextHop,
            rule,
            outcome,
            object: None,
            reply: None,
            detail,
        };
        match found.map(|found| found.hosts) {
            Some(Ok(hosts)) => {
                for hop in hosts {
                    decisions.push(next_hop("host", Outcome::Chosen, format!("{} ({})", hop.name, hop.address)));
                    let address = hop.address.to_string();
                    item.next_hops.push(ExplainedHop { name: hop.name, address, tls: hop.security.into() });
                }
            }
            Some(Err(failure)) => {
                let outcome = if failure.is_permanent() { Outcome::Ends } else { Outcome::Waits };
                decisions.push(next_hop("dns", outcome, failure.to_string()));
            }
            None => {}
        }
    }
    item.decisions = decisions;
    item
}

fn request_example() -> Value {
    json!({"virtualServer": "default", "client": "10.1.2.3", "sender": "ada@example.com", "recipient": "bob@partner.example", "size": "3MiB"})
}

fn answer_example() -> Value {
    json!({"items": [{
        "recipient": "bob@partner.example", "accepted": true, "queue": "smarthost:hub", "virtualServer": "default",
        "nextHops": [{
            "name": "smtp.partner.example", "address": "192.0.2.25:25",
            "tls": {"tls": "opportunistic", "source": "builtIn"}
        }],
        "decisions": [
            {"stage": "connect", "rule": "connectionControl", "outcome": "passed", "detail": ""},
            {"stage": "rcpt", "rule": "recipient", "outcome": "passed", "detail": "the client may relay"},
            {"stage": "directory", "rule": "recipient", "outcome": "passed", "detail": "partner.example is not local"},
            {"stage": "route", "rule": "restrictions.maxSize", "outcome": "passedOver", "object": "connectors/small",
             "detail": "address space partner.example at cost 1: the message is too large"},
            {"stage": "route", "rule": "addressSpace", "outcome": "chosen", "object": "connectors/hub",
             "detail": "address space partner.example at cost 10"},
            {"stage": "nextHop", "rule": "host", "outcome": "chosen", "detail": "smtp.partner.example (192.0.2.25:25)"}
        ],
        "effective": [{"name": "retryIntervals", "value": "15m, 30m, 1h, 4h", "source": "virtual-servers/default"}]
    }]})
}
