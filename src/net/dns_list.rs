//! Asks a DNS list about a client (DNSBL, RFC 5782).
//!
//! Bounded in time; the resolver caches. That the list says nothing of the client is an empty answer, that it gives no
//! answer is an error: what that means is for the caller to say.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::resolver::{ResolveError, Resolver};

/// Longest time that is waited for lists, in all.
pub const LIMIT: Duration = Duration::from_secs(10);
/// Most answers that are looked at.
const MOST: usize = 32;

/// What the list says of the client.
///
/// # Errors
/// [`ResolveError::TryLater`] when it gives no answer until the deadline.
pub async fn ask(
    resolver: &dyn Resolver,
    client: IpAddr,
    zone: &str,
    deadline: Instant,
) -> Result<Vec<Ipv4Addr>, ResolveError> {
    let name = query_name(client, zone);
    match timeout_at(deadline, resolver.ipv4_addresses(&name)).await {
        Err(_) => Err(ResolveError::TryLater("timed out".to_owned())),
        Ok(Ok(mut answers)) => {
            answers.truncate(MOST);
            Ok(answers)
        }
        Ok(Err(later @ ResolveError::TryLater(_))) => Err(later),
        Ok(Err(_)) => Ok(Vec::new()),
    }
}

/// The name that is asked for: the octets of an IPv4 address (2.1) or the nibbles of an IPv6 address (2.4), last first,
/// before the zone.
fn query_name(client: IpAddr, zone: &str) -> String {
    let reversed: String = match client.to_canonical() {
        IpAddr::V4(client) => client.octets().iter().rev().map(|octet| format!("{octet}.")).collect(),
        IpAddr::V6(client) => {
            client.octets().iter().rev().map(|octet| format!("{:x}.{:x}.", octet & 15, octet >> 4)).collect()
        }
    };
    reversed + zone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::resolver::StaticResolver;

    #[test]
    fn addresses_are_asked_for_backwards() {
        let name = |client: &str| query_name(client.parse().unwrap(), "bl.example");
        assert_eq!(name("192.0.2.99"), "99.2.0.192.bl.example");
        assert_eq!(name("::ffff:192.0.2.99"), "99.2.0.192.bl.example");
        assert_eq!(
            name("2001:db8:1:2:3:4:567:89ab"),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bl.example",
            "the example of RFC 5782, 2.4"
        );
    }

    #[tokio::test]
    async fn silence_is_told_from_absence() {
        let resolver = StaticResolver::new();
        let client = "192.0.2.99".parse().unwrap();
        let until = Instant::now() + LIMIT;
        let answers = ["127.0.0.2".parse().unwrap(), "::1".parse().unwrap(), "127.0.0.4".parse().unwrap()];
        resolver.set_addresses("99.2.0.192.bl.example", &answers);
        resolver.fail_addresses("99.2.0.192.lame.example", ResolveError::TryLater("SERVFAIL".into()));
        let listed = ask(&resolver, client, "bl.example", until).await.unwrap();
        assert_eq!(listed, [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 4)]);
        assert_eq!(ask(&resolver, client, "other.example", until).await, Ok(Vec::new()));
        assert!(ask(&resolver, client, "lame.example", until).await.is_err());
    }
}
