//! What an empty store begins with: objects that let mail in and out, and the first owner key. The objects give way to files
//! that come later and say the same thing.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::answer::{Actor, ChangeError, ChangeKind};
use super::compile::{Objects, clashes, compile};
use super::configuration::Configuration;
use super::document::Document;
use super::history::{Recorded, RevisionKind};
use super::keys::{ApiKey, KeyHash};
use super::object::{Record, Spec};
use super::plan::{SYSTEM, Want, Wish};
use super::records::{encode, object_key, read_record};
use super::secrets::Kept;
use super::violation::object_id;
use crate::model::host::HostName;
use crate::model::labels::Labels;
use crate::model::name::Name;
use crate::model::spec::connector::{AddressSpace, Restrictions};
use crate::model::spec::virtual_server::Binding;
use crate::model::spec::{Collection, DEFAULT, SETTINGS};
use crate::store::{ConfigStore, StoreError};

/// Where the hash of the first owner key is stored.
const FIRST_KEY: &str = "secret/first-key";

/// What the first objects depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstStart {
    /// Where the virtual server `default` listens.
    pub smtp_listen: SocketAddr,
}

impl Configuration {
    /// Makes the objects that an appliance begins with, when nothing was ever configured; else does nothing. They belong to
    /// `system`: anyone with the right may change them. Nobody may relay yet.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing has changed then.
    pub async fn first_start(&self, first: &FirstStart) -> Result<(), ChangeError> {
        self.start_with(defaults(first, &self.options.host_name).to_vec()).await
    }

    /// The same for an appliance whose files will say the rest: only settings and the default policy.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing has changed then.
    pub async fn first_start_for_files(&self) -> Result<(), ChangeError> {
        let policy = default_policy(&self.options.host_name);
        let bare = [(Collection::Settings, SETTINGS, json!({})), (Collection::RecipientPolicies, DEFAULT, policy)];
        self.start_with(bare.to_vec()).await
    }

    async fn start_with(&self, first: Vec<(Collection, &'static str, Value)>) -> Result<(), ChangeError> {
        let state = self.lock().await;
        if !state.objects.is_empty() {
            return Ok(());
        }
        let mut objects = Objects::default();
        let mut draft = self.store.clone().draft();
        let mut made = Vec::new();
        let mut recorded = Recorded::new(state.revision, RevisionKind::Start);
        for (collection, name, spec) in first {
            let name: Name = name.parse().map_err(|_| StoreError::Io(format!("{name} is no name")))?;
            let spec = Spec::parse(collection, &spec).map_err(|violation| ChangeError::Invalid(vec![violation]))?;
            let record = Record::new(Labels::default(), SYSTEM, 1, spec.value(), Kept::default());
            recorded.add(&mut *draft, collection, &name, None, ChangeKind::Created)?;
            draft.write(&object_key(collection, name.as_str()), Some(encode(&record)))?;
            made.push(json!({"object": object_id(collection, &name), "after": record}));
            objects.insert(name, 1, &Labels::default(), spec, Kept::default());
        }
        let compiled = compile(&objects, &self.live().current(), &self.surroundings());
        let compiled = compiled.map_err(ChangeError::Invalid)?;
        let audit = json!({"change": ChangeKind::Created, "objects": made});
        let actor = Actor { key: "system".to_owned(), ..Actor::default() };
        let next = Some((objects, compiled));
        let (_, committed) = self.commit_change(state, draft, audit, &actor, next, Some(recorded)).await?;
        committed.map(|_| ()).map_err(ChangeError::from)
    }

    /// Makes the owner key `bootstrap` and stores its hash. `None` when there is one already and it is not to be replaced.
    ///
    /// # Errors
    /// When the system gives no randomness, or the store cannot do it.
    pub async fn make_first_key(&self, replace: bool) -> Result<Option<ApiKey>, ChangeError> {
        let state = self.lock().await;
        if !replace && self.store.get(FIRST_KEY)?.is_some() {
            return Ok(None);
        }
        let key = ApiKey::generate().map_err(|error| StoreError::Io(error.to_string()))?;
        let mut draft = self.store.clone().draft();
        draft.write(FIRST_KEY, Some(key.hash().bytes().to_vec()))?;
        let audit = json!({"object": "api-keys/bootstrap", "change": ChangeKind::Created});
        let actor = Actor { key: "system".to_owned(), ..Actor::default() };
        let (_, committed) = self.commit(state, draft, audit, &actor, None).await?;
        committed?;
        Ok(Some(key))
    }

    /// Whether this is the owner key `bootstrap` that was made at the first start. Takes the same time whatever is presented.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn verify_first_key(&self, presented: &str) -> Result<bool, StoreError> {
        let stored = self.store.get(FIRST_KEY)?;
        Ok(stored.and_then(|bytes| KeyHash::from_bytes(&bytes)).is_some_and(|hash| hash.matches(presented)))
    }
}

/// What the files of a document put something in the place of, among objects that the first start made and nobody has changed
/// since, as wishes that those be gone. An object that the document names is taken over, and does not go.
///
/// # Errors
/// When the store cannot be read.
pub(super) fn superseded(store: &dyn ConfigStore, document: &Document) -> Result<Vec<Wish>, StoreError> {
    let untouched = |collection, name: &'static str| -> Result<Option<(Name, Record)>, StoreError> {
        let name: Name = name.parse().map_err(|_| StoreError::Io(format!("{name} is no name")))?;
        if document.wishes.iter().any(|wish| wish.collection == collection && wish.name == name) {
            return Ok(None);
        }
        let record = read_record(store, collection, &name)?;
        Ok(record.filter(|record| record.owner == SYSTEM && record.generation == 1).map(|record| (name, record)))
    };
    let mut wishes = Vec::new();
    for collection in [Collection::VirtualServers, Collection::Connectors, Collection::MailboxStores] {
        let Some((name, record)) = untouched(collection, DEFAULT)? else { continue };
        let Ok(made) = Spec::parse(collection, &record.spec) else { continue };
        if !document.wishes.iter().any(|wish| matches!(&wish.want, Want::Be { spec, .. } if replaces(spec, &made))) {
            continue;
        }
        wishes.push(Wish { collection, name, want: Want::Gone });
        if collection == Collection::VirtualServers
            && let Some((name, record)) = untouched(Collection::Settings, SETTINGS)?
        {
            // they name it
            let bare = Box::new(Record { spec: json!({}), ..record });
            wishes.push(Wish { collection: Collection::Settings, name, want: Want::BeAgain(bare) });
        }
    }
    Ok(wishes)
}

/// Whether one serves all that the other did: a virtual server that needs its port, a connector that carries its mail at all
/// times for everybody, a mailbox store that is the default.
fn replaces(new: &Spec, made: &Spec) -> bool {
    match (new, made) {
        (Spec::VirtualServer(new), Spec::VirtualServer(made)) => {
            let takes = |new: &Binding, made: &Binding| {
                new.port != 0 && new.port == made.port && clashes(new.address.0, made.address.0)
            };
            new.enabled && new.bindings.iter().any(|new| made.bindings.iter().any(|made| takes(new, made)))
        }
        (Spec::Connector(new), Spec::Connector(made)) => {
            let always = new.schedule.is_none() && new.oversize.is_none() && new.remote_triggered.is_none();
            let serves = |made: &AddressSpace| {
                new.address_spaces.iter().any(|new| new.pattern == made.pattern && new.cost <= made.cost)
            };
            new.enabled
                && always
                && new.restrictions == Restrictions::default()
                && made.address_spaces.iter().all(serves)
        }
        (Spec::MailboxStore(new), Spec::MailboxStore(_)) => new.is_default(),
        _ => false,
    }
}

fn defaults(first: &FirstStart, host_name: &HostName) -> [(Collection, &'static str, Value); 5] {
    let binding = json!({"address": first.smtp_listen.ip(), "port": first.smtp_listen.port()});
    [
        (Collection::Settings, SETTINGS, json!({"defaultVirtualServer": DEFAULT})),
        (Collection::VirtualServers, DEFAULT, json!({"bindings": [binding]})),
        (Collection::RecipientPolicies, DEFAULT, default_policy(host_name)),
        (Collection::MailboxStores, DEFAULT, json!({"type": "maildir", "default": true})),
        (
            Collection::Connectors,
            DEFAULT,
            json!({"addressSpaces": [{"pattern": "*", "cost": 1}], "route": {"dns": {}}}),
        ),
    ]
}

fn default_policy(host_name: &HostName) -> Value {
    json!({"addresses": [{"template": format!("@{}", domain_of(host_name)), "primary": true}]})
}

/// The domain that a host is in; a host without one is in `localhost.localdomain`.
fn domain_of(host_name: &HostName) -> &str {
    match host_name.as_str().split_once('.') {
        Some((_, domain)) if domain.contains('.') => domain,
        Some(_) if host_name.as_str() != "localhost.localdomain" => host_name.as_str(),
        _ => "localhost.localdomain",
    }
}
