//! TLS of connections that come in (those that go out: [`client`]): certificates, which of them a client gets, and what is known once it is agreed.
//!
//! [`Identity`] is a certificate chain with its key, checked to belong together. [`ServerTls`] is what a virtual server
//! needs to encrypt: built once from its identities and settings, shared by its sessions, replaced as a whole when any of it
//! changes; connections that are open keep the one they began with. [`ServerTls::accept`] makes a TLS stream of any stream
//! and tells in [`Secured`] what was agreed.
//!
//! The client's hello is read first, then the identity is chosen: the first of those for the host that the client names
//! (SNI, RFC 6066, 3; exact names before wildcards) whose key the client can check, else the first at all. So a server may
//! have an ECDSA and an RSA certificate for one name, and the certificate that a session has is known exactly, as channel
//! binding needs (RFC 5929, 4).
//!
//! TLS 1.2 and 1.3 as rustls does them, post-quantum key exchange preferred; sessions are resumed by tickets whose keys
//! live in memory only. A failed handshake ends the connection: rustls sends the alert. Time limits are the caller's.

pub mod client;
pub mod dane;
mod identity;
mod reload;

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, NoClientAuth, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
pub use tokio_rustls::server::TlsStream;

pub use identity::{Facts, Identity, IdentityError, Part};
pub use reload::Exchangeable;

/// The cryptography of the process: the same for everything that speaks TLS.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// Makes [`provider`] the default of libraries that do not ask. Called once, in `main`.
pub fn install() {
    // an error means that there is a default already, which only a second call can have made
    let _ = (**provider()).clone().install_default();
}

/// The oldest version that a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oldest {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// Whether clients are asked for a certificate, and the PEM of those who may have issued it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskClients<'a> {
    /// Not asked.
    No,
    /// Asked; a client may have none, but not an invalid one.
    May(&'a str),
    /// A valid one is needed.
    Must(&'a str),
}

/// Why a server cannot encrypt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerTlsError {
    /// There is no identity.
    #[error("it has no certificate that can be used")]
    NoIdentity,
    /// The issuers of client certificates cannot be read.
    #[error("the client CA cannot be used: {0}")]
    ClientCa(String),
    /// The parts do not work together.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// What a virtual server needs to encrypt.
pub struct ServerTls {
    /// Each identity with its configuration, in order: the first is the default. Never empty.
    choices: Vec<(Arc<Identity>, Arc<ServerConfig>)>,
    /// Of everything that it was made from.
    digest: [u8; 32],
}

impl ServerTls {
    /// Of these identities, the first being the default.
    ///
    /// # Errors
    /// See [`ServerTlsError`].
    pub fn new(identities: &[Arc<Identity>], oldest: Oldest, clients: AskClients<'_>) -> Result<Self, ServerTlsError> {
        let setup = |error: rustls::Error| ServerTlsError::Setup(error.to_string());
        let verifier = verifier(clients)?;
        let versions: &[&rustls::SupportedProtocolVersion] = match oldest {
            Oldest::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            Oldest::Tls13 => &[&rustls::version::TLS13],
        };
        // one for all, so that a session can be resumed whichever identity it began with
        let tickets: Arc<dyn ProducesTickets> = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(setup)?;
        let choice = |identity: &Arc<Identity>| {
            let builder = ServerConfig::builder_with_provider(provider().clone())
                .with_protocol_versions(versions)
                .map_err(setup)?
                .with_client_cert_verifier(verifier.clone());
            let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key().clone())));
            config.ticketer = tickets.clone();
            Ok((identity.clone(), Arc::new(config)))
        };
        let choices = identities.iter().map(choice).collect::<Result<Vec<_>, ServerTlsError>>()?;
        if choices.is_empty() {
            return Err(ServerTlsError::NoIdentity);
        }
        Ok(ServerTls { choices, digest: digest(identities, oldest, clients) })
    }

    /// Whether it is what these would make.
    pub fn is_made_of(&self, identities: &[Arc<Identity>], oldest: Oldest, clients: AskClients<'_>) -> bool {
        self.digest == digest(identities, oldest, clients)
    }

    /// The identities, the default first.
    pub fn identities(&self) -> impl Iterator<Item = &Arc<Identity>> {
        self.choices.iter().map(|(identity, _)| identity)
    }

    /// Does the handshake of a server.
    ///
    /// # Errors
    /// When it fails; the client was told by an alert. What the error says is for the log.
    pub async fn accept<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Secured)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let (identity, config) = {
            let hello = start.client_hello();
            self.choose(hello.server_name(), hello.signature_schemes())
        };
        let stream = start.into_stream(config.clone()).await?;
        let secured = Secured::of(&stream, identity);
        Ok((stream, secured))
    }

    fn choose(&self, sni: Option<&str>, schemes: &[SignatureScheme]) -> &(Arc<Identity>, Arc<ServerConfig>) {
        let fits = |(identity, _): &&(Arc<Identity>, _)| identity.key().key.choose_scheme(schemes).is_some();
        let named = |wildcards: bool| {
            let sni = sni?;
            self.choices.iter().filter(|(identity, _)| identity.facts().is_for(sni, wildcards)).find(fits)
        };
        let choice = named(false).or_else(|| named(true)).or_else(|| self.choices.iter().find(fits));
        choice.unwrap_or(&self.choices[0])
    }
}

/// Two are equal when they were made of the same.
impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for ServerTls {}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.identities().map(|identity| identity.facts())).finish()
    }
}

fn verifier(clients: AskClients<'_>) -> Result<Arc<dyn ClientCertVerifier>, ServerTlsError> {
    let (pem, must) = match clients {
        AskClients::No => return Ok(Arc::new(NoClientAuth)),
        AskClients::May(pem) => (pem, false),
        AskClients::Must(pem) => (pem, true),
    };
    let wrong = |why: &dyn fmt::Display| ServerTlsError::ClientCa(why.to_string());
    let roots = roots(pem).map_err(|error| wrong(&error))?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider().clone());
    let builder = if must { builder } else { builder.allow_unauthenticated() };
    builder.build().map(|verifier| verifier as Arc<dyn ClientCertVerifier>).map_err(|error| wrong(&error))
}

/// The issuers in a PEM text, which are trusted.
fn roots(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("there is no PEM certificate in it".to_owned()) } else { Ok(roots) }
}

fn digest(identities: &[Arc<Identity>], oldest: Oldest, clients: AskClients<'_>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for identity in identities {
        hash.update(identity.digest());
    }
    hash.update([oldest as u8]);
    let (kind, pem) = match clients {
        AskClients::No => (0, ""),
        AskClients::May(pem) => (1, pem),
        AskClients::Must(pem) => (2, pem),
    };
    hash.update([kind]);
    hash.update(pem.as_bytes());
    hash.finalize().into()
}

/// What is known of a session once TLS is agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secured {
    /// `TLSv1.3`, as RFC 8314, 4.3 and Received fields write it.
    pub version: &'static str,
    /// The cipher suite, as IANA names it.
    pub cipher: String,
    /// The host that the client asked for.
    pub sni: Option<String>,
    /// The client's certificate; it was checked.
    pub client: Option<ClientCertificate>,
    /// Channel binding `tls-server-end-point` (RFC 5929, 4).
    pub end_point: Vec<u8>,
    /// Channel binding `tls-exporter` (RFC 9266); with TLS 1.3 only, where it is safe without further conditions.
    pub exporter: Option<Vec<u8>>,
}

/// A client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject, as RFC 4514 writes it.
    pub subject: String,
    /// Its SHA-256, in hexadecimal.
    pub fingerprint: String,
}

impl Secured {
    fn of<S>(stream: &TlsStream<S>, identity: &Identity) -> Self {
        let (_, connection) = stream.get_ref();
        let client = connection.peer_certificates().and_then(|chain| chain.first()).map(|certificate| {
            let subject =
                x509_parser::parse_x509_certificate(certificate).map(|(_, parsed)| parsed.subject().to_string());
            ClientCertificate { subject: subject.unwrap_or_default(), fingerprint: identity::fingerprint(certificate) }
        });
        let tls13 = connection.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let exporter = || connection.export_keying_material(vec![0; 32], b"EXPORTER-Channel-Binding", None).ok();
        Secured {
            version: if tls13 { "TLSv1.3" } else { "TLSv1.2" },
            cipher: cipher(connection.negotiated_cipher_suite()),
            sni: connection.server_name().map(str::to_owned),
            client,
            end_point: identity.end_point().to_vec(),
            exporter: if tls13 { exporter() } else { None },
        }
    }
}

/// A cipher suite, as IANA names it.
fn cipher(suite: Option<rustls::SupportedCipherSuite>) -> String {
    // rustls puts the version into the names of those of TLS 1.3
    suite.and_then(|suite| suite.suite().as_str()).unwrap_or_default().replacen("TLS13_", "TLS_", 1)
}

#[cfg(test)]
mod tests;
