//! Who is told what: from conclusions to notifications, or to the dead-letter queue where nobody can be told.
//!
//! A notification always has the null reverse-path and is never about mail that has it itself (RFC 3464, section 2). What
//! failed and causes no notification (null reverse-path, NOTIFY without FAILURE, a local sender who does not exist) stays
//! visible as a dead letter until its retention ends: nothing that was accepted just goes away.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::assign::{Sending, assign_own};
use super::conclusion::Conclusion;
use super::distribution::Expansion;
use super::outcome::PassedOn;
use super::{Assignment, Queue, settings};
use crate::config::Snapshot;
use crate::dsn::{self, Original, Report};
use crate::model::mail::{Message, MessageId, Origin, Protocol, Recipient, RecipientStatus, Waits};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::parameters::{Body, ByMode, MailParameters, Notify, RcptParameters, Ret};
use crate::store::{Caused, Content};

/// What is written about one attempt.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// The notifications.
    pub caused: Vec<Caused>,
    /// Recipients whose delay is told in one of them.
    pub delayed: Vec<u32>,
    /// Recipients that failed without anybody being told.
    pub dead_letters: Vec<u32>,
}

/// Recipients by what is to be said about them.
#[derive(Debug, Default)]
struct Groups {
    failed: Vec<u32>,
    delayed: Vec<u32>,
    delivered: Vec<u32>,
    relayed: Vec<u32>,
    expanded: Vec<u32>,
}

impl Queue {
    /// Writes the notifications that the conclusions call for. `after` holds the states that they report.
    pub(super) async fn reports(
        &self,
        snapshot: &Arc<Snapshot>,
        after: &Message,
        conclusions: &[(u32, Conclusion)],
        content: Option<&Bytes>,
    ) -> Reports {
        let mut reports = Reports::default();
        let now = self.now();
        let (groups, silent) = groups(snapshot, after, conclusions, now);
        reports.dead_letters = silent;
        if groups.is_empty() {
            return reports;
        }
        let target = after.reverse_path.mailbox().and_then(|sender| self.target(snapshot, after, sender, 0));
        let (Some((to, ..)), Some(postmaster)) = (target, &snapshot.postmaster) else {
            reports.dead_letters.extend(groups.failed);
            return reports;
        };
        let full = returns_content(after);
        let original = self.original(after.id, content, full).await;
        let headers = original.headers_only();
        // until when they are tried differs
        let (delayed_here, delayed): (Vec<u32>, Vec<u32>) =
            groups.delayed.iter().partition(|index| matches!(queue_of(after, **index), Some(QueueName::Local(_))));
        let server = snapshot.delivery_server(&after.origin.virtual_server);
        let copy_to =
            server.and_then(|server| server.spec.messages.ndr_copy_to.as_ref()).filter(|copy| copy.key() != to.key());
        let groups_and_originals = [
            (&groups.failed, &original),
            (&delayed, &headers),
            (&delayed_here, &headers),
            (&groups.delivered, &headers),
            (&groups.relayed, &headers),
            (&groups.expanded, &headers),
        ];
        for (indexes, original) in groups_and_originals.into_iter().filter(|(indexes, _)| !indexes.is_empty()) {
            let about = indexes.iter().filter_map(|index| after.recipients.get(*index as usize)).collect();
            let waits_in = indexes.first().and_then(|index| queue_of(after, *index));
            let retry_until = waits_in.map(|queue| settings::ends(snapshot, after, queue).expires);
            let id = MessageId::generate();
            let report = Report {
                about: after,
                recipients: about,
                original: original.clone(),
                id,
                reporting_mta: settings::fqdn(snapshot, &after.origin.virtual_server),
                postmaster,
                to,
                now,
                retry_until,
            };
            let content = report.compose();
            let is_failure = indexes.first().is_some_and(|index| groups.failed.contains(index));
            for to in std::iter::once(to).chain(copy_to.filter(|_| is_failure)) {
                let Some((_, waits, directory_name)) = self.target(snapshot, after, to, content.len() as u64) else {
                    tracing::warn!(to = %to, "a copy of a non-delivery report has nobody to go to");
                    continue;
                };
                let recipient = Recipient {
                    forward_path: ForwardPath::Mailbox(to.clone()),
                    parameters: RcptParameters { notify: Some(Notify::Never), orcpt: None },
                    directory_name,
                    status: RecipientStatus::Pending,
                    waits: Some(waits),
                    attempts: 0,
                    delay_notified: false,
                    last_failure: None,
                };
                let message = notification(&report, after, recipient, content.len() as u64);
                reports.caused.push(Caused { message, content: Content::Bytes(content.clone()) });
            }
        }
        reports.delayed = groups.delayed;
        reports
    }

    /// Where the sender lives; `None` when it is one of ours that does not exist.
    fn target<'a>(
        &self,
        snapshot: &Snapshot,
        about: &Message,
        sender: &'a Mailbox,
        size: u64,
    ) -> Option<(&'a Mailbox, Waits, Option<crate::model::name::Name>)> {
        let path = ForwardPath::Mailbox(sender.clone());
        let down = self.down();
        let sending = Sending { sender: &ReversePath::Null, size, ..Sending::of(about, &down) };
        match assign_own(snapshot, &*self.recipients, &path, None, sending) {
            Assignment::Unknown => None,
            Assignment::Refused(_) | Assignment::TryLater => {
                Some((sender, Waits { queue: QueueName::Unrouted, due: self.now() }, None))
            }
            Assignment::Queue(queue, name) => Some((sender, Waits { queue, due: self.now() }, name)),
        }
    }

    /// The original, or its headers; empty headers when it cannot be read.
    async fn original(&self, id: MessageId, content: Option<&Bytes>, full: bool) -> Original {
        let most = if full { dsn::MAX_RETURNED } else { dsn::MAX_RETURNED_HEADERS };
        let content = match content {
            Some(content) => content.clone(),
            None => self.read(id, most, full).await,
        };
        if full { Original::Full(content) } else { Original::Headers(dsn::headers_of(&content)) }
    }

    async fn read(&self, id: MessageId, most: usize, full: bool) -> Bytes {
        let mut content = BytesMut::new();
        let Ok(mut reader) = self.store.content(id).await else { return Bytes::new() };
        while let Ok(Some(chunk)) = reader.next().await {
            content.extend_from_slice(&chunk);
            let headers_complete = !full && memchr::memmem::find(&content, b"\r\n\r\n").is_some();
            if headers_complete || content.len() >= most {
                break;
            }
        }
        content.freeze()
    }
}

impl Groups {
    fn is_empty(&self) -> bool {
        [&self.failed, &self.delayed, &self.delivered, &self.relayed, &self.expanded].into_iter().all(Vec::is_empty)
    }
}

impl Original {
    fn headers_only(&self) -> Original {
        match self {
            Original::Headers(content) | Original::Full(content) => Original::Headers(dsn::headers_of(content)),
        }
    }
}

/// The queue that a recipient waits in.
fn queue_of(message: &Message, index: u32) -> Option<&QueueName> {
    message.recipients.get(index as usize)?.waits.as_ref().map(|waits| &waits.queue)
}

/// Sorts recipients; the second list failed, but its senders asked not to be told.
fn groups(
    snapshot: &Snapshot,
    after: &Message,
    conclusions: &[(u32, Conclusion)],
    now: Timestamp,
) -> (Groups, Vec<u32>) {
    let is_late = |queue| now >= settings::ends(snapshot, after, queue).late;
    let mut groups = Groups::default();
    let mut silent = Vec::new();
    for (index, conclusion) in conclusions {
        let Some(recipient) = after.recipients.get(*index as usize) else { continue };
        let notify = recipient.parameters.notify;
        match conclusion {
            failure if failure.is_failure() && Notify::wants_failure(notify) => groups.failed.push(*index),
            failure if failure.is_failure() => silent.push(*index),
            Conclusion::Deferred { .. } | Conclusion::Delayed
                if !recipient.delay_notified
                    && wants_delay(after, notify)
                    && queue_of(after, *index).is_some_and(is_late) =>
            {
                groups.delayed.push(*index);
            }
            // an alias passes on what the sender asked for
            Conclusion::Expanded { kind: Expansion::List } if Notify::wants_success(notify) => {
                groups.delivered.push(*index)
            }
            Conclusion::Expanded { kind: Expansion::Multiple } if Notify::wants_success(notify) => {
                groups.expanded.push(*index)
            }
            Conclusion::Delivered if Notify::wants_success(notify) => groups.delivered.push(*index),
            Conclusion::Relayed { passed_on, .. } if wants_relayed(after, notify, *passed_on) => {
                groups.relayed.push(*index);
            }
            _ => {}
        }
    }
    (groups, silent)
}

/// The whole comes back only when it was asked for, is not too large, is text, and need not be protected on a way that
/// may be another one than it came (RFC 8689, section 5).
fn returns_content(about: &Message) -> bool {
    let parameters = &about.parameters;
    parameters.ret == Some(Ret::Full)
        && about.size <= dsn::MAX_RETURNED as u64
        && parameters.body != Body::Binary
        && !parameters.require_tls
}

/// Who asked to hear at a time (BY in mode N) hears then, but for NOTIFY=NEVER (RFC 2852).
fn wants_delay(about: &Message, notify: Option<Notify>) -> bool {
    match about.deliver_by() {
        Some((_, ByMode::Notify)) => Notify::wants_anything(notify),
        _ => Notify::wants_delay(notify),
    }
}

/// The next hop will not report success itself; or each hop is to be traced, or the time is watched no more (RFC 2852).
fn wants_relayed(about: &Message, notify: Option<Notify>, passed_on: PassedOn) -> bool {
    let by = about.parameters.deliver_by.is_some_and(|by| by.trace || !passed_on.deliver_by);
    (Notify::wants_success(notify) && !passed_on.dsn) || (by && Notify::wants_anything(notify))
}

/// The notification as a message: null reverse-path, the same virtual server.
fn notification(report: &Report<'_>, about: &Message, recipient: Recipient, size: u64) -> Message {
    let utf8 = report.needs_utf8();
    Message {
        id: MessageId::generate(),
        received_at: report.now,
        origin: Origin {
            protocol: Protocol::Dsn,
            virtual_server: about.origin.virtual_server.clone(),
            client: None,
            helo: None,
            account: None,
            api_key: None,
        },
        reverse_path: ReversePath::Null,
        parameters: MailParameters {
            size: None,
            body: if utf8 || about.parameters.body != Body::SevenBit { Body::EightBitMime } else { Body::SevenBit },
            smtputf8: utf8,
            // as urgent (RFC 6710), and as secret (RFC 8689, section 5), as what it is about
            priority: about.parameters.priority,
            require_tls: about.parameters.require_tls,
            ..MailParameters::default()
        },
        size,
        message_id_header: Some(format!("{}@{}", report.id, report.reporting_mta)),
        subject: None,
        frozen: false,
        connector: None,
        idempotency: None,
        recipients: vec![recipient],
    }
}
