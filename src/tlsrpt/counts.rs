//! What came of TLS with the hosts of each domain, counted by UTC day.
//!
//! A [`Seen`] session is counted in memory, under a lock that is held for no longer than that; files are written elsewhere
//! ([`super::kept`]). Whoever we send to decides how many domains, hosts and policies there are, so all of it is bounded:
//! what does not fit is counted where there is room, without its details, else not at all, and [`Day::passed_over`] tells how often.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use crate::model::time::Timestamp;

/// Days that are kept, today with them.
pub const MOST_DAYS: usize = 8;
/// Most domains of a day.
pub const MOST_DOMAINS: usize = 4_096;
/// Most policies of a domain on a day.
pub const MOST_POLICIES: usize = 16;
/// Most kinds of failure of a policy on a day.
pub const MOST_FAILURES: usize = 64;
/// The same, of all domains.
pub const MOST_FAILURES_OF_DAY: usize = 20_000;
/// Most octets of text of a day: policies, host names, reasons.
const MOST_TEXT: u64 = 8 << 20;
/// Most lines of a policy that are kept, and octets of each line.
const MOST_LINES: usize = 64;
/// Longest line, host name or reason, in octets.
const MOST_OCTETS: usize = 512;
const DAY_MILLIS: i64 = 86_400_000;

/// A day of the calendar in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DayNumber(i64);

impl DayNumber {
    /// The day of a point in time.
    pub fn of(time: Timestamp) -> Self {
        DayNumber(time.millis().div_euclid(DAY_MILLIS))
    }

    /// When it begins.
    pub fn begins(self) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_mul(DAY_MILLIS))
    }

    /// When it is over: the beginning of the next.
    pub fn ends(self) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_add(1).saturating_mul(DAY_MILLIS))
    }

    /// How many days ago `self` was on `today`; negative for a day to come.
    pub fn days_before(self, today: DayNumber) -> i64 {
        today.0.saturating_sub(self.0)
    }
}

/// `2026-11-29`.
impl fmt::Display for DayNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.begins().to_string();
        f.write_str(text.split('T').next().unwrap_or_default())
    }
}

impl FromStr for DayNumber {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let time: Option<Timestamp> = format!("{text}T00:00:00Z").parse().ok();
        let day = time.map(DayNumber::of).filter(|day| day.to_string() == text);
        day.ok_or("a day is written as 2026-11-29")
    }
}

impl Serialize for DayNumber {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DayNumber {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whose policy a session was held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TlsPolicyType)]
pub enum PolicyType {
    /// TLSA records (DANE).
    Tlsa,
    /// An MTA-STS policy.
    Sts,
    /// The domain has neither.
    NoPolicyFound,
    /// A setting of ours, by which the domain's policies were not looked for. Reports leave it out.
    Own,
}

impl PolicyType {
    /// The word of RFC 8460, 4.4; `None` for what it has no word for.
    pub fn word(self) -> Option<&'static str> {
        match self {
            PolicyType::Tlsa => Some("tlsa"),
            PolicyType::Sts => Some("sts"),
            PolicyType::NoPolicyFound => Some("no-policy-found"),
            PolicyType::Own => None,
        }
    }
}

/// What failed (RFC 8460, 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TlsResultType)]
pub enum ResultType {
    /// The host does not offer STARTTLS, or refuses it.
    StarttlsNotSupported,
    /// The certificate is for another host.
    CertificateHostMismatch,
    /// The certificate is not valid any more, or not yet.
    CertificateExpired,
    /// Nobody who is trusted vouches for the certificate, or no TLSA record fits it.
    CertificateNotTrusted,
    /// Anything else: the reason says what.
    ValidationFailure,
    /// None of the host's TLSA records can be used.
    TlsaInvalid,
    /// DNSSEC does not vouch for what DNS says.
    DnssecInvalid,
    /// TLSA records are needed by a setting of ours, and there are none.
    DaneRequired,
    /// The MTA-STS policy cannot be got.
    StsPolicyFetchError,
    /// The MTA-STS policy is not well formed.
    StsPolicyInvalid,
    /// The certificate of the MTA-STS policy's host is not good.
    StsWebpkiInvalid,
}

impl ResultType {
    /// The word of RFC 8460, 4.3.
    pub fn word(self) -> &'static str {
        match self {
            ResultType::StarttlsNotSupported => "starttls-not-supported",
            ResultType::CertificateHostMismatch => "certificate-host-mismatch",
            ResultType::CertificateExpired => "certificate-expired",
            ResultType::CertificateNotTrusted => "certificate-not-trusted",
            ResultType::ValidationFailure => "validation-failure",
            ResultType::TlsaInvalid => "tlsa-invalid",
            ResultType::DnssecInvalid => "dnssec-invalid",
            ResultType::DaneRequired => "dane-required",
            ResultType::StsPolicyFetchError => "sts-policy-fetch-error",
            ResultType::StsPolicyInvalid => "sts-policy-invalid",
            ResultType::StsWebpkiInvalid => "sts-webpki-invalid",
        }
    }
}

/// A policy as a session met it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Whose it is.
    pub kind: PolicyType,
    /// Its text: the lines of an MTA-STS policy, or TLSA records.
    pub lines: Vec<String>,
    /// The hosts that an MTA-STS policy names.
    pub hosts: Vec<String>,
}

impl Policy {
    /// One of which nothing more is known.
    pub fn bare(kind: PolicyType) -> Self {
        Policy { kind, lines: Vec::new(), hosts: Vec::new() }
    }
}

/// What failed, with whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// What.
    pub result: ResultType,
    /// In words, where they say more.
    pub reason: Option<String>,
    /// Our address.
    pub sending: Option<IpAddr>,
    /// The host by name.
    pub host: String,
    /// Its address.
    pub receiving: Option<IpAddr>,
}

/// A session with a host of a domain, or that there was none for the sake of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The domain that the mail was for, as A-labels in lower case.
    pub domain: String,
    /// What it was held to.
    pub policy: Policy,
    /// What failed; `None`: nothing.
    pub failed: Option<Failed>,
}

/// A day.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Day {
    /// The domains that we had sessions with, or would have had.
    pub domains: BTreeMap<String, OfDomain>,
    /// Sessions that there was no room to count.
    pub passed_over: u64,
    /// Kinds of failure, of all domains.
    #[serde(default)]
    kinds: usize,
    /// Octets of text.
    #[serde(default)]
    text: u64,
}

/// What was counted of a domain, and what became of its report.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfDomain {
    /// By policy.
    pub policies: Vec<OfPolicy>,
    /// Its report, once the day is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<super::state::Report>,
}

/// What was counted of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfPolicy {
    /// The policy.
    pub policy: Policy,
    /// Sessions in which it held.
    pub successes: u64,
    /// Sessions in which it did not.
    pub failures: u64,
    /// The latter by what failed; those beyond [`MOST_FAILURES`] kinds are in the sum alone.
    pub details: Vec<(Failed, u64)>,
}

impl OfDomain {
    /// Whether there is anything to tell the domain.
    pub fn is_reportable(&self) -> bool {
        self.policies.iter().any(|of| of.policy.kind.word().is_some())
    }
}

impl Day {
    /// Counts one.
    pub fn count(&mut self, seen: Seen) {
        let Seen { domain, mut policy, failed } = seen;
        if !self.domains.contains_key(&domain) && self.domains.len() >= MOST_DOMAINS {
            self.passed_over = self.passed_over.saturating_add(1);
            return;
        }
        [&mut policy.lines, &mut policy.hosts].into_iter().for_each(|lines| {
            lines.truncate(MOST_LINES);
            lines.iter_mut().for_each(cut);
        });
        let policies = &mut self.domains.entry(domain).or_default().policies;
        let is = |policy: &Policy| policies.iter().position(|of| of.policy == *policy);
        let mut same = is(&policy);
        let text = policy.lines.iter().chain(&policy.hosts).map(|line| line.len() as u64).sum::<u64>();
        if same.is_none() && self.text + text > MOST_TEXT {
            policy = Policy::bare(policy.kind);
            same = is(&policy);
        }
        let at = match same {
            Some(at) => at,
            None if policies.len() < MOST_POLICIES => {
                self.text += policy.lines.iter().chain(&policy.hosts).map(|line| line.len() as u64).sum::<u64>();
                policies.push(OfPolicy { policy, successes: 0, failures: 0, details: Vec::new() });
                policies.len() - 1
            }
            None => match policies.iter().rposition(|of| of.policy.kind == policy.kind) {
                Some(at) => at,
                None => {
                    self.passed_over = self.passed_over.saturating_add(1);
                    return;
                }
            },
        };
        let of = &mut policies[at];
        let Some(mut failed) = failed else {
            of.successes = of.successes.saturating_add(1);
            return;
        };
        of.failures = of.failures.saturating_add(1);
        cut(&mut failed.host);
        failed.reason.iter_mut().for_each(cut);
        match of.details.iter_mut().find(|(other, _)| *other == failed) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => {
                let text = (failed.host.len() + failed.reason.as_ref().map_or(0, String::len)) as u64;
                if self.kinds < MOST_FAILURES_OF_DAY
                    && of.details.len() < MOST_FAILURES
                    && self.text + text <= MOST_TEXT
                {
                    of.details.push((failed, 1));
                    (self.kinds, self.text) = (self.kinds + 1, self.text + text);
                }
            }
        }
    }
}

fn cut(text: &mut String) {
    if text.len() > MOST_OCTETS {
        text.truncate(text.floor_char_boundary(MOST_OCTETS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(domain: &str, lines: &[&str], failed: Option<(ResultType, &str)>) -> Seen {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        let failed = failed.map(|(result, host)| Failed {
            result,
            reason: None,
            sending: "192.0.2.1".parse().ok(),
            host: host.to_owned(),
            receiving: "192.0.2.2".parse().ok(),
        });
        Seen { domain: domain.to_owned(), policy: Policy { kind: PolicyType::Tlsa, lines, hosts: Vec::new() }, failed }
    }

    #[test]
    fn days() {
        let day = DayNumber::of("2026-11-29T23:59:59.999Z".parse().unwrap());
        assert_eq!(day.to_string(), "2026-11-29");
        assert_eq!(day.ends().to_string(), "2026-11-30T00:00:00.000Z");
        assert_eq!(DayNumber::of(day.ends()).days_before(day), -1);
        assert_eq!("2026-11-29".parse(), Ok(day));
        assert_eq!(DayNumber::of(Timestamp::from_millis(-1)).to_string(), "1969-12-31");
        for bad in ["", "2026-11-31", "2026-11-29T00:00:00Z", "29", "2026-1-2", "../x"] {
            assert!(bad.parse::<DayNumber>().is_err(), "{bad}");
        }
    }

    #[test]
    fn like_is_counted_with_like() {
        let mut day = Day::default();
        let expired = ResultType::CertificateExpired;
        for one in [
            seen("a.example", &["1"], None),
            seen("a.example", &["1"], None),
            seen("a.example", &["1"], Some((expired, "mx1"))),
            seen("a.example", &["1"], Some((expired, "mx1"))),
            seen("a.example", &["1"], Some((expired, "mx2"))),
            seen("a.example", &["2"], None),
            seen("b.example", &["1"], None),
        ] {
            day.count(one);
        }
        let a = &day.domains["a.example"].policies;
        assert_eq!((day.domains.len(), a.len(), a[0].successes, a[0].failures), (2, 2, 2, 3));
        assert_eq!(a[0].details.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn whoever_has_endless_domains_policies_and_hosts_fills_no_memory() {
        let mut day = Day::default();
        let failed = Some((ResultType::ValidationFailure, "mx"));
        for n in 0..MOST_DOMAINS + 10 {
            day.count(seen(&format!("d{n}.example"), &[], None));
        }
        assert_eq!((day.domains.len(), day.passed_over), (MOST_DOMAINS, 10));
        for n in 0..MOST_POLICIES * 2 {
            day.count(seen("d0.example", &[&n.to_string()], failed));
        }
        for n in 0..MOST_FAILURES * 2 {
            day.count(seen("d1.example", &[], Some((ResultType::ValidationFailure, &format!("mx{n}")))));
        }
        let (d0, d1) = (&day.domains["d0.example"].policies, &day.domains["d1.example"].policies);
        assert_eq!(d0.len(), MOST_POLICIES);
        let sum: u64 = d0.iter().map(|of| of.failures).sum();
        assert_eq!(sum, MOST_POLICIES as u64 * 2, "what does not fit counts with the last");
        assert_eq!((d1[0].details.len(), d1[0].failures), (MOST_FAILURES, MOST_FAILURES as u64 * 2));
        let long = "ä".repeat(10_000);
        day.count(seen("d2.example", &[long.as_str(); 1_000], Some((ResultType::ValidationFailure, &long))));
        let d2 = day.domains["d2.example"].policies.last().unwrap();
        assert_eq!((d2.policy.lines.len(), d2.policy.lines[0].len()), (MOST_LINES, MOST_OCTETS));
        assert_eq!(d2.details[0].0.host.len(), MOST_OCTETS);
        let kinds = |day: &Day| {
            let policies = day.domains.values().flat_map(|domain| &domain.policies);
            policies.map(|policy| policy.details.len()).sum::<usize>()
        };
        for n in 0..400 {
            for host in 0..MOST_FAILURES {
                let failed = Some((ResultType::TlsaInvalid, host.to_string()));
                let failed = failed.as_ref().map(|(result, host)| (*result, host.as_str()));
                day.count(seen(&format!("d{}.example", n + 10), &[], failed));
            }
        }
        assert_eq!(kinds(&day), MOST_FAILURES_OF_DAY);
        let last = &day.domains["d409.example"].policies[0];
        assert_eq!((last.details.len(), last.failures), (0, MOST_FAILURES as u64), "the sum stays right");
        for n in 0..600 {
            let lines: Vec<String> = (0..MOST_LINES).map(|line| format!("{n} {line} {}", "x".repeat(500))).collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            day.count(seen(&format!("d{}.example", n + 1_000), &lines, None));
        }
        let text = |policy: &Policy| policy.lines.iter().map(String::len).sum::<usize>();
        let policies = day.domains.values().flat_map(|domain| &domain.policies);
        assert!(policies.map(|of| text(&of.policy)).sum::<usize>() as u64 <= MOST_TEXT);
        let last = &day.domains["d1599.example"].policies;
        assert_eq!((last.len(), last[0].successes), (1, 2), "it counts without its text");
    }
}
