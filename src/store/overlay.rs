//! Sorted entries with newer writes over them: what a change that is under way reads.

use std::collections::VecDeque;

use super::StoreError;

/// A write of a sorted sequence: a key with its value, or with none when it is removed.
pub type Write = (String, Option<Vec<u8>>);
/// An entry of a sorted sequence.
pub type Entry = (String, Vec<u8>);

/// Two sorted sequences of writes as one; of a key that is in both, that of `newer` counts.
pub fn newest(
    newer: impl Iterator<Item = Result<Write, StoreError>>,
    older: impl Iterator<Item = Result<Write, StoreError>>,
) -> impl Iterator<Item = Result<Write, StoreError>> {
    let (mut newer, mut older) = (newer.peekable(), older.peekable());
    std::iter::from_fn(move || match (newer.peek(), older.peek()) {
        (Some(Ok((new, _))), Some(Ok((old, _)))) if old < new => older.next(),
        (Some(Ok((new, _))), Some(Ok((old, _)))) => {
            if old == new {
                drop(older.next());
            }
            newer.next()
        }
        // an error comes as soon as it is known
        (Some(Err(_)), _) | (_, None) => newer.next(),
        (None, Some(_)) | (_, Some(Err(_))) => older.next(),
    })
}

/// Up to `limit` entries behind `after`, as they are under these writes, which begin behind it too. `below` gives up to so
/// many entries behind a key.
pub fn scan(
    writes: impl Iterator<Item = Result<Write, StoreError>>,
    after: Option<&str>,
    limit: usize,
    below: impl Fn(Option<&str>, usize) -> Result<Vec<Entry>, StoreError>,
) -> Result<Vec<Entry>, StoreError> {
    let mut writes = writes;
    let mut next = writes.next().transpose()?;
    let mut rows = VecDeque::from(below(after, limit)?);
    let mut full = rows.len() == limit;
    let mut found = Vec::new();
    while found.len() < limit {
        let written = next.take_if(|(key, _)| rows.front().is_none_or(|(row, _)| *key <= *row));
        let Some((key, value)) = written else {
            let Some(row) = rows.pop_front() else { break };
            if rows.is_empty() && full {
                rows = below(Some(&row.0), limit)?.into();
                full = rows.len() == limit;
            }
            found.push(row);
            continue;
        };
        if let Some(row) = rows.pop_front_if(|(row, _)| *row == key)
            && rows.is_empty()
            && full
        {
            rows = below(Some(&row.0), limit)?.into();
            full = rows.len() == limit;
        }
        found.extend(value.map(|value| (key, value)));
        next = writes.next().transpose()?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Map = BTreeMap<u8, Option<u8>>;

    fn writes(map: &Map, after: Option<&str>) -> impl Iterator<Item = Result<Write, StoreError>> {
        let all = map.iter().map(|(key, value)| (format!("{key:03}"), value.map(|value| vec![value])));
        let behind = all.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        behind.map(Ok).collect::<Vec<_>>().into_iter()
    }

    proptest! {
        #[test]
        fn a_scan_sees_the_newest_of_each_key(
            small in any::<Map>(), large in any::<Map>(), stored in any::<Map>(), after in any::<Option<u8>>(), limit in 1_usize..40
        ) {
            let mut whole: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
            for layer in [&stored, &large, &small] {
                whole.extend(writes(layer, None).map(Result::unwrap));
            }
            let after = after.map(|after| format!("{after:03}"));
            let after = after.as_deref();
            let wanted: Vec<Entry> = whole
                .into_iter()
                .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after))
                .filter_map(|(key, value)| Some((key, value?)))
                .take(limit)
                .collect();
            let below = |after: Option<&str>, limit: usize| {
                let rows = writes(&stored, after).filter_map(|row| row.map(|(key, value)| Some((key, value?))).transpose());
                rows.take(limit).collect::<Result<Vec<_>, _>>()
            };
            let found = scan(newest(writes(&small, after), writes(&large, after)), after, limit, below).unwrap();
            prop_assert_eq!(found, wanted);
        }
    }
}
