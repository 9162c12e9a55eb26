//! Hosts that mail is handed to by name or address, and addresses that it is sent from: which of them cannot be meant.

use std::collections::HashSet;

use super::{Findings, Objects};
use crate::config::violation::ViolationCode;
use crate::model::host::{Host, IpAddress};
use crate::model::http_url::is_off_limits;
use crate::model::name::Name;
use crate::model::spec::Collection;

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

/// Source addresses that no machine can have. Whether this one has them is seen when they are used: they may come later.
pub(super) fn check_sources(of: (Collection, &Name), at: &str, sources: &[IpAddress], found: &mut Findings) {
    let mut seen = HashSet::new();
    for (index, source) in sources.iter().enumerate() {
        let pointer = format!("{at}/{index}");
        if !seen.insert(source) {
            found.wrong(of, pointer, ViolationCode::Duplicate, format!("{source} is in the list already"));
        } else if source.0.is_unspecified() || source.0.is_multicast() {
            let detail = format!("{source} is no address of a machine; an empty list leaves the choice to the system");
            found.wrong(of, pointer, ViolationCode::OutOfRange, detail);
        }
    }
}
