//! What a failure means. The only place where replies, cut connections and DNS answers become a [`Failure`].
//!
//! A failure has a **scope**, which says what waits (one recipient, the message, everything for that host), and a
//! **status** whose class says whether trying again can help. RFC 5321, 4.2.1 (the first digit decides), RFC 3463 (codes).
//!
//! | what happened | scope | class |
//! |---|---|---|
//! | 4xx, 5xx to RCPT | recipient | by the first digit |
//! | 4xx, 5xx to MAIL, DATA, or after the dot | message | by the first digit |
//! | 4xx, 5xx after the dot for one recipient (LMTP) | recipient | by the first digit |
//! | 421 to any command of a transaction | host | transient |
//! | anything but 250 to RSET | session | transient |
//! | cut, silence or garbage in a transaction | session | transient |
//! | cut after the dot before the reply | session | transient, may become a duplicate |
//! | no connection, bad banner, bad EHLO (also 5xx: the next host may do better) | host | transient |
//! | TLS is required and not offered, or STARTTLS is refused (also 5xx) | host | transient |
//! | a TLS handshake that fails, a certificate that is not good | host | transient |
//! | we cannot log in: refused (also 5xx), not offered, not proven, in clear | host | transient: the operator mends it |
//! | there is no token to log in with, whatever the token endpoint says | host | transient: the operator mends it, or time |
//! | a secret or certificate that a session needs cannot be read | host | transient: the operator mends it |
//! | a webhook answers 4xx, but 408, 425, 429 | message | permanent |
//! | a webhook answers 408, 425, 5xx but 502, 503, 504 | message | transient |
//! | a webhook answers 429, 502, 503, 504, a redirect | host | transient |
//! | no such domain, null MX, a loop to ourselves, only addresses that are off limits | host | permanent |
//! | no answer from DNS | host | transient |

use std::fmt;

use serde::{Deserialize, Serialize};

use super::token_fault::TokenFault;
use crate::smtp::client::{Cause, LoginError, OpenError, Phase, RecipientResult, RemoteReply};
use crate::smtp::reply::{EnhancedStatus, StatusClass};

/// Longest diagnostic that is kept, in octets.
pub const MAX_DIAGNOSTIC: usize = 1024;

/// Whom a failure concerns: it decides what is tried again and what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// This connection; another one may do.
    Session,
    /// The next hop: everything for it waits.
    Host,
    /// This message, for all recipients of the attempt.
    Message,
    /// One recipient.
    Recipient,
}

/// A failure of an attempt, for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Whom it concerns.
    pub scope: Scope,
    /// What it means; its class says whether trying again can help.
    pub status: EnhancedStatus,
    /// The SMTP reply or our own words, cleaned, at most 1 KiB.
    pub diagnostic: String,
    /// The reply code when the words are a remote server's.
    pub remote_code: Option<u16>,
    /// The next hop that said it, or did not.
    pub remote_mta: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mta) = &self.remote_mta {
            write!(f, "{mta}: ")?;
        }
        f.write_str(&self.diagnostic)?;
        if self.remote_code.is_none() {
            write!(f, " ({})", self.status)?;
        }
        Ok(())
    }
}

impl Failure {
    /// In our own words.
    pub fn new(scope: Scope, status: EnhancedStatus, diagnostic: impl Into<String>) -> Self {
        let mut diagnostic = diagnostic.into();
        if diagnostic.len() > MAX_DIAGNOSTIC {
            let end = (0..=MAX_DIAGNOSTIC).rev().find(|at| diagnostic.is_char_boundary(*at)).unwrap_or(0);
            diagnostic.truncate(end);
        }
        Failure { scope, status, diagnostic, remote_code: None, remote_mta: None }
    }

    /// The same, with the next hop it came from.
    #[must_use]
    pub fn by(mut self, remote_mta: &str) -> Self {
        self.remote_mta = Some(remote_mta.to_owned());
        self
    }

    /// True when trying again makes no sense.
    pub fn is_permanent(&self) -> bool {
        self.status.class == StatusClass::Permanent
    }

    /// What a recipient's result means; `None` when the next hop took it.
    pub fn of_result(result: &RecipientResult, remote_mta: &str) -> Option<Failure> {
        let failure = match result {
            RecipientResult::Delivered(_) => return None,
            RecipientResult::Refused { phase, reply } if reply.code == 421 => of_reply(Scope::Host, *phase, reply),
            RecipientResult::Refused { phase: Phase::Reset, reply } => {
                Failure::new(Scope::Session, EnhancedStatus::transient(4, 2), format!("RSET was answered {reply}"))
            }
            RecipientResult::Refused { phase: phase @ (Phase::Rcpt | Phase::Delivery), reply } => {
                of_reply(Scope::Recipient, *phase, reply)
            }
            RecipientResult::Refused { phase, reply } => of_reply(Scope::Message, *phase, reply),
            RecipientResult::Broken { cause: Cause::ContentUnavailable, .. } => Failure::new(
                Scope::Message,
                EnhancedStatus::transient(3, 0),
                "the content of the message could not be read from the store",
            ),
            RecipientResult::Broken { phase, cause: Cause::Closing } => Failure::new(
                Scope::Host,
                EnhancedStatus::transient(3, 2),
                format!("the server closed the session {}", during(*phase)),
            ),
            RecipientResult::Broken { phase, cause } => broken(Scope::Session, *phase, *cause),
            RecipientResult::CutAfterDot { cause } => Failure::new(
                Scope::Session,
                EnhancedStatus::transient(4, 2),
                format!("{} after the end of data; the message may arrive twice", what(*cause)),
            ),
            RecipientResult::Unsupported { status, text } => Failure::new(Scope::Message, *status, *text),
        };
        Some(failure.by(remote_mta))
    }

    /// What it means that a session could not be opened, which `whose` (`connector hub`) wanted. Another host of the next hop may
    /// do. Never permanent: what is wrong with TLS or a login, an operator mends, here or there.
    pub fn of_open(error: &OpenError, remote_mta: &str, whose: &str) -> Failure {
        let own = |detail, words: String| Failure::new(Scope::Host, EnhancedStatus::transient(7, detail), words);
        match error {
            OpenError::Refused { phase, reply } => refused_for_now(*phase, reply),
            OpenError::Broken { phase, cause } => broken(Scope::Host, *phase, *cause),
            OpenError::NoStartTls => own(4, format!("{whose} requires TLS, and the server does not offer STARTTLS")),
            OpenError::Handshake(fault) => {
                own(5, format!("no TLS session could be made for {whose}: {}", clean(&fault.words)))
            }
            OpenError::Login { mechanism, why } => {
                let login = format!("{whose} cannot log in by {mechanism}");
                match why {
                    LoginError::InClear => own(11, format!("{login}: the session is not encrypted")),
                    LoginError::NotOffered => own(4, format!("{login}: the server does not offer it")),
                    LoginError::Fault(fault) => own(8, format!("{login}: {fault}")),
                    LoginError::Refused(reply) => Failure {
                        status: refused_for_now(Phase::Auth, reply).status,
                        ..own(8, format!("{login}: the server refused with {reply}"))
                    },
                    LoginError::TokenRefused { reply, why } => Failure {
                        status: refused_for_now(Phase::Auth, reply).status,
                        ..own(8, format!("{login}: the server refused the token with {reply} ({why})"))
                    },
                }
            }
        }
        .by(remote_mta)
    }

    /// What a session needs cannot be read: a secret, a certificate. Nothing was tried.
    pub fn of_setup(why: &str, whose: &str) -> Failure {
        let words = format!("{whose} cannot be used as it is set up: {why}");
        Failure::new(Scope::Host, EnhancedStatus::transient(3, 5), words)
    }

    /// There is no token for `whose` (`connector hub`) to log in with. No host was asked.
    pub fn of_token(fault: &TokenFault, whose: &str) -> Failure {
        // 4.7.8: what we log in with is not good; 4.7.0: for another reason there is none for now (RFC 4954, 6)
        let detail = if fault.is_refusal() { 8 } else { 0 };
        let words = format!("{whose} has no token to log in with: {fault}");
        Failure::new(Scope::Host, EnhancedStatus::transient(7, detail), words)
    }

    /// What the answer of a webhook means, with the words in it; `None` when it took the message.
    pub fn of_http(code: u16, words: &str) -> Option<Failure> {
        let (scope, status) = match code {
            200..=299 => return None,
            408 | 425 => (Scope::Message, EnhancedStatus::transient(4, 2)),
            429 | 502..=504 => (Scope::Host, EnhancedStatus::transient(3, 2)),
            401 | 403 => (Scope::Message, EnhancedStatus::permanent(7, 1)),
            404 | 410 => (Scope::Message, EnhancedStatus::permanent(2, 1)),
            413 => (Scope::Message, EnhancedStatus::permanent(3, 4)),
            400..=499 => (Scope::Message, EnhancedStatus::permanent(6, 0)),
            500..=599 => (Scope::Message, EnhancedStatus::transient(3, 0)),
            // a redirect, which is not followed, or no answer at all: somebody set it up wrongly
            _ => (Scope::Host, EnhancedStatus::transient(3, 5)),
        };
        let separator = if words.is_empty() { "" } else { ": " };
        Some(Failure::new(scope, status, format!("the webhook answered {code}{separator}{words}")))
    }

    /// No connection could be made.
    pub fn of_connect(error: &std::io::Error, remote_mta: &str) -> Failure {
        Failure::new(Scope::Host, EnhancedStatus::transient(4, 1), format!("no connection: {error}")).by(remote_mta)
    }

    /// What DNS said about a next hop.
    pub fn of_name(fault: &NameFault, name: &str) -> Failure {
        let (status, words) = match fault {
            NameFault::NoSuchDomain => (EnhancedStatus::permanent(1, 2), format!("the domain {name} does not exist")),
            NameFault::NoAddress => {
                (EnhancedStatus::permanent(4, 4), format!("{name} has neither a mail exchanger nor an address"))
            }
            NameFault::NullMx => (EnhancedStatus::permanent(1, 10), format!("{name} takes no mail (null MX)")),
            NameFault::Loop => {
                (EnhancedStatus::permanent(4, 6), format!("mail for {name} would come back to this server"))
            }
            NameFault::OffLimits => (EnhancedStatus::permanent(4, 4), format!("{name}: {OFF_LIMITS}")),
            NameFault::TryLater(why) => {
                (EnhancedStatus::transient(4, 3), format!("{name} could not be looked up: {why}"))
            }
        };
        Failure::new(Scope::Host, status, words)
    }
}

/// What DNS can say that is not an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameFault {
    /// NXDOMAIN.
    NoSuchDomain,
    /// The name exists, but nothing takes mail for it.
    NoAddress,
    /// RFC 7505.
    NullMx,
    /// The best exchanger is this server.
    Loop,
    /// All its addresses are ones that nothing is sent to: link-local, or where clouds keep their metadata.
    OffLimits,
    /// SERVFAIL, time-out, lame delegation.
    TryLater(String),
}

/// See [`NameFault::OffLimits`].
pub const OFF_LIMITS: &str =
    "its only addresses are link-local or those of a cloud's metadata service, and no mail is sent there";

fn of_reply(scope: Scope, phase: Phase, reply: &RemoteReply) -> Failure {
    let class = if reply.is_permanent() { StatusClass::Permanent } else { StatusClass::PersistentTransient };
    // the code decides; an enhanced status of another class contradicts it and is not believed
    let status = reply.status.filter(|status| status.class == class).unwrap_or(default_status(class, phase));
    Failure { remote_code: Some(reply.code), ..Failure::new(scope, status, reply.to_string()) }
}

/// A host that refuses us now may not tomorrow, and another one may not at all.
fn refused_for_now(phase: Phase, reply: &RemoteReply) -> Failure {
    let refused = of_reply(Scope::Host, phase, reply);
    let status = EnhancedStatus { class: StatusClass::PersistentTransient, ..refused.status };
    Failure { status, ..refused }
}

/// Words of a library about what a peer sent.
fn clean(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn default_status(class: StatusClass, phase: Phase) -> EnhancedStatus {
    let (subject, detail) = match phase {
        Phase::Rcpt => (1, 0),
        Phase::Banner | Phase::Hello => (3, 2),
        Phase::StartTls => (7, 4),
        Phase::Auth => (7, 8),
        Phase::Data | Phase::Content | Phase::Dot => (6, 0),
        Phase::Delivery => (2, 0),
        Phase::Mail | Phase::Reset | Phase::Quit => (0, 0),
    };
    EnhancedStatus { class, subject, detail }
}

fn broken(scope: Scope, phase: Phase, cause: Cause) -> Failure {
    let detail = match cause {
        Cause::Garbage => EnhancedStatus::transient(5, 0),
        Cause::TimedOut | Cause::Cut | Cause::Closing | Cause::ContentUnavailable => EnhancedStatus::transient(4, 2),
    };
    Failure::new(scope, detail, format!("{} {}", what(cause), during(phase)))
}

fn what(cause: Cause) -> &'static str {
    match cause {
        Cause::Cut => "the connection was cut",
        Cause::TimedOut => "the server did not answer in time",
        Cause::Garbage => "the server answered with something that is not SMTP",
        Cause::Closing => "the server closed the session",
        Cause::ContentUnavailable => "the content could not be read",
    }
}

fn during(phase: Phase) -> &'static str {
    match phase {
        Phase::Banner => "before its greeting",
        Phase::Hello => "at EHLO",
        Phase::StartTls => "at STARTTLS",
        Phase::Auth => "at AUTH",
        Phase::Reset => "at RSET",
        Phase::Mail => "at MAIL",
        Phase::Rcpt => "at RCPT",
        Phase::Data => "at DATA",
        Phase::Content => "while it was sent the content",
        Phase::Dot | Phase::Delivery => "at the end of data",
        Phase::Quit => "at QUIT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::sasl::client::{Fault, Mechanism};

    fn reply(code: u16, status: Option<&str>) -> RemoteReply {
        RemoteReply { code, status: status.map(|s| s.parse().unwrap()), text: "words".into() }
    }

    #[test]
    fn the_first_digit_decides_and_a_contradicting_status_is_not_believed() {
        let refused = |code, status| {
            let result = RecipientResult::Refused { phase: Phase::Rcpt, reply: reply(code, status) };
            Failure::of_result(&result, "mx").unwrap()
        };
        assert_eq!(refused(550, Some("5.1.1")).status.to_string(), "5.1.1");
        assert_eq!(refused(450, Some("5.1.1")).status.to_string(), "4.1.0");
        assert!(refused(550, None).is_permanent());
        assert!(!refused(450, None).is_permanent());
    }

    #[test]
    fn a_refused_session_is_no_reason_to_bounce() {
        let error = OpenError::Refused { phase: Phase::Banner, reply: reply(554, Some("5.7.1")) };
        let failure = Failure::of_open(&error, "mx", "connector hub");
        assert!(!failure.is_permanent());
        assert_eq!((failure.scope, failure.remote_code), (Scope::Host, Some(554)));
    }

    #[test]
    fn what_is_wrong_with_tls_or_a_login_waits_for_an_operator() {
        let login = |why| OpenError::Login { mechanism: Mechanism::Plain, why };
        let refused = |code, status| login(LoginError::Refused(reply(code, status)));
        let at_tls = |code, status| OpenError::Refused { phase: Phase::StartTls, reply: reply(code, status) };
        for (error, status, words) in [
            (OpenError::NoStartTls, "4.7.4", "connector hub requires TLS"),
            (OpenError::Handshake("a\r\nb".into()), "4.7.5", "for connector hub: a  b"),
            (at_tls(554, None), "4.7.4", "554 words"),
            (at_tls(454, Some("4.7.0")), "4.7.0", "454 4.7.0 words"),
            (OpenError::Broken { phase: Phase::Auth, cause: Cause::Cut }, "4.4.2", "at AUTH"),
            (refused(535, Some("5.7.8")), "4.7.8", "connector hub cannot log in by PLAIN: the server refused with 535"),
            (refused(535, None), "4.7.8", "connector hub"),
            (refused(454, Some("4.7.0")), "4.7.0", "454"),
            (
                login(LoginError::TokenRefused { reply: reply(535, Some("5.7.3")), why: "status 401".into() }),
                "4.7.3",
                "refused the token with 535 5.7.3 words (status 401)",
            ),
            (login(LoginError::NotOffered), "4.7.4", "connector hub cannot log in by PLAIN"),
            (login(LoginError::InClear), "4.7.11", "not encrypted"),
            (login(LoginError::Fault(Fault::NotProven)), "4.7.8", "did not prove"),
        ] {
            let failure = Failure::of_open(&error, "mx", "connector hub");
            assert_eq!((failure.scope, failure.status.to_string().as_str()), (Scope::Host, status), "{error:?}");
            assert!(failure.diagnostic.contains(words), "{failure}");
        }
        for (fault, status) in [
            (TokenFault::Refused("https://t.example".into(), "invalid_grant".into()), "4.7.8"),
            (TokenFault::Answer("https://t.example".into(), "500".into()), "4.7.0"),
            (TokenFault::Silent("https://t.example".into(), 10), "4.7.0"),
            (TokenFault::Unreachable("https://t.example".into(), "refused".into()), "4.7.0"),
        ] {
            let failure = Failure::of_token(&fault, "connector hub");
            assert_eq!((failure.scope, failure.status.to_string().as_str()), (Scope::Host, status), "{fault:?}");
            assert!(failure.diagnostic.starts_with("connector hub has no token") && !failure.is_permanent());
        }
        let setup = Failure::of_setup("the file ca cannot be read", "connector hub");
        assert_eq!((setup.scope, setup.status.to_string().as_str()), (Scope::Host, "4.3.5"));
    }

    #[test]
    fn what_was_cut_after_the_dot_is_tried_again() {
        let failure = Failure::of_result(&RecipientResult::CutAfterDot { cause: Cause::Cut }, "mx").unwrap();
        assert!(!failure.is_permanent() && failure.diagnostic.contains("twice"));
    }

    #[test]
    fn dns_without_an_answer_never_bounces() {
        assert!(!Failure::of_name(&NameFault::TryLater("SERVFAIL".into()), "d").is_permanent());
        assert_eq!(Failure::of_name(&NameFault::NullMx, "d").status.to_string(), "5.1.10");
        assert_eq!(Failure::of_name(&NameFault::NoSuchDomain, "d").status.to_string(), "5.1.2");
        assert_eq!(Failure::of_name(&NameFault::Loop, "d").status.to_string(), "5.4.6");
    }

    #[test]
    fn a_webhook_that_refuses_is_final_and_one_in_trouble_is_not() {
        let judged = |code| Failure::of_http(code, "why").map(|failure| (failure.is_permanent(), failure.scope));
        for code in [200, 202, 204] {
            assert_eq!(judged(code), None);
        }
        for code in [400, 401, 403, 404, 405, 410, 413, 415, 422, 451] {
            assert_eq!(judged(code), Some((true, Scope::Message)), "{code}");
        }
        for code in [408, 425, 500, 501, 507] {
            assert_eq!(judged(code), Some((false, Scope::Message)), "{code}");
        }
        for code in [301, 302, 307, 308, 429, 502, 503, 504] {
            assert_eq!(judged(code), Some((false, Scope::Host)), "{code}");
        }
    }

    #[test]
    fn diagnostics_are_bounded_at_a_character() {
        let failure = Failure::new(Scope::Host, EnhancedStatus::transient(0, 0), "ü".repeat(1000));
        assert!(failure.diagnostic.len() <= MAX_DIAGNOSTIC);
    }
}
