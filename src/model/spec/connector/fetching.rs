//! Mail that does not come by itself: held here until it is fetched.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::name::Name;

/// Mail waits until one of these accounts asks for it (Exchange: *Queue mail for remote triggered delivery*): by ETRN (RFC
/// 1985) for a domain of the connector, and it goes where the connector leads; or by ATRN (RFC 2645), and it goes over the
/// connection of the one who asked. The connector's schedules hold beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ConnectorRemoteTriggered, example = json!({"accounts": ["branch"]}))]
pub struct RemoteTriggered {
    /// The accounts that may ask. An account that is named here and has authenticated may; nobody else.
    #[schema(min_items = 1, max_items = 100)]
    pub accounts: Vec<Name>,
}
