//! The verbs of the protocol, how long a line with each may be, and which of them a session knows.
//!
//! Lengths are those of RFC 5321, 4.5.3.1, plus what the extensions that are on add. What is off is unknown.

use super::address::Domain;
use super::extension::Extensions;

/// The verb of a command, for sequence and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// No command: the connection was made; the reply is the greeting.
    Connect,
    /// HELO.
    Helo,
    /// EHLO.
    Ehlo,
    /// LHLO, the EHLO of LMTP (RFC 2033).
    Lhlo,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH, and the lines of an exchange that it began (RFC 4954).
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA; the reply is the 354 or a refusal.
    Data,
    /// BDAT; the reply is that to the chunk, but to the last chunk it is that of `Content` (RFC 3030).
    Bdat,
    /// The end of the content; the reply is that after the dot.
    Content,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
    /// VRFY.
    Vrfy,
    /// EXPN.
    Expn,
    /// HELP.
    Help,
    /// ETRN (RFC 1985).
    Etrn,
    /// ATRN (RFC 2645).
    Atrn,
    /// Anything else, and what is no command at all; also a 421 that answers no command.
    Other,
}

impl Verb {
    /// The word on the wire; `-` where there is none.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Helo => "HELO",
            Verb::Ehlo => "EHLO",
            Verb::Lhlo => "LHLO",
            Verb::StartTls => "STARTTLS",
            Verb::Auth => "AUTH",
            Verb::Mail => "MAIL",
            Verb::Rcpt => "RCPT",
            Verb::Data => "DATA",
            Verb::Bdat => "BDAT",
            Verb::Rset => "RSET",
            Verb::Noop => "NOOP",
            Verb::Quit => "QUIT",
            Verb::Vrfy => "VRFY",
            Verb::Expn => "EXPN",
            Verb::Help => "HELP",
            Verb::Etrn => "ETRN",
            Verb::Atrn => "ATRN",
            Verb::Connect | Verb::Content | Verb::Other => "-",
        }
    }

    pub(super) const COMMANDS: [Verb; 17] = [
        Verb::Mail,
        Verb::Rcpt,
        Verb::Data,
        Verb::Bdat,
        Verb::Ehlo,
        Verb::Helo,
        Verb::Lhlo,
        Verb::StartTls,
        Verb::Auth,
        Verb::Etrn,
        Verb::Atrn,
        Verb::Rset,
        Verb::Quit,
        Verb::Noop,
        Verb::Vrfy,
        Verb::Expn,
        Verb::Help,
    ];

    /// Longest line with this verb, in octets with CRLF.
    pub(super) fn max_line(self, extensions: &Extensions) -> usize {
        let when = |on: bool, octets: usize| if on { octets } else { 0 };
        let added = match self {
            // RFC 1870: 26, RFC 6152: 17, RFC 6531: 10, RFC 3461: ` RET=HDRS ENVID=` and 100, RFC 4865: 34, RFC 2852: 17,
            // RFC 6710: 15, RFC 8689: 11
            Verb::Mail => {
                when(extensions.size, 26)
                    + when(extensions.eight_bit_mime, 17)
                    + when(extensions.smtputf8, 10)
                    + when(extensions.dsn, 116)
                    + when(extensions.future_release, 34)
                    + when(extensions.deliver_by, 17)
                    + when(extensions.mt_priority, 15)
                    + when(extensions.require_tls, 11)
            }
            // RFC 3461: ` NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=` and 500
            Verb::Rcpt => when(extensions.dsn, 536),
            // RFC 4954, 4: an initial response is as long as a mechanism needs
            Verb::Auth => MAX_AUTH_LINE - MAX_COMMAND_LINE,
            _ => 0,
        };
        MAX_COMMAND_LINE + added
    }
}

/// Longest command line without extensions, in octets with CRLF (RFC 5321, 4.5.3.1.4).
pub const MAX_COMMAND_LINE: usize = 512;

/// Longest line of an AUTH exchange, in octets with CRLF (RFC 4954, 4).
pub const MAX_AUTH_LINE: usize = 12_288;

/// Longest line that any command may have under this grammar, in octets with CRLF.
pub fn max_line(grammar: &Grammar<'_>) -> usize {
    let extensions = grammar.extensions;
    let plain = Verb::Mail.max_line(extensions).max(Verb::Rcpt.max_line(extensions));
    if grammar.auth { plain.max(MAX_AUTH_LINE) } else { plain }
}

/// What the parser knows: commands and parameters of an extension that is off are unknown.
#[derive(Debug, Clone, Copy)]
pub struct Grammar<'a> {
    /// The EHLO keywords on offer.
    pub extensions: &'a Extensions,
    /// LMTP: LHLO instead of HELO and EHLO (RFC 2033, 4.1).
    pub lmtp: bool,
    /// There is STARTTLS.
    pub start_tls: bool,
    /// There is AUTH.
    pub auth: bool,
    /// The open transaction began with SMTPUTF8, so RCPT may go beyond ASCII.
    pub smtputf8: bool,
    /// Completes addresses without a domain; without it they are refused.
    pub completion: Option<&'a Domain>,
}

impl<'a> Grammar<'a> {
    /// SMTP with these extensions and nothing else.
    pub fn new(extensions: &'a Extensions) -> Self {
        Grammar { extensions, lmtp: false, start_tls: false, auth: false, smtputf8: false, completion: None }
    }

    pub(super) fn knows(&self, verb: Verb) -> bool {
        match verb {
            Verb::Helo | Verb::Ehlo => !self.lmtp,
            Verb::Lhlo => self.lmtp,
            Verb::StartTls => self.start_tls,
            Verb::Auth => self.auth,
            Verb::Bdat => self.extensions.chunking,
            Verb::Etrn => self.extensions.etrn,
            Verb::Atrn => self.extensions.atrn,
            _ => true,
        }
    }
}
