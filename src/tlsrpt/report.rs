//! A report as the domain gets it: JSON (RFC 8460, 4), compressed by gzip, by POST or in a message (5.3).

use std::fmt::Write as _;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{MultiPart, SinglePart};
use serde_json::{Map, Value, json};

use super::counts::{DayNumber, Failed, OfDomain, OfPolicy};
use crate::dsn::date_field;
use crate::model::time::Timestamp;
use crate::smtp::address::Mailbox;

/// The media type of a report that is compressed.
pub const MEDIA_TYPE: &str = "application/tlsrpt+gzip";

/// `Content-Disposition` with the file's name in one piece, however long it is: lettre cuts what is longer than a line (RFC 2231),
/// and not every receiver puts that together again.
#[derive(Debug, Clone)]
struct Attachment(String);

impl Header for Attachment {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Content-Disposition")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Err("it is only written".into())
    }

    fn display(&self) -> HeaderValue {
        let (raw, folded) =
            (format!("attachment; filename=\"{}\"", self.0), format!("attachment;\r\n filename=\"{}\"", self.0));
        HeaderValue::dangerous_new_pre_encoded(Self::name(), raw, folded)
    }
}

/// Everything that a report says, and as whose.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    /// Its id.
    pub id: uuid::Uuid,
    /// The day.
    pub day: DayNumber,
    /// The domain that it is about.
    pub domain: &'a str,
    /// What was counted.
    pub counted: &'a OfDomain,
    /// Our organization.
    pub organization: &'a str,
    /// Whom to ask.
    pub contact: &'a Mailbox,
    /// Our domain, as A-labels.
    pub submitter: &'a str,
}

impl Report<'_> {
    /// As JSON.
    pub fn json(&self) -> Value {
        let last = self.day.ends() - std::time::Duration::from_secs(1);
        json!({
            "organization-name": self.organization,
            "date-range": {"start-datetime": seconds(self.day.begins()), "end-datetime": seconds(last)},
            "contact-info": self.contact.to_string(),
            "report-id": self.full_id(),
            "policies": self.counted.policies.iter().filter_map(|of| self.policy(of)).collect::<Vec<_>>(),
        })
    }

    /// The same, compressed.
    pub fn gzip(&self) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        // nothing fails in memory
        let _ = encoder.write_all(self.json().to_string().as_bytes());
        encoder.finish().unwrap_or_default()
    }

    /// As a message.
    pub fn message(&self, from: &Mailbox, to: &Mailbox, now: Timestamp) -> Bytes {
        let kind = ContentType::parse(&format!(
            "multipart/report; report-type=tlsrpt; boundary=\"report-{}\"",
            self.id.simple()
        ))
        .expect("a fixed media type parses");
        let words = format!(
            "A report about the TLS of mail to {}\r\non {} (UTC),\r\nby {}.\r\n\
             What it says is in the attached file, as RFC 8460 has it.\r\n",
            self.domain, self.day, self.submitter
        );
        let file = Attachment(self.file_name());
        let attached = SinglePart::builder()
            .header(ContentType::parse(MEDIA_TYPE).expect("a fixed media type parses"))
            .header(file)
            .body(self.gzip());
        let parts = MultiPart::builder().header(kind).singlepart(SinglePart::plain(words)).singlepart(attached);
        let mut content = self.header(from, to, now).into_bytes();
        content.extend_from_slice(&parts.formatted());
        Bytes::from(content)
    }

    /// What stands in `Message-ID` and in the report itself.
    pub fn full_id(&self) -> String {
        format!("{}@{}", self.id, self.submitter)
    }

    fn header(&self, from: &Mailbox, to: &Mailbox, now: Timestamp) -> String {
        let mut header = String::new();
        let _ = write!(header, "Date: {}\r\n", date_field(now));
        let _ = write!(header, "From: <{from}>\r\nTo: <{to}>\r\n");
        // folded where a line could get long (RFC 5322, 2.2.3)
        let _ = write!(
            header,
            "Subject: Report Domain: {}\r\n Submitter: {}\r\n Report-ID: <{}>\r\n",
            self.domain,
            self.submitter,
            self.full_id()
        );
        let _ = write!(header, "Message-ID: <{}>\r\n", self.full_id());
        let _ = write!(header, "TLS-Report-Domain: {}\r\nTLS-Report-Submitter: {}\r\n", self.domain, self.submitter);
        header.push_str("Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n");
        header
    }

    /// RFC 8460, 5.1: sender, domain, begin, end. There is one of a day, so that it needs no id besides.
    fn file_name(&self) -> String {
        let seconds = |time: Timestamp| time.millis().div_euclid(1_000);
        let (begin, end) = (seconds(self.day.begins()), seconds(self.day.ends()) - 1);
        format!("{}!{}!{begin}!{end}.json.gz", self.submitter, self.domain)
    }

    /// `None` for what RFC 8460 has no word for.
    fn policy(&self, of: &OfPolicy) -> Option<Value> {
        let mut policy = Map::new();
        policy.insert("policy-type".to_owned(), of.policy.kind.word()?.into());
        if !of.policy.lines.is_empty() {
            policy.insert("policy-string".to_owned(), json!(of.policy.lines));
        }
        policy.insert("policy-domain".to_owned(), self.domain.into());
        if !of.policy.hosts.is_empty() {
            policy.insert("mx-host".to_owned(), json!(of.policy.hosts));
        }
        let mut all = json!({
            "policy": policy,
            "summary": {
                "total-successful-session-count": of.successes, "total-failure-session-count": of.failures,
            },
        });
        if !of.details.is_empty() {
            all["failure-details"] = of.details.iter().map(|(failed, count)| detail(failed, *count)).collect();
        }
        Some(all)
    }
}

fn detail(failed: &Failed, count: u64) -> Value {
    let mut detail = json!({"result-type": failed.result.word(), "failed-session-count": count});
    let optional = [
        ("sending-mta-ip", failed.sending.map(|address| address.to_string())),
        ("receiving-mx-hostname", Some(failed.host.clone()).filter(|host| !host.is_empty())),
        ("receiving-ip", failed.receiving.map(|address| address.to_string())),
        ("failure-reason-code", failed.reason.clone()),
    ];
    for (name, value) in optional.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        detail[name] = value.into();
    }
    detail
}

/// RFC 3339 without fractions.
fn seconds(time: Timestamp) -> String {
    let text = time.to_string();
    text.split_once('.').map_or(text.clone(), |(whole, _)| format!("{whole}Z"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::tlsrpt::counts::{Day, Policy, PolicyType, ResultType, Seen};

    #[test]
    fn a_report_says_what_was_counted_in_the_words_of_the_rfc() {
        let mut day = Day::default();
        let sts = Policy {
            kind: PolicyType::Sts,
            lines: vec!["version: STSv1".into(), "mode: testing".into()],
            hosts: vec!["*.mail.d.example".into()],
        };
        let failed = Failed {
            result: ResultType::CertificateExpired,
            reason: Some("certificate expired".into()),
            sending: "2001:db8::1".parse().ok(),
            host: "mx.mail.d.example".into(),
            receiving: None,
        };
        let domain = || "d.example".to_owned();
        day.count(Seen { domain: domain(), policy: sts.clone(), failed: None });
        day.count(Seen { domain: domain(), policy: sts, failed: Some(failed) });
        day.count(Seen { domain: domain(), policy: Policy::bare(PolicyType::Own), failed: None });
        let (contact, to): (Mailbox, Mailbox) =
            ("postmaster@us.example".parse().unwrap(), "r@d.example".parse().unwrap());
        let report = Report {
            id: uuid::Uuid::nil(),
            day: "2026-11-29".parse().unwrap(),
            domain: "d.example",
            counted: &day.domains["d.example"],
            organization: "Us \"&\" Co",
            contact: &contact,
            submitter: "us.example",
        };
        let expected = json!({
            "organization-name": "Us \"&\" Co",
            "date-range": {"start-datetime": "2026-11-29T00:00:00Z", "end-datetime": "2026-11-29T23:59:59Z"},
            "contact-info": "postmaster@us.example",
            "report-id": "00000000-0000-0000-0000-000000000000@us.example",
            "policies": [{
                "policy": {
                    "policy-type": "sts", "policy-string": ["version: STSv1", "mode: testing"],
                    "policy-domain": "d.example", "mx-host": ["*.mail.d.example"],
                },
                "summary": {"total-successful-session-count": 1, "total-failure-session-count": 1},
                "failure-details": [{
                    "result-type": "certificate-expired", "failed-session-count": 1, "sending-mta-ip": "2001:db8::1",
                    "receiving-mx-hostname": "mx.mail.d.example", "failure-reason-code": "certificate expired",
                }],
            }],
        });
        assert_eq!(report.json(), expected, "what no owner of a domain asked for is not told to one");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&report.gzip()[..]).read_to_string(&mut text).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);

        let message = String::from_utf8(report.message(&contact, &to, report.day.ends()).to_vec()).unwrap();
        for words in [
            "Subject: Report Domain: d.example\r\n Submitter: us.example\r\n Report-ID: <0000",
            "\r\nTLS-Report-Domain: d.example\r\nTLS-Report-Submitter: us.example\r\n",
            "\r\nContent-Type: multipart/report; report-type=tlsrpt;\r\n boundary=\"report-",
            "\r\nContent-Type: application/tlsrpt+gzip\r\n",
            " filename=\"us.example!d.example!1795910400!1795996799.json.gz\"\r\n",
        ] {
            assert!(message.contains(words), "{words}: {message}");
        }
        assert!(message.is_ascii() && message.lines().all(|line| line.len() < 200), "{message}");
    }
}
