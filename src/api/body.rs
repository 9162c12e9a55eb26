//! Reading a JSON body, strictly: bounded in size, time and depth, no repeated keys, errors with line and column.
//!
//! A repeated key is an error and not "the last one wins": two parties that read the same document differently is
//! how checks are passed by. serde_json's own recursion limit (128) is the bound of depth.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, web};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::codes::RequestCode;
use super::problem::{FieldError, Problem, ProblemKind};
use crate::config::object::escape;
use crate::config::{ViolationCode, strict};

/// The largest body.
pub const MAX_BODY: usize = 4 * 1024 * 1024;
/// How long a body may take.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The body as JSON, if it has one of the media types.
pub async fn json(request: &HttpRequest, payload: web::Payload, types: &[&str]) -> Result<Value, Problem> {
    require_type(request, types)?;
    parse(&read(request, payload).await?)
}

/// The same where a body may be left out.
pub(super) async fn json_if_any(
    request: &HttpRequest,
    payload: web::Payload,
    types: &[&str],
) -> Result<Option<Value>, Problem> {
    let text = read(request, payload).await?;
    if text.is_empty() {
        return Ok(None);
    }
    require_type(request, types)?;
    parse(&text).map(Some)
}

/// 415 unless the media type is one of these and the content is not encoded.
pub(super) fn require_type(request: &HttpRequest, types: &[&str]) -> Result<(), Problem> {
    let wrong = |detail: String| {
        let problem = Problem::new(ProblemKind::UnsupportedMediaType, detail);
        match types.contains(&"application/merge-patch+json") {
            true => problem.with_header(header::HeaderName::from_static("accept-patch"), types.join(", ")),
            false => problem.with_header(header::ACCEPT, types.join(", ")),
        }
    };
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if !types.contains(&essence.as_str()) {
        let given = if given.is_empty() { "there is no Content-Type".to_owned() } else { format!("not {given:?}") };
        return Err(wrong(format!("this operation reads {}; {given}", types.join(" or "))));
    }
    match request.headers().get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => Err(wrong("encoded bodies are not read; send it plain".into())),
        _ => Ok(()),
    }
}

async fn read(request: &HttpRequest, payload: web::Payload) -> Result<Vec<u8>, Problem> {
    read_up_to(request, payload, MAX_BODY).await
}

/// The body, of at most so many octets.
pub(super) async fn read_up_to(
    request: &HttpRequest,
    mut payload: web::Payload,
    most: usize,
) -> Result<Vec<u8>, Problem> {
    let too_large = || Problem::new(ProblemKind::TooLarge, format!("a body has at most {most} bytes"));
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|text| text.parse::<u64>().ok()).is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let all = async {
        let mut body = Vec::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|error| Problem::new(ProblemKind::Malformed, error.to_string()))?;
            if body.len() + chunk.len() > most {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    };
    match tokio::time::timeout(BODY_TIMEOUT, all).await {
        Ok(body) => body,
        Err(_) => Err(Problem::new(ProblemKind::RequestTimeout, "the body took more than 30 seconds")),
    }
}

/// The body as a type; a value that does not fit is told with its pointer.
pub fn typed<T: DeserializeOwned>(body: &Value) -> Result<T, Problem> {
    fitting(body).map_err(|wrong| Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(wrong))
}

/// The same of a part of a body, with only what is wrong.
///
/// null is refused wherever it stands: in a selector, a variable that happens to be null would mean more than was meant.
pub(super) fn fitting<T: DeserializeOwned>(body: &Value) -> Result<T, Vec<FieldError>> {
    if let Some(pointer) = first_null(body) {
        let detail = "null is no value here; leave the field out";
        return Err(vec![FieldError::at(pointer, ViolationCode::WrongType, detail)]);
    }
    serde_path_to_error::deserialize(body)
        .map_err(|error| vec![unfit(pointer(error.path()), error.inner().to_string())])
}

/// What serde says of a value that does not fit: a field that is missing is named by its own pointer.
pub(super) fn unfit(pointer: String, words: String) -> FieldError {
    let missing = words.strip_prefix("missing field `").and_then(|rest| rest.split_once('`'));
    match missing.map(|(name, _)| escape(name)) {
        Some(name) => FieldError::at(format!("{pointer}/{name}"), ViolationCode::Required, "it is needed"),
        None if words.starts_with("unknown field") => FieldError::at(pointer, ViolationCode::UnknownField, words),
        None => FieldError::at(pointer, ViolationCode::InvalidValue, words),
    }
}

/// The pointer to the first null.
fn first_null(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Object(fields) => {
            fields.iter().find_map(|(name, value)| Some(format!("/{}{}", escape(name), first_null(value)?)))
        }
        Value::Array(values) => {
            values.iter().enumerate().find_map(|(index, value)| Some(format!("/{index}{}", first_null(value)?)))
        }
        _ => None,
    }
}

/// A path in a body as a pointer.
pub(super) fn pointer(path: &serde_path_to_error::Path) -> String {
    let pointer = path.iter().map(|segment| format!("/{segment}")).collect::<String>();
    pointer.replace(['[', ']'], "").replace("/.", "")
}

/// Strict JSON.
fn parse(text: &[u8]) -> Result<Value, Problem> {
    strict::json(text).map_err(|error| {
        let code = if error.to_string().starts_with(strict::REPEATED) {
            RequestCode::RepeatedField
        } else {
            RequestCode::Malformed
        };
        let place = format!("line {}, column {}", error.line(), error.column());
        let error = FieldError::at("", code, error.to_string());
        Problem::new(ProblemKind::Malformed, format!("the body is not valid JSON at {place}")).with_errors(vec![error])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        serde_json::to_string(&parse(text.as_bytes()).expect_err("refused")).unwrap()
    }

    #[test]
    fn json_is_read_as_it_stands() {
        let text = r#"{"a":[1,-2,3.5,true,null,"x\n"],"b":{"c":{}}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn a_null_is_refused_where_it_stands() {
        let read = |body: Value| fitting::<std::collections::BTreeMap<String, Value>>(&body);
        assert!(read(serde_json::json!({"a": {"b": [1, ""]}})).is_ok());
        for (body, pointer) in [
            (serde_json::json!(null), ""),
            (serde_json::json!({"a": null}), "/a"),
            (serde_json::json!({"a": {"b/c": [1, null]}}), "/a/b~1c/1"),
        ] {
            let wrong = read(body).expect_err("refused");
            assert_eq!((wrong[0].pointer.as_deref(), wrong[0].code), (Some(pointer), ViolationCode::WrongType.into()));
        }
    }

    #[test]
    fn what_is_missing_or_unknown_is_named_where_it_would_stand() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Inner {
            #[serde(rename = "a/b")]
            _a: u8,
        }
        for (body, pointer, code) in [
            (serde_json::json!({}), "/x", ViolationCode::Required),
            (serde_json::json!({"x": {}}), "/x/a~1b", ViolationCode::Required),
            (serde_json::json!({"x": {"a/b": 1, "c": 1}}), "/x/c", ViolationCode::UnknownField),
            (serde_json::json!({"x": {"a/b": "1"}}), "/x/a/b", ViolationCode::InvalidValue),
        ] {
            #[derive(Debug, serde::Deserialize)]
            struct Outer {
                #[serde(rename = "x")]
                _x: Inner,
            }
            let wrong = fitting::<Outer>(&body).expect_err("refused");
            assert_eq!((wrong[0].pointer.as_deref(), wrong[0].code), (Some(pointer), code.into()), "{body}");
        }
    }

    #[test]
    fn bombs_and_repetitions_are_refused_with_their_place() {
        assert!(refused("{\n \"a\": 1,\n \"a\": 2}").contains("repeatedField"));
        assert!(refused("{\n \"a\": }").contains("line 2, column"));
        assert!(refused(&"[".repeat(100_000)).contains("recursion limit"));
        assert!(refused(&"9".repeat(1_000_000)).contains("out of range"));
        assert!(refused("{} {}").contains("trailing"));
        assert!(refused("").contains("EOF"));
        assert!(refused("\u{feff}{}").contains("malformed"));
    }
}
