//! Dead letters on their way again: as they are, or with other recipients.
//!
//! **As they are**: the recipients in the dead-letter queue wait for delivery as if they had just come: no attempt counts, no failure is
//! remembered, and the time until they expire begins anew. The message keeps its id, and is not frozen any more.
//!
//! **With other recipients**: a new message with the same content goes to these, and the dead letters end, in one atomic record: there is no
//! moment at which both or neither exist. Recipients of the old message that are no dead letters are not touched.

use super::actions::{EVERYBODY, Whom, concerned};
use super::assign::{Sending, assign_own};
use super::conclusion::Conclusion;
use super::operate::ActionError;
use super::outcome::{Facts, Persistence};
use super::scheduler::waiting_here;
use super::{Assignment, Queue};
use crate::model::mail::{Message, MessageId, Recipient, RecipientStatus, Waits};
use crate::model::queue_name::QueueName;
use crate::smtp::address::ForwardPath;
use crate::smtp::parameters::{MailParameters, RcptParameters};
use crate::store::{Caused, Content, Leased, StoreError};

/// Most recipients of the message that takes the place of dead letters.
pub const MOST_RECIPIENTS: usize = 1_000;

/// Why a message was not sent on its way again.
#[derive(Debug, thiserror::Error)]
pub enum ResubmitError {
    /// None of its recipients is in the dead-letter queue.
    #[error("none of its recipients is in the dead-letter queue")]
    NotDead,
    /// These recipients, by their places in the list, cannot be written to, and why.
    #[error("some of the recipients cannot be written to")]
    Recipients(Vec<(usize, String)>),
    /// Its content was lost to damage.
    #[error("its content is damaged: {0}")]
    Damaged(String),
    /// As with any action.
    #[error(transparent)]
    Action(#[from] ActionError),
}

impl From<StoreError> for ResubmitError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged(what) => ResubmitError::Damaged(what),
            other => ResubmitError::Action(other.into()),
        }
    }
}

impl Queue {
    /// Sends those dead letters of a message on their way again, as they are, that are meant. One without any is passed over
    /// ([`ActionError::NotFound`]).
    pub(super) async fn resubmit_leased(&self, leased: Leased, whom: Whom<'_>, by: &str) -> Result<(), ActionError> {
        let snapshot = self.live.current();
        let again = |(index, recipient): (u32, &Recipient)| {
            let waits = recipient.waits.as_ref().filter(|waits| waits.queue == QueueName::DeadLetter);
            let (queue, name) = waits.map(|_| self.belongs_to(&snapshot, &leased.message, recipient))?;
            Some((index, Conclusion::Resubmitted(queue, name)))
        };
        let all: Vec<_> = concerned(&leased.message, whom).filter_map(again).collect();
        if all.is_empty() {
            self.give_back(leased);
            return Err(ActionError::NotFound);
        }
        Ok(self.conclude_anew(leased, all, Facts::by(by)).await?)
    }

    /// The same for all of one message, and says when there is none.
    pub(super) async fn resubmit_as_it_is(&self, id: MessageId, by: &str) -> Result<(), ResubmitError> {
        let leased = self.dead_letters_of(id).await?;
        match self.resubmit_leased(leased, EVERYBODY, by).await {
            Err(ActionError::Store(error)) => Err(error.into()),
            other => Ok(other?),
        }
    }

    /// Sends a new message to these recipients in the place of the dead letters of this one; its id.
    pub(super) async fn resubmit_to(
        &self,
        id: MessageId,
        to: Vec<ForwardPath>,
        by: &str,
    ) -> Result<MessageId, ResubmitError> {
        let leased = self.dead_letters_of(id).await?;
        let message = match self.addressed(&leased.message, to) {
            Ok(message) => message,
            Err(error) => {
                self.give_back(leased);
                return Err(error);
            }
        };
        let new = message.id;
        let all =
            waiting_here(&leased.message, &QueueName::DeadLetter).map(|index| (index, Conclusion::Replaced)).collect();
        let further = vec![Caused { message, content: Content::CopyOf(id) }];
        let once = Persistence::Once { synced: true };
        self.conclude_with(leased, all, further, Facts::by(by), once).await?;
        Ok(new)
    }

    async fn dead_letters_of(&self, id: MessageId) -> Result<Leased, ResubmitError> {
        let leased = self.lease_for_operator(id).await?;
        if waiting_here(&leased.message, &QueueName::DeadLetter).next().is_none() {
            self.give_back(leased);
            return Err(ResubmitError::NotDead);
        }
        Ok(leased)
    }

    /// The same message for other recipients, received now.
    fn addressed(&self, message: &Message, to: Vec<ForwardPath>) -> Result<Message, ResubmitError> {
        let (snapshot, down, now) = (self.live.current(), self.down(), self.now());
        let id = MessageId::generate();
        let sending = Sending { spread: id.spread(), ..Sending::of(message, &down) };
        let mut wrong = Vec::new();
        let mut recipients: Vec<Recipient> = Vec::with_capacity(to.len());
        for (place, forward_path) in to.into_iter().enumerate() {
            if recipients.iter().any(|known| known.forward_path == forward_path) {
                continue;
            }
            let (queue, directory_name) = match assign_own(&snapshot, &*self.recipients, &forward_path, None, sending) {
                Assignment::Queue(queue, name) => (queue, name),
                Assignment::TryLater => (QueueName::Unrouted, None),
                Assignment::Unknown => {
                    wrong.push((place, format!("there is no recipient {forward_path} in the directory")));
                    continue;
                }
                Assignment::Refused(restriction) => {
                    wrong.push((place, format!("{forward_path}: {restriction}")));
                    continue;
                }
            };
            recipients.push(Recipient {
                forward_path,
                parameters: RcptParameters::default(),
                directory_name,
                status: RecipientStatus::Pending,
                waits: Some(Waits { queue, due: now }),
                attempts: 0,
                delay_notified: false,
                last_failure: None,
            });
        }
        if !wrong.is_empty() {
            return Err(ResubmitError::Recipients(wrong));
        }
        let parameters = MailParameters { hold: None, deliver_by: None, ..message.parameters.clone() };
        Ok(Message {
            id,
            received_at: now,
            parameters,
            frozen: false,
            connector: None,
            idempotency: None,
            recipients,
            ..message.clone()
        })
    }
}
