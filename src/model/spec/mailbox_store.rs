//! `mailbox-stores`: where local mail ends.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::path::RelativePath;

/// A mailbox store: where mail for local recipients is put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"type": "maildir", "default": true}))]
pub struct MailboxStoreSpec {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: MailboxStoreType,
    /// The directory: below `mail/` of the data directory for a Maildir store, below `drop/` for a drop directory. No
    /// two stores of a type may lie in each other. Default: the name of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub path: Option<RelativePath>,
    /// Whether it is the store of recipients that name none, and of the postmaster. At most one store is; when none is,
    /// the first by name takes the part.
    #[serde(default)]
    #[schema(default = false)]
    pub default: bool,
}

/// How a mailbox store keeps mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum MailboxStoreType {
    /// A Maildir per recipient: `mail/<path>/<recipient>/{tmp,new,cur}`.
    Maildir,
    /// A drop directory: one file per message in `drop/<path>`, with `x-sender:` and `x-receiver:` lines before the
    /// message.
    Drop,
}
