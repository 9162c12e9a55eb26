//! Takes a message: envelope first, then content as it streams in, then all of it at once.
//!
//! [`Incoming::commit`] returns a positive reply only when the message is durable; until then nothing of it exists for
//! anybody else, and dropping it leaves nothing behind.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Intake;
use super::admission::{Refusal, UNKNOWN_RECIPIENT, restricted};
use super::door::Sender;
use super::filters::{Fate, Match};
use super::header::HeaderScanner;
use super::{limits, staging, trace};
use crate::accounts::Charge;
use crate::config::Snapshot;
use crate::model::failure::{Failure, Scope};
use crate::model::mail::{Idempotency, Message, MessageId, Origin, Recipient, RecipientStatus, Waits};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::spec::filter::FilterAction;
use crate::model::time::Timestamp;
use crate::observe::metrics::ByName;
use crate::queue::{Arrival, Assignment, Sending, assign, is_ours, restriction_failure};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::parameters::{Body, MailParameters, RcptParameters};
use crate::smtp::reply::{EnhancedStatus, Reply};
use crate::store::Draft;

/// A recipient that was accepted.
struct Taken {
    path: ForwardPath,
    parameters: RcptParameters,
    queue: QueueName,
    name: Option<Name>,
    /// Why it is not delivered but kept in the dead-letter queue.
    archived: Option<Match>,
    /// Why it fails, at once (in the dead-letter queue) or with a report (in the directory queue).
    failed: Option<Failure>,
}

/// A message that is being handed in.
pub struct Incoming {
    snapshot: Arc<Snapshot>,
    sender: Sender,
    reverse_path: ReversePath,
    parameters: MailParameters,
    /// When MAIL came: from then on a time to deliver counts.
    began: Timestamp,
    /// The reply to MAIL, when it is not the usual one.
    reply_to_mail: Option<Reply>,
    /// What filters made of the sender: it holds for all recipients.
    fate: Fate,
    recipients: Vec<Taken>,
    known: HashSet<ForwardPath>,
    draft: Box<dyn Draft>,
    /// Octets of our own trace field.
    traced: u64,
    header: HeaderScanner,
    /// What it has counted of quotas.
    charge: Charge,
    /// The session that it comes in.
    session: Option<String>,
    /// When the first recipient was named.
    first_recipient: Option<Instant>,
}

impl Incoming {
    /// Begins a message under the configuration in force, which it keeps to its end.
    ///
    /// # Errors
    /// When the sender may not, or the store takes nothing new.
    pub fn begin(
        intake: &Intake,
        snapshot: Arc<Snapshot>,
        sender: Sender,
        reverse_path: ReversePath,
        parameters: MailParameters,
    ) -> Result<Self, Refusal> {
        sender.door.admit_sender(&reverse_path)?;
        sender.client.check_sender(intake, &snapshot, &reverse_path)?;
        let charge = limits::count_message(intake, &snapshot, &sender, &reverse_path)?;
        let fate = sender.client.filter_sender(intake, &snapshot, &reverse_path)?;
        let began = Timestamp::from_millis(intake.clock.unix_millis());
        let asked_for = parameters.priority;
        let parameters = sender.client.admit_parameters(began, parameters)?;
        let lowered = parameters.priority != asked_for;
        // RFC 6710, section 5.1
        let reply_to_mail =
            lowered.then(|| Reply::new(250, EnhancedStatus::success(3, 6), "Sender OK, but the priority counts as 0"));
        let draft = intake.store.begin().map_err(|error| Refusal::of_store(&error))?;
        Ok(Incoming {
            snapshot,
            sender,
            reverse_path,
            parameters,
            began,
            reply_to_mail,
            fate,
            recipients: Vec::new(),
            known: HashSet::new(),
            draft,
            traced: 0,
            header: HeaderScanner::default(),
            charge,
            session: None,
            first_recipient: None,
        })
    }

    /// Says in which session it comes, for message tracking.
    pub fn in_session(mut self, session: impl Into<String>) -> Self {
        self.session = Some(session.into());
        self
    }

    /// The id that the message will have.
    pub fn id(&self) -> MessageId {
        self.draft.id()
    }

    /// The recipients that were accepted, as many as message tracking names.
    pub fn named_recipients(&self) -> Vec<String> {
        self.recipients.iter().take(50).map(|taken| taken.path.to_string()).collect()
    }

    /// The reverse-path.
    pub fn reverse_path(&self) -> &ReversePath {
        &self.reverse_path
    }

    /// Says what the content was found to be made of, where that was not known at MAIL.
    pub(super) fn declare(&mut self, body: Body) {
        self.parameters.body = body;
    }

    /// The reply to MAIL, when something of it was granted only in part.
    pub fn reply_to_mail(&self) -> Option<Reply> {
        self.reply_to_mail.clone()
    }

    /// Adds a recipient. One that is named twice counts once.
    ///
    /// # Errors
    /// When the client may not send to it.
    pub async fn recipient(
        &mut self,
        intake: &Intake,
        path: ForwardPath,
        mut parameters: RcptParameters,
    ) -> Result<(), Refusal> {
        self.first_recipient.get_or_insert_with(|| intake.clock.now());
        let staged = staging::apply(&self.sender.client.server, &path)?;
        if staged.is_none() && self.known.contains(&path) {
            return Ok(());
        }
        let client = &self.sender.client;
        let fate = match &self.fate {
            Fate::Deliver => client.filter_recipient(intake, &self.snapshot, &path).await?,
            decided => decided.clone(),
        };
        let down = intake.queue.down();
        let sending = Sending {
            sender: &self.reverse_path,
            size: self.parameters.size.unwrap_or_default(),
            priority: self.parameters.priority.unwrap_or_default(),
            virtual_server: &self.sender.client.server.name,
            spread: self.draft.id().spread(),
            down: &down,
        };
        let admitted = client.admit_recipient(intake, &self.snapshot, sending, &path);
        let archived = match fate {
            Fate::Deliver => None,
            Fate::Archive(found) => Some(found),
            Fate::Discard(found) => {
                found.admit(admitted)?;
                self.log_filtered(intake, FilterAction::AcceptSilently, &found, &path);
                self.known.insert(path);
                return Ok(());
            }
        };
        let (queue, name) = match &archived {
            None => {
                let (queue, name) = admitted?;
                // one who gets nothing need not exist
                if staged.is_none() {
                    client.verify_recipient(intake, &self.snapshot, &queue, &path).await?;
                }
                (queue, name)
            }
            Some(found) => {
                found.admit(admitted)?;
                self.log_filtered(intake, FilterAction::Archive, found, &path);
                (QueueName::DeadLetter, None)
            }
        };
        let (path, queue, name) = match staged {
            None => (path, queue, name),
            // whoever may write to the one is not to be refused for the other, which the operator has chosen
            Some(staged) => {
                if self.known.contains(&staged) {
                    return Ok(());
                }
                staging::remember(&path, &mut parameters);
                let (queue, name) = match &archived {
                    Some(_) => (queue, name),
                    None => staging::assign(intake, &self.snapshot, sending, &staged)?,
                };
                (staged, queue, name)
            }
        };
        if archived.is_none() {
            limits::admit_unsuppressed(intake, &path, is_ours(&queue))?;
        }
        // two addresses of one mailbox are one delivery
        let is_another =
            name.is_some() && self.recipients.iter().any(|other| other.name == name && other.queue == queue);
        if is_another {
            self.known.insert(path);
            return Ok(());
        }
        let Incoming { snapshot, sender, reverse_path, recipients, charge, .. } = self;
        limits::count_recipient(intake, snapshot, sender, reverse_path, recipients.len(), charge)?;
        self.known.insert(path.clone());
        self.recipients.push(Taken { path, parameters, queue, name, archived, failed: None });
        Ok(())
    }

    /// Adds a recipient of a message that nobody is there to be refused: one who may not be written to is taken too, and its
    /// sender gets a report. Why it may not is returned.
    ///
    /// # Errors
    /// What is refused for now only.
    pub async fn recipient_or_report(
        &mut self,
        intake: &Intake,
        path: ForwardPath,
        parameters: RcptParameters,
    ) -> Result<Option<Refusal>, Refusal> {
        match self.recipient(intake, path.clone(), parameters.clone()).await {
            Err(refusal) if refusal.is_permanent() => {
                self.add_failed(path, parameters, QueueName::Directory, refusal.failure());
                Ok(Some(refusal))
            }
            other => other.map(|()| None),
        }
    }

    /// Adds a recipient for whom the message only goes to the dead-letter queue.
    pub fn dead_recipient(&mut self, path: ForwardPath, why: Failure) {
        self.add_failed(path, RcptParameters::default(), QueueName::DeadLetter, why);
    }

    fn add_failed(&mut self, path: ForwardPath, parameters: RcptParameters, queue: QueueName, why: Failure) {
        if self.known.insert(path.clone()) {
            self.recipients.push(Taken { path, parameters, queue, name: None, archived: None, failed: Some(why) });
        }
    }

    /// The content begins: our trace field goes first (RFC 5321, 4.4).
    ///
    /// # Errors
    /// When the store fails.
    pub async fn content_begins(&mut self, now: Timestamp) -> Result<(), Refusal> {
        let only = match self.recipients.as_slice() {
            [Taken { path, .. }] => Some(path),
            _ => None,
        };
        let received = trace::received(&self.sender, &self.parameters, self.draft.id(), only, now);
        self.traced = received.len() as u64;
        self.keep(Bytes::from(received)).await
    }

    /// The next octets of content.
    ///
    /// # Errors
    /// When the store fails, or the message has made too many hops or has too long a header: then nothing more is
    /// looked at, and this is the reply to all of it.
    pub async fn content(&mut self, chunk: Bytes) -> Result<(), Refusal> {
        self.header.feed(&chunk);
        if self.header.received() > self.sender.client.server.spec.outbound.max_hop_count {
            let reply = Reply::new(554, EnhancedStatus::permanent(4, 6), "Too many hops, this message loops");
            return Err(Refusal::new("maxHopCount", reply, "too many Received fields"));
        }
        if self.header.is_too_long() {
            let reply = Reply::new(552, EnhancedStatus::permanent(3, 4), "The header section is too long");
            return Err(Refusal::new("headerSize", reply, "the header section is over 1 MiB"));
        }
        self.keep(chunk).await
    }

    async fn keep(&mut self, chunk: Bytes) -> Result<(), Refusal> {
        // a filter accepted all recipients silently
        if self.recipients.is_empty() {
            return Ok(());
        }
        self.draft.append(chunk).await.map_err(|error| Refusal::of_store(&error))
    }

    /// All of it is there: makes it durable and sends it on its way.
    ///
    /// # Errors
    /// When the store could not keep it: nothing of it remains.
    pub async fn commit(self, intake: &Intake) -> Result<Reply, Refusal> {
        let id = self.draft.id();
        self.accept(intake, None).await.map(|_| queued_as(id))
    }

    /// The same for a request that may be known by a key. `None`: filters have accepted it silently for all recipients.
    ///
    /// # Errors
    /// When the store could not keep it: nothing of it remains.
    pub(super) async fn accept(
        mut self,
        intake: &Intake,
        idempotency: Option<Idempotency>,
    ) -> Result<Option<Arc<Message>>, Refusal> {
        let received_at = Timestamp::from_millis(intake.clock.unix_millis());
        if self.recipients.is_empty() {
            self.charge.keep();
            return Ok(None);
        }
        let sent = self.draft.size() - self.traced;
        let Sender { client, door } = self.sender;
        let server = client.server.name.clone();
        if let Some(by) = &mut self.parameters.deliver_by {
            by.seconds -= i64::try_from(received_at.since(self.began).as_secs()).unwrap_or(i64::MAX);
        }
        let mut message = Message {
            id: self.draft.id(),
            received_at,
            origin: Origin {
                protocol: door.protocol(),
                virtual_server: server.clone(),
                client: door.has_client().then_some(client.address),
                helo: door.helo().map(str::to_owned),
                account: client.account.as_ref().map(|account| account.name.clone()),
                api_key: door.api_key().map(str::to_owned),
            },
            reverse_path: self.reverse_path,
            parameters: self.parameters,
            size: self.draft.size(),
            subject: self.snapshot.settings.subject_logging.then(|| self.header.subject()).flatten(),
            message_id_header: self.header.into_message_id(),
            frozen: false,
            connector: None,
            idempotency,
            recipients: Vec::new(),
        };
        let due = message.due_at_once(received_at);
        let kept_until = received_at + self.snapshot.settings.retention.dead_letter.std();
        message.recipients = self
            .recipients
            .into_iter()
            .map(|Taken { path, parameters, queue, name, archived, failed }| {
                let dead = queue == QueueName::DeadLetter;
                Recipient {
                    forward_path: path,
                    parameters,
                    directory_name: name,
                    status: if dead { RecipientStatus::Failed } else { RecipientStatus::Pending },
                    waits: Some(Waits { queue, due: if dead { kept_until } else { due } }),
                    attempts: 0,
                    delay_notified: false,
                    last_failure: archived.map(|found| found.failure()).or(failed),
                }
            })
            .collect();
        let message = assigned_by_size(&self.snapshot, intake, message, sent)?;
        let complete = intake.clock.now();
        let leased = self.draft.commit(message).await.map_err(|error| Refusal::of_store(&error))?;
        self.charge.keep();
        let durable = intake.clock.now();
        let message = leased.message.clone();
        let label = ByName { name: server.as_str().to_owned() };
        intake.metrics.accepted.get_or_create(&label).inc();
        intake.metrics.accepted_bytes.get_or_create(&label).inc_by(message.size);
        tracing::info!(
            message.id = %message.id,
            virtualServer = %server,
            peer.addr = %client.address,
            sender = %message.reverse_path,
            account = client.account.as_ref().map(|account| tracing::field::display(&account.name)),
            key = message.origin.api_key.as_deref(),
            request.id = door.request().and_then(|request| request.id.as_deref()),
            tls = client.tls.as_ref().map(|tls| tls.version),
            recipients = message.recipients.len(),
            size = message.size,
            header.message_id = message.message_id_header.as_deref(),
            "accepted"
        );
        let tls = client.tls.as_ref().map(|tls| tls.version);
        let arrival = Arrival {
            session: self.session.as_deref(),
            tls,
            took: self.first_recipient.map(|first| durable.saturating_duration_since(first)),
            synced: Some(durable.saturating_duration_since(complete)),
            request_id: door.request().and_then(|request| request.id.as_deref()),
            trace: door.request().and_then(|request| request.trace),
        };
        intake.queue.track_arrival(&message, arrival);
        intake.queue.enqueue(leased);
        Ok(Some(message))
    }

    fn log_filtered(&self, intake: &Intake, action: FilterAction, found: &Match, recipient: &ForwardPath) {
        intake.metrics.filtered(action.word());
        tracing::info!(
            message.id = %self.draft.id(),
            virtualServer = %self.sender.client.server.name,
            peer.addr = %self.sender.client.address,
            sender = %self.reverse_path,
            recipient = %recipient,
            action = action.word(),
            rule = found.rule,
            detail = %found.detail,
            "filtered"
        );
    }
}

impl Match {
    /// A filter only takes away: what is refused stays refused, but for recipients that do not exist, when the filter is
    /// about these.
    fn admit<T>(&self, admitted: Result<T, Refusal>) -> Result<(), Refusal> {
        match admitted {
            Err(refusal) if !(self.not_in_directory && refusal.rule == UNKNOWN_RECIPIENT) => Err(refusal),
            _ => Ok(()),
        }
    }

    /// Why an archived recipient does not get the message.
    fn failure(&self) -> Failure {
        Failure::new(Scope::Recipient, EnhancedStatus::permanent(7, 1), format!("archived by {}", self.detail))
    }
}

fn queued_as(id: MessageId) -> Reply {
    Reply::new(250, EnhancedStatus::success(0, 0), format!("Ok: queued as {id}"))
}

/// The size is known only now: a connector that does not carry messages as large as this one is passed over. A recipient
/// that takes nothing so large waits in the directory queue with that failure, and its sender gets a report from there.
/// `sent` are the octets that the client sent.
///
/// # Errors
/// When no recipient takes it.
fn assigned_by_size(snapshot: &Snapshot, intake: &Intake, mut message: Message, sent: u64) -> Result<Message, Refusal> {
    // it was held to the restrictions at RCPT with the size that was declared
    let as_declared = message.parameters.size.is_some_and(|declared| declared >= sent);
    let mut assigned = Vec::with_capacity(message.recipients.len());
    let down = intake.queue.down();
    let mut refused = None;
    let mut taken = false;
    for recipient in &message.recipients {
        // what a filter has archived, or fails anyway, stays where it is
        if recipient.last_failure.is_some() {
            taken = true;
            assigned.push(None);
            continue;
        }
        let here = recipient.waits.as_ref().is_some_and(|waits| is_ours(&waits.queue));
        if here && as_declared {
            taken = true;
            assigned.push(None);
            continue;
        }
        let size = if here { sent } else { message.size };
        let sending = Sending { size, ..Sending::of(&message, &down) };
        match assign(snapshot, &*intake.recipients, &recipient.forward_path, sending) {
            Assignment::Refused(restriction) => {
                refused.get_or_insert_with(|| restricted(restriction, &recipient.forward_path));
                assigned.push(Some((QueueName::Directory, None, Some(restriction_failure(restriction)))));
                continue;
            }
            Assignment::Queue(queue, name) => assigned.push(Some((queue, name, None))),
            Assignment::Unknown | Assignment::TryLater => assigned.push(None),
        }
        taken = true;
    }
    if let Some(refusal) = refused.filter(|_| !taken) {
        return Err(refusal);
    }
    for (recipient, to) in message.recipients.iter_mut().zip(assigned) {
        if let (Some(waits), Some((queue, name, failure))) = (&mut recipient.waits, to) {
            recipient.last_failure = failure;
            waits.queue = queue;
            recipient.directory_name = name;
        }
    }
    Ok(message)
}
