//! Publishing edits: a record that is not acknowledged within a time is given up, and does not come later, when somebody else
//! may have edited the same.

use std::time::Duration;

use rdkafka::{
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};

use super::{client::LoggingContext, client_config, publisher::Outgoing};
use crate::config::KafkaSettings;

/// Publishes edits.
#[derive(Clone)]
pub struct EditPublisher(FutureProducer<LoggingContext>);

impl EditPublisher {
    /// Connects in the background. What is not acknowledged after `limit` is given up.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(settings: &KafkaSettings, limit: Duration) -> Result<Self, KafkaError> {
        let mut config = client_config(settings);
        let limit = limit.as_millis();
        // Whatever an operator says of other records: that this one ends is what it is for.
        config
            .set("acks", "all")
            .set("message.timeout.ms", limit.to_string())
            .set("request.timeout.ms", limit.to_string())
            .set("message.max.bytes", "134217728")
            .set("partitioner", "murmur2_random");
        Ok(Self(config.create_with_context(LoggingContext)?))
    }

    /// Publishes one record, and returns its offset.
    ///
    /// # Errors
    /// If it was given up. It may have been written all the same, if the brokers took it and their answer was lost.
    #[allow(clippy::disallowed_methods, reason = "edits are single records, and each is waited for")]
    pub async fn publish(&self, record: &Outgoing<'_>) -> Result<i64, KafkaError> {
        let insert = |headers: OwnedHeaders, (key, value): &(&'static str, String)| {
            headers.insert(Header { key, value: Some(value.as_str()) })
        };
        let outgoing = FutureRecord {
            topic: record.topic,
            partition: record.partition,
            payload: record.value,
            key: Some(record.key),
            timestamp: None,
            headers: Some(record.headers.iter().fold(OwnedHeaders::new(), insert)),
        };
        let published = self.0.send(outgoing, Timeout::After(Duration::ZERO)).await;
        published.map(|delivery| delivery.offset).map_err(|(error, _)| error)
    }
}
