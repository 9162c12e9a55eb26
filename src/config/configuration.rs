//! The configuration of the appliance: opening what is stored, what is in force, and what all changes of it share.
//!
//! What is stored is never replaced by an empty one: a store that cannot be read, or holds what is not valid, keeps the
//! process from starting. There is one writer at a time, who holds [`State`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;

use super::answer::ChangeError;
use super::audit::Actions;
use super::compile::{Objects, Surroundings, compile};
use super::directory::Files;
use super::history::History;
use super::object::{Object, Record};
use super::records::{load, object_key};
use super::stamping::Stamper;
use super::violation::{Violation, ViolationCode};
use super::{Live, QueuedMail, Snapshot, Vault, certificates};
use crate::directory::Policies;
use crate::model::host::HostName;
use crate::model::name::Name;
use crate::model::spec::{Collection, SETTINGS};
use crate::model::time::Timestamp;
use crate::store::{ConfigStore, StoreError};

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
    /// Whether a directory of files is watched: what stands in it, only it can change.
    pub files: bool,
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
    pub(super) live: Live,
    pub(super) state: Arc<tokio::sync::Mutex<State>>,
    pub(super) preflights: Mutex<Vec<Arc<dyn Preflight>>>,
    pub(super) queued_mail: OnceLock<Arc<dyn QueuedMail>>,
    pub(super) files: Mutex<Files>,
    pub(super) actions: Actions,
}

/// What is committed, as the writer sees it.
pub(super) struct State {
    pub revision: u64,
    pub objects: Objects,
    pub policies: Policies,
    /// The revisions that can be gone back to.
    pub history: History,
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
            files: Mutex::default(),
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

    /// Everything that the registered preflights say against a candidate.
    pub(super) async fn preflight(&self, current: &Snapshot, candidate: &Snapshot) -> Vec<Violation> {
        let preflights = self.preflights.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut found = Vec::new();
        for preflight in preflights {
            found.extend(preflight.check(current, candidate).await);
        }
        found
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

    pub(super) fn stamper(&self, state: &State) -> Stamper {
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

impl State {
    /// What is stored.
    fn load(store: &dyn ConfigStore) -> Result<State, StoreError> {
        let revision = store.revision();
        let objects = load(store)?;
        Ok(State { revision, policies: objects.policies(), objects, history: History::load(store)? })
    }
}
