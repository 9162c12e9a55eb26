//! A message in JSON, as a program submits it: its shape, and whether it can be sent.
//!
//! It is read straight into these types, whose lists are bounded while they are read, so that a body costs little more memory
//! than its octets. What is wrong is told with its pointer, all of it at once. No control character gets into a header field,
//! an address or a file name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::message::header::ContentType;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::codes::{ErrorCode, RequestCode};
use super::problem::FieldError;
use crate::config::object::escape;
use crate::config::{ViolationCode, VirtualServer};
use crate::intake::compose::{Attachment, Letter, MAX_HEADER_WORD, Person, is_field_name};
use crate::intake::raw::senders;
use crate::model::time::Timestamp;
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::parameters::{Hold, MAX_ENVID, MailParameters, Notify, RcptParameters, Ret};

/// Most addresses in one list; a virtual server may take fewer.
const MAX_ADDRESSES: usize = 100_000;
/// Most attachments.
const MAX_ATTACHMENTS: usize = 1_000;
/// Most header fields of the sender's own.
const MAX_HEADERS: usize = 100;
/// Longest name of a person, a file or a type, in octets.
const MAX_NAME: usize = 255;
/// Longest subject, and longest header field of the sender's own, in octets.
const MAX_FIELD: usize = 8_192;
/// Most errors that are told.
const MAX_ERRORS: usize = 100;
/// Mail is held for 45 days at most.
const MAX_HOLD_SECONDS: i64 = 45 * 24 * 60 * 60;
/// Fields that are made from other parts of a submission, or by those who carry mail.
const OURS: [&str; 12] = [
    "from",
    "to",
    "cc",
    "bcc",
    "reply-to",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "received",
    "return-path",
    "resent-bcc",
];

/// A message to send. The recipients are those of `to`, `cc` and `bcc`, or those of `envelope`; at least one is needed.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = example)]
pub struct MessageSubmission {
    /// The virtual server that takes it. Default: `settings.defaultVirtualServer`.
    #[serde(default)]
    pub(super) virtual_server: Option<String>,
    /// Whom it is from; also the envelope's sender, unless `envelope` says another.
    from: SubmittedAddress,
    /// Whom it is for.
    #[serde(default, deserialize_with = "bounded::<_, _, MAX_ADDRESSES>")]
    to: Vec<SubmittedAddress>,
    /// Who gets a copy.
    #[serde(default, deserialize_with = "bounded::<_, _, MAX_ADDRESSES>")]
    cc: Vec<SubmittedAddress>,
    /// Who gets it unseen by the others: in the envelope only.
    #[serde(default, deserialize_with = "bounded::<_, _, MAX_ADDRESSES>")]
    bcc: Vec<SubmittedAddress>,
    /// Where answers are to go.
    #[serde(default, deserialize_with = "bounded::<_, _, 100>")]
    #[schema(max_items = 100)]
    reply_to: Vec<SubmittedAddress>,
    /// The subject, in any script.
    #[serde(default)]
    subject: Option<String>,
    /// The text. Without text, HTML and attachments the message is empty.
    #[serde(default)]
    text: Option<String>,
    /// The same in HTML; readers show the one that they can.
    #[serde(default)]
    html: Option<String>,
    /// Files, and images inside of the HTML.
    #[serde(default, deserialize_with = "bounded::<_, _, MAX_ATTACHMENTS>")]
    #[schema(max_items = 1_000)]
    attachments: Vec<SubmittedAttachment>,
    /// Further header fields by name, for example `List-Unsubscribe` or `In-Reply-To`. Not those that other members of this object
    /// make, nor `Content-…`; at most 100. The address in a `Sender` is held to the key's `sendAs`, as that of `from` is.
    #[serde(default, deserialize_with = "fields")]
    headers: BTreeMap<String, String>,
    /// The Message-ID, with or without angle brackets. Default: one is made of the message's id.
    #[serde(default)]
    message_id: Option<String>,
    /// When it is to be sent (RFC 3339), at most 45 days from now; it waits here till then. A time that has passed is now.
    #[serde(default)]
    #[schema(format = DateTime)]
    send_at: Option<String>,
    /// From -9 to 9 (MT-PRIORITY, RFC 6710). Default: 0.
    #[serde(default)]
    #[schema(minimum = -9, maximum = 9)]
    priority: Option<i64>,
    /// Which notifications its sender gets.
    #[serde(default)]
    dsn: Option<SubmittedDsn>,
    /// Sender and recipients of the envelope, where they are others than those in the header.
    #[serde(default)]
    envelope: Option<SubmittedEnvelope>,
}

/// An address, or an address with a name: `"ada@example.com"` or `{"address": "ada@example.com", "name": "Ada Lovelace"}`.
#[derive(Debug, Default, Serialize)]
pub struct SubmittedAddress {
    address: String,
    name: Option<String>,
}

/// A file that comes with a message.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"fileName": "invoice.pdf", "contentType": "application/pdf", "content": "JVBERi0xLjcK"}))]
pub struct SubmittedAttachment {
    /// Its name, in any script. Default: none with a `contentId`, else `attachment`.
    #[serde(default)]
    file_name: Option<String>,
    /// Its media type. Default: `application/octet-stream`.
    #[serde(default)]
    content_type: Option<String>,
    /// By what the HTML shows it (`<img src="cid:…">`), with or without angle brackets: then it is part of the HTML. Each
    /// attachment has one of its own.
    #[serde(default)]
    content_id: Option<String>,
    /// What is in it, in base64.
    content: String,
}

/// Which notifications the sender gets (RFC 3461).
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"notify": ["success", "failure"], "ret": "headers", "envelopeId": "order-4711"}))]
pub struct SubmittedDsn {
    /// What is told; an empty list: nothing. Default: failures and delays.
    #[serde(deserialize_with = "some_bounded::<_, _, 3>")]
    #[schema(max_items = 3)]
    notify: Option<Vec<NotifyOn>>,
    /// How much of the message comes back with a failure.
    ret: Option<ReturnedPart>,
    /// Comes back in notifications; printable ASCII.
    #[schema(max_length = 100)]
    envelope_id: Option<String>,
}

/// What a sender is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum NotifyOn {
    /// It was delivered.
    Success,
    /// It could not be delivered.
    Failure,
    /// It has not been delivered yet.
    Delay,
}

/// How much of a message comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ReturnedPart {
    /// All of it.
    Full,
    /// Its header.
    Headers,
}

/// Sender and recipients of the envelope.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"from": "bounces@example.com", "to": ["bob@example.net"]}))]
pub struct SubmittedEnvelope {
    /// Where notifications go: an address, or `<>` for nowhere. Default: the address of `from`.
    from: Option<String>,
    /// Who gets it. Default: the addresses of `to`, `cc` and `bcc`.
    #[serde(deserialize_with = "some_bounded::<_, _, MAX_ADDRESSES>")]
    to: Option<Vec<String>>,
}

/// A message that can be sent.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) letter: Letter,
    /// Without angle brackets.
    pub(super) message_id: Option<String>,
    pub(super) envelope: Envelope,
}

/// An envelope, and where in the request each recipient and author stands.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    pub(super) reverse_path: Option<ReversePath>,
    pub(super) authors: Vec<Mailbox>,
    pub(super) author_places: Vec<String>,
    pub(super) parameters: MailParameters,
    pub(super) recipients: Vec<(ForwardPath, RcptParameters)>,
    pub(super) places: Vec<String>,
}

/// What is wrong, as far as it is told.
pub(super) struct Wrong {
    /// Where in the body the message stands.
    prefix: &'static str,
    pub(super) errors: Vec<FieldError>,
}

impl Wrong {
    pub(super) fn new(prefix: &'static str) -> Self {
        Wrong { prefix, errors: Vec::new() }
    }

    fn at(&mut self, pointer: &str, code: impl Into<ErrorCode>, detail: impl Into<String>) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(FieldError::at(format!("{}{pointer}", self.prefix), code, detail));
        }
    }

    /// A text for a header.
    fn text(&mut self, pointer: &str, text: &str, longest: usize) {
        if text.len() > longest {
            self.at(pointer, ViolationCode::OutOfRange, format!("it is longer than {longest} octets"));
        }
        if text.contains(char::is_control) {
            self.at(pointer, RequestCode::ControlCharacter, "it holds a control character, such as a line end");
        }
    }

    fn address<T: std::str::FromStr<Err: fmt::Display>>(&mut self, pointer: &str, text: &str) -> Option<T> {
        match text.parse() {
            Ok(address) => return Some(address),
            Err(_) if text.contains(char::is_control) => {
                self.at(pointer, RequestCode::ControlCharacter, "it holds a control character, such as a line end");
            }
            Err(error) => self.at(pointer, ViolationCode::InvalidValue, error.to_string()),
        }
        None
    }

    fn person(&mut self, pointer: &str, given: &SubmittedAddress) -> Option<Person> {
        if let Some(name) = &given.name {
            self.text(&format!("{pointer}/name"), name, MAX_NAME);
        }
        self.address(pointer, &given.address).map(|address| Person { name: given.name.clone(), address })
    }

    fn people(&mut self, pointer: &str, given: &[SubmittedAddress]) -> Vec<Person> {
        let people = given.iter().enumerate();
        people.filter_map(|(place, given)| self.person(&format!("{pointer}/{place}"), given)).collect()
    }
}

impl MessageSubmission {
    /// About how much work it is, in octets.
    pub(super) fn weight(&self) -> usize {
        let texts = [&self.text, &self.html].into_iter().flatten().map(String::len);
        let attachments = self.attachments.iter().map(|attachment| attachment.content.len());
        texts.chain(attachments).sum::<usize>() + (self.to.len() + self.cc.len() + self.bcc.len()) * 256
    }

    /// Judges it; what is wrong is noted.
    pub(super) fn judge(self, server: &VirtualServer, now: Timestamp, wrong: &mut Wrong) -> Option<Judged> {
        let most = server.spec.messages.max_recipients as usize;
        let (named, in_header) = (self.to.len() + self.cc.len() + self.bcc.len(), self.to.len() + self.cc.len());
        let given = self.envelope.as_ref().and_then(|envelope| envelope.to.as_ref()).map(Vec::len);
        let place = if given.is_some() { "/envelope/to" } else { "/to" };
        let count = given.unwrap_or(named);
        if count > most || in_header > most {
            let detail = format!("a message has at most {most} recipients here; send the others in another message");
            wrong.at(place, ViolationCode::OutOfRange, detail);
            return None;
        }
        if count == 0 {
            wrong.at(place, ViolationCode::Required, "at least one recipient is needed");
        }
        let from = wrong.person("/from", &self.from);
        let (to, cc, bcc) =
            (wrong.people("/to", &self.to), wrong.people("/cc", &self.cc), wrong.people("/bcc", &self.bcc));
        let reply_to = wrong.people("/replyTo", &self.reply_to);
        if let Some(subject) = &self.subject {
            wrong.text("/subject", subject, MAX_FIELD);
        }
        for (pointer, text) in [("/text", &self.text), ("/html", &self.html)] {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                wrong.at(pointer, RequestCode::ControlCharacter, "it holds a NUL character");
            }
        }
        let headers = headers(self.headers, wrong);
        let sender = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("Sender"));
        let sender = sender.and_then(|(name, value)| Some((sender_of(name, value, wrong)?, name)));
        let mut content_ids = BTreeSet::new();
        let attachments = self.attachments.into_iter().enumerate();
        let attachments =
            attachments.filter_map(|(place, given)| attachment(place, given, wrong, &mut content_ids)).collect();
        let message_id = self.message_id.map(|id| bare(&id).to_owned());
        if let Some(id) = &message_id {
            wrong.text("/messageId", id, 250);
            if !is_id(id) {
                wrong.at("/messageId", ViolationCode::InvalidValue, "it must be of the form left@right, in ASCII");
            }
        }
        let authors = from.iter().map(|from| (from.address.clone(), format!("{}/from", wrong.prefix)));
        let authors =
            authors.chain(sender.map(|(mailbox, name)| (mailbox, format!("{}{}", wrong.prefix, at_header(name)))));
        let (authors, author_places) = authors.unzip();
        let mut envelope = Envelope {
            authors,
            author_places,
            parameters: parameters(self.send_at.as_deref(), self.priority, self.dsn.as_ref(), now, &mut |p, c, d| {
                wrong.at(p, c, d);
            }),
            ..Envelope::default()
        };
        let SubmittedEnvelope { from: sender, to: recipients } = self.envelope.unwrap_or_default();
        envelope.reverse_path = match sender {
            Some(sender) => wrong.address("/envelope/from", &sender),
            None => from.as_ref().map(|from| ReversePath::Mailbox(from.address.clone())),
        };
        let notify = notify(self.dsn.as_ref());
        let mut paths = Vec::with_capacity(count);
        match recipients {
            None => {
                for (list, people) in [("to", &to), ("cc", &cc), ("bcc", &bcc)] {
                    let people = people.iter().enumerate();
                    let path = |(place, person): (usize, &Person)| {
                        (ForwardPath::Mailbox(person.address.clone()), format!("/{list}/{place}"))
                    };
                    paths.extend(people.map(path));
                }
            }
            Some(recipients) => {
                for (place, recipient) in recipients.iter().enumerate() {
                    let pointer = format!("/envelope/to/{place}");
                    paths.extend(wrong.address(&pointer, recipient).map(|path| (path, pointer)));
                }
            }
        }
        for (path, pointer) in paths {
            envelope.recipients.push((path, RcptParameters { notify, orcpt: None }));
            envelope.places.push(format!("{}{pointer}", wrong.prefix));
        }
        let written = from.iter().chain(&to).chain(&cc).chain(&reply_to);
        envelope.parameters.smtputf8 |= written.into_iter().any(|person| !person.address.is_ascii());
        envelope.complete();
        let letter = Letter {
            from: from.into_iter().collect(),
            to,
            cc,
            reply_to,
            subject: self.subject,
            text: self.text,
            html: self.html,
            attachments,
            headers,
        };
        wrong.errors.is_empty().then_some(Judged { letter, message_id, envelope })
    }
}

impl Envelope {
    /// Says what follows from the addresses.
    pub(super) fn complete(&mut self) {
        let mailboxes = self.recipients.iter().filter_map(|(path, _)| match path {
            ForwardPath::Mailbox(mailbox) => Some(mailbox),
            ForwardPath::Postmaster => None,
        });
        let sender = self.reverse_path.iter().filter_map(ReversePath::mailbox);
        let beyond = mailboxes.chain(sender).any(|mailbox| !mailbox.is_ascii());
        self.parameters.smtputf8 |= beyond;
    }
}

/// What is asked for of a message. `refuse` is told what is wrong: its place, the code, and words.
pub(super) fn parameters(
    send_at: Option<&str>,
    priority: Option<i64>,
    dsn: Option<&SubmittedDsn>,
    now: Timestamp,
    refuse: &mut dyn FnMut(&str, ViolationCode, String),
) -> MailParameters {
    let mut hold = None;
    match send_at.map(str::parse::<Timestamp>) {
        Some(Ok(at)) if at > now => {
            let seconds = at.millis().saturating_add(999).div_euclid(1_000);
            if seconds > now.millis().div_euclid(1_000) + MAX_HOLD_SECONDS {
                let detail = "mail is held for 45 days at most".to_owned();
                refuse("/sendAt", ViolationCode::OutOfRange, detail);
            }
            hold = Some(Hold::Until(seconds));
        }
        Some(Err(error)) => refuse("/sendAt", ViolationCode::InvalidValue, error.to_string()),
        Some(Ok(_)) | None => {}
    }
    let priority = priority.and_then(|priority| match i8::try_from(priority) {
        Ok(priority) if (-9..=9).contains(&priority) => Some(priority),
        _ => {
            refuse("/priority", ViolationCode::OutOfRange, "from -9 to 9".to_owned());
            None
        }
    });
    let envid = dsn.and_then(|dsn| dsn.envelope_id.clone());
    if let Some(id) = &envid
        && !(1..=MAX_ENVID).contains(&xtext_len(id))
    {
        let detail = format!("1 to {MAX_ENVID} printable ASCII characters, without spaces");
        refuse("/dsn/envelopeId", ViolationCode::InvalidValue, detail);
    }
    let ret = dsn.and_then(|dsn| dsn.ret).map(|ret| match ret {
        ReturnedPart::Full => Ret::Full,
        ReturnedPart::Headers => Ret::Hdrs,
    });
    MailParameters { ret, envid, hold, priority, ..MailParameters::default() }
}

/// Octets of a text as xtext; 0 when it cannot be one.
fn xtext_len(text: &str) -> usize {
    if !text.bytes().all(|octet| octet.is_ascii_graphic()) {
        return 0;
    }
    text.bytes().map(|octet| if octet == b'+' || octet == b'=' { 3 } else { 1 }).sum()
}

pub(super) fn notify(dsn: Option<&SubmittedDsn>) -> Option<Notify> {
    let on = dsn?.notify.as_ref()?;
    if on.is_empty() {
        return Some(Notify::Never);
    }
    let has = |what| on.contains(&what);
    let (success, failure, delay) = (has(NotifyOn::Success), has(NotifyOn::Failure), has(NotifyOn::Delay));
    Some(Notify::On { success, failure, delay })
}

impl SubmittedDsn {
    /// From query parameters.
    pub(super) fn new(notify: Option<Vec<NotifyOn>>, ret: Option<ReturnedPart>, envelope_id: Option<String>) -> Self {
        SubmittedDsn { notify, ret, envelope_id }
    }
}

fn headers(given: BTreeMap<String, String>, wrong: &mut Wrong) -> Vec<(String, String)> {
    let mut seen = BTreeSet::new();
    let mut kept = Vec::new();
    for (name, value) in given {
        let pointer = at_header(&name);
        let lower = name.to_ascii_lowercase();
        if name.contains(char::is_control) {
            wrong.at(&pointer, RequestCode::ControlCharacter, "a name of a header field holds no line end");
            continue;
        }
        if !is_field_name(&name) {
            wrong.at(&pointer, ViolationCode::InvalidName, "1 to 76 printable ASCII characters without a colon");
        } else if OURS.contains(&lower.as_str()) || lower.starts_with("content-") {
            let detail = "this field is made from other members of the message, or by those who carry it";
            wrong.at(&pointer, ViolationCode::Conflict, detail);
        }
        if !seen.insert(lower) {
            wrong.at(&pointer, ViolationCode::Duplicate, "this field is given already");
        }
        // a tab is white space like another
        wrong.text(&pointer, &value.replace('\t', " "), MAX_FIELD);
        if value.split(' ').any(|word| word.len() > MAX_HEADER_WORD) {
            let detail = format!("a word of it is longer than {MAX_HEADER_WORD} octets, and cannot be folded");
            wrong.at(&pointer, ViolationCode::OutOfRange, detail);
        }
        kept.push((name, value));
    }
    kept
}

fn at_header(name: &str) -> String {
    format!("/headers/{}", escape(name))
}

/// Who a Sender field says has sent the message: one address (RFC 5322, 3.6.2).
fn sender_of(name: &str, value: &str, wrong: &mut Wrong) -> Option<Mailbox> {
    // a tab is white space like another
    let value = value.replace('\t', " ");
    if value.contains(char::is_control) {
        // that is told already
        return None;
    }
    let senders = senders(&value).unwrap_or_default();
    if senders.len() != 1 {
        wrong.at(&at_header(name), ViolationCode::InvalidValue, "one address is needed, with or without a name");
    }
    senders.into_iter().next()
}

fn attachment(
    place: usize,
    given: SubmittedAttachment,
    wrong: &mut Wrong,
    content_ids: &mut BTreeSet<String>,
) -> Option<Attachment> {
    let SubmittedAttachment { file_name, content_type, content_id, content } = given;
    let at = |field: &str| format!("/attachments/{place}/{field}");
    if let Some(name) = &file_name {
        wrong.text(&at("fileName"), name, MAX_NAME);
    }
    let content_id = content_id.map(|id| bare(&id).to_owned());
    if let Some(id) = &content_id {
        wrong.text(&at("contentId"), id, MAX_NAME);
        if id.is_empty() || !id.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'<' && octet != b'>') {
            wrong.at(
                &at("contentId"),
                ViolationCode::InvalidValue,
                "printable ASCII without spaces and angle brackets",
            );
        }
        if !content_ids.insert(id.clone()) {
            wrong.at(&at("contentId"), ViolationCode::Duplicate, "another attachment of this message has it");
        }
    }
    let content_type = content_type.as_deref().unwrap_or("application/octet-stream");
    wrong.text(&at("contentType"), content_type, MAX_NAME);
    let parsed = ContentType::parse(content_type).ok();
    let lower = content_type.trim_start().to_ascii_lowercase();
    let composite = lower.starts_with("multipart/") || lower.starts_with("message/");
    if parsed.is_none() || composite || !content_type.is_ascii() {
        let detail =
            "a media type such as application/pdf; neither multipart/… nor message/…, which base64 cannot carry";
        wrong.at(&at("contentType"), ViolationCode::InvalidValue, detail);
    }
    let decoded = match content.bytes().any(|octet| octet.is_ascii_whitespace()) {
        true => STANDARD.decode(content.bytes().filter(|octet| !octet.is_ascii_whitespace()).collect::<Vec<u8>>()),
        false => STANDARD.decode(&content),
    };
    let content = match decoded {
        Ok(content) => content,
        Err(error) => {
            wrong.at(&at("content"), ViolationCode::InvalidValue, format!("it is not base64: {error}"));
            return None;
        }
    };
    Some(Attachment { file_name, content_type: parsed?, content_id, content })
}

/// An id without the angle brackets that it may have.
fn bare(id: &str) -> &str {
    id.trim_matches(['<', '>'])
}

/// `left@right` of a Message-ID (RFC 5322, 3.6.4), as far as it does no harm.
fn is_id(id: &str) -> bool {
    let harmless = |octet: u8| octet.is_ascii_graphic() && octet != b'<' && octet != b'>';
    id.bytes().all(harmless) && id.split_once('@').is_some_and(|(left, right)| !left.is_empty() && !right.is_empty())
}

impl<'de> Deserialize<'de> for SubmittedAddress {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = SubmittedAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or an object with address and name")
            }

            fn visit_str<E>(self, address: &str) -> Result<Self::Value, E> {
                Ok(SubmittedAddress { address: address.to_owned(), name: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Named {
                    address: String,
                    #[serde(default)]
                    name: Option<String>,
                }
                let Named { address, name } = Named::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(SubmittedAddress { address, name })
            }
        }

        d.deserialize_any(Either)
    }
}

impl PartialSchema for SubmittedAddress {
    fn schema() -> RefOr<Schema> {
        use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, SchemaType, Type};
        let text = |about: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(about));
        let named = ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("address", text("The address."))
            .property(
                "name",
                text("The name, in any script.").schema_type(SchemaType::from_iter([Type::String, Type::Null])),
            )
            .required("address")
            .additional_properties(Some(AdditionalProperties::FreeForm(false)));
        OneOfBuilder::new()
            .item(text("The address."))
            .item(named)
            .description(Some("An address, or an address with a name."))
            .examples([json!({"address": "ada@example.com", "name": "Ada Lovelace"}), json!("ada@example.com")])
            .into()
    }
}

impl ToSchema for SubmittedAddress {}

/// A list with a limit, which holds while it is read.
pub(super) fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(
    d: D,
) -> Result<Vec<T>, D::Error> {
    struct Bounded<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Bounded<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(one) = seq.next_element()? {
                if list.len() == MOST {
                    return Err(serde::de::Error::custom(format_args!("the list has more than {MOST} items")));
                }
                list.push(one);
            }
            Ok(list)
        }
    }

    d.deserialize_seq(Bounded::<T, MOST>(PhantomData))
}

fn some_bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(
    d: D,
) -> Result<Option<Vec<T>>, D::Error> {
    bounded::<D, T, MOST>(d).map(Some)
}

/// Header fields by name, each once.
fn fields<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Fields;

    impl<'de> Visitor<'de> for Fields {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an object of at most {MAX_HEADERS} texts")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, String>()? {
                if fields.len() == MAX_HEADERS {
                    let text = format_args!("there are more than {MAX_HEADERS} header fields");
                    return Err(serde::de::Error::custom(text));
                }
                if let Some(again) = fields.insert(name, value) {
                    drop(again);
                    return Err(serde::de::Error::custom("duplicate field in headers"));
                }
            }
            Ok(fields)
        }
    }

    d.deserialize_map(Fields)
}

pub(super) fn example() -> Value {
    json!({
        "from": {"address": "orders@example.com", "name": "Bücher & Co"},
        "to": [{"address": "bob@example.net", "name": "Bob"}, "ada@example.org"],
        "replyTo": ["help@example.com"],
        "subject": "Your order 4711",
        "text": "It is on its way.\n",
        "html": "<p>It is on its way. <img src=\"cid:logo\"></p>",
        "attachments": [
            {"contentId": "logo", "contentType": "image/png", "content": "iVBORw0KGgo="},
            {"fileName": "Rechnung 4711.pdf", "contentType": "application/pdf", "content": "JVBERi0xLjcK"}
        ],
        "headers": {"X-Order": "4711"},
        "dsn": {"notify": ["failure"], "envelopeId": "order-4711"}
    })
}
