//! Names of HTTP fields in configuration.

use std::fmt;
use std::str::FromStr;

use super::text::text_value;

/// The name of an HTTP field that somebody may set, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HttpHeaderName(String);

/// Fields that requests have anyway, or that say how one is framed.
const OURS: [&str; 9] = [
    "host",
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "te",
    "upgrade",
    "expect",
];

/// The text is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name of an HTTP field has 1 to 64 letters, digits, '-' and '_', and is none that a request has anyway")]
pub struct NotAnHttpHeaderName;

impl HttpHeaderName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HttpHeaderName {
    type Err = NotAnHttpHeaderName;

    fn from_str(text: &str) -> Result<Self, NotAnHttpHeaderName> {
        let name = text.to_ascii_lowercase();
        let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let valid = (1..=64).contains(&name.len()) && letters && !OURS.contains(&name.as_str());
        if valid { Ok(HttpHeaderName(name)) } else { Err(NotAnHttpHeaderName) }
    }
}

impl fmt::Display for HttpHeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(
    HttpHeaderName,
    "HttpHeaderName",
    "bridgehead-http-header",
    "The name of an HTTP field.",
    ["authorization"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frames_a_request_is_not_for_others_to_set() {
        assert_eq!("X-Api-Key".parse::<HttpHeaderName>().unwrap().as_str(), "x-api-key");
        for text in ["", "a b", "a\r\nb", "a:", "Host", "Content-Length", "ü", &"a".repeat(65)] {
            assert_eq!(text.parse::<HttpHeaderName>(), Err(NotAnHttpHeaderName), "{text:?}");
        }
    }
}
