//! The log of a webhook in short, and what is counted of it by day.

use std::{collections::BTreeMap, fmt, str::FromStr};

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::{
    delivery::Outcome,
    event::Skip,
    ids::{BundleId, WebhookId, WorkspaceId},
    time::Millis,
};

/// How many days are counted, today included.
pub const DAYS: i64 = 10;

/// Length of a day in milliseconds.
pub const DAY_MS: i64 = 86_400_000;

/// How many attempts the log of a webhook holds.
pub const LOGGED: usize = 100;

/// A day in UTC. Written as `2021-02-24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Day(i64);

impl Day {
    /// The day of a point in time.
    #[must_use]
    pub fn of(time: Millis) -> Self {
        Self(time.0.div_euclid(DAY_MS))
    }

    /// The first day that is counted if it is this day now.
    #[must_use]
    pub fn first_counted(self) -> Self {
        Self(self.0 - DAYS + 1)
    }

    /// Days since the Unix epoch.
    #[must_use]
    pub fn number(self) -> i64 {
        self.0
    }

    /// The day with a number.
    #[must_use]
    pub fn numbered(number: i64) -> Self {
        Self(number)
    }

    /// When it begins.
    #[must_use]
    pub fn start(self) -> Millis {
        Millis(self.0.saturating_mul(DAY_MS))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.start().to_utc().date_naive().fmt(f)
    }
}

/// A text that is not a day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a day, expected one like `2021-02-24`")]
pub struct DayError(String);

impl FromStr for Day {
    type Err = DayError;
    fn from_str(text: &str) -> Result<Self, DayError> {
        let date: NaiveDate = text.parse().map_err(|_| DayError(text.to_owned()))?;
        let start = date.and_hms_opt(0, 0, 0).ok_or_else(|| DayError(text.to_owned()))?;
        Ok(Self::of(start.and_utc().into()))
    }
}

impl TryFrom<String> for Day {
    type Error = DayError;
    fn try_from(text: String) -> Result<Self, DayError> {
        text.parse()
    }
}

impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.to_string()
    }
}

/// A webhook while it belongs to one workspace. Its log and its counts are that workspace's: if the same id comes to be
/// another's, that one begins with none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenure {
    /// Which webhook.
    pub webhook: WebhookId,
    /// Whose.
    pub workspace: WorkspaceId,
}

/// An attempt in short, with where the whole of it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When it began.
    pub at: Millis,
    /// Partition of `delivery-attempts` and of `bundles`.
    pub partition: i32,
    /// Offset of its record in `delivery-attempts`.
    pub offset: i64,
    /// Offset of its bundle in `bundles`.
    pub bundle_offset: i64,
    /// Which bundle.
    pub bundle_id: BundleId,
    /// How many messages the bundle has.
    pub messages: u32,
    /// `bundle`, `test` or `resend`.
    pub kind: String,
    /// The how-manieth attempt, from 1.
    pub attempt: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// The status that came back; none if nothing did.
    pub status: Option<u16>,
    /// How long it took.
    pub duration_ms: u64,
    /// `delivered` or `rejected` if the bundle is done with; none if it is tried again.
    pub settled: Option<String>,
}

impl LogEntry {
    /// A test is logged, but counts as neither delivery nor failure.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.kind != "test"
    }
}

/// What is counted of a webhook on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayCounts {
    /// The day on which the attempts began, or the messages arrived.
    pub day: Day,
    /// Attempts that were a success by the webhook's rule.
    pub deliveries: u64,
    /// Attempts that were not.
    pub failures: u64,
    /// Messages that the webhook would have got if they counted, by reason.
    pub skipped: BTreeMap<Skip, u64>,
}

/// What is counted of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// The last [`DAYS`] days, the earliest first; days without anything, too.
    pub days: Vec<DayCounts>,
    /// The most recent attempt that was answered.
    pub last_response: Option<LogEntry>,
}

impl Statistics {
    /// Nothing counted yet.
    #[must_use]
    pub fn empty(today: Day) -> Self {
        let counts =
            |number| DayCounts { day: Day(number), deliveries: 0, failures: 0, skipped: BTreeMap::new() };
        let days = (today.first_counted().0..=today.0).map(counts).collect();
        Self { days, last_response: None }
    }

    /// The counts of a day, if it is one of those.
    pub fn day(&mut self, day: Day) -> Option<&mut DayCounts> {
        self.days.iter_mut().find(|counts| counts.day == day)
    }

    /// Takes in an attempt that was answered.
    pub fn answered(&mut self, entry: LogEntry) {
        let place = |entry: &LogEntry| (entry.at, entry.partition, entry.offset);
        if self.last_response.as_ref().is_none_or(|last| place(last) < place(&entry)) {
            self.last_response = Some(entry);
        }
    }

    /// Deliveries of all days.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.days.iter().map(|day| day.deliveries).sum()
    }

    /// Failures of all days.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.days.iter().map(|day| day.failures).sum()
    }

    /// The share of failures in all attempts, from 0 to 1; none without attempts.
    #[must_use]
    pub fn error_rate(&self) -> Option<f64> {
        let (failures, all) = (self.failures(), self.failures() + self.deliveries());
        (all > 0).then(|| failures as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_one_of_utc_and_reads_back() {
        let day = Day::of(Millis(1_614_211_199_999));
        assert_eq!(day.to_string(), "2021-02-24");
        assert_eq!("2021-02-24".parse(), Ok(day));
        assert_eq!(Day::of(Millis(1_614_211_200_000)).to_string(), "2021-02-25");
        assert_eq!(Day::of(Millis(-1)).to_string(), "1969-12-31");
        assert!("2021-02-30".parse::<Day>().is_err());
    }

    #[test]
    fn ten_days_are_counted_today_included() {
        let statistics = Statistics::empty("2021-03-05".parse().unwrap());
        let days: Vec<String> = statistics.days.iter().map(|counts| counts.day.to_string()).collect();
        assert_eq!((days.len(), days[0].as_str(), days[9].as_str()), (10, "2021-02-24", "2021-03-05"));
        assert_eq!(statistics.error_rate(), None);
    }

    #[test]
    fn the_rate_of_errors_is_the_share_of_failures_in_all_attempts() {
        let today = Day::numbered(18_000);
        let mut statistics = Statistics::empty(today);
        statistics.day(today).unwrap().deliveries = 3;
        statistics.day(today.first_counted()).unwrap().failures = 1;
        assert!(statistics.day(Day::numbered(17_990)).is_none());
        assert_eq!(statistics.error_rate(), Some(0.25));
    }
}
