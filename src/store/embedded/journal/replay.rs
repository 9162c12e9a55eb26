//! Reading the journal back: what was acknowledged, what was torn, what is damaged.
//!
//! Replay stops at nothing. Unreadable bytes are a **torn tail** when nothing readable says that what lay there
//! had been synced; then the segment ends before them, which the header of the next segment records. They are
//! **damage** when a later record or segment carries the number of a synced group that must have begun there;
//! then they are reported, with ids where the index knows them, and reading goes on behind them.
//!
//! Sealed segments are read by their index: heads, never content. What was not sealed is read whole, content too.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::record::{HEADER, Header, Kind};
use super::segment::{IndexEntry, NoSegment, SEGMENT_HEADER, Segment, Segments};
use super::{Journal, JournalError, JournalOptions, Location};
use crate::model::mail::MessageId;
use crate::store::embedded::disk::{Disk, read_up_to};

/// A record that was read back.
#[derive(Debug)]
pub struct Entry {
    /// Its header.
    pub header: Header,
    /// Its meta data.
    pub meta: Vec<u8>,
    /// Where it lies.
    pub location: Location,
    /// Its group is known to have been synced. What is not may have been read from the page cache only, and after
    /// a failed sync the cache holds what the disk does not: it has to be written again before it is relied on.
    pub proven: bool,
}

/// What replay found besides mail.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ReplayReport {
    /// Records that cannot be read: segment, offset, and the id where it is known.
    pub damaged: Vec<(u64, u64, Option<MessageId>)>,
    /// Segments whose header cannot be read.
    pub lost_segments: Vec<String>,
    /// Tails that were cut off: segment and offset.
    pub torn: Vec<(u64, u64)>,
    /// The last group that was found.
    pub last_group: u64,
}

impl Journal {
    /// Opens the segments in a directory; nothing of them is read but the headers.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        store_id: [u8; 16],
        options: JournalOptions,
        report: &mut ReplayReport,
    ) -> Result<Journal, JournalError> {
        let io_error = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { doing, path, source }
        };
        disk.create_dir(dir).map_err(io_error("making", dir))?;
        let mut journal = Journal {
            disk: disk.clone(),
            dir: dir.to_owned(),
            store_id,
            options,
            segments: Arc::new(Segments::default()),
            active: None,
            sizes: BTreeMap::new(),
            last_groups: BTreeMap::new(),
            ends: BTreeMap::new(),
            spares: Vec::new(),
            next_spare: 0,
            next_seq: 1,
            next_group: 1,
            synced: 0,
            head: Vec::new(),
        };
        let mut names = disk.list(dir).map_err(io_error("listing", dir))?;
        names.sort();
        for name in names {
            let path = dir.join(&name);
            if name.starts_with("spare") || name.ends_with(".tmp") {
                // a spare is only worth its keep while the process runs
                disk.remove(&path).map_err(io_error("removing", &path))?;
                continue;
            }
            let Some(number) = name.strip_suffix(".seg").and_then(|number| number.parse::<u64>().ok()) else {
                continue;
            };
            journal.next_seq = journal.next_seq.max(number + 1);
            match Segment::open(&*disk, &path, &store_id) {
                Ok(segment) if segment.seq == number => {
                    let size = segment.file.len().map_err(io_error("reading", &path))?;
                    journal.sizes.insert(segment.seq, size);
                    for (seq, end) in &segment.ends {
                        journal.ends.insert(*seq, *end);
                    }
                    journal.next_group = journal.next_group.max(segment.first_group);
                    journal.synced = journal.synced.max(segment.synced);
                    journal.segments.insert(Arc::new(segment));
                }
                Err(NoSegment::Newer(found)) => return Err(JournalError::Newer { path, found }),
                Err(NoSegment::Io(source)) => return Err(io_error("reading", &path)(source)),
                Ok(_) | Err(NoSegment::Damaged | NoSegment::Foreign) => {
                    journal.quarantine(&path).map_err(io_error("setting aside", &path))?;
                    report.lost_segments.push(name);
                }
            }
        }
        Ok(journal)
    }

    /// The first group that is still on disk; a database that has not taken in everything before it is too old.
    pub fn first_group(&self) -> Option<u64> {
        self.segments.first().map(|segment| segment.first_group)
    }

    /// Reads everything back from the segment on that holds the group behind `position`, in order: one call per
    /// unit. Afterwards all that was given out is durable and the next group can be written to a new segment.
    pub fn replay<E: From<JournalError>>(
        &mut self,
        position: u64,
        report: &mut ReplayReport,
        visit: &mut dyn FnMut(Vec<Entry>) -> Result<(), E>,
    ) -> Result<(), E> {
        let all = self.segments.all();
        let start = all.iter().rposition(|segment| segment.first_group <= position + 1).unwrap_or(0);
        let mut last_group = self.next_group - 1;
        let mut unproven = false;
        let mut proven_group = self.synced;
        for (n, segment) in all.iter().enumerate() {
            let io_error = |source| JournalError::Io { doing: "reading", path: segment.path.clone(), source };
            let next_first = all.get(n + 1).map(|next| next.first_group - 1);
            if n < start {
                self.last_groups.insert(segment.seq, next_first.unwrap_or(last_group));
                continue;
            }
            let mut seg_last = segment.first_group - 1;
            let entries = match segment.index().map_err(io_error)? {
                Some((_, index)) => {
                    let mut entries = Vec::with_capacity(index.len());
                    for found in index {
                        match segment.head(found.offset, found.len).map_err(io_error)? {
                            Some((header, meta)) => {
                                let (offset, len) = (found.offset, found.len);
                                entries.push(entry(segment.seq, offset, len, header, meta, u64::MAX));
                            }
                            None => report.damaged.push((segment.seq, found.offset, Some(found.id))),
                        }
                    }
                    entries
                }
                None => {
                    // what a killed process wrote may be in the page cache only
                    segment.file.sync_data().map_err(io_error)?;
                    let synced = all[n + 1..].iter().map(|later| later.synced).max().unwrap_or(0);
                    let known_end = self.ends.get(&segment.seq).copied();
                    let (entries, end) = scan(segment, known_end, synced, report).map_err(io_error)?;
                    self.ends.insert(segment.seq, end);
                    entries
                }
            };
            let mut unit: Vec<Entry> = Vec::new();
            for entry in entries {
                seg_last = seg_last.max(entry.header.group);
                unproven |= !entry.proven;
                if entry.proven {
                    proven_group = proven_group.max(entry.header.group);
                }
                if entry.header.unit.0 == 0 && !unit.is_empty() {
                    // its rest is damaged and reported; what is left of it still counts
                    visit(std::mem::take(&mut unit))?;
                }
                let last = entry.header.unit.0 + 1 >= entry.header.unit.1;
                unit.push(entry);
                if last {
                    visit(std::mem::take(&mut unit))?;
                }
            }
            if !unit.is_empty() {
                visit(unit)?;
            }
            last_group = last_group.max(seg_last);
            self.last_groups.insert(segment.seq, next_first.unwrap_or(last_group).max(seg_last));
        }
        self.next_group = self.next_group.max(last_group + 1);
        // what the next header says is synced must be true even if nothing more is written
        self.synced = if unproven { proven_group } else { self.next_group - 1 };
        report.last_group = self.next_group - 1;
        Ok(())
    }
}

/// The good records of an unsealed segment up to its end.
pub fn records(segment: &Segment, end: Option<u64>) -> io::Result<Vec<IndexEntry>> {
    let (entries, _) = scan(segment, end, u64::MAX, &mut ReplayReport::default())?;
    let listed = |entry: Entry| IndexEntry {
        offset: entry.location.offset,
        len: entry.location.len,
        kind: entry.header.kind,
        id: entry.header.id,
    };
    Ok(entries.into_iter().map(listed).collect())
}

fn entry(segment: u64, offset: u64, len: u32, header: Header, meta: Vec<u8>, synced: u64) -> Entry {
    let proven = header.group <= synced;
    Entry { header, meta, location: Location { segment, offset, len, large: false, lost: false }, proven }
}

/// The records of a segment without an index, and where it ends. `synced` is what later segments say.
fn scan(
    segment: &Segment,
    known_end: Option<u64>,
    synced: u64,
    report: &mut ReplayReport,
) -> io::Result<(Vec<Entry>, u64)> {
    let len = segment.file.len()?.min(known_end.unwrap_or(segment.capacity));
    let bytes = read_up_to(&*segment.file, 0, len as usize)?;
    // every good record, with the gap before it
    let mut found: Vec<(Header, usize)> = Vec::new();
    let mut at = SEGMENT_HEADER as usize;
    let mut gaps: Vec<(usize, usize)> = Vec::new(); // (index of the record behind it, where it begins)
    let mut gap = None;
    let mut seen = 0;
    while at + HEADER <= bytes.len() {
        match good(segment, &bytes, at) {
            Some(header) => {
                if let Some(begin) = gap.take() {
                    gaps.push((found.len(), begin));
                }
                seen = seen.max(header.synced);
                let len = header.record_len();
                found.push((header, at));
                at += len;
            }
            None => {
                gap.get_or_insert(at);
                at += 8;
            }
        }
    }
    let synced = synced.max(seen);
    let mut end = known_end.map_or_else(
        || found.last().map_or(SEGMENT_HEADER as usize, |(header, at)| at + header.record_len()),
        |end| end as usize,
    );
    let mut keep = found.len();
    for (behind, begin) in gaps {
        // what was lost belongs to the group of the record before it, unless that one is complete
        let lost_group = match behind.checked_sub(1).map(|before| &found[before].0) {
            Some(before) if before.in_group.0 + 1 < before.in_group.1 => before.group,
            Some(before) => before.group + 1,
            None => segment.first_group,
        };
        if known_end.is_some() || lost_group <= synced {
            report.damaged.push((segment.seq, begin as u64, None));
        } else {
            keep = behind;
            end = begin;
            report.torn.push((segment.seq, begin as u64));
            break;
        }
    }
    if keep == found.len() {
        let after = found.last().map_or(SEGMENT_HEADER as usize, |(header, at)| at + header.record_len());
        let lost_group = match found.last() {
            Some((last, _)) if last.in_group.0 + 1 < last.in_group.1 => last.group,
            Some((last, _)) => last.group + 1,
            None => segment.first_group,
        };
        if known_end.is_some_and(|end| end > after as u64) || (known_end.is_none() && lost_group <= synced) {
            report.damaged.push((segment.seq, after as u64, None));
            end = end.max(after);
        } else if known_end.is_none() && bytes[after.min(bytes.len())..].iter().any(|byte| *byte != 0) {
            // the rest of a recycled file looks like this too; so it is counted, but no alarm
            report.torn.push((segment.seq, after as u64));
        }
    }
    found.truncate(keep);
    // a unit counts as a whole or not at all; its rest was torn off with the tail
    if known_end.is_none() {
        while let Some((header, at)) = found.last()
            && header.unit.0 + 1 < header.unit.1
            && header.group > synced
        {
            end = *at;
            found.pop();
        }
    }
    let entries = found
        .into_iter()
        .map(|(header, at)| {
            let meta = bytes[at + HEADER..at + header.head_len()].to_vec();
            let len = header.record_len() as u32;
            entry(segment.seq, at as u64, len, header, meta, synced)
        })
        .collect();
    Ok((entries, end as u64))
}

/// The record at an offset, if all of it is good.
fn good(segment: &Segment, bytes: &[u8], at: usize) -> Option<Header> {
    if !Header::may_begin(&bytes[at..]) {
        return None;
    }
    let peeked = Header::peek(&bytes[at..])?;
    let until = at.checked_add(peeked.record_len())?;
    if until > bytes.len() {
        // the padding of the very last record may be missing
        let bare = at + peeked.head_len() + peeked.content_len as usize;
        if bare > bytes.len() {
            return None;
        }
    }
    let header = Header::read(&segment.key, at as u64, &bytes[at..])?;
    let content = &bytes[at + header.head_len()..at + header.head_len() + header.content_len as usize];
    (header.kind != Kind::Accepted || header.fits(content)).then_some(header)
}
