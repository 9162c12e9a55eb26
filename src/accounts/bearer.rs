//! Tokens of identity providers for the REST API: who shows one, and with which role.
//!
//! The token is checked as one for SMTP is (same keys, same claims), but names no account: its username is only a name, and
//! what its bearer may do follows from the role that the issuer put into it. A valid token without a role gives nothing.

use std::sync::Arc;

use super::provider::IdentityProvider;
use super::{Authenticator, TokenError};
use crate::model::access::Role;
use crate::model::name::Name;

/// Who shows a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// The identity provider that issued it.
    pub provider: Name,
    /// Whom it vouches for.
    pub username: String,
    /// What he may do.
    pub role: Role,
}

impl Authenticator {
    /// Who shows this token to the REST API; `providers` are those whose tokens are for it.
    ///
    /// # Errors
    /// When it is not valid, names no role, or its issuer cannot be asked ([`TokenError::Unreachable`], temporary).
    pub async fn bearer(&self, token: &str, providers: &[Arc<IdentityProvider>]) -> Result<Bearer, TokenError> {
        let valid = self.tokens.claims(token, providers).await?;
        let roles = valid.provider.roles.as_ref();
        let claim = || roles.map(|roles| roles.claim.clone()).unwrap_or_default();
        let role = roles.and_then(|roles| roles.role(&valid.claims));
        let name = &valid.provider.name;
        let role = role.ok_or_else(|| TokenError::NoRole(name.clone(), valid.username.clone(), claim()))?;
        Ok(Bearer { provider: name.clone(), username: valid.username, role })
    }
}
