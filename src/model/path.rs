//! Paths in configuration: relative ones, always below a directory that the process chose; and the sockets of others.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::text::text_value;

/// A relative path: segments with `/` between them, none of them `.` or `..`, no NUL, at most 200 octets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelativePath(String);

/// The text is no such path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the path must be relative, without '..', '.', empty segments or control characters, at most 200 octets, such as inbox or teams/inbox"
)]
pub struct NotARelativePath;

impl RelativePath {
    /// As a path below `root`.
    pub fn below(&self, root: &Path) -> std::path::PathBuf {
        root.join(&self.0)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True when one lies in the other, or both are the same.
    pub fn overlaps(&self, other: &RelativePath) -> bool {
        let within = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        within(&self.0, &other.0) || within(&other.0, &self.0)
    }
}

/// Every name is one segment.
impl From<&super::name::Name> for RelativePath {
    fn from(name: &super::name::Name) -> Self {
        RelativePath(name.as_str().to_owned())
    }
}

impl FromStr for RelativePath {
    type Err = NotARelativePath;

    fn from_str(text: &str) -> Result<Self, NotARelativePath> {
        let valid = text.len() <= 200
            && !text.chars().any(|c| c.is_control() || c == '\\')
            && text.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..");
        if valid { Ok(RelativePath(text.to_owned())) } else { Err(NotARelativePath) }
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(
    RelativePath,
    "RelativePath",
    "bridgehead-relative-path",
    "A relative path with / between its segments, without '..', below a directory of the data directory.",
    ["default", "teams/inbox"]
);

/// The path of a unix socket: absolute, no segment `.` or `..`, no control characters, at most 107 octets (what the system
/// takes).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketPath(String);

/// The text is no such path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the path of a socket must be absolute, without '..', '.', empty segments or control characters, at most 107 octets, such as /run/dovecot/lmtp"
)]
pub struct NotASocketPath;

impl SocketPath {
    /// As a path.
    pub fn path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl FromStr for SocketPath {
    type Err = NotASocketPath;

    fn from_str(text: &str) -> Result<Self, NotASocketPath> {
        let relative = text.strip_prefix('/').ok_or(NotASocketPath)?;
        let valid = text.len() <= 107 && relative.parse::<RelativePath>().is_ok();
        if valid { Ok(SocketPath(text.to_owned())) } else { Err(NotASocketPath) }
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(
    SocketPath,
    "SocketPath",
    "bridgehead-socket-path",
    "The absolute path of a unix socket.",
    ["/run/dovecot/lmtp"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_its_directory() {
        for text in ["", "/etc", "..", "a/../b", "a//b", "./a", "a/", "a\0b", "a\\b"] {
            assert!(text.parse::<RelativePath>().is_err(), "{text:?}");
        }
        let path = |text: &str| text.parse::<RelativePath>().unwrap();
        assert!(path("a").overlaps(&path("a/b")));
        assert!(!path("a").overlaps(&path("ab")));
        assert!("/run/dovecot/lmtp".parse::<SocketPath>().is_ok());
        for text in ["", "/", "run/lmtp", "/run/../lmtp", "/run//lmtp", &format!("/{}", "x".repeat(107))] {
            assert!(text.parse::<SocketPath>().is_err(), "{text:?}");
        }
    }
}
