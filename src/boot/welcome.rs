//! What a person sees at the start: where everything is, the first key (once), and how to send the first message.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::Context;

use crate::cli::Serve;
use crate::config::Live;
use crate::config::keys::ApiKey;
use crate::model::host::HostName;
use crate::status::Listeners;

/// The name of this machine; `localhost.localdomain` when it has none that mail could use.
pub(super) fn host_name() -> HostName {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().to_lowercase();
    let fallback = || "localhost.localdomain".parse().expect("it is a host name");
    if name.contains('.') { name.parse().unwrap_or_else(|_| fallback()) } else { fallback() }
}

/// Shows it on a terminal; elsewhere the first key goes to a file that only its owner can read.
pub(super) async fn show(
    options: &Serve,
    live: &Live,
    listeners: &Listeners,
    api: &[SocketAddr],
    first_key: Option<&ApiKey>,
) -> anyhow::Result<()> {
    let terminal = std::io::stdout().is_terminal();
    if let Some(key) = first_key.filter(|_| !terminal) {
        keep(options, key)?;
    }
    if !terminal {
        return Ok(());
    }
    wait_for_listeners(live, listeners).await;
    let text = words(options, live, listeners, api, first_key);
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("the terminal cannot be written")
}

/// Listeners open right after the start; a moment's patience shows real ports.
async fn wait_for_listeners(live: &Live, listeners: &Listeners) {
    let wanted = live.current().virtual_servers.values().filter(|server| server.spec.enabled).count();
    for _ in 0..50 {
        if listeners.all().len() >= wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn words(
    options: &Serve,
    live: &Live,
    listeners: &Listeners,
    api: &[SocketAddr],
    first_key: Option<&ApiKey>,
) -> String {
    let snapshot = live.current();
    let mut text = format!("\nBridgehead {}\n\n", env!("CARGO_PKG_VERSION"));
    let mut smtp = None;
    for (server, bindings) in listeners.all() {
        for binding in bindings {
            match binding.bound {
                Ok(bound) => {
                    smtp.get_or_insert(reachable(bound));
                    let _ = writeln!(text, "  SMTP    {bound}   (virtual server {server})");
                }
                Err(why) => {
                    let _ = writeln!(text, "  SMTP    {why}   (virtual server {server})");
                }
            }
        }
    }
    let scheme = if options.api_tls_cert.is_some() { "https" } else { "http" };
    let base = api.first().map(|address| format!("{scheme}://{}", reachable(*address))).unwrap_or_default();
    let _ = writeln!(text, "  REST    {base}/api/v1");
    let _ = writeln!(text, "  Docs    {base}/docs/   (OpenAPI: {base}/openapi.json)");
    let _ = writeln!(text, "  Data    {}", options.data_dir.display());
    let key = match first_key {
        Some(key) => {
            let _ = writeln!(text, "\n  Owner key, shown only this once; keep it:\n\n    {key}");
            format!("{key}")
        }
        None => "$KEY".to_owned(),
    };
    let domain =
        snapshot.domains.default_domain().map_or_else(|| "localhost.localdomain".to_owned(), ToString::to_string);
    let (host, port) =
        smtp.map_or(("127.0.0.1".to_owned(), 2525), |address| (address.ip().to_string(), address.port()));
    let _ = write!(
        text,
        "\n  Send the first message to the local postmaster, and see what became of it:\n\n    \
         printf 'Subject: hello\\r\\n\\r\\nIt works.\\r\\n' | curl -s smtp://{host}:{port} --mail-from me@example.org --mail-rcpt postmaster@{domain} --upload-file -\n    \
         ls {data}/mail/default/postmaster/new\n    \
         curl -s -H 'Authorization: Bearer {key}' {base}/api/v1/queues\n\n  \
         Ctrl-C stops it; what is queued stays queued.\n\n",
        data = options.data_dir.display(),
    );
    text
}

/// A wildcard address is reached on the loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr =
            if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address
}

fn keep(options: &Serve, key: &ApiKey) -> anyhow::Result<()> {
    let path = options.data_dir.join("first-key");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| {
        writeln!(file, "{key}")?;
        file.sync_all()
    })
    .with_context(|| format!("the first key cannot be written to {}", path.display()))?;
    tracing::info!(file = %path.display(), "the first owner key was written to this file; it is shown nowhere else");
    Ok(())
}
