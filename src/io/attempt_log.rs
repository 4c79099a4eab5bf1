//! The log of a webhook, as it is shown: the most recent attempts with request and response in full, and what is
//! counted by day.

use bytes::Bytes;
use rdkafka::error::KafkaError;

use super::{
    Redis, StoreError, clock,
    kafka::{
        Topics,
        reader::{FoundRecord, read_places},
    },
    redis::views::ViewStore,
};
use crate::{
    config::KafkaSettings,
    model::statistics::{LogEntry, Statistics, Tenure},
    wire::attempt::{self, AttemptRecord},
};

/// Why a log can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Redis can't tell what is in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Kafka can't give what it refers to.
    #[error("the attempts can't be read: {0}")]
    Kafka(#[from] KafkaError),
}

/// An attempt with everything that was sent and received.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedAttempt {
    /// In short.
    pub entry: LogEntry,
    /// Its record, in which secret values are masked; none if the topic no longer holds it.
    pub record: Option<AttemptRecord>,
    /// The body that was sent; none if `bundles` no longer holds it.
    pub body: Option<Bytes>,
}

/// Logs of all webhooks.
pub struct AttemptLog {
    views: ViewStore,
    kafka: KafkaSettings,
    topics: Topics,
}

impl AttemptLog {
    /// The logs under the prefix of the topics.
    #[must_use]
    pub fn new(redis: Redis, kafka: &KafkaSettings) -> Self {
        let topics = Topics::new(&kafka.topics);
        Self { views: ViewStore::new(redis, topics.prefix()), kafka: kafka.clone(), topics }
    }

    /// The most recent attempts in short, newest first; at most [`LOGGED`](crate::model::statistics::LOGGED), and none
    /// from before the days that are counted.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn recent(&self, webhook: &Tenure, most: usize) -> Result<Vec<LogEntry>, StoreError> {
        self.views.recent(webhook, most, clock::now()).await
    }

    /// What is counted of a webhook by day, and its last response.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn statistics(&self, webhook: &Tenure) -> Result<Statistics, StoreError> {
        self.views.statistics(webhook, clock::now()).await
    }

    /// The most recent attempts with all that was sent and received, newest first.
    ///
    /// # Errors
    /// [`LogError`]
    pub async fn recent_in_full(
        &self,
        webhook: &Tenure,
        most: usize,
    ) -> Result<Vec<LoggedAttempt>, LogError> {
        let entries = self.recent(webhook, most).await?;
        self.in_full(entries).await
    }

    /// Reads what entries refer to, in their order.
    ///
    /// # Errors
    /// [`LogError`]
    pub async fn in_full(&self, entries: Vec<LogEntry>) -> Result<Vec<LoggedAttempt>, LogError> {
        let attempt = |entry: &LogEntry| (entry.partition, entry.offset);
        let bundle = |entry: &LogEntry| (entry.partition, entry.bundle_offset);
        let attempts =
            read_places(&self.kafka, &self.topics.delivery_attempts, entries.iter().map(attempt)).await?;
        let bundles = read_places(&self.kafka, &self.topics.bundles, entries.iter().map(bundle)).await?;
        let logged = |entry: LogEntry| {
            let record = attempts.get(&attempt(&entry)).and_then(|found| record(&entry, found));
            let body = bundles.get(&bundle(&entry)).and_then(|found| body(&entry, found));
            LoggedAttempt { entry, record, body }
        };
        Ok(entries.into_iter().map(logged).collect())
    }
}

/// The record that an entry refers to; none if something else stands there by now.
fn record(entry: &LogEntry, found: &FoundRecord) -> Option<AttemptRecord> {
    let record = attempt::decode(&found.value).ok()?;
    (record.bundle.bundle_id == entry.bundle_id && record.attempt == entry.attempt).then_some(record)
}

/// The body that an entry refers to; none if another bundle stands there by now.
fn body(entry: &LogEntry, found: &FoundRecord) -> Option<Bytes> {
    let headers = found.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let id = headers.into_iter().find(|(name, _)| *name == "bundle-id")?.1;
    (id == entry.bundle_id.to_string().as_bytes()).then(|| found.value.clone().into())
}
