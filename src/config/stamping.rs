//! What a change means for recipients: their addresses, and the keys under which the directory finds them.
//!
//! The writes that this makes go into the same commit as the change that causes them, so that an address is never in two
//! hands. A change of policies looks at every recipient, page by page, and writes those whose addresses change: one commit,
//! in memory until then (about 1 KiB for each recipient that changes).

use std::collections::HashMap;

use super::Snapshot;
use super::answer::{ChangeError, Reference};
use super::change::{MOST_NAMED, State};
use super::object::{Record, Spec};
use super::recipients::{AddressEntry, address_key, address_writes, owner_of};
use super::records::{SCAN, decode, encode, object_key};
use super::references;
use super::violation::{Violation, ViolationCode, object_id};
use crate::directory::{Domains, Policies, StampError, stamp};
use crate::model::host::mailbox_key;
use crate::model::name::Name;
use crate::model::spec::recipient::StampedAddress;
use crate::model::spec::{Collection, RecipientSpec};
use crate::store::{ConfigStore, StoreError};

type Writes = Vec<(String, Option<Vec<u8>>)>;

/// Why recipients cannot have their addresses.
pub(super) enum Error {
    Violations(Vec<Violation>),
    Store(StoreError),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Error::Store(error)
    }
}

/// The addresses of one recipient that is written, and the writes for them.
pub(super) fn recipient(
    store: &dyn ConfigStore,
    state: &State,
    current: &Snapshot,
    name: &Name,
    recipient: &RecipientSpec,
    before: Option<&Record>,
) -> Result<(Vec<StampedAddress>, Writes), ChangeError> {
    let mut found = Vec::new();
    if let Some(wanted) = recipient.mailbox_store.as_ref().filter(|wanted| !state.objects.has_store(wanted)) {
        let detail = format!("there is no mailbox store {wanted}");
        found.push(Violation::new("/spec/mailboxStore", ViolationCode::UnknownReference, detail));
    }
    found.extend(references::check(store, &current.domains, name, recipient)?);
    found.extend(own_addresses(store, &current.domains, name, recipient)?);
    if !found.is_empty() {
        return Err(ChangeError::Invalid(found));
    }
    let owner = |key: &str| other_owner(store, name, key);
    match stamp(&state.policies, &current.domains, name, recipient, &earlier(before), owner) {
        Ok(stamped) => {
            let known = before.map(|record| record.addresses.as_slice()).unwrap_or_default();
            let entry = AddressEntry::of(name, recipient);
            let mut writes = address_writes(known, &stamped.addresses, &entry);
            let earlier = before.and_then(|record| parsed(record).ok());
            writes.extend(references::writes(name, earlier.as_ref(), Some(recipient)));
            Ok((stamped.addresses, writes))
        }
        Err(StampError::Owner(error)) => Err(error.into()),
        Err(error) => Err(ChangeError::Invalid(vec![violation(&error)])),
    }
}

/// The writes for a recipient that is deleted.
pub(super) fn gone(name: &Name, before: &Record) -> Writes {
    let mut writes = address_writes(&before.addresses, &[], &AddressEntry::of(name, &RecipientSpec::default()));
    writes.extend(references::writes(name, parsed(before).ok().as_ref(), None));
    writes
}

/// Refuses when recipients name this mailbox store.
pub(super) async fn unused(store: &dyn ConfigStore, mailbox_store: &Name) -> Result<(), ChangeError> {
    let mut by = Vec::new();
    let mut after: Option<String> = None;
    while let Some(page) = page(store, &mut after).await? {
        for (name, _, spec) in page {
            if spec.mailbox_store.as_ref() == Some(mailbox_store) && by.len() < MOST_NAMED {
                by.push(Reference {
                    object: object_id(Collection::Recipients, &name),
                    pointer: "/spec/mailboxStore".into(),
                });
            }
        }
        if by.len() == MOST_NAMED {
            break;
        }
    }
    if by.is_empty() { Ok(()) } else { Err(ChangeError::Referenced { by }) }
}

/// The writes that give every recipient the addresses of these policies.
pub(super) async fn all(store: &dyn ConfigStore, policies: &Policies, domains: &Domains) -> Result<Writes, Error> {
    let mut writes = Writes::new();
    let mut found = Vec::new();
    // who has an address after the writes so far, where that differs from the store
    let mut moved: HashMap<String, Option<Name>> = HashMap::new();
    let mut after: Option<String> = None;
    while let Some(page) = page(store, &mut after).await? {
        for (name, mut record, spec) in page {
            let owner = |key: &str| match moved.get(key) {
                Some(owner) => Ok(owner.clone().filter(|owner| *owner != name)),
                None => other_owner(store, &name, key),
            };
            let stamped = match stamp(policies, domains, &name, &spec, &earlier(Some(&record)), owner) {
                Ok(stamped) => stamped,
                Err(StampError::Owner(error)) => return Err(error.into()),
                Err(error) => {
                    let object = Some(object_id(Collection::Recipients, &name));
                    found.push(Violation { object, ..violation(&error) });
                    if found.len() == MOST_NAMED {
                        return Err(Error::Violations(found));
                    }
                    continue;
                }
            };
            if stamped.addresses == record.addresses {
                continue;
            }
            for gone in &record.addresses {
                moved.insert(mailbox_key(&gone.address), None);
            }
            for given in &stamped.addresses {
                moved.insert(mailbox_key(&given.address), Some(name.clone()));
            }
            let entry = AddressEntry::of(&name, &spec);
            writes.extend(address_writes(&record.addresses, &stamped.addresses, &entry));
            record.addresses = stamped.addresses;
            writes.push((object_key(Collection::Recipients, name.as_str()), Some(encode(&record))));
        }
    }
    if !found.is_empty() {
        return Err(Error::Violations(found));
    }
    // an address that went from one recipient to another: the last word is in `moved`, whatever came first
    writes.retain(|(key, value)| {
        let given = |address: &str| moved.get(address).is_some_and(Option::is_some);
        value.is_some() || !key.strip_prefix(&address_key("")).is_some_and(given)
    });
    Ok(writes)
}

/// The next page of recipients behind `after`; `None` at the end.
async fn page(
    store: &dyn ConfigStore,
    after: &mut Option<String>,
) -> Result<Option<Vec<(Name, Record, RecipientSpec)>>, StoreError> {
    tokio::task::yield_now().await;
    let prefix = object_key(Collection::Recipients, "");
    let rows = store.scan(&prefix, after.as_deref(), SCAN)?;
    let Some((last, _)) = rows.last() else { return Ok(None) };
    *after = Some(last.clone());
    let mut page = Vec::with_capacity(rows.len());
    for (key, bytes) in rows {
        let record = decode(&key, &bytes)?;
        let damaged = |detail: String| StoreError::Damaged(format!("{key}: {detail}"));
        let name = key[prefix.len()..].parse().map_err(|_| damaged("the key holds no name".to_owned()))?;
        let spec = parsed(&record).map_err(damaged)?;
        page.push((name, record, spec));
    }
    Ok(Some(page))
}

fn parsed(record: &Record) -> Result<RecipientSpec, String> {
    match Spec::parse(Collection::Recipients, &record.spec) {
        Ok(Spec::Recipient(spec)) => Ok((*spec).clone()),
        Ok(_) => Err("the spec is none of a recipient".to_owned()),
        Err(violation) => Err(violation.to_string()),
    }
}

/// What a recipient keeps: the addresses it had, without those that it gave itself, which go when it drops them.
fn earlier(before: Option<&Record>) -> Vec<StampedAddress> {
    let Some(record) = before else { return Vec::new() };
    let own = parsed(record).map(|spec| spec.addresses).unwrap_or_default();
    let own: Vec<String> = own.iter().map(mailbox_key).collect();
    record.addresses.iter().filter(|known| !own.contains(&mailbox_key(&known.address))).cloned().collect()
}

/// Everything that is wrong with the addresses that a recipient gives itself.
fn own_addresses(
    store: &dyn ConfigStore,
    domains: &Domains,
    name: &Name,
    recipient: &RecipientSpec,
) -> Result<Vec<Violation>, StoreError> {
    let mut found = Vec::new();
    for (index, address) in recipient.addresses.iter().enumerate() {
        let address = address.clone();
        if domains.find(address.domain()).is_none() {
            found.push(violation(&StampError::NotLocal { index, address }));
        } else if let Some(owner) = other_owner(store, name, &mailbox_key(&address))? {
            found.push(violation(&StampError::Taken { index, address, owner }));
        }
    }
    Ok(found)
}

/// Who has the address, when it is not this recipient.
fn other_owner(store: &dyn ConfigStore, name: &Name, key: &str) -> Result<Option<Name>, StoreError> {
    Ok(owner_of(store, key)?.map(|entry| entry.recipient).filter(|owner| owner != name))
}

fn violation(error: &StampError<StoreError>) -> Violation {
    let (pointer, code) = match error {
        StampError::Taken { index, .. } => (format!("/spec/addresses/{index}"), ViolationCode::AddressTaken),
        StampError::NotLocal { index, .. } => (format!("/spec/addresses/{index}"), ViolationCode::DomainNotLocal),
        StampError::NoAddress { .. } | StampError::Owner(_) => ("/spec".to_owned(), ViolationCode::NoAddress),
    };
    Violation::new(pointer, code, error.to_string())
}
