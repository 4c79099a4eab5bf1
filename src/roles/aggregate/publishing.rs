//! Publishing: what is sent at once, dead letters, skips, bundles.

use super::{Trouble, partition::Partition};
use crate::{
    flow::event_to_window::Plan,
    io::{
        kafka::{
            intake::Record,
            publisher::{AckGroup, Outgoing},
        },
        redis::windows::Applied,
    },
    model::bundle::BundleRecord,
    wire::{bundle, dead_letter_headers},
};

impl Partition<'_> {
    /// Publishes what is sent at once, and the dead letters, of a segment that was applied. What the metadata calls done,
    /// and what the second cursor has passed, was published before.
    pub(super) async fn publish(
        &mut self,
        plan: &Plan,
        applied: &Applied,
        segment: &[Record<'_>],
        next: i64,
    ) -> Result<(), Trouble> {
        let done = self.published_to();
        if next > done {
            let acks = AckGroup::waking(&self.wake);
            self.publish_from(done, plan, &applied.repeats, segment, &acks).await?;
            self.progress.at_once.push_back((next, acks));
        }
        Ok(())
    }

    /// Publishes what is sent at once, and the dead letters, from an offset on. `repeats` says of each message whether
    /// it is one; what it does not name is none.
    pub(super) async fn publish_from(
        &self,
        done: i64,
        plan: &Plan,
        repeats: &[bool],
        segment: &[Record<'_>],
        acks: &AckGroup,
    ) -> Result<(), Trouble> {
        let repeats = repeats.iter().copied().chain(std::iter::repeat(false));
        for (message, repeat) in plan.at_once.iter().zip(repeats) {
            if repeat || message.offset < done {
                continue;
            }
            for record in &message.bundles {
                self.publish_bundle(record, acks).await?;
            }
        }
        for letter in plan.dead_letters.iter().filter(|letter| letter.offset >= done) {
            let Some(record) = segment.iter().find(|record| record.offset == letter.offset) else {
                continue;
            };
            let topic = &self.role.process.topics.message_events;
            let partition = self.source.partition;
            let headers =
                dead_letter_headers(&letter.poison, topic, partition, record.offset, record.arrived);
            let outgoing = Outgoing {
                topic: &self.role.process.topics.dead_letters,
                partition: None,
                key: record.key.unwrap_or_default(),
                value: record.value,
                headers: &headers,
            };
            self.role.process.publisher.publish(&outgoing, acks).await?;
        }
        Ok(())
    }

    /// Publishes a bundle in the partition that has the source partition's number.
    pub(super) async fn publish_bundle(&self, record: &BundleRecord, acks: &AckGroup) -> Result<(), Trouble> {
        let process = &self.role.process;
        let headers = bundle::encode(&record.head);
        let outgoing = Outgoing {
            topic: &process.topics.bundles,
            partition: Some(self.source.partition),
            key: record.head.chat_id.as_str().as_bytes(),
            value: Some(&record.body),
            headers: &headers,
        };
        process.publisher.publish(&outgoing, acks).await?;
        process.metrics.bundles_published.of(record.head.granularity).inc();
        process.metrics.bundle_messages.observe(f64::from(record.head.messages));
        process.metrics.bundle_size.observe(record.body.len() as f64);
        Ok(())
    }

    /// Publishes the skips that wait, or all of them.
    pub(super) async fn publish_skips(&mut self, all: bool) -> Result<(), Trouble> {
        self.skips.publish(&self.role.process, &self.wake, all).await?;
        self.metadata.skips = Some(self.skips.done());
        Ok(())
    }
}
