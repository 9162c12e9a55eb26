//! Mail as version 1 of the journal's records wrote it, before FUTURERELEASE, DELIVERBY, MT-PRIORITY and REQUIRETLS.
//!
//! Only read: a queue that an older program left is taken over as it is, and whatever is written about it is written in
//! the present version. Postcard has no names, so the order of the fields here is the format. Parts that have not
//! changed since are those of `model`; one that changes needs its old shape here.

use serde::{Deserialize, Serialize};

use super::v2::Origin;
use crate::model::mail::{self, MessageId, Recipient};
use crate::model::time::Timestamp;
use crate::smtp::address::ReversePath;
use crate::smtp::parameters::{self, Body, Ret};

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

/// See [`parameters::MailParameters`].
#[derive(Debug, Serialize, Deserialize)]
struct MailParameters {
    size: Option<u64>,
    body: Body,
    smtputf8: bool,
    ret: Option<Ret>,
    envid: Option<String>,
}

impl From<Message> for mail::Message {
    fn from(old: Message) -> Self {
        let MailParameters { size, body, smtputf8, ret, envid } = old.parameters;
        mail::Message {
            id: old.id,
            received_at: old.received_at,
            origin: old.origin.into(),
            reverse_path: old.reverse_path,
            parameters: parameters::MailParameters {
                size,
                body,
                smtputf8,
                ret,
                envid,
                ..parameters::MailParameters::default()
            },
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

#[cfg(test)]
impl From<mail::Message> for Message {
    fn from(new: mail::Message) -> Self {
        let parameters::MailParameters { size, body, smtputf8, ret, envid, .. } = new.parameters;
        Message {
            id: new.id,
            received_at: new.received_at,
            origin: new.origin.into(),
            reverse_path: new.reverse_path,
            parameters: MailParameters { size, body, smtputf8, ret, envid },
            size: new.size,
            message_id_header: new.message_id_header,
            frozen: new.frozen,
            recipients: new.recipients,
        }
    }
}
