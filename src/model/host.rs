//! Hosts in configuration: names, addresses, name servers, and the form of a domain that look-ups compare.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::text::{text_schema, text_value};
use crate::smtp::address::{Domain, Mailbox};

text_schema!(
    Domain,
    "DomainName",
    "bridgehead-domain",
    "A domain name in lower case, or an address literal in brackets.",
    ["example.com"]
);
text_schema!(
    Mailbox,
    "Mailbox",
    "bridgehead-mailbox",
    "A mail address as RFC 5321 writes it, with its domain, without angle brackets.",
    ["user@example.com"]
);
text_schema!(
    super::name::Name,
    "Name",
    "bridgehead-name",
    "The name of an object: a-z, 0-9, '-', '.', '_', beginning and ending with a letter or digit, at most 63 characters (recipients: 128).",
    ["default"]
);

/// The form in which two spellings of one domain are equal: lower case, A-labels (RFC 5890). Domains that have no such
/// form, and address literals, are their own key.
pub fn domain_key(domain: &Domain) -> Cow<'_, str> {
    match domain {
        Domain::Name(name) if name.is_ascii() => Cow::Borrowed(name),
        Domain::Name(name) => idna::domain_to_ascii(name).map_or(Cow::Borrowed(name.as_str()), Cow::Owned),
        Domain::Literal(_) => Cow::Owned(domain.to_string()),
    }
}

/// A domain as it is given, and as it is spelt otherwise: with A-labels, with U-labels (RFC 5890).
pub fn spellings(domain: &Domain) -> Vec<Domain> {
    let mut all = vec![domain.clone()];
    if let Domain::Name(name) = domain {
        let (with_u, read) = idna::domain_to_unicode(name);
        let others = [domain_key(domain).into_owned(), read.map_or_else(|_| name.clone(), |()| with_u)];
        for other in others.map(Domain::Name) {
            if !all.contains(&other) {
                all.push(other);
            }
        }
    }
    all
}

/// Whether a domain lies below another one, at whatever depth.
pub fn is_below(domain: &Domain, parent: &Domain) -> bool {
    domain.name().is_some()
        && domain_key(domain).strip_suffix(&*domain_key(parent)).is_some_and(|rest| rest.ends_with('.'))
}

/// The key under which the directory finds a mailbox: lower case, the domain as [`domain_key`].
pub fn mailbox_key(mailbox: &Mailbox) -> String {
    if mailbox.domain().is_ascii() {
        mailbox.key()
    } else {
        format!("{}@{}", mailbox.local().to_lowercase(), domain_key(mailbox.domain()))
    }
}

/// The name of a host: letter-digit-hyphen labels in lower case; U-labels are turned into A-labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

/// The text is no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a host name is labels of letters, digits and hyphens with dots between them, such as mail.example.com")]
pub struct NotAHostName;

impl HostName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a domain.
    pub fn domain(&self) -> Domain {
        Domain::Name(self.0.clone())
    }
}

impl FromStr for HostName {
    type Err = NotAHostName;

    fn from_str(text: &str) -> Result<Self, NotAHostName> {
        let ascii = idna::domain_to_ascii(text).map_err(|_| NotAHostName)?;
        if text.parse::<IpAddr>().is_ok() {
            return Err(NotAHostName);
        }
        match ascii.parse::<Domain>() {
            Ok(Domain::Name(name)) if name.is_ascii() && name.len() <= 253 => Ok(HostName(name)),
            _ => Err(NotAHostName),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(HostName, "HostName", "bridgehead-host-name", "The name of a host.", ["mail.example.com"]);

/// A host to connect to: a name or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name; its addresses are looked up.
    Name(HostName),
    /// An address.
    Address(IpAddr),
}

/// The text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a host is a name such as mail.example.com, or an IP address")]
pub struct NotAHost;

impl FromStr for Host {
    type Err = NotAHost;

    /// Also takes an address in brackets, as Exchange wrote smart hosts.
    fn from_str(text: &str) -> Result<Self, NotAHost> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match bare.unwrap_or(text).parse() {
            Ok(address) => Ok(Host::Address(address)),
            Err(_) => text.parse().map(Host::Name).map_err(|_| NotAHost),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => name.fmt(f),
            Host::Address(address) => address.fmt(f),
        }
    }
}

text_value!(Host, "Host", "bridgehead-host", "A host: a name or an IP address.", ["smtp.example.net", "192.0.2.25"]);

/// A host with an optional port (default 25).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostAndPort {
    /// The host.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

/// The text is no host with a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a host with an optional port is needed: mail.example.com, mail.example.com:2525, 192.0.2.25 or [2001:db8::25]:2525"
)]
pub struct NotAHostAndPort;

impl HostAndPort {
    const USUAL: u16 = 25;
}

impl FromStr for HostAndPort {
    type Err = NotAHostAndPort;

    fn from_str(text: &str) -> Result<Self, NotAHostAndPort> {
        if let Ok(host) = text.parse() {
            return Ok(HostAndPort { host, port: HostAndPort::USUAL });
        }
        let (host, port) = text.rsplit_once(':').ok_or(NotAHostAndPort)?;
        let port: u16 = port.parse().map_err(|_| NotAHostAndPort)?;
        match host.parse() {
            Ok(host) if port != 0 => Ok(HostAndPort { host, port }),
            _ => Err(NotAHostAndPort),
        }
    }
}

/// Without the port when it is 25.
impl fmt::Display for HostAndPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            host if self.port == HostAndPort::USUAL => host.fmt(f),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

text_value!(
    HostAndPort,
    "HostAndPort",
    "bridgehead-host-and-port",
    "A host with an optional port (default 25).",
    ["mail.example.net", "192.0.2.25:2525"]
);

/// An IP address, version 4 or 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpAddress(pub IpAddr);

/// The text is no IP address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an IP address is needed, such as 192.0.2.1, 0.0.0.0 or 2001:db8::1")]
pub struct NotAnIpAddress;

impl FromStr for IpAddress {
    type Err = NotAnIpAddress;

    fn from_str(text: &str) -> Result<Self, NotAnIpAddress> {
        text.parse().map(IpAddress).map_err(|_| NotAnIpAddress)
    }
}

impl fmt::Display for IpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

text_value!(IpAddress, "IpAddress", "bridgehead-ip-address", "An IP address, version 4 or 6.", ["0.0.0.0", "::1"]);

/// A DNS server: an address with an optional port (default 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameServer(pub SocketAddr);

/// The text is no name server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a DNS server is an IP address with an optional port: 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353")]
pub struct NotANameServer;

impl FromStr for NameServer {
    type Err = NotANameServer;

    fn from_str(text: &str) -> Result<Self, NotANameServer> {
        let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        match address.or_else(|_| text.parse()) {
            Ok(address) if address.port() != 0 => Ok(NameServer(address)),
            _ => Err(NotANameServer),
        }
    }
}

/// Without the port when it is 53.
impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.port() == 53 { self.0.ip().fmt(f) } else { self.0.fmt(f) }
    }
}

text_value!(
    NameServer,
    "NameServer",
    "bridgehead-name-server",
    "A DNS server: an IP address with an optional port (default 53).",
    ["192.0.2.53", "127.0.0.1:5353"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_come_back_in_their_canonical_form() {
        for (text, canonical) in [
            ("Mail.Example.COM", "mail.example.com"),
            ("[192.0.2.1]", "192.0.2.1"),
            ("bücher.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), canonical);
        }
        for text in ["", "-a", "a b", "a..b", "[::1", "a/b", "a:25"] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
        for (text, canonical) in [("192.0.2.1:53", "192.0.2.1"), ("::1", "::1"), ("[::1]:5353", "[::1]:5353")] {
            assert_eq!(text.parse::<NameServer>().unwrap().to_string(), canonical);
        }
        for text in ["", "dns.example", "192.0.2.1:0", "192.0.2.1:70000"] {
            assert!(text.parse::<NameServer>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_stands_behind_a_host() {
        for (text, canonical) in [
            ("a.example", "a.example"),
            ("a.example:25", "a.example"),
            ("a.example:2525", "a.example:2525"),
            ("[2001:db8::1]:2525", "[2001:db8::1]:2525"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(text.parse::<HostAndPort>().unwrap().to_string(), canonical);
        }
        for text in ["", "a.example:", "a.example:0", "a.example:70000", ":25", "a b:25"] {
            assert!(text.parse::<HostAndPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn both_spellings_of_a_domain_have_one_key() {
        let (u, a): (Domain, Domain) = ("bücher.example".parse().unwrap(), "xn--bcher-kva.example".parse().unwrap());
        assert_eq!(domain_key(&u), domain_key(&a));
        assert_eq!(mailbox_key(&"A@Bücher.example".parse().unwrap()), "a@xn--bcher-kva.example");
    }
}
