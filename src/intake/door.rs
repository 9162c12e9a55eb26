//! The doors into the house, and what each knows of who comes in by it.
//!
//! What is allowed by which door is said by [`Client`](super::Client): by SMTP a client is trusted as its address, its name or its
//! account says; the other doors open only to who may relay ([`Client::trusted`](super::Client)).

use std::sync::Arc;

use super::Client;
use super::admission::Refusal;
use crate::model::mail::Protocol;
use crate::model::spec::account::{AccountQuotas, SenderPattern};
use crate::model::trace_parent::TraceParent;
use crate::smtp::address::ReversePath;
use crate::smtp::parameters::MailParameters;
use crate::smtp::reply::{EnhancedStatus, Reply};

/// Who sends, as far as the door knows.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The client.
    pub client: Client,
    /// How it comes in.
    pub door: Door,
}

/// How a message comes in.
#[derive(Debug, Clone)]
pub enum Door {
    /// SMTP or LMTP.
    Smtp {
        /// The client's HELO or EHLO name, cleaned.
        helo: String,
        /// It said EHLO or LHLO.
        extended: bool,
        /// It speaks LMTP.
        lmtp: bool,
    },
    /// A file in a pickup directory of the virtual server.
    Pickup,
    /// Brought in from an old mailroot.
    Import,
    /// `POST /messages`.
    Rest {
        /// Whose key it is.
        by: Arc<Submitter>,
        /// It came by HTTPS.
        encrypted: bool,
        /// The request that brought it.
        request: Requested,
    },
}

/// What is known of the request that brings a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requested {
    /// Its id, which the answer has as `X-Request-Id`.
    pub id: Option<String>,
    /// Where it is in a trace of its sender.
    pub trace: Option<TraceParent>,
}

/// Who submits mail by an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitter {
    /// The name of the key.
    pub api_key: String,
    /// What it may send as, beside the null reverse-path; `None`: anything.
    pub send_as: Option<Vec<SenderPattern>>,
    /// How much it may send.
    pub quotas: AccountQuotas,
}

impl Submitter {
    /// Whether it may send with this reverse-path.
    pub fn may_send_as(&self, reverse_path: &ReversePath) -> bool {
        match (&self.send_as, reverse_path) {
            (None, _) | (_, ReversePath::Null) => true,
            (Some(patterns), ReversePath::Mailbox(sender)) => patterns.iter().any(|pattern| pattern.matches(sender)),
        }
    }
}

impl Door {
    /// The HELO or EHLO name, where there is one.
    pub fn helo(&self) -> Option<&str> {
        match self {
            Door::Smtp { helo, .. } => Some(helo),
            Door::Rest { .. } | Door::Pickup | Door::Import => None,
        }
    }

    /// The name of the API key, where there is one.
    pub fn api_key(&self) -> Option<&str> {
        match self {
            Door::Smtp { .. } | Door::Pickup | Door::Import => None,
            Door::Rest { by, .. } => Some(&by.api_key),
        }
    }

    /// The request that brings it, where one does.
    pub(super) fn request(&self) -> Option<&Requested> {
        match self {
            Door::Smtp { .. } | Door::Pickup | Door::Import => None,
            Door::Rest { request, .. } => Some(request),
        }
    }

    /// Whether a client is behind it, and not a file.
    pub(super) fn has_client(&self) -> bool {
        !matches!(self, Door::Pickup | Door::Import)
    }

    /// What it is called in the message's origin.
    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Door::Smtp { lmtp: true, .. } => Protocol::Lmtp,
            Door::Smtp { extended: true, .. } => Protocol::Esmtp,
            Door::Smtp { .. } => Protocol::Smtp,
            Door::Rest { .. } => Protocol::Rest,
            Door::Pickup => Protocol::Pickup,
            Door::Import => Protocol::Import,
        }
    }

    /// May mail with this reverse-path come in by it?
    ///
    /// # Errors
    /// 550 for an API key that may not.
    pub(super) fn admit_sender(&self, sender: &ReversePath) -> Result<(), Refusal> {
        match self {
            Door::Rest { by, .. } if !by.may_send_as(sender) => {
                let reply = Reply::new(550, EnhancedStatus::permanent(7, 1), "You may not send under this address");
                Err(Refusal::new("sendAs", reply, format!("the API key {} may not send as {sender}", by.api_key)))
            }
            _ => Ok(()),
        }
    }
}

impl Sender {
    /// The word behind `with` in a trace field (RFC 3848, RFC 6531; HTTP has none that is registered).
    pub(super) fn with(&self, parameters: &MailParameters) -> String {
        let (extended, lmtp) = match &self.door {
            Door::Smtp { extended, lmtp, .. } => (extended, lmtp),
            Door::Rest { encrypted: true, .. } => return "HTTPS".to_owned(),
            Door::Rest { encrypted: false, .. } => return "HTTP".to_owned(),
            Door::Pickup => return "PICKUP".to_owned(),
            Door::Import => return "IMPORT".to_owned(),
        };
        let word = match (lmtp, extended, parameters.smtputf8) {
            (true, _, true) => "UTF8LMTP",
            (true, _, false) => "LMTP",
            (false, true, true) => "UTF8SMTP",
            (false, true, false) => "ESMTP",
            (false, false, _) => return "SMTP".to_owned(),
        };
        let secure = if self.client.tls.is_some() { "S" } else { "" };
        let authenticated = if self.client.account.is_some() { "A" } else { "" };
        format!("{word}{secure}{authenticated}")
    }
}
