//! The pickup directory of a virtual server (Exchange: `Mailroot\\vsi N\\Pickup`).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::path::RelativePath;

/// A directory from which the server takes mail: a file that is put there is sent, and removed when it is in the queue.
/// Whoever may write there may send to anybody. It begins with `x-sender:` and `x-receiver:` lines, or its header says who
/// sends it to whom. What is no message goes to `badmail`, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerPickup, example = json!({"enabled": true, "path": "apps"}))]
pub struct Pickup {
    /// Whether it is looked at.
    pub enabled: bool,
    /// Where it lies, below `pickup` in the data directory. Default: the name of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub path: Option<RelativePath>,
}
