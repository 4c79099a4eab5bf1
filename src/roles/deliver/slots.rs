//! Slots for the requests of a lane that are in flight.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// How many are taken, and who is told when one gets free.
#[derive(Default)]
pub(super) struct RequestSlots {
    taken: Arc<AtomicUsize>,
    pub freed: Arc<Notify>,
}

/// A request in flight.
pub(super) struct RequestSlot {
    taken: Arc<AtomicUsize>,
    freed: Arc<Notify>,
}

impl RequestSlots {
    /// A slot, if fewer than so many are taken. Only the lane itself takes any.
    pub fn take(&self, allowed: usize) -> Option<RequestSlot> {
        if self.taken.load(Ordering::Acquire) >= allowed {
            return None;
        }
        self.taken.fetch_add(1, Ordering::AcqRel);
        Some(RequestSlot { taken: self.taken.clone(), freed: self.freed.clone() })
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        // Free before the lane looks.
        self.taken.fetch_sub(1, Ordering::AcqRel);
        self.freed.notify_one();
    }
}
