//! Replies (RFC 5321, 4.2) and enhanced status codes (RFC 3463), as values with a valid first digit.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The first digit of an enhanced status code (RFC 3463, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StatusClass {
    /// 2: it worked.
    Success,
    /// 4: it may work later.
    PersistentTransient,
    /// 5: it will not work.
    Permanent,
}

impl StatusClass {
    /// The digit.
    pub fn digit(self) -> u8 {
        match self {
            StatusClass::Success => 2,
            StatusClass::PersistentTransient => 4,
            StatusClass::Permanent => 5,
        }
    }
}

/// An enhanced status code: `class.subject.detail` (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnhancedStatus {
    /// The class, which is the first digit.
    pub class: StatusClass,
    /// The subject: 1 address, 2 mailbox, 3 system, 4 network, 5 protocol, 6 content, 7 policy.
    pub subject: u16,
    /// The detail.
    pub detail: u16,
}

impl EnhancedStatus {
    /// `2.subject.detail`.
    pub const fn success(subject: u16, detail: u16) -> Self {
        EnhancedStatus { class: StatusClass::Success, subject, detail }
    }
    /// `4.subject.detail`.
    pub const fn transient(subject: u16, detail: u16) -> Self {
        EnhancedStatus { class: StatusClass::PersistentTransient, subject, detail }
    }
    /// `5.subject.detail`.
    pub const fn permanent(subject: u16, detail: u16) -> Self {
        EnhancedStatus { class: StatusClass::Permanent, subject, detail }
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class.digit(), self.subject, self.detail)
    }
}

/// The text is no enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enhanced status code (RFC 3463): class.subject.detail")]
pub struct NotAStatus;

impl FromStr for EnhancedStatus {
    type Err = NotAStatus;

    fn from_str(text: &str) -> Result<Self, NotAStatus> {
        let number = |part: &str| -> Option<u16> {
            let short = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            short.then(|| part.parse().ok()).flatten()
        };
        let mut parts = text.split('.');
        let class = match parts.next() {
            Some("2") => StatusClass::Success,
            Some("4") => StatusClass::PersistentTransient,
            Some("5") => StatusClass::Permanent,
            _ => return Err(NotAStatus),
        };
        let subject = parts.next().and_then(number).ok_or(NotAStatus)?;
        let detail = parts.next().and_then(number).ok_or(NotAStatus)?;
        if parts.next().is_some() {
            return Err(NotAStatus);
        }
        Ok(EnhancedStatus { class, subject, detail })
    }
}

impl Serialize for EnhancedStatus {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EnhancedStatus {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A reply that we give: code, enhanced status code where the command has one, text.
///
/// The text is ours and generic; it never carries what an operator alone may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three-digit code, 200 to 599.
    pub code: u16,
    /// The enhanced status code; `None` for the greeting, EHLO, and 354 (RFC 2034, section 4).
    pub status: Option<EnhancedStatus>,
    /// The text without line ends; for several lines, separated by `\n`.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// A reply with an enhanced status code.
    pub fn new(code: u16, status: EnhancedStatus, text: impl Into<Cow<'static, str>>) -> Self {
        Reply { code, status: Some(status), text: text.into() }
    }

    /// A reply without one (greeting, EHLO, 354).
    pub fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Reply { code, status: None, text: text.into() }
    }

    /// True for 2xx and 3xx.
    pub fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// Octets of the wire form.
    pub fn wire_len(&self, enhanced: bool) -> usize {
        let status = self.status.filter(|_| enhanced).map_or(0, |status| status.to_string().len() + 1);
        self.text.split('\n').map(|line| 4 + status + line.chars().count() + 2).sum()
    }

    /// Appends the wire form, one line per line of text, each with CRLF (RFC 5321, 4.2; RFC 2034, section 4).
    ///
    /// With `enhanced` the status, if there is one, stands on each line. Whatever the text holds, a reply stays a
    /// reply: other control characters become spaces, characters beyond ASCII question marks.
    pub fn write(&self, enhanced: bool, out: &mut BytesMut) {
        let status = self.status.filter(|_| enhanced).map(|status| status.to_string());
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            for digit in [self.code / 100 % 10, self.code / 10 % 10, self.code % 10] {
                out.put_u8(b'0' + u8::try_from(digit).unwrap_or_default());
            }
            out.put_u8(if lines.peek().is_some() { b'-' } else { b' ' });
            if let Some(status) = &status {
                out.extend_from_slice(status.as_bytes());
                out.put_u8(b' ');
            }
            out.extend(line.chars().map(|c| match c {
                ' '..='~' => c as u8,
                c if c.is_ascii_control() => b' ',
                _ => b'?',
            }));
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// For people: `550 5.7.1 text`, on one line.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(status) = self.status {
            write!(f, " {status}")?;
        }
        write!(f, " {}", self.text.replace('\n', " "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply, enhanced: bool) -> String {
        let mut out = BytesMut::new();
        reply.write(enhanced, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_reply_is_written_line_by_line() {
        let reply = Reply::new(550, EnhancedStatus::permanent(7, 1), "no\nnever");
        assert_eq!(wire(&reply, true), "550-5.7.1 no\r\n550 5.7.1 never\r\n");
        assert_eq!((reply.wire_len(true), reply.wire_len(false)), (31, 19));
        assert_eq!(wire(&reply, false), "550-no\r\n550 never\r\n");
        assert_eq!(wire(&Reply::plain(354, "go"), true), "354 go\r\n");
    }

    #[test]
    fn no_text_breaks_out_of_a_reply() {
        let reply = Reply::plain(250, "a\r250 b\0c \u{fc}");
        assert_eq!(wire(&reply, true), "250 a 250 b c ?\r\n");
    }

    #[test]
    fn a_wrong_class_is_no_status() {
        assert!("3.1.1".parse::<EnhancedStatus>().is_err());
        assert!("5.1".parse::<EnhancedStatus>().is_err());
        assert!("5.1.1.1".parse::<EnhancedStatus>().is_err());
        assert!("5.1000.1".parse::<EnhancedStatus>().is_err());
        assert_eq!("5.7.1".parse::<EnhancedStatus>().unwrap(), EnhancedStatus::permanent(7, 1));
    }
}
