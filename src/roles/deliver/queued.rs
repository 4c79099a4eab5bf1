//! A delivery in memory, on its way from its partition, or from its queue, to its webhook.

use std::time::Instant;

use prometheus::{IntCounterVec, IntGauge};

use super::{
    memory::Room,
    parking::{Parking, Pass},
    settlements::InFlight,
};
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
    origin: Origin,
    _room: Room,
    counted: Waiting,
}

/// Where a delivery comes from.
pub(super) enum Origin {
    /// It was just read, and let pass.
    Read(Pass),
    /// Its queue, which holds this of it.
    Queue(Parked),
}

/// Counts a delivery as waiting as long as it lives.
struct Waiting {
    count: IntGauge,
    all_bytes: IntGauge,
    settled: IntCounterVec,
    bytes: i64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.count.dec();
        self.all_bytes.sub(self.bytes);
    }
}

impl Queued {
    /// A delivery that comes into memory.
    pub fn new(delivery: Delivery, parking: Parking, origin: Origin, room: Room, metrics: &Metrics) -> Self {
        let counted = Waiting {
            count: metrics.deliveries_waiting.clone(),
            all_bytes: metrics.deliveries_waiting_bytes.clone(),
            settled: metrics.bundles_settled.clone(),
            bytes: delivery.body.len() as i64,
        };
        counted.count.inc();
        counted.all_bytes.add(counted.bytes);
        Self { delivery, parking, since: Instant::now(), origin, _room: room, counted }
    }

    pub fn chat(&self) -> Chat {
        (self.delivery.head.workspace_id.clone(), self.delivery.head.chat_id.clone())
    }

    pub fn is_parked(&self) -> bool {
        matches!(self.origin, Origin::Queue(_))
    }

    pub fn is_over(&self) -> bool {
        self.parking.is_over()
    }

    /// True if it came from this claim's queue or partition.
    pub fn is_of(&self, parking: &Parking) -> bool {
        self.parking.token() == parking.token()
    }

    /// True if nothing that is parked stands before it.
    pub fn may_go(&self) -> bool {
        match self.origin {
            Origin::Read(pass) => self.parking.is_valid(&self.delivery.head.webhook_id, pass),
            Origin::Queue(_) => true,
        }
    }

    /// It was parked while it was in flight.
    pub fn set_parked(&mut self, parked: Parked) {
        self.origin = Origin::Queue(parked);
    }

    /// What its queue is to hold of it, and of whom.
    pub fn to_park(&self) -> (Owner, Parked) {
        let Delivery { head, body, attempts, refusals, offset, bundled_at, .. } = &self.delivery;
        let waiting_since = match &self.origin {
            Origin::Queue(parked) => parked.waiting_since,
            Origin::Read(_) => clock::now(),
        };
        let parked = Parked {
            offset: *offset,
            bundle_id: head.bundle_id,
            bytes: body.len() as u32,
            bundled_at: *bundled_at,
            arrived_at: head.arrived_at,
            waiting_since,
            attempts: *attempts,
            refusals: *refusals,
        };
        let owner = Owner {
            webhook_id: head.webhook_id.clone(),
            workspace_id: head.workspace_id.clone(),
            chat_id: head.chat_id.clone(),
        };
        (owner, parked)
    }

    /// It goes to its queue, or stays there with what is known of it now. The body is forgotten.
    pub fn park(self, reason: Reason, in_flight: Option<InFlight>) {
        let (owner, parked) = self.to_park();
        self.parking.give_back(owner, parked, reason, !self.is_parked(), in_flight);
    }

    /// It is done with: by an attempt, or as `result` says.
    pub fn settle(self, result: Option<&'static str>, in_flight: Option<InFlight>) {
        let Delivery { head, offset, .. } = &self.delivery;
        if self.is_parked() {
            self.parking.take_out(&head.webhook_id, *offset, result, in_flight);
            return;
        }
        if let Some(result) = result {
            self.counted.settled.with_label_values(&[result]).inc();
        }
        self.parking.settlements().settle(*offset);
    }
}
