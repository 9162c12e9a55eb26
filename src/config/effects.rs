//! What a change does to others than the object it is about: the recipients whose addresses it changes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::QueuedMailEffects;
use crate::model::name::Name;
use crate::model::spec::recipient::StampedAddress;

/// Recipients that are listed; all of them are counted.
const MOST_LISTED: usize = 100;
/// Addresses that are listed of one recipient, before and after.
const MOST_ADDRESSES: usize = 20;

/// What a change does, or would do, to others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Effects {
    /// On the addresses of recipients.
    pub recipients: RecipientEffects,
    /// On the mail that waits; only in the answer to a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, required = false)]
    pub queued_mail: Option<QueuedMailEffects>,
}

/// Recipients whose addresses change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "changed": 37, "newPrimary": 37, "items": [{
        "name": "ada",
        "before": [{"address": "ada@example.com", "primary": true}],
        "after": [{"address": "ada.lovelace@example.com", "primary": true}, {"address": "ada@example.com", "primary": false}]
    }]
}))]
pub struct RecipientEffects {
    /// How many get other addresses.
    pub changed: u64,
    /// How many of these get another primary address, their first one included.
    pub new_primary: u64,
    /// The first 100 of them, by name; only in the answer to a dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub items: Vec<RecipientEffect>,
}

/// The addresses of one recipient, before and after; the first 20 of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecipientEffect {
    /// The recipient.
    pub name: String,
    /// The addresses it has; empty when it is new.
    pub before: Vec<StampedAddress>,
    /// The addresses it gets; empty when it goes.
    pub after: Vec<StampedAddress>,
}

impl Effects {
    /// Notes a recipient, if its addresses change.
    pub(super) fn add(&mut self, name: &Name, before: &[StampedAddress], after: &[StampedAddress]) {
        if before == after {
            return;
        }
        let primary = |addresses: &[StampedAddress]| addresses.iter().find(|a| a.primary).map(|a| a.address.clone());
        let new = primary(after);
        let to = &mut self.recipients;
        to.changed += 1;
        to.new_primary += u64::from(new.is_some() && new != primary(before));
        if to.items.len() < MOST_LISTED {
            let first = |addresses: &[StampedAddress]| addresses.iter().take(MOST_ADDRESSES).cloned().collect();
            to.items.push(RecipientEffect { name: name.to_string(), before: first(before), after: first(after) });
        }
    }

    /// Adds those of a further part of the change.
    pub(super) fn take(&mut self, more: Effects) {
        let (to, from) = (&mut self.recipients, more.recipients);
        to.changed += from.changed;
        to.new_primary += from.new_primary;
        let room = MOST_LISTED.saturating_sub(to.items.len());
        to.items.extend(from.items.into_iter().take(room));
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.recipients.changed == 0 && self.queued_mail.as_ref().is_none_or(|mail| mail.moved == 0)
    }
}
