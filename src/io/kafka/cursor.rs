//! A second reader of one partition, apart from the consumer group: from an offset to the end, and on.

use std::time::Duration;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use tokio::sync::mpsc;
use tracing::warn;

use super::{
    client::{LoggingContext, reading_config},
    intake::RecordBatch,
};
use crate::config::KafkaSettings;

/// Longest wait for the first record of a batch.
const WAIT: Duration = Duration::from_millis(50);
/// Most records of a batch.
const BATCH_RECORDS: usize = 500;
/// So many batches wait for whoever takes them.
const BATCHES: usize = 4;

/// Reads on a thread of its own until it is dropped.
pub struct Cursor {
    batches: mpsc::Receiver<RecordBatch>,
}

impl Cursor {
    /// Starts reading a partition at an offset.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn start(
        settings: &KafkaSettings,
        topic: &str,
        partition: i32,
        from: i64,
    ) -> Result<Self, KafkaError> {
        let own = [
            ("auto.offset.reset", "error"),
            ("enable.partition.eof", "false"),
            ("queued.max.messages.kbytes", "4096"),
        ];
        let config = reading_config(settings, &own);
        let consumer: BaseConsumer<LoggingContext> = config.create_with_context(LoggingContext)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(from))?;
        consumer.assign(&list)?;
        let (sender, batches) = mpsc::channel(BATCHES);
        std::thread::Builder::new()
            .name("cursor".to_owned())
            .spawn(move || read(&consumer, &sender))
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { batches })
    }

    /// The next batch; none if nothing can be read any more.
    pub async fn next(&mut self) -> Option<RecordBatch> {
        self.batches.recv().await
    }
}

fn read(consumer: &BaseConsumer<LoggingContext>, batches: &mpsc::Sender<RecordBatch>) {
    while !batches.is_closed() {
        let mut batch = RecordBatch::new();
        let mut wait = WAIT;
        while batch.len() < BATCH_RECORDS {
            match consumer.poll(wait) {
                Some(Ok(message)) => batch.push(&message),
                Some(Err(error)) => {
                    warn!(%error, "trouble of the second reader");
                    break;
                }
                None => break,
            }
            wait = Duration::ZERO;
        }
        if !batch.is_empty() && batches.blocking_send(batch).is_err() {
            return;
        }
    }
}
