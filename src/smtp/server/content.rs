//! Receiving the content of a message, from the 354 to its true end.
//!
//! What speaks against a message (its size, its line ends, its lines, a failure of the driver) is remembered; the
//! content is read on to its end in constant memory, and the first objection is the one reply. Deadlines hold for each
//! block and for the whole at a least rate.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::replies::too_large;
use super::{BareLineEnds, Dialog, Pending, Question, Session, Settings, State, Step, Timeouts};
use crate::smtp::command::Verb;
use crate::smtp::data::{Decoder, Piece};
use crate::smtp::reply::{EnhancedStatus, Reply};

/// A message under way.
#[derive(Debug)]
pub(super) struct Receiving {
    decoder: Decoder,
    pub(super) size: u64,
    began: Instant,
    pub(super) last: Instant,
    /// Why the content will be refused at its end; nothing of it is handed out any more.
    pub(super) refusal: Option<Reply>,
}

impl Receiving {
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        Receiving {
            decoder: Decoder::new(settings.bare_line_ends, settings.max_text_line),
            size: 0,
            began: now,
            last: now,
            refusal: None,
        }
    }

    /// The next block, or the whole at its least rate, whichever ends first.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Instant {
        let block = self.last + timeouts.data_block;
        match self.size.checked_div(timeouts.data_least_rate) {
            Some(granted) => block.min(self.began + timeouts.data_base + Duration::from_secs(granted.min(1 << 31))),
            None => block,
        }
    }

    fn objection(&self, settings: &Settings) -> Option<Reply> {
        let refuse_bare = settings.bare_line_ends == BareLineEnds::Refuse;
        if settings.max_size.is_some_and(|max| self.size > max) {
            Some(too_large())
        } else if refuse_bare && self.decoder.has_bare_line_ends() {
            Some(Reply::new(550, EnhancedStatus::permanent(6, 11), "The content has a CR or LF that stands alone"))
        } else if self.decoder.has_long_lines() {
            Some(Reply::new(552, EnhancedStatus::permanent(6, 0), "The content has a line that is too long"))
        } else {
            None
        }
    }
}

impl Session {
    pub(super) fn receive(&mut self, mut receiving: Receiving) -> Option<Step> {
        let piece = receiving.decoder.next(&mut self.input);
        if let Piece::Text(text) = &piece {
            receiving.size += text.len() as u64;
        }
        if receiving.refusal.is_none() {
            receiving.refusal = receiving.objection(&self.settings);
        }
        match piece {
            Piece::NeedMore => {
                let until = receiving.deadline(&self.settings.timeouts);
                self.state = State::Receiving(receiving);
                self.need_input(until)
            }
            Piece::Text(text) => {
                let wanted = receiving.refusal.is_none();
                self.state = State::Receiving(receiving);
                wanted.then_some(Step::Body(text))
            }
            Piece::End => match receiving.refusal {
                None => self.ask(Pending::Commit, Verb::Content, Bytes::new(), Question::Commit),
                Some(reply) => {
                    self.reset = true;
                    self.refuse(Verb::Content, Bytes::new(), reply, Dialog::Greeted, receiving.last)
                }
            },
        }
    }
}
