//! Configuration: from what somebody wrote to what is in force.
//!
//! The way of a change, of one object ([`change`]) or of many: the body is held against the collection's schema
//! ([`schema`], of the document in [`openapi`]) → merged with the object that is there → planned ([`plan`]): compiled with everything else ([`compile`]; all
//! violations at once), shown to the preflights (can this port be bound?), drafted → committed to the store with its audit
//! entry and what it takes to go back ([`history`]), compare-and-set on the revision → published ([`live`]). What fails
//! before the commit leaves everything as it was.
//!
//! In the store, as JSON under text keys:
//!
//! | key | what |
//! |---|---|
//! | `object/<collection>/<name>` | an object ([`object::Record`]) |
//! | `address/<mailbox key>` | which recipient has the address, and its mailbox store |
//! | `revision/…`, `revision-part/…` | what it takes to go back ([`history`]) |
//! | `audit/<revision>` | who changed what, when, from what to what; the last 10,000 |
//! | `action/<number>` | who did what else, when; the last 10,000 ([`audit`]) |
//! | `secret/first-key` | the SHA-256 of the first owner key |
//! | `secret/fingerprint-key` | the key under which secrets have their fingerprints ([`secrets`]) |
//!
//! A [`Snapshot`] holds everything but recipients: these are looked up in the store ([`StoredRecipients`]), so that a
//! million of them cost no memory. Their addresses are written in the same commit as the change that gives them
//! (`stamping`), however many there are; a dry run tells which ([`Effects`]).

pub mod answer;
pub mod apply;
pub mod audit;
mod authority;
pub mod certificates;
pub mod change;
mod client_list;
mod commit;
pub mod compile;
mod configuration;
mod difference;
pub mod directory;
pub mod document;
pub mod document_schema;
pub mod domain_view;
mod effects;
pub mod export;
pub mod filters;
mod first_start;
mod groups;
pub mod history;
pub mod import;
pub mod keys;
pub mod live;
pub mod object;
pub mod openapi;
mod passwords;
mod places;
mod plan;
pub mod preview;
mod queued_mail;
pub mod read;
mod recipient_set;
mod recipients;
mod records;
mod references;
mod refusal;
pub mod revisions;
pub mod schema;
pub mod secrets;
pub mod snapshot;
mod stamping;
pub mod strict;
pub mod violation;
pub mod watching;

pub use answer::{Actor, ChangeError, ChangeKind, IfMatch, Outcome, OwnedObject, Precondition, Reference};
pub use audit::{ActionId, AuditFilter, AuditPage, AuditPosition};
pub use authority::Authority;
pub use certificates::{Certificate, Fault};
pub use change::WriteMode;
pub use client_list::{ClientList, Peer};
pub use configuration::{Configuration, OpenError, OpenOptions, Preflight};
pub use directory::Files;
pub use effects::{Effects, RecipientEffect, RecipientEffects};
pub use first_start::FirstStart;
pub use live::Live;
pub use object::Object;
pub use queued_mail::{MailMove, QueuedMail, QueuedMailEffects};
pub use read::Page;
pub use recipients::StoredRecipients;
pub use secrets::{Kept, Vault};
pub use snapshot::{EventSink, MailboxStore, Snapshot, VirtualServer, dequeue_connector};
pub use violation::{Violation, ViolationCode, Warning, WarningCode};
