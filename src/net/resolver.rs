//! DNS behind a trait: the MX records of a domain, the addresses of a host.
//!
//! Errors tell apart what a sender must tell apart (RFC 5321, 5.1; RFC 7505): the name does not exist, it has no
//! such record, it takes no mail, or nobody can say now. SERVFAIL, REFUSED, time-outs and lame servers are all
//! [`ResolveError::TryLater`]: they never bounce mail. Every lookup is bounded in time; answers are cached
//! for their TTL.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Resolver as Hickory, ResolverBuilder, TokioResolver};

use super::tls::dane::Tlsa;
use vouched::Validating;
pub use vouched::{Addresses, Vouched};

mod vouched;

/// One MX record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mx {
    /// Lower is preferred.
    pub preference: u16,
    /// The host, in lower case, without a trailing dot.
    pub exchange: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// NXDOMAIN.
    #[error("the domain does not exist")]
    NoSuchDomain,
    /// The name exists without records of the type. For MX: the host itself is the implicit MX.
    #[error("the domain has no such record")]
    NoRecords,
    /// A null MX: the domain takes no mail (RFC 7505). From [`Resolver::mx`] alone.
    #[error("the domain takes no mail (null MX)")]
    NullMx,
    /// Nobody can say now; the text is for operators.
    #[error("the name servers gave no answer: {0}")]
    TryLater(String),
}

/// Looks names up.
#[async_trait]
pub trait Resolver: Send + Sync + fmt::Debug {
    /// The MX records of a domain, most preferred first, at least one. No fallback to addresses.
    ///
    /// # Errors
    /// See [`ResolveError`]; [`ResolveError::NoRecords`] is the case of the implicit MX.
    async fn mx(&self, domain: &str) -> Result<Vec<Mx>, ResolveError>;

    /// The addresses of a host, IPv6 first, at least one.
    ///
    /// # Errors
    /// See [`ResolveError`]. One address family that fails does not hide the other.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError>;

    /// The IPv4 addresses of a host, at least one: for names that have no others, such as those of DNS lists.
    ///
    /// # Errors
    /// See [`ResolveError`].
    async fn ipv4_addresses(&self, host: &str) -> Result<Vec<Ipv4Addr>, ResolveError> {
        let addresses = self.addresses(host).await?;
        let found: Vec<Ipv4Addr> = addresses
            .into_iter()
            .filter_map(|address| match address {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(_) => None,
            })
            .collect();
        if found.is_empty() { Err(ResolveError::NoRecords) } else { Ok(found) }
    }

    /// The names that the owner of an address gives it (PTR), in lower case, without a trailing dot, at most
    /// [`MOST_NAMES`]. Anybody can claim any name there: see [`verified_name`].
    ///
    /// # Errors
    /// See [`ResolveError`].
    async fn names(&self, address: IpAddr) -> Result<Vec<String>, ResolveError>;

    /// As [`Resolver::mx`], validated. An answer whose signatures are wrong is [`ResolveError::TryLater`].
    ///
    /// # Errors
    /// See [`ResolveError`].
    async fn vouched_mx(&self, domain: &str) -> Result<Vouched<Vec<Mx>>, ResolveError> {
        self.mx(domain).await.map(Vouched::insecure)
    }

    /// As [`Resolver::addresses`], validated, with the name at the end of aliases.
    ///
    /// # Errors
    /// See [`ResolveError`].
    async fn vouched_addresses(&self, name: &str) -> Result<Vouched<Addresses>, ResolveError> {
        let addresses = self.addresses(name).await?;
        Ok(Vouched::insecure(Addresses { addresses, canonical: host(name) }))
    }

    /// The TLSA records of a name such as `_25._tcp.mx.example.com`, at least one; `None` stands for one that cannot be used.
    ///
    /// # Errors
    /// See [`ResolveError`].
    async fn tlsa(&self, _: &str) -> Result<Vouched<Vec<Option<Tlsa>>>, ResolveError> {
        Err(ResolveError::NoRecords)
    }

    /// The TXT records of a name, each put together of its strings, at least one.
    ///
    /// # Errors
    /// See [`ResolveError`].
    async fn texts(&self, _: &str) -> Result<Vec<String>, ResolveError> {
        Err(ResolveError::NoRecords)
    }
}

/// Most names of one address that are looked at.
pub const MOST_NAMES: usize = 5;

/// The name of a client that can be believed: one that its address has (PTR), and that has this address.
///
/// # Errors
/// When nobody can say now. `Ok(None)`: it has no such name.
pub async fn verified_name(resolver: &dyn Resolver, client: IpAddr) -> Result<Option<String>, ResolveError> {
    let names = match resolver.names(client).await {
        Err(later @ ResolveError::TryLater(_)) => return Err(later),
        Err(_) => return Ok(None),
        Ok(names) => names,
    };
    let mut doubt = None;
    for name in names.into_iter().take(MOST_NAMES) {
        match resolver.addresses(&name).await {
            Ok(addresses) if addresses.iter().any(|address| address.to_canonical() == client) => return Ok(Some(name)),
            Err(later @ ResolveError::TryLater(_)) => doubt = Some(later),
            _ => {}
        }
    }
    doubt.map_or(Ok(None), Err)
}

/// The resolver in use: hickory over the system's name servers or those of a configuration.
pub struct HickoryResolver {
    inner: TokioResolver,
    validating: Validating,
    limit: Duration,
}

impl fmt::Debug for HickoryResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HickoryResolver").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// The resolver could not be made.
#[derive(Debug, thiserror::Error)]
#[error("no resolver: {0}")]
pub struct ResolverSetupError(#[from] NetError);

impl HickoryResolver {
    /// Longest time for one lookup.
    pub const LIMIT: Duration = Duration::from_secs(20);

    /// With the name servers of the system (`/etc/resolv.conf`); validates by these keys.
    ///
    /// # Errors
    /// When the system's settings cannot be read.
    pub fn system(anchors: &Arc<TrustAnchors>) -> Result<Self, ResolverSetupError> {
        Self::build(Hickory::builder_tokio()?, Hickory::builder_tokio()?, anchors)
    }

    /// With these name servers, asked over UDP, and over TCP when an answer is cut; validates by these keys.
    ///
    /// # Errors
    /// When the resolver refuses the settings.
    pub fn with_servers(servers: &[SocketAddr], anchors: &Arc<TrustAnchors>) -> Result<Self, ResolverSetupError> {
        let name_servers = servers.iter().map(|server| {
            let mut udp = ConnectionConfig::udp();
            udp.port = server.port();
            let mut tcp = ConnectionConfig::tcp();
            tcp.port = server.port();
            NameServerConfig::new(server.ip(), true, vec![udp, tcp])
        });
        let config = ResolverConfig::from_parts(None, vec![], name_servers.collect());
        let builder = || Hickory::builder_with_config(config.clone(), TokioRuntimeProvider::default());
        Self::build(builder(), builder(), anchors)
    }

    fn build(
        mut plain: ResolverBuilder<TokioRuntimeProvider>,
        mut validating: ResolverBuilder<TokioRuntimeProvider>,
        anchors: &Arc<TrustAnchors>,
    ) -> Result<Self, ResolverSetupError> {
        tune(plain.options_mut());
        tune(validating.options_mut());
        // what aliases say is part of what must be signed
        validating.options_mut().preserve_intermediates = true;
        let validating = Validating::new(validating.with_trust_anchor(anchors.clone()).build()?);
        Ok(HickoryResolver { inner: plain.build()?, validating, limit: Self::LIMIT })
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, ResolveError> {
        // the dot at the end keeps the search list of the system out
        let name = format!("{}.", name.trim_end_matches('.'));
        match tokio::time::timeout(self.limit, self.inner.lookup(name.as_str(), kind)).await {
            Err(_) => Err(ResolveError::TryLater("timed out".to_owned())),
            Ok(Err(error)) => Err(classify(&error)),
            Ok(Ok(lookup)) => {
                let data: Vec<RData> =
                    lookup.answers().iter().filter(|r| r.record_type() == kind).map(|r| r.data.clone()).collect();
                if data.is_empty() { Err(ResolveError::NoRecords) } else { Ok(data) }
            }
        }
    }
}

fn tune(options: &mut ResolverOpts) {
    options.timeout = Duration::from_secs(4);
    options.attempts = 2;
    options.cache_size = 16_384;
    options.negative_max_ttl = Some(Duration::from_secs(300));
    options.positive_max_ttl = Some(Duration::from_secs(3600));
}

fn classify(error: &NetError) -> ResolveError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => ResolveError::NoSuchDomain,
            // a referral instead of an answer: the server does not serve the zone
            ResponseCode::NoError if none.ns.is_some() && none.soa.is_none() => {
                ResolveError::TryLater("lame delegation".to_owned())
            }
            ResponseCode::NoError => ResolveError::NoRecords,
            code => ResolveError::TryLater(code.to_string()),
        },
        other => ResolveError::TryLater(other.to_string()),
    }
}

#[async_trait]
impl Resolver for HickoryResolver {
    async fn mx(&self, domain: &str) -> Result<Vec<Mx>, ResolveError> {
        let records = self.lookup(domain, RecordType::MX).await?;
        let mut found: Vec<Mx> = records
            .iter()
            .filter_map(|data| match data {
                RData::MX(mx) => Some(Mx { preference: mx.preference, exchange: host(&mx.exchange.to_utf8()) }),
                _ => None,
            })
            .collect();
        sort_mx(&mut found)?;
        Ok(found)
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let (six, four) = tokio::join!(self.lookup(host, RecordType::AAAA), self.lookup(host, RecordType::A));
        let found: Vec<IpAddr> = [&six, &four]
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|data| match data {
                RData::AAAA(a) => Some(IpAddr::V6(a.0)),
                RData::A(a) => Some(IpAddr::V4(a.0)),
                _ => None,
            })
            .collect();
        if !found.is_empty() {
            return Ok(found);
        }
        // a doubt in either family is a doubt in the whole
        match (six, four) {
            (Err(later @ ResolveError::TryLater(_)), _) | (_, Err(later)) | (Err(later), _) => Err(later),
            (Ok(_), Ok(_)) => Err(ResolveError::NoRecords),
        }
    }

    async fn ipv4_addresses(&self, host: &str) -> Result<Vec<Ipv4Addr>, ResolveError> {
        let records = self.lookup(host, RecordType::A).await?;
        let addresses = records.iter().filter_map(|data| match data {
            RData::A(a) => Some(a.0),
            _ => None,
        });
        Ok(addresses.collect())
    }

    async fn names(&self, address: IpAddr) -> Result<Vec<String>, ResolveError> {
        let reverse = Name::from(address.to_canonical()).to_utf8();
        let records = self.lookup(&reverse, RecordType::PTR).await?;
        let names = records.iter().filter_map(|data| match data {
            RData::PTR(name) => Some(host(&name.0.to_utf8())),
            _ => None,
        });
        let names: Vec<String> = names.filter(|name| !name.is_empty()).take(MOST_NAMES).collect();
        if names.is_empty() { Err(ResolveError::NoRecords) } else { Ok(names) }
    }

    async fn vouched_mx(&self, domain: &str) -> Result<Vouched<Vec<Mx>>, ResolveError> {
        if self.validating.is_able().await {
            return self.validating.mx(domain, self.limit).await;
        }
        self.mx(domain).await.map(Vouched::insecure)
    }

    async fn vouched_addresses(&self, name: &str) -> Result<Vouched<Addresses>, ResolveError> {
        if self.validating.is_able().await {
            return self.validating.addresses(name, self.limit).await;
        }
        let addresses = self.addresses(name).await?;
        Ok(Vouched::insecure(Addresses { addresses, canonical: host(name) }))
    }

    async fn tlsa(&self, name: &str) -> Result<Vouched<Vec<Option<Tlsa>>>, ResolveError> {
        if self.validating.is_able().await {
            return self.validating.tlsa(name, self.limit).await;
        }
        Err(ResolveError::NoRecords)
    }

    async fn texts(&self, name: &str) -> Result<Vec<String>, ResolveError> {
        let records = self.lookup(name, RecordType::TXT).await?;
        let text = |data: &RData| match data {
            RData::TXT(text) => Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned()),
            _ => None,
        };
        Ok(records.iter().filter_map(text).collect())
    }
}

fn host(name: &str) -> String {
    name.trim_end_matches('.').to_lowercase()
}

/// Sorts by preference and finds the null MX: one record with an empty host. Empty hosts beside others are left out.
fn sort_mx(found: &mut Vec<Mx>) -> Result<(), ResolveError> {
    found.retain(|mx| !mx.exchange.is_empty());
    if found.is_empty() {
        return Err(ResolveError::NullMx);
    }
    found.sort();
    Ok(())
}

/// A file of trust anchors cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the trust anchors in {file} cannot be used: {why}")]
pub struct AnchorError {
    file: String,
    why: String,
}

/// Resolvers by the name servers they ask; made when they are first needed.
pub struct Resolvers {
    system: Option<Arc<dyn Resolver>>,
    anchors: Arc<TrustAnchors>,
    made: Mutex<HashMap<Vec<SocketAddr>, Arc<dyn Resolver>>>,
}

/// Most resolvers that are kept.
const MOST_RESOLVERS: usize = 64;

impl Resolvers {
    /// With the system's name servers where none are named.
    pub fn new() -> Self {
        Self::with_anchors(TrustAnchors::default())
    }

    /// The same; DNSSEC is validated by the keys in a file of DNSKEY records instead of by those of the root.
    ///
    /// # Errors
    /// In words, when it cannot be read, or holds no key.
    pub fn with_anchor_file(file: &Path) -> Result<Self, AnchorError> {
        let fault = |why: String| AnchorError { file: file.display().to_string(), why };
        let anchors = TrustAnchors::from_file(file).map_err(|error| fault(error.to_string()))?;
        if anchors.is_empty() {
            return Err(fault("it has no DNSKEY record of the root".to_owned()));
        }
        Ok(Self::with_anchors(anchors))
    }

    fn with_anchors(anchors: TrustAnchors) -> Self {
        Resolvers { system: None, anchors: Arc::new(anchors), made: Mutex::default() }
    }

    /// With this resolver instead of the system's.
    pub fn with_system(system: Arc<dyn Resolver>) -> Self {
        Resolvers { system: Some(system), ..Self::new() }
    }

    /// The resolver that asks these name servers; none: the system's.
    ///
    /// # Errors
    /// When there is none to be had.
    pub fn of(&self, servers: &[SocketAddr]) -> Result<Arc<dyn Resolver>, ResolverSetupError> {
        if servers.is_empty()
            && let Some(system) = &self.system
        {
            return Ok(system.clone());
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = made.get(servers) {
            return Ok(resolver.clone());
        }
        let resolver = if servers.is_empty() {
            HickoryResolver::system(&self.anchors)
        } else {
            HickoryResolver::with_servers(servers, &self.anchors)
        };
        let resolver: Arc<dyn Resolver> = Arc::new(resolver?);
        if made.len() >= MOST_RESOLVERS {
            // configurations come and go; resolvers that nobody asks any more shall not stay
            made.clear();
        }
        made.insert(servers.to_vec(), resolver.clone());
        Ok(resolver)
    }
}

impl Default for Resolvers {
    fn default() -> Self {
        Self::new()
    }
}

/// A resolver for tests: it knows what it was told, and says NXDOMAIN to the rest.
#[derive(Debug, Default)]
pub struct StaticResolver {
    mx: RwLock<HashMap<String, Result<Vec<Mx>, ResolveError>>>,
    addresses: RwLock<HashMap<String, Result<Vec<IpAddr>, ResolveError>>>,
    names: RwLock<HashMap<IpAddr, Vec<String>>>,
}

impl StaticResolver {
    /// Knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what [`Resolver::mx`] says of a domain: `(preference, exchange)`.
    pub fn set_mx(&self, domain: &str, records: &[(u16, &str)]) {
        let mut found: Vec<Mx> = records
            .iter()
            .map(|(preference, exchange)| Mx { preference: *preference, exchange: host(exchange) })
            .collect();
        let answer = sort_mx(&mut found).map(|()| found);
        self.mx.write().unwrap_or_else(PoisonError::into_inner).insert(host(domain), answer);
    }

    /// Makes [`Resolver::mx`] fail for a domain.
    pub fn fail_mx(&self, domain: &str, error: ResolveError) {
        self.mx.write().unwrap_or_else(PoisonError::into_inner).insert(host(domain), Err(error));
    }

    /// Sets what [`Resolver::addresses`] says of a host. Unless told otherwise the host then has no MX records.
    pub fn set_addresses(&self, name: &str, addresses: &[IpAddr]) {
        let answer = if addresses.is_empty() { Err(ResolveError::NoRecords) } else { Ok(addresses.to_vec()) };
        self.addresses.write().unwrap_or_else(PoisonError::into_inner).insert(host(name), answer);
        let mut mx = self.mx.write().unwrap_or_else(PoisonError::into_inner);
        mx.entry(host(name)).or_insert(Err(ResolveError::NoRecords));
    }

    /// Sets the names of an address (PTR).
    pub fn set_names(&self, address: IpAddr, names: &[&str]) {
        let names = names.iter().map(|name| host(name)).collect();
        self.names.write().unwrap_or_else(PoisonError::into_inner).insert(address, names);
    }

    /// Makes [`Resolver::addresses`] fail for a host.
    pub fn fail_addresses(&self, name: &str, error: ResolveError) {
        self.addresses.write().unwrap_or_else(PoisonError::into_inner).insert(host(name), Err(error));
    }
}

#[async_trait]
impl Resolver for StaticResolver {
    async fn mx(&self, domain: &str) -> Result<Vec<Mx>, ResolveError> {
        let mx = self.mx.read().unwrap_or_else(PoisonError::into_inner);
        mx.get(&host(domain)).cloned().unwrap_or(Err(ResolveError::NoSuchDomain))
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        addresses.get(&host(name)).cloned().unwrap_or(Err(ResolveError::NoSuchDomain))
    }

    async fn names(&self, address: IpAddr) -> Result<Vec<String>, ResolveError> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(&address).cloned().ok_or(ResolveError::NoSuchDomain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_static_resolver_tells_its_errors_apart() {
        let resolver = StaticResolver::new();
        resolver.set_mx("a.example", &[(20, "MX2.a.example."), (10, "mx1.a.example")]);
        resolver.set_mx("null.example", &[(0, ".")]);
        resolver.set_addresses("host.example", &["192.0.2.1".parse().unwrap()]);
        resolver.fail_mx("lame.example", ResolveError::TryLater("SERVFAIL".into()));
        let exchanges: Vec<String> =
            resolver.mx("A.example").await.unwrap().into_iter().map(|mx| mx.exchange).collect();
        assert_eq!(exchanges, ["mx1.a.example", "mx2.a.example"]);
        assert_eq!(resolver.mx("null.example").await, Err(ResolveError::NullMx));
        assert_eq!(resolver.mx("host.example").await, Err(ResolveError::NoRecords));
        assert_eq!(resolver.mx("nowhere.example").await, Err(ResolveError::NoSuchDomain));
        assert!(matches!(resolver.mx("lame.example").await, Err(ResolveError::TryLater(_))));
    }

    #[tokio::test]
    async fn a_name_counts_when_it_points_back() {
        let resolver = StaticResolver::new();
        let (honest, liar, doubtful) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap(), "192.0.2.3".parse().unwrap());
        resolver.set_names(honest, &["other.example", "Mail.a.example."]);
        resolver.set_addresses("mail.a.example", &["2001:db8::1".parse().unwrap(), honest]);
        resolver.set_names(liar, &["mail.a.example"]);
        resolver.set_names(doubtful, &["lame.example"]);
        resolver.fail_addresses("lame.example", ResolveError::TryLater("SERVFAIL".into()));
        assert_eq!(verified_name(&resolver, honest).await, Ok(Some("mail.a.example".to_owned())));
        assert_eq!(verified_name(&resolver, liar).await, Ok(None));
        assert_eq!(verified_name(&resolver, "192.0.2.9".parse().unwrap()).await, Ok(None));
        assert!(verified_name(&resolver, doubtful).await.is_err());
    }

    #[tokio::test]
    async fn a_silent_name_server_is_try_later() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut resolver = HickoryResolver::with_servers(&[silent.local_addr().unwrap()], &Arc::default()).unwrap();
        resolver.limit = Duration::from_millis(100);
        assert!(matches!(resolver.mx("a.example").await, Err(ResolveError::TryLater(_))));
    }

    /// A name server that says what the first label of the name tells it to say.
    async fn name_server() -> SocketAddr {
        use hickory_resolver::proto::op::Message;
        use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX};
        use hickory_resolver::proto::rr::{Name, Record};

        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut octets = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut octets).await {
                let request = Message::from_vec(&octets[..length]).unwrap();
                let query = request.queries[0].clone();
                let (name, kind) = (query.name().clone(), query.query_type());
                let record = |data| Record::from_rdata(name.clone(), 60, data);
                let mx = |preference, host: &str| RData::MX(MX::new(preference, Name::from_ascii(host).unwrap()));
                let mut response = Message::response(request.metadata.id, request.metadata.op_code);
                response.metadata.recursion_desired = true;
                response.metadata.recursion_available = true;
                response.add_query(query);
                let label = name.to_ascii().to_lowercase();
                match (label.split('.').next().unwrap(), kind) {
                    ("nowhere", _) => response.metadata.response_code = ResponseCode::NXDomain,
                    ("servfail", _) => response.metadata.response_code = ResponseCode::ServFail,
                    ("refused", _) => response.metadata.response_code = ResponseCode::Refused,
                    ("half", RecordType::AAAA) => response.metadata.response_code = ResponseCode::ServFail,
                    ("half", RecordType::A) => {
                        response.add_answer(record(RData::A(A::new(192, 0, 2, 1))));
                    }
                    ("alias", _) => {
                        let target = Name::from_ascii("two.example.").unwrap();
                        response.add_answer(record(RData::CNAME(CNAME(target.clone()))));
                        response.add_answer(Record::from_rdata(target, 60, mx(10, "mx1.two.example.")));
                    }
                    ("null", RecordType::MX) => {
                        response.add_answer(record(mx(0, ".")));
                    }
                    ("two", RecordType::MX) => {
                        response.add_answer(record(mx(20, "MX2.two.example.")));
                        response.add_answer(record(mx(10, "mx1.two.example.")));
                    }
                    ("mx1", RecordType::A) => {
                        response.add_answer(record(RData::A(A::new(192, 0, 2, 2))));
                    }
                    ("mx1", RecordType::AAAA) => {
                        let address = "2001:db8::2".parse::<std::net::Ipv6Addr>().unwrap();
                        response.add_answer(record(RData::AAAA(AAAA(address))));
                    }
                    _ => {}
                }
                socket.send_to(&response.to_vec().unwrap(), client).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn what_name_servers_say_is_told_apart() {
        let resolver = HickoryResolver::with_servers(&[name_server().await], &Arc::default()).unwrap();
        let host = |preference, exchange: &str| Mx { preference, exchange: exchange.to_owned() };
        let two = Ok(vec![host(10, "mx1.two.example"), host(20, "mx2.two.example")]);
        assert_eq!(resolver.mx("two.example").await, two);
        assert_eq!(resolver.mx("TWO.example.").await, two);
        assert_eq!(resolver.mx("alias.example").await, Ok(vec![host(10, "mx1.two.example")]));
        assert_eq!(resolver.mx("null.example").await, Err(ResolveError::NullMx));
        assert_eq!(resolver.mx("nowhere.example").await, Err(ResolveError::NoSuchDomain));
        assert_eq!(resolver.mx("none.example").await, Err(ResolveError::NoRecords));
        assert!(matches!(resolver.mx("servfail.example").await, Err(ResolveError::TryLater(_))));
        assert!(matches!(resolver.mx("refused.example").await, Err(ResolveError::TryLater(_))));
        let addresses = |texts: &[&str]| Ok(texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>());
        assert_eq!(resolver.addresses("mx1.two.example").await, addresses(&["2001:db8::2", "192.0.2.2"]));
        assert_eq!(resolver.addresses("half.example").await, addresses(&["192.0.2.1"]));
        assert_eq!(resolver.ipv4_addresses("mx1.two.example").await, Ok(vec![Ipv4Addr::new(192, 0, 2, 2)]));
        assert_eq!(resolver.ipv4_addresses("nowhere.example").await, Err(ResolveError::NoSuchDomain));
        assert_eq!(resolver.addresses("none.example").await, Err(ResolveError::NoRecords));
        assert_eq!(resolver.addresses("nowhere.example").await, Err(ResolveError::NoSuchDomain));
        assert!(matches!(resolver.addresses("servfail.example").await, Err(ResolveError::TryLater(_))));
    }
}
