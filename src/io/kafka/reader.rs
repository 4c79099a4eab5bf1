//! Reading single records of one partition by their offsets, apart from any consumer group.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::Headers,
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::client::{LoggingContext, reading_config};
use crate::{config::KafkaSettings, model::time::Millis};

/// Longest wait for a broker's answer.
const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// Records that do not come within this time can't be read.
const STALLED: Duration = Duration::from_secs(20);
/// So many partitions are read at a time.
const READERS: usize = 4;
/// So many records that are not wanted are read over rather than jumped over.
const READ_OVER: i64 = 200;

/// A record as it was found.
#[derive(Debug, Clone)]
pub struct FoundRecord {
    pub offset: i64,
    /// The broker's timestamp.
    pub at: Millis,
    pub headers: Vec<(String, Vec<u8>)>,
    pub value: Vec<u8>,
}

/// The records of a topic at partitions and offsets, as far as they are still there.
///
/// # Errors
/// If the broker does not answer.
pub async fn read_places(
    settings: &KafkaSettings,
    topic: &str,
    places: impl Iterator<Item = (i32, i64)>,
) -> Result<BTreeMap<(i32, i64), FoundRecord>, KafkaError> {
    let mut partitions: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for (partition, offset) in places {
        partitions.entry(partition).or_default().push(offset);
    }
    let mut found = BTreeMap::new();
    let mut readers = JoinSet::new();
    let permits = Arc::new(Semaphore::new(READERS));
    for (partition, mut offsets) in partitions {
        offsets.sort_unstable();
        offsets.dedup();
        let (settings, topic, permits) = (settings.clone(), topic.to_owned(), permits.clone());
        readers.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let read = move || {
                let records = RecordReader::new(&settings, &topic, partition)?.read(&offsets)?;
                Ok::<_, KafkaError>((partition, records))
            };
            tokio::task::spawn_blocking(read).await
        });
    }
    while let Some(read) = readers.join_next().await {
        let (partition, records) =
            read.and_then(std::convert::identity).map_err(|_| KafkaError::Canceled)??;
        found.extend(records.into_iter().flatten().map(|record| ((partition, record.offset), record)));
    }
    Ok(found)
}

/// Reads records of one partition. Fast where the offsets rise from call to call.
pub struct RecordReader {
    consumer: BaseConsumer<LoggingContext>,
    topic: String,
    partition: i32,
    /// The offset that comes next; none before the first jump.
    next: Option<i64>,
}

impl RecordReader {
    /// Connects in the background.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(settings: &KafkaSettings, topic: &str, partition: i32) -> Result<Self, KafkaError> {
        let own = [
            ("fetch.message.max.bytes", "524288"),
            ("receive.message.max.bytes", "134217728"),
            ("queued.max.messages.kbytes", "1024"),
        ];
        let config = reading_config(settings, &own);
        let consumer = config.create_with_context(LoggingContext)?;
        Ok(Self { consumer, topic: topic.to_owned(), partition, next: None })
    }

    /// Reads the records at rising offsets, blocking. None for one that is not there any more.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn read(&mut self, offsets: &[i64]) -> Result<Vec<Option<FoundRecord>>, KafkaError> {
        let found: Result<_, _> = offsets.iter().map(|offset| self.read_one(*offset)).collect();
        if found.is_err() {
            // Where the consumer stands is not known; the next call jumps.
            self.next = None;
        }
        found
    }

    fn read_one(&mut self, offset: i64) -> Result<Option<FoundRecord>, KafkaError> {
        let near = self.next.is_some_and(|next| (next..=next + READ_OVER).contains(&offset));
        if !near && !self.jump(offset)? {
            return Ok(None);
        }
        let deadline = Instant::now() + STALLED;
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if message.offset() < offset => {}
                Some(Ok(message)) => {
                    // A later one is skipped: the next wanted one may be this very one.
                    let found = message.offset() == offset;
                    let record = found.then(|| FoundRecord {
                        offset,
                        at: Millis(message.timestamp().to_millis().unwrap_or_default()),
                        headers: headers(&message),
                        value: message.payload().unwrap_or_default().to_vec(),
                    });
                    self.next = found.then_some(offset + 1);
                    return Ok(record);
                }
                // The end as it was when it was reached; more may have come since. Most errors heal by themselves; a stall ends it.
                Some(Err(_)) | None if Instant::now() < deadline => {}
                Some(Err(error)) => return Err(error),
                None => return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)),
            }
        }
    }

    /// Goes to an offset. False if there is no record any more. One past the end must come: right after a change of
    /// leaders the end may seem lower than it is.
    fn jump(&mut self, offset: i64) -> Result<bool, KafkaError> {
        let (low, _) = self.consumer.fetch_watermarks(&self.topic, self.partition, REQUEST_WAIT)?;
        if offset < low {
            return Ok(false);
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, self.partition, Offset::Offset(offset))?;
        // Anew each time: what was read ahead from the former place is discarded with the former assignment.
        self.consumer.unassign()?;
        self.consumer.assign(&list)?;
        self.next = Some(offset);
        Ok(true)
    }
}

fn headers(message: &impl Message) -> Vec<(String, Vec<u8>)> {
    let Some(headers) = message.headers() else {
        return Vec::new();
    };
    let own = |header: rdkafka::message::Header<'_, &[u8]>| {
        (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
    };
    headers.iter().map(own).collect()
}
