//! Start: what the journal says goes into memory and database, and what a crash left is put right.
//!
//! * Groups that the database does not have are applied, in order. While more wait than memory should hold, the
//!   database takes them at once (that is how it is rebuilt from nothing).
//! * Attempts that were begun and have no outcome are **possible duplicates**: they are reported, and the message
//!   remembers it. After [`SUSPECT_STARTS`] such starts it is frozen in the dead-letter queue: something about it may be
//!   what ends the process.
//! * Files in `large/` without a message are removed, unless replay found damage.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use super::disk::Disk;
use super::engine::{Engine, EngineOptions, Shared, whole_state};
use super::inbox::Inbox;
use super::journal::record::{Accepted, Changed, DONE, Kind, Leases, Record, decode};
use super::journal::replay::{Entry, ReplayReport};
use super::journal::{Journal, JournalError, JournalOptions, Location};
use super::reclaim::dead_letter;
use super::requests::Requests;
use super::rows::{Row, Rows};
use super::state::State;
use crate::model::mail::{Change, MessageId};
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::store::StoreError;

/// So many starts may find a message leased without outcome.
pub const SUSPECT_STARTS: u8 = 3;
/// Messages in memory during replay.
const MEMORY: usize = 20_000;

/// What a start found.
#[derive(Debug, Default, Clone)]
pub struct MailReport {
    /// Damage, torn tails.
    pub replay: ReplayReport,
    /// Messages that were leased without outcome: they may be delivered twice.
    pub possible_duplicates: Vec<MessageId>,
    /// Those of them that were frozen in the dead-letter queue.
    pub frozen: Vec<MessageId>,
    /// Files in `large/` that belonged to no message.
    pub orphans: usize,
}

/// Why mail could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database does not fit the journal; it must be rebuilt.
    #[error("the database does not fit the journal: {0}")]
    Rebuild(String),
    /// See [`JournalError`].
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The database failed.
    #[error("the database: {0}")]
    Rows(#[from] StoreError),
    /// Content at the end of the journal cannot be read.
    #[error("the record of message {0} cannot be read")]
    Unreadable(MessageId),
    /// `large/` cannot be read.
    #[error("{path}: {source}")]
    Large {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `requests/` cannot be read.
    #[error("{path}: {source}")]
    Requests {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Opens journal and state over a database.
pub fn start(
    disk: Arc<dyn Disk>,
    data: &Path,
    store_id: [u8; 16],
    journal_options: JournalOptions,
    options: EngineOptions,
    rows: Arc<dyn Rows>,
) -> Result<(Engine, MailReport), StartError> {
    let mut report = MailReport::default();
    let large = data.join("large");
    let large_error = |source| StartError::Large { path: large.clone(), source };
    disk.create_dir(&large).map_err(large_error)?;
    let mut journal =
        Journal::open(disk.clone(), &data.join("journal"), store_id, journal_options, &mut report.replay)?;
    let position = rows.position();
    if position > 0 && journal.first_group().is_none_or(|first| position + 1 < first) {
        return Err(StartError::Rebuild(format!("it ends at group {position}, before the journal begins")));
    }
    let shared = Arc::new(Shared {
        state: Mutex::new(State::new(rows.totals()?, position)),
        rows,
        rows_lock: RwLock::new(()),
        segments: journal.segments().clone(),
        requests: Requests::open(disk.clone(), data, store_id)
            .map_err(|source| StartError::Requests { path: data.join("requests"), source })?,
        inbox: Inbox::default(),
        flushed: AtomicU64::new(position),
        flush_wanted: AtomicU64::new(0),
        fence: Mutex::new(None),
        journal_bytes: AtomicU64::new(0),
        quarantined: AtomicU64::new(0),
        ready: AtomicBool::new(true),
        pinned: AtomicBool::new(false),
        asked: Mutex::default(),
    });
    let mut replayed = Replayed {
        shared: shared.clone(),
        position,
        leases: HashMap::new(),
        undecoded: Vec::new(),
        unproven: Vec::new(),
    };
    journal.replay::<StartError>(position, &mut report.replay, &mut |unit| replayed.unit(unit))?;
    if position > report.replay.last_group {
        let last = report.replay.last_group;
        return Err(StartError::Rebuild(format!("it has taken in group {position}, the journal ends at {last}")));
    }
    shared.state().durable = journal.synced();
    report.replay.damaged.append(&mut replayed.undecoded);
    let damage = report.replay.damaged.len() + report.replay.lost_segments.len();
    shared.quarantined.store(damage as u64, std::sync::atomic::Ordering::Relaxed);
    let leases = replayed.leases;
    let mut engine = Engine::new(shared.clone(), disk.clone(), journal, large.clone(), options);
    engine.tainted.extend(report.replay.damaged.iter().map(|(segment, _, _)| *segment));
    if damage == 0 {
        report.orphans = sweep(&*disk, &large, &shared)?;
    }
    prove(&mut engine, &replayed.unproven)?;
    suspect(&mut engine, leases, &mut report)?;
    shared.journal_bytes.store(engine.journal.bytes(), std::sync::atomic::Ordering::Relaxed);
    Ok((engine, report))
}

struct Replayed {
    shared: Arc<Shared>,
    position: u64,
    leases: HashMap<MessageId, HashSet<QueueName>>,
    undecoded: Vec<(u64, u64, Option<MessageId>)>,
    /// Records that may be in the page cache only.
    unproven: Vec<(MessageId, Location)>,
}

impl Replayed {
    fn unit(&mut self, unit: Vec<Entry>) -> Result<(), StartError> {
        for entry in unit {
            let (location, id, group) = (entry.location, entry.header.id, entry.header.group);
            let proven = entry.proven;
            if !proven && matches!(entry.header.kind, Kind::Accepted | Kind::Changed) {
                self.unproven.push((id, location));
            }
            if self.entry(entry)?.is_none() {
                self.undecoded.push((location.segment, location.offset, Some(id)));
            }
            let mut state = self.shared.state();
            if proven {
                state.durable = state.durable.max(group.saturating_sub(1));
            }
        }
        if self.shared.state().len() > MEMORY {
            while self.shared.take(u64::MAX, false)? {}
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<Option<()>, StartError> {
        let (id, group) = (entry.header.id, entry.header.group);
        let new = group > self.position;
        match entry.header.kind {
            Kind::Accepted => {
                let Some(meta) = Accepted::read(&entry.header, &entry.meta) else { return Ok(None) };
                self.shared.requests.note(&meta.message);
                if new {
                    let base = self.base(id)?;
                    let location = Location { large: meta.large, lost: meta.lost, ..entry.location };
                    let row = Row { message: Arc::new(meta.message), location, suspects: meta.suspects };
                    self.shared.state().accept(row, base, group);
                }
            }
            Kind::Changed => {
                let Some(meta) = Changed::read(&entry.header, &entry.meta) else { return Ok(None) };
                self.end(id, &meta.ended);
                if new {
                    let base = self.base(id)?;
                    let mut state = self.shared.state();
                    if base.is_some() || state.holds(id) {
                        state.load(id, base);
                        state.change(id, &meta.change, meta.suspects, Some(group));
                    }
                }
            }
            Kind::Leased => {
                let Some(leases) = decode::<Leases>(&entry.meta) else { return Ok(None) };
                for (id, queue) in leases {
                    self.leases.entry(id).or_default().insert(queue);
                }
            }
            Kind::Released => {
                let Some(leases) = decode::<Leases>(&entry.meta) else { return Ok(None) };
                for (id, queue) in leases {
                    self.end(id, &[queue]);
                }
            }
            Kind::Void => {
                let Some(ids) = decode::<Vec<MessageId>>(&entry.meta) else { return Ok(None) };
                if new && id != DONE {
                    self.shared.requests.forget(&ids);
                }
                for id in ids {
                    self.leases.remove(&id);
                    if new {
                        let base = self.base(id)?;
                        let mut state = self.shared.state();
                        if base.is_some() || state.holds(id) {
                            state.void(id, base, group);
                        }
                    }
                }
            }
            Kind::Boundary => self.leases.clear(),
        }
        Ok(Some(()))
    }

    /// What the database has of an id that memory does not know.
    fn base(&self, id: MessageId) -> Result<Option<Row>, StoreError> {
        if self.shared.state().holds(id) { Ok(None) } else { self.shared.rows.get(id) }
    }

    fn end(&mut self, id: MessageId, queues: &[QueueName]) {
        if let Some(held) = self.leases.get_mut(&id) {
            held.retain(|queue| !queues.contains(queue));
            if held.is_empty() {
                self.leases.remove(&id);
            }
        }
    }
}

/// Writes again what may have been read from the page cache only, so that all that was given out is durable.
fn prove(engine: &mut Engine, unproven: &[(MessageId, Location)]) -> Result<(), StartError> {
    let mut seen = HashSet::new();
    let places: HashSet<(u64, u64)> = unproven.iter().map(|(_, place)| (place.segment, place.offset)).collect();
    let ids: Vec<MessageId> = unproven.iter().map(|(id, _)| *id).filter(|id| seen.insert(*id)).collect();
    for some in ids.chunks(100) {
        let mut records = Vec::new();
        let mut moved = Vec::new();
        for id in some {
            let Some(row) = engine.shared.row(*id)? else {
                records.push(Record::plain(Kind::Void, DONE, &[*id].as_slice()));
                moved.push(None);
                continue;
            };
            if places.contains(&(row.location.segment, row.location.offset)) {
                let (record, location) = engine.folded(row).ok_or(StartError::Unreadable(*id))?;
                records.push(record);
                moved.push(Some(location));
            } else {
                records.push(whole_state(&row));
                moved.push(None);
            }
        }
        let (group, new) = engine.append(&records.iter().collect::<Vec<_>>())?;
        for ((id, location), place) in some.iter().zip(moved).zip(new) {
            match location {
                Some(location) => {
                    let location = Location { large: location.large, lost: location.lost, ..place };
                    engine.relocated(*id, location, group);
                }
                None => engine.shared.state().wrote_again(*id, group),
            }
        }
    }
    engine.shared.state().durable = engine.journal.synced();
    Ok(())
}

/// Writes down which messages this start found leased without an outcome.
fn suspect(
    engine: &mut Engine,
    leases: HashMap<MessageId, HashSet<QueueName>>,
    report: &mut MailReport,
) -> Result<(), StartError> {
    if leases.is_empty() {
        return Ok(());
    }
    let mut records = vec![Record::list(Kind::Boundary, &())];
    let mut changes = Vec::new();
    for id in leases.into_keys() {
        let Some(row) = engine.shared.row(id)? else { continue };
        report.possible_duplicates.push(id);
        let suspects = row.suspects.saturating_add(1);
        let mut change = Change::default();
        if suspects >= SUSPECT_STARTS {
            report.frozen.push(id);
            let now = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());
            let dead = dead_letter((*row.message).clone(), now + engine.options.dead_letter_retention);
            let states = dead.recipients.iter().enumerate().map(|(n, recipient)| (n as u32, recipient.state()));
            change = Change { recipients: states.collect(), frozen: Some(true), connector: None };
        }
        records.push(Record::plain(Kind::Changed, id, &Changed { change: &change, ended: Vec::new(), suspects }));
        changes.push((id, change, suspects));
    }
    // the boundary goes first: should the rest be lost, fewer starts are counted, not more
    for some in records.chunks(400) {
        let (group, _) = engine.append(&some.iter().collect::<Vec<_>>())?;
        let changed = some.iter().filter(|record| record.kind == Kind::Changed).count();
        for (id, change, suspects) in changes.drain(..changed) {
            let base = match engine.shared.state().holds(id) {
                true => None,
                false => engine.shared.rows.get(id)?,
            };
            let mut state = engine.shared.state();
            state.load(id, base);
            state.change(id, &change, suspects, Some(group));
        }
        engine.shared.state().durable = group;
    }
    Ok(())
}

/// Removes what lies in `large/` and belongs to nothing.
fn sweep(disk: &dyn Disk, large: &Path, shared: &Shared) -> Result<usize, StartError> {
    let large_error = |source| StartError::Large { path: large.to_owned(), source };
    let mut orphans = 0;
    for name in disk.list(large).map_err(large_error)? {
        let alive = match name.parse::<MessageId>() {
            Ok(id) => shared.row(id)?.is_some(),
            Err(_) if name.ends_with(".tmp") => false,
            Err(_) => continue,
        };
        if !alive {
            orphans += 1;
            disk.remove(&large.join(name)).map_err(large_error)?;
        }
    }
    Ok(orphans)
}
