//! Writes a message from its parts (RFC 5322, MIME), with lettre: text, HTML, attachments, images inside of HTML, names in any
//! script.
//!
//! What comes in is checked before ([`Letter`] says what it must be); what comes out has CRLF line ends, no line over 998
//! octets, and is ASCII but for addresses that are not. A text's own line ends, whatever they are, become CRLF; contents of
//! attachments are base64 and come back octet for octet. Bcc is never written.

use bytes::Bytes;
use lettre::address::Address;
use lettre::message::header::{
    self, ContentDisposition, ContentId, ContentTransferEncoding, ContentType, HeaderName, HeaderValue, Headers,
    MIME_VERSION_1_0,
};
use lettre::message::{Body, Mailbox as LettreMailbox, Mailboxes, MultiPart, SinglePart};

use crate::model::time::Timestamp;
use crate::smtp::address::Mailbox;

/// Longest word of a header field: with the field's name and the fold it fits a line.
pub const MAX_HEADER_WORD: usize = 900;
/// Longest name of a header field.
pub const MAX_HEADER_NAME: usize = 76;
/// Where lines of a header are folded, if they can be (RFC 5322, 2.1.1).
const FOLD: usize = 76;

/// A message in its parts. No text in it holds a control character, but `text` and `html`, which hold no NUL, and tabs in
/// values of header fields.
#[derive(Debug, Clone, Default)]
pub struct Letter {
    /// From, at least one.
    pub from: Vec<Person>,
    /// To.
    pub to: Vec<Person>,
    /// Cc.
    pub cc: Vec<Person>,
    /// Reply-To.
    pub reply_to: Vec<Person>,
    /// Subject.
    pub subject: Option<String>,
    /// The text.
    pub text: Option<String>,
    /// The same in HTML.
    pub html: Option<String>,
    /// What the HTML refers to by `cid:`, if there is HTML, and what comes with the message.
    pub attachments: Vec<Attachment>,
    /// Further header fields: a name that [`is_field_name`] allows, and a value whose words are at most
    /// [`MAX_HEADER_WORD`] octets long.
    pub headers: Vec<(String, String)>,
}

/// An address with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The name, in any script.
    pub name: Option<String>,
    /// The address.
    pub address: Mailbox,
}

/// A file that comes with a message.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Its name.
    pub file_name: Option<String>,
    /// What it is; neither `multipart/…` nor `message/…`.
    pub content_type: ContentType,
    /// By what the HTML refers to it, without angle brackets: then it is part of that.
    pub content_id: Option<String>,
    /// What is in it.
    pub content: Vec<u8>,
}

impl Letter {
    /// About how much work it is to write it, in octets.
    pub fn weight(&self) -> usize {
        let texts = [&self.text, &self.html].into_iter().flatten().map(String::len);
        let attachments = self.attachments.iter().map(|attachment| attachment.content.len());
        texts.chain(attachments).sum::<usize>() + (self.to.len() + self.cc.len()) * 256
    }
}

/// Whether a text can be the name of a field (RFC 5322, 2.2: printable ASCII but the colon), and lettre can write it.
pub fn is_field_name(name: &str) -> bool {
    (1..=MAX_HEADER_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

/// Writes it. `message_id` is without angle brackets.
///
/// # Errors
/// In words, when lettre cannot write it.
pub fn compose(letter: Letter, message_id: &str, now: Timestamp) -> Result<Bytes, String> {
    let Letter { from, to, cc, reply_to, subject, text, html, attachments, headers } = letter;
    let mut header = Headers::new();
    header.insert_raw(field("Date", &crate::dsn::date_field(now))?);
    header.set(header::From::from(mailboxes(from)));
    if !to.is_empty() {
        header.set(header::To::from(mailboxes(to)));
    }
    if !cc.is_empty() {
        header.set(header::Cc::from(mailboxes(cc)));
    }
    if !reply_to.is_empty() {
        header.set(header::ReplyTo::from(mailboxes(reply_to)));
    }
    if let Some(subject) = subject {
        header.insert_raw(field("Subject", &subject)?);
    }
    header.insert_raw(field("Message-ID", &format!("<{message_id}>"))?);
    for (name, value) in &headers {
        header.insert_raw(field(name, value)?);
    }
    header.set(MIME_VERSION_1_0);
    let (inline, attached): (Vec<_>, Vec<_>) =
        attachments.into_iter().partition(|attachment| attachment.content_id.is_some() && html.is_some());
    let body = match (body(text, html, inline), attached.is_empty()) {
        (part, true) => part,
        (Part::Single(part), false) => Part::Multi(with_files(MultiPart::mixed().singlepart(part), attached)),
        (Part::Multi(part), false) => Part::Multi(with_files(MultiPart::mixed().multipart(part), attached)),
    };
    let mut message = header.to_string().into_bytes();
    message.append(&mut match body {
        Part::Single(part) => part.formatted(),
        Part::Multi(part) => part.formatted(),
    });
    Ok(message.into())
}

enum Part {
    Single(SinglePart),
    Multi(MultiPart),
}

fn body(text: Option<String>, html: Option<String>, inline: Vec<Attachment>) -> Part {
    let plain = |text: String| SinglePart::plain(with_crlf(text));
    let html = html.map(|html| {
        let html = SinglePart::html(with_crlf(html));
        match inline.is_empty() {
            true => Part::Single(html),
            false => Part::Multi(with_files(MultiPart::related().singlepart(html), inline)),
        }
    });
    match (text, html) {
        (text, None) => Part::Single(plain(text.unwrap_or_default())),
        (None, Some(html)) => html,
        (Some(text), Some(html)) => {
            let alternative = MultiPart::alternative().singlepart(plain(text));
            Part::Multi(match html {
                Part::Single(html) => alternative.singlepart(html),
                Part::Multi(html) => alternative.multipart(html),
            })
        }
    }
}

fn with_files(parts: MultiPart, attachments: Vec<Attachment>) -> MultiPart {
    attachments.into_iter().fold(parts, |parts, attachment| parts.singlepart(file(attachment)))
}

fn file(attachment: Attachment) -> SinglePart {
    let Attachment { file_name, content_type, content_id, content } = attachment;
    let mut part = SinglePart::builder();
    let disposition = match (&content_id, &file_name) {
        (Some(_), Some(name)) => ContentDisposition::inline_with_name(name),
        (Some(_), None) => ContentDisposition::inline(),
        (None, Some(name)) => ContentDisposition::attachment(name),
        (None, None) => ContentDisposition::attachment("attachment"),
    };
    if let Some(id) = content_id {
        part = part.header(ContentId::from(format!("<{id}>")));
    }
    let mut encoded = String::with_capacity(content.len() / 3 * 4 + content.len() / 36 + 8);
    for line in content.chunks(57) {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode_string(line, &mut encoded);
        encoded.push_str("\r\n");
    }
    // lettre chooses for itself and would pass text with bare line ends as it is
    let body = Body::dangerous_pre_encoded(encoded.into_bytes(), ContentTransferEncoding::Base64);
    part.header(disposition).header(content_type).body(body)
}

fn mailboxes(people: Vec<Person>) -> Mailboxes {
    let mailbox = |Person { name, address }: Person| {
        let written = address.to_string();
        let at = written.rfind('@').unwrap_or_default();
        let address = Address::new_dangerous(&written[..at], &written[at + 1..]);
        LettreMailbox::new(name.filter(|name| !name.trim().is_empty()), address)
    };
    people.into_iter().map(mailbox).collect()
}

/// A field: ASCII as it stands, folded where it has spaces; else encoded (RFC 2047).
fn field(name: &str, value: &str) -> Result<HeaderValue, String> {
    let header = HeaderName::new_from_ascii(name.to_owned()).map_err(|error| error.to_string())?;
    let value = value.trim_matches([' ', '\t']);
    if !value.is_ascii() {
        return Ok(HeaderValue::new(header, value.to_owned()));
    }
    let mut folded = String::with_capacity(value.len() + 16);
    let mut column = name.len() + 1;
    for word in value.split(' ') {
        // a line of nothing but white space would end the header section for some
        if !folded.is_empty() && !word.is_empty() && column + 1 + word.len() > FOLD && !folded.ends_with(' ') {
            folded.push_str("\r\n");
            column = 0;
        }
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(word);
        column += 1 + word.len();
    }
    Ok(HeaderValue::dangerous_new_pre_encoded(header, value.to_owned(), folded))
}

/// Every line end as CRLF, in one pass.
fn with_crlf(text: String) -> String {
    let lone = |text: &str| {
        let bytes = text.as_bytes();
        memchr::memchr2_iter(b'\r', b'\n', bytes).any(|at| match bytes[at] {
            b'\r' => bytes.get(at + 1) != Some(&b'\n'),
            _ => at == 0 || bytes[at - 1] != b'\r',
        })
    };
    if !lone(&text) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + text.len() / 16);
    let mut rest = text.as_str();
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        out.push_str("\r\n");
        rest = rest[at..].strip_prefix("\r\n").unwrap_or(&rest[at + 1..]);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders};

    use super::*;

    fn person(name: &str, address: &str) -> Person {
        Person { name: (!name.is_empty()).then(|| name.to_owned()), address: address.parse().unwrap() }
    }

    fn composed(letter: Letter) -> String {
        let bytes = compose(letter, "1@mail.example.com", Timestamp::from_millis(1_795_000_000_000)).unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(text.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])), "{text}");
        text
    }

    fn letter() -> Letter {
        Letter {
            from: vec![person("Ada", "ada@example.com")],
            to: vec![person("", "bob@example.net")],
            ..Letter::default()
        }
    }

    #[test]
    fn a_plain_message_is_plain() {
        let text = composed(Letter { subject: Some("Hello".into()), text: Some(".\na\r\nb\rc\n".into()), ..letter() });
        assert_eq!(
            text,
            "Date: Wed, 18 Nov 2026 11:06:40 +0000\r\nFrom: Ada <ada@example.com>\r\nTo: bob@example.net\r\n\
             Subject: Hello\r\nMessage-ID: <1@mail.example.com>\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
             .\r\na\r\nb\r\nc\r\n\r\n"
        );
    }

    #[test]
    fn fields_are_folded_at_spaces_and_come_back_as_they_were() {
        let long = "one ".repeat(60) + &"x".repeat(MAX_HEADER_WORD) + "  two spaces and a =?utf-8?q?word?=";
        let headers = vec![
            ("X-Long".to_owned(), long.clone()),
            ("References".to_owned(), format!("<{}@a> <2@b>", "r".repeat(200))),
        ];
        let text = composed(Letter { subject: Some("Grüße ".repeat(40)), headers, ..letter() });
        let unfolded = text.replace("\r\n ", " ");
        assert!(unfolded.contains(&format!("X-Long: {long}\r\n")), "{text}");
        assert!(unfolded.contains(&format!("References: <{}@a> <2@b>\r\n", "r".repeat(200))));
        let parsed = MessageParser::new().with_mime_headers().parse(text.as_bytes());
        let subject = MessageParser::default().parse(text.as_bytes()).unwrap().subject().map(str::to_owned);
        assert_eq!(subject.unwrap().trim(), "Grüße ".repeat(40).trim());
        assert!(parsed.is_some());
    }

    #[test]
    fn octets_of_attachments_come_back_whatever_they_are() {
        let content: Vec<u8> = b"a\nb\rc\r\n.\r\n\0".iter().copied().chain(0..=255).cycle().take(5_000).collect();
        let attachment = Attachment {
            file_name: Some("Grüße \"1\".txt".into()),
            content_type: ContentType::parse("application/octet-stream").unwrap(),
            content_id: None,
            content: content.clone(),
        };
        let text = composed(Letter { text: Some("x".into()), attachments: vec![attachment], ..letter() });
        let parsed = MessageParser::default().parse(text.as_bytes()).unwrap();
        let attachment = parsed.attachments().next().unwrap();
        assert_eq!(attachment.attachment_name(), Some("Grüße \"1\".txt"));
        assert!(attachment.contents() == content, "not the same octets");
    }

    #[test]
    fn many_line_ends_take_no_longer_than_few() {
        let text = "\n".repeat(4 << 20);
        let composed = composed(Letter { text: Some(text), ..letter() });
        assert!(composed.ends_with("\r\n\r\n"));
    }
}
