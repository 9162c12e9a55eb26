//! `filters`: whose mail is not taken, defined once and named by bindings (Exchange: global settings, message delivery:
//! sender, recipient and connection filter).
//!
//! A filter is one of three kinds, told apart by `kind`; each has a schema of its own, so that a field of another kind is
//! refused and named like any unknown field.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{Discriminator, Type};
use utoipa::openapi::{ObjectBuilder, OneOfBuilder, Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::model::dns_list::{DnsListCode, DnsListReply};
use crate::model::host::HostName;
use crate::model::mailbox_pattern::MailboxPattern;
use crate::model::pattern::ClientPattern;

/// A filter: whose mail is not taken. Bindings of virtual servers name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum FilterSpec {
    /// By the reverse-path.
    Sender(SenderFilter),
    /// By the forward-path.
    Recipient(RecipientFilter),
    /// By the client.
    Connection(ConnectionFilter),
}

/// What becomes of what a filter matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum FilterAction {
    /// It is refused with 550 5.7.1, at MAIL for a sender, at RCPT for a recipient or a client.
    #[default]
    Reject,
    /// The same with 554, and the connection is closed.
    Drop,
    /// It is taken and kept in the dead-letter queue, to be seen, until its retention ends. Nobody is notified.
    Archive,
    /// It is answered as if it were taken, and not kept. A log line says so.
    AcceptSilently,
}

impl FilterAction {
    /// As configuration, logs and metrics write it.
    pub fn word(self) -> &'static str {
        match self {
            FilterAction::Reject => "reject",
            FilterAction::Drop => "drop",
            FilterAction::Archive => "archive",
            FilterAction::AcceptSilently => "acceptSilently",
        }
    }
}

/// Filters by the sender that MAIL names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = FilterBySender, example = json!({"kind": "sender", "deny": ["*@spam.example"], "action": "reject"}))]
pub struct SenderFilter {
    /// Senders it matches.
    #[schema(max_items = 10_000)]
    pub deny: Vec<MailboxPattern>,
    /// Senders it never matches, whatever `deny` says.
    #[schema(max_items = 10_000)]
    pub allow: Vec<MailboxPattern>,
    /// Whether it matches the null reverse-path `<>`. Notifications (bounces) have it: a server that matches it gets none.
    pub blank_sender: bool,
    /// What becomes of the mail.
    pub action: FilterAction,
}

/// Filters by the recipients that RCPT names, each for itself. A bare `postmaster` is never matched.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = FilterByRecipient, example = json!({"kind": "recipient", "deny": ["all-staff@example.com"], "notInDirectory": true}))]
pub struct RecipientFilter {
    /// Recipients it matches.
    #[schema(max_items = 10_000)]
    pub deny: Vec<MailboxPattern>,
    /// Whether it matches recipients of local domains, shared ones too, that the directory does not have. They are refused
    /// with 550 5.1.1. In authoritative domains they are refused in any case, unless `action` says otherwise.
    pub not_in_directory: bool,
    /// What becomes of the mail for that recipient.
    pub action: FilterAction,
}

/// Filters by who the client is. It acts at RCPT, so that there can be exceptions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = FilterByConnection, example = json!({
    "kind": "connection", "allow": ["192.0.2.0/24"], "deny": ["198.51.100.7"],
    "dnsbl": [{"zone": "bl.example.org", "codes": ["127.0.0.2"], "reply": "%0 is listed by %2"}],
    "exceptions": ["postmaster@example.com"]
}))]
pub struct ConnectionFilter {
    /// Clients that no connection filter of the binding matches, whatever its `deny` or `dnsbl` say.
    #[schema(max_items = 10_000)]
    pub allow: Vec<ClientPattern>,
    /// Clients it matches.
    #[schema(max_items = 10_000)]
    pub deny: Vec<ClientPattern>,
    /// DNS lists; it matches clients that one of them lists. They are asked at the first recipient, all at once, each once in
    /// a connection, by the name servers of the virtual server, for 10 seconds at most. A list that gives no answer lists
    /// nobody.
    #[schema(max_items = 16)]
    pub dnsbl: Vec<DnsList>,
    /// Recipients whose mail it lets pass, such as the postmaster, whom a listed sender may want to write to.
    #[schema(max_items = 1_000)]
    pub exceptions: Vec<MailboxPattern>,
    /// What becomes of the mail.
    pub action: FilterAction,
}

/// A list of clients in DNS (DNSBL, RFC 5782).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"zone": "bl.example.org", "codes": ["127.0.0.2"], "reply": "%0 is listed by %2"}))]
pub struct DnsList {
    /// The domain that is asked, behind the reversed address.
    pub zone: HostName,
    /// Which answers count. Empty: all in 127.0.0.0/8, but for 127.255.255.0/24, where lists say that they refuse to answer.
    #[serde(default)]
    #[schema(max_items = 64)]
    pub codes: Vec<DnsListCode>,
    /// What a listed client is told behind the reply code, when it is refused.
    #[serde(default)]
    #[schema(default = "%0 is listed by %2")]
    pub reply: DnsListReply,
}

type Kind = (&'static str, &'static str, fn() -> RefOr<Schema>);

/// The word in `kind`, the name of the schema (recipient policies have a `RecipientFilter` already), and what is in it beside `kind`.
const KINDS: [Kind; 3] = [
    ("sender", "FilterBySender", SenderFilter::schema),
    ("recipient", "FilterByRecipient", RecipientFilter::schema),
    ("connection", "FilterByConnection", ConnectionFilter::schema),
];

/// One schema per kind, with `kind` in it.
impl PartialSchema for FilterSpec {
    fn schema() -> RefOr<Schema> {
        let mapping = KINDS.map(|(word, name, _)| (word, format!("#/components/schemas/{name}")));
        let kinds = KINDS.iter().fold(OneOfBuilder::new(), |one, (_, name, _)| one.item(Ref::from_schema_name(*name)));
        kinds
            .description(Some("A filter: whose mail is not taken. `kind` says by what it judges."))
            .discriminator(Some(Discriminator::with_mapping("kind", mapping)))
            .examples([serde_json::json!({"kind": "sender", "deny": ["*@spam.example"], "action": "reject"})])
            .into()
    }
}

impl ToSchema for FilterSpec {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("FilterSpec")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        for (word, name, schema) in KINDS {
            schemas.push((name.to_owned(), with_kind(word, schema())));
        }
        SenderFilter::schemas(schemas);
        RecipientFilter::schemas(schemas);
        ConnectionFilter::schemas(schemas);
    }
}

/// The schema of one kind with its `kind`.
fn with_kind(word: &'static str, schema: RefOr<Schema>) -> RefOr<Schema> {
    let RefOr::T(Schema::Object(mut object)) = schema else { return schema };
    let tag = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some([word]))
        .description(Some("By what it judges."));
    object.properties.insert("kind".to_owned(), tag.into());
    object.required.push("kind".to_owned());
    RefOr::T(Schema::Object(object))
}
