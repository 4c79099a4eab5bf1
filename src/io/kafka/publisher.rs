//! The one producer of a process: idempotent and gapless, so that each partition holds what was published in the
//! order in which it was published.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};
use tokio::sync::{Notify, watch};
use tracing::{debug, error};

use super::client::{log_error, log_line, with_properties};
use crate::{config::KafkaSettings, io::clock, model::time::Millis};

/// A partition that is not known after so long does not exist.
const NEW_PARTITION_WITHIN: Duration = Duration::from_secs(10);

/// Records whose acknowledgements are waited for together.
#[derive(Debug, Clone, Default)]
pub struct AckGroup(Arc<Group>);

#[derive(Debug, Default)]
struct Group {
    pending: AtomicUsize,
    /// Offset of the record acknowledged last.
    offset: AtomicI64,
    wake: Arc<Notify>,
}

impl AckGroup {
    /// A group that wakes somebody whenever it is complete.
    #[must_use]
    pub fn waking(wake: &Arc<Notify>) -> Self {
        Self(Arc::new(Group { wake: wake.clone(), ..Group::default() }))
    }

    /// True if every record published so far is acknowledged.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.pending.load(Ordering::Acquire) == 0
    }

    /// Offset of the record that was acknowledged last.
    #[must_use]
    pub fn last_offset(&self) -> i64 {
        self.0.offset.load(Ordering::Acquire)
    }

    /// Waits until every record is acknowledged. A record that can't be is fatal for the process, so this need not
    /// end then.
    pub async fn complete(&self) {
        loop {
            let notified = self.0.wake.notified();
            if self.is_complete() {
                return;
            }
            notified.await;
        }
    }
}

/// A record to publish.
#[derive(Debug)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    /// None: by the hash of the key, as the Java clients do.
    pub partition: Option<i32>,
    pub key: &'a [u8],
    /// None is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'static str, String)],
}

/// What the brokers' clock said, and when by the host's.
#[derive(Debug, Default)]
struct BrokerClock {
    broker: AtomicI64,
    host: AtomicI64,
}

struct PublisherContext {
    clock: BrokerClock,
    failed: watch::Sender<Option<String>>,
}

impl ClientContext for PublisherContext {
    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }
}

impl ProducerContext for PublisherContext {
    type DeliveryOpaque = Arc<Group>;

    fn delivery(&self, result: &DeliveryResult<'_>, group: Arc<Group>) {
        match result {
            Ok(message) => {
                if let rdkafka::Timestamp::LogAppendTime(at) = message.timestamp() {
                    self.clock.broker.store(at, Ordering::Relaxed);
                    self.clock.host.store(clock::now().0, Ordering::Relaxed);
                }
                group.offset.store(message.offset(), Ordering::Release);
                if group.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
                    group.wake.notify_one();
                }
            }
            // The group stays incomplete: nothing that depends on it goes on, and the process ends.
            Err((error, message)) => {
                error!(%error, topic = message.topic(), "a record was not acknowledged");
                self.failed.send_replace(Some(format!(
                    "a record for `{}` was not acknowledged: {error}",
                    message.topic()
                )));
            }
        }
    }
}

/// Publishes records and tells when they are acknowledged.
#[derive(Clone)]
pub struct Publisher {
    producer: Arc<ThreadedProducer<PublisherContext>>,
    failed: watch::Receiver<Option<String>>,
}

impl Publisher {
    /// Connects in the background.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(settings: &KafkaSettings, embedded: bool) -> Result<Self, KafkaError> {
        let mut config = super::client_config(settings);
        config
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "0")
            .set("linger.ms", "1")
            // The brokers' own limits decide; a record must never be refused here.
            .set("message.max.bytes", "134217728")
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "131072")
            .set("partitioner", "murmur2_random");
        if !embedded {
            config.set("enable.gapless.guarantee", "true").set("compression.type", "lz4");
        }
        with_properties(&mut config, settings);
        let (sender, failed) = watch::channel(None);
        let context = PublisherContext { clock: BrokerClock::default(), failed: sender };
        Ok(Self { producer: Arc::new(config.create_with_context(context)?), failed })
    }

    /// Hands a record over. Records of one partition keep the order of the calls. Waits while the queue is full.
    ///
    /// # Errors
    /// If the record can never be published, which is fatal for the process.
    pub async fn publish(&self, record: &Outgoing<'_>, group: &AckGroup) -> Result<(), KafkaError> {
        group.0.pending.fetch_add(1, Ordering::AcqRel);
        let began = Instant::now();
        loop {
            match self.producer.send(base_record(record, group)) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                // The topic may have got more partitions since the brokers were last asked.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition), _))
                    if began.elapsed() < NEW_PARTITION_WITHIN =>
                {
                    self.ask_for_partitions(record.topic).await;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Has the producer learn which partitions a topic has by now.
    async fn ask_for_partitions(&self, topic: &str) {
        let (producer, topic) = (self.producer.clone(), topic.to_owned());
        let ask = move || producer.client().fetch_metadata(Some(&topic), NEW_PARTITION_WITHIN).map(drop);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(ask).await {
            debug!(%error, "the partitions of a topic are not known");
        }
        // Brokers learn of a new partition one after the other.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Publishes one record, waits until it is acknowledged, and returns its offset.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn publish_and_wait(&self, record: &Outgoing<'_>) -> Result<i64, KafkaError> {
        let group = AckGroup::default();
        self.publish(record, &group).await?;
        group.complete().await;
        Ok(group.last_offset())
    }

    /// How far the brokers' clock is ahead of the host's, in milliseconds, by the last acknowledgement, and when that
    /// came.
    #[must_use]
    pub fn broker_clock(&self) -> Option<(i64, Millis)> {
        let clock = &self.producer.context().clock;
        let host = clock.host.load(Ordering::Relaxed);
        (host != 0).then(|| (clock.broker.load(Ordering::Relaxed) - host, Millis(host)))
    }

    /// Waits for a record that could not be published: then the process must end, as what follows would be wrong.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        let reason = failed.wait_for(Option::is_some).await.map(|reason| reason.clone().unwrap_or_default());
        match reason {
            Ok(reason) => reason,
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until everything is acknowledged, at most so long.
    ///
    /// # Errors
    /// If something is not.
    pub async fn flush(&self, limit: Duration) -> Result<(), KafkaError> {
        let producer = self.producer.clone();
        tokio::task::spawn_blocking(move || producer.flush(limit)).await.map_err(|_| KafkaError::Canceled)?
    }
}

fn base_record<'a>(record: &'a Outgoing<'a>, group: &AckGroup) -> BaseRecord<'a, [u8], [u8], Arc<Group>> {
    let mut base = BaseRecord::with_opaque_to(record.topic, group.0.clone()).key(record.key);
    if let Some(value) = record.value {
        base = base.payload(value);
    }
    if let Some(partition) = record.partition {
        base = base.partition(partition);
    }
    if record.headers.is_empty() {
        return base;
    }
    let headers = OwnedHeaders::new_with_capacity(record.headers.len());
    let insert = |headers: OwnedHeaders, (key, value): &(&'static str, String)| {
        headers.insert(Header { key, value: Some(value.as_str()) })
    };
    base.headers(record.headers.iter().fold(headers, insert))
}
