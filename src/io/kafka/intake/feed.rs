//! What the worker of a partition holds: its records, and the way to commit.

use std::{
    mem,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::sync::{mpsc as queue, oneshot};
use tokio_util::sync::CancellationToken;

use super::{BATCH_BYTES, REQUEST_WAIT, batch::RecordBatch, group::GroupConsumer};

/// What a worker reads.
#[derive(Debug)]
pub enum FeedEvent {
    /// Records.
    Records(RecordBatch),
    /// There is nothing more for now.
    End,
}

/// Why an offset could not be committed or read.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The partition has another owner, or the group forgot this process.
    #[error("the partition was given to another process: {0}")]
    Fenced(RDKafkaErrorCode),
    /// The group is rebalancing. The partition stays this process's until it is revoked; commit again later.
    #[error("the group is rebalancing: {0}")]
    Rebalancing(RDKafkaErrorCode),
    /// The broker did not take it.
    #[error("the broker did not take the commit: {0}")]
    Failed(KafkaError),
}

impl From<KafkaError> for CommitError {
    fn from(error: KafkaError) -> Self {
        use RDKafkaErrorCode::{FencedInstanceId, IllegalGeneration, RebalanceInProgress, UnknownMemberId};
        match error.rdkafka_error_code() {
            Some(code @ (UnknownMemberId | FencedInstanceId)) => Self::Fenced(code),
            // A commit waits behind the request to join and comes with the generation before. Who is no member any
            // more is told so instead.
            Some(code @ (IllegalGeneration | RebalanceInProgress)) => Self::Rebalancing(code),
            _ => Self::Failed(error),
        }
    }
}

/// What a worker asks of the polling thread.
pub(super) enum Command {
    /// Read on from an offset.
    Start { partition: i32, offset: i64, generation: u64, done: oneshot::Sender<Result<(), KafkaError>> },
}

/// The worker's side of an assigned partition.
pub struct PartitionFeed {
    /// Its number.
    pub partition: i32,
    pub(super) topic: String,
    pub(super) events: queue::UnboundedReceiver<(u64, FeedEvent)>,
    /// There was nothing more after the batch that was handed out.
    pub(super) ended: bool,
    pub(super) generation: u64,
    pub(super) backlog: Arc<AtomicUsize>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) consumer: Weak<GroupConsumer>,
    pub(super) stop: CancellationToken,
    pub(super) session: Duration,
}

impl PartitionFeed {
    /// How long the group waits for a member that is silent: so long after a commit that was accepted, nobody else can
    /// have been given the partition.
    #[must_use]
    pub fn session(&self) -> Duration {
        self.session
    }

    /// Ends when the partition is to be given up: drain, commit, return.
    #[must_use]
    pub fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Reads on from an offset; what was read ahead is discarded.
    ///
    /// # Errors
    /// If the consumer can't be moved there, or is gone.
    pub async fn start_at(&mut self, offset: i64) -> Result<(), KafkaError> {
        self.generation += 1;
        self.ended = false;
        let (done, answer) = oneshot::channel();
        let command = Command::Start { partition: self.partition, offset, generation: self.generation, done };
        let gone = || KafkaError::Seek("the consumer is gone".to_owned());
        self.commands.send(command).map_err(|_| gone())?;
        tokio::select! {
            answer = answer => answer.map_err(|_| gone())?,
            // The polling thread waits for this worker to end and carries nothing out meanwhile.
            () = self.stop.cancelled() => Err(KafkaError::Canceled),
        }
    }

    /// The next event; none when the partition was revoked. Records that have come one by one while the worker did
    /// something else are one batch: it catches up, however long that takes it each time. Safe to drop while it waits.
    pub async fn next(&mut self) -> Option<FeedEvent> {
        // Not if more has come since.
        if mem::take(&mut self.ended) && self.events.is_empty() {
            return Some(FeedEvent::End);
        }
        let mut batch = loop {
            match self.events.recv().await.map(|event| self.current(event))? {
                Some(FeedEvent::Records(batch)) => break batch,
                Some(FeedEvent::End) => return Some(FeedEvent::End),
                None => {}
            }
        };
        while batch.bytes() < BATCH_BYTES
            && let Ok(event) = self.events.try_recv()
        {
            match self.current(event) {
                Some(FeedEvent::Records(next)) => {
                    batch.append(next);
                    self.ended = false;
                }
                Some(FeedEvent::End) => self.ended = true,
                None => {}
            }
        }
        Some(FeedEvent::Records(batch))
    }

    /// An event, if it is not of what was discarded.
    fn current(&self, (generation, event): (u64, FeedEvent)) -> Option<FeedEvent> {
        if let FeedEvent::Records(batch) = &event {
            self.backlog.fetch_sub(batch.bytes(), Ordering::Relaxed);
        }
        (generation == self.generation).then_some(event)
    }

    /// The committed offset with its metadata; none if nothing was committed.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn committed(&self) -> Result<Option<(i64, String)>, CommitError> {
        let (topic, partition) = (self.topic.clone(), self.partition);
        self.blocking(move |consumer| {
            let mut wanted = TopicPartitionList::new();
            wanted.add_partition(&topic, partition);
            let answer = consumer.committed_offsets(wanted, REQUEST_WAIT)?;
            let element = answer.find_partition(&topic, partition);
            Ok(element.and_then(|element| match element.offset() {
                Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
                _ => None,
            }))
        })
        .await
    }

    /// Commits an offset with its metadata and waits for the answer.
    ///
    /// # Errors
    /// [`CommitError::Fenced`] if the partition has another owner by now.
    pub async fn commit(&self, offset: i64, metadata: String) -> Result<(), CommitError> {
        let (topic, partition) = (self.topic.clone(), self.partition);
        self.blocking(move |consumer| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
            if let Some(mut element) = list.find_partition(&topic, partition) {
                element.set_metadata(metadata);
            }
            consumer.commit(&list, CommitMode::Sync)?;
            Ok(())
        })
        .await
    }

    /// The first and the next offset of a partition of any topic.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn watermarks(&self, topic: &str) -> Result<(i64, i64), CommitError> {
        let (topic, partition) = (topic.to_owned(), self.partition);
        self.blocking(move |consumer| Ok(consumer.fetch_watermarks(&topic, partition, REQUEST_WAIT)?)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&GroupConsumer) -> Result<T, CommitError> + Send + 'static,
    ) -> Result<T, CommitError> {
        let gone = || CommitError::Failed(KafkaError::Canceled);
        let consumer = self.consumer.upgrade().ok_or_else(gone)?;
        tokio::task::spawn_blocking(move || work(&consumer)).await.map_err(|_| gone())?
    }
}
