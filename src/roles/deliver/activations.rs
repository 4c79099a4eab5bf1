//! Activations are kept in `webhook-states`, since compaction removes the records that show them.

use tracing::debug;

use crate::{
    io::kafka::publisher::{AckGroup, Outgoing},
    roles::process::Process,
    wire::state,
};

/// Stores each activation that the log of settings shows and `webhook-states` does not hold yet. Several processes
/// may store the same one: key and content are the same.
pub(super) async fn keep(process: Process) {
    let _watch = process.watch_for_panic("activations");
    let mut fresh = process.tail.watch();
    let mut stored = std::collections::HashMap::new();
    while fresh.changed().await.is_ok() {
        let unstored = process.tail.directory().unstored_activations();
        for (webhook, activation) in unstored {
            if stored.insert(webhook.webhook_id.clone(), activation) == Some(activation) {
                continue;
            }
            let (key, value) = state::encode_activation(&webhook, activation);
            let record = Outgoing {
                topic: &process.topics.webhook_states,
                partition: None,
                key: key.as_bytes(),
                value: Some(&value),
                headers: &[],
            };
            debug!(webhook = %webhook.webhook_id, %activation, "storing an activation");
            if let Err(error) = process.publisher.publish(&record, &AckGroup::default()).await {
                process.fail(format!("an activation could not be stored: {error}"));
                return;
            }
        }
        process.metrics.webhooks.set(process.tail.directory().len() as i64);
    }
}
