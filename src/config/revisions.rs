//! Revisions: what each changed, what is different between two, and going back to one.
//!
//! Going back is a change like any other: it makes a new revision, passes all checks, and can be gone back from. Objects
//! come back with the owner and the secrets that they had; addresses that recipients got in the meantime stay theirs. What a
//! file of the watched directory says is not touched: that is gone back from in the file.

use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Actor, ChangeError, ChangeKind, OwnedObject};
use super::apply::{Applied, AppliedObject, Carried, MOST_LISTED};
use super::change::MOST_TRIES;
use super::configuration::{Configuration, State, blocking};
use super::difference::between;
use super::history::{Head, RevisionKind, Touched};
use super::object::Record;
use super::plan::{How, MOST_NAMED, Want, Wish, is_protected};
use super::recipient_set::FILE;
use super::records::read_record;
use super::violation::object_id;
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::store::{ConfigStore, StoreError};

/// What is different between two states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// Objects that are different.
    pub changed: u64,
    /// The first 1,000 of them, by collection and name.
    pub objects: Vec<AppliedObject>,
    /// Whether there are more than these.
    pub truncated: bool,
}

/// Why a revision cannot be told or gone back to.
#[derive(Debug, thiserror::Error)]
pub enum RevisionError {
    /// It is not kept, or never was (404).
    #[error("there is no revision {0}, or it is not kept any more")]
    Unknown(u64),
    /// What lies behind it is too large to be kept, or not kept any more (409).
    #[error("the way back to revision {0} is not kept")]
    OutOfReach(u64),
    /// The change cannot be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl From<StoreError> for RevisionError {
    fn from(error: StoreError) -> Self {
        RevisionError::Change(error.into())
    }
}

impl Configuration {
    /// Up to `limit` revisions older than `before`, newest first; and whether there are more.
    pub async fn revisions(&self, before: Option<u64>, limit: usize) -> (Vec<Head>, bool) {
        let state = self.lock().await;
        let older = state.history.heads().filter(|head| before.is_none_or(|before| head.revision < before));
        let mut heads: Vec<Head> = older.take(limit + 1).cloned().collect();
        let more = heads.len() > limit;
        heads.truncate(limit);
        (heads, more)
    }

    /// A revision and what it changed.
    ///
    /// # Errors
    /// See [`RevisionError`].
    pub async fn revision(&self, revision: u64) -> Result<(Head, Changes), RevisionError> {
        let state = self.lock().await;
        let head = state.history.head(revision).cloned().ok_or(RevisionError::Unknown(revision))?;
        let (store, history, current) = (self.store.clone(), state.history.clone(), state.revision);
        let work = blocking(move || {
            let before = history.changes(&*store, revision)?;
            let reaches = history.reaches(revision, current);
            // what it was made to be; when what came later is not kept, only that it changed
            let after = if reaches { history.at(&*store, revision)? } else { Touched::new() };
            let changes = changes(&*store, &before, &after);
            drop(state);
            changes
        });
        Ok((head, work.await??))
    }

    /// What is different between the states at two revisions.
    ///
    /// # Errors
    /// See [`RevisionError`].
    pub async fn difference(&self, from: u64, to: u64) -> Result<Changes, RevisionError> {
        let state = self.lock().await;
        for revision in [from, to] {
            self.reach(&state, revision)?;
        }
        let (store, history) = (self.store.clone(), state.history.clone());
        let work = blocking(move || {
            let (mut from, to) = (history.at(&*store, from)?, history.at(&*store, to)?);
            // what was touched only behind the older of them is what it is now in the other
            for key in to.keys() {
                if !from.contains_key(key) {
                    from.insert(key.clone(), read_record(&*store, key.0, &key.1)?);
                }
            }
            let changes = changes(&*store, &from, &to);
            drop(state);
            changes
        });
        Ok(work.await??)
    }

    /// Makes everything what it was at a revision.
    ///
    /// # Errors
    /// See [`RevisionError`]; nothing has changed then.
    pub async fn rollback(
        &self,
        revision: u64,
        dry_run: bool,
        if_revision: Option<u64>,
        actor: &Actor,
    ) -> Result<Applied, RevisionError> {
        let mut state = self.lock().await;
        for _ in 0..MOST_TRIES {
            if if_revision.is_some_and(|wanted| wanted != state.revision) {
                return Err(ChangeError::RevisionChanged { found: state.revision }.into());
            }
            self.reach(&state, revision)?;
            let (store, history) = (self.store.clone(), state.history.clone());
            let files = self.has_files();
            let wishes = blocking(move || wishes(&*store, history.at(&*store, revision)?, files)).await??;
            let how = How {
                authority: &actor.authority,
                owner: "",
                take_over: true,
                claims: true,
                lenient: false,
                kind: RevisionKind::Rollback,
            };
            let plan = self.plan(&state, wishes, how).await.map_err(ChangeError::from)?;
            match self.carry_out(state, plan, dry_run, "", actor).await? {
                Carried::Done(applied) => return Ok(*applied),
                Carried::Late(held) => state = held,
            }
            self.reload(&mut state).await?;
        }
        let found = state.revision;
        Err(StoreError::Conflict { expected: found, found }.into())
    }

    fn reach(&self, state: &State, revision: u64) -> Result<(), RevisionError> {
        if revision != state.revision && state.history.head(revision).is_none() {
            return Err(RevisionError::Unknown(revision));
        }
        match state.history.reaches(revision, state.revision) {
            true => Ok(()),
            false => Err(RevisionError::OutOfReach(revision)),
        }
    }
}

/// What has to be done for all to be as it was.
fn wishes(store: &dyn ConfigStore, touched: Touched, files: bool) -> Result<Vec<Wish>, ChangeError> {
    let (mut wishes, mut owned) = (Vec::new(), Vec::new());
    for ((collection, name), was) in touched {
        let now = read_record(store, collection, &name)?;
        let same = |a: &Record, b: &Record| a.labels == b.labels && a.spec == b.spec && a.owner == b.owner;
        if match (&was, &now) {
            (None, None) => true,
            (Some(was), Some(now)) => same(was, now),
            _ => false,
        } {
            continue;
        }
        let of_file = |record: &Option<Record>| record.as_ref().is_some_and(|record| record.owner == FILE);
        if files && (of_file(&was) || of_file(&now)) {
            let object = object_id(collection, &name);
            owned.push(OwnedObject { object, owner: FILE.to_owned(), by_file: true });
            continue;
        }
        let want = match was {
            Some(record) => Want::BeAgain(Box::new(record)),
            // before the first start there was nothing, but these cannot go
            None if is_protected(collection, &name) => Want::LetGo,
            None => Want::Gone,
        };
        wishes.push(Wish { collection, name, want });
    }
    owned.truncate(MOST_NAMED);
    if owned.is_empty() { Ok(wishes) } else { Err(ChangeError::Owned { objects: owned }) }
}

/// The differences of all objects of `before`; `after` has what they are when that is not what is stored.
fn changes(store: &dyn ConfigStore, before: &Touched, after: &Touched) -> Result<Changes, StoreError> {
    let mut changes = Changes { changed: 0, objects: Vec::new(), truncated: false };
    for ((collection, name), was) in before {
        let key = (*collection, name.clone());
        let is = after.get(&key).cloned().map_or_else(|| read_record(store, *collection, name), Ok)?;
        let Some(object) = difference(*collection, name, was.as_ref(), is.as_ref()) else { continue };
        changes.changed += 1;
        if changes.objects.len() < MOST_LISTED {
            changes.objects.push(object);
        } else {
            changes.truncated = true;
        }
    }
    Ok(changes)
}

fn difference(collection: Collection, name: &Name, was: Option<&Record>, is: Option<&Record>) -> Option<AppliedObject> {
    let change = match (was, is) {
        (None, None) => return None,
        (None, Some(_)) => ChangeKind::Created,
        (Some(_), None) => ChangeKind::Deleted,
        (Some(_), Some(_)) => ChangeKind::Updated,
    };
    let (diff, diff_truncated) = between(was, is);
    let same = change == ChangeKind::Updated && diff.is_empty();
    (!same).then(|| AppliedObject { object: object_id(collection, name), change, diff, diff_truncated })
}
