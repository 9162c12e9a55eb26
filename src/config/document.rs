//! A whole configuration as one document: collection → name → spec, in YAML or JSON, in one text or several files.
//!
//! `labels` stands among the fields of the spec; `settings` is the spec itself. Everything that is wrong is told at once,
//! with its pointer into the document and its line. What reads a text is bounded: its size by the caller ([`MAX_TEXT`]),
//! depth, aliases and nodes by a budget; a repeated key is an error. YAML is YAML 1.2: `yes` and `on` are texts.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::configuration::checked_name;
use super::places;
use super::plan::{MOST_TOLD, Want, Wish};
use super::strict::{self, StrictValue};
use super::violation::{Violation, ViolationCode, object_id};
use super::{ChangeError, object, schema};
use crate::model::name::Name;
use crate::model::spec::{Collection, SETTINGS};

/// The longest text, and the most octets of all texts of a set of files.
pub const MAX_TEXT: usize = 32 << 20;
/// How deep a document is nested at most.
const MAX_DEPTH: usize = 64;
/// Most nodes of a text: 100,000 recipients have about three million.
const MAX_NODES: usize = 16_000_000;
/// Most nodes that aliases add.
const MAX_REPLAYED: usize = 200_000;

/// In what a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2.
    Yaml,
    /// JSON.
    Json,
}

/// A text that is a document, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The file it was read from.
    pub file: Option<String>,
    /// In what it is written.
    pub format: Format,
    /// The text.
    pub text: String,
}

/// A place in a text. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, when there are several.
    pub file: Option<String>,
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

/// Something that is wrong, and where: the pointer begins at the root of the document, unless an object is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    /// Where it is, when that is in the document.
    pub place: Option<Place>,
    /// What.
    pub violation: Violation,
}

impl std::fmt::Display for Placed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(Place { file, line, column }) = &self.place {
            let file = file.as_ref().map(|file| format!("{file}:")).unwrap_or_default();
            write!(f, "{file}{line}:{column}: ")?;
        }
        self.violation.fmt(f)
    }
}

/// Why a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// A text is not YAML or JSON.
    #[error("{}{detail}", place.as_ref().map(|at| format!("{}{}:{}: ", at.file.as_ref().map(|file| format!("{file}:")).unwrap_or_default(), at.line, at.column)).unwrap_or_default())]
    Unreadable {
        /// Where.
        place: Option<Place>,
        /// Why.
        detail: String,
        /// It is a key that is there twice.
        repeated: bool,
    },
    /// Its content is not valid.
    #[error("{} violations, the first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Invalid(Vec<Placed>),
}

/// A document that was read; its objects have the right shape.
#[derive(Debug)]
pub struct Document {
    texts: Vec<Text>,
    pub(super) wishes: Vec<Wish>,
    /// In which text an object stands; only when there are several.
    home: BTreeMap<(Collection, Name), usize>,
}

impl Document {
    /// Reads texts as one document. Takes a CPU for a while when it is large.
    ///
    /// # Errors
    /// The first text that cannot be read; else everything that is wrong with the shape of the objects.
    pub fn read(texts: Vec<Text>) -> Result<Self, DocumentError> {
        let mut document = Document { texts: Vec::new(), wishes: Vec::new(), home: BTreeMap::new() };
        let mut found = Vec::new();
        let several = texts.len() > 1;
        for (index, text) in texts.into_iter().enumerate() {
            let root = parse(&text)?;
            let mut wrong = Vec::new();
            document.take(root, index, several, &text, &mut wrong);
            found.extend(place(&text, wrong));
            document.texts.push(text);
        }
        found.truncate(MOST_TOLD);
        if found.is_empty() { Ok(document) } else { Err(DocumentError::Invalid(found)) }
    }

    /// How many objects it has.
    pub fn len(&self) -> usize {
        self.wishes.len()
    }

    /// True when it has none.
    pub fn is_empty(&self) -> bool {
        self.wishes.is_empty()
    }

    /// The collections that it has objects of.
    pub fn collections(&self) -> std::collections::BTreeSet<Collection> {
        self.wishes.iter().map(|wish| wish.collection).collect()
    }

    /// Violations of objects with their places, as they stand in the document; those of other objects keep their name.
    pub fn placed(&self, violations: Vec<Violation>) -> Vec<Placed> {
        let known: BTreeMap<String, (Collection, &Name)> = self
            .wishes
            .iter()
            .map(|wish| (object_id(wish.collection, &wish.name), (wish.collection, &wish.name)))
            .collect();
        let (mut here, mut elsewhere) = (BTreeMap::<usize, Vec<Violation>>::new(), Vec::new());
        for violation in violations {
            let Some((collection, name)) = violation.object.as_ref().and_then(|object| known.get(object)) else {
                elsewhere.push(Placed { place: None, violation });
                continue;
            };
            let text = self.home.get(&(*collection, (*name).clone())).copied().unwrap_or_default();
            let pointer = pointer(*collection, name.as_str(), &violation.pointer);
            here.entry(text).or_default().push(Violation { object: None, pointer, ..violation });
        }
        let mut all = elsewhere;
        for (text, violations) in here {
            match self.texts.get(text) {
                Some(text) => all.extend(place(text, violations)),
                None => all.extend(violations.into_iter().map(|violation| Placed { place: None, violation })),
            }
        }
        all.sort();
        all.dedup();
        all
    }

    fn take(&mut self, root: Value, index: usize, several: bool, text: &Text, found: &mut Vec<Violation>) {
        let Value::Object(root) = root else {
            let detail = match root {
                Value::Null => "the document is empty",
                _ => "a document is a mapping of collections",
            };
            found.push(Violation::new("", ViolationCode::WrongType, detail));
            return;
        };
        for (key, value) in root {
            let at = format!("/{}", object::escape(&key));
            if key == "apiVersion" {
                if value != "v1" {
                    found.push(Violation::new(at, ViolationCode::InvalidValue, "the version is v1"));
                }
                continue;
            }
            let Some(collection) = Collection::ALL.into_iter().find(|known| known.document() == key) else {
                let known = Collection::ALL.map(Collection::document).join(", ");
                let detail = format!("there is no collection {key:?}; there are {known}");
                found.push(Violation::new(at, ViolationCode::UnknownField, detail));
                continue;
            };
            if collection == Collection::Settings {
                self.object(collection, SETTINGS, value, (index, several, text), found);
                continue;
            }
            match value {
                Value::Null => {}
                Value::Object(objects) => {
                    for (name, body) in objects {
                        self.object(collection, &name, body, (index, several, text), found);
                        if found.len() >= MOST_TOLD {
                            return;
                        }
                    }
                }
                _ => found.push(Violation::new(at, ViolationCode::WrongType, "a mapping of names is needed")),
            }
        }
    }

    fn object(
        &mut self,
        collection: Collection,
        name: &str,
        body: Value,
        (index, several, text): (usize, bool, &Text),
        found: &mut Vec<Violation>,
    ) {
        let at = pointer(collection, name, "");
        let mut spec = match body {
            Value::Null => Map::new(),
            Value::Object(fields) => fields,
            _ => {
                let detail = format!("the fields of a {} are needed", collection.noun());
                return found.push(Violation::new(at, ViolationCode::WrongType, detail));
            }
        };
        let mut wrong = Vec::new();
        let checked = match checked_name(collection, name) {
            Ok(checked) => Some(checked),
            Err(ChangeError::Invalid(more)) => {
                wrong.extend(more.into_iter().map(|one| Violation { pointer: String::new(), ..one }));
                None
            }
            Err(error) => {
                wrong.push(Violation::new("", ViolationCode::InvalidName, error.to_string()));
                None
            }
        };
        let mut whole = Map::new();
        if let Some(labels) = spec.remove("labels") {
            whole.insert("labels".to_owned(), labels);
        }
        whole.insert("spec".to_owned(), Value::Object(spec));
        let parsed = schema::check(collection, &Value::Object(whole));
        match (checked, parsed) {
            (Some(name), Ok((labels, spec))) => {
                if several && let Some(other) = self.home.insert((collection, name.clone()), index) {
                    let first = self.texts.get(other).and_then(|text| text.file.clone()).unwrap_or_default();
                    let second = text.file.clone().unwrap_or_default();
                    let detail = format!("{} stands in {first} and in {second}", object_id(collection, &name));
                    wrong.push(Violation::new("", ViolationCode::Duplicate, detail));
                } else {
                    self.wishes.push(Wish { collection, name, want: Want::Be { labels, spec } });
                }
            }
            (_, Err(more)) => wrong.extend(more),
            (None, Ok(_)) => {}
        }
        let own = |one: Violation| Violation { pointer: pointer(collection, name, &one.pointer), ..one };
        found.extend(wrong.into_iter().map(own));
    }
}

/// A pointer from the root of the document, for one from the root of an object.
fn pointer(collection: Collection, name: &str, within: &str) -> String {
    let root = match collection {
        Collection::Settings => format!("/{}", collection.document()),
        _ => format!("/{}/{}", collection.document(), object::escape(name)),
    };
    let within = within.strip_prefix("/spec").unwrap_or(within);
    if within == "/name" { root } else { format!("{root}{within}") }
}

fn place(text: &Text, violations: Vec<Violation>) -> Vec<Placed> {
    if violations.is_empty() {
        return Vec::new();
    }
    let pointers: Vec<&str> = violations.iter().map(|violation| violation.pointer.as_str()).collect();
    let found = places::locate(&text.text, yaml_options(), &pointers);
    let placed = violations.into_iter().zip(found).map(|(violation, found)| {
        let place = found.map(|(line, column)| Place { file: text.file.clone(), line, column });
        Placed {
            place: place.or_else(|| text.file.clone().map(|file| Place { file: Some(file), line: 1, column: 1 })),
            violation,
        }
    });
    placed.collect()
}

fn parse(text: &Text) -> Result<Value, DocumentError> {
    let unreadable = |line: u64, column: u64, detail: String, repeated: bool| {
        let place = (line > 0).then(|| Place { file: text.file.clone(), line, column });
        let place = place.or_else(|| text.file.clone().map(|file| Place { file: Some(file), line: 1, column: 1 }));
        DocumentError::Unreadable { place, detail, repeated }
    };
    if text.text.len() > MAX_TEXT {
        return Err(unreadable(0, 0, format!("a document has at most {MAX_TEXT} bytes"), false));
    }
    match text.format {
        Format::Json => strict::json(text.text.as_bytes()).map_err(|error| {
            let detail = error.to_string();
            let repeated = detail.starts_with(strict::REPEATED);
            unreadable(error.line() as u64, error.column() as u64, detail, repeated)
        }),
        Format::Yaml => {
            let read = serde_saphyr::from_str_with_options::<StrictValue>(&text.text, yaml_options());
            read.map(|value| value.0).map_err(|error| {
                let repeated = is_repeated(error.without_snippet());
                let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
                unreadable(line, column, words(&error), repeated)
            })
        }
    }
}

fn is_repeated(error: &serde_saphyr::Error) -> bool {
    matches!(error, serde_saphyr::Error::DuplicateMappingKey { .. })
}

/// The error without the text around it and without its place, which stands beside it.
fn words(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default();
    text.split(" at line ").next().unwrap_or(text).chars().take(300).collect()
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(MAX_TEXT),
            max_events: 2 * MAX_NODES,
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
            max_documents: 1,
            max_aliases: 10_000,
            max_anchors: 10_000,
            max_total_scalar_bytes: 2 * MAX_TEXT,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
            max_replay_stack_depth: 16,
        },
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    }
}
