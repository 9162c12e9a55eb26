//! Writes a message from its parts (RFC 5322, MIME), with lettre: text, HTML, attachments, images inside of HTML, names in any
//! script.
//!
//! What comes in is checked before ([`Letter`] says what it must be); what comes out has CRLF line ends, no line over 998
//! octets, and is ASCII but for addresses that are not. A text's own line ends, whatever they are, become CRLF; contents of
//! attachments are base64 and come back octet for octet. Bcc is never written.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lettre::message::header::{
    ContentDisposition, ContentId, ContentTransferEncoding, ContentType, HeaderName, HeaderValue, Headers,
    MIME_VERSION_1_0,
};
use lettre::message::{Body, MultiPart, SinglePart};

use crate::model::time::Timestamp;
use crate::smtp::address::Mailbox;

/// Longest word of a header field: with the field's name and the fold it fits a line.
pub const MAX_HEADER_WORD: usize = 900;
/// Longest name of a header field.
pub const MAX_HEADER_NAME: usize = 76;
/// Where lines of a header are folded, if they can be (RFC 5322, 2.1.1).
const FOLD: usize = 76;
/// How an encoded word begins (RFC 2047, 2).
const ENCODED: &str = "=?";

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
    for (name, people) in [("From", from), ("To", to), ("Cc", cc), ("Reply-To", reply_to)] {
        if !people.is_empty() {
            header.insert_raw(as_it_stands(name, &address_list(&people))?);
        }
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
        STANDARD.encode_string(line, &mut encoded);
        encoded.push_str("\r\n");
    }
    // lettre chooses for itself and would pass text with bare line ends as it is
    let body = Body::dangerous_pre_encoded(encoded.into_bytes(), ContentTransferEncoding::Base64);
    part.header(disposition).header(content_type).body(body)
}

/// `name <address>, address`, on one line.
fn address_list(people: &[Person]) -> String {
    let mut list = String::with_capacity(people.len() * 32);
    for Person { name, address } in people {
        if !list.is_empty() {
            list.push_str(", ");
        }
        // a text takes all that is written into it
        let _ = match name.as_deref().filter(|name| !name.trim().is_empty()) {
            Some(name) => write!(list, "{} <{address}>", phrase(name)),
            None => write!(list, "{address}"),
        };
    }
    list
}

/// A display name (RFC 5322, 3.2.5): a word that is one atom as it stands, other ASCII as a quoted string, which may hold dots; else
/// encoded, as what could be taken for an encoded word is (RFC 2047, 5 (3)).
fn phrase(name: &str) -> String {
    if name.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_') {
        return name.to_owned();
    }
    if !name.is_ascii() || name.contains(ENCODED) {
        return encoded(name);
    }
    let mut quoted = String::with_capacity(name.len() + 8);
    quoted.push('"');
    for c in name.chars() {
        if c == '"' || c == '\\' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// A text as encoded words (RFC 2047), none longer than 75 characters; the white space between them does not count.
fn encoded(text: &str) -> String {
    let (mut words, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let (word, further) = rest.split_at(rest.floor_char_boundary(45));
        words.push(format!("{ENCODED}utf-8?b?{}?=", STANDARD.encode(word)));
        rest = further;
    }
    words.join(" ")
}

/// Whether a field is text for people, in which a reader decodes what looks like an encoded word (RFC 2047, 5 (1)).
fn is_text(name: &str) -> bool {
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
    is("Subject") || is("Comments") || name.get(..2).is_some_and(|begin| begin.eq_ignore_ascii_case("X-"))
}

/// A field: ASCII as it stands, folded where it has spaces; else encoded (RFC 2047). In a text for people, ASCII that looks like an
/// encoded word is encoded too: else a reader would show another text than was given.
fn field(name: &str, value: &str) -> Result<HeaderValue, String> {
    let value = value.trim_matches([' ', '\t']);
    if is_text(name) && value.contains(ENCODED) {
        return as_it_stands(name, &encoded(value));
    }
    if !value.is_ascii() {
        let header = HeaderName::new_from_ascii(name.to_owned()).map_err(|error| error.to_string())?;
        return Ok(HeaderValue::new(header, value.to_owned()));
    }
    as_it_stands(name, value)
}

/// A field whose value is written as it is, folded at spaces.
fn as_it_stands(name: &str, value: &str) -> Result<HeaderValue, String> {
    let header = HeaderName::new_from_ascii(name.to_owned()).map_err(|error| error.to_string())?;
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
        let long = "one ".repeat(60) + &"x".repeat(MAX_HEADER_WORD) + "  two spaces";
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

    /// RFC 2047 has a reader decode every encoded word in a text for people, whoever wrote it: what only looks like one has to be
    /// encoded to arrive as it was given. Other fields may have been encoded by the sender.
    #[test]
    fn what_looks_like_an_encoded_word_arrives_as_it_was_given() {
        let fake = "=?utf-8?q?fake?= and not";
        let headers = ["X-Note", "Thread-Topic"].map(|name| (name.to_owned(), fake.to_owned())).to_vec();
        let both = composed(Letter { subject: Some(format!("Grüße {fake}")), ..letter() });
        let text = composed(Letter { subject: Some(fake.into()), headers, ..letter() });
        let parsed = MessageParser::default().parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.subject(), Some(fake));
        assert_eq!(MessageParser::default().parse(both.as_bytes()).unwrap().subject(), Some(&*format!("Grüße {fake}")));
        assert!(text.contains("X-Note: =?utf-8?b?PT91dGYtOD9xP2Zha2U/PSBhbmQgbm90?=\r\n"), "{text}");
        assert!(text.contains(&format!("Thread-Topic: {fake}\r\n")), "{text}");
    }

    #[test]
    fn a_name_is_an_atom_or_quoted_or_encoded() {
        for (name, written) in [
            ("Ada-1_x", "Ada-1_x"),
            (".dot.", "\".dot.\""),
            ("J. R. \"Bob\" O'Neil, \\ <x@y>", "\"J. R. \\\"Bob\\\" O'Neil, \\\\ <x@y>\""),
            ("=?utf-8?q?fake?=", "=?utf-8?b?PT91dGYtOD9xP2Zha2U/PQ==?="),
            ("Bücher, Co.", "=?utf-8?b?QsO8Y2hlciwgQ28u?="),
        ] {
            let text = composed(Letter { to: vec![person(name, "u@far.test")], ..letter() });
            assert!(text.contains(&format!("To: {written} <u@far.test>\r\n")), "{text}");
            let parsed = MessageParser::default().parse(text.as_bytes()).unwrap();
            assert_eq!(parsed.to().unwrap().first().unwrap().name(), Some(name), "{text}");
        }
        let many = vec![person(&"ü".repeat(120), "u@far.test"); 50];
        let text = composed(Letter { to: many, ..letter() });
        let parsed = MessageParser::default().parse(text.as_bytes()).unwrap();
        assert!(parsed.to().unwrap().iter().all(|one| one.name() == Some(&*"ü".repeat(120))), "{text}");
        assert_eq!(parsed.to().unwrap().iter().count(), 50);
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
