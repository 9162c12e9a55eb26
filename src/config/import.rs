//! Bringing in recipients by the hundred thousand: line by line, each line valid or not for itself.
//!
//! Lines come in batches; each batch is one commit with one audit entry (counts, not contents). A line that is wrong is
//! counted and told with its number, and does not hinder the others. Bringing in the same lines again changes nothing, so an
//! import that was cut off is simply repeated. A dry run keeps one draft over all batches: it sees two lines that want the
//! same address also when they are far apart, and its memory is bounded as a draft's is.

use serde_json::{Value, json};

use super::answer::{Actor, ChangeError, ChangeKind};
use super::change::{API, MOST_TRIES, WriteMode};
use super::configuration::{Configuration, State, blocking, checked_name};
use super::history::{Recorded, RevisionKind};
use super::object::{Record, Spec};
use super::recipient_set::How;
use super::records::{decode, encode, object_key};
use super::stamping::{Error, Stamper};
use super::violation::{Violation, ViolationCode};
use super::{Kept, Snapshot, schema, stamping};
use crate::model::spec::Collection;
use crate::store::{ConfigDraft, StoreError};

/// Lines of a batch, and so of a commit.
pub const BATCH_LINES: usize = 1_000;
/// Lines whose errors are told; all of them are counted.
const MOST_TOLD: usize = 100;

/// A line: its number, and its JSON or what is wrong with that.
pub type Line = (u64, Result<Value, Violation>);

/// What became of an import so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportReport {
    /// Recipients that are new.
    pub created: u64,
    /// Recipients that were there and are another now.
    pub updated: u64,
    /// Recipients that were the same already.
    pub unchanged: u64,
    /// Lines that could not be taken.
    pub failed: u64,
    /// The first 100 of these: line, name if it has one, and everything that is wrong with it.
    pub errors: Vec<(u64, Option<String>, Vec<Violation>)>,
}

/// An import that is under way.
pub struct Import<'a> {
    configuration: &'a Configuration,
    actor: Actor,
    take_over: bool,
    /// The revision that the batches so far are.
    last: Option<u64>,
    /// What a dry run would have written.
    dry: Option<Box<dyn ConfigDraft>>,
    report: ImportReport,
}

impl Configuration {
    /// Begins to bring in recipients.
    pub fn import(&self, actor: Actor, mode: impl Into<WriteMode>) -> Import<'_> {
        let WriteMode { dry_run, take_over } = mode.into();
        let dry = dry_run.then(|| self.store.clone().draft());
        Import { configuration: self, actor, take_over, last: None, dry, report: ImportReport::default() }
    }
}

impl Import<'_> {
    /// Takes some lines; what is good of them is durable when this returns, unless it is a dry run.
    ///
    /// # Errors
    /// When the store cannot do it: nothing of this batch is kept then, and all of the batches before it.
    pub async fn batch(&mut self, lines: Vec<Line>) -> Result<(), ChangeError> {
        let configuration = self.configuration;
        let lines = std::sync::Arc::new(lines);
        let mut tries = 1;
        loop {
            let state = configuration.lock().await;
            let (current, lines) = (configuration.live().current(), lines.clone());
            let dry_run = self.dry.is_some();
            let draft = self.dry.take().unwrap_or_else(|| configuration.store.clone().draft());
            let mut recorded = match self.last == Some(state.revision) {
                true => Recorded::continuing(state.revision, RevisionKind::Import, &state.history),
                false => Recorded::new(state.revision, RevisionKind::Import),
            };
            let (take_over, files, authority) =
                (self.take_over, configuration.has_files(), self.actor.authority.clone());
            let (state, draft, recorded, planned) = blocking(move || {
                let mut draft = draft;
                let how = How { authority: &authority, owner: API, take_over, claims: false, files };
                let planned = plan(&mut *draft, &mut recorded, &state, &current, &lines, how);
                (state, draft, recorded, planned)
            })
            .await?;
            let batch = planned?;
            if dry_run {
                self.dry = Some(draft);
            } else if batch.created + batch.updated > 0 {
                let audit = json!({
                    "object": "recipients", "change": "imported", "created": batch.created, "updated": batch.updated,
                });
                let recorded = Some(recorded);
                let committed = configuration.commit_change(state, draft, audit, &self.actor, None, recorded);
                let (mut state, committed) = committed.await?;
                match committed {
                    Ok(revision) => self.last = Some(revision),
                    Err(StoreError::Conflict { .. }) if tries < MOST_TRIES => {
                        tries += 1;
                        configuration.reload(&mut state).await?;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            self.report.add(batch);
            return Ok(());
        }
    }

    /// What became of it.
    pub fn report(self) -> ImportReport {
        self.report
    }
}

impl ImportReport {
    fn add(&mut self, batch: ImportReport) {
        self.created += batch.created;
        self.updated += batch.updated;
        self.unchanged += batch.unchanged;
        self.failed += batch.failed;
        let room = MOST_TOLD - self.errors.len();
        self.errors.extend(batch.errors.into_iter().take(room));
    }
}

fn plan(
    draft: &mut dyn ConfigDraft,
    recorded: &mut Recorded,
    state: &State,
    current: &Snapshot,
    lines: &[Line],
    how: How<'_>,
) -> Result<ImportReport, ChangeError> {
    let mut report = ImportReport::default();
    let mut stamper = Stamper::new(state.policies.clone(), current.domains.clone());
    for (number, line) in lines {
        let done = match line {
            Ok(body) => take(draft, recorded, state, &mut stamper, body, how),
            Err(violation) => Err(Error::Violations(vec![violation.clone()])),
        };
        match done {
            Ok(ChangeKind::Created) => report.created += 1,
            Ok(ChangeKind::Updated) => report.updated += 1,
            Ok(_) => report.unchanged += 1,
            Err(Error::Violations(violations)) => {
                report.failed += 1;
                let name = line.as_ref().ok().and_then(|body| body["name"].as_str()).map(str::to_owned);
                if report.errors.len() < MOST_TOLD {
                    report.errors.push((*number, name, violations));
                }
            }
            // the draft holds half of a line
            Err(error) => return Err(error.into()),
        }
    }
    Ok(report)
}

/// One recipient, as `PUT` takes it; the name stands beside labels and spec.
fn take(
    draft: &mut dyn ConfigDraft,
    recorded: &mut Recorded,
    state: &State,
    stamper: &mut Stamper,
    body: &Value,
    how: How<'_>,
) -> Result<ChangeKind, Error> {
    const COLLECTION: Collection = Collection::Recipients;
    let invalid =
        |pointer: &str, code, detail: &str| Err(Error::Violations(vec![Violation::new(pointer, code, detail)]));
    let Some(fields) = body.as_object() else {
        return invalid("", ViolationCode::WrongType, "a line is an object with name, spec and perhaps labels");
    };
    let mut fields = fields.clone();
    let name = match fields.remove("name") {
        Some(Value::String(name)) => match checked_name(COLLECTION, &name) {
            Ok(name) => name,
            Err(ChangeError::Invalid(violations)) => return Err(Error::Violations(violations)),
            Err(error) => return invalid("/name", ViolationCode::InvalidName, &error.to_string()),
        },
        Some(_) => return invalid("/name", ViolationCode::WrongType, "a text is needed"),
        None => return invalid("/name", ViolationCode::Required, "name is needed"),
    };
    let (labels, spec) = schema::check(COLLECTION, &Value::Object(fields)).map_err(Error::Violations)?;
    let Spec::Recipient(recipient) = &spec else {
        return invalid("/spec", ViolationCode::WrongType, "the spec is none of a recipient");
    };
    let key = object_key(COLLECTION, name.as_str());
    let before = draft.get(&key)?.map(|bytes| decode(&key, &bytes)).transpose()?;
    if let Some(record) = &before {
        if let Some(other) = how.somebody_elses(COLLECTION, &name, &record.owner) {
            let code = if other.by_file { ViolationCode::OwnedByFile } else { ViolationCode::OwnedByOther };
            return invalid("/name", code, &format!("it belongs to {}", other.owner));
        }
        if record.labels == labels && stamping::parsed(record).is_ok_and(|known| known == **recipient) {
            return Ok(ChangeKind::Unchanged);
        }
    }
    let found = state.objects.missing_store(recipient);
    let (addresses, _) = stamper.recipient(draft, &name, recipient, before.as_ref(), found)?;
    let generation = before.as_ref().map_or(1, |record| record.generation + 1);
    let record = Record::new(labels, how.owner, generation, spec.value(), Kept::default());
    draft.write(&key, Some(encode(&Record { addresses, ..record })))?;
    let change = if before.is_some() { ChangeKind::Updated } else { ChangeKind::Created };
    recorded.add(draft, COLLECTION, &name, before, change)?;
    Ok(change)
}
