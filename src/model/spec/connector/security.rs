//! How a connector encrypts, and how it logs in.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::oauth2::OAuth2;
use crate::model::host::HostName;
use crate::model::name::Name;
use crate::model::secret::{Secret, Source};
use crate::model::username::Username;
use crate::smtp::sasl::client;

/// How a connector encrypts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = ConnectorSecurity)]
pub struct Security {
    /// Whether it encrypts, and what it checks. Default: what `outbound.security` of the virtual server that sends says, else
    /// `opportunistic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tls: Option<TlsLevel>,
    /// The name that a certificate must be for, with `tls: verified`. Default: the name of the smart host; on a route by DNS
    /// the name of the host where DNSSEC vouches for the MX records, else the recipient's domain, since DNS without DNSSEC can be
    /// made to name any host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub server_name: Option<HostName>,
    /// The certificates (PEM) of those who may have issued a server's, or its own, with `tls: verified`. A file is watched.
    /// Default: those that the appliance's system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ca: Option<Source>,
    /// The certificate that is shown to servers that ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub client_certificate: Option<Name>,
    /// Whether TLSA records of a host (RFC 7672) hold where `tls` is `opportunistic`: mail goes to whom they mean, or waits. They
    /// count where DNSSEC vouches for them, for the host's address and for the MX records, as the appliance itself validates.
    #[schema(default = true)]
    pub honour_dane: bool,
    /// Whether a domain's MTA-STS policy (RFC 8461) in mode `enforce` holds where `tls` is `opportunistic` and the connector routes by
    /// DNS: mail goes to the hosts that it names, their certificates checked, or waits. TLSA records of a host go before it.
    #[schema(default = true)]
    pub honour_mta_sts: bool,
}

impl Default for Security {
    fn default() -> Self {
        Security {
            tls: None,
            server_name: None,
            ca: None,
            client_certificate: None,
            honour_dane: true,
            honour_mta_sts: true,
        }
    }
}

/// Whether a session with a next hop is encrypted, and what is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum TlsLevel {
    /// Never.
    None,
    /// If it is offered, without a check. When the handshake fails, once in clear on a new connection. What a host's owner asks by
    /// TLSA records or an MTA-STS policy holds all the same, unless a connector's `honourDane` or `honourMtaSts` is false.
    Opportunistic,
    /// Always, without a check; else mail waits.
    Required,
    /// Always, and the certificate must be good for the name; else mail waits.
    Verified,
    /// Always, and the certificate must fit a TLSA record of the host that DNSSEC vouches for (RFC 7672); else, and without such a
    /// record, mail waits.
    Dane,
}

/// How TLS begins with a smart host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SmartHostTls {
    /// By STARTTLS (RFC 3207), if `security.tls` wants TLS: ports 25 and 587.
    #[default]
    Starttls,
    /// From the first octet (RFC 8314), always: port 465.
    Implicit,
}

/// How a connector logs in to its smart hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = ConnectorAuthentication)]
pub struct Authentication {
    /// By which mechanism. A smart host that does not offer it, or refuses, gets no mail: it waits.
    pub mechanism: LoginMechanism,
    /// The name. Needed unless `mechanism` is `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub username: Option<Username>,
    /// The password. Needed with `plain`, `login` and `scramSha256`. It is sent in TLS only, in clear to nobody but loopback addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub password: Option<Secret>,
    /// Where the token is from that stands in the place of a password. Needed with `xoauth2` and `oauthbearer`. A token is sent in TLS
    /// only too. While none can be had, mail waits; the condition `Authenticated` says why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub oauth2: Option<OAuth2>,
}

/// SASL mechanisms by which a connector logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ConnectorLoginMechanism)]
pub enum LoginMechanism {
    /// It does not log in.
    #[default]
    None,
    /// PLAIN (RFC 4616): shows the password to the server.
    Plain,
    /// LOGIN: shows the password to the server.
    Login,
    /// SCRAM-SHA-256 (RFC 7677): proves the password without showing it, and that the server knows it too.
    ScramSha256,
    /// XOAUTH2: shows a token to the server, as Microsoft 365 and Google want it.
    Xoauth2,
    /// OAUTHBEARER (RFC 7628): the same by the standard.
    Oauthbearer,
}

impl LoginMechanism {
    /// The mechanism itself.
    pub fn sasl(self) -> Option<client::Mechanism> {
        match self {
            LoginMechanism::None => None,
            LoginMechanism::Plain => Some(client::Mechanism::Plain),
            LoginMechanism::Login => Some(client::Mechanism::Login),
            LoginMechanism::ScramSha256 => Some(client::Mechanism::ScramSha256),
            LoginMechanism::Xoauth2 => Some(client::Mechanism::Xoauth2),
            LoginMechanism::Oauthbearer => Some(client::Mechanism::OauthBearer),
        }
    }
}
