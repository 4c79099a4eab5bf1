//! Memory for deliveries that wait: all lanes of a process share it, and none may take so much that others find none.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most that a lane holds of what was read, in KiB.
const LANE: usize = 1024;
/// It never takes more than this part of what is free: though hundreds of lanes are full, there is room for one more.
const PART_OF_FREE: usize = 64;

/// All of a process, counted in KiB.
pub(super) struct Memory {
    free: Arc<Semaphore>,
    whole: u32,
}

/// How much of what was read a lane holds, in KiB.
#[derive(Debug, Clone, Default)]
pub(super) struct Share(Arc<AtomicUsize>);

/// The room of a delivery, as long as it lives.
#[derive(Debug)]
pub(super) struct Room {
    _taken: OwnedSemaphorePermit,
    share: Option<(Share, usize)>,
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some((share, kib)) = &self.share {
            share.0.fetch_sub(*kib, Ordering::Relaxed);
        }
    }
}

impl From<OwnedSemaphorePermit> for Room {
    fn from(taken: OwnedSemaphorePermit) -> Self {
        Self { _taken: taken, share: None }
    }
}

impl Room {
    /// The share that it is part of.
    pub fn share(&self) -> Share {
        self.share.as_ref().map(|(share, _)| share.clone()).unwrap_or_default()
    }
}

fn kib(bytes: usize) -> usize {
    bytes / 1024 + 1
}

impl Memory {
    pub fn new(mib: u32) -> Self {
        let whole = mib * 1024;
        Self { free: Arc::new(Semaphore::new(whole as usize)), whole }
    }

    /// Room for a body that was just read; none if its lane, or all of them, hold too much.
    pub fn take(&self, share: &Share, bytes: usize) -> Option<Room> {
        let kib = kib(bytes);
        let most = LANE.min(self.free.available_permits() / PART_OF_FREE);
        let held = share.0.fetch_add(kib, Ordering::Relaxed);
        let taken = (held + kib <= most).then(|| self.free.clone().try_acquire_many_owned(kib as u32).ok());
        let Some(taken) = taken.flatten() else {
            share.0.fetch_sub(kib, Ordering::Relaxed);
            return None;
        };
        Some(Room { _taken: taken, share: Some((share.clone(), kib)) })
    }

    /// Room for each body of a page, once there is some.
    pub async fn take_page(&self, bytes: impl Iterator<Item = usize>) -> Vec<Room> {
        let each: Vec<usize> = bytes.map(kib).collect();
        let all = u32::try_from(each.iter().sum::<usize>()).unwrap_or(u32::MAX).min(self.whole);
        let taken = self.free.clone().acquire_many_owned(all).await;
        let mut taken = taken.expect("nobody closes the semaphore");
        let room = |kib: usize| {
            let own = kib.min(taken.num_permits());
            taken.split(own).expect("it has so many").into()
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
        let rooms: Vec<Room> = std::iter::from_fn(|| memory.take(&share, 10_000)).collect();
        assert_eq!(rooms.len(), 100, "of 10 KiB each, while the others shrink what is free");
        assert!(memory.take(&Share::default(), 10_000).is_some());
        drop(rooms);
        assert!(memory.take(&share, 10_000).is_some());
    }

    #[test]
    fn though_hundreds_of_lanes_take_all_they_can_there_is_room_for_one_more() {
        let memory = Memory::new(64);
        let greedy: Vec<Vec<Room>> = (0..300)
            .map(|_| {
                let share = Share::default();
                std::iter::from_fn(|| memory.take(&share, 500)).collect()
            })
            .collect();
        assert!(greedy.iter().all(|rooms| !rooms.is_empty()));
        assert!(memory.take(&Share::default(), 2_000).is_some());
    }

    #[tokio::test]
    async fn a_page_waits_for_room_and_one_that_is_larger_than_all_gets_all() {
        let memory = Memory::new(1);
        let rooms = memory.take_page([2 * 1024 * 1024, 10].into_iter()).await;
        assert_eq!((rooms.len(), memory.free.available_permits()), (2, 0));
        let mut next = std::pin::pin!(memory.take_page([10].into_iter()));
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
