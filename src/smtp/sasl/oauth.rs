//! Messages of OAUTHBEARER (RFC 7628) and XOAUTH2: a bearer token, and why it was refused. Both sides.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Credentials, SaslError, name, text};

/// What separates and ends the fields of both (RFC 7628, 3.1).
const SEPARATOR: char = '\x01';
/// Most characters of a refusal's `status` that are shown.
const MOST_STATUS: usize = 100;

/// Why a token was refused, as the client is told. Never in more detail: a token's faults are for our log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BearerError {
    /// It is expired, of another issuer, for another audience or user, or no token of an issuer at all.
    InvalidToken,
}

impl BearerError {
    /// RFC 7628, 3.2.2.
    pub(super) fn oauthbearer(self) -> Vec<u8> {
        json!({"status": "invalid_token"}).to_string().into_bytes()
    }

    /// As Google documents it.
    pub(super) fn xoauth2(self) -> Vec<u8> {
        json!({"status": "401", "schemes": "bearer"}).to_string().into_bytes()
    }
}

/// `n,a=user@example.com,^Ahost=…^Aport=…^Aauth=Bearer token^A^A`
pub(super) fn parse_oauthbearer(message: &[u8]) -> Result<Credentials, SaslError> {
    let message = text(message).map_err(|_| SaslError::Malformed)?;
    let (header, fields) = message.split_once(SEPARATOR).ok_or(SaslError::Malformed)?;
    let mut parts = header.split(',');
    // there is no channel binding: `p` cannot be asked for (RFC 7628, 3.1)
    let (Some("n" | "y"), Some(identity), Some(""), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(SaslError::Malformed);
    };
    let username = match identity {
        "" => None,
        identity => {
            let escaped = identity.strip_prefix("a=").ok_or(SaslError::Malformed)?;
            Some(name(&unescape(escaped).ok_or(SaslError::Malformed)?)?)
        }
    };
    // the client's list ends with an empty field
    let mut token = None;
    for field in fields.strip_suffix("\x01\x01").ok_or(SaslError::Malformed)?.split(SEPARATOR) {
        let (key, value) = field.split_once('=').ok_or(SaslError::Malformed)?;
        if key == "auth" && token.replace(bearer(value)?).is_some() {
            return Err(SaslError::Malformed);
        }
    }
    Ok(Credentials::Token { username, token: token.ok_or(SaslError::Malformed)? })
}

/// `user=someone@example.com^Aauth=Bearer token^A^A`
pub(super) fn parse_xoauth2(message: &[u8]) -> Result<Credentials, SaslError> {
    let message = text(message).map_err(|_| SaslError::Malformed)?;
    let fields = message.strip_suffix("\x01\x01").ok_or(SaslError::Malformed)?;
    let (user, auth) = fields.split_once(SEPARATOR).ok_or(SaslError::Malformed)?;
    let user = user.strip_prefix("user=").ok_or(SaslError::Malformed)?;
    let token = bearer(auth.strip_prefix("auth=").ok_or(SaslError::Malformed)?)?;
    Ok(Credentials::Token { username: Some(name(user)?), token })
}

/// `Bearer` and a b64token (RFC 6750, 2.1).
fn bearer(value: &str) -> Result<Zeroizing<String>, SaslError> {
    let (scheme, token) = value.split_once(' ').ok_or(SaslError::Malformed)?;
    let token = token.trim_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") && is_token(token) {
        Ok(Zeroizing::new(token.to_owned()))
    } else {
        Err(SaslError::Malformed)
    }
}

/// Whether the text can be a bearer token: b64token, taken generously (RFC 6750, 2.1).
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b))
}

/// What a client of OAUTHBEARER says (RFC 7628, 3.1). Host and port are left out: whoever is connected knows them.
pub(super) fn oauthbearer(username: &str, token: &str) -> Zeroizing<Vec<u8>> {
    let username = escape(username);
    Zeroizing::new(["n,a=", &username, ",\x01auth=Bearer ", token, "\x01\x01"].concat().into_bytes())
}

/// What a client of XOAUTH2 says.
pub(super) fn xoauth2(username: &str, token: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(["user=", username, "\x01auth=Bearer ", token, "\x01\x01"].concat().into_bytes())
}

/// Why a server refused a token (RFC 7628, 3.2.2; XOAUTH2's has a `status` too): its `status`, or nothing where it is not to be
/// understood. Nothing else of it is shown: who knows what stands there.
pub(super) fn refusal(challenge: &[u8]) -> String {
    let told: Value = serde_json::from_slice(challenge).unwrap_or_default();
    let Some(status) = told["status"].as_str() else { return String::new() };
    let status: String = status.chars().filter(|c| !c.is_control()).take(MOST_STATUS).collect();
    format!("status {status}")
}

/// As a saslname (RFC 5801, 4).
pub(super) fn escape(text: &str) -> String {
    text.replace('=', "=3D").replace(',', "=2C")
}

/// A saslname (RFC 5801, 4): `,` is written `=2C` and `=` is written `=3D`.
pub(super) fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (character, rest) = match part.get(..2)? {
            "2C" => (',', &part[2..]),
            "3D" => ('=', &part[2..]),
            _ => return None,
        };
        plain.push(character);
        plain.push_str(rest);
    }
    Some(plain)
}
