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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use async_trait::async_trait;

    use super::*;
    use crate::net::resolver::{Addresses, Mx, Vouched};

    #[derive(Debug, Clone)]
    struct Answer(Result<Vouched<Vec<Option<Record>>>, ResolveError>);

    /// DNS in which `mx.example` may be an alias of `real.example`.
    #[derive(Debug, Default)]
    struct Dns {
        secure: bool,
        alias: bool,
        tlsa: HashMap<&'static str, Answer>,
    }

    #[async_trait]
    impl Resolver for Dns {
        async fn mx(&self, _: &str) -> Result<Vec<Mx>, ResolveError> {
            Err(ResolveError::NoRecords)
        }

        async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
            assert_eq!(host, "mx.example");
            Ok(vec!["192.0.2.1".parse().unwrap()])
        }

        async fn names(&self, _: IpAddr) -> Result<Vec<String>, ResolveError> {
            Err(ResolveError::NoRecords)
        }

        async fn vouched_addresses(&self, host: &str) -> Result<Vouched<Addresses>, ResolveError> {
            let canonical = if self.alias { "real.example" } else { host }.to_owned();
            Ok(Vouched { value: Addresses { addresses: self.addresses(host).await?, canonical }, secure: self.secure })
        }

        async fn tlsa(&self, name: &str) -> Result<Vouched<Vec<Option<Record>>>, ResolveError> {
            assert!(self.secure, "nobody asks where the address is not vouched for");
            self.tlsa.get(name).map_or(Err(ResolveError::NoRecords), |answer| answer.0.clone())
        }
    }

    fn record(octet: u8) -> Option<Record> {
        Record::new(3, 1, 1, &[octet; 32])
    }

    fn vouched(records: &[Option<Record>]) -> Result<Vouched<Vec<Option<Record>>>, ResolveError> {
        Ok(Vouched { value: records.to_vec(), secure: true })
    }

    /// The name that is asked for and the records that count, or a word.
    async fn found(dns: &Dns, names: Names<'_>) -> String {
        let (addresses, asked) = ask(dns, "mx.example", 25, names).await.unwrap();
        assert_eq!(addresses.len(), 1);
        match asked.dane {
            Tlsa::None => "none".to_owned(),
            Tlsa::Unusable => "unusable".to_owned(),
            Tlsa::TryLater(_) => "later".to_owned(),
            Tlsa::Usable(dane) => {
                let records: Vec<String> = dane.records().iter().map(|text| text[6..8].to_owned()).collect();
                format!("{} {}", dane.name().to_str(), records.join(","))
            }
        }
    }

    #[tokio::test]
    async fn records_count_where_everything_is_vouched_for() {
        const OWN: &str = "_25._tcp.mx.example";
        const REAL: &str = "_25._tcp.real.example";
        let later = || Err(ResolveError::TryLater("SERVFAIL".to_owned()));
        let insecure = Ok(Vouched::insecure(vec![record(1)]));
        let (own, real) = (vouched(&[record(1), None, record(2)]), vouched(&[record(3)]));
        for (secure, alias, answers, is) in [
            (true, false, vec![(OWN, own.clone())], "mx.example 01,02"),
            (false, false, vec![(OWN, own.clone())], "none"),
            (true, false, vec![], "none"),
            (true, false, vec![(OWN, insecure.clone())], "none"),
            (true, false, vec![(OWN, vouched(&[None]))], "unusable"),
            (true, false, vec![(OWN, later())], "later"),
            (true, false, vec![(OWN, Err(ResolveError::NoSuchDomain))], "none"),
            (true, true, vec![(OWN, own.clone()), (REAL, real.clone())], "real.example 03"),
            (true, true, vec![(OWN, own.clone())], "mx.example 01,02"),
            (true, true, vec![(OWN, own.clone()), (REAL, later())], "later"),
            (true, true, vec![(OWN, own.clone()), (REAL, vouched(&[None]))], "unusable"),
        ] {
            let dns =
                Dns { secure, alias, tlsa: answers.into_iter().map(|(name, answer)| (name, Answer(answer))).collect() };
            assert_eq!(found(&dns, Names { dane: true, domain: Some("d.example") }).await, is, "{dns:?}");
            let not_asked = Dns { secure: false, ..dns };
            assert_eq!(found(&not_asked, Names::own(false)).await, "none");
        }
    }
}
