//! Which addresses recipients would get: under the policies in force, or as if a policy were already there. Writes nothing.

use serde_json::{Value, json};

use super::answer::ChangeError;
use super::configuration::{Configuration, blocking, checked_name};
use super::object::Spec;
use super::records::read_record;
use super::refusal::refusal;
use super::stamping::Stamper;
use super::violation::{Violation, ViolationCode, object_id};
use super::{Kept, schema, stamping};
use crate::model::labels::Labels;
use crate::model::name::Name;
use crate::model::spec::recipient::StampedAddress;
use crate::model::spec::{Collection, RecipientSpec};

/// Most recipients of one preview.
pub const MOST_PREVIEWED: usize = 1_000;

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct PreviewRequest {
    /// A policy as if it were stored: its name and its spec.
    pub policy: Option<(String, Value)>,
    /// The recipients: a name, and a spec for those that are not stored, or shall be another.
    pub recipients: Vec<(String, Option<Value>)>,
}

/// What one recipient would get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previewed {
    /// The recipient.
    pub name: Name,
    /// The policy that wins.
    pub policy: Option<Name>,
    /// The addresses it has now; empty for one that is not stored.
    pub before: Vec<StampedAddress>,
    /// The addresses it would get, primary first; empty when there are violations.
    pub after: Vec<StampedAddress>,
    /// Why it cannot have its addresses.
    pub violations: Vec<Violation>,
}

impl Configuration {
    /// The addresses that recipients would get, each for itself: of two that want the same address, both are shown it.
    ///
    /// # Errors
    /// When the policy, a name or a spec is not valid (pointers from the root of the request), or the store cannot be read.
    pub async fn preview(&self, request: &PreviewRequest) -> Result<Vec<Previewed>, ChangeError> {
        let state = self.lock().await;
        let current = self.live().current();
        let (mut policies, mut domains) = (state.policies.clone(), current.domains.clone());
        let mut found = Vec::new();
        if let Some((name, spec)) = &request.policy {
            match self.policy(name, spec) {
                Err(violations) => found.extend(under("/policy", violations)),
                Ok((name, spec)) => {
                    let mut objects = state.objects.clone();
                    let id = object_id(Collection::RecipientPolicies, &name);
                    let missing = stamping::missing_groups(&*self.store.clone().draft(), &spec)?;
                    objects.insert(name, 1, &Labels::default(), spec, Kept::default());
                    match self.compiled(&objects, &current, missing) {
                        Ok(compiled) => (policies, domains) = (objects.policies(), compiled.domains),
                        Err(violations) => match refusal(violations, &id, false) {
                            ChangeError::Invalid(violations) => found.extend(under("/policy", violations)),
                            error => return Err(error),
                        },
                    }
                }
            }
        }
        drop(state);
        let mut wanted: Vec<(Name, Option<RecipientSpec>)> = Vec::new();
        for (index, (name, spec)) in request.recipients.iter().enumerate() {
            let at = format!("/recipients/{index}");
            match recipient(name, spec.as_ref()) {
                Ok((name, Some(spec))) => wanted.push((name, Some(spec))),
                Ok((name, None)) if read_record(&*self.store, Collection::Recipients, &name)?.is_none() => {
                    let detail = format!("there is no recipient {name}; give its spec to see what it would get");
                    found.push(Violation::new(format!("{at}/name"), ViolationCode::UnknownReference, detail));
                }
                Ok(stored) => wanted.push(stored),
                Err(violations) => found.extend(under(&at, violations)),
            }
        }
        if !found.is_empty() {
            return Err(ChangeError::Invalid(found));
        }
        let store = self.store.clone();
        let previewed = blocking(move || {
            let draft = store.clone().draft();
            let mut stamper = Stamper::new(policies, domains);
            let one = |(name, spec): (Name, Option<RecipientSpec>)| {
                let before = read_record(&*store, Collection::Recipients, &name)?;
                let stored = || before.as_ref().and_then(|record| stamping::parsed(record).ok()).unwrap_or_default();
                let spec = spec.unwrap_or_else(stored);
                let stamped = stamper.preview(&*draft, &name, &spec, before.as_ref());
                let (stamp, violations) = match stamped {
                    Ok(stamp) => (stamp, Vec::new()),
                    Err(stamping::Error::Violations(violations)) => (Default::default(), violations),
                    Err(error) => return Err(error.into()),
                };
                let before = before.map(|record| record.addresses).unwrap_or_default();
                Ok(Previewed { name, policy: stamp.policy, before, after: stamp.addresses, violations })
            };
            wanted.into_iter().map(one).collect::<Result<Vec<_>, _>>()
        });
        previewed.await?
    }

    fn policy(&self, name: &str, spec: &Value) -> Result<(Name, Spec), Vec<Violation>> {
        let name = named(Collection::RecipientPolicies, name)?;
        let (_, spec) = schema::check(Collection::RecipientPolicies, &json!({"spec": spec}))?;
        Ok((name, spec))
    }
}

fn recipient(name: &str, spec: Option<&Value>) -> Result<(Name, Option<RecipientSpec>), Vec<Violation>> {
    let name = named(Collection::Recipients, name)?;
    let Some(spec) = spec else { return Ok((name, None)) };
    match schema::check(Collection::Recipients, &json!({"spec": spec}))? {
        (_, Spec::Recipient(spec)) => Ok((name, Some((*spec).clone()))),
        _ => Ok((name, None)),
    }
}

fn named(collection: Collection, name: &str) -> Result<Name, Vec<Violation>> {
    checked_name(collection, name).map_err(|error| match error {
        ChangeError::Invalid(violations) => violations,
        error => vec![Violation::new("/name", ViolationCode::InvalidName, error.to_string())],
    })
}

/// Violations with pointers from the root of the request.
fn under(at: &str, violations: Vec<Violation>) -> impl Iterator<Item = Violation> {
    let at = at.to_owned();
    violations.into_iter().map(move |violation| {
        let pointer = if violation.object.is_some() { violation.pointer } else { format!("{at}{}", violation.pointer) };
        Violation { pointer, ..violation }
    })
}
