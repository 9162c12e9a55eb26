//! Mail as version 2 of the journal's records wrote it, before subjects, API keys, chosen connectors and idempotency keys.
//!
//! Only read, as [`v1`](super::v1) is; the parts that both share are here.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::mail::{self, MessageId, Protocol, Recipient, RecipientState};
use crate::model::name::Name;
use crate::model::time::Timestamp;
use crate::smtp::address::ReversePath;
use crate::smtp::parameters::MailParameters;

/// See [`mail::Message`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    id: MessageId,
    received_at: Timestamp,
    origin: Origin,
    reverse_path: ReversePath,
    parameters: MailParameters,
    size: u64,
    message_id_header: Option<String>,
    frozen: bool,
    recipients: Vec<Recipient>,
}

/// See [`mail::Origin`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Origin {
    protocol: Protocol,
    virtual_server: Name,
    client: Option<IpAddr>,
    helo: Option<String>,
    account: Option<Name>,
}

/// See [`mail::Change`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Change {
    recipients: Vec<(u32, RecipientState)>,
    frozen: Option<bool>,
}

impl From<Origin> for mail::Origin {
    fn from(old: Origin) -> Self {
        let Origin { protocol, virtual_server, client, helo, account } = old;
        mail::Origin { protocol, virtual_server, client, helo, account, api_key: None }
    }
}

impl From<Message> for mail::Message {
    fn from(old: Message) -> Self {
        mail::Message {
            id: old.id,
            received_at: old.received_at,
            origin: old.origin.into(),
            reverse_path: old.reverse_path,
            parameters: old.parameters,
            size: old.size,
            message_id_header: old.message_id_header,
            subject: None,
            frozen: old.frozen,
            connector: None,
            idempotency: None,
            recipients: old.recipients,
        }
    }
}

impl From<Change> for mail::Change {
    fn from(old: Change) -> Self {
        mail::Change { recipients: old.recipients, frozen: old.frozen, connector: None }
    }
}

#[cfg(test)]
impl From<mail::Origin> for Origin {
    fn from(new: mail::Origin) -> Self {
        let mail::Origin { protocol, virtual_server, client, helo, account, .. } = new;
        Origin { protocol, virtual_server, client, helo, account }
    }
}

#[cfg(test)]
impl From<mail::Message> for Message {
    fn from(new: mail::Message) -> Self {
        Message {
            id: new.id,
            received_at: new.received_at,
            origin: new.origin.into(),
            reverse_path: new.reverse_path,
            parameters: new.parameters,
            size: new.size,
            message_id_header: new.message_id_header,
            frozen: new.frozen,
            recipients: new.recipients,
        }
    }
}

#[cfg(test)]
impl From<mail::Change> for Change {
    fn from(new: mail::Change) -> Self {
        Change { recipients: new.recipients, frozen: new.frozen }
    }
}
