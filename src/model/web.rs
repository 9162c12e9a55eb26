//! URLs of other services in configuration: `https`, or `http` on this machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::http_url::is_off_limits;
use super::text::text_value;

/// A URL of a service that the appliance asks: encrypted, unless it is on this machine. Without credentials, without a
/// fragment, and not of the addresses where clouds keep their metadata.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceUrl(url::Url);

/// The text is no such URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an https URL is needed (http only for localhost), without a user, a fragment or a link-local address")]
pub struct NotAServiceUrl;

impl ServiceUrl {
    /// The URL.
    pub fn url(&self) -> &url::Url {
        &self.0
    }

    /// True when it leads to this machine.
    pub fn is_loopback(&self) -> bool {
        self.0.host().is_some_and(|host| is_loopback(&host))
    }
}

fn is_loopback(host: &url::Host<&str>) -> bool {
    match host {
        url::Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        url::Host::Ipv4(v4) => v4.is_loopback(),
        url::Host::Ipv6(v6) => v6.to_canonical().is_loopback(),
    }
}

fn is_forbidden(host: &url::Host<&str>) -> bool {
    let v4 =
        |v4: Ipv4Addr| is_off_limits(IpAddr::V4(v4)) || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast();
    let v6 = |v6: Ipv6Addr| is_off_limits(IpAddr::V6(v6)) || v6.is_unspecified() || v6.is_multicast();
    match host {
        url::Host::Domain(_) => false,
        url::Host::Ipv4(address) => v4(*address),
        url::Host::Ipv6(address) => match address.to_canonical() {
            IpAddr::V4(address) => v4(address),
            IpAddr::V6(address) => v6(address),
        },
    }
}

impl FromStr for ServiceUrl {
    type Err = NotAServiceUrl;

    fn from_str(text: &str) -> Result<Self, NotAServiceUrl> {
        let url = url::Url::parse(text).map_err(|_| NotAServiceUrl)?;
        let host = url.host().ok_or(NotAServiceUrl)?;
        let encrypted = url.scheme() == "https" || url.scheme() == "http" && is_loopback(&host);
        let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if encrypted && bare && !is_forbidden(&host) && text.len() <= 2_048 {
            Ok(ServiceUrl(url))
        } else {
            Err(NotAServiceUrl)
        }
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

text_value!(
    ServiceUrl,
    "ServiceUrl",
    "bridgehead-service-url",
    "The URL of another service: https, or http on this machine; without credentials and fragment.",
    ["https://login.example.com/keys"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for text in
            ["https://login.example.com/keys?v=1", "http://127.0.0.1:8080/", "http://localhost/x", "http://[::1]/"]
        {
            assert_eq!(text.parse::<ServiceUrl>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "login.example.com",
            "http://login.example.com/",
            "http://127.0.0.1.example.com/",
            "https://user@login.example.com/",
            "https://login.example.com/#x",
            "https://169.254.169.254/latest",
            "https://[fe80::1]/",
            "https://[::ffff:169.254.169.254]/",
            "https://0.0.0.0/",
            "https://168.63.129.16/",
            "https://[fd00:ec2::254]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "ftp://login.example.com/",
            "file:///etc/passwd",
        ] {
            assert!(text.parse::<ServiceUrl>().is_err(), "{text}");
        }
    }
}
