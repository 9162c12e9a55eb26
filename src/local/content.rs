//! The content of a message on its way into a store, wherever it is: in memory still, or in the spool.

use bytes::Bytes;

use crate::model::failure::{Failure, Scope};
use crate::queue::Queue;
use crate::smtp::reply::EnhancedStatus;
use crate::store::{ContentReader, Leased, StoreError};

/// Content, where it is.
pub(super) enum Content {
    Memory(Option<Bytes>),
    Stored(Box<dyn ContentReader>),
}

impl Content {
    /// That of a message in hand.
    pub(super) async fn of(queue: &Queue, leased: &Leased) -> Result<Content, Failure> {
        match &leased.content {
            Some(content) => Ok(Content::Memory(Some(content.clone()))),
            None => queue.store().content(leased.message.id).await.map(Content::Stored).map_err(|e| unreadable(&e)),
        }
    }

    /// The next chunk; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        match self {
            Content::Memory(content) => Ok(content.take()),
            Content::Stored(reader) => reader.next().await,
        }
    }
}

/// The spool cannot give the content now: the message waits.
pub(super) fn unreadable(error: &StoreError) -> Failure {
    let words = format!("the content of the message cannot be read: {error}");
    Failure::new(Scope::Message, EnhancedStatus::transient(3, 0), words)
}
