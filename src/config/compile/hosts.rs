//! Hosts that mail is handed to by name or address: which of them cannot be meant.

use super::Objects;
use crate::model::host::Host;
use crate::model::http_url::is_off_limits;

/// Why mail cannot go to this host; `None`: it can.
pub(super) fn fault(objects: &Objects, host: &Host, port: u16) -> Option<String> {
    if let Host::Address(ip) = host
        && is_off_limits(*ip)
    {
        return Some(format!(
            "{ip} is a link-local address or the metadata service of a cloud: no mail server is there"
        ));
    }
    let ours = objects.virtual_servers.iter().find(|(_, (_, server))| match host {
        Host::Name(host) => server.fqdn.as_ref() == Some(host),
        Host::Address(host) => server.bindings.iter().any(|own| {
            own.port == port && (own.address.0 == *host || own.address.0.is_unspecified() && host.is_loopback())
        }),
    });
    ours.map(|(server, _)| format!("{host} port {port} is virtual server {server}: the mail would come back"))
}
