//! URLs that the appliance posts to, and the addresses that it never connects to on anybody's behalf.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::text::text_value;

/// A URL with `http` or `https` and a host, without user, password and fragment, at most 2,048 octets. Its host is no address
/// that is [off limits](is_off_limits); a name may still lead to one, which is looked at when it is resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HttpUrl(url::Url);

/// The text is no such URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnHttpUrl {
    /// Not of this form.
    #[error("a URL is needed such as https://app.example.com/mail, with http or https, at most 2048 octets")]
    Form,
    /// What is secret has fields of its own.
    #[error("the URL must have neither user nor password nor fragment: configuration is readable")]
    Secrets,
    /// See [`is_off_limits`].
    #[error("nothing is sent to link-local addresses, nor to those where clouds keep their metadata")]
    OffLimits,
}

impl HttpUrl {
    /// The URL.
    pub fn url(&self) -> &url::Url {
        &self.0
    }

    /// Scheme, host and port: what may stand in logs and reports. A path or query may hold a token.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }
}

impl FromStr for HttpUrl {
    type Err = NotAnHttpUrl;

    fn from_str(text: &str) -> Result<Self, NotAnHttpUrl> {
        let url =
            url::Url::parse(text).ok().filter(|url| text.len() <= 2_048 && matches!(url.scheme(), "http" | "https"));
        let url = url.filter(|_| !text.contains(char::is_whitespace)).ok_or(NotAnHttpUrl::Form)?;
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(NotAnHttpUrl::Secrets);
        }
        let literal = match url.host() {
            Some(url::Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(url::Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(url::Host::Domain(_)) => None,
            None => return Err(NotAnHttpUrl::Form),
        };
        if literal.is_some_and(is_off_limits) { Err(NotAnHttpUrl::OffLimits) } else { Ok(HttpUrl(url)) }
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

text_value!(
    HttpUrl,
    "HttpUrl",
    "bridgehead-http-url",
    "A URL with http or https, without user, password and fragment.",
    ["https://app.example.com/mail"]
);

/// True for addresses that no request of ours goes to, whoever configured it: link-local ones (RFC 3927, RFC 4291) and those
/// outside of them where clouds answer with credentials. Also in IPv6 that carries IPv4.
pub fn is_off_limits(address: IpAddr) -> bool {
    /// Alibaba, Azure, Oracle.
    const METADATA: [Ipv4Addr; 3] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
    /// AWS, Google.
    const METADATA_V6: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
    match address {
        IpAddr::V4(address) => address.is_link_local() || METADATA.contains(&address),
        IpAddr::V6(address) => {
            address.segments()[0] & 0xffc0 == 0xfe80
                || METADATA_V6.contains(&address)
                || carried(address).is_some_and(|address| is_off_limits(IpAddr::V4(address)))
        }
    }
}

/// True for addresses that anybody may reach: not [off limits](is_off_limits), not of this machine, not of a network of one's own
/// (RFC 6890). Also in IPv6 that carries IPv4.
pub fn is_public(address: IpAddr) -> bool {
    if is_off_limits(address) {
        return false;
    }
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            !(address.is_loopback()
                || address.is_private()
                || address.is_multicast()
                || a == 0
                || a >= 240
                || a == 100 && b & 0xc0 == 64
                || (a, b, c) == (192, 0, 0)
                || a == 198 && b & 0xfe == 18)
        }
        IpAddr::V6(address) => match carried(address) {
            // the unspecified address and that of the machine itself, too
            Some(inner) => is_public(IpAddr::V4(inner)),
            // global unicast (RFC 4291, 2.4)
            None => address.segments()[0] & 0xe000 == 0x2000,
        },
    }
}

/// The IPv4 address in an IPv6 one: mapped or compatible (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056).
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] | [0x2002, a, b, ..] => Some(low(a, b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_not_public() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "169.254.169.254",
            "198.18.0.1",
            "::",
            "::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2a00:1450::1", "64:ff9b::808:808"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn urls_hold_no_secrets_and_lead_to_no_metadata() {
        let url: HttpUrl = "https://App.Example.com/a?token=x".parse().unwrap();
        assert_eq!(
            (url.to_string().as_str(), url.origin().as_str()),
            ("https://app.example.com/a?token=x", "https://app.example.com")
        );
        assert!("http://127.0.0.1:8080/x".parse::<HttpUrl>().is_ok() && "http://[::1]/".parse::<HttpUrl>().is_ok());
        for text in [
            "",
            "/x",
            "ftp://a.example/",
            "mailto:a@b.example",
            "file:///etc/passwd",
            "http://",
            "http://a b/",
            "http://a.example/ x",
        ] {
            assert_eq!(text.parse::<HttpUrl>(), Err(NotAnHttpUrl::Form), "{text}");
        }
        for text in ["http://u@a.example/", "http://u:p@a.example/", "http://a.example/#f"] {
            assert_eq!(text.parse::<HttpUrl>(), Err(NotAnHttpUrl::Secrets), "{text}");
        }
        // every spelling that the URL standard turns into such an address
        for host in [
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "169.254.43518",
            "[fe80::1]",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:a9fe:a9fe::]",
            "[::169.254.1.1]",
            "[fd00:ec2::254]",
            "100.100.100.200",
        ] {
            assert_eq!(format!("http://{host}/").parse::<HttpUrl>(), Err(NotAnHttpUrl::OffLimits), "{host}");
        }
    }
}
