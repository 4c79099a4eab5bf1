//! A webhook whose id comes to belong to another workspace, which sees nothing of what was.

use serde_json::{Value, json};

use crate::commands::start;
use crate::support::{Console, LIMIT, event, ok, receiver, token, wait_until, webhook};

/// Waits until the change log of a workspace says these things, oldest first.
async fn wait_changes(console: &Console, workspace: &str, whats: &[&str]) -> Vec<Value> {
    let mut found = Vec::new();
    wait_until(&format!("the changes of {workspace} to be {whats:?}"), LIMIT, async || {
        let token = token(workspace, "viewer");
        let log = console.call("GET", "/api/v1/changes?webhook_id=wh", &token, &Value::Null).await.json();
        found.clone_from(log.as_array().expect("it is a list"));
        found.iter().rev().map(|change| change["what"].as_str().expect("a text")).eq(whats.iter().copied())
    })
    .await;
    found
}

#[tokio::test]
async fn statistics_log_and_changes_are_those_of_the_workspace_that_has_the_webhook() {
    let target = receiver(ok());
    let more = json!({"label": "Of the first\u{1b}[2J\nforged by nobody"});
    let Some(system) = start(&target, more, "1s").await else { return };
    let console = system.console(&[]).await;
    let mut photo = event("ws", "c", "photo");
    photo["message"]["attachments"] = json!([{}]);
    system.publish(&[event("ws", "c", "1"), photo]).await;
    wait_until("what was counted", LIMIT, async || {
        let shown = console.get("/api/v1/webhooks/wh").await;
        shown["deliveries"] == 1 && shown["skipped"]["attachments"] == 1
    })
    .await;
    wait_changes(&console, "ws", &["created"]).await;
    let text = console
        .call("GET", "/api/v1/changes/download?format=text", &token("ws", "viewer"), &Value::Null)
        .await;
    assert_eq!(text.text().lines().filter(|line| !line.starts_with(' ')).count(), 1, "{}", text.text());
    assert!(!text.text().contains('\u{1b}'), "{}", text.text());

    // It moves, and is deleted and made anew by a third.
    let url = "https://hooks.example/";
    system.settings(&[webhook("wh", "second", url, json!({"label": "Of the second"}))]).await;
    let created = wait_changes(&console, "second", &["created"]).await;
    assert!(!created[0].to_string().contains("first"), "{}", created[0]);
    wait_changes(&console, "ws", &["created", "deleted"]).await;
    system.delete_webhook("wh").await;
    wait_changes(&console, "second", &["created", "deleted"]).await;
    system.settings(&[webhook("wh", "third", url, json!({}))]).await;
    wait_changes(&console, "third", &["created"]).await;

    let third = token("third", "editor");
    let shown = console.call("GET", "/api/v1/webhooks/wh", &third, &Value::Null).await.json();
    assert_eq!((&shown["deliveries"], &shown["last_attempt"]), (&json!(0), &Value::Null), "{shown}");
    assert_eq!(shown["skipped"], json!({}));
    let statistics = console.call("GET", "/api/v1/webhooks/wh/statistics", &third, &Value::Null).await.json();
    assert_eq!(
        (&statistics["deliveries"], &statistics["last_response"]),
        (&json!(0), &Value::Null),
        "{statistics}"
    );
    let log = console.call("GET", "/api/v1/webhooks/wh/log?count=100", &third, &Value::Null).await.json();
    assert_eq!(log, json!([]));
}
