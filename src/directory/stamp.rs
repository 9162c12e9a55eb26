//! Stamping: the addresses that a recipient gets from the policy that wins.
//!
//! Deterministic: the same policies, recipient, earlier addresses and other owners give the same result. Stable: a recipient
//! that has an address with a number keeps it, even when the one without has become free; stamping again changes nothing.
//! Addresses that a recipient once had stay as secondary ones as long as their domain is local, as in Exchange.

use std::collections::HashSet;
use std::sync::Arc;

use super::filter::{Subject, matches};
use crate::directory::{Domains, expand};
use crate::model::host::mailbox_key;
use crate::model::name::Name;
use crate::model::spec::recipient::StampedAddress;
use crate::model::spec::recipient_policy::Filter;
use crate::model::spec::{DEFAULT, RecipientPolicySpec, RecipientSpec};
use crate::model::template::Template;
use crate::smtp::address::Mailbox;

/// Numbers that are tried behind a local part that others have.
const MOST_NUMBERS: u32 = 10_000;
/// Addresses that a recipient keeps from earlier; the oldest goes first.
const MOST_KEPT: usize = 200;

/// The policies in the order in which they are asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policies(Arc<[(Name, RecipientPolicySpec)]>);

impl Policies {
    /// Puts policies in order: by priority, `default` last.
    pub fn new<'a>(policies: impl IntoIterator<Item = (&'a Name, &'a RecipientPolicySpec)>) -> Self {
        let mut ordered: Vec<_> = policies.into_iter().map(|(name, spec)| (name.clone(), spec.clone())).collect();
        ordered.sort_by_key(|(name, spec)| (name.as_str() == DEFAULT, spec.priority.unwrap_or(u32::MAX), name.clone()));
        Policies(ordered.into())
    }

    /// Whether it matters to one of them who is in which group.
    pub fn ask_for_groups(&self) -> bool {
        self.0.iter().any(|(_, policy)| policy.filter.as_ref().is_some_and(Filter::asks_for_groups))
    }

    /// The policies that name this group, each with the pointer to the first place where it does.
    pub fn naming(&self, group: &Name) -> impl Iterator<Item = (&Name, String)> {
        self.0.iter().filter_map(move |(name, policy)| {
            let named = policy.filter.as_ref()?.groups().into_iter().find(|(_, named)| *named == group)?;
            Some((name, format!("/spec/filter{}", named.0)))
        })
    }

    /// The first policy that matches the recipient.
    pub fn winner(&self, subject: Subject<'_>) -> Option<(&Name, &RecipientPolicySpec)> {
        let mut policies = self.0.iter();
        let won = policies.find(|(_, policy)| policy.filter.as_ref().is_none_or(|filter| matches(filter, subject)));
        won.map(|(name, policy)| (name, policy))
    }
}

/// What stamping gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stamp {
    /// The policy that won; `None` when none matches.
    pub policy: Option<Name>,
    /// The addresses: the primary one first, then the policy's others, the recipient's own, those kept from earlier.
    pub addresses: Vec<StampedAddress>,
}

/// Why a recipient cannot have its addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StampError<E> {
    /// Every number behind a local part belongs to somebody else.
    #[error("the template {template} of recipient policy {policy} gives no free address for this recipient")]
    NoAddress {
        /// The policy.
        policy: Name,
        /// The template.
        template: String,
    },
    /// One of the recipient's own addresses belongs to somebody else.
    #[error("{address} belongs to recipient {owner}")]
    Taken {
        /// Its place in `addresses`.
        index: usize,
        /// The address.
        address: Mailbox,
        /// Who has it.
        owner: Name,
    },
    /// The domain of one of the recipient's own addresses is not local.
    #[error("{address} is in no local domain: no recipient policy has {}", address.domain())]
    NotLocal {
        /// Its place in `addresses`.
        index: usize,
        /// The address.
        address: Mailbox,
    },
    /// It cannot be told who has an address.
    #[error(transparent)]
    Owner(E),
}

/// What a recipient was before.
#[derive(Debug, Clone, Default)]
pub struct Earlier {
    /// The addresses it had, without those that it gave itself.
    pub addresses: Vec<StampedAddress>,
    /// Its spec; `None` for a new one.
    pub spec: Option<RecipientSpec>,
}

/// The addresses of a recipient. `owner` tells which *other* recipient has an address (by key); `earlier` is what it
/// had: it is not asked about these. An address of a policy that another recipient has gets a number. When nothing is left of a template
/// (no given name, no surname), a secondary address is left out, and the primary one is made from the alias, else the name.
///
/// # Errors
/// The first thing that is wrong.
pub fn stamp<E>(
    policies: &Policies,
    domains: &Domains,
    subject: Subject<'_>,
    earlier: &Earlier,
    mut owner: impl FnMut(&str) -> Result<Option<Name>, E>,
) -> Result<Stamp, StampError<E>> {
    let Subject { name, spec: recipient, .. } = subject;
    let mut stamp = Stamp::default();
    // nobody else can have what it has: asking costs a read, and there may be a million of these
    let had: HashSet<String> = earlier.addresses.iter().map(|known| mailbox_key(&known.address)).collect();
    let mut owner = |key: &str| if had.contains(key) { Ok(None) } else { owner(key) };
    let add = |addresses: &mut Vec<StampedAddress>, address: Mailbox, primary: bool| {
        let key = mailbox_key(&address);
        match addresses.iter_mut().find(|known| mailbox_key(&known.address) == key) {
            Some(known) => known.primary |= primary,
            None => addresses.push(StampedAddress { address, primary }),
        }
    };
    if let Some((policy, spec)) = policies.winner(subject) {
        stamp.policy = Some(policy.clone());
        let primary_first =
            spec.addresses.iter().filter(|a| a.primary).chain(spec.addresses.iter().filter(|a| !a.primary));
        for made in primary_first {
            // a recipient without the names that the template asks for still needs a primary address
            let by_name = RecipientSpec::default();
            let alias = made.template.with_alias();
            let sources = [(&made.template, recipient), (&alias, recipient), (&alias, &by_name)];
            let Some((template, source)) = sources
                .into_iter()
                .take(if made.primary { 3 } else { 1 })
                .find(|(template, source)| expand(template, name, source, None).is_some())
            else {
                continue;
            };
            let mut free = keeps(template, name, source, earlier, made.primary);
            if let Some(kept) = &free
                && owner(&mailbox_key(kept)).map_err(StampError::Owner)?.is_some()
            {
                free = None;
            }
            let mut numbers = std::iter::once(None).chain((2..MOST_NUMBERS).map(Some));
            while let (None, Some(number)) = (&free, numbers.next()) {
                let Some(address) = expand(template, name, source, number) else { break };
                if owner(&mailbox_key(&address)).map_err(StampError::Owner)?.is_none() {
                    free = Some(address);
                }
            }
            let template = || made.template.to_string();
            let address = free.ok_or_else(|| StampError::NoAddress { policy: policy.clone(), template: template() })?;
            add(&mut stamp.addresses, address, made.primary);
        }
    }
    for (index, address) in recipient.addresses.iter().enumerate() {
        if domains.find(address.domain()).is_none() {
            return Err(StampError::NotLocal { index, address: address.clone() });
        }
        if let Some(owner) = owner(&mailbox_key(address)).map_err(StampError::Owner)? {
            return Err(StampError::Taken { index, address: address.clone(), owner });
        }
        add(&mut stamp.addresses, address.clone(), false);
    }
    let mut kept = Vec::new();
    for known in &earlier.addresses {
        let key = mailbox_key(&known.address);
        let again = stamp.addresses.iter().any(|address| mailbox_key(&address.address) == key);
        if !again && domains.find(known.address.domain()).is_some() && owner(&key).map_err(StampError::Owner)?.is_none()
        {
            kept.push(StampedAddress { address: known.address.clone(), primary: false });
        }
    }
    kept.truncate(MOST_KEPT);
    stamp.addresses.append(&mut kept);
    Ok(stamp)
}

/// The address with a number that the recipient has by this template already: the primary one, else the one with the lowest
/// number, unless it has the one without. Only as long as the template still makes the same of it: a new alias wants a new address.
fn keeps(
    template: &Template,
    name: &Name,
    source: &RecipientSpec,
    earlier: &Earlier,
    primary: bool,
) -> Option<Mailbox> {
    let plain = expand(template, name, source, None)?;
    let before = earlier.spec.as_ref()?;
    // the source may be the name alone, whatever the recipient is called
    let same = *source == RecipientSpec::default() || expand(template, name, before, None).as_ref() == Some(&plain);
    if !same {
        return None;
    }
    let numbered = earlier.addresses.iter().filter_map(|known| {
        let local = known.address.local();
        let digits = local.len() - local.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        // every tail of the digits may be the number
        (1..=digits.min(5)).find_map(|length| {
            let number: u32 = local[local.len() - length..].parse().ok()?;
            let made = (2..MOST_NUMBERS).contains(&number).then(|| expand(template, name, source, Some(number)))??;
            let stays = primary && known.primary;
            (mailbox_key(&made) == mailbox_key(&known.address)).then_some((!stays, number, made))
        })
    });
    let best = numbered.min_by_key(|(other, number, _)| (*other, *number));
    // it may have both: only as a primary address does a number go before the one without
    let has_plain = earlier.addresses.iter().any(|known| mailbox_key(&known.address) == mailbox_key(&plain));
    best.filter(|(other, ..)| !has_plain || !*other).map(|(_, _, made)| made)
}
