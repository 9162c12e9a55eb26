//! Whether a recipient exists, asked of the next hop before mail for it is taken. `outbound` asks, `intake` wants to know.

use async_trait::async_trait;

use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::smtp::address::Mailbox;

/// What a next hop says of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Existence {
    /// It takes mail for it.
    Exists,
    /// There is no such recipient, in these words.
    Unknown(String),
    /// It could not be asked, or its answer says nothing about the recipient: this is why.
    Unclear(String),
}

/// Asks next hops for recipients.
#[async_trait]
pub trait Callout: Send + Sync {
    /// Asks the next hop of this queue; `took` is the virtual server that would take the mail. Bounded in time, and answers are
    /// kept for a while.
    async fn exists(&self, queue: &QueueName, took: &Name, recipient: &Mailbox) -> Existence;
}

/// Asks nobody.
#[cfg(test)]
#[derive(Debug)]
pub struct Unasked;

#[cfg(test)]
#[async_trait]
impl Callout for Unasked {
    async fn exists(&self, _: &QueueName, _: &Name, _: &Mailbox) -> Existence {
        Existence::Unclear("nobody asks".to_owned())
    }
}
