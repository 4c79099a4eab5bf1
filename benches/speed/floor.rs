//! What the figures are held against: the same bytes through the same clients, with nothing done to them.

use std::{collections::HashMap, time::Duration};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};

use super::{
    cost::{Cost, Reading},
    support::System,
};

/// Records that `aggregate` takes at once from one partition.
const BATCH: usize = 500;

/// A consumer with the settings of the product's, at the beginning of a topic.
fn consumer(system: &System, topic: &str) -> BaseConsumer {
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
    for partition in 0..system.partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset of the list's");
    }
    consumer.assign(&list).expect("the partitions exist");
    consumer
}

/// Reads so many records and appends their bytes to a key of each chat, packed: once for each chat and batch.
pub async fn append(system: &System, topic: &str, records: usize) -> Cost {
    let consumer = consumer(system, &system.topic(topic));
    let client = redis::Client::open(system.redis.url()).expect("the rig makes URLs");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis answers");
    let began = Reading::own();
    let (mut left, mut chats) = (records, HashMap::<Vec<u8>, Vec<u8>>::new());
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
        }
        let mut pipeline = redis::pipe();
        for (chat, packed) in chats.drain() {
            pipeline.cmd("APPEND").arg([b"floor:", chat.as_slice()].concat()).arg(packed).ignore();
        }
        pipeline.query_async::<()>(&mut connection).await.expect("Redis appends");
        left -= batch;
    }
    Reading::own().since(began, records)
}

fn next<T>(consumer: &BaseConsumer, take: impl FnOnce(&rdkafka::message::BorrowedMessage<'_>) -> T) -> T {
    let record = consumer.poll(Duration::from_secs(30)).expect("there are as many records");
    take(&record.expect("the broker serves them"))
}
