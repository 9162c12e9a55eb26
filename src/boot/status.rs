//! What the API shows of the running parts: probes, listeners.

use std::iter;
use std::sync::Arc;

use crate::api::{
    self, BoundAddress, Check, Condition, ConditionStatus, ConditionType, Probe, VirtualServerState,
    VirtualServerStatus,
};
use crate::config::{Configuration, Live, VirtualServer};
use crate::model::name::Name;
use crate::status::{Drain, Halt, Listeners, Masks, Overload, Running};
use crate::store::Store;

/// The probes.
pub(super) struct Health {
    pub(super) store: Arc<dyn Store>,
    pub(super) live: Live,
    pub(super) listeners: Arc<Listeners>,
    pub(super) running: Arc<Running>,
    pub(super) drain: Arc<Drain>,
    pub(super) overload: Arc<Overload>,
    pub(super) configuration: Arc<Configuration>,
}

impl api::Health for Health {
    fn checks(&self, probe: Probe) -> Vec<Check> {
        match probe {
            // that it answers is the proof
            Probe::Live => Vec::new(),
            Probe::Startup => vec![self.store_ready()],
            Probe::Ready => {
                let mut checks = vec![
                    self.store_ready(),
                    self.store_writes(),
                    self.listening(),
                    self.not_draining(),
                    self.not_overloaded(),
                ];
                checks.extend(self.configured());
                checks
            }
        }
    }
}

impl Health {
    fn store_ready(&self) -> Check {
        let ready = self.store.health().ready;
        check("storeReady", ready, if ready { "" } else { "the database catches up with the journal" })
    }

    fn store_writes(&self) -> Check {
        match self.store.health().writable {
            Ok(()) => check("storeWrites", true, ""),
            Err(why) => check("storeWrites", false, &why),
        }
    }

    fn listening(&self) -> Check {
        let snapshot = self.live.current();
        let mut wrong = Vec::new();
        // one that an operator has stopped is as it shall be
        let wanted = |server: &&Arc<VirtualServer>| server.spec.enabled && self.running.listens(&server.name);
        for server in snapshot.virtual_servers.values().filter(wanted) {
            let bindings = self.listeners.of(server.name.as_str());
            if bindings.len() < server.spec.bindings.len() {
                wrong.push(format!("{} is being opened", server.name));
            }
            wrong.extend(bindings.into_iter().filter_map(|binding| binding.bound.err()));
        }
        // one binding that is taken must not take the others out of service
        let any = self.listeners.all().iter().any(|(_, bindings)| bindings.iter().any(|b| b.bound.is_ok()));
        let none_wanted = !snapshot.virtual_servers.values().any(|server| wanted(&server));
        check("listening", wrong.is_empty() || any || none_wanted, &wrong.join("; "))
    }

    fn not_overloaded(&self) -> Check {
        let why = self.overload.now();
        check("notOverloaded", why.is_none(), &why.map(|why| why.to_string()).unwrap_or_default())
    }

    /// With a watched directory: whether a set of its files was ever in force. A bad one on top of a good one does not
    /// take the appliance out of service.
    fn configured(&self) -> Option<Check> {
        let files = self.configuration.files()?;
        let any = files.accepted == Some(true) || !self.live.current().virtual_servers.is_empty();
        Some(check("configured", any, &files.message))
    }

    fn not_draining(&self) -> Check {
        let why = match (self.drain.is_on(), self.drain.is_closed()) {
            (true, _) => "the process is stopping",
            (false, true) => "an operator drains it",
            (false, false) => "",
        };
        check("notDraining", why.is_empty(), why)
    }
}

fn check(name: &str, passed: bool, detail: &str) -> Check {
    Check { name: name.to_owned(), passed, detail: detail.to_owned() }
}

/// What the listeners of a virtual server do.
pub(super) fn of_servers(
    live: Live,
    listeners: Arc<Listeners>,
    running: Arc<Running>,
    masks: Arc<Masks>,
) -> Arc<dyn api::Listeners> {
    Arc::new(move |name: &Name| {
        let snapshot = live.current();
        let server = snapshot.virtual_servers.get(name)?;
        if !server.spec.enabled {
            let state = VirtualServerState::Stopped;
            return Some(VirtualServerStatus { state, listeners: Vec::new(), conditions: Vec::new() });
        }
        let halted = running.of(name);
        let overridden = halted.as_ref().map(|halted| Condition {
            kind: ConditionType::Overridden,
            status: ConditionStatus::True,
            reason: halted.halt.word().to_owned(),
            message: format!("{} by the key {:?}", halted.halt.word(), halted.by),
            last_transition_time: Some(halted.at),
            observed_generation: Some(server.generation),
        });
        if halted.as_ref().is_some_and(|halted| halted.halt == Halt::Stopped) {
            let conditions = overridden.into_iter().collect();
            return Some(VirtualServerStatus { state: VirtualServerState::Stopped, listeners: Vec::new(), conditions });
        }
        let bindings = listeners.of(name.as_str());
        if bindings.len() < server.spec.bindings.len() {
            return None;
        }
        let failures: Vec<String> = bindings.iter().filter_map(|binding| binding.bound.clone().err()).collect();
        let open = bindings.iter().filter_map(|binding| binding.bound.as_ref().ok());
        let listeners = open.map(|bound| BoundAddress { address: bound.ip(), port: bound.port() }).collect();
        let (state, status, reason) = if failures.is_empty() && halted.is_some() {
            (VirtualServerState::Paused, ConditionStatus::True, "open")
        } else if failures.is_empty() {
            (VirtualServerState::Running, ConditionStatus::True, "open")
        } else {
            (VirtualServerState::Degraded, ConditionStatus::False, "cannotListen")
        };
        let condition = Condition {
            kind: ConditionType::Listening,
            status,
            reason: reason.to_owned(),
            message: failures.join("; "),
            last_transition_time: None,
            observed_generation: Some(server.generation),
        };
        let masked = masks.of(name).filter(|address| server.may_relay(*address)).map(|address| Condition {
            kind: ConditionType::OpenRelay,
            status: ConditionStatus::Unknown,
            reason: "oneAddressForAll".to_owned(),
            message: format!(
                "nearly all clients come from {address}, under many names, and relay.allow trusts it: whoever is behind it \
                 may relay; a proxy should speak the PROXY protocol"
            ),
            last_transition_time: None,
            observed_generation: Some(server.generation),
        });
        let conditions = iter::once(condition).chain(overridden).chain(masked).collect();
        Some(VirtualServerStatus { state, listeners, conditions })
    })
}
