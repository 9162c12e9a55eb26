//! [`Operate`] for the [`Queue`]: what a person sees and does.
//!
//! An action takes the lease of the message first, out of a link's window if need be; a message in the hands of a worker
//! is [`ActionError::Leased`]. What an action answers is durable.

use std::sync::Arc;

use async_trait::async_trait;

use super::conclusion::Conclusion;
use super::history::EventPage;
use super::operate::{
    ActionError, MessageFilter, MessagePage, MessageState, Operate, QueueKind, QueueState, QueueView,
};
use super::outcome::{Facts, Persistence};
use super::scheduler::waiting_here;
use super::{Assignment, FROZEN_KEY, Queue, assign_again, settings, track};
use crate::config::Snapshot;
use crate::model::duration::Duration;
use crate::model::event_kind::EventKind;
use crate::model::mail::{Change, Message, MessageId};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::store::history::{Found, Position};
use crate::store::{Leased, PageKey, QueueCount, StoreError};

/// Most rows that one listing looks at (`resources.md`).
pub(super) const MAX_ROWS: u64 = 50_000;
/// Rows read from the store at once.
pub(super) const PAGE: usize = 1_000;

#[async_trait]
impl Operate for Queue {
    async fn queues(&self) -> Result<Vec<QueueView>, ActionError> {
        let mut counts = self.store.queues();
        for queue in self.frozen().iter() {
            if !counts.iter().any(|count| count.queue == *queue) {
                counts.push(QueueCount { queue: queue.clone(), messages: 0, bytes: 0 });
            }
        }
        counts.sort_by(|a, b| a.queue.cmp(&b.queue));
        let mut views = Vec::with_capacity(counts.len());
        for count in counts {
            views.push(self.view(count).await?);
        }
        Ok(views)
    }

    async fn queue(&self, queue: &QueueName) -> Result<QueueView, ActionError> {
        let count = self.store.queues().into_iter().find(|count| count.queue == *queue);
        let known = self.is_known(queue);
        match count {
            Some(count) => self.view(count).await,
            None if known => self.view(QueueCount { queue: queue.clone(), messages: 0, bytes: 0 }).await,
            None => Err(ActionError::NotFound),
        }
    }

    async fn freeze_queue(&self, queue: &QueueName) -> Result<(), ActionError> {
        if !self.is_known(queue) {
            return Err(ActionError::NotFound);
        }
        self.store.set(&format!("{FROZEN_KEY}{queue}"), Some(Vec::new())).await?;
        self.frozen().insert(queue.clone());
        let ready = self.link(queue).set_frozen(true);
        self.release(ready);
        tracing::info!(queue = %queue, "queue frozen");
        Ok(())
    }

    async fn thaw_queue(&self, queue: &QueueName) -> Result<(), ActionError> {
        self.store.set(&format!("{FROZEN_KEY}{queue}"), None).await?;
        self.frozen().remove(queue);
        let _ = self.link(queue).set_frozen(self.is_suspended(queue));
        self.agenda.look_at_once(queue);
        tracing::info!(queue = %queue, "queue thawed");
        Ok(())
    }

    async fn retry_queue(&self, queue: &QueueName) -> Result<(), ActionError> {
        if !self.is_known(queue) {
            return Err(ActionError::NotFound);
        }
        let now = self.now();
        let link = self.link(queue);
        // before they are due, or a schedule puts them off again
        link.force();
        let mut after = None;
        // messages that were deferred one by one become due; those that wait for the host are due already
        loop {
            let page = self.store.page(Some(queue), after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (_, message) in page {
                if is_deferred(&message, queue, now)
                    && !message.frozen
                    && let Ok(leased) = self.lease_for_operator(message.id).await
                {
                    let all = waiting_here(&leased.message, queue)
                        .map(|index| (index, self.tried_again(&leased.message, index)))
                        .collect();
                    let once = Persistence::Once { synced: false };
                    self.conclude(leased, all, Facts::default(), once).await?;
                }
            }
        }
        link.force();
        self.note_health(&link);
        self.agenda.look_at_once(queue);
        Ok(())
    }

    async fn messages(
        &self,
        filter: &MessageFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Result<MessagePage, ActionError> {
        let now = self.now();
        let snapshot = self.live.current();
        let mut page = MessagePage { next: after.max(begin_of(filter)), ..MessagePage::default() };
        while page.scanned < MAX_ROWS {
            let rows = self.store.page(filter.queue.as_ref(), page.next, PAGE).await?;
            let ended = rows.len() < PAGE;
            for (key, message) in rows {
                if is_behind(filter, &key) {
                    page.next = None;
                    return Ok(page);
                }
                page.scanned += 1;
                page.next = Some(key);
                if matches(filter, &message, &snapshot, now) {
                    page.items.push(message);
                    if page.items.len() >= limit {
                        return Ok(page);
                    }
                }
            }
            if ended {
                page.next = None;
                break;
            }
        }
        Ok(page)
    }

    async fn message(&self, id: MessageId) -> Result<Arc<Message>, ActionError> {
        self.store.message(id).await?.ok_or(ActionError::NotFound)
    }

    async fn events(&self, id: MessageId, after: Option<Position>, limit: usize) -> Result<EventPage, ActionError> {
        let Found { events, next, scanned } = self.store.events(id, after, limit).await?;
        if after.is_none() && events.is_empty() && next.is_none() && self.store.message(id).await?.is_none() {
            return Err(ActionError::NotFound);
        }
        let items = events.iter().filter_map(|(_, event)| serde_json::from_slice(event).ok()).collect();
        Ok(EventPage { items, next, scanned })
    }

    async fn freeze(&self, id: MessageId, by: &str) -> Result<(), ActionError> {
        self.set_frozen(id, true, by).await
    }

    async fn thaw(&self, id: MessageId, by: &str) -> Result<(), ActionError> {
        self.set_frozen(id, false, by).await
    }

    async fn retry(&self, id: MessageId, by: &str) -> Result<(), ActionError> {
        let leased = self.lease_for_operator(id).await?;
        let all: Vec<_> = (0u32..)
            .zip(&leased.message.recipients)
            .filter(|(_, recipient)| recipient.waits.is_some())
            .map(|(index, _)| (index, self.tried_again(&leased.message, index)))
            .collect();
        let queues: Vec<_> = leased.message.waiting();
        self.conclude(leased, all, Facts::by(by), Persistence::Once { synced: true }).await?;
        for (queue, _) in queues {
            let link = self.link(&queue);
            link.wake();
            self.note_health(&link);
            self.agenda.look_at_once(&queue);
        }
        Ok(())
    }

    async fn delete(&self, id: MessageId, ndr: bool, by: &str) -> Result<(), ActionError> {
        self.remove(id, ndr, true, by).await
    }
}

impl Queue {
    /// Removes a message for all who wait; `synced`: it is durable when this returns.
    pub(super) async fn remove(&self, id: MessageId, ndr: bool, synced: bool, by: &str) -> Result<(), ActionError> {
        let leased = self.lease_for_operator(id).await?;
        let all = (0u32..)
            .zip(&leased.message.recipients)
            .filter(|(_, recipient)| recipient.waits.is_some())
            .map(|(index, _)| (index, Conclusion::Removed { report: ndr }))
            .collect();
        Ok(self.conclude(leased, all, Facts::by(by), Persistence::Once { synced }).await?)
    }

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

    /// What trying a recipient now means: it is due, and a dead letter goes back to where it belongs.
    fn tried_again(&self, message: &Message, index: u32) -> Conclusion {
        let recipient = message.recipients.get(index as usize);
        let dead = recipient
            .filter(|recipient| recipient.waits.as_ref().is_some_and(|waits| waits.queue == QueueName::DeadLetter));
        let Some(recipient) = dead else { return Conclusion::Retried };
        let snapshot = self.live.current();
        match assign_again(&snapshot, &*self.recipients, message, recipient, &self.down()) {
            Assignment::Queue(queue, name) => Conclusion::Moved(queue, name),
            Assignment::Refused(_) | Assignment::Unknown | Assignment::TryLater => {
                Conclusion::Moved(QueueName::Unrouted, recipient.directory_name.clone())
            }
        }
    }

    /// A queue that holds something, or that mail could come to: its connector or mailbox store exists.
    fn is_known(&self, queue: &QueueName) -> bool {
        let snapshot = self.live.current();
        let possible = match queue {
            QueueName::SmartHost(name) | QueueName::Dns(name, _) => snapshot.routes.connector(name).is_some(),
            QueueName::Local(store) => snapshot.stores.contains_key(store),
            QueueName::Directory | QueueName::Unrouted | QueueName::Held | QueueName::DeadLetter => true,
        };
        possible || self.frozen().contains(queue) || self.store.queues().iter().any(|count| count.queue == *queue)
    }

    async fn set_frozen(&self, id: MessageId, frozen: bool, by: &str) -> Result<(), ActionError> {
        let Leased { message, leases, .. } = self.lease_for_operator(id).await?;
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

    async fn view(&self, count: QueueCount) -> Result<QueueView, ActionError> {
        use QueueName::{DeadLetter, Held, Unrouted};
        let QueueCount { queue, messages, bytes } = count;
        let now = self.now();
        let link = self.links().get(&queue).map(|link| link.view(now)).unwrap_or_default();
        let first = self.store.page(Some(&queue), None, 1).await?.pop();
        let oldest = first.as_ref().map(|(key, _)| key.received_at);
        // after a restart the queue remembers nothing, its messages do
        let failure_of_first = || {
            let (_, message) = first.as_ref().filter(|_| !matches!(queue, Unrouted | Held | DeadLetter))?;
            waiting_here(message, &queue).find_map(|index| message.recipients.get(index as usize)?.last_failure.clone())
        };
        let last_error = link.last_failure.clone().or_else(failure_of_first);
        let next_due = self.store.next_due(&queue).await?;
        let next = link.resting_until.or(next_due.filter(|due| *due > now));
        let (frozen, suspended) = (self.frozen().contains(&queue), self.is_suspended(&queue));
        let held = queue == Held;
        let state = if held {
            QueueState::Held
        } else if frozen {
            QueueState::Frozen
        } else if suspended {
            QueueState::Suspended
        } else if link.workers > 0 {
            QueueState::Active
        } else if link.held {
            QueueState::Remote
        } else if link.scheduled {
            QueueState::Scheduled
        } else if next.is_some() {
            QueueState::Retry
        } else {
            QueueState::Ready
        };
        let snapshot = self.live.current();
        Ok(QueueView {
            kind: QueueKind::of(&queue),
            state,
            connector: queue.connector().cloned(),
            next_hop: settings::next_hop(&snapshot, &queue),
            messages,
            bytes,
            oldest,
            next_retry: if frozen || suspended || held { None } else { next },
            last_error,
            id: queue,
        })
    }
}

fn is_deferred(message: &Message, queue: &QueueName, now: Timestamp) -> bool {
    message.recipients.iter().filter_map(|r| r.waits.as_ref()).any(|waits| waits.queue == *queue && waits.due > now)
}

/// Where a listing with this filter begins: nothing before is meant.
pub(super) fn begin_of(filter: &MessageFilter) -> Option<PageKey> {
    let received_at = filter.since? - std::time::Duration::from_millis(1);
    Some(PageKey { received_at, id: MessageId(uuid::Uuid::max()) })
}

/// Whether nothing from here on is meant.
pub(super) fn is_behind(filter: &MessageFilter, key: &PageKey) -> bool {
    filter.until.is_some_and(|until| key.received_at >= until)
}

pub(super) fn matches(filter: &MessageFilter, message: &Message, snapshot: &Snapshot, now: Timestamp) -> bool {
    let age = |limit: Duration| now.since(message.received_at) > limit.std();
    let waits_for = |connector: &_| {
        message.recipients.iter().filter_map(|r| r.waits.as_ref()).any(|w| w.queue.connector() == Some(connector))
    };
    let goes_to =
        |next_hop: &String| message.waiting().iter().any(|(queue, _)| settings::goes_to(snapshot, queue, next_hop));
    let is_about = |words: &String| {
        let contains = |subject: &String| subject.to_lowercase().contains(&words.to_lowercase());
        message.subject.as_ref().is_some_and(contains)
    };
    filter.state.is_none_or(|state| MessageState::of(message) == state)
        && filter.status.is_none_or(|status| message.recipients.iter().any(|recipient| status.matches(recipient)))
        && filter.next_hop.as_ref().is_none_or(goes_to)
        && filter.subject.as_ref().is_none_or(is_about)
        && filter.connector.as_ref().is_none_or(waits_for)
        && filter.virtual_server.as_ref().is_none_or(|name| message.origin.virtual_server == *name)
        && filter.sender.as_ref().is_none_or(|sender| sender.matches(message.reverse_path.mailbox()))
        && filter.recipient.as_ref().is_none_or(|wanted| {
            message.recipients.iter().any(|recipient| match &recipient.forward_path {
                crate::smtp::address::ForwardPath::Mailbox(mailbox) => wanted.matches(Some(mailbox)),
                crate::smtp::address::ForwardPath::Postmaster => false,
            })
        })
        && filter.message_id.as_ref().is_none_or(|id| message.message_id_header.as_ref() == Some(id))
        && filter.since.is_none_or(|since| message.received_at >= since)
        && filter.until.is_none_or(|until| message.received_at < until)
        && filter.older_than.is_none_or(age)
        && filter.larger_than.is_none_or(|size| message.size > size.bytes())
        && filter.account.as_ref().is_none_or(|account| message.origin.account.as_ref() == Some(account))
        && filter.queue.as_ref().is_none_or(|queue| waiting_here(message, queue).next().is_some())
}
