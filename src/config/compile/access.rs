//! How connectors encrypt and log in: what contradicts itself, and what it takes, read from where the spec says.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Findings, Objects};
use crate::config::certificates::Certificate;
use crate::config::violation::{ViolationCode, WarningCode};
use crate::config::{Kept, Vault};
use crate::model::host::Host;
use crate::model::name::Name;
use crate::model::secret::{Secret, SecretText};
use crate::model::spec::connector::oauth2::{self, OAuth2};
use crate::model::spec::connector::security::{LoginMechanism, SmartHostTls, TlsLevel};
use crate::model::spec::connector::{Hello, RouteSpec, SmartHost};
use crate::model::spec::{Collection, ConnectorSpec};
use crate::net::oauth::{Grant, TokenRequest};
use crate::net::tls::client::ClientTls;
use crate::routing::access::{Access, AccessFault, AccessFaultKind, Login, TokenLogin};
use crate::routing::{Connector, security};
use crate::smtp::sasl::client::Credentials;

const CA: &str = "/spec/security/ca";
const CLIENT_CERTIFICATE: &str = "/spec/security/clientCertificate";
const PASSWORD: &str = "/spec/authentication/password";
const CLIENT_SECRET: &str = "/spec/authentication/oauth2/clientSecret";
const REFRESH_TOKEN: &str = "/spec/authentication/oauth2/refreshToken";

/// Everything about security and authentication that is wrong with the connector.
pub(super) fn check(objects: &Objects, name: &Name, spec: &ConnectorSpec, found: &mut Findings) {
    tls(objects, name, spec, found);
    authentication(objects, name, spec, found);
}

fn tls(objects: &Objects, name: &Name, spec: &ConnectorSpec, found: &mut Findings) {
    let of = (Collection::Connectors, name);
    let own = &spec.security;
    for (pointer, given) in [(CA, own.ca.is_some()), ("/spec/security/serverName", own.server_name.is_some())] {
        if given && own.tls != Some(TlsLevel::Verified) {
            let detail = "it says how certificates are checked, and only security.tls: verified checks them so";
            found.wrong(of, pointer, ViolationCode::Conflict, detail);
        }
    }
    if let Some(certificate) = &own.client_certificate {
        if own.tls == Some(TlsLevel::None) {
            let detail = "it is shown in TLS, and security.tls is none";
            found.wrong(of, CLIENT_CERTIFICATE, ViolationCode::Conflict, detail);
        } else if !objects.has_certificate(certificate) {
            found.missing(of, CLIENT_CERTIFICATE, Collection::Certificates, certificate);
        }
    }
    let by_starttls = |host: &SmartHost| host.tls == SmartHostTls::Starttls;
    let starttls = matches!(spec.route, RouteSpec::Dns(_)) || smart_hosts(spec).iter().any(by_starttls);
    if spec.hello == Hello::Helo && starttls && own.tls.is_some_and(|tls| tls >= TlsLevel::Required) {
        let detail = "STARTTLS needs EHLO, and security.tls requires it";
        found.wrong(of, "/spec/hello", ViolationCode::Conflict, detail);
    }
    for (index, host) in smart_hosts(spec).iter().enumerate() {
        let pointer = format!("/spec/route/smartHosts/{index}/tls");
        let same = |other: &&SmartHost| (&other.host, other.port) == (&host.host, host.port);
        if own.tls == Some(TlsLevel::Dane) && matches!(host.host, Host::Address(_)) {
            let pointer = format!("/spec/route/smartHosts/{index}/host");
            let detail = "TLSA records are for names, and security.tls is dane";
            found.wrong(of, pointer, ViolationCode::Conflict, detail);
        }
        if host.tls == SmartHostTls::Implicit && own.tls == Some(TlsLevel::None) {
            let detail = "implicit is TLS from the first octet, and security.tls is none";
            found.wrong(of, pointer, ViolationCode::Conflict, detail);
        } else if smart_hosts(spec)[..index].iter().find(same).is_some_and(|other| other.tls != host.tls) {
            let detail = "the same host and port is there already, with another tls";
            found.wrong(of, pointer, ViolationCode::Conflict, detail);
        }
    }
}

fn authentication(objects: &Objects, name: &Name, spec: &ConnectorSpec, found: &mut Findings) {
    let of = (Collection::Connectors, name);
    let own = &spec.authentication;
    let logs_in = own.mechanism != LoginMechanism::None;
    let by_token = own.mechanism.sasl().is_some_and(|mechanism| mechanism.is_bearer());
    for (field, given, needed) in [
        ("username", own.username.is_some(), logs_in),
        ("password", own.password.is_some(), logs_in && !by_token),
        ("oauth2", own.oauth2.is_some(), by_token),
    ] {
        let pointer = format!("/spec/authentication/{field}");
        if given && !needed {
            let why = if logs_in { "the mechanism does not use it" } else { "mechanism is none" };
            found.wrong(of, pointer, ViolationCode::Conflict, format!("{field} is for logging in, and {why}"));
        } else if !given && needed {
            found.wrong(of, pointer, ViolationCode::Required, format!("{field} is needed to log in"));
        }
    }
    if let Some(oauth2) = &own.oauth2 {
        grant(of, oauth2, found);
    }
    let hosts = smart_hosts(spec);
    if !logs_in {
        return;
    }
    if matches!(spec.route, RouteSpec::Dns(_)) {
        let detail = "credentials are for smart hosts: by DNS they would go to whichever host a domain names";
        return found.wrong(of, "/spec/authentication", ViolationCode::Conflict, detail);
    }
    if spec.hello == Hello::Helo {
        let detail = "credentials need EHLO, and with it AUTH";
        found.wrong(of, "/spec/hello", ViolationCode::Conflict, detail);
    }
    let exposed = |host: &&SmartHost| host.tls == SmartHostTls::Starttls && !is_loopback(&host.host);
    if let Some(host) = hosts.iter().find(exposed)
        && levels(objects, spec).any(|level| level == TlsLevel::None)
    {
        let detail = format!(
            "credentials are sent in TLS only, in clear to nobody but loopback addresses; TLS is none towards {}, by \
             security.tls or outbound.security.tls of a virtual server that sends",
            host.host
        );
        found.wrong(of, "/spec/authentication", ViolationCode::Conflict, detail);
    }
    let shown = own.mechanism.sasl().is_some_and(|mechanism| mechanism.sasl().is_plaintext());
    let elsewhere = hosts.iter().any(|host| !is_loopback(&host.host));
    if shown && elsewhere && levels(objects, spec).any(|level| level < TlsLevel::Verified) {
        let what = if by_token { "token" } else { "password" };
        let detail = format!("the {what} is shown to whoever answers: only security.tls: verified checks who that is");
        found.warn(of, WarningCode::PasswordToUnverified, detail);
    }
}

/// Each grant takes what it needs.
fn grant(of: (Collection, &Name), oauth2: &OAuth2, found: &mut Findings) {
    let by_refresh_token = oauth2.grant == oauth2::Grant::RefreshToken;
    if oauth2.client_secret.is_none() && !by_refresh_token {
        let detail = "clientSecret is needed with grant: clientCredentials";
        found.wrong(of, CLIENT_SECRET, ViolationCode::Required, detail);
    }
    if oauth2.refresh_token.is_none() && by_refresh_token {
        let detail = "refreshToken is needed with grant: refreshToken";
        found.wrong(of, REFRESH_TOKEN, ViolationCode::Required, detail);
    } else if oauth2.refresh_token.is_some() && !by_refresh_token {
        let detail = "grant: clientCredentials has no refresh token";
        found.wrong(of, REFRESH_TOKEN, ViolationCode::Conflict, detail);
    }
}

/// What holds for sessions of the connector, by whichever virtual server may send.
fn levels(objects: &Objects, spec: &ConnectorSpec) -> impl Iterator<Item = TlsLevel> {
    let servers = objects.virtual_servers.iter();
    let sends = |name: &Name| spec.bridgeheads.is_empty() || spec.bridgeheads.contains(name);
    let sending = servers.filter(move |(name, _)| sends(name));
    sending.map(|(_, (_, server))| security::level(spec, &server.outbound).0)
}

fn smart_hosts(spec: &ConnectorSpec) -> &[SmartHost] {
    match &spec.route {
        RouteSpec::SmartHosts(hosts) => hosts,
        RouteSpec::Dns(_) => &[],
    }
}

pub(super) fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Address(address) => security::is_private_to_us(*address),
        Host::Name(name) => name.as_str() == "localhost",
    }
}

/// What the connector encrypts and logs in with. What cannot be read any more stays as it was, as long as the spec does.
pub(super) fn read(
    objects: &Objects,
    name: &Name,
    spec: &ConnectorSpec,
    certificates: &BTreeMap<Name, Arc<Certificate>>,
    known: Option<&Connector>,
    vault: &Vault,
) -> Access {
    let before = known.filter(|known| known.spec == *spec).map(|known| &known.access);
    let mut fault = None;
    let mut or_before = |error| {
        fault.get_or_insert(error);
    };
    let tls = client_tls(spec, certificates, known.and_then(|known| known.access.tls.as_ref()), vault);
    let tls = tls.map_or_else(
        |error| {
            or_before(error);
            before.and_then(|before| before.tls.clone())
        },
        Some,
    );
    let login = login(objects, name, spec, vault).unwrap_or_else(|error| {
        or_before(error);
        before.and_then(|before| before.login.clone())
    });
    Access { tls, login, fault }
}

fn client_tls(
    spec: &ConnectorSpec,
    certificates: &BTreeMap<Name, Arc<Certificate>>,
    known: Option<&Arc<ClientTls>>,
    vault: &Vault,
) -> Result<Arc<ClientTls>, AccessFault> {
    let ca = spec.security.ca.as_ref().map(|source| vault.text(source)).transpose();
    let ca = ca.map_err(|error| unreadable(CA, &error))?;
    let identity = match &spec.security.client_certificate {
        Some(named) => {
            let identity = certificates.get(named).and_then(|certificate| certificate.identity.clone());
            Some(identity.ok_or_else(|| AccessFault {
                pointer: CLIENT_CERTIFICATE,
                kind: AccessFaultKind::Certificate,
                message: format!("the certificate {named} cannot be used now"),
            })?)
        }
        None => None,
    };
    if let Some(same) = known.filter(|known| known.is_made_of(ca.as_deref(), identity.as_deref())) {
        return Ok(same.clone());
    }
    ClientTls::new(ca.as_deref(), identity).map(Arc::new).map_err(|message| AccessFault {
        pointer: CA,
        kind: AccessFaultKind::Certificate,
        message: format!("the certificates cannot be used: {message}"),
    })
}

fn login(objects: &Objects, name: &Name, spec: &ConnectorSpec, vault: &Vault) -> Result<Option<Login>, AccessFault> {
    let own = &spec.authentication;
    let (Some(mechanism), Some(username)) = (own.mechanism.sasl(), &own.username) else { return Ok(None) };
    let none = Kept::default();
    let kept = objects.secrets(Collection::Connectors, name).unwrap_or(&none);
    let text = |secret: &Secret, pointer| vault.secret(secret, kept).map_err(|error| unreadable(pointer, &error));
    match (&own.password, &own.oauth2) {
        (Some(password), None) if !mechanism.is_bearer() => {
            let password = text(password, PASSWORD)?;
            let credentials = Credentials::new(mechanism, username.as_str(), password.reveal());
            credentials.map(Login::Password).map(Some).map_err(|error| AccessFault {
                pointer: PASSWORD,
                kind: AccessFaultKind::Password,
                message: error.to_string(),
            })
        }
        (None, Some(oauth2)) if mechanism.is_bearer() => {
            let Some(request) = token_request(oauth2, text)? else { return Ok(None) };
            let (username, request) = (username.to_string(), Arc::new(request));
            Ok(Some(Login::Token(TokenLogin { mechanism, username, request })))
        }
        // violations
        _ => Ok(None),
    }
}

fn token_request(
    oauth2: &OAuth2,
    text: impl Fn(&Secret, &'static str) -> Result<SecretText, AccessFault>,
) -> Result<Option<TokenRequest>, AccessFault> {
    let client_secret = oauth2.client_secret.as_ref().map(|secret| text(secret, CLIENT_SECRET)).transpose()?;
    let refresh_token = oauth2.refresh_token.as_ref().map(|secret| text(secret, REFRESH_TOKEN)).transpose()?;
    let grant = match (oauth2.grant, client_secret, refresh_token) {
        (oauth2::Grant::ClientCredentials, Some(client_secret), None) => Grant::ClientCredentials { client_secret },
        (oauth2::Grant::RefreshToken, client_secret, Some(refresh_token)) => {
            Grant::RefreshToken { refresh_token, client_secret }
        }
        _ => return Ok(None),
    };
    let OAuth2 { token_url, client_id, scopes, .. } = oauth2.clone();
    Ok(Some(TokenRequest { url: token_url, client_id, grant, scopes }))
}

fn unreadable(pointer: &'static str, error: &dyn std::fmt::Display) -> AccessFault {
    AccessFault { pointer, kind: AccessFaultKind::Unreadable, message: error.to_string() }
}
