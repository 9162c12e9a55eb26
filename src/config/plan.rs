//! What a set of changes comes to: one object or a hundred thousand, by the same way.
//!
//! **Judging**: whose each object is, whether it changes at all; its secrets go where they are kept. **Compiling** all
//! objects as they will be; references among new ones hold, in any order. **Drafting**: recipients get their addresses
//! ([`super::recipient_set`]), everything is written into one draft, with what it takes to go back ([`super::history`]).
//! **Preflights** look at the result. Nothing is changed by a plan; what is wrong is told with the object it is in.
//!
//! Memory: recipients are few hundred octets each here, what they were is read when it is needed, and the draft lies on disk
//! when it is large.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::answer::{ChangeError, ChangeKind, OwnedObject};
use super::authority::Authority;
use super::compile::Objects;
use super::configuration::{Configuration, State, blocking};
use super::effects::Effects;
use super::history::{Recorded, RevisionKind};
use super::object::{Record, Spec};
use super::recipient_set::{self, RecipientStep};
use super::records::{encode, object_key, read_record};
use super::refusal::faults;
use super::stamping::{self, Stamper};
use super::violation::{Violation, ViolationCode, Warning, object_id};
use super::{Kept, Snapshot};
use crate::model::labels::Labels;
use crate::model::name::Name;
use crate::model::spec::{Collection, DEFAULT};
use crate::store::{ConfigDraft, StoreError};

/// Most objects that an error names.
pub(super) const MOST_NAMED: usize = 100;
/// Changes of which the objects before and after are kept for the answer.
pub(super) const MOST_SHOWN: usize = 1_000;
/// Most violations that are told of a set.
pub(super) const MOST_TOLD: usize = 1_000;

/// What somebody wants of one object.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub collection: Collection,
    pub name: Name,
    pub want: Want,
}

#[derive(Debug, Clone)]
pub(super) enum Want {
    /// It shall be this.
    Be { labels: Labels, spec: Spec },
    /// It shall be what it was, with its owner and secrets.
    BeAgain(Box<Record>),
    /// It shall stay as it is, and be free for everybody.
    LetGo,
    /// It shall be gone.
    Gone,
}

/// By what right, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct How<'a> {
    /// What the one who wants it may change.
    pub authority: &'a Authority,
    /// Whose the objects are afterwards.
    pub owner: &'a str,
    /// Whether what belongs to somebody else may be written.
    pub take_over: bool,
    /// Whether an object that is the same already becomes the owner's.
    pub claims: bool,
    /// Whether secrets that are not where they are said to be are only worth a note.
    pub lenient: bool,
    /// What the revision is made by.
    pub kind: RevisionKind,
}

/// One object of a plan.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub collection: Collection,
    pub name: Name,
    pub change: ChangeKind,
    /// Before and after; only of the first [`MOST_SHOWN`] that change.
    pub shown: Option<Box<(Option<Record>, Option<Record>)>>,
}

/// A set of changes that passed all checks.
pub(super) struct Plan {
    /// The objects, in the order of the wishes; recipients last.
    pub steps: Vec<Step>,
    /// What may not be meant, of the objects of the plan.
    pub warnings: Vec<Warning>,
    /// What was tolerated because of [`How::lenient`].
    pub tolerated: Vec<Violation>,
    pub effects: Effects,
    /// What is to be written; `None` when nothing changes.
    pub draft: Option<Box<dyn ConfigDraft>>,
    /// The objects and their snapshot after the change; `None` when it concerns only recipients.
    pub next: Option<(Objects, Snapshot)>,
    pub recorded: Option<Recorded>,
}

/// Why a set of changes cannot be made. All violations name their object.
pub(super) enum Refused {
    /// It would not be valid.
    Invalid(Vec<Violation>),
    /// Other recipients could not have their addresses.
    Others(Vec<Violation>),
    Change(ChangeError),
}

impl From<ChangeError> for Refused {
    fn from(error: ChangeError) -> Self {
        Refused::Change(error)
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Refused::Change(error.into())
    }
}

/// An object other than a recipient, judged.
struct Judged {
    collection: Collection,
    name: Name,
    before: Option<Record>,
    after: Option<(Record, Spec)>,
    change: ChangeKind,
}

impl Configuration {
    /// Everything that the wishes come to.
    pub(super) async fn plan(&self, state: &State, wishes: Vec<Wish>, how: How<'_>) -> Result<Plan, Refused> {
        let (recipients, others): (Vec<_>, Vec<_>) =
            wishes.into_iter().partition(|wish| wish.collection == Collection::Recipients);
        let mut tolerated = Vec::new();
        let (judged, mut owned) = self.judge(others, how, &mut tolerated).await?;
        let (store, taker, files) = (self.store.clone(), how.owner.to_owned(), self.has_files());
        let (take_over, claims, authority) = (how.take_over, how.claims, how.authority.clone());
        let work = blocking(move || {
            let how = recipient_set::How { authority: &authority, owner: &taker, take_over, claims, files };
            recipient_set::judge(&*store, recipients, how)
        });
        let (recipients, more) = work.await??;
        owned.extend(more);
        if !owned.is_empty() {
            owned.sort();
            owned.truncate(MOST_NAMED);
            return Err(ChangeError::Owned { objects: owned }.into());
        }
        let nothing = judged.iter().all(|one| one.change == ChangeKind::Unchanged)
            && recipients.iter().all(|one| one.change == ChangeKind::Unchanged);
        if nothing {
            return Ok(Plan::unchanged(judged, recipients));
        }
        self.draft(state, judged, recipients, how, tolerated).await
    }

    /// Whether objects of `file` can be changed by files only.
    pub(super) fn has_files(&self) -> bool {
        self.options.files
    }

    /// Whose the objects are, and whether they change.
    async fn judge(
        &self,
        wishes: Vec<Wish>,
        how: How<'_>,
        tolerated: &mut Vec<Violation>,
    ) -> Result<(Vec<Judged>, Vec<OwnedObject>), Refused> {
        let (mut judged, mut owned, mut found) = (Vec::with_capacity(wishes.len()), Vec::new(), Vec::new());
        for Wish { collection, name, want } in wishes {
            how.authority.may_write(collection)?;
            let before = read_record(&*self.store, collection, &name)?;
            if let Some(Record { labels, spec, .. }) = &before {
                how.authority.reaches(collection, &name, labels, spec)?;
            }
            let whose = recipient_set::How {
                authority: how.authority,
                owner: how.owner,
                take_over: how.take_over,
                claims: how.claims,
                files: self.has_files(),
            };
            if let Some(record) = &before
                && let Some(other) = whose.somebody_elses(collection, &name, &record.owner)
            {
                owned.push(other);
                continue;
            }
            match self.judge_one(collection, &name, want, before, how).await {
                Ok((one, lacking)) => {
                    tolerated.extend(lacking);
                    judged.extend(one);
                }
                Err(Refused::Invalid(wrong)) if found.len() < MOST_TOLD => {
                    found.extend(wrong.into_iter().map(|wrong| own(wrong, collection, &name)));
                }
                Err(Refused::Invalid(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if found.is_empty() { Ok((judged, owned)) } else { Err(Refused::Invalid(found)) }
    }

    async fn judge_one(
        &self,
        collection: Collection,
        name: &Name,
        want: Want,
        before: Option<Record>,
        how: How<'_>,
    ) -> Result<(Option<Judged>, Vec<Violation>), Refused> {
        let judged = |before, after, change| Some(Judged { collection, name: name.clone(), before, after, change });
        let (labels, mut spec, owner, known) = match want {
            Want::Gone => {
                let Some(before) = before else { return Ok((None, Vec::new())) };
                protect(collection, name)?;
                return Ok((judged(Some(before), None, ChangeKind::Deleted), Vec::new()));
            }
            Want::LetGo => {
                let Some(before) = before else { return Ok((None, Vec::new())) };
                let spec = Spec::parse(collection, &before.spec).map_err(|wrong| Refused::Invalid(vec![wrong]))?;
                let after = Record { owner: SYSTEM.to_owned(), ..before.clone() };
                return Ok((judged(Some(before), Some((after, spec)), ChangeKind::Updated), Vec::new()));
            }
            Want::Be { labels, spec } => (labels, spec, how.owner.to_owned(), Kept::default()),
            Want::BeAgain(record) => {
                let spec = Spec::parse(collection, &record.spec).map_err(|wrong| Refused::Invalid(vec![wrong]))?;
                (record.labels, spec, record.owner, record.secrets)
            }
        };
        // of a secret that is said to be there already, it may be that of the object or of what it was
        let source = match (&before, known.is_empty()) {
            (Some(before), false) => Some(Record { secrets: before.secrets.clone().with(&known), ..before.clone() }),
            (None, false) => Some(Record::new(Labels::default(), "", 0, spec.value(), known)),
            _ => None,
        };
        let source = source.as_ref().or(before.as_ref());
        let mut lacking = Vec::new();
        if let Err(wrong) = self.vault.keep_password(&mut spec, source).await {
            let (unreadable, other): (Vec<_>, Vec<_>) =
                wrong.into_iter().partition(|one| how.lenient && one.code == ViolationCode::SecretUnreadable);
            if !other.is_empty() {
                return Err(Refused::Invalid(other));
            }
            lacking.extend(unreadable.into_iter().map(|one| own(one, collection, name)));
        }
        let secrets = self.vault.keep(&mut spec, source).map_err(Refused::Invalid)?;
        let change = match &before {
            None => ChangeKind::Created,
            Some(record) => {
                let same = || Spec::parse(collection, &record.spec).is_ok_and(|known| known == spec);
                match record.labels == labels && same() {
                    true if how.claims && record.owner != owner => ChangeKind::Updated,
                    true => return Ok((judged(before, None, ChangeKind::Unchanged), lacking)),
                    false => ChangeKind::Updated,
                }
            }
        };
        let generation = before.as_ref().map_or(1, |record| record.generation + 1);
        let record = Record::new(labels, &owner, generation, spec.value(), secrets);
        how.authority.reaches(collection, name, &record.labels, &record.spec)?;
        Ok((judged(before, Some((record, spec)), change), lacking))
    }

    /// Compiles, has preflights look, and writes the draft.
    async fn draft(
        &self,
        state: &State,
        judged: Vec<Judged>,
        recipients: Vec<RecipientStep>,
        how: How<'_>,
        mut tolerated: Vec<Violation>,
    ) -> Result<Plan, Refused> {
        let mut recorded = Recorded::new(state.revision, how.kind);
        let draft = self.store.clone().draft();
        let recipients = Arc::new(recipients);
        // first: references to new recipients hold, and addresses that are given up are free
        let placed = {
            let (recipients, store) = (recipients.clone(), self.store.clone());
            blocking(move || {
                let mut draft = draft;
                let placed = recipient_set::place(&mut *draft, &*store, &recipients, &mut recorded);
                (draft, recorded, placed)
            })
        };
        let (mut draft, mut recorded, placed) = placed.await?;
        placed?;
        let changed: Vec<&Judged> = judged.iter().filter(|one| one.change != ChangeKind::Unchanged).collect();
        let (mut effects, mut warnings, mut next) = (Effects::default(), Vec::new(), None);
        let mut restamp = false;
        let mut stamper = self.stamper(state);
        if !changed.is_empty() {
            let (objects, missing) = gather(state, &changed, &*draft)?;
            let current = self.live.current();
            self.vault.derive_all(&objects).await;
            let compiled = self.compiled(&objects, &current, missing).map_err(Refused::Invalid)?;
            let mut found = Vec::new();
            for one in changed.iter().filter(|one| one.after.is_some()) {
                let faults = faults(&compiled, one.collection, &one.name);
                found.extend(faults.into_iter().map(|fault| own(fault, one.collection, &one.name)));
            }
            if how.lenient {
                let unreadable = |one: &Violation| one.code == ViolationCode::SecretUnreadable;
                tolerated.extend(found.iter().filter(|one| unreadable(one)).cloned());
                found.retain(|one| !unreadable(one));
            }
            found.extend(self.preflight(&current, &compiled).await);
            if !found.is_empty() {
                return Err(Refused::Invalid(found));
            }
            let policies = objects.policies();
            restamp = policies != state.policies || *compiled.domains != *current.domains;
            stamper = Stamper::new(policies, compiled.domains.clone());
            let ids: BTreeSet<String> = judged.iter().map(|one| object_id(one.collection, &one.name)).collect();
            warnings = compiled.warnings.iter().filter(|warning| ids.contains(&warning.object)).cloned().collect();
            next = Some((objects, compiled));
        }
        for one in &changed {
            recorded.add(&mut *draft, one.collection, &one.name, one.before.clone(), one.change)?;
            let key = object_key(one.collection, one.name.as_str());
            draft.write(&key, one.after.as_ref().map(|(record, _)| encode(record)))?;
        }
        let gone = changed.iter().filter(|one| one.collection == Collection::MailboxStores && one.after.is_none());
        let gone: Vec<Name> = gone.map(|one| one.name.clone()).collect();
        if restamp || !gone.is_empty() || recipients.iter().any(|one| one.change != ChangeKind::Unchanged) {
            let (all, store) = (recipients.clone(), self.store.clone());
            let objects = next.as_ref().map_or(&state.objects, |(objects, _)| objects).clone();
            let work = blocking(move || {
                let mut draft = draft;
                let settled = recipient_set::settle(&mut *draft, &*store, &all, &mut stamper, &objects, &gone, restamp);
                (draft, settled)
            });
            let settled;
            (draft, settled) = work.await?;
            effects = settled?;
        }
        let mut steps: Vec<Step> = judged.into_iter().map(Step::from).collect();
        steps.extend(recipients.iter().map(RecipientStep::step));
        self.show(&mut steps, &*draft)?;
        let recorded = Some(recorded);
        Ok(Plan { steps, warnings, tolerated, effects, draft: Some(draft), next, recorded })
    }

    /// Fills in what the first recipients were and will be.
    fn show(&self, steps: &mut [Step], draft: &dyn ConfigDraft) -> Result<(), StoreError> {
        let changed = steps.iter_mut().filter(|step| step.change != ChangeKind::Unchanged).take(MOST_SHOWN);
        for step in changed.filter(|step| step.collection == Collection::Recipients) {
            let before = read_record(&*self.store, step.collection, &step.name)?;
            let key = object_key(step.collection, step.name.as_str());
            let after = draft.get(&key)?.map(|bytes| super::records::decode(&key, &bytes)).transpose()?;
            step.shown = Some(Box::new((before, after)));
        }
        Ok(())
    }
}

impl Plan {
    fn unchanged(judged: Vec<Judged>, recipients: Vec<RecipientStep>) -> Self {
        let steps = judged.into_iter().map(Step::from).chain(recipients.iter().map(RecipientStep::step));
        Plan {
            steps: steps.collect(),
            warnings: Vec::new(),
            tolerated: Vec::new(),
            effects: Effects::default(),
            draft: None,
            next: None,
            recorded: None,
        }
    }
}

impl From<Judged> for Step {
    fn from(one: Judged) -> Self {
        let Judged { collection, name, before, after, change } = one;
        let shown = (change != ChangeKind::Unchanged).then(|| Box::new((before, after.map(|(record, _)| record))));
        Step { collection, name, change, shown }
    }
}

/// All objects as they will be, and the groups that policies name and that are not there.
fn gather(
    state: &State,
    changed: &[&Judged],
    draft: &dyn ConfigDraft,
) -> Result<(Objects, Vec<Violation>), StoreError> {
    let (mut objects, mut missing) = (state.objects.clone(), Vec::new());
    for one in changed {
        match &one.after {
            None => objects.remove(one.collection, &one.name),
            Some((record, spec)) => {
                let lacks = stamping::missing_groups(draft, spec)?;
                missing.extend(lacks.into_iter().map(|lack| own(lack, one.collection, &one.name)));
                let secrets = record.secrets.clone();
                objects.insert(one.name.clone(), record.generation, &record.labels, spec.clone(), secrets);
            }
        }
    }
    Ok((objects, missing))
}

/// The owner of what the first start made, and of what nobody holds on to.
pub(super) const SYSTEM: &str = "system";

/// A violation with its object.
pub(super) fn own(violation: Violation, collection: Collection, name: &Name) -> Violation {
    Violation { object: violation.object.or_else(|| Some(object_id(collection, name))), ..violation }
}

/// Whether an object may ever be deleted.
pub(super) fn is_protected(collection: Collection, name: &Name) -> bool {
    collection == Collection::Settings || collection == Collection::RecipientPolicies && name.as_str() == DEFAULT
}

pub(super) fn protect(collection: Collection, name: &Name) -> Result<(), ChangeError> {
    let protected = |detail: &str| Err(ChangeError::Protected(detail.to_owned()));
    match is_protected(collection, name) {
        false => Ok(()),
        true if collection == Collection::Settings => protected("the settings cannot be deleted"),
        true => protected("the recipient policy default cannot be deleted: it names the default domain"),
    }
}
