//! How connectors are doing, by what real mail has met: which of them are down, and what each has last seen of its next hops.
//!
//! In memory: after a restart nothing is known until mail has gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Queue;
use super::link::Link;
use crate::config::Snapshot;
use crate::model::failure::Failure;
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;

/// What a connector has last seen of its next hops.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectorHealth {
    /// When a session was last opened.
    pub opened_at: Option<Timestamp>,
    /// The last failure of a next hop behind which no session was opened, and when it was.
    pub failure: Option<(Timestamp, Failure)>,
    /// Since when it has been as it is: reachable or not.
    pub since: Option<Timestamp>,
    /// None of its smart hosts can be reached, and it is not yet time to try again.
    pub is_down: bool,
}

impl Queue {
    /// What is known of a connector; `None`: it has not tried to send yet.
    pub fn connector_health(&self, connector: &Name) -> Option<ConnectorHealth> {
        let known = self.health().get(connector).cloned()?;
        Some(ConnectorHealth { is_down: self.down().contains(connector), ..known })
    }

    /// A session with a next hop was opened.
    pub(super) fn note_opened(&self, link: &Link) {
        let Some(connector) = link.name.connector() else { return };
        let now = self.now();
        let mut health = self.health();
        let known = health.entry(connector.clone()).or_default();
        known.opened_at = Some(now);
        if known.failure.take().is_some() || known.since.is_none() {
            known.since = Some(now);
        }
    }

    /// No session with any host of a next hop could be had.
    pub(super) fn note_failed(&self, link: &Link, failure: &Failure) {
        let Some(connector) = link.name.connector() else { return };
        let now = self.now();
        // one session too many says nothing while others go on
        if link.failed_until(now).is_none() {
            return;
        }
        let mut health = self.health();
        let known = health.entry(connector.clone()).or_default();
        if known.failure.replace((now, failure.clone())).is_none() {
            known.since = Some(now);
        }
        drop(health);
        self.note_health(link);
    }

    /// Notes whether the connector of a link queue is down; when it has just gone down, its mail takes another way if it has
    /// one.
    pub(super) fn note_health(&self, link: &Link) {
        let QueueName::SmartHost(connector) = &link.name else { return };
        let is_down = link.failed_until(self.now()).is_some();
        if self.down.load().contains(connector) == is_down {
            return;
        }
        self.down.rcu(|known| {
            let mut known = BTreeSet::clone(known);
            if is_down {
                known.insert(connector.clone())
            } else {
                known.remove(connector)
            };
            known
        });
        if is_down && self.live.current().routes.has_another_way(connector) {
            tracing::info!(connector = %connector, "the connector is down; its mail takes another way where there is one");
            self.look_for_another_way(Some(link.name.clone()));
        }
    }

    /// Lets connectors that are down be tried at once when they have been changed: what was found of them before says nothing.
    pub(super) fn try_changed_connectors(&self, known: &Snapshot, current: &Snapshot) {
        for name in self.down().iter() {
            let of = |snapshot: &Snapshot| snapshot.routes.connector(name).map(Arc::as_ptr);
            if of(known) == of(current) {
                continue;
            }
            let link = self.link(&QueueName::SmartHost(name.clone()));
            link.wake();
            self.note_health(&link);
            self.agenda.look_at_once(&link.name);
        }
    }

    /// Forgets connectors that are no more.
    pub(super) fn forget_gone_connectors(&self) {
        let snapshot = self.live.current();
        let is_there = |name: &Name| snapshot.routes.connector(name).is_some();
        self.health().retain(|name, _| is_there(name));
        self.down.rcu(|known| known.iter().filter(|name| is_there(name)).cloned().collect::<BTreeSet<_>>());
    }
}
