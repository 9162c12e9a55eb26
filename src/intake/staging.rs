//! Staging: a virtual server that must not reach real people redirects their mail, or refuses it.
//!
//! Who is allowed gets mail as ever. What a client may do is judged by the recipient that it named; where the mail goes then
//! the operator has chosen. The recipient that was named stays in ORCPT.

use super::Intake;
use super::admission::Refusal;
use crate::config::{Snapshot, VirtualServer};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::queue::{self, Assignment};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::parameters::{OriginalRecipient, RcptParameters};
use crate::smtp::reply::{EnhancedStatus, Reply};

/// Who gets the mail instead; `None`: the recipient does.
///
/// # Errors
/// 550 when nobody shall.
pub(super) fn apply(server: &VirtualServer, path: &ForwardPath) -> Result<Option<ForwardPath>, Refusal> {
    let (Some(staging), ForwardPath::Mailbox(mailbox)) = (&server.spec.staging, path) else { return Ok(None) };
    if staging.allow.iter().any(|pattern| pattern.matches(mailbox)) {
        return Ok(None);
    }
    match &staging.redirect_to {
        Some(instead) if instead == mailbox => Ok(None),
        Some(instead) => Ok(Some(ForwardPath::Mailbox(instead.clone()))),
        None => {
            let reply = Reply::new(550, EnhancedStatus::permanent(7, 1), "This system sends no mail to this recipient");
            let detail = format!("{path} is not in staging.allow, and staging.redirectTo is not set");
            Err(Refusal::new("staging", reply, detail))
        }
    }
}

/// Keeps the recipient that was named, unless the client has told an original one itself (RFC 3461, 4.2).
pub(super) fn remember(named: &ForwardPath, parameters: &mut RcptParameters) {
    let named = named.to_string();
    let address_type = if named.is_ascii() { "rfc822" } else { "utf-8" }.to_owned();
    parameters.orcpt.get_or_insert(OriginalRecipient { address_type, address: named });
}

/// Where the one who gets the mail instead waits.
///
/// # Errors
/// 451 when nobody can tell, 550 when there is no such one.
pub(super) fn assign(
    intake: &Intake,
    snapshot: &Snapshot,
    sender: &ReversePath,
    instead: &ForwardPath,
    spread: u64,
) -> Result<(QueueName, Option<Name>), Refusal> {
    match queue::assign(snapshot, &*intake.recipients, instead, sender, 0, spread) {
        Assignment::Queue(queue, name) => Ok((queue, name)),
        Assignment::Unknown => {
            let reply = Reply::new(550, EnhancedStatus::permanent(1, 1), "No such recipient here");
            Err(Refusal::new("staging", reply, format!("staging.redirectTo, {instead}, does not exist")))
        }
        Assignment::TryLater => {
            let reply = Reply::new(451, EnhancedStatus::transient(3, 0), "Local error, try again later");
            Err(Refusal::new("directory", reply, "the directory cannot be read now"))
        }
    }
}
