//! Which recipients name which others: members and owners of groups, forwards, restrictions.
//!
//! A reference is kept a second time by whom it names, under `reference/<named>/<by>`, in the same commit as the recipient
//! that makes it: so a delete finds out with one look whether somebody still names the recipient, among a million too.

use std::collections::BTreeMap;

use super::plan::MOST_NAMED;
use super::recipients::owner_in;
use super::records::object_key;
use super::violation::{Violation, ViolationCode, object_id};
use crate::directory::{Authority, Domains, Policies};
use crate::model::host::mailbox_key;
use crate::model::name::Name;
use crate::model::recipient_ref::{RecipientRef, SenderPattern};
use crate::model::spec::recipient::RecipientType;
use crate::model::spec::{Collection, RecipientSpec};
use crate::smtp::address::Mailbox;
use crate::store::{ConfigDraft, StoreError};

type Writes = Vec<(String, Option<Vec<u8>>)>;

/// Everything that is wrong with what a recipient says about others, and with fields that its type has not.
pub(super) fn check(
    draft: &dyn ConfigDraft,
    domains: &Domains,
    name: &Name,
    spec: &RecipientSpec,
) -> Result<Vec<Violation>, StoreError> {
    let mut found = check_names(draft, name, spec)?;
    found.extend(check_addresses(draft, domains, spec)?);
    Ok(found)
}

/// What is wrong with whom a recipient names, and with fields that its type has not.
pub(super) fn check_names(
    draft: &dyn ConfigDraft,
    name: &Name,
    spec: &RecipientSpec,
) -> Result<Vec<Violation>, StoreError> {
    let mut found = misplaced(spec);
    for (pointer, named) in names(spec) {
        // it may name itself: a mailbox that accepts from its owner alone
        if named != name && !exists(draft, named)? {
            found.push(Violation::new(
                pointer,
                ViolationCode::UnknownReference,
                format!("there is no recipient {named}"),
            ));
        }
    }
    Ok(found)
}

/// What is wrong with the addresses that a recipient leads mail to, once all recipients have theirs.
pub(super) fn check_addresses(
    draft: &dyn ConfigDraft,
    domains: &Domains,
    spec: &RecipientSpec,
) -> Result<Vec<Violation>, StoreError> {
    let mut found = Vec::new();
    for (pointer, mailbox) in addresses(spec) {
        if !reachable(draft, domains, mailbox)? {
            let detail = format!("no recipient has the address {mailbox}, and its domain is ours alone");
            found.push(Violation::new(pointer, ViolationCode::UnknownReference, detail));
        }
    }
    Ok(found)
}

/// What is wrong when this recipient goes: others that name it, and policies that ask who is in it.
pub(super) fn named_by(
    draft: &dyn ConfigDraft,
    policies: &Policies,
    name: &Name,
) -> Result<Vec<Violation>, StoreError> {
    let wrong = |object: String, pointer: String| Violation {
        object: Some(object),
        ..Violation::new(pointer, ViolationCode::UnknownReference, format!("there is no recipient {name}"))
    };
    let asking = policies.naming(name).take(MOST_NAMED);
    let asking = asking.map(|(policy, pointer)| wrong(object_id(Collection::RecipientPolicies, policy), pointer));
    let mut by: Vec<Violation> = asking.collect();
    for (_, other, pointer) in page(draft, name, None, MOST_NAMED)? {
        if other != *name {
            by.push(wrong(object_id(Collection::Recipients, &other), pointer));
        }
    }
    Ok(by)
}

/// The writes that turn the references of one spec into those of another.
pub(super) fn writes(name: &Name, before: Option<&RecipientSpec>, after: Option<&RecipientSpec>) -> Writes {
    let named = |spec: Option<&RecipientSpec>| -> BTreeMap<Name, String> {
        // the first pointer of several is the one that is told
        let all: Vec<_> = spec.map(names).unwrap_or_default();
        all.into_iter().rev().map(|(pointer, name)| (name.clone(), pointer)).collect()
    };
    let (before, after) = (named(before), named(after));
    let gone = before.keys().filter(|named| !after.contains_key(*named)).map(|named| (named, None));
    let new = after.iter().filter(|(named, pointer)| before.get(*named) != Some(*pointer));
    let new = new.map(|(named, pointer)| (named, Some(pointer.clone().into_bytes())));
    gone.chain(new).map(|(named, value)| (reference_key(named, name.as_str()), value)).collect()
}

/// Who names a recipient: up to `limit` rows behind a key, each with its key, who it is, and the pointer.
pub(super) fn page(
    draft: &dyn ConfigDraft,
    named: &Name,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Name, String)>, StoreError> {
    let prefix = reference_key(named, "");
    let rows = draft.scan(&prefix, after, limit)?.into_iter().map(|(key, pointer)| {
        let by = key[prefix.len()..].parse();
        let by = by.map_err(|_| StoreError::Damaged(format!("{key}: the key holds no name")))?;
        Ok((key, by, String::from_utf8_lossy(&pointer).into_owned()))
    });
    rows.collect()
}

fn reference_key(named: &Name, by: &str) -> String {
    format!("reference/{named}/{by}")
}

fn exists(draft: &dyn ConfigDraft, name: &Name) -> Result<bool, StoreError> {
    Ok(draft.get(&object_key(Collection::Recipients, name.as_str()))?.is_some())
}

/// Whether mail for an address could go anywhere.
fn reachable(draft: &dyn ConfigDraft, domains: &Domains, mailbox: &Mailbox) -> Result<bool, StoreError> {
    let ours_alone = domains.find(mailbox.domain()).is_some_and(|local| local.authority == Authority::Authoritative);
    if !ours_alone || mailbox.local().eq_ignore_ascii_case("postmaster") {
        return Ok(true);
    }
    let user = mailbox.local().split_once('+').filter(|_| domains.has_plus_addressing()).map(|(user, _)| user);
    for local in [Some(mailbox.local()), user, Some("*")].into_iter().flatten() {
        let Ok(asked) = Mailbox::new(local, mailbox.domain().clone()) else { continue };
        if owner_in(draft, &mailbox_key(&asked))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whom a spec names, with pointers.
fn names(spec: &RecipientSpec) -> Vec<(String, &Name)> {
    let refs = references(spec).filter_map(|(pointer, reference)| match reference {
        RecipientRef::Name(name) => Some((pointer, name)),
        RecipientRef::Address(_) => None,
    });
    let patterns = [("acceptFrom", &spec.accept_from), ("rejectFrom", &spec.reject_from)];
    let patterns = patterns.into_iter().flat_map(|(field, patterns)| {
        patterns.iter().enumerate().filter_map(move |(index, pattern)| match pattern {
            SenderPattern::Recipient(name) => Some((format!("/spec/{field}/{index}"), name)),
            SenderPattern::Address(_) | SenderPattern::Domain(_) => None,
        })
    });
    refs.chain(patterns).collect()
}

/// The addresses that a spec leads mail to, with pointers.
fn addresses(spec: &RecipientSpec) -> impl Iterator<Item = (String, &Mailbox)> {
    references(spec).filter_map(|(pointer, reference)| match reference {
        RecipientRef::Address(mailbox) => Some((pointer, mailbox)),
        RecipientRef::Name(_) => None,
    })
}

fn references(spec: &RecipientSpec) -> impl Iterator<Item = (String, &RecipientRef)> {
    let list = |field: &'static str, list: &'_ [RecipientRef]| {
        let pointers: Vec<String> = (0..list.len()).map(|index| format!("/spec/{field}/{index}")).collect();
        pointers
    };
    let members = list("members", &spec.members).into_iter().zip(&spec.members);
    let forwards = list("forwardTo", &spec.forward_to).into_iter().zip(&spec.forward_to);
    members.chain(forwards).chain(spec.owner.iter().map(|owner| ("/spec/owner".to_owned(), owner)))
}

/// Fields that the type has not: nothing is accepted and ignored.
fn misplaced(spec: &RecipientSpec) -> Vec<Violation> {
    let kind = spec.kind.as_str();
    let (mailbox, contact, group) =
        (spec.kind == RecipientType::Mailbox, spec.kind == RecipientType::Contact, spec.kind == RecipientType::Group);
    let wrong = |pointer: &str, detail: String| Violation::new(pointer, ViolationCode::Conflict, detail);
    let mut found = Vec::new();
    for (field, given, fits) in [
        ("mailboxStore", spec.mailbox_store.is_some(), mailbox),
        ("forwardTo", !spec.forward_to.is_empty(), mailbox || contact),
        ("deliverAndForward", spec.deliver_and_forward, mailbox),
        ("members", !spec.members.is_empty(), group),
        ("owner", spec.owner.is_some(), group),
    ] {
        if given && !fits {
            found.push(wrong(&format!("/spec/{field}"), format!("a {kind} has no {field}")));
        }
    }
    if contact && spec.forward_to.is_empty() {
        let detail = "a contact needs an address that its mail goes on to";
        found.push(Violation::new("/spec/forwardTo", ViolationCode::Required, detail));
    }
    if spec.deliver_and_forward && spec.forward_to.is_empty() {
        found.push(wrong("/spec/deliverAndForward", "there is nothing in forwardTo to forward to".to_owned()));
    }
    found
}
