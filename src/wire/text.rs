//! Reading JSON strictly, with strings that borrow from the record where they can.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::poison::{Poison, PoisonReason};

/// A string, borrowed from the input unless it is escaped there.
#[derive(Debug, Clone)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor { numbers: false })
    }
}

/// A string or a whole number, as text.
#[derive(Debug, Clone)]
pub struct IdText<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for IdText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor { numbers: true }).map(|Text(text)| Self(text))
    }
}

struct TextVisitor {
    numbers: bool,
}

impl TextVisitor {
    fn number<'de, E: Error>(&self, number: impl fmt::Display) -> Result<Text<'de>, E> {
        if self.numbers {
            Ok(Text(Cow::Owned(number.to_string())))
        } else {
            Err(E::custom(format_args!("a number, expected a string")))
        }
    }
}

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.numbers { "a string or a whole number" } else { "a string" })
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Text<'de>, E> {
        self.number(number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Text<'de>, E> {
        self.number(number)
    }
}

/// A JSON object. Without it serde would read a list as a struct, field by field.
#[derive(Debug, Clone)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Reads a whole text as one JSON object; an error names the field by its path.
///
/// # Errors
/// [`Poison`] if it is something else.
pub fn read_object<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Poison> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let Object(value): Object<T> =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| Poison::json(&error))?;
    let trailing = |_| {
        let detail = "the value is not JSON: there is more after its end".to_owned();
        Poison { reason: PoisonReason::InvalidJson, detail }
    };
    deserializer.end().map_err(trailing)?;
    Ok(value)
}
