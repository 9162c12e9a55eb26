//! Reading the replies of a next hop (RFC 5321, 4.2), which may be hostile.
//!
//! A reply is complete or it is garbage: a code that is no code, lines whose codes differ, a line that ends in a bare LF,
//! a NUL, over 100 lines, over 64 KiB. Texts come out as UTF-8 without control characters.

use bytes::{Buf, BytesMut};
use memchr::memchr;

use super::result::RemoteReply;
use crate::smtp::reply::EnhancedStatus;

const MAX_OCTETS: usize = 64 << 10;
const MAX_LINES: usize = 100;
/// Longest text that is kept of a reply, in octets.
const MAX_TEXT: usize = 2048;

/// What was read is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbage;

/// A complete reply, line by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) code: u16,
    pub(super) lines: Vec<String>,
}

/// Collects lines until a reply is complete.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    code: Option<u16>,
    lines: Vec<String>,
    octets: usize,
}

impl ReplyReader {
    /// Takes the next complete reply out of the input.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Lines>, Garbage> {
        loop {
            let Some(end) = memchr(b'\n', input) else {
                return if self.octets + input.len() > MAX_OCTETS { Err(Garbage) } else { Ok(None) };
            };
            self.octets += end + 1;
            if self.octets > MAX_OCTETS || self.lines.len() >= MAX_LINES {
                return Err(Garbage);
            }
            let line = input[..end].strip_suffix(b"\r").ok_or(Garbage)?;
            let (code, last, text) = read_line(line)?;
            input.advance(end + 1);
            if *self.code.get_or_insert(code) != code {
                return Err(Garbage);
            }
            self.lines.push(text);
            if last {
                let whole = std::mem::take(self);
                return Ok(Some(Lines { code, lines: whole.lines }));
            }
        }
    }
}

/// Code, whether it is the last line, cleaned text.
fn read_line(line: &[u8]) -> Result<(u16, bool, String), Garbage> {
    let (digits, rest) = line.split_at_checked(3).ok_or(Garbage)?;
    if !(b'2'..=b'5').contains(&digits[0]) || !digits.iter().all(u8::is_ascii_digit) || line.contains(&0) {
        return Err(Garbage);
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    let (last, text) = match rest {
        [] => (true, rest),
        [b' ', text @ ..] => (true, text),
        [b'-', text @ ..] => (false, text),
        _ => return Err(Garbage),
    };
    let clean = String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Ok((code, last, clean))
}

impl Lines {
    /// As it is told to others: with the status apart, on one line, bounded.
    pub(super) fn into_reply(self) -> RemoteReply {
        let status = self.lines.first().and_then(|line| self.status(line));
        let mut text = String::new();
        for line in &self.lines {
            let line = match line.split_once(' ') {
                Some((word, rest)) if status.is_some() && self.status(word) == status => rest,
                _ if status.is_some() && self.status(line) == status && !line.contains(' ') => "",
                _ => line,
            };
            let line = line.trim();
            if !text.is_empty() && !line.is_empty() {
                text.push(' ');
            }
            text.push_str(line);
            if text.len() > MAX_TEXT {
                text.truncate(text.floor_char_boundary(MAX_TEXT));
                break;
            }
        }
        RemoteReply { code: self.code, status, text }
    }

    /// The status at the start of a line, if its class is that of the code.
    fn status(&self, line: &str) -> Option<EnhancedStatus> {
        let status: EnhancedStatus = line.split(' ').next()?.parse().ok()?;
        (u16::from(status.class.digit()) == self.code / 100).then_some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Option<RemoteReply>, Garbage> {
        let mut input = BytesMut::from(text);
        ReplyReader::default().next(&mut input).map(|lines| lines.map(Lines::into_reply))
    }

    fn reply(code: u16, status: &str, text: &str) -> Result<Option<RemoteReply>, Garbage> {
        Ok(Some(RemoteReply { code, status: status.parse().ok(), text: text.to_owned() }))
    }

    #[test]
    fn replies_are_read() {
        assert_eq!(read(b"250 2.1.0 OK\r\n"), reply(250, "2.1.0", "OK"));
        assert_eq!(read(b"250\r\n"), reply(250, "", ""));
        assert_eq!(read(b"550-5.7.1 no\r\n550-5.7.1\r\n550 5.7.1 never\r\n"), reply(550, "5.7.1", "no never"));
        assert_eq!(read(b"550 4.7.1 a wrong class\r\n"), reply(550, "", "4.7.1 a wrong class"));
        assert_eq!(read(b"250 a\x07\x1b[31m \xff\r\n"), reply(250, "", "a  [31m \u{fffd}"));
        assert_eq!(read(b"250-a\r\n250"), Ok(None));
    }

    #[test]
    fn what_is_no_reply_is_garbage() {
        for text in [
            &b"25\r\n"[..],
            b"2500\r\n",
            b"250 a\n",
            b"250-a\r\n251 b\r\n",
            b"250 \0\r\n",
            b"100 a\r\n",
            b"600 a\r\n",
            b"\r\n",
            b"250_a\r\n",
            b"HTTP/1.1 400\r\n",
            b"250\ta\r\n",
            b" 250 a\r\n",
        ] {
            assert_eq!(read(text), Err(Garbage), "{text:?}");
        }
    }

    #[test]
    fn an_endless_reply_is_garbage_soon() {
        assert_eq!(read(&b"250-a\r\n".repeat(101)), Err(Garbage));
        let mut reader = ReplyReader::default();
        let mut input = BytesMut::new();
        let mut read = 0;
        loop {
            input.extend_from_slice(&[b'2'; 1000]);
            read += 1000;
            match reader.next(&mut input) {
                Ok(None) => assert!(read <= MAX_OCTETS),
                other => break assert_eq!(other, Err(Garbage)),
            }
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        let line = format!("250 {}\r\n", "ü".repeat(5000));
        let text = read(line.as_bytes()).unwrap().unwrap().text;
        assert!(text.len() <= MAX_TEXT && text.len() > MAX_TEXT - 4);
    }
}
