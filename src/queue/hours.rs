//! When mail is carried: the schedules of connectors, and mail that waits until somebody asks for it (`remoteTriggered`).
//!
//! While a connector carries nothing at all, its link queues rest, and no message is touched. While it carries only small or only large
//! messages (`oversize`), each of the others is put off until its time as it comes up.

use super::conclusion::Conclusion;
use super::link::Link;
use super::scheduler::waiting_here;
use super::{Queue, settings};
use crate::config::Snapshot;
use crate::model::mail::Message;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::routing::Connector;
use crate::store::Leased;

/// Until when a connector does not carry a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// Its schedule opens.
    Until(Timestamp),
    /// Somebody asks for it.
    UntilAskedFor,
}

impl Queue {
    /// Lets a link queue rest when its connector carries nothing now, and says until when (for ever when somebody has to ask
    /// for it); else sees to it that it is looked at when that begins.
    pub(super) fn keep_hours(&self, link: &Link, now: Timestamp) -> Option<Timestamp> {
        let snapshot = self.live.current();
        let connector = settings::connector(&snapshot, &link.name)?;
        if is_held(&link.name, link.is_asked_for(), connector) {
            self.release(link.hold());
            return Some(Timestamp::from_millis(i64::MAX));
        }
        if connector.spec.schedule.is_none() && connector.spec.oversize.is_none() {
            link.open();
            return None;
        }
        let opens = connector.opens(now);
        if opens > now && !link.is_forced() {
            self.release(link.close(opens));
            self.agenda.look(&link.name, opens);
            return Some(opens);
        }
        link.open();
        if !link.is_forced() {
            self.release(link.take_back(|leased| connector.opens_for(leased.message.size, now) > now));
        }
        let schedules = [&connector.spec.schedule].into_iter().flatten();
        let schedules = schedules.chain(connector.spec.oversize.as_ref().map(|oversize| &oversize.schedule));
        if let Some(closes) = schedules.filter_map(|schedule| schedule.closes(now)).min() {
            self.agenda.look(&link.name, closes);
        }
        None
    }

    /// Until when a message has to wait for its connector's schedule; `None`: it may go.
    pub(super) fn put_off(&self, link: &Link, message: &Message, now: Timestamp) -> Option<Timestamp> {
        let opens = opens_for(&self.live.current(), &link.name, message.size, now);
        (opens > now && !link.is_forced()).then_some(opens)
    }

    /// Until when a message of this size has to wait in this queue for its connector; `None`: it need not.
    pub(super) fn closed(&self, queue: &QueueName, size: u64, now: Timestamp) -> Option<Closed> {
        let snapshot = self.live.current();
        let connector = settings::connector(&snapshot, queue)?;
        let link = self.links().get(queue).cloned();
        if is_held(queue, link.as_ref().is_some_and(|link| link.is_asked_for()), connector) {
            return Some(Closed::UntilAskedFor);
        }
        let opens = connector.opens_for(size, now);
        (opens > now && !link.is_some_and(|link| link.is_forced())).then_some(Closed::Until(opens))
    }

    /// Whether the connector of this queue carries anything now. A session takes no more when it does not.
    pub fn carries_now(&self, link: &Link) -> bool {
        let now = self.now();
        let snapshot = self.live.current();
        let carries =
            |connector: &Connector| connector.opens(now) <= now && !is_held(&link.name, link.is_asked_for(), connector);
        link.is_forced() || settings::connector(&snapshot, &link.name).is_none_or(|connector| carries(connector))
    }

    /// Puts off the recipients of a message that wait in this queue.
    pub(super) async fn wait_until(&self, queue: &QueueName, leased: Leased, until: Timestamp) {
        let all = waiting_here(&leased.message, queue).map(|index| (index, Conclusion::PutOff { until })).collect();
        self.conclude_logged(leased, all).await;
    }
}

/// Whether the mail of this queue waits until somebody asks for it. What waits for smart hosts together is from before the connector
/// was so, and goes to the queues of its domains first.
fn is_held(queue: &QueueName, is_asked_for: bool, connector: &Connector) -> bool {
    connector.is_remote_triggered() && matches!(queue, QueueName::Dns(..)) && !is_asked_for
}

fn opens_for(snapshot: &Snapshot, queue: &QueueName, size: u64, now: Timestamp) -> Timestamp {
    settings::connector(snapshot, queue).map_or(now, |connector| connector.opens_for(size, now))
}
