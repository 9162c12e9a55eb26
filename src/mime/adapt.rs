//! The second pass: content as it goes to the next hop.

use std::collections::VecDeque;
use std::mem;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::addresses::{self, Senders};
use super::encode::{Base64, Encoder, QuotedPrintable};
use super::entity::{Encoding, Entity, is_name, split_field};
use super::survey::Plan;
use super::walk::{Token, Walker};
use crate::smtp::parameters::Body;

/// Changes content chunk by chunk: senders, and what a plan says.
#[derive(Debug)]
pub struct Adapter<S> {
    walker: Walker,
    change: Change<S>,
    /// The header is over, and nothing is to be changed behind it.
    through: bool,
}

#[derive(Debug)]
struct Change<S> {
    senders: Option<S>,
    plan: Option<Plan>,
    out: Vec<u8>,
    /// The From field as it was, when it is to be kept as Reply-To: what stands behind the colon.
    reply_to: Option<Vec<u8>>,
    has_reply_to: bool,
    /// The part that is read now has its encoding written already.
    labelled: bool,
    encoder: Option<Encoder>,
}

impl<S: Senders> Adapter<S> {
    /// Changes senders, and what the plan of a survey of the same content says.
    pub fn new(senders: Option<S>, plan: Option<Plan>) -> Self {
        let change = Change {
            senders,
            plan,
            out: Vec::new(),
            reply_to: None,
            has_reply_to: false,
            labelled: false,
            encoder: None,
        };
        Adapter { walker: Walker::new(), change, through: false }
    }

    /// Takes a chunk, and appends what goes out in its place. When only senders change, a body passes without being copied.
    pub fn push(&mut self, chunk: Bytes, out: &mut VecDeque<Bytes>) {
        let mut taken = 0;
        if !self.through {
            let change = &mut self.change;
            let mut over = false;
            taken = self.walker.feed(&chunk, &mut |entity: &Entity, token: Token<'_>| {
                change.token(entity, token);
                over = change.plan.is_none() && entity.number == 0 && matches!(token, Token::HeaderEnd(_));
                if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            self.through = over;
            self.change.give(out);
        }
        if taken < chunk.len() {
            out.push_back(chunk.slice(taken..));
        }
    }

    /// Nothing that follows is changed any more: it can be passed on without this.
    pub fn is_through(&self) -> bool {
        self.through
    }

    /// The content is over: appends what is left.
    pub fn finish(&mut self, out: &mut VecDeque<Bytes>) {
        if !self.through {
            let change = &mut self.change;
            self.walker.finish(&mut |entity: &Entity, token: Token<'_>| {
                change.token(entity, token);
                ControlFlow::Continue(())
            });
            self.change.end_body(false);
            self.change.give(out);
            self.through = true;
        }
    }
}

#[cfg(test)]
impl<S> Adapter<S> {
    /// Octets that are held between chunks.
    pub(super) fn held(&self) -> usize {
        self.walker.held() + self.change.out.len() + self.change.reply_to.as_ref().map_or(0, Vec::len)
    }
}

impl<S: Senders> Change<S> {
    fn give(&mut self, out: &mut VecDeque<Bytes>) {
        if !self.out.is_empty() {
            out.push_back(mem::take(&mut self.out).into());
        }
    }

    fn token(&mut self, entity: &Entity, token: Token<'_>) {
        match token {
            Token::Field(field) => self.field(entity, field),
            Token::HeaderEnd(line) => self.header_end(entity, line),
            Token::Overlong { octets, first } => {
                let named = split_field(octets).is_some_and(|(name, _)| is_name(name, "reply-to"));
                self.has_reply_to |= entity.number == 0 && first && named;
                self.out.extend_from_slice(octets);
            }
            Token::Body(octets) => match &mut self.encoder {
                Some(encoder) => encoder.push(octets, &mut self.out),
                None => self.out.extend_from_slice(octets),
            },
            Token::Delimiter(line) => {
                self.end_body(true);
                self.out.extend_from_slice(line);
            }
        }
    }

    fn end_body(&mut self, delimiter: bool) {
        if let Some(encoder) = self.encoder.take() {
            encoder.finish(delimiter, &mut self.out);
        }
    }

    fn field(&mut self, entity: &Entity, field: &[u8]) {
        let Some((name, body)) = split_field(field) else { return self.out.extend_from_slice(field) };
        if self.senders.is_some() && entity.number == 0 && self.sender_field(name, body) {
            return;
        }
        let label = is_name(name, "content-transfer-encoding").then(|| self.label(entity)).flatten();
        match label {
            Some(label) => {
                self.labelled = true;
                self.write_label(label);
            }
            None => self.out.extend_from_slice(field),
        }
    }

    /// Writes a field of the message with other senders; false when nothing is to be changed in it.
    fn sender_field(&mut self, name: &[u8], body: &[u8]) -> bool {
        let Some(senders) = &self.senders else { return false };
        self.has_reply_to |= is_name(name, "reply-to");
        let from = is_name(name, "from");
        if !from && !is_name(name, "sender") {
            return false;
        }
        let Some(changed) = addresses::rewrite(body, senders) else { return false };
        self.out.extend_from_slice(name);
        self.out.push(b':');
        self.out.extend_from_slice(&changed.body);
        if from && changed.keep_old && self.reply_to.is_none() {
            self.reply_to = Some(body.to_vec());
        }
        true
    }

    /// What Content-Transfer-Encoding is to say instead of what it says.
    fn label(&self, entity: &Entity) -> Option<&'static str> {
        let plan = self.plan.as_ref()?;
        let within = |parts: &[u32]| parts.binary_search(&entity.number).is_ok();
        if within(&plan.base64) {
            return Some("base64");
        }
        if within(&plan.quoted_printable) {
            return Some("quoted-printable");
        }
        // what holds parts must not promise more than they have (RFC 2045, 6.4)
        match (entity.encoding(), plan.body) {
            _ if entity.frozen => None,
            (Encoding::EightBit | Encoding::Binary, Body::SevenBit) => Some("7bit"),
            (Encoding::Binary, Body::EightBitMime) => Some("8bit"),
            _ => None,
        }
    }

    fn write_label(&mut self, label: &str) {
        self.out.extend_from_slice(b"Content-Transfer-Encoding: ");
        self.out.extend_from_slice(label.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn header_end(&mut self, entity: &Entity, line: &[u8]) {
        if entity.number == 0 && !self.has_reply_to {
            self.write_reply_to();
        }
        let labelled = mem::take(&mut self.labelled);
        let label = self.label(entity).filter(|label| matches!(*label, "base64" | "quoted-printable"));
        if let Some(label) = label.filter(|_| !line.is_empty()) {
            if !labelled {
                self.write_label(label);
            }
            if entity.is_message && !entity.mime_version {
                self.out.extend_from_slice(b"MIME-Version: 1.0\r\n");
                if entity.content_type.is_none() {
                    // RFC 1428, section 3: nobody has said what it is
                    self.out.extend_from_slice(b"Content-Type: text/plain; charset=unknown-8bit\r\n");
                }
            }
            self.encoder = Some(match label {
                "base64" => Encoder::Base64(Base64::default()),
                _ => Encoder::QuotedPrintable(QuotedPrintable::default()),
            });
        }
        self.out.extend_from_slice(line);
    }

    fn write_reply_to(&mut self) {
        let Some(body) = self.reply_to.take() else { return };
        // the header may have ended within a line
        self.end_line();
        self.out.extend_from_slice(b"Reply-To:");
        self.out.extend_from_slice(&body);
        self.end_line();
    }

    fn end_line(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with(b"\r\n") {
            self.out.extend_from_slice(b"\r\n");
        }
    }
}
