//! How a connector gets the tokens that it logs in with (OAuth 2, RFC 6749).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::secret::Secret;
use crate::model::text::text_value;
use crate::model::web::ServiceUrl;

/// Where a connector gets the tokens that it logs in with, and by what right. A token is kept in memory and used for all sessions
/// until four fifths of its life are over; then, or when a smart host refuses it, the next session asks for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ConnectorOAuth2, example = json!({
    "grant": "clientCredentials",
    "tokenUrl": "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token",
    "clientId": "66666666-7777-8888-9999-000000000000", "clientSecret": {"file": "microsoft365/client-secret"},
    "scopes": ["https://outlook.office365.com/.default"]
}))]
pub struct OAuth2 {
    /// By what right.
    pub grant: Grant,
    /// The token endpoint. It is asked at this URL and no other: redirects are not followed. Its certificate must be good by the
    /// roots that the appliance's system trusts.
    pub token_url: ServiceUrl,
    /// Who we are to it (Microsoft: *Application (client) ID*). Goes into the body of the request, as does the secret.
    pub client_id: ClientId,
    /// The client's secret. Needed with `clientCredentials`; with `refreshToken` only where the endpoint wants one. A file is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub client_secret: Option<Secret>,
    /// The refresh token, with `grant: refreshToken`. When the endpoint gives another one in its place, that one is used from then on,
    /// in memory: it is not written back, and a restart begins with this one again. A file is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub refresh_token: Option<Secret>,
    /// What the token is to be good for. Empty: what the endpoint gives by default.
    #[serde(default)]
    #[schema(max_items = 20)]
    pub scopes: Vec<Scope>,
}

/// By what right a connector gets tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ConnectorOAuth2Grant)]
pub enum Grant {
    /// As an application, by its secret (RFC 6749, 4.4).
    ClientCredentials,
    /// For somebody who has consented once, by a refresh token (RFC 6749, 6).
    RefreshToken,
}

/// A client identifier (RFC 6749, A.1): 1 to 512 printable ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientId(String);

/// The text is no client identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a client identifier has 1 to 512 printable ASCII characters (RFC 6749, A.1)")]
pub struct NotAClientId;

impl FromStr for ClientId {
    type Err = NotAClientId;

    fn from_str(text: &str) -> Result<Self, NotAClientId> {
        let valid = (1..=512).contains(&text.len()) && text.bytes().all(|b| (0x20..=0x7e).contains(&b));
        if valid { Ok(ClientId(text.to_owned())) } else { Err(NotAClientId) }
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(
    ClientId,
    "OAuth2ClientId",
    "bridgehead-client-id",
    "A client identifier of OAuth 2 (RFC 6749, A.1): printable ASCII.",
    ["66666666-7777-8888-9999-000000000000"]
);

/// A scope (RFC 6749, 3.3): one, without spaces, at most 512 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope(String);

/// The text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a scope has 1 to 512 printable ASCII characters, without spaces, quotes and backslashes (RFC 6749, 3.3)")]
pub struct NotAScope;

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Self, NotAScope> {
        let allowed = |b: u8| (0x21..=0x7e).contains(&b) && b != b'"' && b != b'\\';
        let valid = (1..=512).contains(&text.len()) && text.bytes().all(allowed);
        if valid { Ok(Scope(text.to_owned())) } else { Err(NotAScope) }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(
    Scope,
    "OAuth2Scope",
    "bridgehead-scope",
    "What a token is good for (RFC 6749, 3.3): one scope, without spaces.",
    ["https://outlook.office365.com/.default", "https://mail.google.com/"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_and_clients() {
        for text in ["https://outlook.office365.com/.default", "a", "SMTP.Send"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for text in ["", "a b", "a\"", "a\\", "ü", "a\n", &"x".repeat(513)] {
            assert_eq!(text.parse::<Scope>(), Err(NotAScope), "{text:?}");
        }
        assert!("an app, 1".parse::<ClientId>().is_ok());
        for text in ["", "a\n", "ü", &"x".repeat(513)] {
            assert_eq!(text.parse::<ClientId>(), Err(NotAClientId), "{text:?}");
        }
    }
}
