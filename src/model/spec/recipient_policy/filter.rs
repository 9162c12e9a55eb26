//! Which recipients a policy is for: conditions on their attributes, and on the groups they are in.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, Type};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::model::name::Name;
use crate::model::spec::recipient::is_attribute_key;
use crate::model::text::text_value;

/// Which recipients a policy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// All of these hold; none given: everybody.
    All(Vec<Filter>),
    /// One of these holds.
    Any(Vec<Filter>),
    /// This does not hold.
    Not(Box<Filter>),
    /// What an attribute is.
    Attribute(Condition),
    /// In which groups it is. On the wire the attribute `group`.
    Group(Membership),
}

/// In which groups a recipient is, directly or by a group in a group. Members that a group names by an address do not count:
/// addresses are what policies make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Membership {
    /// In one of these.
    In(Vec<Name>),
    /// In none of these.
    NotIn(Vec<Name>),
    /// In any.
    Exists,
}

impl Filter {
    /// How deep filters may nest.
    pub const MAX_DEPTH: usize = 10;
    /// How many conditions a filter may have.
    pub const MAX_CONDITIONS: usize = 1_000;

    /// How deep it nests, and how many conditions it has.
    pub fn size(&self) -> (usize, usize) {
        let several = |filters: &[Filter]| {
            let sizes = filters.iter().map(Filter::size);
            sizes.fold((0, 0), |(depth, count), (inner, more)| (depth.max(inner), count + more))
        };
        let (depth, conditions) = match self {
            Filter::All(filters) | Filter::Any(filters) => several(filters),
            Filter::Not(filter) => filter.size(),
            Filter::Attribute(_) | Filter::Group(_) => (0, 1),
        };
        (depth + 1, conditions)
    }

    /// Whether it asks for groups.
    pub fn asks_for_groups(&self) -> bool {
        match self {
            Filter::All(filters) | Filter::Any(filters) => filters.iter().any(Filter::asks_for_groups),
            Filter::Not(filter) => filter.asks_for_groups(),
            Filter::Attribute(_) => false,
            Filter::Group(_) => true,
        }
    }

    /// The groups it names, each with its pointer from the filter.
    pub fn groups(&self) -> Vec<(String, &Name)> {
        match self {
            Filter::All(filters) => below("/all", filters),
            Filter::Any(filters) => below("/any", filters),
            Filter::Not(filter) => {
                filter.groups().into_iter().map(|(pointer, group)| (format!("/not{pointer}"), group)).collect()
            }
            Filter::Attribute(_) | Filter::Group(Membership::Exists) => Vec::new(),
            Filter::Group(Membership::In(groups) | Membership::NotIn(groups)) => {
                groups.iter().enumerate().map(|(index, group)| (format!("/values/{index}"), group)).collect()
            }
        }
    }
}

/// The groups that these filters name, under a pointer.
fn below<'a>(at: &str, filters: &'a [Filter]) -> Vec<(String, &'a Name)> {
    let named = filters.iter().enumerate().flat_map(|(index, filter)| {
        filter.groups().into_iter().map(move |(pointer, group)| (format!("/{index}{pointer}"), group))
    });
    named.map(|(pointer, group)| (format!("{at}{pointer}"), group)).collect()
}

/// A condition on an attribute of a recipient. Texts compare without regard to case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Which attribute.
    pub attribute: Attribute,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub values: Vec<String>,
}

/// Attributes of recipients that a filter can ask for. As text: the word, or `attributes.` and a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// The object's name.
    Name,
    /// The type, such as `mailbox`.
    Type,
    /// The alias (the name when none is given).
    Alias,
    /// The given name.
    GivenName,
    /// The initials.
    Initials,
    /// The surname.
    Surname,
    /// The display name.
    DisplayName,
    /// The mailbox store.
    MailboxStore,
    /// A free attribute, by its key.
    Free(String),
}

/// What a free attribute begins with.
const FREE: &str = "attributes.";

/// The fixed attributes and their words.
const WORDS: [(Attribute, &str); 8] = [
    (Attribute::Name, "name"),
    (Attribute::Type, "type"),
    (Attribute::Alias, "alias"),
    (Attribute::GivenName, "givenName"),
    (Attribute::Initials, "initials"),
    (Attribute::Surname, "surname"),
    (Attribute::DisplayName, "displayName"),
    (Attribute::MailboxStore, "mailboxStore"),
];

/// What a condition asks for, as its `attribute` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The word `group`.
    Group,
    /// An attribute.
    Attribute(Attribute),
}

/// The word for membership.
const GROUP: &str = "group";

impl FromStr for Asked {
    type Err = NotAnAttribute;

    fn from_str(text: &str) -> Result<Self, NotAnAttribute> {
        if text == GROUP { Ok(Asked::Group) } else { text.parse().map(Asked::Attribute) }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asked::Group => f.write_str(GROUP),
            Asked::Attribute(attribute) => attribute.fmt(f),
        }
    }
}

/// The text names no attribute.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an attribute is one of name, type, alias, givenName, initials, surname, displayName, mailboxStore, group, or attributes. \
     with the key of a free attribute behind it (attributes.department)"
)]
pub struct NotAnAttribute;

impl FromStr for Attribute {
    type Err = NotAnAttribute;

    fn from_str(text: &str) -> Result<Self, NotAnAttribute> {
        if let Some(key) = text.strip_prefix(FREE) {
            return if is_attribute_key(key) { Ok(Attribute::Free(key.to_owned())) } else { Err(NotAnAttribute) };
        }
        WORDS.into_iter().find(|(_, word)| *word == text).map(|(attribute, _)| attribute).ok_or(NotAnAttribute)
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WORDS.iter().find(|(attribute, _)| attribute == self) {
            Some((_, word)) => f.write_str(word),
            None => match self {
                Attribute::Free(key) => write!(f, "{FREE}{key}"),
                _ => Ok(()),
            },
        }
    }
}

text_value!(
    Asked,
    "RecipientAttribute",
    "bridgehead-recipient-attribute",
    "An attribute of a recipient: `name`, `type`, `alias` (the name when none is given), `givenName`, `initials`, `surname`, `displayName`, `mailboxStore`, `attributes.` with the key of a free attribute, or `group`: the groups that have it as a member, directly or by a group in a group. `group` takes the operators `in`, `notIn` and `exists`, and its values are names of groups that are there; members that a group names by an address do not count.",
    ["surname", "attributes.department", "group"]
);

/// How a filter compares an attribute with its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FilterOperator)]
pub enum Operator {
    /// It is one of the values.
    In,
    /// It is none of the values, or absent.
    NotIn,
    /// It is not absent; takes no values.
    Exists,
    /// It begins with one of the values.
    Prefix,
    /// It matches one of the values, where `*` stands for any text and `?` for one character.
    Glob,
}

/// The shape on the wire: one object with `all`, `any`, `not`, or the three fields of a condition.
#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FilterForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<Vec<Filter>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    any: Option<Vec<Filter>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not: Option<Box<Filter>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attribute: Option<Asked>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<Operator>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<String>>,
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut form = FilterForm::default();
        match self.clone() {
            Filter::All(filters) => form.all = Some(filters),
            Filter::Any(filters) => form.any = Some(filters),
            Filter::Not(filter) => form.not = Some(filter),
            Filter::Group(membership) => {
                let (operator, groups) = match membership {
                    Membership::In(groups) => (Operator::In, groups),
                    Membership::NotIn(groups) => (Operator::NotIn, groups),
                    Membership::Exists => (Operator::Exists, Vec::new()),
                };
                form.attribute = Some(Asked::Group);
                form.operator = Some(operator);
                let values = groups.iter().map(Name::to_string).collect();
                form.values = Some(values).filter(|values: &Vec<String>| !values.is_empty());
            }
            Filter::Attribute(condition) => {
                form.attribute = Some(Asked::Attribute(condition.attribute));
                form.operator = Some(condition.operator);
                form.values = Some(condition.values).filter(|values| !values.is_empty());
            }
        }
        form.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let error = |words: &str| serde::de::Error::custom(words);
        let (attribute, operator, values) = match FilterForm::deserialize(d)? {
            FilterForm { all: Some(filters), any: None, not: None, attribute: None, operator: None, values: None } => {
                return Ok(Filter::All(filters));
            }
            FilterForm { all: None, any: Some(filters), not: None, attribute: None, operator: None, values: None } => {
                return Ok(Filter::Any(filters));
            }
            FilterForm { all: None, any: None, not: Some(filter), attribute: None, operator: None, values: None } => {
                return Ok(Filter::Not(filter));
            }
            FilterForm { all: None, any: None, not: None, attribute: Some(a), operator: Some(o), values } => {
                (a, o, values.unwrap_or_default())
            }
            _ => {
                return Err(error(
                    "a filter has exactly one of all, any, not, or else attribute and operator with values",
                ));
            }
        };
        if (operator == Operator::Exists) != values.is_empty() {
            return Err(error("the operator exists takes no values, every other needs at least one"));
        }
        let attribute = match attribute {
            Asked::Attribute(attribute) => attribute,
            Asked::Group => {
                let names = values.into_iter().map(|value| value.parse().map_err(|_| value));
                let names = names.collect::<Result<Vec<Name>, String>>();
                let names = names.map_err(|value| error(&format!("{value:?} cannot be the name of a group")))?;
                return match operator {
                    Operator::In => Ok(Filter::Group(Membership::In(names))),
                    Operator::NotIn => Ok(Filter::Group(Membership::NotIn(names))),
                    Operator::Exists => Ok(Filter::Group(Membership::Exists)),
                    Operator::Prefix | Operator::Glob => Err(error("group takes the operators in, notIn and exists")),
                };
            }
        };
        Ok(Filter::Attribute(Condition { attribute, operator, values }))
    }
}

impl PartialSchema for Filter {
    fn schema() -> RefOr<Schema> {
        let own = || Ref::from_schema_name(Self::name());
        let several =
            |description: &str| ArrayBuilder::new().items(own()).max_items(Some(100)).description(Some(description));
        let value = ObjectBuilder::new().schema_type(Type::String).max_length(Some(256));
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some(
                "Which recipients a policy is for: exactly one of `all`, `any`, `not`, or else `attribute` and \
                 `operator` with `values`. Texts compare without regard to case. Filters nest 10 deep at most and have \
                 at most 1,000 conditions.",
            ))
            .property("all", several("All of these hold; none given: everybody."))
            .property("any", several("One of these holds; none given: nobody."))
            .property("not", own())
            .property("attribute", Ref::from_schema_name(Asked::name()))
            .property("operator", Ref::from_schema_name(Operator::name()))
            .property(
                "values",
                ArrayBuilder::new()
                    .items(value)
                    .max_items(Some(1_000))
                    .description(Some("With what the attribute is compared.")),
            )
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
            .examples([
                serde_json::json!({"attribute": "surname", "operator": "prefix", "values": ["A", "B"]}),
                serde_json::json!({"all": [
                    {"attribute": "type", "operator": "in", "values": ["mailbox"]},
                    {"not": {"attribute": "attributes.department", "operator": "in", "values": ["Sales"]}}
                ]}),
                serde_json::json!({"attribute": "group", "operator": "in", "values": ["staff"]}),
            ])
            .into()
    }
}

impl ToSchema for Filter {
    fn name() -> Cow<'static, str> {
        "RecipientFilter".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Asked::name().into_owned(), Asked::schema()));
        schemas.push((Operator::name().into_owned(), Operator::schema()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_names_its_attribute() {
        for (attribute, word) in WORDS {
            assert_eq!((attribute.to_string().as_str(), word.parse()), (word, Ok(attribute)));
        }
    }

    #[test]
    fn filters_have_a_size() {
        let size = |text: &str| serde_json::from_str::<Filter>(text).unwrap().size();
        assert_eq!(size(r#"{"all":[]}"#), (1, 0));
        let leaf = r#"{"attribute":"alias","operator":"exists"}"#;
        assert_eq!(size(&format!(r#"{{"any":[{leaf},{{"not":{leaf}}}]}}"#)), (3, 2));
    }

    #[test]
    fn groups_are_named_with_their_places() {
        let text = r#"{"any":[{"not":{"attribute":"group","operator":"in","values":["a","b"]}},
            {"all":[{"attribute":"surname","operator":"exists"},{"attribute":"group","operator":"notIn","values":["c"]}]}]}"#;
        let filter: Filter = serde_json::from_str(text).unwrap();
        let named: Vec<String> = filter.groups().iter().map(|(pointer, name)| format!("{name} at {pointer}")).collect();
        assert_eq!(named, ["a at /any/0/not/values/0", "b at /any/0/not/values/1", "c at /any/1/all/1/values/0"]);
        assert!(filter.asks_for_groups());
        let exists: Filter = serde_json::from_str(r#"{"not":{"attribute":"group","operator":"exists"}}"#).unwrap();
        assert!(exists.asks_for_groups() && exists.groups().is_empty());
    }

    #[test]
    fn filters_come_back() {
        for text in [
            r#"{"all":[{"attribute":"surname","operator":"in","values":["x"]},{"not":{"any":[]}}]}"#,
            r#"{"attribute":"alias","operator":"exists"}"#,
            r#"{"attribute":"attributes.cost.center","operator":"prefix","values":["7"]}"#,
            r#"{"attribute":"group","operator":"notIn","values":["staff","all-hands"]}"#,
            r#"{"attribute":"group","operator":"exists"}"#,
        ] {
            let filter: Filter = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&filter).unwrap(), text);
        }
        for text in [
            "{}",
            r#"{"all":[],"any":[]}"#,
            r#"{"attribute":"alias"}"#,
            r#"{"attribute":"alias","operator":"in"}"#,
            r#"{"attribute":"alias","operator":"exists","values":["x"]}"#,
            r#"{"attribute":"shoeSize","operator":"exists"}"#,
            r#"{"attribute":"attributes.","operator":"exists"}"#,
            r#"{"attribute":"attributes.a b","operator":"exists"}"#,
            r#"{"none":[]}"#,
            r#"{"attribute":"group","operator":"prefix","values":["st"]}"#,
            r#"{"attribute":"group","operator":"in","values":["No Name"]}"#,
        ] {
            assert!(serde_json::from_str::<Filter>(text).is_err(), "{text}");
        }
    }
}
