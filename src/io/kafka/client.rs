//! What all clients have in common: the brokers, the properties, the names of topics and groups.

use rdkafka::{
    ClientConfig, ClientContext,
    client::DefaultClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use tracing::{debug, warn};

use crate::config::{KafkaSettings, TopicSettings};

/// The configuration that every client begins with. The operator's properties are laid over a client's own by
/// [`with_properties`], so they win.
#[must_use]
pub fn client_config(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "bundlehook")
        // Partitions that a topic gets later are read within half a minute, not within five.
        .set("topic.metadata.refresh.interval.ms", "30000");
    with_properties(&mut config, settings);
    config
}

/// Lays the operator's properties over what a client has set itself.
pub fn with_properties(config: &mut ClientConfig, settings: &KafkaSettings) {
    for (name, value) in settings.properties() {
        config.set(name, value);
    }
}

/// The configuration of a consumer that is told which partitions to read, and from where: it is in no group and commits
/// nothing. `own` is what it sets beside that.
#[must_use]
pub fn reading_config(settings: &KafkaSettings, own: &[(&str, &str)]) -> ClientConfig {
    let mut config = client_config(settings);
    config
        // Asked for by librdkafka, which looks for the coordinator of it.
        .set("group.id", Topics::new(&settings.topics).group("reader"))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "50")
        .set("fetch.queue.backoff.ms", "10");
    for (name, value) in own {
        config.set(*name, *value);
    }
    with_properties(&mut config, settings);
    config
}

/// Logs what librdkafka reports, once. The end of a partition is no error.
pub fn log_error(error: &KafkaError, reason: &str) {
    if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
        warn!(%error, reason, "kafka");
    }
}

/// Logs a line of librdkafka's.
pub fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    // The gapless guarantee is called experimental at each start; that it is wanted all the same is decided.
    if facility == "CONFWARN" && message.contains("enable.gapless.guarantee") {
        return debug!(message, "kafka");
    }
    // A connection that is lost while it signs in is called a failure to sign in, but no broker has refused anything. It is
    // made again like any other.
    let is_lost = message.contains("Local: Broker transport failure");
    let level = if is_lost && (level as i32) < RDKafkaLogLevel::Warning as i32 {
        RDKafkaLogLevel::Warning
    } else {
        level
    };
    DefaultClientContext.log(level, facility, message);
}

/// A context that only logs.
#[derive(Debug, Clone, Default)]
pub struct LoggingContext;

impl ClientContext for LoggingContext {
    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }
}

impl ConsumerContext for LoggingContext {}

/// Names of topics and consumer groups, with the prefix.
#[derive(Debug, Clone)]
pub struct Topics {
    prefix: String,
    pub message_events: String,
    pub webhook_settings: String,
    pub webhook_states: String,
    pub webhook_health: String,
    pub message_skips: String,
    pub bundles: String,
    pub waiting_deliveries: String,
    pub delivery_attempts: String,
    pub webhook_changes: String,
    pub webhook_events: String,
    pub notifications: String,
    pub dead_letters: String,
}

impl Topics {
    /// The names under a prefix.
    #[must_use]
    pub fn new(settings: &TopicSettings) -> Self {
        let prefix = settings.prefix.clone();
        let name = |name: &str| format!("{prefix}{name}");
        Self {
            message_events: name("message-events"),
            webhook_settings: name("webhook-settings"),
            webhook_states: name("webhook-states"),
            webhook_health: name("webhook-health"),
            message_skips: name("message-skips"),
            bundles: name("bundles"),
            waiting_deliveries: name("waiting-deliveries"),
            delivery_attempts: name("delivery-attempts"),
            webhook_changes: name("webhook-changes"),
            webhook_events: name("webhook-events"),
            notifications: name("notifications"),
            dead_letters: name("dead-letters"),
            prefix,
        }
    }

    /// The consumer group of a role.
    #[must_use]
    pub fn group(&self, role: &str) -> String {
        format!("{}bundlehook-{role}", self.prefix)
    }

    /// The prefix itself.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}
