//! Which bundles of a partition are done with. Only a contiguous prefix is ever committed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
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
    /// For so long after a commit that was accepted, nobody else can have been given the partition.
    session: Duration,
}

struct State {
    /// Bundles that were read, in order; none is done with before the first that has not settled.
    read: VecDeque<Entry>,
    /// The offset after the prefix that is settled.
    settled_to: i64,
    /// What was taken in below that offset.
    taken_in: TakenIn,
    /// How many attempts are in flight, by where their records may begin in `delivery-attempts`.
    in_flight: BTreeMap<i64, usize>,
    /// Where the attempts of bundles that are read from now on may begin in `delivery-attempts`.
    attempts_to: i64,
    /// The same for bundles that a former claim may have read: those below an offset.
    attempts_before: (i64, i64),
    /// When the last commit that was accepted began.
    confirmed: Instant,
}

struct Entry {
    offset: i64,
    /// Its attempts are recorded in `delivery-attempts` from this offset on.
    attempts_from: i64,
    head: Option<Box<BundleHead>>,
    settled: bool,
}

impl Settlements {
    /// Nothing is read yet; everything below an offset is settled. What a former claim may have read lies below
    /// another offset, its attempts are recorded from `attempts_before.1` on; those of this claim from `attempts_to`.
    #[must_use]
    pub fn new(
        start: i64,
        taken_in: TakenIn,
        attempts_before: (i64, i64),
        attempts_to: i64,
        (revoked, session): (CancellationToken, Duration),
    ) -> Self {
        let (read, in_flight, confirmed) = (VecDeque::new(), BTreeMap::new(), Instant::now());
        let state =
            State { read, settled_to: start, taken_in, in_flight, attempts_to, attempts_before, confirmed };
        Self(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new(), revoked, session }))
    }

    /// A commit that began then was accepted.
    pub fn confirm(&self, began: Instant) {
        self.state(|state| state.confirmed = began);
    }

    /// True if it is time for a commit, even of what is committed already.
    #[must_use]
    pub fn wants_confirmation(&self) -> bool {
        self.state(|state| state.confirmed.elapsed() >= self.0.session / 3)
    }

    fn state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a record was read. It is settled at once if it needs nothing more.
    pub fn read(&self, offset: i64, head: Option<&BundleHead>, settled: bool) {
        self.state(|state| {
            let (below, former) = state.attempts_before;
            let attempts_from = if offset < below { former } else { state.attempts_to };
            let head = head.map(|head| Box::new(head.clone()));
            state.read.push_back(Entry { offset, attempts_from, head, settled });
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

    /// Notes that the attempts of this partition are recorded below an offset.
    pub fn recorded(&self, next: i64) {
        self.state(|state| state.attempts_to = state.attempts_to.max(next));
    }

    /// The offset to commit, what was taken in below it, and where the attempts begin that a claim must know: those of
    /// what lies above it, and those in flight.
    #[must_use]
    pub fn settled(&self) -> (i64, TakenIn, i64) {
        self.state(|state| {
            let (below, former) = state.attempts_before;
            let unread = if state.settled_to < below { former } else { state.attempts_to };
            let attempts = state.read.front().map_or(unread, |entry| entry.attempts_from);
            let attempts =
                state.in_flight.first_key_value().map_or(attempts, |(from, _)| attempts.min(*from));
            (state.settled_to, state.taken_in.clone(), attempts)
        })
    }

    /// How many bundles were read and are not settled, or are settled behind one that is not.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.state(|state| state.read.len())
    }

    /// The oldest bundle that is not settled, by its offset.
    #[must_use]
    pub fn front(&self) -> Option<(i64, BundleHead)> {
        self.state(|state| {
            let front = state.read.front()?;
            Some((front.offset, front.head.as_deref()?.clone()))
        })
    }

    /// An attempt begins; none if the partition was given up, or may have been: where the process stood still, its
    /// group has gone on without it, and the claim is over. It ends when what follows it is acknowledged, too: the
    /// record, and where the delivery is parked, its end or its new count of attempts.
    #[must_use]
    pub fn begin(&self) -> Option<InFlight> {
        self.state(|state| {
            if state.confirmed.elapsed() >= self.0.session {
                self.0.revoked.cancel();
            }
            if self.0.revoked.is_cancelled() {
                return None;
            }
            let from = state.attempts_to;
            *state.in_flight.entry(from).or_default() += 1;
            Some(InFlight { settlements: self.clone(), from })
        })
    }

    /// True if the partition was given up.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.0.revoked.is_cancelled()
    }

    /// Ends when the partition is given up.
    #[must_use]
    pub fn revoked(&self) -> &CancellationToken {
        &self.0.revoked
    }

    /// Waits until no attempt is in flight.
    pub async fn drained(&self) {
        loop {
            let notified = self.0.wake.notified();
            if self.state(|state| state.in_flight.is_empty()) {
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

/// An attempt in flight, with everything that follows it.
pub struct InFlight {
    settlements: Settlements,
    from: i64,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.settlements.state(|state| {
            if let Some(count) = state.in_flight.get_mut(&self.from) {
                *count -= 1;
                if *count == 0 {
                    state.in_flight.remove(&self.from);
                }
            }
        });
        self.settlements.0.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(45);

    #[test]
    fn only_a_contiguous_prefix_is_settled() {
        let settlements =
            Settlements::new(5, TakenIn::default(), (6, 70), 90, (CancellationToken::new(), SESSION));
        for offset in [5, 6, 9] {
            settlements.read(offset, None, false);
        }
        settlements.settle(6);
        settlements.settle(9);
        assert_eq!(
            settlements.settled(),
            (5, TakenIn::default(), 70),
            "a former claim may have attempted it"
        );
        settlements.recorded(93);
        settlements.settle(5);
        assert_eq!(settlements.settled(), (10, TakenIn::default(), 93));
        assert_eq!(settlements.unsettled(), 0);
    }

    #[test]
    fn what_an_attempt_in_flight_records_is_known_to_the_next_claim() {
        let settlements =
            Settlements::new(0, TakenIn::default(), (0, 0), 20, (CancellationToken::new(), SESSION));
        let first = settlements.begin().unwrap();
        settlements.recorded(21);
        let second = settlements.begin().unwrap();
        settlements.recorded(22);
        assert_eq!(settlements.settled().2, 20);
        drop(first);
        assert_eq!(settlements.settled().2, 21);
        drop(second);
        assert_eq!(settlements.settled().2, 22);
    }

    #[test]
    fn nothing_begins_once_the_partition_is_given_up() {
        let revoked = CancellationToken::new();
        let settlements = Settlements::new(0, TakenIn::default(), (0, 0), 0, (revoked.clone(), SESSION));
        assert!(settlements.begin().is_some());
        revoked.cancel();
        assert!(settlements.begin().is_none());
    }

    #[test]
    fn nothing_begins_once_the_group_may_have_given_the_partition_away() {
        let revoked = CancellationToken::new();
        let settlements = Settlements::new(0, TakenIn::default(), (0, 0), 0, (revoked.clone(), SESSION));
        assert!(!settlements.wants_confirmation());
        settlements.confirm(Instant::now().checked_sub(SESSION / 3).unwrap());
        assert!(settlements.wants_confirmation() && settlements.begin().is_some());
        settlements.confirm(Instant::now().checked_sub(SESSION).unwrap());
        assert!(settlements.begin().is_none() && revoked.is_cancelled());
    }
}
