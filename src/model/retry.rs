//! The pauses between retries.

use std::time::{Duration, SystemTime};

use super::time::Millis;

/// The longest pause that `Retry-After` can ask for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_hours(8);

/// The pauses after the first, second … consecutive failure; the last one repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule(Vec<Duration>);

/// A schedule without a pause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected at least one pause")]
pub struct EmptySchedule;

impl RetrySchedule {
    /// A schedule of at least one pause.
    ///
    /// # Errors
    /// [`EmptySchedule`] if there is none.
    pub fn new(pauses: Vec<Duration>) -> Result<Self, EmptySchedule> {
        if pauses.is_empty() { Err(EmptySchedule) } else { Ok(Self(pauses)) }
    }

    /// The pause after the n-th consecutive failure (from 1): the scheduled one with its jitter, or what the
    /// endpoint asked for if that is longer, at most 8 h.
    ///
    /// `jitter` lies between 0 and 1 and moves the pause by up to ±10 %.
    #[must_use]
    pub fn pause(&self, failures: u32, jitter: f64, retry_after: Option<Duration>) -> Duration {
        let index = (failures.max(1) as usize - 1).min(self.0.len() - 1);
        let scheduled = self.0[index].mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0));
        scheduled.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER))
    }
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110, 10.2.3). None for what is neither, and for a date in the past.
#[must_use]
pub fn parse_retry_after(text: &str, now: Millis) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now.0.unsigned_abs());
    httpdate::parse_http_date(text).ok()?.duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_to_come() {
        let now = Millis(1_614_182_400_000);
        assert_eq!(parse_retry_after(" 120 ", now), Some(Duration::from_mins(2)));
        let date = "Wed, 24 Feb 2021 16:01:00 GMT";
        assert_eq!(parse_retry_after(date, now), Some(Duration::from_mins(1)));
        for none in ["", "-1", "1.5", "99999999999999999999", "Wed, 24 Feb 2021 15:59:59 GMT", "soon"] {
            assert_eq!(parse_retry_after(none, now), None, "{none}");
        }
    }

    fn schedule() -> RetrySchedule {
        RetrySchedule::new(vec![Duration::from_secs(10), Duration::from_secs(100)]).unwrap()
    }

    #[test]
    fn the_nth_failure_is_followed_by_the_nth_pause_and_the_last_repeats() {
        assert_eq!(schedule().pause(1, 0.5, None), Duration::from_secs(10));
        assert_eq!(schedule().pause(2, 0.5, None), Duration::from_secs(100));
        assert_eq!(schedule().pause(9, 0.5, None), Duration::from_secs(100));
    }

    #[test]
    fn jitter_moves_a_pause_by_at_most_a_tenth() {
        assert_eq!(schedule().pause(1, 0.0, None), Duration::from_secs(9));
        assert_eq!(schedule().pause(1, 1.0, None), Duration::from_secs(11));
    }

    #[test]
    fn a_longer_retry_after_wins_up_to_eight_hours() {
        assert_eq!(schedule().pause(1, 0.5, Some(Duration::from_mins(1))), Duration::from_mins(1));
        assert_eq!(schedule().pause(1, 0.5, Some(Duration::from_secs(1))), Duration::from_secs(10));
        assert_eq!(schedule().pause(1, 0.5, Some(Duration::from_hours(9))), Duration::from_hours(8));
    }
}
