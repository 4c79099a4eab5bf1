//! What the probes answer. Liveness never depends on Kafka or Redis: a process that waits for them is alive.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A polling loop that has not turned for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_mins(1);

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The probes of a process. Roles add what they depend on.
#[derive(Clone, Default)]
pub struct Probes(Arc<Inner>);

/// A loop with the turns that were last seen, and since when.
struct WatchedLoop {
    name: &'static str,
    turns: Arc<AtomicU64>,
    seen: u64,
    since: Instant,
}

#[derive(Default)]
struct Inner {
    loops: Mutex<Vec<WatchedLoop>>,
    ready: Mutex<Vec<Check>>,
}

impl Probes {
    /// Watches a counter that rises with each turn of a loop.
    pub fn watch_loop(&self, name: &'static str, turns: Arc<AtomicU64>) {
        let seen = turns.load(Ordering::Relaxed);
        let watched = WatchedLoop { name, turns, seen, since: Instant::now() };
        self.0.loops.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
    }

    /// Adds a condition of readiness, which says what is missing.
    pub fn require(&self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.0.ready.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(check));
    }

    /// Alive: every loop turns.
    ///
    /// # Errors
    /// Which loop is stuck.
    pub fn live(&self) -> Result<(), String> {
        let mut loops = self.0.loops.lock().unwrap_or_else(PoisonError::into_inner);
        for WatchedLoop { name, turns, seen, since } in loops.iter_mut() {
            let now = turns.load(Ordering::Relaxed);
            if now != *seen {
                (*seen, *since) = (now, Instant::now());
            } else if since.elapsed() > STUCK_AFTER {
                return Err(format!("the loop `{name}` has not turned for {} s", since.elapsed().as_secs()));
            }
        }
        Ok(())
    }

    /// Ready: every condition holds.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        let checks = self.0.ready.lock().unwrap_or_else(PoisonError::into_inner);
        checks.iter().try_for_each(|check| check())
    }
}
