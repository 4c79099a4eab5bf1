//! Which bundles of a partition are done with. Only a contiguous prefix is ever committed.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{flow::bundle_to_delivery::TakenIn, model::bundle::BundleHead};

/// The bundles of one partition, of one claim of it.
#[derive(Clone)]
pub struct Settlements(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Wakes the partition's worker.
    wake: Notify,
    /// The partition was given up: what has not begun does not begin.
    revoked: CancellationToken,
}

struct State {
    /// Bundles that were read, in order; none is done with before the first that has not settled.
    read: VecDeque<Entry>,
    /// The offset after the prefix that is settled.
    settled_to: i64,
    /// What was taken in below that offset.
    taken_in: TakenIn,
    /// Requests in flight.
    in_flight: usize,
}

struct Entry {
    offset: i64,
    head: Option<Box<BundleHead>>,
    settled: bool,
}

impl Settlements {
    /// Nothing is read yet; everything below an offset is settled.
    #[must_use]
    pub fn new(start: i64, taken_in: TakenIn, revoked: CancellationToken) -> Self {
        let state = State { read: VecDeque::new(), settled_to: start, taken_in, in_flight: 0 };
        Self(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new(), revoked }))
    }

    fn state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a record was read. It is settled at once if it needs nothing more.
    pub fn read(&self, offset: i64, head: Option<&BundleHead>, settled: bool) {
        self.state(|state| {
            state.read.push_back(Entry { offset, head: head.map(|head| Box::new(head.clone())), settled });
            state.advance();
        });
    }

    /// Notes that a bundle is done with.
    pub fn settle(&self, offset: i64) {
        self.state(|state| {
            if let Ok(index) = state.read.binary_search_by_key(&offset, |entry| entry.offset) {
                state.read[index].settled = true;
            }
            state.advance();
        });
        self.0.wake.notify_one();
    }

    /// The offset to commit, and what was taken in below it.
    #[must_use]
    pub fn settled(&self) -> (i64, TakenIn) {
        self.state(|state| (state.settled_to, state.taken_in.clone()))
    }

    /// How many bundles were read and are not settled, or are settled behind one that is not.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.state(|state| state.read.len())
    }

    /// A request begins; none if the partition was given up.
    #[must_use]
    pub fn begin(&self) -> Option<InFlight> {
        self.state(|state| {
            if self.0.revoked.is_cancelled() {
                return None;
            }
            state.in_flight += 1;
            Some(InFlight(self.clone()))
        })
    }

    /// True if the partition was given up.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.0.revoked.is_cancelled()
    }

    /// Waits until no request is in flight.
    pub async fn drained(&self) {
        loop {
            let notified = self.0.wake.notified();
            if self.state(|state| state.in_flight == 0) {
                return;
            }
            notified.await;
        }
    }
}

impl State {
    fn advance(&mut self) {
        while self.read.front().is_some_and(|entry| entry.settled) {
            if let Some(entry) = self.read.pop_front() {
                self.settled_to = entry.offset + 1;
                if let Some(head) = entry.head {
                    self.taken_in.advance(&head);
                }
            }
        }
    }
}

/// A request in flight, with everything that follows it up to its record.
pub struct InFlight(Settlements);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state(|state| state.in_flight -= 1);
        self.0.0.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_contiguous_prefix_is_settled() {
        let settlements = Settlements::new(5, TakenIn::default(), CancellationToken::new());
        for offset in [5, 6, 9] {
            settlements.read(offset, None, false);
        }
        settlements.settle(6);
        settlements.settle(9);
        assert_eq!(settlements.settled().0, 5);
        settlements.settle(5);
        assert_eq!(settlements.settled().0, 10);
        assert_eq!(settlements.unsettled(), 0);
    }

    #[test]
    fn nothing_begins_once_the_partition_is_given_up() {
        let revoked = CancellationToken::new();
        let settlements = Settlements::new(0, TakenIn::default(), revoked.clone());
        assert!(settlements.begin().is_some());
        revoked.cancel();
        assert!(settlements.begin().is_none());
    }
}
