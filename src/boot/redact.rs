//! Log lines without local parts of addresses (`BRIDGEHEAD_LOG_REDACT=addresses`): of what looks like an address only the domain
//! stays, wherever it stands in a line, also in what a next hop has said and in Message-IDs.
//!
//! It works on finished lines, so that no log statement can forget it. `message.id` and `session.id` stay, by which REST still
//! tells everything to those who may know.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// What stands for a local part.
const MASK: &[u8] = b"***";

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

/// A line without local parts. A local part is what stands in front of an `@` up to a space or a character that no unquoted local
/// part has; a quoted one up to its opening quote.
fn redacted(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = memchr::memchr(b'@', rest) {
        let begin = local_part(&rest[..at]);
        out.extend_from_slice(&rest[..begin]);
        if begin < at {
            out.extend_from_slice(MASK);
        }
        out.push(b'@');
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out
}

/// Where the local part that ends here begins.
fn local_part(text: &[u8]) -> usize {
    // in a line of JSON the quotes of a local part are \"
    if let Some(inside) = text.strip_suffix(b"\\\"") {
        return inside.windows(2).rposition(|two| two == b"\\\"").unwrap_or(0);
    }
    if let Some(inside) = text.strip_suffix(b"\"") {
        return inside.iter().rposition(|octet| *octet == b'"').unwrap_or(0);
    }
    let ends = |octet: &u8| octet.is_ascii_whitespace() || br#""<>()[],;:\@"#.contains(octet);
    text.iter().rposition(ends).map_or(0, |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_domain_of_an_address_stays_wherever_it_stands() {
        let redact = |text: &str| String::from_utf8(redacted(text.as_bytes())).unwrap();
        for (line, shown) in [
            (r#"{"sender":"ada@example.com","x":1}"#, r#"{"sender":"***@example.com","x":1}"#),
            (r#"{"sender":"<>","size":7}"#, r#"{"sender":"<>","size":7}"#),
            (
                r#"{"reply":"550 5.1.1 <bob.x+y=z@b.example>: unknown"}"#,
                r#"{"reply":"550 5.1.1 <***@b.example>: unknown"}"#,
            ),
            (r#"{"recipient":"\"two words\"@b.example"}"#, r#"{"recipient":"***@b.example"}"#),
            ("to a@b.example, c@d.example", "to ***@b.example, ***@d.example"),
            ("grüße@b.example", "***@b.example"),
            ("@b.example @", "@b.example @"),
        ] {
            assert_eq!(redact(line), shown);
        }
        let flood = "@".repeat(10_000);
        assert_eq!(redact(&flood), flood);
    }
}
