//! The views of webhooks that follow `delivery-attempts`: their logs, and deliveries and failures by day.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio_util::task::AbortOnDropHandle;

use crate::{
    io::redis::views::{Item, Said, ViewKind, ViewSource},
    model::statistics::Tenure,
    roles::{
        process::Process,
        reflecting::{HandOver, Items, Reflecting},
    },
    wire::{
        attempt::{self, AttemptRecord},
        log_entry,
    },
};

/// The followers of the partitions that this process has claimed.
#[derive(Default)]
pub(super) struct Views(Mutex<HashMap<i32, HandOver>>);

impl Views {
    /// Begins to follow a partition, until the answer is dropped.
    pub fn follow(&self, process: &Process, partition: i32) -> AbortOnDropHandle<()> {
        let reflecting = Reflecting {
            process: process.clone(),
            topic: process.topics.delivery_attempts.clone(),
            source: ViewSource { kind: ViewKind::Attempts, partition },
            read,
        };
        let (hand_over, follower) = reflecting.begin();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, hand_over);
        AbortOnDropHandle::new(tokio::spawn(follower.run()))
    }

    /// Takes in the record of an attempt at an offset. Where the partition was given up, its next owner reads it.
    pub fn note(&self, partition: i32, offset: i64, record: &AttemptRecord) {
        let views = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hand_over) = views.get(&partition) {
            hand_over.note(offset, items(partition, offset, record));
        }
    }
}

fn read(partition: i32, offset: i64, value: &[u8]) -> Items {
    // What can't be read is no attempt of this release.
    let record = attempt::decode(value);
    record.map(|record| items(partition, offset, &record)).unwrap_or_default()
}

fn items(partition: i32, offset: i64, record: &AttemptRecord) -> Items {
    let entry = log_entry::of_record(record, partition, offset);
    let tenure = Tenure { webhook: record.webhook_id.clone(), workspace: record.workspace_id.clone() };
    let item = |entry| (tenure, Item { offset, said: Said::Attempted(entry) });
    entry.map(item).into_iter().collect()
}
