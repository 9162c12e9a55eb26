//! Several rates that hold together: `100/1h, 1000/1d`.

use std::fmt;
use std::str::FromStr;

use super::rate::{NotARate, Rate};
use super::text::text_value;

/// Most rates that hold together.
const MOST: usize = 4;

/// One to four rates, each for another time; all of them hold. Shortest time first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rates(Vec<Rate>);

/// The text is no list of rates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRates {
    /// One of them is none.
    #[error("{0}; several are separated by commas, such as 100/1h, 1000/1d")]
    NotARate(#[from] NotARate),
    /// Two for one time, or too many.
    #[error("at most {MOST} rates hold together, each for another time")]
    TooMany,
}

impl Rates {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Rate> + '_ {
        self.0.iter().copied()
    }
}

impl From<Rate> for Rates {
    fn from(rate: Rate) -> Self {
        Rates(vec![rate])
    }
}

impl FromStr for Rates {
    type Err = NotRates;

    fn from_str(text: &str) -> Result<Self, NotRates> {
        // an empty text is no rate either
        let parts = text.split(',').take(MOST + 1).map(|part| part.trim_matches(' ').parse());
        let mut rates = parts.collect::<Result<Vec<Rate>, NotARate>>()?;
        rates.sort_by_key(|rate| rate.per());
        let twice = rates.windows(2).any(|two| two[0].per() == two[1].per());
        if twice || rates.len() > MOST { Err(NotRates::TooMany) } else { Ok(Rates(rates)) }
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, rate) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            rate.fmt(f)?;
        }
        Ok(())
    }
}

text_value!(
    Rates,
    "Rates",
    "bridgehead-rates",
    "So many in so long, one to four of it with commas between them, each for another time; all of them hold.",
    ["100/1h", "100/1h, 1000/1d"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_rates() {
        for (text, canonical) in [("100/1h", "100/1h"), ("1000/1d,  100/60m", "100/1h, 1000/1d")] {
            assert_eq!(text.parse::<Rates>().unwrap().to_string(), canonical);
        }
        for text in ["", ",", "1/1h,", "1/1h, 2/60m", "1/1s,1/2s,1/3s,1/4s,1/5s", "1/1h; 2/1d"] {
            assert!(text.parse::<Rates>().is_err(), "{text}");
        }
    }
}
