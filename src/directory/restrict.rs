//! Whether a sender may write to a recipient: its size limit, `rejectFrom`, `acceptFrom`.
//!
//! The sender is the reverse-path. The null reverse-path is a notification: it reaches mailboxes and contacts whatever
//! `acceptFrom` says, as they have sent mail themselves, and a group only when that has no `acceptFrom`.

use std::collections::HashSet;

use super::entry::{EntryKind, LookupFailed, RecipientEntry, Recipients};
use super::resolve::{Envelope, who_has};
use super::{Domains, MOST_WALKED};
use crate::model::host::mailbox_key;
use crate::model::name::Name;
use crate::model::recipient_ref::{RecipientRef, SenderPattern};
use crate::smtp::address::{Mailbox, ReversePath};

/// Why a recipient may not be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Restriction {
    /// The message is larger than its `maxReceiveSize`.
    #[error("the recipient takes no message of more than {most} bytes (maxReceiveSize)")]
    TooLarge {
        /// What it takes, in octets.
        most: u64,
    },
    /// `acceptFrom` and `rejectFrom` leave this sender out.
    #[error("the recipient takes no mail from this sender (acceptFrom, rejectFrom)")]
    Sender,
}

/// What speaks against this envelope.
pub(super) fn restriction(
    domains: &Domains,
    recipients: &dyn Recipients,
    entry: &RecipientEntry,
    envelope: &Envelope<'_>,
) -> Result<Option<Restriction>, LookupFailed> {
    let limits = &entry.limits;
    if let Some(most) = limits.max_size.filter(|most| envelope.size > *most) {
        return Ok(Some(Restriction::TooLarge { most }));
    }
    let allowed = match envelope.sender {
        ReversePath::Null => limits.accept_from.is_empty() || !matches!(entry.kind, EntryKind::Group { .. }),
        ReversePath::Mailbox(sender) => {
            let among = |patterns: &[SenderPattern]| is_among(domains, recipients, patterns, sender);
            !among(&limits.reject_from)? && (limits.accept_from.is_empty() || among(&limits.accept_from)?)
        }
    };
    Ok((!allowed).then_some(Restriction::Sender))
}

/// Whether a sender is one of these: by its address, or as a recipient or a member of a group that is named.
///
/// # Errors
/// When the directory cannot be read now.
pub fn is_among(
    domains: &Domains,
    recipients: &dyn Recipients,
    patterns: &[SenderPattern],
    sender: &Mailbox,
) -> Result<bool, LookupFailed> {
    if patterns.iter().any(|pattern| pattern.covers(sender)) {
        return Ok(true);
    }
    let mut names: Vec<Name> = patterns
        .iter()
        .filter_map(|pattern| match pattern {
            SenderPattern::Recipient(name) => Some(name.clone()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        return Ok(false);
    }
    let local = domains.find(sender.domain()).is_some();
    let own = if local { who_has(domains, recipients, sender)?.map(|entry| entry.name) } else { None };
    let key = mailbox_key(sender);
    let mut seen = HashSet::new();
    while let Some(name) = names.pop() {
        if own.as_ref() == Some(&name) {
            return Ok(true);
        }
        if seen.len() >= MOST_WALKED || !seen.insert(name.clone()) {
            continue;
        }
        let (members, elsewhere) = match recipients.by_name(&name)?.map(|entry| entry.kind) {
            Some(EntryKind::Group { members, .. }) => (members, Vec::new()),
            // a contact writes from where its mail goes
            Some(EntryKind::Contact { forward_to }) => (Vec::new(), forward_to),
            _ => continue,
        };
        for member in members.into_iter().chain(elsewhere) {
            match member {
                RecipientRef::Name(name) => names.push(name),
                RecipientRef::Address(mailbox) if mailbox_key(&mailbox) == key => return Ok(true),
                RecipientRef::Address(_) => {}
            }
        }
    }
    Ok(false)
}
