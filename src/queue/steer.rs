//! What people do with the queue besides what [`Operate`](super::Operate) and [`Bulk`](super::bulk::Bulk) name: choose a connector, send dead
//! letters on their way again, hold mail, suspend connectors, take content out, take the queue out and bring it in.
//!
//! What changes something runs to its end in a task of its own, also when whoever asked has gone away (see [`super::operator`]).

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::bulk::Preview;
use super::holds::{Hold, HoldError, HoldSelector};
use super::operate::{ActionError, MessageFilter};
use super::resubmit::ResubmitError;
use super::sorting::{Place, Sort, SortedPage};
use super::transfer::{Import, ImportBusy, Piece};
use super::{Operator, Queue, Suspended};
use crate::model::mail::{Message, MessageId};
use crate::model::name::Name;
use crate::model::time::Timestamp;
use crate::smtp::address::ForwardPath;
use crate::store::{ContentReader, StoreError};

/// Why a message was not routed through a connector.
#[derive(Debug, thiserror::Error)]
pub enum RerouteError {
    /// There is no such connector, or it is switched off.
    #[error("there is no connector {0:?}, or it is switched off")]
    UnknownConnector(String),
    /// As with any action.
    #[error(transparent)]
    Action(#[from] ActionError),
}

/// Steers the queue. [`Operator`] does.
#[async_trait]
pub trait Steer: Send + Sync {
    /// A page of messages in another order than that of reception.
    async fn sorted(
        &self,
        filter: &MessageFilter,
        sort: Sort,
        from: Place,
        limit: usize,
    ) -> Result<SortedPage, ActionError>;

    /// A message is routed anew, by this connector for all who are not local, or by the usual rules; it is due now.
    async fn reroute_by(&self, id: MessageId, connector: Option<Name>, by: String) -> Result<(), RerouteError>;

    /// Dead letters of a message go on their way again; to these recipients instead, if any are given. The id of the message that goes.
    async fn resubmit(
        &self,
        id: MessageId,
        to: Option<Vec<ForwardPath>>,
        by: String,
    ) -> Result<MessageId, ResubmitError>;

    /// Every hold, the oldest first.
    fn holds(&self) -> Vec<Hold>;

    /// What a hold would move now.
    async fn preview_hold(&self, selector: &HoldSelector) -> Result<Preview, HoldError>;

    /// Holds mail; the operation that moves what waits, if it could begin.
    async fn hold(
        &self,
        selector: HoldSelector,
        reason: String,
        expires_at: Option<Timestamp>,
        by: String,
    ) -> Result<(Hold, Option<Uuid>), HoldError>;

    /// Ends a hold; the operation that lets go what was held, if there is any.
    async fn end_hold(&self, id: Uuid, by: String) -> Result<Option<Uuid>, HoldError>;

    /// By whom and since when a connector is suspended.
    fn suspended(&self, connector: &Name) -> Option<Suspended>;

    /// Nothing is sent through a connector until it is resumed.
    async fn suspend(&self, connector: &Name, by: String) -> Result<(), ActionError>;

    /// Ends that.
    async fn resume(&self, connector: &Name) -> Result<(), ActionError>;

    /// The content of a message, verified.
    async fn content(&self, id: MessageId) -> Result<(Arc<Message>, Box<dyn ContentReader>), ActionError>;

    /// The messages that a filter means, with their content, in pieces. Ends early when nobody takes them any more.
    fn export(&self, filter: MessageFilter) -> mpsc::Receiver<Result<Piece, StoreError>>;

    /// Begins to bring an exported queue in.
    fn import(&self, frozen: bool, dry_run: bool) -> Result<Import, ImportBusy>;
}

/// Runs something to its end, whoever waits for it.
async fn to_the_end<T, E>(action: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    tokio::spawn(action).await.unwrap_or_else(|error| Err(StoreError::Io(error.to_string()).into()))
}

impl From<StoreError> for RerouteError {
    fn from(error: StoreError) -> Self {
        RerouteError::Action(error.into())
    }
}

#[async_trait]
impl Steer for Operator {
    async fn sorted(
        &self,
        filter: &MessageFilter,
        sort: Sort,
        from: Place,
        limit: usize,
    ) -> Result<SortedPage, ActionError> {
        self.0.sorted(filter, sort, from, limit).await
    }

    async fn reroute_by(&self, id: MessageId, connector: Option<Name>, by: String) -> Result<(), RerouteError> {
        if let Some(name) = &connector
            && self.0.snapshot().routes.connector(name).is_none()
        {
            return Err(RerouteError::UnknownConnector(name.to_string()));
        }
        let queue = self.0.clone();
        to_the_end(async move {
            let leased = queue.lease_for_operator(id).await.map_err(ActionError::from)?;
            Ok(queue.route_leased(leased, connector, &by, true).await?)
        })
        .await
    }

    async fn resubmit(
        &self,
        id: MessageId,
        to: Option<Vec<ForwardPath>>,
        by: String,
    ) -> Result<MessageId, ResubmitError> {
        let queue = self.0.clone();
        to_the_end(async move {
            match to {
                Some(to) => queue.resubmit_to(id, to, &by).await,
                None => queue.resubmit_as_it_is(id, &by).await.map(|()| id),
            }
        })
        .await
    }

    fn holds(&self) -> Vec<Hold> {
        self.0.all_holds()
    }

    async fn preview_hold(&self, selector: &HoldSelector) -> Result<Preview, HoldError> {
        self.0.preview_hold(selector).await
    }

    async fn hold(
        &self,
        selector: HoldSelector,
        reason: String,
        expires_at: Option<Timestamp>,
        by: String,
    ) -> Result<(Hold, Option<Uuid>), HoldError> {
        let queue = self.0.clone();
        to_the_end(async move { queue.hold(selector, reason, expires_at, by).await }).await
    }

    async fn end_hold(&self, id: Uuid, by: String) -> Result<Option<Uuid>, HoldError> {
        let queue = self.0.clone();
        to_the_end(async move { queue.end_hold(id, &by).await }).await
    }

    fn suspended(&self, connector: &Name) -> Option<Suspended> {
        self.0.suspended(connector)
    }

    async fn suspend(&self, connector: &Name, by: String) -> Result<(), ActionError> {
        let (queue, connector) = (self.0.clone(), connector.clone());
        to_the_end(async move { Ok(queue.suspend(&connector, by).await?) }).await
    }

    async fn resume(&self, connector: &Name) -> Result<(), ActionError> {
        let (queue, connector) = (self.0.clone(), connector.clone());
        to_the_end(async move { Ok(queue.resume(&connector).await?) }).await
    }

    async fn content(&self, id: MessageId) -> Result<(Arc<Message>, Box<dyn ContentReader>), ActionError> {
        let store = self.0.store();
        let message = store.message(id).await?.ok_or(ActionError::NotFound)?;
        Ok((message, store.content(id).await?))
    }

    fn export(&self, filter: MessageFilter) -> mpsc::Receiver<Result<Piece, StoreError>> {
        let (pieces, taken) = mpsc::channel(4);
        // ends with the listing, or when the other end is dropped
        drop(tokio::spawn(Queue::export(self.0.clone(), filter, pieces)));
        taken
    }

    fn import(&self, frozen: bool, dry_run: bool) -> Result<Import, ImportBusy> {
        Import::begin(self.0.clone(), frozen, dry_run)
    }
}
