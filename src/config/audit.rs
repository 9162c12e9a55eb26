//! The audit log: who changed what, and who did what else.
//!
//! A change of the configuration is written down in its own commit (`audit/<revision>`), so there is no change without
//! its entry. Everything else that a person does (freeze, delete, pause, …) makes no revision: it is written under
//! `action/<number>`, and synced, **before** it is done ([`Configuration::begin_action`]); when it could not be done, its entry
//! says so afterwards ([`Configuration::action_failed`]). A crash in between leaves an entry of what may or may not have been
//! done, never a deed without an entry.
//!
//! Both are rings: at most [`MOST_KEPT`] entries each, none older than `settings.retention.audit`
//! ([`Configuration::prune_audit`]). A reader sees them as one list, the latest first ([`Configuration::audit_page`]).

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::answer::{Actor, ChangeError};
use super::configuration::Configuration;
use super::records::{audit_key, encode};
use crate::model::time::Timestamp;
use crate::store::{ConfigStore, StoreError};

/// Actions that are kept; as many changes are.
pub const MOST_KEPT: u64 = 10_000;
/// Entries that one call looks at; then the page is short and has more behind it.
const MOST_LOOKED_AT: usize = 5_000;
/// Octets of what is written down about an action; beyond it the particulars are left out.
const LONGEST_DETAIL: usize = 8 << 10;
/// Octets of why an action failed.
const LONGEST_WHY: usize = 512;
/// Entries that are removed in one step because they are old.
const MOST_PRUNED: usize = 1_000;

const CHANGES: &str = "audit/";
const ACTIONS: &str = "action/";

/// The numbers of the actions that are kept: from the first one up to the next one. Read from the store when first needed.
#[derive(Debug, Default)]
pub(super) struct Actions(Mutex<Option<(u64, u64)>>);

/// An action that was written down.
#[derive(Debug)]
pub struct ActionId {
    number: u64,
    entry: Value,
}

/// Which entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Not before this time.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// Of this key.
    pub actor: Option<String>,
    /// About this object (`connectors/hub`); with a slash at the end about all of a collection.
    pub object: Option<String>,
    /// Of this kind: `created`, `updated`, `deleted`, or the word of an action.
    pub action: Option<String>,
}

/// Where a listing goes on: the newest change and the newest action that it has not looked at yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditPosition {
    /// A revision.
    pub change: u64,
    /// A number of an action.
    pub action: u64,
}

/// A part of the log, the latest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuditPage {
    /// Each with its id (`change-7`, `action-12`), as it is stored.
    pub entries: Vec<(String, Value)>,
    /// Where to go on; `None` at the end.
    pub next: Option<AuditPosition>,
}

impl Configuration {
    /// Writes down that an operator does something to an object (`virtual-servers/default`). Durable when it returns; to
    /// be called before it is done.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn record_action(&self, object: &str, action: &str, actor: &Actor) -> Result<(), ChangeError> {
        self.begin_action(object, action, Value::Null, actor).await.map(|_| ())
    }

    /// The same, with particulars; says which entry it is, for [`Configuration::action_failed`].
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn begin_action(
        &self,
        object: &str,
        action: &str,
        detail: Value,
        actor: &Actor,
    ) -> Result<ActionId, ChangeError> {
        let mut entry = json!({"v": 1, "at": self.now(), "actor": actor, "object": object, "action": action});
        match detail {
            Value::Null => {}
            detail if detail.to_string().len() > LONGEST_DETAIL => entry["detail"] = json!("too long to be kept"),
            detail => entry["detail"] = detail,
        }
        let (number, gone) = self.next_action()?;
        let write = (action_key(number), Some(encode(&entry)));
        let gone = gone.map(|number| (action_key(number), None));
        self.store.annotate(std::iter::once(write).chain(gone).collect()).await?;
        Ok(ActionId { number, entry })
    }

    /// Writes down that an action could not be done. That it was begun stands there already, so a failure is only logged.
    pub async fn action_failed(&self, id: ActionId, why: &str) {
        let ActionId { number, mut entry } = id;
        entry["outcome"] = json!(format!("failed: {}", shortened(why)));
        if let Err(error) = self.store.annotate(vec![(action_key(number), Some(encode(&entry)))]).await {
            tracing::error!(%error, action = number, "that an action failed could not be written into the audit log");
        }
    }

    /// The newest entries.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn audit_end(&self) -> Result<AuditPosition, StoreError> {
        let (_, next) = self.actions()?;
        Ok(AuditPosition { change: self.store.revision(), action: next.saturating_sub(1) })
    }

    /// Up to `limit` entries that the filter picks, the latest first, from a position on. A page may be short, even empty,
    /// and still have more behind it. Blocks for the disk.
    ///
    /// # Errors
    /// When the store cannot be read, or an entry is damaged.
    pub fn audit_page(&self, filter: &AuditFilter, from: AuditPosition, limit: usize) -> Result<AuditPage, StoreError> {
        let (first_action, _) = self.actions()?;
        let first_change = first_number(&*self.store, CHANGES)?.unwrap_or(u64::MAX);
        let AuditPosition { mut change, mut action } = from;
        let (mut next_change, mut next_action) = (None, None);
        let mut page = AuditPage::default();
        for _ in 0..MOST_LOOKED_AT {
            if page.entries.len() == limit {
                break;
            }
            if next_change.is_none() {
                next_change = self.newest(change, first_change.max(1), audit_key)?;
            }
            if next_action.is_none() {
                next_action = self.newest(action, first_action.max(1), action_key)?;
            }
            let of_change = match (&next_change, &next_action) {
                (None, None) => return Ok(page),
                (Some((_, one)), Some((_, other))) => at(one) >= at(other),
                (one, _) => one.is_some(),
            };
            let (taken, prefix) = if of_change { (&mut next_change, "change") } else { (&mut next_action, "action") };
            let Some((number, mut entry)) = taken.take() else { return Ok(page) };
            match of_change {
                true => {
                    entry["revision"] = json!(number);
                    change = number - 1;
                }
                false => action = number - 1,
            }
            if filter.picks(&entry) {
                page.entries.push((format!("{prefix}-{number}"), entry));
            }
        }
        page.next = Some(AuditPosition { change, action });
        Ok(page)
    }

    /// Removes what is older than `settings.retention.audit`. For a caller that does this now and then.
    ///
    /// # Errors
    /// When the store cannot do it.
    pub async fn prune_audit(&self) -> Result<u64, ChangeError> {
        let keep: std::time::Duration = self.live().current().settings.retention.audit.into();
        let oldest = self.now() - keep;
        let mut removed = 0;
        for prefix in [CHANGES, ACTIONS] {
            loop {
                let rows = self.store.scan(prefix, None, MOST_PRUNED)?;
                let old = |(_, bytes): &&(String, Vec<u8>)| {
                    serde_json::from_slice::<Value>(bytes).is_ok_and(|entry| at(&entry).is_some_and(|at| at < oldest))
                };
                let gone: Vec<_> = rows.iter().take_while(old).map(|(key, _)| (key.clone(), None)).collect();
                if gone.is_empty() {
                    break;
                }
                let all = gone.len() == rows.len();
                removed += gone.len() as u64;
                self.store.annotate(gone).await?;
                if !all || rows.len() < MOST_PRUNED {
                    break;
                }
            }
        }
        if removed > 0 {
            let first = first_number(&*self.store, ACTIONS)?;
            let mut known = self.actions.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((known_first, next)) = &mut *known {
                *known_first = first.unwrap_or(*next).max(*known_first);
            }
        }
        Ok(removed)
    }

    /// The newest entry not above a number.
    fn newest(&self, mut number: u64, first: u64, key: fn(u64) -> String) -> Result<Option<(u64, Value)>, StoreError> {
        while number >= first && number > 0 {
            let key = key(number);
            if let Some(bytes) = self.store.get(&key)? {
                let entry = serde_json::from_slice(&bytes);
                return Ok(Some((number, entry.map_err(|error| StoreError::Damaged(format!("{key}: {error}")))?)));
            }
            number -= 1;
        }
        Ok(None)
    }

    /// The number of an action that is to be written down, and of the one that it pushes out.
    fn next_action(&self) -> Result<(u64, Option<u64>), StoreError> {
        self.actions()?;
        let mut known = self.actions.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, next) = known.get_or_insert((1, 1));
        let number = *next;
        *next += 1;
        let gone = (*next - *first > MOST_KEPT).then_some(*first);
        *first += u64::from(gone.is_some());
        Ok((number, gone))
    }

    /// The number of the first action that is kept, and that of the next one.
    fn actions(&self) -> Result<(u64, u64), StoreError> {
        let mut known = self.actions.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *known {
            return Ok(known);
        }
        let (mut first, mut next, mut after) = (None, 1, None);
        loop {
            let rows = self.store.scan(ACTIONS, after.as_deref(), MOST_PRUNED)?;
            let Some((last, _)) = rows.last() else { break };
            first = first.or_else(|| number_of(&rows[0].0, ACTIONS));
            next = number_of(last, ACTIONS).unwrap_or(next) + 1;
            after = Some(last.clone());
        }
        let found = (first.unwrap_or(next), next);
        *known = Some(found);
        Ok(found)
    }
}

impl AuditFilter {
    fn picks(&self, entry: &Value) -> bool {
        let at = at(entry);
        let is = |wanted: &Option<String>, given: &Value| {
            wanted.as_ref().is_none_or(|wanted| given.as_str() == Some(wanted.as_str()))
        };
        let action = if entry["change"].is_string() { &entry["change"] } else { &entry["action"] };
        let about = |object: &Value| {
            let (Some(wanted), Some(object)) = (&self.object, object.as_str()) else { return false };
            object == wanted || wanted.ends_with('/') && object.starts_with(wanted.as_str())
        };
        let several = entry["objects"].as_array().into_iter().flatten();
        self.since.is_none_or(|since| at.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| at.is_some_and(|at| at < until))
            && is(&self.actor, &entry["actor"]["key"])
            && is(&self.action, action)
            && (self.object.is_none() || about(&entry["object"]) || several.map(|one| &one["object"]).any(about))
    }
}

fn at(entry: &Value) -> Option<Timestamp> {
    entry["at"].as_str()?.parse().ok()
}

fn action_key(number: u64) -> String {
    format!("{ACTIONS}{number:020}")
}

fn number_of(key: &str, prefix: &str) -> Option<u64> {
    key.strip_prefix(prefix)?.parse().ok()
}

fn first_number(store: &dyn ConfigStore, prefix: &str) -> Result<Option<u64>, StoreError> {
    Ok(store.scan(prefix, None, 1)?.first().and_then(|(key, _)| number_of(key, prefix)))
}

fn shortened(text: &str) -> String {
    text.chars()
        .scan(0, |octets, c| {
            *octets += c.len_utf8();
            (*octets <= LONGEST_WHY).then_some(c)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::config::{FirstStart, OpenOptions, Precondition};
    use crate::model::spec::Collection;
    use crate::store::memory::MemoryStore;

    async fn open(store: &Arc<MemoryStore>, clock: &Arc<AtomicI64>) -> Arc<Configuration> {
        let clock = clock.clone();
        let options = OpenOptions {
            host_name: "relay.example.com".parse().unwrap(),
            secrets_dir: "/nowhere".into(),
            files: false,
            now: Arc::new(move || Timestamp::from_millis(clock.load(Ordering::Relaxed))),
        };
        Configuration::open(store.clone(), options).await.unwrap()
    }

    fn of(entries: &AuditPage) -> Vec<String> {
        entries.entries.iter().map(|(id, _)| id.clone()).collect()
    }

    #[tokio::test]
    async fn changes_and_actions_are_one_list_and_actions_make_no_revision() {
        let (store, clock) = (Arc::new(MemoryStore::default()), Arc::new(AtomicI64::new(1_000)));
        let config = open(&store, &clock).await;
        config.first_start(&FirstStart { smtp_listen: "127.0.0.1:2525".parse().unwrap() }).await.unwrap();
        let actor = |key: &str| Actor { key: key.to_owned(), ..Actor::default() };
        let before = store.revision();
        for (n, key) in ["a", "b", "a"].into_iter().enumerate() {
            clock.fetch_add(1_000, Ordering::Relaxed);
            let object = format!("messages/{n}");
            config.begin_action(&object, "freeze", json!({"n": n}), &actor(key)).await.unwrap();
        }
        assert_eq!(store.revision(), before, "an action is no change of the configuration");
        clock.fetch_add(1_000, Ordering::Relaxed);
        let body = json!({"labels": {"x": "y"}, "spec": {"addressSpaces": [{"pattern": "b.example", "cost": 1}], "route": {"dns": {}}}});
        let any = Precondition::default();
        config.put(Collection::Connectors, "b", &body, &any, &actor("a"), false).await.unwrap();
        let failed = config.begin_action("messages/9", "delete", Value::Null, &actor("b")).await.unwrap();
        config.action_failed(failed, &"no such message ".repeat(100)).await;

        let end = config.audit_end().unwrap();
        let all = config.audit_page(&AuditFilter::default(), end, 100).unwrap();
        assert_eq!(of(&all), ["change-2", "action-4", "action-3", "action-2", "action-1", "change-1"]);
        assert_eq!(all.next, None);
        assert_eq!(all.entries[0].1["after"]["labels"]["x"], "y");
        let outcome = all.entries[1].1["outcome"].as_str().unwrap();
        assert!(outcome.starts_with("failed: no such message") && outcome.len() < 600, "{outcome}");

        let mut paged = Vec::new();
        let mut at = Some(end);
        while let Some(from) = at {
            let page = config.audit_page(&AuditFilter::default(), from, 1).unwrap();
            paged.extend(of(&page));
            at = page.next;
        }
        assert_eq!(paged, of(&all));
        let picked = |filter: AuditFilter| of(&config.audit_page(&filter, end, 100).unwrap());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(picked(AuditFilter { actor: some("b"), ..AuditFilter::default() }), ["action-4", "action-2"]);
        assert_eq!(picked(AuditFilter { action: some("created"), ..AuditFilter::default() }), ["change-2", "change-1"]);
        assert_eq!(picked(AuditFilter { object: some("connectors/b"), ..AuditFilter::default() }), ["change-2"]);
        assert_eq!(
            picked(AuditFilter { object: some("connectors/"), ..AuditFilter::default() }),
            ["change-2", "change-1"]
        );
        assert_eq!(picked(AuditFilter { object: some("messages"), ..AuditFilter::default() }), [""; 0]);
        let since = Some(Timestamp::from_millis(3_000));
        let until = Some(Timestamp::from_millis(5_000));
        assert_eq!(picked(AuditFilter { since, until, ..AuditFilter::default() }), ["action-3", "action-2"]);

        // as after a restart
        let again = open(&store, &clock).await;
        again.begin_action("messages/10", "thaw", Value::Null, &actor("c")).await.unwrap();
        assert_eq!(again.audit_end().unwrap(), AuditPosition { change: 2, action: 5 });
    }

    #[tokio::test]
    async fn the_log_is_bounded_in_number_and_in_time() {
        let (store, clock) = (Arc::new(MemoryStore::default()), Arc::new(AtomicI64::new(0)));
        let config = open(&store, &clock).await;
        config.first_start(&FirstStart { smtp_listen: "127.0.0.1:2525".parse().unwrap() }).await.unwrap();
        let actor = Actor::default();
        for n in 0..MOST_KEPT + 5 {
            clock.store(n as i64, Ordering::Relaxed);
            config.begin_action("x", "freeze", Value::Null, &actor).await.unwrap();
        }
        assert_eq!(store.scan(ACTIONS, None, 20_000).unwrap().len() as u64, MOST_KEPT);
        let end = config.audit_end().unwrap();
        let page = config.audit_page(&AuditFilter { action: Some("thaw".into()), ..AuditFilter::default() }, end, 1);
        let page = page.unwrap();
        assert!(page.entries.is_empty() && page.next.is_some(), "a call looks at a bounded number of entries");
        let year = std::time::Duration::from(config.live().current().settings.retention.audit).as_millis() as i64;
        clock.store(year + 1_000, Ordering::Relaxed);
        assert_eq!(config.prune_audit().await.unwrap(), 1 + 1_000 - 5);
        assert_eq!(config.prune_audit().await.unwrap(), 0);
        clock.store(2 * year, Ordering::Relaxed);
        config.prune_audit().await.unwrap();
        assert_eq!(store.scan("a", None, 10).unwrap().len(), 0, "neither actions nor changes");
        assert_eq!(
            config.audit_page(&AuditFilter::default(), config.audit_end().unwrap(), 9).unwrap(),
            AuditPage::default()
        );
        config.begin_action("x", "freeze", Value::Null, &actor).await.unwrap();
        let page = config.audit_page(&AuditFilter::default(), config.audit_end().unwrap(), 9).unwrap();
        assert_eq!(of(&page), [format!("action-{}", MOST_KEPT + 6)], "numbers are not used twice");
    }
}
