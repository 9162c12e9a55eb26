//! A session with one host of a next hop: connected, encrypted and logged in as [`crate::routing::security`] says.
//!
//! Where TLS is opportunistic and cannot be had, the host is tried once more in clear, on a new connection; what was sent before
//! is not used. Credentials go in TLS only, but to this machine itself, so a session that has to log in falls back to
//! clear nowhere else.

use std::sync::Arc;
use std::time::Duration;

use super::Outbound;
use super::hosts::NextHop;
use crate::config::VirtualServer;
use crate::model::failure::Failure;
use crate::model::queue_name::QueueName;
use crate::model::spec::connector;
use crate::model::spec::connector::security::{LoginMechanism, SmartHostTls, TlsLevel};
use crate::net::client_driver::Connection;
use crate::net::connect::{Stream, Target};
use crate::net::tls::client::{Check, Handshake, no_name, server_name};
use crate::routing::Connector;
use crate::routing::security::{self, Hop, Security, is_private_to_us};
use crate::smtp::client::{Cause, Encryption, Hello, Login, OpenError, Phase, Settings, Timeouts};

/// Longest wait for a TCP connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// How a host goes by in logs and reports.
pub(super) fn label(hop: &NextHop) -> String {
    format!("{} ({})", hop.name, hop.address)
}

/// A session that is ready for mail.
///
/// # Errors
/// A failure of the host, transient.
pub(super) async fn open(
    outbound: &Outbound,
    server: &VirtualServer,
    connector: &Connector,
    queue: &QueueName,
    hop: &NextHop,
) -> Result<Connection<Box<dyn Stream>>, Failure> {
    let label = label(hop);
    let whose = format!("connector {}", connector.name);
    let domain = match queue {
        QueueName::Dns(_, domain) => Some(domain),
        _ => None,
    };
    let to = Hop { host: &hop.name, port: hop.address.port(), domain };
    let security = security::in_force(&connector.spec, &server.spec.outbound, to);
    let plan =
        Plan::new(connector, server, hop, &security).map_err(|why| Failure::of_setup(&why, &whose).by(&label))?;
    let first = plan.attempt(outbound, hop, plan.encryption).await;
    let result = match first {
        Err(Attempt::Open(error)) if plan.may_go_in_clear && is_about_tls(&error) => {
            tracing::info!(connector = %connector.name, next_hop = %label, %error, "no TLS: the host is tried in clear");
            plan.attempt(outbound, hop, Encryption::None).await
        }
        result => result,
    };
    match result {
        Ok(connection) => {
            let (tls, verified) = connection.agreed().map_or(("none", false), |tls| (tls.version, tls.verified));
            tracing::debug!(connector = %connector.name, next_hop = %label, tls, verified, "a session is open");
            Ok(connection)
        }
        Err(Attempt::Connect(error)) => Err(Failure::of_connect(&error, &label)),
        Err(Attempt::Open(error)) => Err(Failure::of_open(&error, &label, &whose)),
    }
}

/// Why there is no session.
enum Attempt {
    Connect(std::io::Error),
    Open(OpenError),
}

/// Whether it was TLS that failed, and a host without it may do.
fn is_about_tls(error: &OpenError) -> bool {
    match error {
        OpenError::Handshake(_) => true,
        // what was garbage there may have been injected: that is not rewarded
        OpenError::Broken { phase: Phase::StartTls, cause } => matches!(cause, Cause::Cut | Cause::TimedOut),
        _ => false,
    }
}

/// How sessions with a host are opened.
struct Plan {
    settings: Settings,
    encryption: Encryption,
    handshake: Option<Handshake>,
    may_go_in_clear: bool,
}

impl Plan {
    /// # Errors
    /// In words, when what the connector needs for it cannot be had.
    fn new(connector: &Connector, server: &VirtualServer, hop: &NextHop, security: &Security) -> Result<Self, String> {
        let fault = || {
            let fault = connector.access.fault.as_ref();
            fault.map_or("what it needs to be let in cannot be read".to_owned(), |fault| fault.message.clone())
        };
        let near = is_private_to_us(hop.address.ip());
        let login = match (connector.spec.authentication.mechanism, &connector.access.credentials) {
            (LoginMechanism::None, _) => None,
            (_, None) => return Err(fault()),
            (_, Some(credentials)) => {
                Some(Login { credentials: credentials.clone(), nonce: String::new(), in_clear: near })
            }
        };
        let encryption = match (security.tls, security.begins) {
            (_, SmartHostTls::Implicit) => Encryption::Implicit,
            (TlsLevel::None, SmartHostTls::Starttls) => Encryption::None,
            (TlsLevel::Opportunistic, SmartHostTls::Starttls) => Encryption::Opportunistic,
            (TlsLevel::Required | TlsLevel::Verified, SmartHostTls::Starttls) => Encryption::Required,
        };
        let handshake = match &security.verifies {
            _ if encryption == Encryption::None => None,
            Some(name) => {
                let of = server_name(name).ok_or_else(|| format!("no certificate can be for the name {name}"))?;
                Some((of, Check::Name))
            }
            None => Some((server_name(&hop.name).unwrap_or_else(|| no_name(hop.address.ip())), Check::Nothing)),
        };
        let handshake = match (handshake, &connector.access.tls) {
            (None, _) => None,
            (Some(_), None) => return Err(fault()),
            (Some((name, check)), Some(tls)) => Some(Handshake { tls: Arc::clone(tls), name, check }),
        };
        let settings = Settings {
            hello: match connector.spec.hello {
                connector::Hello::Ehlo => Hello::Ehlo,
                connector::Hello::Helo => Hello::Helo,
            },
            verified_tls: security.tls == TlsLevel::Verified,
            timeouts: Timeouts::default().at_most(server.spec.outbound.timeout.std()),
            ..Settings::new(server.fqdn.as_str())
        };
        let may_go_in_clear = encryption == Encryption::Opportunistic && (login.is_none() || near);
        Ok(Plan { settings: Settings { login, ..settings }, encryption, handshake, may_go_in_clear })
    }

    async fn attempt(
        &self,
        outbound: &Outbound,
        hop: &NextHop,
        encryption: Encryption,
    ) -> Result<Connection<Box<dyn Stream>>, Attempt> {
        let mut settings = Settings { encryption, ..self.settings.clone() };
        if let Some(login) = &mut settings.login {
            login.nonce = uuid::Uuid::new_v4().simple().to_string();
        }
        let timeout = settings.timeouts.banner.min(CONNECT_LIMIT);
        let target = Target { address: hop.address, source: None, timeout };
        let connected = outbound.connect.connect(&target).await.map_err(Attempt::Connect)?;
        let handshake = self.handshake.clone().filter(|_| encryption != Encryption::None);
        let opened = Connection::open(connected.stream, settings, handshake, &*outbound.clock).await;
        opened.map_err(Attempt::Open)
    }
}
