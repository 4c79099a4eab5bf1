//! How late tasks run: where the processor has too little time for them, or something blocks a thread.

use std::time::{Duration, Instant};

use prometheus::Histogram;

/// How often it is measured.
const INTERVAL: Duration = Duration::from_millis(250);

/// Measures, on the runtime that it is spawned on, for as long as that lives.
pub async fn measure(delays: Histogram) {
    loop {
        let due = Instant::now() + INTERVAL;
        tokio::time::sleep_until(due.into()).await;
        delays.observe(due.elapsed().as_secs_f64());
    }
}
