//! The command line: `serve` (also without a word), and what needs no running appliance.
//!
//! The few process settings are flags, and environment variables of the same name (`resources.md`); a secret can also
//! come from a file (`…_FILE`). Everything else is configuration and comes by REST.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// The SMTP relay that you configure by API, that tells you where your mail is, and that never loses it after 250.
#[derive(Debug, Parser)]
#[command(name = "bridgehead", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do; without it: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of `serve`.
    #[command(flatten)]
    pub serve: Serve,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the appliance (the default).
    Serve(Box<Serve>),
    /// Print the OpenAPI document of the REST API.
    Openapi,
}

/// How the process runs.
#[derive(Debug, Clone, clap::Args)]
pub struct Serve {
    /// The store: journal, queue, configuration.
    #[arg(long, env = "BRIDGEHEAD_DATA_DIR", default_value = "./data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where REST and its documentation listen.
    #[arg(long, env = "BRIDGEHEAD_API_LISTEN", default_value = "127.0.0.1:8025", value_name = "ADDRESS")]
    pub api_listen: SocketAddr,
    /// The certificate chain (PEM) that REST is served with over TLS; the file is watched.
    #[arg(long, env = "BRIDGEHEAD_API_TLS_CERT", requires = "api_tls_key", value_name = "FILE")]
    pub api_tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "BRIDGEHEAD_API_TLS_KEY", requires = "api_tls_cert", value_name = "FILE")]
    pub api_tls_key: Option<PathBuf>,
    /// Where plain /livez, /readyz, /startupz and /metrics listen, without keys.
    #[arg(long, env = "BRIDGEHEAD_HEALTH_LISTEN", value_name = "ADDRESS")]
    pub health_listen: Option<SocketAddr>,
    /// Binding of the default virtual server when an empty store is first started.
    #[arg(long, env = "BRIDGEHEAD_SMTP_LISTEN", default_value = "0.0.0.0:2525", value_name = "ADDRESS")]
    pub smtp_listen: SocketAddr,
    /// An owner key that is valid as long as it is given; never stored.
    #[arg(long, env = "BRIDGEHEAD_ADMIN_KEY", hide_env_values = true, value_name = "KEY")]
    pub admin_key: Option<String>,
    /// A file that holds the owner key.
    #[arg(long, env = "BRIDGEHEAD_ADMIN_KEY_FILE", conflicts_with = "admin_key", value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,
    /// Where `{"file": …}` in the configuration may point.
    #[arg(long, env = "BRIDGEHEAD_SECRETS_DIR", default_value = "/etc/bridgehead/secrets", value_name = "DIR")]
    pub secrets_dir: PathBuf,
    /// File of DNSKEY records, as zone files have them, by which DNSSEC is validated instead of by the keys of the root.
    #[arg(long, env = "BRIDGEHEAD_DNSSEC_TRUST_ANCHORS", value_name = "FILE")]
    pub dnssec_trust_anchors: Option<PathBuf>,
    /// Space on the disk that new mail must leave free, in bytes.
    #[arg(long, env = "BRIDGEHEAD_RESERVE", default_value_t = 256 * 1024 * 1024, value_name = "BYTES")]
    pub reserve: u64,
    /// The storage engine.
    #[arg(long, env = "BRIDGEHEAD_STORE", default_value = "embedded")]
    pub store: Engine,
    /// What is logged: error, warn, info, debug, trace, or directives (`info,bridgehead::inbound=debug`).
    #[arg(long, env = "BRIDGEHEAD_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How it is logged; json, but text on a terminal.
    #[arg(long, env = "BRIDGEHEAD_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// Storage engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Journal and sled, in the data directory.
    Embedded,
}

/// Forms of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
