//! What a client session is told when it opens, with the table of its deadlines (RFC 5321, 4.5.3.2).

use std::time::Duration;

use super::result::Phase;
use crate::smtp::sasl::client::Credentials;

/// The settings of a client session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Our name in EHLO and HELO.
    pub fqdn: String,
    /// How the session opens.
    pub hello: Hello,
    /// Use PIPELINING when it is offered.
    pub pipelining: bool,
    /// Let the next envelope follow the dot (RFC 2920, 3.1), where PIPELINING is used.
    pub pipeline_transactions: bool,
    /// Whether the session is encrypted, and from when on.
    pub encryption: Encryption,
    /// A handshake succeeds only when the peer's certificate is good for its name. Without that, and in clear, REQUIRETLS
    /// counts as not offered, whatever the peer says (RFC 8689, 4.2.1).
    pub verified_tls: bool,
    /// Log in before any mail is sent; when that fails, the session is not opened.
    pub login: Option<Login>,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Ask whether recipients are accepted, and send no content: a recipient that is accepted counts as delivered.
    pub envelope_only: bool,
}

impl Settings {
    /// The defaults under this name.
    pub fn new(fqdn: impl Into<String>) -> Self {
        Settings {
            fqdn: fqdn.into(),
            hello: Hello::Ehlo,
            pipelining: true,
            pipeline_transactions: true,
            encryption: Encryption::None,
            verified_tls: false,
            login: None,
            timeouts: Timeouts::default(),
            envelope_only: false,
        }
    }
}

/// Whether a session is encrypted, and from when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encryption {
    /// Never: STARTTLS is not used.
    #[default]
    None,
    /// By STARTTLS if it is offered (RFC 3207). A handshake that fails ends the session all the same.
    Opportunistic,
    /// By STARTTLS, or the session is not opened.
    Required,
    /// From the first octet (RFC 8314).
    Implicit,
}

/// How to log in (RFC 4954).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// With what.
    pub credentials: Credentials,
    /// Printable ASCII without commas, new for each session.
    pub nonce: String,
    /// Log in also where the session is not encrypted. Else it is then not opened.
    pub in_clear: bool,
}

/// How a session opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hello {
    /// EHLO, and HELO when the peer answers that with 5xx (RFC 5321, 3.2).
    #[default]
    Ehlo,
    /// HELO only: no extension is used.
    Helo,
    /// LHLO, and a reply per recipient behind the dot (LMTP, RFC 2033).
    Lhlo,
}

/// One deadline per phase: from the last reply (or the end of our writing) to the next complete reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// The 220 greeting.
    pub banner: Duration,
    /// The response to EHLO or HELO; also to STARTTLS and AUTH.
    pub hello: Duration,
    /// The reply to MAIL, and to RSET.
    pub mail: Duration,
    /// The reply to each RCPT.
    pub rcpt: Duration,
    /// The 354.
    pub data: Duration,
    /// The writing of one block.
    pub block: Duration,
    /// The reply after the dot.
    pub dot: Duration,
    /// The reply to QUIT.
    pub quit: Duration,
}

impl Default for Timeouts {
    /// The values of RFC 5321, 4.5.3.2; 5 seconds for QUIT, on which nothing depends.
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Timeouts {
            banner: minutes(5),
            hello: minutes(5),
            mail: minutes(5),
            rcpt: minutes(5),
            data: minutes(2),
            block: minutes(3),
            dot: minutes(10),
            quit: Duration::from_secs(5),
        }
    }
}

impl Timeouts {
    /// The same time-out for every phase; QUIT never waits longer than by default.
    pub fn all(timeout: Duration) -> Self {
        Timeouts {
            banner: timeout,
            hello: timeout,
            mail: timeout,
            rcpt: timeout,
            data: timeout,
            block: timeout,
            dot: timeout,
            quit: timeout.min(Timeouts::default().quit),
        }
    }

    /// No phase longer than `limit`.
    #[must_use]
    pub fn at_most(self, limit: Duration) -> Self {
        Timeouts {
            banner: self.banner.min(limit),
            hello: self.hello.min(limit),
            mail: self.mail.min(limit),
            rcpt: self.rcpt.min(limit),
            data: self.data.min(limit),
            block: self.block.min(limit),
            dot: self.dot.min(limit),
            quit: self.quit.min(limit),
        }
    }

    /// The time for a phase.
    pub fn of(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Banner => self.banner,
            Phase::Hello | Phase::StartTls | Phase::Auth => self.hello,
            Phase::Mail | Phase::Reset => self.mail,
            Phase::Rcpt => self.rcpt,
            Phase::Data => self.data,
            Phase::Content => self.block,
            Phase::Dot | Phase::Delivery => self.dot,
            Phase::Quit => self.quit,
        }
    }
}
