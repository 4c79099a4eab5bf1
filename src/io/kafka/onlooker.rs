//! What a consumer group has committed, and where the logs begin and end, asked without joining the group.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::client::LoggingContext;
use crate::{config::KafkaSettings, model::time::Millis};

/// Longest wait for a broker's answer.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// What is committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The offset.
    pub offset: i64,
    /// The text stored with it.
    pub metadata: String,
}

/// The first offset of a partition, and the one after its last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub begin: i64,
    pub end: i64,
}

/// Asks in the name of a group, and never joins it, reads nothing and commits nothing.
#[derive(Clone)]
pub struct Onlooker {
    consumer: Arc<BaseConsumer<LoggingContext>>,
    group: String,
}

impl Onlooker {
    /// Connects in the background.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(settings: &KafkaSettings, group: String) -> Result<Self, KafkaError> {
        let mut config = super::client_config(settings);
        config.set("group.id", &group).set("enable.auto.commit", "false");
        Ok(Self { consumer: Arc::new(config.create_with_context(LoggingContext)?), group })
    }

    /// What the group has committed for each of the first so many partitions of a topic.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub async fn committed(&self, topic: &str, partitions: i32) -> Result<Vec<Option<Commit>>, KafkaError> {
        let topic = topic.to_owned();
        self.blocking(move |consumer| {
            let mut wanted = TopicPartitionList::new();
            for partition in 0..partitions {
                wanted.add_partition(&topic, partition);
            }
            let answer = consumer.committed_offsets(wanted, REQUEST_WAIT)?;
            let commit = |partition| {
                let element = answer.find_partition(&topic, partition)?;
                let Offset::Offset(offset) = element.offset() else { return None };
                Some(Commit { offset, metadata: element.metadata().to_owned() })
            };
            Ok((0..partitions).map(commit).collect())
        })
        .await
    }

    /// Where each of the first so many partitions of a topic begins and ends.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub async fn spans(&self, topic: &str, partitions: i32) -> Result<Vec<Span>, KafkaError> {
        let topic = topic.to_owned();
        self.blocking(move |consumer| {
            let span = |partition| {
                let (begin, end) = consumer.fetch_watermarks(&topic, partition, REQUEST_WAIT)?;
                Ok(Span { begin, end })
            };
            (0..partitions).map(span).collect()
        })
        .await
    }

    /// How many members the group has.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub async fn members(&self) -> Result<usize, KafkaError> {
        let deadline = Instant::now() + REQUEST_WAIT;
        loop {
            let group = self.group.clone();
            let asked = self.blocking(move |consumer| {
                let groups = consumer.fetch_group_list(Some(&group), REQUEST_WAIT)?;
                Ok(groups.groups().iter().map(|group| group.members().len()).sum())
            });
            match asked.await {
                // Other questions are asked again by librdkafka itself.
                Err(KafkaError::GroupListFetch(code)) if is_moving(code) && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                asked => return asked,
            }
        }
    }

    /// True if one of the first so many partitions of a topic has a record with a later timestamp than this.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub async fn has_later(&self, topic: &str, partitions: i32, than: Millis) -> Result<bool, KafkaError> {
        let topic = topic.to_owned();
        self.blocking(move |consumer| {
            let mut wanted = TopicPartitionList::new();
            for partition in 0..partitions {
                wanted.add_partition_offset(&topic, partition, Offset::Offset(than.0 + 1))?;
            }
            let answer = consumer.offsets_for_times(wanted, REQUEST_WAIT)?;
            Ok(answer.elements().iter().any(|element| matches!(element.offset(), Offset::Offset(_))))
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&BaseConsumer<LoggingContext>) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let consumer = self.consumer.clone();
        tokio::task::spawn_blocking(move || work(&consumer)).await.map_err(|_| KafkaError::Canceled)?
    }
}

/// True while the broker that knows the group is being found.
fn is_moving(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    matches!(code, CoordinatorLoadInProgress | CoordinatorNotAvailable | NotCoordinator)
}
