//! Remote domains: that no two have the same pattern, and the table that comes of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Findings, Objects};
use crate::config::snapshot::Snapshot;
use crate::config::violation::ViolationCode;
use crate::model::spec::Collection;
use crate::routing::RemoteDomains;

/// Everything that is wrong with remote domains.
pub(super) fn check(objects: &Objects, found: &mut Findings) {
    let mut seen = BTreeMap::new();
    for (name, (_, spec)) in &objects.remote_domains {
        if let Some(other) = seen.insert(&spec.pattern, name) {
            let detail = format!("the remote domain {other} has the pattern {} too", spec.pattern);
            found.wrong((Collection::RemoteDomains, name), "/spec/pattern", ViolationCode::Duplicate, detail);
        }
    }
}

/// The remote domains as a table, the same as before when nothing in it changed.
pub(super) fn build(objects: &Objects, previous: &Snapshot) -> Arc<RemoteDomains> {
    let table = RemoteDomains::new(objects.remote_domains.values().map(|(_, spec)| &**spec));
    if *previous.remote_domains == table { previous.remote_domains.clone() } else { Arc::new(table) }
}
