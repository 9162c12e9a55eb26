//! Content: taken in chunk by chunk ([`SpoolDraft`]), given out chunk by chunk.
//!
//! Small content stays in memory until its record is written. What is above `large_above`, or comes when all
//! content together fills its share of memory, goes to `large/<id>.tmp` as it comes; at commit that is synced,
//! renamed to `large/<id>`, the directory synced, and only then the record is written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::disk::{Disk, File, read_up_to, with_suffix, write_all};
use super::engine::Shared;
use super::inbox::{Job, Mail};
use super::journal::record::{Accepted, Kind, Record, encode};
use super::{blocking, large_path};
use crate::model::mail::{Message, MessageId};
use crate::store::{ContentReader, Draft, Leased, StoreError};

/// Octets given out at once.
const CHUNK: usize = 64 << 10;
/// Octets of large content that gather before they are written.
const GATHER: usize = 256 << 10;

/// What taking content in needs.
#[derive(Clone)]
pub struct Intake {
    /// The engine's other half.
    pub shared: Arc<Shared>,
    /// For `large/`.
    pub disk: Arc<dyn Disk>,
    /// `large/`.
    pub large: PathBuf,
    /// From here on content is large.
    pub large_above: usize,
    /// Octets of content in memory now.
    pub memory: Arc<AtomicUsize>,
    /// Octets that may be.
    pub memory_limit: usize,
}

/// A message on its way in.
pub struct SpoolDraft {
    intake: Intake,
    id: MessageId,
    size: u64,
    hasher: blake3::Hasher,
    /// The first piece as it came, or all of it gathered.
    first: Option<Bytes>,
    gathered: Vec<u8>,
    share: Share,
    large: Option<LargeFile>,
}

/// A part of the memory for content; given back when it is dropped.
struct Share {
    memory: Arc<AtomicUsize>,
    bytes: usize,
}

struct LargeFile {
    file: Arc<dyn File>,
    tmp: PathBuf,
    disk: Arc<dyn Disk>,
    written: u64,
    /// It has its name; whoever owns the message owns the file.
    kept: bool,
}

/// Content in memory that counts until the last handle to it is gone.
struct Counted {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Share {
    /// False when all content together would be too much.
    fn grow(&mut self, by: usize, limit: usize) -> bool {
        let before = self.memory.fetch_add(by, Ordering::AcqRel);
        self.bytes += by;
        before + by <= limit
    }
}

impl Drop for LargeFile {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.disk.remove(&self.tmp)
        {
            // the next start sweeps it
            tracing::warn!(path = %self.tmp.display(), error = %error, "a file could not be removed");
        }
    }
}

impl SpoolDraft {
    /// A new draft.
    pub fn new(intake: Intake) -> SpoolDraft {
        SpoolDraft::with_id(intake, MessageId::generate())
    }

    /// A draft for a message that has its id.
    pub fn with_id(intake: Intake, id: MessageId) -> SpoolDraft {
        let share = Share { memory: intake.memory.clone(), bytes: 0 };
        SpoolDraft {
            intake,
            id,
            size: 0,
            hasher: blake3::Hasher::new(),
            first: None,
            gathered: Vec::new(),
            share,
            large: None,
        }
    }

    /// Everything but the journal: the record, and the content in its place.
    pub async fn finish(mut self, message: Message) -> Result<Mail, StoreError> {
        if message.id != self.id || message.size != self.size {
            return Err(StoreError::Io("the envelope does not belong to the content".to_owned()));
        }
        let large = self.large.is_some();
        if large {
            self.spill(true).await?;
        }
        let meta = Accepted { message: &message, large, lost: false, suspects: 0 };
        let meta = encode(&meta);
        let hash = *self.hasher.finalize().as_bytes();
        let content = match (large, self.first.take()) {
            (true, _) => None,
            (false, Some(first)) => Some(first),
            (false, None) => Some(Bytes::from(std::mem::take(&mut self.gathered))),
        };
        let content = content.map(|bytes| match bytes.is_empty() {
            true => bytes,
            false => Bytes::from_owner(Counted { bytes, _share: self.share }),
        });
        if let Some(file) = &mut self.large {
            file.kept = true;
        }
        let in_record = content.clone().unwrap_or_default();
        let record = Record { kind: Kind::Accepted, id: message.id, meta, content: in_record, hash, unit: (0, 1) };
        Ok(Mail { message: Arc::new(message), record, large, content, amends: false })
    }

    /// Writes what is gathered to `large/`; at the end makes it durable under its name.
    async fn spill(&mut self, end: bool) -> Result<(), StoreError> {
        let first = self.first.take();
        let gathered = std::mem::take(&mut self.gathered);
        let (disk, dir, id) = (self.intake.disk.clone(), self.intake.large.clone(), self.id);
        let large = self.large.take();
        let file = blocking(move || -> io::Result<LargeFile> {
            let mut large = match large {
                Some(large) => large,
                None => {
                    let tmp = with_suffix(&large_path(&dir, id), ".tmp");
                    let file = disk.create(&tmp)?;
                    LargeFile { file, tmp, disk: disk.clone(), written: 0, kept: false }
                }
            };
            for piece in [first.as_deref().unwrap_or_default(), &gathered] {
                write_all(&*large.file, large.written, &[piece])?;
                large.written += piece.len() as u64;
            }
            if end {
                let path = large_path(&dir, id);
                large.file.sync_data()?;
                disk.rename(&large.tmp, &path)?;
                large.tmp = path;
                disk.sync_dir(&dir)?;
            }
            Ok(large)
        });
        self.large = Some(file.await?.map_err(|error| StoreError::Io(format!("writing to large/: {error}")))?);
        // what is written needs no memory
        let given = std::mem::take(&mut self.share.bytes);
        self.share.memory.fetch_sub(given, Ordering::AcqRel);
        Ok(())
    }
}

#[async_trait]
impl Draft for SpoolDraft {
    fn id(&self) -> MessageId {
        self.id
    }

    async fn append(&mut self, content: Bytes) -> Result<(), StoreError> {
        self.hasher.update(&content);
        self.size += content.len() as u64;
        let fits = self.share.grow(content.len(), self.intake.memory_limit);
        if self.first.is_none() && self.gathered.is_empty() {
            self.first = Some(content);
        } else {
            if let Some(first) = self.first.take() {
                self.gathered.reserve((first.len() + content.len()).max(16 << 10));
                self.gathered.extend_from_slice(&first);
            }
            self.gathered.extend_from_slice(&content);
        }
        let large = !fits || self.size > self.intake.large_above as u64;
        let enough = self.share.bytes >= GATHER || !fits || self.large.is_none();
        if large && enough { self.spill(false).await } else { Ok(()) }
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn commit(self: Box<Self>, message: Message) -> Result<Leased, StoreError> {
        let intake = self.intake.clone();
        let mail = self.finish(message).await?;
        let (id, large) = (mail.message.id, mail.large);
        let leased = commit(&intake.shared, None, vec![mail]).await;
        if large && leased.is_err() {
            remove_unused(&intake, id).await;
        }
        leased?.pop().ok_or(StoreError::Closed)
    }
}

/// Hands a change and the mail it causes to the journal and waits until they are durable.
pub async fn commit(
    shared: &Shared,
    change: Option<Box<super::inbox::Recorded>>,
    mails: Vec<Mail>,
) -> Result<Vec<Leased>, StoreError> {
    let permit = Some(shared.inbox.place().await?);
    let (answer, answered) = oneshot::channel();
    shared.inbox.push(Job::Commit { change, mails, answer, permit })?;
    answered.await.map_err(|_| StoreError::Closed)?
}

/// Removes a file whose message did not come to be.
pub async fn remove_unused(intake: &Intake, id: MessageId) {
    let path = large_path(&intake.large, id);
    let disk = intake.disk.clone();
    // should it stay, the next start sweeps it
    let _ = blocking(move || disk.remove(&path)).await;
}

/// Opens the content of a message, verified.
pub fn open(
    shared: &Shared,
    disk: &dyn Disk,
    large: &Path,
    id: MessageId,
) -> Result<Box<dyn ContentReader>, StoreError> {
    // the record may move while we look for it
    for _ in 0..5 {
        let Some(row) = shared.row(id)? else { return Err(StoreError::NotFound) };
        let damaged = |what: &str| {
            shared.quarantined.fetch_add(1, Ordering::Relaxed);
            tracing::error!(message.id = %id, "{what}");
            Err(StoreError::Damaged(format!("{what} of message {id}")))
        };
        if row.location.lost {
            return Err(StoreError::Damaged(format!("the content of message {id} was lost to damage")));
        }
        let Some(segment) = shared.segments.get(row.location.segment) else { continue };
        let record = segment.record(&row.location, id).map_err(|error| StoreError::Io(error.to_string()))?;
        let Some((header, _, content)) = record else {
            if shared.row(id)?.is_none_or(|again| again.location != row.location) {
                continue;
            }
            return damaged("the record");
        };
        if !row.location.large {
            return Ok(Box::new(InMemory(content)));
        }
        return match self::large(disk, &large_path(large, id), &header.hash) {
            Ok(Some(file)) => Ok(Box::new(FromFile { file, at: 0 })),
            Ok(None) => damaged("the file in large/"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if shared.row(id)?.is_none() {
                    return Err(StoreError::NotFound);
                }
                damaged("the file in large/")
            }
            Err(error) => Err(StoreError::Io(error.to_string())),
        };
    }
    Err(StoreError::Damaged(format!("the record of message {id} is not where it should be")))
}

/// Opens large content, if it fits its hash.
pub fn large(disk: &dyn Disk, path: &Path, hash: &[u8; 32]) -> io::Result<Option<Arc<dyn File>>> {
    let file = disk.open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    loop {
        let piece = read_up_to(&*file, at, 1 << 20)?;
        if piece.is_empty() {
            return Ok((hasher.finalize().as_bytes() == hash).then_some(file));
        }
        hasher.update(&piece);
        at += piece.len() as u64;
    }
}

struct InMemory(Bytes);

#[async_trait]
impl ContentReader for InMemory {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let len = self.0.len().min(CHUNK);
        Ok((len > 0).then(|| self.0.split_to(len)))
    }
}

/// The open file pins the content, also when its name goes.
struct FromFile {
    file: Arc<dyn File>,
    at: u64,
}

#[async_trait]
impl ContentReader for FromFile {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let (file, at) = (self.file.clone(), self.at);
        let piece = blocking(move || read_up_to(&*file, at, CHUNK)).await?;
        let piece = piece.map_err(|error| StoreError::Io(error.to_string()))?;
        self.at += piece.len() as u64;
        Ok((!piece.is_empty()).then(|| Bytes::from(piece)))
    }
}
