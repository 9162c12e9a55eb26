//! The `status` of configuration resources: how the thing that was configured is now.

use serde_json::Value;

use super::logins;
use super::server::State;
use super::shapes::{
    CertificateStatus, Condition, ConditionStatus, ConditionType, ObjectState, ObjectStatus, RecipientStatus,
    VirtualServerState, VirtualServerStatus,
};
use crate::config::{Certificate, Object, Snapshot, VirtualServer, dequeue_connector};
use crate::model::labels::LabelSelector;
use crate::model::name::Name;
use crate::model::time::Timestamp;
use crate::queue::Suspended;

/// A virtual server: what its listeners say, and whether it is an open relay.
pub(super) fn virtual_server(object: &Object, state: &State) -> VirtualServerStatus {
    let enabled = object.spec["enabled"] != Value::Bool(false);
    let unknown = || VirtualServerStatus {
        state: if enabled { VirtualServerState::Starting } else { VirtualServerState::Stopped },
        listeners: Vec::new(),
        conditions: Vec::new(),
    };
    let mut status = state.handles.listeners.status(&object.name).unwrap_or_else(unknown);
    let everybody = texts(&object.spec["relay"]["allow"]).any(|client| client == "0.0.0.0/0" || client == "::/0");
    let current = state.handles.configuration.live().current();
    if let Some(server) = current.virtual_servers.get(&object.name).filter(|server| server.encrypts()) {
        status.conditions.push(server_certificates(object, server, &current, state.handles.configuration.now()));
    }
    if enabled && everybody {
        status.conditions.push(open_relay(object, "every client may relay through this virtual server"));
    }
    status
}

/// The first thing that is wrong with the TLS of a virtual server.
fn server_certificates(object: &Object, server: &VirtualServer, current: &Snapshot, now: Timestamp) -> Condition {
    let of_server = server.tls_fault.as_ref().map(|fault| (fault.reason, fault.message.clone()));
    let own = || server.spec.certificates.iter().filter_map(|name| current.certificates.get(name));
    let of_certificates = || {
        own().find_map(|certificate| {
            let (reason, message) = certificate_fault(certificate, now)?;
            Some((reason, format!("{}: {message}", certificate.name)))
        })
    };
    certificate_valid(object, of_server.or_else(of_certificates))
}

/// What is wrong with a certificate now.
fn certificate_fault(certificate: &Certificate, now: Timestamp) -> Option<(&'static str, String)> {
    if let Some(fault) = &certificate.fault {
        let kept = if certificate.identity.is_some() { "; what was in force before stays" } else { "" };
        return Some((fault.reason, format!("{}{kept}", fault.message)));
    }
    let facts = certificate.identity.as_ref()?.facts();
    match () {
        () if facts.not_after < now => Some(("expired", format!("it expired at {}", facts.not_after))),
        () if facts.not_before > now => Some(("notYetValid", format!("it is valid from {}", facts.not_before))),
        () => None,
    }
}

fn certificate_valid(object: &Object, fault: Option<(&'static str, String)>) -> Condition {
    let status = if fault.is_none() { ConditionStatus::True } else { ConditionStatus::False };
    let (reason, message) = fault.unwrap_or(("valid", String::new()));
    Condition {
        kind: ConditionType::CertificateValid,
        status,
        reason: reason.to_owned(),
        message,
        last_transition_time: None,
        observed_generation: Some(object.generation),
    }
}

/// A certificate: what is in force, and whether it is what the spec says.
pub(super) fn certificate(object: &Object, state: &State) -> CertificateStatus {
    let current = state.handles.configuration.live().current();
    let certificate = current.certificates.get(&object.name);
    let facts = certificate.and_then(|certificate| certificate.identity.as_ref()).map(|identity| identity.facts());
    // a dry run shows what is not there yet
    let condition = certificate.map(|certificate| {
        certificate_valid(object, certificate_fault(certificate, state.handles.configuration.now()))
    });
    CertificateStatus {
        state: ObjectState::Active,
        names: facts.map(|facts| facts.names.clone()).unwrap_or_default(),
        issuer: facts.map(|facts| facts.issuer.clone()),
        not_before: facts.map(|facts| facts.not_before),
        not_after: facts.map(|facts| facts.not_after),
        fingerprint: facts.map(|facts| facts.fingerprint.clone()),
        conditions: condition.into_iter().collect(),
    }
}

/// A connector.
pub(super) fn connector(object: &Object, state: &State) -> ObjectStatus {
    let enabled = object.spec["enabled"] != Value::Bool(false);
    let patterns = object.spec["addressSpaces"].as_array().into_iter().flatten();
    let everywhere = patterns.map(|space| &space["pattern"]).any(|pattern| pattern == "*");
    let open = enabled && everywhere && object.spec["allowRelay"] == Value::Bool(true);
    let condition = open.then(|| open_relay(object, "every client may send to every domain through this connector"));
    let suspended = state.handles.steer.suspended(&object.name);
    ObjectStatus {
        state: match () {
            () if !enabled => ObjectState::Disabled,
            () if suspended.is_some() => ObjectState::Suspended,
            () => ObjectState::Active,
        },
        conditions: suspended
            .map(|suspended| overridden(object, &suspended))
            .into_iter()
            .chain(condition)
            .chain(access(object, state))
            .chain(reachable(object, state))
            .chain(logins::authenticated(object, state))
            .chain(requested(object, state))
            .collect(),
    }
}

fn overridden(object: &Object, suspended: &Suspended) -> Condition {
    Condition {
        kind: ConditionType::Overridden,
        status: ConditionStatus::True,
        reason: "suspended".to_owned(),
        message: format!("suspended by the key {:?}", suspended.by),
        last_transition_time: Some(suspended.at),
        observed_generation: Some(object.generation),
    }
}

/// Whether the next hops of a connector can be reached, by what real mail has met.
fn reachable(object: &Object, state: &State) -> Option<Condition> {
    let health = state.handles.operate.connector_health(&object.name)?;
    let smart_hosts = object.spec["route"]["smartHosts"].is_array();
    let (status, reason, message) = match health.failure {
        None => (ConditionStatus::True, "sessionOpened", String::new()),
        Some((_, failure)) if smart_hosts => (ConditionStatus::False, "noSession", failure.to_string()),
        // one domain's hosts say nothing about those of others
        Some((_, failure)) => (ConditionStatus::Unknown, "someNotReached", failure.to_string()),
    };
    Some(Condition {
        kind: ConditionType::Reachable,
        status,
        reason: reason.to_owned(),
        message,
        last_transition_time: health.since,
        observed_generation: Some(object.generation),
    })
}

/// What came of it when a connector last asked for mail that waits elsewhere.
fn requested(object: &Object, state: &State) -> Option<Condition> {
    object.spec["requestDequeue"].as_object()?;
    let requested = state.handles.operate.last_requested(&object.name)?;
    let (status, reason, message) = match requested.result {
        Ok(said) => (ConditionStatus::True, "asked", said),
        Err(why) => (ConditionStatus::False, "notAsked", why),
    };
    Some(Condition {
        kind: ConditionType::DequeueRequested,
        status,
        reason: reason.to_owned(),
        message,
        last_transition_time: Some(requested.at),
        observed_generation: Some(object.generation),
    })
}

/// That what a connector encrypts or logs in with cannot be used now.
fn access(object: &Object, state: &State) -> Option<Condition> {
    let current = state.handles.configuration.live().current();
    let fault_of = |name: &Name| current.routes.connector(name)?.access.fault.as_ref();
    let asks = || dequeue_connector(&object.name).and_then(|name| fault_of(&name));
    let fault = fault_of(&object.name).or_else(asks)?;
    Some(Condition {
        kind: ConditionType::ConfigAccepted,
        status: ConditionStatus::False,
        reason: fault.kind.reason().to_owned(),
        message: fault.message.clone(),
        last_transition_time: None,
        observed_generation: Some(object.generation),
    })
}

/// A recipient, with the addresses it has.
pub(super) fn recipient(object: &Object, _: &State) -> RecipientStatus {
    RecipientStatus { state: ObjectState::Active, addresses: object.addresses.clone(), conditions: Vec::new() }
}

/// An account; whether its password can be read.
pub(super) fn account(object: &Object, state: &State) -> ObjectStatus {
    let snapshot = state.handles.configuration.live().current();
    let username = object.spec["username"].as_str().unwrap_or(object.name.as_str());
    let account = snapshot.accounts.find(username, &LabelSelector::default());
    let unreadable = account.filter(|account| account.name == object.name).and_then(|account| {
        Some(Condition {
            kind: ConditionType::ConfigAccepted,
            status: ConditionStatus::False,
            reason: "passwordUnreadable".to_owned(),
            message: account.verifier.as_ref().err()?.clone(),
            last_transition_time: None,
            observed_generation: Some(account.generation),
        })
    });
    ObjectStatus { state: ObjectState::Active, conditions: unreadable.into_iter().collect() }
}

/// An identity provider; whether its keys could be fetched.
pub(super) fn identity_provider(object: &Object, state: &State) -> ObjectStatus {
    let known = state.handles.issuers.status(&object.name).filter(|known| known.generation == object.generation);
    let (status, reason, message) = match known.map(|known| known.result) {
        None => (ConditionStatus::Unknown, "notAskedYet", "no token has needed its keys yet".to_owned()),
        Some(Ok(keys)) => (ConditionStatus::True, "keysFetched", format!("keys: {keys}")),
        Some(Err(error)) => (ConditionStatus::False, "keysNotFetched", error),
    };
    let condition = Condition {
        kind: ConditionType::Reachable,
        status,
        reason: reason.to_owned(),
        message,
        last_transition_time: None,
        observed_generation: Some(object.generation),
    };
    ObjectStatus { state: ObjectState::Active, conditions: vec![condition] }
}

/// An event sink; whether it takes what it is told.
pub(super) fn event_sink(object: &Object, state: &State) -> ObjectStatus {
    super::event_sinks::status(object, state)
}

/// Anything that just is.
pub(super) fn object(_: &Object, _: &State) -> ObjectStatus {
    ObjectStatus { state: ObjectState::Active, conditions: Vec::new() }
}

/// The settings: whether what the watched directory says is in force.
pub(super) fn settings(object: &Object, state: &State) -> ObjectStatus {
    let mut status = self::object(object, state);
    if let Some(files) = state.handles.configuration.files() {
        let (status_of, reason) = match files.accepted {
            Some(true) => (ConditionStatus::True, "applied"),
            Some(false) => (ConditionStatus::False, "filesRefused"),
            None => (ConditionStatus::Unknown, "notLookedAt"),
        };
        status.conditions.push(Condition {
            kind: ConditionType::ConfigAccepted,
            status: status_of,
            reason: reason.to_owned(),
            message: files.message,
            last_transition_time: files.since,
            observed_generation: Some(object.generation),
        });
    }
    status
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn open_relay(object: &Object, message: &str) -> Condition {
    Condition {
        kind: ConditionType::OpenRelay,
        status: ConditionStatus::True,
        reason: "acknowledged".to_owned(),
        message: message.to_owned(),
        last_transition_time: None,
        observed_generation: Some(object.generation),
    }
}
