//! Publishing dead letters again, byte for byte, to the topic they came from.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{bail, ensure};

use super::{
    letter::{Filter, Head, Letters},
    named, say,
};
use crate::{
    config::{KafkaSettings, LetterPlace, RedriveCommand},
    io::kafka::publisher::{AckGroup, Outgoing, Publisher},
};

/// Header that names the dead letter that a record was published again from.
const REDRIVEN_FROM: &str = "redriven-from";

/// What was selected, and what of it is left alone.
#[derive(Debug, Default)]
struct Selection {
    /// Partition and offset of each letter to publish.
    chosen: BTreeSet<(i32, i64)>,
    /// Sources of these: the same record may have several letters.
    sources: HashSet<(i32, i64)>,
    /// How many are left alone, by why.
    left: BTreeMap<&'static str, u64>,
    /// The first that is left alone although it was named.
    refused: Option<String>,
}

/// Publishes what is selected.
///
/// # Errors
/// If nothing is selected or fits, if something that is named can't be published again, or if a record is not
/// acknowledged.
pub async fn run(command: RedriveCommand) -> anyhow::Result<()> {
    let RedriveCommand { kafka, places, filter, all, dry_run } = command;
    ensure!(
        all || !places.is_empty() || !filter.is_empty(),
        "say which dead letters: by their places, by `--reason`, `--topic`, `--since`, `--until`, or `--all`"
    );
    let letters = Letters::new(&kafka).await?;
    let filter = letters.filter(filter)?;
    let selection = select(&letters, &places, &filter).await?;
    for (why, count) in &selection.left {
        say(&format!("left alone: {count}, {why}"))?;
    }
    if let Some(refused) = selection.refused {
        bail!("{refused}; nothing was published");
    }
    ensure!(
        !selection.chosen.is_empty(),
        "no dead letter fits that can be published again; nothing was published"
    );
    let (count, topic) = (selection.chosen.len(), &letters.names().message_events);
    if dry_run {
        return say(&format!("would publish {count} to {topic}"));
    }
    publish(&kafka, &letters, &selection.chosen).await?;
    say(&format!(
        "published {count} to {topic}; the dead letters stay where they are, so whoever redrives them once more \
         repeats them"
    ))
}

/// Decides on every letter that is there.
async fn select(letters: &Letters, places: &[LetterPlace], filter: &Filter) -> anyhow::Result<Selection> {
    let mut selection = Selection::default();
    let mut missing: Vec<&LetterPlace> = places.iter().collect();
    letters
        .read(|letter| {
            let is_named = places.iter().any(|place| letters.is_at(&letter.head, place));
            missing.retain(|place| !letters.is_at(&letter.head, place));
            if (places.is_empty() || is_named) && filter.lets_pass(&letter.head) {
                selection.add(
                    &letter.head,
                    letter.value.is_some(),
                    &letters.names().message_events,
                    is_named,
                );
            }
        })
        .await?;
    if let Some(place) = missing.first() {
        bail!("no dead letter is, or came from, `{}`; nothing was published", named(place));
    }
    Ok(selection)
}

impl Selection {
    fn add(&mut self, head: &Head, has_value: bool, messages: &str, is_named: bool) {
        let why = if head.source_topic != messages {
            "not from the topic of messages, and only messages can be published again"
        } else if !has_value {
            "without a value, so they would be refused again"
        } else if !self.sources.insert((head.source_partition, head.source_offset)) {
            "the same record as another dead letter"
        } else {
            self.chosen.insert((head.partition, head.offset));
            return;
        };
        *self.left.entry(why).or_default() += 1;
        // A second letter of a record that is published is no reason to refuse the first.
        let is_twice = head.source_topic == messages && has_value;
        if is_named && !is_twice && self.refused.is_none() {
            self.refused = Some(format!("`{}` is {why}", head.place()));
        }
    }
}

/// Reads the chosen letters again and publishes each as it is, marked with its place.
async fn publish(
    kafka: &KafkaSettings,
    letters: &Letters,
    chosen: &BTreeSet<(i32, i64)>,
) -> anyhow::Result<()> {
    let publisher = Publisher::new(kafka, false)?;
    let acks = AckGroup::default();
    let mut stream = letters.stream();
    while let Some(letter) = stream.recv().await {
        let letter = letter?;
        if !chosen.contains(&(letter.head.partition, letter.head.offset)) {
            continue;
        }
        let record = Outgoing {
            topic: &letter.head.source_topic,
            partition: None,
            key: letter.key.as_deref().unwrap_or_default(),
            value: letter.value.as_deref(),
            headers: &[(REDRIVEN_FROM, format!("{}/{}", letters.topic(), letter.head.place()))],
        };
        publisher.publish(&record, &acks).await?;
    }
    tokio::select! {
        () = acks.complete() => Ok(()),
        problem = publisher.failed() => bail!("{problem}; what came before it may have been published"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Millis;

    fn head(offset: i64, topic: &str, source_offset: i64) -> Head {
        Head {
            partition: 0,
            offset,
            at: Millis(0),
            reason: "invalid_field".to_owned(),
            detail: String::new(),
            source_topic: topic.to_owned(),
            source_partition: 0,
            source_offset,
            arrived_at: Millis(0),
        }
    }

    #[test]
    fn each_message_is_published_once_and_what_is_no_message_is_left_alone() {
        let mut selection = Selection::default();
        for (head, has_value) in [
            (head(0, "me", 5), true),
            (head(1, "me", 5), true),
            (head(2, "me", 6), false),
            (head(3, "webhook-settings", 5), true),
            (head(4, "me", 7), true),
        ] {
            selection.add(&head, has_value, "me", false);
        }
        assert_eq!(selection.chosen, BTreeSet::from([(0, 0), (0, 4)]));
        assert_eq!(selection.left.values().collect::<Vec<_>>(), [&1, &1, &1]);
        assert_eq!(selection.refused, None);
    }

    #[test]
    fn what_is_named_and_can_not_be_published_again_is_refused() {
        let mut selection = Selection::default();
        selection.add(&head(3, "webhook-settings", 5), true, "me", true);
        assert!(selection.refused.unwrap().starts_with("`0/3` is not from the topic of messages"));
    }
}
