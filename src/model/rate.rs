//! Rates in configuration: `100/1m`, so many in so long.

use std::fmt;
use std::str::FromStr;

use super::duration::Duration;
use super::text::text_value;

/// So many in so long: at least 1, at most 1,000,000, in 1s to 1d.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    per: Duration,
}

/// The text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a rate is a number, a slash and a duration, such as 100/1m: from 1 to 1000000, in 1s to 1d")]
pub struct NotARate;

const MOST: u32 = 1_000_000;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(86_400);

impl Rate {
    /// How many.
    pub fn count(self) -> u32 {
        self.count
    }

    /// In how long.
    pub fn per(self) -> Duration {
        self.per
    }
}

impl FromStr for Rate {
    type Err = NotARate;

    fn from_str(text: &str) -> Result<Self, NotARate> {
        let (count, per) = text.split_once('/').ok_or(NotARate)?;
        let digits = count.bytes().all(|b| b.is_ascii_digit());
        let count: u32 = count.parse().map_err(|_| NotARate)?;
        let per: Duration = per.parse().map_err(|_| NotARate)?;
        if digits && (1..=MOST).contains(&count) && (SHORTEST..=LONGEST).contains(&per) {
            Ok(Rate { count, per })
        } else {
            Err(NotARate)
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per)
    }
}

text_value!(
    Rate,
    "Rate",
    "bridgehead-rate",
    "So many in so long: a number, a slash and a duration.",
    ["100/1m", "5/1s"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, canonical) in [("100/1m", "100/1m"), ("007/60s", "7/1m"), ("1000000/1d", "1000000/1d")] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), canonical);
        }
        for text in ["", "100", "/1m", "100/", "0/1m", "1/0s", "1/2d", "+1/1m", "-1/1m", "1000001/1m", "1/1m/1m"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
