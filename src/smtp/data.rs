//! The content between DATA and its end (RFC 5321, 4.5.2): decoding for the server, encoding for the client.
//!
//! **Decoding.** Only `CRLF . CRLF` ends the content; `. CRLF` as the very first line is an end too. A CR or an LF that
//! stands alone never takes part in an end and never begins a line whose dot counts; this is what keeps
//! messages from being smuggled. The decoder tells that there was one, and its user refuses the message after the
//! true end; or it is told to make CRLF of each ([`BareLineEnds::Normalise`]). NUL passes as text. What comes out are slices
//! of the input, not copies; at most two octets stay behind in the input while their meaning is open.
//!
//! **Encoding.** What goes out has no CR or LF that stands alone, whatever came in, and no line that begins with
//! an unstuffed dot. A chunk in which nothing is to be changed is passed on as it is.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr2;

/// What to do with a CR without LF, or an LF without CR, in the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BareLineEnds {
    /// Read to the true end, then one 550 5.6.11.
    #[default]
    Refuse,
    /// Make each a CRLF. Even so only `CRLF . CRLF` ends the content. For trusted clients.
    Normalise,
}

/// What the decoder found next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A slice of the content.
    Text(Bytes),
    /// Nothing more can be said without more input.
    NeedMore,
    /// The end of the content. What is left in the input are commands.
    End,
}

/// Decodes the content of one message.
#[derive(Debug, Clone)]
pub struct Decoder {
    bare_line_ends: BareLineEnds,
    max_line: usize,
    /// Dots at the beginning of a line are stuffed, and one alone ends the content: DATA. Not so in chunks (BDAT).
    dots: bool,
    /// The next octet is the first behind a CRLF, or of the content.
    line_start: bool,
    /// Octets of the open line that were taken out.
    line_length: usize,
    /// A repaired CRLF has to come out next.
    owes_crlf: bool,
    bare: bool,
    long: bool,
}

impl Decoder {
    /// A decoder for one message. `max_line` is in octets with the CRLF; 0 means no limit.
    pub fn new(bare_line_ends: BareLineEnds, max_line: usize) -> Self {
        Decoder {
            bare_line_ends,
            max_line: if max_line == 0 { usize::MAX } else { max_line },
            dots: true,
            line_start: true,
            line_length: 0,
            owes_crlf: false,
            bare: false,
            long: false,
        }
    }

    /// A decoder for content that comes in chunks (RFC 3030): no dot means anything, and its end is known from elsewhere.
    pub fn of_chunks(bare_line_ends: BareLineEnds, max_line: usize) -> Self {
        Decoder { dots: false, ..Decoder::new(bare_line_ends, max_line) }
    }

    /// The content ends with what is in the input: at most a CR whose LF did not come. Gives what is to be passed on.
    pub fn finish(&mut self, input: &mut BytesMut) -> Option<Bytes> {
        let rest = input.split().freeze();
        if rest.is_empty() {
            return std::mem::take(&mut self.owes_crlf).then(|| Bytes::from_static(b"\r\n"));
        }
        self.bare = true;
        Some(if self.bare_line_ends == BareLineEnds::Normalise { Bytes::from_static(b"\r\n") } else { rest })
    }

    /// True when a CR or LF stood alone so far.
    pub fn has_bare_line_ends(&self) -> bool {
        self.bare
    }

    /// True when a line was longer than the limit so far. A stuffed dot does not count.
    pub fn has_long_lines(&self) -> bool {
        self.long
    }

    /// Takes the next piece out of the input.
    pub fn next(&mut self, input: &mut BytesMut) -> Piece {
        if std::mem::take(&mut self.owes_crlf) {
            return Piece::Text(Bytes::from_static(b"\r\n"));
        }
        if self.line_start && self.dots {
            match input[..] {
                [] | [b'.'] | [b'.', b'\r'] => return Piece::NeedMore,
                [b'.', b'\r', b'\n', ..] => {
                    input.advance(3);
                    return Piece::End;
                }
                [b'.', ..] => input.advance(1),
                _ => {}
            }
            self.line_start = false;
        }
        let (text, skip) = self.scan(input);
        if text == 0 && skip == 0 {
            return Piece::NeedMore;
        }
        let piece = input.split_to(text).freeze();
        input.advance(skip);
        if piece.is_empty() { self.next(input) } else { Piece::Text(piece) }
    }

    /// How many octets are text up to the next decision, and how many to drop behind them.
    fn scan(&mut self, input: &[u8]) -> (usize, usize) {
        let mut at = 0;
        while let Some(found) = memchr2(b'\r', b'\n', &input[at..]) {
            let end = at + found;
            self.grow(found);
            match (input[end], input.get(end + 1)) {
                (b'\r', None) => return (end, 0),
                (b'\r', Some(b'\n')) => {
                    self.grow(2);
                    self.line_length = 0;
                    at = end + 2;
                    if self.dots && input.get(at).is_none_or(|next| *next == b'.') {
                        self.line_start = true;
                        return (at, 0);
                    }
                }
                _ => {
                    self.bare = true;
                    if self.bare_line_ends == BareLineEnds::Normalise {
                        self.owes_crlf = true;
                        self.line_length = 0;
                        return (end, 1);
                    }
                    self.grow(1);
                    at = end + 1;
                }
            }
        }
        self.grow(input.len() - at);
        (input.len(), 0)
    }

    fn grow(&mut self, octets: usize) {
        self.line_length += octets;
        self.long |= self.line_length > self.max_line;
    }
}

/// Encodes the content of one message, from the 354 to the dot.
#[derive(Debug, Clone)]
pub struct Encoder {
    last: Last,
}

/// How the content that was encoded so far ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    LineEnd,
    Cr,
    Text,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder { last: Last::LineEnd }
    }
}

impl Encoder {
    /// Encodes the next chunk. The very chunk comes back when nothing is to be changed in it.
    pub fn encode(&mut self, chunk: Bytes) -> Bytes {
        let mut out = Patched { chunk: &chunk, done: 0, out: None };
        let mut at = 0;
        if self.last == Last::Cr && !chunk.is_empty() {
            if chunk[0] == b'\n' {
                at = 1;
            } else {
                out.insert(0, b"\n");
            }
            self.last = Last::LineEnd;
        }
        while at < chunk.len() {
            if self.last == Last::LineEnd && chunk[at] == b'.' {
                out.insert(at, b".");
            }
            self.last = Last::Text;
            let Some(found) = memchr2(b'\r', b'\n', &chunk[at..]) else { break };
            let end = at + found;
            self.last = Last::LineEnd;
            at = end + 1;
            if chunk[end] == b'\n' {
                out.insert(end, b"\r");
                continue;
            }
            match chunk.get(at) {
                None => self.last = Last::Cr,
                Some(b'\n') => at += 1,
                Some(_) => out.insert(at, b"\n"),
            }
        }
        match out.finish() {
            Some(changed) => changed,
            None => chunk,
        }
    }

    /// What has to follow the last chunk: the end of an open line, and the dot. The encoder then begins anew.
    pub fn finish(&mut self) -> &'static [u8] {
        match std::mem::replace(&mut self.last, Last::LineEnd) {
            Last::LineEnd => b".\r\n",
            Last::Cr => b"\n.\r\n",
            Last::Text => b"\r\n.\r\n",
        }
    }
}

/// A chunk with insertions; copied only when there is one.
struct Patched<'a> {
    chunk: &'a [u8],
    done: usize,
    out: Option<BytesMut>,
}

impl Patched<'_> {
    fn insert(&mut self, at: usize, octets: &[u8]) {
        let out = self.out.get_or_insert_with(|| BytesMut::with_capacity(self.chunk.len() + 64));
        out.extend_from_slice(&self.chunk[self.done..at]);
        out.extend_from_slice(octets);
        self.done = at;
    }

    fn finish(self) -> Option<Bytes> {
        let mut out = self.out?;
        out.extend_from_slice(&self.chunk[self.done..]);
        Some(out.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes chunk by chunk: the text, whether the end was found, what was left.
    fn decode(mode: BareLineEnds, chunks: &[&[u8]]) -> (Vec<u8>, bool, Vec<u8>, Decoder) {
        let mut decoder = Decoder::new(mode, 1000);
        let (mut input, mut text, mut ended) = (BytesMut::new(), Vec::new(), false);
        for chunk in chunks {
            input.extend_from_slice(chunk);
            while !ended {
                match decoder.next(&mut input) {
                    Piece::Text(piece) => {
                        assert!(!piece.is_empty());
                        text.extend_from_slice(&piece);
                    }
                    Piece::NeedMore => {
                        assert!(input.len() <= 2, "held back {input:?}");
                        break;
                    }
                    Piece::End => ended = true,
                }
            }
        }
        (text, ended, input.to_vec(), decoder)
    }

    fn split_everywhere(wire: &[u8], check: impl Fn(&[&[u8]])) {
        for at in 0..=wire.len() {
            check(&[&wire[..at], &wire[at..]]);
        }
        check(&wire.iter().map(std::slice::from_ref).collect::<Vec<_>>());
    }

    /// The rows of hostile.md: behind a text line, none of these is an end.
    const NOT_THE_END: [&[u8]; 15] = [
        b"\n.\n",
        b"\n.\r",
        b"\n.\r\n",
        b"\r.\r",
        b"\r.\n",
        b"\r.\r\n",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\r\n.\r\r\n",
        b"\r\r\n.\r\r\n",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n. \r\n",
        b"\r\n..\r\n",
        b"\n.\r\n.\n",
    ];

    #[test]
    fn nothing_else_ends_the_content() {
        for row in NOT_THE_END {
            for mode in [BareLineEnds::Refuse, BareLineEnds::Normalise] {
                let smuggled = [b"text", row, b"MAIL FROM:<>\r\n"].concat();
                split_everywhere(&smuggled, |chunks| {
                    let (_, ended, _, _) = decode(mode, chunks);
                    assert!(!ended, "{:?} is no end", String::from_utf8_lossy(row));
                });
                let whole = [&smuggled[..], b"\r\n.\r\nQUIT\r\n"].concat();
                split_everywhere(&whole, |chunks| {
                    let (text, ended, left, decoder) = decode(mode, chunks);
                    assert!(ended);
                    assert_eq!(left, b"QUIT\r\n");
                    assert!(text.windows(4).any(|w| w == b"MAIL"));
                    assert_eq!(decoder.has_bare_line_ends(), has_bare(&smuggled), "{row:?}");
                    assert!(mode == BareLineEnds::Refuse || !has_bare(&text), "{text:?}");
                });
            }
        }
    }

    fn has_bare(text: &[u8]) -> bool {
        (0..text.len()).any(|i| match text[i] {
            b'\n' => i == 0 || text[i - 1] != b'\r',
            b'\r' => text.get(i + 1) != Some(&b'\n'),
            _ => false,
        })
    }

    #[test]
    fn a_dot_as_the_first_line_is_an_end() {
        split_everywhere(b".\r\nNOOP\r\n", |chunks| {
            let (text, ended, left, _) = decode(BareLineEnds::Refuse, chunks);
            assert_eq!((text.as_slice(), ended, left.as_slice()), (&b""[..], true, &b"NOOP\r\n"[..]));
        });
    }

    #[test]
    fn stuffed_dots_go() {
        split_everywhere(b"..a\r\n..\r\n.b\r\n\r\n.\r\n", |chunks| {
            let (text, ended, _, decoder) = decode(BareLineEnds::Refuse, chunks);
            assert_eq!((text.as_slice(), ended), (&b".a\r\n.\r\nb\r\n\r\n"[..], true));
            assert!(!decoder.has_bare_line_ends());
        });
    }

    #[test]
    fn long_lines_are_seen_at_the_limit() {
        for (length, long) in [(997, false), (998, false), (999, true), (65_536, true)] {
            let wire = [b".", vec![b'.'; length].as_slice(), b"\r\n.\r\n"].concat();
            for chunks in [vec![&wire[..]], wire.chunks(7).collect()] {
                let (text, ended, _, decoder) = decode(BareLineEnds::Refuse, &chunks);
                assert!(ended && text.len() == length + 2);
                assert_eq!(decoder.has_long_lines(), long, "{length}");
            }
        }
    }

    #[test]
    fn untouched_chunks_are_passed_on() {
        let chunk = Bytes::from_static(b"Subject: x\r\n\r\na.b\r\n");
        let mut encoder = Encoder::default();
        let out = encoder.encode(chunk.clone());
        assert_eq!(out.as_ptr(), chunk.as_ptr());
        assert_eq!(encoder.finish(), b".\r\n");
    }

    fn encode(chunks: &[&[u8]]) -> Vec<u8> {
        let mut encoder = Encoder::default();
        let mut wire = Vec::new();
        for chunk in chunks {
            wire.extend_from_slice(&encoder.encode(Bytes::copy_from_slice(chunk)));
        }
        wire.extend_from_slice(encoder.finish());
        wire
    }

    #[test]
    fn line_ends_are_repaired_and_dots_stuffed() {
        for (text, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a", b"a\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b"a\n.b\r.c\r\n", b"a\r\n..b\r\n..c\r\n.\r\n"),
            (b"a\r", b"a\r\n.\r\n"),
            (b"\r\r\n\n", b"\r\n\r\n\r\n.\r\n"),
            (b"\n.\nMAIL", b"\r\n..\r\nMAIL\r\n.\r\n"),
        ] {
            split_everywhere(text, |chunks| assert_eq!(encode(chunks), wire, "{text:?}"));
        }
    }

    /// Line by line, as one would write it without regard to speed.
    fn naive(wire: &[u8]) -> Option<(Vec<u8>, usize)> {
        let mut text = Vec::new();
        let mut at = 0;
        loop {
            let end = (at..wire.len().checked_sub(1)?).find(|i| &wire[*i..*i + 2] == b"\r\n")? + 2;
            let line = &wire[at..end];
            if line == b".\r\n" {
                return Some((text, end));
            }
            text.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            at = end;
        }
    }

    fn wire() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            4 => Just(&b"\r\n"[..]), 3 => Just(&b"."[..]), 1 => Just(&b"\r"[..]), 1 => Just(&b"\n"[..]),
            2 => Just(&b"text"[..]), 1 => Just(&b"\0"[..]), 1 => Just(&b"\r\n.\r\n"[..]),
        ];
        proptest::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_decoder_agrees_with_a_naive_one(wire in wire(), size in 1usize..9) {
            let chunks: Vec<&[u8]> = wire.chunks(size).collect();
            let (text, ended, left, decoder) = decode(BareLineEnds::Refuse, &chunks);
            match naive(&wire) {
                None => prop_assert!(!ended),
                Some((expected, end)) => {
                    prop_assert!(ended);
                    prop_assert_eq!(&left, &wire[end..]);
                    prop_assert_eq!(text, expected);
                    prop_assert_eq!(decoder.has_bare_line_ends(), has_bare(&wire[..end]));
                }
            }
        }

        #[test]
        fn what_is_encoded_is_decoded(text in wire(), size in 1usize..9, other in 1usize..9) {
            let sent = encode(&text.chunks(size).collect::<Vec<_>>());
            let chunks: Vec<&[u8]> = sent.chunks(other).collect();
            let (received, ended, left, decoder) = decode(BareLineEnds::Refuse, &chunks);
            prop_assert!(ended && left.is_empty() && !decoder.has_bare_line_ends());
            prop_assert!(!has_bare(&received));
            if !has_bare(&text) {
                let mut expected = text.clone();
                if !expected.is_empty() && !expected.ends_with(b"\r\n") {
                    expected.extend_from_slice(b"\r\n");
                }
                prop_assert_eq!(received, expected);
            }
        }
    }
}
