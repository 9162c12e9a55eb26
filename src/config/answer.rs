//! What a change of the configuration is asked for with, and what is answered.

use std::net::IpAddr;

use super::authority::Authority;
use super::effects::Effects;
use super::object::Object;
use super::violation::{Violation, Warning};
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::store::StoreError;

/// Whether the object must be in a certain state, else the change is refused with 412.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Precondition {
    /// `If-Match`: it is there, in this generation.
    pub if_match: Option<IfMatch>,
    /// `If-None-Match: *`: it is not there.
    pub if_none_match_star: bool,
}

impl Precondition {
    pub(super) fn check(&self, generation: Option<u64>) -> Result<(), ChangeError> {
        let matches = match self.if_match {
            None => true,
            Some(IfMatch::Any) => generation.is_some(),
            Some(IfMatch::Generation(wanted)) => generation == Some(wanted),
        };
        if !matches || self.if_none_match_star && generation.is_some() {
            return Err(ChangeError::PreconditionFailed { found: generation });
        }
        Ok(())
    }
}

/// What `If-Match` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: any generation.
    Any,
    /// `"7"`: this generation.
    Generation(u64),
}

/// Who makes a change: for the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Actor {
    /// The name of the API key, or the username of a token; `system` for the appliance itself.
    pub key: String,
    /// Who issued the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_provider: Option<Name>,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What it may do; for the judging of changes, not for the log.
    #[serde(skip)]
    pub authority: Authority,
}

/// What a change did to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ChangeKind {
    /// It is new.
    Created,
    /// It is another now.
    Updated,
    /// It had this content already: no new generation, no new revision.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// What became of a change; of a dry run, what would have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The object as it is now; a deleted one as it was.
    pub object: Object,
    /// What happened to it.
    pub change: ChangeKind,
    /// What may not be meant.
    pub warnings: Vec<Warning>,
    /// What it does to others; of a change that was made only the counts.
    pub effects: Effects,
    /// The revision in force.
    pub revision: u64,
}

/// A place that refers to an object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    /// The object that refers, as `collection/name`.
    pub object: String,
    /// JSON pointer to the reference in it.
    pub pointer: String,
}

/// An object that belongs to somebody else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnedObject {
    /// The object, as `collection/name`.
    pub object: String,
    /// Its owner.
    pub owner: String,
    /// Only its files can change it.
    pub by_file: bool,
}

/// Why a change was not made. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such object (404).
    #[error("there is no {} {name}", collection.noun())]
    NotFound {
        /// Of this kind.
        collection: Collection,
        /// Of this name.
        name: String,
    },
    /// Others refer to the object (409).
    #[error("{} still refers to it", by.first().map_or("something", |first| first.object.as_str()))]
    Referenced {
        /// Who, at most 100 of them.
        by: Vec<Reference>,
    },
    /// Objects belong to somebody else (409).
    #[error("{} belongs to {}", objects.first().map_or("an object", |first| first.object.as_str()), objects.first().map_or("somebody else", |first| first.owner.as_str()))]
    Owned {
        /// Which, at most 100 of them.
        objects: Vec<OwnedObject>,
    },
    /// The configuration is at another revision than the request says (412).
    #[error("revision {found} is in force")]
    RevisionChanged {
        /// The one in force.
        found: u64,
    },
    /// The object cannot be deleted (409).
    #[error("{0}")]
    Protected(String),
    /// The actor may not do it (403).
    #[error("{0}")]
    Forbidden(String),
    /// The precondition does not hold (412).
    #[error("the object is not in the state that the request asks for")]
    PreconditionFailed {
        /// The generation it has; `None` when it is not there.
        found: Option<u64>,
    },
    /// The result would not be valid (422).
    #[error("{} violations, the first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Invalid(Vec<Violation>),
    /// The data directory is full (507).
    #[error(transparent)]
    NoSpace(StoreError),
    /// The store cannot do it now (503).
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for ChangeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSpace { .. } => ChangeError::NoSpace(error),
            error => ChangeError::Store(error),
        }
    }
}
