//! The journal: append-only segments that are the truth about mail.
//!
//! [`Journal`] writes groups of records and knows what is synced; it decides nothing about messages. It is
//! driven by one thread (`engine`), or by a test that cuts the power.
//!
//! * [`Journal::write`] appends a group, [`Journal::sync`] makes everything written durable.
//! * After any error the segment is abandoned: never written again, and what it holds beyond the last good sync
//!   is cut off by the header of the next segment. Until [`Journal::open_segment`] succeeds, nothing is written.
//! * [`Journal::open`] and [`Journal::replay`] (see `replay`) read it back.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::record::{Header, Record};
use self::segment::{INDEX_ENTRY, IndexEntry, NewSegment, SEGMENT_HEADER, Segment, Segments, TRAILER};
use super::disk::{Disk, write_all};

pub mod record;
pub mod replay;
pub mod segment;
pub mod v1;
pub mod v2;

/// Zeros are written ahead only for groups below this.
const FILL_BELOW: u64 = 32 << 10;

/// Where an accepted record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The segment.
    pub segment: u64,
    /// Where in it.
    pub offset: u64,
    /// Length of the whole record.
    pub len: u32,
    /// The content lies in `large/`.
    pub large: bool,
    /// The content was lost to damage.
    pub lost: bool,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk said no.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No segment is open for writing after an earlier error.
    #[error("the journal has no segment to write to")]
    Abandoned,
    /// The file comes from a newer version of this program.
    #[error("{path} has format {found}; this program reads formats up to {}", segment::FORMAT)]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// How big things are.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    /// Octets of a segment; one that must hold a bigger record becomes bigger.
    pub segment_size: u64,
    /// Spare files that are kept for reuse.
    pub spares: usize,
    /// Octets of zeros that are written ahead of the records in a file that still grows: a sync that does not have to
    /// write a new length is twice as fast.
    pub fill_ahead: u64,
}

/// The journal, in the hands of its only writer.
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store_id: [u8; 16],
    options: JournalOptions,
    segments: Arc<Segments>,
    active: Option<Active>,
    /// Octets of each segment on disk.
    sizes: BTreeMap<u64, u64>,
    /// The last group in each segment but the active one.
    last_groups: BTreeMap<u64, u64>,
    /// Where unsealed segments end.
    ends: BTreeMap<u64, u64>,
    spares: Vec<PathBuf>,
    next_spare: u64,
    next_seq: u64,
    next_group: u64,
    synced: u64,
    head: Vec<u8>,
}

#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    offset: u64,
    synced_offset: u64,
    /// Up to here the file has its length already.
    filled: u64,
    index: Vec<IndexEntry>,
}

/// What a group became.
#[derive(Debug)]
pub struct Written {
    /// Its number.
    pub group: u64,
    /// Where each record lies.
    pub locations: Vec<Location>,
}

impl Journal {
    /// The segments, for readers.
    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// The last group that is durable with everything before it.
    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// The last group that was written.
    pub fn last_group(&self) -> u64 {
        self.next_group - 1
    }

    /// True when a segment is open for writing.
    pub fn is_writable(&self) -> bool {
        self.active.is_some()
    }

    /// The segment that is written to.
    pub fn active_seq(&self) -> Option<u64> {
        self.active.as_ref().map(|active| active.segment.seq)
    }

    /// Octets on disk.
    pub fn bytes(&self) -> u64 {
        self.sizes.values().sum()
    }

    /// The last group of a segment that is no longer written to.
    pub fn last_group_of(&self, seq: u64) -> Option<u64> {
        self.last_groups.get(&seq).copied()
    }

    /// Where an unsealed segment ends.
    pub fn end_of(&self, seq: u64) -> Option<u64> {
        self.ends.get(&seq).copied()
    }

    /// All segments, oldest first, each with the octets of it that are synced and count.
    pub fn synced_parts(&self) -> io::Result<Vec<(Arc<Segment>, u64)>> {
        let part = |segment: Arc<Segment>| {
            let active = self.active.as_ref().filter(|active| active.segment.seq == segment.seq);
            let len = match (active, self.ends.get(&segment.seq)) {
                (Some(active), _) => active.synced_offset,
                (None, Some(end)) => *end,
                (None, None) => segment.file.len()?,
            };
            Ok((segment, len))
        };
        self.segments.all().into_iter().map(part).collect()
    }

    /// Octets of a segment.
    pub fn segment_size(&self) -> u64 {
        self.options.segment_size
    }

    /// Whether a group of these records fits into the open segment.
    pub fn fits(&self, count: usize, len: usize) -> bool {
        self.active.as_ref().is_some_and(|active| {
            let index = (active.index.len() + count) as u64 * INDEX_ENTRY;
            active.offset + len as u64 + index + TRAILER <= active.segment.capacity
        })
    }

    /// Writes one group with one call. Not durable before the next [`Journal::sync`]; the caller has seen to it
    /// that it [fits](Journal::fits).
    pub fn write(&mut self, records: &[&Record]) -> Result<Written, JournalError> {
        let synced = self.synced;
        let group = self.next_group;
        let Some(active) = self.active.as_mut() else { return Err(JournalError::Abandoned) };
        self.head.clear();
        let mut pieces: Vec<(usize, &[u8])> = Vec::with_capacity(records.len());
        let mut locations = Vec::with_capacity(records.len());
        let mut offset = active.offset;
        for (n, record) in records.iter().enumerate() {
            let header = Header {
                version: record::VERSION,
                kind: record.kind,
                unit: record.unit,
                meta_len: record.meta.len() as u32,
                content_len: record.content.len() as u32,
                in_group: (n as u32, records.len() as u32),
                group,
                synced,
                id: record.id,
                hash: record.hash,
            };
            header.write(&active.segment.key, offset, &record.meta, &mut self.head);
            let len = record.len();
            let padding = len - header.head_len() - record.content.len();
            if !record.content.is_empty() {
                pieces.push((self.head.len(), &record.content));
            }
            self.head.extend_from_slice(&[0; 8][..padding]);
            locations.push(Location {
                segment: active.segment.seq,
                offset,
                len: len as u32,
                large: false,
                lost: false,
            });
            offset += len as u64;
        }
        let mut parts: Vec<&[u8]> = Vec::with_capacity(pieces.len() * 2 + 1);
        let mut from = 0;
        for (until, content) in pieces {
            parts.push(&self.head[from..until]);
            parts.push(content);
            from = until;
        }
        if from < self.head.len() {
            parts.push(&self.head[from..]);
        }
        // (a big group pays for the new length itself; writing everything twice would cost more)
        let small = offset - active.offset < FILL_BELOW;
        if offset > active.filled && self.options.fill_ahead > 0 && small {
            let from = active.filled.max(active.offset);
            let until = (offset + self.options.fill_ahead).min(active.segment.capacity);
            let zeros = vec![0; until.saturating_sub(from) as usize];
            // should it fail, the write of the records will say so, or goes well without
            if write_all(&*active.segment.file, from, &[&zeros]).is_ok() {
                active.filled = until;
                let size = self.sizes.entry(active.segment.seq).or_default();
                *size = (*size).max(until);
            }
        }
        if let Err(source) = write_all(&*active.segment.file, active.offset, &parts) {
            let path = active.segment.path.clone();
            self.abandon();
            return Err(JournalError::Io { doing: "writing", path, source });
        }
        for (record, location) in records.iter().zip(&locations) {
            let (offset, len) = (location.offset, location.len);
            active.index.push(IndexEntry { offset, len, kind: record.kind, id: record.id });
        }
        active.offset = offset;
        self.next_group += 1;
        let seq = active.segment.seq;
        let size = self.sizes.entry(seq).or_default();
        *size = (*size).max(offset);
        Ok(Written { group, locations })
    }

    /// Makes everything that was written durable.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        let Some(active) = self.active.as_mut() else { return Err(JournalError::Abandoned) };
        if active.offset == active.synced_offset {
            return Ok(());
        }
        if let Err(source) = active.segment.file.sync_data() {
            let path = active.segment.path.clone();
            self.abandon();
            return Err(JournalError::Io { doing: "syncing", path, source });
        }
        active.synced_offset = active.offset;
        self.synced = self.next_group - 1;
        Ok(())
    }

    /// Seals the open segment, which syncs it.
    pub fn seal(&mut self) -> Result<(), JournalError> {
        let Some(active) = self.active.as_mut() else { return Ok(()) };
        let sealed = active.segment.seal(active.offset, &active.index).and_then(|()| active.segment.file.sync_data());
        if let Err(source) = sealed {
            let path = active.segment.path.clone();
            self.abandon();
            return Err(JournalError::Io { doing: "sealing", path, source });
        }
        self.synced = self.next_group - 1;
        let seq = active.segment.seq;
        self.sizes.insert(seq, active.segment.capacity);
        self.last_groups.insert(seq, self.next_group - 1);
        self.active = None;
        Ok(())
    }

    /// Opens a new segment that can hold a group of this size. The one before must be sealed or abandoned.
    pub fn open_segment(&mut self, room: u64) -> Result<(), JournalError> {
        let capacity = (SEGMENT_HEADER + room + TRAILER).next_multiple_of(4_096).max(self.options.segment_size);
        // a number is used once: the attempt may have left its name on the disk
        let seq = self.next_seq;
        self.next_seq += 1;
        let new = NewSegment {
            seq,
            store_id: &self.store_id,
            capacity,
            first_group: self.next_group,
            synced: self.synced,
            ends: &self.ends,
        };
        let spare = if capacity == self.options.segment_size { self.spares.pop() } else { None };
        let created = Segment::create(&*self.disk, &self.dir, spare.as_deref(), &new);
        let segment = created.map_err(|source| {
            let path = self.dir.join(segment::file_name(seq));
            // should its name have reached the disk, then without a record that counts
            self.ends.insert(seq, SEGMENT_HEADER);
            JournalError::Io { doing: "opening", path, source }
        })?;
        let segment = Arc::new(segment);
        self.segments.insert(segment.clone());
        let filled = if spare.is_some() { capacity } else { SEGMENT_HEADER };
        self.sizes.insert(seq, filled);
        let offset = SEGMENT_HEADER;
        self.active = Some(Active { segment, offset, synced_offset: offset, filled, index: Vec::new() });
        Ok(())
    }

    /// Never writes to the open segment again; what is not synced in it is no part of the journal.
    pub fn abandon(&mut self) {
        if let Some(active) = self.active.take() {
            self.ends.insert(active.segment.seq, active.synced_offset);
            self.last_groups.insert(active.segment.seq, self.synced);
        }
    }

    /// Removes the oldest segment, or keeps its file as a spare. The caller knows that nothing in it lives.
    pub fn remove_oldest(&mut self) -> Result<(), JournalError> {
        let Some(oldest) = self.segments.first() else { return Ok(()) };
        if self.active_seq() == Some(oldest.seq) {
            return Ok(());
        }
        let (seq, path, capacity) = (oldest.seq, oldest.path.clone(), oldest.capacity);
        self.segments.remove(seq);
        let unread = Arc::try_unwrap(oldest).is_ok();
        let whole = self.sizes.get(&seq) == Some(&self.options.segment_size);
        let spare =
            (unread && whole && capacity == self.options.segment_size && self.spares.len() < self.options.spares).then(
                || {
                    self.next_spare += 1;
                    self.dir.join(format!("spare-{}", self.next_spare))
                },
            );
        let gone = match &spare {
            Some(spare) => self.disk.rename(&path, spare),
            None => self.disk.remove(&path),
        };
        // strictly one after the other: were a younger one gone and this one back after a power cut, mail would
        // return whose end was recorded in the younger
        let gone = gone.and_then(|()| self.disk.sync_dir(&self.dir));
        self.sizes.remove(&seq);
        self.last_groups.remove(&seq);
        gone.map_err(|source| JournalError::Io { doing: "removing", path, source })?;
        self.ends.retain(|end, _| *end > seq);
        self.spares.extend(spare);
        Ok(())
    }

    /// Sets the oldest segment aside under `quarantine-*`: something in it is damaged, a person may want to look.
    pub fn quarantine_oldest(&mut self) -> Result<(), JournalError> {
        let Some(oldest) = self.segments.first() else { return Ok(()) };
        let (seq, path) = (oldest.seq, oldest.path.clone());
        self.segments.remove(seq);
        self.sizes.remove(&seq);
        self.last_groups.remove(&seq);
        self.quarantine(&path).map_err(|source| JournalError::Io { doing: "setting aside", path, source })
    }

    fn quarantine(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        self.disk.rename(path, &self.dir.join(format!("quarantine-{name}")))?;
        self.disk.sync_dir(&self.dir)
    }
}
