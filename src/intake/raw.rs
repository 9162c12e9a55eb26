//! A message that comes as it is (`message/rfc822`): what its header says of sender and recipients, and what it lacks.
//!
//! The header section is held (at most 1 MiB), the rest streams through. Bcc fields are taken out; Date and Message-ID are added
//! where they are missing; nothing else is changed but line ends: a CR or LF that stands alone becomes CRLF, as files on
//! Unix have it. What is no header, holds NUL, or has lines over 998 octets is refused.

use bytes::{Bytes, BytesMut};
use mail_parser::{HeaderName, HeaderValue, MessageParser};

use super::header::MAX_HEADER;
use crate::model::mail::MessageId;
use crate::model::time::Timestamp;
use crate::smtp::address::Mailbox;
use crate::smtp::data::{BareLineEnds, Decoder, Piece};
use crate::smtp::parameters::Body;

/// Longest line with its CRLF (RFC 5322, 2.1.1).
const MAX_LINE: usize = 1_000;
/// Most addresses that a header is read for.
const MAX_ADDRESSES: usize = 100_001;

/// Why content cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    /// The header section has no end within its limit.
    #[error("the header section is longer than 1 MiB")]
    HeaderTooLong,
    /// A line of the header is neither a field nor a continuation.
    #[error("line {0} is no header field (Name: value)")]
    NoField(usize),
    /// There is no From field.
    #[error("there is no From field")]
    NoFrom,
    /// A field that says who a message is from, and of which there can be one (RFC 5322, 3.6), is there again: readers would
    /// show the one or the other.
    #[error("there is more than one {0} field")]
    Repeated(&'static str),
    /// An address in a field cannot be read.
    #[error("an address in {field} cannot be read: {address:?}")]
    Address {
        /// The name of the field.
        field: &'static str,
        /// What is there.
        address: String,
    },
    /// NUL.
    #[error("it holds a NUL character")]
    Nul,
    /// A line that no server takes.
    #[error("it has a line of more than 998 characters")]
    LongLine,
}

/// Reads content as it comes.
#[derive(Debug)]
pub struct Reader {
    decoder: Decoder,
    open: BytesMut,
    /// The header section, until it is whole.
    head: Option<Vec<u8>>,
    eight_bit: bool,
    /// The last line has no end yet.
    in_line: bool,
}

/// The header section of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The fields without Bcc, each with its CRLF.
    fields: Vec<u8>,
    /// From.
    pub from: Vec<Mailbox>,
    /// Sender; nobody who writes well names two.
    pub senders: Vec<Mailbox>,
    /// To, Cc and Bcc.
    pub recipients: Vec<Mailbox>,
    has_date: bool,
    has_message_id: bool,
}

/// What came of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// The header section is whole.
    Head(Head),
    /// Content behind it.
    Text(Bytes),
}

impl Default for Reader {
    fn default() -> Self {
        let decoder = Decoder::of_chunks(BareLineEnds::Normalise, MAX_LINE);
        Reader { decoder, open: BytesMut::new(), head: Some(Vec::new()), eight_bit: false, in_line: false }
    }
}

impl Reader {
    /// Reads the next chunk.
    ///
    /// # Errors
    /// When the content cannot be taken.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Vec<Read>, RawError> {
        if memchr::memchr(0, chunk).is_some() {
            return Err(RawError::Nul);
        }
        self.open.extend_from_slice(chunk);
        let mut read = Vec::new();
        while let Piece::Text(text) = self.decoder.next(&mut self.open) {
            self.take(text, &mut read)?;
        }
        Ok(read)
    }

    /// The end of the content.
    ///
    /// # Errors
    /// When the content cannot be taken.
    pub fn finish(&mut self) -> Result<Vec<Read>, RawError> {
        // the last line has an end, too: of a CR that is still open, or of text
        let mut read = match (self.open.is_empty(), self.in_line) {
            (false, _) => self.feed(b"\n")?,
            (true, true) => self.feed(b"\r\n")?,
            (true, false) => Vec::new(),
        };
        if let Some(head) = self.head.take() {
            // nothing but a header
            read.push(Read::Head(Head::read(&head)?));
        }
        Ok(read)
    }

    /// What the content is made of.
    pub fn body(&self) -> Body {
        if self.eight_bit { Body::EightBitMime } else { Body::SevenBit }
    }

    fn take(&mut self, text: Bytes, read: &mut Vec<Read>) -> Result<(), RawError> {
        if self.decoder.has_long_lines() {
            return Err(RawError::LongLine);
        }
        self.eight_bit |= !text.is_ascii();
        self.in_line = !text.ends_with(b"\n");
        let Some(head) = &mut self.head else {
            read.push(Read::Text(text));
            return Ok(());
        };
        let looked_at = head.len().saturating_sub(3);
        head.extend_from_slice(&text);
        let end = match head.starts_with(b"\r\n") {
            true => Some((0, 2)),
            false => {
                memchr::memmem::find(&head[looked_at..], b"\r\n\r\n").map(|at| (looked_at + at + 2, looked_at + at + 4))
            }
        };
        let Some((end, behind)) = end else {
            return if head.len() as u64 > MAX_HEADER { Err(RawError::HeaderTooLong) } else { Ok(()) };
        };
        if end as u64 > MAX_HEADER {
            return Err(RawError::HeaderTooLong);
        }
        let rest = Bytes::copy_from_slice(&head[behind..]);
        read.push(Read::Head(Head::read(&head[..end])?));
        self.head = None;
        if !rest.is_empty() {
            read.push(Read::Text(rest));
        }
        Ok(())
    }
}

impl Head {
    /// Reads fields, each with its CRLF.
    fn read(head: &[u8]) -> Result<Head, RawError> {
        let mut fields = Vec::with_capacity(head.len());
        let (mut kept, mut has_date, mut has_message_id) = (true, false, false);
        let (mut has_from, mut has_sender) = (false, false);
        let mut begun = false;
        for (number, line) in lines(head).enumerate() {
            if !matches!(line.first(), Some(b' ' | b'\t')) {
                let name = name(line).ok_or(RawError::NoField(number + 1))?;
                let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
                kept = !is("Bcc") && !is("Resent-Bcc");
                has_date |= is("Date");
                has_message_id |= is("Message-ID");
                for (field, seen) in [("From", &mut has_from), ("Sender", &mut has_sender)] {
                    if is(field) && std::mem::replace(seen, true) {
                        return Err(RawError::Repeated(field));
                    }
                }
            } else if !begun {
                return Err(RawError::NoField(number + 1));
            }
            begun = true;
            if kept {
                fields.extend_from_slice(line);
            }
        }
        let mut whole = head.to_vec();
        whole.extend_from_slice(b"\r\n");
        let parser = MessageParser::new().with_address_headers();
        let parsed = parser.parse_headers(&whole).ok_or(RawError::NoFrom)?;
        let all = |field, name| mailboxes(&parsed, field, name);
        let from = all("From", HeaderName::From)?;
        if from.is_empty() {
            return Err(RawError::NoFrom);
        }
        let mut recipients = all("To", HeaderName::To)?;
        recipients.extend(all("Cc", HeaderName::Cc)?);
        recipients.extend(all("Bcc", HeaderName::Bcc)?);
        recipients.truncate(MAX_ADDRESSES);
        let senders = all("Sender", HeaderName::Sender)?;
        Ok(Head { fields, from, senders, recipients, has_date, has_message_id })
    }

    /// The header section as it is sent, with what was missing and the empty line behind it.
    pub fn complete(&self, id: MessageId, fqdn: &str, now: Timestamp) -> Bytes {
        let mut head = Vec::with_capacity(self.fields.len() + 160);
        if !self.has_date {
            head.extend_from_slice(format!("Date: {}\r\n", crate::dsn::date_field(now)).as_bytes());
        }
        if !self.has_message_id {
            head.extend_from_slice(format!("Message-ID: <{id}@{fqdn}>\r\n").as_bytes());
        }
        head.extend_from_slice(&self.fields);
        head.extend_from_slice(b"\r\n");
        head.into()
    }
}

/// The addresses that the value of a Sender field names; it holds no line end.
///
/// # Errors
/// When one of them cannot be read.
pub fn senders(value: &str) -> Result<Vec<Mailbox>, RawError> {
    let field = format!("Sender: {value}\r\n\r\n");
    match MessageParser::new().with_address_headers().parse_headers(&field) {
        Some(parsed) => mailboxes(&parsed, "Sender", HeaderName::Sender),
        None => Ok(Vec::new()),
    }
}

fn mailboxes(
    parsed: &mail_parser::Message<'_>,
    field: &'static str,
    name: HeaderName<'static>,
) -> Result<Vec<Mailbox>, RawError> {
    let mut found = Vec::new();
    for value in parsed.header_values(name) {
        let HeaderValue::Address(addresses) = value else { continue };
        for one in addresses.iter().take(MAX_ADDRESSES) {
            let address = one.address.as_deref().unwrap_or_default();
            let mailbox = address.parse::<Mailbox>();
            found.push(mailbox.map_err(|_| RawError::Address { field, address: shown(one) })?);
        }
    }
    Ok(found)
}

fn shown(address: &mail_parser::Addr<'_>) -> String {
    let text = address.address.as_deref().or(address.name.as_deref()).unwrap_or_default();
    text.chars().take(100).collect()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|octet| *octet == b'\n')
}

/// The name of the field that a line begins (RFC 5322, 2.2; with the white space of 4.5 before the colon).
fn name(line: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head, and the content behind it; the same however it is cut.
    fn read(content: &[u8]) -> Result<(Head, Vec<u8>, Body), RawError> {
        let one = |size: usize| {
            let mut reader = Reader::default();
            let mut found = Vec::new();
            for chunk in content.chunks(size) {
                found.extend(reader.feed(chunk)?);
            }
            found.extend(reader.finish()?);
            let (mut head, mut text) = (None, Vec::new());
            for one in found {
                match one {
                    Read::Head(read) => assert!(head.replace(read).is_none() && text.is_empty()),
                    Read::Text(more) => text.extend_from_slice(&more),
                }
            }
            Ok((head.expect("a head"), text, reader.body()))
        };
        let whole = one(content.len().max(1));
        for size in 1..content.len().min(200) {
            assert_eq!(one(size), whole, "in pieces of {size}");
        }
        whole
    }

    fn sent(content: &str) -> String {
        let (head, text, _) = read(content.as_bytes()).unwrap();
        let head = head.complete(MessageId(uuid::Uuid::nil()), "mx.example", Timestamp::EPOCH);
        String::from_utf8([&head[..], &text].concat()).unwrap()
    }

    #[test]
    fn what_is_missing_is_added_and_bcc_is_taken_out() {
        assert_eq!(
            sent("From: a@b\nBCC : x@y,\n z@y\nTo: c@d\nbcc:\n\nhello\n.\nbcc: stays\n"),
            "Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n\
             Message-ID: <00000000-0000-0000-0000-000000000000@mx.example>\r\n\
             From: a@b\r\nTo: c@d\r\n\r\nhello\r\n.\r\nbcc: stays\r\n"
        );
        let whole = "Date: x\r\nmessage-id: <1@2>\r\nFrom: a@b\r\n\r\nx\r\n\r\n";
        assert_eq!(sent(whole), whole);
        assert!(sent("From: a@b").ends_with("From: a@b\r\n\r\n"), "nothing but a header");
        assert!(sent("From: a@b\r").ends_with("From: a@b\r\n\r\n"));
        assert!(sent("From: a@b\r\n\r\n").ends_with("From: a@b\r\n\r\n"));
    }

    #[test]
    fn the_envelope_is_read_from_the_header() {
        let text = "From: Ada <a@b>\r\nSender: s@b\r\nTo: \"B, C\" <c@d>, group: e@f, g@h;\r\nCc: i@j (comment)\r\n\
                    To: again@d\r\nBcc: k@l\r\n\r\n";
        let (head, _, _) = read(text.as_bytes()).unwrap();
        let found: Vec<String> = head.recipients.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["c@d", "e@f", "g@h", "again@d", "i@j", "k@l"]);
        assert_eq!((head.from[0].to_string(), head.senders[0].to_string()), ("a@b".into(), "s@b".into()));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let long = format!("From: a@b\r\n\r\n{}\r\n", "x".repeat(999));
        let long_and_open = format!("From: a@b\r\n\r\n{}", "x".repeat(999));
        let head = format!("From: a@b\r\n{}\r\n", "X: y\r\n".repeat(200_000));
        for (content, expected) in [
            ("", RawError::NoFrom),
            ("\r\nx", RawError::NoFrom),
            ("Subject: x\r\n\r\nx", RawError::NoFrom),
            ("From a@b Mon\r\nFrom: a@b\r\n\r\n", RawError::NoField(1)),
            ("From: a@b\r\n: x\r\n\r\n", RawError::NoField(2)),
            (" x\r\nFrom: a@b\r\n\r\n", RawError::NoField(1)),
            ("From: a@b\r\nTo: c@d\r\nFROM : e@f\r\n\r\n", RawError::Repeated("From")),
            ("From: a@b\r\nSender: c@d\r\nsender: e@f\r\n\r\n", RawError::Repeated("Sender")),
            ("From: a@b\r\nX: \0\r\n\r\n", RawError::Nul),
            ("From: a@b\r\n\r\n\0", RawError::Nul),
            ("From: nobody\r\n\r\n", RawError::Address { field: "From", address: "nobody".into() }),
            ("From: a@b\r\nTo: c d\r\n\r\n", RawError::Address { field: "To", address: "c d".into() }),
            (&long, RawError::LongLine),
            (&long_and_open, RawError::LongLine),
        ] {
            assert_eq!(read(content.as_bytes()).unwrap_err(), expected, "{content:?}");
        }
        let mut reader = Reader::default();
        assert_eq!(reader.feed(head.as_bytes()), Err(RawError::HeaderTooLong));
    }

    #[test]
    fn what_is_beyond_ascii_is_noticed() {
        assert_eq!(read("From: a@b\r\n\r\nGrüße".as_bytes()).unwrap().2, Body::EightBitMime);
        assert_eq!(read(b"From: a@b\r\n\r\nx").unwrap().2, Body::SevenBit);
    }
}
