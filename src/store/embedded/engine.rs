//! The journal thread's work: groups in, answers out; healing after a failed write.
//!
//! [`Engine::process`] makes one group of what waited: one write, one sync, then the changes are applied to
//! [`State`] and the callers answered. Nothing here knows about threads, so that a test can drive it on a disk
//! whose power it cuts.
//!
//! **When a write or sync fails** the segment is abandoned (see `journal`), the group's callers get `Fenced`, and
//! every later one too, until [`Engine::heal`] has opened a new segment, begun with *void* records for the ids of
//! that group and the states that only memory knows. It is tried again at intervals, so a full disk needs no
//! restart. What lives in the abandoned segment is copied forward afterwards, verified on the way.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;

use super::backup::Asked;
use super::disk::Disk;
use super::inbox::{Inbox, Job};
use super::journal::record::{Changed, DONE, INDEXED, Kind, Record};
use super::journal::segment::{IndexEntry, Segments};
use super::journal::{Journal, JournalError, Location};
use super::requests::Requests;
use super::rows::{Row, Rows};
use super::state::{Known, State};
use crate::model::mail::{Change, MessageId};
use crate::store::{Leased, StoreError};

/// Records in a group.
const GROUP_RECORDS: usize = 480;
/// Octets in a group, about.
const GROUP_BYTES: usize = 4 << 20;
/// Keys that the database takes in one step, about; over 1,000 sled becomes slow and unsafe.
const BATCH_KEYS: usize = 800;
/// Leases in one record.
const LEASES_IN_RECORD: usize = 1_000;

/// What the threads and the callers share.
pub struct Shared {
    /// What memory knows.
    pub state: Mutex<State>,
    /// What the database knows.
    pub rows: Arc<dyn Rows>,
    /// Held for reading while both are looked at, for writing while something goes from one to the other.
    pub rows_lock: RwLock<()>,
    /// Where content is read from.
    pub segments: Arc<Segments>,
    /// The keys of requests.
    pub requests: Requests,
    /// What waits for the journal.
    pub inbox: Inbox,
    /// The last group that the database has durably.
    pub flushed: AtomicU64,
    /// Reclaiming waits until the database has this group durably.
    pub flush_wanted: AtomicU64,
    /// Why nothing can be written now.
    pub fence: Mutex<Option<String>>,
    /// Octets of the journal on disk.
    pub journal_bytes: AtomicU64,
    /// Damaged records found.
    pub quarantined: AtomicU64,
    /// The database is as far as it has to be after a start.
    pub ready: AtomicBool,
    /// A backup reads `large/`: nothing there is removed.
    pub pinned: AtomicBool,
    /// Who waits to be told where the journal is.
    pub asked: Mutex<Option<Asked>>,
}

impl Shared {
    /// The state in memory.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// To look at memory and database as one.
    pub fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.rows_lock.read().expect("no panic under this lock")
    }

    /// A message as it is now.
    pub fn row(&self, id: MessageId) -> Result<Option<Row>, StoreError> {
        let known = self.state().known(id);
        match known {
            Known::Here(row) => return Ok(Some(row)),
            Known::Gone => return Ok(None),
            Known::Unknown => {}
        }
        // not in memory; the database may just be handing it over in either direction
        let _reading = self.reading();
        match self.state().known(id) {
            Known::Here(row) => Ok(Some(row)),
            Known::Gone => Ok(None),
            Known::Unknown => self.rows.get(id),
        }
    }

    /// Lets the database take what is synced in groups up to `upto`; false when there was nothing.
    ///
    /// With `all` also when there is nothing to take but a position.
    pub fn take(&self, upto: u64, all: bool) -> Result<bool, StoreError> {
        // only this thread changes rows: nothing of the batch can be outdated by another
        let Some((batch, taken)) = self.state().collect(upto, BATCH_KEYS, self.rows.position()) else {
            return Ok(false);
        };
        if batch.rows.is_empty() && !all {
            return Ok(false);
        }
        // before the database says that it has a group, so that nothing of it need be read from the journal again
        let saved = self.requests.save();
        let _moving = self.rows_lock.write().expect("no panic under this lock");
        if let Err(error) = saved.and_then(|()| self.rows.apply(&batch)) {
            self.state().retake(&taken);
            return Err(error);
        }
        self.state().finish(batch, taken);
        Ok(true)
    }

    /// Makes what the database has taken durable.
    pub fn flush(&self) -> Result<(), StoreError> {
        let position = self.rows.position();
        self.rows.flush()?;
        self.flushed.store(position, Ordering::Release);
        Ok(())
    }
}

/// The journal with its writer.
pub struct Engine {
    /// Shared with everybody.
    pub shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) journal: Journal,
    pub(super) large: PathBuf,
    pub(super) options: EngineOptions,
    /// Ids of groups that failed.
    void: Vec<MessageId>,
    /// Changes that memory has and the journal lost, with their number.
    owed: HashMap<MessageId, u32>,
    /// Segments to be copied forward out of turn.
    pub(super) suspicious: BTreeSet<u64>,
    /// Segments in which damage was found; set aside instead of removed.
    pub(super) tainted: BTreeSet<u64>,
    /// Reads that failed while copying.
    pub(super) read_failures: u32,
    /// A name may come back: nothing more is removed.
    pub(super) removal_failed: bool,
    pub(super) copying: Option<(u64, Vec<IndexEntry>, usize)>,
}

/// What the engine must know.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// How long mail that nobody can deliver is kept in the dead-letter queue.
    pub dead_letter_retention: std::time::Duration,
    /// Dead space in the journal, in segments, before what lives is copied forward.
    pub slack_segments: u64,
    /// How long each sync took.
    pub sync_seconds: Histogram,
}

impl Engine {
    /// Puts a journal that was replayed to work.
    pub fn new(
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        journal: Journal,
        large: PathBuf,
        options: EngineOptions,
    ) -> Engine {
        Engine {
            shared,
            disk,
            journal,
            large,
            options,
            void: Vec::new(),
            owed: HashMap::new(),
            suspicious: BTreeSet::new(),
            tainted: BTreeSet::new(),
            removal_failed: false,
            read_failures: 0,
            copying: None,
        }
    }

    /// Writes, syncs, applies and answers.
    pub fn process(&mut self, jobs: Vec<Job>) {
        let mut group = Vec::with_capacity(jobs.len().min(GROUP_RECORDS));
        let (mut count, mut len) = (0, 0);
        for job in jobs {
            let (job_count, job_len) = job.records().fold((0, 0), |(n, len), record| (n + 1, len + record.len()));
            if count > 0 && (count + job_count > GROUP_RECORDS || len + job_len > GROUP_BYTES) {
                self.group(std::mem::take(&mut group));
                (count, len) = (0, 0);
            }
            count += job_count;
            len += job_len;
            group.push(job);
        }
        if !group.is_empty() {
            self.group(group);
        }
        self.shared.journal_bytes.store(self.journal.bytes(), Ordering::Relaxed);
    }

    /// True when nothing can be written.
    pub fn is_fenced(&self) -> bool {
        self.fence().is_some()
    }

    /// Nothing more comes: ends all leases, seals the segment.
    pub fn close(&mut self) {
        if self.is_fenced() {
            self.heal();
        }
        if self.journal.is_writable() {
            let ended = self.append(&[&Record::list(Kind::Boundary, &())]).and_then(|_| self.journal.seal());
            if let Err(error) = ended {
                self.fail(&error);
            }
        }
    }

    fn group(&mut self, jobs: Vec<Job>) {
        if self.is_fenced() {
            return self.refuse(jobs, false);
        }
        let records: Vec<&Record> = jobs.iter().flat_map(Job::records).collect();
        match self.append(&records) {
            Ok((group, locations)) => self.apply(jobs, group, locations),
            Err(error) => {
                self.fail(&error);
                self.refuse(jobs, true);
            }
        }
    }

    /// Writes records as one synced group.
    pub(super) fn append(&mut self, records: &[&Record]) -> Result<(u64, Vec<Location>), JournalError> {
        let len = records.iter().map(|record| record.len()).sum();
        if !self.journal.fits(records.len(), len) {
            self.turn(records.len(), len)?;
        }
        let written = self.journal.write(records)?;
        let began = Instant::now();
        self.journal.sync()?;
        self.options.sync_seconds.observe(began.elapsed().as_secs_f64());
        Ok((written.group, written.locations))
    }

    /// Goes on in a new segment, which begins with the leases that are out: whoever starts replay there knows them.
    fn turn(&mut self, count: usize, len: usize) -> Result<(), JournalError> {
        let leases = self.lease_records();
        self.journal.seal()?;
        let room: usize = len + leases.iter().map(Record::len).sum::<usize>() + (count + leases.len()) * INDEXED;
        self.journal.open_segment(room as u64)?;
        if !leases.is_empty() {
            self.journal.write(&leases.iter().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn lease_records(&self) -> Vec<Record> {
        let leases = self.shared.state().leases();
        leases.chunks(LEASES_IN_RECORD).map(|some| Record::list(Kind::Leased, &some)).collect()
    }

    /// What was synced counts from here on.
    fn apply(&mut self, jobs: Vec<Job>, group: u64, locations: Vec<Location>) {
        let mut locations = locations.into_iter();
        let mut place = || locations.next().expect("a location for each record");
        let mut answers = Vec::with_capacity(jobs.len());
        let mut state = self.shared.state();
        for job in jobs {
            match job {
                Job::Note { id, .. } => {
                    place();
                    if let Some(id) = id {
                        state.written(id, group);
                    }
                }
                Job::Commit { change, mails, answer, permit } => {
                    if let Some(recorded) = change {
                        place();
                        state.change(recorded.id, &recorded.change, 0, Some(group));
                        state.end(&recorded.leases);
                    }
                    let mut leased = Vec::with_capacity(mails.len());
                    for mail in mails {
                        let location = Location { large: mail.large, ..place() };
                        let (id, message) = (mail.message.id, mail.message);
                        self.shared.requests.note(&message);
                        let row = Row { message: message.clone(), location, suspects: 0 };
                        state.accept(row, None, group);
                        let leases = state.lease(id, message.waiting().into_iter().map(|(queue, _)| queue));
                        leased.push(Leased { message, leases, content: mail.content });
                    }
                    answers.push((answer, leased, permit));
                }
            }
        }
        state.durable = self.journal.synced();
        drop(state);
        for (answer, leased, _permit) in answers {
            if let Err(Ok(leased)) = answer.send(Ok(leased)) {
                // the caller gave up waiting; the mail is ours, and must not stay leased to nobody
                let leases: Vec<_> = leased.into_iter().flat_map(|leased| leased.leases).collect();
                self.shared.state().end(&leases);
            }
        }
    }

    /// `attempted`: some of it may have reached the disk.
    fn refuse(&mut self, jobs: Vec<Job>, attempted: bool) {
        let why = self.fence().unwrap_or_default();
        for job in jobs {
            match job {
                Job::Note { id, .. } => {
                    if let Some(id) = id {
                        *self.owed.entry(id).or_default() += 1;
                    }
                }
                Job::Commit { change, mails, answer, .. } => {
                    if attempted {
                        let new = mails.iter().filter(|mail| !mail.amends);
                        self.void.extend(new.map(|mail| mail.message.id));
                    }
                    if let Some(recorded) = change {
                        self.shared.state().end(&recorded.leases);
                    }
                    // a caller that went away needs no answer
                    let _ = answer.send(Err(StoreError::Fenced(why.clone())));
                }
            }
        }
    }

    /// From here on nothing is written until [`Engine::heal`] succeeds.
    pub(super) fn fail(&mut self, error: &JournalError) {
        tracing::error!(error = %error, "the journal is fenced: a write failed");
        if let Some(seq) = self.journal.active_seq() {
            self.journal.abandon();
            self.suspicious.insert(seq);
        } else if let Some(last) = self.shared.segments.all().last() {
            self.suspicious.insert(last.seq);
        }
        *self.shared.fence.lock().expect("no panic under this lock") = Some(error.to_string());
    }

    /// Tries to write again after a failure. True when the journal is whole.
    pub fn heal(&mut self) -> bool {
        match self.try_heal() {
            Ok(()) => {
                *self.shared.fence.lock().expect("no panic under this lock") = None;
                tracing::info!("the journal is healed");
                true
            }
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    fn try_heal(&mut self) -> Result<(), JournalError> {
        self.journal.abandon();
        let mut records = self.lease_records();
        let void = self.void.clone();
        let mut gone = Vec::new();
        for id in self.owed.keys() {
            match self.shared.state().known(*id) {
                Known::Here(row) => {
                    records.push(whole_state(&row));
                }
                Known::Gone | Known::Unknown => gone.push(*id),
            }
        }
        records.extend(void.chunks(LEASES_IN_RECORD).map(|some| Record::list(Kind::Void, &some)));
        records.extend(gone.chunks(LEASES_IN_RECORD).map(|some| Record::plain(Kind::Void, DONE, &some)));
        let len: usize = records.iter().map(|record| record.len() + INDEXED).sum();
        self.journal.open_segment(len as u64)?;
        let group = match records.is_empty() {
            true => self.journal.last_group(),
            false => self.journal.write(&records.iter().collect::<Vec<_>>())?.group,
        };
        self.journal.sync()?;
        let mut state = self.shared.state();
        for (id, changes) in self.owed.drain() {
            for _ in 0..changes {
                state.written(id, group);
            }
        }
        state.durable = self.journal.synced();
        self.void.clear();
        Ok(())
    }

    pub(super) fn fence(&self) -> Option<String> {
        self.shared.fence.lock().expect("no panic under this lock").clone()
    }
}

/// The state of a message as a record of its own.
pub fn whole_state(row: &Row) -> Record {
    let recipients = row.message.recipients.iter().enumerate();
    let states = recipients.map(|(n, recipient)| (n as u32, recipient.state())).collect();
    let change =
        Change { recipients: states, frozen: Some(row.message.frozen), connector: Some(row.message.connector.clone()) };
    let meta = Changed { change, ended: Vec::new(), suspects: row.suspects };
    Record::plain(Kind::Changed, row.message.id, &meta)
}

impl Job {
    fn records(&self) -> impl Iterator<Item = &Record> {
        let (change, mails, note) = match self {
            Job::Commit { change, mails, .. } => (change.as_ref().map(|change| &change.record), &mails[..], None),
            Job::Note { record, .. } => (None, &[][..], Some(record)),
        };
        change.into_iter().chain(mails.iter().map(|mail| &mail.record)).chain(note)
    }
}
