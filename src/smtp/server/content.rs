//! Receiving the content of a message: from the 354 to its true end (DATA), or chunk by chunk (BDAT, RFC 3030).
//!
//! What speaks against a message (a failure of the driver, its size, its line ends, its lines) is remembered; the
//! content is read on to its end in constant memory, and the first of these is the one reply. Deadlines hold for each
//! block and for the whole at a least rate. Exactly as many octets as a BDAT announces are taken as content,
//! whatever they are; those of a chunk that is refused are swallowed and never read as commands.

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::replies::{ok, too_large};
use super::{BareLineEnds, Dialog, Pending, Question, Session, Settings, State, Step, Timeouts};
use crate::smtp::command::{Chunk, Verb};
use crate::smtp::data::{Decoder, Piece};
use crate::smtp::reply::{EnhancedStatus, Reply};

/// A message under way.
#[derive(Debug)]
pub(super) struct Receiving {
    /// Recipients of the transaction: LMTP answers for each.
    pub(super) recipients: usize,
    framing: Framing,
    /// Octets of content so far.
    pub(super) size: u64,
    began: Instant,
    pub(super) last: Instant,
    /// Why the content will be refused at its end, apart from what it is; nothing of it is handed out any more.
    pub(super) refusal: Option<Reply>,
}

/// How the end of the content is found.
#[derive(Debug)]
enum Framing {
    /// A dot alone on a line.
    Dot(Decoder),
    /// It is counted.
    Chunks {
        /// Octets of the open chunk that are still to come.
        remaining: u64,
        chunk: Chunk,
        /// `None` for BINARYMIME, where lines mean nothing.
        lines: Option<Decoder>,
        /// Octets that belong to the content and that the decoder has not decided on.
        open: BytesMut,
    },
}

impl Receiving {
    pub(super) fn data(settings: &Settings, recipients: usize, now: Instant) -> Self {
        let decoder = Decoder::new(settings.bare_line_ends, settings.max_text_line);
        Receiving::new(Framing::Dot(decoder), recipients, now)
    }

    pub(super) fn chunks(settings: &Settings, recipients: usize, binary: bool, chunk: Chunk, now: Instant) -> Self {
        let lines = (!binary).then(|| Decoder::of_chunks(settings.bare_line_ends, settings.max_text_line));
        let framing = Framing::Chunks { remaining: chunk.size, chunk, lines, open: BytesMut::new() };
        Receiving::new(framing, recipients, now)
    }

    fn new(framing: Framing, recipients: usize, now: Instant) -> Self {
        Receiving { recipients, framing, size: 0, began: now, last: now, refusal: None }
    }

    /// The next chunk was announced.
    pub(super) fn next_chunk(&mut self, announced: Chunk, now: Instant) {
        self.last = now;
        if let Framing::Chunks { remaining, chunk, .. } = &mut self.framing {
            (*remaining, *chunk) = (announced.size, announced);
        }
    }

    /// The next block, or the whole at its least rate, whichever ends first.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Instant {
        let block = self.last + timeouts.data_block;
        self.whole(timeouts).map_or(block, |whole| block.min(whole))
    }

    /// When all of it must have come.
    pub(super) fn whole(&self, timeouts: &Timeouts) -> Option<Instant> {
        timeouts.whole(self.began, self.size)
    }

    fn objection(&self, settings: &Settings) -> Option<Reply> {
        let refuse_bare = settings.bare_line_ends == BareLineEnds::Refuse;
        let decoder = match &self.framing {
            Framing::Dot(decoder) => Some(decoder),
            Framing::Chunks { lines, .. } => lines.as_ref(),
        };
        if settings.max_size.is_some_and(|max| self.size > max) {
            Some(too_large())
        } else if refuse_bare && decoder.is_some_and(Decoder::has_bare_line_ends) {
            Some(Reply::new(550, EnhancedStatus::permanent(6, 11), "The content has a CR or LF that stands alone"))
        } else if decoder.is_some_and(Decoder::has_long_lines) {
            Some(Reply::new(552, EnhancedStatus::permanent(6, 0), "The content has a line that is too long"))
        } else {
            None
        }
    }

    fn next(&mut self, input: &mut BytesMut) -> Piece {
        match &mut self.framing {
            Framing::Dot(decoder) => decoder.next(input),
            Framing::Chunks { remaining, chunk, lines, open } => {
                let here = usize::try_from(*remaining).unwrap_or(usize::MAX).min(input.len());
                *remaining -= here as u64;
                let octets = input.split_to(here);
                let Some(decoder) = lines else {
                    return match (octets.is_empty(), *remaining) {
                        (false, _) => Piece::Text(octets.freeze()),
                        (true, 0) => Piece::End,
                        (true, _) => Piece::NeedMore,
                    };
                };
                if open.is_empty() {
                    *open = octets;
                } else {
                    open.extend_from_slice(&octets);
                }
                match decoder.next(open) {
                    Piece::NeedMore if *remaining > 0 => Piece::NeedMore,
                    Piece::NeedMore if chunk.last => decoder.finish(open).map_or(Piece::End, Piece::Text),
                    Piece::NeedMore => Piece::End,
                    piece => piece,
                }
            }
        }
    }

    /// The end that was found is that of a chunk with more to come.
    fn goes_on(&self) -> bool {
        matches!(self.framing, Framing::Chunks { chunk: Chunk { last: false, .. }, .. })
    }

    fn verb(&self) -> Verb {
        if self.goes_on() { Verb::Bdat } else { Verb::Content }
    }
}

impl Session {
    pub(super) fn receive(&mut self, mut receiving: Receiving) -> Option<Step> {
        let piece = receiving.next(&mut self.input);
        if let Piece::Text(text) = &piece {
            receiving.size += text.len() as u64;
        }
        match piece {
            Piece::NeedMore => {
                let until = receiving.deadline(&self.settings.timeouts);
                self.state = State::Receiving(receiving);
                self.need_input(until)
            }
            Piece::Text(text) => {
                let wanted = receiving.refusal.is_none() && receiving.objection(&self.settings).is_none();
                self.state = State::Receiving(receiving);
                wanted.then_some(Step::Body(text))
            }
            Piece::End => {
                let (verb, recipients, last) = (receiving.verb(), receiving.recipients, receiving.last);
                // of several objections the one reply must not depend on how the octets came
                let objection = receiving.objection(&self.settings);
                if let Some(reply) = receiving.refusal.take().or(objection) {
                    self.reset = true;
                    // a chunk that is not the last has one reply, also in LMTP
                    let times = if verb == Verb::Content { self.replies_of(recipients) } else { 1 };
                    self.octets = self.octets.saturating_add(receiving.size);
                    return self.refuse_times(verb, Bytes::new(), reply, Dialog::Greeted, last, times);
                }
                if receiving.goes_on() {
                    return self.reply(verb, Bytes::new(), &ok("Chunk received"), Dialog::Chunks(receiving));
                }
                self.octets = self.octets.saturating_add(receiving.size);
                self.ask(Pending::Commit { recipients }, verb, Bytes::new(), Question::Commit)
            }
        }
    }

    /// BDAT, in whatever dialog (RFC 3030, 2).
    pub(super) fn chunk(&mut self, chunk: Chunk, argument: Bytes, dialog: Dialog, now: Instant) -> Option<Step> {
        match dialog {
            Dialog::Transaction { recipients: 0, .. } => {
                let reply = Reply::new(554, EnhancedStatus::permanent(5, 1), "No valid recipients");
                self.swallow(chunk, argument, reply, dialog, now)
            }
            Dialog::Transaction { recipients, binary, .. } => {
                if self.settings.max_size.is_some_and(|max| chunk.size > max) {
                    self.reset = true;
                    return self.swallow(chunk, argument, too_large(), Dialog::Greeted, now);
                }
                let pending = Pending::Begin { recipients, chunks: Some((chunk, binary)) };
                self.ask(pending, Verb::Bdat, argument, Question::Begin)
            }
            Dialog::Chunks(mut receiving) => {
                let size = receiving.size.saturating_add(chunk.size);
                if self.settings.max_size.is_some_and(|max| size > max) {
                    receiving.refusal.get_or_insert_with(too_large);
                }
                receiving.next_chunk(chunk, now);
                self.state = State::Receiving(receiving);
                None
            }
            dialog => {
                let reply = Reply::new(503, EnhancedStatus::permanent(5, 1), "MAIL is needed first");
                self.swallow(chunk, argument, reply, dialog, now)
            }
        }
    }

    /// Reads what a refused BDAT announced, then gives the reply.
    pub(super) fn swallow(
        &mut self,
        chunk: Chunk,
        argument: Bytes,
        reply: Reply,
        dialog: Dialog,
        now: Instant,
    ) -> Option<Step> {
        self.state = State::Swallowing(Swallowing {
            remaining: chunk.size,
            argument,
            reply,
            dialog,
            taken: 0,
            began: now,
            last: now,
        });
        None
    }

    pub(super) fn go_on_swallowing(&mut self, mut swallowing: Swallowing) -> Option<Step> {
        let here = usize::try_from(swallowing.remaining).unwrap_or(usize::MAX).min(self.input.len());
        self.input.advance(here);
        swallowing.remaining -= here as u64;
        swallowing.taken += here as u64;
        if swallowing.remaining == 0 {
            let Swallowing { argument, reply, dialog, last, .. } = swallowing;
            return self.refuse(Verb::Bdat, argument, reply, dialog, last);
        }
        let until = swallowing.deadline(&self.settings.timeouts);
        self.state = State::Swallowing(swallowing);
        self.need_input(until)
    }
}

/// A chunk that is not wanted.
#[derive(Debug)]
pub(super) struct Swallowing {
    remaining: u64,
    argument: Bytes,
    reply: Reply,
    pub(super) dialog: Dialog,
    taken: u64,
    began: Instant,
    pub(super) last: Instant,
}

impl Swallowing {
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Instant {
        let block = self.last + timeouts.data_block;
        timeouts.whole(self.began, self.taken).map_or(block, |whole| block.min(whole))
    }
}
