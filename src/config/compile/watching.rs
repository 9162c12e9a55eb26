//! Alerts and traces: what is wrong with their settings, and what comes of them.

use std::sync::Arc;

use super::access::is_loopback;
use super::{Findings, Objects};
use crate::config::Vault;
use crate::config::secrets::Kept;
use crate::config::snapshot::Snapshot;
use crate::config::violation::ViolationCode;
use crate::config::watching::{AlertMail, TraceExport};
use crate::model::duration::Duration;
use crate::model::http_url::HttpUrl;
use crate::model::name::Name;
use crate::model::spec::watching::{AlertSettings, AlertSmartHost, AlertTls, MOST_ALERTED};
use crate::model::spec::{Collection, SETTINGS, SettingsSpec};
use crate::net::tls::client::ClientTls;

/// Most HTTP fields of a request to the collector.
const MOST_HEADERS: usize = 16;
/// Where OTLP over HTTP takes traces.
const TRACES: &str = "/v1/traces";

/// Everything that is wrong.
pub(super) fn check(settings: &SettingsSpec, found: &mut Findings) {
    let Ok(name) = SETTINGS.parse::<Name>() else { return };
    let of = (Collection::Settings, &name);
    let SettingsSpec { alerts, tracing, .. } = settings;
    found.at_least(of, "/spec/alerts/repeatEvery", alerts.repeat_every, Duration::from_secs(300));
    found.at_least(of, "/spec/alerts/oldestMessage", alerts.oldest_message, Duration::from_secs(60));
    if alerts.recipients.len() > MOST_ALERTED {
        let detail = format!("at most {MOST_ALERTED} recipients can be told");
        found.wrong(of, "/spec/alerts/recipients", ViolationCode::OutOfRange, detail);
    }
    match &alerts.smart_host {
        None if !alerts.recipients.is_empty() => {
            let detail = "alerts do not go through the queue: say which host takes them";
            found.wrong(of, "/spec/alerts/smartHost", ViolationCode::Required, detail);
        }
        None => {}
        Some(host) => smart_host(of, host, found),
    }
    if tracing.headers.len() > MOST_HEADERS {
        let detail = format!("at most {MOST_HEADERS} fields can be given");
        found.wrong(of, "/spec/tracing/headers", ViolationCode::OutOfRange, detail);
    }
    found.at_least(of, "/spec/tracing/timeout", tracing.timeout, Duration::from_secs(1));
    if tracing.timeout > Duration::from_secs(60) {
        found.wrong(of, "/spec/tracing/timeout", ViolationCode::OutOfRange, "at most 1m can be waited");
    }
}

fn smart_host(of: (Collection, &Name), host: &AlertSmartHost, found: &mut Findings) {
    const AT: &str = "/spec/alerts/smartHost";
    match (&host.username, &host.password) {
        (Some(_), None) => {
            found.wrong(of, format!("{AT}/password"), ViolationCode::Required, "password is needed to log in");
        }
        (None, Some(_)) => {
            found.wrong(of, format!("{AT}/username"), ViolationCode::Required, "username is needed to log in");
        }
        _ => {}
    }
    if host.tls == AlertTls::None && host.username.is_some() && !is_loopback(&host.host) {
        let detail = "a password is sent in TLS only, in clear to nobody but loopback addresses";
        found.wrong(of, format!("{AT}/tls"), ViolationCode::Conflict, detail);
    }
    if host.tls == AlertTls::None && host.ca.is_some() {
        let detail = "it says how certificates are checked, and tls is none";
        found.wrong(of, format!("{AT}/ca"), ViolationCode::Conflict, detail);
    }
}

fn kept(objects: &Objects) -> Kept {
    let name = SETTINGS.parse::<Name>().ok();
    name.and_then(|name| objects.secrets(Collection::Settings, &name).cloned()).unwrap_or_default()
}

/// How operators are told.
pub(super) fn alerts(
    objects: &Objects,
    settings: &SettingsSpec,
    previous: &Snapshot,
    vault: &Vault,
) -> Option<Arc<AlertMail>> {
    let spec: &AlertSettings = &settings.alerts;
    let host = spec.smart_host.clone().filter(|_| spec.enabled && !spec.recipients.is_empty())?;
    let before = previous.alerts.as_ref();
    let ca = host.ca.as_ref().map(|ca| vault.text(ca)).transpose().map_err(|error| error.to_string());
    let tls = ca.and_then(|ca| {
        let same = before.and_then(|before| before.tls.as_ref().ok());
        match same.filter(|tls| tls.is_made_of(ca.as_deref(), None)) {
            Some(same) => Ok(same.clone()),
            None => ClientTls::new(ca.as_deref(), None).map(Arc::new),
        }
    });
    let password = host.password.as_ref().map(|secret| vault.secret(secret, &kept(objects)));
    let now = AlertMail { spec: spec.clone(), from: spec.from.clone(), host, password, tls };
    Some(before.filter(|before| ***before == now).cloned().unwrap_or_else(|| Arc::new(now)))
}

/// Where traces go.
pub(super) fn tracing(
    objects: &Objects,
    settings: &SettingsSpec,
    previous: &Snapshot,
    vault: &Vault,
) -> Option<Arc<TraceExport>> {
    let spec = &settings.tracing;
    let url = traces(spec.endpoint.as_ref()?);
    let kept = kept(objects);
    let headers = spec.headers.iter().map(|(name, value)| (name.clone(), vault.secret(value, &kept))).collect();
    let now = TraceExport { url, headers, ratio: spec.sample_ratio, timeout: spec.timeout.std() };
    let before = previous.tracing.as_ref();
    Some(before.filter(|before| ***before == now).cloned().unwrap_or_else(|| Arc::new(now)))
}

/// The endpoint with the path of traces.
fn traces(endpoint: &HttpUrl) -> HttpUrl {
    let mut url = endpoint.url().clone();
    if !url.path().ends_with(TRACES) {
        let path = format!("{}{TRACES}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    // a longer path is all that is new
    url.as_str().parse().unwrap_or_else(|_| endpoint.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_completed_once() {
        for (given, url) in [
            ("http://c.example:4318", "http://c.example:4318/v1/traces"),
            ("http://c.example:4318/", "http://c.example:4318/v1/traces"),
            ("https://c.example/otlp?x=1", "https://c.example/otlp/v1/traces?x=1"),
            ("https://c.example/otlp/v1/traces", "https://c.example/otlp/v1/traces"),
        ] {
            assert_eq!(traces(&given.parse().unwrap()).to_string(), url);
        }
    }
}
