//! `accounts`: who may authenticate over SMTP.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::host::{domain_key, mailbox_key};
use crate::model::rate::Rate;
use crate::model::text::text_value;
use crate::smtp::address::{Domain, Mailbox};

/// How much an account may send. Over it, the client is told to come again later.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"messages": "100/1h", "recipients": "1000/1d"}))]
pub struct AccountQuotas {
    /// Most messages in a time. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub messages: Option<Rate>,
    /// Most recipients in a time, of all messages together. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub recipients: Option<Rate>,
}

/// Addresses that an account may send as: one address, all of a domain (`*@example.com`), or any (`*`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SenderPattern {
    /// Every address.
    Any,
    /// Every address of this domain, not of domains below it.
    Domain(Domain),
    /// This address.
    Exact(Mailbox),
}

/// The text is no such pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a sender is an address, all addresses of a domain as *@example.com, or * for any")]
pub struct NotASenderPattern;

impl SenderPattern {
    /// Whether the address is one of these. Case does not count, nor how an internationalized domain is spelt.
    pub fn matches(&self, sender: &Mailbox) -> bool {
        match self {
            SenderPattern::Any => true,
            SenderPattern::Domain(domain) => key(domain) == key(sender.domain()),
            SenderPattern::Exact(mailbox) => mailbox_key(mailbox) == mailbox_key(sender),
        }
    }
}

fn key(domain: &Domain) -> Cow<'_, str> {
    domain_key(domain)
}

impl FromStr for SenderPattern {
    type Err = NotASenderPattern;

    fn from_str(text: &str) -> Result<Self, NotASenderPattern> {
        match (text, text.strip_prefix("*@")) {
            ("*", _) => Ok(SenderPattern::Any),
            (_, Some(domain)) => domain.parse().map(SenderPattern::Domain).map_err(|_| NotASenderPattern),
            _ => text.parse().map(SenderPattern::Exact).map_err(|_| NotASenderPattern),
        }
    }
}

impl fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SenderPattern::Any => f.write_str("*"),
            SenderPattern::Domain(domain) => write!(f, "*@{domain}"),
            SenderPattern::Exact(mailbox) => mailbox.fmt(f),
        }
    }
}

text_value!(
    SenderPattern,
    "SenderPattern",
    "bridgehead-sender-pattern",
    "Addresses that may be sent as: one address, all of a domain, or any.",
    ["ada@example.com", "*@example.com", "*"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders() {
        let matches = |pattern: &str, sender: &str| {
            let pattern: SenderPattern = pattern.parse().unwrap();
            assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
            pattern.matches(&sender.parse().unwrap())
        };
        assert!(
            matches("*", "a@b.example")
                && matches("*@b.example", "A@B.example")
                && matches("a@b.example", "A@b.example")
        );
        assert!(matches("*@münchen.example", "a@xn--mnchen-3ya.example"));
        assert!(!matches("*@b.example", "a@c.b.example") && !matches("a@b.example", "b@b.example"));
        for text in ["", "a", "*@", "*@*", "@b.example", "a@"] {
            assert_eq!(text.parse::<SenderPattern>(), Err(NotASenderPattern), "{text}");
        }
    }
}
