//! The host's clock, in one place, so that whatever decides by time gets it as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::time::{Millis, span_millis};

/// The host's time now.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the clock that the ban points to")]
pub fn now() -> Millis {
    Millis(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, span_millis))
}
