//! What each topic must be like (docs/architecture.md, "Topics").

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{admin::NewTopicRequest, client::Topics},
    Existing, Existings, Fault,
};

/// Settings of topics, by the names that Kafka gives them.
const CLEANUP_POLICY: &str = "cleanup.policy";
const RETENTION_MS: &str = "retention.ms";
const RETENTION_BYTES: &str = "retention.bytes";
const TIMESTAMP_TYPE: &str = "message.timestamp.type";
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
const MIN_COMPACTION_LAG_MS: &str = "min.compaction.lag.ms";
const MAX_COMPACTION_LAG_MS: &str = "max.compaction.lag.ms";
const DELETE_RETENTION_MS: &str = "delete.retention.ms";
const SEGMENT_MS: &str = "segment.ms";

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const MIB: i64 = 1_048_576;

/// Retention that `message-events` needs, for windows of a day with what belongs to them.
const EVENTS_KEPT: i64 = 48 * HOUR;
/// Retention that it is created with.
const EVENTS_KEPT_INITIALLY: i64 = 72 * HOUR;
/// How much longer the history of settings is kept than the messages that it decides on.
const HISTORY_KEPT_LONGER: i64 = 26 * HOUR;
/// A text stands twice in a body, escaped.
const BODY_FACTOR: i64 = 8;
/// Room for the headers of a record, beside its value.
const HEADER_BYTES: i64 = 65_536;

/// What a setting of a topic must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Exactly this.
    Is(&'static str),
    /// This number or more.
    AtLeast(i64),
    /// This number or less.
    AtMost(i64),
    /// Anything; it is created with this number whatever the broker's default.
    Any(i64),
}

impl Demand {
    /// A value that meets the demand.
    #[must_use]
    pub fn value(self) -> String {
        match self {
            Self::Is(value) => value.to_owned(),
            Self::AtLeast(number) | Self::AtMost(number) | Self::Any(number) => number.to_string(),
        }
    }

    /// The demand in words.
    #[must_use]
    pub fn readable(self, name: &str) -> String {
        let value = readable(name, &self.value());
        match self {
            Self::Is(_) => value,
            Self::AtLeast(_) => format!("at least {value}"),
            Self::AtMost(_) => format!("at most {value}"),
            Self::Any(_) => "anything".to_owned(),
        }
    }

    fn is_met(self, name: &str, value: &str) -> bool {
        match self {
            Self::Is(wanted) => value == wanted,
            Self::AtLeast(least) => number(name, value).is_some_and(|number| number >= least),
            Self::AtMost(most) => number(name, value).is_some_and(|number| number <= most),
            Self::Any(_) => true,
        }
    }
}

/// A setting as a number; -1 means that a retention has no limit.
fn number(name: &str, value: &str) -> Option<i64> {
    match value.parse() {
        Ok(-1) if name.starts_with("retention.") => Some(i64::MAX),
        number => number.ok(),
    }
}

/// A value with its meaning where the bare number says little: `86400000 (1day)`.
pub(super) fn readable(name: &str, value: &str) -> String {
    let Some(number) = number(name, value) else {
        return value.to_owned();
    };
    let unit = name.rsplit('.').next();
    let meaning = if number == i64::MAX {
        "no limit".to_owned()
    } else if unit == Some("ms") && number > 0 {
        humantime::format_duration(Duration::from_millis(number as u64)).to_string()
    } else if unit == Some("bytes") && number >= MIB {
        format!("{:.1} MiB", number as f64 / MIB as f64)
    } else {
        return value.to_owned();
    };
    format!("{value} ({meaning})")
}

/// A setting that a topic is created with and checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingRule {
    /// Its name.
    pub name: &'static str,
    /// What it must be.
    pub demand: Demand,
    /// What it is created with, if not simply what meets the demand.
    initial: Option<i64>,
    /// Without it messages are lost, or their windows are decided wrongly: no role may begin.
    vital: bool,
}

impl SettingRule {
    const fn new(name: &'static str, demand: Demand) -> Self {
        Self { name, demand, initial: None, vital: false }
    }

    const fn is(name: &'static str, value: &'static str) -> Self {
        Self::new(name, Demand::Is(value))
    }

    const fn at_least(name: &'static str, number: i64) -> Self {
        Self::new(name, Demand::AtLeast(number))
    }

    const fn at_most(name: &'static str, number: i64) -> Self {
        Self::new(name, Demand::AtMost(number))
    }

    const fn any(name: &'static str, number: i64) -> Self {
        Self::new(name, Demand::Any(number))
    }

    const fn initially(self, number: i64) -> Self {
        Self { initial: Some(number), ..self }
    }

    const fn vital(self) -> Self {
        Self { vital: true, ..self }
    }

    fn initial_value(&self) -> String {
        self.initial.map_or_else(|| self.demand.value(), |number| number.to_string())
    }
}

/// What a topic must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRule {
    /// Its name, with the prefix.
    pub name: String,
    /// How many partitions it must have.
    pub least_partitions: i32,
    /// How many it is created with.
    pub initial_partitions: i32,
    /// Its settings.
    pub settings: Vec<SettingRule>,
}

impl TopicRule {
    /// The topic with one partition that any other number does as well for.
    fn new(name: &str, settings: Vec<SettingRule>) -> Self {
        Self { name: name.to_owned(), least_partitions: 1, initial_partitions: 1, settings }
    }

    fn partitions(self, least: i32, initial: i32) -> Self {
        Self { least_partitions: least, initial_partitions: initial.max(least), ..self }
    }

    /// What is wrong with the topic as it is.
    pub(super) fn faults(&self, existing: &Existing) -> Vec<Fault> {
        let (has, at_least) = (existing.partitions, self.least_partitions);
        let too_few = (has < at_least).then_some(Fault::Partitions { has, at_least });
        let fault = |rule: &SettingRule| {
            let has = existing.settings.get(rule.name);
            let is_met = has.is_some_and(|has| rule.demand.is_met(rule.name, has));
            (!is_met).then(|| Fault::Setting {
                name: rule.name,
                has: has.cloned(),
                demand: rule.demand,
                vital: rule.vital,
            })
        };
        too_few.into_iter().chain(self.settings.iter().filter_map(fault)).collect()
    }

    /// The topic as it is created.
    pub(super) fn request(&self, replication_factor: i32) -> NewTopicRequest {
        NewTopicRequest {
            name: self.name.clone(),
            partitions: self.initial_partitions,
            replication_factor,
            settings: self
                .settings
                .iter()
                .map(|rule| (rule.name, rule.initial_value()))
                .collect::<BTreeMap<_, _>>(),
        }
    }
}

/// The names of all topics, in the order of the flow.
pub(super) fn names(topics: &Topics) -> [&str; 12] {
    [
        &topics.message_events,
        &topics.webhook_settings,
        &topics.webhook_states,
        &topics.webhook_health,
        &topics.message_skips,
        &topics.bundles,
        &topics.waiting_deliveries,
        &topics.delivery_attempts,
        &topics.webhook_changes,
        &topics.webhook_events,
        &topics.notifications,
        &topics.dead_letters,
    ]
}

/// What the topics must be like, given those that exist: some follow from others. `partitions` is what those get that
/// are created with several.
#[must_use]
pub fn rules(topics: &Topics, existing: &Existings, partitions: i32) -> Vec<TopicRule> {
    let facts = Facts::new(topics, existing);
    let [sources, lanes] = [facts.source_partitions, facts.bundle_partitions.max(facts.source_partitions)];
    // Bundles stand in the partition that has their source's number, and what belongs to a bundle in the bundle's.
    vec![
        TopicRule::new(&topics.message_events, message_events()).partitions(1, partitions),
        TopicRule::new(&topics.webhook_settings, history(&facts)),
        TopicRule::new(&topics.webhook_states, history(&facts)),
        TopicRule::new(&topics.webhook_health, vec![SettingRule::is(CLEANUP_POLICY, "compact")]),
        TopicRule::new(&topics.message_skips, message_skips()).partitions(sources, partitions),
        TopicRule::new(&topics.bundles, bundles(&facts)).partitions(sources, partitions),
        TopicRule::new(&topics.waiting_deliveries, waiting_deliveries()).partitions(lanes, partitions),
        TopicRule::new(&topics.delivery_attempts, delivery_attempts()).partitions(lanes, partitions),
        TopicRule::new(&topics.webhook_changes, kept(400 * DAY)),
        TopicRule::new(&topics.webhook_events, kept(14 * DAY)),
        TopicRule::new(&topics.notifications, kept(7 * DAY)),
        TopicRule::new(&topics.dead_letters, dead_letters(&facts)).partitions(1, partitions),
    ]
}

/// What the demands on some topics follow from.
struct Facts {
    source_partitions: i32,
    bundle_partitions: i32,
    /// Retention of `message-events`.
    events_kept: i64,
    /// Largest record of `message-events`.
    event_bytes: i64,
    /// Largest record of those topics whose records may become dead letters.
    largest_bytes: i64,
}

impl Facts {
    fn new(topics: &Topics, existing: &Existings) -> Self {
        let partitions = |topic: &str| existing.get(topic).map_or(1, |existing| existing.partitions);
        let value = |topic: &str, name| number(name, existing.get(topic)?.settings.get(name)?);
        let event_bytes = value(&topics.message_events, MAX_MESSAGE_BYTES).unwrap_or(MIB);
        Self {
            source_partitions: partitions(&topics.message_events),
            bundle_partitions: partitions(&topics.bundles),
            // What is too short now will be put right.
            events_kept: value(&topics.message_events, RETENTION_MS)
                .unwrap_or(EVENTS_KEPT_INITIALLY)
                .max(EVENTS_KEPT),
            event_bytes,
            largest_bytes: event_bytes.max(value(&topics.webhook_settings, MAX_MESSAGE_BYTES).unwrap_or(MIB)),
        }
    }
}

/// Kept by age alone: a limit in bytes would end it early.
fn kept(millis: i64) -> Vec<SettingRule> {
    vec![
        SettingRule::is(CLEANUP_POLICY, "delete"),
        SettingRule::at_least(RETENTION_MS, millis),
        SettingRule::is(RETENTION_BYTES, "-1"),
    ]
}

fn message_events() -> Vec<SettingRule> {
    vec![
        SettingRule::is(TIMESTAMP_TYPE, "LogAppendTime").vital(),
        SettingRule::is(CLEANUP_POLICY, "delete").vital(),
        SettingRule::at_least(RETENTION_MS, EVENTS_KEPT).initially(EVENTS_KEPT_INITIALLY).vital(),
        SettingRule::is(RETENTION_BYTES, "-1"),
        SettingRule::any(MAX_MESSAGE_BYTES, MIB),
    ]
}

/// Compacted, but whole for as long as a replay of messages may ask what was in force.
fn history(facts: &Facts) -> Vec<SettingRule> {
    vec![
        SettingRule::is(TIMESTAMP_TYPE, "LogAppendTime"),
        SettingRule::is(CLEANUP_POLICY, "compact"),
        SettingRule::at_least(MIN_COMPACTION_LAG_MS, facts.events_kept.saturating_add(HISTORY_KEPT_LONGER)),
        SettingRule::any(MAX_MESSAGE_BYTES, MIB),
    ]
}

/// Kept for as long as skips are counted.
fn message_skips() -> Vec<SettingRule> {
    let mut settings = kept(10 * DAY);
    settings.push(SettingRule::at_least(MAX_MESSAGE_BYTES, MIB));
    settings
}

fn bundles(facts: &Facts) -> Vec<SettingRule> {
    let least = facts.event_bytes.saturating_mul(BODY_FACTOR);
    let size = SettingRule::at_least(MAX_MESSAGE_BYTES, least).initially(least.saturating_add(MIB));
    let mut settings = vec![SettingRule::is(TIMESTAMP_TYPE, "LogAppendTime")];
    // What is parked has its body here, and a body that does not fit would stop its partition.
    settings.extend(kept(14 * DAY).into_iter().map(SettingRule::vital));
    settings.push(size.vital());
    settings
}

/// The active segment is never compacted, so it is closed soon. Tombstones stay for a day, for readers that are
/// behind.
fn waiting_deliveries() -> Vec<SettingRule> {
    let ten_minutes = HOUR / 6;
    vec![
        SettingRule::is(CLEANUP_POLICY, "compact").vital(),
        SettingRule::at_most(SEGMENT_MS, ten_minutes),
        SettingRule::at_most(MAX_COMPACTION_LAG_MS, ten_minutes),
        SettingRule::at_least(DELETE_RETENTION_MS, DAY),
    ]
}

/// A record holds up to 64 KiB of a response, which escapes can make six times as large.
fn delivery_attempts() -> Vec<SettingRule> {
    let mut settings = kept(10 * DAY);
    settings.push(SettingRule::at_least(MAX_MESSAGE_BYTES, MIB));
    settings
}

fn dead_letters(facts: &Facts) -> Vec<SettingRule> {
    let mut settings = kept(14 * DAY);
    settings.push(SettingRule::at_least(MAX_MESSAGE_BYTES, facts.largest_bytes.saturating_add(HEADER_BYTES)));
    settings
}
