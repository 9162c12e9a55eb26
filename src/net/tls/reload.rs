//! TLS of a server with one identity that can be exchanged while it runs: from the next handshake on.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Identity, ServerTlsError, provider};

/// The identity that handshakes are done with.
pub struct Exchangeable(ArcSwap<Identity>);

impl Exchangeable {
    /// A configuration (TLS 1.2 and 1.3, no client certificates) that always uses the identity that is in here.
    ///
    /// # Errors
    /// When the parts do not work together.
    pub fn server(identity: Identity) -> Result<(Arc<Self>, ServerConfig), ServerTlsError> {
        let setup = |error: rustls::Error| ServerTlsError::Setup(error.to_string());
        let exchangeable = Arc::new(Exchangeable(ArcSwap::from_pointee(identity)));
        let builder = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(setup)?
            .with_no_client_auth();
        Ok((exchangeable.clone(), builder.with_cert_resolver(exchangeable)))
    }

    /// Uses this one from the next handshake on.
    pub fn exchange(&self, identity: Identity) {
        self.0.store(Arc::new(identity));
    }

    /// The one in use.
    pub fn current(&self) -> Arc<Identity> {
        self.0.load_full()
    }
}

impl ResolvesServerCert for Exchangeable {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key().clone())
    }
}

/// Never the key.
impl fmt::Debug for Exchangeable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.load().fmt(f)
    }
}
