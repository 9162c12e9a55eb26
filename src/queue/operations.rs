//! [`Operate`] for the [`Queue`]: what a person sees and does.
//!
//! An action takes the lease of the message first, out of a link's window if need be; a message in the hands of a worker
//! is [`ActionError::Leased`]. What an action answers is durable.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::actions::EVERYBODY;
use super::history::EventPage;
use super::operate::{
    ActionError, MessageFilter, MessagePage, MessageState, Operate, QueueKind, QueueState, QueueView,
};
use super::scheduler::waiting_here;
use super::{FROZEN_KEY, Queue, settings};
use crate::config::Snapshot;
use crate::model::duration::Duration;
use crate::model::mail::{Message, MessageId, Recipient};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::smtp::address::ForwardPath;
use crate::store::history::{Found, Position};
use crate::store::{PageKey, QueueCount};

/// Most rows that one listing looks at.
pub(super) const MAX_ROWS: u64 = 20_000;
/// Once it has taken so long, a listing ends with what it has: a page may take 50 ms (targets.md, P10), and a row costs 2 to 5 µs.
const MAX_TIME: std::time::Duration = std::time::Duration::from_millis(35);
/// Rows read from the store at once.
pub(super) const PAGE: usize = 1_000;

#[async_trait]
impl Operate for Queue {
    async fn queues_behind(&self, after: Option<&str>, limit: usize) -> Result<Vec<QueueView>, ActionError> {
        let mut counts = self.store.queues();
        for queue in self.frozen().iter() {
            if !counts.iter().any(|count| count.queue == *queue) {
                counts.push(QueueCount { queue: queue.clone(), messages: 0, bytes: 0 });
            }
        }
        let mut named: Vec<_> = counts.into_iter().map(|count| (count.queue.to_string(), count)).collect();
        named.retain(|(id, _)| after.is_none_or(|after| id.as_str() > after));
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut views = Vec::with_capacity(named.len().min(limit));
        for (_, count) in named.into_iter().take(limit) {
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
        if matches!(queue, QueueName::Held | QueueName::DeadLetter) {
            return Err(ActionError::NeverTried);
        }
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

    async fn retry_queue(&self, queue: &QueueName, by: &str) -> Result<(), ActionError> {
        if !self.is_known(queue) {
            return Err(ActionError::NotFound);
        }
        let now = self.now();
        let link = self.link(queue);
        // before they are due, or a schedule puts them off again
        link.force();
        let here = |recipient: &Recipient| recipient.waits.as_ref().is_some_and(|waits| waits.queue == *queue);
        let mut after = None;
        // messages that were deferred one by one become due; those that wait for the host are due already
        loop {
            let page = self.store.page(Some(queue), after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (_, message) in page {
                // what waits for its time goes on waiting
                let is_meant = is_deferred(&message, queue, now) && !message.frozen && message.released_at() <= now;
                if is_meant && let Ok(leased) = self.lease_for_operator(message.id).await {
                    self.retry_leased(leased, &here, by, false).await?;
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
        let began = self.clock.now();
        while self.may_look_on(page.scanned, began) {
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
        self.freeze_leased(self.lease_for_operator(id).await?, true, by).await
    }

    async fn thaw(&self, id: MessageId, by: &str) -> Result<(), ActionError> {
        self.freeze_leased(self.lease_for_operator(id).await?, false, by).await
    }

    async fn retry(&self, id: MessageId, by: &str) -> Result<(), ActionError> {
        let leased = self.lease_for_operator(id).await?;
        let queues = leased.message.waiting();
        self.retry_leased(leased, EVERYBODY, by, true).await?;
        for (queue, _) in queues {
            let link = self.link(&queue);
            link.wake();
            self.note_health(&link);
            self.agenda.look_at_once(&queue);
        }
        Ok(())
    }

    async fn delete(&self, id: MessageId, ndr: bool, by: &str) -> Result<(), ActionError> {
        self.remove_leased(self.lease_for_operator(id).await?, EVERYBODY, ndr, by, true).await
    }
}

impl Queue {
    /// Whether a listing that began then, and has looked at so many rows, looks at more. To be asked each [`PAGE`] rows. One that has
    /// looked at none does, however long that took: it would not know where to go on.
    pub(super) fn may_look_on(&self, scanned: u64, began: Instant) -> bool {
        let in_time = || self.clock.now().saturating_duration_since(began) < MAX_TIME;
        scanned == 0 || scanned < MAX_ROWS && in_time()
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
        let held = matches!(queue, Held | DeadLetter);
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

/// Whether a message is meant: by itself, and by a recipient of whom all holds that is said of recipients.
pub(super) fn matches(filter: &MessageFilter, message: &Message, snapshot: &Snapshot, now: Timestamp) -> bool {
    let age = |limit: Duration| now.since(message.received_at) > limit.std();
    let is_about = |words: &String| {
        let contains = |subject: &String| subject.to_lowercase().contains(&words.to_lowercase());
        message.subject.as_ref().is_some_and(contains)
    };
    filter.state.is_none_or(|state| MessageState::of(message) == state)
        && filter.subject.as_ref().is_none_or(is_about)
        && filter.virtual_server.as_ref().is_none_or(|name| message.origin.virtual_server == *name)
        && filter.sender.as_ref().is_none_or(|sender| sender.matches(message.reverse_path.mailbox()))
        && filter.message_id.as_ref().is_none_or(|id| message.message_id_header.as_ref() == Some(id))
        && filter.since.is_none_or(|since| message.received_at >= since)
        && filter.until.is_none_or(|until| message.received_at < until)
        && filter.older_than.is_none_or(age)
        && filter.larger_than.is_none_or(|size| message.size > size.bytes())
        && filter.account.as_ref().is_none_or(|account| message.origin.account.as_ref() == Some(account))
        && filter.api_key.as_ref().is_none_or(|key| message.origin.api_key.as_ref() == Some(key))
        && message.recipients.iter().any(|recipient| is_meant(filter, recipient, snapshot))
}

/// Whether all holds that a filter says of recipients.
pub(super) fn is_meant(filter: &MessageFilter, recipient: &Recipient, snapshot: &Snapshot) -> bool {
    let queue = recipient.waits.as_ref().map(|waits| &waits.queue);
    let mailbox = match &recipient.forward_path {
        ForwardPath::Mailbox(mailbox) => Some(mailbox),
        ForwardPath::Postmaster => None,
    };
    filter.status.is_none_or(|status| status.matches(recipient))
        && filter.queue.as_ref().is_none_or(|wanted| queue == Some(wanted))
        && filter.connector.as_ref().is_none_or(|wanted| queue.and_then(QueueName::connector) == Some(wanted))
        && filter.next_hop.as_ref().is_none_or(|to| queue.is_some_and(|queue| settings::goes_to(snapshot, queue, to)))
        && filter.recipient.as_ref().is_none_or(|wanted| mailbox.is_some() && wanted.matches(mailbox))
}
