//! The delivery settings in force: of the virtual server that took the message, else of the default one, else built in.
//! Where a connector says something, it goes first. Mail that waits for a mailbox store has times of its own.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::config::{Snapshot, VirtualServer};
use crate::model::duration;
use crate::model::mail::Message;
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::spec::connector::RouteSpec;
use crate::model::spec::virtual_server::{Delivery, GlitchRetry, Outbound};
use crate::model::time::Timestamp;
use crate::routing::{Connector, scramble};
use crate::smtp::parameters::ByMode;

static DELIVERY: LazyLock<Delivery> = LazyLock::new(Delivery::default);
static OUTBOUND: LazyLock<Outbound> = LazyLock::new(Outbound::default);

/// How long mail may wait, and how often it is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms<'a> {
    glitch: &'a GlitchRetry,
    intervals: &'a [duration::Duration],
    /// The age at which the sender is told that it is delayed.
    pub delay_after: Duration,
    /// The age at which it is given up.
    pub expire_after: Duration,
}

impl Terms<'_> {
    /// How long to wait after the `failures`-th failure in a row (from 1): glitch retries, then the intervals, the last
    /// one again and again. A tenth more or less, by `seed`, so that what failed together does not come again together.
    pub(super) fn retry_after(&self, failures: u32, seed: u64) -> Duration {
        jittered(self.interval(failures), scramble(seed ^ u64::from(failures)))
    }

    fn interval(&self, failures: u32) -> Duration {
        if failures <= self.glitch.times {
            return self.glitch.after.std();
        }
        let step = (failures - self.glitch.times - 1) as usize;
        let interval = self.intervals.get(step).or(self.intervals.last());
        interval.map_or(Duration::from_secs(900), |interval| interval.std())
    }
}

/// From nine tenths of an interval to eleven, evenly.
fn jittered(interval: Duration, random: u64) -> Duration {
    let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX / 16);
    let span = millis / 5;
    Duration::from_millis(millis - millis / 10 + random % (span + 1))
}

/// What makes the waits of one queue differ from those of another.
pub(super) fn seed_of(queue: &QueueName) -> u64 {
    queue.to_string().bytes().fold(0, |seed, octet| scramble(seed ^ u64::from(octet)))
}

/// The terms of mail of this server that waits in this queue.
pub(super) fn terms<'a>(snapshot: &'a Snapshot, server: &Name, queue: &QueueName) -> Terms<'a> {
    let delivery = snapshot.delivery_server(server).map_or(&*DELIVERY, |server| &server.spec.delivery);
    if let QueueName::Local(_) = queue {
        return local(delivery);
    }
    let connector = connector(snapshot, queue);
    let own = connector.map(|connector| connector.spec.retry_intervals.as_slice()).filter(|own| !own.is_empty());
    Terms { intervals: own.unwrap_or(&delivery.retry_intervals), ..remote(delivery) }
}

fn remote(delivery: &Delivery) -> Terms<'_> {
    Terms {
        glitch: &delivery.glitch_retry,
        intervals: &delivery.retry_intervals,
        delay_after: delivery.delay_notification_after.std(),
        expire_after: delivery.expire_after.std(),
    }
}

fn local(delivery: &Delivery) -> Terms<'_> {
    Terms {
        glitch: &delivery.local.glitch_retry,
        intervals: &delivery.local.retry_intervals,
        delay_after: delivery.local.delay_notification_after.std(),
        expire_after: delivery.local.expire_after.std(),
    }
}

/// When the age of a message has its effects, whichever of the server's settings and the sender's wish (BY) counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    /// From then on its delay is told, once. In mode N of BY it is the sender's time (RFC 2852).
    pub late: Timestamp,
    /// From then on it is returned. In mode R of BY it may be the sender's time.
    pub expires: Timestamp,
}

/// See [`Ends`]. All of it counts from the release of the message, and holds for recipients that wait in this queue.
pub(super) fn ends(snapshot: &Snapshot, message: &Message, queue: &QueueName) -> Ends {
    let terms = terms(snapshot, &message.origin.virtual_server, queue);
    let from = message.released_at();
    let ends = Ends { late: from + terms.delay_after, expires: from + terms.expire_after };
    match message.deliver_by() {
        Some((deadline, ByMode::Return)) => Ends { expires: ends.expires.min(deadline), ..ends },
        // one that came late was told about before it came
        Some((deadline, ByMode::Notify)) if deadline > from => Ends { late: deadline, ..ends },
        Some((_, ByMode::Notify)) | None => ends,
    }
}

/// The connector that carries this queue.
pub(super) fn connector<'a>(snapshot: &'a Snapshot, queue: &QueueName) -> Option<&'a Arc<Connector>> {
    snapshot.routes.connector(queue.connector()?)
}

/// Outbound limits of this server.
pub(super) fn outbound<'a>(snapshot: &'a Snapshot, server: Option<&'a VirtualServer>) -> &'a Outbound {
    let default = || snapshot.default_virtual_server.as_ref().and_then(|name| snapshot.virtual_servers.get(name));
    server.or_else(|| default().map(|server| &**server)).map_or(&OUTBOUND, |server| &server.spec.outbound)
}

/// The name that notifications about mail of this server carry.
pub(super) fn fqdn<'a>(snapshot: &'a Snapshot, server: &Name) -> &'a str {
    snapshot.delivery_server(server).map_or("localhost", |server| server.fqdn.as_str())
}

/// Most sessions with the next hop of this queue at once.
pub(super) fn max_sessions(snapshot: &Snapshot, queue: &QueueName) -> usize {
    match queue {
        QueueName::Local(store) => snapshot.stores.get(store).map_or(1, |store| store.spec.max_connections() as usize),
        QueueName::Directory => 4,
        QueueName::Unrouted | QueueName::Held | QueueName::DeadLetter => 0,
        QueueName::SmartHost(name) | QueueName::Dns(name, _) => {
            let connector = snapshot.routes.connector(name);
            let server = connector.and_then(|connector| connector.spec.bridgeheads.first());
            let server = server.and_then(|name| snapshot.virtual_servers.get(name));
            let outbound = outbound(snapshot, server.map(|server| &**server));
            let own = connector.and_then(|connector| connector.spec.limits.max_connections_per_host);
            own.unwrap_or(outbound.max_connections_per_domain) as usize
        }
    }
}

/// The age at which something happens to mail for its age alone, in whichever server's settings it comes first.
pub(super) fn first_age(snapshot: &Snapshot) -> Duration {
    let servers = snapshot.virtual_servers.values().map(|server| &server.spec.delivery);
    servers
        .flat_map(|delivery| [remote(delivery), local(delivery)])
        .map(|terms| terms.delay_after.min(terms.expire_after))
        .min()
        .unwrap_or(DELIVERY.delay_notification_after.std())
}

/// A setting that holds for the mail of a queue, and the object that it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Its name in the object.
    pub name: &'static str,
    /// What it is.
    pub value: String,
    /// `collection/name`, or `builtIn`.
    pub source: String,
}

/// What holds for mail in this queue that this server took.
pub fn effective(snapshot: &Snapshot, took: &Name, queue: &QueueName) -> Vec<Effective> {
    let server = snapshot.delivery_server(took).map(|server| format!("virtual-servers/{}", server.name));
    let server = server.unwrap_or_else(|| "builtIn".to_owned());
    let of = |name, value: String, source: &str| Effective { name, value, source: source.to_owned() };
    let terms = terms(snapshot, took, queue);
    let intervals: Vec<String> = terms.intervals.iter().map(ToString::to_string).collect();
    let connector = connector(snapshot, queue);
    let by_connector = connector.map(|connector| format!("connectors/{}", connector.name));
    let either = |own: bool| if own { by_connector.as_deref().unwrap_or(&server) } else { &server };
    let own = connector.is_some_and(|connector| !connector.spec.retry_intervals.is_empty());
    let glitches = format!("{} × {}", terms.glitch.times, terms.glitch.after);
    let whole = |time: Duration| duration::Duration::from_secs(time.as_secs()).to_string();
    let mut all = vec![
        of("glitchRetry", glitches, &server),
        of("retryIntervals", intervals.join(", "), either(own)),
        of("delayNotificationAfter", whole(terms.delay_after), &server),
        of("expireAfter", whole(terms.expire_after), &server),
    ];
    if let Some(connector) = connector {
        let limits = &connector.spec.limits;
        let own = limits.max_connections_per_host.is_some();
        let most = max_sessions(snapshot, queue).to_string();
        all.push(of("maxConnectionsPerHost", most, either(own)));
        let outbound = outbound(snapshot, snapshot.delivery_server(took).map(|server| &**server));
        let per_connection = limits.messages_per_connection.unwrap_or(outbound.messages_per_connection);
        let own = limits.messages_per_connection.is_some();
        let rates = [("rate", limits.rate), ("ratePerHost", limits.rate_per_host)];
        for (name, rate) in rates.into_iter().filter_map(|(name, rate)| Some((name, rate?))) {
            all.push(of(name, rate.to_string(), either(true)));
        }
        all.push(of("messagesPerConnection", per_connection.to_string(), either(own)));
    }
    all
}

/// Where the mail of a queue goes, in words.
pub(super) fn next_hop(snapshot: &Snapshot, queue: &QueueName) -> Option<String> {
    match queue {
        QueueName::Dns(_, domain) => Some(domain.to_string()),
        QueueName::SmartHost(name) => match &snapshot.routes.connector(name)?.spec.route {
            RouteSpec::SmartHosts(hosts) => {
                let hosts: Vec<String> = hosts.iter().map(|host| format!("{}:{}", host.host, host.port)).collect();
                Some(hosts.join(", "))
            }
            RouteSpec::Dns(_) => None,
        },
        QueueName::Local(store) => Some(format!("mailbox store {store}")),
        QueueName::Directory | QueueName::Unrouted | QueueName::Held | QueueName::DeadLetter => None,
    }
}

/// Whether the mail of a queue goes to this next hop: a domain, a smart host with or without its port, or all of
/// [`next_hop`]'s words.
pub(super) fn goes_to(snapshot: &Snapshot, queue: &QueueName, wanted: &str) -> bool {
    let is_host = |host: &crate::model::spec::connector::SmartHost| {
        let name = host.host.to_string();
        name.eq_ignore_ascii_case(wanted) || format!("{name}:{}", host.port).eq_ignore_ascii_case(wanted)
    };
    let smart_hosts = match queue {
        QueueName::SmartHost(name) => snapshot.routes.connector(name).map(|connector| &connector.spec.route),
        _ => None,
    };
    let one_of_them = matches!(smart_hosts, Some(RouteSpec::SmartHosts(hosts)) if hosts.iter().any(is_host));
    one_of_them || next_hop(snapshot, queue).is_some_and(|words| words.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_differ_by_a_tenth_at_most_and_are_the_same_each_time() {
        let delivery = Delivery::default();
        let terms = remote(&delivery);
        for (failures, seconds) in [(1, 60), (3, 60), (4, 900), (5, 1_800), (6, 3_600), (7, 14_400), (70, 14_400)] {
            let waits: Vec<u64> =
                (0..500).map(|seed| terms.retry_after(failures, scramble(seed)).as_millis() as u64).collect();
            let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            assert!(*least >= seconds * 900 && *most <= seconds * 1_100, "{least} {most}");
            assert!(*least < seconds * 920 && *most > seconds * 1_080, "spread: {least} {most}");
        }
        assert_eq!(terms.retry_after(4, 7), terms.retry_after(4, 7));
        assert_eq!(jittered(Duration::from_millis(1), 5), Duration::from_millis(1));
    }
}
