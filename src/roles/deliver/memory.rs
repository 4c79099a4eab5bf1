//! Memory for deliveries that wait or are in flight: all lanes of a process share it, and none may take so much that
//! others find none.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::ids::WebhookId;

/// A lane never takes more than this part of what is free: though hundreds of lanes are full, there is room for one more.
const PART_OF_FREE: usize = 64;

/// All of a process, counted in KiB.
pub(super) struct Memory {
    free: Arc<Semaphore>,
    whole: u32,
    shares: Mutex<HashMap<WebhookId, Weak<AtomicUsize>>>,
}

/// How much the lane of a webhook holds, in KiB.
#[derive(Debug, Clone, Default)]
pub(super) struct Share(Arc<AtomicUsize>);

/// The room of a delivery, as long as it lives.
#[derive(Debug)]
pub(super) struct Room {
    _taken: OwnedSemaphorePermit,
    share: Share,
    kib: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.share.0.fetch_sub(self.kib, Ordering::Relaxed);
    }
}

impl From<OwnedSemaphorePermit> for Room {
    /// Room that is no part of this memory.
    fn from(taken: OwnedSemaphorePermit) -> Self {
        Self { _taken: taken, share: Share::default(), kib: 0 }
    }
}

fn kib(bytes: usize) -> usize {
    bytes / 1024 + 1
}

impl Memory {
    pub fn new(mib: u32) -> Self {
        let whole = mib * 1024;
        Self { free: Arc::new(Semaphore::new(whole as usize)), whole, shares: Mutex::default() }
    }

    /// The share of a webhook: there is one as long as somebody has it.
    pub fn share(&self, webhook: &WebhookId) -> Share {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(webhook).and_then(Weak::upgrade) {
            return Share(share);
        }
        // Before the map grows.
        if shares.len() == shares.capacity() {
            shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Share::default();
        shares.insert(webhook.clone(), Arc::downgrade(&share.0));
        share
    }

    /// Most that a lane may hold now, in KiB.
    fn most(&self) -> usize {
        self.free.available_permits() / PART_OF_FREE
    }

    /// Room for a body that was just read; none if its lane, or all of them, hold too much.
    pub fn take(&self, share: Share, bytes: usize) -> Option<Room> {
        let kib = kib(bytes);
        let most = self.most();
        let held = share.0.fetch_add(kib, Ordering::Relaxed);
        let taken = (held + kib <= most).then(|| self.free.clone().try_acquire_many_owned(kib as u32).ok());
        let Some(taken) = taken.flatten() else {
            share.0.fetch_sub(kib, Ordering::Relaxed);
            return None;
        };
        Some(Room { _taken: taken, share, kib })
    }

    /// How many bytes a lane may pull now. One that holds nothing may pull, however little is free; none if it holds as
    /// much as it may.
    pub fn left(&self, share: &Share) -> Option<u64> {
        let held = share.0.load(Ordering::Relaxed);
        let left = self.most().saturating_sub(held);
        (left > 0 || held == 0).then_some(left as u64 * 1024)
    }

    /// Room for each body of a page, once there is some.
    pub async fn take_page(&self, share: &Share, bytes: impl Iterator<Item = usize>) -> Vec<Room> {
        let each: Vec<usize> = bytes.map(kib).collect();
        let all = u32::try_from(each.iter().sum::<usize>()).unwrap_or(u32::MAX).min(self.whole);
        let taken = self.free.clone().acquire_many_owned(all).await;
        let mut taken = taken.expect("nobody closes the semaphore");
        let room = |kib: usize| {
            let own = kib.min(taken.num_permits());
            share.0.fetch_add(kib, Ordering::Relaxed);
            let taken = taken.split(own).expect("it has so many");
            Room { _taken: taken, share: share.clone(), kib }
        };
        each.into_iter().map(room).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_holds_no_more_than_its_share() {
        let (memory, share) = (Memory::new(64), Share::default());
        let rooms: Vec<Room> = std::iter::from_fn(|| memory.take(share.clone(), 10_000)).collect();
        assert_eq!(rooms.len(), 100, "of 10 KiB each, while the others shrink what is free");
        assert!(memory.take(Share::default(), 10_000).is_some());
        drop(rooms);
        assert!(memory.take(share.clone(), 10_000).is_some());
    }

    #[test]
    fn though_hundreds_of_lanes_take_all_they_can_there_is_room_for_one_more() {
        let memory = Memory::new(64);
        let greedy: Vec<Vec<Room>> = (0..300)
            .map(|_| {
                let share = Share::default();
                std::iter::from_fn(|| memory.take(share.clone(), 500)).collect()
            })
            .collect();
        assert!(greedy.iter().all(|rooms| !rooms.is_empty()));
        assert!(memory.take(Share::default(), 2_000).is_some());
    }

    #[tokio::test]
    async fn what_is_pulled_counts_as_what_is_read_and_a_lane_that_holds_nothing_may_always_pull() {
        let (memory, share) = (Memory::new(64), Share::default());
        assert_eq!(memory.left(&share), Some(1024 * 1024));
        let page = memory.take_page(&share, [600_000, 500_000].into_iter()).await;
        assert_eq!(memory.left(&share), None);
        assert!(memory.take(share.clone(), 10).is_none());
        drop(page);
        let small = Memory::new(1);
        let all = small.take_page(&share, [1024 * 1024 - 1].into_iter()).await;
        assert_eq!(small.left(&Share::default()), Some(0), "one at a time, once there is room");
        drop(all);
    }

    #[test]
    fn a_webhook_has_one_share_as_long_as_somebody_has_it() {
        let memory = Memory::new(64);
        let id = |number: usize| WebhookId::parse(&format!("wh-{number}")).unwrap();
        let room = memory.take(memory.share(&id(0)), 1000 * 1024);
        assert!(memory.take(memory.share(&id(0)), 100 * 1024).is_none());
        (1..1000).for_each(|number| drop(memory.share(&id(number))));
        assert!(memory.shares.lock().unwrap().len() < 100, "those that nobody has are forgotten");
        assert!(memory.take(memory.share(&id(0)), 100 * 1024).is_none());
        drop(room);
        assert!(memory.take(memory.share(&id(0)), 100 * 1024).is_some());
    }

    #[tokio::test]
    async fn a_page_waits_for_room_and_one_that_is_larger_than_all_gets_all() {
        let (memory, share) = (Memory::new(1), Share::default());
        let rooms = memory.take_page(&share, [2 * 1024 * 1024, 10].into_iter()).await;
        assert_eq!((rooms.len(), memory.free.available_permits()), (2, 0));
        let mut next = std::pin::pin!(memory.take_page(&share, [10].into_iter()));
        assert!(is_pending(next.as_mut()).await);
        drop(rooms);
        assert_eq!(next.await.len(), 1);
    }

    async fn is_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = std::future::ready(()) => true,
        }
    }
}
