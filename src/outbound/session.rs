//! A session with one host of a next hop, at whichever of its addresses answers first: connected, encrypted and logged in as [`crate::routing::security`] says.
//!
//! Where TLS is opportunistic and cannot be had, the host is tried once more in clear, on a new connection; what was sent before
//! is not used. Credentials go in TLS only, but to this machine itself, so a session that has to log in falls back to
//! clear nowhere else. A host that refuses our token is tried once more with another one.

use std::sync::Arc;
use std::time::Duration;

use super::counted::Counted;
use super::hosts::NextHop;
use super::{Outbound, counted, sources};
use crate::config::VirtualServer;
use crate::model::failure::{Failure, Scope};
use crate::model::queue_name::QueueName;
use crate::model::spec::connector::security::{LoginMechanism, SmartHostTls, TlsLevel};
use crate::model::spec::connector::{self, RouteSpec};
use crate::net::client_driver::Connection;
use crate::net::connect::{Connected, Stream};
use crate::net::race::{Candidate, connect_from, first_to_connect};
use crate::net::tls::client::{Check, Handshake, no_name, server_name};
use crate::net::transcript::Transcript;
use crate::routing::Connector;
use crate::routing::access;
use crate::routing::security::{self, Hop, Security, is_private_to_us};
use crate::smtp::client::{Cause, Encryption, Hello, Login, OpenError, Phase, Settings, Timeouts};
use crate::smtp::reply::EnhancedStatus;
use crate::smtp::sasl::client::Credentials;

/// Longest wait for a TCP connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// How a host goes by in logs and reports.
pub(super) fn label(hop: &NextHop) -> String {
    format!("{} ({})", hop.name, hop.address)
}

fn whose(connector: &Connector) -> String {
    format!("connector {}", connector.name)
}

/// What the connector's sessions log in with, once it is there; `None`: they do not log in.
///
/// # Errors
/// It cannot be had. That is no fault of a host: none has to be asked.
pub(super) async fn credentials(outbound: &Outbound, connector: &Connector) -> Result<Option<Credentials>, Failure> {
    match &connector.access.login {
        Some(access::Login::Password(credentials)) => Ok(Some(credentials.clone())),
        Some(access::Login::Token(login)) => {
            let token = outbound.tokens.get(&connector.name, login).await;
            token.map(Some).map_err(|fault| Failure::of_token(&fault, &whose(connector)))
        }
        None => Ok(None),
    }
}

/// What a session is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// It carries mail.
    Mail,
    /// It carries a TLS report: not to be counted.
    Report,
    /// It asks whether recipients exist.
    Callout,
    /// It carries nothing; what is said is written down.
    Test(&'a Transcript),
}

/// A session that is ready for mail, with one of the addresses of a host, and which one that is: the first that connects, and
/// when that one gives no session, the first of the others. What it logs in with becomes another when the host refuses it.
///
/// # Errors
/// A failure of the host, transient.
pub(super) async fn open(
    outbound: &Outbound,
    server: &VirtualServer,
    connector: &Connector,
    queue: &QueueName,
    host: &[NextHop],
    login: &mut Option<Credentials>,
    purpose: Purpose<'_>,
) -> Result<(Connection<Box<dyn Stream>>, usize), Failure> {
    let whose = whose(connector);
    let floor = outbound.queue.snapshot().tls_floor(connector, queue);
    let turn = sources::next_turn(&outbound.sessions);
    let mut left = Vec::new();
    let mut last = None;
    for (at, hop) in host.iter().enumerate() {
        let security = security_of(server, connector, floor, queue, hop);
        let counted = match purpose {
            Purpose::Mail => Counted::of(connector, server, queue, hop, &security),
            Purpose::Report | Purpose::Callout | Purpose::Test(_) => None,
        };
        if let Some(why) = &security.refused {
            counted.iter().for_each(|counted| counted.refused(&outbound.tls_reports, why));
            let words = format!("{whose} sends nothing there: {why}");
            last = Some(Failure::new(Scope::Host, EnhancedStatus::transient(7, 5), words).by(&label(hop)));
            continue;
        }
        let mut plan = Plan::new(connector, server, hop, &security, login.as_ref())
            .map_err(|why| Failure::of_setup(&why, &whose).by(&label(hop)))?;
        plan.settings.envelope_only = matches!(purpose, Purpose::Callout);
        plan.counted = counted;
        match sources::candidate(connector, server, hop.address, turn) {
            Some(from) => left.push((at, plan, from)),
            None => {
                let words = format!("{whose} has no source address of the family of {}", hop.address.ip());
                last = Some(Failure::new(Scope::Host, EnhancedStatus::transient(3, 5), words).by(&label(hop)));
            }
        }
    }
    let transcript = match purpose {
        Purpose::Test(transcript) => Some(transcript),
        Purpose::Mail | Purpose::Report | Purpose::Callout => None,
    };
    while !left.is_empty() {
        let candidates: Vec<Candidate> = left.iter().map(|(_, _, candidate)| candidate.clone()).collect();
        let timeout = left[0].1.settings.timeouts.banner.min(CONNECT_LIMIT);
        let won = match first_to_connect(&*outbound.connect, &candidates, timeout).await {
            Ok(won) => won,
            // which of them it was hardly matters when none answers: the first stands for all
            Err(error) => {
                let label = label(&host[left[0].0]);
                last = Some(Failure::of_connect(&error, &label));
                break;
            }
        };
        let (at, plan, candidate) = &mut left[won.at];
        if let Some(login) = login {
            plan.show(login);
        }
        let way = Way { connector, hop: &host[*at], candidate, transcript };
        match plan.open(outbound, way, won.connected, login).await {
            Ok(connection) => return Ok((connection, *at)),
            Err(failure) => {
                tracing::info!(connector = %connector.name, next_hop = %label(&host[*at]), failure = %failure, "no session");
                last = Some(failure);
            }
        }
        let tried: Vec<usize> = won.failed.into_iter().chain([won.at]).collect();
        let mut index = 0..;
        left.retain(|_| !index.next().is_some_and(|index| tried.contains(&index)));
    }
    Err(last.unwrap_or_else(|| Failure::new(Scope::Host, EnhancedStatus::transient(4, 4), "no host to try")))
}

/// Whether a session with this host is encrypted, and what is checked.
pub(super) fn security_of(
    server: &VirtualServer,
    connector: &Connector,
    floor: Option<TlsLevel>,
    queue: &QueueName,
    hop: &NextHop,
) -> Security {
    let domain = match queue {
        QueueName::Dns(_, domain) if matches!(connector.spec.route, RouteSpec::Dns(_)) => Some(domain),
        _ => None,
    };
    let to = Hop { host: &hop.name, port: hop.address.port(), domain, asked: &hop.asked };
    security::in_force(&connector.spec, &server.spec.outbound, floor, to)
}

/// Why there is no session.
enum Attempt {
    Connect(std::io::Error),
    Open(OpenError),
}

/// Where a session leads.
#[derive(Clone, Copy)]
struct Way<'a> {
    connector: &'a Connector,
    hop: &'a NextHop,
    candidate: &'a Candidate,
    transcript: Option<&'a Transcript>,
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

/// In what words the host refused what we logged in with; `None`: it did not.
fn refusal<T>(result: &Result<T, Attempt>) -> Option<String> {
    match result {
        Err(Attempt::Open(OpenError::Login { why, .. })) if why.is_about_credentials() => Some(why.to_string()),
        _ => None,
    }
}

/// How sessions with a host are opened.
struct Plan {
    settings: Settings,
    encryption: Encryption,
    handshake: Option<Handshake>,
    may_go_in_clear: bool,
    /// For the domain's report.
    counted: Option<Counted>,
}

impl Plan {
    /// # Errors
    /// In words, when what the connector needs for it cannot be had.
    fn new(
        connector: &Connector,
        server: &VirtualServer,
        hop: &NextHop,
        security: &Security,
        credentials: Option<&Credentials>,
    ) -> Result<Self, String> {
        let fault = || {
            let fault = connector.access.fault.as_ref();
            fault.map_or("what it needs to be let in cannot be read".to_owned(), |fault| fault.message.clone())
        };
        let near = is_private_to_us(hop.address.ip());
        let login = match (connector.spec.authentication.mechanism, credentials) {
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
            (TlsLevel::Required | TlsLevel::Verified | TlsLevel::Dane, SmartHostTls::Starttls) => Encryption::Required,
        };
        let handshake = match (&security.verifies, &security.dane) {
            _ if encryption == Encryption::None => None,
            (_, Some(dane)) => Some((dane.name().clone(), Check::Dane(dane.clone()))),
            (Some(name), None) => {
                let of = server_name(name).ok_or_else(|| format!("no certificate can be for the name {name}"))?;
                Some((of, Check::Name))
            }
            (None, None) => {
                let check = if counted::is_in_testing(hop) { Check::Tried } else { Check::Nothing };
                Some((server_name(&hop.name).unwrap_or_else(|| no_name(hop.address.ip())), check))
            }
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
            verified_tls: security.tls >= TlsLevel::Verified,
            timeouts: Timeouts::default().at_most(server.spec.outbound.timeout.std()),
            ..Settings::new(server.fqdn.as_str())
        };
        let may_go_in_clear = encryption == Encryption::Opportunistic && (login.is_none() || near);
        let settings = Settings { login, ..settings };
        Ok(Plan { settings, encryption, handshake, may_go_in_clear, counted: None })
    }

    /// The same with other credentials.
    fn show(&mut self, credentials: &Credentials) {
        if let Some(login) = &mut self.settings.login {
            login.credentials = credentials.clone();
        }
    }

    /// A session over this connection, or over one more where that may help.
    async fn open(
        &mut self,
        outbound: &Outbound,
        way: Way<'_>,
        connected: Connected,
        shown: &mut Option<Credentials>,
    ) -> Result<Connection<Box<dyn Stream>>, Failure> {
        let (label, whose) = (label(way.hop), whose(way.connector));
        let name = &way.connector.name;
        let mut result = self.attempts(outbound, way, Some(connected)).await;
        if let Some(access::Login::Token(login)) = &way.connector.access.login {
            if let (Some(refusal), Some(shown)) = (refusal(&result), shown) {
                tracing::info!(connector = %name, next_hop = %label, %refusal, "another token is asked for");
                let other = outbound.tokens.instead_of(name, login, shown).await;
                if let Some(other) = other.map_err(|fault| Failure::of_token(&fault, &whose).by(&label))? {
                    *shown = other;
                    self.show(shown);
                    result = self.attempts(outbound, way, None).await;
                }
            }
            let answer = refusal(&result).map_or(Ok(()), Err);
            if result.is_ok() || answer.is_err() {
                outbound.tokens.answered(name, login, answer);
            }
        }
        match result {
            Ok(connection) => {
                let (tls, verified) = connection.agreed().map_or(("none", false), |tls| (tls.version, tls.verified));
                tracing::debug!(connector = %name, next_hop = %label, tls, verified, "a session is open");
                Ok(connection)
            }
            Err(Attempt::Connect(error)) => Err(Failure::of_connect(&error, &label)),
            Err(Attempt::Open(error)) => Err(Failure::of_open(&error, &label, &whose)),
        }
    }

    /// As it should be, over the connection that is there or a new one; in clear where that may be and TLS is not to be had.
    async fn attempts(
        &self,
        outbound: &Outbound,
        way: Way<'_>,
        connected: Option<Connected>,
    ) -> Result<Connection<Box<dyn Stream>>, Attempt> {
        let connected = match connected {
            Some(connected) => connected,
            None => self.connect(outbound, way).await?,
        };
        let from = connected.local.ip();
        let first = self.greet(outbound, connected, self.encryption, way.transcript).await;
        if let Some(counted) = &self.counted {
            counted.session(&outbound.tls_reports, from, first.as_ref().map(Connection::agreed));
        }
        match first {
            Err(error) if self.may_go_in_clear && is_about_tls(&error) => {
                let (connector, next_hop) = (&way.connector.name, label(way.hop));
                tracing::info!(connector = %connector, next_hop, %error, "no TLS: the host is tried in clear");
                let again = self.connect(outbound, way).await?;
                self.greet(outbound, again, Encryption::None, way.transcript).await.map_err(Attempt::Open)
            }
            result => result.map_err(Attempt::Open),
        }
    }

    async fn connect(&self, outbound: &Outbound, way: Way<'_>) -> Result<Connected, Attempt> {
        let timeout = self.settings.timeouts.banner.min(CONNECT_LIMIT);
        connect_from(&*outbound.connect, way.candidate, timeout).await.map_err(Attempt::Connect)
    }

    async fn greet(
        &self,
        outbound: &Outbound,
        connected: Connected,
        encryption: Encryption,
        transcript: Option<&Transcript>,
    ) -> Result<Connection<Box<dyn Stream>>, OpenError> {
        let mut settings = Settings { encryption, ..self.settings.clone() };
        if let Some(login) = &mut settings.login {
            login.nonce = uuid::Uuid::new_v4().simple().to_string();
        }
        let handshake = self.handshake.clone().filter(|_| encryption != Encryption::None);
        let told = transcript.cloned();
        Connection::open_told(connected.stream, settings, handshake, &*outbound.clock, told).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::ClientList;
    use crate::routing::access::{Access, AccessFault, AccessFaultKind};
    use crate::routing::asked::Asked;
    use crate::smtp::sasl::client::{Credentials, Mechanism};

    fn plan(tls: &str, logs_in: bool, address: &str, access: impl FnOnce(&mut Access)) -> Result<Plan, String> {
        let mut spec = json!({
            "addressSpaces": [], "route": {"smartHosts": [{"host": "hop.example"}]}, "security": {"tls": tls}
        });
        if logs_in {
            spec["authentication"] = json!({
                "mechanism": "plain", "username": "user", "password": {"env": "BRIDGEHEAD_SECRET_X"}
            });
        }
        let credentials = logs_in.then(|| Credentials::new(Mechanism::Plain, "user", "pencil").unwrap());
        let mut connector = Connector {
            name: "hub".parse().unwrap(),
            generation: 1,
            spec: serde_json::from_value(spec).unwrap(),
            access: Access::default(),
        };
        access(&mut connector.access);
        let server = VirtualServer {
            name: "default".parse().unwrap(),
            generation: 1,
            spec: serde_json::from_value::<crate::model::spec::VirtualServerSpec>(Value::Object(Default::default()))
                .unwrap(),
            fqdn: "mx.example".parse().unwrap(),
            relay: ClientList::new(&[], &[]),
            connection_control: ClientList::new(&[], &[]),
            tls: None,
            tls_fault: None,
        };
        let asked = Asked::default();
        let hop = NextHop { name: "hop.example".to_owned(), address: address.parse().unwrap(), asked };
        let to = Hop { host: &hop.name, port: hop.address.port(), domain: None, asked: &hop.asked };
        let security = security::in_force(&connector.spec, &server.spec.outbound, None, to);
        Plan::new(
            &connector,
            &server,
            &hop,
            &security,
            credentials.as_ref().filter(|_| connector.access.fault.is_none()),
        )
    }

    #[test]
    fn credentials_go_in_clear_to_ourselves_only() {
        for (address, near) in [
            ("192.0.2.1:25", false),
            ("127.0.0.1:25", true),
            ("127.1.2.3:25", true),
            ("[::1]:25", true),
            ("[::ffff:127.0.0.1]:25", true),
            ("[2001:db8::1]:25", false),
            ("0.0.0.0:25", false),
        ] {
            for tls in ["none", "opportunistic", "required", "verified"] {
                let with = plan(tls, true, address, |_| {}).unwrap();
                assert_eq!(with.settings.login.unwrap().in_clear, near, "{address}");
                assert_eq!(with.may_go_in_clear, near && tls == "opportunistic", "{address} {tls}");
                let without = plan(tls, false, address, |_| {}).unwrap();
                assert_eq!(without.may_go_in_clear, tls == "opportunistic");
                assert!(without.settings.login.is_none());
            }
        }
    }

    #[test]
    fn what_is_checked_and_what_counts_as_verified() {
        for (tls, encryption, check) in [
            ("none", Encryption::None, None),
            ("opportunistic", Encryption::Opportunistic, Some(Check::Nothing)),
            ("required", Encryption::Required, Some(Check::Nothing)),
            ("verified", Encryption::Required, Some(Check::Name)),
        ] {
            let plan = plan(tls, false, "192.0.2.1:25", |_| {}).unwrap();
            assert_eq!(plan.encryption, encryption);
            assert_eq!(plan.handshake.as_ref().map(|handshake| handshake.check.clone()), check);
            assert_eq!(plan.settings.verified_tls, check == Some(Check::Name), "REQUIRETLS");
            let name = plan.handshake.map(|handshake| handshake.name.to_str().into_owned());
            assert_eq!(name.as_deref(), check.map(|_| "hop.example"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_and_nothing_is_tried() {
        let broken = |access: &mut Access| {
            let message = "the file password cannot be read".to_owned();
            let pointer = "/spec/authentication/password";
            let fault = Some(AccessFault { pointer, kind: AccessFaultKind::Unreadable, message });
            *access = Access { tls: None, login: None, fault };
        };
        for (tls, logs_in) in [("none", true), ("opportunistic", false), ("verified", true)] {
            let why = plan(tls, logs_in, "127.0.0.1:25", broken).err().unwrap();
            assert!(why.contains("cannot be read"), "{why}");
        }
        assert!(plan("none", false, "127.0.0.1:25", broken).is_ok(), "it needs nothing");
    }
}
