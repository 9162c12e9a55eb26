//! One connection: the driver of the session core asks, `intake` answers.
//!
//! The server's settings are those of the moment when the connection opened; policy is that of the moment of MAIL.

use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::listener::{limits, turned_away};
use super::protocol_log::Entry;
use super::{Inbound, fetching};
use crate::accounts::{Outcome, Session as Login};
use crate::config::{Snapshot, VirtualServer};
use crate::intake::{Client, Door, Filtering, Incoming, Refusal, Sender, max_hold};
use crate::model::mail::MessageId;
use crate::model::size::Size;
use crate::model::spec::virtual_server::{self, Binding, BindingTls, Mechanism as Offered, Protocol};
use crate::model::time::Timestamp;
use crate::net::proxy_protocol;
use crate::net::resolver::verified_name;
use crate::net::server_driver::{self, Answers, Ended, ServerStream as _};
use crate::net::stream::Accepted;
use crate::net::tls::Secured;
use crate::observe::metrics::ByName;
use crate::queue::Rejection;
use crate::queue::turn::{Fetch, Turned};
use crate::smtp::address::Domain;
use crate::smtp::command::Verb;
use crate::smtp::extension::Extensions;
use crate::smtp::reply::{EnhancedStatus, Reply};
use crate::smtp::sasl::scram::ChannelBindings;
use crate::smtp::server::{Answer, Auth, AuthStep, BareLineEnds, Note, Question, Session, Settings, Timeouts};
use crate::status::{self, SessionGuard, SessionState};

/// Longest that a client waits because its reverse name is looked up.
const NAME_LIMIT: Duration = Duration::from_secs(10);

/// A connection that was accepted.
pub(super) struct Arrival {
    pub(super) server: Arc<VirtualServer>,
    /// The binding that it came in by, as it is configured now.
    pub(super) binding: Binding,
    pub(super) stream: TcpStream,
    /// Who connected: the client, or its proxy.
    pub(super) peer: SocketAddr,
    pub(super) guard: SessionGuard,
}

/// Serves one connection to its end.
pub(super) async fn serve(inbound: Arc<Inbound>, mut arrival: Arrival) {
    if let Err(error) = arrival.stream.set_nodelay(true) {
        tracing::debug!(peer.addr = %arrival.peer, error = %error, "TCP_NODELAY could not be set");
    }
    let Some(address) = client_of(&inbound, &mut arrival).await else { return };
    let Arrival { server, binding, stream, guard, .. } = arrival;
    let stream = Accepted::new(stream, server.tls.clone().filter(|_| binding.tls != BindingTls::None));
    converse(&inbound, stream, Place { address, server, binding, is_encrypted: false, guard }).await;
}

/// Where a conversation takes place.
pub(super) struct Place {
    pub(super) address: IpAddr,
    pub(super) server: Arc<VirtualServer>,
    pub(super) binding: Binding,
    /// The connection is encrypted already.
    pub(super) is_encrypted: bool,
    pub(super) guard: SessionGuard,
}

/// The conversation with a client, from the greeting on.
pub(super) async fn converse<S>(inbound: &Arc<Inbound>, mut stream: Accepted<S>, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Place { address, server, binding, is_encrypted, guard } = place;
    let label = ByName { name: server.name.as_str().to_owned() };
    inbound.intake.metrics.sessions.get_or_create(&label).inc();
    let now = Timestamp::from_millis(inbound.intake.clock.unix_millis());
    let settings = Arc::new(settings(&server, &binding, &inbound.live.current(), now));
    let mut session = Session::new(settings, inbound.intake.clock.now());
    let mut conversation = Conversation {
        sender: Sender {
            client: Client {
                address,
                name: None,
                server,
                account: None,
                tls: None,
                filtering: Filtering::new(&binding),
                trusted: false,
            },
            door: Door::Smtp { helo: String::new(), extended: false, lmtp: binding.protocol == Protocol::Lmtp },
        },
        inbound: inbound.clone(),
        incoming: None,
        asked: None,
        content: 0,
        login: None,
        fetches: Vec::new(),
        session: guard.session().clone(),
        refusable: Refusable::default(),
    };
    if is_encrypted {
        session.tls_started();
    }
    if binding.tls == BindingTls::Implicit {
        match timeout(server_driver::HANDSHAKE_LIMIT, stream.start_tls()).await {
            Ok(Ok(secured)) => {
                session.tls_started();
                conversation.tls_started(secured);
            }
            failed => {
                let error = failed
                    .map_or_else(|_| "timed out".to_owned(), |r| r.err().map_or_else(String::new, |e| e.to_string()));
                tracing::debug!(peer.addr = %address, error, "the TLS handshake failed");
                inbound.intake.metrics.sessions.get_or_create(&label).dec();
                return;
            }
        }
    }
    let stop = guard.session().stop();
    let ended =
        server_driver::serve(&mut stream, session, &mut conversation, &*inbound.intake.clock, stop.clone()).await;
    if ended == Ended::TurnedRound {
        let turned = Turned {
            stream: Box::new(stream),
            peer: fetching::label(&conversation.sender.client),
            server: conversation.sender.client.server.name.clone(),
            fetches: mem::take(&mut conversation.fetches),
            stop,
        };
        inbound.intake.queue.carry_turned(turned).await;
    }
    inbound.intake.metrics.sessions.get_or_create(&label).dec();
    drop(guard);
}

/// The client's address: the peer's, or what a trusted proxy says. `None`: the connection is not served.
async fn client_of(inbound: &Inbound, arrival: &mut Arrival) -> Option<IpAddr> {
    if arrival.binding.proxy_protocol.is_none() {
        return Some(arrival.peer.ip());
    }
    let server = &arrival.server;
    let client = match proxy_protocol::read_header(&mut arrival.stream).await {
        Ok(client) => client.map_or(arrival.peer, |client| SocketAddr::new(client.ip().to_canonical(), client.port())),
        Err(error) => {
            tracing::info!(virtualServer = %server.name, peer.addr = %arrival.peer, rule = "proxyProtocol", detail = %error, "refused");
            inbound.intake.metrics.refused(server.name.as_str());
            return None;
        }
    };
    match arrival.guard.speaks_for(client, &limits(server)) {
        Ok(()) => Some(client.ip()),
        Err(limit) => {
            inbound.intake.metrics.refused(server.name.as_str());
            let _ = arrival.stream.try_write(turned_away(limit).as_bytes());
            None
        }
    }
}

fn settings(server: &VirtualServer, binding: &Binding, snapshot: &Snapshot, now: Timestamp) -> Settings {
    let spec = &server.spec;
    let on = &spec.extensions;
    let auth = &spec.authentication;
    Settings {
        lmtp: binding.protocol == Protocol::Lmtp,
        start_tls: binding.tls == BindingTls::Starttls && server.tls.is_some(),
        require_tls: spec.tls.required,
        auth: Auth {
            mechanisms: auth.mechanisms.iter().map(|mechanism| mechanism.sasl()).collect(),
            require_tls: auth.require_tls,
            required: auth.required,
            ..Auth::default()
        },
        greeting: if binding.protocol == Protocol::Lmtp { "LMTP Bridgehead" } else { "ESMTP Bridgehead" }.to_owned(),
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
            etrn: on.etrn,
            atrn: on.atrn && fetching::is_possible(server, binding, snapshot),
            help: true,
        },
        max_size: Some(spec.messages.max_size.bytes()),
        max_session_size: spec.messages.max_session_size.map(Size::bytes),
        max_recipients: spec.messages.max_recipients as usize,
        max_transactions: spec.messages.max_per_connection,
        bare_line_ends: match binding.bare_line_ends {
            virtual_server::BareLineEnds::Refuse => BareLineEnds::Refuse,
            virtual_server::BareLineEnds::Normalise => BareLineEnds::Normalise,
        },
        max_errors: spec.errors.hard_limit,
        soft_errors: spec.errors.soft_limit,
        error_delay: spec.errors.delay.std(),
        refuse_early_talkers: spec.connections.refuse_early_talkers,
        greeting_delay: spec.connections.greeting_delay.std(),
        future_release: Some(max_hold(now)),
        timeouts: Timeouts {
            idle: spec.connections.idle_timeout.std(),
            command: spec.connections.command_timeout.std(),
            data_block: spec.connections.data_timeout.std(),
            data_least_rate: spec.connections.least_data_rate.bytes(),
            ..Timeouts::default()
        },
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
    /// A login that is going on.
    login: Option<Login>,
    /// What the client fetches, when it has the connection turned round.
    fetches: Vec<Fetch>,
    /// What was asked for last, for message tracking.
    refusable: Refusable,
}

/// What a refusal is about.
#[derive(Default)]
struct Refusable {
    message: Option<MessageId>,
    sender: Option<String>,
    recipients: Vec<String>,
}

impl Answers for Conversation {
    async fn answer(&mut self, question: Question) -> Answer {
        self.asked = Some(self.inbound.intake.clock.now());
        let answered = match question {
            Question::Connect => {
                self.look_up_name().await;
                match self.sender.client.admit_connection() {
                    Ok(()) => Ok(Answer::Proceed),
                    Err(refusal) => {
                        self.log(&refusal);
                        self.inbound.intake.metrics.refused(self.sender.client.server.name.as_str());
                        return Answer::Close(refusal.reply);
                    }
                }
            }
            Question::Helo { name, extended } => {
                self.session.set_helo(&name);
                self.look_behind(&name);
                self.session.set_state(SessionState::Idle);
                let lmtp = matches!(self.sender.door, Door::Smtp { lmtp: true, .. });
                self.sender.door = Door::Smtp { helo: name, extended, lmtp };
                Ok(Answer::Proceed)
            }
            Question::Mail { reverse_path, parameters } => {
                let snapshot = self.inbound.live.current();
                if let Some(server) = snapshot.virtual_servers.get(&self.sender.client.server.name) {
                    self.sender.client.server = server.clone();
                }
                let sender = reverse_path.to_string();
                self.refusable = Refusable { sender: Some(sender), ..Refusable::default() };
                Incoming::begin(&self.inbound.intake, snapshot, self.sender.clone(), reverse_path, parameters).map(
                    |incoming| {
                        let incoming = incoming.in_session(self.session.id().to_string());
                        self.refusable.message = Some(incoming.id());
                        self.session.set_state(SessionState::Envelope);
                        let reply = incoming.reply_to_mail();
                        self.incoming = Some(incoming);
                        reply.map_or(Answer::Proceed, Answer::Reply)
                    },
                )
            }
            Question::Rcpt { forward_path, parameters } => match &mut self.incoming {
                Some(incoming) => {
                    self.refusable.recipients = vec![forward_path.to_string()];
                    let taken = incoming.recipient(&self.inbound.intake, forward_path, parameters).await;
                    if taken.as_ref().is_err_and(Refusal::is_permanent) {
                        self.inbound.intake.metrics.recipient_refused(self.sender.client.server.name.as_str());
                    }
                    taken.map(|()| Answer::Proceed)
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
                    self.refusable.recipients = incoming.named_recipients();
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
            Question::Auth(step) => {
                self.refusable = Refusable::default();
                return self.authenticate(step).await;
            }
            Question::Etrn(what) => {
                self.refusable = Refusable::default();
                let client = &self.sender.client;
                let asked = client.admit_etrn(&self.inbound.live.current(), &what);
                asked.map(|asked| Answer::Reply(fetching::etrn(&self.inbound.intake.queue, client, &asked)))
            }
            Question::Turn(domains) => {
                let queue = &self.inbound.intake.queue;
                fetching::atrn(queue, &self.sender.client, &domains).map(|fetches| {
                    self.fetches = fetches;
                    Answer::Proceed
                })
            }
            // whether an address exists is nobody's business (RFC 5321, 7.3): the core answers 252
            Question::Vrfy(_) => Ok(Answer::Proceed),
        };
        answered.unwrap_or_else(|refusal| {
            self.log(&refusal);
            if refusal.closes { Answer::Close(refusal.reply) } else { Answer::Reply(refusal.reply) }
        })
    }

    async fn body(&mut self, chunk: Bytes) -> Result<(), Reply> {
        self.session.add_bytes(chunk.len());
        self.content += chunk.len() as u64;
        let Some(incoming) = &mut self.incoming else {
            return Err(Reply::new(451, EnhancedStatus::transient(3, 0), "Local error"));
        };
        match incoming.content(chunk).await {
            Ok(()) => Ok(()),
            Err(refusal) => {
                self.refusable.recipients = incoming.named_recipients();
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

    fn tls_started(&mut self, secured: Secured) {
        let secured = Arc::new(secured);
        self.session.set_tls(secured.clone());
        let client = &mut self.sender.client;
        (client.tls, client.account) = (Some(secured), None);
        if let Door::Smtp { helo, .. } = &mut self.sender.door {
            helo.clear();
        }
        self.login = None;
    }

    fn completion(&self) -> Option<Domain> {
        let client = &self.sender.client;
        let trusted = client.account.is_some() || client.is_trusted();
        trusted.then(|| self.inbound.live.current().domains.default_domain().cloned()).flatten()
    }

    fn note(&mut self, note: Note) {
        let word = match note.verb {
            Verb::Connect => "connect",
            Verb::Content => "content",
            Verb::Other => "other",
            verb => verb.as_str(),
        };
        self.inbound.intake.metrics.command(word, note.code);
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
    Answer::Reply(Reply::new(503, EnhancedStatus::permanent(5, 1), "Bad sequence of commands"))
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
        self.inbound.protocol_logs.write(Entry {
            server: client.server.clone(),
            at: Timestamp::from_millis(clock.unix_millis()),
            session: self.session.id().to_string(),
            client: self.session.client(),
            local: self.session.opening().binding,
            helo: self.sender.door.helo().unwrap_or_default().to_owned(),
            account: client.account.as_ref().map(|account| account.name.to_string()),
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

    /// Says it loudly when a relay rule trusts an address that hides many clients.
    fn look_behind(&self, helo: &str) {
        let client = &self.sender.client;
        let trusted = client.account.is_none() && client.server.may_relay(client.address);
        if trusted && self.inbound.masks.note(&client.server.name, client.address, helo) {
            tracing::error!(
                virtualServer = %client.server.name,
                peer.addr = %client.address,
                "nearly all clients come from this one address, under many names, and relay.allow trusts it: whoever is \
                 behind it may relay. Is it a proxy or load balancer? Then let it speak the PROXY protocol \
                 (bindings[].proxyProtocol), or keep the clients' addresses (externalTrafficPolicy: Local), or take it \
                 out of relay.allow"
            );
        }
    }

    /// Where somebody wants to know it, and at most [`NAME_LIMIT`]: who has no name by then has none.
    async fn look_up_name(&mut self) {
        let client = &mut self.sender.client;
        if !client.server.looks_up_names() {
            return;
        }
        let found = match self.inbound.resolvers.of(&client.server.name_servers()) {
            Ok(resolver) => timeout(NAME_LIMIT, verified_name(&*resolver, client.address)).await,
            Err(error) => return tracing::warn!(error = %error, "no resolver for the names of clients"),
        };
        match found {
            Ok(Ok(name)) => client.name = name.and_then(|name| name.parse().ok()),
            Ok(Err(error)) => tracing::debug!(peer.addr = %client.address, error = %error, "no reverse name"),
            Err(_) => tracing::debug!(peer.addr = %client.address, "no reverse name in time"),
        }
    }

    async fn authenticate(&mut self, step: AuthStep) -> Answer {
        let outcome = match step {
            AuthStep::Begin { mechanism, initial } => {
                let client = &self.sender.client;
                let realm = self.inbound.live.current().realm(&client.server);
                let bindings = client.tls.as_ref().map_or_else(ChannelBindings::default, |tls| ChannelBindings {
                    tls_server_end_point: Some(tls.end_point.clone()),
                    tls_exporter: tls.exporter.clone(),
                    plus_offered: client.server.spec.authentication.mechanisms.contains(&Offered::ScramSha256Plus),
                });
                let authenticator = &self.inbound.authenticator;
                let (login, outcome) =
                    authenticator.begin(mechanism, client.address, realm, initial.as_deref(), bindings).await;
                self.login = Some(login);
                outcome
            }
            AuthStep::Response(response) => match &mut self.login {
                Some(login) => login.respond(&response).await,
                None => return out_of_step(),
            },
        };
        if !matches!(outcome, Outcome::Challenge(_)) {
            self.login = None;
        }
        let client = &mut self.sender.client;
        match outcome {
            Outcome::Challenge(challenge) => Answer::Challenge(challenge.into()),
            Outcome::Accepted(account) => {
                tracing::info!(virtualServer = %client.server.name, peer.addr = %client.address, account = %account.name, "authenticated");
                self.session.set_account(account.name.as_str());
                client.account = Some(account);
                Answer::Proceed
            }
            Outcome::Refused { reply, reason } | Outcome::Unavailable { reply, reason } => {
                self.log(&Refusal::new("authentication", reply.clone(), reason.to_string()));
                Answer::Reply(reply)
            }
        }
    }

    fn log(&self, refusal: &Refusal) {
        let client = &self.sender.client;
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
        self.track(refusal);
    }

    /// What concerns mail is tracked: a sender, a recipient or a message that was refused.
    fn track(&self, refusal: &Refusal) {
        let about = &self.refusable;
        if about.sender.is_none() {
            return;
        }
        let client = &self.sender.client;
        self.inbound.intake.queue.track_rejected(Rejection {
            message: about.message,
            sender: about.sender.clone(),
            recipients: about.recipients.clone(),
            client: client.address,
            account: client.account.as_ref().map(|account| &account.name),
            session: &self.session.id().to_string(),
            virtual_server: client.server.name.as_str(),
            reply: &refusal.reply,
            rule: refusal.rule,
            reason: &refusal.detail,
        });
    }
}
