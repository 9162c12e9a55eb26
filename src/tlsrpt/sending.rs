//! Sends what is due: looks up where, and hands it over, by POST or as a message in the queue.
//!
//! One task looks every 15 seconds. Some reports are sent at a time, a destination has 60 seconds; how often and how
//! long it is tried [`super::state`] says. What a domain publishes decides where a request of ours goes, so it goes to public
//! addresses only, unless `tlsReporting.allowPrivateAddresses` says otherwise, and follows no redirect.
//!
//! A message is a message like any other from the moment it is in the queue, with the null conditions of a report: nobody is
//! notified of its fate (NOTIFY=NEVER), it goes before other mail, and sessions that carry it are not held to the policies that it
//! may be about (RFC 8460, 3; see `outbound`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::watch;

use super::TlsReports;
use super::counts::{DayNumber, OfDomain};
use super::record::{Destination, destinations};
use super::report::{self, MEDIA_TYPE};
use super::state::{Report, ReportState, Tried};
use crate::config::Snapshot;
use crate::directory::Recipients;
use crate::model::host::domain_key;
use crate::model::mail::{Message, Origin, Protocol, Recipient, RecipientStatus, Waits};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::net::clock::Clock;
use crate::net::post::Post;
use crate::net::resolver::{ResolveError, Resolvers};
use crate::queue::{Assignment, Queue, assign};
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::parameters::{MailParameters, Notify, RcptParameters};
use crate::smtp::reply::Reply;
use crate::store::Store;

/// How often it is looked what is due.
const TICK: Duration = Duration::from_secs(15);
/// How often counts are written, in ticks.
const WRITTEN_EVERY: u32 = 2;
/// Most reports of one look.
const MOST_AT_ONCE: usize = 64;
/// So many of them at the same time: who keeps us waiting keeps few others from their reports.
const MOST_AT_A_TIME: usize = 16;
/// A message with a report counts as due so long: in its queue it stands before other mail, also where that cannot be delivered.
const AHEAD: Duration = Duration::from_secs(10 * 86_400);

/// What sending needs of the house.
pub struct Sending {
    /// What was counted.
    pub reports: Arc<TlsReports>,
    /// Where messages go.
    pub queue: Arc<Queue>,
    /// Where they are kept.
    pub store: Arc<dyn Store>,
    /// Who is local.
    pub recipients: Arc<dyn Recipients>,
    /// Who knows where reports are wanted.
    pub resolvers: Arc<Resolvers>,
    /// Who makes requests.
    pub post: Arc<dyn Post>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl Sending {
    /// Sends until the process drains, and writes down what was counted, at the end too.
    pub async fn run(self, mut drain: watch::Receiver<Option<Reply>>) {
        let mut ticks = 0u32;
        loop {
            tokio::select! {
                _ = drain.wait_for(Option::is_some) => break,
                () = self.reports.asked() => {}
                () = tokio::time::sleep(TICK) => {}
            }
            let sent = tokio::select! {
                // a report that is cut here goes again after the start, under the same id
                _ = drain.wait_for(Option::is_some) => None,
                sent = self.look() => Some(sent),
            };
            let Some(sent) = sent else { break };
            ticks += 1;
            if sent > 0 || ticks >= WRITTEN_EVERY {
                ticks = 0;
                self.write().await;
            }
        }
        self.write().await;
    }

    async fn write(&self) {
        let reports = self.reports.clone();
        let _ = tokio::task::spawn_blocking(move || reports.write()).await;
    }

    /// One look. How many reports were tried.
    pub(super) async fn look(&self) -> usize {
        let snapshot = self.queue.snapshot();
        let due = self.reports.due(snapshot.settings.tls_reporting.enabled, MOST_AT_ONCE);
        for some in due.chunks(MOST_AT_A_TIME) {
            join_all(some.iter().map(|(day, domain, counted)| self.look_at(&snapshot, *day, domain, counted))).await;
        }
        due.len()
    }

    async fn look_at(&self, snapshot: &Snapshot, day: DayNumber, domain: &str, counted: &OfDomain) {
        if let Some(before) = counted.report.clone() {
            let after = self.send(snapshot, day, domain, counted, before.clone()).await;
            match after.state {
                ReportState::Sent => tracing::info!(domain, %day, report = %after.id, "a TLS report was sent"),
                ReportState::Failed => {
                    tracing::warn!(domain, %day, report = %after.id, why = after.problem, "a TLS report could not be sent")
                }
                ReportState::Waiting | ReportState::NotWanted => {
                    tracing::debug!(domain, %day, state = ?after.state, why = after.problem, "a TLS report was looked at")
                }
            }
            self.reports.note(day, domain, &before, after);
        }
    }

    async fn send(
        &self,
        snapshot: &Snapshot,
        day: DayNumber,
        domain: &str,
        counted: &OfDomain,
        mut report: Report,
    ) -> Report {
        let now = || Timestamp::from_millis(self.clock.unix_millis());
        if report.destinations.is_empty() {
            match self.wanted(snapshot, domain).await {
                Ok(Ok(found)) => report.address(&found),
                Ok(Err(why)) => {
                    report.end(ReportState::NotWanted, Some(why));
                    return report;
                }
                Err(why) => {
                    report.put_off(why, now());
                    return report;
                }
            }
        }
        let Some(postmaster) = &snapshot.postmaster else {
            report.put_off("there is no default domain yet".to_owned(), now());
            return report;
        };
        let submitter = domain_key(postmaster.domain()).into_owned();
        let settings = &snapshot.settings;
        let content = report::Report {
            id: report.id,
            day,
            domain,
            counted,
            organization: settings.organization.as_deref().unwrap_or(&submitter),
            contact: settings.tls_reporting.contact.as_ref().unwrap_or(postmaster),
            submitter: &submitter,
        };
        let mut results = Vec::new();
        for one in report.destinations.iter().filter(|one| one.state == ReportState::Waiting) {
            let result = match one.uri.parse() {
                Ok(Destination::Https(url)) => {
                    let any = settings.tls_reporting.allow_private_addresses;
                    let posted = self.post.post(&url, MEDIA_TYPE, Bytes::from(content.gzip()), any).await;
                    match posted {
                        Ok(()) => Tried::Sent,
                        Err(fault) if fault.permanent => Tried::Refused(fault.words),
                        Err(fault) => Tried::Later(fault.words),
                    }
                }
                Ok(Destination::Mail(to)) => {
                    let composed = content.message(postmaster, &to, now());
                    self.enqueue(snapshot, &content.full_id(), postmaster, to, composed).await
                }
                Err(why) => Tried::Refused(why.to_owned()),
            };
            results.push(result);
        }
        report.tried(results, now());
        report
    }

    /// Where a domain wants reports, or why it wants none.
    ///
    /// # Errors
    /// In words, when nobody can say now.
    async fn wanted(&self, snapshot: &Snapshot, domain: &str) -> Result<Result<Vec<Destination>, String>, String> {
        let server = snapshot.default_virtual_server.as_ref().and_then(|name| snapshot.virtual_servers.get(name));
        let servers = server.map(|server| server.name_servers()).unwrap_or_default();
        let resolver = self.resolvers.of(&servers).map_err(|error| error.to_string())?;
        match resolver.texts(&format!("_smtp._tls.{domain}")).await {
            Ok(texts) => Ok(destinations(&texts).map_err(str::to_owned)),
            Err(ResolveError::TryLater(why)) => Err(format!("the name servers gave no answer: {why}")),
            Err(_) => Ok(Err("it has no record of TLSRPT".to_owned())),
        }
    }

    /// Puts a message with a report into the queue.
    async fn enqueue(&self, snapshot: &Snapshot, id: &str, from: &Mailbox, to: Mailbox, content: Bytes) -> Tried {
        let Some(server) = snapshot.default_virtual_server.clone() else {
            return Tried::Later("there is no virtual server that could send".to_owned());
        };
        let draft = match self.store.begin() {
            Ok(draft) => draft,
            Err(error) => return Tried::Later(error.to_string()),
        };
        let now = Timestamp::from_millis(self.clock.unix_millis());
        let mut message = Message {
            id: draft.id(),
            received_at: now,
            origin: Origin {
                protocol: Protocol::TlsReport,
                virtual_server: server,
                client: None,
                helo: None,
                account: None,
                api_key: None,
            },
            reverse_path: ReversePath::Mailbox(from.clone()),
            parameters: MailParameters { smtputf8: !to.is_ascii(), ..MailParameters::default() },
            size: content.len() as u64,
            message_id_header: Some(id.to_owned()),
            subject: None,
            frozen: false,
            connector: None,
            idempotency: None,
            recipients: Vec::new(),
        };
        let path = ForwardPath::Mailbox(to);
        let down = self.queue.down();
        let sending = crate::queue::Sending::of(&message, &down);
        let (queue, directory_name) = match assign(snapshot, &*self.recipients, &path, sending) {
            Assignment::Queue(queue, name) => (queue, name),
            Assignment::TryLater => (QueueName::Unrouted, None),
            Assignment::Unknown => return Tried::Refused("there is no such recipient here".to_owned()),
            Assignment::Refused(restriction) => return Tried::Refused(restriction.to_string()),
        };
        message.recipients = vec![Recipient {
            forward_path: path,
            parameters: RcptParameters { notify: Some(Notify::Never), orcpt: None },
            directory_name,
            status: RecipientStatus::Pending,
            waits: Some(Waits { queue, due: now - AHEAD }),
            attempts: 0,
            delay_notified: false,
            last_failure: None,
        }];
        match keep(draft, message, content).await {
            Ok(leased) => {
                self.queue.track_received(&leased.message);
                self.queue.enqueue(leased);
                Tried::Sent
            }
            Err(error) => Tried::Later(error.to_string()),
        }
    }
}

async fn keep(
    mut draft: Box<dyn crate::store::Draft>,
    message: Message,
    content: Bytes,
) -> Result<crate::store::Leased, crate::store::StoreError> {
    draft.append(content).await?;
    draft.commit(message).await
}
