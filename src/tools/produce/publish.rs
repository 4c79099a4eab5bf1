//! Hands the lines to Kafka and waits for the acknowledgements.

use std::{
    fmt::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig},
};

use super::{
    input::Input,
    record::{Kind, Record, Secrets},
};
use crate::{
    config::KafkaSettings,
    io::kafka::{
        admin::Heard,
        client::{client_config, with_properties},
    },
};

/// Records between two looks for acknowledgements.
const LOOK_EACH: u64 = 100;
/// How long to look while there is nothing else to do.
const LOOK_FOR: Duration = Duration::from_millis(5);

/// librdkafka counts in milliseconds: to look for less is not to wait at all. What comes late for that makes up for it.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);

/// What is to be published.
pub struct Job {
    /// What the lines are.
    pub kind: Kind,
    /// Where to.
    pub topic: String,
    /// How many records there are.
    pub count: u64,
    /// Most records a second.
    pub rate: Option<u32>,
    /// Set to end early.
    pub stop: Arc<AtomicBool>,
    /// What becomes of secrets.
    pub secrets: Secrets,
}

/// What was published.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    /// Records that the brokers have acknowledged.
    pub acknowledged: u64,
    /// From the first one to the last acknowledgement.
    pub took: Duration,
}

/// Publishes all lines, in their order, and waits for the acknowledgements. Blocks.
///
/// # Errors
/// If the input can't be read again as it was, or if a record is not acknowledged: names its line.
pub fn publish(kafka: &KafkaSettings, job: &Job, mut input: Input) -> anyhow::Result<Summary> {
    let name = input.name().to_owned();
    let mut publisher = Publisher::new(kafka, job)?;
    let mut lines = input.lines()?;
    while let Some((number, line)) = lines.next()? {
        if publisher.is_over() {
            break;
        }
        let changed = || anyhow!("line {number} of {name} is no longer what it was when it was validated");
        let record = job.kind.read(line).and_then(|record| job.kind.keep(record, &job.secrets));
        let record = record.map_err(|_| changed())?;
        publisher.send(number, &record)?;
    }
    publisher.finish()
}

struct Publisher<'a> {
    job: &'a Job,
    producer: BaseProducer<Acknowledgements>,
    outcome: Arc<Outcome>,
    bar: ProgressBar,
    started: Instant,
    sent: u64,
}

impl<'a> Publisher<'a> {
    fn new(kafka: &KafkaSettings, job: &'a Job) -> anyhow::Result<Self> {
        let outcome = Arc::new(Outcome::default());
        let context = Acknowledgements { outcome: outcome.clone(), heard: Heard::default() };
        let producer = config(kafka).create_with_context(context);
        Ok(Self {
            job,
            producer: producer.context("no Kafka producer can be made of the settings")?,
            outcome,
            bar: progress_bar(job),
            started: Instant::now(),
            sent: 0,
        })
    }

    /// True if nothing more should be sent.
    fn is_over(&self) -> bool {
        self.job.stop.load(Ordering::Relaxed) || self.outcome.has_failed()
    }

    fn send(&mut self, line: usize, record: &Record<'_>) -> anyhow::Result<()> {
        self.keep_to_the_rate();
        let mut outgoing = BaseRecord::with_opaque_to(&self.job.topic, line).key(record.key.as_bytes());
        outgoing.payload = record.value.as_deref();
        loop {
            match self.producer.send(outgoing) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if !self.is_over() =>
                {
                    outgoing = back;
                    self.look(LOOK_FOR);
                }
                Err(_) if self.is_over() => return Ok(()),
                Err((error, _)) => bail!(self.failure(line, &error.to_string())),
            }
        }
        self.sent += 1;
        if self.sent.is_multiple_of(LOOK_EACH) {
            self.look(Duration::ZERO);
        }
        Ok(())
    }

    /// Waits until the next record is due.
    fn keep_to_the_rate(&self) {
        let Some(rate) = self.job.rate else { return };
        let due = self.started + Duration::from_secs_f64(self.sent as f64 / f64::from(rate));
        loop {
            let early = due.saturating_duration_since(Instant::now());
            if early.is_zero() || self.is_over() {
                return;
            }
            self.look(early.clamp(SHORTEST_LOOK, Duration::from_millis(100)));
        }
    }

    /// Takes in acknowledgements for so long.
    fn look(&self, span: Duration) {
        self.producer.poll(span);
        self.bar.set_position(self.outcome.acknowledged());
    }

    /// Waits for what is in flight. How long that may take librdkafka knows: each record has its deadline.
    fn finish(self) -> anyhow::Result<Summary> {
        while self.producer.in_flight_count() > 0 {
            if self.outcome.has_failed() {
                self.producer.purge(PurgeConfig::default().queue().inflight());
            }
            self.look(LOOK_FOR);
        }
        self.bar.finish_and_clear();
        match self.outcome.failure() {
            Some((line, problem)) => bail!(self.failure(line, &problem)),
            None => Ok(Summary { acknowledged: self.outcome.acknowledged(), took: self.started.elapsed() }),
        }
    }

    fn failure(&self, line: usize, problem: &str) -> anyhow::Error {
        let Job { kind, topic, count, .. } = self.job;
        let (acknowledged, what) = (self.outcome.acknowledged(), kind.name(*count));
        let heard =
            self.producer.context().heard.last().map(|heard| format!(" ({heard})")).unwrap_or_default();
        anyhow!(
            "line {line} could not be published to {topic}: {problem}{heard}; \
             published {acknowledged} of {count} {what}"
        )
    }
}

/// Idempotent, so a chat's order holds; a record that is not acknowledged for half a minute fails.
fn config(kafka: &KafkaSettings) -> ClientConfig {
    let mut config = client_config(kafka);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("message.timeout.ms", "30000")
        // The topic decides what is too large.
        .set("message.max.bytes", "33554432")
        .set("queue.buffering.max.messages", "100000")
        .set("queue.buffering.max.kbytes", "65536");
    with_properties(&mut config, kafka);
    config
}

/// Shown on a terminal only.
fn progress_bar(job: &Job) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(job.count), ProgressDrawTarget::stderr());
    let template = "{wide_bar} {human_pos} of {human_len}, {rate} a second, {eta} left";
    let rate = |state: &ProgressState, out: &mut dyn Write| {
        // Without it the bar only looks poorer.
        let _ = write!(out, "{}", HumanCount(state.per_sec() as u64));
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.with_key("rate", rate));
    }
    bar
}

/// What has become of the records.
#[derive(Debug, Default)]
struct Outcome {
    acknowledged: AtomicU64,
    failed: AtomicBool,
    first_failure: Mutex<Option<(usize, String)>>,
}

impl Outcome {
    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn failure(&self) -> Option<(usize, String)> {
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, line: usize, problem: &KafkaError) {
        let mut first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| (line, problem.to_string()));
        self.failed.store(true, Ordering::Relaxed);
    }
}

/// Takes in delivery reports; a record is known by its line.
struct Acknowledgements {
    outcome: Arc<Outcome>,
    heard: Heard,
}

impl ClientContext for Acknowledgements {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.heard.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        ClientContext::error(&self.heard, error, reason);
    }
}

impl ProducerContext for Acknowledgements {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, line: usize) {
        match result {
            Ok(_) => {
                self.outcome.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => self.outcome.fail(line, error),
        }
    }
}
