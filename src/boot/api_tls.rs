//! TLS on the API listener: `BRIDGEHEAD_API_TLS_CERT` and `…_KEY`, two files that are looked at every second.
//!
//! They are taken together: a pair that cannot be used leaves the one that was in force, is logged once, and shows as 0 in
//! `bridgehead_api_certificate_valid` until the pair is good again. At the start it is an error: nobody should get plain HTTP, or
//! nothing, where he asked for TLS.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;

use crate::cli::Serve;
use crate::net::tls::{Exchangeable, Identity};
use crate::status::Drain;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Largest file that is read.
const LARGEST: u64 = 1 << 20;

/// The pair, and what it is used by.
pub(super) struct ApiTls {
    chain: PathBuf,
    key: PathBuf,
    seen: Seen,
    used: Arc<Exchangeable>,
    valid: Gauge,
}

/// Tells whether one of the files is another than before. Through links: Kubernetes changes files by changing a link.
type Seen = [Option<(u64, u64, u64, i64, i64)>; 2];

impl ApiTls {
    /// With the files of the options; `None` when TLS is not wanted.
    pub(super) fn new(options: &Serve, registry: &mut Registry) -> anyhow::Result<Option<(Self, ServerConfig)>> {
        let (Some(chain), Some(key)) = (&options.api_tls_cert, &options.api_tls_key) else { return Ok(None) };
        let seen = [stamp(chain), stamp(key)];
        let identity = load(chain, key).context("BRIDGEHEAD_API_TLS_CERT and BRIDGEHEAD_API_TLS_KEY cannot be used")?;
        let (used, config) = Exchangeable::server(identity)?;
        let valid = Gauge::default();
        valid.set(1);
        let help = "1 when the files of the API's certificate can be used, 0 while an older pair is in force";
        registry.register("bridgehead_api_certificate_valid", help, valid.clone());
        Ok(Some((ApiTls { chain: chain.clone(), key: key.clone(), seen, used, valid }, config)))
    }

    /// Looks at the files until the process drains.
    pub(super) async fn watch(mut self, drain: Arc<Drain>) {
        let mut stop = drain.watch();
        loop {
            tokio::select! {
                _ = stop.wait_for(Option::is_some) => return,
                () = tokio::time::sleep(EVERY) => self.look(),
            }
        }
    }

    fn look(&mut self) {
        let seen = [stamp(&self.chain), stamp(&self.key)];
        if seen == self.seen {
            return;
        }
        self.seen = seen;
        match load(&self.chain, &self.key) {
            Ok(identity) if identity == *self.used.current() => {
                self.valid.set(1);
            }
            Ok(identity) => {
                let facts = identity.facts();
                let (not_after, fingerprint) = (facts.not_after, facts.fingerprint.clone());
                self.used.exchange(identity);
                self.valid.set(1);
                tracing::info!(listener = "api", %not_after, fingerprint, "the certificate was exchanged");
            }
            Err(error) => {
                self.valid.set(0);
                let error = format!("{error:#}");
                tracing::error!(
                    listener = "api",
                    error,
                    "the certificate cannot be used; the one before stays in force"
                );
            }
        }
    }
}

fn load(chain: &Path, key: &Path) -> anyhow::Result<Identity> {
    let read = |path: &Path| -> anyhow::Result<zeroize::Zeroizing<String>> {
        anyhow::ensure!(fs::metadata(path)?.len() <= LARGEST, "it is too large");
        Ok(zeroize::Zeroizing::new(fs::read_to_string(path)?))
    };
    let read = |path: &Path| read(path).with_context(|| format!("the file {} cannot be read", path.display()));
    Ok(Identity::load(&read(chain)?, &read(key)?)?)
}

fn stamp(path: &Path) -> Option<(u64, u64, u64, i64, i64)> {
    let of = fs::metadata(path).ok()?;
    Some((of.dev(), of.ino(), of.len(), of.mtime(), of.mtime_nsec()))
}
