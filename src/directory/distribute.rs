//! From a recipient that stands for others to those who get the mail: groups, contacts, mailboxes that forward.
//!
//! One [`Distributor`] serves one message: groups may lie in each other and forwards may form a circle, and still each one is
//! looked at once, and nobody gets the message twice. It ends after a bounded number of steps. A member of a group by name
//! is written to by its primary address, one by address by that one.
//!
//! The reverse-path for a member is that of the innermost group with an owner (RFC 5321, 3.9.2); without one it stays the
//! sender's (RFC 5321, 3.9.1).

use std::collections::{HashMap, HashSet};

use super::Domains;
use super::entry::{EntryKind, LookupFailed, RecipientEntry, Recipients};
use super::resolve::{Found, find};
use crate::model::host::mailbox_key;
use crate::model::name::Name;
use crate::model::recipient_ref::RecipientRef;
use crate::smtp::address::{ForwardPath, Mailbox};

/// Most that one message goes to, all its recipients together.
pub const MOST_MEMBERS: usize = 100_000;
/// Most recipients that are looked at for one message.
pub const MOST_WALKED: usize = 300_000;

/// One who gets the mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The forward-path to write to.
    pub path: ForwardPath,
    /// The mailbox that gets the copy that stays; `None` for an address that is yet to be assigned.
    pub mailbox: Option<Name>,
    /// The owner of the list by which it is reached; `None`: the reverse-path stays.
    pub owner: Option<Mailbox>,
}

/// Why mail for a recipient cannot be distributed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDistributed {
    /// The directory cannot be read now.
    #[error(transparent)]
    Later(#[from] LookupFailed),
    /// It leads to nobody.
    #[error("the group has no members")]
    Nobody,
    /// It leads only back to itself.
    #[error("its forwards lead in a circle to nobody")]
    Loop,
    /// It leads to too many.
    #[error("it leads to more than {MOST_MEMBERS} recipients")]
    TooMany,
    /// It stands for nobody else (any more).
    #[error("it stands for nobody else")]
    NotOthers,
}

/// Distributes one message.
pub struct Distributor<'a> {
    domains: &'a Domains,
    recipients: &'a dyn Recipients,
    /// Mailboxes and addresses that get the message, by name or key.
    reached: HashSet<Key>,
    /// What was looked into, and in which walk.
    opened: HashMap<Name, usize>,
    walks: usize,
    steps: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Mailbox(Name),
    Address(String),
}

/// What is to be looked at.
enum Step {
    Name(Name),
    Address(Mailbox),
}

impl<'a> Distributor<'a> {
    /// For one message.
    pub fn new(domains: &'a Domains, recipients: &'a dyn Recipients) -> Self {
        let (reached, opened) = (HashSet::new(), HashMap::new());
        Distributor { domains, recipients, reached, opened, walks: 0, steps: 0 }
    }

    /// Says that this recipient of the message has it already, or gets it by itself.
    pub fn has(&mut self, path: &ForwardPath, mailbox: Option<&Name>) {
        match (mailbox, path) {
            (Some(name), _) => drop(self.reached.insert(Key::Mailbox(name.clone()))),
            (None, ForwardPath::Mailbox(mailbox)) => drop(self.reached.insert(Key::Address(mailbox_key(mailbox)))),
            (None, ForwardPath::Postmaster) => {}
        }
    }

    /// The members behind a recipient of the message that do not have it yet, in the order in which they stand.
    /// They count as having it from here on.
    ///
    /// # Errors
    /// Then nobody counts as having it.
    pub fn members(&mut self, path: &ForwardPath) -> Result<Vec<Member>, NotDistributed> {
        let Found::Entry { entry, .. } = find(self.domains, self.recipients, path)? else {
            return Err(NotDistributed::NotOthers);
        };
        self.walks += 1;
        let before = self.steps;
        let mut members = Vec::new();
        let walked = self.walk(entry, path, &mut members);
        if walked.is_err() {
            self.steps = before;
            self.opened.retain(|_, walk| *walk != self.walks);
            for member in &members {
                self.reached.remove(&key(member));
            }
        }
        walked.map(|()| members)
    }

    fn walk(
        &mut self,
        entry: RecipientEntry,
        path: &ForwardPath,
        members: &mut Vec<Member>,
    ) -> Result<(), NotDistributed> {
        let mut todo: Vec<(Step, Option<Mailbox>)> = Vec::new();
        let mut somebody = false;
        let mut circle = false;
        self.open(entry, Some(path.clone()), None, &mut todo, members, &mut somebody, &mut circle)?;
        while let Some((step, owner)) = todo.pop() {
            self.steps += 1;
            if self.steps > MOST_WALKED {
                return Err(NotDistributed::TooMany);
            }
            match step {
                Step::Name(name) => {
                    // one that was deleted is nobody
                    if let Some(entry) = self.recipients.by_name(&name)? {
                        self.open(entry, None, owner, &mut todo, members, &mut somebody, &mut circle)?;
                    }
                }
                Step::Address(mailbox) => {
                    let path = ForwardPath::Mailbox(mailbox);
                    match find(self.domains, self.recipients, &path)? {
                        Found::Entry { entry, .. } => {
                            self.open(entry, Some(path), owner, &mut todo, members, &mut somebody, &mut circle)?;
                        }
                        // whether the address exists is seen when it is assigned: it may come back
                        Found::Elsewhere(_) | Found::Nobody | Found::Postmaster => {
                            somebody = true;
                            self.reach(Member { path, mailbox: None, owner }, members);
                        }
                    }
                }
            }
            if self.reached.len() > MOST_MEMBERS {
                return Err(NotDistributed::TooMany);
            }
        }
        match (somebody, circle) {
            (true, _) => Ok(()),
            (false, true) => Err(NotDistributed::Loop),
            (false, false) => Err(NotDistributed::Nobody),
        }
    }

    /// Looks into one recipient. `somebody` and `circle` say whether the walk leads anywhere.
    #[allow(clippy::too_many_arguments, reason = "the state of one walk, in one place")]
    fn open(
        &mut self,
        entry: RecipientEntry,
        path: Option<ForwardPath>,
        owner: Option<Mailbox>,
        todo: &mut Vec<(Step, Option<Mailbox>)>,
        members: &mut Vec<Member>,
        somebody: &mut bool,
        circle: &mut bool,
    ) -> Result<(), NotDistributed> {
        let RecipientEntry { name, primary, kind, .. } = entry;
        if let EntryKind::Mailbox { keeps: true, .. } = kind
            && let Some(path) = path.or_else(|| primary.map(ForwardPath::Mailbox))
        {
            *somebody = true;
            self.reach(Member { path, mailbox: Some(name.clone()), owner: owner.clone() }, members);
        }
        let (further, owner) = match kind {
            EntryKind::Mailbox { forward_to, .. } if forward_to.is_empty() => return Ok(()),
            EntryKind::Mailbox { forward_to, .. } | EntryKind::Contact { forward_to } => (forward_to, owner),
            EntryKind::Group { members, owner: own } => {
                let own = own.map(|own| self.address_of(own)).transpose()?.flatten();
                (members, own.or(owner))
            }
        };
        match self.opened.get(&name) {
            Some(walk) if *walk == self.walks => *circle = true,
            // another recipient of the message led there
            Some(_) => *somebody = true,
            None => {
                self.opened.insert(name, self.walks);
                let steps = further.into_iter().rev().map(|next| match next {
                    RecipientRef::Name(name) => (Step::Name(name), owner.clone()),
                    RecipientRef::Address(mailbox) => (Step::Address(mailbox), owner.clone()),
                });
                todo.extend(steps);
            }
        }
        Ok(())
    }

    fn reach(&mut self, member: Member, members: &mut Vec<Member>) {
        if self.reached.insert(key(&member)) {
            members.push(member);
        }
    }

    fn address_of(&self, owner: RecipientRef) -> Result<Option<Mailbox>, LookupFailed> {
        match owner {
            RecipientRef::Address(mailbox) => Ok(Some(mailbox)),
            RecipientRef::Name(name) => Ok(self.recipients.by_name(&name)?.and_then(|entry| entry.primary)),
        }
    }
}

fn key(member: &Member) -> Key {
    match (&member.mailbox, &member.path) {
        (Some(name), _) => Key::Mailbox(name.clone()),
        (None, ForwardPath::Mailbox(mailbox)) => Key::Address(mailbox_key(mailbox)),
        (None, ForwardPath::Postmaster) => Key::Address(String::new()),
    }
}
