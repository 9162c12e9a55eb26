//! The server's side of an SMTP session, without IO, clock or policy (RFC 5321; RFC 2920 for pipelining).
//!
//! A driver owns the socket. It calls [`Session::next`] and does what the [`Step`] says, until `Close`. Octets go in by
//! [`Session::buffer`] and [`Session::received`]; answers of policy by [`Session::answer`].
//!
//! The states, in prose. A connection is *asked about*, then *greeted*, perhaps after a delay in which a client that
//! talks is turned away. Then it is in *command* state, inside a [`Dialog`]: nobody greeted us yet; greeted; in a
//! transaction. A command that is right in syntax and sequence becomes a question, and the session is *asked*: it
//! consumes nothing until there is an answer. `Begin` answered well makes it *receiving*, until the true end of the
//! content; then it asks `Commit`. With BDAT it is *receiving* a chunk, then in command state again, until the last one; the
//! octets of a chunk that is refused are *swallowed*. During AUTH it is *authenticating*, where a line is a response. A refusal of a client that was refused often is *held* for a while. At last it
//! is *closing*: what is gathered is sent, then `Close`. Behind a positive reply to STARTTLS *TLS is due*: the driver begins it,
//! and everything that was known of the client is forgotten (RFC 3207, 4.2); behind one to ATRN the driver takes the connection.
//!
//! Guarantees: one reply per command, in order; replies are gathered and leave when input or time is needed, or
//! when the driver asks ([`Session::flush`]) because an answer takes long. `Commit` is asked only behind the true
//! end of the content, and only if nothing spoke against the message. Memory is bounded: an idle session holds
//! no buffer. Every path ends in `NeedInput`, `Wait`, `NeedAnswer` or `Close`.
//!
//! What closes a session at once, with a 5xx: a client that talks before the greeting, commands pipelined behind HELO,
//! EHLO, STARTTLS, ATRN or DATA (RFC 2920, 3.1), a BDAT whose size cannot be read, HTTP, and TLS or other binary as the first octets.

mod answering;
mod authenticating;
mod commands;
mod content;
mod question;
mod replies;
mod settings;
#[cfg(test)]
mod tests;

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::address::Domain;
use super::command::{self, Chunk, Command, Grammar, Verb};
pub use super::data::BareLineEnds;
use super::extension::Extensions;
use super::line::LineReader;
use super::reply::{EnhancedStatus, Reply};
use content::{Receiving, Swallowing};
pub use question::{Answer, AuthStep, Note, Question, Step};
use replies::{ok, timed_out, too_large};
pub use settings::{Auth, Settings, Timeouts};

/// A server session.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    state: State,
    input: BytesMut,
    output: BytesMut,
    lines: LineReader,
    /// When the command that is not complete yet began.
    begun: Option<Instant>,
    note: Option<Note>,
    reset: bool,
    errors: u32,
    idle_commands: u32,
    transactions: u32,
    /// Octets of content so far.
    octets: u64,
    tls: bool,
    authenticated: bool,
    auth_failures: u32,
    /// Completes addresses without a domain.
    completion: Option<Domain>,
    /// No command that we know was seen yet.
    virgin: bool,
    eof: bool,
    stopping: Option<Reply>,
}

#[derive(Debug)]
enum State {
    Connected,
    Greeting { until: Instant },
    Command { dialog: Dialog, until: Option<Instant> },
    Asked { pending: Pending, verb: Verb, argument: Bytes },
    Authenticating { mechanism: Bytes, until: Instant },
    Receiving(Receiving),
    Swallowing(Swallowing),
    Held { reply: Reply, times: usize, until: Instant, dialog: Dialog },
    TlsDue,
    TurnDue,
    Closing,
}

/// How far a client has come.
#[derive(Debug)]
enum Dialog {
    New,
    Greeted,
    Transaction {
        recipients: usize,
        smtputf8: bool,
        binary: bool,
    },
    /// Between two chunks of a message.
    Chunks(Receiving),
}

impl Dialog {
    fn is_transaction(&self) -> bool {
        matches!(self, Dialog::Transaction { .. } | Dialog::Chunks(_))
    }
}

/// What the open question is about, and what its answer continues.
#[derive(Debug)]
enum Pending {
    Connect,
    Helo {
        extended: bool,
        before: Dialog,
    },
    Auth {
        mechanism: Bytes,
    },
    Mail {
        smtputf8: bool,
        binary: bool,
    },
    Rcpt {
        recipients: usize,
        smtputf8: bool,
        binary: bool,
    },
    /// With BDAT, what it announced, and whether lines mean nothing.
    Begin {
        recipients: usize,
        chunks: Option<(Chunk, bool)>,
    },
    Commit {
        recipients: usize,
    },
    Vrfy {
        dialog: Dialog,
    },
    Etrn,
    Turn,
}

/// How much is read ahead of what can be consumed, in octets.
const READ_AHEAD: usize = 64 << 10;

impl Session {
    /// A session on a connection that was just made.
    pub fn new(settings: Arc<Settings>, _now: Instant) -> Self {
        let grammar = Grammar { auth: !settings.auth.mechanisms.is_empty(), ..Grammar::new(&settings.extensions) };
        let lines = LineReader::new(command::max_line(&grammar));
        Session {
            settings,
            state: State::Connected,
            input: BytesMut::new(),
            output: BytesMut::new(),
            lines,
            begun: None,
            note: None,
            reset: false,
            errors: 0,
            idle_commands: 0,
            transactions: 0,
            octets: 0,
            tls: false,
            authenticated: false,
            auth_failures: 0,
            completion: None,
            virgin: true,
            eof: false,
            stopping: None,
        }
    }

    /// TLS is active: from the beginning, or now, behind [`Step::StartTls`]. What the client said before is forgotten.
    pub fn tls_started(&mut self) {
        self.tls = true;
        if matches!(self.state, State::TlsDue) {
            self.authenticated = false;
            self.completion = None;
            self.input = BytesMut::new();
            self.state = State::Command { dialog: Dialog::New, until: None };
        }
    }

    /// Completes addresses that have no domain with this one, from now on: for clients that are trusted. `None`: refuses them.
    pub fn complete_with(&mut self, domain: Option<Domain>) {
        self.completion = domain;
    }

    /// Where to read to: append what was read, then call [`Session::received`]. Has room when [`Session::wants_input`].
    pub fn buffer(&mut self) -> &mut BytesMut {
        let room = match &self.state {
            State::Receiving(receiving) if receiving.size > 64 << 10 => 64 << 10,
            State::Receiving(_) => 16 << 10,
            _ => 4 << 10,
        };
        self.input.reserve(room);
        &mut self.input
    }

    /// False while so much is read ahead that the socket should be the back pressure.
    pub fn wants_input(&self) -> bool {
        self.input.len() < READ_AHEAD && !self.eof
    }

    /// True when octets were read that are not consumed yet.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Gives the read buffer back while it holds nothing; for the time in which a driver waits.
    pub fn release(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Octets were appended to the buffer.
    pub fn received(&mut self, now: Instant) {
        match &mut self.state {
            State::Receiving(receiving) => receiving.last = now,
            State::Swallowing(swallowing) => swallowing.last = now,
            _ => {}
        }
    }

    /// No more octets will come. What is there is still served and answered.
    pub fn eof(&mut self) {
        self.eof = true;
    }

    /// The connection is of no more use, or the driver gives it up: the session resets and closes.
    pub fn abandon(&mut self) {
        match mem::replace(&mut self.state, State::Closing) {
            State::Command { dialog, .. } | State::Held { dialog, .. } => self.leave(&dialog),
            State::Asked { pending, .. } => match pending {
                Pending::Helo { before: dialog, .. } | Pending::Vrfy { dialog } => self.leave(&dialog),
                // the draft may exist already, whatever the answer would have been
                Pending::Mail { .. } | Pending::Rcpt { .. } | Pending::Begin { .. } | Pending::Commit { .. } => {
                    self.reset = true;
                }
                Pending::Connect | Pending::Auth { .. } | Pending::Etrn | Pending::Turn => {}
            },
            State::Receiving(_) => self.reset = true,
            State::Swallowing(swallowing) => self.leave(&swallowing.dialog),
            State::Connected
            | State::Greeting { .. }
            | State::Authenticating { .. }
            | State::TlsDue
            | State::TurnDue
            | State::Closing => {}
        }
        self.output.clear();
    }

    /// Ends the session with this reply (421) as soon as it would need more input. A message that is complete, and
    /// commands that were read, are still served.
    pub fn stop(&mut self, reply: Reply) {
        self.stopping = Some(reply);
    }

    /// The content cannot be taken: read to its end, then give this reply. Only behind `Body`.
    pub fn body_failed(&mut self, reply: Reply) {
        if let State::Receiving(receiving) = &mut self.state {
            receiving.refusal.get_or_insert(reply);
        }
    }

    /// The time of the last `NeedInput` or `Wait` has come. Does nothing before it.
    pub fn timeout(&mut self, now: Instant) {
        let due = self.deadline().is_some_and(|until| until <= now);
        if !due {
            return;
        }
        match mem::replace(&mut self.state, State::Closing) {
            State::Greeting { .. } => self.greet(None),
            State::Held { reply, times, dialog, .. } => {
                (0..times).for_each(|_| self.put(&reply));
                self.state = State::Command { dialog, until: None };
            }
            State::Command { dialog, .. } => {
                self.leave(&dialog);
                self.put_noted(Verb::Other, Bytes::new(), &timed_out());
            }
            State::Authenticating { .. } => self.put_noted(Verb::Auth, Bytes::new(), &timed_out()),
            State::Receiving(_) => {
                self.reset = true;
                self.put_noted(Verb::Content, Bytes::new(), &timed_out());
            }
            State::Swallowing(swallowing) => {
                self.leave(&swallowing.dialog);
                self.put_noted(Verb::Bdat, Bytes::new(), &timed_out());
            }
            other => self.state = other,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Greeting { until } | State::Held { until, .. } => Some(*until),
            State::Authenticating { until, .. } => Some(*until),
            State::Command { until, .. } => *until,
            State::Receiving(receiving) => Some(receiving.deadline(&self.settings.timeouts)),
            State::Swallowing(swallowing) => Some(swallowing.deadline(&self.settings.timeouts)),
            State::Connected | State::Asked { .. } | State::TlsDue | State::TurnDue | State::Closing => None,
        }
    }

    /// The replies gathered so far. `next` sends them by itself when it needs input or time; a driver whose answer
    /// is not ready at once calls this before it waits.
    pub fn flush(&mut self) -> Option<Bytes> {
        (!self.output.is_empty()).then(|| mem::take(&mut self.output).freeze())
    }

    /// What to do next.
    pub fn next(&mut self, now: Instant) -> Step {
        loop {
            if let Some(note) = self.note.take() {
                return Step::Note(note);
            }
            if mem::take(&mut self.reset) {
                return Step::Reset;
            }
            if let Some(step) = self.advance(now) {
                return step;
            }
        }
    }

    /// One transition; `None` when there is more to do.
    fn advance(&mut self, now: Instant) -> Option<Step> {
        match mem::replace(&mut self.state, State::Closing) {
            State::Connected => self.ask(Pending::Connect, Verb::Connect, Bytes::new(), Question::Connect),
            State::Greeting { until } => {
                if self.settings.refuse_early_talkers && !self.input.is_empty() {
                    return self.reject(Verb::Other, Bytes::new(), "Talked before the greeting");
                }
                self.state = State::Greeting { until };
                if self.settings.refuse_early_talkers {
                    self.need_input(until)
                } else {
                    Some(self.flush().map_or(Step::Wait { until }, Step::Send))
                }
            }
            State::Command { dialog, until } => self.read_command(dialog, until, now),
            asked @ State::Asked { .. } => {
                self.state = asked;
                Some(Step::NeedAnswer)
            }
            State::Authenticating { mechanism, until } => self.read_response(mechanism, until, now),
            State::Receiving(receiving) => self.receive(receiving),
            State::Swallowing(swallowing) => self.go_on_swallowing(swallowing),
            State::TlsDue => {
                self.state = State::TlsDue;
                Some(self.flush().map_or(Step::StartTls, Step::Send))
            }
            State::TurnDue => {
                self.state = State::TurnDue;
                Some(self.flush().map_or(Step::TurnAround, Step::Send))
            }
            State::Held { reply, times, until, dialog } => {
                self.state = State::Held { reply, times, until, dialog };
                Some(self.flush().map_or(Step::Wait { until }, Step::Send))
            }
            State::Closing => Some(self.flush().map_or(Step::Close, Step::Send)),
        }
    }

    /// Sends what is gathered; then ends if there is nothing to come; then needs input.
    fn need_input(&mut self, until: Instant) -> Option<Step> {
        if let Some(replies) = self.flush() {
            return Some(Step::Send(replies));
        }
        if self.eof {
            self.abandon();
            return None;
        }
        if let Some(reply) = self.stopping.take() {
            self.abandon();
            self.put_noted(Verb::Other, Bytes::new(), &reply);
            return None;
        }
        Some(Step::NeedInput { until })
    }

    fn ask(&mut self, pending: Pending, verb: Verb, argument: Bytes, question: Question) -> Option<Step> {
        self.state = State::Asked { pending, verb, argument };
        Some(Step::Ask(question))
    }

    /// A reply after which the session goes on.
    fn reply(&mut self, verb: Verb, argument: Bytes, reply: &Reply, dialog: Dialog) -> Option<Step> {
        self.reply_times(verb, argument, reply, dialog, 1)
    }

    fn reply_times(
        &mut self,
        verb: Verb,
        argument: Bytes,
        reply: &Reply,
        dialog: Dialog,
        times: usize,
    ) -> Option<Step> {
        self.note(verb, argument, reply);
        (0..times).for_each(|_| self.put(reply));
        self.state = State::Command { dialog, until: None };
        None
    }

    /// Replies to one content: one, but in LMTP one for each recipient (RFC 2033, 4.2).
    fn replies_of(&self, recipients: usize) -> usize {
        if self.settings.lmtp { recipients } else { 1 }
    }

    fn out_of_sequence(
        &mut self,
        verb: Verb,
        argument: Bytes,
        text: &'static str,
        dialog: Dialog,
        now: Instant,
    ) -> Option<Step> {
        self.refuse(verb, argument, Reply::new(503, EnhancedStatus::permanent(5, 1), text), dialog, now)
    }

    /// A negative reply after which the session goes on, unless there were too many.
    fn refuse(&mut self, verb: Verb, argument: Bytes, reply: Reply, dialog: Dialog, now: Instant) -> Option<Step> {
        self.refuse_times(verb, argument, reply, dialog, now, 1)
    }

    fn refuse_times(
        &mut self,
        verb: Verb,
        argument: Bytes,
        reply: Reply,
        dialog: Dialog,
        now: Instant,
        times: usize,
    ) -> Option<Step> {
        self.errors += u32::from(reply.code >= 500);
        if self.errors >= self.settings.max_errors {
            return self.turn_away(verb, argument, &dialog, "Too many errors");
        }
        if reply.code >= 500 && self.errors > self.settings.soft_errors && !self.settings.error_delay.is_zero() {
            self.note(verb, argument, &reply);
            self.state = State::Held { reply, times, until: now + self.settings.error_delay, dialog };
            return None;
        }
        self.reply_times(verb, argument, &reply, dialog, times)
    }

    /// 421 4.7.0 and the end.
    fn turn_away(&mut self, verb: Verb, argument: Bytes, dialog: &Dialog, text: &'static str) -> Option<Step> {
        self.leave(dialog);
        self.put_noted(verb, argument, &Reply::new(421, EnhancedStatus::transient(7, 0), text));
        self.state = State::Closing;
        None
    }

    /// 554 5.5.1 and the end; what else was sent is not looked at.
    fn reject(&mut self, verb: Verb, argument: Bytes, text: &'static str) -> Option<Step> {
        self.put_noted(verb, argument, &Reply::new(554, EnhancedStatus::permanent(5, 1), text));
        self.state = State::Closing;
        None
    }

    /// Leaves a dialog: a transaction in it is abandoned.
    fn leave(&mut self, dialog: &Dialog) {
        self.reset |= dialog.is_transaction();
    }

    fn put_noted(&mut self, verb: Verb, argument: Bytes, reply: &Reply) {
        self.note(verb, argument, reply);
        self.put(reply);
    }

    fn note(&mut self, verb: Verb, argument: Bytes, reply: &Reply) {
        let sent = reply.wire_len(self.settings.extensions.enhanced_status_codes);
        self.note = Some(Note { verb, argument, code: reply.code, status: reply.status, sent });
    }

    fn put(&mut self, reply: &Reply) {
        reply.write(self.settings.extensions.enhanced_status_codes, &mut self.output);
    }
}
