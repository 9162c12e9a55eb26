//! Reads of single objects and lists, from the store, without waiting for a writer.

use super::configuration::Configuration;
use super::object::Object;
use super::recipients::owner_of;
use super::records::{SCAN, decode, object_key, read_record};
use crate::model::host::mailbox_key;
use crate::model::labels::LabelSelector;
use crate::model::name::Name;
use crate::model::spec::Collection;
use crate::smtp::address::Mailbox;
use crate::store::StoreError;

/// Most objects of a page.
pub const MOST_LISTED: usize = 1_000;
/// Rows that one call looks at when a selector leaves most of them out; then the page is short, with `next`.
const MOST_LOOKED_AT: usize = 50_000;

/// A part of a collection, in order of the names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The objects.
    pub items: Vec<Object>,
    /// Where to go on: behind this name. `None` at the end. A page may be short, even empty, and still have more behind it.
    pub next: Option<Name>,
}

impl Configuration {
    /// One object. A text that is no name has none.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&self, collection: Collection, name: &str) -> Result<Option<Object>, StoreError> {
        let Ok(name) = name.parse::<Name>() else { return Ok(None) };
        Ok(read_record(&*self.store, collection, &name)?.map(|record| self.shown(record, collection, &name)))
    }

    /// Up to `limit` objects (at most 1,000) that the selector picks, behind the name `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(
        &self,
        collection: Collection,
        selector: &LabelSelector,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let limit = limit.clamp(1, MOST_LISTED);
        let prefix = object_key(collection, "");
        let mut page = Page::default();
        let mut last = after.map(|name| object_key(collection, name.as_str()));
        let mut looked_at = 0;
        loop {
            // one row more than is needed tells whether there is more
            let wanted = if selector.is_empty() { limit - page.items.len() + 1 } else { SCAN };
            let rows = self.store.scan(&prefix, last.as_deref(), wanted)?;
            let full = rows.len() == wanted;
            for (key, bytes) in rows {
                let behind = last.as_deref().map(|last| last[prefix.len()..].to_owned());
                if page.items.len() == limit || looked_at == MOST_LOOKED_AT {
                    page.next = behind.and_then(|name| name.parse().ok());
                    return Ok(page);
                }
                looked_at += 1;
                let record = decode(&key, &bytes)?;
                if selector.matches(&record.labels) {
                    let no_name = |_| StoreError::Damaged(format!("{key}: the key holds no name"));
                    let name = key[prefix.len()..].parse().map_err(no_name)?;
                    page.items.push(self.shown(record, collection, &name));
                }
                last = Some(key);
            }
            if !full {
                return Ok(page);
            }
        }
    }

    /// The recipient who has this address.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recipient_with(&self, address: &Mailbox) -> Result<Option<Object>, StoreError> {
        match owner_of(&*self.store, &mailbox_key(address))? {
            Some(entry) => self.get(Collection::Recipients, entry.recipient.as_str()),
            None => Ok(None),
        }
    }
}
