//! What becomes of a day's report about a domain: when it is sent, where to, and what came of that.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::counts::DayNumber;
use super::record::Destination;
use crate::model::time::Timestamp;

/// Reports go out over so long a time behind the end of their day, at random (RFC 8460, 4.1), so that not all senders write to a
/// domain at once.
const SPREAD: Duration = Duration::from_secs(4 * 3_600);
/// How long it is tried.
pub const TRIED_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Waits between two tries; the last one again and again.
const RETRIES: [Duration; 6] = [
    Duration::from_secs(300),
    Duration::from_secs(900),
    Duration::from_secs(1_800),
    Duration::from_secs(3_600),
    Duration::from_secs(2 * 3_600),
    Duration::from_secs(4 * 3_600),
];
/// Longest reason that is kept, in octets.
const MOST_WORDS: usize = 300;

/// How far a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TlsReportState)]
pub enum ReportState {
    /// It waits for its time, or for the next try.
    Waiting,
    /// At least one destination has it, or has it in the queue.
    Sent,
    /// The domain does not say where reports go.
    NotWanted,
    /// No destination took it.
    Failed,
}

/// The report about a domain on a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The id that it bears, whichever way and how often it goes.
    pub id: uuid::Uuid,
    /// How far it is.
    pub state: ReportState,
    /// When it is tried (again); no more than a memory once it waits no more.
    pub due: Timestamp,
    /// When the first try was due.
    pub first_due: Timestamp,
    /// Tries so far.
    pub tries: u32,
    /// Somebody has asked for it to be sent, whatever the settings say.
    pub asked_for: bool,
    /// Where it goes, once that is known.
    pub destinations: Vec<Addressed>,
    /// Why it is not further.
    pub problem: Option<String>,
}

/// A destination of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Addressed {
    /// The URI.
    pub uri: String,
    /// What came of it.
    pub state: ReportState,
    /// Since when that is so; `None` before the first try.
    pub at: Option<Timestamp>,
    /// What the last try failed in.
    pub problem: Option<String>,
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// It has it.
    Sent,
    /// It may do the next time.
    Later(String),
    /// It never will.
    Refused(String),
}

impl Report {
    /// One that is to be sent some time after its day.
    pub fn new(day: DayNumber) -> Self {
        let id = uuid::Uuid::new_v4();
        let random = id.as_u64_pair().1 % SPREAD.as_secs();
        let due = day.ends() + Duration::from_secs(random);
        Report {
            id,
            state: ReportState::Waiting,
            due,
            first_due: due,
            tries: 0,
            asked_for: false,
            destinations: Vec::new(),
            problem: None,
        }
    }

    /// From now on it is tried for as long as any, whatever became of it before: somebody has asked for it.
    pub fn ask_for(&mut self, now: Timestamp) {
        *self = Report { asked_for: true, due: now, first_due: now, id: self.id, ..Report::new(DayNumber::of(now)) };
    }

    /// Whether it is to be tried now.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.state == ReportState::Waiting && self.due <= now
    }

    /// Whether its time is over without that anybody could have it.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.state == ReportState::Waiting && self.first_due + TRIED_FOR <= now
    }

    /// The domain has said where reports go.
    pub fn address(&mut self, destinations: &[Destination]) {
        let addressed = |one: &Destination| Addressed {
            uri: one.to_string(),
            state: ReportState::Waiting,
            at: None,
            problem: None,
        };
        self.destinations = destinations.iter().map(addressed).collect();
    }

    /// It waits no more.
    pub fn end(&mut self, state: ReportState, why: Option<String>) {
        (self.state, self.problem) = (state, why.map(short));
    }

    /// It could not even be learned where it goes.
    pub fn put_off(&mut self, why: String, now: Timestamp) {
        self.problem = Some(short(why));
        self.try_again(now);
    }

    /// Notes what came of the destinations that waited, in their order.
    pub fn tried(&mut self, results: Vec<Tried>, now: Timestamp) {
        let waiting = self.destinations.iter_mut().filter(|one| one.state == ReportState::Waiting);
        for (one, result) in waiting.zip(results) {
            one.at = Some(now);
            (one.state, one.problem) = match result {
                Tried::Sent => (ReportState::Sent, None),
                Tried::Later(why) => (ReportState::Waiting, Some(short(why))),
                Tried::Refused(why) => (ReportState::Failed, Some(short(why))),
            };
        }
        self.problem = None;
        self.try_again(now);
    }

    /// The next try, when one may still help; else the end.
    fn try_again(&mut self, now: Timestamp) {
        let wait = RETRIES[usize::try_from(self.tries).unwrap_or(usize::MAX).min(RETRIES.len() - 1)];
        self.tries = self.tries.saturating_add(1);
        let waits =
            self.destinations.is_empty() || self.destinations.iter().any(|one| one.state == ReportState::Waiting);
        self.due = now + wait;
        if waits && self.due < self.first_due + TRIED_FOR {
            return;
        }
        for one in self.destinations.iter_mut().filter(|one| one.state == ReportState::Waiting) {
            one.state = ReportState::Failed;
        }
        let sent = self.destinations.iter().any(|one| one.state == ReportState::Sent);
        self.state = if sent { ReportState::Sent } else { ReportState::Failed };
    }
}

fn short(mut why: String) -> String {
    if why.len() > MOST_WORDS {
        why.truncate(why.floor_char_boundary(MOST_WORDS));
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> (Report, DayNumber) {
        let day = "2026-11-29".parse().unwrap();
        (Report::new(day), day)
    }

    fn https(n: u32) -> Destination {
        format!("https://r{n}.example/").parse().unwrap()
    }

    #[test]
    fn reports_spread_over_some_hours() {
        let dues: Vec<Duration> = (0..200)
            .map(|_| {
                let (report, day) = report();
                report.due.since(day.ends())
            })
            .collect();
        assert!(dues.iter().all(|due| *due < SPREAD));
        assert!(dues.iter().any(|due| *due < SPREAD / 4) && dues.iter().any(|due| *due > SPREAD / 4 * 3), "{dues:?}");
    }

    #[test]
    fn it_is_tried_at_growing_intervals_for_a_day_and_then_no_more() {
        let (mut report, _) = report();
        report.address(&[https(1), https(2), https(3)]);
        let (later, mut now) = (|| Tried::Later("503".repeat(1_000)), report.due);
        report.tried(vec![Tried::Sent, Tried::Refused("404".to_owned()), later()], now);
        let mut tries = 1;
        while report.state == ReportState::Waiting {
            assert!(!report.is_due(now), "it rests");
            now = report.due;
            report.tried(vec![later()], now);
            tries += 1;
            assert!(tries < 20);
        }
        assert!(now.since(report.first_due) < TRIED_FOR && report.tries == tries && tries > RETRIES.len() as u32);
        let states: Vec<ReportState> = report.destinations.iter().map(|one| one.state).collect();
        assert_eq!(states, [ReportState::Sent, ReportState::Failed, ReportState::Failed]);
        assert_eq!(report.state, ReportState::Sent, "one has it");
        assert_eq!(report.destinations[2].problem.as_ref().unwrap().len(), MOST_WORDS);

        report.ask_for(now);
        assert!(report.is_due(now) && report.destinations.is_empty(), "who asks gets another try, under the same id");
    }

    #[test]
    fn dns_that_never_answers_ends_too() {
        let (mut report, _) = report();
        while report.state == ReportState::Waiting {
            let now = report.due;
            report.put_off("SERVFAIL".to_owned(), now);
        }
        assert_eq!(report.state, ReportState::Failed);
        assert_eq!(report.problem.as_deref(), Some("SERVFAIL"));
    }
}
