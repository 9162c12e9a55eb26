//! The codes of single errors: one list, of which the configuration's codes are a part.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::config::ViolationCode;

/// What is wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ErrorCode {
    /// A request cannot be read.
    Request(RequestCode),
    /// A rule of the configuration is violated.
    Violation(ViolationCode),
}

/// What can be wrong with a request before it is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum RequestCode {
    /// The body is not JSON.
    Malformed,
    /// A key is given twice in one object.
    RepeatedField,
    /// The operation has no such parameter.
    UnknownParameter,
    /// The parameter is given more than once.
    RepeatedParameter,
    /// The value of the parameter or header cannot be read.
    InvalidParameter,
    /// The cursor is not one of this listing and filter.
    InvalidCursor,
    /// Something else refers to the object.
    Referenced,
    /// A line end, NUL or another control character where none may be.
    ControlCharacter,
    /// A rule of the appliance refuses this sender, recipient or content; the detail has the reply and the rule's name.
    Refused,
    /// The key has brought another message, or another request with it has not ended.
    IdempotencyConflict,
}

impl From<RequestCode> for ErrorCode {
    fn from(code: RequestCode) -> Self {
        ErrorCode::Request(code)
    }
}

impl From<ViolationCode> for ErrorCode {
    fn from(code: ViolationCode) -> Self {
        ErrorCode::Violation(code)
    }
}

impl PartialSchema for ErrorCode {
    fn schema() -> RefOr<Schema> {
        let words = [RequestCode::schema(), ViolationCode::schema()].into_iter().flat_map(words);
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("What is wrong, for programs. v1 may add words."))
            .enum_values(Some(words))
            .into()
    }
}

impl ToSchema for ErrorCode {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("ErrorCode")
    }
}

fn words(schema: RefOr<Schema>) -> Vec<serde_json::Value> {
    match schema {
        RefOr::T(Schema::Object(object)) => object.enum_values.unwrap_or_default(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_codes_are_in_one_list() {
        let words = words(ErrorCode::schema());
        assert!(words.contains(&"unknownField".into()) && words.contains(&"unknownParameter".into()), "{words:?}");
    }
}
