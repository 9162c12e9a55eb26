//! What is wrong with a configuration, and what is only worth a warning. All of it is reported at once.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::name::Name;
use crate::model::spec::Collection;

/// What kind of thing is wrong. Clients may rely on these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ViolationCode {
    /// A field that does not exist.
    UnknownField,
    /// A field that only the appliance writes.
    ReadOnlyField,
    /// A field that must be there is missing.
    Required,
    /// The value has another JSON type.
    WrongType,
    /// The value has the right type, but is none of those that are allowed.
    InvalidValue,
    /// A number, size, duration, text or list is too small, short, large or long.
    OutOfRange,
    /// The name cannot be the name of such an object.
    InvalidName,
    /// A label's key or value is not allowed.
    InvalidLabel,
    /// It names an object that does not exist.
    UnknownReference,
    /// It contradicts another object, or another part of this one.
    Conflict,
    /// Two things that must differ are the same.
    Duplicate,
    /// The address belongs to another recipient.
    AddressTaken,
    /// The domain of the address is not local: no recipient policy has it.
    DomainNotLocal,
    /// No valid address comes out of the template for this recipient.
    NoAddress,
    /// The whole world could relay, and that is not acknowledged.
    OpenRelay,
    /// An address cannot be bound.
    CannotBind,
    /// The object has no secret with this fingerprint.
    SecretUnknown,
    /// A secret or text cannot be read from where it is said to be.
    SecretUnreadable,
    /// It belongs to somebody else; `takeOver` takes it over.
    OwnedByOther,
    /// A file of the watched directory says what it is: change it there.
    OwnedByFile,
    /// A certificate or key cannot be used, or the two do not belong together.
    InvalidCertificate,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"pointer": "/spec/bindings/0/port", "code": "wrongType", "detail": "a number is needed"}))]
pub struct Violation {
    /// The object it is in, as `collection/name`; absent when it is the one in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub object: Option<String>,
    /// JSON pointer (RFC 6901) to the value, from the root of the object (`/spec/…`, `/labels/…`).
    pub pointer: String,
    /// What kind of thing is wrong.
    pub code: ViolationCode,
    /// What is wrong, for people.
    pub detail: String,
}

impl Violation {
    /// A violation in the object of the request.
    pub fn new(pointer: impl Into<String>, code: ViolationCode, detail: impl Into<String>) -> Self {
        Violation { object: None, pointer: pointer.into(), code, detail: detail.into() }
    }

    /// A violation in this object.
    pub fn at(
        collection: Collection,
        name: &Name,
        pointer: impl Into<String>,
        code: ViolationCode,
        detail: impl Into<String>,
    ) -> Self {
        Violation { object: Some(object_id(collection, name)), ..Violation::new(pointer, code, detail) }
    }
}

impl Violation {
    /// The same of a connector, in its `requestDequeue`.
    pub(super) fn in_request_dequeue(self) -> Self {
        Violation { pointer: self.pointer.replacen("/spec/", "/spec/requestDequeue/", 1), ..self }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = self.object.as_deref().unwrap_or_default();
        write!(f, "{object}{}: {}", self.pointer, self.detail)
    }
}

/// `collection/name`, as violations, warnings and references write it.
pub fn object_id(collection: Collection, name: &Name) -> String {
    format!("{}/{name}", collection.path())
}

/// What kind of thing a warning is about. Clients may rely on these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum WarningCode {
    /// Two connectors have an address space with equal pattern and cost: they share its load.
    SharesAddressSpace,
    /// The whole world can relay; that was acknowledged.
    OpenRelay,
    /// Whoever may connect can say in a PROXY header that it is somebody else.
    TrustsEverybody,
    /// Bare line ends are normalised for clients that nothing restricts.
    NormalisesForEverybody,
    /// No certificate of the virtual server is for its own name.
    NameNotCovered,
    /// A certificate is expired, or will soon be.
    CertificateExpires,
    /// A connector shows its password to smart hosts whose certificate nothing checks.
    PasswordToUnverified,
}

/// Something that is allowed but may not be meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"object": "connectors/a", "code": "sharesAddressSpace", "detail": "connectors a and b share *.example.com at cost 1"}))]
pub struct Warning {
    /// The object it is about, as `collection/name`.
    pub object: String,
    /// What kind of thing it is.
    pub code: WarningCode,
    /// What may not be meant, for people.
    pub detail: String,
}
