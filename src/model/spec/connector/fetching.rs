//! Mail that does not come by itself: held here until it is fetched, or waiting elsewhere until we fetch it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Authentication, ConnectorSpec, Security, smtp_port};
use crate::model::duration::Duration;
use crate::model::host::Host;
use crate::model::name::Name;
use crate::model::schedule::Schedule;
use crate::smtp::address::Domain;

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

/// Asks a host for the mail that waits there for domains of ours (Exchange: *Request ETRN/TURN*): at the times that `schedule` and
/// `every` say, or whenever the connector sends; at least one of the three is needed. What fails is tried again at the
/// retry intervals. The result of the last time is a condition of the connector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ConnectorRequestDequeue, example = json!({
    "method": "atrn", "host": "mail.example.net", "domains": ["branch.example.com"], "every": "15m"
}))]
pub struct RequestDequeue {
    /// How it asks.
    pub method: DequeueMethod,
    /// Whom it asks: a name or an address. No MX is looked up.
    pub host: Host,
    /// The TCP port.
    #[serde(default = "smtp_port")]
    #[schema(minimum = 1, maximum = 65535, default = 25)]
    pub port: u16,
    /// How it encrypts.
    #[serde(default)]
    pub security: Security,
    /// How it logs in. ATRN needs a login.
    #[serde(default)]
    pub authentication: Authentication,
    /// The domains that it asks for. Empty, with ATRN alone: all that the login may fetch.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub domains: Vec<Domain>,
    /// The virtual server under whose name it asks, and that takes what comes by ATRN, with its limits and rules: the other side is a
    /// client like any other. Default: the default virtual server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub virtual_server: Option<Name>,
    /// Whenever the connector opens a session for mail of its own, at most every 10 seconds.
    #[serde(default)]
    #[schema(default = false)]
    pub on_send: bool,
    /// At these times: `every` so often while a window is open, and without `every` once when one opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub schedule: Option<Schedule>,
    /// So often, from the start on; with `schedule` only while a window is open. At least 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub every: Option<Duration>,
}

/// How waiting mail is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ConnectorDequeueMethod)]
pub enum DequeueMethod {
    /// ETRN (RFC 1985): the other side then connects to us as for any mail.
    Etrn,
    /// ATRN (RFC 2645): it comes over the connection by which it was asked for.
    Atrn,
}

impl RequestDequeue {
    /// The connector that leads to the host, and carries nothing.
    pub fn as_connector(&self) -> ConnectorSpec {
        ConnectorSpec {
            security: self.security.clone(),
            authentication: self.authentication.clone(),
            bridgeheads: self.virtual_server.iter().cloned().collect(),
            ..ConnectorSpec::to_host(&self.host, self.port)
        }
    }
}
