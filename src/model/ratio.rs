//! A part of a whole, from 0 to 1, in configuration.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

const WHOLE: u32 = 1_000_000;

/// A part of a whole, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ratio(u32);

impl Ratio {
    /// All of it.
    pub const ALL: Ratio = Ratio(WHOLE);

    /// Whether something is in the part whose random bits these are: the same ones are in it again, and in every larger part.
    pub fn takes(self, random: u32) -> bool {
        u64::from(random) * u64::from(WHOLE) < u64::from(self.0) << 32
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            0 => s.serialize_u32(0),
            WHOLE => s.serialize_u32(1),
            part => s.serialize_f64(f64::from(part) / f64::from(WHOLE)),
        }
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let part = f64::deserialize(d)?;
        if !(0.0..=1.0).contains(&part) {
            return Err(serde::de::Error::custom("a number from 0 to 1 is needed"));
        }
        // in range, so nothing is cut
        Ok(Ratio((part * f64::from(WHOLE)).round() as u32))
    }
}

impl PartialSchema for Ratio {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .minimum(Some(0))
            .maximum(Some(1))
            .description(Some("A part of a whole, from 0 to 1, in steps of a millionth."))
            .examples([serde_json::json!(0.1)])
            .into()
    }
}

impl ToSchema for Ratio {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Ratio")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_takes_its_part_and_all_is_all() {
        let ratio = |text: &str| serde_json::from_str::<Ratio>(text);
        for wrong in ["-0.1", "1.1", "\"1\"", "null"] {
            assert!(ratio(wrong).is_err(), "{wrong}");
        }
        for text in ["0", "1", "0.25"] {
            assert_eq!(serde_json::to_string(&ratio(text).unwrap()).unwrap(), text);
        }
        let (none, quarter, all) = (ratio("0").unwrap(), ratio("0.25").unwrap(), Ratio::ALL);
        for random in [0, 1 << 29, (1 << 30) - 1] {
            assert!(quarter.takes(random) && all.takes(random) && !none.takes(random), "{random}");
        }
        assert!(!quarter.takes(1 << 30) && all.takes(u32::MAX) && !quarter.takes(u32::MAX));
    }
}
