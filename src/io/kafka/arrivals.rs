//! Where the partitions of a topic begin and end, and when their records arrived, asked apart from any consumer group.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    client::{LoggingContext, reading_config},
    onlooker::Span,
};
use crate::{config::KafkaSettings, model::time::Millis};

/// Longest wait for a broker's answer.
const REQUEST_WAIT: Duration = Duration::from_secs(5);

/// Asks about one topic. Clones share the connection.
#[derive(Clone)]
pub struct Arrivals(Arc<Inner>);

struct Inner {
    consumer: BaseConsumer<LoggingContext>,
    /// One record is read at a time.
    reading: Mutex<()>,
    topic: String,
}

impl Arrivals {
    /// Connects in the background.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(settings: &KafkaSettings, topic: &str) -> Result<Self, KafkaError> {
        // Of what is read only the first record is looked at.
        let own = [
            ("fetch.message.max.bytes", "16384"),
            ("receive.message.max.bytes", "134217728"),
            ("queued.min.messages", "1"),
            ("queued.max.messages.kbytes", "1024"),
        ];
        let consumer = reading_config(settings, &own).create_with_context(LoggingContext)?;
        Ok(Self(Arc::new(Inner { consumer, reading: Mutex::default(), topic: topic.to_owned() })))
    }

    /// Where a partition begins and ends.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn span(&self, partition: i32) -> Result<Span, KafkaError> {
        self.blocking(move |Inner { consumer, topic, .. }| {
            let (begin, end) = consumer.fetch_watermarks(topic, partition, REQUEST_WAIT)?;
            Ok(Span { begin, end })
        })
        .await
    }

    /// When the first record of a partition at an offset or after it arrived; none if there is none.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn at(&self, partition: i32, offset: i64) -> Result<Option<Millis>, KafkaError> {
        self.blocking(move |inner| {
            let _alone = inner.reading.lock().unwrap_or_else(PoisonError::into_inner);
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&inner.topic, partition, Offset::Offset(offset))?;
            inner.consumer.assign(&list)?;
            let found = first(&inner.consumer, partition, offset);
            // Nothing is read ahead.
            inner.consumer.unassign()?;
            found
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let inner = self.0.clone();
        tokio::task::spawn_blocking(move || work(&inner)).await.map_err(|_| KafkaError::Canceled)?
    }
}

/// The arrival of the first record that comes.
fn first(
    consumer: &BaseConsumer<LoggingContext>,
    partition: i32,
    offset: i64,
) -> Result<Option<Millis>, KafkaError> {
    let deadline = Instant::now() + REQUEST_WAIT;
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) if message.partition() == partition && message.offset() >= offset => {
                return Ok(message.timestamp().to_millis().map(Millis));
            }
            Some(Ok(_)) => {}
            Some(Err(KafkaError::PartitionEOF(ended))) if ended == partition => return Ok(None),
            // Most errors heal by themselves; a stall ends it.
            Some(Err(_)) | None if Instant::now() < deadline => {}
            Some(Err(error)) => return Err(error),
            None => return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)),
        }
    }
}
