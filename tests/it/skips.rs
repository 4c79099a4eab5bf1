//! What does not count, and what can't be processed.

use serde_json::{Value, json};

use crate::support::{Outgoing, event, message_ids, ok, receiver, system, tenant, webhook};

#[tokio::test]
async fn what_does_not_count_is_skipped_and_counted_by_reason() {
    let receiver = receiver(ok());
    let webhooks = [
        webhook("on", "ws", &receiver.url("/"), json!({})),
        webhook("off", "ws-off", &receiver.url("/"), json!({"enabled": false})),
    ];
    let Some(system) = system(2_000).env("BUNDLEHOOK_MAX_AGE", "1h").start(&webhooks).await else { return };
    let changed = |id: &str, pointer: &str, value: Value| {
        let mut event = event("ws", "c", id);
        event["message"][pointer] = value;
        event
    };
    let mut without_text = event("ws", "c", "no-text");
    without_text["message"].as_object_mut().expect("it is an object").remove("text");

    system
        .publish(&[
            changed("photo", "attachments", json!([{"filename": "a.jpg"}])),
            changed("null-text", "text", Value::Null),
            changed("blank", "text", json!(" \n\u{a0}")),
            without_text,
            changed("old", "timestamp", json!("2021-02-24T16:25:29+0000")),
            event("ws-unknown", "c", "stranger"),
            event("ws-off", "c", "unwanted"),
            changed("emoji", "text", json!("🙂")),
            changed("no-photo", "attachments", json!([])),
            event("ws", "c", "no-photo"),
        ])
        .await;

    system.wait_done().await;
    let ids: Vec<_> = receiver.requests().iter().flat_map(message_ids).collect();
    assert_eq!(ids, ["emoji", "no-photo"]);
    let metrics = system.aggregate.process.metrics().await;
    for (reason, count) in [
        ("attachments", 1),
        ("empty_text", 3),
        ("too_old", 1),
        ("unknown_workspace", 1),
        ("no_enabled_webhook", 1),
        ("duplicate", 1),
    ] {
        let line = format!("bundlehook_events_skipped_total{{reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert!(metrics.contains("bundlehook_events_read_total 10\n"));
    assert!(metrics.contains("bundlehook_events_accepted_total 3\n"), "a repeat is known only later");
}

#[tokio::test]
async fn what_cannot_be_processed_goes_untouched_to_the_dead_letters_and_the_partition_goes_on() {
    let Some(tenant) = tenant().await else { return };
    let chat = format!("{}-chat", tenant.workspace);
    let mut wrong = tenant.event(&chat, "wrong");
    wrong["message"]["direction"] = 7.into();
    let mut incomplete = tenant.event(&chat, "incomplete");
    incomplete["chat"].as_object_mut().expect("it is an object").remove("chat_url");
    let (wrong, incomplete) = (wrong.to_string(), incomplete.to_string());
    let broken: [(&str, Option<&[u8]>, &str); 5] = [
        ("invalid_json", Some(b"{\"workspace_id\": "), ""),
        ("invalid_field", Some(wrong.as_bytes()), "`message.direction`"),
        ("missing_field", Some(incomplete.as_bytes()), "`chat.chat_url`"),
        ("invalid_utf8", Some(b"{\"workspace_id\": \"\xff\"}"), ""),
        ("null_value", None, ""),
    ];
    let records = broken.iter().map(|(_, value, _)| match value {
        Some(value) => Outgoing::new(&chat, value),
        None => Outgoing::tombstone(&chat),
    });
    let places = tenant.system.produce("message-events", records).await;
    tenant.system.publish(&[tenant.event(&chat, "good")]).await;

    assert_eq!(message_ids(&tenant.wait_posts("/none", 1).await[0]), ["good"]);
    let mine = |records: &[crate::support::Record]| {
        records.iter().filter(|record| record.key() == chat).cloned().collect::<Vec<_>>()
    };
    let letters = mine(&tenant.system.wait_records("dead-letters", |records| mine(records).len() >= 5).await);
    assert_eq!(letters.len(), 5);
    for ((letter, (reason, value, field)), (partition, offset)) in letters.iter().zip(broken).zip(places) {
        assert_eq!(letter.value.as_deref(), value, "{reason}");
        assert_eq!(letter.header("reason"), Some(reason));
        assert!(letter.header("detail").is_some_and(|detail| detail.contains(field)), "{letter:?}");
        assert_eq!(letter.header("topic"), Some(&*tenant.system.topic("message-events")));
        assert_eq!(letter.header("partition"), Some(&*partition.to_string()));
        assert_eq!(letter.header("offset"), Some(&*offset.to_string()));
        let series = format!("bundlehook_dead_letters_total{{reason=\"{reason}\"}}");
        assert!(tenant.system.aggregate.sum(&series).await >= 1.0);
    }
}

#[tokio::test]
async fn settings_that_cannot_be_used_become_a_dead_letter_and_the_former_stay_in_force() {
    let Some(tenant) = tenant().await else { return };
    let unusable = tenant.webhook("none", json!({"url": "ftp://hooks.example/"}));

    tenant.change(std::slice::from_ref(&unusable)).await;

    let id = tenant.webhook_id("none");
    let letters =
        tenant.system.wait_records("dead-letters", |records| records.iter().any(|r| r.key() == id)).await;
    let letter = letters.iter().find(|record| record.key() == id).expect("it was just seen");
    assert_eq!(letter.text(), unusable.to_string());
    assert_eq!(letter.header("reason"), Some("invalid_settings"));
    assert!(letter.header("detail").is_some_and(|detail| detail.contains("the scheme is `ftp`")));
    assert_eq!(letter.header("topic"), Some(&*tenant.system.topic("webhook-settings")));
    tenant.system.publish(&[tenant.event("c", "m")]).await;
    tenant.wait_posts("/none", 1).await;
}
