//! TLS of connections that go out: whom we trust, and what is known once it is agreed.
//!
//! [`ClientTls`] is what a connector needs to encrypt: built once from its settings, shared by its sessions. A [`Handshake`] is
//! one attempt of it, with one host, [`checked`](Check) or not.
//!
//! Checked means: a chain to a root that is trusted, valid now, for the name that was asked for (RFC 5280, RFC 9525). The
//! roots are the PEM that was given, and only those (a server's own self-signed certificate may be one), else the system's, which are read when they are first needed
//! (`SSL_CERT_FILE` and `SSL_CERT_DIR` say where they are). Unchecked means that nothing is: whoever answers is taken, with
//! whatever he shows, since he could be anybody anyway. That keeps out who reads along, and nobody who stands between.
//!
//! [Tried](Check::Tried) means that it is looked whether the check would have held, and nothing follows from it but that
//! [it is told](Agreed::doubt): what MTA-STS wants of a policy in testing (RFC 8461, 5).
//!
//! Sessions are resumed only by the one they began with: what was checked once was checked by the same roots.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, IpAddr, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
pub use tokio_rustls::client::TlsStream;

use super::dane::Dane;
use super::identity::{Facts, Identity};
use super::{cipher, provider, roots};
use crate::smtp::client::{TlsFault, TlsFaultKind};

/// Most certificates of a peer's chain that are looked at.
const MOST_LINKS: usize = 10;

/// What a connector needs to encrypt.
pub struct ClientTls {
    /// Whom to trust; `None`: the system's roots.
    given: Option<Given>,
    /// Shown to servers that ask for it.
    identity: Option<Arc<Identity>>,
    /// Of everything that it was made from.
    digest: [u8; 32],
    checked: OnceCell<Arc<ClientConfig>>,
    unchecked: OnceLock<Arc<ClientConfig>>,
}

impl ClientTls {
    /// With the issuers in `ca` (PEM) for roots, and an identity of our own.
    ///
    /// # Errors
    /// In words, when `ca` holds no certificate that can be used.
    pub fn new(ca: Option<&str>, identity: Option<Arc<Identity>>) -> Result<Self, String> {
        let digest = digest(ca, identity.as_deref());
        let given = ca.map(Given::read).transpose()?;
        Ok(ClientTls { given, identity, digest, checked: OnceCell::new(), unchecked: OnceLock::new() })
    }

    /// Whether it is what these would make.
    pub fn is_made_of(&self, ca: Option<&str>, identity: Option<&Identity>) -> bool {
        self.digest == digest(ca, identity)
    }

    async fn config(&self, check: &Check, doubt: &Doubt) -> Result<Arc<ClientConfig>, String> {
        match check {
            Check::Nothing => Ok(self.unchecked.get_or_init(|| self.build(Arc::new(Unchecked))).clone()),
            Check::Name => self.checked.get_or_try_init(|| self.build_checked()).await.cloned(),
            // made anew each time, so that no session is resumed that other records had vouched for
            Check::Dane(dane) => Ok(self.build(dane.clone())),
            // also made anew: a session that is resumed shows no certificate
            Check::Tried => {
                let checked = self.checker().await.inspect_err(|why| doubt.put(why.as_str().into())).ok();
                Ok(self.build(Arc::new(Tried { checked, doubt: doubt.clone() })))
            }
        }
    }

    async fn build_checked(&self) -> Result<Arc<ClientConfig>, String> {
        Ok(self.build(Arc::new(self.checker().await?)))
    }

    async fn checker(&self) -> Result<Checked, String> {
        let roots = match &self.given {
            Some(given) => given.roots.clone(),
            None => system_roots().await?,
        };
        let by_chain = WebPkiServerVerifier::builder_with_provider(roots, provider().clone()).build();
        let by_chain = by_chain.map_err(|error| error.to_string())?;
        let own = self.given.as_ref().map(|given| given.certificates.clone()).unwrap_or_default();
        Ok(Checked { by_chain, own })
    }

    fn build(&self, verifier: Arc<dyn ServerCertVerifier>) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        Arc::new(match &self.identity {
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key().clone())))
            }
            None => builder.with_no_client_auth(),
        })
    }
}

/// The system's roots and no identity.
impl Default for ClientTls {
    fn default() -> Self {
        ClientTls::new(None, None).expect("there is nothing that could be wrong")
    }
}

/// Two are equal when they were made of the same.
impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for ClientTls {}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = self.given.as_ref().map_or("the system's".to_owned(), |given| given.certificates.len().to_string());
        write!(f, "ClientTls(roots: {roots}, identity: {:?})", self.identity)
    }
}

fn digest(ca: Option<&str>, identity: Option<&Identity>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([u8::from(ca.is_some()), u8::from(identity.is_some())]);
    hash.update(identity.map_or(&[0; 32], |identity| identity.digest()));
    hash.update(ca.unwrap_or_default().as_bytes());
    hash.finalize().into()
}

/// The certificates that somebody gave to be trusted.
struct Given {
    roots: Arc<RootCertStore>,
    certificates: Arc<[CertificateDer<'static>]>,
}

impl Given {
    fn read(pem: &str) -> Result<Self, String> {
        let roots = Arc::new(roots(pem)?);
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect();
        Ok(Given { roots, certificates })
    }
}

/// Read once; as long as there are none, they are looked for again.
async fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceCell<Arc<RootCertStore>> = OnceCell::const_new();
    let read = || async {
        let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(loaded.map_err(|error| error.to_string())?.certs);
        if roots.is_empty() {
            return Err("this system has no root certificates; name those to trust in security.ca".to_owned());
        }
        Ok(Arc::new(roots))
    };
    ROOTS.get_or_try_init(read).await.cloned()
}

/// What is checked of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Nothing.
    Nothing,
    /// That its certificate is good for the name.
    Name,
    /// The same, but it holds also when that is not so: the doubt is told.
    Tried,
    /// That it is the one that TLSA records mean.
    Dane(Arc<Dane>),
}

/// How to begin TLS on one connection.
#[derive(Debug, Clone)]
pub struct Handshake {
    /// With what.
    pub tls: Arc<ClientTls>,
    /// The name that is asked for (SNI), and checked if anything is.
    pub name: ServerName<'static>,
    /// What is checked.
    pub check: Check,
}

impl Handshake {
    /// Does the handshake of a client.
    ///
    /// # Errors
    /// When it fails; the server was told by an alert. Time limits are the caller's.
    pub async fn run<S>(&self, stream: S) -> Result<(TlsStream<S>, Agreed), TlsFault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let doubt = Doubt::default();
        let config = self.tls.config(&self.check, &doubt).await?;
        let stream =
            TlsConnector::from(config).connect(self.name.clone(), stream).await.map_err(|error| fault(&error))?;
        let agreed = Agreed { doubt: doubt.take(), ..Agreed::of(&stream, &self.check) };
        Ok((stream, agreed))
    }
}

/// The name of a host or its address, as certificates have it; `None` when none can.
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.trim_end_matches('.').to_owned()).ok()
}

/// Asks for no name.
pub fn no_name(address: std::net::IpAddr) -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::from(address))
}

fn fault(error: &io::Error) -> TlsFault {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the server closed the connection".into();
    }
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    TlsFault { kind: of_tls.map_or(TlsFaultKind::Other, kind), words: error.to_string() }
}

/// Of what sort it is that a certificate is not taken.
fn kind(error: &rustls::Error) -> TlsFaultKind {
    use CertificateError as Error;
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            Error::Expired | Error::ExpiredContext { .. } | Error::NotValidYet | Error::NotValidYetContext { .. } => {
                TlsFaultKind::Expired
            }
            Error::NotValidForName | Error::NotValidForNameContext { .. } => TlsFaultKind::HostMismatch,
            _ => TlsFaultKind::NotTrusted,
        },
        _ => TlsFaultKind::Other,
    }
}

/// What is known of a connection once TLS is agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// `TLSv1.3`, as RFC 8314, 4.3 and Received fields write it.
    pub version: &'static str,
    /// The cipher suite, as IANA names it.
    pub cipher: String,
    /// Whether the server's certificate was found good for the name.
    pub verified: bool,
    /// Why it would not have been, where that was tried ([`Check::Tried`]).
    pub doubt: Option<TlsFault>,
    /// The server's certificates, its own first; at most ten.
    pub chain: Vec<Facts>,
}

impl Agreed {
    fn of<S>(stream: &TlsStream<S>, check: &Check) -> Self {
        let (_, connection) = stream.get_ref();
        let tls13 = connection.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let chain = connection.peer_certificates().unwrap_or_default();
        Agreed {
            version: if tls13 { "TLSv1.3" } else { "TLSv1.2" },
            cipher: cipher(connection.negotiated_cipher_suite()),
            verified: matches!(check, Check::Name | Check::Dane(_)),
            doubt: None,
            chain: chain.iter().take(MOST_LINKS).filter_map(Facts::of).collect(),
        }
    }
}

/// Takes who has a certificate for the name: by its chain, or one that was itself given to be trusted.
///
/// The latter are those of servers that sign for themselves. `openssl req -x509` marks them as issuers, and as a link of a chain
/// an issuer's is no server's.
#[derive(Debug)]
struct Checked {
    by_chain: Arc<WebPkiServerVerifier>,
    own: Arc<[CertificateDer<'static>]>,
}

impl ServerCertVerifier for Checked {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        links: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.own.contains(certificate) {
            return self.by_chain.verify_server_cert(certificate, links, name, ocsp, now);
        }
        let facts = Facts::of(certificate).ok_or(CertificateError::BadEncoding)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_mul(1_000);
        if now < facts.not_before.millis() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > facts.not_after.millis() {
            return Err(CertificateError::Expired.into());
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_chain.supported_verify_schemes()
    }
}

/// What speaks against a server that is taken all the same: the first that was found.
#[derive(Debug, Clone, Default)]
struct Doubt(Arc<Mutex<Option<TlsFault>>>);

impl Doubt {
    fn put(&self, fault: TlsFault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }

    fn take(&self) -> Option<TlsFault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Takes everybody, and notes whom [`Checked`] would not have taken. Without roots, that is noted already.
#[derive(Debug)]
struct Tried {
    checked: Option<Checked>,
    doubt: Doubt,
}

impl ServerCertVerifier for Tried {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        links: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(checked) = &self.checked
            && let Err(error) = checked.verify_server_cert(certificate, links, name, ocsp, now)
        {
            self.doubt.put(TlsFault { kind: kind(&error), words: error.to_string() });
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Unchecked.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Unchecked.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Unchecked.supported_verify_schemes()
    }
}

/// Takes everybody.
#[derive(Debug)]
struct Unchecked;

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // who can be anybody can sign as anybody: to check it would only shut out certificates of odd shapes

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
