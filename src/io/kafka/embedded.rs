//! librdkafka's in-process broker, for `dev`: a real protocol over loopback, nothing stored.
//!
//! It keeps at most 5 MiB a partition, compacts nothing and stamps no time of its own, so whatever is about loss,
//! retention or order belongs on Apache Kafka.

use std::{collections::BTreeMap, sync::mpsc, thread};

use rdkafka::{error::KafkaError, mocking::MockCluster};
use tokio::sync::oneshot;

use crate::config::KafkaSettings;

/// An embedded broker, alive as long as this is.
pub struct EmbeddedBroker {
    servers: String,
    // Dropping it ends the thread that the broker lives on, since it can't change threads.
    _end: mpsc::Sender<()>,
}

impl EmbeddedBroker {
    /// Starts a broker with topics, each with a number of partitions.
    ///
    /// # Errors
    /// If librdkafka can't start it.
    pub async fn start(topics: Vec<(String, i32)>) -> Result<Self, KafkaError> {
        let (end, ended) = mpsc::channel::<()>();
        let (started, answer) = oneshot::channel();
        let run = move || {
            let broker = match begin(&topics) {
                Ok(broker) => broker,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(broker.bootstrap_servers()));
            // Ends with an error when the other side is dropped, which is what is waited for.
            let _ = ended.recv();
        };
        thread::Builder::new()
            .name("embedded-broker".to_owned())
            .spawn(run)
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        let servers = answer.await.map_err(|_| KafkaError::Canceled)??;
        Ok(Self { servers, _end: end })
    }

    /// How to reach it.
    #[must_use]
    pub fn settings(&self) -> KafkaSettings {
        KafkaSettings::embedded(self.servers.clone(), BTreeMap::new())
    }

    /// Its address.
    #[must_use]
    pub fn servers(&self) -> &str {
        &self.servers
    }
}

fn begin(
    topics: &[(String, i32)],
) -> Result<MockCluster<'static, rdkafka::producer::DefaultProducerContext>, KafkaError> {
    let broker = MockCluster::new(1)?;
    for (topic, partitions) in topics {
        broker.create_topic(topic, *partitions, 1)?;
    }
    Ok(broker)
}
