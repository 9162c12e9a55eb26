//! A made-up [`Steer`] for tests of the API alone: it holds nothing and moves nothing.

use std::sync::Arc;

use async_trait::async_trait;
use bridgehead::model::mail::{Message, MessageId};
use bridgehead::model::name::Name;
use bridgehead::model::time::Timestamp;
use bridgehead::queue::bulk::Preview;
use bridgehead::queue::holds::{Hold, HoldError, HoldSelector};
use bridgehead::queue::operate::{ActionError, MessageFilter, Operate};
use bridgehead::queue::resubmit::ResubmitError;
use bridgehead::queue::sorting::{Place, Sort, SortedPage};
use bridgehead::queue::steer::RerouteError;
use bridgehead::queue::transfer::{Import, ImportBusy, Piece};
use bridgehead::queue::{Steer, Suspended};
use bridgehead::smtp::address::ForwardPath;
use bridgehead::store::{ContentReader, StoreError};
use tokio::sync::mpsc;

use super::api_house::Queue;

#[async_trait]
impl Steer for Queue {
    async fn sorted(&self, _: &MessageFilter, _: Sort, _: Place, _: usize) -> Result<SortedPage, ActionError> {
        Ok(SortedPage::default())
    }

    async fn reroute_by(&self, id: MessageId, _: Option<Name>, _: String) -> Result<(), RerouteError> {
        self.message(id).await?;
        Ok(())
    }

    async fn resubmit(
        &self,
        id: MessageId,
        _: Option<Vec<ForwardPath>>,
        _: String,
    ) -> Result<MessageId, ResubmitError> {
        self.message(id).await?;
        Err(ResubmitError::NotDead)
    }

    fn holds(&self) -> Vec<Hold> {
        Vec::new()
    }

    async fn preview_hold(&self, _: &HoldSelector) -> Result<Preview, HoldError> {
        Ok(Preview { count: 2, complete: true, sample: Vec::new() })
    }

    async fn hold(
        &self,
        _: HoldSelector,
        _: String,
        _: Option<Timestamp>,
        _: String,
    ) -> Result<(Hold, Option<uuid::Uuid>), HoldError> {
        Err(HoldError::EmptySelector)
    }

    async fn end_hold(&self, _: uuid::Uuid, _: String) -> Result<Option<uuid::Uuid>, HoldError> {
        Err(HoldError::NotFound)
    }

    fn suspended(&self, _: &Name) -> Option<Suspended> {
        None
    }

    async fn suspend(&self, _: &Name, _: String) -> Result<(), ActionError> {
        Ok(())
    }

    async fn resume(&self, _: &Name) -> Result<(), ActionError> {
        Ok(())
    }

    async fn content(&self, _: MessageId) -> Result<(Arc<Message>, Box<dyn ContentReader>), ActionError> {
        Err(ActionError::NotFound)
    }

    fn export(&self, _: MessageFilter) -> mpsc::Receiver<Result<Piece, StoreError>> {
        mpsc::channel(1).1
    }

    fn import(&self, _: bool, _: bool) -> Result<Import, ImportBusy> {
        Err(ImportBusy)
    }
}
