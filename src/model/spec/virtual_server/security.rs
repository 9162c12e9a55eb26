//! How a virtual server encrypts, and how its clients say who they are.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::labels::LabelSelector;
use crate::model::name::Name;
use crate::model::secret::Source;
use crate::model::spec::connector::security::TlsLevel;
use crate::smtp::address::Domain;
use crate::smtp::sasl;

/// TLS of the bindings that have it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerTls)]
pub struct Tls {
    /// Whether mail is taken only over TLS: before STARTTLS, MAIL and AUTH are answered 530.
    pub required: bool,
    /// The oldest version that is spoken.
    pub minimum_version: MinimumVersion,
    /// Whether clients are asked for a certificate.
    pub client_certificates: ClientCertificates,
    /// The certificates (PEM) of those who issue client certificates. Needed unless `clientCertificates` is `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub client_ca: Option<Source>,
}

/// Versions of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = TlsMinimumVersion)]
pub enum MinimumVersion {
    /// TLS 1.2
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3
    #[serde(rename = "1.3")]
    Tls13,
}

/// Whether clients are asked for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TlsClientCertificates)]
pub enum ClientCertificates {
    /// Not asked for.
    #[default]
    None,
    /// Asked for; a client may have none. One that is not valid is refused.
    Request,
    /// A valid one is needed.
    Require,
}

/// How sessions with next hops are encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerOutboundSecurity)]
pub struct OutboundSecurity {
    /// Whether they are, and what is checked. Default: `opportunistic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tls: Option<TlsLevel>,
}

/// How clients say who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerAuthentication)]
pub struct Authentication {
    /// Whether mail is taken only from clients that have authenticated: before that, MAIL is answered 530.
    pub required: bool,
    /// What is offered. Empty: no AUTH.
    #[schema(max_items = 6)]
    pub mechanisms: Vec<Mechanism>,
    /// Whether mechanisms that show a password or token are offered only under TLS; before that they are answered 538.
    pub require_tls: bool,
    /// Which accounts may authenticate here, by their labels. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub accounts: Option<LabelSelector>,
    /// Who issues the tokens of `oauthbearer` and `xoauth2`.
    #[schema(max_items = 100)]
    pub identity_providers: Vec<Name>,
    /// Put behind user names that have no `@`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub default_domain: Option<Domain>,
}

impl Default for Authentication {
    fn default() -> Self {
        Authentication {
            required: false,
            mechanisms: Vec::new(),
            require_tls: true,
            accounts: None,
            identity_providers: Vec::new(),
            default_domain: None,
        }
    }
}

/// SASL mechanisms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuthenticationMechanism)]
pub enum Mechanism {
    /// PLAIN (RFC 4616): shows the password to the server.
    Plain,
    /// LOGIN: shows the password to the server; for old clients.
    Login,
    /// SCRAM-SHA-256 (RFC 7677): proves the password without showing it.
    ScramSha256,
    /// SCRAM-SHA-256-PLUS: also proves that nobody is between client and server. Under TLS only.
    ScramSha256Plus,
    /// OAUTHBEARER (RFC 7628): shows a token.
    Oauthbearer,
    /// XOAUTH2: shows a token; for old clients.
    Xoauth2,
}

impl Mechanism {
    /// The mechanism itself.
    pub fn sasl(self) -> sasl::Mechanism {
        match self {
            Mechanism::Plain => sasl::Mechanism::Plain,
            Mechanism::Login => sasl::Mechanism::Login,
            Mechanism::ScramSha256 => sasl::Mechanism::ScramSha256,
            Mechanism::ScramSha256Plus => sasl::Mechanism::ScramSha256Plus,
            Mechanism::Oauthbearer => sasl::Mechanism::OauthBearer,
            Mechanism::Xoauth2 => sasl::Mechanism::Xoauth2,
        }
    }

    /// Whether it shows a password or token to whoever reads the connection.
    pub fn is_plaintext(self) -> bool {
        matches!(self, Mechanism::Plain | Mechanism::Login | Mechanism::Oauthbearer | Mechanism::Xoauth2)
    }

    /// Whether it checks a token of an identity provider.
    pub fn is_token(self) -> bool {
        matches!(self, Mechanism::Oauthbearer | Mechanism::Xoauth2)
    }
}

/// The mechanism as the session knows it.
impl From<Mechanism> for sasl::Mechanism {
    fn from(mechanism: Mechanism) -> Self {
        match mechanism {
            Mechanism::Plain => sasl::Mechanism::Plain,
            Mechanism::Login => sasl::Mechanism::Login,
            Mechanism::ScramSha256 => sasl::Mechanism::ScramSha256,
            Mechanism::ScramSha256Plus => sasl::Mechanism::ScramSha256Plus,
            Mechanism::Oauthbearer => sasl::Mechanism::OauthBearer,
            Mechanism::Xoauth2 => sasl::Mechanism::Xoauth2,
        }
    }
}
