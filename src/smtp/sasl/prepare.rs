//! SASLprep (RFC 4013): one form for names and passwords that look the same.

/// A text that holds a character which SASLprep forbids: a control character, a surrogate, mixed directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text holds a control character, or another one that names and passwords must not hold (RFC 4013)")]
pub struct NotPrepared;

/// The prepared text. ASCII without control characters stays as it is.
///
/// # Errors
/// When it holds what is forbidden.
pub fn prepare(text: &str) -> Result<String, NotPrepared> {
    stringprep::saslprep(text).map(|prepared| prepared.into_owned()).map_err(|_| NotPrepared)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4013, section 3.
    #[test]
    fn examples_of_the_rfc() {
        for (text, expected) in [
            ("I\u{ad}X", Ok("IX")),
            ("user", Ok("user")),
            ("USER", Ok("USER")),
            ("\u{aa}", Ok("a")),
            ("\u{2168}", Ok("IX")),
        ] {
            assert_eq!(prepare(text).as_deref(), expected.as_deref());
        }
        for text in ["\u{7}", "a\0b", "a\u{7f}", "\u{627}\u{31}", "\r\n"] {
            assert_eq!(prepare(text), Err(NotPrepared), "{text:?}");
        }
        assert_eq!(prepare("e\u{301}"), Ok("\u{e9}".to_owned()));
    }
}
