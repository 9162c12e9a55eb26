//! [`Operate`] for people: every action runs to its end in a task of its own, also when whoever asked has gone away.
//!
//! An action holds the lease of a message between taking and recording it; a request that is dropped in between must not
//! leave the message with nobody.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use super::history::EventPage;
use super::operate::{ActionError, MessageFilter, MessagePage, Operate, QueueView};
use super::turn::Requested;
use super::{ConnectorHealth, Queue};
use crate::model::mail::{Message, MessageId};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::store::history::Position;
use crate::store::{PageKey, StoreError};

/// A person's hands on the queue.
#[derive(Clone)]
pub struct Operator(pub Arc<Queue>);

impl Operator {
    async fn act<F>(&self, action: impl FnOnce(Arc<Queue>) -> F) -> Result<(), ActionError>
    where
        F: Future<Output = Result<(), ActionError>> + Send + 'static,
    {
        let acting = tokio::spawn(action(self.0.clone()));
        acting.await.unwrap_or_else(|error| Err(ActionError::Store(StoreError::Io(error.to_string()))))
    }
}

#[async_trait]
impl Operate for Operator {
    async fn queues_behind(&self, after: Option<&str>, limit: usize) -> Result<Vec<QueueView>, ActionError> {
        self.0.queues_behind(after, limit).await
    }

    async fn queue(&self, queue: &QueueName) -> Result<QueueView, ActionError> {
        self.0.queue(queue).await
    }

    fn connector_health(&self, connector: &Name) -> Option<ConnectorHealth> {
        self.0.connector_health(connector)
    }

    fn last_requested(&self, connector: &Name) -> Option<Requested> {
        self.0.last_requested(connector)
    }

    async fn freeze_queue(&self, name: &QueueName) -> Result<(), ActionError> {
        let name = name.clone();
        self.act(|queue| async move { queue.freeze_queue(&name).await }).await
    }

    async fn thaw_queue(&self, name: &QueueName) -> Result<(), ActionError> {
        let name = name.clone();
        self.act(|queue| async move { queue.thaw_queue(&name).await }).await
    }

    async fn retry_queue(&self, name: &QueueName, by: &str) -> Result<(), ActionError> {
        let (name, by) = (name.clone(), by.to_owned());
        self.act(|queue| async move { queue.retry_queue(&name, &by).await }).await
    }

    async fn messages(
        &self,
        filter: &MessageFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Result<MessagePage, ActionError> {
        self.0.messages(filter, after, limit).await
    }

    async fn message(&self, id: MessageId) -> Result<Arc<Message>, ActionError> {
        self.0.message(id).await
    }

    async fn events(&self, id: MessageId, after: Option<Position>, limit: usize) -> Result<EventPage, ActionError> {
        self.0.events(id, after, limit).await
    }

    async fn freeze(&self, id: MessageId, by: &str) -> Result<(), ActionError> {
        let by = by.to_owned();
        self.act(|queue| async move { queue.freeze(id, &by).await }).await
    }

    async fn thaw(&self, id: MessageId, by: &str) -> Result<(), ActionError> {
        let by = by.to_owned();
        self.act(|queue| async move { queue.thaw(id, &by).await }).await
    }

    async fn retry(&self, id: MessageId, by: &str) -> Result<(), ActionError> {
        let by = by.to_owned();
        self.act(|queue| async move { queue.retry(id, &by).await }).await
    }

    async fn delete(&self, id: MessageId, ndr: bool, by: &str) -> Result<(), ActionError> {
        let by = by.to_owned();
        self.act(|queue| async move { queue.delete(id, ndr, &by).await }).await
    }
}
