//! Addresses as RFC 5321 (4.1.2, 4.1.3) and RFC 6531 (3.3) write them, as values that cannot be invalid.
//!
//! A [`Mailbox`] is always qualified. What the standard calls the reverse-path is a [`ReversePath`],
//! the forward-path a [`ForwardPath`]; source routes are accepted by the parser of the command line
//! and dropped there (RFC 5321, appendix C), so they have no place in these types.
//!
//! Domains compare without regard to case: they are kept in lower case. Local parts are kept as
//! they were given, without quotes; [`std::fmt::Display`] quotes again where the grammar wants it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest local part, in octets (RFC 5321, 4.5.3.1.1).
pub const MAX_LOCAL_PART: usize = 64;
/// Longest domain, in octets (RFC 5321, 4.5.3.1.2).
pub const MAX_DOMAIN: usize = 255;
/// Longest path with its angle brackets, in octets (RFC 5321, 4.5.3.1.3).
pub const MAX_PATH: usize = 256;

/// Why a text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The local part is empty, too long, or has characters that only a quoted string may hold.
    #[error("the part before the @ is not a valid local part (RFC 5321, 4.1.2)")]
    LocalPart,
    /// The domain is empty, too long, or not made of letter-digit-hyphen labels.
    #[error("the part behind the @ is not a valid domain or address literal (RFC 5321, 4.1.2)")]
    Domain,
    /// There is no `@`.
    #[error("an address needs a domain: local-part@domain")]
    Unqualified,
    /// The whole is longer than a path may be.
    #[error("the address is longer than 254 octets")]
    TooLong,
}

/// A domain name in lower case, or an address literal (`[192.0.2.1]`, `[IPv6:2001:db8::1]`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Domain {
    /// A domain name: letter-digit-hyphen labels or U-labels, lower case, no trailing dot.
    Name(String),
    /// An address literal.
    Literal(IpAddr),
}

impl Domain {
    /// The domain name in lower case; `None` for an address literal.
    pub fn name(&self) -> Option<&str> {
        match self {
            Domain::Name(name) => Some(name),
            Domain::Literal(_) => None,
        }
    }

    /// True when the domain needs SMTPUTF8 to be written on the wire as it stands.
    pub fn is_ascii(&self) -> bool {
        self.name().is_none_or(str::is_ascii)
    }
}

impl FromStr for Domain {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            return parse_literal(inner).map(Domain::Literal).ok_or(AddressError::Domain);
        }
        if text.is_empty() || text.len() > MAX_DOMAIN || !text.split('.').all(is_label) {
            return Err(AddressError::Domain);
        }
        Ok(Domain::Name(text.to_lowercase()))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Domain::Name(name) => f.write_str(name),
            Domain::Literal(IpAddr::V4(v4)) => write!(f, "[{v4}]"),
            Domain::Literal(IpAddr::V6(v6)) => write!(f, "[IPv6:{v6}]"),
        }
    }
}

fn parse_literal(inner: &str) -> Option<IpAddr> {
    let v6 = inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:")).map(|_| &inner[5..]);
    match v6 {
        Some(text) => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn is_label(label: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || is_utf8_letter(c));
    !label.is_empty()
        && label.len() <= 63
        && edge(label.chars().next())
        && edge(label.chars().next_back())
        // the underscore is no host name character, but real mail domains have it
        && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || is_utf8_letter(c))
}

fn is_utf8_letter(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

/// A qualified mailbox: local part (unquoted) and domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mailbox {
    local: String,
    domain: Domain,
}

impl Mailbox {
    /// Makes a mailbox from an unquoted local part and a domain.
    ///
    /// # Errors
    /// When the local part is empty or over 64 octets, or holds a control character, or the whole is
    /// longer than a path may be.
    pub fn new(local: &str, domain: Domain) -> Result<Self, AddressError> {
        if local.is_empty() || local.len() > MAX_LOCAL_PART || local.chars().any(char::is_control) {
            return Err(AddressError::LocalPart);
        }
        let mailbox = Mailbox { local: local.to_owned(), domain };
        if mailbox.to_string().len() > MAX_PATH - 2 {
            return Err(AddressError::TooLong);
        }
        Ok(mailbox)
    }

    /// The local part without quotes, as it was given.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// True when neither side needs SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.is_ascii()
    }

    /// The key under which a directory finds the mailbox: everything in lower case. (Local parts
    /// may differ by case on paper; no directory in use tells them apart.)
    pub fn key(&self) -> String {
        format!("{}@{}", self.local.to_lowercase(), self.domain)
    }
}

impl FromStr for Mailbox {
    type Err = AddressError;

    /// Parses `local-part@domain`, the local part as dot-string or quoted string.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > MAX_PATH - 2 {
            return Err(AddressError::TooLong);
        }
        let (local, rest) = if text.starts_with('"') {
            parse_quoted(text).ok_or(AddressError::LocalPart)?
        } else {
            let at = text.find('@').ok_or(AddressError::Unqualified)?;
            if !is_dot_string(&text[..at]) {
                return Err(AddressError::LocalPart);
            }
            (text[..at].to_owned(), &text[at..])
        };
        let domain = rest.strip_prefix('@').ok_or(AddressError::Unqualified)?;
        Mailbox::new(&local, domain.parse()?)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.local) {
            write!(f, "{}@{}", self.local, self.domain)
        } else {
            f.write_str("\"")?;
            for c in self.local.chars() {
                if c == '"' || c == '\\' {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
            write!(f, "\"@{}", self.domain)
        }
    }
}

/// `Dot-string` of RFC 5321 with the UTF-8 of RFC 6531.
fn is_dot_string(text: &str) -> bool {
    !text.is_empty() && text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_utf8_letter(c)
}

/// `Quoted-string` at the start of the text: the unquoted content and what follows it.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((content, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, escaped)) if !escaped.is_control() => content.push(escaped),
                _ => return None,
            },
            c if c.is_control() => return None,
            c => content.push(c),
        }
    }
    None
}

/// Where failures are reported to: nobody, or a mailbox (RFC 5321, 4.1.2 `Reverse-path`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReversePath {
    /// `<>`: a notification; nothing is ever sent back.
    Null,
    /// A sender.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// The mailbox, if there is one.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            ReversePath::Null => None,
            ReversePath::Mailbox(mailbox) => Some(mailbox),
        }
    }
}

/// `<>` for the null reverse-path, else the address; without angle brackets around an address.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReversePath::Null => f.write_str("<>"),
            ReversePath::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

impl FromStr for ReversePath {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() || text == "<>" { Ok(ReversePath::Null) } else { text.parse().map(ReversePath::Mailbox) }
    }
}

/// Whom a message is for (RFC 5321, 4.1.1.3): a mailbox, or the bare `<Postmaster>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ForwardPath {
    /// `<Postmaster>` without a domain: the postmaster of this host, always accepted.
    Postmaster,
    /// A recipient.
    Mailbox(Mailbox),
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForwardPath::Postmaster => f.write_str("postmaster"),
            ForwardPath::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

impl FromStr for ForwardPath {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.eq_ignore_ascii_case("postmaster") {
            Ok(ForwardPath::Postmaster)
        } else {
            text.parse().map(ForwardPath::Mailbox)
        }
    }
}

/// Serde as the text of [`std::fmt::Display`] and [`FromStr`].
macro_rules! serde_as_text {
    ($($t:ty),*) => {$(
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Domain, Mailbox, ReversePath, ForwardPath);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_as_they_went_in() {
        for text in [
            "a@b.example",
            "a.b+c@x-y.example",
            "\"a b\"@b.example",
            "a@[192.0.2.1]",
            "a@[IPv6:2001:db8::1]",
            "ü@bücher.example",
        ] {
            let mailbox: Mailbox = text.parse().unwrap();
            assert_eq!(mailbox.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "a",
            "@b",
            "a@",
            "a@b@c",
            "a b@c",
            "a.@b",
            ".a@b",
            "a@b.",
            "a@-b",
            "a@[300.1.1.1]",
            "a\0@b",
            "\"a@b",
            "a@b c",
        ] {
            assert!(text.parse::<Mailbox>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn domains_do_not_differ_by_case() {
        assert_eq!("a@B.Example".parse::<Mailbox>().unwrap(), "a@b.example".parse::<Mailbox>().unwrap());
    }
}
