//! Parts of `settings`: who is told when something is wrong, and where traces go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rewrite_sender::AsciiMailbox;
use crate::model::alert_cause::AlertCause;
use crate::model::duration::Duration;
use crate::model::host::Host;
use crate::model::http_header::HttpHeaderName;
use crate::model::http_url::HttpUrl;
use crate::model::ratio::Ratio;
use crate::model::secret::{Secret, Source};
use crate::model::username::Username;

/// Most recipients of alerts.
pub const MOST_ALERTED: usize = 10;

/// Mail to operators when something is wrong with the appliance: when it begins, again while it lasts, and when it is over. It goes
/// to `smartHost` directly, never through the queue or the store, so that it also goes when these are what is wrong. What is
/// wrong now: `GET /alerts`. Off without recipients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"recipients": ["ops@example.com"], "smartHost": {"host": "smtp.example.net", "port": 587}}))]
pub struct AlertSettings {
    /// Whether operators are told.
    pub enabled: bool,
    /// Who is told.
    #[schema(max_items = 10)]
    pub recipients: Vec<AsciiMailbox>,
    /// Who it is from, in the message and on the envelope. Default: the postmaster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub from: Option<AsciiMailbox>,
    /// The host that takes alerts; needed with recipients. Better one that does not hand them to this appliance.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub smart_host: Option<AlertSmartHost>,
    /// How often it is said again while it lasts. At least 5m.
    pub repeat_every: Duration,
    /// For how long something must be so before anybody is told. Default: for as long as the alert rule of that name in the
    /// Helm chart says, from at once to 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tell_after: Option<Duration>,
    /// For how long it must be over before that is told: what comes and goes is one alert.
    pub end_after: Duration,
    /// Most messages in an hour. Of more than these the last tells all that is left, in one message.
    #[schema(minimum = 1, maximum = 1_000)]
    pub max_per_hour: u16,
    /// How long mail must have waited to be an alert (`BridgeheadOldestMessage`). At least 1m.
    pub oldest_message: Duration,
    /// How long before its end a certificate is an alert (`BridgeheadCertificateExpires`).
    pub certificate_expires: Duration,
    /// Causes that nobody is told of.
    #[schema(max_items = 50)]
    pub without: Vec<AlertCause>,
}

impl Default for AlertSettings {
    fn default() -> Self {
        AlertSettings {
            enabled: true,
            recipients: Vec::new(),
            from: None,
            smart_host: None,
            repeat_every: Duration::from_secs(6 * 3_600),
            tell_after: None,
            end_after: Duration::from_secs(300),
            max_per_hour: 20,
            oldest_message: Duration::from_secs(4 * 3_600),
            certificate_expires: Duration::from_secs(14 * 86_400),
            without: Vec::new(),
        }
    }
}

/// The host that takes alerts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "host": "smtp.example.net", "port": 587, "username": "alerts", "password": {"env": "BRIDGEHEAD_SECRET_ALERTS"}
}))]
pub struct AlertSmartHost {
    /// Its name or address. No MX is looked up.
    pub host: Host,
    /// The TCP port.
    #[serde(default = "smtp_port")]
    #[schema(minimum = 1, maximum = 65535, default = 25)]
    pub port: u16,
    /// Whether and how TLS begins.
    #[serde(default)]
    #[schema(default = "starttls")]
    pub tls: AlertTls,
    /// The certificates (PEM) of those who may have issued the host's, or its own. A file is watched. Default: those that the
    /// appliance's system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ca: Option<Source>,
    /// The name to log in with (AUTH PLAIN or LOGIN). Needs `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub username: Option<Username>,
    /// Its password. It is sent in TLS only, in clear to nobody but loopback addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub password: Option<Secret>,
}

fn smtp_port() -> u16 {
    25
}

/// How TLS begins with the host that takes alerts. Where there is TLS, the certificate must be good for the host's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AlertTls {
    /// There is none.
    None,
    /// By STARTTLS (RFC 3207), always: ports 25 and 587.
    #[default]
    Starttls,
    /// From the first octet (RFC 8314): port 465.
    Implicit,
}

/// Traces by OpenTelemetry: one of each message, from the first RCPT to the last attempt, also over a restart. Sent by OTLP over
/// HTTP, as JSON; what the collector does not take in time is dropped and counted (`bridgehead_trace_spans_dropped_total`). Mail
/// waits for none of it. Off without an endpoint. Nothing is sent to link-local and metadata addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"endpoint": "http://collector.example.com:4318", "sampleRatio": 0.1}))]
pub struct TracingSettings {
    /// Where the collector takes OTLP over HTTP; `/v1/traces` is added where it is not there (as with
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub endpoint: Option<HttpUrl>,
    /// HTTP fields of each request, with their values; at most 16.
    pub headers: BTreeMap<HttpHeaderName, Secret>,
    /// The part of messages that are traced, by their ids: a message is traced whole or not at all.
    pub sample_ratio: Ratio,
    /// How long an answer may take. At least 1s, at most 1m.
    pub timeout: Duration,
}

impl Default for TracingSettings {
    fn default() -> Self {
        TracingSettings {
            endpoint: None,
            headers: BTreeMap::new(),
            sample_ratio: Ratio::ALL,
            timeout: Duration::from_secs(10),
        }
    }
}
