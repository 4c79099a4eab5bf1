//! The tools that look: `doctor` and `inspect`.

use serde_json::{Value, json};

use crate::support::{
    self, Finished, Kafka, LIMIT, Launch, Outgoing, Redis, RedisKind, event, produce, receiver, redis,
    redis_with, refuse, system, wait_until, webhook,
};

/// Redis as it should be.
const SAFE: [&str; 4] = ["--appendonly", "yes", "--maxmemory", "100mb"];

fn doctor(kafka: &str, redis: &str, prefix: &str) -> Launch {
    support::process("doctor")
        .arg("--json")
        .env("BUNDLEHOOK_KAFKA_BROKERS", kafka)
        .env("BUNDLEHOOK_REDIS_URL", redis)
        .env("BUNDLEHOOK_REDIS_TIMEOUT", "2s")
        .env("BUNDLEHOOK_TOPIC_PREFIX", prefix)
}

async fn examine(kafka: &Kafka, redis: &Redis, prefix: &str) -> Report {
    Report::of(&doctor(kafka.servers(), &redis.url(), prefix).run().await)
}

/// What `doctor` says.
#[derive(Debug)]
struct Report {
    code: Option<i32>,
    checks: Vec<Value>,
}

impl Report {
    fn of(finished: &Finished) -> Self {
        let report: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished:?}"));
        let checks = report["checks"].as_array().expect("checks are a list").clone();
        Self { code: finished.status.code(), checks }
    }

    #[track_caller]
    fn check(&self, name: &str) -> &Value {
        let found = self.checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("no check `{name}` in {self:#?}"))
    }

    /// A check has this level, and says these things.
    #[track_caller]
    fn says(&self, name: &str, level: &str, parts: &[&str]) {
        let check = self.check(name);
        assert_eq!(check["level"], level, "{check:#}");
        let text = check.to_string();
        for part in parts {
            assert!(text.contains(part), "`{part}` is not in {check:#}");
        }
    }
}

async fn topics(kafka: &Kafka, prefix: &str) {
    let made = support::process("topics")
        .arg("--partitions=2")
        .env("BUNDLEHOOK_KAFKA_BROKERS", kafka.servers())
        .env("BUNDLEHOOK_TOPIC_PREFIX", prefix)
        .run()
        .await;
    assert!(made.status.success(), "{made:?}");
    for topic in ["message-events", "bundles", "waiting-deliveries", "delivery-attempts", "dead-letters"] {
        kafka.wait_for_leaders(&format!("{prefix}{topic}"), 2).await;
    }
    for topic in [
        "webhook-settings",
        "webhook-states",
        "webhook-health",
        "webhook-changes",
        "webhook-events",
        "notifications",
    ] {
        kafka.wait_for_leaders(&format!("{prefix}{topic}"), 1).await;
    }
}

#[tokio::test]
async fn a_sound_deployment_has_only_the_warnings_of_a_single_broker() {
    let Some(kafka) = support::kafka().await else { return };
    let (prefix, redis) = (kafka.prefix(), redis_with(RedisKind::Single, &SAFE).await);
    topics(kafka, &prefix).await;

    let report = examine(kafka, &redis, &prefix).await;

    let failed: Vec<_> = report.checks.iter().filter(|check| check["level"] == "fail").collect();
    assert_eq!((report.code, failed), (Some(1), vec![]));
    let warned: Vec<_> =
        report.checks.iter().filter(|check| check["level"] == "warn").map(|c| &c["name"]).collect();
    let groups = ["aggregate", "deliver", "notify"].map(|role| format!("group {prefix}bundlehook-{role}"));
    assert_eq!(warned, ["kafka", "replicas", &groups[0], &groups[1], &groups[2]]);
    assert!(report.checks.iter().all(|check| (check["level"] == "ok") == check["remedy"].is_null()));
}

#[tokio::test]
async fn topics_that_lose_messages_are_failures_with_their_remedy() {
    let Some(kafka) = support::kafka().await else { return };
    let (prefix, redis) = (kafka.prefix(), redis_with(RedisKind::Single, &SAFE).await);
    let wrong = [("message.timestamp.type", "CreateTime"), ("retention.ms", "3600000")];
    kafka.create_topic(&format!("{prefix}message-events"), 3, &wrong).await;
    kafka.create_topic(&format!("{prefix}bundles"), 2, &[("max.message.bytes", "1000000")]).await;
    kafka.create_topic(&format!("{prefix}delivery-attempts"), 3, &[("retention.ms", "1000")]).await;
    kafka.create_topic(&format!("{prefix}waiting-deliveries"), 3, &[("cleanup.policy", "delete")]).await;
    kafka.create_topic(&format!("{prefix}webhook-settings"), 1, &[]).await;

    let report = examine(kafka, &redis, &prefix).await;

    assert_eq!(report.code, Some(2));
    let topic = |name: &str| format!("topic {prefix}{name}");
    let parts = [
        "message.timestamp.type CreateTime",
        "retention.ms 3600000 (1h)",
        "at least 172800000 (2days)",
        "kafka-configs.sh",
        "message.timestamp.type=LogAppendTime,retention.ms=172800000",
    ];
    report.says(&topic("message-events"), "fail", &parts);
    let parts = [
        "partitions 2",
        "at least 3",
        "kafka-topics.sh",
        "max.message.bytes",
        "at most one more POST in the window",
    ];
    report.says(&topic("bundles"), "fail", &parts);
    report.says(&topic("waiting-deliveries"), "fail", &["cleanup.policy delete", "cleanup.policy=compact"]);
    report.says(&topic("delivery-attempts"), "warn", &["retention.ms 1000"]);
    report.says(&topic("webhook-settings"), "warn", &["cleanup.policy", "min.compaction.lag.ms"]);
    report.says(&topic("dead-letters"), "fail", &["missing", "bundlehook topics"]);
}

#[tokio::test]
async fn a_redis_that_throws_things_away_is_a_failure() {
    let Some(kafka) = support::kafka().await else { return };
    let prefix = kafka.prefix();
    topics(kafka, &prefix).await;
    let redis =
        redis_with(RedisKind::Single, &["--maxmemory-policy", "allkeys-lru", "--maxmemory", "1mb"]).await;

    let report = examine(kafka, &redis, &prefix).await;

    assert_eq!(report.code, Some(2));
    report.says("redis maxmemory-policy", "fail", &["allkeys-lru", "CONFIG SET maxmemory-policy noeviction"]);
    report.says("redis persistence", "warn", &["none", "appendonly yes"]);
    assert_ne!(report.check("redis memory")["level"], "ok");
    report.says("redis", "ok", &["master"]);
}

#[tokio::test]
async fn what_is_away_is_the_one_finding_and_the_rest_is_still_examined() {
    let Some(kafka) = support::kafka().await else { return };
    let (prefix, redis) = (kafka.prefix(), redis_with(RedisKind::Single, &SAFE).await);
    topics(kafka, &prefix).await;
    let away = support::HeldPort::new();

    let url = format!("redis://{}/", away.addr());
    let report = Report::of(&doctor(kafka.servers(), &url, &prefix).run().await);
    assert_eq!(report.code, Some(2));
    report.says("redis", "fail", &["Connection refused", "BUNDLEHOOK_REDIS_URL"]);
    report.says(&format!("topic {prefix}bundles"), "ok", &[]);

    let report = Report::of(&doctor(&away.addr().to_string(), &redis.url(), &prefix).run().await);
    assert_eq!(report.code, Some(2));
    report.says("kafka", "fail", &["no broker of", "BUNDLEHOOK_KAFKA_BROKERS"]);
    report.says("redis maxmemory-policy", "ok", &[]);
}

#[tokio::test]
async fn settings_that_can_not_be_used_and_too_many_webhooks_are_named() {
    let Some(kafka) = support::kafka().await else { return };
    let (prefix, redis) = (kafka.prefix(), redis_with(RedisKind::Single, &SAFE).await);
    topics(kafka, &prefix).await;
    let settings =
        |n: usize| webhook(&format!("wh-{n}"), "ws-big", "https://hooks.example/", json!({})).to_string();
    let records = (0..11).map(|n| Outgoing::new(format!("wh-{n}"), settings(n)));
    let topic = format!("{prefix}webhook-settings");
    produce(kafka.servers(), &topic, records).await;
    produce(kafka.servers(), &topic, [Outgoing::new("wh-bad", "{}"), Outgoing::tombstone("wh-10")]).await;
    produce(kafka.servers(), &topic, [Outgoing::new("wh-11", settings(12))]).await;

    let report = examine(kafka, &redis, &prefix).await;
    report.says(
        "webhook settings",
        "warn",
        &["12 webhooks, 10 switched on, 2 unusable", "`wh-bad`", "`wh-11`"],
    );
    report.says("webhooks a workspace", "ok", &["at most 10 webhooks in one"]);

    produce(kafka.servers(), &topic, [Outgoing::new("wh-10", settings(10))]).await;
    let report = examine(kafka, &redis, &prefix).await;
    report.says("webhooks a workspace", "warn", &["`ws-big` (11)"]);
    report.says("webhook settings by partition", "ok", &[]);

    kafka.grow_topic(&topic, 2).await;
    let moved = Outgoing::new("wh-3", settings(3)).partition(1);
    support::produce_afresh(kafka.servers(), &topic, [moved]).await;
    let report = examine(kafka, &redis, &prefix).await;
    report.says("webhook settings by partition", "fail", &["`wh-3`"]);
}

#[tokio::test]
async fn offsets_of_another_topic_or_program_are_told() {
    let Some(kafka) = support::kafka().await else { return };
    let (prefix, redis) = (kafka.prefix(), redis_with(RedisKind::Single, &SAFE).await);
    topics(kafka, &prefix).await;
    let (events, bundles) = (format!("{prefix}message-events"), format!("{prefix}bundles"));
    let (aggregate, deliver) =
        (format!("{prefix}bundlehook-aggregate"), format!("{prefix}bundlehook-deliver"));
    let rules = json!([{"from": 0, "hour_ms": 3_600_000, "grace_ms": 60_000, "part_messages": 1000,
        "part_bytes": 524_288, "max_age_ms": 0}]);
    let metadata = json!({"v": 1, "topic": "another", "token": uuid::Uuid::nil(), "none": 0, "parts": 0,
        "closings": null, "boundaries": [], "rules": rules});
    support::commit(kafka.servers(), &aggregate, &events, 0, 7, &metadata.to_string()).await;
    support::commit(kafka.servers(), &deliver, &bundles, 0, 0, "of another program").await;
    let metadata = json!({"v": 1, "token": uuid::Uuid::nil(), "topic": null, "none": null, "parts": null,
        "closings": null, "attempts": 0});
    support::commit(kafka.servers(), &deliver, &bundles, 1, 99, &metadata.to_string()).await;

    let report = examine(kafka, &redis, &prefix).await;

    assert_eq!(report.code, Some(2));
    let parts = ["partition 0: the committed offset is of a former topic", "partition 1: new"];
    report.says(&format!("group {aggregate}"), "warn", &parts);
    let parts = [
        "partition 0: the metadata of the committed offset is unusable",
        "partition 1: the committed offset lies above",
    ];
    report.says(&format!("group {deliver}"), "fail", &parts);
}

/// Runs `inspect`.
async fn inspect(system: &support::System, args: &[&str]) -> Finished {
    support::process("inspect")
        .args(args.iter().copied())
        .env("BUNDLEHOOK_KAFKA_BROKERS", system.kafka.servers())
        .env("BUNDLEHOOK_REDIS_URL", system.redis.url())
        .env("BUNDLEHOOK_TOPIC_PREFIX", &system.prefix)
        .run()
        .await
}

#[tokio::test]
async fn it_says_whether_anybody_could_sign_in_where_files_of_serve_are_set() {
    let Some(kafka) = support::kafka().await else { return };
    let redis = redis_with(RedisKind::Single, &SAFE).await;
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("the folder can be written");
        path.display().to_string()
    };
    let (nobody, wrong) = (file("jwks.json", r#"{"keys": []}"#), file("wrong", "ann:123"));
    let ann = file("tokens", &format!("ann:{}\n", "0f".repeat(32)));
    let (jwks, tokens) = ("BUNDLEHOOK_JWT_JWKS", "BUNDLEHOOK_ADMIN_TOKENS");
    for (files, level, parts) in [
        (&[(jwks, &*nobody)][..], "fail", ["nobody could sign in", "`serve` does not start"]),
        (&[(jwks, &*nobody), (tokens, &*ann)], "ok", ["operators: 1", "keys of people's tokens: 0"]),
        (&[(tokens, &*wrong)], "fail", [&*wrong, "line 1 is wrong"]),
        (&[(tokens, "/nowhere/tokens")], "fail", ["/nowhere/tokens", "can't be read"]),
    ] {
        let launch = doctor(kafka.servers(), &redis.url(), "nothing-");
        let launch = files.iter().fold(launch, |launch, (name, file)| launch.env(name, *file));
        Report::of(&launch.run().await).says("sign-in", level, &parts);
    }
    let elsewhere = examine(kafka, &redis, "nothing-").await;
    assert!(elsewhere.checks.iter().all(|check| check["name"] != "sign-in"), "{elsewhere:#?}");
}

#[tokio::test]
async fn open_windows_and_parked_deliveries_are_shown_and_nothing_is_disturbed() {
    let dead = receiver(refuse());
    let webhooks = [
        webhook("at-once", "ws", &dead.url("/"), json!({})),
        webhook("daily", "ws", &dead.url("/"), json!({"granularity": "24h"})),
    ];
    // A day that does not end while the test runs.
    let system = system(3_600_000).env("BUNDLEHOOK_RETRY_SCHEDULE", "1h").start(&webhooks).await;
    let Some(system) = system else { return };
    system
        .publish(&[event("ws", "chat-a", "m-1"), event("ws", "chat-a", "m-2"), event("ws", "chat-b", "m-3")])
        .await;
    system.deliver.wait_sum("bundlehook_deliveries_parked{", 3.0).await;
    let mut seen = Value::Null;
    wait_until("all to be committed", LIMIT, async || {
        let finished = inspect(&system, &["--json"]).await;
        assert!(finished.status.success(), "{finished:?}");
        seen = serde_json::from_str(&finished.stdout).expect("it is JSON");
        seen["aggregate"]["partitions"][0]["metadata"]["none"] == 3
            && seen["deliver"]["partitions"][0]["committed"] == 3
    })
    .await;

    let aggregate = &seen["aggregate"]["partitions"][0];
    assert_eq!(seen["aggregate"]["members"], 1);
    assert_eq!((&aggregate["committed"], &aggregate["end"]), (&json!(0), &json!(3)), "{aggregate:#}");
    assert_eq!(aggregate["redis"]["applied"], 3);
    let open = &aggregate["redis"]["open"];
    assert_eq!(
        (&open[0]["windows"], &open[0]["messages"], &open[1]),
        (&json!(2), &json!(3), &Value::Null),
        "{open:#}"
    );
    let token = &aggregate["metadata"]["token"];
    assert_eq!((token, token), (&aggregate["redis"]["token"], &aggregate["redis"]["writer"]));
    let deliver = &seen["deliver"]["partitions"][0];
    assert_eq!(deliver["metadata"]["none"], "2/at-once");
    let parked = &deliver["redis"]["webhooks"][0];
    assert_eq!((&parked["webhook"], &parked["deliveries"]), (&json!("at-once"), &json!(3)), "{parked:#}");
    assert_eq!(parked["oldest"]["offset"], 0);
    assert!(system.deliver.sum("bundlehook_claims_total{").await < 1.5, "nobody was fenced");
    assert!(system.aggregate.sum("bundlehook_claims_total{").await < 1.5, "nobody was fenced");
    assert_eq!(
        support::members(system.kafka.servers(), &format!("{}bundlehook-deliver", system.prefix)).await,
        1
    );

    let tables = inspect(&system, &[]).await.stdout;
    for part in ["open windows\n", "parked deliveries\n", "0          at-once  3       0", "accepted"] {
        assert!(tables.contains(part), "`{part}` is not in {tables}");
    }
}

#[tokio::test]
async fn inspect_says_what_is_away() {
    let Some(kafka) = support::kafka().await else { return };
    let (prefix, redis) = (kafka.prefix(), redis(RedisKind::Single).await);
    let launch = || {
        support::process("inspect")
            .env("BUNDLEHOOK_KAFKA_BROKERS", kafka.servers())
            .env("BUNDLEHOOK_TOPIC_PREFIX", &prefix)
    };
    let finished = launch().env("BUNDLEHOOK_REDIS_URL", redis.url()).run().await;
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr.contains("`bundlehook topics` creates it"), "{finished:?}");

    topics(kafka, &prefix).await;
    redis.kill9();
    let finished =
        launch().env("BUNDLEHOOK_REDIS_URL", redis.url()).env("BUNDLEHOOK_REDIS_TIMEOUT", "1s").run().await;
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr.contains("redis can't be asked: Connection refused"), "{finished:?}");
}
