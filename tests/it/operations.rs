//! What operators see of a process.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{
    HeldPort, LIMIT, RedisKind, event, kafka, ok, process, receiver, redis, system, wait_until, webhook,
};

#[tokio::test]
async fn a_process_without_its_brokers_is_alive_but_not_ready() {
    let nobody = HeldPort::new();
    let waiting = process("deliver")
        .env("BUNDLEHOOK_KAFKA_BROKERS", nobody.addr().to_string())
        .env("BUNDLEHOOK_REDIS_URL", format!("redis://{}", nobody.addr()))
        .start();

    wait_until("it to answer", LIMIT, async || waiting.get("/livez").await.is_ok()).await;

    assert_eq!(waiting.get("/livez").await.expect("it answers"), (200, "ok\n".to_owned()));
    let (status, said) = waiting.get("/readyz").await.expect("it answers");
    assert_eq!((status, &*said), (503, "the log of settings has not been read yet\n"));
    assert_eq!(waiting.get("/elsewhere").await.expect("it answers").0, 404);
    waiting.sigterm();
    assert!(waiting.wait_exit(LIMIT).await.success());
}

#[tokio::test]
async fn the_metrics_have_these_names_types_and_texts() {
    let receiver = receiver(ok());
    let windowed = webhook("windowed", "ws", &receiver.url("/"), json!({"granularity": "1h"}));
    let at_once = webhook("at-once", "ws", &receiver.url("/"), json!({}));
    let Some(system) = system(1_000).start(&[windowed, at_once]).await else { return };
    system.publish(&[event("ws", "c", "1")]).await;
    system.wait_done().await;

    let mut described = BTreeSet::new();
    for role in [&system.aggregate, &system.deliver] {
        assert_eq!(role.process.get("/livez").await.expect("it answers").0, 200);
        assert_eq!(role.process.get("/readyz").await.expect("it answers").0, 200);
        let page = role.process.metrics().await;
        let comments = page.lines().filter(|line| line.starts_with('#'));
        described.extend(comments.map(|line| {
            let mut words = line.splitn(4, ' ').skip(1);
            let (what, name, text) = (words.next(), words.next(), words.next());
            format!("{} {}: {}", name.unwrap_or_default(), what.unwrap_or_default(), text.unwrap_or_default())
        }));
        for private in ["ws", "windowed", "at-once", "127.0.0.1"] {
            assert!(!page.contains(&format!("=\"{private}")), "`{private}` in {page}");
        }
    }
    insta::assert_snapshot!(described.into_iter().collect::<Vec<_>>().join("\n"));
}

#[tokio::test]
async fn a_topic_whose_arrivals_are_not_the_brokers_is_refused_with_the_remedy() {
    let Some(kafka) = kafka().await else { return };
    let redis = redis(RedisKind::Single).await;
    let prefix = kafka.prefix();
    let wrong = [("message.timestamp.type", "CreateTime"), ("retention.ms", "3600000")];
    kafka.create_topic(&format!("{prefix}message-events"), 1, &wrong).await;
    kafka.create_topic(&format!("{prefix}bundles"), 1, &[]).await;

    let refused = process("aggregate")
        .env("BUNDLEHOOK_KAFKA_BROKERS", kafka.servers())
        .env("BUNDLEHOOK_REDIS_URL", redis.url())
        .env("BUNDLEHOOK_TOPIC_PREFIX", &prefix)
        .run()
        .await;

    assert_eq!(refused.status.code(), Some(1));
    for part in [
        "message-events` has message.timestamp.type CreateTime, expected LogAppendTime",
        "retention.ms 3600000",
        "kafka-configs.sh",
        "message.timestamp.type=LogAppendTime",
    ] {
        assert!(refused.stderr.contains(part), "{part} in {}", refused.stderr);
    }
}

/// Each of these would lose messages, or stop a partition for good.
#[tokio::test]
async fn topics_that_would_lose_messages_keep_the_roles_that_use_them_from_starting() {
    let Some(kafka) = kafka().await else { return };
    let redis = redis(RedisKind::Single).await;
    let launch = |tool: &str, prefix: &str| {
        process(tool)
            .env("BUNDLEHOOK_KAFKA_BROKERS", kafka.servers())
            .env("BUNDLEHOOK_REDIS_URL", redis.url())
            .env("BUNDLEHOOK_TOPIC_PREFIX", prefix)
    };
    for (role, topic, setting, parts) in [
        (
            "aggregate",
            "message-events",
            ("cleanup.policy", "compact"),
            ["cleanup.policy compact", "cleanup.policy=delete"],
        ),
        (
            "aggregate",
            "bundles",
            ("retention.bytes", "1000000"),
            ["retention.bytes 1000000", "retention.bytes=-1"],
        ),
        (
            "deliver",
            "bundles",
            ("max.message.bytes", "1000000"),
            ["max.message.bytes 1000000", "max.message.bytes="],
        ),
        (
            "deliver",
            "waiting-deliveries",
            ("cleanup.policy", "delete"),
            ["cleanup.policy delete", "cleanup.policy=compact"],
        ),
    ] {
        let prefix = kafka.prefix();
        let made = launch("topics", &prefix).arg("--partitions=1").run().await;
        assert!(made.status.success(), "{made:?}");
        kafka.configure_topic(&format!("{prefix}{topic}"), &[setting]).await;
        let refused = launch(role, &prefix).run().await;
        assert_eq!(refused.status.code(), Some(1), "{topic}, {setting:?}: {}", refused.stderr);
        for part in parts.into_iter().chain(["kafka-configs.sh"]) {
            assert!(refused.stderr.contains(part), "{topic}: `{part}` is not in {}", refused.stderr);
        }
    }
    let prefix = kafka.prefix();
    assert!(launch("topics", &prefix).arg("--partitions=1").run().await.status.success());
    kafka.grow_topic(&format!("{prefix}message-events"), 2).await;
    let refused = launch("aggregate", &prefix).run().await;
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    for part in ["bundles` has partitions 1", "kafka-topics.sh", "--partitions 2"] {
        assert!(refused.stderr.contains(part), "`{part}` is not in {}", refused.stderr);
    }
}
