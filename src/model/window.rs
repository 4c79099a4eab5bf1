//! Tumbling windows: which window a message belongs to, and when a window closes (spec, "Windows").

use std::{fmt, str::FromStr, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::time::{Millis, span_millis};

/// How far ahead of its arrival a message's own timestamp may lie before it is disbelieved.
const MAX_LEAD: Duration = Duration::from_mins(5);

/// How a webhook wants its messages: at once, or one bundle per chat and window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Granularity {
    /// Each message at once.
    #[default]
    #[serde(rename = "none")]
    None,
    /// One hour.
    #[serde(rename = "1h")]
    OneHour,
    /// Six hours.
    #[serde(rename = "6h")]
    SixHours,
    /// Twelve hours.
    #[serde(rename = "12h")]
    TwelveHours,
    /// A day.
    #[serde(rename = "24h")]
    Day,
}

impl Granularity {
    /// Every granularity.
    pub const ALL: [Self; 5] = [Self::None, Self::OneHour, Self::SixHours, Self::TwelveHours, Self::Day];

    /// The granularities that have windows, in the order of positions.
    pub const WINDOWED: [Self; 4] = [Self::OneHour, Self::SixHours, Self::TwelveHours, Self::Day];

    /// The length of the window in hours; 0 for [`Granularity::None`].
    #[must_use]
    pub fn hours(self) -> u32 {
        match self {
            Self::None => 0,
            Self::OneHour => 1,
            Self::SixHours => 6,
            Self::TwelveHours => 12,
            Self::Day => 24,
        }
    }

    /// The setting's text: `none`, `1h`, `6h`, `12h`, `24h`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::OneHour => "1h",
            Self::SixHours => "6h",
            Self::TwelveHours => "12h",
            Self::Day => "24h",
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no granularity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a granularity, expected `none`, `1h`, `6h`, `12h` or `24h`")]
pub struct GranularityError(String);

impl FromStr for Granularity {
    type Err = GranularityError;
    fn from_str(text: &str) -> Result<Self, GranularityError> {
        Self::ALL
            .into_iter()
            .find(|granularity| granularity.as_str() == text)
            .ok_or_else(|| GranularityError(text.to_owned()))
    }
}

/// The rules that windows are made by. A replay must use the same, so they are logged with the committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRule {
    /// Windows that start at this boundary or later follow this rule.
    pub from: Millis,
    /// Length of an hour; shorter only in demonstrations and tests.
    pub hour_ms: i64,
    /// How long after its end a window waits for messages that arrived in time.
    pub grace_ms: i64,
    /// The most messages in a part.
    pub part_messages: u32,
    /// The most bytes of message objects, as JSON, in a part.
    pub part_bytes: u32,
    /// Messages older than this at their arrival do not count; 0 is no limit.
    pub max_age_ms: i64,
}

impl WindowRule {
    /// The rule by the spec's limits for an hour, a grace and an age.
    #[must_use]
    pub fn new(hour: Duration, grace: Duration, max_age: Duration) -> Self {
        Self {
            from: Millis(i64::MIN),
            hour_ms: span_millis(hour),
            grace_ms: span_millis(grace),
            part_messages: 1_000,
            part_bytes: 512 * 1024,
            max_age_ms: span_millis(max_age),
        }
    }

    /// True if both ask for the same, wherever they begin.
    #[must_use]
    pub fn same_terms(&self, other: &Self) -> bool {
        Self { from: other.from, ..*self } == *other
    }

    /// The last hour boundary at or before a time.
    #[must_use]
    pub fn boundary_at(&self, time: Millis) -> Millis {
        Millis(time.0.div_euclid(self.hour_ms).saturating_mul(self.hour_ms))
    }

    /// The last boundary that a clock reading (the arrival of a record, or the host's clock) closes: at or before
    /// the reading less the grace.
    #[must_use]
    pub fn closed_by(&self, reading: Millis) -> Millis {
        self.boundary_at(Millis(reading.0.saturating_sub(self.grace_ms)))
    }

    /// The window of a granularity that contains a time.
    #[must_use]
    pub fn window(&self, granularity: Granularity, effective: Millis) -> Window {
        let length = self.hour_ms.saturating_mul(i64::from(granularity.hours().max(1)));
        let start = effective.0.div_euclid(length).saturating_mul(length);
        Window { granularity, start: Millis(start).max(self.from), end: Millis(start.saturating_add(length)) }
    }

    /// True if a message with this timestamp is too old at its arrival to count.
    #[must_use]
    pub fn too_old(&self, sent: DateTime<Utc>, arrived: Millis) -> bool {
        self.max_age_ms > 0 && sent < Millis(arrived.0.saturating_sub(self.max_age_ms)).to_utc()
    }
}

/// A half-open stretch of time `[start, end)` of one granularity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Window {
    /// How long it is meant to be.
    pub granularity: Granularity,
    /// First millisecond.
    pub start: Millis,
    /// First millisecond after it; always an hour boundary.
    pub end: Millis,
}

impl Window {
    /// The name of a chat's window in Redis. Names of one first offset are in the order of their granularities.
    #[must_use]
    pub fn name(&self, workspace: &str, chat: &str) -> String {
        let Self { granularity, start, end } = self;
        format!("{:02}/{}/{}/{}/{workspace}{chat}", granularity.hours(), start.0, end.0, workspace.len())
    }
}

/// The time that decides a message's windows.
///
/// Never before `arrived - grace` nor before the last closed boundary: a message that comes late counts as of
/// now, so it costs the receiver no extra call, and a replay decides the same.
#[must_use]
pub fn effective_time(
    sent: DateTime<Utc>,
    arrived: Millis,
    last_closed: Option<Millis>,
    rule: &WindowRule,
) -> Millis {
    let disbelieved = sent > (arrived + MAX_LEAD).to_utc();
    let claimed = if disbelieved { arrived } else { Millis::from(sent) };
    let earliest = Millis(arrived.0.saturating_sub(rule.grace_ms));
    claimed.max(earliest).max(last_closed.unwrap_or(earliest))
}

/// A chat's window: what shares one log, and its parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WindowKey {
    /// When.
    pub window: Window,
    /// Whose.
    pub workspace: String,
    /// Which chat.
    pub chat: String,
}

impl WindowKey {
    /// The window's name in Redis.
    #[must_use]
    pub fn name(&self) -> String {
        self.window.name(&self.workspace, &self.chat)
    }

    /// Reads a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut fields = name.splitn(5, '/');
        let mut field = || fields.next();
        let hours: u32 = field()?.parse().ok()?;
        let granularity =
            Granularity::WINDOWED.into_iter().find(|granularity| granularity.hours() == hours)?;
        let start = Millis(field()?.parse().ok()?);
        let end = Millis(field()?.parse().ok()?);
        let split: usize = field()?.parse().ok()?;
        let ids = field()?;
        let (workspace, chat) = (ids.get(..split)?.to_owned(), ids.get(split..)?.to_owned());
        Some(Self { window: Window { granularity, start, end }, workspace, chat })
    }
}

impl fmt::Display for WindowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// The rules in force: the current one and, while windows of the former are open, that one too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WindowRules(Vec<WindowRule>);

impl WindowRules {
    /// One rule for all times.
    #[must_use]
    pub fn single(rule: WindowRule) -> Self {
        Self(vec![rule])
    }

    /// The rule for a time.
    #[must_use]
    pub fn at(&self, time: Millis) -> &WindowRule {
        self.0.iter().rev().find(|rule| rule.from <= time).unwrap_or(&self.0[0])
    }

    /// Asks for other terms from now on. They take effect at the end of the longest window that is open, so that
    /// no open window changes its bounds. Returns true if anything changed.
    pub fn adopt(&mut self, wanted: WindowRule, now: Millis) -> bool {
        let latest = self.0[self.0.len() - 1];
        if latest.same_terms(&wanted) {
            return false;
        }
        let current = *self.at(now);
        let from = current.window(Granularity::Day, now).end;
        self.0 = vec![current, WindowRule { from, ..wanted }];
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;

    fn rule() -> WindowRule {
        WindowRule::new(Duration::from_hours(1), Duration::from_mins(1), Duration::ZERO)
    }

    #[test]
    fn six_hour_windows_start_at_0_6_12_18_utc() {
        let nine = Millis::from(parse("2021-02-24T09:00:00Z"));
        let window = rule().window(Granularity::SixHours, nine);
        assert_eq!(window.start, Millis::from(parse("2021-02-24T06:00:00Z")));
        assert_eq!(window.end, Millis::from(parse("2021-02-24T12:00:00Z")));
    }

    #[test]
    fn a_late_message_joins_the_current_window() {
        let arrived = Millis(10 * HOUR + 30 * 60_000);
        let sent = Millis(2 * HOUR).to_utc();
        let effective = effective_time(sent, arrived, None, &rule());
        assert_eq!(effective, Millis(arrived.0 - 60_000));
    }

    #[test]
    fn a_message_within_the_grace_joins_the_window_that_just_ended() {
        let effective =
            effective_time(Millis(10 * HOUR - 1).to_utc(), Millis(10 * HOUR + 59_999), None, &rule());
        assert_eq!(rule().window(Granularity::OneHour, effective).end, Millis(10 * HOUR));
    }

    #[test]
    fn nothing_joins_a_window_that_is_closed() {
        let closed = Some(Millis(10 * HOUR));
        let effective =
            effective_time(Millis(10 * HOUR - 1).to_utc(), Millis(10 * HOUR + 10), closed, &rule());
        assert_eq!(effective, Millis(10 * HOUR));
    }

    #[test]
    fn a_timestamp_from_the_future_is_disbelieved_beyond_five_minutes() {
        let arrived = Millis(10 * HOUR);
        let ahead = |ms: i64| effective_time(Millis(arrived.0 + ms).to_utc(), arrived, None, &rule());
        assert_eq!(ahead(300_000), Millis(arrived.0 + 300_000));
        assert_eq!(ahead(300_001), arrived);
    }

    #[test]
    fn other_terms_wait_for_the_end_of_the_longest_open_window() {
        let mut rules = WindowRules::single(rule());
        let short = WindowRule::new(Duration::from_secs(20), Duration::from_millis(333), Duration::ZERO);
        assert!(rules.adopt(short, Millis(30 * HOUR)));
        assert!(!rules.adopt(short, Millis(31 * HOUR)), "asking again changes nothing");
        assert_eq!(rules.at(Millis(48 * HOUR - 1)).hour_ms, HOUR);
        assert_eq!(rules.at(Millis(48 * HOUR)).hour_ms, 20_000);
    }

    fn parse(text: &str) -> DateTime<Utc> {
        super::super::time::parse_timestamp(text).unwrap()
    }

    #[test]
    fn names_of_one_first_offset_are_in_the_order_of_granularities() {
        let key = |granularity| WindowKey {
            window: Window { granularity, start: Millis(0), end: Millis(86_400_000) },
            workspace: "w".to_owned(),
            chat: "c".to_owned(),
        };
        let names: Vec<_> =
            Granularity::WINDOWED.into_iter().map(|granularity| key(granularity).name()).collect();
        assert!(names.is_sorted());
    }

    proptest! {
        #[test]
        fn a_window_s_name_reads_back(
            start in 0i64..1 << 41, g in 0usize..4, workspace in "[^\u{0}]{1,12}|a/b", chat in "[^\u{0}]{1,12}|1/2",
        ) {
            let window = Window { granularity: Granularity::WINDOWED[g], start: Millis(start), end: Millis(start + 5) };
            let key = WindowKey { window, workspace, chat };
            prop_assert_eq!(WindowKey::parse(&key.name()), Some(key));
        }

        #[test]
        fn a_window_contains_the_time_it_was_made_for(ms in -HOUR * 24 * 365..HOUR * 24 * 365 * 80, g in 0usize..4) {
            let granularity = Granularity::WINDOWED[g];
            let window = rule().window(granularity, Millis(ms));
            prop_assert!(window.start.0 <= ms && ms < window.end.0);
            prop_assert_eq!(window.end.0 - window.start.0, i64::from(granularity.hours()) * HOUR);
            prop_assert_eq!(window.end.0 % HOUR, 0);
        }

        #[test]
        fn a_message_never_joins_a_window_that_a_reading_at_its_arrival_had_closed(
            sent in 0..HOUR * 1000, arrived in 0..HOUR * 1000,
        ) {
            let closed = rule().closed_by(Millis(arrived));
            let effective = effective_time(Millis(sent).to_utc(), Millis(arrived), Some(closed), &rule());
            prop_assert!(rule().window(Granularity::OneHour, effective).end > closed);
            // The last closed boundary never decides while arrivals rise.
            prop_assert_eq!(effective, effective_time(Millis(sent).to_utc(), Millis(arrived), None, &rule()));
        }
    }
}
