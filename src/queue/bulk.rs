//! One action on many messages: those that a selector means when it begins.
//!
//! An operation is a record under a control key; it survives a restart and goes on where it was. It walks over the messages in the
//! order in which they were received, in bounded steps, and notes behind each step how far it came. What was received
//! after it began it never touches. Every action can be done twice without harm, so a crash between an action and the
//! note of it costs nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::actions::concerned;
use super::operate::{ActionError, MessageFilter};
use super::operations::{begin_of, is_behind, is_meant, matches};
use super::{Operator, Queue, log_store_error};
use crate::config::Snapshot;
use crate::model::mail::{Message, MessageId, Recipient};
use crate::model::name::Name;
use crate::model::time::Timestamp;
use crate::store::{PageKey, StoreError};

/// Prefix of the control keys.
const KEY: &str = "operation/";
/// Messages that are looked at in one step.
pub(super) const STEP: usize = 500;
/// Most messages that a preview looks at.
pub(super) const MOST_PREVIEWED: u64 = 50_000;
/// Messages that a preview names.
pub(super) const SAMPLE: usize = 10;
/// Operations that are remembered; the oldest ended ones go first.
const MOST_REMEMBERED: usize = 100;
/// Operations that run at a time.
const MOST_RUNNING: usize = 10;
/// Errors that are remembered of one operation, and octets of each.
const MOST_ERRORS: usize = 2;
const LONGEST_ERROR: usize = 80;
/// The longest record that can be kept ([`ControlStore::set`](crate::store::ControlStore::set)), and how much of it a record may
/// still grow by until it ends: by its counters, its times, how far it came, and errors.
const LONGEST_RECORD: usize = 1_024;
const GROWS_BY: usize = 400;
/// Pause after a store that did not answer.
const PAUSE: Duration = Duration::from_secs(5);

/// What is done with each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum BulkAction {
    /// No attempt is made until it is thawed.
    Freeze,
    /// A freeze ends.
    Thaw,
    /// It is due now.
    Retry,
    /// It is routed anew, and due now; dead letters too. `parameters.connector` chooses who carries it.
    Reroute,
    /// Its dead letters are sent on their way again, as if they had just come.
    Resubmit,
    /// It is removed; `parameters.ndr` says whether its sender is told.
    Delete,
    /// What a new hold means is moved to the queue `held`.
    Hold,
    /// What no hold means any more goes on.
    Release,
}

/// What is to be done with each message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What.
    pub action: BulkAction,
    /// With `Delete`: whether senders are told.
    pub ndr: bool,
    /// With `Reroute`: the connector that is chosen; without, nobody has chosen any more.
    pub connector: Option<Name>,
}

/// How an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum OperationState {
    /// It goes on.
    Running,
    /// It has come to its end.
    Done,
    /// An operator ended it; what was done stays done.
    Cancelled,
}

/// An action on many messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: Uuid,
    /// What is done.
    pub action: BulkAction,
    /// With `Delete`: whether senders are told.
    pub ndr: bool,
    /// With `Reroute`: the connector that is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<Name>,
    /// With which messages; the times in it are fixed.
    pub selector: MessageFilter,
    /// Who wanted it.
    pub by: String,
    /// Since when.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it is.
    pub state: OperationState,
    /// Messages that the selector meant at the start; `None`: they are being counted.
    pub total: Option<u64>,
    /// Messages that are done.
    pub done: u64,
    /// Messages that were being delivered, or had left meanwhile.
    pub skipped: u64,
    /// Messages with which it went wrong.
    pub failed: u64,
    /// What went wrong, the first few.
    pub errors: Vec<String>,
    /// How far it came.
    after: Option<(Timestamp, MessageId)>,
}

impl Operation {
    fn new(order: Order, selector: MessageFilter, by: &str, now: Timestamp) -> Self {
        let Order { action, ndr, connector } = order;
        Operation {
            id: Uuid::now_v7(),
            action,
            ndr,
            connector,
            selector,
            by: by.chars().take(63).collect(),
            started_at: now,
            ended_at: None,
            state: OperationState::Running,
            total: None,
            done: 0,
            skipped: 0,
            failed: 0,
            errors: Vec::new(),
            after: None,
        }
    }

    fn record(&self) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(self).map_err(|error| StoreError::Io(error.to_string()))
    }

    fn note_error(&mut self, words: &str) {
        if self.errors.len() < MOST_ERRORS {
            // what JSON would write longer than it is does not get in
            let plain = words.chars().map(|c| if matches!(c, ' '..='~') && !"\"\\".contains(c) { c } else { '?' });
            self.errors.push(plain.take(LONGEST_ERROR).collect());
        }
    }
}

/// What a selector means now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Preview {
    /// So many messages.
    pub count: u64,
    /// Whether all were looked at; at most 50,000 are.
    pub complete: bool,
    /// The first of them.
    pub sample: Vec<MessageId>,
}

/// Why an operation did not begin.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The selector means everything: that is not said by leaving everything out.
    #[error("the selector is empty; say which messages are meant, such as {{\"until\": \"…\"}}")]
    EmptySelector,
    /// What is said of the messages does not fit into what is remembered of an operation.
    #[error("the selector is too long to be remembered; name fewer things, or shorter ones")]
    TooLong,
    /// Too many are running.
    #[error("{MOST_RUNNING} operations are running; wait until one has ended, or cancel one")]
    TooMany,
    /// There is no such connector, or it is switched off.
    #[error("there is no such connector, or it is switched off")]
    UnknownConnector,
    /// There is none of this id.
    #[error("no such operation")]
    NotFound,
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Acts on many messages. [`Operator`] does.
#[async_trait]
pub trait Bulk: Send + Sync {
    /// What a selector means now.
    async fn preview(&self, action: BulkAction, selector: &MessageFilter) -> Result<Preview, BulkError>;

    /// Begins an operation; it is remembered when this returns.
    async fn begin(&self, order: Order, selector: MessageFilter, by: String) -> Result<Operation, BulkError>;

    /// All that are remembered, the latest first.
    fn operations(&self) -> Vec<Operation>;

    /// Ends one; what was done stays done. One that has ended already stays as it is.
    async fn cancel(&self, id: Uuid) -> Result<Operation, BulkError>;
}

#[async_trait]
impl Bulk for Operator {
    async fn preview(&self, action: BulkAction, selector: &MessageFilter) -> Result<Preview, BulkError> {
        let queue = &self.0;
        let selector = selector.clone().fixed(queue.now()).ok_or(BulkError::EmptySelector)?;
        let mut preview = Preview::default();
        let (mut after, mut looked) = (None, 0);
        loop {
            let (ids, next) = queue.meant(&selector, action, after).await?;
            preview.count += ids.len() as u64;
            preview.sample.extend(ids.into_iter().take(SAMPLE - preview.sample.len()));
            looked += STEP as u64;
            after = next;
            preview.complete = after.is_none();
            if after.is_none() || looked >= MOST_PREVIEWED {
                return Ok(preview);
            }
        }
    }

    async fn begin(&self, order: Order, selector: MessageFilter, by: String) -> Result<Operation, BulkError> {
        let queue = self.0.clone();
        let now = queue.now();
        if order.connector.as_ref().is_some_and(|name| queue.live.current().routes.connector(name).is_none()) {
            return Err(BulkError::UnknownConnector);
        }
        let operation = Operation::new(order, selector.fixed(now).ok_or(BulkError::EmptySelector)?, &by, now);
        if operation.record()?.len() > LONGEST_RECORD - GROWS_BY {
            return Err(BulkError::TooLong);
        }
        // what is remembered is also carried out, when whoever asked has gone
        let begun = tokio::spawn(async move { queue.begin(operation, MOST_RUNNING).await });
        begun.await.unwrap_or_else(|error| Err(StoreError::Io(error.to_string()).into()))
    }

    fn operations(&self) -> Vec<Operation> {
        self.0.operations()
    }

    async fn cancel(&self, id: Uuid) -> Result<Operation, BulkError> {
        let queue = self.0.clone();
        let cancelled = tokio::spawn(async move { queue.cancel(id).await });
        cancelled.await.unwrap_or_else(|error| Err(StoreError::Io(error.to_string()).into()))
    }
}

fn key(id: Uuid) -> String {
    format!("{KEY}{}", id.simple())
}

impl Queue {
    /// Goes on with the operations that were running when the process ended.
    pub(super) fn resume_operations(self: &Arc<Self>) {
        for operation in self.operations().into_iter().filter(|known| known.state == OperationState::Running) {
            tracing::info!(operation.id = %operation.id, "operation goes on");
            drop(tokio::spawn(self.clone().carry_out(operation)));
        }
    }

    fn operations(&self) -> Vec<Operation> {
        let stored = self.store.all(KEY);
        let mut known: Vec<Operation> =
            stored.iter().filter_map(|(_, value)| serde_json::from_slice(value).ok()).collect();
        known.sort_by_key(|known| std::cmp::Reverse((known.started_at, known.id)));
        known
    }

    fn operation(&self, id: Uuid) -> Option<Operation> {
        let stored = self.store.all(&key(id));
        stored.iter().find_map(|(_, value)| serde_json::from_slice(value).ok())
    }

    /// Begins what nobody asked for as such: it does not count among those that people may have running.
    pub(super) async fn begin_by_itself(
        self: Arc<Self>,
        order: Order,
        selector: MessageFilter,
        by: &str,
    ) -> Result<Operation, BulkError> {
        let operation = Operation::new(order, selector, by, self.now());
        self.begin(operation, usize::MAX).await
    }

    async fn begin(self: Arc<Self>, operation: Operation, most_running: usize) -> Result<Operation, BulkError> {
        let _one = self.operating.lock().await;
        let known = self.operations();
        if known.iter().filter(|known| known.state == OperationState::Running).count() >= most_running {
            return Err(BulkError::TooMany);
        }
        for old in known.iter().skip(MOST_REMEMBERED - 1).filter(|old| old.state != OperationState::Running) {
            self.store.set(&key(old.id), None).await?;
        }
        self.keep(&operation).await?;
        tracing::info!(operation.id = %operation.id, action = ?operation.action, by = operation.by, "operation begun");
        drop(tokio::spawn(self.clone().carry_out(operation.clone())));
        Ok(operation)
    }

    async fn keep(&self, operation: &Operation) -> Result<(), StoreError> {
        self.store.set(&key(operation.id), Some(operation.record()?)).await
    }

    async fn cancel(&self, id: Uuid) -> Result<Operation, BulkError> {
        let _one = self.operating.lock().await;
        let mut operation = self.operation(id).ok_or(BulkError::NotFound)?;
        if operation.state == OperationState::Running {
            operation.state = OperationState::Cancelled;
            operation.ended_at = Some(self.now());
            self.keep(&operation).await?;
        }
        Ok(operation)
    }

    /// Notes how far an operation came. False: somebody has ended it meanwhile.
    async fn note(&self, operation: &Operation) -> bool {
        loop {
            let noted = {
                let _one = self.operating.lock().await;
                match self.operation(operation.id) {
                    Some(known) if known.state == OperationState::Running => self.keep(operation).await,
                    _ => return false,
                }
            };
            match noted {
                Ok(()) => return true,
                Err(error) => log_store_error("how far an operation came could not be noted", &error),
            }
            if self.stopping.load(Ordering::Acquire) {
                return false;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn carry_out(self: Arc<Self>, mut operation: Operation) {
        if operation.total.is_none() {
            let Some(total) = self.count(&operation).await else { return };
            operation.total = Some(total);
            if !self.note(&operation).await {
                return;
            }
        }
        loop {
            let after = operation.after.map(|(received_at, id)| PageKey { received_at, id });
            let (ids, next) = match self.meant(&operation.selector, operation.action, after).await {
                Ok(step) => step,
                Err(error) => {
                    log_store_error("mail that an operation means could not be read", &error);
                    if self.stopping.load(Ordering::Acquire) {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            for id in ids {
                if self.stopping.load(Ordering::Acquire) {
                    return;
                }
                match self.act(&operation, id).await {
                    Ok(()) => operation.done += 1,
                    Err(ActionError::Leased | ActionError::NotFound | ActionError::NeverTried) => {
                        operation.skipped += 1
                    }
                    Err(ActionError::Store(error)) => {
                        operation.failed += 1;
                        operation.note_error(&format!("{id}: {error}"));
                    }
                }
            }
            operation.after = next.map(|key| (key.received_at, key.id));
            if next.is_none() {
                operation.state = OperationState::Done;
                operation.ended_at = Some(self.now());
            }
            if !self.note(&operation).await {
                return;
            }
            if next.is_none() {
                let Operation { id, done, skipped, failed, .. } = operation;
                tracing::info!(operation.id = %id, done, skipped, failed, "operation done");
                return;
            }
        }
    }

    async fn count(&self, operation: &Operation) -> Option<u64> {
        let (mut total, mut after) = (0, None);
        loop {
            match self.meant(&operation.selector, operation.action, after).await {
                Ok((ids, next)) => {
                    total += ids.len() as u64;
                    after = next;
                    if after.is_none() {
                        return Some(total);
                    }
                }
                Err(error) => {
                    log_store_error("mail that an operation means could not be counted", &error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
            if self.stopping.load(Ordering::Acquire) {
                return None;
            }
        }
    }

    /// The messages of one step that a selector means, and where the next step begins.
    async fn meant(
        &self,
        selector: &MessageFilter,
        action: BulkAction,
        after: Option<PageKey>,
    ) -> Result<(Vec<MessageId>, Option<PageKey>), StoreError> {
        // others want the store and this thread too
        tokio::task::yield_now().await;
        let now = self.now();
        let snapshot = self.live.current();
        let rows = self.store.page(selector.queue.as_ref(), after.max(begin_of(selector)), STEP).await?;
        let next = if rows.len() < STEP { None } else { rows.last().map(|(key, _)| *key) };
        // behind this time nothing is meant
        let ended = rows.last().is_some_and(|(key, _)| is_behind(selector, key));
        let meant = rows.iter().filter(|(_, message)| self.is_meant(selector, action, message, &snapshot, now));
        let ids = meant.map(|(_, message)| message.id).collect();
        Ok((ids, next.filter(|_| !ended)))
    }

    /// Whether an action has something to do with a message.
    fn is_meant(
        &self,
        selector: &MessageFilter,
        action: BulkAction,
        message: &Message,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> bool {
        let whom = |recipient: &Recipient| is_meant(selector, recipient, snapshot);
        matches(selector, message, snapshot, now)
            && match action {
                BulkAction::Freeze | BulkAction::Thaw | BulkAction::Reroute | BulkAction::Release => true,
                BulkAction::Hold => self.holds_some_of(message),
                // what waits for its time goes on waiting
                BulkAction::Retry => message.released_at() <= now && concerned(message, &whom).next().is_some(),
                BulkAction::Delete | BulkAction::Resubmit => concerned(message, &whom).next().is_some(),
            }
    }

    /// Does it with one message, if it is meant now: it may have moved on since its step was read.
    pub(super) async fn act(&self, operation: &Operation, id: MessageId) -> Result<(), ActionError> {
        let by = operation.by.as_str();
        let (selector, snapshot) = (&operation.selector, self.live.current());
        let leased = self.lease_for_operator(id).await?;
        if !self.is_meant(selector, operation.action, &leased.message, &snapshot, self.now()) {
            self.give_back(leased);
            return Err(ActionError::NotFound);
        }
        let whom = |recipient: &Recipient| is_meant(selector, recipient, &snapshot);
        match operation.action {
            BulkAction::Freeze => self.freeze_leased(leased, true, by).await,
            BulkAction::Thaw => self.freeze_leased(leased, false, by).await,
            BulkAction::Retry => self.retry_leased(leased, &whom, by, false).await,
            BulkAction::Reroute => self.route_leased(leased, operation.connector.clone(), by, false).await,
            BulkAction::Resubmit => self.resubmit_leased(leased, &whom, by).await,
            BulkAction::Delete => self.remove_leased(leased, &whom, operation.ndr, by, false).await,
            BulkAction::Hold | BulkAction::Release => Ok(self.move_by_holds(leased, by).await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_never_outgrows_what_can_be_kept() {
        let new = Operation {
            id: Uuid::now_v7(),
            action: BulkAction::Reroute,
            ndr: false,
            connector: None,
            selector: MessageFilter::default(),
            by: String::new(),
            started_at: Timestamp::from_millis(1_795_000_000_000),
            ended_at: None,
            state: OperationState::Running,
            total: None,
            done: 0,
            skipped: 0,
            failed: 0,
            errors: Vec::new(),
            after: None,
        };
        let most = 10_u64.pow(12);
        let mut old = Operation {
            ended_at: Some(new.started_at),
            state: OperationState::Cancelled,
            total: Some(most),
            done: most,
            skipped: most,
            failed: most,
            after: Some((new.started_at, MessageId::generate())),
            ..new.clone()
        };
        for _ in 0..10 {
            old.note_error(&"\u{1}\"ü".repeat(200));
        }
        let grown = old.record().unwrap().len() - new.record().unwrap().len();
        assert!(grown <= GROWS_BY, "{grown}");
        assert!(grown > GROWS_BY / 2, "{grown}: more than is needed");
    }
}
