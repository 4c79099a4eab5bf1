//! What stands open at a partition, as metrics.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use prometheus::{GaugeVec, IntGauge, IntGaugeVec};
use tracing::debug;

use crate::{io::redis::windows::WindowStore, model::time::Millis, ops::metrics::Metrics};

/// How often windows are counted.
const INTERVAL: Duration = Duration::from_secs(5);

/// Tells of a claimed partition as long as this lives.
pub(super) struct Standing {
    partition: String,
    open: IntGaugeVec,
    boundaries: IntGauge,
    all_boundaries: IntGaugeVec,
    due: GaugeVec,
    /// What was told as due last.
    told: Option<Millis>,
    next_count: Instant,
}

impl Standing {
    /// Begins to tell.
    pub fn new(metrics: &Metrics, partition: i32) -> Self {
        let partition = partition.to_string();
        Self {
            open: metrics.windows_open.clone(),
            boundaries: metrics.boundaries_open.with_label_values(&[&partition]),
            all_boundaries: metrics.boundaries_open.clone(),
            due: metrics.window_due.clone(),
            told: None,
            next_count: Instant::now(),
            partition,
        }
    }

    /// Tells of the boundaries at which windows are open, each with the first offset of the oldest; `due` says from when on
    /// one can be closed.
    pub async fn tell(
        &mut self,
        store: &WindowStore,
        open: &BTreeMap<Millis, i64>,
        due: impl Fn(Millis) -> Millis,
    ) {
        self.boundaries.set(open.len() as i64);
        self.tell_due(open.keys().next().map(|boundary| due(*boundary)));
        if Instant::now() < self.next_count {
            return;
        }
        self.next_count = Instant::now() + INTERVAL;
        match store.count_open(open.keys().copied()).await {
            Ok(count) => self.open.with_label_values(&[&self.partition]).set(count),
            Err(error) => debug!(self.partition, %error, "how many windows are open is not known"),
        }
    }

    fn tell_due(&mut self, due: Option<Millis>) {
        if due == self.told {
            return;
        }
        self.told = due;
        match due {
            Some(due) => self.due.with_label_values(&[&self.partition]).set(due.0 as f64 / 1000.0),
            None => drop(self.due.remove_label_values(&[&self.partition])),
        }
    }
}

impl Drop for Standing {
    /// Whoever claims the partition next tells of it.
    fn drop(&mut self) {
        // What was never known was never told.
        let _ = self.open.remove_label_values(&[&self.partition]);
        let _ = self.all_boundaries.remove_label_values(&[&self.partition]);
        let _ = self.due.remove_label_values(&[&self.partition]);
    }
}
