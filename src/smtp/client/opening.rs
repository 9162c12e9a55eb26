//! The phases of a session before it is ready for mail: EHLO, STARTTLS, AUTH.
//!
//! Each of them waits for its reply, and nothing may have come ahead of it: whoever said more than he was asked for before TLS begins,
//! or while we log in, may be somebody else who writes into the connection.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use zeroize::Zeroizing;

use super::reply::Lines;
use super::{
    Cause, Encryption, Expect, Hello, Login, LoginError, OpenError, Phase, RemoteReply, Session, State, TlsFault,
};
use crate::smtp::extension::PeerExtensions;
use crate::smtp::sasl::client::{Credentials, Exchange, Keys, Mechanism, Step};

/// Longest command line with AUTH (RFC 4954, 4; RFC 5321, 4.5.3.1.4), in octets.
const MAX_COMMAND: usize = 512;

/// A line of a login, as it is sent.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretOctets(Bytes);

impl SecretOctets {
    fn new(line: Zeroizing<String>) -> Self {
        SecretOctets(Bytes::copy_from_slice(line.as_bytes()))
    }

    /// The octets: for the connection and nothing else.
    pub fn reveal(self) -> Bytes {
        self.0
    }
}

impl fmt::Debug for SecretOctets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Session {
    /// The handshake is done: everything from here on goes through TLS.
    pub fn tls_started(&mut self) {
        if self.state != State::StartTls {
            return;
        }
        self.state = State::Waiting;
        self.encrypted = true;
        // what was said in clear may not have been the peer's (RFC 3207, 4.2)
        self.peer = PeerExtensions::default();
        if self.expected.is_empty() {
            self.hello();
        }
    }

    /// The handshake failed, for this reason: the connection is of no more use.
    pub fn tls_failed(&mut self, why: impl Into<TlsFault>) {
        if self.state == State::StartTls {
            self.fail_open(OpenError::Handshake(why.into()));
        }
    }

    /// Whether the session is encrypted by now.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// What came of [`Step::Derive`](super::Step::Derive).
    pub fn derived(&mut self, keys: &Keys) {
        if let (State::Derive(_), Some(exchange)) = (&self.state, &mut self.exchange) {
            let step = exchange.keys(keys);
            self.state = State::Waiting;
            self.auth_step(step);
        }
    }

    pub(super) fn hello(&mut self) {
        match self.settings.hello {
            Hello::Helo => self.say_helo(),
            Hello::Ehlo | Hello::Lhlo => {
                let verb = if self.settings.hello == Hello::Lhlo { "LHLO" } else { "EHLO" };
                self.output.put(format!("{verb} {}\r\n", self.settings.fqdn).as_bytes());
                self.expected.push_back(Expect::Ehlo);
            }
        }
    }

    pub(super) fn say_helo(&mut self) {
        self.output.put(format!("HELO {}\r\n", self.settings.fqdn).as_bytes());
        self.expected.push_back(Expect::Helo);
    }

    /// EHLO or HELO was answered with 250.
    pub(super) fn greeted(&mut self) {
        let wanted = matches!(self.settings.encryption, Encryption::Opportunistic | Encryption::Required);
        if wanted && !self.encrypted {
            if self.peer.starttls {
                if !self.input.is_empty() {
                    return self.fail_in(Phase::Hello, Cause::Garbage, None);
                }
                self.output.put(b"STARTTLS\r\n");
                return self.expected.push_back(Expect::StartTls);
            }
            if self.settings.encryption == Encryption::Required {
                return self.fail_open(OpenError::NoStartTls);
            }
        }
        self.log_in();
    }

    /// 220 to STARTTLS. Nothing may stand behind it: it would be read as if it had come through TLS.
    pub(super) fn begin_tls(&mut self) {
        if self.input.is_empty() {
            self.state = State::StartTls;
        } else {
            self.fail_in(Phase::StartTls, Cause::Garbage, None);
        }
    }

    pub(super) fn starttls_refused(&mut self, reply: RemoteReply) {
        if self.settings.encryption == Encryption::Opportunistic && reply.code != 421 {
            self.log_in();
        } else {
            self.fail_open(OpenError::Refused { phase: Phase::StartTls, reply });
        }
    }

    fn log_in(&mut self) {
        let Some(Login { credentials, nonce, in_clear }) = self.settings.login.take() else {
            self.state = State::Opened;
            return;
        };
        let mechanism = credentials.mechanism();
        if !self.encrypted && !in_clear {
            return self.login_failed(mechanism, LoginError::InClear);
        }
        if !self.peer.auth.contains(&mechanism.sasl()) {
            return self.login_failed(mechanism, LoginError::NotOffered);
        }
        let command = format!("AUTH {mechanism}");
        let room = MAX_COMMAND - command.len() - " \r\n".len();
        let (exchange, first) = Exchange::start(credentials, &nonce, room);
        self.exchange = Some(exchange);
        let line = match first {
            Some(first) => format!("{command} {}\r\n", *first.base64()),
            None => format!("{command}\r\n"),
        };
        self.send_secret(Zeroizing::new(line));
    }

    /// The reply to AUTH or to a response of ours.
    pub(super) fn auth_replied(&mut self, lines: Lines) {
        let Some(exchange) = &mut self.exchange else {
            return self.fail_in(Phase::Auth, Cause::Garbage, None);
        };
        let mechanism = exchange.credentials().mechanism();
        match lines.code {
            334 => {
                let text = lines.lines.first().map_or("", |line| line.trim());
                let challenge = STANDARD.decode(text).ok();
                let step = exchange.challenge(challenge.as_deref());
                self.auth_step(step);
            }
            235 if exchange.is_done() => {
                self.exchange = None;
                self.state = State::Opened;
            }
            235 => {
                // or it has refused our token a moment ago
                let why = exchange.unproven().into();
                self.login_failed(mechanism, why);
            }
            400.. => {
                let reply = without(exchange.credentials(), lines.into_reply());
                let why = match exchange.refusal() {
                    Some(why) => LoginError::TokenRefused { reply, why: why.to_owned() },
                    None => LoginError::Refused(reply),
                };
                self.login_failed(mechanism, why);
            }
            _ => self.fail_in(Phase::Auth, Cause::Garbage, None),
        }
    }

    fn auth_step(&mut self, step: Step) {
        let Some(exchange) = &self.exchange else { return };
        let mechanism = exchange.credentials().mechanism();
        match step {
            Step::Respond(response) => {
                self.send_secret(Zeroizing::new(format!("{}\r\n", *response.base64())));
            }
            Step::Derive(derivation) => self.state = State::Derive(derivation),
            Step::Fail(fault) => self.login_failed(mechanism, fault.into()),
        }
    }

    fn send_secret(&mut self, line: Zeroizing<String>) {
        if !self.input.is_empty() {
            return self.fail_in(Phase::Auth, Cause::Garbage, None);
        }
        self.secret = Some(SecretOctets::new(line));
        self.expected.push_back(Expect::Auth);
    }

    fn login_failed(&mut self, mechanism: Mechanism, why: LoginError) {
        self.fail_open(OpenError::Login { mechanism, why });
    }

    fn fail_open(&mut self, error: OpenError) {
        self.close();
        self.state = State::Failed(error);
    }
}

/// A peer may say back what it was shown.
fn without(credentials: &Credentials, reply: RemoteReply) -> RemoteReply {
    if credentials.are_in(&reply.text) { RemoteReply { text: String::new(), ..reply } } else { reply }
}
