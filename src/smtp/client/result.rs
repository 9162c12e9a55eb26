//! What came of it: one result per recipient, an error when a session could not be opened, and the peer's
//! replies, bounded and cleaned.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::parameters::{MailParameters, RcptParameters};
use crate::smtp::reply::EnhancedStatus;
use crate::smtp::sasl::client::{Fault, Mechanism};

/// A message to send: the envelope; the content is asked for when its turn comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Who sends.
    pub reverse_path: ReversePath,
    /// Parameters of MAIL; its `size` is not used, the field below is.
    pub parameters: MailParameters,
    /// For whom: at least one.
    pub recipients: Vec<(ForwardPath, RcptParameters)>,
    /// Octets of the content, before whatever is changed in it; 0 when it is not known.
    pub size: u64,
    /// What becomes of the content on its way out.
    pub treatment: Treatment,
}

/// What becomes of content on its way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Treatment {
    /// It goes as it is.
    #[default]
    AsTaken,
    /// It is changed, so that its parameters hold; how long it is then, nobody knows: no SIZE is told.
    Changed,
    /// It cannot be made so that the peer takes it (RFC 6152, section 3), for this reason: 5.6.3.
    Unfit(&'static str),
}

/// Where in a session something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Waiting for the greeting.
    Banner,
    /// EHLO or HELO.
    Hello,
    /// RSET between transactions.
    Reset,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, up to the 354.
    Data,
    /// The content, before the dot.
    Content,
    /// After the dot.
    Dot,
    /// LMTP: after the dot, for one recipient.
    Delivery,
    /// QUIT.
    Quit,
    /// STARTTLS and the handshake behind it; implicit TLS.
    StartTls,
    /// AUTH.
    Auth,
}

/// Why a connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// The peer closed it, or it was reset.
    Cut,
    /// The deadline of the phase passed.
    TimedOut,
    /// The peer sent what is no reply, or one that does not fit the command.
    Garbage,
    /// The peer ended the session with a 421 to another command.
    Closing,
    /// Our own content could not be read; the connection was given up before the dot.
    ContentUnavailable,
}

/// A reply of the peer: at most 2 KiB of text, without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteReply {
    /// The code, 200 to 599.
    pub code: u16,
    /// The enhanced status code, if the reply begins with one of the same class.
    pub status: Option<EnhancedStatus>,
    /// The text without code and status; several lines are joined by a space.
    pub text: String,
}

impl RemoteReply {
    /// True for 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }
    /// True for 4xx.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }
    /// True for 5xx.
    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }
}

/// As it came: `550 5.1.1 text`.
impl fmt::Display for RemoteReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(status) = self.status {
            write!(f, " {status}")?;
        }
        if !self.text.is_empty() {
            write!(f, " {}", self.text)?;
        }
        Ok(())
    }
}

/// What came of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientResult {
    /// The peer took responsibility, with this reply after the dot (LMTP: with the one for this recipient).
    Delivered(RemoteReply),
    /// The peer refused, with this 4xx or 5xx reply to the command of the phase.
    Refused {
        /// What was refused: MAIL, RCPT, DATA or the dot (or RSET before it).
        phase: Phase,
        /// The reply.
        reply: RemoteReply,
    },
    /// The connection broke before the dot was sent: nothing was delivered.
    Broken {
        /// When.
        phase: Phase,
        /// Why.
        cause: Cause,
    },
    /// The connection broke after the dot and before its reply: it may have been delivered.
    CutAfterDot {
        /// Why.
        cause: Cause,
    },
    /// Not tried: the peer's extensions do not carry it (SMTPUTF8: 5.6.7; over its SIZE: 5.3.4; see
    /// [`PeerExtensions::objection`](crate::smtp::extension::PeerExtensions::objection)). Permanent.
    Unsupported {
        /// The enhanced status code.
        status: EnhancedStatus,
        /// What is missing, for an operator and a DSN.
        text: &'static str,
    },
}

/// Why a session did not come to the point where mail can be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer refused us.
    #[error("refused: {reply}")]
    Refused {
        /// Banner, hello or STARTTLS.
        phase: Phase,
        /// The reply.
        reply: RemoteReply,
    },
    /// The connection broke.
    #[error("broken in phase {phase:?}: {cause:?}")]
    Broken {
        /// Banner, hello, STARTTLS or AUTH.
        phase: Phase,
        /// Why.
        cause: Cause,
    },
    /// TLS is required, and the peer does not offer STARTTLS.
    #[error("STARTTLS is not offered")]
    NoStartTls,
    /// There was no agreement on TLS, or the peer's certificate is not good.
    #[error("the TLS handshake failed: {0}")]
    Handshake(TlsFault),
    /// We could not log in.
    #[error("no login by {mechanism}: {why}")]
    Login {
        /// By this mechanism.
        mechanism: Mechanism,
        /// Why.
        why: LoginError,
    },
}

/// What is wrong with a peer's TLS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct TlsFault {
    /// Of what sort it is.
    pub kind: TlsFaultKind,
    /// In words.
    pub words: String,
}

/// The sorts of it that a report tells apart (RFC 8460, 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsFaultKind {
    /// The certificate is for another host.
    HostMismatch,
    /// It is not valid any more, or not yet.
    Expired,
    /// Nobody who is trusted vouches for it; with DANE, no TLSA record fits.
    NotTrusted,
    /// Anything else: no common version, no TLS at all, a connection that was cut.
    Other,
}

impl From<String> for TlsFault {
    fn from(words: String) -> Self {
        TlsFault { kind: TlsFaultKind::Other, words }
    }
}

impl From<&str> for TlsFault {
    fn from(words: &str) -> Self {
        words.to_owned().into()
    }
}

/// Why we could not log in. Never holds what we logged in with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The session is not encrypted, and nobody said that this is no matter.
    #[error("the session is not encrypted")]
    InClear,
    /// The peer does not offer the mechanism.
    #[error("the mechanism is not offered")]
    NotOffered,
    /// The peer refused.
    #[error("{0}")]
    Refused(RemoteReply),
    /// The peer refused our token, and said why in a challenge before it did.
    #[error("{reply} ({why})")]
    TokenRefused {
        /// The reply that ended it.
        reply: RemoteReply,
        /// Why; may be empty.
        why: String,
    },
    /// The exchange was given up.
    #[error("{0}")]
    Fault(#[from] Fault),
}

impl LoginError {
    /// Whether it is what we showed that was refused, and not just for now: another token may do.
    pub fn is_about_credentials(&self) -> bool {
        match self {
            LoginError::Refused(reply) => reply.is_permanent(),
            LoginError::TokenRefused { .. } => true,
            LoginError::InClear | LoginError::NotOffered | LoginError::Fault(_) => false,
        }
    }
}
