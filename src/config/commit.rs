//! The end of the way of a change: one commit with its audit entry and what it takes to go back, then publishing.

use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::Snapshot;
use super::answer::{Actor, ChangeError};
use super::compile::Objects;
use super::configuration::{Configuration, State};
use super::history::Recorded;
use super::records::{audit_key, encode};
use crate::store::{ConfigDraft, StoreError};

/// Audit entries that are kept; each commit takes one away.
const MOST_AUDITED: u64 = 10_000;

/// A state and what became of the commit on top of it.
pub(super) type Committed = (OwnedMutexGuard<State>, Result<u64, StoreError>);

impl Configuration {
    /// Commits what changes no object, then publishes; see [`Configuration::commit_change`].
    pub(super) async fn commit(
        &self,
        state: OwnedMutexGuard<State>,
        draft: Box<dyn ConfigDraft>,
        audit: Value,
        actor: &Actor,
        next: Option<(Objects, Snapshot)>,
    ) -> Result<Committed, ChangeError> {
        self.commit_change(state, draft, audit, actor, next, None).await
    }

    /// Commits, then publishes, in a task of its own: a caller that goes away does not leave half of it. `recorded` is what
    /// the objects were before.
    pub(super) async fn commit_change(
        &self,
        mut state: OwnedMutexGuard<State>,
        mut draft: Box<dyn ConfigDraft>,
        mut audit: Value,
        actor: &Actor,
        next: Option<(Objects, Snapshot)>,
        recorded: Option<Recorded>,
    ) -> Result<Committed, ChangeError> {
        let expected = state.revision;
        let at = self.now();
        audit["v"] = json!(1);
        audit["at"] = json!(at);
        audit["actor"] = json!(actor);
        draft.write(&audit_key(expected + 1), Some(encode(&audit)))?;
        if let Some(old) = (expected + 1).checked_sub(MOST_AUDITED) {
            draft.write(&audit_key(old), None)?;
        }
        let mut history = None;
        if let Some(recorded) = recorded {
            let objects = next.as_ref().map_or(&state.objects, |(objects, _)| objects);
            let mut after = state.history.clone();
            after.add(&mut *draft, recorded, at, actor, objects.kept_revisions())?;
            history = Some(after);
        }
        if let Some((key, value)) = self.vault.pending() {
            draft.write(&key, value)?;
        }
        let (live, vault) = (self.live.clone(), self.vault.clone());
        let task = tokio::spawn(async move {
            let committed = draft.commit(expected).await;
            if let Ok(revision) = committed {
                vault.stored();
                state.revision = revision;
                if let Some(history) = history {
                    state.history = history;
                }
                match next {
                    Some((objects, snapshot)) => {
                        state.policies = objects.policies();
                        state.objects = objects;
                        live.publish(Snapshot { revision, ..snapshot });
                    }
                    None => live.advance(revision),
                }
            }
            (state, committed)
        });
        task.await.map_err(|error| ChangeError::Store(StoreError::Io(format!("the commit was cut off: {error}"))))
    }
}
