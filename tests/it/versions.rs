//! What another release has stored is built anew or refused by name, never misread.

use serde_json::{Value, json};

use crate::support::{
    LIMIT, Outgoing, System, event, message_ids, ok, receiver, refuse, system, wait_until, webhook,
};

const COUNT: usize = 40;
const REBUILT: &str = "bundlehook_rebuild_records_total{";

fn events() -> Vec<Value> {
    (0..COUNT).map(|n| event("ws", &format!("c{n}"), &n.to_string())).collect()
}

/// Ends a role as a later release would leave it: what it wrote last names its version.
async fn end_with_a_later_version(system: &System, role: &str, state: &str) {
    let running = if role == "aggregate" { &system.aggregate } else { &system.deliver };
    running.process.sigterm();
    assert!(running.process.wait_exit(LIMIT).await.success());
    let key = format!("{{{}{state}}}:owner", system.prefix);
    let version: Option<u32> = system.redis.command(&["HGET", &key, "v"]).await;
    let later = version.unwrap_or_else(|| panic!("`{key}` has no version")) + 1;
    let _: u32 = system.redis.command(&["HSET", &key, "v", &later.to_string()]).await;
}

#[tokio::test]
async fn windows_of_a_later_version_in_redis_are_built_anew() {
    let endpoint = receiver(ok());
    let windowed = webhook("wh", "ws", &endpoint.url("/"), json!({"granularity": "24h"}));
    // A day that does not end while the test runs.
    let Some(mut system) = system(3_600_000).start(&[windowed]).await else { return };
    system.publish(&events()).await;
    system.aggregate.wait_sum("bundlehook_events_accepted_total", COUNT as f64).await;
    end_with_a_later_version(&system, "aggregate", "me:0").await;

    system.restart("aggregate").await;

    system.aggregate.wait_sum(REBUILT, COUNT as f64).await;
}

#[tokio::test]
async fn a_queue_of_a_later_version_in_redis_is_built_anew_and_sent_once() {
    let endpoint = receiver(refuse());
    let Some(mut system) = system(2_000).start(&[webhook("wh", "ws", &endpoint.url("/"), json!({}))]).await
    else {
        return;
    };
    system.publish(&events()).await;
    system.deliver.wait_sum("bundlehook_deliveries_parked{", COUNT as f64).await;
    // From then on nothing is tried.
    wait_until("the disabling", LIMIT, async || {
        system.webhook_json(&["show", "wh"]).await["state"] == "disabled"
    })
    .await;
    end_with_a_later_version(&system, "deliver", "bundles:0").await;

    system.restart("deliver").await;

    system.deliver.wait_sum(REBUILT, 1.0).await;
    endpoint.set(ok()).await;
    let enabled = system.webhook(&["enable", "wh", "--send"]).await;
    assert!(enabled.status.success(), "{enabled:?}");
    system.wait_delivered().await;
    let mut ids: Vec<usize> = endpoint
        .requests()
        .iter()
        .flat_map(message_ids)
        .map(|id| id.parse().expect("it is a number"))
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..COUNT).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_attempt_of_a_later_version_stops_the_claim_with_its_offset_and_version() {
    let endpoint = receiver(ok());
    let Some(system) = system(2_000).start(&[webhook("wh", "ws", &endpoint.url("/"), json!({}))]).await
    else {
        return;
    };
    system.deliver.process.sigterm();
    assert!(system.deliver.process.wait_exit(LIMIT).await.success());
    system.produce("delivery-attempts", [Outgoing::new("wh", r#"{"v": 2, "said": "otherwise"}"#)]).await;
    system.publish(&events()[..1]).await;

    let later = system.launch("deliver").start();

    wait_until("the refusal", LIMIT, async || {
        later.stderr().contains("the one at offset 0 is of version 2, expected 1")
    })
    .await;
    assert!(endpoint.requests().is_empty(), "nothing is sent that may have been sent");
}
