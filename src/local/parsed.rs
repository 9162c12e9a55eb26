//! A message taken apart, as JSON: what a webhook of the format `json` gets (RFC 5322, RFC 2045 to 2047).
//!
//! It is for programs that want the text and the attachments. What is malformed comes out as far as it can be understood,
//! texts as UTF-8; whoever needs the octets takes the format `raw`. It needs the message in memory several times over, so
//! a message has a limit, and so have all that are taken apart at the same moment.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_parser::{Address, Message, MessageParser, MessagePart, MimeHeaders, PartType};
use serde::Serialize;

/// The largest message that is taken apart.
pub(super) const MOST: u64 = 32 << 20;
/// How much content is taken apart at a time, in KiB.
pub(super) const BUDGET_KIB: u32 = (MOST >> 10) as u32;

/// What the appliance knows of a message beside its content.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Frame {
    /// The message's id.
    pub(super) id: String,
    /// The delivery: the same when it is tried again.
    pub(super) delivery: String,
    /// The mailbox store.
    pub(super) store: String,
    /// When it was received.
    pub(super) received_at: String,
    /// Octets of the content.
    pub(super) size: u64,
    /// For whom it is.
    pub(super) envelope: Envelope,
}

/// The envelope of a delivery.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Envelope {
    /// The reverse-path; empty for `<>`.
    pub(super) from: String,
    /// The forward-paths in this store.
    pub(super) to: Vec<String>,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    headers: Vec<Header<'a>>,
    from: Vec<Person<'a>>,
    to: Vec<Person<'a>>,
    cc: Vec<Person<'a>>,
    subject: Option<&'a str>,
    date: Option<String>,
    message_id: Option<&'a str>,
    text: Option<String>,
    html: Option<String>,
    attachments: Vec<Attachment<'a>>,
}

#[derive(Serialize)]
struct Parsed<'a> {
    #[serde(flatten)]
    frame: &'a Frame,
    #[serde(flatten)]
    fields: Fields<'a>,
}

/// A field as it stands in the message, unfolded, not decoded.
#[derive(Serialize)]
struct Header<'a> {
    name: &'a str,
    value: String,
}

#[derive(Serialize)]
struct Person<'a> {
    name: Option<&'a str>,
    address: Option<&'a str>,
}

#[derive(Serialize)]
struct Attachment<'a> {
    name: Option<&'a str>,
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    id: Option<&'a str>,
    inline: bool,
    size: usize,
    content: String,
}

/// The message as JSON.
pub(super) fn json(frame: &Frame, content: &[u8]) -> Vec<u8> {
    let message = MessageParser::default().parse(content);
    // without a single header field there is nothing to understand
    let fields = message.as_ref().map_or_else(Fields::default, |message| fields(message, content));
    serde_json::to_vec(&Parsed { frame, fields }).expect("texts, lists and numbers only")
}

fn fields<'a>(message: &'a Message<'_>, content: &[u8]) -> Fields<'a> {
    let plain = message.text_bodies().filter_map(|part| match &part.body {
        PartType::Text(text) => Some(&**text),
        _ => None,
    });
    let html = message.html_bodies().filter_map(|part| match &part.body {
        PartType::Html(text) => Some(&**text),
        _ => None,
    });
    Fields {
        headers: message.parts.first().map_or_else(Vec::new, |root| headers(root, content)),
        from: people(message.from()),
        to: people(message.to()),
        cc: people(message.cc()),
        subject: message.subject(),
        date: message.date().filter(|date| date.is_valid()).map(|date| date.to_rfc3339()),
        message_id: message.message_id(),
        text: joined(plain),
        html: joined(html),
        attachments: message.attachments().map(attachment).collect(),
    }
}

fn people<'a>(addresses: Option<&'a Address<'_>>) -> Vec<Person<'a>> {
    let all = addresses.into_iter().flat_map(|all| all.iter());
    all.map(|one| Person { name: one.name.as_deref(), address: one.address.as_deref() }).collect()
}

fn headers<'a>(root: &'a MessagePart<'_>, content: &[u8]) -> Vec<Header<'a>> {
    let value = |start: u32, end: u32| {
        let raw = content.get(start as usize..end as usize).unwrap_or_default();
        String::from_utf8_lossy(raw).replace(['\r', '\n'], "").trim().to_owned()
    };
    let fields = root.headers.iter();
    fields
        .map(|field| Header { name: field.name.as_str(), value: value(field.offset_start, field.offset_end) })
        .collect()
}

fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> Option<String> {
    let texts: Vec<&str> = texts.collect();
    (!texts.is_empty()).then(|| texts.join("\r\n"))
}

fn attachment<'a>(part: &'a MessagePart<'_>) -> Attachment<'a> {
    let content = part.contents();
    let kind = match part.content_type() {
        Some(kind) => Cow::Owned(format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or("*")).to_lowercase()),
        None => Cow::Borrowed("application/octet-stream"),
    };
    Attachment {
        name: part.attachment_name(),
        kind,
        id: part.content_id(),
        inline: matches!(part.body, PartType::InlineBinary(_)),
        size: content.len(),
        content: STANDARD.encode(content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn frame() -> Frame {
        Frame {
            id: "m".into(),
            delivery: "m-0".into(),
            store: "hook".into(),
            received_at: "2026-11-25T00:00:00Z".into(),
            size: 3,
            envelope: Envelope { from: String::new(), to: vec!["u@local.example".into()] },
        }
    }

    fn parse(content: &[u8]) -> Value {
        serde_json::from_slice(&json(&frame(), content)).unwrap()
    }

    #[test]
    fn text_html_and_attachments_come_apart() {
        let message = "From: =?utf-8?q?J=C3=BCrgen?= <j@far.example>\r\nTo: u@local.example, \"V, W\" <v@local.example>\r\n\
             Subject: =?iso-8859-1?q?Gr=FC=DFe?=\r\nDate: Tue, 24 Nov 2026 10:00:00 +0100\r\nMessage-ID: <1@far.example>\r\n\
             X-Long: one\r\n two\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n\
             --a\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n\
             --b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nH=E4\r\n\
             --b\r\nContent-Type: text/html\r\n\r\n<p>H</p>\r\n--b--\r\n\
             --a\r\nContent-Type: application/pdf; name=x.pdf\r\nContent-Disposition: attachment; filename=x.pdf\r\n\
             Content-Transfer-Encoding: base64\r\n\r\nAAECAw==\r\n--a--\r\n";
        let parsed = parse(message.as_bytes());
        assert_eq!(parsed["from"], json!([{"name": "Jürgen", "address": "j@far.example"}]));
        assert_eq!(parsed["to"][1], json!({"name": "V, W", "address": "v@local.example"}));
        assert_eq!((&parsed["subject"], &parsed["messageId"]), (&json!("Grüße"), &json!("1@far.example")));
        assert_eq!(parsed["date"], "2026-11-24T10:00:00+01:00");
        assert_eq!((parsed["text"].as_str(), parsed["html"].as_str()), (Some("Hä"), Some("<p>H</p>")));
        let attachment = json!({"name": "x.pdf", "type": "application/pdf", "id": null, "inline": false, "size": 4, "content": "AAECAw=="});
        assert_eq!(parsed["attachments"], json!([attachment]));
        assert_eq!(parsed["headers"][5], json!({"name": "X-Long", "value": "one two"}));
        assert_eq!(parsed["headers"][2]["value"], "=?iso-8859-1?q?Gr=FC=DFe?=", "as it stands");
        assert_eq!(parsed["envelope"], json!({"from": "", "to": ["u@local.example"]}));
        assert_eq!((&parsed["id"], &parsed["delivery"]), (&json!("m"), &json!("m-0")));
    }

    #[test]
    fn nonsense_is_no_reason_to_fail() {
        let deep = (0..10_000)
            .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
            .collect::<String>();
        let fields = "X: y\r\n".repeat(100_000);
        for content in [&b""[..], b"\r\n", b".\r\n", b"\xff\xfe\0: x\r\n\r\n\xff", deep.as_bytes(), fields.as_bytes()] {
            assert!(parse(content)["headers"].is_array());
        }
        assert_eq!(parse(b"no header at all\r\n")["attachments"], json!([]));
        assert_eq!(parse(b"Subject: \xff\xfe\r\n\r\n\xff8-bit\r\n")["envelope"]["to"][0], "u@local.example");
    }
}
