//! What every role of a process shares.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{KafkaSettings, OpsSettings, RedisSettings},
    io::{
        Redis,
        kafka::{
            Topics,
            follow::Following,
            intake::Record,
            publisher::{Outgoing, Publisher},
            tail::{SettingsTail, Unusable},
        },
    },
    ops::{http, metrics::Metrics, probes::Probes},
    wire::{Poison, dead_letter_headers},
};

/// Connections, the directory of webhooks, metrics, and the way to end it all.
#[derive(Clone)]
pub struct Process {
    pub kafka: KafkaSettings,
    pub topics: Topics,
    pub redis: Redis,
    pub publisher: Publisher,
    pub tail: SettingsTail,
    pub metrics: Metrics,
    pub probes: Probes,
    /// Runs on the embedded broker, which lacks a clock and more.
    pub embedded: bool,
    failure: Arc<watch::Sender<Option<String>>>,
}

impl Process {
    /// Connects to everything and opens the port of operations.
    ///
    /// # Errors
    /// If a setting can't be used or the port is taken.
    pub async fn start(
        metrics: Metrics,
        kafka: KafkaSettings,
        redis: &RedisSettings,
        ops: &OpsSettings,
        require_sealed: bool,
        embedded: bool,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Self, mpsc::UnboundedReceiver<Unusable>)> {
        let probes = Probes::default();
        let topics = Topics::new(&kafka.topics);
        let publisher = Publisher::new(&kafka, embedded)?;
        let (sender, unusable) = mpsc::unbounded_channel();
        let tail = SettingsTail::start(&kafka, &topics, require_sealed, embedded, stop.clone(), sender)?;
        let ready = tail.clone();
        probes.require(move || ready.ready());
        let connected = Arc::new(AtomicBool::new(false));
        let reached = connected.clone();
        probes.require(move || {
            let reached = reached.load(Ordering::Relaxed);
            if reached { Ok(()) } else { Err("redis has not been reached yet".to_owned()) }
        });
        // Only now: who asks whether it is ready must not be told so before it is known what that takes.
        let bound = http::serve(ops.http_addr, metrics.clone(), probes.clone(), stop.clone()).await;
        let bound = bound.map_err(|error| {
            anyhow::anyhow!("the address `{}` of --http-addr can't be opened: {error}", ops.http_addr)
        })?;
        tracing::info!(addr = %bound, "serving /metrics, /livez and /readyz");
        let redis = Redis::connect(redis).await?;
        redis.measure(metrics.redis_duration.clone());
        connected.store(true, Ordering::Relaxed);
        let failure = Arc::new(watch::Sender::new(None));
        let process = Self { kafka, topics, redis, publisher, tail, metrics, probes, embedded, failure };
        process.watch_following(process.tail.following(), stop);
        Ok((process, unusable))
    }

    /// Ends the process: something is wrong that only a restart or an operator can mend.
    pub fn fail(&self, reason: String) {
        tracing::error!(reason, "the process ends");
        self.failure.send_replace(Some(reason));
    }

    /// Ends the process if topics are no longer followed although it does not stop: what was read would count for ever.
    pub fn watch_following(&self, following: &Following, stop: &CancellationToken) {
        let (process, following, stop) = (self.clone(), following.clone(), stop.clone());
        tokio::spawn(async move {
            following.ended().await;
            if !stop.is_cancelled() {
                process.fail("the settings, or the log of health, are no longer read".to_owned());
            }
        });
    }

    /// Ends the process if the task that holds the answer panics: its work would stand still, and nobody would know.
    #[must_use]
    pub fn watch_for_panic(&self, task: &'static str) -> PanicWatch {
        PanicWatch { process: self.clone(), task }
    }

    /// Publishes a record that can't be processed to the dead letters, untouched, and waits until that is acknowledged.
    ///
    /// # Errors
    /// If it can't be published.
    pub async fn publish_dead_letter(
        &self,
        topic: &str,
        partition: i32,
        record: &Record<'_>,
        poison: &Poison,
    ) -> Result<(), String> {
        let headers = dead_letter_headers(poison, topic, partition, record.offset, record.arrived);
        let letter = Outgoing {
            topic: &self.topics.dead_letters,
            partition: None,
            key: record.key.unwrap_or_default(),
            value: record.value,
            headers: &headers,
        };
        self.publisher.publish_and_wait(&letter).await.map_err(|error| error.to_string())?;
        self.metrics.dead_letters.of(poison.reason).inc();
        Ok(())
    }

    /// Waits for something that must end the process.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        tokio::select! {
            reason = self.publisher.failed() => reason,
            reason = failure.wait_for(Option::is_some) => {
                reason.ok().and_then(|reason| reason.clone()).unwrap_or_default()
            }
        }
    }
}

/// See [`Process::watch_for_panic`].
pub struct PanicWatch {
    process: Process,
    task: &'static str,
}

impl Drop for PanicWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.process.fail(format!("the task `{}` panicked", self.task));
        }
    }
}
