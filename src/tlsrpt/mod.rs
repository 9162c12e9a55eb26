//! TLSRPT (RFC 8460): what came of TLS with the hosts of each domain is counted, shown to our operators, and reported to those
//! domains that ask for it.
//!
//! ```text
//!  outbound ── a session, or none ──▶ TlsReports (counts, by day) ──▶ kept (a file a day)
//!                                        │            │
//!                                        ▼            ▼ the day is over
//!                              api: /tls-reports    sending ── record (DNS: where to) ── report ──▶ POST, or the queue
//! ```
//!
//! Counted are sessions with hosts that DNS names: what a smart host does is between an operator and its owner. A session counts
//! with the policy that it was held to, TLSA records or that of MTA-STS, and with what failed. Sessions that carry a report are
//! not counted (RFC 8460, 3).
//!
//! **What it guarantees.** Counting takes a lock for a moment and never waits for a disk; memory is bounded whatever domains do
//! ([`counts`]). **On failure.** A crash loses what was counted in the last half minute, and may let a report go out twice, with the
//! same id. A disk that is full loses counts, no mail. A report that nobody takes within 24 hours is given up and
//! told in the listing.

pub mod counts;
pub mod kept;
mod record;
mod report;
mod sending;
pub mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::time::Timestamp;
use crate::net::clock::Clock;
use counts::{Day, DayNumber, MOST_DAYS, OfDomain, Seen};
use kept::Keep;
use state::Report;

pub use sending::Sending;

/// What was counted, by day.
pub struct TlsReports {
    clock: Arc<dyn Clock>,
    keep: Arc<dyn Keep>,
    days: Mutex<BTreeMap<DayNumber, Kept>>,
    /// Somebody has asked for a report.
    asked: Notify,
}

#[derive(Default)]
struct Kept {
    day: Arc<Day>,
    /// It has changed since it was written.
    changed: bool,
}

/// A domain on a day, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The day.
    pub day: DayNumber,
    /// The domain.
    pub domain: String,
    /// What was counted, and how far its report is.
    pub counted: OfDomain,
}

impl TlsReports {
    /// With what was kept.
    pub fn new(clock: Arc<dyn Clock>, keep: Arc<dyn Keep>) -> Self {
        let kept = |(number, day)| (number, Kept { day: Arc::new(day), changed: false });
        let days = Mutex::new(keep.all().into_iter().map(kept).collect());
        TlsReports { clock, keep, days, asked: Notify::new() }
    }

    /// Counts one.
    pub fn count(&self, seen: Seen) {
        let today = DayNumber::of(self.now());
        let mut days = self.days();
        let kept = days.entry(today).or_default();
        // copied only while somebody reads it
        Arc::make_mut(&mut kept.day).count(seen);
        kept.changed = true;
    }

    /// Domains and days behind `after`, the latest day first, at most `limit`; of one domain or of one day, if so asked.
    pub fn list(
        &self,
        after: Option<(DayNumber, &str)>,
        domain: Option<&str>,
        day: Option<DayNumber>,
        limit: usize,
    ) -> Vec<Listed> {
        let days: Vec<(DayNumber, Arc<Day>)> =
            self.days().iter().rev().map(|(number, kept)| (*number, kept.day.clone())).collect();
        let mut listed = Vec::new();
        for (number, counted) in days {
            if day.is_some_and(|day| day != number) || after.is_some_and(|(after, _)| number > after) {
                continue;
            }
            for (name, of) in &counted.domains {
                let behind = after.is_none_or(|(day, after)| number < day || name.as_str() > after);
                if listed.len() < limit && behind && domain.is_none_or(|domain| domain == name) {
                    listed.push(Listed { day: number, domain: name.clone(), counted: of.clone() });
                }
            }
        }
        listed
    }

    /// Has the reports about a domain sent now, of all days that are over, also those that were sent. How many; none when nothing was
    /// counted that could be reported.
    pub fn ask_for(&self, domain: &str) -> usize {
        let now = self.now();
        let today = DayNumber::of(now);
        let mut asked = 0;
        for (number, kept) in self.days().iter_mut().filter(|(number, _)| **number < today) {
            let Some(of) = Arc::make_mut(&mut kept.day).domains.get_mut(domain) else { continue };
            if of.is_reportable() {
                of.report.get_or_insert_with(|| Report::new(*number)).ask_for(now);
                kept.changed = true;
                asked += 1;
            }
        }
        self.asked.notify_one();
        asked
    }

    /// Waits until somebody asks for a report.
    async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Days that are over get their reports; days that are too old are forgotten. What is then due, at most `limit`.
    fn due(&self, enabled: bool, limit: usize) -> Vec<(DayNumber, String, OfDomain)> {
        let now = self.now();
        let today = DayNumber::of(now);
        let mut days = self.days();
        // a clock that was set back leaves days that lie ahead; they come in time
        let old: Vec<DayNumber> =
            days.keys().copied().filter(|day| day.days_before(today) >= MOST_DAYS as i64).collect();
        for day in old {
            days.remove(&day);
            self.keep.forget(day);
        }
        while days.len() > MOST_DAYS * 2
            && let Some((day, _)) = days.pop_last()
        {
            self.keep.forget(day);
        }
        let mut due = Vec::new();
        for (number, kept) in days.iter_mut().filter(|(number, _)| **number < today) {
            let wants = |of: &OfDomain| match &of.report {
                None => of.is_reportable(),
                Some(report) => report.is_over(now) || report.is_due(now) && (enabled || report.asked_for),
            };
            // a day is looked through in place, and copied only to be changed
            if !kept.day.domains.values().any(wants) {
                continue;
            }
            for (domain, of) in Arc::make_mut(&mut kept.day).domains.iter_mut().filter(|(_, of)| wants(of)) {
                kept.changed |= of.report.is_none();
                let report = of.report.get_or_insert_with(|| Report::new(*number));
                if report.is_over(now) {
                    let why = report.problem.take().or_else(|| Some("it was not sent within 24 hours".to_owned()));
                    report.end(state::ReportState::Failed, why);
                    kept.changed = true;
                } else if report.is_due(now) && (enabled || report.asked_for) && due.len() < limit {
                    due.push((*number, domain.clone(), of.clone()));
                }
            }
        }
        due
    }

    /// Notes how far a report is now, unless somebody has asked for it meanwhile.
    fn note(&self, day: DayNumber, domain: &str, before: &Report, after: Report) {
        let mut days = self.days();
        let Some(kept) = days.get_mut(&day) else { return };
        let report = Arc::make_mut(&mut kept.day).domains.get_mut(domain).and_then(|of| of.report.as_mut());
        if let Some(report) = report.filter(|report| *report == before) {
            *report = after;
            kept.changed = true;
        }
    }

    /// Writes what has changed. Blocks for the disk.
    pub fn write(&self) {
        let changed: Vec<(DayNumber, Arc<Day>)> = {
            let mut days = self.days();
            let changed = days.iter_mut().filter(|(_, kept)| kept.changed);
            changed
                .map(|(number, kept)| {
                    (*number, {
                        kept.changed = false;
                        kept.day.clone()
                    })
                })
                .collect()
        };
        for (number, day) in changed {
            if let Err(error) = self.keep.keep(number, &day) {
                tracing::warn!(day = %number, %error, "what was counted of TLS cannot be written");
                if let Some(kept) = self.days().get_mut(&number) {
                    kept.changed = true;
                }
            }
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }

    fn days(&self) -> MutexGuard<'_, BTreeMap<DayNumber, Kept>> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
