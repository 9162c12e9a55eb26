//! `identity-providers`: whose tokens accounts may log in with.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::web::ServiceUrl;

/// An issuer of tokens (OAuth 2, OpenID Connect). With a token of it an account logs in by OAUTHBEARER or XOAUTH2, on
/// the virtual servers that name it. The token must be signed by a key of the issuer (RS256 and its kin, PS256, ES256,
/// ES384, EdDSA), be for this `audience`, and neither be expired nor lie in the future, by more than a minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"issuer": "https://login.example.com/", "audience": "smtp"}))]
pub struct IdentityProviderSpec {
    /// What its tokens have as `iss`, to the letter: a URL.
    #[schema(min_length = 1, max_length = 2048)]
    pub issuer: String,
    /// What its tokens have as `aud`, or among it.
    #[schema(min_length = 1, max_length = 1024)]
    pub audience: String,
    /// Where its keys are (a JWK set). Default: what `<issuer>/.well-known/openid-configuration` says. Asked again each
    /// hour, and when a token names a key that is not known; while it cannot be reached the last keys hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub jwks_uri: Option<ServiceUrl>,
    /// The claim that holds the username of the account. Default: the first that is there of `email`,
    /// `preferred_username` and `sub`. An `email` that the token says is not verified does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256, nullable = false)]
    pub username_claim: Option<String>,
}
