//! The intake of a consumer group: one thread polls, each assigned partition has a worker of its own.
//!
//! The worker of a partition reads from its [`PartitionFeed`] and commits through it. On revocation the callback, on
//! the polling thread, stops the worker and waits for it: so every commit is answered, and what is in flight is
//! drained, before the partition is given up.

mod batch;
mod feed;
mod group;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    config::ClientConfig,
    consumer::Consumer,
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

pub use self::{
    batch::{Record, RecordBatch},
    feed::{CommitError, FeedEvent, PartitionFeed},
};
use self::{
    feed::Command,
    group::{Assigned, GroupConsumer, IntakeContext},
};
use super::client::with_properties;
use crate::config::KafkaSettings;

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
/// The same for a request that only wakes: as long as a fetch before it may take, since librdkafka cuts the connection of a
/// request that times out.
const WAKE_WAIT: Duration = Duration::from_mins(1);

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

/// A running intake.
pub struct Intake {
    stop: CancellationToken,
    thread: std::thread::JoinHandle<Result<(), KafkaError>>,
    /// Rises with each turn of the polling loop.
    pub turns: Arc<AtomicU64>,
    /// Rises with each rebalance that concerns this process.
    pub rebalances: Arc<AtomicU64>,
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
        let config = consumer_config(settings, options);
        let (commands, inbox) = mpsc::channel();
        let rebalances = Arc::new(AtomicU64::new(0));
        let context = IntakeContext {
            topic: options.topic.clone(),
            drain: options.drain,
            session: session(&config)?,
            runtime: tokio::runtime::Handle::current(),
            spawn,
            commands,
            consumer: OnceLock::new(),
            assigned: Mutex::default(),
            rebalances: rebalances.clone(),
            leaving: AtomicBool::new(false),
            left: AtomicBool::new(false),
        };
        let consumer: Arc<GroupConsumer> = Arc::new(config.create_with_context(context)?);
        // Set once, before the first poll.
        let _ = consumer.context().consumer.set(Arc::downgrade(&consumer));
        consumer.subscribe(&[&options.topic])?;
        let (stop, turns) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let poller = Poller { consumer, inbox, stop: stop.clone(), turns: turns.clone() };
        let thread = std::thread::Builder::new()
            .name(format!("poll-{}", options.topic))
            .spawn(move || poller.run())
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { stop, thread, turns, rebalances })
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

/// The session's length, which the operator's properties may have set.
fn session(config: &ClientConfig) -> Result<Duration, KafkaError> {
    let millis = config.create_native_config()?.get("session.timeout.ms")?;
    Ok(Duration::from_millis(millis.parse().expect("librdkafka has checked that it is a whole number")))
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
        .set("queued.max.messages.kbytes", "65536")
        .set("statistics.interval.ms", "500");
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
        self.leave()
    }

    /// Leaving revokes what is assigned, in callbacks that run while polling. A consumer that is closed before the
    /// revocation is carried out never tells the group that it leaves, and its partitions stand still until its
    /// session times out: so the statistics must say that it has left.
    fn leave(&self) -> Result<(), KafkaError> {
        let context = self.consumer.context();
        self.consumer.unsubscribe();
        let deadline = Instant::now() + context.drain + REQUEST_WAIT;
        while Instant::now() < deadline && !context.left.load(Ordering::Relaxed) {
            self.turn()?;
            let given_up = context.assigned().is_empty();
            context.leaving.store(given_up, Ordering::Relaxed);
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
            assigned.batch.bytes() >= BATCH_BYTES
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
        let is_fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        if is_fatal || error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            error!(%error, topic, "the consumer can't go on");
            return Err(error);
        }
        warn!(%error, topic, "trouble while polling");
        Ok(())
    }

    fn hand_over(&self) {
        let mut assigned = self.consumer.context().assigned();
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

    /// Where every partition of a broker is paused, librdkafka's thread for it sleeps up to a second, and nothing tells it
    /// that one is resumed. A request does: the answer is of no use.
    fn wake_fetching(&self, partition: i32) {
        let (consumer, topic) = (Arc::downgrade(&self.consumer), self.consumer.context().topic.clone());
        self.consumer.context().runtime.spawn_blocking(move || {
            let consumer = consumer.upgrade()?;
            consumer.fetch_watermarks(&topic, partition, WAKE_WAIT).ok()
        });
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
        } else if !paused {
            for partition in partitions {
                self.wake_fetching(*partition);
            }
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
