//! `POST /connectors/{name}/test`: the next hops of a connector, spoken to as for mail, without mail.

use actix_web::{HttpRequest, HttpResponse, post, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::body;
use super::errors::QuestionErrors;
use super::explain::ExplainedTls;
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{NoParams, Params};
use super::resources::not_found;
use super::server::State;
use crate::config::ViolationCode;
use crate::model::failure::Failure;
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::model::spec::connector::RouteSpec;
use crate::model::time::Timestamp;
use crate::net::tls::client::Agreed;
use crate::net::transcript::Side;
use crate::routing::probe::{TestResult, Tested};
use crate::smtp::address::Domain;
use crate::smtp::extension::PeerExtensions;

/// What to test.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"domain": "example.com"}))]
pub struct ConnectorTestRequest {
    /// The domain whose hosts are asked; needed for a connector that routes by DNS, and for no other.
    #[serde(default)]
    #[schema(nullable = false)]
    domain: Option<Domain>,
}

/// What came of a test.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = answer_example)]
pub struct ConnectorTestAnswer {
    /// Whether at least one host would take mail.
    ok: bool,
    /// The virtual server under whose name and settings it was tried.
    virtual_server: String,
    /// Why there was no host to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    failure: Option<TestFailure>,
    /// The hosts, in the order in which mail would try them.
    hosts: Vec<TestedHost>,
}

/// What came of the session with one host.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestedHost {
    /// Its name, or its address where it has none.
    name: String,
    /// Address and port.
    address: String,
    /// Whether it would take mail.
    ok: bool,
    /// What speaks against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    failure: Option<TestFailure>,
    /// What was wanted of TLS.
    wanted: ExplainedTls,
    /// What was agreed on TLS; absent in clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    tls: Option<TestedTls>,
    /// What it offers, as EHLO keywords.
    extensions: Vec<String>,
    /// How long it took, in milliseconds.
    duration_ms: u64,
    /// What was said; passwords and tokens are `***`.
    dialogue: Vec<DialogueLine>,
}

/// Why mail would not go there now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestFailure {
    /// The enhanced status code that mail would get.
    status: String,
    /// In words.
    detail: String,
}

/// What was agreed on TLS.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestedTls {
    /// The version.
    version: String,
    /// The cipher suite, as IANA names it.
    cipher: String,
    /// Whether the certificate was checked, and found good.
    verified: bool,
    /// The certificates that the host showed, its own first.
    chain: Vec<TestedCertificate>,
}

/// A certificate.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestedCertificate {
    /// Who it is for.
    subject: String,
    /// The hosts it is for.
    names: Vec<String>,
    /// Who issued it.
    issuer: String,
    /// From when it is valid.
    #[schema(value_type = String, format = DateTime)]
    not_before: Timestamp,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    not_after: Timestamp,
    /// Its SHA-256.
    fingerprint: String,
}

/// A line of the dialogue.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DialogueLine {
    /// Who said it: `client` (the appliance) or `server`.
    from: &'static str,
    /// What.
    text: String,
    /// When, in milliseconds from the beginning.
    at_ms: u64,
}

/// Test a connector
///
/// Speaks to each of its next hops as mail would: connects, greets, encrypts, logs in, and ends; no mail is sent, and nothing of
/// it changes what is known of the connector. The answer has the whole dialogue, the certificates and the time it took. A
/// connector that routes by DNS needs a domain. At most five hosts, at most a minute each. Scope: `queue:write`.
#[utoipa::path(
    tag = "connectors",
    operation_id = "testConnector",
    params(("name" = String, Path, description = "The connector's name.", example = "internet")),
    request_body(content = ConnectorTestRequest, content_type = "application/json", description = "What to test.", example = json!({"domain": "example.com"})),
    responses(
        (status = 200, description = "What came of it; look at `ok`.", body = ConnectorTestAnswer, example = answer_example),
        QuestionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/connectors/{name}/test")]
pub async fn test_connector(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let body = body::json(&request, payload, &["application/json"]).await?;
    let asked: ConnectorTestRequest = body::typed(&body)?;
    let missing = || not_found(Collection::Connectors, &name);
    let known: Name = name.parse().map_err(|_| missing())?;
    let live = state.handles.configuration.live().current();
    let Some(connector) = live.routes.connector(&known) else {
        // it may be there, and not be enabled
        let stored = state.handles.configuration.get(Collection::Connectors, &name);
        return Err(match stored {
            Ok(Some(_)) => Problem::new(ProblemKind::Conflict, format!("the connector {name} is not enabled")),
            _ => missing(),
        });
    };
    let wrong = |code, detail: &str| {
        let errors = vec![FieldError::at("/domain", code, detail)];
        Err(Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(errors))
    };
    match (&connector.spec.route, &asked.domain) {
        (RouteSpec::Dns(_), None) => {
            return wrong(ViolationCode::Required, "the connector routes by DNS: say whose hosts to ask");
        }
        (RouteSpec::SmartHosts(_), Some(_)) => {
            return wrong(ViolationCode::Conflict, "the connector has smart hosts, which take mail for every domain");
        }
        _ => {}
    }
    let result = state.handles.probe.test(&known, asked.domain.as_ref()).await.ok_or_else(missing)?;
    Ok(HttpResponse::Ok().json(ConnectorTestAnswer::from(result)))
}

impl From<TestResult> for ConnectorTestAnswer {
    fn from(result: TestResult) -> Self {
        let (hosts, failure) = match result.hosts {
            Ok(hosts) => (hosts.into_iter().map(TestedHost::from).collect(), None),
            Err(failure) => (Vec::new(), Some(TestFailure::from(&failure))),
        };
        let ok = hosts.iter().any(|host: &TestedHost| host.ok);
        ConnectorTestAnswer { ok, virtual_server: result.server.to_string(), failure, hosts }
    }
}

impl From<Tested> for TestedHost {
    fn from(tested: Tested) -> Self {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        TestedHost {
            name: tested.hop.name,
            address: tested.hop.address.to_string(),
            ok: tested.failure.is_none(),
            failure: tested.failure.as_ref().map(TestFailure::from),
            wanted: ExplainedTls::from(tested.hop.security),
            tls: tested.tls.map(TestedTls::from),
            extensions: tested.extensions.as_ref().map(keywords).unwrap_or_default(),
            duration_ms: millis(tested.took),
            dialogue: tested
                .dialogue
                .into_iter()
                .map(|line| DialogueLine {
                    from: match line.side {
                        Side::Client => "client",
                        Side::Server => "server",
                    },
                    text: line.text,
                    at_ms: millis(line.at),
                })
                .collect(),
        }
    }
}

impl From<&Failure> for TestFailure {
    fn from(failure: &Failure) -> Self {
        TestFailure { status: failure.status.to_string(), detail: failure.to_string() }
    }
}

impl From<Agreed> for TestedTls {
    fn from(agreed: Agreed) -> Self {
        TestedTls {
            version: agreed.version.to_owned(),
            cipher: agreed.cipher,
            verified: agreed.verified,
            chain: agreed
                .chain
                .into_iter()
                .map(|facts| TestedCertificate {
                    subject: facts.subject,
                    names: facts.names,
                    issuer: facts.issuer,
                    not_before: facts.not_before,
                    not_after: facts.not_after,
                    fingerprint: facts.fingerprint,
                })
                .collect(),
        }
    }
}

/// What the peer offers, of what we know.
fn keywords(peer: &PeerExtensions) -> Vec<String> {
    let auth = peer.auth.iter().map(|mechanism| mechanism.to_string()).collect::<Vec<_>>().join(" ");
    [
        ("PIPELINING", peer.pipelining),
        ("8BITMIME", peer.eight_bit_mime),
        ("SMTPUTF8", peer.smtputf8),
        ("ENHANCEDSTATUSCODES", peer.enhanced_status_codes),
        ("DSN", peer.dsn),
        ("CHUNKING", peer.chunking),
        ("BINARYMIME", peer.binary_mime),
        ("STARTTLS", peer.starttls),
        ("REQUIRETLS", peer.require_tls),
        ("MT-PRIORITY", peer.mt_priority),
    ]
    .into_iter()
    .filter(|(_, offered)| *offered)
    .map(|(keyword, _)| keyword.to_owned())
    .chain(peer.size.map(|limit| limit.map_or("SIZE".to_owned(), |limit| format!("SIZE {limit}"))))
    .chain(peer.deliver_by.map(|least| format!("DELIVERBY {least}")))
    .chain((!auth.is_empty()).then(|| format!("AUTH {auth}")))
    .collect()
}

fn answer_example() -> Value {
    json!({
        "ok": true, "virtualServer": "default",
        "hosts": [{
            "name": "smtp.example.net", "address": "192.0.2.25:587", "ok": true,
            "wanted": {"tls": "verified", "source": "connector", "verifies": "smtp.example.net"},
            "tls": {"version": "TLSv1.3", "cipher": "TLS13_AES_256_GCM_SHA384", "verified": true, "chain": [{
                "subject": "CN=smtp.example.net", "names": ["smtp.example.net"], "issuer": "CN=Example CA",
                "notBefore": "2026-01-01T00:00:00.000Z", "notAfter": "2027-01-01T00:00:00.000Z",
                "fingerprint": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
            }]},
            "extensions": ["PIPELINING", "8BITMIME", "SIZE 36700160", "AUTH PLAIN LOGIN"], "durationMs": 84,
            "dialogue": [
                {"from": "server", "text": "220 smtp.example.net ESMTP", "atMs": 21},
                {"from": "client", "text": "EHLO mail.example.com", "atMs": 21}
            ]
        }]
    })
}
