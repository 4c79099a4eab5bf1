//! The role `aggregate`: `message-events` to windows in Redis to `bundles`.

mod ahead;
mod by_clock;
mod claim;
mod closing;
mod committing;
mod partition;
mod progress;
mod publishing;
mod skips;
mod standing;

use std::{sync::Arc, time::Duration};

use rdkafka::{admin::AdminClient, client::DefaultClientContext};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::claim::claim;
use super::{backlog::Backlogs, checks, process::Process};
use crate::{
    config::{StartFrom, WindowSettings},
    io::{
        StoreError,
        kafka::{
            intake::{Intake, IntakeOptions, PartitionFeed},
            publisher::{AckGroup, Outgoing},
            tail::Unusable,
            topic_id::topic_id,
        },
    },
    wire::dead_letter_headers,
};

/// Pause before a claim is tried again.
const CLAIM_PAUSE: Duration = Duration::from_millis(500);
/// How long a worker may take to get its last acknowledgements when its partition is revoked.
const DRAIN: Duration = Duration::from_secs(20);
/// Longest wait for a broker's answer.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// What the workers of all partitions share.
struct Aggregate {
    process: Process,
    windows: WindowSettings,
    /// Where to start without a committed offset, if the operator says.
    from: Option<StartFrom>,
    /// Kafka's id of `message-events`.
    topic_id: String,
    backlogs: Backlogs,
}

/// Starts the role. It runs until the intake is stopped.
///
/// # Errors
/// If Kafka refuses what the role begins with.
pub async fn start(
    process: &Process,
    windows: WindowSettings,
    from: Option<StartFrom>,
    unusable: tokio::sync::mpsc::UnboundedReceiver<Unusable>,
) -> anyhow::Result<Intake> {
    if windows.is_short() {
        warn!(hour = ?windows.hour, "an hour is shorter than a real one: for demonstrations and tests only");
    }
    let topic_id = source_id(process).await?;
    if !process.embedded {
        let topics = &process.topics;
        checks::topics(process, &[&topics.message_events, &topics.bundles]).await?;
    }
    let options = IntakeOptions {
        topic: process.topics.message_events.clone(),
        group: process.topics.group("aggregate"),
        drain: DRAIN,
        embedded: process.embedded,
    };
    let backlogs = Backlogs::start(process, "aggregate", &process.topics.message_events)?;
    let aggregate = Arc::new(Aggregate { process: process.clone(), windows, from, topic_id, backlogs });
    tokio::spawn(keep_unusable_settings(process.clone(), unusable));
    let spawn = Box::new(move |feed| {
        let aggregate = aggregate.clone();
        Box::pin(async move { aggregate.work(feed).await }) as _
    });
    Ok(Intake::start(&process.kafka, &options, spawn)?)
}

/// Waits for the topic of events and reads its id.
async fn source_id(process: &Process) -> anyhow::Result<String> {
    if process.embedded {
        return Ok("embedded".to_owned());
    }
    let topic = process.topics.message_events.clone();
    let client: AdminClient<DefaultClientContext> =
        crate::io::kafka::client_config(&process.kafka).create()?;
    let client = Arc::new(client);
    loop {
        let (client, name) = (client.clone(), topic.clone());
        let answer =
            tokio::task::spawn_blocking(move || topic_id(client.inner(), &name, REQUEST_WAIT)).await?;
        match answer {
            Ok(id) => return Ok(id),
            Err(error) => warn!(%error, "waiting for the topic; `bundlehook topics` creates it"),
        }
        tokio::time::sleep(CLAIM_PAUSE).await;
    }
}

/// Settings that can't be used go to the dead letters; the former ones stay in force.
async fn keep_unusable_settings(
    process: Process,
    mut unusable: tokio::sync::mpsc::UnboundedReceiver<Unusable>,
) {
    let _watch = process.watch_for_panic("unusable settings");
    while let Some(record) = unusable.recv().await {
        let Unusable { partition, offset, arrived, poison, .. } = &record;
        let topic = &process.topics.webhook_settings;
        let headers = dead_letter_headers(poison, topic, *partition, *offset, *arrived);
        let letter = Outgoing {
            topic: &process.topics.dead_letters,
            partition: None,
            key: &record.key,
            value: Some(&record.value),
            headers: &headers,
        };
        process.metrics.dead_letters.of(record.poison.reason).inc();
        if let Err(error) = process.publisher.publish(&letter, &AckGroup::default()).await {
            process.fail(format!("a dead letter could not be published: {error}"));
        }
    }
}

impl Aggregate {
    /// Claims a partition and works on it, again and again, until it is revoked.
    async fn work(&self, mut feed: PartitionFeed) {
        let _watch = self.process.watch_for_panic("partition of events");
        let stop = feed.stopped();
        let partition = feed.partition;
        let owned = self.process.metrics.partitions_owned.with_label_values(&["aggregate"]);
        owned.inc();
        let backlog = self.backlogs.watch(partition);
        // What this process has seen applied: a state below that went backwards.
        let mut remembered = None;
        while !stop.is_cancelled() {
            let claimed = claim(self, &mut feed, remembered, &backlog).await;
            let problem = match claimed {
                Ok(mut state) => {
                    let ended = state.run(&mut feed, &stop).await;
                    remembered = Some(state.applied());
                    match ended {
                        Ok(()) => break,
                        Err(problem) => problem,
                    }
                }
                // Whoever comes next claims anew. Work that ends in trouble is told of as ever, also at a stop.
                Err(Trouble::Busy(reason) | Trouble::Again(reason)) if stop.is_cancelled() => {
                    debug!(partition, reason, "given up before the claim was done");
                    break;
                }
                Err(problem) => problem,
            };
            match problem {
                Trouble::Fatal(reason) => {
                    self.process.fail(reason);
                    break;
                }
                Trouble::Busy(reason) => {
                    self.process.metrics.redis_failures.with_label_values(&["claim", "busy"]).inc();
                    warn!(partition, reason, "claiming the partition again");
                }
                Trouble::Again(reason) => warn!(partition, reason, "claiming the partition again"),
            }
            pause(&stop).await;
        }
        owned.dec();
    }
}

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(CLAIM_PAUSE) => {}
    }
}

/// Why the work on a partition ended before it was revoked.
#[derive(Debug)]
enum Trouble {
    /// Claim again: Redis could not serve a closing or a claim.
    Busy(String),
    /// Claim again: the state was lost, or somebody else has it, or a call failed for good.
    Again(String),
    /// Only a restart, or an operator, can mend it.
    Fatal(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Bug(_) => {
                error!(%error, "redis refused an operation");
                Self::Again(error.to_string())
            }
            StoreError::Damaged(_) => Self::Fatal(error.to_string()),
            StoreError::Busy(_) => Self::Busy(error.to_string()),
            other => Self::Again(other.to_string()),
        }
    }
}

impl From<crate::io::kafka::intake::CommitError> for Trouble {
    fn from(error: crate::io::kafka::intake::CommitError) -> Self {
        Self::Again(error.to_string())
    }
}

impl From<rdkafka::error::KafkaError> for Trouble {
    fn from(error: rdkafka::error::KafkaError) -> Self {
        Self::Fatal(error.to_string())
    }
}
