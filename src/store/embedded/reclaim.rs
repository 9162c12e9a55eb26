//! Getting space back: segments go strictly oldest first, what still lives in the oldest is copied forward.
//!
//! A living message is copied as one *accepted* record with its state folded in, at most [`STEP`] octets a group.
//! A segment goes when nothing lives in it and the database has durably taken every group up to the last that
//! was written to it or moved something out of it. A file in `large/` goes in the same way, after its message.
//!
//! Content is verified before it is copied. What is damaged is not thrown away: the message goes to the
//! dead-letter queue, frozen and without content, and the segment is set aside under `quarantine-*`.
//!
//! While a backup runs files in `large/` stay; a segment that goes stays open for it.

use std::sync::atomic::Ordering;

use super::engine::Engine;
use super::journal::record::{Accepted, Kind, Record};
use super::journal::segment::IndexEntry;
use super::journal::{JournalError, Location, replay};
use super::large_path;
use super::rows::Row;
use crate::model::mail::{Message, MessageId};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;

/// Octets copied in one group.
const STEP: usize = 1 << 20;
/// Records copied in one group.
const STEP_RECORDS: usize = 400;
/// So many failures to read are taken for damage.
const READ_ATTEMPTS: u32 = 100;

impl Engine {
    /// Does one step. True when there is more to do at once.
    pub fn reclaim(&mut self) -> bool {
        if self.is_fenced() || self.removal_failed {
            return false;
        }
        self.remove_large();
        if let Some(seq) = self.suspicious.first().copied() {
            if self.shared.segments.get(seq).is_some() && self.copy_some(seq) {
                return true;
            }
            self.suspicious.remove(&seq);
        }
        let Some(oldest) = self.shared.segments.first().map(|segment| segment.seq) else { return false };
        if self.journal.active_seq() == Some(oldest) || !self.journal.is_writable() {
            return false;
        }
        let (alive_here, alive, died) = {
            let state = self.shared.state();
            let here = state.totals.segments.get(&oldest).copied().unwrap_or_default();
            let alive: u64 = state.totals.segments.values().map(|count| count.bytes).sum();
            (here.messages, alive, state.died.get(&oldest).copied().unwrap_or(0))
        };
        if alive_here == 0 {
            let gate = died.max(self.journal.last_group_of(oldest).unwrap_or(0));
            if self.shared.flushed.load(Ordering::Acquire) < gate {
                self.shared.flush_wanted.fetch_max(gate, Ordering::AcqRel);
                return false;
            }
            return self.remove_segment(oldest);
        }
        let slack = self.options.slack_segments * self.journal.segment_size();
        if self.journal.bytes() > alive * 2 + slack { self.copy_some(oldest) } else { false }
    }

    fn remove_segment(&mut self, oldest: u64) -> bool {
        let removed = match self.tainted.remove(&oldest) {
            true => self.journal.quarantine_oldest(),
            false => self.journal.remove_oldest(),
        };
        self.shared.state().died.remove(&oldest);
        self.shared.journal_bytes.store(self.journal.bytes(), Ordering::Relaxed);
        match removed {
            Ok(()) => true,
            Err(error) => {
                // the name may come back after a crash, and with it, if younger ones had gone, mail that ended:
                // nothing more is removed until a new start
                tracing::error!(error = %error, "a segment could not be removed");
                self.removal_failed = true;
                false
            }
        }
    }

    /// Copies some of what lives in a segment to the end of the journal. True when there may be more.
    fn copy_some(&mut self, seq: u64) -> bool {
        if self.copying.as_ref().is_none_or(|(copying, _, _)| *copying != seq) {
            match self.entries_of(seq) {
                Some(entries) => self.copying = Some((seq, entries, 0)),
                None => return false,
            }
        }
        let Some((_, entries, mut next)) = self.copying.take() else { return false };
        let mut records: Vec<Record> = Vec::new();
        let mut moved: Vec<(MessageId, Location)> = Vec::new();
        let mut len = 0;
        while next < entries.len() && len < STEP && records.len() < STEP_RECORDS {
            let entry = &entries[next];
            next += 1;
            if entry.kind != Kind::Accepted {
                continue;
            }
            let row = match self.shared.row(entry.id) {
                Ok(row) => row,
                Err(error) => {
                    tracing::error!(error = %error, "a message cannot be read from the database");
                    return false;
                }
            };
            let Some(row) = row else { continue };
            if row.location.segment != seq || row.location.offset != entry.offset {
                continue;
            }
            let Some((record, location)) = self.folded(row) else {
                // tried again with the next group
                self.copying = None;
                return false;
            };
            len += record.len();
            moved.push((record.id, location));
            records.push(record);
        }
        let more = next < entries.len();
        self.copying = Some((seq, entries, next));
        if records.is_empty() {
            return more;
        }
        match self.append(&records.iter().collect::<Vec<_>>()) {
            Ok((group, places)) => {
                for ((id, location), place) in moved.into_iter().zip(places) {
                    let location = Location { large: location.large, lost: location.lost, ..place };
                    self.relocated(id, location, group);
                }
                self.shared.state().durable = self.journal.synced();
                true
            }
            Err(error) => {
                self.fail(&error);
                self.copying = None;
                false
            }
        }
    }

    pub(super) fn relocated(&mut self, id: MessageId, location: Location, group: u64) {
        let _reading = self.shared.reading();
        let mut state = self.shared.state();
        let base = match state.holds(id) {
            true => None,
            false => self.shared.rows.get(id).ok().flatten(),
        };
        if base.is_some() || state.holds(id) {
            state.relocate(id, base, location, group);
            if location.lost && !state.is_leased(id, None) {
                let message = state.known(id);
                if let super::state::Known::Here(row) = message {
                    state.accept(self.buried(row), None, group);
                }
            }
        }
    }

    /// The message as one record with its state folded in; `None` when it could not be read this time.
    pub(super) fn folded(&mut self, row: Row) -> Option<(Record, Location)> {
        let id = row.message.id;
        let found = match self.shared.segments.get(row.location.segment) {
            Some(segment) => segment.record(&row.location, id),
            None => Ok(None),
        };
        let good = match found {
            Ok(Some((header, _, content))) => Some((header.hash, content)),
            Ok(None) => None,
            Err(error) => {
                tracing::error!(message.id = %id, error = %error, "content cannot be read");
                self.read_failures += 1;
                if self.read_failures < READ_ATTEMPTS {
                    return None;
                }
                self.read_failures = 0;
                None
            }
        };
        let lost = row.location.lost || good.is_none();
        if lost && !row.location.lost {
            tracing::error!(message.id = %id, segment = row.location.segment, "content is damaged; quarantined");
            self.tainted.insert(row.location.segment);
            self.shared.quarantined.fetch_add(1, Ordering::Relaxed);
        }
        let (hash, content) = good.unwrap_or_default();
        let leased = self.shared.state().is_leased(id, None);
        let row = if lost && !leased { self.buried(row) } else { row };
        let meta =
            Accepted::<&Message> { message: &row.message, large: row.location.large, lost, suspects: row.suspects };
        let meta = super::journal::record::encode(&meta);
        let record = Record { kind: Kind::Accepted, id, meta, content, hash, unit: (0, 1) };
        Some((record, Location { lost, ..row.location }))
    }

    /// Gives up the content of a message that cannot be read: its envelope goes to the dead-letter queue, and the segment is set
    /// aside instead of removed.
    pub fn give_up_content(&mut self, id: MessageId) -> Result<bool, JournalError> {
        let Ok(Some(row)) = self.shared.row(id) else { return Ok(false) };
        let lost = Row { location: Location { lost: true, ..row.location }, ..row };
        let Some((record, location)) = self.folded(lost) else { return Ok(false) };
        self.tainted.insert(location.segment);
        let (group, places) = self.append(&[&record])?;
        for place in places {
            self.relocated(id, Location { large: location.large, lost: true, ..place }, group);
        }
        self.shared.state().durable = self.journal.synced();
        Ok(true)
    }

    /// The message in the dead-letter queue, frozen.
    pub(super) fn buried(&self, row: Row) -> Row {
        let due = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond()) + self.options.dead_letter_retention;
        Row { message: std::sync::Arc::new(dead_letter((*row.message).clone(), due)), ..row }
    }

    /// The records of a segment that is no longer written to.
    pub(super) fn entries_of(&self, seq: u64) -> Option<Vec<IndexEntry>> {
        let segment = self.shared.segments.get(seq)?;
        match segment.index() {
            Ok(Some((_, index))) => Some(index),
            Ok(None) => match replay::records(&segment, self.journal.end_of(seq)) {
                Ok(entries) => Some(entries),
                Err(error) => {
                    tracing::error!(segment = seq, error = %error, "a segment cannot be read");
                    None
                }
            },
            Err(error) => {
                tracing::error!(segment = seq, error = %error, "a segment cannot be read");
                None
            }
        }
    }

    /// Removes files of messages whose end the database has durably.
    fn remove_large(&mut self) {
        if self.shared.pinned.load(Ordering::Acquire) {
            return;
        }
        let flushed = self.shared.flushed.load(Ordering::Acquire);
        loop {
            let id = {
                let state = self.shared.state();
                match state.large_trash.front() {
                    Some((group, id)) if *group <= flushed => *id,
                    Some((group, _)) => {
                        self.shared.flush_wanted.fetch_max(*group, Ordering::AcqRel);
                        return;
                    }
                    None => return,
                }
            };
            // should it stay, the next start sweeps it
            if let Err(error) = self.disk.remove(&large_path(&self.large, id)) {
                tracing::warn!(message.id = %id, error = %error, "a file in large/ could not be removed");
            }
            // only now: as long as it is listed nobody brings a message of this id (`begin_with`)
            self.shared.state().large_trash.pop_front();
        }
    }
}

/// Moves every waiting recipient to the dead-letter queue and freezes the message.
pub fn dead_letter(mut message: Message, due: Timestamp) -> Message {
    for waits in message.recipients.iter_mut().filter_map(|recipient| recipient.waits.as_mut()) {
        waits.queue = QueueName::DeadLetter;
        waits.due = due;
    }
    message.frozen = true;
    message
}
