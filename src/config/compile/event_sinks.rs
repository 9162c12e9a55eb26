//! Event sinks: what is wrong with them, and what comes of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Findings, Objects};
use crate::config::secrets::Vault;
use crate::config::snapshot::{EventSink, Snapshot};
use crate::model::duration::Duration;
use crate::model::name::Name;
use crate::model::spec::Collection;

/// Everything that is wrong with event sinks. Names of virtual servers and connectors are a filter, no references: what
/// happened to mail of one that is gone is still history.
pub(super) fn check(objects: &Objects, found: &mut Findings) {
    for (name, (_, spec)) in &objects.event_sinks {
        found.at_least((Collection::EventSinks, name), "/spec/timeout", spec.timeout, Duration::from_secs(1));
    }
}

/// The event sinks; one that did not change is the same as before.
pub(super) fn build(objects: &Objects, previous: &Snapshot, vault: &Vault) -> BTreeMap<Name, Arc<EventSink>> {
    let build = |(name, (generation, spec)): (&Name, &(u64, Arc<_>))| {
        let kept = objects.secrets(Collection::EventSinks, name).cloned().unwrap_or_default();
        let spec: &crate::model::spec::EventSinkSpec = spec;
        let secret = vault.secret(&spec.secret, &kept);
        let sink = EventSink { name: name.clone(), generation: *generation, spec: spec.clone(), secret };
        let same = previous.event_sinks.get(name).filter(|known| ***known == sink).cloned();
        (name.clone(), same.unwrap_or_else(|| Arc::new(sink)))
    };
    objects.event_sinks.iter().map(build).collect()
}
