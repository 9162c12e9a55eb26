//! Next hops asked without mail ([`Probe`]): by the functions that workers use.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::hosts::NextHop;
use super::session::{Purpose, credentials, open, security_of};
use super::{Outbound, hosts, worker};
use crate::config::VirtualServer;
use crate::model::failure::{Failure, Scope};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::spec::DEFAULT;
use crate::model::spec::connector::security::TlsLevel;
use crate::net::client_driver::{ContentUnavailable, Work};
use crate::net::transcript::Transcript;
use crate::routing::Connector;
use crate::routing::probe::{Hop, NextHops, Probe, TestResult, Tested};
use crate::smtp::address::Domain;
use crate::smtp::client::{RecipientResult, Transaction};
use crate::smtp::reply::EnhancedStatus;
use crate::smtp::sasl::client::Credentials;

/// The longest that one host is tested.
const TEST_LIMIT: Duration = Duration::from_secs(60);

/// Where the mail of a queue goes: who sends, to whom.
struct Ways {
    connector: Arc<Connector>,
    server: Arc<VirtualServer>,
    floor: Option<TlsLevel>,
    hosts: Result<Vec<NextHop>, Failure>,
}

impl Outbound {
    async fn ways(&self, queue: &QueueName, took: &Name) -> Option<Result<Ways, Failure>> {
        let snapshot = self.queue.snapshot();
        let connector = snapshot.routes.connector(queue.connector()?)?.clone();
        let Some(server) = worker::sender_for(&snapshot, &connector, took, 0) else {
            let words = "there is no virtual server that could send";
            return Some(Err(Failure::new(Scope::Host, EnhancedStatus::transient(3, 5), words)));
        };
        let hosts = hosts::find(self.look_up(), &snapshot, &server, &connector, queue, 0).await;
        let floor = snapshot.tls_floor(&connector, queue);
        Some(Ok(Ways { connector, server, floor, hosts }))
    }

    /// One session, opened as for mail and ended by QUIT.
    async fn ask(
        &self,
        ways: &Ways,
        queue: &QueueName,
        next: NextHop,
        credentials: &mut Option<Credentials>,
    ) -> Tested {
        let began = self.clock.now();
        let transcript = Transcript::new(began);
        let mut tested = Tested {
            hop: hop(ways, queue, &next),
            failure: None,
            tls: None,
            extensions: None,
            dialogue: Vec::new(),
            took: Duration::ZERO,
        };
        let before = credentials.clone();
        let session = async {
            let host = std::slice::from_ref(&next);
            let purpose = Purpose::Test(&transcript);
            let (connection, _) = open(self, &ways.server, &ways.connector, queue, host, credentials, purpose).await?;
            let known = (connection.agreed().cloned(), connection.extensions().clone());
            connection.run(&mut Nothing, &*self.clock).await;
            Ok(known)
        };
        match tokio::time::timeout(TEST_LIMIT, session).await {
            Ok(Ok((tls, extensions))) => (tested.tls, tested.extensions) = (tls, Some(extensions)),
            Ok(Err(failure)) => tested.failure = Some(failure),
            Err(_) => {
                let words = format!("the test took longer than {} seconds", TEST_LIMIT.as_secs());
                tested.failure = Some(Failure::new(Scope::Host, EnhancedStatus::transient(4, 1), words));
            }
        }
        tested.dialogue = transcript.lines();
        // a peer may say back what it was shown
        let shown = [&before, &*credentials].into_iter().flatten();
        for line in &mut tested.dialogue {
            if shown.clone().any(|credentials| credentials.are_in(&line.text)) {
                line.text = "***".to_owned();
            }
        }
        tested.took = self.clock.now().saturating_duration_since(began);
        tested
    }
}

fn hop(ways: &Ways, queue: &QueueName, hop: &NextHop) -> Hop {
    let security = security_of(&ways.server, &ways.connector, ways.floor, queue, hop);
    Hop { name: hop.name.clone(), address: hop.address, security, asked: hop.asked.clone() }
}

#[async_trait]
impl Probe for Outbound {
    async fn next_hops(&self, queue: &QueueName, took: &Name) -> Option<NextHops> {
        Some(match self.ways(queue, took).await? {
            Err(failure) => NextHops { server: took.clone(), hosts: Err(failure) },
            Ok(ways) => {
                let hosts = ways.hosts.clone().map(|hosts| hosts.iter().map(|next| hop(&ways, queue, next)).collect());
                NextHops { server: ways.server.name.clone(), hosts }
            }
        })
    }

    async fn test(&self, connector: &Name, domain: Option<&Domain>) -> Option<TestResult> {
        let snapshot = self.queue.snapshot();
        let default: Name = DEFAULT.parse().ok()?;
        let took = snapshot.default_virtual_server.clone().unwrap_or(default);
        let known = snapshot.routes.connector(connector)?;
        let queue = match domain {
            Some(domain) => known.queue(domain),
            None => QueueName::SmartHost(connector.clone()),
        };
        let ways = match self.ways(&queue, &took).await? {
            Ok(ways) => ways,
            Err(failure) => return Some(TestResult { server: took, hosts: Err(failure) }),
        };
        let mut hosts = Vec::new();
        let mut login = match credentials(self, &ways.connector).await {
            Ok(login) => login,
            Err(failure) => return Some(TestResult { server: ways.server.name.clone(), hosts: Err(failure) }),
        };
        match &ways.hosts {
            Err(failure) => return Some(TestResult { server: ways.server.name.clone(), hosts: Err(failure.clone()) }),
            Ok(found) => {
                for next in found.clone() {
                    hosts.push(self.ask(&ways, &queue, next, &mut login).await);
                }
            }
        }
        Some(TestResult { server: ways.server.name.clone(), hosts: Ok(hosts) })
    }
}

/// No mail: the session ends at once.
/// No mail: the session ends with QUIT.
pub(super) struct Nothing;

impl Work for Nothing {
    async fn next(&mut self, _: bool) -> Option<Transaction> {
        None
    }

    async fn content(&mut self) -> Result<Option<Bytes>, ContentUnavailable> {
        Ok(None)
    }

    async fn finished(&mut self, _: Vec<RecipientResult>) {}
}
