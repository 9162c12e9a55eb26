//! The queue into a file and back, with ids kept: for a move to another machine, or to keep a copy before something daring.
//!
//! The file is NDJSON: one JSON object per line, so that it is written and read piece by piece.
//!
//! ```text
//!   {"bridgehead":"queue","version":1,"exportedAt":"…"}
//!   {"message":{"id":"…","receivedAt":"…","reversePath":"…","recipients":[…],…}}
//!   {"content":"<base64 of at most 48 KiB>"}            none or more
//!   {"end":{"id":"…","size":10240,"blake3":"…"}}
//!   …
//!   {"complete":{"messages":2,"unreadable":0}}
//! ```
//!
//! **What is guaranteed.** A message is taken when its `end` line has come and content and checksum fit; it is durable when it is counted. One
//! whose id is here already is skipped, so a file can be brought in again after a failure. What is wrong is named by its line; the others
//! are taken all the same. A file without its last line was cut, which is told.
//!
//! A recipient that waits is assigned anew: connectors and mailbox stores may have other names here. Dead letters stay dead letters. Mail that is
//! older than its terms allow gets its time anew from the import on. Import does one file at a time: otherwise two could bring the
//! same id at the same time.
//!
//! **Memory** is bounded by a line (4 MiB: the longest envelope) and by the store's share for content.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, mpsc};

use super::operate::MessageFilter;
use super::operations::{PAGE, begin_of, is_behind, matches};
use super::scheduler::aged;
use super::{Assignment, Queue, assign_again};
use crate::model::mail::{Message, MessageId, Origin, Recipient, RecipientStatus, Waits};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::smtp::address::ReversePath;
use crate::smtp::parameters::{Body, Hold, MailParameters};
use crate::store::{Draft, Leased, StoreError};

/// Octets of content in one line.
const CHUNK: usize = 48 << 10;
/// Most errors that are told.
const MOST_ERRORS: usize = 100;
/// Most recipients of one message.
const MOST_RECIPIENTS: usize = 100_000;
/// How long what is left of a message that was here is waited for, and how often it is looked at.
const CLEARING: Duration = Duration::from_millis(100);
const MOST_LOOKS: usize = 100;

/// A piece of the file: whole lines.
pub type Piece = Bytes;

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, untagged)]
enum Line {
    Begin(Begin),
    Message(OfMessage),
    Content(OfContent),
    End(OfEnd),
    Complete(OfComplete),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Begin {
    bridgehead: String,
    version: u32,
    exported_at: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfMessage {
    message: Box<Envelope>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfContent {
    content: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfEnd {
    end: End,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfComplete {
    complete: Complete,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct End {
    id: MessageId,
    size: u64,
    blake3: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Complete {
    /// Messages in the file.
    messages: u64,
    /// Messages whose content could not be read: they are not in the file.
    unreadable: u64,
}

/// A message without its content, as the file has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Envelope {
    id: MessageId,
    received_at: Timestamp,
    origin: Origin,
    reverse_path: ReversePath,
    parameters: MailParameters,
    size: u64,
    message_id: Option<String>,
    subject: Option<String>,
    frozen: bool,
    connector: Option<Name>,
    recipients: Vec<Recipient>,
}

impl From<&Message> for Envelope {
    fn from(message: &Message) -> Self {
        Envelope {
            id: message.id,
            received_at: message.received_at,
            origin: message.origin.clone(),
            reverse_path: message.reverse_path.clone(),
            parameters: message.parameters.clone(),
            size: message.size,
            message_id: message.message_id_header.clone(),
            subject: message.subject.clone(),
            frozen: message.frozen,
            connector: message.connector.clone(),
            recipients: message.recipients.clone(),
        }
    }
}

impl From<Envelope> for Message {
    fn from(envelope: Envelope) -> Self {
        Message {
            id: envelope.id,
            received_at: envelope.received_at,
            origin: envelope.origin,
            reverse_path: envelope.reverse_path,
            parameters: envelope.parameters,
            size: envelope.size,
            message_id_header: envelope.message_id,
            subject: envelope.subject,
            frozen: envelope.frozen,
            connector: envelope.connector,
            idempotency: None,
            recipients: envelope.recipients,
        }
    }
}

fn line(of: &impl Serialize) -> Result<Bytes, StoreError> {
    let mut text = serde_json::to_vec(of).map_err(|error| StoreError::Io(error.to_string()))?;
    text.push(b'\n');
    Ok(text.into())
}

impl Queue {
    /// Writes the messages that a filter means; whoever listens may leave.
    pub(super) async fn export(self: Arc<Self>, filter: MessageFilter, to: mpsc::Sender<Result<Piece, StoreError>>) {
        match self.write_out(&filter, &to).await {
            // the other end has gone: nobody needs more
            Ok(()) => {}
            Err(error) => drop(to.send(Err(error)).await),
        }
    }

    async fn write_out(
        &self,
        filter: &MessageFilter,
        to: &mpsc::Sender<Result<Piece, StoreError>>,
    ) -> Result<(), StoreError> {
        let snapshot = self.live.current();
        let now = self.now();
        let give = async |piece: Bytes| to.send(Ok(piece)).await.is_ok();
        let begin = Begin { bridgehead: "queue".to_owned(), version: 1, exported_at: now };
        if !give(line(&begin)?).await {
            return Ok(());
        }
        let (mut after, mut complete) = (begin_of(filter), Complete::default());
        'all: loop {
            let rows = self.store.page(filter.queue.as_ref(), after, PAGE.min(100)).await?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(*last);
            for (key, message) in rows {
                if is_behind(filter, &key) {
                    break 'all;
                }
                // as it is now, not as it was when the page was read
                let Some(message) = self.store.message(message.id).await? else { continue };
                if !matches(filter, &message, &snapshot, now) {
                    continue;
                }
                let mut reader = match self.store.content(message.id).await {
                    Ok(reader) => reader,
                    Err(StoreError::NotFound) => continue,
                    Err(StoreError::Damaged(what)) => {
                        tracing::error!(message.id = %message.id, what, "a message is not exported");
                        complete.unreadable += 1;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                if !give(line(&OfMessage { message: Box::new(Envelope::from(&*message)) })?).await {
                    return Ok(());
                }
                let mut hasher = blake3::Hasher::new();
                while let Some(chunk) = reader.next().await? {
                    hasher.update(&chunk);
                    for piece in chunk.chunks(CHUNK) {
                        if !give(line(&OfContent { content: BASE64_STANDARD.encode(piece) })?).await {
                            return Ok(());
                        }
                    }
                }
                let blake3 = hasher.finalize().to_hex().to_string();
                if !give(line(&OfEnd { end: End { id: message.id, size: message.size, blake3 } })?).await {
                    return Ok(());
                }
                complete.messages += 1;
            }
        }
        let _ = give(line(&OfComplete { complete })?).await;
        Ok(())
    }
}

impl Queue {
    /// Mail that waited elsewhere: it goes when its time has come, and not while it is frozen.
    fn take_over(&self, leased: Leased) {
        let now = self.now();
        let waiting = leased.message.waiting();
        let later = leased.message.frozen || waiting.iter().all(|(_, due)| *due > now);
        if !later || self.holds_some_of(&leased.message) {
            return self.enqueue(leased);
        }
        self.note_deadline(&leased.message);
        self.release(vec![leased]);
        waiting.iter().for_each(|(queue, due)| self.agenda.look(queue, *due));
    }
}

/// Somebody else brings a queue in.
#[derive(Debug, thiserror::Error)]
#[error("another import is under way")]
pub struct ImportBusy;

/// What came of an import.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imported {
    /// Messages that were taken; in a dry run, that would be.
    pub imported: u64,
    /// Messages that were here already.
    pub skipped: u64,
    /// Messages that could not be taken, and lines that cannot be read.
    pub failed: u64,
    /// What was wrong: the line, the message if it is known, and why; the first hundred.
    pub errors: Vec<(u64, Option<MessageId>, String)>,
    /// Whether the file came to its end.
    pub complete: bool,
}

/// An exported queue on its way in, line by line.
pub struct Import {
    queue: Arc<Queue>,
    frozen: bool,
    dry_run: bool,
    report: Imported,
    begun: bool,
    at: At,
    _alone: OwnedMutexGuard<()>,
}

enum At {
    Between,
    /// Lines of a message that is passed over, up to its end.
    PassingOver,
    In(Box<Incoming>),
}

struct Incoming {
    message: Message,
    /// None in a dry run.
    draft: Option<Box<dyn Draft>>,
    hasher: blake3::Hasher,
    size: u64,
    lines: Lines,
}

/// Watches for CR and LF that stand alone: they must not leave, or a next hop could see another message in this one.
#[derive(Default)]
struct Lines {
    /// Bare ones may be there: the content goes by BDAT only.
    binary: bool,
    after_cr: bool,
    wrong: bool,
}

impl Lines {
    fn feed(&mut self, content: &[u8]) {
        for octet in content {
            self.wrong |= (*octet == b'\n') != self.after_cr;
            self.after_cr = *octet == b'\r';
        }
    }

    fn are_wrong(&self) -> bool {
        !self.binary && (self.wrong || self.after_cr)
    }
}

impl Import {
    pub(super) fn begin(queue: Arc<Queue>, frozen: bool, dry_run: bool) -> Result<Self, ImportBusy> {
        let alone = queue.importing.clone().try_lock_owned().map_err(|_| ImportBusy)?;
        let (report, at) = (Imported::default(), At::Between);
        Ok(Import { queue, frozen, dry_run, report, begun: false, at, _alone: alone })
    }

    /// Takes a line, by its number.
    ///
    /// # Errors
    /// Only when the store takes nothing any more: what was taken before stays taken.
    pub async fn line(&mut self, number: u64, text: &[u8]) -> Result<(), StoreError> {
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let line = match read(text) {
            Ok(line) => line,
            Err(why) => {
                self.give_up(number, why);
                return Ok(());
            }
        };
        if !self.begun && !matches!(line, Line::Begin(_)) {
            self.begun = true;
            self.wrong(number, None, "the first line is not that of an exported queue".to_owned());
        }
        match (line, std::mem::replace(&mut self.at, At::Between)) {
            (Line::Begin(begin), At::Between) if !self.begun => {
                self.begun = true;
                if begin.bridgehead != "queue" || begin.version != 1 {
                    self.wrong(number, None, format!("version {} of the file is not known here", begin.version));
                }
            }
            (Line::Message(OfMessage { message }), before) => {
                self.cut(number, before);
                self.at = self.message(number, Message::from(*message)).await?;
            }
            (Line::Content(_), At::PassingOver) => self.at = At::PassingOver,
            (Line::Content(OfContent { content }), At::In(incoming)) => {
                self.at = self.content(number, incoming, &content).await?;
            }
            (Line::End(_), At::PassingOver) => {}
            (Line::End(OfEnd { end }), At::In(incoming)) => self.end(number, *incoming, &end).await?,
            (Line::Complete(OfComplete { complete }), before) => {
                self.cut(number, before);
                self.report.complete = true;
                if complete.unreadable > 0 {
                    let words = format!("{} messages could not be read when the file was written", complete.unreadable);
                    self.wrong(number, None, words);
                }
            }
            (Line::Begin(_) | Line::Content(_) | Line::End(_), before) => {
                self.cut(number, before);
                self.wrong(number, None, "this line does not belong here".to_owned());
            }
        }
        Ok(())
    }

    /// A line that cannot even be kept as one: too long, or cut.
    pub fn give_up(&mut self, number: u64, why: String) {
        let id = match std::mem::replace(&mut self.at, At::PassingOver) {
            At::In(incoming) => Some(incoming.message.id),
            At::Between => {
                self.at = At::PassingOver;
                None
            }
            At::PassingOver => None,
        };
        self.wrong(number, id, why);
    }

    /// All lines have come.
    pub fn ended(mut self, lines: u64) -> Imported {
        let before = std::mem::replace(&mut self.at, At::Between);
        self.cut(lines, before);
        self.report
    }

    fn wrong(&mut self, line: u64, id: Option<MessageId>, why: String) {
        self.report.failed += 1;
        if self.report.errors.len() < MOST_ERRORS {
            self.report.errors.push((line, id, why));
        }
    }

    /// A message without its end.
    fn cut(&mut self, number: u64, at: At) {
        if let At::In(incoming) = at {
            self.wrong(number, Some(incoming.message.id), "the message has no end".to_owned());
        }
    }

    async fn message(&mut self, number: u64, message: Message) -> Result<At, StoreError> {
        let id = message.id;
        if let Err(why) = check(&message) {
            self.wrong(number, Some(id), why.to_owned());
            return Ok(At::PassingOver);
        }
        if self.queue.store.message(id).await?.is_some() {
            self.report.skipped += 1;
            return Ok(At::PassingOver);
        }
        let draft = if self.dry_run { None } else { Some(self.draft(id).await?) };
        let draft = match draft {
            Some(None) => {
                let why = "what is left of a message of this id is not cleared away yet; bring the file in again";
                self.wrong(number, Some(id), why.to_owned());
                return Ok(At::PassingOver);
            }
            Some(Some(draft)) => Some(draft),
            None => None,
        };
        let lines = Lines { binary: message.parameters.body == Body::Binary, ..Lines::default() };
        Ok(At::In(Box::new(Incoming { message, draft, hasher: blake3::Hasher::new(), size: 0, lines })))
    }

    async fn draft(&self, id: MessageId) -> Result<Option<Box<dyn Draft>>, StoreError> {
        self.queue.store.has_room()?;
        for _ in 0..MOST_LOOKS {
            match self.queue.store.begin_with(id) {
                Ok(draft) => return Ok(Some(draft)),
                Err(StoreError::Exists) => tokio::time::sleep(CLEARING).await,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn content(&mut self, number: u64, mut incoming: Box<Incoming>, text: &str) -> Result<At, StoreError> {
        let id = incoming.message.id;
        let Ok(content) = BASE64_STANDARD.decode(text) else {
            self.wrong(number, Some(id), "the content is not base64".to_owned());
            return Ok(At::PassingOver);
        };
        incoming.size += content.len() as u64;
        if incoming.size > incoming.message.size {
            self.wrong(number, Some(id), "there is more content than the size says".to_owned());
            return Ok(At::PassingOver);
        }
        incoming.hasher.update(&content);
        incoming.lines.feed(&content);
        if let Some(draft) = &mut incoming.draft {
            draft.append(Bytes::from(content)).await?;
        }
        Ok(At::In(incoming))
    }

    async fn end(&mut self, number: u64, incoming: Incoming, end: &End) -> Result<(), StoreError> {
        let Incoming { message, draft, hasher, size, lines } = incoming;
        let id = message.id;
        if end.id != id || end.size != size || message.size != size {
            self.wrong(number, Some(id), format!("size or id differ: {size} octets of content came"));
            return Ok(());
        }
        if hasher.finalize().to_hex().as_str() != end.blake3 {
            self.wrong(number, Some(id), "the content does not fit its checksum".to_owned());
            return Ok(());
        }
        if lines.are_wrong() {
            self.wrong(number, Some(id), "the content has a CR or LF that stands alone".to_owned());
            return Ok(());
        }
        if let Some(draft) = draft {
            let message = self.fitted(message);
            let leased = draft.commit(message).await?;
            self.queue.track_received(&leased.message);
            self.queue.take_over(leased);
        }
        self.report.imported += 1;
        Ok(())
    }

    /// The message as it waits here.
    fn fitted(&self, mut message: Message) -> Message {
        let queue = &self.queue;
        let (snapshot, down, now) = (queue.live.current(), queue.down(), queue.now());
        message.frozen |= self.frozen;
        let waits_for: Vec<_> = message
            .recipients
            .iter()
            .map(|recipient| {
                let waits = recipient.waits.as_ref()?;
                if waits.queue == QueueName::DeadLetter {
                    return Some((waits.clone(), recipient.directory_name.clone()));
                }
                let (to, name) = match assign_again(&snapshot, &*queue.recipients, &message, recipient, &down) {
                    Assignment::Queue(to, name) => (to, name),
                    Assignment::Refused(_) | Assignment::Unknown | Assignment::TryLater => (QueueName::Unrouted, None),
                };
                Some((Waits { queue: to, due: waits.due }, name))
            })
            .collect();
        for (recipient, to) in message.recipients.iter_mut().zip(waits_for) {
            if let Some((waits, name)) = to {
                recipient.waits = Some(waits);
                recipient.directory_name = name;
            }
        }
        let thawed = Message { frozen: false, ..message.clone() };
        if !aged(&snapshot, &thawed, now).is_empty() {
            message.parameters.hold = Some(Hold::Until(now.millis().div_euclid(1_000)));
        }
        message
    }
}

fn read(text: &[u8]) -> Result<Line, String> {
    // the first key says which line it is; then the error is about that one
    let of = |error: serde_json::Error| format!("the line cannot be read: {error}");
    let value: serde_json::Value = serde_json::from_slice(text).map_err(of)?;
    let has = |key: &str| value.get(key).is_some();
    if has_controls(&value) {
        return Err("the line has a text with control characters".to_owned());
    }
    match () {
        () if has("message") => serde_json::from_value(value).map(Line::Message).map_err(of),
        () if has("content") => serde_json::from_value(value).map(Line::Content).map_err(of),
        () if has("end") => serde_json::from_value(value).map(Line::End).map_err(of),
        () if has("complete") => serde_json::from_value(value).map(Line::Complete).map_err(of),
        () => serde_json::from_value(value).map(Line::Begin).map_err(of),
    }
}

/// No text of an envelope has any: it could become a line of its own in a command, a log or a report.
fn has_controls(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::String(text) => text.chars().any(char::is_control),
        Value::Array(all) => all.iter().any(has_controls),
        Value::Object(fields) => fields.values().any(has_controls),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What a message must be, whatever wrote it: the rules that the rest of the house relies on.
fn check(message: &Message) -> Result<(), &'static str> {
    let dead = |waits: &Waits| waits.queue == QueueName::DeadLetter;
    match () {
        () if message.recipients.len() > MOST_RECIPIENTS => Err("it has too many recipients"),
        () if message.is_done() => Err("none of its recipients waits"),
        () if message.recipients.iter().any(|recipient| match recipient.status {
            RecipientStatus::Pending => recipient.waits.is_none(),
            RecipientStatus::Failed | RecipientStatus::Expired => !recipient.waits.as_ref().is_none_or(dead),
            _ => recipient.waits.is_some(),
        }) =>
        {
            Err("a recipient neither waits nor is done")
        }
        () if message.message_id_header.as_ref().is_some_and(|text| !is_plain(text)) => {
            Err("its messageId is too long")
        }
        () if message.subject.as_ref().is_some_and(|text| !is_plain(text)) => Err("its subject is too long"),
        () => Ok(()),
    }
}

/// As [`Message`] says of them.
fn is_plain(text: &str) -> bool {
    text.len() <= 255 && !text.chars().any(char::is_control)
}
