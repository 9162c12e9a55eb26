//! What the server session asks of policy, what policy may answer, and what it tells for the logs.

use bytes::Bytes;
use std::time::Instant;

use crate::smtp::address::{Domain, ForwardPath, ReversePath};
use crate::smtp::command::Verb;
use crate::smtp::parameters::{MailParameters, RcptParameters};
use crate::smtp::reply::{EnhancedStatus, Reply};
use crate::smtp::sasl::Mechanism;

/// What the driver of a session is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write these octets: all replies gathered so far.
    Send(Bytes),
    /// Read into [`Session::buffer`](super::Session::buffer) and call `received`; or `eof`; or, at this time, `timeout`.
    NeedInput {
        /// When to call `timeout`.
        until: Instant,
    },
    /// Read nothing until this time, then call `timeout`.
    Wait {
        /// When to call `timeout`.
        until: Instant,
    },
    /// Find the answer and call `answer`. Until then every step is `NeedAnswer`.
    Ask(Question),
    /// The question asked last has no answer yet.
    NeedAnswer,
    /// Everything was sent and nothing read ahead: begin TLS, then call `tls_started`, or `abandon` when that fails.
    StartTls,
    /// The client is to be the server now (ATRN, RFC 2645): everything was sent. Take the connection away from the session.
    TurnAround,
    /// A slice of the content, unstuffed, in order. The driver may answer with `body_failed`.
    Body(Bytes),
    /// The transaction was abandoned or refused after MAIL was accepted: drop what was collected for it.
    Reset,
    /// A command and its reply, for logs.
    Note(Note),
    /// Close the connection. Every further step is `Close`.
    Close,
}

/// One question; the session consumes nothing until it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A client has connected: greet it? `Proceed` sends the 220 of the settings.
    Connect,
    /// HELO or EHLO. `Proceed` sends the usual response; a positive reply replaces its first line.
    Helo {
        /// What the client calls itself: a domain, an address literal, or nearly anything that is printable.
        name: String,
        /// True for EHLO.
        extended: bool,
    },
    /// AUTH. `Proceed` and positive replies (235) mean that the client is who it says; a challenge goes on.
    Auth(AuthStep),
    /// MAIL: begin a transaction?
    Mail {
        /// Who sends.
        reverse_path: ReversePath,
        /// The parameters.
        parameters: MailParameters,
    },
    /// RCPT: add a recipient?
    Rcpt {
        /// For whom.
        forward_path: ForwardPath,
        /// The parameters.
        parameters: RcptParameters,
    },
    /// DATA with at least one recipient: take the content? `Proceed` sends 354; a refusal ends the transaction.
    Begin,
    /// The true end of the content was read: take responsibility? The answer is the reply after the dot.
    Commit,
    /// VRFY. `Proceed` sends 252 2.5.0.
    Vrfy(String),
    /// ETRN: begin to deliver what waits for a domain, `@domain` or `#queue`? `Proceed` sends 250 2.0.0 (RFC 1985, 5.3).
    Etrn(String),
    /// ATRN by an authenticated client, for these domains, or all that it may fetch. `Proceed` turns round (RFC 2645, 5.2).
    Turn(Vec<Domain>),
}

/// A step of an AUTH exchange (RFC 4954, 4).
#[derive(Clone, PartialEq, Eq)]
pub enum AuthStep {
    /// AUTH itself. An earlier exchange that did not end is to be forgotten.
    Begin {
        /// The mechanism: one of those on offer.
        mechanism: Mechanism,
        /// The initial response, if one came with it.
        initial: Option<Bytes>,
    },
    /// The response to a challenge.
    Response(Bytes),
}

/// Never what the client sent: it lands in logs.
impl std::fmt::Debug for AuthStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AuthStep::Begin { mechanism, .. } => write!(f, "Begin({mechanism})"),
            AuthStep::Response(_) => f.write_str("Response(…)"),
        }
    }
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Yes, with the usual reply.
    Proceed,
    /// A positive reply: yes, with this text. A negative one: no.
    Reply(Reply),
    /// Only to [`Question::Auth`]: the server's next challenge, not encoded; 334.
    Challenge(Bytes),
    /// No, and the session ends: 421 or 554.
    Close(Reply),
}

/// A command and its reply; made for the protocol log, cheap when it is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The command.
    pub verb: Verb,
    /// What stood behind the verb, as it came in, without CRLF: any octets. Empty for a line that was too long; of AUTH only the
    /// mechanism, nothing of the responses.
    pub argument: Bytes,
    /// The reply code.
    pub code: u16,
    /// The enhanced status code of the reply.
    pub status: Option<EnhancedStatus>,
    /// Octets of the reply.
    pub sent: usize,
}

impl Note {
    /// The argument fit for a log: control characters and what is not UTF-8 are replaced by U+FFFD.
    pub fn argument_text(&self) -> String {
        let text = String::from_utf8_lossy(&self.argument);
        text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
    }
}
