//! `Retry-After` of strangers: a pause is never shorter than scheduled nor longer than eight hours.
#![no_main]

use std::time::Duration;

use bundlehook::model::{
    retry::{MAX_RETRY_AFTER, RetrySchedule, parse_retry_after},
    time::Millis,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let now = Millis(1_614_182_400_000);
    let schedule =
        RetrySchedule::new(vec![Duration::from_secs(5), Duration::from_secs(30)]).expect("it has pauses");
    let asked = parse_retry_after(text, now);
    for (failures, jitter) in [(0, 0.0), (1, 0.5), (2, 1.0), (u32::MAX, 0.3)] {
        let pause = schedule.pause(failures, jitter, asked);
        assert!(pause >= Duration::from_millis(4_500) && pause <= MAX_RETRY_AFTER, "{text}: {pause:?}");
        assert!(pause >= asked.unwrap_or_default().min(MAX_RETRY_AFTER));
    }
});
