//! Asks other hosts for the mail that waits there (`requestDequeue`), by ETRN or ATRN.
//!
//! One task looks once a second which connectors are due; each asks in a task of its own, one at a time. The session is opened as any
//! other of the connector that `requestDequeue` stands for. With ATRN the connection turns round, and what comes is taken by
//! `inbound` as from any client. What fails is asked again at the retry intervals of the connector.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::probe::Nothing;
use super::session::{self, Purpose, label};
use super::{Outbound, hosts};
use crate::config::{Snapshot, dequeue_connector};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::schedule::Schedule;
use crate::model::spec::connector::fetching::{DequeueMethod, RequestDequeue};
use crate::model::time::Timestamp;
use crate::net::client_driver::Connection;
use crate::net::connect::Stream;
use crate::queue::turn::{Receives, Reversed};
use crate::smtp::reply::Reply;

/// How often it is looked who is due.
const TICK: Duration = Duration::from_secs(1);
/// The least time between two requests of a connector that asks when it sends.
const PAUSE: Duration = Duration::from_secs(10);

/// When a connector asks.
struct Plan {
    /// Of the settings that it was made by.
    generation: u64,
    next: Option<Timestamp>,
    /// When it began to ask last.
    began: Option<Timestamp>,
    failures: u32,
    runs: bool,
}

impl Outbound {
    /// Asks until the process drains; returns when the last request has ended.
    pub async fn request_mail(self: Arc<Self>, receives: Arc<dyn Receives>, mut drain: watch::Receiver<Option<Reply>>) {
        let mut plans: HashMap<Name, Plan> = HashMap::new();
        let mut running: JoinSet<(Name, bool)> = JoinSet::new();
        loop {
            let snapshot = self.queue.snapshot();
            for name in self.due(&snapshot, &mut plans) {
                let (outbound, receives, drain) = (self.clone(), receives.clone(), drain.clone());
                running.spawn(async move {
                    let result = outbound.request(&name, &*receives, drain).await;
                    match &result {
                        Ok(said) => tracing::info!(connector = %name, said, "waiting mail was asked for"),
                        Err(why) => {
                            tracing::warn!(connector = %name, error = why, "waiting mail could not be asked for")
                        }
                    }
                    let ok = result.is_ok();
                    outbound.queue.note_requested(&name, result);
                    (name, ok)
                });
            }
            tokio::select! {
                _ = drain.wait_for(Option::is_some) => break,
                Some(ended) = running.join_next() => match ended {
                    Ok((name, ok)) => self.plan_again(&mut plans, &name, ok),
                    Err(error) => tracing::error!(%error, "a request for waiting mail broke"),
                },
                () = tokio::time::sleep(TICK) => {}
            }
        }
        // sessions that take mail end with 421
        while running.join_next().await.is_some() {}
    }

    /// The connectors that are to ask now; they count as running from here on.
    fn due(&self, snapshot: &Snapshot, plans: &mut HashMap<Name, Plan>) -> Vec<Name> {
        let now = self.now();
        plans.retain(|name, plan| plan.runs || request_of(snapshot, name).is_some());
        let mut due = Vec::new();
        for connector in snapshot.routes.connectors() {
            let Some(request) = &connector.spec.request_dequeue else { continue };
            let fresh = || Plan {
                generation: connector.generation,
                next: first(request, now),
                began: None,
                failures: 0,
                runs: false,
            };
            let plan = plans.entry(connector.name.clone()).or_insert_with(fresh);
            if plan.generation != connector.generation {
                *plan = Plan { runs: plan.runs, began: plan.began, ..fresh() };
            }
            if plan.runs {
                continue;
            }
            let rested = plan.began.is_none_or(|began| began + PAUSE <= now);
            let sent = || self.queue.connector_health(&connector.name).and_then(|health| health.opened_at);
            let sends =
                request.on_send && rested && sent().is_some_and(|at| plan.began.is_none_or(|began| at >= began));
            if sends || plan.next.is_some_and(|next| next <= now) {
                (plan.runs, plan.began, plan.next) = (true, Some(now), None);
                due.push(connector.name.clone());
            }
        }
        due
    }

    fn plan_again(&self, plans: &mut HashMap<Name, Plan>, name: &Name, ok: bool) {
        let (now, snapshot) = (self.now(), self.queue.snapshot());
        let Some(plan) = plans.get_mut(name) else { return };
        plan.runs = false;
        let Some(request) = request_of(&snapshot, name) else { return };
        let regular = next(request, plan.began.unwrap_or(now), now);
        plan.failures = if ok { 0 } else { plan.failures.saturating_add(1) };
        // settings that changed meanwhile have made a plan of their own
        plan.next = plan.next.or(match ok {
            true => regular,
            false => {
                let again = now + self.queue.request_again_after(name, plan.failures);
                let again = in_window(request.schedule.as_ref(), again);
                [again, regular].into_iter().flatten().min()
            }
        });
    }

    /// Asks once. What the other side said.
    async fn request(
        &self,
        name: &Name,
        receives: &dyn Receives,
        mut drain: watch::Receiver<Option<Reply>>,
    ) -> Result<String, String> {
        let turned = tokio::select! {
            turned = self.ask_for_mail(name) => turned?,
            _ = drain.wait_for(Option::is_some) => return Err("the process ends".to_owned()),
        };
        match turned {
            Asked::Told(said) => Ok(said),
            Asked::Turned(said, reversed) => {
                let taken = receives.receive(reversed).await?;
                Ok(format!("{said}; messages taken: {taken}"))
            }
        }
    }

    async fn ask_for_mail(&self, name: &Name) -> Result<Asked, String> {
        let snapshot = self.queue.snapshot();
        let request = request_of(&snapshot, name).ok_or("the connector has changed")?;
        let connector = dequeue_connector(name).and_then(|name| snapshot.routes.connector(&name));
        let connector = connector.ok_or("the connector has changed")?;
        let server = request.virtual_server.as_ref().or(snapshot.default_virtual_server.as_ref());
        let server = server.and_then(|name| snapshot.virtual_servers.get(name));
        let server = server.ok_or("there is no virtual server that could ask")?;
        let queue = QueueName::SmartHost(connector.name.clone());
        let hops = hosts::find(self.look_up(), &snapshot, server, connector, &queue, 0).await;
        let hops = hops.map_err(|failure| failure.to_string())?;
        let login = session::credentials(self, connector).await;
        let mut login = login.map_err(|failure| failure.to_string())?;
        let mut last = "the host has no address".to_owned();
        for host in hops.chunk_by(|one, next| one.host() == next.host()) {
            let opened = session::open(self, server, connector, &queue, host, &mut login, Purpose::Mail).await;
            let (mut connection, hop) = match opened {
                Ok((connection, at)) => (connection, &host[at]),
                Err(failure) => {
                    last = failure.to_string();
                    continue;
                }
            };
            let host = label(hop);
            return match request.method {
                DequeueMethod::Etrn => {
                    let said = self.etrn(&mut connection, request).await;
                    connection.run(&mut Nothing, &*self.clock).await;
                    said.map(Asked::Told).map_err(|why| format!("{host}: {why}"))
                }
                DequeueMethod::Atrn => {
                    let domains: Vec<String> = request.domains.iter().map(ToString::to_string).collect();
                    let command = format!("ATRN {}", domains.join(","));
                    let reply = connection.ask(command.trim_end(), &*self.clock).await;
                    let reply = reply.map_err(|cause| format!("{host}: {cause:?} while it was asked"))?;
                    if reply.code != 250 {
                        connection.run(&mut Nothing, &*self.clock).await;
                        // there is no mail
                        let nothing = reply.code == 453;
                        let said = format!("{host}: {reply}");
                        return if nothing { Ok(Asked::Told(said)) } else { Err(said) };
                    }
                    let is_encrypted = connection.agreed().is_some();
                    let stream = connection.into_stream();
                    let stream = stream.ok_or_else(|| format!("{host}: it spoke when it should have listened"))?;
                    let server = server.name.clone();
                    let reversed = Reversed { stream: Box::new(stream), is_encrypted, peer: hop.address, server };
                    Ok(Asked::Turned(format!("{host}: {reply}"), reversed))
                }
            };
        }
        Err(last)
    }

    /// Asks for one domain after the other. What was said to the last.
    async fn etrn(
        &self,
        connection: &mut Connection<Box<dyn Stream>>,
        request: &RequestDequeue,
    ) -> Result<String, String> {
        let (mut said, mut refused) = (String::new(), None);
        for domain in &request.domains {
            let reply = connection.ask(&format!("ETRN {domain}"), &*self.clock).await;
            let reply = reply.map_err(|cause| format!("{cause:?} while it was asked for {domain}"))?;
            said = reply.to_string();
            if !reply.is_success() {
                refused.get_or_insert(format!("{domain}: {reply}"));
            }
        }
        refused.map_or(Ok(said), Err)
    }
}

/// What came of asking.
enum Asked {
    Told(String),
    Turned(String, Reversed),
}

fn request_of<'a>(snapshot: &'a Snapshot, name: &Name) -> Option<&'a RequestDequeue> {
    snapshot.routes.connector(name)?.spec.request_dequeue.as_ref()
}

fn in_window(schedule: Option<&Schedule>, at: Timestamp) -> Option<Timestamp> {
    match schedule {
        Some(schedule) => schedule.opens(at),
        None => Some(at),
    }
}

/// When it asks first: at once, or when the schedule opens. Never, when it asks only as it sends.
fn first(request: &RequestDequeue, now: Timestamp) -> Option<Timestamp> {
    match (&request.schedule, request.every) {
        (None, None) => None,
        (schedule, _) => in_window(schedule.as_ref(), now),
    }
}

/// When it asks again that began to ask at `began`, and has got what there was by `now`.
fn next(request: &RequestDequeue, began: Timestamp, now: Timestamp) -> Option<Timestamp> {
    match (&request.schedule, request.every) {
        (schedule, Some(every)) => in_window(schedule.as_ref(), (began + every.std()).max(now)),
        (Some(schedule), None) => schedule.opens(schedule.closes(began)?),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(times: Value) -> RequestDequeue {
        let mut spec = json!({"method": "etrn", "host": "mail.example", "domains": ["branch.example"]});
        spec.as_object_mut().unwrap().extend(times.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn when_it_asks() {
        let night = json!([{"from": "22:00", "to": "06:00"}]);
        let (noon, late) = ("2026-01-09T12:00:00Z", "2026-01-09T23:00:00Z");
        for (times, now, begins, again) in [
            (json!({"every": "15m"}), noon, Some(noon), Some("2026-01-09T12:15:00Z")),
            (json!({"onSend": true}), noon, None, None),
            // once a night
            (json!({"schedule": {"windows": night}}), noon, Some("2026-01-09T22:00:00Z"), None),
            (json!({"schedule": {"windows": night}}), late, Some(late), Some("2026-01-10T22:00:00Z")),
            (json!({"schedule": {"windows": night}, "every": "1h"}), late, Some(late), Some("2026-01-10T00:00:00Z")),
            (json!({"schedule": {"windows": night}, "every": "8h"}), late, Some(late), Some("2026-01-10T22:00:00Z")),
        ] {
            let request = request(times);
            assert_eq!(first(&request, at(now)), begins.map(at), "{request:?}");
            assert_eq!(next(&request, at(now), at(now)), again.map(at), "{request:?}");
        }
    }
}
