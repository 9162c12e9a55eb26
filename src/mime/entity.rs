//! What the header of a message or part says of its body (RFC 2045, sections 5 and 6).

/// How a body is encoded (Content-Transfer-Encoding).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Encoding {
    /// `7bit`, or nothing said.
    #[default]
    SevenBit,
    /// `8bit`: lines with octets beyond ASCII.
    EightBit,
    /// `binary`: any octets.
    Binary,
    /// `quoted-printable`, `base64`, or something unknown: not to be encoded once more.
    Encoded,
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// One that can be encoded as a whole.
    #[default]
    Leaf,
    /// A message: header and body again. Must not be encoded (RFC 2046, 5.2.1).
    Message,
    /// Parts.
    Multipart,
    /// `message/*` that must not be encoded and is not looked into, such as `message/delivery-status`.
    Opaque,
    /// What stands before, between and behind parts.
    Between,
}

/// A Content-Type, in lower case but for the boundary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ContentType {
    pub kind: String,
    pub subtype: String,
    /// Given once and in one piece, or none.
    pub boundary: Option<Vec<u8>>,
}

/// A message or part, as far as its header was read.
#[derive(Debug, Default)]
pub(super) struct Entity {
    /// In the order of headers; 0 is the message itself.
    pub number: u32,
    /// A message has MIME-Version, a part has not.
    pub is_message: bool,
    /// Its octets must stay: something above it is signed or encrypted.
    pub frozen: bool,
    /// In multipart/digest, where the default is message/rfc822 (RFC 2046, 5.1.5).
    pub in_digest: bool,
    pub content_type: Option<ContentType>,
    pub encoding: Option<Encoding>,
    pub mime_version: bool,
    /// Known at the end of the header.
    pub kind: Kind,
}

impl Entity {
    /// Reads a header field. False when it is no field, or a second one of those that may stand there once.
    pub fn note(&mut self, field: &[u8]) -> bool {
        let Some((name, body)) = split_field(field) else { return false };
        if is_name(name, "content-type") {
            return self.content_type.replace(content_type(body).unwrap_or_default()).is_none();
        }
        if is_name(name, "content-transfer-encoding") {
            return self.encoding.replace(encoding(body)).is_none();
        }
        if is_name(name, "mime-version") {
            self.mime_version = true;
        }
        true
    }

    /// How its body is encoded.
    pub fn encoding(&self) -> Encoding {
        self.encoding.unwrap_or_default()
    }

    /// What its header says that its body is.
    pub fn declared_kind(&self) -> Kind {
        let (kind, subtype) = match &self.content_type {
            Some(known) => (known.kind.as_str(), known.subtype.as_str()),
            None if self.in_digest => ("message", "rfc822"),
            None => ("text", "plain"),
        };
        match (kind, subtype) {
            // encoded against the rules: nobody can say what is inside
            ("multipart", _) | ("message", "rfc822" | "news") if self.encoding() == Encoding::Encoded => Kind::Leaf,
            ("multipart", _) => Kind::Multipart,
            ("message", "rfc822" | "news") => Kind::Message,
            // the types of RFC 6532 and 6533 may be encoded
            ("message", subtype) if !subtype.starts_with("global") => Kind::Opaque,
            _ => Kind::Leaf,
        }
    }
}

/// Name and body of a field; the body with its line ends.
pub(super) fn split_field(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', field)?;
    let name = field[..colon].trim_ascii_end();
    let valid = !name.is_empty() && name.iter().all(|octet| octet.is_ascii_graphic());
    valid.then(|| (name, &field[colon + 1..]))
}

/// Whether this is the name, in whatever case.
pub(super) fn is_name(name: &[u8], lower: &str) -> bool {
    name.eq_ignore_ascii_case(lower.as_bytes())
}

fn encoding(body: &[u8]) -> Encoding {
    let mut words = Words { rest: body };
    match words.next().as_deref() {
        Some(b"7bit") => Encoding::SevenBit,
        Some(b"8bit") => Encoding::EightBit,
        Some(b"binary") => Encoding::Binary,
        _ => Encoding::Encoded,
    }
}

/// `None` when it is no Content-Type: then the default holds for what it is (RFC 2045, 5.2), so an empty one does.
fn content_type(body: &[u8]) -> Option<ContentType> {
    let mut words = Words { rest: body };
    let text = |word: Vec<u8>| String::from_utf8(word).ok();
    let kind = text(words.next()?)?;
    let slash = words.next()?;
    let subtype = text(words.next()?)?;
    let mut found = ContentType { kind, subtype, boundary: None };
    let mut boundaries = 0;
    if slash != b"/" {
        return None;
    }
    while let Some(word) = words.next() {
        if word == b"boundary" && words.next().as_deref() == Some(b"=") {
            boundaries += 1;
            found.boundary = words.value();
        } else if word.starts_with(b"boundary*") {
            // RFC 2231 pieces: nobody writes a boundary so, and readers differ
            boundaries += 2;
        }
    }
    if boundaries != 1 || found.boundary.as_ref().is_some_and(|boundary| !is_boundary(boundary)) {
        found.boundary = None;
    }
    Some(found)
}

/// RFC 2046, 5.1.1: 1 to 70 characters and no space at the end. Which characters, is not looked at.
fn is_boundary(boundary: &[u8]) -> bool {
    (1..=70).contains(&boundary.len())
        && boundary.iter().all(|octet| (b' '..=b'~').contains(octet))
        && !boundary.ends_with(b" ")
}

/// The words of a structured field (RFC 2045, 5.1): tokens in lower case, quoted strings without quotes, each other
/// character alone. Comments and white space are passed over.
struct Words<'a> {
    rest: &'a [u8],
}

impl Words<'_> {
    fn next(&mut self) -> Option<Vec<u8>> {
        self.word().map(|mut word| {
            word.make_ascii_lowercase();
            word
        })
    }

    /// The same as it is written.
    fn value(&mut self) -> Option<Vec<u8>> {
        self.word()
    }

    fn word(&mut self) -> Option<Vec<u8>> {
        self.skip();
        match *self.rest.first()? {
            b'"' => {
                let (text, rest) = unquote(&self.rest[1..])?;
                self.rest = rest;
                Some(text)
            }
            octet if is_token(octet) => {
                let end = self.rest.iter().position(|octet| !is_token(*octet)).unwrap_or(self.rest.len());
                let (token, rest) = self.rest.split_at(end);
                self.rest = rest;
                Some(token.to_vec())
            }
            octet => {
                self.rest = &self.rest[1..];
                Some(vec![octet])
            }
        }
    }

    fn skip(&mut self) {
        let (mut depth, mut at) = (0u32, 0);
        while let Some(octet) = self.rest.get(at) {
            match octet {
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\\' if depth > 0 => at += 1,
                _ if depth > 0 || octet.is_ascii_whitespace() => {}
                _ => break,
            }
            at += 1;
        }
        self.rest = self.rest.get(at..).unwrap_or_default();
    }
}

fn is_token(octet: u8) -> bool {
    octet.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&octet)
}

/// Behind the opening quote: the text without escapes and line ends, and what follows.
fn unquote(rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    let mut at = 0;
    loop {
        match *rest.get(at)? {
            b'"' => return Some((text, &rest[at + 1..])),
            b'\\' => {
                text.push(*rest.get(at + 1)?);
                at += 1;
            }
            b'\r' | b'\n' => {}
            octet => text.push(octet),
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_read_as_they_are_written() {
        for (field, boundary) in [
            ("multipart/mixed; boundary=abc", Some("abc")),
            ("Multipart/Mixed; charset=x; BOUNDARY=\"=_Part (1)\"", Some("=_Part (1)")),
            ("multipart/mixed (why; boundary=no);\r\n\tboundary = \"a\\\"b\"", Some("a\"b")),
            ("multipart/mixed; x=\"; boundary=no\"; boundary=Yes", Some("Yes")),
            ("multipart/mixed", None),
            ("multipart/mixed; boundary=", None),
            ("multipart/mixed; boundary=a; boundary=b", None),
            ("multipart/mixed; boundary*=us-ascii''a", None),
            ("multipart/mixed; boundary=\"a ", None),
            ("multipart/mixed; boundary=\"a \"", None),
        ] {
            let found = content_type(field.as_bytes()).and_then(|found| found.boundary);
            assert_eq!(found.as_deref(), boundary.map(str::as_bytes), "{field}");
        }
        assert_eq!(content_type(b"text"), None);
    }

    #[test]
    fn encodings_are_known_in_any_case() {
        for (field, is) in [
            (" 8BIT\r\n", Encoding::EightBit),
            (" (x) Binary", Encoding::Binary),
            (" Quoted-Printable", Encoding::Encoded),
            (" x-uuencode", Encoding::Encoded),
            ("", Encoding::Encoded),
        ] {
            assert_eq!(encoding(field.as_bytes()), is, "{field}");
        }
    }
}
