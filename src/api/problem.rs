//! Refusals: every error of the API is an `application/problem+json` (RFC 9457).
//!
//! A [`Problem`] carries what the operator may know. Internals go to the log, under the same request id. The `type`
//! is stable and is what a program looks at; `errors` lists *everything* that is wrong with a request at once.
//! The id of the request is filled in by the outermost layer ([`super::server`]), which also turns the bare answers
//! of actix itself into problems.

use std::borrow::Cow;
use std::fmt;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

use super::codes::{ErrorCode, RequestCode};
use crate::config::document::Placed;
use crate::config::{OwnedObject, Reference, Violation, ViolationCode};
use crate::model::duration::Duration;

/// The media type of all errors.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error, as RFC 9457 describes it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "type": "urn:bridgehead:problem:invalid",
    "title": "The request is understood, but what it asks for is not valid",
    "status": 422,
    "detail": "2 violations; nothing was changed",
    "requestId": "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11",
    "errors": [
        {"pointer": "/spec/addressSpaces/0/cost", "code": "outOfRange", "detail": "a cost is a number from 1 to 100"},
        {"pointer": "/spec/rout", "code": "unknownField", "detail": "there is no field of this name; did you mean route?"}
    ]
}))]
pub struct Problem {
    /// What kind of problem it is; stable, meant for programs.
    #[serde(rename = "type")]
    kind: ProblemKind,
    /// The kind in words; the same for every problem of this kind.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this very request.
    detail: String,
    /// Names the request in logs; also in the header `X-Request-Id`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) request_id: String,
    /// Everything that is wrong, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
    #[serde(skip)]
    headers: Vec<(header::HeaderName, String)>,
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldError {
    /// The other object that it is in or comes from, as `collection/name`; absent when it is the one in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, example = "connectors/partner")]
    pub object: Option<String>,
    /// Where it is in the body: a JSON Pointer (RFC 6901); empty for the whole body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, example = "/spec/addressSpaces/0/cost")]
    pub pointer: Option<String>,
    /// The file, of a document that is a directory of files.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, example = "connectors.yaml")]
    pub file: Option<String>,
    /// The line in the document; the first is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, example = 12)]
    pub line: Option<u64>,
    /// The column in that line; the first is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, example = 7)]
    pub column: Option<u64>,
    /// The query parameter or header, if it is not in the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub parameter: Option<String>,
    /// What is wrong, for programs.
    pub code: ErrorCode,
    /// What is wrong, in words.
    pub detail: String,
}

/// The kinds of problems: the last part of `urn:bridgehead:problem:…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// The request cannot be read.
    Malformed,
    /// A query parameter or header is unknown, repeated or cannot be read.
    BadParameter,
    /// There is no key, or not a valid one.
    Unauthorized,
    /// The key may not do this.
    Forbidden,
    /// There is nothing under this address.
    NotFound,
    /// There is something, but not with this method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The state of the object, or of another one, forbids it.
    Conflict,
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed,
    /// The body is larger than 4 MiB.
    TooLarge,
    /// The body is of a type that this operation does not read.
    UnsupportedMediaType,
    /// Violations of the rules of the configuration.
    Invalid,
    /// Too many wrong keys from this client, or a quota is used up.
    TooManyRequests,
    /// Our fault.
    Internal,
    /// Not now.
    Unavailable,
    /// The disk is full.
    InsufficientStorage,
}

impl ProblemKind {
    /// All of them.
    pub const ALL: [ProblemKind; 16] = [
        ProblemKind::Malformed,
        ProblemKind::BadParameter,
        ProblemKind::Unauthorized,
        ProblemKind::Forbidden,
        ProblemKind::NotFound,
        ProblemKind::MethodNotAllowed,
        ProblemKind::RequestTimeout,
        ProblemKind::Conflict,
        ProblemKind::PreconditionFailed,
        ProblemKind::TooLarge,
        ProblemKind::UnsupportedMediaType,
        ProblemKind::Invalid,
        ProblemKind::TooManyRequests,
        ProblemKind::Internal,
        ProblemKind::Unavailable,
        ProblemKind::InsufficientStorage,
    ];

    /// The stable name, the HTTP status and the title.
    fn facts(self) -> (&'static str, u16, &'static str) {
        match self {
            ProblemKind::Malformed => ("malformed", 400, "The request cannot be read"),
            ProblemKind::BadParameter => ("badParameter", 400, "A parameter is unknown or cannot be read"),
            ProblemKind::Unauthorized => ("unauthorized", 401, "A valid key is needed"),
            ProblemKind::Forbidden => ("forbidden", 403, "The key does not allow this"),
            ProblemKind::NotFound => ("notFound", 404, "There is nothing under this address"),
            ProblemKind::MethodNotAllowed => ("methodNotAllowed", 405, "This method cannot be used here"),
            ProblemKind::RequestTimeout => ("requestTimeout", 408, "The request did not arrive in time"),
            ProblemKind::Conflict => ("conflict", 409, "The present state does not allow this"),
            ProblemKind::PreconditionFailed => ("preconditionFailed", 412, "The object is not as the request expects"),
            ProblemKind::TooLarge => ("tooLarge", 413, "The request is too large"),
            ProblemKind::UnsupportedMediaType => {
                ("unsupportedMediaType", 415, "The body has a type that is not read here")
            }
            ProblemKind::Invalid => ("invalid", 422, "The request is understood, but what it asks for is not valid"),
            ProblemKind::TooManyRequests => ("tooManyRequests", 429, "More was asked for than is allowed in this time"),
            ProblemKind::Internal => ("internal", 500, "Something failed in the appliance"),
            ProblemKind::Unavailable => ("unavailable", 503, "The appliance cannot do this now"),
            ProblemKind::InsufficientStorage => ("insufficientStorage", 507, "There is no space left"),
        }
    }

    /// The last part of the type's URI.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        self.facts().1
    }

    /// In words.
    pub fn title(self) -> &'static str {
        self.facts().2
    }

    /// Seconds after which it is worth to come again, for what passes by itself: the header `Retry-After` of a problem that
    /// knows no better.
    pub fn retry_after(self) -> Option<u32> {
        match self {
            ProblemKind::TooManyRequests | ProblemKind::Unavailable | ProblemKind::InsufficientStorage => Some(60),
            _ => None,
        }
    }

    fn of_status(status: StatusCode) -> Self {
        let known = ProblemKind::ALL.into_iter().find(|kind| kind.status() == status.as_u16());
        known.unwrap_or(if status.is_client_error() { ProblemKind::Malformed } else { ProblemKind::Internal })
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "urn:bridgehead:problem:{}", self.name())
    }
}

impl Serialize for ProblemKind {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl PartialSchema for ProblemKind {
    fn schema() -> RefOr<Schema> {
        let list = ProblemKind::ALL.map(|kind| format!("* `{kind}` ({}): {}", kind.status(), kind.title()));
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::Custom("uri".to_owned())))
            .description(Some(format!("The kinds of problems. v1 may add kinds.\n\n{}", list.join("\n"))))
            .enum_values(Some(ProblemKind::ALL.map(|kind| kind.to_string())))
            .into()
    }
}

impl ToSchema for ProblemKind {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("ProblemType")
    }
}

tokio::task_local! {
    /// The id of the request that is being answered: whatever is logged of it names it.
    pub(super) static REQUEST: String;
}

/// Says in the log why the request that is being answered failed.
pub(super) fn failed(error: &dyn fmt::Display) {
    let id = REQUEST.try_with(Clone::clone).unwrap_or_default();
    tracing::error!(request.id = id, %error, "a request failed");
}

impl Problem {
    /// A problem of this kind; `detail` says what is wrong with this request.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Problem {
            kind,
            title: kind.title(),
            status: kind.status(),
            detail: detail.into(),
            request_id: String::new(),
            errors: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// With a list of everything that is wrong.
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// The HTTP status.
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// When it is worth to come again, as the header `Retry-After` says it.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let given = self.headers.iter().rfind(|(name, _)| *name == header::RETRY_AFTER);
        let given = given.and_then(|(_, seconds)| seconds.parse().ok());
        given.or(self.kind.retry_after().map(u64::from)).map(Duration::from_secs)
    }

    /// With more words behind its detail.
    pub(super) fn and(mut self, more: &str) -> Self {
        self.detail.push_str(more);
        self
    }

    /// What is wrong with this very request.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// With a header in the answer.
    pub fn with_header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Our fault: the operator's log has the reason, the answer has not.
    pub fn internal(error: &dyn fmt::Display) -> Self {
        failed(error);
        Problem::new(ProblemKind::Internal, "the log of the appliance has the reason under this request id")
    }

    /// A problem that stands for a bare answer of actix.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let mut problem = Problem::new(ProblemKind::of_status(status), "");
        problem.status = status.as_u16();
        problem.detail = status.canonical_reason().unwrap_or("refused").to_owned();
        problem
    }

    /// The answer. The problem travels in its extensions, so that the outermost layer can add the request id.
    pub fn response(self) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = HttpResponse::build(status);
        if let Some(seconds) = self.kind.retry_after() {
            answer.insert_header((header::RETRY_AFTER, seconds));
        }
        for (name, value) in &self.headers {
            answer.insert_header((name.clone(), value.as_str()));
        }
        answer.insert_header((header::CACHE_CONTROL, "no-store"));
        let body = serde_json::to_string(&self).unwrap_or_default();
        let mut response = answer.content_type(PROBLEM_JSON).body(body);
        response.extensions_mut().insert(self);
        response
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        self.clone().response()
    }
}

impl FieldError {
    /// Something wrong in the body.
    pub fn at(pointer: impl Into<String>, code: impl Into<ErrorCode>, detail: impl Into<String>) -> Self {
        FieldError {
            object: None,
            pointer: Some(pointer.into()),
            file: None,
            line: None,
            column: None,
            parameter: None,
            code: code.into(),
            detail: detail.into(),
        }
    }

    /// Something wrong with a query parameter or a header.
    pub fn parameter(name: impl Into<String>, code: impl Into<ErrorCode>, detail: impl Into<String>) -> Self {
        FieldError {
            object: None,
            pointer: None,
            file: None,
            line: None,
            column: None,
            parameter: Some(name.into()),
            code: code.into(),
            detail: detail.into(),
        }
    }
}

impl From<Violation> for FieldError {
    fn from(violation: Violation) -> Self {
        let Violation { object, pointer, code, detail } = violation;
        FieldError { object, ..FieldError::at(pointer, code, detail) }
    }
}

impl From<OwnedObject> for FieldError {
    fn from(owned: OwnedObject) -> Self {
        let (code, detail) = match owned.by_file {
            true => (ViolationCode::OwnedByFile, "a file of the watched directory says what it is".to_owned()),
            false => (ViolationCode::OwnedByOther, format!("it belongs to {}", owned.owner)),
        };
        FieldError { object: Some(owned.object), ..FieldError::at("", code, detail) }
    }
}

impl From<Placed> for FieldError {
    fn from(placed: Placed) -> Self {
        let Placed { violation, place } = placed;
        let (file, line, column) =
            place.map_or((None, None, None), |place| (place.file, Some(place.line), Some(place.column)));
        FieldError { file, line, column, ..FieldError::from(violation) }
    }
}

impl From<Reference> for FieldError {
    fn from(reference: Reference) -> Self {
        let detail = format!("{} refers to it", reference.object);
        FieldError {
            object: Some(reference.object),
            ..FieldError::at(reference.pointer, RequestCode::Referenced, detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kinds_are_distinct() {
        let names: std::collections::BTreeSet<_> = ProblemKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), ProblemKind::ALL.len());
    }
}
