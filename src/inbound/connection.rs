//! One connection: the driver of the session core asks, `intake` answers.
//!
//! The server's settings are those of the moment when the connection opened; policy is that of the moment of MAIL.

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;

use super::Inbound;
use super::protocol_log::Entry;
use crate::config::VirtualServer;
use crate::intake::{Client, Incoming, Refusal, Sender, max_hold};
use crate::model::time::Timestamp;
use crate::net::server_driver::{self, Answers};
use crate::net::stream::{Accepted, TlsFacts};
use crate::observe::metrics::ByName;
use crate::smtp::address::Domain;
use crate::smtp::command::Verb;
use crate::smtp::extension::Extensions;
use crate::smtp::reply::Reply;
use crate::smtp::server::{Answer, Note, Question, Session, Settings, Timeouts};
use crate::status::{self, SessionGuard, SessionState};

/// Serves one connection to its end.
pub(super) async fn serve(
    inbound: Arc<Inbound>,
    server: Arc<VirtualServer>,
    stream: TcpStream,
    peer: SocketAddr,
    guard: SessionGuard,
) {
    let label = ByName { name: server.name.as_str().to_owned() };
    inbound.intake.metrics.sessions.get_or_create(&label).inc();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(peer.addr = %peer, error = %error, "TCP_NODELAY could not be set");
    }
    let mut stream = Accepted::new(stream, None);
    let now = Timestamp::from_millis(inbound.intake.clock.unix_millis());
    let session = Session::new(Arc::new(settings(&server, now)), inbound.intake.clock.now());
    let client = Client { address: peer.ip(), server };
    let mut conversation = Conversation {
        sender: Sender { client, helo: String::new(), extended: false },
        inbound: inbound.clone(),
        incoming: None,
        session: guard.session().clone(),
        asked: None,
        content: 0,
    };
    let stop = guard.session().stop();
    server_driver::serve(&mut stream, session, &mut conversation, &*inbound.intake.clock, stop).await;
    inbound.intake.metrics.sessions.get_or_create(&label).dec();
    drop(guard);
}

fn settings(server: &VirtualServer, now: Timestamp) -> Settings {
    let spec = &server.spec;
    let on = &spec.extensions;
    Settings {
        extensions: Extensions {
            pipelining: on.pipelining,
            size: on.size,
            eight_bit_mime: on.eight_bit_mime,
            smtputf8: on.smtp_utf8,
            enhanced_status_codes: on.enhanced_status_codes,
            dsn: on.dsn,
            chunking: on.chunking,
            binary_mime: on.binary_mime,
            limits: on.limits,
            require_tls: on.require_tls,
            future_release: on.future_release,
            deliver_by: on.deliver_by,
            mt_priority: on.mt_priority,
            etrn: false,
            ..Extensions::default()
        },
        max_size: Some(spec.messages.max_size.bytes()),
        max_recipients: spec.messages.max_recipients as usize,
        max_transactions: spec.messages.max_per_connection,
        future_release: Some(max_hold(now)),
        timeouts: Timeouts { command: spec.connections.idle_timeout.std(), ..Timeouts::default() },
        ..Settings::new(server.fqdn.as_str())
    }
}

struct Conversation {
    inbound: Arc<Inbound>,
    sender: Sender,
    incoming: Option<Incoming>,
    /// Where it stands, for operators.
    session: Arc<status::Session>,
    /// When the question that is open was asked.
    asked: Option<Instant>,
    /// Octets of the content so far.
    content: u64,
}

impl Answers for Conversation {
    async fn answer(&mut self, question: Question) -> Answer {
        self.asked = Some(self.inbound.intake.clock.now());
        let answered = match question {
            Question::Connect => match self.sender.client.admit_connection() {
                Ok(()) => Ok(Answer::Proceed),
                Err(refusal) => {
                    self.log(&refusal);
                    return Answer::Close(refusal.reply);
                }
            },
            Question::Helo { name, extended } => {
                self.session.set_helo(&name);
                self.session.set_state(SessionState::Idle);
                self.sender.helo = name;
                self.sender.extended = extended;
                Ok(Answer::Proceed)
            }
            Question::Mail { reverse_path, parameters } => {
                let snapshot = self.inbound.live.current();
                if let Some(server) = snapshot.virtual_servers.get(&self.sender.client.server.name) {
                    self.sender.client.server = server.clone();
                }
                Incoming::begin(&self.inbound.intake, snapshot, self.sender.clone(), reverse_path, parameters).map(
                    |incoming| {
                        self.session.set_state(SessionState::Envelope);
                        let reply = incoming.reply_to_mail();
                        self.incoming = Some(incoming);
                        reply.map_or(Answer::Proceed, Answer::Reply)
                    },
                )
            }
            Question::Rcpt { forward_path, parameters } => match &mut self.incoming {
                Some(incoming) => {
                    incoming.recipient(&self.inbound.intake, forward_path, parameters).map(|()| Answer::Proceed)
                }
                None => Ok(out_of_step()),
            },
            Question::Begin => match &mut self.incoming {
                Some(incoming) => {
                    self.session.set_state(SessionState::Content);
                    let now = Timestamp::from_millis(self.inbound.intake.clock.unix_millis());
                    incoming.content_begins(now).await.map(|()| Answer::Proceed)
                }
                None => Ok(out_of_step()),
            },
            Question::Commit => match self.incoming.take() {
                Some(incoming) => {
                    self.session.set_state(SessionState::Committing);
                    let committed = incoming.commit(&self.inbound.intake).await;
                    self.session.set_state(SessionState::Idle);
                    committed.map(|reply| {
                        self.session.add_message();
                        Answer::Reply(reply)
                    })
                }
                None => Ok(out_of_step()),
            },
            Question::Auth(_) => {
                let reply = Reply::new(454, crate::smtp::reply::EnhancedStatus::transient(7, 0), "Not now");
                Ok(Answer::Reply(reply))
            }
            Question::Etrn(_) | Question::Turn(_) => Ok(out_of_step()),
            // whether an address exists is nobody's business (RFC 5321, 7.3): the core answers 252
            Question::Vrfy(_) => Ok(Answer::Proceed),
        };
        answered.unwrap_or_else(|refusal| {
            self.log(&refusal);
            Answer::Reply(refusal.reply)
        })
    }

    async fn body(&mut self, chunk: Bytes) -> Result<(), Reply> {
        self.session.add_bytes(chunk.len());
        self.content += chunk.len() as u64;
        let Some(incoming) = &mut self.incoming else {
            return Err(Reply::new(451, crate::smtp::reply::EnhancedStatus::transient(3, 0), "Local error"));
        };
        match incoming.content(chunk).await {
            Ok(()) => Ok(()),
            Err(refusal) => {
                self.incoming = None;
                self.log(&refusal);
                Err(refusal.reply)
            }
        }
    }

    fn reset(&mut self) {
        self.session.set_state(SessionState::Idle);
        self.incoming = None;
    }

    fn tls_started(&mut self, facts: TlsFacts) {
        self.session.set_tls(facts);
    }

    fn completion(&self) -> Option<Domain> {
        None
    }

    fn note(&mut self, note: Note) {
        self.log_command(&note);
        tracing::debug!(
            virtualServer = %self.sender.client.server.name,
            peer.addr = %self.sender.client.address,
            command = ?note.verb,
            argument = %note.argument_text(),
            smtp.code = note.code,
            smtp.status = note.status.map(tracing::field::display),
            "command"
        );
    }
}

/// The core asks in order; should it not, nothing is taken.
fn out_of_step() -> Answer {
    Answer::Reply(Reply::new(503, crate::smtp::reply::EnhancedStatus::permanent(5, 1), "Bad sequence of commands"))
}

impl Conversation {
    /// Into the protocol log of the server, if it has one.
    fn log_command(&mut self, note: &Note) {
        let asked = self.asked.take();
        let content = if note.verb == Verb::Content { mem::take(&mut self.content) } else { 0 };
        let client = &self.sender.client;
        if !Entry::is_wanted(&client.server) {
            return;
        }
        let clock = &self.inbound.intake.clock;
        let command = note.verb.as_str().len() + 1 + note.argument.len() + 2;
        let opening = self.session.opening();
        self.inbound.protocol_logs.write(Entry {
            server: client.server.clone(),
            at: Timestamp::from_millis(clock.unix_millis()),
            session: self.session.id().to_string(),
            client: opening.client,
            local: opening.binding,
            helo: self.sender.helo.clone(),
            account: self.session.account(),
            verb: note.verb,
            argument: note.argument.to_vec(),
            code: note.code,
            status: note.status,
            sent: note.sent,
            received: match note.verb {
                Verb::Connect => 0,
                Verb::Content => content,
                _ => command as u64,
            },
            taken: asked.map_or(Duration::ZERO, |asked| clock.now().saturating_duration_since(asked)),
        });
    }

    fn log(&self, refusal: &Refusal) {
        let client = &self.sender.client;
        if refusal.reply.code >= 500 {
            let label = ByName { name: client.server.name.as_str().to_owned() };
            self.inbound.intake.metrics.recipients_refused.get_or_create(&label).inc();
        }
        tracing::info!(
            virtualServer = %client.server.name,
            peer.addr = %client.address,
            sender = self.incoming.as_ref().map(|incoming| tracing::field::display(incoming.reverse_path())),
            smtp.code = refusal.reply.code,
            smtp.status = refusal.reply.status.map(tracing::field::display),
            rule = refusal.rule,
            detail = %refusal.detail,
            "refused"
        );
    }
}
