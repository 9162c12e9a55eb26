//! Recipients in the store: who has an address, and the keys under which that is written.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::records::read_record;
use super::violation::object_id;
use crate::directory::{LookupFailed, RecipientEntry, Recipients};
use crate::model::host::mailbox_key;
use crate::model::name::Name;
use crate::model::spec::recipient::StampedAddress;
use crate::model::spec::{Collection, RecipientSpec};
use crate::store::{ConfigDraft, ConfigStore, StoreError};

/// The directory's look-ups, answered by the store. One read for a plain mailbox, two for everything else.
pub struct StoredRecipients(pub Arc<dyn ConfigStore>);

impl Recipients for StoredRecipients {
    fn by_address(&self, key: &str) -> Result<Option<RecipientEntry>, LookupFailed> {
        let entry = owner_of(&*self.0, key).map_err(|error| LookupFailed(error.to_string()))?;
        match entry {
            Some(entry) if entry.more => self.by_name(&entry.recipient),
            other => Ok(other.map(|entry| RecipientEntry::plain(entry.recipient, entry.mailbox_store))),
        }
    }

    fn by_name(&self, name: &Name) -> Result<Option<RecipientEntry>, LookupFailed> {
        let failed = |error: StoreError| LookupFailed(error.to_string());
        let Some(record) = read_record(&*self.0, Collection::Recipients, name).map_err(failed)? else {
            return Ok(None);
        };
        let spec: RecipientSpec = serde_json::from_value(record.spec)
            .map_err(|error| LookupFailed(format!("{}: {error}", object_id(Collection::Recipients, name))))?;
        let primary = record.addresses.into_iter().find(|address| address.primary).map(|address| address.address);
        Ok(Some(RecipientEntry::of(name.clone(), primary, &spec)))
    }
}

/// What is stored under `address/<mailbox key>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AddressEntry {
    /// Who has it.
    pub recipient: Name,
    /// The recipient's mailbox store, when it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mailbox_store: Option<Name>,
    /// It is more than a plain mailbox: the recipient itself says what.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl AddressEntry {
    /// For the addresses of this recipient.
    pub fn of(name: &Name, spec: &RecipientSpec) -> Self {
        AddressEntry {
            recipient: name.clone(),
            mailbox_store: spec.mailbox_store.clone(),
            more: !RecipientEntry::is_plain(spec),
        }
    }
}

pub(super) fn address_key(key: &str) -> String {
    format!("address/{key}")
}

pub(super) fn owner_of(store: &dyn ConfigStore, key: &str) -> Result<Option<AddressEntry>, StoreError> {
    let key = address_key(key);
    store.get(&key)?.map(|bytes| entry(&key, &bytes)).transpose()
}

/// The same, as it will be after a change.
pub(super) fn owner_in(draft: &dyn ConfigDraft, key: &str) -> Result<Option<AddressEntry>, StoreError> {
    let key = address_key(key);
    draft.get(&key)?.map(|bytes| entry(&key, &bytes)).transpose()
}

fn entry(key: &str, bytes: &[u8]) -> Result<AddressEntry, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Damaged(format!("{key}: {error}")))
}

/// The writes that turn one set of addresses into another. Every new one is written, as the mailbox store may be another.
pub(super) fn address_writes(
    before: &[StampedAddress],
    after: &[StampedAddress],
    entry: &AddressEntry,
) -> Vec<(String, Option<Vec<u8>>)> {
    let keys = |addresses: &[StampedAddress]| addresses.iter().map(|a| mailbox_key(&a.address)).collect::<Vec<_>>();
    let (before, after) = (keys(before), keys(after));
    let value = serde_json::to_vec(entry).expect("names are text");
    let gone = before.iter().filter(|key| !after.contains(key)).map(|key| (address_key(key), None));
    gone.chain(after.iter().map(|key| (address_key(key), Some(value.clone())))).collect()
}
