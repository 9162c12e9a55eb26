//! Takes a message: envelope first, then content as it streams in, then all of it at once.
//!
//! [`Incoming::commit`] returns a positive reply only when the message is durable; until then nothing of it exists for
//! anybody else, and dropping it leaves nothing behind. Content filters will attach here.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::Intake;
use super::admission::{Client, Refusal};
use super::header::HeaderScanner;
use super::{staging, trace};
use crate::config::Snapshot;
use crate::model::mail::{Message, Origin, Protocol, Recipient, RecipientStatus, Waits};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::observe::metrics::ByName;
use crate::queue::{Assignment, assign};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::parameters::{MailParameters, RcptParameters};
use crate::smtp::reply::{EnhancedStatus, Reply};
use crate::store::Draft;

/// Who sends, as far as the session told.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The client.
    pub client: Client,
    /// Its HELO or EHLO name, cleaned.
    pub helo: String,
    /// It said EHLO or LHLO.
    pub extended: bool,
    /// It speaks LMTP.
    pub lmtp: bool,
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
    recipients: Vec<(ForwardPath, RcptParameters, QueueName, Option<Name>)>,
    known: HashSet<ForwardPath>,
    draft: Box<dyn Draft>,
    header: HeaderScanner,
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
        sender.client.admit_sender(intake, &snapshot, &reverse_path)?;
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
            recipients: Vec::new(),
            known: HashSet::new(),
            draft,
            header: HeaderScanner::default(),
        })
    }

    /// The reverse-path.
    pub fn reverse_path(&self) -> &ReversePath {
        &self.reverse_path
    }

    /// The reply to MAIL, when something of it was granted only in part.
    pub fn reply_to_mail(&self) -> Option<Reply> {
        self.reply_to_mail.clone()
    }

    /// Adds a recipient. One that is named twice counts once.
    ///
    /// # Errors
    /// When the client may not send to it.
    pub fn recipient(
        &mut self,
        intake: &Intake,
        path: ForwardPath,
        mut parameters: RcptParameters,
    ) -> Result<(), Refusal> {
        let staged = staging::apply(&self.sender.client.server, &path)?;
        if staged.is_none() && self.known.contains(&path) {
            return Ok(());
        }
        let spread = self.draft.id().spread();
        let (queue, name) =
            self.sender.client.admit_recipient(intake, &self.snapshot, &self.reverse_path, &path, spread)?;
        let (path, queue, name) = match staged {
            None => (path, queue, name),
            // whoever may write to the one is not to be refused for the other, which the operator has chosen
            Some(staged) => {
                if self.known.contains(&staged) {
                    return Ok(());
                }
                staging::remember(&path, &mut parameters);
                let (queue, name) = staging::assign(intake, &self.snapshot, &self.reverse_path, &staged, spread)?;
                (staged, queue, name)
            }
        };
        if let Some(account) = &self.sender.client.account {
            let counted = intake.quotas.recipient(account, intake.clock.now());
            counted.map_err(|over| Refusal::of_quota(account, &over))?;
        }
        self.known.insert(path.clone());
        // two addresses of one mailbox are one delivery
        if name.is_some() && self.recipients.iter().any(|(_, _, other, known)| *known == name && *other == queue) {
            return Ok(());
        }
        self.recipients.push((path, parameters, queue, name));
        Ok(())
    }

    /// The content begins: our trace field goes first (RFC 5321, 4.4).
    ///
    /// # Errors
    /// When the store fails.
    pub async fn content_begins(&mut self, now: Timestamp) -> Result<(), Refusal> {
        let only = match self.recipients.as_slice() {
            [(path, ..)] => Some(path),
            _ => None,
        };
        let received = trace::received(&self.sender, &self.parameters, self.draft.id(), only, now);
        self.draft.append(Bytes::from(received)).await.map_err(|error| Refusal::of_store(&error))
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
            return Err(Refusal { reply, rule: "maxHopCount", detail: "too many Received fields".into() });
        }
        if self.header.is_too_long() {
            let reply = Reply::new(552, EnhancedStatus::permanent(3, 4), "The header section is too long");
            return Err(Refusal { reply, rule: "headerSize", detail: "the header section is over 1 MiB".into() });
        }
        self.draft.append(chunk).await.map_err(|error| Refusal::of_store(&error))
    }

    /// All of it is there: makes it durable and sends it on its way.
    ///
    /// # Errors
    /// When the store could not keep it: nothing of it remains.
    pub async fn commit(mut self, intake: &Intake) -> Result<Reply, Refusal> {
        let received_at = Timestamp::from_millis(intake.clock.unix_millis());
        let Sender { client, helo, extended, lmtp } = self.sender;
        let server = client.server.name.clone();
        if let Some(by) = &mut self.parameters.deliver_by {
            by.seconds -= i64::try_from(received_at.since(self.began).as_secs()).unwrap_or(i64::MAX);
        }
        let mut message = Message {
            id: self.draft.id(),
            received_at,
            origin: Origin {
                protocol: match (lmtp, extended) {
                    (true, _) => Protocol::Lmtp,
                    (false, true) => Protocol::Esmtp,
                    (false, false) => Protocol::Smtp,
                },
                virtual_server: server.clone(),
                client: Some(client.address),
                helo: Some(helo),
                account: client.account.as_ref().map(|account| account.name.clone()),
            },
            reverse_path: self.reverse_path,
            parameters: self.parameters,
            size: self.draft.size(),
            message_id_header: self.header.into_message_id(),
            frozen: false,
            recipients: Vec::new(),
        };
        let due = message.due_at_once(received_at);
        message.recipients = self
            .recipients
            .into_iter()
            .map(|(forward_path, parameters, queue, directory_name)| Recipient {
                forward_path,
                parameters,
                directory_name,
                status: RecipientStatus::Pending,
                waits: Some(Waits { queue, due }),
                attempts: 0,
                delay_notified: false,
                last_failure: None,
            })
            .collect();
        let message = assigned_by_size(&self.snapshot, intake, message);
        let leased = self.draft.commit(message).await.map_err(|error| Refusal::of_store(&error))?;
        let message = &leased.message;
        let label = ByName { name: server.as_str().to_owned() };
        intake.metrics.accepted.get_or_create(&label).inc();
        intake.metrics.accepted_bytes.get_or_create(&label).inc_by(message.size);
        tracing::info!(
            message.id = %message.id,
            virtualServer = %server,
            peer.addr = %client.address,
            sender = %message.reverse_path,
            account = client.account.as_ref().map(|account| tracing::field::display(&account.name)),
            tls = client.tls.as_ref().map(|tls| tls.version),
            recipients = message.recipients.len(),
            size = message.size,
            header.message_id = message.message_id_header.as_deref(),
            "accepted"
        );
        let reply = Reply::new(250, EnhancedStatus::success(0, 0), format!("Ok: queued as {}", message.id));
        intake.queue.track_received(message);
        intake.queue.enqueue(leased);
        Ok(reply)
    }
}

/// The size is known only now: a connector that does not carry messages as large as this one is passed over.
fn assigned_by_size(snapshot: &Snapshot, intake: &Intake, mut message: Message) -> Message {
    let (sender, size, spread) = (&message.reverse_path, message.size, message.id.spread());
    for recipient in &mut message.recipients {
        if let Some(waits) = recipient.waits.as_mut().filter(|waits| !matches!(waits.queue, QueueName::Local(_)))
            && let Assignment::Queue(queue, _) =
                assign(snapshot, &*intake.recipients, &recipient.forward_path, sender, size, spread)
        {
            waits.queue = queue;
        }
    }
    message
}
