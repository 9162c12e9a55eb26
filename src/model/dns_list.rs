//! DNS lists of clients (RFC 5782), as configuration has them: which answers count, and what a listed client is told.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use super::host::HostName;
use super::name::Name;
use super::text::text_value;

/// Which answers of a DNS list count (Exchange: return status code). Answers lie in 127.0.0.0/8, so a mask, which begins
/// with 0, cannot be mistaken for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DnsListCode {
    /// `127.0.0.2`: this answer.
    Answer(Ipv4Addr),
    /// `0.0.0.6`: every answer that has one of these bits.
    Mask(Ipv4Addr),
}

/// The text is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a code is an answer of the list, such as 127.0.0.2, or a mask such as 0.0.0.6 for all answers with one of its bits"
)]
pub struct NotADnsListCode;

impl DnsListCode {
    /// Whether this answer counts.
    pub fn matches(self, answer: Ipv4Addr) -> bool {
        match self {
            DnsListCode::Answer(own) => own == answer,
            DnsListCode::Mask(mask) => answer.to_bits() & mask.to_bits() != 0,
        }
    }
}

impl FromStr for DnsListCode {
    type Err = NotADnsListCode;

    fn from_str(text: &str) -> Result<Self, NotADnsListCode> {
        let address: Ipv4Addr = text.parse().map_err(|_| NotADnsListCode)?;
        match address.octets() {
            [127, ..] => Ok(DnsListCode::Answer(address)),
            [0, rest @ ..] if rest != [0, 0, 0] => Ok(DnsListCode::Mask(address)),
            _ => Err(NotADnsListCode),
        }
    }
}

impl fmt::Display for DnsListCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (DnsListCode::Answer(address) | DnsListCode::Mask(address)) = self;
        address.fmt(f)
    }
}

text_value!(
    DnsListCode,
    "DnsListCode",
    "bridgehead-dns-list-code",
    "Which answers of a DNS list count: an answer, or a mask that begins with 0 for all answers that have one of its bits.",
    ["127.0.0.2", "0.0.0.6"]
);

/// What a listed client is told, behind the reply code: `%0` is its address, `%1` the filter, `%2` the list, `%%` a percent
/// sign (Exchange: custom error message).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DnsListReply(String);

/// Longest text of a reply, as it is configured.
pub const MAX_REPLY: usize = 300;
/// Longest text of a reply, as it is sent: with code, status and line end within 512 octets (RFC 5321, 4.5.3.1.5).
const MAX_SENT: usize = 490;

/// The text cannot be a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotADnsListReply {
    /// It is empty, too long, or not printable.
    #[error("a reply has 1 to {MAX_REPLY} printable ASCII characters")]
    Text,
    /// A percent sign with something else behind it.
    #[error("behind % comes 0 (the client's address), 1 (the filter), 2 (the list) or another %")]
    Token,
}

impl DnsListReply {
    /// The text for one client.
    pub fn render(&self, client: IpAddr, filter: &Name, zone: &HostName) -> String {
        let mut text = String::new();
        let mut characters = self.0.chars();
        while let Some(c) = characters.next() {
            match (c, if c == '%' { characters.next() } else { None }) {
                ('%', Some('0')) => text.push_str(&client.to_string()),
                ('%', Some('1')) => text.push_str(filter.as_str()),
                ('%', Some('2')) => text.push_str(zone.as_str()),
                _ => text.push(c),
            }
        }
        // all of it is ASCII
        text.truncate(MAX_SENT);
        text
    }
}

impl Default for DnsListReply {
    fn default() -> Self {
        DnsListReply("%0 is listed by %2".to_owned())
    }
}

impl FromStr for DnsListReply {
    type Err = NotADnsListReply;

    fn from_str(text: &str) -> Result<Self, NotADnsListReply> {
        if text.is_empty() || text.len() > MAX_REPLY || !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(NotADnsListReply::Text);
        }
        let mut characters = text.chars();
        while let Some(c) = characters.next() {
            if c == '%' && !matches!(characters.next(), Some('0' | '1' | '2' | '%')) {
                return Err(NotADnsListReply::Token);
            }
        }
        Ok(DnsListReply(text.to_owned()))
    }
}

impl fmt::Display for DnsListReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(
    DnsListReply,
    "DnsListReply",
    "bridgehead-dns-list-reply",
    "What a listed client is told: printable ASCII, at most 300 characters; `%0` is its address, `%1` the filter, `%2` the \
     list, `%%` a percent sign.",
    ["%0 is listed by %2, see https://example.org/?ip=%0"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_answers_or_masks() {
        for text in ["127.0.0.2", "0.0.0.6", "0.1.0.0"] {
            assert_eq!(text.parse::<DnsListCode>().unwrap().to_string(), text);
        }
        for text in ["", "2", "0.0.0.0", "128.0.0.1", "1.0.0.0", "127.0.0", "::1"] {
            assert!(text.parse::<DnsListCode>().is_err(), "{text}");
        }
        let matches = |code: &str, answer: &str| code.parse::<DnsListCode>().unwrap().matches(answer.parse().unwrap());
        assert!(matches("127.0.0.2", "127.0.0.2") && !matches("127.0.0.2", "127.0.0.3"));
        assert!(matches("0.0.0.6", "127.0.0.2") && matches("0.0.0.6", "127.0.0.5") && !matches("0.0.0.6", "127.0.0.9"));
    }

    #[test]
    fn a_reply_is_filled_in_and_never_longer_than_a_line() {
        let render = |text: &str| {
            let reply: DnsListReply = text.parse().unwrap();
            reply.render("192.0.2.7".parse().unwrap(), &"main".parse().unwrap(), &"bl.example".parse().unwrap())
        };
        assert_eq!(render("%0 by %1 (%2), 100%%"), "192.0.2.7 by main (bl.example), 100%");
        assert_eq!(render(&DnsListReply::default().to_string()), "192.0.2.7 is listed by bl.example");
        assert_eq!(render(&"%2".repeat(150)).len(), MAX_SENT);
        for text in ["", "%", "100%", "%3", "a\r\nb", "ü", &"x".repeat(301)] {
            assert!(text.parse::<DnsListReply>().is_err(), "{text:?}");
        }
    }
}
