//! SHA-256 digests of API keys as texts: `sha256:` and 64 hexadecimal digits. A key is 256 random bits (or is at least
//! [`SHORTEST_KEY`] characters long), so nothing slower is needed to keep it from being guessed.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::text::text_value;

/// What the text form begins with.
const PREFIX: &str = "sha256:";
/// Shortest key that is taken from somebody, in octets.
pub const SHORTEST_KEY: usize = 32;
/// Longest.
pub const LONGEST_KEY: usize = 4_096;

/// The SHA-256 of an API key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyDigest([u8; 32]);

/// The text is no such digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the digest of a key is sha256: and 64 hexadecimal digits, as of printf %s KEY | sha256sum")]
pub struct NotAKeyDigest;

impl KeyDigest {
    /// Of a key.
    pub fn of(key: &str) -> Self {
        KeyDigest(Sha256::digest(key.as_bytes()).into())
    }

    /// The 256 bits.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for KeyDigest {
    type Err = NotAKeyDigest;

    fn from_str(text: &str) -> Result<Self, NotAKeyDigest> {
        let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() == 64 && digits.is_ascii());
        let digits = digits.ok_or(NotAKeyDigest)?.as_bytes();
        let mut bytes = [0; 32];
        for (byte, two) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digit = |at: usize| char::from(two[at]).to_digit(16).ok_or(NotAKeyDigest);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Ok(KeyDigest(bytes))
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Not the digest: it is not shown either.
impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(…)")
    }
}

text_value!(
    KeyDigest,
    "KeyDigest",
    "bridgehead-key-digest",
    "The SHA-256 of an API key: `sha256:` and 64 hexadecimal digits. Never shown.",
    ["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_texts() {
        let digest = KeyDigest::of("test");
        let text = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        assert_eq!(text.replace('f', "F").parse(), Ok(digest), "case does not count");
        assert!(!format!("{digest:?}").contains("9f86"));
        for wrong in ["", "sha256:", &text[7..], &text[..70], &format!("{text}0"), &text.replace('9', "g"), "sha256:é"]
        {
            assert_eq!(wrong.parse::<KeyDigest>(), Err(NotAKeyDigest), "{wrong}");
        }
    }
}
