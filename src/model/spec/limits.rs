//! Parts of `settings`: the suppression list, and how much may be sent from a domain.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::account::AccountQuotas;
use crate::model::duration::Duration;
use crate::model::pattern::AddressPattern;

/// What fills the suppression list by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"onPermanentFailure": true, "expiresAfter": "30d"}))]
pub struct SuppressionSettings {
    /// Whether an address elsewhere is put on the list when its server says for good that it does not exist or takes no
    /// mail (5.1.1, 5.1.2, 5.1.6, 5.1.10, 5.2.1). Never an address of a local mailbox.
    pub on_permanent_failure: bool,
    /// How long such an entry holds. At least 1h. Default: until somebody removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub expires_after: Option<Duration>,
}

/// How much may be sent from a domain, whoever sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"domain": "news.example.com", "quotas": {"messages": "1000/1h, 10000/1d"}}))]
pub struct SenderQuota {
    /// The domains of reverse-paths that it is for. Each of them has the quotas to itself. Of several that fit, the
    /// most specific holds.
    pub domain: AddressPattern,
    /// How much.
    pub quotas: AccountQuotas,
}
