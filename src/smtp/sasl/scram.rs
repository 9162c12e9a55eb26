//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, 7677): the server's messages and checks.
//!
//! The server keeps [`ScramKeys`], from which the password cannot be had, and which do not suffice to log in. A proof is
//! compared in constant time. With `-PLUS` the client's messages name the TLS connection they were made for: bindings
//! `tls-server-end-point` (RFC 5929) and `tls-exporter` (RFC 9266). A client that could bind, but was made to believe that
//! the server cannot (`y`), is refused where the server does offer `-PLUS` (RFC 5802, 6).

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::oauth::unescape;
use super::{SaslError, name, same_identity, text};

/// Iterations of keys that we derive: the most that Cyrus SASL will compute, and with it Postfix and many other clients
/// (RFC 7677, 4 wants 4,096 at least). OWASP advises 600,000 for stored keys; none of these clients could log in then.
pub const ITERATIONS: u32 = 65_536;
/// Octets of a salt that we make.
pub const SALT: usize = 16;
/// Longest nonce of a client that is taken.
const MAX_NONCE: usize = 1_024;

/// What the server keeps of a password (RFC 5802, 2.2).
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// The salt.
    pub salt: Vec<u8>,
    /// The iteration count.
    pub iterations: u32,
    /// What a proof is checked against.
    pub stored_key: [u8; 32],
    /// What the server signs with.
    pub server_key: [u8; 32],
}

impl ScramKeys {
    /// Derives the keys of a prepared password. Takes a CPU for a while: never on a thread that others wait for.
    pub fn derive(password: &str, salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = zeroize::Zeroizing::new([0_u8; 32]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut *salted);
        ScramKeys {
            salt: salt.to_vec(),
            iterations: iterations.get(),
            stored_key: Sha256::digest(hmac(&*salted, &[b"Client Key"])).into(),
            server_key: hmac(&*salted, &[b"Server Key"]),
        }
    }
}

/// Never the keys: a debug print lands in logs.
impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScramKeys({} iterations, …)", self.iterations)
    }
}

/// What there is to bind to, on the connection that the exchange runs on. Empty without TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelBindings {
    /// The hash of the server's certificate (RFC 5929, 4).
    pub tls_server_end_point: Option<Vec<u8>>,
    /// Keying material of the connection (RFC 9266).
    pub tls_exporter: Option<Vec<u8>>,
    /// Whether SCRAM-SHA-256-PLUS was offered on this connection.
    pub plus_offered: bool,
}

impl ChannelBindings {
    fn data(&self, name: &str) -> Option<&[u8]> {
        match name {
            "tls-server-end-point" => self.tls_server_end_point.as_deref(),
            "tls-exporter" => self.tls_exporter.as_deref(),
            _ => None,
        }
    }
}

/// The client's first message: `gs2-header n=user,r=nonce`.
#[derive(Debug)]
pub(super) struct ClientFirst {
    username: String,
    nonce: String,
    /// The message without its gs2-header: part of what is signed.
    bare: String,
    /// What the last message must repeat in base64: the gs2-header and the binding's data.
    binding: Vec<u8>,
}

impl ClientFirst {
    pub(super) fn parse(message: &[u8], plus: bool, bindings: &ChannelBindings) -> Result<Self, SaslError> {
        let message = text(message).map_err(|_| SaslError::Malformed)?;
        let mut parts = message.splitn(3, ',');
        let (Some(flag), Some(authorize), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(SaslError::Malformed);
        };
        let header = &message[..message.len() - bare.len()];
        let mut binding = header.as_bytes().to_vec();
        match (flag, flag.strip_prefix("p=")) {
            ("n", _) if !plus => {}
            ("y", _) if !plus && !bindings.plus_offered => {}
            ("n" | "y", _) => return Err(SaslError::ChannelBinding),
            (_, Some(name)) if plus => {
                binding.extend_from_slice(bindings.data(name).ok_or(SaslError::ChannelBinding)?);
            }
            (_, Some(_)) => return Err(SaslError::ChannelBinding),
            _ => return Err(SaslError::Malformed),
        }
        // `m=` announces an extension that must be understood: there is none that we understand
        let mut attributes = bare.split(',');
        let username = attributes.next().and_then(|field| field.strip_prefix("n=")).ok_or(SaslError::Malformed)?;
        let username = name(&unescape(username).ok_or(SaslError::Malformed)?)?;
        let nonce = attributes.next().and_then(|field| field.strip_prefix("r=")).ok_or(SaslError::Malformed)?;
        let printable = nonce.bytes().all(|b| (0x21..=0x7e).contains(&b));
        if nonce.is_empty() || nonce.len() > MAX_NONCE || !printable {
            return Err(SaslError::Malformed);
        }
        if let Some(identity) = authorize.strip_prefix("a=") {
            same_identity(&unescape(identity).ok_or(SaslError::Malformed)?, &username)?;
        } else if !authorize.is_empty() {
            return Err(SaslError::Malformed);
        }
        Ok(ClientFirst { username, nonce: nonce.to_owned(), bare: bare.to_owned(), binding })
    }

    pub(super) fn username(&self) -> &str {
        &self.username
    }

    pub(super) fn answer(self, keys: ScramKeys, nonce: &str) -> ServerFirst {
        let nonce = format!("{}{nonce}", self.nonce);
        let message = format!("r={nonce},s={},i={}", STANDARD.encode(&keys.salt), keys.iterations);
        ServerFirst { client: self, nonce, keys, message }
    }
}

/// The server's first message: `r=nonces,s=salt,i=iterations`.
#[derive(Debug)]
pub(super) struct ServerFirst {
    client: ClientFirst,
    nonce: String,
    keys: ScramKeys,
    message: String,
}

impl ServerFirst {
    pub(super) fn message(&self) -> Vec<u8> {
        self.message.as_bytes().to_vec()
    }

    /// Checks the client's final message: `c=binding,r=nonces,p=proof`.
    pub(super) fn check(self, message: &[u8]) -> Result<ServerFinal, SaslError> {
        let message = text(message).map_err(|_| SaslError::Malformed)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(SaslError::Malformed)?;
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| SaslError::Malformed);
        let proof: [u8; 32] = decode(proof)?.try_into().map_err(|_| SaslError::Malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|field| field.strip_prefix("c=")).ok_or(SaslError::Malformed)?;
        if decode(binding)? != self.client.binding {
            return Err(SaslError::ChannelBinding);
        }
        let nonce = attributes.next().and_then(|field| field.strip_prefix("r=")).ok_or(SaslError::Malformed)?;
        if nonce != self.nonce {
            return Err(SaslError::Malformed);
        }
        let signed = format!("{},{},{without_proof}", self.client.bare, self.message);
        let signature = hmac(&self.keys.stored_key, &[signed.as_bytes()]);
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(key, signature)| *key ^= signature);
        let stored: [u8; 32] = Sha256::digest(client_key).into();
        if bool::from(stored.ct_eq(&self.keys.stored_key)) {
            let signature = hmac(&self.keys.server_key, &[signed.as_bytes()]);
            Ok(ServerFinal { username: self.client.username, signature })
        } else {
            Err(SaslError::Refused)
        }
    }
}

/// The server's final message: `v=signature`, by which the client knows that the server has its keys.
#[derive(Debug, Clone)]
pub(super) struct ServerFinal {
    pub(super) username: String,
    signature: [u8; 32],
}

impl ServerFinal {
    pub(super) fn message(&self) -> Vec<u8> {
        format!("v={}", STANDARD.encode(self.signature)).into_bytes()
    }
}

/// HMAC-SHA-256 over the parts, one behind the other.
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}
