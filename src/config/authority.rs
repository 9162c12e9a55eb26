//! What a caller may change, judged where changes are made, so that no way to a change gets around it.
//!
//! The route of a request was checked by scope before ([`crate::model::access`]). Here it is about the objects themselves:
//! keys need `keys:write`, everything else `config:write`; a caller that is limited to some objects writes none that does
//! not match, neither before the change nor after it; and nobody gives a key more than he has, nor touches a key that has
//! more, as he could rotate it and be its holder.

use std::sync::Arc;

use serde_json::Value;

use super::answer::{Actor, ChangeError};
use super::configuration::Configuration;
use super::object::Record;
use super::records::read_record;
use super::violation::object_id;
use crate::model::access::{Grant, Role, Scope};
use crate::model::labels::Labels;
use crate::model::name::Name;
use crate::model::spec::{ApiKeySpec, Collection};

/// What the one who makes a change may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Authority {
    /// Everything: the appliance itself.
    #[default]
    Unlimited,
    /// What this grant gives.
    Granted(Arc<Grant>),
}

impl Authority {
    /// Refuses what is no business of the actor's, whatever is in it.
    pub(super) fn may_write(&self, collection: Collection) -> Result<(), ChangeError> {
        let Authority::Granted(grant) = self else { return Ok(()) };
        let needed = if collection == Collection::ApiKeys { Scope::KeysWrite } else { Scope::ConfigWrite };
        if grant.may(needed) {
            return Ok(());
        }
        Err(ChangeError::Forbidden(format!("this needs the scope {needed}, which the key has not")))
    }

    /// Refuses an object that the actor may not write: asked of what it is before a change, and of what it is after it.
    pub(super) fn reaches(
        &self,
        collection: Collection,
        name: &Name,
        labels: &Labels,
        spec: &Value,
    ) -> Result<(), ChangeError> {
        let Authority::Granted(grant) = self else { return Ok(()) };
        if !grant.objects.matches(labels) {
            let (id, objects) = (object_id(collection, name), &grant.objects);
            return Err(ChangeError::Forbidden(format!("the key is limited to objects with {objects}; {id} is none")));
        }
        if collection == Collection::ApiKeys {
            // what cannot be read gives everything, as far as anybody can tell
            let given = serde_json::from_value(spec.clone()).map(|spec: ApiKeySpec| spec.grant());
            let given = given.unwrap_or_else(|_| Grant::of(Role::Owner));
            if let Some((field, why)) = given.exceeds(grant) {
                let id = object_id(collection, name);
                return Err(ChangeError::Forbidden(format!("{id}, {field}: {why}")));
            }
        }
        Ok(())
    }
}

impl Configuration {
    /// Refuses what the actor must not begin: called before anything about the object is said.
    pub(super) fn permit(&self, actor: &Actor, collection: Collection, name: &Name) -> Result<(), ChangeError> {
        actor.authority.may_write(collection)?;
        match read_record(&*self.store, collection, name)? {
            Some(Record { labels, spec, .. }) => actor.authority.reaches(collection, name, &labels, &spec),
            None => Ok(()),
        }
    }
}
