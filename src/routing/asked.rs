//! What the owner of a host asks of those who send there, so far as it is known securely: TLSA records that DNSSEC vouches for
//! (RFC 7672), an MTA-STS policy that was got over HTTPS (RFC 8461). Looked up by `outbound`, weighed by
//! [`security::in_force`](super::security::in_force), told by `explain`.

use std::sync::Arc;

use crate::net::mta_sts::{Mode, NotHad, Policy};
use crate::net::tls::dane::Dane;

/// What is known of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// Its TLSA records.
    pub dane: Tlsa,
    /// What its domain's MTA-STS policy says of it; `None` without a policy, and where it was not looked for.
    pub sts: Option<Sts>,
    /// That policy.
    pub sts_policy: Option<Arc<Policy>>,
    /// Why there is none, though its domain says that it has one.
    pub sts_fault: Option<NotHad>,
    /// Whether DNSSEC vouches for the MX records that name it.
    pub named_securely: bool,
}

/// TLSA records of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tlsa {
    /// There are none, or nobody vouches for its address, or nobody asked.
    #[default]
    None,
    /// Some that can be used.
    Usable(Arc<Dane>),
    /// Some, but none that can be used.
    Unusable,
    /// It cannot be known now.
    TryLater(String),
}

/// What a policy says of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sts {
    /// Whether it is to be kept.
    pub mode: Mode,
    /// Whether the host is one of those that it names.
    pub names_host: bool,
}
