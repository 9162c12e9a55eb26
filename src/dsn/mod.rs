//! Delivery status notifications: RFC 3464 reports inside RFC 6522 `multipart/report`, in words for people first.
//!
//! `words` writes the part for people. Pure functions: who is told and when is decided in `queue`, what it says is decided here. A report is always sent with the
//! null reverse-path and never about another report; both are the callers' rule, this module has no say.
//! Addresses beyond ASCII make it a `message/global-delivery-status` (RFC 6533).

mod words;

use std::fmt::Write as _;

use bytes::Bytes;
use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Body, MultiPart, SinglePart};

use crate::model::failure::Failure;
use crate::model::mail::{Message, MessageId, Recipient, RecipientStatus};
use crate::model::time::Timestamp;
use crate::smtp::address::Mailbox;
use crate::smtp::parameters::Hold;
use crate::smtp::reply::EnhancedStatus;

/// Most of the original that travels back when its whole was asked for (RET=FULL); above, only its headers do.
pub const MAX_RETURNED: usize = 1024 * 1024;
/// Most of the original's headers that travel back.
pub const MAX_RETURNED_HEADERS: usize = 64 * 1024;

/// `Action` of RFC 3464, 2.3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Not delivered and not tried any more.
    Failed,
    /// Not delivered yet, tried further.
    Delayed,
    /// In the mailbox.
    Delivered,
    /// Taken by a host that may not report success itself.
    Relayed,
    /// Became several recipients.
    Expanded,
}

impl Action {
    /// The action that a recipient's status means: the only place where the one becomes the other.
    pub fn of(status: RecipientStatus) -> Action {
        match status {
            RecipientStatus::Pending => Action::Delayed,
            RecipientStatus::Delivered => Action::Delivered,
            RecipientStatus::Relayed => Action::Relayed,
            RecipientStatus::Expanded => Action::Expanded,
            RecipientStatus::Failed | RecipientStatus::Expired => Action::Failed,
        }
    }

    /// The word of RFC 3464.
    pub fn word(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Delivered => "delivered",
            Action::Relayed => "relayed",
            Action::Expanded => "expanded",
        }
    }
}

/// What of the original travels back.
#[derive(Debug, Clone)]
pub enum Original {
    /// Its headers, up to the empty line.
    Headers(Bytes),
    /// All of it.
    Full(Bytes),
}

/// Everything that a report says.
#[derive(Debug)]
pub struct Report<'a> {
    /// The message that it is about.
    pub about: &'a Message,
    /// The recipients that it is about, in the state that it reports.
    pub recipients: Vec<&'a Recipient>,
    /// The original, as far as it goes back.
    pub original: Original,
    /// Id of the report itself, for its Message-ID.
    pub id: MessageId,
    /// Name of the server that writes (Reporting-MTA).
    pub reporting_mta: &'a str,
    /// Whom it comes from.
    pub postmaster: &'a Mailbox,
    /// Whom it goes to.
    pub to: &'a Mailbox,
    /// Now.
    pub now: Timestamp,
    /// Until when a delayed message is tried.
    pub retry_until: Option<Timestamp>,
}

impl Report<'_> {
    /// True when the report can only travel as SMTPUTF8.
    pub fn needs_utf8(&self) -> bool {
        !self.to.is_ascii() || self.recipients.iter().any(|r| !r.forward_path.to_string().is_ascii())
    }

    /// The report as it is sent.
    pub fn compose(&self) -> Bytes {
        let boundary = format!("report-{}", self.id.0.simple());
        let kind = ContentType::parse(&format!(
            "multipart/report; report-type={}; boundary=\"{boundary}\"",
            if self.needs_utf8() { "global-delivery-status" } else { "delivery-status" }
        ))
        .expect("a fixed media type parses");
        let parts = MultiPart::builder()
            .header(kind)
            .singlepart(SinglePart::plain(self.words()))
            .singlepart(self.status_part())
            .singlepart(self.original_part());
        let mut content = self.header().into_bytes();
        content.extend_from_slice(&parts.formatted());
        Bytes::from(content)
    }

    fn action(&self) -> Action {
        self.recipients.first().map_or(Action::Failed, |recipient| Action::of(recipient.status))
    }

    fn header(&self) -> String {
        let subject = match self.action() {
            Action::Failed => "Undeliverable mail",
            Action::Delayed => "Delayed mail (still being tried)",
            Action::Delivered | Action::Relayed | Action::Expanded => "Delivery report",
        };
        let mut header = String::new();
        let _ = write!(header, "Date: {}\r\n", date_field(self.now));
        let _ = write!(header, "From: Mail Delivery System <{}>\r\n", self.postmaster);
        let _ = write!(header, "To: <{}>\r\n", self.to);
        let _ = write!(header, "Subject: {subject}\r\n");
        let _ = write!(header, "Message-ID: <{}@{}>\r\n", self.id, self.reporting_mta);
        if let Some(original) = self.about.message_id_header.as_deref().filter(|id| is_printable_ascii(id)) {
            let _ = write!(header, "In-Reply-To: <{original}>\r\n");
        }
        header.push_str("Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n");
        header
    }

    /// `message/delivery-status`: fields of the message, then a group of fields per recipient.
    fn status_part(&self) -> SinglePart {
        let utf8 = self.needs_utf8();
        let mut text = String::new();
        let _ = write!(text, "Reporting-MTA: dns; {}\r\n", self.reporting_mta);
        if let Some(envid) = self.about.parameters.envid.as_deref().filter(|id| is_printable_ascii(id)) {
            let _ = write!(text, "Original-Envelope-Id: {envid}\r\n");
        }
        let _ = write!(text, "Arrival-Date: {}\r\n", date_field(self.about.received_at));
        // RFC 2852, and RFC 4865
        if let Some((deadline, _)) = self.about.deliver_by() {
            let _ = write!(text, "Deliver-By-Date: {}\r\n", date_field(deadline));
        }
        match self.about.parameters.hold {
            None => {}
            Some(Hold::For(seconds)) => drop(write!(text, "Future-Release-Request: for;{seconds}\r\n")),
            Some(Hold::Until(_)) => {
                let _ = write!(text, "Future-Release-Request: until;{}\r\n", self.about.released_at());
            }
        }
        for recipient in &self.recipients {
            text.push_str("\r\n");
            if let Some(orcpt) = recipient.parameters.orcpt.as_ref() {
                let _ = write!(
                    text,
                    "Original-Recipient: {}; {}\r\n",
                    one_line(&orcpt.address_type),
                    one_line(&orcpt.address)
                );
            }
            let address = recipient.forward_path.to_string();
            let kind = if address.is_ascii() { "rfc822" } else { "utf-8" };
            let _ = write!(text, "Final-Recipient: {kind}; {address}\r\n");
            let _ = write!(text, "Action: {}\r\n", Action::of(recipient.status).word());
            let _ = write!(text, "Status: {}\r\n", status_of(recipient));
            if let Some(failure) = recipient.last_failure.as_ref().filter(|_| tells_failure(recipient)) {
                write_failure(&mut text, failure);
            }
            if let Some(until) = self.retry_until.filter(|_| recipient.status == RecipientStatus::Pending) {
                let _ = write!(text, "Will-Retry-Until: {}\r\n", date_field(until));
            }
        }
        let (kind, encoding) = if utf8 {
            ("message/global-delivery-status", ContentTransferEncoding::EightBit)
        } else {
            ("message/delivery-status", ContentTransferEncoding::SevenBit)
        };
        pre_encoded(kind, text.into_bytes(), encoding)
    }

    fn original_part(&self) -> SinglePart {
        let (kind, content) = match &self.original {
            Original::Headers(content) if content.is_ascii() => ("text/rfc822-headers", content),
            Original::Headers(content) => ("message/global-headers", content),
            // a message whose header is not ASCII is none of RFC 5322, and only as what it is may it be encoded on its way
            Original::Full(content) if self.about.parameters.smtputf8 || !headers_of(content).is_ascii() => {
                ("message/global", content)
            }
            Original::Full(content) => ("message/rfc822", content),
        };
        let encoding =
            if content.is_ascii() { ContentTransferEncoding::SevenBit } else { ContentTransferEncoding::EightBit };
        pre_encoded(kind, content.to_vec(), encoding)
    }
}

fn pre_encoded(kind: &str, content: Vec<u8>, encoding: ContentTransferEncoding) -> SinglePart {
    SinglePart::builder()
        .header(ContentType::parse(kind).expect("a fixed media type parses"))
        .body(Body::dangerous_pre_encoded(content, encoding))
}

/// The header section of a content: up to and with the empty line, at most [`MAX_RETURNED_HEADERS`] octets.
pub fn headers_of(content: &Bytes) -> Bytes {
    let end = memchr::memmem::find(content, b"\r\n\r\n").map_or(content.len(), |at| at + 2);
    content.slice(..end.min(MAX_RETURNED_HEADERS))
}

fn tells_failure(recipient: &Recipient) -> bool {
    matches!(recipient.status, RecipientStatus::Failed | RecipientStatus::Expired | RecipientStatus::Pending)
}

fn status_of(recipient: &Recipient) -> EnhancedStatus {
    let last = recipient.last_failure.as_ref().map(|failure| failure.status);
    match recipient.status {
        RecipientStatus::Delivered => EnhancedStatus::success(1, 5),
        RecipientStatus::Relayed | RecipientStatus::Expanded => EnhancedStatus::success(0, 0),
        RecipientStatus::Pending => last.unwrap_or(EnhancedStatus::transient(0, 0)),
        RecipientStatus::Failed => last.unwrap_or(EnhancedStatus::permanent(0, 0)),
        // RFC 3463, 3.5: delivery time expired
        RecipientStatus::Expired => EnhancedStatus::permanent(4, 7),
    }
}

fn write_failure(text: &mut String, failure: &Failure) {
    if let Some(mta) = &failure.remote_mta {
        let _ = write!(text, "Remote-MTA: dns; {}\r\n", one_line(mta));
    }
    let kind = if failure.remote_code.is_some() { "smtp" } else { "x-bridgehead" };
    let _ = write!(text, "Diagnostic-Code: {kind}; {}\r\n", folded(&one_line(&failure.diagnostic)));
}

/// Text that cannot break out of a header field or of the words for people.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(900).collect()
}

/// Folded at words so that no line is longer than 78 characters, where it has words (RFC 5322, 2.2.3).
fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut column = 24;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if column + word.len() > 76 {
            out.push_str("\r\n");
            column = 0;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        column += word.len() + 1;
    }
    out
}

fn is_printable_ascii(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// A point in time as header fields write it (RFC 5322, 3.3), in UTC.
pub fn date_field(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.millis())
        .map(|t| t.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string())
        .unwrap_or_else(|_| "Thu, 01 Jan 1970 00:00:00 +0000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::failure::Scope;
    use crate::model::mail::{Origin, Protocol};
    use crate::smtp::address::ReversePath;
    use crate::smtp::parameters::{ByMode, DeliverBy, MailParameters, RcptParameters};

    pub(super) fn message(status: RecipientStatus, address: &str) -> Message {
        Message {
            id: MessageId::generate(),
            received_at: Timestamp::from_millis(1_795_000_000_000),
            origin: Origin {
                protocol: Protocol::Esmtp,
                virtual_server: "default".parse().unwrap(),
                client: None,
                helo: None,
                account: None,
                api_key: None,
            },
            reverse_path: ReversePath::Mailbox("s@src.example".parse().unwrap()),
            parameters: MailParameters { envid: Some("QQ1".into()), ..MailParameters::default() },
            size: 100,
            message_id_header: Some("a@b".into()),
            subject: None,
            frozen: false,
            connector: None,
            idempotency: None,
            recipients: vec![Recipient {
                forward_path: address.parse().unwrap(),
                parameters: RcptParameters::default(),
                directory_name: None,
                status,
                waits: None,
                attempts: 1,
                delay_notified: false,
                last_failure: Some(Failure {
                    scope: Scope::Recipient,
                    status: EnhancedStatus::permanent(1, 1),
                    diagnostic: "550 5.1.1 no such user\r\nX-Evil: yes".into(),
                    remote_code: Some(550),
                    remote_mta: Some("mx.example".into()),
                }),
            }],
        }
    }

    pub(super) fn compose(message: &Message, original: Original) -> String {
        let postmaster = "postmaster@example.org".parse().unwrap();
        let to = "s@src.example".parse().unwrap();
        let report = Report {
            about: message,
            recipients: message.recipients.iter().collect(),
            original,
            id: MessageId::generate(),
            reporting_mta: "mail.example.org",
            postmaster: &postmaster,
            to: &to,
            now: Timestamp::from_millis(1_795_000_060_000),
            retry_until: Some(Timestamp::from_millis(1_795_100_000_000)),
        };
        String::from_utf8(report.compose().to_vec()).unwrap()
    }

    #[test]
    fn a_failure_has_all_fields_of_rfc_3464_and_nothing_breaks_out() {
        let message = message(RecipientStatus::Failed, "u@dst.example");
        let text = compose(&message, Original::Headers(Bytes::from_static(b"Subject: x\r\n\r\n")));
        for field in [
            "Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"",
            "Content-Type: message/delivery-status",
            "Reporting-MTA: dns; mail.example.org\r\n",
            "Original-Envelope-Id: QQ1\r\n",
            "Final-Recipient: rfc822; u@dst.example\r\n",
            "Action: failed\r\n",
            "Status: 5.1.1\r\n",
            "Remote-MTA: dns; mx.example\r\n",
            "Diagnostic-Code: smtp; 550 5.1.1 no such user",
            "Auto-Submitted: auto-replied\r\n",
            "text/rfc822-headers",
        ] {
            assert!(text.contains(field), "{field} in\n{text}");
        }
        assert!(!text.contains("\r\nX-Evil"));
        assert!(!text.contains("Will-Retry-Until"));
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "only CRLF ends lines");
    }

    #[test]
    fn a_delay_says_until_when() {
        let text = compose(
            &message(RecipientStatus::Pending, "u@dst.example"),
            Original::Full(Bytes::from_static(b"A: b\r\n\r\nc\r\n")),
        );
        assert!(text.contains("Action: delayed\r\n") && text.contains("Will-Retry-Until: "));
        assert!(text.contains("Content-Type: message/rfc822"));
    }

    #[test]
    fn what_the_sender_asked_for_in_time_is_told() {
        let mut message = message(RecipientStatus::Expired, "u@dst.example");
        message.parameters.hold = Some(Hold::For(3_600));
        message.parameters.deliver_by = Some(DeliverBy { seconds: 60, mode: ByMode::Return, trace: false });
        let text = compose(&message, Original::Headers(Bytes::new()));
        for field in [
            "Arrival-Date: Wed, 18 Nov 2026 11:06:40 +0000\r\n",
            "Deliver-By-Date: Wed, 18 Nov 2026 12:07:40 +0000\r\n",
            "Future-Release-Request: for;3600\r\n",
            "Status: 5.4.7\r\n",
        ] {
            assert!(text.contains(field), "{field} in\n{text}");
        }
    }

    #[test]
    fn utf8_recipients_make_it_global() {
        let text = compose(&message(RecipientStatus::Failed, "ü@dst.example"), Original::Headers(Bytes::new()));
        assert!(
            text.contains("message/global-delivery-status") && text.contains("Final-Recipient: utf-8; ü@dst.example")
        );
    }

    #[test]
    fn every_status_has_one_action() {
        assert_eq!(Action::of(RecipientStatus::Expired).word(), "failed");
        assert_eq!(Action::of(RecipientStatus::Pending).word(), "delayed");
    }
}
