//! Whether a session with a next hop is encrypted, by what way, and what is checked: [`in_force`], the one place that decides.
//!
//! The connector's `security.tls` goes before `outbound.security.tls` of the virtual server that sends, and that before
//! `opportunistic`. A smart host with implicit TLS is never spoken to in clear: for it, less than `required` counts as `required`.

use std::net::IpAddr;

use serde::Serialize;

use crate::model::spec::connector::security::{SmartHostTls, TlsLevel};
use crate::model::spec::connector::{ConnectorSpec, RouteSpec};
use crate::model::spec::virtual_server::Outbound;
use crate::smtp::address::Domain;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// `tls: implicit` of the smart host.
    SmartHost,
    /// `security` of the connector.
    Connector,
    /// `outbound.security` of the virtual server.
    VirtualServer,
    /// What holds where nobody said anything.
    BuiltIn,
}

/// A host that mail is sent to.
#[derive(Debug, Clone, Copy)]
pub struct Hop<'a> {
    /// Its name as the connector or MX has it, or its address.
    pub host: &'a str,
    /// The TCP port.
    pub port: u16,
    /// The domain it was looked up for; `None` for a smart host.
    pub domain: Option<&'a Domain>,
}

/// What holds for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// Whether it is encrypted, and what is checked.
    pub tls: TlsLevel,
    /// Who says so.
    pub from: Origin,
    /// How TLS begins.
    pub begins: SmartHostTls,
    /// The name or address that the certificate must be for, where it is checked.
    pub verifies: Option<String>,
}

/// What holds for a session of the connector with a host, when this virtual server sends.
pub fn in_force(connector: &ConnectorSpec, server: &Outbound, hop: Hop<'_>) -> Security {
    let begins = begins(connector, hop);
    let (tls, from) = match (level(connector, server), begins) {
        ((tls, _), SmartHostTls::Implicit) if tls < TlsLevel::Required => (TlsLevel::Required, Origin::SmartHost),
        (level, _) => level,
    };
    let verifies = (tls == TlsLevel::Verified).then(|| match (&connector.security.server_name, hop.domain) {
        (Some(name), _) => name.to_string(),
        // what MX names without DNSSEC is anybody's word
        (None, Some(Domain::Name(domain))) => domain.clone(),
        (None, Some(Domain::Literal(address))) => address.to_string(),
        (None, None) => hop.host.to_owned(),
    });
    Security { tls, from, begins, verifies }
}

/// Whether sessions of the connector are encrypted when this virtual server sends, and who says so.
pub fn level(connector: &ConnectorSpec, server: &Outbound) -> (TlsLevel, Origin) {
    let own = connector.security.tls.map(|tls| (tls, Origin::Connector));
    let of_server = || server.security.tls.map(|tls| (tls, Origin::VirtualServer));
    own.or_else(of_server).unwrap_or((TlsLevel::Opportunistic, Origin::BuiltIn))
}

fn begins(connector: &ConnectorSpec, hop: Hop<'_>) -> SmartHostTls {
    let RouteSpec::SmartHosts(hosts) = &connector.route else { return SmartHostTls::default() };
    let same = |host: &&_| is(host, hop);
    hosts.iter().find(same).map(|host| host.tls).unwrap_or_default()
}

fn is(host: &crate::model::spec::connector::SmartHost, hop: Hop<'_>) -> bool {
    host.port == hop.port && host.host.to_string() == hop.host
}

/// Whether the address is one where nobody but this machine reads along.
pub fn is_private_to_us(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn connector_before_virtual_server_before_built_in() {
        for (own, of_server, begins, tls, from) in [
            (None, None, "starttls", TlsLevel::Opportunistic, Origin::BuiltIn),
            (None, Some("none"), "starttls", TlsLevel::None, Origin::VirtualServer),
            (Some("required"), Some("none"), "starttls", TlsLevel::Required, Origin::Connector),
            (Some("none"), Some("verified"), "starttls", TlsLevel::None, Origin::Connector),
            (None, Some("verified"), "implicit", TlsLevel::Verified, Origin::VirtualServer),
            (None, Some("none"), "implicit", TlsLevel::Required, Origin::SmartHost),
            (Some("opportunistic"), None, "implicit", TlsLevel::Required, Origin::SmartHost),
            (Some("verified"), None, "implicit", TlsLevel::Verified, Origin::Connector),
        ] {
            let mut spec = json!({
                "addressSpaces": [],
                "route": {"smartHosts": [
                    {"host": "a.example", "port": 465}, {"host": "a.example", "port": 25, "tls": begins}
                ]}
            });
            if let Some(own) = own {
                spec["security"] = json!({ "tls": own });
            }
            let spec: ConnectorSpec = serde_json::from_value(spec).unwrap();
            let server = of_server.map_or(json!({}), |tls| json!({"security": {"tls": tls}}));
            let server: Outbound = serde_json::from_value(server).unwrap();
            let hop = Hop { host: "a.example", port: 25, domain: None };
            let security = in_force(&spec, &server, hop);
            assert_eq!((security.tls, security.from), (tls, from), "{own:?} {of_server:?} {begins}");
            let verified = (tls == TlsLevel::Verified).then_some("a.example");
            assert_eq!(security.verifies.as_deref(), verified);
            assert_eq!(in_force(&spec, &server, Hop { port: 465, ..hop }).begins, SmartHostTls::Starttls);
        }
    }

    #[test]
    fn what_mx_names_is_not_what_is_verified() {
        let of = |security| {
            let spec = json!({"addressSpaces": [], "route": {"dns": {}}, "security": security});
            serde_json::from_value::<ConnectorSpec>(spec).unwrap()
        };
        for (domain, name, verifies) in [
            ("d.example", None, "d.example"),
            ("d.example", Some("mx.d.example"), "mx.d.example"),
            ("[192.0.2.1]", None, "192.0.2.1"),
        ] {
            let security =
                name.map_or(json!({"tls": "verified"}), |name| json!({"tls": "verified", "serverName": name}));
            let domain: Domain = domain.parse().unwrap();
            let hop = Hop { host: "mx.elsewhere.example", port: 25, domain: Some(&domain) };
            assert_eq!(in_force(&of(security), &Outbound::default(), hop).verifies.as_deref(), Some(verifies));
        }
    }
}
