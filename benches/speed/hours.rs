//! Lengths of an hour that put the boundaries of windows where a figure wants them.
//!
//! Boundaries are multiples of the hour since 1970. Another length, even by a millisecond, moves them all: so among the
//! lengths of a range there are some for which the next boundary is at about any wanted time.

use std::ops::RangeInclusive;

/// Hours of the longest window.
const DAY: u64 = 24;
/// The longest hour that may be set.
const LONGEST: u64 = 3_600_000;
/// How much later than wanted a day may end.
const TOLERANCE: u64 = 1_000;

/// An hour, in milliseconds, that has just begun: no window closes for nearly as long as it lasts.
pub fn just_begun(now: u64) -> u64 {
    let hours = LONGEST / 2..=LONGEST;
    hours.rev().find(|hour| now % hour < hour / 60).expect("some of so many have")
}

/// An hour and the end of its day: both in milliseconds, the end after so many and the hour longer than that, so that what
/// comes in until then is in windows of all lengths that end together.
pub fn day_ending(now: u64, after: u64) -> (u64, u64) {
    let wanted: RangeInclusive<u64> = now + after..=now + after + TOLERANCE;
    let end = |hour: u64| (now / (DAY * hour) + 1) * DAY * hour;
    let hours = after + TOLERANCE..=2 * (after + TOLERANCE);
    let hour = hours.into_iter().find(|hour| wanted.contains(&end(*hour)));
    let hour = hour.expect("days of some of so many hours end then");
    (hour, end(hour))
}
