//! Dead letters: listed, shown, and published again.

use serde_json::{Value, json};

use crate::support::{
    self, Finished, LIMIT, Outgoing, System, event, message_ids, ok, receiver, system, wait_until, webhook,
};

async fn dead_letters(system: &System, args: &[&str]) -> Finished {
    support::process("dead-letters")
        .args(args.iter().copied())
        .env("BUNDLEHOOK_KAFKA_BROKERS", system.kafka.servers())
        .env("BUNDLEHOOK_TOPIC_PREFIX", &system.prefix)
        .run()
        .await
}

async fn listed(system: &System, args: &[&str]) -> Vec<Value> {
    let finished = dead_letters(system, &[&["list", "--json"], args].concat()).await;
    assert!(finished.status.success(), "{finished:?}");
    serde_json::from_str(&finished.stdout).expect("it is JSON")
}

#[track_caller]
fn assert_refused(finished: &Finished, part: &str) {
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert!(finished.stderr.contains(part), "`{part}` is not in {finished:?}");
}

/// A dead letter as the roles write it.
fn letter(system: &System, offset: i64, value: &str) -> Outgoing {
    Outgoing::new("chat", value)
        .header("reason", "invalid_field")
        .header("detail", "`message.direction` is `in`, expected `sent` or `received`")
        .header("topic", system.topic("message-events"))
        .header("partition", "0")
        .header("offset", offset.to_string())
        .header("arrived-at", "1614184882000")
}

#[tokio::test]
async fn what_could_not_be_processed_is_listed_shown_and_published_again() {
    let customer = receiver(ok());
    let webhooks = [webhook("wh", "ws", &customer.url("/"), json!({}))];
    let Some(system) = system(2_000).start(&webhooks).await else { return };
    let binary = b"\xff\x1b[2J";
    system
        .produce(
            "message-events",
            [Outgoing::new("chat", "{\"no\""), Outgoing::new("chat", binary), Outgoing::tombstone("chat")],
        )
        .await;
    system.produce("webhook-settings", [Outgoing::new("wh-2", "{}")]).await;
    wait_until("four dead letters", LIMIT, async || listed(&system, &[]).await.len() == 4).await;

    let all = listed(&system, &[]).await;
    assert!(all.is_sorted_by_key(|letter| letter["at"].as_i64()), "the newest last: {all:?}");
    let of = |reason: &str| all.iter().find(|letter| letter["reason"] == reason).expect("it is listed");
    assert_eq!(of("invalid_utf8")["source_offset"], 1);
    assert_eq!(listed(&system, &["--reason", "null_value"]).await, [of("null_value").clone()]);
    assert_eq!(listed(&system, &["--topic", "webhook-settings"]).await, [of("invalid_settings").clone()]);
    assert_eq!(listed(&system, &["--since", "2100-01-01T00:00:00Z"]).await, [Value::Null; 0]);
    assert_eq!(listed(&system, &["--limit", "1"]).await, [all[3].clone()]);
    let table = dead_letters(&system, &["list"]).await.stdout;
    assert!(table.contains("invalid_utf8") && table.contains("4 of 4 dead letters"), "{table}");

    let place = format!("{}/{}", of("invalid_utf8")["partition"], of("invalid_utf8")["offset"]);
    for named in [&*place, "message-events/0/1"] {
        let shown = dead_letters(&system, &["show", named]).await.stdout;
        assert!(shown.contains("value (5 bytes, not UTF-8)\n\\xff\\u{1b}[2J\n"), "{shown}");
        assert!(shown.contains("invalid_utf8") && !shown.contains('\u{1b}'), "{shown}");
    }
    assert_refused(
        &dead_letters(&system, &["show", "message-events/0/99"]).await,
        "no dead letter is, or came from",
    );
    assert_refused(&dead_letters(&system, &["show", "7/0"]).await, "has 1 partitions");

    let end = support::end_offsets(system.kafka.servers(), &system.topic("message-events")).await;
    let places = ["redrive", "message-events/0/0"];
    assert_refused(&dead_letters(&system, &["redrive"]).await, "say which dead letters");
    assert_refused(&dead_letters(&system, &["redrive", "--reason", "nonsense"]).await, "is no reason");
    assert_refused(
        &dead_letters(&system, &["redrive", "--until", "2000-01-01T00:00:00Z"]).await,
        "no dead letter fits",
    );
    assert_refused(
        &dead_letters(&system, &["redrive", "--topic", "webhook-settings"]).await,
        "no dead letter fits",
    );
    assert_refused(
        &dead_letters(&system, &["redrive", "0/99", "message-events/0/0"]).await,
        "`0/99`; nothing was published",
    );
    let settings = format!("{}/{}", of("invalid_settings")["partition"], of("invalid_settings")["offset"]);
    assert_refused(
        &dead_letters(&system, &["redrive", &settings]).await,
        "only messages can be published again",
    );
    let dry = dead_letters(&system, &[&places[..], &["--dry-run"]].concat()).await;
    assert_eq!(dry.stdout, format!("would publish 1 to {}\n", system.topic("message-events")));
    assert_eq!(support::end_offsets(system.kafka.servers(), &system.topic("message-events")).await, end);

    let done = dead_letters(&system, &["redrive", "--all"]).await;
    assert!(done.status.success() && done.stdout.contains("published 2 to"), "{done:?}");
    for part in ["left alone: 1, not from the topic of messages", "left alone: 1, without a value"] {
        assert!(done.stdout.contains(part), "{done:?}");
    }
    let records = system.records("message-events").await;
    let [first, second] = &records[3..] else { panic!("{records:?}") };
    let mut values = [first.value.clone(), second.value.clone()];
    values.sort();
    assert_eq!(values, [Some(b"{\"no\"".to_vec()), Some(binary.to_vec())]);
    assert_eq!((first.key(), second.key()), ("chat", "chat"));
    assert!(
        first.header("redriven-from").is_some_and(|from| from.starts_with(&system.topic("dead-letters/0/")))
    );
}

#[tokio::test]
async fn a_message_that_a_later_release_understands_reaches_its_webhook_once() {
    let customer = receiver(ok());
    let webhooks = [webhook("wh", "ws", &customer.url("/"), json!({}))];
    let Some(system) = system(2_000).start(&webhooks).await else { return };
    let value = event("ws", "chat", "m-1").to_string();
    // The same record twice, as a crash leaves it.
    system.produce("dead-letters", [letter(&system, 5, &value), letter(&system, 5, &value)]).await;

    let done = dead_letters(&system, &["redrive", "--reason", "invalid_field"]).await;

    assert!(done.status.success() && done.stdout.contains("published 1 to"), "{done:?}");
    assert!(done.stdout.contains("left alone: 1, the same record as another dead letter"), "{done:?}");
    customer.wait_for(|requests| !requests.is_empty(), "the message").await;
    system.wait_done().await;
    assert_eq!(message_ids(&customer.requests()[0]), ["m-1"]);
    assert_eq!(customer.requests().len(), 1);
}
