//! Times in our own records: RFC 3339 in UTC with milliseconds. For serde's `with`.

use serde::{Deserialize, Deserializer, Serializer};

use crate::model::time::{Millis, parse_timestamp};

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
pub fn serialize<S: Serializer>(time: &Millis, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339())
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_timestamp(&text).map(Millis::from).map_err(serde::de::Error::custom)
}

/// A time that may be missing: null.
pub mod option {
    use super::{Deserialize, Deserializer, Millis, Serializer};

    #[derive(Deserialize)]
    struct Time(#[serde(with = "super")] Millis);

    #[allow(clippy::trivially_copy_pass_by_ref, clippy::ref_option, reason = "serde asks for it")]
    pub fn serialize<S: Serializer>(time: &Option<Millis>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Millis>, D::Error> {
        Ok(Option::<Time>::deserialize(deserializer)?.map(|time| time.0))
    }
}
