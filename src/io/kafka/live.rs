//! What happens to webhooks, as it happens: keys of new records, read from the ends of topics by a thread of its own.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::client::{LoggingContext, reading_config};
use crate::config::KafkaSettings;

/// How often new partitions are looked for.
const LOOK: Duration = Duration::from_secs(30);
/// Longest wait for a record, and so for the order to stop.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Longest wait for a broker's answer.
const REQUEST_WAIT: Duration = Duration::from_secs(5);

/// A new record: the index of its topic, its place, its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    pub topic: usize,
    pub partition: i32,
    pub offset: i64,
    pub key: Vec<u8>,
}

/// Starts to read topics from their ends. What is missed while no broker answers stays missed. The answer ends when nothing
/// is read any more.
///
/// # Errors
/// If librdkafka refuses the configuration.
pub fn start(
    settings: &KafkaSettings,
    topics: Vec<String>,
    embedded: bool,
    stop: CancellationToken,
    take: impl Fn(Happened) + Send + 'static,
) -> Result<oneshot::Receiver<()>, KafkaError> {
    let wait = if embedded { "10" } else { "100" };
    let own =
        [("auto.offset.reset", "latest"), ("enable.partition.eof", "false"), ("fetch.wait.max.ms", wait)];
    let config = reading_config(settings, &own);
    let consumer: BaseConsumer<LoggingContext> = config.create_with_context(LoggingContext)?;
    let (reads, ended) = oneshot::channel::<()>();
    std::thread::Builder::new()
        .name("live".to_owned())
        .spawn(move || {
            let _reads = reads;
            read(&consumer, &topics, &stop, &take);
        })
        .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    Ok(ended)
}

fn read(
    consumer: &BaseConsumer<LoggingContext>,
    topics: &[String],
    stop: &CancellationToken,
    take: &impl Fn(Happened),
) {
    let (mut known, mut next_look) = (HashSet::new(), Instant::now());
    while !stop.is_cancelled() {
        if Instant::now() >= next_look {
            next_look = Instant::now() + LOOK;
            for topic in topics {
                if let Err(error) = assign(consumer, topic, &mut known) {
                    debug!(%error, topic, "the partitions of a topic are not known");
                    next_look = Instant::now() + REQUEST_WAIT;
                }
            }
        }
        // Trouble heals by itself, and is logged by the client.
        let Some(Ok(message)) = consumer.poll(POLL_WAIT) else { continue };
        let Some(topic) = topics.iter().position(|topic| topic == message.topic()) else { continue };
        let key = message.key().unwrap_or_default().to_vec();
        take(Happened { topic, partition: message.partition(), offset: message.offset(), key });
    }
}

fn assign(
    consumer: &BaseConsumer<LoggingContext>,
    topic: &str,
    known: &mut HashSet<(String, i32)>,
) -> Result<(), KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST_WAIT)?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions) {
        if known.insert((topic.to_owned(), partition.id())) {
            list.add_partition_offset(topic, partition.id(), Offset::End)?;
        }
    }
    if list.count() > 0 { consumer.incremental_assign(&list) } else { Ok(()) }
}
