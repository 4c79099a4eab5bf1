//! The tail of `webhook-settings` and `webhook-states`: keeps the directory of webhooks up to date.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::BorrowedMessage,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::client::{LoggingContext, Topics, with_properties};
use crate::{
    config::KafkaSettings,
    model::{
        history::{Directory, Place},
        ids::WebhookId,
        time::Millis,
        webhook::Webhook,
    },
    wire::{Poison, PoisonReason, settings, state},
};

/// A batch is applied only if the tail had reached an end offset that was asked for at most this long before the
/// batch was polled. Below the 5 s after which a change counts.
const FRESHNESS: Duration = Duration::from_secs(4);
/// A process that has not read the settings to their end for so long is not ready.
const STALE: Duration = Duration::from_secs(15);
/// How often the end offsets are asked for.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for a broker's answer.
const REQUEST_WAIT: Duration = Duration::from_secs(5);

/// A record of `webhook-settings` that can't be used.
#[derive(Debug)]
pub struct Unusable {
    pub partition: i32,
    pub offset: i64,
    pub arrived: Millis,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub poison: Poison,
}

/// The directory of webhooks, kept up to date by a thread of its own.
#[derive(Clone)]
pub struct SettingsTail {
    directory: Arc<RwLock<Directory>>,
    fresh: watch::Receiver<Option<Instant>>,
}

impl SettingsTail {
    /// Starts reading both topics from their beginning. Unusable records that arrive from now on go to `unusable`.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn start(
        settings: &KafkaSettings,
        topics: &Topics,
        embedded: bool,
        stop: CancellationToken,
        unusable: mpsc::UnboundedSender<Unusable>,
    ) -> Result<Self, KafkaError> {
        let mut config = super::client_config(settings);
        config
            .set("group.id", topics.group("tail"))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.wait.max.ms", if embedded { "10" } else { "100" });
        with_properties(&mut config, settings);
        let directory = Arc::new(RwLock::new(Directory::default()));
        let (sender, fresh) = watch::channel(None);
        let reader = Reader {
            topics: [
                Followed::new(topics.webhook_settings.clone(), config.create_with_context(LoggingContext)?),
                Followed::new(topics.webhook_states.clone(), config.create_with_context(LoggingContext)?),
            ],
            directory: directory.clone(),
            fresh: sender,
            unusable,
            live: false,
        };
        std::thread::Builder::new()
            .name("settings-tail".to_owned())
            .spawn(move || reader.run(&stop))
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { directory, fresh })
    }

    /// The directory as it stands.
    pub fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether both topics have been read to their end, and lately.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        match *self.fresh.borrow() {
            None => Err("the settings have not been read yet".to_owned()),
            Some(asked) if asked.elapsed() > STALE => Err(format!(
                "the settings have not been read to their end for {} s",
                asked.elapsed().as_secs()
            )),
            Some(_) => Ok(()),
        }
    }

    /// Waits until the directory holds every change that counts for what was polled at a moment. False if the tail
    /// has ended.
    pub async fn fresh_for(&self, polled_at: Instant) -> bool {
        let mut fresh = self.fresh.clone();
        fresh.wait_for(|asked| asked.is_some_and(|asked| asked + FRESHNESS >= polled_at)).await.is_ok()
    }

    /// Waits until the directory holds everything that was published before a moment. False if the tail has ended.
    pub async fn read_since(&self, moment: Instant) -> bool {
        let mut fresh = self.fresh.clone();
        fresh.wait_for(|asked| asked.is_some_and(|asked| asked >= moment)).await.is_ok()
    }

    /// A receiver that changes whenever the topics have been read to their end again.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Instant>> {
        self.fresh.clone()
    }
}

/// End offsets by partition.
type Ends = HashMap<i32, i64>;

/// One topic that is read from its beginning.
struct Followed {
    topic: String,
    consumer: BaseConsumer<LoggingContext>,
    /// Next offset by partition.
    positions: Ends,
    /// Partitions of which librdkafka has said that there is no more, and that have given nothing since.
    at_end: HashSet<i32>,
    /// The end offsets of the last two askings.
    asked: [Ends; 2],
}

impl Followed {
    fn new(topic: String, consumer: BaseConsumer<LoggingContext>) -> Self {
        Self { topic, consumer, positions: Ends::new(), at_end: HashSet::new(), asked: Default::default() }
    }

    /// Assigns every partition from its beginning.
    fn assign(&self) -> Result<(), KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), REQUEST_WAIT)?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        if partitions == 0 {
            let problem =
                format!("topic `{}` does not exist; create it with `bundlehook topics`", self.topic);
            return Err(KafkaError::Subscription(problem));
        }
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(&self.topic, partition as i32, Offset::Beginning)?;
        }
        self.consumer.assign(&list)
    }

    /// Asks for the end offsets of all partitions.
    fn ask(&mut self) -> Result<(), KafkaError> {
        let mut ends = Ends::new();
        for element in self.consumer.assignment()?.elements() {
            let (_, end) = self.consumer.fetch_watermarks(&self.topic, element.partition(), REQUEST_WAIT)?;
            ends.insert(element.partition(), end);
        }
        self.asked = [std::mem::take(&mut self.asked[1]), ends];
        Ok(())
    }

    /// True if everything below the end offsets last asked for has been read.
    fn has_reached(&self) -> bool {
        self.asked[1].iter().all(|(partition, end)| {
            self.positions.get(partition).is_some_and(|position| position >= end)
                || *end == 0
                || self.has_only_holes(*partition, *end)
        })
    }

    /// Offsets at the end may belong to no record: compacted away, or control records. Then the end stays where it
    /// is from one asking to the next while there is nothing to read.
    fn has_only_holes(&self, partition: i32, end: i64) -> bool {
        self.at_end.contains(&partition) && self.asked[0].get(&partition) == Some(&end)
    }
}

struct Reader {
    /// `webhook-settings`, `webhook-states`.
    topics: [Followed; 2],
    directory: Arc<RwLock<Directory>>,
    fresh: watch::Sender<Option<Instant>>,
    unusable: mpsc::UnboundedSender<Unusable>,
    /// The topics have been read to their end once.
    live: bool,
}

impl Reader {
    fn run(mut self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            match self.topics.iter().try_for_each(Followed::assign) {
                Ok(()) => break,
                Err(error) => {
                    warn!(%error, "the settings can't be read yet");
                    pause();
                }
            }
        }
        let mut asked: Option<Instant> = None;
        let mut next_ask = Instant::now();
        while !stop.is_cancelled() {
            if Instant::now() >= next_ask {
                let now = Instant::now();
                next_ask = now + ASK_INTERVAL;
                match self.topics.iter_mut().try_for_each(Followed::ask) {
                    Ok(()) => asked = Some(now),
                    Err(error) => warn!(%error, "the end of the topics of settings can't be read"),
                }
            }
            self.read(0);
            self.read(1);
            if asked.is_some() && self.topics.iter().all(Followed::has_reached) {
                self.live = true;
                self.fresh.send_replace(asked.take());
            }
        }
    }

    /// Takes in what one topic has to give.
    fn read(&mut self, index: usize) {
        let mut wait = Duration::from_millis(5);
        loop {
            let followed = &self.topics[index];
            let partition = match followed.consumer.poll(wait) {
                None => return,
                Some(Ok(message)) => {
                    self.take(index, &message);
                    let (partition, next) = (message.partition(), message.offset() + 1);
                    drop(message);
                    self.topics[index].positions.insert(partition, next);
                    self.topics[index].at_end.remove(&partition);
                    wait = Duration::ZERO;
                    continue;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => partition,
                Some(Err(error)) => {
                    warn!(%error, topic = followed.topic, "trouble while reading settings");
                    return;
                }
            };
            self.topics[index].at_end.insert(partition);
        }
    }

    fn take(&self, topic: usize, message: &BorrowedMessage<'_>) {
        let at = Millis(message.timestamp().to_millis().unwrap_or_default());
        let place = Place { at, offset: message.offset() };
        if topic == 0 {
            self.take_settings(place, message);
        } else {
            self.take_state(place, message);
        }
    }

    fn take_settings(&self, place: Place, message: &BorrowedMessage<'_>) {
        let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        let Some(value) = message.payload() else {
            let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
            if let Some(id) = key.and_then(|key| WebhookId::parse(key).ok()) {
                debug!(webhook = %id, "webhook deleted");
                directory.change(place, &id, None);
            }
            return;
        };
        match settings::decode(value).and_then(|webhook| keyed(webhook, message.key())) {
            Ok(webhook) => {
                debug!(webhook = %webhook.webhook_id, offset = place.offset, "settings read");
                directory.change(place, &webhook.webhook_id.clone(), Some(webhook));
            }
            Err(poison) => self.refuse(message, poison),
        }
    }

    /// The former settings stay in force. What was refused before this process started was reported then.
    fn refuse(&self, message: &BorrowedMessage<'_>, poison: Poison) {
        warn!(offset = message.offset(), %poison, "settings that can't be used");
        if self.live {
            let unusable = Unusable {
                partition: message.partition(),
                offset: message.offset(),
                arrived: Millis(message.timestamp().to_millis().unwrap_or_default()),
                key: message.key().unwrap_or_default().to_vec(),
                value: message.payload().unwrap_or_default().to_vec(),
                poison,
            };
            // Nobody listens in roles that do not keep dead letters.
            let _ = self.unusable.send(unusable);
        }
    }

    fn take_state(&self, place: Place, message: &BorrowedMessage<'_>) {
        let Some(value) = message.payload() else {
            if let Some((id, kind)) = message.key().and_then(state::decode_key) {
                self.directory.write().unwrap_or_else(PoisonError::into_inner).take_back(&id, kind);
            }
            return;
        };
        match state::decode(value) {
            Ok((id, state)) => {
                self.directory.write().unwrap_or_else(PoisonError::into_inner).state(place, &id, state);
            }
            Err(poison) => warn!(offset = message.offset(), %poison, "a state that can't be read"),
        }
    }
}

/// Settings whose key is another webhook's would not be compacted with their own.
fn keyed(webhook: Webhook, key: Option<&[u8]>) -> Result<Webhook, Poison> {
    if key == Some(webhook.webhook_id.as_str().as_bytes()) {
        return Ok(webhook);
    }
    let key = String::from_utf8_lossy(key.unwrap_or_default()).into_owned();
    let detail = format!("the record's key is `{key}`, expected `{}`, its `webhook_id`", webhook.webhook_id);
    Err(Poison { reason: PoisonReason::InvalidSettings, detail })
}

/// A pause of this thread, on which nothing else runs.
#[allow(clippy::disallowed_methods, reason = "the thread is the tail's own")]
fn pause() {
    std::thread::sleep(ASK_INTERVAL);
}
