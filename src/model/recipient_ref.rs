//! Whom the directory means when one recipient names others: members and owners of groups, forwards, restrictions.

use std::fmt;
use std::str::FromStr;

use super::host::{domain_key, mailbox_key};
use super::name::Name;
use super::text::text_value;
use crate::smtp::address::{Domain, Mailbox};

/// A recipient by its name in the directory, or an address, which may be elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecipientRef {
    /// A recipient.
    Name(Name),
    /// An address.
    Address(Mailbox),
}

/// The text names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("somebody is named by the name of a recipient, such as ada, or by an address, such as ada@example.com")]
pub struct NotARecipientRef;

impl FromStr for RecipientRef {
    type Err = NotARecipientRef;

    fn from_str(text: &str) -> Result<Self, NotARecipientRef> {
        if text.contains('@') {
            return text.parse().map(RecipientRef::Address).map_err(|_| NotARecipientRef);
        }
        text.parse().map(RecipientRef::Name).map_err(|_| NotARecipientRef)
    }
}

impl fmt::Display for RecipientRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecipientRef::Name(name) => name.fmt(f),
            RecipientRef::Address(mailbox) => mailbox.fmt(f),
        }
    }
}

text_value!(
    RecipientRef,
    "RecipientReference",
    "bridgehead-recipient-reference",
    "A recipient by its name, or an address, which may be elsewhere.",
    ["ada", "ada@example.net"]
);

/// Which senders a restriction is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SenderPattern {
    /// `ada@example.net`: this reverse-path.
    Address(Mailbox),
    /// `*@example.net`: every reverse-path in this domain.
    Domain(Domain),
    /// A recipient by its name: each of its addresses; of a group, those of its members too.
    Recipient(Name),
}

/// The text is no pattern of senders.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("senders are given as an address, as *@example.com, or as the name of a recipient or group")]
pub struct NotASenderPattern;

impl SenderPattern {
    /// Whether the pattern itself says that it means this sender; a recipient has to be looked up.
    pub fn covers(&self, sender: &Mailbox) -> bool {
        match self {
            SenderPattern::Address(own) => mailbox_key(own) == mailbox_key(sender),
            SenderPattern::Domain(own) => domain_key(own) == domain_key(sender.domain()),
            SenderPattern::Recipient(_) => false,
        }
    }
}

impl FromStr for SenderPattern {
    type Err = NotASenderPattern;

    fn from_str(text: &str) -> Result<Self, NotASenderPattern> {
        if let Some(domain) = text.strip_prefix("*@") {
            return domain.parse().map(SenderPattern::Domain).map_err(|_| NotASenderPattern);
        }
        match text.parse() {
            Ok(RecipientRef::Address(mailbox)) => Ok(SenderPattern::Address(mailbox)),
            Ok(RecipientRef::Name(name)) => Ok(SenderPattern::Recipient(name)),
            Err(NotARecipientRef) => Err(NotASenderPattern),
        }
    }
}

impl fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SenderPattern::Address(mailbox) => mailbox.fmt(f),
            SenderPattern::Domain(domain) => write!(f, "*@{domain}"),
            SenderPattern::Recipient(name) => name.fmt(f),
        }
    }
}

text_value!(
    SenderPattern,
    "SenderPattern",
    "bridgehead-sender-pattern",
    "Which senders: an address, `*@domain`, or the name of a recipient; of a group also its members.",
    ["ada@example.net", "*@example.net", "staff"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_and_patterns_come_back() {
        for text in ["ada", "ada.lovelace", "ada@example.net", "\"a b\"@example.net"] {
            assert_eq!(text.parse::<RecipientRef>().unwrap().to_string(), text);
            assert_eq!(text.parse::<SenderPattern>().unwrap().to_string(), text);
        }
        assert!(matches!("*@example.net".parse().unwrap(), SenderPattern::Domain(_)));
        for text in ["", "Ada Lovelace", "ada@", "@example.net", "*"] {
            assert!(text.parse::<RecipientRef>().is_err(), "{text}");
            assert!(text.parse::<SenderPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn patterns_cover_without_regard_to_case() {
        let sender: Mailbox = "Ada@Example.net".parse().unwrap();
        for (text, covers) in [("ada@example.net", true), ("*@EXAMPLE.net", true), ("*@sub.example.net", false)] {
            assert_eq!(text.parse::<SenderPattern>().unwrap().covers(&sender), covers, "{text}");
        }
    }
}
