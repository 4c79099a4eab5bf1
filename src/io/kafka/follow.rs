//! Compacted topics that are read whole, from their beginning, and followed from then on by a thread of their own.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::BorrowedMessage,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::client::{LoggingContext, reading_config};
use crate::config::KafkaSettings;

/// A process that has not read its topics to their end for so long is not ready.
const STALE: Duration = Duration::from_secs(15);
/// How often the end offsets are asked for.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for a broker's answer.
const REQUEST_WAIT: Duration = Duration::from_secs(5);

/// Takes in a record of the topic with this index.
pub type Take = Box<dyn FnMut(usize, &BorrowedMessage<'_>) + Send>;

/// What is known of how far the topics have been read.
#[derive(Clone)]
pub struct Following {
    /// What the topics hold, for messages.
    what: &'static str,
    /// When the end offsets were asked for up to which everything has been read.
    fresh: watch::Receiver<Option<Instant>>,
}

impl Following {
    /// Whether the topics have been read to their end, and lately.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        let what = self.what;
        match *self.fresh.borrow() {
            None => Err(format!("the {what} has not been read yet")),
            Some(asked) if asked.elapsed() > STALE => {
                Err(format!("the {what} has not been read to its end for {} s", asked.elapsed().as_secs()))
            }
            Some(_) => Ok(()),
        }
    }

    /// True once the topics have been read to an end that was asked for.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.fresh.borrow().is_some()
    }

    /// Waits until everything has been read up to an end that was asked for at a moment or later. False if the reading
    /// has ended.
    pub async fn fresh_since(&self, moment: Instant) -> bool {
        let mut fresh = self.fresh.clone();
        fresh.wait_for(|asked| asked.is_some_and(|asked| asked >= moment)).await.is_ok()
    }

    /// Waits until nothing is read any more: the process stops, or the thread died.
    pub async fn ended(&self) {
        let mut fresh = self.fresh.clone();
        while fresh.changed().await.is_ok() {}
    }

    /// A receiver that changes whenever the topics have been read to their end again.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Instant>> {
        self.fresh.clone()
    }
}

/// Which topics to follow.
pub struct Follow<'a> {
    pub settings: &'a KafkaSettings,
    pub topics: Vec<String>,
    /// What they hold, for messages: a noun in the singular.
    pub what: &'static str,
    pub embedded: bool,
    pub stop: CancellationToken,
}

impl Follow<'_> {
    /// Starts reading all topics from their beginning. `take` is told whether they have been read to their end once
    /// by [`Following::is_live`].
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn start(self, make: impl FnOnce(Following) -> Take) -> Result<Following, KafkaError> {
        let wait = if self.embedded { "10" } else { "100" };
        let config = reading_config(self.settings, &[("fetch.wait.max.ms", wait)]);
        let (sender, fresh) = watch::channel(None);
        let following = Following { what: self.what, fresh };
        let mut topics = Vec::new();
        for topic in self.topics {
            topics.push(Followed::new(topic, config.create_with_context(LoggingContext)?));
        }
        let reader = Reader { what: self.what, topics, fresh: sender, take: make(following.clone()) };
        let stop = self.stop;
        std::thread::Builder::new()
            .name("follow".to_owned())
            .spawn(move || reader.run(&stop))
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(following)
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

    /// Assigns every partition that is not assigned yet, from its beginning.
    fn assign(&self) -> Result<(), KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), REQUEST_WAIT)?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        if partitions == 0 {
            let problem =
                format!("topic `{}` does not exist; create it with `bundlehook topics`", self.topic);
            return Err(KafkaError::Subscription(problem));
        }
        let mut list = TopicPartitionList::new();
        for partition in self.consumer.assignment()?.count()..partitions {
            list.add_partition_offset(&self.topic, partition as i32, Offset::Beginning)?;
        }
        if list.count() > 0 { self.consumer.incremental_assign(&list) } else { Ok(()) }
    }

    /// Asks for the end offsets of all partitions, also of those that the topic got since.
    fn ask(&mut self) -> Result<(), KafkaError> {
        self.assign()?;
        let mut ends = Ends::new();
        for element in self.consumer.assignment()?.elements() {
            let (_, end) = self.consumer.fetch_watermarks(&self.topic, element.partition(), REQUEST_WAIT)?;
            ends.insert(element.partition(), end);
        }
        self.asked = [std::mem::take(&mut self.asked[1]), ends];
        Ok(())
    }

    /// Takes in what the topic has to give.
    fn read(&mut self, mut take: impl FnMut(&BorrowedMessage<'_>)) {
        let mut wait = Duration::from_millis(5);
        loop {
            match self.consumer.poll(wait) {
                None => return,
                Some(Ok(message)) => {
                    take(&message);
                    self.positions.insert(message.partition(), message.offset() + 1);
                    self.at_end.remove(&message.partition());
                    wait = Duration::ZERO;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.at_end.insert(partition);
                }
                Some(Err(error)) => {
                    warn!(%error, topic = self.topic, "trouble while reading a topic");
                    return;
                }
            }
        }
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
    what: &'static str,
    topics: Vec<Followed>,
    fresh: watch::Sender<Option<Instant>>,
    take: Take,
}

impl Reader {
    fn run(mut self, stop: &CancellationToken) {
        let what = self.what;
        while !stop.is_cancelled() {
            match self.topics.iter().try_for_each(Followed::assign) {
                Ok(()) => break,
                Err(error) => {
                    warn!(%error, "the {what} can't be read yet");
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
                    Err(error) => warn!(%error, "the end of the {what} can't be asked for"),
                }
            }
            for (index, followed) in self.topics.iter_mut().enumerate() {
                followed.read(|message| (self.take)(index, message));
            }
            if asked.is_some() && self.topics.iter().all(Followed::has_reached) {
                self.fresh.send_replace(asked.take());
            }
        }
    }
}

/// A pause of this thread, on which nothing else runs.
#[allow(clippy::disallowed_methods, reason = "the thread is the reader's own")]
fn pause() {
    std::thread::sleep(ASK_INTERVAL);
}
