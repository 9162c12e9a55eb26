//! Lengths of time in configuration: `90s`, `1h30m`, `2d`.

use std::fmt;
use std::str::FromStr;

use super::text::text_value;

/// A length of time, in whole milliseconds, at most 3,650 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Duration(u64);

/// Units, largest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const MAX: u64 = 3_650 * 86_400_000;

/// The text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a duration is numbers with the units d, h, m, s or ms, largest first, such as 90s, 1h30m or 2d, at most 3650d"
)]
pub struct NotADuration;

impl Duration {
    /// So many seconds. For constants; beyond 3,650 days it stays there.
    pub const fn from_secs(seconds: u64) -> Self {
        let millis = seconds.saturating_mul(1_000);
        Duration(if millis > MAX { MAX } else { millis })
    }

    /// In milliseconds.
    pub fn millis(self) -> u64 {
        self.0
    }

    /// As the standard library has it.
    pub fn std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.std()
    }
}

impl FromStr for Duration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let mut rest = text;
        let mut total = 0_u64;
        let mut smallest = u64::MAX;
        while !rest.is_empty() || text.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| NotADuration)?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let unit = UNITS.iter().find(|(unit, _)| *unit == &rest[..letters]).ok_or(NotADuration)?.1;
            rest = &rest[letters..];
            if unit >= smallest {
                return Err(NotADuration);
            }
            smallest = unit;
            total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or(NotADuration)?;
        }
        if total > MAX { Err(NotADuration) } else { Ok(Duration(total)) }
    }
}

/// The shortest form: no unit that is zero, largest first.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, millis) in UNITS {
            if rest >= millis {
                write!(f, "{}{unit}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

text_value!(
    Duration,
    "Duration",
    "bridgehead-duration",
    "A length of time: numbers with the units d, h, m, s or ms, largest first.",
    ["90s", "1h30m", "2d"]
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "90", "s", "1m1h", "1h1h", "-1s", "1 s", "3651d", "99999999999999999999d", "1.5h", "1ü"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
        assert_eq!("90s".parse::<Duration>().unwrap().to_string(), "1m30s");
        assert_eq!("0s".parse::<Duration>().unwrap().to_string(), "0s");
        assert_eq!("48h".parse::<Duration>().unwrap().to_string(), "2d");
    }

    proptest! {
        #[test]
        fn text_comes_back(millis in 0..=MAX) {
            prop_assert_eq!(Duration(millis).to_string().parse::<Duration>().unwrap(), Duration(millis));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Duration>();
        }
    }
}
