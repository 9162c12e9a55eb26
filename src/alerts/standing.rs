//! What is wrong, and what was told of it.
//!
//! ```text
//!  found ──▶ pending ── so for long enough ──▶ standing ── over for long enough ──▶ over ── told ──▶ forgotten
//!               │ not so any more                 ▲  told when it begins, and again   │
//!               ▼                                 └────────── found again ────────────┘
//!            forgotten
//! ```
//!
//! Pure: time comes with each call. There are at most [`MOST`] at a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::observed::{Found, Judged};
use crate::model::alert_cause::{AlertCause, AlertSeverity};
use crate::model::spec::watching::AlertSettings;
use crate::model::time::Timestamp;

/// Most causes that are kept at a time, with what they are about.
pub(super) const MOST: usize = 200;

/// Something that is wrong: the cause, and what it is about.
pub(super) type Key = (AlertSeverity, AlertCause, String);

/// An alert, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// The cause.
    pub cause: AlertCause,
    /// The object that it is about; empty: the appliance.
    pub subject: String,
    /// What is wrong.
    pub text: String,
    /// Since when.
    pub since: Timestamp,
    /// Since when it is over, though nobody has been told yet.
    pub over: Option<Timestamp>,
    /// When it was last told.
    pub last_sent: Option<Timestamp>,
    /// Why it could not be told the last time, to all or to one.
    pub last_error: Option<String>,
}

/// What is to be told of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// It has begun.
    Begun,
    /// It lasts.
    Lasts,
    /// It is over.
    Over,
}

/// Something that is to be told.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) word: Word,
    pub(super) alert: Alert,
}

#[derive(Debug)]
struct Entry {
    text: String,
    began: (Instant, Timestamp),
    seen: (Instant, Timestamp),
    /// It was so at the last look that could tell.
    is_so: bool,
    /// It was so for long enough.
    stands: bool,
    over: Option<Timestamp>,
    told: Option<(Instant, Timestamp)>,
    error: Option<String>,
}

/// See above.
#[derive(Debug, Default)]
pub(super) struct Register {
    entries: BTreeMap<Key, Entry>,
}

impl Register {
    /// Takes in what was found.
    pub(super) fn update(&mut self, judged: &Judged, terms: &AlertSettings, now: Instant, wall: Timestamp) {
        for found in judged.found.iter().filter(|found| !terms.without.contains(&found.cause)) {
            let key = key(found);
            if !self.entries.contains_key(&key) && self.entries.len() >= MOST {
                continue;
            }
            let entry = self.entries.entry(key).or_insert_with(|| Entry {
                text: String::new(),
                began: (now, wall),
                seen: (now, wall),
                is_so: true,
                stands: false,
                over: None,
                told: None,
                error: None,
            });
            entry.text.clone_from(&found.text);
            (entry.seen, entry.is_so) = ((now, wall), true);
            // what comes back before its end was told is the same alert
            entry.over = None;
            let holds = terms.tell_after.map_or(found.cause.holds(), |after| after.std());
            entry.stands |= now.saturating_duration_since(entry.began.0) >= holds;
        }
        let is_there = |key: &Key| judged.found.iter().any(|found| found.cause == key.1 && found.subject == key.2);
        self.entries.retain(|key, entry| {
            let excluded = terms.without.contains(&key.1);
            // nobody knows: neither begun nor over
            if !excluded && (is_there(key) || judged.unknown.contains(&key.1)) {
                return true;
            }
            entry.is_so = false;
            if entry.stands && now.saturating_duration_since(entry.seen.0) >= terms.end_after.std() {
                entry.over.get_or_insert(entry.seen.1);
            }
            entry.stands && !excluded
        });
    }

    /// What is to be told, the worst first.
    pub(super) fn due(&self, repeat_every: Duration, now: Instant) -> Vec<Due> {
        let standing = self.entries.iter().filter(|(_, entry)| entry.stands);
        let due = standing.filter_map(|(key, entry)| {
            let word = match (entry.over, entry.told) {
                (Some(_), _) => Word::Over,
                // it may be over in a moment
                (None, _) if !entry.is_so => return None,
                (None, None) => Word::Begun,
                (None, Some((told, _))) if now.saturating_duration_since(told) >= repeat_every => Word::Lasts,
                (None, Some(_)) => return None,
            };
            Some(Due { word, alert: shown(key, entry) })
        });
        due.collect()
    }

    /// Remembers what came of telling these; what is over and told is forgotten.
    pub(super) fn note(&mut self, told: &[Due], taken: bool, wrong: Option<&str>, now: Instant, wall: Timestamp) {
        for due in told {
            let key = (due.alert.cause.severity(), due.alert.cause, due.alert.subject.clone());
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.error = wrong.map(str::to_owned);
            if taken {
                entry.told = Some((now, wall));
                if due.word == Word::Over && entry.over.is_some() {
                    self.entries.remove(&key);
                }
            }
        }
    }

    /// Where nobody is told, what is over is only forgotten.
    pub(super) fn forget_what_is_over(&mut self) {
        self.entries.retain(|_, entry| entry.over.is_none());
    }

    /// All that stands, the worst first.
    pub(super) fn list(&self) -> Vec<Alert> {
        self.entries.iter().filter(|(_, entry)| entry.stands).map(|(key, entry)| shown(key, entry)).collect()
    }
}

fn key(found: &Found) -> Key {
    (found.cause.severity(), found.cause, found.subject.clone())
}

fn shown((_, cause, subject): &Key, entry: &Entry) -> Alert {
    Alert {
        cause: *cause,
        subject: subject.clone(),
        text: entry.text.clone(),
        since: entry.began.1,
        over: entry.over,
        last_sent: entry.told.map(|(_, at)| at),
        last_error: entry.error.clone(),
    }
}
