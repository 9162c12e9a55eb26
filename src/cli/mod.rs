//! The command line: `serve` (also without a word), what needs no running appliance, and the client of one that runs.
//!
//! A client is nothing but REST: what it can do, everybody can do with `curl`. [`client`] has which appliance is meant and what
//! its refusals say, [`output`] what is printed; [`objects`], [`document`], [`mail`], [`imports`], [`send`] and [`appliance`] have the
//! commands; [`backup`] and [`doctor`] look at a data directory themselves. Exit status: 0 done; 1 refused, or for `diff` that something is different; 2 a wrong command line, or a `diff`
//! that could not be made.
//!
//! The few process settings are flags, and environment variables of the same name (`resources.md`); a secret can also
//! come from a file (`…_FILE`). Everything else is configuration and comes by REST.

mod appliance;
mod backup;
mod check;
mod client;
mod contexts;
mod doctor;
mod document;
pub mod healthcheck;
mod imports;
mod kinds;
mod mail;
mod objects;
mod output;
mod send;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use futures_util::FutureExt;

use crate::model::pattern::Networks;

pub use check::{Check, check, print_schema};

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
#[allow(clippy::large_enum_variant, reason = "there is one, and it lives as long as the process")]
pub enum Command {
    /// Run the appliance (the default).
    Serve(Box<Serve>),
    /// Print the OpenAPI document of the REST API.
    Openapi,
    /// Ask a running appliance how it is; exit status 0 when it is well, else 1.
    Healthcheck(healthcheck::Healthcheck),
    /// Say what an appliance would say to a configuration, without one.
    Check(Check),
    /// Print the JSON schema of a configuration document.
    Schema,
    /// Make a data directory of a backup; offline.
    Restore(backup::Restore),
    /// Look at a data directory that no process has open, and repair it. Exit status 0 well, 1 not, 2 it could not be looked at.
    Doctor(doctor::Doctor),
    /// What is asked of a running appliance.
    #[command(flatten)]
    Client(ClientCommand),
}

/// What is asked of a running appliance.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Apply a document: files, or a directory of them.
    Apply(document::Apply),
    /// Show what applying a document would change; exit status 1 when something.
    Diff(document::Diff),
    /// Export the configuration, look at its revisions, go back to one.
    Config(document::Config),
    /// List things, or show some by name.
    Get(objects::Get),
    /// Show a thing with its conditions and what belongs to it.
    Describe(objects::Describe),
    /// Delete things.
    Delete(objects::Delete),
    /// Say what would become of a message, and why.
    Explain(send::Explain),
    /// Queues: list, freeze, thaw, retry, export, import.
    Queue(mail::Queue),
    /// Messages: list, content, freeze, thaw, retry, reroute, resubmit, delete; one, or all that fit.
    Message(mail::Message),
    /// Actions on many messages: list, wait, cancel.
    Operation(mail::Operation),
    /// Bring in what an old server left behind.
    Import(imports::Import),
    /// Hand a message in.
    Send(send::Send),
    /// Show what happens, as it happens.
    Tail(send::Tail),
    /// Tell where mail is.
    Where(appliance::Where),
    /// Make an API key and print it; on the appliance's own machine without having one.
    Token(appliance::Token),
    /// Show who the key is, and what it may.
    Whoami(appliance::Whoami),
    /// Take no new mail; what is queued goes on.
    Drain(appliance::Drain),
    /// Copy the running appliance into one file, verified.
    Backup(backup::Backup),
    /// The appliances that you work with.
    Context(contexts::ContextArgs),
    /// Print a script that completes these commands in a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl ClientCommand {
    /// Runs it. What goes wrong is printed.
    pub fn run(self) -> ExitCode {
        let diff = matches!(self, ClientCommand::Diff(_));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = match runtime {
            // boxed: the runtime has a copy of what it runs for each way to run it
            Ok(runtime) => runtime.block_on(self.done().boxed_local()),
            Err(error) => Err(error.into()),
        };
        result.unwrap_or_else(|error| {
            output::say(&format!("bridgehead: {error:#}"));
            ExitCode::from(if diff { 2 } else { 1 })
        })
    }

    async fn done(self) -> anyhow::Result<ExitCode> {
        match self {
            ClientCommand::Diff(diff) => return diff.run().await,
            ClientCommand::Apply(apply) => apply.run().await,
            ClientCommand::Config(config) => config.run().await,
            ClientCommand::Get(get) => get.run().await,
            ClientCommand::Describe(describe) => describe.run().await,
            ClientCommand::Delete(delete) => delete.run().await,
            ClientCommand::Explain(explain) => explain.run().await,
            ClientCommand::Queue(queue) => queue.run().await,
            ClientCommand::Message(message) => message.run().await,
            ClientCommand::Operation(operation) => operation.run().await,
            ClientCommand::Import(import) => import.run().await,
            ClientCommand::Send(send) => send.run().await,
            ClientCommand::Tail(tail) => tail.run().await,
            ClientCommand::Where(of) => of.run().await,
            ClientCommand::Token(token) => token.run().await,
            ClientCommand::Whoami(whoami) => whoami.run().await,
            ClientCommand::Drain(drain) => drain.run().await,
            ClientCommand::Backup(backup) => backup.run().await,
            ClientCommand::Context(context) => contexts::run(context),
            ClientCommand::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "bridgehead", &mut script);
                output::print_octets(&script)
            }
        }
        .map(|()| ExitCode::SUCCESS)
    }
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
    /// Networks of proxies in front of REST, with commas between them: what their X-Forwarded-For says is the client. Whoever is
    /// in them can claim to be anybody, so nobody else may be.
    #[arg(
        long,
        env = "BRIDGEHEAD_API_PROXIES",
        default_value = "",
        hide_default_value = true,
        value_name = "NETWORKS"
    )]
    pub api_proxies: Networks,
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
    /// A directory of *.yaml, *.yml and *.json files that is watched: what stands in it is the configuration.
    #[arg(long, env = "BRIDGEHEAD_CONFIG_DIR", value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    /// File of DNSKEY records, as zone files have them, by which DNSSEC is validated instead of by the keys of the root.
    #[arg(long, env = "BRIDGEHEAD_DNSSEC_TRUST_ANCHORS", value_name = "FILE")]
    pub dnssec_trust_anchors: Option<PathBuf>,
    /// Where old mailroots lie that can be imported [default: imports in the data directory].
    #[arg(long, env = "BRIDGEHEAD_IMPORT_DIR", value_name = "DIR")]
    pub import_dir: Option<PathBuf>,
    /// Space on the disk that new mail must leave free, in bytes.
    #[arg(long, env = "BRIDGEHEAD_RESERVE", default_value_t = 256 * 1024 * 1024, value_name = "BYTES")]
    pub reserve: u64,
    /// The copy that the store was restored from, by any name: what is queued in it is frozen before the first attempt, once.
    #[arg(long, env = "BRIDGEHEAD_RESTORED_FROM", value_name = "NAME")]
    pub restored_from: Option<String>,
    /// The storage engine.
    #[arg(long, env = "BRIDGEHEAD_STORE", default_value = "embedded")]
    pub store: Engine,
    /// What is logged: error, warn, info, debug, trace, or directives (`info,bridgehead::inbound=debug`).
    #[arg(long, env = "BRIDGEHEAD_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How it is logged; json, but text on a terminal.
    #[arg(long, env = "BRIDGEHEAD_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is left out of log lines: with `addresses` the local part of every address.
    #[arg(long, env = "BRIDGEHEAD_LOG_REDACT", default_value = "none", value_name = "WHAT")]
    pub log_redact: LogRedact,
}

/// Storage engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Journal and sled, in the data directory.
    Embedded,
}

/// What is left out of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogRedact {
    /// Nothing.
    None,
    /// Local parts of addresses.
    Addresses,
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

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
