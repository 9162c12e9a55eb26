//! The one way in which values of configuration become text: [`std::fmt::Display`] and [`std::str::FromStr`] for
//! serde, and a string with a `format` of ours in OpenAPI. The configuration's schema check calls the same parsers,
//! so that a wrong value is reported in the parser's own words.

/// Serde as text, and an OpenAPI schema: a string with this format.
macro_rules! text_value {
    ($t:ty, $name:literal, $format:literal, $description:literal, [$($example:literal),+]) => {
        impl serde::Serialize for $t {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $t {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
        $crate::model::text::text_schema!($t, $name, $format, $description, [$($example),+]);
    };
}

/// Only the OpenAPI schema, for values that have serde already.
macro_rules! text_schema {
    ($t:ty, $name:literal, $format:literal, $description:literal, [$($example:literal),+]) => {
        impl utoipa::PartialSchema for $t {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .format(Some(utoipa::openapi::SchemaFormat::Custom($format.to_owned())))
                    .description(Some($description))
                    .examples([$(serde_json::json!($example)),+])
                    .into()
            }
        }
        impl utoipa::ToSchema for $t {
            fn name() -> std::borrow::Cow<'static, str> {
                std::borrow::Cow::Borrowed($name)
            }
        }
    };
}

pub(crate) use {text_schema, text_value};
