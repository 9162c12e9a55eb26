//! The first pass: what is in the content, and so whether and how it can go to a next hop.

use std::ops::ControlFlow;

use memchr::memchr2_iter;

use super::entity::{Encoding, Entity, Kind};
use super::walk::{Broken, Token, Walker};
use crate::smtp::parameters::Body;

/// Most parts that are converted.
const MAX_PARTS: usize = 10_000;

/// Reads content and remembers what matters for its way.
#[derive(Debug)]
pub struct Survey {
    walker: Walker,
    found: Found,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Found {
    /// The part that is being read has been noted.
    noted: Option<u32>,
    /// Beyond ASCII: in a header; anywhere.
    utf8_header: bool,
    eight_bit: bool,
    /// Why what is 8-bit, and what is binary, cannot be converted: the first reason.
    eight_bit_stays: Option<&'static str>,
    binary_stays: Option<&'static str>,
    bare_line_end: bool,
    too_many: bool,
    /// Parts with octets beyond ASCII, parts that are binary: by number, in order.
    eight_bit_parts: Vec<u32>,
    binary_parts: Vec<u32>,
}

/// How content can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// What it is then: for BODY.
    pub body: Body,
    /// What has to be converted; `None`: nothing, it goes as it is.
    pub plan: Option<Plan>,
}

/// Which parts are to be converted, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the content is to become.
    pub(super) body: Body,
    pub(super) quoted_printable: Vec<u32>,
    pub(super) base64: Vec<u32>,
}

impl Default for Survey {
    fn default() -> Self {
        Survey { walker: Walker::new(), found: Found::default() }
    }
}

impl Survey {
    /// Reads the next chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        let found = &mut self.found;
        self.walker.feed(chunk, &mut |entity: &Entity, token: Token<'_>| found.token(entity, token));
    }

    /// The content is over.
    pub fn finish(&mut self) {
        let found = &mut self.found;
        self.walker.finish(&mut |entity: &Entity, token: Token<'_>| found.token(entity, token));
    }

    /// Whether all headers, also those of parts and of messages in it, are ASCII: then it needs no SMTPUTF8.
    pub fn has_ascii_headers(&self) -> bool {
        // what could not be looked into may be a header
        let unknown = self.found.eight_bit && self.walker.broken().is_some();
        !self.found.utf8_header && !unknown
    }

    /// How content that was declared so goes to a next hop that takes at most so much.
    ///
    /// # Errors
    /// It cannot be converted: why, in a sentence.
    pub fn fit(&self, declared: Body, takes: Body) -> Result<Fit, &'static str> {
        let found = &self.found;
        let eight_bit = takes == Body::SevenBit && found.eight_bit;
        // lines end differently within what is declared as binary: that it is none of it, only its parts can tell
        let binary = declared == Body::Binary && takes != Body::Binary;
        let body = match takes {
            Body::EightBitMime if declared == Body::Binary => Body::EightBitMime,
            Body::SevenBit => Body::SevenBit,
            _ => declared,
        };
        let convert_binary = binary && (!found.binary_parts.is_empty() || found.binary_stays.is_some());
        if binary && found.bare_line_end {
            return Err("A CR or LF stands alone in the message, and not in a part that is declared as binary");
        }
        if !eight_bit && !convert_binary {
            return Ok(Fit { body, plan: None });
        }
        if eight_bit && found.utf8_header {
            return Err("The next hop takes only 7-bit mail, and a header of the message holds 8-bit characters");
        }
        let stays = found.eight_bit_stays.filter(|_| eight_bit).or(found.binary_stays.filter(|_| binary));
        let broken =
            self.walker.broken().map(words).or(found.bare_line_end.then_some(BARE)).or(found.too_many.then_some(MANY));
        if let Some(why) = stays.or(broken) {
            return Err(why);
        }
        let quoted_printable = if eight_bit { found.eight_bit_parts.clone() } else { Vec::new() };
        Ok(Fit { body, plan: Some(Plan { body, quoted_printable, base64: found.binary_parts.clone() }) })
    }
}

const FROZEN: &str =
    "The next hop does not take the encoding of the message, and a signed or encrypted part must not be converted";
const ENCODED: &str =
    "The next hop takes only 7-bit mail, and a part of the message that is declared as encoded holds 8-bit characters";
const BETWEEN: &str =
    "The next hop takes only 7-bit mail, and there are 8-bit characters outside of the parts of the message";
const OPAQUE: &str =
    "The next hop takes only 7-bit mail, and a part of the message holds 8-bit characters that must not be encoded";
const BARE: &str = "The message would have to be converted for the next hop, and a CR or LF stands alone in it";
const MANY: &str = "The message would have to be converted for the next hop, and it has too many parts";

fn words(broken: Broken) -> &'static str {
    match broken {
        Broken::Header => {
            "The message would have to be converted for the next hop, and one of its headers is malformed"
        }
        Broken::FieldTooLong => {
            "The message would have to be converted for the next hop, and a field that describes its content is too long"
        }
        Broken::Boundary => {
            "The message would have to be converted for the next hop, and a multipart of it has no usable boundary"
        }
        Broken::Delimiter => {
            "The message would have to be converted for the next hop, and where its parts end is ambiguous"
        }
        Broken::TooDeep => "The message would have to be converted for the next hop, and its parts are nested too deep",
    }
}

impl Found {
    fn token(&mut self, entity: &Entity, token: Token<'_>) -> ControlFlow<()> {
        match token {
            Token::Field(octets) | Token::Overlong { octets, .. } => {
                self.bare_line_end |= has_bare(octets);
                let utf8 = !octets.is_ascii();
                self.utf8_header |= utf8;
                self.eight_bit |= utf8;
            }
            // what is binary needs conversion whatever it holds
            Token::HeaderEnd(line) if is_binary(entity) && !line.is_empty() => {
                if entity.frozen {
                    self.binary_stays.get_or_insert(FROZEN);
                } else {
                    note(&mut self.binary_parts, entity.number, &mut self.too_many);
                }
            }
            Token::Body(octets) => self.body(entity, octets),
            Token::HeaderEnd(_) | Token::Delimiter(_) => {}
        }
        ControlFlow::Continue(())
    }

    fn body(&mut self, entity: &Entity, octets: &[u8]) {
        let binary = is_binary(entity);
        if !binary {
            self.bare_line_end |= has_bare(octets);
        }
        if octets.is_ascii() {
            return;
        }
        self.eight_bit = true;
        let stays = match entity.kind {
            _ if entity.frozen => FROZEN,
            Kind::Leaf if binary => return,
            Kind::Leaf if entity.encoding() == Encoding::Encoded => ENCODED,
            Kind::Leaf => {
                if self.noted != Some(entity.number) {
                    self.noted = Some(entity.number);
                    note(&mut self.eight_bit_parts, entity.number, &mut self.too_many);
                }
                return;
            }
            Kind::Opaque => OPAQUE,
            Kind::Between | Kind::Multipart | Kind::Message => BETWEEN,
        };
        self.eight_bit_stays.get_or_insert(stays);
    }
}

/// Whether a CR or LF stands alone in text in which no CRLF is cut.
fn has_bare(text: &[u8]) -> bool {
    memchr2_iter(b'\r', b'\n', text).any(|at| match text[at] {
        b'\r' => text.get(at + 1) != Some(&b'\n'),
        _ => at == 0 || text[at - 1] != b'\r',
    })
}

/// A part whose octets are no lines.
fn is_binary(entity: &Entity) -> bool {
    entity.encoding() == Encoding::Binary && entity.kind == Kind::Leaf
}

fn note(parts: &mut Vec<u32>, number: u32, too_many: &mut bool) {
    if parts.len() < MAX_PARTS {
        parts.push(number);
    } else {
        *too_many = true;
    }
}
