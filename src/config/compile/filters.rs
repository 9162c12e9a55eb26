//! Filters: what of them needs more than one value to judge, who refers to them, and the tables that come of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{Findings, Objects};
use crate::config::filters::Filter;
use crate::config::snapshot::Snapshot;
use crate::config::violation::ViolationCode;
use crate::model::name::Name;
use crate::model::spec::{Collection, FilterSpec};

/// Everything that is wrong with filters, and with the bindings that name them.
pub(super) fn check(objects: &Objects, found: &mut Findings) {
    for (name, (_, spec)) in &objects.filters {
        let FilterSpec::Connection(filter) = &**spec else { continue };
        let mut seen = HashSet::new();
        for (index, list) in filter.dnsbl.iter().enumerate().filter(|(_, list)| !seen.insert(&list.zone)) {
            let detail = format!("{} is in the list already; one entry can have many codes", list.zone);
            found.wrong(
                (Collection::Filters, name),
                format!("/spec/dnsbl/{index}/zone"),
                ViolationCode::Duplicate,
                detail,
            );
        }
    }
    for (name, (_, spec)) in &objects.virtual_servers {
        let of = (Collection::VirtualServers, name);
        for (index, binding) in spec.bindings.iter().enumerate() {
            let mut seen = HashSet::new();
            for (at, filter) in binding.filters.iter().enumerate() {
                let pointer = format!("/spec/bindings/{index}/filters/{at}");
                if !objects.filters.contains_key(filter) {
                    found.missing(of, pointer, Collection::Filters, filter);
                } else if !seen.insert(filter) {
                    found.wrong(of, pointer, ViolationCode::Duplicate, format!("{filter} is in the list already"));
                }
            }
        }
    }
}

/// The filters, compiled; what did not change is the same as before.
pub(super) fn build(objects: &Objects, previous: &Snapshot) -> BTreeMap<Name, Arc<Filter>> {
    let build = |(name, (generation, spec)): (&Name, &(u64, Arc<FilterSpec>))| {
        let known = previous.filters.get(name);
        let same = known.filter(|known| known.generation == *generation && known.spec == *spec);
        let filter = same.cloned().unwrap_or_else(|| Arc::new(Filter::new(name.clone(), *generation, spec.clone())));
        (name.clone(), filter)
    };
    objects.filters.iter().map(build).collect()
}
