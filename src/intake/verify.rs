//! The rule `verifyRecipients` of a connector: whom a gateway takes mail for, before it has it.
//!
//! What cannot be told now is taken: the next hop refuses it later, and the sender has a report.

use super::Intake;
use super::admission::{Client, Refusal};
use crate::config::Snapshot;
use crate::model::queue_name::QueueName;
use crate::model::spec::connector::VerifyRecipients;
use crate::routing::callout::Existence;
use crate::smtp::address::ForwardPath;
use crate::smtp::reply::{EnhancedStatus, Reply};

/// The name of the rule.
pub(super) const RULE: &str = "verifyRecipients";

/// How the connector of this queue wants recipients verified.
pub(super) fn wanted(snapshot: &Snapshot, queue: &QueueName) -> VerifyRecipients {
    let connector = queue.connector().and_then(|name| snapshot.routes.connector(name));
    connector.map_or(VerifyRecipients::None, |connector| connector.spec.verify_recipients)
}

impl Client {
    /// Does the recipient exist, as far as the connector of its queue wants to know?
    ///
    /// # Errors
    /// 550 5.1.1 when it does not.
    pub async fn verify_recipient(
        &self,
        intake: &Intake,
        snapshot: &Snapshot,
        queue: &QueueName,
        path: &ForwardPath,
    ) -> Result<(), Refusal> {
        let ForwardPath::Mailbox(mailbox) = path else { return Ok(()) };
        let why = match wanted(snapshot, queue) {
            VerifyRecipients::None => return Ok(()),
            // one who is in the directory does not come as far as a connector
            VerifyRecipients::Directory if snapshot.domains.find(mailbox.domain()).is_some() => {
                format!("{mailbox} is not in the directory, and the connector takes nobody else")
            }
            VerifyRecipients::Directory => return Ok(()),
            VerifyRecipients::Callout => match intake.callout.exists(queue, &self.server.name, mailbox).await {
                Existence::Exists | Existence::Unclear(_) => return Ok(()),
                Existence::Unknown(said) => format!("the next hop was asked for {mailbox} and said {said}"),
            },
        };
        let reply = Reply::new(550, EnhancedStatus::permanent(1, 1), "No such recipient here");
        Err(Refusal::new(RULE, reply, why))
    }
}
