//! Settings that change while messages flow.

use serde_json::json;

use crate::support::{LIMIT, SESSION, event, message_ids, ok, receiver, status, system, wait_until, webhook};

#[tokio::test]
async fn a_new_granularity_counts_after_five_seconds_and_open_windows_close_on_their_own_schedule() {
    let receiver = receiver(ok());
    let settings =
        |granularity: &str| webhook("wh", "ws", &receiver.url("/"), json!({"granularity": granularity}));
    let Some(system) = system(9_000).start(&[settings("1h")]).await else { return };
    system.window_start(1).await;
    system.publish(&[event("ws", "c", "before")]).await;
    system.settings(&[settings("none")]).await;
    system.publish(&[event("ws", "c", "just after")]).await;
    system.settings_count().await;

    system.publish(&[event("ws", "c", "five seconds after")]).await;

    system.wait_done().await;
    let posts = receiver.requests();
    assert_eq!(posts.len(), 2);
    assert_eq!(message_ids(&posts[0]), ["five seconds after"]);
    assert!(posts[0].json().get("message").is_some());
    assert_eq!(message_ids(&posts[1]), ["before", "just after"]);
}

#[tokio::test]
async fn what_the_owner_disables_or_deletes_drops_its_open_windows_and_waiting_deliveries() {
    let (taking, failing) = (receiver(ok()), receiver(status(500)));
    let windowed = |id: &str, enabled: bool| {
        webhook(id, "ws", &taking.url("/"), json!({"granularity": "1h", "enabled": enabled}))
    };
    let at_once = |id: &str, enabled: bool| {
        webhook(id, "ws", &failing.url(&format!("/{id}")), json!({"enabled": enabled}))
    };
    let webhooks = [windowed("a", true), at_once("b", true), windowed("c", true), at_once("d", true)];
    let Some(system) = system(4_000).env("BUNDLEHOOK_RETRY_SCHEDULE", "1s").start(&webhooks).await else {
        return;
    };
    system.window_start(1).await;
    system.publish(&[event("ws", "x", "1"), event("ws", "x", "2"), event("ws", "y", "3")]).await;
    let both_failed = |path: &'static str| move |request: &crate::support::Request| request.path == path;
    failing
        .wait_for(
            |seen| seen.iter().any(both_failed("/b")) && seen.iter().any(both_failed("/d")),
            "both to fail",
        )
        .await;

    system.settings(&[windowed("a", false), at_once("b", false)]).await;
    system.delete_webhook("c").await;
    system.delete_webhook("d").await;

    system.wait_done().await;
    assert_eq!(taking.requests().len(), 0);
    assert_eq!(
        system.aggregate.sum("bundlehook_messages_dropped_total{cause=\"owner\"}").await.to_string(),
        "6"
    );
    assert_eq!(
        system.deliver.sum("bundlehook_bundles_settled_total{result=\"dropped\"}").await.to_string(),
        "6"
    );
    assert_eq!(
        system.deliver.sum("bundlehook_bundles_settled_total{result=\"delivered\"}").await.to_string(),
        "0"
    );
}

#[tokio::test]
async fn what_is_in_force_outlives_the_compaction_of_its_record_where_the_latest_cannot_be_used() {
    let receiver = receiver(ok());
    let settings = |id: &str, url: &str| webhook(id, "ws", url, json!({"headers": {"x-key": "kept"}}));
    let setup = system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&[settings("wh", &receiver.url("/"))]).await else { return };
    system.settings(&[settings("wh", "ftp://hooks.example/")]).await;
    system
        .wait_records("webhook-states", |records| records.iter().any(|record| record.key() == "wh/in_force"))
        .await;
    let topic = system.topic("webhook-settings");
    let compacting = [
        ("cleanup.policy", "compact"),
        ("message.timestamp.type", "LogAppendTime"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.ms", "100"),
    ];
    system.kafka.configure_topic(&topic, &compacting).await;
    // The segment that is written to is never compacted.
    system.settings(&[webhook("other", "ws-other", &receiver.url("/other"), json!({}))]).await;
    wait_until("the usable settings to be compacted away", LIMIT, async || {
        system.records("webhook-settings").await.iter().filter(|record| record.key() == "wh").count() == 1
    })
    .await;

    for role in ["aggregate", "deliver"] {
        let running = if role == "aggregate" { &mut system.aggregate } else { &mut system.deliver };
        running.process.sigkill();
        running.process.wait_exit(LIMIT).await;
        system.restart(role).await;
    }
    system.publish(&[event("ws", "c", "m")]).await;

    let posts = receiver.wait_for(|requests| !requests.is_empty(), "the message").await;
    assert_eq!((message_ids(&posts[0]), posts[0].header("x-key")), (vec!["m".to_owned()], Some("kept")));
    let disabled = system.webhook(&["disable", "wh"]).await;
    assert!(disabled.status.success(), "an edit is based on what is in force: {disabled:?}");
    let record = system.records("webhook-settings").await.pop().expect("it was just published").json();
    assert_eq!((&record["enabled"], &record["url"]), (&json!(false), &json!(receiver.url("/"))));
}
