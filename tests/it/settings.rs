//! Settings that change while messages flow.

use serde_json::json;

use crate::support::{event, message_ids, ok, receiver, status, system, webhook};

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
