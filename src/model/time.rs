//! Points in time, and the texts they are read from and written as.

use std::{borrow::Cow, fmt, ops::Add, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch: the unit of Kafka's record timestamps, and so of arrivals and window bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub i64);

impl Millis {
    /// This time less a span, not below the earliest there is.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span_millis(span)))
    }

    /// The span from an earlier time to this one; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).max(0) as u64)
    }

    /// Our own records' form: RFC 3339 in UTC with milliseconds.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        self.to_utc().to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    /// The same point as a calendar time, clamped to what the calendar holds.
    #[must_use]
    pub fn to_utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).unwrap_or(if self.0 < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
    }
}

impl Add<Duration> for Millis {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span_millis(span)))
    }
}

impl From<DateTime<Utc>> for Millis {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time.timestamp_millis())
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

/// A span as whole milliseconds.
#[must_use]
pub fn span_millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// A text that is none of the three accepted forms of a timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a timestamp like `2021-02-24T16:25:29+0000`, RFC 3339 or `2024-01-08 10:35:18 +0200`")]
pub struct TimestampError;

/// Reads a message's timestamp in any of the spec's forms; fractions of a second are kept for order.
///
/// # Errors
/// [`TimestampError`] for any other form, a date that does not exist, or a year outside 0 to 9999.
pub fn parse_timestamp(text: &str) -> Result<DateTime<Utc>, TimestampError> {
    let parsed = DateTime::parse_from_rfc3339(&as_rfc3339(text)).map_err(|_| TimestampError)?;
    // A leap second is kept as more than a second's worth of nanoseconds; it counts as the next second.
    let nanos = parsed.timestamp_subsec_nanos();
    let seconds = parsed.timestamp() + i64::from(nanos / NANOS_PER_SECOND);
    // A year of four digits only, so that what is written has the documented width.
    let in_range = (MIN_SECONDS..=MAX_SECONDS).contains(&seconds);
    let utc = DateTime::from_timestamp(seconds, nanos % NANOS_PER_SECOND);
    utc.filter(|_| in_range).ok_or(TimestampError)
}

/// The other two forms differ from RFC 3339 in a colon in the zone, and one in a space before it.
fn as_rfc3339(text: &str) -> Cow<'_, str> {
    let Some((rest, zone)) = text.split_at_checked(text.len().saturating_sub(5)) else {
        return text.into();
    };
    let is_zone = zone.starts_with(['+', '-']) && zone[1..].bytes().all(|byte| byte.is_ascii_digit());
    let separator = rest.as_bytes().get(10);
    match (separator, rest.strip_suffix(' ')) {
        (Some(b'T'), None) if is_zone => format!("{rest}{}:{}", &zone[..3], &zone[3..]).into(),
        (Some(b' '), Some(rest)) if is_zone => format!("{rest}{}:{}", &zone[..3], &zone[3..]).into(),
        _ => text.into(),
    }
}

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59Z in Unix seconds.
const MIN_SECONDS: i64 = -62_167_219_200;
const MAX_SECONDS: i64 = 253_402_300_799;

/// The form of every timestamp in a body: `2021-02-24T16:25:29+0000`, in UTC, fractions cut.
#[must_use]
pub fn body_timestamp(time: DateTime<Utc>) -> String {
    // Not by a pattern, which is read anew each time.
    let mut text = time.to_rfc3339_opts(SecondsFormat::Secs, true);
    text.truncate(text.len() - "Z".len());
    text.push_str("+0000");
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_three_forms_are_one_point_in_time() {
        let expected = "2021-02-24T16:27:00+0000";
        for text in [
            "2021-02-24T16:27:00+0000",
            "2021-02-24T16:27:00Z",
            "2021-02-24T18:27:00.75+02:00",
            "2021-02-24 18:27:00 +0200",
        ] {
            assert_eq!(parse_timestamp(text).map(body_timestamp).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "yesterday",
            "2021-02-24",
            "2021-02-30T00:00:00Z",
            "2021-02-24T16:27:00",
            "1614183900",
            "2021-2-24T16:27:00Z",
            "2021-02-24 16:27:00 +02:00",
            "2021-02-24T16:27:00 +0200",
            "+2021-02-24T16:27:00Z",
        ] {
            assert_eq!(parse_timestamp(text), Err(TimestampError), "{text}");
        }
    }

    #[test]
    fn a_leap_second_is_the_next_second() {
        assert_eq!(parse_timestamp("2016-12-31T23:59:60.5Z"), parse_timestamp("2017-01-01T00:00:00.5+0000"));
    }

    #[test]
    fn a_zone_that_leads_out_of_the_years_0_to_9999_is_refused() {
        assert!(parse_timestamp("9999-12-31T23:59:59-0100").is_err());
        assert!(parse_timestamp("0000-01-01T00:00:00+0100").is_err());
        assert!(parse_timestamp("0000-01-01T00:00:00Z").is_ok());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_to_the_second(seconds in MIN_SECONDS..=MAX_SECONDS) {
            let time = DateTime::from_timestamp(seconds, 0).unwrap();
            prop_assert_eq!(parse_timestamp(&body_timestamp(time)), Ok(time));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = parse_timestamp(&text);
        }
    }
}
