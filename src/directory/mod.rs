//! Who is meant: recipient policies say which domains are local and which addresses recipients have; [`resolve`] says
//! who a forward-path is.
//!
//! [`Domains`] is a small table, built from the policies. Recipients are not in it: they are asked for by key
//! ([`Recipients`]), one or two look-ups for a forward-path, so that a million of them cost nothing.
//!
//! `postmaster`, bare or at a local domain, is always somebody (RFC 5321, 4.5.1): who the settings name, else the
//! recipient with that address, else the mailbox `postmaster` in the default mailbox store.
//!
//! What cannot be told now ([`Resolution::TryLater`]) is never taken for "no such recipient".

mod domains;
mod expand;
mod filter;
mod stamp;

pub use domains::{Authority, Domains, DomainsError, LocalDomain};
pub use expand::expand;
pub use filter::matches;
pub use stamp::{Earlier, Policies, Stamp, StampError, stamp};

use crate::model::host::mailbox_key;
use crate::model::name::Name;
use crate::smtp::address::{ForwardPath, Mailbox};

/// The mailbox that gets mail for `postmaster` when nobody else does.
const POSTMASTER: &str = "postmaster";

/// What the directory knows about the owner of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientEntry {
    /// The recipient.
    pub name: Name,
    /// Its mailbox store; `None` for the default one.
    pub mailbox_store: Option<Name>,
}

/// The directory could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the directory cannot be read now: {0}")]
pub struct LookupFailed(pub String);

/// Recipients by address.
pub trait Recipients: Send + Sync {
    /// The recipient who has this address, given as [`mailbox_key`].
    ///
    /// # Errors
    /// When it cannot be told now.
    fn by_address(&self, key: &str) -> Result<Option<RecipientEntry>, LookupFailed>;
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
    /// The domain is authoritative and has no such recipient: 550 5.1.1.
    Unknown,
    /// Somebody elsewhere: the domain is not local, or it is shared and has no such recipient.
    Remote(Mailbox),
    /// It cannot be told now: 451 4.3.0.
    TryLater,
}

/// Says who a forward-path is.
pub fn resolve(domains: &Domains, recipients: &dyn Recipients, path: &ForwardPath) -> Resolution {
    match path {
        ForwardPath::Postmaster => postmaster(domains, recipients, None),
        ForwardPath::Mailbox(mailbox) => match domains.find(mailbox.domain()) {
            None => Resolution::Remote(mailbox.clone()),
            Some(_) if mailbox.local().eq_ignore_ascii_case(POSTMASTER) => {
                postmaster(domains, recipients, Some(mailbox))
            }
            Some(domain) => look_up(domains, recipients, mailbox).unwrap_or(match domain.authority {
                Authority::Authoritative => Resolution::Unknown,
                Authority::Shared => Resolution::Remote(mailbox.clone()),
            }),
        },
    }
}

/// `None`: no recipient has the address.
fn look_up(domains: &Domains, recipients: &dyn Recipients, mailbox: &Mailbox) -> Option<Resolution> {
    match recipients.by_address(&mailbox_key(mailbox)) {
        Err(LookupFailed(_)) => Some(Resolution::TryLater),
        Ok(None) => None,
        Ok(Some(entry)) => Some(match entry.mailbox_store.or_else(|| domains.default_store().cloned()) {
            Some(store) => Resolution::Mailbox { recipient: entry.name, store },
            None => Resolution::TryLater,
        }),
    }
}

fn postmaster(domains: &Domains, recipients: &dyn Recipients, given: Option<&Mailbox>) -> Resolution {
    if let Some(named) = domains.postmaster() {
        if domains.find(named.domain()).is_none() {
            return Resolution::Remote(named.clone());
        }
        if let Some(found) = look_up(domains, recipients, named) {
            return found;
        }
    }
    let at_default = domains.default_domain().map(|domain| Mailbox::new(POSTMASTER, domain.clone()));
    let at_default = at_default.and_then(Result::ok);
    let found = [given, at_default.as_ref().filter(|other| Some(*other) != given)]
        .into_iter()
        .flatten()
        .find_map(|mailbox| look_up(domains, recipients, mailbox));
    found.unwrap_or_else(|| match (POSTMASTER.parse(), domains.default_store()) {
        (Ok(recipient), Some(store)) => Resolution::Mailbox { recipient, store: store.clone() },
        _ => Resolution::TryLater,
    })
}

#[cfg(test)]
mod tests;
