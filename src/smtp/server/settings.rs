//! What a server session is told when it opens: names, limits, time-outs. Nothing here changes while it lives.

use std::time::{Duration, Instant};

use crate::smtp::data::BareLineEnds;
use crate::smtp::extension::{Extensions, MaxHold};
use crate::smtp::sasl::Mechanism;

/// The settings of a server session. One value serves all sessions of a virtual server, behind an `Arc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Our name in the greeting and in the response to HELO and EHLO: a domain or an address literal.
    pub fqdn: String,
    /// SMTP, or LMTP with its LHLO and a reply for each recipient (RFC 2033).
    pub lmtp: bool,
    /// Whether there is STARTTLS.
    pub start_tls: bool,
    /// Whether nothing goes but in TLS: 530 5.7.0 in clear (RFC 3207, 4).
    pub require_tls: bool,
    /// AUTH.
    pub auth: Auth,
    /// The text of the greeting behind the name, one line; `ESMTP` should be its first word.
    pub greeting: String,
    /// The EHLO keywords on offer.
    pub extensions: Extensions,
    /// Largest message, in octets as they are stored (after dot-unstuffing). `None`: no limit.
    pub max_size: Option<u64>,
    /// Octets of content on one connection; at the next MAIL it is closed with 421. `None`: no limit.
    pub max_session_size: Option<u64>,
    /// Recipients of one transaction; more are answered 452 4.5.3 (RFC 5321, 4.5.3.1.10).
    pub max_recipients: usize,
    /// Longest line of content, in octets with its CRLF (RFC 5321, 4.5.3.1.6). 0: no limit.
    pub max_text_line: usize,
    /// What to do with a CR or LF of the content that stands alone.
    pub bare_line_ends: BareLineEnds,
    /// Transactions of one connection; at the next MAIL it is closed with 421. `None`: no limit.
    pub max_transactions: Option<u32>,
    /// Refused commands (5xx) since the last accepted message at which the session is closed, 421 4.7.0.
    pub max_errors: u32,
    /// Refused commands from which on each further refusal is held back for `error_delay`.
    pub soft_errors: u32,
    /// How long a refusal is held back once `soft_errors` is passed.
    pub error_delay: Duration,
    /// How long a message may be held, as EHLO tells it (RFC 4865). `None`: FUTURERELEASE is not listed. Whether a hold is
    /// too long is for policy to say, which has a clock.
    pub future_release: Option<MaxHold>,
    /// Commands that move no mail (NOOP, RSET, VRFY, EHLO …) since the last accepted message at which the
    /// session is closed, 421 4.7.0.
    pub max_idle_commands: u32,
    /// Close (554) when a client talks before the greeting (RFC 5321, 4.3.1).
    pub refuse_early_talkers: bool,
    /// How long the greeting is held back to catch early talkers. Zero: one look at what is there.
    pub greeting_delay: Duration,
    /// Time-outs.
    pub timeouts: Timeouts,
}

impl Settings {
    /// The defaults under this name.
    pub fn new(fqdn: impl Into<String>) -> Self {
        Settings {
            fqdn: fqdn.into(),
            lmtp: false,
            start_tls: false,
            require_tls: false,
            auth: Auth::default(),
            greeting: "ESMTP Bridgehead".to_owned(),
            extensions: Extensions::default(),
            max_size: Some(25 << 20),
            max_session_size: None,
            max_recipients: 1000,
            max_text_line: 1000,
            bare_line_ends: BareLineEnds::Refuse,
            max_transactions: None,
            max_errors: 20,
            soft_errors: 10,
            error_delay: Duration::from_secs(1),
            future_release: None,
            max_idle_commands: 100,
            refuse_early_talkers: true,
            greeting_delay: Duration::ZERO,
            timeouts: Timeouts::default(),
        }
    }
}

/// AUTH (RFC 4954).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The mechanisms on offer; none: there is no AUTH.
    pub mechanisms: Vec<Mechanism>,
    /// Those that show a password or token only in TLS: not offered in clear, and refused there with 538.
    pub require_tls: bool,
    /// Nobody sends without it: 530 5.7.0 to MAIL.
    pub required: bool,
    /// Refused attempts at which the session is closed, 421 4.7.0.
    pub max_failures: u32,
}

impl Default for Auth {
    fn default() -> Self {
        Auth { mechanisms: Vec::new(), require_tls: true, required: false, max_failures: 3 }
    }
}

impl Auth {
    /// What the response to EHLO lists.
    pub fn offered(&self, tls: bool) -> impl Iterator<Item = &'static str> {
        self.mechanisms
            .iter()
            .filter(move |mechanism| self.allows(**mechanism, tls))
            .map(|mechanism| mechanism.keyword())
    }

    /// Whether a mechanism on offer may be used: what binds to a TLS channel needs one.
    pub fn allows(&self, mechanism: Mechanism, tls: bool) -> bool {
        tls || mechanism != Mechanism::ScramSha256Plus && !(self.require_tls && mechanism.is_plaintext())
    }
}

/// Time-outs of the server (RFC 5321, 4.5.3.2.7 asks for at least 5 minutes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From our last reply until the next command begins.
    pub idle: Duration,
    /// From the first octet of a command until it is complete; single octets do not extend it. A response to a challenge
    /// has so long from the challenge on.
    pub command: Duration,
    /// Between two pieces of content.
    pub data_block: Duration,
    /// For the content as a whole, apart from what `data_least_rate` grants.
    pub data_base: Duration,
    /// Each so many octets of content extend the time for the whole by a second. 0: no limit for the whole.
    pub data_least_rate: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            idle: Duration::from_secs(600),
            command: Duration::from_secs(300),
            data_block: Duration::from_secs(180),
            data_base: Duration::from_secs(300),
            data_least_rate: 256,
        }
    }
}

impl Timeouts {
    /// When all of a content that began then must have come, so many octets of it being there; `None`: no limit.
    pub(super) fn whole(&self, began: Instant, octets: u64) -> Option<Instant> {
        let granted = octets.checked_div(self.data_least_rate)?;
        Some(began + self.data_base + Duration::from_secs(granted.min(1 << 31)))
    }
}
