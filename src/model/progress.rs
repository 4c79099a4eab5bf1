//! How far a stretch of the log is that is read again, and when it will be done.

use std::time::Duration;

/// Offsets that are read again: from the first up to, but without, the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    from: i64,
    to: i64,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Offsets that are done with.
    pub done: i64,
    /// Offsets that are left.
    pub left: i64,
    /// Offsets a second so far; none before the first is done.
    pub rate: Option<f64>,
    /// Seconds until nothing is left, if it goes on like that.
    pub seconds_left: Option<f64>,
}

impl Stretch {
    /// A stretch; none if there is nothing in it.
    #[must_use]
    pub fn new(from: i64, to: i64) -> Option<Self> {
        (from < to).then_some(Self { from, to })
    }

    /// How far it is when everything below a position has been read in the time since it began.
    #[must_use]
    pub fn progress(&self, position: i64, elapsed: Duration) -> Progress {
        let position = position.clamp(self.from, self.to);
        let (done, left) = (position - self.from, self.to - position);
        let rate = (done > 0 && !elapsed.is_zero()).then(|| done as f64 / elapsed.as_secs_f64());
        Progress { done, left, rate, seconds_left: rate.map(|rate| left as f64 / rate) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    #[test]
    fn the_rate_so_far_says_how_long_the_rest_takes() {
        let stretch = Stretch::new(100, 1_100).unwrap();
        let progress = stretch.progress(350, TEN);
        assert_eq!((progress.done, progress.left), (250, 750));
        assert_eq!((progress.rate, progress.seconds_left), (Some(25.0), Some(30.0)));
    }

    #[test]
    fn nothing_is_said_of_the_rate_before_something_is_done() {
        let progress = Stretch::new(100, 1_100).unwrap().progress(100, TEN);
        assert_eq!((progress.done, progress.left, progress.rate), (0, 1_000, None));
        assert_eq!(progress.seconds_left, None);
    }

    #[test]
    fn what_lies_beyond_the_stretch_does_not_count() {
        let stretch = Stretch::new(100, 1_100).unwrap();
        assert_eq!(stretch.progress(5_000, TEN).done, 1_000);
        assert_eq!(stretch.progress(5_000, TEN).left, 0);
        assert_eq!(Stretch::new(7, 7), None);
    }
}
