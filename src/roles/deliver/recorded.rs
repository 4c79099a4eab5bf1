//! What `delivery-attempts` already says of the bundles of a partition: read at a claim, so that a restart behind one
//! hanging request repeats nothing that was recorded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use http::StatusCode;

use crate::{
    io::kafka::replay::{Replayed, replay},
    model::delivery::is_refusal,
    roles::process::Process,
    wire::attempt::AttemptRecord,
};

/// What was recorded of one bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Recorded {
    /// Attempts made.
    pub attempts: u32,
    /// How many of them the endpoint itself refused.
    pub refusals: u32,
    /// It was delivered or rejected.
    pub settled: bool,
}

/// By the bundle's offset.
pub(super) type RecordedAttempts = HashMap<i64, Recorded>;

/// Reads the attempts of a partition from an offset on, as far as they are about bundles at or past another one.
/// Returns them with the end of the partition.
///
/// # Errors
/// If the partition can't be read.
pub(super) async fn read(
    process: &Process,
    partition: i32,
    from: i64,
    first_bundle: i64,
) -> Result<(RecordedAttempts, i64), String> {
    let recorded = Arc::new(Mutex::new(RecordedAttempts::new()));
    let shared = recorded.clone();
    let take = move |record: &Replayed<'_>| {
        let parsed = record.value.map(serde_json::from_slice::<AttemptRecord>);
        if let Some(Ok(attempt)) = parsed {
            note(
                &mut shared.lock().unwrap_or_else(PoisonError::into_inner),
                &attempt,
                partition,
                first_bundle,
            );
        }
    };
    let end = replay(&process.kafka, &process.topics.delivery_attempts, partition, from, take)
        .await
        .map_err(|error| format!("the attempts of partition {partition} can't be read: {error}"))?;
    let recorded = std::mem::take(&mut *recorded.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((recorded, end))
}

fn note(recorded: &mut RecordedAttempts, attempt: &AttemptRecord, partition: i32, first_bundle: i64) {
    if attempt.bundle.partition != partition || attempt.bundle.offset < first_bundle {
        return;
    }
    let known = recorded.entry(attempt.bundle.offset).or_default();
    let status = attempt.response.as_ref().and_then(|response| StatusCode::from_u16(response.status).ok());
    known.attempts = known.attempts.max(attempt.attempt);
    known.refusals += u32::from(is_refusal(status));
    known.settled |= attempt.settled.is_some();
}
