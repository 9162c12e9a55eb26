//! Recipients in the store: who has an address, and the keys under which that is written.

use std::sync::Arc;

use serde::Deserialize;

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
///
/// There are as many of these as there are addresses, and whoever answers RCPT wants them in memory, so they are short: the
/// recipient, then the mailbox store with a space before it, with a `+` in front when there is more to the recipient.
/// Earlier versions wrote JSON, which is read still.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AddressEntry {
    /// Who has it.
    pub recipient: Name,
    /// The recipient's mailbox store, when it names one.
    #[serde(default)]
    pub mailbox_store: Option<Name>,
    /// It is more than a plain mailbox: the recipient itself says what.
    #[serde(default)]
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

    fn stored(&self) -> Vec<u8> {
        let more = if self.more { "+" } else { "" };
        let store = self.mailbox_store.as_ref().map(|store| format!(" {store}")).unwrap_or_default();
        format!("{more}{}{store}", self.recipient).into_bytes()
    }

    /// `None` when it is none.
    fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        if text.starts_with('{') {
            return serde_json::from_str(text).ok();
        }
        let (more, text) = text.strip_prefix('+').map_or((false, text), |rest| (true, rest));
        let (recipient, store) = text.split_once(' ').map_or((text, None), |(name, store)| (name, Some(store)));
        let mailbox_store = store.map(str::parse).transpose().ok()?;
        Some(AddressEntry { recipient: recipient.parse().ok()?, mailbox_store, more })
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
    AddressEntry::read(bytes).ok_or_else(|| StoreError::Damaged(format!("{key}: it names no recipient")))
}

/// The writes that turn one set of addresses into another. Every new one is written, as the mailbox store may be another.
pub(super) fn address_writes(
    before: &[StampedAddress],
    after: &[StampedAddress],
    entry: &AddressEntry,
) -> Vec<(String, Option<Vec<u8>>)> {
    let keys = |addresses: &[StampedAddress]| addresses.iter().map(|a| mailbox_key(&a.address)).collect::<Vec<_>>();
    let (before, after) = (keys(before), keys(after));
    let value = entry.stored();
    let gone = before.iter().filter(|key| !after.contains(key)).map(|key| (address_key(key), None));
    gone.chain(after.iter().map(|key| (address_key(key), Some(value.clone())))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_entry_is_short_and_old_ones_are_read() {
        let entry = |store: Option<&str>, more| AddressEntry {
            recipient: "ada".parse().unwrap(),
            mailbox_store: store.map(|store| store.parse().unwrap()),
            more,
        };
        for (entry, text, json) in [
            (entry(None, false), "ada", r#"{"recipient":"ada"}"#),
            (entry(Some("vault"), false), "ada vault", r#"{"recipient":"ada","mailboxStore":"vault"}"#),
            (entry(None, true), "+ada", r#"{"recipient":"ada","more":true}"#),
            (entry(Some("vault"), true), "+ada vault", r#"{"recipient":"ada","mailboxStore":"vault","more":true}"#),
        ] {
            assert_eq!(String::from_utf8(entry.stored()).unwrap(), text);
            assert_eq!(AddressEntry::read(text.as_bytes()).as_ref(), Some(&entry));
            assert_eq!(AddressEntry::read(json.as_bytes()).as_ref(), Some(&entry));
        }
        for bad in ["", "+", " vault", "ada ", "Ada", "ada vault more", "{"] {
            assert_eq!(AddressEntry::read(bad.as_bytes()), None, "{bad}");
        }
    }
}
