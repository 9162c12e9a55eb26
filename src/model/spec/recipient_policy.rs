//! `recipient-policies`: which addresses recipients get, and so which domains are local (Exchange: recipient policy).

mod filter;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use filter::{Asked, Attribute, Condition, Filter, Membership, NotAnAttribute, Operator};

use crate::model::template::Template;

/// A recipient policy: which recipients, and which addresses they get. Every domain of its templates becomes local,
/// even when the policy matches nobody. Of all policies that match a recipient only the first (by `priority`) counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"priority": 1, "addresses": [{"template": "%g.%s@example.com", "primary": true}]}))]
pub struct RecipientPolicySpec {
    /// Its place: 1 is asked first. Every policy needs one of its own, except `default`, which is always last and has
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000, nullable = false)]
    pub priority: Option<u32>,
    /// Which recipients. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub filter: Option<Filter>,
    /// Which addresses they get; exactly one is primary.
    #[schema(min_items = 1, max_items = 10_000)]
    pub addresses: Vec<PolicyAddress>,
}

/// An address that a policy gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyAddress {
    /// How it is made.
    pub template: Template,
    /// Whether it is the one that a recipient's mail comes from.
    #[serde(default)]
    #[schema(default = false)]
    pub primary: bool,
    /// Whether we are responsible for all mail to its domain: unknown recipients are refused. When false the domain is
    /// shared with another mail system, and mail for recipients that are unknown here goes on by connector (Exchange:
    /// *This Exchange organization is responsible for all mail delivery to this address*).
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub authoritative: bool,
}

fn yes() -> bool {
    true
}
