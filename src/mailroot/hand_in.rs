//! A file goes into the house by `intake`, in two steps: [`begin`] takes the envelope, and [`finish`] the content and makes it
//! durable. Between the two the caller writes down the id, so that after a crash he can tell whether it is there.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::file::Mail;
use crate::config::{Snapshot, VirtualServer};
use crate::dsn::date_field;
use crate::intake::{Client, Door, Filtering, Incoming, Intake, Refusal, Sender};
use crate::model::failure::{Failure, Scope};
use crate::model::mail::MessageId;
use crate::model::time::Timestamp;
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::parameters::{Body, MailParameters, RcptParameters};
use crate::smtp::reply::EnhancedStatus;

/// Why a file did not become mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// Not now.
    Later(String),
    /// Never, as it is.
    Never(String),
}

/// What becomes of recipients who may not be written to, or who are not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Recipients {
    /// The sender gets a report.
    Report,
    /// The mail is for the people here only, and comes from long ago: for all others it goes to the dead-letter queue.
    OursOrDead,
    /// All of it goes to the dead-letter queue, for this reason.
    Dead(String),
}

/// A message whose envelope was taken.
pub(super) struct Begun {
    /// The message.
    pub(super) incoming: Incoming,
    /// Recipients who may not be written to, and why: their sender gets a report.
    pub(super) refused: Vec<(ForwardPath, Refusal)>,
}

impl Begun {
    /// Tells the log of the recipients who are refused.
    pub(super) fn log_refused(&self, server: &VirtualServer) {
        for (path, refusal) in &self.refused {
            tracing::info!(
                message.id = %self.incoming.id(),
                virtualServer = %server.name,
                sender = %self.incoming.reverse_path(),
                recipient = %path,
                rule = refusal.rule,
                detail = %refusal.detail,
                "refused; the sender gets a report"
            );
        }
    }
}

/// Reads a file.
///
/// # Errors
/// When it is no message.
pub(super) async fn read(path: &Path, server: &VirtualServer) -> Result<Mail, String> {
    let limits = &server.spec.messages;
    let (path, max_size, max_recipients) = (path.to_owned(), limits.max_size.bytes(), limits.max_recipients as usize);
    let opened = tokio::task::spawn_blocking(move || Mail::open(&path, max_size, max_recipients)).await;
    opened.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Takes the envelope of a file.
///
/// # Errors
/// When the sender, or one of the recipients, is refused, but for what `recipients` provides for.
pub(super) async fn begin(
    intake: &Intake,
    snapshot: Arc<Snapshot>,
    server: Arc<VirtualServer>,
    door: Door,
    mail: &Mail,
    recipients: &Recipients,
) -> Result<Begun, NotTaken> {
    let client = Client {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        name: None,
        server,
        account: None,
        tls: None,
        filtering: Filtering::none(),
        trusted: true,
    };
    let parameters = MailParameters {
        body: if mail.is_eight_bit { Body::EightBitMime } else { Body::SevenBit },
        smtputf8: needs_utf8(mail),
        ..MailParameters::default()
    };
    let reverse_path = mail.head.sender.clone().unwrap_or(ReversePath::Null);
    let begun = Incoming::begin(intake, snapshot.clone(), Sender { client, door }, reverse_path, parameters);
    let mut incoming = begun.map_err(not_taken)?;
    let mut refused = Vec::new();
    for path in &mail.head.recipients {
        match recipients {
            Recipients::Report => {
                let taken = incoming.recipient_or_report(intake, path.clone(), RcptParameters::default()).await;
                refused.extend(taken.map_err(not_taken)?.map(|refusal| (path.clone(), refusal)));
            }
            Recipients::OursOrDead => ours_or_dead(intake, &snapshot, &mut incoming, path).await?,
            Recipients::Dead(why) => incoming.dead_recipient(path.clone(), dead(why)),
        }
    }
    Ok(Begun { incoming, refused })
}

async fn ours_or_dead(
    intake: &Intake,
    snapshot: &Snapshot,
    incoming: &mut Incoming,
    path: &ForwardPath,
) -> Result<(), NotTaken> {
    let is_ours = match path {
        ForwardPath::Mailbox(mailbox) => snapshot.domains.find(mailbox.domain()).is_some(),
        ForwardPath::Postmaster => true,
    };
    if !is_ours {
        incoming.dead_recipient(path.clone(), dead("its domain is not local here"));
        return Ok(());
    }
    match incoming.recipient(intake, path.clone(), RcptParameters::default()).await {
        Ok(()) => Ok(()),
        Err(refusal) if refusal.is_permanent() => {
            incoming.dead_recipient(path.clone(), dead(&refusal.detail));
            Ok(())
        }
        Err(refusal) => Err(not_taken(refusal)),
    }
}

/// Takes the content, and returns when all of it is durable and on its way.
///
/// # Errors
/// When it is refused, or cannot be read or kept; nothing of it remains then.
pub(super) async fn finish(
    intake: &Intake,
    mut incoming: Incoming,
    mut mail: Mail,
    fqdn: &str,
) -> Result<(), NotTaken> {
    let now = Timestamp::from_millis(intake.clock.unix_millis());
    incoming.content_begins(now).await.map_err(not_taken)?;
    let mut start = std::mem::take(&mut mail.head.fields);
    if !mail.head.has_date {
        start.extend_from_slice(format!("Date: {}\r\n", date_field(now)).as_bytes());
    }
    if !mail.head.has_message_id {
        start.extend_from_slice(message_id(incoming.id(), fqdn).as_bytes());
    }
    start.extend_from_slice(b"\r\n");
    incoming.content(Bytes::from(start)).await.map_err(not_taken)?;
    let mut body = mail.body().map_err(|error| NotTaken::Later(error.to_string()))?;
    // a chunk of 64 KiB: as short as a read from the page cache
    while let Some(chunk) = body.next().map_err(|error| NotTaken::Later(error.to_string()))? {
        incoming.content(Bytes::from(chunk)).await.map_err(not_taken)?;
    }
    incoming.commit(intake).await.map(|_| ()).map_err(not_taken)
}

fn message_id(id: MessageId, fqdn: &str) -> String {
    format!("Message-ID: <{id}@{fqdn}>\r\n")
}

fn needs_utf8(mail: &Mail) -> bool {
    let sender = mail.head.sender.as_ref().and_then(ReversePath::mailbox);
    let mut all = mail.head.recipients.iter().filter_map(|path| match path {
        ForwardPath::Mailbox(mailbox) => Some(mailbox),
        ForwardPath::Postmaster => None,
    });
    let plain = |mailbox: &crate::smtp::address::Mailbox| mailbox.to_string().is_ascii();
    !mail.head.fields.is_ascii() || !sender.is_none_or(plain) || !all.all(plain)
}

fn dead(why: &str) -> Failure {
    Failure::new(Scope::Recipient, EnhancedStatus::permanent(0, 0), format!("from an old mailroot: {why}"))
}

fn not_taken(refusal: Refusal) -> NotTaken {
    let why = format!("{} ({})", refusal.reply.text, refusal.detail);
    if refusal.is_permanent() { NotTaken::Never(why) } else { NotTaken::Later(why) }
}
