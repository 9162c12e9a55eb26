//! What the directory knows about a recipient, and how it is asked.

use crate::model::name::Name;
use crate::model::recipient_ref::{RecipientRef, SenderPattern};
use crate::model::spec::RecipientSpec;
use crate::model::spec::recipient::RecipientType;
use crate::smtp::address::Mailbox;

/// What the directory knows about a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientEntry {
    /// Its name.
    pub name: Name,
    /// Its primary address; `None` when it was not asked for: a plain mailbox that was found by one of its addresses.
    pub primary: Option<Mailbox>,
    /// What it is.
    pub kind: EntryKind,
    /// Who may send to it, and how much.
    pub limits: Limits,
}

/// What a recipient is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A mailbox.
    Mailbox {
        /// Its mailbox store; `None` for the default one.
        store: Option<Name>,
        /// Where its mail goes on to.
        forward_to: Vec<RecipientRef>,
        /// It gets its mail itself, with or without a forward.
        keeps: bool,
    },
    /// Somebody elsewhere.
    Contact {
        /// Where its mail goes on to.
        forward_to: Vec<RecipientRef>,
    },
    /// A distribution group.
    Group {
        /// Who is in it.
        members: Vec<RecipientRef>,
        /// Who hears what could not be delivered.
        owner: Option<RecipientRef>,
    },
}

/// Who may send to a recipient, and how much.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Octets of a message.
    pub max_size: Option<u64>,
    /// Only these; empty for everybody.
    pub accept_from: Vec<SenderPattern>,
    /// Not these.
    pub reject_from: Vec<SenderPattern>,
}

/// The directory could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the directory cannot be read now: {0}")]
pub struct LookupFailed(pub String);

/// Recipients by address and by name.
pub trait Recipients: Send + Sync {
    /// The recipient who has this address, given as [`mailbox_key`](crate::model::host::mailbox_key).
    ///
    /// # Errors
    /// When it cannot be told now.
    fn by_address(&self, key: &str) -> Result<Option<RecipientEntry>, LookupFailed>;

    /// The recipient of this name.
    ///
    /// # Errors
    /// When it cannot be told now.
    fn by_name(&self, name: &Name) -> Result<Option<RecipientEntry>, LookupFailed>;
}

impl RecipientEntry {
    /// A mailbox that keeps its mail and takes everything.
    pub fn plain(name: Name, store: Option<Name>) -> Self {
        let kind = EntryKind::Mailbox { store, forward_to: Vec::new(), keeps: true };
        RecipientEntry { name, primary: None, kind, limits: Limits::default() }
    }

    /// What a spec says.
    pub fn of(name: Name, primary: Option<Mailbox>, spec: &RecipientSpec) -> Self {
        let kind = match spec.kind {
            RecipientType::Mailbox => EntryKind::Mailbox {
                store: spec.mailbox_store.clone(),
                forward_to: spec.forward_to.clone(),
                keeps: spec.forward_to.is_empty() || spec.deliver_and_forward,
            },
            RecipientType::Contact => EntryKind::Contact { forward_to: spec.forward_to.clone() },
            RecipientType::Group => EntryKind::Group { members: spec.members.clone(), owner: spec.owner.clone() },
        };
        let limits = Limits {
            max_size: spec.max_receive_size.map(|size| size.bytes()),
            accept_from: spec.accept_from.clone(),
            reject_from: spec.reject_from.clone(),
        };
        RecipientEntry { name, primary, kind, limits }
    }

    /// Whether a spec says no more than [`RecipientEntry::plain`] does.
    pub fn is_plain(spec: &RecipientSpec) -> bool {
        spec.kind == RecipientType::Mailbox
            && spec.forward_to.is_empty()
            && spec.max_receive_size.is_none()
            && spec.accept_from.is_empty()
            && spec.reject_from.is_empty()
    }

    /// The word for what it is.
    pub fn recipient_type(&self) -> RecipientType {
        match self.kind {
            EntryKind::Mailbox { .. } => RecipientType::Mailbox,
            EntryKind::Contact { .. } => RecipientType::Contact,
            EntryKind::Group { .. } => RecipientType::Group,
        }
    }
}
