//! Journal and large content: the start rehearsed, then every record of a message read.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use super::rehearsal::Rehearsal;
use super::{BACKUP, Diagnosis, REPAIR, Severity};
use crate::model::mail::MessageId;
use crate::store::embedded::content;
use crate::store::embedded::engine::Engine;
use crate::store::embedded::journal::record::Kind;
use crate::store::embedded::journal::segment::{IndexEntry, Segment, file_name};
use crate::store::embedded::journal::{JournalError, Location};
use crate::store::embedded::rows::memory::MemoryRows;
use crate::store::embedded::startup::{self, MailReport, StartError};
use crate::store::embedded::{OpenError, Options, large_path};

/// Looks at all mail; gives the groups at which sled may be.
pub(super) fn look(
    disk: &Arc<Rehearsal>,
    data: &Path,
    store_id: [u8; 16],
    diagnosis: &mut Diagnosis,
) -> Result<Option<RangeInclusive<u64>>, OpenError> {
    let mut options = Options::new(data);
    // zeros ahead would only cost memory
    options.fill_ahead = 0;
    let rows = Arc::new(MemoryRows::default());
    let started = startup::start(disk.clone(), data, store_id, options.of_journal(), options.of_engine(), rows);
    let (engine, report) = match started {
        Ok(started) => started,
        Err(StartError::Journal(JournalError::Newer { path, found })) => {
            let what = format!("has format {found}, which this version does not know");
            diagnosis.find(Severity::Error, &super::within(data, &path), None, what, "run the newer version");
            return Ok(None);
        }
        Err(StartError::Unreadable(id)) => {
            let what = format!("the record of message {id} cannot be read, and the appliance does not start");
            diagnosis.find(Severity::Error, "journal", None, what, BACKUP);
            return Ok(None);
        }
        Err(error) => return Err(OpenError::Journal(error.to_string())),
    };
    told(&report, diagnosis);
    let failed = |error: crate::store::StoreError| OpenError::Journal(error.to_string());
    while engine.shared.take(u64::MAX, true).map_err(failed)? {}
    let first = engine.journal.first_group().unwrap_or(1);
    let segments = engine.shared.segments.all();
    let mut before: Option<(Arc<Segment>, u64)> = None;
    for segment in segments {
        let sealed = segment.index().ok().flatten().is_some();
        if let Some((last, group)) = before.take()
            && segment.first_group > group + 1
        {
            let what =
                format!("groups {} to {} of the journal are missing before it", group + 1, segment.first_group - 1);
            let advice = format!("a file between it and {} is gone: {BACKUP}", file_name(last.seq));
            diagnosis.find(Severity::Error, &name(segment.seq), None, what, &advice);
        }
        let Some(entries) = engine.entries_of(segment.seq) else {
            diagnosis.find(Severity::Error, &name(segment.seq), None, "cannot be read", BACKUP);
            continue;
        };
        let mut last = segment.first_group.saturating_sub(1);
        for entry in &entries {
            if let Ok(Some((header, _))) = segment.head(entry.offset, entry.len) {
                last = last.max(header.group);
            }
            if entry.kind == Kind::Accepted {
                record(&engine, disk, &segment, entry, diagnosis).map_err(failed)?;
            }
        }
        // what was not sealed ends where a crash or a failed write ended it, and numbers may be left out
        before = sealed.then_some((segment, last));
    }
    let messages: u64 = engine.shared.state().totals.segments.values().map(|count| count.messages).sum();
    diagnosis.messages = messages;
    Ok(Some(first.saturating_sub(1)..=report.replay.last_group))
}

fn name(segment: u64) -> String {
    format!("journal/{}", file_name(segment))
}

/// What the start reported.
fn told(report: &MailReport, diagnosis: &mut Diagnosis) {
    for (segment, offset, id) in &report.replay.damaged {
        let whose = id.map_or_else(|| "nobody knows whose".to_owned(), |id| format!("of message {id}"));
        diagnosis.cures.journal = true;
        let advice =
            format!("{BACKUP} if that mail is missed; the next start steps over it, and {REPAIR} does that now");
        diagnosis.find(
            Severity::Error,
            &name(*segment),
            Some(*offset),
            format!("a record {whose} cannot be read"),
            &advice,
        );
    }
    for file in &report.replay.lost_segments {
        diagnosis.cures.journal = true;
        let what = "its header is damaged, or it is of another store; none of its records can be read";
        let advice = format!("{BACKUP}; the next start sets it aside, and {REPAIR} does that now");
        diagnosis.find(Severity::Error, &format!("journal/{file}"), Some(0), what, &advice);
    }
    for (segment, offset) in &report.replay.torn {
        let what = "its end was torn by a crash; nothing in it was acknowledged";
        diagnosis.find(Severity::Notice, &name(*segment), Some(*offset), what, "nothing");
    }
    if !report.possible_duplicates.is_empty() {
        let count = report.possible_duplicates.len();
        let what = format!("{count} messages were being delivered when the process ended; they may arrive twice");
        diagnosis.find(Severity::Notice, "journal", None, what, "nothing");
    }
}

/// Reads the record of a message, and its large content.
fn record(
    engine: &Engine,
    disk: &Rehearsal,
    segment: &Segment,
    entry: &IndexEntry,
    diagnosis: &mut Diagnosis,
) -> Result<(), crate::store::StoreError> {
    let id = entry.id;
    let row = engine.shared.row(id)?;
    let lives = row.filter(|row| (row.location.segment, row.location.offset) == (segment.seq, entry.offset));
    let place = Location { segment: segment.seq, offset: entry.offset, len: entry.len, large: false, lost: false };
    let found = segment.record(&place, id).ok().flatten();
    let file = name(segment.seq);
    let Some((header, _, _)) = found else {
        if lives.is_none_or(|row| row.location.lost) {
            let what =
                format!("the record of message {id} is damaged; that message is done or given up, and nobody needs it");
            diagnosis.find(
                Severity::Notice,
                &file,
                Some(entry.offset),
                what,
                "nothing; but ask why this disk changes what it holds",
            );
        } else {
            unreadable(id, &file, Some(entry.offset), "its record is damaged", diagnosis);
        }
        return Ok(());
    };
    let Some(row) = lives else {
        diagnosis.records += 1;
        return Ok(());
    };
    if row.location.lost {
        let what = format!("the content of message {id} was lost to damage earlier; its envelope is a dead letter");
        diagnosis.find(
            Severity::Notice,
            &file,
            Some(entry.offset),
            what,
            "delete the dead letter when it has been looked at",
        );
    } else if row.location.large {
        let path = large_path(&engine.large, id);
        let file = format!("large/{id}");
        match content::large(disk, &path, &header.hash) {
            Ok(Some(_)) => diagnosis.records += 1,
            Ok(None) => unreadable(id, &file, None, "the file does not fit its checksum", diagnosis),
            Err(error) => unreadable(id, &file, None, &error.to_string(), diagnosis),
        }
    } else {
        diagnosis.records += 1;
    }
    Ok(())
}

fn unreadable(id: MessageId, file: &str, offset: Option<u64>, why: &str, diagnosis: &mut Diagnosis) {
    let advice = format!("{BACKUP} if that mail is missed; {REPAIR} keeps its envelope as a dead letter");
    let what = format!("the content of message {id}, which is queued, cannot be read: {why}");
    diagnosis.find(Severity::Error, file, offset, what, &advice);
    diagnosis.cures.unreadable.push(id);
}
