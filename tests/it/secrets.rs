//! Secrets stay secret: planted ones are searched for in everything that the product writes.

use std::io::Write as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::support::{Answer, Finished, System, answer, event, process, receiver, system, webhook};

const SECRET: &str = "whsec_Y2FuYXJ5LXNlY3JldC1jYW5hcnktc2VjcmV0";
const HEADER: &str = "canary-header-0123456789";
const QUERY: &str = "canary-query-0123456789";
const TOPICS: [&str; 12] = [
    "message-events",
    "webhook-settings",
    "webhook-states",
    "webhook-health",
    "message-skips",
    "bundles",
    "waiting-deliveries",
    "delivery-attempts",
    "webhook-changes",
    "webhook-events",
    "notifications",
    "dead-letters",
];

fn keys() -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("there is room for a file");
    let key = BASE64_STANDARD.encode([42; 32]);
    writeln!(file, "test-1:{key}").expect("the file can be written");
    file
}

async fn publish(system: &System, settings: &[Value], keys: Option<&NamedTempFile>) -> Finished {
    let lines: Vec<_> = settings.iter().map(Value::to_string).collect();
    let launch = process("produce")
        .args(["--settings", "-"])
        .env("BUNDLEHOOK_KAFKA_BROKERS", system.kafka.servers())
        .env("BUNDLEHOOK_TOPIC_PREFIX", &system.prefix)
        .input(lines.join("\n"));
    match keys {
        Some(keys) => launch.env("BUNDLEHOOK_SEALING_KEYS", keys.path().to_string_lossy()).run().await,
        None => launch.run().await,
    }
}

#[tokio::test]
async fn planted_secrets_reach_the_endpoint_and_nothing_else() {
    // It sends everything back, and fails, so that there are retries, parked deliveries and a disabling.
    let echo = receiver(answer(|request| {
        let said: Vec<_> = request.headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        let token = request.header("x-token").unwrap_or_default();
        let target = format!("POST {} HTTP/1.1", request.path);
        let answer = Answer::status(500).header("x-echo", token).header("x-target", &target);
        answer.body(format!("{target}\n{}", said.join("\n")))
    }));
    let (keys, url) = (keys(), echo.url(&format!("/?token={QUERY}")));
    let setup = system(3_000)
        .env("BUNDLEHOOK_SEALING_KEYS", &keys.path().to_string_lossy())
        .env("BUNDLEHOOK_LOG", "info,bundlehook=trace");
    let Some(system) = setup.start(&[]).await else { return };
    let headers = json!({"authorization": format!("Bearer {HEADER}"), "x-token": HEADER});
    let settings = [webhook("wh", "ws", &url, json!({"secrets": [SECRET], "headers": headers}))];

    let refused = publish(&system, &settings, None).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("expected `--sealing-keys`"), "{}", refused.stderr);
    let published = publish(&system, &settings, Some(&keys)).await;
    assert!(published.status.success(), "{published:?}");
    system.publish(&[event("ws", "c", "1"), event("ws", "d", "2")]).await;
    let is_disabled = |records: &[crate::support::Record]| {
        records.iter().any(|record| record.value.is_some() && record.json()["kind"] == "disabled")
    };
    system.wait_records("webhook-states", is_disabled).await;

    let request = &echo.requests()[0];
    assert_eq!(request.header("authorization"), Some(&*format!("Bearer {HEADER}")));
    assert!(request.path.contains(QUERY) && request.header("webhook-signature").is_some());
    let genuine = standardwebhooks::Webhook::new(SECRET).expect("it is a secret");
    genuine.verify(&request.body, &request.headers).expect("it was signed with what was sealed");

    let mut written = vec![
        ("refused", format!("{refused:?}")),
        ("produce", format!("{published:?}")),
        ("aggregate's log", system.aggregate.process.stderr()),
        ("deliver's log", system.deliver.process.stderr()),
        ("aggregate's metrics", system.aggregate.process.metrics().await),
        ("deliver's metrics", system.deliver.process.metrics().await),
    ];
    for args in [
        &["webhook", "log", "wh", "--json"][..],
        &["webhook", "log", "wh"],
        &["webhook", "show", "wh", "--json"],
        &["webhook", "list"],
        &["inspect", "--json"],
        &["doctor"],
    ] {
        let finished = tool(&system, args, "true").await;
        assert!(!finished.stdout.is_empty(), "{args:?}: {finished:?}");
        written.push((args[0], format!("{finished:?}")));
    }
    for topic in TOPICS {
        let records = system.records(topic).await;
        let text = |bytes: &Option<Vec<u8>>| {
            String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned()
        };
        let all: Vec<_> = records.iter().map(|record| text(&record.value) + &format!("{record:?}")).collect();
        written.push((topic, all.join("\n")));
    }
    let keys: Vec<String> = system.redis.command(&["KEYS", "*"]).await;
    assert!(keys.iter().any(|key| key.ends_with(":log:ws")), "{keys:?}");
    for key in &keys {
        let dump: Vec<u8> = match &*system.redis.command::<String>(&["TYPE", key]).await {
            "list" => {
                system.redis.command::<Vec<String>>(&["LRANGE", key, "0", "-1"]).await.concat().into_bytes()
            }
            "hash" => system.redis.command::<Vec<Vec<u8>>>(&["HGETALL", key]).await.concat(),
            "string" => system.redis.command(&["GET", key]).await,
            "zset" => system.redis.command::<Vec<Vec<u8>>>(&["ZRANGE", key, "0", "-1"]).await.concat(),
            "set" => system.redis.command::<Vec<Vec<u8>>>(&["SMEMBERS", key]).await.concat(),
            other => panic!("`{key}` is a {other}: search it, too"),
        };
        written.push(("Redis", String::from_utf8_lossy(&dump).into_owned()));
    }
    for (place, text) in &written {
        for canary in [SECRET, SECRET.trim_start_matches("whsec_"), HEADER] {
            assert!(!text.contains(canary), "`{canary}` stands in {place}");
        }
        // The settings name the URL itself.
        assert!(*place == "webhook-settings" || !text.contains(QUERY), "`{QUERY}` stands in {place}");
    }
    let log = written.iter().find(|(place, _)| *place == "delivery-attempts").map(|(_, text)| text.clone());
    let log = log.expect("it was searched");
    for sent_back in ["x-echo", "x-target", "POST /?token=***", "authorization: "] {
        assert!(log.contains(sent_back), "`{sent_back}` was sent back and is there, masked: {log}");
    }
}

#[tokio::test]
async fn what_is_sealed_waits_for_its_key_and_nothing_is_sent_without_it() {
    let (keys, taking) = (keys(), receiver(crate::support::ok()));
    let Some(mut system) = system(3_000).start(&[]).await else { return };
    let settings = [webhook("wh", "ws", &taking.url("/"), json!({"secrets": [SECRET]}))];
    let published = publish(&system, &settings, Some(&keys)).await;
    assert!(published.status.success(), "{published:?}");

    system.publish(&[event("ws", "c", "1")]).await;
    let attempts = system.wait_records("delivery-attempts", |records| records.len() > 1).await;
    let attempt = attempts[0].json();
    let shown = ["counted", "failures", "response", "error"].map(|field| attempt[field].clone());
    let text = "could not be sent for a reason on our side; this does not count";
    assert_eq!(shown, [json!(false), json!(0), Value::Null, json!(text)]);
    let said = system.deliver.process.stderr();
    assert!(said.contains("is sealed with the key `test-1`, which is not among the sealing keys"), "{said}");
    assert!(taking.requests().is_empty(), "nothing is sent unsigned");

    system.deliver.process.sigkill();
    system.set("BUNDLEHOOK_SEALING_KEYS", &keys.path().to_string_lossy());
    system.restart("deliver").await;
    let requests = taking.wait_for(|seen| !seen.is_empty(), "the request").await;
    let genuine = standardwebhooks::Webhook::new(SECRET).expect("it is a secret");
    genuine.verify(&requests[0].body, &requests[0].headers).expect("it was signed with what was sealed");
    system.wait_delivered().await;
    assert_eq!(taking.requests().len(), 1);
}

/// Runs a tool with what the roles have.
async fn tool(system: &System, args: &[&str], required: &str) -> Finished {
    let launch = process(args[0]).args(args[1..].iter().copied());
    launch
        .env("BUNDLEHOOK_KAFKA_BROKERS", system.kafka.servers())
        .env("BUNDLEHOOK_REDIS_URL", system.redis.url())
        .env("BUNDLEHOOK_TOPIC_PREFIX", &system.prefix)
        .env("BUNDLEHOOK_REQUIRE_SEALED", required)
        .run()
        .await
}

#[tokio::test]
async fn plain_secrets_from_upstream_are_warned_of_or_refused() {
    let echo = receiver(crate::support::ok());
    let plain = webhook("wh", "ws", &echo.url("/"), json!({"headers": {"x-token": HEADER}}));
    for (required, expected) in
        [("false", "settings hold secrets in the clear"), ("true", "are in the clear, expected")]
    {
        let setup = system(3_000).env("BUNDLEHOOK_REQUIRE_SEALED", required);
        let Some(system) = setup.start(&[]).await else { return };
        system.settings(std::slice::from_ref(&plain)).await;
        system.settings_count().await;
        if required == "true" {
            let dead = system.wait_records("dead-letters", |records| !records.is_empty()).await;
            assert!(dead[0].header("detail").is_some_and(|detail| detail.contains(expected)));
            assert_eq!(dead[0].json()["headers"], json!({"x-token": "***"}));
            assert_eq!(dead[0].json()["url"], echo.url("/"), "the rest is there");
            assert_eq!(tool(&system, &["webhook", "show", "wh"], required).await.status.code(), Some(66));
            assert_eq!(tool(&system, &["webhook", "disable", "wh"], required).await.status.code(), Some(66));
            let found = tool(&system, &["doctor"], required).await.stdout;
            assert!(found.contains(expected) && !found.contains(HEADER), "{found}");
        } else {
            system.publish(&[event("ws", "c", "1")]).await;
            echo.wait_for(|seen| !seen.is_empty(), "the request").await;
            assert!(system.deliver.process.stderr().contains(expected));
            assert!(tool(&system, &["webhook", "disable", "wh"], required).await.status.success());
        }
        assert!(!system.deliver.process.stderr().contains(HEADER));
    }
    assert_eq!(echo.requests().len(), 1);
}
