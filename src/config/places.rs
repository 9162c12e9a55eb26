//! Where in a text the values lie that pointers lead to.
//!
//! The text is read a second time, only when something is wrong with it, and only along the pointers: whatever they do not
//! lead through is passed over. A pointer to what is not there (a field that is missing) lies where its parent lies.
//! JSON is read as the YAML that it is.

use std::collections::BTreeMap;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Line and column of each pointer, as far as they can be found.
pub(super) fn locate(text: &str, options: serde_saphyr::Options, pointers: &[&str]) -> Vec<Option<(u64, u64)>> {
    let mut wanted = Wanted::default();
    for (index, pointer) in pointers.iter().enumerate() {
        let mut node = &mut wanted;
        node.all.push(index);
        for part in pointer.split('/').skip(1) {
            node = node.below.entry(part.replace("~1", "/").replace("~0", "~")).or_default();
            node.all.push(index);
        }
    }
    let mut found = vec![None; pointers.len()];
    if let Some(first) = text.lines().position(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
        found.fill(Some((first as u64 + 1, 1)));
    }
    let find = Find { wanted: &wanted, found: &mut found };
    // what cannot be read to its end is told as far as it was found
    let _ = serde_saphyr::with_deserializer_from_str_with_options(text, options, |d| find.deserialize(d));
    found
}

/// The pointers that lead through a value.
#[derive(Default)]
struct Wanted {
    all: Vec<usize>,
    below: BTreeMap<String, Wanted>,
}

struct Find<'a> {
    wanted: &'a Wanted,
    found: &'a mut Vec<Option<(u64, u64)>>,
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.wanted.below.is_empty() {
            return IgnoredAny::deserialize(deserializer).map(|_| ());
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            match self.wanted.below.get(&key.value) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(wanted) => {
                    let at = (key.referenced.line(), key.referenced.column());
                    wanted.all.iter().filter(|_| at.0 > 0).for_each(|index| self.found[*index] = Some(at));
                    map.next_value_seed(Find { wanted, found: &mut *self.found })?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for index in 0_usize.. {
            match self.wanted.below.get(&index.to_string()) {
                None => {
                    if seq.next_element::<IgnoredAny>()?.is_none() {
                        return Ok(());
                    }
                }
                Some(wanted) => match seq.next_element::<Spanned<Tree>>()? {
                    None => return Ok(()),
                    Some(element) => mark(&element, wanted, self.found),
                },
            }
        }
        Ok(())
    }
}

/// An element of a list that something is wrong with, as a whole.
enum Tree {
    Leaf,
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
}

fn mark(tree: &Spanned<Tree>, wanted: &Wanted, found: &mut [Option<(u64, u64)>]) {
    put(wanted, tree.referenced.line(), tree.referenced.column(), found);
    match &tree.value {
        Tree::Leaf => {}
        Tree::List(elements) => {
            for (index, element) in elements.iter().enumerate() {
                if let Some(wanted) = wanted.below.get(&index.to_string()) {
                    mark(element, wanted, found);
                }
            }
        }
        Tree::Map(fields) => {
            for (key, value) in fields {
                if let Some(wanted) = wanted.below.get(&key.value) {
                    mark(value, wanted, found);
                    if wanted.below.is_empty() {
                        put(wanted, key.referenced.line(), key.referenced.column(), found);
                    }
                }
            }
        }
    }
}

fn put(wanted: &Wanted, line: u64, column: u64, found: &mut [Option<(u64, u64)>]) {
    for index in wanted.all.iter().filter(|_| line > 0) {
        found[*index] = Some((line, column));
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;

        impl<'de> Visitor<'de> for Whole {
            type Value = Tree;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    elements.push(element);
                }
                Ok(Tree::List(elements))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Tree::Map(fields))
            }
        }

        deserializer.deserialize_any(Whole)
    }
}
