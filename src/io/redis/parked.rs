//! How many deliveries webhooks have parked, for whoever asks without owning a partition.

use std::collections::HashMap;

use super::{Redis, StoreError};

/// How many each webhook has parked in some partitions of `bundles`, as their owners counted last.
///
/// # Errors
/// [`StoreError`]
pub async fn counts(
    redis: &Redis,
    prefix: &str,
    partitions: i32,
) -> Result<HashMap<String, u64>, StoreError> {
    let mut all = HashMap::new();
    for partition in 0..partitions {
        let mut command = redis::cmd("HGETALL");
        command.arg(format!("{{{prefix}bundles:{partition}}}:webhooks"));
        let counts: HashMap<String, u64> = redis.command(&command).await?;
        for (webhook, count) in counts {
            *all.entry(webhook).or_default() += count;
        }
    }
    Ok(all)
}
