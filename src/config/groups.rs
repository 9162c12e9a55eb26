//! Who is in which group: what policies ask for, and whom a change of a group concerns.
//!
//! Upwards, from a recipient to the groups it is in, the way is the index of references (`references`), where each member
//! finds the groups that name it; downwards it is the members that a group lists. Groups may lie in each other in a circle:
//! each is looked into once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::records::{SCAN, decode, object_key};
use super::{references, stamping};
use crate::model::name::Name;
use crate::model::recipient_ref::RecipientRef;
use crate::model::spec::recipient::RecipientType;
use crate::model::spec::{Collection, RecipientSpec};
use crate::store::{ConfigDraft, StoreError};

/// Most groups that one recipient is in, directly or by a group in a group, when a policy asks for them.
pub(super) const MOST_GROUPS: usize = 10_000;
/// Names of groups that are remembered.
const MOST_REMEMBERED: usize = 200_000;
/// Most recipients that are found behind the members of a group that changes; with more, everybody is looked at.
const MOST_CONCERNED: usize = if cfg!(test) { 6 } else { 100_000 };

/// The groups that recipients are in, as they are in one draft. What was found out about a group is remembered, so that many
/// recipients can be asked for: whoever changes members forgets it.
#[derive(Default)]
pub(super) struct Groups {
    /// What each group is in.
    above: HashMap<Name, Arc<BTreeSet<Name>>>,
    names: usize,
}

/// Why it cannot be told.
pub(super) enum GroupsError {
    /// It is in more than [`MOST_GROUPS`].
    TooMany,
    Store(StoreError),
}

impl From<StoreError> for GroupsError {
    fn from(error: StoreError) -> Self {
        GroupsError::Store(error)
    }
}

impl Groups {
    /// The groups that this recipient is in, directly or by a group in a group.
    pub fn of(&mut self, draft: &dyn ConfigDraft, name: &Name) -> Result<BTreeSet<Name>, GroupsError> {
        let mut all = direct(draft, name)?;
        for group in all.clone() {
            all.extend(self.above(draft, &group)?.iter().cloned());
            if all.len() > MOST_GROUPS {
                return Err(GroupsError::TooMany);
            }
        }
        Ok(all)
    }

    /// Forgets what was found out: members have changed.
    pub fn forget(&mut self) {
        *self = Groups::default();
    }

    fn above(&mut self, draft: &dyn ConfigDraft, group: &Name) -> Result<Arc<BTreeSet<Name>>, GroupsError> {
        if let Some(known) = self.above.get(group) {
            return Ok(known.clone());
        }
        let mut all = BTreeSet::new();
        let mut todo = vec![group.clone()];
        while let Some(next) = todo.pop() {
            if let Some(known) = self.above.get(&next) {
                all.extend(known.iter().cloned());
                continue;
            }
            todo.extend(direct(draft, &next)?.into_iter().filter(|above| all.insert(above.clone())));
            if all.len() > MOST_GROUPS {
                return Err(GroupsError::TooMany);
            }
        }
        let all = Arc::new(all);
        if self.names + all.len() + 1 > MOST_REMEMBERED {
            self.forget();
        }
        self.names += all.len() + 1;
        self.above.insert(group.clone(), all.clone());
        Ok(all)
    }
}

/// The groups that name it as a member.
fn direct(draft: &dyn ConfigDraft, name: &Name) -> Result<BTreeSet<Name>, GroupsError> {
    let mut groups = BTreeSet::new();
    let mut after: Option<String> = None;
    loop {
        let page = references::page(draft, name, after.as_deref(), SCAN)?;
        let full = page.len() == SCAN;
        after = page.last().map(|(key, ..)| key.clone());
        let members = page.into_iter().filter(|(_, _, pointer)| pointer.starts_with("/spec/members/"));
        groups.extend(members.map(|(_, by, _)| by));
        if groups.len() > MOST_GROUPS {
            return Err(GroupsError::TooMany);
        }
        if !full {
            return Ok(groups);
        }
    }
}

/// Whom a change concerns.
pub(super) enum Concerned {
    /// These.
    Some(BTreeSet<Name>),
    /// So many that everybody is looked at.
    Everybody,
}

/// Whose groups change when a recipient does: members that come or go, and all that are in those.
pub(super) fn concerned(
    draft: &dyn ConfigDraft,
    before: Option<&RecipientSpec>,
    after: Option<&RecipientSpec>,
) -> Result<Concerned, StoreError> {
    let (before, after) = (before.map(members).unwrap_or_default(), after.map(members).unwrap_or_default());
    let mut concerned: BTreeSet<Name> = before.symmetric_difference(&after).map(|name| (*name).clone()).collect();
    let mut todo: Vec<Name> = concerned.iter().cloned().collect();
    while let Some(name) = todo.pop() {
        if concerned.len() > MOST_CONCERNED {
            return Ok(Concerned::Everybody);
        }
        let Some(spec) = spec(draft, &name)? else { continue };
        todo.extend(members(&spec).into_iter().filter(|member| concerned.insert((*member).clone())).cloned());
    }
    Ok(Concerned::Some(concerned))
}

/// Whether there is a group of this name.
pub(super) fn is_group(draft: &dyn ConfigDraft, name: &Name) -> Result<bool, StoreError> {
    Ok(spec(draft, name)?.is_some_and(|spec| spec.kind == RecipientType::Group))
}

fn spec(draft: &dyn ConfigDraft, name: &Name) -> Result<Option<RecipientSpec>, StoreError> {
    let key = object_key(Collection::Recipients, name.as_str());
    let Some(bytes) = draft.get(&key)? else { return Ok(None) };
    let spec = stamping::parsed(&decode(&key, &bytes)?);
    spec.map(Some).map_err(|detail| StoreError::Damaged(format!("{key}: {detail}")))
}

/// The members that a recipient names by their names; none unless it is a group.
fn members(spec: &RecipientSpec) -> BTreeSet<&Name> {
    let names = spec.members.iter().filter_map(|member| match member {
        RecipientRef::Name(name) => Some(name),
        RecipientRef::Address(_) => None,
    });
    names.collect()
}
