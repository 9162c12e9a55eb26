//! Whether a sender may write to a recipient: its size limit, `rejectFrom`, `acceptFrom`.
//!
//! The sender is the reverse-path. The null reverse-path is a notification: it reaches mailboxes and contacts whatever
//! `acceptFrom` says, as they have sent mail themselves, and a group only when that has no `acceptFrom`.
//!
//! Whether a sender is in a group is found out from the group downwards. One [`Sender`] asks for all recipients of a message:
//! who was looked into for one of them is not looked into again, so that a message to many members with restrictions costs
//! at most one look at each recipient that these name, and [`MOST_WALKED`] of them. Whoever is not found by then counts as
//! not in the group.

use std::collections::HashMap;

use super::entry::{EntryKind, LookupFailed, RecipientEntry, Recipients};
use super::resolve::who_has;
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

/// The sender of one message, held against the restrictions of its recipients.
pub(super) struct Sender<'a> {
    domains: &'a Domains,
    recipients: &'a dyn Recipients,
    path: &'a ReversePath,
    /// Octets of content.
    size: u64,
    /// Who it is in the directory; `None` as long as nobody asked.
    own: Option<Option<Name>>,
    /// Whether it is a recipient, or in it, for those that were looked at.
    is_in: HashMap<Name, bool>,
    looked: usize,
}

impl<'a> Sender<'a> {
    /// Of a message of this size.
    pub fn new(domains: &'a Domains, recipients: &'a dyn Recipients, path: &'a ReversePath, size: u64) -> Self {
        Sender { domains, recipients, path, size, own: None, is_in: HashMap::new(), looked: 0 }
    }

    /// What speaks against its writing to this recipient.
    pub fn restriction(&mut self, entry: &RecipientEntry) -> Result<Option<Restriction>, LookupFailed> {
        let limits = &entry.limits;
        if let Some(most) = limits.max_size.filter(|most| self.size > *most) {
            return Ok(Some(Restriction::TooLarge { most }));
        }
        let allowed = match self.path {
            ReversePath::Null => limits.accept_from.is_empty() || !matches!(entry.kind, EntryKind::Group { .. }),
            ReversePath::Mailbox(sender) => {
                !self.is_among(&limits.reject_from, sender)?
                    && (limits.accept_from.is_empty() || self.is_among(&limits.accept_from, sender)?)
            }
        };
        Ok((!allowed).then_some(Restriction::Sender))
    }

    fn is_among(&mut self, patterns: &[SenderPattern], sender: &Mailbox) -> Result<bool, LookupFailed> {
        if patterns.iter().any(|pattern| pattern.covers(sender)) {
            return Ok(true);
        }
        for pattern in patterns {
            if let SenderPattern::Recipient(name) = pattern
                && self.is_in(name, sender)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the sender is this recipient, or in it.
    fn is_in(&mut self, root: &Name, sender: &Mailbox) -> Result<bool, LookupFailed> {
        let own = self.own(sender)?;
        let key = mailbox_key(sender);
        // each with the group that led there
        let mut seen: HashMap<Name, Option<Name>> = HashMap::from([(root.clone(), None)]);
        let mut todo = vec![root.clone()];
        let mut found = None;
        'walk: while let Some(name) = todo.pop() {
            match self.is_in.get(&name) {
                Some(true) => {
                    found = Some(name);
                    break;
                }
                Some(false) => continue,
                None if own.as_ref() == Some(&name) => {
                    found = Some(name);
                    break;
                }
                None => {}
            }
            self.looked += 1;
            if self.looked > MOST_WALKED {
                return Ok(false);
            }
            let members = match self.recipients.by_name(&name)?.map(|entry| entry.kind) {
                // a contact writes from where its mail goes
                Some(EntryKind::Contact { forward_to }) => forward_to,
                Some(EntryKind::Group { members, .. }) => members,
                _ => continue,
            };
            for member in members {
                match member {
                    RecipientRef::Name(member) => {
                        seen.entry(member.clone()).or_insert_with(|| {
                            todo.push(member);
                            Some(name.clone())
                        });
                    }
                    RecipientRef::Address(mailbox) if mailbox_key(&mailbox) == key => {
                        found = Some(name);
                        break 'walk;
                    }
                    RecipientRef::Address(_) => {}
                }
            }
        }
        let is_in = found.is_some();
        if is_in {
            // nothing is known of the others on the way
            while let Some(name) = found {
                found = seen.remove(&name).flatten();
                self.is_in.insert(name, true);
            }
        } else {
            self.is_in.extend(seen.into_keys().map(|name| (name, false)));
        }
        Ok(is_in)
    }

    fn own(&mut self, sender: &Mailbox) -> Result<Option<Name>, LookupFailed> {
        if self.own.is_none() {
            let local = self.domains.find(sender.domain()).is_some();
            let own = if local { who_has(self.domains, self.recipients, sender)? } else { None };
            self.own = Some(own.map(|entry| entry.name));
        }
        Ok(self.own.clone().flatten())
    }
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
    let path = ReversePath::Mailbox(sender.clone());
    Sender::new(domains, recipients, &path, 0).is_among(patterns, sender)
}
