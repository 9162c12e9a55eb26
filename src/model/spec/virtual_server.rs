//! `virtual-servers`: where mail comes in, from whom, and how it is treated (Exchange: SMTP virtual server).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::duration::Duration;
use crate::model::host::{HostAndPort, HostName, IpAddress, NameServer};
use crate::model::pattern::ClientPattern;
use crate::model::size::Size;

/// An SMTP virtual server: bindings where it listens, who may connect and relay, limits, and how mail that it took is
/// delivered. Which domains are local follows from recipient policies, not from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"bindings": [{"address": "0.0.0.0", "port": 25}], "relay": {"allow": ["10.0.0.0/8"]}}))]
pub struct VirtualServerSpec {
    /// Whether it listens. Mail that it took before is delivered either way.
    pub enabled: bool,
    /// Where it listens. No two enabled virtual servers may share a binding.
    #[schema(max_items = 100)]
    pub bindings: Vec<Binding>,
    /// The name it gives in its greeting, in EHLO, and in Received fields. Default: the name of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub fqdn: Option<HostName>,
    /// Limits on inbound connections.
    pub connections: Connections,
    /// Who may connect at all.
    pub connection_control: ConnectionControl,
    /// Who may send to domains that are not local.
    pub relay: Relay,
    /// Limits on messages.
    pub messages: Messages,
    /// Retries, notifications and expiry of mail that this server took.
    pub delivery: Delivery,
    /// How it sends.
    pub outbound: Outbound,
    /// DNS servers for outbound mail, asked in this order; when given, only these. Default: those of the host.
    #[schema(max_items = 10)]
    pub dns_servers: Vec<NameServer>,
    /// What it offers in answer to EHLO.
    pub extensions: Extensions,
}

impl Default for VirtualServerSpec {
    fn default() -> Self {
        VirtualServerSpec {
            enabled: true,
            bindings: Vec::new(),
            fqdn: None,
            connections: Connections::default(),
            connection_control: ConnectionControl::default(),
            relay: Relay::default(),
            messages: Messages::default(),
            delivery: Delivery::default(),
            outbound: Outbound::default(),
            dns_servers: Vec::new(),
            extensions: Extensions::default(),
        }
    }
}

/// An address and port to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"address": "0.0.0.0", "port": 25}))]
#[schema(as = VirtualServerBinding)]
pub struct Binding {
    /// The local address; `0.0.0.0` for every IPv4 address, `::` for every IPv6 address of the host.
    pub address: IpAddress,
    /// The TCP port; 0 lets the system choose one, which the status then shows.
    #[schema(minimum = 0, maximum = 65535)]
    pub port: u16,
}

/// Limits on inbound connections. Over a limit a client is told 421 and may come again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerConnections)]
pub struct Connections {
    /// Most connections at a time.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub max: u32,
    /// Most connections at a time from one client address. Default: no limit of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000, nullable = false)]
    pub max_per_client: Option<u32>,
    /// How long a client may be silent before it is told 421 and cut off (Exchange: connection time-out). At least 1s.
    pub idle_timeout: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Connections { max: 10_000, max_per_client: None, idle_timeout: Duration::from_secs(600) }
    }
}

/// Who may connect. The longest matching prefix decides; `deny` wins a tie.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerConnectionControl)]
pub struct ConnectionControl {
    /// These may connect. Empty: everybody.
    #[schema(max_items = 10_000)]
    pub allow: Vec<ClientPattern>,
    /// These may not.
    #[schema(max_items = 10_000)]
    pub deny: Vec<ClientPattern>,
}

/// Who may relay: send to domains that are not local. The longest matching prefix decides; `deny` wins a tie.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"allow": ["10.0.0.0/8"], "deny": ["10.66.0.0/16"]}))]
#[schema(as = VirtualServerRelay)]
pub struct Relay {
    /// These may relay. Empty: nobody.
    #[schema(max_items = 10_000)]
    pub allow: Vec<ClientPattern>,
    /// These may not.
    #[schema(max_items = 10_000)]
    pub deny: Vec<ClientPattern>,
    /// Must be true when `allow` holds `0.0.0.0/0` or `::/0`: the whole world may then send mail through this server.
    pub acknowledge_open_relay: bool,
}

/// Limits on messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerMessages)]
pub struct Messages {
    /// Largest message; announced with SIZE, refused with 552. At least 64KiB.
    pub max_size: Size,
    /// Most recipients of a message; each one more is refused with 452, so that the client sends them in a further
    /// message.
    #[schema(minimum = 100, maximum = 100_000)]
    pub max_recipients: u32,
    /// Most messages on one connection; then the client is told 421 and connects again. Default: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4_294_967_295_u32, nullable = false)]
    pub max_per_connection: Option<u32>,
    /// Another system that has recipients in our shared domains: mail for those who are not in the directory goes to this
    /// host, `host` or `host:port`, instead of by connector. It must not be this server. Default: by connector.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub forward_unresolved_to: Option<HostAndPort>,
}

impl Default for Messages {
    fn default() -> Self {
        Messages {
            max_size: Size::from_mib(25),
            max_recipients: 1_000,
            max_per_connection: None,
            forward_unresolved_to: None,
        }
    }
}

/// What happens to mail that could not be delivered at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerDelivery)]
pub struct Delivery {
    /// Quick retries before `retryIntervals` begin.
    pub glitch_retry: GlitchRetry,
    /// How long to wait after each further failure; the last one repeats. Each at least 1s.
    #[schema(min_items = 1, max_items = 100)]
    pub retry_intervals: Vec<Duration>,
    /// When the sender is told that mail is delayed; never when it is not shorter than `expireAfter`.
    pub delay_notification_after: Duration,
    /// When delivery is given up and the sender is told. At least 1s.
    pub expire_after: Duration,
}

impl Default for Delivery {
    fn default() -> Self {
        Delivery {
            glitch_retry: GlitchRetry::default(),
            retry_intervals: [900, 1_800, 3_600, 14_400].map(Duration::from_secs).into(),
            delay_notification_after: Duration::from_secs(12 * 3_600),
            expire_after: Duration::from_secs(48 * 3_600),
        }
    }
}

/// Quick retries for what is only a glitch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerGlitchRetry)]
pub struct GlitchRetry {
    /// How long to wait before each. At least 1s.
    pub after: Duration,
    /// How many; 0 for none.
    #[schema(minimum = 0, maximum = 100)]
    pub times: u32,
}

impl Default for GlitchRetry {
    fn default() -> Self {
        GlitchRetry { after: Duration::from_secs(60), times: 3 }
    }
}

/// How a virtual server sends. A connector's own limits go before these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerOutbound)]
pub struct Outbound {
    /// Most outbound connections at a time.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub max_connections: u32,
    /// Most outbound connections at a time for one domain.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub max_connections_per_domain: u32,
    /// Most messages on one connection; then a new one is made.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub messages_per_connection: u32,
    /// How long the other side may be silent. At least 1s.
    pub timeout: Duration,
    /// The TCP port of hosts that are found by MX.
    #[schema(minimum = 1, maximum = 65535)]
    pub port: u16,
    /// Received fields that a message may have before it counts as a loop (RFC 5321, 6.3).
    #[schema(minimum = 10, maximum = 1_000)]
    pub max_hop_count: u32,
}

impl Default for Outbound {
    fn default() -> Self {
        Outbound {
            max_connections: 1_000,
            max_connections_per_domain: 100,
            messages_per_connection: 1_000,
            timeout: Duration::from_secs(600),
            port: 25,
            max_hop_count: 100,
        }
    }
}

/// EHLO keywords that a virtual server offers; what is switched off is refused when a client uses it all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerExtensions)]
pub struct Extensions {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// SIZE (RFC 1870).
    pub size: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtp_utf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034).
    pub enhanced_status_codes: bool,
}

impl Default for Extensions {
    fn default() -> Self {
        Extensions {
            pipelining: true,
            size: true,
            eight_bit_mime: true,
            smtp_utf8: true,
            dsn: true,
            enhanced_status_codes: true,
        }
    }
}
