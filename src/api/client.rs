//! Where a request comes from: the peer of its connection, or, where that is a proxy that is trusted, who the proxy says it is.

use std::net::{IpAddr, SocketAddr};

use actix_web::{HttpRequest, web};

use super::server::State;
use crate::model::pattern::Network;

/// What proxies add the address of their client to.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Most proxies in front of each other.
const MOST_PROXIES: usize = 16;

/// The address of the client; `None` by the socket of this machine.
pub(super) fn of(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    let trusted = request.app_data::<web::Data<State>>().map_or(&[][..], |state| &state.proxies);
    let named = request.headers().get_all(FORWARDED_FOR).map(|value| value.to_str().unwrap_or_default());
    let named: Vec<&str> = named.flat_map(|value| value.split(',')).collect();
    Some(behind(peer, trusted, &named))
}

/// From the peer towards the client as long as the one who says so is trusted. What lies behind is the client's own invention.
fn behind(peer: IpAddr, trusted: &[Network], named: &[&str]) -> IpAddr {
    let mut client = peer.to_canonical();
    for name in named.iter().rev().take(MOST_PROXIES) {
        if !trusted.iter().any(|network| network.0.contains(&client)) {
            break;
        }
        let Some(address) = address(name.trim()) else { break };
        client = address.to_canonical();
    }
    client
}

/// An address; some proxies write its port too.
fn address(text: &str) -> Option<IpAddr> {
    let alone = || text.parse().ok();
    alone().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_say_who_the_client_is() {
        let trusted: Vec<Network> = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).to_vec();
        for (peer, named, client) in [
            ("192.0.2.1", &["198.51.100.7"][..], "192.0.2.1"),
            ("10.1.1.1", &[], "10.1.1.1"),
            ("10.1.1.1", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:10.1.1.1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("fd00::1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            // the client invents what stands before its own address
            ("10.1.1.1", &["203.0.113.5", " 198.51.100.7"], "198.51.100.7"),
            ("10.1.1.1", &["203.0.113.5", "198.51.100.7", "10.2.2.2"], "198.51.100.7"),
            // what is no address is nobody
            ("10.1.1.1", &["203.0.113.5", "unknown"], "10.1.1.1"),
            ("10.1.1.1", &["203.0.113.5", ""], "10.1.1.1"),
        ] {
            let found = behind(peer.parse().unwrap(), &trusted, named);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} {named:?}");
        }
    }
}
