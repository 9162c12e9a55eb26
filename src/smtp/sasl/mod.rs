//! SASL (RFC 4422): the server's side of the mechanisms that AUTH (RFC 4954) offers, as a machine without IO. The client's
//! side is [`client`].
//!
//! [`Exchange`] takes what the client sent and says what to do next as a [`Step`]: send a challenge, check credentials,
//! look up SCRAM keys, let in, refuse. Whoever drives it knows accounts and passwords; this module knows the messages:
//! PLAIN (RFC 4616), LOGIN, SCRAM-SHA-256 and -PLUS ([`scram`]; RFC 5802, 7677), OAUTHBEARER (RFC 7628) and XOAUTH2.
//! Bytes here are raw: base64, `*` and the limit on a line are the session's.
//!
//! A user acts as nobody else: an authorization identity is empty or equal to the authentication identity. Names and
//! passwords are prepared by SASLprep (RFC 4013), so control characters refuse the login, NUL above all. What is
//! malformed ends the exchange; nothing panics on any input, and no message is kept longer than its step.

pub mod client;
pub mod oauth;
mod prepare;
pub mod scram;

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use self::oauth::BearerError;
use self::scram::{ChannelBindings, ScramKeys, ServerFinal, ServerFirst};
pub use prepare::{NotPrepared, prepare};

/// A mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mechanism {
    /// PLAIN (RFC 4616): name and password in one message.
    Plain,
    /// LOGIN: the same in two messages; never standardized, still used by many.
    Login,
    /// SCRAM-SHA-256 (RFC 7677): proves that the client knows the password, without sending it.
    ScramSha256,
    /// SCRAM-SHA-256-PLUS: also bound to the TLS connection.
    ScramSha256Plus,
    /// OAUTHBEARER (RFC 7628): a bearer token.
    OauthBearer,
    /// XOAUTH2: the same as Google and Microsoft wrote it before there was a standard.
    Xoauth2,
}

impl Mechanism {
    /// All of them, the ones a client should prefer first.
    pub const ALL: [Mechanism; 6] = [
        Mechanism::ScramSha256Plus,
        Mechanism::ScramSha256,
        Mechanism::OauthBearer,
        Mechanism::Xoauth2,
        Mechanism::Plain,
        Mechanism::Login,
    ];

    /// Its name in the EHLO keyword AUTH and in the command.
    pub fn keyword(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::OauthBearer => "OAUTHBEARER",
            Mechanism::Xoauth2 => "XOAUTH2",
        }
    }

    /// True when whoever reads the connection learns what it takes to log in: it must not be offered without TLS.
    pub fn is_plaintext(self) -> bool {
        !matches!(self, Mechanism::ScramSha256 | Mechanism::ScramSha256Plus)
    }
}

/// The text is no mechanism that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the mechanism is none of those that are known")]
pub struct UnknownMechanism;

impl FromStr for Mechanism {
    type Err = UnknownMechanism;

    fn from_str(text: &str) -> Result<Self, UnknownMechanism> {
        Mechanism::ALL.into_iter().find(|known| known.keyword().eq_ignore_ascii_case(text)).ok_or(UnknownMechanism)
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

/// What a client has shown, to be checked.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password, both prepared.
    Password {
        /// The authentication identity.
        username: String,
        /// The password.
        password: Zeroizing<String>,
    },
    /// A bearer token.
    Token {
        /// Whom the client says that the token is for, prepared; OAUTHBEARER may leave it out.
        username: Option<String>,
        /// The token.
        token: Zeroizing<String>,
    },
}

/// Never the secret: a debug print lands in logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Password { username, .. } => write!(f, "Password({username:?}, …)"),
            Credentials::Token { username, .. } => write!(f, "Token({username:?}, …)"),
        }
    }
}

/// Why an exchange ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SaslError {
    /// The message is not one of the mechanism.
    #[error("the message does not follow the mechanism's syntax")]
    Malformed,
    /// A name or a password holds NUL or another character that must not be there.
    #[error("a name or password holds a character that is not allowed")]
    Identity,
    /// The client wants to act as somebody else.
    #[error("the client asked to act as somebody else")]
    AuthorizationIdentity,
    /// The channel binding is missing, of another connection, or was argued away on the way here.
    #[error("the channel binding does not fit the connection")]
    ChannelBinding,
    /// The credentials are wrong.
    #[error("the credentials are wrong")]
    Refused,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this to the client and give what it answers to [`Exchange::respond`].
    Challenge(Vec<u8>),
    /// Check these, then say what came of it by [`Exchange::verdict`].
    Verify(Credentials),
    /// Look up the keys of this user, then give them to [`Exchange::scram_keys`].
    NeedScramKeys {
        /// The authentication identity, prepared.
        username: String,
    },
    /// The client has proven that it knows this user's password.
    Proven {
        /// The authentication identity, prepared.
        username: String,
    },
    /// The credentials hold: the client is in.
    Done,
    /// It is over without success.
    Fail(SaslError),
}

/// One run of a mechanism. Calls that do not belong to the last [`Step`] fail it as malformed.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The client was asked for its first message.
    AwaitFirst(ChannelBindings),
    /// LOGIN: the client was asked for its password.
    AwaitPassword {
        username: String,
    },
    /// Credentials are being checked.
    AwaitVerdict,
    /// A token was refused; the client has yet to say that it has read why.
    AwaitAcknowledgement,
    /// SCRAM: keys are being looked up.
    AwaitKeys(scram::ClientFirst),
    /// SCRAM: the client computes its proof.
    AwaitProof(Box<ServerFirst>),
    /// SCRAM: the server's signature was sent; an empty response is the client's consent.
    AwaitConsent(ServerFinal),
    Over,
}

impl Exchange {
    /// Begins. `initial` is the initial response of the AUTH command, if it had one.
    pub fn start(mechanism: Mechanism, initial: Option<&[u8]>, bindings: ChannelBindings) -> (Exchange, Step) {
        let mut exchange = Exchange { mechanism, state: State::AwaitFirst(bindings) };
        let step = match initial {
            Some(message) => exchange.respond(message),
            None => Step::Challenge(if mechanism == Mechanism::Login { b"Username:".to_vec() } else { Vec::new() }),
        };
        (exchange, step)
    }

    /// The mechanism that runs.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Takes the client's answer to a challenge.
    pub fn respond(&mut self, message: &[u8]) -> Step {
        let (state, step) = match std::mem::replace(&mut self.state, State::Over) {
            State::AwaitFirst(bindings) => first(self.mechanism, message, bindings),
            State::AwaitPassword { username } => verify(text(message).and_then(|password| {
                let password = Zeroizing::new(prepared(password)?);
                Ok(Credentials::Password { username, password })
            })),
            State::AwaitProof(first) => match first.check(message) {
                Ok(last) => (State::AwaitConsent(last.clone()), Step::Challenge(last.message())),
                Err(error) => failed(error),
            },
            State::AwaitConsent(last) if message.is_empty() => (State::Over, Step::Proven { username: last.username }),
            // whatever the client says to the reason, it is refused
            State::AwaitAcknowledgement => failed(SaslError::Refused),
            State::AwaitConsent(_) | State::AwaitKeys(_) | State::AwaitVerdict | State::Over => {
                failed(SaslError::Malformed)
            }
        };
        self.state = state;
        step
    }

    /// Answers [`Step::NeedScramKeys`]. For a user that does not exist, give keys that were made up: the exchange then
    /// goes on and fails at its end, as with a wrong password. `nonce` is printable ASCII without commas, new each time.
    pub fn scram_keys(&mut self, keys: ScramKeys, nonce: &str) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::AwaitKeys(first) => {
                let first = first.answer(keys, nonce);
                let challenge = first.message();
                self.state = State::AwaitProof(Box::new(first));
                Step::Challenge(challenge)
            }
            _ => Step::Fail(SaslError::Malformed),
        }
    }

    /// Answers [`Step::Verify`]: the credentials hold, or not. `error` goes to a client that showed a token.
    pub fn verdict(&mut self, verdict: Result<(), BearerError>) -> Step {
        match (std::mem::replace(&mut self.state, State::Over), verdict) {
            (State::AwaitVerdict, Ok(())) => Step::Done,
            (State::AwaitVerdict, Err(error)) => {
                let message = match self.mechanism {
                    Mechanism::OauthBearer => error.oauthbearer(),
                    Mechanism::Xoauth2 => error.xoauth2(),
                    _ => return Step::Fail(SaslError::Refused),
                };
                self.state = State::AwaitAcknowledgement;
                Step::Challenge(message)
            }
            _ => Step::Fail(SaslError::Malformed),
        }
    }
}

fn first(mechanism: Mechanism, message: &[u8], bindings: ChannelBindings) -> (State, Step) {
    match mechanism {
        Mechanism::Plain => verify(plain(message)),
        Mechanism::Login => match text(message).and_then(name) {
            Ok(username) => (State::AwaitPassword { username }, Step::Challenge(b"Password:".to_vec())),
            Err(error) => failed(error),
        },
        Mechanism::OauthBearer => verify(oauth::parse_oauthbearer(message)),
        Mechanism::Xoauth2 => verify(oauth::parse_xoauth2(message)),
        Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => {
            let plus = mechanism == Mechanism::ScramSha256Plus;
            match scram::ClientFirst::parse(message, plus, &bindings) {
                Ok(first) => {
                    let username = first.username().to_owned();
                    (State::AwaitKeys(first), Step::NeedScramKeys { username })
                }
                Err(error) => failed(error),
            }
        }
    }
}

fn verify(credentials: Result<Credentials, SaslError>) -> (State, Step) {
    match credentials {
        Ok(credentials) => (State::AwaitVerdict, Step::Verify(credentials)),
        Err(error) => failed(error),
    }
}

fn failed(error: SaslError) -> (State, Step) {
    (State::Over, Step::Fail(error))
}

/// `[authzid] NUL authcid NUL passwd` (RFC 4616, 2).
fn plain(message: &[u8]) -> Result<Credentials, SaslError> {
    let mut parts = message.splitn(3, |octet| *octet == 0);
    let (Some(authorize), Some(authenticate), Some(password)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(SaslError::Malformed);
    };
    let username = name(text(authenticate)?)?;
    same_identity(text(authorize)?, &username)?;
    let password = Zeroizing::new(prepared(text(password)?)?);
    Ok(Credentials::Password { username, password })
}

/// An authorization identity is empty, or says the same as the authentication identity.
fn same_identity(authorize: &str, username: &str) -> Result<(), SaslError> {
    if authorize.is_empty() || name(authorize)?.eq_ignore_ascii_case(username) {
        Ok(())
    } else {
        Err(SaslError::AuthorizationIdentity)
    }
}

fn text(octets: &[u8]) -> Result<&str, SaslError> {
    std::str::from_utf8(octets).map_err(|_| SaslError::Identity)
}

/// A name: prepared, and not empty.
fn name(text: &str) -> Result<String, SaslError> {
    prepared(text).and_then(|name| if name.is_empty() { Err(SaslError::Identity) } else { Ok(name) })
}

fn prepared(text: &str) -> Result<String, SaslError> {
    prepare(text).map_err(|NotPrepared| SaslError::Identity)
}

#[cfg(test)]
mod tests;
