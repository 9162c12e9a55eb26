//! What to import, and how far an import has come.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::model::name::Name;
use crate::model::path::RelativePath;
use crate::model::time::Timestamp;
use crate::store::StoreError;

/// A directory of a mailroot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MailrootArea)]
pub enum Area {
    /// `Pickup`
    Pickup,
    /// `Queue`
    Queue,
    /// `Badmail`
    Badmail,
    /// `Drop`
    Drop,
}

/// All of them.
pub const AREAS: [Area; 4] = [Area::Pickup, Area::Queue, Area::Badmail, Area::Drop];

/// From where the envelope of a message in `Queue` is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MailrootQueueEnvelope)]
pub enum QueueEnvelope {
    /// Only from `x-sender` and `x-receiver` lines; a message without them is named as unreadable.
    #[default]
    Lines,
    /// Where there are none, from Sender or From, and To, Cc and Bcc of the header. Who has got the message already gets it again, and
    /// blind copies are lost.
    Header,
}

/// What to import.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The mailroot, below the import directory.
    pub path: RelativePath,
    /// Which of its directories.
    pub areas: Vec<Area>,
    /// See [`QueueEnvelope`].
    pub queue_envelope: QueueEnvelope,
    /// The virtual server that takes the mail; `None`: the default one.
    pub virtual_server: Option<Name>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Who wants it.
    pub by: String,
}

/// How an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MailrootImportState)]
pub enum ImportState {
    /// It goes on.
    Running,
    /// It is through.
    Done,
    /// The process ended in the middle of it. Started again, it goes on where it was.
    Interrupted,
    /// It could not go on; `failure` says why.
    Failed,
}

/// A file, and why it is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MailrootFile)]
pub struct Named {
    /// Where it lies in the mailroot.
    pub file: String,
    /// Why it was not imported, or who is refused and why.
    pub why: String,
}

/// An import, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MailrootImport)]
pub struct Import {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// The mailroot, below the import directory.
    #[schema(value_type = String)]
    pub path: String,
    /// Whether it only says what would be done.
    pub dry_run: bool,
    /// Who wanted it.
    pub by: String,
    /// How it is.
    pub state: ImportState,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub ended_at: Option<Timestamp>,
    /// Why it could not go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub failure: Option<String>,
    /// Files that lie there.
    pub found: u64,
    /// Messages that were imported; in a dry run, that would be.
    pub imported: u64,
    /// Messages that were imported already: of the same content, at the same place in a mailroot.
    pub skipped: u64,
    /// Recipients of messages in `Pickup` and `Queue` who may not be written to: their senders get a report; in a dry run, would get.
    #[serde(default)]
    #[schema(required = true)]
    pub refused_count: u64,
    /// Which ones, and why; the first 1,000.
    #[serde(default)]
    #[schema(required = true)]
    pub refused: Vec<Named>,
    /// Messages that could not be imported.
    pub unreadable_count: u64,
    /// Which ones, and why; the first 1,000.
    pub unreadable: Vec<Named>,
    /// Files that are no messages, and whatever lies beside and below the directories that are read.
    pub ignored_count: u64,
    /// Which ones; the first 1,000.
    pub ignored: Vec<Named>,
}

/// Why an import does not begin.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// There is nothing there, or it leads elsewhere.
    #[error("there is no mailroot {path} in the import directory {root}: {why}")]
    NotThere {
        /// What was asked for.
        path: String,
        /// Below which it has to lie.
        root: String,
        /// Why not.
        why: String,
    },
    /// One at a time.
    #[error("an import is running; one can run at a time")]
    Running,
    /// The virtual server that shall take the mail is not there.
    #[error("there is no virtual server {0}")]
    NoServer(String),
    /// The store did not.
    #[error(transparent)]
    Store(#[from] StoreError),
}
