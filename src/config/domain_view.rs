//! The domains that follow from policies and connectors, for people (`GET /domains`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Snapshot;
use super::violation::object_id;
use crate::directory::Authority;
use crate::model::pattern::AddressPattern;
use crate::model::spec::Collection;

/// A domain that is local, or that a connector opens for relaying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Domain, example = json!({"name": "example.com", "type": "authoritative", "default": true, "definedBy": ["recipient-policies/default"]}))]
pub struct DomainView {
    /// The domain; `*.domain` or `*` where a connector opens relaying for a pattern. Of a domain for which another connector
    /// has a more specific address space, that one decides.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: DomainType,
    /// Whether it is the default domain: the one that completes unqualified addresses, and of `postmaster`.
    pub default: bool,
    /// The objects that it follows from, as `collection/name`.
    pub defined_by: Vec<String>,
}

/// What a domain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum DomainType {
    /// Local; unknown recipients are refused.
    Authoritative,
    /// Local; mail for unknown recipients goes on by connector.
    Shared,
    /// Not local; a connector carries its mail for every client (`allowRelay`).
    Relay,
}

impl Snapshot {
    /// All domains that follow from the configuration, by name.
    pub fn domain_views(&self) -> Vec<DomainView> {
        let mut views: BTreeMap<String, DomainView> = BTreeMap::new();
        for local in self.domains.iter() {
            let name = local.domain.to_string();
            let view = DomainView {
                name: name.clone(),
                kind: match local.authority {
                    Authority::Authoritative => DomainType::Authoritative,
                    Authority::Shared => DomainType::Shared,
                },
                default: self.domains.default_domain() == Some(&local.domain),
                defined_by: local.policies.iter().map(|name| object_id(Collection::RecipientPolicies, name)).collect(),
            };
            views.insert(name, view);
        }
        let mut connectors: Vec<_> = self.routes.connectors().filter(|connector| connector.spec.allow_relay).collect();
        connectors.sort_by_key(|connector| &connector.name);
        for connector in connectors {
            for space in &connector.spec.address_spaces {
                if matches!(&space.pattern, AddressPattern::Exact(domain) if self.domains.find(domain).is_some()) {
                    continue;
                }
                let name = space.pattern.to_string();
                let view = views.entry(name.clone()).or_insert_with(|| DomainView {
                    name,
                    kind: DomainType::Relay,
                    default: false,
                    defined_by: Vec::new(),
                });
                let by = object_id(Collection::Connectors, &connector.name);
                if !view.defined_by.contains(&by) {
                    view.defined_by.push(by);
                }
            }
        }
        views.into_values().collect()
    }
}
