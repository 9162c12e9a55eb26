//! Service extensions: what our EHLO response lists, and what a peer's lists (RFC 5321, 4.1.1.1).
//!
//! [`Extensions`] are switches: a keyword that is off is not listed, and its parameters are unknown to
//! the parser of commands. [`PeerExtensions::parse`] reads any EHLO response without failing: a line
//! that makes no sense is an extension that is not offered.

use serde::{Deserialize, Serialize};

/// The EHLO keywords that a server offers; everything is on by default but ATRN, which needs somebody who has mail to fetch.
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
    /// CHUNKING (RFC 3030): BDAT.
    pub chunking: bool,
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
            etrn: true,
            atrn: false,
            help: true,
        }
    }
}

impl Extensions {
    /// The lines of the EHLO response behind the first; `max_size` is the limit in octets, if there is one.
    pub fn lines(&self, max_size: Option<u64>) -> Vec<String> {
        let size = match max_size {
            Some(limit) => format!("SIZE {limit}"),
            None => "SIZE".to_owned(),
        };
        [
            (self.pipelining, "PIPELINING"),
            (self.size, size.as_str()),
            (self.eight_bit_mime, "8BITMIME"),
            (self.smtputf8, "SMTPUTF8"),
            (self.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
            (self.dsn, "DSN"),
            (self.chunking, "CHUNKING"),
            (self.etrn, "ETRN"),
            (self.atrn, "ATRN"),
            (self.help, "HELP"),
        ]
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, line)| (*line).to_owned())
        .collect()
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
                _ => {}
            }
        }
        peer
    }

    /// The largest message the peer takes, in octets, if it told.
    pub fn max_size(&self) -> Option<u64> {
        self.size.flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_list_is_understood() {
        let lines = Extensions::default().lines(Some(1000));
        let peer = PeerExtensions::parse(lines.iter().map(String::as_str));
        let expected = PeerExtensions {
            pipelining: true,
            size: Some(Some(1000)),
            eight_bit_mime: true,
            smtputf8: true,
            enhanced_status_codes: true,
            dsn: true,
        };
        assert_eq!(peer, expected);
        let off = Extensions { dsn: false, smtputf8: false, ..Extensions::default() };
        assert!(!off.lines(None).iter().any(|l| l == "DSN" || l == "SMTPUTF8"));
    }

    #[test]
    fn nonsense_is_not_offered() {
        assert_eq!(PeerExtensions::parse(["", "  ", "SIZE x", "size 0", "PIPELININGX"]).size, Some(None));
        assert!(!PeerExtensions::parse(["PIPELININGX"]).pipelining);
    }
}
