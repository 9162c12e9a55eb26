//! Patterns in configuration: which domains ([`AddressPattern`]) and which clients ([`ClientPattern`]).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::host::domain_key;
use super::text::text_value;
use crate::smtp::address::Domain;

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
            AddressPattern::Below(own) => {
                domain.name().is_some()
                    && domain_key(domain).strip_suffix(&*domain_key(own)).is_some_and(|rest| rest.ends_with('.'))
            }
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

/// Which clients: an address or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientPattern(IpNet);

/// The text is no client pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAClientPattern {
    /// Neither address nor network.
    #[error(
        "clients are given as an IP address or a network in CIDR notation, such as 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32"
    )]
    Syntax,
    /// The network has bits behind its prefix.
    #[error("the network has bits set behind its prefix; meant {0}?")]
    HostBits(IpNet),
}

impl ClientPattern {
    /// As a network; an address is a network of one.
    pub fn net(&self) -> IpNet {
        self.0
    }

    /// True for 0.0.0.0/0 and ::/0.
    pub fn is_everybody(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl FromStr for ClientPattern {
    type Err = NotAClientPattern;

    fn from_str(text: &str) -> Result<Self, NotAClientPattern> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(ClientPattern(address.to_canonical().into()));
        }
        let net: IpNet = text.parse().map_err(|_| NotAClientPattern::Syntax)?;
        if net.trunc() != net {
            return Err(NotAClientPattern::HostBits(net.trunc()));
        }
        Ok(ClientPattern(net))
    }
}

impl fmt::Display for ClientPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

text_value!(
    ClientPattern,
    "ClientPattern",
    "bridgehead-client-pattern",
    "Which clients: an IP address, or a network in CIDR notation.",
    ["192.0.2.1", "10.0.0.0/8", "2001:db8::/32"]
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
        ] {
            assert_eq!(text.parse::<ClientPattern>().unwrap().to_string(), canonical);
        }
        for text in ["", "10.0.0.1/8", "10.0.0.0/33", "host.example", "*"] {
            assert!(text.parse::<ClientPattern>().is_err(), "{text}");
        }
    }
}
