//! What the owner of a host asks by DNS (RFC 7672, 2.2): its TLSA records, looked for where DNSSEC vouches for its address, at
//! `_port._tcp` of the name at the end of its aliases, else of the name itself.

use std::net::IpAddr;
use std::sync::Arc;

use crate::net::resolver::{ResolveError, Resolver};
use crate::net::tls::client::server_name;
use crate::net::tls::dane::{Dane, Tlsa as Record};
use crate::routing::asked::{Asked, Tlsa};

/// By which names hosts are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    /// Whether TLSA records are looked for.
    pub dane: bool,
    /// The domain that the mail is for, if its MX records name the hosts: their certificates may be for it too.
    pub domain: Option<&'a str>,
}

impl Names<'_> {
    /// Of hosts that an operator named.
    pub(super) fn own(dane: bool) -> Self {
        Names { dane, domain: None }
    }
}

/// The addresses of a host, and what its owner asks.
///
/// # Errors
/// When it has no address, or nobody can say: a host whose address is forged is none.
pub(super) async fn ask(
    resolver: &dyn Resolver,
    host: &str,
    port: u16,
    names: Names<'_>,
) -> Result<(Vec<IpAddr>, Asked), ResolveError> {
    if !names.dane {
        return Ok((resolver.addresses(host).await?, Asked::default()));
    }
    let found = resolver.vouched_addresses(host).await?;
    let mut asked = Asked::default();
    if found.secure {
        asked.dane = tlsa(resolver, host, &found.value.canonical, port, names).await;
    }
    Ok((found.value.addresses, asked))
}

async fn tlsa(resolver: &dyn Resolver, host: &str, canonical: &str, port: u16, names: Names<'_>) -> Tlsa {
    let mut bases = vec![canonical];
    if !canonical.eq_ignore_ascii_case(host) {
        bases.push(host);
    }
    for base in bases {
        let found = match resolver.tlsa(&format!("_{port}._tcp.{base}")).await {
            Ok(found) if found.secure => found.value,
            Ok(_) | Err(ResolveError::NoRecords | ResolveError::NoSuchDomain | ResolveError::NullMx) => continue,
            Err(ResolveError::TryLater(why)) => return Tlsa::TryLater(why),
        };
        let usable: Vec<Record> = found.into_iter().flatten().collect();
        let names = [Some(base), Some(host), names.domain].into_iter().flatten().filter_map(server_name).collect();
        return Dane::new(&usable, names).map_or(Tlsa::Unusable, |dane| Tlsa::Usable(Arc::new(dane)));
    }
    Tlsa::None
}
