//! The two encodings of MIME that are 7-bit (RFC 2045, 6.7 and 6.8), piece by piece.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Encodes one body.
#[derive(Debug)]
pub(super) enum Encoder {
    QuotedPrintable(QuotedPrintable),
    Base64(Base64),
}

impl Encoder {
    /// The next piece of the body; a CRLF is never split.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        match self {
            Encoder::QuotedPrintable(encoder) => encoder.push(piece, out),
            Encoder::Base64(encoder) => encoder.push(piece, out),
        }
    }

    /// The body is over; with `delimiter`, its last CRLF belongs to the delimiter line that follows (RFC 2046, 5.1.1).
    pub fn finish(self, delimiter: bool, out: &mut Vec<u8>) {
        match self {
            Encoder::QuotedPrintable(encoder) => encoder.finish(out),
            Encoder::Base64(encoder) => encoder.finish(delimiter, out),
        }
    }
}

/// Longest line, the `=` of a soft line break left out.
const LINE: usize = 75;

#[derive(Debug, Default)]
pub(super) struct QuotedPrintable {
    column: usize,
    /// The line began behind a soft line break.
    soft: bool,
    /// White space that must be encoded if the line ends here.
    space: Option<u8>,
}

impl QuotedPrintable {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let text = piece.strip_suffix(b"\r\n");
        for octet in text.unwrap_or(piece) {
            self.plain_space(out);
            match octet {
                b' ' | b'\t' => self.space = Some(*octet),
                // the continuation of a line must not become a delimiter line
                b'-' if self.starts_softly() => self.encoded(*octet, out),
                b'!'..=b'~' if *octet != b'=' => self.unit(&[*octet], out),
                _ => self.encoded(*octet, out),
            }
        }
        if text.is_some() {
            self.encoded_space(out);
            out.extend_from_slice(b"\r\n");
            (self.column, self.soft) = (0, false);
        }
    }

    fn finish(mut self, out: &mut Vec<u8>) {
        self.encoded_space(out);
    }

    /// Whether the next octet is the first behind a soft line break.
    fn starts_softly(&self) -> bool {
        (self.column == 0 && self.soft) || self.column == LINE
    }

    fn plain_space(&mut self, out: &mut Vec<u8>) {
        if let Some(space) = self.space.take() {
            self.unit(&[space], out);
        }
    }

    fn encoded_space(&mut self, out: &mut Vec<u8>) {
        if let Some(space) = self.space.take() {
            self.encoded(space, out);
        }
    }

    fn encoded(&mut self, octet: u8, out: &mut Vec<u8>) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        self.unit(&[b'=', HEX[usize::from(octet >> 4)], HEX[usize::from(octet & 15)]], out);
    }

    fn unit(&mut self, unit: &[u8], out: &mut Vec<u8>) {
        if self.column + unit.len() > LINE {
            out.extend_from_slice(b"=\r\n");
            (self.column, self.soft) = (0, true);
        }
        out.extend_from_slice(unit);
        self.column += unit.len();
    }
}

/// Octets of a line of 76 characters.
const GROUP: usize = 57;

#[derive(Debug, Default)]
pub(super) struct Base64 {
    group: Vec<u8>,
    /// A CRLF that may belong to a delimiter line.
    line_end: bool,
}

impl Base64 {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        if std::mem::take(&mut self.line_end) {
            self.put(b"\r\n", out);
        }
        let text = piece.strip_suffix(b"\r\n");
        self.line_end = text.is_some();
        self.put(text.unwrap_or(piece), out);
    }

    fn finish(mut self, delimiter: bool, out: &mut Vec<u8>) {
        if self.line_end && !delimiter {
            self.put(b"\r\n", out);
        }
        if !self.group.is_empty() {
            write_line(&self.group, out);
        }
    }

    fn put(&mut self, mut octets: &[u8], out: &mut Vec<u8>) {
        while !octets.is_empty() {
            let (now, rest) = octets.split_at(octets.len().min(GROUP - self.group.len()));
            self.group.extend_from_slice(now);
            octets = rest;
            if self.group.len() == GROUP {
                write_line(&self.group, out);
                self.group.clear();
            }
        }
    }
}

fn write_line(octets: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(STANDARD.encode(octets).as_bytes());
    out.extend_from_slice(b"\r\n");
}
