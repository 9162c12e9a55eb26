//! When something happens in a week: windows of time in a time zone (Exchange: *Connection time*, *Delivery options*).

use std::fmt;
use std::str::FromStr;

use jiff::ToSpan as _;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::text::text_value;
use super::time::Timestamp;

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// Times of the week at which mail is carried; at all others it waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "timeZone": "Europe/Berlin",
    "windows": [{"days": ["mon", "tue", "wed", "thu", "fri"], "from": "22:00", "to": "06:00"}]
}))]
pub struct Schedule {
    /// The time zone of the windows, by its IANA name.
    #[serde(default)]
    #[schema(default = "UTC")]
    pub time_zone: ZoneName,
    /// The windows; they may overlap.
    #[schema(min_items = 1, max_items = 100)]
    pub windows: Vec<Window>,
}

/// The same time on some days of the week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ScheduleWindow, example = json!({"days": ["sat", "sun"], "from": "00:00", "to": "24:00"}))]
pub struct Window {
    /// The days on which it begins. Default: every day.
    #[serde(default = "Day::all")]
    #[schema(min_items = 1, max_items = 7)]
    pub days: Vec<Day>,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends; a time before `from` is one of the next day.
    pub to: TimeOfDay,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Day {
    fn all() -> Vec<Day> {
        vec![Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun]
    }

    fn of(date: Date) -> Day {
        use jiff::civil::Weekday;
        match date.weekday() {
            Weekday::Monday => Day::Mon,
            Weekday::Tuesday => Day::Tue,
            Weekday::Wednesday => Day::Wed,
            Weekday::Thursday => Day::Thu,
            Weekday::Friday => Day::Fri,
            Weekday::Saturday => Day::Sat,
            Weekday::Sunday => Day::Sun,
        }
    }
}

/// A time of day in minutes, 00:00 to 24:00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

/// The text is no time of day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time of day is given as hours and minutes, 00:00 to 24:00, such as 22:30")]
pub struct NotATimeOfDay;

impl FromStr for TimeOfDay {
    type Err = NotATimeOfDay;

    fn from_str(text: &str) -> Result<Self, NotATimeOfDay> {
        let two = |digits: &str| match digits.len() {
            2 if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse::<u16>().map_err(|_| NotATimeOfDay),
            _ => Err(NotATimeOfDay),
        };
        let (hours, minutes) = text.split_once(':').ok_or(NotATimeOfDay)?;
        let (hours, minutes) = (two(hours)?, two(minutes)?);
        let all = hours * 60 + minutes;
        if minutes < 60 && all <= DAY { Ok(TimeOfDay(all)) } else { Err(NotATimeOfDay) }
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

text_value!(
    TimeOfDay,
    "TimeOfDay",
    "bridgehead-time-of-day",
    "A time of day in hours and minutes, 00:00 to 24:00.",
    ["22:30"]
);

/// A time zone by its IANA name.
#[derive(Debug, Clone)]
pub struct ZoneName(TimeZone);

/// There is no such time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no such time zone; names are those of the IANA database, such as Europe/Berlin or UTC")]
pub struct NotAZone;

impl Default for ZoneName {
    fn default() -> Self {
        ZoneName(TimeZone::UTC)
    }
}

impl PartialEq for ZoneName {
    fn eq(&self, other: &Self) -> bool {
        self.0.iana_name() == other.0.iana_name()
    }
}

impl Eq for ZoneName {}

impl FromStr for ZoneName {
    type Err = NotAZone;

    fn from_str(text: &str) -> Result<Self, NotAZone> {
        if text.eq_ignore_ascii_case("utc") {
            return Ok(ZoneName::default());
        }
        let zone = TimeZone::get(text).map_err(|_| NotAZone)?;
        if zone.iana_name().is_some() { Ok(ZoneName(zone)) } else { Err(NotAZone) }
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

text_value!(
    ZoneName,
    "TimeZoneName",
    "bridgehead-time-zone",
    "A time zone by its name in the IANA database.",
    ["Europe/Berlin", "UTC"]
);

/// From when to when, the end not included.
type Interval = (Timestamp, Timestamp);

impl Schedule {
    /// When it is open next: `at` itself when it is open then. `None`: never within the next eight days, and so never.
    pub fn opens(&self, at: Timestamp) -> Option<Timestamp> {
        let intervals = self.around(at);
        if intervals.iter().any(|(from, to)| *from <= at && at < *to) {
            return Some(at);
        }
        intervals.into_iter().map(|(from, _)| from).filter(|from| *from > at).min()
    }

    /// When it closes, if it is open: windows that touch are one. `None` when it is closed, or stays open for the week.
    pub fn closes(&self, at: Timestamp) -> Option<Timestamp> {
        let intervals = self.around(at);
        let mut end = at;
        let mut spans = 0;
        while let Some((_, to)) = intervals.iter().filter(|(from, to)| *from <= end && end < *to).max_by_key(|i| i.1) {
            end = *to;
            spans += 1;
        }
        let whole = end.since(at) > std::time::Duration::from_secs(8 * 86_400);
        (spans > 0 && !whole).then_some(end)
    }

    /// Windows from the day before to more than a week after.
    fn around(&self, at: Timestamp) -> Vec<Interval> {
        let zone = &self.time_zone.0;
        let Ok(now) = jiff::Timestamp::from_millisecond(at.millis()) else { return Vec::new() };
        let today = now.to_zoned(zone.clone()).date();
        let days = (-1..=9_i64).filter_map(|offset| today.checked_add(offset.days()).ok());
        days.flat_map(|date| {
            let on_it = move |window: &&Window| window.days.contains(&Day::of(date));
            self.windows.iter().filter(on_it).filter_map(move |window| window.on(date, zone))
        })
        .collect()
    }
}

impl Window {
    /// True when it has no length.
    pub fn is_empty(&self) -> bool {
        self.from == self.to || self.from.0 == DAY
    }

    /// The window that begins on this day. Where clocks are set forward over one of its ends, that is when they are set.
    fn on(&self, date: Date, zone: &TimeZone) -> Option<Interval> {
        let next_day = self.to <= self.from;
        let from = moment(date, self.from, zone)?;
        let to = moment(if next_day { date.tomorrow().ok()? } else { date }, self.to, zone)?;
        (from < to && !self.is_empty()).then_some((from, to))
    }
}

fn moment(date: Date, time: TimeOfDay, zone: &TimeZone) -> Option<Timestamp> {
    let date = if time.0 == DAY { date.tomorrow().ok()? } else { date };
    let (hour, minute) = (i8::try_from(time.0 % DAY / 60).ok()?, i8::try_from(time.0 % 60).ok()?);
    let there = date.to_datetime(Time::new(hour, minute, 0, 0).ok()?).to_zoned(zone.clone()).ok()?;
    Some(Timestamp::from_millis(there.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(zone: &str, windows: serde_json::Value) -> Schedule {
        serde_json::from_value(serde_json::json!({"timeZone": zone, "windows": windows})).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times_of_day_and_zones_are_checked() {
        for (text, good) in [
            ("00:00", true),
            ("24:00", true),
            ("23:59", true),
            ("24:01", false),
            ("7:00", false),
            ("07:60", false),
            ("+7:00", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<TimeOfDay>().is_ok(), good, "{text}");
        }
        assert_eq!("22:30".parse::<TimeOfDay>().unwrap().to_string(), "22:30");
        assert_eq!("europe/berlin".parse::<ZoneName>().unwrap().to_string(), "Europe/Berlin");
        for text in ["Mars/Olympus", "", "../../etc/passwd", "Berlin"] {
            assert!(text.parse::<ZoneName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        // Friday night only, 22:00 to 06:00 in Berlin (UTC+1 in winter)
        let night = schedule("Europe/Berlin", serde_json::json!([{"days": ["fri"], "from": "22:00", "to": "06:00"}]));
        for (time, opens) in [
            ("2026-01-09T20:59:59Z", "2026-01-09T21:00:00Z"),
            ("2026-01-09T21:00:00Z", "2026-01-09T21:00:00Z"),
            ("2026-01-10T04:59:59Z", "2026-01-10T04:59:59Z"),
            ("2026-01-10T05:00:00Z", "2026-01-16T21:00:00Z"),
        ] {
            assert_eq!(night.opens(at(time)), Some(at(opens)), "{time}");
        }
        assert_eq!(night.closes(at("2026-01-09T23:00:00Z")), Some(at("2026-01-10T05:00:00Z")));
        assert_eq!(night.closes(at("2026-01-10T05:00:00Z")), None);
    }

    #[test]
    fn a_whole_day_and_windows_that_touch_are_one_stretch() {
        let weekend = schedule("UTC", serde_json::json!([{"days": ["sat", "sun"], "from": "00:00", "to": "24:00"}]));
        assert_eq!(weekend.closes(at("2026-01-10T12:00:00Z")), Some(at("2026-01-12T00:00:00Z")));
        assert_eq!(weekend.opens(at("2026-01-12T00:00:00Z")), Some(at("2026-01-17T00:00:00Z")));
        let always = schedule("UTC", serde_json::json!([{"from": "00:00", "to": "24:00"}]));
        assert_eq!(always.closes(at("2026-01-10T12:00:00Z")), None);
    }

    #[test]
    fn clocks_that_are_set_forward_and_back_do_no_harm() {
        // 29 March 2026: 02:00 to 03:00 does not exist in Berlin; 25 October: it comes twice
        let small = schedule("Europe/Berlin", serde_json::json!([{"from": "02:00", "to": "03:00"}]));
        assert_eq!(small.opens(at("2026-03-28T03:00:00Z")), Some(at("2026-03-30T00:00:00Z")));
        assert_eq!(small.opens(at("2026-10-24T12:00:00Z")), Some(at("2026-10-25T00:00:00Z")));
        assert_eq!(small.closes(at("2026-10-25T00:30:00Z")), Some(at("2026-10-25T02:00:00Z")));
    }

    #[test]
    fn what_has_no_length_is_never_open() {
        let empty = schedule("UTC", serde_json::json!([{"from": "06:00", "to": "06:00"}]));
        assert!(empty.windows[0].is_empty());
        assert_eq!(empty.opens(at("2026-01-10T06:00:00Z")), None);
    }
}
