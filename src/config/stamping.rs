//! What a change means for recipients: their addresses, and the keys under which the directory finds them.
//!
//! What this writes goes into the draft of the change that causes it, so that an address is never in two hands. A change of
//! policies looks at every recipient, page by page and in order of the names, and writes those whose addresses change;
//! memory does not grow with them, as a draft does not. It runs where blocking is allowed.

use std::sync::Arc;

use super::Snapshot;
use super::answer::{ChangeError, Reference};
use super::change::{MOST_NAMED, State};
use super::effects::Effects;
use super::object::{Record, Spec};
use super::recipients::{AddressEntry, address_key, address_writes, owner_in};
use super::records::{SCAN, decode, encode, object_key};
use super::references;
use super::violation::{Violation, ViolationCode, object_id};
use crate::directory::{Domains, Earlier, Policies, Stamp, StampError, stamp};
use crate::model::host::mailbox_key;
use crate::model::name::Name;
use crate::model::spec::recipient::StampedAddress;
use crate::model::spec::{Collection, RecipientSpec};
use crate::store::{ConfigDraft, ConfigStore, StoreError};

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

/// The addresses of one recipient that is written; what finds them goes into the draft.
pub(super) fn recipient(
    draft: &mut dyn ConfigDraft,
    state: &State,
    current: &Snapshot,
    name: &Name,
    recipient: &RecipientSpec,
    before: Option<&Record>,
) -> Result<Vec<StampedAddress>, ChangeError> {
    let mut found = Vec::new();
    if let Some(wanted) = recipient.mailbox_store.as_ref().filter(|wanted| !state.objects.has_store(wanted)) {
        let detail = format!("there is no mailbox store {wanted}");
        found.push(Violation::new("/spec/mailboxStore", ViolationCode::UnknownReference, detail));
    }
    found.extend(references::check(draft, &current.domains, name, recipient)?);
    found.extend(own_addresses(draft, &current.domains, name, recipient)?);
    if !found.is_empty() {
        return Err(ChangeError::Invalid(found));
    }
    match of(draft, &state.policies, &current.domains, name, recipient, &earlier(before)) {
        Ok(stamped) => {
            let known = before.map(|record| record.addresses.as_slice()).unwrap_or_default();
            let entry = AddressEntry::of(name, recipient);
            let earlier = before.and_then(|record| parsed(record).ok());
            let references = references::writes(name, earlier.as_ref(), Some(recipient));
            for (key, value) in address_writes(known, &stamped.addresses, &entry).into_iter().chain(references) {
                draft.write(&key, value)?;
            }
            Ok(stamped.addresses)
        }
        Err(StampError::Owner(error)) => Err(error.into()),
        Err(error) => Err(ChangeError::Invalid(vec![violation(&error)])),
    }
}

/// The addresses that policies would give a recipient, as things stand in the draft. Writes nothing.
pub(super) fn preview(
    draft: &dyn ConfigDraft,
    policies: &Policies,
    domains: &Domains,
    name: &Name,
    recipient: &RecipientSpec,
    before: Option<&Record>,
) -> Result<Stamp, Error> {
    of(draft, policies, domains, name, recipient, &earlier(before)).map_err(|error| match error {
        StampError::Owner(error) => Error::Store(error),
        error => Error::Violations(vec![violation(&error)]),
    })
}

/// Takes the addresses of a recipient that is deleted away.
pub(super) fn gone(draft: &mut dyn ConfigDraft, name: &Name, before: &Record) -> Result<(), StoreError> {
    let entry = AddressEntry::of(name, &RecipientSpec::default());
    let references = references::writes(name, parsed(before).ok().as_ref(), None);
    for (key, value) in address_writes(&before.addresses, &[], &entry).into_iter().chain(references) {
        draft.write(&key, value)?;
    }
    Ok(())
}

/// Refuses when recipients name this mailbox store.
pub(super) fn unused(store: &dyn ConfigStore, mailbox_store: &Name) -> Result<(), ChangeError> {
    let mut by = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = page(store, &mut after)?;
        if page.is_empty() {
            break;
        }
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

/// Gives every recipient the addresses of these policies.
pub(super) fn all(
    store: &Arc<dyn ConfigStore>,
    draft: &mut dyn ConfigDraft,
    policies: &Policies,
    domains: &Domains,
) -> Result<Effects, Error> {
    let mut effects = Effects::default();
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = page(&**store, &mut after)?;
        if page.is_empty() {
            break;
        }
        for (name, mut record, spec) in page {
            let stamped = match of(draft, policies, domains, &name, &spec, &earlier(Some(&record))) {
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
            effects.add(&name, &record.addresses, &stamped.addresses);
            let entry = AddressEntry::of(&name, &spec);
            let had: Vec<String> = record.addresses.iter().map(|a| address_key(&mailbox_key(&a.address))).collect();
            for (key, value) in address_writes(&record.addresses, &stamped.addresses, &entry) {
                // what leads to it already stays as it is
                if value.is_none() || !had.contains(&key) {
                    draft.write(&key, value)?;
                }
            }
            record.addresses = stamped.addresses;
            draft.write(&object_key(Collection::Recipients, name.as_str()), Some(encode(&record)))?;
        }
    }
    if found.is_empty() { Ok(effects) } else { Err(Error::Violations(found)) }
}

/// Stamps, with the owners as they are in the draft: a recipient that comes later sees what the earlier ones have.
fn of(
    draft: &dyn ConfigDraft,
    policies: &Policies,
    domains: &Domains,
    name: &Name,
    recipient: &RecipientSpec,
    earlier: &Earlier,
) -> Result<Stamp, StampError<StoreError>> {
    stamp(policies, domains, name, recipient, earlier, |key| other_owner(draft, name, key))
}

/// The next page of recipients behind `after`; empty at the end.
fn page(store: &dyn ConfigStore, after: &mut Option<String>) -> Result<Vec<(Name, Record, RecipientSpec)>, StoreError> {
    let prefix = object_key(Collection::Recipients, "");
    let rows = store.scan(&prefix, after.as_deref(), SCAN)?;
    if let Some((last, _)) = rows.last() {
        *after = Some(last.clone());
    }
    let mut page = Vec::with_capacity(rows.len());
    for (key, bytes) in rows {
        let record = decode(&key, &bytes)?;
        let damaged = |detail: String| StoreError::Damaged(format!("{key}: {detail}"));
        let name = key[prefix.len()..].parse().map_err(|_| damaged("the key holds no name".to_owned()))?;
        let spec = parsed(&record).map_err(damaged)?;
        page.push((name, record, spec));
    }
    Ok(page)
}

pub(super) fn parsed(record: &Record) -> Result<RecipientSpec, String> {
    match Spec::parse(Collection::Recipients, &record.spec) {
        Ok(Spec::Recipient(spec)) => Ok(Arc::unwrap_or_clone(spec)),
        Ok(_) => Err("the spec is none of a recipient".to_owned()),
        Err(violation) => Err(violation.to_string()),
    }
}

/// What a recipient was: the addresses it had, without those that it gave itself, which go when it drops them.
fn earlier(before: Option<&Record>) -> Earlier {
    let Some(record) = before else { return Earlier::default() };
    let Ok(spec) = parsed(record) else { return Earlier { addresses: record.addresses.clone(), spec: None } };
    let own: Vec<String> = spec.addresses.iter().map(mailbox_key).collect();
    let known = record.addresses.iter().filter(|known| !own.contains(&mailbox_key(&known.address)));
    Earlier { addresses: known.cloned().collect(), spec: Some(spec) }
}

/// Everything that is wrong with the addresses that a recipient gives itself.
fn own_addresses(
    draft: &dyn ConfigDraft,
    domains: &Domains,
    name: &Name,
    recipient: &RecipientSpec,
) -> Result<Vec<Violation>, StoreError> {
    let mut found = Vec::new();
    for (index, address) in recipient.addresses.iter().enumerate() {
        let address = address.clone();
        if domains.find(address.domain()).is_none() {
            found.push(violation(&StampError::NotLocal { index, address }));
        } else if let Some(owner) = other_owner(draft, name, &mailbox_key(&address))? {
            found.push(violation(&StampError::Taken { index, address, owner }));
        }
    }
    Ok(found)
}

/// Who has the address, when it is not this recipient.
fn other_owner(draft: &dyn ConfigDraft, name: &Name, key: &str) -> Result<Option<Name>, StoreError> {
    Ok(owner_in(draft, key)?.map(|entry| entry.recipient).filter(|owner| owner != name))
}

fn violation(error: &StampError<StoreError>) -> Violation {
    let (pointer, code) = match error {
        StampError::Taken { index, .. } => (format!("/spec/addresses/{index}"), ViolationCode::AddressTaken),
        StampError::NotLocal { index, .. } => (format!("/spec/addresses/{index}"), ViolationCode::DomainNotLocal),
        StampError::NoAddress { .. } | StampError::Owner(_) => ("/spec".to_owned(), ViolationCode::NoAddress),
    };
    Violation::new(pointer, code, error.to_string())
}
