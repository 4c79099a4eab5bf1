//! Questions about the cluster's topics, and their creation.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientContext,
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
        TopicReplication,
    },
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    metadata::{Metadata, MetadataPartition},
    producer::{BaseProducer, DeliveryResult, Producer, ProducerContext},
};
use tracing::debug;

use super::{
    client_config,
    topic_id::{TopicIdError, topic_id},
};
use crate::config::KafkaSettings;

/// Longest wait for an answer of the brokers.
const ANSWER: Duration = Duration::from_secs(10);

/// Why the cluster could not be asked, or did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// librdkafka refuses the settings.
    #[error("no Kafka client can be made of the settings")]
    Settings(#[source] KafkaError),
    /// Nobody answers.
    #[error(
        "no broker of `{brokers}` answered within {} s ({heard}); is `--kafka-brokers` right, does Kafka run, and does it \
         expect `security.protocol={protocol}`?",
        ANSWER.as_secs()
    )]
    Unreachable {
        /// Whom we asked.
        brokers: String,
        /// The last that librdkafka said about it.
        heard: String,
        /// How we spoke to it.
        protocol: String,
    },
    /// A topic could not be created.
    #[error("topic `{topic}` could not be created: {problem}")]
    Creation {
        /// Its name.
        topic: String,
        /// What the broker said.
        problem: RDKafkaErrorCode,
    },
    /// The broker did not tell a topic's settings.
    #[error(
        "the settings of topic `{0}` could not be read; is this user allowed to describe its configuration?"
    )]
    Unreadable(String),
    /// The broker refused a request as a whole.
    #[error("the brokers did not {what}")]
    Refused {
        /// What they were asked for.
        what: &'static str,
        /// What they said.
        #[source]
        error: KafkaError,
    },
}

/// Keeps the last trouble that librdkafka reports, which says more than a missing answer.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<Mutex<Option<String>>>);

impl Heard {
    /// The last trouble.
    #[must_use]
    pub fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, text: &str) {
        // `[thrd:host:port/bootstrap]: host:port/bootstrap: Connect to … failed`
        let text = text.split_once("]: ").map_or(text, |(_, text)| text);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    }
}

impl ClientContext for Heard {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(?level, facility, "librdkafka: {message}");
        if (level as i32) <= RDKafkaLogLevel::Error as i32 {
            self.keep(message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, "librdkafka: {reason}");
        // That all brokers are down says nothing about why.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.keep(reason);
        }
    }
}

impl ProducerContext for Heard {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// How long to read what librdkafka has said meanwhile.
const LISTEN: Duration = Duration::from_millis(100);

/// The brokers and topics of a cluster, as one of the brokers sees them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    /// `host:port` of each broker that is up.
    pub brokers: Vec<String>,
    /// The partitions of each topic, by number.
    pub topics: BTreeMap<String, Vec<Replicas>>,
}

/// Where a partition is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// A broker leads it: it can be read and written.
    pub led: bool,
    /// How many replicas it has.
    pub count: usize,
    /// How many of them are in sync.
    pub in_sync: usize,
}

impl Cluster {
    fn new(metadata: &Metadata) -> Self {
        let replicas = |partition: &MetadataPartition| Replicas {
            led: partition.leader() >= 0,
            count: partition.replicas().len(),
            in_sync: partition.isr().len(),
        };
        let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
        let brokers = metadata.brokers().iter();
        Self {
            brokers: brokers.map(|broker| format!("{}:{}", broker.host(), broker.port())).collect(),
            topics: topics
                .map(|topic| (topic.name().to_owned(), topic.partitions().iter().map(replicas).collect()))
                .collect(),
        }
    }
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopicRequest {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas; -1 is the broker's default.
    pub replication_factor: i32,
    /// Settings by name.
    pub settings: BTreeMap<&'static str, String>,
}

/// A client that asks about topics and creates them.
pub struct Admin {
    client: AdminClient<Heard>,
    /// Asks for metadata: unlike an `AdminClient` it can be polled for what goes wrong meanwhile.
    asker: Arc<BaseProducer<Heard>>,

    heard: Heard,
    brokers: String,
    protocol: String,
}

impl Admin {
    /// Makes the client; it connects with the first question.
    ///
    /// # Errors
    /// [`AdminError::Settings`] if librdkafka refuses the settings.
    pub fn new(settings: &KafkaSettings) -> Result<Self, AdminError> {
        let heard = Heard::default();
        let config = client_config(settings);
        let client = config.create_with_context(heard.clone()).map_err(AdminError::Settings)?;
        let asker = config.create_with_context(heard.clone()).map_err(AdminError::Settings)?;
        let protocol = config.get("security.protocol").unwrap_or("plaintext").to_owned();
        Ok(Self { client, asker: Arc::new(asker), heard, brokers: settings.brokers.clone(), protocol })
    }

    /// The number of partitions of each topic that this user may see.
    ///
    /// # Errors
    /// [`AdminError::Unreachable`] if no broker answers.
    pub async fn partitions(&self) -> Result<BTreeMap<String, i32>, AdminError> {
        let topics = self.cluster().await?.topics;
        Ok(topics.into_iter().map(|(topic, partitions)| (topic, partitions.len() as i32)).collect())
    }

    /// The brokers, and the topics that this user may see.
    ///
    /// # Errors
    /// [`AdminError::Unreachable`] if no broker answers.
    pub async fn cluster(&self) -> Result<Cluster, AdminError> {
        let asker = self.asker.clone();
        // Asked for all topics: asking for one by name may create it.
        let answer = tokio::task::spawn_blocking(move || {
            let metadata = asker.client().fetch_metadata(None, ANSWER);
            if metadata.is_err() {
                asker.poll(LISTEN);
            }
            metadata.map(|metadata| Cluster::new(&metadata))
        });
        answer.await.unwrap_or(Err(KafkaError::Canceled)).map_err(|error| self.unreachable(&error))
    }

    /// Kafka's id of a topic.
    ///
    /// # Errors
    /// [`TopicIdError`] if the topic is unknown or no broker answers in time.
    pub async fn topic_id(&self, topic: &str) -> Result<String, TopicIdError> {
        let (asker, name) = (self.asker.clone(), topic.to_owned());
        let answer = tokio::task::spawn_blocking(move || topic_id(asker.client(), &name, ANSWER)).await;
        let failed = |problem: String| TopicIdError::Failed { topic: topic.to_owned(), problem };
        answer.unwrap_or_else(|error| Err(failed(error.to_string())))
    }

    /// The settings of topics that exist, by topic and name.
    ///
    /// # Errors
    /// [`AdminError::Unreadable`] names a topic whose settings the broker does not tell.
    pub async fn settings(
        &self,
        topics: &[&str],
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, AdminError> {
        if topics.is_empty() {
            return Ok(BTreeMap::new());
        }
        let asked: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let answers = self.client.describe_configs(&asked, &options()).await;
        let answers = answers.map_err(|error| AdminError::Refused { what: "describe the topics", error })?;
        let told: BTreeMap<_, _> = answers.into_iter().flatten().filter_map(topic_settings).collect();
        match topics.iter().find(|topic| !told.contains_key(**topic)) {
            Some(untold) => Err(AdminError::Unreadable((*untold).to_owned())),
            None => Ok(told),
        }
    }

    /// Creates topics; one that exists meanwhile is left as it is.
    ///
    /// # Errors
    /// [`AdminError::Creation`] names the first topic that could not be created.
    pub async fn create(&self, topics: &[NewTopicRequest]) -> Result<(), AdminError> {
        if topics.is_empty() {
            return Ok(());
        }
        let requests: Vec<_> = topics.iter().map(new_topic).collect();
        let answers = self.client.create_topics(&requests, &options()).await;
        let answers = answers.map_err(|error| AdminError::Refused { what: "create the topics", error })?;
        let failed = answers.into_iter().filter_map(Result::err);
        match failed.into_iter().find(|(_, problem)| *problem != RDKafkaErrorCode::TopicAlreadyExists) {
            Some((topic, problem)) => Err(AdminError::Creation { topic, problem }),
            None => Ok(()),
        }
    }

    fn unreachable(&self, error: &KafkaError) -> AdminError {
        let heard = self.heard.last().unwrap_or_else(|| error.to_string());
        AdminError::Unreachable { brokers: self.brokers.clone(), heard, protocol: self.protocol.clone() }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER))
}

fn new_topic(topic: &NewTopicRequest) -> NewTopic<'_> {
    let replication = TopicReplication::Fixed(topic.replication_factor);
    let new = NewTopic::new(&topic.name, topic.partitions, replication);
    topic.settings.iter().fold(new, |new, (name, value)| new.set(name, value))
}

/// None where the broker refused: the crate answers so with no entries at all.
fn topic_settings(resource: ConfigResource) -> Option<(String, BTreeMap<String, String>)> {
    let OwnedResourceSpecifier::Topic(name) = resource.specifier else {
        return None;
    };
    let values = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
    let settings: BTreeMap<_, _> = values.collect();
    (!settings.is_empty()).then_some((name, settings))
}
