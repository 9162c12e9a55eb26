//! What a change means for recipients: their addresses, and the keys under which the directory finds them.
//!
//! What this writes goes into the draft of the change that causes it, so that an address is never in two hands. A change of
//! policies looks at every recipient, page by page and in order of the names, and writes those whose addresses change;
//! memory does not grow with them, as a draft does not. A change of a group, when policies ask who is in which group, looks
//! at those whose groups change. All of this runs where blocking is allowed.

use std::sync::Arc;

use super::answer::ChangeError;
use super::effects::Effects;
use super::groups::{self, Concerned, Groups, GroupsError, MOST_GROUPS};
use super::object::{Record, Spec};
use super::plan::MOST_NAMED;
use super::recipients::{AddressEntry, address_key, address_writes, owner_in};
use super::records::{SCAN, decode, encode, object_key};
use super::references;
use super::violation::{Violation, ViolationCode, object_id};
use crate::directory::{Domains, Earlier, Policies, Stamp, StampError, Subject, stamp};
use crate::model::host::mailbox_key;
use crate::model::name::Name;
use crate::model::spec::recipient::{RecipientType, StampedAddress};
use crate::model::spec::recipient_policy::Filter;
use crate::model::spec::{Collection, RecipientSpec};
use crate::store::{ConfigDraft, StoreError};

/// Why recipients cannot have their addresses.
pub(super) enum Error {
    /// What is wrong with the recipient; the draft is as it was.
    Violations(Vec<Violation>),
    /// What is wrong with others because of it; the draft is of no use any more.
    Others(Vec<Violation>),
    Store(StoreError),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Error::Store(error)
    }
}

impl From<Error> for ChangeError {
    fn from(error: Error) -> Self {
        match error {
            Error::Violations(found) | Error::Others(found) => ChangeError::Invalid(found),
            Error::Store(error) => error.into(),
        }
    }
}

/// Gives addresses by these policies.
pub(super) struct Stamper {
    pub(super) policies: Policies,
    pub(super) domains: Arc<Domains>,
    /// Who is in which group, when a policy asks for that.
    groups: Option<Groups>,
}

impl Stamper {
    pub fn new(policies: Policies, domains: Arc<Domains>) -> Self {
        let groups = policies.ask_for_groups().then(Groups::default);
        Stamper { policies, domains, groups }
    }

    /// The addresses of one recipient that is written, and what it does to others; what finds them goes into the draft.
    /// `found` is what is wrong with the recipient already.
    pub fn recipient(
        &mut self,
        draft: &mut dyn ConfigDraft,
        name: &Name,
        recipient: &RecipientSpec,
        before: Option<&Record>,
        mut found: Vec<Violation>,
    ) -> Result<(Vec<StampedAddress>, Effects), Error> {
        found.extend(references::check(draft, &self.domains, name, recipient)?);
        found.extend(own_addresses(draft, &self.domains, name, recipient)?);
        found.extend(self.must_be_group(name, recipient));
        if !found.is_empty() {
            return Err(Error::Violations(found));
        }
        let was = before.and_then(|record| parsed(record).ok());
        // before anybody is asked for groups: it may be in itself
        for (key, value) in references::writes(name, was.as_ref(), Some(recipient)) {
            draft.write(&key, value)?;
        }
        let regroups = was.as_ref().map(|was| was.members.as_slice()).unwrap_or_default() != recipient.members;
        self.forget_groups(regroups);
        let stamped = self.stamped(draft, name, recipient, &earlier(before));
        if stamped.is_err() {
            for (key, value) in references::writes(name, Some(recipient), was.as_ref()) {
                draft.write(&key, value)?;
            }
            self.forget_groups(regroups);
        }
        let stamped = stamped?.addresses;
        let known = before.map(|record| record.addresses.as_slice()).unwrap_or_default();
        for (key, value) in address_writes(known, &stamped, &AddressEntry::of(name, recipient)) {
            draft.write(&key, value)?;
        }
        let mut effects = Effects::default();
        effects.add(name, known, &stamped);
        if regroups {
            self.others(draft, name, was.as_ref(), Some(recipient), &mut effects)?;
        }
        Ok((stamped, effects))
    }

    /// The addresses that policies would give a recipient, as things stand in the draft. Writes nothing.
    pub fn preview(
        &mut self,
        draft: &dyn ConfigDraft,
        name: &Name,
        recipient: &RecipientSpec,
        before: Option<&Record>,
    ) -> Result<Stamp, Error> {
        self.stamped(draft, name, recipient, &earlier(before))
    }

    /// Whether it matters who is in which group.
    pub fn asks_for_groups(&self) -> bool {
        self.groups.is_some()
    }

    /// Gives every recipient its addresses.
    pub fn all(&mut self, draft: &mut dyn ConfigDraft) -> Result<Effects, Error> {
        let mut effects = Effects::default();
        self.everybody(draft, None, &mut effects)?;
        Ok(effects)
    }

    /// A policy asks who is in a recipient that is no group.
    pub(super) fn must_be_group(&self, name: &Name, recipient: &RecipientSpec) -> Option<Violation> {
        let (policy, pointer) = self.policies.naming(name).next().filter(|_| recipient.kind != RecipientType::Group)?;
        let detail = format!("recipient policy {policy} asks who is in this group ({pointer})");
        Some(Violation::new("/spec/type", ViolationCode::Conflict, detail))
    }

    /// Members have changed.
    pub(super) fn forget_groups(&mut self, changed: bool) {
        if let Some(groups) = self.groups.as_mut().filter(|_| changed) {
            groups.forget();
        }
    }

    /// Gives those their addresses whose groups change when this recipient does.
    pub(super) fn others(
        &mut self,
        draft: &mut dyn ConfigDraft,
        name: &Name,
        before: Option<&RecipientSpec>,
        after: Option<&RecipientSpec>,
        effects: &mut Effects,
    ) -> Result<(), Error> {
        if self.groups.is_none() {
            return Ok(());
        }
        let names = match groups::concerned(draft, before, after)? {
            Concerned::Some(names) => names,
            Concerned::Everybody => return self.everybody(draft, Some(name), effects),
        };
        let mut found = Vec::new();
        for name in names.into_iter().filter(|other| other != name) {
            let key = object_key(Collection::Recipients, name.as_str());
            let Some(bytes) = draft.get(&key)? else { continue };
            let (record, spec) = read(&key, &bytes)?;
            self.again(draft, name, record, &spec, effects, &mut found)?;
        }
        if found.is_empty() { Ok(()) } else { Err(Error::Others(found)) }
    }

    fn everybody(
        &mut self,
        draft: &mut dyn ConfigDraft,
        except: Option<&Name>,
        effects: &mut Effects,
    ) -> Result<(), Error> {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let prefix = object_key(Collection::Recipients, "");
            let page = page(draft.scan(&prefix, after.as_deref(), SCAN)?, &prefix, &mut after)?;
            if page.is_empty() {
                break;
            }
            for (name, record, spec) in page.into_iter().filter(|(name, ..)| Some(name) != except) {
                self.again(draft, name, record, &spec, effects, &mut found)?;
            }
        }
        if found.is_empty() { Ok(()) } else { Err(Error::Others(found)) }
    }

    /// Stamps a recipient that did not change itself, and writes it if its addresses do.
    fn again(
        &mut self,
        draft: &mut dyn ConfigDraft,
        name: Name,
        mut record: Record,
        spec: &RecipientSpec,
        effects: &mut Effects,
        found: &mut Vec<Violation>,
    ) -> Result<(), Error> {
        let stamped = match self.stamped(draft, &name, spec, &earlier(Some(&record))) {
            Ok(stamped) => stamped.addresses,
            Err(Error::Violations(wrong)) => {
                let object = object_id(Collection::Recipients, &name);
                found.extend(wrong.into_iter().map(|one| Violation { object: Some(object.clone()), ..one }));
                let full = found.len() >= MOST_NAMED;
                return if full { Err(Error::Others(std::mem::take(found))) } else { Ok(()) };
            }
            Err(error) => return Err(error),
        };
        if stamped == record.addresses {
            return Ok(());
        }
        effects.add(&name, &record.addresses, &stamped);
        let entry = AddressEntry::of(&name, spec);
        let had: Vec<String> = record.addresses.iter().map(|a| address_key(&mailbox_key(&a.address))).collect();
        for (key, value) in address_writes(&record.addresses, &stamped, &entry) {
            // what leads to it already stays as it is
            if value.is_none() || !had.contains(&key) {
                draft.write(&key, value)?;
            }
        }
        record.addresses = stamped;
        draft.write(&object_key(Collection::Recipients, name.as_str()), Some(encode(&record)))?;
        Ok(())
    }

    /// Stamps, with owners and groups as they are in the draft: a recipient that comes later sees what the earlier ones have.
    pub(super) fn stamped(
        &mut self,
        draft: &dyn ConfigDraft,
        name: &Name,
        spec: &RecipientSpec,
        earlier: &Earlier,
    ) -> Result<Stamp, Error> {
        let groups = self.groups.as_mut().map(|groups| groups.of(draft, name)).transpose();
        let groups = groups.map_err(|error| match error {
            GroupsError::Store(error) => Error::Store(error),
            GroupsError::TooMany => {
                let detail = format!("it is in more than {MOST_GROUPS} groups, and a recipient policy asks in which");
                Error::Violations(vec![Violation::new("/spec", ViolationCode::OutOfRange, detail)])
            }
        })?;
        let subject = Subject { name, spec, groups: &groups.unwrap_or_default() };
        let stamped = stamp(&self.policies, &self.domains, subject, earlier, |key| other_owner(draft, name, key));
        stamped.map_err(|error| match error {
            StampError::Owner(error) => Error::Store(error),
            error => Error::Violations(vec![violation(&error)]),
        })
    }
}

/// The groups that a policy names and that are not there.
pub(super) fn missing_groups(draft: &dyn ConfigDraft, spec: &Spec) -> Result<Vec<Violation>, StoreError> {
    let Spec::RecipientPolicy(policy) = spec else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (pointer, group) in policy.filter.iter().flat_map(Filter::groups) {
        if !groups::is_group(draft, group)? {
            let detail = format!("there is no group {group}");
            found.push(Violation::new(format!("/spec/filter{pointer}"), ViolationCode::UnknownReference, detail));
            if found.len() == MOST_NAMED {
                break;
            }
        }
    }
    Ok(found)
}

/// What is wrong when these mailbox stores go: the recipients that name them.
pub(super) fn named_stores(draft: &dyn ConfigDraft, gone: &[Name]) -> Result<Vec<Violation>, StoreError> {
    let mut found = Vec::new();
    if gone.is_empty() {
        return Ok(found);
    }
    let prefix = object_key(Collection::Recipients, "");
    let mut after: Option<String> = None;
    loop {
        let page = page(draft.scan(&prefix, after.as_deref(), SCAN)?, &prefix, &mut after)?;
        if page.is_empty() {
            return Ok(found);
        }
        for (name, _, spec) in page {
            let Some(wanted) = spec.mailbox_store.as_ref().filter(|wanted| gone.contains(wanted)) else { continue };
            let detail = format!("there is no mailbox store {wanted}");
            let code = ViolationCode::UnknownReference;
            found.push(Violation::at(Collection::Recipients, &name, "/spec/mailboxStore", code, detail));
            if found.len() == MOST_NAMED {
                return Ok(found);
            }
        }
    }
}

/// The recipients of these rows; the last key goes into `after`.
fn page(
    rows: Vec<(String, Vec<u8>)>,
    prefix: &str,
    after: &mut Option<String>,
) -> Result<Vec<(Name, Record, RecipientSpec)>, StoreError> {
    if let Some((last, _)) = rows.last() {
        *after = Some(last.clone());
    }
    let recipient = |(key, bytes): (String, Vec<u8>)| {
        let name = key[prefix.len()..].parse();
        let name = name.map_err(|_| StoreError::Damaged(format!("{key}: the key holds no name")))?;
        let (record, spec) = read(&key, &bytes)?;
        Ok((name, record, spec))
    };
    rows.into_iter().map(recipient).collect()
}

fn read(key: &str, bytes: &[u8]) -> Result<(Record, RecipientSpec), StoreError> {
    let record = decode(key, bytes)?;
    let spec = parsed(&record).map_err(|detail| StoreError::Damaged(format!("{key}: {detail}")))?;
    Ok((record, spec))
}

pub(super) fn parsed(record: &Record) -> Result<RecipientSpec, String> {
    match Spec::parse(Collection::Recipients, &record.spec) {
        Ok(Spec::Recipient(spec)) => Ok(Arc::unwrap_or_clone(spec)),
        Ok(_) => Err("the spec is none of a recipient".to_owned()),
        Err(violation) => Err(violation.to_string()),
    }
}

/// What a recipient was: the addresses it had, without those that it gave itself, which go when it drops them.
pub(super) fn earlier(before: Option<&Record>) -> Earlier {
    let Some(record) = before else { return Earlier::default() };
    let Ok(spec) = parsed(record) else { return Earlier { addresses: record.addresses.clone(), spec: None } };
    let own: Vec<String> = spec.addresses.iter().map(mailbox_key).collect();
    let known = record.addresses.iter().filter(|known| !own.contains(&mailbox_key(&known.address)));
    Earlier { addresses: known.cloned().collect(), spec: Some(spec) }
}

/// Everything that is wrong with the addresses that a recipient gives itself.
pub(super) fn own_addresses(
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
