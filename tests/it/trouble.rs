//! Redis and Kafka in trouble: the processes pause, stay alive and go on by themselves; nothing is lost or repeated.

use std::time::Duration;

use redis::RedisResult;
use serde_json::json;

use crate::support::{
    Fault, LIMIT, Load, Proxy, RedisKind, System, event, message_ids, ok, proxy, receiver, redis_with,
    status, system, wait_until, webhook,
};

const FAILURES: &str = "bundlehook_redis_operation_failures_total";

/// Waits until both roles have met trouble that their log calls so.
async fn wait_met(system: &System, trouble: &str) {
    wait_until(&format!("the roles to meet `{trouble}`"), LIMIT, async || {
        [&system.aggregate, &system.deliver].iter().all(|role| role.process.stderr().contains(trouble))
    })
    .await;
}

/// Redis does not take writes or does not answer, in one way after the other, while messages come.
#[tokio::test]
async fn whatever_redis_suffers_the_roles_wait_and_go_on() {
    let load = Load::new();
    let persistent = ["--appendonly", "yes", "--appendfsync", "always", "--busy-reply-threshold", "100"];
    let slow_to_load = ["--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024"];
    let redis = redis_with(RedisKind::Single, &[&persistent[..], &slow_to_load].concat()).await;
    let network = proxy(redis.addr());
    let setup = system(2_000)
        .redis(redis)
        .env("BUNDLEHOOK_REDIS_URL", &format!("redis://{}", network.addr()))
        .env("BUNDLEHOOK_REDIS_TIMEOUT", "500ms")
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "1s");
    let Some(system) = setup.start(&load.webhooks()).await else { return };

    let count = load
        .run(&system, async {
            load.wait_more(20).await;
            refuse_writes(&system, &load).await;
            not_answer(&system, &load, &network).await;
            die(&system, &load).await;
        })
        .await;

    system.wait_done().await;
    load.assert_all(count, 0);
    for role in [&system.aggregate, &system.deliver] {
        assert!(role.process.get("/livez").await.is_ok_and(|(status, _)| status == 200));
        assert!(role.sum(FAILURES).await >= 1.0);
    }
}

async fn refuse_writes(system: &System, load: &Load) {
    // A failure changes the health of its webhook, and what follows is parked.
    load.leave().await;
    system.redis.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    wait_met(system, "ReadOnly").await;
    system.redis.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    load.wait_more(20).await;

    system.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    wait_met(system, "OOM").await;
    system.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    load.wait_more(20).await;
    load.come_back().await;
}

async fn not_answer(system: &System, load: &Load, network: &Proxy) {
    let endless = async {
        let killed: RedisResult<()> = system.redis.ask(0, &["EVAL", "while true do end", "0"]).await;
        killed.expect_err("it never ends by itself");
    };
    let kill = async {
        wait_met(system, "BUSY").await;
        system.redis.command::<()>(&["SCRIPT", "KILL"]).await;
    };
    tokio::join!(endless, kill);
    load.wait_more(20).await;

    network.set(Fault::Delay(Duration::from_millis(100))).await;
    load.wait_more(20).await;
    network.set(Fault::None).await;

    // What was asked for is carried out late, when others have gone on.
    let before = (system.aggregate.sum(FAILURES).await, system.deliver.sum(FAILURES).await);
    system.redis.sigstop();
    system.aggregate.wait_sum(FAILURES, before.0 + 1.0).await;
    system.redis.sigcont();
    load.wait_more(20).await;

    // It is carried out at once, but nobody is told.
    let before = system.aggregate.sum(FAILURES).await;
    network.set(Fault::Mute).await;
    system.aggregate.wait_sum(FAILURES, before + 1.0).await;
    network.set(Fault::Cut).await;
    network.set(Fault::None).await;
    load.wait_more(20).await;
}

async fn die(system: &System, load: &Load) {
    // So much that it takes seconds to be loaded, during which Redis says so.
    let much = "for n = 1, 30000 do redis.call('SET', 'much:' .. n, 'x') end";
    system.redis.command::<()>(&["EVAL", much, "0"]).await;
    system.redis.kill9();
    wait_met(system, "reset by peer").await;
    system.redis.restart().await;
    wait_met(system, "BusyLoading").await;
    load.wait_more(20).await;

    // What is written from now on is lost with the next death.
    system.redis.command::<()>(&["CONFIG", "SET", "appendonly", "no"]).await;
    load.wait_more(50).await;
    system.redis.kill9();
    system.redis.restart().await;
    load.wait_more(50).await;
}

/// A failover to a replica that lacks the last writes, as a restart from an older file: the owner's token is there, but
/// less is applied, and nothing comes after that would show it.
#[tokio::test]
async fn a_redis_that_went_backwards_is_noticed_by_a_closing_and_by_the_health_of_a_webhook() {
    let (taking, failing) = (receiver(ok()), receiver(status(500)));
    let webhooks = [
        webhook("taking", "ws-taking", &taking.url("/"), json!({"granularity": "1h"})),
        webhook("failing", "ws-failing", &failing.url("/"), json!({})),
    ];
    let setup = system(4_000).env("BUNDLEHOOK_RETRY_SCHEDULE", "200ms");
    let Some(mut system) = setup.start(&webhooks).await else { return };
    system.window_start(1).await;
    system.publish(&[event("ws-taking", "a", "1"), event("ws-failing", "c", "f")]).await;
    system.aggregate.wait_sum("bundlehook_events_accepted_total", 2.0).await;
    failing.wait_for(|requests| requests.len() == 2, "two failures").await;
    system.redis.command::<()>(&["SAVE"]).await;
    system.publish(&[event("ws-taking", "a", "2"), event("ws-taking", "b", "3")]).await;
    system.aggregate.wait_sum("bundlehook_events_accepted_total", 4.0).await;
    failing.wait_for(|requests| requests.len() >= 5, "more failures").await;

    system.redis.kill9();
    system.redis.restart().await;

    system.wait_committed("aggregate", "message-events").await;
    let bundles = taking.wait_for(|requests| requests.len() >= 2, "both bundles").await;
    let mut ids: Vec<_> = bundles.iter().map(message_ids).collect();
    ids.sort();
    assert_eq!(ids, [vec!["1", "2"], vec!["3"]]);
    let is_disabled = |record: &crate::support::Record| record.text().contains("\"kind\":\"disabled\"");
    let disabled = |records: &[crate::support::Record]| {
        records.iter().filter(|record| record.value.is_some()).any(is_disabled)
    };
    system.wait_records("webhook-states", disabled).await;
    let attempts = system.records("delivery-attempts").await;
    let of_failing = attempts
        .iter()
        .map(crate::support::Record::json)
        .filter(|attempt| attempt["webhook_id"] == "failing");
    let failures: Vec<_> = of_failing
        .filter(|attempt| attempt["counted"] == true)
        .filter_map(|attempt| attempt["failures"].as_u64())
        .collect();
    assert_eq!(failures, (1..=11).collect::<Vec<_>>());

    // That it is disabled is lost, too, and nobody remembers.
    let posts = failing.requests().len();
    system.redis.kill9();
    system.redis.restart().await;
    system.deliver.process.sigterm();
    system.deliver.process.wait_exit(LIMIT).await;
    system.restart("deliver").await;
    let slot = format!("{{{}wh:failing}}:health", system.prefix);
    wait_until("the health to be restored", LIMIT, async || {
        system.redis.command::<String>(&["GET", &slot]).await.contains("disabled")
    })
    .await;
    system.publish(&[event("ws-failing", "d", "g")]).await;
    system.wait_committed("deliver", "bundles").await;
    assert_eq!(failing.requests().len(), posts);
}
