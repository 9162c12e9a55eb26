//! The parameters of MAIL and RCPT as values, and their wire form.
//!
//! SIZE (RFC 1870), BODY (RFC 6152, RFC 3030), SMTPUTF8 (RFC 6531), RET, ENVID, NOTIFY, ORCPT (RFC 3461, with the
//! `utf-8` address type of RFC 6533), HOLDFOR and HOLDUNTIL (RFC 4865), BY (RFC 2852), MT-PRIORITY (RFC 6710) and
//! REQUIRETLS (RFC 8689). The values are what a queue keeps: they implement serde in a form
//! that self-describing and compact formats both carry. [`MailParameters::write`] and
//! [`RcptParameters::write`] put on the wire only what the peer offers; what a peer that does not offer it must not be
//! given at all is [`PeerExtensions::objection`]'s to say.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::extension::PeerExtensions;

/// Longest ENVID as it stands on the wire, in octets (RFC 3461, 4.4).
pub const MAX_ENVID: usize = 100;
/// The most seconds that BY can say, to either side (RFC 2852, section 4).
pub const MAX_BY_SECONDS: i64 = 999_999_999;
/// Longest ORCPT as it stands on the wire, in octets (RFC 3461, 4.2).
pub const MAX_ORCPT: usize = 500;

/// What the sender says the content is made of (RFC 6152; RFC 3030 for what only BDAT carries).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Body {
    /// `7BIT`, which is also the meaning of no BODY parameter.
    #[default]
    SevenBit,
    /// `8BITMIME`: octets over 127 may occur.
    EightBitMime,
    /// `BINARYMIME`: any octets, also lines without end. Only by BDAT.
    Binary,
}

/// Until when the sender wants the message to be held back (RFC 4865, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Hold {
    /// HOLDFOR: so many seconds from its acceptance on; at least 1.
    For(u32),
    /// HOLDUNTIL: seconds since 1970 in UTC.
    Until(i64),
}

/// BY: when the message should have been delivered (RFC 2852, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliverBy {
    /// Seconds from MAIL on. Negative: it is late already; only with [`ByMode::Notify`].
    pub seconds: i64,
    /// What happens then.
    pub mode: ByMode,
    /// `T`: each hop reports that it has passed the message on.
    pub trace: bool,
}

/// What happens to a message that was not delivered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ByMode {
    /// `R`: it is returned.
    Return,
    /// `N`: the sender is told, and it is tried further.
    Notify,
}

/// How much of a message a failure notification brings back (RFC 3461, 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ret {
    /// `FULL`.
    Full,
    /// `HDRS`: the header only.
    Hdrs,
}

/// The parameters of MAIL.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MailParameters {
    /// SIZE: the sender's estimate, in octets.
    pub size: Option<u64>,
    /// BODY.
    pub body: Body,
    /// SMTPUTF8: addresses or header need it.
    pub smtputf8: bool,
    /// RET; `None`: the reporting MTA chooses.
    pub ret: Option<Ret>,
    /// ENVID, decoded from xtext: printable ASCII.
    pub envid: Option<String>,
    /// HOLDFOR or HOLDUNTIL. Never passed on: it is done when the message goes out.
    pub hold: Option<Hold>,
    /// BY.
    pub deliver_by: Option<DeliverBy>,
    /// MT-PRIORITY, -9 to 9; `None` is the priority 0.
    pub priority: Option<i8>,
    /// REQUIRETLS.
    pub require_tls: bool,
}

/// When the sender wants to hear about a recipient (RFC 3461, 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Notify {
    /// `NEVER`.
    Never,
    /// At least one of the three.
    On {
        /// `SUCCESS`.
        success: bool,
        /// `FAILURE`.
        failure: bool,
        /// `DELAY`.
        delay: bool,
    },
}

impl Notify {
    /// True when a failure is to be told. Without NOTIFY it is (RFC 3461, 4.1).
    pub fn wants_failure(notify: Option<Notify>) -> bool {
        matches!(notify, None | Some(Notify::On { failure: true, .. }))
    }

    /// True when a delay is to be told. Without NOTIFY it may be (RFC 3461, 4.1), and we do.
    pub fn wants_delay(notify: Option<Notify>) -> bool {
        matches!(notify, None | Some(Notify::On { delay: true, .. }))
    }

    /// False when nothing at all is to be told.
    pub fn wants_anything(notify: Option<Notify>) -> bool {
        notify != Some(Notify::Never)
    }

    /// True when success is to be told.
    pub fn wants_success(notify: Option<Notify>) -> bool {
        matches!(notify, Some(Notify::On { success: true, .. }))
    }
}

/// ORCPT: the recipient as the original sender wrote it (RFC 3461, 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginalRecipient {
    /// The address type, as given: `rfc822`, `utf-8`, …; an atom.
    pub address_type: String,
    /// The address, decoded: no control characters; ASCII unless the type is `utf-8`.
    pub address: String,
}

/// The parameters of RCPT.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RcptParameters {
    /// NOTIFY.
    pub notify: Option<Notify>,
    /// ORCPT.
    pub orcpt: Option<OriginalRecipient>,
}

impl MailParameters {
    /// Appends ` KEYWORD=value …` to a MAIL command: what is set here and offered by the peer.
    ///
    /// `size` is the size of the message as it is sent, in octets; 0 when it is not known. What the peer must be able to
    /// carry is for the caller to convert or to refuse ([`PeerExtensions::objection`]). A `deliver_by` is to be what is left
    /// of it.
    pub fn write(&self, size: u64, peer: &PeerExtensions, out: &mut String) {
        if peer.size.is_some() && size > 0 {
            let _ = write!(out, " SIZE={size}");
        }
        match self.body {
            Body::EightBitMime if peer.eight_bit_mime => out.push_str(" BODY=8BITMIME"),
            Body::Binary if peer.takes_binary() => out.push_str(" BODY=BINARYMIME"),
            _ => {}
        }
        if peer.smtputf8 && self.smtputf8 {
            out.push_str(" SMTPUTF8");
        }
        if peer.dsn {
            match self.ret {
                Some(Ret::Full) => out.push_str(" RET=FULL"),
                Some(Ret::Hdrs) => out.push_str(" RET=HDRS"),
                None => {}
            }
            if let Some(envid) = &self.envid {
                out.push_str(" ENVID=");
                encode_xtext(envid, out);
            }
        }
        if let Some(by) = self.deliver_by.filter(|_| peer.deliver_by.is_some()) {
            let seconds = by.seconds.clamp(-MAX_BY_SECONDS, MAX_BY_SECONDS);
            let mode = match by.mode {
                ByMode::Return => 'R',
                ByMode::Notify => 'N',
            };
            let _ = write!(out, " BY={seconds};{mode}{}", if by.trace { "T" } else { "" });
        }
        if let Some(priority) = self.priority.filter(|_| peer.mt_priority) {
            let _ = write!(out, " MT-PRIORITY={priority}");
        }
        if self.require_tls && peer.require_tls {
            out.push_str(" REQUIRETLS");
        }
    }
}

impl RcptParameters {
    /// Appends ` NOTIFY=… ORCPT=…` to a RCPT command, if the peer offers DSN.
    ///
    /// An ORCPT that is not ASCII is written in the escapes of RFC 6533, so that it needs no SMTPUTF8.
    pub fn write(&self, peer: &PeerExtensions, out: &mut String) {
        if !peer.dsn {
            return;
        }
        match self.notify {
            None | Some(Notify::On { success: false, failure: false, delay: false }) => {}
            Some(Notify::Never) => out.push_str(" NOTIFY=NEVER"),
            Some(Notify::On { success, failure, delay }) => {
                let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
                let mut separator = " NOTIFY=";
                for (_, word) in words.iter().filter(|(on, _)| *on) {
                    out.push_str(separator);
                    out.push_str(word);
                    separator = ",";
                }
            }
        }
        if let Some(orcpt) = self.orcpt.as_ref().filter(|orcpt| is_address_type(&orcpt.address_type)) {
            let _ = write!(out, " ORCPT={};", orcpt.address_type);
            if orcpt.address_type.eq_ignore_ascii_case("utf-8") {
                encode_utf8_xtext(&orcpt.address, out);
            } else {
                encode_xtext(&orcpt.address, out);
            }
        }
    }
}

/// True for an atom that can stand in front of the `;` of ORCPT (RFC 3461, 4.2).
pub fn is_address_type(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*-/?^_`{|}~".contains(c))
}

/// Writes text as `xtext` (RFC 3461, section 4). Characters over 127 become their UTF-8 octets.
pub fn encode_xtext(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if (b'!'..=b'~').contains(&byte) && byte != b'+' && byte != b'=' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "+{byte:02X}");
        }
    }
}

/// Reads `xtext` (RFC 3461, section 4); `None` if it is none, or holds anything but printable ASCII.
pub fn decode_xtext(text: &str) -> Option<String> {
    decode_octets(text)?.into_iter().map(|byte| (b' '..=b'~').contains(&byte).then(|| char::from(byte))).collect()
}

/// The same for text beyond ASCII, whose UTF-8 octets Postfix writes as `xtext`; no control characters come out.
pub fn decode_xtext_of_utf8(text: &str) -> Option<String> {
    String::from_utf8(decode_octets(text)?).ok().filter(|decoded| !decoded.chars().any(char::is_control))
}

fn decode_octets(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'!'..=b'~' if byte != b'=' => byte,
            _ => return None,
        });
    }
    Some(decoded)
}

/// One digit of `hexchar`: RFC 3461 wants upper case.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Writes text as `utf-8-addr-xtext` (RFC 6533, section 3).
fn encode_utf8_xtext(text: &str, out: &mut String) {
    for c in text.chars() {
        if ('!'..='~').contains(&c) && !matches!(c, '+' | '=' | '\\') {
            out.push(c);
        } else {
            let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
        }
    }
}

/// Reads `utf-8-addr-xtext` or `utf-8-addr-unitext` (RFC 6533, section 3); no control characters come out.
pub fn decode_utf8_xtext(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let c = if let Some(escape) = rest.strip_prefix("\\x{") {
            let (digits, behind) = escape.split_once('}')?;
            let valid = (1..=6).contains(&digits.len()) && digits.bytes().all(|b| hex(b).is_some());
            rest = behind;
            valid.then(|| u32::from_str_radix(digits, 16).ok()).flatten().and_then(char::from_u32)?
        } else if matches!(c, '\\' | '+' | '=' | ' ') {
            return None;
        } else {
            rest = &rest[c.len_utf8()..];
            c
        };
        if c.is_control() {
            return None;
        }
        decoded.push(c);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn everything() -> PeerExtensions {
        PeerExtensions::everything()
    }

    #[test]
    fn only_what_the_peer_offers_is_written() {
        let parameters = MailParameters {
            size: Some(1),
            body: Body::EightBitMime,
            smtputf8: true,
            ret: Some(Ret::Hdrs),
            envid: Some("a+b=c".into()),
            hold: Some(Hold::For(10)),
            deliver_by: Some(DeliverBy { seconds: -5, mode: ByMode::Notify, trace: true }),
            priority: Some(-3),
            require_tls: true,
        };
        let mut all = String::new();
        parameters.write(42, &everything(), &mut all);
        assert_eq!(all, " SIZE=42 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb+3Dc BY=-5;NT MT-PRIORITY=-3 REQUIRETLS");
        let mut none = String::new();
        parameters.write(42, &PeerExtensions::default(), &mut none);
        assert_eq!(none, "");
        let rcpt = RcptParameters {
            notify: Some(Notify::On { success: true, failure: false, delay: true }),
            orcpt: Some(OriginalRecipient { address_type: "rfc822".into(), address: "a b@c".into() }),
        };
        let mut all = String::new();
        rcpt.write(&everything(), &mut all);
        assert_eq!(all, " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+20b@c");
    }

    proptest! {
        #[test]
        fn xtext_comes_back(text in "[ -~]{0,40}") {
            let mut wire = String::new();
            encode_xtext(&text, &mut wire);
            prop_assert_eq!(decode_xtext(&wire), Some(text));
        }

        #[test]
        fn utf8_xtext_comes_back(text in "[^\\p{Cc}]{0,40}") {
            let mut wire = String::new();
            encode_utf8_xtext(&text, &mut wire);
            prop_assert!(wire.is_ascii());
            prop_assert_eq!(decode_utf8_xtext(&wire), Some(text));
        }
    }
}
