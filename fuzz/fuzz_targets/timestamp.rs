//! Timestamps of messages: what is read is written in the body's form and read back, but for fractions of a second.
#![no_main]

use bundlehook::model::time::{Millis, body_timestamp, parse_timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(time) = parse_timestamp(text) else { return };
    let written = body_timestamp(time);
    let read = parse_timestamp(&written).unwrap_or_else(|error| panic!("{text} became {written}: {error}"));
    assert_eq!(read.timestamp(), time.timestamp(), "{text} became {written}");
    assert_eq!(Millis::from(time).to_utc().timestamp_millis(), time.timestamp_millis());
    let precise = Millis::from(time).to_rfc3339();
    assert_eq!(parse_timestamp(&precise).map(Millis::from), Ok(Millis::from(time)), "{precise}");
});
