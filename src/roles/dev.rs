//! The role `dev`: all roles in one process with librdkafka's in-process broker and a `redis-server` of its own.

use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::{
    Roles,
    serve::{Serve, dev_secret},
};
use crate::{
    config::{DevCommand, KafkaSettings, ProduceSettings, RedisServers, RedisSettings, TopicSettings},
    io::{
        kafka::{Topics, embedded::EmbeddedBroker},
        redis::server::RedisServer,
    },
    tools::produce,
};

/// Partitions of the topics that carry load.
const PARTITIONS: i32 = 3;
/// The embedded broker forgets old records, so settings are published anew this often.
const REPUBLISH: Duration = Duration::from_mins(1);
/// Longest wait for Redis.
const REDIS_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs all roles until it is told to stop.
///
/// # Errors
/// If Redis or the broker can't be started, or a role ends with an error.
pub async fn run(command: DevCommand, stop: CancellationToken) -> anyhow::Result<()> {
    let redis = RedisServer::start().await.context("`dev` needs a Redis of its own")?;
    let broker = EmbeddedBroker::start(topics()).await.context("the embedded broker did not start")?;
    let kafka = broker.settings();
    let redis_url = redis.url()?;
    let redis_settings = RedisSettings::new(RedisServers::Single(redis_url.clone()), REDIS_TIMEOUT);
    println!("embedded broker: topics are not checked, nothing outlives this process");
    println!("export BUNDLEHOOK_KAFKA_BROKERS={}", broker.servers());
    println!("export BUNDLEHOOK_REDIS_URL={redis_url}");
    if let Some(settings) = command.dev.settings {
        tokio::spawn(republish(kafka.clone(), settings, stop.clone()));
    }
    let secret = dev_secret();
    let serve = Serve::with_secret(command.serve, &command.windows, secret);
    serve.announce()?;
    let roles = Roles {
        kafka,
        redis: redis_settings,
        ops: command.ops,
        aggregate: Some(command.windows),
        deliver: Some(command.delivery),
        notify: Some((command.mail, None)),
        serve: Some(serve),
        from: None,
        require_sealed: false,
        embedded: true,
    };
    roles.run(stop).await
}

fn topics() -> Vec<(String, i32)> {
    let topics = Topics::new(&TopicSettings { prefix: String::new() });
    let wide = [
        topics.message_events,
        topics.message_skips,
        topics.bundles,
        topics.waiting_deliveries,
        topics.delivery_attempts,
        topics.dead_letters,
    ];
    let narrow = [
        topics.webhook_settings,
        topics.webhook_states,
        topics.webhook_health,
        topics.webhook_changes,
        topics.webhook_events,
        topics.notifications,
    ];
    let with = |partitions| move |topic| (topic, partitions);
    wide.into_iter().map(with(PARTITIONS)).chain(narrow.into_iter().map(with(1))).collect()
}

/// Publishes the settings of a file again and again, which changes nothing where they are known.
async fn republish(kafka: KafkaSettings, file: std::path::PathBuf, stop: CancellationToken) {
    loop {
        let settings = ProduceSettings {
            file: None,
            settings: Some(file.clone()),
            rate: None,
            sealing_keys: None,
            plain: true,
        };
        let stopped = stop.clone().cancelled_owned();
        if let Err(error) = produce::run(kafka.clone(), settings, stopped).await {
            tracing::error!(file = %file.display(), error = format!("{error:#}"), "the settings could not be published");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(REPUBLISH) => {}
        }
    }
}
