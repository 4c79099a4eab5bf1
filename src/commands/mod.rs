//! What people do to webhooks: look at them, switch them, try them out, send again. Functions that the command line calls,
//! and whatever else asks on a person's behalf.
//!
//! Kafka is what a command reads and writes; Redis gives health, counts and the log, and a claim for each edit.

mod changes;
mod edit;
mod error;
mod look;
mod resend;
mod settings;
mod switch;
mod testing;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::HistogramVec;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::{
    changes::{Change, ChangeLog, ChangedField, MOST_CHANGES},
    edit::{Patch, Rotated},
    error::CommandError,
    look::{LastAttempt, Logged, WebhookView},
    resend::{Resend, Resent, What},
    switch::{Held, Switched},
    testing::Tested,
};
use crate::{
    config::{KafkaSettings, RedisSettings, SealedSettings},
    io::{
        Redis,
        attempt_log::AttemptLog,
        clock,
        kafka::{
            Topics,
            admin::Admin,
            edits::EditPublisher,
            health_log::HealthLog,
            publisher::{Outgoing, Publisher},
            tail::SettingsTail,
        },
        redis::{edits::EditStore, health::HealthStore},
    },
    model::{
        history::Current,
        ids::{WebhookId, WorkspaceId},
        time::Millis,
    },
    wire::sealing::Keys,
};

/// An edit that Kafka has not acknowledged by then is given up: well before others may edit the same again.
const EDIT_LIMIT: Duration = Duration::from_secs(10);

/// What becomes of secrets that a command puts into settings.
#[derive(Clone, Default)]
pub enum Sealing {
    /// They are refused: there are no keys to seal them with.
    #[default]
    Refused,
    /// They are sealed.
    With(Arc<Keys>),
    /// They stay in the clear; for `dev`, whose broker forgets everything.
    Plain,
}

/// The connections that commands need, and who gives them.
#[derive(Clone)]
pub struct Commands {
    kafka: KafkaSettings,
    topics: Topics,
    redis: Redis,
    publisher: Publisher,
    edit_publisher: EditPublisher,
    tail: SettingsTail,
    health: HealthStore,
    health_log: HealthLog,
    log: Arc<AttemptLog>,
    edits: EditStore,
    sealing: Sealing,
    /// Who gives the commands, as the change log, attempts and refused edits name them.
    by: String,
    /// Longest wait for Kafka or Redis.
    patience: Duration,
    /// Settings with secrets in the clear are not in force.
    require_sealed: bool,
}

impl Commands {
    /// Connects. What it begins ends with `stop`.
    ///
    /// # Errors
    /// [`CommandError::Unavailable`] if Redis or Kafka can't be reached in time.
    pub async fn connect(
        kafka: &KafkaSettings,
        redis: &RedisSettings,
        SealedSettings { require_sealed }: SealedSettings,
        by: String,
        patience: Duration,
        embedded: bool,
        stop: CancellationToken,
    ) -> Result<Self, CommandError> {
        let topics = Topics::new(&kafka.topics);
        let publisher = Publisher::new(kafka, embedded).map_err(CommandError::failed)?;
        // What can't be used is reported by the roles.
        let (unusable, _) = mpsc::unbounded_channel();
        let tail = SettingsTail::start(kafka, &topics, require_sealed, embedded, stop.clone(), unusable)
            .map_err(CommandError::failed)?;
        let health_log = HealthLog::start(kafka, &topics, embedded, stop).map_err(CommandError::failed)?;
        let unavailable = |cause| CommandError::Unavailable(format!("redis did not answer: {cause}"));
        let redis = Redis::reach(redis, patience).await.map_err(unavailable)?;
        let prefix = topics.prefix();
        Ok(Self {
            health: HealthStore::new(redis.clone(), prefix),
            health_log,
            log: Arc::new(AttemptLog::new(redis.clone(), kafka)),
            edits: EditStore::new(redis.clone(), prefix),
            kafka: kafka.clone(),
            topics,
            redis,
            publisher,
            edit_publisher: EditPublisher::new(kafka, EDIT_LIMIT).map_err(CommandError::failed)?,
            tail,
            sealing: Sealing::default(),
            by,
            patience,
            require_sealed,
        })
    }

    /// From now on operations on Redis are measured, by their names.
    pub fn measure(&self, durations: HistogramVec) {
        self.redis.measure(durations);
    }

    /// The same with another way with secrets.
    #[must_use]
    pub fn sealing(self, sealing: Sealing) -> Self {
        Self { sealing, ..self }
    }

    /// The same, given by somebody else.
    #[must_use]
    pub fn by(&self, by: &str) -> Self {
        Self { by: by.to_owned(), ..self.clone() }
    }

    /// Whose a webhook is, by everything that was published before; none if there is none.
    ///
    /// # Errors
    /// If Kafka can't be read.
    pub async fn owner_workspace(&self, id: &WebhookId) -> Result<Option<WorkspaceId>, CommandError> {
        // What is known is enough for a webhook of long standing; one that was just created is waited for.
        if let Some(known) = self.workspace_of(id) {
            return Ok(Some(known));
        }
        self.read_settings().await?;
        Ok(self.workspace_of(id))
    }

    /// Whose a webhook is, by what is known already; none if it is not known.
    #[must_use]
    pub fn workspace_of(&self, id: &WebhookId) -> Option<WorkspaceId> {
        let current = self.tail.directory().current(id)?;
        Some(current.webhook.workspace_id.clone())
    }

    /// Whether settings and health have been read to their end, and lately.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        self.tail.ready()?;
        self.health_log.ready()
    }

    /// Waits for what must end the process: a record that could not be published.
    pub async fn failed(&self) -> String {
        self.publisher.failed().await
    }

    /// Waits until everything is known of settings, states and health that was published before.
    async fn read_settings(&self) -> Result<(), CommandError> {
        let now = Instant::now();
        let both = async { self.tail.read_since(now).await && self.health_log.read_since(now).await };
        let read = within(self.patience, "the settings could not be read from Kafka", both).await?;
        if read { Ok(()) } else { Err(CommandError::Failed("the settings are no longer read".to_owned())) }
    }

    /// What is in force for a webhook, by everything that was published before.
    async fn current(&self, id: &WebhookId) -> Result<Current, CommandError> {
        self.read_settings().await?;
        self.tail.directory().current(id).ok_or_else(|| CommandError::unknown(id))
    }

    /// Publishes a record and waits until it is acknowledged. Returns its offset.
    async fn publish(&self, record: &Outgoing<'_>) -> Result<i64, CommandError> {
        let unknown = "Kafka did not acknowledge the record; whether it counts shows later, in `bundlehook webhook show`";
        tokio::select! {
            published = within(self.patience, unknown, self.publisher.publish_and_wait(record)) => {
                published?.map_err(CommandError::failed)
            }
            problem = self.publisher.failed() => Err(CommandError::Failed(problem)),
        }
    }

    /// Publishes a record that must not come later than others may edit the same. Returns its offset.
    async fn publish_edit_record(&self, record: &Outgoing<'_>) -> Result<i64, CommandError> {
        self.edit_publisher.publish(record).await.map_err(|error| {
            CommandError::Unavailable(format!(
                "Kafka did not acknowledge the edit within {} s ({error}), and it was given up; look at the webhook and try again",
                EDIT_LIMIT.as_secs()
            ))
        })
    }

    /// The time by the brokers' clock, which stamps arrivals.
    async fn broker_time(&self) -> Result<Millis, CommandError> {
        let heartbeat = Outgoing {
            topic: &self.topics.webhook_states,
            partition: None,
            key: b"heartbeat",
            value: None,
            headers: &[],
        };
        self.publish(&heartbeat).await?;
        let ahead = self.publisher.broker_clock().map_or(0, |(ahead, _)| ahead);
        Ok(Millis(clock::now().0 + ahead))
    }

    /// How many partitions a topic has.
    async fn partitions(&self, topic: &str) -> Result<i32, CommandError> {
        let admin = Admin::new(&self.kafka).map_err(CommandError::failed)?;
        let partitions =
            admin.partitions().await.map_err(|error| CommandError::Unavailable(error.to_string()))?;
        let count = partitions.get(topic).copied();
        count.ok_or_else(|| {
            CommandError::Failed(format!("topic `{topic}` does not exist; `bundlehook topics` creates it"))
        })
    }
}

/// Waits at most so long.
async fn within<T>(patience: Duration, what: &str, work: impl Future<Output = T>) -> Result<T, CommandError> {
    let done = tokio::time::timeout(patience, work).await;
    done.map_err(|_| CommandError::Unavailable(format!("{what} within {} s", patience.as_secs_f64())))
}
