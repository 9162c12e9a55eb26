//! Where a domain wants reports: the TXT record at `_smtp._tls` (RFC 8460, 3), read strictly.
//!
//! Whoever publishes it need not be a friend. So it is bounded ([`MOST_DESTINATIONS`]), nothing but `mailto:` and `https:` is
//! taken, and what is not of the form that the RFC gives is no record: then the domain wants no reports.

use std::fmt;

use crate::model::http_url::HttpUrl;
use crate::smtp::address::Mailbox;

/// Most destinations of one domain that get its report; those behind them get none.
pub const MOST_DESTINATIONS: usize = 5;
/// Longest record, in octets.
const MOST_OCTETS: usize = 4_096;

/// Where a report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// As a message.
    Mail(Mailbox),
    /// By POST. Always `https`.
    Https(HttpUrl),
}

/// As a URI that reads as the same again.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Mail(mailbox) => {
                f.write_str("mailto:")?;
                mailbox.to_string().bytes().try_for_each(|octet| match octet {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'@' | b'_' | b'-' | b'+' | b'=' => {
                        write!(f, "{}", char::from(octet))
                    }
                    _ => write!(f, "%{octet:02X}"),
                })
            }
            Destination::Https(url) => url.fmt(f),
        }
    }
}

impl std::str::FromStr for Destination {
    type Err = &'static str;

    /// Of a URI. Parameters of `mailto:` (RFC 6068) are refused: a subject is ours to say.
    fn from_str(uri: &str) -> Result<Self, &'static str> {
        let lower = uri.get(..8).unwrap_or(uri).to_ascii_lowercase();
        if lower.starts_with("mailto:") {
            let address = percent_decoded(&uri["mailto:".len()..]).ok_or("the mailto: address is not well encoded")?;
            if address.bytes().any(|octet| octet.is_ascii_control()) || address.contains('?') {
                return Err("a mailto: destination is one address and nothing more");
            }
            let mailbox = address.parse().map_err(|_| "the mailto: destination is no address")?;
            return Ok(Destination::Mail(mailbox));
        }
        if lower.starts_with("https://") {
            return uri.parse().map(Destination::Https).map_err(|_| "the https: destination is no URL to post to");
        }
        Err("it is neither mailto: nor https:")
    }
}

/// The destinations that a domain's TXT records name, at least one.
///
/// # Errors
/// In words, why it gets no report: there is not exactly one record of TLSRPT, or it is not well formed, or names nothing
/// that we send to.
pub fn destinations(texts: &[String]) -> Result<Vec<Destination>, &'static str> {
    let mut ours = texts.iter().filter(|text| {
        text.strip_prefix("v=TLSRPTv1").is_some_and(|rest| rest.trim_start_matches([' ', '\t']).starts_with(';'))
    });
    let Some(record) = ours.next() else { return Err("it has no record of TLSRPT") };
    if ours.next().is_some() {
        return Err("it has more than one record of TLSRPT");
    }
    if record.len() > MOST_OCTETS {
        return Err("its record of TLSRPT is longer than 4,096 octets");
    }
    let mut rua = None;
    let mut fields = record.split(';').skip(1).map(|field| field.trim_matches([' ', '\t'])).peekable();
    while let Some(field) = fields.next() {
        if field.is_empty() && fields.peek().is_none() {
            break;
        }
        let (name, value) = field.split_once('=').ok_or("a field of its record of TLSRPT has no value")?;
        let good = (1..=32).contains(&name.len())
            && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
            && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"_-.".contains(&octet));
        if !good || value.is_empty() || value.bytes().any(|octet| !(0x20..0x7f).contains(&octet) && octet != b'\t') {
            return Err("a field of its record of TLSRPT is not well formed");
        }
        if name == "rua" && rua.replace(value).is_some() {
            return Err("its record of TLSRPT says twice where reports go");
        }
    }
    let rua = rua.ok_or("its record of TLSRPT does not say where reports go")?;
    let mut found: Vec<Destination> = Vec::new();
    let mut refused = None;
    for uri in rua.split(',').map(|uri| uri.trim_matches([' ', '\t'])) {
        match uri.parse() {
            Ok(one) if found.len() < MOST_DESTINATIONS && !found.contains(&one) => found.push(one),
            Ok(_) => {}
            Err(why) => refused = Some(why),
        }
    }
    if found.is_empty() { Err(refused.unwrap_or("it names no destination")) } else { Ok(found) }
}

/// `None` when an escape is not whole, or what comes out is no text.
fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        if octet != b'%' {
            out.push(octet);
            continue;
        }
        let digits = [octets.next()?, octets.next()?];
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(records: &[&str]) -> Result<Vec<String>, &'static str> {
        let records: Vec<String> = records.iter().map(|record| (*record).to_owned()).collect();
        destinations(&records).map(|all| all.iter().map(Destination::to_string).collect())
    }

    #[test]
    fn records_that_name_somebody() {
        for (record, named) in [
            ("v=TLSRPTv1; rua=mailto:r@d.example", &["mailto:r@d.example"][..]),
            ("v=TLSRPTv1;rua=mailto:r@d.example;", &["mailto:r@d.example"]),
            ("v=TLSRPTv1 ;\trua=https://r.d.example/v1/tlsrpt ; ", &["https://r.d.example/v1/tlsrpt"]),
            ("v=TLSRPTv1; x.y-z_1=b; rua=MAILTO:r@d.example", &["mailto:r@d.example"]),
            (
                "v=TLSRPTv1; rua=mailto:r@d.example , https://r.d.example:8443/a?b=c",
                &["mailto:r@d.example", "https://r.d.example:8443/a?b=c"],
            ),
            ("v=TLSRPTv1; rua=mailto:%22a%2Cb%22@d.example", &["mailto:%22a%2Cb%22@d.example"]),
            ("v=TLSRPTv1; rua=mailto:a%25b@d.example", &["mailto:a%25b@d.example"]),
            // what we do not send to does not keep others from their report
            ("v=TLSRPTv1; rua=ftp://d.example,mailto:r@d.example", &["mailto:r@d.example"]),
            ("v=TLSRPTv1; rua=mailto:r@d.example,mailto:r@d.example", &["mailto:r@d.example"]),
        ] {
            let found = read(&["v=spf1 -all", record]);
            assert_eq!(found.as_deref(), Ok(named.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>().as_slice()));
        }
        let many = (0..100).map(|n| format!("mailto:r{n}@d.example")).collect::<Vec<_>>().join(",");
        assert_eq!(read(&[&format!("v=TLSRPTv1; rua={many}")]).map(|all| all.len()), Ok(MOST_DESTINATIONS));
    }

    #[test]
    fn records_that_name_nobody() {
        let good = "v=TLSRPTv1; rua=mailto:r@d.example";
        let long = format!("v=TLSRPTv1; rua=mailto:{}@d.example", "a".repeat(5_000));
        for records in [
            &[][..],
            &["v=spf1 -all"],
            &[good, good],
            &["v=TLSRPTv1"],
            &["v=TLSRPTv1;"],
            &["v=TLSRPTv12; rua=mailto:r@d.example"],
            &["v=tlsrptv1; rua=mailto:r@d.example"],
            &[" v=TLSRPTv1; rua=mailto:r@d.example"],
            &["rua=mailto:r@d.example; v=TLSRPTv1;"],
            &["v=TLSRPTv1; rua="],
            &["v=TLSRPTv1; rua"],
            &["v=TLSRPTv1; RUA=mailto:r@d.example"],
            &["v=TLSRPTv1;; rua=mailto:r@d.example"],
            &["v=TLSRPTv1; rua=mailto:r@d.example; rua=mailto:s@d.example"],
            &["v=TLSRPTv1; -x=y; rua=mailto:r@d.example"],
            &["v=TLSRPTv1; rua=mailto:r@d.example\r\nBcc: x@y.example"],
            &["v=TLSRPTv1; rua=mailto:r%0D%0ABcc:%20x@d.example"],
            &["v=TLSRPTv1; rua=mailto:r@d.example?subject=x"],
            &["v=TLSRPTv1; rua=mailto:r@d.example%3Fcc=x"],
            &["v=TLSRPTv1; rua=mailto:a%2Cb@d.example"],
            &["v=TLSRPTv1; rua=mailto:r%4"],
            &["v=TLSRPTv1; rua=mailto:r%zz@d.example"],
            &["v=TLSRPTv1; rua=mailto:r%ff@d.example"],
            &["v=TLSRPTv1; rua=mailto:"],
            &["v=TLSRPTv1; rua=mailto:a@b.example%2Cc@d.example"],
            &["v=TLSRPTv1; rua=http://r.d.example/"],
            &["v=TLSRPTv1; rua=https://"],
            &["v=TLSRPTv1; rua=https://user:secret@r.d.example/"],
            &["v=TLSRPTv1; rua=https://169.254.169.254/latest/meta-data"],
            &["v=TLSRPTv1; rua=file:///etc/passwd"],
            &["v=TLSRPTv1; rua=mäilto:r@d.example"],
            &[&long],
        ] {
            assert!(read(records).is_err(), "{records:?}: {:?}", read(records));
        }
    }

    proptest! {
        #[test]
        fn nothing_breaks_it_and_what_it_finds_is_what_it_says(text in "(v=TLSRPTv1;)? ?(rua=)?[ -~,;%]{0,80}") {
            if let Ok(found) = destinations(&[text]) {
                prop_assert!((1..=MOST_DESTINATIONS).contains(&found.len()));
                for one in found {
                    let again: Result<Destination, _> = one.to_string().parse();
                    prop_assert_eq!(again, Ok(one.clone()));
                    prop_assert!(!one.to_string().contains(['\r', '\n']));
                }
            }
        }

        #[test]
        fn no_octets_break_it(text in any::<String>()) {
            let _ = destinations(&[format!("v=TLSRPTv1; rua={text}"), text]);
        }
    }
}
