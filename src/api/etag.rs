//! Entity tags and preconditions (RFC 9110, 13): `"<generation>"`.
//!
//! A tag that a compressing proxy made weak (`W/"7"`) is still taken: it says which generation the caller has seen, and
//! nothing but that is compared.

use actix_web::HttpRequest;
use actix_web::http::header::{self, HeaderName};
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::codes::RequestCode;
use super::problem::{FieldError, Problem, ProblemKind};
use crate::config::{IfMatch, Precondition};

/// `If-None-Match` of a read, as OpenAPI describes it.
pub(super) struct ReadCondition;
/// `If-Match` of a write.
pub(super) struct MatchCondition;
/// `If-None-Match: *` of a write that may create.
pub(super) struct CreateCondition;

impl IntoParams for ReadCondition {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter("If-None-Match", "An entity tag: 304 when the object still has it.", "\"7\"")]
    }
}

impl IntoParams for MatchCondition {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter(
            "If-Match",
            "Only when the object has this entity tag, or `*`: when it exists. Else 412.",
            "\"7\"",
        )]
    }
}

impl IntoParams for CreateCondition {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter("If-None-Match", "`*`: only create. 412 when the object exists.", "*")]
    }
}

fn parameter(name: &str, description: &str, example: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .description(Some(description))
        .example(Some(example.into()))
        .build()
}

/// The entity tag of a generation.
pub(super) fn of(generation: u64) -> String {
    format!("\"{generation}\"")
}

/// Whether a reader has this generation already (`If-None-Match`).
pub(super) fn is_known(request: &HttpRequest, generation: u64) -> Result<bool, Problem> {
    Ok(match tags(request, &header::IF_NONE_MATCH)? {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::These(generations)) => generations.contains(&Some(generation)),
    })
}

/// The preconditions of a write. `current` gives the generation in force; it is asked only when several are acceptable.
pub(super) fn precondition(
    request: &HttpRequest,
    current: impl FnOnce() -> Result<Option<u64>, Problem>,
) -> Result<Precondition, Problem> {
    // A tag that is none of ours matches no generation.
    const NEVER: u64 = u64::MAX;
    let if_match = match tags(request, &header::IF_MATCH)? {
        None => None,
        Some(Tags::Any) => Some(IfMatch::Any),
        Some(Tags::These(generations)) => match generations.as_slice() {
            [one] => Some(IfMatch::Generation(one.unwrap_or(NEVER))),
            several => {
                let current = current()?.filter(|generation| several.contains(&Some(*generation)));
                Some(IfMatch::Generation(current.unwrap_or(NEVER)))
            }
        },
    };
    let if_none_match_star = match tags(request, &header::IF_NONE_MATCH)? {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::These(_)) => return Err(wrong(&header::IF_NONE_MATCH, "with a write it can only be *")),
    };
    Ok(Precondition { if_match, if_none_match_star })
}

enum Tags {
    Any,
    /// `None` is a tag that we never gave.
    These(Vec<Option<u64>>),
}

fn tags(request: &HttpRequest, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let mut tags = Vec::new();
    for value in request.headers().get_all(name) {
        let text = value.to_str().map_err(|_| wrong(name, "it is not text"))?;
        if text.trim() == "*" {
            return Ok(Some(Tags::Any));
        }
        for tag in text.split(',').map(str::trim) {
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            let inner = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let inner = inner.ok_or_else(|| wrong(name, "an entity tag is a quoted generation such as \"7\", or *"))?;
            tags.push(inner.parse().ok());
        }
    }
    Ok((!tags.is_empty()).then_some(Tags::These(tags)))
}

fn wrong(name: &HeaderName, detail: &str) -> Problem {
    let error = FieldError::parameter(name.as_str(), RequestCode::InvalidParameter, detail);
    Problem::new(ProblemKind::BadParameter, format!("wrong header {name}: {detail}")).with_errors(vec![error])
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn with(name: HeaderName, value: &str) -> HttpRequest {
        TestRequest::default().insert_header((name, value)).to_http_request()
    }

    #[test]
    fn readers_say_what_they_have() {
        for (value, known) in
            [("\"7\"", true), ("W/\"7\"", true), ("\"6\", \"7\"", true), ("*", true), ("\"x\"", false)]
        {
            assert_eq!(is_known(&with(header::IF_NONE_MATCH, value), 7).unwrap(), known, "{value}");
        }
        assert!(is_known(&with(header::IF_NONE_MATCH, "7"), 7).is_err());
    }

    #[test]
    fn writers_say_what_they_expect() {
        let of = |value| precondition(&with(header::IF_MATCH, value), || Ok(Some(7))).unwrap().if_match;
        assert!(matches!(of("*"), Some(IfMatch::Any)));
        assert!(matches!(of("\"5\""), Some(IfMatch::Generation(5))));
        assert!(matches!(of("\"5\", \"7\""), Some(IfMatch::Generation(7))));
        assert!(matches!(of("\"5\", \"6\""), Some(IfMatch::Generation(u64::MAX))));
        assert!(precondition(&with(header::IF_NONE_MATCH, "\"7\""), || Ok(None)).is_err());
    }
}
