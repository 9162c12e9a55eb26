//! Where log lines go: stdout, by a writer of its own thread, so that a slow terminal holds up nobody.
//!
//! JSON, one object a line with its fields flat; text on a terminal. When the writer cannot follow, lines are dropped
//! rather than mail held up.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use super::redact::Redacting;
use crate::cli::{LogFormat, LogRedact};

/// Lines that may wait for the writer.
const WAITING_LINES: usize = 32_768;

/// Starts logging. The guard writes what is left when it is dropped.
///
/// # Errors
/// When the filter makes no sense.
pub fn start(filter: &str, format: Option<LogFormat>, redact: LogRedact) -> anyhow::Result<WorkerGuard> {
    // what actix says of its workers is nothing an operator acts on; a filter that names it wins
    let filter = EnvFilter::try_new(format!("actix_server=warn,{filter}"))
        .map_err(|error| anyhow::anyhow!("BRIDGEHEAD_LOG (--log) is no filter: {error}; try info or debug"))?;
    let terminal = std::io::stdout().is_terminal();
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).finish(std::io::stdout());
    let writer = Redacting { inner: writer, on: redact == LogRedact::Addresses };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    // a second start in one process (tests) keeps the first
    let _ = match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Text => builder.with_ansi(terminal).try_init(),
    };
    Ok(guard)
}
