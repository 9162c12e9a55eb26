//! What is asked of next hops without mail: `outbound` implements it, so that who explains and who tests need not know sockets.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;

use super::security::Security;
use crate::model::failure::Failure;
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::net::tls::client::Agreed;
use crate::net::transcript::Line;
use crate::smtp::address::Domain;
use crate::smtp::extension::PeerExtensions;

/// A host that would be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Its name, or its address where it has none.
    pub name: String,
    /// Where it would be connected to.
    pub address: SocketAddr,
    /// Whether it would be encrypted, what would be checked, and who says so.
    pub security: Security,
}

/// Where the mail of a queue would go now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHops {
    /// The virtual server that would send.
    pub server: Name,
    /// The hosts, in the order in which they would be tried, or why there are none.
    pub hosts: Result<Vec<Hop>, Failure>,
}

/// What came of a session with a host, up to the point where mail would go.
#[derive(Debug, Clone)]
pub struct Tested {
    /// The host.
    pub hop: Hop,
    /// What speaks against it; `None`: it would take mail.
    pub failure: Option<Failure>,
    /// What was agreed on TLS.
    pub tls: Option<Agreed>,
    /// What it offers.
    pub extensions: Option<PeerExtensions>,
    /// What was said.
    pub dialogue: Vec<Line>,
    /// How long it took, QUIT included.
    pub took: Duration,
}

/// What came of a test.
#[derive(Debug, Clone)]
pub struct TestResult {
    /// The virtual server that sent.
    pub server: Name,
    /// One for each host, or why there are none.
    pub hosts: Result<Vec<Tested>, Failure>,
}

/// Asks next hops.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Where mail in this queue goes that this virtual server took; `None` when no connector carries the queue.
    async fn next_hops(&self, queue: &QueueName, took: &Name) -> Option<NextHops>;

    /// Opens a session with each next hop of a connector, as for mail, and ends it again. By DNS: with those of this domain.
    /// `None` when there is no such connector, or it is not enabled.
    async fn test(&self, connector: &Name, domain: Option<&Domain>) -> Option<TestResult>;
}
