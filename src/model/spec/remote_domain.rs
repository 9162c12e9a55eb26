//! `remote-domains`: what may be sent to a domain, and how.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::connector::security::TlsLevel;
use crate::model::pattern::AddressPattern;

/// What holds for mail to a domain, whichever connector carries it. Of several that cover a domain the most specific one holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = RemoteDomainSpec, example = json!({"pattern": "partner.example", "tls": "verified"}))]
pub struct RemoteDomainSpec {
    /// Which domains. No two remote domains have the same.
    pub pattern: AddressPattern,
    /// The least that sessions which carry its mail are encrypted and checked. A connector with smart hosts carries mail for many
    /// domains in one session: for all of it the strictest of those holds that its address spaces may cover. Default: no
    /// floor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tls: Option<TlsLevel>,
}
