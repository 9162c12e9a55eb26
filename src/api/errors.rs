//! Which errors an operation has, as OpenAPI responses: one named response per status, with its example, and one
//! group per sort of operation.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::openapi::response::Response;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::codes::RequestCode;
use super::problem::{FieldError, PROBLEM_JSON, Problem, ProblemKind};
use crate::config::ViolationCode;

/// The named error responses: name, kinds, what it means to a caller, details of the example.
const RESPONSES: [(&str, ProblemKind, &str, &str); 14] = [
    (
        "BadRequest",
        ProblemKind::BadParameter,
        "The request cannot be read: a parameter that is unknown, repeated or unreadable (`badParameter`), or a body \
         that is not JSON (`malformed`, with line and column).",
        "wrong parameters: limt",
    ),
    (
        "Unauthorized",
        ProblemKind::Unauthorized,
        "There is no key, or it is not valid.",
        "the key is not valid; send the header Authorization: Bearer <key>",
    ),
    (
        "Forbidden",
        ProblemKind::Forbidden,
        "The key is valid, but may not do this: it lacks the scope that the operation names, or is limited to other objects.",
        "this needs the scope config:write, which \"monitoring\" has not",
    ),
    ("NotFound", ProblemKind::NotFound, "There is nothing of this name.", "there is no connector \"hub\""),
    (
        "RequestTimeout",
        ProblemKind::RequestTimeout,
        "The body took longer than 30 seconds.",
        "the body took more than 30 seconds",
    ),
    (
        "Conflict",
        ProblemKind::Conflict,
        "The state of this object or of others does not allow it: something refers to it, somebody else owns it, or the \
         message is being delivered right now.",
        "the message is being delivered right now",
    ),
    (
        "PreconditionFailed",
        ProblemKind::PreconditionFailed,
        "`If-Match` or `If-None-Match` does not hold. Read the object again, then decide.",
        "the object has generation 8, not 7",
    ),
    (
        "TooLarge",
        ProblemKind::TooLarge,
        "The body is larger than 4 MiB, or than this operation takes.",
        "a body has at most 4194304 bytes",
    ),
    (
        "UnsupportedMediaType",
        ProblemKind::UnsupportedMediaType,
        "The body has a media type that this operation does not read.",
        "this operation reads application/json; not \"text/plain\"",
    ),
    (
        "Invalid",
        ProblemKind::Invalid,
        "The request is understood, but not valid. `errors` lists every violation; nothing was changed.",
        "1 violation; nothing was changed",
    ),
    (
        "TooManyRequests",
        ProblemKind::TooManyRequests,
        "Too many wrong keys came from this address, or, where mail is handed in, a quota is used up. `Retry-After` says when to \
         come again.",
        "too many wrong keys from this address; come again in 42 seconds",
    ),
    (
        "Internal",
        ProblemKind::Internal,
        "Something failed in the appliance. Its log has the reason under the same request id.",
        "the log of the appliance has the reason under this request id",
    ),
    (
        "Unavailable",
        ProblemKind::Unavailable,
        "The appliance cannot do this now: it has more than it can carry, or its store heals itself after a failed write. \
         `Retry-After` says when to come again.",
        "the store is closed",
    ),
    (
        "InsufficientStorage",
        ProblemKind::InsufficientStorage,
        "The data directory has no space left. It passes by itself when there is room; `Retry-After` says when to come again.",
        "free space on the data directory is below the reserve",
    ),
];

/// The named error responses, for the components of the document.
pub(super) fn components() -> BTreeMap<String, RefOr<Response>> {
    let named = |(name, kind, description, detail): &(&str, ProblemKind, &str, &str)| {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(Problem::name())))
            .example(Some(example(*kind, detail)))
            .build();
        let mut response = ResponseBuilder::new().description(*description).content(PROBLEM_JSON, content);
        if kind.retry_after().is_some() {
            response = response.header("Retry-After", text_header("Seconds until the next try."));
        }
        if *kind == ProblemKind::Unauthorized {
            response = response.header("WWW-Authenticate", text_header("How to show a key (RFC 6750)."));
        }
        ((*name).to_owned(), RefOr::T(response.build()))
    };
    RESPONSES.iter().map(named).collect()
}

fn text_header(description: &str) -> utoipa::openapi::header::Header {
    utoipa::openapi::HeaderBuilder::new()
        .schema(Some(utoipa::openapi::ObjectBuilder::new().schema_type(utoipa::openapi::schema::Type::String)))
        .description(Some(description))
        .build()
}

fn example(kind: ProblemKind, detail: &str) -> Value {
    let mut problem = Problem::new(kind, detail);
    problem.request_id = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11".to_owned();
    let problem = match kind {
        ProblemKind::BadParameter => problem.with_errors(vec![FieldError::parameter(
            "limt",
            RequestCode::UnknownParameter,
            "this operation has no parameter \"limt\"; it takes cursor, labelSelector, limit",
        )]),
        ProblemKind::Invalid => problem.with_errors(vec![FieldError::at(
            "/spec/addressSpaces/0/cost",
            ViolationCode::OutOfRange,
            "must be from 1 to 100",
        )]),
        _ => problem,
    };
    serde_json::to_value(problem).unwrap_or(json!(null))
}

/// A group of errors that an operation can have.
macro_rules! group {
    ($(#[$doc:meta])* $name:ident: $($status:literal)+) => {
        $(#[$doc])*
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                [$($status),+].into_iter().filter_map(reference).collect()
            }
        }
    };
}

fn reference(status: u16) -> Option<(String, RefOr<Response>)> {
    let (name, ..) = RESPONSES.iter().find(|(_, kind, ..)| kind.status() == status)?;
    Some((status.to_string(), RefOr::Ref(Ref::from_response_name(*name))))
}

group! {
    /// Errors of pages that need no key and take no parameters.
    OpenErrors: 400 500
}
group! {
    /// Errors of files that need no key.
    FileErrors: 400 404 500
}
group! {
    /// Errors of the probes: a key is not needed, but a wrong one is refused.
    ProbeErrors: 400 401 429 500
}
group! {
    /// Errors of the metrics.
    MetricsErrors: 400 401 403 429 500 503
}
group! {
    /// Errors of a listing.
    ListErrors: 400 401 403 429 500 503
}
group! {
    /// Errors of reading one object.
    ReadErrors: 400 401 403 404 429 500 503
}
group! {
    /// Errors of testing alerts.
    AlertTestErrors: 400 401 403 409 429 500 503
}
group! {
    /// Errors of PUT: it may create, so nothing is missing.
    PutErrors: 400 401 403 408 409 412 413 415 422 429 500 503 507
}
group! {
    /// Errors of PATCH.
    PatchErrors: 400 401 403 404 408 409 412 413 415 422 429 500 503 507
}
group! {
    /// Errors of DELETE of configuration.
    DeleteErrors: 400 401 403 404 409 412 422 429 500 503 507
}
group! {
    /// Errors of an operation on a collection that reads a body.
    ImportErrors: 400 401 403 408 413 415 422 429 500 503 507
}
group! {
    /// Errors of applying a document.
    ApplyErrors: 400 401 403 408 409 412 413 415 422 429 500 503 507
}
group! {
    /// Errors of exporting the configuration.
    ExportErrors: 400 401 403 409 429 500 503
}
group! {
    /// Errors of reading what may be kept no more.
    RevisionErrors: 400 401 403 404 409 429 500 503
}
group! {
    /// Errors of an action on many messages.
    BulkErrors: 400 401 403 408 409 413 415 422 429 500 503 507
}
group! {
    /// Errors of handing in mail.
    SubmitErrors: 400 401 403 408 409 413 415 422 429 500 503 507
}
group! {
    /// Errors of a question that has a body.
    QuestionErrors: 400 401 403 404 408 413 415 422 429 500 503
}
group! {
    /// Errors of an action on a queue or a message.
    ActionErrors: 400 401 403 404 409 429 500 503 507
}

group! {
    /// Errors of copying the appliance.
    CopyErrors: 400 401 403 409 429 500 503 507
}

group! {
    /// Errors of an action on a message or a hold that reads a body.
    SteerErrors: 400 401 403 404 408 409 413 415 422 429 500 503 507
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_a_group_has_a_named_response() {
        assert_eq!(PatchErrors::responses().len(), 14);
        assert_eq!(components().len(), RESPONSES.len());
    }
}
