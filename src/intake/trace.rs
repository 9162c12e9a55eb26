//! Our trace field: who handed the message in, how, and when (RFC 5321, 4.4; RFC 3848 and RFC 6531 for the protocol's name).

use std::net::IpAddr;

use super::Sender;
use crate::dsn::date_field;
use crate::model::mail::MessageId;
use crate::model::time::Timestamp;
use crate::smtp::address::ForwardPath;
use crate::smtp::parameters::MailParameters;

/// The field with its CRLF. `only`: the recipient, when there is one; with several it would tell each about the others.
pub(super) fn received(
    sender: &Sender,
    parameters: &MailParameters,
    id: MessageId,
    only: Option<&ForwardPath>,
    now: Timestamp,
) -> String {
    let client = &sender.client;
    let address = match client.address {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    };
    let name = client.name.as_ref().map_or_else(String::new, |name| format!("{name} "));
    // who names himself is told by his name, with what we know behind it
    let from = sender.door.helo().map_or_else(|| address.clone(), |helo| format!("{helo} ({name}{address})"));
    let tls = client.tls.as_ref().map_or_else(String::new, |tls| format!(" ({} {})", tls.version, tls.cipher));
    let for_whom = only.map_or_else(String::new, |path| format!("\r\n\tfor <{path}>"));
    format!(
        "Received: from {from}\r\n\tby {by} (Bridgehead) with {protocol}{tls}\r\n\tid {id}{for_whom};\r\n\t{date}\r\n",
        by = client.server.fqdn.as_str(),
        protocol = sender.with(parameters),
        date = date_field(now),
    )
}
