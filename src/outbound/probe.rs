//! Next hops asked without mail ([`Probe`]): by the functions that workers use.

use async_trait::async_trait;

use super::{Outbound, hosts, worker};
use crate::model::failure::{Failure, Scope};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::routing::probe::{Hop, NextHops, Probe};
use crate::smtp::reply::EnhancedStatus;

#[async_trait]
impl Probe for Outbound {
    async fn next_hops(&self, queue: &QueueName, took: &Name) -> Option<NextHops> {
        let snapshot = self.queue.snapshot();
        let connector = snapshot.routes.connector(queue.connector()?)?.clone();
        let Some(server) = worker::sender_for(&snapshot, &connector, took, 0) else {
            let words = "there is no virtual server that could send";
            let failure = Failure::new(Scope::Host, EnhancedStatus::transient(3, 5), words);
            return Some(NextHops { server: took.clone(), hosts: Err(failure) });
        };
        let found = hosts::find(&self.resolvers, &snapshot, &self.listeners, &server, &connector, queue, 0)
            .await
            .map(|hops| hops.into_iter().map(|hop| Hop { name: hop.name, address: hop.address }).collect());
        Some(NextHops { server: server.name.clone(), hosts: found })
    }
}
