//! The intake of a consumer group: one thread polls, each assigned partition has a worker of its own.
//!
//! The worker of a partition reads from its [`PartitionFeed`] and commits through it. On revocation the callback, on
//! the polling thread, stops the worker and waits for it: so every commit is answered, and what is in flight is
//! drained, before the partition is given up.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    bindings::rd_kafka_resp_err_t as NativeError,
    config::ClientConfig,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers},
};
use tokio::{
    sync::{mpsc as queue, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::client::{log_error, with_properties};
use crate::{config::KafkaSettings, io::clock, model::time::Millis};

/// A partition whose worker has this many bytes still to read is paused.
const PAUSE_BYTES: usize = 8 * 1024 * 1024;
/// … and resumed below this.
const RESUME_BYTES: usize = 2 * 1024 * 1024;
/// Records taken from librdkafka before they are handed to the workers.
const BURST_RECORDS: usize = 1_000;
/// A batch is handed over when it has so many bytes.
const BATCH_BYTES: usize = 512 * 1024;
/// Longest wait for a record, and so for a command.
const POLL_WAIT: Duration = Duration::from_millis(20);
/// Longest wait for a broker's answer.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// Records of one partition, in order, copied once.
#[derive(Debug)]
pub struct RecordBatch {
    /// When the first of them was polled.
    pub polled_at: Instant,
    bytes: Vec<u8>,
    records: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    offset: i64,
    arrived: Millis,
    key: Option<usize>,
    value: Option<usize>,
    /// Lengths of name and value of each header.
    headers: Vec<(usize, usize)>,
}

/// One record of a batch.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    pub offset: i64,
    /// The broker's timestamp.
    pub arrived: Millis,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Vec<(&'a str, &'a [u8])>,
}

impl RecordBatch {
    fn new() -> Self {
        Self { polled_at: Instant::now(), bytes: Vec::new(), records: Vec::new() }
    }

    fn push(&mut self, message: &BorrowedMessage<'_>) {
        let mut take = |part: &[u8]| {
            self.bytes.extend_from_slice(part);
            part.len()
        };
        let key = message.key().map(&mut take);
        let value = message.payload().map(&mut take);
        let headers = message.headers().map(|headers| {
            let sizes = |header: rdkafka::message::Header<'_, &[u8]>| {
                (take(header.key.as_bytes()), take(header.value.unwrap_or_default()))
            };
            headers.iter().map(sizes).collect()
        });
        let arrived = Millis(message.timestamp().to_millis().unwrap_or_else(|| clock::now().0));
        let headers = headers.unwrap_or_default();
        self.records.push(Entry { offset: message.offset(), arrived, key, value, headers });
    }

    /// The records, in the order of their offsets.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        let mut at = 0;
        self.records.iter().map(move |entry| {
            let mut next = |len: usize| {
                at += len;
                &self.bytes[at - len..at]
            };
            let key = entry.key.map(&mut next);
            let value = entry.value.map(&mut next);
            let mut header = |(name, value): &(usize, usize)| {
                (std::str::from_utf8(next(*name)).unwrap_or_default(), next(*value))
            };
            let headers = entry.headers.iter().map(&mut header).collect();
            Record { offset: entry.offset, arrived: entry.arrived, key, value, headers }
        })
    }

    /// How many there are; at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// False: an empty batch is never handed over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The position after it.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.records.last().map_or(0, |record| record.offset + 1)
    }
}

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
    /// The broker did not take it.
    #[error("the broker did not take the commit: {0}")]
    Failed(KafkaError),
}

impl From<KafkaError> for CommitError {
    fn from(error: KafkaError) -> Self {
        use RDKafkaErrorCode::{FencedInstanceId, IllegalGeneration, UnknownMemberId};
        match error.rdkafka_error_code() {
            Some(code @ (IllegalGeneration | UnknownMemberId | FencedInstanceId)) => Self::Fenced(code),
            _ => Self::Failed(error),
        }
    }
}

/// Starts the work on a partition; the future ends when the feed does.
pub type SpawnWorker = Box<dyn Fn(PartitionFeed) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What an intake needs.
pub struct IntakeOptions {
    pub topic: String,
    pub group: String,
    /// How long a worker may drain when its partition is revoked.
    pub drain: Duration,
    /// Shorter waits, for the embedded broker.
    pub embedded: bool,
}

type GroupConsumer = BaseConsumer<IntakeContext>;

enum Command {
    Start { partition: i32, offset: i64, generation: u64, done: oneshot::Sender<Result<(), KafkaError>> },
}

/// The worker's side of an assigned partition.
pub struct PartitionFeed {
    /// Its number.
    pub partition: i32,
    topic: String,
    events: queue::UnboundedReceiver<(u64, FeedEvent)>,
    generation: u64,
    backlog: Arc<AtomicUsize>,
    commands: mpsc::Sender<Command>,
    consumer: Weak<GroupConsumer>,
    stop: CancellationToken,
}

impl PartitionFeed {
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

    /// The next event; none when the partition was revoked. Safe to drop while it waits.
    pub async fn next(&mut self) -> Option<FeedEvent> {
        loop {
            let (generation, event) = self.events.recv().await?;
            if let FeedEvent::Records(batch) = &event {
                self.backlog.fetch_sub(batch.bytes.len(), Ordering::Relaxed);
            }
            if generation == self.generation {
                return Some(event);
            }
        }
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

/// The polling thread's side of an assigned partition.
struct Assigned {
    events: queue::UnboundedSender<(u64, FeedEvent)>,
    generation: u64,
    backlog: Arc<AtomicUsize>,
    batch: RecordBatch,
    paused: bool,
    stop: CancellationToken,
    worker: JoinHandle<()>,
}

impl Assigned {
    fn hand_over(&mut self) {
        if !self.batch.is_empty() {
            let batch = std::mem::replace(&mut self.batch, RecordBatch::new());
            self.backlog.fetch_add(batch.bytes.len(), Ordering::Relaxed);
            // A worker that has ended reads no more; its partition is about to be revoked.
            let _ = self.events.send((self.generation, FeedEvent::Records(batch)));
        }
    }
}

/// Lives in the consumer and gets the rebalance callbacks, on the polling thread.
struct IntakeContext {
    topic: String,
    drain: Duration,
    runtime: tokio::runtime::Handle,
    spawn: SpawnWorker,
    commands: mpsc::Sender<Command>,
    consumer: OnceLock<Weak<GroupConsumer>>,
    assigned: Mutex<HashMap<i32, Assigned>>,
    rebalances: AtomicU64,
}

impl ClientContext for IntakeContext {
    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
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
        let mut assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
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
            generation: 0,
            backlog: backlog.clone(),
            commands: self.commands.clone(),
            consumer: self.consumer.get().cloned().unwrap_or_default(),
            stop: stop.clone(),
        };
        let worker = self.runtime.spawn((self.spawn)(feed));
        Assigned { events, generation: 0, backlog, batch: RecordBatch::new(), paused: true, stop, worker }
    }

    fn revoke(&self, list: &TopicPartitionList) {
        let partitions: Vec<i32> = list
            .elements()
            .iter()
            .map(rdkafka::topic_partition_list::TopicPartitionListElem::partition)
            .collect();
        let mut leaving = Vec::new();
        {
            let mut assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
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

    fn with<T>(&self, partition: i32, work: impl FnOnce(&mut Assigned) -> T) -> Option<T> {
        let mut assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
        assigned.get_mut(&partition).map(work)
    }
}

/// A running intake.
pub struct Intake {
    stop: CancellationToken,
    thread: std::thread::JoinHandle<Result<(), KafkaError>>,
    /// Rises with each turn of the polling loop.
    pub turns: Arc<AtomicU64>,
}

impl Intake {
    /// Joins the group and starts polling on a thread of its own.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn start(
        settings: &KafkaSettings,
        options: &IntakeOptions,
        spawn: SpawnWorker,
    ) -> Result<Self, KafkaError> {
        let (commands, inbox) = mpsc::channel();
        let context = IntakeContext {
            topic: options.topic.clone(),
            drain: options.drain,
            runtime: tokio::runtime::Handle::current(),
            spawn,
            commands,
            consumer: OnceLock::new(),
            assigned: Mutex::default(),
            rebalances: AtomicU64::new(0),
        };
        let consumer: Arc<GroupConsumer> =
            Arc::new(consumer_config(settings, options).create_with_context(context)?);
        // Set once, before the first poll.
        let _ = consumer.context().consumer.set(Arc::downgrade(&consumer));
        consumer.subscribe(&[&options.topic])?;
        let (stop, turns) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let poller = Poller { consumer, inbox, stop: stop.clone(), turns: turns.clone() };
        let thread = std::thread::Builder::new()
            .name(format!("poll-{}", options.topic))
            .spawn(move || poller.run())
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { stop, thread, turns })
    }

    /// True while the polling thread runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Gives up every partition, each worker drained, and leaves the group.
    ///
    /// # Errors
    /// What ended the polling thread, if it ended by itself.
    pub async fn stop(self) -> Result<(), KafkaError> {
        self.stop.cancel();
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        match joined {
            Ok(Ok(result)) => result,
            _ => Err(KafkaError::Canceled),
        }
    }
}

fn consumer_config(settings: &KafkaSettings, options: &IntakeOptions) -> ClientConfig {
    let mut config = super::client_config(settings);
    config
        .set("group.id", &options.group)
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", if options.embedded { "10" } else { "100" })
        .set("fetch.message.max.bytes", "16777216")
        .set("receive.message.max.bytes", "134217728")
        .set("queued.max.messages.kbytes", "65536");
    if options.embedded {
        config.set("session.timeout.ms", "4000").set("heartbeat.interval.ms", "500");
    }
    with_properties(&mut config, settings);
    config
}

struct Poller {
    consumer: Arc<GroupConsumer>,
    inbox: mpsc::Receiver<Command>,
    stop: CancellationToken,
    turns: Arc<AtomicU64>,
}

impl Poller {
    fn run(self) -> Result<(), KafkaError> {
        while !self.stop.is_cancelled() {
            self.turn()?;
        }
        // Leaving revokes what is assigned, in callbacks that run while polling.
        self.consumer.unsubscribe();
        let deadline = Instant::now() + self.consumer.context().drain + REQUEST_WAIT;
        while Instant::now() < deadline {
            self.turn()?;
            let assigned = self.consumer.context().assigned.lock().unwrap_or_else(PoisonError::into_inner);
            if assigned.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn turn(&self) -> Result<(), KafkaError> {
        self.turns.fetch_add(1, Ordering::Relaxed);
        while let Ok(command) = self.inbox.try_recv() {
            self.carry_out(command);
        }
        let mut wait = POLL_WAIT;
        for _ in 0..BURST_RECORDS {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => self.take(&message),
                Some(Err(KafkaError::PartitionEOF(partition))) => self.end(partition),
                Some(Err(error)) => self.report(error)?,
            }
            wait = Duration::ZERO;
        }
        self.hand_over();
        Ok(())
    }

    fn take(&self, message: &BorrowedMessage<'_>) {
        let full = self.consumer.context().with(message.partition(), |assigned| {
            if assigned.batch.is_empty() {
                assigned.batch.polled_at = Instant::now();
            }
            assigned.batch.push(message);
            assigned.batch.bytes.len() >= BATCH_BYTES
        });
        if full == Some(true) {
            self.consumer.context().with(message.partition(), Assigned::hand_over);
        }
    }

    fn end(&self, partition: i32) {
        self.consumer.context().with(partition, |assigned| {
            assigned.hand_over();
            let _ = assigned.events.send((assigned.generation, FeedEvent::End));
        });
    }

    /// Most errors heal by themselves inside librdkafka; a fatal one ends the process.
    fn report(&self, error: KafkaError) -> Result<(), KafkaError> {
        let topic = &self.consumer.context().topic;
        if matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::Fatal)) {
            error!(%error, topic, "the consumer can't go on");
            return Err(error);
        }
        warn!(%error, topic, "trouble while polling");
        Ok(())
    }

    fn hand_over(&self) {
        let mut assigned = self.consumer.context().assigned.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut to_pause, mut to_resume) = (Vec::new(), Vec::new());
        for (partition, entry) in assigned.iter_mut() {
            entry.hand_over();
            let backlog = entry.backlog.load(Ordering::Relaxed);
            // Generation 0 has not been started yet.
            if entry.generation > 0 && !entry.paused && backlog > PAUSE_BYTES {
                entry.paused = true;
                to_pause.push(*partition);
            } else if entry.generation > 0 && entry.paused && backlog < RESUME_BYTES {
                entry.paused = false;
                to_resume.push(*partition);
            }
        }
        drop(assigned);
        self.set_paused(&to_pause, true);
        self.set_paused(&to_resume, false);
    }

    fn set_paused(&self, partitions: &[i32], paused: bool) {
        if partitions.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.consumer.context().topic, *partition);
        }
        let result = if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        if let Err(error) = result {
            warn!(%error, paused, "a partition could not be paused or resumed");
        }
    }

    fn carry_out(&self, Command::Start { partition, offset, generation, done }: Command) {
        let context = self.consumer.context();
        let result = self.consumer.seek(&context.topic, partition, Offset::Offset(offset), REQUEST_WAIT);
        if result.is_ok() {
            context.with(partition, |assigned| {
                assigned.generation = generation;
                assigned.batch = RecordBatch::new();
                assigned.paused = false;
            });
            self.set_paused(&[partition], false);
        }
        let _ = done.send(result);
    }
}
