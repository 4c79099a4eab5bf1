//! Carries out orders to park and to take out: `waiting-deliveries` acknowledges them, then the queue in Redis follows,
//! then what waited for it goes on.

use std::{collections::HashSet, sync::Arc};

use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    Deliver,
    parking::{Change, Order, Parking},
};
use crate::{
    io::{
        StoreError, clock,
        kafka::publisher::{AckGroup, Outgoing},
        redis::queue::{Changes, QueueStore},
    },
    model::{ids::WebhookId, parked::Parked},
    ops::failpoint,
    wire::waiting::{self, Key, WaitingDelivery},
};

/// At most so many orders are carried out at once.
const BATCH: usize = 1_000;

/// Carries out orders until the claim ends.
pub(super) async fn run(deliver: Arc<Deliver>, parking: Parking) {
    let _watch = deliver.process.watch_for_panic("queue of parked deliveries");
    loop {
        let orders = parking.orders(BATCH).await;
        if let Err(error) = carry_out(&deliver, &parking, &orders).await {
            warn!(partition = parking.partition(), %error, "the queue of parked deliveries can't be used");
            parking.break_off();
            return;
        }
        end(&deliver, &parking, orders);
    }
}

async fn carry_out(deliver: &Arc<Deliver>, parking: &Parking, orders: &[Order]) -> Result<(), StoreError> {
    let group = AckGroup::default();
    let mut changes = Changes::new();
    for Order { change, .. } in orders {
        let entry = match change {
            Change::Put { owner, parked, reason, .. } => {
                let record =
                    WaitingDelivery::new(owner, parked, parking.partition(), *reason, parking.token());
                deliver.put_record(&record, &group).await;
                Some(*parked)
            }
            Change::TakeOut { webhook, offset, .. } => {
                deliver.tombstone(webhook, parking.partition(), *offset, &group).await;
                None
            }
        };
        changes.entry(change.webhook().clone()).or_default().insert(change.offset(), entry);
    }
    group.complete().await;
    for Order { change, .. } in orders {
        failpoint::reach(match change {
            Change::Put { .. } => "deliver.put",
            Change::TakeOut { .. } => "deliver.taken-out",
        });
    }
    let left = deliver.apply(parking.queue(), &changes, group.last_offset() + 1).await?;
    failpoint::reach("deliver.queued");
    debug!(partition = parking.partition(), orders = orders.len(), "parked and taken out");
    let left: Vec<(WebhookId, u64)> = changes.into_keys().zip(left).collect();
    for webhook in parking.carried_out(orders, &left) {
        deliver.tell(&webhook, parking);
    }
    Ok(())
}

/// Lets what waited for the orders go on.
fn end(deliver: &Deliver, parking: &Parking, orders: Vec<Order>) {
    let metrics = &deliver.process.metrics;
    let mut expired = HashSet::new();
    for Order { change, .. } in orders {
        match change {
            Change::Put { parked, reason, settles, .. } => {
                metrics.parked.of(reason).inc();
                if settles {
                    parking.settlements().settle(parked.offset);
                }
            }
            Change::TakeOut { webhook, result, .. } => match result {
                None => metrics.drained.inc(),
                Some(result) => {
                    metrics.bundles_settled.with_label_values(&[result]).inc();
                    if result == "expired" {
                        expired.insert(webhook);
                    }
                }
            },
        }
    }
    for webhook in expired {
        warn!(%webhook, partition = parking.partition(), "parked deliveries have expired");
    }
}

impl Deliver {
    /// Publishes that a delivery waits.
    pub(super) async fn put_record(&self, record: &WaitingDelivery, group: &AckGroup) {
        let key = Key::Bundle(record.parked().offset).encode(record.partition);
        let value = record.encode();
        let outgoing = Outgoing {
            topic: &self.process.topics.waiting_deliveries,
            partition: Some(record.partition),
            key: key.as_bytes(),
            value: Some(&value),
            headers: &[],
        };
        self.publish_into(&outgoing, group).await;
    }

    /// Publishes that a delivery waits no more.
    pub(super) async fn tombstone(&self, webhook: &WebhookId, partition: i32, offset: i64, group: &AckGroup) {
        let (key, headers) = (Key::Bundle(offset).encode(partition), waiting::tombstone_headers(webhook));
        let outgoing = Outgoing {
            topic: &self.process.topics.waiting_deliveries,
            partition: Some(partition),
            key: key.as_bytes(),
            value: None,
            headers: &headers,
        };
        self.publish_into(&outgoing, group).await;
    }

    /// Publishes that a claim of a partition begins, or that nothing depends on its record any more. Returns the offset.
    pub(super) async fn mark_claim(&self, partition: i32, token: Uuid, begins: bool) -> i64 {
        let key = Key::Claim(token).encode(partition);
        let value = begins.then(|| waiting::encode_claim(token));
        let outgoing = Outgoing {
            topic: &self.process.topics.waiting_deliveries,
            partition: Some(partition),
            key: key.as_bytes(),
            value: value.as_deref(),
            headers: &[],
        };
        self.publish(&outgoing).await
    }

    /// Changes a queue, waiting for Redis as long as it takes.
    ///
    /// # Errors
    /// If the queue is gone or has another owner.
    pub(super) async fn apply(
        &self,
        queue: &QueueStore,
        changes: &Changes,
        reflects: i64,
    ) -> Result<Vec<u64>, StoreError> {
        loop {
            match queue.apply(changes, reflects, clock::now()).await {
                Err(error @ StoreError::Busy(_)) => self.wait_for_redis("queue", &error).await,
                result => return result,
            }
        }
    }

    /// A page of a webhook's queue, waiting for Redis as long as it takes.
    ///
    /// # Errors
    /// If the queue is gone or has another owner.
    pub(super) async fn page(
        &self,
        queue: &QueueStore,
        webhook: &WebhookId,
        after: i64,
        most: usize,
    ) -> Result<Vec<Parked>, StoreError> {
        loop {
            match queue.page(webhook, after, most).await {
                Err(error @ StoreError::Busy(_)) => self.wait_for_redis("queue", &error).await,
                result => return result,
            }
        }
    }
}
