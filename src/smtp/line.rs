//! Framing of command lines (RFC 5321, 2.3.8 and 4.5.3.1.4).
//!
//! Only CRLF ends a command. A line that ends in a bare LF is taken out and reported, so that the session
//! can refuse it and live on. A line over the limit is discarded to its end in constant memory and reported
//! once, when its end is found. A CR inside a line stays in it: the parser refuses it as a control character.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

/// What was taken from the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A command without its CRLF.
    Command(Bytes),
    /// A line that ended in an LF without CR; it is gone.
    BareLf,
    /// A line longer than the limit; it is gone.
    TooLong,
    /// There is no complete line yet.
    NeedMore,
}

/// Takes lines from an input buffer.
#[derive(Debug, Clone)]
pub struct LineReader {
    limit: usize,
    discarding: bool,
}

impl LineReader {
    /// A reader of lines of at most `limit` octets, CRLF included.
    pub fn new(limit: usize) -> Self {
        LineReader { limit, discarding: false }
    }

    /// True in the middle of a line over the limit, whose beginning is gone.
    pub fn is_discarding(&self) -> bool {
        self.discarding
    }

    /// Takes the next line out of the input.
    pub fn next(&mut self, input: &mut BytesMut) -> Line {
        let Some(end) = memchr(b'\n', input) else {
            if self.discarding || input.len() > self.limit {
                self.discarding = true;
                input.clear();
            }
            return Line::NeedMore;
        };
        if std::mem::take(&mut self.discarding) || end >= self.limit {
            input.advance(end + 1);
            return Line::TooLong;
        }
        let mut line = input.split_to(end + 1).freeze();
        if end == 0 || line[end - 1] != b'\r' {
            return Line::BareLf;
        }
        line.truncate(end - 1);
        Line::Command(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(reader: &mut LineReader, chunks: &[&[u8]]) -> Vec<Line> {
        let mut input = BytesMut::new();
        let mut lines = Vec::new();
        for chunk in chunks {
            input.extend_from_slice(chunk);
            loop {
                match reader.next(&mut input) {
                    Line::NeedMore => break,
                    line => lines.push(line),
                }
            }
            assert!(input.len() <= reader.limit);
        }
        lines
    }

    fn command(text: &'static str) -> Line {
        Line::Command(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn only_crlf_ends_a_command() {
        let text = b"NOOP\r\nA\nB\rC\r\n\r\n\n";
        let expected = [command("NOOP"), Line::BareLf, command("B\rC"), command(""), Line::BareLf];
        for split in 0..text.len() {
            let lines = all(&mut LineReader::new(100), &[&text[..split], &text[split..]]);
            assert_eq!(lines, expected, "split at {split}");
        }
    }

    #[test]
    fn the_limit_counts_the_line_end() {
        let mut reader = LineReader::new(10);
        let lines = all(&mut reader, &[b"12345678\r\n123456789\r\n", b"1\r\n"]);
        assert_eq!(lines, [command("12345678"), Line::TooLong, command("1")]);
    }

    #[test]
    fn a_gigabyte_without_line_end_takes_no_memory() {
        let mut reader = LineReader::new(512);
        let mut input = BytesMut::new();
        let block = vec![b'x'; 1 << 20];
        for _ in 0..64 {
            input.extend_from_slice(&block);
            assert_eq!(reader.next(&mut input), Line::NeedMore);
            assert!(input.is_empty());
        }
        input.extend_from_slice(b"x\r\nNOOP\r\n");
        assert_eq!(reader.next(&mut input), Line::TooLong);
        assert_eq!(reader.next(&mut input), command("NOOP"));
    }
}
