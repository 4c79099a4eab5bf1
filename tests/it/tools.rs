//! The tools `topics` and `produce` against Kafka.

use std::time::Duration;

use bundlehook::model::history::COUNTS_AFTER;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{self, Finished, Kafka, LIMIT, Launch, Record, TOPICS};

const EVENTS: &str = include_str!("../examples/events.jsonl");

/// A tool with its Kafka and prefix.
fn tool(name: &str, kafka: &Kafka, prefix: &str) -> Launch {
    support::process(name)
        .env("BUNDLEHOOK_KAFKA_BROKERS", kafka.servers())
        .env("BUNDLEHOOK_TOPIC_PREFIX", prefix)
}

async fn topics(kafka: &Kafka, prefix: &str, args: &[&str]) -> Finished {
    tool("topics", kafka, prefix).args(args.iter().copied()).run().await
}

async fn produce(kafka: &Kafka, prefix: &str, flag: &str, lines: &str) -> Finished {
    tool("produce", kafka, prefix).args([flag, "-"]).input(lines).run().await
}

/// The states of the topics as `topics` prints them.
fn states(finished: &Finished) -> Vec<(String, String, String)> {
    let rows = finished.stdout.lines().skip(1).take(TOPICS.len()).map(|line| {
        let cells: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let [topic, partitions, state] = cells.try_into().expect("three columns");
        (topic, partitions, state)
    });
    rows.collect()
}

#[track_caller]
fn assert_ended(finished: &Finished, code: i32) {
    let Finished { status, stdout, stderr } = finished;
    assert_eq!(status.code(), Some(code), "{stdout}\n{stderr}");
}

#[tokio::test]
async fn topics_are_created_and_then_all_is_well() {
    let Some(kafka) = support::kafka().await else { return };
    let prefix = kafka.prefix();

    let created = topics(kafka, &prefix, &["--partitions", "3"]).await;
    assert_ended(&created, 0);
    let several = [
        "message-events",
        "message-skips",
        "bundles",
        "waiting-deliveries",
        "delivery-attempts",
        "dead-letters",
    ];
    let expected = |state: &str| {
        let row = |topic: &str| {
            let partitions = if several.contains(&topic) { "3" } else { "1" };
            (format!("{prefix}{topic}"), partitions.to_owned(), state.to_owned())
        };
        TOPICS.map(row).to_vec()
    };
    assert_eq!(states(&created), expected("created"));

    for args in [&["--check"][..], &[]] {
        let checked = topics(kafka, &prefix, args).await;
        assert_ended(&checked, 0);
        assert_eq!(states(&checked), expected("ok"));
    }
}

#[tokio::test]
async fn a_check_creates_nothing() {
    let Some(kafka) = support::kafka().await else { return };
    let prefix = kafka.prefix();
    for _ in 0..2 {
        let checked = topics(kafka, &prefix, &["--check"]).await;
        assert_ended(&checked, 1);
        assert!(
            states(&checked)
                .iter()
                .all(|(_, partitions, state)| (&**partitions, &**state) == ("-", "missing"))
        );
        assert!(checked.stdout.contains("\n  bundlehook topics\n"), "{}", checked.stdout);
        assert!(checked.stderr.contains("12 topics are missing"), "{}", checked.stderr);
    }
}

#[tokio::test]
async fn what_differs_is_reported_and_what_is_missing_follows_what_is_there() {
    let Some(kafka) = support::kafka().await else { return };
    let prefix = kafka.prefix();
    let small = [
        ("message.timestamp.type", "CreateTime"),
        ("retention.ms", "3600000"),
        ("max.message.bytes", "1048576"),
    ];
    kafka.create_topic(&format!("{prefix}message-events"), 5, &small).await;
    kafka.create_topic(&format!("{prefix}bundles"), 2, &[]).await;

    let finished = topics(kafka, &prefix, &["--partitions", "3"]).await;

    assert_ended(&finished, 1);
    let state = |topic: &str| {
        let row = states(&finished).into_iter().find(|(name, ..)| *name == format!("{prefix}{topic}"));
        row.map(|(_, partitions, state)| format!("{partitions} {state}")).expect("every topic has a row")
    };
    assert_eq!(state("message-events"), "5 differs");
    assert_eq!(state("bundles"), "2 differs");
    assert_eq!(state("waiting-deliveries"), "5 created");
    assert_eq!(state("delivery-attempts"), "5 created");
    assert_eq!(state("dead-letters"), "3 created");
    let differences: Vec<String> = finished
        .stdout
        .lines()
        .skip_while(|line| !line.contains("SHOULD HAVE"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let expected = [
        "message-events message.timestamp.type CreateTime LogAppendTime",
        "message-events retention.ms 3600000 (1h) at least 172800000 (2days)",
        "bundles partitions 2 at least 5",
        "bundles message.timestamp.type CreateTime LogAppendTime",
        "bundles retention.ms 604800000 (7days) at least 1209600000 (14days)",
    ];
    assert_eq!(differences, expected.map(|row| format!("{prefix}{row}")));
    let remedy = format!(
        "--entity-name {prefix}message-events --add-config message.timestamp.type=LogAppendTime,retention.ms=172800000\n"
    );
    assert!(finished.stdout.contains(&remedy), "{}", finished.stdout);
    assert!(finished.stderr.contains("5 settings differ"), "{}", finished.stderr);
}

#[tokio::test]
async fn events_are_published_as_they_stand_to_the_partition_that_java_clients_choose() {
    let Some(kafka) = support::kafka().await else { return };
    let prefix = kafka.prefix();
    let topic = format!("{prefix}message-events");
    kafka.create_topic(&topic, 7, &[]).await;

    let finished = produce(kafka, &prefix, "--file", &format!("{EVENTS}\r\n\n")).await;

    assert_ended(&finished, 0);
    assert!(
        finished.stdout.starts_with(&format!("published 5 events to {topic} in ")),
        "{}",
        finished.stdout
    );
    assert_eq!(finished.stderr, "", "no progress bar on a pipe");
    let records = support::read_topic(kafka.servers(), &topic).await;
    let of =
        |key: &str| records.iter().filter(|record| record.key() == key).map(Record::text).collect::<Vec<_>>();
    let lines: Vec<&str> = EVENTS.lines().collect();
    assert_eq!(of("10010001"), [lines[0], lines[1], lines[2], lines[4]], "in their order");
    assert_eq!(of("10010002"), [lines[3]]);
    // By the murmur2 of Kafka's Java clients, computed apart.
    let partitions = [("10010001", 3), ("10010002", 6)];
    for record in &records {
        assert!(
            partitions.contains(&(record.key(), record.partition)),
            "{} in {}",
            record.key(),
            record.partition
        );
    }
}

#[tokio::test]
async fn a_wrong_line_keeps_every_line_from_being_published() {
    let Some(kafka) = support::kafka().await else { return };
    let prefix = kafka.prefix();
    let topic = format!("{prefix}message-events");
    kafka.create_topic(&topic, 1, &[]).await;

    let finished = produce(kafka, &prefix, "--file", &format!("{EVENTS}\n{{}}")).await;

    assert_ended(&finished, 1);
    assert!(finished.stderr.contains("\n  line 7: `workspace_id` is missing or null"), "{}", finished.stderr);
    assert_eq!(support::end_offsets(kafka.servers(), &topic).await, [0]);
}

#[tokio::test]
async fn settings_are_published_and_waited_for_until_they_count() {
    let Some(kafka) = support::kafka().await else { return };
    let prefix = kafka.prefix();
    let topic = format!("{prefix}webhook-settings");
    kafka.create_topic(&topic, 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let owner = json!({"full_name": "A", "email": "a@x.example"});
    let settings =
        json!({"webhook_id": "wh-1", "workspace_id": "ws", "url": "https://x.example/", "owner": owner});
    let lines = format!("{settings}\n{}\n", json!({"webhook_id": "wh-2", "deleted": true}));

    let finished = produce(kafka, &prefix, "--settings", &lines).await;
    let ended = bundlehook::io::clock::now();

    assert_ended(&finished, 0);
    let said: Vec<&str> = finished.stdout.lines().collect();
    assert!(said[0].starts_with(&format!("published 2 webhook settings to {topic} in ")), "{said:?}");
    assert_eq!(said[1..], ["they count for messages that arrive from now on"]);
    let records = support::read_topic(kafka.servers(), &topic).await;
    assert_eq!((records[0].key(), records[0].text()), ("wh-1", &*settings.to_string()));
    assert_eq!((records[1].key(), &records[1].value), ("wh-2", &None));
    let waited = ended.0 - records[1].timestamp;
    assert!(waited >= COUNTS_AFTER.as_millis() as i64, "they count after {waited} ms");
}

#[tokio::test]
async fn a_missing_topic_is_named_with_its_remedy() {
    let Some(kafka) = support::kafka().await else { return };
    let prefix = kafka.prefix();
    for (flag, lines, topic) in [
        ("--file", EVENTS, "message-events"),
        ("--settings", r#"{"webhook_id":"w","deleted":true}"#, "webhook-settings"),
    ] {
        let finished = produce(kafka, &prefix, flag, lines).await;
        assert_ended(&finished, 1);
        let expected = format!("topic `{prefix}{topic}` does not exist");
        assert!(
            finished.stderr.contains(&expected) && finished.stderr.contains("`bundlehook topics`"),
            "{}",
            finished.stderr
        );
    }
}

#[tokio::test]
async fn a_record_that_the_topic_refuses_is_a_failure_that_names_its_line() {
    let Some(kafka) = support::kafka().await else { return };
    let prefix = kafka.prefix();
    let topic = format!("{prefix}message-events");
    kafka.create_topic(&topic, 1, &[("max.message.bytes", "2000")]).await;
    let mut large: serde_json::Value =
        serde_json::from_str(EVENTS.lines().next().expect("there are examples")).unwrap();
    // No text that compression makes small enough.
    let text: String = (0..400).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
    large["message"]["text"] = text.into();

    let finished = produce(kafka, &prefix, "--file", &large.to_string()).await;

    assert_ended(&finished, 1);
    for part in ["line 1 could not be published", "Message size too large", "published 0 of 1 event"] {
        assert!(finished.stderr.contains(part), "`{part}` is not in: {}", finished.stderr);
    }
}

#[tokio::test]
async fn a_rate_is_kept_and_an_interruption_says_what_was_published() {
    let Some(kafka) = support::kafka().await else { return };
    let prefix = kafka.prefix();
    let topic = format!("{prefix}message-events");
    kafka.create_topic(&topic, 3, &[]).await;
    let lines = format!("{EVENTS}\n").repeat(1000);

    let producing =
        tool("produce", kafka, &prefix).args(["--file", "-", "--rate", "50"]).input(lines).start();
    support::wait_until("records to arrive", LIMIT, async || {
        support::end_offsets(kafka.servers(), &topic).await.iter().sum::<i64>() >= 20
    })
    .await;
    producing.signal(Signal::SIGINT);

    assert_eq!(producing.wait_exit(Duration::from_secs(10)).await.code(), Some(1));
    let published = support::end_offsets(kafka.servers(), &topic).await.iter().sum::<i64>();
    assert!(published < 1000, "{published} within so short a time");
    let expected = format!("stopped; published {published} of 5000 events to {topic}");
    assert!(producing.stderr().contains(&expected), "{expected} is not in: {}", producing.stderr());
}
