//! Whether a session with a next hop is encrypted, by what way, and what is checked: [`in_force`], the one place that decides.
//!
//! The connector's `security.tls` goes before `outbound.security.tls` of the virtual server that sends, and that before
//! `opportunistic`. `tls` of a remote domain is a floor under all of it. A smart host with implicit TLS is never spoken to in clear:
//! for it, less than `required` counts as `required`.
//!
//! Where that says `opportunistic`, what the owner of a host [asks](Asked) comes on top: TLSA records hold (RFC 7672, 2.2), and
//! without any an MTA-STS policy in mode `enforce` (RFC 8461, 2). What was asked and cannot be had is never replaced by
//! less: the host [gets nothing](Security::refused).

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::model::host::domain_key;
use crate::model::spec::connector::security::{SmartHostTls, TlsLevel};
use crate::model::spec::connector::{ConnectorSpec, RouteSpec};
use crate::model::spec::virtual_server::Outbound;
use crate::net::mta_sts::Mode;
use crate::net::tls::dane::Dane;
use crate::smtp::address::Domain;

use super::asked::{Asked, Tlsa};

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
    /// `tls` of a remote domain.
    RemoteDomain,
    /// TLSA records of the host.
    Dane,
    /// The MTA-STS policy of the domain.
    MtaSts,
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
    /// What its owner asks.
    pub asked: &'a Asked,
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
    /// The name or address that the certificate must be for, with `verified`.
    pub verifies: Option<String>,
    /// The records that the certificate must fit, with `dane`.
    pub dane: Option<Arc<Dane>>,
    /// Why nothing may be sent there now, whatever it offers.
    pub refused: Option<String>,
}

/// What has to be looked up of a host's owner before [`in_force`] can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Whether DNSSEC vouches for MX and addresses, and TLSA records.
    pub dane: bool,
    /// The MTA-STS policy.
    pub sts: bool,
}

/// What [`in_force`] needs to know.
pub fn wanted(connector: &ConnectorSpec, server: &Outbound, floor: Option<TlsLevel>) -> Wanted {
    let (own, _) = level(connector, server);
    let most = floor.map_or(own, |floor| own.max(floor));
    let honours = own == TlsLevel::Opportunistic;
    let security = &connector.security;
    Wanted {
        dane: honours && security.honour_dane || most >= TlsLevel::Verified,
        sts: honours && security.honour_mta_sts && matches!(connector.route, RouteSpec::Dns(_)),
    }
}

/// What holds for a session of the connector with a host, when this virtual server sends, over the floor of a remote domain.
pub fn in_force(connector: &ConnectorSpec, server: &Outbound, floor: Option<TlsLevel>, hop: Hop<'_>) -> Security {
    let begins = begins(connector, hop);
    let (own, said_by) = level(connector, server);
    let asked = if own == TlsLevel::Opportunistic { asks(connector, hop) } else { Ok(None) };
    let (asked, mut refused) = asked.map_or_else(|why| (None, Some(why)), |asked| (asked, None));
    let implicit = (begins == SmartHostTls::Implicit).then_some((TlsLevel::Required, Origin::SmartHost));
    let raised = [asked, floor.map(|floor| (floor, Origin::RemoteDomain)), implicit];
    let (tls, from) =
        raised.into_iter().flatten().fold((own, said_by), |held, more| if more.0 > held.0 { more } else { held });

    let verifies = (tls == TlsLevel::Verified).then(|| match (&connector.security.server_name, hop.domain) {
        (Some(name), _) if from != Origin::MtaSts => name.to_string(),
        (_, Some(_)) if hop.asked.named_securely || asked.is_some_and(|(tls, _)| tls == TlsLevel::Verified) => {
            hop.host.to_owned()
        }
        // what MX names without DNSSEC is anybody's word
        (_, Some(domain @ Domain::Name(_))) => domain_key(domain).into_owned(),
        (_, Some(Domain::Literal(address))) => address.to_string(),
        (_, None) => hop.host.to_owned(),
    });
    let dane = match &hop.asked.dane {
        Tlsa::Usable(dane) if tls == TlsLevel::Dane => Some(dane.clone()),
        _ => None,
    };
    if tls == TlsLevel::Dane && dane.is_none() {
        refused.get_or_insert_with(|| match &hop.asked.dane {
            Tlsa::TryLater(why) => unknown(hop.host, why),
            Tlsa::Unusable => format!("none of the TLSA records of {} can be used, and one is needed", hop.host),
            _ => format!("{} has no TLSA record that DNSSEC vouches for, and one is needed", hop.host),
        });
    }
    Security { tls, from, begins, verifies, dane, refused }
}

/// What the owner of the host asks of an opportunistic connector.
///
/// # Errors
/// In words, why nothing may be sent there.
fn asks(connector: &ConnectorSpec, hop: Hop<'_>) -> Result<Option<(TlsLevel, Origin)>, String> {
    let honours = &connector.security;
    let sts = hop.asked.sts.filter(|sts| honours.honour_mta_sts && sts.mode == Mode::Enforce);
    let dane = if honours.honour_dane { &hop.asked.dane } else { &Tlsa::None };
    match (dane, sts) {
        (Tlsa::Usable(_), _) => Ok(Some((TlsLevel::Dane, Origin::Dane))),
        (Tlsa::TryLater(why), _) => Err(unknown(hop.host, why)),
        (_, Some(sts)) if !sts.names_host => {
            Err(format!("the MTA-STS policy of its domain does not name the host {}", hop.host))
        }
        (_, Some(_)) => Ok(Some((TlsLevel::Verified, Origin::MtaSts))),
        // encrypted, though by nobody knows whom (RFC 7672, 2.2)
        (Tlsa::Unusable, None) => Ok(Some((TlsLevel::Required, Origin::Dane))),
        (Tlsa::None, None) => Ok(None),
    }
}

fn unknown(host: &str, why: &str) -> String {
    format!("whether {host} has TLSA records cannot be known now: {why}")
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
            let asked = Asked::default();
            let hop = Hop { host: "a.example", port: 25, domain: None, asked: &asked };
            let security = in_force(&spec, &server, None, hop);
            assert_eq!((security.tls, security.from), (tls, from), "{own:?} {of_server:?} {begins}");
            let verified = (tls == TlsLevel::Verified).then_some("a.example");
            assert_eq!(security.verifies.as_deref(), verified);
            assert_eq!(in_force(&spec, &server, None, Hop { port: 465, ..hop }).begins, SmartHostTls::Starttls);
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
            let asked = Asked::default();
            let hop = Hop { host: "mx.elsewhere.example", port: 25, domain: Some(&domain), asked: &asked };
            assert_eq!(in_force(&of(security), &Outbound::default(), None, hop).verifies.as_deref(), Some(verifies));
        }
    }

    fn usable() -> Tlsa {
        let record = crate::net::tls::dane::Tlsa::new(3, 1, 1, &[0; 32]).unwrap();
        let names = vec![crate::net::tls::client::server_name("mx.d.example").unwrap()];
        Tlsa::Usable(Arc::new(Dane::new(&[record], names).unwrap()))
    }

    /// What holds towards `mx.d.example` for `d.example`, as text: level, who says so, what is checked, or why nothing is sent.
    fn held(security: serde_json::Value, floor: Option<TlsLevel>, asked: &Asked) -> String {
        let spec = json!({"addressSpaces": [], "route": {"dns": {}}, "security": security});
        let spec: ConnectorSpec = serde_json::from_value(spec).unwrap();
        let domain: Domain = "d.example".parse().unwrap();
        let hop = Hop { host: "mx.d.example", port: 25, domain: Some(&domain), asked };
        let held = in_force(&spec, &Outbound::default(), floor, hop);
        assert_eq!(held.dane.is_some(), held.tls == TlsLevel::Dane && held.refused.is_none());
        if held.refused.is_some() {
            return "refused".to_owned();
        }
        let verifies = held.verifies.map(|name| format!(" {name}")).unwrap_or_default();
        format!("{:?} by {:?}{verifies}", held.tls, held.from)
    }

    #[test]
    fn what_a_host_asks_comes_on_top_of_opportunistic_and_never_below() {
        let sts = |mode, names_host| Some(crate::routing::asked::Sts { mode, names_host });
        let (enforce, elsewhere) = (sts(Mode::Enforce, true), sts(Mode::Enforce, false));
        let (own, no_dane) = (json!({}), json!({"honourDane": false}));
        let neither = json!({"honourDane": false, "honourMtaSts": false});
        let later = || Tlsa::TryLater("SERVFAIL".to_owned());
        let [required, verified, dane] = [TlsLevel::Required, TlsLevel::Verified, TlsLevel::Dane].map(Some);
        let level = |tls: &str| json!({ "tls": tls });
        for (security, floor, tlsa, sts, is) in [
            (&own, None, Tlsa::None, None, "Opportunistic by BuiltIn"),
            (&own, None, usable(), None, "Dane by Dane"),
            (&own, None, usable(), elsewhere, "Dane by Dane"),
            (&own, None, Tlsa::Unusable, None, "Required by Dane"),
            (&own, None, Tlsa::Unusable, enforce, "Verified by MtaSts mx.d.example"),
            (&own, None, later(), None, "refused"),
            (&own, None, later(), enforce, "refused"),
            (&own, None, Tlsa::None, enforce, "Verified by MtaSts mx.d.example"),
            (&own, None, Tlsa::None, elsewhere, "refused"),
            (&own, None, Tlsa::None, sts(Mode::Testing, false), "Opportunistic by BuiltIn"),
            (&own, None, Tlsa::None, sts(Mode::None, false), "Opportunistic by BuiltIn"),
            (&no_dane, None, usable(), None, "Opportunistic by BuiltIn"),
            (&no_dane, None, later(), None, "Opportunistic by BuiltIn"),
            (&no_dane, None, usable(), enforce, "Verified by MtaSts mx.d.example"),
            (&neither, None, later(), elsewhere, "Opportunistic by BuiltIn"),
            (&level("opportunistic"), None, usable(), None, "Dane by Dane"),
            (&level("none"), None, usable(), elsewhere, "None by Connector"),
            (&level("required"), None, later(), elsewhere, "Required by Connector"),
            (&level("verified"), None, usable(), None, "Verified by Connector d.example"),
            (&level("dane"), None, usable(), elsewhere, "Dane by Connector"),
            (&level("dane"), None, Tlsa::None, enforce, "refused"),
            (&level("dane"), None, Tlsa::Unusable, None, "refused"),
            (&level("dane"), None, later(), None, "refused"),
            // floors
            (&level("none"), required, Tlsa::None, None, "Required by RemoteDomain"),
            (&level("none"), verified, Tlsa::None, None, "Verified by RemoteDomain d.example"),
            (&level("verified"), required, Tlsa::None, None, "Verified by Connector d.example"),
            (&own, required, usable(), None, "Dane by Dane"),
            (&own, required, Tlsa::Unusable, None, "Required by Dane"),
            (&own, verified, Tlsa::Unusable, None, "Verified by RemoteDomain d.example"),
            (&own, verified, Tlsa::None, enforce, "Verified by MtaSts mx.d.example"),
            (&own, dane, Tlsa::None, enforce, "refused"),
            (&no_dane, dane, usable(), None, "Dane by RemoteDomain"),
        ] {
            let what = format!("{security} {floor:?} {tlsa:?} {sts:?}");
            let asked = Asked { dane: tlsa, sts, ..Asked::default() };
            assert_eq!(held(security.clone(), floor, &asked), is, "{what}");
        }
        let signed = Asked { named_securely: true, ..Asked::default() };
        assert_eq!(held(level("verified"), None, &signed), "Verified by Connector mx.d.example");
    }

    #[test]
    fn only_what_is_needed_is_looked_up() {
        for (security, floor, dane, sts) in [
            (json!({}), None, true, true),
            (json!({"honourDane": false}), None, false, true),
            (json!({"honourMtaSts": false}), None, true, false),
            (json!({"tls": "none"}), None, false, false),
            (json!({"tls": "required"}), None, false, false),
            (json!({"tls": "verified"}), None, true, false),
            (json!({"tls": "dane", "honourDane": false}), None, true, false),
            (json!({"tls": "none"}), Some(TlsLevel::Dane), true, false),
        ] {
            let spec = json!({"addressSpaces": [], "route": {"dns": {}}, "security": security});
            let spec: ConnectorSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(wanted(&spec, &Outbound::default(), floor), Wanted { dane, sts }, "{security}");
        }
    }
}
