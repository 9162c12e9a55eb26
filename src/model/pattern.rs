//! Patterns in configuration: which domains ([`AddressPattern`]), which clients ([`ClientPattern`], [`Network`]) and which
//! recipients ([`RecipientPattern`]).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::host::{HostName, domain_key, is_below, mailbox_key};
use super::text::text_value;
use crate::smtp::address::{Domain, Mailbox};

/// Which domains an address space covers (Exchange: connector, tab Address Space).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressPattern {
    /// `example.com`: this domain.
    Exact(Domain),
    /// `*.example.com`: every domain below it, at any depth, not the domain itself.
    Below(Domain),
    /// `*`: every domain.
    Any,
}

/// The text is no address pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a pattern is *, a domain such as example.com, or *.example.com for everything below a domain")]
pub struct NotAPattern;

impl AddressPattern {
    /// Whether the pattern covers the domain. For one pattern; the router has an index.
    pub fn matches(&self, domain: &Domain) -> bool {
        match self {
            AddressPattern::Any => true,
            AddressPattern::Exact(own) => domain_key(own) == domain_key(domain),
            AddressPattern::Below(own) => is_below(domain, own),
        }
    }
}

impl FromStr for AddressPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        let name = |text: &str| match text.parse() {
            Ok(domain @ Domain::Name(_)) => Ok(domain),
            _ => Err(NotAPattern),
        };
        match text.strip_prefix("*.") {
            _ if text == "*" => Ok(AddressPattern::Any),
            Some(below) => name(below).map(AddressPattern::Below),
            None => name(text).map(AddressPattern::Exact),
        }
    }
}

impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressPattern::Any => f.write_str("*"),
            AddressPattern::Exact(domain) => domain.fmt(f),
            AddressPattern::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

text_value!(
    AddressPattern,
    "AddressPattern",
    "bridgehead-address-pattern",
    "Which domains: `*` for all, a domain, or `*.domain` for everything below a domain (not the domain itself).",
    ["*", "example.com", "*.example.com"]
);

/// Which clients: an address, a network, or all whose verified reverse name lies below a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientPattern {
    /// A network; an address is a network of one.
    Network(IpNet),
    /// `*.example.com`: the address has a reverse name below this one, and that name has the address.
    Named(HostName),
}

/// The text is no client pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAClientPattern {
    /// Neither address, network nor name.
    #[error(
        "clients are given as an IP address, a network in CIDR notation, or *.name for verified reverse names, such as \
         192.0.2.1, 10.0.0.0/8, 2001:db8::/32 or *.example.com"
    )]
    Syntax,
    /// The network has bits behind its prefix.
    #[error("the network has bits set behind its prefix; meant {0}?")]
    HostBits(IpNet),
}

impl ClientPattern {
    /// As a network; `None` for a name.
    pub fn net(&self) -> Option<IpNet> {
        match self {
            ClientPattern::Network(net) => Some(*net),
            ClientPattern::Named(_) => None,
        }
    }

    /// True for 0.0.0.0/0 and ::/0.
    pub fn is_everybody(&self) -> bool {
        self.net().is_some_and(|net| net.prefix_len() == 0)
    }
}

impl FromStr for ClientPattern {
    type Err = NotAClientPattern;

    fn from_str(text: &str) -> Result<Self, NotAClientPattern> {
        match text.strip_prefix("*.") {
            Some(name) => name.parse().map(ClientPattern::Named).map_err(|_| NotAClientPattern::Syntax),
            None => parse_net(text).map(ClientPattern::Network),
        }
    }
}

fn parse_net(text: &str) -> Result<IpNet, NotAClientPattern> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let net: IpNet = text.parse().map_err(|_| NotAClientPattern::Syntax)?;
    if net.trunc() == net { Ok(net) } else { Err(NotAClientPattern::HostBits(net.trunc())) }
}

fn write_net(net: &IpNet, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if net.prefix_len() == net.max_prefix_len() { write!(f, "{}", net.addr()) } else { write!(f, "{net}") }
}

impl fmt::Display for ClientPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientPattern::Network(net) => write_net(net, f),
            ClientPattern::Named(name) => write!(f, "*.{name}"),
        }
    }
}

text_value!(
    ClientPattern,
    "ClientPattern",
    "bridgehead-client-pattern",
    "Which clients: an IP address, a network in CIDR notation, or `*.name`: every client whose reverse name lies below this \
     name, when that name has the client's address too.",
    ["192.0.2.1", "10.0.0.0/8", "2001:db8::/32", "*.example.com"]
);

/// An address or a network, for who must be known by address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(pub IpNet);

/// The text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an IP address or a network in CIDR notation is needed, such as 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32")]
pub struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        parse_net(text).map(Network).map_err(|_| NotANetwork)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_net(&self.0, f)
    }
}

text_value!(
    Network,
    "Network",
    "bridgehead-network",
    "An IP address, or a network in CIDR notation.",
    ["192.0.2.1", "10.0.0.0/8", "2001:db8::/32"]
);

/// Networks in one text, with commas between them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks(pub Vec<Network>);

impl FromStr for Networks {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let each = text.split(',').map(str::trim).filter(|text| !text.is_empty());
        each.map(str::parse).collect::<Result<_, _>>().map(Networks)
    }
}

/// Which recipients: one mailbox, or all of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RecipientPattern {
    /// `user@example.com`
    Mailbox(Mailbox),
    /// `*@example.com`: every mailbox of this domain, not of domains below it.
    Domain(Domain),
}

/// The text is no recipient pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("recipients are given as an address such as user@example.com, or *@example.com for all of a domain")]
pub struct NotARecipientPattern;

impl RecipientPattern {
    /// Whether the pattern covers the mailbox, whatever the case of the letters.
    pub fn matches(&self, mailbox: &Mailbox) -> bool {
        match self {
            RecipientPattern::Mailbox(own) => mailbox_key(own) == mailbox_key(mailbox),
            RecipientPattern::Domain(own) => domain_key(own) == domain_key(mailbox.domain()),
        }
    }
}

impl FromStr for RecipientPattern {
    type Err = NotARecipientPattern;

    fn from_str(text: &str) -> Result<Self, NotARecipientPattern> {
        match text.strip_prefix("*@") {
            Some(domain) => domain.parse().map(RecipientPattern::Domain).map_err(|_| NotARecipientPattern),
            None => text.parse().map(RecipientPattern::Mailbox).map_err(|_| NotARecipientPattern),
        }
    }
}

impl fmt::Display for RecipientPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecipientPattern::Mailbox(mailbox) => mailbox.fmt(f),
            RecipientPattern::Domain(domain) => write!(f, "*@{domain}"),
        }
    }
}

text_value!(
    RecipientPattern,
    "RecipientPattern",
    "bridgehead-recipient-pattern",
    "Which recipients: an address, or `*@domain` for all of a domain.",
    ["user@example.com", "*@example.com"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_patterns() {
        for text in ["*", "example.com", "*.example.com"] {
            assert_eq!(text.parse::<AddressPattern>().unwrap().to_string(), text);
        }
        for text in ["", "**", "*.", "a.*", "*example.com", "user@example.com", "[192.0.2.1]", "*.*.com"] {
            assert!(text.parse::<AddressPattern>().is_err(), "{text}");
        }
        let below: AddressPattern = "*.example.com".parse().unwrap();
        for (domain, matches) in
            [("a.example.com", true), ("a.b.example.com", true), ("example.com", false), ("anexample.com", false)]
        {
            assert_eq!(below.matches(&domain.parse().unwrap()), matches, "{domain}");
        }
    }

    #[test]
    fn client_patterns() {
        for (text, canonical) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("*.Example.com", "*.example.com"),
        ] {
            assert_eq!(text.parse::<ClientPattern>().unwrap().to_string(), canonical);
        }
        for text in ["", "10.0.0.1/8", "10.0.0.0/33", "host.example", "*", "*.", "*.*.a", "*.10.0.0.1", "a.*.b"] {
            assert!(text.parse::<ClientPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn recipient_patterns() {
        let pattern: RecipientPattern = "*@Example.com".parse().unwrap();
        assert_eq!(pattern.to_string(), "*@example.com");
        assert!(pattern.matches(&"Any@example.COM".parse().unwrap()));
        assert!(!pattern.matches(&"any@a.example.com".parse().unwrap()));
        let pattern: RecipientPattern = "Ada@example.com".parse().unwrap();
        assert!(pattern.matches(&"ada@EXAMPLE.com".parse().unwrap()));
        for text in ["", "*", "*@", "example.com", "@example.com", "<>"] {
            assert!(text.parse::<RecipientPattern>().is_err(), "{text}");
        }
    }
}
