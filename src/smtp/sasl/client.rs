//! SASL, the client's side: PLAIN (RFC 4616), LOGIN, SCRAM-SHA-256 (RFC 5802, 7677), OAUTHBEARER (RFC 7628) and XOAUTH2, as a
//! machine without IO.
//!
//! [`Exchange::start`] gives what goes along with AUTH, if anything; [`Exchange::challenge`] takes what the server sends and says
//! what to do next; at the end [`Exchange::is_done`] says whether a success of the server may be believed. Bytes here are
//! raw: base64 is the session's.
//!
//! With SCRAM the server proves that it knows the password too: one that lets us in without the proof is not believed. It
//! also chooses how much we compute, between [`ITERATIONS`]. With a bearer token it says in a challenge why it refuses, and waits
//! for an empty answer before it does. Nothing here shows a password or a token in `Debug`.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use aws_lc_rs::pbkdf2;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::scram::hmac;
use super::{NotPrepared, oauth, prepare};

/// How many iterations a server may ask for: as many as RFC 7677, 4 wants at least, and no more than a second or so of work.
pub const ITERATIONS: RangeInclusive<u32> = 4_096..=1_000_000;
/// Longest password, in octets.
pub const MAX_PASSWORD: usize = 1_024;
/// Longest bearer token, in octets: with a name and in base64 it fits into the 12,288 octets of a line (RFC 4954, 4).
pub const MAX_TOKEN: usize = 8_192;
/// So many octets of a secret tell that it is this one.
const ENOUGH: usize = 32;
/// Longest salt and nonce of a server that are taken.
const MAX_FIELD: usize = 1_024;

/// A mechanism that we log in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// PLAIN: shows the password.
    Plain,
    /// LOGIN: shows the password.
    Login,
    /// SCRAM-SHA-256: proves that we know the password, without showing it.
    ScramSha256,
    /// OAUTHBEARER: shows a token in the place of a password.
    OauthBearer,
    /// XOAUTH2: the same, as Google and Microsoft have it.
    Xoauth2,
}

impl Mechanism {
    /// Whether it shows a bearer token.
    pub fn is_bearer(self) -> bool {
        matches!(self, Mechanism::OauthBearer | Mechanism::Xoauth2)
    }

    /// As the EHLO keyword AUTH lists it.
    pub fn sasl(self) -> super::Mechanism {
        match self {
            Mechanism::Plain => super::Mechanism::Plain,
            Mechanism::Login => super::Mechanism::Login,
            Mechanism::ScramSha256 => super::Mechanism::ScramSha256,
            Mechanism::OauthBearer => super::Mechanism::OauthBearer,
            Mechanism::Xoauth2 => super::Mechanism::Xoauth2,
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sasl().fmt(f)
    }
}

/// What we log in with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    mechanism: Mechanism,
    username: String,
    /// Or the token.
    password: Zeroizing<String>,
}

/// The text cannot be a password, or a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPassword {
    /// It has no octets, or too many.
    #[error("a password has 1 to {MAX_PASSWORD} octets")]
    Length,
    /// It holds a control character or another one that SASLprep forbids.
    #[error("the password holds a control character, or another one that passwords must not hold (RFC 4013)")]
    Character,
    /// It is no bearer token.
    #[error("a bearer token has 1 to {MAX_TOKEN} letters, digits and -._~+/= (RFC 6750, 2.1)")]
    Token,
}

impl Credentials {
    /// These: a password, or a token with a mechanism that [shows one](Mechanism::is_bearer). The username is a prepared one.
    ///
    /// # Errors
    /// See [`BadPassword`].
    pub fn new(mechanism: Mechanism, username: &str, password: &str) -> Result<Self, BadPassword> {
        if mechanism.is_bearer() {
            let token = Zeroizing::new(password.to_owned());
            let is_one = token.len() <= MAX_TOKEN && oauth::is_token(&token);
            let credentials = Credentials { mechanism, username: username.to_owned(), password: token };
            return if is_one { Ok(credentials) } else { Err(BadPassword::Token) };
        }
        if password.is_empty() || password.len() > MAX_PASSWORD {
            return Err(BadPassword::Length);
        }
        let prepared = Zeroizing::new(prepare(password).map_err(|NotPrepared| BadPassword::Character)?);
        // who is shown a password prepares it; some servers do not, and compare octets
        let password = if mechanism == Mechanism::ScramSha256 { prepared } else { Zeroizing::new(password.to_owned()) };
        Ok(Credentials { mechanism, username: username.to_owned(), password })
    }

    /// By which mechanism.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Whether the text holds the password, or what was sent to show it: a server may say it back. Where these are long, what they
    /// begin with is enough: the text may have been cut.
    pub fn are_in(&self, text: &str) -> bool {
        let begins = |octets: &[u8]| octets.len().min(ENOUGH);
        let coded = |octets: &[u8]| {
            let coded = Zeroizing::new(STANDARD.encode(octets));
            text.contains(&coded[..begins(coded.as_bytes())])
        };
        let password = self.password.as_bytes();
        let holds = text.as_bytes().windows(begins(password)).any(|window| password.starts_with(window));
        holds || coded(password) || coded(&self.message())
    }

    /// What shows all of it in one message: PLAIN's (`NUL username NUL password`, RFC 4616), or a token's.
    fn message(&self) -> Zeroizing<Vec<u8>> {
        let Credentials { username, password, .. } = self;
        match self.mechanism {
            Mechanism::OauthBearer => oauth::oauthbearer(username, password),
            Mechanism::Xoauth2 => oauth::xoauth2(username, password),
            Mechanism::Plain | Mechanism::Login | Mechanism::ScramSha256 => {
                Zeroizing::new([b"\0", username.as_bytes(), b"\0", password.as_bytes()].concat())
            }
        }
    }
}

/// Never the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, {:?}, …)", self.mechanism, self.username)
    }
}

/// Why the exchange is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The server sent what does not belong to the mechanism.
    #[error("the server does not keep to the mechanism")]
    Malformed,
    /// SCRAM: the server asks for fewer or more iterations than we do.
    #[error("the server asks for {0} iterations, and {least} to {most} are taken", least = ITERATIONS.start(), most = ITERATIONS.end())]
    Iterations(u32),
    /// SCRAM: the server has not proven that it knows the password.
    #[error("the server did not prove that it knows the password")]
    NotProven,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this to the server.
    Respond(Response),
    /// Run this where it may take a CPU for a while, and give what comes of it to [`Exchange::keys`].
    Derive(Derivation),
    /// It is over.
    Fail(Fault),
}

/// Octets that show or prove a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Response(Zeroizing<Vec<u8>>);

impl Response {
    fn new(octets: impl Into<Vec<u8>>) -> Self {
        Response(Zeroizing::new(octets.into()))
    }

    /// As AUTH sends it.
    pub fn base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(&*self.0))
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// One run of a mechanism.
#[derive(Debug)]
pub struct Exchange {
    credentials: Credentials,
    state: State,
    refusal: Option<String>,
}

#[derive(Debug)]
enum State {
    /// A message that is too long for one line with AUTH: an empty challenge comes first.
    BeforeMessage,
    /// LOGIN, the server asks for the name.
    BeforeName,
    /// LOGIN, the server asks for the password.
    BeforePassword,
    /// SCRAM, the server's first message comes; we have sent this, without its gs2-header.
    BeforeSalt {
        nonce: String,
        bare: String,
    },
    /// SCRAM, keys are derived; this is signed but for our last message, which is the second.
    BeforeKeys {
        signed: String,
        last: String,
    },
    /// SCRAM, the server's proof comes.
    BeforeProof([u8; 32]),
    /// A token was shown: only a refusal comes in a challenge.
    Shown,
    /// We have nothing more to say.
    Done,
    Over,
}

impl Exchange {
    /// Begins. The response goes along with AUTH. `nonce` is printable ASCII without commas, new each time; of a message that shows
    /// everything at most `room` octets in base64 fit into the command.
    pub fn start(credentials: Credentials, nonce: &str, room: usize) -> (Exchange, Option<Response>) {
        let (state, response) = match credentials.mechanism {
            Mechanism::Plain | Mechanism::OauthBearer | Mechanism::Xoauth2 => {
                let message = credentials.message();
                let fits = message.len().div_ceil(3) * 4 <= room;
                if fits { (credentials.shown(), Some(Response(message))) } else { (State::BeforeMessage, None) }
            }
            Mechanism::Login => (State::BeforeName, None),
            Mechanism::ScramSha256 => {
                let username = oauth::escape(&credentials.username);
                let bare = format!("n={username},r={nonce}");
                let first = Response::new(format!("n,,{bare}"));
                (State::BeforeSalt { nonce: nonce.to_owned(), bare }, Some(first))
            }
        };
        (Exchange { credentials, state, refusal: None }, response)
    }

    /// Takes a challenge, decoded; `None`: it was no base64. The words of PLAIN's and LOGIN's are not looked at: they differ.
    pub fn challenge(&mut self, challenge: Option<&[u8]>) -> Step {
        let credentials = &self.credentials;
        let (state, step) = match std::mem::replace(&mut self.state, State::Over) {
            State::BeforeMessage => (credentials.shown(), Step::Respond(Response(credentials.message()))),
            State::Shown => {
                let words = challenge.map(oauth::refusal).filter(|words| !credentials.are_in(words));
                self.refusal = Some(words.unwrap_or_default());
                let nothing: &[u8] = if credentials.mechanism == Mechanism::OauthBearer { b"\x01" } else { b"" };
                (State::Over, Step::Respond(Response::new(nothing)))
            }
            State::BeforeName => (State::BeforePassword, Step::Respond(Response::new(credentials.username.as_bytes()))),
            State::BeforePassword => (State::Done, Step::Respond(Response::new(credentials.password.as_bytes()))),
            State::BeforeSalt { nonce, bare } => {
                match challenge.and_then(|challenge| ServerFirst::parse(challenge, &nonce)) {
                    None => failed(Fault::Malformed),
                    Some(first) if !ITERATIONS.contains(&first.iterations.get()) => {
                        failed(Fault::Iterations(first.iterations.get()))
                    }
                    Some(first) => {
                        // `biws` is `n,,`: we do not bind to the channel
                        let last = format!("c=biws,r={}", first.nonce);
                        let signed = format!("{bare},{},{last}", first.message);
                        let password = credentials.password.clone();
                        let derivation = Derivation { password, salt: first.salt, iterations: first.iterations };
                        (State::BeforeKeys { signed, last }, Step::Derive(derivation))
                    }
                }
            }
            State::BeforeProof(expected) => {
                let proof = challenge.and_then(|challenge| challenge.strip_prefix(b"v="));
                match proof.and_then(|proof| STANDARD.decode(proof).ok()) {
                    Some(proof) if bool::from(proof.ct_eq(&expected)) => {
                        (State::Done, Step::Respond(Response::new([])))
                    }
                    _ => failed(Fault::NotProven),
                }
            }
            State::BeforeKeys { .. } | State::Done | State::Over => failed(Fault::Malformed),
        };
        self.state = state;
        step
    }

    /// Takes what came of [`Step::Derive`].
    pub fn keys(&mut self, keys: &Keys) -> Step {
        let State::BeforeKeys { signed, last } = std::mem::replace(&mut self.state, State::Over) else {
            return Step::Fail(Fault::Malformed);
        };
        let stored: [u8; 32] = Sha256::digest(*keys.client).into();
        let mut proof = keys.client.clone();
        let signature = hmac(&stored, &[signed.as_bytes()]);
        proof.iter_mut().zip(signature).for_each(|(octet, signature)| *octet ^= signature);
        self.state = State::BeforeProof(hmac(&*keys.server, &[signed.as_bytes()]));
        Step::Respond(Response::new(format!("{last},p={}", STANDARD.encode(*proof))))
    }

    /// What we log in with.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// What it is when the server says that we are in while it may not: too early.
    pub fn unproven(&self) -> Fault {
        if self.credentials.mechanism == Mechanism::ScramSha256 { Fault::NotProven } else { Fault::Malformed }
    }

    /// Whether the server may say now that we are in.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done | State::Shown)
    }

    /// Why the server refuses our token, in its own words, cleaned and bounded; `None`: it has not said so.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }
}

impl Credentials {
    /// What comes when all of it was shown.
    fn shown(&self) -> State {
        if self.mechanism.is_bearer() { State::Shown } else { State::Done }
    }
}

fn failed(fault: Fault) -> (State, Step) {
    (State::Over, Step::Fail(fault))
}

/// The server's first message: `r=nonces,s=salt,i=iterations`.
struct ServerFirst<'a> {
    message: &'a str,
    nonce: &'a str,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

impl<'a> ServerFirst<'a> {
    fn parse(message: &'a [u8], ours: &str) -> Option<Self> {
        let message = std::str::from_utf8(message).ok()?;
        // `m=` in front announces an extension that must be understood: there is none that we understand
        let mut attributes = message.split(',');
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let fresh = nonce.strip_prefix(ours)?;
        if fresh.is_empty() || nonce.len() > MAX_FIELD || !fresh.bytes().all(|octet| (0x21..=0x7e).contains(&octet)) {
            return None;
        }
        let salt = STANDARD.decode(attributes.next()?.strip_prefix("s=")?).ok()?;
        let iterations = attributes.next()?.strip_prefix("i=")?.parse().ok()?;
        (1..=MAX_FIELD).contains(&salt.len()).then_some(ServerFirst { message, nonce, salt, iterations })
    }
}

/// Keys that are to be derived from a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Derivation {
    password: Zeroizing<String>,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

impl Derivation {
    /// Derives. Takes a CPU for a while: never on a thread that others wait for.
    pub fn run(&self) -> Keys {
        let mut salted = Zeroizing::new([0_u8; 32]);
        let password = self.password.as_bytes();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, self.iterations, &self.salt, password, &mut *salted);
        let key = |name: &[u8]| Zeroizing::new(hmac(&*salted, &[name]));
        Keys { client: key(b"Client Key"), server: key(b"Server Key") }
    }
}

impl fmt::Debug for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Derivation({} iterations, …)", self.iterations)
    }
}

/// What comes of it.
pub struct Keys {
    client: Zeroizing<[u8; 32]>,
    server: Zeroizing<[u8; 32]>,
}

#[cfg(test)]
mod tests {
    use super::super::scram::{ChannelBindings, ScramKeys};
    use super::super::{self as server};
    use super::*;

    fn credentials(mechanism: Mechanism) -> Credentials {
        Credentials::new(mechanism, "user", "pencil").unwrap()
    }

    /// RFC 7677, section 3.
    #[test]
    fn scram_as_the_rfc_shows_it() {
        let (mut exchange, first) = Exchange::start(credentials(Mechanism::ScramSha256), "rOprNGfwEbeRWgbNEkqO", 0);
        assert_eq!(&*first.unwrap().0, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let Step::Derive(derivation) = exchange.challenge(Some(challenge)) else { panic!() };
        let Step::Respond(last) = exchange.keys(&derivation.run()) else { panic!() };
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(&*last.0, expected.as_bytes());
        assert!(!exchange.is_done(), "the server has proven nothing yet");
        let proof = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(exchange.challenge(Some(proof)), Step::Respond(Response::new([])));
        assert!(exchange.is_done());
    }

    #[test]
    fn a_scram_server_that_cheats_is_left() {
        let begun = || Exchange::start(credentials(Mechanism::ScramSha256), "abc", 0).0;
        for (challenge, fault) in [
            (&b"r=abc,s=c2FsdA==,i=4096"[..], Fault::Malformed),
            (b"r=xyz1,s=c2FsdA==,i=4096", Fault::Malformed),
            (b"m=x,r=abc1,s=c2FsdA==,i=4096", Fault::Malformed),
            (b"r=abc1,s=,i=4096", Fault::Malformed),
            (b"r=abc1,s=c2FsdA==,i=0", Fault::Malformed),
            (b"r=abc1,s=c2FsdA==,i=99999999999", Fault::Malformed),
            (b"r=abc\x001,s=c2FsdA==,i=4096", Fault::Malformed),
            (b"e=other-error", Fault::Malformed),
            (b"", Fault::Malformed),
            (b"r=abc1,s=c2FsdA==,i=4095", Fault::Iterations(4_095)),
            (b"r=abc1,s=c2FsdA==,i=1000001", Fault::Iterations(1_000_001)),
        ] {
            let mut exchange = begun();
            assert_eq!(exchange.challenge(Some(challenge)), Step::Fail(fault), "{challenge:?}");
            assert!(!exchange.is_done());
        }
        assert_eq!(begun().challenge(None), Step::Fail(Fault::Malformed));
        for proof in [Some(&b"v=AAAA"[..]), Some(b"e=invalid-proof"), Some(b"v="), Some(b""), None] {
            let mut exchange = begun();
            let Step::Derive(derivation) = exchange.challenge(Some(b"r=abc1,s=c2FsdA==,i=4096")) else { panic!() };
            assert!(matches!(exchange.keys(&derivation.run()), Step::Respond(_)));
            assert_eq!(exchange.challenge(proof), Step::Fail(Fault::NotProven), "{proof:?}");
            assert!(!exchange.is_done());
        }
    }

    /// Our own two sides.
    #[test]
    fn our_server_lets_us_in() {
        let name = "a=b,c@d.example";
        let iterations = NonZeroU32::new(4_096).unwrap();
        for mechanism in [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256] {
            let credentials = Credentials::new(mechanism, name, "Tr0ub4dor,=&3").unwrap();
            let (mut client, first) = Exchange::start(credentials, "nonce", 500);
            let first = first.map(|first| first.0);
            let (mut server, mut step) = server::Exchange::start(
                mechanism.sasl(),
                first.as_deref().map(Vec::as_slice),
                ChannelBindings::default(),
            );
            let mut proven = false;
            while !proven {
                step = match step {
                    server::Step::Challenge(challenge) => {
                        let mut next = client.challenge(Some(&challenge));
                        if let Step::Derive(derivation) = &next {
                            next = client.keys(&derivation.run());
                        }
                        let Step::Respond(response) = next else { panic!("{next:?}") };
                        server.respond(&response.0)
                    }
                    server::Step::NeedScramKeys { username } => {
                        assert_eq!(username, name);
                        server.scram_keys(ScramKeys::derive("Tr0ub4dor,=&3", b"salt", iterations), "other")
                    }
                    server::Step::Verify(server::Credentials::Password { username, password }) => {
                        assert_eq!((username.as_str(), password.as_str()), (name, "Tr0ub4dor,=&3"));
                        server.verdict(Ok(()))
                    }
                    server::Step::Proven { .. } | server::Step::Done => {
                        proven = true;
                        server::Step::Done
                    }
                    other => panic!("{other:?}"),
                };
            }
            assert!(client.is_done(), "{mechanism}");
        }
    }

    #[test]
    fn a_token_is_shown_and_a_refusal_is_answered_with_nothing() {
        for (mechanism, message, nothing) in [
            (Mechanism::Xoauth2, &b"user=user\x01auth=Bearer pencil\x01\x01"[..], &b""[..]),
            (Mechanism::OauthBearer, b"n,a=user,\x01auth=Bearer pencil\x01\x01", b"\x01"),
        ] {
            let (mut exchange, first) = Exchange::start(credentials(mechanism), "", 500);
            assert_eq!(&*first.unwrap().0, message);
            assert!(exchange.is_done() && exchange.refusal().is_none());
            let refusal = br#"{"status":"401","schemes":"bearer","x":"a\nb"}"#;
            assert_eq!(exchange.challenge(Some(refusal)), Step::Respond(Response::new(nothing)));
            assert!(!exchange.is_done(), "a server that lets us in after all is not believed");
            assert_eq!(exchange.refusal(), Some("status 401"));
            assert_eq!(exchange.challenge(Some(refusal)), Step::Fail(Fault::Malformed), "only once");
            // what does not fit into the command waits for a challenge
            let (mut exchange, first) = Exchange::start(credentials(mechanism), "", 10);
            assert!(first.is_none() && !exchange.is_done());
            assert_eq!(exchange.challenge(Some(b"")), Step::Respond(Response::new(message)));
            assert!(exchange.is_done());
            assert_eq!(exchange.challenge(Some(b"you said pencil")), Step::Respond(Response::new(nothing)));
            assert_eq!(exchange.refusal(), Some(""));
        }
        for token in ["", "a b", "a\x01b", "ü", &"x".repeat(MAX_TOKEN + 1)] {
            assert_eq!(Credentials::new(Mechanism::Xoauth2, "user", token), Err(BadPassword::Token), "{token}");
        }
        assert!(Credentials::new(Mechanism::Xoauth2, "user", &"x".repeat(MAX_TOKEN)).is_ok());
    }

    /// Our own two sides.
    #[test]
    fn our_server_reads_our_token() {
        for mechanism in [Mechanism::Xoauth2, Mechanism::OauthBearer] {
            let credentials = Credentials::new(mechanism, "a=b,c@d.example", "eyJ.a-b_c~+/=").unwrap();
            let (_, first) = Exchange::start(credentials, "", 500);
            let (_, step) = server::Exchange::start(
                mechanism.sasl(),
                first.as_ref().map(|first| &first.0[..]),
                ChannelBindings::default(),
            );
            let server::Step::Verify(server::Credentials::Token { username, token }) = step else { panic!("{step:?}") };
            assert_eq!((username.as_deref(), token.as_str()), (Some("a=b,c@d.example"), "eyJ.a-b_c~+/="));
        }
    }

    #[test]
    fn plain_that_does_not_fit_waits_and_more_than_was_asked_is_malformed() {
        let (mut exchange, first) = Exchange::start(credentials(Mechanism::Plain), "", 15);
        assert!(first.is_none() && !exchange.is_done());
        assert_eq!(exchange.challenge(None), Step::Respond(Response::new(*b"\0user\0pencil")));
        assert!(exchange.is_done());
        assert_eq!(exchange.challenge(Some(b"more")), Step::Fail(Fault::Malformed));
        assert!(!exchange.is_done());
    }

    #[test]
    fn no_password_is_shown() {
        for mechanism in
            [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256, Mechanism::OauthBearer, Mechanism::Xoauth2]
        {
            let credentials = credentials(mechanism);
            let (exchange, first) = Exchange::start(credentials.clone(), "abc", 500);
            let shown = format!("{credentials:?} {exchange:?} {first:?}");
            assert!(!shown.contains("pencil") && !shown.contains("cGVuY2ls"), "{shown}");
            let message = STANDARD.encode(&*credentials.message());
            for text in ["no: pencil", &message, "cGVuY2ls?"] {
                assert!(credentials.are_in(text), "{text}");
            }
            assert!(!credentials.are_in("535 no, user"));
        }
        // a reply that was cut
        let long = Credentials::new(Mechanism::Xoauth2, "user", &"x".repeat(4_000)).unwrap();
        let coded = STANDARD.encode(&*long.message());
        assert!(long.are_in(&"x".repeat(2_000)) && long.are_in(&coded[..1_000]) && !long.are_in("535 no, user"));
        assert_eq!(Credentials::new(Mechanism::Plain, "user", "a\0b"), Err(BadPassword::Character));
        assert_eq!(Credentials::new(Mechanism::Plain, "user", ""), Err(BadPassword::Length));
    }
}
