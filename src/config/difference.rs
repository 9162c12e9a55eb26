//! What is different between two states of an object. Values of secrets are in neither: a record has their fingerprints.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::object::{Record, escape};

/// Differences that are told of one object.
const MOST: usize = 100;

/// One value that is different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"pointer": "/spec/enabled", "before": true, "after": false}))]
pub struct Difference {
    /// JSON pointer to it, from the root of the object (`/spec/…`, `/labels/…`, `/owner`).
    pub pointer: String,
    /// What it was; absent when it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub before: Option<Value>,
    /// What it is then; absent when it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub after: Option<Value>,
}

/// The differences; the first 100, and whether there are more.
pub(super) fn between(before: Option<&Record>, after: Option<&Record>) -> (Vec<Difference>, bool) {
    let mut found = Vec::new();
    let (before, after) = (before.map(view), after.map(view));
    for part in ["owner", "labels", "spec"] {
        let side = |view: &Option<Value>| view.as_ref().and_then(|view| view.get(part)).cloned();
        let (was, is) = (side(&before), side(&after));
        let nothing = |value: &Option<Value>| value.as_ref().is_none_or(|value| *value == json!({}));
        // the labels of what comes or goes are only told when it has any, and the owner not at all
        if (before.is_none() || after.is_none()) && (part == "owner" || nothing(&was) && nothing(&is)) {
            continue;
        }
        compare(format!("/{part}"), was, is, &mut found);
    }
    let more = found.len() > MOST;
    found.truncate(MOST);
    (found, more)
}

fn view(record: &Record) -> Value {
    json!({"owner": record.owner, "labels": record.labels, "spec": record.spec})
}

fn compare(pointer: String, before: Option<Value>, after: Option<Value>, found: &mut Vec<Difference>) {
    if before == after || found.len() > MOST {
        return;
    }
    match (before, after) {
        (Some(Value::Object(mut before)), Some(Value::Object(after))) => {
            for (key, is) in after {
                let was = before.remove(&key);
                compare(format!("{pointer}/{}", escape(&key)), was, Some(is), found);
            }
            for (key, was) in before {
                compare(format!("{pointer}/{}", escape(&key)), Some(was), None, found);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) if before.len() == after.len() => {
            for (index, (was, is)) in before.into_iter().zip(after).enumerate() {
                compare(format!("{pointer}/{index}"), Some(was), Some(is), found);
            }
        }
        (before, after) => found.push(Difference { pointer, before, after }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kept;
    use super::*;
    use crate::model::labels::Labels;

    fn record(spec: Value) -> Record {
        Record::new(Labels::default(), "api", 1, spec, Kept::default())
    }

    #[test]
    fn each_value_is_told_with_its_pointer() {
        let before = record(json!({"a": 1, "l": [1, {"x": 1}], "m": [1], "gone": true, "same": {"a/b": 1}}));
        let after = record(json!({"a": 2, "l": [1, {"x": 2}], "m": [1, 2], "same": {"a/b": 1}, "new": null}));
        let (found, more) = between(Some(&before), Some(&after));
        let found: Vec<_> = found.into_iter().map(|one| (one.pointer, one.before, one.after)).collect();
        let expected = [
            ("/spec/a", Some(json!(1)), Some(json!(2))),
            ("/spec/l/1/x", Some(json!(1)), Some(json!(2))),
            ("/spec/m", Some(json!([1])), Some(json!([1, 2]))),
            ("/spec/new", None, Some(json!(null))),
            ("/spec/gone", Some(json!(true)), None),
        ];
        assert_eq!(found, expected.map(|(pointer, before, after)| (pointer.to_owned(), before, after)));
        assert!(!more);
        let (made, _) = between(None, Some(&before));
        assert_eq!(made.len(), 1, "{made:?}");
        assert_eq!(made[0].pointer, "/spec");
        let wide = |n: i32| record(Value::Object((0..500).map(|key| (format!("k{key}"), json!(n))).collect()));
        let (found, more) = between(Some(&wide(1)), Some(&wide(2)));
        assert!(more && found.len() == MOST);
    }
}
