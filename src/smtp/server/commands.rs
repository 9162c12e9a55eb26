//! Commands: from a line to a question, or to the reply that needs no policy. Here the sequence is checked (RFC 5321, 4.1.4).

use std::time::Instant;

use bytes::Bytes;

use super::{
    Command, Dialog, Extensions, Grammar, Pending, Question, Session, State, Step, Verb, command, ok, too_large,
};
use crate::smtp::line::Line;
use crate::smtp::parameters::Body;
use crate::smtp::reply::{EnhancedStatus, Reply};

impl Session {
    pub(super) fn read_command(&mut self, dialog: Dialog, until: Option<Instant>, now: Instant) -> Option<Step> {
        let binary = |first: &u8| !first.is_ascii() || (first.is_ascii_control() && !matches!(first, b'\r' | b'\n'));
        if self.virgin && !self.lines.is_discarding() && self.input.first().is_some_and(binary) {
            return self.reject(Verb::Other, Bytes::new(), "This is an SMTP server");
        }
        let line = self.lines.next(&mut self.input);
        if line != Line::NeedMore {
            self.begun = None;
        }
        match line {
            Line::NeedMore => {
                let timeouts = &self.settings.timeouts;
                let mut until = until.unwrap_or(now + timeouts.idle);
                if self.begun.is_some() || !self.input.is_empty() {
                    until = until.min(*self.begun.get_or_insert(now) + timeouts.command);
                }
                // a message that comes in ever smaller chunks has to come to an end too
                if let Dialog::Chunks(receiving) = &dialog {
                    until = receiving.whole(timeouts).map_or(until, |whole| until.min(whole));
                }
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

    /// What is on offer now.
    pub(super) fn extensions(&self) -> Extensions {
        self.settings.extensions.in_force(self.tls)
    }

    fn command(&mut self, line: &Bytes, dialog: Dialog, now: Instant) -> Option<Step> {
        let extensions = self.extensions();
        let grammar = Grammar {
            lmtp: self.settings.lmtp,
            start_tls: self.settings.start_tls || self.tls,
            auth: !self.settings.auth.mechanisms.is_empty(),
            smtputf8: matches!(dialog, Dialog::Transaction { smtputf8: true, .. }),
            completion: self.completion.as_ref(),
            ..Grammar::new(&extensions)
        };
        let parsed = command::parse(line, &grammar);
        let verb = parsed.verb;
        let argument = match verb {
            Verb::Auth => first_word(&line.slice(parsed.argument..)),
            _ => line.slice(parsed.argument..),
        };
        if verb == Verb::Other && is_http(line) {
            self.leave(&dialog);
            return self.reject(verb, argument, "This is an SMTP server");
        }
        self.virgin &= verb == Verb::Other;
        let alone = matches!(verb, Verb::Helo | Verb::Ehlo | Verb::Lhlo | Verb::Data | Verb::StartTls | Verb::Atrn);
        if alone && !self.input.is_empty() {
            self.leave(&dialog);
            let reply = Reply::new(503, EnhancedStatus::permanent(5, 1), "Commands pipelined where they must not be");
            self.put_noted(verb, argument, &reply);
            return None;
        }
        if !matches!(verb, Verb::Mail | Verb::Rcpt | Verb::Data | Verb::Bdat | Verb::Quit) {
            self.idle_commands += 1;
            if self.idle_commands > self.settings.max_idle_commands {
                return self.turn_away(verb, argument, &dialog, "Too many commands without mail");
            }
        }
        match parsed.command {
            Ok(command) => self.obey(command, verb, argument, dialog, now),
            // nobody knows where the next command begins
            Err(reply) if verb == Verb::Bdat => {
                self.leave(&dialog);
                self.put_noted(verb, argument, &reply);
                None
            }
            Err(reply) => self.refuse(verb, argument, reply, dialog, now),
        }
    }

    /// Checks the sequence; asks, or answers what needs no policy.
    fn obey(&mut self, command: Command, verb: Verb, argument: Bytes, dialog: Dialog, now: Instant) -> Option<Step> {
        if let Some(reply) = self.premature(&command) {
            return match command {
                Command::Bdat(chunk) => self.swallow(chunk, argument, reply, dialog, now),
                _ => self.refuse(verb, argument, reply, dialog, now),
            };
        }
        match (command, dialog) {
            (Command::Helo(name), before) => self.hello(name, false, verb, argument, before),
            (Command::Ehlo(name) | Command::Lhlo(name), before) => self.hello(name, true, verb, argument, before),
            (Command::StartTls, dialog) => self.start_tls(argument, dialog, now),
            (Command::Auth(mechanism, initial), dialog) => self.auth(mechanism, initial, argument, dialog, now),
            (Command::Mail(reverse_path, parameters), Dialog::Greeted) => {
                if self.settings.max_transactions.is_some_and(|max| self.transactions >= max) {
                    return self.turn_away(verb, argument, &Dialog::Greeted, "Too many messages on this connection");
                }
                if self.settings.max_session_size.is_some_and(|max| self.octets >= max) {
                    return self.turn_away(verb, argument, &Dialog::Greeted, "Too much mail on this connection");
                }
                if self.settings.max_size.is_some_and(|max| parameters.size.is_some_and(|size| size > max)) {
                    return self.refuse(verb, argument, too_large(), Dialog::Greeted, now);
                }
                let pending = Pending::Mail { smtputf8: parameters.smtputf8, binary: parameters.body == Body::Binary };
                self.ask(pending, verb, argument, Question::Mail { reverse_path, parameters })
            }
            (Command::Rcpt(forward_path, parameters), Dialog::Transaction { recipients, smtputf8, binary }) => {
                if recipients >= self.settings.max_recipients {
                    let reply = Reply::new(452, EnhancedStatus::transient(5, 3), "Too many recipients");
                    let dialog = Dialog::Transaction { recipients, smtputf8, binary };
                    return self.refuse(verb, argument, reply, dialog, now);
                }
                let pending = Pending::Rcpt { recipients, smtputf8, binary };
                self.ask(pending, verb, argument, Question::Rcpt { forward_path, parameters })
            }
            (Command::Data, dialog @ Dialog::Transaction { recipients: 0, .. }) => {
                let reply = Reply::new(554, EnhancedStatus::permanent(5, 1), "No valid recipients");
                self.refuse(verb, argument, reply, dialog, now)
            }
            (Command::Data, dialog @ Dialog::Transaction { binary: true, .. }) => {
                self.out_of_sequence(verb, argument, "BINARYMIME needs BDAT", dialog, now)
            }
            (Command::Data, Dialog::Transaction { recipients, .. }) => {
                self.ask(Pending::Begin { recipients, chunks: None }, verb, argument, Question::Begin)
            }
            (Command::Bdat(chunk), dialog) => self.chunk(chunk, argument, dialog, now),
            (Command::Mail(..), dialog @ Dialog::New) => {
                self.out_of_sequence(verb, argument, "Say HELO first", dialog, now)
            }
            (Command::Mail(..), dialog) => self.out_of_sequence(verb, argument, "Nested MAIL", dialog, now),
            (Command::Rcpt(..) | Command::Data, dialog @ Dialog::Chunks(_)) => {
                self.out_of_sequence(verb, argument, "BDAT has begun", dialog, now)
            }
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
                let text = "See RFC 5321; EHLO lists what there is";
                self.reply(verb, argument, &Reply::new(214, EnhancedStatus::success(0, 0), text), dialog)
            }
            (Command::Vrfy(what), dialog) => self.ask(Pending::Vrfy { dialog }, verb, argument, Question::Vrfy(what)),
            (Command::Expn, dialog) => {
                let reply = Reply::new(502, EnhancedStatus::permanent(5, 1), "Lists are not expanded here");
                self.refuse(verb, argument, reply, dialog, now)
            }
            (Command::Etrn(what), Dialog::Greeted) => self.ask(Pending::Etrn, verb, argument, Question::Etrn(what)),
            (Command::Atrn(domains), Dialog::Greeted) => {
                self.ask(Pending::Turn, verb, argument, Question::Turn(domains))
            }
            (Command::Etrn(_) | Command::Atrn(_), dialog) => {
                self.out_of_sequence(verb, argument, "Not here in the dialog", dialog, now)
            }
            (Command::Quit, dialog) => {
                self.leave(&dialog);
                self.put_noted(verb, argument, &Reply::new(221, EnhancedStatus::success(0, 0), "Bye"));
                None
            }
        }
    }

    /// What must come first: TLS (RFC 3207, 4), then authentication (RFC 4954, 6).
    fn premature(&self, command: &Command) -> Option<Reply> {
        use Command::{Atrn, Auth, Bdat, Data, Etrn, Expn, Mail, Rcpt, Vrfy};
        let sends = matches!(command, Mail(..) | Rcpt(..) | Data | Bdat(_) | Etrn(_) | Atrn(_) | Vrfy(_) | Expn);
        let reply = |text: &'static str| Some(Reply::new(530, EnhancedStatus::permanent(7, 0), text));
        if self.settings.require_tls && !self.tls && (sends || matches!(command, Auth(..))) {
            return reply("Must issue a STARTTLS command first");
        }
        let needed = matches!(command, Atrn(_)) || self.settings.auth.required && sends;
        if needed && !self.authenticated { reply("Authentication required") } else { None }
    }

    fn hello(&mut self, name: String, extended: bool, verb: Verb, argument: Bytes, before: Dialog) -> Option<Step> {
        self.ask(Pending::Helo { extended, before }, verb, argument, Question::Helo { name, extended })
    }

    /// The driver begins TLS when the 220 has left. Nothing was pipelined behind it, or we were not here.
    fn start_tls(&mut self, argument: Bytes, dialog: Dialog, now: Instant) -> Option<Step> {
        if self.tls {
            return self.out_of_sequence(Verb::StartTls, argument, "TLS is active already", dialog, now);
        }
        if dialog.is_transaction() {
            return self.out_of_sequence(Verb::StartTls, argument, "Not in a transaction", dialog, now);
        }
        let reply = Reply::new(220, EnhancedStatus::success(0, 0), "Ready to start TLS");
        self.put_noted(Verb::StartTls, argument, &reply);
        self.state = State::TlsDue;
        None
    }
}

fn first_word(argument: &Bytes) -> Bytes {
    let end = memchr::memchr(b' ', argument).unwrap_or(argument.len());
    argument.slice(..end)
}

/// An HTTP request line, or any line that ends like one.
fn is_http(line: &[u8]) -> bool {
    const METHODS: [&[u8]; 8] = [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"CONNECT ", b"DELETE ", b"PATCH "];
    METHODS.iter().any(|method| line.starts_with(method)) || memchr::memmem::find(line, b" HTTP/").is_some()
}
