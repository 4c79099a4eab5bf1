//! Secrets stay secret: planted ones are searched for in everything that the product writes.

mod places;

use std::io::Write as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use self::places::Written;
use crate::mails::notify;
use crate::support::{
    Answer, Finished, System, answer, event, mail_server, process, receiver, system, token, webhook,
};

pub const SECRET: &str = "whsec_Y2FuYXJ5LXNlY3JldC1jYW5hcnktc2VjcmV0";
const HEADER: &str = "canary-header-0123456789";
const QUERY: &str = "canary-query-0123456789";

/// A file with one key.
pub fn keys() -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("there is room for a file");
    let key = BASE64_STANDARD.encode([42; 32]);
    writeln!(file, "test-1:{key}").expect("the file can be written");
    file
}

/// Publishes settings, sealed if there are keys.
pub async fn publish(system: &System, settings: &[Value], keys: Option<&NamedTempFile>) -> Finished {
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
    // It sends everything back, and fails, so that there are retries, parked deliveries, a disabling and e-mails.
    let echo = receiver(answer(|request| {
        let said: Vec<_> = request.headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        let token = request.header("x-token").unwrap_or_default();
        let target = format!("POST {} HTTP/1.1", request.path);
        let answer = Answer::status(500).header("x-echo", token).header("x-target", &target);
        answer.body(format!("{target}\n{}", said.join("\n")))
    }));
    let (keys, url) = (keys(), echo.url(&format!("/?token={QUERY}")));
    let keys_path = keys.path().to_string_lossy().into_owned();
    let setup = system(3_000)
        .env("BUNDLEHOOK_SEALING_KEYS", &keys_path)
        .env("BUNDLEHOOK_LOG", "info,bundlehook=trace");
    let Some(system) = setup.start(&[]).await else { return };
    let server = mail_server().await;
    let notify = notify(&system, &server, &[]).await;
    let console = system.console(&[("BUNDLEHOOK_SEALING_KEYS", &keys_path)]).await;
    let told = console.listen(&token("ws", "editor")).await;
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

    let mut written = Written::default();
    let rotated = written.edits(&console, &settings[0], [SECRET, HEADER]).await;
    server.wait_for(3).await;
    told.wait_for("event: attempt").await;
    written.note("refused", format!("{refused:?}"));
    written.note("produce", format!("{published:?}"));
    written.note("events", told.text());
    written.mails(&server);
    let roles = [&system.aggregate.process, &system.deliver.process, &notify, &console.process];
    for (name, process) in ["aggregate", "deliver", "notify", "serve"].into_iter().zip(roles) {
        written.process(name, process).await;
    }
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
        written.note(&args.join(" "), format!("{finished:?}"));
    }
    written.topics(&system).await;
    written.redis(&system).await;
    written.console(&console).await;

    for canary in [SECRET, SECRET.trim_start_matches("whsec_"), HEADER, &*rotated] {
        written.assert_nowhere(canary, "");
    }
    // The settings name the URL itself.
    written.assert_nowhere(QUERY, "webhook-settings");
    let log = written.of("delivery-attempts");
    for sent_back in ["x-echo", "x-target", "POST /?token=***", "authorization: "] {
        assert!(log.contains(sent_back), "`{sent_back}` was sent back and is there, masked: {log}");
    }
}

#[tokio::test]
async fn what_is_sealed_waits_for_its_key_and_nothing_is_sent_without_it() {
    let (keys, taking) = (keys(), receiver(crate::support::ok()));
    let Some(mut system) = system(3_000).start(&[]).await else { return };
    let settings = [webhook("wh", "ws", &taking.url("/"), json!({"secrets": [SECRET]}))];
    let console = system.console(&[("BUNDLEHOOK_SEALING_KEYS", "")]).await;
    for secret in [json!({"secrets": [SECRET]}), json!({"headers": {"x-token": HEADER}})] {
        let mut new = json!({"url": taking.url("/")});
        new.as_object_mut().expect("it is one").extend(secret.as_object().expect("it is one").clone());
        let refused = console.call("POST", "/api/v1/webhooks", &token("ws", "editor"), &new).await;
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert!(refused.text().contains("there are no sealing keys (`BUNDLEHOOK_SEALING_KEYS`)"));
    }
    assert!(system.records("webhook-settings").await.is_empty(), "nothing is stored in the clear");
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
