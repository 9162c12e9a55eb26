//! Certificates and the TLS of virtual servers, from their texts.
//!
//! Chain and key are read together. When they make no pair (a file is missing, half-replaced or broken), the pair that was in
//! force stays, as long as the spec is still the same, and a [`Fault`] says what is wrong; the next good pair heals it. At
//! a start there is nothing that could stay: then the certificate has no identity, and whatever needs it has none.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compile::Objects;
use super::secrets::{Kept, Vault};
use super::snapshot::Snapshot;
use super::violation::ViolationCode;
use crate::model::name::Name;
use crate::model::spec::virtual_server::{BindingTls, ClientCertificates, MinimumVersion};
use crate::model::spec::{CertificateSpec, Collection, VirtualServerSpec};
use crate::net::tls::{AskClients, Identity, Oldest, Part, ServerTls};

/// A certificate, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its name.
    pub name: Name,
    /// Rises by one with each change of it.
    pub generation: u64,
    /// Its settings.
    pub spec: CertificateSpec,
    /// What is in force; `None` when there never was a good pair.
    pub identity: Option<Arc<Identity>>,
    /// Why what the spec says now is not in force.
    pub fault: Option<Fault>,
}

/// Why something cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// For programs: the reason of a condition.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Where in the object, from its root.
    pub pointer: &'static str,
    /// As a violation.
    pub code: ViolationCode,
}

const CHAIN: &str = "/spec/chain";
const KEY: &str = "/spec/privateKey";
/// Where the issuers of client certificates stand.
pub(super) const CLIENT_CA: &str = "/spec/tls/clientCa";

impl Fault {
    fn unreadable(pointer: &'static str, error: &super::secrets::Unresolved) -> Self {
        Fault { reason: "unreadable", message: error.to_string(), pointer, code: ViolationCode::SecretUnreadable }
    }

    fn invalid(pointer: &'static str, message: String) -> Self {
        Fault { reason: "invalid", message, pointer, code: ViolationCode::InvalidCertificate }
    }
}

/// All certificates. One that did not change is the same `Arc` as before.
pub(super) fn build(objects: &Objects, previous: &Snapshot, vault: &Vault) -> BTreeMap<Name, Arc<Certificate>> {
    let none = Kept::default();
    let build = |(name, (generation, spec)): (&Name, &(u64, Arc<CertificateSpec>))| {
        let kept = objects.secrets(Collection::Certificates, name).unwrap_or(&none);
        let known = previous.certificates.get(name);
        let before = known.filter(|known| known.spec == **spec).and_then(|known| known.identity.clone());
        let (identity, fault) = match pair(spec, kept, before.as_ref(), vault) {
            Ok(identity) => (Some(identity), None),
            Err(fault) => (before, Some(fault)),
        };
        let (name, generation, spec) = (name.clone(), *generation, (**spec).clone());
        let fresh = Certificate { name: name.clone(), generation, spec, identity, fault };
        let same = known.filter(|known| ***known == fresh).cloned();
        (name, same.unwrap_or_else(|| Arc::new(fresh)))
    };
    objects.certificates().map(build).collect()
}

fn pair(
    spec: &CertificateSpec,
    kept: &Kept,
    before: Option<&Arc<Identity>>,
    vault: &Vault,
) -> Result<Arc<Identity>, Fault> {
    let chain = vault.text(&spec.chain).map_err(|error| Fault::unreadable(CHAIN, &error))?;
    let key = vault.secret(&spec.private_key, kept).map_err(|error| Fault::unreadable(KEY, &error))?;
    let digest = Identity::digest_of(&chain, key.reveal());
    if let Some(same) = before.filter(|before| *before.digest() == digest) {
        return Ok(same.clone());
    }
    Identity::load(&chain, key.reveal()).map(Arc::new).map_err(|error| {
        let pointer = match error.part {
            Part::Chain => CHAIN,
            Part::Key => KEY,
        };
        Fault::invalid(pointer, error.words)
    })
}

/// The TLS of a virtual server whose bindings have it, and what is wrong with it. When its client CA is broken, what was
/// in force stays, as with a certificate.
pub(super) fn server_tls(
    name: &Name,
    spec: &VirtualServerSpec,
    certificates: &BTreeMap<Name, Arc<Certificate>>,
    previous: &Snapshot,
    vault: &Vault,
) -> (Option<Arc<ServerTls>>, Option<Fault>) {
    if !spec.bindings.iter().any(|binding| binding.tls != BindingTls::None) {
        return (None, None);
    }
    let known = previous.virtual_servers.get(name).filter(|known| known.spec.tls == spec.tls);
    let before = known.and_then(|known| known.tls.clone());
    let own = spec.certificates.iter().filter_map(|name| certificates.get(name));
    let identities: Vec<Arc<Identity>> = own.filter_map(|certificate| certificate.identity.clone()).collect();
    if identities.is_empty() {
        let message = "none of its certificates can be used".to_owned();
        return (None, Some(Fault::invalid("/spec/certificates", message)));
    }
    let ca = match spec.tls.client_ca.as_ref().map(|source| vault.text(source)) {
        Some(Err(error)) => return (before, Some(Fault::unreadable(CLIENT_CA, &error))),
        Some(Ok(text)) => text,
        None => String::new(),
    };
    let clients = match spec.tls.client_certificates {
        ClientCertificates::None => AskClients::No,
        ClientCertificates::Request => AskClients::May(&ca),
        ClientCertificates::Require => AskClients::Must(&ca),
    };
    let oldest = match spec.tls.minimum_version {
        MinimumVersion::Tls12 => Oldest::Tls12,
        MinimumVersion::Tls13 => Oldest::Tls13,
    };
    if let Some(same) = before.as_ref().filter(|before| before.is_made_of(&identities, oldest, clients)) {
        return (Some(same.clone()), None);
    }
    match ServerTls::new(&identities, oldest, clients) {
        Ok(tls) => (Some(Arc::new(tls)), None),
        Err(error) => (before, Some(Fault::invalid(CLIENT_CA, error.to_string()))),
    }
}

/// Logs what broke and what healed from one snapshot to the next.
pub(super) fn tell(before: &Snapshot, after: &Snapshot) {
    for (name, certificate) in &after.certificates {
        let known = before.certificates.get(name);
        match (known.and_then(|known| known.fault.as_ref()), &certificate.fault) {
            (old, Some(fault)) if old != Some(fault) => {
                let kept = certificate.identity.is_some();
                tracing::error!(certificate = %name, reason = fault.reason, error = fault.message, kept,
                    "the certificate cannot be used as it is now");
            }
            (Some(_), None) => tracing::info!(certificate = %name, "the certificate can be used again"),
            (None, None) if known.is_some_and(|known| known.identity != certificate.identity) => {
                tracing::info!(certificate = %name, "a new certificate is in force");
            }
            _ => {}
        }
    }
    for connector in after.routes.connectors() {
        let name = &connector.name;
        let old = before.routes.connector(name).and_then(|known| known.access.fault.as_ref());
        match &connector.access.fault {
            Some(fault) if old != Some(fault) => {
                tracing::error!(connector = %name, reason = fault.kind.reason(), error = fault.message,
                    "what the connector encrypts or logs in with cannot be used as it is now");
            }
            None if old.is_some() => tracing::info!(connector = %name, "the connector can encrypt and log in again"),
            _ => {}
        }
    }
    for (name, server) in &after.virtual_servers {
        let old = before.virtual_servers.get(name).and_then(|known| known.tls_fault.as_ref());
        match &server.tls_fault {
            Some(fault) if old != Some(fault) => {
                tracing::error!(virtualServer = %name, reason = fault.reason, error = fault.message,
                    kept = server.tls.is_some(), "TLS cannot be set up as it is configured");
            }
            None if old.is_some() => tracing::info!(virtualServer = %name, "TLS can be set up again"),
            _ => {}
        }
    }
}
