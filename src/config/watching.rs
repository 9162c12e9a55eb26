//! What it takes to tell operators what is wrong, and to send traces: settings with their secrets.

use std::sync::Arc;

use super::secrets::Unresolved;
use crate::model::http_header::HttpHeaderName;
use crate::model::http_url::HttpUrl;
use crate::model::ratio::Ratio;
use crate::model::secret::SecretText;
use crate::model::spec::rewrite_sender::AsciiMailbox;
use crate::model::spec::watching::{AlertSettings, AlertSmartHost};
use crate::net::tls::client::ClientTls;

/// How operators are told: `settings.alerts`, where it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertMail {
    /// The settings.
    pub spec: AlertSettings,
    /// Who it is from, where the settings say; else the postmaster.
    pub from: Option<AsciiMailbox>,
    /// The host that takes it.
    pub host: AlertSmartHost,
    /// The password, where one is needed, or why it cannot be had.
    pub password: Option<Result<SecretText, Unresolved>>,
    /// How it is encrypted, or why it cannot be.
    pub tls: Result<Arc<ClientTls>, String>,
}

/// Where traces go: `settings.tracing`, where it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceExport {
    /// Where spans are posted to.
    pub url: HttpUrl,
    /// HTTP fields of each request, each with its value or why that cannot be had.
    pub headers: Vec<(HttpHeaderName, Result<SecretText, Unresolved>)>,
    /// The part of messages that are traced.
    pub ratio: Ratio,
    /// How long an answer may take.
    pub timeout: std::time::Duration,
}
