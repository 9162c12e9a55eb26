//! Applying a document: all of its objects in one revision, or none.
//!
//! An object belongs to whoever applied it last; what belongs to somebody else is refused, all of it named, unless it is taken
//! over. **Prune** deletes what the same owner has and the document leaves out; the settings and the default policy cannot
//! go, so they stay as they are and belong to nobody. The way is the one of a single change ([`super::plan`]), and so is
//! the dry run.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answer::{Actor, ChangeError, ChangeKind};
use super::change::MOST_TRIES;
use super::configuration::{Configuration, State, blocking};
use super::difference::{Difference, between};
use super::document::{Document, Placed};
use super::first_start::superseded;
use super::history::RevisionKind;
use super::object::Record;
use super::plan::{How, Plan, Refused, Step, Want, Wish, is_protected};
use super::records::SCAN;
use super::violation::{Violation, Warning, object_id};
use super::{Effects, QueuedMailEffects, RecipientEffects, Snapshot};
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::store::{ConfigStore, StoreError};

/// Objects that an answer lists; all of them are counted.
pub const MOST_LISTED: usize = 1_000;
/// Objects of which the audit entry has what they were and are.
const MOST_AUDITED: usize = 100;
/// Octets of these.
const MOST_AUDITED_BYTES: usize = 1 << 20;

/// How a document is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyOptions {
    /// Whose its objects are.
    pub owner: String,
    /// Only say what it would do.
    pub dry_run: bool,
    /// Delete what the owner has and the document leaves out.
    pub prune: bool,
    /// Also write what belongs to somebody else.
    pub take_over: bool,
    /// Only when this revision is in force.
    pub if_revision: Option<u64>,
    /// Delete what the first start made and the document puts something else in the place of, where nothing else needs it.
    pub replace_first: bool,
    /// Let secrets pass that are not where they are said to be: to check a document elsewhere.
    pub lenient: bool,
    /// What the revision is made by.
    pub kind: RevisionKind,
}

impl ApplyOptions {
    /// A plain apply.
    pub fn new(owner: impl Into<String>) -> Self {
        ApplyOptions {
            owner: owner.into(),
            dry_run: false,
            prune: false,
            take_over: false,
            if_revision: None,
            replace_first: false,
            lenient: false,
            kind: RevisionKind::Apply,
        }
    }
}

/// What became of an apply or a rollback; of a dry run, what would have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// The revision in force: a new one, unless nothing changed or it was a dry run.
    pub revision: u64,
    /// Whether it was only a dry run.
    pub dry_run: bool,
    /// Objects that are new.
    pub created: u64,
    /// Objects that are others now.
    pub updated: u64,
    /// Objects that were the same already.
    pub unchanged: u64,
    /// Objects that are gone.
    pub deleted: u64,
    /// The first 1,000 objects, those that change first.
    pub objects: Vec<AppliedObject>,
    /// Whether there are more than these.
    pub truncated: bool,
    /// What is allowed but may not be meant.
    pub warnings: Vec<Warning>,
    /// What it does to others.
    pub effects: ApplyEffects,
    /// What was let pass to be checked elsewhere.
    #[serde(skip)]
    pub tolerated: Vec<Violation>,
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppliedObject {
    /// The object, as `collection/name`.
    #[schema(example = "connectors/partner")]
    pub object: String,
    /// What happened to it.
    pub change: ChangeKind,
    /// What is different; the first 100 values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub diff: Vec<Difference>,
    /// Whether more is different.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub diff_truncated: bool,
}

/// What an apply does to others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplyEffects {
    /// On the addresses of recipients; which they are only in a dry run.
    pub recipients: RecipientEffects,
    /// On the mail that waits; only in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, required = false)]
    pub queued_mail: Option<QueuedMailEffects>,
    /// Bindings that are opened or closed. That the new ones can be opened was tried.
    pub listeners: Vec<ListenerEffect>,
    /// Certificates that come into force, as they were read.
    pub certificates: Vec<CertificateEffect>,
}

/// A binding that is opened or closed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerEffect {
    /// The virtual server.
    pub virtual_server: String,
    /// The local address.
    #[schema(value_type = String, example = "0.0.0.0")]
    pub address: IpAddr,
    /// The port.
    #[schema(example = 2525)]
    pub port: u16,
    /// What happens to it.
    pub change: ListenerChange,
}

/// What happens to a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ListenerChange {
    /// It is opened.
    Opened,
    /// It is closed.
    Closed,
}

/// A certificate that comes into force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateEffect {
    /// The certificate object.
    pub name: String,
    /// The hosts that it is for. A virtual server whose `fqdn` is not among them is a warning.
    pub names: Vec<String>,
    /// Until when it is valid. When that is soon, it is a warning.
    #[schema(example = "2027-01-30T08:00:00.000Z")]
    pub not_after: String,
}

/// Why a document was not applied. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It would not be valid.
    #[error("{} violations, the first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Invalid(Vec<Placed>),
    /// Anything else.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl From<StoreError> for ApplyError {
    fn from(error: StoreError) -> Self {
        ApplyError::Change(error.into())
    }
}

impl Configuration {
    /// Applies a document.
    ///
    /// # Errors
    /// See [`ApplyError`]; nothing has changed then.
    pub async fn apply(
        &self,
        document: &Document,
        options: &ApplyOptions,
        actor: &Actor,
    ) -> Result<Applied, ApplyError> {
        let mut state = self.lock().await;
        let mut tries = 1;
        loop {
            if let Some(wanted) = options.if_revision.filter(|wanted| *wanted != state.revision) {
                tracing::debug!(wanted, found = state.revision, "another revision is in force");
                return Err(ChangeError::RevisionChanged { found: state.revision }.into());
            }
            let mut wishes = document.wishes.clone();
            if options.prune {
                wishes.extend(self.left_out(document, &options.owner).await?);
            }
            let replaced = if options.replace_first { superseded(&*self.store, document)? } else { Vec::new() };
            let how = How {
                authority: &actor.authority,
                owner: &options.owner,
                take_over: options.take_over,
                claims: true,
                lenient: options.lenient,
                kind: options.kind,
            };
            let plan = self.plan_without(&state, wishes, &replaced, how).await;
            let plan = plan.map_err(|refused| match refused.of_many() {
                ChangeError::Invalid(violations) => ApplyError::Invalid(document.placed(violations)),
                error => error.into(),
            })?;
            match self.carry_out(state, plan, options.dry_run, &options.owner, actor).await? {
                Carried::Done(applied) => return Ok(*applied),
                Carried::Late(held) if tries < MOST_TRIES => state = held,
                Carried::Late(held) => {
                    let found = held.revision;
                    return Err(StoreError::Conflict { expected: found, found }.into());
                }
            }
            tries += 1;
            self.reload(&mut state).await?;
        }
    }

    /// Plans wishes, and that what they replace be gone; or them alone, where something else needs it.
    async fn plan_without(
        &self,
        state: &State,
        wishes: Vec<Wish>,
        replaced: &[Wish],
        how: How<'_>,
    ) -> Result<Plan, Refused> {
        if !replaced.is_empty() {
            let all = wishes.iter().chain(replaced).cloned().collect();
            match self.plan(state, all, how).await {
                Err(Refused::Invalid(_) | Refused::Others(_)) => {}
                Err(refused) => return Err(refused),
                Ok(plan) => {
                    let names: Vec<String> =
                        replaced.iter().map(|wish| object_id(wish.collection, &wish.name)).collect();
                    tracing::info!(objects = names.join(", "), "the files replace what the first start made");
                    return Ok(plan);
                }
            }
        }
        self.plan(state, wishes, how).await
    }

    /// What the owner has and the document leaves out, as wishes that it be gone.
    async fn left_out(&self, document: &Document, owner: &str) -> Result<Vec<Wish>, StoreError> {
        let named: BTreeSet<(Collection, Name)> =
            document.wishes.iter().map(|wish| (wish.collection, wish.name.clone())).collect();
        let (store, owner) = (self.store.clone(), owner.to_owned());
        blocking(move || owned_by(&*store, &owner, &named)).await?
    }

    /// Commits a plan, unless it is a dry run or changes nothing, and tells what it did.
    pub(super) async fn carry_out(
        &self,
        state: tokio::sync::OwnedMutexGuard<State>,
        plan: Plan,
        dry_run: bool,
        owner: &str,
        actor: &Actor,
    ) -> Result<Carried, ChangeError> {
        let Plan { steps, mut warnings, tolerated, effects, draft, next, recorded } = plan;
        let before = self.live.current();
        let candidate = next.as_ref().map(|(_, snapshot)| snapshot);
        if candidate.is_none() {
            let ids: BTreeSet<String> = steps.iter().map(|step| object_id(step.collection, &step.name)).collect();
            warnings.extend(before.warnings.iter().filter(|warning| ids.contains(&warning.object)).cloned());
        }
        let mut effects = of_others(effects, &before, candidate);
        if let (true, Some(candidate), Some(mail)) = (dry_run, candidate, self.queued_mail.get()) {
            effects.queued_mail = Some(mail.moves(candidate).await);
        }
        let count = |kind| steps.iter().filter(|step| step.change == kind).count() as u64;
        let mut applied = Applied {
            revision: state.revision,
            dry_run,
            created: count(ChangeKind::Created),
            updated: count(ChangeKind::Updated),
            unchanged: count(ChangeKind::Unchanged),
            deleted: count(ChangeKind::Deleted),
            objects: listed(&steps),
            truncated: steps.len() > MOST_LISTED,
            warnings,
            effects,
            tolerated,
        };
        let Some(draft) = draft.filter(|_| !dry_run) else { return Ok(Carried::Done(Box::new(applied))) };
        let audit = audit(&steps, owner, &applied);
        let (state, committed) = self.commit_change(state, draft, audit, actor, next, recorded).await?;
        match committed {
            Ok(revision) => {
                applied.revision = revision;
                applied.effects.recipients.items.clear();
                Ok(Carried::Done(Box::new(applied)))
            }
            Err(StoreError::Conflict { .. }) => Ok(Carried::Late(state)),
            Err(error) => Err(error.into()),
        }
    }
}

/// What became of a plan.
pub(super) enum Carried {
    Done(Box<Applied>),
    /// Somebody else was first.
    Late(tokio::sync::OwnedMutexGuard<State>),
}

/// The objects of an owner that are not among these.
fn owned_by(
    store: &dyn ConfigStore,
    owner: &str,
    named: &BTreeSet<(Collection, Name)>,
) -> Result<Vec<Wish>, StoreError> {
    #[derive(Deserialize)]
    struct Owned {
        owner: String,
    }
    let mut wishes = Vec::new();
    for collection in Collection::ALL {
        let prefix = super::records::object_key(collection, "");
        let mut after: Option<String> = None;
        loop {
            let rows = store.scan(&prefix, after.as_deref(), SCAN)?;
            for (key, bytes) in &rows {
                let damaged = |detail: String| StoreError::Damaged(format!("{key}: {detail}"));
                let record: Owned = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
                let name: Name = key[prefix.len()..].parse().map_err(|_| damaged("the key holds no name".into()))?;
                if record.owner != owner || named.contains(&(collection, name.clone())) {
                    continue;
                }
                let want = if is_protected(collection, &name) { Want::LetGo } else { Want::Gone };
                wishes.push(Wish { collection, name, want });
            }
            match rows.last() {
                Some((key, _)) if rows.len() == SCAN => after = Some(key.clone()),
                _ => break,
            }
        }
    }
    Ok(wishes)
}

/// The first steps as they are told, those that change first.
pub(super) fn listed(steps: &[Step]) -> Vec<AppliedObject> {
    let (changed, unchanged): (Vec<_>, Vec<_>) = steps.iter().partition(|step| step.change != ChangeKind::Unchanged);
    changed.into_iter().chain(unchanged).take(MOST_LISTED).map(told).collect()
}

fn told(step: &Step) -> AppliedObject {
    let shown = step.shown.as_deref();
    let (before, after) = shown.map_or((None, None), |(before, after)| (before.as_ref(), after.as_ref()));
    let (diff, diff_truncated) = between(before, after);
    AppliedObject { object: object_id(step.collection, &step.name), change: step.change, diff, diff_truncated }
}

/// One entry for all of it, with the first objects as they were and are.
fn audit(steps: &[Step], owner: &str, applied: &Applied) -> Value {
    let (mut objects, mut bytes) = (Vec::new(), 0);
    for step in steps.iter().filter(|step| step.change != ChangeKind::Unchanged).take(MOST_AUDITED) {
        let Some((before, after)) = step.shown.as_deref() else { continue };
        let entry = json!({
            "object": object_id(step.collection, &step.name), "change": step.change,
            "before": before.as_ref().map(Record::audited), "after": after.as_ref().map(Record::audited)
        });
        bytes += entry.to_string().len();
        if bytes > MOST_AUDITED_BYTES {
            break;
        }
        objects.push(entry);
    }
    let change = if owner.is_empty() { "rolledBack" } else { "applied" };
    json!({
        "object": "config", "change": change, "owner": owner, "created": applied.created,
        "updated": applied.updated, "deleted": applied.deleted, "objects": objects
    })
}

fn of_others(effects: Effects, before: &Snapshot, after: Option<&Snapshot>) -> ApplyEffects {
    let Effects { recipients, queued_mail } = effects;
    let Some(after) = after else {
        return ApplyEffects { recipients, queued_mail, ..ApplyEffects::default() };
    };
    let bindings = |snapshot: &Snapshot| -> BTreeSet<(String, IpAddr, u16)> {
        let servers = snapshot.virtual_servers.values().filter(|server| server.spec.enabled);
        let all = servers.flat_map(|server| {
            let name = server.name.to_string();
            server.spec.bindings.iter().map(move |binding| (name.clone(), binding.address.0, binding.port))
        });
        all.collect()
    };
    let (was, is) = (bindings(before), bindings(after));
    let effect = |(server, address, port): &(String, IpAddr, u16), change| ListenerEffect {
        virtual_server: server.clone(),
        address: *address,
        port: *port,
        change,
    };
    let opened = is.difference(&was).map(|one| effect(one, ListenerChange::Opened));
    let closed = was.difference(&is).map(|one| effect(one, ListenerChange::Closed));
    let fresh = after.certificates.values().filter_map(|certificate| {
        let identity = certificate.identity.as_ref()?;
        let known = before.certificates.get(&certificate.name).and_then(|known| known.identity.as_ref());
        let facts = identity.facts();
        (known != Some(identity)).then(|| CertificateEffect {
            name: certificate.name.to_string(),
            names: facts.names.iter().map(ToString::to_string).collect(),
            not_after: facts.not_after.to_string(),
        })
    });
    let (listeners, certificates) = (opened.chain(closed), fresh);
    ApplyEffects {
        recipients,
        queued_mail,
        listeners: listeners.take(MOST_LISTED).collect(),
        certificates: certificates.take(MOST_LISTED).collect(),
    }
}

impl From<Refused> for ChangeError {
    fn from(refused: Refused) -> Self {
        refused.of_many()
    }
}

#[cfg(test)]
mod tests;
