//! How a connector encrypts, and how it logs in.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::host::HostName;
use crate::model::name::Name;
use crate::model::secret::{Secret, Source};
use crate::model::username::Username;
use crate::smtp::sasl::client;

/// How a connector encrypts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = ConnectorSecurity)]
pub struct Security {
    /// Whether it encrypts, and what it checks. Default: what `outbound.security` of the virtual server that sends says, else
    /// `opportunistic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tls: Option<TlsLevel>,
    /// The name that a certificate must be for, with `tls: verified`. Default: the name of the smart host; on a route by DNS
    /// the recipient's domain, since DNS without DNSSEC can be made to name any host.
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
}

/// Whether a session with a next hop is encrypted, and what is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum TlsLevel {
    /// Never.
    None,
    /// If it is offered, without a check. When the handshake fails, once in clear on a new connection.
    Opportunistic,
    /// Always, without a check; else mail waits.
    Required,
    /// Always, and the certificate must be good for the name; else mail waits.
    Verified,
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
    /// The password. Needed unless `mechanism` is `none`. It is sent in TLS only, in clear to nobody but loopback addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub password: Option<Secret>,
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
}

impl LoginMechanism {
    /// The mechanism itself.
    pub fn sasl(self) -> Option<client::Mechanism> {
        match self {
            LoginMechanism::None => None,
            LoginMechanism::Plain => Some(client::Mechanism::Plain),
            LoginMechanism::Login => Some(client::Mechanism::Login),
            LoginMechanism::ScramSha256 => Some(client::Mechanism::ScramSha256),
        }
    }
}
