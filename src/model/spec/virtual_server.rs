//! `virtual-servers`: where mail comes in, from whom, and how it is treated (Exchange: SMTP virtual server).
//!
//! Who a client is, and what it may use, is in [`security`]; what is offered and written down, in [`protocol`].

pub mod pickup;
pub mod protocol;
pub mod security;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::duration::Duration;
use crate::model::host::{HostAndPort, HostName, IpAddress, NameServer};
use crate::model::name::Name;
use crate::model::pattern::{ClientPattern, Network};
use crate::model::rate::Rate;
use crate::model::size::Size;
use crate::smtp::address::Mailbox;

pub use pickup::Pickup;
pub use protocol::{Extensions, LogFields, LogFormat, LogRotation, ProtocolLog, Staging};
pub use security::{Authentication, ClientCertificates, Mechanism, MinimumVersion, OutboundSecurity, Tls};

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
    /// The certificates it has. A client that names a host (SNI) gets the one for that host; else the first.
    #[schema(max_items = 100)]
    pub certificates: Vec<Name>,
    /// How it encrypts; which bindings do is said there.
    pub tls: Tls,
    /// How clients say who they are.
    pub authentication: Authentication,
    /// Limits on inbound connections.
    pub connections: Connections,
    /// What a client may do wrong before it is slowed, then told 421.
    pub errors: Errors,
    /// Whether the client's reverse name is looked up, verified, and put into Received fields and logs. Never a reason to
    /// refuse by itself. Lists that hold `*.name` have it looked up anyway.
    pub reverse_dns: bool,
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
    /// DNS servers for outbound mail and for the DNS lists of filters, asked in this order; when given, only these. Default: those of the host.
    #[schema(max_items = 10)]
    pub dns_servers: Vec<NameServer>,
    /// What it offers in answer to EHLO.
    pub extensions: Extensions,
    /// A directory from which it takes mail.
    pub pickup: Pickup,
    /// What is written down of its sessions, command by command.
    pub protocol_log: ProtocolLog,
    /// For a system that must not reach real people: mail is redirected or refused, but for those allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub staging: Option<Staging>,
}

impl Default for VirtualServerSpec {
    fn default() -> Self {
        VirtualServerSpec {
            enabled: true,
            bindings: Vec::new(),
            fqdn: None,
            certificates: Vec::new(),
            tls: Tls::default(),
            authentication: Authentication::default(),
            errors: Errors::default(),
            reverse_dns: false,
            connections: Connections::default(),
            connection_control: ConnectionControl::default(),
            relay: Relay::default(),
            messages: Messages::default(),
            delivery: Delivery::default(),
            outbound: Outbound::default(),
            dns_servers: Vec::new(),
            extensions: Extensions::default(),
            pickup: Pickup::default(),
            protocol_log: ProtocolLog::default(),
            staging: None,
        }
    }
}

/// An address and port to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"address": "0.0.0.0", "port": 25, "tls": "starttls"}))]
#[schema(as = VirtualServerBinding)]
pub struct Binding {
    /// The local address; `0.0.0.0` for every IPv4 address, `::` for every IPv6 address of the host.
    pub address: IpAddress,
    /// The TCP port; 0 lets the system choose one, which the status then shows.
    #[schema(minimum = 0, maximum = 65535)]
    pub port: u16,
    /// How it encrypts.
    #[serde(default)]
    #[schema(default = "none")]
    pub tls: BindingTls,
    /// What is spoken.
    #[serde(default)]
    #[schema(default = "smtp")]
    pub protocol: Protocol,
    /// A proxy in front of it that says who the client is (PROXY protocol, version 1 and 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What becomes of a CR or LF in a message that stands alone. `normalise` is for internal clients that cannot do
    /// better: with clients one does not trust, it lets messages be smuggled.
    #[serde(default)]
    #[schema(default = "refuse")]
    pub bare_line_ends: BareLineEnds,
    /// The filters that mail has to pass which comes in here, in this order: the first that matches decides. Clients that
    /// have authenticated or may relay are not filtered.
    #[serde(default)]
    #[schema(max_items = 16)]
    pub filters: Vec<Name>,
}

/// How a binding encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = VirtualServerBindingTls)]
pub enum BindingTls {
    /// Not at all.
    #[default]
    None,
    /// When the client asks for it (RFC 3207): ports 25 and 587.
    Starttls,
    /// From the first octet (RFC 8314): port 465.
    Implicit,
}

/// What is spoken on a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = VirtualServerProtocol)]
pub enum Protocol {
    /// SMTP (RFC 5321).
    #[default]
    Smtp,
    /// LMTP (RFC 2033): after the message, a reply for each recipient.
    Lmtp,
}

/// A proxy in front of a binding.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"trusted": ["10.0.0.0/24"]}))]
#[schema(as = VirtualServerProxyProtocol)]
pub struct ProxyProtocol {
    /// The proxies. From them a PROXY header is needed; from everybody else one is refused.
    #[schema(min_items = 1, max_items = 1_000)]
    pub trusted: Vec<Network>,
}

/// What becomes of a CR or LF that stands alone in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = VirtualServerBareLineEnds)]
pub enum BareLineEnds {
    /// The message is read to its true end and refused with 550 5.6.11.
    #[default]
    Refuse,
    /// It becomes a line end, but never the end of the message.
    Normalise,
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
    /// Most new connections from one client address in a time. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rate_per_client: Option<Rate>,
    /// How long a client may be silent before it is told 421 and cut off (Exchange: connection time-out). At least 1s.
    pub idle_timeout: Duration,
    /// How long a client may take from the first octet of a command to its end. At least 1s.
    pub command_timeout: Duration,
    /// How long a client may be silent within a message. At least 1s.
    pub data_timeout: Duration,
    /// How much of a message a client must send in a second, on average, once its first five minutes are over; 0 for any.
    pub least_data_rate: Size,
    /// How long the greeting is held back, to see who talks before it. At most 1m.
    pub greeting_delay: Duration,
    /// Whether a client that talks before the greeting is refused with 554 (RFC 5321, 4.3.1).
    pub refuse_early_talkers: bool,
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            max: 10_000,
            max_per_client: None,
            rate_per_client: None,
            idle_timeout: Duration::from_secs(600),
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(180),
            least_data_rate: Size::from_bytes(256),
            greeting_delay: Duration::from_secs(0),
            refuse_early_talkers: true,
        }
    }
}

/// What a client may do wrong: refused commands since its last accepted message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerErrors)]
pub struct Errors {
    /// So many refusals come at once; each further one is held back for `delay`.
    #[schema(minimum = 0, maximum = 10_000)]
    pub soft_limit: u32,
    /// How long a refusal is held back. At most 1m; 0s for not at all.
    pub delay: Duration,
    /// At so many refusals the client is told 421 and cut off. Not below `softLimit`.
    #[schema(minimum = 1, maximum = 10_000)]
    pub hard_limit: u32,
}

impl Default for Errors {
    fn default() -> Self {
        Errors { soft_limit: 10, delay: Duration::from_secs(1), hard_limit: 20 }
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
    /// Whether clients that have authenticated may relay, when their account may. Default: true when
    /// `authentication.mechanisms` has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub authenticated: Option<bool>,
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
    /// Most octets of messages on one connection (Exchange: session size); then the client is told 421 and connects again.
    /// Not below `maxSize`. Default: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub max_session_size: Option<Size>,
    /// Most recipients of a message; each one more is refused with 452, so that the client sends them in a further
    /// message.
    #[schema(minimum = 100, maximum = 100_000)]
    pub max_recipients: u32,
    /// Most messages on one connection; then the client is told 421 and connects again. Default: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4_294_967_295_u32, nullable = false)]
    pub max_per_connection: Option<u32>,
    /// Gets a copy of every non-delivery report about mail that this server took (Exchange: *Send copy of Non-Delivery Report
    /// to*); of reports of delays and of success, none. A copy that cannot be delivered becomes a dead letter, without a further
    /// report. Default: nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ndr_copy_to: Option<Mailbox>,
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
            max_session_size: None,
            max_recipients: 1_000,
            max_per_connection: None,
            ndr_copy_to: None,
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
    /// The same for local mail, which waits for its mailbox store: these times are its own and follow nothing above.
    pub local: LocalDelivery,
}

impl Default for Delivery {
    fn default() -> Self {
        Delivery {
            glitch_retry: GlitchRetry::default(),
            retry_intervals: RETRY_INTERVALS.into(),
            delay_notification_after: DELAY_NOTIFICATION_AFTER,
            expire_after: EXPIRE_AFTER,
            local: LocalDelivery::default(),
        }
    }
}

/// What happens to local mail that its mailbox store did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = VirtualServerLocalDelivery)]
pub struct LocalDelivery {
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

impl Default for LocalDelivery {
    fn default() -> Self {
        LocalDelivery {
            glitch_retry: GlitchRetry::default(),
            retry_intervals: RETRY_INTERVALS.into(),
            delay_notification_after: DELAY_NOTIFICATION_AFTER,
            expire_after: EXPIRE_AFTER,
        }
    }
}

/// Exchange 2000: 15 min, 30 min, 1 h, then every 4 h.
const RETRY_INTERVALS: [Duration; 4] =
    [Duration::from_secs(900), Duration::from_secs(1_800), Duration::from_secs(3_600), Duration::from_secs(14_400)];
/// Exchange 2000: 12 h.
const DELAY_NOTIFICATION_AFTER: Duration = Duration::from_secs(12 * 3_600);
/// Exchange 2000: 2 d.
const EXPIRE_AFTER: Duration = Duration::from_secs(48 * 3_600);

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
    /// How its sessions with next hops are encrypted, where the connector does not say.
    pub security: OutboundSecurity,
    /// The TCP port of hosts that are found by MX.
    #[schema(minimum = 1, maximum = 65535)]
    pub port: u16,
    /// Where mail goes that no connector carries, `host` or `host:port`; no MX is looked up. It must not be this server.
    /// Default: such mail waits in the queue `unrouted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub smart_host: Option<HostAndPort>,
    /// Try the hosts that DNS names for the domain first, and `smartHost` only when none of them can be reached, or DNS
    /// names none.
    pub direct_before_smart_host: bool,
    /// The addresses of this machine that it sends from, by turns, each for next hops of its family; a next hop of a family
    /// that none of them has is not connected to. One that the machine does not have (yet) is passed over while there is
    /// another. Empty: the system chooses.
    #[schema(max_items = 100)]
    pub source_addresses: Vec<IpAddress>,
    /// Received fields that a message may have before it counts as a loop (RFC 5321, 6.3).
    #[schema(minimum = 10, maximum = 1_000)]
    pub max_hop_count: u32,
    /// The domain that takes the place of every local domain in the sender of mail that this server sends to other hosts: in
    /// MAIL FROM and in the fields From and Sender (Exchange: masquerade domain). Local delivery does not know it, and reports of failures
    /// still go to the true sender. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub masquerade_domain: Option<HostName>,
}

impl Default for Outbound {
    fn default() -> Self {
        Outbound {
            max_connections: 1_000,
            max_connections_per_domain: 100,
            messages_per_connection: 1_000,
            timeout: Duration::from_secs(600),
            security: OutboundSecurity::default(),
            port: 25,
            smart_host: None,
            direct_before_smart_host: false,
            source_addresses: Vec::new(),
            max_hop_count: 100,
            masquerade_domain: None,
        }
    }
}
