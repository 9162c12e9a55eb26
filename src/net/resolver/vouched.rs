//! Answers of DNS that DNSSEC vouches for (RFC 4033 to 4035), validated here, from the root's key down: what a name server says
//! of its own checks is not asked.
//!
//! Not every name server hands signatures on. One that does not could only make every signed zone look forged, so the root is
//! asked for first: as long as its own keys do not validate, nothing is vouched for and nothing is looked up twice. Once they
//! did, they are expected to for as long as the process lives: taking signatures away then is an attack or a fault, and defers
//! mail as a forged answer does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::dnssec::rdata::{DNSSECRData, NSEC};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::{Mx, ResolveError, classify, host, sort_mx};
use crate::net::tls::dane::Tlsa;

/// How long a name server that hands no signatures on is not asked for them again.
const PROBE_AGAIN: Duration = Duration::from_secs(60);
/// The same, when it could not say: at a start the network may not be there yet.
const PROBE_SOON: Duration = Duration::from_secs(5);
/// Longest time for that question.
const PROBE: Duration = Duration::from_secs(5);
/// How long "there is no such record" is remembered.
const NEGATIVE: Duration = Duration::from_secs(30);
/// Most names of which that is remembered.
const MOST_NEGATIVE: usize = 4_096;
/// Most TLSA records of a name that are looked at.
const MOST_TLSA: usize = 32;

/// An answer, and whether DNSSEC vouches for all of it, aliases included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched<T> {
    /// What was found.
    pub value: T,
    /// Whether it is signed, and the signatures hold.
    pub secure: bool,
}

impl<T> Vouched<T> {
    /// An answer that nobody vouches for.
    pub fn insecure(value: T) -> Self {
        Vouched { value, secure: false }
    }
}

/// The addresses of a host, and where its aliases lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// IPv6 first; at least one.
    pub addresses: Vec<IpAddr>,
    /// The name that has them, in ASCII: the host, or the end of its aliases.
    pub canonical: String,
}

/// A resolver that validates.
pub(super) struct Validating {
    inner: TokioResolver,
    able: AtomicBool,
    /// Until when it is not asked again.
    rests: tokio::sync::Mutex<Option<Instant>>,
    negative: Mutex<HashMap<(String, RecordType), (Instant, ResolveError)>>,
}

impl Validating {
    pub(super) fn new(inner: TokioResolver) -> Self {
        Validating {
            inner,
            able: AtomicBool::new(false),
            rests: tokio::sync::Mutex::default(),
            negative: Mutex::default(),
        }
    }

    /// Whether its name servers hand signatures on.
    pub(super) async fn is_able(&self) -> bool {
        if self.able.load(Ordering::Acquire) {
            return true;
        }
        let mut rests = self.rests.lock().await;
        if self.able.load(Ordering::Acquire) {
            return true;
        }
        if rests.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let root = self.ask(".", RecordType::DNSKEY, PROBE).await;
        let rest = if matches!(root, Err(Fault::Unknown(_))) { PROBE_SOON } else { PROBE_AGAIN };
        let secure = root.is_ok_and(|root| is_secure(root.answers()));
        self.able.store(secure, Ordering::Release);
        if rests.is_none() && !secure {
            tracing::info!("the name servers hand no DNSSEC signatures on: DANE is not used where they are asked");
        }
        *rests = Some(Instant::now() + rest);
        secure
    }

    async fn lookup(
        &self,
        name: &str,
        kind: RecordType,
        limit: Duration,
    ) -> Result<Vouched<Vec<Record>>, ResolveError> {
        let name = format!("{}.", name.trim_end_matches('.'));
        let key = (name.to_lowercase(), kind);
        if let Some(known) = self.recall(&key) {
            return Err(known);
        }
        let found = match self.ask(&name, kind, limit).await {
            Err(Fault::Forged) => self.through_wildcard(&name, kind, limit).await,
            Err(fault) => Err(fault.into()),
            Ok(lookup) => {
                let secure = is_secure(lookup.answers());
                let of_kind = |record: &&Record| record.record_type() == kind;
                let records: Vec<Record> = lookup.answers().iter().filter(of_kind).cloned().collect();
                if records.is_empty() { Err(ResolveError::NoRecords) } else { Ok(Vouched { value: records, secure }) }
            }
        };
        if let Err(error @ (ResolveError::NoRecords | ResolveError::NoSuchDomain)) = &found {
            self.remember(key, error.clone());
        }
        found
    }

    /// One question, in a task of its own: validation stumbles over some answers (hickory-net 0.26.3 over NSEC3 records of the
    /// root), and who sends such answers shall not stop the one who asked.
    async fn ask(&self, name: &str, kind: RecordType, limit: Duration) -> Result<Lookup, Fault> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        let lookup = async move { tokio::time::timeout(limit, inner.lookup(name, kind)).await };
        match tokio::spawn(lookup).await {
            Ok(Ok(Ok(lookup))) => Ok(lookup),
            Ok(Ok(Err(error))) => Err(Fault::of(error)),
            Ok(Err(_)) => Err(Fault::Unknown("timed out".to_owned())),
            Err(_) => Err(Fault::Unknown("DNSSEC: the answer cannot be validated".to_owned())),
        }
    }

    /// What a wildcard says of a name. hickory-net 0.26.3 takes its answer for forged where the NSEC record that denies the name is
    /// the wildcard's own, as it is for `*._tcp.mx.example.com`. So the same is learned in two steps that it can validate: that
    /// the name has no records and which wildcard stands for it, as an answer about a type that there is not; then what
    /// the wildcard itself has.
    async fn through_wildcard(
        &self,
        name: &str,
        kind: RecordType,
        limit: Duration,
    ) -> Result<Vouched<Vec<Record>>, ResolveError> {
        let owner = Name::from_ascii(name).map_err(|_| forged())?;
        let Err(Fault::Nothing { proof, .. }) = self.ask(name, RecordType::HINFO, limit).await else {
            return Err(forged());
        };
        let signed: Vec<(&Name, &NSEC)> = proof.iter().filter_map(nsec).collect();
        let wildcards = signed.iter().filter(|(at, _)| at.is_wildcard() && at.base_name().zone_of(&owner));
        let wildcard = wildcards
            .max_by_key(|(at, _)| at.num_labels())
            .filter(|(_, nsec)| nsec.type_set().contains(kind) && signed.iter().all(|(at, _)| **at != owner));
        let Some((wildcard, _)) = wildcard else { return Err(forged()) };
        let lookup = self.ask(&wildcard.to_ascii(), kind, limit).await.map_err(|_| forged())?;
        if !is_secure(lookup.answers()) {
            return Err(forged());
        }
        let of_kind = lookup.answers().iter().filter(|record| record.record_type() == kind).cloned();
        let of_name = of_kind.map(|mut record| {
            record.name = owner.clone();
            record
        });
        Ok(Vouched { value: of_name.collect(), secure: true })
    }

    fn recall(&self, key: &(String, RecordType)) -> Option<ResolveError> {
        let negative = self.negative.lock().unwrap_or_else(PoisonError::into_inner);
        negative.get(key).filter(|(at, _)| at.elapsed() < NEGATIVE).map(|(_, error)| error.clone())
    }

    fn remember(&self, key: (String, RecordType), error: ResolveError) {
        let mut negative = self.negative.lock().unwrap_or_else(PoisonError::into_inner);
        if negative.len() >= MOST_NEGATIVE {
            negative.clear();
        }
        negative.insert(key, (Instant::now(), error));
    }

    pub(super) async fn mx(&self, domain: &str, limit: Duration) -> Result<Vouched<Vec<Mx>>, ResolveError> {
        let found = self.lookup(domain, RecordType::MX, limit).await?;
        let mx = |record: &Record| match &record.data {
            RData::MX(mx) => Some(Mx { preference: mx.preference, exchange: host(&mx.exchange.to_utf8()) }),
            _ => None,
        };
        let mut records: Vec<Mx> = found.value.iter().filter_map(mx).collect();
        sort_mx(&mut records)?;
        Ok(Vouched { value: records, secure: found.secure })
    }

    /// Secure when the answers of both families are, so far as there are any. A forged one is a doubt in the whole.
    pub(super) async fn addresses(&self, name: &str, limit: Duration) -> Result<Vouched<Addresses>, ResolveError> {
        let (six, four) =
            tokio::join!(self.lookup(name, RecordType::AAAA, limit), self.lookup(name, RecordType::A, limit));
        let mut all = Vec::new();
        let mut secure = true;
        let mut failed = None;
        for family in [six, four] {
            match family {
                Ok(found) => {
                    secure &= found.secure;
                    all.extend(found.value);
                }
                Err(later @ ResolveError::TryLater(_)) => failed = Some(later),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let canonical = all.first().map(|record: &Record| host(&record.name.to_ascii()));
        let address = |record: &Record| match &record.data {
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            RData::A(a) => Some(IpAddr::V4(a.0)),
            _ => None,
        };
        let addresses: Vec<IpAddr> = all.iter().filter_map(address).collect();
        match (canonical, addresses.is_empty()) {
            (Some(canonical), false) => Ok(Vouched { value: Addresses { addresses, canonical }, secure }),
            _ => Err(failed.unwrap_or(ResolveError::NoRecords)),
        }
    }

    pub(super) async fn tlsa(&self, name: &str, limit: Duration) -> Result<Vouched<Vec<Option<Tlsa>>>, ResolveError> {
        let found = self.lookup(name, RecordType::TLSA, limit).await?;
        let tlsa = |record: &Record| match &record.data {
            RData::TLSA(data) => {
                Some(Tlsa::new(data.cert_usage.into(), data.selector.into(), data.matching.into(), &data.cert_data))
            }
            _ => None,
        };
        Ok(Vouched { value: found.value.iter().filter_map(tlsa).take(MOST_TLSA).collect(), secure: found.secure })
    }
}

fn is_secure(answers: &[Record]) -> bool {
    let mut data = answers.iter().filter(|record| record.record_type() != RecordType::RRSIG).peekable();
    data.peek().is_some() && data.all(|record| record.proof.is_secure())
}

fn nsec(record: &Record) -> Option<(&Name, &NSEC)> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) if record.proof.is_secure() => Some((&record.name, nsec)),
        _ => None,
    }
}

/// Why there is no answer.
enum Fault {
    /// There is no such record, or no such name. A denial that is not signed counts where nothing there needs to be.
    Nothing { error: ResolveError, proof: Vec<Record> },
    /// It is not signed as its zone says, or a signature is wrong.
    Forged,
    /// Nobody can say.
    Unknown(String),
}

impl Fault {
    fn of(error: NetError) -> Self {
        let error = match error {
            NetError::Dns(DnsError::Nsec { response, proof: Proof::Insecure, .. }) => match response.response_code {
                ResponseCode::NXDomain => ResolveError::NoSuchDomain,
                _ => ResolveError::NoRecords,
            },
            NetError::Dns(DnsError::Nsec { .. } | DnsError::DnssecBogus) => return Fault::Forged,
            NetError::Dns(DnsError::NoRecordsFound(none)) => {
                let proof = none.authorities.as_deref().unwrap_or_default().to_vec();
                match classify(&NetError::Dns(DnsError::NoRecordsFound(none))) {
                    ResolveError::TryLater(why) => return Fault::Unknown(why),
                    error => return Fault::Nothing { error, proof },
                }
            }
            other => return Fault::Unknown(other.to_string()),
        };
        Fault::Nothing { error, proof: Vec::new() }
    }
}

impl From<Fault> for ResolveError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Nothing { error, .. } => error,
            Fault::Forged => forged(),
            Fault::Unknown(why) => ResolveError::TryLater(why),
        }
    }
}

fn forged() -> ResolveError {
    let words = "DNSSEC: the answer is not signed as its zone says, or a signature is wrong";
    ResolveError::TryLater(words.to_owned())
}
