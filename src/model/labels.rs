//! Labels of objects and the selectors that pick objects by them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Labels of an object: at most 64, for people and tools; they change nothing in how mail is treated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = BTreeMap<String, String>, example = json!({"team": "mail", "stage": "production"}))]
pub struct Labels(pub BTreeMap<String, String>);

/// Most labels on an object.
pub const MAX_LABELS: usize = 64;

/// Whether a text may be the key of a label: letters, digits, `-`, `_`, `.`, `/`, beginning and ending with a letter or
/// digit, at most 63 characters.
pub fn is_key(text: &str) -> bool {
    !text.is_empty() && is_value(text)
}

/// Whether a text may be the value of a label: as a key, or empty.
pub fn is_value(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(b))
}

/// A label selector: `a=b,a!=b,a,!a,a in (x,y),a notin (x,y)`; all terms must hold. The empty one picks everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector(Vec<Term>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

/// The text is no label selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a label selector is terms with commas between them: a=b, a!=b, a, !a, a in (x,y), a notin (x,y)")]
pub struct NotASelector;

impl LabelSelector {
    /// Whether an object with these labels is picked. As in Kubernetes, `!=` and `notin` also hold when the label is absent.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|term| match term {
            Term::Exists(key) => labels.0.contains_key(key),
            Term::Absent(key) => !labels.0.contains_key(key),
            Term::In(key, values) => labels.0.get(key).is_some_and(|value| values.contains(value)),
            Term::NotIn(key, values) => labels.0.get(key).is_none_or(|value| !values.contains(value)),
        })
    }

    /// Whether it has all terms of another one, so that it picks nothing that the other would not.
    pub fn narrows(&self, other: &LabelSelector) -> bool {
        other.0.iter().all(|term| self.0.contains(term))
    }

    /// What both pick.
    pub fn and(&self, other: &LabelSelector) -> LabelSelector {
        LabelSelector(self.0.iter().chain(&other.0).cloned().collect())
    }

    /// True when it picks everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for LabelSelector {
    type Err = NotASelector;

    fn from_str(text: &str) -> Result<Self, NotASelector> {
        let mut terms = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            // a comma inside parentheses belongs to the term
            let close = rest.find('(').filter(|open| rest.find(',').is_none_or(|comma| *open < comma));
            let search = match close {
                Some(open) => open + rest[open..].find(')').ok_or(NotASelector)?,
                None => 0,
            };
            let end = rest[search..].find(',').map_or(rest.len(), |at| search + at);
            terms.push(parse_term(rest[..end].trim())?);
            rest = match rest.get(end + 1..) {
                Some(more) if more.trim().is_empty() => return Err(NotASelector),
                Some(more) => more.trim_start(),
                None => "",
            };
        }
        Ok(LabelSelector(terms))
    }
}

fn parse_term(text: &str) -> Result<Term, NotASelector> {
    let key = |text: &str| if is_key(text.trim()) { Ok(text.trim().to_owned()) } else { Err(NotASelector) };
    let value = |text: &str| if is_value(text.trim()) { Ok(text.trim().to_owned()) } else { Err(NotASelector) };
    if let Some(inner) = text.strip_suffix(')') {
        let (head, list) = inner.split_once('(').ok_or(NotASelector)?;
        let values = list.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
        let (name, word) = head.trim().rsplit_once(char::is_whitespace).ok_or(NotASelector)?;
        return match word {
            "in" => Ok(Term::In(key(name)?, values)),
            "notin" => Ok(Term::NotIn(key(name)?, values)),
            _ => Err(NotASelector),
        };
    }
    if let Some((name, wanted)) = text.split_once("!=") {
        return Ok(Term::NotIn(key(name)?, vec![value(wanted)?]));
    }
    if let Some((name, wanted)) = text.split_once('=') {
        return Ok(Term::In(key(name)?, vec![value(wanted.strip_prefix('=').unwrap_or(wanted))?]));
    }
    match text.strip_prefix('!') {
        Some(name) => Ok(Term::Absent(key(name)?)),
        None => Ok(Term::Exists(key(text)?)),
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match term {
                Term::Exists(key) => f.write_str(key)?,
                Term::Absent(key) => write!(f, "!{key}")?,
                Term::In(key, values) => write!(f, "{key} in ({})", values.join(","))?,
                Term::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(","))?,
            }
        }
        Ok(())
    }
}

super::text::text_value!(
    LabelSelector,
    "LabelSelector",
    "bridgehead-label-selector",
    "Which objects, by their labels: `a=b`, `a!=b`, `a`, `!a`, `a in (x,y)`, `a notin (x,y)`, with commas between them.",
    ["team=mail", "stage in (test,production),!legacy"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_select() {
        let labels = Labels([("a".to_owned(), "x".to_owned()), ("b".to_owned(), String::new())].into());
        for (text, picked) in [
            ("", true),
            ("a", true),
            ("!a", false),
            ("a=x", true),
            ("a==x", true),
            ("a=y", false),
            ("a!=y, b", true),
            ("a in (x, y),b", true),
            ("a notin (x,y)", false),
            ("c notin (x)", true),
            ("c!=x", true),
            ("b=", true),
        ] {
            let selector: LabelSelector = text.parse().unwrap();
            assert_eq!(selector.matches(&labels), picked, "{text}");
            assert_eq!(selector.to_string().parse::<LabelSelector>().unwrap(), selector);
        }
        for text in [",", "a,", "a in x", "a in (x", "=x", "a b", "a in ()x", "-a"] {
            assert!(text.parse::<LabelSelector>().is_err(), "{text}");
        }
    }
}
