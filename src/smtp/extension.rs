//! Service extensions: what our EHLO response lists, and what a peer's lists (RFC 5321, 4.1.1.1).
//!
//! [`Extensions`] are switches: a keyword that is off is not listed, and its parameters are unknown to
//! the parser of commands. [`PeerExtensions::parse`] reads any EHLO response without failing: a line
//! that makes no sense is an extension that is not offered. [`PeerExtensions::objection`] is the one place that says
//! which messages a peer must not be given for what it does not offer.

use serde::{Deserialize, Serialize};

use super::parameters::{Body, ByMode, MailParameters};
use super::reply::EnhancedStatus;
use super::sasl::Mechanism;

/// The EHLO keywords that a server offers. Everything is on by default but ATRN, which needs somebody who has mail to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Extensions {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// SIZE (RFC 1870). The limit itself is no switch: it holds either way.
    pub size: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034); off leaves the codes out of every reply.
    pub enhanced_status_codes: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// CHUNKING (RFC 3030): the command BDAT.
    pub chunking: bool,
    /// BINARYMIME (RFC 3030); without CHUNKING it is off.
    pub binary_mime: bool,
    /// LIMITS (RFC 9422). The limits themselves hold either way.
    pub limits: bool,
    /// REQUIRETLS (RFC 8689); known only inside TLS.
    pub require_tls: bool,
    /// FUTURERELEASE (RFC 4865).
    pub future_release: bool,
    /// DELIVERBY (RFC 2852).
    pub deliver_by: bool,
    /// MT-PRIORITY (RFC 6710).
    pub mt_priority: bool,
    /// ETRN (RFC 1985).
    pub etrn: bool,
    /// ATRN (RFC 2645).
    pub atrn: bool,
    /// HELP (RFC 5321, 4.1.1.8). The command is answered either way.
    pub help: bool,
}

impl Default for Extensions {
    fn default() -> Self {
        Extensions {
            pipelining: true,
            size: true,
            eight_bit_mime: true,
            smtputf8: true,
            enhanced_status_codes: true,
            dsn: true,
            chunking: true,
            binary_mime: true,
            limits: true,
            require_tls: true,
            future_release: true,
            deliver_by: true,
            mt_priority: true,
            etrn: true,
            atrn: false,
            help: true,
        }
    }
}

/// The facts of a session that its EHLO response depends on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offer<'a> {
    /// The largest message, in octets, if there is a limit.
    pub max_size: Option<u64>,
    /// The most recipients of a transaction.
    pub max_recipients: usize,
    /// The most transactions of a connection, if there is a limit.
    pub max_transactions: Option<u32>,
    /// The session is encrypted.
    pub tls_active: bool,
    /// The session can be encrypted by STARTTLS.
    pub starttls: bool,
    /// The mechanisms that AUTH takes now; none: AUTH is not offered.
    pub auth: &'a [&'a str],
    /// The longest that a message is held; `None`: FUTURERELEASE is not offered.
    pub future_release: Option<MaxHold>,
}

/// How long a message may be held (RFC 4865, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxHold {
    /// Seconds from now, for HOLDFOR.
    pub seconds: u32,
    /// Seconds since 1970, for HOLDUNTIL.
    pub until: i64,
}

impl Extensions {
    /// What of these switches holds in a session: REQUIRETLS only inside TLS, BINARYMIME only with CHUNKING.
    #[must_use]
    pub fn in_force(self, tls_active: bool) -> Self {
        Extensions {
            require_tls: self.require_tls && tls_active,
            binary_mime: self.binary_mime && self.chunking,
            ..self
        }
    }

    /// The lines of the EHLO response behind the first.
    pub fn lines(&self, offer: &Offer<'_>) -> Vec<String> {
        let on = self.in_force(offer.tls_active);
        let mut lines = Vec::with_capacity(16);
        let mut line = |on: bool, line: &str| {
            if on {
                lines.push(line.to_owned());
            }
        };
        line(on.pipelining, "PIPELINING");
        line(on.size, &offer.max_size.map_or("SIZE".to_owned(), |limit| format!("SIZE {limit}")));
        line(offer.starttls && !offer.tls_active, "STARTTLS");
        line(!offer.auth.is_empty(), &format!("AUTH {}", offer.auth.join(" ")));
        line(on.enhanced_status_codes, "ENHANCEDSTATUSCODES");
        line(on.eight_bit_mime, "8BITMIME");
        line(on.dsn, "DSN");
        line(on.smtputf8, "SMTPUTF8");
        line(on.chunking, "CHUNKING");
        line(on.binary_mime, "BINARYMIME");
        line(on.require_tls, "REQUIRETLS");
        let mail_max = offer.max_transactions.map_or(String::new(), |max| format!(" MAILMAX={max}"));
        line(on.limits, &format!("LIMITS{mail_max} RCPTMAX={}", offer.max_recipients));
        if let Some(hold) = offer.future_release.filter(|_| on.future_release) {
            let until = jiff::Timestamp::from_second(hold.until).unwrap_or(jiff::Timestamp::MAX);
            line(true, &format!("FUTURERELEASE {} {until:.0}", hold.seconds));
        }
        line(on.deliver_by, "DELIVERBY");
        line(on.mt_priority, "MT-PRIORITY");
        line(on.etrn, "ETRN");
        line(on.atrn, "ATRN");
        line(on.help, "HELP");
        lines
    }
}

/// What a next hop offers in its EHLO response; nothing after HELO.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerExtensions {
    /// PIPELINING.
    pub pipelining: bool,
    /// SIZE: offered, and the limit in octets if one is told.
    pub size: Option<Option<u64>>,
    /// 8BITMIME.
    pub eight_bit_mime: bool,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// ENHANCEDSTATUSCODES.
    pub enhanced_status_codes: bool,
    /// DSN.
    pub dsn: bool,
    /// CHUNKING.
    pub chunking: bool,
    /// BINARYMIME; it counts only with CHUNKING.
    pub binary_mime: bool,
    /// LIMITS: the most recipients of a transaction.
    pub max_recipients: Option<u32>,
    /// LIMITS: the most transactions of a connection.
    pub max_transactions: Option<u32>,
    /// REQUIRETLS. A session that is not encrypted to a verified name takes this back, whatever was listed.
    pub require_tls: bool,
    /// DELIVERBY: offered, and the least seconds that mode R takes.
    pub deliver_by: Option<i64>,
    /// MT-PRIORITY.
    pub mt_priority: bool,
    /// STARTTLS.
    pub starttls: bool,
    /// AUTH: those of its mechanisms that we know.
    pub auth: Vec<Mechanism>,
}

/// Why a message must not be given to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objection {
    /// The enhanced status code.
    pub status: EnhancedStatus,
    /// What is missing, for an operator and a DSN.
    pub text: &'static str,
}

impl PeerExtensions {
    /// Reads the lines of an EHLO response, without codes and without the first line.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut peer = PeerExtensions::default();
        for line in lines {
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "PIPELINING" => peer.pipelining = true,
                // 0 is "no fixed maximum" (RFC 1870, section 4)
                "SIZE" => peer.size = Some(words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0)),
                "8BITMIME" => peer.eight_bit_mime = true,
                "SMTPUTF8" => peer.smtputf8 = true,
                "ENHANCEDSTATUSCODES" => peer.enhanced_status_codes = true,
                "DSN" => peer.dsn = true,
                "CHUNKING" => peer.chunking = true,
                "BINARYMIME" => peer.binary_mime = true,
                "LIMITS" => words.for_each(|word| peer.limit(word)),
                "REQUIRETLS" => peer.require_tls = true,
                "DELIVERBY" => peer.deliver_by = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(1).max(1)),
                "MT-PRIORITY" => peer.mt_priority = true,
                "STARTTLS" => peer.starttls = true,
                "AUTH" => peer.auth = words.filter_map(|word| word.parse().ok()).collect(),
                _ => {}
            }
        }
        peer
    }

    /// One `name=value` of LIMITS. A limit of 0, or that is no number, is none (RFC 9422, section 3).
    fn limit(&mut self, word: &str) {
        let Some((name, value)) = word.split_once('=') else { return };
        let value = value.parse().ok().filter(|n| *n > 0);
        match name.to_ascii_uppercase().as_str() {
            "RCPTMAX" => self.max_recipients = value,
            "MAILMAX" => self.max_transactions = value,
            _ => {}
        }
    }

    /// The largest message the peer takes, in octets, if it told.
    pub fn max_size(&self) -> Option<u64> {
        self.size.flatten()
    }

    /// BODY=BINARYMIME can go there, by BDAT.
    pub fn takes_binary(&self) -> bool {
        self.chunking && self.binary_mime
    }

    /// The most that the content of a message with these parameters may be. A message that goes as SMTPUTF8 may be 8-bit (RFC
    /// 6531, 3.1), also where 8BITMIME is missing.
    pub fn takes(&self, parameters: &MailParameters) -> Body {
        if self.takes_binary() {
            Body::Binary
        } else if self.eight_bit_mime || (self.smtputf8 && parameters.smtputf8) {
            Body::EightBitMime
        } else {
            Body::SevenBit
        }
    }

    /// Whether the content of a message with these parameters must be looked at before it goes to this peer: it may not be
    /// what the peer takes, and so has to be converted or to stay. What is declared as 7-bit is not believed.
    pub fn must_look_at(&self, parameters: &MailParameters) -> bool {
        let takes = self.takes(parameters);
        takes == Body::SevenBit
            || (parameters.body == Body::Binary && takes != Body::Binary)
            || (parameters.smtputf8 && !self.smtputf8)
    }

    /// Why a message with these parameters and so many octets must not be given to this peer, if there is a reason.
    ///
    /// SMTPUTF8 (RFC 6531, 3.2), SIZE (RFC 1870), BINARYMIME (RFC 3030, section 3), 8BITMIME (RFC 6152, section 3),
    /// REQUIRETLS (RFC 8689, 4.2.1), BY in mode R (RFC 2852: it must not go where nobody will return it in time). Addresses are
    /// the caller's to look at, and so is content: what was converted has other parameters.
    pub fn objection(&self, parameters: &MailParameters, size: u64) -> Option<Objection> {
        let refuse =
            |subject, detail, text| Some(Objection { status: EnhancedStatus::permanent(subject, detail), text });
        if parameters.smtputf8 && !self.smtputf8 {
            return refuse(6, 7, "The next hop does not offer SMTPUTF8, which this message needs");
        }
        if parameters.body == Body::Binary && !self.takes_binary() {
            return refuse(6, 1, "The next hop does not offer BINARYMIME, which this message needs");
        }
        if parameters.body == Body::EightBitMime && self.takes(parameters) == Body::SevenBit {
            return refuse(6, 3, "The next hop does not offer 8BITMIME, which this message needs");
        }
        if parameters.require_tls && !self.require_tls {
            return refuse(7, 30, "The next hop does not offer REQUIRETLS in a verified TLS session");
        }
        if let Some(by) = parameters.deliver_by.filter(|by| by.mode == ByMode::Return) {
            match self.deliver_by {
                _ if by.seconds <= 0 => return refuse(4, 7, "The time in which it could be delivered has passed"),
                None => return refuse(3, 3, "The next hop does not offer DELIVERBY, which this message needs"),
                Some(least) if by.seconds < least => {
                    return refuse(4, 7, "The next hop needs more time than this message has left");
                }
                Some(_) => {}
            }
        }
        if self.max_size().is_some_and(|max| size > max) {
            return refuse(3, 4, "The message is larger than the next hop takes");
        }
        None
    }

    /// A peer that offers all of it without limits.
    #[cfg(test)]
    pub fn everything() -> Self {
        PeerExtensions {
            pipelining: true,
            size: Some(None),
            eight_bit_mime: true,
            smtputf8: true,
            enhanced_status_codes: true,
            dsn: true,
            chunking: true,
            binary_mime: true,
            max_recipients: None,
            max_transactions: None,
            require_tls: true,
            deliver_by: Some(1),
            mt_priority: true,
            starttls: true,
            auth: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::parameters::DeliverBy;

    fn everything() -> Extensions {
        Extensions { chunking: true, binary_mime: true, ..Extensions::default() }
    }

    fn offer() -> Offer<'static> {
        Offer {
            max_size: Some(1000),
            max_recipients: 7,
            max_transactions: Some(9),
            tls_active: true,
            starttls: true,
            auth: &["PLAIN", "LOGIN"],
            future_release: Some(MaxHold { seconds: 60, until: 1_795_000_000 }),
        }
    }

    #[test]
    fn what_we_list_is_understood() {
        let lines = everything().lines(&offer());
        let peer = PeerExtensions::parse(lines.iter().map(String::as_str));
        let expected = PeerExtensions {
            size: Some(Some(1000)),
            max_recipients: Some(7),
            max_transactions: Some(9),
            // it is a session inside TLS
            starttls: false,
            auth: vec![Mechanism::Plain, Mechanism::Login],
            ..PeerExtensions::everything()
        };
        assert_eq!(peer, expected);
        assert_eq!(
            lines.join("|"),
            "PIPELINING|SIZE 1000|AUTH PLAIN LOGIN|ENHANCEDSTATUSCODES|8BITMIME|DSN|SMTPUTF8|CHUNKING|BINARYMIME|\
             REQUIRETLS|LIMITS MAILMAX=9 RCPTMAX=7|FUTURERELEASE 60 2026-11-18T11:06:40Z|DELIVERBY|MT-PRIORITY|ETRN|HELP"
        );
    }

    #[test]
    fn what_is_off_is_not_listed() {
        let clear = Offer { tls_active: false, ..offer() };
        let lines = everything().lines(&clear);
        assert!(lines.iter().any(|line| line == "STARTTLS") && !lines.iter().any(|line| line == "REQUIRETLS"));
        let off = Extensions {
            dsn: false,
            smtputf8: false,
            chunking: false,
            limits: false,
            require_tls: false,
            future_release: false,
            deliver_by: false,
            mt_priority: false,
            etrn: false,
            ..everything()
        };
        let plain = Offer { auth: &[], max_size: None, ..offer() };
        assert_eq!(off.lines(&plain).join("|"), "PIPELINING|SIZE|ENHANCEDSTATUSCODES|8BITMIME|HELP");
    }

    #[test]
    fn nonsense_is_not_offered() {
        assert_eq!(PeerExtensions::parse(["", "  ", "SIZE x", "size 0", "PIPELININGX"]).size, Some(None));
        assert!(!PeerExtensions::parse(["PIPELININGX"]).pipelining);
        let auth = PeerExtensions::parse(["AUTH login GSSAPI SCRAM-SHA-256", "starttls"]);
        assert_eq!((auth.starttls, &auth.auth[..]), (true, &[Mechanism::Login, Mechanism::ScramSha256][..]));
        let limits = PeerExtensions::parse(["LIMITS RCPTMAX=0 MAILMAX=x FOO=1 RCPTMAX"]);
        assert_eq!((limits.max_recipients, limits.max_transactions), (None, None));
        assert_eq!(PeerExtensions::parse(["DELIVERBY"]).deliver_by, Some(1));
        assert_eq!(PeerExtensions::parse(["DELIVERBY 240"]).deliver_by, Some(240));
    }

    #[test]
    fn content_is_looked_at_only_where_it_may_not_fit() {
        let peer = |lines: &[&'static str]| PeerExtensions::parse(lines.iter().copied());
        let (seven, eight) = (peer(&[]), peer(&["8BITMIME"]));
        let (utf8, binary) = (peer(&["SMTPUTF8"]), peer(&["CHUNKING", "BINARYMIME"]));
        let takes =
            |peer: &PeerExtensions, smtputf8| peer.takes(&MailParameters { smtputf8, ..MailParameters::default() });
        assert_eq!((takes(&seven, true), takes(&seven, false)), (Body::SevenBit, Body::SevenBit));
        assert_eq!((takes(&eight, false), takes(&binary, false)), (Body::EightBitMime, Body::Binary));
        assert_eq!((takes(&utf8, true), takes(&utf8, false)), (Body::EightBitMime, Body::SevenBit));
        assert_eq!(takes(&peer(&["BINARYMIME"]), false), Body::SevenBit);
        let look = |peer: &PeerExtensions, body, smtputf8| {
            peer.must_look_at(&MailParameters { body, smtputf8, ..MailParameters::default() })
        };
        assert!(look(&seven, Body::SevenBit, false) && look(&seven, Body::EightBitMime, false));
        assert!(!look(&eight, Body::SevenBit, false) && !look(&eight, Body::EightBitMime, false));
        assert!(look(&eight, Body::Binary, false) && !look(&binary, Body::Binary, false));
        assert!(look(&eight, Body::EightBitMime, true) && !look(&utf8, Body::EightBitMime, true));
    }

    #[test]
    fn a_peer_is_not_given_what_it_does_not_carry() {
        let all = PeerExtensions::everything();
        let plain = MailParameters::default();
        let by = |seconds, mode| MailParameters {
            deliver_by: Some(DeliverBy { seconds, mode, trace: false }),
            ..plain.clone()
        };
        let rows: [(MailParameters, PeerExtensions, &str); 8] = [
            (
                MailParameters { body: Body::EightBitMime, ..plain.clone() },
                PeerExtensions { eight_bit_mime: false, binary_mime: false, ..all.clone() },
                "5.6.3",
            ),
            (
                MailParameters { smtputf8: true, ..plain.clone() },
                PeerExtensions { smtputf8: false, ..all.clone() },
                "5.6.7",
            ),
            (
                MailParameters { body: Body::Binary, ..plain.clone() },
                PeerExtensions { chunking: false, ..all.clone() },
                "5.6.1",
            ),
            (
                MailParameters { require_tls: true, ..plain.clone() },
                PeerExtensions { require_tls: false, ..all.clone() },
                "5.7.30",
            ),
            (by(9, ByMode::Return), PeerExtensions { deliver_by: None, ..all.clone() }, "5.3.3"),
            (by(9, ByMode::Return), PeerExtensions { deliver_by: Some(10), ..all.clone() }, "5.4.7"),
            (by(0, ByMode::Return), all.clone(), "5.4.7"),
            (plain.clone(), PeerExtensions { size: Some(Some(99)), ..all.clone() }, "5.3.4"),
        ];
        for (parameters, peer, status) in rows {
            assert_eq!(peer.objection(&parameters, 100).unwrap().status.to_string(), status);
        }
        assert_eq!(all.objection(&by(9, ByMode::Return), 100), None);
        // told on time or not, it goes on
        assert_eq!(PeerExtensions::default().objection(&by(-9, ByMode::Notify), 100), None);
    }
}
