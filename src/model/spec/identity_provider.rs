//! `identity-providers`: whose tokens accounts, and callers of the REST API, may log in with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::access::Role;
use crate::model::web::ServiceUrl;

/// An issuer of tokens (OAuth 2, OpenID Connect). With a token of it an account logs in by OAUTHBEARER or XOAUTH2, on
/// the virtual servers that name it; or, as `use` says, a person calls the REST API, with a role that the token names. The token must be signed by a key of the issuer (RS256 and its kin, PS256, ES256,
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
    /// What its tokens are for.
    #[serde(rename = "use")]
    #[serde(default = "for_smtp")]
    #[schema(min_items = 1, max_items = 2)]
    pub uses: Vec<ProviderUse>,
    /// The claim that holds roles, for `api`: a text, or a list of texts. Where the token has no claim of this name, dots lead into
    /// objects, as in `realm_access.roles`. A token in which no role is found is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256, nullable = false)]
    pub role_claim: Option<String>,
    /// Which role each value of that claim stands for; of several the highest counts. Default: the values `viewer`,
    /// `operator`, `administrator` and `owner` stand for themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub roles: Option<BTreeMap<String, Role>>,
    /// The claim that holds the username of the account. Default: the first that is there of `email`,
    /// `preferred_username` and `sub`. An `email` that the token says is not verified does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256, nullable = false)]
    pub username_claim: Option<String>,
}

/// What tokens are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProviderUse {
    /// Accounts log in with them by SMTP.
    Smtp,
    /// Callers of the REST API show them.
    Api,
}

fn for_smtp() -> Vec<ProviderUse> {
    vec![ProviderUse::Smtp]
}
