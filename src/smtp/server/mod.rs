//! The server's side of an SMTP session, without IO, clock or policy (RFC 5321; RFC 2920 for pipelining).
//!
//! A driver owns the socket. It calls [`Session::next`] and does what the [`Step`] says, until `Close`. Octets go in by
//! [`Session::buffer`] and [`Session::received`]; answers of policy by [`Session::answer`].
//!
//! The states, in prose. A connection is *asked about*, then *greeted*, perhaps after a delay in which a client that
//! talks is turned away. Then it is in *command* state, inside a [`Dialog`]: nobody greeted us yet; greeted; in a
//! transaction. A command that is right in syntax and sequence becomes a question, and the session is *asked*: it
//! consumes nothing until there is an answer. `Begin` answered well makes it *receiving*, until the true end of the
//! content; then it asks `Commit`. A refusal of a client that was refused often is *held* for a while. At last it
//! is *closing*: what is gathered is sent, then `Close`.
//!
//! Guarantees: one reply per command, in order; replies are gathered and leave when input or time is needed, or
//! when the driver asks ([`Session::flush`]) because an answer takes long. `Commit` is asked only behind the true
//! end of the content, and only if nothing spoke against the message. Memory is bounded: an idle session holds
//! no buffer. Every path ends in `NeedInput`, `Wait`, `NeedAnswer` or `Close`.
//!
//! What closes a session at once, with a 5xx: a client that talks before the greeting, commands pipelined behind HELO,
//! EHLO or DATA (RFC 2920, 3.1), HTTP, and TLS or other binary as the first octets.

mod answering;
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

use super::command::{self, Command, Verb};
pub use super::data::BareLineEnds;
use super::line::{Line, LineReader};
use super::reply::{EnhancedStatus, Reply};
use content::Receiving;
pub use question::{Answer, Note, Question, Step};
use replies::{ok, timed_out, too_large};
pub use settings::{Settings, Timeouts};

/// A server session.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    state: State,
    input: BytesMut,
    output: BytesMut,
    lines: LineReader,
    note: Option<Note>,
    reset: bool,
    errors: u32,
    idle_commands: u32,
    transactions: u32,
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
    Receiving(Receiving),
    Held { reply: Reply, until: Instant, dialog: Dialog },
    Closing,
}

/// How far a client has come.
#[derive(Debug)]
enum Dialog {
    New,
    Greeted,
    Transaction { recipients: usize, smtputf8: bool },
}

/// What the open question is about, and what its answer continues.
#[derive(Debug)]
enum Pending {
    Connect,
    Helo { extended: bool, before: Dialog },
    Mail { smtputf8: bool },
    Rcpt { recipients: usize, smtputf8: bool },
    Begin,
    Commit,
    Vrfy { dialog: Dialog },
}

/// How much is read ahead of what can be consumed, in octets.
const READ_AHEAD: usize = 64 << 10;

impl Session {
    /// A session on a connection that was just made.
    pub fn new(settings: Arc<Settings>, _now: Instant) -> Self {
        let lines = LineReader::new(command::max_line(&settings.extensions));
        Session {
            settings,
            state: State::Connected,
            input: BytesMut::new(),
            output: BytesMut::new(),
            lines,
            note: None,
            reset: false,
            errors: 0,
            idle_commands: 0,
            transactions: 0,
            virgin: true,
            eof: false,
            stopping: None,
        }
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
        if let State::Receiving(receiving) = &mut self.state {
            receiving.last = now;
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
                Pending::Mail { .. } | Pending::Rcpt { .. } | Pending::Begin | Pending::Commit => self.reset = true,
                Pending::Connect => {}
            },
            State::Receiving(_) => self.reset = true,
            State::Connected | State::Greeting { .. } | State::Closing => {}
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
            State::Held { reply, dialog, .. } => {
                self.put(&reply);
                self.state = State::Command { dialog, until: None };
            }
            State::Command { dialog, .. } => {
                self.leave(&dialog);
                self.put_noted(Verb::Other, Bytes::new(), &timed_out());
            }
            State::Receiving(_) => {
                self.reset = true;
                self.put_noted(Verb::Content, Bytes::new(), &timed_out());
            }
            other => self.state = other,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Greeting { until } | State::Held { until, .. } => Some(*until),
            State::Command { until, .. } => *until,
            State::Receiving(receiving) => Some(receiving.deadline(&self.settings.timeouts)),
            State::Connected | State::Asked { .. } | State::Closing => None,
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
            State::Receiving(receiving) => self.receive(receiving),
            State::Held { reply, until, dialog } => {
                self.state = State::Held { reply, until, dialog };
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

    fn read_command(&mut self, dialog: Dialog, until: Option<Instant>, now: Instant) -> Option<Step> {
        let binary = |first: &u8| !first.is_ascii() || (first.is_ascii_control() && !matches!(first, b'\r' | b'\n'));
        if self.virgin && self.input.first().is_some_and(binary) {
            return self.reject(Verb::Other, Bytes::new(), "This is an SMTP server");
        }
        match self.lines.next(&mut self.input) {
            Line::NeedMore => {
                let until = until.unwrap_or(now + self.settings.timeouts.command);
                self.state = State::Command { dialog, until: Some(until) };
                self.need_input(until)
            }
            Line::TooLong => self.refuse(Verb::Other, Bytes::new(), command::line_too_long(), dialog, now),
            Line::BareLf => {
                let reply = Reply::new(500, EnhancedStatus::permanent(5, 2), "Lines end in CRLF");
                self.refuse(Verb::Other, Bytes::new(), reply, dialog, now)
            }
            Line::Command(line) => self.command(&line, dialog, now),
        }
    }

    fn command(&mut self, line: &Bytes, dialog: Dialog, now: Instant) -> Option<Step> {
        let smtputf8 = matches!(dialog, Dialog::Transaction { smtputf8: true, .. });
        let parsed = command::parse(line, &self.settings.extensions.in_force(false), smtputf8);
        let (verb, argument) = (parsed.verb, line.slice(parsed.argument..));
        if verb == Verb::Other && is_http(line) {
            self.leave(&dialog);
            return self.reject(verb, argument, "This is an SMTP server");
        }
        self.virgin &= verb == Verb::Other;
        if matches!(verb, Verb::Helo | Verb::Ehlo | Verb::Data) && !self.input.is_empty() {
            self.leave(&dialog);
            let reply = Reply::new(503, EnhancedStatus::permanent(5, 1), "Commands pipelined where they must not be");
            self.put_noted(verb, argument, &reply);
            return None;
        }
        if !matches!(verb, Verb::Mail | Verb::Rcpt | Verb::Data | Verb::Quit) {
            self.idle_commands += 1;
            if self.idle_commands > self.settings.max_idle_commands {
                return self.turn_away(verb, argument, &dialog, "Too many commands without mail");
            }
        }
        match parsed.command {
            Ok(command) => self.obey(command, verb, argument, dialog, now),
            Err(reply) => self.refuse(verb, argument, reply, dialog, now),
        }
    }

    /// Checks the sequence; asks, or answers what needs no policy.
    fn obey(&mut self, command: Command, verb: Verb, argument: Bytes, dialog: Dialog, now: Instant) -> Option<Step> {
        match (command, dialog) {
            (Command::Helo(name), before) => self.ask(
                Pending::Helo { extended: false, before },
                verb,
                argument,
                Question::Helo { name, extended: false },
            ),
            (Command::Ehlo(name), before) => self.ask(
                Pending::Helo { extended: true, before },
                verb,
                argument,
                Question::Helo { name, extended: true },
            ),
            (Command::Mail(reverse_path, parameters), Dialog::Greeted) => {
                if self.settings.max_transactions.is_some_and(|max| self.transactions >= max) {
                    return self.turn_away(verb, argument, &Dialog::Greeted, "Too many messages on this connection");
                }
                if self.settings.max_size.is_some_and(|max| parameters.size.is_some_and(|size| size > max)) {
                    return self.refuse(verb, argument, too_large(), Dialog::Greeted, now);
                }
                let pending = Pending::Mail { smtputf8: parameters.smtputf8 };
                self.ask(pending, verb, argument, Question::Mail { reverse_path, parameters })
            }
            (Command::Rcpt(forward_path, parameters), Dialog::Transaction { recipients, smtputf8 }) => {
                if recipients >= self.settings.max_recipients {
                    let reply = Reply::new(452, EnhancedStatus::transient(5, 3), "Too many recipients");
                    return self.refuse(verb, argument, reply, Dialog::Transaction { recipients, smtputf8 }, now);
                }
                let pending = Pending::Rcpt { recipients, smtputf8 };
                self.ask(pending, verb, argument, Question::Rcpt { forward_path, parameters })
            }
            (Command::Data, dialog @ Dialog::Transaction { recipients: 0, .. }) => {
                let reply = Reply::new(554, EnhancedStatus::permanent(5, 1), "No valid recipients");
                self.refuse(verb, argument, reply, dialog, now)
            }
            (Command::Data, Dialog::Transaction { .. }) => self.ask(Pending::Begin, verb, argument, Question::Begin),
            (Command::Mail(..), dialog @ Dialog::New) => {
                self.out_of_sequence(verb, argument, "Say HELO first", dialog, now)
            }
            (Command::Mail(..), dialog) => self.out_of_sequence(verb, argument, "Nested MAIL", dialog, now),
            (Command::Rcpt(..) | Command::Data, dialog) => {
                self.out_of_sequence(verb, argument, "MAIL is needed first", dialog, now)
            }
            (Command::Rset, dialog) => {
                self.leave(&dialog);
                let dialog = if matches!(dialog, Dialog::New) { Dialog::New } else { Dialog::Greeted };
                self.reply(verb, argument, &ok("OK"), dialog)
            }
            (Command::Noop, dialog) => self.reply(verb, argument, &ok("OK"), dialog),
            (Command::Help, dialog) => {
                let text = "Commands: HELO EHLO MAIL RCPT DATA RSET NOOP QUIT VRFY HELP";
                self.reply(verb, argument, &Reply::new(214, EnhancedStatus::success(0, 0), text), dialog)
            }
            (Command::Vrfy(what), dialog) => self.ask(Pending::Vrfy { dialog }, verb, argument, Question::Vrfy(what)),
            (Command::Expn, dialog) => {
                let reply = Reply::new(502, EnhancedStatus::permanent(5, 1), "Lists are not expanded here");
                self.refuse(verb, argument, reply, dialog, now)
            }
            (Command::Quit, dialog) => {
                self.leave(&dialog);
                self.put_noted(verb, argument, &Reply::new(221, EnhancedStatus::success(0, 0), "Bye"));
                None
            }
        }
    }

    fn ask(&mut self, pending: Pending, verb: Verb, argument: Bytes, question: Question) -> Option<Step> {
        self.state = State::Asked { pending, verb, argument };
        Some(Step::Ask(question))
    }

    /// A reply after which the session goes on.
    fn reply(&mut self, verb: Verb, argument: Bytes, reply: &Reply, dialog: Dialog) -> Option<Step> {
        self.put_noted(verb, argument, reply);
        self.state = State::Command { dialog, until: None };
        None
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
        self.errors += u32::from(reply.code >= 500);
        if self.errors >= self.settings.max_errors {
            return self.turn_away(verb, argument, &dialog, "Too many errors");
        }
        if reply.code >= 500 && self.errors > self.settings.soft_errors && !self.settings.error_delay.is_zero() {
            self.note(verb, argument, &reply);
            self.state = State::Held { reply, until: now + self.settings.error_delay, dialog };
            return None;
        }
        self.reply(verb, argument, &reply, dialog)
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
        self.reset |= matches!(dialog, Dialog::Transaction { .. });
    }

    fn put_noted(&mut self, verb: Verb, argument: Bytes, reply: &Reply) {
        self.note(verb, argument, reply);
        self.put(reply);
    }

    fn note(&mut self, verb: Verb, argument: Bytes, reply: &Reply) {
        self.note = Some(Note { verb, argument, code: reply.code, status: reply.status });
    }

    fn put(&mut self, reply: &Reply) {
        reply.write(self.settings.extensions.enhanced_status_codes, &mut self.output);
    }
}

/// An HTTP request line, or any line that ends like one.
fn is_http(line: &[u8]) -> bool {
    const METHODS: [&[u8]; 8] = [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"CONNECT ", b"DELETE ", b"PATCH "];
    METHODS.iter().any(|method| line.starts_with(method)) || memchr::memmem::find(line, b" HTTP/").is_some()
}
