//! Records in and out of Kafka, for any broker.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use super::kafka::client;
use super::{LIMIT, blocking};

/// A record to be produced.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    timestamp: Option<i64>,
    partition: Option<i32>,
}

impl Outgoing {
    /// A record with a key and a value.
    pub fn new(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self { key: Some(key.as_ref().to_vec()), value: Some(value.as_ref().to_vec()), ..Self::default() }
    }

    /// A record with a key and no value.
    pub fn tombstone(key: impl AsRef<[u8]>) -> Self {
        Self { key: Some(key.as_ref().to_vec()), ..Self::default() }
    }

    /// A record without key and value.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Takes the key away.
    pub fn without_key(mut self) -> Self {
        self.key = None;
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Sets the producer's timestamp, in Unix milliseconds; a topic with `LogAppendTime` ignores it.
    pub fn at(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Names the partition; otherwise it follows from the key as in the Java client.
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }
}

/// Produces records in order and waits until all in-sync replicas have them; answers partition and offset of each.
///
/// # Panics
///
/// If the broker refuses one, or does not answer within a minute.
pub async fn produce(
    servers: &str,
    topic: &str,
    records: impl IntoIterator<Item = Outgoing>,
) -> Vec<(i32, i64)> {
    let producer = producer(servers);
    let mut sent = Vec::new();
    for record in records {
        sent.push(enqueue(&producer, topic, &record).await);
    }
    let mut positions = Vec::with_capacity(sent.len());
    for delivery in sent {
        let delivered = delivery.await.expect("the producer lives");
        let delivered =
            delivered.unwrap_or_else(|(error, _)| panic!("failed to produce to `{topic}`: {error}"));
        positions.push((delivered.partition, delivered.offset));
    }
    positions
}

/// The same with a producer that knows the partitions as they are now.
pub async fn produce_afresh(
    servers: &str,
    topic: &str,
    records: impl IntoIterator<Item = Outgoing>,
) -> Vec<(i32, i64)> {
    forget(servers);
    produce(servers, topic, records).await
}

/// One producer a cluster: a new idempotent one takes half a second to get its id.
static PRODUCERS: Mutex<BTreeMap<String, FutureProducer>> = Mutex::new(BTreeMap::new());

fn producer(servers: &str) -> FutureProducer {
    let mut producers = PRODUCERS.lock().expect("no holder panics");
    let producer = producers.entry(servers.to_owned()).or_insert_with(|| {
        client(servers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "2")
            .set("message.timeout.ms", "60000")
            .create()
            .expect("a producer needs no network")
    });
    producer.clone()
}

/// Ends the producer of a cluster that is no more.
pub(super) fn forget(servers: &str) {
    PRODUCERS.lock().expect("no holder panics").remove(servers);
}

/// Hands a record to the producer, and waits while its queue is full.
async fn enqueue(
    producer: &FutureProducer,
    topic: &str,
    record: &Outgoing,
) -> rdkafka::producer::DeliveryFuture {
    let mut headers = OwnedHeaders::new();
    for (name, value) in &record.headers {
        headers = headers.insert(Header { key: name, value: Some(value) });
    }
    let mut pending: FutureRecord<'_, Vec<u8>, Vec<u8>> = FutureRecord::to(topic).headers(headers);
    pending.key = record.key.as_ref();
    pending.payload = record.value.as_ref();
    pending.timestamp = record.timestamp;
    pending.partition = record.partition;
    loop {
        match producer.send_result(pending) {
            Ok(delivery) => return delivery,
            Err((KafkaError::MessageProduction(rdkafka::types::RDKafkaErrorCode::QueueFull), refused)) => {
                pending = refused;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err((error, _)) => panic!("failed to produce to `{topic}`: {error}"),
        }
    }
}

/// A record as it stands in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Number of the partition.
    pub partition: i32,
    /// Position in the partition.
    pub offset: i64,
    /// Unix milliseconds: of the append, or of the producer, as the topic is set.
    pub timestamp: i64,
    /// The key, if there is one.
    pub key: Option<Vec<u8>>,
    /// The value; none for a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers; of two with one name the last.
    pub headers: BTreeMap<String, Vec<u8>>,
}

impl Record {
    /// The key as text.
    pub fn key(&self) -> &str {
        utf8(self.key.as_deref().expect("the record has a key"))
    }

    /// The value as text.
    pub fn text(&self) -> &str {
        utf8(self.value.as_deref().expect("the record has a value"))
    }

    /// The value as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.text())
            .unwrap_or_else(|error| panic!("`{}` is not JSON: {error}", self.text()))
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| utf8(value))
    }
}

fn utf8(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the record is UTF-8")
}

impl From<&BorrowedMessage<'_>> for Record {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis().expect("each record has a timestamp"),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect(),
        }
    }
}

/// All records of a topic from its beginning to the end it had when asked, by partition and offset.
pub async fn read_topic(servers: &str, topic: &str) -> Vec<Record> {
    let (servers, topic) = (servers.to_owned(), topic.to_owned());
    blocking(move || {
        let consumer = reader(&servers, "rig-reader");
        let mut all = TopicPartitionList::new();
        for partition in 0..partitions(&consumer, &topic) {
            all.add_partition_offset(&topic, partition, Offset::Beginning).expect("the offset is valid");
        }
        consumer.assign(&all).expect("partitions can be assigned");
        read_to_end(&consumer, all.count(), &topic)
    })
    .await
}

/// Reads until the end of each partition was seen.
fn read_to_end(consumer: &BaseConsumer, partitions: usize, topic: &str) -> Vec<Record> {
    let mut records = Vec::new();
    let mut at_end = std::collections::BTreeSet::new();
    while at_end.len() < partitions {
        match consumer.poll(LIMIT).unwrap_or_else(|| panic!("failed to read `{topic}` within {LIMIT:?}")) {
            Ok(message) => records.push(Record::from(&message)),
            Err(KafkaError::PartitionEOF(partition)) => {
                at_end.insert(partition);
            }
            // The client heals these by itself.
            Err(error) if is_transient(&error) => {}
            Err(error) => panic!("failed to read `{topic}`: {error}"),
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

fn is_transient(error: &KafkaError) -> bool {
    use rdkafka::types::RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure};
    matches!(error.rdkafka_error_code(), Some(AllBrokersDown | BrokerTransportFailure))
}

/// The offset after the last record of each partition.
pub async fn end_offsets(servers: &str, topic: &str) -> Vec<i64> {
    let (servers, topic) = (servers.to_owned(), topic.to_owned());
    blocking(move || {
        let consumer = reader(&servers, "rig-reader");
        let deadline = Instant::now() + LIMIT;
        let end = |partition| loop {
            match consumer.fetch_watermarks(&topic, partition, LIMIT) {
                Ok((_, end)) => break end,
                // Its leader is just being chosen anew.
                Err(_) if Instant::now() < deadline => drop(consumer.poll(Duration::from_millis(50))),
                Err(error) => panic!("failed to ask for the end of `{topic}`: {error}"),
            }
        };
        (0..partitions(&consumer, &topic)).map(end).collect()
    })
    .await
}

/// What a group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Number of the partition.
    pub partition: i32,
    /// The offset, if any was committed.
    pub offset: Option<i64>,
    /// The text stored with it.
    pub metadata: String,
}

/// What a group has committed, by partition of a topic.
pub async fn committed(servers: &str, group: &str, topic: &str) -> Vec<Committed> {
    let (servers, group, topic) = (servers.to_owned(), group.to_owned(), topic.to_owned());
    blocking(move || {
        let consumer = reader(&servers, &group);
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(&topic, 0, partitions(&consumer, &topic) - 1);
        let answer = consumer.committed_offsets(wanted, LIMIT).expect("the broker answers");
        let elements = answer.elements();
        let found = elements.iter().map(|element| Committed {
            partition: element.partition(),
            offset: if let Offset::Offset(offset) = element.offset() { Some(offset) } else { None },
            metadata: element.metadata().to_owned(),
        });
        found.collect()
    })
    .await
}

/// Commits an offset in the name of a group that nobody is in.
pub async fn commit(servers: &str, group: &str, topic: &str, partition: i32, offset: i64, metadata: &str) {
    let (servers, group, topic) = (servers.to_owned(), group.to_owned(), topic.to_owned());
    let metadata = metadata.to_owned();
    blocking(move || {
        let consumer = reader(&servers, &group);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, partition, Offset::Offset(offset)).expect("the offset is valid");
        list.find_partition(&topic, partition).expect("it was just added").set_metadata(metadata);
        consumer.commit(&list, CommitMode::Sync).expect("the broker takes it");
    })
    .await;
}

/// How many members a consumer group has.
pub async fn members(servers: &str, group: &str) -> usize {
    let (servers, group) = (servers.to_owned(), group.to_owned());
    blocking(move || {
        let groups = reader(&servers, &group).fetch_group_list(Some(&group), LIMIT);
        let groups = groups.expect("the broker answers");
        groups.groups().iter().map(|group| group.members().len()).sum()
    })
    .await
}

/// A consumer that joins no group and commits nothing.
fn reader(servers: &str, group: &str) -> BaseConsumer {
    client(servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "20")
        .create()
        .expect("a consumer needs no network")
}

/// How many partitions a topic has.
fn partitions(consumer: &BaseConsumer, topic: &str) -> i32 {
    let cluster = consumer.fetch_metadata(Some(topic), LIMIT).expect("the broker answers");
    let found = &cluster.topics()[0];
    assert!(found.error().is_none(), "topic `{topic}` can't be read: {:?}", found.error());
    found.partitions().len() as i32
}
