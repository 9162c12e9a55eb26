//! A connection that we have made to fetch mail, and that was turned round (ATRN, RFC 2645): we are the server on it.
//!
//! It is a session of the virtual server like any other: it counts against its limits, its rules and filters hold, and who is there is
//! trusted no more than a client from that address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;

use super::Inbound;
use super::connection::{Place, converse};
use super::listener::limits;
use crate::config::VirtualServer;
use crate::model::host::IpAddress;
use crate::model::spec::virtual_server::{Binding, BindingTls, Protocol};
use crate::model::time::Timestamp;
use crate::net::stream::Accepted;
use crate::observe::metrics::ByName;
use crate::queue::turn::{Receives, Reversed};
use crate::status::Opening;

/// Takes the mail that was fetched.
pub struct Receiver(pub Arc<Inbound>);

#[async_trait]
impl Receives for Receiver {
    async fn receive(&self, reversed: Reversed) -> Result<u64, String> {
        let inbound = &self.0;
        let Reversed { stream, is_encrypted, peer, server: name } = reversed;
        let server = inbound.live.current().virtual_servers.get(&name).cloned();
        let server = server.filter(|server| server.spec.enabled && inbound.running.takes_sessions(&name));
        let server = server.ok_or_else(|| format!("virtual server {name} takes no sessions now"))?;
        let binding = binding(&server);
        let opening = Opening {
            server: name.clone(),
            binding: SocketAddr::new(binding.address.0, binding.port),
            peer,
            proxied: false,
            since: Timestamp::from_millis(inbound.intake.clock.unix_millis()),
        };
        let Ok(guard) = inbound.sessions.admit(opening, &limits(&server)) else {
            inbound.intake.metrics.refused(name.as_str());
            return Err(format!("virtual server {name} has too many sessions"));
        };
        let label = ByName { name: name.as_str().to_owned() };
        inbound.intake.metrics.connections.get_or_create(&label).inc();
        let session = guard.session().clone();
        let place = Place { address: peer.ip().to_canonical(), server, binding, is_encrypted, guard };
        converse(inbound, Accepted::new(stream, None), place).await;
        Ok(session.view().messages)
    }
}

/// What holds there: as on the first binding of the server that speaks SMTP, but that TLS cannot begin any more.
fn binding(server: &VirtualServer) -> Binding {
    let first = server.spec.bindings.iter().find(|binding| binding.protocol == Protocol::Smtp).cloned();
    let none = Binding {
        address: IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        port: 0,
        tls: BindingTls::None,
        protocol: Protocol::Smtp,
        proxy_protocol: None,
        bare_line_ends: Default::default(),
        filters: Vec::new(),
    };
    Binding { tls: BindingTls::None, proxy_protocol: None, ..first.unwrap_or(none) }
}
