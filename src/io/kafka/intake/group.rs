//! The consumer's context: gets the rebalance callbacks, on the polling thread, and starts and ends the workers.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    bindings::rd_kafka_resp_err_t as NativeError,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    topic_partition_list::TopicPartitionListElem,
};
use serde::Deserialize;
use tokio::{sync::mpsc as queue, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    SpawnWorker,
    batch::RecordBatch,
    feed::{Command, FeedEvent, PartitionFeed},
};
use crate::io::kafka::client::{log_error, log_line};

/// The consumer of a group.
pub(super) type GroupConsumer = BaseConsumer<IntakeContext>;

/// The polling thread's side of an assigned partition.
pub(super) struct Assigned {
    pub(super) events: queue::UnboundedSender<(u64, FeedEvent)>,
    pub(super) generation: u64,
    pub(super) backlog: Arc<AtomicUsize>,
    pub(super) batch: RecordBatch,
    pub(super) paused: bool,
    pub(super) stop: CancellationToken,
    pub(super) worker: JoinHandle<()>,
}

impl Assigned {
    pub(super) fn hand_over(&mut self) {
        if !self.batch.is_empty() {
            let batch = std::mem::replace(&mut self.batch, RecordBatch::new());
            self.backlog.fetch_add(batch.bytes(), Ordering::Relaxed);
            // A worker that has ended reads no more; its partition is about to be revoked.
            let _ = self.events.send((self.generation, FeedEvent::Records(batch)));
        }
    }
}

/// Lives in the consumer and gets the rebalance callbacks, on the polling thread.
pub(super) struct IntakeContext {
    pub(super) topic: String,
    pub(super) drain: Duration,
    /// How long the group waits for a member that is silent.
    pub(super) session: Duration,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) spawn: SpawnWorker,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) consumer: OnceLock<Weak<GroupConsumer>>,
    pub(super) assigned: Mutex<HashMap<i32, Assigned>>,
    pub(super) rebalances: Arc<AtomicU64>,
    /// The process leaves the group: what the statistics say of it matters.
    pub(super) leaving: AtomicBool,
    /// By the statistics, it has left.
    pub(super) left: AtomicBool,
}

impl ClientContext for IntakeContext {
    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if self.leaving.load(Ordering::Relaxed) {
            let statistics: Result<Statistics, _> = serde_json::from_slice(statistics);
            let left = statistics.is_ok_and(|statistics| statistics.cgrp.join_state == "init");
            self.left.store(left, Ordering::Relaxed);
        }
    }
}

/// The part of librdkafka's statistics that tells whether the process is a member of the group.
#[derive(Deserialize)]
struct Statistics {
    cgrp: GroupStatistics,
}

#[derive(Deserialize)]
struct GroupStatistics {
    join_state: String,
}

impl ConsumerContext for IntakeContext {
    fn rebalance(&self, consumer: &GroupConsumer, error: NativeError, list: &mut TopicPartitionList) {
        self.rebalances.fetch_add(1, Ordering::Relaxed);
        let result = match error {
            NativeError::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            NativeError::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                self.revoke(list);
                consumer.incremental_unassign(list)
            }
            other => {
                error!(error = ?other, topic = self.topic, "rebalance failed");
                consumer.unassign()
            }
        };
        if let Err(error) = result {
            error!(%error, topic = self.topic, "the assignment could not be changed");
        }
    }
}

impl IntakeContext {
    /// Assigned partitions stand still until their worker has claimed them and says where to start.
    fn assign(&self, consumer: &GroupConsumer, list: &mut TopicPartitionList) -> Result<(), KafkaError> {
        list.set_all_offsets(Offset::Beginning)?;
        consumer.incremental_assign(list)?;
        consumer.pause(list)?;
        let mut assigned = self.assigned();
        for element in list.elements() {
            let partition = element.partition();
            info!(topic = self.topic, partition, "partition assigned");
            assigned.insert(partition, self.start_worker(partition));
        }
        Ok(())
    }

    fn start_worker(&self, partition: i32) -> Assigned {
        let (events, receiver) = queue::unbounded_channel();
        let (backlog, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let feed = PartitionFeed {
            partition,
            topic: self.topic.clone(),
            events: receiver,
            ended: false,
            generation: 0,
            backlog: backlog.clone(),
            commands: self.commands.clone(),
            consumer: self.consumer.get().cloned().unwrap_or_default(),
            stop: stop.clone(),
            session: self.session,
        };
        let worker = self.runtime.spawn((self.spawn)(feed));
        Assigned { events, generation: 0, backlog, batch: RecordBatch::new(), paused: true, stop, worker }
    }

    fn revoke(&self, list: &TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(TopicPartitionListElem::partition).collect();
        let mut leaving = Vec::new();
        {
            let mut assigned = self.assigned();
            for partition in partitions {
                if let Some(entry) = assigned.remove(&partition) {
                    entry.stop.cancel();
                    leaving.push((partition, entry.worker));
                }
            }
        }
        let deadline = Instant::now() + self.drain;
        self.runtime.block_on(async {
            for (partition, mut worker) in leaving {
                let ended = tokio::time::timeout_at(deadline.into(), &mut worker).await;
                match ended {
                    Ok(Ok(())) => info!(topic = self.topic, partition, "partition given up"),
                    Ok(Err(error)) => {
                        error!(topic = self.topic, partition, %error, "the worker of a partition died");
                    }
                    Err(_) => {
                        worker.abort();
                        warn!(
                            topic = self.topic,
                            partition, "the worker of a partition did not drain in time"
                        );
                    }
                }
            }
        });
    }

    /// The partitions that are assigned.
    pub(super) fn assigned(&self) -> MutexGuard<'_, HashMap<i32, Assigned>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with<T>(&self, partition: i32, work: impl FnOnce(&mut Assigned) -> T) -> Option<T> {
        let mut assigned = self.assigned();
        assigned.get_mut(&partition).map(work)
    }
}
