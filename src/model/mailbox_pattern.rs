//! Which mailboxes a rule is about: one, all of a domain, or all below a domain; and many such patterns as one set.
//!
//! Letters compare without regard to case, both spellings of an internationalized domain are equal.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use super::host::{domain_key, mailbox_key};
use super::text::text_value;
use crate::smtp::address::{Domain, Mailbox};

/// Which mailboxes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MailboxPattern {
    /// `user@example.com`
    Mailbox(Mailbox),
    /// `*@example.com`: every mailbox of this domain, not of domains below it.
    Domain(Domain),
    /// `*@*.example.com`: every mailbox of every domain below it, at any depth, not of the domain itself.
    Below(Domain),
}

/// The keys of all patterns that cover a mailbox, the most specific first.
pub fn covering_keys(mailbox: &Mailbox) -> Vec<String> {
    let domain = domain_key(mailbox.domain());
    let mut keys = vec![mailbox_key(mailbox), format!("*@{domain}")];
    if mailbox.domain().name().is_some() {
        let parents = std::iter::successors(domain.split_once('.'), |(_, rest)| rest.split_once('.'));
        keys.extend(parents.map(|(_, parent)| format!("*@*.{parent}")));
    }
    keys
}

/// The text is no mailbox pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "mailboxes are given as an address such as user@example.com, *@example.com for all of a domain, or *@*.example.com \
     for all domains below it"
)]
pub struct NotAMailboxPattern;

impl MailboxPattern {
    /// What [`MailboxSet`] and the suppression list know it by: nothing else has the same text.
    pub fn key(&self) -> String {
        match self {
            MailboxPattern::Mailbox(mailbox) => mailbox_key(mailbox),
            MailboxPattern::Domain(domain) => format!("*@{}", domain_key(domain)),
            MailboxPattern::Below(domain) => format!("*@*.{}", domain_key(domain)),
        }
    }
}

impl FromStr for MailboxPattern {
    type Err = NotAMailboxPattern;

    fn from_str(text: &str) -> Result<Self, NotAMailboxPattern> {
        let Some(domain) = text.strip_prefix("*@") else {
            return text.parse().map(MailboxPattern::Mailbox).map_err(|_| NotAMailboxPattern);
        };
        match domain.strip_prefix("*.") {
            None => domain.parse().map(MailboxPattern::Domain).map_err(|_| NotAMailboxPattern),
            Some(parent) => match parent.parse() {
                Ok(parent @ Domain::Name(_)) => Ok(MailboxPattern::Below(parent)),
                _ => Err(NotAMailboxPattern),
            },
        }
    }
}

impl fmt::Display for MailboxPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MailboxPattern::Mailbox(mailbox) => mailbox.fmt(f),
            MailboxPattern::Domain(domain) => write!(f, "*@{domain}"),
            MailboxPattern::Below(domain) => write!(f, "*@*.{domain}"),
        }
    }
}

text_value!(
    MailboxPattern,
    "MailboxPattern",
    "bridgehead-mailbox-pattern",
    "Which mailboxes: an address, `*@domain` for all of a domain, or `*@*.domain` for all domains below a domain (not the \
     domain itself).",
    ["user@example.com", "*@example.com", "*@*.example.com"]
);

/// Many patterns. A look-up costs one hash for the address and one for each label of its domain, however many there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailboxSet(HashSet<String>);

impl MailboxSet {
    /// The set of these patterns.
    pub fn new(patterns: &[MailboxPattern]) -> Self {
        MailboxSet(patterns.iter().map(MailboxPattern::key).collect())
    }

    /// The pattern that covers the mailbox, the most specific one, in the form in which it is compared.
    pub fn find(&self, mailbox: &Mailbox) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        let get = |key: &str| self.0.get(key).map(String::as_str);
        let domain = domain_key(mailbox.domain());
        let named = || get(&mailbox_key(mailbox)).or_else(|| get(&format!("*@{domain}")));
        named().or_else(|| {
            mailbox.domain().name()?;
            let mut parents = std::iter::successors(Some(&*domain), |name| name.split_once('.').map(|(_, rest)| rest));
            parents.next();
            parents.find_map(|parent| get(&format!("*@*.{parent}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_are_read_and_written() {
        for (text, canonical) in [
            ("Ada@Example.com", "Ada@example.com"),
            ("*@Example.com", "*@example.com"),
            ("*@*.Example.com", "*@*.example.com"),
            ("*@[192.0.2.1]", "*@[192.0.2.1]"),
        ] {
            assert_eq!(text.parse::<MailboxPattern>().unwrap().to_string(), canonical);
        }
        for text in ["", "*", "*@", "*@*", "*@*.", "*@*.*.a", "example.com", "@example.com", "<>", "*@*.[192.0.2.1]"] {
            assert!(text.parse::<MailboxPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_most_specific_pattern_is_found() {
        let texts = ["ada@a.example", "*@a.example", "*@*.a.example", "*@*.example", "*@bücher.example"];
        let patterns: Vec<MailboxPattern> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let set = MailboxSet::new(&patterns);
        for (mailbox, found) in [
            ("ADA@A.example", Some("ada@a.example")),
            ("bob@a.example", Some("*@a.example")),
            ("bob@b.a.example", Some("*@*.a.example")),
            ("bob@c.b.a.example", Some("*@*.a.example")),
            ("bob@b.example", Some("*@*.example")),
            ("bob@xn--bcher-kva.example", Some("*@xn--bcher-kva.example")),
            ("bob@example", None),
            ("bob@notexample", None),
            ("*@other.test", None),
            ("bob@[192.0.2.1]", None),
        ] {
            assert_eq!(set.find(&mailbox.parse().unwrap()), found, "{mailbox}");
            let keys = covering_keys(&mailbox.parse().unwrap());
            let covering = keys.iter().find(|key| patterns.iter().any(|pattern| pattern.key() == **key));
            assert_eq!(covering.map(String::as_str), found, "{mailbox}");
        }
        assert_eq!(MailboxSet::default().find(&"a@b".parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn the_set_agrees_with_a_linear_search(
            patterns in proptest::collection::vec("(a|b|\\*)@(\\*\\.)?(x|y)(\\.(x|y)){0,2}", 0..12),
            mailbox in "(a|b)@(x|y)(\\.(x|y)){0,3}",
        ) {
            let patterns: Vec<MailboxPattern> = patterns.iter().filter_map(|text| text.parse().ok()).collect();
            let mailbox: Mailbox = mailbox.parse().unwrap();
            let domain = mailbox.domain().to_string();
            let expected = patterns.iter().any(|pattern| match pattern {
                MailboxPattern::Mailbox(own) => *own == mailbox,
                MailboxPattern::Domain(own) => own.to_string() == domain,
                MailboxPattern::Below(own) => domain.ends_with(&format!(".{own}")),
            });
            prop_assert_eq!(MailboxSet::new(&patterns).find(&mailbox).is_some(), expected);
        }
    }
}
