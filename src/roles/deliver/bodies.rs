//! The bodies of parked deliveries, read back from `bundles`.

use std::sync::Arc;

use rdkafka::error::KafkaError;
use tokio::sync::Mutex;

use crate::{
    config::KafkaSettings,
    io::kafka::reader::{FoundRecord, RecordReader},
};

/// Reads bodies of one partition. The consumer begins with the first of them.
pub(super) struct Bodies {
    settings: KafkaSettings,
    topic: String,
    partition: i32,
    reader: Arc<Mutex<Option<RecordReader>>>,
}

impl Bodies {
    pub fn new(settings: &KafkaSettings, topic: &str, partition: i32) -> Self {
        let (settings, topic) = (settings.clone(), topic.to_owned());
        Self { settings, topic, partition, reader: Arc::default() }
    }

    /// The records at rising offsets; none for one that is gone.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn read(&self, offsets: Vec<i64>) -> Result<Vec<Option<FoundRecord>>, KafkaError> {
        let mut reader = self.reader.clone().lock_owned().await;
        let (settings, topic, partition) = (self.settings.clone(), self.topic.clone(), self.partition);
        let read = move || {
            if reader.is_none() {
                *reader = Some(RecordReader::new(&settings, &topic, partition)?);
            }
            reader.as_mut().map_or_else(|| Ok(Vec::new()), |reader| reader.read(&offsets))
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| KafkaError::Canceled)?
    }
}

impl Drop for Bodies {
    /// To drop a consumer can block.
    fn drop(&mut self) {
        let reader = self.reader.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(reader.blocking_lock().take()));
        }
    }
}
