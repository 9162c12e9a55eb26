//! The way of a change, from a request to a published snapshot.
//!
//! One change at a time: checked and compiled under one lock, committed with compare-and-set on the revision, then published.
//! What fails before the commit leaves everything as it was. Once the commit has begun it is finished and published even if
//! the caller goes away. When another writer was first, the state is read anew and the change is tried again on top.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::answer::{Actor, ChangeError, ChangeKind, Outcome, Precondition, Reference};
use super::audit::Actions;
use super::compile::{Objects, Surroundings, compile};
use super::effects::Effects;
use super::object::{Object, Record, Spec};
use super::records::{audit_key, encode, load, object_key, read_record};
use super::stamping::Stamper;
use super::violation::{Violation, ViolationCode, Warning, object_id};
use super::{
    Live, QueuedMail, Snapshot, Vault, certificates, dequeue_connector, references, schema, secrets, stamping,
};
use crate::directory::Policies;
use crate::model::host::HostName;
use crate::model::name::Name;
use crate::model::spec::{Collection, DEFAULT, SETTINGS};
use crate::model::time::Timestamp;
use crate::routing::access::{AccessFault, AccessFaultKind};
use crate::store::{ConfigDraft, ConfigStore, StoreError};

/// How often a change is tried when others commit first.
const MOST_TRIES: usize = 5;
/// Audit entries that are kept; each commit takes one away.
const MOST_AUDITED: u64 = 10_000;
/// Most objects that an error names.
pub(super) const MOST_NAMED: usize = 100;

/// Looks at a change before it is committed: can this port be bound, is that certificate good?
#[async_trait]
pub trait Preflight: Send + Sync {
    /// Everything that speaks against going from `current` to `candidate`.
    async fn check(&self, current: &Snapshot, candidate: &Snapshot) -> Vec<Violation>;
}

/// What [`Configuration::open`] needs besides the store.
#[derive(Clone)]
pub struct OpenOptions {
    /// The host's name: of virtual servers that have none of their own.
    pub host_name: HostName,
    /// Where secrets may be read from files.
    pub secrets_dir: PathBuf,
    /// The time, for the audit log.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// Why a stored configuration cannot be used. It is never replaced by an empty one.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be read.
    #[error("the stored configuration cannot be read: {0}")]
    Store(#[from] StoreError),
    /// What is stored is not valid.
    #[error("the stored configuration is not valid: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Violation>),
}

/// The configuration of the appliance: reads, changes, and what is in force.
pub struct Configuration {
    pub(super) store: Arc<dyn ConfigStore>,
    pub(super) options: OpenOptions,
    pub(super) vault: Arc<Vault>,
    live: Live,
    state: Arc<tokio::sync::Mutex<State>>,
    preflights: Mutex<Vec<Arc<dyn Preflight>>>,
    queued_mail: OnceLock<Arc<dyn QueuedMail>>,
    pub(super) actions: Actions,
}

/// What is committed, as the writer sees it.
pub(super) struct State {
    pub revision: u64,
    pub objects: Objects,
    pub policies: Policies,
}

/// What a request asks for.
enum Request<'a> {
    Put(&'a Value),
    Patch(&'a Value),
    Delete,
}

/// A change that passed all checks.
struct Plan {
    object: Object,
    change: ChangeKind,
    warnings: Vec<Warning>,
    effects: Effects,
    /// What is to be written; `None` when nothing changes.
    draft: Option<Box<dyn ConfigDraft>>,
    audit: Value,
    /// The objects and their snapshot after the change; `None` when it concerns only recipients.
    next: Option<(Objects, Snapshot)>,
}

impl Configuration {
    /// Reads and compiles what is stored.
    ///
    /// # Errors
    /// When the store cannot be read, or holds what is not valid.
    pub async fn open(store: Arc<dyn ConfigStore>, options: OpenOptions) -> Result<Arc<Self>, OpenError> {
        let state = State::load(&*store)?;
        let vault = Arc::new(Vault::open(&*store, &options.secrets_dir)?);
        vault.derive_all(&state.objects).await;
        let around = Surroundings { host_name: &options.host_name, vault: &vault, now: (options.now)() };
        let compiled = compile(&state.objects, &Snapshot::default(), &around).map_err(OpenError::Invalid)?;
        certificates::tell(&Snapshot::default(), &compiled);
        let live = Live::new(Snapshot { revision: state.revision, ..compiled });
        let state = Arc::new(tokio::sync::Mutex::new(state));
        Ok(Arc::new(Configuration {
            store,
            options,
            vault,
            live,
            state,
            preflights: Mutex::default(),
            queued_mail: OnceLock::new(),
            actions: Actions::default(),
        }))
    }

    /// A key of the store for logins: see [`crate::accounts::Authenticator::new`].
    pub fn login_key(&self) -> [u8; 32] {
        self.vault.login_key()
    }

    /// What is in force.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// True before anything was ever configured.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.store.get(&object_key(Collection::Settings, SETTINGS))?.is_none())
    }

    /// Has every later change looked at before it is committed.
    pub fn register(&self, preflight: Arc<dyn Preflight>) {
        self.preflights.lock().unwrap_or_else(PoisonError::into_inner).push(preflight);
    }

    /// Has the mail that waits looked at in dry runs. The first one stays.
    pub fn tell_of_mail(&self, queued_mail: Arc<dyn QueuedMail>) {
        let _ = self.queued_mail.set(queued_mail);
    }

    /// Creates or replaces an object. `body` is `{labels?, spec}`; what is absent has its default.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing has changed then.
    pub async fn put(
        &self,
        collection: Collection,
        name: &str,
        body: &Value,
        precondition: &Precondition,
        actor: &Actor,
        dry_run: bool,
    ) -> Result<Outcome, ChangeError> {
        self.change(collection, name, Request::Put(body), precondition, actor, dry_run).await
    }

    /// Changes an object by a merge patch (RFC 7396) over `{labels, spec}`: null resets to the default.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing has changed then.
    pub async fn patch(
        &self,
        collection: Collection,
        name: &str,
        body: &Value,
        precondition: &Precondition,
        actor: &Actor,
        dry_run: bool,
    ) -> Result<Outcome, ChangeError> {
        self.change(collection, name, Request::Patch(body), precondition, actor, dry_run).await
    }

    /// Deletes an object that nothing refers to.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing has changed then.
    pub async fn delete(
        &self,
        collection: Collection,
        name: &str,
        precondition: &Precondition,
        actor: &Actor,
        dry_run: bool,
    ) -> Result<Outcome, ChangeError> {
        self.change(collection, name, Request::Delete, precondition, actor, dry_run).await
    }

    async fn change(
        &self,
        collection: Collection,
        name: &str,
        request: Request<'_>,
        precondition: &Precondition,
        actor: &Actor,
        dry_run: bool,
    ) -> Result<Outcome, ChangeError> {
        let name = checked_name(collection, name)?;
        let mut state = self.state.clone().lock_owned().await;
        let mut tries = 1;
        loop {
            self.permit(actor, collection, &name)?;
            let plan = self.plan(&state, collection, &name, &request, precondition).await?;
            self.permit_result(actor, &plan.object)?;
            let Plan { object, change, warnings, mut effects, draft, audit, next } = plan;
            if let (true, Some((_, candidate)), Some(mail)) = (dry_run, &next, self.queued_mail.get()) {
                effects.queued_mail = Some(mail.moves(candidate).await);
            }
            let Some(draft) = draft.filter(|_| !dry_run) else {
                return Ok(Outcome { object, change, warnings, effects, revision: state.revision });
            };
            let (held, committed) = self.commit(state, draft, audit, actor, next).await?;
            state = held;
            match committed {
                Ok(revision) => {
                    effects.recipients.items.clear();
                    return Ok(Outcome { object, change, warnings, effects, revision });
                }
                Err(StoreError::Conflict { .. }) if tries < MOST_TRIES => {
                    tries += 1;
                    self.reload(&mut state).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn plan(
        &self,
        state: &State,
        collection: Collection,
        name: &Name,
        request: &Request<'_>,
        precondition: &Precondition,
    ) -> Result<Plan, ChangeError> {
        let before = read_record(&*self.store, collection, name)?;
        precondition.check(before.as_ref().map(|record| record.generation))?;
        let missing = || ChangeError::NotFound { collection, name: name.to_string() };
        let wanted = match request {
            Request::Put(body) => Some(schema::check(collection, body).map_err(ChangeError::Invalid)?),
            Request::Patch(patch) => {
                let record = before.as_ref().ok_or_else(missing)?;
                Some(schema::check(collection, &patched(record, patch)?).map_err(ChangeError::Invalid)?)
            }
            Request::Delete => {
                before.as_ref().ok_or_else(missing)?;
                protect(collection, name)?;
                None
            }
        };
        let Some((labels, mut spec)) = wanted else {
            return self.plan_delete(state, collection, name, before.ok_or_else(missing)?).await;
        };
        self.vault.keep_password(&mut spec, before.as_ref()).await.map_err(ChangeError::Invalid)?;
        let secrets = self.vault.keep(&mut spec, before.as_ref()).map_err(ChangeError::Invalid)?;
        if let Some(record) = &before {
            let same = || Spec::parse(collection, &record.spec).is_ok_and(|known| known == spec);
            if record.labels == labels && same() {
                return Ok(Plan::unchanged(self.shown(record.clone(), collection, name)));
            }
        }
        let change = if before.is_some() { ChangeKind::Updated } else { ChangeKind::Created };
        let mut record = Record {
            v: 1,
            labels,
            owner: "api".to_owned(),
            generation: before.as_ref().map_or(1, |record| record.generation + 1),
            spec: spec.value(),
            addresses: Vec::new(),
            secrets: secrets.clone(),
        };
        let mut draft = self.store.clone().draft();
        let mut plan = match &spec {
            Spec::Recipient(recipient) => {
                let mut stamper = self.stamper(state);
                let found = state.objects.missing_store(recipient);
                let (who, recipient, was) = (name.clone(), recipient.clone(), before.clone());
                // a group may have many members
                let stamped = blocking(move || {
                    let stamped = stamper.recipient(&mut *draft, &who, &recipient, was.as_ref(), found);
                    (draft, stamped)
                });
                let (stamped_draft, stamped) = stamped.await?;
                draft = stamped_draft;
                let effects;
                (record.addresses, effects) = stamped?;
                let object = self.shown(record.clone(), collection, name);
                Plan { effects, draft: Some(draft), ..Plan::unchanged(object) }
            }
            _ => {
                let missing = stamping::missing_groups(&*draft, &spec)?;
                let mut objects = state.objects.clone();
                objects.insert(name.clone(), record.generation, &record.labels, spec, secrets);
                let object = self.shown(record.clone(), collection, name);
                self.plan_compiled(state, objects, object, draft, missing, false).await?
            }
        };
        plan.change = change;
        plan.audit = json!({
            "object": object_id(collection, name), "change": change,
            "before": before.as_ref().map(Record::audited), "after": record.audited()
        });
        if let Some(draft) = &mut plan.draft {
            draft.write(&object_key(collection, name.as_str()), Some(encode(&record)))?;
        }
        Ok(plan)
    }

    async fn plan_delete(
        &self,
        state: &State,
        collection: Collection,
        name: &Name,
        before: Record,
    ) -> Result<Plan, ChangeError> {
        let object = self.shown(before.clone(), collection, name);
        let mut draft = self.store.clone().draft();
        let mut plan = match collection {
            Collection::Recipients => {
                references::unused(&*self.store, &state.policies, name)?;
                let mut stamper = self.stamper(state);
                let (who, was) = (name.clone(), before.clone());
                let gone = blocking(move || {
                    let gone = stamper.gone(&mut *draft, &who, &was);
                    (draft, gone)
                });
                let (stamped_draft, effects) = gone.await?;
                draft = stamped_draft;
                let effects = effects?;
                Plan { effects, draft: Some(draft), ..Plan::unchanged(object) }
            }
            _ => {
                let mut objects = state.objects.clone();
                objects.remove(collection, name);
                if collection == Collection::MailboxStores {
                    let (store, name) = (self.store.clone(), name.clone());
                    blocking(move || stamping::unused(&*store, &name)).await??;
                }
                self.plan_compiled(state, objects, object, draft, Vec::new(), true).await?
            }
        };
        plan.change = ChangeKind::Deleted;
        plan.audit = json!({
            "object": object_id(collection, name), "change": ChangeKind::Deleted, "before": before.audited(), "after": null
        });
        if let Some(draft) = &mut plan.draft {
            draft.write(&object_key(collection, name.as_str()), None)?;
        }
        Ok(plan)
    }

    /// Everything that a change of another object than a recipient has to pass; `missing` is what it names of recipients that
    /// are not there.
    async fn plan_compiled(
        &self,
        state: &State,
        objects: Objects,
        object: Object,
        mut draft: Box<dyn ConfigDraft>,
        missing: Vec<Violation>,
        delete: bool,
    ) -> Result<Plan, ChangeError> {
        let id = object_id(object.collection, &object.name);
        let current = self.live.current();
        self.vault.derive_all(&objects).await;
        let compiled = self.compiled(&objects, &current, missing).map_err(|found| refusal(found, &id, delete))?;
        let preflights = self.preflights.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut found = if delete { Vec::new() } else { faults(&compiled, object.collection, &object.name) };
        for preflight in preflights {
            found.extend(preflight.check(&current, &compiled).await);
        }
        if !found.is_empty() {
            return Err(refusal(found, &id, false));
        }
        let policies = objects.policies();
        let restamp = policies != state.policies || *compiled.domains != *current.domains;
        let mut effects = Effects::default();
        if restamp {
            let mut stamper = Stamper::new(policies, compiled.domains.clone());
            let stamped = blocking(move || {
                let stamped = stamper.all(&mut *draft);
                (draft, stamped)
            });
            let stamped = stamped.await?;
            draft = stamped.0;
            effects = stamped.1.map_err(|error| match error {
                stamping::Error::Others(found) if delete => ChangeError::Referenced { by: references(found) },
                error => error.into(),
            })?;
        }
        let warnings = compiled.warnings.iter().filter(|warning| warning.object == id).cloned().collect();
        let next = Some((objects, compiled));
        Ok(Plan { warnings, effects, draft: Some(draft), next, ..Plan::unchanged(object) })
    }

    /// Commits, then publishes, in a task of its own: a caller that goes away does not leave half of it.
    pub(super) async fn commit(
        &self,
        mut state: OwnedMutexGuard<State>,
        mut draft: Box<dyn ConfigDraft>,
        mut audit: Value,
        actor: &Actor,
        next: Option<(Objects, Snapshot)>,
    ) -> Result<(OwnedMutexGuard<State>, Result<u64, StoreError>), ChangeError> {
        let expected = state.revision;
        audit["v"] = json!(1);
        audit["at"] = json!((self.options.now)());
        audit["actor"] = json!(actor);
        draft.write(&audit_key(expected + 1), Some(encode(&audit)))?;
        if let Some(old) = (expected + 1).checked_sub(MOST_AUDITED) {
            draft.write(&audit_key(old), None)?;
        }
        if let Some((key, value)) = self.vault.pending() {
            draft.write(&key, value)?;
        }
        let (live, vault) = (self.live.clone(), self.vault.clone());
        let task = tokio::spawn(async move {
            let committed = draft.commit(expected).await;
            if let Ok(revision) = committed {
                vault.stored();
                state.revision = revision;
                match next {
                    Some((objects, snapshot)) => {
                        state.policies = objects.policies();
                        state.objects = objects;
                        live.publish(Snapshot { revision, ..snapshot });
                    }
                    None => live.advance(revision),
                }
            }
            (state, committed)
        });
        task.await.map_err(|error| ChangeError::Store(StoreError::Io(format!("the commit was cut off: {error}"))))
    }

    /// Takes over what another writer has committed.
    pub(super) async fn reload(&self, state: &mut State) -> Result<(), ChangeError> {
        *state = State::load(&*self.store)?;
        self.vault.reload(&*self.store)?;
        self.vault.derive_all(&state.objects).await;
        let compiled = compile(&state.objects, &self.live.current(), &self.surroundings());
        let compiled = compiled.map_err(|found| {
            let first = found.first().map(ToString::to_string).unwrap_or_default();
            StoreError::Damaged(format!("another writer stored what is not valid: {first}"))
        })?;
        self.live.publish(Snapshot { revision: state.revision, ..compiled });
        Ok(())
    }

    /// The time, as the configuration sees it.
    pub fn now(&self) -> Timestamp {
        (self.options.now)()
    }

    /// Compiles objects; `missing` is wrong with them besides.
    pub(super) fn compiled(
        &self,
        objects: &Objects,
        current: &Snapshot,
        missing: Vec<Violation>,
    ) -> Result<Snapshot, Vec<Violation>> {
        match compile(objects, current, &self.surroundings()) {
            Ok(compiled) if missing.is_empty() => Ok(compiled),
            Ok(_) => Err(missing),
            Err(found) => Err(found.into_iter().chain(missing).collect()),
        }
    }

    fn stamper(&self, state: &State) -> Stamper {
        Stamper::new(state.policies.clone(), self.live.current().domains.clone())
    }

    pub(super) fn surroundings(&self) -> Surroundings<'_> {
        Surroundings { host_name: &self.options.host_name, vault: &self.vault, now: self.now() }
    }

    /// Looks at the files that the configuration is made of. When one changed, what needs it is made anew and published;
    /// what cannot be used is logged once, and what was in force stays. For a caller that does this every second or two.
    ///
    /// # Errors
    /// When the stored configuration has become invalid, which no file can make it.
    pub async fn refresh(&self) -> Result<(), ChangeError> {
        if !self.vault.changed() {
            return Ok(());
        }
        let state = self.state.clone().lock_owned().await;
        self.vault.forget();
        self.vault.derive_all(&state.objects).await;
        let current = self.live.current();
        let compiled = compile(&state.objects, &current, &self.surroundings()).map_err(ChangeError::Invalid)?;
        if compiled != *current {
            self.live.publish(compiled);
        }
        Ok(())
    }

    /// A record as it is shown.
    pub(super) fn shown(&self, record: Record, collection: Collection, name: &Name) -> Object {
        let mut object = record.object(collection, name.clone());
        self.vault.show(&mut object);
        object
    }

    pub(super) async fn lock(&self) -> OwnedMutexGuard<State> {
        self.state.clone().lock_owned().await
    }
}

impl Plan {
    fn unchanged(object: Object) -> Self {
        Plan {
            object,
            change: ChangeKind::Unchanged,
            warnings: Vec::new(),
            effects: Effects::default(),
            draft: None,
            audit: Value::Null,
            next: None,
        }
    }
}

/// What may take long, or waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::Io(format!("the work was cut off: {error}")))
}

pub(super) fn checked_name(collection: Collection, text: &str) -> Result<Name, ChangeError> {
    if collection == Collection::Settings && text != SETTINGS {
        return Err(ChangeError::NotFound { collection, name: text.to_owned() });
    }
    let invalid =
        |detail: String| ChangeError::Invalid(vec![Violation::new("/name", ViolationCode::InvalidName, detail)]);
    let name: Name = text.parse().map_err(|error: crate::model::name::NotAName| invalid(error.to_string()))?;
    let longest = collection.longest_name();
    if text.len() > longest {
        return Err(invalid(format!("the name of a {} has at most {longest} characters", collection.noun())));
    }
    Ok(name)
}

fn protect(collection: Collection, name: &Name) -> Result<(), ChangeError> {
    let protected = |detail: &str| Err(ChangeError::Protected(detail.to_owned()));
    match collection {
        Collection::Settings => protected("the settings cannot be deleted"),
        Collection::RecipientPolicies if name.as_str() == DEFAULT => {
            protected("the recipient policy default cannot be deleted: it names the default domain")
        }
        _ => Ok(()),
    }
}

/// The object's body with the patch merged into it; what the patch takes away has its default again.
fn patched(record: &Record, patch: &Value) -> Result<Value, ChangeError> {
    if !patch.is_object() {
        let violation = Violation::new("", ViolationCode::WrongType, "a merge patch over {labels, spec} is an object");
        return Err(ChangeError::Invalid(vec![violation]));
    }
    let mut body = json!({"labels": record.labels, "spec": record.spec});
    secrets::make_way(&mut body, patch);
    json_patch::merge(&mut body, patch);
    for field in ["labels", "spec"] {
        if body.get(field).is_none() {
            body[field] = json!({});
        }
    }
    Ok(body)
}

/// Violations as the answer to a request about the object `id`.
pub(super) fn refusal(found: Vec<Violation>, id: &str, delete: bool) -> ChangeError {
    if delete {
        let (dangling, other): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|violation| violation.code == ViolationCode::UnknownReference);
        return if other.is_empty() {
            ChangeError::Referenced { by: references(dangling) }
        } else {
            ChangeError::Invalid(other)
        };
    }
    let own = |violation: Violation| Violation { object: violation.object.filter(|object| object != id), ..violation };
    let mut found: Vec<Violation> = found.into_iter().map(own).collect();
    found.sort();
    ChangeError::Invalid(found)
}

/// What a change may not bring into force, though it may break later: what it says cannot be used now.
fn faults(compiled: &Snapshot, collection: Collection, name: &Name) -> Vec<Violation> {
    let fault = match collection {
        Collection::Certificates => compiled.certificates.get(name).and_then(|certificate| certificate.fault.as_ref()),
        // that a certificate is broken is told there; the server can be changed meanwhile
        Collection::VirtualServers => {
            let fault = compiled.virtual_servers.get(name).and_then(|server| server.tls_fault.as_ref());
            fault.filter(|fault| fault.pointer == certificates::CLIENT_CA)
        }
        Collection::Connectors => {
            let fault_of = |name: &Name| compiled.routes.connector(name).and_then(|of| of.access.fault.as_ref());
            let own = fault_of(name).map(access_violation);
            let asks = dequeue_connector(name).and_then(|name| Some(access_violation(fault_of(&name)?)));
            return own.into_iter().chain(asks.map(Violation::in_request_dequeue)).collect();
        }
        _ => None,
    };
    fault.map(|fault| Violation::new(fault.pointer, fault.code, fault.message.clone())).into_iter().collect()
}

fn access_violation(fault: &AccessFault) -> Violation {
    let code = match fault.kind {
        AccessFaultKind::Unreadable => ViolationCode::SecretUnreadable,
        AccessFaultKind::Certificate => ViolationCode::InvalidCertificate,
        AccessFaultKind::Password => ViolationCode::InvalidValue,
    };
    Violation::new(fault.pointer, code, fault.message.clone())
}

fn references(found: Vec<Violation>) -> Vec<Reference> {
    let reference = |violation: Violation| Some(Reference { object: violation.object?, pointer: violation.pointer });
    found.into_iter().filter_map(reference).take(MOST_NAMED).collect()
}

impl State {
    /// What is stored.
    fn load(store: &dyn ConfigStore) -> Result<State, StoreError> {
        let revision = store.revision();
        let objects = load(store)?;
        Ok(State { revision, policies: objects.policies(), objects })
    }
}

#[cfg(test)]
mod tests;
