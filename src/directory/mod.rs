//! Who is meant: recipient policies say which domains are local and which addresses recipients have; [`resolve`] says
//! who a forward-path is.
//!
//! [`Domains`] is a small table, built from the policies. Recipients are not in it: they are asked for by key
//! ([`Recipients`]), a few look-ups for a forward-path, so that a million of them cost nothing.
//!
//! [`resolve`] is asked at RCPT, at submission and by `explain`, with the same envelope, and gives the same answer. Who
//! stands for others (a group, a contact, a mailbox that forwards) is one answer there; who the others are is found out
//! behind acceptance, once for a message, by a [`Distributor`].
//!
//! [`suppressions`] is the list of those who must not be written to.

mod distribute;
mod domains;
mod entry;
mod expand;
mod filter;
mod resolve;
mod restrict;
mod stamp;
pub mod suppressions;

pub use distribute::{Distributor, MOST_MEMBERS, MOST_WALKED, Member, NotDistributed, Reached, TurnedAway};
pub use domains::{Authority, Domains, DomainsError, LocalDomain};
pub use entry::{EntryKind, Limits, LookupFailed, RecipientEntry, Recipients};
pub use expand::expand;
pub use filter::{Subject, matches};
pub use resolve::{Envelope, Resolution, resolve, resolve_taken};
pub use restrict::{Restriction, is_among};
pub use stamp::{Earlier, Policies, Stamp, StampError, stamp};

#[cfg(test)]
mod tests;
