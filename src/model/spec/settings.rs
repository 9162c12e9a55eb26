//! `settings`: what concerns the whole appliance. One object, of the name `settings`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
    /// How long things are kept.
    pub retention: Retention,
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
            retention: Retention::default(),
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

/// How long things are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retention {
    /// How long mail stays in the dead-letter queue. At least 1m.
    pub dead_letter: Duration,
    /// How long the audit log goes back; of changes and of actions 10,000 each are kept at most. At least 1d.
    pub audit: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { dead_letter: Duration::from_secs(14 * 86_400), audit: Duration::from_secs(365 * 86_400) }
    }
}
