//! Test deliveries. They go at once, past the lane of their webhook: they have a chat of their own, so no order binds
//! them, and whoever tries a webhook out does so most of all while its circuit is not healthy.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};

use super::{
    Deliver,
    attempt::SharedSeen,
    parking::{Parking, Pass},
    queued::{Origin, Queued},
};
use crate::{
    flow::bundle_to_delivery::Delivery,
    model::{delivery::Settlement, health::Verdict, ids::WebhookId},
};

/// Tests of one webhook that may be in flight at once in a process.
const OF_A_WEBHOOK: usize = 4;
/// Tests of all webhooks that may be in flight at once in a process.
const OF_ALL: usize = 256;

/// The tests in flight. One that would be too many is not sent: it waits for nobody, so that nobody waits for it.
#[derive(Clone)]
pub(super) struct Tests {
    all: Arc<Semaphore>,
    each: Arc<Mutex<HashMap<WebhookId, usize>>>,
}

impl Default for Tests {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(OF_ALL)), each: Arc::default() }
    }
}

/// A test in flight.
struct Place {
    webhook: WebhookId,
    each: Arc<Mutex<HashMap<WebhookId, usize>>>,
}

impl Tests {
    fn begin(&self, webhook: &WebhookId) -> Option<(Place, OwnedSemaphorePermit)> {
        let room = self.all.clone().try_acquire_owned().ok()?;
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let in_flight = each.entry(webhook.clone()).or_default();
        if *in_flight == OF_A_WEBHOOK {
            return None;
        }
        *in_flight += 1;
        Some((Place { webhook: webhook.clone(), each: self.each.clone() }, room))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(in_flight) = each.get_mut(&self.webhook) {
            *in_flight -= 1;
            if *in_flight == 0 {
                each.remove(&self.webhook);
            }
        }
    }
}

impl Deliver {
    /// Sends a test that was just read. One that can't go is settled as dropped.
    pub(super) fn test(self: &Arc<Self>, delivery: Delivery, parking: &Parking) {
        let (webhook, offset) = (delivery.head.webhook_id.clone(), delivery.offset);
        let Some((place, room)) = self.tests.begin(&webhook) else {
            warn!(%webhook, "too many tests at once; one was not sent");
            self.process.metrics.bundles_settled.with_label_values(&["dropped"]).inc();
            return parking.settlements().settle(offset);
        };
        let origin = Origin::Read(Pass::default());
        let queued = Queued::new(delivery, parking.clone(), origin, room.into(), &self.process.metrics);
        let deliver = self.clone();
        self.thread(&webhook).runtime.spawn(async move {
            let _watch = deliver.process.watch_for_panic("test of a webhook");
            deliver.send_test(queued).await;
            drop(place);
        });
    }

    /// One attempt, recorded like any other, of which the health of the webhook learns nothing.
    async fn send_test(&self, mut queued: Queued) {
        let head = &queued.delivery.head;
        let Some(in_flight) = queued.parking.settlements().begin() else { return };
        let Some(current) = self.process.tail.directory().current(&head.webhook_id) else {
            return queued.settle(Some("dropped"), Some(in_flight));
        };
        let sent = self.send_once(&mut queued.delivery, &current.webhook).await;
        let ((), health) = self.update_health(&current, &SharedSeen::default(), |_| ()).await;
        let verdict = Verdict { counted: false, closed: false };
        let recording = self.record(&queued, &current, &sent, verdict, &health).await;
        self.recorded(&queued, recording).await;
        let delivered = sent.settlement == Settlement::Delivered;
        info!(webhook = %current.webhook.webhook_id, delivered, error = sent.error, "tested");
        queued.settle(Some("tested"), Some(in_flight));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_has_only_so_many_tests_in_flight_and_takes_no_room_from_others() {
        let tests = Tests::default();
        let (one, other) = (WebhookId::parse("wh-1").unwrap(), WebhookId::parse("wh-2").unwrap());
        let mut places: Vec<_> = (0..OF_A_WEBHOOK).map_while(|_| tests.begin(&one)).collect();
        assert_eq!(places.len(), OF_A_WEBHOOK);
        assert!(tests.begin(&one).is_none());
        assert!(tests.begin(&other).is_some());
        places.pop();
        places.extend(tests.begin(&one));
        assert_eq!(places.len(), OF_A_WEBHOOK);
        places.clear();
        assert!(tests.each.lock().unwrap().is_empty());
        assert_eq!(tests.all.available_permits(), OF_ALL);
    }
}
