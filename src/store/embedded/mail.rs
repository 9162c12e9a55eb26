//! The queue as one asks for it: memory and database read as one, leases, outcomes.

use std::collections::HashSet;
use std::sync::Arc;

use super::engine::Shared;
use super::inbox::{Job, Mail, Recorded};
use super::journal::record::{Accepted, Changed, Kind, Record, encode};
use super::rows::Row;
use super::state::Known;
use crate::model::mail::{Change, Message, MessageId};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::store::{Lease, Leased, PageKey, StoreError};

/// Keys of the database that one question looks at, at most.
const MAX_SCAN: usize = 50_000;
/// Keys that are asked for at once.
const SCAN_STEP: usize = 500;

/// Due keys of a queue in the database that memory does not hold, and a hint for the next search.
fn free_in_rows(
    shared: &Shared,
    queue: &QueueName,
    until: Timestamp,
    limit: usize,
) -> Result<Vec<(Timestamp, MessageId)>, StoreError> {
    let (mut after, freed) = {
        let state = shared.state();
        (state.hint(queue), state.freed)
    };
    let mut free = Vec::new();
    let mut held_up_to = None;
    let mut scanned = 0;
    while free.len() < limit && scanned < MAX_SCAN {
        let keys = shared.rows.due(queue, after, until, SCAN_STEP)?;
        scanned += keys.len();
        let Some(last) = keys.last().copied() else { break };
        after = Some(last);
        let more = keys.len() == SCAN_STEP;
        let state = shared.state();
        for key in keys {
            if state.holds(key.1) {
                if free.is_empty() {
                    held_up_to = Some(key);
                }
            } else if free.len() < limit {
                free.push(key);
            }
        }
        if !more {
            break;
        }
    }
    if let Some(key) = held_up_to {
        let mut state = shared.state();
        if state.freed == freed {
            state.set_hint(queue, key);
        }
    }
    Ok(free)
}

/// See [`crate::store::QueueStore::lease`].
pub fn lease(shared: &Shared, queue: &QueueName, now: Timestamp, limit: usize) -> Result<Vec<Leased>, StoreError> {
    let limit = limit.min(1_000);
    let _reading = shared.reading();
    let in_memory: Vec<_> = shared.state().due(queue, now, limit).collect();
    let in_rows = free_in_rows(shared, queue, now, limit)?;
    let mut rows = Vec::with_capacity(in_rows.len().min(limit));
    let mut candidates: Vec<_> = in_memory;
    candidates.extend(in_rows);
    candidates.sort_unstable();
    candidates.dedup();
    candidates.truncate(limit);
    for (due, id) in candidates {
        let known = shared.state().holds(id);
        rows.push((due, id, if known { None } else { shared.rows.get(id)? }));
    }
    let mut leased = Vec::with_capacity(rows.len());
    let mut state = shared.state();
    for (_, id, row) in rows {
        if let Some(row) = row {
            state.load(id, Some(row));
        }
        let Known::Here(row) = state.known(id) else { continue };
        // somebody else may have been faster
        let due = row.due().into_iter().any(|(waits, due)| waits == *queue && due <= now);
        if due && !state.is_leased(id, Some(queue)) {
            let leases = state.lease(id, [queue.clone()]);
            leased.push(Leased { message: row.message, leases, content: None });
        }
    }
    drop(state);
    Ok(leased)
}

/// See [`crate::store::QueueStore::lease_message`].
pub fn lease_message(shared: &Shared, id: MessageId) -> Result<Leased, StoreError> {
    let _reading = shared.reading();
    let in_rows = if shared.state().holds(id) { None } else { shared.rows.get(id)? };
    let mut state = shared.state();
    if let Some(row) = in_rows {
        state.load(id, Some(row));
    }
    let Known::Here(row) = state.known(id) else { return Err(StoreError::NotFound) };
    if state.is_leased(id, None) {
        return Err(StoreError::Leased);
    }
    let leases = state.lease(id, row.message.waiting().into_iter().map(|(queue, _)| queue));
    drop(state);
    Ok(Leased { message: row.message, leases, content: None })
}

/// See [`crate::store::QueueStore::attempt`].
pub fn attempt(shared: &Shared, lease: &Lease) {
    let mut state = shared.state();
    if state.attempt(lease) && note_leases(shared, Kind::Leased, [lease]).is_err() {
        tracing::debug!("an attempt after the end");
    }
}

/// See [`crate::store::QueueStore::release`].
pub fn release(shared: &Shared, leases: &[Lease]) {
    let mut state = shared.state();
    if state.end(leases) && note_leases(shared, Kind::Released, leases).is_err() {
        tracing::debug!("leases given back after the end");
    }
}

/// Writes leases down, in order with what else changes: the state's lock is held.
fn note_leases<'a>(shared: &Shared, kind: Kind, leases: impl IntoIterator<Item = &'a Lease>) -> Result<(), StoreError> {
    let list: Vec<_> = leases.into_iter().map(|lease| (lease.id, lease.queue.clone())).collect();
    if list.is_empty() {
        return Ok(());
    }
    shared.inbox.push(Job::Note { record: Record::list(kind, &list), id: None, permit: None })
}

/// See [`crate::store::QueueStore::next_due`].
pub fn next_due(shared: &Shared, queue: &QueueName) -> Result<Option<Timestamp>, StoreError> {
    let _reading = shared.reading();
    let forever = Timestamp::from_millis(i64::MAX);
    let in_memory = shared.state().due(queue, forever, 1).next();
    let in_rows = free_in_rows(shared, queue, forever, 1)?.into_iter().next();
    Ok(in_memory.into_iter().chain(in_rows).min().map(|(due, _)| due))
}

/// A plain outcome: applied at once, written soon.
pub async fn record_plain(shared: &Shared, leases: Vec<Lease>, change: Change) -> Result<(), StoreError> {
    let permit = Some(shared.inbox.place().await?);
    let mut state = shared.state();
    let id = state.check(&leases)?;
    let record = change_record(id, &change, &leases);
    state.change(id, &change, 0, None);
    state.end(&leases);
    // under the state's lock: the journal has the order in which changes were applied
    shared.inbox.push(Job::Note { record, id: Some(id), permit })
}

/// A change to be synced, with the mail that it causes.
pub fn recorded(shared: &Shared, leases: Vec<Lease>, change: Change) -> Result<Box<Recorded>, StoreError> {
    let id = shared.state().check(&leases)?;
    let record = change_record(id, &change, &leases);
    Ok(Box::new(Recorded { record, id, change, leases }))
}

/// Makes one unit of a change and the mail that it causes.
pub fn unite(change: &mut Recorded, mails: &mut [Mail]) {
    let count = mails.len() as u16 + 1;
    change.record.unit = (0, count);
    for (n, mail) in mails.iter_mut().enumerate() {
        mail.record.unit = (n as u16 + 1, count);
    }
}

/// The message with another envelope, as a record of its own: its content is read from where it lies, and verified.
pub fn amended(shared: &Shared, message: Message) -> Result<Mail, StoreError> {
    let id = message.id;
    // the record may move while we look for it
    for _ in 0..5 {
        let Some(row) = shared.row(id)? else { return Err(StoreError::NotFound) };
        if row.location.lost {
            return Err(StoreError::Damaged(format!("the content of message {id} was lost to damage")));
        }
        if row.message.size != message.size || message.is_done() {
            return Err(StoreError::Io("the envelope does not belong to the content".to_owned()));
        }
        let Some(segment) = shared.segments.get(row.location.segment) else { continue };
        let found = segment.record(&row.location, id).map_err(|error| StoreError::Io(error.to_string()))?;
        let Some((header, _, content)) = found else {
            if shared.row(id)?.is_none_or(|again| again.location != row.location) {
                continue;
            }
            return Err(StoreError::Damaged(format!("the record of message {id}")));
        };
        let large = row.location.large;
        let meta = encode(&Accepted { message: &message, large, lost: false, suspects: 0 });
        let hash = header.hash;
        let record = Record { kind: Kind::Accepted, id, meta, content: content.clone(), hash, unit: (0, 1) };
        let content = Some(content).filter(|_| !large);
        return Ok(Mail { message: Arc::new(message), record, large, content, amends: true });
    }
    Err(StoreError::Damaged(format!("the record of message {id} is not where it should be")))
}

fn change_record(id: MessageId, change: &Change, leases: &[Lease]) -> Record {
    let ended = leases.iter().map(|lease| lease.queue.clone()).collect();
    Record::plain(Kind::Changed, id, &Changed { change, ended, suspects: 0 })
}

/// See [`crate::store::QueueStore::page`].
pub fn page(
    shared: &Shared,
    queue: Option<&QueueName>,
    after: Option<PageKey>,
    rows: usize,
) -> Result<Vec<(PageKey, Arc<Message>)>, StoreError> {
    let rows = rows.min(1_000);
    let _reading = shared.reading();
    let mut keys = shared.state().page(queue, after, rows);
    let mut found = 0;
    let mut at = after;
    loop {
        let stored = shared.rows.page(queue, at, SCAN_STEP.max(rows))?;
        let Some(last) = stored.last().copied() else { break };
        at = Some(last);
        let state = shared.state();
        let free: Vec<PageKey> = stored.into_iter().filter(|key| !state.holds(key.id)).collect();
        found += free.len();
        keys.extend(free);
        if found >= rows {
            break;
        }
    }
    keys.sort_unstable();
    keys.truncate(rows);
    let mut page = Vec::with_capacity(keys.len());
    let mut seen = HashSet::with_capacity(keys.len());
    for key in keys {
        // one that was taken from the database into memory meanwhile may be here twice
        if seen.insert(key.id)
            && let Some(row) = look(shared, key.id)?
        {
            page.push((key, row.message));
        }
    }
    Ok(page)
}

/// Like [`Shared::row`] where the reading lock is held already.
fn look(shared: &Shared, id: MessageId) -> Result<Option<Row>, StoreError> {
    let known = shared.state().known(id);
    match known {
        Known::Here(row) => Ok(Some(row)),
        Known::Gone => Ok(None),
        Known::Unknown => shared.rows.get(id),
    }
}
