//! What the figures are held against: the same bytes through the same clients, with nothing done to them.

use std::{collections::HashMap, time::Duration};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
};

use super::{
    cost::{Cost, Reading},
    rig::PARTITIONS,
    support::{LIMIT, System},
};

/// Records that `aggregate` takes at once from one partition.
const BATCH: usize = 500;
/// Pause before a record is handed over again for which there was no room.
const FULL: Duration = Duration::from_millis(2);

/// A consumer with the settings of the program's, at the beginning of a topic.
pub fn consumer(system: &System, topic: &str) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", system.kafka.servers())
        .set("group.id", "floor")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.message.max.bytes", "16777216")
        .set("receive.message.max.bytes", "134217728")
        .set("queued.max.messages.kbytes", "65536")
        .create()
        .expect("the configuration is valid");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset of the list's");
    }
    consumer.assign(&list).expect("the partitions exist");
    consumer
}

/// A producer with the settings of the program's.
pub struct Producer(ThreadedProducer<DefaultProducerContext>);

impl Producer {
    pub fn new(system: &System) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", system.kafka.servers())
            .set("enable.idempotence", "true")
            .set("enable.gapless.guarantee", "true")
            .set("message.timeout.ms", "0")
            .set("linger.ms", "2")
            .set("compression.type", "lz4")
            .set("message.max.bytes", "134217728")
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "131072")
            .create();
        Self(producer.expect("the configuration is valid"))
    }

    /// Hands a record over, once there is room. Blocks.
    pub fn send(&self, mut record: BaseRecord<'_, [u8], [u8]>) {
        loop {
            match self.0.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    record = refused;
                    self.0.poll(FULL);
                }
                Err((error, _)) => panic!("the producer refuses a record: {error}"),
            }
        }
    }

    /// Waits until everything is acknowledged. Blocks.
    pub fn flush(&self) {
        self.0.flush(LIMIT).expect("the broker takes every record");
    }
}

/// Takes the next record. Blocks.
pub fn next<T>(consumer: &BaseConsumer, take: impl FnOnce(&BorrowedMessage<'_>) -> T) -> T {
    let record = consumer.poll(LIMIT).expect("there are as many records");
    take(&record.expect("the broker serves them"))
}

/// Reads so many records, and does nothing else. It begins with the first record: connecting is no part of it.
pub fn read(system: &System, topic: &str, records: usize) -> Cost {
    let consumer = consumer(system, &system.topic(topic));
    next(&consumer, |_| ());
    let began = Reading::own();
    for _ in 1..records {
        next(&consumer, |_| ());
    }
    Reading::own().since(began, records)
}

/// Reads so many records and appends their bytes to a key of each chat, packed: once for each chat and batch. Tells the
/// number of batches, too: each is a round trip to Redis. As for [`read`], connecting is no part of it.
pub async fn append(system: &System, topic: &str, records: usize) -> (Cost, usize) {
    let consumer = consumer(system, &system.topic(topic));
    let mut connection = system.redis.connection().await;
    let mut began = None;
    let (mut left, mut batches, mut chats) = (records, 0, HashMap::<Vec<u8>, Vec<u8>>::new());
    while left > 0 {
        let batch = left.min(BATCH);
        for _ in 0..batch {
            next(&consumer, |record| {
                let chat = record.key().unwrap_or_default();
                let content = record.payload().unwrap_or_default();
                match chats.get_mut(chat) {
                    Some(packed) => packed.extend_from_slice(content),
                    None => drop(chats.insert(chat.to_vec(), content.to_vec())),
                }
            });
            began.get_or_insert_with(Reading::own);
        }
        let mut pipeline = redis::pipe();
        for (chat, packed) in chats.drain() {
            pipeline.cmd("APPEND").arg([b"floor:", chat.as_slice()].concat()).arg(packed).ignore();
        }
        pipeline.query_async::<()>(&mut connection).await.expect("Redis appends");
        left -= batch;
        batches += 1;
    }
    (Reading::own().since(began.expect("there are records"), records), batches)
}
