//! What a virtual server offers, what it writes down, and where a staging system lets mail go.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::duration::Duration;
use crate::model::pattern::RecipientPattern;
use crate::model::size::Size;
use crate::smtp::address::Mailbox;

/// EHLO keywords that a virtual server offers; what is switched off is unknown to it. STARTTLS is a matter of the binding,
/// AUTH of `authentication.mechanisms`.
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
    /// CHUNKING (RFC 3030): BDAT.
    pub chunking: bool,
    /// BINARYMIME (RFC 3030); needs `chunking`.
    pub binary_mime: bool,
    /// LIMITS (RFC 9422).
    pub limits: bool,
    /// REQUIRETLS (RFC 8689); offered under TLS.
    pub require_tls: bool,
    /// FUTURERELEASE (RFC 4865).
    pub future_release: bool,
    /// DELIVERBY (RFC 2852).
    pub deliver_by: bool,
    /// MT-PRIORITY (RFC 6710).
    pub mt_priority: bool,
    /// ETRN (RFC 1985).
    pub etrn: bool,
    /// ATRN (RFC 2645).
    pub atrn: bool,
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
            chunking: true,
            binary_mime: true,
            limits: true,
            require_tls: true,
            future_release: true,
            deliver_by: true,
            mt_priority: true,
            etrn: true,
            atrn: true,
        }
    }
}

/// The protocol log of a virtual server: files of its own, of bounded size in all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"format": "w3c", "rotate": {"every": "1d", "size": "50MiB"}, "keep": 14}))]
#[schema(as = VirtualServerProtocolLog)]
pub struct ProtocolLog {
    /// How it is written.
    pub format: LogFormat,
    /// When a new file is begun.
    pub rotate: LogRotation,
    /// Most files that are kept, the one that is written included.
    #[schema(minimum = 1, maximum = 10_000)]
    pub keep: u32,
    /// Which fields are written.
    pub fields: LogFields,
}

impl Default for ProtocolLog {
    fn default() -> Self {
        ProtocolLog { format: LogFormat::None, rotate: LogRotation::default(), keep: 10, fields: LogFields::Default }
    }
}

/// How a protocol log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProtocolLogFormat)]
pub enum LogFormat {
    /// Not at all.
    #[default]
    None,
    /// W3C extended log file format, as Exchange writes it.
    W3c,
    /// A JSON object a line.
    Json,
}

/// Which fields a protocol log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProtocolLogFields)]
pub enum LogFields {
    /// Those that Exchange has switched on by default.
    #[default]
    Default,
    /// All.
    Full,
}

/// When a new log file is begun: at the first of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = ProtocolLogRotation)]
pub struct LogRotation {
    /// After so long. At least 1m. Default: only by size.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub every: Option<Duration>,
    /// At this size. At least 64KiB.
    pub size: Size,
}

impl Default for LogRotation {
    fn default() -> Self {
        LogRotation { every: None, size: Size::from_mib(10) }
    }
}

/// Keeps the mail of a staging system from real people. One of the two fields is needed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"redirectTo": "staging@example.com", "allow": ["*@test.example.com"]}))]
#[schema(as = VirtualServerStaging)]
pub struct Staging {
    /// Gets what is for anybody else than `allow`. Default: that is refused with 550.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub redirect_to: Option<Mailbox>,
    /// These get their mail.
    #[schema(max_items = 10_000)]
    pub allow: Vec<RecipientPattern>,
}
