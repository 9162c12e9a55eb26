//! The one door into the house: SMTP, and later REST, import and pickup, all hand in mail here.
//!
//! `admission` says who may do what, as a list of named rules; `filters` whose mail is not taken, binding by binding;
//! `verify` whether they exist at the next hop;
//! `submit` is the way in for REST: `compose` writes messages, `raw` reads those that come as they are;
//! `explain` tells what would become of a message, by the same rules;
//! `accept` takes the content, and returns only when the message is durable and on its way. Policy sees values, never bytes of the protocol; a refusal is a
//! [`Reply`](crate::smtp::reply::Reply) with generic words, and a log line with the rule's name for the operator.

mod accept;
mod admission;
pub mod compose;
mod door;
pub mod explain;
mod filters;
mod header;
mod limits;
pub mod raw;
mod staging;
pub mod submit;
mod trace;
mod verify;

use std::sync::Arc;

use crate::accounts::Quotas;
use crate::directory::Recipients;
use crate::net::clock::Clock;
use crate::net::resolver::Resolvers;
use crate::observe::metrics::Metrics;
use crate::queue::Queue;
use crate::routing::callout::Callout;
use crate::status::Overload;
use crate::store::Store;

pub use accept::Incoming;
pub use admission::{Asked, Client, RECIPIENTS_PER_MESSAGE, Refusal, max_hold};
pub use door::{Door, Requested, Sender, Submitter};
pub use filters::Filtering;

/// What acceptance needs of the rest of the house.
#[derive(Clone)]
pub struct Intake {
    /// Where mail is kept.
    pub store: Arc<dyn Store>,
    /// Who is local.
    pub recipients: Arc<dyn Recipients>,
    /// Where it goes then.
    pub queue: Arc<Queue>,
    /// What accounts have sent.
    pub quotas: Arc<Quotas>,
    /// Whether there is too much already.
    pub overload: Arc<Overload>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Whom filters ask.
    pub resolvers: Arc<Resolvers>,
    /// Who asks next hops for recipients.
    pub callout: Arc<dyn Callout>,
    /// Counters.
    pub metrics: Metrics,
}
