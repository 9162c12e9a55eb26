//! What an operator's action does to a message that was leased for it: for all who wait, or only for those whom he means.
//!
//! Mail that waits for its time (`sendAt`, RFC 4865) goes out early only when somebody retries this very message.

use super::conclusion::Conclusion;
use super::operate::ActionError;
use super::outcome::{Facts, Persistence};
use super::{Queue, track};
use crate::model::event_kind::EventKind;
use crate::model::mail::{Change, Message, MessageId, Recipient};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::store::{Leased, StoreError};

/// Which of the recipients who wait an action is for.
pub(super) type Whom<'a> = &'a (dyn Fn(&Recipient) -> bool + Send + Sync);

/// All who wait.
pub(super) const EVERYBODY: Whom<'static> = &|_| true;

/// The recipients who wait and are meant, by their numbers.
pub(super) fn concerned<'m>(message: &'m Message, whom: Whom<'m>) -> impl Iterator<Item = (u32, &'m Recipient)> {
    let all = (0u32..).zip(&message.recipients);
    all.filter(move |(_, recipient)| recipient.waits.is_some() && whom(recipient))
}

impl Queue {
    /// Leases a message for a person, out of a window in memory if it lies there.
    pub(super) async fn lease_for_operator(&self, id: MessageId) -> Result<Leased, StoreError> {
        match self.store.lease_message(id).await {
            Err(StoreError::Leased) => {}
            other => return other,
        }
        let message = self.store.message(id).await?.ok_or(StoreError::NotFound)?;
        for (queue, _) in message.waiting() {
            let link = self.links().get(&queue).cloned();
            if let Some(leased) = link.and_then(|link| link.withdraw(id)) {
                self.release(vec![leased]);
            }
        }
        let leased = self.store.lease_message(id).await;
        if leased.is_err() {
            // what was withdrawn goes on as before
            for (queue, _) in message.waiting() {
                self.agenda.look_at_once(&queue);
            }
        }
        leased
    }

    /// Makes recipients due now; dead letters go back to where they belong, and their time begins anew.
    pub(super) async fn retry_leased(
        &self,
        leased: Leased,
        whom: Whom<'_>,
        by: &str,
        synced: bool,
    ) -> Result<(), ActionError> {
        let snapshot = self.live.current();
        let tried = |(index, recipient): (u32, &Recipient)| match &recipient.waits {
            Some(waits) if waits.queue == QueueName::DeadLetter => {
                let (queue, name) = self.belongs_to(&snapshot, &leased.message, recipient);
                (index, Conclusion::Resubmitted(queue, name))
            }
            _ => (index, Conclusion::Retried),
        };
        let all: Vec<_> = concerned(&leased.message, whom).map(tried).collect();
        if all.iter().any(|(_, conclusion)| matches!(conclusion, Conclusion::Resubmitted(..))) {
            return Ok(self.conclude_anew(leased, all, Facts::by(by)).await?);
        }
        Ok(self.conclude(leased, all, Facts::by(by), Persistence::Once { synced }).await?)
    }

    /// Ends recipients without delivery; `ndr`: the sender is told. `synced`: it is durable when this returns.
    pub(super) async fn remove_leased(
        &self,
        leased: Leased,
        whom: Whom<'_>,
        ndr: bool,
        by: &str,
        synced: bool,
    ) -> Result<(), ActionError> {
        let removed = |(index, _)| (index, Conclusion::Removed { report: ndr });
        let all = concerned(&leased.message, whom).map(removed).collect();
        Ok(self.conclude(leased, all, Facts::by(by), Persistence::Once { synced }).await?)
    }

    /// Freezes or thaws a message.
    pub(super) async fn freeze_leased(&self, leased: Leased, frozen: bool, by: &str) -> Result<(), ActionError> {
        let Leased { message, leases, .. } = leased;
        let change = Change { frozen: Some(frozen), ..Change::default() };
        let recorded = self.store.record(leases, change, Vec::new(), true).await;
        if recorded.is_err() {
            // it may have been taken out of a window
            for (queue, _) in message.waiting() {
                self.agenda.look_at_once(&queue);
            }
        }
        recorded?;
        let event = if frozen { EventKind::Frozen } else { EventKind::Thawed };
        self.track(event, &message, None, track::Detail { by: Some(by), ..track::Detail::default() });
        for (queue, due) in message.waiting() {
            self.agenda.look(&queue, due);
        }
        Ok(())
    }

    /// Routes a message anew, whatever it waits for; dead letters too, whose time begins anew. From now on this connector is chosen
    /// for it, or none.
    pub(super) async fn route_leased(
        &self,
        leased: Leased,
        connector: Option<Name>,
        by: &str,
        synced: bool,
    ) -> Result<(), ActionError> {
        let snapshot = self.live.current();
        let mut chosen = Message::clone(&leased.message);
        chosen.connector.clone_from(&connector);
        let routed = |(index, recipient): (u32, &Recipient)| {
            let (queue, name) = self.belongs_to(&snapshot, &chosen, recipient);
            match &recipient.waits {
                Some(waits) if waits.queue == QueueName::DeadLetter => (index, Conclusion::Resubmitted(queue, name)),
                _ => (index, Conclusion::Moved(queue, name)),
            }
        };
        let all: Vec<_> = concerned(&chosen, EVERYBODY).map(routed).collect();
        if all.iter().any(|(_, conclusion)| matches!(conclusion, Conclusion::Resubmitted(..))) {
            let leased = Leased { message: chosen.into(), ..leased };
            return Ok(self.conclude_anew(leased, all, Facts::by(by)).await?);
        }
        Ok(self.conclude_chosen(leased, all, connector, Facts::by(by), Persistence::Once { synced }).await?)
    }
}
