//! `mailbox-stores`: where local mail ends.
//!
//! A store is one of four kinds, told apart by `type`; each has a schema of its own, so that a field of another kind is
//! refused and named like any unknown field.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::Discriminator;
use utoipa::openapi::{ObjectBuilder, OneOfBuilder, Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::model::duration::Duration;
use crate::model::host::Host;
use crate::model::http_url::HttpUrl;
use crate::model::path::{RelativePath, SocketPath};
use crate::model::secret::Secret;
use crate::model::size::Size;

/// A mailbox store: where mail for local recipients is put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum MailboxStoreSpec {
    /// A Maildir per recipient.
    Maildir(MaildirStore),
    /// A server that takes mail by LMTP.
    Lmtp(LmtpStore),
    /// A directory with a file per message.
    Drop(DropStore),
    /// A URL that each message is posted to.
    Webhook(WebhookStore),
}

impl MailboxStoreSpec {
    /// Whether it is the store of recipients that name none.
    pub fn is_default(&self) -> bool {
        match self {
            MailboxStoreSpec::Maildir(store) => store.default,
            MailboxStoreSpec::Lmtp(store) => store.default,
            MailboxStoreSpec::Drop(store) => store.default,
            MailboxStoreSpec::Webhook(store) => store.default,
        }
    }

    /// Most deliveries that it takes at a time.
    pub fn max_connections(&self) -> u32 {
        match self {
            // more would only wait for the same disk
            MailboxStoreSpec::Maildir(_) | MailboxStoreSpec::Drop(_) => 4,
            MailboxStoreSpec::Lmtp(store) => store.max_connections,
            MailboxStoreSpec::Webhook(store) => store.max_connections,
        }
    }
}

/// A Maildir per recipient: `mail/<path>/<recipient>/{tmp,new,cur}` in the data directory. A message counts as delivered
/// when its file and the directory are synced.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = MaildirStore, example = json!({"type": "maildir", "quota": {"size": "2GiB"}, "default": true}))]
pub struct MaildirStore {
    /// The directory, below `mail/` of the data directory. No two Maildir stores may lie in each other. Default: the name
    /// of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub path: Option<RelativePath>,
    /// How much each recipient's Maildir may hold.
    pub quota: Quota,
    /// Whether it is the store of recipients that name none, and of the postmaster. At most one store is; when none is,
    /// the first by name takes the part.
    pub default: bool,
}

/// How much the Maildir of one recipient may hold; what is absent is unlimited. A full mailbox defers its mail (452 4.2.2)
/// until there is room or it expires; a message that could never fit is returned at once. It is counted as Maildir++ does,
/// in the file `maildirsize`, which Dovecot and Courier keep too; mail that is under way at the same moment may pass it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = MaildirQuota, example = json!({"size": "2GiB", "messages": 100_000}))]
pub struct Quota {
    /// Octets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub size: Option<Size>,
    /// Messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4_294_967_295_u32, nullable = false)]
    pub messages: Option<u32>,
}

/// A server that takes mail by LMTP (RFC 2033), such as Dovecot: by TCP with `host`, or on this machine with `socket`.
/// It answers for each recipient on its own, and the recipient is told by the address that the sender gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "LmtpForm", into = "LmtpForm")]
pub struct LmtpStore {
    /// Where it listens.
    pub server: LmtpServer,
    /// See the form.
    pub timeout: Duration,
    /// See the form.
    pub max_connections: u32,
    /// See the form.
    pub messages_per_connection: u32,
    /// See the form.
    pub default: bool,
}

/// Where an LMTP server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LmtpServer {
    /// TCP.
    Tcp {
        /// Its name or address.
        host: Host,
        /// The port.
        port: u16,
    },
    /// A unix socket on this machine.
    Unix(SocketPath),
}

/// LMTP's usual port (RFC 2033, 5, leaves it open; 24 is what servers are set up with).
const LMTP_PORT: u16 = 24;

/// A server that takes mail by LMTP (RFC 2033), such as Dovecot: by TCP with `host`, or on this machine with `socket`,
/// one of the two. It answers for each recipient on its own; it is told the address that the sender gave.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = LmtpStore, example = json!({"type": "lmtp", "socket": "/run/dovecot/lmtp"}))]
struct LmtpForm {
    /// Its name or address. No MX is looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    host: Option<Host>,
    /// The TCP port; only with `host`. Default: 24.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535, nullable = false)]
    port: Option<u16>,
    /// A unix socket on this machine, instead of `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    socket: Option<SocketPath>,
    /// How long the server may be silent. At least 1s.
    #[serde(default = "five_minutes")]
    #[schema(default = "5m")]
    timeout: Duration,
    /// Most connections at a time.
    #[serde(default = "four")]
    #[schema(minimum = 1, maximum = 1_000, default = 4)]
    max_connections: u32,
    /// Most messages on one connection; then a new one is made.
    #[serde(default = "a_thousand")]
    #[schema(minimum = 1, maximum = 1_000_000, default = 1000)]
    messages_per_connection: u32,
    /// Whether it is the store of recipients that name none, and of the postmaster.
    #[serde(default)]
    #[schema(default = false)]
    default: bool,
}

impl TryFrom<LmtpForm> for LmtpStore {
    type Error = &'static str;

    fn try_from(form: LmtpForm) -> Result<Self, Self::Error> {
        let LmtpForm { host, port, socket, timeout, max_connections, messages_per_connection, default } = form;
        let server = match (host, port, socket) {
            (Some(host), port, None) => LmtpServer::Tcp { host, port: port.unwrap_or(LMTP_PORT) },
            (None, None, Some(socket)) => LmtpServer::Unix(socket),
            (None, Some(_), Some(_)) => return Err("port goes with host, not with socket"),
            _ => return Err("an LMTP server has either a host or a socket"),
        };
        Ok(LmtpStore { server, timeout, max_connections, messages_per_connection, default })
    }
}

impl From<LmtpStore> for LmtpForm {
    fn from(store: LmtpStore) -> Self {
        let LmtpStore { server, timeout, max_connections, messages_per_connection, default } = store;
        let (host, port, socket) = match server {
            LmtpServer::Tcp { host, port } => (Some(host), Some(port), None),
            LmtpServer::Unix(socket) => (None, None, Some(socket)),
        };
        LmtpForm { host, port, socket, timeout, max_connections, messages_per_connection, default }
    }
}

fn five_minutes() -> Duration {
    Duration::from_secs(300)
}

fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}

fn four() -> u32 {
    4
}

fn a_thousand() -> u32 {
    1_000
}

/// A drop directory, as the Windows SMTP service had: one file per message in `drop/<path>` of the data directory, with an
/// `x-sender:` line and an `x-receiver:` line for each recipient before the message. A file appears whole, and synced.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(as = DropStore, example = json!({"type": "drop", "path": "tickets"}))]
pub struct DropStore {
    /// The directory, below `drop/` of the data directory. No two drop directories may lie in each other. Default: the
    /// name of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub path: Option<RelativePath>,
    /// Whether it is the store of recipients that name none, and of the postmaster.
    pub default: bool,
}

/// A URL that each message is posted to, for all its recipients in this store at once, signed. An answer 2xx is a delivery;
/// 4xx is final, but 408, 425 and 429; everything else (5xx, a redirect, silence) is tried again like any local mail.
/// Nothing is sent to link-local and metadata addresses.
///
/// Each request has `Bridgehead-Delivery`, which stays the same when the same delivery is tried again, and
/// `Bridgehead-Signature: t=<Unix time>,v1=<hex>`: HMAC-SHA-256 with `secret` over `<t>.<body>`, with `raw` over
/// `<t>.<Bridgehead-Envelope>.<body>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = WebhookStore, example = json!({"type": "webhook", "url": "https://app.example.com/mail", "format": "json", "secret": {"env": "BRIDGEHEAD_SECRET_HOOK"}}))]
pub struct WebhookStore {
    /// Where to post.
    pub url: HttpUrl,
    /// How the message is posted.
    #[serde(default)]
    pub format: WebhookFormat,
    /// The key that requests are signed with.
    pub secret: Secret,
    /// How long an answer may take, from the end of the request. At least 1s.
    #[serde(default = "half_a_minute")]
    #[schema(default = "30s")]
    pub timeout: Duration,
    /// Most requests at a time.
    #[serde(default = "four")]
    #[schema(minimum = 1, maximum = 1_000, default = 4)]
    pub max_connections: u32,
    /// Whether it is the store of recipients that name none, and of the postmaster.
    #[serde(default)]
    #[schema(default = false)]
    pub default: bool,
}

/// How a webhook posts a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum WebhookFormat {
    /// As it is (`message/rfc822`), of any size; `Bridgehead-Envelope` holds `{"from", "to"}` as JSON. A message with very
    /// many recipients comes in several requests.
    #[default]
    Raw,
    /// Taken apart (`application/json`): `{id, delivery, store, receivedAt, envelope{from, to}, headers[{name, value}],
    /// from, to, cc, subject, date, messageId, text, html, attachments[{name, type, id, inline, size, content}], size}`,
    /// with `content` in base64. At most 32MiB; a larger message is returned to its sender.
    Json,
}

/// One schema per kind, with `type` in it.
impl PartialSchema for MailboxStoreSpec {
    fn schema() -> RefOr<Schema> {
        let reference = |kind: &str| format!("#/components/schemas/{kind}");
        let mapping = KINDS.map(|(word, name, _)| (word, reference(name)));
        let kinds = KINDS.iter().fold(OneOfBuilder::new(), |one, (_, name, _)| one.item(Ref::from_schema_name(*name)));
        kinds
            .description(Some("A mailbox store: where mail for local recipients is put. `type` says which kind it is."))
            .discriminator(Some(Discriminator::with_mapping("type", mapping)))
            .examples([
                serde_json::json!({"type": "maildir", "default": true}),
                serde_json::json!({"type": "lmtp", "socket": "/run/dovecot/lmtp"}),
            ])
            .into()
    }
}

impl ToSchema for MailboxStoreSpec {
    fn name() -> Cow<'static, str> {
        "MailboxStoreSpec".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        for (word, name, schema) in KINDS {
            schemas.push((name.to_owned(), with_type(word, schema())));
        }
        MaildirStore::schemas(schemas);
        LmtpForm::schemas(schemas);
        DropStore::schemas(schemas);
        WebhookStore::schemas(schemas);
    }
}

type Kind = (&'static str, &'static str, fn() -> RefOr<Schema>);

/// The word in `type`, the name of the schema, and what is in it beside `type`.
const KINDS: [Kind; 4] = [
    ("maildir", "MaildirStore", MaildirStore::schema),
    ("lmtp", "LmtpStore", LmtpForm::schema),
    ("drop", "DropStore", DropStore::schema),
    ("webhook", "WebhookStore", WebhookStore::schema),
];

/// The schema of one kind with its `type`.
fn with_type(word: &'static str, schema: RefOr<Schema>) -> RefOr<Schema> {
    let RefOr::T(Schema::Object(mut object)) = schema else { return schema };
    let tag = ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .enum_values(Some([word]))
        .description(Some("What it is."));
    object.properties.insert("type".to_owned(), tag.into());
    object.required.push("type".to_owned());
    RefOr::T(Schema::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_stored_before_there_were_four_kinds_is_read() {
        let store: MailboxStoreSpec =
            serde_json::from_value(json!({"type": "maildir", "path": "a/b", "default": true})).unwrap();
        assert!(store.is_default());
        let drop: MailboxStoreSpec = serde_json::from_value(json!({"type": "drop", "default": false})).unwrap();
        assert_eq!(drop, MailboxStoreSpec::Drop(DropStore::default()));
        assert_eq!(serde_json::to_value(&drop).unwrap(), json!({"type": "drop", "default": false}));
    }

    #[test]
    fn an_lmtp_server_has_a_host_or_a_socket() {
        let parse = |more: serde_json::Value| {
            let mut spec = json!({"type": "lmtp"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value::<MailboxStoreSpec>(spec)
        };
        let Ok(MailboxStoreSpec::Lmtp(store)) = parse(json!({"host": "box.example"})) else { panic!("a host") };
        assert!(matches!(store.server, LmtpServer::Tcp { port: 24, .. }));
        let spec = MailboxStoreSpec::Lmtp(store);
        assert_eq!(serde_json::from_value::<MailboxStoreSpec>(serde_json::to_value(&spec).unwrap()).unwrap(), spec);
        assert!(parse(json!({"socket": "/run/lmtp"})).is_ok());
        for wrong in [
            json!({}),
            json!({"port": 24}),
            json!({"host": "a.example", "socket": "/s"}),
            json!({"socket": "/s", "port": 24}),
            json!({"socket": "relative"}),
            json!({"socket": "/s", "path": "x"}),
        ] {
            assert!(parse(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
