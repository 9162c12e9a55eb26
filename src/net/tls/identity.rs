//! A certificate chain with its key: read from PEM, checked to belong together, and what it says of itself.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;
use x509_parser::signature_algorithm::SignatureAlgorithm;

use super::provider;
use crate::model::time::Timestamp;

/// Most certificates of a chain.
const MOST_LINKS: usize = 20;

/// Which of the two texts is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The chain.
    Chain,
    /// The key, or that it is not the chain's.
    Key,
}

/// Why a chain and a key are no identity. Never holds any of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct IdentityError {
    /// Where.
    pub part: Part,
    /// Why.
    pub words: String,
}

/// A chain and the key that belongs to it.
pub struct Identity {
    key: Arc<CertifiedKey>,
    facts: Facts,
    end_point: Vec<u8>,
    digest: [u8; 32],
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The hosts it is for: subject alternative names, DNS names in lower case and addresses.
    pub names: Vec<String>,
    /// Who it is for, as RFC 4514 writes it.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// The SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
}

impl Facts {
    /// Of a certificate; `None` when it is none.
    pub(super) fn of(der: &CertificateDer<'_>) -> Option<Self> {
        x509_parser::parse_x509_certificate(der).ok().map(|(_, parsed)| facts(der, &parsed))
    }

    /// Whether it is for this host: by a name of its own or, with `wildcards`, by one that stands for one label.
    pub fn is_for(&self, host: &str, wildcards: bool) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(below) => wildcards && parent == Some(below),
            None => *name == host,
        })
    }
}

impl Identity {
    /// Of a chain (its own certificate first) and a key, both PEM.
    ///
    /// # Errors
    /// When they cannot be read, or the key is another's.
    pub fn load(chain: &str, key: &str) -> Result<Self, IdentityError> {
        let wrong = |part, words: String| IdentityError { part, words };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .take(MOST_LINKS + 1)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong(Part::Chain, format!("the chain is no good PEM: {error}")))?;
        let first = match certificates.as_slice() {
            [] => return Err(wrong(Part::Chain, "there is no PEM certificate in the chain".to_owned())),
            all if all.len() > MOST_LINKS => {
                return Err(wrong(Part::Chain, format!("the chain has more than {MOST_LINKS} certificates")));
            }
            [first, ..] => first.clone(),
        };
        for (index, link) in certificates.iter().enumerate() {
            x509_parser::parse_x509_certificate(link).map_err(|error| {
                wrong(Part::Chain, format!("certificate {} of the chain cannot be read: {error}", index + 1))
            })?;
        }
        let (_, parsed) = x509_parser::parse_x509_certificate(&first)
            .map_err(|error| wrong(Part::Chain, format!("the certificate cannot be read: {error}")))?;
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| {
            let words =
                "there is no private key in it that can be read: PEM of PKCS #8, PKCS #1 or SEC 1, not encrypted";
            wrong(Part::Key, words.to_owned())
        })?;
        let certified = CertifiedKey::from_der(certificates, private, provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                wrong(Part::Key, "the private key does not belong to the first certificate of the chain".to_owned())
            }
            rustls::Error::InvalidCertificate(_) => {
                wrong(Part::Chain, format!("the first certificate of the chain cannot be used: {error}"))
            }
            error => wrong(Part::Key, format!("the private key cannot be used: {error}")),
        })?;
        Ok(Identity {
            key: Arc::new(certified),
            facts: facts(&first, &parsed),
            end_point: end_point(&first, &parsed),
            digest: Self::digest_of(chain, key),
        })
    }

    /// Tells two pairs of texts apart, and nothing about the key.
    pub fn digest_of(chain: &str, key: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update((chain.len() as u64).to_be_bytes());
        hash.update(chain.as_bytes());
        hash.update(key.as_bytes());
        hash.finalize().into()
    }

    /// What the certificate says of itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// [`Identity::digest_of`] what it was made from.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// The channel binding `tls-server-end-point`.
    pub(super) fn end_point(&self) -> &[u8] {
        &self.end_point
    }
}

/// Two are equal when they were made of the same texts.
impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Identity {}

/// Never the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.facts.fmt(f)
    }
}

fn facts(der: &CertificateDer<'_>, certificate: &X509Certificate<'_>) -> Facts {
    let time = |time: x509_parser::time::ASN1Time| Timestamp::from_millis(time.timestamp().saturating_mul(1_000));
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names =
        alternatives.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        });
    Facts {
        names: names.collect(),
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        not_before: time(certificate.validity().not_before),
        not_after: time(certificate.validity().not_after),
        fingerprint: fingerprint(der),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The SHA-256 of a certificate, in hexadecimal.
pub(super) fn fingerprint(der: &CertificateDer<'_>) -> String {
    Sha256::digest(der).iter().map(|octet| format!("{octet:02x}")).collect()
}

/// RFC 5929, 4.1: the certificate's hash, by the hash of its own signature; where that is MD5, SHA-1 or none, by SHA-256.
fn end_point(der: &CertificateDer<'_>, certificate: &X509Certificate<'_>) -> Vec<u8> {
    let own = &certificate.signature_algorithm;
    let oid = match SignatureAlgorithm::try_from(own) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => parameters.hash_algorithm_oid().to_id_string(),
        _ => own.algorithm.to_id_string(),
    };
    match oid.as_str() {
        // sha384: by itself, with RSA, with ECDSA
        "2.16.840.1.101.3.4.2.2" | "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Sha384::digest(der).to_vec(),
        "2.16.840.1.101.3.4.2.3" | "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Sha512::digest(der).to_vec(),
        _ => Sha256::digest(der).to_vec(),
    }
}
