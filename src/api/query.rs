//! Query parameters, strictly: unknown, repeated and unreadable ones are refused, all at once and by name.
//!
//! A misspelt filter that is passed over lists, or deletes, more than was meant; so nothing is passed over.
//! Which parameters an operation has is said once, by its `IntoParams` type, which also writes them into OpenAPI.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::future::{Ready, ready};
use std::str::FromStr;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{RefOr, Required};

use super::codes::{ErrorCode, RequestCode};
use super::problem::{FieldError, Problem, ProblemKind};
use crate::config::ViolationCode;
use crate::queue::operate::AddressFilter;

/// Parameters of an operation.
pub trait FromQuery: IntoParams + Sized {
    /// Takes them out of the query.
    fn from_query(query: &mut Query) -> Self;
}

/// Extracts the parameters of an operation.
pub struct Params<T>(pub T);

impl<T: FromQuery + 'static> FromRequest for Params<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Query::read(request, &names::<T>()).and_then(|mut query| {
            let value = T::from_query(&mut query);
            query.finish().map(|()| Params(value))
        }))
    }
}

/// No parameters.
pub struct NoParams;

impl IntoParams for NoParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        Vec::new()
    }
}

impl FromQuery for NoParams {
    fn from_query(_: &mut Query) -> Self {
        NoParams
    }
}

fn names<T: IntoParams>() -> BTreeSet<String> {
    T::into_params(|| None).into_iter().map(|parameter| parameter.name).collect()
}

/// A parameter, as OpenAPI describes it.
pub(super) fn parameter(name: &str, schema: impl Into<RefOr<Schema>>, description: &str, example: Value) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .schema(Some(schema))
        .description(Some(description))
        .example(Some(example))
        .build()
}

/// A parameter that is a text.
pub(super) fn text(name: &str, description: &str, example: &str) -> Parameter {
    parameter(name, ObjectBuilder::new().schema_type(Type::String), description, json!(example))
}

/// The parameter `sender` of what has one.
pub(super) fn sender() -> Parameter {
    let words = "The sender: an address, `*@domain`, `*@*.domain` for the domains below it, or `<>` for the null path.";
    text("sender", words, "*@example.net")
}

/// The parameter `recipient` of what has some.
pub(super) fn recipient(what: &str) -> Parameter {
    let words = format!("{what}: an address, `*@domain`, or `*@*.domain` for the domains below it.");
    text("recipient", &words, "ada@example.com")
}

/// A parameter that is true or false.
pub(super) fn flag(name: &str, description: &str, default: bool) -> Parameter {
    let schema = ObjectBuilder::new().schema_type(Type::Boolean).default(Some(json!(default)));
    parameter(name, schema, description, json!(true))
}

/// The parameters of one request, and what is wrong with them.
pub struct Query {
    given: BTreeMap<String, String>,
    errors: Vec<FieldError>,
}

impl Query {
    fn read(request: &HttpRequest, known: &BTreeSet<String>) -> Result<Self, Problem> {
        let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string())
            .map_err(|error| Problem::new(ProblemKind::BadParameter, error.to_string()))?;
        let mut query = Query { given: BTreeMap::new(), errors: Vec::new() };
        for (name, value) in pairs.into_inner() {
            if !known.contains(&name) {
                let list = known.iter().cloned().collect::<Vec<_>>().join(", ");
                let list = if list.is_empty() { "it takes none".to_owned() } else { format!("it takes {list}") };
                let detail = format!("this operation has no parameter {name:?}; {list}");
                query.errors.push(FieldError::parameter(name, RequestCode::UnknownParameter, detail));
                continue;
            }
            match query.given.entry(name) {
                Entry::Vacant(entry) => _ = entry.insert(value),
                Entry::Occupied(entry) => {
                    let name = entry.key().clone();
                    let detail = "it is given more than once";
                    query.errors.push(FieldError::parameter(name, RequestCode::RepeatedParameter, detail));
                }
            }
        }
        Ok(query)
    }

    /// The value of a parameter, if it is given.
    pub fn get<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        match self.given.get(name)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(name, RequestCode::InvalidParameter, error.to_string());
                None
            }
        }
    }

    /// The parameter `recipient`, which is not the null path.
    pub fn get_recipient(&mut self) -> Option<AddressFilter> {
        let recipient: Option<AddressFilter> = self.get("recipient");
        if let Some(words) = recipient.as_ref().and_then(AddressFilter::no_recipient) {
            self.refuse("recipient", RequestCode::InvalidParameter, words);
        }
        recipient
    }

    /// Notes that a parameter is wrong.
    pub fn refuse(&mut self, name: &str, code: impl Into<ErrorCode>, detail: impl Into<String>) {
        self.errors.push(FieldError::parameter(name, code, detail));
    }

    /// What the answer depends on besides the page: all parameters but `limit` and `cursor`.
    pub fn filter(&self) -> String {
        let filter = self.given.iter().filter(|(name, _)| !["limit", "cursor"].contains(&name.as_str()));
        filter.map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    fn finish(self) -> Result<(), Problem> {
        match self.errors.as_slice() {
            [] => Ok(()),
            errors => {
                let names: BTreeSet<_> = errors.iter().filter_map(|error| error.parameter.as_deref()).collect();
                let names = names.into_iter().collect::<Vec<_>>().join(", ");
                let problem = Problem::new(ProblemKind::BadParameter, format!("wrong parameters: {names}"));
                Err(problem.with_errors(self.errors))
            }
        }
    }
}

/// How many items a page has, and where it begins.
#[derive(Debug)]
pub struct Paging {
    /// At most so many items.
    pub limit: usize,
    /// Behind this key.
    pub after: Option<String>,
    filter: String,
}

impl IntoParams for Paging {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        Paging::parameters(100)
    }
}

impl FromQuery for Paging {
    /// Takes `limit` and `cursor`.
    fn from_query(query: &mut Query) -> Self {
        Paging::read(query, 100)
    }
}

impl Paging {
    /// `limit`, with this default, and `cursor`.
    pub(super) fn parameters(default: usize) -> Vec<Parameter> {
        let limit = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(1_000))
            .default(Some(json!(default)));
        let cursor = "Where the page begins: the `nextCursor` of the one before. It holds only for the same filter.";
        vec![
            parameter("limit", limit, "At most so many items.", json!(100)),
            text("cursor", cursor, "9f1c04d27ab3e85568756230"),
        ]
    }

    /// Takes them.
    pub(super) fn read(query: &mut Query, default: usize) -> Self {
        let limit = query.get::<usize>("limit").unwrap_or(default);
        if !(1..=1_000).contains(&limit) {
            query.refuse("limit", ViolationCode::OutOfRange, "a page has 1 to 1,000 items");
        }
        let filter = query.filter();
        let after = query.get::<String>("cursor").and_then(|cursor| {
            let key = open(&filter, &cursor);
            if key.is_none() {
                let detail = "it is not a cursor of this listing; a cursor holds for the filter that it came with";
                query.refuse("cursor", RequestCode::InvalidCursor, detail);
            }
            key
        });
        Paging { limit, after, filter }
    }

    /// The cursor of a page that goes on behind this key.
    pub fn cursor(&self, key: &str) -> String {
        seal(&self.filter, key)
    }
}

/// A cursor: a mark of the filter and the key, opaque to the client.
fn seal(filter: &str, key: &str) -> String {
    let mark = mark(filter, key);
    mark.iter().chain(key.as_bytes()).map(|byte| format!("{byte:02x}")).collect()
}

fn open(filter: &str, cursor: &str) -> Option<String> {
    let digits = cursor.as_bytes().chunks(2);
    let bytes = digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
    let bytes = bytes.collect::<Option<Vec<u8>>>()?;
    let (given, key) = bytes.split_at_checked(8)?;
    let key = String::from_utf8(key.to_vec()).ok()?;
    (given == mark(filter, &key)).then_some(key)
}

fn mark(filter: &str, key: &str) -> [u8; 8] {
    let hash = blake3::hash(format!("{filter}\n{key}").as_bytes());
    std::array::from_fn(|index| hash.as_bytes()[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_holds_for_its_filter_only() {
        let cursor = seal("state=frozen\n", "k-ü");
        assert_eq!(open("state=frozen\n", &cursor).as_deref(), Some("k-ü"));
        assert_eq!(open("", &cursor), None);
        for wrong in ["", "0", "zz", "ä", &cursor[2..], &format!("{cursor}00")] {
            assert_eq!(open("state=frozen\n", wrong), None, "{wrong}");
        }
    }
}
