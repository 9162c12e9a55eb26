//! `settings`: what concerns the whole appliance. One object, of the name `settings`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits::{SenderQuota, SuppressionSettings};
use super::watching::{AlertSettings, TracingSettings};
use crate::model::duration::Duration;
use crate::model::name::Name;
use crate::model::size::Size;
use crate::smtp::address::Mailbox;

/// Settings of the whole appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"organization": "Example Ltd", "postmaster": "admin@example.com", "defaultVirtualServer": "default"}))]
pub struct SettingsSpec {
    /// The organization's name, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256, nullable = false)]
    pub organization: Option<String>,
    /// Who gets mail for `postmaster` of every local domain. Default: the recipient with such an address, else the
    /// mailbox `postmaster` in the default mailbox store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub postmaster: Option<Mailbox>,
    /// Who gets mail for `abuse` of every local domain (RFC 2142). Default: the recipient with such an address, if there
    /// is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub abuse: Option<Mailbox>,
    /// Whether `ada+anything@example.com` is for `ada@example.com` where no recipient has that very address.
    pub plus_addressing: bool,
    /// The virtual server that sends what no virtual server took. Default: the first by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub default_virtual_server: Option<Name>,
    /// Whether subjects of messages are kept, for listings and message tracking. Off by default, as in Exchange, whose
    /// setting *Enable subject logging and display* this is; holds for mail that comes from then on.
    pub subject_logging: bool,
    /// When new mail is refused for a while, because there is too much already.
    pub overload: Overload,
    /// What fills the suppression list by itself.
    pub suppression: SuppressionSettings,
    /// How much may be sent from which domains, by whoever sends it and however he does.
    #[schema(max_items = 100)]
    pub sender_quotas: Vec<SenderQuota>,
    /// How long things are kept.
    pub retention: Retention,
    /// Reports to other domains about the TLS of their hosts (TLSRPT, RFC 8460).
    pub tls_reporting: TlsReporting,
    /// Who is told when something is wrong with the appliance.
    pub alerts: AlertSettings,
    /// Where traces of messages go.
    pub tracing: TracingSettings,
}

impl Default for SettingsSpec {
    fn default() -> Self {
        SettingsSpec {
            organization: None,
            postmaster: None,
            abuse: None,
            plus_addressing: true,
            default_virtual_server: None,
            subject_logging: false,
            overload: Overload::default(),
            suppression: SuppressionSettings::default(),
            sender_quotas: Vec::new(),
            retention: Retention::default(),
            tls_reporting: TlsReporting::default(),
            alerts: AlertSettings::default(),
            tracing: TracingSettings::default(),
        }
    }
}

/// When new mail is refused for a while (452 over SMTP, 503 over REST), because there is too much already. Looked at once a
/// second; it ends when a tenth is free again. What is queued goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Overload {
    /// Messages that wait, in all queues. Default: as many as the disk holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, nullable = false)]
    pub queued_messages: Option<u64>,
    /// Their content. Default: as much as the disk holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub queued_bytes: Option<Size>,
    /// Memory of the process. Default: nine tenths of what its control group (its container) may have, if that has a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub memory: Option<Size>,
}

/// Reports to other domains about the TLS of their hosts. What came of TLS is counted in any case: `GET /tls-reports`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsReporting {
    /// Whether domains that ask for reports get one, once a day.
    pub enabled: bool,
    /// Whom the report names to be asked. Default: the postmaster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub contact: Option<Mailbox>,
    /// Whether reports are also posted to addresses that are not public: domains, not operators, say where they go. For
    /// systems that write to others within a network of their own.
    pub allow_private_addresses: bool,
}

/// How long things are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retention {
    /// How long mail stays in the dead-letter queue. At least 1m.
    pub dead_letter: Duration,
    /// How long the audit log goes back; of changes and of actions 10,000 each are kept at most. At least 1d.
    pub audit: Duration,
    /// How many revisions of the configuration can be gone back to.
    #[schema(minimum = 1, maximum = 1000)]
    pub revisions: u16,
    /// How long message tracking keeps events. At least 1h.
    pub tracking: Duration,
    /// How much disk message tracking may take; the oldest events go first. At least 64MiB. An event takes some 350 octets, a
    /// message that is relayed at once three events.
    pub tracking_size: Size,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            dead_letter: Duration::from_secs(14 * 86_400),
            audit: Duration::from_secs(365 * 86_400),
            revisions: 100,
            tracking: Duration::from_secs(30 * 86_400),
            tracking_size: Size::from_bytes(1 << 30),
        }
    }
}
