//! What is wrong with a change, in the words of who asked for it.

use super::answer::{ChangeError, Reference};
use super::plan::{MOST_NAMED, Refused};
use super::violation::{Violation, ViolationCode};
use super::{Snapshot, certificates, dequeue_connector};
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::routing::access::{AccessFault, AccessFaultKind};

impl Refused {
    /// As the answer to a request about the one object `id`.
    pub(super) fn of_one(self, id: &str, delete: bool) -> ChangeError {
        match self {
            Refused::Invalid(found) => refusal(found, id, delete),
            Refused::Others(found) if delete => ChangeError::Referenced { by: references(found) },
            Refused::Others(found) => refusal(found, id, false),
            Refused::Change(error) => error,
        }
    }

    /// As the answer to a request about many: each violation with its object.
    pub(super) fn of_many(self) -> ChangeError {
        match self {
            Refused::Invalid(mut found) | Refused::Others(mut found) => {
                found.sort();
                found.dedup();
                ChangeError::Invalid(found)
            }
            Refused::Change(error) => error,
        }
    }
}

/// Violations as the answer to a request about the object `id`.
pub(super) fn refusal(found: Vec<Violation>, id: &str, delete: bool) -> ChangeError {
    if delete {
        let (dangling, other): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|violation| violation.code == ViolationCode::UnknownReference);
        return if other.is_empty() {
            ChangeError::Referenced { by: references(dangling) }
        } else {
            ChangeError::Invalid(other)
        };
    }
    let own = |violation: Violation| Violation { object: violation.object.filter(|object| object != id), ..violation };
    let mut found: Vec<Violation> = found.into_iter().map(own).collect();
    found.sort();
    ChangeError::Invalid(found)
}

/// What a change may not bring into force, though it may break later: what it says cannot be used now.
pub(super) fn faults(compiled: &Snapshot, collection: Collection, name: &Name) -> Vec<Violation> {
    let fault = match collection {
        Collection::Certificates => compiled.certificates.get(name).and_then(|certificate| certificate.fault.as_ref()),
        // that a certificate is broken is told there; the server can be changed meanwhile
        Collection::VirtualServers => {
            let fault = compiled.virtual_servers.get(name).and_then(|server| server.tls_fault.as_ref());
            fault.filter(|fault| fault.pointer == certificates::CLIENT_CA)
        }
        Collection::Connectors => {
            let fault_of = |name: &Name| compiled.routes.connector(name).and_then(|of| of.access.fault.as_ref());
            let own = fault_of(name).map(access_violation);
            let asks = dequeue_connector(name).and_then(|name| Some(access_violation(fault_of(&name)?)));
            return own.into_iter().chain(asks.map(Violation::in_request_dequeue)).collect();
        }
        _ => None,
    };
    fault.map(|fault| Violation::new(fault.pointer, fault.code, fault.message.clone())).into_iter().collect()
}

fn access_violation(fault: &AccessFault) -> Violation {
    let code = match fault.kind {
        AccessFaultKind::Unreadable => ViolationCode::SecretUnreadable,
        AccessFaultKind::Certificate => ViolationCode::InvalidCertificate,
        AccessFaultKind::Password => ViolationCode::InvalidValue,
    };
    Violation::new(fault.pointer, code, fault.message.clone())
}

fn references(found: Vec<Violation>) -> Vec<Reference> {
    let reference = |violation: Violation| Some(Reference { object: violation.object?, pointer: violation.pointer });
    found.into_iter().filter_map(reference).take(MOST_NAMED).collect()
}
