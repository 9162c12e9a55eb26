//! How much may come in, and for whom nothing: quotas and the suppression list, the same at every door.
//!
//! A message counts at MAIL, a recipient at RCPT, for all who are limited: the account, the API key, and the domain of the
//! reverse-path (`settings.senderQuotas`); what is not taken in the end counts for nobody. What is brought in from
//! an old mailroot is the operator's doing and has no quota.

use super::admission::RECIPIENTS_PER_MESSAGE;
use super::door::{Door, Sender};
use super::{Intake, Refusal};
use crate::accounts::{Account, Charge, Limited, OverQuota, Subject, What};
use crate::config::Snapshot;
use crate::model::failure::{Failure, Scope};
use crate::model::host::domain_key;
use crate::model::pattern::AddressPattern;
use crate::model::spec::limits::SenderQuota;
use crate::model::time::Timestamp;
use crate::smtp::address::{Domain, ForwardPath, ReversePath};
use crate::smtp::reply::{EnhancedStatus, Reply, StatusClass};

/// Counts a message.
///
/// # Errors
/// 452 when somebody concerned has sent as many as he may.
pub(super) fn count_message(
    intake: &Intake,
    snapshot: &Snapshot,
    sender: &Sender,
    reverse_path: &ReversePath,
) -> Result<Charge, Refusal> {
    let limited = of_sender(snapshot, sender, reverse_path);
    let mut charge = Charge::new(intake.quotas.clone());
    charge.add(What::Messages, &limited, intake.clock.now()).map_err(|over| over_quota(&over))?;
    Ok(charge)
}

/// Counts a recipient of a message that has `before` others.
///
/// # Errors
/// 452 when somebody concerned has sent to as many as he may, or the message has as many as it may.
pub(super) fn count_recipient(
    intake: &Intake,
    snapshot: &Snapshot,
    sender: &Sender,
    reverse_path: &ReversePath,
    before: usize,
    charge: &mut Charge,
) -> Result<(), Refusal> {
    let limited = of_sender(snapshot, sender, reverse_path);
    for of in &limited {
        if of.quotas.recipients_per_message.is_some_and(|most| before >= most as usize) {
            let reply = Reply::new(452, EnhancedStatus::transient(5, 3), "Too many recipients, send the rest apart");
            let detail = format!("{}: recipientsPerMessage is reached", of.subject);
            return Err(Refusal::new(RECIPIENTS_PER_MESSAGE, reply, detail));
        }
    }
    charge.add(What::Recipients, &limited, intake.clock.now()).map_err(|over| over_quota(&over))
}

/// What `explain` says of the quotas of a client, if it has any.
pub(super) fn judged(
    intake: &Intake,
    snapshot: &Snapshot,
    account: Option<&Account>,
    reverse_path: &ReversePath,
) -> Option<Result<(), Refusal>> {
    let limited: Vec<_> = of_account(account).into_iter().chain(of_domain(snapshot, reverse_path)).collect();
    if limited.is_empty() {
        return None;
    }
    let over = intake.quotas.is_used_up(&limited, intake.clock.now());
    Some(over.map_or(Ok(()), |over| Err(over_quota(&over))))
}

/// May this recipient be written to, as far as the suppression list says?
///
/// # Errors
/// 550 when it is on the list; 451 when the list cannot be read now.
pub(super) fn admit_unsuppressed(intake: &Intake, path: &ForwardPath, is_local: bool) -> Result<(), Refusal> {
    let ForwardPath::Mailbox(mailbox) = path else { return Ok(()) };
    let now = Timestamp::from_millis(intake.clock.unix_millis());
    match intake.queue.suppressions().find(mailbox, is_local, now) {
        Ok(None) => Ok(()),
        Ok(Some(found)) => {
            let words = "The recipient is on the suppression list of this server";
            let reply = Reply::new(550, EnhancedStatus::permanent(7, 1), words);
            let reason = found.reason.map_or_else(String::new, |reason| format!(": {reason}"));
            Err(Refusal::new("suppression", reply, format!("{path} is suppressed by {}{reason}", found.address)))
        }
        Err(error) => {
            let reply = Reply::new(451, EnhancedStatus::transient(3, 0), "Local error, try again later");
            Err(Refusal::new("suppression", reply, format!("the suppression list cannot be read: {error}")))
        }
    }
}

impl Refusal {
    /// Whether trying again is of no use.
    pub fn is_permanent(&self) -> bool {
        self.reply.code >= 500
    }

    /// What it means for a recipient of a message that is taken all the same.
    pub(super) fn failure(&self) -> Failure {
        let status = self.reply.status.filter(|status| status.class == StatusClass::Permanent);
        Failure::new(Scope::Recipient, status.unwrap_or(EnhancedStatus::permanent(0, 0)), self.reply.text.clone())
    }
}

fn over_quota(over: &OverQuota) -> Refusal {
    // whole seconds, and not one too early
    let seconds = over.retry_after.as_secs() + 1;
    let words = format!("You have sent as much as you may for now, come again in {seconds} seconds");
    let reply = Reply::new(452, EnhancedStatus::transient(7, 1), words);
    Refusal { retry_after: Some(over.retry_after), ..Refusal::new("quotas", reply, over.to_string()) }
}

fn of_sender<'a>(snapshot: &'a Snapshot, sender: &'a Sender, reverse_path: &ReversePath) -> Vec<Limited<'a>> {
    let own = match &sender.door {
        Door::Import => return Vec::new(),
        Door::Rest { by, .. } => Some(Limited { subject: Subject::ApiKey(by.api_key.clone()), quotas: &by.quotas }),
        Door::Smtp { .. } | Door::Pickup => of_account(sender.client.account.as_deref()),
    };
    own.into_iter().chain(of_domain(snapshot, reverse_path)).collect()
}

fn of_account(account: Option<&Account>) -> Option<Limited<'_>> {
    account.map(|account| Limited { subject: Subject::Account(account.name.clone()), quotas: &account.quotas })
}

fn of_domain<'a>(snapshot: &'a Snapshot, reverse_path: &ReversePath) -> Option<Limited<'a>> {
    let quotas = &snapshot.settings.sender_quotas;
    // nearly nobody has any
    if quotas.is_empty() {
        return None;
    }
    let domain = reverse_path.mailbox()?.domain();
    let quota = most_specific(quotas, domain)?;
    Some(Limited { subject: Subject::SenderDomain(domain_key(domain).into_owned()), quotas: &quota.quotas })
}

fn most_specific<'a>(quotas: &'a [SenderQuota], domain: &Domain) -> Option<&'a SenderQuota> {
    let specific = |quota: &&SenderQuota| match &quota.domain {
        AddressPattern::Any => 0,
        AddressPattern::Below(parent) => domain_key(parent).len(),
        AddressPattern::Exact(_) => usize::MAX,
    };
    quotas.iter().filter(|quota| quota.domain.matches(domain)).max_by_key(specific)
}
