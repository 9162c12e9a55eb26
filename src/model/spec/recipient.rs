//! `recipients`: the directory.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::name::Name;
use crate::smtp::address::Mailbox;

/// A recipient: somebody who has mail here. The addresses come from the recipient policy that matches; the status shows
/// them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"type": "mailbox", "givenName": "Ada", "surname": "Lovelace"}))]
pub struct RecipientSpec {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: RecipientType,
    /// The alias, `%m` in templates. Default: the object's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64, nullable = false)]
    pub alias: Option<String>,
    /// The given name, `%g` in templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256, nullable = false)]
    pub given_name: Option<String>,
    /// The initials, `%i` in templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64, nullable = false)]
    pub initials: Option<String>,
    /// The surname, `%s` in templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256, nullable = false)]
    pub surname: Option<String>,
    /// The display name, `%d` in templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256, nullable = false)]
    pub display_name: Option<String>,
    /// Further addresses, beside those that the policy gives. Each address belongs to one recipient only, and its domain
    /// must be local.
    #[schema(max_items = 200)]
    pub addresses: Vec<Mailbox>,
    /// The mailbox store that its mail goes to. Default: the default mailbox store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub mailbox_store: Option<Name>,
}

/// What a recipient is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum RecipientType {
    /// A mailbox in a mailbox store.
    #[default]
    Mailbox,
}

impl RecipientType {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            RecipientType::Mailbox => "mailbox",
        }
    }
}

/// An address of a recipient, as its status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"address": "ada.lovelace@example.com", "primary": true}))]
pub struct StampedAddress {
    /// The address.
    pub address: Mailbox,
    /// Whether it is the primary one.
    pub primary: bool,
}
