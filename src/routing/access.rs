//! What a connector needs to be let in by its next hops, read from where its spec says that it is.

use std::sync::Arc;

use crate::net::oauth::TokenRequest;
use crate::net::tls::client::ClientTls;
use crate::smtp::sasl::client::{Credentials, Mechanism};

/// What a connector encrypts and logs in with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Whom it trusts, and what it shows of itself; `None`: that cannot be had.
    pub tls: Option<Arc<ClientTls>>,
    /// What it logs in with; `None`: that cannot be had, or it does not log in.
    pub login: Option<Login>,
    /// Why what the spec says now is not in force.
    pub fault: Option<AccessFault>,
}

/// The system's roots, no login.
impl Default for Access {
    fn default() -> Self {
        Access { tls: Some(Arc::default()), login: None, fault: None }
    }
}

/// What a connector logs in with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// This, always.
    Password(Credentials),
    /// A token, which has to be asked for.
    Token(TokenLogin),
}

/// How to log in with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenLogin {
    /// By which mechanism.
    pub mechanism: Mechanism,
    /// As whom.
    pub username: String,
    /// How to get one.
    pub request: Arc<TokenRequest>,
}

/// Why what a spec names cannot be used now. Never holds any of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessFault {
    /// Where in the object, from its root.
    pub pointer: &'static str,
    /// What kind of fault.
    pub kind: AccessFaultKind,
    /// For people.
    pub message: String,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFaultKind {
    /// A secret or a text cannot be read from where it is said to be.
    Unreadable,
    /// A certificate cannot be used.
    Certificate,
    /// A text cannot be a password.
    Password,
}

impl AccessFaultKind {
    /// For programs: the reason of a condition.
    pub fn reason(self) -> &'static str {
        match self {
            AccessFaultKind::Unreadable => "unreadable",
            AccessFaultKind::Certificate => "invalidCertificate",
            AccessFaultKind::Password => "invalidPassword",
        }
    }
}
