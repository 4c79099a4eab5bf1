//! What Redis lost is built up again from the log: how far that is, as metrics and in the log of the process.

use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntGauge};
use tracing::info;

use super::process::Process;
use crate::{io::clock, model::progress::Stretch};

/// How often it is logged.
const INTERVAL: Duration = Duration::from_secs(5);

/// A stretch of a partition's log that is being read again.
pub(super) struct Rebuild {
    role: &'static str,
    partition: i32,
    stretch: Stretch,
    position: i64,
    began: Instant,
    reported: Instant,
    remaining: IntGauge,
    done: IntCounter,
    progress: IntGauge,
}

impl Rebuild {
    /// Begins to tell of a stretch; none if there is nothing to read again.
    pub fn begin(process: &Process, role: &'static str, partition: i32, from: i64, to: i64) -> Option<Self> {
        let remaining = process.metrics.rebuild_remaining.with_label_values(&[role, &partition.to_string()]);
        remaining.set((to - from).max(0));
        let stretch = Stretch::new(from, to)?;
        let done = process.metrics.rebuild_records.with_label_values(&[role]);
        let progress = process.metrics.last_progress.with_label_values(&[role, &partition.to_string()]);
        let began = Instant::now();
        info!(role, partition, left = to - from, "rebuilding from the log what redis lost");
        Some(Self {
            role,
            partition,
            stretch,
            position: from,
            began,
            reported: began,
            remaining,
            done,
            progress,
        })
    }

    /// Everything below a position has been read again. True if that is all.
    pub fn reached(&mut self, position: i64) -> bool {
        let elapsed = self.began.elapsed();
        let before = self.stretch.progress(self.position, elapsed);
        let now = self.stretch.progress(position, elapsed);
        self.position = position.max(self.position);
        self.done.inc_by((now.done - before.done).max(0) as u64);
        self.remaining.set(now.left);
        self.progress.set(clock::now().0 / 1000);
        let (role, partition) = (self.role, self.partition);
        let rate = now.rate.map(f64::round);
        if now.left == 0 {
            info!(role, partition, records = now.done, seconds = elapsed.as_secs_f64(), rate, "rebuilt");
        } else if self.reported.elapsed() >= INTERVAL {
            self.reported = Instant::now();
            let seconds_left = now.seconds_left.map(f64::ceil);
            info!(role, partition, done = now.done, left = now.left, rate, seconds_left, "rebuilding");
        }
        now.left == 0
    }
}

impl Drop for Rebuild {
    /// A claim that ends in the midst of it leaves nothing to be waited for; the next one begins anew.
    fn drop(&mut self) {
        self.remaining.set(0);
    }
}
