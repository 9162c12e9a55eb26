//! What an answer of policy does: check, then proceed.

use std::mem;
use std::time::Instant;

use bytes::Bytes;

use super::content::Receiving;
use super::replies::{authenticated, cannot_verify, ok, recipient_ok, sender_ok};
use super::{Answer, Dialog, Pending, Session, State};
use crate::smtp::command::Verb;
use crate::smtp::extension::Offer;
use crate::smtp::reply::{EnhancedStatus, Reply};

impl Session {
    /// The answer to the question that is open; without one it does nothing.
    pub fn answer(&mut self, answer: Answer, now: Instant) {
        let (pending, verb, argument) = match mem::replace(&mut self.state, State::Closing) {
            State::Asked { pending, verb, argument } => (pending, verb, argument),
            other => {
                self.state = other;
                return;
            }
        };
        let reply = match answer {
            Answer::Close(reply) => {
                self.state = State::Asked { pending, verb, argument: argument.clone() };
                let committed = matches!(self.state, State::Asked { pending: Pending::Commit { .. }, .. });
                let earlier = mem::take(&mut self.output);
                self.abandon();
                self.reset &= !committed;
                self.output = earlier;
                return self.put_noted(verb, argument, &reply);
            }
            Answer::Challenge(challenge) => match pending {
                Pending::Auth { mechanism } => return self.challenge(mechanism, &challenge, now),
                // no other question has challenges: policy that gives one has lost its way
                _ => Some(Reply::new(451, EnhancedStatus::transient(3, 0), "Local error")),
            },
            Answer::Proceed => None,
            Answer::Reply(reply) => Some(reply),
        };
        match reply {
            Some(reply) if !reply.is_positive() => self.declined(pending, verb, argument, reply, now),
            reply => self.accepted(pending, verb, argument, reply, now),
        }
    }

    fn accepted(&mut self, pending: Pending, verb: Verb, argument: Bytes, reply: Option<Reply>, now: Instant) {
        let (reply, dialog) = match pending {
            Pending::Connect => return self.connect(reply, now),
            Pending::Helo { extended, before } => {
                self.leave(&before);
                (self.greeted(extended, reply), Dialog::Greeted)
            }
            Pending::Auth { .. } => {
                (self.authenticated, self.auth_failures) = (true, 0);
                (reply.unwrap_or_else(authenticated), Dialog::Greeted)
            }
            Pending::Mail { smtputf8, binary } => {
                self.transactions += 1;
                (reply.unwrap_or_else(sender_ok), Dialog::Transaction { recipients: 0, smtputf8, binary })
            }
            Pending::Rcpt { recipients, smtputf8, binary } => {
                let recipients = recipients + 1;
                (reply.unwrap_or_else(recipient_ok), Dialog::Transaction { recipients, smtputf8, binary })
            }
            Pending::Begin { recipients, chunks: Some((chunk, binary)) } => {
                let receiving = Receiving::chunks(&self.settings, recipients, binary, chunk, now);
                self.state = State::Receiving(receiving);
                return;
            }
            Pending::Begin { recipients, chunks: None } => {
                if !self.input.is_empty() {
                    // it came while the question was open, before the 354
                    self.reset = true;
                    let reply = Reply::new(503, EnhancedStatus::permanent(5, 1), "Content before the 354");
                    return self.put_noted(verb, argument, &reply);
                }
                let text = reply.map_or("Go ahead, end with CRLF . CRLF".into(), |reply| reply.text);
                self.put_noted(verb, argument, &Reply::plain(354, text));
                self.state = State::Receiving(Receiving::data(&self.settings, recipients, now));
                return;
            }
            Pending::Commit { recipients } => {
                (self.errors, self.idle_commands) = (0, 0);
                let reply = reply.unwrap_or_else(|| ok("OK"));
                self.reply_times(verb, argument, &reply, Dialog::Greeted, self.replies_of(recipients));
                return;
            }
            Pending::Vrfy { dialog } => (reply.unwrap_or_else(cannot_verify), dialog),
            Pending::Etrn => (reply.unwrap_or_else(|| ok("Queuing started")), Dialog::Greeted),
            Pending::Turn => {
                if !self.input.is_empty() {
                    // it came before the 250: what it would be taken for behind it, nobody knows
                    let reply = Reply::new(503, EnhancedStatus::permanent(5, 1), "Commands behind ATRN");
                    return self.put_noted(verb, argument, &reply);
                }
                let reply = reply.unwrap_or_else(|| ok("OK, now reversing the connection"));
                self.put_noted(verb, argument, &reply);
                self.state = State::TurnDue;
                return;
            }
        };
        self.reply(verb, argument, &reply, dialog);
    }

    fn declined(&mut self, pending: Pending, verb: Verb, argument: Bytes, reply: Reply, now: Instant) {
        let dialog = match pending {
            Pending::Connect => return self.put_noted(verb, argument, &reply),
            Pending::Helo { before, .. } => before,
            Pending::Auth { mechanism } => return self.not_authenticated(mechanism, reply, now),
            Pending::Mail { .. } | Pending::Etrn | Pending::Turn => Dialog::Greeted,
            Pending::Commit { recipients } => {
                let times = self.replies_of(recipients);
                self.refuse_times(verb, argument, reply, Dialog::Greeted, now, times);
                return;
            }
            Pending::Rcpt { recipients, smtputf8, binary } => Dialog::Transaction { recipients, smtputf8, binary },
            Pending::Begin { chunks, .. } => {
                self.reset = true;
                if let Some((chunk, _)) = chunks {
                    self.swallow(chunk, argument, reply, Dialog::Greeted, now);
                    return;
                }
                Dialog::Greeted
            }
            Pending::Vrfy { dialog } => dialog,
        };
        self.refuse(verb, argument, reply, dialog, now);
    }

    fn connect(&mut self, reply: Option<Reply>, now: Instant) {
        let wait = self.settings.refuse_early_talkers || !self.settings.greeting_delay.is_zero();
        match reply {
            None if wait => self.state = State::Greeting { until: now + self.settings.greeting_delay },
            // policy that words the greeting itself has had its time to wait
            reply => self.greet(reply),
        }
    }

    pub(super) fn greet(&mut self, reply: Option<Reply>) {
        let greeting = format!("{} {}", self.settings.fqdn, self.settings.greeting);
        let reply = reply.unwrap_or_else(|| Reply::plain(220, greeting));
        self.reply(Verb::Connect, Bytes::new(), &reply, Dialog::New);
    }

    fn greeted(&self, extended: bool, reply: Option<Reply>) -> Reply {
        let mut text = reply.map_or_else(|| self.settings.fqdn.clone(), |reply| reply.text.into_owned());
        if extended {
            // where nothing goes in clear, AUTH does not either
            let here = self.tls || !self.settings.require_tls;
            let auth: Vec<&str> = self.settings.auth.offered(self.tls).filter(|_| here).collect();
            let offer = Offer {
                max_size: self.settings.max_size,
                max_recipients: self.settings.max_recipients,
                max_transactions: self.settings.max_transactions,
                tls_active: self.tls,
                starttls: self.settings.start_tls,
                auth: &auth,
                future_release: self.settings.future_release,
            };
            for line in self.settings.extensions.lines(&offer) {
                text.push('\n');
                text.push_str(&line);
            }
        }
        Reply::plain(250, text)
    }
}
