//! Sizes in configuration: `25MiB`, or a number of bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, SchemaFormat};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size(u64);

/// Binary units, largest first; what [`fmt::Display`] writes.
const BINARY: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// Decimal units, understood but never written.
const DECIMAL: [(&str, u64); 4] = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000)];
/// Largest size: what a JSON number carries exactly in every client.
const MAX: u64 = (1 << 53) - 1;

/// The text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a size is a number of bytes, or a number with one of the units B, KiB, MiB, GiB, TiB, KB, MB, GB, TB, such as 10MiB"
)]
pub struct NotASize;

impl Size {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Size(if bytes > MAX { MAX } else { bytes })
    }

    /// So many times 1,048,576 bytes.
    pub const fn from_mib(mebibytes: u64) -> Self {
        Size::from_bytes(mebibytes.saturating_mul(1 << 20))
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| NotASize)?;
        let unit = match &text[digits..] {
            "" => 1,
            unit => BINARY.iter().chain(&DECIMAL).find(|(name, _)| *name == unit).ok_or(NotASize)?.1,
        };
        number.checked_mul(unit).filter(|bytes| *bytes <= MAX).map(Size).ok_or(NotASize)
    }
}

/// In the largest binary unit that divides it.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, bytes) =
            BINARY.into_iter().find(|(_, bytes)| self.0 != 0 && self.0.is_multiple_of(*bytes)).unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(d)? {
            Form::Number(bytes) if bytes <= MAX => Ok(Size(bytes)),
            Form::Number(_) => Err(serde::de::Error::custom(NotASize)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl utoipa::PartialSchema for Size {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Integer]))
            .format(Some(SchemaFormat::Custom("bridgehead-size".to_owned())))
            .minimum(Some(0.0))
            .maximum(Some(MAX as f64))
            .description(Some(
                "A size: a number of bytes, or a text with a unit (B, KiB, MiB, GiB, TiB, KB, MB, GB, TB). Reads as text.",
            ))
            .examples([serde_json::json!("25MiB"), serde_json::json!(10_485_760)])
            .into()
    }
}

impl utoipa::ToSchema for Size {
    fn name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "MiB", "10mib", "-1", "1.5GiB", "99999999999TiB", "10 MiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!(serde_json::from_str::<Size>("26214400").unwrap(), Size::from_mib(25));
        assert_eq!(serde_json::to_string(&Size::from_mib(25)).unwrap(), "\"25MiB\"");
        assert_eq!("1KB".parse::<Size>().unwrap().to_string(), "1000B");
    }

    proptest! {
        #[test]
        fn text_comes_back(bytes in 0..=MAX) {
            prop_assert_eq!(Size(bytes).to_string().parse::<Size>().unwrap(), Size(bytes));
        }
    }
}
