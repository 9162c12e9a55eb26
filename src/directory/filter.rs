//! Whether the filter of a policy holds for a recipient.

use std::collections::BTreeSet;

use crate::model::name::Name;
use crate::model::spec::RecipientSpec;
use crate::model::spec::recipient_policy::{Attribute, Condition, Filter, Membership, Operator};

/// A recipient, as policies see it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its name.
    pub name: &'a Name,
    /// Its spec.
    pub spec: &'a RecipientSpec,
    /// The groups that it is in, directly or by a group in a group; none need be given when no filter asks for them.
    pub groups: &'a BTreeSet<Name>,
}

/// Whether the filter holds for the recipient.
pub fn matches(filter: &Filter, subject: Subject<'_>) -> bool {
    let is_in = |groups: &[Name]| groups.iter().any(|group| subject.groups.contains(group));
    match filter {
        Filter::All(filters) => filters.iter().all(|filter| matches(filter, subject)),
        Filter::Any(filters) => filters.iter().any(|filter| matches(filter, subject)),
        Filter::Not(filter) => !matches(filter, subject),
        Filter::Attribute(condition) => holds(condition, attribute(&condition.attribute, subject.name, subject.spec)),
        Filter::Group(Membership::In(groups)) => is_in(groups),
        Filter::Group(Membership::NotIn(groups)) => !is_in(groups),
        Filter::Group(Membership::Exists) => !subject.groups.is_empty(),
    }
}

fn attribute<'a>(attribute: &Attribute, name: &'a Name, recipient: &'a RecipientSpec) -> Option<&'a str> {
    match attribute {
        Attribute::Name => Some(name.as_str()),
        Attribute::Type => Some(recipient.kind.as_str()),
        Attribute::Alias => Some(recipient.alias.as_deref().unwrap_or(name.as_str())),
        Attribute::GivenName => recipient.given_name.as_deref(),
        Attribute::Initials => recipient.initials.as_deref(),
        Attribute::Surname => recipient.surname.as_deref(),
        Attribute::DisplayName => recipient.display_name.as_deref(),
        Attribute::MailboxStore => recipient.mailbox_store.as_ref().map(Name::as_str),
        Attribute::Free(key) => recipient.attributes.get(key).map(String::as_str),
    }
}

fn holds(condition: &Condition, value: Option<&str>) -> bool {
    let Some(value) = value else {
        return condition.operator == Operator::NotIn;
    };
    let mut wanted = condition.values.iter();
    match condition.operator {
        Operator::Exists => true,
        Operator::In => wanted.any(|wanted| folded(wanted).eq(folded(value))),
        Operator::NotIn => wanted.all(|wanted| !folded(wanted).eq(folded(value))),
        Operator::Prefix => wanted.any(|wanted| {
            let mut value = folded(value);
            folded(wanted).all(|c| value.next() == Some(c))
        }),
        Operator::Glob => wanted.any(|wanted| glob(wanted, value)),
    }
}

/// Without regard to case, and without a copy: a filter is held against every recipient.
fn folded(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

/// `*` any text, `?` one character. Linear in the product of the lengths, whatever the pattern.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (folded(pattern).collect(), folded(text).collect());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                // the last star takes one character more
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold() {
        let recipient = RecipientSpec {
            surname: Some("Lovelace".into()),
            attributes: [("department".to_owned(), "Straße 7".to_owned())].into(),
            ..RecipientSpec::default()
        };
        let name: Name = "ada".parse().unwrap();
        let groups = ["staff", "all"].map(|name| name.parse().unwrap()).into();
        let subject = Subject { name: &name, spec: &recipient, groups: &groups };
        for (text, holds) in [
            (r#"{"attribute":"surname","operator":"in","values":["x","LOVELACE"]}"#, true),
            (r#"{"attribute":"surname","operator":"notIn","values":["lovelace"]}"#, false),
            (r#"{"attribute":"givenName","operator":"notIn","values":["ada"]}"#, true),
            (r#"{"attribute":"givenName","operator":"exists"}"#, false),
            (r#"{"attribute":"alias","operator":"prefix","values":["ad"]}"#, true),
            (r#"{"attribute":"surname","operator":"glob","values":["l?ve*ce"]}"#, true),
            (r#"{"attribute":"surname","operator":"glob","values":["*x*"]}"#, false),
            (r#"{"attribute":"type","operator":"in","values":["mailbox"]}"#, true),
            (r#"{"attribute":"attributes.department","operator":"in","values":["STRAßE 7"]}"#, true),
            (r#"{"attribute":"attributes.department","operator":"prefix","values":["straße"]}"#, true),
            (r#"{"attribute":"attributes.department","operator":"prefix","values":["straße 77"]}"#, false),
            (r#"{"attribute":"attributes.department","operator":"exists"}"#, true),
            (r#"{"attribute":"attributes.Department","operator":"exists"}"#, false),
            (r#"{"attribute":"attributes.room","operator":"notIn","values":["7"]}"#, true),
            (r#"{"attribute":"group","operator":"in","values":["board","staff"]}"#, true),
            (r#"{"attribute":"group","operator":"in","values":["board"]}"#, false),
            (r#"{"attribute":"group","operator":"notIn","values":["board","staff"]}"#, false),
            (r#"{"attribute":"group","operator":"notIn","values":["board"]}"#, true),
            (r#"{"attribute":"group","operator":"exists"}"#, true),
            (r#"{"all":[]}"#, true),
            (r#"{"any":[]}"#, false),
            (r#"{"not":{"any":[]}}"#, true),
        ] {
            let filter: Filter = serde_json::from_str(text).unwrap();
            assert_eq!(matches(&filter, subject), holds, "{text}");
        }
    }
}
