//! A delivery in memory, on its way from its partition, or from its queue, to its webhook.

use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use super::{parking::Parking, settlements::InFlight};
use crate::{
    flow::bundle_to_delivery::Delivery,
    io::clock,
    model::{
        ids::{ChatId, WorkspaceId},
        parked::{Parked, Reason},
    },
    ops::metrics::Metrics,
    wire::waiting::Owner,
};

/// A chat is identified by workspace and chat id together.
pub(super) type Chat = (WorkspaceId, ChatId);

/// A delivery that waits in memory.
pub(super) struct Queued {
    pub delivery: Delivery,
    pub parking: Parking,
    /// Since when it is in memory.
    pub since: Instant,
    /// What the queue holds of it, if it is parked.
    parked: Option<Parked>,
    _room: OwnedSemaphorePermit,
    counted: Waiting,
}

/// Counts a delivery as waiting as long as it lives.
struct Waiting {
    metrics: Metrics,
    bytes: i64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.metrics.deliveries_waiting.dec();
        self.metrics.deliveries_waiting_bytes.sub(self.bytes);
    }
}

impl Queued {
    /// A delivery that was just read, or (`parked`) pulled from its queue.
    pub fn new(
        delivery: Delivery,
        parking: Parking,
        parked: Option<Parked>,
        room: OwnedSemaphorePermit,
        metrics: &Metrics,
    ) -> Self {
        let counted = Waiting { metrics: metrics.clone(), bytes: delivery.body.len() as i64 };
        metrics.deliveries_waiting.inc();
        metrics.deliveries_waiting_bytes.add(counted.bytes);
        Self { delivery, parking, since: Instant::now(), parked, _room: room, counted }
    }

    pub fn chat(&self) -> Chat {
        (self.delivery.head.workspace_id.clone(), self.delivery.head.chat_id.clone())
    }

    pub fn is_parked(&self) -> bool {
        self.parked.is_some()
    }

    pub fn is_over(&self) -> bool {
        self.parking.is_over()
    }

    /// True if it came from this claim's queue or partition.
    pub fn is_of(&self, parking: &Parking) -> bool {
        self.parking.token() == parking.token()
    }

    /// It goes to its queue, or stays there with what is known of it now. The body is forgotten.
    pub fn park(self, reason: Reason, in_flight: Option<InFlight>) {
        let Delivery { head, body, attempts, refusals, offset, bundled_at, .. } = &self.delivery;
        let parked = Parked {
            offset: *offset,
            bundle_id: head.bundle_id,
            bytes: body.len() as u32,
            bundled_at: *bundled_at,
            arrived_at: head.arrived_at,
            waiting_since: self.parked.map_or_else(clock::now, |parked| parked.waiting_since),
            attempts: *attempts,
            refusals: *refusals,
        };
        let owner = Owner {
            webhook_id: head.webhook_id.clone(),
            workspace_id: head.workspace_id.clone(),
            chat_id: head.chat_id.clone(),
        };
        self.parking.put(owner, parked, reason, !self.is_parked(), in_flight);
    }

    /// It is done with: by an attempt, or as `result` says.
    pub fn settle(self, result: Option<&'static str>, in_flight: Option<InFlight>) {
        let Delivery { head, offset, .. } = &self.delivery;
        if self.is_parked() {
            self.parking.take_out(&head.webhook_id, *offset, result, in_flight);
            return;
        }
        if let Some(result) = result {
            self.counted.metrics.bundles_settled.with_label_values(&[result]).inc();
        }
        self.parking.settlements().settle(*offset);
    }
}
