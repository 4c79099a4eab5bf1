//! A dead letter, and the reading of all of them.

use std::{fmt::Write as _, ops::ControlFlow};

use anyhow::{bail, ensure};
use serde::Serialize;
use tokio::sync::mpsc;
use tracing::warn;

use crate::{
    config::{KafkaSettings, LetterFilter, LetterPlace},
    io::kafka::{
        Topics,
        admin::Admin,
        replay::{Replayed, replay},
    },
    model::time::Millis,
    wire::{PoisonReason, decode_dead_letter},
};

/// Letters that are read ahead.
const READ_AHEAD: usize = 64;

/// What is known of a dead letter, but for the record itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Head {
    /// Where it stands in `dead-letters`.
    pub partition: i32,
    pub offset: i64,
    /// When it was published.
    pub at: Millis,
    pub reason: String,
    pub detail: String,
    /// Where the record stood that could not be processed.
    pub source_topic: String,
    pub source_partition: i32,
    pub source_offset: i64,
    /// When that record arrived.
    pub arrived_at: Millis,
}

/// A dead letter with the untouched record.
#[derive(Debug, Clone)]
pub struct Letter {
    pub head: Head,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

impl Head {
    /// Its place, as it can be named.
    pub fn place(&self) -> String {
        format!("{}/{}", self.partition, self.offset)
    }

    /// The place of its source.
    pub fn source(&self) -> String {
        format!("{}/{}/{}", self.source_topic, self.source_partition, self.source_offset)
    }

    /// None for what is no dead letter that this release can read.
    fn of(record: &Replayed<'_>, partition: i32) -> Option<Self> {
        let head = decode_dead_letter(|name| record.header(name)).inspect_err(|problem| {
            warn!(partition, offset = record.offset, problem, "a record is passed over");
        });
        let head = head.ok()?;
        Some(Self {
            partition,
            offset: record.offset,
            at: record.at,
            reason: head.reason,
            detail: head.detail,
            source_topic: head.topic,
            source_partition: head.partition,
            source_offset: head.offset,
            arrived_at: head.arrived_at,
        })
    }
}

/// The topic of dead letters.
pub struct Letters {
    kafka: KafkaSettings,
    names: Topics,
    partitions: i32,
}

impl Letters {
    /// Looks whether the topic is there.
    ///
    /// # Errors
    /// If it is not, or the cluster can't be asked.
    pub async fn new(kafka: &KafkaSettings) -> anyhow::Result<Self> {
        let names = Topics::new(&kafka.topics);
        let partitions = Admin::new(kafka)?.partitions().await?.get(&names.dead_letters).copied();
        let Some(partitions) = partitions else {
            bail!(
                "topic `{}` does not exist, or may not be seen; `bundlehook topics` creates it",
                names.dead_letters
            );
        };
        Ok(Self { kafka: kafka.clone(), names, partitions })
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.names.dead_letters
    }

    /// The names of all topics.
    pub fn names(&self) -> &Topics {
        &self.names
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Reads all that are there by now, partition by partition. What is no dead letter is passed over.
    ///
    /// # Errors
    /// If the topic can't be read.
    pub async fn read(&self, mut take: impl FnMut(Letter)) -> anyhow::Result<()> {
        let mut letters = self.stream();
        while let Some(letter) = letters.recv().await {
            take(letter?);
        }
        Ok(())
    }

    /// The same, as they come.
    pub fn stream(&self) -> mpsc::Receiver<anyhow::Result<Letter>> {
        let (sender, letters) = mpsc::channel(READ_AHEAD);
        let (kafka, topic, partitions) =
            (self.kafka.clone(), self.names.dead_letters.clone(), self.partitions);
        tokio::spawn(async move {
            for partition in 0..partitions {
                let taker = sender.clone();
                let take = move |record: &Replayed<'_>| {
                    let Some(head) = Head::of(record, partition) else { return ControlFlow::Continue(()) };
                    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                    let letter = Letter { head, key: owned(record.key), value: owned(record.value) };
                    // Nobody wants more if this fails.
                    match taker.blocking_send(Ok(letter)) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    }
                };
                if let Err(error) = replay(&kafka, &topic, partition, 0, take).await {
                    // Whoever does not listen any more need not be told.
                    let _ = sender.send(Err(error.into())).await;
                    return;
                }
            }
        });
        letters
    }

    /// A filter that names topics and reasons as they are.
    ///
    /// # Errors
    /// If there is no such reason.
    pub fn filter(&self, filter: LetterFilter) -> anyhow::Result<Filter> {
        if let Some(reason) = &filter.reason {
            let known = PoisonReason::ALL.map(PoisonReason::as_str);
            ensure!(
                known.contains(&&**reason),
                "`{reason}` is no reason, expected one of `{}`",
                known.join("`, `")
            );
        }
        let topic = filter.topic.as_ref().map(|topic| self.full_name(topic));
        Ok(Filter { topic, ..Filter::from(filter) })
    }

    /// True if a letter is what a place names.
    pub fn is_at(&self, head: &Head, place: &LetterPlace) -> bool {
        match &place.source {
            None => (head.partition, head.offset) == (place.partition, place.offset),
            Some(topic) => {
                (head.source_partition, head.source_offset) == (place.partition, place.offset)
                    && head.source_topic == self.full_name(topic)
            }
        }
    }

    /// A topic's name with the prefix, which may be left out.
    fn full_name(&self, topic: &str) -> String {
        let prefix = self.names.prefix();
        if topic.starts_with(prefix) { topic.to_owned() } else { format!("{prefix}{topic}") }
    }
}

/// Which letters are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    reason: Option<String>,
    topic: Option<String>,
    since: Option<Millis>,
    until: Option<Millis>,
}

impl From<LetterFilter> for Filter {
    fn from(LetterFilter { reason, topic, since, until }: LetterFilter) -> Self {
        Self { reason, topic, since, until }
    }
}

impl Filter {
    /// True if a letter is wanted.
    pub fn lets_pass(&self, head: &Head) -> bool {
        self.reason.as_ref().is_none_or(|reason| *reason == head.reason)
            && self.topic.as_ref().is_none_or(|topic| *topic == head.source_topic)
            && self.since.is_none_or(|since| head.at >= since)
            && self.until.is_none_or(|until| head.at < until)
    }
}

/// Bytes as a text that does nothing to a terminal: control characters, and whatever is not UTF-8, are escaped.
pub fn readable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string can't fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_does_nothing_to_a_terminal() {
        assert_eq!(readable("Grüße 🙂".as_bytes()), "Grüße 🙂");
        assert_eq!(readable(b"a\x1b[2Jb\n\xff\xc3"), "a\\u{1b}[2Jb\\n\\xff\\xc3");
    }

    #[test]
    fn a_filter_takes_all_its_parts_together() {
        let head = Head {
            partition: 0,
            offset: 1,
            at: Millis(10),
            reason: "invalid_json".to_owned(),
            detail: String::new(),
            source_topic: "message-events".to_owned(),
            source_partition: 2,
            source_offset: 3,
            arrived_at: Millis(5),
        };
        let filter = |reason: &str, topic: &str, since, until| Filter {
            reason: Some(reason.to_owned()),
            topic: Some(topic.to_owned()),
            since: Some(Millis(since)),
            until: Some(Millis(until)),
        };
        assert!(Filter::default().lets_pass(&head));
        assert!(filter("invalid_json", "message-events", 10, 11).lets_pass(&head));
        assert!(!filter("null_value", "message-events", 10, 11).lets_pass(&head));
        assert!(!filter("invalid_json", "bundles", 10, 11).lets_pass(&head));
        assert!(!filter("invalid_json", "message-events", 11, 12).lets_pass(&head));
        assert!(!filter("invalid_json", "message-events", 9, 10).lets_pass(&head));
    }
}
