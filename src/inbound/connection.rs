//! One connection: the driver of the session core asks, `intake` answers.
//!
//! The server's settings are those of the moment when the connection opened; policy is that of the moment of MAIL.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::Inbound;
use crate::config::VirtualServer;
use crate::intake::{Client, Incoming, Refusal, Sender, max_hold};
use crate::model::time::Timestamp;
use crate::net::server_driver::{self, Answers};
use crate::net::stream::{Accepted, TlsFacts};
use crate::observe::metrics::ByName;
use crate::smtp::address::Domain;
use crate::smtp::extension::Extensions;
use crate::smtp::reply::Reply;
use crate::smtp::server::{Answer, Note, Question, Session, Settings, Timeouts};
use crate::status::SessionGuard;

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
    };
    let stop = inbound.drain.watch();
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
}

impl Answers for Conversation {
    async fn answer(&mut self, question: Question) -> Answer {
        let answered = match question {
            Question::Connect => match self.sender.client.admit_connection() {
                Ok(()) => Ok(Answer::Proceed),
                Err(refusal) => {
                    self.log(&refusal);
                    return Answer::Close(refusal.reply);
                }
            },
            Question::Helo { name, extended } => {
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
                    let now = Timestamp::from_millis(self.inbound.intake.clock.unix_millis());
                    incoming.content_begins(now).await.map(|()| Answer::Proceed)
                }
                None => Ok(out_of_step()),
            },
            Question::Commit => match self.incoming.take() {
                Some(incoming) => incoming.commit(&self.inbound.intake).await.map(Answer::Reply),
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
        self.incoming = None;
    }

    fn tls_started(&mut self, _facts: TlsFacts) {}

    fn completion(&self) -> Option<Domain> {
        None
    }

    fn note(&mut self, note: Note) {
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
