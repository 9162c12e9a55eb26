//! `recipients`: the directory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};

use crate::model::name::Name;
use crate::model::recipient_ref::{RecipientRef, SenderPattern};
use crate::model::size::Size;
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
    /// Free attributes, for filters of recipient policies (`attributes.department`). A key is 1 to 63 letters, digits,
    /// `-`, `_` and `.`; at most 50 of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = attributes_schema)]
    pub attributes: BTreeMap<String, String>,
    /// Further addresses, beside those that the policy gives. Each address belongs to one recipient only, and its domain
    /// must be local. `*@example.com` is the catch-all of a domain: it gets what is for nobody else there.
    #[schema(max_items = 200)]
    pub addresses: Vec<Mailbox>,
    /// The mailbox store that its mail goes to. Default: the default mailbox store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub mailbox_store: Option<Name>,
    /// Where its mail goes on to. A contact needs at least one; a mailbox with one keeps no copy unless
    /// `deliverAndForward` says so. Not for a group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub forward_to: Vec<RecipientRef>,
    /// A mailbox with `forwardTo` keeps a copy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deliver_and_forward: bool,
    /// The members of a group; other groups may be among them. Each member gets a message once, however often it is
    /// named. A member that does not take mail from the sender, or of that size, gets no copy; the owner hears of it,
    /// else the sender, as of any member that cannot be reached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50_000)]
    pub members: Vec<RecipientRef>,
    /// The owner of a group: mail to its members goes out with the owner's address as reverse-path, so that the owner,
    /// not the sender, hears what could not be delivered. Default: the sender does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub owner: Option<RecipientRef>,
    /// The largest message that it takes. Default: what the virtual server takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub max_receive_size: Option<Size>,
    /// Only these senders may write to it. Empty: everybody. The sender is the reverse-path, which is as good as the
    /// client that gave it; also when the mail comes by a group or a forward. Notifications (null reverse-path) reach
    /// mailboxes and contacts all the same, groups not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1_000)]
    pub accept_from: Vec<SenderPattern>,
    /// These senders may not write to it; it goes before `acceptFrom`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1_000)]
    pub reject_from: Vec<SenderPattern>,
}

/// What the key of a free attribute looks like.
pub const ATTRIBUTE_KEY: &str = "^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
/// Whether a text may be the key of a free attribute; see [`ATTRIBUTE_KEY`].
pub fn is_attribute_key(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// The longest value of a free attribute.
const MAX_ATTRIBUTE: usize = 256;

fn attributes_schema() -> utoipa::openapi::Object {
    let value = ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_ATTRIBUTE));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property_names(Some(ObjectBuilder::new().schema_type(Type::String).pattern(Some(ATTRIBUTE_KEY))))
        .additional_properties(Some(RefOr::T(Schema::from(value))))
        .max_properties(Some(50))
        .description(Some(
            "Free attributes, for filters of recipient policies (`attributes.department`). A key is 1 to 63 letters, \
             digits, `-`, `_` and `.`; a value has at most 256 characters.",
        ))
        .examples([serde_json::json!({"department": "Research"})])
        .build()
}

/// What a recipient is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum RecipientType {
    /// A mailbox in a mailbox store.
    #[default]
    Mailbox,
    /// Somebody elsewhere who has an address here: its mail goes on to `forwardTo`.
    Contact,
    /// A distribution group: its mail goes to its members.
    Group,
}

impl RecipientType {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            RecipientType::Mailbox => "mailbox",
            RecipientType::Contact => "contact",
            RecipientType::Group => "group",
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
