//! Secrets and other texts that a configuration may take from elsewhere: given as they are, by the environment, or by a
//! file below the secrets directory.
//!
//! A [`Secret`] is never shown: not in reads, dry runs, audit entries, errors or logs. What stays in a spec is a
//! [`Fingerprint`], by which a reader sees that it changed and a writer says "keep it". A [`Source`] has the same three
//! ways in, for what is no secret (a certificate chain), and is shown as it was given. Where the value itself is kept, and
//! how files are read, is `config::secrets`'.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{AdditionalProperties, Type};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use zeroize::Zeroizing;

use super::text::text_value;

/// Most octets of a secret or a text: a chain of certificates fits well.
pub const MAX_SECRET: usize = 256 * 1024;

/// The text of a secret. Wiped when it is dropped; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// This text.
    pub fn new(text: impl Into<String>) -> Self {
        SecretText(Zeroizing::new(text.into()))
    }

    /// The text itself: for whoever uses it, never for what is shown or logged.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A secret in a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// Given in this request. A spec that was taken over holds [`Secret::Kept`] in its place.
    Given(SecretText),
    /// Kept by the store, beside the spec.
    Kept(Fingerprint),
    /// In a variable of the process's environment.
    Env(SecretVariable),
    /// In a file below the secrets directory; one trailing newline is cut.
    File(SecretFile),
}

/// A text that is no secret, given in one of the ways of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The text.
    Value(String),
    /// In a variable of the process's environment.
    Env(SecretVariable),
    /// In a file below the secrets directory; one trailing newline is cut.
    File(SecretFile),
}

/// What a secret reads as: tells two values apart, tells nothing about them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(String);

/// The text is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is what a read showed: 22 letters, digits, '-' or '_'")]
pub struct NotAFingerprint;

impl Fingerprint {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        let valid = text.len() == 22 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if valid { Ok(Fingerprint(text.to_owned())) } else { Err(NotAFingerprint) }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(
    Fingerprint,
    "SecretFingerprint",
    "bridgehead-fingerprint",
    "Tells whether a secret changed, and nothing else about it: an HMAC under a key of the store.",
    ["JXWuZVqcZzCqW0E0Rl3Rmg"]
);

/// The name of an environment variable that may hold a secret. The prefix keeps the configuration from reading others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretVariable(String);

const VARIABLE_PREFIX: &str = "BRIDGEHEAD_SECRET_";

/// The text names no such variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the variable's name must begin with BRIDGEHEAD_SECRET_, with capital letters, digits and _ behind it")]
pub struct NotASecretVariable;

impl SecretVariable {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretVariable {
    type Err = NotASecretVariable;

    fn from_str(text: &str) -> Result<Self, NotASecretVariable> {
        let rest = text.strip_prefix(VARIABLE_PREFIX).unwrap_or_default();
        let letters = rest.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if (1..=100).contains(&rest.len()) && letters {
            Ok(SecretVariable(text.to_owned()))
        } else {
            Err(NotASecretVariable)
        }
    }
}

impl fmt::Display for SecretVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(
    SecretVariable,
    "SecretVariable",
    "bridgehead-secret-variable",
    "An environment variable of the appliance: BRIDGEHEAD_SECRET_ and capital letters, digits or _.",
    ["BRIDGEHEAD_SECRET_SMTP_KEY"]
);

/// The path of a file that holds a secret: relative to the secrets directory, or absolute and then below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretFile(String);

/// The text is no such path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the path must lie below the secrets directory, without '..', '.', empty segments or control characters, at most 400 octets"
)]
pub struct NotASecretFile;

impl SecretFile {
    /// The path below `root`; `None` when it is absolute and lies elsewhere. Links are followed by whoever opens it.
    pub fn below(&self, root: &Path) -> Option<PathBuf> {
        let path = root.join(&self.0);
        path.starts_with(root).then_some(path)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretFile {
    type Err = NotASecretFile;

    fn from_str(text: &str) -> Result<Self, NotASecretFile> {
        let relative = text.strip_prefix('/').unwrap_or(text);
        let valid = text.len() <= 400
            && !text.chars().any(|c| c.is_control() || c == '\\')
            && relative.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..");
        if valid { Ok(SecretFile(text.to_owned())) } else { Err(NotASecretFile) }
    }
}

impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(
    SecretFile,
    "SecretFile",
    "bridgehead-secret-file",
    "A file below the secrets directory (`BRIDGEHEAD_SECRETS_DIR`): relative to it, or absolute.",
    ["smtp/tls.key"]
);

/// What both kinds look like in JSON. `set` and `fingerprint` are what a read shows.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Form {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<Fingerprint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    env: Option<SecretVariable>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<SecretFile>,
}

impl Form {
    const EMPTY: Form = Form { set: None, fingerprint: None, value: None, env: None, file: None };
}

const WAYS: &str = "exactly one of value, env and file is needed";

/// Never the value: only [`Secret::Given`] has one, and that shows as set.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let form = match self {
            Secret::Given(_) => Form { set: Some(true), ..Form::EMPTY },
            Secret::Kept(fingerprint) => {
                Form { set: Some(true), fingerprint: Some(fingerprint.clone()), ..Form::EMPTY }
            }
            Secret::Env(variable) => Form { env: Some(variable.clone()), ..Form::EMPTY },
            Secret::File(file) => Form { file: Some(file.clone()), ..Form::EMPTY },
        };
        form.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Form::deserialize(d)? {
            Form { value: Some(value), env: None, file: None, set: None, fingerprint: None } => {
                Ok(Secret::Given(SecretText::new(value)))
            }
            // what a read shows beside env and file describes their content, and does not choose it
            Form { env: Some(variable), file: None, value: None, .. } => Ok(Secret::Env(variable)),
            Form { file: Some(file), env: None, value: None, .. } => Ok(Secret::File(file)),
            Form { fingerprint: Some(fingerprint), env: None, file: None, value: None, set: None | Some(true) } => {
                Ok(Secret::Kept(fingerprint))
            }
            _ => Err(serde::de::Error::custom(format!("{WAYS}, or the fingerprint that a read showed, to keep it"))),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let form = match self {
            Source::Value(value) => Form { value: Some(value.clone()), ..Form::EMPTY },
            Source::Env(variable) => Form { env: Some(variable.clone()), ..Form::EMPTY },
            Source::File(file) => Form { file: Some(file.clone()), ..Form::EMPTY },
        };
        form.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Form::deserialize(d)? {
            Form { value: Some(value), env: None, file: None, set: None, fingerprint: None } => {
                Ok(Source::Value(value))
            }
            Form { env: Some(variable), value: None, file: None, set: None, fingerprint: None } => {
                Ok(Source::Env(variable))
            }
            Form { file: Some(file), value: None, env: None, set: None, fingerprint: None } => Ok(Source::File(file)),
            _ => Err(serde::de::Error::custom(WAYS)),
        }
    }
}

fn reference<T: ToSchema>() -> Ref {
    Ref::from_schema_name(T::name())
}

fn value_schema(description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .description(Some(description))
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MAX_SECRET))
}

fn object(description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        .description(Some(description))
}

impl PartialSchema for Secret {
    fn schema() -> RefOr<Schema> {
        let set = || {
            ObjectBuilder::new()
                .schema_type(Type::Boolean)
                .description(Some("Shown by reads: whether there is a value."))
        };
        object(
            "A secret: `value`, or `env` or `file` that hold it. It reads as `set` and `fingerprint`, with `env` or `file` as \
             given; to keep a value, write the fingerprint that was read.",
        )
        .property("value", value_schema("The secret itself. Never shown.").write_only(true))
        .property("env", reference::<SecretVariable>())
        .property("file", reference::<SecretFile>())
        .property("set", set())
        .property("fingerprint", reference::<Fingerprint>())
        .examples([serde_json::json!({"file": "smtp/tls.key"}), serde_json::json!({"env": "BRIDGEHEAD_SECRET_KEY"})])
        .into()
    }
}

impl ToSchema for Secret {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Secret")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((SecretVariable::name().into_owned(), SecretVariable::schema()));
        schemas.push((SecretFile::name().into_owned(), SecretFile::schema()));
        schemas.push((Fingerprint::name().into_owned(), Fingerprint::schema()));
    }
}

impl PartialSchema for Source {
    fn schema() -> RefOr<Schema> {
        object("A text: as `value`, or by `env` or `file`, which is watched.")
            .property("value", value_schema("The text itself."))
            .property("env", reference::<SecretVariable>())
            .property("file", reference::<SecretFile>())
            .examples([serde_json::json!({"file": "smtp/tls.crt"})])
            .into()
    }
}

impl ToSchema for Source {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("TextSource")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((SecretVariable::name().into_owned(), SecretVariable::schema()));
        schemas.push((SecretFile::name().into_owned(), SecretFile::schema()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_secret_is_given_in_one_way_and_never_shown() {
        let secret = |value: Value| serde_json::from_value::<Secret>(value);
        let given = secret(json!({"value": "hunter2"})).unwrap();
        assert!(matches!(&given, Secret::Given(text) if text.reveal() == "hunter2"));
        assert!(!format!("{given:?}").contains("hunter2"));
        assert_eq!(serde_json::to_value(&given).unwrap(), json!({"set": true}));
        let kept = json!({"set": true, "fingerprint": "JXWuZVqcZzCqW0E0Rl3Rmg"});
        assert_eq!(serde_json::to_value(secret(kept.clone()).unwrap()).unwrap(), kept);
        let read = json!({"set": false, "file": "a/b"});
        assert_eq!(serde_json::to_value(secret(read).unwrap()).unwrap(), json!({"file": "a/b"}));
        for wrong in [
            json!({}),
            json!({"set": true}),
            json!({"set": false, "fingerprint": "JXWuZVqcZzCqW0E0Rl3Rmg"}),
            json!({"value": "a", "file": "b"}),
            json!({"value": "a", "fingerprint": "JXWuZVqcZzCqW0E0Rl3Rmg"}),
            json!({"env": "BRIDGEHEAD_SECRET_A", "file": "b"}),
            json!({"env": "HOME"}),
            json!({"fingerprint": "short"}),
            json!({"secret": "a"}),
            json!("a"),
        ] {
            assert!(secret(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_lies_below_the_directory() {
        let root = Path::new("/etc/bridgehead/secrets");
        let below = |text: &str| text.parse::<SecretFile>().unwrap().below(root);
        assert_eq!(below("a/b"), Some(root.join("a/b")));
        assert_eq!(below("/etc/bridgehead/secrets/a"), Some(root.join("a")));
        assert_eq!(below("/etc/passwd"), None);
        assert_eq!(below("/etc/bridgehead/secrets-of-others/a"), None);
        for text in ["", "/", "..", "a/../b", "a//b", "a/.", "a\0", "a\\b", "/etc/bridgehead/secrets/../x"] {
            assert!(text.parse::<SecretFile>().is_err(), "{text:?}");
        }
    }
}
