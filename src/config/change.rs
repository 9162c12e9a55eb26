//! One change, as REST asks for it: PUT, PATCH, DELETE of one object.
//!
//! One change at a time: planned under one lock ([`super::plan`]), committed with compare-and-set on the revision, then
//! published. What fails before the commit leaves everything as it was. Once the commit has begun it is finished and
//! published even if the caller goes away. When another writer was first, the state is read anew and the change is tried
//! again on top.

use serde_json::{Value, json};

use super::answer::{Actor, ChangeError, ChangeKind, Outcome, Precondition};
use super::authority::Authority;
use super::configuration::{Configuration, State, checked_name};
use super::history::RevisionKind;
use super::object::Record;
use super::plan::{How, Plan, Want, Wish, protect};
use super::records::read_record;
use super::violation::{Violation, ViolationCode, object_id};
use super::{schema, secrets};
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::store::StoreError;

/// How often a change is tried when others commit first.
pub(super) const MOST_TRIES: usize = 5;
/// The owner of what REST writes.
pub(super) const API: &str = "api";

/// What a request asks for.
enum Request<'a> {
    Put(&'a Value),
    Patch(&'a Value),
    Delete,
}

/// How a write of one object is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteMode {
    /// Only say what it would do.
    pub dry_run: bool,
    /// Also when the object belongs to somebody else; never to a file.
    pub take_over: bool,
}

/// A dry run or not, without taking over.
impl From<bool> for WriteMode {
    fn from(dry_run: bool) -> Self {
        WriteMode { dry_run, take_over: false }
    }
}

impl Configuration {
    /// Creates or replaces an object. `body` is `{labels?, spec}`; what is absent has its default.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing has changed then.
    pub async fn put(
        &self,
        collection: Collection,
        name: &str,
        body: &Value,
        precondition: &Precondition,
        actor: &Actor,
        mode: impl Into<WriteMode>,
    ) -> Result<Outcome, ChangeError> {
        self.change(collection, name, Request::Put(body), precondition, actor, mode.into()).await
    }

    /// Changes an object by a merge patch (RFC 7396) over `{labels, spec}`: null resets to the default.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing has changed then.
    pub async fn patch(
        &self,
        collection: Collection,
        name: &str,
        body: &Value,
        precondition: &Precondition,
        actor: &Actor,
        mode: impl Into<WriteMode>,
    ) -> Result<Outcome, ChangeError> {
        self.change(collection, name, Request::Patch(body), precondition, actor, mode.into()).await
    }

    /// Deletes an object that nothing refers to.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing has changed then.
    pub async fn delete(
        &self,
        collection: Collection,
        name: &str,
        precondition: &Precondition,
        actor: &Actor,
        mode: impl Into<WriteMode>,
    ) -> Result<Outcome, ChangeError> {
        self.change(collection, name, Request::Delete, precondition, actor, mode.into()).await
    }

    async fn change(
        &self,
        collection: Collection,
        name: &str,
        request: Request<'_>,
        precondition: &Precondition,
        actor: &Actor,
        mode: WriteMode,
    ) -> Result<Outcome, ChangeError> {
        let name = checked_name(collection, name)?;
        let mut state = self.lock().await;
        let mut tries = 1;
        loop {
            // before anything is said about the object
            self.permit(actor, collection, &name)?;
            let (before, plan) =
                self.plan_one(&state, collection, &name, &request, precondition, mode, &actor.authority).await?;
            let Plan { steps, warnings, mut effects, draft, next, recorded, .. } = plan;
            let step = steps.into_iter().next();
            let change = step.as_ref().map_or(ChangeKind::Unchanged, |step| step.change);
            let (was, now) = step.and_then(|step| step.shown).map_or((None, None), |shown| *shown);
            let shown = now.clone().or(was.clone()).or(before);
            let shown = shown.ok_or_else(|| ChangeError::NotFound { collection, name: name.to_string() })?;
            let object = self.shown(shown, collection, &name);
            if let (true, Some((_, candidate)), Some(mail)) = (mode.dry_run, &next, self.queued_mail.get()) {
                effects.queued_mail = Some(mail.moves(candidate).await);
            }
            let Some(draft) = draft.filter(|_| !mode.dry_run) else {
                return Ok(Outcome { object, change, warnings, effects, revision: state.revision });
            };
            let audit = json!({
                "object": object_id(collection, &name), "change": change,
                "before": was.as_ref().map(Record::audited), "after": now.as_ref().map(Record::audited)
            });
            let (held, committed) = self.commit_change(state, draft, audit, actor, next, recorded).await?;
            state = held;
            match committed {
                Ok(revision) => {
                    effects.recipients.items.clear();
                    return Ok(Outcome { object, change, warnings, effects, revision });
                }
                Err(StoreError::Conflict { .. }) if tries < MOST_TRIES => {
                    tries += 1;
                    self.reload(&mut state).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The plan, and the object as it is.
    #[allow(clippy::too_many_arguments, reason = "what a request says, part by part")]
    async fn plan_one(
        &self,
        state: &State,
        collection: Collection,
        name: &Name,
        request: &Request<'_>,
        precondition: &Precondition,
        mode: WriteMode,
        authority: &Authority,
    ) -> Result<(Option<Record>, Plan), ChangeError> {
        let before = read_record(&*self.store, collection, name)?;
        precondition.check(before.as_ref().map(|record| record.generation))?;
        let missing = || ChangeError::NotFound { collection, name: name.to_string() };
        let wanted = match request {
            Request::Put(body) => Some(schema::check(collection, body).map_err(ChangeError::Invalid)?),
            Request::Patch(patch) => {
                let record = before.as_ref().ok_or_else(missing)?;
                Some(schema::check(collection, &patched(record, patch)?).map_err(ChangeError::Invalid)?)
            }
            Request::Delete => {
                before.as_ref().ok_or_else(missing)?;
                protect(collection, name)?;
                None
            }
        };
        let delete = wanted.is_none();
        let want = wanted.map_or(Want::Gone, |(labels, spec)| Want::Be { labels, spec });
        let wishes = vec![Wish { collection, name: name.clone(), want }];
        let how = How {
            authority,
            owner: API,
            take_over: mode.take_over,
            claims: false,
            lenient: false,
            kind: RevisionKind::Write,
        };
        let plan = self.plan(state, wishes, how).await;
        let plan = plan.map_err(|refused| refused.of_one(&object_id(collection, name), delete))?;
        Ok((before, plan))
    }
}

/// The object's body with the patch merged into it; what the patch takes away has its default again.
fn patched(record: &Record, patch: &Value) -> Result<Value, ChangeError> {
    if !patch.is_object() {
        let violation = Violation::new("", ViolationCode::WrongType, "a merge patch over {labels, spec} is an object");
        return Err(ChangeError::Invalid(vec![violation]));
    }
    let mut body = json!({"labels": record.labels, "spec": record.spec});
    secrets::make_way(&mut body, patch);
    json_patch::merge(&mut body, patch);
    // to take away what no object has changes nothing, and is a mistake all the same: the schema refuses it
    for (field, _) in patch.as_object().into_iter().flatten().filter(|(_, value)| value.is_null()) {
        body[field] = Value::Null;
    }
    for field in ["labels", "spec"] {
        if body[field].is_null() {
            body[field] = json!({});
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
