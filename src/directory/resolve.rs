//! Who a forward-path is, and whether this sender may write to it.
//!
//! | order | asked | answer |
//! |---|---|---|
//! | 1 | the domain is not local | somebody elsewhere |
//! | 2 | `postmaster`, bare or at a local domain (RFC 5321, 4.5.1) | who the settings name, else who has the address, else the mailbox `postmaster`; no restriction holds |
//! | 3 | `abuse`, if the settings name somebody (RFC 2142) | that one |
//! | 4 | the address as it stands | who has it |
//! | 5 | `user+tag`, with plus addressing | who has `user` |
//! | 6 | `*@domain` | the catch-all of the domain |
//! | 7 | nobody | unknown in an authoritative domain, elsewhere in a shared one |
//!
//! What cannot be told now is never taken for "no such recipient".

use super::entry::{EntryKind, LookupFailed, RecipientEntry, Recipients};
use super::restrict::{Restriction, Sender};
use super::{Authority, Domains};
use crate::model::host::mailbox_key;
use crate::model::name::Name;
use crate::model::spec::recipient::RecipientType;
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};

/// The mailbox that gets mail for `postmaster` when nobody else does.
const POSTMASTER: &str = "postmaster";
const ABUSE: &str = "abuse";
/// The local part of a catch-all.
const EVERYBODY: &str = "*";

/// What of an envelope decides who a recipient is.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// The forward-path.
    pub path: &'a ForwardPath,
    /// The reverse-path.
    pub sender: &'a ReversePath,
    /// Octets of content: as they were declared, else 0.
    pub size: u64,
}

/// Who a forward-path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// A local recipient.
    Mailbox {
        /// Its name in the directory; for a postmaster whom nobody made it is `postmaster`.
        recipient: Name,
        /// The mailbox store.
        store: Name,
    },
    /// One that stands for others: a group, a contact, a mailbox that forwards. Mail for it waits to be
    /// [distributed](super::Distributor).
    Others {
        /// Its name in the directory.
        recipient: Name,
        /// What it is.
        kind: RecipientType,
    },
    /// It is there, and may not be written to: 550 5.7.1 or 552 5.2.3.
    Refused {
        /// Its name in the directory.
        recipient: Name,
        /// Why.
        restriction: Restriction,
    },
    /// The domain is authoritative and has no such recipient: 550 5.1.1.
    Unknown,
    /// Somebody elsewhere: the domain is not local, or it is shared and has no such recipient.
    Remote(Mailbox),
    /// It cannot be told now: 451 4.3.0.
    TryLater,
}

/// Says who a forward-path is, and holds the envelope to the restrictions of that recipient.
pub fn resolve(domains: &Domains, recipients: &dyn Recipients, envelope: &Envelope<'_>) -> Resolution {
    let found = match find(domains, recipients, envelope.path) {
        Ok(found) => found,
        Err(LookupFailed(_)) => return Resolution::TryLater,
    };
    if let Found::Entry { entry, restricted: true } = &found {
        match Sender::new(domains, recipients, envelope.sender, envelope.size).restriction(entry) {
            Ok(None) => {}
            Ok(Some(restriction)) => return Resolution::Refused { recipient: entry.name.clone(), restriction },
            Err(LookupFailed(_)) => return Resolution::TryLater,
        }
    }
    answer(domains, found, None)
}

/// The same for mail that was taken before: restrictions are not asked again. `known` is the mailbox that the path was
/// resolved to already: its forwards were seen to, what is here is the copy that stays.
pub fn resolve_taken(
    domains: &Domains,
    recipients: &dyn Recipients,
    path: &ForwardPath,
    known: Option<&Name>,
) -> Resolution {
    match find(domains, recipients, path) {
        Ok(found) => answer(domains, found, known),
        Err(LookupFailed(_)) => Resolution::TryLater,
    }
}

fn answer(domains: &Domains, found: Found, known: Option<&Name>) -> Resolution {
    let mailbox = |recipient, store: Option<Name>| match store.or_else(|| domains.default_store().cloned()) {
        Some(store) => Resolution::Mailbox { recipient, store },
        None => Resolution::TryLater,
    };
    match found {
        Found::Entry { entry, .. } => {
            let kind = entry.recipient_type();
            match entry.kind {
                EntryKind::Mailbox { store, forward_to, .. } if forward_to.is_empty() || known == Some(&entry.name) => {
                    mailbox(entry.name, store)
                }
                _ => Resolution::Others { recipient: entry.name, kind },
            }
        }
        Found::Postmaster => match POSTMASTER.parse() {
            Ok(recipient) => mailbox(recipient, None),
            Err(_) => Resolution::TryLater,
        },
        Found::Nobody => Resolution::Unknown,
        Found::Elsewhere(mailbox) => Resolution::Remote(mailbox),
    }
}

/// Who has an address.
#[derive(Debug)]
pub(super) enum Found {
    Entry {
        entry: RecipientEntry,
        /// Its restrictions hold.
        restricted: bool,
    },
    /// The postmaster whom nobody made.
    Postmaster,
    Nobody,
    Elsewhere(Mailbox),
}

/// The table at the head of this file.
pub(super) fn find(domains: &Domains, recipients: &dyn Recipients, path: &ForwardPath) -> Result<Found, LookupFailed> {
    let mailbox = match path {
        ForwardPath::Postmaster => return postmaster(domains, recipients, None),
        ForwardPath::Mailbox(mailbox) => mailbox,
    };
    let Some(domain) = domains.find(mailbox.domain()) else { return Ok(Found::Elsewhere(mailbox.clone())) };
    if mailbox.local().eq_ignore_ascii_case(POSTMASTER) {
        return postmaster(domains, recipients, Some(mailbox));
    }
    let abuse = domains.abuse().filter(|_| mailbox.local().eq_ignore_ascii_case(ABUSE));
    for asked in abuse.into_iter().chain([mailbox]) {
        if let Some(entry) = who_has(domains, recipients, asked)? {
            return Ok(Found::Entry { entry, restricted: true });
        }
    }
    Ok(match domain.authority {
        Authority::Authoritative => Found::Nobody,
        Authority::Shared => Found::Elsewhere(mailbox.clone()),
    })
}

/// Who gets mail for an address in a local domain.
pub(super) fn who_has(
    domains: &Domains,
    recipients: &dyn Recipients,
    mailbox: &Mailbox,
) -> Result<Option<RecipientEntry>, LookupFailed> {
    if let Some(entry) = recipients.by_address(&mailbox_key(mailbox))? {
        return Ok(Some(entry));
    }
    let at_domain = |local: &str| Mailbox::new(local, mailbox.domain().clone()).ok();
    let user = mailbox.local().split_once('+').filter(|_| domains.has_plus_addressing());
    let user = user.and_then(|(user, _)| at_domain(user));
    for other in user.into_iter().chain(at_domain(EVERYBODY)) {
        if let Some(entry) = recipients.by_address(&mailbox_key(&other))? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

fn postmaster(domains: &Domains, recipients: &dyn Recipients, given: Option<&Mailbox>) -> Result<Found, LookupFailed> {
    if let Some(named) = domains.postmaster() {
        if domains.find(named.domain()).is_none() {
            return Ok(Found::Elsewhere(named.clone()));
        }
        if let Some(entry) = who_has(domains, recipients, named)? {
            return Ok(Found::Entry { entry, restricted: false });
        }
    }
    let at_default = domains.default_domain().map(|domain| Mailbox::new(POSTMASTER, domain.clone()));
    let at_default = at_default.and_then(Result::ok);
    for mailbox in [given, at_default.as_ref().filter(|other| Some(*other) != given)].into_iter().flatten() {
        if let Some(entry) = recipients.by_address(&mailbox_key(mailbox))? {
            return Ok(Found::Entry { entry, restricted: false });
        }
    }
    Ok(Found::Postmaster)
}
