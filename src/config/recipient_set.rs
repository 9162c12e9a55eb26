//! The recipients of a set of changes: judged, placed, given their addresses, checked.
//!
//! The order in which they come does not matter. All of them are placed first ([`place`]): their records, so that they may
//! name each other, and the addresses that some give up, so that others may have them. Then each gets its addresses, and
//! others whose policies or groups are different now get theirs ([`settle`]); only then it is asked whether whom they name
//! and where they forward to is there. Blocks for the disk; runs where that is allowed.

use std::sync::Arc;

use serde_json::Value;

use super::answer::{ChangeKind, OwnedObject};
use super::authority::Authority;
use super::compile::Objects;
use super::effects::Effects;
use super::history::Recorded;
use super::object::{Record, Spec};
use super::plan::{MOST_TOLD, Refused, SYSTEM, Step, Want, Wish, own};
use super::recipients::{AddressEntry, address_key, address_writes, owner_in};
use super::records::{encode, object_key, read_record};
use super::stamping::{self, Error, Stamper};
use super::violation::{Violation, object_id};
use super::{Kept, references};
use crate::model::host::mailbox_key;
use crate::model::labels::Labels;
use crate::model::name::Name;
use crate::model::spec::recipient::StampedAddress;
use crate::model::spec::{Collection, RecipientSpec};
use crate::smtp::address::Mailbox;
use crate::store::{ConfigDraft, ConfigStore, StoreError};

/// Groups that change in one set before everybody is looked at instead of those in them.
const MOST_GROUPS: usize = 20;

/// By what right objects are written.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    pub authority: &'a Authority,
    pub owner: &'a str,
    pub take_over: bool,
    pub claims: bool,
    /// Objects of `file` are written by files only.
    pub files: bool,
}

/// The owner of what stands in the watched directory.
pub(super) const FILE: &str = "file";

impl How<'_> {
    /// The object, when it may not be written because it is somebody else's.
    pub fn somebody_elses(self, collection: Collection, name: &Name, owner: &str) -> Option<OwnedObject> {
        if owner == self.owner || owner == SYSTEM {
            return None;
        }
        let by_file = owner == FILE && self.files;
        let refused = by_file || !self.take_over;
        refused.then(|| OwnedObject { object: object_id(collection, name), owner: owner.to_owned(), by_file })
    }
}

/// A recipient, judged.
pub(super) struct RecipientStep {
    name: Name,
    pub change: ChangeKind,
    /// `None` when it goes, or stays as it is.
    after: Option<After>,
    is_new: bool,
    generation: u64,
}

struct After {
    labels: Labels,
    spec: Arc<RecipientSpec>,
    owner: String,
    /// Addresses that it had when it was what it shall be again.
    earlier: Vec<StampedAddress>,
}

impl RecipientStep {
    /// As a step of a plan.
    pub fn step(&self) -> Step {
        Step { collection: Collection::Recipients, name: self.name.clone(), change: self.change, shown: None }
    }

    fn changes(&self) -> bool {
        self.change != ChangeKind::Unchanged
    }

    fn record(&self, after: &After, addresses: Vec<StampedAddress>) -> Record {
        let spec = Spec::Recipient(after.spec.clone()).value();
        let record = Record::new(after.labels.clone(), &after.owner, self.generation, spec, Kept::default());
        Record { addresses, ..record }
    }

    fn key(&self) -> String {
        object_key(Collection::Recipients, self.name.as_str())
    }

    fn before(&self, store: &dyn ConfigStore) -> Result<Option<Record>, StoreError> {
        if self.is_new { Ok(None) } else { read_record(store, Collection::Recipients, &self.name) }
    }
}

/// Whose they are, and whether they change.
pub(super) fn judge(
    store: &dyn ConfigStore,
    wishes: Vec<Wish>,
    how: How<'_>,
) -> Result<(Vec<RecipientStep>, Vec<OwnedObject>), Refused> {
    let (mut steps, mut owned) = (Vec::with_capacity(wishes.len()), Vec::new());
    for Wish { name, want, .. } in wishes {
        // of recipients only the labels say who may write them
        let reaches = |labels: &Labels| how.authority.reaches(Collection::Recipients, &name, labels, &Value::Null);
        how.authority.may_write(Collection::Recipients)?;
        let before = read_record(store, Collection::Recipients, &name)?;
        before.as_ref().map_or(Ok(()), |record| reaches(&record.labels))?;
        if let Some(record) = &before
            && let Some(other) = how.somebody_elses(Collection::Recipients, &name, &record.owner)
        {
            if owned.len() < MOST_TOLD {
                owned.push(other);
            }
            continue;
        }
        let wrong_kind = || StoreError::Damaged(format!("{name}: the spec is none of a recipient"));
        let after = match want {
            Want::Gone => None,
            Want::LetGo => continue,
            Want::Be { labels, spec: Spec::Recipient(spec) } => {
                Some(After { labels, spec, owner: how.owner.to_owned(), earlier: Vec::new() })
            }
            Want::Be { .. } => return Err(wrong_kind().into()),
            Want::BeAgain(record) => {
                let spec = Arc::new(stamping::parsed(&record).map_err(|_| wrong_kind())?);
                Some(After { labels: record.labels, spec, owner: record.owner, earlier: record.addresses })
            }
        };
        after.as_ref().map_or(Ok(()), |after| reaches(&after.labels))?;
        let (is_new, generation) = (before.is_none(), before.as_ref().map_or(0, |record| record.generation) + 1);
        let change = match (&before, &after) {
            (None, None) => continue,
            (Some(_), None) => ChangeKind::Deleted,
            (None, Some(_)) => ChangeKind::Created,
            (Some(record), Some(after)) => {
                let same = record.labels == after.labels
                    && stamping::parsed(record).is_ok_and(|known| known == *after.spec)
                    && !(how.claims && record.owner != after.owner);
                if same { ChangeKind::Unchanged } else { ChangeKind::Updated }
            }
        };
        let after = after.filter(|_| change != ChangeKind::Unchanged);
        steps.push(RecipientStep { name, change, after, is_new, generation });
    }
    Ok((steps, owned))
}

/// Places them in the draft: what each is, whom it names, and nothing more where an address was given up.
pub(super) fn place(
    draft: &mut dyn ConfigDraft,
    store: &dyn ConfigStore,
    steps: &[RecipientStep],
    recorded: &mut Recorded,
) -> Result<(), Refused> {
    for step in steps.iter().filter(|step| step.changes()) {
        let before = step.before(store)?;
        let was = before.as_ref().and_then(|record| stamping::parsed(record).ok());
        let spec = step.after.as_ref().map(|after| &*after.spec);
        for (key, value) in references::writes(&step.name, was.as_ref(), spec) {
            draft.write(&key, value)?;
        }
        let had = before.as_ref().map(|record| record.addresses.clone()).unwrap_or_default();
        let (stays, goes): (Vec<_>, Vec<_>) = match (&was, spec) {
            // what it gave itself and does not any more
            (Some(was), Some(spec)) => had.into_iter().partition(|address| {
                let key = mailbox_key(&address.address);
                let among = |all: &[Mailbox]| all.iter().any(|own| mailbox_key(own) == key);
                !among(&was.addresses) || among(&spec.addresses)
            }),
            (_, None) => (Vec::new(), had),
            (None, Some(_)) => (had, Vec::new()),
        };
        for address in goes {
            draft.write(&address_key(&mailbox_key(&address.address)), None)?;
        }
        let record = step.after.as_ref().map(|after| step.record(after, stays));
        draft.write(&step.key(), record.as_ref().map(encode))?;
        recorded.add(draft, Collection::Recipients, &step.name, before, step.change)?;
    }
    Ok(())
}

/// Gives them their addresses, and others theirs where that is different now; then checks what they say of others. `gone` are
/// mailbox stores that go.
pub(super) fn settle(
    draft: &mut dyn ConfigDraft,
    store: &dyn ConfigStore,
    steps: &[RecipientStep],
    stamper: &mut Stamper,
    objects: &Objects,
    gone: &[Name],
    restamp: bool,
) -> Result<Effects, Refused> {
    let (mut effects, mut found) = (Effects::default(), Vec::new());
    stamper.forget_groups(true);
    for step in steps.iter().filter(|step| step.changes()) {
        let before = step.before(store)?;
        let wrong = match &step.after {
            Some(after) => stamp_one(draft, step, after, before, stamper, objects, &mut effects)?,
            None => {
                effects.add(&step.name, &before.map(|record| record.addresses).unwrap_or_default(), &[]);
                references::named_by(draft, &stamper.policies, &step.name)?
            }
        };
        found.extend(wrong.into_iter().map(|wrong| own(wrong, Collection::Recipients, &step.name)));
        if found.len() >= MOST_TOLD {
            return Err(Refused::Invalid(found));
        }
    }
    let alone = steps.len() == 1;
    if found.is_empty() || alone {
        for (step, after) in steps.iter().filter_map(|step| Some((step, step.after.as_ref()?))) {
            let wrong = references::check_addresses(draft, &stamper.domains, &after.spec)?;
            found.extend(wrong.into_iter().map(|wrong| own(wrong, Collection::Recipients, &step.name)));
        }
    }
    found.extend(stamping::named_stores(draft, gone)?);
    if !found.is_empty() {
        return Err(Refused::Invalid(found));
    }
    others(draft, store, steps, stamper, restamp, &mut effects)?;
    Ok(effects)
}

/// One of them; what is wrong with it instead, when there is something.
fn stamp_one(
    draft: &mut dyn ConfigDraft,
    step: &RecipientStep,
    after: &After,
    before: Option<Record>,
    stamper: &mut Stamper,
    objects: &Objects,
    effects: &mut Effects,
) -> Result<Vec<Violation>, Refused> {
    let (name, spec) = (&step.name, &*after.spec);
    let mut found = objects.missing_store(spec);
    found.extend(references::check_names(draft, name, spec)?);
    found.extend(stamping::own_addresses(draft, &stamper.domains, name, spec)?);
    found.extend(stamper.must_be_group(name, spec));
    if !found.is_empty() {
        return Ok(found);
    }
    let mut earlier = stamping::earlier(before.as_ref());
    if before.is_none() && !after.earlier.is_empty() {
        earlier = stamping::earlier(Some(&step.record(after, after.earlier.clone())));
    }
    let stamped = match stamper.stamped(draft, name, spec, &earlier) {
        Ok(stamped) => stamped.addresses,
        Err(Error::Violations(found) | Error::Others(found)) => return Ok(found),
        Err(Error::Store(error)) => return Err(error.into()),
    };
    let known = before.map(|record| record.addresses).unwrap_or_default();
    for (key, value) in address_writes(&known, &stamped, &AddressEntry::of(name, spec)) {
        // what it gave up may be another's by now
        let others = value.is_none() && {
            let owner = key.strip_prefix("address/").map(|key| owner_in(draft, key)).transpose()?.flatten();
            owner.is_none_or(|entry| entry.recipient != *name)
        };
        if !others {
            draft.write(&key, value)?;
        }
    }
    effects.add(name, &known, &stamped);
    draft.write(&step.key(), Some(encode(&step.record(after, stamped))))?;
    Ok(Vec::new())
}

/// Those who did not change themselves.
fn others(
    draft: &mut dyn ConfigDraft,
    store: &dyn ConfigStore,
    steps: &[RecipientStep],
    stamper: &mut Stamper,
    restamp: bool,
    effects: &mut Effects,
) -> Result<(), Refused> {
    let mut changed_groups = Vec::new();
    if !restamp && stamper.asks_for_groups() {
        for step in steps.iter().filter(|step| step.changes()) {
            let was = step.before(store)?.and_then(|record| stamping::parsed(&record).ok());
            let spec = step.after.as_ref().map(|after| after.spec.clone());
            let members = |spec: Option<&RecipientSpec>| spec.map(|spec| spec.members.clone()).unwrap_or_default();
            if members(was.as_ref()) != members(spec.as_deref()) {
                changed_groups.push((step.name.clone(), was, spec));
            }
        }
    }
    let done = if restamp || changed_groups.len() > MOST_GROUPS {
        stamper.all(draft).map(|more| effects.take(more))
    } else {
        changed_groups
            .iter()
            .try_for_each(|(name, was, spec)| stamper.others(draft, name, was.as_ref(), spec.as_deref(), effects))
    };
    done.map_err(|error| match error {
        Error::Others(found) | Error::Violations(found) => Refused::Others(found),
        Error::Store(error) => error.into(),
    })
}
