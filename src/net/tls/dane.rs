//! A server's certificate against the TLSA records of DNS (RFC 6698, RFC 7671), as mail uses them (RFC 7672).
//!
//! Usages 3 (DANE-EE) and 2 (DANE-TA) can be used; 0 and 1 cannot (RFC 7672, 3.1.3), nor can words that are not known, digests
//! of the wrong length, or data that is no certificate or key. For each usage and selector only the strongest digest counts
//! beside whole data (RFC 7671, 9). One record that fits is enough.
//!
//! - **3**: the server's own certificate or key fits; names and dates are not looked at (RFC 7672, 3.1.1).
//! - **2**: an issuer in the server's chain fits, or the record is that issuer. The chain must end there, be valid now, and be for
//!   one of the names. A server's own certificate is no issuer.

use std::fmt;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256, Sha512};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

use super::identity::Facts;
use super::provider;

/// Most links of a chain that are compared.
const MOST_LINKS: usize = 10;

/// What a record says of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Usage {
    /// 2: an issuer.
    TrustAnchor,
    /// 3: the server itself.
    EndEntity,
}

/// Which part of a certificate is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Selector {
    /// 0: all of it.
    Certificate,
    /// 1: the public key.
    PublicKey,
}

/// What it is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Association {
    /// 0: the part itself, in DER.
    Whole(Vec<u8>),
    /// 1: its SHA-256.
    Sha256([u8; 32]),
    /// 2: its SHA-512.
    Sha512([u8; 64]),
}

/// A TLSA record that can be used for mail.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tlsa {
    /// Of whom.
    pub usage: Usage,
    /// Which part.
    pub selector: Selector,
    /// Compared with what.
    pub association: Association,
}

impl Tlsa {
    /// Of the four fields of a record; `None` when it cannot be used.
    pub fn new(usage: u8, selector: u8, matching: u8, data: &[u8]) -> Option<Self> {
        let usage = match usage {
            2 => Usage::TrustAnchor,
            3 => Usage::EndEntity,
            _ => return None,
        };
        let selector = match selector {
            0 => Selector::Certificate,
            1 => Selector::PublicKey,
            _ => return None,
        };
        let association = match matching {
            0 => {
                let whole = match selector {
                    Selector::Certificate => X509Certificate::from_der(data).is_ok_and(|(rest, _)| rest.is_empty()),
                    Selector::PublicKey => SubjectPublicKeyInfo::from_der(data).is_ok_and(|(rest, _)| rest.is_empty()),
                };
                whole.then(|| Association::Whole(data.to_vec()))?
            }
            1 => Association::Sha256(data.try_into().ok()?),
            2 => Association::Sha512(data.try_into().ok()?),
            _ => return None,
        };
        Some(Tlsa { usage, selector, association })
    }

    fn fits(&self, certificate: &CertificateDer<'_>) -> bool {
        let part: Vec<u8> = match self.selector {
            Selector::Certificate => certificate.to_vec(),
            Selector::PublicKey => match ParsedCertificate::try_from(certificate) {
                Ok(parsed) => parsed.subject_public_key_info().to_vec(),
                Err(_) => return false,
            },
        };
        match &self.association {
            Association::Whole(data) => *data == part,
            Association::Sha256(digest) => Sha256::digest(&part)[..] == digest[..],
            Association::Sha512(digest) => Sha512::digest(&part)[..] == digest[..],
        }
    }

    /// Weaker than another one that says the same of the same part (RFC 7671, 9).
    fn is_outdone_by(&self, other: &Tlsa) -> bool {
        self.usage == other.usage
            && self.selector == other.selector
            && matches!((&self.association, &other.association), (Association::Sha256(_), Association::Sha512(_)))
    }
}

/// As zone files have it, digests whole, other data cut: `3 1 1 0123…`.
impl fmt::Display for Tlsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usage = if self.usage == Usage::TrustAnchor { 2 } else { 3 };
        let selector = if self.selector == Selector::Certificate { 0 } else { 1 };
        let (matching, data): (u8, &[u8]) = match &self.association {
            Association::Whole(data) => (0, data),
            Association::Sha256(digest) => (1, digest),
            Association::Sha512(digest) => (2, digest),
        };
        write!(f, "{usage} {selector} {matching} ")?;
        data.iter().take(64).try_for_each(|octet| write!(f, "{octet:02x}"))?;
        if data.len() > 64 { f.write_str("…") } else { Ok(()) }
    }
}

/// The records for a host, and the names that its certificate may be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dane {
    records: Vec<Tlsa>,
    names: Vec<ServerName<'static>>,
}

impl Dane {
    /// Of these records. The first name is the one whose records they are, and is asked for (SNI; RFC 7672, 8.1); which names a
    /// certificate is for is looked at for usage 2 only. `None` without a record or a name.
    pub fn new(records: &[Tlsa], names: Vec<ServerName<'static>>) -> Option<Self> {
        let strongest = |record: &&Tlsa| !records.iter().any(|other| record.is_outdone_by(other));
        let records: Vec<Tlsa> = records.iter().filter(strongest).cloned().collect();
        (!records.is_empty() && !names.is_empty()).then_some(Dane { records, names })
    }

    /// The name that is asked for.
    pub fn name(&self) -> &ServerName<'static> {
        &self.names[0]
    }

    /// The records that count, as zone files have them.
    pub fn records(&self) -> Vec<String> {
        self.records.iter().map(Tlsa::to_string).collect()
    }

    fn of(&self, usage: Usage) -> impl Iterator<Item = &Tlsa> {
        self.records.iter().filter(move |record| record.usage == usage)
    }

    /// Checks the chain behind an issuer that a record names.
    fn anchored(
        &self,
        certificate: &CertificateDer<'_>,
        links: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let links = &links[..links.len().min(MOST_LINKS)];
        let given = self.of(Usage::TrustAnchor).filter_map(|record| match (&record.selector, &record.association) {
            (Selector::Certificate, Association::Whole(data)) => Some(CertificateDer::from(data.clone())),
            _ => None,
        });
        let shown = links.iter().filter(|link| self.of(Usage::TrustAnchor).any(|record| record.fits(link)));
        let mut roots = RootCertStore::empty();
        for anchor in shown.map(|link| link.clone().into_owned()).chain(given) {
            if is_valid(&anchor, now) {
                // what cannot be read anchors nothing
                let _ = roots.add(anchor);
            }
        }
        if roots.is_empty() {
            return Err(no("no TLSA record fits a certificate that is valid now"));
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = provider().signature_verification_algorithms;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, links, now, algorithms.all)?;
        let mut failed = no("there is no name that it could be for");
        for name in &self.names {
            match verify_server_name(&parsed, name) {
                Ok(()) => return Ok(()),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

fn is_valid(certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_mul(1_000);
    Facts::of(certificate).is_some_and(|facts| facts.not_before.millis() <= now && now <= facts.not_after.millis())
}

fn no(words: &'static str) -> rustls::Error {
    #[derive(thiserror::Error)]
    #[error("{0}")]
    struct Words(&'static str);
    // rustls shows it so
    impl fmt::Debug for Words {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }
    CertificateError::Other(OtherError(std::sync::Arc::new(Words(words)))).into()
}

/// As the verifier of a handshake. Who answers must hold the key: signatures are checked.
impl ServerCertVerifier for Dane {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        links: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.of(Usage::EndEntity).any(|record| record.fits(certificate)) {
            return Ok(ServerCertVerified::assertion());
        }
        if self.of(Usage::TrustAnchor).next().is_none() {
            return Err(no("no TLSA record fits the server's certificate"));
        }
        self.anchored(certificate, links, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
