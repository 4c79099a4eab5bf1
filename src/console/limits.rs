//! A limit on failed tries to sign in, by address: a bucket of tries that fills again with time.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// So many tries may fail at once.
const TRIES: u32 = 30;
/// One more may fail after so long.
const EACH: Duration = Duration::from_secs(2);
/// So many addresses are remembered; beyond that those that have failed least recently are forgotten.
const ADDRESSES: usize = 10_000;

/// Who has failed, and until when that counts.
#[derive(Default)]
pub struct FailedSignIns(Mutex<HashMap<IpAddr, Instant>>);

impl FailedSignIns {
    /// How many seconds an address has to wait; none if it may try.
    pub fn wait(&self, from: IpAddr, now: Instant) -> Option<u64> {
        let failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = now + EACH * TRIES;
        let until = failed.get(&from).filter(|until| **until > full)?;
        Some((*until - full).as_secs() + 1)
    }

    /// Counts a failure.
    pub fn failed(&self, from: IpAddr, now: Instant) {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= ADDRESSES {
            failed.retain(|_, until| *until > now);
        }
        if failed.len() >= ADDRESSES
            && let Some(oldest) = failed.iter().min_by_key(|(_, until)| **until).map(|(from, _)| *from)
        {
            failed.remove(&oldest);
        }
        let until = failed.entry(from).or_insert(now);
        *until = (*until).max(now) + EACH;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_too_often_waits_and_others_do_not() {
        let (limit, now) = (FailedSignIns::default(), Instant::now());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..TRIES {
            assert_eq!(limit.wait(one, now), None);
            limit.failed(one, now);
        }
        assert_eq!(limit.wait(one, now), None);
        limit.failed(one, now);
        assert!(limit.wait(one, now).is_some());
        assert_eq!(limit.wait(other, now), None);
        assert_eq!(limit.wait(one, now + EACH), None);
    }
}
