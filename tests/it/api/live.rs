//! The stream of events.

use serde_json::json;

use crate::commands::{events, start};
use crate::support::{LIMIT, ok, receiver, token};

#[tokio::test]
async fn attempts_and_changes_are_told_to_those_whose_they_are() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    let editor = token("ws", "editor");
    let told = console.listen(&editor).await;
    system.publish(&events(0..1)).await;
    let text = told.wait_for("event: attempt").await;
    assert!(text.contains(r#"data: {"webhook_id":"wh"}"#), "{text}");
    // By then the log shows it.
    assert_eq!(console.get("/api/v1/webhooks/wh/log").await.as_array().map(Vec::len), Some(1));

    let told = console.listen(&token("other", "viewer")).await;
    system.publish(&events(1..2)).await;
    let other = crate::support::webhook("wh-other", "other", "http://127.0.0.1:9/", json!({}));
    system.settings(std::slice::from_ref(&other)).await;
    crate::support::wait_until("it to be known", LIMIT, async || {
        let path = "/api/v1/webhooks/wh-other";
        console.call("GET", path, &token("other", "viewer"), &json!(null)).await.status == 200
    })
    .await;
    system.settings(&[other]).await;
    let text = told.wait_for("wh-other").await;
    assert!(!text.contains(r#""wh""#), "{text}");
}
