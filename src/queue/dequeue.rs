//! A client asks for what waits for its domain (ETRN, RFC 1985): the link queues of that domain are tried now.
//!
//! Mail that waits to be asked for (`remoteTriggered`) goes when an account asks that its connector names; others do not even
//! hear of it.
//!
//! Only the rest of a next hop that failed is ended, nothing is written: whoever asks again and again costs one
//! attempt each time, no more. Messages that were deferred by themselves keep their time.

use super::{Queue, settings};
use crate::model::host::domain_key;
use crate::model::name::Name;
use crate::model::pattern::AddressPattern;
use crate::model::queue_name::QueueName;
use crate::model::spec::connector::RouteSpec;
use crate::smtp::address::Domain;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The account that it has authenticated as.
    pub account: Option<&'a Name>,
    /// It may have any mail tried that need not be asked for.
    pub is_trusted: bool,
}

impl Queue {
    /// Tries the queues of this domain now, and with `below` those of the domains below it too, as far as who asks may have it.
    /// How many messages wait there.
    pub fn dequeue(&self, domain: &Domain, below: bool, asker: Asker<'_>) -> u64 {
        let snapshot = self.live.current();
        let mut waiting = 0;
        for count in self.store.queues() {
            let connector = settings::connector(&snapshot, &count.queue);
            let held = connector.filter(|connector| connector.is_remote_triggered());
            let may = match held {
                Some(connector) => asker.account.is_some_and(|account| connector.is_fetched_by(account)),
                None => asker.is_trusted,
            };
            let wanted = may && count.messages > 0 && self.is_for(&count.queue, domain, below);
            if wanted && !self.frozen().contains(&count.queue) {
                waiting += count.messages;
                let link = self.link(&count.queue);
                match held {
                    Some(_) => link.trigger(),
                    None => link.wake(),
                }
                self.note_health(&link);
                self.agenda.look_at_once(&count.queue);
            }
        }
        waiting
    }

    /// Whether the queue holds mail for this domain alone: by DNS, or by a connector with an address space for it.
    fn is_for(&self, queue: &QueueName, domain: &Domain, below: bool) -> bool {
        let covers = |own: &Domain| {
            let (own, wanted) = (domain_key(own), domain_key(domain));
            own == wanted || below && own.strip_suffix(&*wanted).is_some_and(|rest| rest.ends_with('.'))
        };
        match queue {
            QueueName::Dns(_, own) => covers(own),
            QueueName::SmartHost(name) => {
                let snapshot = self.live.current();
                snapshot.routes.connector(name).is_some_and(|connector| {
                    matches!(connector.spec.route, RouteSpec::SmartHosts(_))
                        && connector.spec.address_spaces.iter().any(|space| match &space.pattern {
                            AddressPattern::Exact(own) => covers(own),
                            AddressPattern::Below(own) => below && covers(own),
                            AddressPattern::Any => false,
                        })
                })
            }
            _ => false,
        }
    }
}
