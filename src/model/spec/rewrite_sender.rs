//! Senders that a connector makes another one of, for next hops that take mail only from the mailbox that logs in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::account::SenderPattern;
use crate::model::host::domain_key;
use crate::model::text::text_value;
use crate::smtp::address::{Domain, Mailbox};

/// Senders that become one mailbox, in MAIL FROM and in the fields From and Sender: for a next hop that refuses every other
/// one, as Microsoft 365 does. The old From becomes Reply-To when there is none. Reports of failures still go to the true
/// sender. Goes before the virtual server's `masqueradeDomain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ConnectorRewriteSender)]
#[schema(example = json!({"from": "*@app.example.com", "to": "relay@example.com"}))]
pub struct RewriteSender {
    /// Which senders.
    pub from: SenderPattern,
    /// Who they become.
    pub to: AsciiMailbox,
}

/// A mailbox that can be told to every next hop: ASCII, an internationalized domain as A-labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AsciiMailbox(Mailbox);

/// The text is no such mailbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an address such as user@example.com is needed, with nothing but ASCII in front of the @")]
pub struct NotAnAsciiMailbox;

impl AsciiMailbox {
    /// The mailbox.
    pub fn mailbox(&self) -> &Mailbox {
        &self.0
    }
}

impl FromStr for AsciiMailbox {
    type Err = NotAnAsciiMailbox;

    fn from_str(text: &str) -> Result<Self, NotAnAsciiMailbox> {
        let given: Mailbox = text.parse().map_err(|_| NotAnAsciiMailbox)?;
        let domain = match given.domain() {
            literal @ Domain::Literal(_) => literal.clone(),
            name => Domain::Name(domain_key(name).into_owned()),
        };
        let mailbox = Mailbox::new(given.local(), domain).map_err(|_| NotAnAsciiMailbox)?;
        // who writes it means a pattern, and this is one mailbox
        let pattern = given.local() == "*";
        if mailbox.is_ascii() && !pattern { Ok(AsciiMailbox(mailbox)) } else { Err(NotAnAsciiMailbox) }
    }
}

impl fmt::Display for AsciiMailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

text_value!(
    AsciiMailbox,
    "AsciiMailbox",
    "bridgehead-ascii-mailbox",
    "A mail address in ASCII, with its domain, without angle brackets. U-labels in the domain become A-labels.",
    ["relay@example.com"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_next_hop_can_be_told_the_mailbox() {
        for (text, is) in
            [("Relay@Example.com", "Relay@example.com"), ("a@b\u{fc}cher.example", "a@xn--bcher-kva.example")]
        {
            assert_eq!(text.parse::<AsciiMailbox>().unwrap().to_string(), is);
        }
        for text in ["", "relay", "\u{fc}@example.com", "*@example.com", "<a@example.com>", "a b@example.com"] {
            assert!(text.parse::<AsciiMailbox>().is_err(), "{text}");
        }
    }
}
