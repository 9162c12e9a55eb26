//! What an account logs in as.

use std::fmt;
use std::str::FromStr;

use super::text::text_value;
use crate::smtp::sasl;

/// Longest username, in octets: as long as an address may be.
const MAX_USERNAME: usize = 254;

/// A username, prepared by SASLprep (RFC 4013): a name or an address, without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Username(String);

/// The text is no username.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a username has 1 to {MAX_USERNAME} octets, and no control characters (RFC 4013)")]
pub struct NotAUsername;

impl Username {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Username {
    type Err = NotAUsername;

    fn from_str(text: &str) -> Result<Self, NotAUsername> {
        let prepared = sasl::prepare(text).map_err(|_| NotAUsername)?;
        if (1..=MAX_USERNAME).contains(&prepared.len()) { Ok(Username(prepared)) } else { Err(NotAUsername) }
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(
    Username,
    "Username",
    "bridgehead-username",
    "What an account logs in as: a name or an address. The case of ASCII letters does not count.",
    ["ada@example.com", "printer"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usernames() {
        assert_eq!("Ada\u{ad}".parse::<Username>().unwrap().as_str(), "Ada");
        for text in ["", "\u{ad}", "a\0b", "a\nb", &"x".repeat(255)] {
            assert_eq!(text.parse::<Username>(), Err(NotAUsername), "{text:?}");
        }
    }
}
