//! Log lines without local parts of addresses (`BRIDGEHEAD_LOG_REDACT=addresses`), as [`crate::observe::redact`] has it.
//! `message.id` and `session.id` stay, by which REST still tells everything to those who may know.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use crate::observe::redact::redacted;

/// A maker of writers that redact, when it is on.
#[derive(Debug, Clone)]
pub(super) struct Redacting<M> {
    pub(super) inner: M,
    pub(super) on: bool,
}

/// A writer of one line.
pub(super) struct Writer<W> {
    inner: W,
    on: bool,
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Redacting<M> {
    type Writer = Writer<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Writer { inner: self.inner.make_writer(), on: self.on }
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.on && memchr::memchr(b'@', line).is_some() {
            true => self.inner.write_all(&redacted(line))?,
            false => self.inner.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
