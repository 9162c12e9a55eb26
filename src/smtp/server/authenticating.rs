//! The lines of an AUTH exchange (RFC 4954, 4): framing and base64 here, mechanisms and accounts are policy's.
//!
//! Nothing that a client sends in an exchange comes into a note. An exchange that is cancelled, or whose line cannot be
//! read, is over; so is the session after too many refusals.

use std::time::Instant;

use base64::Engine as _;
use bytes::Bytes;

use super::{AuthStep, Dialog, Pending, Question, Session, State, Step, Verb, command};
use crate::smtp::line::Line;
use crate::smtp::reply::{EnhancedStatus, Reply};

impl Session {
    pub(super) fn auth(
        &mut self,
        mechanism: String,
        initial: Option<Bytes>,
        argument: Bytes,
        dialog: Dialog,
        now: Instant,
    ) -> Option<Step> {
        if !matches!(dialog, Dialog::Greeted) || self.authenticated {
            let text = if self.authenticated { "Authenticated already" } else { "Not here in the dialog" };
            return self.out_of_sequence(Verb::Auth, argument, text, dialog, now);
        }
        let settings = &self.settings.auth;
        let known = mechanism.parse().ok().filter(|mechanism| settings.mechanisms.contains(mechanism));
        let Some(mechanism) = known else {
            return self.refuse(Verb::Auth, argument, command::unknown_mechanism(), dialog, now);
        };
        if !settings.allows(mechanism, self.tls) {
            let reply = Reply::new(538, EnhancedStatus::permanent(7, 11), "Encryption is needed for this mechanism");
            return self.refuse(Verb::Auth, argument, reply, dialog, now);
        }
        let pending = Pending::Auth { mechanism: argument.clone() };
        self.ask(pending, Verb::Auth, argument, Question::Auth(AuthStep::Begin { mechanism, initial }))
    }

    /// 334 and the challenge; the next line is the response.
    pub(super) fn challenge(&mut self, mechanism: Bytes, challenge: &[u8], now: Instant) {
        let text = base64::engine::general_purpose::STANDARD.encode(challenge);
        self.put_noted(Verb::Auth, mechanism.clone(), &Reply::plain(334, text));
        self.state = State::Authenticating { mechanism, until: now + self.settings.timeouts.command };
    }

    pub(super) fn read_response(&mut self, mechanism: Bytes, until: Instant, now: Instant) -> Option<Step> {
        let reply = match self.lines.next(&mut self.input) {
            Line::NeedMore => {
                self.state = State::Authenticating { mechanism, until };
                return self.need_input(until);
            }
            Line::TooLong => {
                Reply::new(500, EnhancedStatus::permanent(5, 6), "Authentication exchange line is too long")
            }
            Line::BareLf => Reply::new(501, EnhancedStatus::permanent(5, 2), "Lines end in CRLF"),
            Line::Command(line) if *line == *b"*" => {
                Reply::new(501, EnhancedStatus::permanent(7, 0), "Authentication cancelled")
            }
            Line::Command(line) => match command::decode_response(&line) {
                Ok(response) => {
                    let pending = Pending::Auth { mechanism: mechanism.clone() };
                    return self.ask(pending, Verb::Auth, mechanism, Question::Auth(AuthStep::Response(response)));
                }
                Err(reply) => reply,
            },
        };
        self.refuse(Verb::Auth, mechanism, reply, Dialog::Greeted, now)
    }

    /// Policy did not believe the client.
    pub(super) fn not_authenticated(&mut self, argument: Bytes, reply: Reply, now: Instant) {
        if reply.code >= 500 {
            self.auth_failures += 1;
            if self.auth_failures >= self.settings.auth.max_failures {
                self.turn_away(Verb::Auth, argument, &Dialog::Greeted, "Too many failed authentications");
                return;
            }
        }
        self.refuse(Verb::Auth, argument, reply, Dialog::Greeted, now);
    }
}
