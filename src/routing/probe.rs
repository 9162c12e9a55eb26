//! What is asked of next hops without mail: `outbound` implements it, so that who explains and who tests need not know sockets.

use std::net::SocketAddr;

use async_trait::async_trait;

use crate::model::failure::Failure;
use crate::model::name::Name;
use crate::model::queue_name::QueueName;

/// A host that would be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Its name, or its address where it has none.
    pub name: String,
    /// Where it would be connected to.
    pub address: SocketAddr,
}

/// Where the mail of a queue would go now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHops {
    /// The virtual server that would send.
    pub server: Name,
    /// The hosts, in the order in which they would be tried, or why there are none.
    pub hosts: Result<Vec<Hop>, Failure>,
}

/// Asks for next hops.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Where mail in this queue goes that this virtual server took; `None` when no connector carries the queue.
    async fn next_hops(&self, queue: &QueueName, took: &Name) -> Option<NextHops>;
}
