//! What compaction would take from `webhook-settings` is kept in `webhook-states`: activations, and what is in force
//! although the latest record can't be used.

use std::collections::HashMap;

use tracing::debug;

use crate::{
    io::{
        clock,
        kafka::publisher::{AckGroup, Outgoing},
    },
    roles::process::Process,
    wire::state,
};

/// Stores what the log of settings shows and `webhook-states` does not hold yet. Several processes may store the same:
/// key and meaning are the same.
pub(super) async fn keep(process: Process) {
    let _watch = process.watch_for_panic("keeping");
    let mut fresh = process.tail.watch();
    // What was published and is not read back yet. What is unstored again after that was stored over by somebody late.
    let (mut activations, mut in_force) = (HashMap::new(), HashMap::new());
    while fresh.changed().await.is_ok() {
        let unstored = process.tail.directory().unstored_activations();
        let former = std::mem::take(&mut activations);
        for (webhook, activation) in unstored {
            if former.get(&webhook.webhook_id) != Some(&activation) {
                debug!(webhook = %webhook.webhook_id, %activation, "storing an activation");
                store(&process, state::encode_activation(&webhook, activation)).await;
            }
            activations.insert(webhook.webhook_id.clone(), activation);
        }
        let unstored = process.tail.directory().unstored_in_force();
        let former = std::mem::take(&mut in_force);
        for (webhook, stored) in unstored {
            let since = stored.since;
            if former.get(&webhook.webhook_id) != Some(&since) {
                debug!(webhook = %webhook.webhook_id, offset = since.offset, "storing what is in force");
                store(&process, state::encode_in_force(&webhook, &stored, clock::now())).await;
            }
            in_force.insert(webhook.webhook_id.clone(), since);
        }
        process.metrics.webhooks.set(process.tail.directory().len() as i64);
    }
}

async fn store(process: &Process, (key, value): (String, Vec<u8>)) {
    let record = Outgoing {
        topic: &process.topics.webhook_states,
        partition: None,
        key: key.as_bytes(),
        value: Some(&value),
        headers: &[],
    };
    if let Err(error) = process.publisher.publish(&record, &AckGroup::default()).await {
        process.fail(format!("a state of a webhook could not be stored: {error}"));
    }
}
