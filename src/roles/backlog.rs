//! How far behind a partition is: in records, in seconds, and how near what it still needs is to being deleted. A task of
//! its own tells it while the partition is owned, so that the figures go on where the work stands still.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::{GaugeVec, IntGauge};
use rdkafka::error::KafkaError;
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::process::Process;
use crate::{
    io::{
        clock,
        kafka::{
            admin::{Admin, AdminError},
            arrivals::Arrivals,
            onlooker::Span,
        },
    },
    model::time::Millis,
    ops::metrics::Metrics,
};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often it is asked for how long the topic keeps its records.
const ASK_INTERVAL: Duration = Duration::from_mins(10);

/// Tells of the partitions of a role's topic.
pub(super) struct Backlogs {
    role: &'static str,
    metrics: Metrics,
    arrivals: Arrivals,
    /// For how many seconds the topic keeps its records, once that is known.
    retention: watch::Receiver<Option<f64>>,
    _asking: AbortOnDropHandle<()>,
}

/// Where the work on a partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stand {
    /// Everything below is done with.
    pub done: i64,
    /// The next record to take in.
    pub next: i64,
    /// The next claim reads from here.
    pub committed: i64,
}

impl Stand {
    /// Everything below an offset is done with and committed.
    pub fn at(offset: i64) -> Self {
        Self { done: offset, next: offset, committed: offset }
    }
}

/// A partition that is told of as long as this lives.
pub(super) struct Backlog {
    figures: Arc<Figures>,
    progress: IntGauge,
    stand: Arc<Mutex<Option<Stand>>>,
    _task: AbortOnDropHandle<()>,
}

impl Backlogs {
    /// Begins to ask for how long a topic keeps its records.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn start(process: &Process, role: &'static str, topic: &str) -> Result<Self, KafkaError> {
        let (sender, retention) = watch::channel(None);
        let asking = tokio::spawn(ask(process.clone(), topic.to_owned(), sender));
        Ok(Self {
            role,
            metrics: process.metrics.clone(),
            arrivals: Arrivals::new(&process.kafka, topic)?,
            retention,
            _asking: AbortOnDropHandle::new(asking),
        })
    }

    /// Begins to tell of a partition, whose work begins now.
    pub fn watch(&self, partition: i32) -> Backlog {
        let labels = [self.role.to_owned(), partition.to_string()];
        let progress = self.metrics.last_progress.with_label_values(&labels);
        progress.set(clock::now().0 / 1000);
        let figures = Arc::new(Figures { metrics: self.metrics.clone(), labels, over: Mutex::default() });
        let stand = Arc::default();
        let watching = Watching {
            partition,
            arrivals: self.arrivals.clone(),
            retention: self.retention.clone(),
            stand: Arc::clone(&stand),
            known: BTreeMap::new(),
            figures: figures.clone(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(watching.run()));
        Backlog { figures, progress, stand, _task: task }
    }
}

/// Asks for how long a topic keeps its records, again and again.
async fn ask(process: Process, topic: String, retention: watch::Sender<Option<f64>>) {
    // The embedded broker keeps so many bytes.
    if process.embedded {
        return;
    }
    loop {
        match kept(&process, &topic).await {
            Ok(seconds) => drop(retention.send_replace(seconds)),
            Err(error) => warn!(topic, %error, "for how long the topic keeps its records is not known"),
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

/// For how many seconds a topic keeps its records, if it says.
async fn kept(process: &Process, topic: &str) -> Result<Option<f64>, AdminError> {
    let admin = Admin::new(&process.kafka)?;
    let settings = admin.settings(&[topic]).await;
    // To drop it waits for its thread.
    tokio::task::spawn_blocking(move || drop(admin));
    let settings = settings?;
    let value = settings.get(topic).and_then(|settings| settings.get("retention.ms"));
    let millis: Option<f64> = value.and_then(|value| value.parse().ok());
    // Below 0: for ever.
    Ok(millis.map(|millis| if millis < 0.0 { f64::INFINITY } else { millis / 1000.0 }))
}

impl Backlog {
    /// The work has moved, or had nothing to do.
    pub fn progress(&self) {
        self.progress.set(clock::now().0 / 1000);
    }

    /// The work stands here.
    pub fn stands(&self, stand: Stand) {
        self.progress();
        *self.stand.lock().unwrap_or_else(PoisonError::into_inner) = Some(stand);
    }
}

impl Drop for Backlog {
    /// Whoever owns the partition next tells of it. The last progress stays: it may be that nobody does.
    fn drop(&mut self) {
        self.figures.end();
    }
}

/// The series of a partition.
struct Figures {
    metrics: Metrics,
    /// Role and partition.
    labels: [String; 2],
    /// They are not told any more.
    over: Mutex<bool>,
}

impl Figures {
    /// Sets one, unless that is over.
    fn set(&self, gauges: &GaugeVec, value: f64) {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        if !*over {
            gauges.with_label_values(&self.labels).set(value);
        }
    }

    fn end(&self) {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        *over = true;
        for gauges in [&self.metrics.lag_records, &self.metrics.lag_seconds, &self.metrics.retention_left] {
            // What was never known was never told.
            let _ = gauges.remove_label_values(&self.labels);
        }
    }
}

/// The task that tells of a partition.
struct Watching {
    partition: i32,
    arrivals: Arrivals,
    retention: watch::Receiver<Option<f64>>,
    stand: Arc<Mutex<Option<Stand>>>,
    /// When the records at offsets arrived that were asked about last.
    known: BTreeMap<i64, Millis>,
    figures: Arc<Figures>,
}

impl Watching {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let stand = *self.stand.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(stand) = stand
                && let Err(error) = self.tell(stand).await
            {
                debug!(partition = self.partition, %error, "the lag is not known");
            }
        }
    }

    async fn tell(&mut self, Stand { done, next, committed }: Stand) -> Result<(), KafkaError> {
        let figures = self.figures.clone();
        let span = self.arrivals.span(self.partition).await?;
        figures.set(&figures.metrics.lag_records, (span.end - done).max(0) as f64);
        let oldest = self.arrival(next, span).await?;
        figures.set(&figures.metrics.lag_seconds, oldest.map_or(0.0, age));
        let needed = self.arrival(committed, span).await?;
        self.known.retain(|offset, _| [next, committed].contains(offset));
        let Some(retention) = *self.retention.borrow() else { return Ok(()) };
        let left = needed.map_or(retention, |arrived| (retention - age(arrived)).max(0.0));
        figures.set(&figures.metrics.retention_left, left);
        Ok(())
    }

    /// When the first record from an offset on arrived; none if there is none.
    async fn arrival(&mut self, offset: i64, span: Span) -> Result<Option<Millis>, KafkaError> {
        let offset = offset.max(span.begin);
        if offset >= span.end {
            return Ok(None);
        }
        if let Some(known) = self.known.get(&offset) {
            return Ok(Some(*known));
        }
        let arrived = self.arrivals.at(self.partition, offset).await?;
        self.known.extend(arrived.map(|arrived| (offset, arrived)));
        Ok(arrived)
    }
}

/// Seconds since a record arrived.
fn age(arrived: Millis) -> f64 {
    clock::now().since(arrived).as_secs_f64()
}
