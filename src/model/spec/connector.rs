//! `connectors`: how mail leaves (Exchange: SMTP connector). How they encrypt and log in is in [`security`], mail that is
//! fetched in [`fetching`].

pub mod fetching;
pub mod oauth2;
pub mod security;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, Type};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::model::duration::Duration;
use crate::model::host::{Host, IpAddress};
use crate::model::name::Name;
use crate::model::pattern::AddressPattern;
use crate::model::rate::Rate;
use crate::model::recipient_ref::SenderPattern;
use crate::model::schedule::Schedule;
use crate::model::size::Size;
use crate::model::spec::rewrite_sender::RewriteSender;

pub use fetching::{RemoteTriggered, RequestDequeue};
pub use security::{Authentication, Security, SmartHostTls};

/// An SMTP connector: which domains it carries mail for, at what cost, and where it takes the mail. The most specific
/// address space decides whatever its cost, then the lowest cost; connectors with an equal pattern and cost share the
/// load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"addressSpaces": [{"pattern": "*", "cost": 1}], "route": {"smartHosts": [{"host": "smtp.example.net", "port": 25}]}}))]
pub struct ConnectorSpec {
    /// Whether it carries mail. Mail that waits for it is routed anew when it is switched off.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub enabled: bool,
    /// Which domains it carries mail for.
    #[schema(min_items = 1, max_items = 100_000)]
    pub address_spaces: Vec<AddressSpace>,
    /// Where it takes the mail.
    pub route: RouteSpec,
    /// The virtual servers whose settings it sends with, in turn. Empty: the one that took the message.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub bridgeheads: Vec<Name>,
    /// Whether every client may relay to its address spaces (Exchange: *Allow messages to be relayed to these domains*).
    #[serde(default)]
    #[schema(default = false)]
    pub allow_relay: bool,
    /// The virtual servers through which `allowRelay` holds. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_items = 100)]
    pub relay_via: Option<Vec<Name>>,
    /// Must be true when `allowRelay` is true and an address space is `*`: the whole world may then send mail through it.
    #[serde(default)]
    #[schema(default = false)]
    pub acknowledge_open_relay: bool,
    /// Which messages it carries; for others it counts as absent.
    #[serde(default)]
    pub restrictions: Restrictions,
    /// When it carries mail; at other times mail waits. Default: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub schedule: Option<Schedule>,
    /// Large messages have times of their own, instead of `schedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub oversize: Option<Oversize>,
    /// Mail waits until whom it is for asks for it, by ETRN or ATRN. Default: it is carried as it comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub remote_triggered: Option<RemoteTriggered>,
    /// It asks another host for the mail that waits there, beside carrying its own. Default: it asks nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub request_dequeue: Option<RequestDequeue>,
    /// What becomes of mail while none of its smart hosts can be reached, and no other connector has the same address
    /// space.
    #[serde(default)]
    pub fallback: Fallback,
    /// How it encrypts.
    #[serde(default)]
    pub security: Security,
    /// How it logs in to smart hosts.
    #[serde(default)]
    pub authentication: Authentication,
    /// How it greets.
    #[serde(default)]
    pub hello: Hello,
    /// Limits; they go before those of the virtual server.
    #[serde(default)]
    pub limits: Limits,
    /// The addresses that it sends from, instead of the virtual server's `outbound.sourceAddresses`. Empty: the virtual
    /// server's.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub source_addresses: Vec<IpAddress>,
    /// How long to wait after each failure, instead of the virtual server's intervals; the last one repeats. Empty: the
    /// virtual server's. Each at least 1s.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub retry_intervals: Vec<Duration>,
    /// Whether recipients are verified at RCPT, before their mail is taken: for gateways.
    #[serde(default)]
    #[schema(default = "none")]
    pub verify_recipients: VerifyRecipients,
    /// Senders that become another mailbox on the way out. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rewrite_sender: Option<RewriteSender>,
}

impl ConnectorSpec {
    /// A connector to one host with all other settings as they are by default, and without an address space: nothing is
    /// routed to it, mail has to be put into its queue.
    pub fn to_host(host: &Host, port: u16) -> Self {
        let route = serde_json::json!({"smartHosts": [{"host": host, "port": port}]});
        serde_json::from_value(serde_json::json!({"addressSpaces": [], "route": route}))
            .expect("everything else has a default, and every host is text")
    }
}

fn yes() -> bool {
    true
}

/// Domains that a connector carries mail for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"pattern": "*.example.com", "cost": 10}))]
pub struct AddressSpace {
    /// Which domains.
    pub pattern: AddressPattern,
    /// The cost, when another connector has the same pattern: the lower one is taken.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 100, default = 1)]
    pub cost: u8,
}

fn one() -> u8 {
    1
}

/// Where a connector takes mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RouteSpec {
    /// To the hosts that DNS names for each domain.
    Dns(DnsRoute),
    /// To these hosts, whatever the domain.
    SmartHosts(Vec<SmartHost>),
}

/// By DNS: MX, else address records (RFC 5321, 5.1). Has no settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsRoute {
    /// Where the mail goes when none of the hosts that DNS names can be reached. Nobody can write it: it is what
    /// `outbound.directBeforeSmartHost` of a virtual server means.
    #[serde(skip)]
    #[schema(ignore)]
    pub then: Option<SmartHost>,
}

impl PartialSchema for RouteSpec {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some("Where a connector takes mail: exactly one of `dns` and `smartHosts`."))
            .property("dns", utoipa::openapi::Ref::from_schema_name(DnsRoute::name()))
            .property(
                "smartHosts",
                ArrayBuilder::new()
                    .items(utoipa::openapi::Ref::from_schema_name(SmartHost::name()))
                    .min_items(Some(1))
                    .max_items(Some(100))
                    .description(Some(
                        "To these hosts, whatever the domain; the lowest priority first, equal ones by weight. On \
                         4xx and connection failures the next is tried, never on 5xx.",
                    )),
            )
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
            .min_properties(Some(1))
            .max_properties(Some(1))
            .examples([
                serde_json::json!({"dns": {}}),
                serde_json::json!({"smartHosts": [{"host": "smtp.example.net", "port": 25}]}),
            ])
            .into()
    }
}

impl ToSchema for RouteSpec {
    fn name() -> Cow<'static, str> {
        "ConnectorRoute".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((DnsRoute::name().into_owned(), DnsRoute::schema()));
        schemas.push((SmartHost::name().into_owned(), SmartHost::schema()));
        SmartHost::schemas(schemas);
    }
}

/// A host that takes mail for other domains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"host": "smtp.example.net", "port": 25, "priority": 0, "weight": 1}))]
pub struct SmartHost {
    /// Its name or address. No MX is looked up.
    pub host: Host,
    /// The TCP port.
    #[serde(default = "smtp_port")]
    #[schema(minimum = 1, maximum = 65535, default = 25)]
    pub port: u16,
    /// How TLS begins.
    #[serde(default)]
    #[schema(default = "starttls")]
    pub tls: SmartHostTls,
    /// The lowest is tried first.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 65535, default = 0)]
    pub priority: u16,
    /// Its share among hosts of the same priority; one with 0 is tried last among them.
    #[serde(default = "one_share")]
    #[schema(minimum = 0, maximum = 65535, default = 1)]
    pub weight: u16,
}

pub(super) fn smtp_port() -> u16 {
    25
}

fn one_share() -> u16 {
    1
}

/// When large messages are carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ConnectorOversize, example = json!({
    "largerThan": "2MiB", "schedule": {"timeZone": "Europe/Berlin", "windows": [{"from": "20:00", "to": "06:00"}]}
}))]
pub struct Oversize {
    /// Messages of more than this are large.
    pub larger_than: Size,
    /// When they are carried.
    pub schedule: Schedule,
}

/// Whether mail may take a less specific way while the one it should take is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ConnectorFallback)]
pub enum Fallback {
    /// It waits, as in Exchange 2000: the less specific way may well lead to the wrong place.
    #[default]
    Wait,
    /// It goes by the next less specific address space of any connector (`*.example.com`, then `*`).
    LessSpecific,
}

/// A range of the priorities of RFC 6710, as Exchange has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum PriorityClass {
    /// Below 0.
    Low,
    /// 0, which is what a message without a priority has.
    Normal,
    /// Above 0.
    High,
}

impl PriorityClass {
    /// The class of a priority.
    pub fn of(priority: i8) -> Self {
        match priority {
            ..=-1 => PriorityClass::Low,
            0 => PriorityClass::Normal,
            1.. => PriorityClass::High,
        }
    }
}

/// Which messages a connector carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = ConnectorRestrictions)]
pub struct Restrictions {
    /// Only mail of these senders: an address, `*@domain`, or the name of a recipient; of a group also its members. Empty:
    /// of all. System messages have no sender; `system` is about them.
    #[schema(max_items = 10_000)]
    pub accept_from: Vec<SenderPattern>,
    /// No mail of these senders; goes before `acceptFrom`.
    #[schema(max_items = 10_000)]
    pub reject_from: Vec<SenderPattern>,
    /// Only mail of these priorities. Default: of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_items = 1, max_items = 3)]
    pub priorities: Option<Vec<PriorityClass>>,
    /// Only messages up to this size. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub max_size: Option<Size>,
    /// Whether it carries system messages: those with the null reverse-path, such as delivery reports.
    pub system: bool,
    /// Whether it carries all others.
    pub non_system: bool,
}

impl Default for Restrictions {
    fn default() -> Self {
        Restrictions {
            accept_from: Vec::new(),
            reject_from: Vec::new(),
            priorities: None,
            max_size: None,
            system: true,
            non_system: true,
        }
    }
}

/// How recipients are verified whose mail a connector would carry. Who does not exist is refused with 550 5.1.1; what cannot be
/// told now is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ConnectorVerifyRecipients)]
pub enum VerifyRecipients {
    /// Not at all.
    #[default]
    None,
    /// In our shared domains only those are taken who are in the directory, such as contacts.
    Directory,
    /// The next hop is asked by MAIL FROM:<> and RCPT TO. That one exists is remembered for an hour, that one does not for five
    /// minutes.
    Callout,
}

/// How a connector greets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Hello {
    /// EHLO, and HELO when that is refused.
    #[default]
    Ehlo,
    /// HELO, and so no extension.
    Helo,
}

/// Limits of a connector. What is absent follows the virtual server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = ConnectorLimits)]
pub struct Limits {
    /// Most connections at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000, nullable = false)]
    pub max_connections: Option<u32>,
    /// Most connections at a time to one next hop: a domain by DNS, or one smart host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000, nullable = false)]
    pub max_connections_per_host: Option<u32>,
    /// Most messages in a time, over all next hops; the rest waits in the queue. In no span of that time more go out: a tenth
    /// may go at once, the rest follows evenly. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rate: Option<Rate>,
    /// The same for each next hop: a domain by DNS, or the smart hosts together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rate_per_host: Option<Rate>,
    /// Most messages on one connection; then a new one is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000, nullable = false)]
    pub messages_per_connection: Option<u32>,
}
