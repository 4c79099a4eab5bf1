//! Reading a stretch of one partition, apart from any consumer group.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
};

use super::client::{LoggingContext, reading_config};
use crate::{config::KafkaSettings, model::time::Millis};

/// Longest wait for a broker's answer.
const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// A stretch of which nothing more comes for so long can't be read.
const STALLED: Duration = Duration::from_mins(1);

/// A record of the stretch.
#[derive(Clone, Copy)]
pub struct Replayed<'a> {
    pub offset: i64,
    /// The broker's timestamp.
    pub at: Millis,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    message: &'a BorrowedMessage<'a>,
}

impl<'a> Replayed<'a> {
    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let header = self.message.headers()?.iter().find(|header| header.key == name)?;
        std::str::from_utf8(header.value?).ok()
    }

    /// All headers.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let headers = self.message.headers().into_iter().flat_map(Headers::iter);
        headers.map(|header| (header.key, header.value.unwrap_or_default()))
    }
}

/// The offset of the first record of a partition that has a timestamp or a later one; the end if there is none.
///
/// # Errors
/// If the broker does not answer.
pub async fn offset_at(
    settings: &KafkaSettings,
    topic: &str,
    partition: i32,
    at: Millis,
) -> Result<i64, KafkaError> {
    let consumer = consumer(settings)?;
    let topic = topic.to_owned();
    let ask = move || {
        let mut times = TopicPartitionList::new();
        times.add_partition_offset(&topic, partition, Offset::Offset(at.0))?;
        let found = consumer.offsets_for_times(times, REQUEST_WAIT)?;
        match found.elements().first().map(rdkafka::topic_partition_list::TopicPartitionListElem::offset) {
            Some(Offset::Offset(offset)) => Ok(offset),
            _ => Ok(consumer.fetch_watermarks(&topic, partition, REQUEST_WAIT)?.1),
        }
    };
    tokio::task::spawn_blocking(ask).await.map_err(|_| KafkaError::Canceled)?
}

fn consumer(settings: &KafkaSettings) -> Result<BaseConsumer<LoggingContext>, KafkaError> {
    reading_config(settings, &[]).create_with_context(LoggingContext)
}

/// Reads a partition from an offset to the end that it has now, or until it is told to break off, and returns that end.
/// What was deleted below its beginning is passed over.
///
/// # Errors
/// If the broker does not answer, or nothing more comes for a minute.
pub async fn replay(
    settings: &KafkaSettings,
    topic: &str,
    partition: i32,
    from: i64,
    take: impl FnMut(&Replayed<'_>) -> ControlFlow<()> + Send + 'static,
) -> Result<i64, KafkaError> {
    let consumer = consumer(settings)?;
    let topic = topic.to_owned();
    let read = move || read(&consumer, &topic, partition, from, take);
    tokio::task::spawn_blocking(read).await.map_err(|_| KafkaError::Canceled)?
}

fn read(
    consumer: &BaseConsumer<LoggingContext>,
    topic: &str,
    partition: i32,
    from: i64,
    mut take: impl FnMut(&Replayed<'_>) -> ControlFlow<()>,
) -> Result<i64, KafkaError> {
    let (low, end) = consumer.fetch_watermarks(topic, partition, REQUEST_WAIT)?;
    let from = from.max(low);
    if from >= end {
        return Ok(end);
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(from))?;
    consumer.assign(&list)?;
    let mut progress = Instant::now();
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                progress = Instant::now();
                if message.offset() < end {
                    let (key, value) = (message.key(), message.payload());
                    let at = Millis(message.timestamp().to_millis().unwrap_or_default());
                    let replayed = Replayed { offset: message.offset(), at, key, value, message: &message };
                    if take(&replayed).is_break() {
                        return Ok(end);
                    }
                }
                if message.offset() + 1 >= end {
                    return Ok(end);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(end),
            // Most heal by themselves; a stall ends it.
            Some(Err(_)) | None if progress.elapsed() < STALLED => {}
            Some(Err(error)) => return Err(error),
            None => {
                return Err(KafkaError::MessageConsumption(
                    rdkafka::error::RDKafkaErrorCode::OperationTimedOut,
                ));
            }
        }
    }
}
