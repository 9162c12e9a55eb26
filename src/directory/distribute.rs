//! From a recipient that stands for others to those who get the mail: groups, contacts, mailboxes that forward.
//!
//! One [`Distributor`] serves one message: groups may lie in each other and forwards may form a circle, and still each one is
//! looked at once, and nobody gets the message twice. It ends after a bounded number of steps. A member of a group by name
//! is written to by its primary address, one by address by that one.
//!
//! The reverse-path for a member is that of the innermost group with an owner (RFC 5321, 3.9.2); without one it stays the
//! sender's (RFC 5321, 3.9.1).
//!
//! Everybody on the way has its own restrictions, and they hold for the sender who wrote: who refuses him gets no copy, a
//! group that refuses him is not looked into (Exchange asks them too). The recipient that the message names was asked when
//! it was handed in.

use std::collections::{HashMap, HashSet};

use super::Domains;
use super::entry::{EntryKind, LookupFailed, RecipientEntry, Recipients};
use super::resolve::{Found, find};
use super::restrict::{Restriction, Sender};
use crate::model::host::mailbox_key;
use crate::model::name::Name;
use crate::model::recipient_ref::RecipientRef;
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};

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

/// One who is reached and does not take the mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnedAway {
    /// Its forward-path.
    pub path: ForwardPath,
    /// The owner of the list by which it is reached; see [`Member::owner`].
    pub owner: Option<Mailbox>,
    /// Why.
    pub restriction: Restriction,
}

/// Who is behind a recipient that stands for others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reached {
    /// Those who get the mail, in the order in which they stand.
    pub members: Vec<Member>,
    /// Those who do not take it.
    pub turned_away: Vec<TurnedAway>,
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
    sender: Sender<'a>,
    /// Recipients and addresses that get the message, or are told of as turned away, by name or key.
    reached: HashSet<Key>,
    /// What was looked into, and in which walk.
    opened: HashMap<Name, usize>,
    walks: usize,
    steps: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Recipient(Name),
    Address(String),
}

/// What is to be looked at.
enum Step {
    Name(Name),
    Address(Mailbox),
}

/// What one walk has found so far.
#[derive(Default)]
struct Walk {
    todo: Vec<(Step, Option<Mailbox>)>,
    found: Reached,
    /// What it added to those who are reached.
    new: Vec<Key>,
    /// It leads to somebody, or back to itself.
    somebody: bool,
    circle: bool,
}

impl<'a> Distributor<'a> {
    /// For one message, with its reverse-path and its octets of content.
    pub fn new(domains: &'a Domains, recipients: &'a dyn Recipients, sender: &'a ReversePath, size: u64) -> Self {
        let sender = Sender::new(domains, recipients, sender, size);
        let (reached, opened) = (HashSet::new(), HashMap::new());
        Distributor { domains, recipients, sender, reached, opened, walks: 0, steps: 0 }
    }

    /// Says that this recipient of the message has it already, or gets it by itself. True when that is new.
    pub fn has(&mut self, path: &ForwardPath, mailbox: Option<&Name>) -> bool {
        self.reached.insert(key(path, mailbox))
    }

    /// Who is behind a recipient of the message and was not reached yet. They count as reached from here on.
    ///
    /// # Errors
    /// Then nobody counts as reached.
    pub fn members(&mut self, path: &ForwardPath) -> Result<Reached, NotDistributed> {
        let Found::Entry { entry, .. } = find(self.domains, self.recipients, path)? else {
            return Err(NotDistributed::NotOthers);
        };
        self.walks += 1;
        let before = self.steps;
        let mut walk = Walk::default();
        let opened = self.open(entry, Some(path.clone()), None, &mut walk).map_err(NotDistributed::from);
        let walked = opened.and_then(|()| self.walk(&mut walk));
        if walked.is_err() {
            self.steps = before;
            self.opened.retain(|_, at| *at != self.walks);
            for key in &walk.new {
                self.reached.remove(key);
            }
        }
        walked.map(|()| walk.found)
    }

    fn walk(&mut self, walk: &mut Walk) -> Result<(), NotDistributed> {
        while let Some((step, owner)) = walk.todo.pop() {
            self.steps += 1;
            if self.steps > MOST_WALKED {
                return Err(NotDistributed::TooMany);
            }
            match step {
                Step::Name(name) => {
                    // one that was deleted is nobody
                    if let Some(entry) = self.recipients.by_name(&name)? {
                        self.enter(entry, None, true, owner, walk)?;
                    }
                }
                Step::Address(mailbox) => {
                    let path = ForwardPath::Mailbox(mailbox);
                    match find(self.domains, self.recipients, &path)? {
                        Found::Entry { entry, restricted } => {
                            self.enter(entry, Some(path), restricted, owner, walk)?;
                        }
                        // whether the address exists is seen when it is assigned: it may come back
                        Found::Elsewhere(_) | Found::Nobody | Found::Postmaster => {
                            walk.somebody = true;
                            self.reach(Member { path, mailbox: None, owner }, walk);
                        }
                    }
                }
            }
            if self.reached.len() > MOST_MEMBERS {
                return Err(NotDistributed::TooMany);
            }
        }
        match (walk.somebody, walk.circle) {
            (true, _) => Ok(()),
            (false, true) => Err(NotDistributed::Loop),
            (false, false) => Err(NotDistributed::Nobody),
        }
    }

    /// Looks into a recipient on the way, unless that refuses the sender.
    fn enter(
        &mut self,
        entry: RecipientEntry,
        path: Option<ForwardPath>,
        restricted: bool,
        owner: Option<Mailbox>,
        walk: &mut Walk,
    ) -> Result<(), LookupFailed> {
        let restriction = if restricted { self.sender.restriction(&entry)? } else { None };
        let Some(restriction) = restriction else { return self.open(entry, path, owner, walk) };
        walk.somebody = true;
        let key = Key::Recipient(entry.name);
        if let Some(path) = path.or_else(|| entry.primary.map(ForwardPath::Mailbox))
            && self.reached.insert(key.clone())
        {
            walk.new.push(key);
            walk.found.turned_away.push(TurnedAway { path, owner, restriction });
        }
        Ok(())
    }

    /// Looks into a recipient.
    fn open(
        &mut self,
        entry: RecipientEntry,
        path: Option<ForwardPath>,
        owner: Option<Mailbox>,
        walk: &mut Walk,
    ) -> Result<(), LookupFailed> {
        let RecipientEntry { name, primary, kind, .. } = entry;
        if let EntryKind::Mailbox { keeps: true, .. } = kind
            && let Some(path) = path.or_else(|| primary.map(ForwardPath::Mailbox))
        {
            walk.somebody = true;
            self.reach(Member { path, mailbox: Some(name.clone()), owner: owner.clone() }, walk);
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
            Some(at) if *at == self.walks => walk.circle = true,
            // another recipient of the message led there
            Some(_) => walk.somebody = true,
            None => {
                self.opened.insert(name, self.walks);
                let steps = further.into_iter().rev().map(|next| match next {
                    RecipientRef::Name(name) => (Step::Name(name), owner.clone()),
                    RecipientRef::Address(mailbox) => (Step::Address(mailbox), owner.clone()),
                });
                walk.todo.extend(steps);
            }
        }
        Ok(())
    }

    fn reach(&mut self, member: Member, walk: &mut Walk) {
        let key = key(&member.path, member.mailbox.as_ref());
        if self.reached.insert(key.clone()) {
            walk.new.push(key);
            walk.found.members.push(member);
        }
    }

    fn address_of(&self, owner: RecipientRef) -> Result<Option<Mailbox>, LookupFailed> {
        match owner {
            RecipientRef::Address(mailbox) => Ok(Some(mailbox)),
            RecipientRef::Name(name) => Ok(self.recipients.by_name(&name)?.and_then(|entry| entry.primary)),
        }
    }
}

fn key(path: &ForwardPath, mailbox: Option<&Name>) -> Key {
    match (mailbox, path) {
        (Some(name), _) => Key::Recipient(name.clone()),
        (None, ForwardPath::Mailbox(mailbox)) => Key::Address(mailbox_key(mailbox)),
        (None, ForwardPath::Postmaster) => Key::Address(String::new()),
    }
}
