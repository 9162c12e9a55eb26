//! What it takes to go back: of each revision, how the objects that it changed were before.
//!
//! | key | what |
//! |---|---|
//! | `revision/<first>` | a [`Head`]: who, when, what in short |
//! | `revision-part/<first>/<part>` | up to 1,000 [`Entry`]s: an object and its record before, with its secrets |
//!
//! All of it is written in the commit of the change itself. An object at revision *n* is what the first revision behind *n*
//! that touched it says it was before; when none did, it is what it is now. So any kept state can be told and restored,
//! and what is stored grows with the changes, not with the configuration.
//!
//! **Bounds.** `settings.retention.revisions` of them are kept, and [`MOST_BYTES`] of all parts together: the oldest go
//! first. A revision that alone is larger than [`MOST_BYTES_OF_ONE`] keeps its head, but there is no way back behind it.
//! The batches of one import are one revision, as long as nobody else changes anything in between.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::answer::{Actor, ChangeKind};
use super::object::Record;
use super::records::{SCAN, encode};
use super::violation::object_id;
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::model::time::Timestamp;
use crate::store::{ConfigDraft, ConfigStore, StoreError};

/// Octets of the parts of all revisions.
const MOST_BYTES: u64 = 64 << 20;
/// Octets of the parts of one revision.
const MOST_BYTES_OF_ONE: u64 = 32 << 20;
/// Entries and octets of a part.
const PART_ENTRIES: usize = 1_000;
const PART_BYTES: usize = 1 << 20;
/// Objects that a head names.
const MOST_NAMED: usize = 20;

/// What a revision was made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum RevisionKind {
    /// The first start.
    Start,
    /// A write of one object.
    Write,
    /// An apply of a document.
    Apply,
    /// The watched directory.
    Directory,
    /// An import of recipients.
    Import,
    /// A rollback.
    Rollback,
}

/// A revision, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Version of this form: 1.
    v: u32,
    /// The last revision of it; of an import that was several, else the first.
    pub revision: u64,
    /// When.
    pub at: Timestamp,
    /// Who, from where.
    pub actor: Actor,
    /// By what.
    pub kind: RevisionKind,
    /// Objects that are new.
    pub created: u64,
    /// Objects that are others now.
    pub updated: u64,
    /// Objects that are gone.
    pub deleted: u64,
    /// The first of these objects, as `collection/name`.
    pub objects: Vec<String>,
    /// Parts in which the rest lies; none when it was too large to be kept.
    parts: u32,
    bytes: u64,
    /// Whether it was too large.
    #[serde(default)]
    pub too_large: bool,
}

/// An object and what it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    collection: String,
    name: Name,
    before: Option<Record>,
}

/// What the objects of a change were before: written into its draft as the change is made.
pub(super) struct Recorded {
    first: u64,
    kind: RevisionKind,
    /// Goes on with the newest revision instead of beginning one.
    continues: bool,
    part: Vec<Entry>,
    part_bytes: usize,
    parts: u32,
    bytes: u64,
    too_large: bool,
    counts: [u64; 3],
    objects: Vec<String>,
}

impl Recorded {
    /// Nothing yet, of the change on top of this state.
    pub fn new(revision: u64, kind: RevisionKind) -> Self {
        Recorded {
            first: revision + 1,
            kind,
            continues: false,
            part: Vec::new(),
            part_bytes: 0,
            parts: 0,
            bytes: 0,
            too_large: false,
            counts: [0; 3],
            objects: Vec::new(),
        }
    }

    /// One more part of what the newest revision is; a new one when that is another one's.
    pub fn continuing(revision: u64, kind: RevisionKind, history: &History) -> Self {
        let fresh = Recorded::new(revision, kind);
        match history.kept.back() {
            Some((first, head)) if head.revision == revision && head.kind == kind => Recorded {
                first: *first,
                continues: true,
                parts: head.parts,
                bytes: head.bytes,
                too_large: head.too_large,
                counts: [head.created, head.updated, head.deleted],
                objects: head.objects.clone(),
                ..fresh
            },
            _ => fresh,
        }
    }

    /// An object changes; this is what it was.
    pub fn add(
        &mut self,
        draft: &mut dyn ConfigDraft,
        collection: Collection,
        name: &Name,
        before: Option<Record>,
        change: ChangeKind,
    ) -> Result<(), StoreError> {
        match change {
            ChangeKind::Created => self.counts[0] += 1,
            ChangeKind::Updated => self.counts[1] += 1,
            ChangeKind::Deleted => self.counts[2] += 1,
            ChangeKind::Unchanged => return Ok(()),
        }
        if self.objects.len() < MOST_NAMED {
            self.objects.push(object_id(collection, name));
        }
        if self.too_large {
            return Ok(());
        }
        // what an entry takes besides the spec
        const ENTRY: usize = 160;
        let spec = before.as_ref().map_or(0, |record| encode(&record.spec).len() + 200 * record.addresses.len());
        self.part_bytes += ENTRY + name.as_str().len() + spec;
        self.part.push(Entry { collection: collection.path().to_owned(), name: name.clone(), before });
        if self.part.len() >= PART_ENTRIES || self.part_bytes >= PART_BYTES { self.flush(draft) } else { Ok(()) }
    }

    fn flush(&mut self, draft: &mut dyn ConfigDraft) -> Result<(), StoreError> {
        if self.part.is_empty() {
            return Ok(());
        }
        let bytes = encode(&std::mem::take(&mut self.part));
        self.part_bytes = 0;
        self.bytes += bytes.len() as u64;
        if self.bytes > MOST_BYTES_OF_ONE {
            for part in 0..self.parts {
                draft.write(&part_key(self.first, part), None)?;
            }
            (self.too_large, self.parts, self.bytes) = (true, 0, 0);
            return Ok(());
        }
        draft.write(&part_key(self.first, self.parts), Some(bytes))?;
        self.parts += 1;
        Ok(())
    }
}

/// The revisions that are kept, oldest first, each with the number of its keys.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    kept: VecDeque<(u64, Head)>,
}

impl History {
    /// What is stored.
    pub fn load(store: &dyn ConfigStore) -> Result<Self, StoreError> {
        let mut kept = VecDeque::new();
        let mut after: Option<String> = None;
        loop {
            let rows = store.scan("revision/", after.as_deref(), SCAN)?;
            for (key, bytes) in &rows {
                let damaged = |detail: String| StoreError::Damaged(format!("{key}: {detail}"));
                let first = key["revision/".len()..].parse().map_err(|_| damaged("the key holds no number".into()))?;
                let head: Head = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
                kept.push_back((first, head));
            }
            match rows.last() {
                Some((key, _)) if rows.len() == SCAN => after = Some(key.clone()),
                _ => return Ok(History { kept }),
            }
        }
    }

    /// Adds the revision that the draft makes, and takes away what is too much.
    pub fn add(
        &mut self,
        draft: &mut dyn ConfigDraft,
        mut recorded: Recorded,
        at: Timestamp,
        actor: &Actor,
        most: usize,
    ) -> Result<(), StoreError> {
        recorded.flush(draft)?;
        let before = if recorded.continues { self.kept.pop_back() } else { None };
        let revision = before.map_or(recorded.first, |(_, head)| head.revision + 1);
        let [created, updated, deleted] = recorded.counts;
        let head = Head {
            v: 1,
            revision,
            at,
            actor: actor.clone(),
            kind: recorded.kind,
            created,
            updated,
            deleted,
            objects: recorded.objects,
            parts: recorded.parts,
            bytes: recorded.bytes,
            too_large: recorded.too_large,
        };
        draft.write(&head_key(recorded.first), Some(encode(&head)))?;
        self.kept.push_back((recorded.first, head));
        let mut bytes: u64 = self.kept.iter().map(|(_, head)| head.bytes).sum();
        while self.kept.len() > most || bytes > MOST_BYTES {
            let Some((first, head)) = self.kept.pop_front() else { break };
            bytes -= head.bytes;
            draft.write(&head_key(first), None)?;
            for part in 0..head.parts {
                draft.write(&part_key(first, part), None)?;
            }
        }
        Ok(())
    }

    /// Newest first.
    pub fn heads(&self) -> impl Iterator<Item = &Head> {
        self.kept.iter().rev().map(|(_, head)| head)
    }

    /// The revision of this number.
    pub fn head(&self, revision: u64) -> Option<&Head> {
        self.kept.iter().map(|(_, head)| head).find(|head| head.revision == revision)
    }

    /// Whether the state at this revision can be told: it is the one in force, or nothing behind it is missing.
    pub fn reaches(&self, revision: u64, current: u64) -> bool {
        if revision >= current {
            return revision == current;
        }
        let behind: Vec<_> = self.kept.iter().filter(|(_, head)| head.revision > revision).collect();
        // inside of an import there is no state to go to
        let whole = behind.first().is_none_or(|(first, _)| *first > revision);
        let known = self.kept.front().is_some_and(|(first, _)| *first <= revision + 1);
        whole && known && behind.iter().all(|(_, head)| !head.too_large)
    }

    /// What the objects that one revision changed were before it.
    pub fn changes(&self, store: &dyn ConfigStore, revision: u64) -> Result<Touched, StoreError> {
        let mut touched = Touched::new();
        for (first, head) in self.kept.iter().filter(|(_, head)| head.revision == revision) {
            read_parts(store, *first, head, &mut touched)?;
        }
        Ok(touched)
    }

    /// Every object that was touched behind a revision, with what it was at that revision.
    pub fn at(&self, store: &dyn ConfigStore, revision: u64) -> Result<Touched, StoreError> {
        let mut touched = Touched::new();
        for (first, head) in self.kept.iter().filter(|(_, head)| head.revision > revision) {
            read_parts(store, *first, head, &mut touched)?;
        }
        Ok(touched)
    }
}

/// Objects and what they were.
pub(super) type Touched = BTreeMap<(Collection, Name), Option<Record>>;

/// Of several entries of an object the first one counts.
fn read_parts(store: &dyn ConfigStore, first: u64, head: &Head, touched: &mut Touched) -> Result<(), StoreError> {
    for part in 0..head.parts {
        let key = part_key(first, part);
        let damaged = |detail: String| StoreError::Damaged(format!("{key}: {detail}"));
        let bytes = store.get(&key)?.ok_or_else(|| damaged("it is missing".to_owned()))?;
        let entries: Vec<Entry> = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        for Entry { collection, name, before } in entries {
            let collection = Collection::from_path(&collection);
            let collection = collection.ok_or_else(|| damaged("it names an unknown collection".to_owned()))?;
            touched.entry((collection, name)).or_insert(before);
        }
    }
    Ok(())
}

fn head_key(first: u64) -> String {
    format!("revision/{first:020}")
}

fn part_key(first: u64, part: u32) -> String {
    format!("revision-part/{first:020}/{part:06}")
}
