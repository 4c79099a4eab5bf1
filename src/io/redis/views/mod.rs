//! Views of webhooks: the log, and what is counted by day. Each is computed from the records of one topic, partition by
//! partition, and each record is taken in once, however often it is read.
//!
//! | key | holds |
//! |---|---|
//! | `{wh:ID}:counts:WORKSPACE` | by `attempts/PARTITION` and `skips/PARTITION`: incarnation, reflected offset and counts by day; by `…/last` the last attempt that was answered |
//! | `{wh:ID}:log:WORKSPACE` | the last attempts (`wire::log_entry`), by the time at which they began |
//! | `{attempts:PARTITION}:views`, `{skips:PARTITION}:views` | version, incarnation and reflected offset of all views of that partition |

use std::{collections::HashMap, fmt};

use redis::Script;

use super::{Redis, StoreError};
use crate::{
    model::{
        event::Skip,
        statistics::{DAY_MS, DAYS, Day, LOGGED, LogEntry, Statistics, Tenure},
        time::Millis,
    },
    wire::log_entry,
};

/// Version of everything here.
const VERSION: u32 = 2;
/// Views of a webhook of which nothing comes any more go after so many milliseconds.
const LIFE_MS: i64 = (DAYS + 2) * DAY_MS;
/// Names of what is counted; a skip is counted by its reason.
const DELIVERED: &str = "delivered";
const FAILED: &str = "failed";

/// What views are computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewKind {
    /// `delivery-attempts`
    Attempts,
    /// `message-skips`
    Skips,
}

impl ViewKind {
    /// Its name in keys and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Skips => "skips",
        }
    }
}

/// One partition of what views are computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewSource {
    /// The topic.
    pub kind: ViewKind,
    /// Its partition.
    pub partition: i32,
}

impl fmt::Display for ViewSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.partition)
    }
}

/// What a record says of one webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Offset of the record.
    pub offset: i64,
    /// What it says.
    pub said: Said,
}

/// See [`Item`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// An attempt was made.
    Attempted(LogEntry),
    /// So many messages that arrived on a day did not count.
    Skipped(Day, Skip, u64),
}

/// How far the views of a partition are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rises each time they are begun anew.
    pub incarnation: i64,
    /// All records below this offset are reflected.
    pub reflects: i64,
}

/// Views of all webhooks.
pub struct ViewStore {
    redis: Redis,
    prefix: String,
    begin: Script,
    reflect: Script,
    advance: Script,
}

impl ViewStore {
    /// The views under a prefix of topics.
    #[must_use]
    pub fn new(redis: Redis, prefix: &str) -> Self {
        Self {
            redis,
            prefix: prefix.to_owned(),
            begin: Script::new(include_str!("begin.lua")),
            reflect: Script::new(include_str!("reflect.lua")),
            advance: Script::new(include_str!("advance.lua")),
        }
    }

    fn progress_key(&self, source: ViewSource) -> String {
        format!("{{{}{}:{}}}:views", self.prefix, source.kind.as_str(), source.partition)
    }

    fn counts_key(&self, Tenure { webhook, workspace }: &Tenure) -> String {
        format!("{{{}wh:{webhook}}}:counts:{workspace}", self.prefix)
    }

    fn log_key(&self, Tenure { webhook, workspace }: &Tenure) -> String {
        format!("{{{}wh:{webhook}}}:log:{workspace}", self.prefix)
    }

    /// How far the views of a partition are; none if they are gone, or of another release.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn progress(&self, source: ViewSource) -> Result<Option<Progress>, StoreError> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.progress_key(source)).arg(&["v", "incarnation", "reflects"]);
        let found: (Option<u32>, Option<i64>, Option<i64>) =
            self.redis.command("views.progress", &command).await?;
        Ok(match found {
            (Some(VERSION), Some(incarnation), Some(reflects)) => Some(Progress { incarnation, reflects }),
            _ => None,
        })
    }

    /// Begins the views of a partition anew: nothing is reflected.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if a later incarnation was begun.
    pub async fn begin(&self, source: ViewSource, incarnation: i64) -> Result<Progress, StoreError> {
        let mut call = self.begin.key(self.progress_key(source));
        call.arg(VERSION).arg(incarnation);
        self.redis.invoke::<()>("views.begin", &call).await?;
        Ok(Progress { incarnation, reflects: 0 })
    }

    /// Notes that the views of a partition reflect everything below an offset.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if they are gone, or not as they were.
    pub async fn advance(
        &self,
        source: ViewSource,
        known: Progress,
        reflects: i64,
    ) -> Result<(), StoreError> {
        let mut call = self.advance.key(self.progress_key(source));
        call.arg(known.incarnation).arg(known.reflects).arg(reflects);
        self.redis.invoke("views.advance", &call).await
    }

    /// Takes what records say of a webhook into its view, which then reflects everything below an offset. Returns the
    /// offset that it reflected before; none if there was no view of this incarnation.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if a later incarnation was begun.
    pub async fn reflect(
        &self,
        source: ViewSource,
        incarnation: i64,
        webhook: &Tenure,
        items: &[Item],
        reflects: i64,
        now: Millis,
    ) -> Result<Option<i64>, StoreError> {
        let first_day = Day::of(now).first_counted();
        let mut call = self.reflect.key(self.counts_key(webhook));
        call.key(self.log_key(webhook)).arg(source.to_string()).arg(incarnation).arg(reflects);
        call.arg(first_day.number()).arg(first_day.start().0).arg(LOGGED).arg(LIFE_MS);
        for item in items {
            call.arg(item.offset);
            match &item.said {
                Said::Attempted(entry) => {
                    let name = match entry.outcome {
                        _ if !entry.counts() => "",
                        outcome if outcome.is_delivered() => DELIVERED,
                        _ => FAILED,
                    };
                    call.arg(Day::of(entry.at).number()).arg(name).arg(1).arg(entry.at.0);
                    call.arg(log_entry::encode(entry)).arg(u8::from(entry.status.is_some()));
                }
                Said::Skipped(day, skip, count) => {
                    call.arg(day.number()).arg(skip.as_str()).arg(*count).arg(0).arg("").arg(0);
                }
            }
        }
        let before: i64 = self.redis.invoke("views.reflect", &call).await?;
        Ok(Some(before).filter(|before| *before >= 0))
    }

    /// The most recent attempts of a webhook that began within the days that are counted, newest first.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if an entry can't be read.
    pub async fn recent(
        &self,
        webhook: &Tenure,
        most: usize,
        now: Millis,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let mut command = redis::cmd("ZRANGE");
        let from = Day::of(now).first_counted().start();
        command.arg(self.log_key(webhook)).arg("+inf").arg(from.0).arg("BYSCORE").arg("REV");
        command.arg("LIMIT").arg(0).arg(LOGGED);
        let entries: Vec<Vec<u8>> = self.redis.command("views.recent", &command).await?;
        let mut entries = entries.iter().map(|entry| decode(entry)).collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(|entry| std::cmp::Reverse((entry.at, entry.partition, entry.offset)));
        entries.truncate(most);
        Ok(entries)
    }

    /// What is counted of a webhook.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it can't be read.
    pub async fn statistics(&self, webhook: &Tenure, now: Millis) -> Result<Statistics, StoreError> {
        let mut command = redis::cmd("HGETALL");
        command.arg(self.counts_key(webhook));
        let fields: HashMap<String, Vec<u8>> = self.redis.command("views.statistics", &command).await?;
        let today = Day::of(now);
        let mut statistics = Statistics::empty(today);
        for (field, value) in fields {
            if field.ends_with("/last") {
                let space = value.iter().position(|byte| *byte == b' ').map_or(0, |space| space + 1);
                let entry = decode(&value[space..])?;
                if Day::of(entry.at) >= today.first_counted() {
                    statistics.answered(entry);
                }
            } else {
                let counts: Counts = serde_json::from_slice(&value).map_err(damaged)?;
                counts.add_to(&mut statistics);
            }
        }
        Ok(statistics)
    }
}

/// What the script writes of one partition.
#[derive(serde::Deserialize)]
struct Counts {
    /// By number of the day, then by name.
    days: HashMap<String, HashMap<String, u64>>,
}

impl Counts {
    fn add_to(self, statistics: &mut Statistics) {
        for (day, counts) in self.days {
            let Some(known) = day.parse().ok().and_then(|day| statistics.day(Day::numbered(day))) else {
                continue;
            };
            for (name, count) in counts {
                match name.as_str() {
                    DELIVERED => known.deliveries += count,
                    FAILED => known.failures += count,
                    reason => {
                        if let Some(skip) = Skip::parse(reason) {
                            *known.skipped.entry(skip).or_default() += count;
                        }
                    }
                }
            }
        }
    }
}

fn decode(entry: &[u8]) -> Result<LogEntry, StoreError> {
    log_entry::decode(entry).map_err(|error| StoreError::Damaged(format!("an entry of a log: {error}")))
}

#[allow(clippy::needless_pass_by_value, reason = "made for `map_err`")]
fn damaged(error: serde_json::Error) -> StoreError {
    StoreError::Damaged(format!("the counts of a webhook: {error}"))
}
