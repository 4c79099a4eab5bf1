//! The host's clock, in one place, so that whatever decides by time gets it as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::time::{Millis, span_millis};

/// The host's time now.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the clock that the ban points to")]
pub fn now() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, span_millis);
    Millis(now + wrong_by())
}

/// By how many milliseconds this process is to see the clock ahead: the variable `BUNDLEHOOK_CLOCK_AHEAD_MS`, so that a
/// test can see what a wrong clock does.
#[cfg(feature = "failpoints")]
fn wrong_by() -> i64 {
    static AHEAD: std::sync::LazyLock<i64> = std::sync::LazyLock::new(|| {
        let ahead = std::env::var("BUNDLEHOOK_CLOCK_AHEAD_MS").ok();
        ahead.map_or(0, |ahead| ahead.parse().expect("only tests set it, and to a number"))
    });
    *AHEAD
}

/// Nothing in this build.
#[cfg(not(feature = "failpoints"))]
#[inline]
fn wrong_by() -> i64 {
    0
}
